"""A phenomenon: something that a neuron does, measured in a scan, drawn, and held against the literature. Nothing
learns.

The sibling of :class:`~localplast.study.protocol.Protocol`: a module in ``protocols/`` defines one of the two as
``protocol``.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr

from localplast.errors import LocalplastError
from localplast.runs.record import open_record, version
from localplast.runs.run import run
from localplast.runs.store import Series, create_store, replacement
from localplast.show.table import Column, Table
from localplast.study.numbers import chosen, presets, said

__all__ = ["Finding", "Phenomenon", "labelled", "write_record"]


@dataclass(frozen=True)
class Finding:
    """One number of a report: what it is, with its unit, what was measured, and what the literature says."""

    what: str
    measured: object
    literature: object
    source: str = ""


@dataclass(frozen=True)
class Phenomenon:
    """A named phenomenon.

    Parameters
    ----------
    name, summary, reference : str
    build : callable
        Makes what :attr:`scanned` takes, the conditions of the scan, of numbers.
    presets : dict of str to dict
        ``'quick'`` and ``'paper'``: keyword arguments of ``build``, data and nothing else; here they are
        :class:`~localplast.study.numbers.Numbers`, and ``presets["quick"]()`` makes conditions of them.
    scanned : callable ``(conditions, run) -> dict of str to xarray.Dataset``
        Simulates all conditions at once with ``run(net, trials, record=...)``, which is :func:`localplast.run` on the
        chosen backend; every variable has named dims and ``attrs["units"]``.
    drawn : callable ``(record) -> matplotlib.figure.Figure``
        With the values of the literature in it.
    found : callable ``(record) -> sequence of Finding``
    """

    name: str
    summary: str
    reference: str
    build: Callable[..., object]
    presets: dict[str, dict]
    scanned: Callable
    drawn: Callable
    found: Callable

    def __post_init__(self):
        object.__setattr__(self, "presets", presets(self.name, self.build, self.presets))

    def measure(self, preset="quick", *, settings=None, backend="brian2", target=None, show=False):
        """Simulate all conditions; returns the record, an :class:`xarray.DataTree` with provenance in its ``attrs``.

        ``preset`` is the name of one, in which ``settings`` (a dict) are set otherwise, or conditions of your own; the
        rest is that of :func:`localplast.run`.
        """
        if settings and not isinstance(preset, str):
            raise LocalplastError(f"{self.name}: settings are those of a preset; change your own conditions themselves")
        named = chosen(self.name, self.presets, preset).changed(settings or {}) if isinstance(preset, str) else None
        conditions = preset if named is None else named()
        with named.blamed() if named else nullcontext():
            parts = self.scanned(conditions, partial(run, backend=backend, target=target, show=show))
        attrs = {package: version(package) for package in ("localplast", "brian2", "torch", "numpy")}
        attrs |= {"phenomenon": self.name, "preset": preset if isinstance(preset, str) else "own", "backend": backend}
        attrs |= {"settings": said({name: named[name] for name in settings})} if settings else {}
        attrs |= {"date": datetime.now(UTC).isoformat(timespec="seconds"), "reference": self.reference}
        return xr.DataTree.from_dict(
            {"/": xr.Dataset(attrs=attrs), **{f"/{name}": part for name, part in parts.items()}}
        )

    def figure(self, record):
        """The figure of a record, with the values of the literature in it."""
        return self.drawn(record)

    def table(self, record):
        """What was measured beside what the literature says, a :class:`~localplast.show.table.Table`."""
        found = list(self.found(record))
        columns = {"": "what", "measured": "measured", "literature": "literature", "source": "source"}
        attrs = record.attrs
        versions = f"localplast {attrs['localplast']}, Brian2 {attrs['brian2']}"
        preset = " with ".join(attrs[key] for key in ("preset", "settings") if key in attrs)
        header = f"{self.name}, preset {preset}, {attrs['backend']}; {versions}"
        return Table(
            (header,), tuple(Column(title, [written(getattr(f, key)) for f in found]) for title, key in columns.items())
        )

    def report(self, record):
        """:meth:`table` as Markdown, with the summary above and the reference below."""
        return f"{self.summary}\n\n{self.table(record).to_markdown()}\n{self.reference}\n"


def labelled(**variables):
    """An :class:`xarray.Dataset` of ``name=(dims, values, unit)``; values in SI, a name that is a dim becomes its
    coordinate.
    """
    return xr.Dataset(
        {name: (dims, np.asarray(values), {"units": unit}) for name, (dims, values, unit) in variables.items()}
    )


def written(value):
    """A number as people write it, a text as it is."""
    return f"{value:.4g}" if isinstance(value, (int, float)) else str(value)


def write_record(record, path):
    """Write a record of plain numbers to a Zarr store that :func:`localplast.runs.record.open_record` reads, whole or
    not at all.

    An older record at ``path`` is replaced.

    Raises
    ------
    LocalplastError
        Something else lies at ``path``.
    """
    path = Path(path)
    if path.exists():
        open_record(path)  # raises unless it is a record
    with replacement(path) as folder:
        fill(create_store(folder, dict(record.attrs)), record)


def fill(root, record):
    """All variables of a record as arrays of the store ``root``, then made visible."""
    rows = {}
    for group, node in record.children.items():
        root.create_group(group, attributes=dict(node.attrs))
        for name, variable in node.to_dataset().variables.items():
            series = Series(variable.dims, variable.dtype, variable.shape[1:], dict(variable.attrs))
            series.append(f"{group}.{name}", variable.values, dict(variable.attrs))
            series.write(root, f"{group}/{name}", len(variable))
            rows[f"{group}/{name}"] = len(variable)
    root.update_attributes({"position": rows, "complete": True})
