"""Local rules as they run in a brain: traces carried forward step by step, weights that may change on the way."""

from functools import cached_property

import torch

from localplast.backends.torch.finite import Guard
from localplast.backends.torch.interpreter import Interpreter, numbers
from localplast.backends.torch.reward import pay_step
from localplast.backends.torch.step import noise_dice, plain
from localplast.backends.torch.synapses import as_matrix, as_vector, laid
from localplast.errors import UnsupportedError
from localplast.network.convolution import form_of
from localplast.network.delays import summed_over_shared
from localplast.program.arrays import Life, Sparse
from localplast.program.finite import check_states
from localplast.program.online import is_product, online
from localplast.program.update import SHARE, K
from localplast.task.loss import Reward

__all__ = ["OnlineLearner"]


class OnlineLearner:
    """A :class:`~localplast.program.learn.Plan` that runs, for a batch of trials side by side.

    Parameters
    ----------
    net : Network
    plan : Plan
    tensors : dict of str to tensor
        From :func:`localplast.backends.torch.step.leaves`.
    masks : dict of str to bool array
    optimiser : Optimiser, optional
        What changes numbers within a trial, for rules that do so.
    widths : dict of str to float
        Of the kernels of delays that learn, in steps, by projection; default: those with which learning begins.
    record : iterable of str
        What can be read in every step, such as ``'rec.v'``.

    Attributes
    ----------
    program : Program
    numbers : dict of str to tensor
        Of all arrays that no step changes, and of those that learn as they are now: ``'rec_rec.weight'``,
        ``'rec_rec.feedback'``, ``'rec_rec.optimiser.m'``, ``'rec.tau_mem'``.
    """

    def __init__(self, net, plan, tensors, masks, optimiser=None, *, widths=None, record=()):
        check_kernels(net, plan)
        self.net, self.plan, self.tensors, self.widths = net, plan, tensors, widths
        self.spiking = [name for name, p in net.populations.items() if p.model.spiking]
        seen = [*(f"{r}.output" for r in plan.readouts), *(f"{name}.count" for name in self.spiking)]
        learned = [f"{name}.delay" for name, s in plan.synapses.items() if "gradient_delay" in s.sums]
        self.interval = plan.rule.interval(net.dt) if optimiser else 0
        learned += [f"{name}.weight" for name in plan.synapses]
        learned += [f"{name}.{key}" for name, keys in plan.parameters.items() for key in keys]
        record = list(dict.fromkeys([*seen, *record]))
        options = {"record": record, "learned": learned, "widths": widths, "optimiser": optimiser, "masks": masks}
        self.program, more = online(net, plain(net, tensors, masks), plan, **options)
        self.numbers = numbers(net, self.program, tensors, masks, more=more)
        self.exists, whole = masks, [n for n in masks if not isinstance(self.program.spaces[n].form, Sparse)]
        self.masks = {name: torch.as_tensor(masks[name]).to(self.like) for name in whole}
        self.engine = self.made()

    def made(self):
        """What runs the program."""
        return Interpreter(self.program, self.numbers, fixed=self.plan.rule.update == "trial")

    @cached_property
    def like(self):
        """A tensor of the type and on the device of all others."""
        return next(x for x in self.numbers.values() if torch.is_tensor(x))

    # --- what learns --------------------------------------------------------------------------------------------------

    def follow(self, learning):
        """Go on with other numbers.

        Parameters
        ----------
        learning : dict of str to tensor
            By array: ``'rec_rec.weight'``, ``'rec_rec.feedback'``, ``'rec_rec.optimiser.m'``, ``'rec.tau_mem'``;
            those of synapses ``(pre, post)`` or ``(synapse,)`` (:mod:`localplast.backends.torch.synapses`).
        """
        for name in learning.keys() & self.numbers.keys():
            found, array = self.laid(name, learning[name]), self.program.arrays[name]
            self.numbers[name] = self.there(array.space, found) if array.role == "weight" else found

    def left(self, name, like):
        """What has become of a number within the trials, in its own shape."""
        found, owner = self.numbers[name], self.program.arrays[name].space
        if owner in self.exists:
            found = (as_vector if like.ndim == 1 else as_matrix)(found, self.exists[owner])
        return found.reshape(like.shape)

    def laid(self, name, x):
        """A number as the program has it."""
        owner = self.program.arrays[name].space
        return laid(x, self.program.spaces[owner].form, self.exists[owner]) if owner in self.exists else x

    def there(self, name, x):
        """What synapses have, zero where there is none."""
        return x * self.masks[name] if name in self.masks else x

    @torch.no_grad()
    def run(self, inputs, target, weight, *, updates=0, on_step=None, seed=0):
        """Present a batch of trials.

        Parameters
        ----------
        inputs : dict of str to tensor ``(time, trial, channel)``
        target : tensor ``(time or 1, trial, readout)``
        weight : tensor ``(time,)``
        updates : int
            How many there have been before.
        on_step : callable, optional
            Called at the end of every step with this learner and the step's number.
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
        self.trace = self.present(self.given(inputs, target, weight, updates), seed, on_step)
        self.trials = target.shape[1]
        self.numbers |= self.trace.learned
        seen = self.trace.seen
        outputs = torch.cat([seen[f"{r}.output.seen"] for r in self.plan.readouts], -1)
        return outputs, {name: seen[f"{name}.count.seen"] for name in self.spiking}

    def present(self, given, seed, on_step):
        """Run the program; returns its :class:`~localplast.backends.torch.interpreter.Trace`."""
        guard = Guard(self) if self.plan.rule.signal.drives_neurons else None

        def after(t):
            if guard:
                guard.look()
            if on_step:
                on_step(self, t)

        noisy = any(a.role == "noise" for a in self.program.arrays.values())
        dice = noise_dice(seed, self.like.device) if noisy else None
        self.engine.learn(self.numbers)
        trace = self.engine.run(given, dice=dice, on_step=after)
        if guard:
            guard.check()
        check_states(self.last_states())
        return trace

    def given(self, inputs, target, weight, updates):
        """What the program is given, by array."""
        steps, trials = len(weight), target.shape[1]
        found = {f"{name}.given": x for name, x in inputs.items()} | {"(loss).weight": weight}
        found |= {f"{name}.learn.target": target for name in self.plan.readouts}
        if isinstance(self.plan.loss, Reward):
            due = torch.zeros_like(weight)
            due[pay_step(weight, self.plan.loss.steps(float(self.net.dt)))] = 1
            found["(reward).due"] = due
        if self.interval:
            found |= {K: [updates + 1 + t // self.interval for t in range(steps)], SHARE: [1 / trials]}
        return found | {"(trial).duration": weight.new_full((1,), steps * float(self.net.dt))}

    def read(self, name):
        """What is recorded under this name, such as ``'rec.v'``, at the end of this step."""
        return self.engine.values[f"{name}.seen"]

    @property
    def weights(self):
        """The weights at the end of this step, by projection."""
        own = [a.name for a in self.program.arrays.values() if a.role == "weight"]
        found = {n.removesuffix(".weight"): self.engine.values[n] for n in own}
        return self.net.tie({n: as_matrix(x, self.exists[n]) for n, x in found.items()})

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
            f"population {name!r}: {array.split('.', 1)[1]}": self.engine.values[array]
            for name, arrays in self.states.items()
            for array in arrays
        }

    # --- what has been summed up --------------------------------------------------------------------------------------

    def mean(self, name):
        """A sum of the program, per trial."""
        return self.trace.sums[name] / self.trials

    def gradients(self):
        """The estimate for every plastic projection, mean over trials, as its weights lie in the program."""
        return {name: self.there(name, self.mean(f"{name}.gradient")) for name in self.plan.synapses}

    def other_gradients(self, tensors):
        """The estimates for parameters and delays, by name in ``tensors`` and of their shape, mean over trials."""
        found = {}
        for name, parameters in self.plan.parameters.items():
            for parameter in parameters:
                each = self.mean(f"{name}.learn.gradient_{parameter}")
                found[f"{name}.{parameter}"] = each if tensors[f"{name}.{parameter}"].ndim else each.sum()
        for name, s in self.plan.synapses.items():
            if "gradient_delay" in s.sums:
                each = self.there(name, self.mean(f"{name}.gradient_delay"))
                each, delay = as_matrix(each, self.exists[name]), self.net.projections[name].delay
                found[f"{name}.delay"] = summed_over_shared(each, delay and delay.kind, tensors[f"{name}.delay"].ndim)
        return found


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
