"""Decays: a factor per step, or a time constant."""

from numbers import Real

import numpy as np

from localplast.equations.units import is_time
from localplast.errors import LocalplastError

__all__ = ["check_decays", "per_step"]


def per_step(value, dt):
    """A decay as a factor per step: itself, or ``exp(-dt/value)`` for a time constant."""
    return float(np.exp(-float(dt) / float(value))) if is_time(value) else float(value)


def check_decays(**decays):
    """Raise where a decay is neither a factor in [0, 1] nor a time constant."""
    for name, value in decays.items():
        factor = isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) <= 1
        if not factor and not is_time(value):
            raise LocalplastError(
                f"{name} is a factor per step between 0 and 1, or a time such as 20*ms; not {value!r}"
            )
