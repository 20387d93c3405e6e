"""What a kernel must do, read off a network: populations, projections, which gradients flow, and why it cannot run.

The plan fixes the C text; sizes are baked in, numbers (weights, parameters, delays) are not.
"""

from dataclasses import dataclass

import sympy
import torch

from localplast.backends.c.compile import missing
from localplast.backends.c.expression import Constants, check_c_form
from localplast.equations.expressions import differentiate
from localplast.network.convolution import form_of
from localplast.network.credit_graph import check_cut, projection_edges
from localplast.network.nodes import Input
from localplast.neuron.step import jacobian, lower

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
    learned : tuple of str
        Parameters whose gradient is wanted.
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
    learned: tuple
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
        """d spike argument / d variable or learned parameter, for those that it depends on."""
        found = {v: differentiate(self.step.spike_argument, v) for v in (*self.variables, *self.learned)}
        return {v: e for v, e in found.items() if e != 0}


@dataclass(frozen=True, eq=False)
class Link:
    """A projection between the nodes ``pre`` and ``post``; ``kind`` of delay ``'shared'`` where one serves all.

    Attributes
    ----------
    passes : bool
        Whether the gradient goes back to the presynaptic spikes.
    between : bool
        Whether delays are real numbers, shared by two steps and with a gradient.
    sent_late : bool
        Whether it is the source that delays, so that a feedback matrix stands between a delay and its error.
    """

    number: int
    name: str
    pre: object
    post: Cells
    target: str
    transmission: str
    kind: str
    passes: bool
    between: bool
    sent_late: bool

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
    delayed = property(lambda self: [k for k in self.links if k.between])

    @property
    def learned(self):
        """Names of what is differentiated besides weights: parameters, then delays."""
        return [f"{n.name}.{p}" for n in self.cells for p in n.learned] + [f"{k.name}.delay" for k in self.delayed]

    def into(self, cells, target, transmission):
        """Links that fill one box."""
        return [k for k in self.links if (k.post, k.target, k.transmission) == (cells, target, transmission)]


def make_plan(net, tensors, *, cut, block, bits=(), dense=(), learned=()):
    """The :class:`Plan` of a network; ``bits`` and ``dense`` name inputs (:class:`Channels`), ``learned`` parameters
    and delays.
    """
    cut, edges = check_cut(net, cut), projection_edges(net)
    double = next(iter(tensors.values())).dtype == torch.float64
    nodes = {}
    for number, (name, node) in enumerate(net.nodes.items()):
        if isinstance(node, Input):
            nodes[name] = Channels(number, name, node.size, name in bits, name in dense)
        else:
            nodes[name] = make_cells(net, number, name, node, tensors, cut, double, learned)
    links = []
    for number, (name, p) in enumerate(net.projections.items()):
        pre, post = nodes[p.pre], nodes[p.post]
        kind = "shared" if tensors[f"{name}.delay"].ndim == 0 else p.delay.kind
        passes = isinstance(pre, Cells) and pre.learns and not edges[name] & cut
        between = f"{name}.delay" in learned or name in net.learned_delays
        sent_late = p.delay is None or p.delay.kind == "axonal"
        links.append(Link(number, name, pre, post, p.target, p.transmission, kind, passes, between, sent_late))
    return Plan(tuple(nodes.values()), tuple(links), double, block)


def make_cells(net, number, name, population, tensors, cut, double, learned):
    step, dt, period = lower(population.model), float(net.dt), population.model.refractory
    values = {k: tensors[f"{name}.{k}"].detach() for k in population.values}
    grows = f"{name}.{period}" in learned
    refractory = period is not None and (grows or bool((silent_steps(net, name, tensors) > 1).any()))
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
        learned=tuple(k for k in population.values if f"{name}.{k}" in learned),
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
        Names of tensors that need gradients, such as ``'rec_rec.weight'``, ``'rec.tau_mem'``, ``'rec_rec.delay'``.
    record : iterable of str
        What must come back: ``'<readout>.output'``, ``'<population>.count'`` and ``'<population>.sum'``.
    feedback : iterable of str
        Projections with a feedback matrix.
    """
    spiking = {name for name, p in net.populations.items() if p.model.spiking}
    known = {f"{n}.output" for n in net.readouts} | {f"{n}.{what}" for n in spiking for what in ("count", "sum")}
    parameters = {f"{n}.{k}" for n, p in net.populations.items() for k in p.values}
    learnable = parameters | {f"{n}.{what}" for n in net.projections for what in ("weight", "delay")}
    if other := [name for name in trainable if name not in learnable]:
        return f"gradients of {', '.join(other)}: the kernel has those of weights, parameters and delays"
    if set(record) - known:
        return f"recording {', '.join(sorted(set(record) - known))}: the kernel returns {', '.join(sorted(known))}"
    for name, p in net.projections.items():
        if p.transmission == "graded" and not isinstance(net.nodes[p.pre], Input):
            return f"projection {name!r} is graded between populations"
        if form_of(net.projections, p):
            return f"projection {name!r} is a convolution"
        if p.short_term is not None:
            return f"projection {name!r} has short-term plasticity"
        if p.transmission == "event" and p.target in net.nodes[p.post].model.clamped:
            return f"projection {name!r}: spikes land on a variable that is clamped while refractory"
        if getattr(p.delay, "kernel", None) is not None:
            return f"projection {name!r} spreads its delays by a {p.delay.kernel.kind} kernel"
        if p.delay is not None and p.delay.kind == "synaptic" and name in feedback:
            return f"projection {name!r} has a feedback matrix and one delay per synapse"
    for name, population in net.populations.items():
        reason = why_no_cells(population.model, tuple(k for k in population.values if f"{name}.{k}" in trainable))
        if reason:
            return f"population {name!r}: {reason}"
    return missing()


def why_no_cells(model, learned=()):
    step = lower(model)
    if step.noise or step.draws():
        return f"{model.name} is stochastic"
    expressions = [e for _, e in step.program] + list(step.updated.values())
    expressions += [*step.reset.values(), *step.adaptation.values()]
    expressions += [e for e in (step.spike_argument, step.psi, step.output) if e is not None]
    for found in (jacobian(step), *(jacobian(step, p) for p in learned)):
        expressions += [e for _, e in found.program] + list(found.entries.values())
    outside = [*step.reset.values(), *step.adaptation.values(), step.spike_argument, step.output]
    expressions += [differentiate(e, p) for p in learned for e in outside if e is not None]
    reason = check_c_form(expressions)
    return f"{model.name}: {reason}" if reason else None
