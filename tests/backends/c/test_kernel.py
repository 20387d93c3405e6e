"""The fused kernel against the interpreted twin: same spikes, same outputs, same gradients as plain autograd."""

import functools

import numpy as np
import pytest
import torch
from brian2 import ms, mV

from localplast.backends.c import call as kernel_call
from localplast.backends.c import compile as kernel_build
from localplast.backends.c.call import Kernel
from localplast.backends.c.function import NetworkFunction, why_not
from localplast.errors import NetworkError, UnsupportedError
from localplast.models import alif, cuba_lif, leaky_readout, lif
from localplast.network import Input, Network, Population, Projection, axonal, normal, uniform
from localplast.neuron import NeuronModel
from localplast.neuron.surrogate import boxcar, exponential, triangle

pytestmark = pytest.mark.skipif(kernel_build.compiler() is None, reason="no C compiler here")

STEPS, TRIALS, SIZE = 50, 5, 7
READOUT = functools.partial(Population, 3, leaky_readout())


def fitzhugh_nagumo():
    """An oscillator by rk4 whose spike bends both variables: reset and adaptation are nonlinear."""
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


def biased():
    """A LIF neuron with a constant drive, and a threshold whose square counts."""
    return NeuronModel(
        name="biased",
        equations="dv/dt = (bias - v)/tau_mem : 1",
        threshold="v > v_th**2",
        reset="v -= v_th*rest",
        parameters={"tau_mem": 10 * ms, "v_th": 1.0, "bias": 0.3, "rest": 0.7},
        surrogate=triangle("v_th"),
        method="exact",
    )


def follower():
    """A neuron driven by a graded variable, and a nonlinear output: what currents and readouts may look like."""
    return NeuronModel(
        name="follower",
        equations="dv/dt = (-v + I)/tau_mem : 1\n I : 1",
        threshold="v > v_th",
        reset="v -= v_th",
        parameters={"tau_mem": 10 * ms, "v_th": 1.0},
        surrogate=boxcar(),
    )


def drawing():
    """A neuron whose threshold is drawn."""
    return NeuronModel(
        name="drawing", equations="dv/dt = -v/tau_mem : 1", threshold="poisson(v) > 1", reset="v = 0",
        parameters={"tau_mem": 10 * ms},
    )  # fmt: skip


def squared_readout():
    return NeuronModel(
        name="squared_readout", equations="dv/dt = -v/tau_out : 1", parameters={"tau_out": 15 * ms}, output="v**2 + v"
    )


def scaled_readout():
    """A readout whose output has a parameter of its own."""
    return NeuronModel(
        name="scaled_readout",
        equations="dv/dt = -v/tau_out : 1",
        parameters={"tau_out": 15 * ms, "gain": 1.3},
        output="gain*v**2 + v",
    )


def per_neuron(value):
    return np.linspace(0.8, 1.2, SIZE) * value


#: Parameters that learn, and values per neuron; a neuron and the size of its weights where they are of this file.
MODELS = {
    "lif": (["tau_mem", "v_th"], {}),
    "lif, per neuron": (["tau_mem", "v_th"], {"tau_mem": per_neuron(20 * ms), "v_th": per_neuron(1.0)}, lif, 4.0),
    "lif, refractory": (["tau_mem", "v_th"], {"v_th": per_neuron(1.0)}),
    "alif, refractory": (["tau_mem", "tau_adapt", "beta", "v_th"], {"beta": per_neuron(0.3)}),
    "cuba_lif": (["tau_mem", "tau_syn", "v_th"], {"tau_syn": per_neuron(5 * ms)}),
    "cuba_lif, never refractory": (["tau_mem"], {}, lambda: cuba_lif(tau_ref=0 * ms, width=5 * mV), 0.08),
    "quadratic": (["tau_mem", "tau_syn", "v_th", "v_scale", "v_drop"], {"v_drop": per_neuron(2 * mV)}),
    "fitzhugh_nagumo": (["tau", "a", "v_th"], {}, fitzhugh_nagumo, 1.0),
    "biased": (["tau_mem", "v_th", "bias", "rest"], {"bias": per_neuron(0.3)}, biased, 3.0),
}  # fmt: skip


