"""Convolutional weights: one small kernel, shared by all positions of an image.

An image ``(channel, row, column)`` is a flat population in this order: the neuron of channel c, row y and column x
has the number ``(c*rows + y)*columns + x``. Weights of such a projection have the shape of the kernel,
``(channel, image_channel, row, column)``, and so have its masks, bounds and gradients. Torch runs them; a synapse of
its own for every position is what Brian2 would need.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from localplast.errors import NetworkError, UnsupportedError
from localplast.files import Data
from localplast.network.weights import Random, SameAs, normal

__all__ = [
    "KERNEL",
    "Convolution",
    "check_convolution",
    "check_dense",
    "check_largest",
    "convolution",
    "form_of",
    "given_weight",
    "max_pooling",
    "pooling",
    "weight_dims",
    "weight_shape",
]

#: The axes of a kernel.
KERNEL = ("channel", "image_channel", "row", "column")


@dataclass(frozen=True, eq=False)
class Convolution(Data):
    """Weights that make an image of ``channels`` from an ``image``; see :func:`convolution`."""

    image: tuple
    channels: int
    size: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    weight: object = field(default_factory=normal)
    transposed: bool = False
    largest: bool = False

    def __hash__(self) -> int:  # type: ignore[override]
        return hash((self.image, self.channels, self.size))  # of what is equal these are

    @property
    def made(self) -> tuple[int, ...]:
        """``(channel, row, column)`` of what the kernel makes of the image."""
        return (self.channels, *((n + 2 * self.padding - self.size) // self.stride + 1 for n in self.image[1:]))

    @property
    def left_over(self) -> tuple[int, ...]:
        """Rows and columns at the end of the image that no position of the kernel reaches."""
        return tuple((n + 2 * self.padding - self.size) % self.stride for n in self.image[1:])

    @property
    def ends(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The presynaptic and the postsynaptic image."""
        return (self.made, self.image) if self.transposed else (self.image, self.made)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the kernel: :data:`KERNEL`."""
        return (self.channels, self.image[0] // self.groups, self.size, self.size)

    @property
    def fan_in(self) -> float:
        """Synapses onto a neuron away from the edges, on average."""
        channels = self.channels / self.stride**2 if self.transposed else self.image[0]
        return channels / self.groups * self.size**2

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """The kernel for one stream of random numbers, in SI units."""
        if not isinstance(self.weight, Random):
            return np.broadcast_to(np.asarray(self.weight, float), self.shape)
        narrow = np.sqrt(self.fan_in) if self.weight.fan_in else 1.0
        return replace(self.weight, spread=float(self.weight.spread) / narrow, fan_in=False).draw(rng, self.shape)


def convolution(
    image: Sequence[int],
    channels: int,
    size: int,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    weight: Random | np.ndarray | float | None = None,
    transposed: bool = False,
) -> Convolution:
    """A kernel of ``size`` x ``size``, moved over an ``image`` in steps of ``stride``: the ``weight`` of a projection.

    .. math::  post_{c, y, x} = \\sum_{k, i, j} w_{c, k, i, j}\\, pre_{k,\\, s y + i - p,\\, s x + j - p}

    Parameters
    ----------
    image : (int, int, int)
        Channels, rows and columns.
    channels : int
        Of the image that is made: ``convolution(...).made`` has its shape.
    size : int

    Other arguments
    ---------------
    stride, padding : int
        Zeros surround the image on all sides, as many rows and columns as ``padding`` says.
    groups : int
        Channels fall into so many groups, each made from its own part of the image's.
    weight : Random, array ``(channel, image_channel / groups, row, column)`` or number
        What is drawn knows its fan-in: the synapses that meet at one position.
    transposed : bool
        The way back, from the image that is made to that which it is made from, through a kernel of its own: feedback.
        For the kernel of another projection, write ``transposed("conv1")`` as weight.

    LeCun et al. 1998, Proc IEEE 86:2278.
    """
    image, weight = tuple(np.ravel(image).tolist()), normal() if weight is None else weight
    found = Convolution(image, channels, size, stride, padding, groups, weight, transposed)
    check_geometry(found)
    return found


def pooling(image: Sequence[int], size: int) -> Convolution:
    """Averages of ``size`` x ``size`` pixels, channel by channel: fixed weights
    (``Projection(..., plastic=False)``).
    """
    channels = int(np.ravel(image)[0])
    return convolution(image, channels, size, stride=size, groups=channels, weight=1 / size**2)


def max_pooling(image: Sequence[int], size: int) -> Convolution:
    """The largest of ``size`` x ``size`` pixels, channel by channel (``Projection(..., plastic=False)``).

    The first of them, row by row, where several are as large. What comes back, by ``transposed("pool1")`` or as a
    gradient, goes to the pixel that was taken, and to no other.
    """
    channels = int(np.ravel(image)[0])
    averages = convolution(image, channels, size, stride=size, groups=channels, weight=1.0)
    return replace(averages, largest=True)


def check_geometry(found):
    """Raise where there is no such kernel, or no position for it."""
    if len(found.image) != 3 or not all(whole(n, 1) for n in found.image):
        raise NetworkError(
            f"convolution: an image is (channels, rows, columns), three whole numbers from 1, not {found.image!r}"
        )
    numbers = {"channels": found.channels, "size": found.size, "stride": found.stride, "groups": found.groups}
    for what, n, least in (*((what, n, 1) for what, n in numbers.items()), ("padding", found.padding, 0)):
        if not whole(n, least):
            raise NetworkError(f"convolution: {what} is a whole number from {least}, not {n!r}")
    if found.image[0] % found.groups or found.channels % found.groups:
        raise NetworkError(
            f"convolution: {found.groups} groups must divide the channels of the image ({found.image[0]}) and of what "
            f"is made ({found.channels})"
        )
    if isinstance(found.weight, (SameAs, Convolution)):
        raise NetworkError(
            f"convolution: the numbers of a kernel are drawn (normal(), uniform()) or given, not {found.weight!r}; to "
            "take those of another projection, make that the weight itself"
        )
    if found.largest and (found.padding, found.stride, found.groups, found.channels) != (
        *(0, found.size),
        *[found.image[0]] * 2,
    ):
        raise NetworkError(
            "convolution: the largest is that of squares which do not overlap, channel by channel; use max_pooling()"
        )
    if min(found.made[1:]) < 1:
        raise NetworkError(
            f"convolution: a kernel of {found.size} x {found.size} does not fit in an image of {found.image[1]} x "
            f"{found.image[2]} with padding {found.padding}; take a smaller one, or more padding"
        )


def whole(n, least):
    return isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n >= least


def given_weight(p):
    """What the numbers of a projection are, or are drawn from: its weight, or that of its kernel."""
    return p.weight.weight if isinstance(p.weight, Convolution) else p.weight


def form_of(projections, p):
    """The :class:`Convolution` of a projection, or of the one whose weights it has or begins with; None where weights
    are dense.
    """
    if not isinstance(p.weight, SameAs):
        return p.weight if isinstance(p.weight, Convolution) else None
    found = form_of(projections, projections[p.weight.projection])
    return found and replace(found, transposed=found.transposed != p.weight.transposed)


def weight_shape(net, p):
    """The shape of the weights of a projection: ``(pre, post)``, or that of its kernel."""
    form = form_of(net.projections, p)
    return form.shape if form else (net.size(p.pre), net.size(p.post))


def weight_dims(net, p):
    """The names of their axes."""
    return KERNEL if form_of(net.projections, p) else ("pre", "post")


def check_convolution(net, label, p, form):
    """Raise unless the two ends of a convolutional projection are images of its ``form``, and it is all that such a
    one can be.
    """
    check_geometry(form)
    for end, image, which in zip((p.pre, p.post), form.ends, ("reads", "makes"), strict=True):
        if net.size(end) != np.prod(image):
            channels, rows, columns = image
            raise NetworkError(
                f"{label}: its convolution {which} an image of {channels} x {rows} x {columns} = {np.prod(image)} "
                f"numbers, but {end!r} has {net.size(end)}; give {end!r} {np.prod(image)}, or choose another kernel"
            )
    for what, found in (("a delay", p.delay), ("short-term plasticity", p.short_term)):
        if found is not None:
            raise UnsupportedError(
                f"{label}: convolutional weights with {what} are not supported; leave it out, or go dense"
            )
    if p.pre == p.post and not p.autapses:
        raise UnsupportedError(
            f"{label}: a kernel that all neurons share cannot leave out autapses; write autapses=True"
        )


def check_largest(label, p, form, projections):
    """Raise unless a projection carries the largest of each square as it is, or back to where that was taken."""
    own = {"plastic=True": p.plastic, "a mask": p.mask is not None, "bounds": p.bounds is not None}
    if found := [what for what, given in own.items() if given]:
        raise UnsupportedError(
            f"{label}: the largest of a square is carried as it is, and {found[0]} would be of no use; give "
            "plastic=False and no mask or bounds"
        )
    if not form.transposed:
        return
    other = projections.get(getattr(p.weight, "projection", None)) if getattr(p.weight, "always", False) else None
    if other is None or not isinstance(other.weight, Convolution) or other.pre != p.post:
        raise UnsupportedError(
            f"{label}: what comes back goes to the pixels that were taken, and which these were knows the projection "
            f'that took them from {p.post!r} alone; give weight=transposed("its name")'
        )


def check_dense(net, what, instead):
    """Raise where ``what`` meets convolutional weights."""
    found = [p.name for p in net.projections.values() if isinstance(p.weight, Convolution)]
    if found:
        raise UnsupportedError(
            f"projection {found[0]!r} is a convolution, which {what} does not know; {instead}, or give dense weights"
        )
