"""The differentiable twin, one time step at a time: the meaning of a network in Torch, and the oracle of the kernels.

The order within a step is the contract of both backends: update, threshold, transmit (graded, then events), reset.
"""

import functools

import numpy as np
import torch

from localplast.backends.torch.convolution import ConvolutionLink
from localplast.backends.torch.delay_line import Line, product, rows_of, taps_of
from localplast.backends.torch.short_term import Release
from localplast.equations.tape import Tape
from localplast.errors import NetworkError, UnsupportedError
from localplast.network.convolution import form_of
from localplast.network.credit_graph import check_cut, projection_edges
from localplast.network.delays import kernel_kind, kernel_widths
from localplast.network.sent import sent_text, sent_texts
from localplast.neuron.step import check_integration, expanded, lower, prospective, renewed

__all__ = ["Twin", "leaves", "noise_dice", "simulate"]

LONG_AGO = 1_000_000_000  # steps since a spike that never was


class Spike(torch.autograd.Function):
    """Heaviside step whose derivative is given: forward ``argument > 0``, backward ``psi``."""

    @staticmethod
    def forward(ctx, argument, psi, strict):
        ctx.save_for_backward(psi)
        return (argument > 0 if strict else argument >= 0).to(argument.dtype)

    @staticmethod
    def backward(ctx, grad):
        (psi,) = ctx.saved_tensors
        return grad * psi, None, None


def leaves(net, values, *, dtype=torch.float64, device="cpu", trainable=()):
    """Every number of the network as a tensor, by name.

    ``cues_rec.weight`` ``(pre, post)``, ``cues_rec.delay`` (steps), ``rec.tau_mem`` (parameters) and ``rec.v`` (initial
    states), in SI units. Those named in ``trainable`` require gradients.

    Raises
    ------
    NetworkError
        A name in ``trainable`` that the network does not have.
    """
    net.check_values(values)
    numbers = {f"{name}.weight": w for name, w in values.weights.items()}
    numbers.update({f"{name}.delay": d for name, d in values.delays.items()})
    for name, population in net.populations.items():
        numbers.update({f"{name}.{k}": v for k, v in values.parameters[name].items()})
        step = lower(population.model)
        initial = {**population.model.initial, **population.initial}
        numbers.update({f"{name}.{k}": float_array(initial.get(k, 0.0)) for k in step.state + step.inputs})
    unknown = set(trainable) - set(numbers)
    if unknown:
        raise NetworkError(f"cannot train {sorted(unknown)}; the network has {', '.join(numbers)}")
    tensors = {k: torch.as_tensor(v, dtype=dtype, device=device).clone() for k, v in numbers.items()}
    for name in trainable:
        tensors[name].requires_grad_(True)
    return tensors


def float_array(value):
    return np.array(value, float)


def noise_dice(seed, device="cpu"):
    """The generator of white noise for a seed, one number or several."""
    dice = torch.Generator(device)
    dice.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    return dice


class Link:
    """One projection: turns the presynaptic signal of this step into what arrives at the target in this step.

    Where weights are ``fixed``, products are made for as many steps at once as delays allow; signals with dendritic
    delays are multiplied as they leave. ``width`` is that of the kernel of a delay that learns, in steps.
    """

    def __init__(self, projection, tensors, cut, edges, feedback, mask, *, dt, fixed=True, width=0.0):
        delay, steps = projection.delay, tensors[f"{projection.name}.delay"]
        self.projection, self.feedback, self.fixed = projection, feedback, fixed
        self.weight = tensors[f"{projection.name}.weight"] * mask
        self.cut = bool(edges & cut)
        self.release = Release(projection.short_term, dt) if projection.short_term else None
        self.kind = delay.kind if delay else "axonal"
        if self.kind == "dendritic" and not fixed:
            self.kind = "synaptic"  # a weight that changes acts when the spike arrives, not when it leaves
        n_pre, n_post = shape = self.weight.shape
        size = {"axonal": n_pre, "dendritic": n_post, "synaptic": shape}[self.kind]
        taps = taps_of(steps.expand(size), kernel_kind(delay), width)
        self.at_once = taps[1] is None and not bool(taps[0].any())
        self.rows = None
        if self.kind == "synaptic":
            exist = mask if feedback is None else torch.ones_like(mask)  # feedback may reach where no synapse is
            self.rows, late, self.shares = rows_of(*taps, exist)
            self.line = Line(n_pre, late.unsqueeze(0), columns=self.rows)
        else:
            self.line = Line(size, *taps)

    def matrices(self):
        """The present weights and the feedback of all rows: of neurons, or of neurons so many steps ago."""
        if self.rows is None:
            return self.weight, self.feedback
        feedback = None if self.feedback is None else self.feedback[self.rows] * self.shares.detach()
        return self.weight[self.rows] * self.shares, feedback

    def start(self, steps):
        """Begin a trial of so many steps."""
        if self.release:
            self.release.start()
        ahead = self.fixed and self.kind != "dendritic" and not self.at_once
        self.line.start(steps, *(self.matrices() if ahead else ()))

    def __call__(self, signal):
        if self.cut:
            signal = signal.detach()
        if self.release:
            signal = self.release(signal)
        if self.at_once:
            return product(signal, self.weight, self.feedback)
        if self.kind == "dendritic":
            return self.line.read(product(signal, self.weight, self.feedback))
        if self.fixed:
            return self.line.deliver(signal)
        arriving = self.line.read(signal)
        return None if arriving is None else product(arriving, *self.matrices())

    def whole_trial(self, signal):
        """As calling it on every step of ``signal`` ``(time, trial, pre)``, as one product over all steps."""
        if self.cut:
            signal = signal.detach()
        if self.release:
            signal = self.release.whole_trial(signal)
        if self.at_once:
            return product(signal, self.weight, self.feedback)
        if self.kind == "dendritic":
            return self.line.whole(product(signal, self.weight, self.feedback))
        return self.line.whole(signal, *self.matrices())


