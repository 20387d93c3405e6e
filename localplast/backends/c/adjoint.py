"""The C text of the adjoint scan, derived from the step map: no neuron model is named here.

``g`` holds dloss/dstate at the end of a step; then, the reset undone, dloss/d(state before the reset). Projections
add to that state, so ``g`` is also the gradient of whatever they brought; ``mu`` keeps it for as long as their delays
are. ``grad`` sums what each neuron's parameters have done: in the output, the jump at a spike, the spike argument,
the update.
"""

from localplast.backends.c.expression import Writer
from localplast.backends.c.runtime import add, events, gather_each, indent, taps, total, weighted
from localplast.equations.expressions import differentiate
from localplast.equations.slopes import jump
from localplast.neuron.step import jacobian

__all__ = ["adjoint_text"]


def adjoint_text(plan):
    """``(text, kept)``: the functions, and which histories ``(population number, name)`` they read."""
    kept = {}
    parts = [open_step(n, kept) for n in plan.cells]
    parts += [back_link(k) for k in plan.links]
    parts += [close_step(n, kept) for n in plan.cells]
    parts.append(back(plan))
    return "\n".join(parts), list(kept)


def reader(n, stage, kept):
    """A loader for :class:`Writer`: reads a history, and notes that it must be kept."""

    def load(name):
        kept[n.number, f"{stage}{n.number}_{name}"] = True
        return f"w->{stage}{n.number}_{name}[h + o]"

    return load


def head(n):
    lines = [
        f"enum {{ N = {n.padded} }};",
        f"const real *restrict k = p[P_shared{n.number}], *restrict c = p[P_each{n.number}];",
        "const long h = t * S * N;",
        *(f"real *restrict g_{v} = w->g{n.number}_{v};" for v in n.variables),
        *(f"real *restrict grad_{p} = w->grad{n.number}_{p};" for p in n.learned),
    ]
    if n.learns:
        lines.append(f"real *restrict gz = w->gz{n.number};")
    return indent(lines, 4)


def open_step(n, kept):
    """Undo slot 5 and slot 4: the outputs' gradients come in, the reset is turned round."""
    return f"""
/* {n.name} */
INLINE void open{n.number}(struct space *w, void **p, long t)
{{
{head(n)}
{take_output(n, kept) if n.readout else ""}
{spike_gradient(n, kept) if n.learns else ""}
{undo_reset(n, kept) if n.spiking else ""}
{keep_mu(n)}
}}"""


def take_output(n, kept):
    writer = Writer(n.constants, reader(n, "end", kept))
    slopes = {f"g_{v}": differentiate(n.step.output, v) for v in n.variables}
    slopes |= {f"grad_{p}": differentiate(n.step.output, p) for p in n.learned}
    terms = [f"{name}[o] += d * {writer(e)};" for name, e in slopes.items() if e != 0]
    return f"""    const real *d_output = (const real *)p[P_d_output{n.number}] + (t * w->B + w->first) * {n.size};
    for (int s = 0; s < w->live; s++)
        for (int i = 0; i < {n.size}; i++) {{
            const long o = s * N + i;
            const real d = d_output[s * {n.size} + i];
{indent(writer.lines + terms, 12)}
        }}"""


def spike_gradient(n, kept):
    """gz starts with the gradients of the spike count, of the jump at the reset, and of the population's sum in this
    step.
    """
    writer = Writer(n.constants, reader(n, "met", kept))
    terms = [f"w->gcount{n.number}[o]"]
    terms += [f"g_{v}[o] * {writer(jump(n.step, v, value))}" for v, value, live in n.jumps() if live]
    return f"""    NEURONS {{
        const long o = s * N + i;
{indent(writer.lines)}
        gz[o] = {total(terms)};
    }}
    const real *d_total = p[P_d_total{n.number}];
    for (int s = 0; d_total && s < w->live; s++) {{
        const real d = d_total[t * w->B + w->first + s];
        for (int i = 0; i < N; i++) gz[s * N + i] += d;
    }}"""


