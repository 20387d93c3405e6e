"""Figures: thin functions that take labelled arrays and return matplotlib axes, with units on every axis."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import xarray as xr
    from brian2.units.fundamentalunits import Quantity
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

__all__ = [
    "activity",
    "alignment",
    "comparison",
    "delay_groups",
    "delays",
    "details",
    "feedback_angle",
    "learning_curves",
    "memory_cost",
    "raster",
    "retention",
    "spectrum",
    "time_cost",
]

#: What is known of how near two gradients are.
Measure = Literal["relative_error", "cosine", "angle", "norm_ratio", "sign_agreement"]

COLOURS = ("#1b6ca8", "#d1495b", "#edae49", "#66a182", "#6f4e7c", "#9c755f")
LINES = ("-", "--", ":", "-.")
#: How many points a curve of training batches is averaged to, at most.
POINTS = 60
LABELS = {
    "relative_error": "relative error",
    "cosine": "cosine",
    "angle": "angle (degrees)",
    "norm_ratio": "norm ratio",
    "sign_agreement": "sign agreement",
}
#: What a panel shows at least.
RANGES = {"cosine": (0.0, 1.05), "angle": (-3.0, 95.0), "norm_ratio": (0.0, 1.1), "sign_agreement": (0.0, 1.05)}


def style(ax, title="", xlabel="", ylabel=""):
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def legend(ax, **where):
    ax.legend(frameon=False, fontsize=8, **where)


def coloured(rules):
    """Every rule with its colour and line, the same in all panels; after six the colours come again with other
    lines.
    """
    looks = itertools.cycle((colour, line) for line in LINES for colour in COLOURS)
    return [(str(rule), *look) for rule, look in zip(rules, looks, strict=False)]


def band(ax, x, values, label, colour, line="-", **more):
    """Mean over seeds with a band of one standard deviation; ``values`` ``(seed, x)``, gaps where no seed has a
    value.
    """
    seeds = np.isfinite(values).sum(0)
    mean = np.nansum(values, 0) / np.where(seeds, seeds, np.nan)
    squares = np.nansum((values - mean) ** 2, 0)
    deviation = np.sqrt(squares / np.maximum(seeds - 1, 1))
    ax.plot(x, mean, **{"label": label, "color": colour, "ls": line, "lw": 1.6, **more})
    ax.fill_between(x, mean - deviation, mean + deviation, color=colour, alpha=0.18, lw=0)


def learning_curves(tree: xr.DataTree, ax: Axes, *, metric: Literal["accuracy", "loss"] = "accuracy") -> Axes:
    """Every rule along training: test trials as lines with markers, training batches thin. ``metric``: accuracy or
    loss.

    Dotted: the accuracies that the protocol's ``references`` reach.
    """
    curves, training = tree["curves"].to_dataset(), tree["training"].to_dataset()
    width = -(-training.sizes["update"] // POINTS)
    training = training.coarsen(update=width, boundary="trim").mean()
    scale = 100 if metric == "accuracy" else 1
    for rule, colour, line in coloured(curves["rule"].values):
        seen = training[metric].sel(rule=rule)
        ax.plot(seen["update"], scale * seen.mean("seed"), color=colour, lw=0.6, alpha=0.6)
        tested = curves[f"test_{metric}"].sel(rule=rule).dropna("update", how="all")
        band(ax, tested["update"].values, scale * tested.values, rule, colour, line, marker=".")
    ax.plot([], [], color="0.5", lw=0.6, label="training batches")
    if metric == "accuracy" and "references" in tree.children:
        for agent in tree["references"]["accuracy"]:
            ax.axhline(100 * float(agent), color="0.6", lw=0.8, ls=":", label=str(agent["agent"].values))
    legend(ax)
    return style(
        ax, "learning (mean, band: sd over seeds)", "update", "accuracy (%)" if metric == "accuracy" else "loss"
    )


def alignment(tree: xr.DataTree, ax: Axes, *, metric: Measure = "cosine", projection: str | None = None) -> Axes:
    """How the gradient of every rule relates to BPTT's along training.

    Of one ``projection``; default: of all weights onto the hidden population as one vector.
    """
    group = "hidden" if projection is None else "alignment"
    found = tree[group].to_dataset()[metric]
    found = found if projection is None else found.sel(projection=projection)
    for rule, colour, line in coloured(found["rule"].values):
        seen = found.sel(rule=rule).dropna("update", how="all")
        band(ax, seen["update"].values, seen.values, rule, colour, line)
    if metric == "relative_error":
        ax.set_yscale("symlog", linthresh=0.1)
    elif metric in RANGES:  # else rounding errors of what is equal would fill the panel
        low, high = ax.get_ylim()
        ax.set_ylim(min(low, RANGES[metric][0]), max(high, RANGES[metric][1]))
    legend(ax)
    return style(ax, f"{projection or 'hidden'} gradient against BPTT", "update", LABELS[metric])


def feedback_angle(tree: xr.DataTree, ax: Axes) -> Axes:
    """The angle between feedback and the forward weights it stands for, of rules that have any of their own."""
    found = tree["feedback"].to_dataset()["angle"]
    for rule, colour, _ in coloured(found["rule"].values):
        for projection, line in zip(found["projection"].values, itertools.cycle(LINES), strict=False):
            values = found.sel(rule=rule, projection=projection).values
            if np.isfinite(values).any():
                band(ax, found["update"].values, values, f"{rule}: {projection}", colour, line)
    ax.axhline(90, color="0.6", lw=0.8, ls=":", label="at random")
    legend(ax)
    return style(ax, "feedback against forward weights", "update", "angle (degrees)")


def bars(ax, rules, groups, title, unit):
    """Horizontal bars, one row per rule; ``groups`` maps a label to mean and deviation ``(rule,)``. Missing ones stay
    out.
    """
    height, rows = 0.8 / len(groups), np.arange(len(rules))
    for number, ((label, (mean, deviation)), colour) in enumerate(zip(groups.items(), COLOURS, strict=False)):
        there = np.isfinite(mean)
        where = rows[there] + (number - (len(groups) - 1) / 2) * height
        ax.barh(
            where,
            mean[there],
            height,
            xerr=deviation[there] if deviation is not None else None,
            color=colour,
            label=label,
        )
    ax.set_yticks(rows, rules)
    ax.invert_yaxis()
    ax.set_xscale("log")
    legend(ax)
    return style(ax, title, unit, "rule")


def time_cost(tree: xr.DataTree, ax: Axes) -> Axes:
    """Milliseconds per trial of every rule on each backend, mean and sd over seeds."""
    found = 1e3 * tree["cost"].to_dataset()["seconds_per_trial"]
    deviation = found.std("seed", ddof=1) if found.sizes["seed"] > 1 else 0 * found.isel(seed=0)
    groups = {
        str(b): (found.sel(backend=b).mean("seed").values, deviation.sel(backend=b).values)
        for b in found["backend"].values
    }
    return bars(ax, found["rule"].values, groups, "time", "time per trial (ms)")


def memory_cost(tree: xr.DataTree, ax: Axes) -> Axes:
    """Bytes per synapse that every rule's equations keep (the costliest projection), and peak memory per backend."""
    cost = tree["cost"].to_dataset()
    groups = {"state per synapse": (cost["bytes_per_synapse"].max("projection").values, None)}
    groups |= {f"peak memory, {b}": (cost["peak_memory"].sel(backend=b).values, None) for b in cost["backend"].values}
    return bars(ax, cost["rule"].values, groups, "memory", "memory (bytes)")


