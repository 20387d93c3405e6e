"""Graded transmission in Brian2: summed variables, read from a delay line where the signal takes time.

Brian2 delays events, not values. A delay line is a group with one cell per source neuron and step of delay: in every
step each cell takes over its neighbour's value, so that the cell ``d`` steps along holds the output of ``d`` steps ago.
"""

import brian2 as b2
import numpy as np
from brian2.equations.equations import PARAMETER, Equations, SingleEquation
from brian2.units.fundamentalunits import DIMENSIONLESS

from localplast.backends.brian2.names import called
from localplast.network.delays import per_synapse

__all__ = ["keep_late", "through_line"]


def through_line(built, p, values, step, pre):
    """``(group, members)`` that the synapses of ``p`` read in place of its neurons ``pre``: themselves, or cells of a
    delay line, if it has delays and is read one way.
    """
    late, steps = step.late(p), values.delays[p.name]
    if late is None or late.role == "kept":
        return built.objects[p.pre], pre
    longest = int(steps.max())
    cells = pre * (longest + 1) + cell(per_synapse(p, steps, values.masks[p.name]), longest)
    return delay_line(built, p, longest, step), cells


def keep_late(built, p, values, step):
    """Let neurons hold what they sent by ``p`` until it arrives: synapses that are read both ways need it there."""
    group, steps = built.objects[p.pre], np.broadcast_to(values.delays[p.name], (built.net.size(p.pre),)).astype(int)
    longest, kept = int(steps.max()), called(built.net, step.late(p))
    line = delay_line(built, p, longest, step)
    index = np.arange(len(steps)) * (longest + 1) + cell(steps, longest)
    setattr(group, f"{kept}_line", b2.linked_var(line, "signal", index=index))
    # synapses see no links
    group.run_regularly(f"{kept} = {kept}_line", when="before_synapses", order=-1, name=f"{p.name}_arrives")


def cell(delay, longest):
    """Position of a delay in the line of one neuron: the longest delay first.

    Cells are updated in ascending order, and each reads the next one: it must not have moved yet.
    """
    return longest - delay.astype(int)


def delay_line(built, p, longest, step):
    """The group that remembers the outputs of ``p.pre`` for ``longest`` steps, silent at the start of every trial."""
    source, length, name = built.objects[p.pre], longest + 1, f"line_{p.name}"
    sent = step.arrays[step.lowered.travel.late[p.name]]
    dimension = sent.unit
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
    group.latest = b2.linked_var(source, called(built.net, sent), index=index // length)
    code = f"signal = latest*newest + neighbour*(1 - newest)*(1 - {built.block.fresh})"
    group.run_regularly(code, when="before_synapses", order=-2, name=f"{name}_shift")
    built.objects[name] = group
    return group
