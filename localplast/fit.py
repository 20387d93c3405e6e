"""Learning a task: blocks of updates, tests in between, a record that grows, checkpoints to go on from."""

import hashlib
import json
import logging
import math
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from localplast.arguments import presented
from localplast.checkpoint import load_checkpoint, save_checkpoint
from localplast.delay import check_delays, moving
from localplast.errors import LocalplastError, RunawayError
from localplast.loss import of_trials
from localplast.plan import check_trials
from localplast.progress import progress
from localplast.record import Recorder
from localplast.rules import bptt
from localplast.verbs import BLOCK_NUMBERS, CHECKPOINT_SECONDS, default_loss, make_learner, provenance
from localplast.serialise import encode

__all__ = ["Fit", "fit", "updates_per_block"]

logger = logging.getLogger(__name__)

#: Share of all time steps in which the average neuron spikes that counts as runaway activity.
RUNAWAY = 0.9


def default_target(backend):
    """C++ where it can be compiled; else numpy, and a word about it."""
    if shutil.which("g++") and shutil.which("make"):
        return "cpp"
    if backend == "brian2":
        logger.warning("no g++ and make on the path: Brian2 runs with target 'numpy', which is slower")
    return "numpy"


def updates_per_block(example, updates, test_every, backend, delays=False):
    """How many updates run at a stretch: a divisor of both counts, and few enough for the inputs to fit.

    One where ``delays`` learn: Brian2 reads them when a run starts.
    """
    if backend == "torch" or delays:
        return 1
    per_update = sum(int(np.prod(v.shape)) for v in example.inputs.values())
    common = math.gcd(updates, test_every)
    fitting = [n for n in range(1, common + 1) if common % n == 0 and n * per_update <= BLOCK_NUMBERS]
    return max(fitting, default=1)


def fit(
    net, task, values, request, backend, *, rule, optimiser, loss, batch, updates, test, test_every, seed, path, resume,
    show, target, dtype, threads, device,
):
    """Let ``net`` learn ``task``; the arguments are those of :func:`localplast.run`."""
    training = Fit(
        net, task, values, rule, optimiser, loss=loss, backend=backend, batch=batch, updates=updates, test=test,
        test_every=test_every, seed=seed, target=target, dtype=dtype, threads=threads, device=device,
        kept_every=list(request.weights.values()),
    )
    try:
        return training.run(request, path=path, resume=resume, show=show)
    finally:
        training.close()


