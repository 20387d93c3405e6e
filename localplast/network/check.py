"""What a network must be: every part checked against the others, before anything is compiled."""

import math
from dataclasses import replace

import numpy as np
from brian2.parsing.expressions import parse_expression_dimensions
from brian2.units.allunits import second
from brian2.units.fundamentalunits import Quantity, get_dimensions

from localplast.arguments import is_real
from localplast.equations.statements import parse_statement, split_statements
from localplast.equations.units import unit_text
from localplast.errors import NetworkError
from localplast.files import check_fields
from localplast.memory import check_memory
from localplast.names import BRIAN2, check_name
from localplast.network.bounds import as_limits, check_bounds, check_given, check_within
from localplast.network.convolution import KERNEL, check_convolution, check_largest, form_of, given_weight
from localplast.network.delays import check_delay, delay_shapes, warn
from localplast.network.nodes import ROLES, Input, Population, Projection
from localplast.network.sent import sent_text
from localplast.network.short_term import check_short_term
from localplast.network.weights import Random, SameAs
from localplast.neuron.check import check_text, with_spike
from localplast.neuron.domain import check_domain
from localplast.neuron.integration import check_numbers, divided_by
from localplast.neuron.model import NeuronModel
from localplast.neuron.namespace import namespace

__all__ = ["check_network", "check_node", "check_time_constants", "synapses", "weight_dimension"]

#: Above zero, and no more is said of it.
TINY = float(np.finfo(float).tiny)


def check_network(net, projections):
    """Check every part against the others; return the projections by name, defaults filled in."""
    if not is_finite(net.dt) or np.ndim(net.dt) or get_dimensions(net.dt) != second.dim or not float(net.dt) > 0:
        raise NetworkError(f"the time step must be a positive time such as 1*ms, not {net.dt!r}")
    for name, node in net.nodes.items():
        check_node(name, node)
        check_time_constants(net.dt, name, node)
    complete = {}
    for projection in projections:
        if not isinstance(projection, Projection):
            raise NetworkError(f"a network is joined by Projection(...), not by {str(projection)[:80]!r}")
        projection = complete_projection(net, projection)
        if projection.name in complete or projection.name in net.nodes:
            raise NetworkError(f"two parts are called {projection.name!r}; give the projection another name=")
        complete[projection.name] = projection
    for p in complete.values():
        if isinstance(p.weight, SameAs):
            check_same(net, p, complete)
        check_shapes(net, p, complete)
    return complete


def check_same(net, p, projections):
    """Weights may be copied from a projection that is there, has the shape, and does not copy these."""
    other, passed = projections.get(p.weight.projection), [p.name]
    last = other
    while last is not None and isinstance(last.weight, SameAs) and last.name not in passed:
        passed.append(last.name)
        last = projections.get(last.weight.projection)
    if last is None or isinstance(last.weight, SameAs):
        own = sorted(name for name, q in projections.items() if not isinstance(q.weight, SameAs))
        raise NetworkError(
            f"projection {p.name!r}: no weights to begin as at {p.weight.projection!r}; there are {', '.join(own)}"
        )
    shapes = [(net.size(q.pre), net.size(q.post)) for q in (p, other)]
    if shapes[0] != (shapes[1][::-1] if p.weight.transposed else shapes[1]):
        raise NetworkError(
            f"projection {p.name!r} is {shapes[0]} (pre, post) and cannot begin as {other.name!r}, which is "
            f"{shapes[1]}; use transposed=True, or not"
        )
    if p.weight.always:
        check_tied(net, p, other)


