"""DelayNet at its two sizes: how large it is, and how it learns.

Balafrej, Alibart & Rouat 2023, arXiv:2310.19067; extended in Balafrej et al. 2025, Neuromorph Comput Eng, doi
10.1088/2634-4386/add293.
"""

import numpy as np
from brian2 import ms

from localplast.learning.optimise import adam
from localplast.models.delaynet import network
from localplast.rules import bptt
from localplast.study.contenders import Contender
from localplast.study.numbers import chosen
from localplast.task.loss import branching, cross_entropy

__all__ = ["LOSS", "SIZES", "contender", "optimiser"]

#: Spectral radius of the absolute recurrent weights from which activity outlives a second of silence, untrained.
LASTING = 5.0
#: By preset.
SIZES = {
    "quick": dict(neurons=64, radius=2.0, learning_rate=2e-3, halving=100),
    # the published size; activity must outlive the silence from the start: recurrence is stronger
    "paper": dict(neurons=125, radius=LASTING, learning_rate=5e-4, halving=300, limit=0.1),
}
#: Rates are left alone: neurons that are held to one cannot tell by firing, or not, what they have seen.
LOSS = cross_entropy() + branching(1e-3)


def optimiser(net, learning_rate, made=adam, limit=1.0, halving=np.inf, unit=10 * ms):
    """``made(learning_rate)`` for weights; biases learn as fast per step, time constants one ``unit`` for what a weight
    learns 1.

    Published: ``optimiser(net, 1e-3, madgrad, 0.01, unit=100 * ms)``. The norm of the whole gradient is held to
    ``limit``; the learning rate halves every ``halving`` updates.
    """
    shares = {"tau_mem": float(unit), "tau_out": float(unit), "v_th": 1.0, "bias": 1 / float(net.dt)}
    rates = {name: shares[name.partition(".")[2]] for name in net.trainable}
    return made(learning_rate).with_rates(**rates).norm_clipped(limit).halved(halving)


def contender(size):
    """DelayNet of one of the :data:`SIZES`, in steps of 1 ms, beside other networks: by BPTT, with its own optimiser
    and loss.
    """
    numbers = chosen("delaynet", SIZES, size)
    net = network(neurons=numbers["neurons"], radius=numbers["radius"])
    made = optimiser(net, numbers["learning_rate"], limit=numbers.get("limit", 1.0), halving=numbers["halving"])
    return Contender(bptt(), "torch", network=net, optimiser=made, loss=LOSS)
