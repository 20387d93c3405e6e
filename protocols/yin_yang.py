"""Yin-Yang: which part of the figure is a point in? Four coordinates as spike times, one hidden layer.

Kriener, Göltz & Petrovici 2022, NICE, arXiv:2102.08211. Small, yet a network that cannot train its hidden
layer stays at 85 %, so that it tells a rule that assigns credit from one that does not.
"""

import numpy as np
from brian2 import ms

from localplast.models import leaky_readout, lif
from localplast.network import Input, Network, Population, Projection, normal
from localplast.neuron.surrogate import triangle
from localplast.study.contenders import tuned, usual
from localplast.study.protocol import Preset, Protocol, Published
from localplast.task.loss import cross_entropy
from localplast.task.points import points_task

__all__ = ["network", "protocol"]


def network(*, hidden=120, dt=1 * ms):
    """Five inputs, ``hidden`` LIF neurons with time constants from 5 to 50 ms, three readouts.

    The threshold is low against the weights: neurons fire bursts whose length grows with their input, and the same
    learning rate moves the hidden layer, in units of its threshold, faster than the readout. Refractoriness keeps the
    bursts short.
    """
    cell = lif(v_th=0.01, tau_ref=5 * ms, surrogate=triangle("2*v_th"))
    return Network(
        dt=dt,
        points=Input(5),
        hidden=Population(hidden, cell, {"tau_mem": np.linspace(5, 50, hidden) * ms}),
        out=Population(3, leaky_readout(tau_out=20 * ms)),
        projections=[
            Projection("points", "hidden", weight=normal(0.3, mean=0.015)),
            Projection("hidden", "out", weight=normal(0.3)),
        ],
    )


#: Adam's rate, and how often it halves until the end: tuned in ``quick`` on the validation set
#: (``benchmarks/tune.py``).
RATES = {
    "BPTT": (1e-2, 4),
    "BPTT, converged": (5e-3, 6),
    "e-prop, symmetric": (1e-2, 4),
    "e-prop, random": (5e-3, 4),
    "BPTT, hidden frozen": (1e-2, 0),
}


def build(*, dt, updates, hidden=120, batch=64, test=1000):
    net = network(hidden=hidden, dt=dt)
    rules = tuned(usual(net, feedback_std=0.03, converged=2 * updates), RATES, updates)
    return Preset(
        network=net,
        task=points_task("yin-yang", dt),
        loss=cross_entropy(),
        optimiser=rules["e-prop, symmetric"].optimiser,
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden",
        feedback_std=0.03,
        rules=rules,
    )


protocol = Protocol(
    name="yin-yang",
    summary="Points of the Yin-Yang figure as spike times: needs a trained hidden layer.",
    reference="Kriener et al. 2022, NICE, arXiv:2102.08211",
    build=build,
    presets={
        # About 26 epochs, some three minutes for five contenders and three seeds on two cores.
        "quick": dict(dt=1 * ms, updates=2000),
        # 200 epochs with a finer step: at 1 ms a coordinate has only 31 values, which alone costs some accuracy.
        # Rates are those of ``quick``, and halve as often.
        "paper": dict(dt=0.5 * ms, updates=15_625),
    },
    published={
        "rate network 4-30-3, backpropagation": Published("97.6 ± 1.5 % (20 runs)", 97.6, 1.5),
        "same, hidden weights frozen": Published("85.5 ± 5.8 %", 85.5, 5.8),
        "no hidden layer": Published("63.8 ± 1.0 %", 63.8, 1.0),
    },
)
