"""Runs that are killed, interrupted or out of disk at any moment go on, and end as if nothing had happened, to the
bit.
"""

import contextlib
import errno
import functools
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
import xarray as xr
from brian2 import ms

import localplast as lp
from localplast.backends.torch.learner import single_thread
from localplast.errors import DiskError, Interrupted
from localplast.interrupt import still_deaf
from localplast.models import alif, leaky_readout, lif
from localplast.rules import bptt, dendritic, eprop, feedback_alignment
from localplast.runs import fit
from localplast.runs.lock import only_writer
from localplast.runs.record import Recorder
from localplast.runs.store import load_checkpoint, save_checkpoint
from localplast.show.examples import sample
from localplast.study.compare import compare
from localplast.task.loss import gumbel, mse, reward

STEPS, UPDATES = 15, 4


def network(rec=None, delay=2 * ms, readouts=("out",), **inputs):
    onward = [lp.Projection("rec", name) for name in readouts]
    return lp.Network(
        dt=1 * ms, cues=lp.Input(4), **inputs, rec=lp.Population(5, rec or alif(beta=0.3)),
        **{name: lp.Population(1 if name == "value" else 2, leaky_readout()) for name in readouts},
        projections=[
            lp.Projection("cues", "rec", weight=lp.normal(2.0, mean=1.0)),
            lp.Projection("rec", "rec", delay=delay if delay is None else lp.axonal(delay)), *onward,
        ],
    )  # fmt: skip


def drawn(rng, n):
    raster = rng.random((n, STEPS, 4)) < 0.3
    return lp.Trials({"cues": raster}, rng.integers(0, 2, n), np.full(STEPS, 1 / STEPS))


def rewarded(rng, n):
    given = drawn(rng, n)
    weight = np.where(np.arange(STEPS) == 8, 1.0, 0.0)
    return lp.Trials({**given.inputs, "dice": gumbel(rng, (n, STEPS, 2))}, given.target, weight)


def currents(rng, n):
    shapes = {"cues": 4, "target": 2, "teaching": 1}
    inputs = {name: rng.normal(size=(n, STEPS, size)) for name, size in shapes.items()}
    return lp.Trials(inputs, rng.normal(size=(n, STEPS, 2)))


TASK, NOISY = lp.Task.generated("drawn", drawn), "dv/dt = -v/tau_mem + 0.5*tau_mem**-0.5*xi : 1"
STOCHASTIC = lp.NeuronModel(
    name="noisy", equations=NOISY, parameters={"tau_mem": 20 * ms, "v_th": 1}, threshold="v > v_th", reset="v -= v_th",
    method="euler", surrogate=lif().surrogate,
)  # fmt: skip
MOVING = lp.axonal(np.linspace(0.5, 2.5, 5) * ms, trainable=(0 * ms, 4 * ms))


def moving():
    net = network()
    kept = [p for p in net.projections.values() if p.name != "rec_rec"]
    return lp.Network(dt=net.dt, **net.nodes, projections=[*kept, lp.Projection("rec", "rec", delay=MOVING)])


KINDS = {
    "BPTT in C": lambda: dict(net=network(), backend="torch", rule=bptt()),
    "plain Torch, noise": lambda: dict(net=network(STOCHASTIC), backend="torch", rule=bptt()),
    "an adjoint": lambda: dict(net=network(), backend="torch", rule=eprop(), record={"cues_rec.weight": {"every": 3}}),
    "online in C": lambda: dict(net=network(), backend="torch", rule=eprop(update=3 * ms), batch=1),
    "graded": lambda: dict(
        net=sample("dendrites"), task=lp.Task.generated("currents", currents), backend="torch", rule=dendritic(), loss=mse()
    ),
    "reward": lambda: dict(
        net=network(readouts=("policy", "value"), dice=lp.Input(2, "currents")), task=lp.Task.generated("rewarded", rewarded),
        backend="torch", rule=eprop(), loss=reward(3 * ms),
    ),
    "delays": lambda: dict(
        net=moving(), backend="torch", rule=bptt(), optimiser=lp.adam(1e-2).with_rates(**{"rec_rec.delay": 1.0}),
    ),
    "learned feedback": lambda: dict(net=network(), backend="torch", rule=feedback_alignment(eprop(), "learned")),
    "Brian2": lambda: dict(net=network(delay=None), backend="brian2", rule=eprop(), target="numpy", test_every=2),
}  # fmt: skip


