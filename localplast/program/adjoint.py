"""The adjoint of a step program: another step program, run from the last step to the first.

Statements are taken backwards, each leaves one or two. The gradient of an array ``a`` is the array ``d_a``; that of
what is recorded is given. Where a derivative depends on values, the program that runs forward keeps their *histories*.

Two analyses make it right, and cheap. *Activity*: only what lies between what is wanted and what is given has a
gradient. *Zeros*: what a statement overwrites has no gradient left before it; a state without gradient at the end of
the reversed step has none at its start either, which is found by going round until nothing changes.
"""

from collections import defaultdict
from dataclasses import replace

import sympy

from localplast.equations.expressions import differentiate
from localplast.equations.rewriting import renamed, symbols_in
from localplast.equations.slopes import DT, grows, where_finite
from localplast.program.arrays import Array, Life, at
from localplast.program.instructions import Fire, Jump, Map, Outer, Reduce, Send, arrays_in, writes
from localplast.program.passes import merged, trimmed, with_parts
from localplast.program.program import Program

__all__ = ["adjoint", "mark_of"]

ZERO = sympy.Integer(0)


def adjoint(program, wanted):
    """``(forward, backward)``: the program that keeps histories, and its adjoint.

    Parameters
    ----------
    program : Program
        Its seen arrays have gradients, which are given: ``d_out.output.seen`` in every step; of what is summed up over
        a trial one for all steps.
    wanted : iterable of str
        Arrays without an axis of trials, such as ``'rec_rec.weight'``, ``'rec.tau_mem'``, ``'rec_rec.delay'``: the
        sums ``d_rec_rec.weight`` and so on. That of a number which neurons share comes per neuron; that of synaptic
        delays without the factor of the weight.
    """
    program, silent = program.with_step(merged(program.step)), frozenset()
    while True:
        found = Adjoint(program, frozenset(wanted), silent)
        found.write()
        if (left := found.silent_states()) == silent:
            return found.programs()
        silent = left


def mark_of(program):
    """What stands before a name in that of its gradient: ``d_``, or more where something is called so already."""
    mark = "d_"
    while any(name.startswith(mark) for name in (*program.arrays, *program.spaces)):
        mark += "_"
    return mark


