"""The sign of burst-dependent plasticity: dendritic current decides whether synapses onto the soma grow or shrink.

Presynaptic cells drive somata; a current in the dendrites steps up, back, down and back. More bursts than of late
potentiate, fewer depress, until the running averages have followed. Payeur et al. 2021, Nat Neurosci 24:1010, fig. 2E.
"""

from dataclasses import dataclass

import numpy as np
from brian2 import ms, second
from brian2.units.fundamentalunits import Quantity

from localplast.learning.optimise import sgd
from localplast.models import burst_poisson, instant_readout
from localplast.network import Input, Network, Population, Projection
from localplast.rules import dendritic
from localplast.runs.learners import default_target
from localplast.show.plot import COLOURS, legend, style
from localplast.study.phenomenon import Finding, Phenomenon, labelled
from localplast.task import Task, Trials
from localplast.task.loss import mse

__all__ = ["Conditions", "changes", "expected_course", "network", "protocol", "trials"]

#: What the dendrites get in the segments, in ampere; somatic current of both populations.
SEGMENTS = np.array([200, 500, 200, -100, 200]) * 1e-12
DRIVE = 550e-12
DT = 1 * ms


@dataclass(frozen=True)
class Conditions:
    """Length of a segment and of the running averages, cells of both populations, and how often weights are looked at.

    ``looks`` replicas of the postsynaptic cells, with the same dice, stop learning one after the other: what their
    weights have come to is the course of the weights of one. ``rate`` is the learning rate.
    """

    segment: Quantity
    tau_avg: Quantity
    looks: int
    pre: int = 40
    post: int = 20
    rate: float = 4e-3

    @property
    def steps(self):
        """Steps of a segment."""
        return round(float(self.segment / DT))

    @property
    def stops(self):
        """When each replica stops learning: seconds, ``(look,)``."""
        return np.arange(1, self.looks + 1) * len(SEGMENTS) * float(self.segment) / self.looks


def network(c):
    """``sources`` onto all replicas of ``cells``, weights 0.08 of the leak conductance; nothing but these learn."""
    model, size = burst_poisson(tau_avg=c.tau_avg), c.post * c.looks
    cell, replica = np.arange(size) % c.post, np.arange(size) // c.post

    def driven(name, target, onto, weight):
        return Projection(name, onto, target=target, weight=weight, mask=weight > 0, plastic=False)

    return Network(
        dt=DT,
        sources=Population(c.pre, model),
        cells=Population(size, model),
        out=Population(1, instant_readout()),
        die_sources=Input(c.pre, "currents"),
        die_cells=Input(c.post, "currents"),
        gate=Input(c.looks, "currents"),
        soma=Input(1, "currents"),
        dendrite=Input(1, "currents"),
        projections=[
            Projection("sources", "cells", weight=0.08, bounds=(0.0, 1.0)),
            driven("die_sources", "die", "sources", np.eye(c.pre)),
            driven("die_cells", "die", "cells", np.equal.outer(np.arange(c.post), cell) * 1.0),
            driven("gate", "gate", "cells", np.equal.outer(np.arange(c.looks), replica) * 1.0),
            driven("soma", "I_s", "sources", np.ones((1, c.pre))),
            driven("soma", "I_s", "cells", np.ones((1, size))),
            driven("dendrite", "I_d", "cells", np.ones((1, size))),
            Projection("cells", "out", weight=1 / size, plastic=False),
        ],
    )


def trials(c, seed=0):
    """One trial through all segments."""
    rng, steps = np.random.default_rng([seed, 9]), c.steps * len(SEGMENTS)
    time = (np.arange(steps) + 1) * float(DT)
    inputs = {
        "die_sources": rng.random((steps, c.pre)),
        "die_cells": rng.random((steps, c.post)),
        "gate": (time[:, None] <= c.stops + 1e-9) * 1.0,
        "soma": np.full((steps, 1), DRIVE),
        "dendrite": np.repeat(SEGMENTS, c.steps)[:, None],
    }
    return Trials({k: v[None] for k, v in inputs.items()}, np.zeros((1, steps, 1)), np.full(steps, 1 / steps))


def scanned(c, run):
    """Weights as they were learned, and the rates of events and bursts of the network that began to learn."""
    net, given = network(c), trials(c)
    task = Task("burst-sign", lambda update, batch, seed: given, lambda n, seed: given)
    learned = run(net, task, rule=dendritic(), optimiser=sgd(c.rate), loss=mse(), updates=1)
    wanted = {"cells.event": {"neurons": range(c.post)}, "cells.burst": {"neurons": range(c.post)}}
    seen = run(net, given, record=wanted, target=default_target("brian2"))["cells"]
    weight = learned["sources_cells"]["weight"].values.reshape(c.pre, c.looks, c.post).mean((0, 2))
    bins = len(SEGMENTS) * 10
    rate = {
        name: seen[name].values[0].reshape(bins, -1, c.post).mean((1, 2)) / float(DT) for name in ("event", "burst")
    }
    width = len(SEGMENTS) * float(c.segment) / bins
    return {
        "weights": labelled(time=(("time",), np.r_[0, c.stops], "s"), weight=(("time",), np.r_[0.08, weight], "1")),
        "rates": labelled(
            time=(("time",), (np.arange(bins) + 0.5) * width, "s"),
            event_rate=(("time",), rate["event"], "Hz"),
            burst_rate=(("time",), rate["burst"], "Hz"),
        ),
        "current": labelled(
            time=(("time",), np.arange(len(SEGMENTS) + 1) * float(c.segment), "s"),
            current=(("time",), np.r_[SEGMENTS, SEGMENTS[-1]], "A"),
        ),
    }


