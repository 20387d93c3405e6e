"""Local rules for weights of graded projections: the eligibility of what travels is that of spikes, with its value."""

from dataclasses import replace

import numpy as np
import pytest
from brian2 import ms

import localplast as lp
from localplast.errors import UnsupportedError
from localplast.models import graded_readout, leaky_readout
from localplast.neuron import NeuronModel
from localplast.rules import bptt, dfa, eprop, ostl, ottt, sltt
from localplast.task import Trials

STEPS = 30


def rate(*, memory=True):
    """A tanh of what arrives, leaky or without memory."""
    equations = "x : 1\narriving : 1"
    update = "x = 0.8*x + arriving" if memory else "x = arriving"
    return NeuronModel(name="rate", equations=equations, update=update, output="tanh(x)", receives="arriving")


def ahead(*, memory=True):
    """A rate that answers to what arrives before its state does: it travels one step later."""
    return replace(rate(memory=memory), name="ahead", output="tanh(x + 0.5*arriving)")


def passing():
    """No state at all."""
    return NeuronModel(name="passing", equations="arriving : 1", output="tanh(arriving)", receives="arriving")


def slow():
    """A readout that remembers."""
    return NeuronModel(
        name="slow", equations="y : 1\narriving : 1", update="y = 0.9*y + arriving", output="y", receives="arriving"
    )


def driven():
    """A spiking neuron whose current is a graded input."""
    return NeuronModel(
        name="driven",
        equations="dv/dt = (-v + current)/tau : 1\ncurrent : 1",
        parameters={"tau": 10 * ms},
        threshold="v > 0.5",
        reset="v -= 0.5",
        receives="current",
        method="exponential_euler",
        surrogate=lp.surrogate.fast_sigmoid(1.0),
    )


def network(*layers, readout=None, recurrent=False, **cut):
    """Currents, layers of so many models, a readout; ``recurrent``: the first layer projects to itself."""
    names = ["cues", *(f"layer{k}" for k in range(1, len(layers) + 1)), "out"]
    nodes = {"cues": lp.Input(4, kind="currents"), "out": lp.Population(2, readout or slow())}
    nodes |= {
        name: lp.Population(5 + k, model) for k, (name, model) in enumerate(zip(names[1:-1], layers, strict=True))
    }
    paths = [lp.Projection(a, b, weight=lp.normal(1.5)) for a, b in zip(names, names[1:], strict=False)]
    paths += [lp.Projection("layer1", "layer1", weight=lp.normal(0.8))] if recurrent else []
    return lp.Network(dt=1 * ms, projections=paths, **nodes)


def trials(n=3):
    rng = np.random.default_rng(0)
    return Trials({"cues": rng.normal(size=(n, STEPS, 4))}, rng.normal(size=(n, STEPS, 2)), np.full(STEPS, 1 / STEPS))


def gradients(net, rule, shown, values, **where):
    found = lp.gradient(net, shown, rule, values=values, **where)
    return {name: found[name]["gradient"].values for name in (p.name for p in net.plastic)}


def assert_same(found, expected, names=None):
    for name in names or expected:
        scale = np.abs(expected[name]).max()
        assert scale > 1e-6
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-9 * scale, err_msg=name)


def delayed(net, delay):
    """With a delay from the cues to the first layer."""
    paths = [replace(p, delay=delay) if p.name == "cues_layer1" else p for p in net.projections.values()]
    return lp.Network(dt=net.dt, projections=paths, **net.nodes)


#: One for every synapse from the cues.
APART = lp.synaptic(np.arange(20).reshape(4, 5) % 4 * ms)

