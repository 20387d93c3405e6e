"""Gradients of the Torch twin: central differences where the network is smooth, written-out autograd where it
spikes.
"""

import numpy as np
import pytest
import torch
from brian2 import ms, mV

from localplast.backends.torch import gradient as torch_backend
from localplast.backends.torch.delay_line import FeedbackProduct
from localplast.backends.torch.step import Twin, leaves, simulate
from localplast.errors import NetworkError
from localplast.models import alif, cuba_lif, leaky_readout
from localplast.network import Input, Network, Population, Projection, axonal, dendritic, normal, synaptic
from localplast.neuron import NeuronModel
from localplast.rules import bptt
from localplast.task import Trials
from localplast.task.loss import mse

N_IN, N, N_OUT, TRIALS = 4, 5, 2, 3


def error(found, expected):
    """The largest difference over the largest value; silence compared with silence is an error of the test."""
    found, expected = np.asarray(found), np.asarray(expected)
    scale = np.abs(expected).max()
    if not scale > 1e-9:
        raise ValueError("nothing to compare: the expected gradient is zero")
    return np.abs(found - expected).max() / scale


# --- smooth networks --------------------------------------------------------------------------------------------------


def graded(method):
    """A rate neuron with a threshold and a width of its output; with rk4 the membrane is nonlinear too."""
    drive = "-v + I" if method == "exact" else "-v + v_th*tanh(v) + I"
    return NeuronModel(
        name="graded", equations=f"dv/dt = ({drive})/tau_mem : 1\n I : 1", output="tanh((v - v_th)/width)",
        receives="I", method=method, parameters={"tau_mem": 8 * ms, "v_th": 0.3, "width": 0.7},
    )  # fmt: skip


FRACTIONS = np.random.default_rng(3).uniform(0.15, 0.85, (N, N))
DELAYS = {
    "none": None,
    "axonal": axonal((np.arange(N) + FRACTIONS[0]) * ms, trainable=True),
    "dendritic": dendritic((np.arange(N)[::-1] + FRACTIONS[1]) * ms, trainable=True),
    "synaptic": synaptic((np.arange(N * N).reshape(N, N) % 4 + FRACTIONS) * ms, trainable=True),
    "one for all": axonal(2.4 * ms, trainable=True),
    "of inputs": axonal((np.arange(N_IN) + FRACTIONS[0, :N_IN]) * ms, trainable=True),
}


class Smooth:
    """A network of graded neurons and a smooth function of what it puts out."""

    def __init__(self, delay="none", method="exact", steps=25):
        rng = np.random.default_rng(0)
        recurrent = None if delay == "of inputs" else DELAYS[delay]
        self.net = Network(
            dt=1 * ms, cues=Input(N_IN, "currents"), out=Population(N_OUT, leaky_graded()),
            hid=Population(
                N, graded(method), parameters={"tau_mem": np.linspace(5, 20, N) * ms}, initial={"v": rng.normal(size=N)}
            ),
            projections=[
                Projection("cues", "hid", weight=normal(1.5), delay=DELAYS[delay] if delay == "of inputs" else None),
                Projection("hid", "hid", weight=normal(1.2), delay=recurrent), Projection("hid", "out", weight=normal(1.0)),
            ],
        )  # fmt: skip
        self.values = self.net.draw(0)
        self.inputs = {"cues": torch.tensor(rng.standard_normal((steps, TRIALS, N_IN)))}
        self.wanted = torch.tensor(rng.standard_normal((steps, TRIALS, N_OUT)))

    def loss(self, tensors):
        twin = Twin(self.net, tensors, self.values.masks)
        outputs = simulate(twin, self.inputs, ["out.output", "hid.v"])
        return ((outputs["out.output"] - self.wanted) ** 2).sum() + outputs["hid.v"][-1].sum()

    def gradient(self, name):
        tensors = leaves(self.net, self.values, trainable=[name])
        (found,) = torch.autograd.grad(self.loss(tensors), [tensors[name]])
        return found.numpy()

    @torch.no_grad()
    def differences(self, name, sides=(1, -1)):
        """Difference quotients of the loss, entry by entry; ``sides`` (1, 0) is the derivative to the right."""
        tensors = leaves(self.net, self.values)
        start = tensors[name]
        step = 1e-5 * (float(start.abs().max()) or 1.0)
        found = torch.zeros_like(start)
        for index in np.ndindex(*start.shape):
            ends = []
            for side in sides:
                moved = start.clone()
                moved[index] += side * step
                ends.append(self.loss({**tensors, name: moved}))
            found[index] = (ends[0] - ends[1]) / (step * (sides[0] - sides[1]))
        return found.numpy()


