"""From program to program: what need not be computed is left out, and what one loop can do is put together."""

import functools
from collections import Counter
from dataclasses import dataclass, field, replace

import sympy

from localplast.equations.language import stop
from localplast.equations.rewriting import rebuilt, symbols_in
from localplast.program.arrays import Dense, Diagonal, Life, at
from localplast.program.instructions import Every, Fire, Jump, Map, Outer, Reduce, Send, arrays_in, reads, writes
from localplast.program.program import Program

__all__ = [
    "Group",
    "as_numbers",
    "at_once",
    "fuse",
    "live",
    "merged",
    "never_refractory",
    "resolved",
    "trimmed",
    "with_parts",
]

#: What has a derivative everywhere, so that zero times it is zero.
SMOOTH = (sympy.Add, sympy.Mul, sympy.exp, sympy.tanh, sympy.sin, sympy.cos, sympy.atan, stop)


def never_refractory(program, spaces):
    """The program in which neurons of ``spaces`` may spike again in the step after a spike, and keep no clock."""
    spaces = set(spaces)
    clocks = {a.name for a in program.arrays.values() if a.role in ("ready", "clock") and a.space in spaces}
    ready = {at(n): sympy.Integer(1) for n in clocks if program.arrays[n].role == "ready"}
    found = [s if not reads(s) & clocks else readied(s, ready) for s in program.step if not writes(s) & clocks]
    kept = {n: a for n, a in program.arrays.items() if n not in clocks}
    return replace(program, arrays=kept, step=tuple(found))


def readied(s, ready):
    """A statement in which every neuron is ready."""
    if isinstance(s, Fire):
        psi = None if s.psi is None else s.psi.xreplace(ready)
        return replace(s, argument=s.argument.xreplace(ready), ready=s.ready.xreplace(ready), psi=psi)
    if isinstance(s, Reduce):
        return replace(s, expression=s.expression.xreplace(ready))
    lines = tuple((n, e.xreplace(ready)) for n, e in s.lines)
    if isinstance(s, Jump):
        return replace(s, lines=lines)
    return replace(s, lets=tuple((n, e.xreplace(ready)) for n, e in s.lets), lines=lines)


def as_numbers(program, names):
    """The program in which the arrays ``names``, and what delay lines make of them, are no lists of events."""
    names = set(names)
    for s in program.step:
        line = isinstance(s, Send) and isinstance(program.spaces[s.link].form, Diagonal)
        names |= {s.target} if line and s.source in names else set()
    return replace(
        program, arrays={n: replace(a, events=a.events and n not in names) for n, a in program.arrays.items()}
    )


def live(step, wanted):
    """The statements, and of them the lines, that something in ``wanted`` depends on, in this step or a later one."""
    needed, before = set(wanted), None
    while before != needed:
        before = set(needed)
        for s in reversed(step):
            kept = trimmed(s, needed)
            needed |= reads(kept) if kept else set()
    return tuple(kept for s in step if (kept := trimmed(s, needed)))


def trimmed(s, needed):
    """A statement without what nobody needs; None where nobody needs it."""
    if not writes(s) & needed:
        return None
    if isinstance(s, Fire):
        return s if s.slope in needed else replace(s, psi=None)
    if not isinstance(s, (Map, Jump)):
        return s
    lines = tuple((n, e) for n, e in s.lines if n in needed)
    if isinstance(s, Jump):
        return replace(s, lines=lines)
    lets, asked = [], set().union(*(arrays_in(e) for _, e in lines))
    for name, e in reversed(s.lets):
        if name in asked:
            lets.insert(0, (name, e))
            asked |= arrays_in(e)
    return replace(s, lets=tuple(lets), lines=lines, adds=s.adds & {n for n, _ in lines})


def merged(step):
    """Maps of one space that stand side by side, as one where the order of their lines makes no difference."""
    found = []
    for s in step:
        before = found[-1] if found else None
        both = isinstance(s, Map) and isinstance(before, Map) and s.space == before.space
        if both and not writes(before) & (reads(s) | writes(s)) and not dict(before.lets).keys() & dict(s.lets).keys():
            lets, lines = (*before.lets, *s.lets), (*before.lines, *s.lines)
            found[-1] = Map(s.space, lets, lines, before.adds | s.adds, before.edges | s.edges)
        else:
            found.append(s)
    return tuple(found)


@functools.lru_cache(maxsize=2**12)
def with_parts(s, varying):
    """A Map that means the same, in which every part that occurs twice is a let, and every function.

    Derivatives are then short, and each is taken once. Only parts are named that depend on ``varying`` arrays and are
    smooth: the derivative of others is cut off by the factors around them.
    """
    s = Parts(varying | {n for n, _ in s.lets}).spelled(s)
    expressions = [e for _, e in (*s.lets, *s.lines)]
    uses = Counter(expressions)
    for node in {node for e in expressions for node in sympy.preorder_traversal(e)}:
        uses.update(node.args)
    return Parts(varying | {n for n, _ in s.lets}, uses).spelled(s)


