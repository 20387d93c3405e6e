"""Learning a task: blocks of updates, tests in between, a record that grows, checkpoints to go on from."""

import json
import logging
import math
import re
import time
from dataclasses import replace

import numpy as np

from localplast.arguments import presented
from localplast.errors import DiskError, Interrupted, LocalplastError, RunawayError
from localplast.interrupt import deferred
from localplast.network.bounds import check_start
from localplast.network.delays import check_delays, moving, warn_late
from localplast.neuron.step import lower
from localplast.packages import need_torch
from localplast.program.finite import Unexplained
from localplast.program.learn import check_trials
from localplast.rules import bptt
from localplast.runs.guard import first_not_finite
from localplast.runs.identity import check_arrays, check_same, identity, surroundings, warn_of_changes
from localplast.runs.kept import Kept
from localplast.runs.learners import default_target, make_learner, updates_per_block
from localplast.runs.lock import only_writer, writing
from localplast.runs.progress import progress
from localplast.runs.reached import Reached, checkpoint_of, reached, read_checkpoint, saved_in
from localplast.runs.record import Recorder
from localplast.runs.store import CHECKPOINT_SECONDS, begun, check_free, save_checkpoint
from localplast.runs.watch import Best, Watched, source
from localplast.task.loss import default_loss
from localplast.task.regulariser import of_trials
from localplast.task.trials import Poisson, alike, split

__all__ = ["Fit", "fit"]

logger = logging.getLogger(__name__)

#: Share of all time steps in which the average neuron spikes that counts as runaway activity.
RUNAWAY = 0.9


def rolls_dice(net, example):
    """Whether something is drawn while the network runs: inputs given as rates, noise."""
    models = [p.model for p in net.populations.values()]
    texts = [text or "" for m in models for text in (lower(m).code, m.threshold, m.reset, m.adaptation)]
    drawn = re.search(r"\brandn?\(", " ".join(texts))
    return bool(drawn) or any(isinstance(array, Poisson) for array in example.inputs.values())


def fit(net, task, values, request, rule, optimiser, loss, schedule, options):
    """Let ``net`` learn ``task``; the arguments are those of :func:`localplast.run`."""
    started = reached(options.path).done if options.resume else 0
    kept_every = list(request.weights.values())
    try:
        training = Fit(
            net, task, values, rule, optimiser, loss, schedule, options, kept_every=kept_every, started=started
        )
    except KeyboardInterrupt:
        raise Interrupted("stopped before anything was learned") from None
    try:
        return training.run(request, path=options.path, resume=options.resume, show=options.show)
    finally:
        training.close()


