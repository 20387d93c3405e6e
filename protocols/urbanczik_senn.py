"""Dendritic prediction of somatic spiking: while a teacher moves the soma, the dendrite learns to foretell it from
its inputs.

A frozen pattern of 200 Poisson inputs comes again and again; conductances on the soma pull it to the *matching
potential* ``U_M``. Urbanczik & Senn 2014, Neuron 81:521, fig. 1B; numbers as in NEST's ``urbanczik_synapse_example``.
"""

import numpy as np
import xarray as xr
from brian2 import Hz, ms, mV, pA, pF

from localplast.learning.optimise import adam, momentum
from localplast.models import graded_readout, urbanczik_senn
from localplast.network import Input, Network, Population, Projection
from localplast.rules import bptt, dendritic
from localplast.runs.run import run
from localplast.show.plot import COLOURS, style
from localplast.study.contenders import Contender
from localplast.study.protocol import Preset, Protocol
from localplast.task import Task, Trials
from localplast.task.loss import mse

__all__ = [
    "conductances",
    "correlation",
    "figure",
    "low_pass",
    "matching_potential",
    "network",
    "potentials",
    "prediction",
    "protocol",
    "taught_trials",
]

C_M, PERIOD, LEAD, TAU_DELTA = 300 * pF, 200 * ms, 50 * ms, 100 * ms


def conductances(t):
    """What the teacher opens on the soma at the times ``t`` (seconds): ``(g_exc, g_inh)``, each ``(time,)``, in
    siemens.

    NEST's example writes ``0.018 C`` and so on, and adds ten times that in every millisecond to a conductance which
    decays within 3 ms: its soma feels 30 times as much. Taken as they are written these conductances would be 4 % of
    the soma's, and the spikes of 100 repetitions would say too little about them.
    """
    swing = np.sin(2 * np.pi * np.asarray(t) / 0.1)
    per_ms = float(30 * C_M / ms)
    return per_ms * (0.018 + 0.016 * swing), per_ms * np.full_like(swing, 0.06)


def matching_potential(g_exc, g_inh, cell=None):
    """Where the soma would be if there were nothing but the teacher, ``U_M``, in mV; conductances in siemens."""
    values = (cell or urbanczik_senn()).parameters
    return (g_exc * float(values["e_exc"] / mV) + g_inh * float(values["e_inh"] / mV)) / (g_exc + g_inh)


def taught_trials(seed, noise, n, *, inputs=200, rate=10 * Hz, dt=0.5 * ms):
    """``n`` presentations of the pattern of this seed, each with a run-up: the end of the pattern, which is not judged.

    Parameters
    ----------
    seed : int
        Of the frozen pattern.
    noise : numpy.random.Generator
        Of the dice that the soma's spikes hang on.
    n : int

    Other arguments
    ---------------
    inputs : int
    rate, dt : Quantity

    Returns
    -------
    Trials
        ``pattern``: bool ``(trial, time, inputs)``; ``exc``, ``inh`` (siemens) and ``dice``: float
        ``(trial, time, 1)``. Target: the matching potential in mV ``(trial, time, 1)``.
    """
    period, lead = (int(float(span / dt) + 0.5) for span in (PERIOD, LEAD))
    step = np.arange(-lead, period)
    pattern = np.random.default_rng([seed, 3]).random((period, inputs)) < float(rate * dt)
    g_exc, g_inh = conductances((step + 1) * float(dt))  # what arrives at the end of a step acts in the next
    target = matching_potential(*conductances(step * float(dt)))

    def repeated(values):
        return np.repeat(values[None], n, axis=0)

    given = {"pattern": pattern[step % period], "exc": g_exc[:, None], "inh": g_inh[:, None]}
    dice = noise.random((n, len(step), 1))
    return Trials(
        {**{k: repeated(v) for k, v in given.items()}, "dice": dice}, repeated(target[:, None]), (step >= 0) / period
    )


def network(*, form="spikes", inputs=200, dt=0.5 * ms):
    """One cell, its pattern, its teacher and its dice; the readout shows ``v_star`` in mV.

    ``form`` is that of :func:`~localplast.models.urbanczik_senn`; the dice roll for nobody where there are no spikes.
    """

    def driven(name, target):
        return Projection(name, "cell", weight=1.0, target=target, plastic=False)

    return Network(
        dt=dt,
        pattern=Input(inputs),
        exc=Input(1, "currents", teacher=True),
        inh=Input(1, "currents", teacher=True),
        dice=Input(1, "currents"),
        cell=Population(1, urbanczik_senn(form=form, c_m=C_M)),
        out=Population(1, graded_readout()),
        projections=[
            Projection("pattern", "cell", weight=90 * pA, bounds=(0 * pA, 1350 * pA)),  # 0.3 and 4.5 C mV/ms
            driven("exc", "g_exc"),
            driven("inh", "g_inh"),
            *([driven("dice", "dice")] if form == "spikes" else []),
            Projection("cell", "out", output="v_star", weight=1 / mV, plastic=False),
        ],
    )


