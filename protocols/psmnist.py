"""Sequential and permuted sequential MNIST: digits read one pixel per step, named after the last one.

Le, Jaitly & Hinton 2015, arXiv:1504.00941; network and sizes of the ``paper`` presets those of DelayNet, Balafrej,
Alibart & Rouat 2023, arXiv:2310.19067, as in the authors' code (their delays were drawn at random, and the best
kept). The authors choose a network by 5000 validation images, which take no part here.
"""

from dataclasses import replace
from functools import partial

import numpy as np
from brian2 import ms, second

from localplast.arguments import check_choice
from localplast.learning.optimise import adam, madgrad
from localplast.models import biased_lif, biased_readout
from localplast.models.delaynet import TAU_LIMITS, THRESHOLD_LIMITS, delays
from localplast.network import Input, Network, Population, Projection, axonal, uniform
from localplast.packages import need_torch
from localplast.rules import bptt
from localplast.study.contenders import Contender
from localplast.study.delaynet import optimiser
from localplast.study.protocol import Preset, Protocol, Published
from localplast.task import Task, Trials
from localplast.task.datasets import mnist, pooled
from localplast.task.loss import branching, cross_entropy, rate

__all__ = ["network", "permutation", "pixel_trials", "protocol"]

#: Mean and standard deviation of all pixels, as shares of full brightness.
MEAN, STD = 0.1307, 0.3081
#: Of the 60000 training images these are learned; the others are the published validation set.
LEARNED = 55_000
#: From a spike to its arrival, for the inner, middle and outer neurons of the lattice.
TIMES = np.array([1, 61, 86]) * ms
#: Of a lattice whose three groups are as large as published, 36, 90 and 90 neurons; the authors' own draw is not known.
LATTICE_SEED = 7


def permutation(pixels):
    """The published order in which permuted pixels come, int array ``(pixels,)``: Torch's ``randperm`` with seed 0."""
    need_torch("the published permutation")
    import torch

    return torch.randperm(pixels, generator=torch.Generator().manual_seed(0)).numpy()


def pixel_trials(images, labels, rng=None, *, pool=1, permuted=True):
    """One pixel per step, row by row or in the order of :func:`permutation`, then one step of silence.

    What an input gives in a step moves spikes in the next one: the last step is the one that the last pixel is heard
    in.

    Parameters
    ----------
    images : uint8 array ``(trial, 28, 28)``
    labels : int array ``(trial,)``
    rng : ignored
        Nothing is drawn.

    Other arguments
    ---------------
    pool : int
        Side of the squares of pixels whose mean is one step: a coarser picture in fewer steps.
    permuted : bool

    Returns
    -------
    Trials
        Input ``pixels``: float ``(trial, time, 1)``, of mean 0 and standard deviation 1 over MNIST (without ``pool``).
        Weight: one in the last step.
    """
    side, shares = 28 // pool, pooled(images, pool)
    sequence = (shares[:, permutation(side**2)] if permuted else shares) - MEAN
    steps = side**2 + 1
    signal = np.zeros((len(images), steps, 1))
    signal[:, :-1, 0] = sequence / STD
    return Trials({"pixels": signal}, labels, np.arange(steps) == steps - 1.0)


def network(*, neurons=216, times=TIMES, radius=1.25, tau=20 * ms, v_th=0.5, dt=1 * ms):
    """One channel, ``neurons`` recurrent cells, ten readouts; thresholds and biases learn per neuron, time constants
    are shared.

    The cells are those of :func:`~localplast.models.delaynet.network`, with a ``drive`` that lasts for a step.
    ``times`` is None for the same network without delay lines.

    Other arguments
    ---------------
    radius : float
        Spectral radius of the absolute recurrent weights at first.
    """
    decay = float(np.exp(-dt / tau))
    cell = replace(biased_lif(tau_mem=tau, v_th=v_th), equations="dv/dt = bias + drive - v/tau_mem : 1\n drive : Hz")
    delay = None
    if times is not None:  # arrival counts as one step
        delay = axonal(np.maximum(delays(neurons, times, seed=LATTICE_SEED) - dt, 0 * ms))
    return Network(
        dt=dt,
        pixels=Input(1, "currents"),
        rec=Population(
            neurons,
            cell,
            {"bias": np.zeros(neurons) / second, "v_th": np.full(neurons, v_th)},
            trainable={"tau_mem": TAU_LIMITS, "v_th": THRESHOLD_LIMITS, "bias": (None, None)},
        ),
        out=Population(
            10,
            biased_readout(tau_out=tau),
            {"bias": np.zeros(10) / second},
            trainable={"tau_out": TAU_LIMITS, "bias": (None, None)},
        ),
        projections=[
            Projection(
                "pixels",
                "rec",
                weight=uniform(np.sqrt(6 / neurons) * per_second(tau, dt), fan_in=False),
                target="drive",
            ),
            Projection("rec", "rec", weight=uniform(np.sqrt(6) / decay).scaled(radius / decay), delay=delay),
            Projection("rec", "out", weight=uniform(np.sqrt(6))),
        ],
    )


