"""What C cannot run of a step program: statements whose expressions have no form there."""

from localplast.backends.c.compile import missing
from localplast.backends.c.expression import check_c_form
from localplast.program.arrays import Synapses
from localplast.program.check import expressions, statements

__all__ = ["why_no_program"]


def why_no_program(*programs):
    """Why these programs cannot be compiled, as a sentence that names whose statement it is; None if they can."""
    for program in programs:
        for s in statements(program):
            if reason := check_c_form(expressions(s)):
                what = "projection" if isinstance(program.spaces[s.space], Synapses) else "population"
                return f"{what} {s.space!r}: {reason}"
    return missing()
