"""The regulariser of running rates is the gradient of ``strength/2 * integral (f - target)**2 dt``, edges cut as
e-prop does.
"""

import numpy as np
import pytest
import torch
from brian2 import ms

import localplast as lp
from localplast.backends.brian2 import learner as brian2_backend
from localplast.backends.torch import gradient as torch_backend
from localplast.backends.torch.step import Twin, leaves, simulate
from localplast.models import alif, leaky_readout
from localplast.network import Input, Network, Population, Projection, normal
from localplast.rules import bptt, eprop
from localplast.task import Task, Trials
from localplast.task.loss import mse, rate

STRENGTH, TARGET, WINDOW = 1e-3, 20.0, 30 * ms
NET = Network(
    dt=1 * ms, cues=Input(6), rec=Population(7, alif(tau_adapt=60 * ms)), out=Population(2, leaky_readout()),
    projections=[
        Projection("cues", "rec", weight=normal(1.6, mean=0.35)), Projection("rec", "rec", weight=normal(1.5)),
        Projection("rec", "out"),
    ],
)  # fmt: skip
VALUES = NET.draw(3)
RNG = np.random.default_rng(1)
TRIALS = Trials({"cues": RNG.random((2, 80, 6)) < 0.4}, np.zeros((2, 80, 2)), weight=np.zeros(80))


def penalty_gradient(rule, *, window=WINDOW):
    """By autograd on the Torch twin: the loss of the readout counts for nothing here."""
    names = ["cues_rec.weight", "rec_rec.weight"]
    tensors = leaves(NET, VALUES, trainable=names)
    inputs = {"cues": torch.as_tensor(TRIALS.inputs["cues"]).transpose(0, 1)}
    traces = simulate(Twin(NET, tensors, VALUES.masks, cut=rule.cut), inputs, ["rec.spikes"])
    keep, f, total = np.exp(-1 * ms / window), 0.0, 0.0
    for z in traces["rec.spikes"]:
        f = keep * f + (1 - keep) * z / 1e-3
        total = total + 0.5 * STRENGTH * 1e-3 * ((f - TARGET) ** 2).sum(-1)
    return {
        n: g.numpy() * VALUES.masks[n[:-7]]
        for n, g in zip(names, torch.autograd.grad(total.mean(), [tensors[n] for n in names]), strict=True)
    }


def apart(one, other):
    return np.abs(one - other).max() / np.abs(other).max()


@pytest.mark.parametrize("rule", [eprop(), eprop(reset=True)])
def test_equal_to_autograd_on_both_backends(rule):
    loss, exact = mse() + rate(TARGET, STRENGTH, window=WINDOW), penalty_gradient(rule)
    torch_found, _ = torch_backend.gradient(NET, VALUES, TRIALS, rule, loss)
    brian2_found, _ = brian2_backend.gradient(NET, VALUES, TRIALS, rule, loss)
    for name, expected in exact.items():
        assert np.abs(expected).max() > 0
        assert apart(torch_found[name], expected) < 1e-10
        assert apart(brian2_found[name], expected) < 1e-8


def test_another_window_or_rule_differs():
    loss = mse() + rate(TARGET, STRENGTH, window=WINDOW)
    found, _ = torch_backend.gradient(NET, VALUES, TRIALS, eprop(), loss)
    for wrong in (penalty_gradient(eprop(), window=40 * ms), penalty_gradient(eprop(reset=True))):
        assert apart(found["rec_rec.weight"], wrong["rec_rec.weight"]) > 1e-3


@pytest.mark.thorough
def test_rates_come_near_the_target_while_weights_change_in_every_step():
    task = Task("noise", lambda update, batch, seed: TRIALS[:1], lambda n, seed: TRIALS)
    options = {
        "rule": eprop(update="step"),
        "optimiser": lp.sgd(1e-4),
        "loss": mse() + rate(TARGET, 1.0, window=WINDOW),
        "updates": 30,
    }
    torch_run = lp.run(NET, task, backend="torch", **options)
    rates = torch_run["metrics"]["rate"].values
    assert abs(rates[-5:].mean() - TARGET) < 0.5 * abs(rates[0] - TARGET)
    brian2_run = lp.run(NET, task, backend="brian2", target="numpy", **options)
    assert apart(brian2_run["rec_rec"]["weight"].values, torch_run["rec_rec"]["weight"].values) < 1e-8


def test_bptt_says_that_it_cannot():
    with pytest.raises(lp.UnsupportedError, match="whole trials"):
        torch_backend.gradient(NET, VALUES, TRIALS, bptt(), mse() + rate(TARGET, STRENGTH, window=WINDOW))
