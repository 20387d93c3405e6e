"""Feedback weights align with forward weights, always on: noise in apical dendrites tells them what lies above.

Max et al. 2024, Nature Machine Intelligence, arXiv:2212.10249, figure 3: a microcircuit of 5, 20, 10, 20 and 5
neurons, with random weights in both directions at first, is shown one pattern per millisecond.
"""

from brian2 import ms

from localplast.analysis.feedback import angles_along, angles_said, pairs_of_weights
from localplast.models.circuit import as_teacher
from localplast.models.pal_circuit import aligning, logistic
from localplast.study.circuits import aligning_contenders, alignment_learning
from localplast.study.protocol import Preset, Protocol
from localplast.task.loss import mse
from localplast.task.streams import taught_streams

__all__ = ["network", "protocol"]

SIZES = (5, 20, 10, 20, 5)


def network(**options):
    """The published sizes, logistic."""
    return aligning(SIZES, activation="logistic", targets=(0.0, 1.0), **options)


def build(*, steps, up, tau, stream=10_000, updates=100, batch=1, test=100):
    """``steps`` per pattern, ``stream`` per update; ``up`` and ``tau`` are those of
    :func:`~localplast.study.circuits.alignment_learning`.
    """
    net = network()
    return Preset(
        network=net,
        task=taught_streams(
            "pal-alignment", SIZES[0], as_teacher(net, phi=logistic), steps=steps, patterns=stream // steps
        ),
        loss=mse(),
        optimiser=alignment_learning(net, up=up, ip=5.0, pi=5.0, down=50.0, alpha=1e-5, tau=tau),
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden1",
        rules=aligning_contenders(network, backend="brian2"),
    )


protocol = Protocol(
    name="pal-alignment",
    summary="Feedback weights of a deep microcircuit align with its forward weights, by noise that is always on.",
    reference="Max et al. 2024, Nature Machine Intelligence, arXiv:2212.10249, fig. 3",
    build=build,
    presets={
        # The published rates of feedback and number of steps, with patterns of 10 ms: jumps of the signal, which blur
        # it, are rarer. Forward weights learn slower, and low-pass filtered with 1 ms: with the published 100 ms they
        # overshoot here.
        "quick": dict(steps=1000, up=0.2, tau=1 * ms),
        # Patterns of 1 ms, 100 times 100 of them (there the same 100 patterns; here always new ones).
        "paper": dict(steps=100, up=1.0, tau=100 * ms),
    },
    published={
        "fig. 3": "feedback aligns with forward weights within 100 epochs of 100 patterns (10 seeds; no number)"
    },
    rule="dendritic",
    told=angles_said,
    drawn=pairs_of_weights,
    course=angles_along,
    recorded={f"{name}.weight": {"every": 2} for name in ("up2", "up3", "up4", "down1", "down2", "down3")},
)
