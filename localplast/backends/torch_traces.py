"""Local rules in Torch as they run in a brain: traces carried forward step by step, for a batch of trials.

Shapes: pre ``(trial, pre, 1)``, post ``(trial, 1, post)``, synapse ``(trial, pre, post)``.
"""

import torch

from localplast.backends.torch_step import Taps, Twin
from localplast.calculus import Tape

__all__ = ["OnlineLearner"]


class Synapses:
    """The traces of one plastic projection."""

    def __init__(self, net, projection, plan, tensors, inputs):
        self.p, self.plan, self.from_input = projection, plan, projection.pre in inputs
        eligibility = plan.eligibility
        post = net.nodes[projection.post]
        constants = {k: tensors[f"{projection.post}.{k}"].detach() for k in post.values}
        constants["dt"] = float(net.dt)
        self.tapes = {
            where: Tape(getattr(eligibility, where), constants) for where in ("before", "after", "before_reset", "pre")
        }
        self.program = Tape(plan.program, constants)
        steps = tensors[f"{projection.name}.delay"].detach()
        shape = tensors[f"{projection.name}.weight"].shape
        whole = eligibility.arrives == "synapse"
        self.taps = Taps(steps.expand(shape) if whole else steps)

    def start(self, trials, like, shape):
        self.pre = {name: like.new_zeros(trials, shape[0]) for name, _ in self.plan.eligibility.pre}
        self.stored = {name: like.new_zeros(trials, *shape) for name in self.plan.state}
        self.stored["gradient"] = like.new_zeros(trials, *shape)
        self.history = [None] * (self.taps.longest + 1)
        self.post = {}

    def look(self, where, values):
        """Run one of the per-neuron programs on the state of this moment."""
        tape = self.tapes[where]
        if tape.outputs:
            self.post.update(tape(values))

    def arrive(self, signal):
        """What the synapses deliver in this step: ``(trial, pre, 1)`` or ``(trial, pre, post)``."""
        whole = self.plan.eligibility.arrives == "synapse"
        self.history = [signal.unsqueeze(-1) if whole else signal, *self.history[:-1]]
        arrived = self.taps.read(self.history)
        if arrived is None:
            arrived = torch.zeros_like(self.history[0])
        self.arrived = arrived

    def learn(self, signals, z):
        """The synapse program, and the hoisted traces one step further."""
        whole = self.plan.eligibility.arrives == "synapse"
        per_neuron = {**self.post, **signals}
        values = {n: v.unsqueeze(1) if getattr(v, "ndim", 0) == 2 else v for n, v in per_neuron.items()}
        if z is not None:
            values["z"] = z.unsqueeze(1)
        values.update({name: v.unsqueeze(-1) for name, v in self.pre.items()})
        values.update(self.stored)
        values["arrived"] = self.arrived if whole else self.arrived.unsqueeze(-1)
        new = self.program(values)
        shape = self.stored["gradient"].shape
        self.eligibility = new["elig"].expand(shape)
        self.stored = {name: new[name].expand(shape) for name in self.stored}
        if self.pre:
            self.pre = self.tapes["pre"]({**self.pre, "arrived": self.arrived})


class OnlineLearner:
    """Runs a :class:`~localplast.plan.Plan` in Torch, step by step.

    Parameters
    ----------
    net : Network
    plan : Plan
    tensors : dict of str to tensor
        From :func:`localplast.backends.torch_step.leaves`.
    masks : dict of str to bool array
    """

    def __init__(self, net, plan, tensors, masks):
        self.net, self.plan = net, plan
        self.twin = Twin(net, tensors, masks, hoist=plan.rule.update == "trial")
        self.masks = {name: torch.as_tensor(masks[name]).to(self.twin.like) for name in plan.synapses}
        self.synapses = {
            name: Synapses(net, net.projections[name], s, tensors, net.inputs) for name, s in plan.synapses.items()
        }
        self.feedback = {k: torch.as_tensor(b).to(self.twin.like) for k, b in plan.broadcast.items() if not isinstance(b, str)}

    @torch.no_grad()
    def run(self, inputs, target, weight, on_step=None):
        """Present a batch of trials.

        Parameters
        ----------
        inputs : dict of str to tensor ``(time, trial, channel)``
        target : tensor ``(time or 1, trial, readout)``
        weight : tensor ``(time,)``
        on_step : callable, optional
            Called after every step with this learner: weights may change there.

        Returns
        -------
        outputs : tensor ``(time, trial, readout)``
        counts : dict of str to tensor ``(trial, neuron)``, spikes of each spiking population
        """
        steps, trials = next(iter(inputs.values())).shape[:2]
        self.twin.start(inputs)
        for name, s in self.synapses.items():
            s.start(trials, self.twin.like, self.twin.links[name].weight.shape)
        outputs, self.counts = [], {k: 0 for k, n in self.twin.neurons.items() if n.model.spiking}
        for t in range(steps):
            self.step(t)
            y = self.twin.neurons[self.plan.readout].output()
            outputs.append(y)
            self.error = weight[t] * self.plan.loss.error(y, target[min(t, len(target) - 1)])
            self.learn()
            if on_step:
                on_step(self)
        self.add_regulariser(steps)
        return torch.stack(outputs), self.counts

    def step(self, t):
        """Advance the network, letting the synapses look at the neurons where their programs ask for it."""
        twin = self.twin
        old = {k: dict(n.state) for k, n in twin.neurons.items()}
        twin.integrate()
        for s in self.synapses.values():
            neurons = twin.neurons[s.p.post]
            extra = {"not_refractory": neurons.ready} if neurons.since is not None else {}
            s.look("before", {**old[s.p.post], **extra})
            s.look("after", {**neurons.state, **extra})
        twin.transmit(t)
        for s in self.synapses.values():
            s.look("before_reset", twin.neurons[s.p.post].state)
            s.arrive(twin.inputs[s.p.pre][t] if s.from_input else twin.neurons[s.p.pre].z)
        twin.jump()
        for name in self.counts:
            self.counts[name] = self.counts[name] + twin.neurons[name].z

    def learn(self):
        """Broadcast the error and let every synapse learn from it."""
        signals = {}
        for population, path in self.plan.broadcast.items():
            matrix = self.twin.links[path].weight if isinstance(path, str) else self.feedback[population]
            signals[population] = self.error @ matrix.T
        for s in self.synapses.values():
            name = "error" if s.p.post == self.plan.readout else "L"
            signal = self.error if name == "error" else signals[s.p.post]
            s.learn({name: signal}, self.twin.neurons[s.p.post].z)

    def add_regulariser(self, steps):
        duration = steps * float(self.net.dt)
        for s in self.synapses.values():
            if s.plan.regularised:
                regulariser = self.plan.loss.regulariser
                excess = self.counts[s.p.post] / duration - regulariser.target
                factor = regulariser.strength / duration * excess
                s.stored["gradient"] = s.stored["gradient"] + factor.unsqueeze(1) * s.stored["elig_sum"]

    def gradients(self):
        """The estimate for every plastic projection, mean over trials, ``(pre, post)``."""
        return {name: s.stored["gradient"].mean(0) * self.masks[name] for name, s in self.synapses.items()}

