"""The C text of a kernel: memory, the forward scan, and the two functions that are called.

One pass runs a block of ``S`` trials side by side over all time steps. Arrays are ``[S][N]``, neurons contiguous and
padded; spikes are lists of neuron numbers per (step, trial). In every function ``w`` is the workspace, ``p`` what
Python hands over, ``t`` the step, ``s`` the trial of the block, ``i`` the neuron and ``o = s*N + i``.
"""

from localplast.backends.c.adjoint import adjoint_text
from localplast.backends.c.arguments import delay_shape, numbers_of
from localplast.backends.c.expression import Writer
from localplast.backends.c.layout import Channels
from localplast.backends.c.runtime import HELPERS, indent
from localplast.backends.c.transport import send
from localplast.equations.language import symbol

__all__ = ["arguments", "source"]


def arguments(plan):
    """The arrays that it is given (:mod:`localplast.backends.c.arguments`): ``T`` steps of ``B`` trials."""
    found = {"longest": ("long", (max(1, len(plan.links)),))}
    for n in plan.channels:
        found[f"data{n.number}"] = "unsigned char" if n.bits else "real", ("T", "B", n.size)
    for n in plan.cells:
        found |= numbers_of(n) | {f"silent{n.number}": ("real", (n.padded,))}
        shapes = {"output": ("T", "B", n.size), "count": ("B", n.size), "total": ("T", "B")}
        found |= {f"{d}{what}{n.number}": ("real", shape) for what, shape in shapes.items() for d in ("", "d_")}
        found |= {f"d{n.number}_{parameter}": ("real", (n.padded,)) for parameter in n.learned}
    for k in plan.links:
        forward = ("real", (k.pre.size, k.post.padded))
        backward = forward if k.kind == "synaptic" else ("real", (k.post.size, getattr(k.pre, "padded", 0)))
        found |= {f"weight{k.number}": forward, f"back{k.number}": backward}
        found |= {f"delay{k.number}": ("int", delay_shape(k)), f"part{k.number}": ("real", delay_shape(k))}
        found |= {f"d_weight{k.number}": forward, f"d_share{k.number}": forward}
    return found


def source(plan):
    """C text of the kernel of a plan."""
    adjoint, kept = adjoint_text(plan)
    parts = [
        "#define DOUBLE" if plan.double else "",
        f"enum {{ S = {plan.block} }};",
        HELPERS,
        f"enum {{ {', '.join(f'P_{name}' for name in arguments(plan))} }};",
        workspace(plan, kept),
        *(update(n, kept) for n in plan.cells),
        *(gather(n) for n in plan.channels if lists_needed(plan, n)),
        *(send(k) for k in plan.links),
        *(arrive(n, kept) for n in plan.cells),
        *(observe(n, kept) for n in plan.cells if n.readout),
        step(plan),
        adjoint,
        entries(plan),
    ]
    return "\n".join(parts)


def lists_needed(plan, channels):
    return any(k.pre is channels and not k.dense for k in plan.links)


def fields(plan, kept):
    """``(type, name, how many, when)`` of every array in the workspace; ``when`` is a C condition."""
    for n in plan.channels:
        yield from lists(n)
        yield "real", f"value{n.number}", f"T * S * {0 if n.bits else n.size}", "1"
        yield "real", f"rows{n.number}", f"S * {n.size}", "1"
    for n in plan.cells:
        block = f"S * {n.padded}"
        yield from (("real", f"x{n.number}_{v}", block, "1") for v in n.variables)
        yield from (("real", f"in{n.number}_{target}_{how}", block, "1") for target, how in n.boxes)
        yield from (("real", f"g{n.number}_{v}", block, "keep") for v in n.variables)
        yield from (("real", f"{history}", f"T * {block}", "keep") for number, history in kept if number == n.number)
        yield from (("real", f"mu{n.number}_{v}", f"ring{n.number} * {block}", "keep") for v in targets(n))
        yield from (("real", f"grad{n.number}_{parameter}", block, "keep") for parameter in n.learned)
        if n.spiking:
            yield from lists(n)
            yield from (("mask", f"fired{n.number}", block, "1"), ("real", f"since{n.number}", block, "1"))
            yield from (("real", f"gz{n.number}", block, "keep"), ("real", f"gcount{n.number}", block, "keep"))
    for k in plan.links:
        ring = f"(longest[{k.number}] + 1) * S"
        yield "real", f"late{k.number}", f"{ring} * {k.post.padded}", "0" if k.kind == "shared" else "1"
        yield "real", f"seen{k.number}", f"S * {k.post.padded}", "keep"
        yield "real", f"slope{k.number}", f"S * {k.post.padded}", "keep" if k.between else "0"
        if k.kind == "axonal" and k.passes:
            yield "real", f"early{k.number}", f"{ring} * {k.pre.padded}", "keep"
            yield "real", f"sum{k.number}", f"S * {k.pre.padded}", "keep"


