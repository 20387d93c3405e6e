"""Dendritic prediction of somatic spiking (Urbanczik & Senn 2014): a recursion by hand, likelihoods, and what must be
learned.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from brian2 import amp, ms, mV, volt

import localplast as lp
from localplast.backends.brian2.learner import Brian2Learner
from localplast.backends.torch.learner import TorchLearner
from localplast.errors import ModelError
from localplast.models import graded_readout, urbanczik_senn
from localplast.network import Network, Population, Projection
from localplast.neuron import Mismatch
from localplast.protocols import urbanczik_senn as protocol
from localplast.rules import bptt, dendritic
from localplast.task import Task, Trials
from localplast.task.loss import mse

C, G_L, G_D, E_L, E_EXC, E_INH = 300e-12, 30e-9, 600e-9, -70e-3, 0.0, -75e-3
TAU_SYN, TAU_REF, PHI_MAX, K, BETA, THETA = 3e-3, 3e-3, 150.0, 0.5, 1 / 3e-3, -55e-3
WMAX = 1350e-12
FORMS = ("spikes", "rates")
BACKENDS = ("torch", "brian2")


def phi(u):
    return PHI_MAX / (1 + K * np.exp(BETA * (THETA - u)))


def h(u):
    return BETA / (1 + np.exp(-BETA * (THETA - u)) / K)


def by_hand(trials, weight, dt, *, form="spikes", rate=0.0, memory=0.0):
    """The first trial as the equations say, by exponential Euler, SI units; ``weight`` is ``(pre,)``.

    Weights learn at ``rate`` in every step, through a low-pass filter that keeps the share ``memory``. A dict of
    series ``(time,)`` or ``(time, pre)``: of weights, those after the step.
    """
    pattern, dice, g_exc, g_inh = (trials.inputs[k][0].astype(float) for k in ("pattern", "dice", "exc", "inh"))
    w, held, kept = weight.copy(), np.zeros(len(weight)), []
    u, v, current, ge, gi, die, since = E_L, E_L, 0.0, 0.0, 0.0, 0.0, 10**9
    eps_v, eps_current = np.zeros((2, len(w)))
    leak, fade = np.exp(-dt * G_L / C), np.exp(-dt / TAU_SYN)
    for n in range(trials.steps):
        total = G_L + G_D + ge + gi
        aim = (G_L * E_L + G_D * v + ge * E_EXC + gi * E_INH) / total
        u, v = aim + (u - aim) * np.exp(-dt * total / C), E_L + current / G_L + (v - E_L - current / G_L) * leak
        eps_v = eps_v * leak + eps_current / G_L * (1 - leak)
        eps_current, current, since = eps_current * fade, current * fade, since + 1
        star, trace = (G_L * E_L + G_D * v) / (G_L + G_D), eps_v * G_D / (G_L + G_D)
        ready = float(since >= round(TAU_REF / dt))
        z = ready * float(die > 1 - phi(u) * dt)
        since = 0 if z else since
        current, eps_current = current + pattern[n] @ w, eps_current + pattern[n]
        ge, gi, die = g_exc[n, 0], g_inh[n, 0], dice[n, 0]
        error = h(star) * (z - ready * phi(star) * dt if form == "spikes" else (phi(u) - phi(star)) * dt)
        held = memory * held + (1 - memory) * error * trace
        w = np.clip(w + rate * held, 0, WMAX)
        kept.append((u, v, star, z, ready, error, trace, w))
    names = ("u", "v_den", "star", "z", "ready", "error", "trace", "w")
    return {name: np.array(series) for name, series in zip(names, zip(*kept, strict=True), strict=True)}


def some(form="spikes", dt=0.25 * ms, n=1):
    """The network of the protocol, its weights made unequal, and trials of 250 ms: 1000 steps unless ``dt`` says
    otherwise.
    """
    net = protocol.network(form=form, dt=dt)
    weight = np.random.default_rng(5).uniform(20e-12, 160e-12, (200, 1))
    values = net.draw(0).replace_weights({"pattern_cell": weight})
    return net, protocol.taught_trials(3, np.random.default_rng(1), n, dt=dt), values


def gradient(net, trials, values, rule=None, backend="torch"):
    """``(pre,)``; of the dendritic rule unless another is given."""
    found = lp.gradient(net, trials, rule or dendritic(update="trial"), loss=mse(), values=values, backend=backend)
    return found["pattern_cell"]["gradient"].values[:, 0]


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


# ----------------------------------------------------------------------------------------------- the recursion


@pytest.mark.sampled(2, 1)
@pytest.mark.parametrize("form", FORMS)
def test_the_cell_follows_the_recursion_by_hand(form, twins):
    net, trials, values = some(form)
    expected = by_hand(trials, values.weights["pattern_cell"][:, 0], 0.25e-3, form=form)
    for found in twins.both(net, trials, values=values):
        for name in ("u", "v_den"):
            assert np.abs(found[f"cell.{name}"][0, :, 0] - expected[name]).max() < 1e-13
        assert np.abs(found["out.shown"][0, :, 0] - 1e3 * expected["star"]).max() < 1e-10
        if form == "spikes":
            assert np.array_equal(found["cell.spikes"][0, :, 0], expected["z"]) and 10 < expected["z"].sum() < 40
            assert np.diff(np.flatnonzero(expected["z"])).min() >= 12  # 3 ms


@pytest.mark.sampled(2, 1)
@pytest.mark.parametrize("form", FORMS)
def test_both_backends_learn_as_the_recursion_by_hand(form):
    """1000 steps, weights that change in each of them through the low-pass filter, some up to their lower bound."""
    net, trials, values = some(form)
    dt, rate, start = 0.25e-3, 60_000e-24, values.weights["pattern_cell"][:, 0]
    memory = float(np.exp(-dt / 0.1))
    series = by_hand(trials, start, dt, form=form, rate=rate, memory=memory)["w"]
    assert np.ptp(series[-1] - start) > 50e-12 and (series[-1] == 0).any()
    without = by_hand(trials, start, dt, form=form, rate=rate)["w"][-1]
    optimiser = protocol.low_pass(rate, net.dt)
    learners = [
        TorchLearner(net, values, dendritic(), mse(), optimiser, batch=1, seed=0),
        Brian2Learner(net, values, dendritic(), mse(), optimiser, trials, batch=1, seed=0, target="numpy"),
    ]
    for learner in learners:
        learner.train(trials)
        found = learner.numbers()["pattern_cell"][:, 0]
        learner.close()
        assert relative(found, series[-1]) < 1e-8 < 1e-3 < relative(found, without)


# ---------------------------------------------------------------------------- nothing to learn where v_star = u


def steady(form="spikes", *, teacher=0.0, n=1, steps=200, model=None):
    """Constant input to a soma that has settled where its dendrite says: ``v_star = u`` in every step, unless a
    teacher pulls.

    ``teacher`` is an excitatory conductance, in siemens. Returns network, trials, values, and ``v_star`` in volts.
    """
    weight, base = 13e-12, protocol.network(form=form, inputs=5)
    current = 5 * weight / (1 - np.exp(-0.5e-3 / TAU_SYN))  # as an update finds it
    v = E_L + current / G_L
    star = (G_L * E_L + G_D * v) / (G_L + G_D)
    settled = {"u": star * volt, "v_den": v * volt, "I_den": current * amp}
    cell = Population(1, model or urbanczik_senn(form=form), initial=settled)
    net = Network(dt=base.dt, projections=list(base.projections.values()), **{**base.nodes, "cell": cell})
    silent = np.zeros((n, steps, 1))
    dice = np.random.default_rng(4).random((n, steps, 1))
    inputs = {"pattern": np.ones((n, steps, 5), bool), "exc": silent + teacher, "inh": silent, "dice": dice}
    return net, Trials(inputs, silent), net.draw(0).replace_weights({"pattern_cell": np.full((5, 1), weight)}), star


@pytest.mark.thorough
@pytest.mark.parametrize("backend", BACKENDS)
def test_rates_teach_nothing_where_the_prediction_is_right(backend):
    pulled = gradient(*steady("rates", teacher=50e-9)[:3], backend=backend)
    right = gradient(*steady("rates")[:3], backend=backend)
    assert np.all(pulled < 0)  # a soma above the prediction: weights grow
    assert np.abs(right).max() < 1e-11 * np.abs(pulled).max()


def deviations(found, star, n, steps=200):
    """A mean gradient over ``n`` trials of :func:`steady`, in units of its standard error where spikes come as
    predicted.
    """
    leak, fade = np.exp(-0.5e-3 * G_L / C), np.exp(-0.5e-3 / TAU_SYN)
    eps_v = eps_current = square = 0.0
    for _ in range(steps):
        eps_v, eps_current = eps_v * leak + eps_current / G_L * (1 - leak), eps_current * fade + 1
        square += (h(star) * eps_v * G_D / (G_L + G_D)) ** 2
    p = phi(star) * 0.5e-3
    # errors of different steps do not correlate, refractory ones are zero
    return found / np.sqrt(square * p * (1 - p) / n)


def test_spikes_teach_nothing_on_average_where_the_prediction_is_right():
    n = 1000
    net, trials, values, star = steady(n=n)
    assert 60 < phi(star) < 100
    assert np.abs(deviations(gradient(net, trials, values), star, n)).max() < 4
    pulled = gradient(*steady(n=n, teacher=50e-9)[:3])
    assert deviations(pulled, star, n).max() < -10


def test_a_dead_time_that_is_expected_to_be_filled_teaches_lower_rates():
    """``S - phi(V*)`` in the dead time too, as in NEST: far from zero where the prediction is right."""
    n, corrected = 1000, urbanczik_senn()
    always = replace(corrected, mismatch={"I_den": Mismatch("(z - phi_star*dt)*h", of="v_star")})
    net, trials, values, star = steady(n=n, model=always)
    assert deviations(gradient(net, trials, values), star, n).min() > 10


# ------------------------------------------------------------------------------------------------- the likelihood


def predicted(trials, weight, dt):
    """``v_star`` ``(time,)`` as a differentiable function of the weights: a dendrite written out in Torch."""
    pattern = torch.as_tensor(trials.inputs["pattern"][0].astype(float))
    leak, fade = np.exp(-dt * G_L / C), np.exp(-dt / TAU_SYN)
    v, current, series = torch.tensor(E_L, dtype=torch.float64), torch.zeros((), dtype=torch.float64), []
    for arrived in pattern:
        v, current = E_L + current / G_L + (v - E_L - current / G_L) * leak, current * fade
        series.append((G_L * E_L + G_D * v) / (G_L + G_D))
        current = current + arrived @ weight
    return torch.stack(series)


def slopes(likelihood, weight):
    """Of the log-likelihood of every step with respect to every weight, ``(time, pre)``."""
    every = torch.eye(len(likelihood), dtype=torch.float64)
    (found,) = torch.autograd.grad(likelihood, weight, every, is_grads_batched=True, retain_graph=True)
    return found.numpy()


def torch_phi(u):
    return PHI_MAX / (1 + K * torch.exp(BETA * (THETA - u)))


@pytest.fixture(scope="module")
def spoken():
    """A trial with its spikes, what the rule makes of every step, and a differentiable prediction."""
    net, trials, values = some(dt=0.5 * ms)
    weight = values.weights["pattern_cell"][:, 0]
    seen = by_hand(trials, weight, 0.5e-3)
    learned = torch.tensor(weight, requires_grad=True)
    return net, trials, values, seen, learned, torch_phi(predicted(trials, learned, 0.5e-3))


def test_the_rule_is_the_gradient_of_the_likelihood_of_the_spikes(spoken):
    """In every step: of a point process with the predicted hazard, ``z log phi(v_star) - phi(v_star) dt`` where it is
    ready.
    """
    net, trials, values, seen, weight, rate = spoken
    z, ready = torch.tensor(seen["z"]), torch.tensor(seen["ready"])
    expected = slopes(z * torch.log(rate) - ready * rate * 0.5e-3, weight)
    assert relative(seen["error"][:, None] * seen["trace"], expected) < 1e-10
    # the sum up to some step, with the sign of a loss
    for backend, steps in (("torch", 137), ("torch", 500), ("brian2", 500)):
        part = Trials({k: v[:, :steps] for k, v in trials.inputs.items()}, trials.target[:, :steps])
        assert relative(gradient(net, part, values, backend=backend), -expected[:steps].sum(0)) < 1e-10


def test_the_likelihood_of_bernoulli_draws_differs_by_the_chance_of_a_spike(spoken):
    """One draw per step with the chance ``p = phi dt``: its gradient is the rule's over ``1 - p``, so the same as dt
    shrinks.
    """
    *_, seen, weight, rate = spoken
    z, ready, p = torch.tensor(seen["z"]), torch.tensor(seen["ready"]), rate * 0.5e-3
    expected = slopes(ready * (z * torch.log(p) + (1 - z) * torch.log(1 - p)), weight)
    rule = seen["error"][:, None] * seen["trace"]
    assert relative(rule / (1 - p.detach().numpy()[:, None]), expected) < 1e-10
    assert 1e-3 < relative(rule, expected) < PHI_MAX * 0.5e-3


def test_the_rule_of_rates_is_its_expectation(spoken):
    """With the soma's hazard in place of its spikes, and always ready."""
    net, trials, values, seen, weight, rate = spoken
    hazard = torch.tensor(phi(seen["u"])) * 0.5e-3
    expected = slopes(hazard * torch.log(rate) - rate * 0.5e-3, weight).sum(0)
    alike = protocol.network(form="rates", dt=0.5 * ms)
    same = alike.draw(0).replace_weights({"pattern_cell": values.weights["pattern_cell"]})
    assert relative(gradient(alike, trials, same), -expected) < 1e-10


