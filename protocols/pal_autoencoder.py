"""An autoencoder of MNIST whose feedback weights align: images are squeezed through two linear neurons.

Max et al. 2024, Nature Machine Intelligence, arXiv:2212.10249: a network of prospective neurons in layers (latent
equilibrium), not a microcircuit. Errors do not move the neurons. How much of the digits is left in the bottleneck says
a linear classifier, which the network does not know of.
"""

from functools import partial

import numpy as np
from brian2 import ms

from localplast.analysis.feedback import angles_along, angles_said, pairs_of_weights
from localplast.analysis.separability import separability
from localplast.learning.optimise import sgd
from localplast.models import gle, gle_output, pal_gle, pal_gle_output
from localplast.models.layers import layered
from localplast.models.prospective import Activation
from localplast.network import normal
from localplast.rules import dendritic
from localplast.study.contenders import Contender
from localplast.study.protocol import Preset, Protocol
from localplast.task import Task
from localplast.task.datasets import mnist, pooled
from localplast.task.loss import mse
from localplast.task.streams import in_streams, stream

__all__ = ["bottleneck", "images_task", "network", "protocol", "told"]

#: Hidden layers.
LAYERS: dict[str, Activation] = {"hidden1": "tanh", "hidden2": "linear", "hidden3": "tanh"}
#: How strongly the teacher pulls, and what images are learned from; the last ones of the file are for validation.
BETA, LEARNED = 0.1, 50_000


def network(sizes, *, feedback="learned", sigma=0.01, tau=10 * ms):
    """Five layers of ``sizes``; weights in both directions and biases are normal with standard deviation 0.05 at first.

    Other arguments
    ---------------
    feedback : str
        Of :func:`~localplast.models.layers.layered`; learned feedback does so from noise.
    sigma : float
        How strong the noise is.
    tau : Quantity
        Of noise, high-pass filter and membranes, which make no difference.
    """
    cell, output, noise = gle, gle_output, {}
    if feedback == "learned":
        cell, output, noise = partial(pal_gle, sigma=sigma, tau_noise=tau), pal_gle_output, {"tau_hp": tau}
    form, drawn = {"tau_m": tau, "tau_r": tau, "gamma": 0.0, **noise}, normal(0.05, fan_in=False)
    biases = [*LAYERS, "out"]
    return layered(
        sizes,
        [cell(activation=activation, **form) for activation in LAYERS.values()],
        output(beta=BETA, **form),
        feedback=feedback,
        weight=drawn,
        down=drawn,
        parameters={name: {"b": drawn} for name in biases},
        trainable={name: {"b": (None, None)} for name in biases},
    )


def images_task(*, width, steps, patterns, shown=40):
    """Streams of so many images, each for so many ``steps``; wanted of the output is the image itself. Tests show one
    each. Pixels are means over squares of ``width``.
    """

    def flat(pixels, labels, rng=None):
        return pooled(pixels, width), labels

    def present(samples, labels, steps):
        return stream(samples, samples, steps=steps)

    (images, labels), test = mnist()
    learned, held = (images[:LEARNED], labels[:LEARNED]), (images[LEARNED:], labels[LEARNED:])
    single = Task.dataset("pal-autoencoder", learned, test, flat, held=held)
    return in_streams(single, present, steps=steps, patterns=patterns, shown=shown)


def bottleneck(values, pixels):
    """Potentials of the two linear neurons at rest, without noise, ``(image, 2)``; ``pixels`` is ``(image, pixel)``."""
    b = {name: values.parameters[name]["b"] for name in ("hidden1", "hidden2")}
    return np.tanh(pixels @ values.weights["up1"] + b["hidden1"]) @ values.weights["up2"] + b["hidden2"]


def told(net, trials, after):
    """How separable digits are in the bottleneck after learning, and how feedback lies to forward weights, in words."""
    width, (train, test) = round(28 / np.sqrt(net.size("sense"))), mnist()
    parts = [(images[:LEARNED], labels[:LEARNED]) for images, labels in (train, test)]
    learned, tested = ((bottleneck(after, pooled(images, width)), labels) for images, labels in parts)
    return f"digits told from the bottleneck: {separability(learned, tested):.1%}; {angles_said(net, trials, after)}"


def contenders(made):
    """The network ``made(**options)`` with feedback that aligns, stays random, or is the transpose: backpropagation."""
    return {
        "PAL": Contender(dendritic(), "torch"),
        "feedback alignment": Contender(dendritic(), "torch", network=made(feedback="random")),
        "symmetric": Contender(dendritic(), "torch", network=made(feedback="symmetric")),
    }


def build(*, width, sizes, sigma, tau, rate, down, alpha, steps, patterns, batch, updates, test=200):
    """``rate`` per image, onto all layers; ``down`` and ``alpha`` are the rate of feedback, per step, and what it loses
    of itself, over its rate.
    """
    made = partial(network, sizes, sigma=sigma, tau=tau)
    net, each = made(), rate / BETA / steps
    rates = dict.fromkeys(net.trainable, 1.0) | {f"down{k}": down / each for k in (1, 2, 3)}
    return Preset(
        network=net,
        task=images_task(width=width, steps=steps, patterns=patterns),
        loss=mse(),
        optimiser=sgd(each).with_rates(**rates).decayed(alpha * each, only=[f"down{k}" for k in (1, 2, 3)]),
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden1",
        rules=contenders(made),
    )


protocol = Protocol(
    name="pal-autoencoder",
    summary="MNIST through two linear neurons: an autoencoder of prospective neurons whose feedback weights align.",
    reference="Max et al. 2024, Nature Machine Intelligence, arXiv:2212.10249",
    build=build,
    presets={
        # Images of 14 x 14 pixels, each for 3.2 ms, two times all of them; stronger noise.
        "quick": dict(
            width=2,
            sizes=(196, 100, 2, 100, 196),
            sigma=0.1,
            tau=1 * ms,
            rate=0.03,
            down=0.08,
            alpha=2.5e-3,
            steps=32,
            patterns=20,
            batch=32,
            updates=156,
        ),
        # Whole images for 10 ms, ten times all of them.
        "paper": dict(
            width=1,
            sizes=(784, 200, 2, 200, 784),
            sigma=0.01,
            tau=10 * ms,
            rate=0.008,
            down=0.8,
            alpha=1e-4,
            steps=100,
            patterns=10,
            batch=32,
            updates=1562,
        ),
    },
    published={
        "separability": "of the bottleneck after ten epochs, 10 seeds: backpropagation 0.397 ± 0.016 (sem), PAL 0.353 "
        "± 0.012, feedback alignment 0.212 ± 0.011 (authors' files)",
        "angle": "69, 22 and 31 degrees by layer",
    },
    rule="dendritic",
    told=told,
    drawn=pairs_of_weights,
    course=angles_along,
    recorded={f"{name}.weight": {"every": 10} for name in ("up2", "up3", "up4", "down1", "down2", "down3")},
)
