"""Bounds on weights and frozen projections: kept on every path, by both backends, to the bit or to rounding."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from brian2 import ms, mV, second

import localplast as lp
from localplast import dale
from localplast.backends.brian2.learner import Brian2Learner
from localplast.backends.c.online_call import OnlineKernel
from localplast.backends.torch.learner import TorchLearner
from localplast.backends.torch.online import OnlineLearner
from localplast.errors import NetworkError, RunawayError
from localplast.learning.optimise import adam, sgd
from localplast.models import cuba_lif, leaky_readout, lif
from localplast.network import Input, Network, Population, Projection, normal
from localplast.rules import bptt, eprop
from localplast.task import Trials
from localplast.task.loss import mse

N_IN, N, N_OUT, STEPS = 5, 6, 2, 60
SIGNS = np.array([1, 1, 1, 1, -1, -1])


def network(bounded=True, mask=None):
    """One projection between two numbers, one with a sign per neuron, one with a number per synapse and no upper
    bound.
    """
    lowest = np.linspace(-0.3, 0.1, N * N_OUT).reshape(N, N_OUT)
    bounds = {"cues": (-0.5, 1.5), "rec": dale(SIGNS), "out": (lowest, None)} if bounded else {}
    return Network(
        dt=1 * ms, cues=Input(N_IN), rec=Population(N, lif(tau_ref=2 * ms)), out=Population(N_OUT, leaky_readout()),
        projections=[
            Projection("cues", "rec", weight=normal(1.5, mean=0.6), bounds=bounds.get("cues")),
            Projection("rec", "rec", mask=mask, bounds=bounds.get("rec")),
            Projection("rec", "out", bounds=bounds.get("out")),
        ],
    )  # fmt: skip


def trials(count=3):
    rng = np.random.default_rng(1)
    raster, target = rng.random((count, STEPS, N_IN)) < 0.25, rng.standard_normal((count, STEPS, N_OUT))
    weight = np.where(np.arange(STEPS) < 40, 0.02, 0.0)  # the last steps have no error: optimisers may rest there
    return Trials({"cues": raster}, target, weight=weight)


#: Every way in which weights change.
PATHS = {"brian2": Brian2Learner, "torch": TorchLearner, "torch, plain": TorchLearner}


def learned(path, net, rule, optimiser, values=None, given=None):
    """Weights after every trial."""
    given, values = given or trials(), values or net.draw(2)
    example = [given[0]] if path == "brian2" else []
    learner = PATHS[path](net, values, rule, mse(), optimiser, *example)
    if path == "torch, plain" and learner.online is not None:
        assert isinstance(learner.online, OnlineKernel)
        learner.online = OnlineLearner(net, learner.online.plan, learner.tensors, values.masks, optimiser)
    kept = []
    for number in range(len(given)):
        learner.train(given[number])
        kept.append(learner.numbers())
    return kept


def outside(net, weights, masks):
    """The largest distance of any weight from its bounds, and how many lie on one."""
    worst, touching = 0.0, 0
    for name, w in weights.items():
        if net.bounds(name) is None:
            continue
        low, high = net.bounds(name)
        worst = max(worst, np.where(masks[name], np.maximum(low - w, w - high), -np.inf).max())
        touching += int((((w == low) | (w == high)) & masks[name]).sum())
    return worst, touching


RULES = {
    "trial": (eprop(), sgd(0.5)), "step": (eprop(update="step"), sgd(0.2)), "step, adam": (eprop(update="step"), adam(5e-3)),
    "step, decay": (eprop(update="step"), adam(5e-3).decayed(0.002)),
}  # fmt: skip


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name, mask", [("trial", None), ("step", 0.6), ("step, adam", None), ("step, decay", 0.6)])
def test_weights_stay_within_their_bounds(name, mask):
    net, (rule, optimiser) = network(mask=mask), RULES[name]
    values = net.draw(2)
    expected = learned("torch, plain", net, rule, optimiser)
    for path in PATHS:
        found = learned(path, net, rule, optimiser)
        for one, other in zip(found, expected, strict=True):
            worst, touching = outside(net, one, values.masks)
            assert worst <= 0 and touching > 4, path  # some were drawn outside: a bound is where they started
            for k, w in other.items():
                assert np.abs(one[k] - w).max() < 1e-10 * np.abs(w).max(), (path, k)
                assert np.abs(w - values.weights[k]).max() > 1e-3, f"{k} has hardly learned"
                assert (one[k][~values.masks[k]] == 0).all()


@pytest.mark.parametrize("path", PATHS)
def test_without_bounds_they_leave(path):
    """From the same start: otherwise the test above would show nothing."""
    net, free = network(), network(bounded=False)
    values = net.draw(2)
    for rule, optimiser in (RULES["trial"], RULES["step"]):
        *_, weights = learned(path, free, rule, optimiser, values)
        assert outside(net, weights, values.masks)[0] > 0.01


def test_bptt_and_single_precision():
    net = network()
    learner = TorchLearner(net, net.draw(2), bptt(), mse(), sgd(0.5), dtype=torch.float32)
    learner.train(trials())
    worst, touching = outside(net, learner.numbers(), net.draw(2).masks)
    assert worst < 1e-7 and touching > 4


def test_weights_that_are_not_numbers_are_not_hidden():
    """A bound must not turn NaN into a harmless number: a run is stopped where it fails."""
    net, rule = network(), eprop(update="step")
    values = net.draw(2)
    values = values.replace_weights({"rec_out": np.full_like(values.weights["rec_out"], np.nan)})
    for path in PATHS:
        with pytest.raises(RunawayError, match="not finite"):
            learned(path, net, rule, sgd(0.1), values=values, given=trials(1))


# --- frozen projections -----------------------------------------------------------------------------------------------


@pytest.mark.sampled(3, 1)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("update", ["trial", "step"])
def test_a_rate_of_zero_keeps_every_bit(path, update):
    """With decay, with a memory, and with weights that lie outside the bounds from the start."""
    net, rule = network(), eprop(update=update)
    values = net.draw(2).replace_weights({"cues_rec": network(bounded=False).draw(2).weights["cues_rec"]})
    assert outside(net, values.weights, values.masks)[0] > 0.1
    for optimiser in (sgd(0.2).decayed(0.01), adam(5e-3).decayed(0.01).clipped(1e-3)):
        *_, weights = learned(path, net, rule, optimiser.with_rates(cues_rec=0), values)
        assert (weights["cues_rec"] == values.weights["cues_rec"]).all()
        assert (weights["rec_rec"] != values.weights["rec_rec"]).any()
        *_, moved = learned(path, net, rule, optimiser.with_rates(cues_rec=1e-9), values)
        assert (moved["cues_rec"] != values.weights["cues_rec"]).any()


def test_bptt_keeps_every_bit():
    net, values = network(), network().draw(2)
    for dtype in (torch.float64, torch.float32):
        optimiser = adam(5e-3).decayed(0.01).with_rates(cues_rec=0)
        learner = TorchLearner(net, values, bptt(), mse(), optimiser, dtype=dtype)
        start = learner.numbers()
        learner.train(trials())
        assert (learner.numbers()["cues_rec"] == start["cues_rec"]).all()
        assert (learner.numbers()["rec_rec"] != start["rec_rec"]).any()


def test_evaluation_learns_nothing():
    net = network()
    learner = TorchLearner(net, net.draw(2), eprop(), mse(), adam(5e-3).decayed(0.01))
    learner.train(trials()[:1])
    before = learner.arrays()
    learner.evaluate(trials())
    assert all((value == before[name]).all() for name, value in learner.arrays().items())


# --- what a network says of its bounds --------------------------------------------------------------------------------


def test_they_are_data(tmp_path):
    net = network()
    net.save(tmp_path / "net.json")
    loaded = Network.load(tmp_path / "net.json")
    assert loaded == net and loaded != network(bounded=False)
    for name in net.projections:
        assert all((a == b).all() for a, b in zip(net.bounds(name), loaded.bounds(name), strict=True))


def test_drawn_weights_are_clipped():
    net, free = network(mask=0.5), network(bounded=False, mask=0.5)
    drawn, given = net.draw(3), free.draw(3)
    for name, w in given.weights.items():
        low, high = net.bounds(name)
        assert (drawn.weights[name] == np.where(given.masks[name], np.clip(w, low, high), 0)).all()
        assert (drawn.weights[name] != w).any()
    assert (drawn.masks["rec_rec"] == given.masks["rec_rec"]).all()


def test_dale():
    low, high = dale([1, -1])
    assert low.tolist() == [[0], [-np.inf]] and high.tolist() == [[np.inf], [0]]
    for wrong in ([1, 0], [[1, -1]], 1, ["E"]):
        with pytest.raises(NetworkError, match="one sign per presynaptic neuron, \\+1 or -1"):
            dale(wrong)


def one(bounds, model=None, weight=None, **options):
    weight = normal(1 * mV if model else 1.0) if weight is None else weight
    projection = Projection("cues", "rec", weight=weight, bounds=bounds, **options)
    return Network(dt=1 * ms, cues=Input(3), rec=Population(4, model or lif()), projections=[projection])


def changed(array, value, where):
    array = np.array(array, float)
    array[where] = value
    return array


@pytest.mark.parametrize("bounds, message", [
    ((1, -1), "no number lies between the lower bound 1 and the upper bound -1.*low <= high"),
    ((np.zeros((3, 1)), -np.ones(4)), "no number lies between"),
    ((np.inf, None), "no number lies between the lower bound inf"),
    ((0, 1 * second), "the upper bound .* has the wrong unit; these weights are measured in 1"),
    ((np.zeros(3), None), r"lower bound has shape \(3,\), which does not broadcast to \(pre, post\), \(3, 4\).*give \(3, 1\)"),
    ((0, np.zeros((1, 3, 4))), "the upper bound has shape"),
    ((0, np.nan), "the upper bound nan is not a number"),
    ((0, "high"), "the upper bound 'high' is not a number"),
    (1.0, r"bounds are \(low, high\)"),
    (np.zeros((2, 3, 4)), r"bounds are \(low, high\)"),
])  # fmt: skip
def test_mistakes_are_named(bounds, message):
    with pytest.raises(NetworkError, match=f"projection 'cues_rec': .*{message}"):
        one(bounds)


@pytest.mark.parametrize("bounds, weight, message", [
    ((0, 1), 2.0, r"the weight 2 at \(0, 0\) .* 0 and 1"),
    ((0, None), changed(np.ones((3, 4)), -0.5, (1, 2)), r"weight -0.5 at \(1, 2\) lies outside"),
    (dale([1, -1, 1]), 1.0, r"weight 1 at \(1, 0\)"),
])  # fmt: skip
def test_weights_that_are_given_lie_within_them(bounds, weight, message):
    with pytest.raises(NetworkError, match=f"projection 'cues_rec': .*{message}"):
        one(bounds, weight=weight)


def test_synapses_that_do_not_exist_have_none():
    there = changed(np.ones((3, 4)), 0, (1, 2))
    assert one((0.5, 1), weight=1.0 * there, mask=there).draw(0).weights["cues_rec"].sum() == 11
    loop = Projection("rec", "rec", weight=1 - np.eye(4), bounds=(0.5, 1))
    assert Network(dt=1 * ms, rec=Population(4, lif()), projections=[loop]).draw(0).weights["rec_rec"].sum() == 12
    assert one((0, 1), weight=normal(5.0)).draw(0).weights["cues_rec"].max() == 1


def test_units():
    net = one((-1 * mV, 2 * mV), cuba_lif())
    assert float(net.bounds("cues_rec")[1].max()) == pytest.approx(2e-3)
    with pytest.raises(NetworkError, match="measured in volt"):
        one((0, 1 * second), cuba_lif())
    assert one((None, None)).bounds("cues_rec") is None
    assert one((None, 2)).bounds("cues_rec")[0].max() == -np.inf


@pytest.mark.parametrize("path", PATHS)
def test_a_rate_of_zero_keeps_parameters_that_lie_outside_their_bounds(path):
    net = network()
    taus, limits = {"tau_mem": np.full(N, 20.0) * ms}, {"tau_mem": (5 * ms, 50 * ms)}
    cells = replace(net.nodes["rec"], parameters=taus, trainable=limits)
    net = Network(dt=net.dt, **{**net.nodes, "rec": cells}, projections=list(net.projections.values()))
    values = net.draw(2).replace_weights({}, {"rec.tau_mem": np.linspace(0.001, 0.06, N)})
    example = [trials(1)] if path == "brian2" else []
    learner = PATHS[path](net, values, eprop(), mse(), sgd(0.5).with_rates(**{"rec.tau_mem": 0}), *example)
    learner.train(trials(1))
    assert np.array_equal(learner.parameters()["rec.tau_mem"], values.parameters["rec"]["tau_mem"])
    assert np.isfinite(lp.gradient(net, trials(1), eprop(), loss=mse(), values=values)["rec"]["gradient_tau_mem"]).all()