def check_tied(net, p, other):
    """Weights that are another projection's have no learning, synapses or bounds of their own."""
    own = [
        what
        for what, given in (("plastic=True", p.plastic), ("a mask", p.mask is not None), ("bounds", p.bounds))
        if given
    ]
    if own:
        raise NetworkError(
            f"projection {p.name!r} has the weights of {other.name!r} at every moment, and {own[0]} of its own; give "
            "plastic=False and no mask or bounds, or let it begin with same_as(..., transposed=True)"
        )
    if p.weight.when == "sent" and p.delay is not None:
        raise NetworkError(
            f"projection {p.name!r}: what is delayed arrives through the weights of that moment; use "
            f"transposed({other.name!r}), without when='sent'"
        )
    if "event" in (p.transmission, other.transmission):
        raise NetworkError(
            f"projection {p.name!r}: only graded projections can share the weights of {other.name!r}; use same_as(...)"
        )
    units = [unit_text(weight_dimension(net, q)) for q in (p, other)]
    if units[0] != units[1]:
        raise NetworkError(
            f"projection {p.name!r} needs weights in {units[0]}, and those of {other.name!r} are in {units[1]}; use "
            "same_as(...)"
        )


def check_node(name, node):
    check_name("a population", name)
    check_ending(name)
    if name in BRIAN2 or name.startswith("_"):
        raise NetworkError(f"{name!r} cannot name a population: such names are Brian2's own; take another")
    if not isinstance(node, (Population, Input)):
        raise NetworkError(f"{name!r} is a {type(node).__name__}; a network holds Population and Input")
    if not isinstance(node.size, (int, np.integer)) or isinstance(node.size, bool) or node.size < 1:
        raise NetworkError(f"{name!r} needs a positive whole number of neurons, not {node.size!r}")
    check_types(f"{name!r}", node, "teacher" if isinstance(node, Input) else "parameters initial trainable")
    check_memory(f"{name!r}: {str(node.size)[:40]} neurons, 8 bytes each", 8 * int(node.size), NetworkError)
    if isinstance(node, Input):
        if node.kind not in ("spikes", "currents"):
            raise NetworkError(f"input {name!r}: kind is 'spikes' or 'currents', not {node.kind!r}")
        return
    if not isinstance(node.model, NeuronModel):
        raise NetworkError(
            f"population {name!r}: the model is a {type(node.model).__name__}, not a NeuronModel; write lif()"
        )
    known = {"parameters": node.model.parameters, "initial": variables_of(node.model)}
    for what, names in known.items():
        for key, value in getattr(node, what).items():
            if key not in names:
                raise NetworkError(f"population {name!r}: {node.model.name} has no {key!r}; it has {sorted(names)}")
            if isinstance(value, Random) and what == "parameters":
                check_drawn(f"population {name!r}", key, value, node.model.dimensions[key])
            else:
                check_value(f"population {name!r}", key, value, node.model.dimensions[key], node.size)
    check_trainable(name, node)
    check_numbers(node.model, node.drawn(name, 0).parameters, f"population {name!r}", NetworkError)


def check_types(label, part, names):
    """Raise where one of these fields of a part is not what its annotation says: a text would count as True."""
    check_fields(label, type(part), {name: getattr(part, name) for name in names.split()}, NetworkError)


def check_trainable(name, node):
    """Parameters that learn must exist, act on the neuron smoothly, and have bounds of their unit."""
    for key, bounds in node.trainable.items():
        label = f"population {name!r}, trainable {key!r}"
        if key not in node.model.parameters or key == node.model.refractory:
            smooth = sorted(set(node.model.parameters) - {node.model.refractory})
            raise NetworkError(f"{label}: {node.model.name} has no such parameter that can be learned; it has {smooth}")
        if np.ndim(bounds) != 1 or len(bounds) != 2:
            raise NetworkError(
                f"{label}: give the lowest and the highest value, such as (5*ms, 100*ms) or (None, None), not "
                f"{bounds!r}"
            )
        for bound in bounds:
            if bound is not None:
                check_value(label, key, bound, node.model.dimensions[key], 1)
        low, high = as_limits(bounds)
        if low > high:
            raise NetworkError(f"{label}: no value lies within the bounds {bounds!r}; the lowest comes first")
        check_divisor(label, node.model, key, low, high)
        check_within(label, node.values[key], low, high)
    learning = {key: as_limits(bounds) for key, bounds in node.trainable.items()}
    for key in learning.keys() & {*node.model.at_least_dt}:  # at least a step: seen to where the step is known
        learning[key] = (max(learning[key][0], TINY), learning[key][1])
    check_domain(f"population {name!r}", node.model, node.values, NetworkError, bounds=learning)


