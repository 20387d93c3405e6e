"""The part of every kernel's C text that computes with whole rows: vector functions, products, threads that meet."""

from localplast.backends.c.loops import EVERY

__all__ = ["HEAD"]

#: Functions that the C library computes for a whole vector at once, to four units in the last place.
WIDE = ("exp", "log", "sin", "cos", "tan", "sinh", "cosh", "tanh", "asin", "acos", "atan", "expm1", "log1p", "log10")

#: Vector functions, loops over columns, whether numbers are finite, and the one product of matrices.
HEAD = (
    f"""
#include <sched.h>
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#if __GLIBC_PREREQ(2, 35)
{chr(10).join(f'__attribute__((simd("notinbranch"))) real M({name})(real);' for name in WIDE)}
__attribute__((simd("notinbranch"))) real M(pow)(real, real);
#endif
#endif
"""
    + "\n"
    + EVERY
    + r"""
#define BROKEN(x) -(mask)!(M(fabs)(x) <= LARGEST) /* beyond it squares, and so losses, are infinite */

/* Wait until all threads of the team are here; gate holds how many have come, and how often all have. */
static void meet(long long *gate, long team)
{
    if (team == 1) return;
    const long long before = __atomic_load_n(gate + 1, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(gate, 1, __ATOMIC_ACQ_REL) == team) {
        __atomic_store_n(gate, 0, __ATOMIC_RELAXED);
        __atomic_store_n(gate + 1, before + 1, __ATOMIC_RELEASE);
        return;
    }
    for (long turns = 0; __atomic_load_n(gate + 1, __ATOMIC_ACQUIRE) == before; turns++)
        if (turns > 2000) sched_yield(); /* others need the processor */
}

/* Add up the sums of all threads, of rows low to high; those of the others begin anew. */
static void gather(real *sums, long size, long low, long high, long n, long team)
{
    for (long other = 1; other < team; other++) {
        add_row(sums + low * n, sums + other * size + low * n, (high - low) * n);
        memset(sums + other * size + low * n, 0, (high - low) * n * sizeof(real));
    }
}

/* Whether some number of these rows is not finite, or so large that its square is not. */
static int too_large(const real *x, long rows, long n, long m)
{
    mask wrong = 0;
    for (long r = 0; r < rows; r++) for (long i = 0; i < n; i++) wrong |= BROKEN(x[r * m + i]);
    return wrong != 0;
}

/* What lies behind n numbers may be anything. */
MULTIPLY_ADD real dot(const real *restrict a, const real *restrict b, long n)
{
    CONTRACT
    vec sum = {0};
    real total = 0;
    long j = 0;
    for (; j + LANES <= n; j += LANES) sum += *(const vec *)(a + j) * *(const vec *)(b + j);
    EACH(l, LANES) total += sum[l];
    for (; j < n; j++) total += a[j] * b[j];
    return total;
}

TILE(tile_middle, ROWS, 2)
TILE(line_wide, 1, COLUMNS)
TILE(line_middle, 1, 2)
TILE(line_narrow, 1, 1)
/* Down all rows of some columns. Three rows or more that are left over cost less as a block that reaches into the padding. */
#define DOWN(SIZE)                                                                                     \
    {                                                                                                  \
        long r = 0;                                                                                    \
        for (; r + 2 < rows; r += ROWS) tile_##SIZE(a + r * row, row, step, n, b + c, m, y + r * m + c); \
        for (; r < rows; r++) line_##SIZE(a + r * row, row, step, n, b + c, m, y + r * m + c);          \
    }

/* y (rows, m) += a (rows, n) b (n, m); m is a multiple of LANES, y has rows up to a multiple of ROWS. */
static void part(const real *a, long row, long step, long rows, long n, const real *b, long m, real *y)
{
    for (long c = 0, left; (left = (m - c) / LANES) > 0; c += (left == 4 || left == 2 ? 2 : left > 2 ? 3 : 1) * LANES)
        if (left == 4 || left == 2) DOWN(middle)
        else if (left > 2) DOWN(wide)
        else DOWN(narrow)
}

/* The same in parts of b that a cache holds. */
static void add_product(const real *a, long row, long step, long rows, long n, const real *b, long m, real *y)
{
    enum { DEPTH = 256 };
    for (; n > 0; a += DEPTH * step, b += DEPTH * m, n -= DEPTH) part(a, row, step, rows, n < DEPTH ? n : DEPTH, b, m, y);
}
"""
)
