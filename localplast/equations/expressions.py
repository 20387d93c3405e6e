"""Text to sympy and back, and straight-line programs over it.

Text becomes sympy through Brian2's own parser (an AST walk: nothing is evaluated). A *program* is a sequence of
``(name, expression)`` assignments, each name assigned once; :class:`Tape` runs it on numpy arrays or torch tensors.
"""

import functools
import re

import sympy
from brian2.core.namespace import DEFAULT_UNITS

from localplast.equations.language import absolute, read, sign, symbol
from localplast.equations.rewriting import derivative
from localplast.equations.slopes import finite_slope

__all__ = ["differentiate", "quantity", "symbol", "to_sympy"]

#: The number at the head of a text, what follows it, and the units, which may stand alone.
NUMBER = re.compile(r"\s*(?:([-+]?[\d._]+(?:[eE][-+]?\d+)?)\s*([*/]))?(.*)", re.DOTALL)


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


def quantity(text):
    """The number times units, such as ``'20*ms'``, that a text says; with Brian2's own products, to the last bit.

    Raises
    ------
    ValueError
        It says something else.
    """
    number, times, units = NUMBER.fullmatch(text).groups(default="")
    coefficient, product = read(f"1{times or '*'}{units}").as_coeff_Mul()  # 0*ms as a whole would lose its unit
    powers = [factor.as_base_exp() for factor in sympy.Mul.make_args(product)]
    if coefficient != 1 or not all(str(unit) in DEFAULT_UNITS and power.is_Integer for unit, power in powers):
        raise ValueError(f"{text!r:.80} is no number times units, such as 20*ms")
    found = float(number or 1)
    for unit, power in powers:
        found = found * DEFAULT_UNITS[str(unit)] ** int(power)
    return found


@functools.lru_cache(maxsize=2**14)
def differentiate(expression, by):
    """d expression / d ``by``, a name or a symbol; abs has the derivative sign, and what is constant in pieces (int,
    floor, a comparison) none.
    """
    if expression.has(sympy.Abs, sympy.sign):  # sympy makes these of sqrt(x**2)
        expression = expression.replace(sympy.Abs, absolute).replace(sympy.sign, sign)
    return finite_slope(derivative(expression, symbol(by) if isinstance(by, str) else by))
