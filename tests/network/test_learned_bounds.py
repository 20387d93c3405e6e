"""Bounds between which parameters learn: every text of the equations must have a value all the way from one to the other."""

import numpy as np
import pytest
from brian2 import ms

import localplast as lp
from localplast import surrogate
from localplast.models import leaky_readout, lif
from localplast.rules import bptt


def neuron(equations, **options):
    return lp.NeuronModel("cell", equations, **{"parameters": {"tau": 5 * ms}, "output": "v", **options})


def learnt(parameters=None, **trainable):
    rec = lp.Population(4, lif(), parameters or {}, trainable=trainable)
    return lp.Network(
        dt=1 * ms, cues=lp.Input(3), rec=rec, out=lp.Population(2, leaky_readout()),
        projections=[lp.Projection("cues", "rec"), lp.Projection("rec", "out")],
    )  # fmt: skip


def dividing(term, low=None, high=None, more=""):
    """A network with a neuron that has a ``term`` with a gain, which learns between ``low`` and ``high``."""
    model = neuron(f"dv/dt = -{term}/tau : 1{more}", parameters={"tau": 5 * ms, "gain": 1.0})
    return lp.Network(dt=1 * ms, out=lp.Population(2, model, trainable={"gain": (low, high)}))


def two(term, *, more="", sent=None, given=None, **learning):
    """A network with a neuron that has a ``term`` with the gains ``a = 2`` and ``b = 1``, learned between bounds."""
    blocks = {name: learning.pop(name) for name in ("reset", "threshold", "mismatch") if name in learning}
    if "reset" in blocks:
        blocks["threshold"] = "v > 1"
    if "threshold" in blocks:
        blocks |= {"surrogate": surrogate.triangle(1.0), "reset": blocks.get("reset", "v = 0")}
    model = neuron(
        f"dv/dt = -{term}/tau : 1\n{more}", parameters={"tau": 5 * ms, "a": 2.0, "b": 1.0}, method="euler", **blocks
    )
    projections = [lp.Projection("cell", "out", output=sent, target="I")] if sent else []
    out = neuron("dv/dt = (I - v)/tau : 1\nI : 1")
    cell = lp.Population(3, model, trainable=learning, parameters=given or {})
    return lp.Network(dt=1 * ms, cell=cell, out=lp.Population(2, out), projections=projections)


def met(b):
    net = two("v/(a - b)")
    return net.check_values(net.draw(0).replace_weights({}, {"cell.a": np.ones(3), "cell.b": np.array(b)}))


NET, LIMITED = learnt(), learnt(tau_mem=(5 * ms, 50 * ms))
TASK = lp.Task.generated("two", lambda rng, n: trials(n))


def trials(count=2):
    rng = np.random.default_rng(0)
    return lp.Trials({"cues": rng.random((count, 12, 3)) < 0.3}, rng.integers(0, 2, count))


def valued(**parameters):
    """Values of the network with other parameters of its neurons."""
    return LIMITED.draw(0).replace_weights({}, {f"rec.{name}": np.array(value) for name, value in parameters.items()})


def learn_from(rate=1e-3, **parameters):
    optimiser = lp.adam(1e-3).with_rates(**{"rec.tau_mem": rate})
    options = {"rule": bptt(), "optimiser": optimiser, "updates": 2, "backend": "torch"}
    return lp.run(LIMITED, TASK, values=valued(**parameters), **options)["learned"]["rec.tau_mem"].item()


