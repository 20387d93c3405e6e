"""The part of every kernel's C text that does not depend on the network."""

from localplast.backends.c.loops import NEURONS
from localplast.equations import divided_exp, matrix_exp

__all__ = ["HELPERS", "indent"]

#: Macros ``R(number)`` and ``M(function)`` give numbers and functions of libm the precision of ``real``;
#: ``LARGEST`` is that of :mod:`localplast.equations.slopes`.
HELPERS = r"""
#include <math.h>
#include <stddef.h>
#include <string.h>

#ifdef DOUBLE
typedef double real;
typedef long long mask;
#define R(x) (x)
#define M(name) name
#define LARGEST 0x1p511
#else
typedef float real;
typedef int mask;
#define R(x) (x##f)
#define M(name) name##f
#define LARGEST 0x1p63f
#endif
#ifdef __AVX512F__
enum { VECTOR = 64, COLUMNS = 3, ROWS = S < 8 ? S : 8 };
#elif defined(__AVX__)
enum { VECTOR = 32, COLUMNS = 3, ROWS = S < 4 ? S : 4 };
#else
enum { VECTOR = 16, COLUMNS = 3, ROWS = S < 4 ? S : 4 };
#endif
enum { LANES = VECTOR / sizeof(real), CHUNK = 64 / sizeof(real) };
typedef real vec __attribute__((vector_size(VECTOR)));
#ifdef __clang__
#define MULTIPLY_ADD static __attribute__((noinline))
#define CONTRACT _Pragma("clang fp contract(fast)")
#else
#define MULTIPLY_ADD static __attribute__((noinline, optimize("fp-contract=fast")))
#define CONTRACT
#endif
#define INLINE static inline __attribute__((always_inline))
"""
HELPERS += (
    NEURONS
    + r"""

/* Where in a ring of this length: x < 2 * length. Dividing at every synapse would cost more than its arithmetic. */
INLINE long wrap(long x, long length) { return x < length ? x : x - length; }

static inline real larger(real a, real b) { return a < b ? b : a; }
static inline real smaller(real a, real b) { return a > b ? b : a; }
static inline real bounded_number(real x) { return smaller(larger(x, -LARGEST), LARGEST); }
static int broken(const real *x, long n)
{
    for (long i = 0; i < n; i++) if (x[i] - x[i] != 0) return 1;
    return 0;
}
/* Not by a branch: what is needed in one only would be computed there, and no loop be vectorised. */
static inline real where_finite(real x, real y)
{
    union { real number; mask bits; } found = { x };
    found.bits &= -(mask)(y - y == 0);
    return found.number;
}
static inline real exprel(real x) { return M(fabs)(x) < R(1e-9) ? R(1.0) + R(0.5) * x : M(expm1)(x) / x; }
"""
)
HELPERS += (
    divided_exp.ENGINES.c_text
    + "\n"
    + matrix_exp.ENGINES.c_text
    + r"""

/* Of numpy: the remainder has the sign of the divisor, and the quotient is that without the remainder. */
static inline real modulo(real a, real b)
{
    const real rest = M(fmod)(a, b);
    return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}
static inline real floor_divide(real a, real b)
{
    const real quotient = (a - modulo(a, b)) / b, whole = M(floor)(quotient);
    return quotient - whole > R(0.5) ? whole + R(1.0) : whole;
}

/* Denormals: a trace that decays below 1e-38 (1e-308) would cost a trap per operation. */
#if defined(__SSE__)
static unsigned flush(void)
{
    unsigned old = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(old | 0x8040);
    return old;
}
static void unflush(unsigned old) { __builtin_ia32_ldmxcsr(old); }
#elif defined(__aarch64__)
static unsigned flush(void)
{
    unsigned long old;
    __asm__ volatile("mrs %0, fpcr" : "=r"(old));
    __asm__ volatile("msr fpcr, %0" : : "r"(old | (1ul << 24)));
    return (unsigned)old;
}
static void unflush(unsigned old) { __asm__ volatile("msr fpcr, %0" : : "r"((unsigned long)old)); }
#else
static unsigned flush(void) { return 0; }
static void unflush(unsigned old) { }
#endif

/* y (HIGH, WIDE vectors) += a b, the sums in registers; element (r, k) of a lies at r * row + k * step. */
#define EACH(index, count) _Pragma("GCC unroll 8") for (int index = 0; index < count; index++)
#define TILE(NAME, HIGH, WIDE)                                                                         \
    MULTIPLY_ADD void NAME(const real *a, long row, long step, long n, const real *b, long m, real *y) \
    {                                                                                                  \
        CONTRACT                                                                                       \
        vec sum[HIGH][WIDE], line[WIDE];                                                               \
        EACH(r, HIGH) EACH(c, WIDE) sum[r][c] = *(const vec *)(y + r * m + c * LANES);                 \
        for (long k = 0; k < n; k++) {                                                                 \
            EACH(c, WIDE) line[c] = *(const vec *)(b + k * m + c * LANES);                             \
            EACH(r, HIGH) EACH(c, WIDE) sum[r][c] += a[r * row + k * step] * line[c];                  \
        }                                                                                              \
        EACH(r, HIGH) EACH(c, WIDE) *(vec *)(y + r * m + c * LANES) = sum[r][c];                       \
    }
TILE(tile_wide, ROWS, COLUMNS)
TILE(tile_narrow, ROWS, 1)

INLINE void add_row(real *restrict to, const real *restrict row, const int n)
{
#pragma GCC ivdep
    for (int i = 0; i < n; i++) to[i] += row[i];
}

INLINE void add_scaled(real *restrict to, const real *restrict row, real x, const int n)
{
#pragma GCC ivdep
    for (int i = 0; i < n; i++) to[i] += x * row[i];
}

/* Append the positions of set entries to list. Most chunks have none. */
INLINE long collect(const mask *fired, const int n, unsigned *list, long count)
{
    for (int i = 0; i < n; i += CHUNK) {
        unsigned long long word[8], any = 0;
        memcpy(word, fired + i, 64);
        EACH(j, 8) any |= word[j];
        for (int j = i; any && j < i + CHUNK && j < n; j++)
            if (fired[j]) list[count++] = j;
    }
    return count;
}

INLINE long collect_bits(const unsigned char *row, const int n, unsigned *list, long count)
{
    for (int i = 0; i < n; i += 8) {
        unsigned long long any = 0;
        if (n - i >= 8) memcpy(&any, row + i, 8);
        else memcpy(&any, row + i, n - i);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        any = __builtin_bswap64(any);
#endif
        while (any) { /* a branch per spike, not per channel */
            const int j = __builtin_ctzll(any) >> 3;
            list[count++] = i + j;
            any &= ~(255ull << (8 * j));
        }
    }
    return count;
}

INLINE long collect_numbers(const real *row, const int n, unsigned *list, real *value, long count)
{
    for (int i = 0; i < n; i += CHUNK) {
        const int left = n - i < CHUNK ? n - i : CHUNK;
        int any = 0;
        for (int j = i; j < i + left; j++) any |= row[j] != 0;
        for (int j = i; any && j < i + left; j++)
            if (row[j] != 0) { value[count] = row[j]; list[count++] = j; }
    }
    return count;
}
"""
)


def indent(lines, by=8):
    return "\n".join(" " * by + line for line in lines)
