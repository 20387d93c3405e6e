"""The C text of statements about neurons: one loop for a group of them, over neurons or over those that spiked.

Within a group a number is read once and stored once, and what nobody else reads stays in a register.
"""

from localplast.backends.c.expression import READY, Writer, is_condition
from localplast.backends.c.loops import TRIALS, each
from localplast.backends.c.memory import as_list
from localplast.backends.c.runtime import indent
from localplast.equations.rewriting import symbols_in
from localplast.program.arrays import Life, at
from localplast.program.instructions import Fire, Map, arrays_in, reads, writes

__all__ = ["neurons", "reduced", "spiked"]


class Statements(Writer):
    """Expressions of one statement; constants that depend on refractoriness are chosen by the ``ready`` of a neuron.

    A name never changes, and nothing is stored before the end of the loop: equal texts are equal values.
    """

    def __init__(self, constants, load, after=None):
        super().__init__(constants, load, after)
        self.named = after.named if after else {}

    def _new(self, text, kind="real"):
        if text not in self.named:
            name = super()._new(text, kind)
            self.named |= {text: name, name: name}
        return self.named[text]

    def _make(self, node):
        if node == READY:
            return self._new(self.load(READY.name))
        if READY in symbols_in(node) and self.constants.holds(node) and not is_condition(node):
            one, other = (self._new(self.constants.place(node, ready)) for ready in (1.0, 0.0))
            return self._new(f"{self(READY)} != 0 ? {one} : {other}")  # loads in a branch would not be vectorised
        return super()._make(node)


class Loop:
    """The inside of a loop over the neurons i, of trials s, of a space; ``o = s*N + i``.

    What one statement has computed the next ones use, unless it is ``stale``: of a number that has changed.
    """

    def __init__(self, memory, space):
        self.memory, self.space = memory, space
        self.now, self.used, self.last = {}, {}, None
        self.stale = {READY}

    def text(self, name):
        """C text of the number of an array that this neuron has."""
        if name not in self.used:
            self.used[name] = self.memory.values(name)
        return f"{self.memory.identifier(name)}[{self.memory.index(name, self.space)}]"

    def writer(self, *expressions):
        """What writes the next statement, and its ``expressions`` as it takes them."""
        used = set().union(*(arrays_in(e) for e in expressions)) & self.memory.arrays.keys()
        ready = [n for n in used if self.memory.arrays[self.memory.first(n)].role == "ready"]

        def load(name):
            name = ready[0] if name == READY.name else name
            return self.now.get(name) or self.text(name)

        known = self.last.seen if self.last else {}
        self.last = Statements(self.memory.constants_of(self.space), load, after=self.last)
        self.last.seen = {node: text for node, text in known.items() if not symbols_in(node) & self.stale}
        self.stale = {READY}
        return self.last, [e.xreplace({at(n): READY for n in ready}) for e in expressions]

    def map(self, s):
        """All lines of the old values."""
        names = [n for n, _ in s.lets]
        writer, found = self.writer(*(e for _, e in (*s.lets, *s.lines)))
        writer.program(zip(names, found, strict=False))
        new = [writer(e) for e in found[len(names) :]]
        for (name, _), text in zip(s.lines, new, strict=True):
            self.now[name] = writer._new(f"{writer(at(name))} + {text}") if name in s.adds else text
        self.stale |= {at(n) for n in (*names, *(n for n, _ in s.lines))}

    def fire(self, s):
        """A mask, the spike as a number, and psi of the argument."""
        writer, (argument, ready, *psi) = self.writer(s.argument, s.ready, *([] if s.psi is None else [s.psi]))
        x = writer(argument)
        when = "" if ready == 1 else f" & -(mask)({writer(ready)} != 0)"  # as masks: && would be a branch
        mask = writer._new(f"-(mask)({x} {'>' if s.strict else '>='} 0){when}", "mask")
        writer.lines.append(f"fired_{self.memory.identifier(s.spikes)}[o] = {mask};")
        self.now[s.spikes] = writer._new(f"{mask} ? R(1.0) : R(0.0)")
        if psi:
            writer.seen[at(s.x)] = x
            self.now[s.slope] = writer(psi[0])
        self.stale |= {at(n) for n in (s.x, s.spikes, s.slope)}

    def stores(self, names):
        """Statements that put the numbers of ``names`` in their places."""
        return [f"{self.text(n)} = {self.now[n]};" for n in names]

    def inside(self, names, by=12):
        """C text of the body of the loop."""
        stores = self.stores(names)
        return indent(self.last.lines + stores, by)

    def outside(self):
        """Declarations that stand before the loop."""
        pointers = [f"real *restrict {self.memory.identifier(n)} = {place};" for n, place in self.used.items()]
        return [f"enum {{ N = {self.memory.padded(self.space)} }};", *self.memory.known(self.space), *pointers]


def stored(memory, group, others):
    """What of a group's results has to be in its place: states, and whatever ``others`` read as numbers."""
    asked = set().union(*(memory.numeric(s) for g in others if g is not group for s in g.body))
    back = memory.numeric_back
    found = []
    for name in dict.fromkeys(n for s in group.body for n in sorted(writes(s), key=list(memory.arrays).index)):
        array = memory.arrays[name]
        if array.life is Life.HISTORY:
            keep = name in back
        elif array.events:
            keep = name in asked or collected_as_numbers(memory, group, name)
        else:
            keep = array.life is not Life.STEP or name in asked
        found += [name] if keep else []
    return found


