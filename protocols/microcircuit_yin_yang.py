"""Yin-Yang in a dendritic microcircuit: which part of the figure is a point in, learned online from a stream of points.

The task is that of Kriener, Göltz & Petrovici 2022, NICE, arXiv:2102.08211. Microcircuits have learned it in Max et
al., phaseless alignment learning, arXiv:2212.10249; here feedback is random and stays.
"""

from functools import partial

import numpy as np

from localplast.analysis.answers import apical_potentials
from localplast.learning.optimise import sgd
from localplast.models.circuit import STEP, TARGETS, circuit
from localplast.network import uniform
from localplast.study.circuits import circuit_contenders
from localplast.study.protocol import Preset, Protocol
from localplast.task import Task
from localplast.task.datasets import yin_yang
from localplast.task.loss import mse
from localplast.task.streams import classes

__all__ = ["network", "points_task", "protocol"]


def network(*, hidden=30, **options):
    """Five channels, ``hidden`` pyramidal cells, three outputs; all cells tanh.

    Weights onto the hidden layer are large at first, so that it is not linear; those onto the output are small.
    ``options`` are those of :func:`~localplast.models.circuit.circuit`.
    """
    weight = (uniform(3.0, fan_in=False), uniform(0.3, fan_in=False))
    return circuit((5, hidden, 3), activation="tanh", weight=weight, plastic=("up", "ip"), **options)


def points_task(*, steps, stream, shown=50):
    """Streams of so many points, each for so many ``steps``; in tests one point, for ``shown`` steps.

    Channels: the coordinates, from -1 to 1, and a constant.
    """
    train = yin_yang(5000, 42)

    def present(points, labels, steps):
        channels = np.concatenate([2 * points - 1, np.ones((*points.shape[:-1], 1))], axis=-1)
        return classes(channels, labels, steps=steps, outputs=3, targets=TARGETS)

    def training(update, batch, seed):
        chosen = np.random.default_rng([seed, 0, update]).integers(0, len(train[1]), (batch, stream))
        return present(train[0][chosen], train[1][chosen], steps)

    def tested(number, validation=None):
        points, labels = yin_yang(1000, number)
        return Task(
            "microcircuit-yin-yang",
            training,
            lambda n, seed: present(points[:n, None], labels[:n, None], shown),
            validation=validation,
        )

    return tested(40, tested(41))


def build(*, hidden, updates, points=50, steps=50, batch=1, test=1000):
    """Rates per ms, that fall by half four times in the course: every step is an update."""
    return Preset(
        network=network(hidden=hidden),
        task=points_task(steps=steps, stream=points),
        loss=mse(),
        optimiser=sgd(STEP).with_rates(up1=1.0, up2=0.02, ip1=0.1).halved(points * steps * updates / 4),
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden1",
        rules=circuit_contenders(partial(network, hidden=hidden), backend="brian2"),
    )


protocol = Protocol(
    name="microcircuit-yin-yang",
    summary="Yin-Yang in a dendritic microcircuit, learned online from a stream of points.",
    reference="Kriener et al. 2022, NICE, arXiv:2102.08211; Haider et al. 2021, NeurIPS, arXiv:2110.14549",
    build=build,
    presets={
        # 50,000 points of 5 ms.
        "quick": dict(hidden=30, updates=1000),
        # 500,000 points of 5 ms.
        "paper": dict(hidden=30, updates=10_000),
    },
    rule="dendritic",
    drawn=apical_potentials,
)
