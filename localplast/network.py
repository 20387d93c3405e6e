"""Populations, inputs and projections: a network as frozen data, with no backend code.

A network can be printed, compared, and written to a JSON file and read back without executing anything.
"""

import zlib
from dataclasses import dataclass, field, replace

import numpy as np
from brian2.parsing.expressions import parse_expression_dimensions
from brian2.units.allunits import second
from brian2.units.fundamentalunits import DIMENSIONLESS, Quantity, get_dimensions, get_unit

from localplast.bounds import as_arrays, check_bounds, dale
from localplast.errors import NetworkError
from localplast.neuron import RESERVED, NeuronModel, namespace, split_statements
from localplast.serialise import encode, read_json, write_json
from localplast.surrogate import Surrogate

__all__ = [
    "Delay", "Input", "Network", "Population", "Projection", "Random", "Values",
    "axonal", "dale", "dendritic", "normal", "synaptic", "uniform",
]

#: Longest delay, in steps: spikes in flight are kept in a ring buffer of this length at most.
MAX_DELAY_STEPS = 100_000


class Data:
    """Equality by content: what two objects would write to a file."""

    def __eq__(self, other):
        return type(self) is type(other) and encode(self) == encode(other)

    __hash__ = None


@dataclass(frozen=True)
class Random:
    """Weights to be drawn, from ``kind`` ``'normal'`` or ``'uniform'``; see :func:`normal`, :func:`uniform`."""

    kind: str
    mean: float
    spread: float
    fan_in: bool

    def draw(self, rng, shape):
        """An array of ``shape`` ``(pre, post)`` in SI units."""
        spread = float(self.spread) / (np.sqrt(shape[0]) if self.fan_in else 1.0)
        standard = rng.standard_normal(shape) if self.kind == "normal" else rng.uniform(-1.0, 1.0, shape)
        return float(self.mean) + spread * standard


def normal(std=1.0, *, mean=0.0, fan_in=True):
    """Gaussian weights; with ``fan_in`` the standard deviation is ``std / sqrt(pre)``."""
    return Random("normal", mean, std, fan_in)


def uniform(limit=1.0, *, mean=0.0, fan_in=True):
    """Uniform weights in ``mean ± limit``; with ``fan_in`` the limit is divided by ``sqrt(pre)``."""
    return Random("uniform", mean, limit, fan_in)


@dataclass(frozen=True, eq=False)
class Delay(Data):
    """How long a signal travels: ``kind`` is ``'axonal'``, ``'dendritic'`` or ``'synaptic'``.

    ``value`` is a time, one for all or an array: ``(pre,)``, ``(post,)`` or ``(pre, post)``. A ``trainable`` delay is a
    real number of steps on the Torch backend, read by linear interpolation between two steps.
    """

    kind: str
    value: Quantity
    trainable: bool = False


def axonal(value, *, trainable=False):
    """One delay per presynaptic neuron, ``value`` a time or an array ``(pre,)``."""
    return Delay("axonal", value, trainable)


def dendritic(value, *, trainable=False):
    """One delay per postsynaptic neuron, ``value`` a time or an array ``(post,)``."""
    return Delay("dendritic", value, trainable)


def synaptic(value, *, trainable=False):
    """One delay per synapse, ``value`` an array ``(pre, post)``."""
    return Delay("synaptic", value, trainable)


@dataclass(frozen=True)
class Input:
    """``size`` channels that come from outside: ``kind`` is ``'spikes'`` or ``'currents'`` (graded values)."""

    size: int
    kind: str = "spikes"


@dataclass(frozen=True, eq=False)
class Population(Data):
    """``size`` neurons of one ``model``; ``parameters`` and ``initial`` override the model's, per neuron if arrays.

    ``trainable`` names the parameters that rules may change, each with the lowest and the highest value it may take (either
    may be None): ``{"tau_mem": (5*ms, 100*ms)}``.
    """

    size: int
    model: NeuronModel
    parameters: dict = field(default_factory=dict)
    initial: dict = field(default_factory=dict)
    trainable: dict = field(default_factory=dict)

    @property
    def values(self):
        """Every parameter of the model, overridden where this population says so."""
        return {**self.model.parameters, **self.parameters}


