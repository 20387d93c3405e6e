"""Learning per unit of time does not hang on the time step once psi is a rate (E5), and does where it is not.

Spikes that do not depend on the step make this a test of the rule alone: strong inputs that do not learn (``kicks``)
set every spike of the neurons, weak ones (``cues``) learn below threshold.
"""

import dataclasses
import functools

import numpy as np
import pytest
from brian2 import ms, second

import localplast as lp
from localplast.backends.brian2 import learner as brian2_backend
from localplast.backends.torch import gradient as torch_backend
from localplast.errors import ModelError
from localplast.learning.optimise import sgd
from localplast.models import alif, cuba_lif, leaky_readout
from localplast.network import Input, Network, Population, Projection
from localplast.neuron.surrogate import fast_sigmoid, per_time, triangle
from localplast.rules import bptt, eprop
from localplast.task import Task, Trials
from localplast.task.loss import mse, rate

pytestmark = pytest.mark.thorough

N_IN, N, N_OUT, TRIALS, DURATION = 6, 5, 2, 2, 80  # ms
TAU_MEM, TAU_ADAPT, TAU_OUT, BETA, KICK = 20.0, 50.0, 20.0, 0.3, 1.6
STEPS = (1.0, 0.5, 0.25, 0.1)

_rng = np.random.default_rng(0)
W_IN, W_OUT = _rng.normal(0.02, 0.03, (N_IN, N)), _rng.normal(0, 1, (N, N_OUT))
CUES = _rng.random((TRIALS, DURATION, N_IN)) < 0.12
KICKS = np.zeros((TRIALS, DURATION, N), bool)
for _trial, _neuron in np.ndindex(TRIALS, N):
    KICKS[_trial, _rng.integers(3, 20) + np.array([0, 17, 34, 55]), _neuron] = True


def target(t):
    return np.stack([np.sin(t / 15), np.cos(t / 25)], -1)


def network(dt, surrogate):
    model = alif(tau_mem=TAU_MEM * ms, tau_adapt=TAU_ADAPT * ms, beta=BETA, surrogate=surrogate)
    links = [Projection("cues", "rec", weight=W_IN), Projection("rec", "out", weight=W_OUT, plastic=False),
             Projection("kicks", "rec", weight=KICK * np.eye(N), plastic=False)]  # fmt: skip
    return Network(
        dt=dt * ms, cues=Input(N_IN), kicks=Input(N), rec=Population(N, model),
        out=Population(N_OUT, leaky_readout(tau_out=TAU_OUT * ms)), projections=links,
    )  # fmt: skip


def trials(dt):
    """The same spikes and the same target at any step; the loss is an integral, in seconds."""
    fine, steps = round(1 / dt), round(DURATION / dt)
    inputs = {}
    for name, coarse in (("cues", CUES), ("kicks", KICKS)):
        inputs[name] = np.zeros((TRIALS, steps, coarse.shape[-1]), bool)
        inputs[name][:, ::fine] = coarse
    wanted = target((np.arange(steps) + 1) * dt)
    return Trials(inputs, np.stack([wanted] * TRIALS), weight=np.full(steps, dt * 1e-3))


def gradient(dt, surrogate, rule, loss=None):
    net = network(dt, surrogate)
    grads, info = torch_backend.gradient(net, net.draw(0), trials(dt), rule, loss or mse())
    np.testing.assert_array_equal(info["counts"]["rec"], 4)  # the kicks make every spike, whatever the step
    return grads["cues_rec.weight"]


def errors(at, limit):
    """The largest difference from ``limit`` at each step, over the largest value."""
    return {dt: np.abs(found - limit).max() / np.abs(limit).max() for dt, found in at.items()}


RULES = {
    "adaptation": eprop(),
    "adaptation and reset": eprop(reset=True),
    "nothing fed back": eprop(adaptation=False),
    "bptt": bptt(),
}


@functools.cache
def sweep(name, timed):
    """The gradient at each step, and extrapolated to a step of nothing."""
    surrogate = per_time(triangle()) if timed else triangle()
    at = {dt: gradient(dt, surrogate, RULES[name]) for dt in (*STEPS, 0.05)}
    return at, 2 * at[0.05] - at[0.1]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", RULES)
