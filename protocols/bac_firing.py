"""BAC firing: a back-propagating action potential makes a small apical input enough for a calcium spike and a burst.

A somatic pulse alone gives one spike, an apical EPSC alone none, both together a burst, because the back-propagating
action potential lowers the threshold of the apical calcium zone for some milliseconds. Larkum, Zhu & Sakmann 1999,
Nature 398:338.
"""

from dataclasses import dataclass, field

import numpy as np
from brian2 import ms, nA, nS, pA

from localplast.models import pyramidal
from localplast.show.plot import COLOURS, legend, style
from localplast.study.phenomenon import Finding, Phenomenon, labelled
from localplast.study.scan import Drive, double_exponential, events, pulses, scan, spike_counts, threshold, traces

__all__ = ["Conditions", "halved", "protocol"]

#: Onset of the somatic pulse, or of the EPSC where it comes alone.
ONSET = 50 * ms
#: The pulse that makes one spike, its length (rheobase: the same), the EPSC that makes none, and how much later it
#: comes.
PULSE, WIDTH, EPSC, LATER = 2 * nA, 5 * ms, 0.9 * nA, 4 * ms
#: Synapses of the basal plateau that helps the soma.
PLATEAU_SYNAPSES = 40
TRIPLET = ("soma alone", "apical alone", "both", "apical alone, 1.2 × threshold")
RHEOBASE = ("basal uncoupled", "basal coupled", "basal plateau")
#: The same equations written by hand in Brian2, forward Euler, dt 0.05 ms, grid of 50 pA: offset (ms) to threshold
#: (pA).
BY_HAND = {-5: 950, -2: 700, 0: 600, 2: 550, 4: 550, 5: 600, 7: 750, 10: 1050, 15: 1450}
BY_HAND_ALONE = 1550
#: In pA, grid of 100 pA.
BY_HAND_RHEOBASE = (1700, 1800, 1600)
#: When Ledergerber & Larkum (2012, PLoS ONE 7:e33146, fig. 1) sent the EPSC: so long after the action potential.
PROTOCOL_2012 = 5 * ms


@dataclass(frozen=True)
class Conditions:
    """What is varied: EPSC onset against pulse onset, EPSC amplitude, amplitude of a somatic pulse (for the rheobase).

    ``model`` has the names of :func:`~localplast.models.pyramidal`, its default.
    """

    offsets: object
    amplitudes: object
    currents: object
    dt: object
    model: object = field(default_factory=pyramidal)


def scanned(conditions, run):
    """Coincidence curve, then the triplet with a plateau at 1.2 times the threshold found, then the rheobase."""
    coincidence = coincidences(conditions, run)
    alone = float(coincidence["threshold_alone"][0])
    return {
        "coincidence": coincidence,
        "triplet": triplet(conditions, alone, run),
        "rheobase": rheobase(conditions, run),
    }


def coincidences(conditions, run):
    """Spikes of every offset and amplitude, and without a pulse; the calcium spike shows as a second somatic spike."""
    offsets, amplitudes = conditions.offsets, conditions.amplitudes
    shape = (len(offsets) + 1, len(amplitudes))  # the last row has no pulse
    size, clock = shape[0] * shape[1], dict(duration=ONSET + np.max(offsets) + 45 * ms, dt=conditions.dt)
    row, column = np.unravel_index(np.arange(size), shape)
    onsets = [*(ONSET + offset for offset in offsets), ONSET]
    waves = np.stack([double_exponential(onset, rise=0.5 * ms, decay=5 * ms, **clock) for onset in onsets], 1)
    drives = [
        Drive({"I_soma": (row < len(offsets)) * PULSE}, pulses(ONSET, WIDTH, **clock)),
        Drive({"I_apical": amplitudes[column]}, waves, row),
    ]
    net, trials = scan(conditions.model, size, drives, dt=conditions.dt, parameters={"g_soma_basal": 0 * nS})
    spikes = spike_counts(run(net, trials, record=["cells.spikes"]), size).reshape(shape)
    lowest = threshold(np.asarray(amplitudes), spikes >= 2)
    return labelled(
        offset=(("offset",), offsets, "s"),
        amplitude=(("amplitude",), amplitudes, "A"),
        spikes=(("offset", "amplitude"), spikes[:-1], "1"),
        spikes_alone=(("amplitude",), spikes[-1], "1"),
        threshold=(("offset",), lowest[:-1], "A"),
        threshold_alone=(("alone",), lowest[-1:], "A"),
    )


