"""Optimisers against torch.optim, and learning online in Brian2 against Torch, update by update and step by step."""

import numpy as np
import pytest
import torch
from brian2 import ms, mV

from localplast.backends.brian2.learner import Brian2Learner
from localplast.backends.torch import gradient as torch_backend
from localplast.backends.torch.learner import TorchLearner
from localplast.backends.torch.online import OnlineLearner
from localplast.backends.torch.step import leaves
from localplast.equations.tape import Tape
from localplast.errors import LocalplastError, UnsupportedError
from localplast.learning.optimise import adam, madgrad, momentum, rmaxprop, rmsprop, sgd
from localplast.models import alif, cuba_lif, leaky_readout
from localplast.network import Input, Network, Population, Projection, axonal, dendritic, normal, synaptic
from localplast.program.learn import plan
from localplast.rules import eprop
from localplast.task import Trials
from localplast.task.loss import cross_entropy, mse, rate

UPDATES = 20


def gradients():
    """Gradients of very different size, and a weight that gets none until the tenth update."""
    found = np.random.default_rng(0).standard_normal((UPDATES, 3, 4)) * np.logspace(-6, 3, 4)
    found[:10, 0, 0] = 0.0
    return found


def applied(optimiser, grads, name="any"):
    """Weights after every update; from ones."""
    step = Tape(optimiser.program(), {"learning_rate": optimiser.rate(name)})
    w, state, kept = np.ones(grads.shape[1:]), {k: np.zeros(grads.shape[1:]) for k in optimiser.state}, []
    for number, g in enumerate(grads, 1):
        new = step({"w": w, "g": g, "k": number, **state})
        w, state = new["w"], {k: new[k] for k in optimiser.state}
        kept.append(w)
    return np.array(kept)


def by_torch(make, grads):
    w = torch.ones(grads.shape[1:], dtype=torch.float64, requires_grad=True)
    optimiser, kept = make([w]), []
    for g in grads:
        w.grad = torch.tensor(g)
        optimiser.step()
        kept.append(w.detach().numpy().copy())
    return np.array(kept)


