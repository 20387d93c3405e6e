"""Yin-Yang through five or nine narrow hidden layers: how does the error reach a layer that is far from the output?

The samples and their code are those of ``yin-yang`` (Kriener, Göltz & Petrovici 2022, NICE, arXiv:2102.08211). An error
that is broadcast from the output knows nothing of the layers between: direct feedback alignment falls far behind BPTT,
e-prop with random feedback some way. In the preset ``local`` every layer has an error of its own.
"""

import numpy as np
from brian2 import ms

from localplast.models import leaky_readout, lif
from localplast.network import Input, Network, Population, Projection, normal
from localplast.neuron.surrogate import triangle
from localplast.rules import bptt, decolle, dfa, eprop
from localplast.study.protocol import Preset, Protocol
from localplast.task.loss import cross_entropy
from localplast.task.points import points_task

__all__ = ["network", "protocol"]


def network(*, hidden=(30, 30, 30, 30, 30), local=False, dt=1 * ms):
    """Five inputs, layers of LIF neurons with time constants from 5 to 50 ms, and three readouts of the last layer.

    Other arguments
    ---------------
    hidden : sequence of int
        Sizes of the layers.
    local : bool
        Give every layer three readouts of its own, so that errors are made where they are needed (DECOLLE, but with
        readouts that remember and that learn); the last layer's decide.
    dt : Quantity
    """
    cell = lif(v_th=1.0, tau_ref=5 * ms, surrogate=triangle(gamma=1.0))
    nodes, projections, last = {"points": Input(5)}, [], "points"
    for number, size in enumerate(hidden, 1):
        name = f"hidden{number}"
        nodes[name] = Population(size, cell, {"tau_mem": np.linspace(5, 50, size) * ms})
        # the mean keeps the activity of deep layers from dying out
        weight = normal(3.0, mean=1.0) if last == "points" else normal(2.0, mean=1 / nodes[last].size)
        projections.append(Projection(last, name, weight=weight))
        if local:
            nodes[f"{name}_out"] = Population(3, leaky_readout(tau_out=20 * ms))
            projections.append(Projection(name, f"{name}_out", weight=normal(0.3)))
        last = name
    if not local:
        nodes["out"] = Population(3, leaky_readout(tau_out=20 * ms))
        projections.append(Projection(last, "out", weight=normal(0.3)))
    return Network(dt=dt, projections=projections, **nodes)


def build(*, dt, updates, local=False, hidden=(30,) * 5, learning_rate=3e-3, batch=64, test=1000):
    across = {"e-prop, random": eprop(feedback="random", feedback_std=0.1), "DFA": dfa(feedback_std=0.1)}
    apart = {"DECOLLE": decolle()}
    return Preset(
        network=network(hidden=hidden, local=local, dt=dt),
        task=points_task("deep", dt),
        loss=cross_entropy(),
        learning_rate=learning_rate,
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden1",
        feedback_std=0.1,
        rules={"BPTT": bptt(), **(apart if local else across)},
    )


protocol = Protocol(
    name="deep",
    summary="Yin-Yang through many narrow hidden layers: what do broadcast, direct and local errors lose with depth?",
    reference="after Kriener et al. 2022, NICE, arXiv:2102.08211",
    build=build,
    presets={
        # Steps of 1 ms, about 13 epochs.
        "quick": dict(dt=1 * ms, updates=1000),
        # 200 epochs with a finer step.
        "paper": dict(dt=0.5 * ms, updates=15_625),
        # As ``quick``, with readouts in every layer.
        "local": dict(dt=1 * ms, updates=1000, local=True),
        # Both through nine hidden layers.
        "nine": dict(dt=1 * ms, updates=1000, hidden=(30,) * 9),
        "nine-local": dict(dt=1 * ms, updates=1000, hidden=(30,) * 9, local=True),
    },
)
