"""The C text of a step program that learns while it runs: all trials in step, or one after the other.

Trials of a thread run side by side, a step at a time; there are no histories. Where weights change within trials, all
threads meet at each update: every one adds up and changes its share of rows. One trial alone needs no sums: what a
step says is used as it comes. In every function ``w`` is the workspace, ``p`` what Python hands over, ``t`` the step,
``s`` the trial, ``h`` the row and ``i`` the neuron.
"""

from dataclasses import dataclass, field

from localplast.backends.c.blocks import CHECKED, Source
from localplast.backends.c.convolution import CONVOLUTION
from localplast.backends.c.expression import Constants
from localplast.backends.c.memory import SPARE, Memory, as_list
from localplast.backends.c.products import HEAD
from localplast.backends.c.rows import reduced_rows, rows
from localplast.backends.c.runtime import HELPERS, indent
from localplast.program.arrays import Dense, Life, One, Synapses
from localplast.program.instructions import Every, Map, Outer, Reduce, Send, reads, writes
from localplast.program.passes import fuse, live, without

__all__ = ["OnlineMemory", "OnlineSource"]

WEIGHT = "(loss).weight"


@dataclass
class OnlineMemory(Memory):
    """Where arrays lie: those of all trials side by side in the workspace of a thread, all others where Python has
    them.

    Attributes
    ----------
    alone : bool
        Whether numbers change as soon as one trial says so.
    schedules : dict of str to list of expressions
        What depends on the number of the update alone, by space.
    """

    alone: bool = False
    schedules: dict = field(default_factory=dict)

    def __post_init__(self):
        super().__post_init__()
        ends = [s for s in self.forward.step if isinstance(s, Every) and s.when != "trial"]
        moved = set().union(*(writes(s) for s in (self.forward.step if self.alone else ends)))
        #: what changes within a trial
        self.moving = {n for n in moved if self.arrays[n].life is Life.LEARNED}

    def constant(self, name, space):
        return name not in self.moving and super().constant(name, space)

    def constants_of(self, space):
        found = self.spaces[space]
        if space not in self.constants and isinstance(found, Synapses):
            shared = {n: x for n, x in self.numbers.items() if self.constant(n, space) and self.common(n)}
            own = {f"{n}@post": x for n, x in self.numbers.items() if self.constant(n, found.post)}
            self.constants[space] = Constants(shared | own, False)
        return super().constants_of(space)

    def common(self, name):
        return isinstance(self.spaces[self.arrays[name].space], One)

    # --- sizes --------------------------------------------------------------------------------------------------------

    def many_rows(self, space):
        """Rows of an array: of synapses one for each neuron before them."""
        found = self.spaces[space]
        return self.size(found.pre) if isinstance(found, Synapses) else 1

    def columns(self, space):
        """Numbers of a row, padded."""
        found = self.spaces[space]
        return self.padded(found.post if isinstance(found, Synapses) else space)

    def share(self, space):
        """C text of the first and last row of this thread's share."""
        many = self.many_rows(space)
        return f"{many} * w->me / w->team", f"{many} * (w->me + 1) / w->team"

    # --- places -------------------------------------------------------------------------------------------------------

    def slotted(self, name):
        return False

    def values(self, name):
        array = self.arrays[name]
        if array.trial:
            many = self.many_rows(array.space) * self.columns(array.space)
            return self.want(f"x_{self.identifier(name)}", "real", f"S * {many}", self.region(name))
        shape = (self.many_rows(array.space), self.columns(array.space))
        if array.life is Life.GIVEN:
            return f"({self.argument(f'given_{self.identifier(name)}', 'real', ('T',), ('along', name))} + t)"
        if array.life is Life.SUM:
            shape = shape[0] + SPARE, shape[1]
            found = self.argument(f"sum_{self.identifier(name)}", "real", ("team", *shape), ("sum", name))
            return f"({found} + w->mine * {shape[0] * shape[1]})"
        if array.life in (Life.LEARNED, Life.FIXED):
            return self.argument(f"number_{self.identifier(name)}", "real", shape, ("number", name))
        return self.want(f"x_{self.identifier(name)}", "real", f"{shape[0] * shape[1]}")

    def index(self, name, space):
        own = self.arrays[name].space == space
        return ("o" if own else "s") if self.arrays[name].trial else "i" if own else "0"

    def total(self, name):
        return self.values(name)

    def matrix(self, link, weight, turned):
        own = link.name == self.arrays[weight].space
        if self.arrays[weight].life is Life.STEP or (weight in self.moving and own and not turned):
            return self.values(weight)
        return super().matrix(link, weight, turned)

    def copies(self):
        """``(slot, weight, link, transposed)`` of copies of what changes within a trial."""
        for slot, (kind, *source) in self.sources.items():
            if kind == "matrix" and source[0] in self.moving:
                weight, link, turned = source
                of_weight = self.arrays[weight].role == "weight"
                yield slot, weight, link, turned != (of_weight and link.turned), link.times if of_weight else 1.0

    def schedule(self, space):
        return self.schedules.setdefault(space, [])

    def now(self, space, schedule):
        """C declaration of the numbers of this update."""
        if not schedule:
            return []
        slot = f"schedule_{self.identifier(space)}"
        found = self.argument(slot, "real", ("U", f"many_{slot}"), ("schedule", space))
        return [f"const real *restrict now = {found} + w->update * MANY_{self.identifier(space)};"]


