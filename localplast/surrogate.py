"""Surrogate derivatives: what stands in for dz/d(spike argument), as text, so that both backends have it."""

from dataclasses import dataclass

__all__ = ["Surrogate", "triangle", "fast_sigmoid", "exponential", "arctan", "boxcar"]


@dataclass(frozen=True)
class Surrogate:
    """A pseudo-derivative psi(x) of the spike with respect to the spike argument x.

    Parameters
    ----------
    expression : str
        Brian2 expression in ``x`` (the spike argument, with the unit of the membrane)
        and the parameters of the neuron. Its unit must be one over the unit of ``x``.
    """

    expression: str


def triangle(width="v_th", *, gamma=0.3):
    """``gamma/width * max(0, 1 - |x|/width)`` (Bellec et al. 2020, Nat Commun 11:3625, methods).

    Parameters
    ----------
    width : str or float
        Half width: an expression in the neuron's parameters, or a number for a dimensionless membrane.
    gamma : float
        Dampening factor.
    """
    return Surrogate(f"{gamma!r}/({width})*clip(1 - abs(x)/({width}), 0, 1)")


def fast_sigmoid(width="v_th", *, gamma=1.0):
    """``gamma/width / (1 + |x|/width)**2`` (Zenke & Ganguli 2018, Neural Comput 30:1514)."""
    return Surrogate(f"{gamma!r}/({width})/(1 + abs(x)/({width}))**2")


def exponential(width="v_th", *, gamma=1.0):
    """``gamma/width * exp(-|x|/width)`` (Shrestha & Orchard 2018)."""
    return Surrogate(f"{gamma!r}/({width})*exp(-abs(x)/({width}))")


def arctan(width="v_th", *, gamma=1.0):
    """``gamma/width / (1 + (x/width)**2)`` (Fang et al. 2021)."""
    return Surrogate(f"{gamma!r}/({width})/(1 + (x/({width}))**2)")


def boxcar(width="v_th", *, gamma=1.0):
    """``gamma/width`` where ``|x| < width/2``, else 0 (Kaiser et al. 2020)."""
    return Surrogate(f"{gamma!r}/({width})*int(abs(x) < 0.5*({width}))")
