"""The fused kernel's gradients of parameters, delays and population sums, against plain autograd through the twin."""

import functools

import numpy as np
import pytest
import torch
from brian2 import mV, ms

from localplast.backends import kernel_build
from localplast.backends.torch_fused import Fused, why_not
from localplast.backends.torch_step import Twin, leaves, simulate
from localplast.errors import NetworkError, UnsupportedError
from localplast.models import alif, cuba_lif, leaky_readout, lif
from localplast.network import Delay, Input, Network, Population, Projection, axonal, normal, uniform
from localplast.neuron import NeuronModel
from localplast.surrogate import arctan, triangle

pytestmark = pytest.mark.skipif(kernel_build.compiler() is None, reason="no C compiler here")

STEPS, TRIALS, SIZE = 60, 5, 7


def biased(method="exact"):
    """A LIF neuron with a constant drive, and a threshold whose square counts."""
    return NeuronModel(
        name="biased", equations="dv/dt = (bias - v)/tau_mem : 1", threshold="v > v_th**2", reset="v -= v_th*rest",
        parameters={"tau_mem": 10 * ms, "v_th": 1.0, "bias": 0.3, "rest": 0.7}, surrogate=triangle("v_th"), method=method,
    )  # fmt: skip


def quadratic():
    """A refractory neuron in volts, by rk4, whose reset bends: every derivative depends on the state."""
    return NeuronModel(
        name="quadratic",
        equations="dv/dt = (v*(v - v_th)/v_scale + I)/tau_mem : volt (unless refractory)\n dI/dt = -I/tau_syn : volt",
        threshold="v > 2*v_th", reset="v = v_drop*(tanh(v/v_th) - 2)", refractory="tau_ref", method="rk4", receives="I",
        parameters={
            "tau_mem": 10 * ms, "tau_syn": 5 * ms, "v_th": 5 * mV, "v_scale": 5 * mV, "v_drop": 2 * mV, "tau_ref": 3 * ms,
        },
        surrogate=arctan("v_th"),
    )  # fmt: skip


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


def recurrent(model, strength, delay=None, readout=leaky_readout, **population):
    """One recurrent population between five channels and a readout; ``delay`` makes one from the shape of a projection."""
    drive = uniform(strength, mean=0.4 * strength / np.sqrt(5))
    cells = Population(SIZE, model, **population)
    return Network(dt=1 * ms, cues=Input(5), rec=cells, out=Population(3, readout()), projections=[
        Projection("cues", "rec", weight=drive, delay=delay and delay(5, SIZE)),
        Projection("rec", "rec", weight=normal(0.6 * strength), delay=delay and delay(SIZE, SIZE)),
        Projection("rec", "out", delay=delay and delay(SIZE, 3)),
    ])  # fmt: skip


@functools.cache
def network(kind):
    make, strength, learned, values = MODELS[kind]
    net = recurrent(make(), strength, readout=scaled_readout, parameters=values)
    return net, tuple(f"rec.{k}" for k in learned) + ("out.tau_out", "out.gain")


def spikes_in(net, trials=TRIALS, steps=STEPS, share=0.25):
    generator = torch.Generator().manual_seed(3)
    return {name: torch.rand(steps, trials, node.size, generator=generator) < share for name, node in net.inputs.items()}


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
    feedback = {name: torch.randn(SIZE, size, generator=generator, dtype=torch.float64) for name, size in (("rec_out", 3), ("rec_rec", SIZE))}
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


@pytest.mark.parametrize("kind", DELAYS)
def test_delays(kind):
    net = recurrent(lif(surrogate=triangle(gamma=0.8)), 4.0, delay=DELAYS[kind])
    learned = (*net.trainable, "rec.v_th")
    whole, inputs = agree(net, learned), {"cues": spikes_in(net)["cues"] * torch.linspace(0.5, 2, 5, dtype=torch.float64)}
    agree(net, learned, inputs)
    cut = agree(net, learned, cut={"rec_rec"})
    assert distance(cut["cues_rec.delay"], whole["cues_rec.delay"]) > 0.01 and float(cut["rec_rec.delay"].abs().max()) > 0
