"""Learning from mismatches within a neuron, against automatic differentiation of what a compartment predicts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from brian2 import Hz, ms

import localplast as lp
from localplast.backends.brian2.learner import Brian2Learner
from localplast.backends.torch.learner import TorchLearner
from localplast.backends.torch.step import Twin, leaves
from localplast.errors import NetworkError, UnsupportedError
from localplast.learning.optimise import momentum, sgd
from localplast.models import graded_readout
from localplast.network import Input, Network, Population, Projection, axonal, dendritic, normal, same_as, synaptic
from localplast.neuron import Mismatch, NeuronModel
from localplast.rules import bptt, eprop
from localplast.rules import dendritic as rule
from localplast.task import Task, Trials
from localplast.task.loss import mse

STEPS = 80


def cell(of="w_den*v_den", error="(z - dt*phi_star)*gain", **changes):
    """A soma that spikes, a dendrite with a filter that the soma does not reach, and a memory of spikes."""
    parameters = dict(
        tau_d=7 * ms, tau_s=3 * ms, tau_m=9 * ms, g_d=0.2 * Hz * 1000, w_den=0.7, gain=1.3, v_th=0.4, tau_e=20 * ms
    )
    return NeuronModel(
        name="cell",
        equations="""
            du/dt = -u/tau_m + g_d*(v_den - u) : 1
            dv_den/dt = -v_den/tau_d + (syn + extra)/tau_s : 1
            dsyn/dt = -syn/tau_s : 1
            dmemory/dt = -memory/tau_e : 1
            extra : 1
            phi_star = 100*Hz/(1 + exp(2 - 5*w_den*v_den)) : Hz
        """,
        parameters=parameters, threshold="u > v_th", reset="u = 0", adaptation="memory += 1", method="euler", receives="syn", output="memory",
        mismatch={"syn": Mismatch(error, of=of), "extra": Mismatch(error, of=of), "memory": Mismatch("0.001*z - 2e-4*memory", pre="memory")},
        **changes,
    )  # fmt: skip


def network(model=None):
    """Spikes and currents onto dendrites, spikes and memories between two populations."""
    model = model or cell()
    weight = {"weight": normal(0.8, mean=0.9, fan_in=False)}
    return Network(
        dt=0.5 * ms, cues=Input(6), drive=Input(2, "currents"), tutor=Input(3, "currents", teacher=True), a=Population(4, model),
        b=Population(3, model), out=Population(3, graded_readout()),
        projections=[
            Projection("cues", "a", **weight), Projection("drive", "a", target="extra", **weight),
            Projection("a", "b", target="extra", output="memory", **weight), Projection("a", "a", target="memory", name="loop", **weight),
            Projection("tutor", "b", target="extra", weight=np.eye(3), plastic=False),
            Projection("b", "out", output="v_den", weight=np.eye(3), plastic=False),
        ],
    )  # fmt: skip


def trials(n=2, seed=3):
    rng = np.random.default_rng(seed)
    return Trials(
        {"cues": rng.random((n, STEPS, 6)) < 0.15, "drive": rng.normal(size=(n, STEPS, 2)), "tutor": rng.normal(size=(n, STEPS, 3))},
        rng.normal(size=(n, STEPS, 3)), weight=np.full(STEPS, 1 / STEPS),
    )  # fmt: skip


DELAYS = {
    "none": lambda rng, shape: None,
    "axonal": lambda rng, shape: axonal(rng.integers(0, 5, shape[0]) * 0.5 * ms),
    "dendritic": lambda rng, shape: dendritic(1 * ms),
    "synaptic": lambda rng, shape: synaptic(rng.integers(0, 5, shape) * 0.5 * ms),
}


def delayed(kind):
    """The network with delays on one projection of spikes and one of currents."""
    net, rng = network(), np.random.default_rng(0)
    parts = [
        replace(p, delay=DELAYS[kind](rng, (net.size(p.pre), net.size(p.post)))) if p.name in ("cues_a", "a_b") else p
        for p in net.projections.values()
    ]
    return Network(dt=net.dt, projections=parts, **net.nodes)


def by_autograd(net, values, given, names, of):
    """``-sum_t error*d of/d weight`` by automatic differentiation through the trajectory, errors and spikes held as
    they are.
    """
    tensors = leaves(net, values, trainable=[f"{n}.weight" for n in names])
    twin = Twin(net, tensors, values.masks, cut={"spike", "a_b", "loop"})
    inputs = {k: torch.as_tensor(v).transpose(0, 1).double() for k, v in given.inputs.items()}
    twin.start(inputs)
    total = 0.0
    for t in range(given.steps):
        twin.advance(t)
        state = twin.states()["a"]
        phi = 100 / (1 + torch.exp(2 - 5 * 0.7 * state["v_den"]))
        error = ((twin.read("a.spikes") - float(net.dt) * phi) * 1.3).detach()
        total = total - (error * of(state)).sum()
    found = torch.autograd.grad(total / len(given), [tensors[f"{n}.weight"] for n in names])
    return {n: g.numpy() for n, g in zip(names, found, strict=True)}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", DELAYS)
def test_the_eligibility_is_how_a_weight_moves_the_prediction(kind):
    net, given = delayed(kind), trials()
    values, names = net.draw(1), ["cues_a", "drive_a"]
    expected = by_autograd(net, values, given, names, lambda s: 0.7 * s["v_den"])
    other = by_autograd(net, values, given, names, lambda s: s["u"])
    for backend in ("torch", "brian2"):
        found = lp.gradient(net, given, rule(update="trial"), loss=mse(), backend=backend, values=values)
        for name in names:
            g = found[name]["gradient"].values
            np.testing.assert_allclose(g, expected[name], rtol=1e-9, atol=1e-13)
            assert np.abs(g).max() > 1e-3 and np.abs(g - other[name]).max() > 0.1 * np.abs(g).max()


def test_a_soma_that_reaches_back_into_its_dendrite_is_followed():
    """Where the prediction is the soma itself, the way through the membrane counts, and the reset stops it."""
    net, given = network(cell(of="u")), trials()
    values = net.draw(1)
    expected = by_autograd(net, values, given, ["cues_a"], lambda s: s["u"])["cues_a"]
    for backend in ("torch", "brian2"):
        found = lp.gradient(net, given, rule(update="trial"), loss=mse(), backend=backend, values=values)["cues_a"][
            "gradient"
        ].values
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-13)


def test_what_the_presynaptic_neuron_remembers():
    net, given = network(), trials()
    values = net.draw(1)
    tensors = leaves(net, values)
    twin = Twin(net, tensors, values.masks)
    twin.start({k: torch.as_tensor(v).transpose(0, 1).double() for k, v in given.inputs.items()})
    total = torch.zeros(len(given), 4, 4, dtype=torch.float64)
    for t in range(given.steps):
        twin.advance(t)
        memory, z = twin.read("a.memory"), twin.read("a.spikes")
        total -= memory.unsqueeze(2) * (0.001 * z - 2e-4 * memory).unsqueeze(1)
    expected = total.mean(0).numpy() * values.masks["loop"]
    for backend in ("torch", "brian2"):
        found = lp.gradient(net, given, rule(update="trial"), loss=mse(), backend=backend, values=values)["loop"][
            "gradient"
        ].values
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-13)
    assert np.abs(expected).max() > 1e-2
    assert "arrived: memory of the presynaptic neuron" in str(rule().describe(net))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", ["none", "synaptic"])
def test_both_backends_learn_alike_step_by_step(kind):
    """Weights change in every step of two trials, by a low-pass filtered product; teachers are heard."""
    net, given = delayed(kind), trials()
    values, optimiser = net.draw(1), momentum(3e-5)
    options = dict(batch=1, seed=0)
    one = TorchLearner(net, values, rule(), mse(), optimiser, **options)
    two = Brian2Learner(net, values, rule(), mse(), optimiser, given[:1], **options)
    for n in range(2):
        first, second = one.train(given[n : n + 1]), two.train(given[n : n + 1])
        assert first[0]["loss"] == pytest.approx(second[0]["loss"], rel=1e-9)
        assert first[0]["rate"] == pytest.approx(second[0]["rate"], rel=1e-9) and first[0]["rate"] > 1
    two.close()
    for name in ("cues_a", "drive_a", "a_b", "loop"):
        a, b = one.numbers()[name], two.numbers()[name]
        assert np.abs(a - values.weights[name]).max() > 1e-3, name
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-11, err_msg=name)


def test_only_the_taught_hear_a_teacher():
    net, given = network(), trials()
    silent = given.without(["tutor"])

    def gradient(r, t):
        return lp.gradient(net, t, r, loss=mse(), values=net.draw(1))

    heard, unheard = (gradient(rule(update="trial"), t).attrs["loss"] for t in (given, silent))
    deaf = {gradient(bptt(cut="spike"), t).attrs["loss"] for t in (given, silent)}
    assert deaf == {unheard} and heard != unheard
    task = Task("noise", lambda update, batch, seed: given[:batch], lambda n, seed: given[:n])
    fit = lp.run(
        net,
        task,
        backend="torch",
        rule=rule(),
        optimiser=sgd(0.0),
        loss=mse(),
        updates=1,
        batch=2,
        test=2,
        values=net.draw(1),
    )
    training, tested = float(fit["metrics"]["loss"][-1]), float(fit["metrics"]["test_loss"][-1])
    assert tested == pytest.approx(unheard) and training == pytest.approx(heard)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda: rule().describe(network(NeuronModel("plain", "dv/dt = -v/tau : 1\nextra : 1\nsyn : 1\nmemory : 1\nv_den = v : 1", {"tau": 5 * ms},
                                         threshold="v > 1", reset="v = 0", receives="syn", output="v"))), "has no mismatch"),
        (lambda: eprop().describe(network()), "symmetric feedback needs a projection"),
        (lambda: cell(error="z - nothing"), "unknown variable 'nothing'"),
        (lambda: cell(of="nothing"), "unknown variable 'nothing'"),
        (lambda: lp.Mismatch("z", pre="a b") and NeuronModel("m", "v : 1", receives="v", mismatch={"v": Mismatch("v", pre="a b")}), "one variable"),
        (lambda: NeuronModel("m", "v : 1", receives="v", mismatch={"y": Mismatch("v")}), "weights land on"),
        (lambda: lp.rules.feedback_alignment(rule()), "sends no errors back"),
    ],
)  # fmt: skip
def test_errors_name_what_is_wrong(change, message):
    with pytest.raises(lp.LocalplastError, match=message):
        change()


def test_the_presynaptic_neuron_must_have_what_is_learned_from():
    net = network(cell())
    odd = Projection("cues", "b", target="memory", name="odd")
    with pytest.raises(UnsupportedError, match="'odd' learns from 'memory' of 'cues'"):
        rule().describe(Network(dt=net.dt, projections=[*net.projections.values(), odd], **net.nodes))


def test_weights_that_begin_as_others_do():
    def made(*more):
        nodes = dict(
            cues=Input(3, "currents"),
            a=Population(3, cell()),
            b=Population(2, cell()),
            out=Population(2, graded_readout()),
        )
        projections = [
            Projection("cues", "a", target="extra"),
            Projection("a", "b"),
            *more,
            Projection("b", "out", output="u"),
        ]
        return Network(dt=1 * ms, projections=projections, **nodes)

    net = made(Projection("b", "a", weight=same_as("a_b", times=-2, transposed=True)))
    values = net.draw(4)
    np.testing.assert_array_equal(values.weights["b_a"], -2 * values.weights["a_b"].T)
    assert (
        list(values.weights) == list(net.projections)
        and net.draw(5).weights["b_a"][0, 0] != values.weights["b_a"][0, 0]
    )
    again = made(
        Projection("b", "a", weight=same_as("a_b", transposed=True)),
        Projection("a", "b", weight=same_as("b_a", times=3, transposed=True), name="more"),
    )
    np.testing.assert_array_equal(again.draw(4).weights["more"], 3 * values.weights["a_b"])
    for wrong, message in (
        (same_as("b_a"), "no weights to begin as"),
        (same_as("nobody"), "no weights to begin as"),
        (same_as("a_b"), "transposed"),
    ):
        with pytest.raises(NetworkError, match=message):
            made(Projection("b", "a", weight=wrong))
