"""Step programs (:mod:`localplast.program`), run plainly: statement by statement, batched, differentiable.

The oracle of generated code, and of adjoint programs: what runs forward here has a derivative by automatic
differentiation, which the adjoint program must equal.
"""

import functools
from dataclasses import dataclass, field

import sympy
import torch

from localplast.backends.torch.synapses import as_vector, masked, neurons_of
from localplast.backends.torch.transport import carrier
from localplast.equations.tape import Tape
from localplast.program.arrays import End, Kernel, Life, One, Sparse, Synapses
from localplast.program.instructions import Draw, Every, Fire, Jump, Map, Outer, Reduce, Send, reads, writes

__all__ = ["Interpreter", "Trace", "numbers"]


def numbers(net, program, tensors, masks, feedback=None, more=None):
    """The numbers of a program's arrays, from those of :func:`~localplast.backends.torch.step.leaves`.

    Parameters
    ----------
    masks : dict of str to bool array ``(pre, post)``
    feedback : dict of str to tensor or array ``(pre, post)``
        By link.
    more : dict of str to array
        Of other arrays (:func:`localplast.program.online.online`).
    """
    found, like = {}, next(iter(tensors.values()))
    for array in program.of(Life.FIXED, Life.LEARNED):
        owner, key = array.name.split(".", 1)
        if array.name in (more or {}):
            number = more[array.name]
            found[array.name] = number if isinstance(number, float) else torch.as_tensor(number).to(like)
        elif array.role == "step":
            found[array.name] = float(net.dt)
        elif array.role == "optimiser":
            found[array.name] = like.new_zeros(())
        elif array.role == "feedback":
            found[array.name] = torch.as_tensor(feedback[array.name.removesuffix(".feedback")]).to(like)
        elif array.role == "weight":
            found[array.name] = masked(tensors[array.name], program.spaces[owner].form, masks[owner])
        elif not array.trial:
            found[array.name] = tensors[
                f"{owner}.{key.removesuffix('.start')}" if array.role == "start" else array.name
            ]
    return {n: of_synapses(x, program.spaces[program.arrays[n].space], masks) for n, x in found.items()}


def of_synapses(x, space, masks):
    """Numbers of a space; of few synapses without those of which there are none."""
    few = isinstance(getattr(space, "form", None), Sparse) and torch.is_tensor(x)
    return as_vector(x, masks[space.name]) if few else x


@dataclass
class Trace:
    """What a program left behind.

    Attributes
    ----------
    seen : dict of str to tensor ``(time, trial, neuron)``, or ``(trial, neuron)`` where it is summed up
    histories : dict of str to list of tensor ``(trial, neuron)``
        In the order of time.
    sums : dict of str to tensor, without an axis of trials
    learned : dict of str to tensor
        What has changed within the trials.
    """

    seen: dict = field(default_factory=dict)
    histories: dict = field(default_factory=dict)
    sums: dict = field(default_factory=dict)
    learned: dict = field(default_factory=dict)


class Spike(torch.autograd.Function):
    """Heaviside step whose derivative is given: forward ``argument > 0``, backward ``psi``."""

    @staticmethod
    def forward(ctx, argument, psi, strict):
        ctx.save_for_backward(psi)
        return (argument > 0 if strict else argument >= 0).to(argument.dtype)

    @staticmethod
    def backward(ctx, grad):
        (psi,) = ctx.saved_tensors
        return grad * psi, None, None