def check_divisor(label, model, key, low, high):
    """Raise where a parameter that the equations divide by may learn to be zero, or a time that is negative."""
    is_time = model.dimensions[key] == second.dim
    if key in model.at_least_dt or key not in divided_by(model) or low > 0 or (high < 0 and not is_time):
        return
    lowest = "time above zero, such as (5*ms, None)" if is_time else "value above zero, such as (0.1, None)"
    raise NetworkError(
        f"{label}: the model divides by {key}, which may learn to be zero between its bounds, {low:g} and {high:g} "
        f"(SI); give a lowest {lowest}"
    )


def check_time_constants(dt, name, node):
    """Raise where a time constant is shorter than the step, or may become so while it learns."""
    for key in getattr(getattr(node, "model", None), "at_least_dt", ()):
        for what, value in (
            ("is", node.values[key]),
            ("may learn to be", node.trainable.get(key, (node.values[key],))[0]),
        ):
            if value is None or np.any(np.asarray(value) < float(dt) * (1 - 1e-9)):
                shown = "anything" if value is None else np.min(value)
                raise NetworkError(
                    f"population {name!r}: {key} {what} {shown}, shorter than the time step, {dt}: a neuron cannot be "
                    f"faster than its simulation; make {key} at least {dt}, or the time step shorter"
                )


def check_ending(name):
    """Names that Brian2 would take for those of the two ends of a synapse."""
    if f"_{name}".endswith(("_pre", "_post")):
        raise NetworkError(
            f"{name!r} ends as Brian2 calls what belongs to the two ends of a synapse; take another name"
        )


def check_drawn(label, key, drawn, dimension):
    """A parameter to be drawn: numbers of the right unit, around one mean."""
    for value in (drawn.mean, drawn.spread):
        check_value(label, key, value, dimension, 1)
    if drawn.fan_in or drawn.radius is not None or np.ndim(drawn.mean) or np.ndim(drawn.spread):
        raise NetworkError(
            f"{label}: {key} belongs to a neuron, not to its synapses; draw it without fan-in and radius, around one "
            f"mean, such as uniform(0.1, fan_in=False), not {drawn!r}"
        )


def check_value(label, key, value, dimension, size):
    """A parameter or initial value: finite numbers of the right unit, one or ``size``."""
    if not is_finite(value):
        raise NetworkError(f"{label}: {key} = {value!r} is not a finite number; write for example 5*ms")
    if get_dimensions(value) != dimension:
        raise NetworkError(f"{label}: {key} = {value} has the wrong unit; it is measured in {unit_text(dimension)}")
    if np.shape(value) not in ((), (size,)):
        raise NetworkError(f"{label}: {key} has shape {np.shape(value)}; give one value or {size}")


def is_finite(value):
    return is_real(value) and bool(np.all(np.isfinite(np.asarray(value))))


def variables_of(model):
    """The names that the model itself declares: Brian2 adds two for refractoriness."""
    return sorted(set(model.parsed.names) - {"not_refractory", "lastspike"})


