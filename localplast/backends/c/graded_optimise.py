"""What learns in a graded kernel: gradients as products of what both ends of a synapse know, and optimisers in C."""

from dataclasses import dataclass, field

import numpy as np
import sympy

from localplast.backends.c.expression import Constants
from localplast.backends.c.online_synapses import SHARED, SynapseWriter
from localplast.backends.c.runtime import indent
from localplast.equations.language import symbol
from localplast.equations.tape import Tape

__all__ = ["Adaptation", "factors"]


def factors(plan):
    """What a step adds to the gradient as a sum of products: ``[(presynaptic name, postsynaptic expression)]``.

    None where it is no such sum, or synapses remember something themselves. ``plan`` is a
    :class:`~localplast.program.statements.SynapsePlan`.
    """
    if plan.state or plan.sums != ("gradient",):
        return None
    found = {}
    for name, e in plan.program:
        found[symbol(name)] = e.subs(found)
    rest = sympy.expand(found[symbol("gradient")] - symbol("gradient"))
    pre = ["arrived", *(name for name, _ in plan.eligibility.pre)]
    parts = [(name, sympy.diff(rest, symbol(name))) for name in pre]
    exact = sympy.expand(rest - sympy.Add(*[symbol(name) * e for name, e in parts])) == 0
    own = {symbol(name) for name in (*pre, "w")}
    if not exact or any(e.free_symbols & own for _, e in parts):
        return None
    return [(name, e) for name, e in parts if e != 0]


@dataclass(frozen=True, eq=False)
class Adaptation:
    """The optimiser of one array of numbers that change within a trial: weights ``(pre, post)`` or a parameter
    ``(1, neuron)``.

    Attributes
    ----------
    label : str
        At the end of the names of its arrays.
    name : str
        For the optimiser: a projection, or ``population.parameter``.
    rows, columns, padded : int
    optimiser : Optimiser
    bounds : (array, array) or None
        Lowest and highest values, ``(rows, columns)``.
    masked : bool
        Whether some synapses do not exist.
    shared : bool
        Whether all columns are one number.
    node : kernel_plan.Cells or None
        Whose parameter it is.
    """

    label: str
    name: str
    rows: int
    columns: int
    padded: int
    optimiser: object
    bounds: tuple | None = None
    masked: bool = False
    shared: bool = False
    node: object = None
    steps: list = field(default_factory=list)

    size = property(lambda self: (self.rows + 8) * self.padded)  # of one thread's gradient
    gradient = property(lambda self: f"gradient{self.label}")
    parameter = property(lambda self: self.name.partition(".")[2])

    @property
    def limits(self):
        """Bounds by name, where any is finite."""
        named = zip(("low", "high"), self.bounds or (), strict=False)
        return {name: bound for name, bound in named if np.isfinite(bound).any()}

    def fields(self):
        """As :func:`localplast.backends.c.graded_step.fields`."""
        if self.node:
            yield f"weight{self.label}", None
        yield self.gradient, None
        yield from ((f"state{self.label}_{name}", None) for name in self.optimiser.state)
        yield from ((f"{name}{self.label}", None) for name in self.limits)
        yield from ((f"{name}{self.label}", None) for name in ("mask", "schedule"))

    def given(self):
        """Shapes of these arrays, as :func:`localplast.backends.c.graded_layout.given`."""
        shape = (1 if self.node else self.rows + 8, self.padded)
        found = {f"weight{self.label}": shape} if self.node else {}
        found |= {f"state{self.label}_{name}": (self.rows + 8, self.padded) for name in self.optimiser.state}
        found |= {f"{name}{self.label}": shape for name in self.limits}
        found |= {f"mask{self.label}": (self.rows + 8, self.padded), f"schedule{self.label}": ("U", len(self.steps))}
        return found

    def text(self):
        """C functions: one update of some rows, whose gradient ``g`` is zero after that; the same of a thread's share
        of rows.
        """

        def domain(name):
            return "step" if name in SHARED else "synapse"

        program = self.optimiser.program(projection=self.name)
        renamed = [(f"opt_{n}", e.subs({s: symbol(f"opt_{s.name}") for s in e.free_symbols})) for n, e in program]
        stored = {"opt_w": "w", "opt_g": "g", **{f"opt_{n}": f"s_{n}" for n in self.optimiser.state}}
        writer = SynapseWriter(Constants({}, False), lambda name: f"{stored[name]}[i]", domain, self.steps)
        if self.masked:
            writer.seen[symbol("opt_g")] = writer.product("g[i]", "exists[i]")
        writer.program(renamed)
        w = writer(symbol("opt_w"))
        for name in self.limits:  # what is not a number stays so, to be found
            w = writer.product(f"({w} {'<' if name == 'low' else '>'} {name}[i] ? {name}[i] : {w})")
        w = writer.product(w, "exists[i]") if self.masked else w
        new = {f"s_{n}": writer(symbol(f"opt_{n}")) for n in self.optimiser.state} | {"w": w, "g": "R(0.0)"}
        arrays = {"w": f"weight{self.label}"} | ({"exists": f"mask{self.label}"} if self.masked else {})
        arrays |= {f"s_{n}": f"state{self.label}_{n}" for n in self.optimiser.state} | {
            n: f"{n}{self.label}" for n in self.limits
        }
        rows = [f"real *restrict {name} = (real *)p[P_{slot}] + h * N;" for name, slot in arrays.items()]
        return f"""
MULTIPLY_ADD void adapt{self.label}(void **p, real *restrict g, long low, long high, const real *now)
{{
    enum {{ N = {self.padded} }};{self.summed() if self.shared else ""}
    for (long h = low; h < high; h++, g += N) {{
{indent(rows)}
        EVERY {{
{indent(writer.lines + [f"{name}[i] = {text};" for name, text in new.items()], 12)}
        }}
    }}
}}

static void share{self.label}(void **p, const real *now, long me, long team)
{{
    const long low = {self.rows} * me / team, high = {self.rows} * (me + 1) / team, many = (high - low) * {self.padded};
    real *g = (real *)p[P_{self.gradient}] + low * {self.padded};
    for (long other = 1; other < team; other++) {{
        add_row(g, g + other * {self.size}, many);
        memset(g + other * {self.size}, 0, many * sizeof(real));
    }}
    if (many) adapt{self.label}(p, g, low, high, now);
}}"""

    def summed(self):
        """C statements: what all neurons say about one number."""
        return f"""
    real sum = 0;
    for (long i = 0; i < {self.columns}; i++) sum += g[i];
    for (long i = 0; i < N; i++) g[i] = sum;"""

    def schedule(self, first, count):
        """Numbers that depend on the update's number alone, ``(count, number)``, for updates from ``first``."""
        tape = Tape(
            [(f"n{m}", node) for m, node in enumerate(self.steps)],
            {"opt_learning_rate": self.optimiser.rate(self.name)},
        )
        columns = tape({"opt_k": np.arange(first, first + count, dtype=float)}).values()
        return np.stack([np.broadcast_to(c, (count,)) for c in columns], -1) if columns else np.zeros((count, 0))
