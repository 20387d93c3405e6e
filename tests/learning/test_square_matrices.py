"""Square matrices that are not symmetric: which way feedback is used shows in no shape, only in who hears whom."""

import numpy as np
import pytest
from brian2 import ms

import localplast as lp
from localplast.backends.torch import gradient as torch_backend
from localplast.backends.torch.learner import TorchLearner
from localplast.learning.optimise import sgd
from localplast.models import latent_equilibrium, latent_equilibrium_output, leaky_readout, lif
from localplast.models.layers import layered, stream
from localplast.network import Input, Network, Population, Projection, normal, same_as, transposed
from localplast.rules import bptt, decolle, dendritic, dfa, eprop, es_d_rtrl, ostl, ottt, s_tllr, sltt, superspike
from localplast.study.alignment import feedback_cosines
from localplast.task import Trials
from localplast.task.loss import mse

N, STEPS = 4, 40


def layers(*names):
    """As many neurons in every layer as channels and readouts."""
    nodes = {name: Population(N, lif()) for name in names}
    ways = zip(("cues", *names), (*names, "out"), strict=True)
    return Network(
        dt=1 * ms, cues=Input(N), **nodes, out=Population(N, leaky_readout(tau_out=15 * ms)),
        projections=[Projection(pre, post, weight=normal(1.0, mean=0.6)) for pre, post in ways],
    )  # fmt: skip


def trials():
    rng = np.random.default_rng(0)
    return Trials({"cues": rng.random((3, STEPS, N)) < 0.3}, rng.normal(size=(3, STEPS, N)), np.full(STEPS, 1 / STEPS))


def one(row, column):
    """A matrix ``(pre, post)`` with a single entry."""
    matrix = np.zeros((N, N))
    matrix[row, column] = 1.0
    return matrix


def in_kernel(net, values, given, rule):
    """What one update changes where the learner runs: the generated kernel, where there is a compiler."""
    learner = TorchLearner(net, values, rule, mse(), sgd(1.0), batch=len(given))
    learner.train(given)
    return {name: values.weights[name] - w for name, w in learner.numbers().items()}


def asked(backend, form=None):
    def gradient(net, values, given, rule):
        options = {"form": form} if form else {}
        tree = lp.gradient(net, given, rule, loss=mse(), values=values, backend=backend, **options)
        return {name: node["gradient"].values for name, node in tree.children.items()}

    return gradient


HOW = {"traces": asked("torch", "traces"), "kernel": in_kernel, "brian2": asked("brian2")}
LOCAL = {
    "e-prop": eprop, "DFA": dfa, "SuperSpike": superspike, "OTTT": ottt, "SLTT": sltt, "OSTL": ostl, "S-TLLR": s_tllr,
    "ES-D-RTRL": es_d_rtrl,
}  # fmt: skip


def hears(found):
    """The neurons whose incoming weights have a gradient."""
    return set(np.flatnonzero(np.abs(found).max(0) > 1e-12))


@pytest.mark.sampled(5)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("rule", [name for name in LOCAL if name != "SuperSpike"])  # whose judges are heard as they are
def test_feedback_that_is_given_reaches_its_neuron(rule, how):
    """``(neuron, source)``: an entry in row 1, column 2 carries the error of readout 2 to neuron 1, to nobody else."""
    net, given = layers("hid"), trials()
    found = HOW[how](net, net.draw(1), given, LOCAL[rule](feedback={"hid": one(1, 2)}))
    assert hears(found["cues_hid"]) == {1}
    values = net.draw(1).replace_weights({"hid_out": np.eye(N)})
    silent = Trials(given.inputs, np.zeros_like(given.target), given.weight)  # errors are then what readouts hear
    heard = values.replace_weights({"cues_hid": values.weights["cues_hid"] * (np.arange(N) != 2)})
    apart = HOW[how](net, heard, silent, LOCAL[rule](feedback={"hid": one(1, 2)}))
    assert not hears(apart["cues_hid"]), "neuron 2 is silent, and so is the error of readout 2"
    assert hears(HOW[how](net, heard, silent, LOCAL[rule](feedback={"hid": one(2, 1)}))["cues_hid"]) <= {2}


@pytest.mark.sampled(2, 1)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("rule", [name for name in LOCAL if name != "DFA"])
def test_weights_are_read_backwards(rule, how):
    """Where only neuron 1 reaches a readout, 2, it alone hears an error."""
    net = layers("hid")
    values = net.draw(1).replace_weights({"hid_out": one(1, 2)})
    assert hears(HOW[how](net, values, trials(), LOCAL[rule]())["cues_hid"]) == {1}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("feedback", ["symmetric", "sign", "given"])
