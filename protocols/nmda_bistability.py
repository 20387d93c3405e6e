"""NMDA bistability: a dendritic branch that stays depolarised in a drive that could not have depolarised it.

The steady states come from a root finder (:mod:`localplast.analysis.bistability`), and a slow ramp of the drive, up
and down, shows the hysteresis in simulation. The block has to be steep enough: with the gate of Jahr & Stevens (1990)
nothing is bistable at -70 mV. Schiller & Schiller 2001, Curr Opin Neurobiol 11:343; Major, Larkum & Schiller 2013,
Annu Rev Neurosci 36:1.
"""

from dataclasses import dataclass

import numpy as np
from brian2 import ms, mV, nS, pF

from localplast.analysis.bistability import Branch, critical_slope
from localplast.neuron import Compartment, cell
from localplast.neuron.channels import HIPPOCAMPAL, JAHR_STEVENS, nmda
from localplast.show.plot import COLOURS, legend, style
from localplast.study.phenomenon import Finding, Phenomenon, labelled
from localplast.study.scan import Drive, blocks, scan, traces

__all__ = ["Conditions", "branch", "protocol"]

#: Gates by name.
GATES = {
    "Jahr & Stevens 1990": JAHR_STEVENS,
    "slope 0.08": {"alpha": 0.08 / mV, "beta": 3.57, "gamma": 0 * mV},
    "Pagkalos et al. 2023 (default)": HIPPOCAMPAL,
}
#: What the static equation gives, solved apart from this library: lowest and highest bistable drive.
KNOWN = {"slope 0.08": (5.44, 6.56), "Pagkalos et al. 2023 (default)": (3.44, 4.11)}
KNOWN_KNEES = {"slope 0.08": (-52.4, -28.8), "Pagkalos et al. 2023 (default)": (-53.9, -32.3)}
#: Critical slope per mV by shift of the gate (mV), at leaks of -80, -75, -70 and -65 mV; solved apart, too.
LEAKS, KNOWN_SLOPES = (-80, -75, -70, -65), {0: (0.0617, 0.0658, 0.0705, 0.0759), 10: (0.0666, 0.0715, 0.0771, 0.0837)}
LEAK, CAPACITANCE, REST = 2.5 * nS, 2.5 * pF, -70 * mV


@dataclass(frozen=True)
class Conditions:
    """A ramp of the drive from 0 to ``highest`` and back, each in the time ``ramp``."""

    highest: float
    ramp: object
    dt: object


def branch(*, gate=HIPPOCAMPAL, Mg=1.0):
    """A branch with a leak and NMDA receptors, which stay open: ``s_nmda_branch`` is the drive, g_nmda/g_leak.

    Its membrane follows in 1 ms, so that the time a simulation needs is that of its ramp.
    """
    receptors = nmda(g=LEAK, tau=1e9 * ms, Mg=Mg, **gate)
    return cell("branch", Compartment("branch", C=CAPACITANCE, g_leak=LEAK, E_leak=REST, channels=[receptors]))


def scanned(conditions, run):
    """Static curves, hysteresis loops of every gate in one population, and critical slopes."""
    return {"static": static(conditions.highest), "loop": loops(conditions, run), "slope": slopes()}


def static(highest):
    v = np.linspace(float(REST), -1e-3, 400)
    branches = [Branch(gate, REST) for gate in GATES.values()]
    knees = np.full((len(GATES), 2), np.nan)
    drives = knees.copy()
    for number, each in enumerate(branches):
        if each.drives:
            knees[number], drives[number] = np.asarray(each.knees), each.drives[::-1]
    drive = np.stack([each.drive(v) for each in branches])
    return labelled(
        v=(("v",), v, "V"),
        drive=(("gate", "v"), np.where(drive < 1.2 * highest, drive, np.nan), "1"),
        knee=(("gate", "side"), knees, "V"),
        drive_at_knee=(("gate", "side"), drives, "1"),
    ).assign_attrs(gates="; ".join(GATES), sides="up (rising drive); down (falling drive)")


