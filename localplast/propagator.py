"""Exact integration of linear equations that feed each other in a chain, right also where time constants meet.

For ``dx/dt = M x + b`` without loops the propagator is a sum over the ways along which one variable feeds another,

.. math::  (e^{M dt})_{ij} = \\sum_{i \\leftarrow k \\leftarrow \\dots \\leftarrow j} M_{ik} \\cdots M_{lj}\\,
           dt^n \\exp[dt M_{ii}, dt M_{kk}, \\dots, dt M_{jj}]

with divided differences of the exponential (:mod:`localplast.divided_exp`). Brian2's own text is the same with the
quotients written out, and gives 0/0 where two time constants are equal, and noise near it. Loops, such as two
compartments that pull at each other, keep Brian2's text: their rates of decay stay apart while they are coupled.

Exponential Euler solves each equation alone, ``x <- exp(a dt) x + dt exprel(a dt) b``. Brian2 writes
``(exp(a dt) - 1) b/a``, which is 0/0 where nothing leaks: a conductance that is zero until a spike arrives.
"""

import sympy
from brian2.stateupdaters.exact import get_linear_system
from brian2.stateupdaters.exponential_euler import get_conditionally_linear_system

from localplast.calculus import symbol, to_sympy
from localplast.divided_exp import MOST_POINTS, divided_exp
from localplast.language import int_
from localplast.text import to_text

__all__ = ["chained_code", "conditional_code"]

READY = int_(symbol("not_refractory"))
DT = symbol("dt")


def chained_code(equations, variables):
    """Abstract code of the exact update; None in a loop, and where nothing feeds anything else and all decays."""
    names, *system = get_linear_system(equations, variables)
    # with functions as they are known here
    matrix, constants = (part.applyfunc(lambda e: to_sympy(to_text(e))) for part in system)
    size = len(names)
    feeds = [(i, j) for i in range(size) for j in range(size) if i != j and matrix[i, j] != 0]
    steady = any(constants[i] != 0 and may_vanish(matrix[i, i]) for i in range(size))
    ways = [way for j in range(size) for way in ways_from(j, feeds)] if feeds or steady else []
    if not ways or None in ways or max(map(len, ways)) + 3 > MOST_POINTS:
        return None
    new = [sympy.Integer(0)] * size
    for way in ways:
        start = symbol(names[way[0]])
        new[way[-1]] += along(matrix, way) * start
        if constants[way[0]] != 0:  # as a variable without decay that is 1 throughout
            new[way[-1]] += along(matrix, way, constants[way[0]])
    lines = [f"_{name} = {to_text(by_readiness(e))}" for name, e in zip(names, new, strict=True)]
    return "\n".join([*lines, *(f"{name} = _{name}" for name in names)])


def conditional_code(equations, variables):
    """Abstract code of exponential Euler; None where it cannot be, and where all decays."""
    if equations.is_stochastic:
        return None
    try:
        system = get_conditionally_linear_system(equations, variables)
    except ValueError:
        return None
    rates = {name: [to_sympy(to_text(sympy.sympify(e))) for e in pair] for name, pair in system.items()}
    if not any(b != 0 and may_vanish(a) for a, b in rates.values()):
        return None
    new = {name: sympy.exp(DT * a) * symbol(name) + DT * b * exprel(DT * a) for name, (a, b) in rates.items()}
    return "\n".join([*(f"_{name} = {to_text(e)}" for name, e in new.items()), *(f"{name} = _{name}" for name in new)])


def exprel(expression):
    """``(exp(x) - 1)/x`` of an expression, 1 at 0."""
    return to_sympy("exprel(y)").subs(symbol("y"), expression)


def may_vanish(rate):
    """Whether a rate of decay is zero for some numbers: it is no constant over others, as 1/tau is."""
    return rate != 0 and bool(sympy.fraction(sympy.together(rate))[0].free_symbols - {symbol("not_refractory")})


def ways_from(start, feeds):
    """All ways along which ``start`` feeds others, itself included, as lists of numbers; None in place of a loop."""
    found, ends = [], [[start]]
    while ends:
        way = ends.pop()
        if way is None or len(set(way)) < len(way):
            return [None]
        found.append(way)
        ends += [[*way, i] for i, j in feeds if j == way[-1]]
    return found


def along(matrix, way, drive=None):
    """What comes through one way: of a variable at its beginning, or of a constant ``drive`` of that variable."""
    points = [DT * matrix[i, i] for i in way] + ([sympy.Integer(0)] if drive is not None else [])
    gains = [matrix[b, a] for a, b in zip(way, way[1:])] + ([drive] if drive is not None else [])
    return sympy.Mul(*gains) * DT ** len(gains) * divided_exp(*points)


def by_readiness(expression):
    """One expression for neurons that are ready and one for those that are refractory: all in them is then constant."""
    if not expression.has(READY):
        return expression
    ready, silent = expression.subs(READY, 1), expression.subs(READY, 0)
    return READY * ready + (1 - READY) * silent if silent != 0 else READY * ready
