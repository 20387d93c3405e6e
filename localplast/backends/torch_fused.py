"""The fused Torch backend: a whole trial, and its adjoint, as two calls of a C kernel made for the network.

Semantics are those of :class:`~localplast.backends.torch_step.Twin`. The forward call keeps no history; the backward
call recomputes it for a few trials at a time and runs the adjoint at once: memory does not grow with the batch.
"""

import ctypes
import functools
import threading

import numpy as np
import torch

from localplast.backends.kernel_build import build
from localplast.backends.kernel_plan import make_plan, silent_steps, why_not
from localplast.backends.kernel_source import slots, source
from localplast.errors import NetworkError, UnsupportedError
from localplast.lower import check_integration, lower

__all__ = ["Fused", "why_not"]

#: Share of nonzero inputs above which products are faster than events (784 -> 512 neurons break even there).
DENSE = 0.4
#: Trials that a thread runs side by side, at most: eight rows fill the registers of the one dense product.
WIDEST_BLOCK = 8
#: Bytes of history per thread above which fewer trials run side by side.
MOST_MEMORY = 512 * 2**20


class Fused:
    """A network as a differentiable function of its weights.

    Parameters
    ----------
    net : Network
    tensors : dict of str to tensor
        From :func:`~localplast.backends.torch_step.leaves`, on the CPU; their dtype is that of all arithmetic.
    masks : dict of str to bool array ``(pre, post)``

    Other arguments
    ---------------
    cut : set of str
        Edges of the credit graph through which no gradient flows.
    feedback : dict of str to tensor ``(pre, post)``
        Projections whose backward pass uses this matrix in place of the weight.
    threads : int
        The batch is split between them; a time step never is.

    Raises
    ------
    UnsupportedError
        :func:`why_not` gives a reason.

    Notes
    -----
    Calls of one object share a workspace: make one object per thread of your own. Where ``threads`` > 1, let Torch itself
    run on one thread (``torch.set_num_threads(1)``): its idle threads spin, and take the cores from the kernel.
    """

    def __init__(self, net, tensors, masks, *, cut=(), feedback=None, threads=1):
        feedback = feedback or {}
        reason = why_not(net, trainable=[k for k, v in tensors.items() if v.requires_grad], feedback=feedback)
        if reason:
            raise UnsupportedError(f"the fused kernel cannot run this network: {reason}")
        for name, population in net.populations.items():
            parameters = {k: tensors[f"{name}.{k}"].detach().numpy() for k in population.values}
            check_integration(name, lower(population.model), parameters, net.dt)
        self.net, self.tensors, self.cut, self.feedback, self.threads = net, tensors, cut, feedback, threads
        self.like = next(iter(tensors.values())).detach()
        self.masks = {k: torch.as_tensor(m).to(self.like) for k, m in masks.items()}
        self.kernels, self.dense = {}, None

    def __call__(self, weights, inputs):
        """Run trials.

        Parameters
        ----------
        weights : dict of str to tensor ``(pre, post)``
            By projection name.
        inputs : dict of str to bool or float tensor ``(time, trial, channel)``

        Returns
        -------
        dict of str to tensor
            ``'out.output'`` ``(time, trial, neuron)`` of every readout, and ``'rec.count'`` ``(trial, neuron)``, the number
            of spikes, of every spiking population.
        """
        check_inputs(self.net, inputs)
        if self.dense is None:
            self.dense = frozenset(k for k, x in inputs.items() if int(x.count_nonzero()) > DENSE * x.numel())
        given = {k: self.prepared(k, x) for k, x in inputs.items()}
        kernel = self.kernel(given)
        masked = [weights[k.name].to(self.like) * self.masks[k.name] for k in kernel.plan.links]
        values = Trial.apply(kernel, given, self.feedback, *masked)
        return dict(zip(kernel.results, values, strict=True))

    def prepared(self, name, values):
        """Contiguous values, bits where they are to be read as events."""
        bits = values.dtype == torch.bool and name not in self.dense
        return (values if bits else values.to(self.like)).contiguous()

    def kernel(self, inputs):
        """The kernel for inputs of these types, this many steps and trials."""
        steps, trials = next(iter(inputs.values())).shape[:2]
        block = min(WIDEST_BLOCK, 1 << (-(-trials // self.threads) - 1).bit_length())
        bits = frozenset(k for k, x in inputs.items() if x.dtype == torch.bool)
        while block > 1 and self.loaded(block, bits).bytes(steps, adjoint=True) > MOST_MEMORY:
            block //= 2
        return self.loaded(block, bits)

    def loaded(self, block, bits):
        if (block, bits) not in self.kernels:
            plan = make_plan(self.net, self.tensors, cut=self.cut, block=block, bits=bits, dense=self.dense)
            self.kernels[block, bits] = Kernel(plan, self.net, self.tensors, self.threads)
        return self.kernels[block, bits]


def check_inputs(net, inputs):
    """Raise a :class:`NetworkError` unless ``inputs`` are what the network takes: C would read past the end."""
    shapes = {k: tuple(x.shape) for k, x in inputs.items()}
    steps = next(iter(shapes.values()), ())[:2]
    expected = {k: (*steps, node.size) for k, node in net.inputs.items()}
    if shapes != expected or len(steps) != 2:
        raise NetworkError(f"inputs of shape {shapes}; the network takes (time, trial, channel) = {expected}")


class Kernel:
    """A loaded kernel and the numbers that stay: pointers by name, and a workspace for each thread."""

    def __init__(self, plan, net, tensors, threads):
        self.plan, self.threads, self.slots = plan, threads, slots(plan)
        self.library = build(source(plan))
        for function in (self.library.forward, self.library.adjoint):
            function.restype = None
            function.argtypes = [ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_long] * 4
        self.library.space.restype = ctypes.c_size_t
        self.library.space.argtypes = [ctypes.c_long, ctypes.c_void_p, ctypes.c_int]
        self.dtype = torch.float64 if plan.double else torch.float32
        self.readouts = [n for n in plan.cells if n.readout]
        self.spiking = [n for n in plan.cells if n.spiking]
        self.results = [f"{n.name}.output" for n in self.readouts] + [f"{n.name}.count" for n in self.spiking]
        self.fixed = self.numbers(net, tensors)
        self.memory = {}

    def numbers(self, net, tensors):
        """Arrays that no call changes, by slot."""
        arrays = constant_arrays(self.plan, net, tensors)
        longest = [int(arrays[f"delay{k.number}"].max()) for k in self.plan.links]
        arrays["longest"] = torch.as_tensor(np.array(longest or [0], dtype=np.dtype(ctypes.c_long)))
        return arrays

    def pad(self, matrix, columns):
        """A matrix with zeros up to ``columns``, in this kernel's dtype."""
        padded = matrix.new_zeros((matrix.shape[0], columns), dtype=self.dtype)
        padded[:, : matrix.shape[1]] = matrix
        return padded

    def weights(self, matrices):
        return {f"weight{k.number}": self.pad(w, k.post.padded) for k, w in zip(self.plan.links, matrices, strict=True)}

    def bytes(self, steps, adjoint):
        """Size of one thread's workspace for trials of so many steps."""
        return self.library.space(steps, self.fixed["longest"].data_ptr(), adjoint)

    def workspace(self, steps, adjoint):
        """Aligned memory for every thread, kept from call to call: fresh pages would cost more than the arithmetic."""
        size = self.bytes(steps, adjoint)
        kept = self.memory.get(adjoint)
        if kept is None or kept[0].numel() < size + 64:
            kept = self.memory[adjoint] = [torch.empty(size + 64, dtype=torch.uint8) for _ in range(self.threads)]
        return [m.data_ptr() + (-m.data_ptr()) % 64 for m in kept]

    def run(self, function, arrays, steps, trials, private=()):
        """Call the kernel on all trials; ``private`` holds arrays of the single threads, by slot."""
        memory = self.workspace(steps, function is self.library.adjoint)
        edges = share(trials, self.plan.block, self.threads)

        def work(number):
            mine = {**self.fixed, **arrays, **(private[number] if private else {})}
            pointers = (ctypes.c_void_p * len(self.slots))(*[m.data_ptr() if (m := mine.get(s)) is not None else None
                                                            for s in self.slots])  # fmt: skip
            function(pointers, memory[number], steps, trials, edges[number], edges[number + 1])

        others = [threading.Thread(target=work, args=(number,)) for number in range(1, self.threads)]
        for thread in others:
            thread.start()
        work(0)
        for thread in others:
            thread.join()


def constant_arrays(plan, net, tensors):
    """Arrays that no call changes, by slot; call it when the C text is written, for that asks for constants."""
    given, dtype = {}, torch.float64 if plan.double else torch.float32
    for n in plan.cells:
        given[f"shared{n.number}"], given[f"each{n.number}"] = n.constants.numbers(n.padded)
        given[f"initial{n.number}"] = np.array(
            [padded_row(tensors[f"{n.name}.{v}"].detach().double(), n.size, n.padded) for v in n.variables]
        )
        if n.refractory:
            given[f"silent{n.number}"] = padded_row(silent_steps(net, n.name, tensors), n.size, n.padded)
    arrays = {k: torch.as_tensor(v, dtype=dtype).contiguous() for k, v in given.items()}
    for k in plan.links:
        arrays[f"delay{k.number}"] = tensors[f"{k.name}.delay"].detach().to(torch.int32).contiguous()
    return arrays


def padded_row(values, size, padded):
    """One number per neuron, the last repeated up to ``padded``: padding then behaves as some real neuron does."""
    return np.pad(np.broadcast_to(np.asarray(values, float), (size,)), (0, padded - size), mode="edge")


def share(trials, block, threads):
    """Borders of the threads' parts: whole blocks."""
    blocks = -(-trials // block)
    return [min(trials, block * (blocks * number // threads)) for number in range(threads + 1)]


class Trial(torch.autograd.Function):
    """``(kernel, inputs, feedback, *weights) -> results``; differentiable in the weights."""

    @staticmethod
    def forward(ctx, kernel, inputs, feedback, *weights):
        steps, trials = next(iter(inputs.values())).shape[:2]
        new = functools.partial(torch.zeros, dtype=kernel.dtype)
        outputs = {f"output{n.number}": new((steps, trials, n.size)) for n in kernel.readouts}
        counts = {f"count{n.number}": new((trials, n.size)) for n in kernel.spiking}
        arrays = {**given(kernel, inputs), **kernel.weights(weights)}
        kernel.run(kernel.library.forward, {**arrays, **outputs, **counts}, steps, trials)
        ctx.kernel, ctx.inputs, ctx.feedback, ctx.shape = kernel, inputs, feedback, (steps, trials)
        ctx.save_for_backward(*weights)
        return (*outputs.values(), *counts.values())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):
        kernel, (steps, trials) = ctx.kernel, ctx.shape
        names = [f"d_output{n.number}" for n in kernel.readouts] + [f"d_count{n.number}" for n in kernel.spiking]
        arrays = {name: g.contiguous() for name, g in zip(names, gradients, strict=True)}
        arrays |= {**given(kernel, ctx.inputs), **kernel.weights(ctx.saved_tensors), **backward_weights(ctx)}
        wanted = [k for k, need in zip(kernel.plan.links, ctx.needs_input_grad[3:], strict=True) if need]
        private = [
            {f"d_weight{k.number}": torch.zeros((k.pre.size, k.post.padded), dtype=kernel.dtype) for k in wanted}
            for _ in range(kernel.threads)
        ]
        kernel.run(kernel.library.adjoint, arrays, steps, trials, private)
        total = {k: sum(d[f"d_weight{k.number}"] for d in private)[:, : k.post.size] for k in wanted}
        return (None, None, None, *(total.get(k) for k in kernel.plan.links))


def given(kernel, inputs):
    return {f"data{n.number}": inputs[n.name] for n in kernel.plan.channels}


def backward_weights(ctx):
    """What carries gradients back: the weights transposed ``(post, pre)``, or the feedback matrix in their place."""
    result = {}
    for k, weight in zip(ctx.kernel.plan.links, ctx.saved_tensors, strict=True):
        if k.passes:
            matrix = ctx.feedback.get(k.name, weight).detach()
            synaptic = k.kind == "synaptic"  # read row by row, in the order of the weights themselves
            result[f"back{k.number}"] = ctx.kernel.pad(*((matrix, k.post.padded) if synaptic else (matrix.T, k.pre.padded)))
    return result
