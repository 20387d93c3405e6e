"""One network, two backends, the same trajectories: for every model, and for Brian2 itself."""

import shutil
import warnings
from dataclasses import replace

import brian2 as b2
import numpy as np
import pytest
from brian2 import ms

import localplast.models
from localplast.backends.brian2.learner import block_for
from localplast.backends.brian2.session import codegen, session
from localplast.errors import UnsupportedError
from localplast.learning.eligibility import derive
from localplast.models import cuba_lif, leaky_readout, lif
from localplast.network import Input, Network, Population, Projection, axonal, dendritic, normal, synaptic
from localplast.neuron import NeuronModel
from localplast.neuron.step import lower
from localplast.task import Trials

STEPS = 250  # of a run


# ---------------------------------------------------------------------------------------------- every model


@pytest.mark.sampled(4, 2)
@pytest.mark.parametrize("name", localplast.models.__all__)
def test_every_model_is_the_same_on_both_backends(name, twins, alive, driven):
    model = getattr(localplast.models, name)()
    if lower(model).noise:
        pytest.skip("each backend draws noise of its own (oracles/test_noise.py)")
    net = alive(name)
    trials = driven(np.random.default_rng(1), 1, STEPS)
    one, other = twins.both(net, trials)
    constant = {f"it.{n}" for n, e in lower(model).updated.items() if e.is_Number}  # the slope of what is linear
    twins.live(net, {key: array for key, array in one.items() if key not in constant})
    twins.compare(one, other)


@pytest.fixture(scope="module")
def example(twins, alive, driven):
    """A network of two models with every kind of connection, and its trials and trajectories."""
    net = alive("cuba_lif")
    trials = driven(np.random.default_rng(2), 2, 150)
    return net, trials, twins.brian2(net, trials)


# ---------------------------------------------------------------------------------------------- planted errors


def with_delay(net, name, change):
    """``net`` with the delays of one projection changed."""
    projections = dict(net.projections)
    delay = projections[name].delay
    projections[name] = replace(projections[name], delay=replace(delay, value=change(delay.value)))
    return Network(dt=net.dt, projections=list(projections.values()), **net.nodes)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ["cues_it", "it_it", "again", "it_out"])
def test_a_delay_off_by_one_step_is_noticed(name, example, twins):
    net, trials, expected = example
    twins.compare(expected, twins.torch(net, trials))
    later = with_delay(net, name, lambda delay: delay + net.dt)
    with pytest.raises(AssertionError, match="differ"):
        twins.compare(expected, twins.torch(later, trials))


def test_one_synapse_delayed_by_one_step_more_is_noticed(example, twins):
    net, trials, expected = example
    delays = np.array(net.projections["cues_out"].delay.value) * b2.second
    delays[3, 1] += net.dt
    with pytest.raises(AssertionError, match="relative difference"):
        twins.compare(expected, twins.torch(with_delay(net, "cues_out", lambda _: delays), trials))


@pytest.mark.parametrize("method", ["euler", "exponential_euler", "rk2", "rk4"])
def test_another_integration_method_is_noticed(method, example, twins):
    net, trials, expected = example
    nodes = {**net.nodes, "it": replace(net.nodes["it"], model=replace(net.nodes["it"].model, method=method))}
    other = Network(dt=net.dt, projections=list(net.projections.values()), **nodes)
    with pytest.raises(AssertionError, match="differ"):
        twins.compare(expected, twins.torch(other, trials))


def test_recording_before_the_reset_is_noticed(example, twins):
    net, trials, expected = example
    with pytest.raises(AssertionError, match="relative difference"):
        twins.compare(expected, twins.torch(net, trials, before_reset=True))


def test_another_refractory_period_is_noticed(example, twins):
    net, trials, expected = example
    nodes = {**net.nodes, "it": replace(net.nodes["it"], parameters={"tau_ref": 4 * ms})}
    with pytest.raises(AssertionError, match="differ"):
        twins.compare(
            expected, twins.torch(Network(dt=net.dt, projections=list(net.projections.values()), **nodes), trials)
        )