def lists(n):
    """Events of a node: those of trial s at step t lie between ``start[t*S + s]`` and the next entry."""
    yield "unsigned", f"list{n.number}", f"T * S * {n.size}", "1"
    yield "long", f"start{n.number}", "T * S + 1", "1"


def targets(cells):
    return sorted({target for target, _ in cells.boxes})


def workspace(plan, kept):
    """The struct of all arrays and a function that lays it out; with base NULL it only counts the bytes."""
    every = list(fields(plan, kept))
    declared = "\n".join(f"    {kind} *{name};" for kind, name, _, _ in every)
    placed = "\n".join(
        f"    w->{name} = (void *)(base + used); used += {when} ? (({count}) * sizeof({kind}) + 63) & ~63ul : 0;"
        for kind, name, count, when in every
    )
    rings = "\n".join(
        f"    long ring{n.number} = 1;"
        + "".join(
            f" if (longest[{k.number}] >= ring{n.number}) ring{n.number} = longest[{k.number}] + 1;"
            for k in plan.links
            if k.post is n
        )
        + f" w->ring{n.number} = ring{n.number};"
        for n in plan.cells
    )
    counts = "\n".join(f"    long ring{n.number};" for n in plan.cells)
    return f"""
struct space {{
    long B, first, live;
{counts}
{declared}
}};

static size_t layout(struct space *w, char *base, long T, const long *longest, const int keep)
{{
    size_t used = 0;
{rings}
{placed}
    return used;
}}"""


def pointers(n, kept, *stages):
    """Declarations of a population's numbers and of its histories at step t, those of ``stages``."""
    lines = [f"enum {{ N = {n.padded} }};"]
    lines += [f"const real *restrict k = p[P_shared{n.number}], *restrict c = p[P_each{n.number}];"]
    lines += [f"real *restrict x_{v} = w->x{n.number}_{v};" for v in n.variables]
    for number, history in kept:
        if number == n.number and any(history.startswith(f"{stage}{number}") for stage in stages):
            lines.append(f"real *restrict {history} = w->{history} + t * S * N;")
    return indent(lines, 4)


def keep(n, kept, stage):
    """Statements that keep the variables of one stage."""
    prefix = f"{stage}{n.number}_"
    return [
        f"if (keep) {h}[o] = x_{h.removeprefix(prefix)}[o];"
        for number, h in kept
        if number == n.number and h.startswith(prefix)
    ]


