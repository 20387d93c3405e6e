"""The magnesium block of NMDA receptors, defined once: for equations as text, for the static solver as numbers.

Whether a branch has a plateau of its own is decided by the slope of the block (:mod:`localplast.bistability`). With the
values of Jahr & Stevens (1990) no synaptic drive gives two stable potentials; the default has them.
"""

from dataclasses import dataclass

import numpy as np
from brian2 import mV
from brian2.units.fundamentalunits import DIMENSIONLESS, Quantity, get_dimensions

from localplast.errors import ModelError

__all__ = ["CA1", "JAHR_STEVENS", "MagnesiumBlock", "POLSKY"]


@dataclass(frozen=True)
class MagnesiumBlock:
    """The fraction of NMDA conductance that is open, ``B(v) = 1/(1 + magnesium/half*exp(-slope*(v/mV + shift)))``.

    Parameters
    ----------
    slope : float
        Per mV.
    shift : float
        In mV; positive moves the block to lower potentials.
    half : float
        In mM: half of the receptors are blocked at ``v = -shift`` when there is as much magnesium.
    magnesium : float
        In mM; 0 takes the block away.
    reference : str
    """

    slope: float = 0.087
    shift: float = 10.0
    half: float = 3.57
    magnesium: float = 1.0
    reference: str = ""

    def __post_init__(self):
        for name, lowest in {"slope": 0, "shift": -np.inf, "half": 0, "magnesium": 0}.items():
            value = getattr(self, name)
            if get_dimensions(value) is not DIMENSIONLESS or not np.isfinite(value) or value < lowest:
                unit = {"slope": "per mV", "shift": "in mV"}.get(name, "in mM")
                raise ModelError(f"magnesium block: {name} = {value!r}; give a bare number {unit}{', not below 0' if lowest == 0 else ''}")
        if self.half == 0:
            raise ModelError("magnesium block: half = 0 would block everything; Jahr & Stevens (1990) give 3.57 mM")

    def __call__(self, v):
        """The open fraction at the potential ``v``, a Quantity or volts; an array of the same shape."""
        return 1 / (1 + self.magnesium / self.half * np.exp(-self.slope * (millivolts(v) + self.shift)))

    def text(self, v):
        """The same as an expression of Brian2, where ``v`` is the name of a potential."""
        return f"1/(1 + {self.magnesium / self.half!r}*exp(-{self.slope!r}*({v}/mV + {self.shift!r})))"


def millivolts(v):
    """``v``, a Quantity or volts, as bare numbers in mV."""
    return np.asarray(v / mV if isinstance(v, Quantity) else 1e3 * np.asarray(v), float)


#: What most papers cite; no plateau (the slope would have to be 0.0705 per mV at a leak of -70 mV).
JAHR_STEVENS = MagnesiumBlock(0.062, 0.0, reference="Jahr & Stevens 1990, J Neurosci 10:3178")
#: Written there as ``1/(1 + 0.25*exp(-0.08*v))``.
POLSKY = MagnesiumBlock(0.08, 0.0, half=4.0, reference="Polsky, Mel & Schiller 2009, J Neurosci 29:11891")
#: The default of the library.
CA1 = MagnesiumBlock(reference="fit to CA1 in Pagkalos, Chavlis & Poirazi 2023, Nat Commun 14:131")
