"""The C text of statements about synapses, and about numbers that all trials share: loops over rows and columns.

A row holds the synapses of one presynaptic neuron ``h``, its columns ``i`` are postsynaptic neurons; numbers of neurons
are one row, a number of all is one column. What depends on the postsynaptic neuron alone is computed once per trial and
neuron, what depends on the presynaptic neuron once per row, what depends on the number of the update beforehand, in
double precision.
"""

import numpy as np
import sympy

from localplast.backends.c.expression import Writer, in_one_line, is_condition
from localplast.backends.c.loops import TRIALS, each
from localplast.backends.c.neurons import stored
from localplast.backends.c.runtime import indent
from localplast.backends.c.sparse import few_rows
from localplast.equations.rewriting import replaced, symbols_in
from localplast.program.arrays import End, Life, One, Sparse, Synapses, at
from localplast.program.instructions import arrays_in, writes

__all__ = ["reduced_rows", "rows", "summed"]

#: Roles of numbers that are known beforehand of every update.
SCHEDULED = ("update", "rate")


class RowWriter(Writer):
    """Writes statements per column, and collects those that need not be.

    Parameters
    ----------
    constants : Constants
    load : callable of str to str
    domain : dict of str to str
        ``'post'``, ``'row'``, ``'update'`` (the same for all, and known beforehand) or ``'synapse'``, by name.
    schedule : list
        Expressions that depend on the update's number alone; new ones are appended.
    """

    def __init__(self, constants, load, domain, schedule):
        super().__init__(constants, load)
        self.domain, self.schedule = domain, schedule
        self.rows = Prefixed(constants, load, "row")
        self.neurons, self.elsewhere = [], {}

    def where(self, node):
        """The smallest domain that holds all of ``node``."""
        found = set()
        for s in symbols_in(node):
            number = self.constants.values.get(s.name)
            found.add(self.domain[s.name] if number is None else "post" if np.ndim(number) else "constant")
        if found <= {"update"}:
            return "update"
        if found <= {"row", "constant", "update"}:
            return "row"
        return "post" if found <= {"post", "constant"} else "synapse"

    def assign(self, name, expression):
        """A let: it belongs where its expression does."""
        expression = self.found(expression)
        if self.where(expression) == "synapse":
            self.domain[name], self.seen[at(name)] = "synapse", self(expression)
        else:
            self.elsewhere[at(name)] = expression

    def found(self, expression):
        """An expression, of lets that belong elsewhere theirs."""
        return replaced(sympy.sympify(expression, strict=True), self.elsewhere)

    def _make(self, node):
        if node.is_number or is_condition(node):
            return super()._make(node)
        where = self.where(node)
        if where == "update":
            if node not in self.schedule:
                self.schedule.append(node)
            return f"now[{self.schedule.index(node)}]"
        if where == "row":
            return self.rows(node)
        if where == "post" and not node.is_Symbol and not self.constants.holds(node):
            self.neurons.append(node)
            return self._new(f"neuron{len(self.neurons) - 1}[i]")
        return super()._make(node)

    def _operate(self, node):
        """Sums and products gather what is the same for all synapses of a neuron before what is not."""
        if node.func in (sympy.Add, sympy.Mul):
            parts = {"row": [], "post": [], "synapse": []}
            for argument in node.args:
                parts[{"update": "row"}.get(where := self.where(argument), where)].append(argument)
            if parts["post"] and all(self.constants.holds(a) for a in parts["row"]):
                parts["post"] += parts.pop("row")
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


