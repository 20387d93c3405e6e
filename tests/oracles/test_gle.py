"""Generalised latent equilibrium against its published recursion in numpy, closed forms of its operators, and the exact adjoint.

Ellenberger et al. 2024, arXiv:2403.16933.
"""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from brian2 import ms, second

import localplast as lp
from localplast.backends.torch_step import Twin, leaves
from localplast.errors import LocalplastError, ModelError, NetworkError
from localplast.locality import audit
from localplast.models import gle, gle_output, latent_equilibrium, latent_equilibrium_output
from localplast.models.layers import layered
from localplast.plan import plan
from localplast.protocols import gle_lag_line, gle_lag_net
from localplast.rules import bptt, dendritic

DT, GAMMA, BETA = 1e-3, 0.3, 0.5
SIZES = (3, 4, 5, 2)
LAYERS = ("hidden1", "hidden2", "out")
RNG = np.random.default_rng(0)
TAU_M = {name: RNG.uniform(3e-3, 30e-3, n) for name, n in zip(LAYERS, SIZES[1:])}
TAU_R = {name: RNG.uniform(3e-3, 30e-3, n) for name, n in zip(LAYERS, SIZES[1:])}
BIAS = {name: RNG.normal(0, 0.3, n) for name, n in zip(LAYERS, SIZES[1:])}


def network(loss="mse", **options):
    """Two layers of tanh neurons, each neuron with time constants of its own; all of it may learn."""
    given = {name: {"tau_m": TAU_M[name] * second, "tau_r": TAU_R[name] * second, "b": BIAS[name]} for name in LAYERS}
    return layered(
        SIZES, gle(gamma=GAMMA), gle_output(activation="tanh", loss=loss, gamma=GAMMA, beta=BETA), parameters=given, dt=DT * second,
        trainable={name: {"b": (None, None), "tau_m": (2 * ms, None)} for name in LAYERS}, **options,
    )  # fmt: skip


def moving(steps, trials=1, seed=1):
    """Inputs that walk, a target that walks, and a teacher who is silent now and then."""
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.normal(0, 0.1, (trials, steps, SIZES[0] + SIZES[-1])), axis=1)
    teach = np.tile((np.arange(steps) % 50 < 40).astype(float)[:, None], (trials, 1, 1))
    target = np.tanh(walk[..., SIZES[0] :])
    return lp.Trials({"sense": walk[..., : SIZES[0]], "teach": teach, "target": target}, target)


def softmax(r):
    return np.exp(r) / np.exp(r).sum()


def published(values, trials, loss="mse"):
    """One trial by the recursion of the reference: what each layer is in every step, and gradients summed over all.

    A step before the first has no input and no teacher.
    """
    w = [values.weights[f"up{k}"] for k in (1, 2, 3)]
    u, v, r, slope = ([np.zeros(n) for n in SIZES[1:]] for _ in range(4))
    below = [np.zeros(n) for n in SIZES[:-1]]
    kept, gradients = {f"{n}.{x}": [] for n in LAYERS for x in ("u", "v", "delta", "u_breve", "rate")}, {}
    for t in range(-1, trials.steps):
        x, target, teach = (trials.inputs[k][0, t] if t >= 0 else 0 * trials.inputs[k][0, 0] for k in ("sense", "target", "teach"))
        answer = softmax(r[2]) if loss == "cross_entropy" else r[2]
        down = [below[1], below[2], BETA * teach * (target - answer)]
        inputs, new_r = [x, r[0], r[1]], []
        for k, name in enumerate(LAYERS):
            s = slope[k] * down[k]
            dv = (s - v[k]) / TAU_R[name]
            e, old_v, old_u = v[k] + TAU_M[name] * dv, v[k], u[k]
            v[k] = v[k] + DT * dv
            arriving = inputs[k] @ w[k] if t >= 0 else 0.0
            du = (arriving + BIAS[name] + GAMMA * e - u[k]) / TAU_M[name]
            u_breve, u[k] = u[k] + TAU_R[name] * du, u[k] + DT * du
            change = {f"up{k + 1}": np.outer(inputs[k], e), f"{name}.b": e, f"{name}.tau_m": -e * du}
            gradients = {**gradients, **{key: gradients.get(key, 0.0) - g for key, g in change.items()}}
            new_r.append(np.tanh(u_breve))
            slope[k], below[k] = 1 - np.tanh(u_breve) ** 2, w[k] @ e
            for key, value in {"u": old_u, "v": old_v, "delta": e, "u_breve": u_breve, "rate": new_r[-1]}.items():
                kept[f"{name}.{key}"].append(value)
        r = new_r
    return {key: np.array(series)[1:] for key, series in kept.items()}, gradients


