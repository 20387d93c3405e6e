"""One contract for every engine that can learn: the same losses, gradients and weights as the plain step.

A row is a network with what it learns, by which rule, from what; an engine is built for it once.
"""

import functools

import numpy as np
import pytest
from brian2 import ms

import localplast as lp
from localplast.backends.c.compile import missing
from localplast.backends.torch import gradient as torch_backend
from localplast.learning.optimise import adam, momentum, rmsprop, sgd
from localplast.models import alif, graded_readout, latent_equilibrium, latent_equilibrium_output, leaky_readout, lif
from localplast.models.circuit import circuit
from localplast.models.layers import layered
from localplast.neuron.surrogate import triangle
from localplast.rules import bptt, dendritic, eprop
from localplast.task.loss import branching, cross_entropy, mse

STEPS, TRIALS = 40, 6
needs_compiler = pytest.mark.skipif(missing() is not None, reason="no C compiler")

# --- spikes -----------------------------------------------------------------------------------------------------------


def spikes(bench):
    """Adaptation, refractoriness, a loop, a delay, and a rule that traces and an adjoint give alike."""
    rng = np.random.default_rng(4)
    model = alif(tau_adapt=30 * ms, tau_ref=2 * ms)
    net = lp.Network(
        dt=1 * ms,
        cues=lp.Input(6),
        rec=lp.Population(7, model, {"beta": np.linspace(0, 0.5, 7)}),
        out=lp.Population(3, leaky_readout()),
        projections=[
            lp.Projection("cues", "rec", weight=lp.normal(1.0, mean=0.2), delay=lp.axonal(np.arange(6) % 3 * ms)),
            lp.Projection("rec", "rec", weight=lp.normal(0.5)),
            lp.Projection("rec", "out"),
        ],
    )
    cues, labels = rng.random((TRIALS, STEPS, 6)) < 0.3, rng.integers(0, 3, TRIALS)
    return net, eprop(), cross_entropy(), sgd(0.05), lp.Trials({"cues": cues}, labels, np.full(STEPS, 1 / STEPS))


def parameters(bench):
    """Parameters and delays that learn, and a branching penalty, by automatic differentiation."""
    delay = np.random.default_rng([7, 7]).uniform(0, 6, 7)
    delay[::3] = np.floor(delay[::3])
    learned = {"tau_mem": (5 * ms, 50 * ms), "v_th": (0.1, 10)}
    net = lp.Network(
        dt=1 * ms,
        cues=lp.Input(5),
        rec=lp.Population(7, lif(surrogate=triangle(gamma=0.8)), trainable=learned),
        out=lp.Population(3, leaky_readout(), trainable={"tau_out": (5 * ms, 50 * ms)}),
        projections=[
            lp.Projection("cues", "rec", weight=lp.uniform(4.0, mean=0.7)),
            lp.Projection("rec", "rec", delay=lp.dendritic(delay * ms, trainable=(0 * ms, 20 * ms))),
            lp.Projection("rec", "out"),
        ],
    )
    rng = np.random.default_rng(2)
    trials = lp.Trials({"cues": rng.random((TRIALS, 50, 5)) < 0.25}, target=rng.integers(0, 3, TRIALS))
    optimiser = adam(0.05).with_rates(**{name: 0.01 for name in net.trainable})
    return net, bptt(), cross_entropy() + branching(0.01), optimiser, trials


def in_every_step(model, optimiser, loss, bench):
    """A neuron of each kind whose weights change in every step; rates of learning are of the size of its weights."""
    net, strength = bench.of(model), bench.models[model][1]
    trials = bench.trials_for(loss, 2, steps=60, size=1 / 60)
    return net, eprop(update="step"), loss, optimiser(strength), trials


STEPWISE = {
    f"{model}, {name}, {loss.name}": functools.partial(in_every_step, model, optimiser, loss)
    for name, optimiser in {"sgd": lambda s: sgd(0.02 * s), "adam": lambda s: adam(0.002 * s)}.items()
    for loss in (mse(), cross_entropy())
    for model in ("lif", "cuba_lif", "lif, refractory", "alif, refractory", "quadratic")
}

# --- rates ------------------------------------------------------------------------------------------------------------


