"""DECOLLE against autograd of a network written out by hand (Kaiser, Mostafa & Neftci 2020, Front Neurosci 14:424,
eqs. 1-9).

Each layer has a loss of its own, ``Y[t] = G S[t]`` judged in every step, so that with spikes between layers and the
refractory trace R detached, ``dL/dW = sum_t (G^T dL/dY) psi P^T``: P and Q of a layer hold presynaptic spikes only,
no weight of it.
"""

import numpy as np
import pytest
import torch
from brian2 import ms

from localplast.models import decolle_lif, instant_readout
from localplast.network import Input, Network, Population, Projection
from localplast.program.learn import plan
from localplast.rules import bptt, decolle
from localplast.task import Trials
from localplast.task.loss import mse, smooth_l1

N_IN, SIZES, N_OUT, TRIALS, STEPS = 8, (7, 5), 3, 2, 60
ALPHA, BETA, ALPHA_R = 0.97, 0.92, 0.65
NAMES = ("cues_one", "one_two")


def network(second=6.0):
    rng = np.random.default_rng(2)
    return Network(
        dt=1 * ms, cues=Input(N_IN), one=Population(SIZES[0], decolle_lif()), two=Population(SIZES[1], decolle_lif()),
        say_one=Population(N_OUT, instant_readout()), say_two=Population(N_OUT, instant_readout()),
        projections=[
            Projection("cues", "one", weight=rng.normal(0.4, 4, (N_IN, SIZES[0]))),
            Projection("one", "two", weight=rng.normal(0.8, second, SIZES)),
            Projection("one", "say_one", weight=rng.uniform(-1, 1, (SIZES[0], N_OUT)), plastic=False),
            Projection("two", "say_two", weight=rng.uniform(-1, 1, (SIZES[1], N_OUT)), plastic=False),
        ],
    )  # fmt: skip


def trials():
    rng = np.random.default_rng(5)
    target = rng.standard_normal((TRIALS, STEPS, N_OUT)) * 1.5
    return Trials({"cues": rng.random((TRIALS, STEPS, N_IN)) < 0.25}, target, weight=rng.uniform(0.2, 1, STEPS))


class Written:
    """``cut``: F (spikes to the next layer), R (spikes to their own refractory trace), P (the presynaptic traces).

    ``feedback``: ``(neuron, readout)`` per layer, in place of G in the backward pass.
    """

    def __init__(self, net, given, cut="FR", loss=None, feedback=None):
        weights = net.draw(0).weights
        self.w = {k: torch.tensor(weights[k], requires_grad=True) for k in NAMES}
        self.g = [torch.tensor(weights[k]) for k in ("one_say_one", "two_say_two")]
        self.b = self.g if feedback is None else [torch.tensor(b) for b in feedback]
        self.cut, self.given, self.kind = cut, given, (loss or mse()).name
        self.loss = self.run(torch.tensor(given.inputs["cues"]).double()) / len(given)

    def seen(self, edge, x):
        return x.detach() if edge in self.cut else x

    def run(self, x):
        sizes, total = (N_IN, *SIZES), 0.0
        p, q = ([x.new_zeros(len(x), n) for n in sizes[:2]] for _ in range(2))
        r, s = ([x.new_zeros(len(x), n) for n in SIZES] for _ in range(2))
        self.spikes = []
        for t in range(x.shape[1]):
            for layer, name in enumerate(NAMES):
                arriving = x[:, t] if layer == 0 else self.seen("F", s[0])
                p[layer] = ALPHA * p[layer] + (1 - ALPHA) * q[layer]
                q[layer] = BETA * q[layer] + (1 - BETA) * arriving
                r[layer] = ALPHA_R * r[layer] - (1 - ALPHA_R) * self.seen("R", s[layer])
                u = self.seen("P", p[layer]) @ self.w[name] + r[layer]
                psi = 1 / (1 + 10 * u.detach().abs()) ** 2
                s[layer] = (u.detach() > 0).double() + psi * (u - u.detach())
                y = s[layer].detach() @ self.g[layer] + (s[layer] - s[layer].detach()) @ self.b[layer]
                total = total + self.given.weight[t] * self.judge(y - torch.tensor(self.given.target[:, t]))
            self.spikes.append([z.detach().mean().item() for z in s])
        return total

    def judge(self, gap):
        if self.kind == "mse":
            return 0.5 * (gap**2).sum()
        return torch.nn.functional.smooth_l1_loss(gap, torch.zeros_like(gap), reduction="sum")

    def gradients(self):
        """By projection; raises unless both layers spike."""
        assert all(0.05 < rate < 0.6 for rate in np.mean(self.spikes, 0)), np.mean(self.spikes, 0)
        found = torch.autograd.grad(self.loss, list(self.w.values()), retain_graph=True)
        return {k: g.numpy() for k, g in zip(self.w, found, strict=True)}