@pytest.fixture(scope="module")
def network(bench):
    """``network(kind)``: one recurrent population, and what learns there beside weights."""

    @functools.cache
    def make(kind):
        learned, values, *own = MODELS[kind]
        model, strength = own or bench.models[kind]
        net = bench.recurrent(model(), strength, readout=scaled_readout, parameters=values)
        return net, (*(f"rec.{k}" for k in learned), "out.tau_out", "out.gain")

    return make


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


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", MODELS)
def test_models(kind, network, bench):
    """With parameters that learn, and with parameters that are numbers in the text."""
    bench.agree(*network(kind), fixed=True)


def too_late(pre, post):
    """One neuron that is heard after the trial."""
    return axonal(np.where(np.arange(pre) == 1, STEPS + 5, 2) * ms)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("cut", [(), ("reset",)])
@pytest.mark.parametrize("kind", ["shared", "axonal", "dendritic", "synaptic", "longer than the trial"])
def test_delays(kind, cut, bench):
    late = {**bench.delays, "longer than the trial": too_late}[kind]
    bench.agree(bench.recurrent(lif(surrogate=triangle(gamma=0.8)), 4.0, late=late), cut=cut)


CUTS = ["leak", "readout", "reset", "adaptation", "spike", "recurrent", "feedforward", "rec_rec", "rec_out", "cues_rec"]


@pytest.fixture(scope="module")
def uncut(network, bench):
    return bench.agree(*network("alif, refractory"))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("cut", [*([c] for c in CUTS), ["recurrent", "reset"]], ids="+".join)
def test_cuts(cut, network, uncut, bench):
    """Each edge carries part of the gradient of some weight and some parameter; what does not go through it stays."""
    net, learned = network("alif, refractory")
    dead = {"cues_rec.weight", "rec_rec.weight", *learned} - {"out.tau_out", "out.gain"} if cut == ["spike"] else ()
    after = bench.agree(net, learned, cut=cut, dead=dead, fixed=True)
    changed = {name for name in uncut if bench.distance(after[name], uncut[name]) > 1e-6}
    assert bool(changed) == (cut not in (["feedforward"], ["cues_rec"])), "only edges that carry a gradient may matter"
    moved = {name for name in learned if bench.distance(after[name], uncut[name]) > 0.01}
    assert ("out.tau_out" in moved) == (cut == ["readout"])
    assert moved or not changed


def test_a_spike_s_reset_is_part_of_what_a_parameter_does(network, bench):
    """The three ways of a threshold: spike argument, reset, and through the update what either leaves behind."""
    net, learned = network("lif")
    whole = bench.agree(net, learned)
    for cut in ({"reset"}, {"leak"}, {"recurrent"}):
        assert bench.distance(bench.agree(net, learned, cut=cut)["rec.v_th"], whole["rec.v_th"]) > 0.01


def test_each_part_of_a_hard_reset_can_be_cut(bench):
    net = bench.recurrent(fitzhugh_nagumo(), 1.0)
    for cut in ([], ["reset"], ["adaptation"], ["reset", "adaptation", "recurrent"]):
        bench.agree(net, cut=cut)


def test_layers_with_parameters_per_neuron(bench):
    net = layers()
    whole = bench.agree(net)
    without = bench.agree(net, cut={"feedforward"})
    assert bench.distance(without["cues_one.weight"], whole["cues_one.weight"]) > 1e-6


@pytest.mark.parametrize("kind", [None, "axonal", "dendritic"])
def test_feedback_takes_the_place_of_the_weights(kind, network, bench):
    net, learned = (bench.of("lif", late=bench.delays[kind]), ()) if kind else network("lif")
    generator = torch.Generator().manual_seed(5)
    feedback = {"rec_out": torch.randn(7, 3, generator=generator, dtype=torch.float64),
                "rec_rec": 0.3 * torch.randn(7, 7, generator=generator, dtype=torch.float64)}  # fmt: skip
    other, own = bench.agree(net, learned, feedback=feedback, fixed=True), bench.agree(net, learned)
    assert bench.distance(other["cues_rec.weight"], own["cues_rec.weight"]) > 1e-3
    assert not learned or bench.distance(other["rec.v_th"], own["rec.v_th"]) > 0.01


