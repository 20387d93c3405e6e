"""Reward-based learning: what runs forward in time is the forward view of actor and critic, on both backends.

The expected gradient comes from a network and an actor-critic loss written out in this file (R spike to other neurons
and S spike to own reset are detached): every choice is weighted with all temporal difference errors to come,
discounted. Online the same sum is made of eligibilities that fade and meet the temporal difference error of one step.
Bellec et al. 2020, Nat Commun 11:3625, eqs. 5 and 35-45; Williams 1992, Mach Learn 8:229.
"""

import dataclasses

import numpy as np
import pytest
import torch
from brian2 import Hz, ms

import localplast as lp
from localplast.errors import NetworkError, UnsupportedError
from localplast.models import alif, leaky_readout
from localplast.network import Input, Network, Population, Projection, axonal, dendritic, normal
from localplast.rules import bptt, eprop, rtrl
from localplast.task import Task, Trials
from localplast.task.loss import gumbel, rate, reward

N_IN, N, CHOICES, STEPS, WAIT, TAU_REF = 6, 8, 3, 40, 7, 3
BETA = np.array([0.0, 0.4, 0.3, 0.8, 1.2, 0.6, 1.5, 0.2])
DISCOUNT, COST, ALPHA, RHO, KAPPA = 0.9, 0.3, np.exp(-1 / 20), np.exp(-1 / 60), np.exp(-1 / 15)
LOSS = reward(WAIT * ms, discount=DISCOUNT, value_cost=COST)
WEIGHTS = ("cues_rec", "rec_rec", "rec_policy", "rec_value")


def network(*, critic=True, dice=CHOICES, kind="currents", **options):
    readout = leaky_readout(tau_out=15 * ms)
    nodes = {"value": Population(1, readout)} if critic else {}
    nodes |= {"dice": Input(dice, kind)} if dice else {}
    return Network(
        dt=1 * ms, cues=Input(N_IN), policy=Population(CHOICES, readout), **nodes,
        rec=Population(N, alif(tau_adapt=60 * ms, tau_ref=TAU_REF * ms), {"beta": BETA, "tau_mem": np.full(N, 20.0) * ms}, **options),
        projections=[
            Projection("cues", "rec", weight=normal(1.6, mean=0.45)), Projection("rec", "rec", weight=normal(1.5), delay=axonal(2 * ms)),
            Projection("rec", "policy", weight=normal(1.0)), *([Projection("rec", "value", weight=normal(1.0))] if critic else []),
        ],
    )  # fmt: skip


def trials(count=4, seed=5):
    rng = np.random.default_rng(seed)
    weight = np.zeros(STEPS)
    weight[15:28] = np.linspace(0.5, 1.5, 13)
    spikes = rng.random((count, STEPS, N_IN)) < 0.4
    return Trials(
        {"cues": spikes, "dice": gumbel(rng, (count, STEPS, CHOICES))}, rng.integers(0, CHOICES, count), weight
    )


