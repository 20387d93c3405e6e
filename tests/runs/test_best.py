"""A run that keeps its best validation: what it is tested with, what its record holds, what it goes on from."""

import numpy as np
import pytest
import xarray as xr

import localplast as lp
from localplast.errors import RunawayError
from localplast.rules import eprop
from localplast.runs import fit
from localplast.runs.reached import reached
from localplast.runs.store import load_checkpoint, save_checkpoint
from localplast.task.loss import mse

BY_LOSS = lp.Best(by="loss", every=1)


@pytest.fixture
def seen(monkeypatch):
    """Let what trials tell be a script; gives what was asked for: ``(weights, trials)``."""

    def play(**script):
        asked = []

        def judged(self, trials, numbers=None):
            metrics = {"loss": 1.0, "accuracy": 0.5} | {name: values[len(asked)] for name, values in script.items()}
            asked.append(((numbers or self.present)[0]["cues_rec"], len(trials)))
            return metrics

        monkeypatch.setattr(fit.Fit, "judged", judged)
        return asked

    return play


def course(runs, **options):
    """The weights of a projection after every update of a run that watches nothing: the first row is after one."""
    tree = runs.learn("an adjoint", test=0, record={"cues_rec.weight": {"every": 1}}, **options)
    return tree["cues_rec"]["weight"].values


@pytest.mark.parametrize("by, values, best", [
    ("accuracy", [0.4, 0.7, 0.7, 0.6], [1, 2, 2, 2]),  # the first of two that are alike
    ("accuracy", [0.9, 0.7, 0.8, 0.89], [1, 1, 1, 1]),
    ("loss", [0.4, 0.7, 0.3, 0.3], [1, 1, 3, 3]),
    ("loss", [np.nan, 0.7, np.inf, np.nan], [np.nan, 2, 2, 2]),
])  # fmt: skip
def test_the_best_look_is_kept(by, values, best, runs, seen):
    """Weights of the record are those after its update, and not the last."""
    asked = seen(**{by: values})
    tree = runs.learn("an adjoint", test=0, watch=lp.Best(by=by, every=1, trials=5), record=())
    metrics, weights = tree["metrics"], course(runs)
    np.testing.assert_array_equal(metrics["best_look"], values)
    np.testing.assert_array_equal(metrics["best_update"], best)
    np.testing.assert_array_equal(tree["cues_rec"]["weight"], weights[best[-1] - 1])
    assert not np.array_equal(weights[best[-1] - 1], weights[-1]) or best[-1] == 4
    for (looked, n), weight in zip(asked, weights, strict=True):  # looks are at the present weights
        assert n == 5 and np.array_equal(looked, weight)
    assert tree.attrs["watch"] == f"keeps the best validation {by}"


def test_tests_are_of_what_is_kept(runs, seen):
    """Before the first look of the present weights; a test comes after the look of its update; learning goes on from
    the last weights.
    """
    asked = seen(accuracy=[0.0, 0.1, 0.8, 0.2, 0.6, 0.3, 0.7, 0.4])  # test, test, look, test, test, look, test
    tree = runs.learn("an adjoint", watch=lp.Best(every=2, trials=5), record=(), updates=4)
    weights, start = course(runs, updates=4), runs.network().draw(0).weights["cues_rec"]
    expected = [(start, 3), (weights[0], 3), (weights[1], 5), (weights[1], 3), (weights[1], 3), (weights[3], 5)]
    for (found, n), (weight, wanted) in zip(asked, [*expected, (weights[1], 3)], strict=True):
        assert n == wanted and np.array_equal(found, weight)
    np.testing.assert_array_equal(tree["metrics"]["best_update"], [np.nan, np.nan, 2, np.nan, 2])


RATES = {"delays": lp.sgd(3.0).with_rates(**{"rec_rec.delay": 1.0}), "Brian2": lp.sgd(3.0)}


@pytest.mark.parametrize("kind", RATES)
def test_what_is_kept_is_tested_as_if_it_were_the_end(kind, runs):
    """The last test is that of a run which ended at the best update, on both backends; what learns beside weights goes
    along.
    """
    options = {"record": (), "watch": BY_LOSS, "optimiser": RATES[kind]}
    tree = runs.learn(kind, updates=4, test_every=4, **options)
    best = int(tree["metrics"]["best_update"][-1])
    assert best < 4  # else there is nothing to see
    short = runs.learn(kind, updates=best, test_every=best, **options)
    assert float(tree["metrics"]["test_loss"][-1]) == float(short["metrics"]["test_loss"][-1])
    for part in ("cues_rec", "learned") if kind == "delays" else ("cues_rec",):
        xr.testing.assert_equal(tree[part].to_dataset(), short[part].to_dataset())


@pytest.mark.parametrize("kind", RATES)
def test_learning_goes_on_from_the_last_numbers(kind, runs):
    """Every update as without anything kept, though each is followed by a test of other numbers."""
    options = {"record": (), "optimiser": RATES[kind], "test_every": 1, "updates": 5}
    kept, plain = runs.learn(kind, watch=BY_LOSS, **options), runs.learn(kind, **options)
    assert kept["metrics"]["best_update"][4] < 4  # what was tested was not the last
    for name in ("loss", "accuracy", "rate"):
        np.testing.assert_array_equal(kept["metrics"][name], plain["metrics"][name])


