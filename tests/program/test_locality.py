"""The locality audit: every local rule passes, on the plan and on the text that Brian2 runs; planted cheats do not."""

import dataclasses
import functools

import brian2 as b2
import numpy as np
import pytest
from brian2 import ms, mV
from brian2.codegen.runtime.cython_rt.cython_rt import CythonCodeObject

from localplast import rules
from localplast.backends.brian2.audit import audit_text, example_trials, text_violations, texts_of
from localplast.backends.brian2.build import build
from localplast.backends.brian2.session import codegen
from localplast.backends.brian2.timing import Block, longest_delay
from localplast.backends.torch import gradient as torch_backend
from localplast.equations.language import symbol
from localplast.errors import UnsupportedError
from localplast.learning.eligibility import Derived
from localplast.learning.filters import AsReadout, Smoothing
from localplast.learning.optimise import adam, momentum, sgd
from localplast.learning.signal import Broadcast
from localplast.models import alif, cuba_lif, leaky_readout, lif
from localplast.network import Input, Network, Population, Projection, axonal, normal, synaptic
from localplast.neuron import NeuronModel
from localplast.neuron.surrogate import triangle
from localplast.program.learn import plan
from localplast.program.locality import LocalityError, audit, reads, storage
from localplast.show.examples import sample
from localplast.task import Trials
from localplast.task.loss import cross_entropy, mse, rate, reward

MODELS = {"lif": lif, "alif": alif, "cuba": cuba_lif}
LOCAL = [n for n in rules.__all__ if n != "feedback_alignment" and getattr(rules, n)().local]
NETWORKS = ["lif", "alif", "cuba", "deep", "deep alif", "local", "spikes", "axonal", "synaptic"]


@functools.cache
def network(kind):
    if kind in ("deep", "dendrites", "local", "spikes"):
        return sample(kind)
    if kind == "deep alif":
        layers = {
            "cues": Input(4),
            "a": Population(5, alif()),
            "b": Population(5, alif()),
            "out": Population(2, leaky_readout()),
        }
        return Network(
            dt=1 * ms, **layers, projections=[Projection("cues", "a"), Projection("a", "b"), Projection("b", "out")]
        )
    model = MODELS.get(kind, alif)()
    strength = normal(1 * mV if kind == "cuba" else 1.0)
    delay = {"axonal": axonal(np.arange(5) * ms), "synaptic": synaptic(np.arange(25).reshape(5, 5) % 4 * ms)}.get(kind)
    return Network(
        dt=1 * ms, cues=Input(4), rec=Population(5, model), out=Population(2, leaky_readout()),
        projections=[
            Projection("cues", "rec", weight=strength), Projection("rec", "rec", weight=strength, delay=delay), Projection("rec", "out"),
        ],
    )  # fmt: skip


def planned(rule, kind="alif", loss=None, optimiser=None):
    """A plan; where symmetric feedback has no path, with random feedback."""
    net, loss, optimiser = network(kind), loss or mse(), optimiser or adam(1e-3)
    try:
        return plan(net, rule, loss, optimiser), net
    except UnsupportedError:
        if not rule.signal.hears_errors:
            raise
        return plan(net, rules.feedback_alignment(rule), loss, optimiser), net


#: networks that some rules refuse: two paths of an error, a readout that spikes show in late, spikes that arrive one by
#: one
SPECIAL = ("cuba", "local", "spikes", "synaptic")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", NETWORKS)
def test_every_local_rule_is_local(kind):
    """On the plan, and (where networks are special) on the text that Brian2 runs."""
    audited = []
    for name in LOCAL:
        try:
            made, net = planned(getattr(rules, name)(), kind)
        except UnsupportedError:
            assert kind in SPECIAL or name == "dendritic", name
            continue
        audited.append(name)
        assert audit(made, net).check().local, name
        for projection in made.synapses:
            assert reads(made, net, projection).foreign == (), name
        if kind not in ("lif", "alif", "deep"):  # the special ones hold all that these do
            assert audit_text(net, made) == (), name
    assert {"eprop", "decolle", "superspike"} <= set(audited)