class Rows:
    """The loops of a group of Maps of one space.

    Parameters
    ----------
    memory : Memory
    group : Group
    others : list of Group
        Whatever else reads what the group leaves.
    shared : bool
        Whether every thread does its share of the rows.
    by_row : dict of str to list of Outer
        Sums that are made here, some rows at a time, by what they are made of.
    """

    def __init__(self, memory, group, others, shared, by_row):
        self.memory, self.body, self.space = memory, group.body, group.key[1]
        self.link = memory.spaces[self.space]
        self.of_synapses = isinstance(self.link, Synapses)
        self.few = isinstance(getattr(self.link, "form", None), Sparse)
        #: the number of a synapse in its row; of few ones among all
        self.own = "q" if self.few else "i"
        self.common, self.shared = group.key[0] == "common", shared
        self.symbols = {x.name: x for s in self.body for x in symbols_of(s)}
        self.pointers, self.now = {}, {}
        domain = {name: self.domain(x) for name, x in self.symbols.items()}
        self.schedule = memory.schedule(self.space)
        self.writer = RowWriter(memory.constants_of(self.space), self.load, domain, self.schedule)
        for s in self.body:
            self.write(s)
        self.stores = {n: self.now[n] for n in stored(memory, group, others)}
        self.by_row = {n: by_row[n] for n in self.symbols if n in by_row}
        self.spent = sorted(n for n in self.symbols if self.is_spent(n) and n not in by_row)

    def domain(self, x):
        """Where a name belongs."""
        if isinstance(x, End):
            return "row" if x.end == "pre" else "post"
        array = self.memory.arrays.get(x.name)
        if array is not None and array.role in SCHEDULED:
            return "update"
        return "synapse" if array is None or array.space == self.space else "row"

    def is_spent(self, name):
        """Whether a sum begins anew once it has been read."""
        array = self.memory.arrays.get(name)
        return self.shared and array is not None and array.life is Life.SUM and name not in self.now

    # --- names --------------------------------------------------------------------------------------------------------

    def load(self, name):
        """C text that reads a name."""
        x = self.symbols.get(name, at(name))
        array = self.memory.arrays[x.array if isinstance(x, End) else x.name]
        place = self.pointer(array.name)
        if array.space == self.space and not isinstance(x, End):
            return self.now.get(name) or f"{place}[{self.own}]"
        if isinstance(self.memory.spaces[array.space], One):
            return f"{place}[{'s' if array.trial else 0}]"
        offset = f"s * {self.memory.padded(array.space)} + " if array.trial else ""
        return f"{place}[{offset}{'h' if x.end == 'pre' else 'i'}]"

    def pointer(self, name):
        """The C name of where an array begins; of those of this space, where its row does."""
        self.pointers[name] = self.memory.identifier(name)
        return self.pointers[name]

    # --- statements ---------------------------------------------------------------------------------------------------

    def write(self, s):
        """All lines of the old values."""
        writer = self.writer
        for name, e in getattr(s, "lets", ()):
            writer.assign(name, e)
        new = {n: writer(writer.found(e)) for n, e in s.lines}
        for name, text in new.items():
            text = writer._new(f"{writer(at(name))} + {text}") if name in s.adds else text
            self.now[name] = text
            writer.domain[name] = "synapse"
        changed = {at(n) for n in new}
        writer.seen = {node: text for node, text in writer.seen.items() if not symbols_in(node) & changed}

    def quiet(self):
        """C text of whether nothing happens to a row: what its presynaptic neuron has to say is zero."""
        said = sorted(n for n, x in self.symbols.items() if isinstance(x, End) and x.end == "pre")
        said = [n for n in said if self.memory.arrays[self.symbols[n].array].life is not Life.FIXED]
        if not said or not self.of_synapses or not all(still(s, {self.symbols[n] for n in said}) for s in self.body):
            return ""
        if any(self.memory.arrays[n].life is Life.STEP for n in self.stores):
            return ""
        return f"if (!({' || '.join(f'{self.load(n)} != 0' for n in said)})) continue;"

    # --- text ---------------------------------------------------------------------------------------------------------

    def text(self):
        """The C text."""
        memory, columns = self.memory, self.memory.columns(self.space)
        neurons = Writer(self.writer.constants, self.load)
        each = [f"neuron{m}[i] = {neurons(node)};" for m, node in enumerate(self.writer.neurons)]
        before = [f"real neuron{m}[N] __attribute__((aligned(64)));" for m in range(len(each))]
        before += ["EVERY {", *(f"    {line}" for line in neurons.lines + each), "}"] if each else []
        quiet = self.quiet()
        stores = [f"{self.pointer(n)}[{self.own}] = {text};" for n, text in self.stores.items()]
        stores += [f"{self.pointer(n)}[{self.own}] = 0;" for n in self.spent]
        own = [n for n in self.pointers if memory.arrays[n].space == self.space]
        others = [f"real *restrict {memory.identifier(n)} = {memory.values(n)};" for n in self.pointers if n not in own]
        loop = ([quiet] if quiet else []) + [line for n, outers in self.by_row.items() for line in self.made(n, outers)]
        loop += [f"real *restrict {memory.identifier(n)} = {memory.values(n)} + {self.row(n)};" for n in own]
        loop += self.writer.rows.lines + self.columns(self.writer.lines + stores)
        low, high = memory.share(self.space) if self.shared else ("0", str(memory.many_rows(self.space)))
        head = [
            f"enum {{ N = {columns} }};",
            *memory.known(self.space),
            *memory.now(self.space, self.schedule),
            *others,
        ]
        text = [*before, f"for (long h = {low}; h < {high}; h++) {{", *(f"    {line}" for line in loop), "}"]
        if self.common:
            head.append("const long s = 0; /* the only trial, if it is of one */")
        else:
            text = [f"{TRIALS} {{", *(f"    {line}" for line in text), "}"]
        return indent([*head, *text], 4)

    def made(self, name, outers):
        """C statements that make the next rows of a sum, all of them in the place of the first."""
        many, n = self.memory.many_rows(self.space), self.memory.columns(self.space)
        products = [summed(self.memory, s, "h", f"{many} - h < ROWS ? {many} - h : ROWS") for s in outers]
        return [
            f"if (h % ROWS == 0) {{ memset({self.memory.values(name)}, 0, ROWS * {n} * sizeof(real));",
            *products,
            "}",
        ]

    def columns(self, body):
        """C lines of the loop over a row."""
        if self.few:
            return few_rows(self.memory, self.link, body)
        return ["EVERY {", *(f"    {line}" for line in body), "}"]

    def row(self, name):
        """C text of where a row begins; of few synapses, where all of a trial do."""
        if name in self.by_row:
            return "(h % ROWS) * N"
        trial = self.memory.arrays[name].trial
        if self.few:
            return f"s * {self.memory.count(self.link)[1]}" if trial else "0"
        return f"(s * {self.memory.many_rows(self.space)} + h) * N" if trial else "(h) * N"


