"""Generalised latent equilibrium against its published recursion, the same while everything learns, and latent
equilibrium.

Ellenberger et al. 2024, arXiv:2403.16933.
"""

import functools
from dataclasses import replace

import numpy as np
import pytest
from brian2 import ms, second

import localplast as lp
from localplast.errors import LocalplastError, ModelError, NetworkError, RunawayError
from localplast.models import gle, gle_output, latent_equilibrium, latent_equilibrium_output
from localplast.models.layers import layered
from localplast.program.learn import plan
from localplast.program.locality import audit
from localplast.rules import dendritic

DT, GAMMA, BETA = 1e-3, 0.3, 0.5
SIZES = (3, 4, 5, 2)
LAYERS = ("hidden1", "hidden2", "out")
RNG = np.random.default_rng(0)
TAU_M = {name: RNG.uniform(3e-3, 30e-3, n) for name, n in zip(LAYERS, SIZES[1:], strict=False)}
TAU_R = {name: RNG.uniform(3e-3, 30e-3, n) for name, n in zip(LAYERS, SIZES[1:], strict=False)}
BIAS = {name: RNG.normal(0, 0.3, n) for name, n in zip(LAYERS, SIZES[1:], strict=False)}


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
        x, target, teach = (
            trials.inputs[k][0, t] if t >= 0 else 0 * trials.inputs[k][0, 0] for k in ("sense", "target", "teach")
        )
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
    @pytest.mark.sampled(3)
    @pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
    @pytest.mark.parametrize(("backend", "tolerance"), [("torch", 1e-12), ("brian2", 1e-9)])
    def test_every_step(self, twins, loss, backend, tolerance):
        net, trials = network(loss), moving(200)
        expected, _ = published(net.draw(1), trials, loss)
        states = getattr(twins, backend)(net, trials, list(expected), values=net.draw(1))
        for name, series in expected.items():
            assert np.abs(states[name][0] - series).max() < tolerance, name
        assert np.abs(expected["hidden1.delta"]).max() > 0.03  # errors arrive

    @pytest.mark.sampled(2)
    @pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
    @pytest.mark.parametrize(("backend", "tolerance"), [("torch", 1e-12), ("brian2", 1e-9)])
    def test_what_is_learned_from(self, loss, backend, tolerance):
        net, trials = network(loss), moving(200)
        _, expected = published(net.draw(1), trials, loss)
        gradients = found(
            lp.gradient(net, trials, dendritic(), loss=lp.losses.mse(), values=net.draw(1), backend=backend)
        )
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


def by_hand(values, trials, rates, when="arriving"):
    """Numbers after one trial in which everything learns in every step; ``rates`` by kind of number.

    Order of a step: what leaves, potentials, what arrives, errors, learning. Feedback is symmetric, through the weights
    that are there ``when`` it arrives, or when it was sent, before they learned.
    """
    w = {k: values.weights[k].copy() for k in ("up1", "up2", "up3")}
    b, tau = ({n: values.parameters[n][key].copy() for n in LAYERS} for key in ("b", "tau_m"))
    zero = {n: np.zeros(size) for n, size in zip(LAYERS, SIZES[1:], strict=False)}
    u, v, current, nudge, coming = (dict(zero) for _ in range(5))

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
        down = coming if when == "sent" else down
        down["out"] = BETA * teach * (target - rate["out"])
        nudge = {n: (1 - rate[n] ** 2) * down[n] for n in LAYERS}
        current = {
            n: rate[below] @ w[f"up{k}"]
            for k, (below, n) in enumerate(zip(("sense", *LAYERS), LAYERS, strict=False), 1)
        }
        now = {n: seen(n) for n in LAYERS}
        coming = {"hidden1": w["up2"] @ now["hidden2"][0], "hidden2": w["up3"] @ now["out"][0]}
        for k, (below, n) in enumerate(zip(("sense", *LAYERS), LAYERS, strict=False), 1):
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
    def learned(backend, when="arriving"):
        net, optimiser = network(when=when), lp.sgd(TestOnline.RATES["weight"])
        factors = {
            f"{n}.{key}": TestOnline.RATES[key] / TestOnline.RATES["weight"] for n in LAYERS for key in ("b", "tau_m")
        }
        task = lp.Task("moving", lambda update, batch, seed: moving(1000), None)
        fit = lp.run(
            net, task, rule=dendritic(), backend=backend, target="numpy", updates=1, loss=lp.losses.mse(), seed=3,
            optimiser=optimiser.with_rates(**factors),
        )  # fmt: skip
        return numbers(net.values_from(fit))

    @pytest.mark.sampled(3)
    @pytest.mark.parametrize("when", ["arriving", "sent"])
    @pytest.mark.parametrize("backend", ["torch", "brian2"])
    def test_against_the_recursion_by_hand(self, backend, when):
        start = network().draw(3)
        expected, end = by_hand(start, moving(1000), self.RATES, when), self.learned(backend, when)
        for name, before in numbers(start).items():
            assert np.abs(expected[name] - before).max() > 0.03 * np.abs(before).max(), name  # it learns
            assert np.abs(end[name] - expected[name]).max() < 1e-9 * np.abs(expected[name]).max(), name

    def test_weights_of_another_moment_are_noticed(self):
        start = network().draw(3)
        moments = [by_hand(start, moving(1000), self.RATES, when) for when in ("arriving", "sent")]
        for name in ("up1", "up2", "hidden1.b"):
            assert np.abs(moments[0][name] - moments[1][name]).max() > 1e-4 * np.abs(moments[0][name]).max()

    @pytest.mark.parametrize("backend", ["torch", "brian2"])
    def test_where_nothing_learns_in_the_step_both_moments_are_the_same(self, backend):
        """The trial after the last one begins without an error that is still to come."""
        trials, rule = moving(60, trials=2), dendritic(update="trial")
        gradients = [
            found(lp.gradient(network(when=when), trials, rule, loss=lp.losses.mse(), backend=backend, seed=3))
            for when in ("arriving", "sent")
        ]
        for name, gradient in gradients[0].items():
            assert np.abs(gradients[1][name] - gradient).max() < 1e-12 * np.abs(gradient).max(), name

    @pytest.mark.thorough
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