def found(tree):
    """Gradients by name: ``up1``, ``hidden1.tau_m``."""
    return {
        name if key == "gradient" else f"{name}.{key.removeprefix('gradient_')}": array.values
        for name, node in tree.children.items() for key, array in node.data_vars.items()
    }  # fmt: skip


class TestPublishedRecursion:
    @pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
    @pytest.mark.parametrize(("backend", "tolerance"), [("torch", 1e-12), ("brian2", 1e-9)])
    def test_every_step(self, twins, loss, backend, tolerance):
        net, trials = network(loss), moving(200)
        expected, _ = published(net.draw(1), trials, loss)
        states = getattr(twins, backend)(net, trials, list(expected), values=net.draw(1))
        for name, series in expected.items():
            assert np.abs(states[name][0] - series).max() < tolerance, name
        assert np.abs(expected["hidden1.delta"]).max() > 0.03  # errors arrive

    @pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
    @pytest.mark.parametrize(("backend", "tolerance"), [("torch", 1e-12), ("brian2", 1e-9)])
    def test_what_is_learned_from(self, loss, backend, tolerance):
        net, trials = network(loss), moving(200)
        _, expected = published(net.draw(1), trials, loss)
        gradients = found(lp.gradient(net, trials, dendritic(), loss=lp.losses.mse(), values=net.draw(1), backend=backend))
        assert set(gradients) == set(expected)
        for name, gradient in gradients.items():
            assert np.abs(gradient - expected[name]).max() < tolerance * np.abs(expected[name]).max(), name

    def test_potential_of_another_moment_is_noticed(self):
        net, trials = network(), moving(200)
        _, expected = published(net.draw(1), trials)
        late = replace(trials, inputs={**trials.inputs, "target": np.roll(trials.inputs["target"], 1, axis=1)})
        gradients = found(lp.gradient(net, late, dendritic(), loss=lp.losses.mse(), values=net.draw(1)))
        assert np.abs(gradients["up1"] - expected["up1"]).max() > 1e-3 * np.abs(expected["up1"]).max()

    def test_learned_feedback_moves_as_the_weights_that_it_answers(self):
        """Kolen & Pollack 1994: the same product of the same moment, on both sides."""
        net = network(feedback="learned")
        gradients = found(lp.gradient(net, moving(100), dendritic(), loss=lp.losses.mse()))
        for k in (1, 2):
            assert np.abs(gradients[f"up{k + 1}"]).max() > 1e-3
            np.testing.assert_allclose(gradients[f"down{k}"], gradients[f"up{k + 1}"].T, rtol=1e-12, atol=1e-15)


