"""Learning online in generated C against the plain online learner: same spikes, gradients and weights, step by step."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from brian2 import ms, mV

from localplast.backends.c import compile as kernel_build
from localplast.backends.c.online_call import OnlineKernel, why_not_online
from localplast.backends.torch.gradient import prepare
from localplast.backends.torch.learner import TorchLearner
from localplast.backends.torch.step import leaves
from localplast.backends.torch.traces import OnlineLearner
from localplast.learning.optimise import adam, sgd
from localplast.models import alif, cuba_lif, leaky_readout, lif
from localplast.network import Input, Network, Population, Projection, axonal, dendritic, normal, synaptic, uniform
from localplast.neuron import NeuronModel
from localplast.neuron.surrogate import arctan, triangle
from localplast.program.learn import plan
from localplast.rules import eprop
from localplast.task import Trials
from localplast.task.loss import cross_entropy, mse, rate

pytestmark = pytest.mark.skipif(kernel_build.compiler() is None, reason="no C compiler here")

STEPS, SIZE, OUTPUTS = 130, 7, 3


def quadratic():
    """A quadratic neuron by rk4: the decay of its traces depends on the state, and on refractoriness; so does its
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


MODELS = {
    "lif": (lambda: lif(surrogate=triangle(gamma=0.8)), 4.0),
    "lif, refractory": (lambda: lif(tau_ref=4 * ms), 5.0),
    "alif, refractory": (lambda: alif(tau_ref=3 * ms, beta=0.3, tau_adapt=30 * ms), 8.0),
    "cuba_lif": (lambda: cuba_lif(width=5 * mV), 0.08),
    "quadratic": (quadratic, 0.05),
}


def recurrent(model, strength, *, delay=None, mask=None, **population):
    """One recurrent population between five channels and a readout; delays on the way into the population only."""
    drive = uniform(strength, mean=0.4 * strength / np.sqrt(5))
    # fmt: skip
    return Network(
        dt=1 * ms,
        cues=Input(5),
        rec=Population(SIZE, model, **population),
        out=Population(OUTPUTS, leaky_readout()),
        projections=[
            Projection("cues", "rec", weight=drive, delay=delay and delay(5, SIZE), mask=mask),
            Projection("rec", "rec", weight=normal(0.6 * strength), delay=delay and delay(SIZE, SIZE), mask=mask),
            Projection("rec", "out"),
        ],
    )


def layers():
    """Two learning populations, the first of which does not reach the readout, neurons that differ, a fixed
    projection.
    """
    tau = np.linspace(5, 30, 6) * ms
    adapting = {"beta": np.array([0.0, 0.0, 0.5, 1.0]), "tau_ref": np.array([0, 3, 0, 2]) * ms}
    hidden = [("cues", "one"), ("one", "two"), ("two", "one")]
    # fmt: skip
    return Network(
        dt=1 * ms,
        cues=Input(5),
        one=Population(6, lif(), {"tau_mem": tau}, {"v": np.linspace(-0.5, 0.9, 6)}),
        two=Population(4, alif(), adapting),
        out=Population(OUTPUTS, leaky_readout()),
        projections=[
            *(Projection(*ends, weight=normal(4.0), plastic=ends[0] != "two") for ends in hidden),
            Projection("two", "out"),
            Projection("cues", "out"),
        ],
    )


def trials_for(loss, count=1, steps=STEPS, silent=0):
    """Random input; the first ``silent`` steps do not count."""
    rng = np.random.default_rng(3)
    weight = rng.uniform(0.5, 1.5, steps) / steps
    weight[:silent] = 0
    target = (
        rng.integers(0, OUTPUTS, count) if loss.kind == "cross_entropy" else rng.normal(size=(count, steps, OUTPUTS))
    )
    return Trials({"cues": rng.random((count, steps, 5)) < 0.25}, target, weight)


def distance(found, wanted):
    """Largest relative difference, by projection; every wanted array must be alive."""
    assert found.keys() == wanted.keys()
    scale = {name: float(w.abs().max()) for name, w in wanted.items()}
    assert all(s > 1e-12 for s in scale.values()), f"nothing to compare: {scale}"
    return max(float((found[name] - w).abs().max()) / scale[name] for name, w in wanted.items())


def case(net, rule, loss, trials, dtype=torch.float64):
    values = net.draw(1)
    tensors = leaves(net, values, dtype=dtype)
    given = prepare(net, trials, loss, rng=np.random.default_rng(0), dtype=dtype)
    return values, tensors, given, plan(net, rule, loss)


def kernel_gradients(net, learned, values, tensors, given):
    kernel = OnlineKernel(net, learned, tensors, values.masks)
    return kernel.gradients({n: tensors[f"{n}.weight"] for n in net.projections}, *given)