def learn(kind, path=None, resume=False, **options):
    """A small run of one kind."""
    given = {"optimiser": lp.adam(1e-2), "batch": 2, "updates": UPDATES, "test": 3, "test_every": 1, "task": TASK}
    given |= KINDS[kind]() | options
    return lp.run(given.pop("net"), given.pop("task"), path=path, resume=resume, show=False, **given)


def contrast(path=None, resume=False):
    """A small comparison: the folder of its runs is ``path``."""
    rules = {"e-prop": lp.Contender(eprop(feedback="random"), "torch"), "e prop": lp.Contender(eprop(), "torch")}
    options = dict(optimiser=lp.adam(1e-2), batch=2, updates=2, test=3, probes=1, show=False)
    return compare(network(), TASK, rules, path=path, resume=resume, **options)


@functools.cache
def whole(kind):
    """What comes of a run that nothing interrupts."""
    return facts(contrast() if kind == "comparison" else learn(kind))


def facts(tree):
    """All numbers of a record; of a comparison those that are no times."""
    return {node.path: node.to_dataset().load() for node in tree.subtree if node.path not in ("/", "/cost")}


def check(kind, path):
    """Go on with what was interrupted, and compare every number with those of a run that was not."""
    found = facts((contrast if kind == "comparison" else functools.partial(learn, kind))(path, resume=True))
    assert found.keys() == whole(kind).keys()
    for name, expected in whole(kind).items():
        xr.testing.assert_equal(found[name], expected)
    if kind != "comparison":
        assert lp.open(path).attrs["complete"]


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_the_runs_are_alive(kind):
    """What must come out the same is no run of silent neurons, whose weights stay."""
    found, net = whole(kind), KINDS[kind]()["net"]
    start = net.draw(0)
    moved = [np.abs(found[f"/{p.name}"]["weight"].values - start.weights[p.name]).max() for p in net.plastic]
    assert min(moved) > 1e-4
    assert kind == "graded" or (found["/metrics"]["rate"].values[1:] > 5).all()


def begin(kind, path):
    contrast(path) if kind == "comparison" else learn(kind, path)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", KINDS)
def test_learners_replace_their_arrays(kind, monkeypatch):
    """What was taken between two blocks is what was known then: nothing is written into it afterwards."""
    taken, original = [], fit.Fit.keep_place

    def keep_place(self, recorder):
        original(self, recorder)
        taken.append((self.reached.arrays, {name: array.tobytes() for name, array in self.reached.arrays.items()}))

    monkeypatch.setattr(fit.Fit, "keep_place", keep_place)
    learn(kind)
    assert len(taken) >= 3
    for arrays, contents in taken:
        assert {name: array.tobytes() for name, array in arrays.items()} == contents


# Kills


@contextlib.contextmanager
def child(work):
    """A copy of this process that does ``work()``: gives its number."""
    number = os.fork()
    if number == 0:
        try:
            fit.CHECKPOINT_SECONDS = 0.0
            work()
        finally:
            os._exit(0)
    try:
        yield number
    finally:
        os.waitpid(number, 0)


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


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def changes(kind, folder, writes):
    """How many changes of files one run makes, with a checkpoint after every block."""
    with writes.failing(folder, 10**9, kill) as counting:
        begin(kind, folder / "counted")
        return 10**9 - counting.left


@pytest.fixture
def often(monkeypatch):
    """A checkpoint after every block."""
    monkeypatch.setattr(fit, "CHECKPOINT_SECONDS", 0.0)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", [*KINDS, "comparison"])
def test_a_kill_at_any_change_of_a_file(kind, tmp_path, writes, often):
    number = changes(kind, tmp_path, writes)
    after = int(np.random.default_rng(len(kind)).integers(0, number))
    with writes.failing(tmp_path, after, kill), child(lambda: begin(kind, tmp_path / "run")):
        pass
    check(kind, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, "comparison"])
def test_a_kill_at_every_change_of_a_file(kind, tmp_path, writes, often):
    for after in range(0, changes(kind, tmp_path, writes), 7):
        with writes.failing(tmp_path, after, kill), child(lambda: begin(kind, tmp_path / str(after))):
            pass
        check(kind, tmp_path / str(after))


def killed_at_random(kind, folder, number):
    started = time.perf_counter()
    with child(lambda: begin(kind, folder / "timed")):
        pass
    lasts = time.perf_counter() - started
    for moment in np.random.default_rng(number).uniform(0, lasts, number):
        path = folder / f"{moment:.6f}"
        with child(lambda: begin(kind, path)) as process:
            time.sleep(moment)
            os.kill(process, signal.SIGKILL)
        check(kind, path)