def by_hand(values, trials, rates):
    """Numbers after one trial in which everything learns in every step; ``rates`` by kind of number.

    Order of a step: what leaves, potentials, what arrives, errors, learning. Feedback is symmetric.
    """
    w = {k: values.weights[k].copy() for k in ("up1", "up2", "up3")}
    b, tau = ({n: values.parameters[n][key].copy() for n in LAYERS} for key in ("b", "tau_m"))
    zero = {n: np.zeros(size) for n, size in zip(LAYERS, SIZES[1:])}
    u, v, current, nudge = (dict(zero) for _ in range(4))

    def seen(n):
        """Error, drive and prospective potential."""
        error = v[n] + tau[n] * (nudge[n] - v[n]) / TAU_R[n]
        drive = current[n] + b[n] + GAMMA * error
        return error, drive, u[n] + TAU_R[n] * (drive - u[n]) / tau[n]

    for t in range(trials.steps):
        leaving = {n: seen(n) for n in LAYERS}
        error = {n: leaving[n][0] for n in LAYERS}
        rate = {"sense": trials.inputs["sense"][0, t], **{n: np.tanh(leaving[n][2]) for n in LAYERS}}
        for n in LAYERS:
            u[n] = u[n] + DT * (leaving[n][1] - u[n]) / tau[n]
            v[n] = v[n] + DT * (nudge[n] - v[n]) / TAU_R[n]
        teach, target = trials.inputs["teach"][0, t], trials.inputs["target"][0, t]
        down = {"hidden1": w["up2"] @ error["hidden2"], "hidden2": w["up3"] @ error["out"]}
        down["out"] = BETA * teach * (target - rate["out"])
        nudge = {n: (1 - rate[n] ** 2) * down[n] for n in LAYERS}
        current = {n: rate[below] @ w[f"up{k}"] for k, (below, n) in enumerate(zip(("sense", *LAYERS), LAYERS), 1)}
        now = {n: seen(n) for n in LAYERS}
        for k, (below, n) in enumerate(zip(("sense", *LAYERS), LAYERS), 1):
            delta, drive, _ = now[n]
            slow = rates["tau_m"] * delta * (drive - u[n]) / tau[n]
            w[f"up{k}"] += rates["weight"] * np.outer(rate[below], delta)
            b[n], tau[n] = b[n] + rates["b"] * delta, np.maximum(tau[n] - slow, 2e-3)
    return {**w, **{f"{n}.b": b[n] for n in LAYERS}, **{f"{n}.tau_m": tau[n] for n in LAYERS}}


class TestOnline:
    """1000 steps in which the input never rests and weights, biases and time constants change in each."""

    RATES = {"weight": 0.02, "b": 0.01, "tau_m": 1e-5}

    @staticmethod
    @functools.cache
    def learned(backend):
        net, optimiser = network(), lp.sgd(TestOnline.RATES["weight"])
        factors = {f"{n}.{key}": TestOnline.RATES[key] / TestOnline.RATES["weight"] for n in LAYERS for key in ("b", "tau_m")}
        task = lp.Task("moving", lambda update, batch, seed: moving(1000), None)
        fit = lp.run(
            net, task, rule=dendritic(), backend=backend, target="numpy", updates=1, loss=lp.losses.mse(), seed=3,
            optimiser=optimiser.with_rates(**factors),
        )  # fmt: skip
        return numbers(net.values_from(fit))

    @pytest.mark.parametrize("backend", ["torch", "brian2"])
    def test_against_the_recursion_by_hand(self, backend):
        start = network().draw(3)
        expected, end = by_hand(start, moving(1000), self.RATES), self.learned(backend)
        for name, before in numbers(start).items():
            assert np.abs(expected[name] - before).max() > 0.03 * np.abs(before).max(), name  # it learns
            assert np.abs(end[name] - expected[name]).max() < 1e-9 * np.abs(expected[name]).max(), name

    def test_both_backends_agree(self):
        one, other = self.learned("torch"), self.learned("brian2")
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-8, err_msg=name)


@pytest.mark.parametrize(("feedback", "strict"), [("symmetric", False), ("random", True), ("learned", True)])
def test_every_synapse_reads_its_own_two_neurons_only(feedback, strict):
    """But for symmetric feedback, which transports weights."""
    net = network(feedback=feedback)
    assert audit(plan(net, dendritic(), lp.losses.mse()), net).check().strict == strict


def numbers(values):
    """What learns, by name."""
    weights = {f"up{k}": values.weights[f"up{k}"] for k in (1, 2, 3)}
    return weights | {f"{n}.{key}": values.parameters[n][key] for n in LAYERS for key in ("b", "tau_m")}


FREQUENCIES = [2.0, 12.0, 60.0]  # Hz
SLOW, QUICK = 20e-3, 5e-3  # time constants, in seconds


def ratio(z, dt, above, below):
    """``(1 + above d/dt)/(1 + below d/dt)`` at ``exp(i w dt) = z``, the derivative as forward Euler takes it."""
    return (1 + above * (z - 1) / dt) / (1 + below * (z - 1) / dt)


def circle(frequency, dt):
    return np.exp(2j * np.pi * frequency * dt)


