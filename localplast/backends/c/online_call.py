"""Learning online in generated C: an :class:`~localplast.backends.torch.online.OnlineLearner`, its program compiled.

What runs side by side is told from the program and the batch: where synapses have traces of their own one trial after
the other, so that memory does not grow with the batch; all of them, a step at a time, where numbers change within
trials; else as many as a cache holds.
"""

import ctypes
import threading
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from localplast.backends.c.arguments import check_inputs, pointers, share
from localplast.backends.c.call import Call, draw, padded
from localplast.backends.c.compile import build
from localplast.backends.c.online import OnlineSource
from localplast.backends.c.refusal import why_no_program
from localplast.backends.torch.interpreter import Trace
from localplast.backends.torch.online import OnlineLearner
from localplast.backends.torch.step import noise_dice
from localplast.equations.tape import Tape
from localplast.errors import not_finite
from localplast.program.arrays import Kernel, Life, Synapses
from localplast.program.finite import Unexplained
from localplast.program.instructions import Draw
from localplast.program.passes import at_once

__all__ = ["OnlineKernel", "why_not_online"]

#: Trials side by side where numbers stay: their state fits into the cache of a core.
BLOCK = 32
#: Steps for which noise is drawn at once.
STRETCH = 64


def why_not_online(learner):
    """Why an :class:`OnlineKernel` cannot be compiled, as a sentence, or None."""
    return why_no_program(learner.program)