#: Networks, and the edges that e-prop ignores in each.
NETWORKS = {
    "rates": (lambda: network(rate()), ()),
    "recurrent rates": (lambda: network(rate(), recurrent=True), ("recurrent",)),
    "rates, shown at once": (lambda: network(rate(), readout=graded_readout()), ()),
    "rates that look ahead": (lambda: network(ahead()), ()),
    "rates that look ahead, shown at once": (lambda: network(ahead(), readout=graded_readout()), ()),
    "rates that look ahead without memory": (lambda: network(ahead(memory=False)), ()),
    "no state": (lambda: network(passing()), ()),
    "no state, synaptic delays": (lambda: delayed(network(passing()), APART), ()),
    "axonal delays": (lambda: delayed(network(rate()), lp.axonal(3 * ms)), ()),
    "synaptic delays": (lambda: delayed(network(ahead()), APART), ()),
    "synaptic delays without memory": (lambda: delayed(network(ahead(memory=False)), APART), ()),
    "spikes of currents": (lambda: network(driven(), readout=leaky_readout()), ("reset",)),
    "recurrent spikes of currents": (
        lambda: replace_readout(network(driven(), readout=leaky_readout())),
        ("reset", "recurrent"),
    ),
}


def replace_readout(net):
    """With spikes that go back as a graded current of their own would, by an event projection onto the membrane."""
    back = lp.Projection("layer1", "layer1", target="v", weight=lp.normal(0.3))
    return lp.Network(dt=net.dt, projections=[*net.projections.values(), back], **net.nodes)


@pytest.mark.parametrize("name", NETWORKS)
def test_eprop_is_bptt_without_the_edges_that_it_ignores(name):
    made, cut = NETWORKS[name]
    net, shown = made(), trials()
    values = net.draw(1)
    exact = gradients(net, bptt(cut=set(cut)), shown, values)
    assert_same(gradients(net, eprop(), shown, values, backend="torch", form="traces"), exact)
    assert_same(gradients(net, eprop(), shown, values, backend="torch", form="adjoint"), exact)
    assert_same(gradients(net, eprop(), shown, values, backend="brian2"), exact)
    for edge in cut:
        other = gradients(net, bptt(cut=set(cut) - {edge}), shown, values)
        with pytest.raises(AssertionError):
            assert_same(gradients(net, eprop(), shown, values, backend="torch"), other)


@pytest.mark.parametrize("output", ["tanh(gain*x)", "tanh(gain*x + 0.5*arriving)"])
def test_parameters_of_rates_follow_too(output):
    model = replace(rate(), update="x = keep*x + arriving", output=output, parameters={"keep": 0.8, "gain": 1.2})
    net, shown = network(model), trials()
    learning = lp.Population(5, model, trainable={"keep": (0, 0.99), "gain": (None, None)})
    net = lp.Network(dt=net.dt, projections=[*net.projections.values()], **{**net.nodes, "layer1": learning})
    values = net.draw(1)
    exact = lp.gradient(net, shown, bptt(), values=values)["layer1"]
    for where in (dict(backend="torch", form="traces"), dict(backend="brian2")):
        found = lp.gradient(net, shown, eprop(), values=values, **where)["layer1"]
        for name in ("gradient_keep", "gradient_gain"):
            np.testing.assert_allclose(found[name], exact[name], rtol=1e-9, atol=1e-12)
            assert np.abs(exact[name]).max() > 1e-3


@pytest.mark.parametrize("model", [rate, ahead])
def test_delays_of_rates_follow_too(model):
    net, shown = delayed(network(model()), lp.axonal(2.5 * ms, trainable=(0 * ms, 6 * ms))), trials()
    values = net.draw(1)
    found = lp.gradient(net, shown, eprop(), values=values, backend="torch", form="traces")["cues_layer1"]
    exact = lp.gradient(net, shown, bptt(), values=values)["cues_layer1"]
    for name in exact.data_vars:
        np.testing.assert_allclose(found[name], exact[name], rtol=1e-9, atol=1e-12)


def late():
    """A readout without memory that shows what arrives one step later."""
    return replace(slow(), update="y = arriving")