def responses(frequency, tau_m=SLOW, tau_r=QUICK, dt=DT, neuron=None):
    """Gain and phase, as complex numbers, of the error neuron and of the exact adjoint of rates, measured in the simulated model.

    Two trials, cosine and sine, are the two parts of one complex wave; the adjoint runs backwards, from the end.
    """
    neuron = neuron or gle(activation="linear", gamma=0.0)
    net = lp.Network(
        dt=dt * second, current=lp.Input(1, "currents"), above=lp.Input(1, "currents"),
        cell=lp.Population(1, neuron, {"tau_m": tau_m * second, "tau_r": tau_r * second}),
        projections=[
            lp.Projection("current", "cell", weight=1.0),
            lp.Projection("above", "cell", weight=1.0, target="feedback", plastic=False),
        ],
    )  # fmt: skip
    steps = int(0.6 / dt)
    wave = circle(frequency, dt) ** np.arange(steps)
    both = torch.tensor(np.stack([wave.real, wave.imag], 1))[..., None]
    current = torch.zeros_like(both, requires_grad=True)
    values = net.draw(0)
    twin, error, gain = Twin(net, leaves(net, values), values.masks), [], 0.0
    twin.start({"current": current, "above": both})
    for t in range(steps):
        twin.advance(t)
        error.append(twin.read("cell.delta"))
        gain = gain + (twin.read("cell.rate") * both[t]).sum()
    (exact,) = torch.autograd.grad(gain, current)
    measured = [torch.stack(error).detach().numpy()[..., 0], exact.numpy()[..., 0]]
    local, exact = (series @ np.array([1, 1j]) / wave for series in measured)
    return local[-1], exact[5]


class TestOperators:
    """G1: the error neuron has the phase of the exact adjoint, and the reciprocal of its gain."""

    @pytest.mark.parametrize("frequency", FREQUENCIES)
    def test_phase_is_exact_and_gain_reciprocal(self, frequency):
        local, exact = responses(frequency)
        z = circle(frequency, DT)
        assert abs(local / ratio(z, DT, SLOW, QUICK) - 1) < 1e-10
        assert abs(exact / np.conj(ratio(z, DT, QUICK, SLOW)) - 1) < 1e-10
        assert abs(np.angle(local / exact)) < 1e-10
        assert abs(abs(local) * abs(exact) - 1) < 1e-10
        assert abs(np.angle(local)) > 0.1 and abs(abs(local) - 1) > 0.02  # neither is trivial

    def test_in_continuous_time(self):
        """``atan(w tau_m) - atan(w tau_r)``, with an error in proportion to dt."""
        w = 2 * np.pi * FREQUENCIES[1]
        limit, apart = (1 + 1j * w * SLOW) / (1 + 1j * w * QUICK), []
        for dt in (2e-3, 1e-3, 0.5e-3):
            local, _ = responses(FREQUENCIES[1], dt=dt)
            apart.append(abs(local - limit))
        assert np.angle(limit) == pytest.approx(np.arctan(w * SLOW) - np.arctan(w * QUICK))
        assert apart[2] < 0.02
        assert [apart[0] / apart[1], apart[1] / apart[2]] == pytest.approx([2, 2], rel=0.1)

    def test_early_neurons_have_late_errors(self):
        local, exact = responses(FREQUENCIES[1], tau_m=QUICK, tau_r=SLOW)
        assert abs(np.angle(local / exact)) < 1e-10 and np.angle(local) < -0.1

    def test_operators_that_are_not_exchanged_have_another_phase(self):
        neuron = gle(activation="linear", gamma=0.0)
        lines = neuron.equations.replace("dv/dt = (nudge - v)/tau_r", "dv/dt = (nudge - v)/tau_m")
        lines = lines.replace("(tau_r - tau_m)/tau_r*(v - nudge)", "(tau_m - tau_r)/tau_m*(v - nudge)")
        local, exact = responses(FREQUENCIES[1], neuron=replace(neuron, equations=lines))
        assert np.angle(local / exact) == pytest.approx(-2 * np.angle(exact), rel=1e-6)
        assert abs(local) == pytest.approx(abs(exact), rel=1e-6)  # though the gain would be exact

    def test_instantaneous_errors_are_neither_early_nor_late(self):
        local, exact = responses(FREQUENCIES[1], neuron=gle(activation="linear", gamma=0.0, errors="instantaneous"))
        assert local == pytest.approx(1) and np.angle(exact) > 0.1