def leaky_graded():
    return NeuronModel(name="leaky_graded", equations="dv/dt = (-v + I)/tau_out : 1\n I : 1", output="v",
                       receives="I", parameters={"tau_out": 10 * ms})  # fmt: skip


NAMES = [
    "cues_hid.weight", "hid_hid.weight", "hid_out.weight", "hid.tau_mem", "hid.v_th", "hid.width", "hid.v", "hid.I",
    "out.tau_out", "out.v",
]  # fmt: skip


@pytest.mark.sampled(2)
@pytest.mark.parametrize("method", ["exact", "rk4"])
@pytest.mark.parametrize("name", NAMES)
def test_central_differences(name, method):
    smooth = Smooth(method=method)
    assert error(smooth.gradient(name), smooth.differences(name)) < 1e-6


@pytest.mark.sampled(2)
@pytest.mark.parametrize("delay", [d for d in DELAYS if d != "none"])
def test_delays_between_steps(delay):
    """Axonal, dendritic and synaptic; the weights behind a delay too."""
    smooth, projection = Smooth(delay), "cues_hid" if delay == "of inputs" else "hid_hid"
    for name in (f"{projection}.delay", f"{projection}.weight"):
        assert error(smooth.gradient(name), smooth.differences(name)) < 1e-6, name
    if delay == "synaptic":
        assert not np.diag(smooth.gradient("hid_hid.delay")).any()  # no autapses, nothing to delay


def test_whole_delays_have_the_derivative_to_the_right():
    smooth = Smooth("one for all")
    smooth.values.delays["hid_hid"] = np.array(2.0)
    assert error(smooth.gradient("hid_hid.delay"), smooth.differences("hid_hid.delay", (1, 0))) < 1e-4
    left = smooth.differences("hid_hid.delay", (0, -1))
    assert error(smooth.gradient("hid_hid.delay"), left) > 0.01  # a corner: two samples meet there


@pytest.mark.parametrize("planted", [1.01, 1.0001])
def test_a_planted_error_is_caught(planted):
    """A width in the derivative that is not the one in the loss: every other comparison of this network fails."""
    smooth, other = Smooth(), Smooth()
    other.values.parameters["hid"]["width"] = other.values.parameters["hid"]["width"] * planted
    for name in ("hid.tau_mem", "hid_hid.weight", "hid.width"):
        expected = smooth.differences(name)
        assert error(other.gradient(name), expected) > 1e-6 > error(smooth.gradient(name), expected), name
    with pytest.raises(ValueError, match="nothing to compare"):
        error(0 * expected, 0 * expected)


def test_unknown_name():
    with pytest.raises(NetworkError, match="cannot train.*'hid.tau'.*hid.tau_mem"):
        leaves(Smooth().net, Smooth().values, trainable=["hid.tau"])


# --- spiking networks: the same recursion in plain Torch --------------------------------------------------------------

STEPS = 50


def spiking(model, scale, mean, parameters):
    net = Network(
        dt=1 * ms, cues=Input(N_IN), rec=Population(N, model, parameters=parameters),
        out=Population(N_OUT, leaky_readout(tau_out=12 * ms)),
        projections=[
            Projection("cues", "rec", weight=normal(scale, mean=mean)), Projection("rec", "rec", weight=normal(0.6 * scale)),
            Projection("rec", "out"),
        ],
    )  # fmt: skip
    rng = np.random.default_rng(2)
    target = rng.standard_normal((TRIALS, STEPS, N_OUT))
    given = Trials({"cues": rng.random((TRIALS, STEPS, N_IN)) < 0.3}, target, weight=rng.uniform(0.1, 1, STEPS))
    return net, net.draw(3), given


