"""Divided differences of the exponential: what integrators and derivatives need where quotients are 0/0.

.. math::  \\exp[x_0] = e^{x_0},\\quad
           \\exp[x_0, \\dots, x_n] = \\frac{\\exp[x_1, \\dots, x_n] - \\exp[x_0, \\dots, x_{n-1}]}{x_n - x_0}

The function is smooth everywhere, whichever of its points meet, and does not ask for their order. Its derivative with
respect to a point is the same function with that point given twice; ``exprel(x)`` is ``exp[0, x]``. Points near
each other are summed as a series, others as written above, alike for every engine: numpy, Torch, C, and Brian2 by name.

McCurdy, Ng & Parlett 1984, Math Comput 43:501.
"""

import math

import sympy

from localplast.equations.variadic import Engines, Variadic

__all__ = ["ENGINES", "MOST_POINTS", "divided_exp", "exprel", "value"]

#: Points that the engines take.
MOST_POINTS = 9
#: Points further apart than this are subtracted and divided: what is lost by it is less than a digit.
WIDE = 2.0
#: Powers of an offset of at most WIDE/2 that are not zero to double precision.
TERMS = 20


class divided_exp(Variadic):
    """``exp[x_0, ..., x_n]``."""

    @classmethod
    def eval(cls, *points):
        if len(points) == 1:
            return sympy.exp(points[0])
        ordered = sorted(points, key=sympy.default_sort_key)
        return cls(*ordered) if list(points) != ordered else None

    def fdiff(self, argindex=1):
        return divided_exp(*self.args, self.args[argindex - 1])


class exprel(sympy.Function):
    """Brian2's ``exprel(x)``, ``(exp(x) - 1)/x``, with a derivative that is a number at 0 too."""

    def fdiff(self, argindex=1):
        return divided_exp(0, self.args[0], self.args[0])

    def _eval_is_real(self):
        return True


def value(module, *points):
    """The number, by ``module``: numpy, or torch without its derivative."""
    points = ordered(module, points)
    last = points[-1]
    points = [p - last for p in points]  # no exponential below is larger than 1
    found = [module.exp(p) for p in points]
    for order in range(1, len(points)):
        found = [quotient(module, points[i : i + order + 1], *found[i : i + 2]) for i in range(len(points) - order)]
    return module.exp(last) * found[0]


def ordered(module, points):
    """From the smallest to the largest, number by number."""
    points = list(points)
    for end in range(len(points) - 1, 0, -1):
        for i in range(end):
            points[i : i + 2] = module.minimum(*points[i : i + 2]), module.maximum(*points[i : i + 2])
    return points


def quotient(module, points, left, right):
    """One step up: from the differences of all points but the last, and all but the first."""
    spread = points[-1] - points[0]
    apart = spread > WIDE
    return module.where(apart, (right - left) / module.where(apart, spread, 1.0 + 0.0 * spread), series(module, points))


def series(module, points):
    """Around the middle of the points: complete symmetric polynomials of the offsets over factorials."""
    middle, order = (points[0] + points[-1]) / 2, len(points) - 1
    offsets = [module.clip(p - middle, -WIDE / 2, WIDE / 2) for p in points]
    powers, total = [1.0] * len(points), 1.0 / math.factorial(order)
    for k in range(1, TERMS + 1):
        powers[0] = powers[0] * offsets[0]
        for j in range(1, order + 1):
            powers[j] = powers[j - 1] + powers[j] * offsets[j]
        total = total + powers[order] * (1.0 / math.factorial(order + k))
    return module.exp(middle) * total


#: The same as C and as C++, see :class:`~localplast.equations.variadic.Engines`.
C_TEXT = (
    """
static real divided_exp(int n, real *x)
{
    static const real share[] = {%(shares)s};
    for (int end = n - 1; end > 0; end--)
        for (int i = 0; i < end; i++)
            if (x[i] > x[i + 1]) { real y = x[i]; x[i] = x[i + 1]; x[i + 1] = y; }
    const real last = x[n - 1];
    real found[%(most)d], power[%(most)d];
    for (int i = 0; i < n; i++) { x[i] -= last; found[i] = M(exp)(x[i]); }
    for (int order = 1; order < n; order++)
        for (int i = 0; i < n - order; i++) {
            const real spread = x[i + order] - x[i], middle = (x[i] + x[i + order]) / R(2.0);
            if (spread > R(%(wide)s)) { found[i] = (found[i + 1] - found[i]) / spread; continue; }
            real total = share[order];
            for (int j = 0; j <= order; j++) power[j] = R(1.0);
            for (int k = 1; k <= %(terms)d; k++) {
                power[0] *= x[i] - middle;
                for (int j = 1; j <= order; j++) power[j] = power[j - 1] + power[j] * (x[i + j] - middle);
                total += power[order] * share[order + k];
            }
            found[i] = M(exp)(middle) * total;
        }
    return M(exp)(last) * found[0];
}
"""
    % {
        "shares": ", ".join(f"R({1.0 / math.factorial(k)!r})" for k in range(TERMS + MOST_POINTS)),
        "most": MOST_POINTS,
        "wide": WIDE,
        "terms": TERMS,
    }
).strip()


#: The function for text and C, of each number of points.
ENGINES = Engines(divided_exp, tuple(range(2, MOST_POINTS + 1)), value, C_TEXT)
