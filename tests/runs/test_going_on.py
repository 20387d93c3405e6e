"""Runs go on with their own record alone: one writer, the same run, a checkpoint that is its own, perhaps for longer."""

import functools
import os
import shutil

import numpy as np
import pytest
import xarray as xr
from brian2 import ms

import localplast as lp
from localplast.rules import eprop
from localplast.runs import fit
from localplast.runs.lock import only_writer
from localplast.runs.store import load_checkpoint, save_checkpoint
from localplast.task.loss import mse


def test_two_writers(tmp_path, runs):
    """The second gets a sentence, by whatever way it comes; the lock of somebody who was killed is free."""
    os.makedirs(tmp_path / "elsewhere")
    os.symlink(tmp_path / "run", tmp_path / "elsewhere" / "same")
    trials = runs.drawn(np.random.default_rng(0), 2)
    with only_writer(tmp_path / "run"):
        for path in (tmp_path / "run", tmp_path / "elsewhere" / "same"):
            for write in (
                lambda p=path: runs.learn("an adjoint", p),
                lambda p=path: lp.run(runs.network(), trials, path=p, show=False),
            ):
                with pytest.raises(
                    lp.LocalplastError, match=f"is being written by another run .process {os.getpid()}."
                ):
                    write()

    def killed():
        with only_writer(tmp_path / "run"):
            runs.kill()

    with runs.child(killed):
        pass
    assert (tmp_path / "run.lock").exists()
    runs.learn("an adjoint", tmp_path / "run")
    assert not (tmp_path / "run.lock").exists()


def test_records_beside_each_other_have_their_own_checkpoints(tmp_path, runs):
    """Whatever stands behind the last point of a name."""
    names = ["start_1.5", "start_1.6", "a", "a.zarr"]
    for seed, name in enumerate(names):
        runs.learn("an adjoint", tmp_path / name, updates=2, seed=seed)
    for seed, name in enumerate(names):
        found, expected = (
            runs.learn("an adjoint", tmp_path / name, True, seed=seed),
            runs.learn("an adjoint", seed=seed),
        )
        xr.testing.assert_equal(found["metrics"].to_dataset().load(), expected["metrics"].to_dataset())


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind, first, every", [("an adjoint", 2, 2), ("online in C", 3, 4), ("Brian2", 3, 4)])
def test_training_for_longer(kind, first, every, tmp_path, runs):
    """Neither how long a run was meant to be, nor when it is tested, nor how many updates a block has, changes a
    number.
    """
    runs.learn(kind, tmp_path / "run", updates=first, test_every=first)
    found = runs.facts(runs.learn(kind, tmp_path / "run", True, test_every=every))
    for name, expected in runs.facts(runs.learn(kind, test_every=1)).items():
        for key, values in expected.data_vars.items():
            tested = key.startswith("test") & (found[name][key].isnull()) if name == "/metrics" else False
            np.testing.assert_array_equal(found[name][key], values.where(~tested) if name == "/metrics" else values)
    assert list(found["/metrics"]["update"][found["/metrics"]["test_loss"].notnull()]) == sorted({0, first, 4})


@pytest.mark.sampled(4)
@pytest.mark.parametrize("first, every", [(1, 2), (2, 4), (3, 2), (4, 3)])
def test_weights_along_a_run_that_is_trained_for_longer(first, every, tmp_path, runs):
    """The last weights of the shorter run are none of the longer one's; they come back where that is given up."""

    def training(update, batch, seed):
        if update == first:
            runs.kill()
        return runs.task.training(update, batch, seed)

    again = functools.partial(runs.learn, "an adjoint", tmp_path / "run", record={"cues_rec.weight": {"every": every}})
    shorter = runs.facts(again(updates=first))["/cues_rec"]
    with runs.child(lambda: again(True, task=lp.Task("drawn", training, runs.task.testing))):
        pass
    xr.testing.assert_identical(runs.facts(again(True, updates=first))["/cues_rec"], shorter)
    expected = runs.learn("an adjoint", record={"cues_rec.weight": {"every": every}})
    xr.testing.assert_identical(runs.facts(again(True))["/cues_rec"], runs.facts(expected)["/cues_rec"])


OTHER = {
    "seed": (lambda runs: {"seed": 1}, r"other seed \(0, not 1\)"),
    "batch": (lambda runs: {"batch": 3}, r"other batch \(2, not 3\)"),
    "test": (lambda runs: {"test": 4}, r"other test \(3, not 4\)"),
    "rule": (lambda runs: {"rule": eprop(feedback="random")}, "other rule"),
    "optimiser": (lambda runs: {"optimiser": lp.adam(2e-2)}, "other optimiser"),
    "loss": (lambda runs: {"loss": mse()}, "other loss"),
    "values": (lambda runs: {"values": runs.network().draw(7)}, "other values to start from"),
    "dtype": (lambda runs: {"dtype": "float32"}, "other dtype"),
    "threads": (lambda runs: {"threads": 2}, r"other threads \(1, not 2\)"),
    "backend": (lambda runs: {"backend": "brian2", "target": "numpy"}, "other backend"),
    "network": (lambda runs: {"net": runs.network(delay=1 * ms)}, "other network"),
    "task": (
        lambda runs: {"task": lp.Task.generated("drawn", lambda rng, n: runs.drawn(rng, n + 1)[1:])},
        "other training trials",
    ),
}


