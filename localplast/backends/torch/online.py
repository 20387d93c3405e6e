"""Local rules in Torch as they run in a brain: traces carried forward step by step, for a batch of trials."""

from functools import cached_property

import torch

from localplast.backends.torch.finite import Guard
from localplast.backends.torch.interpreter import Interpreter, numbers
from localplast.backends.torch.reward import pay_step
from localplast.backends.torch.step import noise_dice, plain
from localplast.errors import UnsupportedError
from localplast.network.convolution import form_of
from localplast.network.delays import summed_over_shared
from localplast.program.arrays import Life
from localplast.program.finite import check_states
from localplast.program.online import is_product, matrices, online
from localplast.task.loss import Reward

__all__ = ["OnlineLearner"]


class OnlineLearner:
    """Runs a :class:`~localplast.program.learn.Plan` in Torch, step by step.

    Parameters
    ----------
    net : Network
    plan : Plan
    tensors : dict of str to tensor
        From :func:`localplast.backends.torch.step.leaves`.
    masks : dict of str to bool array
    widths : dict of str to float
        Of the kernels of delays that learn, in steps, by projection; default: those with which learning begins.
    record : iterable of str
        What can be read in every step, such as ``'rec.v'``.

    Attributes
    ----------
    learned : dict of str to tensor ``(pre, post)``
        Feedback that learns, by projection; the caller changes it with the weights.
    """

    def __init__(self, net, plan, tensors, masks, widths=None, record=()):
        check_kernels(net, plan)
        tensors = {**tensors, **{n: tensors[n].clone() for n in net.trainable}}  # they change in place here
        self.net, self.plan, self.tensors = net, plan, tensors
        self.spiking = [name for name, p in net.populations.items() if p.model.spiking]
        seen = [*(f"{r}.output" for r in plan.readouts), *(f"{name}.count" for name in self.spiking)]
        learned = [f"{name}.delay" for name, s in plan.synapses.items() if "gradient_delay" in s.sums]
        record = list(dict.fromkeys([*seen, *record]))
        self.program = online(net, plain(net, tensors), plan, record=record, learned=learned, widths=widths)
        found = numbers(net, self.program, tensors, masks, matrices(plan))
        self.interpreter = Interpreter(self.program, found, fixed=plan.rule.update == "trial")
        self.masks = {name: torch.as_tensor(masks[name]).to(self.like) for name in plan.synapses}
        self.others = {n: tensors[n] for n in net.trainable}
        self.learned = {name: found[f"{name}.feedback"] for name in plan.learned}

    @property
    def like(self):
        """A tensor of the type and on the device of all others."""
        return self.interpreter.like

    @property
    def weights(self):
        """The present weights, by projection."""
        found = {n.removesuffix(".weight"): x for n, x in self.interpreter.numbers.items() if self.is_weight(n)}
        return self.net.tie(found)

    def is_weight(self, name):
        return self.program.arrays[name].role == "weight"

    def follow_weights(self, weights):
        """Go on with other ``weights``, by projection."""
        found = {f"{n}.weight": w for n, w in weights.items() if f"{n}.weight" in self.interpreter.numbers}
        self.interpreter.learn(found | {f"{n}.feedback": b for n, b in self.learned.items()})

    @torch.no_grad()
    def run(self, inputs, target, weight, on_step=None, seed=0):
        """Present a batch of trials.

        Parameters
        ----------
        inputs : dict of str to tensor ``(time, trial, channel)``
        target : tensor ``(time or 1, trial, readout)``
        weight : tensor ``(time,)``
        on_step : callable, optional
            Called after every step with this learner and the step's number: weights may change there.
        seed : int or list of int
            Of noise.

        Returns
        -------
        outputs : tensor ``(time, trial, readout)``, those of several readouts side by side
        counts : dict of str to tensor ``(trial, neuron)``, spikes of each spiking population

        Raises
        ------
        RunawayError
            Compartments that learn from each other are not finite any more; names the step and the population.
        """
        self.follow_weights({})
        guard = Guard(self) if self.plan.rule.signal.drives_neurons else None

        def after(t):
            if guard:
                guard.look()
            if on_step:
                on_step(self, t)

        noisy = any(a.role == "noise" for a in self.program.arrays.values())
        dice = noise_dice(seed, self.like.device) if noisy else None
        seen = self.interpreter.run(self.given(inputs, target, weight), dice=dice, on_step=after).seen
        if guard:
            guard.check()
        check_states(self.last_states())
        outputs = torch.cat([seen[f"{r}.output.seen"] for r in self.plan.readouts], -1)
        return outputs, {name: seen[f"{name}.count.seen"] for name in self.spiking}

    def given(self, inputs, target, weight):
        """What the program is given, by array."""
        found = {f"{name}.given": x for name, x in inputs.items()} | {"(loss).weight": weight}
        found |= {f"{name}.learn.target": target for name in self.plan.readouts}
        if isinstance(self.plan.loss, Reward):
            due = torch.zeros_like(weight)
            due[pay_step(weight, self.plan.loss.steps(float(self.net.dt)))] = 1
            found["(reward).due"] = due
        return found | {"(trial).duration": weight.new_full((1,), len(weight) * float(self.net.dt))}

    def read(self, name):
        """What is recorded under this name, such as ``'rec.v'``, at the end of this step."""
        return self.interpreter.values[f"{name}.seen"]

    @cached_property
    def states(self):
        """The states of every population: names of arrays."""
        found = {name: [] for name in self.net.populations}
        for a in self.program.of(Life.STATE):
            if a.role in ("state", "inlet"):
                found[a.space].append(a.name)
        return found

    def last_states(self):
        """The state of all populations, by words that name each variable."""
        return {
            f"population {name!r}: {array.split('.', 1)[1]}": self.interpreter.values[array]
            for name, arrays in self.states.items()
            for array in arrays
        }

    # --- what has been learned ----------------------------------------------------------------------------------------

    def mean(self, name):
        """A sum of the program, per trial."""
        return self.interpreter.values[name] / self.interpreter.trials

    def gradients(self):
        """The estimate for every plastic projection, mean over trials, ``(pre, post)``."""
        return {name: self.mean(f"{name}.gradient") * self.masks[name] for name in self.plan.synapses}

    def other_gradients(self, tensors):
        """The estimates for parameters and delays, by name in ``tensors`` and of their shape, mean over trials."""
        found = {}
        for name, parameters in self.plan.parameters.items():
            for parameter in parameters:
                each = self.mean(f"{name}.learn.gradient_{parameter}")
                found[f"{name}.{parameter}"] = each if tensors[f"{name}.{parameter}"].ndim else each.sum()
        for name, s in self.plan.synapses.items():
            if "gradient_delay" in s.sums:
                each, delay = self.mean(f"{name}.gradient_delay") * self.masks[name], self.net.projections[name].delay
                found[f"{name}.delay"] = summed_over_shared(each, delay and delay.kind, tensors[f"{name}.delay"].ndim)
        return found

    def follow(self, weights, others):
        """Go on with other weights, by projection, and other values of what else learns; gradients begin anew."""
        self.follow_weights(weights)
        self.forget()
        for name, value in others.items():
            self.others[name].copy_(value)
        if others:
            self.interpreter.refresh()

    def forget(self):
        """Let all gradients begin anew."""
        for a in self.program.of(Life.SUM):
            self.interpreter.values[a.name] = torch.zeros_like(self.interpreter.values[a.name])


def check_kernels(net, plan):
    """Raise where places that share a kernel would hold traces of their own."""
    for name, s in plan.synapses.items():
        p = net.projections[name]
        if form_of(net.projections, p) and not is_product(s):
            raise UnsupportedError(
                f"projection {name!r}: places that share a kernel learn from what arrives times a mismatch of "
                f"{p.post!r}, and here synapses hold traces ({', '.join(s.state) or 'of their source'}); use bptt(), "
                "or dense weights"
            )
