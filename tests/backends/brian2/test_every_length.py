"""One Brian2 program for trials of every length and number: the same numbers as a program of their own, compiled once."""

import contextlib
import shutil
from dataclasses import replace

import brian2 as b2
import numpy as np
import pytest
from brian2 import ms

import localplast as lp
from localplast.backends.brian2 import session as sessions
from localplast.backends.brian2.learner import Brian2Learner, block_for, gradient
from localplast.backends.brian2.session import session
from localplast.backends.brian2.timing import Block
from localplast.errors import LocalplastError
from localplast.learning.optimise import adam
from localplast.models import alif, leaky_readout, lif
from localplast.network import depression
from localplast.rules import eprop
from localplast.task import Poisson, Task, Trials
from localplast.task.loss import cross_entropy, gumbel, mse, rate, reward

COMPILER = pytest.mark.skipif(not (shutil.which("g++") and shutil.which("make")), reason="no C++ compiler here")
#: Numbers and lengths of trials, one block after the other.
SHAPES = [(2, 30), (4, 12), (2, 50)]
RECORD = [("rec", "v"), ("rec", "spikes"), ("cues", "spikes")]


def network(delay=None, readouts=("out",), **onto_rec):
    inputs = {"dice": lp.Input(2, "currents")} if len(readouts) > 1 else {}
    return lp.Network(
        dt=1 * ms, cues=lp.Input(6), **inputs,
        rec=lp.Population(8, alif(beta=0.3, tau_ref=2 * ms), initial={"v": np.linspace(0.1, 0.9, 8)}),
        **{name: lp.Population(1 if name == "value" else 2, leaky_readout()) for name in readouts},
        projections=[
            lp.Projection("cues", "rec", weight=lp.normal(2.0, mean=1.0), **onto_rec),
            lp.Projection("rec", "rec", delay=delay), *(lp.Projection("rec", name) for name in readouts),
        ],
    )  # fmt: skip


def trials(number, steps, target="trajectory"):
    rng = np.random.default_rng(steps)
    raster, weight = rng.random((number, steps, 6)) < 0.2, np.full(steps, 1 / steps)
    if target == "trajectory":
        return Trials({"cues": raster}, rng.normal(size=(number, steps, 2)), weight)
    return Trials({"cues": raster}, rng.integers(0, 2, number), weight)


