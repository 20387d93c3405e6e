"""OTTT, OSTL and SLTT: errors travel from layer to layer within the moment, memory stays within a layer.

What each of them cuts is cut in a network written out by hand (:mod:`conftest`), layer by layer: the gradient of the
weights onto layer l comes from a graph in which the *other* layers have lost their memory.

Why it is exact: with ``u[t] = alpha*u[t-1] + w z_pre[t]`` and the reset cut, ``du[t]/dw = a[t]``, the trace of
presynaptic spikes, so that all that is missing in ``sum_t delta[t] a[t]`` is what ``delta`` owes to the memory of the
layers above (Xiao et al. 2022, NeurIPS, OTTT; Meng et al. 2023, ICCV, SLTT; Bohnstingl et al. 2022, OSTL).
"""

import numpy as np
import pytest
from brian2 import ms

import localplast as lp
from localplast.learning.rule import feedback_alignment
from localplast.models import leaky_readout, lif
from localplast.rules import bptt, decolle, eprop, ostl, ottt, sltt

LAYERS = ("low", "top")
SELF = {f"{edge} {n}" for edge in ("reset", "adaptation") for n in LAYERS}
LEAKS = {"leak low", "leak top"}
#: rule: edges cut for the weights onto low, onto top, onto the readout
CUTS = {
    "OTTT": (ottt, {*SELF, "memory", "leak top"}, {*SELF, "memory"}, set()),
    "SLTT": (sltt, {*SELF, *LEAKS, "memory"}, {*SELF, *LEAKS, "memory"}, {"memory"}),
    "OSTL": (ostl, {"memory", "leak top", "reset top", "adaptation top"}, {"memory"}, set()),
}
#: the same with one edge treated otherwise: it has to show
WRONG = {
    "OTTT, leak of the layer above kept": (ottt, {*SELF, "memory"}, "cues_low"),
    "OTTT, memory of the readout kept": (ottt, SELF, "low_top"),
    "OTTT, own leak cut": (ottt, {*SELF, "memory", "leak top"}, "low_top"),
    "OTTT, reset kept": (ottt, {"memory", "adaptation top"}, "low_top"),
    "OTTT, adaptation kept": (ottt, {"memory", "reset top"}, "low_top"),
    "OTTT, full BPTT": (ottt, set(), "cues_low"),
    "SLTT, own leak kept": (sltt, {*SELF, "leak top", "memory"}, "cues_low"),
    "SLTT, memory of the readout kept": (sltt, {*SELF, *LEAKS}, "low_top"),
    "OSTL, leak of the layer above kept": (ostl, {"memory", "reset top", "adaptation top"}, "cues_low"),
    "OSTL, reset of the layer above kept": (ostl, {"memory", "leak top", "adaptation top"}, "cues_low"),
    "OSTL, own reset cut": (ostl, {"memory", "reset top"}, "low_top"),
    "OSTL, own adaptation cut": (ostl, {"memory", "adaptation top"}, "low_top"),
}


def expected(layered, net, values, given, cuts, **options):
    """Gradients from three graphs, one per layer."""
    found = {}
    for names, cut in zip((("cues_low", "low_low"), ("low_top",), ("top_out",)), cuts, strict=True):
        written = layered.Stack(net, values, given, cut={*cut, "loop"}, **options).alive()
        found.update({n: written.gradient(n) for n in names if n in written.w})
    return found


@pytest.mark.sampled(4)
@pytest.mark.parametrize("row", CUTS)
@pytest.mark.parametrize("options", [{}, {"delay": 2}, {"loop": True}], ids=["plain", "delay", "loop"])
def test_equal(row, options, layered):
    make, *cuts = CUTS[row]
    net, given = layered.stack(**options), layered.trials()
    values = net.draw(3)
    layered.equal(net, values, given, make(), expected(layered, net, values, given, cuts))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("row", WRONG)
def test_different(row, layered):
    make, cut, name = WRONG[row]
    net, given = layered.stack(), layered.trials()
    values = net.draw(3)
    wrong = layered.Stack(net, values, given, cut=cut).gradient(name)
    for where, _, grads in layered.estimates(net, values, given, make()):
        assert layered.error(grads[name], wrong) > 0.01, where


@pytest.mark.sampled(3)
@pytest.mark.parametrize("row", CUTS)
def test_random_feedback(row, layered):
    """Fixed matrices in place of both weights, in the backward pass only."""
    make, *cuts = CUTS[row]
    net, given = layered.stack(), layered.trials()
    values = net.draw(3)
    rng = np.random.default_rng(9)
    matrices = {name: rng.standard_normal(values.weights[name].shape) for name in ("top_out", "low_top")}
    wanted = expected(layered, net, values, given, cuts, feedback=matrices)
    found = layered.equal(net, values, given, make(feedback=matrices), wanted)
    symmetric = expected(layered, net, values, given, cuts)
    assert layered.error(found["brian2"]["cues_low"], symmetric["cues_low"]) > 0.1
    given_by_hand = layered.equal(
        net, values, given, make(feedback={"top": matrices["top_out"], "low": matrices["low_top"]}), wanted
    )
    for where, grads in given_by_hand.items():
        assert layered.error(grads["cues_low"], found[where]["cues_low"]) < 1e-12, where


