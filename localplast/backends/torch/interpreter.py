"""Step programs (:mod:`localplast.program`), run plainly: statement by statement, batched, differentiable.

The oracle of generated code, and of adjoint programs: what runs forward here has a derivative by automatic
differentiation, which the adjoint program must equal.
"""

from dataclasses import dataclass, field

import sympy
import torch

from localplast.backends.torch.step import Spike
from localplast.backends.torch.transport import carrier
from localplast.equations.tape import Tape
from localplast.program.arrays import End, Kernel, Life, One, Synapses
from localplast.program.instructions import Draw, Every, Fire, Jump, Map, Outer, Reduce, Send

__all__ = ["Interpreter", "Trace", "numbers"]


def numbers(net, program, tensors, masks, feedback=None):
    """The numbers of a program's arrays, from those of :func:`~localplast.backends.torch.step.leaves`.

    Parameters
    ----------
    masks : dict of str to bool array ``(pre, post)``
    feedback : dict of str to tensor or array ``(pre, post)``
        By link (:func:`localplast.program.online.matrices`).
    """
    found, like = {}, next(iter(tensors.values()))
    for array in program.of(Life.FIXED, Life.LEARNED):
        owner, key = array.name.split(".", 1)
        if array.role == "step":
            found[array.name] = float(net.dt)
        elif array.role == "feedback":
            found[array.name] = torch.as_tensor(feedback[array.name.removesuffix(".feedback")]).to(like)
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
        travelling = [s for s in self.step if isinstance(s, (Send, Outer))]
        self.carriers = {id(s): carrier(s, program, numbers, self.like) for s in travelling}

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

    def run(self, given, *, backwards=False, trace=None, dice=None, on_step=None):
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
        on_step : callable
            Called at the end of each step, with its number.
        """
        steps = self.start(given, trace, dice)
        seen = {a.name: [] for a in self.program.of(Life.SEEN)}
        for t in range(steps - 1, -1, -1) if backwards else range(steps):
            self.advance(t)
            for name, found in seen.items():
                found.append(self.values[name])
            if on_step:
                on_step(t)
        for s in self.ends:
            self.run_one[type(s)](s)
        totals = {n for s in self.step for n in getattr(s, "adds", ())}
        self.trace.seen = {n: v[-1] if n in totals else torch.stack(v) for n, v in seen.items()}
        self.trace.sums = {a.name: self.values[a.name] for a in self.program.of(Life.SUM)}
        return self.trace

    def start(self, given, trace=None, dice=None):
        """Begin trials; returns their number of steps."""
        steps, self.trials = max(v.shape[:2] for v in given.values() if v.ndim == 3)
        self.given, self.dice, self.trace = given, dice, trace or Trace()
        self.values = {a.name: self.begin(a) for a in self.program.of(Life.STATE, Life.SUM, Life.SEEN)}
        for found in self.carriers.values():
            found.start()
        return steps

    def advance(self, t):
        """One time step, number ``t`` of the trial."""
        self.t = t
        for s in self.step:
            self.run_one[type(s)](s)

    def refresh(self):
        """Take note of numbers that have changed in place."""
        for tape, psi, _ in self.tapes.values():
            for found in (tape, psi):
                if found is not None:
                    found.refresh()

    def shape(self, space):
        """Of an array without an axis of trials."""
        found = self.program.spaces[space]
        if isinstance(getattr(found, "form", None), Kernel):
            return found.form.convolution.shape
        return (*self.shape(found.pre), *self.shape(found.post)) if isinstance(found, Synapses) else (size_of(found),)

    def tensor(self, value):
        """A number as a tensor (of a type of its own it would be single precision first)."""
        return torch.as_tensor(value, dtype=self.like.dtype, device=self.like.device)

    def begin(self, array):
        start = self.numbers[array.start] if isinstance(array.start, str) else array.start
        shape = self.shape(array.space)
        return self.tensor(start).expand((self.trials, *shape) if array.trial else shape)

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
        value = self.computed(s)["value"].expand(self.trials, -1)
        if s.op == "argmax":
            value = torch.nn.functional.one_hot(value.argmax(-1), value.shape[-1])
        self.write(
            s.into,
            {"sum": lambda x: x.sum(-1, keepdim=True), "softmax": lambda x: x.softmax(-1)}.get(s.op, lambda x: x)(
                value
            ),
        )

    def draw(self, s):
        shape = (self.trials, *self.shape(s.space))
        self.write(s.into, torch.randn(shape, generator=self.dice, dtype=self.like.dtype, device=self.like.device))

    # --- what travels -------------------------------------------------------------------------------------------------

    def send(self, s):
        signal = self.read(s.source).to(self.like.dtype)
        found = self.carriers[id(s)](signal.detach() if s.cut else signal, self.values)
        self.write(s.target, self.read(s.target) + found if s.add else found)

    def outer(self, s):
        found = self.carriers[id(s)](self.read(s.pre).to(self.like.dtype), self.read(s.post))
        self.values[s.into] = self.values[s.into] + found


def size_of(space):
    """How many numbers a space of neurons, or that of what all share, holds."""
    return 1 if isinstance(space, One) else space.size
