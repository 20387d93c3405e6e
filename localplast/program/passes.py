"""From program to program: what need not be computed is left out, and what one loop can do is put together."""

from dataclasses import dataclass, field, replace

import sympy

from localplast.program.arrays import Diagonal, End, Life, at
from localplast.program.instructions import Every, Fire, Jump, Map, Outer, Reduce, Send, arrays_in, reads, writes
from localplast.program.program import Program

__all__ = ["Group", "as_numbers", "at_once", "fuse", "live", "never_refractory", "resolved", "without"]


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


def fuse(step, common=frozenset()):
    """Statements in groups, in an order that changes nothing.

    A statement joins the last group of its kind unless one in between writes what it reads, or uses what it writes.
    Statements that set nothing but arrays in ``common`` do not join those of single trials.
    """
    groups = []
    for s in step:
        key = loop_of(s, common)
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


def without(step, zero, arrays):
    """The statements that are left in a step in which the arrays ``zero`` are zero, of a program with these ``arrays``.

    What is made of them alone is zero, too, and set by nobody: who reads it gets the number.
    """
    zero, found = set(zero), []
    for s in step:
        kept, nothing = reduced(s, zero, arrays)
        zero |= nothing
        found += [kept] if kept else []
    return tuple(found)


def reduced(s, zero, arrays):
    """``(statement or None, what of its results is zero)``."""
    if isinstance(s, Send) and s.source in zero and not s.taps:
        of_step = arrays[s.target].life is Life.STEP
        return (None, set()) if s.add else (None, {s.target}) if of_step else (s, set())
    if isinstance(s, Send) and s.add and s.target in zero:
        zero.discard(s.target)
        return replace(s, add=False), set()
    if isinstance(s, Outer):
        return (None if {s.pre, s.post} & zero and not s.taps else s), set()
    if isinstance(s, Reduce):
        e = at_zero(s.expression, zero)
        return (None, {s.into}) if e == 0 and s.op == "sum" else (replace(s, expression=e), set())
    if not isinstance(s, Map):
        return s, set()
    lets, lines, nothing, known = [], [], set(), {}
    for name, e in s.lets:
        e = at_zero(e, zero).xreplace(known)
        if e.is_Number:
            known[at(name)] = e
        else:
            lets.append((name, e))
    for name, e in s.lines:
        e = at_zero(e, zero).xreplace(known)
        if e == 0 and name not in s.adds and arrays[name].life is Life.STEP:
            nothing.add(name)
        elif e != (0 if name in s.adds else at(name)):
            lines.append((name, e))
    kept = replace(s, lets=tuple(lets), lines=tuple(lines), adds=s.adds & {n for n, _ in lines})
    return (kept if lines else None), nothing


def at_zero(e, zero):
    """An expression where the arrays ``zero`` are zero."""
    e = sympy.sympify(e, strict=True)
    gone = {x: 0 for x in e.free_symbols if (x.array if isinstance(x, End) else x.name) in zero}
    return e.subs(gone) if gone else e


class OneTrial(Program):
    """A program as one trial runs it alone: sums are numbers of the step, and what changes does so at the end of it."""

    def __post_init__(self):
        """What all trials share is the trial's own: that rule no longer holds."""


def at_once(program):
    """The program of one trial after the other, numbers changing in every step, without a memory for sums.

    None where several statements add to one sum.
    """
    sums = {a.name for a in program.of(Life.SUM)}
    adding = [n for s in program.step if not isinstance(s, Every) for n in writes(s) & sums]
    if len(adding) > len(set(adding)):
        return None
    arrays = {n: replace(a, life=Life.STEP, trial=True) if n in sums else a for n, a in program.arrays.items()}
    step = [q for s in program.step for q in (s.body if isinstance(s, Every) else [set_at_once(s, sums, program)])]
    return OneTrial(program.spaces, arrays, tuple(step))


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
