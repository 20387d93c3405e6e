"""The C text of what travels: sends, delay lines, and the products of two ends that weights learn from.

Steps are counted by ``n``, in the direction in which the program runs. What is late waits in a ring: spikes where they
will arrive, numbers where they left.
"""

from localplast.backends.c.convolution import convolve, kernel_sum
from localplast.backends.c.loops import INDEPENDENT, TRIALS, each
from localplast.backends.c.memory import as_list
from localplast.backends.c.sparse import few_arrivals, few_outer, few_send
from localplast.program.arrays import Diagonal, Kernel, Sparse

__all__ = ["CHUNK_STEPS", "outer", "send"]

#: Steps whose products are summed as one.
CHUNK_STEPS = 16


def send(memory, s, *, backwards):
    """One Send."""
    link = memory.spaces[s.link]
    ends = (link.post, link.pre) if s.back else (link.pre, link.post)
    if isinstance(link.form, Kernel):
        text = convolve(memory, link, s)
    elif memory.arrays[s.target].space == s.link:
        return arrivals(memory, s, link, backwards)
    elif isinstance(link.form, Sparse):
        text = few_send(memory, s, link)
    elif isinstance(link.form, Diagonal) and not s.taps:
        text = f"    add_row(target, {memory.values(s.source)}, S * {memory.padded(link.pre)});"
    elif isinstance(link.form, Diagonal):
        text = line(memory, s, link, backwards)
    elif s.taps:
        ahead = looked_up if s.weight in memory.moving else scattered
        text = (gathered if s.back else ahead)(memory, s, link, backwards)
    else:
        text = product(memory, s, link, ends)
    clear = "" if s.add else f"memset(target, 0, S * {memory.padded(ends[1])} * sizeof(real));"
    return f"""    real *restrict target = {memory.values(s.target)};
    {clear}
{text}{collected(memory, s, ends[1])}"""


def collected(memory, s, space):
    """The list of what a delay line delivers."""
    if s.target not in memory.listed:
        return ""
    place, many, *value = memory.lists(s.target)
    value = value[0] if value else "w->sizes"
    memory.want("sizes", "real", max(memory.size(n) for n in memory.spaces))
    at = f"target + s * {memory.padded(space)}"
    return f"\n    {TRIALS} {many} = collect_numbers({at}, {memory.size(space)}, {place}, {value}, 0);"


def each_source(memory, s, name, space, body):
    """C loop over what is not zero of ``name``, trial s, neuron i, number x."""
    if as_list(memory.backward, s, name):
        sized = memory.first(name) in memory.sized
        return memory.events(name, body if sized else f"const real x = 1; {body}")
    return f"""{TRIALS}
        {each(memory.size(space))} {{
            const real x = {memory.values(name)}[s * {memory.padded(space)} + i];
            {body}
        }}"""


def add(memory, name, to, row, many, factor=None):
    """C statement: add a row as often as an event of ``name`` says."""
    factors = [*(["x"] if memory.first(name) in memory.sized else []), *([factor] if factor else [])]
    if factors:
        return f"add_scaled({to}, {row}, {' * '.join(factors)}, {many});"
    return f"add_row({to}, {row}, {many});"


def product(memory, s, link, ends):
    """Dense weights without taps: rows of events, or a product."""
    pre, post = ends
    weight = memory.matrix(link, s.weight, s.back)
    n, rows = memory.padded(post), memory.padded(pre)
    if as_list(memory.backward, s, s.source):
        row = add(memory, s.source, f"target + s * {n}", f"weight + i * {n}", n)
        return f"    const real *restrict weight = {weight};\n    {memory.events(s.source, row)}"
    source = memory.values(s.source)
    return f"    add_product({source}, {rows}, 1, S, {memory.size(pre)}, {weight}, {n}, target);"


# --- what is late -----------------------------------------------------------------------------------------------------


def ring(memory, s, space, backwards):
    """``(declarations, index of a tap, share or None)`` of a statement that is late; ``{}`` is the neuron in the table.

    In the text, ``late`` is the ring, ``here`` its present step, ``length`` how many there are.
    """
    steps, share, many, kind = memory.taps(s)
    found, length = memory.ring(s, space, backwards=backwards)
    lines = f"""    const int *restrict steps = {steps};
    {f"const real *restrict share = {share};" if share else ""}
    const long taps = {many}, length = {length}, here = n % length;
    real *restrict late = {found};"""
    return lines, kind, bool(share)


def where(memory, link, kind, s="i", j="j"):
    """The place of a tap k in its table, as C text: of the synapse from ``s`` to ``j``, or of a neuron ``s``."""
    if kind == "shared":
        return "k"
    if kind == "synaptic":
        return f"(k * {memory.size(link.pre)} + {s}) * {memory.size(link.post)} + {j}"
    if kind == "dendritic" and not isinstance(link.form, Diagonal):
        return f"k * {memory.size(link.post)} + {j}"
    return f"k * {memory.size(link.pre)} + {s}"