def adaptive():
    parameters = {"tau_mem": np.linspace(10, 30, N) * ms, "beta": np.linspace(0, 0.5, N)}
    model = alif(tau_adapt=60 * ms, tau_ref=2 * ms)
    return *spiking(model, 1.3, 0.45, parameters), ["tau_mem", "tau_adapt", "beta", "v_th", "v", "a"]


def in_volts():
    model = cuba_lif(tau_ref=2 * ms, width=5 * mV)
    names = ["tau_mem", "tau_syn", "v_th", "v_rest", "v", "I"]
    return *spiking(model, 40 * mV, 14 * mV, {"tau_mem": np.linspace(8, 20, N) * ms}), names


def alif_step(p, v, s, ready):
    v, a = v * torch.exp(-1e-3 / p["tau_mem"]), s * torch.exp(-1e-3 / p["tau_adapt"])
    x, width = v - p["v_th"] - p["beta"] * a, p["v_th"].detach()
    return v, a, x, 0.3 / width * (1 - x.detach().abs() / width).clamp(min=0)


def cuba_step(p, v, current, ready):
    """The exact solution while the neuron is ready; while it is not, the membrane stays where it was reset to."""
    slow, fast = torch.exp(-1e-3 / p["tau_mem"]), torch.exp(-1e-3 / p["tau_syn"])
    gain = p["tau_syn"] / (p["tau_syn"] - p["tau_mem"]) * (fast - slow)
    free = p["v_rest"] + (v - p["v_rest"]) * slow + gain * current
    v = torch.where(ready > 0, free, v)
    x = v - p["v_th"]
    return v, current * fast, x, 1 / 5e-3 / (1 + x.detach().abs() / 5e-3) ** 2


def written_out(p, given, kind, cut=(), feedback=None):
    """The loss of the network with numbers ``p``; edges in ``cut`` are detached. ``s`` is a or I."""
    x, target = torch.tensor(given.inputs["cues"]).double(), torch.tensor(given.target)

    def seen(edge, value):
        return value.detach() if edge in cut else value

    v, s = p["v"].expand(TRIALS, N), p["a" if kind == "alif" else "I"].expand(TRIALS, N)
    y, silent, total, count = torch.zeros(TRIALS, N_OUT), torch.zeros(TRIALS, N), 0.0, 0
    for t in range(STEPS):
        ready = (silent <= 0).double()
        v, s, argument, psi = (alif_step if kind == "alif" else cuba_step)(p, v, s, ready)
        v, s = seen("leak", v), seen("leak", s)
        y = seen("readout", y) * torch.exp(-1e-3 / p["tau_out"])
        hard = (argument.detach() > 0).double() * ready
        z = hard + (seen("spike", argument) - argument.detach()) * psi * ready
        arriving = x[:, t] @ p["cues_rec"] + seen("recurrent", z) @ p["rec_rec"]
        v, s = (v + arriving, s) if kind == "alif" else (v, s + arriving)
        w_out = p["rec_out"]
        y = y + (z @ w_out if feedback is None else z.detach() @ w_out + (z - z.detach()) @ feedback)
        own = seen("reset", z)
        v = v - p["v_th"] * own if kind == "alif" else v + own * (p["v_rest"] - v)
        s = s + seen("adaptation", z) if kind == "alif" else s
        silent, count = torch.where(hard > 0, 2.0, silent) - 1, count + hard
        total = total + given.weight[t] * 0.5 * ((y - target[:, t]) ** 2).sum(-1)
    assert 2 < count.mean() < STEPS / 3 and (count.sum(0) > 0).all()
    return total.mean()