def per_second(tau, dt):
    """The drive that moves a membrane by one within a step, in hertz: published input weights are such jumps."""
    return 1 / float(tau * (1 - np.exp(-dt / tau)))


def task(*, learned=LEARNED, **options):
    return Task.dataset("psmnist", *mnist(), partial(pixel_trials, **options), learned=learned, held=60_000 - LEARNED)


OPTIMISERS = {"adam": adam, "madgrad": madgrad}


def build(
    *,
    pool,
    dt,
    neurons,
    learned,
    method,
    learning_rate,
    limit,
    updates,
    test,
    held,
    branch,
    over_batch,
    permuted=True,
    batch=64,
):
    """``method`` names the optimiser. ``held`` is how strongly rates are held near 20 Hz, ``branch`` the strength of
    the branching term, of a batch taken together where ``over_batch``.
    """
    check_choice("method", method, OPTIMISERS)
    judged = cross_entropy() + rate(20, held) if held else cross_entropy()
    net = network(neurons=neurons, dt=dt)
    input_rate = {"pixels_rec": per_second(20 * ms, dt)}
    return Preset(
        network=net,
        task=task(learned=learned, pool=pool, permuted=permuted),
        loss=judged + branching(branch, batch=over_batch),
        optimiser=optimiser(net, learning_rate, OPTIMISERS[method], limit).with_rates(**input_rate),
        batch=batch,
        updates=updates,
        test=test,
        hidden="rec",
        rules={
            "DelayNet": Contender(bptt(), "torch"),
            "without delays": Contender(bptt(), "torch", network=network(neurons=neurons, dt=dt, times=None)),
            "without branching term": Contender(bptt(), "torch", loss=judged),
        },
    )


#: Pictures of 14 x 14 pixels at 4 ms each, 64 neurons, 10000 images: CPU minutes. Same delays and time constants. Rates
#: are held near 20 Hz: under Adam alone they climb past 100 Hz within 400 updates, and what was learned is lost.
QUICK = dict(
    pool=2,
    dt=4 * ms,
    neurons=64,
    learned=10_000,
    method="adam",
    learning_rate=2e-3,
    limit=0.1,
    updates=500,
    test=1000,
    held=1e-5,
    branch=1e-3,
    over_batch=False,
)
#: All pixels at 1 ms, 216 neurons, 100 epochs of 859 updates, MADGRAD.
PAPER = dict(
    pool=1,
    dt=1 * ms,
    neurons=216,
    learned=LEARNED,
    method="madgrad",
    learning_rate=1e-3,
    limit=0.1,
    updates=85_900,
    test=10_000,
    held=None,
    branch=1e-4,
    over_batch=True,
)

protocol = Protocol(
    name="psmnist",
    summary="Digits one pixel per step, in a scrambled order or row by row: memory over hundreds of steps.",
    reference="Le et al. 2015, arXiv:1504.00941; Balafrej et al. 2023, arXiv:2310.19067",
    build=build,
    presets={
        "quick": QUICK,
        "paper": PAPER,
        "sequential-quick": dict(QUICK, permuted=False),
        "sequential-paper": dict(PAPER, permuted=False),
    },
    published={
        "DelayNet, permuted": Published(
            "94.74 % with 49,476 parameters, the best of several runs, warm-started", 94.74, certainty="code"
        )
    },
    rule="bptt",
)
