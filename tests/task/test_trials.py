"""Trials know nothing of each other: not their spikes in flight, not their refractory periods, not their voltages."""

import numpy as np
import pytest
from brian2 import ms

from localplast.backends.brian2.learner import block_for
from localplast.backends.brian2.session import session
from localplast.models import alif, leaky_readout
from localplast.network import Input, Network, Population, Projection, axonal, dendritic, normal, synaptic
from localplast.neuron import NeuronModel
from localplast.task import Poisson, Trials

STEPS = 30


def network():
    """Adaptive, refractory neurons whose spikes are in flight for up to two thirds of a trial."""
    rng = np.random.default_rng(0)
    return Network(
        dt=1 * ms, cues=Input(5), rec=Population(6, alif(tau_ref=9 * ms), initial={"v": 0.3}), out=Population(2, leaky_readout()),
        projections=[
            Projection("cues", "rec", weight=normal(2.0, mean=0.4), delay=dendritic(rng.integers(0, 20, 6) * ms)),
            Projection("rec", "rec", weight=normal(1.0), delay=synaptic(rng.integers(0, 20, (6, 6)) * ms)),
            Projection("rec", "out", delay=axonal(20 * ms)),
        ],
    )  # fmt: skip


def trials(*seeds):
    """One dense trial per seed; -1 is silence."""
    rasters = [
        np.random.default_rng(s).random((STEPS, 5)) < 0.4 if s >= 0 else np.zeros((STEPS, 5), bool) for s in seeds
    ]
    return Trials({"cues": np.stack(rasters)})


RECORD = ["rec.v", "rec.a", "rec.spikes", "out.v"]


@pytest.mark.parametrize("backend", ["brian2", "torch"])
def test_a_block_is_its_trials_one_by_one(backend, twins):
    net, run = network(), getattr(twins, backend)
    together = run(net, trials(1, 2, 1), RECORD)
    twins.live(net, together, high=200)
    for number, seed in enumerate((1, 2, 1)):
        alone = run(net, trials(seed), RECORD)
        # Torch multiplies one row or three by different routines: rounding apart, the same
        twins.compare({k: v[number : number + 1] for k, v in together.items()}, alone, 1e-12)
    assert not np.array_equal(together["rec.spikes"][0], together["rec.spikes"][1])


@pytest.mark.parametrize("backend", ["brian2", "torch"])
def test_spikes_in_flight_do_not_reach_the_next_trial(backend, twins):
    """After a trial of dense spikes, a silent one holds nothing but the decay of its initial state."""
    kept = getattr(twins, backend)(network(), trials(1, -1), RECORD)
    assert kept["rec.spikes"][0, -20:].any()
    assert not kept["rec.spikes"][1].any() and not kept["out.v"][1].any() and not kept["rec.a"][1].any()
    decay = 0.3 * np.exp(-np.arange(1, STEPS + 1) / 20)
    np.testing.assert_allclose(kept["rec.v"][1], np.broadcast_to(decay[:, None], (STEPS, 6)), rtol=1e-12)


def clamped(**options):
    return NeuronModel(
        name="clamped", equations="dv/dt = -v/tau : 1 (unless refractory)\n dI/dt = -I/tau : 1", threshold="v + I > 1",
        reset="v = -0.5", refractory="tau_ref", receives="I", parameters={"tau": 10 * ms, "tau_ref": 50 * ms},
        initial={"v": 0.3}, **options,
    )  # fmt: skip


def last_step_spike():
    """Two trials; in the first the neuron spikes in the last step and would be silent for all of the second."""
    net = Network(
        dt=1 * ms, cues=Input(1), it=Population(1, clamped()), projections=[Projection("cues", "it", weight=2.0)]
    )
    raster = np.zeros((2, 10, 1), bool)
    raster[0, 8], raster[1, 3] = True, True
    return net, Trials({"cues": raster})


@pytest.mark.parametrize("backend", ["brian2", "torch"])
def test_refractoriness_ends_with_the_trial(backend, twins):
    net, both = last_step_spike()
    kept = getattr(twins, backend)(net, both)
    assert kept["it.spikes"][0, :, 0].nonzero()[0].tolist() == [9]
    assert kept["it.spikes"][1, :, 0].nonzero()[0].tolist() == [4]
    twins.compare({k: v[1:] for k, v in kept.items()}, getattr(twins, backend)(net, both[1]))


