"""The C text of a step program and its adjoint: blocks of trials, all steps, then the same steps back.

One block runs ``S`` trials side by side. Forward, nothing is kept but, for the gradient, the state at the start of each
window of ``K`` steps. The gradient goes from the last window to the first: from its state it runs the steps of the
window again, keeping histories, and back. Memory grows with trials and steps by the saved states only. In every
function ``w`` is the workspace, ``p`` what Python hands over, ``t`` the step, ``slot`` its place in
the window, ``s`` the trial of the block, ``i`` the neuron.
"""

from dataclasses import dataclass

from localplast.backends.c.convolution import CONVOLUTION
from localplast.backends.c.expression import check_c_form
from localplast.backends.c.links import outer, send
from localplast.backends.c.memory import Memory
from localplast.backends.c.neurons import neurons, numeric, reduced, spiked
from localplast.backends.c.products import HEAD
from localplast.backends.c.runtime import HELPERS, indent
from localplast.program.arrays import Life, Neurons
from localplast.program.check import expressions
from localplast.program.instructions import Draw, Outer, Reduce, Send, reads, writes
from localplast.program.passes import fuse, live

__all__ = ["Source", "why_not"]

#: Roles of states whose numbers must be finite at the end of a trial.
CHECKED = ("state", "inlet")


def why_not(program):
    """What the kernel cannot run of a program, as a sentence; None if it can."""
    for s in program.step:
        space = getattr(s, "space", None)
        if space is not None and not isinstance(program.spaces[space], Neurons):
            return f"a statement about every member of {space!r} has no C form: the kernel's are about neurons"
        if reason := check_c_form(expressions(s)):
            return f"population {space!r}: {reason}"
    return None


@dataclass
class Body:
    """One direction of a step: ``steps`` is the C text of how many have run."""

    name: str
    step: tuple
    steps: str

    @property
    def backwards(self):
        return self.name == "back"


