"""Decays: a factor per step, or a time constant."""

from numbers import Real

import numpy as np
from brian2.units.allunits import second
from brian2.units.fundamentalunits import Quantity, get_dimensions

from localplast.errors import LocalplastError

__all__ = ["check_decays", "is_time", "per_step"]


def is_time(value):
    """Whether ``value`` is one positive, finite time."""
    return isinstance(value, Quantity) and value.ndim == 0 and get_dimensions(value) == second.dim and 0 < float(value) < float("inf")


def per_step(value, dt):
    """A decay as a factor per step: itself, or ``exp(-dt/value)`` for a time constant."""
    return float(np.exp(-float(dt) / float(value))) if is_time(value) else float(value)


def check_decays(**decays):
    """Raise where a decay is neither a factor in [0, 1] nor a time constant."""
    for name, value in decays.items():
        factor = isinstance(value, Real) and not isinstance(value, bool) and 0 <= value <= 1
        if not factor and not is_time(value):
            raise LocalplastError(f"{name} is a factor per step between 0 and 1, or a time such as 20*ms; not {value!r}")