def complete_projection(net, p):
    """Fill in the defaults of one projection and check it against the nodes it connects."""
    label = f"projection {str(p.name or f'{p.pre}_{p.post}')[:64]!r}"
    check_types(label, p, "pre post target output plastic autapses")
    for end in (p.pre, p.post):
        if end not in net.nodes:
            raise NetworkError(f"{label}: there is no {end!r} in the network; it has {sorted(net.nodes)}")
    pre, post = net.nodes[p.pre], net.nodes[p.post]
    if isinstance(post, Input):
        raise NetworkError(f"{label}: {p.post!r} is an input and cannot receive")
    spikes = pre.kind == "spikes" if isinstance(pre, Input) else pre.model.spiking
    transmission = p.transmission or ("event" if spikes and p.output is None else "graded")
    p = replace(
        p, name=p.name or f"{p.pre}_{p.post}", target=p.target or post.model.receives, transmission=transmission
    )
    check_name("a projection", p.name, where=label)
    if p.name.startswith("_"):
        raise NetworkError(f"{label}: {p.name!r} cannot name a projection; names of Brian2 begin so, take another")
    check_ending(p.name)
    if p.role not in ROLES:
        raise NetworkError(f"{label}: role is {' or '.join(map(repr, ROLES))}, not {p.role!r:.80}")
    if transmission not in ("event", "graded"):
        raise NetworkError(f"{label}: transmission is 'event' or 'graded', not {transmission!r}")
    if transmission == "event" and not spikes:
        raise NetworkError(f"{label}: {p.pre!r} does not spike; use transmission='graded'")
    check_output(label, p, pre)
    if transmission == "graded" and isinstance(pre, Input) and pre.kind == "spikes":
        raise NetworkError(f"{label}: {p.pre!r} gives spikes; use Input({pre.size}, 'currents') for graded values")
    check_target(net, label, p)
    check_short_term(label, p)
    return p


def check_output(label, p, pre):
    """What travels must be something that the presynaptic neuron has."""
    if p.output is not None and (p.transmission == "event" or isinstance(pre, Input)):
        raise NetworkError(
            f"{label}: output={p.output!r} is a graded value of a population; leave it out for spikes and for inputs"
        )
    if p.transmission == "graded" and isinstance(pre, Population) and sent_text(p, pre.model) is None:
        raise NetworkError(
            f"{label}: {pre.model.name} has no graded output; give the model output='...', or say which of its "
            "variables travels: Projection(..., output='...')"
        )
    if p.output is not None:
        check_text(pre.model, f"output of {label}", p.output, with_spike(namespace(pre.model)))
        learning = {key: as_limits(bounds) for key, bounds in pre.trainable.items()}
        check_domain(f"{label}, output", pre.model, pre.values, NetworkError, bounds=learning, texts=(p.output,))


def check_target(net, label, p):
    model = net.nodes[p.post].model
    if p.target not in variables_of(model) or model.parsed[p.target].type == "subexpression":
        raise NetworkError(f"{label}: {model.name} has no variable {p.target!r}; it has {variables_of(model)}")
    if p.transmission == "graded" and p.target not in model.free_variables:
        raise NetworkError(
            f"{label}: a graded projection sets its target, so {p.target!r} must be declared without an equation "
            f"('{p.target} : unit'); {model.name} has {sorted(model.free_variables) or 'none'}"
        )
    written = {
        parse_statement(line)[0] for line in split_statements(f"{model.update}\n{model.reset}\n{model.adaptation}")
    }
    if p.transmission == "graded" and p.target in written:
        raise NetworkError(
            f"{label}: a graded projection sets its target in every step, but {model.name} changes {p.target!r} "
            "itself; let it receive by another variable"
        )
    check_weight(net, label, p)


def check_weight(net, label, p):
    """Weights must be finite and have the unit of what they deliver; bare numbers are SI."""
    if isinstance(p.weight, SameAs):
        return
    weight = given_weight(p)
    parts = {"weight": weight.spread, "mean weight": weight.mean} if isinstance(weight, Random) else {"weight": weight}
    expected = weight_dimension(net, p)
    for what, given in parts.items():
        if not is_finite(given):
            raise NetworkError(f"{label}: the {what} {given!r} is not made of finite numbers")
        if isinstance(given, Quantity) and get_dimensions(given) != expected:
            raise NetworkError(
                f"{label}: the {what} {given!r} has the wrong unit; {p.target!r} of {net.nodes[p.post].model.name} "
                f"needs {unit_text(expected)}"
            )


def weight_dimension(net, p):
    """Dimensions of the weight: the target's, over those of the output where transmission is graded."""
    dim = net.nodes[p.post].model.dimensions[p.target]
    pre = net.nodes[p.pre]
    if p.transmission == "event" or isinstance(pre, Input):
        return dim
    return dim / parse_expression_dimensions(sent_text(p, pre.model), with_spike(namespace(pre.model)))