def update(n, kept):
    """Slots 1 and 2: integrate, threshold, psi."""
    lines = keep(n, kept, "old")
    if n.refractory:
        lines += ["const real ago = since[o] + R(1.0);", "const real ready = ago >= silent[i] ? R(1.0) : R(0.0);"]
        lines += [f"if (keep) ready{n.number}[o] = ready;"] if (n.number, f"ready{n.number}") in kept else []
    writer = Writer(n.constants, lambda v: f"x_{v}[o]")
    writer.program(n.step.program)
    new = {v: writer(e) for v, e in n.step.updated.items()}
    after = Writer(n.constants, lambda v: new.get(v, f"x_{v}[o]"), after=writer)
    tail = [f"x_{v}[o] = {text};" for v, text in new.items()]
    tail += keep(n, kept, "new")
    if n.spiking:
        x = after(n.step.spike_argument)
        ready = " & (ready != 0)" if n.refractory else ""
        tail.append(f"const mask z = -(mask)(({x} {'>' if n.step.strict else '>='} 0){ready});")
        tail.append("fired[o] = z;")
        tail += ["since[o] = z ? R(0.0) : ago;"] if n.refractory else []
        if (n.number, f"psi{n.number}") in kept:
            psi = Writer(n.constants, lambda v: x if v == "x" else after(symbol(v)), after=after)
            tail.append(f"if (keep) psi{n.number}[o] = {psi(n.step.psi)}{' * ready' if n.refractory else ''};")
    body = indent(lines + writer.lines + tail)
    declared = pointers(n, kept, "old", "new", "psi", "ready")
    if n.spiking:
        declared += f"\n    mask *restrict fired = w->fired{n.number};"
    if n.refractory:
        declared += f"\n    real *restrict since = w->since{n.number};"
        declared += f"\n    const real *restrict silent = p[P_silent{n.number}];"
    return f"""
/* {n.name}: {n.step.model.name} */
INLINE void update{n.number}(struct space *w, void **p, long t, const int keep)
{{
{declared}
    NEURONS {{
        const long o = s * N + i;
{body}
    }}
{collect_spikes(n) if n.spiking else ""}
}}"""


def collect_spikes(n):
    return f"""    long *start = w->start{n.number} + t * S;
    for (int s = 0; s < S; s++) start[s + 1] = collect(fired + s * N, {n.size}, w->list{n.number}, start[s]);
    real *total = p[P_total{n.number}];
    for (int s = 0; total && s < w->live; s++) total[t * w->B + w->first + s] = start[s + 1] - start[s];"""


def gather(n):
    """Lists of the channels of an input that are not zero at step t."""
    kind = "unsigned char" if n.bits else "real"
    call = f"collect_bits(row, {n.size}, w->list{n.number}, count)"
    if not n.bits:
        call = f"collect_numbers(row, {n.size}, w->list{n.number}, w->value{n.number}, count)"
    return f"""
/* {n.name} */
static void gather{n.number}(struct space *w, void **p, long t)
{{
    for (int s = 0; s < S; s++) {{
        const {kind} *row = (const {kind} *)p[P_data{n.number}] + (t * w->B + w->first + s) * {n.size};
        long count = w->start{n.number}[t * S + s];
        if (s < w->live) count = {call};
        w->start{n.number}[t * S + s + 1] = count;
    }}
}}"""


def arrive(n, kept):
    """The end of slot 3, and slot 4: take in what arrived, then reset where the neuron spiked."""
    lines = []
    for target, how in n.boxes:
        box = f"w->in{n.number}_{target}_{how}[o]"
        lines.append(f"x_{target}[o] = {box};" if how == "graded" else f"x_{target}[o] = x_{target}[o] + {box};")
    lines += keep(n, kept, "met")
    jumps = ""
    for block in (n.step.reset, n.step.adaptation):
        if block:
            writer = Writer(n.constants, lambda v: f"x_{v}[o]")
            values = {v: writer(e) for v, e in block.items()}
            assigned = [f"x_{v}[o] = {text};" for v, text in values.items()]
            jumps += indent(["{", *writer.lines, *assigned, "}"], 12) + "\n"
    spikes = (
        f"""
    for (int s = 0; s < S; s++)
        for (long e = w->start{n.number}[t * S + s]; e < w->start{n.number}[t * S + s + 1]; e++) {{
            const long i = w->list{n.number}[e], o = s * N + i;
            if (!keep && s < w->live) ((real *)p[P_count{n.number}])[(w->first + s) * {n.size} + i] += 1;
{jumps}        }}"""
        if n.spiking
        else ""
    )
    return f"""
INLINE void arrive{n.number}(struct space *w, void **p, long t, const int keep)
{{
{pointers(n, kept, "met")}
    NEURONS {{
        const long o = s * N + i;
{indent(lines)}
    }}{spikes}
}}"""


