"""The critical frequency: somatic spikes that follow each other fast enough make a calcium spike in the apical
dendrite.

Back-propagating action potentials sum up in the calcium zone. Five somatic pulses elicit them; above a frequency of
about 100 Hz the dendrite answers with a spike of its own. Larkum, Kaiser & Sakmann 1999, PNAS 96:14600.
"""

from dataclasses import dataclass, field

import numpy as np
from brian2 import Hz, ms, mV, nA, nS

from localplast.models import pyramidal
from localplast.show.plot import COLOURS, legend, style
from localplast.study.phenomenon import Finding, Phenomenon, labelled
from localplast.study.scan import Drive, pulses, scan, spike_counts, traces

__all__ = ["Conditions", "protocol"]

ONSET, PULSES, PULSE, WIDTH = 50 * ms, 5, 5 * nA, 2 * ms
#: A calcium spike depolarises the dendrite beyond this; the last train without one stays 15 mV below, the first comes 9
#: mV above.
SPIKE = -20 * mV
#: Mean and standard error; "varying between 60 and 200 Hz in different neurons". Larkum, Kaiser & Sakmann 1999.
MEASURED, RANGE = (98, 6), (60, 200)
#: Trains of this frequency fail, and make a calcium spike, in the detailed model of Hay et al. 2011, PLoS Comput Biol
#: 7:e1002107.
DETAILED_MODEL = (70, 120)


@dataclass(frozen=True)
class Conditions:
    """The frequencies of the trains; ``model`` has the names of :func:`~localplast.models.pyramidal`, its default."""

    frequencies: object
    dt: object
    model: object = field(default_factory=pyramidal)


def scanned(conditions, run):
    """One train of pulses per frequency; the peak that each makes in the apical dendrite, and the membranes."""
    frequencies, size = conditions.frequencies, len(conditions.frequencies)
    clock = dict(duration=ONSET + (PULSES - 1) / np.min(frequencies) + 60 * ms, dt=conditions.dt)
    waves = np.stack([pulses(ONSET + np.arange(PULSES) / frequency, WIDTH, **clock) for frequency in frequencies], 1)
    drive = Drive({"I_soma": PULSE}, waves, np.arange(size))
    net, trials = scan(conditions.model, size, [drive], dt=conditions.dt, parameters={"g_soma_basal": 0 * nS})
    record = run(net, trials, record=["cells.spikes", "cells.v_apical"])
    apical = traces(record, "v_apical")
    found = labelled(
        frequency=(("frequency",), frequencies, "Hz"),
        time=(("time",), record["cells"]["time"].values, "s"),
        v_apical=(("frequency", "time"), apical, "V"),
        peak=(("frequency",), apical.max(1), "V"),
        spikes=(("frequency",), spike_counts(record, size), "1"),
    )
    return {"trains": found}


def switch(found):
    """``(last, first)`` frequency without and with a calcium spike, Hz; infinite where the scan has no such train."""
    spiked, frequencies = found["peak"].values > float(SPIKE), found["frequency"].values
    return frequencies[~spiked].max(initial=-np.inf), frequencies[spiked].min(initial=np.inf)


def drawn(record):
    """Peaks against frequency, and the membranes of the trains on both sides of the switch."""
    import matplotlib.pyplot as plt

    found = record["trains"].to_dataset()
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True)
    axes[0].axvspan(
        MEASURED[0] - MEASURED[1], MEASURED[0] + MEASURED[1], color="0.85", lw=0, label="Larkum et al. 1999: 98 ± 6 Hz"
    )
    for frequency, line, word in zip(DETAILED_MODEL, (":", "--"), ("no spike", "spike"), strict=True):
        axes[0].axvline(frequency, color=COLOURS[1], lw=1, ls=line, label=f"Hay et al. 2011: {frequency} Hz, {word}")
    axes[0].plot(found["frequency"], 1e3 * found["peak"], color=COLOURS[0], marker="o", lw=1.6, label="reduced cell")
    legend(axes[0], loc="upper left")
    axes[0].set_ylim(-45, 30)
    style(axes[0], "five somatic spikes", "frequency of the train (Hz)", "apical peak (mV)")
    for frequency, colour in zip(switch(found), COLOURS, strict=False):
        if np.isfinite(frequency):
            train = found["v_apical"].sel(frequency=frequency)
            axes[1].plot(1e3 * found["time"], 1e3 * train, color=colour, lw=1.3, label=f"{frequency:g} Hz")
    legend(axes[1])
    style(axes[1], "on both sides of the critical frequency", "time (ms)", "apical membrane (mV)")
    return figure


def found(record):
    trains = record["trains"].to_dataset()
    last, first = switch(trains)
    paper = "Larkum, Kaiser & Sakmann 1999, PNAS 96:14600"
    yield Finding("critical frequency (Hz)", f"between {last:g} and {first:g}", "{} ± {}".format(*MEASURED), paper)
    yield Finding("same", f"between {last:g} and {first:g}", "{} to {}, by neuron".format(*RANGE), paper)
    detailed = "model of Hay et al. 2011, PLoS Comput Biol 7:e1002107"
    yield Finding("same", f"between {last:g} and {first:g}", "between {} and {}".format(*DETAILED_MODEL), detailed)
    for frequency in filter(np.isfinite, (last, first)):
        train = trains.sel(frequency=frequency)
        yield Finding(
            f"apical peak at {frequency:g} Hz, {int(train['spikes'])} somatic spikes (mV)",
            1e3 * float(train["peak"]),
            "-",
        )


protocol = Phenomenon(
    name="critical-frequency",
    summary="A train of somatic spikes above a critical frequency makes a calcium spike in the apical dendrite.",
    reference="Larkum, Kaiser & Sakmann 1999, PNAS 96:14600; cell: Naud & Sprekeler 2018, PNAS 115:E6329",
    build=Conditions,
    presets={
        # 60 to 120 Hz in steps of 10 Hz: seconds.
        "quick": dict(frequencies=np.arange(60, 121, 10) * Hz, dt=0.05 * ms),
        # 40 to 200 Hz in steps of 1 Hz.
        "paper": dict(frequencies=np.arange(40, 201) * Hz, dt=0.05 * ms),
    },
    scanned=scanned,
    drawn=drawn,
    found=found,
)
