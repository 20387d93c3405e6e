"""Where the arrays of a step program lie while its C text runs, and what the text is handed.

A thread has one workspace, ``struct space``. Arrays of neurons are ``[S][N]``: the trials of a block side by side,
neurons contiguous and padded to whole vectors. What is needed on the way back has a *slot* for each step of a window.
An array of events is kept as lists: ``list [S][N]`` the numbers of neurons, ``many [S]`` how many, and, where events
have sizes, ``value [S][N]``; also as numbers, if somebody reads it so.
"""

import functools
import re
from dataclasses import dataclass, field, replace

import numpy as np

from localplast.backends.c.expression import Constants
from localplast.backends.c.loops import TRIALS
from localplast.program.arrays import Kernel, Life, Neurons, One, Sparse, Synapses, at
from localplast.program.instructions import Jump, Map, Outer, Reduce, Send, arrays_in, reads, writes
from localplast.program.passes import resolved

__all__ = ["SPARE", "Memory", "as_list"]

#: Bytes of the widest vector register in use.
ROW_BYTES = 64
#: Rows that a product may write beyond the last.
SPARE = 8


def as_list(program, s, name):
    """Whether statement ``s`` reads the events ``name`` one by one."""
    if not program.arrays[name].events:
        return False
    if isinstance(s, Jump):
        return name == s.spikes
    if isinstance(s, (Send, Outer)):
        source = s.source if isinstance(s, Send) else s.pre
        if isinstance(s, Send) and s.taps is None and s.weight is None:
            return False
        return name == source and not isinstance(program.spaces[s.link].form, Kernel)
    return (
        isinstance(s, Reduce) and s.op == "sum" and program.arrays[name].role == "spikes" and s.expression == at(name)
    )


