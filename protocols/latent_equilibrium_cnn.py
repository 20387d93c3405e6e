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

from localplast.arguments import check_choice
from localplast.learning.optimise import sgd
from localplast.models import latent_equilibrium, latent_equilibrium_output
from localplast.models.layers import layered
from localplast.network import convolution, max_pooling, normal, transposed
from localplast.rules import bptt, dendritic
from localplast.study.contenders import Contender
from localplast.study.protocol import Preset, Protocol, Published
from localplast.task.datasets import cifar10, mnist
from localplast.task.loss import mse
from localplast.task.streams import digit_streams

__all__ = ["network", "protocol"]

#: How strongly the published teacher nudges.
BETA = 0.1
#: Channels, rows and columns of what is shown.
SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}


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
    biased = [] if bias is None else [name for _, name in learning_layers(len(channels), dense_layers)]
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


def learning_layers(convolutions, dense):
    """What learns: those that convolve, every second one of the first, and dense ones, as pairs of the projection and
    the layer that it leads to.
    """
    names = [f"hidden{k}" for k in range(1, 2 * convolutions + dense)] + ["out"]
    pairs = [(f"up{k}", name) for k, name in enumerate(names, 1)]
    return [*pairs[: 2 * convolutions : 2], *pairs[2 * convolutions :]]


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


def contenders(made, online, offline, *, images, batch, updates, longer):
    """Latent equilibrium with both kinds of feedback and with kernels that stay as they are drawn, and BPTT with
    ``offline``.

    BPTT updates once where others go from one image to the next: from as many images, as often.
    """
    output = {p.name for p in made().plastic if p.post == "out"} | {"out.b"}
    frozen = tuple(name for name in online.rates if name not in output)
    often = Contender(bptt(), "torch", optimiser=offline, batch=max(batch // images, 1), updates=updates * images)
    return {
        "BPTT": often,
        "BPTT, converged": replace(often, updates=updates * images * longer),
        "LE, symmetric": Contender(dendritic(), "torch"),
        "LE, random": Contender(dendritic(), "torch", network=made(feedback="random")),
        "LE, hidden frozen": Contender(dendritic(), "torch", frozen),
    }


def build(
    *,
    images_of,
    channels,
    dense,
    size,
    kernel,
    weight,
    bias,
    averaged,
    steps,
    images,
    train,
    held,
    beta,
    rate,
    factors,
    longer,
    batch,
    updates,
    test,
):
    """``rate`` is per step, ``factors`` on it are those of the layers that learn; BPTT makes one step, as long as those
    of an image together.

    ``kernel``, ``weight`` and ``bias`` are standard deviations at first. Streams of so many ``images`` are learned side
    by side, one ``batch`` of them at a time; ``longer``: how many times as many updates BPTT needs to converge.
    """
    check_choice("images_of", images_of, SHAPES)
    samples, (depth, side, _) = {"mnist": mnist, "cifar10": cifar10}[images_of](), SHAPES[images_of]
    drawn = {"kernel": normal(kernel, fan_in=False), "weight": normal(weight, fan_in=False), "bias": bias}
    made = partial(network, (depth, side // averaged, side // averaged), channels, dense, size=size, beta=beta, **drawn)
    learning = zip(learning_layers(len(channels), len(dense) + 1), factors, strict=True)
    scales = {name: factor for (up, layer), factor in learning for name in (up, f"{layer}.b")}
    online, offline = (sgd(each).with_rates(**scales) for each in (rate, rate * beta * steps))
    course = {"images": images, "batch": batch, "updates": updates, "longer": longer}
    streams = {"images": images, "shown": 24, "train": train, "held": held, "averaged": averaged}
    return Preset(
        network=made(),
        task=digit_streams("latent-equilibrium-cnn", samples, steps=steps, **streams),
        loss=mse(),
        optimiser=online,
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden3",
        rules=contenders(made, online, offline, **course),
    )


#: LeNet5, as the authors draw it: 20 and 50 kernels of 5 x 5, 500 dense neurons.
LENET = dict(channels=(20, 50), dense=(500,), size=5, kernel=0.05, weight=0.05, bias=0.05, averaged=1)

protocol = Protocol(
    name="latent-equilibrium-cnn",
    summary="Images as a stream, through convolutions: kernels learn online, errors come back through them.",
    reference="Haider et al. 2021, NeurIPS, arXiv:2110.14549; LeCun et al. 1998, Proc IEEE 86:2278",
    build=build,
    presets={
        # MNIST of 14 x 14 pixels, the first 10000, each for 3.2 ms; 8 and 16 kernels of 3 x 3.
        "quick": dict(
            images_of="mnist",
            channels=(8, 16),
            dense=(),
            size=3,
            kernel=0.1,
            weight=0.1,
            bias=0.05,
            averaged=2,
            steps=32,
            images=8,
            train=10_000,
            held=5000,
            beta=0.02,
            rate=1.0,
            factors=(1.0, 0.5, 0.5),
            longer=2,
            batch=32,
            updates=100,
            test=1000,
        ),
        # As published: 100 epochs of 50,000 digits, each for 10 ms.
        "paper": dict(
            **LENET,
            images_of="mnist",
            steps=100,
            images=8,
            train=50_000,
            held=10_000,
            beta=BETA,
            rate=0.16,
            factors=(1.0, 0.1, 0.1, 0.1),
            longer=2,
            batch=512,
            updates=1220,
            test=10_000,
        ),
        # As published: 100 epochs of 40,000 pictures, each for 5 ms.
        "cifar10": dict(
            **LENET,
            images_of="cifar10",
            steps=50,
            images=8,
            train=40_000,
            held=10_000,
            beta=BETA,
            rate=0.16,
            factors=(1.0, 0.2, 0.2, 0.1),
            longer=2,
            batch=128,
            updates=3906,
            test=10_000,
        ),
    },
    published={
        "LE on MNIST": Published(
            "98.90 ± 0.07 %, backpropagation 98.92 ± 0.07 %, both LeNet5 after 100 epochs", 98.9, 0.07, "%", "memory"
        ),
        "LE on CIFAR-10": Published(
            "error of 38.0 ± 1.3 %, backpropagation 39.4 ± 5.6 %, LeNet5", 62.0, 1.3, "%", "memory"
        ),
    },
    rule="dendritic",
    drawn=figure,
)