@dataclass(frozen=True, eq=False)
class Projection(Data):
    """What travels from ``pre`` to ``post``.

    Parameters
    ----------
    pre, post : str
        Names in the network.

    Other arguments
    ---------------
    weight : Random, array ``(pre, post)`` or number
        With the unit of the target (event transmission), or of target over output (graded). Bare numbers are SI.
    delay : Delay, optional
        None: a spike acts in the step it is emitted in.
    target : str, optional
        Variable of the postsynaptic model; default its ``receives``.
    transmission : str
        ``'event'``: add the weight on each spike. ``'graded'``: set the target to the weighted sum of outputs.
    mask : bool array ``(pre, post)`` or float, optional
        Which synapses exist, or the probability that one does.
    autapses : bool
        Whether a neuron may project to itself, where ``pre`` is ``post``.
    plastic : bool
        Whether rules may change the weights.
    bounds : (low, high), optional
        What weights are clipped to: when they are drawn, when learning begins and after every update. Each None, one
        number or an array that broadcasts to ``(pre, post)``, such as ``(pre, 1)``, in the unit of the weight. See
        :func:`~localplast.bounds.dale`.
    name : str, optional
        Default ``pre_post``.
    """

    pre: str
    post: str
    weight: object = field(default_factory=normal)
    delay: Delay | None = None
    target: str | None = None
    transmission: str | None = None
    mask: object = None
    autapses: bool = False
    plastic: bool = True
    name: str | None = None
    bounds: tuple | None = None


@dataclass(frozen=True)
class Values:
    """The numbers of one network for one seed, in SI units: every backend starts from these.

    Attributes
    ----------
    weights : dict of str to array ``(pre, post)``
    masks : dict of str to bool array ``(pre, post)``
    delays : dict of str to float array in steps, shape ``()``, ``(pre,)``, ``(post,)`` or ``(pre, post)``
    parameters : dict of population name to dict of parameter name to float array, shape ``()`` or ``(neuron,)``
    """

    weights: dict
    masks: dict
    delays: dict
    parameters: dict

    def other(self, name):
        """The value of ``'rec.tau_mem'`` or ``'rec_rec.delay'``."""
        owner, key = name.split(".")
        return self.parameters[owner][key] if owner in self.parameters else self.delays[owner]

    def replace_weights(self, weights, others=None):
        """The same numbers with other weights, and other values of what else learns (``'rec.tau_mem'``, ``'rec_rec.delay'``)."""
        delays, parameters = dict(self.delays), {name: dict(values) for name, values in self.parameters.items()}
        for name, value in (others or {}).items():
            owner, key = name.split(".")
            if owner in parameters:
                parameters[owner][key] = value
            else:
                delays[owner] = value
        return replace(self, weights={**self.weights, **weights}, delays=delays, parameters=parameters)