@pytest.mark.thorough
def test_bptt_minimises_the_distance_of_prediction_and_matching_potential(spoken):
    net, trials, values, seen, *_ = spoken
    gap = 1e3 * seen["star"] - trials.target[0, :, 0]
    expected = ((trials.weight * gap)[:, None] * 1e3 * seen["trace"]).sum(0)
    found = gradient(net, trials, values, bptt())
    assert relative(found, expected) < 1e-10
    taught = gradient(net, trials, values)
    assert 0.3 < found @ taught / np.linalg.norm(found) / np.linalg.norm(taught) < 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_spike_potentiates_and_its_absence_depresses(backend):
    net, trials, values, _ = steady(steps=60)

    def after(spike):
        dice = np.zeros((1, 60, 1))
        dice[0, 50] = spike
        return gradient(net, Trials({**trials.inputs, "dice": dice}, trials.target), values, backend=backend)

    silent, spiked = after(0.0), after(1.0)
    assert np.all(silent > 0) and np.all(spiked < silent)  # gradients of a loss: below zero, weights grow
    assert np.all(gradient(net, Trials({**trials.inputs, "dice": np.ones((1, 60, 1))}, trials.target), values) < 0)


# ------------------------------------------------------------------------------------------------------ the protocol


def test_the_matching_potential_is_that_of_the_conductances_a_step_before():
    trials = protocol.taught_trials(0, np.random.default_rng(0), 2)
    g_exc, g_inh, target = trials.inputs["exc"][:, :-1], trials.inputs["inh"][:, :-1], trials.target[:, 1:]
    assert np.abs((g_exc * 1e3 * E_EXC + g_inh * 1e3 * E_INH) / (g_exc + g_inh) - target).max() < 1e-9
    assert target.min() == pytest.approx(-72.58, abs=0.02) and target.max() == pytest.approx(-47.87, abs=0.02)
    assert trials.weight.sum() == pytest.approx(1) and np.count_nonzero(trials.weight == 0) == 100
    assert np.array_equal(trials.inputs["pattern"][:, :100], trials.inputs["pattern"][:, -100:])