@pytest.mark.parametrize("how", HOW)
def test_layer_by_layer(how, feedback):
    """The error of readout 2 comes to neuron 1 of the upper layer, and from there to neuron 3 of the lower one."""
    net = layers("low", "top")
    back = {"top": one(1, 2), "low": one(3, 1)}
    values = net.draw(1)
    if feedback != "given":
        values = values.replace_weights({"top_out": one(1, 2), "low_top": 3 * one(3, 1)})
    found = HOW[how](net, values, trials(), ottt(feedback=back if feedback == "given" else feedback))
    assert hears(found["low_top"]) == {1} and hears(found["cues_low"]) == {3}


@pytest.mark.parametrize("fused", [False, True])
def test_automatic_differentiation_through_given_matrices(fused, monkeypatch):
    monkeypatch.setattr(torch_backend, "WORTH_COMPILING", 0 if fused else np.inf)
    net = layers("low", "top")
    rule = bptt(feedback={"top_out": one(1, 2), "low_top": one(3, 1)}, cut={"reset"})
    found = asked("torch")(net, net.draw(1), trials(), rule)
    assert hears(found["low_top"]) == {1} and hears(found["cues_low"]) == {3}


def graded(feedback, **options):
    return layered((N, N, N), latent_equilibrium(), latent_equilibrium_output(), feedback=feedback, **options)


def shown():
    rng = np.random.default_rng(3)
    return stream(rng.random((2, 2, N)), rng.random((2, 2, N)), steps=20)


@pytest.mark.parametrize("how", ["kernel", "brian2"])
@pytest.mark.parametrize("feedback", ["symmetric", "random"])
def test_errors_that_travel_as_rates(feedback, how):
    """``down`` is the transpose of ``up2``, or is given as ``(above, below)``."""
    net = graded(feedback, down=one(2, 1))
    drawn = net.draw(1)
    weights = net.tie({**drawn.weights, "up2": one(1, 2)}) if feedback == "symmetric" else {}
    values = drawn.replace_weights(weights)
    found = HOW[how](net, values, shown(), dendritic(update="trial"))
    assert hears(found["up1"]) == {1}


def test_weights_of_another_projection_are_turned():
    for weight, turned in (
        (transposed("up", times=2.0), True), (same_as("up", transposed=True, times=2.0), True),
        (same_as("up", times=2.0), False),
    ):  # fmt: skip
        down = Projection("b", "a", name="down", weight=weight, plastic=False, target="feedback", output="delta")
        net = Network(
            dt=1 * ms, a=Population(N, latent_equilibrium()), b=Population(N, latent_equilibrium()),
            projections=[Projection("a", "b", name="up"), down],
        )  # fmt: skip
        w = net.draw(0).weights
        np.testing.assert_array_equal(w["down"], 2 * (w["up"].T if turned else w["up"]))
        assert np.abs(w["up"] - w["up"].T).max() > 0.1


def test_the_angle_of_a_projection_that_sends_errors_back():
    net = graded("learned")
    values, rule = net.draw(0), dendritic()
    up = values.weights["up2"]
    for down, cosine in ((up.T, 1.0), (-up.T, -1.0)):
        found = feedback_cosines(net, values.replace_weights({"down1": down}), rule, 0)
        assert found == {"feedback_cosine.up2": pytest.approx(cosine)}
    assert feedback_cosines(net, values.replace_weights({"down1": up}), rule, 0)["feedback_cosine.up2"] < 0.9


@pytest.mark.parametrize("target", ["feedback", "I"])
def test_feedback_is_what_has_that_role_and_not_what_a_variable_is_called(target):
    for role in ("forward", "feedback"):
        down = Projection("b", "a", name="down", weight=1.0, target=target, output="delta", role=role)
        net = Network(
            dt=1 * ms, a=Population(1, latent_equilibrium()), b=Population(1, latent_equilibrium()),
            projections=[Projection("a", "b", weight=-1.0, name="up"), down],
        )  # fmt: skip
        found = feedback_cosines(net, net.draw(0), dendritic(), 0)
        assert found == ({"feedback_cosine.up": pytest.approx(-1)} if role == "feedback" else {})


def test_the_angle_of_given_feedback():
    net = layers("hid")
    values = net.draw(0)
    w = values.weights["hid_out"]
    for rule in (eprop, bptt):
        same, turned = (feedback_cosines(net, values, rule(feedback={"hid": b}), 0) for b in (w, w.T))
        assert same == {"feedback_cosine.hid_out": pytest.approx(1)} and turned["feedback_cosine.hid_out"] < 0.999


def test_local_readouts_of_their_own():
    """DECOLLE: the readout of a layer is reached by fixed weights, and its error comes back by them."""
    given = Projection("hid", "out", plastic=False, weight=one(1, 2))
    links = [Projection("cues", "hid", weight=normal(1.0, mean=0.6)), given]
    nodes = {"cues": Input(N), "hid": Population(N, lif()), "out": Population(N, leaky_readout())}
    net = Network(dt=1 * ms, projections=links, **nodes)
    for how, gradient in HOW.items():
        assert hears(gradient(net, net.draw(0), trials(), decolle())["cues_hid"]) == {1}, how