def undo_reset(n, kept):
    """Where the neuron spiked, the state before the reset acts through the reset's right-hand sides only."""
    writer = Writer(n.constants, reader(n, "met", kept))
    jumps = {v: value for v, value, _ in n.jumps()}
    changed = []
    for column in n.variables:
        slopes = {v: differentiate(value, column) for v, value in jumps.items()}
        slopes = {v: e for v, e in slopes.items() if e != 0}
        if slopes == ({column: 1} if column in jumps else {}):
            continue  # a constant was added: the gradient passes unchanged
        terms = [] if column in jumps else [f"g_{column}[o]"]
        terms += [f"g_{v}[o] * {writer(e)}" for v, e in slopes.items()]
        changed.append((column, total(terms)))
    direct = {p: by_parameter(jumps, p, writer) for p in n.learned}
    moved = [f"grad_{p}[o] += {total(terms)};" for p, terms in direct.items() if terms]
    if not changed and not moved:
        return ""
    lines = writer.lines + moved + [f"const real b_{v} = {text};" for v, text in changed]
    lines += [f"g_{v}[o] = b_{v};" for v, _ in changed]
    return f"""    for (int s = 0; s < S; s++)
        for (long e = w->start{n.number}[t * S + s]; e < w->start{n.number}[t * S + s + 1]; e++) {{
            const long i = w->list{n.number}[e], o = s * N + i;
{indent(lines, 12)}
        }}"""


def by_parameter(jumps, parameter, writer):
    """What a parameter does to the state after a spike, times the gradient of that state: the reset never cuts it."""
    slopes = {v: differentiate(value, parameter) for v, value in jumps.items()}
    return [f"g_{v}[o] * {writer(e)}" for v, e in slopes.items() if e != 0]


def keep_mu(n):
    slot = f"(t % w->ring{n.number}) * S * N"
    return indent(
        (
            f"memcpy(w->mu{n.number}_{v} + {slot}, g_{v}, S * N * sizeof(real));"
            for v in sorted({target for target, _ in n.boxes})
        ),
        4,
    )


def back_link(k):
    """Undo slot 3 of one projection: gradients of its weights, delays, and of the presynaptic spikes.

    ``d_share`` ``(pre, post)`` is the gradient of what moves from a delay's own step to the next, per unit of weight.
    """
    n_pre = f"enum {{ PRE = {k.pre.padded} }};" if k.passes else ""
    return f"""
/* {k.name} */
INLINE void back{k.number}(struct space *w, void **p, long t)
{{
    enum {{ N = {k.post.padded} }};
    {n_pre}
    const int *restrict delay = p[P_delay{k.number}];
    const real *restrict part = p[P_part{k.number}];
    const long ring = w->ring{k.post.number}, here = t % ring;
    const real *restrict mu = w->mu{k.post.number}_{k.target};
    real *restrict d_weight = p[P_d_weight{k.number}], *restrict d_share = p[P_d_share{k.number}];
{seen_mu(k)}
{learn(k)}
{pass_back(k) if k.passes else ""}
}}"""


def mu_row(delay):
    """The gradient of what arrives after ``delay``, in trial s."""
    return f"(mu + (wrap(here + {delay}, ring) * S + s) * N)"


def seen_mu(k):
    """``seen``: the gradient at the time at which what is sent now arrives, where that is one time per target; its
    ``slope``.
    """
    if k.kind == "shared" and not k.between:
        return "    const real *restrict seen = mu + wrap(here + delay[0], ring) * S * N;"
    if k.kind not in ("shared", "dendritic"):
        return ""
    if k.kind == "dendritic":
        places, rows = gather_each(k, "mu", "here + {}")
    else:
        places, rows = "", [(f"{mu_row(d)}[j]", share, slope) for d, share, slope in taps(k, "0")]
    lines = [f"seen[s * N + j] = {weighted([(text, share) for text, share, _ in rows])};"]
    if k.between:
        lines.append(f"slope[s * N + j] = {weighted([(text, slope) for text, _, slope in rows])};")
    return f"""    real *restrict seen = w->seen{k.number}, *restrict slope = w->slope{k.number};
    {places}
    for (int s = 0; s < S; s++)
        for (int j = 0; j < {k.post.size}; j++) {{ {" ".join(lines)} }}"""