@pytest.mark.parametrize("what", OTHER)
def test_another_run_is_refused_and_told_apart(what, begun, runs):
    options, message = OTHER[what]
    with pytest.raises(lp.LocalplastError, match=f"is a run with {message}.*; give the same to go on with it"):
        runs.learn("an adjoint", begun, True, **options(runs))


@pytest.fixture(scope="module")
def begun(tmp_path_factory, runs):
    """A run of two updates."""
    path = tmp_path_factory.mktemp("begun") / "run"
    runs.learn("an adjoint", path, updates=2)
    return path


def test_what_cannot_go_on(begun, tmp_path, runs):
    with pytest.raises(lp.LocalplastError, match="has learned 2 updates already; updates=1 would be less"):
        runs.learn("an adjoint", begun, True, updates=1)
    os.symlink(begun, tmp_path / "linked")
    runs.learn("an adjoint", tmp_path / "moved", updates=1)
    os.rename(tmp_path / "moved", tmp_path / "elsewhere")
    with pytest.raises(lp.LocalplastError, match="there is no checkpoint elsewhere.checkpoint.npz beside"):
        runs.learn("an adjoint", tmp_path / "elsewhere", True)
    with pytest.raises(lp.LocalplastError, match="the record .*moved is gone, and its checkpoint alone is not enough"):
        runs.learn("an adjoint", tmp_path / "moved", True)


def altered(path, change):
    """Change what the checkpoint of a run holds, checksum and all, as somebody else could."""
    arrays, state = load_checkpoint(fit.checkpoint_of(path))
    change(arrays, state)
    save_checkpoint(fit.checkpoint_of(path), arrays, state)


NOWHERE = "does not say where a run stands"
#: Checkpoints that hold what is not of the run, and what is told of each.
FOREIGN = {
    "other shapes": (
        lambda arrays, state: arrays.update({"weight.rec_out": np.zeros((5, 3))}),
        r"holds \(\(5, 3\), .* 'weight.rec_out' where .*\(5, 2\)",
    ),
    "longer states": (lambda arrays, state: arrays.update({"m.rec_out": np.zeros((10**5, 2))}), "of 'm.rec_out' where"),
    "other numbers": (
        lambda arrays, state: arrays.update({"weight.rec_out": np.zeros((5, 2), bool)}), "bool.* of 'weight.rec_out'",
    ),
    "less": (lambda arrays, state: arrays.pop("weight.rec_out"), "holds nothing of 'weight.rec_out' where"),
    "more": (lambda arrays, state: arrays.update(more=np.zeros(2)), "of 'more' where this run has nothing"),
    "no place": (lambda arrays, state: state.pop("done"), NOWHERE),
    "a negative place": (lambda arrays, state: state.update(done=-2), NOWHERE),
    "a place that is no number": (lambda arrays, state: state.update(done="2"), NOWHERE),
    "a position that is no number": (lambda arrays, state: state.update(position={"metrics/loss": "1"}), NOWHERE),
    "a negative position": (lambda arrays, state: state.update(position={"metrics/loss": -1}), NOWHERE),
    "no identity": (lambda arrays, state: state.update(identity="mine"), NOWHERE),
}  # fmt: skip


@pytest.mark.parametrize("what", FOREIGN)
def test_a_checkpoint_that_is_not_of_the_run_is_refused(what, begun, tmp_path, runs):
    change, message = FOREIGN[what]
    shutil.copytree(begun, tmp_path / "run")
    shutil.copy(fit.checkpoint_of(begun), fit.checkpoint_of(tmp_path / "run"))
    altered(tmp_path / "run", change)
    with pytest.raises(lp.LocalplastError, match=message):
        runs.learn("an adjoint", tmp_path / "run", True)


@pytest.mark.parametrize("delay", [np.nan, -3.0, 1e9])
def test_a_checkpoint_with_delays_that_cannot_be_is_refused(delay, tmp_path, runs):
    """Kernels read as far back as they say."""
    runs.learn("delays", tmp_path / "run", updates=1)
    altered(tmp_path / "run", lambda a, s: a["value.rec_rec.delay"].fill(delay))
    with pytest.raises(lp.LocalplastError, match="'rec_rec': 5 of its delays cannot be"):
        runs.learn("delays", tmp_path / "run", True)


def test_other_versions_are_told(begun, tmp_path, monkeypatch, runs):
    monkeypatch.setattr("localplast.runs.identity.version", lambda package: "0.0")
    with pytest.warns(lp.LocalplastWarning, match="began with .*numpy .*, now 0.0.*: the last digits may differ"):
        runs.learn("an adjoint", begun, True, updates=2)