class Adjoint:
    """One pass backwards; ``silent``: states whose gradient is zero when a reversed step begins."""

    def __init__(self, program, wanted, silent):
        self.program, self.wanted = program, wanted
        self.clocks = {at(a.name): DT for a in program.arrays.values() if a.role == "step"}
        self.overflowing = {s.space for s in program.step if self.may_overflow(s)}
        self.active = active(program, wanted)
        self.arrays, self.mark = dict(program.arrays), mark_of(program)
        states = {n for n in self.active if program.arrays[n].life is Life.STATE}
        self.zero = (self.active - states) | (silent & self.active)
        self.keeps, self.back = defaultdict(list), []

    def write(self):
        rules = {Map: self.map, Fire: self.fire, Jump: self.jump, Send: self.send, Reduce: self.reduce}
        for number in range(len(self.program.step) - 1, -1, -1):
            s = self.program.step[number]
            if type(s) in rules:
                rules[type(s)](number, s)

    def silent_states(self):
        """States whose gradient is zero now."""
        return frozenset(n for n in self.zero if self.program.arrays[n].life is Life.STATE)

    def programs(self):
        forward = list(self.keeps[0])
        for number, s in enumerate(self.program.step, 1):
            forward += [s, *self.keeps[number]]
        spaces, own = self.program.spaces, self.program.arrays
        kept = {n: a for n, a in self.arrays.items() if n in own or a.life is Life.HISTORY}
        backward = tuple(s for s in self.back if writes(s))
        return Program(spaces, kept, tuple(forward)), Program(spaces, self.arrays, backward)

    # --- names --------------------------------------------------------------------------------------------------------

    def gradient(self, name):
        """The name of the array that holds the gradient of ``name``."""
        made, of = f"{self.mark}{name}", self.program.arrays[name]
        if made not in self.arrays:
            life = of.life if of.life in (Life.STATE, Life.STEP) else Life.SUM
            trial = life is not Life.SUM
            self.arrays[made] = Array(made, of.space, life, of.unit**-1, trial, role="gradient")
        return made

    def neuronal(self, name, space):
        """As :meth:`gradient`, of a number that neurons share: per neuron of ``space``."""
        made, of = f"{self.mark}{name}", self.program.arrays[name]
        self.arrays.setdefault(made, Array(made, space, Life.SUM, of.unit**-1, False, role="gradient"))
        return made

    def coming(self, name, summed=False):
        """What is known of the gradient of ``name`` at this point, an expression."""
        of = self.program.arrays[name]
        if of.life is Life.SEEN:
            made, life = f"{self.mark}{name}", Life.FIXED if summed else Life.GIVEN
            self.arrays.setdefault(made, Array(made, of.space, life, of.unit**-1, role="gradient"))
            return at(made)
        return ZERO if name in self.zero or name not in self.active else at(self.gradient(name))

    def kept(self, name, number):
        """The symbol of ``name`` as statement ``number`` finds it: of its history, if it changes."""
        of = self.program.arrays[name]
        if of.life in (Life.FIXED, Life.GIVEN, Life.LEARNED):
            return at(name)
        last = max((n + 1 for n in range(number) if name in writes(self.program.step[n])), default=0)
        made = f"{name}.after{last}"
        if made not in self.arrays:
            self.arrays[made] = Array(made, of.space, Life.HISTORY, of.unit, events=of.events, role="history")
            self.keeps[last].append(Map(of.space, (), ((made, at(name)),)))
        return at(made)

    def values(self, expressions, s, number):
        """What stands for the names in ``expressions``: histories of arrays, and the lets that are needed.

        A function that an array was set to is not computed again: the history of that array has it.
        """
        set_to = {e: k for k, e in s.lines if k not in s.adds} if isinstance(s, Map) else {}
        needed, histories = {}, {}
        for name, e in reversed(getattr(s, "lets", ())):
            if any(at(name) in symbols_in(x) for x in (*expressions, *needed.values())):
                result = set_to.get(at(name))
                if e.is_Function and result and self.program.arrays[result].life in (Life.STATE, Life.STEP):
                    histories[at(name)] = self.kept(result, number + 1)
                else:
                    needed[name] = e
        names = {n for e in (*expressions, *needed.values()) for n in arrays_in(e)} & set(self.program.arrays)
        histories |= {at(n): self.kept(n, number) for n in sorted(names)}
        return histories, [(n, renamed(e, histories)) for n, e in reversed(needed.items())]

    # --- rules --------------------------------------------------------------------------------------------------------

    def map(self, number, s):
        """Reverse accumulation over the lets: linear in their number."""
        s = with_parts(s, frozenset(self.active))
        targets = {k: e for k, e in s.lines if k in self.active}
        lets, total = [], defaultdict(list)
        for k, e in targets.items():
            self.spread(e, self.coming(k, k in s.adds), total)
        for name, e in reversed(s.lets):
            if parts := total.pop(at(name), None):
                made = f"{self.mark}{name}"
                lets.append((made, sympy.Add(*parts)))
                self.spread(e, at(made), total, at(name))
        slopes = {x: sympy.Add(*parts) for x, parts in total.items()}
        overwritten = {k for k in targets if self.program.arrays[k].life is not Life.SEEN and k not in s.adds}
        self.account(number, s, lets, slopes, overwritten)

    def spread(self, expression, weight, total, name=None):
        """Add ``weight`` times the derivative of ``expression`` to the ``total`` of every symbol in it.

        Where a derivative holds the expression itself stands its ``name``.
        """
        if weight == 0:
            return
        plain = renamed(expression, self.clocks)
        clock = next((clock for clock in self.clocks if expression.has(clock)), DT)
        still = self.program.arrays.keys() - self.active - self.wanted
        for x in sorted((x for x in symbols_in(expression) if x.name not in still), key=lambda x: x.name):
            slope = differentiate(plain, x)
            if slope != 0:
                slope = renamed(slope, {DT: clock})
                total[x].append(weight * (slope.xreplace({expression: name}) if name else slope))

    def account(self, number, s, lets, slopes, overwritten):
        """The Map that carries ``slopes``, by symbol, to gradients; what was ``overwritten`` keeps nothing else."""
        lines, adds, guarded = {}, set(), getattr(s, "lets", ()) and s.space in self.overflowing
        guard = sympy.Add(*(e for _, e in s.lines)) if guarded else None
        for x, slope in slopes.items():
            slope = slope if guard is None else where_finite(slope, guard)
            if x.name in self.wanted:
                adds.add(self.neuronal(x.name, s.space))
                lines[f"{self.mark}{x.name}"] = slope
            elif x.name in self.active and slope != 0:
                own = ZERO if x.name in overwritten else self.coming(x.name)
                lines[self.gradient(x.name)] = own + slope
        self.zero |= {k for k in overwritten if f"{self.mark}{k}" not in lines}
        self.zero -= {x.name for x in slopes if f"{self.mark}{x.name}" in lines}
        changed = tuple((n, e) for n, e in lines.items() if e != at(n))
        if found := trimmed(Map(s.space, tuple(lets), changed, frozenset(adds)), dict(changed).keys()):
            histories, before = self.values([e for _, e in (*found.lets, *changed)], s, number)
            own, new = ([(n, renamed(e, histories)) for n, e in pairs] for pairs in (found.lets, changed))
            self.back.append(replace(found, lets=(*before, *own), lines=tuple(new)))

    def may_overflow(self, s):
        """Whether an update of spiking neurons may give no number, which a reset ends."""
        spiking = any(isinstance(q, Fire) and q.space == getattr(s, "space", None) for q in self.program.step)
        nodes = (node for _, e in getattr(s, "lets", ()) for node in sympy.preorder_traversal(renamed(e, self.clocks)))
        return spiking and any(map(grows, nodes))

    def fire(self, number, s):
        if s.psi is None or self.coming(s.spikes) == 0:
            self.zero.add(s.spikes)
            return
        passed, total = self.kept(s.slope, number + 1) * self.coming(s.spikes), defaultdict(list)
        self.spread(s.argument, passed, total)
        self.zero.add(s.spikes)
        self.account(number, s, [], {x: sympy.Add(*parts) for x, parts in total.items()}, set())

    def jump(self, number, s):
        targets = {k: e for k, e in s.lines if k in self.active and self.coming(k) != 0}
        if not targets:
            return
        spikes = self.kept(s.spikes, number)
        total, size = defaultdict(list), ZERO
        for k, e in targets.items():
            change = e - at(k)
            size += (where_finite(change, change) if s.space in self.overflowing else change) * self.coming(k)
            self.spread(e, self.coming(k), total)
        slopes = {x: sympy.Add(*parts) for x, parts in total.items()}
        outside = {x: spikes * e for x, e in slopes.items() if x.name in self.wanted}
        if not s.cut and s.spikes in self.active:
            outside[at(s.spikes)] = size
        if outside:
            self.account(number, s, [], outside, set())
        lines = {}
        for x in {at(k) for k in targets} | set(slopes):
            if x.name in self.active and x.name not in self.wanted and x != at(s.spikes):
                own = ZERO if x.name in targets else self.coming(x.name)
                lines[x.name] = own + slopes.get(x, ZERO)
        histories, _ = self.values(list(lines.values()), s, number)
        lines = {self.gradient(n): renamed(e, histories) for n, e in lines.items()}
        lines = {n: e for n, e in lines.items() if e != at(n)}
        self.begin_at_zero(s, lines)
        if lines:
            self.back.append(Jump(s.space, spikes.name, tuple(sorted(lines.items())), cut=True))

    def begin_at_zero(self, s, lines):
        """A gradient that only spiking neurons have begins at zero for all others."""
        fresh = [n for n in lines if n.removeprefix(self.mark) in self.zero]
        if fresh:
            self.back.append(Map(s.space, (), tuple((n, ZERO) for n in fresh)))
            self.zero -= {n.removeprefix(self.mark) for n in fresh}

    def send(self, number, s):
        coming = self.coming(s.target)
        if coming == 0:
            return
        link = self.program.spaces[s.link]
        if s.weight in self.wanted:
            source = self.kept(s.source, number).name
            self.back.append(Outer(s.link, source, coming.name, self.gradient(s.weight), s.taps))
        if s.taps and s.taps.delay in self.wanted:
            self.arrays.setdefault(f"{self.mark}{s.taps.delay}", self.of_delay(s, link))
            source = self.kept(s.source, number).name
            self.back.append(Outer(s.link, source, coming.name, f"{self.mark}{s.taps.delay}", s.taps, slopes=True))
        if not s.cut and s.source in self.active:
            into, add = self.gradient(s.source), s.source not in self.zero
            self.back.append(Send(s.link, coming.name, into, s.feedback or s.weight, s.taps, add, not s.back))
            self.zero.discard(s.source)
        if not s.add:
            self.zero.add(s.target)

    def of_delay(self, s, link):
        """The gradient of delays: per neuron of a line, or per synapse."""
        name = f"{self.mark}{s.taps.delay}"
        return Array(name, link.pre if s.weight is None else link.name, Life.SUM, trial=False, role="gradient")

    def reduce(self, number, s):
        """Of a sum; which of them is the largest has no derivative."""
        if s.op == "argmax":
            self.zero.add(s.into)
            return
        total = defaultdict(list)
        self.spread(s.expression, self.coming(s.into), total)
        self.account(number, s, [], {x: sympy.Add(*parts) for x, parts in total.items()}, set())


