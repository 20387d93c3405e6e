"""Yin-Yang in a microcircuit whose feedback weights align: which part of the figure is a point in.

Max et al. 2024, Nature Machine Intelligence, arXiv:2212.10249; the task: Kriener, Göltz & Petrovici 2022, NICE,
arXiv:2102.08211.
"""

from functools import partial

import numpy as np
from brian2 import ms

from localplast.analysis.feedback import angles_along, angles_said, pairs_of_weights
from localplast.learning.optimise import adam
from localplast.models.pal_circuit import aligning
from localplast.network import uniform
from localplast.study.circuits import aligning_contenders, alignment_learning
from localplast.study.protocol import Preset, Protocol
from localplast.task import Task
from localplast.task.datasets import yin_yang
from localplast.task.loss import mse
from localplast.task.streams import classes

__all__ = ["network", "points_task", "protocol"]

#: Potentials of an output neuron that should be off, and on.
TARGETS = (0.1, 1.0)


def network(*, sigma=0.1, **options):
    """Four channels, 30 pyramidal cells, three outputs; all tanh. Weights onto the output begin small, those of
    feedback do not.
    """
    weight = (uniform(3.0, fan_in=False), uniform(0.3, fan_in=False))
    return aligning((4, 30, 3), activation="tanh", weight=weight, sigma=sigma, targets=TARGETS, **options)


def points_task(*, steps, stream, shown=100):
    """Streams of so many points, each for so many ``steps``; in tests one point, for ``shown`` steps. Channels: x, y,
    1-x, 1-y.
    """
    train = yin_yang(2000, 42)

    present = partial(classes, outputs=3, targets=TARGETS)

    def training(update, batch, seed):
        chosen = np.random.default_rng([seed, 0, update]).integers(0, len(train[1]), (batch, stream))
        return present(train[0][chosen], train[1][chosen], steps=steps)

    def tested(number, validation=None):
        points, labels = yin_yang(300, number)
        return Task(
            "pal-yin-yang",
            training,
            lambda n, seed: present(points[:n, None], labels[:n, None], steps=shown),
            validation=validation,
        )

    return tested(40, tested(41))


def build(*, sigma, up, ip, pi, down, alpha, tau, halving, steps, stream, batch, updates, test=300):
    """``sigma`` is the noise, the rates are those of :func:`~localplast.study.circuits.alignment_learning`; they halve
    after so many updates, where ``halving`` is given.
    """
    made, backend = partial(network, sigma=sigma), "torch" if batch > 1 else "brian2"
    net = made()
    optimiser = alignment_learning(net, up=up, ip=ip, pi=pi, down=down, alpha=alpha, tau=tau)
    return Preset(
        network=net,
        task=points_task(steps=steps, stream=stream),
        loss=mse(),
        optimiser=optimiser.halved(halving * stream * steps) if halving else optimiser,
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden1",
        rules=aligning_contenders(made, backend=backend, offline=adam(0.01)),
    )


protocol = Protocol(
    name="pal-yin-yang",
    summary="Yin-Yang in a microcircuit whose feedback weights align with its forward weights.",
    reference="Max et al. 2024, Nature Machine Intelligence, arXiv:2212.10249; Kriener et al. 2022, NICE, "
    "arXiv:2102.08211",
    build=build,
    presets={
        # 32 streams side by side, of 20 points for 0.2 ms each, stronger noise, and rates that are higher accordingly
        # and fall.
        "quick": dict(
            sigma=0.1,
            up=(50.0, 1.0),
            ip=5.0,
            pi=5.0,
            down=50.0,
            alpha=2e-4,
            tau=1 * ms,
            halving=80,
            steps=20,
            stream=20,
            batch=32,
            updates=240,
        ),
        # One stream of points for 1 ms each, 400 times 2000 of them; the published noise and rates.
        "paper": dict(
            sigma=0.01,
            up=(50.0, 0.01),
            ip=0.05,
            pi=0.02,
            down=0.5,
            alpha=1e-6,
            tau=100 * ms,
            halving=None,
            steps=100,
            stream=100,
            batch=1,
            updates=8000,
        ),
    },
    published={"Yin-Yang": "4-30-3, 400 epochs of 2000 points, 10 seeds (accuracies are in a figure, not checked)"},
    rule="dendritic",
    told=angles_said,
    drawn=pairs_of_weights,
    course=angles_along,
    recorded={f"{name}.weight": {"every": 5} for name in ("up2", "down1")},
)