def test_learning_per_unit_of_time_converges(name):
    """The error falls in proportion to dt: the extrapolated one ten times from 1 to 0.1 ms."""
    at, limit = sweep(name, True)
    found = errors(at, limit)
    assert found[1.0] < 0.25
    slopes = np.array([found[dt] / dt for dt in STEPS])
    assert slopes.max() / slopes.min() < 1.6, found
    assert found[0.1] < 0.03


def test_without_it_learning_grows_as_one_over_dt():
    """Where nothing is fed back, each step adds as much as a step ten times as long did."""
    at, _ = sweep("nothing fed back", False)
    for dt in STEPS:
        ratio = np.abs(at[dt]).max() / np.abs(at[1.0]).max()
        assert ratio == pytest.approx(1 / dt, rel=0.3)
    timed, _ = sweep("nothing fed back", True)
    for dt in STEPS:
        np.testing.assert_allclose(timed[dt], dt * at[dt], rtol=1e-10)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ["adaptation", "adaptation and reset"])
def test_without_it_feedback_has_another_limit(name):
    """A trace that feeds on psi itself does not grow without bound, it goes elsewhere: psi of one ms is spent in each
    step.
    """
    at, limit = sweep(name, False)
    timed, right = sweep(name, True)
    np.testing.assert_allclose(timed[1.0], at[1.0], rtol=1e-12)  # at the reference step nothing changes
    assert errors({0: limit}, right)[0] > 0.3
    assert errors({0: limit}, right)[0] > 50 * errors({0: timed[0.05]}, right)[0]
    scaled = {dt: dt * at[dt] for dt in STEPS}  # a smaller learning rate does not mend it
    assert errors(scaled, right)[0.1] > 0.4


# --- the limit, from the differential equations themselves ------------------------------------------------------------


