"""The fused kernel's gradients of parameters, delays and population sums, against plain autograd through the twin."""

import functools

import numpy as np
import pytest
import torch
from brian2 import ms, mV

from localplast import delay
from localplast.backends.c import compile as kernel_build
from localplast.backends.c.call import Fused
from localplast.backends.c.layout import why_not
from localplast.backends.torch import gradient as torch_backend
from localplast.backends.torch import learner as torch_learn
from localplast.backends.torch.learner import TorchLearner
from localplast.backends.torch.step import Twin, leaves, simulate
from localplast.errors import NetworkError, UnsupportedError
from localplast.learning.optimise import adam
from localplast.models import alif, cuba_lif, leaky_readout, lif
from localplast.network import Delay, Input, Network, Population, Projection, axonal, normal, uniform
from localplast.neuron import NeuronModel
from localplast.neuron.surrogate import arctan, triangle
from localplast.rules import bptt
from localplast.task import Trials
from localplast.task.loss import branching, cross_entropy

pytestmark = pytest.mark.skipif(kernel_build.compiler() is None, reason="no C compiler here")

STEPS, TRIALS, SIZE = 60, 5, 7


def biased(method="exact"):
    """A LIF neuron with a constant drive, and a threshold whose square counts."""
    # fmt: skip
    return NeuronModel(
        name="biased",
        equations="dv/dt = (bias - v)/tau_mem : 1",
        threshold="v > v_th**2",
        reset="v -= v_th*rest",
        parameters={"tau_mem": 10 * ms, "v_th": 1.0, "bias": 0.3, "rest": 0.7},
        surrogate=triangle("v_th"),
        method=method,
    )


def quadratic():
    """A refractory neuron in volts, by rk4, whose reset bends: every derivative depends on the state."""
    # fmt: skip
    return NeuronModel(
        name="quadratic",
        equations="dv/dt = (v*(v - v_th)/v_scale + I)/tau_mem : volt (unless refractory)\n dI/dt = -I/tau_syn : volt",
        threshold="v > 2*v_th",
        reset="v = v_drop*(tanh(v/v_th) - 2)",
        refractory="tau_ref",
        method="rk4",
        receives="I",
        parameters={
            "tau_mem": 10 * ms,
            "tau_syn": 5 * ms,
            "v_th": 5 * mV,
            "v_scale": 5 * mV,
            "v_drop": 2 * mV,
            "tau_ref": 3 * ms,
        },
        surrogate=arctan("v_th"),
    )


def scaled_readout():
    """A readout whose output has a parameter of its own."""
    return NeuronModel(name="scaled_readout", equations="dv/dt = -v/tau_out : 1", parameters={"tau_out": 15 * ms, "gain": 1.3},
                       output="gain*v**2 + v")  # fmt: skip


def per_neuron(value):
    return np.linspace(0.8, 1.2, SIZE) * value


#: model, strength of weights, parameters that learn, values per neuron
MODELS = {
    "lif": (lambda: lif(surrogate=triangle(gamma=0.8)), 4.0, ["tau_mem", "v_th"], {}),
    "lif, per neuron": (lif, 4.0, ["tau_mem", "v_th"], {"tau_mem": per_neuron(20 * ms), "v_th": per_neuron(1.0)}),
    "lif, refractory": (lambda: lif(tau_ref=4 * ms), 5.0, ["tau_mem", "v_th"], {"v_th": per_neuron(1.0)}),
    "alif": (lambda: alif(tau_ref=2 * ms, beta=0.3, tau_adapt=30 * ms), 8.0, ["tau_mem", "tau_adapt", "beta", "v_th"],
             {"beta": per_neuron(0.3)}),
    "cuba_lif": (lambda: cuba_lif(width=5 * mV), 0.08, ["tau_mem", "tau_syn", "v_th"], {"tau_syn": per_neuron(5 * ms)}),
    "quadratic": (quadratic, 0.05, ["tau_mem", "tau_syn", "v_th", "v_scale", "v_drop"], {"v_drop": per_neuron(2 * mV)}),
    "biased": (biased, 3.0, ["tau_mem", "v_th", "bias", "rest"], {"bias": per_neuron(0.3)}),
}  # fmt: skip