def test_learning_with_dendrites_is_local():
    made, net = planned(rules.dendritic(), "dendrites")
    assert audit(made, net).check().strict and audit_text(net, made) == ()
    found = reads(made, net, "cues_rec")
    assert found.third == ("mismatch_v_bas",) and found.foreign == () and found.post == ()
    prying = dataclasses.replace(made, synapses={**made.synapses, "cues_rec": dataclasses.replace(
        made.synapses["cues_rec"], program=(("gradient", symbol("gradient") + symbol("mismatch_v_api") * symbol("u_top")),)
    )})  # fmt: skip
    assert not audit(prying, net).local


@pytest.mark.parametrize(
    "rule", [rules.eprop(feedback="learned", update="step"), rules.eprop(feedback="sign", update=3 * ms)]
)
def test_updates_within_a_trial_and_other_feedback_are_local(rule):
    for kind in ("alif", "axonal"):
        made, net = planned(rule, kind, cross_entropy(), momentum(1e-3).clipped(1.0))
        assert audit(made, net).check().local and audit_text(net, made) == ()


def test_the_rate_regulariser_is_local():
    made, net = planned(rules.eprop(), "alif", mse() + rate(10, 1.0))
    assert audit(made, net).check() and audit_text(net, made) == ()
    assert "spike_count" in reads(made, net, "cues_rec").post
    assert any("regulariser" in note for note in audit(made, net).notes)


def test_running_rates_parameters_and_delays_are_local():
    net = network("axonal")
    cases = [
        plan(net, rules.eprop(update="step"), mse() + rate(10, 1.0, window=100 * ms), sgd(0.1)),
        plan(net, rules.eprop(), mse(), trainable=("rec.tau_mem", "rec.beta")),
        plan(net, rules.eprop(), mse(), trainable=("rec_rec.delay",)),
    ]
    for made in cases:
        assert audit(made, net).check() and audit_text(net, made) == ()
    assert "activity" in reads(cases[0], net, "cues_rec").post
    assert "w" in reads(cases[2], net, "rec_rec").own


def test_reward_is_one_more_third_factor():
    net = Network(
        dt=1 * ms, cues=Input(4), dice=Input(2, "currents"), rec=Population(5, alif()),
        policy=Population(2, leaky_readout()), value=Population(1, leaky_readout()),
        projections=[Projection("cues", "rec"), Projection("rec", "policy"), Projection("rec", "value")],
    )  # fmt: skip
    made = plan(net, rules.eprop(feedback="random"), reward(2 * ms))
    found = audit(made, net).check()
    assert found.strict and any("temporal difference" in note for note in found.notes)
    assert reads(made, net, "cues_rec").third == ("L", "td")
    assert "temporal difference" in str(made.rule.describe(net, reward(2 * ms)))
    trials = dataclasses.replace(example_trials(net), target=np.zeros(1, int))
    built = build(net, net.draw(0), Block(1, trials.steps, 0), trials, plan=made)
    b2.Network(*built.objects.values())
    assert text_violations(built, made) == ()


def test_what_a_synapse_reads():
    made, net = planned(rules.eprop(), "alif", optimiser=sgd(0.1))
    found = reads(made, net, "rec_rec")
    assert found.pre == ("eps_v",) and found.post == ("psi",) and found.third == ("L",)
    assert {"eps_a", "filtered_v", "gradient", "w"} <= set(found.own)
    assert reads(made, net, "rec_out").third == ("error",)


# --- in a strict sense ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "kind", "strict"),
    [
        (rules.eprop(), "alif", False),
        (rules.eprop(feedback="sign"), "alif", False),
        (rules.eprop(feedback="random"), "alif", True),
        (rules.eprop(feedback="learned"), "alif", True),
        (rules.ottt(), "deep", False),
        (rules.ottt(feedback="random"), "deep", True),
        (rules.drtp(), "deep", True),
        (rules.decolle(), "local", True),  # the weights of its readouts never learn
    ],
    ids=lambda x: getattr(x, "name", x),
)
def test_weight_transport_is_declared(rule, kind, strict):
    made, net = planned(rule, kind)
    found = audit(made, net)
    assert found.local and found.strict is strict
    assert all("weight transport" in reason for reason in found.reasons)
    assert bool(found.reasons) is not strict


