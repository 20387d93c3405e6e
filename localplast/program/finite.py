"""What is not finite when an engine is done: it looks at the end of its trials, for what has become NaN stays so.

Where that began, :mod:`localplast.runs.guard` finds out.
"""

import numpy as np

from localplast.errors import RunawayError

__all__ = ["Unexplained", "check_found", "check_states"]


class Unexplained(RunawayError):
    """Some number is not finite; where that began is to be found."""


def check_states(states):
    """Raise :class:`Unexplained` unless the last states are finite: arrays or tensors by name."""
    for name, array in states.items():
        if not bool((abs(array) < np.inf).all()):
            raise Unexplained(f"{name} is not finite at the end of the trials")


def check_found(rule, grads, loss):
    """Raise :class:`Unexplained` unless the gradients of a rule and its loss are finite."""
    for name, array in grads.items():
        if not np.all(np.isfinite(array)):
            raise Unexplained(f"the gradient of {name!r} is not finite")
    if not np.isfinite(loss):
        raise Unexplained(f"the loss of {rule.name} is {loss}")