class Fit:
    """One training run; :meth:`restart` reuses what was compiled for another seed."""

    def __init__(self, net, task, values, rule, optimiser, loss, schedule, options, *, kept_every=(), started=0):
        tested = schedule.test or schedule.watch
        if options.backend == "brian2" and tested:
            need_torch("testing a network that learns in Brian2")
        self.net, self.task, self.values, self.rule, self.optimiser = net, task, values, rule, optimiser
        self.schedule = replace(schedule, test_every=schedule.test_every or schedule.updates)
        self.options = replace(options, target=options.target or default_target(options.backend))
        self.source = source(task, schedule.watch)
        for how in schedule.watch:
            how.check(self)
        if kept_every and self.keeps:
            raise LocalplastError(
                "Best() keeps the weights of one update, record= those of many: leave out one of both"
            )
        example = self.drawn(0)
        self.loss = loss or default_loss(example)
        check_trials(net, example, self.loss)
        check_start(net, values, optimiser)
        check_delays(net, values, example.steps)
        self.steps = self.shortest = example.steps
        # what is tested, kept and gone on from lies between two blocks; Brian2 reads delays and seeds when a run starts
        looks = [how.every for how in schedule.watch]
        pauses = (schedule.updates, self.schedule.test_every, *looks, *kept_every, started)
        alone = bool(moving(net, optimiser)) or rolls_dice(net, example)
        self.per_block = updates_per_block(example, pauses, options.backend, alone)
        self.learner = self.made(rule, self.loss, example, self.options)
        self.judge = self.learner
        if options.backend == "brian2" and tested:
            # the twin has the same spikes, presents all test trials at once, and needs no surrogate
            in_torch = replace(self.options, backend="torch")
            self.judge = self.made(bptt(cut={"spike"}), self.judged_loss, example, in_torch)
        self.begin()

    def made(self, rule, loss, example, options):
        """A learner of this network."""
        block = {"batch": self.schedule.batch, "updates_per_block": self.per_block}
        return make_learner(self.net, self.values, rule, loss, self.optimiser, example, options, **block)

    backend = property(lambda self: self.options.backend)
    seed = property(lambda self: self.options.seed)
    batch = property(lambda self: self.schedule.batch)
    updates = property(lambda self: self.schedule.updates)
    test = property(lambda self: self.schedule.test)

    @property
    def keeps(self):
        """Whether the best is kept: then tests are of that, and come after the looks."""
        return any(isinstance(how, Best) for how in self.schedule.watch)

    @property
    def judged_loss(self):
        """What is reported: a regulariser of running rates is felt by synapses, and is no part of the loss."""
        return self.loss if of_trials(self.loss) else replace(self.loss, regulariser=None)

    def restart(self, values, seed):
        """The same run from other numbers."""
        self.values, self.options = values, replace(self.options, seed=seed)
        self.learner.restart(values, seed)
        self.begin()
        if self.judge is not self.learner:
            self.judge.restart(values, seed)

    def evaluate(self):
        """Loss, accuracy and spikes per neuron on the test trials, with the numbers that the record has."""
        trials = presented(self.task, "testing", self.test, self.test, self.seed)
        return self.judged(trials, self.told if self.watched.kept else None)

    def judged(self, trials, numbers=None):
        """The same on some trials, with the present ``numbers`` or others."""
        trials, before = trials.without(self.net.teachers), self.judge.arrays()
        self.look_at_length(trials)
        if numbers or self.judge is not self.learner:
            self.judge.adopt(*(numbers or self.present))
        parts = [(len(part), self.judge.evaluate(part, number)) for number, part in enumerate(split(trials, 250))]
        if numbers:
            self.judge.load(before)
        return {k: sum(n * found[k] for n, found in parts) / len(trials) for k in parts[0][1]}

    @property
    def present(self):
        """What has been learned by now: weights by projection, and parameters by name."""
        return self.learner.numbers(), self.learner.parameters()

    @property
    def told(self):
        """What the record has of it: the best, where that is kept."""
        kept = self.watched.kept
        return (kept.weights, kept.parameters) if kept else self.present

    def begin(self):
        self.reached, self.done, self.seconds, self.watched = Reached(self.learner.arrays()), 0, 0.0, Watched()

    def stand_at(self, reached):
        """Be where a block ended: the learner knows what it knew then."""
        self.reached, self.done, self.seconds = reached, reached.done, reached.seconds
        self.learner.load(reached.arrays)
        self.follow(reached.watched)

    def follow(self, watched):
        """Do what has come of what was seen."""
        if watched.factor != self.watched.factor:
            self.learner.scale(watched.factor)
        self.watched = watched

    def run(self, request, *, path=None, resume=False, show=None, title=None, probe=None, probed=None, stop=None):
        """Learn all updates; returns the record.

        Whatever stops a run, Ctrl-C, an error or a full disk: what it leaves is the state between two blocks, in the
        record and in the checkpoint beside it, from which the same run goes on with ``resume``.

        Parameters
        ----------
        probe : callable, optional
            ``probe(self) -> dict`` of more metrics, asked for before the first update and at every test.
        probed : JSON data, optional
            What the numbers of ``probe`` depend on, apart from the run itself.
        stop : threading.Event, optional
            Once set, the run ends as if by Ctrl-C.
        """
        title = title or f"{self.rule.name}, {self.backend}, seed {self.seed}"
        with only_writer(path):
            recorder = self.open_record(request, path, resume, probed)
            try:
                with progress(title, self.updates, done=self.done, show=show) as advance:
                    self.learn(recorder, advance, path, probe, stop)
                self.end(recorder, path)
            except RunawayError:  # it carries the record with the weights that failed
                raise
            except BaseException as error:
                with deferred():
                    self.leave(recorder, path, error)
                raise
        return recorder.tree()

    def learn(self, recorder, advance, path, probe, stop):
        """Block after block, with a checkpoint now and then."""
        saved = time.monotonic()
        if "metrics" not in recorder.last and (self.test or probe):
            recorder.add_metrics(update=0, **self.tested(probe))
            self.keep_place(recorder)
        while self.done < self.updates and not self.watched.stopped:
            if stop is not None and stop.is_set():
                raise KeyboardInterrupt
            metrics = self.block(recorder, probe)
            advance(self.per_block, loss=metrics["loss"], accuracy=metrics["accuracy"])
            if path and time.monotonic() - saved > CHECKPOINT_SECONDS:
                with deferred():
                    self.save(recorder, path)
                saved = time.monotonic()

    def keep_place(self, recorder):
        """Let what was done so far be done for good: learners replace their arrays and never write into them."""
        self.reached = Reached(self.learner.arrays(), self.done, self.seconds, recorder.rows, self.watched)

    def keep_along(self, recorder, names):
        """One more row of the weights of these projections."""
        for name in names:
            recorder.set_weights(name, self.learner.numbers()[name], update=self.done)

    def end(self, recorder, path):
        """Save a last time, with the last weights of those kept along the way, and mark the record as complete."""
        with deferred(), writing(path):
            self.keep_along(
                recorder, [name for name in recorder.request.weights if recorder.last.get(name) != self.done]
            )
            self.keep_place(recorder)
            self.save(recorder, path)
            recorder.close()

    def leave(self, recorder, path, error):
        """Go back to the end of the last whole block, save it, and tell who pressed Ctrl-C."""
        if not recorder.closed:
            self.stand_at(self.reached)
            recorder.cut(self.reached.rows)
            if not isinstance(error, DiskError):
                self.save(recorder, path)
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(f"stopped after {self.done} of {self.updates} updates; {saved_in(path)}") from None

    def tested(self, probe):
        """Metrics of the test trials and, of the present weights, of ``probe``."""
        found = {f"test_{k}": v for k, v in self.evaluate().items()} if self.test else {}
        return {**found, **(probe(self) if probe else {})}

    def block(self, recorder, probe=None):
        """Some updates and what they leave in the record; returns the metrics of the last one."""
        started = time.perf_counter()
        drawn = alike([self.drawn(self.done + k) for k in range(self.per_block)])
        self.seconds += time.perf_counter() - started
        for trials in drawn:
            self.look_at_length(trials)
            metrics = self.learned(self.rule.shown(self.net, trials), recorder, probe)
        self.keep_along(recorder, [name for name, every in recorder.request.weights.items() if self.done % every == 0])
        self.keep_place(recorder)
        return metrics

    def look_at_length(self, trials):
        """Warn of what never arrives where trials are shorter than all before them."""
        if trials.steps < self.shortest:
            self.shortest = trials.steps
            warn_late(self.net, self.values.replace_weights({}, self.learner.parameters()), trials.steps)

    def learned(self, trials, recorder, probe):
        """As :meth:`block`, from trials of one form."""
        started = time.perf_counter()
        before = self.learner.arrays() if self.rule.signal.drives_neurons else None
        began = self.present
        try:
            found = self.learner.train(trials)
        except RunawayError as error:  # a learner knows neither the record nor how far it has come
            if before:  # weights that changed along the trial are lost: those from before it stay
                self.learner.load(before)
            self.check_began(began, trials, recorder, isinstance(error, Unexplained))
            raise self.runaway(f"{error} at update {self.done + 1} of {self.rule.name}", recorder) from error
        self.seconds += time.perf_counter() - started
        first = self.done + 1
        self.done += len(found)
        for update, metrics in enumerate(found, first):
            self.check(update, metrics, recorder, began, trials)
            recorder.add_metrics(update=update, **metrics, **self.seen(update, probe))
        return metrics

    def seen(self, update, probe):
        """What is tested and watched after an update, as metrics; does what comes of it."""
        due, found = update % self.schedule.test_every == 0, {}
        tested = self.tested(probe) if due and not self.keeps else {}
        for how in self.schedule.watch:
            if update % how.every == 0:
                metrics, watched = how.look(self, update, tested)
                self.follow(watched)
                found |= metrics
        if (due or self.watched.stopped) and not tested:
            tested = self.tested(probe)
        return tested | found

    def drawn(self, update):
        """The trials of one update."""
        return presented(self.source, "training", self.batch, update, self.batch, self.seed)

    def check_began(self, began, trials, recorder, unexplained=True):
        """Raise where something is not finite with the numbers that a block ``began`` with, and name it."""
        values, dtype = self.values.replace_weights(*began), self.options.dtype
        where = first_not_finite(self.net, values, trials, seed=self.seed, dtype=dtype) if unexplained else None
        if where:
            problem = f"{where}, while {self.rule.name} learned"
            raise self.runaway(problem, recorder, "look at the weights in the record")

    def check(self, update, metrics, recorder, began, trials):
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
            rate = f"{metrics['rate']:.0f} spikes per second and neuron"
            problem = f"runaway activity at update {update} of {self.rule.name}: {rate}"
        if problem:
            self.check_began(began, trials, recorder, broken or not math.isfinite(metrics["loss"]))
            raise self.runaway(problem, recorder)

    def runaway(self, problem, recorder, advice="lower the learning rate, or look at the weights in the record"):
        self.keep_weights(recorder)
        if kept := self.watched.kept:
            advice = f"the record has the best weights, of update {kept.update}"
        return RunawayError(f"{problem}; {advice}", recorder.tree())

    def keep_weights(self, recorder):
        """The latest weights, or the best, of every projection that is not kept along training."""
        weights, parameters = self.told
        for name, weight in weights.items():
            if name not in recorder.request.weights:
                recorder.set_weights(name, weight)
        for name, value in parameters.items():
            recorder.set_learned(name, value)

    def open_record(self, request, path, resume, probed=None):
        """The record to write into: a new one, or that of the run to go on with; the learner then stands where that
        does.
        """
        self.identity = {**identity(self), "probes": probed} if path else None
        if path and resume and checkpoint_of(path).exists():
            return self.open_again(request, path)
        with writing(path):
            if path and begun(path) and resume:
                raise LocalplastError(
                    f"there is no checkpoint {checkpoint_of(path).name} beside {path}, so that run cannot go on; start "
                    "anew at another path"
                )
            if path:  # before the record: whoever finds one finds a checkpoint too
                check_free(path)
                with deferred():
                    self.write_checkpoint(path, {})
            return Recorder(self.net, request, path=path, provenance=self.origin())

    def open_again(self, request, path):
        """As :meth:`open_record`, where there is a checkpoint."""
        stands, state = read_checkpoint(path)
        check_same(path, state["identity"], self.identity)
        if stands.done > self.updates:
            text = f"{path} has learned {stands.done} updates already; updates={self.updates} would be less"
            raise LocalplastError(text)
        if stands.done % self.per_block:
            raise LocalplastError(f"{path} has been written meanwhile; try again")
        if stands.done and not begun(path):
            text = f"the record {path} is gone, and its checkpoint alone is not enough; start anew without resume"
            raise LocalplastError(text)
        warn_of_changes(path, state["surroundings"])
        self.check_learned(checkpoint_of(path), stands)
        self.stand_at(replace(stands, rows=regular(stands.rows, request, stands.done)))
        with writing(path):
            if not begun(path):
                return Recorder(self.net, request, path=path, provenance=self.origin())
            return Recorder.resume(path, self.net, request, position=self.reached.rows)

    def check_learned(self, path, stands):
        """Raise unless what has been learned, as a checkpoint says, is what a person could give as ``values``; what
        was kept, too.
        """
        check_arrays(path, stands.arrays, self.reached.arrays)
        kinds = ("weight.", "value.")
        learned = [
            [{n.removeprefix(kind): x for n, x in stands.arrays.items() if n.startswith(kind)} for kind in kinds]
        ]
        if kept := stands.watched.kept:
            check_arrays(path, kept.arrays, Kept(kept.score, kept.update, *self.present).arrays)
            learned.append([kept.weights, kept.parameters])
        for parts in learned:
            values = self.values.replace_weights(*parts)
            self.net.check_values(values)
            check_delays(self.net, values, self.steps)

    def origin(self):
        rest = {"rule": json.dumps(encode_rule(self.rule)), "drawn": drawn_by(self.net, self.values, self.seed)}
        if self.schedule.watch:
            rest["watch"] = "; ".join(how.label for how in self.schedule.watch)
        return {**self.options.provenance, **rest, **self.task.attrs}

    def save(self, recorder, path):
        """Between two blocks: the latest weights, and a checkpoint.

        It is enough to go on in a new process and get the same numbers, to the bit on one machine.
        """
        self.keep_weights(recorder)
        if path:
            with writing(path):
                self.write_checkpoint(path, recorder.flush())

    def write_checkpoint(self, path, position):
        state = {"identity": self.identity, "surroundings": surroundings(), "position": position}
        state |= {"done": self.done, "seconds": self.seconds, "watched": self.watched.encoded}
        kept = self.watched.kept
        save_checkpoint(checkpoint_of(path), self.learner.arrays() | (kept.arrays if kept else {}), state)

    def interrupt(self):
        """Let the block that another thread runs end soon, in a KeyboardInterrupt there."""
        self.learner.interrupt()

    def close(self):
        """Release what was compiled."""
        self.learner.close()


def regular(rows, request, done):
    """``rows`` without the last weights of a run that had come to its end: one that goes on has them elsewhere."""
    kept = {f"{name}/{key}": done // every for name, every in request.weights.items() for key in ("weight", "update")}
    return {key: min(n, kept.get(key, n)) for key, n in rows.items()}


def drawn_by(net, values, seed):
    """Whether ``seed`` draws all numbers but weights and what learns beside them."""
    drawn, fixed = (
        net.draw(seed),
        {*net.projections, *(f"{n}.{k}" for n, p in net.populations.items() for k in p.values)},
    )
    names = [f"{name}.delay" if name in net.projections else name for name in fixed]
    return all(np.array_equal(values.other(n), drawn.other(n)) for n in names if n not in net.trainable)


def encode_rule(rule):
    """A rule as JSON data; matrices of feedback by their shape only, times as text."""
    feedback = (
        rule.feedback if isinstance(rule.feedback, str) else {k: list(np.shape(b)) for k, b in rule.feedback.items()}
    )
    return {"name": rule.name, "cut": sorted(rule.cut), "feedback": feedback, "update": str(rule.update)}