def loops(conditions, run):
    """Every step adds to the drive, or takes away: spikes on each step, of two channels in turn."""
    steps, ramp = round(float(conditions.ramp / conditions.dt)), conditions.highest
    up = np.arange(2 * steps) < steps
    raster = np.stack([up, ~up], 1)
    drives = [Drive({"s_nmda_branch": sign * ramp / steps}, raster[:, [number]]) for number, sign in enumerate((1, -1))]
    net, trials = scan(
        branch(), len(GATES), drives, dt=conditions.dt, parameters=blocks(GATES, np.arange(len(GATES)), "branch")
    )
    record = run(net, trials, record=["cells.v_branch", "cells.s_nmda_branch"], every=max(1, steps // 1000))
    return labelled(
        v=(("gate", "time"), traces(record, "v_branch"), "V"),
        drive=(("gate", "time"), traces(record, "s_nmda_branch"), "1"),
        time=(("time",), record["cells"]["time"].values, "s"),
        ramp=(("constant",), [float(conditions.ramp)], "s"),
    )


def slopes():
    found = [
        [float(critical_slope(gamma=shift * mV, E_leak=leak * mV) * mV) for leak in LEAKS] for shift in KNOWN_SLOPES
    ]
    return labelled(
        leak=(("leak",), np.array(LEAKS) * mV, "V"),
        shift=(("shift",), np.array(list(KNOWN_SLOPES)) * mV, "V"),
        critical=(("shift", "leak"), found, "1/mV"),
    )


def jumps(record):
    """Drives at which the simulated branch jumps up, and falls, ``(gate, 2)``: where v changes most; NaN without
    knees.
    """
    loop = record["loop"].to_dataset()
    rising = loop["time"].values < float(loop["ramp"][0])
    result = np.full((loop.sizes["gate"], 2), np.nan)
    for gate in np.flatnonzero(np.isfinite(record["static"]["knee"].values[:, 0])):
        for side, part in enumerate((rising, ~rising)):
            v, drive = loop["v"].values[gate, part], loop["drive"].values[gate, part]
            result[gate, side] = drive[np.abs(np.diff(v)).argmax()]
    return result


def drawn(record):
    """Steady states with the loop of the simulation, gate by gate, and the critical slope against the leak."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(GATES) + 1, figsize=(14, 3.6), constrained_layout=True)
    for number, (name, ax) in enumerate(zip(GATES, axes, strict=False)):
        draw_states(record, number, ax)
        style(ax, name, "drive g_nmda/g_tot", "membrane (mV)")
    legend(axes[0], loc="lower right")
    draw_slopes(record["slope"].to_dataset(), axes[-1])
    return figure


def draw_states(record, number, ax):
    still, loop = record["static"].to_dataset().isel(gate=number), record["loop"].to_dataset().isel(gate=number)
    rising = loop["time"].values < float(loop["ramp"][0])
    ax.plot(still["drive"], 1e3 * still["v"], color="0.75", lw=4, label="steady states (root finding)")
    for part, colour, label in ((rising, COLOURS[0], "drive rising"), (~rising, COLOURS[1], "drive falling")):
        ax.plot(loop["drive"][part], 1e3 * loop["v"][part], color=colour, lw=1.3, label=label)
    for drive in KNOWN.get(list(GATES)[number], ()):
        ax.axvline(
            drive, color="0.3", lw=0.8, ls="--", label=None if drive > KNOWN["slope 0.08"][0] else "solved apart"
        )
    ax.plot(still["drive_at_knee"], 1e3 * still["knee"], "ko", ms=4, label="knees")


def draw_slopes(found, ax):
    for shift, colour in zip(found["shift"].values, COLOURS, strict=False):
        label = f"shift {1e3 * shift:g} mV"
        ax.plot(1e3 * found["leak"], found["critical"].sel(shift=shift), color=colour, marker=".", lw=1.6, label=label)
    gates = {
        "Jahr & Stevens 1990: 0.062": (0.062, ":"),
        "Polsky et al. 2009: 0.08": (0.08, "--"),
        "default: 0.087": (0.087, "-."),
    }
    for name, (slope, line) in gates.items():
        ax.axhline(slope, color="0.5", lw=1, ls=line, label=name)
    legend(ax, loc="upper left")
    ax.set_ylim(0.058, 0.105)
    style(ax, "bistable above the line", "reversal potential of the leak (mV)", "slope of the block (1/mV)")


def found(record):
    still, simulated, apart = record["static"].to_dataset(), jumps(record), "solved apart from this library"
    for number, name in enumerate(GATES):
        knees, drives = 1e3 * still["knee"].values[number], still["drive_at_knee"].values[number]
        known = "({}, {})".format(*KNOWN[name]) if name in KNOWN else "none"
        range_ = "({1:.2f}, {0:.2f})".format(*drives) if np.isfinite(drives).all() else "none"
        yield Finding(f"{name}: bistable drives", range_, known, apart)
        if np.isfinite(knees).all():
            yield Finding(
                f"{name}: knees (mV)", "{:.1f}, {:.1f}".format(*knees), "{}, {}".format(*KNOWN_KNEES[name]), apart
            )
            yield Finding(
                f"{name}: drives at which the simulated branch falls, and jumps up",
                "({1:.2f}, {0:.2f})".format(*simulated[number]),
                known,
                "outside the range, by as much as the ramp is fast",
            )
    for (shift, known), row in zip(KNOWN_SLOPES.items(), record["slope"]["critical"].values, strict=True):
        found, published = (" / ".join(f"{value:.4f}" for value in values) for values in (row, known))
        yield Finding(
            f"critical slope (1/mV), shift {shift} mV, leak -80 / -75 / -70 / -65 mV", found, published, apart
        )


protocol = Phenomenon(
    name="nmda-bistability",
    summary="Steady states, knees and hysteresis of a branch with NMDA receptors, and how steep their block must be.",
    reference="Schiller & Schiller 2001, Curr Opin Neurobiol 11:343; Jahr & Stevens 1990, J Neurosci 10:3178",
    build=Conditions,
    presets={
        # A ramp of 400 membrane time constants: seconds.
        "quick": dict(highest=8.0, ramp=400 * ms, dt=0.05 * ms),
        # A ramp ten times as slow.
        "paper": dict(highest=8.0, ramp=4000 * ms, dt=0.05 * ms),
    },
    scanned=scanned,
    drawn=drawn,
    found=found,
)
