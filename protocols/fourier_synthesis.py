"""Fourier synthesis: a stream of sines becomes a sawtooth, learned while it flows, without trials and without phases.

Haider et al. 2021, NeurIPS, arXiv:2110.14549: 50 sines between 10 and 500 Hz drive 30 hidden neurons and one output, whose
membranes are slower (10 ms) than the signal. In the last third of the stream the teacher is silent. The stream has no number of
the paper; what it is held against here is backpropagation through time on the same network, with the same steps.
"""

import numpy as np
from brian2 import Hz, ms

from localplast.comparison import Contender
from localplast.loss import mse
from localplast.models import latent_equilibrium, latent_equilibrium_output
from localplast.models.layers import layered
from localplast.network import normal
from localplast.optimise import sgd
from localplast.plot import COLOURS, legend, style
from localplast.protocol import Preset, Protocol
from localplast.rules import bptt, dendritic
from localplast.task import Task, Trials
from localplast.verbs import run

__all__ = ["figure", "network", "protocol", "sawtooth", "teeth"]

FREQUENCIES = np.arange(1, 51) * 10 * Hz
#: Of one tooth; each is one trial.
PERIOD = 25 * ms
#: Teeth in the stream of 600 ms, and those of its last third, in which the teacher is silent.
TAUGHT, SILENT = 16, 8
#: How strongly the teacher nudges, and the learning rate, per millisecond.
BETA, RATE = 0.1, 0.25


def sawtooth(t):
    """From -1 up to 1 in every :data:`PERIOD`; ``t`` in seconds."""
    return 2 * (t / float(PERIOD) % 1) - 1


def teeth(first, n, *, dt):
    """Of the stream, ``n`` teeth from number ``first`` on, a trial each.

    Returns
    -------
    Trials
        ``sense`` ``(trial, time, 50)``: sines that all pass zero when the stream begins. ``teach``: 1. ``target``, and the target
        of the readout ``(trial, time, 1)``: the sawtooth.
    """
    steps = int(float(PERIOD / dt) + 0.5)
    t = (np.arange(first * steps, (first + n) * steps) * float(dt)).reshape(n, steps, 1)
    wanted = sawtooth(t)
    inputs = {"sense": np.sin(2 * np.pi * t * np.asarray(FREQUENCIES)), "teach": np.ones_like(t), "target": wanted}
    return Trials(inputs, wanted, np.full(steps, 1 / steps))


def task(dt):
    """The stream as it goes on, and teeth of its last third, where only the order of trials hangs on the seed: nothing."""
    def training(update, batch, seed):
        return teeth(update * batch, batch, dt=dt)

    def testing(n, seed):
        return teeth(TAUGHT, n, dt=dt)

    return Task("fourier-synthesis", training, testing, meta={"given": True})


def network(*, dt, prospective=True, feedback="symmetric"):
    """50 sines, 30 tanh neurons, one linear output, ``tau`` 10 ms; weights at first normal, of standard deviation 0.05."""
    small = normal(0.05, fan_in=False)
    hidden = latent_equilibrium(prospective=prospective, activation="tanh")
    output = latent_equilibrium_output(prospective=prospective, beta=BETA)
    return layered((len(FREQUENCIES), 30, 1), hidden, output, feedback=feedback, weight=small, down=small, dt=dt)


def figure(net, trials, before, after):
    """The readout over some teeth without the teacher, before and after learning, beside the sawtooth."""
    import matplotlib.pyplot as plt

    shown, time = teeth(TAUGHT, 4, dt=net.dt), None
    drawn, ax = plt.subplots(figsize=(8, 3), constrained_layout=True)
    for values, colour, label in ((before, "0.6", "before learning"), (after, COLOURS[0], "after 400 ms, teacher silent")):
        seen = run(net, shown.without(net.teachers), values=values, backend="torch", record=["said.shown"])
        time = np.arange(shown.steps * len(shown)) * float(net.dt / ms)
        ax.plot(time, seen["said"]["shown"].values.ravel(), color=colour, lw=1.4, label=label)
    ax.plot(time, shown.target.ravel(), color="k", ls="--", lw=1, label="sawtooth")
    legend(ax, loc="upper left")
    return style(ax, "a sawtooth from sines", "time (ms)", "output").figure


def quick():
    """Steps of 0.05 ms, ten times the published ones."""
    return preset(dt=0.05 * ms, backend="torch")


def paper():
    """The published step and stream, online in Brian2."""
    return preset(dt=0.005 * ms, backend="brian2")


def preset(*, dt, backend):
    """BPTT makes one step per tooth, as long as all those of the local rule taken together."""
    made = {"dt": dt}
    net, local = network(**made), dendritic()
    return Preset(
        network=net,
        task=task(dt),
        loss=mse(),
        optimiser=sgd(RATE * float(dt / ms)),
        batch=1,
        updates=TAUGHT,
        test=SILENT,
        hidden="hidden1",
        rules={
            "BPTT": Contender(bptt(), "torch", optimiser=sgd(RATE * BETA * float(PERIOD / ms))),
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
    presets={"quick": quick, "paper": paper},
    published={"Fourier synthesis": "the output follows the sawtooth after 400 ms, and goes on to without the teacher (no number)"},
    rule="dendritic",
    drawn=figure,
)
