"""Entries of the exponential of a small matrix, and of its derivatives: what integrators need where variables form
loops.

For a matrix M of any kind, whether its roots are real, complex, or meet. Its derivative along a matrix D is the upper
right block of the exponential of ``[[M, D], [0, M]]``; further ones have more such blocks. All are summed as a series
for ``M/2**k`` and squared k times. What is squared is ``P = exp(M) - 1``, by ``2 P + P P``: entries near 1 do not
swallow the others, so that slow and fast, weak and strong coupling keep their digits, in whatever units.

Al-Mohy & Higham 2009, SIAM J Matrix Anal Appl 30:1639.
"""

import math

import numpy as np
import sympy

from localplast.equations.variadic import Engines, Variadic

__all__ = ["ENGINES", "LARGEST_SIZE", "matrix_exp", "value"]

#: Rows of the largest matrix that the engines take, and how many derivatives of it.
LARGEST_SIZE, DERIVATIVES = 8, 2
#: Terms of the series: with a norm of at most 1/4 others are zero to double precision, also in its derivative.
TERMS = 12
#: What decays by more than this in all its variables is zero to double precision: ``exp(-30)`` is 1e-13.
FAST = 30.0


class matrix_exp(Variadic):
    """``matrix_exp(size, row, column, *M, *D1, *D2, ...)``: one entry of ``exp(M)``, differentiated along each D."""

    def _eval_derivative(self, symbol):
        """The chain and the product rule; not by fdiff, which would need a function for every entry."""
        head, matrices = self.args[:3], matrices_of(self.args)
        slopes = [[e.diff(symbol) for e in matrix] for matrix in matrices]
        own = [[*matrices[:k], slopes[0], *matrices[k:]] for k in range(1, len(matrices) + 1)]
        others = [[*matrices[:k], slopes[k], *matrices[k + 1 :]] for k in range(1, len(matrices))]
        moved = [*(own if any(slopes[0]) else []), *(m for k, m in enumerate(others, 1) if any(slopes[k]))]
        return sympy.Add(*(matrix_exp(*head, *(e for matrix in ms for e in matrix)) for ms in moved))


def matrices_of(arguments):
    """The matrices M, D1, ... as lists of their entries, row by row."""
    area, entries = int(arguments[0]) ** 2, arguments[3:]
    return [list(entries[i : i + area]) for i in range(0, len(entries), area)]


def value(module, size, row, column, *entries):
    """The number, by ``module``: numpy, or torch."""
    size, row, column = int(size), int(row), int(column)
    broadcast = np.broadcast_arrays if module is np else module.broadcast_tensors
    matrices = matrices_of((size, row, column, *broadcast(*entries)))
    shift = module.clip(module.amax(module.stack(matrices[0][:: size + 1], -1), -1), -FAST, FAST)
    matrices[0][:: size + 1] = [e - shift for e in matrices[0][:: size + 1]]
    halvings = max(0, math.frexp(size * abs(module.stack(matrices[0])).max().item())[1] + 2)
    scaled = blocks(module, size, matrices) / 2.0**halvings
    power = scaled
    for k in range(TERMS, 1, -1):
        power = scaled + scaled @ power / k
    for _ in range(halvings):
        power = 2 * power + power @ power
    found = power[..., row, column + size * (len(matrices) - 1)]
    return module.exp(shift) * (found + 1.0 if len(matrices) == 1 and row == column else found)


def blocks(module, size, matrices):
    """M on the diagonal of a matrix of blocks, and D1, D2, ... above it."""
    zero, rows = module.zeros_like(matrices[0][0]), range(size * len(matrices))

    def at(row, column):
        above, place = column // size - row // size, row % size * size + column % size
        return (matrices[0] if above == 0 else matrices[column // size])[place] if above in (0, 1) else zero

    entries = module.stack([at(row, column) for row in rows for column in rows], -1)
    return entries.reshape((*entries.shape[:-1], len(rows), len(rows)))


#: The same as C and as C++, see :class:`~localplast.equations.variadic.Engines`.
C_TEXT = (
    """
/* power = share left + factor left power */
static void matrix_power(int n, const real *left, real share, real factor, real *power)
{
    real next[%(most)d];
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            real sum = 0;
            for (int k = 0; k < n; k++) sum += left[i * n + k] * power[k * n + j];
            next[i * n + j] = share * left[i * n + j] + factor * sum;
        }
    for (int i = 0; i < n * n; i++) power[i] = next[i];
}
static real matrix_exp(int count, real *x)
{
    const int size = (int)x[0], row = (int)x[1], column = (int)x[2], area = size * size;
    const int order = (count - 3) / area, n = size * order;
    real scaled[%(most)d], power[%(most)d], shift = x[3], largest = 0;
    int halvings = 0;
    for (int i = 0; i < area; i += size + 1) if (x[3 + i] > shift) shift = x[3 + i];
    shift = shift > R(%(fast)s) ? R(%(fast)s) : shift < -R(%(fast)s) ? -R(%(fast)s) : shift;
    for (int i = 0; i < area; i += size + 1) x[3 + i] -= shift;
    for (int i = 0; i < area; i++) if (M(fabs)(x[3 + i]) > largest) largest = M(fabs)(x[3 + i]);
    M(frexp)(size * largest, &halvings);
    halvings = halvings > -2 ? halvings + 2 : 0;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            const int above = j / size - i / size, from = above ? j / size : 0, place = i %% size * size + j %% size;
            scaled[i * n + j] = above == 0 || above == 1 ? M(ldexp)(x[3 + from * area + place], -halvings) : 0;
            power[i * n + j] = scaled[i * n + j];
        }
    for (int k = %(terms)d; k > 1; k--) matrix_power(n, scaled, R(1.0), R(1.0) / k, power);
    for (int k = 0; k < halvings; k++) matrix_power(n, power, R(2.0), R(1.0), power);
    const real found = power[row * n + column + n - size];
    return M(exp)(shift) * (order == 1 && row == column ? R(1.0) + found : found);
}
"""
    % {"most": (LARGEST_SIZE * (1 + DERIVATIVES)) ** 2, "fast": FAST, "terms": TERMS}
).strip()

#: The function for text and C, of a matrix of each size and its derivatives.
ENGINES = Engines(
    matrix_exp,
    tuple(3 + size**2 * (1 + order) for order in range(1 + DERIVATIVES) for size in range(2, LARGEST_SIZE + 1)),
    value,
    C_TEXT,
)