class Written:
    """Network, choices and actor-critic loss in plain Torch. ``discount`` and ``late`` can be made wrong."""

    def __init__(self, net, values, given, *, cut="RS", feedback=None, discount=DISCOUNT, late=0):
        self.w = {n: torch.tensor(values.weights[n], requires_grad=True) for n in WEIGHTS}
        self.tau = torch.tensor(values.parameters["rec"]["tau_mem"], requires_grad=True)
        self.cut, self.feedback = cut, {k: torch.tensor(b) for k, b in (feedback or {}).items()}
        y, value = self.run(torch.tensor(given.inputs["cues"]).double())
        self.loss = self.judge(y, value, given, discount, late)

    def run(self, x):
        v, a, silent = (torch.zeros(len(x), N) for _ in range(3))
        y, value, self.z, outputs = torch.zeros(len(x), CHOICES), torch.zeros(len(x), 1), [], []
        for t in range(x.shape[1]):
            v, a = torch.exp(-1e-3 / self.tau) * v, RHO * a
            argument = v - 1 - torch.tensor(BETA) * a
            psi = 0.3 * torch.clamp(1 - argument.detach().abs(), min=0) * (silent <= 0)
            hard = ((argument.detach() > 0) & (silent <= 0)).double()
            z = hard + psi * (argument - argument.detach())
            self.z.append(z)
            v = v + x[:, t] @ self.w["cues_rec"]
            if t >= 2:
                seen = self.z[t - 2]
                v = v + (seen.detach() if "R" in self.cut else seen) @ self.w["rec_rec"]
            y, value = KAPPA * y + self.through("policy", z), KAPPA * value + self.through("value", z)
            v, a = v - (z.detach() if "S" in self.cut else z), a + z
            silent = torch.where(hard > 0, float(TAU_REF), silent) - 1
            outputs.append((y, value[:, 0]))
        ys, vs = zip(*outputs, strict=True)
        return torch.stack(ys, 1), torch.stack(vs, 1)

    def through(self, readout, z):
        w = self.w[f"rec_{readout}"]
        return z @ w if readout not in self.feedback else z.detach() @ w + (z - z.detach()) @ self.feedback[readout]

    def judge(self, y, value, given, discount, late):
        weight, dice, label = torch.tensor(given.weight), torch.tensor(given.inputs["dice"]), torch.tensor(given.target)
        chosen = (y.detach() + dice).argmax(-1)
        self.reward = (weight * (2.0 * (chosen == label[:, None]) - 1)).sum(1)
        paid = torch.zeros_like(value)
        paid[:, 27 + WAIT] = self.reward
        delta = paid[:, :-1] + discount * value[:, 1:].detach() - value[:, :-1].detach()
        delta = torch.nn.functional.pad(delta, (0, late))[:, late:]  # wrong unless late is 0
        ahead = torch.stack(
            [(delta[:, t:] * discount ** torch.arange(delta.shape[1] - t).double()).sum(1) for t in range(STEPS - 1)], 1
        )
        self.ahead = torch.nn.functional.pad(ahead, (0, 1))
        surprise = -y.log_softmax(-1).gather(-1, chosen[..., None])[..., 0]
        return (self.ahead * (weight * surprise - COST * value)).sum(1).mean()

    def gradients(self):
        found = torch.autograd.grad(self.loss, [*self.w.values(), self.tau], retain_graph=True)
        grads = dict(zip([*WEIGHTS, "tau_mem"], found, strict=True))
        grads["rec_rec"] = grads["rec_rec"] * (1 - torch.eye(N))
        return {n: g.numpy() for n, g in grads.items()}


def error(found, expected):
    assert np.shape(found) == np.shape(expected)
    scale = np.abs(expected).max()
    assert scale > 1e-9, "nothing to compare: the expected gradient is zero"
    return np.abs(found - expected).max() / scale


def estimates(net, values, given, rule, loss=LOSS, *, seed=0):
    """``(where, tolerance, gradients)``: traces on both backends, and the adjoint."""
    for where, tolerance, options in (
        ("torch", 1e-10, {"form": "traces"}),
        ("torch", 1e-10, {"form": "adjoint"}),
        ("brian2", 1e-8, {}),
    ):
        tree = lp.gradient(
            net, given, rule, loss=loss, backend=where, values=values, trainable=["rec.tau_mem"], seed=seed, **options
        )
        grads = {n: tree[n]["gradient"].values for n in WEIGHTS} | {"tau_mem": tree["rec"]["gradient_tau_mem"].values}
        yield f"{where} {options}", tolerance, grads, tree.attrs["loss"]


def test_choices_and_errors_to_come():
    """The test's own pieces: some choices are right and some wrong, and the discounted errors telescope."""
    net, given = network(), trials()
    written = Written(net, net.draw(3), given)
    assert 0.05 < torch.stack(written.z).detach().mean() < 0.3
    assert written.reward.min() < 0 and written.reward.unique().numel() > 2
    y, value = (x.detach() for x in written.run(torch.tensor(given.inputs["cues"]).double()))
    t = 20
    expected = DISCOUNT ** (27 + WAIT - t) * written.reward - value[:, t] + DISCOUNT ** (STEPS - 1 - t) * value[:, -1]
    assert torch.allclose(written.ahead[:, t], expected)


