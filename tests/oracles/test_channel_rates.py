"""Channels held where their rates are 0/0: values by closed forms, gradients by finite differences."""

import numpy as np
import pytest
from brian2 import ms, mV, nS, pF

import localplast as lp
from localplast import Compartment, cell
from localplast.models import leaky_readout
from localplast.neuron.channels import Channel, ampa
from localplast.rules import bptt, eprop
from localplast.task.loss import mse

STEPS, DT = 40, 0.05 * ms
GATES = ["n", pytest.param("m", marks=pytest.mark.thorough)]
#: Potentials at which rates of Hodgkin & Huxley 1952 (J Physiol 117:500) are 0/0, and the rates there, per millisecond.
SINGULAR = {
    "n": (
        -55.0, "0.1/ms/exprel(-(v + 55*mV)/(10*mV))", "0.125/ms*exp(-(v + 65*mV)/(80*mV))", 0.1, 0.125 * np.exp(-1 / 8),
    ),
    "m": (-40.0, "1/ms/exprel(-(v + 40*mV)/(10*mV))", "4/ms*exp(-(v + 65*mV)/(18*mV))", 1.0, 4 * np.exp(-25 / 18)),
}  # fmt: skip


def gated(gate, *, spiking=False, apart=0.0):
    """A compartment that rests where the opening rate of a gate is 0/0, or ``apart`` from it (in mV)."""
    rest, opening, closing, *_ = SINGULAR[gate]
    channel = Channel(
        "k",
        f"""
            dx/dt = opening*(1 - x) - closing*x : 1
            opening = {opening} : Hz
            closing = {closing} : Hz
            I = g*x**4*(E - v) : amp
            g : siemens
            E : volt
        """,
        {"g": 20 * nS, "E": (rest + apart) * mV},
    )
    soma = Compartment("soma", C=100 * pF, g_leak=5 * nS, E_leak=(rest + apart) * mV, channels=[channel])
    fires = dict(threshold="x_k_soma > 0.2", reset="x_k_soma -= 0.1", surrogate=lp.surrogate.fast_sigmoid(0.2))
    return cell(
        "gated", soma, method="exponential_euler", output="x_k_soma", receives="v_soma",
        initial={"v_soma": (rest + apart) * mV}, **(fires if spiking else {}),
    )  # fmt: skip


def network(gate, *, spiking=False, apart=0.0):
    """Spikes onto the membrane of such compartments, with weights of zero; where those spike a readout is judged."""
    nodes = {"cues": lp.Input(2), "it": lp.Population(3, gated(gate, spiking=spiking, apart=apart))}
    projections = [lp.Projection("cues", "it", weight=np.zeros((2, 3)) * mV, target="v_soma")]
    if spiking:
        nodes["out"] = lp.Population(1, leaky_readout())
        projections.append(lp.Projection("it", "out", weight=np.array([[1.0], [-2.0], [0.5]])))
    return lp.Network(dt=DT, **nodes, projections=projections)


def shown(net):
    rng = np.random.default_rng(0)
    return lp.Trials({"cues": rng.random((2, STEPS, 2)) < 0.3}, rng.normal(size=(2, STEPS, net.size(net.readouts[0]))))


@pytest.mark.parametrize("gate", SINGULAR)
@pytest.mark.parametrize("backend", ["brian2", "torch"])
def test_the_rate_is_its_limit_where_it_is_nothing_over_nothing(gate, backend):
    """A membrane that stays there opens a gate at constant rates: an exponential, which the integrator has exactly."""
    *_, opening, closing = SINGULAR[gate]
    net = network(gate)
    found = lp.run(net, shown(net), backend=backend, record=["it.x_k_soma"], show=False)["it"]["x_k_soma"].values
    times = float(DT) * 1e3 * np.arange(1, STEPS + 1)
    expected = opening / (opening + closing) * (1 - np.exp(-(opening + closing) * times))
    np.testing.assert_allclose(found, np.broadcast_to(expected[:, None], found.shape), rtol=1e-12)


def slope(net, direction, size=1e-2):
    """The derivative of the loss along a direction of the weights (in mV), by differences of order four."""
    trials, values = shown(net), net.draw(0)

    def loss(step):
        given = values.replace_weights({"cues_it": step * direction * 1e-3})
        found = lp.run(net, trials, values=given, record=["it.x_k_soma"], show=False)["it"]["x_k_soma"].values
        return 0.5 * ((found - trials.target) ** 2).mean(0).sum()

    return (8 * (loss(size) - loss(-size)) - (loss(2 * size) - loss(-2 * size))) / (12 * size)


WAYS = {
    "BPTT": (bptt(), {}), "BPTT forward": (bptt(), {"form": "forward"}), "traces": (eprop(), {"form": "traces"}),
    "an adjoint": (eprop(), {"form": "adjoint"}), "traces in Brian2": (eprop(), {"backend": "brian2"}),
}  # fmt: skip


@pytest.mark.parametrize("gate", GATES)
def test_so_are_all_gradients(gate):
    """Where nothing but the membrane lies between a weight and the loss, e-prop is the gradient."""
    net, direction = network(gate), np.random.default_rng(1).normal(size=(2, 3))
    expected = slope(net, direction)
    assert abs(expected) > 1e-3
    for way, (rule, options) in WAYS.items():
        found = lp.gradient(net, shown(net), rule, loss=mse(), **{"backend": "torch", **options})
        along = float((found["cues_it"]["gradient"].values * direction).sum()) * 1e-3
        assert along == pytest.approx(expected, rel=1e-8), way


@pytest.mark.sampled(3)
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("way", WAYS)
def test_so_are_gradients_through_spikes(gate, way):
    """The mean of those a little above and below that potential, where no quotient is 0/0: equal to second order."""
    rule, options = WAYS[way]
    options = {"backend": "torch", "loss": mse(), **options}

    def found(apart):
        net = network(gate, spiking=True, apart=apart)
        return lp.gradient(net, shown(net), rule, **options)["cues_it"]["gradient"].values

    here, around = found(0.0), (found(1e-3) + found(-1e-3)) / 2
    assert np.abs(here).max() > 0
    np.testing.assert_allclose(here, around, rtol=1e-6, atol=1e-7 * np.abs(here).max())


@pytest.mark.parametrize("backend", ["brian2", "torch"])
def test_a_synapse_whose_time_constants_meet_opens_as_an_alpha_function(backend):
    """Whose peak is 1, and which lies between those whose time constants nearly meet."""

    def opened(rise):
        synapse = ampa(g=1 * nS, tau=2 * ms, rise=rise)
        soma = Compartment("soma", C=100 * pF, g_leak=5 * nS, E_leak=-70 * mV, channels=[synapse])
        it = lp.Population(1, cell("it", soma, receives="s_ampa_soma", method="rk4"))
        net = lp.Network(dt=DT, cues=lp.Input(1), it=it, projections=[lp.Projection("cues", "it", weight=1.0)])
        trials = lp.Trials({"cues": (np.arange(200) == 0)[None, :, None]})
        record = lp.run(net, trials, backend=backend, record=["it.open_ampa_soma"], show=False)
        return record["it"]["open_ampa_soma"].values.ravel()

    met, *near = opened(2 * ms), opened(1.9999 * ms), opened(2.0001 * ms)
    times = float(DT) * np.arange(200) / 2e-3
    assert np.abs(met - times * np.exp(1 - times)).max() < 1e-7 and met.max() == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(met, sum(near) / 2, rtol=1e-7)
