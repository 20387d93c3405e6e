"""Phaseless alignment learning among neurons with errors of their own, against the recursion written by hand.

Max et al. 2024, Nature Machine Intelligence, arXiv:2212.10249.
"""

import numpy as np
import pytest
from brian2 import ms

import localplast as lp
from localplast.errors import LocalplastError
from localplast.learning.optimise import sgd
from localplast.models import pal_gle, pal_gle_output
from localplast.models.layers import layered, stream
from localplast.network import uniform
from localplast.program.learn import plan
from localplast.program.locality import audit
from localplast.protocols import pal_autoencoder
from localplast.rules import dendritic

BACKENDS = ("torch", "brian2")


class TestLayers:
    """Prospective neurons with errors of their own, whose feedback learns from noise: everything changes in each step."""

    SIZES, LAYERS, BETA = (3, 4, 2, 3), ("hidden1", "hidden2", "out"), 0.5
    RATE, DOWN, ALPHA, TAU, STEP = 0.02, 0.5, 1e-2, 1.0, 0.1

    def network(self, **options):
        form = {"gamma": 0.0, "tau_hp": self.TAU * ms}
        hidden = [
            pal_gle(activation=phi, sigma=0.3, tau_noise=self.TAU * ms, **form, **options) for phi in ("tanh", "linear")
        ]
        biases = {name: {"b": uniform(0.5, fan_in=False)} for name in self.LAYERS}
        return layered(
            self.SIZES, hidden, pal_gle_output(beta=self.BETA, **form), feedback="learned", parameters=biases,
            trainable={name: {"b": (None, None)} for name in biases}, dt=self.STEP * ms,
        )  # fmt: skip

    def trials(self, steps=200):
        walk = np.cumsum(np.random.default_rng(5).standard_normal((1, steps, 6)), axis=1) / 10
        teach = (np.arange(steps) % 100 < 80).astype(float)[None, :, None]
        return lp.Trials({"sense": walk[..., :3], "teach": teach, "target": walk[..., 3:]}, np.zeros((1, steps, 3)))

    def optimiser(self, net):
        downs = ("down1", "down2")
        rates = dict.fromkeys(net.trainable, 1.0) | dict.fromkeys(downs, self.DOWN / self.RATE)
        return sgd(self.RATE).with_rates(**rates).decayed(self.ALPHA * self.RATE, only=downs)

    def by_hand(self, values, trials, noise):
        """The recursion in plain numpy; ``noise`` is ``{layer: (time, neuron)}``.

        Order of a step: what leaves (of potentials and noise of the step before), what arrives, errors, learning, filters.
        """
        w = {name: array.copy() for name, array in values.weights.items()}
        b = {n: values.parameters[n]["b"].copy() for n in self.LAYERS}
        zero = {n: np.zeros(len(b[n])) for n in self.LAYERS}
        current, error, old, passed, last, before = (dict(zero) for _ in range(6))
        for t in range(trials.steps):
            u = {n: current[n] + b[n] for n in self.LAYERS}
            x, teach, wanted = (trials.inputs[name][0, t] for name in ("sense", "teach", "target"))
            rate = {
                "hidden1": np.tanh(u["hidden1"] + old["hidden1"]),
                "hidden2": u["hidden2"] + old["hidden2"],
                "out": u["out"],
            }
            slope = {"hidden1": 1 - np.tanh(u["hidden1"]) ** 2, "hidden2": 1.0, "out": 1.0}
            for n in self.LAYERS:  # what is learned from is of the step before
                passed[n] = passed[n] + last[n] - before[n] - self.STEP / self.TAU * passed[n]
                before[n], last[n] = last[n], rate[n]
            arrives = {"hidden1": (x, "up1"), "hidden2": (rate["hidden1"], "up2"), "out": (rate["hidden2"], "up3")}
            down = {"hidden1": error["hidden2"] @ w["down1"], "hidden2": error["out"] @ w["down2"]}
            down["out"] = self.BETA * teach * (wanted - rate["out"])
            current = {n: below @ w[up] for n, (below, up) in arrives.items()}
            error = {n: slope[n] * down[n] for n in self.LAYERS}
            for n, (below, up) in arrives.items():
                w[up] = w[up] + self.RATE * np.outer(below, error[n])
                b[n] = b[n] + self.RATE * error[n]
            for name, here, above in (("down1", "hidden1", "hidden2"), ("down2", "hidden2", "out")):
                w[name] = w[name] + self.DOWN * (np.outer(passed[above], noise[here][t]) - self.ALPHA * w[name])
            old = {**zero, **{n: noise[n][t] for n in noise}}
        return {**w, **{f"{n}.b": b[n] for n in self.LAYERS}}

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_the_recursion_by_hand(self, backend):
        net, trials, names = self.network(), self.trials(), ("hidden1", "hidden2")
        task = lp.Task("moving", lambda update, batch, seed: trials, None)
        options = dict(rule=dendritic(), backend=backend, target="numpy", updates=1, loss=lp.losses.mse(), seed=3)
        end = net.values_from(lp.run(net, task, optimiser=self.optimiser(net), **options))
        if backend == "torch":
            seen = lp.live(net, trials, dendritic(), self.optimiser(net), record=[f"{n}.noise" for n in names], seed=3)
        else:
            seen = lp.run(net, trials, backend=backend, target="numpy", record=[f"{n}.noise" for n in names], seed=3)
        noise = {name: seen[name]["noise"].values[0] for name in names}
        found = {**end.weights, **{f"{n}.b": end.parameters[n]["b"] for n in self.LAYERS}}
        expected = self.by_hand(net.draw(3), trials, noise)
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-10, err_msg=name)
        for p in net.plastic:
            assert np.abs(expected[p.name] - net.draw(3).weights[p.name]).max() > 1e-2, f"{p.name} does not learn"
        late = self.by_hand(net.draw(3), trials, {k: np.roll(x, 1, 0) for k, x in noise.items()})
        assert np.abs(late["down1"] - expected["down1"]).max() > 1e-6, "noise of another step is noticed"

    def test_every_synapse_reads_its_own_two_neurons_only(self):
        net = self.network()
        assert audit(plan(net, dendritic(), lp.losses.mse(), self.optimiser(net)), net).check().strict

    def test_noise_faster_than_a_step_is_refused(self):
        with pytest.raises(LocalplastError, match="tau_hp"):
            layered((2, 2, 2), pal_gle(), pal_gle_output(tau_hp=0.01 * ms)).draw(0)


def test_the_bottleneck_is_what_the_network_comes_to():
    net = pal_autoencoder.network((9, 5, 2, 5, 9), sigma=0.0)
    pixels, values = np.random.default_rng(0).random((3, 1, 9)), net.draw(1)
    trials = stream(pixels, pixels, steps=6).without(net.teachers)
    found = lp.run(net, trials, values=values, backend="torch", record=["hidden2.rate"])["hidden2"]["rate"].values
    np.testing.assert_allclose(found[:, -1], pal_autoencoder.bottleneck(values, pixels[:, 0]), rtol=0, atol=1e-12)
