"""Mackey-Glass: what a chaotic signal will be, learned online while it goes by, from nothing but what it is now.

Ellenberger, Haider, Jordan, Max, Jaras, Kriener, Benitez & Petrovici 2024, arXiv:2403.16933 (Nat Commun 2025) predict
this series too; their network is not known here, so that this one, its time constants and its horizon are ours. What
was, and the signal hangs on what was 17 units of time ago, lives in the membranes only. The authors give notice that
these procedures are registered for patent protection: see ``docs/prospective.md``.
"""

import numpy as np
from brian2 import ms

from localplast.learning.optimise import adam
from localplast.models import gle, gle_output
from localplast.models.layers import layered
from localplast.network import uniform
from localplast.rules import bptt, dendritic
from localplast.runs.run import run
from localplast.show.plot import COLOURS, style
from localplast.study.contenders import Contender
from localplast.study.protocol import Preset, Protocol
from localplast.task import Task, Trials
from localplast.task.datasets import mackey_glass
from localplast.task.loss import mse

__all__ = ["figure", "network", "normalised_rmse", "overview", "persistence", "protocol", "series", "told"]

#: Mean and standard deviation of the series, in which it is shown; units of time for which it settles, and the network
#: does.
MEAN, STD, SETTLING, LISTENING = 0.9313, 0.2245, 500.0, 50.0
#: How far ahead it is to be predicted; time step, both in units of the series, shown as milliseconds.
HORIZON, STEP = 10.0, 0.5


def series(rng, trials, *, duration, horizon=HORIZON):
    """Stretches of the series, each from a history of its own, and what they will be a ``horizon`` later.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws constant histories between 0.5 and 1.2, which are forgotten after 500 units of time.
    trials : int

    Other arguments
    ---------------
    duration, horizon : float
        In units of time.

    Returns
    -------
    Trials
        Inputs ``sense``, ``teach`` and ``target`` ``(trial, time, 1)``, of mean 0 and variance 1; in the first 50
        units of time the teacher is silent and nothing is judged. The weight of the steps adds up to 1.
    """
    steps, ahead, settling = (round(t / STEP) for t in (duration, horizon, SETTLING))
    past = rng.uniform(0.5, 1.2, trials)
    x = mackey_glass(past, SETTLING + duration + horizon, per_delay=round(17 / STEP))[settling:]
    x = ((x - MEAN) / STD).T[:, :, None]
    target, judged = x[:, ahead : ahead + steps], np.arange(steps) >= LISTENING / STEP
    teach = np.tile(judged[:, None].astype(float), (trials, 1, 1))
    return Trials({"sense": x[:, :steps], "teach": teach, "target": target}, target, judged / judged.sum())


def normalised_rmse(answer, trials):
    """The root of the mean squared error over the standard deviation of what was to be said; ``answer``
    ``(trial, time, 1)``.
    """
    judged = trials.weight > 0
    wanted = trials.target[:, judged]
    return float(np.sqrt(np.mean((answer[:, judged] - wanted) ** 2)) / wanted.std())


def persistence(trials):
    """The error of who says that all stays as it is."""
    return normalised_rmse(trials.inputs["sense"], trials)


def network(size=40, *, duration, feedback="symmetric", errors="prospective"):
    """One channel, two hidden layers of ``size`` tanh neurons, one linear output; weights and biases learn.

    Three quarters of a hidden layer are leaky integrators of 1 to 20 ms, evenly spread in logarithm; the others do
    not lag.

    Other arguments
    ---------------
    duration : float
        Of a trial, in units of time: errors have the size of those of the loss, a mean over what is judged.
    feedback, errors : str
        Of :func:`~localplast.models.layers.layered` and :func:`~localplast.models.gle.gle`.
    """
    slow, dt, beta = 3 * size // 4, STEP * ms, STEP / (duration - LISTENING)
    tau_m = np.concatenate([np.geomspace(1, 20, slow), np.full(size - slow, 5.0)]) * ms
    tau_r = np.repeat([STEP, 5.0], [slow, size - slow]) * ms
    hidden = {"b": np.zeros(size), "tau_m": tau_m, "tau_r": tau_r}
    return layered(
        (1, size, size, 1),
        gle(errors=errors, gamma=0.0),
        gle_output(tau_m=5 * ms, tau_r=5 * ms, gamma=0.0, beta=beta),
        feedback=feedback,
        weight=uniform(1.7),
        down=uniform(1.7),
        dt=dt,
        parameters={"hidden1": hidden, "hidden2": hidden, "out": {"b": np.zeros(1)}},
        trainable=dict.fromkeys(["hidden1", "hidden2", "out"], {"b": (None, None)}),
    )


