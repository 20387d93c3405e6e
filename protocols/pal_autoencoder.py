"""An autoencoder of MNIST in a microcircuit whose feedback weights align: images are squeezed through a few cells.

Max et al. 2024, Nature Machine Intelligence, arXiv:2212.10249. How much of the digits is left in the bottleneck says
a linear classifier, which the network does not know of.
"""

import numpy as np
from brian2 import ms

from localplast.analysis.feedback import angles, angles_along, pairs_of_weights
from localplast.learning.optimise import adam
from localplast.models.pal_circuit import aligning
from localplast.network import uniform
from localplast.runs.run import run
from localplast.study.circuits import aligning_contenders, alignment_learning
from localplast.study.protocol import Preset, Protocol
from localplast.task import Task
from localplast.task.datasets import mnist, pooled
from localplast.task.loss import mse
from localplast.task.streams import stream

__all__ = ["images_task", "network", "protocol", "separability", "told"]

#: Pixels are means over squares of so many, 7 x 7 of them.
WIDTH, SIZES = 4, (49, 40, 10, 40, 49)


#: Of :func:`~localplast.study.circuits.alignment_learning`.
RATES = dict(up=(5.0, 5.0, 3.0, 0.5), ip=8.0, pi=4.0, down=30.0, alpha=2e-4, tau=0.1 * ms)


def network(*, sigma=0.05, **options):
    """49 channels, 40, 10 and 40 pyramidal cells, 49 outputs; all cells tanh."""
    return aligning(
        SIZES,
        **{
            "activation": "tanh",
            "sigma": sigma,
            "weight": uniform(3.0),
            "down": uniform(1.0),
            "targets": (0.0, 1.0),
            **options,
        },
    )


def images_task(*, steps, patterns, images=5000):
    """Streams of so many images, each for so many ``steps``; wanted of the output is the image itself. Tests show one
    each.
    """
    (train, _), (test, _) = mnist()
    train, held, test = (pooled(part, WIDTH) for part in (train[:images], train[-5000:], test))

    def presented(chosen, steps):
        return stream(chosen, chosen, steps=steps)

    def training(update, batch, seed):
        chosen = np.random.default_rng([seed, 0, update]).integers(0, len(train), (batch, patterns))
        return presented(train[chosen], steps)

    def tested(shown, validation=None):
        return Task("pal-autoencoder", training, lambda n, seed: presented(shown[:n, None], 100), validation=validation)

    return tested(test, tested(held))


def separability(net, values, *, count=1000):
    """Share of digits that a linear classifier tells from mean rates of the bottleneck; ``count`` images to fit, as
    many to test.
    """
    _, (images, labels) = mnist()
    sense = pooled(images[: 2 * count], WIDTH)[:, None].repeat(60, axis=1)
    silent = stream(sense[:, :1], sense[:, :1], steps=60).without(net.teachers)
    rates = run(net, silent, values=values, backend="torch", record=["hidden2.rate"], every=5)["hidden2"]["rate"].values
    seen = np.column_stack([rates[:, 4:].mean(1), np.ones(2 * count)])  # the noise averaged away
    weights = np.linalg.lstsq(seen[:count], np.eye(10)[labels[:count]], rcond=None)[0]
    return float(np.mean((seen[count:] @ weights).argmax(1) == labels[count : 2 * count]))


def told(net, trials, after):
    """What :func:`separability` and :func:`angles` find after learning, in words."""
    found = angles({name: after.weights[name] for name in ("up2", "up3", "up4", "down1", "down2", "down3")})
    return f"digits told from the bottleneck: {separability(net, after):.1%}; angle of feedback: " + ", ".join(
        f"{name} {angle:.1f}°" for name, angle in found.items()
    )


def build(*, steps, patterns, batch, updates, test=200):
    net, backend = network(), "torch" if batch > 1 else "brian2"
    return Preset(
        network=net,
        task=images_task(steps=steps, patterns=patterns),
        loss=mse(),
        optimiser=alignment_learning(net, **RATES).halved(15000),
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden1",
        rules=aligning_contenders(network, backend=backend, offline=adam(0.003), strength=0.2),
    )


protocol = Protocol(
    name="pal-autoencoder",
    summary="MNIST through a bottleneck: an autoencoder in a microcircuit whose feedback weights align.",
    reference="Max et al. 2024, Nature Machine Intelligence, arXiv:2212.10249",
    build=build,
    presets={
        # Images of 7 x 7 pixels, 32 streams side by side, of 10 images for 0.2 ms each.
        "quick": dict(steps=20, patterns=10, batch=32, updates=150),
        # One stream of images of 1 ms.
        "paper": dict(steps=100, patterns=100, batch=1, updates=4000),
    },
    published={
        "separability": "of their bottleneck, at the end: backprop 0.35 to 0.40, PAL 0.31 to 0.35, feedback alignment "
        "0.14 to 0.21",
        "angle": "69, 22 and 31 degrees by layer",
    },
    rule="dendritic",
    told=told,
    drawn=pairs_of_weights,
    course=angles_along,
    recorded={f"{name}.weight": {"every": 5} for name in ("up2", "up3", "up4", "down1", "down2", "down3")},
)
