"""``stop(x)`` in text: the value of x and no derivative, against autograd with the same edges detached."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from brian2 import ms, mV

import localplast as lp
from localplast.errors import ModelError
from localplast.models import leaky_readout
from localplast.neuron import NeuronModel
from localplast.rules import bptt, eprop, rtrl
from localplast.task import Trials

STEPS, SIZES = 40, {"cues": 4, "lower": 5, "upper": 6, "out": 2}
CONSTANTS = {"alpha": 0.9, "rho": 3.0, "r_f": 1.7, "r_s": -7.0, "b_h": -6.0, "z_hyp": 0.9, "z_dep": 0.2}


def recurrent_cell(*, detached, straight):
    """The spiking recurrent cell of De Geeter et al. 2023 (arXiv:2306.03623); ``detached``: its own past gets no credit;
    ``straight``: what is cut off forward is not backward.
    """
    own, slow, past = ("stop(h)", "stop(hs)", "stop(h_past)") if detached else ("h", "hs", "h_past")
    return NeuronModel(
        name="src",
        equations="syn : 1\narriving : 1\nh : 1\nhs : 1",
        parameters=CONSTANTS,
        update=f"""
            syn = alpha*syn + arriving
            h_past = h
            h = tanh(rho*tanh(syn/rho) + r_f*{own} + r_s*{slow} + b_h)
            z_s = z_hyp + (z_dep - z_hyp)*int(h > 0.5)
            hs = z_s*{slow} + (1 - z_s)*{past}
        """,
        output="h + stop(clip(h, 0, 2) - h)" if straight else "clip(h, 0, 2)",
        receives="arriving",
    )


def network(**tricks):
    cell = recurrent_cell(**tricks)
    readout = NeuronModel(
        name="slow", equations="y : 1\narriving : 1", update="y = 0.95*y + arriving", output="y", receives="arriving"
    )
    return lp.Network(
        dt=1 * ms,
        cues=lp.Input(SIZES["cues"], kind="currents"),
        lower=lp.Population(SIZES["lower"], cell),
        upper=lp.Population(SIZES["upper"], cell),
        out=lp.Population(SIZES["out"], readout),
        projections=[
            lp.Projection("cues", "lower", weight=lp.normal(3.0)),
            lp.Projection("lower", "upper", weight=lp.normal(3.0)),
            lp.Projection("upper", "out"),
        ],
    )


def trials():
    rng = np.random.default_rng(0)
    shown = (rng.random((3, STEPS, SIZES["cues"])) < 0.4).astype(float)
    return Trials({"cues": shown}, rng.normal(size=(3, STEPS, SIZES["out"])), np.full(STEPS, 1 / STEPS))


def by_hand(values, shown, *, detached, straight):
    """Readout ``(trial, time, output)`` and gradients, by autograd: what arrives was sent one step before."""
    weights = [
        torch.tensor(values.weights[name], requires_grad=True) for name in ("cues_lower", "lower_upper", "upper_out")
    ]
    off = torch.Tensor.detach if detached else lambda x: x
    k, given, n = CONSTANTS, torch.tensor(shown.inputs["cues"]), len(shown)

    def step(syn, h, hs, arriving):
        syn = k["alpha"] * syn + arriving
        new = torch.tanh(k["rho"] * torch.tanh(syn / k["rho"]) + k["r_f"] * off(h) + k["r_s"] * off(hs) + k["b_h"])
        z = k["z_hyp"] + (k["z_dep"] - k["z_hyp"]) * (new > 0.5).double()
        return syn, new, z * off(hs) + (1 - z) * off(h)

    def sent(h):
        return h + (torch.clip(h, 0, 2) - h).detach() if straight else torch.clip(h, 0, 2)

    lower, upper = ([torch.zeros(n, SIZES[name]).double()] * 3 for name in ("lower", "upper"))
    arrived = [torch.zeros(n, SIZES[name]).double() for name in ("lower", "upper", "out")]
    y, seen = torch.zeros(n, SIZES["out"]).double(), []
    for t in range(STEPS):
        lower, upper, y = step(*lower, arrived[0]), step(*upper, arrived[1]), 0.95 * y + arrived[2]
        arrived = [source @ w for source, w in zip((given[:, t], sent(lower[1]), sent(upper[1])), weights, strict=True)]
        seen.append(y)
    said = torch.stack(seen, 1)
    loss = 0.5 * ((said - torch.tensor(shown.target)) ** 2).sum(-1).mean()
    return said.detach().numpy(), [g.numpy() for g in torch.autograd.grad(loss, weights)]


TRICKS = [dict(detached=d, straight=s) for d in (True, False) for s in (True, False)]


@pytest.mark.parametrize("tricks", TRICKS, ids=str)
def test_gradients_are_those_of_autograd_with_the_same_edges_detached(tricks):
    net, shown = network(**tricks), trials()
    values = net.draw(0)
    said, expected = by_hand(values, shown, **tricks)
    record = lp.run(net, shown, values=values, backend="torch", record=["out.y"])
    np.testing.assert_allclose(record["out"]["y"], said, rtol=0, atol=1e-12)
    found = lp.gradient(net, shown, bptt(), values=values)
    for name, gradient in zip(("cues_lower", "lower_upper", "upper_out"), expected, strict=True):
        np.testing.assert_allclose(found[name]["gradient"], gradient, rtol=1e-9, atol=1e-14)
        for other in TRICKS:
            if other != tricks and name == "cues_lower":
                assert np.abs(by_hand(values, shown, **other)[1][0] - gradient).max() > 1e-3 * np.abs(gradient).max()


def test_in_brian2_it_is_its_argument():
    net, plain, shown = network(detached=True, straight=True), network(detached=False, straight=False), trials()
    values, names = net.draw(0), ["lower.h", "upper.hs", "out.y"]
    torch_, brian = (lp.run(net, shown, values=values, backend=b, record=names) for b in ("torch", "brian2"))
    without = lp.run(plain, shown, values=values, backend="brian2", record=names)
    for name in names:
        part, variable = name.split(".")
        np.testing.assert_allclose(brian[part][variable], torch_[part][variable], rtol=0, atol=1e-9)
        np.testing.assert_allclose(brian[part][variable], without[part][variable], rtol=0, atol=1e-12)


def adapting(coupling="a", **texts):
    """An adaptive neuron whose membrane sees the adaptation as ``coupling`` says; other ``texts`` may be given."""
    usual = {"threshold": "v > v_th", "reset": "v -= v_th", "adaptation": "a += 4*mV"}
    return NeuronModel(
        name="adapting",
        equations=f"dv/dt = (-v - 0.5*{coupling})/tau : volt\nda/dt = -a/(5*tau) : volt",
        parameters={"tau": 20 * ms, "v_th": 10 * mV},
        method="exponential_euler",
        surrogate=lp.surrogate.fast_sigmoid(2 * mV),
        **(usual | texts),
    )


def spiking(*coupling, **texts):
    """A recurrent network of them whose thresholds learn."""
    learning = {"v_th": (1 * mV, None)}
    return lp.Network(
        dt=1 * ms,
        cues=lp.Input(8),
        rec=lp.Population(6, adapting(*coupling, **texts), trainable=learning),
        out=lp.Population(2, leaky_readout()),
        projections=[
            lp.Projection("cues", "rec", weight=lp.normal(12 * mV)),
            lp.Projection("rec", "rec", weight=lp.normal(3 * mV)),
            lp.Projection("rec", "out"),
        ],
    )


def test_units_pass_and_local_rules_follow():
    """e-prop of the text is BPTT of the text without the edges that e-prop cuts; without ``stop`` both are others."""
    rng = np.random.default_rng(1)
    shown = Trials({"cues": rng.random((2, 60, 8)) < 0.2}, rng.normal(size=(2, 60, 2)))
    found = {}
    for coupling in ("a", "stop(a)"):
        net = spiking(coupling)
        values = net.draw(3)
        local = lp.gradient(net, shown, eprop(), values=values, backend="torch")
        exact = lp.gradient(net, shown, bptt(cut={"recurrent", "reset"}), values=values)
        online = lp.gradient(net, shown, eprop(), values=values, backend="brian2")
        found[coupling] = local["cues_rec"]["gradient"].values
        np.testing.assert_allclose(found[coupling], exact["cues_rec"]["gradient"], rtol=1e-8, atol=1e-13)
        np.testing.assert_allclose(found[coupling], online["cues_rec"]["gradient"], rtol=1e-8, atol=1e-13)
    assert np.abs(found["a"] - found["stop(a)"]).max() > 1e-3 * np.abs(found["a"]).max()


#: A text, and whether the gradients of weights, and of the threshold, are others with ``stop`` than without it.
BLOCKS = {
    "threshold": ("v > stop(v_th)", False, True),
    "reset": ("v -= stop(v_th)", False, True),
    "adaptation": ("a += 4*mV + 0.5*stop(a)", True, True),
}


@pytest.mark.parametrize("block", BLOCKS)
def test_in_every_block(block):
    """On every way to a gradient, of weights and of a threshold that learns."""
    rng = np.random.default_rng(1)
    shown = Trials({"cues": rng.random((2, 60, 8)) < 0.2}, rng.normal(size=(2, 60, 2)))
    text, *differs = BLOCKS[block]
    found = []
    for written in (text, text.replace("stop", "")):
        net = spiking(**{block: written})
        values, cut = net.draw(3), {"recurrent", "reset"}
        exact = lp.gradient(net, shown, bptt(cut=cut), values=values)
        found.append([exact["cues_rec"]["gradient"].values, exact["rec"]["gradient_v_th"].values])
        whole, forward = (lp.gradient(net, shown, rule, values=values) for rule in (bptt(), rtrl()))
        np.testing.assert_allclose(
            forward["cues_rec"]["gradient"], whole["cues_rec"]["gradient"], rtol=1e-8, atol=1e-12
        )
        for where in (dict(backend="torch", form="traces"), dict(backend="brian2")):
            local = lp.gradient(net, shown, eprop(), values=values, **where)
            np.testing.assert_allclose(local["cues_rec"]["gradient"], found[-1][0], rtol=1e-8, atol=1e-12)
            np.testing.assert_allclose(local["rec"]["gradient_v_th"], found[-1][1], rtol=1e-8, atol=1e-12)
    for with_stop, without, other in zip(*found, differs, strict=True):
        assert (np.abs(with_stop - without).max() > 1e-3 * np.abs(without).max()) == other


def test_in_the_output_of_a_projection():
    net = network(detached=False, straight=False)
    paths = [replace(p, output="stop(h)") if p.name == "upper_out" else p for p in net.projections.values()]
    net = lp.Network(dt=net.dt, projections=paths, **net.nodes)
    found = lp.gradient(net, trials(), bptt())
    assert np.abs(found["upper_out"]["gradient"]).max() > 1e-6
    assert not found["lower_upper"]["gradient"].any() and not found["cues_lower"]["gradient"].any()
    assert "no gradient passes through stop(h) in 'upper_out'" in str(bptt().describe(net))


def test_descriptions_name_what_text_cuts():
    told = str(bptt().describe(network(detached=True, straight=True)))
    assert "no gradient passes through stop(clip(h, 0, 2) - h), stop(h), stop(h_past), stop(hs) in 'lower'" in told
    assert "no gradient passes" not in str(bptt().describe(network(detached=False, straight=False)))
    assert "no gradient passes through stop(a) in 'rec'" in str(eprop().describe(spiking("stop(a)")))


@pytest.mark.parametrize(
    "text, message",
    [
        ("dv/dt = -v/tau + stop()/tau : 1", "stop"),
        ("dv/dt = -v/tau + stop(v, v)/tau : 1", "stop"),
        ("dv/dt = (-v + stop)/tau : 1\nstop : 1", "'stop'"),
    ],
)
def test_what_is_no_stop_is_refused_when_the_model_is_made(text, message):
    with pytest.raises(ModelError, match=message):
        NeuronModel(name="wrong", equations=text, parameters={"tau": 10 * ms}, output="v")


def test_the_same_text_without_its_gradient_is_no_other_neuron():
    """A number has no gradient to stop, and what stop holds keeps its unit."""
    assert NeuronModel(
        name="same", equations="dv/dt = (-v + stop(2.0))/tau : 1", parameters={"tau": 10 * ms}, output="v"
    )
    with pytest.raises(ModelError, match="volt|V"):
        NeuronModel(name="unit", equations="dv/dt = (-v + stop(v*mV))/tau : 1", parameters={"tau": 10 * ms}, output="v")
