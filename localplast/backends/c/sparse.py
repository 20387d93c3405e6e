"""The C text of what travels through few synapses: rows of those that there are.

The synapses of neuron ``i`` before them are ``start[i] <= q < start[i + 1]``, and ``end[q]`` is the neuron behind.
"""

from localplast.backends.c.loops import INDEPENDENT, TRIALS, each
from localplast.backends.c.memory import as_list

__all__ = ["SPARSE", "each_synapse", "few_arrivals", "few_outer", "few_rows", "few_send"]

#: Backwards every synapse reads a number of each trial: they lie side by side then, as one vector.
SPARSE = r"""
enum { SIDE = S < 8 ? S : 8 };
typedef real beside __attribute__((vector_size(SIDE * sizeof(real))));

/* Of every row the sum of weights times what the neurons behind say; "across" has room for as many vectors as these. */
MULTIPLY_ADD void add_gathered(real *target, long m, const real *source, long n, long trials, long rows,
                               const int *start, const int *end, const real *weight, beside *across)
{
    CONTRACT
    for (long first = 0; first < trials; first += SIDE) {
        const long live = trials - first < SIDE ? trials - first : SIDE;
        for (long j = 0; j < n; j++)
            for (long s = 0; s < SIDE; s++) across[j][s] = s < live ? source[(first + s) * n + j] : 0;
        for (long i = 0; i < rows; i++) {
            const long last = start[i + 1];
            beside sum[4] = {{0}}; /* several, or each addition would wait for the one before */
            long q = start[i];
            for (; q + 4 <= last; q += 4) EACH(k, 4) sum[k] += weight[q + k] * across[end[q + k]];
            for (; q < last; q++) sum[0] += weight[q] * across[end[q]];
            sum[0] += sum[1] + (sum[2] + sum[3]);
            for (long s = 0; s < live; s++) target[(first + s) * m + i] += sum[0][s];
        }
    }
}
"""


def declared(memory, link):
    """C declarations of where the rows begin, and of the neurons behind."""
    start, end = memory.neighbours(link)
    return f"const int *restrict start = {start}, *restrict end = {end};"


def each_synapse(statement, row="i"):
    """C loop over the synapses of a presynaptic neuron: none of them has the same end as another one."""
    return f"{INDEPENDENT} for (long q = start[{row}]; q < start[{row} + 1]; q++) {statement}"


def each_source(memory, s, name, space, statement):
    """The same, for whatever is not zero of ``name``: x, of trial s."""
    if as_list(memory.backward, s, name):
        return memory.events(name, each_synapse(statement))
    return f"""{TRIALS}
        {each(memory.size(space))} {{
            const real x = {memory.values(name)}[s * {memory.padded(space)} + i];
            if (x != 0) {each_synapse(statement)}
        }}"""


def scale(memory, s, name):
    """C text of the factor by which an event, or a number, counts."""
    return "x * " if not as_list(memory.backward, s, name) or memory.first(name) in memory.sized else ""


def few_send(memory, s, link):
    """One Send without delays."""
    n, m = memory.padded(link.post), memory.padded(link.pre)
    head = f"""    {declared(memory, link)}
    const real *restrict weight = {memory.vector(link, s.weight)};"""
    if s.back:
        across = memory.want(f"across_{memory.identifier(link.post)}", "beside", str(n))
        given = f"{memory.values(s.source)}, {n}, S, {memory.size(link.pre)}, start, end, weight, {across}"
        return f"{head}\n    add_gathered(target, {m}, {given});"
    put = f"target[s * {n} + end[q]] += {scale(memory, s, s.source)}weight[q];"
    return f"{head}\n    {each_source(memory, s, s.source, link.pre, put)}"


def few_outer(memory, s, link):
    """One Outer: a number for each synapse."""
    put = f"into[q] += {scale(memory, s, s.pre)}post[s * {memory.padded(link.post)} + end[q]];"
    return f"""    {declared(memory, link)}
    const real *restrict post = {memory.values(s.post)};
    real *restrict into = {memory.total(s.into)};
    {each_source(memory, s, s.pre, link.pre, put)}"""


def few_arrivals(memory, s, link, number, loop):
    """What arrives at every synapse: in a ``loop`` over the taps of a delay the ``number`` that i sends to neuron j."""
    return f"""    {declared(memory, link)}
    const long many = {memory.count(link)[1]};
    real *restrict target = {memory.values(s.target)};
    memset(target, 0, S * many * sizeof(real));
    {TRIALS}
        {each(memory.size(link.pre))} {{
            {loop}{each_synapse(f"{{ const long j = end[q]; (void)j; target[s * many + q] += {number}; }}")}
        }}"""


def few_rows(memory, link, body):
    """Lines of C: a loop over the synapses q of the row h, each with the neuron i behind it."""
    return [
        declared(memory, link),
        each_synapse("{", "h"),
        "    const long i = end[q];",
        *(f"    {line}" for line in body),
        "}",
    ]
