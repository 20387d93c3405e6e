"""The fused kernel against the interpreted twin: same spikes, same outputs, same gradients as plain autograd."""

import functools

import numpy as np
import pytest
import torch
from brian2 import ms, mV

from localplast.backends.c import call as torch_fused
from localplast.backends.c import compile as kernel_build
from localplast.backends.c.call import Fused
from localplast.backends.c.layout import make_plan, why_not
from localplast.backends.torch.step import Twin, leaves, simulate
from localplast.errors import NetworkError, UnsupportedError
from localplast.models import alif, cuba_lif, leaky_readout, lif
from localplast.network import Input, Network, Population, Projection, axonal, dendritic, normal, synaptic, uniform
from localplast.neuron import NeuronModel
from localplast.neuron.surrogate import arctan, boxcar, exponential, triangle

pytestmark = pytest.mark.skipif(kernel_build.compiler() is None, reason="no C compiler here")

STEPS, TRIALS = 70, 5
READOUT = functools.partial(Population, 3, leaky_readout())


def quadratic():
    """A quadratic neuron in volts, by rk4: the Jacobian depends on the state, and on refractoriness; so does the
    reset.
    """
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


def fitzhugh_nagumo():
    """An oscillator by rk4 whose spike bends both variables: reset and adaptation are nonlinear."""
    # fmt: skip
    return NeuronModel(
        name="fitzhugh_nagumo",
        equations="dv/dt = (v - v**3/3 - y + drive)/tau : 1\n dy/dt = (v + a - b*y)/(5*tau) : 1",
        threshold="v + 0.1*v**2 > v_th",
        reset="v = v_reset + 0.1*tanh(v)",
        adaptation="y += 0.3*cos(y)",
        method="rk4",
        initial={"v": -1.0, "y": -0.5},
        parameters={"tau": 3 * ms, "a": 0.7, "b": 0.8, "v_th": 1.0, "v_reset": -1.2, "drive": 0.5},
        surrogate=exponential("v_th"),
    )


def follower():
    """A neuron driven by a graded variable, and a nonlinear output: what currents and readouts may look like."""
    # fmt: skip
    return NeuronModel(
        name="follower",
        equations="dv/dt = (-v + I)/tau_mem : 1\n I : 1",
        threshold="v > v_th",
        reset="v -= v_th",
        parameters={"tau_mem": 10 * ms, "v_th": 1.0},
        surrogate=boxcar(),
    )


def squared_readout():
    return NeuronModel(name="squared_readout", equations="dv/dt = -v/tau_out : 1", parameters={"tau_out": 15 * ms},
                       output="v**2 + v")  # fmt: skip


MODELS = {
    "lif": (lambda: lif(surrogate=triangle(gamma=0.8)), 4.0),
    "lif, clamped count": (lambda: lif(tau_ref=4 * ms), 5.0),
    "alif, bursts and refractoriness": (lambda: alif(tau_ref=2 * ms, beta=0.3, tau_adapt=30 * ms), 8.0),
    "cuba_lif": (lambda: cuba_lif(width=5 * mV), 0.08),
    "cuba_lif, never refractory": (lambda: cuba_lif(tau_ref=0 * ms, width=5 * mV), 0.08),
    "quadratic": (quadratic, 0.05),
    "fitzhugh_nagumo": (fitzhugh_nagumo, 1.0),
}


def recurrent(model, strength, size=7, delay=None, **population):
    """One recurrent population between five channels and a readout."""
    cells = Population(size, model, **population)
    drive = uniform(strength, mean=0.4 * strength / np.sqrt(5))
    return Network(dt=1 * ms, cues=Input(5), rec=cells, out=READOUT(), projections=[
        Projection("cues", "rec", weight=drive, delay=delay and delay(5, size)),
        Projection("rec", "rec", weight=normal(0.6 * strength), delay=delay and delay(size, size)),
        Projection("rec", "out", delay=delay and delay(size, 3)),
    ])  # fmt: skip


@functools.cache
def lif_net():
    return recurrent(lif(surrogate=triangle(gamma=0.8)), 4.0)


def layers():
    """Two hidden layers whose neurons differ, and a loop between the second and a third."""
    tau = np.linspace(5, 30, 6) * ms
    adapting = {"beta": np.array([0.0, 0.0, 0.5, 1.0]), "tau_ref": np.array([0, 3, 0, 2]) * ms}
    start = {"v": np.linspace(-0.5, 0.9, 6)}
    hidden = [("cues", "one"), ("one", "two"), ("two", "three"), ("three", "two")]
    return Network(dt=1 * ms, cues=Input(5), one=Population(6, lif(), parameters={"tau_mem": tau}, initial=start),
                   two=Population(4, alif(), parameters=adapting), three=Population(3, lif()), out=READOUT(),
                   projections=[*(Projection(*ends, weight=normal(4.0)) for ends in hidden),
                                *(Projection(pre, "out") for pre in ("one", "two", "cues"))])  # fmt: skip


