"""Events of fixed length: plateaus and sodium spikes that a threshold starts and a timer ends, as on a neuromorphic
chip.

Below threshold a dendrite answers in proportion to its input; above, an NMDA plateau, a calcium spike or a sodium
spike of fixed length follows, whatever started it. The calcium spike needs an apical input together with a
back-propagating action potential.
Schemmel, Kriener, Mueller & Meier 2017, IJCNN, arXiv:1703.07286.
"""

from dataclasses import dataclass

import numpy as np
from brian2 import ms, nA

from localplast.models import plateau_cell
from localplast.show.plot import COLOURS, legend, style
from localplast.study.phenomenon import Finding, Phenomenon, labelled
from localplast.study.scan import Drive, events, pulses, scan, threshold, traces

__all__ = ["Conditions", "protocol", "windows"]

ONSET, PULSE, WIDTH = 50 * ms, 2 * nA, 5 * ms
#: Each dendrite with the channel of its event.
EVENTS = {"basal": "nmda", "apical": "ca", "oblique": "na"}
NAMES = ("NMDA plateau", "calcium spike", "sodium spike")


@dataclass(frozen=True)
class Conditions:
    """How many synapses are active at once, and when those of the apical dendrite against the onset of a somatic
    pulse.
    """

    synapses: tuple
    offsets: object
    dt: object


def windows(model):
    """When the current of each event flows, as times since the event in seconds: for every event a list of (from,
    to).
    """
    p = {name: float(value) for name, value in model.parameters.items()}
    rise, pause, fall = (p[f"{part}_na_oblique"] for part in ("rise", "pause", "fall"))
    return [
        [(0, p["duration_nmda_basal"])],
        [(0, p["duration_ca_apical"])],
        [(0, rise), (rise + pause, rise + pause + fall)],
    ]


def flows(age, parts, dt):
    """In which steps the current of an event flows, by its timer ``age`` (any shape, seconds); half a step is
    rounding.
    """
    return np.any([(age > start - dt / 2) & (age < end - dt / 2) for start, end in parts], axis=0)


def scanned(conditions, run):
    """Every number of synapses on every dendrite; then apical synapses with a somatic spike before or after."""
    return {"events": strengths(conditions, run), "coincidence": coincidences(conditions, run)}


def strengths(conditions, run):
    shape = (len(EVENTS), len(conditions.synapses))
    dendrite, column = np.unravel_index(np.arange(shape[0] * shape[1]), shape)
    counts, model = np.array(conditions.synapses)[column], plateau_cell()
    onto = {f"s_ampa_{name}": np.where(dendrite == number, counts, 0) for number, name in enumerate(EVENTS)}
    drive = Drive(onto, events(ONSET, duration=130 * ms, dt=conditions.dt))
    net, trials = scan(model, len(dendrite), [drive], dt=conditions.dt)
    membranes, timers = [f"v_{name}" for name in EVENTS], [f"age_{channel}_{name}" for name, channel in EVENTS.items()]
    record = run(net, trials, record=[f"cells.{name}" for name in ("v_soma", *membranes, *timers)])
    v, age = (own_dendrite(record, names, shape) for names in (membranes, timers))
    theta = np.array([float(model.parameters[f"theta_{channel}_{name}"]) for name, channel in EVENTS.items()])
    flowing = np.stack([flows(*each, float(conditions.dt)) for each in zip(age, windows(model), strict=True)])
    rest, dims = float(model.parameters["E_leak_soma"]), ("event", "synapses")
    return labelled(
        synapses=(("synapses",), np.array(conditions.synapses), "1"),
        peak=(dims, v.max(-1) - rest, "V"),
        somatic=(dims, traces(record, "v_soma").reshape(*shape, -1).max(-1) - rest, "V"),
        duration=(dims, flowing.sum(-1) * float(conditions.dt), "s"),
        above=(dims, (v > theta[:, None, None]).sum(-1) * float(conditions.dt), "s"),
        nominal=(("event",), [sum(end - start for start, end in parts) for parts in windows(model)], "s"),
        v=(("event", "synapses", "time"), v, "V"),
        time=(("time",), record["cells"]["time"].values, "s"),
    ).assign_attrs(events="; ".join(NAMES))


def own_dendrite(record, names, shape):
    """``(event, synapses, time)``: of each condition the variable of the dendrite that its synapses are on."""
    return np.stack([traces(record, name).reshape(*shape, -1)[number] for number, name in enumerate(names)])


def coincidences(conditions, run):
    """Calcium spikes by offset and number of apical synapses; the last row has no somatic pulse."""
    offsets, counts = conditions.offsets, np.array(conditions.synapses)
    shape = (len(offsets) + 1, len(counts))
    row, column = np.unravel_index(np.arange(shape[0] * shape[1]), shape)
    clock = dict(duration=ONSET + np.max(offsets) + 40 * ms, dt=conditions.dt)
    rasters = np.stack([events(ONSET + offset, **clock) for offset in (*offsets, 0 * ms)], 1)
    drives = [
        Drive({"I_soma": (row < len(offsets)) * PULSE}, pulses(ONSET, WIDTH, **clock)),
        Drive({"s_ampa_apical": counts[column]}, rasters, row),
    ]
    net, trials = scan(plateau_cell(), len(row), drives, dt=conditions.dt)
    record = run(net, trials, record=["cells.age_ca_apical"])
    calcium = (
        flows(traces(record, "age_ca_apical"), windows(plateau_cell())[1], float(conditions.dt)).any(-1).reshape(shape)
    )
    lowest = threshold(counts, calcium)
    return labelled(
        offset=(("offset",), offsets, "s"),
        synapses=(("synapses",), counts, "1"),
        calcium=(("offset", "synapses"), calcium[:-1], "1"),
        threshold=(("offset",), lowest[:-1], "1"),
        threshold_alone=(("alone",), lowest[-1:], "1"),
    )


