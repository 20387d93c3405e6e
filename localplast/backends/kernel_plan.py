"""What a kernel must do, read off a network: populations, projections, which gradients flow, and why it cannot run.

The plan fixes the C text; sizes are baked in, numbers (weights, parameters, delays) are not.
"""

from dataclasses import dataclass

import sympy
import torch

from localplast.backends.kernel_build import missing
from localplast.backends.kernel_expression import Constants, check_c_form
from localplast.calculus import differentiate
from localplast.errors import UnsupportedError
from localplast.graph import check_cut, projection_edges
from localplast.lower import jacobian, lower
from localplast.network import Input

__all__ = ["Cells", "Channels", "Link", "Plan", "make_plan", "why_not"]

#: Lanes that rows are padded to, in bytes: the widest vector register in use.
ROW_BYTES = 64


@dataclass(frozen=True, eq=False)
class Channels:
    """An input: ``bits`` if given as bool; ``dense`` if its projections run as products and not by events."""

    number: int
    name: str
    size: int
    bits: bool
    dense: bool


@dataclass(frozen=True, eq=False)
class Cells:
    """A population.

    Attributes
    ----------
    variables : tuple of str
        State, and what graded projections set.
    boxes : tuple of (str, str)
        ``(target, transmission)`` of whatever arrives.
    refractory : bool
        Whether a spike can silence the neuron for more than the next step.
    learns : bool
        Whether a gradient flows through the spike.
    cut : frozenset of str
    """

    number: int
    name: str
    size: int
    padded: int
    step: object
    constants: Constants
    variables: tuple
    boxes: tuple
    refractory: bool
    learns: bool
    cut: frozenset

    @property
    def spiking(self):
        return self.step.model.spiking

    @property
    def readout(self):
        return not self.spiking and self.step.output is not None

    def transition(self):
        """``(program, entries)`` of the Jacobian of the update, with the cut ``readout`` left out.

        Inputs keep their value, and pass their gradient on, whatever is cut.
        """
        found = jacobian(self.step)
        entries = {(v, v): sympy.Integer(1) for v in self.step.inputs} | found.entries
        if not self.spiking and "readout" in self.cut:
            entries = {(row, column): e for (row, column), e in entries.items() if column in self.step.inputs}
        return found.program, entries

    def forgets(self, variable):
        """Whether what is in ``variable`` before spikes arrive carries no gradient on: the cut ``leak``."""
        return self.spiking and "leak" in self.cut and variable not in self.step.inputs

    def jumps(self):
        """``[(name, value, whether the gradient to the spike is kept)]`` of reset and adaptation."""
        return [
            (name, value, block not in self.cut)
            for block in ("reset", "adaptation")
            for name, value in getattr(self.step, block).items()
        ]

    def sensitivity(self):
        """d spike argument / d variable, for the variables that it depends on."""
        found = {v: differentiate(self.step.spike_argument, v) for v in self.variables}
        return {v: e for v, e in found.items() if e != 0}


@dataclass(frozen=True, eq=False)
class Link:
    """A projection between the nodes ``pre`` and ``post``; ``kind`` of delay ``'shared'`` where one serves all.

    ``passes``: whether the gradient goes back to the presynaptic spikes.
    """

    number: int
    name: str
    pre: object
    post: Cells
    target: str
    transmission: str
    kind: str
    passes: bool

    @property
    def sized(self):
        """Whether events carry a number; else all are 1."""
        return isinstance(self.pre, Channels) and not self.pre.bits

    @property
    def dense(self):
        return isinstance(self.pre, Channels) and self.pre.dense and self.kind == "shared"


@dataclass(frozen=True)
class Plan:
    """All of it. ``block`` is the number of trials that one pass of the kernel runs side by side."""

    nodes: tuple
    links: tuple
    double: bool
    block: int

    cells = property(lambda self: [n for n in self.nodes if isinstance(n, Cells)])
    channels = property(lambda self: [n for n in self.nodes if isinstance(n, Channels)])

    def into(self, cells, target, transmission):
        """Links that fill one box."""
        return [k for k in self.links if (k.post, k.target, k.transmission) == (cells, target, transmission)]


