"""A rule that does not fit the network is refused by both backends, before anything is built."""

import numpy as np
import pytest
from brian2 import ms, mV

from localplast.backends.brian2 import learner as brian2_backend
from localplast.backends.brian2.learner import gradient
from localplast.backends.torch import gradient as torch_backend
from localplast.errors import LocalplastError, NetworkError, UnsupportedError
from localplast.models import leaky_readout, lif, van_rossum_readout
from localplast.network import Input, Network, Population, Projection, axonal
from localplast.neuron import NeuronModel
from localplast.neuron.surrogate import triangle
from localplast.rules import bptt, decolle, dfa, drtp, eprop, feedback_alignment, ottt, rtrl, sltt, superspike
from localplast.task import Trials
from localplast.task.loss import mse


def layers(*more, low=None, readout=None, delay=None, plastic=True, **nodes):
    """cues -> low -> top -> out."""
    links = [
        Projection("cues", "low"), Projection("low", "top", delay=delay, plastic=plastic), Projection("top", "out"), *more,
    ]  # fmt: skip
    made = {
        "low": Population(4, low or lif()),
        "top": Population(5, lif()),
        "out": Population(2, readout or leaky_readout()),
    }
    return Network(dt=1 * ms, cues=Input(3), **{**made, **nodes}, projections=links)


def silent_type():
    """A neuron that spikes, without a surrogate."""
    return NeuronModel(
        name="mute",
        equations="dv/dt = -v/tau : 1",
        threshold="v > 1",
        reset="v = 0",
        parameters={"tau": 5 * ms},
        receives="v",
    )


def slow_type():
    """A neuron whose spikes follow its input two steps late."""
    return NeuronModel(
        name="slow", equations="v : 1\n I : 1\n J : 1", update="v = I\n I = J\n J = 0", threshold="v > 1", receives="J",
        surrogate=triangle("1"),
    )  # fmt: skip


