"""Points of the Yin-Yang figure as spike times: the larger a coordinate, the later its spike.

Kriener, Göltz & Petrovici 2022, NICE, arXiv:2102.08211.
"""

from functools import partial

import numpy as np
from brian2.units.stdunits import ms

from localplast.task.datasets import yin_yang
from localplast.task.trials import Task, Trials

__all__ = ["latency_trials", "points_task"]


def latency_trials(points, labels, rng=None, *, span=30 * ms, duration=50 * ms, judged=20 * ms, dt=1 * ms):
    """One spike per coordinate, the later the larger, and one on a fifth channel at the start, as a bias.

    Parameters
    ----------
    points : float array ``(trial, 4)``
        Between 0 and 1.
    labels : int array ``(trial,)``
    rng : ignored
        The code is deterministic.

    Other arguments
    ---------------
    span : Quantity
        Time of the spike of a coordinate that is 1.
    duration, judged : Quantity
        Length of a trial, and of the window at its end in which the readout is judged.
    dt : Quantity

    Returns
    -------
    Trials
        Input ``points``: bool ``(trial, time, 5)``.
    """
    steps, counted = round(float(duration / dt)), round(float(judged / dt))
    when = np.floor(points * float(span / dt) + 0.5).astype(int)
    raster = np.zeros((len(points), steps, 5), bool)
    raster[np.arange(len(points))[:, None], when, np.arange(4)] = True
    raster[:, 0, 4] = True
    weight = np.zeros(steps)
    weight[-counted:] = 1 / counted
    return Trials({"points": raster}, labels, weight)


def points_task(name, dt):
    """The published sets: seed 42 to train, 41 for validation, 40 for tests."""
    sets = yin_yang(5000, 42), yin_yang(1000, 40)
    return Task.dataset(name, *sets, partial(latency_trials, dt=dt), held=yin_yang(1000, 41))