def test_the_teacher_is_as_strong_as_in_the_published_example():
    """There each 0.1 ms adds ``0.018 C + 0.016 C sin`` and ``0.06 C`` to conductances that decay within 3 ms."""
    t = np.arange(0, 0.2, 1e-4)
    added = 300e-9 * np.stack([0.018 + 0.016 * np.sin(2 * np.pi * t / 0.1), np.full_like(t, 0.06)])
    kernel = np.exp(-np.arange(600) / 30)
    felt = np.array([np.convolve(np.tile(row, 2), kernel)[len(t) : 2 * len(t)] for row in added])
    ours = np.array(protocol.conductances(t))
    assert np.abs(felt.mean(1) / ours.mean(1) - 1).max() < 0.02
    assert np.ptp(felt[0]) == pytest.approx(np.ptp(ours[0]), rel=0.03)


def three_cells(dt=1 * ms):
    """Cells of the protocol with one pattern: one is taught, one is taught with its conductances swapped, one is not
    taught.
    """
    base = protocol.network(dt=dt)
    only = np.eye(3)
    nodes = {**base.nodes, "cell": Population(3, urbanczik_senn()), "out": Population(3, graded_readout())}
    kept = [
        base.projections["pattern_cell"],
        *(
            Projection(pre, "cell", target=target, weight=only[who][None], plastic=False, name=f"{pre}_{target}")
            for pre, target, who in [("exc", "g_exc", 0), ("inh", "g_inh", 0), ("exc", "g_inh", 1), ("inh", "g_exc", 1)]
        ),
        replace(base.projections["dice_cell"], weight=np.ones((1, 3))),
        replace(base.projections["cell_out"], weight=only / mV),
    ]  # fmt: skip
    return Network(dt=dt, projections=kept, **nodes)