NO_SURROGATE = r"^population 'low': mute spikes but has no surrogate, so projection 'cues_low' cannot learn; give the model surrogate=triangle\(\)"
RULES = {
    "e-prop without surrogate": (lambda: layers(low=silent_type()), lambda: eprop(feedback="random"), NO_SURROGATE),
    "a layered rule without surrogate": (lambda: layers(low=silent_type()), ottt, NO_SURROGATE),
    "BPTT without surrogate": (lambda: layers(low=silent_type()), bptt, NO_SURROGATE),
    "no readout": (
        lambda: Network(dt=1 * ms, cues=Input(3), low=Population(4, lif()), projections=[Projection("cues", "low")]), dfa,
        r"^a loss needs a readout \(a population without threshold, with an output, .*\); this network has none$",
    ),
    "readouts of different size": (
        lambda: layers(Projection("low", "aside"), aside=Population(3, leaky_readout())), decolle,
        r"^the readouts of a network share one target, so they need outputs of one number; here: out \(2\), aside "
        r"\(3\)$",
    ),
    "shape of feedback": (
        layers, lambda: dfa(feedback={"low": np.ones((2, 4)), "top": np.ones((5, 2))}),
        r"^feedback to 'low' has shape \(2, 4\); \(neuron, source\) is \(4, 2\)$",
    ),
    "shape of feedback to a layer": (
        layers, lambda: ottt(feedback={"low": np.ones((4, 2)), "top": np.ones((5, 2))}),
        r"^feedback to 'low' has shape \(4, 2\); \(neuron, source\) is \(4, 5\)$",
    ),
    "shape of feedback of BPTT": (
        layers, lambda: bptt(feedback={"low_top": np.ones((5, 4))}), r"^feedback to 'low_top' has shape \(5, 4\); .* is \(4, 5\)$",
    ),
    "feedback to somebody else": (
        layers, lambda: dfa(feedback={"rec": np.ones((4, 2))}), r"^feedback has no matrix for 'low'; it has \['rec'\]$",
    ),
    "feedback of BPTT to somebody else": (
        layers, lambda: bptt(feedback={"rec": np.ones((4, 2))}),
        r"^feedback names \['rec'\]; errors come back along low_top, top_out$",
    ),
    "signs in automatic differentiation": (
        layers, lambda: bptt(feedback="sign"), r"fixed matrices, not 'sign' feedback; use a layered local rule such as ottt\(\)",
    ),
    "learned feedback in automatic "
    "differentiation": (layers, lambda: bptt(feedback="learned"), r"not 'learned' feedback; use a"),
    "symmetric feedback without a path": (
        layers, eprop,
        r"^symmetric feedback needs a projection from 'low' to 'out', whose weights would .*; use feedback='random'$",
    ),
    "signs without a path": (layers, lambda: eprop(feedback="sign"), r"^sign feedback needs a projection from 'low' to 'out'"),
    "learned feedback without a "
    "path": (layers, lambda: eprop(feedback="learned"), r"^learned feedback needs a projection from 'low'"),
    "several paths to one readout": (
        lambda: layers(Projection("top", "out", name="again")), lambda: eprop(feedback="random"),
        r"^projections top_out, again: errors come back from 'out' to 'top' along one projection only; put the weights "
        r"into one",
    ),
    "several paths to one layer": (
        lambda: layers(Projection("low", "top", name="again")), ottt, r"^projections low_top, again: errors come back from 'top' to 'low'",
    ),
    "a layered signal on a cycle": (
        lambda: layers(Projection("top", "low")), sltt,
        r"population 'low' projects to nobody|populations \['low', 'top'\] lie on a cycle",
    ),
    "a layered signal on paths of different length": (
        lambda: layers(Projection("low", "out")), ottt,
        r"^population 'low': errors come back to it after \[0, 1\] steps by its several paths; a learning signal needs "
        r"paths of one",
    ),
    "a layered signal through unequal delays": (
        lambda: layers(delay=axonal([0, 1, 2, 3] * ms)), ottt,
        r"^projection 'low_top': a layered signal needs one delay for all of its synapses$",
    ),
    "a layered signal to a dead end": (
        lambda: layers(Projection("cues", "end"), end=Population(3, lif())), ottt,
        r"^population 'end' projects to nobody, so no layered error reaches it$",
    ),
    "a layered signal through a neuron with too long a memory": (
        lambda: layers(top=Population(5, slow_type())), ottt,
        r"^population 'top': what lands on 'J' of slow moves what it sends later than one step after, or never, and a "
        r"layered signal",
    ),
    "no filter before a readout that is late": (
        lambda: layers(readout=van_rossum_readout()), dfa,
        r"^population 'out': a spike shows in the output of van_rossum_readout later than in its own step, so a rule "
        r"without a filter",
    ),
    "learned feedback beside fixed weights": (
        lambda: layers(plastic=False), lambda: ottt(feedback="learned"),
        r"^projection 'low_top': feedback learns beside forward weights that do; make them plastic$",
    ),
    "a delay before the readout": (
        lambda: layers(Projection("low", "out", delay=axonal(2 * ms))), dfa,
        r"^projection 'low_out': a delayed path to the readout would need a delayed eligibility; remove the delay$",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RULES)
def test_a_rule_that_does_not_fit_the_network_is_refused(case, monkeypatch):
    """By both backends, before Brian2 builds or a kernel is compiled."""

    def built(*args, **options):
        raise AssertionError("something was built")

    monkeypatch.setattr(brian2_backend, "session", built)
    monkeypatch.setattr(torch_backend, "simulate", built)
    make, rule, message = RULES[case]
    net, rule = make(), rule()
    trials = Trials({"cues": np.zeros((1, 5, 3), bool)}, np.zeros((1, 5, 2)))
    backends = [torch_backend, brian2_backend] if rule.local else [torch_backend]
    for backend in backends:
        with pytest.raises((NetworkError, UnsupportedError), match=f"(?s){message}"):
            backend.gradient(net, net.draw(0), trials, rule, mse())


@pytest.mark.parametrize("kind", ["transposed", 3, None, np.ones((4, 2)), ["random"]], ids=str)
@pytest.mark.parametrize(
    "make", [bptt, eprop, ottt, superspike, decolle, lambda feedback: feedback_alignment(eprop(), feedback)]
)
def test_unknown_feedback_is_refused(make, kind):
    with pytest.raises(
        NetworkError, match=r"^feedback is one of symmetric, random, .*, or a dict of matrices by population.*; not "
    ):
        make(feedback=kind)


@pytest.mark.parametrize("update", ["epoch", 5, 0 * ms, -5 * ms, 5 * mV, None, [1, 2] * ms], ids=str)
@pytest.mark.parametrize("make", [eprop, superspike, decolle, ottt, dfa, drtp])
def test_an_update_that_is_no_time_is_refused(make, update):
    with pytest.raises(LocalplastError, match=r"^update is 'trial', 'step' or a time such as 500\*ms, not "):
        make(update=update)


@pytest.mark.parametrize(
    "rule, reason",
    [(bptt(), "bptt differentiates through the whole trial"), (rtrl(), "rtrl carries the derivatives of")],
)
def test_brian2_refuses_each_rule_that_is_not_local(rule, reason):
    net = layers()
    trials = Trials({"cues": np.zeros((1, 5, 3), bool)}, np.zeros((1, 5, 2)))
    with pytest.raises(UnsupportedError, match=f"^{reason}.*; use backend='torch'$"):
        gradient(net, net.draw(0), trials, rule, mse())