@pytest.mark.thorough
def test_twelve_kills_at_random_moments(tmp_path, often):
    for kind, number in {"an adjoint": 6, "online in C": 6}.items():
        killed_at_random(kind, tmp_path / kind, number)


@pytest.mark.slow
def test_two_hundred_kills_at_random_moments(tmp_path, often):
    for kind in [*KINDS, "comparison"]:
        killed_at_random(kind, tmp_path / kind, 20)


# Ctrl-C


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


def interrupted_at_random(kind, folder, number):
    """Ctrl-C at random lines of a run: what is left is readable, has no half of an update, and goes on."""
    whole(kind)
    learn(kind, folder / "first")  # what is done once and kept is not counted
    counting = Lines(0)
    counting.run(lambda: learn(kind, folder / "counted"))
    for after in np.random.default_rng(number).integers(1, -counting.left, number).tolist():
        path, counted = folder / str(after), Lines(after)
        with pytest.raises(KeyboardInterrupt):
            counted.run(lambda path=path: learn(kind, path))
            assert counted.left <= 0, "the run had less lines"
        if path.exists():
            left = lp.open(path)
            done = left["metrics"].sizes["update"] if "metrics" in left.children else 0
            assert fit.reached(path).done == max(done - 1, 0)
        check(kind, path)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", ["BPTT in C", "online in C", "graded"])
def test_ctrl_c_at_any_line(kind, tmp_path, often):
    interrupted_at_random(kind, tmp_path, 1)


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
@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_at_a_hundred_lines(kind, tmp_path, often):
    interrupted_at_random(kind, tmp_path, 100)


@pytest.mark.parametrize("path", [True, False])
def test_ctrl_c_says_what_is_saved(path, tmp_path, monkeypatch):
    def training(update, batch, seed):
        if update == 2:
            signal.raise_signal(signal.SIGINT)
        return TASK.training(update, batch, seed)

    place = tmp_path / "run" if path else None
    saved = "what was learned is saved in .*run: go on with --resume" if path else "without path= nothing is saved"
    with pytest.raises(Interrupted, match=f"stopped after 2 of 4 updates; {saved}"):
        learn("an adjoint", place, task=lp.Task("drawn", training, TASK.testing))


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") and shutil.which("make")), reason="no C++ compiler here")
def test_ctrl_c_while_a_program_in_cpp_runs(tmp_path, monkeypatch):
    """A terminal sends it to the program as well, which ends at once."""
    original, runs = subprocess.Popen.communicate, []

    def communicate(self, *arguments, **options):
        runs.extend([self] * (self.args[0] == "./main"))
        if len(runs) == 2 and self is runs[-1]:
            self.send_signal(signal.SIGINT)
        return original(self, *arguments, **options)

    expected = facts(learn("Brian2", target="cpp", test_every=1))
    monkeypatch.setattr(subprocess.Popen, "communicate", communicate)
    with pytest.raises(Interrupted, match="stopped after 1 of 4 updates; what was learned is saved in .*run"):
        learn("Brian2", tmp_path / "run", target="cpp", test_every=1)
    for name, found in facts(learn("Brian2", tmp_path / "run", True, target="cpp", test_every=1)).items():
        xr.testing.assert_equal(found, expected[name])