class OnlineKernel(OnlineLearner):
    """An :class:`OnlineLearner` that is compiled.

    Other arguments
    ---------------
    threads : int
        The batch is split between them. Where weights change within a trial they wait for each other at every update.

    Notes
    -----
    Memory does not depend on the length of trials, beyond what goes in and comes out. Calls of one object share it:
    make one object per thread of your own.
    """

    def __init__(self, *args, threads=1, **options):
        super().__init__(*args, **options)
        self.threads, self.compiled = threads, {}

    @cached_property
    def traced(self):
        """Whether every synapse of some projection has numbers for every trial."""
        of_trials = [a for a in self.program.of(Life.STATE, Life.STEP) if a.trial]
        return any(isinstance(self.program.spaces[a.space], Synapses) for a in of_trials)

    def sides(self, trials):
        """``(trials side by side, threads, whether numbers change as soon as one trial says so)``."""
        if self.interval:
            team = max(1, min(self.threads, trials // 8))
            return -(-trials // team), team, trials == 1 and self.interval == 1
        if self.traced:
            return 1, min(self.threads, trials), False
        if any(isinstance(s, Draw) for s in self.program.step):  # noise is drawn for a stretch of all trials
            return -(-trials // self.threads), min(self.threads, trials), False
        count = -(-trials // (BLOCK * self.threads)) * self.threads
        return min(trials, 8 * -(-trials // (8 * count))), min(self.threads, trials), False

    def present(self, given, seed, on_step):
        check_inputs(self.net, {n: given[f"{n}.given"] for n in self.net.inputs})
        given = {n: x.contiguous() if torch.is_tensor(x) else x for n, x in given.items()}
        bits = frozenset(n for n, x in given.items() if torch.is_tensor(x) and x.dtype == torch.bool)
        trials = next(x.shape[1] for x in given.values() if torch.is_tensor(x) and x.ndim == 3)
        side, team, alone = self.sides(trials)
        key = int(side == 1), alone, team == 1, bits
        if key not in self.compiled:
            self.compiled[key] = Compiled(self, *key)
        return OnlineCall(self.compiled[key], given, {}, team, seed, self.numbers, self.interval, side).trace()

    def made(self):
        """Nothing: how the program runs is told from the batch."""


class Compiled:
    """The program of a learner, compiled for so many trials side by side."""

    def __init__(self, learner, side, alone, single, bits):
        program = at_once(learner.program) if alone else None
        self.alone = program is not None
        self.forward = program or learner.program
        self.watched = learner.plan.rule.signal.drives_neurons
        self.dtype = learner.like.dtype
        options = {"double": self.dtype == torch.float64, "bits": bits, "numbers": learner.numbers}
        choices = {"side": side, "alone": self.alone, "single": single, "watched": self.watched}
        source = OnlineSource(self.forward, **choices, **options)
        self.memory, self.checked = source.memory, source.checked
        self.library, self.kept = build(source.text), []
        self.library.learn.restype = ctypes.c_long
        self.library.learn.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_long] * 9
        self.library.space.restype = ctypes.c_size_t
        self.library.space.argtypes = [ctypes.c_long] * 2 + [ctypes.c_void_p]

    def workspace(self, threads, size):
        """Aligned memory for every thread, kept from call to call."""
        if len(self.kept) < threads or self.kept[0].numel() < size + 64:
            self.kept = [torch.zeros(size + 64, dtype=torch.uint8) for _ in range(threads)]
        return [m.data_ptr() + (-m.data_ptr()) % 64 for m in self.kept]


@dataclass(frozen=True, eq=False)
class OnlineCall(Call):
    """One call; ``side`` trials side by side, numbers changing every ``interval`` steps, or not at all (0)."""

    interval: int
    side: int

    @cached_property
    def sizes(self):
        steps = len(self.given["(loss).weight"])
        trials = next(x.shape[1] for x in self.given.values() if torch.is_tensor(x) and x.ndim == 3)
        found = {f"taps_{n.removeprefix('steps_')}": len(x) for n, x in self.tables.items() if n[:6] == "steps_"}
        return (
            {"T": steps, "B": trials, "team": self.threads, "U": -(-steps // (self.interval or steps))}
            | found
            | self.synapses
        )

    def noise(self):
        """Drawn as steps go on."""
        return ()

    # --- arguments ----------------------------------------------------------------------------------------------------

    def row(self, x, shape):
        """Numbers as rows, padded with zeros; of neurons with the last one."""
        x = torch.as_tensor(np.asarray(x, float) if not torch.is_tensor(x) else x).to(self.kernel.dtype)
        if x.ndim > 1:
            return padded(x.flatten(1), shape)
        x = x.reshape(-1)
        made = x[-1:].expand(shape[1]).clone()
        made[: len(x)] = x
        return made.reshape(1, -1)

    def arrays(self):
        """Numbers that learn, sums, and what is known of every update, by slot."""
        memory, found, steps = self.kernel.memory, {}, self.sizes["T"]
        new = {"dtype": self.kernel.dtype}
        for slot, (kind, *source) in memory.sources.items():
            shape = memory.arguments[slot][1]
            if kind == "number":
                x = self.numbers[source[0]]
                own = memory.spaces[memory.arrays[source[0]].space]
                if own in memory.few():
                    found[slot] = x.reshape(-1).clone()
                    continue
                if isinstance(own, Synapses) and np.ndim(x) < 2:
                    x = torch.as_tensor(x).expand(memory.size(own.pre), memory.size(own.post))
                found[slot] = self.row(x, shape)
            elif kind == "sum":
                found[slot] = torch.zeros([self.sizes.get(d, d) for d in shape], **new)
            elif kind == "along":
                x = self.given[source[0]]
                x = x if torch.is_tensor(x) else torch.tensor(x, dtype=torch.float64)
                found[slot] = x.to(self.kernel.dtype).expand(steps).contiguous()
            elif kind == "schedule":
                found[slot] = self.schedule(source[0])
            elif kind == "many":
                found[slot] = torch.tensor([len(memory.schedules[source[0]])])
        return found

    def schedule(self, space):
        """Numbers that depend on the update's number alone, ``(update, number)``, in double precision."""
        nodes, count = self.kernel.memory.schedules[space], self.sizes["U"]
        names = {s.name for node in nodes for s in node.free_symbols}
        rates = {n: self.numbers[n] for n in names if n in self.numbers}
        first = self.given["(update).k"][0]
        tape = Tape([(f"n{m}", node) for m, node in enumerate(nodes)], rates)
        columns = tape({"(update).k": np.arange(first, first + count, dtype=float)}).values()
        made = np.stack([np.broadcast_to(c, (count,)) for c in columns], -1)
        return torch.as_tensor(made).to(self.kernel.dtype).contiguous()

    def expanded(self):
        """What is given to every trial, in every step; numbers are of the kernel's type."""
        found, steps = {}, self.sizes["T"]
        for name, x in self.given.items():
            if torch.is_tensor(x) and x.ndim == 3:
                x = x if x.dtype == torch.bool else x.to(self.kernel.dtype)
                found[name] = x.expand(steps, -1, -1).contiguous()
        return found

    def seen(self):
        memory, found = self.kernel.memory, {}
        for a in self.kernel.forward.of(Life.SEEN):
            shape = (self.sizes["B"], memory.size(a.space))
            found[a.name] = torch.zeros(
                shape if a.name in memory.totals else (self.sizes["T"], *shape), dtype=self.kernel.dtype
            )
        return found

    # --- the call -----------------------------------------------------------------------------------------------------

    def trace(self):
        """Run; returns what is left behind."""
        own, seen = self.arrays(), self.seen()
        every = self.fixed | own | self.outside({**self.expanded(), **seen})
        draws = [s for s in self.kernel.forward.step if isinstance(s, Draw)]
        stretch = STRETCH if draws and self.side > 1 else self.sizes["T"]
        dice = noise_dice(self.seed) if draws else None
        for start in range(0, self.sizes["T"], stretch):
            end = min(self.sizes["T"], start + stretch)
            self.run(every | dict(self.drawn(draws, end - start, dice)), start, end)
        return Trace(seen, {}, *self.taken(own))

    def drawn(self, draws, steps, dice):
        """White noise of so many steps, drawn in the order of the plain step."""
        memory, trials = self.kernel.memory, self.sizes["B"]
        found = {s.into: torch.empty(steps, trials, memory.size(s.space), dtype=self.kernel.dtype) for s in draws}
        draw(dice, found.values())
        return {f"noise_{memory.identifier(n)}": x for n, x in found.items()}

    def run(self, arrays, start, end):
        """Steps ``start`` to ``end``, on all threads."""
        kernel, team, sizes = self.kernel, self.threads, self.sizes | {"stretch": end - start}
        sizes |= {f"many_schedule_{kernel.memory.identifier(n)}": len(x) for n, x in kernel.memory.schedules.items()}
        memory = kernel.workspace(team, kernel.library.space(sizes["T"], self.side, arrays["rings"].data_ptr()))
        gate = torch.zeros(3, dtype=torch.int64)
        arrays = {**arrays, "gate": gate}
        table = pointers(kernel.memory.arguments, arrays, kernel.dtype, sizes)
        whole = self.side * team >= sizes["B"]  # every thread has all its trials side by side
        edges, found = share(sizes["B"], 1 if whole or self.side == 1 else 8, team), [-1] * team

        def work(number):
            span = edges[number], edges[number + 1], start, end
            place = number, team if self.interval else 1
            found[number] = kernel.library.learn(
                table, memory[number], sizes["T"], sizes["B"], *span, self.side, *place
            )

        others = [threading.Thread(target=work, args=(number,)) for number in range(1, team)]
        for thread in others:
            thread.start()
        work(0)
        for thread in others:
            thread.join()
        if wrong := [code for code in found if code >= 0]:
            self.raise_wrong(min(wrong))

    def raise_wrong(self, code):
        step, place = divmod(code, max(1, len(self.kernel.checked)))
        space = self.kernel.forward.arrays[self.kernel.checked[place]].space
        if self.kernel.watched:
            raise not_finite(space, step)
        raise Unexplained(f"population {space!r} is not finite at the end of a trial")

    def taken(self, own):
        """Sums over trials, and what has changed, in their own shapes."""
        memory, sums, learned = self.kernel.memory, {}, {}
        for slot, (kind, *source) in memory.sources.items():
            if kind == "sum" or (kind == "number" and source[0] in memory.moving):
                name = source[0]
                array = own[slot].sum(0) if kind == "sum" else own[slot]
                space = memory.spaces[memory.arrays[name].space]
                into = sums if kind == "sum" else learned
                if space in memory.few():
                    into[name] = array
                    continue
                found = array[: memory.many_rows(space.name), : memory.many_columns(space.name)].clone()
                if isinstance(getattr(space, "form", None), Kernel):
                    found = found.reshape(space.form.convolution.shape)
                found = found if isinstance(space, Synapses) else found[0]
                into[name] = found
        return sums, learned
