"""A convolutional network in latent equilibrium: kernels learn from a stream of images that follow each other without
warning.

Haider et al. 2021, NeurIPS, arXiv:2110.14549 (their convolutional networks are LeNet5, LeCun et al. 1998, Proc IEEE
86:2278). Every layer is a population of prospective neurons, and so is pooling: linear neurons, each of which hears
the largest rate of a square, to which its error goes back. Errors come back through the kernels that rates go up by,
or, as the control, through random kernels that never learn.
"""

from dataclasses import replace
from functools import partial
from math import prod, sqrt

from brian2 import ms

from localplast.learning.optimise import adam, sgd
from localplast.models import latent_equilibrium, latent_equilibrium_output
from localplast.models.layers import layered
from localplast.network import convolution, max_pooling, normal, pooling, transposed
from localplast.rules import bptt, dendritic
from localplast.study.contenders import Contender
from localplast.study.protocol import Preset, Protocol
from localplast.task.datasets import mnist
from localplast.task.loss import mse
from localplast.task.streams import digit_streams

__all__ = ["network", "protocol"]

#: How strongly the published teacher nudges.
BETA = 0.1


def network(
    image,
    channels,
    dense=(),
    outputs=10,
    *,
    size=5,
    kernel=normal(),
    weight=normal(),
    activation="hard_sigmoid",
    pooled=max_pooling,
    bias=None,
    feedback="symmetric",
    beta=BETA,
    tau=10 * ms,
    dt=0.1 * ms,
):
    """Convolution and pooling of 2 x 2 by turns, then dense layers: a :func:`~localplast.models.layers.layered`
    network.

    Parameters
    ----------
    image : (int, int, int)
        Channels, rows and columns of what is shown.
    channels, dense : sequence of int
        Channels of the convolutions, neurons of the dense hidden layers.

    Other arguments
    ---------------
    size : int
        Rows and columns of the kernels.
    kernel, weight : Random
        Numbers of the kernels and dense weights at first.
    pooled : callable
        :func:`~localplast.network.convolution.max_pooling` or :func:`~localplast.network.convolution.pooling`.
    bias : float, optional
        Standard deviation of biases at first; every neuron but those that pool has one, which learns. Default: none.
    feedback : str
        ``'symmetric'`` or ``'random'``: fixed kernels and weights, drawn as those on the way up are. What pooling
        sends back is symmetric in both.

    The other arguments are those of :func:`~localplast.models.latent_equilibrium.latent_equilibrium` and its output.
    """
    stages = kernels(image, channels, size, kernel, pooled)
    sizes = [prod(image), *(prod(form.made) for form in stages), *dense, outputs]
    cells = {name: latent_equilibrium(activation=name, tau=tau) for name in (activation, "linear")}
    dense_layers = len(dense) + 1
    biased = () if bias is None else weighted(len(channels), dense_layers)
    return layered(
        sizes,
        [cells[name] for name in [activation, "linear"] * len(channels) + [activation] * len(dense)],
        latent_equilibrium_output(beta=beta, tau=tau),
        dt=dt,
        weight=[*stages, *[weight] * dense_layers],
        plastic=[True, False] * len(channels) + [True] * dense_layers,
        feedback=feedback,
        down=ways_back(stages, sizes, weight),
        parameters=dict.fromkeys(biased, {"b": normal(bias, fan_in=False)}),
        trainable=dict.fromkeys(biased, {"b": (None, None)}),
    )


def weighted(convolutions, dense):
    """The layers whose weights learn, by name: those that convolve, every second one of the first, and dense ones."""
    names = [f"hidden{k}" for k in range(1, 2 * convolutions + dense)] + ["out"]
    return [*names[: 2 * convolutions : 2], *names[2 * convolutions :]]


def kernels(image, channels, size, weight, pooled):
    """The convolutions, each followed by its pooling."""
    found = []
    for n in channels:
        found.append(convolution(image, n, size, weight=weight))
        found.append(pooled(found[-1].made, 2))
        image = found[-1].made
    return found


def ways_back(stages, sizes, weight):
    """Random feedback to every hidden layer: through kernels and dense weights; what pooling takes it sends back."""
    found = [transposed(f"up{k}") if k % 2 == 0 else of_its_own(form) for k, form in enumerate(stages[1:], 2)]
    return found + [as_large(weight, size) for size in sizes[len(stages) : -1]]


