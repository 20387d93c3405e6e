"""N-MNIST with DECOLLE: digits seen by a moving event camera, and a readout of its own for every layer.

Kaiser, Mostafa & Neftci 2020, Front Neurosci 14:424. They have three convolutional layers and all recordings; here
layers are fully connected, and the recordings are 1000 for training and 100 for testing, so accuracies cannot be
compared.
"""

from functools import partial

import numpy as np
from brian2 import ms

from localplast.models.feedforward import locally_read
from localplast.rules import bptt, decolle
from localplast.study.contenders import Contender
from localplast.study.protocol import Preset, Protocol, Published
from localplast.task import Task, Trials
from localplast.task.datasets import nmnist_small
from localplast.task.loss import smooth_l1

__all__ = ["event_trials", "protocol"]


def event_trials(events, labels, rng=None, *, steps=300, burn_in=60, pool=1, dt=1 * ms):
    """Recordings as spikes.

    Parameters
    ----------
    events : Events
    labels : int array ``(trial,)``
    rng : ignored

    Other arguments
    ---------------
    steps, burn_in : int
        Length of a trial, and of its beginning that is not judged.
    pool : int
        Pixels in squares of this side share a channel.
    dt : Quantity

    Returns
    -------
    Trials
        Input ``events``: bool ``(trial, time, 2*(34/pool)**2)``.
    """
    weight = np.full(steps, 1 / (steps - burn_in))
    weight[:burn_in] = 0
    return Trials({"events": events.raster(dt, steps, pool=pool)}, labels, weight)


def task(**options):
    train, test = nmnist_small()
    return Task.dataset("decolle-nmnist", train, test, partial(event_trials, **options))


def build(*, hidden, steps, burn_in, pool, batch, updates, learning_rate, converged=None, test=100):
    """``converged``: how many updates BPTT makes where it is also compared with as many as it needs."""
    longer = {"BPTT, converged": Contender(bptt(), "torch", updates=converged)} if converged else {}
    return Preset(
        network=locally_read(2 * (34 // pool) ** 2, hidden),
        task=task(steps=steps, burn_in=burn_in, pool=pool),
        loss=smooth_l1(),
        learning_rate=learning_rate,
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden1",
        rules={"BPTT": bptt(), **longer, "DECOLLE": decolle()},
    )


protocol = Protocol(
    name="decolle-nmnist",
    summary="Digits seen by a moving event camera (a subset of N-MNIST); every layer has a readout of its own.",
    reference="Kaiser et al. 2020, Front Neurosci 14:424; Orchard et al. 2015, Front Neurosci 9:437",
    build=build,
    presets={
        # Two layers, pixels pooled by two, the first of the three saccades; the rate is tuned (``benchmarks/tune.py``).
        "quick": dict(
            hidden=(100, 100), steps=100, burn_in=20, pool=2, batch=25, updates=200, learning_rate=3e-2, converged=600
        ),
        # Three layers, every pixel, 300 ms; batch, burn-in and epochs as published.
        "paper": dict(
            hidden=(512, 512, 512), steps=300, burn_in=60, pool=1, batch=72, updates=1400, learning_rate=1e-3
        ),
    },
    published={
        "DECOLLE, convolutional, all recordings": Published("99.04 ± 0.12 %", 99.04, 0.12, certainty="memory"),
        "DECOLLE, fully connected, all recordings": Published("93.1 % (NeuroTrain's re-run, as they print it)", 93.1),
    },
)