class TestLatentEquilibrium:
    """G2: with ``tau_m = tau_r`` nothing of it is left but latent equilibrium."""

    @pytest.mark.sampled(2)
    @pytest.mark.parametrize("backend", ["torch", "brian2"])
    def test_to_rounding(self, twins, backend):
        tau = {name: {"tau": TAU_M[name] * second, "b": BIAS[name]} for name in LAYERS}
        both = {
            name: {"tau_m": TAU_M[name] * second, "tau_r": TAU_M[name] * second, "b": BIAS[name]} for name in LAYERS
        }
        one = layered(SIZES, gle(), gle_output(activation="tanh", beta=0.1), parameters=both, dt=DT * second)
        other = layered(
            SIZES, latent_equilibrium(activation="tanh"), latent_equilibrium_output(activation="tanh", beta=0.1), parameters=tau,
            dt=DT * second,
        )  # fmt: skip
        names = [f"{n}.{x}" for n in LAYERS for x in ("u", "u_breve", "delta", "rate")]
        first, second_ = (getattr(twins, backend)(net, moving(300), names, values=net.draw(1)) for net in (one, other))
        for name in names:
            assert np.ptp(first[name]) > 0.01
            np.testing.assert_allclose(first[name], second_[name], rtol=0, atol=1e-12, err_msg=name)

    def test_a_slightly_longer_membrane_is_something_else(self, twins):
        made = [layered((3, 4, 2), gle(tau_m=tau), gle_output(), dt=DT * second) for tau in (10 * ms, 10.01 * ms)]
        one, other = (twins.torch(net, moving(100), ["out.rate"], values=net.draw(1))["out.rate"] for net in made)
        assert np.abs(one - other).max() > 1e-6


class TestErrorsOfUse:
    def test_delays_of_what_was_weighted(self):
        parts = [*network(when="sent").projections.values()]
        late = [replace(p, delay=lp.axonal(2 * ms)) if p.name == "down1" else p for p in parts]
        with pytest.raises(NetworkError, match="'down1': what is delayed arrives through the weights of that moment"):
            lp.Network(dt=DT * second, projections=late, **network().nodes)

    def test_feedback_of_its_own_has_no_moment(self):
        with pytest.raises(NetworkError, match="when='sent' is of symmetric feedback; random feedback has weights"):
            network(feedback="random", when="sent")

    def test_another_moment(self):
        with pytest.raises(LocalplastError, match="when= of transposed"):
            lp.transposed("up2", when="later")

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

    @pytest.mark.sampled(2)
    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("backend", ["torch", "brian2"])
    def test_a_teacher_too_strong_for_the_loop(self, backend):
        net = layered(SIZES, gle(activation="linear"), gle_output(beta=50.0), dt=DT * second)
        trials = moving(300)
        trials = replace(trials, inputs={**trials.inputs, "teach": np.ones((1, 300, 1))})
        with pytest.raises(RunawayError, match=r"population 'out': the output of neuron 0 is .* at step \d+"):
            lp.run(net, trials, backend=backend)

    def test_targets_of_the_wrong_width(self):
        net, trials = network(), moving(20)
        with pytest.raises(LocalplastError, match="'target' has shape"):
            lp.run(net, replace(trials, inputs={**trials.inputs, "target": np.zeros((1, 20, 5))}))