@pytest.mark.parametrize("rule", [ottt, ostl])
@pytest.mark.parametrize("readout", [graded_readout, late])
def test_layered_rules_are_exact_where_only_the_first_layer_remembers(rule, readout):
    """Where nothing after the first layer remembers, the error of a step is all that there is."""
    net, shown = network(rate(), rate(memory=False), rate(memory=False), readout=readout()), trials()
    values = net.draw(2)
    exact = gradients(net, bptt(), shown, values)
    assert_same(gradients(net, rule(), shown, values, backend="torch", form="traces"), exact)
    assert_same(gradients(net, rule(), shown, values, backend="brian2"), exact)
    forgetful = gradients(net, sltt(), shown, values, backend="torch", form="traces")
    with pytest.raises(AssertionError):
        assert_same(forgetful, exact, ["cues_layer1"])
    assert_same(forgetful, exact, ["layer2_layer3", "layer3_out"])


def test_a_layered_signal_cannot_pass_what_looks_ahead():
    net = network(rate(), ahead(), readout=graded_readout())
    with pytest.raises(
        UnsupportedError, match="'layer2': the output of ahead depends on what graded projections bring"
    ):
        lp.gradient(net, trials(), ottt(), backend="torch", form="traces")


def test_direct_feedback_needs_a_readout_without_memory_and_is_then_the_gradient():
    net, shown = network(rate(), readout=graded_readout()), trials()
    values = net.draw(3)
    given = {"layer1": values.weights["layer1_out"]}
    exact = gradients(net, bptt(), shown, values)
    assert_same(gradients(net, dfa(feedback=given), shown, values, backend="torch", form="traces"), exact)


@pytest.mark.parametrize("first", [rate, ahead])
@pytest.mark.parametrize("update", ["trial", "step"])
def test_engines_learn_the_same(update, first):
    net = network(first(), rate(), recurrent=True)
    task = lp.Task.generated("fixed", lambda rng, n: trials(n))
    rule = eprop(feedback="random", feedback_std=0.5, update=update)
    course = dict(rule=rule, optimiser=lp.adam(1e-2), updates=4, batch=1, seed=5)
    runs = [lp.run(net, task, backend=backend, **course) for backend in ("torch", "brian2")]
    first, second = (net.values_from(found).weights for found in runs)
    before = net.draw(5).weights
    for name in first:
        np.testing.assert_allclose(first[name], second[name], rtol=0, atol=1e-9)
        assert np.abs(first[name] - before[name]).max() > 1e-3


def test_rates_that_never_spike_are_not_regularised():
    net, shown = network(rate()), trials()
    values, loss = net.draw(1), lp.losses.mse()
    plain = lp.gradient(net, shown, eprop(), values=values, loss=loss, backend="torch", form="traces")
    held = lp.gradient(
        net, shown, eprop(), values=values, loss=loss + lp.losses.rate(10, 1.0), backend="torch", form="traces"
    )
    np.testing.assert_array_equal(plain["cues_layer1"]["gradient"], held["cues_layer1"]["gradient"])


def test_what_is_sent_has_to_be_what_is_followed():
    net = network(driven(), readout=slow())
    paths = [
        replace(p, output="v", transmission=None) if p.name == "layer1_out" else p for p in net.projections.values()
    ]
    net = lp.Network(dt=net.dt, projections=paths, **net.nodes)
    with pytest.raises(UnsupportedError, match="'layer1_out': traces follow the spikes of 'layer1', and not 'v'"):
        lp.gradient(net, trials(), eprop(), backend="torch", form="traces")


def test_paths_of_different_lengths_are_refused():
    net = network(rate(), readout=slow())
    more = lp.Network(
        dt=net.dt,
        projections=[*net.projections.values(), lp.Projection("layer1", "now", weight=lp.normal(1.0))],
        now=lp.Population(2, graded_readout()),
        **net.nodes,
    )
    with pytest.raises(UnsupportedError, match=r"errors come back to it after \[0, 1\] steps"):
        lp.gradient(more, trials(), eprop(), backend="torch")