class Network(Data):
    """A network: named populations and inputs, and the projections between them.

    Parameters
    ----------
    dt : Quantity
        Time step, the same on every backend.
    projections : sequence of Projection
    **nodes : Population or Input
        By name.

    Raises
    ------
    NetworkError
        Unknown names, wrong shapes or units, impossible delays.
    """

    def __init__(self, *, dt, projections=(), **nodes):
        self.dt = dt
        self.nodes = nodes
        self.projections = check_network(self, list(projections))

    populations = property(lambda self: {k: n for k, n in self.nodes.items() if isinstance(n, Population)})
    inputs = property(lambda self: {k: n for k, n in self.nodes.items() if isinstance(n, Input)})

    @property
    def readouts(self):
        """Names of the populations that losses look at: with an output, without a threshold, projecting to nobody."""
        sources = {p.pre for p in self.projections.values()}
        candidates = {k: p.model for k, p in self.populations.items() if k not in sources}
        return tuple(k for k, model in candidates.items() if not model.spiking and model.output)

    @property
    def trainable(self):
        """Everything but weights that rules may change: ``'rec.tau_mem'``, ``'rec_rec.delay'``."""
        parameters = [f"{name}.{key}" for name, p in self.populations.items() for key in p.trainable]
        return (*parameters, *(f"{p.name}.delay" for p in self.projections.values() if p.delay is not None and p.delay.trainable))

    def limits(self, name):
        """Lowest and highest value of something trainable, in SI units (delays in steps)."""
        owner, key = name.split(".")
        if key == "delay" and owner in self.projections:
            return (0.0, float(MAX_DELAY_STEPS))
        low, high = self.populations[owner].trainable[key]
        return (-np.inf if low is None else float(low), np.inf if high is None else float(high))

    @property
    def plastic(self):
        """The projections that rules may change."""
        return tuple(p for p in self.projections.values() if p.plastic)

    def __setattr__(self, name, value):
        if name in self.__dict__:
            raise AttributeError(f"a Network is frozen; make another one instead of changing {name!r}")
        super().__setattr__(name, value)

    def __repr__(self):
        lines = [f"Network, dt = {self.dt}"]
        for name, node in self.nodes.items():
            kind = f"input of {node.kind}" if isinstance(node, Input) else node.model.name
            lines.append(f"  {name}: {node.size} {kind}")
        for name, p in self.projections.items():
            delay = f", {p.delay.kind} delay" if p.delay else ""
            fixed = "" if p.plastic else ", fixed"
            lines.append(f"  {name}: {p.pre} -> {p.post}.{p.target}, {p.transmission}{delay}{fixed}")
        return "\n".join(lines)

    def encoded(self):
        """The network as JSON data."""
        return {"dt": encode(self.dt), "nodes": encode(self.nodes), "projections": encode(list(self.projections.values()))}

    def __eq__(self, other):
        return isinstance(other, Network) and self.encoded() == other.encoded()

    def save(self, path):
        """Write the network to a JSON file, atomically."""
        write_json(path, {"dt": self.dt, "nodes": self.nodes, "projections": list(self.projections.values())})

    @classmethod
    def load(cls, path):
        """Read what :meth:`save` wrote; nothing in the file is executed."""
        types = {c.__name__: c for c in (Population, Input, Projection, Delay, Random, NeuronModel, Surrogate)}
        data = read_json(path, types)
        return cls(dt=data["dt"], projections=data["projections"], **data["nodes"])

    def size(self, name):
        """Number of neurons or channels of the node ``name``."""
        return self.nodes[name].size

    def delay_steps(self, projection):
        """Delay of a projection in (real) steps of dt, shape ``()``, ``(pre,)``, ``(post,)`` or ``(pre, post)``."""
        if projection.delay is None:
            return np.zeros(())
        steps = np.asarray(projection.delay.value, float) / float(self.dt)
        return steps if projection.delay.trainable else np.floor(steps + 0.5)

    def bounds(self, name):
        """``(low, high)`` of the weights of a projection, arrays ``(pre, post)`` in SI units; None if nothing is bounded."""
        p = self.projections[name]
        return as_arrays(p.bounds, (self.size(p.pre), self.size(p.post)))

    def clip(self, values, names=None):
        """:class:`Values` with the weights of ``names`` (default: of all projections) within their bounds."""
        bounds = {name: self.bounds(name) for name in (self.projections if names is None else names)}
        clipped = {
            name: np.where(values.masks[name], np.clip(values.weights[name], *found), 0.0)
            for name, found in bounds.items() if found
        }  # fmt: skip
        return values.replace_weights(clipped)

    def values_from(self, record):
        """The :class:`Values` that a run of learning ended with, to be simulated, tested or trained further::

            fit = run(net, task, rule=eprop(), optimiser=adam(5e-3), updates=100)
            run(net, trials, values=net.values_from(fit), record=["rec.v"])  # nothing learns here

        Weights are the latest of the ``record``, all other numbers those of its seed.
        """
        values, weights = self.draw(record.attrs["seed"]), {}
        for name, mask in values.masks.items():
            kept = record[name].get("weight") if name in record.children else None
            if kept is None:
                raise NetworkError(f"the record keeps no weights of projection {name!r}: is it one of learning, by this network?")
            weights[name] = np.asarray(kept.isel(update=-1) if "update" in kept.dims else kept, float)
            if weights[name].shape != mask.shape or np.any(weights[name][~mask]):
                raise NetworkError(
                    f"the record has other synapses in projection {name!r} than this network draws with seed "
                    f"{record.attrs['seed']}; use values.replace_weights(...) on the values that it started from"
                )
        others = record["learned"].to_dataset() if "learned" in record.children else {}
        learned = {n: np.asarray(others[n], float).reshape(np.shape(values.other(n))) for n in self.trainable if n in others}
        return values.replace_weights(weights, learned)

    def draw(self, seed=0):
        """The :class:`Values` of this network for one seed; the same on every backend and machine."""
        weights, masks = {}, {}
        for name, p in self.projections.items():
            rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
            shape = (self.size(p.pre), self.size(p.post))
            masks[name] = draw_mask(p, shape, rng)
            drawn = p.weight.draw(rng, shape) if isinstance(p.weight, Random) else np.asarray(p.weight, float)
            weights[name] = np.where(masks[name], np.broadcast_to(drawn, shape), 0.0)
        delays = {name: self.delay_steps(p) for name, p in self.projections.items()}
        parameters = {
            name: {key: np.array(value, float) for key, value in node.values.items()}
            for name, node in self.populations.items()
        }
        return self.clip(Values(weights, masks, delays, parameters))


