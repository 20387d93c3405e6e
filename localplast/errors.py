"""What localplast raises. Every message names the object, the value given, what is legal and the next step."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray


class LocalplastError(Exception):
    """Base of all errors raised on purpose."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        leave_brian2_out()


def leave_brian2_out() -> None:
    """Let Python print the errors of this package: for every exception that ends a script Brian2 would ask to be told
    of a bug.

    Brian2 hooks in when it is first imported, whoever does so, hence not before there is an error.
    """
    hook = sys.excepthook
    if hook.__module__ != "brian2.utils.logger":
        return

    def told(kind, error, traceback):
        (sys.__excepthook__ if issubclass(kind, LocalplastError) else hook)(kind, error, traceback)

    sys.excepthook = told


class LocalplastWarning(UserWarning):
    """Something that is legal, and hardly meant."""


class ModelError(LocalplastError, ValueError):
    """A neuron model that cannot mean anything: units, names, threshold, method."""


class NetworkError(LocalplastError, ValueError):
    """A network whose parts do not fit together: shapes, delays, targets."""


class UnsupportedError(LocalplastError, NotImplementedError):
    """Something one backend or rule cannot do; the message says which one can."""


class DatasetError(LocalplastError, FileNotFoundError):
    """A dataset that is not on this machine; the message says where it was looked for."""


class DiskError(LocalplastError, OSError):
    """A record or checkpoint that cannot be written; the message says what is safe, and how to go on."""


class Interrupted(KeyboardInterrupt):
    """A run that was asked to stop, by Ctrl-C; the message says what is saved, and how to go on."""


class RunawayError(LocalplastError, ArithmeticError):
    """NaN, infinity or runaway activity during a run.

    Attributes
    ----------
    record : xarray.DataTree or None
        What had been recorded when the run was stopped.
    """

    def __init__(self, message: str, record: "xarray.DataTree | None" = None) -> None:
        super().__init__(message)
        self.record = record


def not_finite(population: str, step: int) -> RunawayError:
    """The error of a loop that diverges while a network runs or learns."""
    return RunawayError(
        f"population {population!r} is not finite from step {step} on; look at the learning rate, the weights, the "
        "time step and the strength of feedback"
    )
