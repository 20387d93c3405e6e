"""Units in words, and what is a time."""

from brian2.units.allunits import second
from brian2.units.fundamentalunits import DIMENSIONLESS, Quantity, get_dimensions, get_unit

__all__ = ["is_time", "unit_name", "unit_of", "unit_text"]


def is_time(value):
    """Whether ``value`` is one positive, finite time."""
    return (
        isinstance(value, Quantity)
        and value.ndim == 0
        and get_dimensions(value) == second.dim
        and 0 < float(value) < float("inf")
    )


def unit_text(dimension):
    """The unit as a person writes it (Brian2 calls numbers without unit radian)."""
    return "1 (no unit)" if dimension is DIMENSIONLESS else repr(get_unit(dimension))


def unit_name(dim):
    """``V``, ``s``, ``1``: a unit as Brian2 writes it."""
    return "1" if dim is DIMENSIONLESS else str(get_unit(dim))


def unit_of(dimension):
    """A unit as Brian2 text, empty for numbers without one."""
    return "" if dimension is DIMENSIONLESS else repr(get_unit(dimension))
