"""Graded transmission in Brian2: summed variables, read from a delay line where the signal takes time.

Brian2 delays events, not values. A delay line is a group with one cell per source neuron and step of delay: in every
step each cell takes over its neighbour's value, so that the cell ``d`` steps along holds the output of ``d`` steps ago.
"""

import brian2 as b2
import numpy as np
from brian2.equations.codestrings import Expression
from brian2.equations.equations import PARAMETER, Equations, SingleEquation
from brian2.units.fundamentalunits import DIMENSIONLESS

from localplast.backends.brian2.text import LEARN, suffixed
from localplast.network.check import sent_dimension, weight_dimension
from localplast.network.delays import per_synapse
from localplast.network.nodes import Input
from localplast.network.sent import sent_text, sent_texts
from localplast.neuron.step import prospective

__all__ = ["build_graded", "graded_parts", "output_name", "is_late", "sent_lines"]


def graded_parts(net, name):
    """For every variable that graded projections set: one Brian2 variable per projection."""
    parts = {}
    for p in net.projections.values():
        if p.post == name and p.transmission == "graded":
            parts.setdefault(p.target, []).append(f"{p.target}_from_{p.name}")
    return parts


def build_graded(built, p, values, learning=None):
    """The Synapses of a graded projection; a delay line before it, if it has delays. Where it learns, ``learning``
    adds how.
    """
    net, mask, steps = built.net, values.masks[p.name], values.delays[p.name]
    source, output = built.objects[p.pre], f"{output_name(net, p)}_pre"
    pre, post = np.nonzero(mask)
    back = [backwards(built, q, values) for q in tied_to(net, p)]
    if back:
        output = f"{arriving(built, p, values)}_pre"
    elif np.any(steps > 0):
        source = delay_line(built, p, int(steps.max()))
        pre = pre * (int(steps.max()) + 1) + cell(per_synapse(p, steps, mask), int(steps.max()))
        output = "signal_pre"
    dimension = net.nodes[p.post].model.dimensions[p.target]
    total = SingleEquation(
        "subexpression", f"{p.target}_from_{p.name}_post", dimension, expr=Expression(f"w*({output})"), flags=["summed"]
    )
    weight = SingleEquation(PARAMETER, "w", weight_dimension(net, p))
    group = built.objects[p.post]
    lines = learning.synapse_lines(p) if learning else []
    pathways = learning.pathways(p) if learning else {}
    synapses = b2.Synapses(
        source,
        group,
        Equations([weight, total, *back, *lines]),
        name=p.name,
        clock=group.clock,
        namespace={"second": b2.second},
        **pathways,
    )
    synapses.connect(i=pre, j=post)
    synapses.w_ = values.weights[p.name][mask]
    for variable, updater in synapses.summed_updaters.items():
        ahead = variable.startswith("coming_")  # weighted with what is there before it learns
        updater.when, updater.order = ("end", LEARN - 1) if ahead else ("before_synapses", 0)
    for q in tied_to(net, p):
        if comes_ahead(net, q):
            let_arrive(built, q)
    if learning:
        learning.attach(p, synapses, mask)
    return synapses


def tied_to(net, p):
    """The projections that have the weights of ``p``."""
    return [net.projections[name] for name, same in net.tied.items() if same.projection == p.name]


def comes_ahead(net, p):
    """Whether what the tied projection ``p`` carries is weighted in the step that sends it."""
    return net.tied[p.name].when == "sent" and prospective(net.nodes[p.pre].model, sent_text(p, net.nodes[p.pre].model))


def let_arrive(built, p):
    """What was weighted at the end of the step before arrives; nothing in the first step of a trial."""
    text = f"{p.target}_from_{p.name} = coming_{p.name}*(1 - {built.block.fresh})"
    built.objects[p.post].run_regularly(text, when="before_synapses", name=f"{p.name}_arrives")


def is_late(net, p, values):
    """Whether a neuron keeps what it sends by ``p`` until it arrives: synapses that are read both ways need it
    there.
    """
    return (
        bool(np.any(values.delays[p.name]))
        and p.transmission == "graded"
        and (p.name in net.tied or bool(tied_to(net, p)))
    )


