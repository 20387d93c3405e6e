"""Convolutions in C: what each position of a kernel sees is laid out as a matrix, the rest is a product of matrices.

Of an image ``(channel, row, column)`` the columns of that matrix are the positions, its rows the synapses of the
kernel. Groups of channels are products of their own, one after the other: a product may write into the rows of the next
group, which begins at zero after that.
"""

import numpy as np

from localplast.backends.c.loops import TRIALS
from localplast.backends.c.memory import SPARE

__all__ = ["CONVOLUTION", "convolve", "kernel_sum"]

#: How an image and that matrix become each other; ``rows``: turned round, a position per row.
CONVOLUTION = r"""
struct shape { int channels, rows, columns, size, stride, padding, made_rows, made_columns; };
#define OF_SYNAPSES                                  \
    for (int c = 0; c < f.channels; c++)             \
        for (int i = 0; i < f.size; i++)             \
            for (int j = 0; j < f.size; j++)
#define OF_POSITIONS                                 \
    for (int y = 0; y < f.made_rows; y++)            \
        for (int x = 0; x < f.made_columns; x++)
#define SYNAPSE ((c * f.size + i) * f.size + j)
#define POSITION (y * f.made_columns + x)
#define ROW (y * f.stride + i - f.padding)
#define COLUMN (x * f.stride + j - f.padding)
#define INSIDE (f.padding == 0 || (unsigned)ROW < (unsigned)f.rows & (unsigned)COLUMN < (unsigned)f.columns)
#define PIXEL image[(c * f.rows + ROW) * f.columns + COLUMN]

INLINE void unfold(const struct shape f, const real *restrict image, real *restrict to, const long m)
{
    OF_SYNAPSES OF_POSITIONS to[SYNAPSE * m + POSITION] = INSIDE ? PIXEL : 0;
}

INLINE void unfold_rows(const struct shape f, const real *restrict image, real *restrict to, const long m)
{
    OF_POSITIONS OF_SYNAPSES to[POSITION * m + SYNAPSE] = INSIDE ? PIXEL : 0;
}

INLINE void fold(const struct shape f, real *restrict image, const real *restrict from, const long m)
{
    OF_SYNAPSES OF_POSITIONS if (INSIDE) PIXEL += from[SYNAPSE * m + POSITION];
}
"""


def geometry(form):
    """The struct of a Convolution, one group of channels."""
    channels, rows, columns = form.image
    numbers = (channels // form.groups, rows, columns, form.size, form.stride, form.padding, *form.made[1:])
    return f"(const struct shape){{ {', '.join(map(str, numbers))} }}"


def sizes(memory, form):
    """Synapses of a kernel, channels that a group makes, positions, positions padded."""
    positions = int(np.prod(form.made[1:]))
    return int(np.prod(form.shape[1:])), form.channels // form.groups, positions, memory.whole(positions)


def scratch(memory, name, rows, columns):
    """Memory for one matrix, shared by all that need some."""
    _, count, _ = memory.fields.get(name, (None, 0, None))
    return memory.want(name, "real", max(count, (rows + SPARE) * columns))


def convolve(memory, link, s):
    """A Send through a kernel: of what is made from an image, or back to it."""
    form = link.form.convolution
    synapses, channels, positions, padded = sizes(memory, form)
    weight = memory.kernel(link, s.weight)
    cells, made = scratch(memory, "cells", synapses, padded), scratch(memory, "made", channels, padded)
    pixels = int(np.prod(form.image)) // form.groups
    widths = f"WIDTH = {memory.whole(synapses)}, M = {padded}"
    return f"""    enum {{ SYNAPSES = {synapses}, CHANNELS = {channels}, POSITIONS_ = {positions}, {widths} }};
    const real *weight = {weight}, *source = {memory.values(s.source)};
    real *cells = {cells}, *made = {made};
    const struct shape f = {geometry(form)};
    {TRIALS}
        for (long g = 0; g < {form.groups}; g++) {{
            const real *from = source + s * {memory.padded(link.post if s.back else link.pre)};
            real *to = target + s * {memory.padded(link.pre if s.back else link.post)};
{back_to_image(pixels) if form.transposed != s.back else from_image(pixels)}
        }}"""


def from_image(pixels):
    return f"""            unfold(f, from + g * {pixels}, cells, M);
            memset(made, 0, CHANNELS * M * sizeof(real));
            add_product(weight + g * CHANNELS * WIDTH, WIDTH, 1, CHANNELS, SYNAPSES, cells, M, made);
            for (long c = 0; c < CHANNELS; c++) add_row(to + (g * CHANNELS + c) * POSITIONS_, made + c * M, POSITIONS_);"""


def back_to_image(pixels):
    return f"""            for (long c = 0; c < CHANNELS; c++) {{
                memset(made + c * M, 0, M * sizeof(real));
                memcpy(made + c * M, from + (g * CHANNELS + c) * POSITIONS_, POSITIONS_ * sizeof(real));
            }}
            memset(cells, 0, SYNAPSES * M * sizeof(real));
            add_product(weight + g * CHANNELS * WIDTH, 1, WIDTH, SYNAPSES, CHANNELS, made, M, cells);
            fold(f, to + g * {pixels}, cells, M);"""


def kernel_sum(memory, link, s):
    """An Outer of a kernel: summed over all positions."""
    form = link.form.convolution
    synapses, channels, positions, _ = sizes(memory, form)
    width = memory.whole(synapses)
    cells, sums = scratch(memory, "cells", positions, width), scratch(memory, "made", channels, width)
    pre, post = ((s.pre, link.pre), (s.post, link.post))
    image, made = (post, pre) if form.transposed else (pre, post)
    add = f"add_scaled(into + {{}}, sums + c * M, R({float(link.times)!r}), SYNAPSES)"
    return f"""    enum {{ SYNAPSES = {synapses}, CHANNELS = {channels}, POSITIONS_ = {positions}, M = {width} }};
    real *cells = {cells}, *sums = {sums}, *into = {memory.total(s.into)};
    const struct shape f = {geometry(form)};
    {TRIALS}
        for (long g = 0; g < {form.groups}; g++) {{
            const real *image = {memory.values(image[0])} + s * {memory.padded(image[1])};
            const real *made = {memory.values(made[0])} + s * {memory.padded(made[1])};
            unfold_rows(f, image + g * {int(np.prod(form.image)) // form.groups}, cells, M);
            memset(sums, 0, CHANNELS * M * sizeof(real));
            add_product(made + g * CHANNELS * POSITIONS_, POSITIONS_, 1, CHANNELS, POSITIONS_, cells, M, sums);
            for (long c = 0; c < CHANNELS; c++) {add.format("(g * CHANNELS + c) * M")};
        }}"""