def draw_mask(projection, shape, rng):
    mask = np.ones(shape, bool)
    if projection.mask is not None:
        given = np.asarray(projection.mask)
        mask = given.astype(bool) if given.ndim else rng.random(shape) < float(given)
    if projection.pre == projection.post and not projection.autapses:
        mask = mask & ~np.eye(shape[0], dtype=bool)
    return mask


def check_network(net, projections):
    """Check every part against the others; return the projections by name, defaults filled in."""
    if np.ndim(net.dt) or get_dimensions(net.dt) != second.dim or not float(net.dt) > 0:
        raise NetworkError(f"the time step must be a positive time such as 1*ms, not {net.dt!r}")
    for name, node in net.nodes.items():
        check_node(name, node)
    complete = {}
    for projection in projections:
        projection = complete_projection(net, projection)
        if projection.name in complete or projection.name in net.nodes:
            raise NetworkError(f"two parts are called {projection.name!r}; give the projection another name=")
        complete[projection.name] = projection
    return complete


def check_node(name, node):
    if not name.isidentifier() or name.startswith("_") or name in RESERVED:
        raise NetworkError(f"{name!r} cannot name a population; use letters, digits and underscores")
    if not isinstance(node, (Population, Input)):
        raise NetworkError(f"{name!r} is a {type(node).__name__}; a network holds Population and Input")
    if not isinstance(node.size, (int, np.integer)) or node.size < 1:
        raise NetworkError(f"{name!r} needs a positive whole number of neurons, not {node.size!r}")
    if isinstance(node, Input):
        if node.kind not in ("spikes", "currents"):
            raise NetworkError(f"input {name!r}: kind is 'spikes' or 'currents', not {node.kind!r}")
        return
    if not isinstance(node.model, NeuronModel):
        raise NetworkError(f"population {name!r}: the model is a {type(node.model).__name__}, not a NeuronModel; write lif()")
    known = {"parameters": node.model.parameters, "initial": variables_of(node.model)}
    for what, names in known.items():
        for key, value in getattr(node, what).items():
            if key not in names:
                raise NetworkError(f"population {name!r}: {node.model.name} has no {key!r}; it has {sorted(names)}")
            check_value(f"population {name!r}", key, value, node.model.dimensions[key], node.size)
    check_trainable(name, node)
    refractory = node.model.refractory
    if refractory in node.parameters and np.any(np.asarray(node.parameters[refractory]) < 0):
        raise NetworkError(f"population {name!r}: the refractory period {refractory!r} is negative")


