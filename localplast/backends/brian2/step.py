"""A step program as Brian2 text: its statements, each in its slot, printed for the object that runs them."""

import sympy
from brian2.equations.equations import PARAMETER, SingleEquation
from brian2.units.fundamentalunits import DIMENSIONLESS

from localplast.backends.brian2.lowered import Gather, Lowered, written_by
from localplast.backends.brian2.names import called
from localplast.backends.brian2.printed import Text
from localplast.backends.brian2.slots import AFTER, BEFORE, FIRED, JUMP, READY, UPDATE, places
from localplast.backends.brian2.text import Line
from localplast.program.arrays import at
from localplast.program.forward import forward
from localplast.program.instructions import Send
from localplast.program.units import derived

__all__ = ["Step"]

#: What a neuron has beside the variables of its model: what it sends, and what is left of what its spikes release.
SENT = ("sent", "spikes", "resource")


class Step:
    """What a network does, and what it learns, as text.

    Parameters
    ----------
    net, values, block : Network, Values, Block
    program : Program, optional
        Default: what the network does, whatever learns.
    """

    def __init__(self, net, values, block, program=None, **options):
        program = program or forward(net, values)
        self.net, self.values, self.block, self.words = net, values, block, {}
        self.lowered = Lowered(net, program, **{"own": set(program.arrays), **options})
        self.arrays, placed = self.lowered.arrays, places(self.lowered)
        self.gathers = [(level, s) for _, level, s in placed if isinstance(s, Gather)]
        self.maps = [(w, k, s) for w, k, s in placed if not isinstance(s, (Gather, Send))]
        self.dimensions = self.derive()

    def derive(self):
        """The unit of every array."""
        statements = [*(s for *_, s in self.maps), *(s for _, s in self.gathers), *self.all_ends()]
        learned = [s for s in statements if self.lowered.learns(s)]
        pairs = [pair for s in learned for pair in (s.sums if isinstance(s, Gather) else (*s.lets, *s.lines))]
        made = {name for name, _ in pairs} - self.lowered.own
        known = {n: a.unit for n, a in self.arrays.items() if n not in made or a.unit is not DIMENSIONLESS}
        return dict.fromkeys(self.arrays, DIMENSIONLESS) | derived(pairs, known)

    def all_ends(self):
        return [s for end in self.lowered.ends.values() for s in end]

    def learns(self, name, parameter):
        """Whether learning changes a parameter of a population."""
        return False

    # --- text ---------------------------------------------------------------------------------------------------------

    def text(self, space, pre=None, post=None):
        """What prints statements of one object."""
        return Text(self.net, self.values, self.arrays, self.dimensions, space, pre, post, self.words)

    def of_synapses(self, name):
        p = self.net.projections[name]
        return self.text(name, p.pre, p.post)

    def printed(self, text, statements):
        """Statements as lines; nothing spikes between two trials, and nothing is learned there from what neurons get
        wrong, or nearly do.
        """
        lines, taken = [], set()
        for s in statements:
            quiet = {called(self.net, self.arrays[n]) for n in written_by(s) if self.is_quiet(n)}
            for line in text.lines(s, taken):
                lines.append(line)
                if line.name in quiet and self.block.active:
                    lines.append(Line(line.name, f"{line.name}*int({self.block.active})"))
        return [*self.given(text, statements), *lines]

    def is_quiet(self, name):
        return self.arrays[name].role in ("slope", "mismatch", "spikes")

    def given(self, text, statements):
        """Lines that look up what is given from outside."""
        return []

    def at(self, space, *slots, level=None):
        """The statements of one object in these slots, slot by slot."""
        found = [(w, s) for w, k, s in self.maps if s.space == space and w in slots and level in (None, k)]
        return [s for _, s in sorted(found, key=lambda pair: slots.index(pair[0]))]

    # --- neurons ------------------------------------------------------------------------------------------------------

    def lines_of(self, name):
        """Equations of what the neurons of ``name`` hold beside the variables of their model."""
        written = {n for *_, s in self.maps if s.space == name and not self.lowered.learns(s) for n in written_by(s)}
        found = [a for n, a in self.arrays.items() if n in written and a.role in SENT]
        return [SingleEquation(PARAMETER, called(self.net, a), a.unit) for a in found]

    def begin(self, name):
        """Statements before all others of a step."""
        return []

    def update(self, name):
        """A step of the neurons of ``name``, up to what leaves them."""
        slots = (READY, BEFORE, UPDATE, AFTER, FIRED)
        return [str(line) for line in self.printed(self.text(name), self.at(name, *slots))]

    def after_spikes(self, name):
        """What a spike leaves behind in its neuron."""
        return [str(line) for line in self.printed(self.text(name), self.at(name, JUMP))]

    def released(self, p):
        """What a synapse of ``p`` delivers, just before the spike leaves its mark on the source."""
        share = self.lowered.words.get(f"{p.name}.released", sympy.Integer(1))
        weight = at(f"{p.name}.weight")
        return self.of_synapses(p.name).expression(weight * self.lowered.ends_of(share, "pre"), None)

    def starts(self, name):
        """The arrays that hold the state of the neurons of ``name``, by what they are called."""
        own = [a for n, a in self.arrays.items() if n in self.lowered.own and a.space == name]
        return {called(self.net, a): a for a in own if a.role in ("state", "inlet", "resource")}

    def events(self, name):
        """Events beside spikes, with their conditions."""
        return None