class TestLatentEquilibrium:
    """G2: with ``tau_m = tau_r`` nothing of it is left but latent equilibrium."""

    @pytest.mark.parametrize("backend", ["torch", "brian2"])
    def test_bit_for_bit(self, twins, backend):
        tau = {name: {"tau": TAU_M[name] * second, "b": BIAS[name]} for name in LAYERS}
        both = {name: {"tau_m": TAU_M[name] * second, "tau_r": TAU_M[name] * second, "b": BIAS[name]} for name in LAYERS}
        one = layered(SIZES, gle(), gle_output(activation="tanh", beta=0.1), parameters=both, dt=DT * second)
        other = layered(
            SIZES, latent_equilibrium(activation="tanh"), latent_equilibrium_output(activation="tanh", beta=0.1), parameters=tau,
            dt=DT * second,
        )  # fmt: skip
        names = [f"{n}.{x}" for n in LAYERS for x in ("u", "u_breve", "delta", "rate")]
        first, second_ = (getattr(twins, backend)(net, moving(300), names, values=net.draw(1)) for net in (one, other))
        for name in names:
            assert np.ptp(first[name]) > 0.01
            np.testing.assert_array_equal(first[name], second_[name], err_msg=name)

    def test_a_slightly_longer_membrane_is_something_else(self, twins):
        made = [layered((3, 4, 2), gle(tau_m=tau), gle_output(), dt=DT * second) for tau in (10 * ms, 10.01 * ms)]
        one, other = (twins.torch(net, moving(100), ["out.rate"], values=net.draw(1))["out.rate"] for net in made)
        assert np.abs(one - other).max() > 1e-6


class TestTeacherOfSines:
    """G3: what a weight learns is the gradient times the ratio of the gains."""

    @pytest.mark.parametrize("period", [400, 80, 20])
    def test_ratio_of_gradients(self, period):
        """Of one period, long after the beginning, and until its errors have run out."""
        output = gle_output(tau_m=SLOW * second, tau_r=QUICK * second, gamma=0.0, beta=1.0)
        net = layered((1, 1), gle(), output, dt=DT * second)
        values = net.draw(0).replace_weights({"up1": np.full((1, 1), 0.4)})
        z, n = np.exp(2j * np.pi / period), np.arange(500 + period + 120)
        forward = ratio(z, DT, QUICK, SLOW)
        target = (1.5 * forward * z ** (n - 1)).real[None, :, None]  # of a teacher whose weight is 1.5
        judged = ((n >= 500) & (n < 500 + period)).astype(float)
        trials = lp.Trials({"sense": (z**n).real[None, :, None], "teach": judged[None, :, None], "target": target}, target, judged)
        options = {"values": values, "loss": lp.losses.mse()}
        local, exact = (lp.gradient(net, trials, rule, **options)["up1"]["gradient"].item() for rule in (dendritic(), bptt()))
        assert exact == pytest.approx(-(1.5 - 0.4) * abs(forward) ** 2 * period / 2, rel=1e-9)
        assert local / exact == pytest.approx(z.real / abs(forward) ** 2, rel=1e-9)  # the error is late by one step
        w = 2 * np.pi / (period * DT)
        in_continuous_time = (1 + (w * SLOW) ** 2) / (1 + (w * QUICK) ** 2)
        assert local / exact == pytest.approx(in_continuous_time, rel=0.02 if period > 100 else 0.35)


STUDENT, TEACHER = (0.6, 1.3, 0.6, 1.1), (1.0, 2.0, 1.0, 2.0)  # w0, w1, tau0, tau1 (s)
#: In steps of 10 ms: when the student is stationary, and how long errors linger.
SETTLED, LINGER = 1800, 200


def softplus(x):
    return np.log1p(np.exp(x))


def chain(sense, w0, w1, tau0, tau1, dt=0.01, tau_r=0.1):
    """Rates ``(trial, time)`` at the end of a chain of two softplus neurons, each a step late."""
    u0, u1, r, answer = (np.zeros(len(sense)) for _ in range(4))
    r, said = softplus(u0), []
    for x in sense.T:
        du0, du1 = (w0 * x - u0) / tau0, (w1 * r - u1) / tau1
        r, answer = softplus(u0 + tau_r * du0), softplus(u1 + tau_r * du1)
        u0, u1 = u0 + dt * du0, u1 + dt * du1
        said.append(answer)
    return np.array(said).T