@pytest.mark.sampled(2)
@pytest.mark.parametrize("trials", [1, 2, 3, 5, 17])
@pytest.mark.parametrize("size", [1, 8, 33])
def test_odd_sizes_and_batches(size, trials, bench):
    loop = Projection("rec", "rec", weight=normal(0.5), autapses=True)
    net = Network(dt=1 * ms, cues=Input(9), rec=Population(size, lif()), out=READOUT(), projections=[
        Projection("cues", "rec", weight=uniform(2.0, mean=0.2)), loop, Projection("rec", "out")])  # fmt: skip
    bench.agree(net, inputs=bench.spikes_in(net, trials=trials, steps=40))


@pytest.mark.parametrize("trials", [1, 3, 20])
def test_threads_change_nothing(trials, bench):
    net = bench.of("lif")
    tensors, masks = bench.prepare(net)
    inputs = bench.spikes_in(net, trials=trials)
    one, two = (bench.by_kernel(net, tensors, masks, inputs, threads=threads) for threads in (1, 2))
    assert float(one["rec.count"].detach().sum()) > 0
    assert all(bench.distance(two[k], one[k]) < 1e-12 for k in one)
    assert bench.apart(bench.gradients(two, tensors), bench.gradients(one, tensors)) < 1e-12


@pytest.mark.parametrize("trials, threads", [(1, 1), (11, 2), (17, 1)])
def test_batches_and_threads_where_parameters_learn(trials, threads, network, bench):
    net, learned = network("lif, per neuron")
    bench.agree(net, learned, bench.spikes_in(net, trials=trials, steps=40), threads=threads)


def test_windows_of_steps_change_nothing(monkeypatch, bench):
    """Each is run again from the state before it, delay lines included."""
    net = bench.recurrent(lif(tau_ref=3 * ms, surrogate=triangle(gamma=0.8)), 4.0, late=bench.delays["axonal"])
    tensors, masks = bench.prepare(net)
    whole = bench.gradients(bench.by_kernel(net, tensors, masks, bench.spikes_in(net)), tensors)
    for steps in (STEPS - 1, 13, 1):
        monkeypatch.setattr(Kernel, "window", lambda *_, steps=steps: steps)
        parts = bench.gradients(bench.by_kernel(net, tensors, masks, bench.spikes_in(net)), tensors)
        assert all(torch.equal(parts[k], whole[k]) for k in whole)


def test_long_trials_keep_part_of_their_history(monkeypatch, bench):
    monkeypatch.setattr(kernel_call, "WINDOW_MEMORY", 2**16)
    net, bytes_of = bench.of("lif"), {}
    tensors, masks = bench.prepare(net)
    function = NetworkFunction(net, tensors, masks)
    for steps in (60, 600, 6000):
        inputs = bench.spikes_in(net, trials=8, steps=steps)
        results = function({name: tensors[f"{name}.weight"] for name in net.projections}, inputs)
        bench.gradients(results, tensors)
        (kernel,) = function.kernels.values()
        bytes_of[steps] = kernel.kept[True][0].numel()
        rings = torch.tensor([1])
        window = kernel.window(steps, 8, rings.data_ptr())
        saved = kernel.saved(steps, window, 8, rings.data_ptr())
        assert 20 * saved < bytes_of[60] / 60 * steps, "states of few steps"
    assert bytes_of[600] < 2**16 + 100 and bytes_of[6000] < 2**16 + 100, "so much is allowed"