def given_as_rates(number, steps):
    """The rates of a trial change once: segments are as long as trials need them."""
    return Trials({"cues": Poisson(np.random.default_rng(steps).uniform(0, 300, (number, 2, 6)), steps // 2)})


def rewarded(number, steps):
    given, rng = trials(number, steps, "labels"), np.random.default_rng(steps)
    weight = np.where(np.arange(steps) == 6, 1.0, 0.0)
    return Trials({**given.inputs, "dice": gumbel(rng, (number, steps, 2))}, given.target, weight)


# --- presented --------------------------------------------------------------------------------------------------------

PRESENTED = {
    "without a gap": (network(), trials),
    "with a gap": (network(lp.axonal(4 * ms)), trials),
    "short-term plasticity": (network(lp.axonal(4 * ms), short_term=depression(0.4, 50 * ms)), trials),
    "rates": (network(), given_as_rates),
    "rates, with a gap": (network(lp.axonal(4 * ms)), given_as_rates),
}


def fresh(net, example, target="numpy"):
    return session(target, net, net.draw(0), block_for(net, example), example, request=RECORD)


def seen(results):
    return {"v": results.state("rec", "v"), "rec": results.raster("rec", 8), "cues": results.raster("cues", 6)}


@pytest.mark.sampled(2, 1)
@pytest.mark.parametrize("kind", PRESENTED)
def test_a_session_presents_trials_of_every_length_and_number(kind):
    net, given = PRESENTED[kind]
    running = fresh(net, given(*SHAPES[0]))
    for shape in (*SHAPES, SHAPES[0]):
        found, alone = (seen(one.run(given(*shape), seed=3)) for one in (running, fresh(net, given(*shape))))
        assert found["v"].shape == (*shape, 8) and found["rec"].any() and found["cues"].any()
        for name, expected in alone.items():
            np.testing.assert_array_equal(found[name], expected)


def test_a_session_that_keeps_its_first_length_is_found_out(monkeypatch):
    net, given = network(lp.axonal(4 * ms)), trials(2, 50)
    running, expected = fresh(net, trials(2, 30)), fresh(net, given).run(given).state("rec", "v")
    monkeypatch.setattr(Block, "numbers", lambda self, dt: {"_steps": 30, "_period": 34, "_duration": 0.03})
    assert not np.array_equal(running.run(given).state("rec", "v"), expected)


# --- learned ----------------------------------------------------------------------------------------------------------

LOSS = mse() + rate(20, 1e-3)
LEARNED = {
    "batches, regularised": (network(), eprop(), LOSS, {"batch": 2}, trials),
    "batches, with a gap": (network(lp.axonal(4 * ms)), eprop(), LOSS, {"batch": 2}, trials),
    "every step": (network(lp.axonal(4 * ms)), eprop(update="step"), mse(), {}, trials),
    "every 7 ms": (network(), eprop(update=7 * ms), mse(), {}, trials),
    "reward": (network(None, ("policy", "value")), eprop(), reward(3 * ms), {}, rewarded),
}


def learner(net, rule, loss, options, example, target="numpy"):
    return Brian2Learner(net, net.draw(1), rule, loss, adam(0.01), example, target=target, **options)


@pytest.mark.sampled(2, 1)
@pytest.mark.parametrize("kind", LEARNED)
def test_a_learner_goes_on_where_another_stopped_whatever_the_length(kind):
    """As a run that is resumed: what was learned is handed on to a learner made for other trials."""
    *described, given = LEARNED[kind]
    one, arrays = learner(*described, given(*SHAPES[0])), None
    for shape in SHAPES:
        other = learner(*described, given(*shape))
        other.load(arrays or one.arrays())
        np.testing.assert_equal(one.train(given(*shape)), other.train(given(*shape)))
        before, arrays = arrays or {}, other.arrays()
        for name, expected in arrays.items():
            np.testing.assert_array_equal(one.arrays()[name], expected)
            assert not name.startswith("weight.cues") or not np.array_equal(before.get(name), expected)


def test_labels_and_trajectories_are_learned_by_one_program():
    labels = trials(2, 30, "labels")
    shares = replace(labels, target=np.repeat(np.eye(2)[labels.target][:, None], 30, 1))
    for one, other in ((labels, shares), (shares, labels)):
        running = learner(network(), eprop(), cross_entropy(), {}, one)
        again = learner(network(), eprop(), cross_entropy(), {}, other)
        running.train(one), again.train(one)
        np.testing.assert_array_equal(running.numbers()["rec_out"], again.numbers()["rec_out"])


def grows(update, batch, seed):
    """Every second update has longer trials."""
    return trials(batch, 12 + 5 * (update // 2))


def test_a_run_whose_trials_grow_is_resumed(tmp_path):
    """Updates that run at a stretch are cut where the length changes."""
    task, how = (
        Task("grows", grows, testing=None),
        dict(rule=eprop(), optimiser=adam(0.01), backend="brian2", target="numpy", test=0),
    )
    at_a_stretch = lp.run(network(), task, updates=6, **how)
    one_by_one = lp.run(network(), task, updates=6, test_every=1, **how)
    lp.run(network(), task, updates=3, path=tmp_path / "run", **how)
    resumed = lp.run(network(), task, updates=6, path=tmp_path / "run", resume=True, **how)
    for other in (one_by_one, resumed):
        for name in ("cues_rec", "rec_out"):
            np.testing.assert_array_equal(at_a_stretch[name].weight, other[name].weight)
        np.testing.assert_array_equal(at_a_stretch["metrics"].loss, other["metrics"].loss)


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kinds", "words"),
    [((trials, given_as_rates), "rates, and was an array"), ((given_as_rates, trials), "an array, and was rates")],
)
def test_an_input_of_another_kind_is_refused(kinds, words):
    first, second = (kind(2, 30) for kind in kinds)
    with pytest.raises(
        LocalplastError, match=f"^input 'cues' is {words} when the program was made; give it in one form"
    ):
        fresh(network(), first).run(second)


def test_rows_of_another_size_never_reach_a_program():
    wide = Trials({"cues": np.zeros((1, 5, 7), bool)})
    with pytest.raises(LocalplastError, match=r"^signal_cues: rows of shape \(7,\) do not fit .* made for \(6,\)$"):
        fresh(network(), trials(2, 30)).run(wide)


def test_half_a_batch_is_refused():
    running = learner(network(), eprop(), mse(), {"batch": 2}, trials(2, 30))
    with pytest.raises(LocalplastError, match="^update 1: there are 3 trials; give batches of 2$"):
        running.train(trials(3, 40))


def test_delays_that_learn_move_after_each_batch():
    delay = lp.axonal(np.linspace(1, 3, 8) * ms, trainable=(1 * ms, 5 * ms))
    net, optimiser = network(delay), adam(0.01).with_rates(**{"rec_rec.delay": 1e-3})
    running = Brian2Learner(net, net.draw(1), eprop(), mse(), optimiser, trials(2, 30), batch=2)
    with pytest.raises(LocalplastError, match="^update 1: there are 4 trials; give 2 for each move of the delays$"):
        running.train(trials(4, 30))


# --- compiled ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def compilations(monkeypatch, tmp_path):
    """What is compiled, from an empty cache; in haste."""
    made, run = [], sessions.subprocess.run
    monkeypatch.setitem(b2.prefs, "codegen.cpp.extra_compile_args_gcc", ["-w", "-O0", "-std=c++11"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def counted(command, **options):
        made.extend(command[:1] if command[0] == "make" else [])
        return run(command, **options)

    monkeypatch.setattr(sessions.subprocess, "run", counted)
    return made


def relay(size=70):
    """As few objects as a program can do with: each compiles for a second. More neurons than are asked at once whether
    one of them spikes.
    """
    return lp.Network(
        dt=1 * ms, cues=lp.Input(6), rec=lp.Population(size, lif(), initial={"v": np.linspace(0.1, 0.9, size)}),
        projections=[lp.Projection("cues", "rec", weight=lp.normal(2.0, mean=1.0), delay=lp.axonal(4 * ms))],
    )  # fmt: skip


def relayed(example, target):
    net = relay()
    return session(target, net, net.draw(0), block_for(net, example), example, request=RECORD[1:2])


@COMPILER
def test_one_program_presents_every_length_and_number(compilations):
    """The second session is another call of the same process; the first is still open."""
    with contextlib.ExitStack() as stack:
        for made_for in SHAPES[:2]:
            running = stack.enter_context(contextlib.closing(relayed(trials(*made_for), "cpp")))
            for shape in SHAPES:
                given = trials(*shape)
                found, twin = (one.run(given).raster("rec", 70) for one in (running, relayed(given, "numpy")))
                assert found.shape == (*shape, 70) and found.any() and not found.all((0, 1)).any()
                np.testing.assert_array_equal(found, twin)
    assert compilations == ["make"]


@COMPILER
def test_another_network_is_another_program(compilations, monkeypatch):
    """So that the count above is one of compilations."""
    monkeypatch.setattr(
        sessions, "share_headers", lambda directory: (directory / "makefile").write_text("all:\n\ttouch main\n")
    )
    for size in (2, 3):
        net, given = relay(size), trials(1, 5)
        session("cpp", net, net.draw(0), block_for(net, given), given).close()
    assert compilations == ["make", "make"]


@COMPILER
@pytest.mark.thorough
@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[] if k == "batches, with a gap" else pytest.mark.slow) for k in LEARNED]
)
def test_one_program_learns_from_every_length_and_number(kind, compilations):
    *described, given = LEARNED[kind]
    ours, twin = (learner(*described, given(*SHAPES[0]), target) for target in ("cpp", "numpy"))
    with contextlib.closing(ours), contextlib.closing(learner(*described, given(*SHAPES[2]), "cpp")):
        for shape in SHAPES:
            ours.train(given(*shape)), twin.train(given(*shape))
            for name, expected in twin.arrays().items():
                np.testing.assert_allclose(ours.arrays()[name], expected, rtol=1e-9, atol=1e-12)
    assert compilations == ["make"]


@COMPILER
@pytest.mark.thorough
def test_batches_of_every_size_are_one_program(compilations):
    net, described = network(), (eprop(), LOSS)
    for shape in ((2, 30), (3, 20)):
        one, twin = (gradient(net, net.draw(1), trials(*shape), *described, target=t)[0] for t in ("cpp", "numpy"))
        for name, expected in twin.items():
            np.testing.assert_allclose(one[name], expected, rtol=1e-9, atol=1e-12)
    assert compilations == ["make"]


@COMPILER
@pytest.mark.slow
def test_a_threshold_that_draws_random_numbers_draws_them_once():
    """Else there would be half as many spikes: what is rare is rarely drawn twice."""
    model = lp.NeuronModel("dice", "dv/dt = -v/tau : 1", {"tau": 20 * ms, "p": 0.01}, "rand() < p", "v = 0")
    net = lp.Network(dt=1 * ms, cues=lp.Input(1), rec=lp.Population(64, model), projections=[])
    given = Trials({"cues": np.zeros((1, 2000, 1), bool)})
    running = session("cpp", net, net.draw(0), block_for(net, given), given, request=RECORD[1:2])
    with contextlib.closing(running):
        assert abs(running.run(given).raster("rec", 64).sum() - 1280) < 5 * np.sqrt(1280)


@COMPILER
@pytest.mark.slow
@pytest.mark.parametrize("kind", [k for k in PRESENTED if k != "with a gap"])
def test_one_program_presents_every_kind_of_input(kind, compilations):
    """Rates are drawn by each program's own dice: counts agree within five standard deviations."""
    net, given = PRESENTED[kind]
    with contextlib.closing(fresh(net, given(*SHAPES[0]), "cpp")) as running:
        for shape in SHAPES:
            found, expected = (seen(one.run(given(*shape))) for one in (running, fresh(net, given(*shape))))
            if "rates" in kind:
                counts = [float(one["cues"].sum()) for one in (found, expected)]
                assert abs(counts[0] - counts[1]) < 5 * np.sqrt(2 * counts[1])
            else:
                np.testing.assert_array_equal(found["rec"], expected["rec"])
                np.testing.assert_allclose(found["v"], expected["v"], rtol=0, atol=1e-12)
    assert compilations == ["make"]
