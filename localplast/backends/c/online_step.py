"""The C text of a kernel that learns online: traces carried forward, weights that may change within a trial.

Semantics are those of :class:`~localplast.backends.torch.online.OnlineLearner`, one trial after the other. Rows of
synapses are contiguous and padded; the innermost loop runs over postsynaptic neurons. In every function ``p`` holds the
arrays by slot, ``t`` is the step, ``b`` the trial, ``h`` the presynaptic and ``i`` the postsynaptic neuron. Spikes are
lists of neuron numbers, kept for as many steps as the longest delay: memory does not grow with the trial.
Names that neurons compute, and that outlive a function, are arrays ``q``.
"""

import functools
from dataclasses import dataclass

from localplast.backends.c.arguments import delay_shape, numbers_of
from localplast.backends.c.expression import Writer
from localplast.backends.c.online_signals import DOT, judge, listen, say, signal_fields, target_width
from localplast.backends.c.online_synapses import SynapseText
from localplast.backends.c.online_transport import ring, send
from localplast.backends.c.runtime import HELPERS, indent
from localplast.equations.language import symbol
from localplast.task.regulariser import of_trials

__all__ = ["Online", "fields", "source"]


@dataclass(frozen=True, eq=False)
class Online:
    """What the kernel must do.

    Attributes
    ----------
    body : kernel_plan.Plan
        The network: nodes and links, one trial at a time.
    learned : localplast.program.learn.Plan
    optimiser : Optimiser or None
        None: gradients are summed over all trials. Else it runs every ``interval`` steps, and at the end of a trial.
    masked : frozenset of str
        Plastic projections that lack some synapses.
    bounds : dict of str to (array, array)
        Lowest and highest weights ``(pre, post)``, by plastic projection; what has none, or is frozen, is absent.
    dt : float
    interval : int
    """

    body: object
    learned: object
    optimiser: object
    masked: frozenset
    bounds: dict
    dt: float
    interval: int = 1

    def plastic(self, cells=None):
        """Links that learn (onto ``cells``)."""
        return [k for k in self.body.links if k.name in self.learned.synapses and cells in (None, k.post)]

    def eligibility(self, link):
        return self.learned.synapses[link.name].eligibility

    def whole(self, link):
        """Whether a spike arrives at each synapse at a time of its own."""
        return link.kind in ("dendritic", "synaptic")

    def neurons(self, cells):
        """What a population computes: a :class:`~localplast.program.statements.NeuronPlan`."""
        return self.learned.neurons[cells.name]

    def population(self, name):
        return next(n for n in self.body.cells if n.name == name)

    def shown(self, cells):
        """Per-neuron names that one function leaves for others, and for the next step."""
        return self.names[cells]

    @functools.cached_property
    def names(self):
        return {n: sorted(self.left_behind(n)) for n in self.body.cells}

    def left_behind(self, n):
        own, terms = self.neurons(n), [t for _, t in self.terms]
        found = {name for s in self.synapses if s.link.post is n for name in s.post_names()} | set(own.past)
        found |= unwritten(own.before_reset) | unwritten(own.end) | {t.variable for t in terms if t.source == n.name}
        found |= ({"error"} if n in self.readouts else set()) | ({"L"} if n.name in self.learned.signals else set())
        return found - {*n.variables, *n.constants.values, *own.sums}

    @functools.cached_property
    def synapses(self):
        """The text of every plastic projection."""
        return [SynapseText(self, k) for k in self.plastic()]

    @property
    def readouts(self):
        return [self.population(name) for name in self.learned.readouts]

    @property
    def terms(self):
        """``(population, term)`` of all learning signals."""
        return [(name, t) for name, signal in self.learned.signals.items() for t in signal.terms]

    @functools.cached_property
    def lazy(self):
        """Whether a step without an error changes no gradient, and nothing that neurons keep."""
        own = [self.neurons(n) for n in self.body.cells]
        kept = any(name in (*plan.past, *plan.sums) for plan in own for name, _ in plan.end)
        return not kept and all(s.lazy for s in self.synapses)


def unwritten(program):
    """Names that a program reads and does not write first."""
    found, written = set(), set()
    for name, e in program:
        found |= {s.name for s in e.free_symbols} - written
        written.add(name)
    return found