@pytest.mark.sampled(2, 1)
@pytest.mark.parametrize("loss", [mse(), smooth_l1()], ids=["mse", "smooth_l1"])
def test_equal(loss, layered):
    """D1; and localplast's own autograd with the edges that the rule names."""
    net, given = network(), trials()
    expected = Written(net, given, loss=loss).gradients()
    layered.equal(net, net.draw(0), given, decolle(), expected, loss)
    twin = layered.autograd(net, net.draw(0), given, bptt(cut=decolle().cut), loss)
    for name, array in expected.items():
        assert layered.error(twin[name], array) < 1e-10


def test_presynaptic_traces_may_be_detached(layered):
    """D2: with F cut they hold no weight that learns; with F kept they do."""
    net, given = network(), trials()
    attached, detached = (Written(net, given, cut).gradients() for cut in ("FR", "FRP"))
    for name in NAMES:
        assert layered.error(attached[name], detached[name]) < 1e-12, name
    assert (
        layered.error(
            Written(net, given, "R").gradients()["cues_one"], Written(net, given, "RP").gradients()["cues_one"]
        )
        > 0.01
    )


def test_the_refractory_trace_makes_a_difference(layered):
    """D3."""
    net, given = network(), trials()
    attached = Written(net, given, "F").gradients()
    for where, _, grads in layered.estimates(net, net.draw(0), given, decolle()):
        for name in NAMES:
            assert layered.error(grads[name], attached[name]) > 0.02, (where, name)


def test_spikes_between_layers_matter_below_only(layered):
    """D4; the layer above is strong, so that the error it would send back cannot be overlooked."""
    net, given = network(second=12.0), trials()
    apart, joined = Written(net, given).gradients(), Written(net, given, "R").gradients()
    for where, tolerance, grads in layered.estimates(net, net.draw(0), given, decolle()):
        assert layered.error(grads["one_two"], joined["one_two"]) < tolerance, where
        assert layered.error(grads["cues_one"], joined["cues_one"]) > 0.05, where
        assert layered.error(grads["cues_one"], apart["cues_one"]) < tolerance, where


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", ["random", "sign"])
def test_feedback_through_other_weights(kind, layered):
    """The readout's weights replaced in the backward pass (the options of the published code)."""
    net, given, rule = network(), trials(), decolle(feedback=kind, feedback_std=0.7)
    forward = [net.draw(0).weights[k] for k in ("one_say_one", "two_say_two")]
    fixed = plan(net, rule, mse()).fixed
    matrices = (
        [0.7 * np.sign(w) for w in forward] if kind == "sign" else [fixed["one", "say_one"], fixed["two", "say_two"]]
    )
    expected = Written(net, given, feedback=matrices).gradients()
    found = layered.equal(net, net.draw(0), given, rule, expected)
    assert layered.error(found["torch"]["cues_one"], Written(net, given).gradients()["cues_one"]) > 0.1


def test_nothing_is_stored_per_synapse():
    """Its cost: traces belong to presynaptic neurons, psi times error to postsynaptic ones."""
    learned = plan(network(), decolle(), mse())
    assert {name: s.state for name, s in learned.synapses.items()} == dict.fromkeys(NAMES, ())
