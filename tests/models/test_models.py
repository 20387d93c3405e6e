"""Models against the recursions they come from, written out in plain numpy, and against published numbers."""

import numpy as np
import pytest
from brian2 import ms, mV

import localplast as lp
from localplast.equations.tape import Tape
from localplast.models import decolle_lif, instant_readout, leaky_readout, lif, superspike_lif, van_rossum_readout
from localplast.network import Input, Network, Population, Projection
from localplast.neuron.step import lower
from localplast.task import Trials


def raster(rng, steps, channels, probability):
    return rng.random((1, steps, channels)) < probability


def psi(model, x):
    """The surrogate of ``model`` at distances ``x`` (SI) from the threshold."""
    parameters = {k: float(v) for k, v in model.parameters.items()}
    return Tape([("psi", lower(model).psi)], parameters)({"x": np.asarray(x, float)})["psi"]


class TestSuperSpike:
    def reference(self, spikes, weight, dt):
        """Membrane, current and spikes ``(time, neuron)``: facts of the published code, in the order of its step."""
        v, current, waiting = (
            np.full(weight.shape[1], -60e-3),
            np.zeros(weight.shape[1]),
            np.zeros(weight.shape[1], int),
        )
        kept = []
        for step in spikes:
            v = np.where(waiting > 0, -60e-3, v + dt / 10e-3 * (-60e-3 - v + current))
            waiting = np.maximum(waiting - 1, 0)
            current = current * np.exp(-dt / 5e-3)
            fired = v > -50e-3
            current = current + step @ weight
            v, waiting = np.where(fired, -60e-3, v), np.where(fired, round(5e-3 / dt) - 1, waiting)
            kept.append((v.copy(), current.copy(), fired))
        return [np.array(x) for x in zip(*kept, strict=True)]

    @pytest.mark.thorough
    def test_it_follows_the_published_recursion(self, twins):
        rng = np.random.default_rng(0)
        weight, spikes = rng.normal(4e-3, 4e-3, (20, 5)), raster(rng, 4000, 20, 0.01)
        net = Network(
            dt=0.1 * ms,
            cues=Input(20),
            it=Population(5, superspike_lif()),
            projections=[Projection("cues", "it", weight=weight)],
        )
        found = twins.torch(net, Trials({"cues": spikes}))
        v, current, fired = self.reference(spikes[0].astype(float), weight, 1e-4)
        assert 20 < fired.sum() < 2000
        assert np.array_equal(found["it.spikes"][0] > 0, fired)
        assert np.abs(found["it.v"][0] - v).max() < 1e-14 and np.abs(found["it.I"][0] - current).max() < 1e-14

    def test_the_surrogate_is_symmetric_with_its_peak_beta_at_threshold(self):
        model, x = superspike_lif(), np.linspace(0, 20e-3, 50)
        assert psi(model, 0.0) == pytest.approx(1000.0, rel=1e-14)  # beta, per volt
        assert np.array_equal(psi(model, x), psi(model, -x))
        assert psi(model, 1e-3) == pytest.approx(250.0, rel=1e-12)
        assert psi(superspike_lif(width=2 * mV), 0.0) == pytest.approx(500.0, rel=1e-14)

    def test_the_surrogate_vanishes_far_below_rest(self):
        assert psi(superspike_lif(), -29.9e-3) > 0 and psi(superspike_lif(), -30.1e-3) == 0


class TestVanRossum:
    def kernel(self, twins, dt=0.1 * ms, steps=3000, **options):
        """Response ``(time,)`` to one spike in step 0."""
        net = Network(
            dt=dt,
            cues=Input(1),
            judge=Population(1, van_rossum_readout(**options)),
            projections=[Projection("cues", "judge", weight=1.0)],
        )
        spikes = np.zeros((1, steps, 1), bool)
        spikes[0, 0] = True
        return twins.torch(net, Trials({"cues": spikes}), ["judge.y"])["judge.y"][0, :, 0]

    def test_a_spike_leaves_the_double_exponential(self, twins):
        t = np.arange(3000) * 1e-4
        assert np.abs(self.kernel(twins) - (np.exp(-t / 10e-3) - np.exp(-t / 5e-3))).max() < 1e-13

    @pytest.mark.parametrize("rise, decay", [(5e-3, 10e-3), (3e-3, 20e-3)])
    def test_the_normaliser_of_the_published_code(self, rise, decay, twins):
        a, b = decay, rise
        published = (a * b / (a - b)) ** 2 * (a / 2 + b / 2 - 2 * a * b / (a + b))
        kernel = self.kernel(twins, tau_rise=rise * 1e3 * ms, tau_decay=decay * 1e3 * ms)
        assert decay**2 * (kernel**2).sum() * 1e-4 == pytest.approx(published, rel=1e-6)
        if (rise, decay) == (5e-3, 10e-3):
            assert published == pytest.approx(8.3333333e-8, rel=1e-8)

    def test_the_loss_is_the_distance_of_two_spike_trains(self):
        """Of trains that share all spikes but one: half the integral of the squared kernel; of equal trains: zero."""
        net = Network(
            dt=0.1 * ms,
            cues=Input(1),
            target=Input(1),
            judge=Population(1, van_rossum_readout()),
            projections=[
                Projection("cues", "judge", weight=1.0, plastic=False),
                Projection("target", "judge", weight=-1.0, plastic=False),
            ],
        )
        one = np.zeros((2, 3000, 1), bool)
        one[:, [100, 400, 900]] = True
        other = one.copy()
        other[0, 400] = False
        trials = Trials({"cues": one, "target": other}, np.zeros((2, 3000, 1)), np.full(3000, 1e-4))
        losses = [self.loss(net, trials[k]) for k in (0, 1)]
        assert losses == [pytest.approx(0.5 * 8.3333333e-4, rel=1e-6), 0.0]

    def loss(self, net, trials):
        y = lp.run(net, trials, backend="torch", record=["judge.y"])["judge"]["y"].values[0]
        return float((trials.weight * lp.losses.mse().per_step(y, trials.target[0])).sum())

    def test_equal_time_constants_are_the_limit_of_unequal_ones(self, twins):
        met, near = (self.kernel(twins, tau_rise=tau * ms) for tau in (10, 10.0001))
        np.testing.assert_allclose(met, near, rtol=1e-3, atol=1e-9 * met.max())
        assert met.max() > 0


