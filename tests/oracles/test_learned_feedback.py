"""Feedback in always-on networks of rate neurons: given, random, direct, learned by Kolen and Pollack's rule or a
weight mirror.

What concerns errors of trials and of spiking layers is in test_feedback.py and test_weight_mirror.py. Here errors and
feedback weights live in one network with latent equilibrium, and everything that learns does so by ``dendritic``, in
every step.
"""

from dataclasses import replace

import numpy as np
import pytest
from brian2 import ms

import localplast as lp
from localplast.learning.optimise import sgd
from localplast.models import latent_equilibrium, latent_equilibrium_output
from localplast.models.layers import layered, stream
from localplast.network import normal
from localplast.neuron import Mismatch
from localplast.rules import dendritic

BACKENDS = ("torch", "brian2")
SIZES = (4, 6, 5, 3)


def network(sizes=SIZES, *, activation="tanh", beta=0.1, hidden=None, **options):
    return layered(
        sizes, hidden or latent_equilibrium(activation=activation), latent_equilibrium_output(beta=beta), **options
    )


def patterns(count=5, steps=8, *, seed=0, sizes=SIZES, trials=1):
    rng = np.random.default_rng(seed)
    return stream(
        rng.uniform(-1, 1, (trials, count, sizes[0])), rng.uniform(-1, 1, (trials, count, sizes[-1])), steps=steps
    )


def gradients(net, given, values, backend="torch"):
    found = lp.gradient(net, given, dendritic(), values=values, backend=backend, loss=lp.losses.mse())
    return {p.name: found[p.name]["gradient"].values for p in net.plastic}


def learned(net, given, values, optimiser, backend="torch"):
    task = lp.Task("stream", lambda *_: given, None)
    fit = lp.run(
        net,
        task,
        rule=dendritic(),
        backend=backend,
        target="numpy",
        updates=1,
        batch=len(given),
        loss=lp.losses.mse(),
        optimiser=optimiser,
        values=values,
    )
    return net.values_from(fit)


def angle(one, other):
    return np.degrees(np.arccos(min((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other), 1.0)))


def apart(one, other):
    """Relative to the larger of the second."""
    return np.abs(one - other).max() / np.abs(other).max()


class TestGivenFeedback:
    def both(self, sizes, activation, backend, off=0.0):
        """What is learned with matrices that are given, the forward weights ``off`` by so much, and with the forward
        weights.
        """
        symmetric = network(sizes, activation=activation)
        values, given = symmetric.draw(1), patterns(sizes=sizes)
        down = [values.weights[f"up{k}"].T + off for k in range(2, len(sizes))]
        net = network(sizes, activation=activation, feedback="random", down=down)
        return gradients(net, given, net.draw(1), backend), gradients(symmetric, given, values, backend)

    @pytest.mark.sampled(2)
    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize(
        ("sizes", "activation"), [((4, 6, 3), "linear"), (SIZES, "tanh")], ids=["two layers", "deeper"]
    )
    def test_transposed_weights_make_it_backpropagation(self, sizes, activation, backend):
        """F1, to rounding: linear algebra adds up the products of a matrix and of its transpose in an order of its
        own.
        """
        given, own = self.both(sizes, activation, backend)
        assert all(own[name].any() and apart(given[name], own[name]) < 1e-12 for name in own)
        given, own = self.both(sizes, activation, backend, off=1e-9)
        assert apart(given["up1"], own["up1"]) > 1e-11

    def test_the_output_learns_alike_whatever_the_feedback(self):
        """F2: as the nudging becomes weak. Feedback moves rates, and with them what the output learns, in proportion
        to it.
        """
        differences = {}
        for beta in (1e-2, 1e-3, 1e-4):
            nets = [network(beta=beta, feedback=feedback) for feedback in ("symmetric", "random", "direct")]
            first, *others = (gradients(net, patterns(), net.draw(1)) for net in nets)
            differences[beta] = [max(apart(other[n], first[n]) for other in others) for n in ("up3", "up1")]
        (coarse, low), (fine, _), (finest, still) = differences.values()
        assert 9 < coarse / fine < 11 and 9.9 < fine / finest < 10.1 and finest < 2e-4
        assert low > 0.5 and still > 0.5


