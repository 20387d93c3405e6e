"""The C text of a kernel that learns online: traces carried forward, weights that may change in every step.

Semantics are those of :class:`~localplast.backends.torch_traces.OnlineLearner`, one trial after the other. Rows of
synapses are contiguous and padded; the innermost loop runs over postsynaptic neurons. In every function ``p`` holds the
arrays by slot, ``t`` is the step, ``b`` the trial, ``h`` the presynaptic and ``i`` the postsynaptic neuron. Spikes are
lists of neuron numbers, kept for as many steps as the longest delay: memory does not grow with the trial.
"""

import functools
from dataclasses import dataclass

from localplast.backends.kernel_delay import ring, send
from localplast.backends.kernel_expression import Writer
from localplast.backends.kernel_synapse import SynapseText
from localplast.backends.kernel_text import HELPERS, indent
from localplast.calculus import symbol

__all__ = ["Online", "fields", "source"]


@dataclass(frozen=True, eq=False)
class Online:
    """What the kernel must do.

    Attributes
    ----------
    body : kernel_plan.Plan
        The network: nodes and links, one trial at a time.
    learned : localplast.plan.Plan
    optimiser : Optimiser or None
        None: gradients are summed over all trials. Else it runs in every step.
    masked : frozenset of str
        Plastic projections that lack some synapses.
    bounds : dict of str to (array, array)
        Lowest and highest weights ``(pre, post)``, by plastic projection; what has none, or is frozen, is absent.
    dt : float
    """

    body: object
    learned: object
    optimiser: object
    masked: frozenset
    bounds: dict
    dt: float

    def plastic(self, cells=None):
        """Links that learn (onto ``cells``)."""
        return [k for k in self.body.links if k.name in self.learned.synapses and cells in (None, k.post)]

    def eligibility(self, link):
        return self.learned.synapses[link.name].eligibility

    def whole(self, link):
        """Whether a spike arrives at each synapse at a time of its own."""
        return link.kind in ("dendritic", "synaptic")

    def programs(self, cells, where):
        """One per-neuron program of all plastic projections onto ``cells``, each name once."""
        return {name: e for k in self.plastic(cells) for name, e in getattr(self.eligibility(k), where)}

    def shown(self, cells):
        """Per-neuron names that synapses read: coefficients, psi, z, the learning signal or the error."""
        found = {name for s in self.synapses if s.link.post is cells for name in s.post_names()}
        return sorted(found | ({"error"} if cells is self.readout else set()))

    @functools.cached_property
    def synapses(self):
        """The text of every plastic projection."""
        return [SynapseText(self, k) for k in self.plastic()]

    @property
    def readout(self):
        return next(n for n in self.body.cells if n.name == self.learned.readouts[0])


def fields(plan):
    """``(slot, type, shape, life)`` of every array; a shape may hold ``('ring', node or link)`` for the length of a ring.

    ``life``: ``'given'`` by the caller, ``'trial'`` (zero at the start of each) or ``'step'`` (scratch).
    """
    for n in plan.body.channels:
        yield f"data{n.number}", "real", None, "given"
        yield f"list{n.number}", "unsigned", (("ring", n), n.size), "step"
        yield f"value{n.number}", "real", (("ring", n), n.size), "step"
        yield f"number{n.number}", "long", (("ring", n),), "trial"
    for n in plan.body.cells:
        yield from ((f"{what}{n.number}", "real", None, "given") for what in ("shared", "each", "initial", "silent"))
        yield from ((f"x{n.number}_{v}", "real", (n.padded,), "step") for v in n.variables)
        yield from ((f"in{n.number}_{target}_{how}", "real", (n.padded,), "step") for target, how in n.boxes)
        yield from ((f"q{n.number}_{name}", "real", (n.padded,), "trial") for name in plan.shown(n))
        if n.spiking:
            yield f"fired{n.number}", "mask", (n.padded,), "step"
            yield f"since{n.number}", "real", (n.padded,), "step"
            yield f"list{n.number}", "unsigned", (("ring", n), n.size), "step"
            yield f"number{n.number}", "long", (("ring", n),), "trial"
            yield f"count{n.number}", "real", None, "given"
            yield f"feedback{n.number}", "real", None, "given"
    for k in plan.body.links:
        yield f"weight{k.number}", "real", None, "given"
        yield f"delay{k.number}", "int", None, "given"
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
    yield "output", "real", None, "given"
    yield from ((name, "real", None, "given") for name in ("step_weight", "target"))
    yield "rings", "long", None, "given"


