"""From program to program: what need not be computed is left out, and what one loop can do is put together."""

from dataclasses import dataclass, field, replace

import sympy

from localplast.program.arrays import Diagonal, Life, at
from localplast.program.instructions import Fire, Jump, Map, Reduce, Send, arrays_in, reads, writes

__all__ = ["Group", "as_numbers", "fuse", "live", "never_refractory", "resolved"]


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

    @property
    def reads(self):
        return set().union(*map(reads, self.body))

    @property
    def writes(self):
        return set().union(*map(writes, self.body))


def fuse(step):
    """Statements in groups, in an order that changes nothing.

    A statement joins the last group of its kind unless one in between writes what it reads, or uses what it writes.
    """
    groups = []
    for s in step:
        key = loop_of(s)
        for place in range(len(groups) - 1, -1, -1):
            if groups[place].key == key:
                groups[place].body.append(s)
                break
            if groups[place].writes & (reads(s) | writes(s)) or groups[place].reads & writes(s):
                groups.append(Group(key, [s]))
                break
        else:
            groups.append(Group(key, [s]))
    return groups


def loop_of(s):
    """What loop a statement needs; statements of equal loops may share one."""
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
