"""What an optimiser does between trials: the statements that it is within them, and the same numbers by hand."""

import weakref

import numpy as np
import pytest
import torch
from brian2 import ms

from localplast.backends.torch.learner import TorchLearner
from localplast.backends.torch.optimise import Optimise
from localplast.backends.torch.step import leaves
from localplast.learning.optimise import adam, madgrad, momentum, rmaxprop, rmsprop, sgd
from localplast.learning.rule import feedback_alignment
from localplast.models import alif, leaky_readout
from localplast.models.latent_equilibrium import latent_equilibrium, latent_equilibrium_output
from localplast.models.layers import layered
from localplast.network import Input, Network, Population, Projection, axonal, dendritic, normal, synaptic
from localplast.program import arrays
from localplast.program.arrays import Life, Sparse, at
from localplast.program.instructions import Every, Map
from localplast.program.learn import plan
from localplast.program.online import online
from localplast.program.update import between
from localplast.rules import bptt, eprop
from localplast.rules import dendritic as dendritic_rule
from localplast.task import Trials
from localplast.task.loss import mse

OPTIMISERS = {
    "sgd": sgd(0.03),
    "momentum": momentum(0.02),
    "rmsprop": rmsprop(0.02).clipped(0.3),
    "rmaxprop": rmaxprop(0.02, decay=0.9).halved(3),
    "adam": adam(0.02).decayed(0.01),
    "madgrad": madgrad(0.02),
    "frozen": adam(0.02).decayed(0.01).with_rates(rec_rec=0),
    "a rate of its own": adam(0.02).with_rates(rec_rec=0.3).with_constant("beta1", rec_rec=0.5),
}
CUES, N = 4, 6
MASK = np.random.default_rng(5).random((N, N)) < 0.5
#: Zero does not lie within the bounds where there is no synapse.
LOW = np.where(MASK, np.linspace(-0.1, -0.02, N * N).reshape(N, N), 0.05)
DELAYS = {
    "one": axonal(2.3 * ms, trainable=(1 * ms, 2.4 * ms)),
    "of sources": axonal(np.linspace(1.2, 3.1, N) * ms, trainable=(1 * ms, 3.2 * ms)),
    "of targets": dendritic(np.linspace(1.2, 3.1, N) * ms, trainable=(1 * ms, None)),
    "of synapses": synaptic(np.linspace(1.2, 3.1, N * N).reshape(N, N) * ms, trainable=(None, 3.2 * ms)),
}


def network(delay=None, tau=20 * ms, **options):
    return Network(
        dt=1 * ms, cues=Input(CUES), rec=Population(N, alif(), {"tau_mem": tau}, {}, {"tau_mem": (15 * ms, 20.5 * ms)}),
        out=Population(2, leaky_readout()),
        projections=[
            Projection("cues", "rec", weight=normal(5.0)), Projection("rec", "out", weight=normal(2.0)),
            Projection("rec", "rec", weight=normal(1.0), mask=MASK, autapses=True, delay=delay, **options),
        ],
    )  # fmt: skip


def maps(program):
    """What an optimiser does, by the space that it does it in."""
    body = next(s for s in program.step if isinstance(s, Every) and s.when != "trial").body
    return {s.space: s for s in body if isinstance(s, Map)}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_statements_are_those_within_a_trial(name):
    net = Network(
        dt=1 * ms, cues=Input(CUES), rec=Population(N, alif()), out=Population(2, leaky_readout()),
        projections=[
            Projection("cues", "rec"), Projection("rec", "out"),
            Projection("rec", "rec", mask=MASK, autapses=True, bounds=(LOW, 1.0)),
        ],
    )  # fmt: skip
    values, optimiser = net.draw(1), OPTIMISERS[name]
    rule = feedback_alignment(eprop(update="step"), "learned")
    learned = plan(net, rule, mse(), values=values)
    weights = [f"{p.name}.weight" for p in net.plastic]
    within, more = online(net, values, learned, learned=weights, optimiser=optimiser, masks=values.masks)
    program, numbers = between(net, values, optimiser, learned.learned)
    assert list(learned.learned) == ["rec_out"]
    assert maps(program) == maps(within) and len(maps(program)) == 3
    assert all(np.array_equal(more[n], x) for n, x in numbers.items())
    assert maps(between(net, values, optimiser)[0]) != maps(within)  # feedback is told