class Interpreter:
    """A program, with its numbers.

    Parameters
    ----------
    program : Program
    numbers : dict of str to tensor or float
        Of all arrays that are fixed or learned.
    fixed : bool
        Whether weights stay as they are while trials go on: what inputs deliver is then one product for all steps.

    Attributes
    ----------
    values : dict of str to tensor
        Every array as it is now.
    """

    def __init__(self, program, numbers, *, fixed=False):
        self.program, self.numbers, self.fixed, self.values = program, dict(numbers), fixed, {}
        self.like = next(v for v in numbers.values() if torch.is_tensor(v))
        self.shapes = {a.name: self.shape(a.space) for a in program.arrays.values()}
        self.stepped = [a.name for a in program.of(Life.GIVEN)]
        ends = [s for s in program.step if isinstance(s, Every)]
        self.step = [runner(s, self) for s in program.step if not isinstance(s, Every)]
        self.ends = [runner(s, self) for every in ends if every.when == "trial" for s in every.body]
        self.updates = [Update(every, self) for every in ends if every.when != "trial"]
        self.moving = [n for n in self.shapes if any(n in update.moving for update in self.updates)]

    def shape(self, space):
        """Of an array without an axis of trials."""
        found = self.program.spaces[space]
        if isinstance(getattr(found, "form", None), Kernel):
            return found.form.convolution.shape
        if isinstance(getattr(found, "form", None), Sparse):
            return found.form.pre.shape
        if isinstance(found, Synapses):
            return (*self.shape(found.pre), *self.shape(found.post))
        return (1,) if isinstance(found, One) else (found.size,)

    def run(self, given, *, backwards=False, trace=None, dice=None, on_step=None):
        """Run trials from start to end.

        Parameters
        ----------
        given : dict of str to tensor ``(time, trial, neuron)``, ``(time,)`` where trials share it
            Of all arrays that are given (a time axis of 1: the same in every step; numbers that are no tensors are used
            as they are); of fixed arrays of each trial ``(trial, neuron)``.
        backwards : bool
            From the last step to the first, reading the histories of ``trace``.
        dice : torch.Generator
            For what is drawn.
        on_step : callable
            Called at the end of each step, with its number.
        """
        steps = self.start(given, trace, dice)
        seen = {a.name: [] for a in self.program.of(Life.SEEN)}
        for t in range(steps - 1, -1, -1) if backwards else range(steps):
            self.advance(t)
            for update in self.updates:
                if update.due(t, steps):
                    update.run()
            for name, found in seen.items():
                found.append(self.values[name])
            if on_step:
                on_step(t)
        for runs in self.ends:
            runs()
        totals = {n for s in self.program.step for n in getattr(s, "adds", ())}
        self.trace.seen = {n: v[-1] if n in totals else torch.stack(v) for n, v in seen.items()}
        self.trace.sums = {a.name: self.values[a.name] for a in self.program.of(Life.SUM)}
        self.trace.learned = {n: self.values[n] for n in self.moving}
        return self.trace

    def update(self, given):
        """Let everything learn once, of what is ``given``, by array, no trial running; returns what has changed."""
        self.values = {**self.numbers, **given}
        for update in self.updates:
            update.run()
        found = {n: self.values[n] for n in self.moving}
        self.values = {}  # gradients are not kept until the next ones
        return found

    def start(self, given, trace=None, dice=None):
        """Begin trials; returns their number of steps."""
        self.steps, self.trials = max(v.shape[:2] for v in given.values() if getattr(v, "ndim", 0) == 3)
        self.given, self.dice, self.trace = given, dice, trace or Trace()
        self.histories = dict(self.trace.histories)
        self.values = {**self.numbers, **given}
        self.values |= {a.name: self.begin(a) for a in self.program.of(Life.STATE, Life.SUM, Life.SEEN)}
        #: what is known of all steps
        self.ahead = {n: given[n] for n in self.stepped if getattr(given[n], "ndim", 0) == 3} if self.fixed else {}
        for runs in self.step:
            runs.start(self.steps)
        return self.steps

    def begin(self, array):
        start = self.numbers[array.start] if isinstance(array.start, str) else array.start
        shape = self.shapes[array.name]
        return self.tensor(start).expand((self.trials, *shape) if array.trial else shape)

    def advance(self, t):
        """One time step, number ``t`` of the trial."""
        self.begin_step(t)
        for runs in self.step:
            runs()

    def begin_step(self, t):
        """Take in what is given in step ``t``."""
        self.t = t
        for name in self.stepped:
            along = self.given[name]
            now = along[t if len(along) > 1 else 0]
            # spikes are numbers: a bool times a number of its own would be single precision
            self.values[name] = now.to(self.like.dtype) if torch.is_tensor(now) else now
        for name, along in self.histories.items():
            self.values[name] = along[t]

    def learn(self, numbers):
        """Go on with other ``numbers`` of what learns."""
        self.numbers.update(numbers)

    def read(self, name):
        """An array as it is now."""
        return self.values[name]

    def tensor(self, value):
        """A number as a tensor (of a type of its own it would be single precision first)."""
        return torch.as_tensor(value, dtype=self.like.dtype, device=self.like.device)

    def full(self, name, value):
        """A value for every member of an array's space, in every trial."""
        return self.tensor(value).expand(self.trials, *self.shapes[name])


class Update:
    """What happens every so many steps, and at the end of a trial; the sums that it reads begin anew."""

    def __init__(self, every, engine):
        self.every, self.engine = every, engine
        self.body = [runner(s, engine) for s in every.body]
        self.sums = [n for n in reads(every) if engine.program.arrays[n].life is Life.SUM]
        self.moving = {n for n in writes(every) if engine.program.arrays[n].life is Life.LEARNED}

    def due(self, t, steps):
        """Whether it is time, after step ``t`` of so many."""
        return (t + 1) % self.every.when == 0 or t + 1 == steps

    def run(self):
        for runs in self.body:
            runs()
        for name in self.sums:
            self.engine.values[name] = torch.zeros_like(self.engine.values[name])


