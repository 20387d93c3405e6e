"""Derived eligibility traces: what is stored where, and equality with autograd for neurons nobody derived by hand."""

import dataclasses
import re

import numpy as np
import pytest
import sympy
import torch
from brian2 import ms, mV

import localplast as lp
from localplast.backends.brian2 import learner as brian2_backend
from localplast.backends.torch import gradient as torch_backend
from localplast.backends.torch.online import OnlineLearner
from localplast.backends.torch.step import leaves
from localplast.equations.language import symbol
from localplast.errors import UnsupportedError
from localplast.learning.eligibility import derive
from localplast.models import alif, cuba_lif, eprop_2020, leaky_readout, lif
from localplast.network import Input, Network, Population, Projection, axonal, dendritic, normal, synaptic
from localplast.neuron import NeuronModel
from localplast.neuron.surrogate import arctan, triangle
from localplast.program.learn import plan
from localplast.rules import bptt, eprop
from localplast.task import Trials
from localplast.task.loss import mse, rate

N_IN, N, N_OUT, TRIALS, STEPS = 6, 7, 2, 2, 70


def quadratic():
    """An adaptive quadratic neuron by rk4: every coefficient of its trace depends on its state."""
    return NeuronModel(
        name="quadratic",
        equations="""
            dv/dt = (v**2 - 0.25 - u + I)/tau_mem : 1
            du/dt = (b*v - u)/tau_adapt : 1
            dI/dt = -I/tau_syn : 1
        """,
        threshold="v > v_th", reset="v = v_reset + 0.1*u", adaptation="u += jump*(1 + 0.1*u)", refractory="tau_ref",
        method="rk4", receives="I", initial={"v": -0.5},
        parameters={"tau_mem": 5 * ms, "tau_adapt": 40 * ms, "tau_syn": 4 * ms, "tau_ref": 2 * ms, "v_th": 1.0,
                    "v_reset": -0.6, "b": 0.1, "jump": 0.15},
        surrogate=arctan("v_th"),
    )  # fmt: skip


def network(model, *, delay=None, scale=1.5, parameters=None):
    links = [
        Projection("cues", "rec", weight=normal(scale, mean=0.25 * scale)), Projection("rec", "out", weight=normal(2.0)),
        Projection("rec", "rec", weight=normal(0.6 * scale), delay=delay),
    ]  # fmt: skip
    rec, out = Population(N, model, parameters=parameters or {}), Population(N_OUT, leaky_readout())
    return Network(dt=1 * ms, cues=Input(N_IN), rec=rec, out=out, projections=links)


def trials(weight=0.01):
    rng = np.random.default_rng(4)
    target = rng.standard_normal((TRIALS, STEPS, N_OUT))
    return Trials({"cues": rng.random((TRIALS, STEPS, N_IN)) < 0.2}, target, weight=np.full(STEPS, weight))


def error(found, expected):
    """The largest difference over the largest value; silence compared with silence is an error of the test."""
    assert found.keys() == expected.keys()
    scales = {k: np.abs(e).max() for k, e in expected.items()}
    if not min(scales.values()) > 1e-9:
        raise ValueError(f"nothing to compare: {min(scales, key=scales.get)} is zero")
    return max(np.abs(found[k] - e).max() / scales[k] for k, e in expected.items())


def alive(info):
    counts = info["counts"]["rec"]
    assert 1 < counts.mean() < STEPS / 3 and (counts.sum(0) > 0).mean() > 0.6, counts


def traces(net, rule=None, loss=None, given=None, values=None):
    grads, info = torch_backend.gradient(
        net, values or net.draw(1), given or trials(), rule or eprop(), loss or mse(), form="traces"
    )
    alive(info)
    return grads


def by_autograd(net, rule, loss=None, given=None):
    """Autograd through the network's own step with the rule's edges cut: no eligibility is derived for it."""
    cut = bptt(cut=rule.cut, feedback=rule.feedback)
    return torch_backend.gradient(net, net.draw(1), given or trials(), cut, loss or mse())[0]


