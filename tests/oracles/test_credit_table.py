"""e-prop is BPTT with named edges cut: every row of the credit table as an equality, and every negative row too.

The gradient by autograd comes from a network written out in this file, with ``detach()`` where an edge is cut;
nothing of localplast computes it. Edges: R spike to other neurons, S spike to own reset, A spike to own adaptation.
Bellec et al. 2020, Nat Commun 11:3625.
"""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from brian2 import ms

from localplast.backends.brian2 import learner as brian2_backend
from localplast.backends.torch import gradient as torch_backend
from localplast.backends.torch.online import OnlineLearner
from localplast.backends.torch.step import leaves
from localplast.models import alif, leaky_readout, lif
from localplast.network import Input, Network, Population, Projection, axonal, normal
from localplast.program.learn import plan
from localplast.rules import bptt, eprop
from localplast.task import Trials
from localplast.task.loss import cross_entropy, mse, rate

N_IN, N, N_OUT, TRIALS = 6, 9, 2, 3
BETA = np.array([0.0] * 4 + [0.8, 1.2, 0.6, 1.5, 1.0])  # plain and adaptive neurons side by side
V_TH, TAU_REF, ALPHA, RHO, KAPPA = 1.0, 3, np.exp(-1 / 20), np.exp(-1 / 60), np.exp(-1 / 15)
REGULARISER = rate(10, 1e-4)


def network(kind="alif", *, recurrent=True, delay=0):
    start = np.linspace(0.3, 1.9, N)  # some neurons above threshold, so that one step is enough to spike
    model = lif(tau_ref=TAU_REF * ms) if kind == "lif" else alif(tau_adapt=60 * ms, tau_ref=TAU_REF * ms)
    parameters = {} if kind == "lif" else {"beta": BETA}
    path = axonal(delay * ms) if delay else None
    links = [Projection("cues", "rec", weight=normal(1.6, mean=0.35)), Projection("rec", "out", weight=normal(2.0))]
    if recurrent:
        links.append(Projection("rec", "rec", weight=normal(1.5), delay=path))
    return Network(
        dt=1 * ms, cues=Input(N_IN), rec=Population(N, model, parameters=parameters, initial={"v": start}),
        out=Population(N_OUT, leaky_readout(tau_out=15 * ms)), projections=links,
    )  # fmt: skip


def trials(steps, *, labels=False):
    rng = np.random.default_rng([7, steps])
    target = rng.integers(0, N_OUT, TRIALS) if labels else rng.standard_normal((TRIALS, steps, N_OUT))
    return Trials({"cues": rng.random((TRIALS, steps, N_IN)) < 0.4}, target, weight=rng.uniform(0.2, 1.0, steps))


