"""Runs that are killed or out of disk at any moment go on, and end as if nothing had happened, to the bit."""

import contextlib
import errno
import os
import resource
import signal
import sys
import threading
import time

import numpy as np
import pytest

import localplast as lp
from localplast.errors import DiskError
from localplast.runs import fit


@pytest.mark.thorough
def test_the_runs_are_alive(kind, runs):
    """What must come out the same is no run of silent neurons, whose weights stay."""
    found, net = runs.whole(kind), runs.kinds[kind]()["net"]
    start = net.draw(0)
    moved = [np.abs(found[f"/{p.name}"]["weight"].values - start.weights[p.name]).max() for p in net.plastic]
    assert min(moved) > 1e-4
    assert kind == "graded" or (found["/metrics"]["rate"].values[1:] > 5).all()


@pytest.mark.sampled(4)
def test_learners_replace_their_arrays(kind, monkeypatch, runs):
    """What was taken between two blocks is what was known then: nothing is written into it afterwards."""
    taken, original = [], fit.Fit.keep_place

    def keep_place(self, recorder):
        original(self, recorder)
        taken.append((self.reached.arrays, {name: array.tobytes() for name, array in self.reached.arrays.items()}))

    monkeypatch.setattr(fit.Fit, "keep_place", keep_place)
    runs.learn(kind)
    assert len(taken) >= 3
    for arrays, contents in taken:
        assert {name: array.tobytes() for name, array in arrays.items()} == contents


# Kills


class Writes:
    """Counts what happens to files below a folder, and does something at the one of a given number."""

    def __init__(self):
        self.folder, self.left, self.act, self.lock = None, 0, None, threading.Lock()
        sys.addaudithook(self)

    def __call__(self, event, arguments):
        if self.folder is None or event not in (
            "open",
            "os.rename",
            "os.mkdir",
            "os.remove",
            "os.rmdir",
            "os.truncate",
        ):
            return
        if not str(arguments[0]).startswith(self.folder) or (
            event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR)
        ):
            return
        with self.lock:
            self.left -= 1
            due = self.left < 0
        if due:
            self.act()

    @contextlib.contextmanager
    def failing(self, folder, after, act):
        """``act`` instead of every change to files in ``folder`` but the first ``after``."""
        self.folder, self.left, self.act = str(folder), after, act
        try:
            yield self
        finally:
            self.folder = None


@pytest.fixture(scope="module")
def writes():
    return Writes()


def changes(runs, kind, folder, writes):
    """How many changes of files one run makes, with a checkpoint after every block."""
    with writes.failing(folder, 10**9, runs.kill) as counting:
        runs.begin(kind, folder / "counted")
        return 10**9 - counting.left


@pytest.mark.sampled(3)
def test_a_kill_at_any_change_of_a_file(work, tmp_path, writes, often, runs):
    number = changes(runs, work, tmp_path, writes)
    after = int(np.random.default_rng(len(work)).integers(0, number))
    with writes.failing(tmp_path, after, runs.kill), runs.child(lambda: runs.begin(work, tmp_path / "run")):
        pass
    runs.goes_on(work, tmp_path / "run")


@pytest.mark.slow
def test_a_kill_at_every_change_of_a_file(work, tmp_path, writes, often, runs):
    for after in range(0, changes(runs, work, tmp_path, writes), 7):
        with writes.failing(tmp_path, after, runs.kill), runs.child(lambda: runs.begin(work, tmp_path / str(after))):
            pass
        runs.goes_on(work, tmp_path / str(after))


def killed_at_random(runs, kind, folder, number):
    started = time.perf_counter()
    with runs.child(lambda: runs.begin(kind, folder / "timed")):
        pass
    lasts = time.perf_counter() - started
    for moment in np.random.default_rng(number).uniform(0, lasts, number):
        path = folder / f"{moment:.6f}"
        with runs.child(lambda: runs.begin(kind, path)) as process:
            time.sleep(moment)
            os.kill(process, signal.SIGKILL)
        runs.goes_on(kind, path)


@pytest.mark.thorough
def test_twelve_kills_at_random_moments(tmp_path, often, runs):
    for kind, number in {"an adjoint": 6, "online in C": 6}.items():
        killed_at_random(runs, kind, tmp_path / kind, number)


@pytest.mark.slow
def test_two_hundred_kills_at_random_moments(tmp_path, often, runs):
    for kind in [*runs.kinds, "comparison"]:
        killed_at_random(runs, kind, tmp_path / kind, 20)


# A full disk


def full():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", ["an adjoint", "online in C"])
def test_a_full_disk(kind, tmp_path, writes, often, runs):
    """Every change of a file fails from some moment on: one sentence, a record that can be read, and a run that goes
    on.
    """
    number = changes(runs, kind, tmp_path, writes)
    for after in {0, *np.random.default_rng(1).integers(1, number, 2).tolist()}:
        path = tmp_path / str(after)
        with (
            writes.failing(tmp_path, after, full),
            pytest.raises(DiskError, match="cannot be written .*No space left.*--resume"),
        ):
            runs.learn(kind, path)
        if (path / "zarr.json").exists():
            assert not lp.open(path).attrs["complete"]
        runs.goes_on(kind, path)


@contextlib.contextmanager
def files_up_to(size):
    """No file can grow beyond so many bytes: the write that would do so is cut short, and the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["an adjoint", pytest.param("comparison", marks=pytest.mark.thorough)])
def test_a_disk_that_is_full_within_a_file(kind, tmp_path, often, runs):
    """Lock, record and checkpoint are cut off where they stand: told with their path, and made whole by what goes
    on.
    """
    runs.begin(kind, tmp_path / "sizes")
    sizes = sorted({file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()})
    for size in {0, sizes[len(sizes) // 2] - 1, sizes[-1] // 2}:  # how long a run took is a few bytes more or less
        path = tmp_path / str(size)
        with files_up_to(size), pytest.raises(DiskError, match=f"{path}.* cannot be written .*File too large"):
            runs.begin(kind, path)
        runs.goes_on(kind, path)
