"""Step programs (:mod:`localplast.program`), run plainly: statement by statement, batched, differentiable.

The oracle of generated code, and of adjoint programs: what runs forward here has a derivative by automatic
differentiation, which the adjoint program must equal.
"""

from collections import deque
from dataclasses import dataclass, field, replace

import sympy
import torch

from localplast.backends.torch.convolution import convolved, kernel_gradient
from localplast.backends.torch.delay_line import FeedbackProduct, slope_of, taps_of
from localplast.backends.torch.step import Spike
from localplast.equations.tape import Tape
from localplast.program.arrays import Diagonal, End, Kernel, Life, One, Synapses
from localplast.program.instructions import Draw, Every, Fire, Jump, Map, Outer, Reduce, Send

__all__ = ["Interpreter", "Trace", "numbers"]


def numbers(net, program, tensors, masks, feedback=()):
    """The numbers of a program's arrays, from those of :func:`~localplast.backends.torch.step.leaves`.

    Parameters
    ----------
    masks : dict of str to bool array ``(pre, post)``
    feedback : dict of str to tensor ``(pre, post)``
        By projection.
    """
    found = {}
    for array in program.of(Life.FIXED, Life.LEARNED):
        owner, key = array.name.split(".", 1)
        if array.role == "step":
            found[array.name] = float(net.dt)
        elif array.role == "feedback":
            found[array.name] = dict(feedback)[owner]
        elif array.role == "weight":
            found[array.name] = tensors[array.name] * torch.as_tensor(masks[owner]).to(tensors[array.name])
        elif not array.trial:
            found[array.name] = tensors[
                f"{owner}.{key.removesuffix('.start')}" if array.role == "start" else array.name
            ]
    return found


@dataclass
class Trace:
    """What a program left behind.

    Attributes
    ----------
    seen : dict of str to tensor ``(time, trial, neuron)``, or ``(trial, neuron)`` where it is summed up
    histories : dict of str to list of tensor ``(trial, neuron)``
        In the order of time.
    sums : dict of str to tensor, without an axis of trials
    """

    seen: dict = field(default_factory=dict)
    histories: dict = field(default_factory=dict)
    sums: dict = field(default_factory=dict)


