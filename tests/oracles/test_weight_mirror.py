"""Weight mirrors: where the feedback of a mirror phase goes, in closed form, step by step, and as an angle.

For a linear response ``dB = rate*xi r^T - decay*B`` leads to ``B = rate*sigma^2/decay * W``. Akrout et al. 2019,
NeurIPS.
"""

from dataclasses import replace

import numpy as np
import pytest
from brian2 import ms

from localplast.analysis.distance import cosine_of
from localplast.errors import LocalplastError
from localplast.models import alif, instant_readout, leaky_readout, lif
from localplast.network import Input, Network, Population, Projection, axonal, normal
from localplast.rules import ottt
from localplast.runs.gradient import gradient
from localplast.runs.mirror import mirror
from localplast.task import Trials
from localplast.task.loss import mse

N_HID, N_TOP, N_OUT = 8, 6, 3
BACKENDS = [("torch", 1e-10), ("brian2", 1e-8)]


def network(readout=None, *, delay=None, model=None, mask=None):
    return Network(
        dt=1 * ms, cues=Input(5), hid=Population(N_HID, lif()), top=Population(N_TOP, model or lif(tau_ref=2 * ms)),
        out=Population(N_OUT, readout or instant_readout()), projections=[
            Projection("cues", "hid", weight=normal(1.2, mean=0.35)), Projection("hid", "top", weight=normal(1.5), delay=delay),
            Projection("top", "out", weight=normal(1.0), mask=mask),
        ],
    )  # fmt: skip


def degrees(one, other):
    return np.degrees(np.arccos(cosine_of(one, other)))


def one_at_a_time(_, shape):
    """Every neuron once, positive and then negative: noise without any correlation, not even by chance."""
    trials, steps, size = shape
    assert steps == 2 * size
    once = np.concatenate([np.eye(size), np.zeros((size, size))]) > 0
    return np.tile(once, (trials, 1, 1)), np.tile(once[::-1], (trials, 1, 1))


def all_at_once(rng, shape):
    """Perfectly correlated noise."""
    return tuple(np.repeat(rng.random((*shape[:2], 1)) < 0.1, shape[2], axis=2) for _ in range(2))


def silence(_, shape):
    return np.zeros(shape, bool), np.zeros(shape, bool)


@pytest.mark.parametrize(("backend", "tolerance"), BACKENDS)
def test_linear_fixed_point(backend, tolerance):
    """``B = rate*sigma^2/decay * (1 - (1 - decay)^n) * W`` exactly, where noise is uncorrelated exactly."""
    net = network(mask=np.random.default_rng(0).random((N_TOP, N_OUT)) < 0.7)
    values, n = net.draw(3), 4
    settings = {"learning_rate": 0.5, "decay": 0.2, "trials": 2, "steps": 2 * N_TOP, "emit": one_at_a_time}
    found = mirror(net, ["top_out"], values=values, presentations=n, backend=backend, **settings)["top_out"]
    variance = 1 / N_TOP
    expected = 0.5 * variance / 0.2 * (1 - 0.8**n) * values.weights["top_out"]
    assert np.abs(expected).max() > 0.1
    assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()
    further = mirror(
        net, ["top_out"], values=values, presentations=1, start={"top_out": found}, backend=backend, **settings
    )
    expected *= (1 - 0.8 ** (n + 1)) / (1 - 0.8**n)
    assert np.abs(further["top_out"] - expected).max() < tolerance * np.abs(expected).max()


@pytest.mark.parametrize(("backend", "tolerance"), BACKENDS)
def test_without_noise_feedback_decays(backend, tolerance):
    net, start = network(), np.random.default_rng(1).standard_normal((N_HID, N_TOP))
    found = mirror(
        net, ["hid_top"], start={"hid_top": start}, presentations=2, steps=5, decay=0.3, emit=silence, backend=backend
    )
    assert np.abs(found["hid_top"] - 0.7**2 * start).max() < tolerance


def correlation(net, values, positive, negative, *, delay, gain):
    """``<xi_i r_j>`` of the spiking layer, written out: ``(pre, post)``."""
    xi = positive.astype(float) - negative  # (trial, time, pre)
    trials, steps, _ = xi.shape
    w, kappa, alpha = gain * values.weights["hid_top"], np.exp(-1 / 5), np.exp(-1 / 20)
    v, silent, response, trace = np.zeros((trials, N_TOP)), np.zeros((trials, N_TOP)), 0.0, 0.0
    total, spikes = np.zeros(w.shape), 0
    for t in range(steps):
        v = alpha * v
        z = (v > 1) * (silent <= 0) * 1.0
        silent = np.where(z, 2.0, silent) - 1
        response = kappa * response + z
        trace = kappa * trace + (xi[:, t - delay - 1] if t > delay else 0)
        v = v + (xi[:, t - delay] @ w if t >= delay else 0) - z
        total += np.einsum("bi,bj->ij", trace + np.zeros(xi[:, t].shape), response) / trials / steps
        spikes += z.mean() / steps
    assert 0.02 < spikes < 0.4
    return total