def test_silent_and_runaway_networks_are_noticed(example, twins):
    net, _, expected = example
    for raster in (np.zeros((1, 100, 6), bool), np.ones((1, 100, 6), bool)):
        with pytest.raises(AssertionError, match="Hz is outside"):
            twins.live(net, {**expected, "it.spikes": raster})
    with pytest.raises(AssertionError, match="never moves"):
        twins.live(net, {"it.v": np.ones((1, 100, 6))})


# ---------------------------------------------------------------------------------------------- Brian2 itself


def native_lif(net, values, raster):
    """The network of :func:`test_brian2_itself_agrees`, written by hand for Brian2: voltages and spike rasters."""
    b2.start_scope()
    clock = b2.Clock(dt=net.dt)
    step, channel = np.nonzero(raster)
    cues = b2.SpikeGeneratorGroup(raster.shape[1], channel, step * net.dt, clock=clock)
    lif_equations = "dv/dt = (v_rest - v + I)/tau_mem : volt (unless refractory)\n dI/dt = -I/tau_syn : volt"
    model = net.nodes["rec"].model
    rec = b2.NeuronGroup(
        8,
        lif_equations,
        threshold="v > v_th",
        reset="v = v_rest",
        refractory="tau_ref",
        method="exact",
        clock=clock,
        namespace=model.parameters,
    )
    rec.v = model.parameters["v_rest"]
    out = b2.NeuronGroup(2, "dv/dt = -v/tau_out : 1", method="exact", clock=clock, namespace={"tau_out": 20 * ms})
    objects = [cues, rec, out]
    pairs = (
        (cues, rec, "cues_rec", "I_post += w"),
        (rec, rec, "rec_rec", "I_post += w"),
        (rec, out, "rec_out", "v_post += w"),
    )
    for pre, post, name, code in pairs:
        unit = "1" if post is out else "volt"
        synapses = b2.Synapses(pre, post, f"w : {unit}", on_pre=code, clock=clock, name=name)
        i, j = np.nonzero(values.masks[name])
        synapses.connect(i=i, j=j)
        synapses.w_ = values.weights[name][i, j]
        synapses.delay = np.broadcast_to(net.projections[name].delay.value, values.masks[name].shape)[i, j] * b2.second
        objects.append(synapses)
    states = {
        n: b2.StateMonitor(g, True, record=True, when="end", clock=clock) for n, g in (("rec", rec), ("out", out))
    }
    fired = b2.SpikeMonitor(rec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        b2.Network(*objects, *states.values(), fired).run(len(raster) * net.dt, namespace={})
    result = np.zeros((len(raster), 8), bool)
    result[np.round(fired.t / net.dt).astype(int), fired.i] = True
    return {"rec.v": states["rec"].v_.T, "rec.I": states["rec"].I_.T, "out.v": states["out"].v_.T, "rec.spikes": result}


def test_brian2_itself_agrees(twins):
    """A hand-written Brian2 script, with Brian2's own state updater and inputs, gives the same spikes, and numbers to
    rounding.
    """
    rng = np.random.default_rng(3)
    net = Network(
        dt=1 * ms, cues=Input(10), rec=Population(8, cuba_lif()), out=Population(2, leaky_readout()),
        projections=[
            Projection("cues", "rec", weight=normal(12 * b2.mV, mean=3 * b2.mV), delay=dendritic(rng.integers(0, 9, 8) * ms)),
            Projection("rec", "rec", weight=normal(12 * b2.mV), delay=synaptic(rng.integers(0, 21, (8, 8)) * ms)),
            Projection("rec", "out", delay=dendritic(rng.integers(0, 5, 2) * ms)),
        ],
    )  # fmt: skip
    values, raster = net.draw(0), rng.random((1, 500, 10)) < 0.1
    record = ["rec.v", "rec.I", "out.v", "rec.spikes"]
    ours, torch_ = twins.both(net, Trials({"cues": raster}), record, values=values)
    with codegen("numpy"):  # from the start: making synapses is code too, and the default compiles it
        native = {name: array[None] for name, array in native_lif(net, values, raster[0]).items()}
    twins.live(net, native)
    twins.compare(ours, native, 1e-12)
    twins.compare(native, torch_)


# ---------------------------------------------------------------------------------------------- details


def driven(model, **options):
    """One neuron of ``model`` under a train of spikes, weight 0.8, for 40 steps."""
    net = Network(
        dt=1 * ms, cues=Input(1), it=Population(1, model), projections=[Projection("cues", "it", weight=0.8, **options)]
    )
    return net, Trials({"cues": np.ones((1, 40, 1), bool)})


def clamped_model(**options):
    """A membrane clamped in its refractory period, driven through a current that is not."""
    return NeuronModel(**{
        "name": "clamped", "equations": "dv/dt = (-v + 2*I)/tau : 1 (unless refractory)\n dI/dt = -I/tau_I : 1",
        "threshold": "v > 1", "reset": "v = -0.5", "refractory": "tau_ref", "receives": "I",
        "parameters": {"tau": 10 * ms, "tau_I": 7 * ms, "tau_ref": 4 * ms}, **options,
    })  # fmt: skip


@pytest.mark.sampled(2)
@pytest.mark.parametrize("method", ["exact", "exponential_euler", "euler", "rk2", "rk4", "heun"])
def test_clamped_neurons_stay_numbers(method, twins):
    """Exponential Euler divides by ``int(not_refractory)``; Brian2 hides the NaN, the twin must not have one."""
    net, trials = driven(clamped_model(method=method))
    one, other = twins.both(net, trials)
    twins.live(net, one)
    twins.compare(one, other)


def test_the_discrete_map_does_not_move_clamped_variables(twins):
    net, trials = driven(clamped_model(update="v = 0.9*v + 0.3*I"))
    one, other = twins.both(net, trials)
    twins.live(net, one)
    twins.compare(one, other)


def test_spikes_do_not_move_clamped_variables(twins):
    net, trials = driven(clamped_model(receives="v"))
    twins.compare(*twins.both(net, trials))


def test_what_cannot_follow_clamped_variables_says_so():
    net, _ = driven(clamped_model(receives="v"))
    projection = next(p for p in net.projections.values() if p.target == "v")
    with pytest.raises(UnsupportedError, match="let spikes land on a synaptic current"):
        derive(net, projection)


def test_int_of_a_condition_keeps_double_precision(twins):
    model = NeuronModel(
        name="step", equations="dv/dt = (-v + gain*int(v > 0.1))/tau : 1", threshold="v > 1", reset="v = 0", method="euler",
        parameters={"tau": 10 * ms, "gain": 0.123456789012345},
    )  # fmt: skip
    net, trials = driven(model)
    one, other = twins.both(net, trials)
    twins.compare(one, other, 1e-14)


# ---------------------------------------------------------------------------------------------- generated code


def small():
    """Eight neurons with delays of each kind."""
    rng = np.random.default_rng(5)
    net = Network(
        dt=1 * ms, cues=Input(6), rec=Population(8, lif(tau_ref=2 * ms)), out=Population(2, leaky_readout()),
        projections=[
            Projection("cues", "rec", weight=normal(1.5, mean=0.2), delay=dendritic(rng.integers(0, 9, 8) * ms)),
            Projection("rec", "rec", weight=normal(0.8), delay=synaptic(rng.integers(0, 21, (8, 8)) * ms)),
            Projection("rec", "out", delay=axonal(rng.integers(0, 5, 8) * ms)),
        ],
    )  # fmt: skip
    return net, Trials({"cues": rng.random((2, 100, 6)) < 0.1})


@pytest.mark.thorough
@pytest.mark.skipif(not (shutil.which("g++") and shutil.which("make")), reason="no C++ compiler here")
def test_a_cpp_program_does_the_same(twins):
    net, trials = small()
    running = session(
        "cpp", net, net.draw(0), block_for(net, trials), trials, request=[("rec", "v"), ("rec", "spikes")]
    )
    try:
        for block in (trials, trials[[1, 0]], trials):  # compiled once, run again and again
            ours = twins.collect(running.run(block), net, ["rec.v", "rec.spikes"])
            twins.compare(ours, twins.torch(net, block, ["rec.v", "rec.spikes"]))
            twins.live(net, ours)
    finally:
        running.close()


@pytest.mark.slow
def test_cython_does_the_same(twins):
    net, trials = small()
    ours = twins.brian2(net, trials, target="cython")
    twins.live(net, ours)
    twins.compare(ours, twins.torch(net, trials))
