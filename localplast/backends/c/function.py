"""A network as a differentiable function of its numbers: its step program, compiled, and the adjoint of it.

Semantics are those of :class:`~localplast.backends.torch.interpreter.Interpreter`. The forward call keeps nothing; the
backward call runs each block of trials again, a window of steps at a time, and back
(:mod:`localplast.backends.c.blocks`).
"""

import ctypes
import functools
import threading
from dataclasses import dataclass

import numpy as np
import torch

from localplast.backends.c import blocks
from localplast.backends.c.arguments import pointers
from localplast.backends.c.call import DENSE, check_inputs, check_numbers, check_shapes, padded_row, share
from localplast.backends.c.compile import build, missing
from localplast.backends.c.layout import silent_steps
from localplast.backends.torch.delay_line import slope_of, taps_of
from localplast.backends.torch.interpreter import numbers
from localplast.backends.torch.step import noise_dice
from localplast.errors import UnsupportedError
from localplast.network.credit_graph import check_cut
from localplast.network.delays import kernel_widths
from localplast.network.values import Values
from localplast.program.adjoint import adjoint
from localplast.program.arrays import Kernel as KernelForm
from localplast.program.arrays import Neurons
from localplast.program.cut import cut as without
from localplast.program.finite import Unexplained
from localplast.program.forward import forward
from localplast.program.instructions import Draw
from localplast.program.passes import as_numbers, never_refractory

__all__ = ["NetworkFunction", "why_not"]

#: Trials that a thread runs side by side, at most.
WIDEST_BLOCK = 8
#: Bytes per thread above which histories are kept of part of the steps only, and the fewest steps of such a part.
MOST_MEMORY, FEWEST_STEPS = 64 * 2**20, 16


def why_not(net, tensors, *, trainable=(), feedback=()):
    """Why no kernel can be made for a network, as a sentence, or None.

    Parameters
    ----------
    net : Network
    tensors : dict of str to tensor
        From :func:`~localplast.backends.torch.step.leaves`.
    trainable : iterable of str
        Names of tensors that need gradients.
    feedback : iterable of str
        Projections with a feedback matrix.
    """
    others = frozenset(n for n in trainable if not n.endswith(".weight"))
    made = NetworkPrograms(net, {k: v.detach() for k, v in tensors.items()}, (), frozenset(feedback), False)
    pair = made.pair(others, frozenset(trainable), frozenset(), kernel_widths(net))
    return next(filter(None, map(blocks.why_not, pair)), None) or missing()


@dataclass(frozen=True)
class NetworkPrograms:
    """The step programs of a network: what is recorded, cut and fed back is the same in all of them."""

    net: object
    tensors: dict
    cut: frozenset
    feedback: frozenset
    sums: bool

    @property
    def results(self):
        """What comes back, by name."""
        spiking = [name for name, p in self.net.populations.items() if p.model.spiking]
        counted = [f"{n}.count" for n in spiking], [f"{n}.sum" for n in spiking if self.sums]
        return [f"{n}.output" for n in self.net.readouts] + counted[0] + counted[1]

    def pair(self, learned, wanted, dense, widths):
        """``(forward with histories, its adjoint)`` where ``learned`` may change and ``wanted`` have gradients."""
        net, tensors = self.net, self.tensors
        delays = {n: tensors[f"{n}.delay"].numpy() for n in net.projections}
        parameters = {n: {k: tensors[f"{n}.{k}"].numpy() for k in p.values} for n, p in net.populations.items()}
        values = Values({}, {}, delays, parameters)
        options = {"learned": learned, "feedback": self.feedback, "widths": widths}
        program = never_refractory(forward(net, values, record=self.results, **options), self.always_ready(learned))
        program = as_numbers(program, [f"{n}.given" for n in dense])
        return adjoint(without(program, check_cut(net, self.cut)), wanted)

    def always_ready(self, learned):
        """Populations whose spikes silence nobody for more than the next step."""
        for name, population in self.net.populations.items():
            period = population.model.refractory
            if period and f"{name}.{period}" not in learned:
                if not bool((silent_steps(self.net, name, self.tensors) > 1).any()):
                    yield name


