"""One neuron learns five spike times: a frozen input pattern, and a target train that its spikes are to match.

Zenke & Ganguli 2018, Neural Comput 30:1514, fig. 2. Also what the other SuperSpike tasks are made of: spiking outputs
that a van Rossum readout compares with target spikes, and whose loss is ``mse()`` against zero.
"""

from functools import partial

import numpy as np
from brian2 import ms, mV, second

from localplast.learning.optimise import rmaxprop
from localplast.models import superspike_lif, van_rossum_readout
from localplast.network import Input, Network, Population, Projection, normal
from localplast.rules import bptt, superspike
from localplast.study.contenders import tuned
from localplast.study.protocol import Preset, Protocol
from localplast.task import Task, Trials
from localplast.task.loss import mse

__all__ = ["frozen_trial", "hidden_rules", "judged", "judged_trials", "network", "protocol", "published_optimiser"]


def judged(sizes, *, dt, weight=normal(50 * mV)):
    """A feed-forward network of SuperSpike's neurons whose last layer is compared with target spikes.

    Parameters
    ----------
    sizes : sequence of int
        Of the input, the hidden populations and the output.

    Other arguments
    ---------------
    dt : Quantity
    weight : Random
        Of every layer, in volts.

    Returns
    -------
    Network
        Inputs ``pattern`` and ``target``; populations ``hidden1``, ``hidden2``, ... and ``out``; the readout ``judge``,
        whose output is ``a*(S - S*)``.
    """
    names = ["pattern", *(f"hidden{k}" for k in range(1, len(sizes) - 1)), "out"]
    outputs, one_to_one = sizes[-1], np.eye(sizes[-1], dtype=bool)
    cells = {name: Population(size, superspike_lif()) for name, size in zip(names[1:], sizes[1:], strict=True)}
    return Network(
        dt=dt,
        pattern=Input(sizes[0]),
        target=Input(outputs),
        **cells,
        judge=Population(outputs, van_rossum_readout()),
        projections=[
            *(Projection(pre, post, weight=weight) for pre, post in zip(names[:-1], names[1:], strict=True)),
            Projection("out", "judge", weight=1.0, mask=one_to_one, plastic=False),
            Projection("target", "judge", weight=-1.0, mask=one_to_one, plastic=False),
        ],
    )


def judged_trials(pattern, target, dt):
    """Trials of a :func:`judged` network, whose loss is the van Rossum distance, in milliseconds.

    Parameters
    ----------
    pattern : bool array ``(trial, time, input)``
    target : bool array ``(trial, time, output)``
        Spikes that the output neurons are to send; they arrive at the readout, as the outputs do, in their own step.
    dt : Quantity
    """
    return Trials(
        {"pattern": pattern, "target": target}, np.zeros(target.shape), np.full(target.shape[1], float(dt / ms))
    )


def hidden_rules():
    """What is compared where there are hidden neurons: SuperSpike with every feedback of the paper, beside BPTT."""
    return {
        "BPTT": bptt(),
        "BPTT, reset cut": bptt(cut={"reset"}),
        "SuperSpike, symmetric": superspike(),
        "SuperSpike, random": superspike(feedback="random"),
        "SuperSpike, uniform": superspike(feedback="uniform"),
    }


def published_optimiser(learning_rate, interval):
    """RMaxProp with the published memory of 30 s, for updates that are ``interval`` apart."""
    return rmaxprop(learning_rate, decay=float(np.exp(-interval / (30 * second))), epsilon=1e-12)


def frozen_trial(seed, *, inputs=100, input_rate=10 / second, spikes=5, duration=500 * ms, dt=0.1 * ms):
    """The one trial of this task: Poisson inputs, and target spikes in the middles of ``spikes`` equal parts of it.

    Input ``pattern``: bool ``(1, time, inputs)``; ``target``: bool ``(1, time, 1)``.
    """
    rng, steps = np.random.default_rng([seed, 3]), round(float(duration / dt))
    target = np.zeros((1, steps, 1), bool)
    target[0, ((np.arange(spikes) + 0.5) * steps / spikes).astype(int)] = True
    return judged_trials(rng.random((1, steps, inputs)) < float(input_rate * dt), target, dt)


def network(*, inputs=100, dt=0.1 * ms):
    """``inputs`` channels and one neuron."""
    return judged((inputs, 1), dt=dt)


def task(**options):
    def training(update, batch, seed):
        return frozen_trial(seed, **options)[np.zeros(batch, int)]

    return Task("superspike-single", training, testing=lambda n, seed: training(0, n, seed), meta={"frozen": True})


#: RMaxProp's rate, and how often it halves until the end: tuned in ``quick`` (``benchmarks/tune.py``).
RATES = {"BPTT": (8e-4, 3), "BPTT, reset cut": (1.6e-3, 3), "SuperSpike": (1.6e-3, 3)}


def build(*, dt, updates, batch=1, test=1):
    rules = {"BPTT": bptt(), "BPTT, reset cut": bptt(cut={"reset"}), "SuperSpike": superspike()}
    rules = tuned(rules, RATES, updates, made=partial(published_optimiser, interval=500 * ms))
    return Preset(
        network=network(dt=dt),
        task=task(dt=dt),
        loss=mse(),
        optimiser=rules["SuperSpike"].optimiser,
        batch=batch,
        updates=updates,
        test=test,
        hidden="out",
        rules=rules,
    )


protocol = Protocol(
    name="superspike-single",
    summary="One neuron, 100 frozen Poisson inputs, five target spikes in half a second.",
    reference="Zenke & Ganguli 2018, Neural Comput 30:1514, fig. 2",
    build=build,
    presets={
        # Steps of 0.5 ms.
        "quick": dict(dt=0.5 * ms, updates=400),
        # The published step of 0.1 ms; rates are those of ``quick``, and halve as often.
        "paper": dict(dt=0.1 * ms, updates=2000),
    },
)
