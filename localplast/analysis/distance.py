"""How far one gradient is from another: five measures per projection, delay and parameter, on labelled arrays.

Relative error is the one that proves something; cosine and angle are shown to people, and hide a wrong length.
"""

from collections.abc import Iterable

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from localplast.errors import LocalplastError

__all__ = ["MEASURES", "UNITS", "angle", "cosine_of", "distance", "joined", "measures", "with_angle"]

#: The measures that are computed from two gradients; the angle follows from the cosine.
MEASURES = ("relative_error", "cosine", "norm_ratio", "sign_agreement")
UNITS = {**dict.fromkeys(MEASURES, "1"), "angle": "degree"}
LONG_NAMES = {
    "relative_error": "|estimate - exact| / |exact|",
    "cosine": "cosine of the angle between the two",
    "angle": "angle between the two",
    "norm_ratio": "|estimate| / |exact|",
    "sign_agreement": "share of equal signs, where either is not zero",
}


def distance(estimate: xr.DataTree, exact: xr.DataTree, *, variable: str | None = None) -> xr.Dataset:
    """How far the gradient ``estimate`` is from ``exact``, one thing that learns after the other.

    Parameters
    ----------
    estimate, exact : xarray.DataTree
        What :func:`localplast.gradient` returned, for the same network, weights and trials.

    Other arguments
    ---------------
    variable : str, optional
        Only this one of the trees: ``'gradient'`` of weights ``(pre, post)``, or ``'gradient_delay'``. Default: all
        gradients.

    Returns
    -------
    xarray.Dataset
        Dim ``projection``: all that either tree has, weights by the name of their projection, delays and parameters as
        ``'cues_rec.delay'`` and ``'rec.tau_mem'``. ``relative_error``, ``cosine``, ``norm_ratio`` and
        ``sign_agreement`` (no unit), ``angle`` (degrees). All are NaN where ``exact`` is zero or missing; cosine and
        angle also where ``estimate`` is zero.

    Raises
    ------
    LocalplastError
        Neither tree has ``variable``, or the shapes differ.
    """
    parts = {
        label(name, key): (found(estimate, name, key), found(exact, name, key))
        for name, key in gradients(estimate, exact)
        if variable in (None, key)
    }
    if not parts:
        raise LocalplastError(f"neither tree holds {variable or 'gradient'!r}; give two results of localplast.gradient")
    rows = [measured(name, *pair) for name, pair in parts.items()]
    data = {k: ("projection", np.array([row[k] for row in rows])) for k in MEASURES}
    attrs = {
        f"{which}_{k}": tree.attrs[k]
        for which, tree in (("estimate", estimate), ("exact", exact))
        for k in ("rule", "backend", "loss")
        if k in tree.attrs
    }
    return with_angle(xr.Dataset(data, {"projection": np.array(list(parts), object)}, attrs))


def gradients(*trees: xr.DataTree) -> list[tuple[str, str]]:
    """``(node, variable)`` of every gradient that one of the trees holds, in order, each once: weights first."""
    held = [(name, key) for tree in trees for name, node in tree.children.items() for key in node.data_vars]
    kept = dict.fromkeys(pair for pair in held if pair[1].startswith("gradient"))
    return sorted(kept, key=lambda pair: pair[1] != "gradient")


def label(node: str, variable: str) -> str:
    """What a gradient is the gradient of: ``'cues_rec'`` for weights, ``'cues_rec.delay'``, ``'rec.tau_mem'``."""
    return node if variable == "gradient" else f"{node}.{variable.removeprefix('gradient_')}"


def found(tree: xr.DataTree, name: str, variable: str) -> np.ndarray | None:
    """One array of one node, None where there is none."""
    return tree[name][variable].values if name in tree.children and variable in tree[name].data_vars else None


def measured(name: str, estimate: np.ndarray | None, exact: np.ndarray | None) -> dict[str, float]:
    if estimate is None or exact is None:
        return dict.fromkeys(MEASURES, np.nan)
    if estimate.shape != exact.shape:
        raise LocalplastError(
            f"projection {name!r}: the gradients have shapes {estimate.shape} and {exact.shape}; compare two of one "
            "network"
        )
    return measures(estimate, exact)


def measures(estimate: ArrayLike, exact: ArrayLike) -> dict[str, float]:
    """The four :data:`MEASURES` of two arrays of the same shape, as a dict of numbers.

    Synapses where both are zero (masked ones, silent neurons) have no say in ``sign_agreement``.
    """
    estimate, exact = np.ravel(np.asarray(estimate, float)), np.ravel(np.asarray(exact, float))
    length = norm(exact)
    if length == 0 or not np.isfinite(length):
        return dict.fromkeys(MEASURES, np.nan)
    if not np.all(np.isfinite(estimate)):
        return dict.fromkeys(MEASURES, np.nan)
    told = (estimate != 0) | (exact != 0)
    return {
        "relative_error": norm(estimate - exact) / length,
        "cosine": cosine_of(estimate, exact),
        "norm_ratio": norm(estimate) / length,
        "sign_agreement": float(np.mean(np.sign(estimate[told]) == np.sign(exact[told]))),
    }


def norm(vector: np.ndarray) -> float:
    """The Euclidean norm, without underflow; NaN where an entry is not finite."""
    largest = np.abs(vector).max(initial=0.0)
    if largest == 0 or not np.isfinite(largest):
        return 0.0 if largest == 0 else np.nan
    return float(largest * np.linalg.norm(vector / largest))


def cosine_of(one: ArrayLike, other: ArrayLike) -> float:
    """The cosine of the angle between two arrays, from -1 to 1; NaN where one is zero or not finite."""
    lengths = norm(np.ravel(one)), norm(np.ravel(other))
    if not all(np.isfinite(lengths)) or not all(lengths):
        return np.nan
    return float(np.clip((np.ravel(one) / lengths[0]) @ (np.ravel(other) / lengths[1]), -1.0, 1.0))


def angle(cosine: np.ndarray | xr.DataArray) -> np.ndarray | xr.DataArray:
    """Degrees, from 0 to 180, good to 1e-6; ``cosine`` is an array, or one labelled."""
    return np.degrees(np.arccos(cosine))


def with_angle(data: xr.Dataset) -> xr.Dataset:
    """``data`` with the ``angle`` that its ``cosine`` stands for, and units on what is known here."""
    data = data.assign(angle=angle(data["cosine"]))
    for name in data.data_vars:
        if name in UNITS:
            data[name].attrs.update(units=UNITS[name], long_name=LONG_NAMES[name])
    return data


def joined(tree: xr.DataTree, names: Iterable[str], variable: str = "gradient") -> np.ndarray:
    """The arrays of some projections as one vector."""
    return np.concatenate([np.ravel(tree[name][variable].values) for name in names])