@pytest.mark.thorough
def test_the_prediction_learns_the_matching_potential_and_keeps_it_without_the_teacher():
    """And neither without a teacher nor with one whose conductances are swapped."""
    net, dt = three_cells(), 1 * ms

    def shown(noise, n):
        trials = protocol.taught_trials(0, np.random.default_rng(noise), n, dt=dt)
        return replace(trials, target=np.repeat(trials.target, 3, axis=2))

    task = Task(
        "three cells", lambda update, batch, seed: shown([seed, 0, update], batch), lambda n, seed: shown([seed, 1], n)
    )
    fit = lp.run(
        net, task, rule=dendritic(), optimiser=protocol.low_pass(12_000e-24, dt), loss=mse(), updates=24, backend="brian2",
        target="numpy",
    )  # fmt: skip
    trials = shown(7, 1).without(net.teachers)
    judged = trials.weight > 0
    said = lp.run(net, trials, values=net.values_from(fit), record=["out.shown"])["out"]["shown"].values[0, judged]
    before = lp.run(net, trials, record=["out.shown"])["out"]["shown"].values[0, judged]
    taught, swapped, alone = (np.corrcoef(column, trials.target[0, judged, 0])[0, 1] for column in said.T)
    assert taught > 0.9 and swapped < 0 and alone < 0.5
    assert abs(np.corrcoef(before[:, 0], trials.target[0, judged, 0])[0, 1]) < 0.5


