"""Text to sympy and back, and straight-line programs over it.

Text becomes sympy through Brian2's own parser (an AST walk: nothing is evaluated). A *program* is a sequence of
``(name, expression)`` assignments, each name assigned once; :class:`Tape` runs it on numpy arrays or torch tensors.
"""

import functools

import sympy
from brian2.core.namespace import DEFAULT_UNITS

from localplast.equations.language import absolute, read, sign, symbol
from localplast.equations.slopes import finite_slope

__all__ = ["differentiate", "symbol", "to_sympy"]


@functools.lru_cache(maxsize=4096)
def to_sympy(text):
    """Brian2 expression text as sympy, units as their SI value.

    Raises
    ------
    ValueError
        What the language does not have (:func:`localplast.equations.language.read`).
    """
    expression = read(text)
    units = {
        s: sympy.Float(float(DEFAULT_UNITS[s.name]), 17) for s in expression.free_symbols if s.name in DEFAULT_UNITS
    }
    return expression.xreplace(units) if units else expression


def differentiate(expression, name):
    """d expression / d name; abs has the derivative sign, and what is constant in pieces (int, floor, a comparison)
    none.
    """
    smooth = expression.replace(sympy.Abs, absolute).replace(sympy.sign, sign)  # sympy makes these of sqrt(x**2)
    return finite_slope(sympy.diff(smooth, symbol(name)))