def test_ctrl_c_while_the_first_checkpoint_is_written(tmp_path, monkeypatch):
    original = fit.save_checkpoint

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGINT)
        original(*arguments)

    monkeypatch.setattr(fit, "save_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        learn("an adjoint", tmp_path / "run")
    assert fit.checkpoint_of(tmp_path / "run").exists()
    monkeypatch.undo()
    check("an adjoint", tmp_path / "run")


@pytest.mark.parametrize("moment", ["save", "tree"])
def test_ctrl_c_at_the_very_end(moment, tmp_path, monkeypatch):
    """While the last checkpoint is written, and once the record is complete."""
    where = {"save": (fit.Fit, "write_checkpoint"), "tree": (Recorder, "close")}[moment]
    original = getattr(*where)

    def interrupted(self, *arguments):
        if getattr(self, "done", UPDATES) == UPDATES:
            signal.raise_signal(signal.SIGINT)
        return original(self, *arguments)

    monkeypatch.setattr(*where, interrupted)
    with pytest.raises(Interrupted, match="stopped after 4 of 4 updates; what was learned is saved in .*run"):
        learn("an adjoint", tmp_path / "run")
    monkeypatch.undo()
    check("an adjoint", tmp_path / "run")


def test_ctrl_c_while_brian2_runs_is_no_end_of_a_run(tmp_path):
    """Brian2 takes it for a wish to end early, and returns as if all had been simulated."""
    timer = threading.Timer(0.2, signal.raise_signal, (signal.SIGINT,))
    net, trials = network(delay=None), drawn(np.random.default_rng(0), 400)
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


# A full disk


def full():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", ["an adjoint", "online in C"])
def test_a_full_disk(kind, tmp_path, writes, often):
    """Every change of a file fails from some moment on: one sentence, a record that can be read, and a run that goes
    on.
    """
    number = changes(kind, tmp_path, writes)
    for after in {0, *np.random.default_rng(1).integers(1, number, 2).tolist()}:
        path = tmp_path / str(after)
        with (
            writes.failing(tmp_path, after, full),
            pytest.raises(DiskError, match="cannot be written .*No space left.*--resume"),
        ):
            learn(kind, path)
        if (path / "zarr.json").exists():
            assert not lp.open(path).attrs["complete"]
        check(kind, path)


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
def test_a_disk_that_is_full_within_a_file(kind, tmp_path, often):
    """Lock, record and checkpoint are cut off where they stand: told with their path, and made whole by what goes
    on.
    """
    begin(kind, tmp_path / "sizes")
    sizes = sorted({file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()})
    for size in {0, sizes[len(sizes) // 2] - 1, sizes[-1] // 2}:  # how long a run took is a few bytes more or less
        path = tmp_path / str(size)
        with files_up_to(size), pytest.raises(DiskError, match=f"{path}.* cannot be written .*File too large"):
            begin(kind, path)
        check(kind, path)


# Two writers, other runs, longer runs


def test_two_writers(tmp_path):
    """The second gets a sentence, by whatever way it comes; the lock of somebody who was killed is free."""
    os.makedirs(tmp_path / "elsewhere")
    os.symlink(tmp_path / "run", tmp_path / "elsewhere" / "same")
    trials = drawn(np.random.default_rng(0), 2)
    with only_writer(tmp_path / "run"):
        for path in (tmp_path / "run", tmp_path / "elsewhere" / "same"):
            for write in (
                lambda p=path: learn("an adjoint", p),
                lambda p=path: lp.run(network(), trials, path=p, show=False),
            ):
                with pytest.raises(
                    lp.LocalplastError, match=f"is being written by another run .process {os.getpid()}."
                ):
                    write()

    def killed():
        with only_writer(tmp_path / "run"):
            kill()

    with child(killed):
        pass
    assert (tmp_path / "run.lock").exists()
    learn("an adjoint", tmp_path / "run")
    assert not (tmp_path / "run.lock").exists()


def test_records_beside_each_other_have_their_own_checkpoints(tmp_path):
    """Whatever stands behind the last point of a name."""
    names = ["start_1.5", "start_1.6", "a", "a.zarr"]
    for seed, name in enumerate(names):
        learn("an adjoint", tmp_path / name, updates=2, seed=seed)
    for seed, name in enumerate(names):
        found, expected = learn("an adjoint", tmp_path / name, True, seed=seed), learn("an adjoint", seed=seed)
        xr.testing.assert_equal(found["metrics"].to_dataset().load(), expected["metrics"].to_dataset())


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind, first, every", [("an adjoint", 2, 2), ("online in C", 3, 4), ("Brian2", 3, 4)])
def test_training_for_longer(kind, first, every, tmp_path):
    """Neither how long a run was meant to be, nor when it is tested, nor how many updates a block has, changes a
    number.
    """
    learn(kind, tmp_path / "run", updates=first, test_every=first)
    found = facts(learn(kind, tmp_path / "run", True, test_every=every))
    for name, expected in facts(learn(kind, test_every=1)).items():
        for key, values in expected.data_vars.items():
            tested = key.startswith("test") & (found[name][key].isnull()) if name == "/metrics" else False
            np.testing.assert_array_equal(found[name][key], values.where(~tested) if name == "/metrics" else values)
    assert list(found["/metrics"]["update"][found["/metrics"]["test_loss"].notnull()]) == sorted({0, first, 4})


@pytest.mark.sampled(4)
@pytest.mark.parametrize("first, every", [(1, 2), (2, 4), (3, 2), (4, 3)])
def test_weights_along_a_run_that_is_trained_for_longer(first, every, tmp_path):
    """The last weights of the shorter run are none of the longer one's; they come back where that is given up."""

    def training(update, batch, seed):
        if update == first:
            kill()
        return TASK.training(update, batch, seed)

    again = functools.partial(learn, "an adjoint", tmp_path / "run", record={"cues_rec.weight": {"every": every}})
    shorter = facts(again(updates=first))["/cues_rec"]
    with child(lambda: again(True, task=lp.Task("drawn", training, TASK.testing))):
        pass
    xr.testing.assert_identical(facts(again(True, updates=first))["/cues_rec"], shorter)
    expected = learn("an adjoint", record={"cues_rec.weight": {"every": every}})
    xr.testing.assert_identical(facts(again(True))["/cues_rec"], facts(expected)["/cues_rec"])


OTHER = {
    "seed": ({"seed": 1}, r"other seed \(0, not 1\)"), "batch": ({"batch": 3}, r"other batch \(2, not 3\)"),
    "test": ({"test": 4}, r"other test \(3, not 4\)"), "rule": ({"rule": eprop(feedback="random")}, "other rule"),
    "optimiser": ({"optimiser": lp.adam(2e-2)}, "other optimiser"), "loss": ({"loss": mse()}, "other loss"),
    "values": ({"values": network().draw(7)}, "other values to start from"), "dtype": ({"dtype": "float32"}, "other dtype"),
    "threads": ({"threads": 2}, r"other threads \(1, not 2\)"), "backend": ({"backend": "brian2", "target": "numpy"}, "other backend"),
    "network": ({"net": network(delay=1 * ms)}, "other network"),
    "task": ({"task": lp.Task.generated("drawn", lambda rng, n: drawn(rng, n + 1)[1:])}, "other training trials"),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHER)
def test_another_run_is_refused_and_told_apart(what, begun):
    options, message = OTHER[what]
    with pytest.raises(lp.LocalplastError, match=f"is a run with {message}.*; give the same to go on with it"):
        learn("an adjoint", begun, True, **options)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run of two updates."""
    path = tmp_path_factory.mktemp("begun") / "run"
    learn("an adjoint", path, updates=2)
    return path


def test_what_cannot_go_on(begun, tmp_path):
    with pytest.raises(lp.LocalplastError, match="has learned 2 updates already; updates=1 would be less"):
        learn("an adjoint", begun, True, updates=1)
    os.symlink(begun, tmp_path / "linked")
    learn("an adjoint", tmp_path / "moved", updates=1)
    os.rename(tmp_path / "moved", tmp_path / "elsewhere")
    with pytest.raises(lp.LocalplastError, match="there is no checkpoint elsewhere.checkpoint.npz beside"):
        learn("an adjoint", tmp_path / "elsewhere", True)
    with pytest.raises(lp.LocalplastError, match="the record .*moved is gone, and its checkpoint alone is not enough"):
        learn("an adjoint", tmp_path / "moved", True)


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
def test_a_checkpoint_that_is_not_of_the_run_is_refused(what, begun, tmp_path):
    change, message = FOREIGN[what]
    shutil.copytree(begun, tmp_path / "run")
    shutil.copy(fit.checkpoint_of(begun), fit.checkpoint_of(tmp_path / "run"))
    altered(tmp_path / "run", change)
    with pytest.raises(lp.LocalplastError, match=message):
        learn("an adjoint", tmp_path / "run", True)


@pytest.mark.parametrize("delay", [np.nan, -3.0, 1e9])
def test_a_checkpoint_with_delays_that_cannot_be_is_refused(delay, tmp_path):
    """Kernels read as far back as they say."""
    learn("delays", tmp_path / "run", updates=1)
    altered(tmp_path / "run", lambda a, s: a["value.rec_rec.delay"].fill(delay))
    with pytest.raises(lp.LocalplastError, match="'rec_rec': 5 of its delays cannot be"):
        learn("delays", tmp_path / "run", True)


def test_other_versions_are_told(begun, tmp_path, monkeypatch):
    monkeypatch.setattr("localplast.runs.identity.version", lambda package: "0.0")
    with pytest.warns(lp.LocalplastWarning, match="began with .*numpy .*, now 0.0.*: the last digits may differ"):
        learn("an adjoint", begun, True, updates=2)
