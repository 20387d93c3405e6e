"""What a network answers before and after learning, drawn."""

import numpy as np
from brian2 import ms

from localplast.runs.run import run
from localplast.show.plot import COLOURS, legend, style

__all__ = ["apical_potentials", "beside_teacher"]


def apical_potentials(net, trials, before, after):
    """What the readout says of the first trial without a teacher, and apical potentials with one, before and after
    learning.

    ``before`` and ``after`` are :class:`~localplast.network.network.Values`.
    """
    import matplotlib.pyplot as plt

    drawn, axes = plt.subplots(2, 2, figsize=(8, 4.6), sharex=True, sharey="row", constrained_layout=True)
    time = np.arange(1, trials.steps + 1) * float(net.dt / ms)
    for (title, values), (upper, lower) in zip(
        {"before learning": before, "after learning": after}.items(), axes.T, strict=True
    ):
        silent, taught = (
            run(net, shown, values=values, backend="torch", record=["said.shown", "hidden1.v_api"])
            for shown in (trials.without(net.teachers), trials)
        )
        upper.plot(time, silent["said"]["shown"].values[0], lw=1.4)
        lower.plot(time, taught["hidden1"]["v_api"].values[0], color=COLOURS[0], lw=0.8, alpha=0.7)
        style(upper, title, "", "output, teacher silent" if values is before else "")
        style(lower, "", "time (ms)", "apical potential, taught" if values is before else "")
    return drawn


def beside_teacher(net, trials, before, after):
    """The student's output in the judged steps of a trial before and after learning, beside the teacher's."""
    import matplotlib.pyplot as plt

    drawn, ax = plt.subplots(figsize=(7, 3), constrained_layout=True)
    time, shown = np.arange(trials.steps) * float(net.dt), trials.weight > 0
    for values, colour, label in ((before, "0.6", "before learning"), (after, COLOURS[0], "after learning")):
        said = run(net, trials.without(net.teachers), values=values, backend="torch", record=["said.shown"])["said"][
            "shown"
        ]
        ax.plot(time[shown], said.values[0, shown, 0], color=colour, lw=1.6, label=label)
    ax.plot(time[shown], trials.target[0, shown, 0], color="k", lw=1, ls="--", label="teacher")
    style(ax, "", "time (s)", "output")
    legend(ax)
    return drawn