@pytest.mark.sampled(2, 1)
@pytest.mark.parametrize("rule, cut", [(eprop(), "RS"), (eprop(reset=True), "R")], ids=["e-prop", "reset followed"])
def test_forward_view(rule, cut):
    net, given = network(), trials()
    values = net.draw(3)
    written = Written(net, values, given, cut=cut)
    for where, tolerance, grads, loss in estimates(net, values, given, rule):
        assert loss == pytest.approx(-written.reward.mean().item(), rel=1e-12)
        for name, expected in written.gradients().items():
            assert error(grads[name], expected) < tolerance, (where, name)


def test_random_feedback():
    net, given, rng = network(), trials(), np.random.default_rng(9)
    values = net.draw(3)
    matrices = {r: rng.standard_normal((net.size("rec"), net.size(r))) for r in ("policy", "value")}
    rule = eprop(feedback={f"rec_{r}": matrix for r, matrix in matrices.items()})
    written = Written(net, values, given, feedback=matrices).gradients()
    for where, tolerance, grads, _ in estimates(net, values, given, rule, seed=2):
        for name, expected in written.items():
            assert error(grads[name], expected) < tolerance, (where, name)


def test_full_bptt():
    net, given = network(), trials()
    values = net.draw(3)
    tree = lp.gradient(net, given, bptt(), loss=LOSS, values=values)
    for name in WEIGHTS:
        assert error(tree[name]["gradient"].values, Written(net, values, given, cut="").gradients()[name]) < 1e-10


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "wrong", [{"discount": 1.0}, {"late": 1}, {"cut": ""}], ids=["no discount", "error of the next step", "BPTT"]
)
def test_different(wrong):
    net, given = network(), trials()
    values = net.draw(3)
    expected = Written(net, values, given, **wrong).gradients()
    for where, _, grads, _ in estimates(net, values, given, eprop()):
        assert error(grads["cues_rec"], expected["cues_rec"]) > 0.01, where


@pytest.mark.sampled(2)
@pytest.mark.parametrize("make", [axonal, dendritic])
def test_delays_learn_from_reward(make):
    base, given = network(), trials()
    links = [
        dataclasses.replace(p, delay=make(3 * np.ones(N_IN if make is axonal else N) * ms, trainable=True))
        if p.pre == "cues"
        else p
        for p in base.projections.values()
    ]
    net = Network(dt=base.dt, **base.nodes, projections=links)
    values, loss = net.draw(3), LOSS + rate(10 * Hz, 1e-4)
    grads = [
        lp.gradient(net, given, eprop(), loss=loss, values=values, backend=b, **options)["cues_rec"][
            "gradient_delay"
        ].values
        for b, options in (("torch", {"form": "adjoint"}), ("torch", {"form": "traces"}), ("brian2", {}))
    ]
    assert error(grads[1], grads[0]) < 1e-10 and error(grads[2], grads[0]) < 1e-8


@pytest.mark.sampled(2)
@pytest.mark.parametrize("rule", [eprop(), eprop(feedback="sign")], ids=["adjoint", "traces"])
def test_learning_is_the_same_on_both_backends(rule):
    net = network(trainable={"tau_mem": (5 * ms, 50 * ms)})
    task = Task.generated("noise", lambda rng, n: trials(n, int(rng.integers(1 << 30))))
    options = dict(
        rule=rule,
        optimiser=lp.adam(0.01).with_rates(**{"rec.tau_mem": 0.05}),
        loss=LOSS + rate(10 * Hz, 1e-4),
        batch=2,
        updates=4,
        test=4,
        seed=1,
        show=False,
    )
    one, other = (
        lp.run(net, task, backend="torch", **options),
        lp.run(net, task, backend="brian2", target="numpy", **options),
    )
    for name in WEIGHTS:
        assert error(other[name]["weight"].values, one[name]["weight"].values) < 1e-10, name
        assert error(one[name]["weight"].values, net.draw(1).weights[name]) > 1e-3, name
    assert error(other["learned"]["rec.tau_mem"].values, one["learned"]["rec.tau_mem"].values) < 1e-10
    for metric in ("loss", "accuracy"):
        assert np.allclose(one["metrics"][metric], other["metrics"][metric], rtol=1e-10, equal_nan=True), metric


