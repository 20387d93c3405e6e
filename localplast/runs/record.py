"""What a run keeps: states, spikes, weights and metrics as one labelled tree, in memory or on disk during the run.

Backends hand over numpy arrays; a :class:`Recorder` gives them names, axes, units and provenance. How the store on disk
stays readable while it is written: :mod:`localplast.runs.store`.
"""

import json
import warnings
from datetime import UTC, datetime
from importlib import metadata
from os import PathLike

import numpy as np
import xarray as xr
import zarr
from brian2.units.fundamentalunits import DIMENSIONLESS, Quantity, get_dimensions
from zarr.errors import ZarrUserWarning

from localplast.equations.units import unit_name
from localplast.errors import LocalplastError, LocalplastWarning, NetworkError
from localplast.files import encode
from localplast.memory import check_memory
from localplast.network.check import weight_dimension
from localplast.network.convolution import weight_dims, weight_shape
from localplast.runs.request import Entry, Request
from localplast.runs.store import GROWING, PLAIN_KINDS, WHOLE, Series, create_store, missing_chunks, open_store, rewind

__all__ = ["Entry", "Recorder", "Request", "open_record"]

STATE = ("trial", "time", "neuron")


def plain(value, what, dim=None):
    """``value`` as a fresh array of SI numbers, and the name of its unit: the only way into a record.

    A Quantity loses its unit here, after a check that it has the dimensions ``dim``; None takes those it has.
    """
    array = np.array(value)
    if array.dtype.kind not in PLAIN_KINDS:
        raise NetworkError(f"{what} is not made of plain numbers (dtype {array.dtype}) and cannot be recorded")
    found = get_dimensions(value) if isinstance(value, (Quantity, list, tuple)) else DIMENSIONLESS
    if dim is not None and found not in (dim, DIMENSIONLESS):
        raise NetworkError(f"{what} is measured in {unit_name(dim)}, not in {unit_name(found)}")
    return array, unit_name(found if dim is None else dim)


def origin(net, request, given):
    """What a record says about where it comes from: the attributes of its root, plain strings and numbers."""
    attrs = {package: version(package) for package in ("localplast", "brian2", "torch", "numpy")}
    attrs.update(date=datetime.now(UTC).isoformat(timespec="seconds"), dt=float(net.dt))
    attrs["method"] = json.dumps({name: str(p.model.method) for name, p in net.populations.items()})
    attrs["nodes"] = json.dumps(encode(net.nodes))
    attrs["request"] = request.encoded()
    return {**attrs, **{key: encode(value) for key, value in given.items()}, "complete": False}