def learn(k):
    found = [learn_one(k, "d_weight", "seen", [(d, share) for d, share, _ in taps(k, delay_place(k))])]
    if k.between:
        found.append(learn_one(k, "d_share", "slope", [(d, slope) for d, _, slope in taps(k, delay_place(k))]))
    return "\n".join(found)


def delay_place(k):
    """Where the delay of the synapse from i to j stands in its table."""
    return {"shared": "0", "axonal": "i", "dendritic": "j", "synaptic": f"i * {k.post.size} + j"}[k.kind]


def learn_one(k, to, rows, given):
    """Add, for every event of this step, the row of ``rows``, or the ``given`` [(delay, factor)] rows of mu, to
    ``to``.
    """
    if k.dense:
        return f"""    if ({to}) {{
        const real *data = (const real *)p[P_data{k.pre.number}] + (t * w->B + w->first) * {k.pre.size};
        memcpy(w->rows{k.pre.number}, data, w->live * {k.pre.size} * sizeof(real));
        outer(w->rows{k.pre.number}, {k.pre.size}, {rows}, N, {to});
    }}"""
    row = f"{to} + i * N"
    if k.kind == "synaptic":
        value = weighted([(f"{mu_row(d)}[j]", factor) for d, factor in given])
        body = f"for (int j = 0; j < {k.post.size}; j++) ({row})[j] += ({value}){' * x' if k.sized else ''};"
    elif k.kind == "axonal":
        body = " ".join(add(k, row, mu_row(d), factor) for d, factor in given)
    else:
        body = add(k, row, f"{rows} + s * N")
    return f"    if ({to}) {events(k, 't', body)}"


def pass_back(k):
    number = k.pre.number
    back = f"(const real *)p[P_back{k.number}]"
    if k.kind in ("shared", "dendritic"):
        return f"    product(seen, N, {k.post.size}, {back}, PRE, w->gz{number});"
    if k.kind == "axonal":
        return f"""    real *restrict early = w->early{k.number}, *restrict sum = w->sum{k.number};
    const long long_ago = ((const long *)p[P_longest])[{k.number}] + 1, before = t % long_ago + long_ago;
    memset(sum, 0, S * PRE * sizeof(real));
    product(mu + here * S * N, N, {k.post.size}, {back}, PRE, sum);
    for (int s = 0; s < S; s++)
        for (int i = 0; i < {k.pre.size}; i++) {{
{indent(send_early(k), 12)}
        }}
    real *now = early + (t % long_ago) * S * PRE;
    add_row(w->gz{number}, now, S * PRE);
    memset(now, 0, S * PRE * sizeof(real));"""
    value = weighted([(f"{mu_row(d)}[j]", share) for d, share, _ in taps(k, delay_place(k))])
    return f"""    const real *restrict weight = {back};
    for (int s = 0; s < S; s++)
        for (int i = 0; i < {k.pre.size}; i++) {{
            real sum = 0;
            for (int j = 0; j < {k.post.size}; j++) sum += weight[i * N + j] * ({value});
            w->gz{number}[s * PRE + i] += sum;
        }}"""


def send_early(k):
    """Statements that keep the gradient until the scan comes to the time of the spike."""
    return [
        f"early[(wrap(before - {d}, long_ago) * S + s) * PRE + i] += {weighted([('sum[s * PRE + i]', share)])};"
        for d, share, _ in taps(k, "i")
    ]


