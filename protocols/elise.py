"""ELiSe: a network that is always plastic is nudged through a sequence, and then plays it by itself.

Kriener et al. 2024, arXiv:2402.16763. Visible cells are nudged by a teacher, latent cells only by the fixed scaffold
that has grown out of the visible ones; every dendrite learns to predict its soma. Latent activity tells apart the
places of a sequence at which the same tone sounds. Replay is simulated with the weights at rest: without a teacher
the rule wears off what it has taught, within some ten cycles at these rates.
"""

from dataclasses import replace

import numpy as np
import xarray as xr
from brian2 import ms, mV, nS, pA

from localplast.analysis.replay import best_phase
from localplast.learning.optimise import sgd
from localplast.models import elise, graded_readout
from localplast.network import Input, Network, Population, Projection, axonal, uniform
from localplast.network.scaffold import grow
from localplast.rules import dendritic
from localplast.runs.run import run
from localplast.show.plot import COLOURS, legend, style
from localplast.study.protocol import Preset, Protocol
from localplast.task import Task, Trials
from localplast.task.loss import mse

__all__ = [
    "FUER_ELISE",
    "TWO_TOKENS",
    "disturbances",
    "figure",
    "melody",
    "network",
    "nudged",
    "odds",
    "played",
    "protocol",
    "rates",
    "recovery",
    "report",
    "stream",
]

TWO_TOKENS = (0, 1)
#: The first twelve tones of Für Elise, as numbers of seven visible cells.
FUER_ELISE = (6, 0, 1, 0, 1, 0, 4, 2, 3, 5, 5, 5)
#: How strongly the teacher nudges, and to which potentials (mV) silent and sounding cells.
LAM, SILENT, SOUNDING = 0.7, -70.0, -50.0
#: Cycles that are given as a cue for replay.
CUE = 2


def network(*, visible, latent, dt, seed=0, p=0.2, q=0.15, p0=0.04):
    """One population ``cells``, its ``visible`` ones first.

    Dendritic weights go from all to all: the projections ``among_visible`` and ``others``, two because they learn at
    rates of their own. The scaffold excites and, 25 ms later, inhibits somata. Delays are drawn per presynaptic cell,
    5 to 14 ms. The inputs ``tones`` (mV) and ``nudging`` (:func:`odds`) say what the teacher wants and how strongly,
    to every visible cell; silence of both is no teacher. They are ordinary inputs, because a teacher also gives the
    cue for replay. ``out`` shows what the visible dendrites predict, as rates.

    Other arguments
    ---------------
    seed : int
        Of the scaffold and the delays.
    p, q, p0 : float
        See :func:`~localplast.network.scaffold.grow`.
    """
    rng, size, cell = np.random.default_rng([seed, 5]), visible + latent, elise()
    scaffold = grow(rng, visible, latent, p=p, q=q, p0=p0)
    dendrites, somata = rng.integers(5, 15, (2, size)) * ms
    one_to_one = np.eye(visible, size)
    among_visible = np.outer(np.arange(size) < visible, np.arange(size) < visible)
    others = ~np.eye(size, dtype=bool)

    def nudge(pre, target, weight):
        return Projection(pre, "cells", target=target, weight=one_to_one * weight, mask=one_to_one, plastic=False)

    def dendrite(name, mask):
        weight = uniform(0.05 * pA, mean=0.05 * pA, fan_in=False)
        return Projection(
            "cells", "cells", name=name, target="I_den", weight=weight, mask=mask, delay=axonal(dendrites)
        )

    def soma(target, conductance, delay):
        return Projection(
            "cells",
            "cells",
            name=target,
            target=target,
            output="floored_rate",
            weight=scaffold * conductance,
            mask=scaffold,
            delay=axonal(delay),
            plastic=False,
        )

    return Network(
        dt=dt,
        tones=Input(visible, "currents"),
        nudging=Input(visible, "currents"),
        cells=Population(size, cell),
        out=Population(visible, graded_readout()),
        projections=[
            nudge("tones", "u_target", 1 * mV),
            nudge("nudging", "g_nudge", cell.parameters["g_l"] + cell.parameters["g_den"]),
            dendrite("among_visible", among_visible & others),
            dendrite("others", ~among_visible & others),
            soma("g_exc", 0.3 * nS, somata),
            soma("g_inh", 6 * nS, somata + 25 * ms),
            Projection("cells", "out", output="predicted_rate", weight=one_to_one.T, mask=one_to_one.T, plastic=False),
        ],
    )


