"""Derivatives that stay numbers: what overflows, and what is cut off, passes no infinity on.

A term such as ``1/(1 + exp(-k*v))`` is a number at every ``v``; the text of its derivative,
``k*exp(-k*v)/(1 + exp(-k*v))**2``, is infinity over infinity far from where it acts. Exponentials in a derivative
therefore end at a bound whose square is still a number. A factor that a condition has set to zero (``clip``, ``int``)
is zero, however steep what it cuts off. And a spike whose reset ends an overflow has no derivative: the size of that
jump counts as zero.
"""

import numpy as np
import sympy
from brian2.core.functions import Function

from localplast.equations import divided_exp as divided
from localplast.equations import matrix_exp as matrix
from localplast.equations.divided_exp import divided_exp, exprel

__all__ = [
    "DT",
    "FUNCTIONS",
    "LARGEST",
    "Tamed",
    "bounded_number",
    "finite_slope",
    "grows",
    "jump",
    "unless_overflown",
    "where_finite",
]

#: Bits of the exponent of the largest number, by bytes: its square is a number still.
LARGEST = {8: 2.0**511, 4: 2.0**63}
GROWING = (sympy.exp, sympy.sinh, sympy.cosh, exprel, divided_exp)
#: The length of a step, over which decays do not grow.
DT = sympy.Symbol("dt", real=True)


class Tamed(sympy.Function):
    """Its first argument, wherever that is not too large."""

    def fdiff(self, argindex=1):
        return sympy.Integer(argindex == 1)

    def _eval_is_real(self):
        return True


class bounded_number(Tamed):
    """``x`` within the bounds of :data:`LARGEST`."""


class where_finite(Tamed):
    """``where_finite(x, y)`` is ``x``, and 0 where ``y`` is infinite or no number."""


def finite_slope(derivative):
    """A derivative that is a number wherever the function and its slope are."""
    if any(p.exp.free_symbols for p in derivative.atoms(sympy.Pow)):
        derivative = sympy.powsimp(derivative, combine="exp")  # p*x**p/x is 0/0 at 0
    if any(map(grows, sympy.preorder_traversal(derivative))):
        derivative = derivative.replace(grows, bounded_number)
    return derivative.replace(lambda e: e.is_Mul and any(map(cuts, e.args)), lambda e: within_cuts(*e.args))


def grows(node):
    """Whether ``node`` may overflow: exponentials, but for the decay over one step."""
    return node.func in GROWING and bool(node.free_symbols) and any(x.subs(DT, 0) != 0 for x in node.args)


def cuts(factor):
    """Whether a factor vanishes somewhere, whatever others are there."""
    return factor.func.__name__ == "int_" or (factor.is_Pow and bool(factor.exp.free_symbols))


def within_cuts(*factors):
    """A product in which what is singular where another factor vanishes is bounded."""
    vanishing = list(filter(cuts, factors))
    known = {s for f in vanishing for s in f.free_symbols}
    return sympy.Mul(*(bounded_number(f) if f not in vanishing and singular(f, known) else f for f in factors))


def singular(factor, known):
    """Whether a factor is infinite somewhere, and varies with ``known`` symbols."""
    infinite = (factor.is_Pow and factor.exp.could_extract_minus_sign()) or factor.func is sympy.log
    return infinite and bool(factor.free_symbols & known)


def overflowing(step):
    """Names of what one step computes that may overflow, with what follows from it."""
    found = set()
    for name, expression in step.program:
        if any(grows(node) for node in sympy.preorder_traversal(expression)) or expression.free_symbols & found:
            found.add(sympy.Symbol(name, real=True))
    return found


def unless_overflown(step, entry):
    """A derivative of the step, 0 where the step has overflowed: such a state lasts to the neuron's reset at most."""
    lost = overflowing(step) if step.model.spiking else set()
    for updated in step.updated.values():
        if updated.free_symbols & lost:
            entry = where_finite(entry, updated)
    return entry


def jump(step, name, value):
    """What a spike adds to a variable: ``value`` less what was there, 0 where that has overflowed, if it may."""
    difference = value - sympy.Symbol(name, real=True)
    return where_finite(difference, difference) if overflowing(step) else difference


def brian2_function(name, arguments, value, text):
    """A function with the unit of its first argument, for Brian2's three targets; ``text`` is C for its value."""
    function = Function(value, arg_units=[None] * len(arguments), return_unit=lambda unit, *_: unit)
    given = ", ".join(f"double {a}" for a in arguments)
    written = f"static double {name}({given}) {{ return {text}; }}"
    declared = f"double {name}({', '.join(['double'] * len(arguments))})"
    cython = f'cdef extern from *:\n    """\n    {written}\n    """\n    {declared}'
    function.implementations.add_implementation("cpp", written, name=name)
    function.implementations.add_implementation("cython", cython, name=name)
    return function


#: What Brian2 must be given to know the names, as part of a namespace.
FUNCTIONS = {
    **divided.ENGINES.functions,
    **matrix.ENGINES.functions,
    "stop": brian2_function("stop", "x", lambda x: x, "x"),
    "bounded_number": brian2_function(
        "bounded_number",
        "x",
        lambda x: np.clip(x, -LARGEST[8], LARGEST[8]),
        f"x > {LARGEST[8]!r} ? {LARGEST[8]!r} : x < -{LARGEST[8]!r} ? -{LARGEST[8]!r} : x",
    ),
    "where_finite": brian2_function(
        "where_finite", "xy", lambda x, y: np.where(np.isfinite(y), x, 0.0), "y - y == 0 ? x : 0"
    ),
}
