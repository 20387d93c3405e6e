"""Projections of few synapses: whatever runs them one by one finds what it finds with a matrix that has zeros."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from brian2 import ms

from localplast.backends.c import source
from localplast.backends.c import sparse as few_synapses
from localplast.backends.torch.learner import TorchLearner
from localplast.backends.torch.synapses import as_matrix
from localplast.learning.optimise import adam
from localplast.models import alif, leaky_readout, lif
from localplast.network import Input, Network, Population, Projection, axonal, dendritic, normal, synaptic
from localplast.network.short_term import depression
from localplast.program import arrays, forward
from localplast.program.arrays import Dense, Sparse
from localplast.rules import bptt, eprop
from localplast.rules import dendritic as dendritic_rule
from localplast.task import Trials
from localplast.task.loss import mse

CHANNELS, SIZE, OUTPUTS = 8, 13, 6
#: A delay for every neuron.
EACH = np.arange(SIZE) % 5 * ms


def holes(pre, post, share=0.17, seed=0):
    """A mask with neurons that send to nobody, or hear nobody: the first, some in between, the last."""
    mask = np.random.default_rng(seed).random((pre, post)) < share
    mask[[0, pre // 2, -1]] = mask[:, [0, 3, -1]] = False
    mask[1, 2] = True
    return mask


def one(pre, post):
    """A single synapse, to the last neuron."""
    mask = np.zeros((pre, post), bool)
    mask[pre // 2, -1] = True
    return mask


def scattered(pre, post):
    """Every neuron sends to two others, or to one of few."""
    mask = np.zeros((pre, post), bool)
    mask[np.arange(pre)[:, None], (np.arange(pre)[:, None] * 5 + ([1, 4] if post > 10 else [1])) % post] = True
    return mask


MASKS = {"holes": holes, "one": one, "scattered": scattered, "none": lambda pre, post: np.zeros((pre, post), bool)}


def network(mask=holes, rec=lif, late=(None, None, None), neurons=None, **options):
    """Inputs, recurrent neurons and readouts; ``late``: the delays of the projections."""
    ends = ("cues", CHANNELS, "rec", SIZE), ("rec", SIZE, "rec", SIZE), ("rec", SIZE, "out", OUTPUTS)
    projections = [
        Projection(
            pre,
            post,
            weight=normal(8.0),
            mask=mask(m, n) & ~(np.eye(m, n, dtype=bool) & (pre == post)),
            delay=delay,
            **(options if pre == post == "rec" else {}),
        )
        for (pre, m, post, n), delay in zip(ends, late, strict=True)
    ]
    kinds = Population(SIZE, rec(), **(neurons or {})), Population(OUTPUTS, leaky_readout())
    return Network(dt=1 * ms, cues=Input(CHANNELS), rec=kinds[0], out=kinds[1], projections=projections)


def result(bench, net, few, engine, *, learned=(), dtype=torch.float64, threads=1):
    """What an engine says, and the gradients of it, with ``few`` synapses one by one or in matrices."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "SMALLEST", 1 if few else np.inf)
        tensors, masks = bench.prepare(net, learned, dtype)
        inputs = bench.spikes_in(net, trials=9, steps=30, share=0.4)
        if engine == "c":
            found = bench.by_kernel(net, tensors, masks, inputs, learned, threads=threads)
        else:
            found = bench.by_twin(net, tensors, masks, inputs, alive=False)
        found = {k: x for k, x in found.items() if not k.endswith("sum")}
        return {k: x.detach() for k, x in found.items()}, bench.gradients(found, tensors)


def same(bench, net, exact=1e-12, engines=("torch", "c"), alive=True, **options):
    """Assert that engines find with few synapses what the plain step finds with matrices."""
    oracle = result(bench, net, False, "torch", **options)
    assert not alive or all(bench.size(x) > 1e-6 for part in oracle for x in part.values()), "nothing to compare"
    for engine in engines:
        found = result(bench, net, True, engine, **options)
        assert all(torch.equal(x, oracle[0][k]) for k, x in found[0].items() if k.endswith("count"))
        for mine, its in zip(found, oracle, strict=True):
            assert bench.apart(mine, its, None, least=1e-9) < exact, engine


@pytest.mark.parametrize("mask", MASKS)
def test_few_synapses_are_a_matrix_with_zeros(bench, mask):
    same(bench, network(MASKS[mask]), alive=mask in ("holes", "scattered"))


def test_in_single_precision_and_on_threads(bench):
    same(bench, network(scattered), exact=2e-5, dtype=torch.float32)
    same(bench, network(), threads=2)
    same(bench, network(), threads=5, engines=["c"])