def triplet(conditions, alone, run):
    """Membranes of the conditions of TRIPLET; ``alone`` is the threshold of the EPSC in ampere."""
    clock = dict(duration=150 * ms, dt=conditions.dt)
    onsets, wave = [ONSET + LATER, ONSET], np.array([0, 0, 0, 1])
    waves = np.stack([double_exponential(onset, rise=0.5 * ms, decay=5 * ms, **clock) for onset in onsets], 1)
    drives = [
        Drive({"I_soma": np.array([1, 0, 1, 0]) * PULSE}, pulses(ONSET, WIDTH, **clock)),
        Drive({"I_apical": np.array([0, float(EPSC), float(EPSC), 1.2 * alone])}, waves, wave),
    ]
    net, trials = scan(conditions.model, len(TRIPLET), drives, dt=conditions.dt, parameters={"g_soma_basal": 0 * nS})
    record = run(net, trials, record=["cells.spikes", "cells.v_soma", "cells.v_apical"])
    apical, half = traces(record, "v_apical"), float(conditions.model.parameters["half_ca_apical"])
    node = record["cells"]
    dims = ("condition", "time")
    found = labelled(
        time=(("time",), node["time"].values, "s"),
        v_soma=(dims, traces(record, "v_soma"), "V"),
        v_apical=(dims, apical, "V"),
        spikes=(("condition",), spike_counts(record, len(TRIPLET)), "1"),
        v_apical_max=(("condition",), apical.max(1), "V"),
        plateau=(("condition",), (apical > half).sum(1) * float(conditions.dt), "s"),
        spike_time=(("spike",), node["spike_time"].values, "s"),
        spike_condition=(("spike",), node["spike_neuron"].values, "1"),
    )
    return found.assign_attrs(conditions="; ".join(TRIPLET))


def rheobase(conditions, run):
    """The lowest somatic pulse that makes a spike, with the basal branch cut off, at rest, and held up by its
    synapses.
    """
    currents, model = conditions.currents, conditions.model
    shape = (len(RHEOBASE), len(currents))
    setting, column = np.unravel_index(np.arange(shape[0] * shape[1]), shape)
    clock = dict(duration=ONSET + 30 * ms, dt=conditions.dt)
    synapses = np.where(setting == 2, PLATEAU_SYNAPSES, 0)
    drives = [
        Drive({"I_soma": currents[column]}, pulses(ONSET, WIDTH, **clock)),
        Drive({"s_ampa_basal": synapses, "s_nmda_basal": synapses}, events(ONSET, **clock)),
    ]
    coupled = (setting > 0) * model.parameters["g_soma_basal"]
    net, trials = scan(model, len(setting), drives, dt=conditions.dt, parameters={"g_soma_basal": coupled})
    spikes = spike_counts(run(net, trials, record=["cells.spikes"]), len(setting)).reshape(shape)
    found = labelled(
        current=(("current",), currents, "A"),
        spikes=(("setting", "current"), spikes, "1"),
        rheobase=(("setting",), threshold(np.asarray(currents), spikes >= 1), "A"),
    )
    return found.assign_attrs(settings="; ".join(RHEOBASE))


def halved(offsets, lowest, alone):
    """Between which offsets the threshold is at most half of that without a pulse: seconds from the first to the last.

    ``offsets``, ``lowest`` ``(offset,)``; NaN where it never is.
    """
    within = offsets[lowest <= alone / 2]
    return float(np.ptp(within)) if len(within) else np.nan


