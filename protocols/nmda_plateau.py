"""NMDA plateaus: what synapses on one branch add up to, against how many of them are active at once.

Few synapses sum up nearly linearly; from some number on the branch stays depolarised for as long as enough receptors
are open, and its plateau grows longer with the logarithm of the number, by ``tau_nmda*ln(n2/n1)``, while its
amplitude hardly grows. With the gate of Jahr & Stevens every synapse adds less than the one before, and the end of a
plateau is no edge. Schiller et al. 2000, Nature 404:285; Major et al. 2008, J Neurophysiol 99:2584.
"""

from dataclasses import dataclass, field

import numpy as np
from brian2 import ms, mV

from localplast.errors import LocalplastError
from localplast.models import pyramidal
from localplast.neuron.channels import HIPPOCAMPAL, JAHR_STEVENS
from localplast.show.plot import COLOURS, legend, style
from localplast.study.phenomenon import Finding, Phenomenon, labelled
from localplast.study.scan import Drive, blocks, events, scan, spike_counts, traces

__all__ = ["Conditions", "protocol"]

ONSET = 50 * ms
#: The plateau lasts while the branch is above this.
PLATEAU = -40 * mV
GATES = {"Pagkalos et al. 2023 (default)": HIPPOCAMPAL, "Jahr & Stevens 1990": JAHR_STEVENS}
#: The same equations by hand in Brian2, forward Euler, dt 0.05 ms: synapses to local and somatic peak (mV) and duration
#: (ms).
BY_HAND = {
    10: (13.8, 1.2, 0.0),
    20: (26.9, 2.4, 0.0),
    24: (32.8, 3.2, 7.3),
    28: (39.4, 4.3, 19.7),
    32: (45.7, 5.4, None),
    40: (53.2, 6.6, 47.6),
    60: (60.6, 7.8, 73.2),
}
#: Between which numbers of synapses the duration is held against the logarithm.
BETWEEN = (40, 60)
#: Of spikes and plateaus at the soma, from distal to proximal inputs, in mV: Major et al. 2008.
SOMATIC = (3, 23)


@dataclass(frozen=True)
class Conditions:
    """How many synapses are active at once; the membranes of ``shown`` are kept.

    ``model`` has the names of :func:`~localplast.models.pyramidal`, its default.
    """

    synapses: tuple
    shown: tuple
    dt: object
    model: object = field(default_factory=pyramidal)

    def __post_init__(self):
        if strangers := sorted(set(self.shown) - set(self.synapses)):
            raise LocalplastError(
                f"shown is a choice of synapses, {', '.join(map(str, self.synapses))}; given {strangers}"
            )


def scanned(conditions, run):
    """Every gate with every number of synapses, all in one population."""
    counts, shape = np.array(conditions.synapses), (len(GATES), len(conditions.synapses))
    gate, column = np.unravel_index(np.arange(shape[0] * shape[1]), shape)
    model = conditions.model
    volley = events(ONSET, duration=250 * ms, dt=conditions.dt)
    drive = Drive({"s_ampa_basal": counts[column], "s_nmda_basal": counts[column]}, volley)
    net, trials = scan(model, len(gate), [drive], dt=conditions.dt, parameters=blocks(GATES, gate, "basal"))
    record = run(net, trials, record=["cells.spikes", "cells.v_soma", "cells.v_basal"])
    basal, soma = (traces(record, name).reshape(*shape, -1) for name in ("v_basal", "v_soma"))
    rest, dims = float(model.parameters["E_leak_basal"]), ("gate", "synapses")
    kept = [conditions.synapses.index(count) for count in conditions.shown]
    found = labelled(
        synapses=(("synapses",), counts, "1"),
        local=(dims, basal.max(-1) - rest, "V"),
        somatic=(dims, soma.max(-1) - rest, "V"),
        duration=(dims, (basal > float(PLATEAU)).sum(-1) * float(conditions.dt), "s"),
        spikes=(dims, spike_counts(record, len(gate)).reshape(shape), "1"),
        shown=(("shown",), list(conditions.shown), "1"),
        v_basal=(("gate", "shown", "time"), basal[:, kept], "V"),
        time=(("time",), record["cells"]["time"].values, "s"),
        tau=(("constant",), [float(model.parameters["tau_nmda_basal"])], "s"),
    )
    return {"synapses": found.assign_attrs(gates="; ".join(GATES))}


