"""The C text of the synapses of one projection: traces, gradient and optimiser, in one pass over all of them.

Where weights change in some steps only, the optimiser has a pass of its own, over gradients summed up until then.
What depends on the postsynaptic neuron alone is computed once per neuron and step, what depends on the presynaptic
neuron once per row, what depends on the number of the update beforehand, in double precision.
"""

import functools

import numpy as np
import sympy

from localplast.backends.c.expression import Writer, is_condition
from localplast.backends.c.runtime import indent
from localplast.equations.language import symbol
from localplast.equations.tape import Tape

__all__ = ["SynapseText"]

#: Names of an optimiser's program that are one number for all synapses. Here its names begin with ``opt_``, for a
#: neuron may have a parameter called k, or w.
SHARED = {"opt_k", "opt_learning_rate"}


class SynapseWriter(Writer):
    """Writes statements per synapse, and collects those that need not be.

    Parameters
    ----------
    domain : callable of str to str
        ``'post'``, ``'pre'``, ``'step'`` (the same for all synapses) or ``'synapse'``, of a name.
    steps : list
        Expressions that depend on the update's number alone; new ones are appended.
    """

    def __init__(self, constants, load, domain, steps):
        super().__init__(constants, load)
        self.domain = domain
        self.rows = Prefixed(constants, load, "row")
        self.neurons, self.steps = [], steps

    def where(self, node):
        """The smallest domain that holds all of ``node``."""
        found = set()
        for s in node.free_symbols:
            number = self.constants.values.get(s.name)
            known = number is not None and self.domain(s.name) == "post"
            found.add(("post" if np.ndim(number) else "constant") if known else self.domain(s.name))
        if found <= {"step"}:
            return "step"
        if found <= {"pre", "constant", "step"}:
            return "pre"
        return "post" if found <= {"post", "constant"} else "synapse"

    def _make(self, node):
        if node.is_number or is_condition(node):
            return super()._make(node)
        where = self.where(node)
        if where == "step":
            if node not in self.steps:
                self.steps.append(node)
            return f"now[{self.steps.index(node)}]"
        if where == "pre":
            return self.rows(node)
        if where == "post" and not node.is_Symbol and not self.constants.holds(node):
            self.neurons.append(node)
            return self._new(f"neuron{len(self.neurons) - 1}[i]")
        return super()._make(node)

    def product(self, *factors):
        """C name of a product of C texts."""
        return self._new(" * ".join(factors))

    def _operate(self, node):
        """Sums and products gather what is the same for all synapses of a neuron before what is not."""
        if node.func in (sympy.Add, sympy.Mul):
            parts = {"pre": [], "post": [], "synapse": []}
            for argument in node.args:
                parts[{"step": "pre"}.get(where := self.where(argument), where)].append(argument)
            if parts["post"] and all(self.constants.holds(a) for a in parts["pre"]):
                parts["post"] += parts.pop("pre")
            inner = parts.pop("synapse")
            groups = [node.func(*a) for a in parts.values() if a]
            if len(groups) + len(inner) < len(node.args):
                node = node.func(*groups, *inner, evaluate=False)
        return super()._operate(node)


class Prefixed(Writer):
    """A :class:`Writer` whose names begin with ``prefix``: its statements are read from an inner loop."""

    def __init__(self, constants, load, prefix):
        super().__init__(constants, load)
        self.prefix = prefix

    def _new(self, text, kind="real"):
        name = f"{self.prefix}{len(self.lines)}"
        self.lines.append(f"const {kind} {name} = {text};")
        return name


