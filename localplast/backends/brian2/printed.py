"""Statements of a program as lines of Brian2 text."""

import itertools
from collections import Counter
from dataclasses import dataclass

import sympy

from localplast.backends.brian2.names import called
from localplast.backends.brian2.text import Line
from localplast.equations.language import Draw as RandomCall
from localplast.equations.language import symbol
from localplast.equations.text import fit, measured, to_text
from localplast.program.arrays import ONE, End, Life, at
from localplast.program.instructions import Draw, Fire, Jump
from localplast.program.units import of_ends

__all__ = ["Text", "in_order"]

#: In place of infinity, which -ffast-math rules out; Brian2 writes fifteen digits, and would round a larger one up to it.
LARGEST = {sympy.oo: sympy.Float(1e308), -sympy.oo: sympy.Float(-1e308)}


def in_order(s):
    """A Map or a Jump as assignments one after the other: ``(name, expression, whether a let)``.

    A let that a line gives its array is that array, unless somebody reads what the array was; a let that is another
    name for what is known already is left out.
    """
    if isinstance(s, Jump):
        return one_by_one(s.lines)
    targets, known, made, done, found = given_by(s), {}, {}, set(), []
    for name, e in s.lets:
        e, target = e.xreplace(known), targets.get(name)
        e = made.get(e, e)
        if not target and e.is_Symbol and e.name not in dict(s.lines):
            known[at(name)] = e
            continue
        found.append((target or name, e, target is None))
        known[at(name)] = at(target or name)
        if target:
            done.add(target)
            made = {k: x for k, x in made.items() if at(target) not in k.free_symbols}
        if not e.has(RandomCall):  # which is another number each time
            made[e] = known[at(name)]
    lines = [(n, e.xreplace(known)) for n, e in s.lines if n not in done]
    return found + one_by_one([(n, e) for n, e in lines if n in s.adds or e != at(n)])


def given_by(s):
    """The arrays that lets may be called by, by let."""
    lets, reading = dict(s.lets), Counter(x.name for _, e in (*s.lets, *s.lines) for x in e.free_symbols)
    found = {}
    for name, e in s.lines:
        if e.is_Symbol and e.name in lets and name not in s.adds and e.name not in found:
            before = list(lets)[: list(lets).index(e.name) + 1]
            earlier = sum(lets[k].has(at(name)) for k in before)
            if reading[name] == earlier:
                found[e.name] = name
    return found


def one_by_one(lines):
    """Lines of old values, in turn: an array that a later one reads is set last, for what is remembered of an array in
    Brian2 may be that array itself.
    """
    found, last = [], []
    for number, (name, e) in enumerate(lines):
        if any(x.has(at(name)) for _, x in lines[number + 1 :]):
            new = f"{name}:next"
            found.append((new, e, True))
            last.append((name, at(new), False))
        else:
            found.append((name, e, False))
    return found + last


@dataclass(frozen=True)
class Text:
    """The text of statements of one Brian2 object: of a group, or of synapses between two.

    Parameters
    ----------
    net, values : Network, Values
    arrays : dict of str to Array
    dimensions : dict of str to Dimension
        Of all arrays.
    space : str
        Whose arrays are the object's own.
    pre, post : str or None
        Of synapses: the groups that they connect.
    words : dict of str to str or expression
        Arrays that are called otherwise.
    """

    net: object
    values: object
    arrays: dict
    dimensions: dict
    space: str
    pre: str | None = None
    post: str | None = None
    words: dict | None = None

    def expression(self, e, wanted):
        """One expression, in the unit that is wanted."""
        return to_text(self.spelled(e, self.dimensions, wanted))

    def spelled(self, e, known, wanted, names=None):
        """An expression with the names of Brian2, and with units."""
        words = {s: symbol(names[s.name]) if s.name in (names or ()) else self.called(s) for s in e.free_symbols}
        e = e.xreplace(LARGEST | {s: word for s, word in words.items() if word.is_number})
        return fit(e, of_ends(e, known), wanted).xreplace(words)

    def lines(self, s, taken):
        """A statement of neurons or synapses, line by line; other names than the ``taken`` ones are made, and added to
        them.
        """
        if isinstance(s, Fire):
            return self.spikes(s, taken)
        if isinstance(s, Draw):
            return [Line(to_text(self.called(at(s.into))), "randn()", local=True)]
        known, names, found = dict(self.dimensions), {}, []
        for name, e, local in in_order(s):
            if local:
                known[name] = measured(e, of_ends(e, known))[1]
                names[name] = self.local(name, taken)
            text = to_text(self.spelled(e, known, known[name], names))
            target = names[name] if local else to_text(self.called(at(name)))
            short = self.is_short(name, local)
            found.append(Line(target, text, name in getattr(s, "adds", ()), local or short))
        return found

    def spikes(self, s, taken):
        """1 where a neuron spikes, else 0: Brian2's sympy cannot compare all that it can compute."""
        _, unit = measured(s.argument, of_ends(s.argument, self.dimensions))
        x, zero = symbol(self.local(s.x, taken)), to_text(sympy.Integer(0), {}, unit)
        ready = [] if s.ready == 1 else [f"int({to_text(self.called(s.ready))})"]
        fired = "*".join([f"int({x} {'>' if s.strict else '>='} {zero})", *ready])
        return [
            Line(x.name, self.expression(s.argument, unit), local=True),
            Line(self.called(at(s.spikes)).name, fired),
        ]

    def is_short(self, name, local):
        """Whether an array is of no use but in this text: a value of synapses in a step."""
        return local or (self.pre is not None and self.arrays[name].life is Life.STEP)

    def local(self, name, taken):
        """What a let is called."""
        key = name.rpartition(".")[2].partition(":")[0]
        made = f"_{key}" if not key.startswith("_") else key
        found = next(n for n in itertools.chain([made], (f"{made}_{k}" for k in itertools.count(2))) if n not in taken)
        taken.add(found)
        return found

    def called(self, s):
        """The Brian2 symbol of an array, or a number of another population."""
        name, end = (s.array, s.end) if isinstance(s, End) else (s.name, None)
        a, owner = self.arrays[name], name.partition(".")[0]
        word = (self.words or {}).get(name) or called(self.net, a)
        if not isinstance(word, str):
            return word
        if end and a.role in ("bound", "fraction"):  # synapses have these themselves
            return symbol(word if a.role == "bound" else "fraction")
        if end:
            return symbol(f"{word}_{end}")
        if a.space != ONE or owner in (self.space, *self.net.projections) or a.life is not Life.FIXED:
            return symbol(word)
        if word == "dt":
            return symbol(word)
        if owner in (self.post, self.pre):
            return symbol(f"{word}_{'post' if owner == self.post else 'pre'}")
        return sympy.Float(float(self.values.parameters[owner][word]))