def compared(case, rule, *, feedback=None):
    """The largest error of each gradient: localplast's against the recursion in plain Torch."""
    net, values, given, names = case
    trainable = [f"rec.{n}" for n in names] + ["out.tau_out"]
    grads, info = torch_backend.gradient(net, values, given, rule, mse(), form="adjoint", trainable=trainable)
    tensors = leaves(net, values)
    p = {n.split(".")[1]: w for n, w in tensors.items() if n.startswith("rec.") or n == "out.tau_out"}
    p.update({n.removesuffix(".weight"): w for n, w in tensors.items() if n.endswith(".weight")})
    for value in p.values():
        value.requires_grad_(True)
    loss = written_out(p, given, net.nodes["rec"].model.name.split("_")[0], rule.cut, feedback)
    assert info["loss"] == pytest.approx(loss.item(), rel=1e-12)
    asked = [n.removesuffix(".weight") if n.endswith(".weight") else n.split(".")[-1] for n in grads]
    found = torch.autograd.grad(loss, [p[n] for n in asked], allow_unused=True)
    expected = {n: torch.zeros_like(p[a]) if g is None else g for n, a, g in zip(grads, asked, found, strict=True)}
    expected["rec_rec.weight"] = expected["rec_rec.weight"] * (1 - torch.eye(N))
    return grads, {n: g.numpy() for n, g in expected.items()}


@pytest.mark.parametrize("make", [adaptive, in_volts])
def test_parameters_of_spiking_neurons(make):
    """Time constants, thresholds, adaptation and initial states, through surrogate, reset and adaptation."""
    grads, expected = compared(make(), bptt())
    assert len(grads) == 10
    for name, gradient in expected.items():
        assert error(grads[name], gradient) < 1e-10, name


@pytest.mark.sampled(2)
@pytest.mark.parametrize("make", [adaptive, in_volts])
@pytest.mark.parametrize("cut", ["leak", "readout", "reset", "recurrent", "adaptation", "spike"])
def test_named_edges(make, cut):
    """Each edge by its own name; what no gradient reaches any more is zero on both sides."""
    case = make()
    whole, _ = compared(case, bptt())
    grads, expected = compared(case, bptt(cut=cut))
    for name, gradient in expected.items():
        if gradient.any():
            assert error(grads[name], gradient) < 1e-10, name
        else:
            assert not grads[name].any(), name
    changed = any(error(grads[n], g) > 1e-3 for n, g in whole.items())
    assert changed == (not (cut == "adaptation" and make is in_volts))  # that neuron does not adapt
    if cut == "spike":
        assert not grads["cues_rec.weight"].any() and grads["rec_out.weight"].any()


@pytest.mark.parametrize("make", [adaptive, in_volts])
def test_feedback_replaces_weights(make):
    """The readout's own gradient keeps its form; what comes back to the spikes comes through the other matrix."""
    case, matrix = make(), np.random.default_rng(5).standard_normal((N, N_OUT))
    grads, expected = compared(case, bptt(feedback={"rec": matrix}), feedback=torch.tensor(matrix))
    plain, _ = compared(case, bptt())
    for name, gradient in expected.items():
        assert error(grads[name], gradient) < 1e-10, name
    assert error(grads["rec_out.weight"], plain["rec_out.weight"]) < 1e-12
    assert error(grads["cues_rec.weight"], plain["cues_rec.weight"]) > 0.1


def test_feedback_product():
    """Forward with one matrix, backward with another, for batches of any shape."""
    rng = np.random.default_rng(0)
    x, w, b = (torch.tensor(rng.standard_normal(s), requires_grad=True) for s in ((2, 3, 4), (4, 2), (4, 2)))
    seed = torch.tensor(rng.standard_normal((2, 3, 2)))
    product = FeedbackProduct.apply(x, w, b)
    assert torch.equal(product, x @ w)
    to_x, to_w = torch.autograd.grad((product * seed).sum(), [x, w])
    assert error(to_x, (seed @ b.T).detach()) < 1e-14
    assert error(to_w, torch.einsum("abi,abj->ij", x, seed).detach()) < 1e-14