def expected_course(c, record):
    """Mean weight after every step, as the rule says of a network whose weights hardly move.

    ``record`` is one of a simulation with the states of ``sources.event_trace`` and of ``cells``: event, burst,
    E_bar, B_bar.
    """
    post = {name: record["cells"][name].values[0][:, : c.post] for name in ("event", "burst", "E_bar", "B_bar")}
    error = post["burst"] - post["B_bar"] / post["E_bar"] * post["event"] + float(DT) * np.clip(2 - post["E_bar"], 0, 2)
    error -= post["event"] * np.clip(1 - 10 / post["E_bar"], 0, 1)
    trace = record["sources"]["event_trace"].values[0]
    return 0.08 + c.rate * np.cumsum(trace.mean(1) * error.mean(1))


def changes(record):
    """How far the mean weight has moved in each segment ``(segment,)``."""
    found, edges = record["weights"].to_dataset(), record["current"]["time"].values
    return np.diff(np.interp(edges, found["time"], found["weight"]))


def drawn(record):
    """Current, rates of events and bursts, weight, one above the other."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(3, 1, figsize=(6.5, 6.2), sharex=True, height_ratios=(1, 2, 2), constrained_layout=True)
    current, rates, weights = (record[name].to_dataset() for name in ("current", "rates", "weights"))
    axes[0].step(current["time"], 1e12 * current["current"], where="post", color="0.3")
    for name, colour in (("event_rate", COLOURS[0]), ("burst_rate", COLOURS[1])):
        axes[1].plot(rates["time"], rates[name], color=colour, lw=1.6, label=f"{name.split('_')[0]}s")
    axes[2].plot(weights["time"], weights["weight"], color=COLOURS[3], marker=".", lw=1.6)
    for edge in current["time"].values[1:-1]:
        axes[2].axvline(edge, color="0.8", lw=0.8, zorder=0)
    size = np.abs(changes(record)[1:]).mean()  # only the signs are published
    for sign, start, end in zip((1, -1, -1, 1), current["time"].values[1:-1], current["time"].values[2:], strict=True):
        begun = np.interp(start, weights["time"], weights["weight"])
        label = "sign in Payeur et al. 2021, fig. 2E" if end == current["time"].values[-1] else None
        axes[2].plot((start, end), (begun, begun + sign * size), color="0.4", ls="--", lw=1, label=label)
    legend(axes[1])
    legend(axes[2])
    style(axes[0], "dendritic current", "", "(pA)")
    style(axes[1], "postsynaptic cells", "", "rate (Hz)")
    style(axes[2], "mean weight", "time (s)", "weight (leak conductance)")
    return figure


def found(record):
    moved, rates = 1e3 * changes(record), record["rates"].to_dataset()
    fig = "Payeur et al. 2021, fig. 2E"
    titles = ("at rest", "current up", "back", "current down", "back")
    for title, change, sign in zip(titles, moved, ("about 0", "> 0", "< 0", "< 0", "> 0"), strict=True):
        yield Finding(f"change of the mean weight, {title} (10⁻³ leak conductance)", float(change), sign, fig)
    event = rates["event_rate"].values.reshape(len(SEGMENTS), -1).mean(1)
    burst = rates["burst_rate"].values.reshape(len(SEGMENTS), -1).mean(1)
    yield Finding(
        "bursts per event: at rest, up, down", ", ".join(f"{x:.2f}" for x in (burst / event)[[0, 1, 3]]), "grows", fig
    )
    yield Finding(
        "events (Hz): at rest, up, down", ", ".join(f"{x:.2f}" for x in event[[0, 1, 3]]), "about the same", fig
    )


protocol = Phenomenon(
    name="burst-sign",
    summary="More bursts than expected potentiate, fewer depress: steps of dendritic current, and what weights do.",
    reference="Payeur et al. 2021, Nat Neurosci 24:1010, fig. 2E",
    build=Conditions,
    presets={
        # Segments of 5 s, averages over 1 s.
        "quick": dict(segment=5 * second, tau_avg=1 * second, looks=20),
        # The published segments of 25 s and averages of 5 s.
        "paper": dict(segment=25 * second, tau_avg=5 * second, looks=50),
    },
    scanned=scanned,
    drawn=drawn,
    found=found,
)