def close_step(n, kept):
    """Undo slots 2 and 1: gradient through the spike argument, then through the update."""
    lines, after = [], {}
    for target, how in n.boxes:
        if how == "graded":  # it was overwritten
            lines.append(f"g_{target}[o] = R(0.0);")
    writer = Writer(n.constants, reader(n, "new", kept))
    if n.learns:
        kept[n.number, f"psi{n.number}"] = True
        lines.append(f"const real gx = gz[o] * w->psi{n.number}[h + o];")
        after = {v: f"gx * {writer(e)}" for v, e in n.sensitivity().items()}
    gathered = {
        v: total([*([] if n.forgets(v) else [f"g_{v}[o]"]), *([after[v]] if v in after else [])]) for v in n.variables
    }
    sums = [f"const real a_{v} = {text};" for v, text in gathered.items()]
    results = step_back(n, kept, writer, after)
    if any("ready" in line for line in writer.lines):
        kept[n.number, f"ready{n.number}"] = True
        lines.append(f"const real ready = w->ready{n.number}[h + o];")
    return f"""
/* {n.name} */
INLINE void close{n.number}(struct space *w, void **p, long t)
{{
{head(n)}
    NEURONS {{
        const long o = s * N + i;
{indent(lines + writer.lines + sums + results)}
    }}
}}"""


def step_back(n, kept, after, spike):
    """Statements that multiply by the transposed Jacobian, taken at the state before the update.

    ``spike`` holds what comes through the spike argument, as C text, by variable and learned parameter.
    """
    program, entries = n.transition()
    writer = Writer(n.constants, reader(n, "old", kept), after=after)
    if entries:
        writer.program(program)
    results = []
    for column in n.variables:
        terms = [f"a_{row} * {writer(e)}" for (row, at), e in entries.items() if at == column]
        results.append(f"g_{column}[o] = {total(terms)};")
    for parameter in n.learned:
        found = jacobian(n.step, parameter)
        writer.program(found.program)
        terms = [f"a_{row} * {writer(e)}" for (row, _), e in found.entries.items()]
        terms += [spike[parameter]] if parameter in spike else []
        results += [f"grad_{parameter}[o] += {total(terms)};"] if terms else []
    return results


def back(plan):
    """All steps backwards, for one block of trials."""
    begin = []
    for n in plan.cells:
        begin += [f"memset(w->g{n.number}_{v}, 0, S * {n.padded} * sizeof(real));" for v in n.variables]
        begin += [
            f"memset(w->mu{n.number}_{v}, 0, w->ring{n.number} * S * {n.padded} * sizeof(real));"
            for v in sorted({target for target, _ in n.boxes})
        ]
        begin += [f"memset(w->grad{n.number}_{v}, 0, S * {n.padded} * sizeof(real));" for v in n.learned]
        if n.spiking:
            begin += [
                f"memset(w->gcount{n.number}, 0, S * {n.padded} * sizeof(real));",
                f"for (int s = 0; s < w->live; s++) memcpy(w->gcount{n.number} + s * {n.padded}, "
                f"(const real *)p[P_d_count{n.number}] + (w->first + s) * {n.size}, {n.size} * sizeof(real));",
            ]
    begin += [
        f"memset(w->early{k.number}, 0, (longest[{k.number}] + 1) * S * {k.pre.padded} * sizeof(real));"
        for k in plan.links
        if k.kind == "axonal" and k.passes
    ]
    calls = [f"open{n.number}(w, p, t);" for n in plan.cells]
    calls += [f"back{k.number}(w, p, t);" for k in plan.links]
    calls += [f"close{n.number}(w, p, t);" for n in plan.cells]
    ends = [
        f"if (p[P_d{n.number}_{v}]) for (int s = 0; s < w->live; s++) "
        f"add_row(p[P_d{n.number}_{v}], w->grad{n.number}_{v} + s * {n.padded}, {n.padded});"
        for n in plan.cells
        for v in n.learned
    ]
    return f"""
static void back(struct space *w, void **p, long T)
{{
    const long *longest = p[P_longest];
{indent(begin, 4)}
    for (long t = T - 1; t >= 0; t--) {{
{indent(calls)}
    }}
{indent(ends, 4)}
}}"""
