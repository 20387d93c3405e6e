"""The C text of slot 3 in the forward scan: what projections bring, in events or products, after their delays."""

from localplast.backends.c.runtime import add, events, gather_each, indent, taps, weighted

__all__ = ["send"]


def send(k):
    """Slot 3: what one projection brings at step t."""
    row = "weight + i * N"
    if k.dense:
        body = send_dense(k)
    elif k.kind == "shared":
        body = "\n    ".join(
            f"if (t >= {d}) {events(k, f't - {d}', add(k, 'box + s * N', row, share))}" for d, share, _ in taps(k, "0")
        )
    elif k.kind == "axonal":
        body = events(k, "t", " ".join(add(k, late_row(d), row, share) for d, share, _ in taps(k, "i"))) + ARRIVED
    elif k.kind == "dendritic":
        body = send_at_once(k)
    else:
        body = events(k, "t", scatter(k)) + ARRIVED
    return f"""
/* {k.name} */
INLINE void send{k.number}(struct space *w, void **p, long t)
{{
    enum {{ N = {k.post.padded} }};
    const real *restrict weight = p[P_weight{k.number}], *restrict part = p[P_part{k.number}];
    const int *restrict delay = p[P_delay{k.number}];
    const long ring = ((const long *)p[P_longest])[{k.number}] + 1, here = t % ring;
    real *restrict box = w->in{k.post.number}_{k.target}_{k.transmission}, *restrict late = w->late{k.number};
    {body}
}}"""


def late_row(delay):
    """Where the row of trial s that arrives after ``delay`` waits."""
    return f"late + (wrap(here + {delay}, ring) * S + s) * N"


def scatter(k):
    """C loop that puts every synapse of neuron i where it will arrive."""
    sized = " * x" if k.sized else ""
    at = f"i * {k.post.size} + j"
    adds = (
        f"({late_row(d)})[j] += weight[i * N + j]{f' * {share}' if share else ''}{sized};"
        for d, share, _ in taps(k, at)
    )
    return f"for (int j = 0; j < {k.post.size}; j++) {{ {' '.join(adds)} }}"


def send_at_once(k):
    """What all spikes of a step bring is added up as they leave; each target reads the sum of as long ago as its
    delay.
    """
    lines, reads = gather_each(k, "late", "here + ring - {}")
    return f"""memset(late + here * S * N, 0, S * N * sizeof(real));
    {events(k, "t", add(k, "late + (here * S + s) * N", "weight + i * N"))}
    {lines}
    for (int s = 0; s < S; s++)
        for (int j = 0; j < {k.post.size}; j++) box[s * N + j] += {weighted((text, share) for text, share, _ in reads)};"""


def send_dense(k):
    many = f"w->live * {k.pre.size}"
    data = f"(const real *)p[P_data{k.pre.number}] + ((t - {{0}}) * w->B + w->first) * {k.pre.size}"
    lines = [
        f"if (t >= {d}) add_scaled(rows, {data.format(d)}, {share or 'R(1.0)'}, {many});"
        for d, share, _ in taps(k, "0")
    ]
    return f"""if (t < delay[0]) return;
    real *rows = w->rows{k.pre.number};
    memset(rows, 0, {many} * sizeof(real));
{indent(lines, 4)}
    product(rows, {k.pre.size}, {k.pre.size}, weight, N, box);"""


#: What has come to the end of its delay moves from the ring into the box.
ARRIVED = """
    real *now = late + here * S * N;
    add_row(box, now, S * N);
    memset(now, 0, S * N * sizeof(real));"""