@pytest.mark.parametrize(("backend", "tolerance"), BACKENDS)
@pytest.mark.parametrize("delay", [0, 3])
def test_spiking_response_step_by_step(delay, backend, tolerance):
    """One presentation is the correlation of noise with low-passed spikes, computed by hand; a step later it is
    another.
    """
    net = network(delay=axonal(delay * ms))
    values, shape = net.draw(3), (2, 150, N_HID)
    rng = np.random.default_rng(2)
    spikes = rng.random(shape) < 0.08, rng.random(shape) < 0.08
    found = mirror(
        net,
        ["hid_top"],
        values=values,
        presentations=1,
        trials=2,
        steps=150,
        gain=2.0,
        emit=lambda *_: spikes,
        backend=backend,
    )["hid_top"]
    expected = correlation(net, values, *spikes, delay=delay, gain=2.0)
    scale = np.abs(expected).max()
    assert np.abs(found - expected).max() < tolerance * scale
    one_sign = correlation(net, values, spikes[0], silence(None, shape)[0], delay=delay, gain=2.0)
    assert np.abs(found - one_sign).max() > 0.1 * scale


@pytest.mark.thorough
@pytest.mark.parametrize("model", [lif(), alif(tau_adapt=60 * ms)], ids=["LIF", "ALIF"])
def test_spiking_layers_are_mirrored(model):
    """Within ten degrees; noise that is correlated tells nothing about single weights."""
    net = network(leaky_readout(), model=model)
    values, settings = net.draw(3), {"presentations": 25, "steps": 400, "trials": 8, "gain": 2.0, "decay": 0.05}
    found = mirror(net, values=values, **settings)
    assert found.keys() == {"hid_top", "top_out"}  # what carries errors back
    for path, feedback in found.items():
        assert degrees(feedback, values.weights[path]) < 10, path
    wrong = mirror(net, ["hid_top"], values=values, emit=all_at_once, **settings | {"presentations": 5})["hid_top"]
    assert degrees(wrong, values.weights["hid_top"]) > 30
    assert np.linalg.matrix_rank(wrong, tol=1e-9 * np.abs(wrong).max()) == 1


@pytest.fixture(scope="module")
def learned():
    """Feedback that mirrors what :func:`network` draws from seed 3."""
    net = network(leaky_readout())
    return mirror(net, values=net.draw(3), presentations=15, steps=300, trials=8, gain=2.0)


@pytest.mark.thorough
@pytest.mark.parametrize("backend", ["torch", "brian2"])
def test_a_rule_takes_the_mirrored_feedback(backend, learned):
    """The gradient of the lowest layer points where symmetric feedback points; random feedback does not."""
    net, rng = network(leaky_readout()), np.random.default_rng(4)
    values = net.draw(3)
    given = Trials({"cues": rng.random((2, 60, 5)) < 0.4}, rng.standard_normal((2, 60, N_OUT)))
    rules = {"symmetric": ottt(), "mirrored": ottt(feedback=learned), "random": ottt(feedback="random")}
    lowest = {
        k: gradient(net, given, rule, loss=mse(), values=values, backend=backend)["cues_hid"]["gradient"].values
        for k, rule in rules.items()
    }
    assert degrees(lowest["mirrored"], lowest["symmetric"]) < 25
    assert degrees(lowest["random"], lowest["symmetric"]) > 45


def test_what_it_refuses():
    with pytest.raises(LocalplastError, match="'hid_out'.*hid_top"):
        mirror(network(), ["hid_out"])


def test_learned_parameters_are_mirrored_too():
    """The responding neurons are those of ``values``, not of the network as it was written."""
    net = network()
    values = net.draw(3)
    numbers = {**values.parameters["top"], "v_th": np.asarray(0.5)}
    other = replace(values, parameters={**values.parameters, "top": numbers})
    settings = {"presentations": 1, "steps": 100, "gain": 2.0}
    one, two = (mirror(net, ["hid_top"], values=v, **settings)["hid_top"] for v in (values, other))
    assert np.abs(one - two).max() > 0.01
