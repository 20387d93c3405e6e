"""A network as Brian2 objects: as few as possible, for each one compiles for seconds.

A run is a block of trials, one after the other, ``period`` steps each: the trial itself and a *gap* as long as the
longest delay, in which nothing spikes and everything in flight lands. How many they are, and how long, is no part of
what is built: the clock holds these numbers, tables the inputs.
"""

from collections import Counter
from dataclasses import dataclass, field

import brian2 as b2
import numpy as np
from brian2.equations.equations import PARAMETER, Equations, SingleEquation
from brian2.units.allunits import second
from brian2.units.fundamentalunits import DIMENSIONLESS

from localplast.backends.brian2.delays import settings
from localplast.backends.brian2.graded import keep_late, through_line
from localplast.backends.brian2.learning import Learning
from localplast.backends.brian2.loops import RestCodeObject, few_spikes, in_cpp
from localplast.backends.brian2.step import Step
from localplast.backends.brian2.tables import Table, held_for
from localplast.backends.brian2.text import where
from localplast.backends.brian2.timing import Block, add_number, make_clock, read_clock
from localplast.errors import UnsupportedError
from localplast.network.check import weight_dimension
from localplast.network.delays import per_synapse
from localplast.network.nodes import Input
from localplast.neuron.step import check_integration, lower
from localplast.task.trials import Poisson

__all__ = ["Built", "build"]


class Objects(dict):
    """Brian2 objects by name, each name once: parts of a network beside what is made of them."""

    def __setitem__(self, name, thing):
        check_once(name, name in self)
        super().__setitem__(name, thing)


def check_once(name, twice):
    """Raise where Brian2 would have two objects of one name."""
    if twice:
        raise UnsupportedError(
            f"{name!r}: in Brian2 a part of the network is called so, and what is made of another part; give the part "
            "another name, or use backend='torch'"
        )


@dataclass
class Built:
    """Brian2 objects by name, their clock, the tables that carry the trials, the monitors, and what begins trials.

    An update is made of ``batch`` trials.
    """

    net: object
    block: Block
    clock: b2.Clock
    objects: dict = field(default_factory=Objects)
    tables: dict = field(default_factory=dict)
    monitors: dict = field(default_factory=dict)
    restarts: list = field(default_factory=list)
    pay_delay: int = 0
    batch: int = 1

    def table(self, name, columns=None):
        """Add a table of the whole run, whose rows each hold for a number of steps; returns it."""
        add_number(self.clock, held_for(name))
        self.tables[name] = Table(name, columns, f"t_in_timesteps//{held_for(name)}")
        return self.tables[name]

    def trial_table(self, name):
        """Add a table of one trial, with a number for each step."""
        self.tables[name] = Table(name, None, "t_in_timesteps % _period")

    def set(self, numbers):
        """Set variables, ``{(object, variable): SI numbers}``."""
        for (owner, name), value in numbers.items():
            setattr(self.objects[owner], f"{name}_", value)


def parameter(name, dimension, *flags):
    """One line of Brian2 equations: a variable that code sets."""
    return SingleEquation(PARAMETER, name, dimension, flags=list(flags))


def build(net, values, block, trials, *, request=(), plan=None, seed=0):
    """Make the Brian2 objects.

    Parameters
    ----------
    net : Network
    values : Values
    block : Block
        Whether there are gaps.
    trials : Trials
        An example of what will be presented (kinds only).
    request : iterable of (str, str)
        What to monitor: ``(node, variable)``; the variables ``spikes`` and ``raster`` mean events.
    plan : Plan, optional
        What is learned.
    """
    net.check_values(values)
    built = Built(net, block, make_clock(net.dt), batch=plan.batch if plan else 1)
    step = Learning(net, values, block, plan, seed) if plan else Step(net, values, block)
    heard = {p.pre for p in net.projections.values()} | {node for node, _ in request}
    for name, node in net.nodes.items():
        if isinstance(node, Input) and not plan and name not in heard:
            continue
        if isinstance(node, Input):
            built.objects[name] = build_input(built, name, node, trials.inputs[name], step)
        else:
            check_integration(name, lower(node.model), values.parameters[name], net.dt)
            built.objects[name] = build_population(built, name, node, values, step)
    build_projections(built, values, step)
    if plan:
        step.connect(built)
    for p in net.projections.values():
        if step.divided(p.name):
            gathered = f"arrivals_{p.name}" in built.objects
            built.set(settings(net, p, values.delays[p.name], values.masks[p.name], gathered))
    build_monitors(built, request)
    check_names(built)
    for thing in built.objects.values():
        read_clock(thing, built.clock)
    return built