def same_gradients(net, rule, loss, trials, spoil=lambda learned: learned):
    """Assert that gradients, outputs and spikes are those of the plain learner."""
    values, tensors, given, learned = case(net, rule, loss, trials)
    assert why_not_online(net, learned) is None
    oracle = OnlineLearner(net, learned, tensors, values.masks)
    outputs, counts = oracle.run(*given)
    found = kernel_gradients(net, spoil(learned), values, tensors, given)
    for name, count in counts.items():
        assert 0.005 < float(count.mean()) / trials.steps < 0.6, f"{name} is silent or saturated"
        assert torch.equal(found[1][name], count), f"spikes of {name}"
    assert float((found[0] - outputs).abs().max()) < 1e-10 * float(outputs.abs().max())
    assert distance(found[2], oracle.gradients()) < 1e-10


def learned_weights(net, rule, loss, optimiser, trials, *, plain):
    """How far weights have moved after ``trials``, and the optimiser's memory; ``plain``: without the kernel."""
    values = net.draw(1)
    learner = TorchLearner(net, values, rule, loss, optimiser, dtype=torch.float64)
    assert isinstance(learner.online, OnlineKernel)
    before = {n: w.clone() for n, w in learner.weights.items()}
    if plain:
        learner.online = OnlineLearner(net, plan(net, rule, loss), learner.tensors, values.masks)
    metrics = learner.train(trials)
    moved = {n: w - before[n] for n, w in learner.weights.items() if net.projections[n].plastic}
    memory = {f"{n}.{k}": s for n, state in learner.state.items() for k, s in state.items()}
    return moved, memory, metrics, learner.updates


def same_weights(net, loss, optimiser, trials, *, feedback="symmetric"):
    rule = eprop(feedback=feedback, update="step")
    moved, memory, metrics, updates = learned_weights(net, rule, loss, optimiser, trials, plain=False)
    others = learned_weights(net, rule, loss, optimiser, trials, plain=True)
    assert distance(moved, others[0]) < 1e-10
    assert not memory or distance(memory, others[1]) < 1e-10
    assert metrics == [pytest.approx(m, rel=1e-9, nan_ok=True) for m in others[2]]
    assert updates == others[3] == len(trials) * trials.steps


@pytest.mark.sampled(2)
@pytest.mark.parametrize("feedback", ["symmetric", "random"])
@pytest.mark.parametrize("model", MODELS)
def test_gradients(model, feedback):
    make, strength = MODELS[model]
    for loss in (mse(), cross_entropy()):
        same_gradients(recurrent(make(), strength), eprop(feedback=feedback), loss, trials_for(loss, 3, silent=40))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("optimiser", [sgd(0.02), adam(0.002)], ids=["sgd", "adam"])
@pytest.mark.parametrize("model", MODELS)
def test_weights_that_change_in_every_step(model, optimiser):
    make, strength = MODELS[model]
    constants = optimiser.constants
    scaled = replace(optimiser, constants={**constants, "learning_rate": constants["learning_rate"] * strength})
    for loss in (mse(), cross_entropy()):
        same_weights(recurrent(make(), strength), loss, scaled, trials_for(loss, 2, silent=20))


@pytest.mark.parametrize("model", ["lif", "alif, refractory", "quadratic"])
def test_eligibility_that_follows_the_reset(model):
    make, strength = MODELS[model]
    same_gradients(recurrent(make(), strength), eprop(reset=True), mse(), trials_for(mse()))


def test_parameters_that_differ_between_neurons():
    tau = np.linspace(8, 30, SIZE) * ms
    net = recurrent(alif(tau_adapt=40 * ms), 8.0, parameters={"tau_mem": tau, "beta": np.linspace(0, 0.5, SIZE)})
    same_gradients(net, eprop(), mse(), trials_for(mse(), 2))
    same_weights(net, mse(), sgd(0.1), trials_for(mse(), 2))


def test_populations_that_do_not_reach_the_readout():
    same_gradients(layers(), eprop(feedback="random"), cross_entropy(), trials_for(cross_entropy(), 2))
    same_weights(layers(), cross_entropy(), adam(0.01), trials_for(cross_entropy(), 2), feedback="random")


def test_a_neuron_may_use_the_names_of_an_optimiser():
    # fmt: skip
    model = NeuronModel(
        name="letters",
        equations="dv/dt = -k*v + m*u : 1\n du/dt = -g*s*u : 1",
        threshold="v > 1",
        reset="v -= 1",
        parameters={"k": 0.05 / ms, "m": 0.1 / ms, "g": 0.5, "s": 0.2 / ms},
        receives="u",
        surrogate=triangle("1"),
        method="exponential_euler",
    )
    same_gradients(recurrent(model, 4.0), eprop(), mse(), trials_for(mse(), 2))
    same_weights(recurrent(model, 4.0), mse(), adam(0.01), trials_for(mse(), 2))


def drawn(shape):
    return np.random.default_rng(5).integers(0, 9, shape) * ms


