"""A step program in what Brian2 has: statements of neurons and synapses, and summed variables.

Brian2 sums over synapses, one term into each variable; it has no largest of several neurons, no numbers that belong
to nobody, and delays of whole steps, of spikes.
"""

from collections import Counter
from dataclasses import dataclass, field, replace

import sympy
from brian2.units.fundamentalunits import DIMENSIONLESS

from localplast.backends.brian2.travel import Gather, Travel, read_by, written_by
from localplast.equations.language import int_
from localplast.errors import UnsupportedError
from localplast.program.arrays import ONE, Array, End, Life, Neurons, at
from localplast.program.instructions import Every, Jump, Map, Outer, Reduce, Send

__all__ = ["Lowered", "ends"]


def is_alias(e):
    """Whether an expression is another array, or its negative."""
    return e.is_Symbol or (-e).is_Symbol


@dataclass
class Lowered:
    """A program, put into what Brian2 has.

    Parameters
    ----------
    net : Network
    program : Program
    own : set of str
        The arrays of what the network does, whatever learns.
    home : str or None
        The population of one neuron that holds what all share: the critic.

    Attributes
    ----------
    arrays : dict of str to Array
    statements : list
        ``(number in the program, statement)``.
    ends : dict
        Statements at the end of a ``'trial'``, and of updates.
    dice : str or None
        The array that holds what an input draws.
    """

    net: object
    program: object
    own: set
    home: str | None = None
    arrays: dict = field(default_factory=dict)
    statements: list = field(default_factory=list)
    ends: dict = field(default_factory=dict)

    def __post_init__(self):
        self.spaces, self.arrays = self.program.spaces, dict(self.program.arrays)
        self.words, self.number, self.counted, self.travel = {}, 0, [], Travel(self)
        for name, a in self.program.arrays.items():
            if a.space == ONE and a.trial and a.life is not Life.GIVEN and name not in self.own:
                self.arrays[name] = replace(a, space=self.home)
        sent = [s.target for s in self.program.step if isinstance(s, Send) and s.back]
        self.boxes = {target: (count, []) for target, count in Counter(sent).items() if count > 1}
        for number, s in enumerate(self.program.step):
            self.number = number
            if isinstance(s, Every):
                self.ends[s.when] = self.apart(s.body)
            elif self.learns(s):
                self.lower(s)
            else:
                self.network(s)
        for name in self.counted:
            self.let_go(name)

    def learns(self, s):
        """Whether a statement is no part of what the network does without learning."""
        return bool(written_by(s) - self.own)

    def add(self, s):
        self.statements.append((self.number, s))

    def network(self, s):
        """A statement of the network itself. How long ago a neuron has spiked Brian2 knows; what happens only where
        there is a spike is a Jump, and what that releases is read where it arrives.
        """
        roles = {self.arrays[name].role for name in written_by(s)}
        if "clock" in roles or self.travel.takes(s):
            return
        if "ahead" in roles:
            self.words |= dict(s.lines)
            return
        if "released" in roles:
            (spikes,) = (n for n in read_by(s) if self.arrays[n].events)
            lines = [(name, e.xreplace({at(spikes): sympy.Integer(1)})) for name, e in s.lines]
            self.words |= {name: e for name, e in lines if self.arrays[name].role == "released"}
            s = Jump(s.space, spikes, tuple((name, e) for name, e in lines if name not in self.words))
        self.add(s)

    def apart(self, body):
        """Statements that are run at another time."""
        before, self.statements = self.statements, []
        for s in body:
            self.lower(s)
        found, self.statements = [s for _, s in self.statements], before
        return found

    def declare(self, name, space, unit=DIMENSIONLESS, life=Life.STEP, role=""):
        self.arrays[name] = Array(name, space, life, unit, role=role)
        return at(name)

    def lower(self, s):
        """Add a statement that learns in other words, or remember what is said in place of its array."""
        lower = {Map: self.map, Send: self.send, Outer: self.outer, Reduce: self.reduce}
        lower[type(s)](s)

    # --- what is said otherwise ---------------------------------------------------------------------------------------

    def put(self, e, space):
        """An expression of a space in other words."""
        logs = {sympy.log(at(name)): sympy.log(word) for name, word in self.words.items() if word.is_Pow}
        logs = {k: -sympy.log(v.args[0].base) for k, v in logs.items()}
        e = sympy.sympify(e).xreplace(logs)
        e = e.xreplace({s: self.word(s) for s in e.free_symbols if name_of(s) in self.words})
        return e.xreplace({s: self.heard(s, space) for s in e.free_symbols if self.is_elsewhere(s, space)})

    def word(self, s):
        found = self.words[name_of(s)]
        return self.ends_of(found, s.end) if isinstance(s, End) else found

    def ends_of(self, e, end):
        """An expression of neurons as synapses read it."""
        return ends(e, end, self.arrays)

    def is_elsewhere(self, s, space):
        """Whether a symbol is a number of the critic that others hear."""
        a = self.program.arrays.get(name_of(s))
        return a is not None and a.space == ONE and self.arrays[a.name].space not in (ONE, space)

    def heard(self, s, space):
        """A number of the critic where it is read: every population has a copy."""
        neurons = isinstance(self.spaces[space], Neurons)
        owner = space if neurons else self.spaces[space].post
        if owner != self.home:
            link, copy = f"surprise_{owner}", f"{owner}.learn.{s.name.rpartition('.')[2]}"
            if copy not in self.arrays:
                self.declare(copy, owner)
                self.add(Gather(link, ((copy, End(s.name, "pre")),), self.home, owner))
            s = at(copy)
        return s if neurons else End(s.name, "post")

    # --- neurons and synapses -----------------------------------------------------------------------------------------

    def map(self, s):
        space = self.home if s.space == ONE else s.space
        lets, lines = (tuple((n, self.put(e, space)) for n, e in pairs) for pairs in (s.lets, s.lines))
        if len(lines) == 1 and not lets and not s.adds:
            ((name, e),) = lines
            a = self.arrays[name]
            if a.life is Life.STEP and (is_alias(e) or a.role in ("output", "excess", "feedback", "arrived")):
                self.words[name] = e
                return
        self.add(replace(s, space=space, lets=lets, lines=lines))

    def outer(self, s):
        pair = [self.put(End(name, end), s.link) for name, end in ((s.pre, "pre"), (s.post, "post"))]
        self.add(Map(s.link, (), ((s.into, sympy.Mul(*pair)),), frozenset([s.into])))

    def reduce(self, s):
        """Pairs of neurons in place of what all neurons of a readout make together."""
        e, own = self.put(s.expression, s.space), f"{s.space}.learn.{{}}".format
        if s.op == "softmax":
            total = self.declare(own("normaliser"), s.space)
            self.pairs(
                f"softmax_{s.space}", s.space, total, sympy.exp(self.ends_of(e, "pre") - self.ends_of(e, "post"))
            )
            self.words[s.into] = 1 / total
        elif s.op == "argmax":
            roll, beaten = (self.declare(own(key), s.space) for key in ("roll", "beaten"))
            self.add(Map(s.space, (), ((roll.name, e),)))
            self.pairs("choice", s.space, beaten, int_(self.ends_of(roll, "pre") > self.ends_of(roll, "post")))
            self.words[s.into] = int_(beaten < sympy.Float(0.5))
        elif self.spaces[s.space].size == 1:
            self.words[s.into] = e
        elif e.is_Symbol and self.arrays[e.name].life is Life.GIVEN:
            self.arrays[s.into] = replace(self.arrays[s.into], life=Life.GIVEN, unit=self.arrays[e.name].unit)
        elif self.home is None:
            raise UnsupportedError(
                f"population {s.space!r}: in Brian2 no number is that of a whole population; give every neuron its own "
                "(an array), or use backend='torch'"
            )
        else:
            self.declare(s.into, s.space)
            self.add(Map(s.space, (), ((s.into, e),)))
            total = self.declare(f"{self.home}.learn.income", self.home)
            self.add(Gather("income_sum", ((total.name, End(s.into, "pre")),), s.space, self.home))
            self.words[s.into] = total

    def pairs(self, link, space, total, e):
        """A sum over the pairs of neurons of a space; two that follow each other are one object's."""
        _, last = self.statements[-1]
        sums = ((total.name, e),)
        if isinstance(last, Gather) and (last.pre, last.post) == (space, space):
            self.statements.pop()
            link, sums = last.link, (*last.sums, *sums)
        self.add(Gather(link, sums, space, space))

    # --- what travels -------------------------------------------------------------------------------------------------

    def send(self, s):
        if s.back:
            self.carry(s)
        elif self.arrays[s.target].role == "dice":
            self.arrays[s.target] = replace(self.arrays[s.target], life=Life.GIVEN)
        else:
            self.arrive(s)

    def carry(self, s):
        """A learning signal comes back along a projection, or along feedback of its own."""
        link, weight = self.spaces[s.link], self.words.get(s.weight, at(s.weight))
        target, box = s.target, self.boxes.get(s.target)
        if box:
            target = self.declare(f"{link.pre}.learn.L_from_{link.post}", link.pre, self.arrays[s.target].unit).name
        if s.link in self.net.projections:
            if link.shares:
                raise UnsupportedError(
                    f"projection {s.link!r}: in Brian2 no error comes back through weights that are those of "
                    f"{link.shares!r}; use other feedback, or backend='torch'"
                )
            self.add(Gather(s.link, ((target, weight * End(s.source, "post")),), onto="pre"))
        else:
            own = f"feedback_{link.pre}_from_{link.post}"
            self.add(Gather(own, ((target, weight * End(s.source, "pre")),), link.post, link.pre))
        if box:
            count, terms = box
            terms.append(at(target))
            if len(terms) == count:
                self.add(Map(link.pre, (), ((s.target, sympy.Add(*terms)),)))

    def arrive(self, s):
        """What arrives at traces: spikes are counted where they arrive, and once more a step later where delays lie
        between two steps.
        """
        a = self.arrays[s.target]
        name = a.name.rpartition(".")[0]
        p = self.net.projections[name]
        past, fraction = f"{name}.past", f"{name}.fraction"
        if p.transmission == "graded":
            self.words[a.name] = self.travel.signals[name]
            return
        came = at(f"{name}.arrived")
        if s.slopes:
            self.declare(past, a.space, life=Life.STATE)
            self.words[a.name] = at(past) - came
            return
        self.declare(a.name, a.space, life=Life.STATE)
        if s.taps and s.taps.spread:
            self.declare(past, a.space, life=Life.STATE)
            self.arrays[fraction] = Array(fraction, a.space, Life.FIXED, trial=False, role="fraction")
            self.words[a.name] = came + at(fraction) * (at(past) - came)
        self.counted.append(name)

    def let_go(self, name):
        """What has arrived has been read: remember it for a step, where that is asked for, and count anew."""
        a = self.arrays[f"{name}.arrived"]
        if f"{name}.past" in self.arrays:
            self.add(Map(a.space, (), ((f"{name}.past", at(a.name)),)))
        self.add(Map(a.space, (), ((a.name, sympy.Integer(0)),)))


def name_of(s):
    return s.array if isinstance(s, End) else s.name


def ends(e, end, arrays):
    """An expression of neurons as synapses read it at one of their ends."""
    own = [s for s in e.free_symbols if not isinstance(s, End) and s.name in arrays and arrays[s.name].space != ONE]
    return e.xreplace({s: End(s.name, end) for s in own})