def recurrent(model, strength, late=None, readout=leaky_readout, **population):
    """One recurrent population between five channels and a readout; ``late`` makes a delay from the shape of a
    projection.
    """
    drive = uniform(strength, mean=0.4 * strength / np.sqrt(5))
    cells = Population(SIZE, model, **population)
    return Network(dt=1 * ms, cues=Input(5), rec=cells, out=Population(3, readout()), projections=[
        Projection("cues", "rec", weight=drive, delay=late and late(5, SIZE)),
        Projection("rec", "rec", weight=normal(0.6 * strength), delay=late and late(SIZE, SIZE)),
        Projection("rec", "out", delay=late and late(SIZE, 3)),
    ])  # fmt: skip


@functools.cache
def network(kind):
    make, strength, learned, values = MODELS[kind]
    net = recurrent(make(), strength, readout=scaled_readout, parameters=values)
    return net, tuple(f"rec.{k}" for k in learned) + ("out.tau_out", "out.gain")


def spikes_in(net, trials=TRIALS, steps=STEPS, share=0.25):
    generator = torch.Generator().manual_seed(3)
    return {
        name: torch.rand(steps, trials, node.size, generator=generator) < share for name, node in net.inputs.items()
    }


def prepare(net, learned, dtype=torch.float64):
    values = net.draw(1)
    tensors = leaves(net, values, dtype=dtype, trainable=[*(f"{name}.weight" for name in net.projections), *learned])
    return tensors, values.masks


def loss_of(results):
    """Some function that is nonlinear in every output."""
    total = 0.0
    for name in sorted(results):
        value = results[name]
        pull = torch.linspace(-1, 1, value.numel(), dtype=value.dtype).reshape(value.shape).cos()
        total = total + ((value + 0.1 * value**2) * pull).sum() / (10 if name.endswith("sum") else 1)
    return total


def gradients(results, tensors):
    wanted = {k: x for k, x in tensors.items() if x.requires_grad}
    found = torch.autograd.grad(loss_of(results), list(wanted.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(wanted, found, strict=True))


def by_twin(net, tensors, masks, inputs, **options):
    """Results and gradients by plain autograd; the network must be alive for them to mean anything."""
    run = simulate(Twin(net, tensors, masks, **options), inputs, ["out.output", "rec.spikes"])
    spikes = run["rec.spikes"]
    assert 0.005 < float(spikes.detach().mean()) < 0.6, "neither silent nor saturated"
    results = {"out.output": run["out.output"], "rec.count": spikes.sum(0), "rec.sum": spikes.sum(-1)}
    return results, gradients(results, tensors)


def by_kernel(net, tensors, masks, inputs, **options):
    weights = {name: tensors[f"{name}.weight"] for name in net.projections}
    others = {k: x for k, x in tensors.items() if x.requires_grad and not k.endswith(".weight")}
    plain = {k: x.detach() for k, x in tensors.items()}
    results = Fused(net, plain, masks, sums=True, **options)(weights, inputs, others)
    return results, gradients(results, tensors)


def distance(a, b):
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-300))


def agree(net, learned, inputs=None, dead=(), threads=1, **options):
    """Assert that kernel and twin agree; ``dead`` names what a cut leaves without gradient. Returns the gradients."""
    inputs = inputs or spikes_in(net)
    tensors, masks = prepare(net, learned)
    results, exact = by_twin(net, tensors, masks, inputs, **options)
    fused, found = by_kernel(net, tensors, masks, inputs, threads=threads, **options)
    assert fused.keys() == results.keys()
    for name, value in results.items():
        assert distance(fused[name], value) < (1e-12 if name == "out.output" else 1e-300), name
    for name, gradient in exact.items():
        assert found[name].shape == gradient.shape, name
        alive = float(gradient.abs().max()) > 1e-9
        assert alive == (name not in dead), f"gradient of {name}"
        assert distance(found[name], gradient) < 1e-10 if alive else not found[name].any(), name
    return found


@pytest.mark.parametrize("kind", MODELS)
def test_parameters(kind):
    agree(*network(kind))