class Fit:
    """One training run; :meth:`restart` reuses what was compiled for another seed."""

    def __init__(
        self, net, task, values, rule, optimiser, *, loss=None, backend="brian2", batch=1, updates=1, test=0,
        test_every=None, seed=0, target=None, dtype="float64", threads=1, device="cpu", kept_every=(),
    ):
        self.net, self.task, self.rule, self.backend, self.batch = net, task, rule, backend, batch
        self.updates, self.test, self.test_every, self.seed = updates, test, test_every or updates, seed
        self.target = target or default_target(backend)
        example = self.drawn(0)
        self.loss = loss or default_loss(example)
        check_trials(net, example, self.loss)
        check_delays(net, values, example.steps)
        pauses = math.gcd(updates, *kept_every)  # weights are seen between two blocks
        self.per_block = updates_per_block(example, pauses, self.test_every, backend, bool(moving(net, optimiser)))
        self.optimiser, self.values = optimiser, values
        options = dict(batch=batch, seed=seed, target=self.target, dtype=dtype, threads=threads, device=device)
        self.learner = make_learner(
            net, values, rule, self.loss, optimiser, example, backend=backend, updates_per_block=self.per_block, **options
        )
        self.judge = self.learner
        if backend == "brian2":  # the twin has the same spikes, presents all test trials at once, and needs no surrogate
            self.judge = make_learner(
                net, values, bptt(cut={"spike"}), self.judged_loss, optimiser, example, backend="torch", updates_per_block=1, **options
            )
        self.seconds, self.done = 0.0, 0

    @property
    def judged_loss(self):
        """What is reported: a regulariser of running rates is felt by synapses, and is no part of the loss."""
        return self.loss if of_trials(self.loss) else replace(self.loss, regulariser=None)

    def restart(self, values, seed):
        """The same run from other numbers."""
        self.values, self.seed, self.seconds, self.done = values, seed, 0.0, 0
        self.learner.restart(values, seed)
        if self.judge is not self.learner:
            self.judge.restart(values, seed)

    def evaluate(self):
        """Loss, accuracy and spikes per neuron on the test trials, with the present weights."""
        trials = presented(self.task, "testing", self.test, self.test, self.seed).without(self.net.teachers)
        if self.judge is not self.learner:
            self.judge.adopt(self.learner.numbers(), self.learner.parameters())
        parts = [(len(part), self.judge.evaluate(part, number)) for number, part in enumerate(split(trials, 250))]
        return {k: sum(n * found[k] for n, found in parts) / len(trials) for k in parts[0][1]}

    def identity(self):
        """A digest of everything that two runs must share for one to go on with the other."""
        parts = [self.net.encoded(), encode(self.rule), encode(self.optimiser), encode(self.loss), self.task.name]
        parts += [self.batch, self.test, self.test_every, self.seed, self.backend, self.per_block]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=sorted).encode()).hexdigest()

    def run(self, request, *, path=None, resume=False, show=None, title=None, probe=None, stop=None):
        """Learn all updates; returns the record.

        Parameters
        ----------
        probe : callable, optional
            ``probe(self) -> dict`` of more metrics, asked for before the first update and at every test.
        stop : threading.Event, optional
            Once set, the run ends as if by Ctrl-C.
        """
        recorder = self.open_record(request, path, resume)
        title = title or f"{self.rule.name}, {self.backend}, seed {self.seed}"
        saved = time.monotonic()
        with progress(title, self.updates, show=show) as advance, recorder:
            advance(self.done)
            try:
                if "metrics" not in recorder.last and (self.test or probe):
                    recorder.add_metrics(update=0, **self.tested(probe))
                while self.done < self.updates:
                    if stop is not None and stop.is_set():
                        raise KeyboardInterrupt
                    metrics = self.block(recorder, probe)
                    advance(self.per_block, loss=metrics["loss"], accuracy=metrics["accuracy"])
                    if path and time.monotonic() - saved > CHECKPOINT_SECONDS:
                        self.save(recorder, path)
                        saved = time.monotonic()
            finally:  # whatever stops the run, Ctrl-C included, what it has learned stays
                self.keep_weights(recorder)
                if path:
                    self.save(recorder, path)
        return recorder.tree()

    def tested(self, probe):
        """Metrics of the test trials and of ``probe``, with the present weights."""
        found = {f"test_{k}": v for k, v in self.evaluate().items()} if self.test else {}
        return {**found, **(probe(self) if probe else {})}

    def block(self, recorder, probe=None):
        """Some updates and what they leave in the record; returns the metrics of the last one."""
        started = time.perf_counter()
        trials = concatenate([self.drawn(self.done + k) for k in range(self.per_block)])
        trials = trials if self.rule.taught else trials.without(self.net.teachers)
        before = self.learner.arrays() if self.rule.taught else None
        try:
            found = self.learner.train(trials)
        except RunawayError as error:  # a learner knows neither the record nor how far it has come
            if before:  # weights that changed along the trial are lost: those from before it stay
                self.learner.load(before)
            raise self.runaway(f"{error} at update {self.done + 1} of {self.rule.name}", recorder) from error
        self.seconds += time.perf_counter() - started
        steps = self.done + np.arange(1, self.per_block + 1)
        self.done += self.per_block
        for update, metrics in zip(steps, found, strict=True):
            self.check(update, metrics, recorder)
            tested = self.tested(probe) if update % self.test_every == 0 else {}
            recorder.add_metrics(update=int(update), **metrics, **tested)
        for name, every in recorder.request.weights.items():
            if self.done % every == 0 or self.done == self.updates:
                recorder.set_weights(name, self.learner.numbers()[name], update=self.done)
        return {**metrics, **tested}

    def drawn(self, update):
        """The trials of one update."""
        return presented(self.task, "training", self.batch, update, self.batch, self.seed)

    def check(self, update, metrics, recorder):
        """Stop a run that has nothing more to learn: a loss that is not a number, neurons that fire all the time."""
        problem = None
        # a membrane that is not a number never spikes: such a network is silent, and its loss looks harmless
        learned = self.learner.numbers() | self.learner.parameters()
        broken = [name for name, value in learned.items() if not np.all(np.isfinite(value))]
        if broken:
            problem = f"weights of {broken[0]!r} are not finite at update {update} of {self.rule.name}"
        elif not math.isfinite(metrics["loss"]):
            problem = f"the loss of {self.rule.name} is {metrics['loss']} at update {update}"
        elif metrics["rate"] * float(self.net.dt) > RUNAWAY:
            problem = f"runaway activity at update {update} of {self.rule.name}: {metrics['rate']:.0f} spikes per second and neuron"
        if problem:
            raise self.runaway(problem, recorder)

    def runaway(self, problem, recorder):
        self.keep_weights(recorder)
        return RunawayError(f"{problem}; lower the learning rate, or look at the weights in the record", recorder.tree())

    def keep_weights(self, recorder):
        """The latest weights, of every projection that is not kept along training."""
        for name, weight in self.learner.numbers().items():
            if name not in recorder.request.weights:
                recorder.set_weights(name, weight)
        for name, value in self.learner.parameters().items():
            recorder.set_learned(name, value)

    def open_record(self, request, path, resume):
        origin = {**provenance(self.backend, self.seed, self.target), "rule": json.dumps(encode_rule(self.rule))}
        if resume and path and checkpoint_of(path).exists():
            arrays, state = load_checkpoint(checkpoint_of(path))
            if state["identity"] != self.identity():
                raise LocalplastError(f"{path} is a run of another network, rule, task or seed; start anew without resume")
            self.learner.load(arrays)
            self.done, self.seconds = state["done"], state["seconds"]
            return Recorder.resume(path, self.net, request, position=state["position"])
        return Recorder(self.net, request, path=path, provenance=origin)

    def save(self, recorder, path):
        """A checkpoint: enough to go on in a new process and get the same numbers."""
        position = recorder.flush()
        state = {"identity": self.identity(), "done": self.done, "seconds": self.seconds, "position": position}
        save_checkpoint(checkpoint_of(path), self.learner.arrays(), state)

    def close(self):
        """Release what was compiled."""
        self.learner.close()


