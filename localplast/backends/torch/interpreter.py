"""Step programs (:mod:`localplast.program`), run plainly: statement by statement, batched, differentiable.

The oracle of generated code, and of adjoint programs: what runs forward here has a derivative by automatic
differentiation, which the adjoint program must equal.
"""

from collections import deque
from dataclasses import dataclass, field, replace

import torch

from localplast.backends.torch.convolution import convolved, kernel_gradient
from localplast.backends.torch.delay_line import FeedbackProduct, slope_of, taps_of
from localplast.backends.torch.step import Spike
from localplast.equations.tape import Tape
from localplast.program.arrays import Diagonal, Kernel, Life
from localplast.program.instructions import Draw, Fire, Jump, Map, Outer, Reduce, Send

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
        self.tapes = [self.tape(s) for s in program.step]
        self.links = [self.taps(s) for s in program.step]

    def tape(self, s):
        """The expressions of a statement, what is known of them computed."""
        if isinstance(s, (Map, Jump)):
            lines = [*getattr(s, "lets", ()), *((f"new {n}", e) for n, e in s.lines)]
        elif isinstance(s, Fire):
            lines = [("x", s.argument), ("ready", s.ready)]
        elif isinstance(s, Reduce):
            lines = [("sum", s.expression)]
        else:
            return None
        psi = Tape([("psi", s.psi)], self.numbers) if isinstance(s, Fire) and s.psi is not None else None
        return Tape(lines, self.numbers), psi

    def run(self, given, *, backwards=False, trace=None, dice=None):
        """Run trials from start to end.

        Parameters
        ----------
        given : dict of str to tensor ``(time, trial, neuron)``
            Of all arrays that are given; of fixed arrays of each trial ``(trial, neuron)``.
        backwards : bool
            From the last step to the first, reading the histories of ``trace``.
        dice : torch.Generator
            For what is drawn.
        """
        steps, trials = next(v for v in given.values() if v.ndim == 3).shape[:2]
        self.given, self.dice, self.trials = given, dice, trials
        self.trace = trace or Trace()
        self.values = {a.name: self.begin(a) for a in self.program.of(Life.STATE, Life.SUM, Life.SEEN)}
        self.past = [deque(maxlen=1 + longest(link)) for link in self.links]
        seen = {a.name: [] for a in self.program.of(Life.SEEN)}
        for t in range(steps - 1, -1, -1) if backwards else range(steps):
            self.t = t
            for number, s in enumerate(self.program.step):
                self.run_one[type(s)](number, s)
            for name, found in seen.items():
                found.append(self.values[name])
        totals = {n for s in self.program.step for n in getattr(s, "adds", ())}
        self.trace.seen = {n: v[-1] if n in totals else torch.stack(v) for n, v in seen.items()}
        self.trace.sums = {a.name: self.values[a.name] for a in self.program.of(Life.SUM)}
        return self.trace

    def begin(self, array):
        start = self.numbers[array.start] if isinstance(array.start, str) else array.start
        shape = (self.trials, self.width(array.space)) if array.trial else ()
        return torch.as_tensor(start, dtype=self.like.dtype).expand(shape)

    def width(self, space):
        return getattr(self.program.spaces[space], "size", 1)

    # --- reading and writing ------------------------------------------------------------------------------------------

    def read(self, name):
        """An array as it is now."""
        array = self.program.arrays[name]
        if array.life is Life.HISTORY:
            return self.trace.histories[name][self.t]
        if array.life is Life.GIVEN:
            return self.given[name][self.t]
        if array.life is Life.FIXED and array.trial:
            return self.given[name]
        return self.numbers[name] if array.life in (Life.FIXED, Life.LEARNED) else self.values[name]

    def write(self, name, value, *, add=False):
        """Set an array, or add to it; what is common to all trials takes their sum."""
        array = self.program.arrays[name]
        if array.trial:
            value = torch.as_tensor(value, dtype=self.like.dtype).expand(self.trials, self.width(array.space))
        elif torch.is_tensor(value) and value.ndim > 1 and array.space in self.program.spaces:
            value = value.sum(0) if hasattr(self.program.spaces[array.space], "size") else value
        if array.life is Life.HISTORY:
            self.trace.histories.setdefault(name, []).append(value)
        else:
            self.values[name] = self.values[name] + value if add else value

    def computed(self, tape, extra=()):
        return tape({**{name: self.read(name) for name in tape.slots if name in self.program.arrays}, **dict(extra)})

    # --- instructions -------------------------------------------------------------------------------------------------

    def map(self, number, s):
        found = self.computed(self.tapes[number][0])
        for name, _ in s.lines:
            self.write(name, found[f"new {name}"], add=name in s.adds)

    def fire(self, number, s):
        tape, psi = self.tapes[number]
        found = self.computed(tape)
        shape = (self.trials, self.width(s.space))
        x, ready = found["x"].expand(shape), found["ready"]
        slope = torch.zeros_like(x) if psi is None else self.computed(psi, {s.x: x.detach()})["psi"]
        slope = torch.as_tensor(slope, dtype=x.dtype).expand(shape).detach()
        self.write(s.spikes, Spike.apply(x, slope, s.strict) * ready)
        if s.psi is not None:
            self.write(s.slope, slope)

    def jump(self, number, s):
        found, spikes = self.computed(self.tapes[number][0]), self.read(s.spikes)
        spikes = spikes.detach() if s.cut else spikes
        for name, _ in s.lines:
            old, value = self.read(name), torch.as_tensor(found[f"new {name}"], dtype=self.like.dtype)
            size = (value - old).detach()
            size = torch.where(torch.isfinite(size), size, torch.zeros_like(size))
            self.write(name, torch.where(spikes > 0, value, old) + (spikes - spikes.detach()) * size)

    def reduce(self, number, s):
        self.write(s.into, self.computed(self.tapes[number][0])["sum"].sum(-1, keepdim=True))

    def draw(self, number, s):
        shape = (self.trials, self.width(s.space))
        self.write(s.into, torch.randn(shape, generator=self.dice, dtype=self.like.dtype, device=self.like.device))

    # --- what travels -------------------------------------------------------------------------------------------------

    def taps(self, s):
        """``[(steps ago, shares)]`` of a statement: shares of neurons, or ``(pre, post)``."""
        found = getattr(s, "taps", None)
        if found is None:
            return [(0, None)]
        link = self.program.spaces[s.link]
        shape = (self.width(link.pre),) if found.kind == "axonal" else (self.width(link.post),)
        if found.kind == "synaptic":
            shape = (self.width(link.pre), self.width(link.post))
        delay = torch.as_tensor(self.numbers[found.delay], dtype=self.like.dtype).expand(shape)
        if found.spread is None:
            steps, shares = delay.detach().round().long().unsqueeze(0), torch.ones_like(delay).unsqueeze(0)
        elif getattr(s, "slopes", False):
            steps, shares = slope_of(delay.detach(), found.spread, found.width)
        else:
            steps, shares = taps_of(delay.requires_grad_(delay.requires_grad), found.spread, found.width)
            shares = torch.ones_like(steps, dtype=delay.dtype) if shares is None else shares
        return [(int(d), ((steps == d) * shares).sum(0)) for d in steps.unique()]

    def earlier(self, number, signal):
        """``(signal of so many steps ago, share)`` of every tap that has one."""
        past = self.past[number]
        past.appendleft(signal)
        return [(past[d], share) for d, share in self.links[number] if d < len(past)]

    def send(self, number, s):
        signal = self.read(s.source).to(self.like.dtype)
        signal = signal.detach() if s.cut else signal
        link = self.program.spaces[s.link]
        parts = [self.product(link, s, x, share) for x, share in self.earlier(number, signal)]
        end = link.pre if s.back else link.post
        total = sum(parts) if parts else torch.zeros(self.trials, self.width(end), dtype=self.like.dtype)
        self.write(s.target, self.read(s.target) + total if s.add else total)

    def product(self, link, s, signal, share):
        """What one tap delivers."""
        if isinstance(link.form, Diagonal):
            return signal * share
        weight = self.numbers[s.weight]
        if isinstance(link.form, Kernel):
            weight = self.matrix(link, weight)
            return convolved(signal, weight, turned(link.form.convolution) if s.back else link.form.convolution)
        weight = self.matrix(link, weight) if share is None else self.matrix(link, weight) * share
        if s.feedback is not None and not s.back:
            feedback = self.numbers[s.feedback] if share is None else self.numbers[s.feedback] * share.detach()
            return FeedbackProduct.apply(signal, weight, feedback)
        return signal @ (weight.T if s.back else weight)

    @staticmethod
    def matrix(link, weight):
        """Numbers ``(pre, post)`` of synapses as the weights that they share, and back."""
        weight = weight.T if link.turned else weight
        return weight if link.times == 1 else link.times * weight

    def outer(self, number, s):
        pre, post = self.read(s.pre).to(self.like.dtype), self.read(s.post)
        link = self.program.spaces[s.link]
        for later, share in self.earlier(number, post):
            if isinstance(link.form, Diagonal):
                found = (pre * later * share).sum(0)
            elif isinstance(link.form, Kernel):
                found = self.matrix(link, kernel_gradient(pre, later, link.form.convolution))
            else:
                found = self.matrix(link, pre.T @ later * (1 if share is None else share))
            self.values[s.into] = self.values[s.into] + found


def longest(taps):
    return max(d for d, _ in taps)


def turned(form):
    """The convolution read the other way."""
    return replace(form, transposed=not form.transposed)
