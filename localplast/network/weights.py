"""Weights that are drawn when a network is given numbers, or taken from another projection."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
from brian2.units.fundamentalunits import Quantity

from localplast.arguments import as_number, check_choice, is_real
from localplast.errors import NetworkError

if TYPE_CHECKING:
    import torch

__all__ = ["Random", "SameAs", "normal", "same_as", "transposed", "uniform"]

#: Weights of numpy, or of Torch.
Array = TypeVar("Array", np.ndarray, "torch.Tensor")


@dataclass(frozen=True)
class Random:
    """Weights or delays to be drawn, from ``kind`` ``'normal'`` or ``'uniform'``; see :func:`normal`,
    :func:`uniform`.
    """

    kind: str
    mean: float | Quantity
    spread: float | Quantity
    fan_in: bool
    radius: float | None = None

    def __post_init__(self):
        check_choice("kind of Random", self.kind, ("normal", "uniform"))
        if is_real(self.spread) and np.any(np.asarray(self.spread) < 0):
            raise NetworkError(f"weights cannot be spread by {self.spread!r} around their mean: give 0 or more")

    def draw(self, rng: np.random.Generator, shape: Sequence[int], mask: np.ndarray | bool = True) -> np.ndarray:
        """An array of ``shape`` ``(pre, post)`` in SI units, zero where ``mask`` says that there is no synapse."""
        spread = float(self.spread) / (np.sqrt(shape[0]) if self.fan_in else 1.0)
        standard = rng.standard_normal(shape) if self.kind == "normal" else rng.uniform(-1.0, 1.0, shape)
        weight = np.where(mask, float(self.mean) + spread * standard, 0.0)
        if self.radius is None:
            return weight
        present = largest_eigenvalue(np.abs(weight))
        if not present > 0:
            raise NetworkError(
                f"weights {shape} that form no loop cannot be scaled to radius {self.radius}; drop .scaled()"
            )
        return weight * (self.radius / present)

    def scaled(self, radius: float) -> "Random":
        """The same, multiplied by what makes ``radius`` the spectral radius of the absolute weights of one population.

        What activity comes to does then not hang on the size of the population (Balafrej et al. 2023,
        arXiv:2310.19067).
        """
        return replace(self, radius=radius)


def largest_eigenvalue(matrix: np.ndarray) -> float:
    """The spectral radius of a square matrix: the magnitude of its largest eigenvalue."""
    return np.abs(np.linalg.eigvals(matrix)).max()


def normal(std: float | Quantity = 1.0, *, mean: float | Quantity = 0.0, fan_in: bool = True) -> Random:
    """Gaussian weights; with ``fan_in`` the standard deviation is ``std / sqrt(pre)``."""
    return Random("normal", mean, std, fan_in)


def uniform(limit: float | Quantity = 1.0, *, mean: float | Quantity = 0.0, fan_in: bool = True) -> Random:
    """Uniform weights in ``mean ± limit``; with ``fan_in`` the limit is divided by ``sqrt(pre)``."""
    return Random("uniform", mean, limit, fan_in)


@dataclass(frozen=True)
class SameAs:
    """Weights that begin as those of another projection do, or are theirs ``always``; see :func:`same_as`,
    :func:`transposed`.
    """

    projection: str
    times: float = 1.0
    transposed: bool = False
    always: bool = False
    when: str = "arriving"

    def __post_init__(self):
        check_choice("when= of transposed()", self.when, ("arriving", "sent"))

    def of(self, weights: Array) -> Array:
        """The weights, from those of the other projection."""
        return self.times * self.turned(weights)

    def turned(self, array: Array) -> Array:
        """An array of the other projection as one of this: a kernel is itself, for its projection is what runs
        backwards.
        """
        return array.T if self.transposed and array.ndim == 2 else array


def same_as(projection: str, *, times: float = 1.0, transposed: bool = False) -> SameAs:
    """Weights that begin as those of another projection, ``times`` a number (in SI units), or as their transpose.

    Only the beginning: while the network learns each projection has weights of its own.
    """
    return SameAs(projection, as_number("times", times), transposed)


def transposed(projection: str, *, times: float = 1.0, when: Literal["arriving", "sent"] = "arriving") -> SameAs:
    """The weights of another projection, backwards and at every moment: what goes forward through them comes back.

    Symmetric feedback: ``Projection("out", "hidden", weight=transposed("hidden_out"), plastic=False, ...)``. No
    synapse knows the weight of another one (weight transport), so that this is a reference for feedback that is
    random or learns by itself.

    Other arguments
    ---------------
    times : float
    when : str
        What depends on graded inputs arrives a step after it was sent (docs/step.md). Of weights that learn in every
        step those act that there are ``'arriving'``, which its own error has just changed; or those from which it was
        ``'sent'``, before they learned.
    """
    return SameAs(projection, as_number("times", times), transposed=True, always=True, when=when)