@pytest.mark.parametrize("cut", ["leak", "readout", "reset", "adaptation", "spike", "recurrent", "rec_out"])
def test_cuts(cut):
    """Each edge carries part of the gradient of some parameter; what does not go through it stays."""
    net, learned = network("alif")
    dead = {"cues_rec.weight", "rec_rec.weight", *learned} - {"out.tau_out", "out.gain"} if cut == "spike" else ()
    before, after = agree(net, learned), agree(net, learned, cut={cut}, dead=dead)
    changed = {name for name in learned if distance(after[name], before[name]) > 0.01}
    assert changed and (cut == "readout") == ("out.tau_out" in changed)


def test_a_spike_s_reset_is_part_of_what_a_parameter_does():
    """The three ways of a threshold: spike argument, reset, and through the update what either leaves behind."""
    net, learned = network("lif")
    whole = agree(net, learned)
    for cut in ({"reset"}, {"leak"}, {"recurrent"}):
        assert distance(agree(net, learned, cut=cut)["rec.v_th"], whole["rec.v_th"]) > 0.01


def test_feedback_matrices():
    net, learned = network("lif")
    generator = torch.Generator().manual_seed(5)
    sizes = {"rec_out": 3, "rec_rec": SIZE}
    feedback = {name: torch.randn(SIZE, size, generator=generator, dtype=torch.float64) for name, size in sizes.items()}
    assert distance(agree(net, learned, feedback=feedback)["rec.v_th"], agree(net, learned)["rec.v_th"]) > 0.01


@pytest.mark.parametrize("trials, threads", [(1, 1), (11, 2), (17, 1)])
def test_batches_and_threads(trials, threads):
    net, learned = network("lif, per neuron")
    agree(net, learned, spikes_in(net, trials=trials, steps=40), threads=threads)


def test_single_precision():
    net, learned = network("lif")
    tensors, masks = prepare(net, learned, torch.float32)
    inputs = {k: x.float() for k, x in spikes_in(net).items()}
    results, exact = by_twin(net, tensors, masks, inputs)
    fused, found = by_kernel(net, tensors, masks, inputs)
    assert fused["out.output"].dtype == torch.float32 and torch.equal(fused["rec.count"], results["rec.count"])
    assert all(distance(found[k], exact[k]) < 1e-4 for k in exact)


def test_values_change_without_compiling(monkeypatch):
    """Constants follow the values of each call, and a backward pass uses those of its own forward pass."""
    net, learned = network("lif")
    tensors, masks = prepare(net, learned)
    weights, inputs = {name: tensors[f"{name}.weight"] for name in net.projections}, spikes_in(net)
    kernel = Fused(net, {k: x.detach() for k, x in tensors.items()}, masks, sums=True)
    first = kernel(weights, inputs, {k: tensors[k] for k in learned})
    monkeypatch.setattr(kernel_build, "compile_to", lambda *args: pytest.fail("compiled twice"))
    moved = {k: x.detach() * (0.9 if k in learned else 1.0) for k, x in tensors.items()}
    moved = {k: x.requires_grad_(tensors[k].requires_grad) for k, x in moved.items()}
    second = kernel({name: moved[f"{name}.weight"] for name in weights}, inputs, {k: moved[k] for k in learned})
    for results, own in ((first, tensors), (second, moved)):
        exact, found = by_twin(net, own, masks, inputs)[1], gradients(results, own)
        assert all(distance(found[k], exact[k]) < 1e-10 for k in exact)
    assert distance(first["out.output"], second["out.output"]) > 0.01


def test_only_wanted_gradients_are_made():
    net, learned = network("lif")
    tensors, masks = prepare(net, ["rec.v_th"])
    weights = {name: tensors[f"{name}.weight"] for name in net.projections}
    kernel = Fused(net, {k: x.detach() for k, x in tensors.items()}, masks)
    results = kernel(weights, spikes_in(net), {k: tensors[k] for k in learned})
    assert set(results) == {"out.output", "rec.count"}
    results["out.output"].sum().backward()
    assert abs(tensors["rec.v_th"].grad) > 0 and tensors["rec.tau_mem"].grad is None


def between(seed, low=0.0, high=6.0):
    """Real delays, some of them whole."""

    def draw(*shape):
        steps = np.random.default_rng([seed, *shape]).uniform(low, high, shape)
        steps.flat[::3] = np.floor(steps.flat[::3])
        return steps * ms

    return draw


