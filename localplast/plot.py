"""Figures: thin functions that take labelled arrays and return matplotlib axes, with units on every axis."""

import numpy as np

__all__ = ["activity", "alignment", "comparison", "learning_curves", "raster"]

COLOURS = ("#1b6ca8", "#d1495b", "#edae49", "#66a182", "#6f4e7c", "#9c755f")


def style(ax, title="", xlabel="", ylabel=""):
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def band(ax, x, values, label, colour):
    """Mean over seeds with a band of one standard deviation; ``values`` ``(seed, x)``."""
    mean, deviation = values.mean(0), values.std(0, ddof=1) if len(values) > 1 else 0 * values[0]
    ax.plot(x, mean, label=label, color=colour, lw=1.6)
    ax.fill_between(x, mean - deviation, mean + deviation, color=colour, alpha=0.18, lw=0)


def learning_curves(tree, ax, *, metric="test_accuracy"):
    """Test accuracy of every rule along training."""
    curves = tree["curves"].to_dataset()
    for rule, colour in zip(curves["rule"].values, COLOURS, strict=False):
        chosen = curves.sel(rule=rule)
        scale = 100 if metric == "test_accuracy" else 1
        band(ax, chosen["update"].values, scale * chosen[metric].values, str(rule), colour)
    ax.legend(frameon=False, fontsize=8)
    label = "test accuracy (%)" if metric == "test_accuracy" else "test loss"
    return style(ax, "learning", "update", label)


def alignment(tree, ax, *, metric="cosine"):
    """How the hidden gradient of every rule relates to BPTT's along training."""
    found = tree["alignment"].to_dataset()
    for rule, colour in zip(found["rule"].values, COLOURS, strict=False):
        chosen = found.sel(rule=rule)
        band(ax, chosen["update"].values, chosen[metric].values, str(rule), colour)
    if metric == "relative_error":
        ax.set_yscale("symlog", linthresh=0.1)
    return style(ax, "hidden gradient against BPTT", "update", metric.replace("_", " "))


def raster(times, neurons, ax, *, title="", ylabel="neuron"):
    """Spikes: ``times`` in seconds."""
    ax.plot(1e3 * np.asarray(times), neurons, "|", ms=3, color="0.2")
    return style(ax, title, "time (ms)", ylabel)


def activity(shown, axes):
    """Membranes, thresholds, eligibility traces and spikes of one trial; ``shown`` is made by ``localplast.show.trial``."""
    time = 1e3 * shown["time"].values
    for number, colour in zip(range(shown.sizes["neuron"]), COLOURS, strict=False):
        neuron = shown.isel(neuron=number)
        axes[0].plot(time, neuron["v"], color=colour, lw=1, label=f"neuron {int(neuron['neuron'])}")
        axes[0].plot(time, neuron["threshold"], color=colour, lw=0.8, ls="--")
        axes[1].plot(time, neuron["eligibility"], color=colour, lw=1)
    style(axes[0], "membranes (lines) and thresholds (dashed)", "time (ms)", f"membrane ({shown['v'].attrs['units']})")
    style(axes[1], "eligibility of each neuron's strongest synapse", "time (ms)", "eligibility")
    raster(shown.attrs["spike_time"], shown.attrs["spike_neuron"], axes[2], title="spikes of one test trial")


def comparison(tree, shown=None):
    """The figure of a comparison: learning curves, alignment, and one trial seen from inside."""
    import matplotlib.pyplot as plt

    rows = 2 if shown is not None else 1
    figure, axes = plt.subplots(rows, 3, figsize=(12, 3.4 * rows), squeeze=False, constrained_layout=True)
    learning_curves(tree, axes[0, 0])
    alignment(tree, axes[0, 1])
    alignment(tree, axes[0, 2], metric="relative_error")
    if shown is not None:
        activity(shown, axes[1])
    return figure