def test_a_signal_says_what_eligibilities_are_multiplied_with():
    made, _ = planned(rules.eprop(feedback="random"))
    assert {name: s.third for name, s in made.synapses.items()} == {"cues_rec": "L", "rec_rec": "L", "rec_out": "error"}
    net = sample("dendrites")
    made = plan(net, rules.dendritic(), mse())
    assert {n: s.third for n, s in made.synapses.items()} == {p.name: f"mismatch_{p.target}" for p in net.plastic}


def test_a_softmax_is_declared():
    made, net = planned(rules.eprop(feedback="random"), "alif", cross_entropy())
    assert any("softmax" in note for note in audit(made, net).notes)


# --- cheats in the plan -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Cheat(Derived):
    """An eligibility times a variable that it should not know."""

    name: str = ""

    def of(self, net, projection):
        found = super().of(net, projection)
        if net.nodes[projection.post].model.spiking:
            lines = [(n, e * symbol(self.name) if n == "elig" else e) for n, e in found.synapse]
            return dataclasses.replace(found, synapse=tuple(lines))
        return found


@dataclasses.dataclass(frozen=True)
class CheatingFilter:
    """A filter that uses what it should not know."""

    name: str

    def of(self, net, readout, path=None):
        honest = AsReadout().of(net, readout, path)
        return Smoothing(honest.program, honest.state, honest.trace * symbol(self.name))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("v_other", "v_other"),
        ("out_v", "belongs to 'out'"),
        ("w_rec_out", "belongs to the projection 'rec_out'"),
        ("loss", "whole readout"),
        ("teacher", "whole readout"),
        ("error", "does not receive"),
        ("eps_v_rec_rec", "belongs to the projection 'rec_rec'"),
        ("v_next", "v_next"),
        ("i", "'i'"),
        ("t", "'t'"),
    ],
)
@pytest.mark.parametrize("part", ["eligibility", "filter"])
def test_cheats_in_a_part(name, words, part):
    rule = dataclasses.replace(
        rules.eprop(), **{part: Cheat(name=name) if part == "eligibility" else CheatingFilter(name)}
    )
    made, net = planned(rule)
    found = audit(made, net)
    assert not found.local and not found.strict
    assert any(words in v for v in found.violations), found.violations
    assert name in reads(made, net, "cues_rec").foreign
    with pytest.raises(LocalityError, match="not local"):
        found.check()
    assert "NOT LOCAL" in str(rule.describe(net))


def changed(made, where, name, program):
    """``made`` with one program of one projection or population replaced."""
    if where == "synapse":
        return dataclasses.replace(
            made, synapses={**made.synapses, name: dataclasses.replace(made.synapses[name], program=program)}
        )
    if where == "pre":
        synapse = made.synapses[name]
        synapse = dataclasses.replace(synapse, eligibility=dataclasses.replace(synapse.eligibility, pre=program))
        return dataclasses.replace(made, synapses={**made.synapses, name: synapse})
    neuron = dataclasses.replace(made.neurons[name], **{where: program})
    return dataclasses.replace(made, neurons={**made.neurons, name: neuron})


def test_the_future_is_not_read():
    """A program that uses the eligibility before it is computed, where none is stored."""
    made, net = planned(rules.eprop())
    program = made.synapses["cues_rec"].program
    found = audit(changed(made, "synapse", "cues_rec", (program[-1], *program[:-1])), net)
    assert found.local  # the filtered trace of the past step is stored: late, but no cheat
    early = (("gradient", symbol("gradient") + symbol("elig")), *program[:-1])
    assert any("future" in v for v in audit(changed(made, "synapse", "cues_rec", early), net).violations)