class TestAlignment:
    """F3: ``B e`` comes round to ``W^T e`` while a network learns what a linear teacher says."""

    SIZES = (10, 20, 3)

    def angles(self, feedback="random", **rates):
        """Between the two, for random errors, after every 100 patterns; and the size of errors at first and in the
        end.
        """
        net = network(
            self.SIZES, activation="linear", weight=[normal(0.3), normal(0.1)], down=normal(0.5), feedback=feedback
        )
        values, errors, rng = net.draw(2), np.random.default_rng(1).standard_normal((200, 3)), np.random.default_rng(3)
        teacher, found, losses = rng.standard_normal((10, 3)) / np.sqrt(10), [], []
        for _ in range(5):
            w = values.weights
            found.append(angle(errors @ w["up2"].T, errors @ w["down1"]))
            x = rng.standard_normal((8, 100, 10))
            given = stream(x, x @ teacher, steps=6)
            said = lp.run(net, given, values=values, backend="torch", record=["said.shown"])["said"]["shown"].values
            losses.append(float(((said - given.target)[:, 5::6] ** 2).mean()))
            values = learned(net, given, values, sgd(0.01).with_rates(**rates))
        return found, losses

    @pytest.mark.thorough
    def test_weights_align_with_random_feedback(self):
        found, losses = self.angles()
        assert 70 < found[0] < 110 and found[-1] < 45 and all(np.diff(found) < 0), found
        assert losses[-1] < 0.3 * losses[0], losses

    @pytest.mark.thorough
    def test_only_where_the_hidden_layer_learns(self):
        found, losses = self.angles(up1=0.0)
        assert min(found) > 70 and losses[-1] > 0.4 * losses[0], (found, losses)


LAMBDA = 0.01