class Source:
    """The C text of a program that keeps histories, and of its adjoint.

    Attributes
    ----------
    text : str
    memory : Memory
        What the text asks for.
    """

    def __init__(self, forward, backward, *, block, double, bits, numbers):
        self.memory = Memory(forward, backward, block, 64 // (8 if double else 4), bits, numbers)
        self.memory.argument("rings", "long", (1,), ("rings",))
        self.memory.arguments["saved"] = None
        self.functions, self.calls = {}, {}
        arrays, seen = forward.arrays, [a.name for a in forward.of(Life.SEEN)]
        set_here = set().union(*map(writes, forward.step))  # a state that nothing changes is as it was
        checked = [a.name for a in forward.of(Life.STATE) if a.role in CHECKED and a.name in set_here]
        histories = [a.name for a in forward.of(Life.HISTORY)]
        keep = live(forward.step, histories)
        again = [n for s in keep for n in reads(s) if arrays[n].life is Life.STATE]  # what windows begin with
        self.bodies = [
            Body("forward", live(forward.step, [*seen, *checked, *again]), "t"),
            Body("keep", keep, "t"),
            Body("back", backward.step, "w->T - 1 - t"),
        ]
        for body in self.bodies:
            self.write(body)
        states = [n for n in arrays if arrays[n].life is Life.STATE]
        self.checked = checked
        begin, end = self.begin(states), self.end()
        self.text = self.whole(double, block, begin, end)

    # --- one step -----------------------------------------------------------------------------------------------------

    def write(self, body):
        """The functions of one direction of a step."""
        groups = fuse(body.step)
        calls = [self.function(text, body) for text in self.loads(body)]
        calls += [self.function(self.statement(body, group, groups), body) for group in groups]
        calls += [self.function(text, body) for text in self.shows(body)]
        self.calls[body.name] = calls

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
    for (long s = 0; s < S; s++)
        for (long i = 0; i < {n}; i++) to[s * {padded} + i] = s < w->live ? given[s * {n} + i] : 0;"""

    def loads(self, body):
        """What is given in every step: lists of events, or numbers."""
        memory, groups = self.memory, body.step
        used = set().union(*(numeric(memory.backward, s) for s in groups))
        own = memory.backward if body.backwards else memory.forward
        late = set().union(*(numeric(memory.backward, s) for s in memory.backward.step))
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
    for (long s = 0; s < S; s++) {{
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
    for (long s = 0; s < w->live; s++) memcpy(seen + s * {n}, from + s * {padded}, {n} * sizeof(real));"""

    # --- a block of trials --------------------------------------------------------------------------------------------

    def begin(self, states):
        """The states that trials start from, and the gradients of what is summed up over a trial."""
        memory, found = self.memory, []
        for name in states:
            array = memory.arrays[name]
            if f"x_{memory.identifier(name)}" not in memory.fields or array.start == 0:
                continue
            n, to = memory.padded(array.space), memory.values(name)
            if isinstance(array.start, str):
                start = memory.argument(f"start_{memory.identifier(name)}", "real", (n,), ("start", array.start))
                found.append(f"for (long s = 0; s < S; s++) memcpy({to} + s * {n}, {start}, {n} * sizeof(real));")
            else:
                found.append(f"for (long o = 0; o < S * {n}; o++) {to}[o] = R({float(array.start)!r});")
        given = [n for n, a in memory.arrays.items() if a.life is Life.FIXED and a.trial]
        used = set().union(*(numeric(memory.backward, s) for s in memory.backward.step))
        rows = [self.rows(memory.arrays[n].space, memory.values(n), memory.outside(n)) for n in given if n in used]
        return found, [f"{{\n{text}\n}}" for text in rows]

    def end(self):
        """What is summed up over a trial, forward and back."""
        memory = self.memory
        shown = [f"{{\n{self.shown(n)}\n}}" for n in sorted(memory.totals) if memory.arrays[n].life is Life.SEEN]
        added = []
        for name, array in memory.arrays.items():
            if array.life is Life.SUM and isinstance(memory.spaces[array.space], Neurons):
                n, place = memory.padded(array.space), memory.values(name)
                into = memory.argument(f"sum_{memory.identifier(name)}", "real", (n,), ("sum", name))
                added.append(f"for (long s = 0; s < w->live; s++) add_row({into}, {place} + s * {n}, {n});")
        return shown, added

    # --- the whole text -----------------------------------------------------------------------------------------------

    def whole(self, double, block, begin, end):
        bodies = [
            f"static void {body.name}_step(struct space *w, void **p, const long t, const long slot)\n{{\n"
            f"{indent((f'{name}(w, p, t, slot);' for name in self.calls[body.name]), 4)}\n}}"
            for body in self.bodies
        ]
        functions = [
            f"static void {name}(struct space *w, void **p, const long t, const long slot)\n{{\n"
            f"    const long K = w->K, n = {steps or 't'};\n{text}\n}}"
            for (text, steps), name in self.functions.items()
        ]
        entries = {"begin": [*begin[0]], "begin_back": begin[1], "end": end[0], "end_back": end[1]}
        parts = [
            "#define DOUBLE" if double else "",
            f"enum {{ S = {block} }};",
            HELPERS,
            HEAD,
            CONVOLUTION,
            f"enum {{ {', '.join(f'P_{slot}' for slot in self.memory.arguments) or 'P_none'} }};",
            self.workspace(),
            *functions,
            *bodies,
            *(
                f"static void {name}(struct space *w, void **p)\n{{\n{indent(lines, 4)}\n}}"
                for name, lines in entries.items()
            ),  # fmt: skip
            self.diverged(),
            BLOCKS,
        ]
        return "\n".join(parts)

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
        memory = self.memory
        checks = [
            f"for (long s = 0; s < w->live; s++) if (broken({memory.values(n)} + s * "
            f"{memory.padded(memory.arrays[n].space)}, {memory.size(memory.arrays[n].space)})) return {place};"
            for place, n in enumerate(self.checked)
        ]
        return f"\nstatic long diverged(struct space *w)\n{{\n{indent(checks, 4)}\n    return -1;\n}}"


#: The ends of the regions of the workspace.
ENDS = {"state": ["w->states = used;"], "zero": ["w->zeros = used;"]}
#: What Python calls: bytes of workspace, and of the states of a block; trials ``first`` to ``last`` of ``B``, forward or
#: their adjoint. The states at the start of all windows but the first are saved by block.
BLOCKS = """
size_t space(long K, const long *rings)
{
    struct space w;
    return layout(&w, NULL, 1, K, 1, rings);
}

size_t states(const long *rings)
{
    struct space w;
    layout(&w, NULL, 1, 1, 1, rings);
    return w.states;
}

static void start(struct space *w, void **p)
{
    memset(w->base, 0, w->states);
    begin(w, p);
}

static void block(struct space *w, void **p, long first, long last)
{
    w->first = first; w->live = last - first < S ? last - first : S;
    memset(w->base, 0, w->zeros);
    start(w, p);
}

long forward(void **p, char *memory, long T, long K, long B, long first, long last)
{
    struct space w;
    long wrong = -1;
    unsigned old = flush();
    layout(&w, memory, T, 1, B, p[P_rings]);
    for (; first < last; first += S) {
        char *saved = p[P_saved] ? (char *)p[P_saved] + first / S * ((T - 1) / K) * w.states : NULL;
        block(&w, p, first, last);
        for (long t = 0; t < T; t++) {
            if (saved && t > 0 && t % K == 0) memcpy(saved + (t / K - 1) * w.states, w.base, w.states);
            forward_step(&w, p, t, 0);
        }
        end(&w, p);
        if (wrong < 0) wrong = diverged(&w);
    }
    unflush(old);
    return wrong;
}

long adjoint(void **p, char *memory, long T, long K, long B, long first, long last)
{
    struct space w;
    unsigned old = flush();
    layout(&w, memory, T, K, B, p[P_rings]);
    for (; first < last; first += S) {
        const char *saved = (char *)p[P_saved] + first / S * ((T - 1) / K) * w.states;
        block(&w, p, first, last);
        begin_back(&w, p);
        for (long b = (T - 1) / K; b >= 0; b--) {
            const long low = b * K;
            w.high = low + K < T ? K : T - low;
            if (b > 0) memcpy(w.base, saved + (b - 1) * w.states, w.states);
            else start(&w, p);
            for (long slot = 0; slot < w.high; slot++) keep_step(&w, p, low + slot, slot);
            for (long slot = w.high - 1; slot >= 0; slot--) back_step(&w, p, low + slot, slot);
        }
        end_back(&w, p);
    }
    unflush(old);
    return -1;
}
"""