def low_pass(rate, dt):
    """Weights follow the rule through a low-pass filter of 100 ms, at ``rate`` (A²) times error and eligibility."""
    decay = float(np.exp(-dt / TAU_DELTA))
    return momentum(float(rate) * (1 - decay), decay)


def prediction(net, trials, values, **options):
    """What the dendrite predicts, and what becomes of the soma, over the judged steps of some trials.

    Other arguments
    ---------------
    **options : of :func:`localplast.run`

    Returns
    -------
    xarray.Dataset
        ``v_star``, ``u`` and ``matching``, dims (trial, time), in mV.
    """
    record, judged = run(net, trials, values=values, record=["cell.u", "out.shown"], **options), trials.weight > 0
    found = {"v_star": record["out"]["shown"].values, "u": 1e3 * record["cell"]["u"].values, "matching": trials.target}
    data = {name: (("trial", "time"), values[:, judged, 0], {"units": "mV"}) for name, values in found.items()}
    return xr.Dataset(data, {"time": ("time", np.arange(judged.sum()) * float(net.dt), {"units": "s"})})


def correlation(net, trials, values, **options):
    """Of ``v_star`` and the matching potential over the judged steps, without the teacher."""
    seen = prediction(net, trials.without(net.teachers), values, **options)
    return float(np.corrcoef(seen["v_star"].values.ravel(), seen["matching"].values.ravel())[0, 1])


def potentials(seen, ax, *, title=""):
    """Prediction, soma and matching potential of the first trial of what :func:`prediction` returned."""
    time, first = 1e3 * seen["time"].values, seen.isel(trial=0)
    ax.plot(time, first["matching"], color="0.2", lw=1, ls="--", label="matching potential $U_M$")
    ax.plot(time, first["u"], color=COLOURS[1], lw=1.6, label="soma $U$")
    ax.plot(time, first["v_star"], color=COLOURS[0], lw=1.6, label="prediction $V^*$")
    return style(ax, title, "time (ms)", "potential (mV)")


def figure(net, trials, before, after, **options):
    """One repetition of the pattern before learning, with the teacher, and after learning without it.

    ``before`` and ``after`` are :class:`~localplast.network.network.Values`.
    """
    import matplotlib.pyplot as plt

    silent = trials.without(net.teachers)
    shown = {
        "before learning": (silent, before),
        "after learning, with the teacher": (trials, after),
        "after learning, teacher off": (silent, after),
    }
    drawn, axes = plt.subplots(1, 3, figsize=(12, 3.4), sharey=True, constrained_layout=True)
    for (title, (presented, values)), ax in zip(shown.items(), axes, strict=True):
        potentials(prediction(net, presented, values, **options), ax, title=title)
    drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return drawn


def task(dt):
    return Task.drawn("urbanczik-senn", lambda rng, n, seed: taught_trials(seed, rng, n, dt=dt))


def build(*, dt, rate, batch=1, updates=100, test=8):
    online, offline = low_pass(rate, dt), adam(5 * pA)
    return Preset(
        network=network(dt=dt),
        task=task(dt),
        loss=mse(),
        optimiser=online,
        batch=batch,
        updates=updates,
        test=test,
        hidden="cell",
        rules={
            "BPTT": Contender(bptt(), "torch", optimiser=offline),
            "dendritic, spikes": dendritic(),
            "dendritic, rates": Contender(dendritic(), "brian2", network=network(form="rates", dt=dt)),
            "no learning": Contender(dendritic(), "brian2", ("pattern_cell",)),
        },
    )


protocol = Protocol(
    name="urbanczik-senn",
    summary="A dendrite learns to predict its soma: a frozen spike pattern, a teacher that nudges by conductances.",
    reference="Urbanczik & Senn 2014, Neuron 81:521, fig. 1B",
    build=build,
    presets={
        # Steps of 0.5 ms, a quarter of the published learning rate: less noise at the end, the same number of
        # repetitions.
        "quick": dict(dt=0.5 * ms, rate=3000 * pA**2),
        # The published step of 0.1 ms and NEST's learning rate, ``15**2 * 0.17 * C``, for a trace of ``v_star`` (not
        # ``v_den``).
        "paper": dict(dt=0.1 * ms, rate=12_000 * pA**2),
    },
    published={
        "fig. 1B": "after 100 repetitions V* follows U_M, and goes on to when the teacher is silent (no number)"
    },
    rule="dendritic",
    drawn=figure,
)
