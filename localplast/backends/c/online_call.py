"""Learning online in generated C: the fast form of :class:`~localplast.backends.torch.online.OnlineLearner`.

The kernel is made from the plan (:mod:`localplast.backends.c.online_step`); it carries traces forward, and runs the
optimiser within the trial where the rule says so.
"""

import ctypes
import threading

import torch

from localplast.backends.c.arguments import TYPES, check_inputs, pointers, share
from localplast.backends.c.compile import build
from localplast.backends.c.expression import check_c_form
from localplast.backends.c.layout import check_diverged, constant_arrays, make_plan, why_not
from localplast.backends.c.online_signals import matrix_slot
from localplast.backends.c.online_step import Online, fields, source

__all__ = ["OnlineKernel", "why_not_online"]


def why_not_online(net, plan, optimiser=None, *, batch=1, delays=None):
    """Why the kernel cannot learn this online, as a sentence, or None if it can; ``delays`` in steps, by projection."""
    if plan.rule.update != "trial" and batch > 1:
        return f"weights change within a trial, with {batch} trials side by side: the kernel runs one trial after the other"
    if net.learned_delays:
        return "delays learn, and lie between two steps then"
    between = [name for name, steps in (delays or {}).items() if bool((steps != steps.round()).any())]
    if between:
        return f"projection {between[0]!r} has delays between two steps"
    expressions = []
    for n in plan.neurons.values():
        expressions += [x for _, x in (*n.shift, *n.before, *n.after, *n.before_reset, *n.end)]
    for s in plan.synapses.values():
        expressions += [x for _, x in (*s.eligibility.pre, *s.program)]
    if plan.rule.update != "trial" and optimiser:
        expressions += [x for name in plan.synapses for _, x in optimiser.program(projection=name)]
    return why_not(net) or check_c_form(expressions)


