"""Learning online in generated C: the fast form of :class:`~localplast.backends.torch_traces.OnlineLearner`.

The kernel is made from the plan (:mod:`localplast.backends.kernel_online`); it carries traces forward, and runs the
optimiser in every step where the rule says so.
"""

import ctypes

import numpy as np
import torch

from localplast.backends.kernel_build import build
from localplast.backends.kernel_expression import check_c_form
from localplast.backends.kernel_online import Online, fields, source
from localplast.backends.kernel_plan import make_plan, why_not
from localplast.backends.torch_fused import constant_arrays
from localplast.loss import Reward

__all__ = ["OnlineKernel", "why_not_online"]

TYPES = {"unsigned": torch.int32, "int": torch.int32, "long": torch.int64}


def why_not_online(net, plan, optimiser=None, *, batch=1):
    """Why the kernel cannot learn this online, as a sentence, or None if it can."""
    if plan.rule.update != "trial" and batch > 1:
        return f"weights change within a trial, with {batch} trials side by side: the kernel runs one trial after the other"
    if reason := why_not_signals(net, plan):
        return reason
    expressions = []
    for s in plan.synapses.values():
        e = s.eligibility
        expressions += [x for _, x in (*e.before, *e.after, *e.before_reset, *e.pre, *s.program)]
    if plan.rule.update == "step" and optimiser:
        expressions += [x for name in plan.synapses for _, x in optimiser.program(projection=name)]
    return why_not(net) or check_c_form(expressions)


def why_not_signals(net, plan):
    """Why the kernel has no text for the learning signals of this plan, or None."""
    terms = [t for s in plan.signals.values() for t in s.terms]
    if isinstance(plan.loss, Reward):
        return "reward comes late"
    if len(plan.readouts) > 1:
        return "there are several readouts"
    if plan.rule.interval(net.dt) > 1:
        return f"weights change every {plan.rule.update}"
    if any(n.shift or n.end or n.past for n in plan.neurons.values()):
        return "neurons keep traces of their own"
    if any(len(s.sums) > 1 for s in plan.synapses.values()):
        return "delays learn"
    if len(terms) > len(plan.signals) or any(t.variable != "error" or t.form == "sign" for t in terms):
        return "the error does not come straight from the readout"
    if plan.learned and plan.rule.update != "trial":
        return "feedback that learns in every step"
    return None


