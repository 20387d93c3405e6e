"""What a network does as Brian2 text, printed from its step program: slots, spikes, draws, what travels, refusals."""

from dataclasses import replace

import numpy as np
import pytest
from brian2 import ms

import localplast as lp
from localplast.backends.brian2.learner import block_for
from localplast.backends.brian2.slots import FIRED, JUMP, READY, UPDATE, places
from localplast.backends.brian2.step import Step
from localplast.errors import UnsupportedError
from localplast.learning.optimise import sgd
from localplast.models import latent_equilibrium, leaky_readout, lif
from localplast.network import Input, Network, Population, Projection, axonal, facilitation, transposed
from localplast.neuron import NeuronModel
from localplast.program.arrays import at
from localplast.program.instructions import Draw, Fire, Jump, Map
from localplast.rules import eprop
from localplast.task import Trials
from localplast.task.loss import mse


def step_of(net):
    silence = {n: np.zeros((1, 5, i.size), bool if i.kind == "spikes" else float) for n, i in net.inputs.items()}
    return Step(net, net.draw(0), block_for(net, Trials(silence)))


def spiking():
    return Network(
        dt=1 * ms, cues=Input(3), rec=Population(4, lif(tau_ref=3 * ms)), out=Population(2, leaky_readout()),
        projections=[
            Projection("cues", "rec"),
            Projection("rec", "rec", short_term=facilitation(0.1, 90 * ms, tau_rec=50 * ms)),
            Projection("rec", "out", delay=axonal(2 * ms)),
        ],
    )  # fmt: skip


def test_statements_of_a_network_have_their_slots():
    """What is only where there is a spike is a Jump, wherever it stands; what Brian2 counts itself is left out."""
    step = step_of(spiking())
    found = [(w, type(s)) for w, _, s in step.maps if s.space == "rec"]
    assert found == [(UPDATE, Map), (FIRED, Fire), (FIRED, Map), (JUMP, Jump), (JUMP, Jump)]
    assert [s.target for s in step.sends.values()] == ["rec.v", "rec.v", "out.v"]
    assert not any("since" in line for line in step.update("rec"))


def test_statements_of_a_network_in_the_wrong_order_are_named():
    """Neurons would be changed again after their reset: by what Brian2 runs before it."""
    lowered = step_of(spiking()).lowered
    lowered.statements.append((len(lowered.program.step), Map("rec", (), (("rec.v", 2 * at("rec.v")),))))
    with pytest.raises(UnsupportedError, match="wrong order: that of 'rec' which sets rec.v, and that of 'rec'"):
        places(lowered)


def test_the_text_of_a_network():
    step, p = step_of(spiking()), spiking().projections
    assert step.update("rec")[:3] == ["v = v*exp(-dt/tau_mem)", "_x = v - v_th", "z = int(_x > 0)*int(not_refractory)"]
    assert step.after_spikes("rec")[-1] == "v = v - v_th"
    assert step.on_pre(p["cues_rec"]) == {"deliver": "v_post += w"}
    assert step.on_pre(p["rec_rec"]) == {"deliver": "v_post += resources_rec_rec_pre*utilisation_rec_rec_pre*w"}
    assert [line.text for line in step.starts("rec", ["v"])] == ["initial_v", "0.1", "1.0"]


def graded(**options):
    """Rates whose weights are read both ways."""
    model = latent_equilibrium()
    nodes = {"a": Population(3, model), "b": Population(3, model), "c": Population(3, model)}
    links = [
        Projection("drive", "a", weight=np.eye(3)),
        Projection("a", "b", name="up", transmission="graded"),
        Projection(name="down", transmission="graded", plastic=False, weight=transposed("up"), **options),
    ]
    return Network(dt=1 * ms, drive=Input(3, "currents"), **nodes, projections=links)


def test_weights_that_are_read_both_ways_lie_between_the_same_populations():
    target = latent_equilibrium().free_variables[-1]
    step = step_of(graded(pre="b", post="a", target=target))
    assert {s.onto for *_, s in step.gathers if s.link == "up"} == {"pre", "post"}
    with pytest.raises(
        UnsupportedError, match="'down': in Brian2 synapses .* here and in 'up', lie between the same two"
    ):
        step_of(graded(pre="c", post="a", target=target))


def drawing(update):
    model = NeuronModel(
        name="dice", equations="a : 1\nb : 1\nv : 1", threshold="v > 1", update=update, receives="v", method="euler"
    )
    return Network(
        dt=1 * ms, cues=Input(2), it=Population(50, model), projections=[Projection("cues", "it", plastic=False)]
    )


@pytest.mark.parametrize("call", ["rand()", "randn()", "poisson(3)"])
def test_each_call_draws_another_number(call):
    """Also where two statements say the same; and one that is read twice is drawn once."""
    net = drawing(f"a = {call}\nb = {call}\nv = a - a")
    trials = Trials({"cues": np.zeros((1, 4, 2), bool)})
    for engine in ({"backend": "brian2", "target": "numpy"}, {"backend": "torch"})[: 2 if call == "randn()" else 1]:
        found = lp.run(net, trials, record=["it.a", "it.b", "it.v"], **engine)["it"]
        a, b, v = (found[name].values for name in "abv")
        assert (a != b).mean() > 0.5 and len(np.unique(a)) > 3 and not v.any()


def test_noise_is_drawn_before_the_update():
    model = replace(lif(), equations="dv/dt = -v/tau_mem + xi/sqrt(tau_mem) : 1", method="euler")
    net = Network(dt=1 * ms, cues=Input(2), rec=Population(3, model), projections=[Projection("cues", "rec")])
    step = step_of(net)
    kinds = [type(s) for s in step.at("rec", READY, UPDATE)]
    assert kinds == [Draw, Map] and step.update("rec")[0].endswith("= randn()")


def test_rates_that_halve_without_end(bench):
    """The number of an update has no upper bound: it stays a number in Brian2's text."""
    net, loss = bench.of("lif"), mse()
    described = net, eprop(), loss, sgd(0.01).halved(1, after=1), bench.trials_for(loss, count=3)
    found, _ = bench.same_learning("Brian2", *described, batch=1, first=1e-9, last=1e-8, said=1e-8, alive=None)
    assert found.updates == 3
