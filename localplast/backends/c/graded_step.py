"""The C text of a kernel for networks of graded populations, which may learn from mismatches while they run.

Semantics are those of :class:`~localplast.backends.torch.online.OnlineLearner`. All trials of a block run side by side:
arrays are ``(trial, neuron)``, rows padded to whole vectors. Per step every population has one loop before the products
(what leaves, the integration) and one after them (outputs, mismatches); ``b`` is the trial, ``i`` the neuron and
``o = b*N + i``. In every function ``p`` holds the arrays by slot, ``t`` is the step; the block are ``live`` trials of
``B``, from ``first``, in arrays for ``stride`` of them.
"""

from localplast.backends.c.expression import Writer
from localplast.backends.c.graded_layout import fields, width
from localplast.backends.c.graded_runtime import HEAD
from localplast.backends.c.layout import Cells
from localplast.backends.c.runtime import HELPERS, indent
from localplast.equations.language import symbol
from localplast.neuron.step import expanded, prospective, resolved

__all__ = ["source"]

#: Parameters and arguments of all functions of a step.
SPAN = """
#define SPAN void **p, long T, long t, long from, long B, long first, long live, long stride, long me
#define GIVEN p, T, t, from, B, first, live, stride, me
"""


def source(g):
    """C text of the kernel."""
    parts = [
        "#define DOUBLE" if g.body.double else "",
        "enum { S = 8 }; /* rows of the blocks of a product */",
        HELPERS,
        HEAD,
        SPAN,
        f"enum {{ {', '.join('P_' + slot for slot, _ in fields(g))} }};",
        *(gather(g, n) for n in g.body.channels),
        *(update(g, n) for n in g.body.cells),
        *(finish(g, n) for n in g.body.cells),
        *(send(g, k) for k in g.body.links),
        *(teach(g, k) for k in g.plastic()),
        *(a.text() for a in g.adaptations),
        *(tie(g, k) for k in g.body.links if k.name in g.net.tied),
        entry(g),
    ]
    return "\n".join(parts)


def declared(g, n):
    """C declarations of a population's numbers."""
    lines = [f"enum {{ N = {n.padded} }};"]
    lines += [f"const real *restrict k = p[P_shared{n.number}], *restrict c = p[P_each{n.number}];"]
    lines += [f"real *restrict x_{v} = p[P_x{n.number}_{v}];" for v in n.variables]
    lines += [f"real *restrict q_{name} = p[P_q{n.number}_{name}];" for name in g.kept[n]]
    lines += [f"const real *restrict moving_{name} = p[P_weight{n.number}_{name}];" for name in g.moving(n)]
    return indent(lines, 4)


def reader(g, n, *known):
    """What reads a name: of those ``known`` in this function, the state, a parameter that changes, an array ``q``."""
    texts = {v: f"x_{v}[o]" for v in n.variables} | {name: f"moving_{name}[i]" for name in g.moving(n)}
    texts |= {name: f"noise_{name}[o]" for name in n.step.noise}
    for more in known:
        texts |= more
    return lambda name: texts.get(name) or f"q_{name}[o]"


def results(writer, program):
    """C names of what a program has computed."""
    writer.program(program)
    return {name: writer(symbol(name)) for name, _ in program}


def update(g, n):
    """Slot 1: what leaves of the old state, late copies, coefficients, integration; what leaves of the new state."""
    old = Writer(n.constants, reader(g, n))
    early = {text: old(expanded(n.step.model, text)) for text in g.sent(n) if prospective(n.step.model, text)}
    found = results(old, g.program(n, "shift", "before"))
    old.program(n.step.program)
    new = {v: old(e) for v, e in n.step.updated.items()}
    after = Writer(n.constants, reader(g, n, found, new), after=old)
    late = {text: after(expanded(n.step.model, text)) for text in g.sent(n) if text not in early}
    found |= results(after, g.program(n, "after"))
    tail = [f"e_{g.sent(n)[text]}[o] = {value};" for text, value in (early | late).items()]
    tail += [f"q_{name}[o] = {text};" for name, text in found.items() if name in g.kept[n]]
    tail += [f"x_{v}[o] = {text};" for v, text in new.items()]
    rings = [f"real *restrict e_{place} = {emitted(g, n, text, 't')};" for text, place in g.sent(n).items()]
    drawn = "(const real *)p[P_noise{}_{}] + ((t - from) * B + first) * N"
    noise = [f"const real *restrict noise_{x} = {drawn.format(n.number, x)};" for x in n.step.noise]
    return f"""
/* {n.name}: {n.step.model.name} */
INLINE void update{n.number}(SPAN)
{{
{declared(g, n)}
{indent(rings + noise, 4)}
    TRIALS EVERY {{
        const long o = b * N + i;
{indent(old.lines + tail)}
    }}
}}"""