def version(package):
    """The installed version, asked of the metadata: importing torch takes seconds."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def node_attrs(net, group):
    """The attributes of one node of the tree."""
    name = group.partition(".")[0]
    if name in net.projections:
        p = net.projections[name]
        return {"kind": "projection", "pre": p.pre, "post": p.post, "target": p.target}
    if name in net.inputs:
        return {"kind": "input", "size": int(net.size(name))}
    if name in net.populations:
        return {"kind": "population", "size": int(net.size(name)), "model": net.populations[name].model.name}
    return {}


def indices(what, values, bound):
    """Checked whole numbers from 0 to ``bound - 1``: an index out of range must never become data."""
    array = np.asarray(values)
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= bound:
        raise NetworkError(f"{what} must be whole numbers from 0 to {bound - 1}, shape (spike,); given {array!r}")
    return array.astype(np.int64)


class Recorder:
    """Collects what a run keeps.

    Parameters
    ----------
    net : Network
    request : Request

    Other arguments
    ---------------
    path : path, optional
        Write to a new Zarr store here, at each :meth:`flush`; what is flushed leaves memory.
    provenance : mapping, optional
        What the backend knows about the run: ``backend``, ``codegen``, ``seed``. The rest is added.

    A run stopped by an exception leaves ``complete`` False in the record; used in a ``with`` block, a recorder is
    flushed then and closed otherwise.
    """

    def __init__(self, net, request, *, path=None, provenance=None):
        for name in ("metrics", "learned"):
            if name in {*net.nodes, *net.projections}:
                raise NetworkError(f"{name!r} is a part of records; give that part of the network another name")
        self.net, self.request, self.path = net, request, path
        self.attrs = origin(net, request, provenance or {})
        self.series, self.closed = {}, False
        self.last, self.spikes = {}, {}  # by group: the last update, and how many spikes are on disk
        self.root = None if path is None else create_store(path, self.attrs)

    @classmethod
    def resume(cls, path, net, request, *, position=None):
        """Go on with the store at ``path`` from ``position``, what :meth:`flush` returned (default: all there is).

        Rows behind ``position`` are dropped. Network and request must be those of the record.

        Raises
        ------
        LocalplastError
            No record there, one of another network or request, or one that ends before ``position``.
        """
        root, recorder = open_store(path, "r+"), cls(net, request)
        for what in ("nodes", "dt", "request"):
            if root.attrs.get(what) != recorder.attrs[what]:
                raise LocalplastError(f"{path} was recorded with other {what}; give the same, or start a new record")
        rewind(root, path, position)
        recorder.path, recorder.root, recorder.attrs = path, root, root_attrs(root)
        for key, n in root.attrs["position"].items():
            missing_chunks(path, root, key, n)  # raises where something else is in their place
            with zarr.config.set({f"array.{option}": value for option, value in WHOLE.items()}):
                array = root[key]
            recorder.series[key] = Series(
                array.metadata.dimension_names, array.dtype, array.shape[1:], dict(array.attrs), array=array, stored=n
            )
            group, _, name = key.rpartition("/")
            if name == "spike_trial":
                recorder.spikes[group] = n
        recorder.last = dict(recorder._updates())
        return recorder

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if kind is None:
            self.close()
        else:
            self.flush()

    def add(self, node, variable, array):
        """Append trials: ``array`` ``(trial, time, neuron)`` of the kept steps and neurons (:meth:`Entry.select`)."""
        entry = self._entry(node, variable)
        array, units = plain(array, entry.name, entry.dimension(self.net))
        if array.ndim != 3 or array.shape[2] != len(entry.neurons):
            raise NetworkError(
                f"{entry.name} has shape {array.shape}; give (trial, time, neuron) with {len(entry.neurons)} neurons"
            )
        if variable == "raster" and array.dtype != bool:
            raise NetworkError(f"{entry.name} must be a bool raster, not {array.dtype}")
        time = np.arange(array.shape[1]) * entry.every * float(self.net.dt)
        if f"{entry.group}/time" not in self.series:
            self._append(f"{entry.group}/time", ("time",), time, units="s")
            self._append(f"{entry.group}/neuron", ("neuron",), entry.neurons, units="1")
        if len(time) != self._length(f"{entry.group}/time"):
            raise NetworkError(f"{entry.name} has {len(time)} steps, and {self._length(f'{entry.group}/time')} before")
        self._append(entry.key, STATE, array, units=units)

    def add_spikes(self, node, trial, time_step, neuron, *, shape):
        """Append the spikes of some trials, in any order.

        Parameters
        ----------
        trial, time_step, neuron : int arrays ``(spike,)``
            ``trial`` counts from 0 in this block; neurons that were not asked for are passed over.
        shape : pair of int
            How many trials of how many steps the block has, silent ones included.
        """
        entry = self._entry(node, "spikes")
        bounds = {"trial": shape[0], "time_step": shape[1], "neuron": self.net.size(node)}
        given = zip(bounds, (trial, time_step, neuron), strict=True)
        events = [indices(f"{what} of {entry.name}", values, bounds[what]) for what, values in given]
        if len({len(each) for each in events}) > 1:
            raise NetworkError(f"trial, time_step and neuron of {entry.name} have different lengths")
        stacked = np.stack(events)
        stacked = stacked[:, np.isin(stacked[2], entry.neurons)]
        # One order whatever the backend, so that equal spikes make equal records.
        trial, step, neuron = stacked[:, np.lexsort(stacked[::-1])]
        dt, first = float(self.net.dt), self._length(f"{node}/spike_count")
        self._append(f"{node}/spike_time", ("spike",), step * dt, units="s", duration=shape[1] * dt)
        self._append(f"{node}/spike_trial", ("spike",), first + trial, units="1")
        self._append(f"{node}/spike_neuron", ("spike",), neuron, units="1")
        # Last, because the counts decide which events are visible: an interrupt before this line hides them.
        self._append(f"{node}/spike_count", ("trial",), np.bincount(trial, minlength=shape[0]), units="1")

    def add_metrics(self, *, update, **scalars):
        """Append one row of scalars; a metric that some update lacks is NaN there. Updates must grow."""
        self._check_update("metrics", update)
        values = {f"metrics/{name}": plain(value, f"the metric {name!r}") for name, value in scalars.items()}
        for key, (value, units) in values.items():
            if value.ndim or (key in self.series and self.series[key].attrs != {"units": units}):
                raise NetworkError(f"{key} has shape {value.shape}, unit {units}; give one number, always in one unit")
        known = {k: (np.nan, v.attrs["units"]) for k, v in self.series.items() if k.startswith("metrics/")}
        known.pop("metrics/update", None)
        before = np.full(self._length("metrics/update"), np.nan)
        for key, (value, units) in {**known, **values}.items():
            row = np.array([value], float)
            self._append(key, ("update",), row if key in known else np.append(before, row), units=units)
        self._append_update("metrics", update)

    def set_weights(self, name, array, update=None):
        """Keep the weights ``(pre, post)`` (or the kernel) of a projection: the latest, or with ``update`` one more
        along training.

        A kill during a flush may leave the latest weights one flush newer than the rest.
        """
        if name not in self.net.projections:
            raise NetworkError(f"there is no projection {name!r}; the network has {sorted(self.net.projections)}")
        p = self.net.projections[name]
        array, units = plain(array, f"the weight of {name!r}", weight_dimension(self.net, p))
        dims = weight_dims(self.net, p)
        if array.shape != weight_shape(self.net, p):
            raise NetworkError(f"the weight of {name!r} has shape {array.shape}, which is not its ({', '.join(dims)})")
        known, along = self.series.get(f"{name}/weight"), f"{name}/update" in self.series
        if known and along != (update is not None):
            raise NetworkError(f"the weight of {name!r} is kept along training or as the latest, not both: see update=")
        if update is None:
            self._append(f"{name}/weight", dims, array, units=units, replace=True)
        else:
            self._check_update(name, update)
            self._append(f"{name}/weight", ("update", *dims), array[None], units=units)
            self._append_update(name, update)

    def set_learned(self, name, array):
        """Keep the latest value of a parameter or delay that learns, ``'rec.tau_mem'``, in SI units (delays in
        steps).
        """
        owner, key = name.split(".")
        rows = np.atleast_1d(plain(array, name)[0])
        dims = tuple(f"{owner}_{key}_{axis}" for axis in range(rows.ndim))
        delay = owner in self.net.projections
        units = "steps" if delay else unit_name(self.net.nodes[owner].model.dimensions[key])
        self._append(f"learned/{name}", dims, rows, units=units, replace=True)

    @property
    def position(self):
        """How many rows of each variable are visible: JSON data to be kept in a checkpoint, and given to resume."""
        return self.rows if self.root is None else dict(self.root.attrs["position"])

    def flush(self):
        """Bring all whole trials to disk (where there is a path); return :attr:`position`.

        A trial of which some requested variable has not arrived yet stays in memory. A flush rewrites the last chunk of
        every variable: let some seconds or megabytes gather between two.
        """
        if self.root is not None and not self.closed:
            self._commit(complete=False)
        return self.position

    def cut(self, rows):
        """Forget what was appended since :attr:`rows` was ``rows``; it must not have been flushed."""
        growing = [key for key, series in self.series.items() if series.dims[0] in GROWING]
        for key in growing:
            if key in rows:
                self.series[key].cut(rows[key])
            else:
                del self.series[key]
        self.last = dict(self._updates())

    def tree(self):
        """The record so far, an :class:`xarray.DataTree`; flushed first, and read lazily, where it is on disk."""
        if self.root is not None:
            self.flush()
            return open_record(self.path)
        whole, groups = self.rows, {}
        for key, series in self.series.items():
            group, _, name = key.rpartition("/")
            groups.setdefault(group, {})[name] = xr.Variable(series.dims, series.pending(whole[key]), series.attrs)
        return build_tree(self.attrs, {g: xr.Dataset(v, attrs=node_attrs(self.net, g)) for g, v in groups.items()})

    def close(self):
        """Flush, and mark the record as complete.

        Raises
        ------
        LocalplastError
            Some requested variable lacks trials that others have.
        """
        lengths = {key: self._length(key) for key in self._trial_keys()}
        if len(set(lengths.values())) > 1:
            raise LocalplastError(f"the record cannot be closed: the numbers of trials differ, {lengths}")
        if self.root is not None and not self.closed:
            self._commit(complete=True)
        self.attrs, self.closed = {**self.attrs, "complete": True}, True

    def _entry(self, node, variable):
        entry = self.request.find(node, variable)
        if entry is None:
            asked = [e.name for e in self.request.entries]
            raise NetworkError(f"'{node}.{variable}' was not asked for; the request has {asked}")
        return entry

    def _length(self, key):
        return self.series[key].length if key in self.series else 0

    def _trial_keys(self):
        """The variables, one per entry, whose rows are trials."""
        entries = [e for e in self.request.entries if e.variable != "weight"]
        return [f"{e.node}/spike_count" if e.variable == "spikes" else e.key for e in entries]

    @property
    def rows(self):
        """How many rows of each variable, flushed or not, make whole trials and updates: all of each has arrived."""
        trials, updates, spikes = min(map(self._length, self._trial_keys()), default=0), {}, {}
        for key, series in self.series.items():
            group = key.rpartition("/")[0]
            if series.dims[0] == "update":
                updates[group] = min(series.length, updates.get(group, series.length))
            elif key.endswith("/spike_count"):
                spikes[group] = self.spikes.get(group, 0) + int(series.pending(trials).sum())
        rows = {}
        for key, series in self.series.items():
            group = key.rpartition("/")[0]
            grown = {"trial": trials, "update": updates.get(group, 0), "spike": spikes.get(group, 0)}
            rows[key] = grown.get(series.dims[0], series.length)
        return rows

    def _append(self, key, dims, rows, *, replace=False, **attrs):
        if self.closed:
            raise LocalplastError("this record is closed; open another one, or go on with it by Recorder.resume")
        series = self.series.setdefault(key, Series(dims, rows.dtype, rows.shape[1:], attrs))
        series.append(key.replace("/", "."), rows, attrs, replace=replace)

    def _updates(self):
        """The last update of each group that grows with them."""
        for key, series in self.series.items():
            if key.endswith("/update") and series.length:
                rows = series.pending(series.length)
                yield key.removesuffix("/update"), int(rows[-1] if len(rows) else series.array[series.stored - 1])

    def _check_update(self, group, update):
        if update <= self.last.get(group, -1):
            raise NetworkError(f"{group}: update {update} comes after update {self.last[group]}; updates must grow")

    def _append_update(self, group, update):
        self._append(f"{group}/update", ("update",), np.array([update], np.int64), units="1")
        self.last[group] = int(update)

    def _commit(self, complete):
        """Write, make visible, then forget: a flush that fails on the way can be tried again."""
        rows = self.rows
        for key, series in self.series.items():
            group = key.rpartition("/")[0]
            if group not in self.root:
                self.root.create_group(group, attributes=node_attrs(self.net, group))
            series.write(self.root, key, rows[key])
            if complete:
                series.trim(rows[key])
        self.root.update_attributes({"position": rows, "complete": complete})
        for key, series in self.series.items():
            series.drop(rows[key])
            if key.endswith("/spike_trial"):
                self.spikes[key.removesuffix("/spike_trial")] = rows[key]


def root_attrs(root):
    """The attributes of a store that are not about the store itself."""
    return {key: value for key, value in root.attrs.items() if key not in ("position", "localplast_record")}


def build_tree(attrs, groups):
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=attrs), **{f"/{name}": each for name, each in groups.items()}})


def open_record(path: str | PathLike) -> xr.DataTree:
    """Read a record, finished or being written, as a lazy :class:`xarray.DataTree`; ``attrs["complete"]`` tells which.

    Nothing in the files is executed: only arrays of plain numbers are opened. What is lost, because a file of the store
    is missing, is NaN, and a :class:`~localplast.errors.LocalplastWarning` names it.

    Raises
    ------
    LocalplastError
        No record there, or a damaged or foreign one.
    """
    root, groups, lost = open_store(path), {}, {}
    for key, n in root.attrs["position"].items():
        group, _, name = key.rpartition("/")
        groups.setdefault(group, {})[name] = n
        if gaps := missing_chunks(path, root, key, n):
            lost[key] = gaps
    if lost:
        text = f"{path} is damaged: files of {', '.join(sorted(lost))} are missing; what they held reads as NaN"
        warnings.warn(text, LocalplastWarning, stacklevel=2)
    try:
        found = {group: read_group(path, group, rows, lost) for group, rows in groups.items()}
        return build_tree(root_attrs(root), found)
    except (KeyError, TypeError, ValueError) as error:  # axes without names, or of several lengths
        raise LocalplastError(f"{path} holds no readable record: {error}") from error


def with_gaps(variable, gaps):
    """A variable of which some parts are lost."""
    check_memory("a variable whose files are lost in part", 8 * variable.size)
    values = variable.values.astype(float)
    for gap in gaps:
        values[gap] = np.nan
    return xr.Variable(variable.dims, values, variable.attrs)


def read_group(path, group, rows, lost):
    """The visible ``rows`` of every variable of one group. Arrays may be longer, so xarray's own opener would balk."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)  # temporary files that a kill left behind
        store = xr.backends.ZarrStore.open_group(str(path), group=group, mode="r", consolidated=False, zarr_format=3)
    found = {name: store.open_store_variable(name)[:n] for name, n in rows.items()}
    damaged = {name: with_gaps(v, lost[f"{group}/{name}"]) for name, v in found.items() if f"{group}/{name}" in lost}
    return xr.Dataset(found | damaged, attrs=store.get_attrs())