@pytest.mark.parametrize("shared", [True, False])
def test_parameters_are_those_within_a_trial(shared):
    b = {"b": 0.1 if shared else np.linspace(0, 0.1, 3)}
    net = layered(
        (2, 3, 2), latent_equilibrium(), latent_equilibrium_output(), parameters={"hidden1": b},
        trainable={"hidden1": {"b": (-1, None)}},
    )  # fmt: skip
    values, optimiser = net.draw(1), adam(0.02).decayed(0.1).with_rates(**{"hidden1.b": 0.5})
    learned = plan(net, dendritic_rule(), mse(), values=values)
    names = ["hidden1.b", *(f"{p.name}.weight" for p in net.plastic)]
    within, _ = online(net, values, learned, learned=names, optimiser=optimiser, masks=values.masks)
    space = "(one)" if shared else "hidden1"
    found, expected = maps(between(net, values, optimiser)[0])[space], maps(within)[space]
    summed = at("hidden1.b.gradient" if shared else "hidden1.learn.gradient_b")
    lets = tuple((n, e.xreplace({at("hidden1.b.gradient"): summed})) for n, e in found.lets)
    assert (lets, found.lines) == (expected.lets, expected.lines)


def by_hand(w, state, g, k, *, rate, decay=0.0, low=-np.inf, high=np.inf, exists=1.0):
    """Adam with decay, bounds and a mask."""
    m, s = 0.9 * state["m"] + 0.1 * g, 0.999 * state["s"] + 0.001 * g**2
    new = w - rate * (m / (1 - 0.9**k)) / (np.sqrt(s / (1 - 0.999**k)) + 1e-8) - decay * w
    return np.clip(new, low, high) * exists, {"m": m, "s": s}


def array_of(name):
    return name if "." in name else f"{name}.weight"


@pytest.mark.parametrize("few", [False, True])
@pytest.mark.parametrize("delay", DELAYS)
def test_numbers_are_those_by_hand(delay, few, monkeypatch):
    """Weights, bounded and masked, a parameter of all or of each, delays of every kind; three updates."""
    if few:
        monkeypatch.setattr(arrays, "SMALLEST", 1)
        monkeypatch.setattr(arrays, "FEW", 1.0)
    tau = 20 * ms if delay == "one" else 20 * ms * np.linspace(0.8, 1, N)
    net = network(DELAYS[delay], tau, bounds=(LOW, 0.1))
    values = net.clip(net.draw(1))
    optimiser = adam(0.1).decayed(0.01).with_rates(**{"rec.tau_mem": 0.02, "rec_rec.delay": 4.0, "cues_rec": 0})
    update = Optimise(net, values, optimiser, leaves(net, values), {})
    assert isinstance(update.program.spaces["rec_rec"].form, Sparse) is few
    mine = {p.name: values.weights[p.name] for p in net.plastic} | {n: values.other(n) for n in net.trainable}
    states = {n: {k: np.zeros(np.shape(x)) for k in "ms"} for n, x in mine.items()}
    limits = {n: dict(zip(("low", "high"), net.limits(n), strict=True)) for n in net.trainable}
    limits |= {"rec_rec": {"low": LOW, "high": 0.1, "exists": MASK, "decay": 0.01}, "rec_out": {"decay": 0.01}}

    def laid(n, x):
        return torch.tensor(x[MASK] if few and n == "rec_rec" else x)

    learning = {array_of(n): laid(n, x) for n, x in mine.items()}
    learning |= {f"{n}.optimiser.{k}": laid(n, x) for n, kept in states.items() for k, x in kept.items()}
    dice = np.random.default_rng(3)
    for k in (1, 2, 3):
        grads = {n: np.asarray(dice.normal(size=np.shape(x))) for n, x in mine.items()}
        learning |= update(learning, {n: laid(n, g) for n, g in grads.items()}, share=0.3, update=k)
        grads["rec_rec"] *= MASK
        for n, g in grads.items():
            new, states[n] = by_hand(mine[n], states[n], 0.3 * g, k, rate=optimiser.rate(n), **limits.get(n, {}))
            mine[n] = mine[n] if n == "cues_rec" else new
    for n, x in mine.items():
        expected = {array_of(n): x} | {f"{n}.optimiser.{k}": state for k, state in states[n].items()}
        for array, number in expected.items():
            np.testing.assert_allclose(learning[array], laid(n, number), rtol=1e-12, atol=1e-15, err_msg=array)
    w = mine["rec_rec"]
    assert (w == 0.1).any() and (w == LOW).any() and not w[~MASK].any()  # bounds and mask have held something
    assert np.isin(mine["rec_rec.delay"], net.limits("rec_rec.delay")).any() or delay == "of targets"


