"""MNIST with DECOLLE: pixels as spike rates, layers with a readout of their own.

The network and loss of ``decolle-nmnist`` (Kaiser, Mostafa & Neftci 2020, Front Neurosci 14:424), on static images.
"""

from functools import partial

import numpy as np

from localplast.protocols.decolle_nmnist import network
from localplast.rules import bptt, decolle
from localplast.study.protocol import Preset, Protocol
from localplast.task import Poisson, Task, Trials
from localplast.task.datasets import mnist
from localplast.task.loss import smooth_l1

__all__ = ["protocol", "rate_trials"]


def rate_trials(images, labels, rng=None, *, highest=100.0, steps=100, burn_in=20):
    """Every pixel sends Bernoulli spikes at a rate proportional to its brightness, ``highest`` (hertz) at most.

    Other arguments
    ---------------
    steps, burn_in : int
        Length of a trial, and of its beginning that is not judged.

    Returns
    -------
    Trials
        Input ``events``, left to the backend to draw (:class:`~localplast.task.trials.Poisson`).
    """
    weight = np.full(steps, 1 / (steps - burn_in))
    weight[:burn_in] = 0
    return Trials({"events": Poisson(images.reshape(len(images), 1, -1) * (highest / 255), steps)}, labels, weight)


def task(train=None, **options):
    return Task.dataset("decolle-mnist", *mnist(), partial(rate_trials, **options), learned=train, held=5000)


def build(*, hidden, train, steps, burn_in, batch, updates, test, learning_rate):
    return Preset(
        network=network(784, hidden),
        task=task(train, steps=steps, burn_in=burn_in),
        loss=smooth_l1(),
        learning_rate=learning_rate,
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden1",
        rules={"BPTT": bptt(), "DECOLLE": decolle()},
    )


protocol = Protocol(
    name="decolle-mnist",
    summary="Handwritten digits as spike rates; every layer has a readout of its own.",
    reference="Kaiser et al. 2020, Front Neurosci 14:424; LeCun et al. 1998, Proc IEEE 86:2278",
    build=build,
    presets={
        # Two layers of 100, 100 ms, the first 10000 training images.
        "quick": dict(
            hidden=(100, 100), train=10_000, steps=100, burn_in=20, batch=32, updates=200, test=500, learning_rate=1e-2
        ),
        # Three layers of 512, 300 ms, all images, 20 epochs.
        "paper": dict(
            hidden=(512, 512, 512),
            train=None,
            steps=300,
            burn_in=60,
            batch=64,
            updates=18_750,
            test=10_000,
            learning_rate=1e-3,
        ),
    },
)