def check_trainable(name, node):
    """Parameters that learn must exist, act on the neuron smoothly, and have bounds of their unit."""
    for key, bounds in node.trainable.items():
        label = f"population {name!r}, trainable {key!r}"
        if key not in node.model.parameters or key == node.model.refractory:
            smooth = sorted(set(node.model.parameters) - {node.model.refractory})
            raise NetworkError(f"{label}: {node.model.name} has no such parameter that can be learned; it has {smooth}")
        if np.ndim(bounds) != 1 or len(bounds) != 2:
            raise NetworkError(f"{label}: give the lowest and the highest value, such as (5*ms, 100*ms) or (None, None), not {bounds!r}")
        for bound in bounds:
            if bound is not None:
                check_value(label, key, bound, node.model.dimensions[key], 1)


def check_value(label, key, value, dimension, size):
    """A parameter or initial value: finite numbers of the right unit, one or ``size``."""
    if not is_finite(value):
        raise NetworkError(f"{label}: {key} = {value!r} is not a finite number; write for example 5*ms")
    if get_dimensions(value) != dimension:
        raise NetworkError(f"{label}: {key} = {value} has the wrong unit; it is measured in {unit_text(dimension)}")
    if np.shape(value) not in ((), (size,)):
        raise NetworkError(f"{label}: {key} has shape {np.shape(value)}; give one value or {size}")


def is_finite(value):
    try:
        return bool(np.all(np.isfinite(np.asarray(value, float))))
    except (TypeError, ValueError):
        return False


def unit_text(dimension):
    """The unit as a person writes it (Brian2 calls numbers without unit radian)."""
    return "1 (no unit)" if dimension is DIMENSIONLESS else repr(get_unit(dimension))


def variables_of(model):
    """The names that the model itself declares: Brian2 adds two for refractoriness."""
    return sorted(set(model.parsed.names) - {"not_refractory", "lastspike"})


def complete_projection(net, p):
    """Fill in the defaults of one projection and check it against the nodes it connects."""
    label = f"projection {p.name or f'{p.pre}_{p.post}'!r}"
    for end in (p.pre, p.post):
        if end not in net.nodes:
            raise NetworkError(f"{label}: there is no {end!r} in the network; it has {sorted(net.nodes)}")
    pre, post = net.nodes[p.pre], net.nodes[p.post]
    if isinstance(post, Input):
        raise NetworkError(f"{label}: {p.post!r} is an input and cannot receive")
    spikes = pre.kind == "spikes" if isinstance(pre, Input) else pre.model.spiking
    transmission = p.transmission or ("event" if spikes else "graded")
    p = replace(p, name=p.name or f"{p.pre}_{p.post}", target=p.target or post.model.receives, transmission=transmission)
    if not p.name.isidentifier() or p.name.startswith("_"):
        raise NetworkError(f"{label}: {p.name!r} cannot name a projection; use letters, digits and underscores")
    if transmission not in ("event", "graded"):
        raise NetworkError(f"{label}: transmission is 'event' or 'graded', not {transmission!r}")
    if transmission == "event" and not spikes:
        raise NetworkError(f"{label}: {p.pre!r} does not spike; use transmission='graded'")
    if transmission == "graded" and isinstance(pre, Population) and pre.model.output is None:
        raise NetworkError(f"{label}: {pre.model.name} has no graded output; give the model output='...'")
    if transmission == "graded" and isinstance(pre, Input) and pre.kind == "spikes":
        raise NetworkError(f"{label}: {p.pre!r} gives spikes; use Input({pre.size}, 'currents') for graded values")
    check_target(net, label, p)
    check_shapes(net, label, p)
    check_bounds(label, p.bounds, (pre.size, post.size), weight_dimension(net, p))
    return p