def symbols_of(s):
    """All symbols of a Map: of arrays, and lets."""
    expressions = [e for _, e in (*s.lets, *s.lines)]
    return set().union(*(sympy.sympify(e).free_symbols for e in expressions), (at(n) for n in writes(s)))


def still(s, silent):
    """Whether a Map changes nothing where all symbols ``silent`` are zero."""
    known = dict.fromkeys(silent, sympy.Integer(0))
    for name, e in s.lets:
        known[at(name)] = replaced(sympy.sympify(e), known)
    for name, e in s.lines:
        rest = replaced(sympy.sympify(e), known) - (0 if name in s.adds else at(name))
        if sympy.expand(rest) != 0:
            return False
    return True


def rows(memory, group, others, *, shared=False, by_row=()):
    """The C text of Maps of synapses, or of numbers that all trials share."""
    return Rows(memory, group, others, shared, dict(by_row)).text()


def summed(memory, s, low="0", count=None):
    """C statement of an Outer of numbers, over the trials of this step: of ``count`` rows from ``low``, or of all."""
    link = memory.spaces[s.link]
    n, m = memory.padded(link.post), memory.padded(link.pre)
    pre = f"{memory.values(s.pre)} + {low}, 1, {m}, {count or memory.size(link.pre)}"
    return f"add_product({pre}, S, {memory.values(s.post)}, {n}, {memory.total(s.into)});"


def reduced_rows(memory, s):
    """The C text of a Reduce of numbers that all trials share; the last thread does it, and sums begin anew."""
    read = sorted(arrays_in(s.expression))
    value = in_one_line(s.expression, lambda name: f"{memory.identifier(name)}[i]")
    spent = [n for n in read if memory.arrays[n].life is Life.SUM]
    return f"""    enum {{ N = {memory.columns(s.space)} }};
    if (w->me + 1 < w->team) return;
{indent([f"real *restrict {memory.identifier(n)} = {memory.values(n)};" for n in read], 4)}
    real *restrict into = {memory.values(s.into)};
    *into = 0;
    {each(memory.size(s.space))} *into += {value};
{indent([f"memset({memory.identifier(n)}, 0, N * sizeof(real));" for n in spent], 4)}"""