def spikes_in(net, trials=TRIALS, steps=STEPS):
    generator = torch.Generator().manual_seed(3)
    return {name: torch.rand(steps, trials, node.size, generator=generator) < 0.25 for name, node in net.inputs.items()}


def prepare(net, dtype=torch.float64):
    values = net.draw(1)
    tensors = leaves(net, values, dtype=dtype, trainable=[f"{name}.weight" for name in net.projections])
    return tensors, values.masks


def loss_of(results):
    """Some function that is nonlinear in every output and in every spike count."""
    total = 0.0
    for name in sorted(results):
        value = results[name]
        pull = torch.linspace(-1, 1, value.numel(), dtype=value.dtype).reshape(value.shape).cos()
        total = total + ((value + 0.1 * value**2) * pull).sum()
    return total


def gradients(results, weights):
    names = list(weights)
    found = torch.autograd.grad(loss_of(results), [weights[k] for k in names], allow_unused=True)
    return dict(zip(names, found, strict=True))


def by_twin(net, tensors, masks, inputs, **options):
    """Results and gradients by plain autograd; the network must be alive for them to mean anything."""
    weights = {name: tensors[f"{name}.weight"] for name in net.projections}
    spiking = [name for name, p in net.populations.items() if p.model.spiking]
    record = [f"{n}.output" for n in net.readouts] + [f"{n}.spikes" for n in spiking]
    given = {k: x.to(weights[next(iter(weights))]) for k, x in inputs.items()}
    run = simulate(Twin(net, tensors, masks, **options), given, record)
    for name in spiking:
        assert 0.005 < float(run[f"{name}.spikes"].detach().mean()) < 0.6, name  # neither silent nor saturated
    results = {f"{n}.output": run[f"{n}.output"] for n in net.readouts}
    results |= {f"{n}.count": run[f"{n}.spikes"].sum(0) for n in spiking}
    return results, gradients(results, weights)


def by_kernel(net, tensors, masks, inputs, threads=1, **options):
    weights = {name: tensors[f"{name}.weight"] for name in net.projections}
    results = Fused(net, tensors, masks, threads=threads, **options)(weights, inputs)
    return results, gradients(results, weights)


def distance(a, b):
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-300))


def agree(net, inputs=None, dead=(), **options):
    """Assert that kernel and twin agree; ``dead`` names projections that a cut leaves without gradient."""
    inputs = inputs or spikes_in(net)
    tensors, masks = prepare(net)
    results, exact = by_twin(net, tensors, masks, inputs, **options)
    fused, found = by_kernel(net, tensors, masks, inputs, **options)
    assert fused.keys() == results.keys()
    for name, value in results.items():
        if name.endswith("count"):
            assert torch.equal(fused[name], value), name
        else:
            assert distance(fused[name], value) < 1e-12, name
    for name, gradient in exact.items():
        alive = gradient is not None and float(gradient.abs().max()) > 1e-9
        assert alive == (name not in dead), f"gradient of {name}"
        assert (
            distance(found[name], gradient if alive else 0 * found[name] + 1) < 1e-10
            if alive
            else not found[name].any()
        )
    return found


@pytest.mark.parametrize("model", MODELS)
def test_models(model):
    make, strength = MODELS[model]
    agree(recurrent(make(), strength))


def jitter(pre, post):
    return np.random.default_rng([pre, post]).integers(0, 7, (pre, post)) * ms