DELAYS = {
    "shared": lambda pre, post: axonal(4 * ms),
    "axonal": lambda pre, post: axonal(drawn(pre)),
    "dendritic": lambda pre, post: dendritic(drawn(post)),
    "synaptic": lambda pre, post: synaptic(drawn((pre, post))),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("delay", DELAYS)
def test_delays(delay):
    net = recurrent(alif(beta=0.3, tau_adapt=30 * ms), 8.0, delay=DELAYS[delay])
    same_gradients(net, eprop(), mse(), trials_for(mse(), 2))
    same_weights(net, mse(), sgd(0.1), trials_for(mse(), 2))


def test_synapses_that_do_not_exist():
    net = recurrent(lif(), 8.0, mask=0.5)
    assert not all(m.all() for m in net.draw(1).masks.values())
    same_gradients(net, eprop(), mse(), trials_for(mse()))
    same_weights(net, mse(), adam(0.01), trials_for(mse(), 2))
    values = net.draw(1)
    learner = TorchLearner(net, values, eprop(update="step"), mse(), adam(0.01), dtype=torch.float64)
    learner.train(trials_for(mse()))
    assert all(not w[~values.masks[name]].any() for name, w in learner.numbers().items())


def test_rate_regulariser():
    loss = mse() + rate(20, 1e-3)
    net = recurrent(lif(), 4.0)
    same_gradients(net, eprop(), loss, trials_for(loss, 3))
    values, tensors, given, learned = case(net, eprop(), mse(), trials_for(mse(), 3))
    with pytest.raises(AssertionError):  # the regulariser weighs in
        same_gradients(net, eprop(), loss, trials_for(loss, 3), spoil=lambda _: learned)


def test_single_precision():
    net, loss = recurrent(alif(), 8.0), mse()
    values, tensors, given, learned = case(net, eprop(), loss, trials_for(loss), torch.float32)
    oracle = OnlineLearner(net, learned, tensors, values.masks)
    oracle.run(*given)
    assert distance(kernel_gradients(net, learned, values, tensors, given)[2], oracle.gradients()) < 1e-4


def test_a_planted_error_is_caught():
    def spoil(learned):
        s = learned.synapses["rec_rec"]
        program = tuple((name, e * (1 + 1e-6) if name == "elig" else e) for name, e in s.program)
        return replace(learned, synapses={**learned.synapses, "rec_rec": replace(s, program=program)})

    net, loss = recurrent(alif(), 8.0), mse()
    same_gradients(net, eprop(), loss, trials_for(loss))
    with pytest.raises(AssertionError):
        same_gradients(net, eprop(), loss, trials_for(loss), spoil=spoil)


def test_learning_in_every_step_is_not_learning_at_the_end():
    net, loss, trials = recurrent(alif(), 8.0), mse(), trials_for(mse())
    moved, *_ = learned_weights(net, eprop(update="step"), loss, sgd(1.0), trials, plain=False)
    values, tensors, given, learned = case(net, eprop(), loss, trials)
    *_, gradients = kernel_gradients(net, learned, values, tensors, given)
    assert distance(moved, {name: -g for name, g in gradients.items()}) > 1e-2
    little, *_ = learned_weights(net, eprop(update="step"), loss, sgd(1e-7), trials, plain=False)
    assert distance({n: m * 1e7 for n, m in little.items()}, {name: -g for name, g in gradients.items()}) < 1e-4


def test_batches_fall_back_to_the_plain_step_and_say_so(caplog):
    net, rule = recurrent(lif(), 4.0), eprop(update="step")
    assert "one trial after the other" in why_not_online(net, plan(net, rule, mse()), sgd(0.1), batch=2)
    learner = TorchLearner(net, net.draw(1), rule, mse(), sgd(0.1), batch=2)
    assert isinstance(learner.online, OnlineLearner) and "slower" in caplog.text
    assert np.isfinite(learner.train(trials_for(mse(), 2, steps=20))[0]["loss"])


def test_memory_does_not_grow_with_the_trial():
    net = recurrent(lif(), 4.0, delay=DELAYS["synaptic"])
    values, tensors, given, learned = case(net, eprop(), mse(), trials_for(mse(), 1, 400))
    kernel = OnlineKernel(net, learned, tensors, values.masks)
    before = {slot: m.shape for slot, m in kernel.memories[0].items()}
    kernel.gradients({n: tensors[f"{n}.weight"] for n in net.projections}, *given)
    assert {slot: m.shape for slot, m in kernel.memories[0].items()} == before
    assert all(m.numel() < 400 for m in (*kernel.fixed.values(), *kernel.memories[0].values()))


def test_rasters_and_numbers_are_read_alike():
    """Spikes as bytes, trial by trial, and the same as numbers, time first; other spikes are seen."""
    net, loss = recurrent(lif(), 4.0), mse()
    values, trials = net.draw(1), trials_for(loss, 3)
    inputs, target, weight = prepare(net, trials, loss, rng=np.random.default_rng(0), dtype=torch.float64)
    kernel = OnlineKernel(net, plan(net, eprop(), loss), leaves(net, values), values.masks)
    weights = {n: torch.as_tensor(w) for n, w in values.weights.items()}
    given = [inputs, {k: x.double() for k, x in inputs.items()}, {k: x.flip(1) for k, x in inputs.items()}]
    (bits, _, one), (_, _, same), (_, _, other) = (kernel.gradients(weights, x, target, weight) for x in given)
    assert inputs["cues"].dtype == torch.bool and bool(bits.abs().sum() > 0)
    assert distance(same, one) < 1e-12 and distance(other, one) > 1e-3