@dataclass
class Step:
    """What happens in some of the steps."""

    name: str
    step: tuple
    steps: str = "t"
    backwards: bool = False


class OnlineSource(Source):
    """The C text of a program that learns.

    Parameters
    ----------
    program : Program
    side : int
        Trials side by side: 1, or 0 for as many as there are.
    alone : bool
        Whether numbers change in every step of one trial (:func:`~localplast.program.passes.at_once`).
    watched : bool
        Whether it is to be found out in which step a number stops being finite.
    """

    def __init__(self, program, *, side, alone, watched, double, bits, numbers):
        self.program, self.side, self.alone, self.watched = program, side, alone, watched
        lanes = 64 // (8 if double else 4)
        self.memory = OnlineMemory(program, program, side, lanes, bits, numbers, alone=alone)
        self.memory.argument("rings", "long", (1,), ("rings",))
        self.memory.argument("gate", "long long", (3,), ("gate",))
        self.functions, self.calls = {}, {}
        every = [s for s in program.step if isinstance(s, Every)]
        self.every = next((s for s in every if s.when != "trial"), None)
        self.at_end = next((s for s in every if s.when == "trial"), None)
        alone_spaces = {n for n, x in program.spaces.items() if alone and isinstance(x, Synapses)}
        self.common = {
            n
            for n, a in program.arrays.items()
            if not a.trial and a.life is not Life.SUM and a.space not in alone_spaces
        }
        states = [n for n, a in program.arrays.items() if a.life is Life.STATE]
        set_here = set().union(*(writes(s) for s in program.step if not isinstance(s, Every)))
        self.checked = [n for n in states if program.arrays[n].role in CHECKED and n in set_here]
        self.bodies = self.parts()
        for body in self.bodies:
            self.write(body)
        begin, end = self.begin(states), self.end()
        self.text = self.whole(double, begin, end)

    # --- what runs when -----------------------------------------------------------------------------------------------

    def parts(self):
        """Steps whose errors count, those between them, and those after the last; updates, and the end of a trial."""
        program, arrays = self.program, self.program.arrays
        seen = [a.name for a in program.of(Life.SEEN)]
        last = [n for s in (self.every, self.at_end) if s for n in reads(s)]
        lasting = [*seen, *self.checked, *last, *(n for n in self.memory.moving if self.alone)]
        lasting += [a.name for a in program.of(Life.SUM)]
        step = live([s for s in program.step if not isinstance(s, Every)], lasting)
        found = [Step("counts", step)]
        if WEIGHT in set().union(*map(reads, step)):
            silent = without(step, {WEIGHT}, arrays)
            kept = {n for s in step for n in reads(s) | writes(s) if arrays[n].life is Life.STATE}
            lines = {s.target for s in step if isinstance(s, Send) and s.taps}
            found.append(Step("silent", live(silent, {*lasting, *kept, *lines})))
            found.append(Step("done", live(silent, lasting)))
        found += [Step("update", self.every.body)] if self.every else []
        return found + ([Step("end", self.at_end.body)] if self.at_end else [])

    def write(self, body):
        """The functions of one part."""
        groups = fuse(body.step, self.common)
        texts = [] if body.name in ("update", "end") else [*self.loads(body)]
        each = [(g, self.statement(body, g, groups)) for g in groups]
        calls = [f"{self.function(text, body)}(w, p, t, 0);" for text in texts]
        for number, (group, text) in enumerate(each):
            later = set().union(*(g.reads | g.writes for g, _ in each[number + 1 :]))
            calls.append(f"{self.function(text, body)}(w, p, t, 0);")
            calls += ["meet(w->gate, w->team);"] if body.name == "update" and group.writes & later else []
        if body.name not in ("update", "end"):
            calls += [f"{self.function(text, body)}(w, p, t, 0);" for text in self.shows(body)]
        self.calls[body.name] = calls

    def statement(self, body, group, groups):
        s, memory = group.body[0], self.memory
        if isinstance(s, Map) and (group.key[0] == "common" or isinstance(memory.spaces[s.space], Synapses)):
            return rows(memory, group, groups, shared=body.name == "update")
        if isinstance(s, Send) and s.back and self.by_rows(s):
            return dotted(memory, s)
        plain = isinstance(s, Outer) and isinstance(memory.spaces[s.link].form, Dense) and not s.taps
        if plain and not as_list(self.program, s, s.pre):
            return summed(memory, s)
        if isinstance(s, Reduce) and not memory.arrays[s.into].trial and not self.alone:
            return reduced_rows(memory, s)
        return super().statement(body, group, groups)

    def end(self):
        """What is shown of a whole trial."""
        memory, arrays = self.memory, self.program.arrays
        return [f"{{\n{self.shown(n)}\n}}" for n in sorted(memory.totals) if arrays[n].life is Life.SEEN], []

    def by_rows(self, s):
        """Whether a product with a matrix turned round takes it as it is: that costs less than to turn it."""
        memory, link = self.memory, self.memory.spaces[s.link]
        changes = memory.arrays[s.weight].life is Life.STEP or (self.side == 1 and s.weight in memory.moving)
        return changes and isinstance(link.form, Dense) and link.name == memory.arrays[s.weight].space and not s.taps

    def drawn(self, s):
        """White noise is drawn for a stretch of steps."""
        memory, n = self.memory, self.memory.size(s.space)
        source = memory.argument(f"noise_{memory.identifier(s.into)}", "real", ("stretch", "B", n), ("noise", s.into))
        return self.rows(s.space, memory.values(s.into), f"{source} + ((t - w->from) * w->B + w->first) * {n}")

    # --- the whole text -----------------------------------------------------------------------------------------------

    def whole(self, double, begin, end):
        beside = "" if self.side else "    const long S = w->side;\n"
        head = "(struct space *w, void **p, const long t, const long slot)\n{\n"
        functions = [
            f"static void {name}{head}{beside}    const long K = 1, n = t;\n{text}\n}}"
            for (text, _), name in self.functions.items()
        ]
        bodies = [f"static void {b.name}_step{head}{indent(self.calls[b.name], 4)}\n}}" for b in self.bodies]
        entries = {"begin": begin[0] + begin[1], "finish": end[0]} | self.sharing()
        for lines in entries.values():
            lines.insert(0, beside.strip())
        parts = [
            "#define DOUBLE" if double else "",
            f"enum {{ S = {self.side or 8} }};",
            HELPERS,
            HEAD,
            CONVOLUTION,
            "enum { @ };",
            self.workspace(FIELDS, SIDE),
            *functions,
            *bodies,
            *(
                f"static void {name}(struct space *w, void **p)\n{{\n{indent(lines, 4)}\n}}"
                for name, lines in entries.items()
            ),
            self.diverged(),
            self.entry(),
        ]
        slots = ", ".join(f"P_{slot}" for slot in self.memory.arguments)
        for space, nodes in self.memory.schedules.items():  # known once all text is there
            slots += f", MANY_{self.memory.identifier(space)} = {len(nodes)}"
        return "\n".join(parts).replace("enum { @ };", f"enum {{ {slots} }};")

    def sharing(self):
        """What threads do together at an update: add up sums, and copy what has changed."""
        memory, gathered, copied = self.memory, [], []
        for name in sorted(reads(self.every)) if self.every and not self.alone else ():
            array = memory.arrays[name]
            if array.life is Life.SUM:
                many, n = memory.many_rows(array.space), memory.columns(array.space)
                low, high = memory.share(array.space)
                gathered.append(f"gather({memory.values(name)}, {(many + SPARE) * n}, {low}, {high}, {n}, w->team);")
        for slot, weight, link, transposed, times in memory.copies():
            many, n = memory.arguments[slot][1]
            size = memory.size(link.pre) if many == memory.size(link.post) else memory.size(link.post)
            columns = memory.columns(memory.arrays[weight].space)
            at = f"i * {columns} + h" if transposed else f"h * {columns} + i"
            copied.append(
                f"for (long h = {many} * w->me / w->team; h < {many} * (w->me + 1) / w->team; h++)\n"
                f"        for (long i = 0; i < {size}; i++) ((real *)p[P_{slot}])[h * {n} + i] = "
                f"R({float(times)!r}) * ((const real *)p[P_number_{memory.identifier(weight)}])[{at}];"
            )
        return {"add_up": gathered, "refresh": copied}

    def entry(self):
        """What Python calls."""
        names = [b.name for b in self.bodies]
        weight = f"((const real *)p[P_given_{self.memory.identifier(WEIGHT)}])" if "silent" in names else ""
        choose = "counts_step(&w, p, t, 0);"
        if weight:
            choose = f"""if (t > counted) done_step(&w, p, t, 0);
            else if ({weight}[t] == 0) silent_step(&w, p, t, 0);
            else counts_step(&w, p, t, 0);"""
        refresh = "refresh(&w, p);" if list(self.memory.copies()) else ""
        update = refresh
        if self.every and not self.alone:
            due = f"(t + 1) % {self.every.when} == 0 || t + 1 == T"
            update = UPDATE.format(due=due, refresh=f"{refresh} meet(w.gate, team);" if refresh else "")
        watch = "if (wrong < 0 && (place = diverged(&w)) >= 0) wrong = t * MANY + place;" if self.watched else ""
        at_end = "" if self.watched else "if (wrong < 0) wrong = diverged(&w);"
        return LEARN.format(
            counted=f"while (counted >= 0 && {weight}[counted] == 0) counted--;" if weight else "",
            choose=choose,
            every=self.every.when if self.every else 1,
            watch=watch,
            update=update,
            end="end_step(&w, p, T - 1, 0);" if self.at_end else "",
            at_end=at_end,
            many=max(1, len(self.checked)),
            stop="(wrong < 0 || team > 1)" if self.watched else "1",
        )

    def diverged(self):
        """The first state that is not finite: of all that can be; beyond the largest number losses are infinite."""
        if not self.watched:
            return super().diverged()
        memory = self.memory
        checks = [
            f"if (too_large({memory.values(n)}, w->live, {memory.size(memory.arrays[n].space)}, "
            f"{memory.padded(memory.arrays[n].space)})) return {place};"
            for place, n in enumerate(self.checked)
        ]
        return f"\nstatic long diverged(struct space *w)\n{{\n{indent(checks, 4)}\n    return -1;\n}}"