REFUSED = {
    "bounds of a parameter": (lambda: learnt(tau_mem=(50 * ms, 5 * ms)), "no value lies within the bounds .* lowest comes first"),
    "time constant that may learn to be zero": (
        lambda: learnt(tau_mem=(0 * ms, 50 * ms)), "divides by tau_mem, which may learn",
    ),
    "time constant without a lowest value": (
        lambda: learnt(tau_mem=(None, 50 * ms)),
        r"'rec', trainable 'tau_mem': .* -inf and 0.05 .* such as \(5\*ms, None\)",
    ),
    "time constant that may learn to be negative": (
        lambda: learnt(tau_mem=(-9 * ms, -1 * ms)), "a lowest time above zero",
    ),
    "gain that may learn to be zero": (
        lambda: dividing("v/gain", -1.0, 1.0), r"'gain': .* by gain.* such as \(0.1, None\)",
    ),
    "gain below a power": (lambda: dividing("v*gain**-1"), "'gain': .* divides by gain"),
    "gain below a root": (lambda: dividing("v/(2*sqrt(gain))"), "'gain': .* divides by gain"),
    "gain in a subexpression": (
        lambda: dividing("v/twice", 0.0, None, "\ntwice = 2*gain : 1"), "'gain': .* divides by gain",
    ),
    "gain below a statement": (lambda: two("v", reset="v /= a", a=(-1, 1)), "'a': the model divides by a"),
    "gain below a remainder": (lambda: two("v % a", a=(0, 1)), "'a': the model divides by a"),
    "difference of what may meet": (
        lambda: two("v/(a - b)", a=(0.5, 3), b=(1, 4)),
        "'cell': cell divides by a - b, which may learn to be zero within the bounds of a and b; give bounds that rule",
    ),
    "difference of what may meet what stays": (
        lambda: two("v/(a - b)", a=(0.5, None)), "'cell': .* a - b, .* within the bounds of a;",
    ),
    "difference in a subexpression": (
        lambda: two("v/gap", more="gap = 2*(a - b) : 1", a=(0.5, 3), b=(1, 4)), "divides by gap, which may learn to be",
    ),
    "difference below a power": (lambda: two("v*(a - b)**-2", a=(0.5, 3)), "divides by a - b, which may"),
    "difference in a threshold": (
        lambda: two("v", threshold="v/(a - b) > 1", a=(None, None)), "divides by a - b, which may learn",
    ),
    "gain in a threshold": (lambda: two("v", threshold="v/a > 1", a=(-1, 2)), "divides by a, which may learn"),
    "difference in what is learned from": (
        lambda: two("v", mismatch={"I": lp.Mismatch("v/(a - b)")}, more="I : 1", a=(0, 5)), "divides by a - b, which",
    ),
    "root of what may be negative": (
        lambda: two("v*sqrt(a)", a=(-1, 5)), "takes the root of a, which may learn to be negative",
    ),
    "power of what may be negative": (
        lambda: two("v*(a - b)**1.5", a=(0.5, 5)), "takes the root of a - b, which may learn to be negative",
    ),
    "root of a difference": (lambda: two("v*sqrt(a - b)", a=(0, 5)), "takes the root of a - b, which may"),
    "logarithm of what may be nothing": (
        lambda: two("v*log(a)", a=(0, 5)), "the logarithm of a, which may learn to be zero or negative within .* a;",
    ),
    "output that divides by a gain": (
        lambda: two("v", sent="v/a", a=(-1, 5)), "'cell_out', output: cell divides by a, which may learn to be zero",
    ),
    "output that divides by a difference": (
        lambda: two("v", sent="v/(a - b)", a=(1, 5)), "'cell_out', output: .* a - b, which may",
    ),
    "output that divides by nothing": (
        lambda: two("v", sent="v/(a - 2*b)"), r"output: cell divides by a - 2 \* b, which is zero; change a or b",
    ),
    "values that divide by nothing": (lambda: met(1.0), "values of .* 'cell': cell divides by a - b, which is zero"),
    "one neuron that divides by nothing": (
        lambda: two("v/(a - b)", given={"a": [2.0, 1.0, 3.0]}), "'cell': .* a - b, which is zero",
    ),
    "time constant that starts below its bounds": (
        lambda: learnt(tau_mem=(30 * ms, None)), "'tau_mem': it starts from 0.02, not",
    ),
    "time constants that start above their bounds": (
        lambda: learnt({"tau_mem": [5, 5, 60, 5] * ms}, tau_mem=(1 * ms, 50 * ms)),
        "it starts from 0.06, not .* 0.001 and 0.05",
    ),
    "threshold beyond its bounds": (lambda: learnt(v_th=(0.1, 0.5)), "'v_th': it starts from 1, not within its bounds"),
    "values of parameters beyond bounds": (
        lambda: learn_from(tau_mem=0.06), "values of population 'rec', .*starts from 0.06",
    ),
    "values with a time constant of nothing": (
        lambda: learn_from(tau_mem=0.0), "trainable 'tau_mem': it starts from 0, not",
    ),
    "a simulation with a negative time constant": (
        lambda: lp.run(NET, trials(), values=valued(tau_mem=-0.01)), "values of .* 'rec': .* above zero",
    ),
    "a gradient with a negative refractory period": (
        lambda: lp.gradient(NET, trials(), bptt(), values=valued(tau_ref=-0.001)),
        "values of .*: the refractory .* is negative",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_bounds_beyond_which_nothing_may_learn_are_asked_for(case):
    make, message = REFUSED[case]
    with pytest.raises(lp.LocalplastError, match=f"(?s){message}"):
        make()


@pytest.mark.parametrize("term, options", [
    ("v/(a - b)", {"a": (1.5, 3), "b": (0, 1.4)}), ("v/(a + b)", {"a": (0, None), "b": (0.1, None)}),
    ("v/(a*a + b)", {"a": (None, None)}), ("v/(a*a - a + b)", {"a": (-5, 5)}), ("v/exp(a)", {"a": (None, None)}),
    ("v*sqrt(a)", {"a": (0, 5)}), ("v*log(a + b)", {"a": (-0.9, 5)}), ("v*a**2", {"a": (-5, 5)}),
    ("v/(1 + abs(a))", {"a": (None, None)}), ("v/(v + a)", {"a": (None, None)}), ("v*sqrt(a*v)", {"a": (-1, 2)}),
    ("v/(a - b)", {"given": {"a": [2.0, 3.0, 4.0]}}), ("v % a", {"a": (0.1, None)}), ("v*a**-0.5", {"a": (0.1, None)}),
])  # fmt: skip
def test_bounds_under_which_every_text_has_a_value_are_taken(term, options):
    """And what depends on a variable, of which nobody knows before it runs."""
    assert two(term, **options).nodes["cell"].size == 3


def test_what_begins_at_a_bound_or_keeps_its_place_learns():
    assert learn_from(tau_mem=0.05) <= 0.05 and learn_from(rate=0, tau_mem=0.06) == 0.06
    assert dividing("v/gain", 0.5).limits("out.gain") == (0.5, np.inf)
    assert dividing("v*gain").trainable == dividing("v/exp(gain)").trainable == ("out.gain",)
