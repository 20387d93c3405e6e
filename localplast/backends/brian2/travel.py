"""What travels in Brian2: spikes that synapses deliver, values that they sum up.

A program says it statement by statement: a delay line, a product, what arrives. In Brian2 synapses are late themselves,
several of them add to a variable one by one, and each projection that sums has a variable of its own.
"""

from dataclasses import dataclass, replace

import sympy

from localplast.errors import UnsupportedError
from localplast.program.arrays import End, Kernel, Life, at
from localplast.program.instructions import Map, Reduce, Send, arrays_in, reads, writes

__all__ = ["Gather", "Travel", "read_by", "written_by"]


@dataclass(frozen=True)
class Gather:
    """Summed variables: ``sums`` over the synapses of one Brian2 object, ``(array, expression of its two ends)``.

    ``pre`` and ``post`` are the groups of an object that exists for this alone, None: the synapses are a projection's,
    and sum for the neurons at its end ``onto``.
    """

    link: str
    sums: tuple
    pre: str | None = None
    post: str | None = None
    onto: str = "post"


def read_by(s):
    """Names of the arrays that a statement reads."""
    return set().union(*(arrays_in(e) for _, e in s.sums)) if isinstance(s, Gather) else reads(s)


def written_by(s):
    """Names of the arrays that a statement sets."""
    return {name for name, _ in s.sums} if isinstance(s, Gather) else writes(s)


class Travel:
    """The statements of a network about what travels, while its program is put into what Brian2 has.

    Attributes
    ----------
    parts : dict of str to list of str
        The variables of each projection onto a variable that graded projections set.
    signals : dict of str to symbol
        What the synapses of a graded projection read of their sources.
    late : dict of str to str
        What goes into its line of cells, by graded projection that has one.
    begun : int or None
        The number of the first of these statements.
    """

    def __init__(self, lowered):
        self.lowered, self.begun, self.parts, self.signals, self.late = lowered, None, {}, {}, {}
        self.lines, self.spikes, spaces = {}, {}, lowered.program.spaces.values()
        ties = [(x.name, x.shares) for x in spaces if getattr(x, "shares", None)]
        self.tied = {one: other for tie in ties for one, other in (tie, tie[::-1])}
        self.last = {name: n for n, s in enumerate(lowered.program.step) for name in writes(s)}

    def takes(self, s):
        """Whether a statement is one of these, which is then said in Brian2's words."""
        if not isinstance(s, Send):
            return isinstance(s, Reduce) or isinstance(s, Map) and (self.lands(s) or self.lands_later(s))
        if self.begun is None:
            self.begun = self.lowered.number
        self.send(s)
        return True

    def role(self, name):
        return self.lowered.arrays[name].role

    def send(self, s):
        """A product, with the delay line before it or behind it."""
        if isinstance(self.lowered.spaces[s.link].form, Kernel):
            raise UnsupportedError(
                f"projection {s.link!r} is a convolution, which Brian2 does not know; use backend='torch', or give "
                "dense weights"
            )
        other = self.lines.get(s.source)
        if self.role(s.target) == "made" or s.weight is None and not other:
            self.lines[s.target] = s
            return
        if other:
            product = s if s.weight else other
            s = replace(product, source=other.source, target=s.target, taps=(other if s.weight else s).taps)
        if self.role(s.target) == "arrived":
            self.spikes.setdefault(s.target, []).append(s)
        else:
            self.sum(s)

    def lands(self, s):
        """Spikes have arrived: each synapse adds to the state itself, and not where Brian2 clamps it."""
        boxes = read_by(s) & self.spikes.keys()
        for send in (q for box in boxes for q in self.spikes[box]):
            ((target, _),) = s.lines
            if target in self.parts:
                post, _, variable = target.partition(".")
                refuse(
                    send.link, f"in Brian2 spikes cannot add to {variable!r} of {post!r}, which graded projections set; "
                    "give the model another variable for one of them, or use backend='torch'",
                )  # fmt: skip
            self.lowered.add(replace(send, target=target))
        return bool(boxes)

    def lands_later(self, s):
        """What was weighted a step before arrives."""
        coming = [name for name in read_by(s) if self.role(name) == "coming"]
        for name in coming:
            ((target, _),) = s.lines
            part = self.part(name.removesuffix(".coming"), target)
            self.lowered.add(Map(s.space, (), ((part, at(name)),)))
            self.complete(target)
        return bool(coming)

    # --- values -------------------------------------------------------------------------------------------------------

    def sum(self, s):
        """What a graded projection sets: a sum over synapses, those whose weights it has."""
        link = self.lowered.spaces[s.link]
        if link.shares:
            self.check_ends(link, self.lowered.spaces[link.shares])
        target = s.target if self.role(s.target) == "coming" else self.part(s.link, s.target)
        near, far = ("post", "pre") if link.turned else ("pre", "post")
        signal = self.lowered.words.get(s.source) or at(self.signal(s, link))
        weighted = (link.times if link.shares else 1) * at(s.weight) * self.lowered.ends_of(signal, near)
        self.lowered.add(Gather(link.shares or s.link, ((target, weighted),), onto=far))
        self.complete(s.target)

    def check_ends(self, link, other):
        """Raise unless synapses can be read both ways."""
        if (link.pre, link.post) != (other.post, other.pre):
            refuse(
                link.name, f"in Brian2 synapses that are read both ways, here and in {other.name!r}, lie between the same "
                "two populations; use same_as(..., transposed=True), or backend='torch'",
            )  # fmt: skip

    def part(self, link, target):
        """The variable of one projection beside others onto the same target."""
        a = self.lowered.arrays[target]
        self.parts.setdefault(target, []).append(self.hold(f"{target}.from.{link}", a.space, a.unit, "part"))
        return self.parts[target][-1]

    def hold(self, name, space, unit, role):
        """Declare what the network has in Brian2 alone."""
        self.lowered.own.add(name)
        return self.lowered.declare(name, space, unit, Life.STATE, role).name

    def complete(self, target):
        """What several projections set is the sum of their variables."""
        if target in self.parts and self.last[target] == self.lowered.number:
            total = sympy.Add(*map(at, self.parts[target]))
            self.lowered.add(Map(self.lowered.arrays[target].space, (), ((target, total),)))

    def signal(self, s, link):
        """What synapses read of their source: what it sends, or what comes out of a line of cells."""
        name = s.source
        if s.taps:
            self.check_late(s)
            role = "kept" if s.link in self.tied else "line"
            name = self.hold(f"{s.link}.signal", link.pre, self.lowered.arrays[s.source].unit, role)
            self.late[s.link] = s.source
        self.signals[s.link] = End(name, "pre")
        return name

    def check_late(self, s):
        """Raise where values take a time that lines of cells do not have."""
        if s.taps.spread:
            refuse(s.link, "graded transmission with a delay between two steps needs backend='torch'")
        if s.link in self.tied and s.taps.kind != "axonal":
            refuse(
                s.link, f"synapses that are read both ways, here and in {self.tied[s.link]!r}, have axonal delays in "
                "Brian2; use those, same_as(..., transposed=True), or backend='torch'",
            )  # fmt: skip


def refuse(link, why):
    raise UnsupportedError(f"projection {link!r}: {why}")