def dotted(memory, s):
    """The C text of a Send back: the products of the rows of a matrix and what comes back."""
    link = memory.spaces[s.link]
    n, m = memory.padded(link.post), memory.padded(link.pre)
    clear = "" if s.add else f"memset(target, 0, S * {m} * sizeof(real));"
    return f"""    real *restrict target = {memory.values(s.target)};
    const real *weight = {memory.matrix(link, s.weight, False)}, *source = {memory.values(s.source)};
    {clear}
    for (long s = 0; s < S; s++)
        for (long i = 0; i < {memory.size(link.pre)}; i++)
            target[s * {m} + i] += dot(weight + i * {n}, source + s * {n}, {memory.size(link.post)});"""


def summed(memory, s):
    """The C text of an Outer of numbers: over the trials of this step."""
    link = memory.spaces[s.link]
    n, m = memory.padded(link.post), memory.padded(link.pre)
    pre, post = f"{memory.values(s.pre)}, 1, {m}, {memory.size(link.pre)}", f"{memory.values(s.post)}, {n}"
    return f"    add_product({pre}, S, {post}, {memory.total(s.into)});"


#: What else a thread knows, and for how many trials it has memory: products write whole blocks of rows.
FIELDS = "long side, from, me, mine, team, update; long long *gate;"
SIDE = "const long S = (w->side + 7) & ~7L;"
#: What all threads do where an update is due; one that went wrong stops all.
UPDATE = """if ({due}) {{
                if (wrong >= 0) __atomic_store_n(w.gate + 2, 1, __ATOMIC_RELEASE);
                meet(w.gate, team);
                if (__atomic_load_n(w.gate + 2, __ATOMIC_ACQUIRE)) break;
                w.mine = 0;
                add_up(&w, p);
                meet(w.gate, team);
                update_step(&w, p, t, 0);
                meet(w.gate, team);
                w.mine = me;
                {refresh}
            }}"""