@pytest.mark.parametrize(
    ("where", "owner", "expression"),
    [
        ("pre", "cues_rec", "psi"), ("pre", "cues_rec", "w"), ("pre", "rec_rec", "L"), ("pre", "rec_rec", "v"),
        ("after", "rec", "L"), ("after", "rec", "z"), ("after", "rec", "w"), ("after", "rec", "v_out"), ("after", "rec", "loss"),
        ("before", "rec", "psi"), ("end", "rec", "error"), ("end", "out", "L"), ("before", "rec", "eps_v"),
    ],
)  # fmt: skip
def test_cheats_in_neurons(where, owner, expression):
    made, net = planned(rules.eprop())
    old = made.synapses[owner].eligibility.pre if where == "pre" else getattr(made.neurons[owner], where)
    found = audit(changed(made, where, owner, (*old, ("spy", symbol(expression)))), net)
    assert len(found.violations) == 1 and repr(expression) in found.violations[0], found.violations


@dataclasses.dataclass(frozen=True)
class Spy(Broadcast):
    """A signal that carries the membrane of the readout."""

    def of(self, net, readouts, seed):
        return carrying(super().of(net, readouts, seed), "v")


def carrying(signals, variable):
    """``signals`` with every term carrying ``variable``."""
    return {
        n: dataclasses.replace(s, terms=tuple(dataclasses.replace(t, variable=variable) for t in s.terms)) for n, s in signals.items()
    }  # fmt: skip


@pytest.mark.parametrize("variable", ["v", "loss", "delta_v", "L", "z"])
def test_signals_carry_errors_only(variable):
    made, net = planned(rules.eprop())
    found = audit(dataclasses.replace(made, signals=carrying(made.signals, variable)), net)
    assert any("learning signal of 'rec'" in v for v in found.violations)


def test_a_signal_of_ones_own_is_audited():
    made, net = planned(dataclasses.replace(rules.eprop(), signal=Spy()))
    with pytest.raises(LocalityError, match="carries 'v' of 'out'"):
        audit(made, net).check()


def test_a_signal_that_is_early_is_of_the_future():
    made, net = planned(rules.eprop())
    early = {n: dataclasses.replace(s, lag=-1) for n, s in made.signals.items()}
    assert any("future" in v for v in audit(dataclasses.replace(made, signals=early), net).violations)
    made, net = planned(rules.ottt(), "deep")
    turned = dict(reversed(made.signals.items()))
    assert any("not known yet" in v for v in audit(dataclasses.replace(made, signals=turned), net).violations)


# --- cheats in the text -----------------------------------------------------------------------------------------------


@pytest.fixture
def objects():
    """Brian2 objects of e-prop with random feedback, their plan, and their values; kept in one Brian2 network."""
    made, net = planned(rules.eprop(feedback="random"), "axonal")
    trials, values = example_trials(net), net.draw(0)
    built = build(net, values, Block(1, trials.steps, longest_delay(values.delays)), trials, plan=made)
    b2.Network(*built.objects.values())
    assert text_violations(built, made) == ()
    return built, made, values


def test_an_audit_compiles_nothing(monkeypatch):
    made, net = planned(rules.eprop())
    monkeypatch.setattr(CythonCodeObject, "compile_block", lambda *_: pytest.fail("compiled"))
    with codegen("cython"):
        assert audit_text(net, made) == ()
        with pytest.raises(pytest.fail.Exception, match="compiled"):
            build(net, net.draw(0), Block(1, 5, 0), example_trials(net), plan=made)


def test_the_text_is_seen(objects):
    """An audit of nothing would pass: all statements of a projection are looked at."""
    built, made, _ = objects
    found = {title: text for title, text, _ in texts_of(built.net, built.objects["rec_rec"], "rec_rec")}
    assert {"rec_rec_learn", "rec_rec_deliver", "rec_rec_optimise", "rec_rec_trial_over"} <= set(found)
    assert "gradient += L_post*filtered_v" in found["rec_rec_learn"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gradient += v_pre", "v_pre"), ("gradient += z_pre", "z_pre"), ("gradient += i", "index 'i'"), ("gradient += j", "index 'j'"),
        ("gradient += N_pre", "N_pre"), ("gradient += eps_v_cues_rec_post", "eps_v_cues_rec_post"), ("v_post += gradient", "writes"),
        ("gradient += int(_synaptic_pre)", "_synaptic_pre"), ("gradient += step_weight(t)", "step_weight"),
    ],
)  # fmt: skip
def test_cheats_in_the_text_of_synapses(objects, text, words):
    built, made, values = objects
    synapses = built.objects["rec_rec"]
    synapses.namespace["step_weight"] = built.tables["step_weight"]
    synapses.run_regularly(text, when="end", name="rec_rec_spy")
    assert any(words in v for v in text_violations(built, made))