def make_plan(net, tensors, *, cut, block, bits=(), dense=()):
    """The :class:`Plan` of a network; ``bits`` and ``dense`` name inputs (:class:`Channels`)."""
    cut, edges = check_cut(net, cut), projection_edges(net)
    double = next(iter(tensors.values())).dtype == torch.float64
    nodes = {}
    for number, (name, node) in enumerate(net.nodes.items()):
        if isinstance(node, Input):
            nodes[name] = Channels(number, name, node.size, name in bits, name in dense)
        else:
            nodes[name] = make_cells(net, number, name, node, tensors, cut, double)
    links = []
    for number, (name, p) in enumerate(net.projections.items()):
        pre, post = nodes[p.pre], nodes[p.post]
        kind = "shared" if tensors[f"{name}.delay"].ndim == 0 else p.delay.kind
        passes = isinstance(pre, Cells) and pre.learns and not edges[name] & cut
        links.append(Link(number, name, pre, post, p.target, p.transmission, kind, passes))
    return Plan(tuple(nodes.values()), tuple(links), double, block)


def make_cells(net, number, name, population, tensors, cut, double):
    step, dt = lower(population.model), float(net.dt)
    values = {k: tensors[f"{name}.{k}"].detach() for k in population.values}
    refractory = population.model.refractory is not None and bool((silent_steps(net, name, tensors) > 1).any())
    lanes = ROW_BYTES // (8 if double else 4)
    arriving = [p for p in net.projections.values() if p.post == name]
    return Cells(
        number=number,
        name=name,
        size=population.size,
        padded=-(-population.size // lanes) * lanes,
        step=step,
        constants=Constants({**values, "dt": dt}, refractory),
        variables=step.state + step.inputs,
        boxes=tuple(sorted({(p.target, p.transmission) for p in arriving}, key=lambda b: (b[1] == "event", b[0]))),
        refractory=refractory,
        learns=population.model.spiking and step.psi is not None and "spike" not in cut,
        cut=cut,
    )


def silent_steps(net, name, tensors):
    """Steps for which a spike silences the neurons of a population, as Brian2's ``timestep()`` counts them."""
    period = tensors[f"{name}.{net.nodes[name].model.refractory}"].detach()
    return torch.floor(period / float(net.dt) + 1e-3)


def why_not(net, *, trainable=(), record=(), feedback=()):
    """Why the fused kernel cannot run this, as a sentence, or None if it can.

    Parameters
    ----------
    net : Network
    trainable : iterable of str
        Names of tensors that need gradients, such as ``'rec_rec.weight'``.
    record : iterable of str
        What must come back: ``'<readout>.output'`` and ``'<population>.count'``.
    feedback : iterable of str
        Projections with a feedback matrix.
    """
    spiking = {name for name, p in net.populations.items() if p.model.spiking}
    known = {f"{n}.output" for n in net.readouts} | {f"{n}.count" for n in spiking}
    other = [name for name in trainable if not name.endswith(".weight")]
    if other:
        return f"gradients of {', '.join(other)}: the kernel has those of weights only"
    if set(record) - known:
        return f"recording {', '.join(sorted(set(record) - known))}: the kernel returns {', '.join(sorted(known))}"
    for name, p in net.projections.items():
        if p.transmission == "graded" and not isinstance(net.nodes[p.pre], Input):
            return f"projection {name!r} is graded between populations"
        if p.transmission == "event" and p.target in net.nodes[p.post].model.clamped:
            return f"projection {name!r}: spikes land on a variable that is clamped while refractory"
        if p.delay is not None and p.delay.trainable:
            return f"projection {name!r} has real-valued delays"
        if p.delay is not None and p.delay.kind == "synaptic" and name in feedback:
            return f"projection {name!r} has a feedback matrix and one delay per synapse"
    for name, population in net.populations.items():
        reason = why_no_cells(population.model)
        if reason:
            return f"population {name!r}: {reason}"
    return missing()


def why_no_cells(model):
    step = lower(model)
    if any(text in step.code for text in ("xi", "rand")):
        return f"{model.name} is stochastic"
    expressions = [e for _, e in step.program] + list(step.updated.values())
    expressions += [*step.reset.values(), *step.adaptation.values()]
    expressions += [e for e in (step.spike_argument, step.psi, step.output) if e is not None]
    try:
        found = jacobian(step)
        expressions += [e for _, e in found.program] + list(found.entries.values())
    except UnsupportedError as error:
        return str(error)
    reason = check_c_form(expressions)
    return f"{model.name}: {reason}" if reason else None
