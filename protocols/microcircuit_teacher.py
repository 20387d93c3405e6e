"""A dendritic microcircuit learns what another network does: teacher and student of the same size.

Sacramento et al. 2018, NeurIPS, arXiv:1810.11393, section 3.2: a circuit of 30, 20 and 10 neurons learns the map of a
feedforward network with random weights, while inputs come without a pause.
"""

from functools import partial

import numpy as np

from localplast.learning.optimise import sgd
from localplast.models.layers import stream
from localplast.protocols.microcircuit import STEP, basal_share, circuit, contenders, figure
from localplast.study.protocol import Preset, Protocol
from localplast.task import Task
from localplast.task.loss import mse

__all__ = ["network", "protocol", "soft_relu", "teaching_task", "undisturbed"]

SIZES = (30, 20, 10)


def network(**options):
    """The student; its readout says the potentials of the output as they are."""
    return circuit(SIZES, plastic=("up", "ip"), targets=(0.0, 1.0), **options)


def soft_relu(u):
    """The rates of potentials."""
    return np.log1p(np.exp(u))


def undisturbed(net, weights, sense, phi=soft_relu):
    """Potentials of the output that a circuit comes to without a teacher, apical dendrites at rest.

    ``sense`` is ``(..., channel)``; ``weights`` holds ``up1``, ``up2`` and so on, ``(pre, post)``; ``phi`` makes
    rates of potentials.
    """
    *hidden, out = [p for p in net.projections.values() if p.name.startswith("up")]
    for p in hidden:
        sense = phi(basal_share(net.nodes[p.post].values) * sense @ weights[p.name])
    return basal_share(net.nodes[out.post].values) * sense @ weights[out.name]


def teaching_task(net, *, steps, patterns, shown=100, teacher=None, phi=soft_relu, name="microcircuit-teacher"):
    """Streams of so many ``patterns`` within ±1, each for so many ``steps``, and what a teacher makes of them.

    ``teacher`` holds its weights by name; default: those of a network like ``net`` that is drawn for each seed.
    """

    def presented(rng, trials, seed, patterns, steps):
        sense = rng.uniform(-1.0, 1.0, (trials, patterns, net.size("sense")))
        wanted = undisturbed(net, teacher or net.draw(seed + 1000).weights, sense, phi)
        return stream(sense, wanted, steps=steps)

    return Task.drawn(
        name, partial(presented, patterns=patterns, steps=steps), partial(presented, patterns=1, steps=shown)
    )


def build(*, steps, pace, updates, batch=1, test=200):
    """``pace`` times rates of 0.05, 0.01 (onto the output) and 0.02 (interneurons) per ms."""
    return Preset(
        network=network(),
        task=teaching_task(network(), steps=steps, patterns=50),
        loss=mse(),
        optimiser=sgd(pace * STEP).with_rates(up1=0.05, up2=0.01, ip1=0.02),
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden1",
        rules=contenders(network, backend="brian2"),
    )


protocol = Protocol(
    name="microcircuit-teacher",
    summary="A dendritic microcircuit learns the map of another network, whose output nudges its own.",
    reference="Sacramento et al. 2018, NeurIPS, arXiv:1810.11393, section 3.2",
    build=build,
    presets={
        # 10,000 inputs of 2 ms.
        "quick": dict(steps=20, pace=3.0, updates=200),
        # 10,000 inputs of 100 ms, as long as published, with rates that are lower by as much.
        "paper": dict(steps=1000, pace=0.06, updates=200),
    },
    rule="dendritic",
    drawn=figure,
)