def fields(plan):
    """``(slot, type, shape, life)`` of every array; a shape may hold ``('ring', node or link)`` for the length of a
    ring.

    What is given is of ``T`` steps, ``B`` trials, ``U`` updates within a trial and targets of ``rows`` steps
    (:mod:`localplast.backends.c.arguments`); shapes of constants are known once the C text is written.

    ``life``: ``'given'`` by the caller, ``'trial'`` (zero at the start of each) or ``'step'`` (scratch).
    """
    for n in plan.body.channels:
        yield f"data{n.number}", "real", ("T", "B", n.size), "given"
        yield f"raster{n.number}", "unsigned char", ("B", "T", n.size), "given"
        yield f"list{n.number}", "unsigned", (("ring", n), n.size), "step"
        yield f"value{n.number}", "real", (("ring", n), n.size), "step"
        yield f"number{n.number}", "long", (("ring", n),), "trial"
    for n in plan.body.cells:
        yield from ((slot, *declared, "given") for slot, declared in numbers_of(n).items())
        yield f"silent{n.number}", "real", (n.padded,), "given"
        yield from ((f"x{n.number}_{v}", "real", (n.padded,), "step") for v in n.variables)
        yield from ((f"in{n.number}_{target}_{how}", "real", (n.padded,), "step") for target, how in n.boxes)
        yield from ((f"q{n.number}_{name}", "real", (n.padded,), "trial") for name in plan.shown(n))
        yield from ((f"q{n.number}_{name}", "real", (n.padded,), "given") for name in plan.neurons(n).sums)
        if n.spiking:
            yield f"fired{n.number}", "mask", (n.padded,), "step"
            yield f"since{n.number}", "real", (n.padded,), "step"
            yield f"list{n.number}", "unsigned", (("ring", n), n.size), "step"
            yield f"number{n.number}", "long", (("ring", n),), "trial"
            yield f"count{n.number}", "real", ("B", n.size), "given"
    for k in plan.body.links:
        yield f"weight{k.number}", "real", (k.pre.size, k.post.padded), "given"
        yield f"delay{k.number}", "int", delay_shape(k), "given"
        if k.kind == "axonal":
            yield f"late{k.number}", "unsigned", (("ring", k), k.pre.size), "step"
            yield f"amount{k.number}", "real", (("ring", k), k.pre.size), "step"
            yield f"due{k.number}", "long", (("ring", k),), "trial"
        if plan.whole(k):
            yield f"past{k.number}", "real", (k.pre.size, ("ring", k)), "trial"
            yield f"age{k.number}", "long", (k.pre.size,), "step"
            yield f"arrived{k.number}", "real", (k.pre.size, k.post.padded), "trial"
    for s in plan.synapses:
        yield from s.fields()
    yield from dict.fromkeys(signal_fields(plan))
    yield "output", "real", ("T", "B", sum(n.size for n in plan.readouts)), "given"
    yield "target", "real", ("rows", "B", target_width(plan)), "given"
    yield "step_weight", "real", ("T",), "given"
    yield "rings", "long", (len(plan.body.nodes) + len(plan.body.links),), "given"


def source(plan):
    """C text of the kernel of a plan."""
    body = plan.body
    parts = [
        "#define DOUBLE" if body.double else "",
        "enum { S = 1 };",
        HELPERS,
        DOT,
        '#define EVERY _Pragma("GCC ivdep") for (long i = 0; i < N; i++)',
        f"enum {{ {', '.join('P_' + slot for slot, *_ in fields(plan))} }};",
        *(update(plan, n) for n in body.cells),
        *(gather(plan, n) for n in body.channels),
        *(send(plan, k) for k in body.links),
        *(arrive(plan, n) for n in body.cells),
        *(say(plan, n, declared(n)) for n in plan.readouts),
        judge(plan),
        *(listen(plan, name, signal) for name, signal in plan.learned.signals.items()),
        *(finish(plan, n) for n in body.cells),
        *(s.text() for s in plan.synapses),
        begin(plan),
        entry(plan),
    ]
    return "\n".join(parts)


def declared(n, *others):
    """C declarations of a population's numbers and state, and of ``others``: (type, name in C, slot)."""
    lines = [f"enum {{ N = {n.padded} }};"]
    lines += [f"const real *restrict k = p[P_shared{n.number}], *restrict c = p[P_each{n.number}];"]
    lines += [f"real *restrict x_{v} = p[P_x{n.number}_{v}];" for v in n.variables]
    lines += [f"{kind} *restrict {name} = p[P_{slot}];" for kind, name, slot in others]
    return indent(lines, 4)


def shown(plan, n):
    names = (*plan.shown(n), *plan.neurons(n).sums)
    return [("real", f"q_{name}", f"q{n.number}_{name}") for name in names]


def reader(n, known=()):
    """What reads a name where neurons compute: the state, names ``known`` in this function, arrays ``q``."""
    known = dict(known)
    return lambda name: f"x_{name}[i]" if name in n.variables else known.get(name, f"q_{name}[i]")


def results(writer, program):
    """C names of what a program has computed."""
    return {name: writer(symbol(name)) for name, _ in program}


