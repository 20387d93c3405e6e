"""What weights are held to: bounds of a projection, and the sign of its neurons."""

import numpy as np
from brian2.units.fundamentalunits import Quantity, get_dimensions
from numpy.typing import ArrayLike

from localplast.arguments import is_real
from localplast.equations.units import unit_text
from localplast.errors import NetworkError

__all__ = ["as_arrays", "as_limits", "check_bounds", "check_given", "check_start", "check_within", "dale"]


def dale(signs: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Bounds that keep the sign of every presynaptic neuron, ``signs`` an array ``(pre,)`` of +1 and -1 (Dale's law).

    Weights of excitatory neurons stay in ``(0, inf)``, those of inhibitory ones in ``(-inf, 0)``::

        Projection("rec", "rec", bounds=dale([1, 1, 1, -1]))
    """
    given = np.asarray(signs)
    if given.ndim != 1 or not np.isin(given, (-1, 1)).all():
        raise NetworkError(f"dale() takes one sign per presynaptic neuron, +1 or -1, not {signs!r}")
    excitatory = given[:, None] > 0
    return np.where(excitatory, 0.0, -np.inf), np.where(excitatory, np.inf, 0.0)


def as_arrays(bounds, shape):
    """``(low, high)`` as arrays of ``shape`` ``(pre, post)`` in SI units, infinite where nothing is given.

    None if nothing is bounded.
    """
    low, high = bounds or (None, None)
    low = np.asarray(-np.inf if low is None else low, float)
    high = np.asarray(np.inf if high is None else high, float)
    if np.isneginf(low).all() and np.isposinf(high).all():
        return None
    return np.broadcast_to(low, shape), np.broadcast_to(high, shape)


def as_limits(bounds):
    """``(low, high)`` of a parameter as two numbers in SI units, infinite where there is none."""
    low, high = bounds
    return -np.inf if low is None else float(low), np.inf if high is None else float(high)


def check_bounds(label, bounds, shape, dimension):
    """Raise unless these are two bounds, each None or numbers of the right unit and shape, low not above high."""
    if bounds is None:
        return
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        raise NetworkError(f"{label}: bounds are (low, high), each None, a number or an array, not {bounds!r}")
    for what, bound in zip(("lower", "upper"), bounds, strict=True):
        if bound is not None:
            check_bound(f"{label}: the {what} bound", bound, shape, dimension)
    low, high = as_arrays(bounds, shape) or (np.zeros(1), np.ones(1))
    wrong = np.flatnonzero((low > high) | np.isposinf(low) | np.isneginf(high))
    if len(wrong):
        raise NetworkError(
            f"{label}: no number lies between the lower bound {low.flat[wrong[0]]:g} and the upper bound "
            f"{high.flat[wrong[0]]:g} (SI); give (low, high) with low <= high"
        )


def check_bound(label, bound, shape, dimension):
    if not is_real(bound):
        raise NetworkError(
            f"{label} {bound!r} is not a number; write for example 0 or 2*mV, or None where there is none"
        )
    if isinstance(bound, Quantity) and get_dimensions(bound) != dimension:
        unit = unit_text(dimension)
        raise NetworkError(f"{label} {bound!r} has the wrong unit; these weights are measured in {unit}")
    try:
        np.broadcast_to(bound, shape)
    except ValueError:
        axes, one = ("(pre, post)", "presynaptic neuron") if len(shape) == 2 else ("the kernel", "channel")
        raise NetworkError(
            f"{label} has shape {np.shape(bound)}, which does not broadcast to {axes}, {shape}; "
            f"for one per {one} give {(shape[0], *(1,) * (len(shape) - 1))}"
        ) from None


def check_given(label, weight, bounds, present):
    """Raise where a weight that is given, not drawn, lies outside its bounds; ``present``: where there are synapses."""
    found = as_arrays(bounds, present.shape)
    if found is None:
        return
    weight = np.broadcast_to(np.asarray(weight, float), present.shape)
    wrong = np.argwhere(present & ((weight < found[0]) | (weight > found[1])))
    if len(wrong):
        place = tuple(map(int, wrong[0]))
        raise NetworkError(
            f"{label}: the weight {weight[place]:g} at {place} lies outside its bounds, {found[0][place]:g} and "
            f"{found[1][place]:g} (SI); give a weight within them, or wider bounds"
        )


def check_within(label, value, low, high):
    """Raise where a parameter starts from outside its bounds, by more than rounding: 50*ms is not quite 0.05."""
    numbers, slack = np.asarray(value, float), 1e-9
    wrong = numbers[(numbers < low - slack * abs(low)) | (numbers > high + slack * abs(high))]
    if wrong.size:
        raise NetworkError(
            f"{label}: it starts from {wrong.flat[0]:g}, not within its bounds, {low:g} and {high:g} (SI); give "
            "another value, or wider bounds"
        )


def check_start(net, values, optimiser):
    """Raise where a parameter that ``optimiser`` changes starts outside its bounds; weights are put within theirs."""
    for name in net.trainable:
        owner, key = name.split(".")
        if owner in net.populations and not optimiser.frozen(name):
            label = f"the values of population {owner!r}, trainable {key!r}"
            check_within(label, values.other(name), *net.limits(name))
