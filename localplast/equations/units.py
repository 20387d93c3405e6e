"""Units in words, and what is a time."""

from brian2.units.allunits import second
from brian2.units.fundamentalunits import DIMENSIONLESS, Quantity, Unit, get_dimensions, standard_unit_register

__all__ = ["is_time", "unit_name", "unit_of", "unit_text", "unscaled"]


def is_time(value):
    """Whether ``value`` is one positive, finite time."""
    return (
        isinstance(value, Quantity)
        and value.ndim == 0
        and get_dimensions(value) == second.dim
        and 0 < float(value) < float("inf")
    )


def unscaled(dimension):
    """A unit of Brian2's own, or else a product of base units.

    ``brian2.get_unit`` also finds what units were made of before: programs and records would tell of it.
    """
    named = standard_unit_register.units_for_dimensions.get(dimension, {}).get(1.0)
    return Unit(1.0, dim=dimension) if named is None else named


def unit_text(dimension):
    """The unit as a person writes it (Brian2 calls numbers without unit radian)."""
    return "1 (no unit)" if dimension is DIMENSIONLESS else repr(unscaled(dimension))


def unit_name(dim):
    """``V``, ``s``, ``1``: a unit as Brian2 writes it."""
    return "1" if dim is DIMENSIONLESS else str(unscaled(dim))


def unit_of(dimension):
    """A unit as Brian2 text, empty for numbers without one."""
    return "" if dimension is DIMENSIONLESS else repr(unscaled(dimension))