def rates(bench):
    """Neurons that are told by a teacher, and errors that come back."""
    rng, sizes = np.random.default_rng(4), (4, 5, 3)
    net = layered(sizes, latent_equilibrium(), latent_equilibrium_output(), feedback="symmetric")
    inputs = {name: rng.normal(size=(TRIALS, STEPS, node.size)) for name, node in net.inputs.items()}
    inputs["teach"][:] = 1.0
    trials = lp.Trials(inputs, rng.normal(size=(TRIALS, STEPS, sizes[-1])))
    return net, dendritic(update="trial"), mse(), sgd(0.05), trials


BIASES = {name: {"b": (-0.2, 0.3)} for name in ("hidden1", "hidden2", "out")}


def lagging():
    """Synapses that learn from a trace of what arrived: what they are told is the target of a leaky potential."""
    model = lp.NeuronModel(
        name="leaky",
        equations="du/dt = (I - u)/tau : 1\n I : 1\n wanted : 1",
        parameters={"tau": 2 * ms},
        method="exponential_euler",
        output="u",
        receives="I",
        mismatch={"I": lp.Mismatch("wanted - u", of="u")},
    )
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


def sparse(bench, **changes):
    """Synapses missing, others bounded."""
    mask = np.random.default_rng(3).random((11, 14)) < 0.6
    bounded = (-0.3, np.where(np.arange(14) < 3, 0.2, np.inf))
    return bench.changed(bench.le(trainable=BIASES), up2={"mask": mask, "bounds": bounded, **changes})


def late(bench, **delays):
    return bench.changed(bench.le(), **{name: {"delay": lp.axonal(d * ms)} for name, d in delays.items()})


#: Networks, when their weights change, and by what.
GRADED = {
    "microcircuit": (lambda bench: circuit(bench.layers), "step", sgd(1e-2)),
    "LE": (lambda bench: bench.le(trainable=BIASES), "step", adam(1e-3)),
    "LE, random feedback": (lambda bench: bench.le("random"), "trial", momentum(0.1)),
    "LE, learned feedback": (lambda bench: bench.le("learned"), "step", sgd(1e-2).decayed(1e-3)),
    "LE, sparse": (sparse, 1 * ms, rmsprop(1e-3)),
    "LE, late": (lambda bench: late(bench, up2=0.3, up1=0.2), "step", sgd(1e-2)),
    "LE, a mirror": (lambda bench: bench.mirror(), 0.7 * ms, sgd(1e-2)),
    "a trace": (lambda bench: lagging(), "step", sgd(1e-2)),
    "GLE": (lambda bench: bench.gle("symmetric"), "step", adam(1e-3)),
    "GLE, learned feedback": (lambda bench: bench.gle("learned"), "trial", momentum(1e-2)),
}


def told(made, update, optimiser, bench):
    """A network of rates, learning in one batch."""
    net = made(bench)
    return net, dendritic(update=update), mse(), bench.rates(net, optimiser), bench.shown(net)


TOLD = {name: functools.partial(told, *case) for name, case in GRADED.items()}


# --- the contract -----------------------------------------------------------------------------------------------------

#: What is learned, how many trials at a time, and how exactly: by tests of what was learned too, if that is said.
ROWS = {
    "spikes": (spikes, None, {"batch": 2, "first": 1e-9, "last": 1e-8, "alive": 1e-6}),
    "rates": (rates, None, {"batch": 2, "first": 1e-9, "last": 1e-8, "alive": 1e-6}),
    "parameters": (parameters, 1e-8, {"batch": 3, "last": 1e-8, "said": 1e-10, "oracle": "plain adjoint"}),
    **{name: (make, None, {}) for name, make in STEPWISE.items()},
    **{name: (make, 1e-12, {"batch": 5, "first": 1e-12, "last": 1e-12, "said": 1e-12}) for name, make in TOLD.items()},
}
thorough = pytest.mark.thorough
#: By row and engine, and what is quick: of neurons two, of networks of rates every fourth.
TABLE = {
    ("spikes", "adjoint in C"): (needs_compiler,),
    ("spikes", "plain adjoint"): (),
    ("spikes", "traces in C"): (needs_compiler,),
    ("spikes", "Brian2"): (),
    ("spikes", "Brian2 in C++"): (thorough,),
    ("parameters", "adjoint in C"): (needs_compiler,),
    **{
        (name, "traces in C"): (needs_compiler, *[thorough] * (n not in (0, 1, 5, 6)))
        for n, name in enumerate(STEPWISE)
    },
    ("rates", "rates in C"): (needs_compiler,),
    ("rates", "Brian2"): (),
    **{(name, "rates in C"): (needs_compiler, *[thorough] * (n % 4 > 0)) for n, name in enumerate(TOLD)},
}