REAL = between(7)
DELAYS = {
    "shared": lambda pre, post: Delay("axonal", 2.3 * ms, trainable=True),
    "shared, whole": lambda pre, post: Delay("axonal", 3 * ms, trainable=True),
    "shared by targets": lambda pre, post: Delay("dendritic", 1.6 * ms, trainable=True),
    "axonal": lambda pre, post: Delay("axonal", REAL(pre), trainable=True),
    "dendritic": lambda pre, post: Delay("dendritic", REAL(post), trainable=True),
    "synaptic": lambda pre, post: Delay("synaptic", REAL(pre, post), trainable=True),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", DELAYS)
def test_delays(kind):
    net = recurrent(lif(surrogate=triangle(gamma=0.8)), 4.0, late=DELAYS[kind])
    learned = (*net.trainable, "rec.v_th")
    whole, inputs = (
        agree(net, learned),
        {"cues": spikes_in(net)["cues"] * torch.linspace(0.5, 2, 5, dtype=torch.float64)},
    )
    agree(net, learned, inputs)
    cut = agree(net, learned, cut={"rec_rec"})
    assert (
        distance(cut["cues_rec.delay"], whole["cues_rec.delay"]) > 0.01 and float(cut["rec_rec.delay"].abs().max()) > 0
    )


@pytest.mark.parametrize("kind", ["axonal", "dendritic"])
def test_feedback_matrices_meet_delays_where_the_signal_passes_them(kind):
    """An axonal delay sees its error through the feedback, a dendritic one through the weights, as in the twin."""
    net = recurrent(lif(surrogate=triangle(gamma=0.8)), 4.0, late=DELAYS[kind])
    generator = torch.Generator().manual_seed(5)
    feedback = {"rec_rec": 0.3 * torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)}
    agree(net, (*net.trainable, "rec.v_th"), feedback=feedback, cut={"rec_out"}, dead=())


def test_dense_inputs_may_be_late():
    net = recurrent(lif(surrogate=triangle(gamma=0.8)), 1.0, late=DELAYS["shared"])
    agree(net, net.trainable, spikes_in(net, trials=11, share=0.7), threads=2)


def test_rings_follow_the_delays_of_each_call():
    """Delays may grow past the trial, and shrink again: nothing is compiled for a longest one."""
    net = recurrent(lif(surrogate=triangle(gamma=0.8)), 4.0, late=DELAYS["axonal"])
    tensors, masks = prepare(net, net.trainable)
    weights, inputs = {name: tensors[f"{name}.weight"] for name in net.projections}, spikes_in(net)
    kernel = Fused(net, {k: x.detach() for k, x in tensors.items()}, masks, sums=True)
    for factor in (1.0, STEPS / 3, 0.5):
        own = {k: x.detach() * (factor if k == "rec_rec.delay" else 1.0) for k, x in tensors.items()}
        own = {k: x.requires_grad_(tensors[k].requires_grad) for k, x in own.items()}
        results = kernel({name: own[f"{name}.weight"] for name in weights}, inputs, {k: own[k] for k in net.trainable})
        exact, found = by_twin(net, own, masks, inputs)[1], gradients(results, own)
        assert all(distance(found[k], exact[k]) < 1e-10 for k in exact)


def test_refractory_periods_may_grow():
    """A neuron whose period is a step at first is compiled as one that can be silent for longer."""
    net = recurrent(lif(tau_ref=1 * ms, surrogate=triangle(gamma=0.8)), 4.0)
    tensors, masks = prepare(net, ["rec.v_th"])
    weights, inputs = {name: tensors[f"{name}.weight"] for name in net.projections}, spikes_in(net)
    kernel = Fused(net, {k: x.detach() for k, x in tensors.items()}, masks)
    for steps in (1, 4):
        tensors["rec.tau_ref"] = torch.tensor(steps * 1e-3, dtype=torch.float64)
        found = kernel(weights, inputs, {"rec.tau_ref": tensors["rec.tau_ref"]})
        assert torch.equal(found["rec.count"], by_twin(net, tensors, masks, inputs)[0]["rec.count"])


