"""The fused Torch backend: a whole trial, and its adjoint, as two calls of a C kernel made for the network.

Semantics are those of :class:`~localplast.backends.torch.step.Twin`. The forward call keeps no history; the backward
call recomputes it for a few trials at a time and runs the adjoint at once: memory does not grow with the batch.
"""

import ctypes
import functools
import threading
from dataclasses import dataclass

import numpy as np
import torch

from localplast.backends.c.arguments import pointers
from localplast.backends.c.compile import build
from localplast.backends.c.forward import arguments, source
from localplast.backends.c.layout import make_plan, silent_steps, why_not
from localplast.errors import NetworkError, UnsupportedError
from localplast.network.delays import MAX_DELAY_STEPS, summed_over_shared
from localplast.neuron.step import check_integration, lower
from localplast.program.finite import Unexplained

__all__ = ["Fused", "why_not"]

#: Share of nonzero inputs above which products are faster than events (784 -> 512 neurons break even there).
DENSE = 0.4
#: Trials that a thread runs side by side, at most: eight rows fill the registers of the one dense product.
WIDEST_BLOCK = 8
#: Bytes of history per thread above which fewer trials run side by side.
MOST_MEMORY = 512 * 2**20


class Fused:
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
        :func:`why_not` gives a reason.

    Notes
    -----
    Calls of one object share a workspace: make one object per thread of your own. Where ``threads`` > 1, let Torch
    itself run on one thread (``torch.set_num_threads(1)``): its idle threads spin, and take the cores from the kernel.
    """

    def __init__(self, net, tensors, masks, *, cut=(), feedback=None, sums=False, threads=1):
        self.net, self.cut, self.feedback, self.sums, self.threads = net, cut, feedback or {}, sums, threads
        self.tensors = {k: v.detach() for k, v in tensors.items()}
        self.check([k for k, v in tensors.items() if v.requires_grad])
        check_numbers(net, self.tensors)
        self.like = next(iter(self.tensors.values()))
        self.masks = {k: torch.as_tensor(m).to(self.like) for k, m in masks.items()}
        self.kernels, self.dense = {}, None

    def check(self, trainable):
        """Raise an :class:`UnsupportedError` where the kernel cannot run."""
        if reason := why_not(self.net, trainable=trainable, feedback=self.feedback):
            raise UnsupportedError(f"the fused kernel cannot run this network: {reason}")

    def __call__(self, weights, inputs, others=None):
        """Run trials.

        Parameters
        ----------
        weights : dict of str to tensor ``(pre, post)``
            By projection name.
        inputs : dict of str to bool or float tensor ``(time, trial, channel)``
        others : dict of str to tensor
            Parameters (``'rec.tau_mem'``, SI units) and delays (``'rec_rec.delay'``, steps) in place of those in
            ``tensors``, shaped as there; differentiable. Their values may change from call to call.

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
        if self.dense is None:
            self.dense = frozenset(k for k, x in inputs.items() if int(x.count_nonzero()) > DENSE * x.numel())
        given = {k: self.prepared(k, x) for k, x in inputs.items()}
        tensors = {**self.tensors, **others}
        if others:
            check_numbers(self.net, {k: v.detach() for k, v in tensors.items()})
        kernel, numbers = self.kernel(given, tensors, frozenset(others))
        masked = [weights[k.name].to(self.like) * self.masks[k.name] for k in kernel.plan.links]
        call = Call(kernel, given, self.feedback, numbers)
        values = Trial.apply(call, *masked, *(tensors[name] for name in kernel.plan.learned))
        return dict(zip(kernel.results, values, strict=True))

    def prepared(self, name, values):
        """Contiguous values, bits where they are to be read as events."""
        bits = values.dtype == torch.bool and name not in self.dense
        return (values if bits else values.to(self.like)).contiguous()

    def kernel(self, inputs, tensors, learned):
        """The kernel for inputs of these types, this many steps and trials, and its numbers."""
        steps, trials = next(iter(inputs.values())).shape[:2]
        block = min(WIDEST_BLOCK, 1 << (-(-trials // self.threads) - 1).bit_length())
        bits = frozenset(k for k, x in inputs.items() if x.dtype == torch.bool)
        while True:
            kernel = self.loaded(block, bits, learned)
            numbers = kernel.numbers(self.net, tensors) if learned else kernel.fixed
            if block == 1 or kernel.bytes(numbers, steps, adjoint=True) <= MOST_MEMORY:
                return kernel, numbers
            block //= 2

    def loaded(self, block, bits, learned):
        key = block, bits, learned
        if key not in self.kernels:
            self.check(learned)
            plan = make_plan(
                self.net, self.tensors, cut=self.cut, block=block, bits=bits, dense=self.dense, learned=learned
            )
            self.kernels[key] = Kernel(plan, self.net, self.tensors, self.threads, self.sums)
        return self.kernels[key]


def check_numbers(net, tensors):
    """Raise where the integration is degenerate for these parameters, or a delay is none."""
    for name, population in net.populations.items():
        parameters = {k: tensors[f"{name}.{k}"].numpy() for k in population.values}
        check_integration(name, lower(population.model), parameters, net.dt)
    for name in net.projections:
        steps = tensors[f"{name}.delay"]
        if not bool(((steps >= 0) & (steps <= MAX_DELAY_STEPS)).all()):
            raise NetworkError(
                f"projection {name!r}: impossible delay, {float(steps.min())} to {float(steps.max())} steps; all must "
                f"lie between 0 and {MAX_DELAY_STEPS}: bound delays that learn, as in axonal(..., trainable=(0*ms, "
                "100*ms))"
            )


def check_shapes(others, tensors):
    """Raise a :class:`NetworkError` unless the network has numbers of these names and shapes."""
    for name, x in others.items():
        if name not in tensors or x.shape != tensors[name].shape:
            have = f"shape {tuple(tensors[name].shape)}" if name in tensors else f"only {', '.join(tensors)}"
            raise NetworkError(f"{name} of shape {tuple(x.shape)} is given; the network has {have}")


def check_inputs(net, inputs):
    """Raise a :class:`NetworkError` unless ``inputs`` are what the network takes: C would read past the end."""
    shapes = {k: tuple(x.shape) for k, x in inputs.items()}
    steps = next(iter(shapes.values()), ())[:2]
    expected = {k: (*steps, node.size) for k, node in net.inputs.items()}
    if shapes != expected or len(steps) != 2:
        raise NetworkError(f"inputs of shape {shapes}; the network takes (time, trial, channel) = {expected}")


class Kernel:
    """A loaded kernel, the numbers of a network whose weights alone change, and a workspace for each thread."""

    def __init__(self, plan, net, tensors, threads, sums):
        self.plan, self.threads = plan, threads
        self.library = build(source(plan))
        for function in (self.library.forward, self.library.adjoint):
            function.restype = ctypes.c_long
            function.argtypes = [ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_long] * 4
        self.library.space.restype = ctypes.c_size_t
        self.library.space.argtypes = [ctypes.c_long, ctypes.c_void_p, ctypes.c_int]
        self.dtype = torch.float64 if plan.double else torch.float32
        self.readouts = [n for n in plan.cells if n.readout]
        self.spiking = [n for n in plan.cells if n.spiking]
        self.summed = self.spiking if sums else []
        named = (self.readouts, "output"), (self.spiking, "count"), (self.summed, "sum")
        self.results = [f"{n.name}.{what}" for cells, what in named for n in cells]
        self.fixed, self.memory, self.arguments = self.numbers(net, tensors), {}, arguments(plan)

    def numbers(self, net, tensors):
        """Parameters and delays as arrays, by slot."""
        arrays = constant_arrays(self.plan, net, tensors)
        longest = [int(arrays[f"delay{k.number}"].max()) + k.between for k in self.plan.links]
        arrays["longest"] = torch.as_tensor(np.array(longest or [0], dtype=np.dtype(ctypes.c_long)))
        return arrays

    def pad(self, matrix, columns):
        """A matrix with zeros up to ``columns``, in this kernel's dtype."""
        padded = matrix.new_zeros((matrix.shape[0], columns), dtype=self.dtype)
        padded[:, : matrix.shape[1]] = matrix
        return padded

    def weights(self, matrices):
        return {f"weight{k.number}": self.pad(w, k.post.padded) for k, w in zip(self.plan.links, matrices, strict=True)}

    def bytes(self, numbers, steps, adjoint):
        """Size of one thread's workspace for trials of so many steps."""
        return self.library.space(steps, numbers["longest"].data_ptr(), adjoint)

    def workspace(self, numbers, steps, adjoint):
        """Aligned memory for every thread, kept from call to call: fresh pages would cost more than the arithmetic."""
        size = self.bytes(numbers, steps, adjoint)
        kept = self.memory.get(adjoint)
        if kept is None or kept[0].numel() < size + 64:
            kept = self.memory[adjoint] = [torch.empty(size + 64, dtype=torch.uint8) for _ in range(self.threads)]
        return [m.data_ptr() + (-m.data_ptr()) % 64 for m in kept]

    def run(self, function, arrays, steps, trials, private=()):
        """Call the kernel on all trials; ``private`` holds arrays of the single threads, by slot."""
        memory = self.workspace(arrays, steps, function is self.library.adjoint)
        edges, each = share(trials, self.plan.block, self.threads), private or [{}] * self.threads
        tables = [pointers(self.arguments, {**arrays, **mine}, self.dtype, {"T": steps, "B": trials}) for mine in each]
        found = [-1] * self.threads

        def work(number):
            found[number] = function(tables[number], memory[number], steps, trials, edges[number], edges[number + 1])

        others = [threading.Thread(target=work, args=(number,)) for number in range(1, self.threads)]
        for thread in others:
            thread.start()
        work(0)
        for thread in others:
            thread.join()
        check_diverged(self.plan.cells, found)


def check_diverged(cells, found):
    """Raise where a kernel has returned the number of one of the populations."""
    if wrong := [cells[place].name for place in found if place >= 0]:
        raise Unexplained(f"population {wrong[0]!r} is not finite at the end of a trial")


def constant_arrays(plan, net, tensors):
    """Parameters and delays as arrays, by slot; call it when the C text is written, for that asks for constants."""
    given, dtype = {}, torch.float64 if plan.double else torch.float32
    for n in plan.cells:
        n.constants.values.update({k: tensors[f"{n.name}.{k}"].detach() for k in n.constants.values if k != "dt"})
        given[f"shared{n.number}"], given[f"each{n.number}"] = n.constants.numbers(n.padded)
        given[f"initial{n.number}"] = np.array(
            [padded_row(tensors[f"{n.name}.{v}"].detach().double(), n.size, n.padded) for v in n.variables]
        )
        if n.refractory:
            given[f"silent{n.number}"] = padded_row(silent_steps(net, n.name, tensors), n.size, n.padded)
    arrays = {k: torch.as_tensor(v, dtype=dtype).contiguous() for k, v in given.items()}
    for k in plan.links:
        steps = tensors[f"{k.name}.delay"].detach()
        arrays[f"delay{k.number}"] = steps.to(torch.int32).contiguous()
        arrays[f"part{k.number}"] = (steps - steps.floor()).contiguous()
    return arrays


def padded_row(values, size, padded):
    """One number per neuron, the last repeated up to ``padded``: padding then behaves as some real neuron does."""
    return np.pad(np.broadcast_to(np.asarray(values, float), (size,)), (0, padded - size), mode="edge")


def share(trials, block, threads):
    """Borders of the threads' parts: whole blocks."""
    blocks = -(-trials // block)
    return [min(trials, block * (blocks * number // threads)) for number in range(threads + 1)]


@dataclass(frozen=True, eq=False)
class Call:
    """What one call of a kernel is about, besides what it is differentiable in: ``numbers`` as that call found them."""

    kernel: Kernel
    inputs: dict
    feedback: dict
    numbers: dict

    @property
    def shape(self):
        """Steps and trials."""
        return next(iter(self.inputs.values())).shape[:2]

    def arrays(self, weights):
        """What both scans read, by slot."""
        data = {f"data{n.number}": self.inputs[n.name] for n in self.kernel.plan.channels}
        return {**self.numbers, **data, **self.kernel.weights(weights)}

    def backward_weights(self, weights):
        """What carries gradients back: the weights transposed ``(post, pre)``, or the feedback matrix in their
        place.
        """
        result, pad = {}, self.kernel.pad
        for k, weight in zip(self.kernel.plan.links, weights, strict=True):
            if k.passes:
                matrix = self.feedback.get(k.name, weight).detach()
                synaptic = k.kind == "synaptic"  # read row by row, in the order of the weights themselves
                result[f"back{k.number}"] = pad(*((matrix, k.post.padded) if synaptic else (matrix.T, k.pre.padded)))
        return result

    def private(self, needed):
        """Arrays that each thread adds up: gradients of weights, delays and parameters, by slot."""
        plan = self.kernel.plan
        links = [("d_weight", k) for k in plan.links if k in needed]
        links += [("d_share", k) for k in plan.delayed if f"{k.name}.delay" in needed]
        shapes = {f"{what}{k.number}": (k.pre.size, k.post.padded) for what, k in links}
        shapes |= {f"d{n.number}_{p}": (n.padded,) for n in plan.cells for p in n.learned if f"{n.name}.{p}" in needed}
        return [
            {slot: torch.zeros(shape, dtype=self.kernel.dtype) for slot, shape in shapes.items()}
            for _ in range(self.kernel.threads)
        ]

    def of_weights(self, total):
        """dloss/dweight, by link."""
        links = {k: f"d_weight{k.number}" for k in self.kernel.plan.links}
        return {k: total[slot][:, : k.post.size] for k, slot in links.items() if slot in total}

    def of_parameters(self, total, given):
        """dloss/dparameter, by name; of one that all neurons share, their sum."""
        found = {}
        for n in self.kernel.plan.cells:
            for p in n.learned:
                if (slot := f"d{n.number}_{p}") in total:
                    each = total[slot][: n.size]
                    found[f"{n.name}.{p}"] = each if given[f"{n.name}.{p}"].ndim else each.sum()
        return found

    def of_delays(self, total, given):
        """dloss/ddelay, by name: what each share does, times what it passes through, summed over all whom a delay
        serves.
        """
        found = {}
        for k in self.kernel.plan.delayed:
            if (slot := f"d_share{k.number}") in total:
                through = self.feedback.get(k.name, given[k]) if k.sent_late else given[k]
                each = total[slot][:, : k.post.size] * through
                found[f"{k.name}.delay"] = summed_over_shared(each, k.kind, given[f"{k.name}.delay"].ndim)
        return found


class Trial(torch.autograd.Function):
    """``(call, *weights, *learned) -> results``; differentiable in weights, parameters and delays."""

    @staticmethod
    def forward(ctx, call, *given):
        kernel, (steps, trials) = call.kernel, call.shape
        new = functools.partial(torch.zeros, dtype=kernel.dtype)
        results = {f"output{n.number}": new((steps, trials, n.size)) for n in kernel.readouts}
        results |= {f"count{n.number}": new((trials, n.size)) for n in kernel.spiking}
        results |= {f"total{n.number}": new((steps, trials)) for n in kernel.summed}
        weights = given[: len(kernel.plan.links)]
        kernel.run(kernel.library.forward, call.arrays(weights) | results, steps, trials)
        ctx.call = call
        ctx.save_for_backward(*given)
        return tuple(results.values())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):
        call, kernel, plan = ctx.call, ctx.call.kernel, ctx.call.kernel.plan
        given = dict(zip((*plan.links, *plan.learned), ctx.saved_tensors, strict=True))
        needed = {name for name, need in zip(given, ctx.needs_input_grad[1:], strict=True) if need}
        weights = [given[k] for k in plan.links]
        names = [f"d_output{n.number}" for n in kernel.readouts] + [f"d_count{n.number}" for n in kernel.spiking]
        names += [f"d_total{n.number}" for n in kernel.summed]
        arrays = {name: g.contiguous() for name, g in zip(names, gradients, strict=True)}
        arrays |= call.arrays(weights) | call.backward_weights(weights)
        private = call.private(needed)
        kernel.run(kernel.library.adjoint, arrays, *call.shape, private)
        total = {slot: sum(mine[slot] for mine in private) for slot in private[0]}
        found = call.of_weights(total) | call.of_parameters(total, given) | call.of_delays(total, given)
        return (None, *(found.get(name) if name in needed else None for name in given))