# --- what is stored where ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "hoisted", "stored"),
    [
        (lif(), {"v"}, ()),
        (alif(), {"v"}, ("eps_a",)),
        (cuba_lif(), {"I"}, ("eps_v",)),  # clamped while refractory, so the membrane's part differs between neurons
        (cuba_lif().with_parameters(tau_ref=0 * ms), {"I"}, ("eps_v",)),
        (eprop_2020(), {"v", "I"}, ("eps_a", "eps_adaptation_due")),
        (quadratic(), {"I"}, ("eps_v", "eps_u")),
    ],
    ids=lambda x: getattr(x, "name", None),
)
def test_hoisting(model, hoisted, stored):
    scale = 1 * mV if model.name == "cuba_lif" else 1.0
    net = network(model, scale=scale)
    for name in ("cues_rec", "rec_rec"):
        found = derive(net, net.projections[name])
        assert {n.removeprefix("last_eps_") for n, _ in found.pre if n.startswith("last_")} == hoisted
        assert set(found.state) == set(stored)
        assert found.arrives == "pre"
    readout = derive(net, net.projections["rec_out"])
    assert readout.state == () and len(readout.pre) == 2


def test_plans_store_one_more():
    """What a synapse stores in all: LIF the filtered trace, ALIF its own trace too, rates one sum."""
    for model, count in ((lif(), 1), (alif(), 2)):
        net = network(model)
        assert len(plan(net, eprop(), mse()).synapses["cues_rec"].state) == count
        assert len(plan(net, eprop(), mse() + rate(10, 1)).synapses["cues_rec"].state) == count + 1


def test_following_the_reset_costs_a_trace():
    net = network(lif())
    found = derive(net, net.projections["rec_rec"], keep=("reset",))
    assert found.state == ("eps_v",) and found.pre == ()


ROW = np.arange(N) % 4 * ms
SPREAD = np.linspace(10, 30, N) * ms


@pytest.mark.sampled(2)
@pytest.mark.parametrize("model", [lif(tau_ref=2 * ms), alif(tau_ref=2 * ms, beta=0.3)], ids=lambda m: m.name)
def test_hoisting_backs_off(model):
    """Delays per synapse or time constants per neuron: one trace per synapse, the numbers stay right."""
    varied = {
        "synaptic": network(model, delay=synaptic(np.arange(N * N).reshape(N, N) % 5 * ms)),
        "dendritic": network(model, delay=dendritic(ROW)),
        "tau_mem": network(model, parameters={"tau_mem": SPREAD}),
    }
    for name, net in varied.items():
        found = derive(net, net.projections["rec_rec"])
        assert found.pre == () and "eps_v" in found.state, name
        assert error(traces(net), by_autograd(net, eprop())) < 1e-10, name
        grads, _ = brian2_backend.gradient(net, net.draw(1), trials(), eprop(), mse())
        assert error(grads, by_autograd(net, eprop())) < 1e-8, name


@pytest.mark.sampled(2)
@pytest.mark.parametrize("model", [lif(tau_ref=2 * ms), alif(tau_ref=2 * ms, beta=0.3)], ids=lambda m: m.name)
def test_hoisting_changes_no_number(model):
    """The same network, once hoisted and once made to store a trace per synapse."""
    pairs = [
        (network(model, delay=axonal(3 * ms)), network(model, delay=synaptic(np.full((N, N), 3) * ms))),
        (network(model, delay=axonal(ROW)), network(model, delay=synaptic(np.repeat(ROW[:, None] / ms, N, 1) * ms))),
        (network(model), network(model, parameters={"tau_mem": np.full(N, 20) * ms})),
    ]
    for hoisted, whole in pairs:
        states = [derive(net, net.projections["rec_rec"]).state for net in (hoisted, whole)]
        assert len(states[0]) == len(states[1]) - 1
        assert error(traces(hoisted), traces(whole)) < 1e-12


# --- neurons nobody derived by hand -----------------------------------------------------------------------------------

NEURONS = {
    "cuba_lif": network(cuba_lif(tau_ref=3 * ms), scale=40 * mV),
    "cuba_lif, delays": network(cuba_lif(tau_ref=3 * ms), scale=40 * mV, delay=axonal(ROW)),
    "quadratic": network(quadratic(), scale=2.0),
    "quadratic, per neuron": network(quadratic(), scale=2.0, parameters={"tau_adapt": SPREAD}, delay=dendritic(ROW)),
    "eprop_2020": network(eprop_2020(beta=0.3, tau_ref=2 * ms)),
}


@pytest.mark.sampled(5, 1)
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("name", NEURONS)
def test_autograd(name, reset):
    net, rule, loss = NEURONS[name], eprop(reset=reset), mse() + rate(10, 1e-5)
    expected = by_autograd(net, rule, loss)
    assert error(traces(net, rule, loss), expected) < 1e-10
    other = by_autograd(net, eprop(reset=not reset), loss)
    assert error(traces(net, rule, loss), other) > 0.01  # the reset matters here


