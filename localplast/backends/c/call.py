"""How a compiled program is called: its memory, its arguments, its threads, and its gradient in Torch."""

import ctypes
import functools
import threading
from dataclasses import dataclass

import numpy as np
import torch

from localplast.backends.c.arguments import padded_row, pointers, share
from localplast.backends.c.blocks import BlockSource
from localplast.backends.c.compile import build
from localplast.backends.torch.delay_line import slope_of, taps_of
from localplast.backends.torch.step import noise_dice
from localplast.program.adjoint import mark_of
from localplast.program.arrays import Kernel as KernelForm
from localplast.program.arrays import Neurons, Sparse
from localplast.program.finite import Unexplained
from localplast.program.instructions import Draw

__all__ = ["Call", "Kernel", "Trial"]

#: Bytes of histories that a cache holds: of so many steps they are kept; the fewest steps, and the bytes of saved
#: states of all trials above which windows grow, as long as these are the larger part.
WINDOW_MEMORY, FEWEST_STEPS, MOST_MEMORY = 2**20, 16, 24 * 2**20


class Kernel:
    """A pair of programs, compiled, and the workspaces of its threads."""

    def __init__(self, forward, backward, results, numbers, *, block, bits):
        self.forward, self.backward, self.results, self.block = forward, backward, results, block
        self.mark = mark_of(forward)
        self.dtype = next(x.dtype for x in numbers.values() if torch.is_tensor(x))
        source = BlockSource(
            forward, backward, block=block, double=self.dtype == torch.float64, bits=bits, numbers=numbers
        )
        self.memory, self.checked = source.memory, source.checked
        self.library, self.kept = build(source.text), {}
        for function in (self.library.forward, self.library.adjoint):
            function.restype, function.argtypes = ctypes.c_long, [ctypes.c_void_p] * 2 + [ctypes.c_long] * 5
        self.library.space.restype = self.library.states.restype = ctypes.c_size_t
        self.library.space.argtypes, self.library.states.argtypes = [ctypes.c_long, ctypes.c_void_p], [ctypes.c_void_p]

    def window(self, steps, trials, rings):
        """Of how many steps histories are kept: as few as a cache holds, unless memory for states forbids it."""
        window = steps
        while window > FEWEST_STEPS and (size := self.library.space(window, rings)) > WINDOW_MEMORY:
            half = -(-window // 2)
            if self.saved(steps, half, trials, rings) > max(MOST_MEMORY, size):
                break
            window = half
        return window

    def saved(self, steps, window, trials, rings):
        """Bytes of the states at the start of all windows but the first."""
        return -(-trials // self.block) * ((steps - 1) // window) * self.library.states(rings)

    def workspace(self, threads, size, adjoint):
        """Aligned memory for every thread, kept from call to call: fresh pages would cost more than the arithmetic."""
        kept = self.kept.get(adjoint)
        if kept is None or kept[0].numel() < size + 64 or len(kept) < threads:
            kept = self.kept[adjoint] = [torch.empty(size + 64, dtype=torch.uint8) for _ in range(threads)]
        return [m.data_ptr() + (-m.data_ptr()) % 64 for m in kept]

    def run(self, adjoint, arrays, sizes, threads, private=()):
        """Call the kernel on all trials; ``private`` holds arrays of the single threads, by slot."""
        function, steps, trials = self.library.adjoint if adjoint else self.library.forward, sizes["T"], sizes["B"]
        slots = sizes["K"] if adjoint else 1
        memory = self.workspace(threads, self.library.space(slots, arrays["rings"].data_ptr()), adjoint)
        edges, each = share(trials, self.block, threads), private or [{}] * threads
        tables = [pointers(self.memory.arguments, {**arrays, **mine}, self.dtype, sizes) for mine in each]
        found = [-1] * threads

        def work(number):
            part = edges[number], edges[number + 1]
            found[number] = function(tables[number], memory[number], steps, sizes["K"], trials, *part)

        others = [threading.Thread(target=work, args=(number,)) for number in range(1, threads)]
        for thread in others:
            thread.start()
        work(0)
        for thread in others:
            thread.join()
        if wrong := [self.checked[place] for place in found if place >= 0]:
            space = self.forward.arrays[wrong[0]].space
            raise Unexplained(f"population {space!r} is not finite at the end of a trial")


@dataclass(frozen=True, eq=False)
class Call:
    """What one call of a kernel is about, besides what it is differentiable in.

    Attributes
    ----------
    kernel : Kernel
    given : dict of str to tensor
        What comes from outside, by array.
    widths : dict of str to float
        Of the kernels of delays, by the array of the delays.
    threads : int
    seed : int or list of int
    numbers : dict of str to tensor
        Of the arrays that no step changes.
    """

    kernel: Kernel
    given: dict
    widths: dict
    threads: int
    seed: object
    numbers: dict

    @functools.cached_property
    def sizes(self):
        """``T`` steps, ``B`` trials, windows of ``K`` steps, and how many taps there are."""
        steps, trials = next(iter(self.given.values())).shape[:2]
        window = self.kernel.window(steps, trials, self.tables["rings"].data_ptr())
        found = {
            f"taps_{slot.removeprefix('steps_')}": len(x) for slot, x in self.tables.items() if slot[:6] == "steps_"
        }
        return {"T": steps, "B": trials, "K": window, **found, **self.synapses}

    @functools.cached_property
    def synapses(self):
        """How many there are, where they are few."""
        memory = self.kernel.memory
        return {memory.many_synapses(link): len(link.form.pre) for link in memory.few()}

    @functools.cached_property
    def tables(self):
        """Tables of taps, and the lengths of rings."""
        memory, found = self.kernel.memory, {}
        for slot, source in memory.sources.items():
            if source[0] == "taps" and slot.startswith("steps_"):
                name = slot.removeprefix("steps_")
                steps, shares = self.taps(*source[1:])
                found[slot] = steps.to(torch.int32).contiguous()
                found[f"taps_{name}"] = torch.tensor([len(steps)])
                if shares is not None:
                    found[f"share_{name}"] = shares.to(self.kernel.dtype).contiguous()
        lengths = [self.taps(s.taps, (), False)[0].max() + 1 for s in memory.rings]
        many = [len(link.form.pre) for link in memory.few()]
        return found | {"rings": torch.tensor([int(n) for n in [*many, *lengths] or [1]])}

    def taps(self, taps, shape, slopes):
        """``(steps, shares)`` of taps, ``(tap, *shape)``; shares None where steps are whole."""
        delay = self.numbers[taps.delay].detach()
        delay = delay.expand(shape) if shape else delay
        if taps.spread is None:
            return delay.round().long().unsqueeze(0), None
        width = self.widths.get(taps.delay, taps.width)
        steps, shares = (slope_of if slopes else taps_of)(delay.clone().requires_grad_(), taps.spread, width)
        return steps, shares.detach()

    @functools.cached_property
    def fixed(self):
        """Arguments that are read, by slot."""
        kernel, found = self.kernel, dict(self.tables)
        for slot, (kind, *source) in kernel.memory.sources.items():
            if kind == "matrix":
                found[slot] = self.matrix(*source)
            elif kind == "number of few":
                found[slot] = self.numbers[source[0]].detach().contiguous()
            elif kind == "begins":
                many = np.bincount(source[0].form.pre, minlength=kernel.memory.size(source[0].pre))
                found[slot] = torch.as_tensor(np.cumsum([0, *many]), dtype=torch.int32)
            elif kind == "ends":
                found[slot] = torch.as_tensor(source[0].form.post, dtype=torch.int32)
            elif kind == "kernel":
                weight, link = source
                rows = link.times * self.numbers[weight].detach().flatten(1)
                found[slot] = padded(rows, kernel.memory.arguments[slot][1])
            elif kind == "start":
                space = kernel.forward.arrays[source[0]].space
                row = padded_row(
                    self.numbers[source[0]].detach(), kernel.memory.size(space), kernel.memory.padded(space)
                )
                found[slot] = torch.as_tensor(row, dtype=kernel.dtype).contiguous()
        for slot, x in (*self.constants(), *self.noise()):
            found[slot] = torch.as_tensor(x, dtype=kernel.dtype).contiguous()
        return found

    def matrix(self, weight, link, turned):
        """Weights as one direction reads them, rows padded."""
        memory, given = self.kernel.memory, self.numbers[weight].detach()
        if memory.arrays[weight].role != "feedback":
            given = (given.T if link.turned else given) * link.times
        rows = given.T if turned else given
        return padded(rows, (rows.shape[0], memory.padded(link.pre if turned else link.post)))

    def constants(self):
        """The numbers that the expressions of each space ask for."""
        memory = self.kernel.memory
        for space, constants in memory.constants.items():
            constants.values.update({n: detached(self.numbers[n.partition("@")[0]]) for n in constants.values})
            shared, each = constants.numbers(memory.columns(space))
            place = memory.identifier(space)
            yield from ((slot, x) for slot, x in ((f"k_{place}", shared), (f"c_{place}", each)) if len(x))

    def noise(self):
        """White noise of all steps, drawn in the order of the plain step."""
        memory = self.kernel.memory
        draws = [s for s in self.kernel.forward.step if isinstance(s, Draw)]
        if not draws:
            return
        dice, steps, trials = noise_dice(self.seed), self.sizes["T"], self.sizes["B"]
        found = {s.into: torch.empty(steps, trials, memory.size(s.space), dtype=self.kernel.dtype) for s in draws}
        draw(dice, found.values())
        yield from ((f"noise_{memory.identifier(n)}", x) for n, x in found.items())

    def outside(self, given):
        """Arguments that come from outside, or go there, by slot; ``given`` by array."""
        named = {slot: source[1] for slot, source in self.kernel.memory.sources.items() if source[0] == "outside"}
        return {slot: given[name] for slot, name in named.items() if name in given}

    def seen(self):
        """New arrays for all results, by array."""
        memory, steps, trials = self.kernel.memory, self.sizes["T"], self.sizes["B"]
        found = {}
        for name in (f"{n}.seen" for n in self.kernel.results):
            shape = (trials, memory.size(memory.arrays[name].space))
            found[name] = torch.zeros(shape if name in memory.totals else (steps, *shape), dtype=self.kernel.dtype)
        return found

    @functools.cached_property
    def saved(self):
        """Memory for the states that the way back begins from."""
        size = self.kernel.saved(*(self.sizes[k] for k in "TKB"), self.tables["rings"].data_ptr())
        return {"saved": torch.empty(size, dtype=torch.uint8)}

    def private(self):
        """Arrays that each thread adds up, by slot."""
        memory = self.kernel.memory
        slots = {slot: source[1] for slot, source in memory.sources.items() if source[0] == "sum"}
        new = functools.partial(torch.zeros, dtype=self.kernel.dtype)
        shapes = {slot: [self.sizes.get(d, d) for d in memory.arguments[slot][1]] for slot in slots}
        return [{slot: new(shape) for slot, shape in shapes.items()} for _ in range(self.threads)], slots

    def gradient(self, name, total):
        """The gradient of a number in its own shape, from its sum over trials."""
        own, memory = self.numbers[name], self.kernel.memory
        array = memory.arrays[f"{self.kernel.mark}{name}"]
        space = memory.spaces[array.space]
        if isinstance(space, Neurons):
            each = total[: space.size]
            return each if own.ndim else each.sum()
        if isinstance(space.form, Sparse):
            return total
        if isinstance(space.form, KernelForm):
            channels, *rest = space.form.convolution.shape
            return total[:channels, : int(np.prod(rest))].reshape(own.shape)
        each = total[: memory.size(space.pre), : memory.size(space.post)]
        if memory.arrays[name].role == "delay":
            weight = self.numbers[f"{space.shares or space.name}.weight"].detach()
            each = each * (weight.T if space.turned else weight) * space.times
        return each if own.ndim else each.sum()


def draw(dice, arrays):
    """Fill ``arrays`` ``(time, trial, neuron)`` with white noise, in place, in the order of the plain step."""
    for rows in zip(*(x.unbind() for x in arrays), strict=True):
        for row in rows:
            row.normal_(generator=dice)  # a call per step: numbers of a whole array would be others


def detached(x):
    return x.detach() if torch.is_tensor(x) else x


def padded(matrix, shape):
    """A matrix with zeros up to ``shape``."""
    found = matrix.new_zeros(shape)
    found[: matrix.shape[0], : matrix.shape[1]] = matrix
    return found


class Trial(torch.autograd.Function):
    """``(call, names, *numbers) -> results``."""

    @staticmethod
    def forward(ctx, call, names, *_):
        seen, saved = call.seen(), call.saved if any(ctx.needs_input_grad) else {}
        call.kernel.run(False, call.fixed | call.outside({**call.given, **seen}) | saved, call.sizes, call.threads)
        ctx.call, ctx.names = call, names
        return tuple(seen.values())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):
        call, kernel = ctx.call, ctx.call.kernel
        given = {f"{kernel.mark}{n}.seen": g.contiguous() for n, g in zip(kernel.results, gradients, strict=True)}
        private, slots = call.private()
        arrays = call.fixed | call.outside({**call.given, **given}) | call.saved
        kernel.run(True, arrays, call.sizes, call.threads, private)
        total = {slots[slot]: sum(mine[slot] for mine in private) for slot in slots}
        found = {n: call.gradient(n, total[f"{kernel.mark}{n}"]) for n in ctx.names if f"{kernel.mark}{n}" in total}
        return (None, None, *(found.get(n) for n in ctx.names))
