"""Networks of graded populations in generated C: the fast form of the plain step, and of learning in it.

The kernel is made from network and plan (:mod:`localplast.backends.c.graded_step`). All trials of a batch run side by
side; weights and parameters may change while they do.
"""

import ctypes
import threading
from itertools import pairwise

import numpy as np
import torch

from localplast.backends.c.arguments import check_inputs, padded_row, pointers, share
from localplast.backends.c.compile import build, missing
from localplast.backends.c.expression import check_c_form
from localplast.backends.c.graded_layout import Graded, fields, given
from localplast.backends.c.graded_optimise import Adaptation, factors
from localplast.backends.c.graded_step import source
from localplast.backends.c.layout import constant_arrays, make_plan
from localplast.backends.torch.step import noise_dice
from localplast.errors import not_finite
from localplast.network.convolution import form_of
from localplast.neuron.step import lower

__all__ = ["GradedKernel", "why_not_graded"]

#: Trials side by side where weights stay: their state fits into the cache of a core.
BLOCK = 32
#: Steps for which noise is drawn at once.
STRETCH = 64
#: Numbers that C may read, and ignore, past the end of an array.
SLACK = 1024


def why_not_graded(net, plan=None, optimiser=None, *, delays=None):
    """Why the kernel cannot run this network, or learn this online; a sentence, or None if it can.

    ``delays`` in steps, by projection; without a ``plan`` nothing learns.
    """
    for name, population in net.populations.items():
        if reason := why_no_population(population.model):
            return f"population {name!r}: {reason}"
    for name, p in net.projections.items():
        steps = np.asarray((delays or {}).get(name, net.delay_steps(p)))
        if reason := why_no_projection(net, p, steps):
            return f"projection {name!r} {reason}"
    return (why_no_plan(net, plan, optimiser) if plan else None) or missing()


def why_no_population(model):
    if model.spiking:
        return f"{model.name} spikes"
    step = lower(model)
    if drawn := step.draws():
        return f"{model.name} draws {'() and '.join(drawn)}()"
    return check_c_form([*(e for _, e in step.outputs), *([] if step.output is None else [step.output])])


def why_no_projection(net, p, steps):
    if form_of(net.projections, p):
        return "is a convolution"
    if p.transmission == "event" and p.pre not in net.inputs:
        return "carries spikes of neurons"
    if p.short_term is not None:
        return "has short-term plasticity"
    if p.delay is not None and p.delay.trainable:
        return "has a delay that learns"
    if steps.size and (steps != np.round(steps.flat[0])).any():
        return "has several delays, or one between two steps"
    return None


def why_no_plan(net, plan, optimiser):
    if plan.rule.signal.hears_errors:
        return f"{plan.rule.name} learns from signals of others"
    for name, s in plan.synapses.items():
        found = factors(s)
        if found is None:
            return f"synapses of projection {name!r} remember something themselves"
    neurons = [e for n in plan.neurons.values() for e in (*n.shift, *n.before, *n.after, *n.before_reset, *n.end)]
    expressions = [e for _, e in neurons] + [
        e for s in plan.synapses.values() for _, e in (*s.eligibility.pre, *s.program)
    ]
    if optimiser:
        expressions += [e for name in (*plan.synapses, *net.trainable) for _, e in optimiser.program(projection=name)]
    return check_c_form(expressions)


