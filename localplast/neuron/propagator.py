"""Exact integration of linear equations with constant coefficients, whatever drives whatever, at every value of them.

For ``dx/dt = M x + b`` the state after a step is ``x(t + dt) = exp(M dt) x(t)``, with a constant ``b`` as one more
variable that is 1 throughout. Where a variable reaches another without a loop, the entry of the exponential is a sum
over the ways,

.. math::  (e^{M dt})_{ij} = \\sum_{i \\leftarrow k \\leftarrow \\dots \\leftarrow j} M_{ik} \\cdots M_{lj}\\,
           dt^n \\exp[dt M_{ii}, dt M_{kk}, \\dots, dt M_{jj}]

with divided differences of the exponential (:mod:`localplast.equations.divided_exp`). Where variables drive each
other on the way, such as two compartments that pull at each other, it is computed from the part of ``M dt`` that lies
between the two (:mod:`localplast.equations.matrix_exp`). Brian2's own text is the same with the quotients and roots
written out: 0/0 where time constants are equal, a leak or a coupling is zero, noise near it, and no real number where
variables oscillate.

Exponential Euler solves each equation alone, ``x <- exp(a dt) x + dt exprel(a dt) b``. Brian2 writes
``(exp(a dt) - 1) b/a``, which is 0/0 where nothing leaks: a conductance that is zero until a spike arrives.
"""

from itertools import pairwise, product

import sympy
from brian2.stateupdaters.base import UnsupportedEquationsException
from brian2.stateupdaters.exact import get_linear_system
from brian2.stateupdaters.exponential_euler import get_conditionally_linear_system

from localplast.equations.divided_exp import MOST_POINTS, divided_exp, exprel
from localplast.equations.expressions import to_sympy
from localplast.equations.language import Draw, int_, symbol
from localplast.equations.matrix_exp import LARGEST_SIZE, matrix_exp
from localplast.equations.text import to_text

__all__ = ["conditional_code", "exact_code"]

READY = int_(symbol("not_refractory"))
DT = symbol("dt")


def exact_code(equations, variables):
    """Abstract code of the exact update; None where Brian2's text is right as well, or Brian2 is to say what is
    wrong.
    """
    if equations.is_stochastic:
        return None
    names, matrix = driven_system(equations, variables)
    if matrix.has(Draw) or all(plain(matrix, i) for i in range(len(names))):
        return None
    start = [*map(symbol, names), sympy.Integer(1)]
    ready, silent = (propagated(matrix.subs(READY, state), start) for state in (1, 0))
    lines = [f"_{name} = {to_text(by_readiness(*pair))}" for name, *pair in zip(names, ready, silent, strict=True)]
    return "\n".join([*lines, *(f"{name} = _{name}" for name in names)])


def driven_system(equations, variables):
    """Names of the variables, and M with the constants as its last column: that of a variable that is 1 throughout."""
    names, *system = get_linear_system(equations, variables)
    # with functions as they are known here
    matrix, constants = (part.applyfunc(lambda e: to_sympy(to_text(e))) for part in system)
    return names, matrix.row_join(constants).col_join(sympy.zeros(1, len(names) + 1))


def plain(matrix, i):
    """Whether a variable is driven by nothing, or by a constant alone while it decays whatever the parameters are."""
    others = [k for k in range(matrix.cols) if k != i and matrix[i, k] != 0]
    rate = matrix[i, i].subs(READY, 1)
    return rate != 0 and (not others or (others == [matrix.cols - 1] and not may_vanish(rate)))


def by_readiness(ready, silent):
    """One expression for neurons that are ready and one for those that are refractory: all in them is then constant."""
    return ready if ready == silent else READY * ready + (1 - READY) * silent


def propagated(matrix, start):
    """The state after a step, of what ``start`` names."""
    reached = [targets(matrix, j) for j in range(matrix.cols)]
    return [
        sympy.Add(*(entry(matrix, reached, i, j) * start[j] for j in range(matrix.cols) if i in reached[j]))
        for i in range(matrix.cols - 1)
    ]


def targets(matrix, start):
    """Numbers of the variables that ``start`` drives, itself included."""
    found, new = set(), {start}
    while new:
        found |= new
        new = {i for i, j in product(range(matrix.rows), new) if matrix[i, j] != 0} - found
    return found


def entry(matrix, reached, i, j):
    """What variable i has after a step of what j had before."""
    between = sorted(k for k in reached[j] if i in reached[k])
    looped = any(a in reached[b] and b in reached[a] for a, b in product(between, between) if a != b)
    if not looped and len(between) + 3 <= MOST_POINTS:
        return sympy.Add(*(along(matrix, way) for way in ways(matrix, between, [j], i)))
    if len(between) > LARGEST_SIZE:
        raise UnsupportedEquationsException(
            f"{len(between)} of its variables and constants lie on the ways by which one drives another; "
            f"at most {LARGEST_SIZE} may"
        )
    return matrix_exp(len(between), between.index(i), between.index(j), *(DT * matrix.extract(between, between)))


def ways(matrix, between, way, end):
    """The ways that go on from ``way`` to the ``end``, as lists of numbers."""
    if way[-1] == end:
        return [way]
    onward = [k for k in between if k != way[-1] and matrix[k, way[-1]] != 0]
    return [found for k in onward for found in ways(matrix, between, [*way, k], end)]


def along(matrix, way):
    """What comes through one way."""
    gains = [matrix[b, a] for a, b in pairwise(way)]
    return sympy.Mul(*gains) * DT ** len(gains) * divided_exp(*(DT * matrix[i, i] for i in way))


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


def may_vanish(rate):
    """Whether a rate of decay is zero for some numbers: it is no constant over others, as 1/tau is."""
    return rate != 0 and bool(sympy.fraction(sympy.together(rate))[0].free_symbols - {symbol("not_refractory")})