#: What Python calls: bytes of workspace; steps ``from`` to ``end`` of ``T`` of the trials ``first`` to ``last`` of
#: ``B``, ``side`` of them side by side.
LEARN = """
size_t space(long T, long side, const long *rings)
{{
    struct space w;
    w.side = side;
    return layout(&w, NULL, T, 1, 1, rings);
}}

long learn(void **p, char *memory, long T, long B, long first, long last, long from, long end, long side, long me, long team)
{{
    enum {{ MANY = {many} }};
    struct space w;
    long wrong = -1, place, counted = T - 1; /* the last step that counts: later traces reach nothing */
    const unsigned old = flush();
    w.side = side; w.from = from; w.me = w.mine = me; w.team = team; w.gate = p[P_gate];
    layout(&w, memory, T, 1, B, p[P_rings]);
    {counted}
    for (; first < last; first += side) {{
        w.first = first;
        w.side = w.live = last - first < side ? last - first : side;
        if (from == 0) {{
            memset(w.base, 0, w.zeros);
            begin(&w, p);
        }}
        for (long t = from; t < end && {stop}; t++) {{
            w.update = t / {every};
            {choose}
            {watch}
            {update}
        }}
        if (end == T) {{
            {end}
            finish(&w, p);
            {at_end}
        }}
    }}
    unflush(old);
    return wrong;
}}
"""
