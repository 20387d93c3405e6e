"""Local rules in Torch as they run in a brain: traces carried forward step by step, for a batch of trials.

Shapes: pre ``(trial, pre, 1)``, post ``(trial, 1, post)``, synapse ``(trial, pre, post)``.
"""

import torch

from localplast.backends.torch.convolution import kernel_gradient
from localplast.backends.torch.delay_line import Line, slope_of, taps_of
from localplast.backends.torch.finite import Guard
from localplast.backends.torch.reward import pay_step
from localplast.backends.torch.step import Twin
from localplast.equations.tape import Tape
from localplast.errors import UnsupportedError
from localplast.learning.eligibility import ARRIVED
from localplast.network.convolution import form_of
from localplast.network.delays import kernel_kind, kernel_widths, summed_over_shared
from localplast.neuron.step import resolved
from localplast.program.finite import check_states
from localplast.task.loss import Reward, of_trials

__all__ = ["OnlineLearner"]


class NeuronTraces:
    """What the neurons of one population compute for the synapses that end on them."""

    PARTS = ("shift", "before", "after", "before_reset", "end")

    def __init__(self, net, name, plan, tensors):
        constants = {k: tensors[f"{name}.{k}"].detach() for k in net.nodes[name].values}
        constants["dt"] = float(net.dt)
        self.past, self.sums = plan.past, plan.sums
        model = net.nodes[name].model
        programs = {part: [(n, resolved(model, e)) for n, e in getattr(plan, part)] for part in self.PARTS}
        self.tapes = {part: Tape(program, constants) for part, program in programs.items()}

    def start(self, shape, like):
        self.values = {name: like.new_zeros(shape) for name in (*self.past, *self.sums)}

    def look(self, part, state):
        """Run one of the programs on the state of this moment."""
        tape = self.tapes[part]
        if tape.outputs:
            self.values.update(tape({**self.values, **state}))


class Synapses:
    """The traces of one plastic projection."""

    def __init__(self, net, projection, plan, tensors, width):
        self.p, self.plan, self.form = projection, plan, form_of(net.projections, projection)
        eligibility = plan.eligibility
        constants = {k: tensors[f"{projection.post}.{k}"].detach() for k in net.nodes[projection.post].values}
        constants["dt"] = float(net.dt)
        self.hoisted, self.program = Tape(eligibility.pre, constants), Tape(plan.program, constants)
        steps = tensors[f"{projection.name}.delay"].detach()
        shape = net.size(projection.pre), net.size(projection.post)
        self.whole = eligibility.arrives == "synapse"
        along = (
            steps.unsqueeze(1)
            if self.whole and getattr(projection.delay, "kind", None) == "axonal" and steps.ndim
            else steps
        )
        steps = along.expand(shape).flatten() if self.whole else steps.expand(shape[:1])
        columns = torch.arange(shape[0], device=steps.device).repeat_interleave(shape[1] if self.whole else 1)
        kernel = kernel_kind(projection.delay), width
        learns = "gradient_delay" in plan.sums
        self.line = Line(shape[0], *taps_of(steps, *kernel), columns)
        #: where the delay learns: how what arrives changes with it
        self.slope = Line(shape[0], *slope_of(steps, *kernel), columns) if learns else None

    def start(self, trials, like, shape):
        self.pre = {name: like.new_zeros(trials, shape[0]) for name, _ in self.plan.eligibility.pre}
        self.stored = {name: like.new_zeros(trials, *shape) for name in (*self.plan.state, *self.plan.sums)}
        self.line.start()
        if self.slope:
            self.slope.start()

    def arrive(self, signal):
        """What the synapses deliver in this step: ``(trial, pre, 1)`` or ``(trial, pre, post)``."""
        self.arrived, self.later = self.read(self.line, signal), None
        if self.slope:  # with the slope in place of what a whole step changes
            self.later = self.arrived + self.read(self.slope, signal)

    def read(self, line, signal):
        found = line.read(signal)
        if found is None:
            found = signal.new_zeros(len(signal), len(line.columns))
        return found.unflatten(1, (line.width, -1)) if self.whole else found

    def learn(self, per_neuron, z, weight):
        """The synapse program, and the hoisted traces one step further."""
        values = {n: v.unsqueeze(1) if getattr(v, "ndim", 0) == 2 else v for n, v in per_neuron.items()}
        if z is not None:
            values["z"] = z.unsqueeze(1)
        values.update({name: v.unsqueeze(-1) for name, v in self.pre.items()})
        values.update(self.stored, w=weight)
        values["arrived"] = self.arrived if self.whole else self.arrived.unsqueeze(-1)
        if self.slope:
            values["past_arrived"] = self.later if self.whole else self.later.unsqueeze(-1)
        new, like = self.program(values), self.stored["gradient"]
        self.eligibility = full(new["elig"], like)
        self.stored = {name: full(new[name], like) for name in self.stored}
        if self.pre:
            late = {} if self.later is None else {"past_arrived": self.later}
            new = self.hoisted({**self.pre, "arrived": self.arrived, **late})
            self.pre = {name: full(x, self.arrived) for name, x in new.items()}

    @property
    def mean(self):
        """The gradient, mean over trials."""
        return self.stored["gradient"].mean(0)

    def regularise(self, factor, weight):
        """Add what the rates of a trial say, known at its end."""
        stored = self.stored
        stored["gradient"] = stored["gradient"] + factor * stored["elig_sum"]
        if "gradient_delay" in stored:
            stored["gradient_delay"] = stored["gradient_delay"] + factor * weight * stored["drift_elig_sum"]


