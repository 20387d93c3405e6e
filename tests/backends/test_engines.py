"""One contract for every engine that can learn: from one build of each, the same losses, gradients and weights."""

from types import SimpleNamespace

import numpy as np
import pytest
from brian2 import ms

import localplast as lp
from localplast.backends.brian2.learner import Brian2Learner
from localplast.backends.c.compile import missing
from localplast.backends.c.function import NetworkFunction
from localplast.backends.c.graded_call import GradedKernel
from localplast.backends.c.online_call import OnlineKernel
from localplast.backends.torch import learner as torch_learn
from localplast.backends.torch.learner import TorchLearner
from localplast.backends.torch.traces import OnlineLearner
from localplast.models import alif, latent_equilibrium, latent_equilibrium_output, leaky_readout
from localplast.models.layers import layered
from localplast.rules import dendritic, eprop

STEPS, UPDATES, BATCH = 40, 3, 2
SIZES = (4, 5, 3)


def spikes():
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
    cues, labels = rng.random((UPDATES * BATCH, STEPS, 6)) < 0.3, rng.integers(0, 3, UPDATES * BATCH)
    return net, lp.Trials({"cues": cues}, labels, np.full(STEPS, 1 / STEPS)), eprop(), lp.losses.cross_entropy()


def rates():
    """Neurons that are told by a teacher, and errors that come back."""
    rng = np.random.default_rng(4)
    net = layered(SIZES, latent_equilibrium(), latent_equilibrium_output(), feedback="symmetric")
    shape = (UPDATES * BATCH, STEPS)
    inputs = {name: rng.normal(size=(*shape, node.size)) for name, node in net.inputs.items()}
    inputs["teach"][:] = 1.0
    return net, lp.Trials(inputs, rng.normal(size=(*shape, SIZES[-1]))), dendritic(update="trial"), lp.losses.mse()


NETWORKS = {"spikes": spikes, "rates": rates}
PLAIN = dict.fromkeys(("why_not", "why_not_online", "why_not_graded"), lambda *args, **options: "to see the plain step")
FORWARD = {"adjoint_form": lambda *args, **options: None}


def in_torch(**patches):
    def learner(net, trials, *given):
        with pytest.MonkeyPatch.context() as patch:
            for name, function in patches.items():
                patch.setattr(torch_learn, name, function)
            return TorchLearner(net, net.draw(3), *given, lp.sgd(0.05), batch=BATCH)

    return learner


def in_brian2(target):
    def learner(net, trials, *given):
        return Brian2Learner(net, net.draw(3), *given, lp.sgd(0.05), trials, batch=BATCH, target=target)

    return learner


#: What is built, and what it has to be that learns there: of a Torch learner its kernel, or the plain step.
ENGINES = {
    ("spikes", "adjoint in C"): (in_torch(), NetworkFunction),
    ("spikes", "plain adjoint"): (in_torch(**PLAIN), type(None)),
    ("spikes", "traces in C"): (in_torch(**FORWARD), OnlineKernel),
    ("spikes", "Brian2"): (in_brian2("numpy"), None),
    ("spikes", "Brian2 in C++"): (in_brian2("cpp"), None),
    ("rates", "in C"): (in_torch(), GradedKernel),
    ("rates", "Brian2"): (in_brian2("numpy"), None),
}
MARKS = {
    "Brian2 in C++": pytest.mark.thorough,
    **dict.fromkeys(
        ("adjoint in C", "traces in C", "in C"), pytest.mark.skipif(missing() is not None, reason="no C compiler")
    ),
}


def trained(where, make, kind):
    """What a learner is at first, after one update and after all, and what it says of each."""
    net, trials, *given = NETWORKS[where]()
    learner = make(net, trials, *given)
    if isinstance(learner, TorchLearner):
        assert type(learner.online or learner.forward.kernel) is kind
    start, said, weights = learner.numbers(), [], []
    for k in range(UPDATES):
        said += learner.train(trials[k * BATCH : (k + 1) * BATCH])
        weights.append({name: np.array(w) for name, w in learner.numbers().items()})
    moved = [{p.name: w[p.name] - start[p.name] for p in net.plastic} for w in weights]
    if isinstance(learner, Brian2Learner):
        learner.close()
    return SimpleNamespace(said=said, moved=moved)


@pytest.fixture(scope="module")
def oracles():
    """The plain step in Torch, whose traces go forward."""
    return {where: trained(where, in_torch(**PLAIN, **FORWARD), OnlineLearner) for where in NETWORKS}


@pytest.fixture(
    scope="module",
    params=[pytest.param(engine, marks=MARKS.get(engine[1], ()), id=", ".join(engine)) for engine in ENGINES],
)
def learned(request, oracles):
    """What an engine learned, and what it had to learn."""
    where, _ = request.param
    return trained(where, *ENGINES[request.param]), oracles[where]


def error(found, expected):
    assert found.keys() == expected.keys() and all(np.abs(w).max() > 1e-6 for w in expected.values())
    return max(np.abs(found[name] - w).max() / np.abs(w).max() for name, w in expected.items())


def test_the_first_update_is_the_gradient_of_every_engine(learned):
    found, expected = learned
    assert error(found.moved[0], expected.moved[0]) < 1e-9


def test_weights_go_the_same_way(learned):
    found, expected = learned
    assert error(found.moved[-1], expected.moved[-1]) < 1e-8
    assert error(expected.moved[-1], expected.moved[0]) > 0.1  # there was more to learn than the first update


def test_losses_are_the_same(learned):
    found, expected = learned
    for one, other in zip(found.said, expected.said, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-9)
        assert one["rate"] == pytest.approx(other["rate"], rel=1e-12, nan_ok=True)  # as many spikes


@pytest.mark.parametrize("where", NETWORKS)
def test_networks_are_alive(where, oracles):
    """And the comparisons above see an error of a millionth."""
    oracle = oracles[where]
    assert where == "rates" or all(5 < said["rate"] < 250 for said in oracle.said)
    planted = {name: w * (1 + 1e-6 * (name == list(oracle.moved[0])[0])) for name, w in oracle.moved[0].items()}
    assert error(planted, oracle.moved[0]) > 1e-7
