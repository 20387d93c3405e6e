"""Delays drawn for every seed: within bounds, the same on both backends, and apart from the weights' numbers."""

import numpy as np
import pytest
from brian2 import ms, mV

import localplast as lp
from localplast.errors import NetworkError, UnsupportedError
from localplast.models import leaky_readout, lif
from localplast.network import Input, Network, Population, Projection, axonal, dendritic, normal, synaptic, uniform
from localplast.rules import eprop
from localplast.task import Trials
from localplast.task.loss import mse

DRAWN = uniform(6 * ms, mean=5 * ms, fan_in=False)
SHAPES = {axonal: (5,), dendritic: (7,), synaptic: (5, 7)}


def network(delay, **options):
    return Network(
        dt=1 * ms, cues=Input(5), rec=Population(7, lif()), out=Population(2, leaky_readout()),
        projections=[Projection("cues", "rec", weight=normal(1.5, mean=0.4), delay=delay), Projection("rec", "out", **options)],
    )  # fmt: skip


@pytest.mark.parametrize("make", SHAPES)
def test_drawn_for_every_seed(make):
    net = network(make(DRAWN, trainable=(2 * ms, 9 * ms)))
    one, again, other = (net.draw(seed).delays["cues_rec"] for seed in (1, 1, 2))
    assert one.shape == SHAPES[make] and np.array_equal(one, again) and np.abs(one - other).max() > 0.5
    assert (one >= 2).all() and (one <= 9).all()
    assert np.any(one != np.round(one))
    whole = network(make(DRAWN)).draw(1).delays["cues_rec"]
    assert np.array_equal(whole, np.round(whole)) and whole.min() >= 0


def test_weights_stay_what_they_were():
    """The numbers of the delays come from a stream of their own."""
    weights = [network(delay).draw(3).weights["cues_rec"] for delay in (axonal(3 * ms), axonal(DRAWN))]
    assert np.array_equal(*weights)


def test_as_given():
    """What a seed draws acts as the same numbers given, and is written and read back."""
    net = network(synaptic(DRAWN))
    delays = net.draw(4).delays["cues_rec"]
    given, trials = network(synaptic(delays * ms)), Trials({"cues": np.random.default_rng(0).random((2, 30, 5)) < 0.3})
    runs = [lp.run(n, trials, backend=b, seed=4, record=["rec.v"], show=False)["rec"]["v"].values
            for n, b in ((net, "torch"), (given, "torch"), (net, "brian2"))]  # fmt: skip
    assert max(np.abs(runs[0] - other).max() for other in runs[1:]) < 1e-12 and np.ptp(runs[0]) > 1


def test_read_back(tmp_path):
    net = network(synaptic(DRAWN, trainable=(0 * ms, 9 * ms)))
    net.save(tmp_path / "net.json")
    assert np.array_equal(
        Network.load(tmp_path / "net.json").draw(2).delays["cues_rec"], net.draw(2).delays["cues_rec"]
    )


@pytest.mark.parametrize("backend", ["torch", "brian2"])
def test_gradients(backend):
    net = network(synaptic(DRAWN, trainable=(0 * ms, 9 * ms)))
    trials = Trials({"cues": np.random.default_rng(0).random((2, 30, 5)) < 0.3}, np.ones((2, 30, 2)))
    delays = net.draw(4).delays["cues_rec"]
    given = network(synaptic(delays * ms, trainable=(0 * ms, 9 * ms)))
    found, expected = (
        lp.gradient(n, trials, eprop(), loss=mse(), backend=backend, seed=4)["cues_rec"] for n in (net, given)
    )
    for name in ("gradient", "gradient_delay"):
        scale = np.abs(expected[name].values).max()
        assert scale > 0 and np.abs(found[name].values - expected[name].values).max() < 1e-12 * scale


@pytest.mark.parametrize(
    "drawn", [uniform(0.5), uniform(6 * ms, mean=5 * ms), uniform(6 * mV, mean=5 * mV, fan_in=False)]
)
def test_drawn_as_times(drawn):
    with pytest.raises(NetworkError, match="projection 'cues_rec': draw delays as times, without fan-in"):
        network(axonal(drawn))


def test_bounds_the_wrong_way_round():
    with pytest.raises(NetworkError, match="no delay lies within the bounds"):
        network(axonal(DRAWN, trainable=(9 * ms, 2 * ms)))


def test_no_mirror():
    from localplast.runs.mirror import later

    net = network(axonal(DRAWN))
    with pytest.raises(UnsupportedError, match="'cues_rec': a mirror needs to know its delays"):
        later(net, net.projections["cues_rec"])
