"""sympy as Brian2 text: what is derived goes back to Brian2, which checks its units.

Derivations are done in SI numbers: ``0.04/ms/mV`` is 40000 there, and has lost its unit. :func:`measured` restores
units where text would not pass without. An SI unit is 1, so that no number changes.
"""

import sympy
from brian2.core.namespace import DEFAULT_UNITS
from brian2.parsing.sympytools import CustomSympyPrinter
from brian2.units.allunits import second
from brian2.units.fundamentalunits import DIMENSIONLESS
from sympy.logic.boolalg import Boolean

from localplast.equations.language import Draw, absolute, ceil, clip, floor, mod, sign, stop, timestep
from localplast.equations.slopes import Tamed
from localplast.equations.variadic import Variadic

__all__ = ["fit", "measured", "to_text", "unit_symbol"]

#: Base units in the order in which Brian2 counts their powers.
BASE = ("metre", "kilogram", "second", "amp", "kelvin", "mole", "candela")
#: What text calls a function, by the name of its class here or in Brian2's own sympy.
NAMES = {
    "acos": "arccos",
    "asin": "arcsin",
    "atan": "arctan",
    "Abs": "abs",
    "absolute": "abs",
    "ceiling": "ceil",
    "int_": "int",
}
#: Functions that pass the unit of their first argument on.
KEEPING = (absolute, sympy.Abs, floor, ceil, stop, Tamed)


class Printer(CustomSympyPrinter):
    """Brian2's printer, for :mod:`localplast.equations.language`; numbers to the last bit."""

    def _print_Function(self, expr):
        arguments = expr.args[:-1] if isinstance(expr, Draw) else expr.args
        name = expr.called if isinstance(expr, Variadic) else NAMES.get(expr.func.__name__, expr.func.__name__)
        return f"{name}({self.stringify(arguments, ', ')})"

    def _print_mod(self, expr):
        return "(({})%({}))".format(*map(self.doprint, expr.args))

    def _print_floordiv(self, expr):
        return "(({})//({}))".format(*map(self.doprint, expr.args))

    def _print_Float(self, expr):
        return repr(float(expr))

    def _print_Exp1(self, _):
        return "exp(1)"

    def _print_Infinity(self, _):
        return "inf"

    def _print_NegativeInfinity(self, _):
        return "(-inf)"


PRINTER = Printer()


def to_text(expression, dimensions=None, wanted=None):
    """sympy as Brian2 expression text; with the ``dimensions`` of its names as :func:`fit` makes it."""
    expression = sympy.sympify(expression, strict=True)
    return PRINTER.doprint(expression if dimensions is None else fit(expression, dimensions, wanted))


def fit(expression, dimensions, wanted=None):
    """``expression`` with units that Brian2 finds right; it is measured in what is ``wanted``, where that is given."""
    expression, found = measured(sympy.sympify(expression, strict=True), dimensions)
    if wanted is None or wanted is found:
        return expression
    if expression == 0:
        return sympy.Mul(0, unit_symbol(wanted), evaluate=False)  # sympy would drop the unit
    return fitted(expression, found, wanted)


def unit_symbol(dimension):
    """The SI unit as sympy: in volt, amp and second where that will do."""
    metre, kilogram, *rest = dimension._dims
    if metre == 2 * kilogram:
        second_, ampere, *others = rest
        powers = {
            "volt": kilogram,
            "second": second_ + 3 * kilogram,
            "amp": ampere + kilogram,
            **dict(zip(BASE[4:], others, strict=True)),
        }
    else:
        powers = dict(zip(BASE, dimension._dims, strict=True))
    return sympy.Mul(*[unit(name) ** sympy.nsimplify(power) for name, power in powers.items()])


def unit(name):
    return sympy.Symbol(name, positive=True)


def fitted(expression, found, wanted):
    """``expression`` times what makes its unit the one that is ``wanted``."""
    return expression if found is wanted else expression * unit_symbol(wanted / found)


def measured(expression, dimensions):
    """``(expression, dimension)``: with units where numbers have lost theirs.

    Parameters
    ----------
    expression : sympy expression
    dimensions : dict of str to Dimension
        Of every name in it.
    """
    if expression.is_Symbol:
        if expression.name in dimensions:
            return expression, dimensions[expression.name]
        return expression, DEFAULT_UNITS[expression.name].dim
    if expression.is_Atom:
        return expression, DIMENSIONLESS
    parts = [measured(a, dimensions) for a in expression.args]
    return rule_of(expression)(expression, parts)


def rule_of(expression):
    """How the units of a node follow from those of its arguments."""
    if expression.is_Add:
        return sums
    if expression.is_Mul:
        return products
    if expression.is_Pow:
        return powers
    if isinstance(expression, (sympy.core.relational.Relational, clip, mod)):
        return alike
    if isinstance(expression, KEEPING):
        return lambda e, parts: (e.func(*[part for part, _ in parts]), parts[0][1])
    if isinstance(expression, (sign, Boolean)):
        return lambda e, parts: (e.func(*[part for part, _ in parts]), DIMENSIONLESS)
    if isinstance(expression, timestep):
        return lambda e, parts: (bare(e, parts, second.dim), DIMENSIONLESS)
    return lambda e, parts: (bare(e, parts), DIMENSIONLESS)


def bare(expression, parts, dimension=DIMENSIONLESS):
    """``expression`` with all its arguments in one unit."""
    return expression.func(*[fitted(part, found, dimension) for part, found in parts])


def sums(expression, parts):
    """All terms in the unit of the first that has names in it: a number alone is in any."""
    wanted = next((found for part, found in parts if part.free_symbols), DIMENSIONLESS)
    return bare(expression, parts, wanted), wanted


def products(expression, parts):
    dimension = DIMENSIONLESS
    for _, found in parts:
        dimension = dimension * found
    return expression.func(*[part for part, _ in parts]), dimension


def powers(expression, parts):
    """A power of a unit where the exponent is a number, else one of a number."""
    (base, found), (exponent, _) = parts
    if exponent.is_number:
        return base**exponent, found ** float(exponent)
    return bare(expression, parts), DIMENSIONLESS


def alike(expression, parts):
    """What is compared: as numbers, where the units differ; a zero would not keep its own."""
    first = parts[0][1]
    dimension = first if all(found is first for _, found in parts) else DIMENSIONLESS
    result = dimension if isinstance(expression, (clip, mod)) else DIMENSIONLESS
    return bare(expression, parts, dimension), result
