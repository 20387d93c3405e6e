"""Learning along the rows of the weight matrix, in C++: the same weights as Brian2's own loop gives on numpy."""

import shutil

import numpy as np
import pytest
from brian2 import ms

from localplast.backends.brian2.learner import Brian2Learner
from localplast.learning.optimise import adam
from localplast.models import alif, leaky_readout
from localplast.network import Input, Network, Population, Projection, axonal, dale, normal
from localplast.rules import eprop
from localplast.task import Trials
from localplast.task.loss import mse

STEPS, SIZE, SIGNS = 60, 24, np.array([1, 1, 1, 1, 1, 1, -1, -1])


def network():
    """Full rows, rows with a hole (no autapses) and rows of single synapses, in one network, some with delays or
    bounds.
    """
    sparse = np.random.default_rng(4).random((8, SIZE)) < 0.2
    # fmt: skip
    return Network(
        dt=1 * ms,
        cues=Input(8),
        noise=Input(8),
        rec=Population(SIZE, alif(tau_adapt=30 * ms, tau_ref=2 * ms)),
        out=Population(2, leaky_readout()),
        projections=[
            Projection("cues", "rec", weight=normal(4.0), bounds=dale(SIGNS)),
            Projection("noise", "rec", weight=normal(4.0), mask=sparse),
            Projection("rec", "rec", weight=normal(2.0), delay=axonal(3 * ms)),
            Projection("rec", "out"),
        ],
    )


def learned(target):
    """How far two trials move the weights, by projection, and the mean rate in hertz."""
    rng, net = np.random.default_rng(0), network()
    values = net.draw(1)
    inputs = {name: rng.random((2, STEPS, 8)) < 0.2 for name in ("cues", "noise")}
    trials = Trials(inputs, rng.normal(size=(2, STEPS, 2)), np.full(STEPS, 1 / STEPS))
    rule = eprop(update="step")
    learner = Brian2Learner(net, values, rule, mse(), adam(0.01), trials, target=target, updates_per_block=2)
    try:
        metrics = learner.train(trials)
        signs = np.sign(learner.numbers()["cues_rec"]) * SIGNS[:, None]
        assert signs.min() == 0  # Brian2 compiles with -ffast-math, where infinite bounds would have no meaning
        return {n: w - values.weights[n] for n, w in learner.numbers().items()}, metrics[0]["rate"]
    finally:
        learner.close()


@pytest.mark.thorough
@pytest.mark.skipif(not (shutil.which("g++") and shutil.which("make")), reason="no C++ compiler here")
def test_rows_change_no_result():
    wanted, rate = learned("numpy")
    found, _ = learned("cpp")
    assert 2 < rate < 400
    for name, change in wanted.items():
        assert np.abs(change).max() > 1e-4, f"{name} does not learn"
        assert np.abs(found[name] - change).max() < 1e-9 * np.abs(change).max(), name