class Interpreter:
    """A program, with its numbers.

    Parameters
    ----------
    program : Program
    numbers : dict of str to tensor or float
        Of all arrays that are fixed or learned.
    """

    def __init__(self, program, numbers):
        self.program, self.numbers = program, numbers
        self.like = next(v for v in numbers.values() if torch.is_tensor(v))
        self.run_one = {Map: self.map, Fire: self.fire, Jump: self.jump, Send: self.send, Outer: self.outer}
        self.run_one |= {Reduce: self.reduce, Draw: self.draw}
        self.ends = [s for every in program.step if isinstance(every, Every) for s in every.body]
        self.step = [s for s in program.step if not isinstance(s, Every)]
        self.tapes = {id(s): self.tape(s) for s in (*self.step, *self.ends)}
        self.links = {id(s): self.taps(s) for s in self.step}

    def tape(self, s):
        """The expressions of a statement, what is known of them computed."""
        psi = Tape([("psi", s.psi)], self.numbers) if isinstance(s, Fire) and s.psi is not None else None
        if isinstance(s, (Map, Jump)):
            lines = [*getattr(s, "lets", ()), *((f"new {n}", e) for n, e in s.lines)]
        elif isinstance(s, Fire):
            lines = [("x", s.argument), ("ready", s.ready)]
        else:
            lines = [("value", s.expression)] if isinstance(s, Reduce) else []
        symbols = {x for _, e in lines for x in sympy.sympify(e).free_symbols}
        constants = {} if isinstance(self.program.spaces.get(getattr(s, "space", None)), Synapses) else self.numbers
        return Tape(lines, constants), psi, {x.name: (x.array, x.end) for x in symbols if isinstance(x, End)}

    def run(self, given, *, backwards=False, trace=None, dice=None):
        """Run trials from start to end.

        Parameters
        ----------
        given : dict of str to tensor ``(time, trial, neuron)``, ``(time,)`` where trials share it
            Of all arrays that are given (a time axis of 1: the same in every step); of fixed arrays of each trial
            ``(trial, neuron)``.
        backwards : bool
            From the last step to the first, reading the histories of ``trace``.
        dice : torch.Generator
            For what is drawn.
        """
        steps, trials = max(v.shape[:2] for v in given.values() if v.ndim == 3)
        self.given, self.dice, self.trials = given, dice, trials
        self.trace = trace or Trace()
        self.values = {a.name: self.begin(a) for a in self.program.of(Life.STATE, Life.SUM, Life.SEEN)}
        self.past = {number: deque(maxlen=1 + longest(taps)) for number, taps in self.links.items()}
        seen = {a.name: [] for a in self.program.of(Life.SEEN)}
        for t in range(steps - 1, -1, -1) if backwards else range(steps):
            self.t = t
            for s in self.step:
                self.run_one[type(s)](s)
            for name, found in seen.items():
                found.append(self.values[name])
        for s in self.ends:
            self.run_one[type(s)](s)
        totals = {n for s in self.step for n in getattr(s, "adds", ())}
        self.trace.seen = {n: v[-1] if n in totals else torch.stack(v) for n, v in seen.items()}
        self.trace.sums = {a.name: self.values[a.name] for a in self.program.of(Life.SUM)}
        return self.trace

    def shape(self, space):
        """Of an array without an axis of trials."""
        found = self.program.spaces[space]
        return (*self.shape(found.pre), *self.shape(found.post)) if isinstance(found, Synapses) else (size_of(found),)

    def tensor(self, value):
        """A number as a tensor (of a type of its own it would be single precision first)."""
        return torch.as_tensor(value, dtype=self.like.dtype, device=self.like.device)

    def begin(self, array):
        start = self.numbers[array.start] if isinstance(array.start, str) else array.start
        start = self.tensor(start)
        return start.expand((self.trials, *self.shape(array.space))) if array.trial else start

    # --- reading and writing ------------------------------------------------------------------------------------------

    def read(self, name):
        """An array as it is now."""
        array = self.program.arrays[name]
        if array.life is Life.HISTORY:
            return self.trace.histories[name][self.t]
        if array.life is Life.GIVEN:
            return self.given[name][min(self.t, len(self.given[name]) - 1)]
        if array.life is Life.FIXED and array.trial:
            return self.given[name]
        return self.numbers[name] if array.life in (Life.FIXED, Life.LEARNED) else self.values[name]

    def at_synapse(self, name, end=None):
        """An array as synapses read it: of their own, or of a neuron at one end."""
        value = self.read(name)
        space = self.program.spaces[self.program.arrays[name].space]
        if end == "post" and torch.is_tensor(value) and value.ndim == 2:
            return value.unsqueeze(1)
        lonely = isinstance(space, One) and torch.is_tensor(value) and value.ndim == 2
        return value.unsqueeze(-1) if end == "pre" or lonely else value

    def write(self, name, value, *, add=False):
        """Set an array, or add to it; what is common to all trials takes their sum."""
        array = self.program.arrays[name]
        value = self.tensor(value)
        if array.trial or array.life is Life.SUM:
            value = value.expand(self.trials, *self.shape(array.space))
        if array.life is Life.SUM:
            value = value.sum(0)
        if array.life is Life.HISTORY:
            self.trace.histories.setdefault(name, []).append(value)
        else:
            self.values[name] = self.values[name] + value if add else value

    def computed(self, s, extra=()):
        """What the expressions of a statement are now."""
        tape, _, ends = self.tapes[id(s)]
        synapses = isinstance(self.program.spaces[s.space], Synapses)
        read = self.at_synapse if synapses else self.read
        values = {n: read(*ends.get(n, (n,))) for n in tape.slots if n in self.program.arrays or n in ends}
        return tape({**values, **dict(extra)})

    # --- instructions -------------------------------------------------------------------------------------------------

    def map(self, s):
        found = self.computed(s)
        for name, _ in s.lines:
            self.write(name, found[f"new {name}"], add=name in s.adds)

    def fire(self, s):
        found, psi = self.computed(s), self.tapes[id(s)][1]
        shape = (self.trials, *self.shape(s.space))
        x, slope = found["x"].expand(shape), torch.zeros(shape, dtype=self.like.dtype, device=self.like.device)
        if psi is not None:
            known = {n: self.read(n) for n in psi.slots if n in self.program.arrays}
            slope = self.tensor(psi({**known, s.x: x.detach()})["psi"]).expand(shape).detach()
            self.write(s.slope, slope)
        self.write(s.spikes, Spike.apply(x, slope, s.strict) * found["ready"])

    def jump(self, s):
        found, spikes = self.computed(s), self.read(s.spikes)
        spikes = spikes.detach() if s.cut else spikes
        for name, _ in s.lines:
            old, value = self.read(name), self.tensor(found[f"new {name}"])
            size = (value - old).detach()
            size = torch.where(torch.isfinite(size), size, torch.zeros_like(size))
            self.write(name, torch.where(spikes > 0, value, old) + (spikes - spikes.detach()) * size)

    def reduce(self, s):
        value = self.computed(s)["value"]
        self.write(s.into, value.softmax(-1) if s.op == "softmax" else value.sum(-1, keepdim=True))

    def draw(self, s):
        shape = (self.trials, *self.shape(s.space))
        self.write(s.into, torch.randn(shape, generator=self.dice, dtype=self.like.dtype, device=self.like.device))

    # --- what travels -------------------------------------------------------------------------------------------------

    def taps(self, s):
        """``[(steps ago, shares)]`` of a statement: shares of neurons, or ``(pre, post)``."""
        found = getattr(s, "taps", None)
        if found is None:
            return [(0, None)]
        link = self.program.spaces[s.link]
        pre, post = self.shape(link.pre), self.shape(link.post)
        shape = {"axonal": pre, "dendritic": post, "synaptic": (*pre, *post)}[found.kind]
        shape = pre if isinstance(link.form, Diagonal) else shape
        delay = self.tensor(self.numbers[found.delay]).expand(shape)
        spread = (found.spread or "triangle", found.width)
        steps, shares = slope_of(delay, *spread) if s.slopes else taps_of(delay, *spread)
        shares = torch.ones_like(steps, dtype=delay.dtype) if shares is None else shares
        shares = shares.unsqueeze(-1) if found.kind == "axonal" and not isinstance(link.form, Diagonal) else shares
        steps = steps.unsqueeze(-1) if steps.ndim < shares.ndim else steps
        return [(int(d), ((steps == d) * shares).sum(0)) for d in steps.unique()]

    def earlier(self, s, signal):
        """``(signal of so many steps ago, share)`` of every tap that has one."""
        past = self.past[id(s)]
        past.appendleft(signal)
        return [(past[d], share) for d, share in self.links[id(s)] if d < len(past)]

    def send(self, s):
        signal = self.read(s.source).to(self.like.dtype)
        signal = signal.detach() if s.cut else signal
        link = self.program.spaces[s.link]
        parts = [self.product(link, s, x, share) for x, share in self.earlier(s, signal)]
        total = sum(parts) if parts else torch.zeros((), dtype=self.like.dtype, device=self.like.device)
        self.write(s.target, self.read(s.target) + total if s.add else total)

    def product(self, link, s, signal, share):
        """What one tap delivers."""
        if self.program.arrays[s.target].space == s.link:
            return signal.unsqueeze(-1) if share is None else signal.unsqueeze(-1) * share
        if s.weight is None:
            return signal if share is None else signal * share
        weight = self.matrix(link, self.numbers.get(s.weight, self.values.get(s.weight)))
        if isinstance(link.form, Kernel):
            return convolved(signal, weight, turned(link.form.convolution) if s.back else link.form.convolution)
        weight = weight if share is None else weight * share
        if s.feedback is not None:
            feedback = self.numbers[s.feedback] if share is None else self.numbers[s.feedback] * share.detach()
            return FeedbackProduct.apply(signal, weight, feedback)
        return signal @ (weight.T if s.back else weight)

    @staticmethod
    def matrix(link, weight):
        """Numbers ``(pre, post)`` of synapses as the weights that they share, and back."""
        weight = weight.T if link.turned else weight
        return weight if link.times == 1 else link.times * weight

    def outer(self, s):
        pre, post = self.read(s.pre).to(self.like.dtype), self.read(s.post)
        link = self.program.spaces[s.link]
        for later, share in self.earlier(s, post):
            if isinstance(link.form, Diagonal):
                found = (pre * later * share).sum(0)
            elif isinstance(link.form, Kernel):
                found = self.matrix(link, kernel_gradient(pre, later, link.form.convolution))
            else:
                found = self.matrix(link, pre.T @ later * (1 if share is None else share))
            self.values[s.into] = self.values[s.into] + found


def size_of(space):
    """How many numbers a space of neurons, or that of what all share, holds."""
    return 1 if isinstance(space, One) else space.size


def longest(taps):
    return max(d for d, _ in taps)


def turned(form):
    """The convolution read the other way."""
    return replace(form, transposed=not form.transposed)
