"""A step program as Brian2 text: its statements, each in its slot, printed for the object that runs them."""

import sympy
from brian2.equations.codestrings import Expression
from brian2.equations.equations import PARAMETER, SingleEquation
from brian2.units.fundamentalunits import DIMENSIONLESS

from localplast.backends.brian2.lowered import Lowered
from localplast.backends.brian2.names import called
from localplast.backends.brian2.printed import Text
from localplast.backends.brian2.slots import AFTER, BEFORE, END, FIRED, JUMP, READY, TRAVEL, UPDATE, places
from localplast.backends.brian2.text import Line, zero
from localplast.backends.brian2.travel import Gather, read_by, written_by
from localplast.program.arrays import Life, at
from localplast.program.forward import forward
from localplast.program.instructions import Send
from localplast.program.units import derived

__all__ = ["Step"]

#: What a neuron has beside the variables of its model: what it sends, and what is left of what its spikes release; what
#: each projection sets, now or a step later.
HELD = ("sent", "spikes", "resource", "kept", "part", "coming")
#: What is zero between two trials.
QUIET = ("slope", "mismatch", "spikes")


class Step:
    """What a network does, and what it learns, as text.

    Parameters
    ----------
    net, values, block : Network, Values, Block
    program : Program, optional
        Default: what the network does, whatever learns.
    options
        Of :class:`~localplast.backends.brian2.lowered.Lowered`, where something learns.
    """

    def __init__(self, net, values, block, program=None, **options):
        program = program or forward(net, values)
        self.net, self.values, self.block, self.words = net, values, block, {}
        self.lowered = Lowered(net, program, **{"own": set(program.arrays), **options})
        self.arrays, placed = self.lowered.arrays, places(self.lowered)
        self.gathers = [(w, k, s) for w, k, s in placed if isinstance(s, Gather)]
        self.sends = {s.link: s for *_, s in placed if isinstance(s, Send)}
        self.maps = [(w, k, s) for w, k, s in placed if not isinstance(s, (Gather, Send))]
        self.dimensions = self.derive()

    def derive(self):
        """The unit of every array."""
        statements = [s for *_, s in (*self.maps, *self.gathers)] + self.all_ends()
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
            quiet = {called(self.net, self.arrays[n]) for n in written_by(s) if self.arrays[n].role in QUIET}
            for line in text.lines(s, taken):
                lines.append(line)
                if line.name in quiet and self.block.active:
                    lines.append(Line(line.name, f"{line.name}*int({self.block.active})"))
        return [*self.given(text, statements), *lines]

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
        found = [self.parameter(a) for a in self.own(name, *HELD)]
        late = [(called(self.net, a), a.unit) for a in self.own(name, "kept")]
        found += [SingleEquation(PARAMETER, f"{key}_line", unit, flags=["linked"]) for key, unit in late]
        totals = [
            (target, e) for s in self.at(name, TRAVEL) for target, e in s.lines if target in self.lowered.travel.parts
        ]
        return found + [self.total(self.arrays[target], e) for target, e in totals]

    def own(self, space, *roles):
        """Arrays of the network itself, by what they are to the neurons of a space."""
        found = [a for n, a in self.arrays.items() if n in self.lowered.own and a.space == space]
        return [a for a in found if a.role in roles]

    def parameter(self, a, *flags):
        """The equation of an array that statements set."""
        return SingleEquation(PARAMETER, called(self.net, a), self.dimensions[a.name], flags=list(flags))

    def total(self, a, e):
        """The equation of what several projections set."""
        text = self.text(a.space).expression(e, a.unit)
        return SingleEquation("subexpression", called(self.net, a), a.unit, expr=Expression(text))

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

    def arrivals(self, name):
        """What arrives at the neurons of ``name`` as it was weighted a step before."""
        maps = [s for s in self.at(name, TRAVEL) if not written_by(s) & self.lowered.travel.parts.keys()]
        return [str(line) for line in self.printed(self.text(name), maps)]

    def starts(self, name, started=()):
        """Lines that set back the state of the neurons of ``name``; those ``started`` hold other numbers than zero."""
        for a in self.own(name, "state", "inlet", "resource", "coming"):
            text = "" if isinstance(a.start, str) else repr(a.start) * (a.start != 0)
            if called(self.net, a) in started:
                text = f"initial_{called(self.net, a)}"
            for part in self.lowered.travel.parts.get(a.name, [a.name]):
                key = called(self.net, self.arrays[part])
                yield Line(key, text) if text else zero(key, a.unit)

    def events(self, name):
        """Events beside spikes, with their conditions."""
        return None

    # --- synapses -----------------------------------------------------------------------------------------------------

    def on_pre(self, p):
        """What a synapse of ``p`` does where a spike arrives; between two steps it is shared by both."""
        s, lowered = self.sends[p.name], self.lowered
        e = at(s.weight) * lowered.ends_of(lowered.words.get(s.source, sympy.Integer(1)), "pre")
        text = self.of_synapses(p.name).expression(e, self.dimensions[s.target])
        adds = f"{called(self.net, self.arrays[s.target])}_post += {text}"
        return (
            {"deliver": f"{adds}*(1 - fraction)", "late": f"{adds}*fraction"}
            if self.divided(p.name)
            else {"deliver": adds}
        )

    def divided(self, name):
        """Whether synapses need two pathways: their delays lie between two steps, or learn."""
        taps = self.sends[name].taps if name in self.sends else None
        return taps is not None and taps.spread is not None

    def synapse_lines(self, p):
        """Equations of what the synapses of ``p`` sum up, for the neurons at either end."""
        found = [s for *_, s in self.gathers if s.link == p.name and s.pre is None]
        arrays = [self.arrays[n] for s in found for n in sorted(read_by(s)) if n in self.arrays]
        own = [a for a in arrays if a.space == p.name and a.role == "feedback"]
        lines = [self.parameter(a, *(["constant"] if a.life is Life.FIXED else [])) for a in own]
        return lines + [line for s in found for line in self.summed(s, self.of_synapses(p.name))]

    def late(self, p):
        """What the synapses of ``p`` read of a line of cells; None where nothing is late."""
        return self.arrays.get(f"{p.name}.signal")

    def summed(self, s, text):
        """Equations of summed variables."""
        for name, e in s.sums:
            key, unit = f"{called(self.net, self.arrays[name])}_{s.onto}", self.dimensions[name]
            yield SingleEquation(
                "subexpression", key, unit, expr=Expression(text.expression(e, unit)), flags=["summed"]
            )

    def schedule(self, synapses):
        """Say when the sums of an object are made."""
        for where, level, s in self.gathers:
            for name in written_by(s) if s.link == synapses.name else ():
                updater = synapses.summed_updaters[f"{called(self.net, self.arrays[name])}_{s.onto}"]
                updater.when, updater.order = ("end", level) if where == END else ("before_synapses", 0)

    def pathways(self, p):
        """What synapses do at events beside spikes."""
        return {}

    def attach(self, p, synapses, mask):
        """When synapses do what they do, and their constants."""
        self.schedule(synapses)