class Parts:
    """Writes a Map anew: what a let says is called by its name, and so is what ``uses`` counts twice."""

    def __init__(self, varying, uses=()):
        self.varying, self.uses, self.known, self.smooth = varying, uses, {}, {}

    def spelled(self, s):
        self.space, self.lets = s.space, []
        for name, e in s.lets:
            new = self.within(e)
            self.lets.append((name, new))
            if e.args:
                self.known |= {e: at(name), new: at(name)}
        lines = tuple((name, self(e)) for name, e in s.lines)
        return replace(s, lets=tuple(self.lets), lines=lines)

    def within(self, e):
        args = tuple(map(self, e.args))
        return e if args == e.args else rebuilt(e.func, args)

    def __call__(self, e):
        if e not in self.known:
            new = self.within(e)
            self.known[e] = self.known.get(new) or (self.named(new) if self.worth_a_name(e) else new)
        return self.known[e]

    def named(self, e):
        self.lets.append((f"{self.space}.part.{len(self.lets)}", e))
        return at(self.lets[-1][0])

    def worth_a_name(self, e):
        if not (self.uses and e.args and isinstance(e, sympy.Expr)):
            return False
        return (e.is_Function or self.uses[e] > 1) and self.varies(e) and self.is_smooth(e)

    def varies(self, e):
        return any(x.name in self.varying for x in symbols_in(e))

    def is_smooth(self, e):
        if e not in self.smooth:
            simple = e.func in SMOOTH or (e.is_Pow and e.exp.is_Integer and e.exp > 0)
            self.smooth[e] = not e.args or not self.varies(e) or (simple and all(map(self.is_smooth, e.args)))
        return self.smooth[e]


@dataclass
class Group:
    """Statements that one loop can do: over the neurons of a space, or over those that spiked.

    Attributes
    ----------
    key : tuple
        What loop it is; of statements that stand for themselves a thing like no other.
    """

    key: object
    body: list = field(default_factory=list)
    reads: set = field(default_factory=set)
    writes: set = field(default_factory=set)

    def add(self, s):
        self.body.append(s)
        self.reads |= reads(s)
        self.writes |= writes(s)


def fuse(step, common=frozenset()):
    """Statements in groups, in an order that changes nothing.

    A statement joins the last group of its kind unless one in between writes what it reads, or uses what it writes.
    Statements that set nothing but arrays in ``common`` do not join those of single trials.
    """
    groups = []
    for s in step:
        key = loop_of(s, common)
        if (group := joined(groups, key, s)) is None:
            groups.append(group := Group(key))
        group.add(s)
    return groups


def joined(groups, key, s):
    """The group that a statement may join, or None."""
    asked, new = reads(s), writes(s)
    for group in reversed(groups):
        if group.key == key:
            return group
        if group.writes & (asked | new) or group.reads & new:
            return None
    return None


def loop_of(s, common):
    """What loop a statement needs; statements of equal loops may share one."""
    if isinstance(s, Map) and writes(s) <= common:
        return "common", s.space
    if isinstance(s, (Map, Fire)):
        return "neurons", s.space
    if isinstance(s, Jump):
        return "spikes", s.space, s.spikes
    return object()


def resolved(program):
    """``{history: what it is the history of}``."""
    return {
        n: e.name
        for s in program.step
        if isinstance(s, Map)
        for n, e in s.lines
        if program.arrays[n].life is Life.HISTORY
    }


class OneTrial(Program):
    """A program as one trial runs it alone: sums are numbers of the step, and what changes does so at the end of it."""

    def __post_init__(self):
        """What all trials share is the trial's own: that rule no longer holds."""


def at_once(program):
    """The program of one trial after the other, numbers changing in every step, without a memory for sums.

    None where several statements add to one sum, or one of other things than what is known of each synapse now.
    """
    if any(
        isinstance(s, Outer) and (s.taps or not isinstance(program.spaces[s.link].form, Dense)) for s in program.step
    ):
        return None
    sums = {a.name for a in program.of(Life.SUM)}
    adding = [n for s in program.step if not isinstance(s, Every) for n in writes(s) & sums]
    if len(adding) > len(set(adding)):
        return None
    arrays = {n: replace(a, life=Life.STEP, trial=True) if n in sums else a for n, a in program.arrays.items()}
    step = [q for s in program.step for q in inlined(s, sums, program)]
    return OneTrial(program.spaces, arrays, tuple(step))


def inlined(s, sums, program):
    """What an update does, in place of it; of a step what it sets."""
    if isinstance(s, Every):
        return [s] if s.when == "trial" else s.body
    return [set_at_once(s, sums, program)]


def set_at_once(s, sums, program):
    """A statement that sets what it added to."""
    if isinstance(s, Map) and s.adds & sums:
        return replace(s, adds=s.adds - sums)
    if not isinstance(s, Outer):
        return s
    link = program.spaces[s.link]
    ends = ("post", "pre") if link.turned else ("pre", "post")
    product = at(s.pre, ends[0]) * at(s.post, ends[1])
    return Map(link.shares or s.link, (), ((s.into, product if link.times == 1 else link.times * product),))