class TestKolenPollack:
    """F4: forward and feedback weights receive the same products and decay alike."""

    def gaps(self, backend, optimiser, hidden=None, steps=120):
        """``B - W^T`` before and after, of both pairs, and how far the forward weights moved beside their decay."""
        net = network(feedback="learned", hidden=hidden)
        start, given = net.draw(1), patterns(steps // 8)
        end = learned(net, given, start, optimiser, backend)
        before, after = ([v.weights[f"down{k}"] - v.weights[f"up{k + 1}"].T for k in (1, 2)] for v in (start, end))
        moved = np.abs(end.weights["up2"] - (1 - LAMBDA) ** steps * start.weights["up2"]).max()
        return before, after, moved

    @pytest.mark.parametrize(("backend", "prospective"), [("torch", True), ("torch", False), ("brian2", True)])
    def test_the_difference_decays_and_nothing_else(self, backend, prospective):
        """``W_n^T - B_n = (1 - lambda)^n (W_0^T - B_0)``, also where rates lag."""
        hidden = latent_equilibrium(activation="tanh", prospective=prospective)
        before, after, moved = self.gaps(backend, sgd(0.2).decayed(LAMBDA), hidden)
        assert moved > 1e-3
        for first, last in zip(before, after, strict=True):
            np.testing.assert_allclose(last, (1 - LAMBDA) ** 120 * first, rtol=0, atol=1e-12 * np.abs(first).max())

    def test_it_is_the_recursion_by_hand(self, by_hand):
        net = network(feedback="learned")
        start, given = net.draw(1), patterns(15)
        rates = dict.fromkeys(start.weights.keys() & {"up1", "up2", "up3", "down1", "down2"}, 0.2)
        expected, _ = by_hand(start.weights, given, feedback="layered", rates=rates, decay=LAMBDA)
        end = learned(net, given, start, sgd(0.2).decayed(LAMBDA)).weights
        for name in rates:
            np.testing.assert_allclose(end[name], expected[name], rtol=0, atol=1e-12, err_msg=name)

    def test_of_another_moment_it_is_another_law(self):
        """The rate of this step is not yet what the layer above has answered to."""
        hidden = latent_equilibrium(activation="tanh")
        late = replace(hidden, mismatch={**hidden.mismatch, "feedback": Mismatch("rate", pre="delta")})
        before, after, _ = self.gaps("torch", sgd(0.2).decayed(LAMBDA), late)
        assert np.abs(after[0] - (1 - LAMBDA) ** 120 * before[0]).max() > 1e-3

    def test_without_decay_the_difference_stays(self):
        before, after, _ = self.gaps("torch", sgd(0.2))
        for first, last in zip(before, after, strict=True):
            np.testing.assert_allclose(last, first, rtol=0, atol=1e-12)


class TestWeightMirror:
    """F5: noise that a layer emits comes back in the rates above it, and feedback weights find the forward weights
    there.
    """

    SIGMA, RATE, DECAY = 0.5, 0.02, 5e-3

    def network(self, activation="linear", hidden=None, sigma=SIGMA):
        hidden = hidden or latent_equilibrium(activation=activation, feedback="weight_mirror")
        noise = {f"hidden{k}": {"sigma": sigma, "tau_noise": 0.1 * ms} for k in (1, 2)}
        return network(hidden=hidden, feedback="learned", plastic=False, parameters=noise)

    def mirrored(self, net, steps=1500, trials=50, backend="torch"):
        """What is learned while nothing but noise is there, and what a mirror should show."""
        silent = patterns(1, steps, trials=trials).without(("sense", *net.teachers))
        start = net.draw(1)
        end = learned(net, silent, start, sgd(self.RATE).decayed(self.DECAY), backend).weights
        share = (1 - self.DECAY) ** steps
        gain, w = self.RATE * self.SIGMA**2 / self.DECAY, start.weights
        return end, {f"down{k}": share * w[f"down{k}"] + (1 - share) * gain * w[f"up{k + 1}"].T for k in (1, 2)}, w

    def test_the_fixed_point_is_the_forward_weights(self):
        """``B -> (eta sigma^2/lambda) W^T``."""
        found, expected, weights = self.mirrored(self.network())
        for k in (1, 2):
            assert apart(found[f"down{k}"], expected[f"down{k}"]) < 0.05
            assert (
                angle(found[f"down{k}"], weights[f"up{k + 1}"].T)
                < 5
                < 45
                < angle(weights[f"down{k}"], weights[f"up{k + 1}"].T)
            )

    @pytest.mark.thorough
    def test_on_brian2_too(self):
        found, _, weights = self.mirrored(self.network(), trials=1, steps=3000, backend="brian2")
        for k in (1, 2):
            assert angle(found[f"down{k}"], weights[f"up{k + 1}"].T) < 15

    @pytest.mark.thorough
    def test_through_saturating_rates_the_direction_stays(self):
        found, _, weights = self.mirrored(self.network("tanh"))
        for k in (1, 2):
            assert angle(found[f"down{k}"], weights[f"up{k + 1}"].T) < 10

    def test_noise_of_another_step_shows_nothing(self):
        hidden = latent_equilibrium(activation="linear", feedback="weight_mirror")
        late = replace(hidden, mismatch={**hidden.mismatch, "feedback": Mismatch("noise", pre="rate")})
        found, expected, _ = self.mirrored(self.network(hidden=late))
        assert np.linalg.norm(found["down1"]) < 0.2 * np.linalg.norm(expected["down1"])

    def test_without_noise_feedback_decays_alone(self):
        found, _, weights = self.mirrored(self.network(sigma=0.0), steps=300, trials=1)
        for k in (1, 2):
            np.testing.assert_allclose(found[f"down{k}"], (1 - self.DECAY) ** 300 * weights[f"down{k}"], rtol=1e-12)


class TestDirectFeedback:
    """F6: other weights above the first hidden layer, the same error of the output: the same gradient, if feedback is
    direct.
    """

    @staticmethod
    def first_layer(feedback, seed, by_hand, backend="torch"):
        """Gradient of up1 where the weights above are of this seed and the target is always 0.3, -0.2, 0.5 from the
        answer.
        """
        net, given = network(feedback=feedback, down=[normal(), normal()]), patterns()
        own, other = net.draw(1), net.draw(seed)
        values = own.replace_weights({name: other.weights[name] for name in ("up2", "up3")})
        error = np.tile([0.3, -0.2, 0.5], (given.steps, 1))
        kind = "direct" if feedback == "direct" else "layered"
        _, states = by_hand(values.weights, given, feedback=kind, error=error)
        answer = np.r_[np.zeros((1, 3)), states["u_breve"][2][:-1]]
        wanted = replace(given, inputs={**given.inputs, "target": (answer + error)[None]})
        return gradients(net, wanted, values, backend)["up1"], answer

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_it_knows_no_layers_in_between(self, backend, by_hand):
        (one, said), (two, says) = (self.first_layer("direct", seed, by_hand, backend) for seed in (1, 2))
        assert np.abs(said - says).max() > 0.3 and apart(one, two) < 1e-12

    def test_feedback_layer_by_layer_does(self, by_hand):
        (one, _), (two, _) = (self.first_layer("random", seed, by_hand) for seed in (1, 2))
        assert apart(one, two) > 0.05