PAIRS = {
    "sgd": (sgd(0.03), lambda w: torch.optim.SGD(w, lr=0.03)),
    "adam": (adam(0.02), lambda w: torch.optim.Adam(w, lr=0.02)),
    "adam, other constants": (
        adam(0.02, beta1=0.7, beta2=0.9, epsilon=1e-3), lambda w: torch.optim.Adam(w, lr=0.02, betas=(0.7, 0.9), eps=1e-3),
    ),
    "momentum": (momentum(0.02, 0.8), lambda w: torch.optim.SGD(w, lr=0.02, momentum=0.8)),
    "rmsprop": (rmsprop(0.02), lambda w: torch.optim.RMSprop(w, lr=0.02)),
    "rmsprop, other constants": (
        rmsprop(0.02, decay=0.7, epsilon=1e-3), lambda w: torch.optim.RMSprop(w, lr=0.02, alpha=0.7, eps=1e-3),
    ),
    "decay": (  # torch adds it to the gradient
        sgd(0.03).decayed(0.001), lambda w: torch.optim.SGD(w, lr=0.03, weight_decay=0.001 / 0.03),
    ),
    "decay of adam": (adam(0.02).decayed(0.02 * 0.3), lambda w: torch.optim.AdamW(w, lr=0.02, weight_decay=0.3)),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_torch_optim(name):
    optimiser, make = PAIRS[name]
    found, expected = applied(optimiser, gradients()), by_torch(make, gradients())
    assert np.abs(expected[-1] - 1).min() > 1e-9  # every weight has moved
    assert np.abs(found - expected).max() <= 1e-12 * np.abs(expected).max()


def test_epsilon_hat():
    """``w -= rate*sqrt(1 - beta2**k)/(1 - beta1**k) * m/(sqrt(s) + epsilon)``, which differs from ``adam()`` itself."""
    grads, w, m, s = gradients(), 1.0, 0.0, 0.0
    for k, g in enumerate(grads, 1):
        m, s = 0.9 * m + 0.1 * g, 0.99 * s + 0.01 * g**2
        w = w - 0.02 * np.sqrt(1 - 0.99**k) / (1 - 0.9**k) * m / (np.sqrt(s) + 1e-3)
    hat = applied(adam(0.02, beta2=0.99, epsilon=1e-3, epsilon_hat=True), grads)[-1]
    assert np.abs(hat - w).max() < 1e-12
    assert np.abs(hat - applied(adam(0.02, beta2=0.99, epsilon=1e-3), grads)[-1]).max() > 1e-3


def test_rates():
    optimiser = sgd(0.1).with_rates(cues_rec=0.5, rec_out=0)
    assert optimiser.rate("cues_rec") == 0.05 and optimiser.rate("rec_rec") == 0.1
    assert (applied(optimiser, gradients(), "rec_out") == 1).all()
    assert optimiser.with_rates(rec_out=1).rates == {"cues_rec": 0.5, "rec_out": 1}  # earlier factors stay
    assert sgd(0.1).rates == {}


@pytest.mark.parametrize("held", [0, 3])
def test_a_falling_rate(held):
    """As a schedule in Torch: every change is multiplied by 2**(-(k - 1 - held)/8), once the rate falls."""

    def make(parameters):
        chosen = torch.optim.SGD(parameters, lr=0.03, momentum=0.8)
        step, made = chosen.step, iter(range(1000))

        def falling():
            step()
            chosen.param_groups[0]["lr"] *= 2 ** (-1 / 8) if next(made) >= held else 1.0

        chosen.step = falling
        return chosen

    optimiser, expected = momentum(0.03, 0.8).halved(8, after=held), by_torch(make, gradients())
    assert np.abs(applied(optimiser, gradients()) - expected).max() <= 1e-12 * np.abs(expected).max()
    for other in (momentum(0.03, 0.8), momentum(0.03, 0.8).halved(8, after=held + 1)):
        assert np.abs(applied(other, gradients()) - expected).max() > 1e-2 * np.abs(expected).max()
    assert (applied(optimiser.with_rates(any=0), gradients()) == 1).all()


def test_schedules_that_cannot_be():
    with pytest.raises(LocalplastError, match="cannot halve every 0"):
        sgd(0.1).halved(0)
    with pytest.raises(LocalplastError, match="cannot be held for -1 updates"):
        sgd(0.1).halved(3, after=-1)


@pytest.mark.parametrize("made, words", [
    (adam(0.0015), "adam 0.0015"), (sgd(2.0).with_rates(a=0.5), "sgd 2"), (adam(1e-2).halved(500), "adam 0.01, halved every 500"),
    (adam(1e-2).halved(50, after=100), "adam 0.01, halved every 50 after 100"),
    (madgrad(1e-3), "madgrad 0.001"),
])  # fmt: skip
def test_in_a_few_words(made, words):
    assert made.label == words


def test_others_differ():
    """One constant changed, or a link left out, and the agreement above is gone."""
    for name, wrong in {
        "momentum": momentum(0.02, 0.81), "rmsprop": rmsprop(0.02, decay=0.98), "decay": sgd(0.03),
        "decay of adam": adam(0.02).decayed(0.02 * 0.31), "adam": rmsprop(0.02),
    }.items():  # fmt: skip
        found, expected = applied(wrong, gradients()), by_torch(PAIRS[name][1], gradients())
        assert np.abs(found - expected).max() > 1e-4 * np.abs(expected).max(), name


def test_rmaxprop():
    """``s <- max(decay*s, g**2)``, then ``w -= rate*g/(sqrt(s) + epsilon)``; the first step is as long as the rate."""
    grads, w, s = gradients(), 1.0, 0.0
    for g in grads:
        s = np.maximum(0.6 * s, g**2)
        w = w - 0.02 * g / (np.sqrt(s) + 1e-9)
    found = applied(rmaxprop(0.02, decay=0.6, epsilon=1e-9), grads)
    assert np.abs(found[-1] - w).max() < 1e-13
    assert np.abs(np.abs(found[0] - 1).ravel()[1:4] - 0.02).max() < 1e-4
    assert np.abs(found[-1] - applied(rmsprop(0.02, decay=0.6, epsilon=1e-9), grads)[-1]).max() > 1e-2


def dual_averages(grads, rate, momentum, epsilon):
    """Defazio & Jelassi 2022, algorithm 1, as it is printed; weights after every update."""
    w, s, q, kept = np.ones(grads.shape[1:]), 0.0, 0.0, []
    for k, g in enumerate(grads):
        s, q = s + rate * np.sqrt(k + 1) * g, q + rate * np.sqrt(k + 1) * g**2
        z = 1 - s / (np.cbrt(q) + epsilon)
        w = momentum * w + (1 - momentum) * z
        kept.append(w)
    return np.array(kept)


@pytest.mark.parametrize("constants", [(0.02, 0.9, 1e-6), (0.3, 0.5, 1e-3)])
def test_madgrad(constants):
    rate, share, epsilon = constants
    found, expected = (
        applied(madgrad(rate, momentum=share, epsilon=epsilon), gradients()),
        dual_averages(gradients(), *constants),
    )
    assert np.abs(found / expected - 1).max() < 1e-12
    for wrong in ((1.1 * rate, share, epsilon), (rate, 0.95 * share, epsilon), (rate, share, 100 * epsilon)):
        assert np.abs(found / dual_averages(gradients(), *wrong) - 1).max() > 1e-5
    faster = applied(madgrad(rate, momentum=share, epsilon=epsilon).with_rates(any=2), gradients())
    # a factor scales every step
    assert np.abs((faster - 1) / 2 - (expected - 1)).max() < 1e-12 * np.abs(expected).max()


def test_madgrad_is_its_authors():
    """The published package adds epsilon to the rate too."""
    package = pytest.importorskip("madgrad")
    expected = by_torch(lambda w: package.MADGRAD(w, lr=0.02 - 1e-6, momentum=0.9, eps=1e-6), gradients())
    assert np.abs(applied(madgrad(0.02), gradients()) / expected - 1).max() < 1e-12


def test_clipped():
    """As the optimiser itself on gradients clipped beforehand, whatever it is; a limit chained later only narrows."""
    grads, limit = gradients(), 0.03
    within = np.clip(grads, -limit, limit)
    for optimiser in (sgd(0.3), momentum(0.3), adam(0.02), rmsprop(0.02), rmaxprop(0.02, decay=0.9)):
        expected = applied(optimiser, within)
        for chained in (
            optimiser.clipped(limit),
            optimiser.clipped(limit).clipped(1),
            optimiser.clipped(1).clipped(limit),
        ):
            assert np.abs(applied(chained, grads) - expected).max() < 1e-14
        assert np.abs(applied(optimiser, grads) - expected).max() > 1e-3
    torched = Tape(sgd(1.0).clipped(0.3).program(), {"learning_rate": 1.0})
    w = torched({"w": torch.zeros(1, dtype=torch.float64), "g": torch.ones(1, dtype=torch.float64), "k": 1})["w"]
    assert float(w) == -0.3  # not 0.3 in single precision


def test_decay_makes_two_weights_alike():
    """Kolen & Pollack: the same changes and the same decay, from different starts: the difference shrinks by 1 -
    rate.
    """
    grads, optimiser = gradients(), adam(0.02).decayed(0.1).decayed(0.1)
    step = Tape(optimiser.program(), {"learning_rate": 0.02})
    one, other = ({"w": np.full((3, 4), start), "m": 0.0, "s": 0.0} for start in (1.0, -2.0))
    for number, g in enumerate(grads, 1):
        one, other = (step({**pair, "g": g, "k": number}) for pair in (one, other))
    assert np.abs((one["w"] - other["w"]) / (3 * 0.8**UPDATES) - 1).max() < 1e-12


def test_chosen_projections_decay():
    """Adaptive e-prop lets the readout's weights decay, and no others."""
    optimiser = sgd(0.1).decayed(0.2, only=["rec_out"])
    assert optimiser.program(projection="rec_out") == sgd(0.1).decayed(0.2).program(projection="rec_out")
    assert optimiser.program(projection="cues_rec") == sgd(0.1).program() != optimiser.program(projection="rec_out")


def test_numbers_of_neurons_do_not_decay():
    optimiser = sgd(0.1).decayed(0.2).with_rates(slow=0.5)
    assert optimiser.program(projection="rec.tau_mem") == sgd(0.1).program()
    assert optimiser.program(projection="slow") == sgd(0.1).decayed(0.1).program()


def test_links_refuse_what_makes_no_sense():
    with pytest.raises(LocalplastError, match="decay rate 1.5 is not a share.*from 0 to 1"):
        sgd(0.1).decayed(1.5)
    with pytest.raises(LocalplastError, match="cannot be clipped to 0.*a positive limit"):
        sgd(0.1).clipped(0)


# --- learning on both backends ----------------------------------------------------------------------------------------

N_IN, N, N_OUT = 5, 6, 2


def network(delay=None, model=None, scale=1.0):
    return Network(
        dt=1 * ms, cues=Input(N_IN), rec=Population(N, model or alif(tau_adapt=100 * ms, tau_ref=2 * ms, beta=0.3)),
        out=Population(N_OUT, leaky_readout()),
        projections=[
            Projection("cues", "rec", weight=normal(1.5 * scale, mean=0.3 * scale)),
            Projection("rec", "rec", weight=normal(scale), delay=delay), Projection("rec", "out"),
        ],
    )  # fmt: skip


def trials(count, steps=60, labels=False):
    rng = np.random.default_rng(1)
    target = rng.integers(0, N_OUT, count) if labels else rng.standard_normal((count, steps, N_OUT))
    return Trials({"cues": rng.random((count, steps, N_IN)) < 0.25}, target, weight=rng.uniform(0.01, 0.03, steps))


def torch_optimiser(optimiser, parameters):
    """The optimiser of torch.optim with the same constants, and a rate per projection."""
    groups = [{"params": [w], "lr": optimiser.rate(name)} for name, w in parameters.items()]
    if optimiser.name == "rmsprop":
        return torch.optim.RMSprop(groups, alpha=optimiser.constants["decay"])
    if optimiser.name in ("sgd", "momentum"):
        return torch.optim.SGD(groups, momentum=optimiser.constants.get("beta", 0.0))
    return torch.optim.Adam(groups)


def by_trial(net, values, given, rule, loss, optimiser, batch):
    """Weights after every update, by torch.optim on the gradients of the traces."""
    parameters = {n: torch.tensor(w, requires_grad=True) for n, w in values.weights.items()}
    stepper = torch_optimiser(optimiser, parameters)
    for start in range(0, len(given), batch):
        now = values.replace_weights({n: w.detach().numpy() for n, w in parameters.items()})
        grads, info = torch_backend.gradient(net, now, given[start : start + batch], rule, loss, form="traces")
        assert 0.5 < info["counts"]["rec"].mean() < 40
        for name, w in parameters.items():
            w.grad = torch.tensor(grads[f"{name}.weight"])
        stepper.step()
        for group in stepper.param_groups:
            group["lr"] *= 2 ** (-1 / optimiser.halving)
        yield {n: w.detach().numpy().copy() for n, w in parameters.items()}


def by_step(net, values, given, rule, loss, optimiser):
    """Weights after every trial, by torch.optim in every step."""
    learner = OnlineLearner(net, plan(net, rule, loss), leaves(net, values), values.masks)
    names = {n: f"{n}.weight" for n in learner.plan.synapses}
    parameters = {n: torch.nn.Parameter(learner.numbers[name]) for n, name in names.items()}  # sharing its memory
    stepper = torch_optimiser(optimiser, parameters)

    def every_step(running, _):
        for name, weight in parameters.items():
            found = running.engine.values[f"{name}.gradient"]
            weight.grad, running.engine.values[f"{name}.gradient"] = found * running.masks[name], 0 * found
        stepper.step()

    for number in range(len(given)):
        one = given[number]
        inputs, target, weight = torch_backend.prepare(
            net, one, loss, rng=np.random.default_rng(0), dtype=torch.float64
        )
        _, counts = learner.run(inputs, target, weight, on_step=every_step)
        assert 0.5 < counts["rec"].mean() < 40
        yield {n: w.detach().numpy().copy() for n, w in parameters.items()}


def same_weights(learners, expected, start, tolerance=1e-8):
    """Every learner's weights after an update, against ``expected``, relative to how far each projection has moved."""
    for name, w in expected.items():
        moved = np.abs(w - start[name]).max()
        assert moved > 0.01 * np.abs(start[name]).max(), f"{name} has hardly learned"
        for learner in learners:
            error = np.abs(learner.numbers()[name] - w).max() / moved
            assert error < tolerance, (learner.backend, name, error)


def both_learners(net, values, given, rule, loss, optimiser, batch=1):
    yield TorchLearner(net, values, rule, loss, optimiser, batch=batch)
    yield Brian2Learner(net, values, rule, loss, optimiser, given, batch=batch)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("optimiser", [sgd(0.3), adam(0.05).with_rates(rec_rec=0.3).halved(3)], ids=lambda o: o.name)
def test_update_every_trial(optimiser, batch):
    net, given = network(), trials(4 * batch, labels=True)
    values, rule, loss = net.draw(2), eprop(feedback="random"), cross_entropy() + rate(20, 1e-5)
    learners = list(both_learners(net, values, given, rule, loss, optimiser, batch))
    for number, expected in enumerate(by_trial(net, values, given, rule, loss, optimiser, batch)):
        for learner in learners:
            learner.train(given[number * batch : (number + 1) * batch])
        same_weights(learners, expected, values.weights)


def test_several_updates_in_one_block():
    """As many updates as trials in a single run of Brian2: between trials nothing is left over."""
    net, given, rule, loss, optimiser = network(axonal(3 * ms)), trials(6), eprop(), mse(), adam(0.05)
    values = net.draw(2)
    learner = Brian2Learner(net, values, rule, loss, optimiser, given, batch=2, updates_per_block=3)
    learner.train(given)
    *_, expected = by_trial(net, values, given, rule, loss, optimiser, 2)
    same_weights([learner], expected, values.weights)


def test_volts():
    """Weights in volts: gradients and Adam's state carry units in Brian2, and the numbers are the same."""
    net, given = network(model=cuba_lif(), scale=40 * mV), trials(3)
    values, rule, loss, optimiser = net.draw(2), eprop(), mse(), adam(2e-3).with_rates(rec_out=20)
    learners = list(both_learners(net, values, given, rule, loss, optimiser))
    for number, expected in enumerate(by_trial(net, values, given, rule, loss, optimiser, 1)):
        for learner in learners:
            learner.train(given[number])
        same_weights(learners, expected, values.weights)


DELAYS = {
    "no delay": None,
    "axonal": axonal(np.array([0, 1, 4, 2, 1, 3]) * ms),
    "dendritic": dendritic(np.array([0, 1, 4, 2, 1, 3]) * ms),
    "synaptic": synaptic(np.arange(N * N).reshape(N, N) % 5 * ms),
}


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    "delay, optimiser",
    [("no delay", sgd(0.02)), *((delay, adam(2e-3)) for delay in DELAYS)],
    ids=lambda v: getattr(v, "name", v),
)
def test_update_every_step(delay, optimiser):
    """Weights change while spikes are under way: 3 trials of 60 updates each."""
    net, given, rule, loss = network(DELAYS[delay]), trials(3), eprop(update="step"), mse()
    values = net.draw(2)
    learners = list(both_learners(net, values, given, rule, loss, optimiser))
    for number, expected in enumerate(by_step(net, values, given, rule, loss, optimiser)):
        for learner in learners:
            learner.train(given[number])
        same_weights(learners, expected, values.weights)


