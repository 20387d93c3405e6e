"""A lag line: two neurons in a row learn the weights and the membranes of two others, from what these make of a
square wave.

Ellenberger et al. 2024, arXiv:2403.16933: generalised latent equilibrium, where errors look as far ahead as neurons
lag behind. One input drives a softplus neuron that drives another. The teacher is the same chain with weights 1 and 2
and membranes of 1 s and 2 s; the student begins with weights between 0 and 1.
"""

import functools

import numpy as np
from brian2 import ms, second

from localplast.analysis.answers import beside_teacher
from localplast.learning.optimise import adam
from localplast.models import gle, gle_output
from localplast.models.layers import layered
from localplast.network import uniform
from localplast.rules import bptt, dendritic
from localplast.runs.run import run
from localplast.study.contenders import Contender
from localplast.study.protocol import Preset, Protocol
from localplast.task import Task, Trials
from localplast.task.loss import mse

__all__ = ["learned", "network", "protocol", "square", "taught", "teacher", "told"]

#: Of the teacher, by name of what learns: two weights, two membranes in seconds.
TEACHER = {"up1": 1.0, "up2": 2.0, "hidden1.tau_m": 1.0, "out.tau_m": 2.0}
TAU_R, PERIOD, SMOOTH, BETA = 100 * ms, 4 * second, 50 * ms, 0.01
#: Ten times the error neurons.
REST = 1 * second


def network(*, dt, errors="prospective"):
    """The student: it begins with membranes of half a second; none may become shorter than ten steps."""
    options = {"activation": "softplus", "errors": errors, "tau_r": TAU_R}
    layers = ("hidden1", "out")
    return layered(
        (1, 1, 1),
        gle(**options),
        gle_output(beta=BETA, **options),
        weight=uniform(0.5, mean=0.5, fan_in=False),
        dt=dt,
        parameters={name: {"tau_m": np.full(1, 0.5) * second} for name in layers},
        trainable={name: {"tau_m": (10 * dt, None)} for name in layers},
    )


def teacher(net):
    """The numbers of the teacher, as :class:`~localplast.network.network.Values` of ``net``."""
    weights = {name: np.full((1, 1), value) for name, value in TEACHER.items() if "." not in name}
    return net.draw(0).replace_weights(
        weights, {name: np.full(1, value) for name, value in TEACHER.items() if "." in name}
    )


def square(dt):
    """One period of a wave between -1 and 1, its edges smoothed by a Gaussian, ``(time,)``."""
    steps, width = (int(float(span / dt) + 0.5) for span in (PERIOD, SMOOTH))
    n = np.arange(steps)
    bell = np.exp(-0.5 * (np.minimum(n, steps - n) / width) ** 2)
    wave = np.where(n < steps // 2, 1.0, -1.0)
    return np.fft.irfft(np.fft.rfft(wave) * np.fft.rfft(bell / bell.sum()), steps)


@functools.cache
def taught(dt):
    """What the teacher says along one period of :func:`square`, ``(time,)``, when it has long been running; ``dt`` in
    seconds.
    """
    net = network(dt=dt * second)
    wave = square(net.dt)
    sense = np.tile(wave, 10)[None, :, None]  # 40 s, twenty of the longest time constant
    heard = Trials({"sense": sense, "teach": np.zeros_like(sense), "target": np.zeros_like(sense)})
    said = run(net, heard, values=teacher(net), backend="torch", record=["said.shown"])
    return said["said"]["shown"].values[0, -len(wave) :, 0]


def presented(rng, trials, *, settle, length, dt):
    """Waves that begin anywhere; after the time to ``settle`` the teacher speaks, for a ``length``; then errors run
    out.
    """
    begin, end, steps = (int(float(span / dt) + 0.5) for span in (settle, settle + length, settle + length + REST))
    wave, answer = square(dt), taught(float(dt))
    at = (rng.integers(len(wave), size=(trials, 1)) + np.arange(steps)) % len(wave)
    judged = (np.arange(steps) >= begin) & (np.arange(steps) < end)
    target = answer[at][..., None]
    teach = np.tile(judged.astype(float)[:, None], (trials, 1, 1))
    return Trials({"sense": wave[at][..., None], "teach": teach, "target": target}, target, judged / judged.sum())


def task(**spans):
    return Task.generated("gle-lag-line", lambda rng, n: presented(rng, n, **spans))


def learned(values):
    """What of some :class:`~localplast.network.network.Values` stands beside :data:`TEACHER`, by name."""
    return {name: (values.weights[name] if name in values.weights else values.other(name)).item() for name in TEACHER}


def told(net, trials, after):
    """What was learned beside what the teacher has, in words."""
    found = learned(after)
    return ", ".join(f"{name} {found[name]:.3f} (teacher: {value:g})" for name, value in TEACHER.items())


def build(*, dt, settle, length, batch, updates, rate, offline, test=8):
    """``rate`` is Adam's in every step, ``offline`` that of BPTT in every update."""
    made, local = functools.partial(network, dt=dt), dendritic()
    membranes = tuple(name for name in TEACHER if "." in name)
    rates = dict.fromkeys(membranes, 1.0)  # seconds
    return Preset(
        network=made(),
        task=task(settle=settle, length=length, dt=dt),
        loss=mse(),
        optimiser=adam(rate).with_rates(**rates),
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden1",
        rules={
            "BPTT": Contender(bptt(), "torch", optimiser=adam(offline).with_rates(**rates)),
            "GLE": Contender(local, "torch"),
            "instantaneous errors": Contender(local, "torch", network=made(errors="instantaneous")),
            "GLE, membranes frozen": Contender(local, "torch", membranes),
        },
    )


protocol = Protocol(
    name="gle-lag-line",
    summary="Two lagging neurons in a row learn weights and membranes of a teacher, by errors that look ahead.",
    reference="Ellenberger et al. 2024, arXiv:2403.16933 (Nat Commun 2025)",
    build=build,
    presets={
        # Steps of 40 ms, some minutes of a wave instead of an hour.
        "quick": dict(dt=40 * ms, settle=10 * second, length=14 * second, batch=8, updates=20, rate=1e-3, offline=0.15),
        # The published step, batch and rate, and the published 4000 s of learning, in pieces of 100 s that begin
        # anew.
        "paper": dict(
            dt=10 * ms, settle=20 * second, length=100 * second, batch=100, updates=40, rate=1e-6 / BETA, offline=0.1
        ),
    },
    published={
        "lag line": "weights and time constants of the teacher are found, not with instantaneous errors (no number)"
    },
    rule="dendritic",
    drawn=beside_teacher,
    told=told,
)
