"""What a kernel that learns must do, read off a network: populations, projections, and why it cannot run.

The plan fixes the C text; sizes are baked in, numbers (weights, parameters, delays) are not.
"""

from dataclasses import dataclass

import numpy as np
import torch

from localplast.backends.c.arguments import padded_row
from localplast.backends.c.compile import missing
from localplast.backends.c.expression import Constants, check_c_form
from localplast.network.convolution import form_of
from localplast.network.nodes import Input
from localplast.neuron.step import jacobian, lower
from localplast.program.finite import Unexplained

__all__ = [
    "Cells",
    "Channels",
    "Link",
    "Plan",
    "check_diverged",
    "constant_arrays",
    "make_plan",
    "silent_steps",
    "why_not",
]

#: Lanes that rows are padded to, in bytes: the widest vector register in use.
ROW_BYTES = 64


@dataclass(frozen=True, eq=False)
class Channels:
    """An input."""

    number: int
    name: str
    size: int


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

    @property
    def spiking(self):
        return self.step.model.spiking

    @property
    def readout(self):
        return not self.spiking and self.step.output is not None


@dataclass(frozen=True, eq=False)
class Link:
    """A projection between the nodes ``pre`` and ``post``; ``kind`` of delay ``'shared'`` where one serves all."""

    number: int
    name: str
    pre: object
    post: Cells
    target: str
    transmission: str
    kind: str


@dataclass(frozen=True)
class Plan:
    """All of it."""

    nodes: tuple
    links: tuple
    double: bool

    cells = property(lambda self: [n for n in self.nodes if isinstance(n, Cells)])
    channels = property(lambda self: [n for n in self.nodes if isinstance(n, Channels)])


def make_plan(net, tensors):
    """The :class:`Plan` of a network."""
    double = next(iter(tensors.values())).dtype == torch.float64
    nodes = {}
    for number, (name, node) in enumerate(net.nodes.items()):
        if isinstance(node, Input):
            nodes[name] = Channels(number, name, node.size)
        else:
            nodes[name] = make_cells(net, number, name, node, tensors, double)
    links = []
    for number, (name, p) in enumerate(net.projections.items()):
        kind = "shared" if tensors[f"{name}.delay"].ndim == 0 else p.delay.kind
        links.append(Link(number, name, nodes[p.pre], nodes[p.post], p.target, p.transmission, kind))
    return Plan(tuple(nodes.values()), tuple(links), double)


def make_cells(net, number, name, population, tensors, double):
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
    )


def silent_steps(net, name, tensors):
    """Steps for which a spike silences the neurons of a population, as Brian2's ``timestep()`` counts them."""
    period = tensors[f"{name}.{net.nodes[name].model.refractory}"].detach()
    return torch.floor(period / float(net.dt) + 1e-3)


def why_not(net):
    """Why the kernel that learns online cannot run a network, as a sentence, or None if it can."""
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
    for name, population in net.populations.items():
        if reason := why_no_cells(population.model):
            return f"population {name!r}: {reason}"
    return missing()


def why_no_cells(model):
    step = lower(model)
    if step.noise or step.draws():
        return f"{model.name} is stochastic"
    expressions = [e for _, e in step.program] + list(step.updated.values())
    expressions += [*step.reset.values(), *step.adaptation.values()]
    expressions += [e for e in (step.spike_argument, step.psi, step.output) if e is not None]
    found = jacobian(step)
    reason = check_c_form([*expressions, *(e for _, e in found.program), *found.entries.values()])
    return f"{model.name}: {reason}" if reason else None


def constant_arrays(plan, net, tensors):
    """Parameters and delays as arrays, by slot; call it when the C text is written, for that asks for constants."""
    given, dtype = {}, torch.float64 if plan.double else torch.float32
    for n in plan.cells:
        n.constants.values.update({k: tensors[f"{n.name}.{k}"].detach() for k in n.constants.values if k != "dt"})
        given[f"shared{n.number}"], given[f"each{n.number}"] = n.constants.numbers(n.padded)
        given[f"initial{n.number}"] = np.array(
            [padded_row(tensors[f"{n.name}.{v}"].detach().double(), n.size, n.padded) for v in n.variables]
        )
        if n.refractory:
            given[f"silent{n.number}"] = padded_row(silent_steps(net, n.name, tensors), n.size, n.padded)
    arrays = {k: torch.as_tensor(v, dtype=dtype).contiguous() for k, v in given.items()}
    for k in plan.links:
        steps = tensors[f"{k.name}.delay"].detach()
        arrays[f"delay{k.number}"] = steps.to(torch.int32).contiguous()
        arrays[f"part{k.number}"] = (steps - steps.floor()).contiguous()
    return arrays


def check_diverged(cells, found):
    """Raise where a kernel has returned the number of one of the populations."""
    if wrong := [cells[place].name for place in found if place >= 0]:
        raise Unexplained(f"population {wrong[0]!r} is not finite at the end of a trial")
