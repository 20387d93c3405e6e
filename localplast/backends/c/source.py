"""What C text of a step program is made of, whatever the loops around it are: functions of one step each, and memory.

In every function ``w`` is the workspace, ``p`` what Python hands over, ``t`` the step, ``slot`` its place in memory,
``s`` the trial of those side by side, ``i`` the neuron.
"""

from dataclasses import dataclass

from localplast.backends.c.convolution import CONVOLUTION
from localplast.backends.c.links import outer, send
from localplast.backends.c.loops import LIVE, TRIALS, each
from localplast.backends.c.neurons import neurons, reduced, spiked
from localplast.backends.c.products import HEAD
from localplast.backends.c.runtime import HELPERS, indent
from localplast.backends.c.sparse import SPARSE
from localplast.program.arrays import Life
from localplast.program.instructions import Draw, Outer, Reduce, Send, writes

__all__ = ["Body", "Source", "checked_states"]

#: Roles of states whose numbers must be finite at the end of a trial.
CHECKED = ("state", "inlet")
#: The ends of the regions of the workspace.
ENDS = {"state": ["w->states = used;"], "zero": ["w->zeros = used;"]}


@dataclass
class Body:
    """One direction of a step: ``steps`` is the C text of how many have run."""

    name: str
    step: tuple
    steps: str = "t"

    @property
    def backwards(self):
        return self.name == "back"


