"""A small lag network: two layers of one quick and one slow neuron each; the first layer learns what a teacher's does.

Ellenberger et al. 2024, arXiv:2403.16933: generalised latent equilibrium beside the exact adjoint. The input is three
sines. Student and teacher differ in the weights onto the first hidden layer only, and only these learn. The weights
above are chosen here: positive, so that paths add up. Where they cancel, small errors of the gradient have a say, and
not every start finds the teacher.
"""

import functools

import numpy as np
from brian2 import ms, second

from localplast.analysis.answers import beside_teacher
from localplast.learning.optimise import sgd
from localplast.models import gle, gle_output
from localplast.models.layers import layered
from localplast.network import normal, uniform
from localplast.rules import bptt, dendritic
from localplast.runs.run import run
from localplast.show.plot import COLOURS, legend, style
from localplast.study.contenders import Contender
from localplast.study.protocol import Preset, Protocol
from localplast.task import Task, Trials
from localplast.task.loss import mse

__all__ = ["TEACHER", "course", "network", "protocol", "sines", "stream", "teacher", "told"]

#: Weights onto the first hidden layer of the teacher, ``(pre, post)``.
TEACHER = np.array([[-0.5, 1.0]])
#: Those that teacher and student share.
ABOVE = [np.array([[1.0, 0.5], [0.5, 1.0]]), np.array([[1.0], [1.0]])]
#: Angular frequencies of the input, in radians per second.
FREQUENCIES = np.array([0.49, 1.07, 1.98])
#: Until the last errors have run out.
REST = 1 * second
TAU_M, TAU_R, BETA, GAMMA = 1 * second, [1.0, 0.1] * second, 0.01, 1e-3


def network(*, dt, errors="prospective", feedback="symmetric"):
    """The student: in each hidden layer a tanh neuron without delay and a leaky one, an output without delay."""
    options = {"errors": errors, "gamma": GAMMA, "tau_m": TAU_M, "tau_r": TAU_M}
    return layered(
        (1, 2, 2, 1),
        gle(**options),
        gle_output(beta=BETA, **options),
        weight=[uniform(1.0, fan_in=False), *ABOVE],
        feedback=feedback,
        down=normal(fan_in=False),
        parameters=dict.fromkeys(("hidden1", "hidden2"), {"tau_r": TAU_R}),
        dt=dt,
    )


def teacher(net):
    """The numbers of the teacher, as :class:`~localplast.network.network.Values` of ``net``."""
    return net.draw(0).replace_weights({"up1": TEACHER})


def sines(t):
    """The input at the times ``t`` in seconds."""
    return np.sin(np.multiply.outer(t, FREQUENCIES)).sum(-1)


@functools.cache
def stream(pieces, *, settle, length, dt):
    """A stream in ``pieces``, a trial each, with what the teacher says; all times in seconds.

    Each piece begins anew, so much before its ``length`` that the network can ``settle``, and goes on for
    :data:`REST`, until the last errors have run out; the teacher is silent in these times.

    Returns
    -------
    Trials
        ``sense`` ``(trial, time, 1)``, ``teach``, ``target``; target: that of the readout.
    """
    begin, end, steps = (
        int(float(span) / dt + 0.5) for span in (settle, settle + length, settle + length + REST / second)
    )
    t = (np.arange(pieces)[:, None] * (end - begin) + np.arange(steps)) * dt
    sense, judged = sines(t)[..., None], (np.arange(steps) >= begin) & (np.arange(steps) < end)
    teach = np.tile(judged.astype(float)[:, None], (pieces, 1, 1))
    net, silent = network(dt=dt * second), np.zeros_like(sense)
    heard = Trials({"sense": sense, "teach": silent, "target": silent})
    said = run(net, heard, values=teacher(net), backend="torch", record=["said.shown"])["said"]["shown"].values
    return Trials({"sense": sense, "teach": teach, "target": said}, said, judged / judged.sum())


def task(taught, tested, **spans):
    """The stream as it goes on, and how it goes on after that; nothing in it is drawn."""

    def training(update, batch, seed):
        return stream(taught + tested, **spans)[update * batch % taught :][:batch]

    def shown(start, validation=None):  # its validation is the end of what is learned
        def testing(n, seed):
            return stream(taught + tested, **spans)[start : start + n]

        return Task("gle-lag-net", training, testing, {"given": True}, validation)

    return shown(taught, shown(taught - tested))


def told(net, trials, after):
    """What was learned beside what the teacher has, in words."""
    found = ", ".join(f"{w:.3f}" for w in after.weights["up1"].ravel())
    return f"weights onto hidden1: {found} (teacher: {', '.join(f'{w:g}' for w in TEACHER.ravel())})"


def course(net, record):
    """The weights that learn, along training, and those of the teacher."""
    import matplotlib.pyplot as plt

    kept = record["up1"]["weight"]
    at, first = [0, *kept["update"].values], net.draw(record.attrs["seed"]).weights["up1"]
    drawn, ax = plt.subplots(figsize=(5, 3), constrained_layout=True)
    kinds = ("neuron without delay", "leaky neuron")
    for kind, weights, wanted, colour in zip(
        kinds, np.array([first, *kept.values])[:, 0].T, TEACHER[0], COLOURS, strict=False
    ):
        ax.plot(at, weights, color=colour, lw=1.6, label=f"onto the {kind}")
        ax.axhline(wanted, color=colour, lw=1, ls="--")
    legend(ax)
    style(ax, "dashed: the teacher's", "update", "weight")
    return drawn


def build(*, dt, settle, length, batch, updates, pace, test=8):
    """``pace`` times 0.02 per second; BPTT makes one step per piece, as long as all those of the local rule taken
    together.
    """
    made, local, speed = functools.partial(network, dt=dt), dendritic(), 0.02 * pace
    given = {"up2": 0.0, "up3": 0.0}
    return Preset(
        network=made(),
        task=task(batch * updates, test, settle=float(settle), length=float(length), dt=float(dt)),
        loss=mse(),
        optimiser=sgd(speed * float(dt) / BETA).with_rates(**given),
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden1",
        rules={
            "BPTT": Contender(bptt(), "torch", optimiser=sgd(speed * float(length)).with_rates(**given)),
            "GLE": Contender(local, "torch"),
            "GLE, random": Contender(local, "torch", network=made(feedback="random")),
            "instantaneous errors": Contender(local, "torch", network=made(errors="instantaneous")),
        },
    )


protocol = Protocol(
    name="gle-lag-net",
    summary="The first of two layers with quick and slow neurons learns a teacher's, beside the exact adjoint.",
    reference="Ellenberger et al. 2024, arXiv:2403.16933 (Nat Commun 2025)",
    build=build,
    presets={
        # Steps of 40 ms, pieces of the stream side by side, and rates five times the published ones.
        "quick": dict(dt=40 * ms, settle=5 * second, length=9 * second, batch=8, updates=20, pace=5.0),
        # The published step and rate, in pieces of 90 s one after the other: 1000 s with their beginnings.
        "paper": dict(dt=10 * ms, settle=10 * second, length=90 * second, batch=1, updates=10, pace=1.0),
    },
    published={
        "lag network": "the weights of the teacher are found, errors are in phase with those of the adjoint (no number)"
    },
    rule="dendritic",
    drawn=beside_teacher,
    told=told,
    course=course,
    recorded={"up1.weight": {"every": 2}},
)