class OnlineKernel:
    """A network that learns online, compiled.

    Parameters
    ----------
    net : Network
    plan : localplast.program.learn.Plan
    tensors : dict of str to tensor
        From :func:`~localplast.backends.torch.step.leaves`, on the CPU; their dtype is that of all arithmetic.
    masks : dict of str to bool array ``(pre, post)``
    optimiser : Optimiser, optional
        What changes weights within a trial, for rules with ``update='step'`` or a time.
    threads : int
        Where weights change between trials only, these are split between threads.

    Notes
    -----
    Memory does not depend on the length of trials. Calls of one object share it: make one object per thread of your
    own.
    """

    def __init__(self, net, plan, tensors, masks, optimiser=None, *, threads=1):
        self.net, self.plan, self.masks = net, plan, {k: torch.as_tensor(m) for k, m in masks.items()}
        body, self.interval = make_plan(net, tensors), plan.rule.interval(net.dt)
        optimiser = optimiser if self.interval else None
        masked = frozenset(n for n in plan.synapses if not bool(self.masks[n].all()))
        bounds = {n: net.bounds(n) for n in plan.synapses if optimiser and not optimiser.frozen(n)}
        self.online = Online(
            body, plan, optimiser, masked, {n: b for n, b in bounds.items() if b}, float(net.dt), self.interval
        )
        self.dtype = torch.float64 if body.double else torch.float32
        self.library = build(source(self.online))
        self.library.learn.restype = ctypes.c_long
        self.library.learn.argtypes = [ctypes.c_void_p] + [ctypes.c_long] * 5
        self.fields = list(fields(self.online))  # once the text has asked for all constants
        self.arguments = {slot: (kind, shape) if life == "given" else None for slot, kind, shape, life in self.fields}
        self.fixed = constant_arrays(body, net, tensors)
        self.fixed |= self.rings() | self.feedback()
        for k in self.online.plastic():
            self.fixed[f"mask{k.number}"] = self.pad(self.masks[k.name].to(self.dtype), k.post.padded)
        for s in self.online.synapses:
            for slot, bound in s.limits().items():
                self.fixed[slot] = self.pad(torch.tensor(bound), 1 if bound.shape[1] == 1 else s.link.post.padded)
        self.memories = [self.memory() for _ in range(threads if optimiser is None else 1)]

    def refresh(self, tensors):
        """Take over parameters that have changed."""
        self.fixed |= constant_arrays(self.online.body, self.net, tensors)

    # --- memory ---------------------------------------------------------------------------------------------------

    def rings(self):
        """Steps that spikes are remembered for, by node, then by link."""
        body = self.online.body
        longest = {k: int(self.fixed[f"delay{k.number}"].max()) + 1 for k in body.links}
        shared = [k for k in body.links if k.kind == "shared"]
        nodes = [max([1, *(longest[k] for k in shared if k.pre is n)]) for n in body.nodes]
        self.lengths = dict(zip((*body.nodes, *body.links), [*nodes, *longest.values()], strict=True))
        return {"rings": torch.tensor(list(self.lengths.values()), dtype=torch.int64)}

    def feedback(self):
        """Feedback that does not learn: fixed matrices, and the gains of signs."""
        return {
            matrix_slot(self.online, name, t): self.pad(
                torch.as_tensor(t.matrix), self.online.population(t.source).padded
            )
            for name, t in self.online.terms
            if t.form in ("fixed", "sign")
        }

    def learned(self, feedback):
        """Feedback that learns, given by projection ``(pre, post)``."""
        links = [k for k in self.online.body.links if k.name in (feedback or {})]
        return {f"back{k.number}": self.pad(feedback[k.name], k.post.padded) for k in links}

    def memory(self):
        """Everything that lives within a trial."""
        types = {**TYPES, "real": self.dtype, "mask": torch.int64 if self.dtype == torch.float64 else torch.int32}
        made = {}
        for slot, kind, shape, life in self.fields:
            if life != "given":
                made[slot] = torch.zeros(
                    [d if isinstance(d, int) else self.lengths[d[1]] for d in shape], dtype=types[kind]
                )
        return made

    def pad(self, matrix, columns):
        padded = matrix.new_zeros((matrix.shape[0], columns), dtype=self.dtype)
        padded[:, : matrix.shape[1]] = matrix
        return padded

    # --- running --------------------------------------------------------------------------------------------------

    def gradients(self, weights, inputs, target, weight, feedback=None):
        """Present trials; weights stay.

        Parameters
        ----------
        weights : dict of str to tensor ``(pre, post)``
            All projections.
        inputs : dict of str to tensor ``(time, trial, channel)``
        target : tensor ``(time or 1, trial, readout)``
        weight : tensor ``(time,)``
        feedback : dict of str to tensor ``(pre, post)``, optional
            Feedback that learns, by projection.

        Returns
        -------
        outputs : tensor ``(time, trial, readout)``
        counts : dict of str to tensor ``(trial, neuron)``
        gradients : dict of str to tensor ``(pre, post)``, mean over trials; and of parameters, by name and of their
        shape
        """
        trials = next(iter(inputs.values())).shape[1]
        sums = [
            (f"q{n.number}_{name}", (n.padded,)) for n in self.online.body.cells for name in self.online.neurons(n).sums
        ]
        sums += [(f"s{k.number}_gradient", (k.pre.size, k.post.padded)) for k in self.online.plastic()]
        private = [{slot: torch.zeros(shape, dtype=self.dtype) for slot, shape in sums} for _ in self.memories]
        found = self.run(self.padded(weights) | self.learned(feedback), private, inputs, target, weight)
        total = {slot: sum(mine[slot] for mine in private) / trials for slot, _ in sums}
        gradients = {
            k.name: total[f"s{k.number}_gradient"][:, : k.post.size] * self.masks[k.name] for k in self.online.plastic()
        }
        return *found, gradients | self.of_parameters(total)

    def of_parameters(self, total):
        """Gradients of parameters, by name; of one that all neurons share, their sum."""
        found = {}
        for n in self.online.body.cells:
            for name in self.plan.parameters[n.name]:
                each = total[f"q{n.number}_gradient_{name}"][: n.size]
                found[f"{n.name}.{name}"] = each if n.constants.values[name].ndim else each.sum()
        return found

    def learn(self, weights, state, inputs, target, weight, updates, feedback=None):
        """Present one trial, the optimiser running within it.

        Parameters
        ----------
        state : dict of str to dict of str to tensor ``(pre, post)``
            The optimiser's memory, by plastic projection.
        updates : int
            Updates before this trial.
        feedback : as for :meth:`gradients`

        Returns
        -------
        outputs, counts : as :meth:`gradients` gives them
        weights, state, feedback : as they were given, after the trial
        """
        arrays, many = self.padded(weights) | self.learned(feedback), -(-len(weight) // self.interval)
        for s in self.online.synapses:
            k = s.link
            arrays |= {f"s{k.number}_opt_{n}": self.pad(m, k.post.padded) for n, m in state[k.name].items()}
            arrays[f"schedule{k.number}"] = torch.as_tensor(s.schedule(updates + 1, many)).to(self.dtype).contiguous()
        found = self.run(arrays, [{}], inputs, target, weight)
        for k in self.online.plastic():
            weights = {**weights, k.name: arrays[f"weight{k.number}"][:, : k.post.size].clone()}
            mine = {n: arrays[f"s{k.number}_opt_{n}"][:, : k.post.size].clone() for n in state[k.name]}
            state = {**state, k.name: mine}
            if k.name in (feedback or {}):
                feedback = {**feedback, k.name: arrays[f"back{k.number}"][:, : k.post.size].clone()}
        return *found, weights, state, feedback

    def padded(self, weights):
        """All weights, zero where there is no synapse."""
        links = self.online.body.links
        return {f"weight{k.number}": self.pad(weights[k.name] * self.masks[k.name], k.post.padded) for k in links}

    def run(self, arrays, private, inputs, target, weight):
        """Call the kernel, ``private`` holding arrays of each thread; returns outputs and counts."""
        check_inputs(self.net, inputs)
        steps, trials = next(iter(inputs.values())).shape[:2]
        body, new = self.online.body, torch.zeros
        counts = {n: new((trials, n.size), dtype=self.dtype) for n in body.cells if n.spiking}
        outputs = new((steps, trials, sum(n.size for n in self.online.readouts)), dtype=self.dtype)
        given = {}
        for n in body.channels:  # a raster is read as it is: memory must not grow with the trial
            x = inputs[n.name]
            raster = x.dtype == torch.bool
            slot = f"{'raster' if raster else 'data'}{n.number}"
            given[slot] = x.transpose(0, 1).contiguous() if raster else x.to(self.dtype).contiguous()
        given |= {f"count{n.number}": count for n, count in counts.items()}
        given |= {"target": target.to(self.dtype).contiguous(), "step_weight": weight.to(self.dtype).contiguous()}
        every = {**self.fixed, **arrays, **given, "output": outputs}
        sizes = {"T": steps, "B": trials, "U": -(-steps // (self.interval or steps))}
        sizes["rows"] = steps if len(target) > 1 else 1
        edges, each = share(trials, 1, len(private)), zip(self.memories, private, strict=False)
        tables = [pointers(self.arguments, {**every, **memory, **mine}, self.dtype, sizes) for memory, mine in each]
        found = [-1] * len(private)

        def work(number):
            ends = edges[number], edges[number + 1]
            found[number] = self.library.learn(tables[number], steps, trials, len(target), *ends)

        others = [threading.Thread(target=work, args=(number,)) for number in range(1, len(private))]
        for thread in others:
            thread.start()
        work(0)
        for thread in others:
            thread.join()
        check_diverged(body.cells, found)
        return outputs, {n.name: count for n, count in counts.items()}