def source(plan):
    """C text of the kernel of a plan."""
    body = plan.body
    parts = [
        "#define DOUBLE" if body.double else "",
        "enum { S = 1 };",
        HELPERS,
        "#define EVERY _Pragma(\"GCC ivdep\") for (long i = 0; i < N; i++)",
        f"enum {{ {', '.join('P_' + slot for slot, *_ in fields(plan))} }};",
        *(update(plan, n) for n in body.cells),
        *(gather(plan, n) for n in body.channels),
        *(send(plan, k) for k in body.links),
        *(arrive(plan, n) for n in body.cells),
        judge(plan),
        *(broadcast(plan, name, signal.terms[0]) for name, signal in plan.learned.signals.items()),
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
    return [("real", f"q_{name}", f"q{n.number}_{name}") for name in plan.shown(n)]


def update(plan, n):
    """Slots 1 and 2: the coefficients that synapses ask for, integrate, threshold, psi."""
    visible, lines = plan.shown(n), []
    if n.refractory:
        lines += ["const real ago = since[i] + R(1.0);", "const real ready = ago >= silent[i] ? R(1.0) : R(0.0);"]
    old = Writer(n.constants, lambda v: f"x_{v}[i]")
    old.program(plan.programs(n, "before").items())
    kept = [f"q_{name}[i] = {old(e)};" for name, e in plan.programs(n, "before").items() if name in visible]
    old.program(n.step.program)
    new = {v: old(e) for v, e in n.step.updated.items()}
    after = Writer(n.constants, lambda v: new.get(v, f"x_{v}[i]"), after=old)
    programs = plan.programs(n, "after")
    after.program(programs.items())
    kept += [f"q_{name}[i] = {after(symbol(name))};" for name in programs if name in visible]
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
    """The channels of an input that are not zero at step t."""
    return f"""
/* {n.name} */
INLINE void gather{n.number}(void **p, long t, long B, long b)
{{
    const long slot = t % {ring(plan, n)};
    ((long *)p[P_number{n.number}])[slot] = collect_numbers(
        (const real *)p[P_data{n.number}] + (t * B + b) * {n.size}, {n.size},
        (unsigned *)p[P_list{n.number}] + slot * {n.size}, (real *)p[P_value{n.number}] + slot * {n.size}, 0);
}}"""


def arrive(plan, n):
    """The end of slot 3, and slot 4: take in what arrived, let synapses look, reset where the neuron spiked."""
    lines = []
    for target, how in n.boxes:
        box = f"((const real *)p[P_in{n.number}_{target}_{how}])[i]"
        lines.append(f"x_{target}[i] = {box};" if how == "graded" else f"x_{target}[i] = x_{target}[i] + {box};")
    writer, programs = Writer(n.constants, lambda v: f"x_{v}[i]"), plan.programs(n, "before_reset")
    writer.program(programs.items())
    lines += writer.lines + [f"q_{name}[i] = {writer(symbol(name))};" for name in programs if name in plan.shown(n)]
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


def judge(plan):
    """Output and error of the readout; returns whether this step counts."""
    n, kind = plan.readout, plan.learned.loss.kind
    writer = Writer(n.constants, lambda v: f"x_{v}[i]")
    value = writer(n.step.output)
    wrong = "error[i] = weight * (y[i] - wanted[i]);"
    if kind == "cross_entropy":
        wrong = "error[i] = weight * (M(exp)(y[i] - most) / sum - wanted[i]);"
    return f"""
INLINE int judge(void **p, long t, long B, long b, long rows)
{{
{declared(n)}
    enum {{ K = {n.size} }};
    real *restrict y = (real *)p[P_output] + (t * B + b) * K;
    const real *restrict wanted = (const real *)p[P_target] + ((t < rows ? t : rows - 1) * B + b) * K;
    const real weight = ((const real *)p[P_step_weight])[t];
    real *restrict error = p[P_q{n.number}_error];
    for (long i = 0; i < K; i++) {{
{indent(writer.lines)}
        y[i] = {value};
    }}
    if (weight == 0) return 0;
    real most = y[0], sum = 0;
    for (long i = 1; i < K; i++) most = larger(most, y[i]);
    for (long i = 0; i < K; i++) sum += M(exp)(y[i] - most);
    for (long i = 0; i < K; i++) {wrong}
    return 1;
}}"""


def broadcast(plan, name, term):
    """The learning signal of one population: its error through the readout's weights or fixed ones."""
    n, readout = next(c for c in plan.body.cells if c.name == name), plan.readout
    slot, stride = f"feedback{n.number}", readout.size
    if term.form == "weight":
        slot, stride = f"weight{next(k.number for k in plan.body.links if k.name == term.path)}", readout.padded
    return f"""
INLINE void broadcast{n.number}(void **p)
{{
    const real *restrict back = p[P_{slot}], *restrict error = p[P_q{readout.number}_error];
    real *restrict signal = p[P_q{n.number}_L];
    for (long i = 0; i < {n.size}; i++) {{
        real sum = 0;
        for (long k = 0; k < {readout.size}; k++) sum += back[i * {stride} + k] * error[k];
        signal[i] = sum;
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
        lines += [f"memcpy(p[P_x{n.number}_{v}], (const real *)p[P_initial{n.number}] + {at} * {n.padded}, "
                  f"{n.padded} * sizeof(real));" for at, v in enumerate(n.variables)]  # fmt: skip
        lines += [f"for (long i = 0; i < {n.padded}; i++) ((real *)p[P_since{n.number}])[i] = R(1e9);"] if n.spiking else []
    for k in plan.body.links:
        if plan.whole(k):
            lines.append(f"for (long h = 0; h < {k.pre.size}; h++) ((long *)p[P_age{k.number}])[h] = {ring(plan, k)} + 1;")
    return f"""
static void begin(void **p)
{{
{indent(lines, 4)}
}}"""


def entry(plan):
    """What Python calls: ``T`` steps of ``B`` trials, one after the other."""
    body, last = plan.body, "t <= last" if all(s.ends for s in plan.synapses) else "1"
    calls = [f"update{n.number}(p, t);" for n in body.cells]
    calls += [f"gather{n.number}(p, t, B, b);" for n in body.channels]
    calls += [f"memset(p[P_in{n.number}_{v}_{how}], 0, {n.padded} * sizeof(real));" for n in body.cells for v, how in n.boxes]
    calls += [f"send{k.number}(p, t);" for k in body.links]
    calls += [f"arrive{n.number}(p, t, b);" for n in body.cells]
    calls += ["const int counts = judge(p, t, B, b, rows);", f"if (!({last})) continue;"]
    signals = [n.number for n in body.cells if n.name in plan.learned.signals]
    calls += [f"if (counts) broadcast{number}(p);" for number in signals]
    calls += [call for s in plan.synapses for call in s.calls()]
    ends = [call for s in plan.synapses for call in s.at_end()]
    return f"""
void learn(void **p, long T, long B, long rows)
{{
    const unsigned old = flush();
    long last = -1; /* the last step that counts: later traces reach nothing */
    for (long t = 0; t < T; t++) if (((const real *)p[P_step_weight])[t] != 0) last = t;
    for (long b = 0; b < B; b++) {{
        begin(p);
        for (long t = 0; t < T; t++) {{
{indent(calls, 12)}
        }}
{indent(ends)}
    }}
    unflush(old);
}}
"""
