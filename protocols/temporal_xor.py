"""Exclusive or of spike times: two volleys, each early or late; the output spikes once if they differ, else never.

After the temporal exclusive-or task of Zenke & Ganguli 2018, Neural Comput 30:1514 (sizes from there; volleys and times
chosen here). At the time of the target spike the four conditions bear on the output's membrane as sums of two terms, so
that no weights of a single layer separate them.
"""

import numpy as np
from brian2 import ms, mV

from localplast.models.feedforward import judged, judged_trials
from localplast.network import normal
from localplast.study.protocol import Preset, Protocol
from localplast.study.superspike import hidden_rules, published_optimiser
from localplast.task import Task
from localplast.task.loss import mse

__all__ = ["network", "protocol", "xor_trials"]

#: Onset of an early and a late volley, how long one lasts, when the output should spike, and the length of a trial.
EARLY, LATE, SPREAD, ANSWER, DURATION = 5 * ms, 20 * ms, 5 * ms, 40 * ms, 80 * ms


def xor_trials(seed, *, inputs=100, dt=0.5 * ms):
    """The four trials of this task: early-early, early-late, late-early, late-late.

    Half of the inputs form each volley. Every input spikes once, at a time within the volley that is its own and
    frozen.

    Parameters
    ----------
    seed : int
        Of the times within the volleys.

    Other arguments
    ---------------
    inputs : int
        An even number.
    dt : Quantity

    Returns
    -------
    Trials
        Input ``pattern``: bool ``(4, time, inputs)``; ``target``: bool ``(4, time, 1)``.
    """
    if inputs % 2:
        raise ValueError(f"{inputs} inputs do not make two volleys of equal size; use an even number")
    rng = np.random.default_rng([seed, 3])
    within = rng.random(inputs) * float(SPREAD)
    late = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    onset = np.where(np.repeat(late, inputs // 2, axis=1), float(LATE), float(EARLY))
    when = np.floor((onset + within) / float(dt)).astype(int)
    steps = round(float(DURATION / dt))
    pattern, target = np.zeros((4, steps, inputs), bool), np.zeros((4, steps, 1), bool)
    pattern[np.arange(4)[:, None], when, np.arange(inputs)] = True
    target[late[:, 0] != late[:, 1], round(float(ANSWER / dt))] = True
    return judged_trials(pattern, target, dt)


def network(*, inputs=100, hidden=10, dt=0.5 * ms):
    """``inputs`` channels, ``hidden`` neurons, one output."""
    return judged((inputs, hidden, 1), dt=dt, weight=normal(100 * mV))


def task(**options):
    def training(update, batch, seed):
        return xor_trials(seed, **options)[np.arange(batch) % 4]

    return Task("temporal-xor", training, testing=lambda n, seed: training(0, n, seed), meta={"frozen": True})


def build(*, dt, updates, hidden=10, rate=5e-5, batch=4, test=4):
    return Preset(
        network=network(hidden=hidden, dt=dt),
        task=task(dt=dt),
        loss=mse(),
        optimiser=published_optimiser(rate, 4 * DURATION),
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden1",
        rules=hidden_rules(),
    )


protocol = Protocol(
    name="temporal-xor",
    summary="Two volleys, early or late: one output spike if they differ, none if not. Needs a hidden layer.",
    reference="after Zenke & Ganguli 2018, Neural Comput 30:1514",
    build=build,
    presets={
        # Ten hidden neurons, steps of 0.5 ms.
        "quick": dict(dt=0.5 * ms, updates=1000),
        # Ten hidden neurons, the published step of 0.1 ms.
        "paper": dict(dt=0.1 * ms, updates=5000),
    },
)