class Written:
    """The network of this file, run in plain Torch with the edges in ``cut`` detached (letters R, S and A).

    ``feedback`` ``(neuron, readout)`` replaces the readout's weights in the backward pass to the spikes.
    ``split`` gives each spike two copies, one for its own adaptation and one (``copies``) for everything else.
    """

    def __init__(self, net, values, given, *, cut="", feedback=None, split=False, loss=None):
        self.w = {k: torch.tensor(w, requires_grad=True) for k, w in values.weights.items()}
        self.cut, self.feedback, self.split = cut, feedback, split
        self.beta = torch.tensor(BETA) if "beta" in net.nodes["rec"].parameters else torch.zeros(N)
        self.start = torch.tensor(np.linspace(0.3, 1.9, N))
        self.delay = int(values.delays["rec_rec"]) if "rec_rec" in values.delays else 0
        outputs = self.run(torch.tensor(given.inputs["cues"]).double())
        self.loss = self.judge(outputs, given, loss or mse())

    def seen(self, edge, z):
        return z.detach() if edge in self.cut else z

    def run(self, x):
        v, a, y = self.start.expand(len(x), N), torch.zeros(len(x), N), torch.zeros(len(x), N_OUT)
        silent, raster, self.copies, outputs = torch.zeros(len(x), N), [], [], []
        for t in range(x.shape[1]):
            v, a = ALPHA * v, RHO * a
            argument = v - V_TH - self.beta * a
            ready = (silent <= 0).double()
            psi = 0.3 / V_TH * torch.clamp(1 - argument.detach().abs() / V_TH, min=0) * ready
            hard = (argument.detach() > 0).double() * ready
            own = hard + psi * (argument - argument.detach())
            z = own + 0 if self.split else own  # the copy is another node of the graph, with the same value
            self.copies.append(z)
            raster.append(z)
            v = v + x[:, t] @ self.w["cues_rec"]
            if "rec_rec" in self.w and t >= self.delay:
                v = v + self.seen("R", raster[t - self.delay]) @ self.w["rec_rec"]
            y = KAPPA * y + self.readout(z)
            v, a = v - V_TH * self.seen("S", z), a + self.seen("A", own)
            silent = torch.where(hard > 0, float(TAU_REF), silent) - 1
            outputs.append(y)
        self.spikes = torch.stack([z.detach() for z in raster], 1)
        return torch.stack(outputs, 1)

    def readout(self, z):
        if self.feedback is None:
            return z @ self.w["rec_out"]
        return z.detach() @ self.w["rec_out"] + (z - z.detach()) @ torch.tensor(self.feedback)

    def judge(self, y, given, loss):
        weight = torch.tensor(given.weight)
        if loss.name == "mse":
            per_step = 0.5 * ((y - torch.tensor(given.target)) ** 2).sum(-1)
        else:
            per_step = -y.log_softmax(-1)[np.arange(len(y)), :, given.target]
        total = (weight * per_step).sum(1).mean()
        if loss.regulariser:
            rates = sum(self.copies) / (y.shape[1] * 1e-3)
            total = total + 0.5 * loss.regulariser.strength * ((rates - loss.regulariser.target) ** 2).sum(-1).mean()
        return total

    def gradients(self):
        found = torch.autograd.grad(self.loss, list(self.w.values()), allow_unused=True, retain_graph=True)
        pairs = zip(self.w.items(), found, strict=True)
        grads = {f"{k}.weight": torch.zeros_like(w) if g is None else g for (k, w), g in pairs}
        if "rec_rec.weight" in grads:
            grads["rec_rec.weight"] = grads["rec_rec.weight"] * (1 - torch.eye(N))  # no autapses
        return {k: g.numpy() for k, g in grads.items()}


def error(found, expected):
    """The largest difference over the largest value; silence compared with silence is an error of the test."""
    assert found.shape == expected.shape
    scale = np.abs(expected).max()
    if not np.isfinite(scale) or scale < 1e-9:
        raise ValueError("nothing to compare: the expected gradient is zero")
    return np.abs(found - expected).max() / scale


def alive(written):
    """Raise unless the network spikes, in bursts at the refractory period, and every neuron learns."""
    spikes = written.spikes.numpy()
    share = spikes.mean()
    intervals = [np.diff(np.flatnonzero(row)) for trial in spikes for row in trial.T]
    assert 0.05 < share < 0.9 / TAU_REF, f"{share:.3f} spikes per neuron and step"
    assert min(i.min() for i in intervals if len(i)) == TAU_REF, "no neuron fires as fast as it can"
    for name, grad in written.gradients().items():
        assert (np.abs(grad) > 1e-9).mean() > 0.5, f"most of the gradient of {name} is zero"


def estimates(net, values, given, rule, loss, *, brian2=True):
    """``(where, tolerance, gradients)`` of the rule as it runs forward in time."""
    traces, _ = torch_backend.gradient(net, values, given, rule, loss, form="traces")
    yield "torch", 1e-10, traces
    if brian2:
        grads, _ = brian2_backend.gradient(net, values, given, rule, loss, target="numpy")
        yield "brian2", 1e-8, grads


