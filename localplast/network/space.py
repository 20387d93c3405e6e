"""Neurons in space, and delays from how far apart they are.

A delay that follows from distance is an array like any other::

    places = lattice(5, seed=27)                                    # 125 neurons in a cube
    far = from_centre(places) / (5 * np.sqrt(3))                    # in units of the cube's diagonal
    axonal(shells(far, (0.2, 0.3), [1, 80, 100] * ms))              # a few groups of neurons
    synaptic(pairwise(places) * mm / (0.3 * meter / second))        # the time that a spike travels
    axonal(2 * ms + 10 * ms * far**2)                               # any function of distance
"""

import numpy as np
from brian2.units.allunits import second
from brian2.units.fundamentalunits import Quantity, get_dimensions
from numpy.typing import ArrayLike

from localplast.errors import NetworkError

__all__ = ["from_centre", "lattice", "pairwise", "shells"]


def lattice(side: int, *, dimensions: int = 3, jitter: float = 0.5, seed: int = 0) -> np.ndarray:
    """Places of ``side**dimensions`` neurons ``(neuron, dimension)``: whole numbers, each moved by up to ``jitter``.

    Other arguments
    ---------------
    dimensions : int
        2 for a sheet, 3 for a cube.
    jitter : float
        Every coordinate is moved up by a number drawn uniformly between 0 and ``jitter``.
    seed : int
        Drawn by NumPy's legacy generator, whose stream is frozen: the authors of DelayNet (Balafrej et al. 2023,
        arXiv:2310.19067) draw the places of their neurons so, from seed 27.
    """
    shape = (side,) * dimensions
    moved = np.random.RandomState(seed).uniform(0.0, jitter, (dimensions, *shape))
    return (np.indices(shape) + moved).reshape(dimensions, -1).T


def from_centre(places: ArrayLike, centre: ArrayLike | None = None) -> np.ndarray:
    """Distance of every neuron from ``centre`` ``(dimension,)``, an array ``(neuron,)``.

    The default is the centre of the lattice: half its side in every direction.
    """
    places = np.asarray(places)
    if centre is None:
        centre = np.full(places.shape[1], 0.5 * np.round(len(places) ** (1 / places.shape[1])))
    return np.linalg.norm(places - np.asarray(centre), axis=1)


def pairwise(pre: ArrayLike, post: ArrayLike | None = None) -> np.ndarray:
    """Distance of every pair ``(pre, post)`` from places ``(neuron, dimension)``; among one population without
    ``post``.
    """
    pre = np.asarray(pre)
    return np.linalg.norm(pre[:, None] - np.asarray(pre if post is None else post)[None], axis=2)


def shells(distance: ArrayLike, edges: ArrayLike, delays: Quantity) -> Quantity:
    """One delay per shell: that of index k from ``edges[k - 1]`` on, below ``edges[k]``.

    Parameters
    ----------
    distance : array
        ``(neuron,)`` or ``(pre, post)``, in the unit of the edges.
    edges : sequence
        Rising; one less than delays.
    delays : Quantity
        Times, one per shell from the innermost.

    Returns
    -------
    Quantity
        Shape of ``distance``; for :func:`~localplast.network.network.axonal` and its kin.

    Raises
    ------
    NetworkError
        Edges that do not rise or do not fit the delays, delays that are not times, a shell without a neuron.
    """
    edges = np.asarray(edges)
    if get_dimensions(delays) != second.dim or np.shape(delays) != (len(edges) + 1,):
        raise NetworkError(f"{len(edges)} edges make {len(edges) + 1} shells: give as many times, not {delays!r}")
    if np.any(np.diff(edges) <= 0):
        raise NetworkError(f"the edges of shells must rise, not {edges.tolist()}")
    shell = np.searchsorted(edges, np.asarray(distance), side="right")
    for empty in set(range(len(delays))) - set(shell.ravel()):
        low, high = np.r_[0.0, edges, np.inf][empty : empty + 2]
        raise NetworkError(
            f"no distance lies in shell {empty}, from {low:g} to {high:g}, whose delay is {delays[empty]}; distances "
            f"range from {np.min(distance):g} to {np.max(distance):g}: move the edges, or leave this shell out"
        )
    return Quantity(np.asarray(delays)[shell], dim=second.dim)
