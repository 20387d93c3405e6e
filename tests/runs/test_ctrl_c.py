"""Ctrl-C at any line of a run: it says what is saved, leaves no half of an update, and the run goes on to the bit."""

import os
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
import xarray as xr

import localplast as lp
from localplast.backends.torch.learner import single_thread
from localplast.errors import Interrupted
from localplast.interrupt import still_deaf
from localplast.runs import fit
from localplast.runs.record import Recorder


@pytest.fixture(autouse=True)
def heard():
    """Python hears no Ctrl-C where it is ignored, as in a job in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Lines:
    """Counts the lines that this thread runs in the package, and sends itself a SIGINT at the one of a given number."""

    folder = os.path.dirname(lp.__file__)

    def __init__(self, after):
        self.left = after

    def __call__(self, frame, event, argument):
        if not frame.f_code.co_filename.startswith(self.folder):
            return None
        self.left -= event == "line"
        if self.left == 0 and event == "line":
            signal.raise_signal(signal.SIGINT)
        return self

    def run(self, work):
        before = sys.gettrace()
        sys.settrace(self)
        try:
            return work()
        finally:
            sys.settrace(before)


def interrupted_at_random(runs, kind, folder, number):
    """Ctrl-C at random lines of a run: what is left is readable, has no half of an update, and goes on."""
    runs.whole(kind)
    runs.learn(kind, folder / "first")  # what is done once and kept is not counted
    counting = Lines(0)
    counting.run(lambda: runs.learn(kind, folder / "counted"))
    for after in np.random.default_rng(number).integers(1, -counting.left, number).tolist():
        path, counted = folder / str(after), Lines(after)
        with pytest.raises(KeyboardInterrupt):
            counted.run(lambda path=path: runs.learn(kind, path))
            assert counted.left <= 0, "the run had less lines"
        if path.exists():
            left = lp.open(path)
            done = left["metrics"].sizes["update"] if "metrics" in left.children else 0
            assert fit.reached(path).done == max(done - 1, 0)
        runs.goes_on(kind, path)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", ["BPTT in C", "online in C", "graded"])
def test_ctrl_c_at_any_line(kind, tmp_path, often, runs):
    interrupted_at_random(runs, kind, tmp_path, 1)


def test_ctrl_c_on_the_way_to_one_thread_or_back_holds_up_no_later_run():
    def within():
        with single_thread:
            return torch.get_num_threads()

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        counting = Lines(0)
        assert counting.run(within) == 1
        for after in range(1, -counting.left):
            with pytest.raises(KeyboardInterrupt):
                Lines(after).run(within)
            assert not single_thread.lock.locked(), after
            assert within() == 1 and torch.get_num_threads() == 2, after
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_ctrl_c_at_a_hundred_lines(kind, tmp_path, often, runs):
    interrupted_at_random(runs, kind, tmp_path, 100)


@pytest.mark.parametrize("path", [True, False])
def test_ctrl_c_says_what_is_saved(path, tmp_path, monkeypatch, runs):
    def training(update, batch, seed):
        if update == 2:
            signal.raise_signal(signal.SIGINT)
        return runs.task.training(update, batch, seed)

    place = tmp_path / "run" if path else None
    saved = "what was learned is saved in .*run: go on with --resume" if path else "without path= nothing is saved"
    with pytest.raises(Interrupted, match=f"stopped after 2 of 4 updates; {saved}"):
        runs.learn("an adjoint", place, task=lp.Task("drawn", training, runs.task.testing))


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") and shutil.which("make")), reason="no C++ compiler here")
def test_ctrl_c_while_a_program_in_cpp_runs(tmp_path, monkeypatch, runs):
    """A terminal sends it to the program as well, which ends at once."""
    original, programs = subprocess.Popen.communicate, []

    def communicate(self, *arguments, **options):
        programs.extend([self] * (self.args[0] == "./main"))
        if len(programs) == 2 and self is programs[-1]:
            self.send_signal(signal.SIGINT)
        return original(self, *arguments, **options)

    expected = runs.facts(runs.learn("Brian2", target="cpp", test_every=1))
    monkeypatch.setattr(subprocess.Popen, "communicate", communicate)
    with pytest.raises(Interrupted, match="stopped after 1 of 4 updates; what was learned is saved in .*run"):
        runs.learn("Brian2", tmp_path / "run", target="cpp", test_every=1)
    for name, found in runs.facts(runs.learn("Brian2", tmp_path / "run", True, target="cpp", test_every=1)).items():
        xr.testing.assert_equal(found, expected[name])


def test_ctrl_c_while_the_first_checkpoint_is_written(tmp_path, monkeypatch, runs):
    original = fit.save_checkpoint

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGINT)
        original(*arguments)

    monkeypatch.setattr(fit, "save_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runs.learn("an adjoint", tmp_path / "run")
    assert fit.checkpoint_of(tmp_path / "run").exists()
    monkeypatch.undo()
    runs.goes_on("an adjoint", tmp_path / "run")


@pytest.mark.parametrize("moment", ["save", "tree"])
def test_ctrl_c_at_the_very_end(moment, tmp_path, monkeypatch, runs):
    """While the last checkpoint is written, and once the record is complete."""
    where = {"save": (fit.Fit, "write_checkpoint"), "tree": (Recorder, "close")}[moment]
    original = getattr(*where)

    def interrupted(self, *arguments):
        if getattr(self, "done", runs.updates) == runs.updates:
            signal.raise_signal(signal.SIGINT)
        return original(self, *arguments)

    monkeypatch.setattr(*where, interrupted)
    with pytest.raises(Interrupted, match="stopped after 4 of 4 updates; what was learned is saved in .*run"):
        runs.learn("an adjoint", tmp_path / "run")
    monkeypatch.undo()
    runs.goes_on("an adjoint", tmp_path / "run")


def test_ctrl_c_while_brian2_runs_is_no_end_of_a_run(tmp_path, runs):
    """Brian2 takes it for a wish to end early, and returns as if all had been simulated."""
    timer = threading.Timer(0.2, signal.raise_signal, (signal.SIGINT,))
    net, trials = runs.network(delay=None), runs.drawn(np.random.default_rng(0), 400)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        lp.run(net, trials, record=["rec.spikes"], show=False)
    with pytest.raises(KeyboardInterrupt):  # and the next one is heard too
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_stays_ignored_where_it_was(monkeypatch):
    """As in a job in the background of a script, where Brian2 would call ``SIG_IGN``."""
    before, brian2s = signal.getsignal(signal.SIGINT), type("Handler", (), {"previous_handler": signal.SIG_IGN})()
    monkeypatch.setattr(signal, "getsignal", lambda number: brian2s)
    try:
        still_deaf()
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