def test_unbiased():
    """On a bandit the mean over the dice is the gradient of the expected reward, discounted; a critic adds noise, no
    bias.
    """
    count, wait, discount = 20000, 2, 0.8
    logits = np.array([0.4, -0.3, 0.1])
    net = Network(
        dt=1 * ms, cues=Input(1), dice=Input(3, "currents"), policy=Population(3, leaky_readout()), value=Population(1, leaky_readout()),
        projections=[Projection("cues", "policy", weight=logits[None]), Projection("cues", "value", weight=np.array([[0.2]]))],
    )  # fmt: skip
    spikes, weight = np.zeros((count, 6, 1), bool), np.zeros(6)
    spikes[:, 2], weight[2] = True, 1.0
    given = Trials({"cues": spikes, "dice": gumbel(np.random.default_rng(0), (count, 6, 3))}, np.full(count, 1), weight)
    loss = reward(wait * ms, discount=discount, value_cost=0.0)
    found = lp.gradient(net, given, eprop(), loss=loss)
    pi, earned = np.exp(logits) / np.exp(logits).sum(), np.array([-1.0, 1.0, -1.0])
    expected = -(discount**wait) * pi * (earned - pi @ earned)
    largest = 2 * np.sqrt(pi * (1 - pi) / count)  # standard error if every temporal difference error were two
    assert np.all(np.abs(found["cues_policy"]["gradient"].values[0] - expected) < 2.5 * largest)
    assert np.all(np.abs(expected) > 2.5 * largest)
    assert -found.attrs["loss"] == pytest.approx(pi @ earned, abs=4 / np.sqrt(count))


# --- bad input --------------------------------------------------------------------------------------------------------


def test_rtrl_does_not_know_reward():
    with pytest.raises(UnsupportedError, match="do not meet late reward"):
        lp.gradient(network(), trials(), rtrl(), loss=LOSS)


@pytest.mark.parametrize("backend", ["torch", "brian2"])
@pytest.mark.parametrize("options, message", [
    ({"critic": False}, "needs two readouts, 'policy' .* and 'value'"), ({"dice": 0}, "Gumbel noise draws the choices"),
    ({"dice": 2}, r"an Input\(3, 'currents'\) called 'dice'"), ({"kind": "spikes"}, "'currents'"),
])  # fmt: skip
def test_networks_without_actor_critic_and_dice(options, message, backend):
    net, given = network(**options), trials()
    inputs = {"cues": given.inputs["cues"]}
    if "dice" in net.nodes:
        inputs["dice"] = given.inputs["dice"][..., : net.size("dice")]
        inputs["dice"] = inputs["dice"] > 0 if options.get("kind") else inputs["dice"]
    for rule in (eprop(), bptt())[: 1 + (backend == "torch")]:
        with pytest.raises(NetworkError, match=message):
            lp.gradient(net, dataclasses.replace(given, inputs=inputs), rule, loss=LOSS, backend=backend)


LAST = np.zeros(STEPS)
LAST[-1 - WAIT] = 1.0


@pytest.mark.parametrize("backend", ["torch", "brian2"])
@pytest.mark.parametrize("change, message", [
    ({"weight": LAST}, "in step 39; a trial has 40 steps.* at least 41 steps long"),
    ({"weight": np.ones(STEPS)}, "in step 46; a trial has 40 steps.* at least 48"), ({"weight": None}, "at least 48"),
    ({"weight": np.zeros(STEPS)}, "the weight of every step is zero"),
    ({"target": None}, "needs the right choice of every trial"), ({"target": np.zeros((4, STEPS, 3))}, "int labels"),
    ({"target": np.array([0, 1, 2, 3])}, "from 0 to 2"),
])  # fmt: skip
def test_trials_without_reward(change, message, backend):
    net, given = network(), dataclasses.replace(trials(), **change)
    with pytest.raises(NetworkError, match=message):
        lp.gradient(net, given, eprop(), loss=LOSS, backend=backend)
    task = Task("bad", lambda update, batch, seed: given, lambda n, seed: given)
    with pytest.raises(NetworkError, match=message):  # before anything is compiled
        lp.run(
            net, task, rule=eprop(), optimiser=lp.adam(1e-3), loss=LOSS, backend=backend, batch=4, updates=1, show=False
        )