def gather(g, n):
    """What an input, ``(trial, time, channel)``, delivers at step t, side by side."""
    return f"""
/* {n.name} */
INLINE void gather{n.number}(SPAN)
{{
    const real *data = (const real *)p[P_data{n.number}] + (first * T + t) * {n.size};
    real *e = {emitted(g, n, None, "t")};
    TRIALS memcpy(e + b * {n.size}, data + b * T * {n.size}, {n.size} * sizeof(real));
}}"""


def emitted(g, n, text, when):
    """C text of where that which leaves a node at a step lies."""
    steps = g.ring(n, text)
    at = f" + ({when}) % {steps} * stride * {width(n)}" if steps > 1 else ""
    place = f"_{g.sent(n)[text]}" if isinstance(n, Cells) else ""
    return f"(real *)p[P_e{n.number}{place}]{at}"


def finish(g, n):
    """The end of a step: outputs, mismatches, factors of gradients; returns whether some number is not finite."""
    writer, lines, output = Writer(n.constants, reader(g, n)), [], ""
    found = results(writer, g.program(n, "before_reset"))
    end = Writer(n.constants, reader(g, n, found), after=writer)
    found |= results(end, g.program(n, "end"))
    lines += [f"q_{name}[o] = {text};" for name, text in found.items() if name in g.kept[n]]
    lines += [f"m_{place}[o] = {end(resolved(n.step.model, e))} * share;" for place, e in enumerate(g.products[n])]
    lines += [f"v_{name}[o] = {end(expanded(n.step.model, name))};" for name in g.seen(n)]
    lines += [f"wrong |= exists[i] & ({' | '.join(f'BROKEN(x_{v}[o])' for v in n.variables)});"]
    arrays = [f"real *restrict m_{place} = p[P_m{n.number}_{place}];" for place, _ in enumerate(g.products[n])]
    arrays += [f"real *restrict v_{name} = p[P_v{n.number}_{name}];" for name in g.seen(n)]
    if n in g.readouts:
        said = Writer(n.constants, reader(g, n))
        value = said(n.step.output)
        start = sum(r.size for r in g.readouts[: g.readouts.index(n)])
        output = f"""
    real *out = (real *)p[P_output] + (t * B + first) * {sum(r.size for r in g.readouts)} + {start};
    TRIALS for (long i = 0; i < {n.size}; i++) {{
        const long o = b * N + i;
{indent(said.lines)}
        out[b * {sum(r.size for r in g.readouts)} + i] = {value};
    }}"""
    return f"""
INLINE mask finish{n.number}(SPAN, const real share)
{{
{declared(g, n)}
{indent(arrays, 4)}
    static const mask exists[N] = {{[0 ... {n.size - 1}] = -1}}; /* padding may be anything */
    mask wrong = 0;
    TRIALS EVERY {{
        const long o = b * N + i;
{indent(end.lines + lines)}
    }}{output}
    return wrong;
}}"""


def signal(g, k):
    """C text of what arrives through a link at step t, ``(trial, pre)``."""
    return emitted(g, k.pre, g.text_sent(k), f"t + {g.ring(k.pre, g.text_sent(k)) - g.delays[k.name]}")