def of_its_own(form):
    """A kernel for the way back."""
    return replace(form, weight=as_large(form.weight, form.fan_in), transposed=True)


def as_large(weight, fan_in):
    """What is drawn as ``weight`` is on the way up, where so many synapses meet."""
    return replace(weight, spread=weight.spread / sqrt(fan_in), fan_in=False) if weight.fan_in else weight


def figure(net, trials, before, after):
    """The kernels that look at the image, before and after learning; two
    :class:`~localplast.network.network.Values`.
    """
    import matplotlib.pyplot as plt

    drawn, axes = plt.subplots(2, len(before.weights["up1"]), figsize=(9, 2.6), constrained_layout=True)
    for title, values, row in zip(("before learning", "after learning"), (before, after), axes, strict=True):
        kernels = values.weights["up1"][:, 0]
        for kernel, ax in zip(kernels, row, strict=True):
            ax.imshow(kernel, cmap="RdBu_r", vmin=-abs(kernels).max(), vmax=abs(kernels).max())
            ax.set(xticks=(), yticks=())
        row[0].set_title(title, loc="left", fontsize=9)
    return drawn


def contenders(made, offline):
    """Both kinds of feedback, kernels that stay as they are drawn, and BPTT with ``offline``."""
    kernels = tuple(p.name for p in made().plastic if p.post != "out")
    return {
        "BPTT": Contender(bptt(), "torch", optimiser=offline),
        "LE, symmetric": Contender(dendritic(), "torch"),
        "LE, random": Contender(dendritic(), "torch", network=made(feedback="random")),
        "LE, hidden frozen": Contender(dendritic(), "torch", kernels),
    }


def build(
    *,
    channels,
    dense,
    size,
    kernel,
    weight,
    fan_in,
    beta,
    averaged,
    grey,
    steps,
    images,
    train,
    rate,
    adaptive,
    offline,
    batch,
    updates,
    test,
):
    """``rate`` is per step; BPTT makes one step per stream of images, of Adam where ``adaptive``, at the rate
    ``offline``.
    """
    side, drawn = 28 // averaged, {"kernel": normal(kernel, fan_in=fan_in), "weight": normal(weight, fan_in=fan_in)}
    kind = {"size": size, "activation": "tanh", "pooled": pooling}
    made = partial(network, (1, side, side), channels, dense, beta=beta, **kind, **drawn)
    pixels = dict(train=train, averaged=averaged, grey=grey)
    return Preset(
        network=made(),
        task=digit_streams("latent-equilibrium", mnist(), steps=steps, images=images, shown=24, **pixels),
        loss=mse(),
        optimiser=sgd(rate),
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden3",
        rules=contenders(made, (adam if adaptive else sgd)(offline)),
    )


protocol = Protocol(
    name="latent-equilibrium-cnn",
    summary="MNIST in a convolutional latent equilibrium: kernels learn online, errors come back through them.",
    reference="Haider et al. 2021, NeurIPS, arXiv:2110.14549; LeCun et al. 1998, Proc IEEE 86:2278",
    build=build,
    presets={
        # Images of 14 x 14 pixels, the first 10000, each for 1.6 ms; 8 and 16 kernels of 3 x 3.
        "quick": dict(
            channels=(8, 16),
            dense=(),
            size=3,
            kernel=2.0,
            weight=1.0,
            fan_in=True,
            beta=0.05,
            averaged=2,
            grey=(0.13, 0.3),
            steps=16,
            images=4,
            train=10_000,
            rate=0.6,
            adaptive=True,
            offline=0.01,
            batch=32,
            updates=60,
            test=500,
        ),
        # LeNet5 (20 and 50 kernels of 5 x 5, 500 dense neurons), all images for 100 epochs, each for 10 ms.
        "paper": dict(
            channels=(20, 50),
            dense=(500,),
            size=5,
            kernel=0.05,
            weight=0.05,
            fan_in=False,
            beta=BETA,
            averaged=1,
            grey=(0.0, 1.0),
            steps=100,
            images=1,
            train=None,
            rate=0.08,
            adaptive=False,
            offline=0.08 * BETA * 100,
            batch=128,
            updates=46_900,
            test=10_000,
        ),
    },
    published={
        "LE on MNIST (from memory, "
        "unchecked)": "98.90 ± 0.07 %, backpropagation 98.92 ± 0.07 %, both LeNet5 after 100 epochs"
    },
    rule="dendritic",
    drawn=figure,
)
