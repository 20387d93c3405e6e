"""One neuron learns five spike times: a frozen input pattern, and a target train that its spikes are to match.

Zenke & Ganguli 2018, Neural Comput 30:1514, fig. 2. Also what the other SuperSpike tasks are made of: spiking outputs
that a van Rossum readout compares with target spikes, and whose loss is ``mse()`` against zero.
"""

from functools import partial

import numpy as np
from brian2 import ms, second

from localplast.models.feedforward import judged, judged_trials
from localplast.rules import bptt, superspike
from localplast.study.contenders import tuned
from localplast.study.protocol import Preset, Protocol
from localplast.study.superspike import published_optimiser
from localplast.task import Task
from localplast.task.loss import mse

__all__ = ["frozen_trial", "network", "protocol"]


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