def drawn(record):
    """Membranes of the triplet above, the coincidence window and the rheobase below."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplot_mosaic("abc;ddr", figsize=(11, 6.2), constrained_layout=True)
    for number, name in enumerate("abc"):
        draw_membranes(record["triplet"].to_dataset(), number, axes[name])
    legend(axes["a"], loc="upper right")
    draw_window(record, axes["d"])
    draw_rheobase(record["rheobase"].to_dataset(), axes["r"])
    return figure


def draw_membranes(found, number, ax):
    for variable, colour in zip(("v_soma", "v_apical"), COLOURS, strict=False):
        ax.plot(1e3 * found["time"], 1e3 * found[variable][number], color=colour, lw=1.3, label=variable[2:])
    mine = found["spike_time"].values[found["spike_condition"].values == number]
    ax.plot(1e3 * mine, np.full(len(mine), 15.0), "|", color="0.2", ms=9, label="somatic spikes")
    ax.set(xlim=(45, 110), ylim=(-85, 22))
    style(ax, TRIPLET[number], "time (ms)", "membrane (mV)")


def draw_window(record, ax):
    found, spikes = record["coincidence"].to_dataset(), record["triplet"]["spike_time"].values
    potential = 1e3 * (spikes.min() - float(ONSET))
    ax.plot(
        1e3 * found["offset"],
        1e9 * found["threshold"],
        color=COLOURS[0],
        marker=".",
        lw=1.6,
        label="with a somatic spike",
    )
    ax.axhline(1e9 * float(found["threshold_alone"][0]), color=COLOURS[0], lw=1, ls="-.", label="EPSC alone")
    hand = np.array(list(BY_HAND.values())) / 1e3
    ax.plot(list(BY_HAND), hand, "o", mfc="none", color="0.3", label="same equations by hand in Brian2")
    ax.axvline(potential, color="0.7", lw=0.8, label="action potential")
    ax.axvline(
        potential + float(PROTOCOL_2012 / ms),
        color=COLOURS[1],
        lw=1,
        ls="--",
        label="EPSC 5 ms after it, as Ledergerber & Larkum 2012",
    )
    ax.set_ylim(0, 1.25e9 * float(found["threshold_alone"][0]))
    legend(ax, loc="lower right", ncols=2)
    style(ax, "threshold of the calcium spike", "EPSC onset after pulse onset (ms)", "EPSC peak (nA)")


def draw_rheobase(found, ax):
    ax.bar(range(len(RHEOBASE)), 1e9 * found["rheobase"].values, color=COLOURS[0], width=0.6)
    ax.plot(range(len(RHEOBASE)), np.array(BY_HAND_RHEOBASE) / 1e3, "o", mfc="none", color="0.3")
    ax.set_xticks(range(len(RHEOBASE)), [name.replace(" ", "\n", 1) for name in RHEOBASE])
    ax.set_ylim(0, 2.2)
    style(ax, "rheobase, pulse of 5 ms", "", "somatic current (nA)")


def found(record):
    window, trio = record["coincidence"].to_dataset(), record["triplet"].to_dataset()
    lowest, alone = window["threshold"].values, float(window["threshold_alone"][0])
    width = halved(window["offset"].values, lowest, alone)
    hand = "by hand in Brian2, same equations"
    times = 1e3 * trio["spike_time"].values[trio["spike_condition"].values == 2]
    yield Finding("threshold of the calcium spike, EPSC alone (pA)", 1e12 * alone, BY_HAND_ALONE, hand)
    yield Finding("lowest threshold with a somatic spike (pA)", 1e12 * np.nanmin(lowest), min(BY_HAND.values()), hand)
    yield Finding("drop of the threshold (%)", 100 * (1 - np.nanmin(lowest) / alone), 65, hand)
    yield Finding("window in which the threshold is halved (ms)", 1e3 * width, "about 9", hand)
    yield Finding("same", 1e3 * width, "several", "Larkum, Zhu & Sakmann 1999, Nature 398:338")
    yield Finding(
        "spikes: soma alone, apical alone, both", "{}, {}, {}".format(*trio["spikes"].values[:3]), "1, 0, burst", "same"
    )
    yield Finding("spike times, both (ms)", ", ".join(f"{t:.2f}" for t in times), "54.10, 66.45", hand)
    yield Finding("calcium plateau at 1.2 × threshold (ms)", 1e3 * float(trio["plateau"][3]), 33, hand)
    for name, current, literature in zip(
        RHEOBASE, record["rheobase"]["rheobase"].values, BY_HAND_RHEOBASE, strict=True
    ):
        yield Finding(f"rheobase, {name} (pA)", 1e12 * current, literature, hand)


protocol = Phenomenon(
    name="bac-firing",
    summary="Somatic spike and apical input together make a burst; the window in which they meet.",
    reference="Larkum, Zhu & Sakmann 1999, Nature 398:338; cell: Naud & Sprekeler 2018, PNAS 115:E6329",
    build=Conditions,
    presets={
        # The nine offsets and the grids of the values that the tests hold: some seconds.
        "quick": dict(
            offsets=np.array(list(BY_HAND)) * ms,
            amplitudes=np.arange(400, 1651, 50) * pA,
            currents=np.arange(1000, 2501, 100) * pA,
            dt=0.05 * ms,
        ),
        # Every millisecond from -20 to 20 ms, steps of 10 pA: half a minute.
        "paper": dict(
            offsets=np.arange(-20, 21) * ms,
            amplitudes=np.arange(400, 1701, 10) * pA,
            currents=np.arange(1500, 1901, 10) * pA,
            dt=0.05 * ms,
        ),
    },
    scanned=scanned,
    drawn=drawn,
    found=found,
)