def check_names(built):
    """Raise where two objects have one name, those that Brian2 makes of a group included."""
    things = [*built.objects.values(), *built.monitors.values()]
    each = {id(thing): thing.name for whole in things for thing in (whole, *whole.contained_objects)}
    for name, count in Counter(each.values()).items():
        check_once(name, count > 1)


def build_input(built, name, node, example, step):
    if isinstance(example, Poisson):
        signal = f"int(rand() < {built.table(f'rates_{name}', node.size).text()}*dt/second)"
    else:
        signal = built.table(f"signal_{name}", node.size).text()
    code = [
        *start_of_trial(built.block, list(step.starts(name))),
        *step.begin(name),
        f"r = {signal}",
        *step.update(name),
    ]
    after, spiking = "\n".join(step.after_spikes(name)), {}
    if node.kind == "spikes":  # as an event: a threshold brings a reset along, which would do nothing in every step
        spiking = {"threshold": "r > 0.5", "reset": after} if after else {"events": {"spike": "r > 0.5"}}
    group = b2.NeuronGroup(
        node.size,
        Equations([*step.lines_of(name), parameter("r", DIMENSIONLESS)]),
        clock=built.clock,
        namespace=dict(built.tables, second=b2.second),
        name=name,
        codeobj_class=few_spikes(),
        **spiking,
    )
    group.run_regularly("\n".join(code), when="groups", name=f"{name}_signal")
    return group


def build_population(built, name, population, values, step):
    """The neurons of one population; what they learn is part of their step."""
    model, block, arrays = population.model, built.block, values.parameters[name]
    initial = {**model.initial, **population.initial}
    started = {k: v for k, v in initial.items() if np.any(np.asarray(v))}
    starts = list(step.starts(name, started))
    # the restart costs nothing in all other steps, and one object more to compile
    apart = type(step) is Step and (in_cpp() or not block.gap)
    code = [] if apart else start_of_trial(block, starts, model.refractory)
    code += [*step.begin(name), *step.update(name)]
    group = b2.NeuronGroup(
        population.size,
        Equations(declared(name, model, values, started, step)),
        threshold="z > 0.5" if model.spiking else None,
        reset="\n".join(step.after_spikes(name)) if model.spiking else None,
        refractory=model.refractory or False,
        clock=built.clock,
        name=name,
        method=(lambda *_: "\n".join(code)) if model.odes else None,
        events=step.events(name),
        namespace={},
        codeobj_class=few_spikes(),
    )
    if not model.odes:
        group.run_regularly("\n".join(code), when="groups", order=1, name=f"{name}_update")
    if apart:
        ready = ["lastspike = -10000*second", "not_refractory = True"] if model.refractory else []
        restart = "\n".join([*ready, *map(str, starts)])
        when = {"codeobj_class": RestCodeObject} if in_cpp() else {"dt": built.net.dt}  # a clock that a session sets
        runner = group.run_regularly(restart, when="start", name=f"{name}_restart", **when)
        built.restarts += [] if in_cpp() else [runner]
    for key in model.parameters:
        setattr(group, f"{key}_", arrays[key] if arrays[key].ndim else float(arrays[key]))
    for key, value in started.items():
        setattr(group, f"initial_{key}_", np.asarray(value, float))
    return group