def collected_as_numbers(memory, group, name):
    """Whether the list of an array is made of its numbers: of what no threshold makes."""
    return name in memory.listed and not any(isinstance(s, Fire) and s.spikes == name for s in group.body)


def neurons(memory, group, others):
    """The C text of Maps and Fires of one space."""
    loop = Loop(memory, group.key[1])
    for s in group.body:
        (loop.map if isinstance(s, Map) else loop.fire)(s)
    inside = loop.inside(stored(memory, group, others))
    after = [line for s in group.body for line in collected(memory, s)]
    fired = [
        f"mask *restrict fired_{memory.identifier(s.spikes)} = {fired_of(memory, s)};"
        for s in group.body
        if isinstance(s, Fire)
    ]
    return f"""{indent(loop.outside() + fired, 4)}
    NEURONS {{
        const long o = s * N + i;
{inside}
    }}
{indent(after, 4)}"""


def fired_of(memory, s):
    return memory.want(f"fired_{memory.identifier(s.spikes)}", "mask", f"S * {memory.padded(s.space)}")


def collected(memory, s):
    """Lines that make lists of the events that a statement leaves."""
    for name in sorted(writes(s) & memory.listed):
        if memory.arrays[name].life is Life.HISTORY:
            continue
        place, many, *value = memory.lists(name)
        size, stride = memory.size(s.space), memory.padded(s.space)
        if isinstance(s, Fire):
            found = f"collect(fired_{memory.identifier(name)} + s * N, {size}, {place}, 0)"
        else:
            found = f"collect_numbers({memory.values(name)} + s * {stride}, {size}, {place}, {value[0]}, 0)"
        yield f"{TRIALS} {many} = {found};"


def spiked(memory, group, _):
    """The C text of Jumps: a loop over the neurons that spiked."""
    loop = Loop(memory, group.key[1])
    names = []
    for s in group.body:
        writer, found = loop.writer(*(e for _, e in s.lines))
        new = [writer(e) for e in found]
        loop.now |= {n: text for (n, _), text in zip(s.lines, new, strict=True)}
        loop.stale |= {at(n) for n, _ in s.lines}
        names += [n for n, _ in s.lines if n not in names]
    inside = loop.inside(names)
    return f"""{indent(loop.outside(), 4)}
    {memory.events(group.key[2], f"const long o = s * N + i;{chr(10)}{inside}")}"""


def reduced(memory, s):
    """The C text of a Reduce: of the neurons of each trial."""
    if s.op != "sum":
        return compared(memory, s)
    into = f"{memory.values(s.into)}[s]"
    spikes = [n for n in reads(s) if as_list(memory.backward, s, n)]
    if spikes:
        _, many = memory.lists(spikes[0])
        return f"    {TRIALS} {into} = {many};"
    loop = Loop(memory, s.space)
    writer, found = loop.writer(s.expression)
    value = writer(found[0])
    return f"""{indent(loop.outside(), 4)}
    {TRIALS} {{
        real total = 0;
        {each(memory.size(s.space))} {{
            const long o = s * N + i;
{indent(writer.lines)}
            total += {value};
        }}
        {into} = total;
    }}"""


#: What all neurons are compared with, and what becomes of each.
COMPARISONS = {
    "softmax": """real most = to[0], sum = 0;
        for (long i = 1; i < SIZE; i++) most = larger(most, to[i]);
        for (long i = 0; i < SIZE; i++) sum += M(exp)(to[i] - most);
        for (long i = 0; i < SIZE; i++) to[i] = M(exp)(to[i] - most) / sum;""",
    "argmax": """long most = 0;
        for (long i = 1; i < SIZE; i++) if (to[i] > to[most]) most = i;
        for (long i = 0; i < SIZE; i++) to[i] = i == most;""",
}


#: The largest of each square of an image, row by row.
SQUARES = """for (long c = 0; c < {channels}; c++)
            for (long y = 0; y + {size} <= {rows}; y += {size})
                for (long x = 0; x + {size} <= {columns}; x += {size}) {{
                    real *restrict square = to + (c * {rows} + y) * {columns} + x;
                    long most = 0;
                    for (long i = 0; i < {size}; i++)
                        for (long j = 0; j < {size}; j++)
                            if (square[i * {columns} + j] > square[most]) most = i * {columns} + j;
                    for (long i = 0; i < {size}; i++)
                        for (long j = 0; j < {size}; j++) square[i * {columns} + j] = i * {columns} + j == most;
                }}
        for (long i = 0; i < SIZE; i++)
            if (i / {columns} % {rows} >= {rows} / {size} * {size} || i % {columns} >= {columns} / {size} * {size})
                to[i] = 0;"""


def comparison(s):
    """The C text that makes of the numbers of a trial what becomes of them."""
    if s.within is None:
        return COMPARISONS[s.op]
    channels, rows, columns = s.within.image
    return SQUARES.format(channels=channels, rows=rows, columns=columns, size=s.within.size)


def compared(memory, s):
    """The C text of a Reduce that leaves a number for each neuron."""
    loop = Loop(memory, s.space)
    writer, found = loop.writer(s.expression)
    value = writer(found[0])
    return f"""{indent(loop.outside(), 4)}
    enum {{ SIZE = {memory.size(s.space)} }};
    {TRIALS} {{
        real *restrict to = {memory.values(s.into)} + s * N;
        for (long i = 0; i < SIZE; i++) {{
            const long o = s * N + i;
{indent(writer.lines, 12)}
            to[i] = {value};
        }}
        {comparison(s)}
    }}"""
