"""What a step program must be: rules whose breach gives wrong numbers without any other sign.

The adjoint of a state that was declared as a value of the step lacks a gradient; a let that is called as an array is
gives the wrong one. No engine would notice.
"""

from collections import Counter

from localplast.equations.rewriting import symbols_in
from localplast.errors import LocalplastError
from localplast.program.arrays import Diagonal, End, Life, One, Synapses
from localplast.program.instructions import Every, Fire, Outer, Reduce, Send, arrays_in, expressions, reads, writes

__all__ = ["ProgramError", "check", "faults"]


class ProgramError(LocalplastError):
    """A step program that cannot mean anything."""


def check(program):
    """Raise a :class:`ProgramError` with all :func:`faults` of ``program``."""
    if found := list(faults(program)):
        raise ProgramError("; ".join(found))


def faults(program):
    """Every breach of a rule, as a sentence."""
    due = {id(q) for s in program.step if isinstance(s, Every) and s.when != "trial" for q in s.body}
    for number, s in enumerate(statements(program)):
        where = f"statement {number}, {type(s).__name__} of {s.link if isinstance(s, (Send, Outer)) else s.space}"
        for fault in (*named(program, s), *placed(program, s), *lasting(program, s, id(s) in due)):
            yield f"{where}: {fault}"
    yield from ordered(program)


def statements(program):
    """All statements, those that are not for every step last."""
    ends = [s for s in program.step if isinstance(s, Every)]
    return [*(s for s in program.step if not isinstance(s, Every)), *(q for s in ends for q in s.body)]


def named(program, s):
    """Rule 1: every name is declared; no let is called as an array is; lets are used after they are given."""
    lets = Counter(n for n, _ in getattr(s, "lets", ()))
    yield from (f"{n} is an array, and a let" for n in lets if n in program.arrays)
    yield from (f"the let {n} is given twice" for n, times in lets.items() if times > 1)
    coming = set(lets)
    for name, e in getattr(s, "lets", ()):
        yield from (f"the let {n} is used before it is given" for n in sorted(arrays_in(e) & coming))
        coming.discard(name)
    known = {*lets, *([s.x] if isinstance(s, Fire) else [])}
    yield from (f"{n} is not declared" for n in sorted((reads(s) | writes(s)) - known - program.arrays.keys()))


def placed(program, s):
    """Rule 2: a Map reads its own space, all that is shared, and of its synapse's ends; a Send fits its link."""
    if isinstance(s, (Send, Outer)):
        yield from fitting(program, s)
        return
    space = program.spaces.get(s.space)
    if space is None:
        yield f"there is no space {s.space}"
        return
    for e in expressions(s):
        for symbol in symbols_in(e):
            owner = space_of(program, symbol.array if isinstance(symbol, End) else symbol.name)
            at = getattr(space, symbol.end, None) if isinstance(symbol, End) else space.name
            if owner is not None and owner != at and not (is_one(program, owner) and not isinstance(symbol, End)):
                yield f"reads {symbol}, which lives on {owner}"
    for name in writes(s):
        if isinstance(s, Reduce):
            if s.op == "sum" and not is_one(program, space_of(program, name)):
                yield f"sums into {name}, which is not one number"
        elif space_of(program, name) not in (None, space.name):
            yield f"sets {name}, which lives on {space_of(program, name)}"


def space_of(program, name):
    return program.arrays[name].space if name in program.arrays else None


def is_one(program, space):
    return isinstance(program.spaces.get(space), One)


def fitting(program, s):
    """Whether what is sent, or multiplied, lives on the two ends of the link."""
    link = program.spaces.get(s.link)
    if not isinstance(link, Synapses):
        yield f"there is no link {s.link}"
        return
    ends = (link.post, link.pre) if isinstance(s, Send) and s.back else (link.pre, link.post)
    pair = (s.source, s.target) if isinstance(s, Send) else (s.pre, s.post)
    if isinstance(s, Send) and s.weight is None and space_of(program, s.target) == s.link:
        ends = (ends[0], s.link)  # what arrives at each synapse
    for name, end in zip(pair, ends, strict=True):
        if space_of(program, name) not in (None, end):
            yield f"{name} lives on {space_of(program, name)}, not on {end}"
    if isinstance(s, Send) and s.weight is None and not isinstance(link.form, Diagonal) and ends[1] != s.link:
        yield "a line without weights leads from every neuron to itself"
    homes = {None, s.link, link.shares, link.pre if isinstance(link.form, Diagonal) else None}
    for weight in (s.weight, s.feedback) if isinstance(s, Send) else (s.into,):
        if weight is not None and space_of(program, weight) not in homes:
            yield f"{weight} lives on {space_of(program, weight)}, not on {s.link}"


def lasting(program, s, due):
    """Rule 4: what all trials share is set from what they share, or added to as a sum; numbers from outside are not
    set, and those that learn where an update is ``due``.
    """
    for name in writes(s) & set(program.arrays):
        array = program.arrays[name]
        if array.life in (Life.FIXED, Life.GIVEN):
            yield f"sets {name}, which is {array.life.value}"
        if array.life is Life.SUM and not (isinstance(s, Outer) or name in getattr(s, "adds", ())):
            yield f"sets {name}, a sum, which is added to only"
        if array.life is Life.LEARNED and not due:
            yield f"sets {name}, which changes when an update is due only"
        own = [n for n in reads(s) & set(program.arrays) if program.arrays[n].trial]
        if not array.trial and array.life is not Life.SUM and own:
            yield f"{name} is common to all trials, and is set from {min(own)}, a number per trial"


def ordered(program):
    """Rule 3: a value of the step is set before it is read, and not overwritten unread; who keeps a history does not
    read it.
    """
    histories = {n for n, a in program.arrays.items() if a.life is Life.HISTORY}
    kept = histories & {n for s in program.step for n in writes(s)}
    of_step = {n for n, a in program.arrays.items() if a.life is Life.STEP}
    known, unread = set(), {}
    for number, s in enumerate(statements(program)):
        yield from (f"statement {number}: reads the history {n} that it keeps" for n in sorted(reads(s) & kept))
        read, written = reads(s) & of_step, writes(s) & of_step
        yield from (f"statement {number}: reads {n}, of this step, before it is set" for n in sorted(read - known))
        for name in sorted((written & unread.keys()) - read):
            yield f"statement {number}: sets {name} again, which nobody has read since statement {unread[name]}"
        known |= written
        unread = {n: k for n, k in unread.items() if n not in read} | dict.fromkeys(written, number)