def arriving(built, p, values):
    """The variable of the presynaptic group that holds what arrives through ``p``, read from its delay line if it has
    delays.
    """
    if not is_late(built.net, p, values):
        return output_name(built.net, p)
    steps = np.broadcast_to(values.delays[p.name], (built.net.size(p.pre),)).astype(int)
    line, longest = delay_line(built, p, int(steps.max())), int(steps.max())
    index = np.arange(len(steps)) * (longest + 1) + cell(steps, longest)
    group, name = built.objects[p.pre], f"sent_late_{p.name}"
    setattr(group, f"{name}_line", b2.linked_var(line, "signal", index=index))
    # synapses see no links
    group.run_regularly(f"{name} = {name}_line", when="before_synapses", order=-1, name=f"{p.name}_arrives")
    return name


def backwards(built, q, values):
    """What the tied projection ``q`` sums up, through the synapses whose weights it has."""
    net, name = built.net, f"{q.target}_from_{q.name}"
    dimension, model = net.nodes[q.post].model.dimensions[q.target], net.nodes[q.pre].model
    text = f"{arriving(built, q, values)}_post"
    if comes_ahead(net, q):
        text, name = f"({suffixed(model, sent_text(q, model), '_post')})", f"coming_{q.name}"
    code = Expression(f"{q.weight.times!r}*w*{text}")
    return SingleEquation("subexpression", f"{name}_pre", dimension, expr=code, flags=["summed"])


def cell(delay, longest):
    """Position of a delay in the line of one neuron: the longest delay first.

    Cells are updated in ascending order, and each reads the next one: it must not have moved yet.
    """
    return longest - delay.astype(int)


def delay_line(built, p, longest):
    """The group that remembers the outputs of ``p.pre`` for ``longest`` steps, silent at the start of every trial."""
    source, length, name = built.objects[p.pre], longest + 1, f"line_{p.name}"
    dimension = built.net.nodes[p.post].model.dimensions[p.target] / weight_dimension(built.net, p)
    lines = [
        SingleEquation(PARAMETER, "signal", dimension),
        SingleEquation(PARAMETER, "newest", DIMENSIONLESS, flags=["constant"]),
        SingleEquation(PARAMETER, "neighbour", dimension, flags=["linked"]),
        SingleEquation(PARAMETER, "latest", dimension, flags=["linked"]),
    ]
    group = b2.NeuronGroup(source.N * length, Equations(lines), clock=source.clock, name=name)
    index = np.arange(source.N * length)
    newest = index % length == longest
    group.newest_ = newest.astype(float)
    group.neighbour = b2.linked_var(group, "signal", index=np.where(newest, index, index + 1))
    group.latest = b2.linked_var(source, output_name(built.net, p), index=index // length)
    code = f"signal = latest*newest + neighbour*(1 - newest)*(1 - {built.block.fresh})"
    group.run_regularly(code, when="before_synapses", order=-2, name=f"{name}_shift")
    built.objects[name] = group
    return group


def output_name(net, p):
    """The variable of the presynaptic group that the graded projection ``p`` reads."""
    if isinstance(net.nodes[p.pre], Input):
        return "r"
    return f"sent_{sent_texts(net, p.pre)[sent_text(p, net.nodes[p.pre].model)]}"


def sent_lines(net, name, values):
    """The variables that hold what leaves a population late, or early."""
    model = net.nodes[name].model
    late = [p for p in net.projections.values() if p.pre == name and is_late(net, p, values)]
    dimensions = {p.name: sent_dimension(model, sent_text(p, model)) for p in late}
    lines = [SingleEquation(PARAMETER, f"sent_late_{key}", dim) for key, dim in dimensions.items()]
    coming = [net.projections[key] for key in net.tied if net.projections[key].post == name]
    lines += [
        SingleEquation(PARAMETER, f"coming_{q.name}", model.dimensions[q.target]) for q in coming if comes_ahead(net, q)
    ]
    return lines + [
        SingleEquation(PARAMETER, f"sent_late_{key}_line", dim, flags=["linked"]) for key, dim in dimensions.items()
    ]
