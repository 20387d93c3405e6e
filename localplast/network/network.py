"""Populations, inputs and projections: a network as frozen data, with no backend code.

A network can be printed, compared, and written to a JSON file and read back without executing anything.
"""

import functools
import zlib
from collections.abc import Iterable, Mapping
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
from brian2.units.fundamentalunits import Quantity

from localplast.arguments import check_seed
from localplast.errors import LocalplastError, NetworkError
from localplast.files import Data, encode, read_json, write_json
from localplast.network.bounds import as_arrays, as_limits
from localplast.network.check import check_network, check_node, check_time_constants, synapses
from localplast.network.convolution import Convolution, form_of, weight_shape
from localplast.network.delays import MAX_DELAY_STEPS, Delay, Kernel, delay_shapes
from localplast.network.nodes import Input, Population, Projection
from localplast.network.short_term import ShortTerm
from localplast.network.spelling import Spelling
from localplast.network.values import Values
from localplast.network.weights import Array, Random, SameAs
from localplast.neuron.integration import check_numbers
from localplast.neuron.mismatch import Mismatch
from localplast.neuron.model import NeuronModel
from localplast.neuron.surrogate import Surrogate

if TYPE_CHECKING:
    import xarray

__all__ = ["Network"]


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

    def __init__(self, *, dt: Quantity, projections: Iterable[Projection] = (), **nodes: Population | Input) -> None:
        self.dt = dt
        self.nodes = nodes
        self.projections: dict[str, Projection] = check_network(self, list(projections))

    @functools.cached_property
    def spelling(self) -> Spelling:
        """How plans and backends spell its names."""
        return Spelling(self)

    @property
    def populations(self) -> dict[str, Population]:
        """The populations, by name."""
        return {name: node for name, node in self.nodes.items() if isinstance(node, Population)}

    @property
    def inputs(self) -> dict[str, Input]:
        """The inputs, by name."""
        return {name: node for name, node in self.nodes.items() if isinstance(node, Input)}

    @property
    def readouts(self) -> tuple[str, ...]:
        """Names of the populations that losses look at: with an output, without a threshold, projecting to nobody."""
        sources = {p.pre for p in self.projections.values()}
        candidates = {k: p.model for k, p in self.populations.items() if k not in sources}
        return tuple(k for k, model in candidates.items() if not model.spiking and model.output)

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of the inputs that only rules hear which learn from them."""
        return tuple(k for k, node in self.inputs.items() if node.teacher)

    @property
    def trainable(self) -> tuple[str, ...]:
        """Everything but weights that rules may change: ``'rec.tau_mem'``, ``'rec_rec.delay'``."""
        parameters = [f"{name}.{key}" for name, p in self.populations.items() for key in p.trainable]
        return (*parameters, *(f"{name}.delay" for name in self.learned_delays))

    def limits(self, name: str) -> tuple[float, float]:
        """Lowest and highest value of something trainable, in SI units (delays in steps)."""
        owner, key = name.split(".")
        if key == "delay" and owner in self.projections:
            given = self.projections[owner].delay.trainable
            low, high = given if isinstance(given, (tuple, list)) else (None, None)
            dt = float(self.dt)
            return (
                0.0 if low is None else float(low) / dt,
                float(MAX_DELAY_STEPS) if high is None else float(high) / dt,
            )
        return as_limits(self.populations[owner].trainable[key])

    @property
    def plastic(self) -> tuple[Projection, ...]:
        """The projections that rules may change."""
        return tuple(p for p in self.projections.values() if p.plastic)

    @property
    def tied(self) -> dict[str, SameAs]:
        """The projections whose weights are at every moment those of another one, by name."""
        return {n: p.weight for n, p in self.projections.items() if isinstance(p.weight, SameAs) and p.weight.always}

    def tie(self, weights: Mapping[str, Array]) -> dict[str, Array]:
        """``weights`` by projection (arrays or tensors), with those of :attr:`tied` projections as they have to be."""
        return {**weights, **{name: same.of(weights[same.projection]) for name, same in self.tied.items()}}

    @property
    def learned_delays(self) -> tuple[str, ...]:
        """Names of the projections whose delays may learn."""
        return tuple(p.name for p in self.projections.values() if p.delay is not None and p.delay.trainable)

    def __setattr__(self, name, value):
        if name in self.__dict__:
            raise AttributeError(f"a Network is frozen; make another one instead of changing {name!r}")
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        lines = [f"Network, dt = {self.dt}"]
        for name, node in self.nodes.items():
            kind = (
                node.model.name
                if name in self.populations
                else f"input of {node.kind}" + ", a teacher's" * node.teacher
            )
            lines.append(f"  {name}: {node.size} {kind}")
        for name, p in self.projections.items():
            delay = f", {p.delay.kind} delay" if p.delay else ""
            changing = f", {p.short_term!r}" if p.short_term else ""
            form, fixed = form_of(self.projections, p), "" if p.plastic else ", fixed"
            kernel = f", kernel {' x '.join(map(str, form.shape))}" if form else ""
            source = p.pre if p.output is None else f"{p.pre}.{p.output}"
            lines.append(f"  {name}: {source} -> {p.post}.{p.target}, {p.transmission}{kernel}{delay}{changing}{fixed}")
        return "\n".join(lines)

    def encoded(self) -> dict:
        """The network as JSON data."""
        return {
            "dt": encode(self.dt),
            "nodes": encode(self.nodes),
            "projections": encode(list(self.projections.values())),
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Network) and self.encoded() == other.encoded()

    def save(self, path: str | PathLike) -> None:
        """Write the network to a JSON file, atomically."""
        write_json(path, {"dt": self.dt, "nodes": self.nodes, "projections": list(self.projections.values())})

    @classmethod
    def load(cls, path: str | PathLike) -> "Network":
        """Read what :meth:`save` wrote; nothing in the file is executed."""
        parts = (
            Population,
            Input,
            Projection,
            Delay,
            Kernel,
            Random,
            SameAs,
            Convolution,
            ShortTerm,
            NeuronModel,
            Surrogate,
            Mismatch,
        )
        data = read_json(path, {c.__name__: c for c in parts})
        try:
            return cls(dt=data["dt"], projections=data["projections"], **data["nodes"])
        except LocalplastError:
            raise
        except (TypeError, KeyError, ValueError) as error:
            raise NetworkError(f"{path} holds no network: {error}") from None

    def size(self, name: str) -> int:
        """Number of neurons or channels of the node ``name``."""
        return self.nodes[name].size

    def delay_steps(self, projection: Projection, seed: int = 0) -> np.ndarray | np.floating:
        """Delay of a projection in (real) steps of dt, shape ``()``, ``(pre,)``, ``(post,)`` or ``(pre, post)``.

        ``seed`` is that of delays to be drawn.
        """
        if projection.delay is None:
            return np.zeros(())
        given = projection.delay.value
        steps = np.asarray(self.drawn_delays(projection, seed) if isinstance(given, Random) else given, float) / float(
            self.dt
        )
        return steps if projection.delay.trainable else np.floor(steps + 0.5)

    def drawn_delays(self, p: Projection, seed: int) -> np.ndarray:
        """Delays in seconds, within their limits; weights of the same seed are drawn from another stream."""
        rng = np.random.default_rng([seed, zlib.crc32(f"{p.name}.delay".encode())])
        shape = delay_shapes(self.size(p.pre), self.size(p.post))[p.delay.kind]
        low, high = (bound * float(self.dt) for bound in self.limits(f"{p.name}.delay"))
        return np.clip(p.delay.value.draw(rng, shape), low, high)

    def bounds(self, name: str) -> tuple[np.ndarray, np.ndarray] | None:
        """``(low, high)`` of the weights of a projection, arrays of their shape in SI units; None if nothing is
        bounded.
        """
        p = self.projections[name]
        return as_arrays(p.bounds, weight_shape(self, p))

    def begun(self, name: str, weights: Mapping[str, np.ndarray], masks: Mapping[str, np.ndarray]) -> np.ndarray:
        """The first weights of one projection: its own, or what it copies."""
        if name in weights:
            return weights[name]
        copied = self.projections[name].weight
        return np.where(masks[name], copied.of(self.begun(copied.projection, weights, masks)), 0.0)

    def clip(self, values: Values, names: Iterable[str] | None = None) -> Values:
        """:class:`Values` with the weights of ``names`` (default: of all projections) within their bounds."""
        bounds = {name: self.bounds(name) for name in (self.projections if names is None else names)}
        clipped = {
            name: np.where(values.masks[name], np.clip(values.weights[name], *found), 0.0)
            for name, found in bounds.items()
            if found
        }
        return values.replace_weights(self.tie({**values.weights, **clipped}))

    def values_from(self, record: "xarray.DataTree") -> Values:
        """The :class:`Values` that a run of learning ended with, to be simulated, tested or trained further::

            fit = run(net, task, rule=eprop(), optimiser=adam(5e-3), updates=100)
            run(net, trials, values=net.values_from(fit), record=["rec.v"])  # nothing learns here

        Weights are the latest of the ``record``, all other numbers those of its seed.

        Raises
        ------
        NetworkError
            A record of something else, or one that began from other delays or parameters than its seed draws.
        """
        if not record.attrs.get("drawn", True):
            raise NetworkError(
                "the record began from values whose delays or parameters are not those of its seed, "
                f"{record.attrs['seed']}; use values.replace_weights(...) on those values"
            )
        check_seed(record.attrs.get("seed"))
        values, weights = self.draw(record.attrs["seed"]), {}
        for name, mask in values.masks.items():
            kept = record[name].get("weight") if name in record.children else None
            if kept is None:
                raise NetworkError(
                    f"the record keeps no weights of projection {name!r}: is it one of learning, by this network?"
                )
            weights[name] = np.asarray(kept.isel(update=-1) if "update" in kept.dims else kept, float)
            if weights[name].shape != mask.shape or np.any(weights[name][~mask]):
                raise NetworkError(
                    f"the record has other synapses in projection {name!r} than this network draws with seed "
                    f"{record.attrs['seed']}; use values.replace_weights(...) on the values that it started from"
                )
        others = record["learned"].to_dataset() if "learned" in record.children else {}
        learned = {
            n: np.asarray(others[n], float).reshape(np.shape(values.other(n))) for n in self.trainable if n in others
        }
        return values.replace_weights(self.tie(weights), learned)

    def check_values(self, values: Values) -> None:
        """Raise a :class:`NetworkError` unless ``values`` have the shapes of this network: kernels read as far."""
        for name, p in self.projections.items():
            shape, pair = weight_shape(self, p), (self.size(p.pre), self.size(p.post))
            delays = ((), delay_shapes(*pair)[p.delay.kind]) if p.delay is not None else ((),)
            kinds = {"weights": (shape,), "masks": (shape,), "delays": delays}
            for what, allowed in kinds.items():
                found = getattr(values, what)
                if name not in found or tuple(np.shape(found[name])) not in allowed:
                    have = f"have shape {tuple(np.shape(found[name]))}" if name in found else "are missing"
                    raise NetworkError(
                        f"projection {name!r} is {allowed[-1]} here, and its {what} in the values {have}: these were "
                        "drawn for another network; use net.draw(seed)"
                    )
        for name, population in self.populations.items():
            for key in population.values:
                number = values.parameters.get(name, {}).get(key)
                if number is None or tuple(np.shape(number)) not in ((), (population.size,)):
                    raise NetworkError(
                        f"population {name!r} has {population.size} neurons, and the values have {key} of shape "
                        f"{np.shape(number)}: they were drawn for another network; use net.draw(seed)"
                    )
            check_numbers(population.model, values.parameters[name], f"the values of population {name!r}", NetworkError)

    def draw(self, seed: int = 0) -> Values:
        """The :class:`Values` of this network for one seed; the same on every backend and machine."""
        weights, masks = {}, {}
        for name, p in self.projections.items():
            rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
            shape = weight_shape(self, p)
            masks[name] = draw_mask(p, shape, rng)
            if not isinstance(p.weight, SameAs):
                weights[name] = draw_weight(p, shape, rng, masks[name])
        masks |= {name: same.turned(masks[same.projection]) for name, same in self.tied.items()}
        weights = {name: self.begun(name, weights, masks) for name in self.projections}
        delays = {name: self.delay_steps(p, seed) for name, p in self.projections.items()}
        parameters = {name: self.drawn_parameters(name, seed) for name in self.populations}
        return self.clip(Values(weights, masks, delays, parameters))

    def drawn_parameters(self, name: str, seed: int) -> dict[str, np.ndarray]:
        """The parameters of one population; raises where numbers that are drawn are none that its neurons can have."""
        node = self.nodes[name].drawn(name, seed)
        if node is not self.nodes[name]:
            check_node(name, node)
            check_time_constants(self.dt, name, node)
        return {key: np.array(value, float) for key, value in node.values.items()}


def draw_weight(projection, shape, rng, mask):
    given = projection.weight
    if isinstance(given, Convolution):
        return np.where(mask, given.draw(rng), 0.0)
    try:
        weight = (
            given.draw(rng, shape, mask)
            if isinstance(given, Random)
            else np.broadcast_to(np.asarray(given, float), shape)
        )
    except NetworkError as error:
        raise NetworkError(f"projection {projection.name!r}: {error}") from None
    return np.where(mask, weight, 0.0)


def draw_mask(projection, shape, rng):
    mask = synapses(projection, shape)
    drawn = projection.mask is not None and not np.ndim(projection.mask)
    return mask & (rng.random(shape) < float(projection.mask)) if drawn else mask