@pytest.mark.sampled(5)
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("name", NEURONS)
def test_brian2(name, reset):
    net, rule = NEURONS[name], eprop(reset=reset)
    grads, info = brian2_backend.gradient(net, net.draw(1), trials(), rule, mse())
    alive(info)
    assert error(grads, by_autograd(net, rule)) < 1e-8


# --- properties -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [lif(), alif(), quadratic()], ids=lambda m: m.name)
def test_linear_in_psi(model):
    net = network(model)
    for keep in ((), ("adaptation",), ("adaptation", "reset")):
        value = derive(net, net.projections["cues_rec"], keep=keep).value
        psi = symbol("psi")
        assert value.subs(psi, 0) == 0 and sympy.diff(value, psi, 2) == 0 != sympy.diff(value, psi)


def test_twice_psi_is_twice_the_gradient():
    """Without a path through the neuron's own spike; with one, psi enters again and again."""
    nets = [network(alif(tau_ref=2 * ms, beta=0.3, surrogate=triangle(gamma=g))) for g in (0.3, 0.6)]
    local = eprop(adaptation=False)
    one, two = (traces(net, local) for net in nets)
    hidden = ("cues_rec.weight", "rec_rec.weight")
    assert error({k: two[k] for k in hidden}, {k: 2 * one[k] for k in hidden}) < 1e-12
    one, two = (traces(net) for net in nets)
    assert error({k: two[k] for k in hidden}, {k: 2 * one[k] for k in hidden}) > 0.01


def test_without_adaptation_alif_is_lif():
    plain, adaptive = network(lif(tau_ref=2 * ms)), network(alif(tau_ref=2 * ms, beta=0.0))
    assert error(traces(adaptive), traces(plain)) < 1e-12
    for net, values in ((plain, adaptive.draw(1)), (network(alif(tau_ref=2 * ms, beta=0.3)), None)):
        same = error(traces(net, values=values and net.draw(1)), traces(plain)) < 1e-12
        assert same == (net is plain)


def test_no_learning_signal():
    """Nothing is left but the regulariser; without it, nothing at all."""
    net, silent = network(alif(tau_ref=2 * ms, beta=0.3)), eprop(feedback={"rec": np.zeros((N, N_OUT))})
    loss, unjudged = mse() + rate(10, 1e-5), trials(weight=0.0)
    hidden = ("cues_rec.weight", "rec_rec.weight")
    nothing, pushed = traces(net, silent), traces(net, silent, loss)
    for name in hidden:
        assert not nothing[name].any() and nothing["rec_out.weight"].any()
    alone = by_autograd(net, eprop(), loss, unjudged)
    assert not alone["rec_out.weight"].any()
    assert error({k: pushed[k] for k in hidden}, {k: alone[k] for k in hidden}) < 1e-10
    both = traces(net, eprop(), loss)
    apart = traces(net, eprop())
    assert error({k: both[k] - apart[k] for k in hidden}, {k: alone[k] for k in hidden}) < 1e-10


# --- planted errors ---------------------------------------------------------------------------------------------------


def with_plan(net, change):
    """The gradient of ``net`` when the synapse plan of the inputs has been tampered with."""
    learned = plan(net, eprop(), mse())
    learned.synapses["cues_rec"] = change(learned.synapses["cues_rec"])
    values, given = net.draw(1), trials()
    inputs, target, weight = torch_backend.prepare(net, given, mse(), rng=np.random.default_rng(0), dtype=torch.float64)
    learner = OnlineLearner(net, learned, leaves(net, values), values.masks)
    learner.run(inputs, target, weight)
    return {f"{k}.weight": g.numpy() for k, g in learner.gradients().items()}


def off(program, name, factor):
    return tuple((n, factor * e if n == name else e) for n, e in program)


def one_percent_off(trace):
    """A change of a synapse plan: wherever ``trace`` is computed, it comes out 1 % too large."""

    def change(synapses):
        eligibility = synapses.eligibility
        eligibility = dataclasses.replace(eligibility, pre=off(eligibility.pre, trace, 1.01))
        return dataclasses.replace(synapses, eligibility=eligibility, program=off(synapses.program, trace, 1.01))

    return change


@pytest.mark.parametrize("trace", ["eps_v", "elig", "eps_a", "faded_v"])
def test_planted_errors_are_caught(trace):
    """Cosine similarity passes them all, which is why nothing here is judged by it."""
    net = network(alif(tau_ref=2 * ms, beta=0.3))
    expected = by_autograd(net, eprop())
    assert error(with_plan(net, lambda s: s), expected) < 1e-10
    wrong = with_plan(net, one_percent_off(trace))
    assert error(wrong, expected) > 1e-4
    a, b = wrong["cues_rec.weight"], expected["cues_rec.weight"]
    assert (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b) > 0.999
    with pytest.raises(ValueError, match="nothing to compare"):
        error({k: 0 * v for k, v in wrong.items()}, {k: 0 * v for k, v in expected.items()})