def learner(net, rule, optimiser, **options):
    return TorchLearner(net, net.draw(1), rule, mse(), optimiser, **options)


def shown():
    dice = np.random.default_rng(2)
    return Trials({"cues": dice.random((2, 20, CUES)) < 0.5}, dice.normal(size=(2, 20, 2)))


def test_numbers_keep_their_type():
    """Bounds, rates and the number of the update are of double precision."""
    rates = {"rec.tau_mem": 0.02, "rec_rec.delay": 4.0}
    made = learner(
        network(DELAYS["of sources"], bounds=(LOW, 0.1)), bptt(), adam(0.05).with_rates(**rates), dtype=torch.float32
    )
    before = {n: x.clone() for n, x in made.learning.items()}
    made.train(shown())
    assert {x.dtype for x in made.learning.values()} == {torch.float32}
    assert {n: x.shape for n, x in made.learning.items()} == {n: x.shape for n, x in before.items()}
    assert all(not torch.equal(x, before[n]) for n, x in made.learning.items())


def test_a_checkpoint_has_the_names_that_it_had():
    net, optimiser = network(DELAYS["one"]), adam(0.05).with_rates(**{"rec.tau_mem": 0.02, "rec_rec.delay": 4.0})
    weights, others = ["cues_rec", "rec_out", "rec_rec"], ["rec.tau_mem", "rec_rec.delay"]
    states = {f"{k}.{n}" for n in (*weights, *others) for k in "ms"}
    expected = {f"weight.{n}" for n in weights} | {f"value.{n}" for n in others} | states | {"updates"}
    assert set(learner(net, bptt(), optimiser).arrays()) == expected
    plain = Network(
        dt=1 * ms, cues=Input(CUES), rec=Population(N, alif()), out=Population(2, leaky_readout()),
        projections=[Projection("cues", "rec"), Projection("rec", "out")],
    )  # fmt: skip
    with_feedback = learner(plain, feedback_alignment(eprop(), "learned"), sgd(0.1))
    assert set(with_feedback.arrays()) == {"weight.cues_rec", "weight.rec_out", "feedback.rec_out", "updates"}


def test_gradients_are_let_go():
    """Else every learner would hold as much again as its weights."""
    made = learner(network(), bptt(), sgd(0.05).with_rates(**{"rec.tau_mem": 0.02}))
    grads = {n: torch.ones_like(made.weights[n]) for n in made.plastic} | {"rec.tau_mem": torch.ones(())}
    found = [weakref.ref(g) for g in grads.values()]
    changed = made.optimise(made.learning, grads, share=1.0, update=1)
    made.follow(lambda name, _: changed[name])
    del grads
    assert not any(gone() is not None for gone in found)


def test_gradients_are_given_and_nothing_else_moves():
    program, numbers = between(network(DELAYS["one"]), network(DELAYS["one"]).draw(1), OPTIMISERS["adam"])
    given = {a.name for a in program.of(Life.GIVEN)}
    assert {n for n in given if n.endswith(".gradient")} == {
        "cues_rec.gradient", "rec_out.gradient", "rec_rec.gradient", "rec.tau_mem.gradient", "rec_rec.delay.gradient",
    }  # fmt: skip
    assert set(numbers) == {a.name for a in program.of(Life.FIXED)}
