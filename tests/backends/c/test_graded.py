"""Networks of graded populations in generated C: batches, threads, precision, and when there is no such kernel.

That they learn what the plain step learns is tested in ``test_engines.py``.
"""

import numpy as np
import pytest
import torch
from brian2 import ms

import localplast as lp
from localplast.backends.c.compile import missing
from localplast.backends.c.online_call import OnlineKernel
from localplast.backends.torch.learner import TorchLearner
from localplast.backends.torch.online import OnlineLearner
from localplast.backends.torch.step import leaves
from localplast.learning.optimise import adam, sgd
from localplast.models import latent_equilibrium
from localplast.program.learn import plan
from localplast.protocols.latent_equilibrium_cnn import network
from localplast.rules import dendritic
from localplast.task.loss import mse

pytestmark = pytest.mark.skipif(missing() is not None, reason="needs a C compiler")


@pytest.fixture(scope="module")
def learned(bench):
    """``learned(net, rule, optimiser, trials)``: everything that an engine comes to."""

    def learn(net, rule, optimiser, trials, *, engine="rates in C", batch=5, **options):
        return bench.course(engine, net, rule, mse(), optimiser, trials, batch=batch, **options).arrays

    return learn


@pytest.mark.thorough
def test_single_precision(learned, bench):
    """As far from double precision as the plain step is, up to the order of sums: a few times its rounding."""
    net = bench.gle("symmetric")
    given = (net, dendritic(), bench.rates(net, sgd(1e-2)), bench.shown(net))
    found, double = (learned(*given, dtype=dtype) for dtype in (torch.float32, torch.float64))
    expected = learned(*given, dtype=torch.float32, engine="plain step")
    assert found["weight.up2"].dtype == np.float32
    assert 1e-8 < bench.apart(found, double, alive=None) < 4 * bench.apart(expected, double, alive=None) < 1e-3


@pytest.mark.thorough
def test_threads_share_a_batch(learned, bench):
    """Three threads that wait for each other at every update; with noise too. One whose numbers break stops all."""
    for net, rule in ((bench.gle("symmetric"), dendritic()), (bench.mirror(), dendritic(update=0.7 * ms))):
        given = (net, rule, bench.rates(net, adam(1e-3)), bench.shown(net, trials=28, steps=100))
        alone, shared = (learned(*given, batch=28, threads=threads) for threads in (1, 3))
        assert bench.apart(shared, alone, alive=None) < 1e-12
    net = bench.le(hidden=latent_equilibrium(activation="linear"))
    with pytest.raises(lp.RunawayError):
        learned(net, dendritic(), sgd(3.0), bench.shown(net, trials=28), batch=28, threads=3)


@pytest.mark.parametrize("threads", [1, 2])
def test_blocks_of_trials_add_up(threads, bench):
    """75 trials: three or four blocks, the gradients of which are summed; one trial less is something else."""
    net = bench.gle("symmetric")
    trials, tensors, values = bench.shown(net, trials=75, steps=60), leaves(net, net.draw(0)), net.draw(0)
    made = plan(net, dendritic(update="trial"), mse())
    inputs = {k: torch.as_tensor(v).transpose(0, 1) for k, v in trials.inputs.items()}
    judged = torch.zeros(1, 75, 3).double(), torch.ones(60).double()
    kernel = OnlineKernel(net, made, tensors, values.masks, threads=threads)
    outputs, _ = kernel.run(inputs, *judged)
    found = kernel.gradients() | kernel.other_gradients(tensors)
    learner = OnlineLearner(net, made, leaves(net, values), values.masks)
    expected_outputs, _ = learner.run(inputs, *judged)
    expected = learner.gradients() | learner.other_gradients(tensors)
    torch.testing.assert_close(outputs, expected_outputs, rtol=1e-12, atol=1e-13)
    assert bench.apart(found, expected, alive=None) < 1e-12
    kernel.run({k: x[:, :-1] for k, x in inputs.items()}, judged[0][:, :-1], judged[1])
    fewer = kernel.gradients() | kernel.other_gradients(tensors)
    assert bench.apart(fewer, expected, alive=None) > 1e-4


@pytest.mark.parametrize("threads", [1, 2])
def test_noise_of_many_trials_and_steps(threads, bench):
    """More trials than a block has, more steps than are drawn at once; other dice are something else."""
    net = bench.mirror()
    values, trials = net.draw(0), bench.shown(net, trials=75, steps=150)
    inputs = {k: torch.as_tensor(v).transpose(0, 1) for k, v in trials.inputs.items()}
    judged = torch.zeros(1, 75, 3).double(), torch.ones(150).double()
    described = net, plan(net, dendritic(update="trial"), mse()), leaves(net, values), values.masks
    kernel, plain = OnlineKernel(*described, threads=threads), OnlineLearner(*described)
    plain.run(inputs, *judged, seed=5)
    for seed, least, most in ((5, 0, 1e-11), (6, 1e-3, 10)):
        kernel.run(inputs, *judged, seed=seed)
        assert least <= bench.apart(kernel.gradients(), plain.gradients(), alive=None) < most


def test_memory_does_not_grow_with_the_trial(bench):
    net = bench.le()
    learner = TorchLearner(net, net.draw(1), dendritic(), mse(), sgd(1e-3), batch=5)

    def held(steps):
        learner.train(bench.shown(net, steps=steps))
        return [m.numel() for made in learner.online.compiled.values() for m in made.kept]

    assert held(50) == held(500)


def test_divergence_names_the_first_step_and_population(learned, bench):
    net = bench.le(hidden=latent_equilibrium(activation="linear"))

    def complaint(engine):
        with pytest.raises(lp.RunawayError) as caught:
            learned(net, dendritic(), sgd(3.0), bench.shown(net), engine=engine)
        return str(caught.value)

    assert complaint("rates in C") == complaint("plain step")
    learned(net, dendritic(), sgd(1e-3), bench.shown(net))  # the negative twin: nothing to complain about


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [1, 16])
def test_kernels_change_within_a_trial(batch, threads, bench):
    """All places that share one; errors come back through it."""
    net, optimiser = network((1, 10, 10), (2, 3), (5,), 4, size=3, activation="tanh"), adam(1e-3)
    rng = np.random.default_rng(0)
    inputs = {name: rng.normal(size=(16, 8, node.size)) for name, node in net.inputs.items()}
    trials = lp.Trials(inputs, rng.normal(size=(16, 8, net.size(net.readouts[0]))))
    bench.same_learning("rates in C", net, dendritic(), mse(), optimiser, trials, batch=batch, threads=threads)