def lag_line(errors="prospective"):
    """The student: two softplus neurons one after the other, with weights and membranes that learn."""
    options = {"activation": "softplus", "errors": errors, "gamma": 0.0}
    given = {n: {"tau_m": np.array([t]) * second, "tau_r": 100 * ms} for n, t in zip(("hidden1", "out"), STUDENT[2:])}
    return layered(
        (1, 1, 1), gle(**options), gle_output(beta=1.0, **options), parameters=given, dt=10 * ms,
        trainable=dict.fromkeys(("hidden1", "out"), {"tau_m": (10 * ms, None)}),
    )  # fmt: skip


def sine(frequency, phases):
    """All phases of a sine as trials; ``frequency`` in radians per second."""
    return lambda step: np.sin(0.01 * frequency * step + 2 * np.pi * np.arange(phases)[:, None] / phases)


def square(step):
    """All phases of a square wave of 4 s."""
    return np.where((step + np.arange(400)[:, None]) % 400 < 200, 1.0, -1.0)


def noise(step):
    """Ornstein-Uhlenbeck processes of 1 s and variance 1."""
    x, kept, rng = np.zeros(1000), [], np.random.default_rng(0)
    for _ in step:
        x = x - 0.01 * x + np.sqrt(0.02) * rng.standard_normal(1000)
        kept.append(x)
    return np.array(kept).T


WAVES = {"sine of 0.2 rad/s": sine(0.2, 24), "sine of 3 rad/s": sine(3.0, 48), "square": square, "noise": noise}


def stationary(wave):
    """Trials of a stationary stream, in which one step is judged (of noise: 3 s), long after the beginning.

    The teacher speaks only then. With all phases in one batch, what is learned is the gradient per step. The network compares its
    answer with the rate of the teacher in this step, as in the reference; the loss judges a rate when it is shown, a step later.
    """
    step = np.arange(-3000, SETTLED + LINGER)
    sense = WAVES[wave](step)
    rates = chain(sense, *TEACHER)[:, 2999:, None]
    judged = (step[3000:] <= SETTLED) & (step[3000:] > SETTLED - (300 if wave == "noise" else 1))
    teach = np.tile(judged.astype(float)[:, None], (len(sense), 1, 1))
    return lp.Trials({"sense": sense[:, 3000:, None], "teach": teach, "target": rates[:, 1:]}, rates[:, :-1], judged.astype(float))


@functools.cache
def learned_by_the_student(wave, rule, errors="prospective"):
    """Gradients of w0, w1, tau0 and tau1."""
    net = lag_line(errors)
    values = net.draw(0).replace_weights({f"up{k}": np.full((1, 1), STUDENT[k - 1]) for k in (1, 2)})
    gradients = found(lp.gradient(net, stationary(wave), rule(), values=values, loss=lp.losses.mse()))
    return np.array([gradients[name].item() for name in ("up1", "up2", "hidden1.tau_m", "out.tau_m")])


class TestMeasuredRatios:
    """G4: GLE over the true gradient, of weights and membranes, in the stationary state of a lag line."""

    @pytest.mark.parametrize(
        ("wave", "ratios", "within"),
        [
            pytest.param("sine of 0.2 rad/s", [1.05, 1.01, 1.09, 1.04], [0.01] * 4, marks=pytest.mark.slow),
            pytest.param("sine of 3 rad/s", [5.0, 1.01, 3.5, 12.4], [0.1, 0.01, 0.1, 0.1], marks=pytest.mark.slow),
            ("square", [3.0, 1.03, 1.65, 1.93], [0.1, 0.01, 0.01, 0.01]),
        ],
    )
    def test_ratio_of_each(self, wave, ratios, within):
        found = learned_by_the_student(wave, dendritic) / learned_by_the_student(wave, bptt)
        assert np.all(np.abs(found - ratios) < within), found

    def test_instantaneous_errors_have_the_wrong_sign(self):
        found = learned_by_the_student("square", dendritic, "instantaneous") / learned_by_the_student("square", bptt)
        assert np.all(np.abs(found - [0.21, 0.97, -1.3, 43.8]) < [0.01, 0.01, 0.1, 0.1]), found


    @pytest.mark.slow
    def test_of_noise(self):
        """Measured for one realisation: 1.42, 1.01, 12.7, 1.26, and -28.8 for tau0 with instantaneous errors."""
        exact = learned_by_the_student("noise", bptt)
        found = learned_by_the_student("noise", dendritic) / exact
        assert np.all(np.abs(found[[0, 1, 3]] - [1.42, 1.01, 1.26]) < [0.1, 0.03, 0.15]) and 5 < found[2] < 20, found
        assert learned_by_the_student("noise", dendritic, "instantaneous")[2] / exact[2] < -5