def raster(times: ArrayLike, neurons: ArrayLike, ax: Axes, *, title: str = "", ylabel: str = "neuron") -> Axes:
    """Spikes: ``times`` in seconds."""
    ax.plot(1e3 * np.asarray(times), neurons, "|", ms=3, color="0.2")
    return style(ax, title, "time (ms)", ylabel)


def quantity(name, units):
    """``wait (s)``, ``cues``: a name with its unit, if it has one."""
    return name.replace("_", " ") + ("" if units in (None, "1") else f" ({units})")


def retention(curves: Mapping[str, xr.Dataset], ax: Axes, *, reference: Mapping[str, ArrayLike] | None = None) -> Axes:
    """Accuracy of networks that learn no more against what was varied, with error bars of one standard error.

    ``curves``: label to what :func:`localplast.analysis.retention.accuracy_against` returned, along one variable.
    ``reference``: label to accuracies ``(value,)`` at the same values, such as those of an agent that remembers the
    last k cues.
    """
    for (label, colour, line), curve in zip(coloured(curves), curves.values(), strict=True):
        (name,) = curve["accuracy"].dims
        x, share, error = (curve[k].values for k in (name, "accuracy", "standard_error"))
        ax.errorbar(x, 100 * share, 100 * error, label=label, color=colour, ls=line, marker=".", capsize=2, lw=1.6)
    for (label, values), line in zip((reference or {}).items(), itertools.cycle(LINES[1:] + LINES[:1]), strict=False):
        ax.plot(x, 100 * np.asarray(values), color="0.5", lw=1, ls=line, label=label)
    legend(ax)
    return style(ax, "accuracy without retraining", quantity(name, curve[name].attrs.get("units")), "accuracy (%)")


def spectrum(power: xr.DataArray, ax: Axes, *, lines: xr.DataArray | None = None) -> Axes:
    """A spectrum of the population rate, the level of independent neurons, and where delays should show.

    ``power`` is made by :func:`localplast.analysis.dynamics.rate_spectrum`, ``lines`` by
    :func:`localplast.analysis.dynamics.delay_lines`.
    """
    frequency = power["frequency"].values
    ax.semilogy(frequency[1:], power.values[1:], color="0.2", lw=0.8)  # the mean was taken out
    ax.axhline(power.attrs["poisson"], color="0.6", lw=0.8, ls=":", label="independent neurons")
    periods = [] if lines is None else lines.transpose("period", "harmonic").dropna("period", how="all")
    for period, (_, colour, line) in zip(periods, coloured(range(len(periods))), strict=True):
        for number, where in enumerate(period.values[np.isfinite(period.values)]):
            label = f"period {1e3 * float(period['period']):.4g} ms" if number == 0 else None
            ax.axvline(where, color=colour, ls=line, lw=1, alpha=0.7, label=label)
    if len(periods):
        ax.set_xlim(0, 1.1 * float(np.nanmax(lines)))
    legend(ax, loc="upper left", bbox_to_anchor=(1, 1))
    return style(ax, "spectrum of the population rate", "frequency (Hz)", "power (Hz²/Hz)")


