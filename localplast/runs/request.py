"""What a run is asked to keep: names such as ``"rec.v"``, checked against a network."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from brian2.units.allunits import second
from brian2.units.fundamentalunits import DIMENSIONLESS, Quantity, get_dimensions

from localplast.errors import NetworkError, UnsupportedError
from localplast.names import inner, outer
from localplast.network.nodes import Input

__all__ = ["Entry", "Request"]

#: What a record has of a population besides its variables: axes, and what is kept of events.
AXES = frozenset("trial time neuron update spike spike_time spike_trial spike_neuron spike_count".split())


@dataclass(frozen=True, eq=False)
class Entry:
    """One thing to be recorded.

    Attributes
    ----------
    node, variable : str
        The variable as plans and backends spell it; :attr:`name` is what people call it.
    neurons : int array ``(kept,)``, or None for weights
    every : int
        Each how many steps (weights: updates) a value is kept, beginning with the first.
    group : str
        Where it stands in the tree.
    """

    node: str
    variable: str
    neurons: np.ndarray | None
    every: int
    group: str = ""

    name = property(lambda self: f"{self.node}.{outer(self.variable)}")

    @property
    def key(self):
        """Where the series stands in the record: ``group/variable``; a raster is called ``spikes`` there."""
        return f"{self.group}/{'spikes' if self.variable == 'raster' else outer(self.variable)}"

    def dimension(self, net):
        """The dimensions of the recorded state variable; inputs and spikes have none."""
        known = net.populations[self.node].model.dimensions if self.node in net.populations else {}
        return known.get(outer(self.variable), DIMENSIONLESS)

    def select(self, array):
        """What is kept of ``array`` ``(trial, time, neuron)``, a whole trial of the whole node."""
        return array[:, :: self.every][..., self.neurons]


@dataclass(frozen=True)
class Request:
    """What is to be recorded, checked against a network; made by :meth:`parse`."""

    entries: tuple = ()

    @classmethod
    def parse(cls, net, wanted=(), *, every=1, neurons=None):
        """Read names such as ``"rec.v"``.

        Parameters
        ----------
        net : Network
        wanted : sequence of str, or mapping of str to options ``dict(every=..., neurons=...)``
            ``spikes`` are events, ``raster`` is dense, ``weight`` belongs to projections. The first series of a node
            sets the time and neuron axes of the node; one that is sampled otherwise gets a node of its own, named
            as it was asked for (``tree["rec.v"]``).

        Other arguments
        ---------------
        every : int or Quantity
            Keep each so many steps of the state variables, or one value in such a time.
        neurons : sequence of int or slice, optional
            Which neurons to keep; default all.

        Raises
        ------
        NetworkError
            Unknown names and options, neurons that do not exist.
        """
        in_steps("states", every, net.dt)
        wanted = [wanted] if isinstance(wanted, str) else wanted
        options = (
            wanted
            if isinstance(wanted, Mapping)
            else dict.fromkeys(wanted if isinstance(wanted, (list, tuple, set)) else [wanted])
        )
        entries = [parse_entry(net, name, own or {}, every, neurons) for name, own in options.items()]
        return cls(tuple(share_axes(entries)))

    def find(self, node, variable):
        """The entry ``node.variable``, or None where it was not asked for."""
        return next((e for e in self.entries if (e.node, e.variable) == (node, variable)), None)

    @property
    def weights(self):
        """Every how many updates weights are kept, by projection."""
        return {e.node: e.every for e in self.entries if e.variable == "weight"}

    def along_learning(self):
        """The same request; raises where it asks for what cannot be kept while a task is learned."""
        for entry in self.entries:
            if entry.variable != "weight":
                raise UnsupportedError(
                    f"cannot record {entry.name!r} while a task is learned; weights can be kept: watch one "
                    "presentation with localplast.live(...), or simulate what was learned with run(net, trials, "
                    "values=net.values_from(record), ...)"
                )
        return self

    def encoded(self):
        """JSON text that says the same."""
        return json.dumps([[e.name, e.every, None if e.neurons is None else e.neurons.tolist()] for e in self.entries])


def recordable(net, node):
    """Names of what can be recorded of one part of the network."""
    if node in net.projections:
        return ("weight",)
    part = net.nodes[node]
    if isinstance(part, Input):
        return events(part) or ("currents",)
    return (*sorted(part.model.parsed.names), *events(part))


def events(part):
    """Names of what can be recorded of the spikes of a population or an input."""
    spiking = part.kind == "spikes" if isinstance(part, Input) else part.model.spiking
    return ("spikes", "raster") if spiking else ()


def spelled(net, name, node, variable):
    """A variable of a node as plans and backends spell it; raises where a record could not hold it, or means something
    else by its name.
    """
    if node not in net.populations or variable not in net.nodes[node].model.parsed.names:
        return variable
    if variable in AXES or variable in events(net.nodes[node]):
        raise NetworkError(
            f"cannot record {name!r}: a record has {variable!r} of a population itself, besides the variable of "
            f"{net.nodes[node].model.name} that is called so; give the variable another name"
        )
    return inner(variable)


def in_steps(name, every, dt):
    """``every`` as a number of steps of ``dt``; raises unless it is one, or a time of so many."""
    if isinstance(every, Quantity) and get_dimensions(every) == second.dim and np.ndim(every) == 0:
        steps = float(every) / float(dt)
        every = int(round(steps)) if abs(steps - round(steps)) < 1e-6 else every
    if not isinstance(every, (int, np.integer)) or isinstance(every, bool) or every < 1:
        raise NetworkError(f"cannot record {name!r}: every={every!r} is not a positive whole number of steps of {dt}")
    return int(every)


def parse_entry(net, name, own, every, neurons):
    if not isinstance(name, str) or not isinstance(own, Mapping):
        raise NetworkError(f"cannot record {name!r:.80}: give names such as 'rec.v', or {{'rec.v': {{'every': 5}}}}")
    node, _, variable = name.partition(".")
    known = [*net.nodes, *net.projections]
    if node not in known:
        raise NetworkError(f"cannot record {name!r}: there is no {node!r} in the network; it has {sorted(known)}")
    if variable not in recordable(net, node):
        names = [f"{node}.{each}" for each in recordable(net, node)]
        raise NetworkError(f"cannot record {name!r}: of {node!r} there are {names}")
    if unknown := set(own) - {"every", "neurons"}:
        raise NetworkError(f"cannot record {name!r}: unknown option {min(unknown)!r}; give every or neurons")
    variable = spelled(net, name, node, variable)
    sparse = variable in ("spikes", "raster")
    every = own.get("every", 1 if sparse or variable == "weight" else every)
    if variable == "weight" and isinstance(every, Quantity):
        raise NetworkError(
            f"cannot record {name!r}: every={every!r}; weights are kept each so many updates, give a number"
        )
    every = in_steps(name, every, net.dt)
    if sparse and every != 1:
        raise NetworkError(f"cannot record {name!r}: every={every} would lose spikes; leave it out")
    if variable != "weight":
        return Entry(node, variable, pick(name, own.get("neurons", neurons), net.size(node)), every)
    if "neurons" in own:
        raise NetworkError(f"cannot record {name!r}: weights are kept whole; leave out neurons")
    return Entry(node, variable, None, every)


def pick(name, neurons, size):
    """Indices of the neurons to keep, ``(kept,)``, checked against the size of the node."""
    everyone = np.arange(size)
    chosen = everyone if neurons is None else everyone[neurons] if isinstance(neurons, slice) else np.asarray(neurons)
    whole = chosen.ndim == 1 and chosen.size and chosen.dtype.kind in "iu"
    if not whole or len(np.unique(chosen)) < len(chosen) or not np.isin(chosen, everyone).all():
        raise NetworkError(f"cannot record {name!r}: neurons={neurons!r}; give different indices from 0 to {size - 1}")
    return chosen.astype(np.int64)


def share_axes(entries):
    """Fill in the groups: within one, all series have the same time and neuron axes."""
    first = {}
    for entry in entries:
        group = entry.node
        if entry.variable not in ("spikes", "weight"):
            lead = first.setdefault(entry.node, entry)
            same = lead.every == entry.every and np.array_equal(lead.neurons, entry.neurons)
            group = entry.node if same else entry.name
        yield replace(entry, group=group)