class Neurons:
    """One population: its state, and the three things a step does to it."""

    def __init__(self, name, population, tensors, dt, cut, sends=()):
        self.step = lower(population.model)
        self.size, self.cut, self.model = population.size, cut, population.model
        self.clamped = population.model.clamped
        if drawn := self.step.draws(*(expanded(self.model, text) for text in sends)):
            raise UnsupportedError(
                f"population {name!r}: {self.model.name} draws {'() and '.join(drawn)}(), and the torch backend draws "
                "normal numbers in equations and update only (xi, randn()); use backend='brian2'"
            )
        constants = {k: tensors[f"{name}.{k}"] for k in population.values}
        constants["dt"] = float(dt)
        self.constants, self.value_tapes = constants, {}
        self.initial = {k: tensors[f"{name}.{k}"] for k in self.step.state + self.step.inputs}
        self.update_tape = Tape(self.step.outputs, constants)
        self.argument_tape = Tape([("x", self.step.spike_argument)], constants) if self.model.spiking else None
        self.psi_tape = Tape([("psi", self.step.psi)], constants) if self.step.psi is not None else None
        self.blocks = {b: Tape(renewed(getattr(self.step, b)), constants) for b in ("reset", "adaptation")}
        self.output_tape = Tape([("output", self.step.output)], constants) if self.step.output is not None else None
        tapes = {text: Tape([("sent", expanded(self.model, text))], constants) for text in sends}
        self.early = {text: tape for text, tape in tapes.items() if prospective(self.model, text)}
        self.late = {text: tape for text, tape in tapes.items() if text not in self.early}
        period = constants.get(self.model.refractory)
        # as Brian2's timestep(): a period a rounding error below n steps is n steps
        self.silent = None if period is None else torch.floor(period.detach() / float(dt) + 1e-3)

    def tapes(self):
        """All programs of the neuron."""
        single = (self.update_tape, self.argument_tape, self.psi_tape, self.output_tape)
        many = (*self.blocks.values(), *self.early.values(), *self.late.values(), *self.value_tapes.values())
        return [tape for tape in (*single, *many) if tape is not None]

    def start(self, trials, like, dice=None):
        """Set the state of ``trials`` trials to its initial value; noise comes from the generator ``dice``."""
        self.dice = dice
        shape = (trials, self.size)
        self.state = {k: v.expand(shape) for k, v in self.initial.items()}
        self.since = like.new_full(shape, LONG_AGO) if self.silent is not None else None
        self.z = self.psi = None

    def update(self):
        """Slot 1: integrate."""
        state = self.state
        self.leaving = self.evaluate(self.early)
        if not self.model.spiking and "readout" in self.cut:
            kept = self.step.inputs
            state = {k: v if k in kept else v.detach() for k, v in state.items()}
        values = dict(state)
        if self.since is not None:
            self.since = self.since + 1
            values["not_refractory"] = (self.since >= self.silent).to(self.since.dtype)
            self.ready = values["not_refractory"]
        like = next(iter(state.values()))
        values.update(
            {
                n: torch.randn(like.shape, generator=self.dice, dtype=like.dtype, device=like.device)
                for n in self.step.noise
            }
        )
        new = self.update_tape(values)
        if self.model.spiking and torch.is_grad_enabled():
            new = self.without_overflow(new, values)
        self.state = {k: state[k] for k in self.step.inputs}
        self.state.update({k: self.tensor(new[f"new_{k}"], state[k]) for k in self.step.state})

    def without_overflow(self, new, values):
        """The same numbers; where one has overflowed, which a spike's reset may end, no gradient passes."""
        found = [x for x in (new[f"new_{k}"] for k in self.step.state) if torch.is_tensor(x)]
        if all(bool(torch.isfinite(x).all()) for x in found):
            return new
        lost = functools.reduce(torch.logical_or, (~torch.isfinite(x) for x in found))
        rest = {k: torch.where(lost, x.detach(), values[k]) for k, x in self.initial.items()}
        again = self.update_tape({**values, **rest})
        return {k: torch.where(lost, x.detach(), again[k]) if torch.is_tensor(x) else x for k, x in new.items()}

    @staticmethod
    def tensor(value, like):
        """``value`` of every neuron in every trial, also where it is the same for all."""
        return value.expand(like.shape) if torch.is_tensor(value) else torch.full_like(like, value)

    def fire(self):
        """Slot 2: threshold, and psi sampled before the reset."""
        self.before_reset = self.state.copy()
        if not self.model.spiking:
            return
        argument = self.tensor(self.argument_tape(self.state)["x"], next(iter(self.state.values())))
        psi = self.psi_tape({**self.state, "x": argument.detach()})["psi"] if self.psi_tape else None
        psi = None if psi is None else self.tensor(psi, argument).detach()
        if psi is None or "spike" in self.cut:
            psi = torch.zeros_like(argument)
        z = Spike.apply(argument, psi, self.step.strict)
        if self.since is not None:
            z, psi = z * self.ready, psi * self.ready
            self.since = torch.where(z.detach() > 0, torch.zeros_like(self.since), self.since)
        self.z, self.psi = z, psi

    def forget(self):
        """Where the leak is cut: what was in the state before this step's spikes arrive carries no gradient on."""
        if self.model.spiking and "leak" in self.cut:
            self.state = {k: v if k in self.step.inputs else v.detach() for k, v in self.state.items()}

    def output(self):
        """The graded output of the present state."""
        return self.tensor(self.output_tape(self.state)["output"], next(iter(self.state.values())))

    def value(self, name):
        """A state variable, or a subexpression, at this moment."""
        if name in self.state:
            return self.state[name]
        if name not in self.value_tapes:
            self.value_tapes[name] = Tape([("value", expanded(self.model, name))], self.constants)
        spikes = {} if self.since is None else {"not_refractory": self.ready}
        return self.tensor(self.value_tapes[name]({**self.state, **spikes})["value"], next(iter(self.state.values())))

    def send(self):
        """What leaves by graded projections, by expression."""
        return {**self.leaving, **self.evaluate(self.late, {} if self.z is None else {"z": self.z})}

    def evaluate(self, tapes, spikes=()):
        """What is sent, by expression, of the state of this moment."""
        like = next(iter(self.state.values()))
        return {text: self.tensor(tape({**self.state, **dict(spikes)})["sent"], like) for text, tape in tapes.items()}

    def after_spike(self):
        """Slot 4: reset and adaptation, where z = 1; the gradient to z is the jump, 0 where that ends an overflow."""
        for block, tape in self.blocks.items():
            if not tape.outputs:
                continue
            z = self.z.detach() if block in self.cut else self.z
            changed = tape(self.state)
            for name in getattr(self.step, block):
                old, value = self.state[name], changed[f"new_{name}"]
                jumped = torch.where(z > 0, value, old)
                jump = (value - old).detach()
                jump = torch.where(torch.isfinite(jump), jump, torch.zeros_like(jump))
                self.state[name] = jumped + (z - z.detach()) * jump


