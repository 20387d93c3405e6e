"""e-prop where the answer is known by other means: difference quotients of the readout (E2), adaptation in its limits
(E3, E4).
"""

import numpy as np
import pytest
from brian2 import ms

from localplast.backends.brian2 import learner as brian2_backend
from localplast.backends.torch import gradient as torch_backend
from localplast.models import alif, leaky_readout, lif
from localplast.network import Input, Network, Population, Projection, normal
from localplast.rules import bptt, eprop
from localplast.task import Trials
from localplast.task.loss import cross_entropy, mse, rate

N_IN, N, N_OUT, TRIALS, STEPS = 6, 7, 3, 2, 80
HIDDEN = ("cues_rec.weight", "rec_rec.weight")


def network(model):
    links = [
        Projection("cues", "rec", weight=normal(1.5, mean=0.4)), Projection("rec", "rec", weight=normal(0.8)),
        Projection("rec", "out", weight=normal(1.5)),
    ]  # fmt: skip
    return Network(
        dt=1 * ms, cues=Input(N_IN), rec=Population(N, model), out=Population(N_OUT, leaky_readout()), projections=links
    )


def trials(labels=False):
    rng = np.random.default_rng(4)
    inputs = {"cues": rng.random((TRIALS, STEPS, N_IN)) < 0.2}
    target = rng.integers(0, N_OUT, TRIALS) if labels else rng.standard_normal((TRIALS, STEPS, N_OUT))
    return Trials(inputs, target, weight=rng.uniform(0.2, 1.0, STEPS) * 0.1)


def gradients(net, rule=None, loss=None, given=None, values=None, form="traces"):
    """The gradients and what was seen on the way; the network has to spike."""
    loss, given, rule = loss or mse(), given or trials(), rule or eprop()
    grads, info = torch_backend.gradient(
        net, values or net.draw(1), given, rule, loss, form=form if rule.local else None
    )
    counts = info["counts"]["rec"]
    assert 1 < counts.mean() < STEPS / 3 and (counts.sum(0) > 0).mean() > 0.6, counts
    return grads, info


def error(found, expected):
    """The largest difference over the largest value; silence compared with silence is an error of the test."""
    assert found.keys() == expected.keys()
    scales = {k: np.abs(e).max() for k, e in expected.items()}
    if not min(scales.values()) > 1e-9:
        raise ValueError(f"nothing to compare: {min(scales, key=scales.get)} is zero")
    return max(np.abs(found[k] - e).max() / scales[k] for k, e in expected.items())


# --- E2: the readout is smooth, so that difference quotients of the loss say what its gradient is ---------------------


def differences(net, name, loss, given, step=1e-4):
    """Central difference quotients of the loss, weight by weight."""
    values = net.draw(1)
    found = np.zeros_like(values.weights[name])
    for index in np.argwhere(values.masks[name]):
        ends = []
        for side in (1, -1):
            moved = values.weights[name].copy()
            moved[tuple(index)] += side * step
            at = values.replace_weights({name: moved})
            ends.append(gradients(net, loss=loss, given=given, values=at, form="adjoint")[1]["loss"])  # the quickest
        found[tuple(index)] = (ends[0] - ends[1]) / (2 * step)
    return {f"{name}.weight": found}


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["mse", "cross_entropy"])
def test_difference_quotients_of_the_readout(kind):
    net, given = network(alif(tau_ref=2 * ms, beta=0.3)), trials(labels=kind == "cross_entropy")
    loss = (mse() if kind == "mse" else cross_entropy()) + rate(10, 1e-4)
    expected = differences(net, "rec_out", loss, given)
    name = "rec_out.weight"
    estimates = {
        "traces": gradients(net, eprop(), loss, given)[0], "bptt": gradients(net, bptt(), loss, given)[0],
        "random feedback": gradients(net, eprop(feedback="random"), loss, given)[0],
        "brian2": brian2_backend.gradient(net, net.draw(1), given, eprop(), loss)[0],
    }  # fmt: skip
    for where, grads in estimates.items():
        assert error({name: grads[name]}, expected) < 1e-6, where
    wrong = estimates["traces"][name].copy()
    wrong[np.unravel_index(np.abs(wrong).argmax(), wrong.shape)] *= 1 + 1e-4
    assert error({name: wrong}, expected) > 1e-6


@pytest.mark.thorough
def test_hidden_weights_have_no_difference_quotient():
    """A step too small to move a spike changes nothing: what e-prop and BPTT give there is the surrogate's."""
    net, given = network(alif(tau_ref=2 * ms, beta=0.3)), trials()
    found = differences(net, "cues_rec", mse(), given, step=1e-9)
    assert not found["cues_rec.weight"].any()
    assert np.abs(gradients(net)[0]["cues_rec.weight"]).max() > 1e-3


# --- E3, E4: adaptation of no strength, or gone within a step, is none ------------------------------------------------


@pytest.mark.sampled(2)
@pytest.mark.parametrize("rule", [eprop(), eprop(reset=True), bptt()], ids=["e-prop", "reset followed", "bptt"])
@pytest.mark.parametrize("gone", [alif(tau_ref=2 * ms, beta=0.0), alif(tau_ref=2 * ms, beta=0.3, tau_adapt=1e-3 * ms)],
                         ids=["no strength", "gone within a step"])  # fmt: skip
def test_without_adaptation_alif_is_lif(gone, rule):
    expected, info = gradients(network(lif(tau_ref=2 * ms)), rule)
    found, same = gradients(network(gone), rule)
    np.testing.assert_array_equal(same["counts"]["rec"], info["counts"]["rec"])
    assert error(found, expected) < 1e-12
    other, _ = gradients(network(alif(tau_ref=2 * ms, beta=0.3)), rule)
    assert error({k: other[k] for k in HIDDEN}, {k: expected[k] for k in HIDDEN}) > 0.01


def test_fast_adaptation_approaches_none():
    """What is left after one step is ``exp(-dt/tau_adapt)``, and the gradients differ in proportion to it."""
    expected, _ = gradients(network(lif(tau_ref=2 * ms)))
    left = np.array([1e-4, 1e-5, 1e-6])
    found = []
    for share in left:
        grads, _ = gradients(network(alif(tau_ref=2 * ms, beta=0.3, tau_adapt=-1 / np.log(share) * ms)))
        found.append(error(grads, expected))
    np.testing.assert_allclose(found / left, found[-1] / left[-1], rtol=0.02)
    assert found[-1] / left[-1] > 0.01


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "gone", [alif(beta=0.0), alif(beta=0.3, tau_adapt=1e-3 * ms)], ids=["no strength", "gone within a step"]
)
def test_on_brian2(gone):
    estimates = [
        brian2_backend.gradient(n, n.draw(1), trials(), eprop(), mse())[0] for n in (network(gone), network(lif()))
    ]
    assert error(*estimates) < 1e-10


def test_silence_is_not_compared():
    with pytest.raises(ValueError, match="nothing to compare: a is zero"):
        error({"a": np.zeros(2)}, {"a": np.zeros(2)})
    quiet = Trials({"cues": np.zeros((TRIALS, STEPS, N_IN), bool)}, np.zeros((TRIALS, STEPS, N_OUT)))
    with pytest.raises(AssertionError):
        gradients(network(lif()), given=quiet)