def encode_rule(rule):
    """A rule as JSON data; matrices of feedback by their shape only, times as text."""
    feedback = rule.feedback if isinstance(rule.feedback, str) else {k: list(np.shape(b)) for k, b in rule.feedback.items()}
    return {"name": rule.name, "cut": sorted(rule.cut), "feedback": feedback, "update": str(rule.update)}


def checkpoint_of(path):
    """Where the checkpoint of the record at ``path`` stands."""
    return Path(path).with_suffix(".checkpoint.npz")


def split(trials, size):
    return [trials[start : start + size] for start in range(0, len(trials), size)]


def concatenate(parts):
    """Several batches of trials as one."""
    from localplast.task import Poisson, Trials

    if len(parts) == 1:
        return parts[0]
    if any(not np.array_equal(part.weight, parts[0].weight) for part in parts):
        raise LocalplastError("the weight of the steps differs between updates of this task; it must be the same for all trials")
    inputs = {}
    for name, first in parts[0].inputs.items():
        arrays = [part.inputs[name] for part in parts]
        if isinstance(first, Poisson):
            inputs[name] = Poisson(np.concatenate([a.rates for a in arrays]), first.segment)
        else:
            inputs[name] = np.concatenate(arrays)
    return Trials(inputs, np.concatenate([part.target for part in parts]), parts[0].weight)
