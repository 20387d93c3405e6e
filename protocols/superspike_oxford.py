"""A picture in spikes: 200 frozen Poisson inputs, one hidden layer, 200 outputs that draw a row of the picture each.

Zenke & Ganguli 2018, Neural Comput 30:1514, fig. 6; patterns, sizes and numbers of the published code.
"""

import numpy as np
from brian2 import ms, second

from localplast.models.feedforward import judged, judged_trials
from localplast.study.protocol import Preset, Protocol
from localplast.study.superspike import hidden_rules, published_optimiser
from localplast.task import Task
from localplast.task.datasets import oxford
from localplast.task.loss import mse

__all__ = ["network", "pattern_trial", "protocol"]


def pattern_trial(dt, *, every=1, periods=1):
    """The one trial of this task, from the published files.

    Parameters
    ----------
    dt : Quantity

    Other arguments
    ---------------
    every : int
        Keep every so many rows of the picture.
    periods : int
        How often the pattern of 1.89 s is repeated within the trial. The published code never sets its state back.

    Returns
    -------
    Trials
        Input ``pattern``: bool ``(1, time, 200)``; ``target``: bool ``(1, time, 200/every)``.
    """
    pattern, target = (np.tile(raster, (periods, 1))[None] for raster in oxford(dt))
    return judged_trials(pattern, target[:, :, ::every], dt)


def network(*, hidden=256, outputs=200, dt=0.1 * ms):
    """200 inputs, ``hidden`` neurons, ``outputs`` neurons, all feed-forward."""
    return judged((200, hidden, outputs), dt=dt)


def task(dt, **options):
    def training(update, batch, seed):
        return pattern_trial(dt, **options)[np.zeros(batch, int)]

    # one pattern for everybody: the seed moves the weights only
    meta = {"frozen": True, "given": True}
    return Task("superspike-oxford", training, testing=lambda n, seed: training(0, n, seed), meta=meta)


def build(*, dt, hidden, every, updates, rate=1e-3, batch=1, test=1):
    return Preset(
        network=network(hidden=hidden, outputs=200 // every, dt=dt),
        task=task(dt, every=every),
        loss=mse(),
        optimiser=published_optimiser(rate, 1.89 * second),
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden1",
        rules=hidden_rules(),
    )


protocol = Protocol(
    name="superspike-oxford",
    summary="Frozen Poisson inputs are turned into a picture made of spikes, through one hidden layer.",
    reference="Zenke & Ganguli 2018, Neural Comput 30:1514, fig. 6",
    build=build,
    presets={
        # Every fourth row of the picture, 100 hidden neurons, steps of 1 ms.
        "quick": dict(dt=1 * ms, hidden=100, every=4, updates=100),
        # The published sizes, time step and presentations: 50 blocks of 20 s; the rate is not lowered along the way.
        "paper": dict(dt=0.1 * ms, hidden=256, every=1, updates=529),
    },
    published={"SuperSpike": "simple targets are learned with any feedback, complex ones need symmetric feedback"},
)