class Source:
    """C text while it is written.

    Attributes
    ----------
    memory : Memory
        What the text asks for.
    functions : dict of (str, str) to str
        Names of functions, by their text and by how their steps are counted.
    calls : dict of str to list of str
        C statements, by the name of what happens then.
    contracted : set of str
        Texts in which a product and a sum may be rounded once: no threshold is in them.
    checked : list of str
        States that must be finite.
    """

    #: C text of whether some number of a state, ``n`` of ``m`` in a row, is none.
    wrong = LIVE + " if (broken({x} + s * {m}, {n}))"

    def __init__(self, memory, checked):
        self.memory, self.checked, self.functions, self.calls, self.contracted = memory, checked, {}, {}, set()
        memory.argument("rings", "long", (max(1, len(memory.few())),), ("rings",))

    # --- one step -----------------------------------------------------------------------------------------------------

    def function(self, text, body):
        """The name of a function with this text: equal ones stand once."""
        key = text, body.steps if "n %" in text else ""
        if key not in self.functions:
            self.functions[key] = f"do{len(self.functions)}"
        return self.functions[key]

    def statement(self, body, group, groups):
        """The C text of a group."""
        s, memory = group.body[0], self.memory
        if isinstance(s, Send):
            return send(memory, s, backwards=body.backwards)
        if isinstance(s, Outer):
            return outer(memory, s, backwards=body.backwards)
        if isinstance(s, Reduce):
            return reduced(memory, s)
        if isinstance(s, Draw):
            return self.drawn(s)
        return (spiked if group.key[0] == "spikes" else neurons)(memory, group, groups)

    def drawn(self, s):
        """White noise is drawn beforehand."""
        memory, n = self.memory, self.memory.size(s.space)
        source = memory.argument(f"noise_{memory.identifier(s.into)}", "real", ("T", "B", n), ("noise", s.into))
        return self.rows(s.space, memory.values(s.into), f"{source} + (t * w->B + w->first) * {n}")

    def rows(self, space, to, given, kind="real"):
        """C loop that takes rows of the trials of this block from outside; there are none beyond the last trial."""
        n, padded = self.memory.size(space), self.memory.padded(space)
        return f"""    const {kind} *given = {given};
    real *restrict to = {to};
    {TRIALS}
        {each(n)} to[s * {padded} + i] = s < w->live ? given[s * {n} + i] : 0;"""

    def loads(self, body):
        """What is given in every step: lists of events, or numbers."""
        memory, groups = self.memory, body.step
        used = set().union(*map(memory.numeric, groups))
        own = memory.backward if body.backwards else memory.forward
        late = memory.numeric_back
        for name in (a.name for a in own.of(Life.GIVEN) if a.trial):
            array = memory.arrays[name]
            if body.backwards and memory.slotted(name):
                continue  # the way forth has left them in their slots
            kind = "unsigned char" if name in memory.bits else "real"
            if name in memory.listed:
                yield self.given_events(name, array, kind)
            if name in used or name in late and body.name == "keep":
                yield self.rows(array.space, memory.values(name), memory.outside(name), kind)

    def given_events(self, name, array, kind):
        place, many, *value = self.memory.lists(name)
        n = self.memory.size(array.space)
        call = f"collect_numbers(row, {n}, {place}, {value[0]}, 0)" if value else f"collect_bits(row, {n}, {place}, 0)"
        return f"""    const {kind} *given = {self.memory.outside(name)};
    {TRIALS} {{
        const {kind} *row = given + s * {n};
        {many} = s < w->live ? {call} : 0;
    }}"""

    def shows(self, body):
        """What is seen of every step."""
        memory = self.memory
        for name in sorted(n for s in body.step for n in writes(s) if memory.arrays[n].life is Life.SEEN):
            if name not in memory.totals:
                yield self.shown(name)

    def shown(self, name):
        """C loop that hands out the rows of the trials of this block."""
        memory, space = self.memory, self.memory.arrays[name].space
        n, padded = memory.size(space), memory.padded(space)
        return f"""    real *seen = {memory.outside(name)};
    const real *from = {memory.values(name)};
    {LIVE} memcpy(seen + s * {n}, from + s * {padded}, {n} * sizeof(real));"""

    # --- a trial ------------------------------------------------------------------------------------------------------

    def begin(self, states):
        """The states that trials start from, and the gradients of what is summed up over a trial."""
        memory, found = self.memory, []
        for array in states:
            name = array.name
            if f"x_{memory.identifier(name)}" not in memory.fields or array.start == 0:
                continue
            n, to = memory.padded(array.space), memory.values(name)
            if isinstance(array.start, str):
                start = memory.argument(f"start_{memory.identifier(name)}", "real", (n,), ("start", array.start))
                found.append(f"{TRIALS} memcpy({to} + s * {n}, {start}, {n} * sizeof(real));")
            else:
                found.append(f"for (long o = 0; o < S * {n}; o++) {to}[o] = R({float(array.start)!r});")
        given = [n for n, a in memory.arrays.items() if a.life is Life.FIXED and a.trial]
        used = memory.numeric_back
        rows = [self.rows(memory.arrays[n].space, memory.values(n), memory.outside(n)) for n in given if n in used]
        return found, [f"{{\n{text}\n}}" for text in rows]

    # --- the whole text -----------------------------------------------------------------------------------------------

    def assembled(self, entries, last, *, double, block, beside="", more="", side=""):
        """All text: what does not depend on the network, the workspace, functions, and ``last`` what Python calls.

        Parameters
        ----------
        entries : dict of str to list of str
            More functions: C statements by name.
        block : int
            Trials side by side, at most, that products are made for.
        beside : str
            What every function begins with.
        more, side : str
            As of :meth:`workspace`.
        """
        head = "(struct space *w, void **p, const long t, const long slot)\n{\n"
        workspace, slots = self.workspace(more, side), ", ".join(f"P_{slot}" for slot in self.memory.arguments)
        functions = [self.whole(text, name, steps, head, beside) for (text, steps), name in self.functions.items()]
        steps = [f"static void {name}_step{head}{indent(calls, 4)}\n}}" for name, calls in self.calls.items()]
        others = [
            f"static void {name}(struct space *w, void **p)\n{{\n{indent([beside, *lines], 4)}\n}}"
            for name, lines in entries.items()
        ]
        fixed = ["#define DOUBLE" if double else "", f"enum {{ S = {block} }};", HELPERS, HEAD, CONVOLUTION]
        fixed += [SPARSE] if self.memory.few() else []
        return "\n".join(
            [*fixed, f"enum {{ {slots} }};", workspace, *functions, *steps, *others, self.diverged(), last]
        )

    def whole(self, text, name, steps, head, beside):
        """One function."""
        how = "MULTIPLY_ADD" if text in self.contracted else "static"
        first = indent([beside, f"const long K = w->K, n = {steps or 't'};"], 4)
        return f"{how} void {name}{head}{first}\n{text}\n}}"

    def workspace(self, more="", side=""):
        """The struct of all arrays, of ``more`` fields, and a function that lays it out (without a base it only counts
        the bytes) for trials ``side`` by side.
        """
        fields = sorted(self.memory.fields.items(), key=lambda f: ("state", "zero", "kept").index(f[1][2]))
        declared = indent((f"{kind} *{name};" for name, (kind, *_) in fields), 4)
        placed, before = [], "state"
        for name, (kind, count, region) in fields:
            if region != before:
                placed += ENDS[before] + (ENDS["zero"] if (before, region) == ("state", "kept") else [])
                before = region
            placed.append(f"w->{name} = (void *)(base + used); used += (({count}) * sizeof({kind}) + 63) & ~63ul;")
        placed += {"state": ENDS["state"] + ENDS["zero"], "zero": ENDS["zero"], "kept": []}[before]
        return f"""
struct space {{
    long T, K, B, first, live, high;
    size_t states, zeros;
    char *base;
{indent([more, declared.strip()], 4)}
}};

static size_t layout(struct space *w, char *base, long T, long K, long B, const long *rings)
{{
    {side}
    size_t used = 0;
    w->T = T; w->K = K; w->B = B; w->base = base;
{indent(placed, 4)}
    return used + 1024; /* products may read beyond the last row */
}}"""

    def diverged(self):
        """The first state with a number that is :attr:`wrong`."""
        memory, checks = self.memory, []
        for place, name in enumerate(self.checked):
            space = memory.arrays[name].space
            rows = {"x": memory.values(name), "n": memory.size(space), "m": memory.padded(space)}
            checks.append(f"{self.wrong.format(**rows)} return {place};")
        return f"\nstatic long diverged(struct space *w)\n{{\n{indent(checks, 4)}\n    return -1;\n}}"


def checked_states(program):
    """States that must be finite: what nothing changes is as it was."""
    changed = set().union(*map(writes, program.step))
    return [a.name for a in program.of(Life.STATE) if a.role in CHECKED and a.name in changed]
