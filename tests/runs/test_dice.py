"""What is random in learning, where the learning rate is zero: dice differ from update to update and seed to seed."""

import numpy as np
import pytest
from brian2 import ms

import localplast as lp
from localplast.models import graded_readout, leaky_readout, lif
from localplast.models.layers import stream
from localplast.models.pal_circuit import aligning
from localplast.network import Input, Network, Population, Projection, normal
from localplast.rules import bptt, dendritic, eprop
from localplast.task import Poisson, Task, Trials

STEPS = 30


def noisy():
    """Ornstein-Uhlenbeck processes, and their mean."""
    equations = "dv/dt = (drive - v)/tau + 0.3*sqrt(2/tau)*xi : 1\ndrive : 1"
    model = lp.NeuronModel("noisy", equations, {"tau": 5 * ms}, method="euler", receives="drive", output="v")
    return Network(
        dt=1 * ms, cues=Input(1, "currents"), a=Population(5, model), out=Population(1, graded_readout()),
        projections=[Projection("cues", "a", weight=1.0), Projection("a", "out", weight=0.2)],
    )  # fmt: skip


def spiking():
    return Network(
        dt=1 * ms, cues=Input(6), rec=Population(5, lif()), out=Population(2, leaky_readout()),
        projections=[Projection("cues", "rec", weight=normal(2.0)), Projection("rec", "rec"), Projection("rec", "out")],
    )  # fmt: skip


def steady(n):
    return Trials({"cues": np.ones((n, STEPS, 1))}, np.ones((n, STEPS, 1)), np.full(STEPS, 1 / STEPS))


def poisson(n):
    return Trials({"cues": Poisson(np.full((n, 3, 6), 200.0), STEPS // 3)}, np.zeros(n, int), np.full(STEPS, 1 / STEPS))


def patterns(n):
    sense, wanted = (np.random.default_rng(k).random((1, 2, size)).repeat(n, axis=0) for k, size in ((0, 3), (1, 2)))
    return stream(sense, wanted, steps=5)


#: Network, trials, rule, backend, updates that run at a stretch.
CASES = {
    "noise, BPTT": (noisy, steady, bptt(), "torch", 1),
    "noise, dendrites in Torch": (lambda: aligning((3, 4, 2), sigma=1.0), patterns, dendritic(), "torch", 1),
    "noise, dendrites in Brian2": (lambda: aligning((3, 4, 2), sigma=1.0), patterns, dendritic(), "brian2", 1),
    "Poisson, BPTT": (spiking, poisson, bptt(), "torch", 1),
    "Poisson, e-prop in Torch": (spiking, poisson, eprop(), "torch", 1),
    "Poisson, e-prop in every step": (spiking, poisson, eprop(update="step"), "torch", 1),
    "Poisson, e-prop in Brian2": (spiking, poisson, eprop(), "brian2", 1),
    "Poisson, e-prop in Brian2, in one go": (spiking, poisson, eprop(), "brian2", 4),
}


def losses(case, seed=0, batch=1, updates=None):
    """The loss of every update, with the weights of seed 0 whatever the seed."""
    make, trials, rule, backend, stretch = CASES[case]
    net, updates = make(), updates or max(stretch, 3)
    still = Task("still", lambda update, batch, seed: trials(batch), lambda n, seed: trials(n))
    found = lp.run(
        net, still, values=net.draw(0), rule=rule, optimiser=lp.sgd(0.0), backend=backend, batch=batch, updates=updates,
        seed=seed, test_every=stretch, target="numpy", show=False,
    )  # fmt: skip
    for name, weight in net.draw(0).weights.items():
        np.testing.assert_array_equal(found[name]["weight"], weight)
    return found["metrics"]["loss"].values


@pytest.mark.sampled(4, 1)
@pytest.mark.parametrize("case", CASES)
def test_every_update_rolls_its_own_dice_and_a_seed_the_same_again(case):
    one, again, other = (losses(case, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert len(np.unique([*one, *other])) == 2 * len(one) > 4


def test_how_many_updates_run_at_a_stretch_changes_no_dice():
    """So neither the number of updates nor that of tests does, and a run may go on for longer than it was meant to."""
    one_by_one, in_one_go = (losses(f"Poisson, e-prop in Brian2{how}", updates=4) for how in ("", ", in one go"))
    np.testing.assert_array_equal(one_by_one, in_one_go)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("case", [name for name in CASES if "Brian2" not in name])  # its trials: see test_trials.py
def test_every_trial_rolls_its_own_dice(case):
    """Alike trials: were their dice alike too, a batch of them would vary as much as one does."""
    alone, many = losses(case, batch=1, updates=12), losses(case, batch=40, updates=12)
    assert 0 < np.std(many) < 0.4 * np.std(alone)


@pytest.mark.parametrize("rule, backend", [(eprop(), "torch"), (bptt(), "torch"), (eprop(), "brian2")])
def test_other_trials_meet_other_networks_with_every_seed(rule, backend):
    """Weights, feedback and trials are the seed's: all else alike, each by itself changes what is learned."""
    net, rule = spiking(), rule if not rule.local else eprop(feedback="random")
    task = Task.generated("any", lambda rng, n: Trials(
        {"cues": rng.random((n, STEPS, 6)) < 0.2}, rng.integers(0, 2, n), np.full(STEPS, 1 / STEPS),
    ))  # fmt: skip
    options = dict(rule=rule, optimiser=lp.sgd(0.1), backend=backend, updates=2, target="numpy", show=False)

    def change(seed, start):
        """What is learned with a seed from the weights of another one."""
        values = net.draw(start)
        fit = lp.run(net, task, seed=seed, values=values, **options)
        return fit["cues_rec"]["weight"].values - values.weights["cues_rec"]

    own, again, elsewhere, other = change(0, 0), change(0, 0), change(0, 1), change(1, 0)
    np.testing.assert_array_equal(own, again)
    assert all(np.abs(own - found).max() > 1e-6 for found in (elsewhere, other))
