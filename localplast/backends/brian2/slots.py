"""When in a step Brian2 runs a statement: groups, thresholds, synapses, before resets, resets, end.

A statement gets the slot of its kind; at the end the places follow from what reads what. Two that depend on each other
and lie in the wrong order are an error.
"""

from localplast.backends.brian2.travel import Gather, read_by, written_by
from localplast.errors import UnsupportedError
from localplast.program.arrays import Life, Neurons
from localplast.program.instructions import Jump, Map, Send

__all__ = ["AFTER", "BEFORE", "END", "FIRED", "JUMP", "LEARN", "NEXT", "READY", "RESET", "UPDATE", "places"]

#: In the order of a step: learning before and after the update, once spikes are known, before resets, at the end, of
#: synapses, and what is left to the beginning of the next step. In between is what the network does: whether neurons
#: are ready, their update, what travels, their resets.
READY, BEFORE, UPDATE, AFTER, FIRED, TRAVEL, RESET, JUMP, END, LEARN, NEXT = range(11)


def places(lowered):
    """``[(slot, level, statement)]`` of all statements, ``level`` the order at the end of a step.

    Raises
    ------
    UnsupportedError
        Two statements would be in the wrong order.
    """
    updates = first_updates(lowered)
    steps = lowered.statements
    travel = len(lowered.program.step) if lowered.travel.begun is None else lowered.travel.begun
    found = [(slot(lowered, n, s, updates, travel), s) for n, s in steps]
    left, placed = left_to_next(lowered, found), []
    for number, (where, s) in enumerate(found):
        where = NEXT if number in left else where
        first = [k + (home(q) != home(s)) for w, k, q in placed if w == where == END and depend(q, s)]
        placed.append((where, max(first, default=0), s))
    placed = [*map(last_of_its_group, range(len(placed)), [placed] * len(placed))]
    check(placed)
    return placed


def last_of_its_group(number, placed):
    """What nobody waits for in this step is run with the last statements of its group: it needs no object of its own."""
    where, level, s = placed[number]
    if where == END and isinstance(s, Map) and not any(depend(s, q) for w, _, q in placed[number + 1 :] if w == END):
        level = max(k for w, k, q in placed if w == END and home(q) == home(s))
    return where, level, s


def home(s):
    """What runs a statement: a group's code, or an object that sums."""
    return s.space if isinstance(s, Map) else id(s)


def depend(q, s):
    """Whether the order of two statements matters."""
    written = written_by(q)
    return bool(written & (read_by(s) | written_by(s)) or read_by(q) & written_by(s))


def first_updates(lowered):
    """Where each population is updated, by number in the program."""
    found = {}
    for n, s in lowered.statements:
        if isinstance(s, Map) and not lowered.learns(s):
            if not s.lines or roles_of(lowered, s) & {"state", "inlet"}:
                found.setdefault(s.space, n)
    return found


def roles_of(lowered, s):
    """What the arrays that a statement sets are to their owners."""
    return {lowered.arrays[name].role for name in written_by(s)}


def slot(lowered, n, s, updates, travel):
    """The slot of one statement: learning has the place that the network's own statements leave."""
    if isinstance(s, (Gather, Send)):
        ahead = "coming" in roles_of(lowered, s)
        return END if isinstance(s, Gather) and (ahead or lowered.learns(s)) else TRAVEL
    if isinstance(s, Jump):
        return JUMP
    own, update = lowered.learns(s), updates.get(s.space, n)
    if not isinstance(lowered.spaces[s.space], Neurons):
        return LEARN if own else TRAVEL
    if n < travel:
        order = (n > update) - (n < update)
        return {-1: BEFORE, 1: AFTER}[order] if own else {-1: READY, 0: UPDATE, 1: FIRED}[order]
    if not own:
        return FIRED if roles_of(lowered, s) == {"resource"} else TRAVEL
    jumps = any(k > n for k, q in lowered.statements if isinstance(q, Jump) and q.space == s.space)
    return RESET if jumps else FIRED if known_early(lowered, s) else END


def known_early(lowered, s):
    """Whether neurons count their spikes, or compute what is always the same."""
    written = [lowered.arrays[name] for name in written_by(s)]
    return all(a.role == "count" for a in written) or not read_by(s) and all(a.life is Life.STEP for a in written)


def left_to_next(lowered, found):
    """Numbers of the statements of neurons that nothing waits for in this step: they begin the next one, and need no
    object of their own.
    """
    late, kept = set(), {s for end in lowered.ends.values() for q in end for s in read_by(q)}
    for number in reversed(range(len(found))):
        where, s = found[number]
        lasting = all(lowered.arrays[name].life is Life.STATE for name in written_by(s))
        waits = [q for k, (_, q) in enumerate(found) if k > number and not (k in late and home(q) == home(s))]
        if where == END and isinstance(s, Map) and lasting and not written_by(s) & kept.union(*map(read_by, waits)):
            late.add(number)
    return late


def check(placed):
    """Raise where a statement would be run before one that it must follow."""
    for number, (slot, level, s) in enumerate(placed):
        for before, place, q in placed[:number]:
            if (before, place) > (slot, level) and depend(q, s):
                raise UnsupportedError(
                    f"in Brian2 two statements would be run in the wrong order: {sentence(q)}, and {sentence(s)}; use "
                    "backend='torch'"
                )


def sentence(s):
    """A statement in a few words."""
    what = s.link if isinstance(s, (Gather, Send)) else s.space
    return f"that of {what!r} which sets {', '.join(sorted(written_by(s)))}"