@pytest.mark.parametrize(
    "row, engine", [pytest.param(*key, marks=marks, id=", ".join(key)) for key, marks in TABLE.items()]
)
def test_an_engine_learns_what_the_plain_step_learns(row, engine, bench):
    make, tested, options = ROWS[row]
    net, rule, loss, optimiser, trials = described = make(bench)
    found, expected = bench.same_learning(engine, *described, **options)
    if rule.update == "step":
        assert found.updates == trials.steps * len(trials) // options.get("batch", 1)
    if tested:
        said = [one.learner.evaluate(trials)["loss"] for one in (found, expected)]
        assert said[0] == pytest.approx(said[1], rel=tested)
        assert all(bench.size(found.moved[-1][f"weight.{p.name}"]) > 1e-6 for p in net.plastic)
    if len(found.moved) > 1:
        assert bench.apart(found.moved[-1], found.moved[0]) > 0.1, "there is no more to learn than in the first update"


@pytest.mark.parametrize("row", ["spikes", "rates"])
def test_networks_are_alive(row, bench):
    """And the comparison above sees an error of a millionth."""
    make, _, options = ROWS[row]
    found = bench.course("plain step", *make(bench), batch=options["batch"])
    assert row == "rates" or all(5 < said["rate"] < 250 for said in found.metrics)
    first = found.moved[0]
    planted = {name: w * (1 + 1e-6 * (name == list(first)[0])) for name, w in first.items()}
    assert bench.apart(planted, first) > 1e-7


@needs_compiler
def test_a_gradient_alone_is_that_of_the_plain_step(monkeypatch, bench):
    net, rule, loss, _, trials = parameters(bench)
    plain, _ = torch_backend.gradient(net, net.draw(1), trials, rule, loss)
    monkeypatch.setattr(torch_backend, "WORTH_COMPILING", 0)
    monkeypatch.setattr(torch_backend, "run_forward", lambda *args, **kwargs: pytest.fail("the kernel should run"))
    fused, _ = torch_backend.gradient(net, net.draw(1), trials, rule, loss)
    assert {"rec.tau_mem", "rec.v_th", "out.tau_out", "rec_rec.delay"} <= plain.keys()
    assert bench.apart(fused, plain, None) < 1e-10


# --- what is seen -----------------------------------------------------------------------------------------------------

#: Networks of rates, and the same without something.
WITHOUT = {
    "weights that come back": (lambda bench: bench.le(), lambda bench: bench.le("learned")),
    "a mask": (sparse, lambda bench: sparse(bench, mask=None)),
    "bounds": (sparse, lambda bench: sparse(bench, bounds=None)),
    "a bias": (lambda bench: bench.le(trainable=BIASES), lambda bench: bench.le()),
    "a delay": (lambda bench: late(bench, up2=0.1), lambda bench: bench.le()),
}


def in_c(net, bench, optimiser=None, update="step"):
    """The weights that a kernel for rates ends with."""
    described = (net, dendritic(update=update), mse(), optimiser or bench.rates(net, sgd(0.1)), bench.shown(net))
    return bench.course("rates in C", *described, batch=5).arrays


@needs_compiler
@pytest.mark.sampled(2)
@pytest.mark.parametrize("what", WITHOUT)
def test_a_network_without_it_learns_something_else(what, bench):
    """The negative twin: the comparison above sees each of these."""
    found = [in_c(make(bench), bench)["weight.up3"] for make in WITHOUT[what]]
    assert np.abs(found[0] - found[1]).max() > 1e-6


@needs_compiler
def test_other_optimisers_and_times_of_update_learn_something_else(bench):
    cases = [(sgd(0.1), "step"), (sgd(0.101), "step"), (momentum(0.1), "step"), (sgd(0.1), 1 * ms), (sgd(0.1), "trial")]
    found = [in_c(bench.le(), bench, *case)["weight.up2"] for case in cases]
    assert all(np.abs(one - other).max() > 1e-6 for k, one in enumerate(found) for other in found[:k])
