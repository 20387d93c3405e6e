"""What travels in Brian2: spikes that synapses deliver, values that they sum up.

A program says it statement by statement: a delay line, a product, what arrives. In Brian2 synapses are late themselves,
several of them add to a variable one by one, or each projection has a variable of its own.
"""

from dataclasses import replace

import sympy

from localplast.backends.brian2.statements import Deliver, Gather, read_by, written_by
from localplast.errors import UnsupportedError
from localplast.program.arrays import End, Kernel, Life, at
from localplast.program.instructions import Map, Reduce, Send

__all__ = ["Travel"]


class Travel:
    """The statements of a network about what travels, while its program is put into what Brian2 has.

    Attributes
    ----------
    parts : dict of str to list of str
        The variables of each projection onto a variable that graded projections set.
    signals : dict of str to symbol
        What the synapses of a graded projection read of their sources.
    late : dict of str to str
        What goes into its delay line, by graded projection that has one.
    begun : int or None
        The number of the first of these statements.
    """

    def __init__(self, lowered):
        self.lowered, self.begun, self.parts, self.signals, self.late = lowered, None, {}, {}, {}
        self.lines, self.made, self.spikes, self.ahead = {}, {}, {}, {}
        spaces = lowered.program.spaces.values()
        ties = [(x.name, x.shares) for x in spaces if getattr(x, "shares", None)]
        self.shared = {one: other for tie in ties for one, other in (tie, tie[::-1])}
        self.last = {name: n for n, s in enumerate(lowered.program.step) for name in written_by(s)}

    def takes(self, s):
        """Whether a statement is one of these, which is then said in Brian2's words."""
        if not isinstance(s, Send):
            return isinstance(s, Reduce) or isinstance(s, Map) and (self.lands(s) or self.leaves_ahead(s))
        if self.begun is None:
            self.begun = self.lowered.number
        self.send(s)
        return True

    def role(self, name):
        return self.lowered.arrays[name].role

    def send(self, s):
        """Brian2 delays neither what comes out of neurons nor what goes into them: a delay is that of synapses."""
        if isinstance(self.lowered.spaces[s.link].form, Kernel):
            raise UnsupportedError(
                f"projection {s.link!r} is a convolution, which Brian2 does not know; use backend='torch', or give "
                "dense weights"
            )
        if self.role(s.target) == "made":
            self.made[s.target] = s
            return
        if s.weight is None and s.source not in self.made:
            self.lines[s.target] = s
            return
        if s.source in self.made:
            s = replace(self.made[s.source], target=s.target, taps=s.taps)
        elif s.source in self.lines:
            line = self.lines[s.source]
            s = replace(s, source=line.source, taps=line.taps)
        if self.role(s.target) == "arrived":
            self.spikes.setdefault(s.target, []).append(s)
        else:
            self.sum(s)

    # --- spikes -------------------------------------------------------------------------------------------------------

    def lands(self, s):
        """Spikes have arrived: each synapse adds to the state itself, and not where Brian2 clamps it."""
        boxes = read_by(s) & self.spikes.keys()
        for send in (q for box in boxes for q in self.spikes[box]):
            ((target, _),) = s.lines
            if target in self.parts:
                post, _, variable = target.partition(".")
                raise UnsupportedError(
                    f"projection {send.link!r}: in Brian2 spikes cannot add to {variable!r} of {post!r}, which graded "
                    "projections set; give the model another variable for one of them, or use backend='torch'"
                )
            share = self.lowered.words.get(send.source, sympy.Integer(1))
            delivered = at(send.weight) * self.lowered.ends_of(share, "pre")
            self.lowered.add(Deliver(send.link, target, delivered))
        return bool(boxes) or self.lands_later(s)

    # --- values -------------------------------------------------------------------------------------------------------

    def sum(self, s):
        """What a graded projection sets: a sum over synapses, those whose weights it has."""
        link = self.lowered.spaces[s.link]
        if link.shares:
            self.check_shared(s, link)
        target = s.target if self.role(s.target) == "coming" else self.part(s.link, s.target)
        near, far = ("post", "pre") if link.turned else ("pre", "post")
        signal = self.ahead.get(s.source, at(self.signal(s, link)))
        weighted = (link.times if link.shares else 1) * at(s.weight) * self.lowered.ends_of(signal, near)
        self.lowered.add(Gather(link.shares or s.link, ((target, weighted),), onto=far))
        self.complete(s.target)

    def complete(self, target):
        """What several projections set is the sum of their variables."""
        if target in self.parts and self.last[target] == self.lowered.number:
            total = sympy.Add(*map(at, self.parts[target]))
            self.lowered.add(Map(self.lowered.arrays[target].space, (), ((target, total),)))

    def part(self, link, target):
        """The variable of one projection beside others onto the same target."""
        a = self.lowered.arrays[target]
        made = self.lowered.declare(f"{target}.from.{link}", a.space, a.unit, Life.STATE, "part").name
        self.lowered.own.add(made)
        self.parts.setdefault(target, []).append(made)
        return made

    def signal(self, s, link):
        """What synapses read of their source: what it sends, or what comes out of a line of cells."""
        name = s.source
        if s.taps and s.taps.spread:
            raise UnsupportedError(
                f"projection {s.link!r}: graded transmission with a delay between two steps needs backend='torch'"
            )
        if s.taps and s.link in self.shared and s.taps.kind != "axonal":
            raise UnsupportedError(
                f"projection {s.link!r}: synapses that are read both ways, here and in {self.shared[s.link]!r}, have "
                "axonal delays in Brian2; use those, same_as(..., transposed=True), or backend='torch'"
            )
        if s.taps:
            unit, role = self.lowered.arrays[s.source].unit, "kept" if s.link in self.shared else "line"
            name = self.lowered.declare(f"{s.link}.signal", link.pre, unit, Life.STATE, role).name
            self.lowered.own.add(name)
            self.late[s.link] = s.source
        self.signals[s.link] = End(name, "pre")
        return name

    def check_shared(self, s, link):
        """Raise where Brian2's synapses cannot be read both ways."""
        other = self.lowered.spaces[link.shares]
        if (link.pre, link.post) != (other.post, other.pre):
            raise UnsupportedError(
                f"projection {s.link!r}: in Brian2 synapses that are read both ways, here and in {link.shares!r}, lie "
                "between the same two populations; use same_as(..., transposed=True), or backend='torch'"
            )

    def leaves_ahead(self, s):
        """What is weighted a step before it arrives is said where it is weighted."""
        if {self.role(name) for name, _ in s.lines} != {"ahead"}:
            return False
        self.ahead |= dict(s.lines)
        return True

    def lands_later(self, s):
        """What was weighted a step before arrives."""
        coming = [name for name in read_by(s) if self.role(name) == "coming"]
        for name in coming:
            ((target, _),) = s.lines
            part = self.part(name.removesuffix(".coming"), target)
            self.lowered.add(Map(s.space, (), ((part, at(name)),)))
            self.complete(target)
        return bool(coming)
