"""The main job: a protocol compared under local rules and BPTT, as tables, figures and a record."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr

from localplast.analysis.distance import UNITS
from localplast.arguments import BACKENDS
from localplast.errors import LocalplastError
from localplast.files import atomic_write
from localplast.runs.record import open_record
from localplast.runs.store import replacement
from localplast.show.plot import comparison, details
from localplast.show.table import Column, Table
from localplast.study.compare import compare, store_of, strings
from localplast.study.contenders import as_contender, usual

__all__ = ["alignment_table", "check_figure_path", "contenders", "report", "table", "write_figure"]

FIGURES = (".png", ".pdf", ".svg")


def contenders(preset, backend=None):
    """What ``preset`` compares, local rules on ``backend`` (default: Brian2, or where the preset says)."""
    found = {name: as_contender(rule) for name, rule in rules_of(preset).items()}
    return {n: replace(c, backend=backend) if backend and c.rule.local else c for n, c in found.items()}


def rules_of(preset):
    """The rules of ``preset``, or else those of :func:`~localplast.study.compare.usual`."""
    return preset.rules or usual(preset.network, feedback_std=preset.feedback_std)


def table(tree):
    """The comparison as a :class:`~localplast.show.table.Table`, a row for every rule; columns without a number are
    left out.

    Accuracy, loss and spikes are those of the last test; relative error and cosine those of the hidden gradient against
    BPTT's, averaged along training (the start left out); bytes per synapse those of the costliest projection.
    """
    last = at_the_end(tree["curves"].to_dataset())
    along = tree["hidden"].to_dataset().isel(update=slice(1, None)).mean("update")
    cost = tree["cost"].to_dataset()

    def words(title, name):  # where they differ
        found = [str(word) for word in cost[name].values]
        return [Column(title, found)] if len(set(found)) > 1 else []

    columns = [
        Column("rule", [str(name) for name in last["rule"].values]),
        *words("network", "network"),
        Column("trained on", [str(name) for name in cost["trained_on"].values]),
        *words("updates", "updates"),
        *words("batch", "batch"),
        *words("optimiser", "optimiser"),
        *ended(cost),
        Column("test accuracy (%)", list(100 * last["test_accuracy"].values), 1),
        Column("test loss", list(last["test_loss"].values), 3),
        Column("relative error", list(along["relative_error"].values), 3),
        Column("cosine", list(along["cosine"].values), 3),
        Column("spikes per neuron", list(last["test_spikes"].values), 1),
        *(
            Column(f"{b}: s per 1000 trials", list(1e3 * cost["seconds_per_trial"].sel(backend=b).values), 2)
            for b in BACKENDS
        ),
        *(
            Column(f"{b}: peak memory (MB)", list(1e-6 * cost["peak_memory"].sel(backend=b).values), 1)
            for b in BACKENDS
        ),
        Column("bytes per synapse", list(cost["bytes_per_synapse"].max("projection").values), 0),
    ]
    return Table(header(tree.attrs), tuple(column for column in columns if not column.empty))


def ended(cost):
    """After how many updates runs ended, where some did not make all."""
    if "made" not in cost.coords:  # a comparison of before there was an end
        return []
    sooner = cost["made"].reset_coords(drop=True).where(cost["made"] < cost["updates"])
    return [Column("ended after", list(sooner.values), 0)]


def at_the_end(curves):
    """The last test of every run, ``(rule, seed)``; runs may differ in their number of updates."""
    tested = curves.to_dataarray().notnull().any("variable")
    last = (tested * xr.DataArray(np.arange(tested.sizes["update"]), dims="update")).argmax("update")
    return curves.isel(update=last).drop_vars(["update", "trials"], errors="ignore")


def alignment_table(tree):
    """The five measures against BPTT of every rule and all that learns, averaged along training (the start left out).

    Without the rows that have no number for any seed: what a contender's network does not have, or where BPTT's
    gradient is zero.
    """
    along = tree["alignment"].to_dataset().isel(update=slice(1, None)).mean("update")
    there = np.isfinite(along["norm_ratio"]).any("seed")
    pairs = [
        (r, p) for r in along["rule"].values for p in along["projection"].values if there.sel(rule=r, projection=p)
    ]
    columns = [
        Column("rule", [rule for rule, _ in pairs]),
        Column("projection", [projection for _, projection in pairs]),
    ]
    for name, unit in UNITS.items():
        title = name.replace("_", " ") + (" (degrees)" if unit == "degree" else "")
        values = [along[name].sel(rule=rule, projection=projection).values for rule, projection in pairs]
        columns.append(Column(title, values, 1 if unit == "degree" else 3))
    return Table(header(tree.attrs), tuple(columns))


def header(attrs):
    """What was measured, on what, and by which command: lines; what is not known is left out."""
    seeds = ", ".join(str(seed) for seed in np.atleast_1d(attrs["seeds"]))
    preset = f", preset {attrs['preset']}" if "preset" in attrs else ""
    preset += f" with {attrs['settings']}" if "settings" in attrs else ""
    side = f", {attrs['workers']} runs side by side" if attrs["workers"] > 1 else ""
    lines = [
        f"{attrs['task']}{preset}, {attrs['updates']} updates of {attrs['batch']} trials, {attrs['optimiser']}",
        f"mean ± sd over seeds {seeds}",
        f"{attrs['machine']}{side}; localplast {attrs['localplast']}, Brian2 {attrs['brian2']}, Torch {attrs['torch']}",
    ]
    return tuple(lines + ([attrs["command"]] if "command" in attrs else []))


def report(
    protocol,
    built,
    *,
    preset,
    seeds,
    folder,
    backend=None,
    target=None,
    updates,
    resume=False,
    command=None,
    tables=(),
    figure=None,
):
    """Run the comparison and write what it found; return the text that says so.

    ``comparison.zarr``, ``comparison.png``, ``details.png`` and ``table.md`` go to ``folder``, and with them every
    path of ``tables`` (``.csv``, ``.md``, ``.tex``) and ``figure`` (``.png``, ``.pdf``, ``.svg``); ``learned.png``
    and ``overview.png`` where the protocol draws what its network has learned, or what came of all rules.
    """
    tree = compare(
        built.network,
        built.task,
        contenders(built, backend),
        optimiser=built.optimiser,
        loss=built.loss,
        seeds=list(seeds),
        batch=built.batch,
        updates=updates,
        test=built.test,
        watch=built.watch,
        hidden=built.hidden,
        path=folder / "runs",
        resume=resume,
        target=target,
        workers=2,
    )
    if built.references:
        agents = ("agent", strings(list(built.references)))
        tree["references"] = xr.DataTree(
            xr.Dataset({"accuracy": ("agent", list(built.references.values()))}, {"agent": agents})
        )
    tree.attrs.update(preset=preset, **({"command": command} if command else {}))
    with replacement(folder / "comparison.zarr") as whole:
        tree.to_zarr(whole, consolidated=False)
    own = draw(protocol, built, tree, folder, list(seeds)[0], figure)
    found = table(tree)
    for path in tables:
        found.write(path)
    text = said(protocol, built, found, alignment_table(tree))
    atomic_write(Path(folder) / "table.md", text.encode())
    files = ", ".join(["comparison.zarr", "comparison.png", "details.png", *own, "table.md", "runs/"])
    written = [f"{folder}/{files}", *map(str, tables)]
    return f"{text}\nwritten: {', '.join(written + ([str(figure)] if figure else []))}"


def draw(protocol, built, tree, folder, seed, figure):
    """Write all figures of a comparison; returns the names of those that this protocol alone has."""
    example = trained(built, folder, seed)
    drawn = comparison(tree, None if protocol.drawn or protocol.overview else inside(built, *example))
    if protocol.drawn:
        write_figure(learned(protocol, built, *example), folder / "learned.png")
    if protocol.overview:
        write_figure(protocol.overview(tree), folder / "overview.png")
    for path in (folder / "comparison.png", *([figure] if figure else [])):
        write_figure(drawn, path)
    write_figure(details(tree), folder / "details.png")
    return ["learned.png"] * bool(protocol.drawn) + ["overview.png"] * bool(protocol.overview)


def said(protocol, built, found, apart):
    """Both tables, and what they are held against."""
    published = "".join(f"\npublished, {what}: {number}" for what, number in protocol.published.items())
    agents = "".join(f"\n{name}: {100 * accuracy:.1f} %" for name, accuracy in built.references.items())
    rows = apart.to_markdown().partition("\n\n")[2]  # its header is that of the first table
    return f"{found.to_markdown()}\nagainst BPTT, by projection:\n\n{rows}{agents}{published}\n"


def check_figure_path(path):
    """``path``, if a figure can be written there."""
    if Path(path).suffix not in FIGURES:
        raise LocalplastError(
            f"a figure is written as {', '.join(FIGURES)}; the suffix of {str(path)!r} is none of these"
        )
    return Path(path)


def write_figure(figure, path):
    """Write a Matplotlib figure to ``path``, whole or not at all, in the format of its suffix; pyplot then forgets
    it.
    """
    import matplotlib.pyplot as plt

    stream = io.BytesIO()
    figure.savefig(stream, format=check_figure_path(path).suffix[1:], dpi=150)
    plt.close(figure)
    atomic_write(path, stream.getvalue())


def trained(built, folder, seed):
    """The contender that the first local rule trained, or else the first rule, its :class:`Values`, and the seed."""
    found = {name: own.completed(built.network, built.optimiser, built.loss) for name, own in contenders(built).items()}
    name, own = next(((n, own) for n, own in found.items() if own.rule.local), next(iter(found.items())))
    record = open_record(store_of(folder / "runs", name, seed))
    return own, own.network.values_from(record), seed


def inside(built, own, values, seed):
    """One test trial, for :func:`localplast.plot.activity`; None where those who learn do not spike."""
    if not own.network.nodes[built.hidden].model.spiking:
        return None
    from localplast.analysis.inside import trial  # needs Torch, which figures of phenomena do without

    return trial(own.network, values, built.task.testing(1, seed), own.rule, own.loss, built.hidden, seed=seed)


def learned(protocol, built, own, values, seed):
    """One test trial before and after learning, as the protocol draws it."""
    return protocol.drawn(own.network, built.task.testing(1, seed), own.network.draw(seed), values)