#: What has come to the end of its delay.
ARRIVED = """
    real *now = late + here * S * {n};
    add_row(target, now, S * {n});
    memset(now, 0, S * {n} * sizeof(real));"""


def line(memory, s, link, backwards):
    """A delay line."""
    n, size = memory.padded(link.pre), memory.size(link.pre)
    declared, kind, shared = ring(memory, s, link.pre, backwards)
    at = where(memory, link, kind)
    if as_list(memory.backward, s, s.source):
        times = f" * share[{at}]" if shared else ""
        body = (
            f"for (long k = 0; k < taps; k++) late[(wrap(here + steps[{at}], length) * S + s) * {n} + i] += x{times};"
        )
        return f"{declared}\n    {each_source(memory, s, s.source, link.pre, body)}{ARRIVED.format(n=n)}"
    put = f"{declared}\n    memcpy(late + here * S * {n}, {memory.values(s.source)}, S * {n} * sizeof(real));"
    if kind == "shared":
        row = f"late + wrap(here + length - steps[k], length) * S * {n}"
        call = f"add_scaled(target, {row}, share[k], S * {n})" if shared else f"add_row(target, {row}, S * {n})"
        return f"{put}\n    for (long k = 0; k < taps; k++) {call};"
    times = f"share[{at}] * " if shared else ""
    return f"""{put}
    for (long k = 0; k < taps; k++) {{
        long from[{size}];
        {each(size)} from[i] = wrap(here + length - steps[{at}], length) * S * {n} + i;
        {TRIALS}
            {INDEPENDENT} {each(size)} target[s * {n} + i] += {times}late[from[i] + s * {n}];
    }}"""


def scattered(memory, s, link, backwards):
    """Synapses with delays of their own: what leaves is put where it will arrive."""
    n, size = memory.padded(link.post), memory.size(link.post)
    declared, kind, shared = ring(memory, s, link.post, backwards)
    at = where(memory, link, kind)
    times = f" * share[{at}]" if shared else ""
    body = f"""if (x != 0) for (long k = 0; k < taps; k++) {each(size, "j")}
                late[(wrap(here + steps[{at}], length) * S + s) * {n} + j] += weight[i * {n} + j]{times} * x;"""
    return f"""{declared}
    const real *restrict weight = {memory.matrix(link, s.weight, False)};
    {each_source(memory, s, s.source, link.pre, body)}{ARRIVED.format(n=n)}"""


def sent_before(memory, s, link, backwards):
    """``(C text, number)``: a ring of what has left presynaptic neurons; what arrives at synapse (i, j) of one tap."""
    n = memory.padded(link.pre)
    declared, kind, shared = ring(memory, s, link.pre, backwards)
    at = where(memory, link, kind)
    put = each_source(memory, s, s.source, link.pre, f"late[(here * S + s) * {n} + i] = x;")
    read = f"late[(wrap(here + length - steps[{at}], length) * S + s) * {n} + i]"
    text = f"{declared}\n    memset(late + here * S * {n}, 0, S * {n} * sizeof(real));\n    {put}"
    return text, f"share[{at}] * {read}" if shared else read


def arrivals(memory, s, link, backwards):
    """What arrives at every synapse, before it is weighted."""
    n, size = memory.padded(link.post), memory.size(link.post)
    text, number = "", f"{memory.values(s.source)}[s * {memory.padded(link.pre)} + i]"
    if s.taps:
        text, number = sent_before(memory, s, link, backwards)
    loop = "for (long k = 0; k < taps; k++) " if s.taps else ""
    if isinstance(link.form, Sparse):
        return f"{text}\n{few_arrivals(memory, s, link, number, loop)}"
    return f"""    real *restrict target = {memory.values(s.target)};
{text}
    {TRIALS}
        {each(memory.size(link.pre))} {{
            real *restrict row = target + (s * {memory.size(link.pre)} + i) * {n};
            memset(row, 0, {n} * sizeof(real));
            {loop}{each(size, "j")} row[j] += {number};
        }}"""


def looked_up(memory, s, link, backwards):
    """The same where weights may change while signals are under way: they act when these arrive."""
    n = memory.padded(link.post)
    text, number = sent_before(memory, s, link, backwards)
    return f"""{text}
    const real *restrict weight = {memory.matrix(link, s.weight, False)};
    {TRIALS}
        {each(memory.size(link.pre))}
            for (long k = 0; k < taps; k++) {each(memory.size(link.post), "j")}
                target[s * {n} + j] += weight[i * {n} + j] * {number};"""


def past(memory, kind, link, n, shared):
    """The signal of neuron j that synapse (i, j) reads, of one tap, as C text."""
    at = where(memory, link, kind)
    read = f"late[(wrap(here + length - steps[{at}], length) * S + s) * {n} + j]"
    return f"share[{at}] * {read}" if shared else read


