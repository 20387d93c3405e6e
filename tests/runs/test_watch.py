"""A run watches its validation: rates that fall on a plateau, an end where the error is small enough."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

import localplast as lp
from localplast import protocols
from localplast.rules import eprop
from localplast.runs import fit
from localplast.runs.options import Options, Schedule
from localplast.runs.reached import reached
from localplast.runs.store import load_checkpoint, save_checkpoint
from localplast.runs.watch import Watched
from localplast.study.compare import compare
from localplast.study.report import at_the_end, table
from localplast.task.loss import mse

#: Losses that rise, fall by less than the threshold, stay, repeat, and are no numbers.
COURSES = {
    "random": 1 + 0.3 * np.random.default_rng(3).standard_normal(40),
    "slow": 2.0 * (1 - 0.8e-4) ** np.arange(30),
    "quick": 2.0 * (1 - 1.2e-4) ** np.arange(30),
    "constant": np.ones(12),
    "below zero": np.cumsum(-np.random.default_rng(4).random(20)) + 3 * np.random.default_rng(5).random(20),
    "not numbers": np.array([np.nan, np.inf, 2.0, np.nan, np.inf, 2.0, 1.0, np.nan]),
}


@pytest.mark.parametrize("patience, factor, threshold", [(2, 0.5, 1e-4), (0, 0.1, 0.0), (1, 0.9, 0.05)])
@pytest.mark.parametrize("course", COURSES)
def test_a_plateau_is_that_of_torch(course, patience, factor, threshold):
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    options = {"patience": patience, "factor": factor, "threshold": threshold}
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, **options, eps=0.0)
    plateau, watched = lp.Plateau(**options), Watched()
    for loss in COURSES[course].tolist():
        scheduler.step(loss)
        watched = plateau.after(watched, loss)
        assert watched.factor == optimiser.param_groups[0]["lr"]


# --- rates that fall while a run goes on ------------------------------------------------------------------------------


def learning(runs, kind, rate, **options):
    """A run of this kind that has not begun, with Adam at this rate."""
    given = {"loss": None, "batch": 2, "optimiser": lp.adam(1e-2), "task": runs.task} | runs.kinds[kind]() | options
    net, own = given["net"], given["optimiser"]
    optimiser = lp.adam(rate).with_rates(**own.rates)
    where = Options(backend=given["backend"], target="numpy")
    schedule = Schedule(batch=given["batch"], updates=4)
    return fit.Fit(net, given["task"], net.draw(0), given["rule"], optimiser, given["loss"], schedule, where)


def learned(training, start, factor, update):
    """All that a learner knows, a second update after ``start``."""
    training.learner.load(start)
    training.learner.scale(factor)
    training.learner.train(training.rule.shown(training.net, training.drawn(update)))
    return training.learner.arrays()


def same(one, other):
    return all(np.array_equal(one[name], other[name]) for name in other)


def test_rates_fall_without_anything_made_anew(kind, runs):
    """To the bit as with an optimiser of that rate, in every array that is kept; and they rise again."""
    training, slow = (learning(runs, kind, rate) for rate in (1e-2, 2.5e-3))
    try:
        training.learner.train(training.rule.shown(training.net, training.drawn(0)))
        start = training.learner.arrays()
        fast = learned(training, start, 1.0, 1)
        fallen, expected = learned(training, start, 0.25, 1), learned(slow, start, 1.0, 1)
        assert same(fallen, expected) and not same(fast, expected)
        assert same(learned(training, start, 1.0, 1), fast)
    finally:
        training.close()
        slow.close()


@pytest.mark.parametrize("made", [lp.sgd, lp.momentum, lp.rmsprop, lp.adam, lambda rate: lp.rmaxprop(rate, decay=0.9)])
def test_what_falls_is_the_rate_of_every_optimiser(made):
    half = made(1e-2).clipped(1.0).decayed(0.1).halved(10).with_rates(rec_out=2.0).scaled(0.5)
    assert half == made(5e-3).clipped(1.0).decayed(0.1).halved(10).with_rates(rec_out=2.0)


def test_an_optimiser_that_remembers_its_rate():
    squared = replace(lp.sgd(1e-2), statements=(("w", "w - learning_rate**2*g"),))
    for optimiser in (lp.madgrad(1e-3), squared):
        with pytest.raises(lp.LocalplastError, match="remembers what its learning rate was.*such as adam"):
            optimiser.scaled(0.5)


# --- a run that watches -----------------------------------------------------------------------------------------------


@pytest.fixture
def scripted(monkeypatch):
    """Let what trials tell be a script; gives the trials that were asked for."""

    def play(**script):
        asked = []

        def judged(self, trials, numbers=None):
            number = len(asked)
            asked.append(trials)
            return {"loss": 1.0, "accuracy": 0.5} | {name: values[number] for name, values in script.items()}

        monkeypatch.setattr(fit.Fit, "judged", judged)
        return asked

    return play


def test_a_run_lets_its_rates_fall(runs, scripted):
    """Untrained weights are tested, and do not count; rates fall after the third look that is no better."""
    scripted(loss=[0.5, 9.0, 9.0, 9.0, 9.0, 8.0, 8.0, 8.0, 8.0])
    tree = runs.learn("an adjoint", updates=8, watch=lp.Plateau(of="test"), record=())
    metrics = tree["metrics"]
    np.testing.assert_array_equal(metrics["plateau_loss"][1:], metrics["test_loss"][1:])
    assert metrics["plateau_factor"].values[1:].tolist() == [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25]
    assert tree.attrs["watch"] == "times 0.5 on plateaus of the test loss"


def test_what_falls_reaches_the_weights(runs, scripted):
    """A run whose rates fall after the second update is one at that rate from there."""
    scripted(loss=[1.0] * 9)
    options = {"optimiser": lp.sgd(0.1), "updates": 3, "record": {"cues_rec.weight": {"every": 1}}}
    held = runs.learn("an adjoint", **options)["cues_rec"]["weight"].values
    fallen = runs.learn("an adjoint", watch=lp.Plateau(patience=0, of="test", factor=0.1), **options)
    weight = fallen["cues_rec"]["weight"].values
    np.testing.assert_array_equal(weight[:2], held[:2])
    np.testing.assert_allclose(weight[2] - weight[1], 0.1 * (held[2] - held[1]), rtol=1e-9, atol=1e-15)
    assert np.any(weight[2] != weight[1])


def test_the_published_rule_of_stopping(runs, scripted):
    """Every ten updates one batch; eight more where it is good; the end where their mean is, too."""
    asked = scripted(accuracy=[0.5, 0.9, 0.95, 0.92, 0.96, 0.935, 0.8])
    watch = lp.Stop(error=0.07)
    tree = runs.learn("an adjoint", updates=90, test_every=90, watch=watch, batch=4, record=())
    metrics = tree["metrics"].to_dataset().load()
    assert metrics["update"][-1] == 30 and float(metrics["test_accuracy"][-1]) == 0.8
    looks = metrics.sel(update=[10, 20, 30])
    np.testing.assert_allclose(looks["stop_error"], [0.1, 0.05, 0.04], atol=1e-12)
    np.testing.assert_allclose(looks["stop_mean"], [np.nan, 0.08, 0.065], atol=1e-12)
    assert [len(trials) for trials in asked] == [3, 4, 4, 32, 4, 32, 3]
    drawn = [trials.inputs["cues"][k].tobytes() for trials in asked[1:-1] for k in range(len(trials))]
    assert len(set(drawn)) == len(drawn)


def test_a_limit_that_is_met_is_not_fallen_below(runs, scripted):
    scripted(loss=[0.25] * 9)
    tree = runs.learn("an adjoint", watch=lp.Stop(loss=0.25, every=1, more=0), test=0, record=())
    assert tree["metrics"].sizes["update"] == 4
    tree = runs.learn("an adjoint", watch=lp.Stop(loss=0.26, every=1, more=0), test=0, record=())
    assert tree["metrics"].sizes["update"] == 1


STORED = np.random.default_rng(7).random((30, 15, 4)) < 0.3


def stored():
    """A task of samples of which some are held back."""
    labels = np.arange(30) % 2
    return lp.Task.dataset(
        "stored", (STORED[:20], labels[:20]), (STORED[20:], labels[20:]),
        lambda samples, labels, rng: lp.Trials({"cues": samples}, labels), held=6,
    )  # fmt: skip


@pytest.mark.parametrize("watch", [lp.Plateau(every=1), lp.Stop(error=0.1, every=1, trials=3, more=1)])
def test_nothing_is_learned_from_what_is_watched_or_tested(watch, runs, monkeypatch):
    shown = {"learned": set(), "watched": set()}

    def keep(name, number):
        own = getattr(fit.Fit, name)

        def kept(self, *args):
            found = own(self, *args) if number is None else args[0]
            key = "learned" if name == "drawn" else "watched"
            shown[key] |= {x.tobytes() for x in found.inputs["cues"]}
            return found if number is None else own(self, *args)

        monkeypatch.setattr(fit.Fit, name, kept)

    keep("drawn", None)
    keep("judged", 0)
    runs.learn("an adjoint", task=stored(), watch=watch, test=4, test_every=2, batch=5, updates=6, record=())
    samples = [x.tobytes() for x in STORED]
    assert shown["learned"] == set(samples[:14])
    assert shown["watched"] <= set(samples[14:24]) and set(samples[14:17]) <= shown["watched"]


@pytest.mark.parametrize("cut", [2, 5])
def test_a_run_that_watches_goes_on_to_the_bit(cut, tmp_path, runs):
    """Whether rates have fallen before, after, or on both sides of the cut."""
    watch = [lp.Plateau(patience=0, threshold=0.3), lp.Stop(loss=-1.0, every=1)]
    options = {"updates": 6, "watch": watch, "optimiser": lp.adam(1e-3), "record": ()}
    whole = runs.facts(runs.learn("an adjoint", **options))
    factors = whole["/metrics"]["plateau_factor"].values[1:]
    assert 1.0 in factors and len(set(factors)) > 2
    runs.learn("an adjoint", tmp_path / "run", **options | {"updates": cut})
    found = runs.facts(runs.learn("an adjoint", tmp_path / "run", True, **options))
    for name, expected in whole.items():
        xr.testing.assert_equal(found[name], expected)


def test_a_run_that_has_ended_stays_so(tmp_path, runs):
    options = {"watch": lp.Stop(loss=1e9, every=2), "updates": 6}
    first = runs.facts(runs.learn("online in C", tmp_path / "run", **options))
    again = runs.facts(runs.learn("online in C", tmp_path / "run", True, **options | {"updates": 60}))
    assert first["/metrics"]["update"][-1] == 2
    xr.testing.assert_equal(first["/metrics"], again["/metrics"])


def test_a_run_goes_on_with_what_it_watched_alone(tmp_path, runs):
    """How often is part of it, where it takes that from the tests, too."""
    options = {"watch": lp.Plateau(), "test_every": 1}
    runs.learn("an adjoint", tmp_path / "run", updates=2, **options)
    for other in ({"watch": ()}, {"watch": lp.Plateau(patience=1)}, {"test_every": 2}):
        with pytest.raises(lp.LocalplastError, match="is a run with other watch"):
            runs.learn("an adjoint", tmp_path / "run", True, **options | other)
    runs.learn("an adjoint", tmp_path / "run", True, **options)


DAMAGED = [
    None,
    [],
    {},
    {"best": 1.0},
    {"factor": 0.0},
    {"factor": 2.0},
    {"factor": "1"},
    {"worse": 1.5},
    {"stopped": 1},
]


def test_a_checkpoint_that_says_something_else(tmp_path, runs):
    """One of before there was anything to watch says nothing, and is good."""
    runs.learn("an adjoint", tmp_path / "run", updates=2)
    checkpoint = tmp_path / "run.checkpoint.npz"
    arrays, state = load_checkpoint(checkpoint)
    for damage in DAMAGED:
        wrong = damage if not damage or damage == {"best": 1.0} else state["watched"] | damage
        save_checkpoint(checkpoint, arrays, state | {"watched": wrong})
        with pytest.raises(lp.LocalplastError, match="does not say what its run has watched"):
            reached(tmp_path / "run")
    save_checkpoint(checkpoint, arrays, {name: value for name, value in state.items() if name != "watched"})
    runs.learn("an adjoint", tmp_path / "run", True)


# --- what cannot be watched -------------------------------------------------------------------------------------------

ALONE = lp.Task("alone", stored().training, stored().testing)
TRAJECTORY = lp.Task.generated("trajectory", lambda rng, n: lp.Trials({"cues": STORED[:n]}, np.zeros((n, 15, 2))))
WRONG = {
    "patience": (lambda learn: lp.Plateau(patience=-1), "patience of a Plateau is a whole number, 0 or more"),
    "factor one": (lambda learn: lp.Plateau(factor=1.0), "factor of a Plateau is a share below 1; given 1.0"),
    "factor zero": (lambda learn: lp.Plateau(factor=0), "factor of a Plateau is one number, above 0; given 0"),
    "threshold": (lambda learn: lp.Plateau(threshold=-1e-4), "threshold of a Plateau is one number, from 0"),
    "of": (lambda learn: lp.Plateau(of="train"), "of= of a Plateau is 'validation' or 'test', not 'train'"),
    "every": (lambda learn: lp.Stop(error=0.1, every=0), "every of a Stop is a whole number, 1 or more"),
    "nothing": (lambda learn: lp.Stop(), "needs one of error= and loss="),
    "both": (lambda learn: lp.Stop(error=0.1, loss=0.1), "needs one of error= and loss="),
    "percent": (lambda learn: lp.Stop(error=7), "error of a Stop is one number, above 0 to 1; given 7"),
    "kind": (lambda learn: learn(watch="plateau"), r"watch= is Plateau\(...\), Stop\(...\), Best\(...\), or a list.*given 'plateau'"),
    "twice": (lambda learn: learn(watch=[lp.Plateau(), lp.Plateau(of="test")]), "the same twice"),
    "how often": (lambda learn: learn(watch=lp.Plateau(), test_every=None), r"give test_every=, or every=.*Plateau\(every=10"),
    "at what": (lambda learn: learn(watch=lp.Plateau(), test=0), r"give test=, or trials=.*Plateau\(trials=200"),
    "no validation": (lambda learn: learn(watch=lp.Plateau(), task=ALONE), "'alone' has no validation trials.*of='test'"),
    "no labels": (lambda learn: learn(watch=lp.Stop(error=0.1), task=TRAJECTORY, loss=mse()), r"no labels.*Stop\(loss="),
    "too many": (lambda learn: learn(watch=lp.Plateau(trials=7), task=stored()), "gave 6 trials where 7"),
    "too many batches": (lambda learn: learn(watch=lp.Stop(error=0.1), task=stored()), "gave 6 trials where 18"),
    "a rate that is remembered": (
        lambda learn: learn(watch=lp.Plateau(), optimiser=lp.madgrad(1e-3)), "madgrad remembers what its learning rate was",
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_watched_is_refused_before_anything_runs(wrong, runs, monkeypatch):
    monkeypatch.setattr(fit, "make_learner", None)
    act, said = WRONG[wrong]
    with pytest.raises(lp.LocalplastError, match=said):
        act(lambda **options: runs.learn("an adjoint", **options))


def test_a_simulation_watches_nothing(runs):
    with pytest.raises(lp.LocalplastError, match="leave out watch="):
        lp.run(runs.network(), runs.drawn(np.random.default_rng(0), 2), watch=lp.Plateau())


# --- comparisons and presets ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(runs):
    """One contender that ends sooner than its updates, by seed, one whose rates fall, and one that watches nothing."""
    rules = {
        "ends": lp.Contender(eprop(), "torch"),
        "falls": lp.Contender(eprop(), "torch", watch=lp.Plateau(patience=0, threshold=0.9, every=1, of="test")),
        "plain": lp.Contender(eprop(), "torch", watch=()),
    }
    options = {"optimiser": lp.adam(1e-2), "batch": 2, "updates": 4, "test": 3, "probes": 2, "seeds": (0, 1)}
    return compare(runs.network(), runs.task, rules, watch=lp.Stop(loss=2.5, every=1, more=0), show=False, **options)


def test_a_comparison_watches(compared):
    cost = compared["cost"].to_dataset()
    made = cost["made"]
    assert made.sel(rule=["falls", "plain"]).values.tolist() == [[4, 4], [4, 4]]
    first, second = made.sel(rule="ends").values.tolist()
    assert first != second and min(first, second) < 4
    assert "until the validation loss is below 2.5" in str(cost["optimiser"].sel(rule="ends").values)
    assert "times 0.5 on plateaus of the test loss" in str(cost["optimiser"].sel(rule="falls").values)


def test_what_a_run_ended_with_is_in_the_table(compared):
    """The test at its end, where others go on, and after how many updates that was."""
    curves, made = compared["curves"].to_dataset(), compared["cost"]["made"].sel(rule="ends").values
    for seed, update in enumerate(made):
        course = curves["test_loss"].sel(rule="ends", seed=seed)
        assert np.isfinite(course.sel(update=update)) and np.all(np.isnan(course.sel(update=slice(update + 1, None))))
        last = at_the_end(curves)["test_loss"].sel(rule="ends", seed=seed)
        assert last == course.sel(update=update)
    columns = {column.title: column for column in table(compared).columns}
    assert "ended after" in columns


def test_a_contender_that_watches_wrongly():
    with pytest.raises(lp.LocalplastError, match="watch= is Plateau"):
        lp.Contender(eprop(), "torch", watch="plateau")


@pytest.mark.parametrize("schedule, of", [("validation", "validation"), ("test", "test")])
def test_mnist1d_on_a_plateau(schedule, of):
    """The published rates, which no schedule lets fall; an epoch is one update of ``paper`` and forty of ``quick``."""
    for name, every in {"paper": 1, "quick": 40}.items():
        preset = protocols.load("gle-mnist1d").preset(name, schedule=schedule)
        assert preset.watch == (lp.Plateau(of=of, every=every),) and preset.optimiser.halving == float("inf")
        assert protocols.load("gle-mnist1d").preset(name).watch == ()
    with pytest.raises(lp.LocalplastError, match="schedule is 'fixed' or 'validation' or 'test', not 'plateau'"):
        protocols.load("gle-mnist1d").preset("paper", schedule="plateau")


def test_evidence_accumulation_ends_as_published():
    assert protocols.load("evidence-accumulation").preset("paper").watch == (lp.Stop(error=0.07, every=10, more=8),)
    assert protocols.load("evidence-accumulation").preset("quick").watch == ()
