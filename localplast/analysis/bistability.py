"""When does NMDA hold a dendrite up by itself? The steady states of a branch, without simulation.

A branch with linear conductances ``g_tot`` that pull it to ``E_leak``, and with an NMDA conductance ``r*g_tot``
(before the block), rests where both currents cancel,

    r(v) = (v - E_leak)/(B(v)*(E - v)),

so that the drive ``r`` is a function of the potential and not the reverse. Where r(v) folds back, dr/dv = 0, there
are knees: between their drives the branch has two stable potentials and an unstable one between them. The condition
of a knee is

    fold(v) = B'(v)/B(v)*(v - E_leak)*(E - v) - (E - E_leak) = 0.

B is the gate of :func:`localplast.neuron.channels.nmda`, and B' its derivative. B'/B = alpha*(1 - B) and the product
beside it are log-concave, so that fold has one maximum: there are two knees or none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from brian2.units.allunits import volt
from brian2.units.fundamentalunits import Quantity, have_same_dimensions
from brian2.units.stdunits import mV
from numpy.typing import ArrayLike
from scipy.optimize import brentq, minimize_scalar

from localplast.equations.expressions import differentiate, to_sympy
from localplast.equations.tape import Tape
from localplast.errors import LocalplastError
from localplast.neuron.channels import HIPPOCAMPAL, NMDA_GATE

__all__ = ["Branch", "critical_slope"]

#: How near to the reversal potential of NMDA roots are looked for, relative to its distance from that of the leak.
EDGE = 1e-9
#: Slopes of the gate, per volt, among which the critical one is looked for.
SLOPES = (1.0, 1000.0)
#: Absolute tolerance of potentials, volts.
TOLERANCE = 1e-14

DRIVE = "(v - E_leak)/(B*(E - v))"
FOLD = "slope/B*(v - E_leak)*(E - v) - (E - E_leak)"


@dataclass(frozen=True, eq=False)
class Branch:
    """A dendritic branch with NMDA receptors, at rest in a constant drive.

    Parameters
    ----------
    gate : mapping
        ``alpha``, ``beta`` and ``gamma`` of the magnesium block; default
        :data:`localplast.neuron.channels.HIPPOCAMPAL`.
    E_leak : Quantity
        Reversal potential of all linear conductances together.
    E, Mg : Quantity, float
        Reversal potential of NMDA, and magnesium over 1 mM.

    Raises
    ------
    LocalplastError
        Something that is not a potential, reversal potentials in the wrong order, a gate that lacks a parameter.
    """

    gate: Mapping = field(default_factory=lambda: HIPPOCAMPAL)
    E_leak: Quantity = field(default_factory=lambda: -70 * mV)
    E: Quantity = field(default_factory=lambda: 0 * mV)
    Mg: float = 1.0

    def __post_init__(self):
        for name in ("E_leak", "E"):
            if not have_same_dimensions(getattr(self, name), volt):
                raise LocalplastError(
                    f"branch: {name} = {getattr(self, name)!r} is not a potential; write for example -70*mV"
                )
        if not self.E_leak < self.E:
            raise LocalplastError(f"branch: E_leak = {self.E_leak} is not below E = {self.E}; NMDA must depolarise")
        if set(self.gate) != set(HIPPOCAMPAL):
            raise LocalplastError(
                f"branch: the gate has {sorted(self.gate)}; it needs {sorted(HIPPOCAMPAL)}, as JAHR_STEVENS does"
            )

    @cached_property
    def tape(self) -> Tape:
        """The gate, the drive and the fold as functions of the potential in volts, from the text of the channel."""
        numbers = {**self.gate, "E_leak": self.E_leak, "E": self.E, "Mg": self.Mg}
        gate = to_sympy(NMDA_GATE)
        program = [
            ("B", gate),
            ("slope", differentiate(gate, "v")),
            ("drive", to_sympy(DRIVE)),
            ("fold", to_sympy(FOLD)),
        ]
        return Tape(program, {name: float(value) for name, value in numbers.items()})

    @property
    def span(self) -> tuple[float, float]:
        """The potentials in volts between which the branch can rest."""
        low, high = float(self.E_leak), float(self.E)
        return low, high - EDGE * (high - low)

    def open(self, v: ArrayLike) -> np.ndarray | np.floating:
        """The fraction ``B`` of the NMDA conductance that is not blocked at the potential ``v`` (Quantity or volts)."""
        return self._at("B", v)

    def drive(self, v: ArrayLike) -> np.ndarray | np.floating:
        """``r = g_nmda/g_tot`` that holds the branch at the potential ``v`` (Quantity or volts), stable or not."""
        return self._at("drive", v)

    def _at(self, name, v):
        return self.tape({"v": np.asarray(v, float)})[name]

    @cached_property
    def fold(self) -> tuple[float, float]:
        """The largest value of ``fold(v)`` in volts, and where; there are knees if it is positive."""
        found = minimize_scalar(
            lambda v: -self._at("fold", v), bounds=self.span, method="bounded", options={"xatol": 1e-12}
        )
        return -float(found.fun), float(found.x)

    @cached_property
    def knees(self) -> Quantity:
        """The two potentials at which stable states end, lower first, a Quantity ``(2,)``; ``(0,)`` if there are none.

        At the lower one a rising drive makes the branch jump up, at the upper one a falling drive lets it fall.
        """
        (largest, top), (low, high) = self.fold, self.span
        sides = [(low, top), (top, high)] if largest > 0 else []
        return np.array([brentq(lambda v: self._at("fold", v), *side, xtol=TOLERANCE) for side in sides]) * volt

    @property
    def drives(self) -> tuple[float, ...] | None:
        """The drives between which there are two stable potentials, ``(lowest, highest)``; None if there are none."""
        return tuple(float(self.drive(knee)) for knee in self.knees[::-1]) or None

    def steady(self, drive: float) -> Quantity:
        """All potentials at which the branch rests under ``drive``, ascending, a Quantity ``(1,)`` or ``(3,)``.

        Of three the middle one is unstable.
        """
        if not np.isfinite(drive) or drive < 0:
            raise LocalplastError(f"branch: the drive g_nmda/g_tot = {drive!r} is not a finite number from 0 up")
        low, high = self.span
        borders = [low, *np.asarray(self.knees), high]
        parts = [
            part
            for part in zip(borders[:-1], borders[1:], strict=True)
            if len(set(np.asarray(self.drive(part) > drive).tolist())) > 1
        ]
        return (
            np.array([brentq(lambda v: self._at("drive", v) - drive, *part, xtol=TOLERANCE) for part in parts]) * volt
        )


def critical_slope(*, gamma: Quantity = 0 * mV, beta: float = HIPPOCAMPAL["beta"], **branch: Any) -> Quantity:
    """The ``alpha`` of the gate above which some drive gives a :class:`Branch` two stable potentials, a Quantity
    (1/volt).

    ``branch``: its other arguments, such as ``E_leak=-80*mV``.
    """

    def largest(alpha):
        return Branch({"alpha": alpha, "beta": beta, "gamma": gamma}, **branch).fold[0]

    if branch.get("Mg") == 0:
        raise LocalplastError("critical slope: Mg = 0, and without magnesium no slope makes a plateau; give Mg > 0")
    return brentq(largest, *SLOPES, xtol=1e-12) / volt