class SynapseText:
    """The C functions of the plastic synapses of ``link``."""

    def __init__(self, plan, link):
        self.plan, self.link = plan, link
        self.learned = plan.learned.synapses[link.name]
        self.eligibility = self.learned.eligibility
        self.hoisted = [name for name, _ in self.eligibility.pre]
        self.program = list(self.learned.program)
        self.optimiser, self.fused = plan.optimiser, plan.optimiser is not None and plan.interval == 1
        self.adapted = ["opt_w", *(f"opt_{n}" for n in self.optimiser.state)] if self.optimiser else []
        if self.learned.learned and self.optimiser:
            self.adapted.append("opt_B")
        if self.fused:
            self.program = [("opt_g", self.change()) if n == "gradient" else (n, e) for n, e in self.program]
        self.steps = []
        self.stored = [*self.learned.state, *(self.adapted if self.fused else ["gradient"])]
        self.passes = {"counts": self.write(True)}
        if self.kept(False):
            self.passes["silent"] = self.write(False)
        if self.optimiser and not self.fused:
            self.passes["adapt"] = self.write_adaptation()

    # --- names ----------------------------------------------------------------------------------------------------

    def domain(self, name):
        if name in self.hoisted or (name == "arrived" and not self.plan.whole(self.link)):
            return "pre"
        if name in SHARED and self.optimiser:
            return "step"
        inner = {"arrived", "gradient", "opt_g", *self.adapted, *self.stored, *(n for n, _ in self.program)}
        return "synapse" if name in inner or name in self.beside else "post"

    @functools.cached_property
    def beside(self):
        """What the optimiser of feedback computes beside that of the weight."""
        return {name for name, _ in self.optimisation()} - {*self.adapted} if "opt_B" in self.adapted else set()

    def optimisation(self):
        """The optimiser's program under its names here, and again for feedback that learns beside the weight."""

        def renamed(e, back=()):
            return e.subs({s: symbol(back[s.name] if s.name in back else f"opt_{s.name}") for s in e.free_symbols})

        program = self.optimiser.program(projection=self.link.name)
        found, back = [(f"opt_{name}", renamed(e)) for name, e in program], {"w": "opt_B"}
        for name, e in program if "opt_B" in self.adapted else ():
            found.append(("opt_B" if name == "w" else f"back_{name}", renamed(e, back)))
            back = {**back, name: found[-1][0]}
        return found

    def post_names(self):
        """Per-neuron names that the program reads."""
        read = {s.name for _, e in self.learned.program for s in e.free_symbols}
        return {n for n in read if self.domain(n) == "post" and n not in self.link.post.constants.values}

    def limits(self):
        """Bounds of the weights by slot, where any is finite: ``(pre, post)``, or ``(pre, 1)`` if all neurons share
        them.
        """
        named = zip(("low", "high"), self.plan.bounds.get(self.link.name, ()), strict=False)
        finite = {f"{name}{self.link.number}": bound for name, bound in named if np.isfinite(bound).any()}
        return {slot: bound[:, :1] if (bound == bound[:, :1]).all() else bound for slot, bound in finite.items()}

    def bounded(self, writer, text):
        """C name of the weight ``text`` within its bounds; what is not a number stays so, to be found."""
        for slot, bound in self.limits().items():
            name = slot.rstrip("0123456789")
            limit = name if bound.shape[1] == 1 else f"{name}[i]"
            text = writer.product(f"({text} {'<' if name == 'low' else '>'} {limit} ? {limit} : {text})")
        return text

    def load(self, name):
        where = self.domain(name)
        if where == "pre":
            return "arrived[h]" if name == "arrived" else f"e_{name}[h]"
        if where == "post":
            return f"q_{name}[i]"
        if name == "opt_g":
            return "s_gradient[i]"
        return "arrived[i]" if name == "arrived" else f"s_{name}[i]"

    def fields(self):
        """As :func:`localplast.backends.c.online_step.fields`."""
        number, shape = self.link.number, (self.link.pre.size, self.link.post.padded)
        if not self.plan.whole(self.link):
            yield f"arrived{number}", "real", (self.link.pre.size,), "trial"
        yield from ((f"e{number}_{name}", "real", (self.link.pre.size,), "trial") for name in self.hoisted)
        yield from ((f"s{number}_{name}", "real", shape, "trial") for name in self.learned.state)
        adapted = [name for name in self.adapted if name not in ("opt_w", "opt_B")]
        yield from ((f"s{number}_{name}", "real", shape, "given") for name in adapted)
        if not self.fused:
            yield f"s{number}_gradient", "real", shape, "trial" if self.optimiser else "given"
        for slot, bound in self.limits().items():
            yield slot, "real", (len(bound), 1 if bound.shape[1] == 1 else shape[1]), "given"
        yield f"mask{number}", "real", shape, "given"
        yield f"schedule{number}", "real", ("U", len(self.steps)), "given"

    # --- what need not run ----------------------------------------------------------------------------------------

    @property
    def idle(self):
        """Whether a step without an error leaves weights and the optimiser's memory as they are."""
        if not self.fused:
            return True
        values = {}
        for name, e in self.optimisation():
            values[name] = e.subs({symbol(n): v for n, v in values.items()} | {symbol("opt_g"): 0})
        return all(sympy.expand(values[n] - symbol(n)) == 0 for n in self.adapted)

    @property
    def lazy(self):
        """Whether gradients and traces ignore a step without an error."""
        signals = {symbol(name): 0 for name in ("L", "error")}
        kept = [e for name, e in self.learned.program if name != "gradient"]
        return self.change().subs(signals) == 0 and not any(e.free_symbols & signals.keys() for e in kept)

    def change(self):
        """What one step adds to the gradient."""
        return dict(self.learned.program)["gradient"].subs(symbol("gradient"), 0)

    @property
    def ends(self):
        """Whether nothing of what happens after the last step with an error matters."""
        return self.idle and not self.learned.regularised

    @property
    def quiet(self):
        """Traces of a presynaptic neuron, if nothing happens to its synapses while all of these are zero; else none."""
        names = sorted({s.name for _, e in self.program for s in e.free_symbols if self.domain(s.name) == "pre"})
        values = {}
        for name, e in self.program:
            values[name] = e.subs(
                {symbol(n): 0 for n in (*names, "gradient")} | {symbol(n): v for n, v in values.items()}
            )
        still = not self.learned.state and self.idle and values["opt_g" if self.fused else "gradient"] == 0
        return names if still else []

    def kept(self, counts):
        """Names to store where the step ``counts``, or does not."""
        changed = [] if self.idle and not counts else self.adapted if self.fused else ["gradient"]
        return [*self.learned.state, *changed]

    # --- text -----------------------------------------------------------------------------------------------------

    def text(self):
        run = [name for name in self.passes if name != "silent" or self.plan.lazy]
        return "\n".join([*(self.function(name) for name in run), self.hoist()])

    def write(self, counts):
        """A writer that has written one step (which ``counts`` or not), and the text of each name to store."""
        writer, kept = SynapseWriter(self.link.post.constants, self.load, self.domain, self.steps), self.kept(counts)
        writer.program([(n, e) for n, e in self.program if n not in ("gradient", "opt_g") or counts])
        if "opt_w" in kept:
            self.adapt(writer, counts)
        return writer, {name: writer(symbol(name)) for name in kept}

    def write_adaptation(self):
        """As :meth:`write`, for a pass of the optimiser over summed gradients, which begin anew."""
        writer = SynapseWriter(self.link.post.constants, self.load, self.domain, self.steps)
        self.adapt(writer, True)
        return writer, {**{name: writer(symbol(name)) for name in self.adapted}, "gradient": "R(0.0)"}

    def adapt(self, writer, counts):
        """Write the optimiser; where the step does not count the gradient is zero."""
        masked = self.link.name in self.plan.masked
        if masked and counts:
            writer.seen[symbol("opt_g")] = writer.product(writer(symbol("opt_g")), "exists[i]")
        writer.program([(n, e if counts else e.subs(symbol("opt_g"), 0)) for n, e in self.optimisation()])
        writer.seen[symbol("opt_w")] = self.bounded(writer, writer(symbol("opt_w")))
        for name in ("opt_w", "opt_B"):
            if masked and name in self.adapted:
                writer.seen[symbol(name)] = writer.product(writer(symbol(name)), "exists[i]")

    def function(self, name):
        """One pass over all synapses."""
        k, (writer, values) = self.link, self.passes[name]
        neurons = Writer(k.post.constants, self.load)
        each = [f"neuron{m}[i] = {neurons(node)};" for m, node in enumerate(writer.neurons)]
        arrays = "".join(f"    real neuron{m}[N] __attribute__((aligned(64)));\n" for m in range(len(each)))
        loop = f"    EVERY {{\n{indent(neurons.lines + each)}\n    }}" if each else ""
        rows = []
        if name == "counts" and self.quiet:
            rows.append(f"if (!({' || '.join(f'{self.load(n)} != 0' for n in self.quiet)})) continue;")
        rows += [f"real *restrict s_{n} = (real *)p[P_{self.slot(n)}] + h * N;" for n in values]
        if self.plan.whole(k):
            rows.append(f"const real *restrict arrived = (const real *)p[P_arrived{k.number}] + h * N;")
        if k.name in self.plan.masked and "opt_w" in values:
            rows.append(f"const real *restrict exists = (const real *)p[P_mask{k.number}] + h * N;")
        for slot, bound in self.limits().items() if "opt_w" in values else ():
            start, short = f"(const real *)p[P_{slot}] + h", slot.rstrip("0123456789")
            rows.append(
                f"const real {short} = *({start});"
                if bound.shape[1] == 1
                else f"const real *restrict {short} = {start} * N;"
            )
        return f"""
MULTIPLY_ADD void {name}{k.number}(void **p, const real *now)
{{
    enum {{ N = {k.post.padded} }};
{self.pointers()}
{arrays}{loop}
    for (long h = 0; h < {k.pre.size}; h++) {{
{indent(rows + writer.rows.lines)}
        EVERY {{
{indent(writer.lines + [f"s_{n}[i] = {text};" for n, text in values.items()], 12)}
        }}
    }}
}}"""

    def slot(self, name):
        own = {"opt_w": "weight", "opt_B": "back"}
        return f"{own[name]}{self.link.number}" if name in own else f"s{self.link.number}_{name}"

    def pointers(self):
        k = self.link
        lines = [f"const real *restrict k = p[P_shared{k.post.number}], *restrict c = p[P_each{k.post.number}];"]
        lines += [f"const real *restrict q_{n} = p[P_q{k.post.number}_{n}];" for n in sorted(self.post_names())]
        lines += [f"real *restrict e_{n} = p[P_e{k.number}_{n}];" for n in self.hoisted]
        if not self.plan.whole(k):
            lines.append(f"const real *restrict arrived = p[P_arrived{k.number}];")
        return indent(lines, 4)

    def hoist(self):
        """The traces per presynaptic neuron, one step further."""
        if not self.hoisted:
            return ""
        k = self.link
        writer = Writer(k.post.constants, self.load)
        writer.program(self.eligibility.pre)
        values = {name: writer(symbol(name)) for name in self.hoisted}
        return f"""
INLINE void hoist{k.number}(void **p)
{{
{self.pointers()}
    for (long h = 0; h < {k.pre.size}; h++) {{
{indent(writer.lines + [f"e_{n}[h] = {text};" for n, text in values.items()])}
    }}
}}"""

    def calls(self):
        """C statements of one step."""
        k = self.link
        now = f"(const real *)p[P_schedule{k.number}] + t * {len(self.steps)}"
        lines = [f"if (counts) counts{k.number}(p, {now});"]
        lines += [f"else silent{k.number}(p, {now});"] if "silent" in self.passes and self.plan.lazy else []
        return lines + ([f"hoist{k.number}(p);"] if self.hoisted else [])

    def now_and_then(self):
        """C statements of one step in which weights may change, if they do not in every one."""
        k, every = self.link, self.plan.interval
        if "adapt" not in self.passes:
            return []
        now = f"(const real *)p[P_schedule{k.number}] + t / {every} * {len(self.steps)}"
        return [f"if ((t + 1) % {every} == 0 || t + 1 == T) adapt{k.number}(p, {now});"]

    def at_end(self):
        """C statements at the end of a trial: the rate regulariser."""
        if not self.learned.regularised:
            return []
        k, r = self.link, self.plan.learned.loss.regulariser
        return [
            f"""{{
    const real *count = (const real *)p[P_count{k.post.number}] + b * {k.post.size};
    const double duration = T * {self.plan.dt!r};
    for (long h = 0; h < {k.pre.size}; h++) for (long i = 0; i < {k.post.size}; i++)
        ((real *)p[P_s{k.number}_gradient])[h * {k.post.padded} + i] +=
            (real)({r.strength!r} / duration * (count[i] / duration - {r.target!r}))
            * ((const real *)p[P_s{k.number}_elig_sum])[h * {k.post.padded} + i];
}}"""
        ]

    def schedule(self, first, count):
        """Numbers that depend on the update's number alone, ``(count, number)``, for updates from ``first``."""
        program = [(f"n{m}", node) for m, node in enumerate(self.steps)]
        tape = Tape(program, {"opt_learning_rate": self.optimiser.rate(self.link.name)})
        columns = tape({"opt_k": np.arange(first, first + count, dtype=float)}).values()
        return np.stack([np.broadcast_to(c, (count,)) for c in columns], -1) if columns else np.zeros((count, 0))