def continuous(h=0.01, reset=False):
    """``sum_t`` becomes an integral: eps, the filtered eligibility and the loss by Euler in steps of ``h`` ms, spikes
    at the kicks.

    ``d eps_v/dt = -eps_v/tau_mem`` (+1 per input spike), ``e = psi/ms (eps_v - beta eps_a)``,
    ``d eps_a/dt = -eps_a/tau_adapt + e``; with the reset kept, ``d eps_v/dt`` has ``-v_th e`` too.
    """
    v, a, y = np.zeros((TRIALS, N)), np.zeros((TRIALS, N)), np.zeros((TRIALS, N_OUT))
    eps_v, eps_a, filtered, gradient = (np.zeros((TRIALS, N_IN, N)) for _ in range(4))
    fine = round(1 / h)
    for n in range(DURATION * fine):
        if n % fine == 0:
            x, z = CUES[:, n // fine].astype(float), KICKS[:, n // fine].astype(float)
            v, a, y = v + x @ W_IN + (KICK - 1) * z, a + z, y + z @ W_OUT
            eps_v = eps_v + x[:, :, None]
        psi = 0.3 * np.clip(1 - np.abs(v - 1 - BETA * a), 0, None)[:, None]
        e = psi * (eps_v - BETA * eps_a)
        signal = (y - target(n * h)) @ W_OUT.T
        gradient = gradient + 1e-3 * h * signal[:, None] * filtered
        filtered = filtered + h * (e - filtered / TAU_OUT)
        eps_v, eps_a = eps_v - h * (eps_v / TAU_MEM + (e if reset else 0)), eps_a + h * (e - eps_a / TAU_ADAPT)
        v, a, y = v * (1 - h / TAU_MEM), a * (1 - h / TAU_ADAPT), y * (1 - h / TAU_OUT)
    return gradient.mean(0)


@pytest.mark.parametrize("name", ["adaptation", "adaptation and reset"])
def test_the_limit_is_that_of_the_differential_equations(name):
    _, limit = sweep(name, True)
    found = continuous(reset=name != "adaptation")
    assert errors({0.01: found}, limit)[0.01] < 1e-3
    other = continuous(reset=name == "adaptation")
    assert errors({0.01: other}, limit)[0.01] > 0.1


# --- the regulariser, updates in every step, Brian2 -------------------------------------------------------------------


def test_the_regulariser():
    """Its push too is a sum over time; without an error there is nothing else."""
    loss, silent = mse() + rate(10, 1e-3), eprop(feedback={"rec": np.zeros((N, N_OUT))})
    at = {dt: gradient(dt, per_time(triangle()), silent, loss) for dt in (*STEPS, 0.05)}
    found = errors(at, 2 * at[0.05] - at[0.1])
    assert found[0.1] < 0.03 and 5 < found[1.0] / found[0.1] < 20


def change(dt, surrogate, update="step"):
    """What the weights have changed by after one presentation, by the generated kernels where there is a compiler."""
    net = network(dt, surrogate)
    task = Task("fixed", lambda update, batch, seed: trials(dt)[:1], lambda n, seed: trials(dt)[:n])
    record = lp.run(net, task, rule=eprop(update=update), optimiser=sgd(1e-2), loss=mse(), backend="torch", batch=1,
                    updates=1, record=["cues_rec.weight"], show=False)  # fmt: skip
    return record["cues_rec"]["weight"].values - W_IN


def test_updates_in_every_step():
    at = {dt: change(dt, per_time(triangle())) for dt in (*STEPS, 0.05)}
    limit = 2 * at[0.05] - at[0.1]
    found = errors(at, limit)
    assert np.abs(limit).max() > 1e-3
    assert found[0.1] < 0.03 and 5 < found[1.0] / found[0.1] < 20
    assert errors({0.1: change(0.1, triangle())}, limit)[0.1] > 0.4


@pytest.mark.parametrize("dt", [1.0, 0.25])
def test_kernel(dt):
    net = network(dt, per_time(triangle()))
    grads, _ = torch_backend.gradient(net, net.draw(0), trials(dt)[:1], eprop(), mse())
    found = change(dt, per_time(triangle()), "trial")
    assert errors({dt: found}, -1e-2 * grads["cues_rec.weight"])[dt] < 1e-10


@pytest.mark.parametrize("dt", [1.0, 0.25])
def test_brian2(dt):
    net, surrogate = network(dt, per_time(triangle())), per_time(triangle())
    grads, _ = brian2_backend.gradient(net, net.draw(0), trials(dt), eprop(), mse())
    assert errors({dt: grads["cues_rec.weight"]}, gradient(dt, surrogate, eprop()))[dt] < 1e-8


# --- the wrapper ------------------------------------------------------------------------------------------------------


def test_the_reference_step():
    """psi at the reference step is the published one; twice the reference is half of psi."""
    one, two = (gradient(0.5, per_time(triangle(), reference=r), RULES["nothing fed back"]) for r in (0.5 * ms, 1 * ms))
    np.testing.assert_allclose(one, gradient(0.5, triangle(), RULES["nothing fed back"]), rtol=1e-12)
    np.testing.assert_allclose(two, one / 2, rtol=1e-12)


def test_units_and_text():
    """It wraps any surrogate, in any unit, and stays text; its reference is a parameter of the neuron, with a unit."""
    wrapped = per_time(fast_sigmoid("width"))
    assert wrapped.expression == "dt/dt_reference*(1.0/(width)/(1 + abs(x)/(width))**2)"
    neuron = dataclasses.replace(cuba_lif(), surrogate=wrapped)  # checks units: one over volt
    assert neuron.parameters["dt_reference"] == 1 * ms
    with pytest.raises(ModelError, match="unit"):
        dataclasses.replace(cuba_lif(), surrogate=per_time(fast_sigmoid("tau_mem")))
    for wrong in (1.0, 0 * second, -1 * ms):
        with pytest.raises(
            ModelError, match=r"^per_time: the reference step .* is not a time; write for example 1\*ms$"
        ):
            per_time(triangle(), reference=wrong)


def test_the_reference_can_be_changed(tmp_path):
    """By another surrogate, by another parameter, per population; and it is saved with the network."""
    neuron = alif(surrogate=per_time(triangle()))
    for other in (dataclasses.replace(neuron, surrogate=per_time(triangle(), reference=2 * ms)),
                  neuron.with_parameters(dt_reference=2 * ms)):  # fmt: skip
        assert other.parameters["dt_reference"] == other.surrogate.parameters["dt_reference"] == 2 * ms
    net = network(0.5, per_time(triangle()))
    net.save(tmp_path / "net.json")
    assert Network.load(tmp_path / "net.json") == net != network(0.5, triangle())
    halved = Population(N, net.nodes["rec"].model, parameters={"dt_reference": 2 * ms})
    other = Network(dt=net.dt, projections=net.projections.values(), **{**net.nodes, "rec": halved})
    grads, _ = torch_backend.gradient(other, other.draw(0), trials(0.5), RULES["nothing fed back"], mse())
    one = gradient(0.5, per_time(triangle()), RULES["nothing fed back"])
    np.testing.assert_allclose(grads["cues_rec.weight"], one / 2, rtol=1e-12)