class NetworkFunction:
    """A network as a differentiable function of its weights, parameters and delays.

    Parameters
    ----------
    net : Network
    tensors : dict of str to tensor
        From :func:`~localplast.backends.torch.step.leaves`, on the CPU; their dtype is that of all arithmetic.
    masks : dict of str to bool array ``(pre, post)``

    Other arguments
    ---------------
    cut : set of str
        Edges of the credit graph through which no gradient flows.
    feedback : dict of str to tensor ``(pre, post)``
        Projections whose backward pass uses this matrix in place of the weight.
    sums : bool
        Whether the spikes of whole populations come back as well, step by step.
    threads : int
        The batch is split between them; a time step never is.

    Raises
    ------
    UnsupportedError
        Some expression has no C form.

    Notes
    -----
    Calls of one object share a workspace: make one object per thread of your own.
    """

    def __init__(self, net, tensors, masks, *, cut=(), feedback=None, sums=False, threads=1):
        self.net, self.masks, self.feedback, self.threads = net, masks, dict(feedback or {}), threads
        self.tensors = {k: v.detach() for k, v in tensors.items()}
        check_numbers(net, self.tensors)
        self.programs = NetworkPrograms(net, self.tensors, frozenset(cut), frozenset(self.feedback), sums)
        self.like = next(iter(self.tensors.values()))
        self.kernels, self.dense = {}, None

    def __call__(self, weights, inputs, others=None, widths=None, seed=0):
        """Run trials.

        Parameters
        ----------
        weights : dict of str to tensor ``(pre, post)``
            By projection name.
        inputs : dict of str to bool or float tensor ``(time, trial, channel)``
        others : dict of str to tensor
            Parameters (``'rec.tau_mem'``, SI units) and delays (``'rec_rec.delay'``, steps) in place of those in
            ``tensors``, shaped as there; differentiable. Their values may change from call to call.
        widths : dict of str to float
            Of the kernels of delays, in steps, by projection; default: those with which learning begins.
        seed : int or list of int
            Of noise.

        Returns
        -------
        dict of str to tensor
            ``'out.output'`` ``(time, trial, neuron)`` of every readout, and ``'rec.count'`` ``(trial, neuron)``, the
            number of spikes, of every spiking population; with ``sums`` also ``'rec.sum'`` ``(time, trial)``, those
            of all its neurons.
        """
        others = {k: x.to(self.like) for k, x in (others or {}).items()}
        check_inputs(self.net, inputs)
        check_shapes(others, self.tensors)
        if others:
            check_numbers(self.net, {**self.tensors, **{k: v.detach() for k, v in others.items()}})
        if self.dense is None:
            spiking = {k: x for k, x in inputs.items() if self.net.inputs[k].kind == "spikes"}
            self.dense = frozenset(k for k, x in spiking.items() if int(x.count_nonzero()) > DENSE * x.numel())
        given = {f"{k}.given": self.prepared(k, x) for k, x in inputs.items()}
        widths = {**kernel_widths(self.net), **(widths or {})}
        tensors = {**self.tensors, **others, **{f"{k}.weight": w.to(self.like) for k, w in weights.items()}}
        wanted = [n for n, x in tensors.items() if x.requires_grad] if torch.is_grad_enabled() else []
        wanted = [n for n in wanted if n.removesuffix(".weight") not in self.net.tied]
        kernel = self.kernel(given, frozenset(others), wanted, widths)
        found = numbers(self.net, kernel.forward, tensors, self.masks, self.feedback)
        call = Call(kernel, given, {f"{n}.delay": w for n, w in widths.items()}, self.threads, seed, found)
        learned = {n: x for n, x in found.items() if torch.is_tensor(x) and x.requires_grad}
        values = Trial.apply(call, tuple(learned), *learned.values())
        return {n: x[..., 0] if n.endswith(".sum") else x for n, x in zip(kernel.results, values, strict=True)}

    def prepared(self, name, values):
        """Contiguous values, bits where they are to be read as events."""
        bits = values.dtype == torch.bool and name not in self.dense
        return (values if bits else values.to(self.like)).contiguous()

    def kernel(self, given, learned, wanted, widths):
        """The kernel for inputs of these types and so many trials; without gradients any that is there will do."""
        trials = next(iter(given.values())).shape[1]
        block = min(WIDEST_BLOCK, 1 << (-(-trials // self.threads) - 1).bit_length())
        bits = frozenset(k for k, x in given.items() if x.dtype == torch.bool)
        spread = frozenset(n for n, width in widths.items() if width)
        key, wanted = (block, bits, learned, spread), frozenset(wanted)
        for (other, has), kernel in self.kernels.items():
            if other == key and (has == wanted or not wanted):
                return kernel
        pair = self.programs.pair(learned, wanted, self.dense, widths)
        found = numbers(self.net, pair[0], self.tensors, self.masks, self.feedback)
        if reason := next(filter(None, map(blocks.why_not, pair)), None) or missing():
            raise UnsupportedError(f"no kernel can be made for this network: {reason}")
        made = Kernel(*pair, self.programs.results, wanted, found, block=block, bits=bits)
        return self.kernels.setdefault((key, wanted), made)


class Kernel:
    """A pair of programs, compiled, and the workspaces of its threads."""

    def __init__(self, forward, backward, results, wanted, numbers, *, block, bits):
        self.forward, self.backward, self.results, self.block = forward, backward, results, block
        self.wanted = wanted
        self.dtype = next(x.dtype for x in numbers.values() if torch.is_tensor(x))
        source = blocks.Source(
            forward, backward, block=block, double=self.dtype == torch.float64, bits=bits, numbers=numbers
        )
        self.memory, self.checked = source.memory, source.checked
        self.library, self.kept = build(source.text), {}
        for function in (self.library.forward, self.library.adjoint):
            function.restype, function.argtypes = ctypes.c_long, [ctypes.c_void_p] * 2 + [ctypes.c_long] * 5
        self.library.space.restype = ctypes.c_size_t
        self.library.space.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_int]

    def window(self, steps, rings):
        """Of how many steps histories are kept, so that memory stays small."""
        window = steps

        def size(window):
            return self.library.space(steps, window, rings, 1)

        while size(window) > MOST_MEMORY and window > FEWEST_STEPS and size(-(-window // 2)) < size(window):
            window = -(-window // 2)
        return window

    def workspace(self, threads, size, adjoint):
        """Aligned memory for every thread, kept from call to call: fresh pages would cost more than the arithmetic."""
        kept = self.kept.get(adjoint)
        if kept is None or kept[0].numel() < size + 64 or len(kept) < threads:
            kept = self.kept[adjoint] = [torch.empty(size + 64, dtype=torch.uint8) for _ in range(threads)]
        return [m.data_ptr() + (-m.data_ptr()) % 64 for m in kept]

    def run(self, adjoint, arrays, sizes, threads, private=()):
        """Call the kernel on all trials; ``private`` holds arrays of the single threads, by slot."""
        function, steps, trials = self.library.adjoint if adjoint else self.library.forward, sizes["T"], sizes["B"]
        rings = arrays["rings"].data_ptr()
        window = self.window(steps, rings) if adjoint else 1
        memory = self.workspace(threads, self.library.space(steps, window, rings, int(adjoint)), adjoint)
        edges, each = share(trials, self.block, threads), private or [{}] * threads
        tables = [pointers(self.memory.arguments, {**arrays, **mine}, self.dtype, sizes) for mine in each]
        found = [-1] * threads

        def work(number):
            part = edges[number], edges[number + 1]
            found[number] = function(tables[number], memory[number], steps, window, trials, *part)

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
        """What the shapes of arguments are made of: ``T`` steps, ``B`` trials, and how many taps there are."""
        steps, trials = next(iter(self.given.values())).shape[:2]
        found = {
            f"taps_{slot.removeprefix('steps_')}": len(x) for slot, x in self.tables.items() if slot[:6] == "steps_"
        }
        return {"T": steps, "B": trials, **found}

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
        lengths = [self.taps(taps, (), False)[0].max() + 1 for taps in memory.rings] or [1]
        return found | {"rings": torch.tensor([int(n) for n in lengths])}

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
            constants.values.update({n: detached(self.numbers[n]) for n in constants.values})
            shared, each = constants.numbers(memory.padded(space))
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
        for t in range(steps):
            for s in draws:
                found[s.into][t] = torch.randn(found[s.into].shape[1:], generator=dice, dtype=self.kernel.dtype)
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

    def private(self):
        """Arrays that each thread adds up, by slot."""
        memory = self.kernel.memory
        slots = {slot: source[1] for slot, source in memory.sources.items() if source[0] == "sum"}
        new = functools.partial(torch.zeros, dtype=self.kernel.dtype)
        return [{slot: new(memory.arguments[slot][1]) for slot in slots} for _ in range(self.threads)], slots

    def gradient(self, name, total):
        """The gradient of a number in its own shape, from its sum over trials."""
        own, memory = self.numbers[name], self.kernel.memory
        array = memory.arrays[f"d_{name}"]
        space = memory.spaces[array.space]
        if isinstance(space, Neurons):
            each = total[: space.size]
            return each if own.ndim else each.sum()
        if isinstance(space.form, KernelForm):
            channels, *rest = space.form.convolution.shape
            return total[:channels, : int(np.prod(rest))].reshape(own.shape)
        each = total[: memory.size(space.pre), : memory.size(space.post)]
        if memory.arrays[name].role == "delay":
            weight = self.numbers[f"{space.shares or space.name}.weight"].detach()
            each = each * (weight.T if space.turned else weight) * space.times
        return each if own.ndim else each.sum()


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
        seen = call.seen()
        call.kernel.run(False, call.fixed | call.outside({**call.given, **seen}), call.sizes, call.threads)
        ctx.call, ctx.names = call, names
        return tuple(seen.values())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):
        call, kernel = ctx.call, ctx.call.kernel
        given = {f"d_{n}.seen": g.contiguous() for n, g in zip(kernel.results, gradients, strict=True)}
        private, slots = call.private()
        kernel.run(True, call.fixed | call.outside({**call.given, **given}), call.sizes, call.threads, private)
        total = {slots[slot]: sum(mine[slot] for mine in private) for slot in slots}
        found = {n: call.gradient(n, total[f"d_{n}"]) for n in ctx.names if f"d_{n}" in total}
        return (None, None, *(found.get(n) for n in ctx.names))