def test_inputs_may_be_numbers(bench):
    """Spikes of any size, and currents, which set their target and run as products."""
    net = Network(dt=1 * ms, cues=Input(5), drive=Input(4, "currents"), rec=Population(7, follower()),
                  out=Population(2, squared_readout()), projections=[
                      Projection("drive", "rec", target="I", weight=uniform(3.0, mean=0.5), delay=axonal(2 * ms)),
                      Projection("cues", "rec", weight=normal(2.0)), Projection("rec", "rec"), Projection("rec", "out"),
                      Projection("drive", "rec", target="I", name="jittered", delay=bench.delays["synaptic"](4, 7))])  # fmt: skip
    generator = torch.Generator().manual_seed(4)
    sizes = torch.rand(STEPS, TRIALS, 5, generator=generator, dtype=torch.float64)
    currents = torch.rand(STEPS, TRIALS, 4, generator=generator, dtype=torch.float64)
    inputs = {"cues": torch.where(sizes < 0.2, sizes * 10, 0.0), "drive": currents}
    bench.agree(net, inputs=inputs)
    bench.agree(net, inputs=inputs, cut={"leak"})


def test_dense_spikes_run_as_products(bench):
    net = bench.recurrent(lif(surrogate=triangle(gamma=0.8)), 1.0, late=bench.delays["shared"])
    bench.agree(net, inputs={"cues": torch.rand(STEPS, 11, 5, generator=torch.Generator().manual_seed(6)) < 0.7})


@pytest.mark.parametrize("shape", [(STEPS, TRIALS, 4), (STEPS, 5)])
def test_wrong_inputs_are_refused(shape, bench):
    tensors, masks = bench.prepare(bench.of("lif"))
    weights = {name: tensors[f"{name}.weight"] for name in bench.of("lif").projections}
    with pytest.raises(NetworkError, match="the network takes"):
        NetworkFunction(bench.of("lif"), tensors, masks)(weights, {"cues": torch.zeros(shape)})


def test_single_precision(network, bench):
    net, learned = network("lif")
    tensors, masks = bench.prepare(net, learned, torch.float32)
    inputs = bench.spikes_in(net)
    results = bench.by_twin(net, tensors, masks, inputs)
    found = bench.by_kernel(net, tensors, masks, inputs, learned)
    assert found["out.output"].dtype == torch.float32
    assert torch.equal(found["rec.count"], results["rec.count"])
    assert bench.distance(found["out.output"], results["out.output"]) < 1e-5
    assert bench.apart(bench.gradients(found, tensors), bench.gradients(results, tensors)) < 1e-4


def test_only_wanted_gradients_are_made(bench):
    net = bench.of("lif")
    tensors, masks = bench.prepare(net)
    weights = {name: tensors[f"{name}.weight"].detach() for name in net.projections}
    weights["rec_rec"].requires_grad_(True)
    out = NetworkFunction(net, {k: v.detach() for k, v in tensors.items()}, masks)(weights, bench.spikes_in(net))[
        "out.output"
    ]
    out.sum().backward()
    assert weights["rec_rec"].grad.abs().max() > 0 and weights["cues_rec"].grad is None
    assert not weights["rec_rec"].grad.diagonal().any(), "autapses do not exist, so they do not learn"


def test_what_has_no_c_form_is_named(bench):
    """A function that the language draws from, and a state that a trial starts from, which does not learn."""
    net = bench.of("lif")
    tensors, masks = bench.prepare(net)
    assert why_not(NetworkFunction(net, tensors, masks), ["rec_rec.weight", "rec.tau_mem"]) is None
    drawn = bench.recurrent(drawing(), 1.0)
    tensors, masks = bench.prepare(drawn)
    assert "population 'rec': no numerical form for poisson()" in why_not(NetworkFunction(drawn, tensors, masks))
    weights = {name: tensors[f"{name}.weight"] for name in drawn.projections}
    with pytest.raises(UnsupportedError, match="no kernel can be made for this network: population 'rec'"):
        NetworkFunction(drawn, tensors, masks)(weights, bench.spikes_in(drawn))


def test_without_a_compiler_the_reason_says_what_to_do(monkeypatch, bench):
    monkeypatch.setattr(kernel_build, "compiler", lambda: None)
    assert "no C compiler found" in why_not(NetworkFunction(bench.of("lif"), *bench.prepare(bench.of("lif"))))
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