def check_target(net, label, p):
    model = net.nodes[p.post].model
    if p.target not in variables_of(model) or model.parsed[p.target].type == "subexpression":
        raise NetworkError(f"{label}: {model.name} has no variable {p.target!r}; it has {variables_of(model)}")
    if p.transmission == "graded" and p.target not in model.free_variables:
        raise NetworkError(
            f"{label}: a graded projection sets its target, so {p.target!r} must be declared without an equation "
            f"('{p.target} : unit'); {model.name} has {sorted(model.free_variables) or 'none'}"
        )
    written = {line.split("=")[0].strip(" +-*/") for line in split_statements(f"{model.update}\n{model.reset}\n{model.adaptation}")}
    if p.transmission == "graded" and p.target in written:
        raise NetworkError(
            f"{label}: a graded projection sets its target in every step, but {model.name} changes {p.target!r} itself; "
            "let it receive by another variable"
        )
    check_weight(net, label, p)


def check_weight(net, label, p):
    """Weights must be finite and have the unit of what they deliver; bare numbers are SI."""
    drawn = isinstance(p.weight, Random)
    parts = {"weight": p.weight.spread, "mean weight": p.weight.mean} if drawn else {"weight": p.weight}
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
    return dim / parse_expression_dimensions(pre.model.output, namespace(pre.model))


def check_shapes(net, label, p):
    n_pre, n_post = net.size(p.pre), net.size(p.post)
    for what, value in (("weight", p.weight), ("mask", p.mask)):
        if value is None or isinstance(value, Random):
            continue
        if np.shape(value) not in ((), (n_pre, n_post)):
            raise NetworkError(f"{label}: the {what} has shape {np.shape(value)}; (pre, post) is {(n_pre, n_post)}")
    if p.mask is not None and not np.ndim(p.mask) and not 0 <= float(p.mask) <= 1:
        raise NetworkError(f"{label}: the mask {p.mask!r} is not a probability; give a number from 0 to 1 or a bool array")
    if p.delay is None:
        return
    if not isinstance(p.delay, Delay):
        raise NetworkError(f"{label}: the delay {p.delay!r} has no kind; write axonal(...), dendritic(...) or synaptic(...)")
    shapes = {"axonal": (n_pre,), "dendritic": (n_post,), "synaptic": (n_pre, n_post)}
    if p.delay.kind not in shapes:
        raise NetworkError(f"{label}: a delay is axonal, dendritic or synaptic, not {p.delay.kind!r}")
    if get_dimensions(p.delay.value) != second.dim:
        raise NetworkError(f"{label}: the delay {p.delay.value!r} is not a time; write for example 3*ms")
    if np.shape(p.delay.value) not in ((), shapes[p.delay.kind]):
        raise NetworkError(
            f"{label}: the {p.delay.kind} delay has shape {np.shape(p.delay.value)}; "
            f"give one value or {shapes[p.delay.kind]}"
        )
    steps = np.asarray(p.delay.value, float) / float(net.dt)
    if not np.all(np.isfinite(steps)) or np.any(steps < 0) or np.any(steps > MAX_DELAY_STEPS):
        raise NetworkError(
            f"{label}: impossible delay; all must lie between 0 and {MAX_DELAY_STEPS} steps of {net.dt}, "
            f"these range from {steps.min():g} to {steps.max():g} steps"
        )