def test_a_neuron_that_diverges_without_its_reset_leaves_nothing_behind(twins):
    """Between trials nothing spikes, so a quadratic neuron would run off to infinity there."""
    quadratic = NeuronModel(
        name="quadratic", equations="dv/dt = (v**2 + I)/tau : 1\n dI/dt = -I/(7*ms) : 1", threshold="v > 10", reset="v = -2",
        receives="I", method="euler", parameters={"tau": 2 * ms}, initial={"v": -1.0},
    )  # fmt: skip
    net = Network(
        dt=1 * ms, cues=Input(1), it=Population(1, quadratic),
        projections=[Projection("cues", "it", weight=2.0, delay=axonal(20 * ms))],
    )  # fmt: skip
    one, other = twins.both(net, Trials({"cues": np.ones((3, 40, 1), bool)}))
    twins.live(net, one)
    twins.compare(one, other)
    np.testing.assert_array_equal(one["it.v"][0], one["it.v"][2])


def test_a_session_run_again_is_a_fresh_session(twins):
    net, first, second = network(), trials(1, 2), trials(3, 4)
    request = [tuple(name.split(".")) for name in RECORD]

    def fresh():
        return session("numpy", net, net.draw(0), block_for(net, first), first, request=request)

    running = fresh()
    runs = [twins.collect(running.run(block), net, RECORD) for block in (first, second, first)]
    alone = twins.collect(fresh().run(second), net, RECORD)
    for name in RECORD:
        np.testing.assert_array_equal(runs[0][name], runs[2][name])
        np.testing.assert_array_equal(runs[1][name], alone[name])
        assert not np.array_equal(runs[0][name], runs[1][name])


# ---------------------------------------------------------------------------------------------- inputs given as rates

RATES = np.array([[[20.0, 200.0, 0.0]] * 10 + [[200.0, 20.0, 0.0]] * 10] * 2)  # (trial, segment, channel)


def poisson_network(delay=0 * ms):
    return Network(
        dt=1 * ms,
        cues=Input(3),
        out=Population(1, leaky_readout()),
        projections=[Projection("cues", "out", delay=axonal(delay))],
    )


def drawn_by_brian2(seed, delay=0 * ms, rates=RATES):
    net, given = poisson_network(delay), Trials({"cues": Poisson(rates, 50)})
    running = session("numpy", net, net.draw(0), block_for(net, given), given, request=[("cues", "spikes")], seed=seed)
    return running.run(given).raster("cues", 3)


def drawn_by_torch(seed):
    return Trials({"cues": Poisson(RATES, 50)}).rasters(np.random.default_rng(seed), 1e-3)["cues"]


@pytest.mark.parametrize("draw", [drawn_by_brian2, drawn_by_torch])
def test_rates_become_spikes(draw):
    """Same seed same spikes, other seed others; counts within five standard deviations; trials differ."""
    raster = draw(0)
    assert raster.shape == (2, 1000, 3)
    np.testing.assert_array_equal(raster, draw(0))
    assert not np.array_equal(raster, draw(1))
    assert not np.array_equal(raster[0], raster[1])
    expected = RATES.reshape(2, 2, 10, 3)[:, :, 0] * 1e-3 * 500  # (trial, half, channel)
    counts = raster.reshape(2, 2, 500, 3).sum(2)
    assert np.all(np.abs(counts - expected) <= 5 * np.sqrt(expected))
    assert not raster[:, :, 2].any()


def test_rates_are_kept_where_spikes_are_delayed():
    """The gap after a trial is a whole number of segments, so that the rates of the next trial are not shifted."""
    raster = drawn_by_brian2(0, delay=20 * ms)
    counts = raster.reshape(2, 2, 500, 3).sum(2)
    assert np.all(counts[:, 0, 1] > 2 * counts[:, 1, 1]) and np.all(counts[:, 1, 0] > 2 * counts[:, 0, 0])


def test_drawing_leaves_the_random_numbers_of_the_caller_alone():
    np.random.seed(3)
    expected = np.random.random(3)
    np.random.seed(3)
    drawn_by_brian2(0)
    np.testing.assert_array_equal(np.random.random(3), expected)


def test_a_gap_holds_whole_segments_of_every_input():
    """Else the rates of the second trial would be read too early: both inputs of it are silent there."""
    net = Network(
        dt=1 * ms, cues=Input(2), others=Input(1), out=Population(1, leaky_readout()),
        projections=[Projection("cues", "out", delay=axonal(35 * ms)), Projection("others", "out")],
    )  # fmt: skip
    rates = {"cues": np.full((2, 9, 2), 300.0), "others": np.full((2, 6, 1), 300.0)}
    rates["cues"][1] = rates["others"][1] = 0.0
    given = Trials({"cues": Poisson(rates["cues"], 10), "others": Poisson(rates["others"], 15)})
    request = [("cues", "spikes"), ("others", "spikes")]
    results = session("numpy", net, net.draw(0), block_for(net, given), given, request=request).run(given)
    for name in ("cues", "others"):
        raster = results.raster(name, net.size(name))
        assert raster[0, -10:].any() and not raster[1].any()