class TestDecolle:
    def reference(self, spikes, weight, bias):
        """``W P``, ``W Q``, R and S ``(time, neuron)`` of the published recursion."""
        alpha, beta, alpha_r = 0.97, 0.92, 0.65
        pre = weight.shape[0]
        p, q, r, s, kept = np.zeros(pre), np.zeros(pre), np.zeros(weight.shape[1]), np.zeros(weight.shape[1]), []
        for step in spikes:
            p, q = alpha * p + (1 - alpha) * q, beta * q + (1 - beta) * step
            r = alpha_r * r - (1 - alpha_r) * s
            s = (p @ weight + bias + r > 0).astype(float)
            kept.append((p @ weight, q @ weight, r, s))
        return [np.array(x) for x in zip(*kept, strict=True)]

    def network(self, weight, bias=0.0):
        return Network(
            dt=1 * ms,
            cues=Input(len(weight)),
            it=Population(weight.shape[1], decolle_lif(bias=bias)),
            projections=[Projection("cues", "it", weight=weight)],
        )

    @pytest.mark.parametrize("bias", [0.0, -0.02])
    def test_it_follows_the_published_recursion_without_a_shift(self, bias, twins):
        rng = np.random.default_rng(1)
        weight, spikes = rng.normal(0.1, 1.0, (20, 6)), raster(rng, 600, 20, 0.05)
        found = twins.torch(self.network(weight, bias), Trials({"cues": spikes}))
        v, current, r, fired = self.reference(spikes[0].astype(float), weight, bias)
        assert 100 < fired.sum() < 3000
        assert np.array_equal(found["it.spikes"][0], fired)
        assert np.abs(found["it.v"][0] - v).max() < 1e-14
        assert np.abs(0.08 * found["it.I"][0] - current).max() < 1e-14
        jump = 0.35 / 0.65 * fired  # what is recorded is the state after the spike
        assert np.abs(found["it.h"][0] + jump - r).max() < 1e-14

    def test_the_response_to_one_spike(self, twins):
        """D5: ``(1 - alpha)(1 - beta)(alpha**n - beta**n)/(alpha - beta)``, n steps after the spike."""
        spikes = np.zeros((1, 100, 1), bool)
        spikes[0, 0] = True
        found = twins.torch(self.network(np.array([[1.0]])), Trials({"cues": spikes}))
        n, alpha, beta = np.arange(100), 0.97, 0.92
        expected = (1 - alpha) * (1 - beta) * (alpha**n - beta**n) / (alpha - beta)
        assert np.abs(found["it.v"][0, :, 0] - expected).max() < 1e-12

    def test_the_surrogate_is_the_published_one(self):
        x = np.linspace(-1, 1, 21)
        assert psi(decolle_lif(), x) == pytest.approx(1 / (1 + 10 * np.abs(x)) ** 2, rel=1e-13)


class TestInstantReadout:
    def net(self, model):
        rng = np.random.default_rng(2)
        return Network(
            dt=1 * ms,
            cues=Input(10),
            hidden=Population(5, lif(v_th=0.5)),
            out=Population(3, model),
            projections=[
                Projection("cues", "hidden", weight=rng.normal(0.2, 0.5, (10, 5))),
                Projection("hidden", "out", weight=rng.normal(size=(5, 3))),
            ],
        )

    def test_the_output_is_the_weighted_sum_of_the_spikes_of_this_step(self, twins):
        net, trials = self.net(instant_readout()), Trials({"cues": raster(np.random.default_rng(3), 100, 10, 0.2)})
        for found in twins.both(net, trials, ["hidden.spikes", "out.y"]):
            spikes = found["hidden.spikes"][0].astype(float)
            assert 20 < spikes.sum() < 450
            assert np.abs(found["out.y"][0] - spikes @ net.draw(0).weights["hidden_out"]).max() < 1e-14

    def test_it_learns_through_its_spikes_of_this_step_only(self):
        """BPTT's gradient of the readout's weights is a product of spikes and errors, without any filter."""
        net, steps = self.net(instant_readout()), 60
        target = np.random.default_rng(4).normal(size=(1, steps, 3))
        trials = Trials({"cues": raster(np.random.default_rng(3), steps, 10, 0.2)}, target, np.ones(steps))
        grads = lp.gradient(net, trials, lp.rules.bptt(), loss=lp.losses.mse())
        record = lp.run(net, trials, backend="torch", record=["hidden.raster", "out.y"])
        error = record["out"]["y"].values[0] - target[0]
        expected = record["hidden"]["spikes"].values[0].astype(float).T @ error
        assert np.abs(grads["hidden_out"]["gradient"].values - expected).max() < 1e-12
        other = lp.gradient(self.net(leaky_readout()), trials, lp.rules.bptt(), loss=lp.losses.mse())
        assert np.abs(other["hidden_out"]["gradient"].values - expected).max() > 0.1
