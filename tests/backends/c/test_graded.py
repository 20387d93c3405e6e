"""Networks of graded populations in generated C: equal to the plain step, whatever learns in them, and when."""

import contextlib
import dataclasses

import numpy as np
import pytest
import torch
from brian2 import ms

import localplast as lp
from localplast.backends.c.compile import missing
from localplast.backends.c.graded_call import GradedKernel, why_not_graded
from localplast.backends.torch import learner as torch_learn
from localplast.backends.torch.learner import TorchLearner
from localplast.backends.torch.online import OnlineLearner
from localplast.backends.torch.step import leaves
from localplast.learning.optimise import adam, momentum, rmsprop, sgd
from localplast.models import gle, gle_output, graded_readout, latent_equilibrium, latent_equilibrium_output, lif
from localplast.models.circuit import circuit
from localplast.models.layers import layered
from localplast.network import convolution
from localplast.program.learn import plan
from localplast.rules import dendritic
from localplast.task.loss import mse

pytestmark = pytest.mark.skipif(missing() is not None, reason="needs a C compiler")

#: Of layers: some with more than one block of eight rows, some with fewer.
SIZES, STEPS = (5, 11, 14, 3), 200
BIASES = {name: {"b": (-0.2, 0.3)} for name in ("hidden1", "hidden2", "out")}


def le(feedback="symmetric", hidden=None, **options):
    return layered(SIZES, hidden or latent_equilibrium(), latent_equilibrium_output(), feedback=feedback, **options)


def gle_net(feedback="learned"):
    """Time constants that differ within a layer, and learn; a softmax of the output; one shared bias."""
    taus = {"hidden1": {"tau_m": np.linspace(1, 12, SIZES[1]) * ms, "tau_r": 3 * ms}}
    learned = {"hidden1": {"tau_m": (0.5 * ms, 20 * ms), "b": (None, None)}}
    return layered(
        SIZES, gle(), gle_output(loss="cross_entropy"), feedback=feedback, parameters=taus, trainable=learned
    )


def mirror():
    """Noise in every hidden neuron, which feedback learns from."""
    return le("learned", latent_equilibrium(feedback="weight_mirror", activation="tanh"))


def lagging():
    """Synapses that learn from a trace of what arrived: what they are told is the target of a leaky potential."""
    # fmt: skip
    model = lp.NeuronModel(
        name="leaky",
        equations="du/dt = (I - u)/tau : 1\n I : 1\n wanted : 1",
        parameters={"tau": 2 * ms},
        method="exponential_euler",
        output="u",
        receives="I",
        mismatch={"I": lp.Mismatch("wanted - u", of="u")},
    )
    # fmt: skip
    return lp.Network(
        dt=0.1 * ms,
        sense=lp.Input(5, "currents"),
        teach=lp.Input(3, "currents", teacher=True),
        out=lp.Population(3, model),
        said=lp.Population(3, graded_readout()),
        projections=[
            lp.Projection("sense", "out", name="up1"),
            lp.Projection("teach", "out", weight=np.eye(3), target="wanted", plastic=False),
            lp.Projection("out", "said", weight=np.eye(3), plastic=False),
        ],
    )


def changed(net, **projections):
    """``net`` with other options for some of its projections."""
    kept = [dataclasses.replace(p, **projections.get(p.name, {})) for p in net.projections.values()]
    return lp.Network(dt=net.dt, **net.nodes, projections=kept)


def sparse(net):
    """Synapses missing, others bounded."""
    mask = np.random.default_rng(3).random(SIZES[1:3]) < 0.6
    return changed(net, up2={"mask": mask, "bounds": (-0.3, np.where(np.arange(SIZES[2]) < 3, 0.2, np.inf))})