def drawn(record):
    """Peaks and durations against the number of synapses, and membranes with and without a plateau."""
    import matplotlib.pyplot as plt

    found = record["synapses"].to_dataset()
    figure, axes = plt.subplots(2, 2, figsize=(10, 6.6), constrained_layout=True)
    for panel, (variable, column, scale) in enumerate((("local", 0, 1e3), ("somatic", 1, 1e3), ("duration", 2, 1e3))):
        draw_against_synapses(found, variable, column, scale, axes.flat[panel])
    axes[0, 1].axhspan(*SOMATIC, color="0.9", lw=0, zorder=0, label="Major et al. 2008: 3 to 23 mV")
    draw_logarithm(found, axes[1, 0])
    style(axes[0, 0], "peak in the branch", "synapses", "above rest (mV)")
    style(axes[0, 1], "peak at the soma", "synapses", "above rest (mV)")
    style(axes[1, 0], f"time above {PLATEAU / mV:g} mV", "synapses", "duration (ms)")
    for number, count in enumerate(found["shown"].values):
        for gate, line in enumerate(("-", ":")):
            label = f"{count} synapses" if gate == 0 else None
            v = 1e3 * found["v_basal"][gate, number]
            axes[1, 1].plot(1e3 * found["time"], v, color=COLOURS[number], ls=line, lw=1.3, label=label)
    style(axes[1, 1], "branch (dotted: Jahr & Stevens)", "time (ms)", "membrane (mV)")
    for ax, where in zip(axes.flat, ("lower right", "upper left", "upper left", "upper right"), strict=True):
        legend(ax, loc=where)
    return figure


def draw_against_synapses(found, variable, column, scale, ax):
    for gate, (name, colour) in enumerate(zip(GATES, COLOURS, strict=False)):
        ax.plot(found["synapses"], scale * found[variable][gate], color=colour, lw=1.6, label=name)
    hand = {count: row[column] for count, row in BY_HAND.items() if row[column] is not None}
    ax.plot(list(hand), list(hand.values()), "o", mfc="none", color="0.3", label="by hand in Brian2")


def draw_logarithm(found, ax):
    """The line that a plateau of fixed height follows, through the measured duration at the lower end of BETWEEN."""
    counts = found["synapses"].values.astype(float)
    counts = counts[counts >= BETWEEN[0]]
    start = float(found["duration"][0].sel(synapses=BETWEEN[0]))
    law = start + float(found["tau"][0]) * np.log(counts / BETWEEN[0])
    ax.plot(counts, 1e3 * law, color="k", ls="--", lw=1, label=f"$\\tau$ ln(n/{BETWEEN[0]})")


def found(record):
    measured = record["synapses"].to_dataset().isel(gate=0)
    hand = "by hand in Brian2, same equations"
    for count in sorted(set(BY_HAND) & set(measured["synapses"].values.tolist())):
        row = measured.sel(synapses=count)
        values = [1e3 * float(row[name]) for name in ("local", "somatic", "duration")]
        literature = " / ".join("-" if value is None else f"{value:g}" for value in BY_HAND[count])
        what = f"{count} synapses: local (mV) / somatic (mV) / duration (ms)"
        yield Finding(what, " / ".join(f"{v:.3g}" for v in values), literature, hand)
    somatic = "{:.1f} to {:.1f}".format(*(1e3 * float(measured["somatic"].sel(synapses=count)) for count in BETWEEN))
    yield Finding(
        "plateau at the soma, 40 to 60 synapses (mV)", somatic, "{} to {}".format(*SOMATIC), "Major et al. 2008"
    )
    longer = float(np.diff(measured["duration"].sel(synapses=list(BETWEEN)))[0])
    law = 1e3 * float(measured["tau"][0]) * np.log(BETWEEN[1] / BETWEEN[0])
    yield Finding("plateau of 60 synapses longer than that of 40 by (ms)", 1e3 * longer, law, "tau ln(60/40)")
    yield Finding("somatic spikes", int(measured["spikes"].sum()), 0, hand)
    growth = [growth_beyond_first(record["synapses"].to_dataset().isel(gate=number)) for number in range(len(GATES))]
    yield Finding(
        "most that a synapse adds, over what the first adds: default / Jahr & Stevens",
        "{:.2f} / {:.2f}".format(*growth),
        "above 1 / 1",
        "supralinear only with a plateau",
    )


def growth_beyond_first(measured):
    """The largest slope of the local peak against the number of synapses, over the first: 1 where nothing is
    supralinear.
    """
    slope = np.diff(measured["local"].values) / np.diff(measured["synapses"].values)
    return slope.max() / slope[0]


protocol = Phenomenon(
    name="nmda-plateau",
    summary="Amplitude and duration of the answer of a basal branch against the number of synapses active at once.",
    reference="Schiller et al. 2000, Nature 404:285; Major et al. 2008, J Neurophysiol 99:2584",
    build=Conditions,
    presets={
        # A dozen numbers of synapses: seconds.
        "quick": dict(
            synapses=(1, 5, 10, 15, 20, 24, 26, 28, 30, 32, 36, 40, 50, 60), shown=(20, 28, 40, 60), dt=0.05 * ms
        ),
        # Every number up to 80.
        "paper": dict(synapses=tuple(range(1, 81)), shown=(20, 28, 40, 60), dt=0.05 * ms),
    },
    scanned=scanned,
    drawn=drawn,
    found=found,
)
