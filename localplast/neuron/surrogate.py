"""Surrogate derivatives: what stands in for dz/d(spike argument), as text, so that both backends have it."""

from dataclasses import dataclass, field

import numpy as np
from brian2.units.allunits import second
from brian2.units.fundamentalunits import Quantity, get_dimensions
from brian2.units.stdunits import ms

from localplast.arguments import as_number, is_real
from localplast.errors import ModelError

__all__ = ["Surrogate", "triangle", "fast_sigmoid", "exponential", "arctan", "logistic", "boxcar", "ramp", "per_time"]


@dataclass(frozen=True)
class Surrogate:
    """A pseudo-derivative psi(x) of the spike with respect to the spike argument x.

    Parameters
    ----------
    expression : str
        Brian2 expression in ``x`` (the spike argument, with the unit of the membrane, whatever the neuron calls so)
        and the parameters of the neuron. Its unit must be one over the unit of ``x``.
    parameters : mapping of str to Quantity or float
        Values of names that ``expression`` brings along; they become parameters of the neuron.
    """

    expression: str
    parameters: dict = field(default_factory=dict, hash=False)


def scaled(shape: str, width: str | float | Quantity, gamma: float) -> Surrogate:
    """``gamma/width * shape``, where ``shape`` is text in ``x`` and ``{width}``.

    A width with a unit becomes a parameter of the neuron, ``surrogate_width``.
    """
    gamma = as_number("gamma of a surrogate", gamma)
    parameters = {}
    if isinstance(width, str) and width.strip() == "x":  # within more text it may well be meant
        raise ModelError(
            f"the width of a surrogate is {width!r}, in which x is the spike argument: rename the parameter"
        )
    if not isinstance(width, str):
        if np.ndim(width) or not is_real(width) or not 0 < float(width) < np.inf:
            raise ModelError(
                f"the width of a surrogate is an expression such as 'v_th', or a number above 0; given {width!r:.80}"
            )
        if isinstance(width, Quantity):
            width, parameters = "surrogate_width", {"surrogate_width": width}
        else:
            width = repr(float(width))
    return Surrogate(f"{gamma!r}/({width})" + shape.format(width=f"({width})"), parameters)


def triangle(width: str | float | Quantity = "v_th", *, gamma: float = 0.3) -> Surrogate:
    """``gamma/width * max(0, 1 - |x|/width)`` (Bellec et al. 2020, Nat Commun 11:3625, methods).

    Parameters
    ----------
    width : str, float or Quantity
        Half width: an expression in the neuron's parameters, a number for a dimensionless membrane, or ``10*mV``.
    gamma : float
        Dampening factor.
    """
    return scaled("*clip(1 - abs(x)/{width}, 0, 1)", width, gamma)


def fast_sigmoid(width: str | float | Quantity = "v_th", *, gamma: float = 1.0) -> Surrogate:
    """``gamma/width / (1 + |x|/width)**2`` (Zenke & Ganguli 2018, Neural Comput 30:1514)."""
    return scaled("/(1 + abs(x)/{width})**2", width, gamma)


def exponential(width: str | float | Quantity = "v_th", *, gamma: float = 1.0) -> Surrogate:
    """``gamma/width * exp(-|x|/width)`` (Shrestha & Orchard 2018)."""
    return scaled("*exp(-abs(x)/{width})", width, gamma)


def arctan(width: str | float | Quantity = "v_th", *, gamma: float = 1.0) -> Surrogate:
    """``gamma/width / (1 + (x/width)**2)`` (Fang et al. 2021)."""
    return scaled("/(1 + (x/{width})**2)", width, gamma)


def logistic(width: str | float | Quantity = "v_th", *, gamma: float = 1.0) -> Surrogate:
    """``gamma/width * s*(1 - s)``, the slope of the logistic function ``s = 1/(1 + exp(-x/width))``.

    It is ``gamma/(4 width)`` at threshold. Written with ``exp(-|x|/width)``, which never overflows:
    ``exp(-x)/(1 + exp(-x))**2`` is infinity over infinity far below threshold.
    """
    return scaled("*exp(-abs(x)/{width})/(1 + exp(-abs(x)/{width}))**2", width, gamma)


def boxcar(width: str | float | Quantity = "v_th", *, gamma: float = 1.0) -> Surrogate:
    """``gamma/width`` where ``|x| < width/2``, else 0 (Kaiser et al. 2020)."""
    return scaled("*int(abs(x) < 0.5*{width})", width, gamma)


def ramp(width: str | float | Quantity = 1.0, *, gamma: float = 1.0) -> Surrogate:
    """``gamma/width * clip(x/width + 1, 0, 1)``: 0 far below threshold, rising over ``width``, flat above it.

    Balafrej et al. 2023, arXiv:2310.19067 (DelayNet): one unit wide whatever the threshold, so that hardly a neuron is
    without a gradient.
    """
    return scaled("*clip(x/{width} + 1, 0, 1)", width, gamma)


def per_time(surrogate: Surrogate, *, reference: Quantity = 1 * ms) -> Surrogate:
    """``psi(x) * dt/reference``: psi as a rate, so that what is learned per unit of time does not hang on the time
    step.

    psi stands for how many more spikes a step holds when its spike argument rises; half the step holds half as many. A
    published psi belongs to the step it was used with, ``reference``: there nothing changes. For small dt the
    eligibility then obeys, for the neuron of :func:`~localplast.models.alif`,

    .. math::  e = psi/reference (eps_v - beta eps_a),\\quad  d eps_a/dt = -eps_a/tau_a + e

    Left as it is, every sum over time (a gradient) grows as 1/dt, and a trace that feeds on psi itself, through a
    neuron's adaptation or reset, goes to another limit. Losses need their own dt: ``Trials(..., weight=dt)``.

    Parameters
    ----------
    surrogate : Surrogate
    reference : Quantity
        The time step that ``surrogate`` was made for; 1 ms in Bellec et al. 2020, Nat Commun 11:3625.

    >>> neuron = alif(surrogate=per_time(triangle()))
    """
    if not isinstance(surrogate, Surrogate):
        raise ModelError(f"per_time: {surrogate!r:.80} is no surrogate; write per_time(triangle())")
    if not is_real(reference) or get_dimensions(reference) != second.dim or not float(reference) > 0:
        raise ModelError(f"per_time: the reference step {reference!r} is not a time; write for example 1*ms")
    return Surrogate(f"dt/dt_reference*({surrogate.expression})", {**surrogate.parameters, "dt_reference": reference})