def test_what_cannot_be_given_is_refused():
    net = recurrent(lif(), 4.0, late=DELAYS["axonal"])
    assert why_not(net, trainable=["rec.tau_mem", "rec_rec.delay"], record=["rec.sum"]) is None
    tensors, masks = prepare(net, ())
    weights, kernel = {name: tensors[f"{name}.weight"] for name in net.projections}, Fused(net, tensors, masks)
    for others, message in (
        (
            {"rec.tau_mem": torch.full((SIZE,), 0.02)},
            r"rec.tau_mem of shape \(7,\) is given; the network has shape \(\)",
        ),
        ({"rec.tau_man": torch.tensor(0.02)}, "rec.tau_man"),
        ({"rec_rec.delay": torch.full((SIZE,), -1.0)}, "'rec_rec': impossible delay, -1.0"),
        ({"rec_rec.delay": torch.full((SIZE,), torch.nan)}, "'rec_rec': impossible delay"),
    ):
        with pytest.raises(NetworkError, match=message):
            kernel(weights, spikes_in(net), others)
    with pytest.raises(UnsupportedError, match="rec.v: the kernel has those of weights, parameters and delays"):
        kernel(weights, spikes_in(net), {"rec.v": tensors["rec.v"]})
    spread = recurrent(lif(), 4.0, late=lambda *shape: axonal(2 * ms, trainable=True, kernel=delay.triangle(3 * ms)))
    assert "spreads its delays by a triangle kernel" in why_not(spread)


def learning_net():
    cells = Population(
        SIZE, lif(surrogate=triangle(gamma=0.8)), trainable={"tau_mem": (5 * ms, 50 * ms), "v_th": (0.1, 10)}
    )
    loop = Delay("dendritic", REAL(SIZE), trainable=(0 * ms, 20 * ms))
    out = Population(3, leaky_readout(), trainable={"tau_out": (5 * ms, 50 * ms)})
    return Network(dt=1 * ms, cues=Input(5), rec=cells, out=out, projections=[
        Projection("cues", "rec", weight=uniform(4.0, mean=0.7)), Projection("rec", "rec", delay=loop), Projection("rec", "out"),
    ])  # fmt: skip


def some_trials(net):
    rng = np.random.default_rng(2)
    return Trials({"cues": rng.random((6, STEPS, 5)) < 0.25}, target=rng.integers(0, 3, 6))


def test_the_learner_and_gradient_run_it(monkeypatch):
    """Training with parameters, delays and a branching penalty, by the kernel and by the plain step: the same
    numbers.
    """
    net = learning_net()
    trials, values, loss = some_trials(net), net.draw(1), cross_entropy() + branching(0.01)
    optimiser = adam(0.05).with_rates(**{name: 0.01 for name in net.trainable})
    fast = TorchLearner(net, values, bptt(), loss, optimiser, batch=3)
    assert fast.forward.fused is not None
    monkeypatch.setattr(torch_learn, "why_not", lambda *args, **kwargs: "to see the plain step")
    slow = TorchLearner(net, values, bptt(), loss, optimiser, batch=3)
    assert slow.forward.fused is None
    for fused, plain in zip(fast.train(trials), slow.train(trials), strict=True):
        assert fused["loss"] == pytest.approx(plain["loss"], rel=1e-10)
    assert fast.evaluate(trials)["loss"] == pytest.approx(slow.evaluate(trials)["loss"], rel=1e-8)
    for name, value in fast.parameters().items():
        np.testing.assert_allclose(value, slow.parameters()[name], rtol=1e-8, err_msg=name)
    plain, _ = torch_backend.gradient(net, values, trials, bptt(), loss)
    monkeypatch.setattr(torch_backend, "WORTH_FUSING", 0)
    monkeypatch.setattr(torch_backend, "run_forward", lambda *args, **kwargs: pytest.fail("the kernel should run"))
    fused, _ = torch_backend.gradient(net, values, trials, bptt(), loss)
    assert {"rec.tau_mem", "rec.v_th", "out.tau_out", "rec_rec.delay"} <= plain.keys()
    for name, value in plain.items():
        np.testing.assert_allclose(fused[name], value, atol=1e-10 * np.abs(value).max(), rtol=0, err_msg=name)