DELAYS = {
    "shared": lambda pre, post: axonal(3 * ms),
    "axonal": lambda pre, post: axonal(jitter(pre, 1)[:, 0]),
    "dendritic": lambda pre, post: dendritic(jitter(1, post)[0]),
    "synaptic": lambda pre, post: synaptic(jitter(pre, post)),
    "longer than the trial": lambda pre, post: axonal(np.where(np.arange(pre) == 1, STEPS + 5, 2) * ms),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("cut", [(), ("reset",)])
@pytest.mark.parametrize("kind", DELAYS)
def test_delays(kind, cut):
    agree(recurrent(lif(surrogate=triangle(gamma=0.8)), 4.0, delay=DELAYS[kind]), cut=cut)


CUTS = ["leak", "readout", "reset", "adaptation", "spike", "recurrent", "feedforward", "rec_rec", "rec_out", "cues_rec"]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("cut", [*([c] for c in CUTS), ["recurrent", "reset"]], ids="+".join)
def test_cuts(cut):
    net = recurrent(alif(beta=0.3, tau_adapt=30 * ms), 8.0)
    before = agree(net)
    dead = {"cues_rec", "rec_rec"} if cut == ["spike"] else ()
    after = agree(net, cut=cut, dead=dead)
    changed = any(distance(after[name], before[name]) > 1e-6 for name in before)
    assert changed == (cut not in (["feedforward"], ["cues_rec"])), "only edges that carry a gradient may matter"


def test_each_part_of_a_hard_reset_can_be_cut():
    net = recurrent(fitzhugh_nagumo(), 1.0)
    for cut in ([], ["reset"], ["adaptation"], ["reset", "adaptation", "recurrent"]):
        agree(net, cut=cut)


def test_layers_with_parameters_per_neuron():
    net = layers()
    whole = agree(net)
    without = agree(net, cut={"feedforward"})
    assert distance(without["cues_one"], whole["cues_one"]) > 1e-6


@pytest.mark.parametrize("kind", [None, "axonal", "dendritic"])
def test_feedback_takes_the_place_of_the_weights(kind):
    net = recurrent(lif(surrogate=triangle(gamma=0.8)), 4.0, delay=kind and DELAYS[kind])
    generator = torch.Generator().manual_seed(5)
    feedback = {"rec_out": torch.randn(7, 3, generator=generator, dtype=torch.float64),
                "rec_rec": 0.3 * torch.randn(7, 7, generator=generator, dtype=torch.float64)}  # fmt: skip
    assert distance(agree(net, feedback=feedback)["cues_rec"], agree(net)["cues_rec"]) > 1e-3


@pytest.mark.sampled(2)
@pytest.mark.parametrize("trials", [1, 2, 3, 5, 17])
@pytest.mark.parametrize("size", [1, 8, 33])
def test_odd_sizes_and_batches(size, trials):
    loop = Projection("rec", "rec", weight=normal(0.5), autapses=True)
    net = Network(dt=1 * ms, cues=Input(9), rec=Population(size, lif()), out=READOUT(), projections=[
        Projection("cues", "rec", weight=uniform(2.0, mean=0.2)), loop, Projection("rec", "out")])  # fmt: skip
    agree(net, spikes_in(net, trials=trials, steps=40))


@pytest.mark.parametrize("trials", [1, 3, 20])
def test_threads_change_nothing(trials):
    net = lif_net()
    tensors, masks = prepare(net)
    inputs = spikes_in(net, trials=trials)
    one, g_one = by_kernel(net, tensors, masks, inputs, threads=1)
    two, g_two = by_kernel(net, tensors, masks, inputs, threads=2)
    assert float(one["rec.count"].detach().sum()) > 0
    assert all(distance(two[k], one[k]) < 1e-12 for k in one)
    assert all(distance(g_two[k], g_one[k]) < 1e-12 for k in g_one)


def test_long_trials_run_fewer_at_a_time(monkeypatch):
    net = lif_net()
    tensors, masks = prepare(net)
    inputs = spikes_in(net)
    results, wide = by_kernel(net, tensors, masks, inputs)
    blocks = []
    monkeypatch.setattr(torch_fused, "MOST_MEMORY", 0)
    monkeypatch.setattr(torch_fused, "make_plan", lambda *a, **k: blocks.append(k["block"]) or make_plan(*a, **k))
    again, narrow = by_kernel(net, tensors, masks, inputs)
    assert (
        float(results["rec.count"].detach().sum()) > 0 and distance(again["out.output"], results["out.output"]) < 1e-12
    )
    assert all(distance(narrow[k], wide[k]) < 1e-12 for k in wide)
    assert blocks == [8, 4, 2, 1]


def test_inputs_may_be_numbers():
    """Spikes of any size, and currents, which set their target and run as products."""
    net = Network(dt=1 * ms, cues=Input(5), drive=Input(4, "currents"), rec=Population(7, follower()),
                  out=Population(2, squared_readout()), projections=[
                      Projection("drive", "rec", target="I", weight=uniform(3.0, mean=0.5), delay=axonal(2 * ms)),
                      Projection("cues", "rec", weight=normal(2.0)), Projection("rec", "rec"), Projection("rec", "out"),
                      Projection("drive", "rec", target="I", name="jittered", delay=DELAYS["synaptic"](4, 7))])  # fmt: skip
    generator = torch.Generator().manual_seed(4)
    sizes = torch.rand(STEPS, TRIALS, 5, generator=generator, dtype=torch.float64)
    currents = torch.rand(STEPS, TRIALS, 4, generator=generator, dtype=torch.float64)
    inputs = {"cues": torch.where(sizes < 0.2, sizes * 10, 0.0), "drive": currents}
    agree(net, inputs)
    agree(net, inputs, cut={"leak"})


def test_dense_spikes_run_as_products():
    net = recurrent(lif(surrogate=triangle(gamma=0.8)), 1.0, delay=DELAYS["shared"])
    agree(net, {"cues": torch.rand(STEPS, 11, 5, generator=torch.Generator().manual_seed(6)) < 0.7})


@pytest.mark.parametrize("shape", [(STEPS, TRIALS, 4), (STEPS, 5)])
def test_wrong_inputs_are_refused(shape):
    tensors, masks = prepare(lif_net())
    weights = {name: tensors[f"{name}.weight"] for name in lif_net().projections}
    with pytest.raises(NetworkError, match="the network takes"):
        Fused(lif_net(), tensors, masks)(weights, {"cues": torch.zeros(shape)})


def test_single_precision():
    net = lif_net()
    tensors, masks = prepare(net, torch.float32)
    inputs = spikes_in(net)
    results, exact = by_twin(net, tensors, masks, inputs)
    fused, found = by_kernel(net, tensors, masks, inputs)
    assert fused["out.output"].dtype == torch.float32
    assert torch.equal(fused["rec.count"], results["rec.count"])
    assert distance(fused["out.output"], results["out.output"]) < 1e-5
    assert all(distance(found[k], exact[k]) < 1e-4 for k in exact)


def test_only_wanted_gradients_are_made():
    net = lif_net()
    tensors, masks = prepare(net)
    weights = {name: tensors[f"{name}.weight"].detach() for name in net.projections}
    weights["rec_rec"].requires_grad_(True)
    out = Fused(net, {k: v.detach() for k, v in tensors.items()}, masks)(weights, spikes_in(net))["out.output"]
    out.sum().backward()
    assert weights["rec_rec"].grad.abs().max() > 0 and weights["cues_rec"].grad is None
    assert not weights["rec_rec"].grad.diagonal().any(), "autapses do not exist, so they do not learn"


def test_why_not_names_what_is_missing():
    net = lif_net()
    assert why_not(net, trainable=["rec_rec.weight"], record=["out.output", "rec.count"]) is None
    assert "rec.v" in why_not(net, trainable=["rec.tau_mem", "rec.v"]), (
        "the state that trials start from does not learn"
    )
    assert "rec.v" in why_not(net, record=["rec.v"])
    synapses = recurrent(lif(), 1.0, delay=DELAYS["synaptic"])
    assert "one delay per synapse" in why_not(synapses, feedback=["rec_rec"])
    tensors, masks = prepare(synapses)
    with pytest.raises(UnsupportedError, match="one delay per synapse"):
        Fused(synapses, tensors, masks, feedback={"rec_rec": torch.ones(7, 7)})


def test_without_a_compiler_the_reason_says_what_to_do(monkeypatch):
    monkeypatch.setattr(kernel_build, "compiler", lambda: None)
    assert "no C compiler found" in why_not(lif_net())
    with pytest.raises(UnsupportedError, match="Install gcc or clang"):
        kernel_build.build("int nothing;")


def test_kernels_are_built_once_and_failures_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(kernel_build, "cache_folder", lambda: tmp_path)
    kernel_build.build.__wrapped__("int seven(void) { return 7; }")
    made, seal = sorted(tmp_path.iterdir())
    assert seal.name == f"{made.name}.sha256"
    monkeypatch.setattr(kernel_build, "compile_to", lambda *args: pytest.fail("compiled twice"))
    assert kernel_build.build.__wrapped__("int seven(void) { return 7; }").seven() == 7
    monkeypatch.undo()
    monkeypatch.setattr(kernel_build, "cache_folder", lambda: tmp_path)
    made.unlink()  # a loaded library is never written to in place
    made.write_bytes(b"damaged")
    assert kernel_build.build.__wrapped__("int seven(void) { return 7; }").seven() == 7
    with pytest.raises(UnsupportedError, match="could not compile"):
        kernel_build.build.__wrapped__("this is no C")
    assert sorted(tmp_path.iterdir()) == [made, seal], "a failed build leaves nothing behind"