@pytest.mark.thorough
def test_the_correlation_and_the_figure_of_the_protocol():
    preset = protocol.protocol.presets["quick"]()
    net, trials = preset.network, preset.task.testing(1, 0)
    values = net.draw(0)
    seen = protocol.prediction(net, trials, values, backend="torch")
    alone = protocol.prediction(net, trials.without(net.teachers), values, backend="torch")
    assert np.abs(alone["u"] - alone["v_star"]).max() < 2 < np.abs(seen["u"] - seen["v_star"]).max()
    assert np.abs(seen["v_star"] - alone["v_star"]).max() < 1e-12  # the soma does not reach the dendrite
    expected = np.corrcoef(alone["v_star"][0], trials.target[0, trials.weight > 0, 0])[0, 1]
    assert protocol.correlation(net, trials, values, backend="torch") == pytest.approx(expected)
    drawn = protocol.figure(net, trials, values, values, backend="torch")
    titles = ["before learning", "after learning, with the teacher", "after learning, teacher off"]
    assert [ax.get_title() for ax in drawn.axes] == titles
    assert all(len(ax.lines) == 3 for ax in drawn.axes)


def test_an_unknown_form_is_refused():
    with pytest.raises(ModelError, match="form is 'spikes' or 'rates', not 'bursts'"):
        urbanczik_senn(form="bursts")


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(3))
def test_the_whole_protocol(form, seed):
    """100 repetitions of 200 ms, as published."""
    preset = protocol.protocol.presets["quick"]()
    net = protocol.network(form=form)
    options = dict(optimiser=preset.optimiser, loss=preset.loss, updates=preset.updates, seed=seed)
    fit = lp.run(net, preset.task, rule=dendritic(), **options)
    trials = preset.task.testing(1, seed)
    assert (
        protocol.correlation(net, trials, net.values_from(fit))
        > 0.93
        > 0.7
        > protocol.correlation(net, trials, net.draw(seed))
    )
