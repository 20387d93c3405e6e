"""When does NMDA hold a dendrite up by itself? The steady states of a branch, without simulation.

A branch with linear conductances ``g_tot`` that pull it to ``e_leak``, and with the NMDA conductance ``r*g_tot`` (before the
block), rests where both currents cancel,

    r(v) = (v - e_leak)/(B(v)*(e_nmda - v)),

so that the drive ``r`` is a function of the potential and not the reverse. Where r(v) folds back, dr/dv = 0, there are knees:
between their drives the branch has two stable potentials and an unstable one between them. With the block's own derivative,
B'/B = slope*(1 - B), the condition of a knee is

    fold(v) = slope*(1 - B(v))*(v - e_leak)*(e_nmda - v) - (e_nmda - e_leak) = 0.

Both factors of the first term are log-concave: there are two knees or none.
"""

from dataclasses import dataclass, field

import numpy as np
from brian2 import mV
from brian2.units.fundamentalunits import Quantity, have_same_dimensions
from scipy.optimize import brentq, minimize_scalar

from localplast.errors import LocalplastError
from localplast.magnesium import CA1, MagnesiumBlock, millivolts

__all__ = ["Branch", "critical_slope"]

#: Relative to the distance of the reversal potentials: as near as a root is looked for to either of them.
EDGE = 1e-9
#: Slopes per mV among which the critical one is looked for.
SLOPES = (1e-3, 1.0)


@dataclass(frozen=True)
class Branch:
    """A dendritic branch with NMDA receptors, at rest in a constant drive.

    Parameters
    ----------
    block : MagnesiumBlock
    e_leak, e_nmda : Quantity
        Reversal potentials of all linear conductances together, and of NMDA.

    Raises
    ------
    LocalplastError
        A potential that is none, or reversal potentials in the wrong order.
    """

    block: MagnesiumBlock = CA1
    e_leak: Quantity = field(default_factory=lambda: -70 * mV)
    e_nmda: Quantity = field(default_factory=lambda: 0 * mV)

    def __post_init__(self):
        for name in ("e_leak", "e_nmda"):
            if not have_same_dimensions(getattr(self, name), mV):
                raise LocalplastError(f"branch: {name} = {getattr(self, name)!r} is not a potential; write for example -70*mV")
        if not self.e_leak < self.e_nmda:
            raise LocalplastError(f"branch: e_leak = {self.e_leak} is not below e_nmda = {self.e_nmda}; NMDA must depolarise")

    @property
    def span(self):
        """``(e_leak, e_nmda)`` in mV."""
        return float(self.e_leak / mV), float(self.e_nmda / mV)

    def drive(self, v):
        """``r = g_nmda/g_tot`` that holds the branch at ``v`` (a Quantity or volts), stable or not."""
        return self._drive(millivolts(v))

    def _drive(self, v):
        low, high = self.span
        return (v - low) / (self._open(v) * (high - v))

    def _open(self, v):
        return self.block(v * 1e-3)

    def _fold(self, v):
        """Positive where the drive falls with the potential (in mV): between the knees."""
        low, high = self.span
        return self.block.slope * (1 - self._open(v)) * (v - low) * (high - v) - (high - low)

    @property
    def fold(self):
        """The largest value of ``fold(v)`` and where (mV); there are knees if it is positive."""
        low, high = self.span
        found = minimize_scalar(lambda v: -self._fold(v), bounds=(low, high), method="bounded", options={"xatol": 1e-9})
        return -found.fun, found.x

    @property
    def knees(self):
        """The two potentials at which a state appears or disappears, lower first, a Quantity ``(2,)``; empty if there are none.

        At the lower one a rising drive makes the branch jump up, at the upper one a falling drive lets it fall.
        """
        (low, high), (largest, top) = self.span, self.fold
        if largest <= 0:
            return np.array([]) * mV
        return np.array([brentq(self._fold, low, top, xtol=1e-12), brentq(self._fold, top, high, xtol=1e-12)]) * mV

    @property
    def drives(self):
        """The range of drives within which there are two stable potentials, ``(lowest, highest)``; None if there is none."""
        knees = self.knees
        return (float(self.drive(knees[1])), float(self.drive(knees[0]))) if len(knees) else None

    def steady(self, drive):
        """All potentials at which the branch can rest under ``drive``, ascending, a Quantity ``(1,)`` or ``(3,)``.

        Of three the middle one is unstable.
        """
        if not np.isfinite(drive) or drive < 0:
            raise LocalplastError(f"branch: the drive g_nmda/g_tot = {drive!r} is not a finite number from 0 up")
        low, high = self.span
        edge = EDGE * (high - low)
        borders = [low, *millivolts(self.knees), high - edge]
        excess = lambda v: self._drive(v) - drive  # noqa: E731
        parts = zip(borders[:-1], borders[1:], strict=True)
        return np.array([brentq(excess, a, b, xtol=1e-12) for a, b in parts if excess(a) * excess(b) <= 0]) * mV


def critical_slope(*, shift=0.0, half=3.57, magnesium=1.0, e_leak=-70 * mV, e_nmda=0 * mV):
    """The slope of the block, per mV, above which a :class:`Branch` has two stable potentials for some drive.

    ``shift`` in mV, ``half`` and ``magnesium`` in mM, as those of :class:`~localplast.magnesium.MagnesiumBlock`.
    """
    def largest(slope):
        return Branch(MagnesiumBlock(slope, shift, half, magnesium), e_leak, e_nmda).fold[0]

    if magnesium == 0:
        raise LocalplastError("critical slope: without magnesium there is no block and no slope makes a plateau; give magnesium > 0")
    return brentq(largest, *SLOPES, xtol=1e-12)