def runner(s, engine):
    """What runs one statement."""
    kinds = {Map: Maps, Fire: Fires, Jump: Jumps, Send: Sends, Outer: Outers, Reduce: Reduces, Draw: Draws}
    return kinds[type(s)](s, engine)


class Runner:
    """One statement, its expressions ready to be computed."""

    def __init__(self, s, engine):
        self.s, self.engine, self.program = s, engine, engine.program
        self.tapes = {}
        self.prepare()

    def prepare(self):
        """Make tapes."""

    def start(self, steps):
        """Begin trials of so many steps."""

    def tape(self, key, lines):
        """Expressions to be computed; what is known of them is computed now, of synapses if it is a plain number."""
        # learning rates may fall from one run to the next
        fixed = {a.name for a in self.program.of(Life.FIXED) if a.role != "rate"}
        known = {n: x for n, x in self.engine.numbers.items() if n in fixed}
        if self.at_synapses:
            known = {n: x for n, x in known.items() if isinstance(x, float)}
        self.tapes[key] = Tape(lines, known)
        if self.at_synapses:
            form = self.program.spaces[self.s.space].form
            few = isinstance(form, Sparse)
            pre, post = neurons_of(form, self.engine.like.device) if few else (None, None)
            self.neurons = {"pre": pre, "post": post} if few else None
            symbols = {x for _, e in lines for x in sympy.sympify(e).free_symbols}
            self.ends = {x.name: (x.array, x.end) for x in symbols if isinstance(x, End)}
            self.plain = [n for n in self.tapes[key].slots if n not in self.ends]
            self.shared = {n for n in self.plain if not few and self.is_shared(n)}

    @property
    def at_synapses(self):
        return isinstance(self.program.spaces.get(getattr(self.s, "space", None)), Synapses)

    def known(self):
        """The names that expressions read, and their values."""
        values = self.engine.values
        if not self.at_synapses:
            return values
        found = {n: beside(values[n]) if n in self.shared else values[n] for n in self.plain if n in values}
        found.update((n, self.at_end(values[array], end)) for n, (array, end) in self.ends.items())
        return found

    def is_shared(self, name):
        """Whether a name is that of a number that all synapses share."""
        array = self.program.arrays.get(name)
        return array is not None and isinstance(self.program.spaces[array.space], One)

    def at_end(self, value, end):
        """Numbers of neurons as synapses read them: ``(trial, pre, 1)`` or ``(trial, 1, post)``; ``(trial, synapse)``
        where these are few.
        """
        if not torch.is_tensor(value):
            return value
        return at_end(value, end) if self.neurons is None else value[..., self.neurons[end]]


def beside(value):
    """What all synapses share, ``(trial, 1)``, beside ``(pre, post)``."""
    return value.unsqueeze(-1) if torch.is_tensor(value) and value.ndim == 2 else value


def at_end(value, end):
    return value.unsqueeze(-1) if end == "pre" else value.unsqueeze(-2) if value.ndim > 1 else value


class Maps(Runner):
    """Lines of all members of a space at once."""

    def prepare(self):
        self.tape("lines", [*self.s.lets, *((f"new {n}", e) for n, e in self.s.lines)])
        self.lines = [(n, f"new {n}", self.program.arrays[n], n in self.s.adds) for n, _ in self.s.lines]
        firing = any(isinstance(q, Fire) and q.space == self.s.space for q in self.program.step)
        self.may_overflow = firing and bool(self.s.lets) and not any(a.life is Life.HISTORY for *_, a, _ in self.lines)

    def __call__(self):
        engine, known = self.engine, self.known()
        found = self.tapes["lines"](known)
        if self.may_overflow and torch.is_grad_enabled():
            found = self.without_overflow(found, known)
        for name, new, array, add in self.lines:
            value = found[new]
            if array.trial or array.life is Life.SUM:
                value = engine.full(name, value)
            if array.life is Life.SUM:
                value = value.sum(0)
            if array.life is Life.HISTORY:
                engine.trace.histories.setdefault(name, []).append(value)
            else:
                engine.values[name] = engine.values[name] + value if add else value

    def without_overflow(self, found, known):
        """The same numbers; where one has overflowed, which a spike's reset may end, no gradient passes."""
        new = [x for _, key, *_ in self.lines if torch.is_tensor(x := found[key])]
        if all(bool(torch.isfinite(x).all()) for x in new):
            return found
        lost = functools.reduce(torch.logical_or, (~torch.isfinite(x) for x in new))
        states = [a for a in self.program.of(Life.STATE) if a.space == self.s.space and isinstance(a.start, str)]
        rest = {a.name: torch.where(lost, self.engine.numbers[a.start].detach(), known[a.name]) for a in states}
        again = self.tapes["lines"]({**known, **rest})
        return {k: torch.where(lost, x.detach(), again[k]) if torch.is_tensor(x) else x for k, x in found.items()}


