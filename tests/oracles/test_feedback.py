"""How errors travel back: direct, layer by layer, random, learned. Each against autograd of a network written out by
hand.

Broadcast (e-prop in depth, DFA, DRTP, eRBP): layer l hears ``B_l e``, so that its gradient is that of the twin loss
``sum_t <B_l sg(e[t]), s[t]>``, with ``s`` what the readout would remember of the layer's spikes (e-prop) or the
spikes of that step (the others), and with spikes between layers and onto themselves detached. For
``e = W_out^T dE/dy`` of a readout that the layer projects to, that is autograd of the loss itself.
"""

import numpy as np
import pytest
import torch
from brian2 import ms

from localplast.backends.brian2 import learner as brian2_backend
from localplast.backends.brian2.learner import Brian2Learner
from localplast.backends.torch import gradient as torch_backend
from localplast.backends.torch.learner import TorchLearner
from localplast.learning.optimise import sgd
from localplast.models import leaky_readout, lif
from localplast.network import Input, Network, Population, Projection, normal
from localplast.neuron.surrogate import boxcar
from localplast.program.learn import plan
from localplast.rules import bptt, dfa, drtp, eprop, erbp, feedback_alignment, ostl, ottt, sltt
from localplast.task import Trials
from localplast.task.loss import mse

KAPPA, LAYERS = np.exp(-1 / 15), ("low", "top")
ONTO = {"low": "cues_low", "top": "low_top"}
SELF = {f"{edge} {n}" for edge in ("reset", "adaptation") for n in LAYERS}
RESETS, LEAKS = {f"reset {n}" for n in LAYERS}, {f"leak {n}" for n in LAYERS}


def remembered(spikes):
    """Spikes ``(trial, time, neuron)`` as a leaky readout remembers them."""
    trace, found = 0, []
    for t in range(spikes.shape[1]):
        trace = KAPPA * trace + spikes[:, t]
        found.append(trace)
    return torch.stack(found, 1)


def twin(layered, net, given, heard, matrices, *, filtered, cut, **options):
    """Gradients of ``sum_t <B heard[t], s[t]>`` by projection; ``heard`` is ``'error'`` or ``'target'``."""
    written = layered.Stack(net, net.draw(3), given, cut={*cut, "low_top", "loop"}, **options).alive()
    signal = written.errors() if heard == "error" else -written.weight[:, None] * written.target
    found = {}
    for n in LAYERS:
        spikes = remembered(written.spikes(n)) if filtered else written.spikes(n)
        loss = ((signal @ torch.tensor(matrices[n]).T) * spikes).sum((1, 2)).mean()
        found[ONTO[n]] = written.gradient(ONTO[n], loss)
    return found


def fixed(net, rule, source="out"):
    found = plan(net, rule, mse()).fixed
    assert set(found) == {(n, source) for n in LAYERS}
    return {n: found[n, source] for n in LAYERS}