def shown(net, trials=5, steps=STEPS):
    """Inputs that change now and then, and a teacher who speaks."""
    rng = np.random.default_rng(0)
    inputs = {
        name: np.repeat(rng.normal(size=(trials, steps // 10, node.size)), 10, axis=1)
        for name, node in net.inputs.items()
    }
    inputs["teach"][:] = 1.0
    return lp.Trials(inputs, rng.normal(size=(trials, steps, SIZES[-1])), np.full(steps, 1 / steps))


@contextlib.contextmanager
def plain_step():
    """No graded kernel while inside."""
    real, torch_learn.why_not_graded = torch_learn.why_not_graded, lambda *args, **options: "because"
    try:
        yield
    finally:
        torch_learn.why_not_graded = real


def learned(net, rule, optimiser, trials, *, dtype=torch.float64, batch=5, threads=1):
    """The learner after the trials, its metrics, and everything that it has come to."""
    learner = TorchLearner(net, net.draw(1), rule, mse(), optimiser, batch=batch, dtype=dtype, threads=threads)
    metrics = [m["loss"] for m in learner.train(trials)]
    return learner, [*metrics, learner.evaluate(trials)["loss"]], learner.arrays()


def rates(net, optimiser, rate=0.3):
    return optimiser.with_rates(**{name: 0.01 * rate if "tau" in name else rate for name in net.trainable})


CASES = {
    "microcircuit": (lambda: circuit(SIZES), "step", sgd(1e-2)),
    "LE": (lambda: le(trainable=BIASES), "step", adam(1e-3)),
    "LE, random feedback": (lambda: le("random"), "trial", momentum(0.1)),
    "LE, learned feedback": (lambda: le("learned"), "step", sgd(1e-2).decayed(1e-3)),
    "LE, sparse": (lambda: sparse(le(trainable=BIASES)), 1 * ms, rmsprop(1e-3)),
    "LE, late": (lambda: changed(le(), up2={"delay": lp.axonal(0.3 * ms)}, up1={"delay": lp.axonal(0.2 * ms)}), "step", sgd(1e-2)),
    "LE, a mirror": (mirror, 0.7 * ms, sgd(1e-2)),
    "a trace": (lagging, "step", sgd(1e-2)),
    "GLE": (lambda: gle_net("symmetric"), "step", adam(1e-3)),
    "GLE, learned feedback": (gle_net, "trial", momentum(1e-2)),
}  # fmt: skip


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", CASES)
def test_kernel_learns_what_the_plain_step_learns(case, bench):
    made, update, optimiser = CASES[case]
    net = made()
    given = (net, dendritic(update=update), rates(net, optimiser), shown(net))
    learner, losses, found = learned(*given)
    assert isinstance(learner.online, GradedKernel)
    with plain_step():
        oracle, expected_losses, expected = learned(*given)
    assert isinstance(oracle.online, OnlineLearner)
    assert bench.apart(found, expected, alive=False) < 1e-12
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-12)
    begun = net.draw(1).weights
    assert all(np.abs(found[f"weight.{p.name}"] - begun[p.name]).max() > 1e-6 for p in net.plastic)


WITHOUT = {
    "weights that come back": (le(), le("learned")),
    "a mask": (sparse(le()), changed(sparse(le()), up2={"mask": None})),
    "bounds": (sparse(le()), changed(sparse(le()), up2={"bounds": None})),
    "a bias": (le(trainable=BIASES), le()),
    "a delay": (changed(le(), up2={"delay": lp.axonal(0.1 * ms)}), le()),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("what", WITHOUT)
def test_kernel_without_it_learns_something_else(what):
    """The negative twin: the comparison above sees each of these."""
    net, other = WITHOUT[what]
    found = [learned(n, dendritic(), rates(n, sgd(0.1)), shown(n))[2]["weight.up3"] for n in (net, other)]
    assert np.abs(found[0] - found[1]).max() > 1e-6


def test_other_optimisers_and_times_of_update_learn_something_else():
    net, cases = (
        le(),
        [(sgd(0.1), "step"), (sgd(0.101), "step"), (momentum(0.1), "step"), (sgd(0.1), 1 * ms), (sgd(0.1), "trial")],
    )
    found = [learned(net, dendritic(update=u), o, shown(net))[2]["weight.up2"] for o, u in cases]
    assert all(np.abs(one - other).max() > 1e-6 for k, one in enumerate(found) for other in found[:k])


@pytest.mark.thorough
def test_single_precision(bench):
    """As far from double precision as the plain step is, up to the order of sums: a few times its rounding."""
    net = gle_net("symmetric")
    given = (net, dendritic(), rates(net, sgd(1e-2)), shown(net))
    found, double = (learned(*given, dtype=dtype)[2] for dtype in (torch.float32, torch.float64))
    with plain_step():
        expected = learned(*given, dtype=torch.float32)[2]
    assert found["weight.up2"].dtype == np.float32
    assert 1e-8 < bench.apart(found, double, alive=False) < 4 * bench.apart(expected, double, alive=False) < 1e-3


@pytest.mark.thorough
def test_threads_share_a_batch(bench):
    """Three threads that wait for each other at every update; with noise too. One whose numbers break stops all."""
    for net, rule in ((gle_net("symmetric"), dendritic()), (mirror(), dendritic(update=0.7 * ms))):
        given = (net, rule, rates(net, adam(1e-3)), shown(net, trials=28, steps=100))
        alone, shared = (learned(*given, batch=28, threads=threads)[2] for threads in (1, 3))
        assert bench.apart(shared, alone, alive=False) < 1e-12
    net = le(hidden=latent_equilibrium(activation="linear"))
    with pytest.raises(lp.RunawayError):
        learned(net, dendritic(), sgd(3.0), shown(net, trials=28), batch=28, threads=3)


@pytest.mark.parametrize("threads", [1, 2])
def test_blocks_of_trials_add_up(threads, bench):
    """75 trials: three or four blocks, the gradients of which are summed; one trial less is something else."""
    net = gle_net("symmetric")
    trials, tensors, values = shown(net, trials=75, steps=60), leaves(net, net.draw(0)), net.draw(0)
    made = plan(net, dendritic(update="trial"), mse())
    inputs = {k: torch.as_tensor(v).transpose(0, 1) for k, v in trials.inputs.items()}
    weights = {n: tensors[f"{n}.weight"] for n in net.projections}
    kernel = GradedKernel(net, made, tensors, values.masks, threads=threads)
    outputs, _, found = kernel.gradients(weights, inputs)
    learner = OnlineLearner(net, made, leaves(net, values), values.masks)
    expected_outputs, _ = learner.run(inputs, torch.zeros(1, 75, 3).double(), torch.ones(60).double())
    expected = learner.gradients() | learner.other_gradients(tensors)
    torch.testing.assert_close(outputs, expected_outputs, rtol=1e-12, atol=1e-13)
    assert bench.apart(found, expected, alive=False) < 1e-12
    fewer = kernel.gradients(weights, {k: x[:, :-1] for k, x in inputs.items()})[2]
    assert bench.apart(fewer, expected, alive=False) > 1e-4


def test_memory_does_not_grow_with_the_trial():
    net = le()
    learner = TorchLearner(net, net.draw(1), dendritic(), mse(), sgd(1e-3), batch=5)

    def held(steps):
        learner.train(shown(net, steps=steps))
        return {key: sum(x.numel() for x in memory.values()) for key, memory in learner.online.memories.items()}

    assert held(50) == held(500)


def test_divergence_names_the_first_step_and_population():
    net = le(hidden=latent_equilibrium(activation="linear"))

    def complaint():
        with pytest.raises(lp.RunawayError) as caught:
            learned(net, dendritic(), sgd(3.0), shown(net))
        return str(caught.value)

    found = complaint()
    with plain_step():
        assert found == complaint()
    learned(net, dendritic(), sgd(1e-3), shown(net))  # the negative twin: nothing to complain about


REFUSED = {
    "lif spikes": lambda: lp.Network(dt=1 * ms, sense=lp.Input(3), rec=lp.Population(2, lif()),
                                     projections=[lp.Projection("sense", "rec")]),
    "has several delays": lambda: changed(le(), up2={"delay": lp.axonal(np.arange(SIZES[1]) * 0.1 * ms)}),
    "is a convolution": lambda: lp.Network(
        dt=1 * ms, sense=lp.Input(9, "currents"), out=lp.Population(4, graded_readout()),
        projections=[lp.Projection("sense", "out", weight=convolution((1, 3, 3), 1, 2), plastic=False)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_why_not(reason):
    assert reason in why_not_graded(REFUSED[reason]())
    assert why_not_graded(le()) is None