def send(g, k):
    """What a link adds to its target in a step."""
    body = f"add_product(a, {width(k.pre)}, 1, live, {k.pre.size}, w, N, x);"
    if k.name in g.diagonal:
        body = (
            f"TRIALS for (long i = 0; i < {k.pre.size}; i++) x[b * N + i] += a[b * {width(k.pre)} + i] * w[i * N + i];"
        )
    return f"""
INLINE void send{k.number}(SPAN)
{{
    enum {{ N = {k.post.padded} }};
    const real *a = {signal(g, k)}, *restrict w = p[P_weight{k.number}];
    real *restrict x = p[P_x{k.post.number}_{k.target}];
    {body}
}}"""


def teach(g, k):
    """Add what a step says about some rows of weights, ``count`` from ``low``, to their gradient ``g``."""
    plan = g.learned.synapses[k.name]
    sources = {"arrived": arriving(g, k)} | {
        name: f"(const real *)p[P_e{k.number}_of_{name}]" for name, _ in plan.eligibility.pre
    }
    sums = [
        f"add_product({sources[pre]} + low, 1, {width(k.pre)}, count, live, p[P_m{k.post.number}_{place}], "
        f"{k.post.padded}, g);"
        for pre, place in g.factors[k]
    ]
    return f"""
INLINE void teach{k.number}(SPAN, long low, long count, real *g)
{{
{indent(sums, 4)}
}}
{hoist(g, k) if plan.eligibility.pre else ""}"""


def arriving(g, k):
    """C text of what a synapse learns from: what it carries, or another variable of its presynaptic neuron."""
    source = g.source(k)
    if source is None:
        return signal(g, k)
    return f"(const real *)p[P_{'x' if source in k.pre.variables else 'v'}{k.pre.number}_{source}]"


def hoist(g, k):
    """The traces of presynaptic neurons, one step further."""
    program = g.hoisted(k)
    writer = Writer(k.post.constants, lambda name: "arrived[o]" if name == "arrived" else f"e_{name}[o]")
    traces = results(writer, program)
    arrays = [f"real *restrict e_{name} = p[P_e{k.number}_of_{name}];" for name in traces]
    return f"""
INLINE void hoist{k.number}(SPAN)
{{
    const real *restrict k = p[P_shared{k.post.number}], *arrived = {arriving(g, k)};
{indent(arrays, 4)}
    for (long o = 0; o < live * {width(k.pre)}; o++) {{
{indent(writer.lines + [f"e_{name}[o] = {text};" for name, text in traces.items()])}
    }}
}}"""


def tie(g, k):
    """Let the weights of a link be those of another one, backwards."""
    same = g.net.tied[k.name]
    other = next(q for q in g.body.links if q.name == same.projection)
    return f"""
static void tie{k.number}(void **p, long me, long team)
{{
    real *restrict to = p[P_weight{k.number}], *restrict from = p[P_weight{other.number}];
    for (long h = {k.pre.size} * me / team; h < {k.pre.size} * (me + 1) / team; h++)
        for (long i = 0; i < {k.post.size}; i++)
            to[h * {k.post.padded} + i] = R({same.times!r}) * from[i * {other.post.padded} + h];
}}"""


def total(n, name, slot):
    """C statements: add what the neurons of all trials say about a parameter to its gradient, and begin anew."""
    return f"""{{
    real *restrict q = p[P_q{n.number}_gradient_{name}], *restrict g = (real *)p[P_{slot}] + me * {9 * n.padded};
    TRIALS for (long i = 0; i < {n.size}; i++) g[i] += q[b * {n.padded} + i] * share;
    memset(q, 0, live * {n.padded} * sizeof(real));
}}"""


def begin(g):
    """The start of a block of trials."""
    lines = []
    for n in g.body.cells:
        for at, v in enumerate(n.variables):
            start = f"(const real *)p[P_initial{n.number}] + {at * n.padded}"
            lines.append(
                f"TRIALS memcpy((real *)p[P_x{n.number}_{v}] + b * {n.padded}, {start}, {n.padded} * sizeof(real));"
            )
    for slot, shape in fields(g):
        if shape is not None and not slot.startswith("x"):
            count = " * ".join("stride" if d == "trial" else str(d) for d in shape)
            lines.append(f"memset(p[P_{slot}], 0, {count} * sizeof(real));")
    return f"""
static void begin(void **p, long live, long stride)
{{
{indent(lines, 4)}
}}"""