#: name: rule, whether the readout's memory filters, edges cut (beside those between layers), what is heard
DIRECT = {
    "e-prop, random": (eprop(feedback="random"), True, RESETS, "error"),
    "e-prop, uniform": (eprop(feedback="uniform", feedback_std=0.3), True, RESETS, "error"),
    "DFA": (dfa(), False, SELF, "error"),
    "DRTP": (drtp(feedback_std=0.5), False, SELF, "target"),
    "eRBP": (erbp(), False, SELF | LEAKS, "error"),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("row", DIRECT)
def test_every_layer_hears_the_readout(row, layered):
    rule, filtered, cut, heard = DIRECT[row]
    net, given = layered.stack(loop=True), layered.trials()
    expected = twin(layered, net, given, heard, fixed(net, rule), filtered=filtered, cut=cut)
    written = layered.Stack(net, net.draw(3), given, cut={"memory"} if row == "eRBP" else ())
    expected["top_out"] = written.gradient("top_out")
    layered.equal(net, net.draw(3), given, rule, expected)


#: the same against twins in which one thing is otherwise
OTHERWISE = {
    "e-prop without the readout's filter": (eprop(feedback="random"), False, RESETS, "error"),
    "e-prop with the reset": (eprop(feedback="random"), True, set(), "error"),
    "DFA with the readout's filter": (dfa(), True, SELF, "error"),
    "DFA with adaptation": (dfa(), False, RESETS, "error"),
    "DFA without memory": (dfa(), False, SELF | LEAKS, "error"),
    "DRTP of the error": (drtp(), False, SELF, "error"),
    "eRBP with memory": (erbp(), False, SELF, "error"),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("row", OTHERWISE)
def test_otherwise_it_differs(row, layered):
    rule, filtered, cut, heard = OTHERWISE[row]
    net, given = layered.stack(), layered.trials()
    wrong = twin(layered, net, given, heard, fixed(net, rule), filtered=filtered, cut=cut)
    for where, _, grads in layered.estimates(net, net.draw(3), given, rule):
        assert layered.error(grads["low_top"], wrong["low_top"]) > 0.01, where


def test_the_window_of_erbp(layered):
    """As published, with a rectangle for psi: a spike moves the weight, by the error its target has heard."""
    net, given, rule = layered.stack(surrogate=boxcar(1.2, gamma=0.6)), layered.trials(), erbp()
    expected = twin(
        layered, net, given, "error", fixed(net, rule), filtered=False, cut=SELF | LEAKS,
        psi=lambda x: 0.5 * (x.abs() < 0.6).double(),
    )  # fmt: skip
    layered.equal(net, net.draw(3), given, rule, expected)


def test_deep_eprop_through_the_readouts_own_weights(layered):
    """Where every layer projects to the readout: autograd of the loss, with R, S and F cut."""
    net, given = layered.stack(skip=True, loop=True), layered.trials()
    written = layered.Stack(net, net.draw(3), given, cut={*RESETS, "low_top", "loop"}).alive()
    expected = {k: written.gradient(k) for k in written.w}
    layered.equal(net, net.draw(3), given, eprop(), expected)
    for name, grad in layered.autograd(
        net, net.draw(3), given, bptt(cut={"reset", "feedforward", "recurrent"})
    ).items():
        assert layered.error(grad, expected[name]) < 1e-10
    kept = layered.Stack(net, net.draw(3), given, cut={*RESETS, "loop"}).gradient("cues_low")
    assert layered.error(expected["cues_low"], kept) > 0.01
    memoryless = layered.Stack(net, net.draw(3), given, cut={*SELF, "low_top", "loop", "memory"})
    layered.equal(
        net, net.draw(3), given, dfa(feedback="symmetric"), {k: memoryless.gradient(k) for k in ONTO.values()}
    )


# --- feedback alignment: other matrices in the backward pass, layer by layer ------------------------------------------


@pytest.mark.parametrize("form", ["random", "matrices"])
def test_feedback_alignment(form, layered):
    """FA: nothing is cut, each layer's backward pass goes through matrices of its own."""
    net, given = layered.stack(), layered.trials()
    rng = np.random.default_rng(8)
    matrices = {"low_top": rng.standard_normal((7, 5)), "top_out": rng.standard_normal((5, 3))}
    rule = bptt(feedback=matrices)
    if form == "random":
        rule = bptt(feedback="random", feedback_std=0.8)
        matrices = torch_backend.backward_matrices(net, rule.signal, net.readouts, 0)
        assert {k: b.shape for k, b in matrices.items()} == {"low_top": (7, 5), "top_out": (5, 3)}
    written = layered.Stack(net, net.draw(3), given, feedback=matrices).alive()
    true = layered.Stack(net, net.draw(3), given)
    for name, grad in layered.autograd(net, net.draw(3), given, rule).items():
        assert layered.error(grad, written.gradient(name)) < 1e-10, name
        assert (layered.error(grad, true.gradient(name)) > 0.1) == (name != "top_out"), name


def rule_with(make, net, off=0.0):
    """``make`` with the forward weights themselves as feedback, or ``off`` by so much."""
    weights = net.draw(3).weights
    return make(feedback={"low": weights["low_top"] + off, "top": weights["top_out"] + off})


@pytest.mark.sampled(2)
@pytest.mark.parametrize("make", [bptt, ottt, ostl, sltt], ids=["bptt", "ottt", "ostl", "sltt"])
def test_transposed_weights_make_it_backpropagation(make, layered):
    """F1, to rounding."""
    net, given, options = layered.stack(), layered.trials(), {} if make is bptt else {"form": "traces"}
    chosen = (make(), rule_with(make, net), rule_with(make, net, off=1e-8))
    own, same, near = (torch_backend.gradient(net, net.draw(3), given, rule, mse(), **options)[0] for rule in chosen)
    for name, grad in own.items():
        assert layered.error(same[name], grad) < 1e-12, name
    assert layered.error(near["cues_low.weight"], own["cues_low.weight"]) > 1e-10


def test_transposed_weights_make_it_symmetric_eprop():
    """F1 for one hidden layer, on both backends."""
    net, given = shallow(), teacher_trials(np.random.default_rng(0), 1, 40)
    same = eprop(feedback={"rec": net.draw(0).weights["rec_out"]})
    for backend, form in (
        (torch_backend, {"form": "traces"}),
        (torch_backend, {"form": "adjoint"}),
        (brian2_backend, {}),
    ):
        one, other = (backend.gradient(net, net.draw(0), given, r, mse(), **form)[0] for r in (same, eprop()))
        for name, grad in one.items():
            assert grad.any() and np.abs(grad - other[name]).max() < 1e-12 * np.abs(grad).max(), (backend, name)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("make", [bptt, ottt, eprop, dfa], ids=["bptt", "ottt", "e-prop", "dfa"])
def test_the_readout_learns_alike_whatever_the_feedback(make, layered):
    """F2."""
    net, given = layered.stack(skip=True, loop=False) if make in (eprop, dfa) else layered.stack(), layered.trials()
    options = {} if make is bptt else {"form": "traces"}
    kinds = ("symmetric", "random", "uniform") + (() if make is bptt else ("sign", "learned"))
    found = [torch_backend.gradient(net, net.draw(3), given, make(feedback=k), mse(), **options)[0] for k in kinds]
    for grads in found[1:]:
        assert layered.error(grads["top_out.weight"], found[0]["top_out.weight"]) < 1e-12
        assert layered.error(grads["cues_low.weight"], found[0]["cues_low.weight"]) > 0.1


@pytest.mark.sampled(2)
@pytest.mark.parametrize("make", [dfa, drtp], ids=["dfa", "drtp"])
def test_direct_feedback_knows_no_layers_in_between(make, layered):
    """F6: other weights above the low layer, the same error: the same gradient, where layered rules differ."""
    net, given = layered.stack(), layered.trials()
    values = net.draw(3)
    other = values.replace_weights({k: net.draw(4).weights[k] for k in ("low_top", "top_out")})
    moved = (layered.Stack(net, other, given).y - layered.Stack(net, values, given).y).detach().numpy()
    assert np.abs(moved).max() > 0.1
    same_error = given if make is drtp else Trials(given.inputs, given.target + moved, given.weight)
    pairs = zip(
        layered.estimates(net, values, given, make()), layered.estimates(net, other, same_error, make()), strict=True
    )
    for (where, _, one), (_, _, two) in pairs:
        assert layered.error(two["cues_low"], one["cues_low"]) < 1e-12, where
    one, two = (next(layered.estimates(net, v, g, ottt()))[2] for v, g in ((values, given), (other, same_error)))
    assert layered.error(two["cues_low"], one["cues_low"]) > 0.1


# --- feedback and learning --------------------------------------------------------------------------------------------

N_IN, N_REC, N_OUT = 10, 20, 3


def shallow():
    return Network(
        dt=1 * ms, cues=Input(N_IN), rec=Population(N_REC, lif()), out=Population(N_OUT, leaky_readout(tau_out=20 * ms)),
        projections=[Projection("cues", "rec", weight=normal(1.0, mean=0.3)), Projection("rec", "out", weight=normal(0.05))],
    )  # fmt: skip


def teacher_trials(rng, count, steps):
    """Targets are a linear function of low-passed input spikes."""
    teacher = np.random.default_rng(9).standard_normal((N_IN, N_OUT)) / np.sqrt(N_IN)
    spikes = rng.random((count, steps, N_IN)) < rng.uniform(0, 0.2, (count, 1, N_IN))
    trace, target = np.zeros((count, N_IN)), []
    for t in range(steps):
        trace = np.exp(-1 / 20) * trace + spikes[:, t]
        target.append((trace - 2) @ teacher)
    return Trials({"cues": spikes}, np.stack(target, 1), weight=np.full(steps, 1 / steps))


def angle(one, other):
    return np.degrees(np.arccos((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other)))


@pytest.mark.thorough
def test_weights_align_with_random_feedback():
    """F3: with random B the angle between ``B e`` and ``W^T e`` falls, because the weights come round; without
    learning in the hidden layer it does not."""
    net = shallow()
    errors = np.random.default_rng(1).standard_normal((N_OUT, 200))

    def angles(optimiser):
        rule, values = eprop(feedback="random"), net.draw(2)
        learner = TorchLearner(net, values, rule, mse(), optimiser, batch=16, seed=2)
        matrix, losses = plan(net, rule, mse(), seed=2).fixed["rec", "out"], []
        found = [angle(matrix @ errors, learner.numbers()["rec_out"] @ errors)]
        for update in range(120):
            losses += learner.train(teacher_trials(np.random.default_rng([3, update]), 16, 60))
            if update % 40 == 39:
                found.append(angle(matrix @ errors, learner.numbers()["rec_out"] @ errors))
        return found, np.mean([m["loss"] for m in losses[:5]]), np.mean([m["loss"] for m in losses[-5:]])

    found, first, last = angles(sgd(3e-3))
    assert 75 < found[0] < 105 and found[-1] < 60 and all(np.diff(found) < 0), found
    assert last < 0.7 * first, (first, last)
    still, *_ = angles(sgd(3e-3).with_rates(cues_rec=0))
    assert still[-1] > 85, still


LAMBDA = 0.03


@pytest.mark.sampled(2)
@pytest.mark.parametrize("make, update", [(eprop, "trial"), (eprop, "step"), (ottt, "trial"), (ottt, "step")])
def test_kolen_and_pollack(make, update, layered):
    """F4: two matrices that receive the same products and decay alike: ``W_n - B_n = (1 - lambda)^n (W_0 - B_0)``."""
    net = layered.stack(skip=make is eprop)
    paths = ("top_out", "low_out") if make is eprop else ("top_out", "low_top")
    rule, trials, optimiser = make(feedback="learned", update=update), layered.trials(12, 1), sgd(2e-3).decayed(LAMBDA)
    for made in (TorchLearner, Brian2Learner):
        extra = [trials] if made is Brian2Learner else []
        learner = made(net, net.draw(3), rule, mse(), optimiser, *extra, seed=4)
        start = {k: learner.numbers()[k] - np.array(learner.feedback[k]) for k in paths}
        first = learner.numbers()
        for count in range(1, 4):
            learner.train(trials)
            share = (1 - LAMBDA) ** (count * (1 if update == "trial" else trials.steps))
            for k in paths:
                gap = learner.numbers()[k] - np.array(learner.feedback[k])
                assert np.abs(gap - share * start[k]).max() < 1e-10 * np.abs(start[k]).max(), (made.__name__, k, count)
                assert np.linalg.norm(gap) == pytest.approx(share * np.linalg.norm(start[k]), rel=1e-10)
        moved = learner.numbers()["top_out"] - share * first["top_out"]
        assert np.abs(moved).max() > 1e-3, "nothing was learned beside the decay"
        learner.close()


def test_learned_feedback_is_used(layered):
    """After learning, the hidden gradient is that of fixed feedback with the matrices learned so far."""
    net, trials = layered.stack(), layered.trials(20, 1)
    learner = TorchLearner(net, net.draw(3), ottt(feedback="learned"), mse(), sgd(5e-3), seed=4)
    learner.train(trials)
    before, learned = learner.numbers(), {k: b.numpy().copy() for k, b in learner.feedback.items()}
    learner.train(trials)
    values = net.draw(3).replace_weights(before)
    rule = ottt(feedback={"top": learned["top_out"], "low": learned["low_top"]})
    grads, _ = torch_backend.gradient(net, values, trials, rule, mse(), form="traces")
    assert layered.error(learner.numbers()["cues_low"] - before["cues_low"], -5e-3 * grads["cues_low.weight"]) < 1e-10
    learner.close()


def test_learned_feedback_is_used_on_the_way_back_through_time(layered):
    """Where the gradient is that of an adjoint with another matrix: with the one learned so far, and with one that is
    loaded; not with the first.
    """
    paths = [Projection("cues", "rec", weight=normal(2.0)), Projection("rec", "rec"), Projection("rec", "out")]
    net = Network(
        dt=1 * ms, cues=Input(6), rec=Population(5, lif()), out=Population(2, leaky_readout()), projections=paths
    )
    rng, rate = np.random.default_rng(0), 1e-3
    trials = Trials({"cues": rng.random((20, 30, 6)) < 0.2}, rng.normal(size=(20, 30, 2)))
    learner = TorchLearner(net, net.draw(3), feedback_alignment(eprop(), "learned"), mse(), sgd(rate), seed=4, batch=20)
    first = learner.arrays()["feedback.rec_out"].copy()
    learner.train(trials)
    assert learner.online is None
    for turned in (False, True):
        before = {k: np.array(x) for k, x in learner.arrays().items()}
        if turned:
            before["feedback.rec_out"] = before["feedback.rec_out"][::-1].copy()
            learner.load(before)
        learner.train(trials)
        moved = learner.arrays()["weight.cues_rec"] - before["weight.cues_rec"]
        weights = {k.removeprefix("weight."): x for k, x in before.items() if k.startswith("weight.")}
        values = net.draw(3).replace_weights(weights)
        errors = []
        for matrix in (before["feedback.rec_out"], first):
            grads, _ = torch_backend.gradient(
                net, values, trials, eprop(feedback={"rec": matrix}), mse(), form="traces"
            )
            errors.append(layered.error(moved, -rate * grads["cues_rec.weight"]))
        assert errors[0] < 1e-10 and errors[1] > 1e-4
    learner.close()