def check_shapes(net, p, projections):
    """Weights, masks, bounds and delays have the shape that the two ends and the form of the weights ask for."""
    label, form, pair = f"projection {p.name!r}", form_of(projections, p), (net.size(p.pre), net.size(p.post))
    if form:
        check_convolution(net, label, p, form)
    if form and form.largest:
        check_largest(label, p, form, projections)
    shape, dims = (form.shape, KERNEL) if form else (pair, ("pre", "post"))
    check_memory(f"{label}: weights of shape {shape}, 8 bytes each", 8 * math.prod(map(int, shape)), NetworkError)
    weight = given_weight(p)
    for what, value in (("weight", weight), ("mask", p.mask)):
        if value is None or isinstance(value, (Random, SameAs)):
            continue
        if np.shape(value) not in ((), shape):
            raise NetworkError(f"{label}: the {what} has shape {np.shape(value)}; ({', '.join(dims)}) is {shape}")
    radius = getattr(weight, "radius", None)
    if radius is not None and (form or p.pre != p.post or not radius > 0):
        raise NetworkError(
            f"{label}: a positive spectral radius ({radius!r}) is that of weights within one population; drop .scaled()"
        )
    if p.mask is not None and (not is_real(p.mask) or np.ndim(p.mask) and not np.isin(p.mask, (0, 1)).all()):
        raise NetworkError(f"{label}: the mask {p.mask!r:.80} is no bool array, nor a number from 0 to 1")
    if p.mask is not None and not np.ndim(p.mask) and not 0 <= float(p.mask) <= 1:
        raise NetworkError(
            f"{label}: the mask {p.mask!r} is not a probability; give a number from 0 to 1 or a bool array"
        )
    if not form and p.pre == p.post and not p.autapses:
        check_diagonal(label, p, shape, projections)
    check_bounds(label, p.bounds, shape, weight_dimension(net, p))
    if p.bounds is not None and not isinstance(weight, (Random, SameAs)):
        check_given(label, weight, p.bounds, synapses(p, shape))
    if p.delay is not None:
        check_delay(label, p.delay, delay_shapes(*pair), net.dt)


def check_diagonal(label, p, shape, projections):
    """Synapses from a neuron to itself that are given, one by one, are not left out without a word.

    A mask says which synapses there are, so that it is an error; weights say how strong those are that there are.
    """
    what, given = ("mask has", p.mask) if np.ndim(p.mask) else ("weights have", given_weight(p))
    if isinstance(given, SameAs):
        what, given = f"weights, those of {given.projection!r}, have", numbers(p, shape, projections)
    if isinstance(given, Random) or not np.ndim(given):
        return
    given = np.asarray(given)
    if not (many := np.count_nonzero(given.diagonal())):
        return
    text = f"{label}: its {what} {many} numbers on the diagonal, of synapses from a neuron to itself"
    cure = "write autapses=True to keep them, or set the diagonal to zero"
    if np.ndim(p.mask) or many == np.count_nonzero(given):
        raise NetworkError(f"{text}, and it is to have none; {cure}")
    warn(f"{text}, which are left out; {cure}")


def numbers(p, shape, projections):
    """Weights as far as they are given, zero where there is no synapse; 1 where they are drawn."""
    if isinstance(p.weight, SameAs):
        other = projections[p.weight.projection]
        return np.where(synapses(other, shape), numbers(other, shape, projections), 0.0)
    return 1.0 if isinstance(p.weight, Random) else np.asarray(given_weight(p), float)


def synapses(p, shape):
    """Where a projection may have synapses: a bool array of ``shape``."""
    mask = np.asarray(p.mask, bool) if np.ndim(p.mask) else np.ones(shape, bool)
    return mask & ~np.eye(shape[0], dtype=bool) if p.pre == p.post and not p.autapses else mask