def test_delays_stand_before_the_synapses_or_behind_them(bench):
    late = axonal(EACH[:CHANNELS]), dendritic(EACH), axonal(EACH)
    same(bench, network(late=late))


def test_delays_and_parameters_that_learn(bench):
    moving = {"trainable": (0 * ms, 20 * ms)}
    late = None, dendritic(np.linspace(1, 4, SIZE) * ms, **moving), axonal(2.5 * ms, **moving)
    learned = ("rec_rec.delay", "rec_out.delay", "rec.tau_mem", "rec.beta")
    same(bench, network(rec=alif, late=late), learned=learned)


def test_what_synapses_release(bench):
    same(bench, network(short_term=depression(0.4, 30 * ms)), alive=False)


def rates(bench):
    """Layers of rates, of which one pair hears few of each other."""
    ends = {"up2": (1, 2), "down2": (3, 2)}
    return bench.changed(
        bench.le("random"), **{n: {"mask": scattered(*(bench.layers[k] for k in pair))} for n, pair in ends.items()}
    )


def test_numbers_in_place_of_spikes(bench):
    same(bench, rates(bench), alive=False)


@pytest.mark.parametrize("engine", ["torch", "c"])
def test_a_neuron_too_far_is_noticed(bench, engine, monkeypatch):
    def shifted(mask):
        found = arrays.sparse(mask)
        return found and Sparse(found.pre, (found.post + 1) % mask.shape[1])

    monkeypatch.setattr(forward, "sparse", shifted)
    with pytest.raises(AssertionError):
        same(bench, network(scattered), engines=[engine])


#: What would leave out the first synapse of a row, forth, and the last one, back.
WRONG = {"forth": ("each_synapse", "q = start[i]", "q = start[i] + 1"), "back": ("SPARSE", "q++", "q += 2")}


@pytest.mark.parametrize("way", WRONG)
def test_a_synapse_left_out_is_noticed(bench, way, monkeypatch):
    name, right, wrong = WRONG[way]
    if way == "back":
        monkeypatch.setattr(source, name, source.SPARSE.replace(right, wrong))
    else:
        whole = few_synapses.each_synapse
        monkeypatch.setattr(few_synapses, name, lambda statement: whole(statement).replace(right, wrong))
    with pytest.raises(AssertionError):
        same(bench, network(scattered), engines=["c"])


def forms(net, **options):
    """How the weights of each projection lie."""
    spaces = forward.forward(net, net.draw(1), **options).spaces
    return {n: spaces[n].form for n in net.projections}


def test_only_where_it_is_less_work(monkeypatch):
    assert all(isinstance(f, Dense) for f in forms(network()).values())
    monkeypatch.setattr(arrays, "SMALLEST", 1)
    found = forms(network())
    assert all(isinstance(f, Sparse) for f in found.values())
    there = holes(SIZE, SIZE)
    np.testing.assert_array_equal([found["rec_rec"].pre, found["rec_rec"].post], np.nonzero(there))
    assert isinstance(forms(network(lambda m, n: holes(m, n, 0.5)))["rec_rec"], Dense)
    # synapses that are late each by itself, that are another projection's, or that errors do not come back through
    assert isinstance(forms(network(late=(None, synaptic(there * ms), None)))["rec_rec"], Dense)
    late = network(late=(None, dendritic(2 * ms), None))
    assert isinstance(forms(late)["rec_rec"], Sparse) and isinstance(forms(late, fixed=False)["rec_rec"], Dense)
    assert isinstance(forms(network(), feedback=["rec_out"])["rec_out"], Dense)


# --- learning ---------------------------------------------------------------------------------------------------------


def learned(bench, net, engine, rule, few, *, loss=None, batch=3, trials=None, **options):
    """What an engine has learned of six trials; all numbers of synapses as matrices."""
    optimiser = adam(0.05).with_rates(**dict.fromkeys(net.trainable, 1e-2))
    optimiser = replace(optimiser, decay=0.01, norm=0.5 if rule.update == "trial" else np.inf)
    loss = loss or mse()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "SMALLEST", 1 if few else np.inf)
        found = bench.course(engine, net, rule, loss, optimiser, trials or shown(max(6, batch)), batch=batch, **options)
    masks = found.learner.values.masks

    def whole(name, x):
        owner = name.partition(".")[2]
        return as_matrix(torch.as_tensor(x), masks[owner]) if owner in masks else torch.as_tensor(x)

    return found, {name: whole(name, x) for name, x in found.arrays.items()}


