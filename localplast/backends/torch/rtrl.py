"""Real-time recurrent learning: the exact gradient, carried forward with the network instead of backward through time.

With ``s' = F(s, p)`` one step of the whole network (every state of every population, and every spike in flight) and
``p`` its parameters, the influence ``P = ds/dp`` obeys

.. math::  P' = F_s P + F_p,\\quad dE/dp = \\sum_t dE/dy(t)\\, (y_s P + y_p)

Williams & Zipser 1989, Neural Comput 1:270. F is the Torch twin, so that any neuron, delay or cut edge has its
influence; ``F_s`` and ``F_p`` are derivatives of a single step. No graph is kept from one step to the next.
"""

import torch

from localplast.backends.torch.step import Twin
from localplast.errors import UnsupportedError
from localplast.network.convolution import check_dense
from localplast.program.finite import check_states
from localplast.program.instructions import Send
from localplast.program.learn import the_readouts
from localplast.task.loss import Reward

__all__ = ["Influence"]

#: Bytes that P may take.
LIMIT = 2**28


class Influence:
    """Runs a network together with the derivative of its whole state with respect to its parameters.

    Parameters
    ----------
    net : Network
    tensors : dict of str to tensor
        From :func:`localplast.backends.torch.step.leaves`; those that require gradients are the parameters.
    masks : dict of str to bool array ``(pre, post)``
    loss : Loss
    cut, feedback
        As of :class:`~localplast.backends.torch.step.Twin`.
    """

    def __init__(self, net, tensors, masks, loss, *, cut=(), feedback=None):
        if isinstance(loss, Reward):
            raise UnsupportedError(
                "the derivatives of the whole network, carried forward, do not meet late reward; use eprop() or bptt()"
            )
        if changing := [name for name, p in net.projections.items() if p.short_term is not None]:
            raise UnsupportedError(
                f"projection {changing[0]!r} has short-term plasticity, which is not carried forward; use bptt()"
            )
        check_dense(net, "the derivative of the whole network, carried forward,", "use bptt()")
        self.net, self.loss, self.readouts = net, loss, the_readouts(net)
        self.twin = Twin(net, tensors, masks, cut=cut, feedback=feedback, fixed=False)
        self.parameters = {name: t for name, t in tensors.items() if t.requires_grad}
        self.spiking = [name for name, p in net.populations.items() if p.model.spiking]

    def run(self, inputs, target, weight):
        """Present a batch of trials.

        Parameters
        ----------
        inputs : dict of str to tensor ``(time, trial, channel)``
        target : tensor ``(time or 1, trial, readout)``
        weight : tensor ``(time,)``

        Returns
        -------
        outputs : tensor ``(time, trial, readout)``
        counts : dict of str to tensor ``(trial, neuron)``, spikes of each spiking population
        gradients : dict of str to tensor
            The mean over trials, for every parameter.

        Raises
        ------
        UnsupportedError
            P would take more than 256 MiB.
        """
        steps, trials = next(iter(inputs.values())).shape[:2]
        self.start(inputs, trials)
        outputs, counts, gradient = [], {name: 0.0 for name in self.spiking}, 0.0
        moved = {name: 0.0 for name in self.spiking}  # how the parameters have moved each neuron's spike count
        for t in range(steps):
            seen = self.step(t)
            outputs.append(torch.cat([seen[r][0] for r in self.readouts], -1))
            for y, dy in (seen[r] for r in self.readouts):
                error = weight[t] * self.loss.error(y, target[min(t, len(target) - 1)])
                gradient = gradient + torch.einsum("bk,bkp->p", error, dy)
            for name in counts:
                z, dz = seen[name]
                counts[name] = counts[name] + z
                moved[name] = moved[name] + (dz if self.loss.regulariser else 0.0)
        check_states(self.twin.last_states())
        if self.loss.regulariser:
            gradient = gradient + self.regulariser(counts, moved, steps * float(self.net.dt))
        return torch.stack(outputs), counts, self.by_name(gradient / trials)

    def start(self, inputs, trials):
        """Begin trials: P is the derivative of the initial state, zero unless that is a parameter."""
        self.twin.start(inputs)
        self.lines = [s.carrier for s in self.twin.interpreter.step if late(s, self.net)]
        for carrier in self.lines:
            silence = self.twin.like.new_zeros(trials, carrier.line.width)
            carrier.line.resume([silence] * carrier.line.longest)
        start = self.state()
        self.check_size(trials, sum(part.shape[1] for part in start))
        self.influence = self.derivative(torch.cat(start, 1), self.parameters.values())
        self.resume([part.detach() for part in start])

    def check_size(self, trials, size):
        parameters = sum(p.numel() for p in self.parameters.values())
        needed = trials * size * parameters * self.twin.like.element_size()
        if needed > LIMIT:
            raise UnsupportedError(
                f"rtrl carries the derivative of {size} states with respect to {parameters} parameters for {trials} "
                f"trials: {needed:,} bytes, more than {LIMIT:,}; it is a reference for small networks, use bptt() here"
            )

    def step(self, t):
        """One time step; returns ``{population: (value, its derivative)}`` of the readouts' outputs and all spikes.

        A derivative is ``(trial, neuron, parameter)``.
        """
        before = [part.requires_grad_() for part in self.state()]
        self.twin.advance(t)
        after, spikes = self.state(), {name: self.twin.read(f"{name}.spikes") for name in self.spiking}
        watched = {r: self.twin.read(f"{r}.output") for r in self.readouts}
        watched.update({name: z for name, z in spikes.items() if self.loss.regulariser})
        values = torch.cat([*after, *watched.values()], 1)
        total = torch.einsum("bnm,bmp->bnp", self.jacobian(values, before), self.influence)
        total = total + self.derivative(values, self.parameters.values())
        self.influence, *derivatives = total.split(
            [sum(p.shape[1] for p in after), *(w.shape[1] for w in watched.values())], 1
        )
        seen = {name: (z.detach(), None) for name, z in spikes.items()}
        seen.update({name: (w.detach(), d) for (name, w), d in zip(watched.items(), derivatives, strict=True)})
        self.resume([part.detach() for part in after])
        return seen

    def state(self):
        """The state of the whole network, parts ``(trial, size)``: variables of populations, then signals in flight."""
        parts = [state[k] for state in self.twin.states().values() for k in sorted(state)]
        return parts + [signal for carrier in self.lines for signal in carrier.line.in_flight()]

    def resume(self, parts):
        """Set the state, in the order of :meth:`state`."""
        parts = iter(parts)
        for name, state in self.twin.states().items():
            self.twin.interpreter.values.update({f"{name}.{k}": next(parts) for k in sorted(state)})
        for carrier in self.lines:
            carrier.line.resume([next(parts) for _ in range(carrier.line.longest)])

    def jacobian(self, values, before):
        """``d values / d before``, ``(trial, value, state)``: trials do not touch, so that one pass serves them all."""
        rows = torch.eye(values.shape[1], dtype=values.dtype, device=values.device)
        rows = rows[:, None].expand(-1, len(values), -1)
        return torch.cat(backward(values, before, rows), 2).transpose(0, 1)

    def derivative(self, values, parameters):
        """``d values / d parameters`` while the state before is held, ``(trial, value, parameter)``."""
        rows = torch.eye(values.numel(), dtype=values.dtype, device=values.device).view(-1, *values.shape)
        parts = backward(values, list(parameters), rows)
        return torch.cat([part.reshape(len(rows), -1) for part in parts], 1).view(*values.shape, -1)

    def regulariser(self, counts, moved, duration):
        """The gradient of the rate regulariser, summed over trials."""
        regulariser, total = self.loss.regulariser, 0.0
        for name, count in counts.items():
            excess = count / duration - regulariser.target
            total = total + regulariser.strength / duration * torch.einsum("bn,bnp->p", excess, moved[name])
        return total

    def by_name(self, gradient):
        sizes = [p.numel() for p in self.parameters.values()]
        parts = zip(self.parameters.items(), gradient.split(sizes), strict=True)
        return {name: part.view(p.shape) for (name, p), part in parts}


def late(runs, net):
    """Whether a statement delays what a population sends; what inputs have in flight depends on no parameter."""
    return (
        isinstance(runs.s, Send) and runs.s.taps is not None and runs.program.spaces[runs.s.link].pre not in net.inputs
    )


def backward(values, inputs, rows):
    """``rows @ d values / d input`` for each input, shape ``(row, *input)``; ``rows`` are ``(row, *values)``."""
    if not values.requires_grad:
        return [rows.new_zeros(len(rows), *x.shape) for x in inputs]
    found = torch.autograd.grad(values, inputs, rows, retain_graph=True, allow_unused=True, is_grads_batched=True)
    return [x.new_zeros(len(rows), *x.shape) if g is None else g for x, g in zip(inputs, found, strict=True)]