class Outer(Synapses):
    """Synapses that remember nothing: all trials' gradients in one product of what arrives and what the neurons get
    wrong.
    """

    @staticmethod
    def suits(plan):
        """Whether the gradient is a product of what arrives and a mismatch."""
        found = plan.eligibility
        return bool(found.end) and found.arrives == "pre" and not (found.pre or plan.state) and found.value == ARRIVED

    def start(self, trials, like, shape):
        self.trials, self.stored = trials, {"gradient": like.new_zeros(shape)}
        self.line.start()

    def learn(self, per_neuron, z, weight):
        """As :meth:`Synapses.learn`."""
        error = torch.as_tensor(per_neuron[self.plan.eligibility.mismatch]).to(self.arrived)
        self.stored["gradient"] = self.stored["gradient"] - self.outer(self.arrived, error.expand(self.trials, -1))

    def outer(self, pre, post):
        """``sum pre * post`` over trials, ``(pre, post)``; of a kernel, over the places that share it as well."""
        return kernel_gradient(pre, post, self.form) if self.form else pre.T @ post

    @property
    def mean(self):
        """As of :class:`Synapses`."""
        return self.stored["gradient"] / self.trials


def kind_of(net, name, plan):
    """What the synapses of a projection are: :class:`Outer` where they can be."""
    if Outer.suits(plan):
        return Outer
    if form_of(net.projections, net.projections[name]):
        post = net.projections[name].post
        raise UnsupportedError(
            f"projection {name!r}: places that share a kernel learn from what arrives times a mismatch of {post!r}, "
            f"and here synapses hold traces ({', '.join(plan.state) or 'of their source'}); use bptt(), or dense "
            "weights"
        )
    return Synapses


