"""Learning rules, one file each: every public function here makes a Rule."""

from localplast.rules.bptt import bptt as bptt
from localplast.rules.eprop import eprop as eprop

__all__ = ["bptt", "eprop"]