def observe(n, kept):
    """The graded output at the end of the step."""
    writer = Writer(n.constants, lambda v: f"x_{v}[o]")
    value = writer(n.step.output)
    return f"""
INLINE void observe{n.number}(struct space *w, void **p, long t, const int keep)
{{
{pointers(n, kept, "end")}
    real *out = (real *)p[P_output{n.number}] + (t * w->B + w->first) * {n.size};
    for (int s = 0; s < w->live; s++)
        for (int i = 0; i < {n.size}; i++) {{
            const long o = s * N + i;
{indent(keep(n, kept, "end") + writer.lines, 12)}
            if (!keep) out[s * {n.size} + i] = {value};
        }}
}}"""


def step(plan):
    """Start of a block of trials, and one time step of all populations."""
    begin, boxes = [], []
    for n in plan.cells:
        begin += [
            f"for (int s = 0; s < S; s++) memcpy(w->x{n.number}_{v} + s * {n.padded}, "
            f"(const real *)p[P_initial{n.number}] + {at} * {n.padded}, {n.padded} * sizeof(real));"
            for at, v in enumerate(n.variables)
        ]
        begin += [f"for (int o = 0; o < S * {n.padded}; o++) w->since{n.number}[o] = R(1e9);"] if n.spiking else []
        boxes += [f"memset(w->in{n.number}_{v}_{how}, 0, S * {n.padded} * sizeof(real));" for v, how in n.boxes]
    begin += [f"w->start{n.number}[0] = 0;" for n in plan.nodes if isinstance(n, Channels) or n.spiking]
    begin += [f"memset(w->rows{n.number}, 0, S * {n.size} * sizeof(real));" for n in plan.channels]
    begin += [
        f"memset(w->late{k.number}, 0, (longest[{k.number}] + 1) * S * {k.post.padded} * sizeof(real));"
        for k in plan.links
        if k.kind != "shared"
    ]
    calls = [f"update{n.number}(w, p, t, keep);" for n in plan.cells]
    calls += [f"gather{n.number}(w, p, t);" for n in plan.channels if lists_needed(plan, n)] + boxes
    calls += [f"send{k.number}(w, p, t);" for k in plan.links]
    calls += [f"arrive{n.number}(w, p, t, keep);" for n in plan.cells]
    calls += [f"observe{n.number}(w, p, t, keep);" for n in plan.cells if n.readout]
    return f"""
static void begin(struct space *w, void **p)
{{
    const long *longest = p[P_longest];
{indent(begin, 4)}
}}

INLINE void scan(struct space *w, void **p, long T, const int keep)
{{
    begin(w, p);
    for (long t = 0; t < T; t++) {{
{indent(calls)}
    }}
}}"""


#: What calls :func:`step`, in blocks of trials.
BLOCKS = """
size_t space(long T, const long *longest, int keep)
{
    struct space w;
    return layout(&w, NULL, T, longest, keep);
}

static void block(struct space *w, long B, long first, long last)
{
    w->B = B; w->first = first; w->live = last - first < S ? last - first : S;
}

long forward(void **p, char *memory, long T, long B, long first, long last)
{
    struct space w;
    long wrong = -1;
    unsigned old = flush();
    layout(&w, memory, T, p[P_longest], 0);
    for (; first < last; first += S) {
        block(&w, B, first, last);
        scan(&w, p, T, 0);
        if (wrong < 0) wrong = diverged(&w);
    }
    unflush(old);
    return wrong;
}

long adjoint(void **p, char *memory, long T, long B, long first, long last)
{
    struct space w;
    unsigned old = flush();
    layout(&w, memory, T, p[P_longest], 1);
    for (; first < last; first += S) {
        block(&w, B, first, last);
        scan(&w, p, T, 1);
        back(&w, p, T);
    }
    unflush(old);
    return -1;
}
"""


def entries(plan):
    """What Python calls: bytes of workspace; trials ``first`` to ``last`` of ``B``, forward or their adjoint.

    These two return the number of a population whose state is not finite at the end of a trial, or -1.
    """
    checks = [
        f"for (int s = 0; s < w->live; s++) if (broken(w->x{n.number}_{v} + s * {n.padded}, {n.size})) return {place};"
        for place, n in enumerate(plan.cells)
        for v in n.variables
    ]
    return (
        f"""
static long diverged(struct space *w)
{{
{indent(checks, 4)}
    return -1;
}}
"""
        + BLOCKS
    )