#: What has no counterpart in torch.optim is compared between backends, and with what it is without the link.
OTHERS = {
    "momentum": momentum(0.02, 0.8), "rmsprop": rmsprop(2e-3, decay=0.9),
    "rmaxprop, clipped, decayed": rmaxprop(2e-3, decay=0.9).clipped(1e-3).decayed(0.02), "madgrad": madgrad(1e-4),
}  # fmt: skip


@pytest.mark.sampled(9)
@pytest.mark.parametrize("update", ["trial", "step"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_optimisers(name, update):
    net, given, rule = network(axonal(2 * ms)), trials(3), eprop(update=update)
    values, optimiser = net.draw(2), OTHERS[name]
    if update == "trial" and name != "momentum":  # fewer and larger steps
        optimiser = optimiser.with_rates(cues_rec=10, rec_rec=10, rec_out=10)
    learners = list(both_learners(net, values, given, rule, mse(), optimiser))
    if name in ("momentum", "rmsprop"):
        options = () if update == "step" else (1,)
        *_, expected = (by_step if update == "step" else by_trial)(net, values, given, rule, mse(), optimiser, *options)
    else:
        plain = TorchLearner(net, values, rule, mse(), optimiser, batch=1)
        plain.online = plain.online and OnlineLearner(
            net, plan(net, rule, mse()), plain.tensors, values.masks, optimiser
        )
        plain.train(given)
        expected = plain.numbers()
    for learner in learners:
        for number in range(len(given)):
            learner.train(given[number])
    same_weights(learners, expected, values.weights)


def test_links_matter():
    """Otherwise the test above would show nothing."""
    net, given, found = network(), trials(3), []
    plain = rmaxprop(2e-3, decay=0.9)
    for each in (plain, plain.clipped(1e-3), plain.decayed(0.02)):
        learner = TorchLearner(net, net.draw(2), eprop(update="step"), mse(), each)
        learner.train(given)
        found.append(learner.numbers()["cues_rec"])
    for other in found[1:]:
        assert np.abs(found[0] - other).max() > 1e-3 * np.abs(found[0]).max()


def test_steps_and_trials_differ():
    """Otherwise the tests above would show nothing."""
    net, given, optimiser = network(), trials(2), sgd(0.3)
    values = net.draw(2)
    *_, per_step = by_step(net, values, given, eprop(update="step"), mse(), optimiser)
    *_, per_trial = by_trial(net, values, given, eprop(), mse(), optimiser, 1)
    moved = np.abs(per_trial["cues_rec"] - values.weights["cues_rec"]).max()
    assert np.abs(per_step["cues_rec"] - per_trial["cues_rec"]).max() > 0.01 * moved


def test_every_step_has_limits():
    net, given, rule = network(), trials(2), eprop(update="step")
    with pytest.raises(UnsupportedError, match="cannot regularise the rate of a trial.*update='trial'"):
        TorchLearner(net, net.draw(2), rule, mse() + rate(20, 1e-5), sgd(0.1))
    with pytest.raises(UnsupportedError, match="use batch=1, not 2"):
        Brian2Learner(net, net.draw(2), rule, mse(), sgd(0.1), given, batch=2)


def test_frozen():
    net, given = network(), trials(2)
    values, optimiser = net.draw(2), adam(0.05).with_rates(cues_rec=0)
    for learner in both_learners(net, values, given, eprop(), mse(), optimiser):
        learner.train(given[0])
        assert (learner.numbers()["cues_rec"] == values.weights["cues_rec"]).all(), learner.backend
        assert (learner.numbers()["rec_out"] != values.weights["rec_out"]).any(), learner.backend