def test_cheats_in_the_text_of_readouts(objects):
    """The loss of a neuron is a variable of the readout, which its synapses could read."""
    built, made, values = objects
    built.objects["rec_out"].run_regularly("gradient += loss_post*0", when="end", name="rec_out_spy")
    assert any("loss_post" in v for v in text_violations(built, made))


def test_neurons_that_look_at_others(objects):
    built, made, values = objects
    group = built.objects["rec"]
    group.variables.add_reference("v_spy", built.objects["out"], "v", index="0")
    group.run_regularly("psi = psi + v_spy", when="end", name="rec_spy")
    assert any("another neuron" in v for v in text_violations(built, made))


def test_objects_that_nobody_declared(objects):
    built, made, values = objects
    group = built.objects["rec"]
    built.objects["spy"] = b2.Synapses(group, group, on_pre="psi_post += 1", name="spy", clock=group.clock)
    b2.Network(built.objects["spy"])
    assert any("does not declare" in v for v in text_violations(built, made))


# --- what the audit found ---------------------------------------------------------------------------------------------


def test_a_late_signal_meets_the_eligibility_of_its_step():
    """Kept per synapse or per neuron, the eligibility of the past step is the same."""

    def net(delay):
        strong = normal(1.5, mean=0.4)
        return Network(
            dt=1 * ms, cues=Input(4), a=Population(5, lif()), b=Population(5, lif()), out=Population(2, leaky_readout()),
            projections=[
                Projection("cues", "a", delay=delay, weight=strong), Projection("a", "b", weight=strong), Projection("b", "out"),
            ],
        )  # fmt: skip

    rng = np.random.default_rng(0)
    given = Trials({"cues": rng.random((1, 60, 4)) < 0.3}, rng.standard_normal((1, 60, 2)), weight=np.full(60, 0.01))
    found = []
    for delay in (None, synaptic(np.zeros((4, 5)) * ms)):
        made = net(delay)
        grads, _ = torch_backend.gradient(made, made.draw(1), given, rules.ottt(), mse(), form="traces")
        found.append(grads["cues_a.weight"])
    assert np.abs(found[0]).max() > 1e-6
    np.testing.assert_allclose(found[1], found[0], rtol=1e-10, atol=1e-12)


# --- whose a value is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tau_slow", "b", "v_b"])
def test_what_belongs_to_a_parameter_is_no_matter_of_its_name(name):
    """The parameter ``b`` has no part in ``credit_v_basal``."""
    times = {"tau": 10 * ms, name: 5 * ms}
    model = NeuronModel(
        "cell", f"dv/dt = (v_basal - v)/tau : 1\ndv_basal/dt = -v_basal/{name} : 1", times, threshold="v > 1",
        reset="v -= 1", receives="v_basal", surrogate=triangle("1.0"),
    )  # fmt: skip
    layers = {n: Population(3, model, {name: np.full(3, 5) * ms}, trainable={name: (1 * ms, None)}) for n in "abc"}
    links = [Projection("cues", "a"), Projection("a", "b"), Projection("b", "c"), Projection("c", "out")]
    net = Network(dt=1 * ms, cues=Input(4), **layers, out=Population(2, leaky_readout()), projections=links)
    made = plan(net, rules.ottt(), mse())
    assert storage(made, net, "a_b").post == ("credit_v_basal",)
    told = str(rules.ottt().describe(net))
    assert (
        f"stored for them: 5 (elig_{name}, eps_{name}_v, eps_{name}_v_basal, late1_elig_{name}, gradient_{name})"
        in told
    )
