"""docs/rules.md holds what the rules say of themselves, and a rule of a user's own is as good as one that ships.

``python tests/rules/test_table.py`` writes the table anew.
"""

import re
from pathlib import Path

import numpy as np
import pytest
from brian2 import ms

import localplast as lp
from localplast import rules
from localplast.backends.brian2.audit import audit_text
from localplast.errors import UnsupportedError
from localplast.learning.eligibility import Derived
from localplast.models import alif, cuba_lif, leaky_readout, lif
from localplast.network import Input, Network, Population, Projection, normal
from localplast.program.learn import plan
from localplast.program.locality import audit, storage
from localplast.show.examples import sample
from localplast.task import Trials
from localplast.task.loss import mse

DOCS = Path(__file__).parents[2] / "docs"
HEAD = "| rule | eligibility | filter | signal | BPTT without the edges | per synapse: LIF, ALIF, CUBA | local | reference |"
MODELS = (lif, alif, cuba_lif)


def network(model):
    weight = normal(1 * lp.mV) if model.name == "cuba_lif" else normal(1.5, mean=0.4)
    return Network(
        dt=1 * ms, cues=Input(4), rec=Population(5, model), out=Population(2, leaky_readout()),
        projections=[Projection("cues", "rec", weight=weight), Projection("rec", "out")],
    )  # fmt: skip


def made(name):
    return rules.feedback_alignment(rules.eprop()) if name == "feedback_alignment" else getattr(rules, name)()


def eligibility(rule):
    """The first part in words."""
    part = rule.eligibility
    if type(part) is not Derived:
        return f"`{type(part).__name__}`"
    words = [word for word, said in (
        ("with the reset", part.reset), ("without adaptation", not part.adaptation), ("without memory", not part.memory),
        ("never refractory", getattr(part, "free", False)),
    ) if said]  # fmt: skip
    return ", ".join(["derived", *words])


def numbers(rule):
    """Traces per synapse on the three neurons; a dash where the rule refuses one."""
    found = []
    for model in MODELS:
        net = network(model())
        try:
            found.append(str(len(storage(plan(net, rule, mse()), net, "cues_rec").synapse)))
        except UnsupportedError:
            found.append("-")
    return ", ".join(found)


def row(name):
    rule, net = made(name), network(lif()) if made(name).signal.hears_errors else sample("dendrites")
    cut = ", ".join(sorted(rule.cut)) or "none"
    if not rule.local:
        how = "derivatives carried forward" if getattr(rule, "form", None) == "forward" else "automatic differentiation"
        return f"| `{name}` | none | none | {how} | {cut} | see `describe` | no | {rule.reference} |"
    strict = "yes" if audit(plan(net, rule, mse()), net).strict else "but for weight transport"
    parts = f"{eligibility(rule)} | `{type(rule.filter).__name__}` | `{type(rule.signal).__name__}`, {rule.feedback}"
    return f"| `{name}` | {parts} | {cut} | {numbers(rule)} | {strict} | {rule.reference} |"


def table():
    return "\n".join([HEAD, "|---" * HEAD.count(" | ") + "|---|", *(row(name) for name in rules.__all__)])


def written():
    """The table of the document."""
    return re.search(rf"{re.escape(HEAD)}\n(?:\|.*\n?)*", (DOCS / "rules.md").read_text())[0].strip()


def test_the_table_is_what_the_rules_say():
    assert written().splitlines() == table().splitlines(), "run: python tests/rules/test_table.py"


# --- the example of docs/extending.md ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def patient():
    block = next(
        b
        for b in re.findall(r"```python\n(.*?)```", (DOCS / "extending.md").read_text(), flags=re.S)
        if "def patient" in b
    )
    assert len(block.splitlines()) < 30
    names = {}
    exec(compile(block, "docs/extending.md", "exec"), names)  # our own text, in our own repository
    return names["patient"]


def trials():
    rng = np.random.default_rng(2)
    return Trials({"cues": rng.random((2, 60, 4)) < 0.3}, rng.standard_normal((2, 60, 2)), weight=np.full(60, 0.01))


def gradient(rule, backend):
    return lp.gradient(network(alif()), trials(), rule, loss=mse(), backend=backend, seed=1)["cues_rec"][
        "gradient"
    ].values


def test_it_is_eprop_where_it_fades_as_the_readout_does(patient):
    tau = leaky_readout().parameters["tau_out"]
    expected = gradient(rules.eprop(), "torch")
    assert np.abs(expected).max() > 1e-6
    for backend in ("torch", "brian2"):
        np.testing.assert_allclose(
            gradient(patient(tau=tau, feedback="symmetric"), backend), expected, rtol=1e-8, atol=1e-12
        )
    other = gradient(patient(tau=tau / 2, feedback="symmetric"), "torch")
    assert np.abs(other - expected).max() > 0.05 * np.abs(expected).max()


def test_it_is_local_and_says_what_it_stores(patient):
    net = network(alif())
    learned = plan(net, patient(), mse(), lp.adam(1e-3))
    assert audit(learned, net).check().strict and audit_text(net, learned) == ()
    assert patient().describe(net).storage["cues_rec"].synapse == ("eps_a", "fading")
    assert "fading: a filter of the eligibility" in str(patient().describe(net))


if __name__ == "__main__":
    path = DOCS / "rules.md"
    path.write_text(path.read_text().replace(written(), table()))