class Twin:
    """A network ready to run in Torch.

    Parameters
    ----------
    net : Network
    tensors : dict of str to tensor
        From :func:`leaves`.
    masks : dict of str to bool array ``(pre, post)``
    cut : set of str
        Edges of the credit graph through which no gradient flows (:mod:`localplast.network.credit_graph`).
    feedback : dict of str to tensor ``(pre, post)``
        Projections whose backward pass uses this matrix in place of the weight.
    hoist : bool
        Take what inputs deliver out of the time loop, as one product; not possible where weights change in a trial.
    widths : dict of str to float
        Of the kernels of delays that learn, in steps, by projection; default: those with which learning begins.
    """

    def __init__(self, net, tensors, masks, *, cut=(), feedback=None, hoist=True, widths=None):
        cut, feedback, edges = check_cut(net, cut), feedback or {}, projection_edges(net)
        weights = net.tie({name: tensors[f"{name}.weight"] for name in net.projections})
        tensors = {**tensors, **{f"{name}.weight": w for name, w in weights.items()}}
        like = next(iter(tensors.values()))
        self.net, self.like, self.hoist = net, like, hoist
        self.neurons = {}
        for name, population in net.populations.items():
            parameters = {k: tensors[f"{name}.{k}"].detach().cpu().numpy() for k in population.values}
            check_integration(name, lower(population.model), parameters, net.dt)
            self.neurons[name] = Neurons(name, population, tensors, net.dt, cut, sent_texts(net, name))
        widths = {**kernel_widths(net), **(widths or {})}
        masks = {name: torch.as_tensor(mask).to(like) for name, mask in masks.items()}
        self.links = {
            name: ConvolutionLink(p, form, tensors[f"{name}.weight"] * masks[name], bool(edges[name] & cut))
            if (form := form_of(net.projections, p))
            else Link(
                p,
                tensors,
                cut,
                edges[name],
                feedback.get(name),
                masks[name],
                dt=float(net.dt),
                fixed=hoist,
                width=widths[name],
            )
            for name, p in net.projections.items()
        }

    def start(self, inputs, seed=0):
        """Begin trials with ``inputs``, a dict of tensors ``(time, trial, channel)``; ``seed`` (one or several) is
        that of noise.
        """
        dice = None
        if any(n.step.noise for n in self.neurons.values()):
            dice = noise_dice(seed, self.like.device)
        inputs = {name: signal.to(self.like.dtype) for name, signal in inputs.items()}
        steps, trials = next(iter(inputs.values())).shape[:2]
        for neurons in self.neurons.values():
            neurons.start(trials, self.like, dice)
        self.arriving, self.sent, self.inputs = {}, {}, {name: signal.unbind(0) for name, signal in inputs.items()}
        for name, link in self.links.items():
            link.start(steps)
            if self.hoist and link.projection.pre in inputs:
                self.arriving[name] = link.whole_trial(inputs[link.projection.pre]).unbind(0)

    def advance(self, t):
        """One time step, number ``t`` of the trial."""
        self.integrate()
        self.transmit(t)
        self.jump()

    def integrate(self):
        """Slots 1 and 2: update, threshold."""
        for neurons in self.neurons.values():
            neurons.update()
            neurons.fire()

    def transmit(self, t):
        """Slot 3: graded projections set their targets, event projections add to theirs."""
        outputs = {k: n.send() for k, n in self.neurons.items()}
        for neurons in self.neurons.values():
            neurons.forget()
        graded, events = {}, {}
        for name, link in self.links.items():
            p = link.projection
            self.sent[name] = self.leaving(p, t, outputs)
            current = self.arriving[name][t] if name in self.arriving else link(self.sent[name])
            box = graded if p.transmission == "graded" else events
            if current is not None:
                box[p.post, p.target] = box[p.post, p.target] + current if (p.post, p.target) in box else current
            elif p.transmission == "graded":
                box.setdefault((p.post, p.target), torch.zeros_like(self.neurons[p.post].state[p.target]))
        for (post, target), current in graded.items():
            self.neurons[post].state[target] = current
        for (post, target), current in events.items():
            neurons = self.neurons[post]
            if target in neurons.clamped:  # as Brian2: refractoriness begins with the spike itself
                current = current * (neurons.ready * (1 - neurons.z)).detach()
            neurons.state[target] = neurons.state[target] + current

    def leaving(self, p, t, outputs):
        """What the presynaptic neurons of ``p`` send in step ``t``."""
        if p.pre in self.inputs:
            return self.inputs[p.pre][t]
        if p.transmission == "event":
            return self.neurons[p.pre].z
        return outputs[p.pre][sent_text(p, self.net.nodes[p.pre].model)]

    def jump(self):
        """Slot 4: reset and adaptation."""
        for neurons in self.neurons.values():
            neurons.after_spike()

    def last_states(self):
        """The state of all populations, by words that name each variable."""
        return {f"population {name!r}: {k}": v.detach() for name, n in self.neurons.items() for k, v in n.state.items()}

    def read(self, name):
        """What ``'rec.v'``, ``'rec.spikes'``, ``'rec.psi'`` or ``'out.output'`` is at the end of this step."""
        population, variable = name.split(".")
        neurons = self.neurons[population]
        if variable == "spikes":
            return neurons.z
        if variable == "psi":
            return neurons.psi
        return neurons.output() if variable == "output" else neurons.value(variable)


def simulate(twin, inputs, record, seed=0):
    """Run trials from start to end.

    Parameters
    ----------
    twin : Twin
    inputs : dict of str to tensor ``(time, trial, channel)``
    record : sequence of str
        Such as ``'rec.v'``, ``'rec.spikes'``, ``'out.output'``.
    seed : int or list of int
        Of noise.

    Returns
    -------
    dict of str to tensor ``(time, trial, neuron)``
    """
    twin.start(inputs, seed)
    kept = {name: [] for name in record}
    for t in range(next(iter(inputs.values())).shape[0]):
        twin.advance(t)
        for name, values in kept.items():
            values.append(twin.read(name))
    return {name: torch.stack(values) for name, values in kept.items()}