def test_a_plateau_beside_it_sees_the_present_weights(runs, seen):
    """Not the test of what is kept, which it would take for its own where nothing is kept."""
    seen(loss=[9.0, 1.0, 1.5, 7.0, 2.0, 2.5, 7.0])  # test; look of either, test
    watch = [lp.Best(by="loss", every=1, trials=5), lp.Plateau(of="test", every=1)]
    metrics = runs.learn("an adjoint", watch=watch, updates=2, record=())["metrics"]
    np.testing.assert_array_equal(metrics["plateau_loss"][1:], [1.5, 2.5])
    np.testing.assert_array_equal(metrics["test_loss"], [9.0, 7.0, 7.0])


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_it_goes_on_to_the_bit(cut, tmp_path, runs, seen):
    """Whether the best came before or after the cut."""
    script = {"accuracy": [0.0, 0.5, 0.9, 0.9, 0.7, 0.1]}
    options = {"updates": 4, "watch": lp.Best(every=1, trials=5), "record": (), "test": 0}
    seen(accuracy=script["accuracy"])
    whole = runs.facts(runs.learn("an adjoint", **options))
    seen(accuracy=script["accuracy"])
    runs.learn("an adjoint", tmp_path / "run", **options | {"updates": cut})
    seen(accuracy=script["accuracy"][cut:])
    found = runs.facts(runs.learn("an adjoint", tmp_path / "run", True, **options))
    for name, expected in whole.items():
        xr.testing.assert_equal(found[name], expected)


def test_a_run_that_breaks_leaves_the_best(runs, seen, monkeypatch):
    """The error says so, and carries them."""
    seen(accuracy=[0.5, 0.9, 0.1])
    train = fit.make_learner

    def breaking(*given, **options):
        learner = train(*given, **options)
        own, count = learner.train, iter(range(9))
        learner.train = lambda trials: [{**m, "loss": np.nan} for m in own(trials)] if next(count) == 3 else own(trials)
        return learner

    weights = course(runs)
    monkeypatch.setattr(fit, "make_learner", breaking)
    with pytest.raises(RunawayError, match="loss of .* is nan at update 4; .*the best weights, of update 2") as caught:
        runs.learn("an adjoint", watch=lp.Best(every=1, trials=5), test=0, record=())
    np.testing.assert_array_equal(caught.value.record["cues_rec"]["weight"], weights[1])


DAMAGES = {
    "a weight is gone": (
        lambda arrays: {n: x for n, x in arrays.items() if n != "kept.weight.cues_rec"}, "nothing of 'kept.weight.cues_rec'"
    ),
    "another shape": (lambda arrays: arrays | {"kept.weight.cues_rec": np.zeros((2, 2))}, "of 'kept.weight.cues_rec' where"),
    "no score": (lambda arrays: {n: x for n, x in arrays.items() if n != "kept.score"}, "of 'kept.update' where"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_that_keeps_something_else(damage, tmp_path, runs):
    runs.learn("an adjoint", tmp_path / "run", updates=2, watch=BY_LOSS, record=())
    checkpoint = tmp_path / "run.checkpoint.npz"
    arrays, state = load_checkpoint(checkpoint)
    assert reached(tmp_path / "run").watched.kept.update in (1, 2)
    change, said = DAMAGES[damage]
    save_checkpoint(checkpoint, change(arrays), state)
    with pytest.raises(lp.LocalplastError, match=said):
        runs.learn("an adjoint", tmp_path / "run", True, watch=BY_LOSS, record=())


def test_a_comparison_keeps_the_best(runs):
    """Its last test is that of the run alone, and what it keeps is told."""
    net, rules = runs.network(), {"e-prop": lp.Contender(eprop(), "torch")}
    options = {"optimiser": lp.sgd(3.0), "batch": 2, "updates": 4, "test": 3, "watch": BY_LOSS, "show": False}
    tree = lp.compare(net, runs.task, rules, probes=1, **options)
    alone = lp.run(net, runs.task, rule=eprop(), backend="torch", test_every=4, **options)["metrics"]
    last = tree["curves"]["test_loss"].sel(rule="e-prop", update=4).squeeze()
    assert last == alone["test_loss"][-1] and alone["best_update"][-1] < 4
    assert "keeps the best validation loss" in str(tree["cost"]["optimiser"].values)


TRAJECTORY = lp.Task.generated(
    "trajectory", lambda rng, n: lp.Trials({"cues": np.ones((n, 15, 4), bool)}, np.zeros((n, 15, 2)))
)
WRONG = {
    "by": (lambda learn: lp.Best(by="rate"), "by= of a Best is 'accuracy' or 'loss', not 'rate'"),
    "of": (lambda learn: lp.Best(of="train"), "of= of a Best is 'validation' or 'test', not 'train'"),
    "every": (lambda learn: lp.Best(every=0), "every of a Best is a whole number, 1 or more"),
    "twice": (lambda learn: learn(watch=[lp.Best(), lp.Best(by="loss")]), "the same twice.*one Best"),
    "how often": (lambda learn: learn(watch=lp.Best(), test_every=None), r"give test_every=, or every=.*Best\(every=10"),
    "at what": (lambda learn: learn(watch=lp.Best(), test=0), r"give test=, or trials=.*Best\(trials=200"),
    "no labels": (lambda learn: learn(watch=lp.Best(), task=TRAJECTORY, loss=mse()), r"no labels.*Best\(by='loss'\)"),
    "weights along the way": (
        lambda learn: learn(watch=lp.Best(), record=["cues_rec.weight"]), r"Best\(\) keeps the weights of one update.*leave out one"
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_kept_is_refused_before_anything_runs(wrong, runs, monkeypatch):
    monkeypatch.setattr(fit, "make_learner", None)
    act, said = WRONG[wrong]
    with pytest.raises(lp.LocalplastError, match=said):
        act(lambda **options: runs.learn("an adjoint", **{"record": ()} | options))