def drawn(record):
    """Membranes below and above threshold, length and peak of the events against input, and the coincidence window."""
    import matplotlib.pyplot as plt

    found = record["events"].to_dataset()
    figure, axes = plt.subplots(2, 3, figsize=(12, 6.4), constrained_layout=True)
    for number, ax in enumerate(axes[0]):
        draw_membranes(found.isel(event=number), ax)
        style(ax, NAMES[number], "time (ms)", "dendrite (mV)")
    for number, (name, colour) in enumerate(zip(NAMES, COLOURS, strict=False)):
        one = found.isel(event=number)
        axes[1, 0].plot(found["synapses"], 1e3 * one["duration"], color=colour, marker=".", lw=1.3, label=name)
        axes[1, 0].axhline(1e3 * float(one["nominal"]), color=colour, lw=0.8, ls="--")
        axes[1, 1].plot(found["synapses"], 1e3 * one["peak"], color=colour, marker=".", lw=1.3, label=name)
    axes[1, 0].plot([], [], color="0.3", lw=0.8, ls="--", label="length of the timer")
    style(axes[1, 0], "length", "synapses", "current flows for (ms)")
    axes[1, 0].set_ylim(-2, 75)
    style(axes[1, 1], "all or none", "synapses", "dendritic peak above rest (mV)")
    draw_window(record["coincidence"].to_dataset(), axes[1, 2])
    for ax in axes[1]:
        legend(ax)
    return figure


def draw_membranes(one, ax):
    """Two inputs just below the threshold, and three above it, up to the strongest."""
    first = int(np.flatnonzero(one["duration"].values > 0).min(initial=one.sizes["synapses"] - 1))
    chosen = {
        max(first - 6, 0),
        max(first - 1, 0),
        first,
        (first + one.sizes["synapses"]) // 2,
        one.sizes["synapses"] - 1,
    }
    for number, colour in zip(sorted(chosen), COLOURS, strict=False):
        label = f"{int(one['synapses'][number])} synapses"
        ax.plot(1e3 * one["time"], 1e3 * one["v"][number], color=colour, lw=1.3, label=label)
    legend(ax)
    ax.set_xlim(45, 130)


def draw_window(found, ax):
    ax.plot(
        1e3 * found["offset"], found["threshold"], color=COLOURS[1], marker=".", lw=1.6, label="with a somatic spike"
    )
    ax.axhline(float(found["threshold_alone"][0]), color=COLOURS[1], lw=1, ls="-.", label="apical input alone")
    ax.set_ylim(0, 1.35 * float(found["threshold_alone"][0]))
    style(ax, "threshold of the calcium spike", "apical input after pulse onset (ms)", "apical synapses")


def found(record):
    found, window = record["events"].to_dataset(), record["coincidence"].to_dataset()
    source = "length of the timer: Schemmel et al. 2017"
    for number, name in enumerate(NAMES):
        one = found.isel(event=number)
        there, counts = one["duration"].values > 0, one["synapses"].values
        lengths = [1e3 * one[name].values[there] for name in ("duration", "above")]
        lasting = [f"{each.min():.2f} to {each.max():.2f}" if there.any() else "-" for each in lengths]
        timer = f"{1e3 * float(one['nominal']):.2f}"
        yield Finding(f"{name}: its current flows, over all inputs above threshold (ms)", lasting[0], timer, source)
        yield Finding(f"{name}: membrane above threshold (ms)", lasting[1], "-")
        lowest = float(threshold(counts, there))
        step = 1e3 * np.diff(one["peak"].values).max()
        what = f"{name}: threshold (synapses); largest step of the peak (mV)"
        yield Finding(what, f"{lowest:g}; {step:.1f}", "all or none", source)
    lowest, alone = window["threshold"].values, float(window["threshold_alone"][0])
    best = window["offset"].values[np.nanargmin(lowest)]
    paired = f"{alone:g}, {np.nanmin(lowest):g}"
    yield Finding(
        "calcium spike: threshold alone, and with a somatic spike at best (synapses)", paired, "lower", source
    )
    yield Finding("best offset of the apical input from the somatic pulse (ms)", 1e3 * best, "-")


protocol = Phenomenon(
    name="fixed-plateau",
    summary="Plateaus and sodium spikes of fixed length, all or none, and a calcium spike that needs a coincidence.",
    reference="Schemmel, Kriener, Mueller & Meier 2017, IJCNN, arXiv:1703.07286",
    build=Conditions,
    presets={
        # 1 to 60 synapses, offsets in steps of 2 ms: seconds.
        "quick": dict(synapses=(*range(1, 45), 50, 55, 60), offsets=np.arange(-20, 21, 2) * ms, dt=0.05 * ms),
        # 1 to 100 synapses, offsets in steps of 0.5 ms: a minute.
        "paper": dict(synapses=tuple(range(1, 101)), offsets=np.arange(-20, 20.1, 0.5) * ms, dt=0.05 * ms),
    },
    scanned=scanned,
    drawn=drawn,
    found=found,
)