def full(value, like):
    """``value`` in the shape of ``like``; a trace without memory may be a mere number."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).expand(like.shape)


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
        As of :class:`~localplast.backends.torch.step.Twin`.

    Attributes
    ----------
    learned : dict of str to tensor ``(pre, post)``
        Feedback that learns, by projection; the caller changes it with the weights.
    """

    def __init__(self, net, plan, tensors, masks, widths=None):
        self.net, self.plan = net, plan
        widths = {**kernel_widths(net), **(widths or {})}
        self.twin = Twin(net, tensors, masks, hoist=plan.rule.update == "trial", widths=widths)
        self.masks = {name: torch.as_tensor(masks[name]).to(self.twin.like) for name in plan.synapses}
        self.neurons = {name: NeuronTraces(net, name, p, tensors) for name, p in plan.neurons.items()}
        self.synapses = {
            name: kind_of(net, name, s)(net, net.projections[name], s, tensors, widths[name])
            for name, s in plan.synapses.items()
        }
        self.others = {n: tensors[n] for n in net.trainable}
        self.fixed = {k: torch.as_tensor(b).to(self.twin.like) for k, b in plan.fixed.items()}
        self.learned = {k: torch.as_tensor(b).to(self.twin.like) for k, b in plan.learned.items()}

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
        steps, trials = next(iter(inputs.values())).shape[:2]
        self.twin.start(inputs, seed)
        for name, n in self.neurons.items():
            n.start((trials, self.net.size(name)), self.twin.like)
        for name, s in self.synapses.items():
            s.start(trials, self.twin.like, self.twin.links[name].weight.shape)
        outputs, self.counts = [], {k: 0 for k, n in self.twin.neurons.items() if n.model.spiking}
        guard = Guard(self.twin) if self.plan.rule.taught else None
        for t in range(steps):
            self.step(t)
            outputs.append(self.judge(t, target[min(t, len(target) - 1)], weight, inputs))
            self.learn()
            if guard:
                guard.look()
            if on_step:
                on_step(self, t)
        if guard:
            guard.check()
        check_states(self.twin.last_states())
        self.add_regulariser(steps)
        return torch.stack(outputs), self.counts

    def step(self, t):
        """Advance the network, letting the neurons look at themselves where their programs ask for it."""
        twin = self.twin
        old = {k: dict(n.state) for k, n in twin.neurons.items()}
        twin.integrate()
        for name, n in self.neurons.items():
            neurons = twin.neurons[name]
            extra = {"not_refractory": neurons.ready} if neurons.since is not None else {}
            n.look("shift", {})
            n.look("before", {**old[name], **extra})
            n.look("after", {**neurons.state, **extra})
        twin.transmit(t)
        for name, n in self.neurons.items():
            n.look("before_reset", twin.neurons[name].state)
        for s in self.synapses.values():
            if not s.plan.eligibility.source:
                s.arrive(twin.sent[s.p.name])
        twin.jump()
        for s in self.synapses.values():
            if s.plan.eligibility.source:
                s.arrive(twin.neurons[s.p.pre].value(s.plan.eligibility.source))
        for name in self.counts:
            self.counts[name] = self.counts[name] + twin.neurons[name].z

    def judge(self, t, target, weight, inputs):
        """Errors of the readouts; returns their outputs side by side."""
        outputs = {name: self.twin.neurons[name].output() for name in self.plan.readouts}
        if isinstance(self.plan.loss, Reward):
            self.judge_reward(t, outputs, target, weight, inputs)
        else:
            for name, output in outputs.items():
                error, lure = self.plan.loss.error(output, target), -target.expand(output.shape)
                self.neurons[name].values.update(error=weight[t] * error, lure=weight[t] * lure)
        return torch.cat(list(outputs.values()), -1)

    def judge_reward(self, t, outputs, target, weight, inputs):
        """Choose, be paid, and let everybody know the temporal difference error of the step before."""
        loss = self.plan.loss
        y, value = outputs[loss.policy], outputs[loss.value]
        chosen = torch.nn.functional.one_hot((y + inputs[loss.dice][t]).argmax(-1), y.shape[-1]).to(y)
        if t == 0:
            self.purse = self.paid = self.value = torch.zeros_like(value)
        self.purse = self.purse + weight[t] * (2 * (chosen * target).sum(-1, keepdim=True) - 1)
        td = self.paid + loss.discount * value - self.value
        self.paid = self.purse * (t == pay_step(weight, loss.steps(float(self.net.dt))))
        self.value = value
        for n in self.neurons.values():
            n.values["td"] = td
        self.neurons[loss.policy].values["error"] = weight[t] * (y.softmax(-1) - chosen)
        self.neurons[loss.value].values["error"] = torch.full_like(value, -loss.value_cost)

    def learn(self):
        """Send the errors back, population by population, and let every synapse learn."""
        for name, signal in self.plan.signals.items():
            terms = [self.neurons[t.source].values[t.variable] @ self.matrix(name, t).T for t in signal.terms]
            self.neurons[name].values["L"] = sum(terms[1:], terms[0])
            self.finish(name)
        for name in self.neurons:
            if name not in self.plan.signals:
                self.finish(name)
        for s in self.synapses.values():
            neurons = self.neurons[s.p.post]
            s.learn(neurons.values, self.twin.neurons[s.p.post].z, self.twin.links[s.p.name].weight)

    def finish(self, name):
        """What neurons compute last of all."""
        state = self.twin.neurons[name].state
        spikes = {"z": self.twin.neurons[name].z} if self.twin.neurons[name].z is not None else {}
        self.neurons[name].look("end", {**state, **spikes})

    def matrix(self, name, term):
        """The feedback weights of one term, ``(population, source)``."""
        if term.form == "fixed":
            return self.fixed[name, term.source]
        if term.form == "learned":
            return self.learned[term.path]
        weight = self.twin.links[term.path].weight
        return weight if term.form == "weight" else torch.as_tensor(term.matrix).to(weight) * weight.sign()

    def add_regulariser(self, steps):
        duration, regulariser = steps * float(self.net.dt), self.plan.loss.regulariser
        if not of_trials(self.plan.loss):
            return
        factors = {
            name: regulariser.strength / duration * (count / duration - regulariser.target)
            for name, count in self.counts.items()
        }
        for s in self.synapses.values():
            if s.plan.regularised:
                s.regularise(factors[s.p.post].unsqueeze(1), self.twin.links[s.p.name].weight)
        for name in self.plan.signals:
            values = self.neurons[name].values
            for parameter in self.plan.parameters[name]:
                key = f"gradient_{parameter}"
                values[key] = values[key] + factors[name] * values[f"elig_sum_{parameter}"]

    def gradients(self):
        """The estimate for every plastic projection, mean over trials, ``(pre, post)``."""
        return {name: s.mean * self.masks[name] for name, s in self.synapses.items()}

    def other_gradients(self, tensors):
        """The estimates for parameters and delays, by name in ``tensors`` and of their shape, mean over trials."""
        found = {}
        for name, parameters in self.plan.parameters.items():
            for parameter in parameters:
                each = self.neurons[name].values[f"gradient_{parameter}"].mean(0)
                found[f"{name}.{parameter}"] = each if tensors[f"{name}.{parameter}"].ndim else each.sum()
        for name, s in self.synapses.items():
            if "gradient_delay" in s.stored:
                each = s.stored["gradient_delay"].mean(0) * self.masks[name]
                found[f"{name}.delay"] = summed_over_shared(
                    each, s.p.delay and s.p.delay.kind, tensors[f"{name}.delay"].ndim
                )
        return found

    def follow(self, weights, others):
        """Go on with other weights, by projection, and other values of what else learns; gradients begin anew."""
        for name, weight in self.net.tie(weights).items():
            self.twin.links[name].weight = weight
        for s in self.synapses.values():
            s.stored["gradient"] = torch.zeros_like(s.stored["gradient"])
        for name, value in others.items():
            self.others[name].copy_(value)
        for n in self.neurons.values():
            n.values.update({name: torch.zeros_like(n.values[name]) for name in n.sums})
        if others:
            self.refresh()

    def refresh(self):
        """Take note of parameters that have changed."""
        tapes = [tape for n in self.twin.neurons.values() for tape in n.tapes()]
        tapes += [tape for n in self.neurons.values() for tape in n.tapes.values()]
        for tape in [*tapes, *(tape for s in self.synapses.values() for tape in (s.hoisted, s.program))]:
            tape.refresh()