# --- names that are made of two ---------------------------------------------------------------------------------------


def crossing(**names):
    """A neuron whose ``a_b`` follows the square of ``c``, and ``a`` that of ``b_c``: both slopes are d_a_b_c."""
    text = "da_b/dt = (c*c - a_b)/tau : 1\nda/dt = (b_c*b_c - 2*a)/tau : 1\ndc/dt = -c/tau : 1\ndb_c/dt = -b_c/tau : 1"
    for old, new in names.items():
        text = re.sub(rf"(?<![A-Za-z0-9_])(d?){old}\b", rf"\g<1>{new}", text)
    model = NeuronModel(
        "crossing", text, {"tau": 10 * ms}, threshold=f"{names.get('a_b', 'a_b')} + {names.get('a', 'a')} > 0.5",
        reset=f"{names.get('a_b', 'a_b')} = 0", method="euler", receives=names.get("c", "c"), surrogate=triangle("1.0"),
    )  # fmt: skip
    weights = np.random.default_rng(0).normal(0.3, 0.2, (2, 4, 3))
    return Network(
        dt=1 * ms, cues=Input(4), rec=Population(3, model), out=Population(2, leaky_readout()),
        projections=[
            Projection("cues", "rec", weight=weights[0]), Projection("rec", "out"),
            Projection("cues", "rec", weight=weights[1], target=names.get("b_c", "b_c"), name="other"),
        ],
    )  # fmt: skip


@pytest.mark.parametrize("backend", ["torch", "brian2"])
def test_slopes_of_one_name_are_kept_apart(backend):
    trials = Trials({"cues": np.random.default_rng(1).random((2, 30, 4)) < 0.3}, np.array([0, 1]))
    options = {"form": "traces"} if backend == "torch" else {"backend": "brian2"}
    found = lp.gradient(crossing(), trials, eprop(), **options)
    apart = lp.gradient(crossing(a_b="k", b_c="u"), trials, eprop(), **options)
    for name in ("cues_rec", "other", "rec_out"):
        assert np.abs(apart[name]["gradient"]).max() > 1e-3
        np.testing.assert_allclose(found[name]["gradient"], apart[name]["gradient"], rtol=1e-10, atol=1e-14)


def test_traces_of_two_parameters_that_would_have_one_name_are_refused():
    model = NeuronModel(
        "cell", "dv/dt = (b_v - v)/a_b : 1\ndb_v/dt = -b_v/a : 1", {"a": 5 * ms, "a_b": 9 * ms}, threshold="v > 1",
        reset="v -= 1", receives="b_v", surrogate=triangle("1.0"),
    )  # fmt: skip
    net = Network(
        dt=1 * ms, cues=Input(4), rec=Population(3, model, trainable=dict.fromkeys(("a", "a_b"), (1 * ms, None))),
        out=Population(2, leaky_readout()), projections=[Projection("cues", "rec"), Projection("rec", "out")],
    )  # fmt: skip
    trials = Trials({"cues": np.zeros((1, 5, 4), bool)}, np.array([0]))
    with pytest.raises(
        UnsupportedError, match="^population 'rec': two things that learning needs would be called '.*a_b_v'"
    ):
        lp.gradient(net, trials, eprop(), form="traces")


def test_traces_of_two_projections_that_would_have_one_name_are_refused_by_brian2():
    model = NeuronModel(
        "cell", "dv/dt = (v_a - v)/tau : 1\ndv_a/dt = -v_a/tau : 1", {"tau": 9 * ms}, threshold="v > 1", reset="v -= 1",
        receives="v_a", surrogate=triangle("1.0"),
    )  # fmt: skip
    net = Network(
        dt=1 * ms, cues=Input(4), rec=Population(3, model), out=Population(2, leaky_readout()),
        projections=[
            Projection("cues", "rec", name="b"), Projection("cues", "rec", target="v", name="a_b"), Projection("rec", "out"),
        ],
    )  # fmt: skip
    trials = Trials({"cues": np.random.default_rng(1).random((2, 30, 4)) < 0.5}, np.array([0, 1]))
    assert np.isfinite(lp.gradient(net, trials, eprop(), form="traces").attrs["loss"])
    with pytest.raises(
        UnsupportedError, match="^'cues': in Brian2 traces of two of its projections would both be called"
    ):
        lp.gradient(net, trials, eprop(), backend="brian2")