def entry(g):
    """What Python calls: steps ``from`` to ``end`` of ``T`` of the trials ``first`` to ``first + live`` of ``B``.

    Returns -1, or (step times populations plus number) of the first population with a number that is not finite.
    """
    body = g.body
    boxes = sorted({(k.post.number, k.target, k.post.padded) for k in body.links if k.transmission == "graded"})
    calls = [f"gather{n.number}(GIVEN);" for n in body.channels]
    calls += [f"update{n.number}(GIVEN);" for n in body.cells]
    calls += [
        f"memset(p[P_x{number}_{target}], 0, live * {padded} * sizeof(real));" for number, target, padded in boxes
    ]
    calls += [f"send{k.number}(GIVEN);" for k in body.links]
    for place, n in enumerate(body.cells):
        calls.append(f"if (finish{n.number}(GIVEN, share) && wrong < 0) wrong = t * {len(body.cells)} + {place};")
    own = "(real *)p[P_gradient{}] + me * {}"  # of each thread
    teaching = [
        f"teach{k.number}(GIVEN, 0, {k.pre.size}, {own.format(k.number, (k.pre.size + 8) * k.post.padded)});"
        for k in g.plastic()
    ]
    calls += [f"if ({at_once(g)}) {{", *teaching, "}"]
    hoists = [f"hoist{k.number}(GIVEN);" for k in g.plastic() if g.hoisted(k)]
    summed = [(n, name) for n in body.cells for name in g.parameters(n) if not g.adaptations]
    sums = [total(n, name, f"gradient{n.number}_{name}") for n, name in summed]
    return f"""
{begin(g)}
long run(void **p, long T, long B, long first, long live, long stride, long from, long end, double part, long me, long team)
{{
    const unsigned old = flush();
    const real share = part;
    long wrong = -1;
    if (from == 0) begin(p, live, stride);
    for (long t = from; t < end && (wrong < 0 || team > 1); t++) {{
{indent(calls)}
{indent(moves(g))}
{indent(hoists)}
    }}
    if (end == T) {{
{indent(sums)}
    }}
    unflush(old);
    return wrong;
}}
"""


def at_once(g):
    """C condition: all gradients are summed before any weight changes; else rows are taught and changed in turn, in
    the cache.
    """
    return "team > 1" if g.interval == 1 else "1"


def moves(g):
    """C statements that change weights and parameters, each thread some of their rows; a thread that went wrong stops
    all.
    """
    if not g.adaptations:
        return []
    ties = [f"tie{k.number}(p, me, team);" for k in g.body.links if k.name in g.net.tied]
    return [
        f"if ((t + 1) % {g.interval} == 0 || t + 1 == T) {{",
        *(total(a.node, a.parameter, a.gradient) for a in g.adaptations if a.node),
        "long long *gate = p[P_gate];",
        "if (wrong >= 0) __atomic_store_n(gate + 2, 1, __ATOMIC_RELEASE);",
        "meet(gate, team);",
        "if (__atomic_load_n(gate + 2, __ATOMIC_ACQUIRE)) break;",
        *(move(g, a) for a in g.adaptations),
        "meet(gate, team);",
        *([*ties, "meet(gate, team);"] if ties else []),
        "}",
    ]


def move(g, a):
    """C statements: one update of one array."""
    now = f"(const real *)p[P_schedule{a.label}] + t / {g.interval} * {len(a.steps)}"
    if a.node:
        return f"share{a.label}(p, {now}, me, team);"
    return f"""if ({at_once(g)}) share{a.label}(p, {now}, me, team);
else for (long h = 0; h < {a.rows}; h += ROWS) {{
    const long count = {a.rows} - h < ROWS ? {a.rows} - h : ROWS;
    real *g = p[P_{a.gradient}];
    teach{a.label}(GIVEN, h, count, g);
    adapt{a.label}(p, g, h, h + count, {now});
    memset(g + count * {a.padded}, 0, (ROWS - count) * {a.padded} * sizeof(real)); /* a block may reach beyond the last row */
}}"""
