"""What is drawn anew, and from what seed: learning rates of zero, so that only the dice differ."""

import numpy as np
import pytest
from brian2 import Hz, ms

import localplast as lp
from localplast.backends.torch.learner import TorchLearner
from localplast.models import leaky_readout, lif
from localplast.rules import bptt, eprop
from localplast.runs import fit, simulate

STEPS = 12
NOISY = lp.NeuronModel(
    "noisy", "dv/dt = (I - v)/tau + sigma*xi/tau**0.5 : 1\nI : 1", {"tau": 5 * ms, "sigma": 0.5}, method="euler", output="v",
    receives="I",
)  # fmt: skip
BACKENDS = ("torch", "brian2")


def spiking(**options):
    """Poisson spikes drive it."""
    return lp.Network(
        dt=1 * ms, cues=lp.Input(3), rec=lp.Population(6, lif()), out=lp.Population(2, leaky_readout()),
        projections=[lp.Projection("cues", "rec", weight=lp.normal(3.0), **options), lp.Projection("rec", "out")],
    )  # fmt: skip


def noisy():
    """It is noise alone that differs."""
    return lp.Network(
        dt=1 * ms, cues=lp.Input(3, "currents"), out=lp.Population(2, NOISY), projections=[lp.Projection("cues", "out")]
    )


def presented(net, n):
    """``n`` times the same trial."""
    rates = np.full((n, STEPS // 2, 3), 300.0) * Hz
    return lp.Trials(
        {"cues": lp.Poisson(rates, 2) if net.inputs["cues"].kind == "spikes" else np.ones((n, STEPS, 3))},
        np.zeros((n, STEPS, 2)),
    )


def task(net):
    return lp.Task("the same", lambda update, batch, seed: presented(net, batch), lambda n, seed: presented(net, n))


def learn(net, backend, rule=None, **options):
    settings = dict(optimiser=lp.sgd(0.0), updates=4, batch=2, target="numpy", loss=lp.losses.mse(), **options)
    return lp.run(net, task(net), rule=rule or eprop(), backend=backend, **settings)


@pytest.mark.parametrize("backend", BACKENDS)
def test_inputs_are_drawn_anew_in_every_update_and_from_the_seed(backend):
    losses = [
        learn(spiking(), backend, seed=seed, values=spiking().draw(0))["metrics"]["loss"].values for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(losses[0], losses[1])
    assert len(np.unique(np.concatenate(losses[1:]))) == 8


def test_noise_is_drawn_anew_in_every_update_and_from_the_seed():
    losses = [
        learn(noisy(), "torch", bptt(), seed=seed, values=noisy().draw(0))["metrics"]["loss"].values
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(losses[0], losses[1])
    assert len(np.unique(np.concatenate(losses[1:]))) == 8


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("make", [spiking, noisy])
def test_every_trial_and_every_chunk_has_dice_of_its_own(make, backend, monkeypatch):
    monkeypatch.setattr(simulate, "BLOCK_NUMBERS", 2 * STEPS * 3)  # two trials at a time
    net = make()
    seen = [
        lp.run(net, presented(net, 5), backend=backend, record=["out.v"], seed=s)["out"]["v"].values for s in (0, 0, 1)
    ]
    np.testing.assert_array_equal(seen[0], seen[1])
    each = np.concatenate(seen[1:]).reshape(10, -1)
    assert len(np.unique(each, axis=0)) == 10


@pytest.mark.parametrize("make", [spiking, noisy])
def test_every_part_of_a_test_has_dice_of_its_own_the_same_in_every_test(make):
    net = make()
    learner = TorchLearner(net, net.draw(0), bptt(), lp.losses.mse(), lp.sgd(0.0), batch=2)
    losses = [learner.evaluate(presented(net, 2), part)["loss"] for part in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]


def test_parts_of_a_test_count_by_their_size(monkeypatch):
    """Five trials in parts of two, the last one alone: its loss, its spikes and its choice count once."""
    net, rng = spiking(), np.random.default_rng(3)
    drawn = lp.Trials({"cues": rng.random((5, STEPS, 3)) < 0.3}, [0, 1, 1, 0, 1])
    told = lp.Task("drawn", lambda update, batch, seed: drawn[:batch], lambda n, seed: drawn)
    whole, split = [], fit.split
    for size in (250, 2):
        monkeypatch.setattr(fit, "split", lambda trials, _, size=size: split(trials, size))
        tree = lp.run(net, told, rule=bptt(), optimiser=lp.sgd(0.0), updates=1, test=5, backend="torch")
        whole.append([tree["metrics"][f"test_{k}"].values[-1] for k in ("loss", "accuracy", "spikes")])
    np.testing.assert_allclose(whole[0], whole[1], rtol=1e-12)
    single = [lp.gradient(net, drawn[k], bptt()).attrs["loss"] for k in range(5)]
    assert np.mean([np.mean(single[:2]), np.mean(single[2:4]), single[4]]) != pytest.approx(np.mean(single), rel=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_random_feedback_is_that_of_the_seed(backend):
    net, rng = spiking(), np.random.default_rng(3)
    drawn, values = lp.Trials({"cues": rng.random((2, STEPS, 3)) < 0.4}, [0, 1]), net.draw(0)

    def hidden(rule, seed):
        return lp.gradient(net, drawn, rule, seed=seed, values=values, backend=backend)["cues_rec"]["gradient"].values

    np.testing.assert_array_equal(hidden(eprop(feedback="random"), 1), hidden(eprop(feedback="random"), 1))
    assert np.abs(hidden(eprop(feedback="random"), 1) - hidden(eprop(feedback="random"), 2)).max() > 1e-3
    np.testing.assert_array_equal(hidden(eprop(), 1), hidden(eprop(), 2))


def test_what_was_learned_has_the_delays_of_its_seed():
    net = spiking(delay=lp.synaptic(lp.uniform(3 * ms, mean=4 * ms, fan_in=False)))
    tree = learn(net, "torch", bptt(), seed=3)
    np.testing.assert_array_equal(net.values_from(tree).delays["cues_rec"], net.draw(3).delays["cues_rec"])
    assert np.any(net.draw(3).delays["cues_rec"] != net.draw(0).delays["cues_rec"])
    with pytest.raises(lp.NetworkError, match="not those of its seed, 3; use values.replace_weights"):
        net.values_from(learn(net, "torch", bptt(), seed=3, values=net.draw(0)))