def melody(tokens, visible, duration, dt):
    """One cycle of a sequence, float ``(period, visible)``: the potentials (mV) that the teacher wants; ``duration``
    is of all.
    """
    steps = round(float(duration / dt))
    sounding = np.eye(visible)[np.asarray(tokens)[np.arange(steps) * len(tokens) // steps]]
    return SILENT + (SOUNDING - SILENT) * sounding


def rates(potentials):
    """The rates of cells at ``potentials`` (mV), of the same shape."""
    cell = elise().parameters
    return 1 / (1 + np.exp(float(cell["slope"] * mV) * (float(cell["u_half"] / mV) - potentials)))


def odds(lam):
    """The nudging conductance, over that of leak and dendrite, with which a soma rests at
    ``(1 - lam)*v_star + lam*u_target``.
    """
    return lam / (1 - lam)


def stream(cycle, cycles, *, silent=0, phases=(0,)):
    """Trials that go through a melody for ``cycles`` cycles with the teacher, and for ``silent`` ones without.

    Parameters
    ----------
    cycle : float array ``(period, visible)``
        One cycle, in mV.
    cycles, silent : int
    phases : sequence of int
        The step of the melody that each trial begins with.

    Every step counts in the loss, of those after a cue only the silent ones; the target is what the teacher says or
    would say.
    """
    time = np.arange((cycles + silent) * len(cycle))
    score = cycle[(time + np.asarray(phases)[:, None]) % len(cycle)]
    heard = (time < cycles * len(cycle)).astype(float)
    counted = 1 - heard if silent else heard
    inputs = {"tones": score * heard[:, None], "nudging": odds(LAM) * heard[:, None] * np.ones_like(score)}
    return Trials(inputs, rates(score), counted / counted.sum())


def nudged(trials, trial, when, wanted, *, cells=slice(None), lam=LAM):
    """The same trials with one disturbed: in the steps ``when`` (a slice) some visible cells are nudged to other
    potentials.

    Parameters
    ----------
    trial : int
    when : slice
    wanted : float, or array ``(time, cell)``
        In mV.

    Other arguments
    ---------------
    cells : index
    lam : float
        Strength: near 1 silences a cell, whatever its dendrite says.
    """
    inputs = {name: array.copy() for name, array in trials.inputs.items()}
    inputs["tones"][trial, when, cells] = wanted
    inputs["nudging"][trial, when, cells] = odds(lam)
    return replace(trials, inputs=inputs)


def task(tokens, *, visible, duration, dt, cycles, silent=3):
    """Streams of ``cycles`` cycles that begin anywhere in the sequence; tested is replay after a cue."""
    cycle = melody(tokens, visible, duration, dt)

    def training(update, batch, seed):
        return stream(cycle, cycles, phases=np.random.default_rng([seed, 0, update]).integers(len(cycle), size=batch))

    def testing(n, seed):
        return stream(cycle, CUE, silent=silent, phases=np.random.default_rng([seed, 1]).integers(len(cycle), size=n))

    return Task("elise", training, testing, meta={"cycle": cycle})


def played(net, values, trials, **options):
    """The rates of the visible cells of a network that learns no more, float array ``(trial, time, visible)``."""
    record = run(net, trials, values=values, record=["cells.u"], **options)
    return rates(record["cells"]["u"].values[..., : net.size("tones")] / float(mV))


def disturbances(cycle, dt, *, duration=200 * ms, before=4, after=6):
    """Three replays of a melody, after a cue, and the steps (a slice) in which the second and the third are disturbed.

    Undisturbed; with the first cell silenced for ``duration``; with the teacher back for as long, half a cycle ahead.
    ``before`` and ``after`` are cycles of replay.
    """
    lasting = round(float(duration / dt))
    start = (CUE + before) * len(cycle)
    when = slice(start, start + lasting)
    trials = stream(cycle, CUE, silent=before + after - (-lasting // len(cycle)), phases=[0, 0, 0])
    trials = nudged(trials, 1, when, SILENT, cells=0, lam=0.99)
    ahead = cycle[(np.arange(lasting) + len(cycle) // 2) % len(cycle)]
    return nudged(trials, 2, when, ahead), when


def recovery(net, values, cycle, **options):
    """How well :func:`disturbances` are played, before, during and after the disturbance.

    Returns
    -------
    xarray.Dataset
        ``rate`` (replay, time, visible), without the cue; ``correlation``, ``mse`` and ``phase`` (replay, window) of
        :func:`~localplast.analysis.replay.best_phase`; ``part`` (window): before, during, after or, in between,
        nothing.
    """
    trials, when = disturbances(cycle, net.dt)
    found = played(net, values, trials, **options)[:, CUE * len(cycle) :]
    windows = xr.concat(
        [best_phase(one, rates(cycle)) for one in found], "replay", data_vars=["correlation", "mse", "phase"]
    )
    start, end = (step - CUE * len(cycle) for step in (when.start, when.stop))
    first, last = windows["start"].values, windows["start"].values + len(cycle)
    late = first >= found.shape[1] - 3 * len(cycle)
    part = np.select([last <= start, (first < end) & (last > start), late], ["before", "during", "after"], "")
    windows = windows.assign(rate=(("replay", "time", "visible"), found), part=("window", part))
    windows.attrs["disturbed"] = [start * float(net.dt), end * float(net.dt)]
    return windows.assign_coords(
        time=np.arange(found.shape[1]) * float(net.dt), replay=["undisturbed", "silenced", "shifted"]
    )


def cycle_of(trials):
    """One cycle of the melody of a test trial, from its cue."""
    return trials.inputs["tones"][0, : np.count_nonzero(trials.inputs["nudging"][0, :, 0]) // CUE]


def report(net, trials, values):
    """What the network plays by itself, in words."""
    cycle = cycle_of(trials)
    found = recovery(net, values, cycle)
    alone, silenced, shifted = (found.sel(replay=name) for name in ("undisturbed", "silenced", "shifted"))
    ahead = int(shifted["phase"][-1] - alone["phase"][-1]) / len(cycle) % 1
    return "\n".join(
        [
            f"replay without the teacher: correlation {float(alone['correlation'].mean()):.3f}, mse "
            f"{float(alone['mse'].mean()):.4f}",
            f"first cell silenced for 200 ms: correlation {in_parts(silenced)}",
            f"teacher back for 200 ms, half a cycle ahead: correlation {in_parts(shifted)}; replay is then {ahead:.2f} "
            "cycles ahead",
        ]
    )


def in_parts(found):
    """The mean correlation before, during and after a disturbance, in words."""
    means = {
        part: float(found["correlation"].where(found["part"] == part).mean()) for part in ("before", "during", "after")
    }
    return ", ".join(f"{mean:.3f} {part}" for part, mean in means.items())


def figure(net, trials, before, after):
    """What is played before and after learning, and how it recovers from disturbances.

    ``before`` and ``after`` are :class:`~localplast.network.network.Values`.
    """
    import matplotlib.pyplot as plt

    cycle = cycle_of(trials)
    found, naive = recovery(net, after, cycle), recovery(net, before, cycle)
    shown = {
        "before learning": naive.isel(replay=0),
        "after learning": found.isel(replay=0),
        "first cell silenced for 200 ms": found.isel(replay=1),
        "teacher back for 200 ms, half a cycle ahead": found.isel(replay=2),
    }
    drawn, axes = plt.subplots(5, 1, figsize=(9, 9), sharex=True, constrained_layout=True)
    for (title, one), ax in zip(shown.items(), axes, strict=False):
        mesh = ax.pcolormesh(
            one["time"], one["visible"], one["rate"].values.T, vmin=0, vmax=1, cmap="Greys", rasterized=True
        )
        ax.set_yticks(one["visible"])
        style(ax, title, "", "visible cell")
    for ax in axes[2:4]:
        ax.axvspan(*found.attrs["disturbed"], color=COLOURS[2], alpha=0.3, lw=0)
    drawn.colorbar(mesh, ax=axes[:4], label="rate", shrink=0.5)
    centre = (found["start"].values + len(cycle) / 2) * float(net.dt)
    for name, colour in zip(found["replay"].values, COLOURS, strict=False):
        axes[4].plot(centre, found["correlation"].sel(replay=name), color=colour, label=name, lw=1.6)
    legend(axes[4])
    style(axes[4], "correlation with the sequence at the best phase", "time without the teacher (s)", "correlation")
    return drawn


def build(
    *, tokens, visible, latent, duration, dt, cycles, updates, visible_rate=1e-2, rate=1e-1, seed=0, batch=1, test=2
):
    """``visible_rate`` among visible cells, ``rate`` of all other weights, in pA/ms; ``seed`` is that of the scaffold
    and the delays.
    """
    learning_rate = float(rate * pA / ms * dt)
    return Preset(
        network=network(visible=visible, latent=latent, dt=dt, seed=seed),
        task=task(tokens, visible=visible, duration=duration, dt=dt, cycles=cycles),
        loss=mse(),
        optimiser=sgd(learning_rate).with_rates(among_visible=visible_rate / rate),
        batch=batch,
        updates=updates,
        test=test,
        hidden="cells",
        rules={"ELiSe": dendritic()},
    )


protocol = Protocol(
    name="elise",
    summary="A network that is always plastic is nudged through a sequence and then plays it by itself.",
    reference="Kriener et al. 2024, arXiv:2402.16763",
    build=build,
    presets={
        # Two tones in turn, 20 ms each, and 16 latent cells, in steps of 1 ms.
        "quick": dict(tokens=TWO_TOKENS, visible=2, latent=16, duration=40 * ms, dt=1 * ms, cycles=25, updates=8),
        # Twelve tones in 250 ms, 600 cycles in steps of 0.5 ms.
        "sequence": dict(
            tokens=FUER_ELISE,
            visible=7,
            latent=30,
            duration=250 * ms,
            dt=0.5 * ms,
            cycles=20,
            updates=30,
            visible_rate=3e-3,
            rate=3e-2,
        ),
        # Twelve tones in 250 ms, 1000 cycles: step and rates as in the authors' configuration.
        "paper": dict(
            tokens=FUER_ELISE,
            visible=7,
            latent=30,
            duration=250 * ms,
            dt=0.1 * ms,
            cycles=10,
            updates=100,
            visible_rate=1e-3,
        ),
    },
    rule="dendritic",
    drawn=figure,
    told=report,
)
