"""A network as a differentiable function of its numbers: its step program, compiled, and the adjoint of it.

Semantics are those of :class:`~localplast.backends.torch.interpreter.Interpreter`. The forward call keeps nothing; the
backward call runs each block of trials again, a window of steps at a time, and back
(:mod:`localplast.backends.c.blocks`).
"""

from dataclasses import dataclass

import torch

from localplast.backends.c.arguments import check_inputs
from localplast.backends.c.call import Call, Kernel, Trial
from localplast.backends.c.refusal import why_no_program
from localplast.backends.torch.interpreter import numbers
from localplast.backends.torch.step import plain
from localplast.errors import NetworkError, UnsupportedError
from localplast.network.credit_graph import check_cut
from localplast.network.delays import MAX_DELAY_STEPS, kernel_widths
from localplast.neuron.step import check_integration, lower
from localplast.program.adjoint import adjoint
from localplast.program.cut import cut_edges
from localplast.program.forward import forward
from localplast.program.passes import as_numbers, never_refractory
from localplast.program.zeros import where_zero

__all__ = ["NetworkFunction", "why_not"]

#: Trials that a thread runs side by side, at most.
WIDEST_BLOCK = 8
#: Share of nonzero inputs above which products are faster than events (784 -> 512 neurons break even there).
DENSE = 0.4


def why_not(function, trainable=()):
    """Why a :class:`NetworkFunction` cannot be compiled, as a sentence, or None.

    Parameters
    ----------
    function : NetworkFunction
    trainable : iterable of str
        Names of what changes from call to call: weights, parameters and delays.
    """
    others = frozenset(trainable) - {f"{n}.weight" for n in function.net.projections}
    pair = function.pair(others, frozenset(trainable), kernel_widths(function.net))
    return why_no_program(*pair)


@dataclass(frozen=True)
class NetworkPrograms:
    """The step programs of a network: what is recorded, cut and fed back is the same in all of them."""

    net: object
    tensors: dict
    masks: dict
    cut: frozenset
    feedback: frozenset
    record: tuple

    @property
    def results(self):
        """What comes back, by name."""
        counts = [f"{name}.count" for name, p in self.net.populations.items() if p.model.spiking]
        return list(dict.fromkeys([*(f"{n}.output" for n in self.net.readouts), *counts, *self.record]))

    def pair(self, learned, wanted, dense, widths):
        """``(forward with histories, its adjoint)`` where ``learned`` may change and ``wanted`` have gradients."""
        net, tensors = self.net, self.tensors
        options = {"record": self.results, "learned": learned, "feedback": self.feedback, "widths": widths}
        program = never_refractory(forward(net, plain(net, tensors, self.masks), **options), self.always_ready(learned))
        program = as_numbers(program, [f"{n}.given" for n in dense])
        program = where_zero(cut_edges(program, check_cut(net, self.cut)), self.zero(learned))
        return adjoint(program, wanted)

    def zero(self, learned):
        """Parameters that are zero, and stay so."""
        names = (f"{name}.{k}" for name, p in self.net.populations.items() for k in p.values)
        return [n for n in names if n not in learned and not bool(self.tensors[n].any())]

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
    record : iterable of str
        What comes back as well, of every step: ``'rec.sum'``, the spikes of all neurons of a population together,
        ``'rec.v'``.
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

    def __init__(self, net, tensors, masks, *, cut=(), feedback=None, record=(), threads=1):
        self.net, self.masks, self.threads = net, masks, threads
        self.feedback = {} if feedback is None else feedback  # what learns is another matrix after every update
        self.tensors = {k: v.detach() for k, v in tensors.items()}
        check_numbers(net, self.tensors)
        self.programs = NetworkPrograms(
            net, self.tensors, masks, frozenset(cut), frozenset(self.feedback), tuple(record)
        )
        self.like = next(iter(self.tensors.values()))
        self.pairs, self.kernels, self.dense = {}, {}, frozenset()

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
            number of spikes, of every spiking population; and what else is recorded: ``'rec.sum'`` ``(time, trial)``,
            ``'rec.v'`` ``(time, trial, neuron)``.
        """
        others = {k: x.to(self.like) for k, x in (others or {}).items()}
        check_inputs(self.net, inputs)
        check_shapes(others, self.tensors)
        check_learnable(self.net, others)
        if others:
            check_numbers(self.net, {**self.tensors, **{k: v.detach() for k, v in others.items()}})
        self.dense = frozenset(k for k, x in inputs.items() if self.net.inputs[k].kind == "spikes" and is_dense(x))
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
        key, wanted = (block, bits, self.dense, learned, spread(learned, widths)), frozenset(wanted)
        for (other, has), kernel in self.kernels.items():
            if other == key and (has == wanted or not wanted):
                return kernel
        pair = self.pair(learned, wanted, widths)
        found = numbers(self.net, pair[0], self.tensors, self.masks, self.feedback)
        if reason := why_no_program(*pair):
            raise UnsupportedError(f"no kernel can be made for this network: {reason}")
        made = Kernel(*pair, self.programs.results, found, block=block, bits=bits)
        return self.kernels.setdefault((key, wanted), made)

    def pair(self, learned, wanted, widths):
        """The programs, derived once for whatever may change and is wanted."""
        key = learned, wanted, spread(learned, widths), self.dense
        if key not in self.pairs:
            self.pairs[key] = self.programs.pair(learned, wanted, key[-1], widths)
        return self.pairs[key]


def silent_steps(net, name, tensors):
    """Steps for which a spike silences the neurons of a population, as Brian2's ``timestep()`` counts them."""
    period = tensors[f"{name}.{net.nodes[name].model.refractory}"].detach()
    return torch.floor(period / float(net.dt) + 1e-3)


def is_dense(spikes):
    """Whether products are faster than events: of the first trial, so that a batch is always run in the same way."""
    first = spikes[:, :1]
    return int(first.count_nonzero()) > DENSE * first.numel()


def spread(learned, widths):
    """Projections whose delays do not learn, and are spread nevertheless."""
    return frozenset(n for n, width in widths.items() if width and f"{n}.delay" not in learned)


def check_learnable(net, names):
    """Raise unless the kernel has gradients of ``names``."""
    parameters = {f"{n}.{k}" for n, p in net.populations.items() for k in p.values}
    known = parameters | {f"{n}.{what}" for n in net.projections for what in ("weight", "delay")}
    if other := [n for n in names if n not in known and n.split(".")[0] in net.nodes]:
        raise UnsupportedError(
            f"gradients of {', '.join(other)}: the kernel has those of weights, parameters and delays"
        )


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