#: name: (neuron, rule, edges cut in the written network, cut of localplast's own autograd)
EQUAL = {
    "LIF": ("lif", eprop(), "RS", {"recurrent", "reset"}),
    "ALIF": ("alif", eprop(), "RS", {"recurrent", "reset"}),
    "ALIF, adaptation cut": ("alif", eprop(adaptation=False), "RSA", {"recurrent", "reset", "adaptation"}),
    "LIF, reset followed": ("lif", eprop(reset=True), "R", {"recurrent"}),
    "ALIF, reset followed": ("alif", eprop(reset=True), "R", {"recurrent"}),
}
#: the same rules against autograd in which one edge is treated otherwise
DIFFERENT = {
    "LIF, reset kept in autograd only": ("lif", eprop(), "R"),
    "ALIF, reset kept in autograd only": ("alif", eprop(), "R"),
    "ALIF, reset followed by the rule only": ("alif", eprop(reset=True), "RS"),
    "ALIF, adaptation cut in autograd only": ("alif", eprop(), "RSA"),
    "ALIF, adaptation cut in the rule only": ("alif", eprop(adaptation=False), "RS"),
    "ALIF, full BPTT": ("alif", eprop(), ""),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("steps", [2, 50])
@pytest.mark.parametrize("row", EQUAL)
def test_equal(row, steps):
    kind, rule, cut, named = EQUAL[row]
    net = network(kind)
    values, given = net.draw(3), trials(steps)
    written = Written(net, values, given, cut=cut)
    expected = written.gradients()
    if steps > 2:
        alive(written)
    for where, tolerance, grads in estimates(net, values, given, rule, mse()):
        for name, grad in grads.items():
            assert error(grad, expected[name]) < tolerance, (where, name)
    twin, info = torch_backend.gradient(net, values, given, bptt(cut=named), mse())
    assert info["loss"] == pytest.approx(written.loss.item(), rel=1e-12)
    for name, grad in twin.items():
        assert error(grad, expected[name]) < 1e-10, ("bptt(cut)", name)


@pytest.mark.parametrize("row", EQUAL)
def test_one_step(row):
    """In one step no weight can have moved a neuron yet: only the readout learns, and the rest is zero exactly."""
    kind, rule, cut, _ = EQUAL[row]
    net = network(kind)
    values, given = net.draw(3), trials(1)
    written = Written(net, values, given, cut=cut)
    expected = written.gradients()
    assert written.spikes.sum() > 3
    for where, tolerance, grads in estimates(net, values, given, rule, mse()):
        assert error(grads["rec_out.weight"], expected["rec_out.weight"]) < tolerance, where
        for name in ("cues_rec.weight", "rec_rec.weight"):
            assert not grads[name].any() and not expected[name].any(), (where, name)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("row", DIFFERENT)
def test_different(row):
    kind, rule, cut = DIFFERENT[row]
    net = network(kind)
    values, given = net.draw(3), trials(50)
    written = Written(net, values, given, cut=cut)
    alive(written)
    expected = written.gradients()
    for where, tolerance, grads in estimates(net, values, given, rule, mse()):
        assert error(grads["rec_out.weight"], expected["rec_out.weight"]) < tolerance, where  # nothing lies behind it
        for name in ("cues_rec.weight", "rec_rec.weight"):
            assert error(grads[name], expected[name]) > 0.01, (where, name)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("steps", [2, 50])
@pytest.mark.parametrize("kind", ["lif", "alif"])
def test_random_feedback(kind, steps):
    net, matrix = network(kind), np.random.default_rng(8).standard_normal((N, N_OUT))
    values, given, rule = net.draw(3), trials(steps), eprop(feedback={"rec": matrix})
    written = Written(net, values, given, cut="RS", feedback=matrix)
    if steps > 2:
        alive(written)
    expected, symmetric = written.gradients(), Written(net, values, given, cut="RS").gradients()
    for where, tolerance, grads in estimates(net, values, given, rule, mse()):
        for name, grad in grads.items():
            assert error(grad, expected[name]) < tolerance, (where, name)
        assert error(grads["cues_rec.weight"], symmetric["cues_rec.weight"]) > 0.1, where
    cut = bptt(cut={"recurrent", "reset"}, feedback={"rec": matrix})
    twin, _ = torch_backend.gradient(net, values, given, cut, mse())
    for name, grad in twin.items():
        assert error(grad, expected[name]) < 1e-10, ("bptt(cut)", name)


def test_feedback_that_is_drawn():
    """Standard normal, times ``feedback_std``; of its seed, and the same however the rule is computed."""
    net, given, drawn = network(), trials(50), {}
    values, rule = net.draw(3), eprop(feedback="random", feedback_std=3.0)
    for seed in (0, 1):
        traces, _ = torch_backend.gradient(net, values, given, rule, mse(), form="traces", seed=seed)
        others = [torch_backend.gradient(net, values, given, rule, mse(), seed=seed)[0]]
        others += [brian2_backend.gradient(net, values, given, rule, mse(), target="numpy", seed=seed)[0]]
        assert all(error(other["cues_rec.weight"], traces["cues_rec.weight"]) < 1e-8 for other in others)
        drawn[seed] = traces["cues_rec.weight"]
    assert error(drawn[0], drawn[1]) > 0.1
    wide = Network(
        dt=1 * ms, cues=Input(2), rec=Population(400, lif()), out=Population(20, leaky_readout()),
        projections=[Projection("cues", "rec"), Projection("rec", "out")],
    )  # fmt: skip
    matrices = [plan(wide, rule, mse(), seed=seed).fixed["rec", "out"] for seed in (0, 1)]
    for matrix in matrices:
        assert matrix.std() == pytest.approx(3.0, rel=0.05) and abs(matrix.mean()) < 0.2
    assert abs(np.corrcoef(matrices[0].ravel(), matrices[1].ravel())[0, 1]) < 0.1


@pytest.mark.sampled(3)
@pytest.mark.parametrize("delay", [0, 2])
@pytest.mark.parametrize("reset", [False, True])
def test_labels_rates_and_delays(reset, delay):
    """The equality does not hang on the loss, on the regulariser or on delays in the recurrent path."""
    net, loss = network(delay=delay), cross_entropy() + REGULARISER
    values, given = net.draw(3), trials(50, labels=True)
    written = Written(net, values, given, cut="R" if reset else "RS", loss=loss)
    alive(written)
    expected = written.gradients()
    for where, tolerance, grads in estimates(net, values, given, eprop(reset=reset), loss):
        for name, grad in grads.items():
            assert error(grad, expected[name]) < tolerance, (where, name)


@pytest.mark.parametrize("kind", ["lif", "alif"])
def test_without_recurrence_bptt_is_eprop(kind):
    """Exactly where no spike reaches another spike and both sides treat the reset alike."""
    net = network(kind, recurrent=False)
    values, given = net.draw(3), trials(50)
    full, cut = Written(net, values, given), Written(net, values, given, cut="S")
    alive(full)
    for where, tolerance, grads in estimates(net, values, given, eprop(), mse()):
        assert error(grads["cues_rec.weight"], cut.gradients()["cues_rec.weight"]) < tolerance, where
        assert error(grads["cues_rec.weight"], full.gradients()["cues_rec.weight"]) > 0.01, where
    for where, tolerance, grads in estimates(net, values, given, eprop(reset=True), mse()):
        assert error(grads["cues_rec.weight"], full.gradients()["cues_rec.weight"]) < tolerance, where


@pytest.mark.parametrize("kind", ["lif", "alif"])
def test_factorisation(kind):
    """``dE/dw_ij = sum_t dE/dz_j(t) elig_ij(t)`` with the total derivative dE/dz: all of BPTT (eq. 1)."""
    net = network(kind)
    values, given = net.draw(3), trials(50)
    written = Written(net, values, given, split=True)
    alive(written)
    moved = written.copies[1:]  # no weight has acted before the second step
    total = torch.stack(torch.autograd.grad(written.loss, moved, retain_graph=True))  # (time, trial, post)
    sums = {"cues_rec": [], "rec_rec": []}

    def note(learner, _):
        for name, kept in sums.items():
            kept.append(learner.engine.values[f"{name}.learn.elig_sum"].clone())

    learner = OnlineLearner(net, plan(net, eprop(), mse() + REGULARISER), leaves(net, values), values.masks)
    inputs = {"cues": torch.tensor(given.inputs["cues"]).double().transpose(0, 1)}
    target = torch.tensor(given.target).transpose(0, 1)
    learner.run(inputs, target, torch.tensor(given.weight), on_step=note)
    for name, kept in sums.items():
        kept = torch.stack(kept)
        elig = torch.diff(kept, dim=0)
        product = torch.einsum("tbj,tbij->ij", total, elig) * torch.as_tensor(values.masks[name])
        assert error(product.numpy(), written.gradients()[f"{name}.weight"]) < 1e-10, name


def test_silence_is_not_compared():
    """A network that never spikes raises, wherever it is compared."""
    net = network("lif")
    values, given = net.draw(3), trials(50)
    quiet = values.replace_weights({k: 0 * w for k, w in values.weights.items()})
    written = Written(net, quiet, dataclasses.replace(given, inputs={"cues": given.inputs["cues"] & False}), cut="RS")
    with pytest.raises(AssertionError):
        alive(written)
    with pytest.raises(ValueError, match="nothing to compare"):
        error(np.zeros((2, 2)), np.zeros((2, 2)))


@functools.cache
def reference_gradient():
    net = network()
    values, given = net.draw(3), trials(50)
    written = Written(net, values, given, cut="RS")
    alive(written)
    return written.gradients()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("planted", [1.01, 1 + 1e-6])
@pytest.mark.parametrize("constant", [("out", "tau_out"), ("rec", "tau_adapt"), ("rec", "beta")], ids=".".join)
def test_a_planted_error_is_caught(constant, planted):
    """A constant of the estimate wrong by 1 %, or by 1e-6, fails; cosine similarity would call both equal."""
    net, given, (owner, key) = network(), trials(50), constant
    values, expected = net.draw(3), reference_gradient()["cues_rec.weight"]
    values.parameters[owner][key] = values.parameters[owner][key] * planted
    for where, tolerance, grads in estimates(net, values, given, eprop(), mse()):
        wrong = grads["cues_rec.weight"]
        assert error(wrong, expected) > tolerance, where
        cosine = (wrong * expected).sum() / np.linalg.norm(wrong) / np.linalg.norm(expected)
        assert cosine > 0.999, where


@pytest.mark.parametrize(
    "rule", [bptt(), bptt(cut={"reset"}), eprop(feedback="random")], ids=["bptt", "reset cut", "e-prop"]
)
def test_long_trials_run_on_the_generated_adjoint(rule, monkeypatch):
    """The same gradient, by the kernel where the history would be large; another cut is seen."""
    net, given = network(), trials(50)
    values = net.draw(3)
    plain, _ = torch_backend.gradient(net, values, given, rule, mse())
    monkeypatch.setattr(torch_backend, "WORTH_COMPILING", 0)
    monkeypatch.setattr(torch_backend, "run_forward", None)  # nothing else may run
    fused, info = torch_backend.gradient(net, values, given, rule, mse())
    other, _ = torch_backend.gradient(net, values, given, bptt(cut={"recurrent"}), mse())
    for name, grad in plain.items():
        assert error(fused[name], grad) < 1e-10, name
    assert error(other["rec_rec.weight"], plain["rec_rec.weight"]) > 1e-3
    assert info["counts"]["rec"].shape == (TRIALS, N)