def update(plan, n):
    """Slots 1 and 2: late copies, the coefficients that synapses ask for, integrate, threshold, psi."""
    own, visible, lines = plan.neurons(n), plan.shown(n), []
    if n.refractory:
        lines += ["const real ago = since[i] + R(1.0);", "const real ready = ago >= silent[i] ? R(1.0) : R(0.0);"]
    shift = Writer(n.constants, reader(n))
    shift.program(own.shift)
    found = results(shift, own.shift)
    old = Writer(n.constants, reader(n, found), after=shift)
    old.program(own.before)
    found |= results(old, own.before)
    old.program(n.step.program)
    new = {v: old(e) for v, e in n.step.updated.items()}
    states = {v: new.get(v, f"x_{v}[i]") for v in n.variables}
    after = Writer(n.constants, lambda v: states.get(v) or found.get(v, f"q_{v}[i]"), after=old)
    after.program(own.after)
    found |= results(after, own.after)
    kept = [f"q_{name}[i] = {text};" for name, text in found.items() if name in visible]
    tail = []
    if n.spiking:
        x = after(n.step.spike_argument)
        ready = " & (ready != 0)" if n.refractory else ""
        tail.append(f"const mask z = -(mask)(({x} {'>' if n.step.strict else '>='} 0){ready});")
        tail += ["fired[i] = z;"] + (["q_z[i] = z ? R(1.0) : R(0.0);"] if "z" in visible else [])
        tail += ["since[i] = z ? R(0.0) : ago;"] if n.refractory else []
    tail += kept + [f"x_{v}[i] = {text};" for v, text in new.items()]
    others = shown(plan, n)
    if n.spiking:
        others += [("mask", "fired", f"fired{n.number}"), ("real", "since", f"since{n.number}")]
        others += [("const real", "silent", f"silent{n.number}")] if n.refractory else []
    spikes = f"""
    const long slot = t % {ring(plan, n)};
    ((long *)p[P_number{n.number}])[slot] = collect(fired, {n.size}, (unsigned *)p[P_list{n.number}] + slot * {n.size}, 0);"""
    return f"""
/* {n.name}: {n.step.model.name} */
INLINE void update{n.number}(void **p, long t)
{{
{declared(n, *others)}
    EVERY {{
{indent(lines + old.lines + tail)}
    }}{spikes if n.spiking else ""}
}}"""


def gather(plan, n):
    """The channels of an input that are not zero at step t: of a raster ``(trial, time, channel)``, or of numbers,
    time first.
    """
    return f"""
/* {n.name} */
INLINE void gather{n.number}(void **p, long t, long T, long B, long b)
{{
    const long slot = t % {ring(plan, n)};
    const unsigned char *raster = p[P_raster{n.number}];
    unsigned *list = (unsigned *)p[P_list{n.number}] + slot * {n.size};
    real *value = (real *)p[P_value{n.number}] + slot * {n.size};
    ((long *)p[P_number{n.number}])[slot] = raster
        ? collect_bytes(raster + (b * T + t) * {n.size}, {n.size}, list, value, 0)
        : collect_numbers((const real *)p[P_data{n.number}] + (t * B + b) * {n.size}, {n.size}, list, value, 0);
}}"""


def arrive(plan, n):
    """The end of slot 3, and slot 4: take in what arrived, let synapses look, reset where the neuron spiked."""
    lines = []
    for target, how in n.boxes:
        box = f"((const real *)p[P_in{n.number}_{target}_{how}])[i]"
        lines.append(f"x_{target}[i] = {box};" if how == "graded" else f"x_{target}[i] = x_{target}[i] + {box};")
    writer, program = Writer(n.constants, reader(n)), plan.neurons(n).before_reset
    writer.program(program)
    found = results(writer, program)
    lines += writer.lines + [f"q_{name}[i] = {text};" for name, text in found.items() if name in plan.shown(n)]
    jumps = []
    for block in (n.step.reset, n.step.adaptation):
        jump = Writer(n.constants, lambda v: f"x_{v}[i]")
        values = {v: jump(e) for v, e in block.items()}
        jumps += ["{", *jump.lines, *(f"x_{v}[i] = {text};" for v, text in values.items()), "}"] if block else []
    spikes = f"""
    const long slot = t % {ring(plan, n)};
    for (long e = 0; e < ((const long *)p[P_number{n.number}])[slot]; e++) {{
        const long i = ((const unsigned *)p[P_list{n.number}])[slot * {n.size} + e];
        ((real *)p[P_count{n.number}])[b * {n.size} + i] += 1;
{indent(jumps)}
    }}"""
    return f"""
INLINE void arrive{n.number}(void **p, long t, long b)
{{
{declared(n, *shown(plan, n))}
    EVERY {{
{indent(lines)}
    }}{spikes if n.spiking else ""}
}}"""


