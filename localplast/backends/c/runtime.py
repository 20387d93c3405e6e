"""The part of every kernel's C text that does not depend on the network, and phrases that several parts use."""

from localplast.equations import divided_exp, matrix_exp

__all__ = ["HELPERS", "add", "events", "gather_each", "indent", "taps", "total", "weighted"]

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
#define NEURONS for (int s = 0; s < S; s++) _Pragma("GCC ivdep") for (int i = 0; i < N; i++)

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
static inline real where_finite(real x, real y) { return y - y == 0 ? x : 0; }
static inline real exprel(real x) { return M(fabs)(x) < R(1e-9) ? R(1.0) + R(0.5) * x : M(expm1)(x) / x; }
"""
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

/* y (S, m) += a (S, n) b (n, m); m is a multiple of LANES. */
static void product(const real *a, long lda, long n, const real *b, long m, real *y)
{
    for (int s = 0; s < S; s += ROWS) {
        long column = 0;
        for (; column + COLUMNS * LANES <= m; column += COLUMNS * LANES)
            tile_wide(a + s * lda, lda, 1, n, b + column, m, y + s * m + column);
        for (; column < m; column += LANES)
            tile_narrow(a + s * lda, lda, 1, n, b + column, m, y + s * m + column);
    }
}

/* d (n, m) += a (S, n) transposed, times y (S, m). */
MULTIPLY_ADD void outer(const real *restrict a, long n, const real *restrict y, long m, real *restrict d)
{
    CONTRACT
    for (long k = 0; k < n; k++)
        for (long column = 0; column < m; column += LANES) {
            vec sum = *(vec *)(d + k * m + column);
            for (int s = 0; s < S; s++) sum += a[s * n + k] * *(const vec *)(y + s * m + column);
            *(vec *)(d + k * m + column) = sum;
        }
}

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

/* The same for a row of bytes, which are spikes: every value is one. */
INLINE long collect_bytes(const unsigned char *row, const int n, unsigned *list, real *value, long count)
{
    for (int i = 0; i < n; i++)
        if (row[i]) { value[count] = 1; list[count++] = i; }
    return count;
}
"""
)


def indent(lines, by=8):
    return "\n".join(" " * by + line for line in lines)


def events(link, when, body):
    """C loop over the presynaptic events of step ``when``; ``body`` sees the trial s, the neuron i and the size x."""
    number = link.pre.number
    sized = link.sized
    x = f"const real x = w->value{number}[e]; " if sized else ""
    return f"""for (int s = 0; s < w->live; s++)
        for (long e = w->start{number}[({when}) * S + s]; e < w->start{number}[({when}) * S + s + 1]; e++) {{
            const long i = w->list{number}[e]; {x}{body}
        }}"""


def add(link, to, row, share=None):
    """C statement: add a row, times the size of the event where it has one, and times ``share`` where it is given."""
    factors = " * ".join([*([share] if share else []), *(["x"] if link.sized else [])])
    if factors:
        return f"add_scaled({to}, {row}, {factors}, N);"
    return f"add_row({to}, {row}, N);"


def taps(link, at):
    """``[(delay in steps, share of the weight, d share / d delay)]`` as C text; ``at`` is the place in the table of
    delays.

    A delay between two steps is shared by both (linear interpolation); a whole one needs one tap, and no share.
    """
    if not link.between:
        return [(f"delay[{at}]", None, None)]
    return [(f"delay[{at}]", f"(R(1.0) - part[{at}])", "R(-1.0)"), (f"(delay[{at}] + 1)", f"part[{at}]", "R(1.0)")]


def total(terms):
    """The sum of C texts."""
    return " + ".join(terms) or "R(0.0)"


def weighted(terms):
    """The sum of C texts, each times its factor where it has one: ``[(text, factor or None)]``."""
    return total([f"{factor} * {text}" if factor else text for text, factor in terms])


def gather_each(link, rows, place):
    """How each target j reads, in trial s, its own step of a ring of ``rows``.

    Returns C statements, and ``[(text, share, d share / d delay)]``. ``place`` is the C text of the step, ``{}``
    standing for the delay. It is looked up once for all trials.
    """
    found = list(enumerate(taps(link, "j")))
    names = ", ".join(f"at{n}[N]" for n, _ in found)
    places = " ".join(f"at{n}[j] = wrap({place.format(d)}, ring) * S * N + j;" for n, (d, _, _) in found)
    lines = f"long {names}; for (int j = 0; j < {link.post.size}; j++) {{ {places} }}"
    return lines, [(f"{rows}[at{n}[j] + s * N]", share, slope) for n, (_, share, slope) in found]
