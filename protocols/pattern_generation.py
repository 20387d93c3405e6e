"""Pattern generation: a recurrent network driven by one frozen spike pattern learns to draw a sum of four sines.

Bellec et al. 2020, Nat Commun 11:3625, supplementary fig. S7; numbers as in the authors' published code.
"""

from dataclasses import replace

import numpy as np
from brian2 import ms, second

from localplast.models import leaky_readout, lif
from localplast.network import Input, Network, Population, Projection, normal
from localplast.study.protocol import Preset, Protocol
from localplast.task import Task, Trials
from localplast.task.loss import mse, rate

__all__ = ["frozen_pattern", "network", "protocol", "sum_of_sines"]


def sum_of_sines(rng, steps):
    """A trajectory of ``steps`` steps: sines that fit into it 1, 2, 3 and 5 times, amplitudes 0.5 to 2, any phase.

    Shifted to start at 0 and divided by its largest absolute value; float ``(steps,)``, without unit.
    """
    amplitudes, phases = rng.uniform(0.5, 2.0, 4), rng.uniform(0.0, 2 * np.pi, 4)
    turns = 2 * np.pi * np.array([1, 2, 3, 5]) * np.linspace(0.0, 1.0, steps)[:, None]
    total = (amplitudes * np.sin(phases + turns)).sum(1)
    total -= total[0]
    return total / np.abs(total).max()


def frozen_pattern(seed, *, inputs=100, duration=1000 * ms, input_rate=50 / second, dt=1 * ms):
    """The one trial of this task, the same for training and testing.

    Parameters
    ----------
    seed : int

    Other arguments
    ---------------
    inputs : int
    duration, dt : Quantity
    input_rate : Quantity
        Of every input, a Bernoulli draw per step.

    Returns
    -------
    Trials
        One trial. Input ``pattern``: bool ``(1, time, inputs)``. Target: float ``(1, time, 1)``. Every step counts 1.
    """
    rng = np.random.default_rng([seed, 3])
    steps = int(np.floor(float(duration / dt) + 0.5))
    target = sum_of_sines(rng, steps)[None, :, None]
    return Trials({"pattern": rng.random((1, steps, inputs)) < float(input_rate * dt)}, target, np.ones(steps))


def network(*, inputs=100, neurons=100, dt=1 * ms):
    """``neurons`` recurrent LIF neurons and one readout.

    The published step is ``v[t] = alpha*v[t-1] + (1 - alpha)*W z[t-1] - v_th z[t-1]``. Here spikes and reset act before
    the decay, so whatever a spike adds is divided by the decay ``alpha`` of one step. Input spikes act one step later
    than there. Otherwise the published forward pass is reproduced to rounding.
    """
    tau, v_th = 30 * ms, 0.03
    alpha = float(np.exp(-dt / tau))
    cell = lif(tau_mem=tau, v_th=v_th)
    cell = replace(cell, reset="v -= v_reset", parameters={**cell.parameters, "v_reset": v_th / alpha})
    return Network(
        dt=dt,
        pattern=Input(inputs),
        rec=Population(neurons, cell),
        out=Population(1, leaky_readout(tau_out=tau)),
        projections=[
            Projection("pattern", "rec", weight=normal((1 - alpha) / alpha)),
            Projection("rec", "rec", weight=normal((1 - alpha) / alpha)),
            Projection("rec", "out", weight=normal(1 - alpha)),
        ],
    )


def task(**options):
    def training(update, batch, seed):
        return frozen_pattern(seed, **options)[np.zeros(batch, int)]

    return Task("pattern-generation", training, testing=lambda n, seed: training(0, n, seed), meta={"frozen": True})


def build(*, neurons, duration, updates, learning_rate=3e-4, batch=1, test=1):
    return Preset(
        network=network(neurons=neurons),
        task=task(duration=duration),
        # published: 300/2 * (f - 0.01)**2 per neuron, f in spikes per ms
        loss=mse() + rate(10, 300e-6),
        learning_rate=learning_rate,
        batch=batch,
        updates=updates,
        test=test,
        hidden="rec",
    )


protocol = Protocol(
    name="pattern-generation",
    summary="One frozen input, one target trajectory: a recurrent network learns to draw a sum of four sines.",
    reference="Bellec et al. 2020, Nat Commun 11:3625, fig. S7",
    build=build,
    presets={
        # Half the neurons, half the time; learned in a minute on two cores.
        "quick": dict(neurons=50, duration=500 * ms, updates=300),
        # The published network and task, with Adam where the published code has plain gradient descent.
        "paper": dict(neurons=100, duration=1000 * ms, updates=2000),
    },
)
