"""Fourier synthesis: a stream of sines becomes a sawtooth, learned while it flows, without trials and without phases.

Haider et al. 2021, NeurIPS, arXiv:2110.14549: 50 sines between 10 and 500 Hz drive 30 hidden neurons and one output,
whose membranes are slower (10 ms) than the signal. In the last third of the stream the teacher is silent. The stream
has no number of the paper; what it is held against here is backpropagation through time on the same network, with the
same steps.
"""

import numpy as np
from brian2 import Hz, ms

from localplast.learning.optimise import sgd
from localplast.models import latent_equilibrium, latent_equilibrium_output
from localplast.models.layers import layered
from localplast.network import normal
from localplast.rules import bptt, dendritic
from localplast.runs.run import run
from localplast.show.plot import COLOURS, legend, style
from localplast.study.contenders import Contender
from localplast.study.protocol import Preset, Protocol
from localplast.task import Task, Trials
from localplast.task.loss import mse

__all__ = ["figure", "network", "pieces", "protocol"]

FREQUENCIES = np.arange(1, 51) * 10 * Hz
#: Of one tooth; of all the sines together it is 100 ms.
PERIOD = 25 * ms
#: Of a trial, a piece of the stream: 20 pieces with a teacher, and 10 without, of which all that differ are tested.
PIECE, TAUGHT, SILENT = 20 * ms, 20, 5
#: How strongly the teacher nudges, and the learning rate, per millisecond.
BETA, RATE = 0.1, 0.25
#: BPTT's rate is that of all steps of a piece taken together, or twice that (tuned: ``benchmarks/tune.py``).
OFFLINE = RATE * BETA * float(PIECE / ms)


def pieces(first, n, *, dt, length=PIECE):
    """Of the stream, ``n`` pieces of some ``length`` from number ``first`` on, a trial each.

    Returns
    -------
    Trials
        ``sense`` ``(trial, time, 50)``: sines that all pass zero when the stream begins. ``teach``: 1. ``target``,
        and the target of the readout ``(trial, time, 1)``: from -1 up to 1 in every :data:`PERIOD`.
    """
    steps, tooth = (int(float(span / dt) + 0.5) for span in (length, PERIOD))
    step = np.arange(first * steps, (first + n) * steps).reshape(n, steps, 1)
    wanted = 2 * (step % tooth) / tooth - 1
    sines = np.sin(2 * np.pi * step * float(dt) * np.asarray(FREQUENCIES))
    return Trials({"sense": sines, "teach": np.ones_like(wanted), "target": wanted}, wanted, np.full(steps, 1 / steps))


def task(dt):
    """The stream as it goes on, from its start again if need be, and what follows; nothing in it is drawn."""

    def training(update, batch, seed):
        return pieces(update * batch % TAUGHT, batch, dt=dt)

    # its validation is the end of what is learned: it shows pieces that were trained on
    def tested(after, validation=None):
        return Task("fourier-synthesis", training, lambda n, seed: pieces(after, n, dt=dt), {"given": True}, validation)

    return tested(TAUGHT, tested(TAUGHT - SILENT))


def network(*, dt, prospective=True, feedback="symmetric"):
    """50 sines, 30 tanh neurons, one linear output, ``tau`` 10 ms; weights at first normal, of standard deviation
    0.05.
    """
    small = normal(0.05, fan_in=False)
    hidden = latent_equilibrium(prospective=prospective, activation="tanh")
    output = latent_equilibrium_output(prospective=prospective, beta=BETA)
    return layered((len(FREQUENCIES), 30, 1), hidden, output, feedback=feedback, weight=small, down=small, dt=dt)


def figure(net, trials, before, after):
    """The readout over 100 ms without the teacher, before and after learning, beside the sawtooth."""
    import matplotlib.pyplot as plt

    shown = pieces(4, 1, dt=net.dt, length=100 * ms)
    time = 400 + np.arange(shown.steps) * float(net.dt / ms)
    _, ax = plt.subplots(figsize=(8, 3), constrained_layout=True)
    for values, colour, label in (
        (before, "0.6", "before learning"),
        (after, COLOURS[0], "after learning, teacher silent"),
    ):
        seen = run(net, shown.without(net.teachers), values=values, backend="torch", record=["said.shown"])
        ax.plot(time, seen["said"]["shown"].values.ravel(), color=colour, lw=1.4, label=label)
    ax.plot(time, shown.target.ravel(), color="k", ls="--", lw=1, label="sawtooth")
    legend(ax, loc="upper right")
    return style(ax, "a sawtooth from sines", "time (ms)", "output").figure


def build(*, dt, backend, batch=1, updates=TAUGHT, test=SILENT):
    """BPTT makes one step per piece, and goes three times through the stream until nothing is gained."""
    made = {"dt": dt}
    net, local = network(**made), dendritic()
    return Preset(
        network=net,
        task=task(dt),
        loss=mse(),
        optimiser=sgd(RATE * float(dt / ms)),
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden1",
        rules={
            "BPTT": Contender(bptt(), "torch", optimiser=sgd(OFFLINE)),
            "BPTT, converged": Contender(bptt(), "torch", optimiser=sgd(2 * OFFLINE), updates=3 * updates),
            "LE, symmetric": Contender(local, backend),
            "LE, random": Contender(local, backend, network=network(feedback="random", **made)),
            "LE, hidden frozen": Contender(local, backend, ("up1",)),
            "not prospective": Contender(local, backend, network=network(prospective=False, **made)),
        },
    )


protocol = Protocol(
    name="fourier-synthesis",
    summary="Prospective neurons learn a sawtooth from a stream of sines that are faster than their membranes.",
    reference="Haider et al. 2021, NeurIPS, arXiv:2110.14549",
    build=build,
    presets={
        # Steps of 0.05 ms, ten times the published ones.
        "quick": dict(dt=0.05 * ms, backend="torch"),
        # The published step and stream, online in Brian2.
        "paper": dict(dt=0.005 * ms, backend="brian2"),
    },
    published={
        "Fourier synthesis": "the output follows the sawtooth after 400 ms, also without the teacher (no number)"
    },
    rule="dendritic",
    drawn=figure,
)