@pytest.mark.sampled(2, 1)
@pytest.mark.parametrize("kind", ["sign", "uniform"])
def test_signs_and_uniform_feedback(kind, layered):
    net, given = layered.stack(), layered.trials()
    values = net.draw(3)
    forward = {k: values.weights[k] for k in ("top_out", "low_top")}
    matrices = {k: 0.7 * (np.sign(w) if kind == "sign" else np.ones_like(w)) for k, w in forward.items()}
    wanted = expected(layered, net, values, given, CUTS["OTTT"][1:], feedback=matrices)
    layered.equal(net, values, given, ottt(feedback=kind, feedback_std=0.7), wanted)


def test_learned_feedback_starts_as_random(layered):
    net, given = layered.stack(), layered.trials()
    values = net.draw(3)
    for one, other in zip(
        *(layered.estimates(net, values, given, ottt(feedback=f)) for f in ("random", "learned")), strict=True
    ):
        for name, grad in one[2].items():
            assert layered.error(other[2][name], grad) < 1e-13, (one[0], name)


def test_the_last_hidden_layer_is_bptt_with_a_few_edges_cut(layered):
    """localplast's own autograd, with the edges that the rule names."""
    net, given = layered.stack(), layered.trials()
    values = net.draw(3)
    for rule in (ottt(), ostl()):
        twin = layered.autograd(net, values, given, bptt(cut=rule.cut))
        for where, tolerance, grads in layered.estimates(net, values, given, rule):
            assert layered.error(grads["low_top"], twin["low_top"]) < tolerance, (rule.name, where)
            assert layered.error(grads["cues_low"], twin["cues_low"]) > 0.01, (rule.name, where)


#: Rules of one hidden layer, and whether their cut is that of the readout's own weights too.
ONE_LAYER = {
    "e-prop": (eprop, True),
    "DECOLLE": (decolle, True),
    "SLTT": (sltt, True),
    "OTTT": (ottt, False),
    "OSTL": (ostl, False),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("row", ONE_LAYER)
@pytest.mark.parametrize("backend", ["torch", "brian2"])
def test_weights_onto_the_readout_keep_its_memory(row, backend):
    """OTTT and OSTL cut the readout's memory for hidden weights only: its own learn as BPTT without any cut has it."""
    make, alike = ONE_LAYER[row]
    rng, rule = np.random.default_rng(0), make()
    net = lp.Network(
        dt=1 * ms, cues=lp.Input(6), rec=lp.Population(5, lif()), out=lp.Population(2, leaky_readout()),
        projections=[lp.Projection("cues", "rec", weight=rng.uniform(0.1, 0.9, (6, 5))), lp.Projection("rec", "out")],
    )  # fmt: skip
    trials = lp.Trials({"cues": rng.random((2, 80, 6)) < 0.25}, rng.standard_normal((2, 80, 2)))
    found = lp.gradient(net, trials, rule, backend=backend)
    cut, whole = (
        lp.distance(found, lp.gradient(net, trials, bptt(cut=edges)))["relative_error"] for edges in (rule.cut, ())
    )
    onto = {
        name: (float(cut.sel(projection=name)), float(whole.sel(projection=name))) for name in ("cues_rec", "rec_out")
    }
    assert onto["cues_rec"][0] < 1e-8 and onto["cues_rec"][1] > 0.01
    if alike:
        assert onto["rec_out"][0] < 1e-8 and (onto["rec_out"][1] < 1e-8) == ("readout" not in rule.cut)
    else:
        assert onto["rec_out"][1] < 1e-8 and onto["rec_out"][0] > 0.1


@pytest.mark.sampled(2, 1)
@pytest.mark.parametrize("feedback", ["symmetric", "random"])
def test_sltt_is_bptt_with_every_temporal_edge_cut(layered, feedback):
    """In every layer; with one of the edges kept it is not."""
    net, given, rule = layered.stack(), layered.trials(), sltt(feedback=feedback)
    values = net.draw(3)
    twin = layered.autograd(net, values, given, bptt(cut=rule.cut, feedback=feedback))
    for where, tolerance, grads in layered.estimates(net, values, given, rule):
        for name, grad in grads.items():
            assert layered.error(grad, twin[name]) < tolerance, (where, name)
        for kept in ("leak", "readout"):
            other = layered.autograd(net, values, given, bptt(cut=rule.cut - {kept}, feedback=feedback))
            assert layered.error(grads["low_top"], other["low_top"]) > 0.01, (where, kept)


def test_an_error_passes_layers_that_do_not_learn(layered):
    """Weights onto the top layer that stay as they are still carry the error to the layer below."""
    net, given = layered.stack(fixed=("low_top",)), layered.trials()
    values, rule = net.draw(3), ottt()
    full = expected(layered, net, values, given, CUTS["OTTT"][1:])
    found = layered.equal(net, values, given, rule, {k: full[k] for k in ("cues_low", "top_out")})
    assert "low_top" not in found["brian2"]


def test_layered_rules_under_another_name(layered):
    """Feedback is a modifier of any rule."""
    rule = feedback_alignment(ottt(), "random", std=0.5)
    assert rule == ottt(feedback="random", feedback_std=0.5) and rule.cut == ottt().cut != eprop().cut
