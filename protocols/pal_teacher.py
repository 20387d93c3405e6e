"""A chain of three cells whose feedback has the wrong sign at first: it must turn round before the hidden weight can
be learned.

Max et al. 2024, Nature Machine Intelligence, arXiv:2212.10249, figure 4ab: a teacher of the same size with weights of
2.
"""

from functools import partial

import numpy as np
from brian2 import ms

from localplast.analysis.answers import apical_potentials
from localplast.models.circuit import as_teacher
from localplast.models.pal_circuit import aligning, logistic
from localplast.network import uniform
from localplast.show.plot import COLOURS, legend, style
from localplast.study.circuits import aligning_contenders, alignment_learning
from localplast.study.protocol import Preset, Protocol
from localplast.task.loss import mse
from localplast.task.streams import taught_streams

__all__ = ["course", "network", "protocol", "told"]

SIZES, TEACHER = (1, 1, 1), {"up1": np.full((1, 1), 2.0), "up2": np.full((1, 1), 2.0)}


def network(*, sigma=0.05, **options):
    """The student; its weights, feedback too, lie between -1 and 0 at first."""
    negative = uniform(0.5, mean=-0.5, fan_in=False)
    usual = {"activation": "logistic", "weight": negative, "down": negative, "targets": (0.0, 1.0)}
    return aligning(SIZES, sigma=sigma, **{**usual, **options})


def told(net, trials, after):
    """The weights after learning, in words."""
    found = ", ".join(f"{name} {after.weights[name].item():.2f}" for name in ("up1", "up2", "down1"))
    return f"weights (up: 2 is the teacher's): {found}"


def course(net, record):
    """The three weights of the chain along training."""
    import matplotlib.pyplot as plt

    drawn, ax = plt.subplots(figsize=(5, 3.2), constrained_layout=True)
    first = net.draw(record.attrs["seed"]).weights
    for name, colour in zip(("up1", "up2", "down1"), COLOURS, strict=False):
        kept = record[name]["weight"]
        ax.plot(
            [0, *kept["update"].values], [first[name].item(), *kept.values.ravel()], color=colour, lw=1.6, label=name
        )
    for level, line in ((0, "-"), (2, ":")):
        ax.axhline(level, color="0.6", lw=0.8, ls=line)
    legend(ax)
    style(ax, "", "update (a stream of 100 patterns each)", "weight (dotted: teacher's)")
    return drawn


def build(*, sigma, up, ip, pi, down, alpha, tau, updates, batch=1, test=100):
    """``sigma`` is the noise, the rates are those of :func:`~localplast.study.circuits.alignment_learning`."""
    made = partial(network, sigma=sigma)
    net = made()
    return Preset(
        network=net,
        task=taught_streams("pal-teacher", SIZES[0], as_teacher(net, TEACHER, logistic), steps=100, patterns=100),
        loss=mse(),
        optimiser=alignment_learning(net, up=up, ip=ip, pi=pi, down=down, alpha=alpha, tau=tau),
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden1",
        rules=aligning_contenders(made, backend="brian2"),
    )


protocol = Protocol(
    name="pal-teacher",
    summary="A chain of three cells learns from a teacher although its feedback has the wrong sign at first.",
    reference="Max et al. 2024, Nature Machine Intelligence, arXiv:2212.10249, fig. 4ab",
    build=build,
    presets={
        # Noise of 0.05, and rates that are higher accordingly: 100 streams of 100 patterns.
        "quick": dict(sigma=0.05, up=(50.0, 10.0), ip=10.0, pi=5.0, down=20.0, alpha=2e-5, tau=1 * ms, updates=100),
        # The published noise of 0.01 and rates: 5000 times 100 patterns.
        "paper": dict(sigma=0.01, up=(2.0, 0.5), ip=10.0, pi=0.5, down=20.0, alpha=1e-6, tau=100 * ms, updates=5000),
    },
    published={
        "fig. 4ab": "feedback turns its sign and the student matches the teacher; not where it is fixed (no number)"
    },
    rule="dendritic",
    told=told,
    drawn=apical_potentials,
    course=course,
    recorded={f"{name}.weight": {"every": 2} for name in ("up1", "up2", "down1")},
)