def active(program, wanted):
    """Arrays between what is ``wanted`` and what is seen: all that has a gradient worth knowing."""
    links = {pair for s in program.step for pair in flows(s)}
    seen = {a.name for a in program.of(Life.SEEN)}
    found = reached(set(wanted), links) & reached(seen, {(b, a) for a, b in links})
    return {n for n in found if program.arrays[n].life in (Life.STATE, Life.STEP, Life.SEEN)}


def flows(s):
    """Pairs of arrays through which a gradient may pass."""
    if isinstance(s, Map):
        deep = {}
        for name, e in s.lets:
            deep[name] = expand(e, deep)
        return {(a, k) for k, e in s.lines for a in expand(e, deep)} | {(k, k) for k in s.adds}
    if isinstance(s, Fire):
        return set() if s.psi is None else {(a, s.spikes) for a in arrays_in(s.argument, stopped=False)}
    if isinstance(s, Jump):
        return {(a, k) for k, e in s.lines for a in (*arrays_in(e, stopped=False), k, *([] if s.cut else [s.spikes]))}
    if isinstance(s, Send):
        sources = [s.weight, s.taps.delay if s.taps and s.taps.spread else None, None if s.cut else s.source]
        return {(a, s.target) for a in sources if a}
    if isinstance(s, Reduce) and s.op != "argmax":
        return {(a, s.into) for a in arrays_in(s.expression, stopped=False)}
    return set()


def expand(expression, lets):
    """Arrays that an expression depends on, through lets too."""
    names = arrays_in(expression, stopped=False)
    return {a for n in names for a in lets.get(n, {n})}


def reached(start, links):
    """Everything reachable along ``links``."""
    after = defaultdict(set)
    for a, b in links:
        after[a].add(b)
    found, todo = set(start), list(start)
    while todo:
        new = after[todo.pop()] - found
        found |= new
        todo += new
    return found
