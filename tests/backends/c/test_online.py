"""Learning online in generated C against the plain online learner: same spikes, gradients and weights, step by step."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from brian2 import ms

from localplast.backends.c import compile as kernel_build
from localplast.backends.c.online_call import OnlineKernel
from localplast.backends.torch.gradient import prepare
from localplast.backends.torch.learner import TorchLearner
from localplast.backends.torch.online import OnlineLearner
from localplast.backends.torch.step import leaves
from localplast.learning.optimise import adam, sgd
from localplast.models import alif, leaky_readout, lif
from localplast.network import Input, Network, Population, Projection, normal
from localplast.neuron import NeuronModel
from localplast.neuron.surrogate import triangle
from localplast.program.learn import plan
from localplast.rules import eprop
from localplast.task.loss import cross_entropy, mse, rate

pytestmark = pytest.mark.skipif(kernel_build.compiler() is None, reason="no C compiler here")

STEPS, SIZE, OUTPUTS = 60, 7, 3
MODELS = ["lif", "lif, refractory", "alif, refractory", "cuba_lif", "quadratic"]


def layers():
    """Two learning populations, the first of which does not reach the readout, neurons that differ, a fixed
    projection.
    """
    tau = np.linspace(5, 30, 6) * ms
    adapting = {"beta": np.array([0.0, 0.0, 0.5, 1.0]), "tau_ref": np.array([0, 3, 0, 2]) * ms}
    hidden = [("cues", "one"), ("one", "two"), ("two", "one")]
    return Network(
        dt=1 * ms, cues=Input(5), one=Population(6, lif(), {"tau_mem": tau}, {"v": np.linspace(-0.5, 0.9, 6)}),
        two=Population(4, alif(), adapting), out=Population(OUTPUTS, leaky_readout()),
        projections=[*(Projection(*ends, weight=normal(4.0), plastic=ends[0] != "two") for ends in hidden),
                     Projection("two", "out"), Projection("cues", "out")],
    )  # fmt: skip


@pytest.fixture(scope="module")
def trials_for(bench):
    """Random trials; the errors of one add up to something of size one."""
    return functools.partial(bench.trials_for, steps=STEPS, size=1 / STEPS)


@pytest.fixture(scope="module")
def same_weights(bench):
    def same(net, loss, optimiser, trials, *, feedback="symmetric"):
        rule = eprop(feedback=feedback, update="step")
        found, _ = bench.same_learning("traces in C", net, rule, loss, optimiser, trials)
        assert found.updates == len(trials) * trials.steps

    return same


def kernel_gradients(net, learned, values, tensors, given):
    kernel = OnlineKernel(net, learned, tensors, values.masks)
    return *kernel.run(*given), kernel.gradients()


@pytest.mark.sampled(4)
@pytest.mark.parametrize("feedback", ["symmetric", "random"])
@pytest.mark.parametrize("model", MODELS)
def test_gradients(model, feedback, trials_for, bench):
    net = bench.of(model)
    for loss in (mse(), cross_entropy()):
        bench.same_gradients(net, eprop(feedback=feedback), loss, trials_for(loss, 3))


@pytest.mark.parametrize("model", ["lif", "alif, refractory", "quadratic"])
def test_eligibility_that_follows_the_reset(model, trials_for, bench):
    net = bench.of(model)
    bench.same_gradients(net, eprop(reset=True), mse(), trials_for(mse()))


def test_parameters_that_differ_between_neurons(same_weights, trials_for, bench):
    tau = np.linspace(8, 30, SIZE) * ms
    net = bench.recurrent(alif(tau_adapt=40 * ms), 8.0, parameters={"tau_mem": tau, "beta": np.linspace(0, 0.5, SIZE)})
    bench.same_gradients(net, eprop(), mse(), trials_for(mse(), 2))
    same_weights(net, mse(), sgd(0.1), trials_for(mse(), 2))


def test_populations_that_do_not_reach_the_readout(same_weights, trials_for, bench):
    bench.same_gradients(layers(), eprop(feedback="random"), cross_entropy(), trials_for(cross_entropy(), 2))
    same_weights(layers(), cross_entropy(), adam(0.01), trials_for(cross_entropy(), 2), feedback="random")


def test_a_neuron_may_use_the_names_of_an_optimiser(same_weights, trials_for, bench):
    model = NeuronModel(
        name="letters", equations="dv/dt = -k*v + m*u : 1\n du/dt = -g*s*u : 1", threshold="v > 1", reset="v -= 1",
        parameters={"k": 0.05 / ms, "m": 0.1 / ms, "g": 0.5, "s": 0.2 / ms}, receives="u", surrogate=triangle("1"),
        method="exponential_euler",
    )  # fmt: skip
    bench.same_gradients(bench.recurrent(model, 4.0), eprop(), mse(), trials_for(mse(), 2))
    same_weights(bench.recurrent(model, 4.0), mse(), adam(0.01), trials_for(mse(), 2))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("delay", ["shared", "axonal", "dendritic", "synaptic"])
def test_delays(delay, same_weights, trials_for, bench):
    net = bench.recurrent(alif(beta=0.3, tau_adapt=30 * ms), 8.0, late=bench.delays[delay], late_out=False)
    bench.same_gradients(net, eprop(), mse(), trials_for(mse(), 2))
    same_weights(net, mse(), sgd(0.1), trials_for(mse(), 2))


def test_synapses_that_do_not_exist(same_weights, trials_for, bench):
    net = bench.recurrent(lif(), 8.0, mask=0.5)
    assert not all(m.all() for m in net.draw(1).masks.values())
    bench.same_gradients(net, eprop(), mse(), trials_for(mse()))
    same_weights(net, mse(), adam(0.01), trials_for(mse(), 2))
    values = net.draw(1)
    learner = TorchLearner(net, values, eprop(update="step"), mse(), adam(0.01), dtype=torch.float64)
    learner.train(trials_for(mse()))
    assert all(not w[~values.masks[name]].any() for name, w in learner.numbers().items())


def test_rate_regulariser(trials_for, bench):
    loss = mse() + rate(20, 1e-3)
    net = bench.recurrent(lif(), 4.0)
    bench.same_gradients(net, eprop(), loss, trials_for(loss, 3))
    values, tensors, given, learned = bench.case(net, eprop(), mse(), trials_for(mse(), 3))
    with pytest.raises(AssertionError):  # the regulariser weighs in
        bench.same_gradients(net, eprop(), loss, trials_for(loss, 3), spoil=lambda _: learned)


def test_single_precision(trials_for, bench):
    net, loss = bench.recurrent(alif(), 8.0), mse()
    values, tensors, given, learned = bench.case(net, eprop(), loss, trials_for(loss), torch.float32)
    oracle = OnlineLearner(net, learned, tensors, values.masks)
    oracle.run(*given)
    assert bench.apart(kernel_gradients(net, learned, values, tensors, given)[2], oracle.gradients()) < 1e-4


def test_a_planted_error_is_caught(trials_for, bench):
    def spoil(learned):
        s = learned.synapses["rec_rec"]
        program = tuple((name, e * (1 + 1e-6) if name == "elig" else e) for name, e in s.program)
        return replace(learned, synapses={**learned.synapses, "rec_rec": replace(s, program=program)})

    net, loss = bench.recurrent(alif(), 8.0), mse()
    bench.same_gradients(net, eprop(), loss, trials_for(loss))
    with pytest.raises(AssertionError):
        bench.same_gradients(net, eprop(), loss, trials_for(loss), spoil=spoil)


def course(bench, net, optimiser, trials):
    return bench.course("traces in C", net, eprop(update="step"), mse(), optimiser, trials)


def test_learning_in_every_step_is_not_learning_at_the_end(trials_for, bench):
    net, loss, trials = bench.recurrent(alif(), 8.0), mse(), trials_for(mse(), 1)
    values, tensors, given, learned = bench.case(net, eprop(), loss, trials)
    at_the_end = {f"weight.{n}": -g for n, g in kernel_gradients(net, learned, values, tensors, given)[2].items()}
    moved, little = (
        {n: w / rate for n, w in course(bench, net, sgd(rate), trials).moved[-1].items()} for rate in (1.0, 1e-7)
    )
    assert bench.apart(moved, at_the_end) > 1e-2
    assert bench.apart(little, at_the_end) < 1e-4


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("update", ["step", 7 * ms])
def test_a_batch_changes_its_weights_together(update, threads, trials_for, bench):
    """17 trials side by side, shared by threads that wait for each other at every update."""
    net, rule, trials = bench.recurrent(lif(), 4.0), eprop(update=update), trials_for(mse(), 17)
    found, _ = bench.same_learning("traces in C", net, rule, mse(), adam(2e-3), trials, batch=17, threads=threads)
    assert found.updates == rule.updates(STEPS, net.dt)


@pytest.mark.parametrize("engine", ["plain step", "traces in C"])
def test_a_batch_of_the_same_trial_learns_as_one_does(engine, trials_for, bench):
    """Gradients are means over trials."""
    net, rule, one = bench.recurrent(lif(), 4.0), eprop(update="step"), trials_for(mse(), 1)
    same = one[np.zeros(3, int)]
    found, expected = (bench.course(engine, net, rule, mse(), sgd(0.1), t, batch=len(t)) for t in (same, one))
    assert bench.apart(found.moved[-1], expected.moved[-1]) < 1e-12


def test_memory_does_not_grow_with_the_trial(trials_for, bench):
    net = bench.recurrent(lif(), 4.0, late=bench.delays["synaptic"], late_out=False)
    values, tensors, given, learned = bench.case(net, eprop(), mse(), trials_for(mse(), 1, steps=400))
    kernel, held = OnlineKernel(net, learned, tensors, values.masks), []
    inputs, target, weight = given
    for steps in (40, 400):
        kernel.run({n: x[:steps] for n, x in inputs.items()}, target[:steps], weight[:steps])
        held.append([m.numel() for made in kernel.compiled.values() for m in made.kept])
    assert held[0] == held[1] and 1000 < held[0][0]


def test_rasters_and_numbers_are_read_alike(trials_for, bench):
    """Spikes as bytes, trial by trial, and the same as numbers, time first; other spikes are seen."""
    net, loss = bench.recurrent(lif(), 4.0), mse()
    values, trials = net.draw(1), trials_for(loss, 3)
    inputs, target, weight = prepare(net, trials, loss, rng=np.random.default_rng(0), dtype=torch.float64)
    kernel = OnlineKernel(net, plan(net, eprop(), loss), leaves(net, values), values.masks)
    given = [inputs, {k: x.double() for k, x in inputs.items()}, {k: x.flip(1) for k, x in inputs.items()}]
    (bits, one), (_, same), (_, other) = ((kernel.run(x, target, weight)[0], kernel.gradients()) for x in given)
    assert inputs["cues"].dtype == torch.bool and bool(bits.abs().sum() > 0)
    assert bench.apart(same, one) < 1e-12 and bench.apart(other, one) > 1e-3