def gathered(memory, s, link, backwards):
    """The way back through such synapses."""
    n, m = memory.padded(link.post), memory.padded(link.pre)
    declared, kind, shared = ring(memory, s, link.post, backwards)
    return f"""{declared}
    const real *restrict weight = {memory.matrix(link, s.weight, False)};
    memcpy(late + here * S * {n}, {memory.values(s.source)}, S * {n} * sizeof(real));
    {TRIALS}
        {each(memory.size(link.pre))} {{
            real sum = 0;
            for (long k = 0; k < taps; k++) {each(memory.size(link.post), "j")}
                sum += weight[i * {n} + j] * {past(memory, kind, link, n, shared)};
            target[s * {m} + i] += sum;
        }}"""


# --- what weights and delays learn from -------------------------------------------------------------------------------


def outer(memory, s, *, backwards):
    """One Outer."""
    link = memory.spaces[s.link]
    if isinstance(link.form, Kernel):
        return kernel_sum(memory, link, s)
    if isinstance(link.form, Sparse):
        return few_outer(memory, s, link)
    if isinstance(link.form, Diagonal):
        return of_line(memory, s, link, backwards)
    if s.taps:
        return of_synapses(memory, s, link, backwards)
    if as_list(memory.backward, s, s.pre):
        return of_events(memory, s, link)
    return of_products(memory, s, link)


def times(link):
    """By how much weights that are shared are multiplied, as C text, or None."""
    return None if link.times == 1 else f"R({float(link.times)!r})"


def of_events(memory, s, link):
    n, m = memory.padded(link.post), memory.padded(link.pre)
    if link.turned:
        sized = " * x" if memory.first(s.pre) in memory.sized else ""
        scale = f"{times(link) or 'R(1.0)'}{sized}"
        row = f"{each(memory.size(link.post), 'j')} into[j * {m} + i] += post[s * {n} + j] * {scale};"
    else:
        row = add(memory, s.pre, f"into + i * {n}", f"post + s * {n}", n, times(link))
    return f"""    const real *restrict post = {memory.values(s.post)};
    real *restrict into = {memory.total(s.into)};
    {memory.events(s.pre, row)}"""


def of_products(memory, s, link):
    """Sums over the trials of several steps as one product: what is kept of these steps lies side by side."""
    n, m = memory.padded(link.post), memory.padded(link.pre)
    kept = memory.want(f"steps{len(memory.fields)}", "real", f"{CHUNK_STEPS} * S * {n}")
    pair = (
        f"kept, 1, {n}, {memory.size(link.post)}, depth, pre, {m}",
        f"pre, 1, {m}, {memory.size(link.pre)}, depth, kept, {n}",
    )
    factor = f"for (long o = 0; o < S * {n}; o++) now[o] *= {times(link)};" if times(link) else ""
    return f"""    enum {{ STEPS = {CHUNK_STEPS} }};
    real *kept = {kept}, *now = kept + (slot % STEPS) * S * {n};
    memcpy(now, {memory.values(s.post)}, S * {n} * sizeof(real));
    {factor}
    if (slot % STEPS == 0) {{
        const long depth = S * (w->high - slot < STEPS ? w->high - slot : STEPS);
        const real *pre = {memory.values(s.pre)};
        add_product({pair[0] if link.turned else pair[1]}, {memory.total(s.into)});
    }}"""


def of_line(memory, s, link, backwards):
    """The gradient of the delays of a line: derivatives of the shares, times what passed and its gradient."""
    n = memory.padded(link.pre)
    declared, kind, _ = ring(memory, s, link.pre, backwards)
    at = where(memory, link, kind)
    read = f"late[(wrap(here + length - steps[{at}], length) * S + s) * {n} + i]"
    body = f"for (long k = 0; k < taps; k++) into[s * {n} + i] += x * share[{at}] * {read};"
    return f"""{declared}
    real *restrict into = {memory.total(s.into)};
    memcpy(late + here * S * {n}, {memory.values(s.post)}, S * {n} * sizeof(real));
    {each_source(memory, s, s.pre, link.pre, body)}"""


def of_synapses(memory, s, link, backwards):
    """The same of synapses with delays of their own, and of their weights."""
    n, m = memory.padded(link.post), memory.padded(link.pre)
    declared, kind, shared = ring(memory, s, link.post, backwards)
    into = f"into[j * {m} + i]" if link.turned else f"into[i * {n} + j]"
    factor = f" * {times(link)}" if times(link) else ""
    body = f"""if (x != 0) for (long k = 0; k < taps; k++) {each(memory.size(link.post), "j")}
                {into} += x * {past(memory, kind, link, n, shared)}{factor};"""
    return f"""{declared}
    real *restrict into = {memory.total(s.into)};
    memcpy(late + here * S * {n}, {memory.values(s.post)}, S * {n} * sizeof(real));
    {each_source(memory, s, s.pre, link.pre, body)}"""
