"""Patterns of relative spike times: one spike on each of a few channels, and only the times between them tell the
classes apart.

Synapses are weak and membranes short: a hidden neuron spikes where at least three of four spikes arrive together.
Delays can bring the spikes of one class together (Hopfield 1995, Nature 376:33; Izhikevich 2006, Neural Comput
18:245); no weights can, so that few neurons with delays drawn at random see little. Delays are learned beside the
weights, by the three-factor rule of e-prop or by BPTT (online and local: Vassallo & TaheriNejad, arXiv:2601.00668).
The task is made for this comparison.
"""

import numpy as np
from brian2 import ms, second

from localplast.learning.optimise import adam
from localplast.models import leaky_readout, lif
from localplast.network import Input, Network, Population, Projection, normal, synaptic, uniform
from localplast.rules import bptt, eprop
from localplast.study.contenders import Contender, tuned
from localplast.study.protocol import Preset, Protocol
from localplast.task import Task, Trials
from localplast.task.loss import cross_entropy, rate

__all__ = ["network", "pattern_trials", "patterns", "protocol"]

#: Spikes of a pattern lie within this time; a pattern begins between these two; a trial is long enough for the latest
#: arrival.
SPAN, EARLIEST, LATEST, DURATION = 25 * ms, 3 * ms, 23 * ms, 90 * ms
#: Where delays are drawn from, and what learning keeps them in.
LONGEST = 30 * ms


def patterns(seed, *, classes, channels):
    """When every channel spikes in every class: seconds after the pattern begins, ``(class, channel)``."""
    return np.random.default_rng([seed, 7]).uniform(0.0, float(SPAN), (classes, channels))


def pattern_trials(rng, n, times, *, jitter=1 * ms, dt=1 * ms):
    """Draw ``n`` trials.

    A pattern begins anywhere between 3 and 23 ms, so that no single spike tells anything.

    Parameters
    ----------
    rng : numpy Generator
    n : int
    times : array ``(class, channel)``
        From :func:`patterns`.

    Other arguments
    ---------------
    jitter : Quantity
        Standard deviation of each spike's own displacement.
    dt : Quantity

    Returns
    -------
    Trials
        Input ``cues``: bool ``(trial, time, channel)``, one spike per channel. Target: int64 ``(trial,)``.
        Weight: one in the last step.
    """
    classes, channels = times.shape
    labels = rng.integers(classes, size=n)
    begin = rng.uniform(float(EARLIEST), float(LATEST), (n, 1))
    when = times[labels] + begin + rng.normal(0.0, float(jitter), (n, channels))
    steps = round(float(DURATION / dt))
    raster = np.zeros((n, steps, channels), bool)
    step = np.floor(when / float(dt) + 0.5).astype(int).clip(0, steps - 1)
    raster[np.arange(n)[:, None], step, np.arange(channels)] = True
    return Trials({"cues": raster}, labels.astype(np.int64), np.arange(steps) == steps - 1.0)


def network(*, classes=6, channels=4, hidden=30, longest=LONGEST, strongest=0.45, dt=1 * ms):
    """``channels`` inputs, ``hidden`` coincidence detectors, and readouts that count their spikes.

    Other arguments
    ---------------
    longest : Quantity
        Delays start anywhere between zero and this, one per synapse, drawn anew for every seed.
    strongest : float, optional
        What weights of ``cues_det`` are held below, of a threshold of 1. None: any sign and size, so that one pair of
        channels makes a detector: BPTT then finds enough pairs among random delays, e-prop fewer than by learning them.
    """
    drawn = uniform(longest / 2, mean=longest / 2, fan_in=False)
    return Network(
        dt=dt,
        cues=Input(channels),
        det=Population(hidden, lif(tau_mem=5 * ms, tau_ref=5 * ms)),
        out=Population(classes, leaky_readout(tau_out=1 * second)),
        projections=[
            Projection(  # two spikes together reach 0.9 of the threshold
                "cues",
                "det",
                weight=normal(0.04, mean=0.42, fan_in=False),
                bounds=None if strongest is None else (0.0, strongest),
                delay=synaptic(drawn, trainable=(0 * ms, LONGEST)),
            ),
            Projection("det", "out"),
        ],
    )


def task(*, classes, channels):
    """Every seed has patterns of its own."""

    def draw(rng, n, seed):
        return pattern_trials(rng, n, patterns(seed, classes=classes, channels=channels))

    return Task.drawn("temporal-patterns", draw)


#: Adam's rate, and how often it halves until the end: tuned in ``quick`` on validation trials (``benchmarks/tune.py``).
RATES = {
    "BPTT": (5e-3, 0),
    "BPTT, reset cut": (5e-3, 0),
    "e-prop, symmetric": (5e-3, 0),
    "e-prop, random": (2e-2, 0),
    "BPTT, delays frozen": (2e-2, 0),
    "e-prop, random, delays frozen": (2e-2, 0),
    "BPTT, no delays": (2e-2, 0),
}


def optimiser(rate):
    """Adam at this ``rate`` for weights, and fifty times that for delays (in ms)."""
    return adam(rate).with_rates(**{"cues_det.delay": 50.0})


def contenders(sizes, updates):
    """Delays learned and frozen, by BPTT and by e-prop, and a network in which all delays are the same.

    Nothing is recurrent, so that all that e-prop leaves out is the reset: BPTT with that one edge cut has the gradient
    of e-prop with symmetric feedback exactly, and learns the same. Through the surrogate the edge says of every neuron
    near its threshold that it lost what it had gathered, also where it never spiked; the higher the rate of learning,
    the more that costs BPTT.
    """
    still, random = ("cues_det.delay",), eprop(feedback="random")
    rules = {
        "BPTT": bptt(),
        "BPTT, reset cut": bptt(cut={"reset"}),
        "e-prop, symmetric": Contender(eprop(), "torch"),
        "e-prop, random": Contender(random, "torch"),
        "BPTT, delays frozen": Contender(bptt(), "torch", still),
        "e-prop, random, delays frozen": Contender(random, "torch", still),
        "BPTT, no delays": Contender(bptt(), "torch", still, network=network(**sizes, longest=0 * ms)),
    }
    return tuned(rules, RATES, updates, made=optimiser)


def build(*, classes, channels, hidden, updates, batch=32, test=500):
    sizes = dict(classes=classes, channels=channels, hidden=hidden)
    rules = contenders(sizes, updates)
    return Preset(
        network=network(**sizes),
        task=task(classes=classes, channels=channels),
        # a detector of one class among six spikes 1.9 times a second: none falls silent for good
        loss=cross_entropy() + rate(2.5, 5e-3),
        optimiser=rules["e-prop, symmetric"].optimiser,
        batch=batch,
        updates=updates,
        test=test,
        hidden="det",
        rules=rules,
    )


protocol = Protocol(
    name="temporal-patterns",
    summary="Classes told apart by the times between a few spikes alone: delays must be learned, not weights only.",
    reference="after Hopfield 1995, Nature 376:33; Vassallo & TaheriNejad, arXiv:2601.00668",
    build=build,
    presets={
        # Six classes, four channels, 30 hidden neurons.
        "quick": dict(classes=6, channels=4, hidden=30, updates=300),
        # Ten classes, 100 hidden neurons; larger, not published.
        "paper": dict(classes=10, channels=4, hidden=100, updates=2000),
    },
)