class TestProtocols:
    def test_teachers_have_nothing_to_learn(self):
        for module in (gle_lag_line, gle_lag_net):
            preset = module.quick()
            trials = preset.task.testing(2, 0)
            found = lp.run(preset.network, trials, values=module.teacher(preset.network), backend="torch", record=["said.shown"])
            late = np.flatnonzero(trials.weight)[-20:]  # both begin from rest
            assert np.abs(found["said"]["shown"].values - trials.target)[:, late].max() < 1e-3
            assert np.ptp(trials.target) > 0.2

    @pytest.mark.parametrize(("errors", "found"), [("prospective", True), ("instantaneous", False)])
    def test_errors_that_look_ahead_find_weights_and_membranes(self, errors, found):
        preset = gle_lag_line.quick()
        net = gle_lag_line.network(dt=preset.network.dt, errors=errors)
        fit = lp.run(
            net, preset.task, rule=dendritic(), backend="torch", optimiser=preset.optimiser, loss=preset.loss, batch=preset.batch,
            updates=preset.updates,
        )  # fmt: skip
        learned = gle_lag_line.learned(net.values_from(fit))
        near = [abs(learned[name] / value - 1) < 0.15 for name, value in gle_lag_line.TEACHER.items()]
        assert all(near) if found else sum(near) <= 1, learned

    def test_a_piece_of_the_stream_goes_on_where_the_last_one_ends(self):
        trials = gle_lag_net.stream(3, settle=2.0, length=1.0, dt=0.04)
        judged = np.flatnonzero(trials.weight)
        assert len(judged) == 25 and trials.inputs["teach"][:, judged].all() and trials.inputs["teach"].sum() == 75
        times = 2.0 + np.arange(75) * 0.04
        np.testing.assert_allclose(trials.inputs["sense"][:, judged, 0].ravel(), gle_lag_net.sines(times), atol=1e-12)


class TestErrorsOfUse:
    @pytest.mark.parametrize("name", ["tau_m", "tau_r"])
    def test_time_constants_below_dt(self, name):
        with pytest.raises(NetworkError, match=f"'hidden1': {name} is 0.5 ms, shorter than the time step"):
            layered((3, 4, 2), gle(**{name: 0.5 * ms}), gle_output(), dt=1 * ms)

    def test_time_constants_that_may_become_too_short(self):
        with pytest.raises(NetworkError, match="tau_m may learn to be"):
            layered((3, 4, 2), gle(), gle_output(), trainable={"hidden1": {"tau_m": (0.1 * ms, None)}}, dt=1 * ms)

    @pytest.mark.parametrize(
        ("made", "message"),
        [
            (lambda: gle(activation="sine"), "no activation 'sine'; there are logistic"),
            (lambda: gle(errors="none"), "gle: no errors 'none'; there are prospective, instantaneous"),
            (lambda: gle_output(loss="hinge"), "gle_output: no loss 'hinge'; there are mse, cross_entropy"),
        ],
    )
    def test_unknown_words(self, made, message):
        with pytest.raises(ModelError, match=message):
            made()

    def test_targets_of_the_wrong_width(self):
        net, trials = network(), moving(20)
        with pytest.raises(LocalplastError, match="'target' has shape"):
            lp.run(net, replace(trials, inputs={**trials.inputs, "target": np.zeros((1, 20, 5))}))