class Fires(Runner):
    """Thresholds."""

    def prepare(self):
        self.tape("argument", [("x", self.s.argument), ("ready", self.s.ready)])
        if self.s.psi is not None:
            self.tape("psi", [("psi", self.s.psi)])

    def __call__(self):
        engine, s = self.engine, self.s
        found = self.tapes["argument"](engine.values)
        x = engine.full(s.spikes, found["x"])
        slope = torch.zeros_like(x)
        if s.psi is not None:
            slope = engine.full(s.slope, self.tapes["psi"]({**engine.values, s.x: x.detach()})["psi"]).detach()
            engine.values[s.slope] = slope
        engine.values[s.spikes] = Spike.apply(x, slope, s.strict) * found["ready"]


class Jumps(Runner):
    """What spikes do to their neuron."""

    def prepare(self):
        self.tape("lines", [(f"new {n}", e) for n, e in self.s.lines])

    def __call__(self):
        values = self.engine.values
        found, spikes = self.tapes["lines"](values), values[self.s.spikes]
        spikes = spikes.detach() if self.s.cut else spikes
        for name, _ in self.s.lines:
            old, value = values[name], self.engine.tensor(found[f"new {name}"])
            jumped = torch.where(spikes > 0, value, old)
            if spikes.requires_grad:
                size = (value - old).detach()
                jumped = jumped + (spikes - spikes.detach()) * torch.where(size.isfinite(), size, 0.0 * spikes.detach())
            values[name] = jumped


class Reduces(Runner):
    """What all neurons of a space make together."""

    def prepare(self):
        self.tape("value", [("value", self.s.expression)])

    def __call__(self):
        engine, s = self.engine, self.s
        value = engine.tensor(self.tapes["value"](engine.values)["value"])
        if s.op == "sum":
            found = value.expand(engine.trials, -1) if self.program.arrays[s.into].trial else value
            found = found.sum(-1, keepdim=True)
        else:
            found = value.softmax(-1) if s.op == "softmax" else chosen(value) if s.within is None else taken(value, s)
        engine.values[s.into] = found


def chosen(value):
    """1 where a value is the largest, else 0."""
    return torch.nn.functional.one_hot(value.argmax(-1), value.shape[-1]).to(value)


def taken(value, s):
    """1 where a value is the first of the largest of its square, else 0."""
    images = value.reshape(-1, *s.within.image)
    _, where = torch.nn.functional.max_pool2d(images, s.within.size, return_indices=True)
    return torch.zeros_like(images).flatten(2).scatter(2, where.flatten(2), 1.0).reshape(value.shape)


class Draws(Runner):
    """Noise."""

    def __call__(self):
        engine, like = self.engine, self.engine.like
        shape = (engine.trials, *engine.shapes[self.s.into])
        engine.values[self.s.into] = torch.randn(shape, generator=engine.dice, dtype=like.dtype, device=like.device)


class Sends(Runner):
    """What travels; where it is known of all steps, as one product."""

    def prepare(self):
        self.carrier = carrier(self.s, self.program, self.engine.read, self.engine.like, self.engine.fixed)
        self.alone = sum(self.s.target in writes(s) for s in self.program.step) == 1

    def start(self, steps):
        """Begin trials; what inputs deliver is known now, where weights stay as they are."""
        self.carrier.start(steps)
        ahead, s = self.engine.ahead, self.s
        known = s.source in ahead and hasattr(self.carrier, "whole")
        self.ahead = self.carrier.whole(self.signal(ahead[s.source])) if known else None
        if self.ahead is not None and self.alone:
            ahead[s.target] = self.ahead

    def signal(self, signal):
        signal = signal.to(self.engine.like.dtype)
        return signal.detach() if self.s.cut else signal

    def __call__(self):
        engine, s = self.engine, self.s
        found = self.carrier(self.signal(engine.values[s.source])) if self.ahead is None else self.ahead[engine.t]
        engine.values[s.target] = engine.values[s.target] + found if s.add else engine.full(s.target, found)


class Outers(Runner):
    """Gradients of weights and delays."""

    def prepare(self):
        self.carrier = carrier(self.s, self.program, self.engine.read, self.engine.like)

    def start(self, steps):
        self.carrier.start(steps)

    def __call__(self):
        values, s = self.engine.values, self.s
        found = self.carrier(values[s.pre].to(self.engine.like.dtype), values[s.post])
        values[s.into] = values[s.into] + found