class GradedKernel:
    """A network of graded populations, compiled.

    Parameters
    ----------
    net : Network
    plan : localplast.program.learn.Plan or None
        None: nothing learns.
    tensors : dict of str to tensor
        From :func:`~localplast.backends.torch.step.leaves`, on the CPU; their dtype is that of all arithmetic.
    masks : dict of str to bool array ``(pre, post)``
    optimiser : Optimiser, optional
        What changes weights and parameters within a trial, for rules with ``update='step'`` or a time.
    threads : int
        The batch is split between them. Where weights change within a trial they wait for each other at every update.

    Notes
    -----
    Memory does not depend on the length of trials. Calls of one object share it: make one object per thread of your
    own.
    """

    def __init__(self, net, plan, tensors, masks, optimiser=None, *, threads=1):
        self.net, self.plan, self.threads = net, plan, threads
        self.tensors, self.masks = dict(tensors), {k: torch.as_tensor(m) for k, m in masks.items()}
        self.interval = plan.rule.interval(net.dt) if plan else 0
        self.body = body = make_plan(net, tensors)
        self.dtype = torch.float64 if body.double else torch.float32
        self.links, self.cells = {k.name: k for k in body.links}, {n.name: n for n in body.cells}
        adaptations = tuple(self.adaptations(optimiser)) if self.interval else ()
        for a in adaptations:
            if a.node:
                del a.node.constants.values[a.parameter]  # no longer a constant
        delays = {name: int(np.asarray(tensors[f"{name}.delay"]).max()) for name in net.projections}
        diagonal = frozenset(
            n for n, p in net.projections.items() if not p.plastic and n not in net.tied and is_diagonal(masks[n])
        )
        self.graded = Graded(net, body, plan, adaptations, delays, diagonal, self.interval)
        self.fields = list(fields(self.graded))
        self.library = build(source(self.graded))
        declared = given(self.graded)  # once the text has asked for all constants
        self.arguments = {slot: declared[slot] if shape is None else None for slot, shape in self.fields}
        self.library.run.restype = ctypes.c_long
        self.library.run.argtypes = [ctypes.c_void_p] + [ctypes.c_long] * 7 + [ctypes.c_double] + [ctypes.c_long] * 2
        self.fixed = constant_arrays(body, net, self.tensors) | self.limits()
        self.memories = {}

    # --- what learns ------------------------------------------------------------------------------------------------

    def adaptations(self, optimiser):
        """The :class:`~localplast.backends.c.graded_optimise.Adaptation` of everything that changes within a trial."""
        for name in self.plan.synapses:
            k, bounds = self.links[name], self.net.bounds(name) if not optimiser.frozen(name) else None
            masked = not bool(self.masks[name].all())
            yield Adaptation(str(k.number), name, k.pre.size, k.post.size, k.post.padded, optimiser, bounds, masked)
        for name in self.net.trainable:
            owner, parameter = name.split(".")
            n, shared = self.cells[owner], self.tensors[name].ndim == 0
            limits = () if optimiser.frozen(name) else self.net.limits(name)
            bounds = tuple(np.full(n.size, bound) for bound in limits)
            yield Adaptation(
                f"{n.number}_{parameter}", name, 1, n.size, n.padded, optimiser, bounds, shared=shared, node=n
            )

    def limits(self):
        """Bounds and masks, by slot."""
        found = {}
        for a in self.graded.adaptations:
            for name, bound in a.limits.items():
                found[f"{name}{a.label}"] = self.row(bound, a) if a.node else self.padded(bound, a.padded)
            if a.masked:
                found[f"mask{a.label}"] = self.padded(self.masks[a.name], a.padded)
        return found

    def refresh(self, tensors):
        """Take over parameters that have changed."""
        self.tensors = dict(tensors)
        self.fixed |= constant_arrays(self.body, self.net, self.tensors)

    # --- memory -----------------------------------------------------------------------------------------------------

    def padded(self, matrix, columns):
        """A matrix with zeros up to ``columns`` and some rows more."""
        made = torch.zeros((matrix.shape[0] + 8, columns), dtype=self.dtype)
        made[: matrix.shape[0], : matrix.shape[1]] = torch.tensor(np.asarray(matrix))
        return made

    def row(self, values, a):
        """The numbers of a parameter; what is beyond the last neuron is as that one."""
        return torch.as_tensor(padded_row(values, a.columns, a.padded)[None], dtype=self.dtype)

    def memory(self, stride, thread):
        """Everything that lives within a block of trials, kept from call to call."""
        key = stride, thread
        if key not in self.memories:
            counts = {
                slot: int(np.prod([stride if d == "trial" else d for d in shape]))
                for slot, shape in self.fields
                if shape
            }
            self.memories[key] = {slot: torch.zeros(count + SLACK, dtype=self.dtype) for slot, count in counts.items()}
        return self.memories[key]

    def weights(self, numbers):
        """All weights by slot, zero where there is no synapse, and parameters that change."""
        found = {
            f"weight{k.number}": self.padded(numbers[k.name] * self.masks[k.name], k.post.padded)
            for k in self.body.links
        }
        for a in self.graded.adaptations:
            if a.node:
                found[f"weight{a.label}"] = self.row(numbers[a.name], a)
        return found

    def sums(self, threads=1):
        """Gradients by slot, zero at first: for every thread rows, with some to spare."""
        g = self.graded
        shapes = {f"gradient{k.number}": (k.pre.size, k.post.padded) for k in g.plastic()}
        shapes |= {f"gradient{n.number}_{name}": (1, n.padded) for n in self.body.cells for name in g.parameters(n)}
        return {
            slot: torch.zeros((threads, rows + 8, columns), dtype=self.dtype)
            for slot, (rows, columns) in shapes.items()
        }

    # --- running ----------------------------------------------------------------------------------------------------

    def outputs(self, weights, inputs, seed=0):
        """Present trials, learning nothing; parameters as for :meth:`gradients`."""
        return self.run(self.weights(weights), [{} for _ in range(self.threads)], inputs, 1.0, seed)

    def gradients(self, weights, inputs, seed=0):
        """Present trials; weights stay.

        Parameters
        ----------
        weights : dict of str to tensor ``(pre, post)``
            All projections.
        inputs : dict of str to tensor ``(time, trial, channel)``
        seed : int or list of int
            Of noise.

        Returns
        -------
        outputs : tensor ``(time, trial, readout)``
        counts : dict, empty
        gradients : dict of str to tensor ``(pre, post)``, mean over trials; and of parameters, by name and of their
        shape

        Raises
        ------
        RunawayError
            A number is not finite; names the step and the population where that began.
        """
        private = [self.sums() for _ in range(self.threads)]
        trials = next(iter(inputs.values())).shape[1]
        found = self.run(self.weights(weights), private, inputs, 1 / trials, seed)
        total = {slot: sum(mine[slot][0] for mine in private) for slot in private[0]}
        gradients = {}
        for k in self.graded.plastic():
            gradients[k.name] = total[f"gradient{k.number}"][: k.pre.size, : k.post.size] * self.masks[k.name]
        for n in self.body.cells:
            for name in self.graded.parameters(n):
                each = total[f"gradient{n.number}_{name}"][0, : n.size]
                gradients[f"{n.name}.{name}"] = each if self.tensors[f"{n.name}.{name}"].ndim else each.sum()
        return *found, gradients

    def learn(self, numbers, state, inputs, updates, seed=0):
        """Present trials, the optimiser running within them.

        Parameters
        ----------
        numbers : dict of str to tensor
            Weights of all projections ``(pre, post)`` and what else learns, by name.
        state : dict of str to dict of str to tensor
            The optimiser's memory, by name.
        inputs, seed : as for :meth:`gradients`
        updates : int
            Updates before these trials.

        Returns
        -------
        outputs, counts : as :meth:`gradients` gives them
        numbers, state : as they were given, after the trials
        """
        steps, trials = next(iter(inputs.values())).shape[:2]
        threads = max(1, min(self.threads, trials // 8))
        arrays, many = self.weights(numbers) | self.sums(threads), -(-steps // self.interval)
        for a in self.graded.adaptations:
            arrays |= {
                f"state{a.label}_{n}": self.padded(m.expand(a.rows, a.columns), a.padded)
                for n, m in state[a.name].items()
            }
            arrays[f"schedule{a.label}"] = torch.as_tensor(a.schedule(updates + 1, many)).to(self.dtype).contiguous()
        found = self.run(arrays, [{}] * threads, inputs, 1 / trials, seed)
        numbers, state = dict(numbers), dict(state)
        for a in self.graded.adaptations:
            shape = numbers[a.name].shape
            numbers[a.name] = taken(arrays[f"weight{a.label}"], a, shape)
            state[a.name] = {n: taken(arrays[f"state{a.label}_{n}"], a, shape) for n in state[a.name]}
        return *found, self.net.tie(numbers), state

    def run(self, arrays, private, inputs, part, seed):
        """Call the kernel, ``private`` holding arrays of each thread; returns outputs, and no spikes."""
        check_inputs(self.net, inputs)
        steps, trials = next(iter(inputs.values())).shape[:2]
        size = sum(n.size for n in self.graded.readouts)
        every = {**self.fixed, **arrays, **self.given(inputs)}
        every["output"] = torch.zeros((steps, trials, size), dtype=self.dtype)
        noisy = any(n.step.noise for n in self.body.cells)
        team = len(private) if self.interval else 1
        blocks = list(blocks_of(trials, len(private), trials if self.interval or noisy else BLOCK))
        dice, wrong = noise_dice(seed) if noisy else None, []
        for start in range(0, steps, STRETCH if noisy else steps):
            end = min(steps, start + STRETCH) if noisy else steps
            given = {**every, **(self.noise(end - start, trials, dice) if noisy else {})}
            self.share_out(blocks, given, private, (steps, trials), (start, end), (part, team), wrong)
            if wrong:
                self.raise_runaway(min(wrong))
        return every["output"], {}

    def given(self, inputs):
        """Inputs by slot, ``(trial, time, channel)``: as they were before they became tensors, mostly."""
        return {
            f"data{n.number}": inputs[n.name].to(self.dtype).transpose(0, 1).contiguous() for n in self.body.channels
        }

    def share_out(self, blocks, given, private, shape, span, options, wrong):
        """Call C for blocks of trials, dealt out to threads; what goes ``wrong`` is collected."""
        stride = -(-max(live for _, live in blocks) // 8) * 8

        part, team = options
        given["gate"] = torch.zeros(3, dtype=torch.int64)

        memories = [self.memory(stride, number) for number in range(len(private))]
        steps, trials = shape
        sizes = {"T": steps, "B": trials, "stretch": span[1] - span[0], "team": team}
        sizes["U"] = -(-steps // (self.interval or steps))
        tables = [
            pointers(self.arguments, {**given, **memory, **mine}, self.dtype, sizes)
            for memory, mine in zip(memories, private, strict=True)
        ]

        def work(number):
            table, place = tables[number], (number, team) if team > 1 else (0, 1)
            for first, live in blocks[number :: len(private)]:
                found = self.library.run(table, *shape, first, live, stride, *span, part, *place)
                if found >= 0:
                    wrong.append(found)

        others = [threading.Thread(target=work, args=(number,)) for number in range(1, min(len(private), len(blocks)))]
        for thread in others:
            thread.start()
        work(0)
        for thread in others:
            thread.join()

    def noise(self, steps, trials, dice):
        """Normal numbers of all populations for so many steps, in the order in which the plain step draws them."""
        named = [(n, f"noise{n.number}_{name}") for n in self.body.cells for name in n.step.noise]
        made = {slot: torch.zeros((steps, trials, n.padded), dtype=self.dtype) for n, slot in named}
        for t in range(steps):
            for n, slot in named:
                made[slot][t, :, : n.size] = torch.randn((trials, n.size), generator=dice, dtype=self.dtype)
        return made

    def raise_runaway(self, code):
        step, place = divmod(code, len(self.body.cells))
        raise not_finite(self.body.cells[place].name, step)


def taken(array, a, shape):
    """The numbers of an adaptation out of a padded array, in their ``shape``."""
    values = array[: a.rows, : a.columns]
    return (values if not a.node else values[0] if shape else values[0, 0]).clone()


def is_diagonal(mask):
    """Whether a mask joins each neuron to one partner."""
    mask = np.asarray(mask)
    return mask.shape[0] == mask.shape[1] and bool((mask == np.eye(len(mask), dtype=bool)).all())


def blocks_of(trials, threads, most):
    """``(first, how many)`` of blocks of ``most`` trials or fewer, of about equal size and as many for each thread."""
    count = -(-trials // (most * threads)) * threads
    edges = share(trials, 8, count)
    return [(a, b - a) for a, b in pairwise(edges) if b > a]
