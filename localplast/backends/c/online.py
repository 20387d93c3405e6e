"""The C text of a step program that learns while it runs: all trials in step, or one after the other.

Trials of a thread run side by side, a step at a time; there are no histories. Where weights change within trials, all
threads meet at each update: every one adds up and changes its share of rows. One trial alone needs no sums: what a
step says is used as it comes. In every function ``w`` is the workspace, ``p`` what Python hands over, ``t`` the step,
``s`` the trial, ``h`` the row and ``i`` the neuron.
"""

from dataclasses import replace

from localplast.backends.c.loops import ALL_HERE, TRIALS, each, share
from localplast.backends.c.memory import as_list
from localplast.backends.c.online_memory import OnlineMemory
from localplast.backends.c.rows import reduced_rows, rows, summed
from localplast.backends.c.source import Body, Source, checked_states
from localplast.program.arrays import Dense, Life, Synapses
from localplast.program.instructions import Every, Map, Outer, Reduce, Send, reads, writes
from localplast.program.passes import fuse, live
from localplast.program.zeros import with_zeros

__all__ = ["OnlineSource"]

WEIGHT = "(loss).weight"


class OnlineSource(Source):
    """The C text of a program that learns.

    Parameters
    ----------
    program : Program
    side : int
        Trials side by side: 1, or 0 for as many as there are.
    alone : bool
        Whether numbers change in every step of one trial (:func:`~localplast.program.passes.at_once`).
    single : bool
        Whether one thread does it all.
    watched : bool
        Whether it is to be found out in which step a number stops being finite.
    """

    def __init__(self, program, *, side, alone, single, watched, double, bits, numbers):
        self.program, self.side, self.alone, self.watched = program, side, alone, watched
        lanes = 64 // (8 if double else 4)
        steps = replace(program, step=tuple(s for s in program.step if not isinstance(s, Every)))
        memory = OnlineMemory(program, program, side, lanes, bits, numbers, alone=alone)
        super().__init__(memory, checked_states(steps))
        memory.argument("gate", "long long", (3,), ("gate",))
        if watched:  # beyond the largest number losses are infinite
            self.wrong = "if (too_large({x}, w->live, {n}, {m}))"
        every = [s for s in program.step if isinstance(s, Every)]
        self.every = next((s for s in every if s.when != "trial"), None)
        self.at_end = next((s for s in every if s.when == "trial"), None)
        #: Outers whose sums are made row by row, as the update takes them: a few rows stay in the cache.
        self.by_row = self.row_by_row() if single and self.every and self.every.when == 1 else {}
        alone_spaces = {n for n, x in program.spaces.items() if alone and isinstance(x, Synapses)}
        self.common = {
            n
            for n, a in program.arrays.items()
            if not a.trial and a.life is not Life.SUM and a.space not in alone_spaces
        }
        for body in self.parts():
            self.write(body)
        begin, given = self.begin(program.of(Life.STATE))
        entries = {"begin": [*begin, *given], "finish": self.end()} | self.sharing()
        beside = "" if side else "const long S = w->side;"
        options = {"double": double, "block": side or 8, "beside": beside, "more": FIELDS, "side": SIDE}
        self.text = self.assembled(entries, self.entry(), **options)

    # --- what runs when -----------------------------------------------------------------------------------------------

    def parts(self):
        """Steps whose errors count, those between them, and those after the last; updates, and the end of a trial."""
        program, arrays = self.program, self.program.arrays
        seen = [a.name for a in program.of(Life.SEEN)]
        last = [n for s in (self.every, self.at_end) if s for n in reads(s)]
        lasting = [*seen, *self.checked, *last, *(n for n in self.memory.moving if self.alone)]
        lasting += [a.name for a in program.of(Life.SUM)]
        taken = [s for outers in self.by_row.values() for s in outers]
        asked = [n for s in taken for n in reads(s) - writes(s)]
        step = [s for s in program.step if not isinstance(s, Every) and s not in taken]
        step = live(step, [*lasting, *asked])
        found = [Body("counts", step)]
        if WEIGHT in set().union(*map(reads, step)):
            silent = with_zeros(step, {WEIGHT}, arrays)
            kept = {n for s in step for n in reads(s) | writes(s) if arrays[n].life is Life.STATE}
            lines = {s.target for s in step if isinstance(s, Send) and s.taps}
            found.append(Body("silent", live(silent, {*lasting, *kept, *lines})))
            found.append(Body("done", live(silent, lasting)))
        found += [Body("update", self.every.body)] if self.every else []
        return found + ([Body("end", self.at_end.body)] if self.at_end else [])

    def write(self, body):
        """The functions of one part."""
        groups = fuse(body.step, self.common)
        texts = [] if body.name in ("update", "end") else [*self.loads(body)]
        others = [*groups, *fuse(s for outers in self.by_row.values() for s in outers)]
        each = [(g, self.statement(body, g, others)) for g in groups]
        calls = [f"{self.function(text, body)}(w, p, t, 0);" for text in texts]
        for number, (group, text) in enumerate(each):
            later = set().union(*(g.reads | g.writes for g, _ in each[number + 1 :]))
            calls.append(f"{self.function(text, body)}(w, p, t, 0);")
            calls += [ALL_HERE] if body.name == "update" and group.writes & later else []
        if body.name not in ("update", "end"):
            calls += [f"{self.function(text, body)}(w, p, t, 0);" for text in self.shows(body)]
        self.calls[body.name] = calls

    def statement(self, body, group, groups):
        s, memory = group.body[0], self.memory
        if isinstance(s, Map) and (group.key[0] == "common" or isinstance(memory.spaces[s.space], Synapses)):
            update = body.name == "update"
            text = rows(memory, group, groups, shared=update, by_row=self.by_row if update else {})
            self.contracted.add(text)
            return text
        if isinstance(s, Send) and s.back and self.by_rows(s):
            return dotted(memory, s)
        if isinstance(s, Outer) and dense(self.program, s):
            return f"    {summed(memory, s)}"
        if isinstance(s, Reduce) and not memory.arrays[s.into].trial and not self.alone:
            return reduced_rows(memory, s)
        return super().statement(body, group, groups)

    def end(self):
        """What is shown of a whole trial."""
        memory, arrays = self.memory, self.program.arrays
        return [f"{{\n{self.shown(n)}\n}}" for n in sorted(memory.totals) if arrays[n].life is Life.SEEN]

    def row_by_row(self):
        """Outers by the sum that they alone add to."""
        outers, others = {}, set()
        for s in self.program.step:
            if isinstance(s, Outer) and dense(self.program, s):
                outers.setdefault(s.into, []).append(s)
            elif not isinstance(s, Every):
                others |= writes(s)
        return {n: found for n, found in outers.items() if n not in others}

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

    def sharing(self):
        """What threads do together at an update: add up sums, and copy what has changed."""
        memory, gathered, copied = self.memory, [], []
        for name in sorted(reads(self.every)) if self.every and not self.alone else ():
            array = memory.arrays[name]
            if array.life is Life.SUM:
                size, low, high, n = memory.parts(array.space)
                gathered.append(f"gather({memory.values(name)}, {size}, {low}, {high}, {n}, w->team);")
        for slot, weight, transposed, times in memory.copies():
            _, n = memory.arguments[slot][1]
            own = memory.arrays[weight].space
            columns, sizes = memory.columns(own), (memory.many_rows(own), memory.many_columns(own))
            many, size = sizes[::-1] if transposed else sizes
            low, high = share(many)
            at = f"i * {columns} + h" if transposed else f"h * {columns} + i"
            copied.append(
                f"for (long h = {low}; h < {high}; h++)\n"
                f"        {each(size)} ((real *)p[P_{slot}])[h * {n} + i] = "
                f"R({float(times)!r}) * ((const real *)p[P_number_{memory.identifier(weight)}])[{at}];"
            )
        return {"add_up": gathered, "refresh": copied}

    def entry(self):
        """What Python calls."""
        weight = f"((const real *)p[P_given_{self.memory.identifier(WEIGHT)}])" if "silent" in self.calls else ""
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


def dense(program, s):
    """Whether an Outer is a product of matrices."""
    plain = isinstance(program.spaces[s.link].form, Dense) and not s.taps
    return plain and not as_list(program, s, s.pre)


def dotted(memory, s):
    """The C text of a Send back: the products of the rows of a matrix and what comes back."""
    link = memory.spaces[s.link]
    n, m = memory.padded(link.post), memory.padded(link.pre)
    clear = "" if s.add else f"memset(target, 0, S * {m} * sizeof(real));"
    return f"""    real *restrict target = {memory.values(s.target)};
    const real *weight = {memory.matrix(link, s.weight, False)}, *source = {memory.values(s.source)};
    {clear}
    {TRIALS}
        {each(memory.size(link.pre))}
            target[s * {m} + i] += dot(weight + i * {n}, source + s * {n}, {memory.size(link.post)});"""


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

long learn(void **p, char *memory, long T, long B, long first, long last, long from, long end, long side, long me,
           long team)
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
