"""MNIST with one hidden layer of LIF neurons, the pixels given as spike times or as spike rates.

LeCun et al. 1998, Proc IEEE 86:2278; rate code and sizes of the ``paper`` preset after De Geeter, Ernst & Drion 2023,
arXiv:2306.03623, appendix A (their LIF baseline).
"""

from functools import partial

import numpy as np
from brian2 import ms

from localplast.arguments import check_choice
from localplast.models import leaky_readout, lif
from localplast.network import Input, Network, Population, Projection, normal
from localplast.study.protocol import Preset, Protocol, Published
from localplast.task import Poisson, Task, Trials
from localplast.task.datasets import mnist
from localplast.task.loss import cross_entropy

__all__ = ["latency_trials", "network", "protocol", "rate_trials"]

#: Fainter pixels (of 255) send no spike in the latency code.
FAINTEST = 51


def latency_trials(images, labels, rng=None, *, span=20, steps=40, judged=20):
    """Every pixel sends one spike, the brighter the earlier; pixels below a fifth of full brightness stay silent.

    Parameters
    ----------
    images : uint8 array ``(trial, 28, 28)``
    labels : int array ``(trial,)``
    rng : ignored
        The code is deterministic.

    Other arguments
    ---------------
    span : int
        Step in which a pixel of brightness 0 would send its spike; full brightness sends it in step 0.
    steps, judged : int
        Length of a trial, and of the window at its end in which the readout is judged.

    Returns
    -------
    Trials
        Input ``pixels``: bool ``(trial, time, 784)``.
    """
    pixels = images.reshape(len(images), -1)
    when = np.floor((1 - pixels / 255) * span + 0.5).astype(int)
    raster = np.zeros((len(images), steps, pixels.shape[1]), bool)
    trial, channel = np.nonzero(pixels >= FAINTEST)
    raster[trial, when[trial, channel], channel] = True
    return Trials({"pixels": raster}, labels, window(steps, judged))


def rate_trials(images, labels, rng=None, *, highest=250.0, steps=200, judged=1):
    """Every pixel sends Bernoulli spikes at a rate proportional to its brightness, ``highest`` (hertz) at most.

    The other arguments and the result are those of :func:`latency_trials`, but the spikes are left to the backend to
    draw (:class:`~localplast.task.trials.Poisson`): all test images as rasters would take gigabytes.
    """
    rates = images.reshape(len(images), 1, -1) * (highest / 255)
    return Trials({"pixels": Poisson(rates, steps)}, labels, window(steps, judged))


def window(steps, judged):
    weight = np.zeros(steps)
    weight[-judged:] = 1 / judged
    return weight


def network(*, hidden, tau_mem, tau_out, weight, v_th, dt=1 * ms):
    """784 inputs, ``hidden`` LIF neurons, 10 readouts; ``weight`` is the standard deviation at one input, over 28."""
    return Network(
        dt=dt,
        pixels=Input(784),
        hidden=Population(hidden, lif(tau_mem=tau_mem, v_th=v_th)),
        out=Population(10, leaky_readout(tau_out=tau_out)),
        projections=[
            Projection("pixels", "hidden", weight=normal(weight)),
            Projection("hidden", "out", weight=normal(0.3)),
        ],
    )


def task(present, train=None):
    return Task.dataset("mnist", *mnist(), present, learned=train, held=5000)


#: How an image is shown, by the name of the code.
CODES = {"latency": latency_trials, "rate": partial(rate_trials, highest=250.0)}


def build(*, code, hidden, tau_mem, tau_out, weight, v_th, train, learning_rate, batch, updates, test):
    check_choice("code", code, CODES)
    return Preset(
        network=network(hidden=hidden, tau_mem=tau_mem, tau_out=tau_out, weight=weight, v_th=v_th),
        task=task(CODES[code], train=train),
        loss=cross_entropy(),
        learning_rate=learning_rate,
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden",
    )


protocol = Protocol(
    name="mnist",
    summary="Handwritten digits as spike times or rates, one hidden layer of LIF neurons.",
    reference="LeCun et al. 1998, Proc IEEE 86:2278; De Geeter et al. 2023, arXiv:2306.03623",
    build=build,
    presets={
        # Latency code, 100 hidden neurons, 40 steps, the first 10000 training images.
        "quick": dict(
            code="latency",
            hidden=100,
            tau_mem=20 * ms,
            tau_out=20 * ms,
            weight=2.0,
            v_th=0.3,
            train=10_000,
            learning_rate=2e-3,
            batch=32,
            updates=1000,
            test=1000,
        ),
        # Rate code, 512 hidden neurons, 200 steps, all images, 100 epochs.
        "paper": dict(
            code="rate",
            hidden=512,
            tau_mem=20 * ms,
            tau_out=100 * ms,
            weight=1.0,
            v_th=1.0,
            train=None,
            learning_rate=1e-3,
            batch=64,
            updates=93_750,
            test=10_000,
        ),
    },
    published={
        "BPTT, LIF, rate code": Published(
            "98.06 % with 100 spiking outputs in place of this readout (De Geeter et al., table 2)", 98.06
        )
    },
)