def shown(count=6, steps=30):
    rng = np.random.default_rng(2)
    return Trials({"cues": rng.random((count, steps, CHANNELS)) < 0.4}, rng.normal(size=(count, steps, OUTPUTS)))


def same_learning(bench, net, engine, rule, exact=1e-10, oracle="plain step", **options):
    """Assert that an engine learns of few synapses what the plain step learns in matrices."""
    found, mine = learned(bench, net, engine, rule, True, **options)
    expected, its = learned(bench, net, oracle, rule, False, **{k: v for k, v in options.items() if k != "threads"})
    assert bench.apart(mine, its, None, least=1e-9) < exact
    assert found.metrics == [pytest.approx(m, rel=1e-9, nan_ok=True) for m in expected.metrics]
    return found


@pytest.mark.parametrize("engine", ["plain adjoint", "adjoint in C"])
def test_optimisers_remember_few_synapses(bench, engine):
    bounds = np.linspace(-9, 0, SIZE * SIZE).reshape(SIZE, SIZE), np.linspace(1, 9, SIZE * SIZE).reshape(SIZE, SIZE)
    net = network(scattered, rec=alif, neurons={"trainable": {"tau_mem": (5 * ms, 50 * ms)}}, bounds=bounds)
    found = same_learning(bench, net, engine, bptt(), oracle="plain adjoint")
    learner = found.learner
    assert learner.state["rec_rec"]["m"].shape == (learner.values.masks["rec_rec"].sum(),)
    assert learner.numbers()["rec_rec"].shape == learner.arrays()["weight.rec_rec"].shape == (SIZE, SIZE)
    begun = learner.values.weights["rec_rec"]
    assert np.abs(learner.numbers()["rec_rec"] - begun)[begun != 0].min() > 1e-3


def test_what_is_resumed_goes_on(bench, monkeypatch):
    monkeypatch.setattr(arrays, "SMALLEST", 1)
    net, trials = network(scattered), shown()
    described = net, net.draw(1), bptt(), mse(), adam(0.05)
    whole, first, second = (TorchLearner(*described, batch=2) for _ in range(3))
    whole.train(trials)
    first.train(trials[:4])
    second.load(first.arrays())
    second.train(trials[4:])
    assert bench.apart(second.arrays(), whole.arrays(), None) == 0


#: Rules that carry traces forward, with what learns on which network.
FORWARD = {
    "traces": (eprop(update="trial"), {}),
    "every step": (eprop(update="step"), {}),
    "feedback that learns": (eprop(feedback="learned", update="step"), {}),
    "feedback of signs": (eprop(feedback="sign"), {}),
    "late": (eprop(), {"late": (axonal(EACH[:CHANNELS]), dendritic(EACH), None)}),
    "late, in every step": (eprop(update="step"), {"late": (axonal(EACH[:CHANNELS]), axonal(2 * ms), None)}),
    "delays that learn": (eprop(), {"late": (None, dendritic(EACH + 0.5 * ms, trainable=(0 * ms, 9 * ms)), None)}),
}


@pytest.mark.parametrize("how", FORWARD)
@pytest.mark.parametrize(("batch", "threads"), [(1, 1), (17, 2)])
def test_traces_of_few_synapses(bench, how, batch, threads):
    rule, options = FORWARD[how]
    net = network(scattered, **options)
    for engine in ("plain step", "traces in C"):
        options = {"threads": threads} if engine == "traces in C" else {}
        found = same_learning(bench, net, engine, rule, batch=batch, **options)
        spaces = found.learner.online.program.spaces
        assert all(isinstance(spaces[n].form, Sparse) for n in net.projections)


@pytest.mark.parametrize("batch", [1, 3])
def test_rates_of_few_synapses(bench, batch):
    net, trials = rates(bench), bench.shown(rates(bench), steps=60)
    found = same_learning(bench, net, "rates in C", dendritic_rule(update="step"), batch=batch, trials=trials)
    spaces = found.learner.online.program.spaces
    assert isinstance(spaces["up2"].form, Sparse) and isinstance(spaces["down2"].form, Sparse)


def test_a_trace_left_out_is_noticed(bench, monkeypatch):
    whole = few_synapses.each_synapse
    monkeypatch.setattr(few_synapses, "each_synapse", lambda *given: whole(*given).replace("start[h]", "start[h] + 1"))
    with pytest.raises(AssertionError):
        same_learning(bench, network(scattered), "traces in C", eprop(update="step"), batch=1)