def declared(name, model, values, started, step):
    """The variables of one population, as equations: its model's, what arrives, what it starts from, what it learns."""
    arrays, lines = values.parameters[name], step.lines_of(name)
    others = {*model.parameters, *(line.varname for line in lines)}
    lines += [line for key, line in model.lines.items() if key not in others]
    for key in model.parameters:
        flags = () if step.learns(name, key) else ("constant",)
        lines.append(parameter(key, model.dimensions[key], *(() if arrays[key].ndim else ("shared",)), *flags))
    lines += [
        parameter(f"initial_{k}", model.dimensions[k], *(() if np.ndim(v) else ("shared",)), "constant")
        for k, v in started.items()
    ]
    return lines


def start_of_trial(block, starts, refractory=False):
    """Statements that set the state back in the first step of a trial, and hold it through a gap.

    Refractoriness first: Brian2 does not write to clamped variables of a neuron that is still refractory.
    """
    if not starts:
        return []
    code = [f"_fresh = {block.held if block.gap else block.fresh}"]
    if refractory:
        code.append("lastspike = lastspike*(1 - _fresh) - _fresh*10000*second")
        code.append("not_refractory = not_refractory or (_fresh == 1)")
    return code + [str(where(line, "_fresh")) for line in starts]


def check_projection(p, values):
    """Raise where Brian2 cannot run a projection."""
    mask = values.masks[p.name]
    if not mask.any():
        raise UnsupportedError(
            f"projection {p.name!r}: none of its {mask.size} synapses exists, and Brian2 runs no empty projection; "
            "leave it out, change its mask or the seed, or use backend='torch'"
        )


def build_projections(built, values, step):
    """What travels between populations."""
    for name, projection in built.net.projections.items():
        check_projection(projection, values)
        if name not in built.net.tied:
            built.objects[name] = build_projection(built, projection, values, step)
        if (late := step.late(projection)) and late.role == "kept":
            keep_late(built, projection, values, step)
    for name in built.net.populations:
        if arrivals := step.arrivals(name):
            built.objects[name].run_regularly("\n".join(arrivals), when="before_synapses", name=f"{name}_arrivals")


def build_projection(built, p, values, step):
    net, mask, steps = built.net, values.masks[p.name], values.delays[p.name]
    (pre, post), spikes, shares = np.nonzero(mask), p.transmission == "event", step.divided(p.name)
    source, lines, arguments = built.objects[p.pre], [parameter("w", weight_dimension(net, p))], step.pathways(p)
    if shares:
        lines += [parameter("fraction", DIMENSIONLESS, "constant"), parameter("flight", second.dim, "constant")]
    if spikes:
        arguments["on_pre"] = step.on_pre(p)
    else:
        source, pre = through_line(built, p, values, step, pre)
    if spikes and steps.ndim == 0 and steps > 0 and not shares:
        arguments["delay"] = {"deliver": float(steps) * net.dt}
    synapses = b2.Synapses(
        source,
        built.objects[p.post],
        Equations([*lines, *step.synapse_lines(p)]),
        name=p.name,
        namespace={"second": b2.second},
        clock=built.clock,
        **arguments,
    )
    synapses.connect(i=pre, j=post)
    synapses.w_ = values.weights[p.name][mask]
    if spikes and steps.ndim and not shares:
        synapses.deliver.delay_ = per_synapse(p, steps, mask) * float(net.dt)
    step.attach(p, synapses, mask)
    return synapses


def build_monitors(built, request):
    """State monitors read at the end of a step, spike monitors as events."""
    states, spiking = {}, set()
    for node, variable in request:
        if variable in ("spikes", "raster"):
            spiking.add(node)
        else:
            states.setdefault(node, set()).add(variable)
    for node, variables in states.items():
        group = built.objects[node]
        built.monitors[node, "state"] = b2.StateMonitor(
            group, sorted(variables), record=True, when="end", order=10, clock=group.clock, name=f"{node}_state"
        )
    for node in sorted(spiking):
        built.monitors[node, "spikes"] = b2.SpikeMonitor(built.objects[node], name=f"{node}_spikes")
