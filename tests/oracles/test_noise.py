"""White noise in equations (``xi``): the statistics of an Ornstein-Uhlenbeck process, on both backends."""

import numpy as np
import pytest
from brian2 import ms

import localplast as lp
from localplast.errors import UnsupportedError
from localplast.learning.eligibility import Derived
from localplast.learning.optimise import sgd
from localplast.models import graded_readout
from localplast.network import Input, Network, Population, Projection
from localplast.rules import bptt
from localplast.task import Task, Trials
from localplast.task.loss import mse

TAU, DT, SIGMA = 5.0, 0.5, 0.3  # ms


def noisy(equations="dv/dt = (drive - v)/tau + sigma*sqrt(2/tau)*xi : 1\ndrive : 1", method="euler"):
    return lp.NeuronModel(
        "noisy", equations, {"tau": TAU * ms, "sigma": SIGMA}, method=method, receives="drive", output="v"
    )


def network(size=40, model=None):
    return Network(
        dt=DT * ms, cues=Input(1, "currents"), a=Population(size, model or noisy()), out=Population(1, graded_readout()),
        projections=[Projection("cues", "a", weight=1.0), Projection("a", "out", weight=1 / size)],
    )  # fmt: skip


def trials(n=20, steps=400):
    return Trials({"cues": np.zeros((n, steps, 1))}, np.ones((n, steps, 1)), weight=np.full(steps, 1 / steps))


def run(backend, seed=0, **size):
    return lp.run(network(), trials(**size), backend=backend, record=["a.v"], seed=seed)["a"]["v"].values


@pytest.mark.parametrize("backend", ["torch", "brian2"])
def test_variance_and_autocorrelation(backend):
    v = run(backend)[:, 100:]
    keep = 1 - DT / TAU
    variance = 2 * SIGMA**2 * DT / TAU / (1 - keep**2)  # of the Euler-Maruyama recursion; sigma^2 as dt -> 0
    assert v.var() == pytest.approx(variance, rel=0.05) and abs(v.mean()) < 0.01
    for lag in (1, 5, 20):
        assert (v[:, lag:] * v[:, :-lag]).mean() == pytest.approx(variance * keep**lag, abs=0.05 * variance)
    first = v - v.mean()
    assert abs(np.corrcoef(first[0].ravel(), first[1].ravel())[0, 1]) < 0.05, "every trial draws its own"
    assert abs(np.corrcoef(first[:, :, 0].ravel(), first[:, :, 1].ravel())[0, 1]) < 0.1, "every neuron draws its own"


@pytest.mark.parametrize("backend", ["torch", "brian2"])
def test_the_seed_decides(backend):
    one, again, other = (run(backend, seed, n=2, steps=30) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.1


def test_gradients_flow_past_noise():
    """The mean output is noise plus what a constant input comes to: its slope is that without noise."""
    given = trials(400, 60)
    given.inputs["cues"][:] = 1.0
    quiet = network(model=noisy("dv/dt = (drive - v)/tau : 1\ndrive : 1"))
    values = network().draw(0)
    with_noise = [lp.gradient(network(), given, bptt(), seed=s, values=values, loss=mse()) for s in (0, 0, 1)]
    weights = [g["cues_a"]["gradient"].values for g in with_noise]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert np.abs(weights[0] - weights[2]).max() > 0
    without = lp.gradient(quiet, given, bptt(), values=quiet.draw(0), loss=mse())["cues_a"]["gradient"].values
    assert np.mean(weights[0]) == pytest.approx(np.mean(without), rel=0.02)


def test_learning_with_noise_is_the_same_again():
    task = Task("still", lambda update, batch, seed: trials(batch, 20), lambda n, seed: trials(n, 20))

    def losses(rate, seed=0):
        net = network(5)
        options = dict(backend="torch", rule=bptt(), optimiser=sgd(rate), loss=mse(), updates=3, batch=2)
        return lp.run(net, task, values=net.draw(0), seed=seed, **options)["metrics"]["loss"].values

    for rate in (0.0, 0.1):
        np.testing.assert_array_equal(losses(rate), losses(rate))
    drawn = [*losses(0.0), *losses(0.0, seed=1)]
    assert len(np.unique(drawn)) == 6, "nothing learns, and every update draws anew"


def test_local_rules_refuse_noise_that_multiplies():
    model = noisy("dv/dt = (drive - v)/tau + v*sigma*xi/sqrt(tau) : 1\ndrive : 1", method="heun")
    net = network(3, model)
    with pytest.raises(UnsupportedError, match="noise multiplies"):
        Derived().of(net, net.projections["cues_a"])
    assert Derived().of(network(3), network(3).projections["cues_a"]).value is not None