@dataclass
class Memory:
    """All places, in the order in which the text has asked for them.

    Attributes
    ----------
    forward, backward : Program
        With histories, and their adjoint.
    block : int
        Trials side by side.
    lanes : int
        Numbers in the widest vector.
    bits : frozenset of str
        Inputs that are given as bool.
    numbers : dict of str to tensor
        Of all arrays that no step changes.
    fields : dict of str to (type, C text of how many, region)
        Of the workspace. Regions: ``'state'`` is saved for the way back, ``'zero'`` begins at zero, and ``'kept'``.
    arguments : dict of str to (type, shape)
        What Python hands over (:mod:`localplast.backends.c.arguments`).
    sources : dict of str to tuple
        Where it takes them from.
    """

    forward: object
    backward: object
    block: int
    lanes: int
    bits: frozenset
    numbers: dict
    fields: dict = field(default_factory=dict)
    arguments: dict = field(default_factory=dict)
    sources: dict = field(default_factory=dict)
    constants: dict = field(default_factory=dict)
    rings: list = field(default_factory=list)
    numerics: dict = field(default_factory=dict)
    #: Numbers that change within a trial: none.
    moving = frozenset()

    def __post_init__(self):
        self.spaces, self.arrays = self.backward.spaces, self.backward.arrays
        self.place = {name: number for number, name in enumerate((*self.arrays, *self.spaces))}
        self.origin = resolved(self.forward)
        self.totals = {n for s in self.forward.step for n in getattr(s, "adds", ())}
        both = [(p, s) for p in (self.forward, self.backward) for s in p.step]
        self.listed = {self.first(n) for p, s in both for n in named(s) if n in self.arrays and as_list(p, s, n)}
        self.sized = self.with_sizes()

    # --- who reads what ----------------------------------------------------------------------------------------------

    def numeric(self, s):
        """Arrays that a statement reads as numbers."""
        if s not in self.numerics:
            self.numerics[s] = self.found_numeric(s)
        return self.numerics[s]

    def found_numeric(self, s):
        if isinstance(s, (Map, Jump)):
            lines = set().union(*(arrays_in(e) for _, e in (*getattr(s, "lets", ()), *s.lines)))
            return lines | getattr(s, "adds", set()) | (writes(s) if isinstance(s, Jump) else set())
        return {n for n in reads(s) if not as_list(self.backward, s, n)}

    @functools.cached_property
    def numeric_back(self):
        """What the way back reads as numbers."""
        return set().union(*map(self.numeric, self.backward.step))

    # --- names and sizes ----------------------------------------------------------------------------------------------

    def identifier(self, name):
        """A name in C: its number makes it one of a kind, the rest is for people."""
        return f"{re.sub(r'[^0-9A-Za-z]', '_', name)}_{self.place[name]}"

    def size(self, space):
        """Neurons of a space; 1 of what all share."""
        return getattr(self.spaces[space], "size", 1)

    def padded(self, space):
        """Numbers that a trial takes: whole vectors."""
        return self.whole(self.size(space)) if isinstance(self.spaces[space], Neurons) else 1

    def columns(self, space):
        """Constants of a space that are not the same for all."""
        return self.padded(space)

    def whole(self, size):
        return -(-size // self.lanes) * self.lanes

    def first(self, name):
        """What a history is the history of; any other array itself."""
        return self.origin.get(name, name)

    def with_sizes(self):
        """Arrays whose events carry numbers; all others are spikes."""
        found = {f"{n}" for n, a in self.arrays.items() if a.life is Life.GIVEN and n not in self.bits}
        for s in self.forward.step:
            if isinstance(s, Map):
                found |= {n for n, _ in s.lines if self.arrays[n].life is not Life.HISTORY}
            if isinstance(s, Send) and (s.source in found or s.weight or s.taps and s.taps.spread):
                found.add(s.target)
        return found

    def slotted(self, name):
        """Whether all steps of a window are kept."""
        life = self.arrays[name].life
        return life is Life.HISTORY or life is Life.GIVEN and name in self.forward.arrays

    # --- the workspace ------------------------------------------------------------------------------------------------

    def want(self, name, kind, count, region="kept"):
        """A field of the workspace."""
        self.fields[name] = (kind, count, region)
        return f"w->{name}"

    def region(self, name):
        """Where the numbers of an array lie."""
        array = self.arrays[name]
        if array.life is Life.STATE and name in self.forward.arrays:
            return "state"
        begins_at_zero = array.life in (Life.STATE, Life.SUM) or name in self.totals
        return "zero" if begins_at_zero else "kept"

    def values(self, name):
        """C text of where the numbers of an array begin in this step."""
        many = self.padded(self.arrays[name].space)
        slots, now = ("K * ", f" + slot * S * {many}") if self.slotted(name) else ("", "")
        found = self.want(f"x_{self.identifier(name)}", "real", f"{slots}S * {many}", self.region(name))
        return f"({found}{now})" if now else found

    def index(self, name, space):
        """C text of which number of an array belongs to neuron i of ``space`` in trial s."""
        return "o" if self.arrays[name].space == space else "s"

    def events(self, name, body):
        """C loop over the events of this step; ``body`` sees the trial s, the neuron i, and the size x if it has one."""
        name = self.first(name)
        place, n = self.identifier(name), self.size(self.arrays[name].space)
        self.lists(name)
        size = f"const real x = w->value_{place}[(slot * S + s) * {n} + e]; " if name in self.sized else ""
        return f"""{TRIALS} {{
        const unsigned *list = w->list_{place} + (slot * S + s) * {n};
        for (long e = 0; e < w->many_{place}[slot * S + s]; e++) {{
            const long i = list[e]; {size}{body}
        }}
    }}"""

    def lists(self, name):
        """The lists of an array: C text of ``list``, ``many`` and ``value`` of trial s."""
        place, n = self.identifier(name), self.size(self.arrays[name].space)
        found = [self.want(f"list_{place}", "unsigned", f"K * S * {n}") + f" + (slot * S + s) * {n}"]
        found.append(self.want(f"many_{place}", "long", "K * S") + "[slot * S + s]")
        if name in self.sized:
            found.append(self.want(f"value_{place}", "real", f"K * S * {n}") + f" + (slot * S + s) * {n}")
        return found

    # --- what is handed over ------------------------------------------------------------------------------------------

    def argument(self, slot, kind, shape, source, pointer=None):
        """C text of an array from Python; ``source`` tells which."""
        self.arguments[slot], self.sources[slot] = (kind, shape), source
        return f"(({pointer or kind} *)p[P_{slot}])"

    def outside(self, name):
        """What is given or seen in every step, or of a whole trial: C text of where it begins in this step."""
        array = self.arrays[name]
        n, whole = self.size(array.space), array.life is Life.FIXED or name in self.totals
        kind = "unsigned char" if name in self.bits else "real"
        shape = ("B", n) if whole else ("T", "B", n)
        found = self.argument(f"{array.life.value}_{self.identifier(name)}", kind, shape, ("outside", name))
        return f"{found} + {'w->first' if whole else '(t * w->B + w->first)'} * {n}"

    def matrix(self, link, weight, turned):
        """Weights ``(pre, post)``, rows padded; ``turned`` ``(post, pre)``."""
        ends = (link.post, link.pre) if turned else (link.pre, link.post)
        shape = self.size(ends[0]), self.padded(ends[1])
        slot = f"{'back' if turned else 'weight'}_{self.identifier(weight)}_{self.identifier(link.name)}"
        return self.argument(slot, "real", shape, ("matrix", weight, link, turned))

    def kernel(self, link, weight):
        """The weights of a convolution, ``(channel, image_channel * row * column)``, rows padded, and rows to spare."""
        channels, *rest = link.form.convolution.shape
        slot = f"kernel_{self.identifier(weight)}_{self.identifier(link.name)}"
        shape = channels + SPARE, self.whole(int(np.prod(rest)))
        return self.argument(slot, "real", shape, ("kernel", weight, link))

    def vector(self, link, weight):
        """The weights of few synapses, ``(synapse,)``."""
        shape = (self.many_synapses(link),)
        return self.argument(f"few_{self.identifier(weight)}", "real", shape, ("number of few", weight))

    def many_synapses(self, link):
        """The name of the number of few synapses among the sizes of a call: no text depends on it."""
        return f"many_{self.identifier(link.name)}"

    def count(self, link):
        """C text of it, where the workspace is laid out and where it is used: it comes with the lengths of rings."""
        number = [x.name for x in self.few()].index(link.name)
        return f"rings[{number}]", f"((long *)p[P_rings])[{number}]"

    def neighbours(self, link):
        """C text of where the synapses of each presynaptic neuron begin, and of the neuron behind each."""
        place, rows = self.identifier(link.name), self.size(link.pre) + 1
        start = self.argument(f"start_{place}", "int", (rows,), ("begins", link))
        return start, self.argument(f"end_{place}", "int", (self.many_synapses(link),), ("ends", link))

    def few(self):
        """The links of few synapses."""
        return [x for x in self.spaces.values() if isinstance(getattr(x, "form", None), Sparse)]

    def total(self, name):
        """The sum of a gradient: of neurons in the workspace, of synapses an array of this thread's own."""
        array, space = self.arrays[name], self.spaces[self.arrays[name].space]
        if not isinstance(space, Synapses):
            return self.values(name)
        shape = self.size(space.pre) + SPARE, self.padded(space.post)
        if isinstance(space.form, Sparse):
            shape = (self.many_synapses(space),)
        if isinstance(space.form, Kernel):
            channels, *rest = space.form.convolution.shape
            shape = channels + SPARE, self.whole(int(np.prod(rest)))
        return self.argument(f"sum_{self.identifier(array.name)}", "real", shape, ("sum", name))

    def taps(self, s):
        """``(steps, shares or None, how many, kind)``: C text of the tables of a statement's taps, ``[tap][which]``."""
        found, link = s.taps, self.spaces[s.link]
        shared = not isinstance(self.spaces[self.arrays[found.delay].space], (Neurons, Synapses))
        shape = {"axonal": (self.size(link.pre),), "dendritic": (self.size(link.post),)}.get(
            found.kind, (self.size(link.pre), self.size(link.post))
        )
        kind = "shared" if shared and found.kind != "synaptic" else found.kind
        shape = () if kind == "shared" else shape
        slopes = s.slopes
        slot = f"{self.identifier(found.delay)}{'_slopes' if slopes else ''}"
        source = ("taps", found, shape, slopes)
        steps = self.argument(f"steps_{slot}", "int", (f"taps_{slot}", *shape), source)
        many = self.argument(f"taps_{slot}", "long", (1,), source)
        share = self.argument(f"share_{slot}", "real", (f"taps_{slot}", *shape), source) if found.spread else None
        return steps, share, f"{many}[0]", kind

    def ring(self, s, space, *, backwards, rows="S"):
        """The ring of a statement's signals, as long as the longest delay: C text of its memory, and of its length."""
        known = replace(s, add=False) if isinstance(s, Send) else s  # the same where others do not add first
        if known not in self.rings:
            self.rings.append(known)
        number = len(self.few()) + self.rings.index(known)
        self.argument("rings", "long", (len(self.few()) + len(self.rings),), ("rings",))
        many = self.padded(space)
        found = self.want(
            f"ring{number}", "real", f"rings[{number}] * {rows} * {many}", "zero" if backwards else "state"
        )
        return found, f"((long *)p[P_rings])[{number}]"

    def constants_of(self, space):
        """The numbers of a space that no step changes, as its expressions ask for them."""
        if space not in self.constants:
            known = {n: x for n, x in self.numbers.items() if self.constant(n, space)}
            ready = any(a.role == "ready" and a.space == space for a in self.arrays.values())
            self.constants[space] = Constants(known, ready)
        return self.constants[space]

    def constant(self, name, space):
        """Whether a number is one of ``space``, or of all."""
        array = self.arrays[name]
        numeric = array.role in ("parameter", "step")
        return numeric and array.space in (space, One().name)

    def known(self, space):
        """C declarations of the constants of a space, once its text has asked for all of them."""
        place, (shared, each) = self.identifier(space), (self.constants_of(space).asked[k] for k in (True, False))
        found = []
        for letter, asked, shape in (("k", shared, ()), ("c", each, (self.columns(space),))):
            if asked:
                text = self.argument(f"{letter}_{place}", "real", (len(asked), *shape), ("constants", space))
                found.append(f"const real *restrict {letter} = {text};")
        return found


def named(s):
    """Arrays that a statement could read as events."""
    if isinstance(s, Jump):
        return {s.spikes}
    if isinstance(s, Send):
        return {s.source}
    if isinstance(s, Outer):
        return {s.pre}
    return arrays_in(s.expression) if isinstance(s, Reduce) else set()