def delay_groups(
    times: ArrayLike,
    neurons: ArrayLike,
    steps: ArrayLike,
    ax: Axes,
    *,
    dt: Quantity | float,
    title: str = "spikes by delay",
) -> Axes:
    """Spikes of a population, sorted and coloured by the delay of each neuron.

    ``times`` in seconds; ``steps`` ``(neuron,)`` is the delay of every neuron in steps, ``dt`` a step in seconds.
    """
    times, neurons, steps = np.asarray(times), np.asarray(neurons), np.asarray(steps)
    row, groups = np.argsort(np.argsort(steps, kind="stable")), np.unique(steps)
    for delay, (_, colour, _) in zip(groups, coloured(groups), strict=True):
        mine = steps[neurons] == delay
        ax.plot(
            1e3 * times[mine], row[neurons[mine]], "|", ms=3, color=colour, label=f"{1e3 * float(dt) * delay:.4g} ms"
        )
    legend(ax, loc="upper left", bbox_to_anchor=(1, 1), markerscale=3)  # beside the spikes, which are everywhere
    return style(ax, title, "time (ms)", "neuron, sorted by delay")


def delays(before: ArrayLike, after: ArrayLike, ax: Axes, *, dt: Quantity | float, bins: int = 20) -> Axes:
    """Histogram of the delays of a projection before and after learning; arrays in steps, ``dt`` a step in seconds."""
    pair = [1e3 * float(dt) * np.ravel(x) for x in (before, after)]
    edges = np.histogram_bin_edges(np.concatenate(pair), bins)
    ax.hist(pair[0], edges, color="0.75", label="before learning")
    ax.hist(pair[1], edges, histtype="step", color=COLOURS[1], lw=1.6, label="after learning")
    legend(ax)
    return style(ax, "delays", "delay (ms)", "synapses")


def activity(shown: xr.Dataset, axes: Sequence[Axes]) -> None:
    """Membranes, thresholds, eligibility traces and spikes of one trial; ``shown`` is made by
    ``localplast.analysis.inside.trial``.
    """
    time = 1e3 * shown["time"].values
    for number, colour in zip(range(shown.sizes["neuron"]), COLOURS, strict=False):
        neuron = shown.isel(neuron=number)
        axes[0].plot(time, neuron["v"], color=colour, lw=1, label=f"neuron {int(neuron['neuron'])}")
        axes[0].plot(time, neuron["threshold"], color=colour, lw=0.8, ls="--")
        axes[1].plot(time, neuron["eligibility"], color=colour, lw=1)
    style(axes[0], "membranes (lines) and thresholds (dashed)", "time (ms)", f"membrane ({shown['v'].attrs['units']})")
    style(axes[1], "eligibility of each neuron's strongest synapse", "time (ms)", "eligibility")
    raster(shown.attrs["spike_time"], shown.attrs["spike_neuron"], axes[2], title="spikes of one test trial")


def comparison(tree: xr.DataTree, shown: xr.Dataset | None = None) -> Figure:
    """The figure of a comparison: learning curves, alignment of the hidden gradient, and one trial seen from inside."""
    import matplotlib.pyplot as plt

    rows = 2 if shown is not None else 1
    figure, axes = plt.subplots(rows, 3, figsize=(12, 3.4 * rows), squeeze=False, constrained_layout=True)
    labelled = np.isfinite(tree["curves"]["test_accuracy"].values).any()  # trajectories have no accuracy
    learning_curves(tree, axes[0, 0], metric="accuracy" if labelled else "loss")
    alignment(tree, axes[0, 1])
    alignment(tree, axes[0, 2], metric="relative_error")
    if shown is not None:
        activity(shown, axes[1])
    return figure


def details(tree: xr.DataTree, *, metric: Measure = "angle") -> Figure:
    """The rest of a comparison: loss, feedback, time, memory; then the alignment of every projection."""
    import matplotlib.pyplot as plt

    projections = tree["alignment"]["projection"].values
    rows = 1 + -(-len(projections) // 4)
    figure, axes = plt.subplots(rows, 4, figsize=(16, 3.4 * rows), squeeze=False, constrained_layout=True)
    learning_curves(tree, axes[0, 0], metric="loss")
    feedback_angle(tree, axes[0, 1])
    time_cost(tree, axes[0, 2])
    memory_cost(tree, axes[0, 3])
    below = axes[1:].ravel()
    for projection, ax in zip(projections, below, strict=False):
        alignment(tree, ax, metric=metric, projection=projection)
    for ax in below[len(projections) :]:
        ax.remove()
    return figure