def finish(plan, n):
    """What neurons compute once their learning signal is known."""
    own = plan.neurons(n)
    if not own.end:
        return ""
    writer = Writer(n.constants, reader(n))
    writer.program(own.end)
    kept = {name: text for name, text in results(writer, own.end).items() if name in (*plan.shown(n), *own.sums)}
    return f"""
INLINE void finish{n.number}(void **p)
{{
{declared(n, *shown(plan, n))}
    EVERY {{
{indent([*writer.lines, *(f"q_{name}[i] = {text};" for name, text in kept.items())])}
    }}
}}"""


def begin(plan):
    """The start of a trial."""
    lines = []
    for slot, kind, shape, life in fields(plan):
        if life == "trial":
            count = " * ".join(str(d) if isinstance(d, int) else ring(plan, d[1]) for d in shape)
            lines.append(f"memset(p[P_{slot}], 0, {count} * sizeof({kind}));")
    for n in plan.body.cells:
        lines += [
            f"memcpy(p[P_x{n.number}_{v}], (const real *)p[P_initial{n.number}] + {at} * {n.padded}, "
            f"{n.padded} * sizeof(real));"
            for at, v in enumerate(n.variables)
        ]
        lines += (
            [f"for (long i = 0; i < {n.padded}; i++) ((real *)p[P_since{n.number}])[i] = R(1e9);"] if n.spiking else []
        )
    for k in plan.body.links:
        if plan.whole(k):
            lines.append(
                f"for (long h = 0; h < {k.pre.size}; h++) ((long *)p[P_age{k.number}])[h] = {ring(plan, k)} + 1;"
            )
    return f"""
static void begin(void **p)
{{
{indent(lines, 4)}
}}"""


def entry(plan):
    """What Python calls: ``T`` steps of the trials from ``first`` to ``end`` of ``B``, one after the other.

    It returns the number of a population whose state is not finite at the end of a trial, or -1.
    """
    body, last = plan.body, "t <= last" if plan.lazy and all(s.ends for s in plan.synapses) else "1"
    calls = [f"update{n.number}(p, t);" for n in body.cells]
    calls += [f"gather{n.number}(p, t, T, B, b);" for n in body.channels if any(k.pre is n for k in body.links)]
    calls += [
        f"memset(p[P_in{n.number}_{v}_{how}], 0, {n.padded} * sizeof(real));" for n in body.cells for v, how in n.boxes
    ]
    calls += [f"send{k.number}(p, t);" for k in body.links]
    calls += [f"arrive{n.number}(p, t, b);" for n in body.cells]
    calls += [f"say{n.number}(p, t, B, b);" for n in plan.readouts]
    heard = [plan.population(name) for name in plan.learned.signals]
    signals = ["judge(p, t, B, b, rows, last);"]
    for n in (*heard, *plan.readouts):
        signals += [f"listen{n.number}(p);"] if n in heard else []
        signals += [f"finish{n.number}(p);"] if plan.neurons(n).end else []
    counts = "((const real *)p[P_step_weight])[t] != 0" if plan.lazy else "1"
    calls += [
        f"if ({last}) {{",
        f"    const int counts = {counts};",
        "    if (counts) {",
        *(f"        {call}" for call in signals),
        "    }",
        *(f"    {call}" for s in plan.synapses for call in s.calls()),
        "}",
        *(call for s in plan.synapses for call in s.now_and_then()),
    ]
    ends = [call for s in plan.synapses for call in s.at_end()] + regularise(plan)
    ends += [
        f"if (wrong < 0 && broken(p[P_x{n.number}_{v}], {n.size})) wrong = {place};"
        for place, n in enumerate(body.cells)
        for v in n.variables
    ]
    return f"""
long learn(void **p, long T, long B, long rows, long first, long end)
{{
    const unsigned old = flush();
    long wrong = -1, last = -1; /* the last step that counts: later traces reach nothing */
    for (long t = 0; t < T; t++) if (((const real *)p[P_step_weight])[t] != 0) last = t;
    for (long b = first; b < end; b++) {{
        begin(p);
        for (long t = 0; t < T; t++) {{
{indent(calls, 12)}
        }}
{indent(ends)}
    }}
    unflush(old);
    return wrong;
}}
"""


def regularise(plan):
    """C statements at the end of a trial: what rates say about parameters."""
    r, lines = plan.learned.loss.regulariser, []
    for n in plan.body.cells if of_trials(plan.learned.loss) else ():
        for parameter in plan.learned.parameters[n.name] if n.name in plan.learned.signals else ():
            lines.append(f"""for (long i = 0; i < {n.size}; i++) {{
    const double duration = T * {plan.dt!r};
    const real rate = ((const real *)p[P_count{n.number}])[b * {n.size} + i] / duration;
    ((real *)p[P_q{n.number}_gradient_{parameter}])[i] +=
        (real)({r.strength!r} / duration * (rate - {r.target!r})) * ((const real *)p[P_q{n.number}_elig_sum_{parameter}])[i];
}}""")
    return lines
