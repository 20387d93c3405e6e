"""Yin-Yang in a microcircuit whose feedback weights align: which part of the figure is a point in.

Max et al. 2024, Nature Machine Intelligence, arXiv:2212.10249, figure 4; the task: Kriener, Göltz & Petrovici 2022,
NICE, arXiv:2102.08211. All weights onto the cells begin small, so that a hidden layer which does not learn is all but
linear and of little use: what feedback is good for can be seen. Large random weights alone make features that tell most
points apart; a control shows that.
"""

from dataclasses import replace
from functools import partial

from brian2 import ms

from localplast.analysis.feedback import angles_along, angles_said, pairs_of_weights
from localplast.models.pal_circuit import aligning
from localplast.network import uniform
from localplast.study.circuits import aligning_contenders, alignment_learning
from localplast.study.protocol import Preset, Protocol
from localplast.task.loss import mse
from localplast.task.streams import point_streams

__all__ = ["network", "protocol"]

#: Potentials of an output neuron that should be off, and on.
TARGETS = (0.1, 1.0)


def network(*, activation="logistic", first=(0.1, 0.1), sigma=0.01, **options):
    """Four channels, 30 pyramidal cells, three outputs; weights onto each layer begin within ``first``, and may grow as
    they like.
    """
    weight, usual = tuple(uniform(limit, fan_in=False) for limit in first), {"limits": None, "targets": TARGETS}
    return aligning((4, 30, 3), activation=activation, weight=weight, sigma=sigma, **usual, **options)


def contenders(made, backend, large):
    """The network ``made(**options)`` with each kind of feedback, as published: where feedback is fixed, so are the
    weights that cancel it.

    Hidden weights that stay are those that all begin with, and in another contender ``large`` ones.
    """
    found = aligning_contenders(made, backend=backend)
    for name in ("feedback alignment", "hidden frozen"):
        found[name] = replace(found[name], frozen=(*found[name].frozen, "pi1"))
    features = replace(found["hidden frozen"], network=made(sigma=0.0, first=large))
    return found | {"large random features": features}


def build(*, activation, first, large, sigma, up, ip, pi, down, alpha, tau, steps, stream, batch, updates, test=900):
    """Rates are those of :func:`~localplast.study.circuits.alignment_learning`, ``sigma`` is the noise; ``large`` are
    the first weights of a control, as ``first`` those of all others.
    """
    made, backend = (
        partial(network, activation=activation, first=first, sigma=sigma),
        "torch" if batch > 1 else "brian2",
    )
    net = made()
    return Preset(
        network=net,
        task=point_streams("pal-yin-yang", (6000, 900), steps=steps, points=stream, shown=100, targets=TARGETS),
        loss=mse(),
        optimiser=alignment_learning(net, up=up, ip=ip, pi=pi, down=down, alpha=alpha, tau=tau),
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden1",
        rules=contenders(made, backend, large),
    )


protocol = Protocol(
    name="pal-yin-yang",
    summary="Yin-Yang in a microcircuit whose feedback weights align with its forward weights.",
    reference="Max et al. 2024, Nature Machine Intelligence, arXiv:2212.10249; Kriener et al. 2022, NICE, "
    "arXiv:2102.08211",
    build=build,
    presets={
        # 80 times 6000 points of 0.2 ms, in eight streams side by side. Weights learn from their mean, at eight times
        # the rates of one stream, low-pass filtered for an eighth of the time: of as many points.
        "quick": dict(
            activation="tanh",
            first=(0.3, 0.1),
            large=(10.0, 0.1),
            sigma=0.1,
            up=(160.0, 0.4),
            ip=2.0,
            pi=4.0,
            down=4.8,
            alpha=3e-5,
            tau=1.25 * ms,
            steps=20,
            stream=500,
            batch=8,
            updates=120,
        ),
        # As published: one stream of points of 1 ms, 400 times 6000 of them.
        "paper": dict(
            activation="logistic",
            first=(0.1, 0.1),
            large=(10.0, 0.1),
            sigma=0.01,
            up=(50.0, 0.01),
            ip=0.05,
            pi=0.02,
            down=0.5,
            alpha=1e-6,
            tau=100 * ms,
            steps=100,
            stream=300,
            batch=1,
            updates=8000,
        ),
    },
    published={
        "fig. 4": "4-30-3, 400 epochs of 6000 points, 10 seeds (in a figure; a replica, seed 0: PAL 95.8 %, feedback "
        "alignment 94.0 %)"
    },
    rule="dendritic",
    told=angles_said,
    drawn=pairs_of_weights,
    course=angles_along,
    recorded={f"{name}.weight": {"every": 20} for name in ("up2", "down1")},
)
