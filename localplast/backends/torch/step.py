"""A network in plain Torch: its step program, run statement by statement, batched and differentiable; the oracle of the
kernels.
"""

import numpy as np
import torch

from localplast.backends.torch.interpreter import Interpreter, numbers
from localplast.equations.tape import Tape
from localplast.errors import NetworkError, UnsupportedError
from localplast.network.credit_graph import check_cut
from localplast.network.sent import sent_texts
from localplast.network.values import Values
from localplast.neuron.step import check_integration, expanded, lower
from localplast.program.arrays import Life
from localplast.program.cut import cut_edges
from localplast.program.forward import forward, owned

__all__ = ["Twin", "leaves", "noise_dice", "plain", "simulate"]


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


def plain(net, tensors, masks):
    """Masks, delays and parameters as :class:`~localplast.network.values.Values` has them, from ``tensors``."""

    def number(name):
        return tensors[name].detach().cpu().numpy()

    parameters = {n: {k: number(f"{n}.{k}") for k in p.values} for n, p in net.populations.items()}
    return Values({}, masks, {n: number(f"{n}.delay") for n in net.projections}, parameters)


def check_neurons(net, values):
    """Raise where neurons draw what only Brian2 draws, or their step is not a number with these parameters."""
    for name, population in net.populations.items():
        model, step = population.model, lower(population.model)
        check_integration(name, step, values.parameters[name], net.dt)
        if drawn := step.draws(*(expanded(model, text) for text in sent_texts(net, name))):
            raise UnsupportedError(
                f"population {name!r}: {model.name} draws {'() and '.join(drawn)}(), and the torch backend draws "
                "normal numbers in equations and update only (xi, randn()); use backend='brian2'"
            )


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
    fixed : bool
        Whether weights stay as they are while trials go on: what inputs deliver is then one product for all steps.
    widths : dict of str to float
        Of the kernels of delays that learn, in steps, by projection; default: those with which learning begins.
    """

    def __init__(self, net, tensors, masks, *, cut=(), feedback=None, fixed=True, widths=None):
        edges, values = check_cut(net, cut), plain(net, tensors, masks)
        check_neurons(net, values)
        learned = [f"{name}.delay" for name in net.projections if tensors[f"{name}.delay"].requires_grad]
        options = {"feedback": feedback or (), "widths": widths, "fixed": fixed}
        self.net, self.program = net, cut_edges(forward(net, values, learned=learned, **options), edges)
        self.interpreter = Interpreter(self.program, numbers(net, self.program, tensors, masks, feedback), fixed=fixed)
        self.like, self.tapes = self.interpreter.like, {}

    def start(self, inputs, seed=0):
        """Begin trials with ``inputs``, a dict of tensors ``(time, trial, channel)``; ``seed`` (one or several) is
        that of noise.
        """
        noisy = any(a.role == "noise" for a in self.program.arrays.values())
        dice = noise_dice(seed, self.like.device) if noisy else None
        self.interpreter.start({f"{name}.given": signal for name, signal in inputs.items()}, dice=dice)

    def advance(self, t):
        """One time step, number ``t`` of the trial."""
        self.interpreter.advance(t)

    def states(self):
        """The state of every population, ``{population: {variable: tensor}}``."""
        found = {name: {} for name in self.net.populations}
        for a in self.program.of(Life.STATE):
            if a.role in ("state", "inlet"):
                found[a.space][a.name.removeprefix(f"{a.space}.")] = self.interpreter.values[a.name]
        return found

    def last_states(self):
        """The state of all populations, by words that name each variable."""
        return {
            f"population {name!r}: {key}": value.detach()
            for name, state in self.states().items()
            for key, value in state.items()
        }

    def read(self, name):
        """What ``'rec.v'``, ``'rec.spikes'``, ``'rec.psi'`` or ``'out.output'`` is at the end of this step."""
        population, key = name.split(".")
        values, model = self.interpreter.values, self.net.nodes[population].model
        known = {"spikes": f"{population}.z", "psi": f"{population}.psi"}.get(key, name)
        if known in values:
            return values[known]
        if key in ("spikes", "psi"):  # of neurons without threshold, or without surrogate
            return values[f"{population}.z"] * 0 if model.spiking else None
        if name not in self.tapes:
            text = model.output if key == "output" else key
            self.tapes[name] = Tape([("value", owned(population, expanded(model, text)))], self.interpreter.numbers)
        value = self.interpreter.tensor(self.tapes[name](values)["value"])
        return value.expand(self.interpreter.trials, self.net.size(population))


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