class OnlineKernel:
    """A network that learns online, compiled.

    Parameters
    ----------
    net : Network
    plan : localplast.plan.Plan
    tensors : dict of str to tensor
        From :func:`~localplast.backends.torch_step.leaves`, on the CPU; their dtype is that of all arithmetic.
    masks : dict of str to bool array ``(pre, post)``
    optimiser : Optimiser, optional
        What runs in every step, for rules with ``update='step'``.

    Notes
    -----
    Memory does not depend on the length of trials. Calls of one object share it: make one object per thread of your own.
    """

    def __init__(self, net, plan, tensors, masks, optimiser=None):
        self.plan, self.masks = plan, {k: torch.as_tensor(m) for k, m in masks.items()}
        body = make_plan(net, tensors, cut=(), block=1)
        optimiser = optimiser if plan.rule.update == "step" else None
        masked = frozenset(n for n in plan.synapses if not bool(self.masks[n].all()))
        bounds = {n: net.bounds(n) for n in plan.synapses if optimiser and not optimiser.frozen(n)}
        self.online = Online(body, plan, optimiser, masked, {n: b for n, b in bounds.items() if b}, float(net.dt))
        self.fields, self.dtype = list(fields(self.online)), torch.float64 if body.double else torch.float32
        self.library = build(source(self.online))
        self.library.learn.restype = None
        self.library.learn.argtypes = [ctypes.c_void_p] + [ctypes.c_long] * 3
        self.fixed = constant_arrays(body, net, tensors)
        self.fixed |= self.rings() | self.feedback()
        for k in self.online.plastic():
            self.fixed[f"mask{k.number}"] = self.pad(self.masks[k.name].to(self.dtype), k.post.padded)
        for s in self.online.synapses:
            for slot, bound in s.limits().items():
                self.fixed[slot] = self.pad(torch.tensor(bound), 1 if bound.shape[1] == 1 else s.link.post.padded)
        self.fixed |= self.memory()

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
        """Fixed feedback ``(neuron, readout)``."""
        numbers = {n.name: n.number for n in self.online.body.cells}
        return {
            f"feedback{numbers[name]}": torch.as_tensor(matrix).to(self.dtype).contiguous()
            for (name, _), matrix in self.plan.fixed.items()
        }

    def learned(self, feedback):
        """Feedback that learns, given by projection ``(neuron, readout)``."""
        numbers = {n.name: n.number for n in self.online.body.cells}
        pre = {k.name: k.pre.name for k in self.online.body.links}
        return {f"feedback{numbers[pre[name]]}": b.to(self.dtype).contiguous() for name, b in (feedback or {}).items()}

    def memory(self):
        """Everything that lives within a trial."""
        types = {**TYPES, "real": self.dtype, "mask": torch.int64 if self.dtype == torch.float64 else torch.int32}
        made = {}
        for slot, kind, shape, life in self.fields:
            if life != "given":
                made[slot] = torch.zeros([d if isinstance(d, int) else self.lengths[d[1]] for d in shape], dtype=types[kind])
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
        gradients : dict of str to tensor ``(pre, post)``, mean over trials
        """
        trials = next(iter(inputs.values())).shape[1]
        arrays = {f"s{k.number}_gradient": torch.zeros((k.pre.size, k.post.padded), dtype=self.dtype)
                  for k in self.online.plastic()}  # fmt: skip
        found = self.run(self.padded(weights) | arrays | self.learned(feedback), inputs, target, weight)
        gradients = {
            k.name: arrays[f"s{k.number}_gradient"][:, : k.post.size] / trials * self.masks[k.name]
            for k in self.online.plastic()
        }
        return *found, gradients

    def learn(self, weights, state, inputs, target, weight, updates):
        """Present one trial, the optimiser running in every step.

        Parameters
        ----------
        state : dict of str to dict of str to tensor ``(pre, post)``
            The optimiser's memory, by plastic projection.
        updates : int
            Updates before this trial.

        Returns
        -------
        outputs, counts : as :meth:`gradients` gives them
        weights, state : as they were given, after the trial
        """
        arrays, steps = self.padded(weights), len(weight)
        for s in self.online.synapses:
            k = s.link
            arrays |= {f"s{k.number}_opt_{n}": self.pad(m, k.post.padded) for n, m in state[k.name].items()}
            arrays[f"schedule{k.number}"] = torch.as_tensor(s.schedule(updates + 1, steps)).to(self.dtype).contiguous()
        found = self.run(arrays, inputs, target, weight)
        for k in self.online.plastic():
            weights = {**weights, k.name: arrays[f"weight{k.number}"][:, : k.post.size].clone()}
            mine = {n: arrays[f"s{k.number}_opt_{n}"][:, : k.post.size].clone() for n in state[k.name]}
            state = {**state, k.name: mine}
        return *found, weights, state

    def padded(self, weights):
        """All weights, zero where there is no synapse."""
        links = self.online.body.links
        return {f"weight{k.number}": self.pad(weights[k.name] * self.masks[k.name], k.post.padded) for k in links}

    def run(self, arrays, inputs, target, weight):
        """Call the kernel; returns outputs and counts."""
        steps, trials = next(iter(inputs.values())).shape[:2]
        body, new = self.online.body, torch.zeros
        counts = {n: new((trials, n.size), dtype=self.dtype) for n in body.cells if n.spiking}
        outputs = new((steps, trials, self.online.readout.size), dtype=self.dtype)
        given = {f"data{n.number}": inputs[n.name].to(self.dtype).contiguous() for n in body.channels}
        given |= {f"count{n.number}": count for n, count in counts.items()}
        given |= {"target": target.to(self.dtype).contiguous(), "step_weight": weight.to(self.dtype).contiguous()}
        every = {**self.fixed, **arrays, **given, "output": outputs}
        pointers = [m.data_ptr() if (m := every.get(slot)) is not None else None for slot, *_ in self.fields]
        self.library.learn((ctypes.c_void_p * len(pointers))(*pointers), steps, trials, len(target))
        return outputs, {n.name: count for n, count in counts.items()}