def contenders(made, offline):
    """The network ``made(**options)`` under GLE, without one thing or another, and under BPTT with the optimiser
    ``offline``.
    """
    return {
        "GLE": Contender(dendritic(), "torch"),
        "GLE, random feedback": Contender(dendritic(), "torch", network=made(feedback="random")),
        "instantaneous errors": Contender(dendritic(), "torch", network=made(errors="instantaneous")),
        "BPTT": Contender(bptt(), "torch", optimiser=offline),
        "GLE, hidden frozen": Contender(dendritic(), "torch", ("up1", "up2", "hidden1.b", "hidden2.b")),
    }


def answered(net, trials, values):
    """What the readout says without a teacher, ``(trial, time, 1)``."""
    silent = trials.without(net.teachers)
    return run(net, silent, values=values, backend="torch", record=["said.shown"])["said"]["shown"].values


def told(net, trials, after):
    """The normalised error of a prediction, and that of persistence."""
    error = normalised_rmse(answered(net, trials, after), trials)
    return f"normalised RMSE {HORIZON:g} ahead: {error:.3f}; of persistence {persistence(trials):.3f}"


def figure(net, trials, before, after):
    """The first trial and what was said of it, drawn when it is due, before and after learning (both ``Values``)."""
    import matplotlib.pyplot as plt

    drawn, axes = plt.subplots(2, 1, figsize=(8, 4.6), sharex=True, sharey=True, constrained_layout=True)
    due = np.arange(1, trials.steps + 1) * STEP + HORIZON
    for axis, (title, values) in zip(axes, {"before learning": before, "after learning": after}.items(), strict=True):
        answer = answered(net, trials[0], values)
        axis.plot(due, trials.target[0, :, 0], color="0.7", lw=2.5, label="series")
        axis.plot(due, answer[0, :, 0], color=COLOURS[0], lw=1.2, label=f"said {HORIZON:g} before")
        style(axis, title, "time" if values is after else "", "standard deviations")
    axes[0].legend(frameon=False, fontsize=8)
    return drawn


def overview(tree):
    """The normalised error of every rule along learning, and that of persistence."""
    import matplotlib.pyplot as plt

    drawn, axis = plt.subplots(figsize=(5.5, 3.6), constrained_layout=True)
    # of a series with variance 1, half of whose squared error is the loss
    error = np.sqrt(2 * tree["curves"]["test_loss"])
    for colour, rule in zip(COLOURS, error["rule"].values, strict=False):
        axis.plot(error["trials"], error.sel(rule=rule).mean("seed"), color=colour, label=str(rule))
    axis.axhline(
        persistence(series(np.random.default_rng(0), 20, duration=400.0)), color="0.5", ls="--", label="persistence"
    )
    style(axis, "", "trials", f"normalised RMSE, {HORIZON:g} ahead")
    axis.set_ylim(0, None)
    axis.legend(frameon=False, fontsize=8, ncol=2)
    return drawn


def build(*, size, duration, batch, updates, online, offline, test):
    """``online`` and ``offline`` are rates of Adam: per step, and per batch for BPTT."""

    def made(**options):
        return network(size, duration=duration, **options)

    net = made()
    biases = dict.fromkeys(net.trainable, 1.0)
    return Preset(
        network=net,
        task=Task.generated("gle-mackey-glass", lambda rng, n: series(rng, n, duration=duration)),
        loss=mse(),
        optimiser=adam(online).with_rates(**biases),
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden2",
        rules=contenders(made, adam(offline).with_rates(**biases)),
    )


protocol = Protocol(
    name="gle-mackey-glass",
    summary="A chaotic series predicted online by membranes of many time constants: generalised latent equilibrium.",
    reference="Mackey & Glass 1977, Science 197:287; Ellenberger et al. 2024, arXiv:2403.16933 (Nat Commun 2025)",
    build=build,
    presets={
        # Two hidden layers of 24, 30 batches of eight stretches of 250 units of time.
        "quick": dict(size=24, duration=250.0, batch=8, updates=30, online=1e-3, offline=2e-2, test=50),
        # Two hidden layers of 60, 500 batches of stretches of 1000 units: a size of our own, the published one is not
        # known.
        "paper": dict(size=60, duration=1000.0, batch=4, updates=500, online=3e-4, offline=5e-3, test=200),
    },
    rule="dendritic",
    drawn=figure,
    told=told,
    overview=overview,
)
