"""How far is a local rule from backpropagation? The same network, task, optimiser and seeds under several rules."""

import math
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from os import PathLike
from pathlib import Path
from urllib.parse import quote

import numpy as np
import xarray as xr

from localplast.analysis.distance import MEASURES, with_angle
from localplast.arguments import (
    BACKENDS,
    Target,
    check_backend,
    check_kind,
    check_path,
    check_schedule,
    check_seed,
    check_whole,
)
from localplast.errors import Interrupted, LocalplastError, NetworkError
from localplast.interrupt import undisguised
from localplast.learning.optimise import Optimiser
from localplast.learning.rule import Rule
from localplast.network.credit_graph import projection_edges
from localplast.network.network import Network
from localplast.packages import need_torch
from localplast.runs.fit import Fit
from localplast.runs.options import Options, Schedule
from localplast.runs.reached import reached, saved_in
from localplast.runs.record import version
from localplast.runs.request import Request
from localplast.runs.watch import Watch, check_watch
from localplast.study.alignment import as_it_is, feedback_cosines, gradient_measures
from localplast.study.contenders import Contender, as_contender, check_contender, evenly
from localplast.study.cost import HOW_MEMORY, machine, memory, seconds_per_trial, state_bytes
from localplast.task.loss import Loss
from localplast.task.trials import Task

__all__ = ["compare"]

CURVES = {"test_accuracy": "1", "test_loss": "1", "test_spikes": "1"}
TRAINING = {"accuracy": "1", "loss": "1", "rate": "Hz"}
#: Trials that a gradient is compared on.
PROBE_TRIALS = 64


def check_comparison(net, task, rules, optimiser, loss, seeds, *, probes, workers, hidden):
    """Raise where these arguments of :func:`compare` are not what they have to be."""
    for name, given, kind in (("net", net, Network), ("task", task, Task), ("optimiser", optimiser, Optimiser)):
        check_kind(name, given, kind)
    if loss is not None:
        check_kind("loss", loss, Loss)
    if not isinstance(rules, dict) or not rules or not all(isinstance(name, str) for name in rules):
        raise LocalplastError(
            f"rules is a dict by name, such as {{'e-prop': eprop(), 'BPTT': bptt()}}; given {rules!r:.80}"
        )
    if not isinstance(seeds, (list, tuple, range)) or not len(seeds) or len(set(seeds)) < len(seeds):
        raise LocalplastError(f"seeds is a list of different whole numbers, such as (0, 1, 2); given {seeds!r:.80}")
    for seed in seeds:
        check_seed(seed)
    check_whole("probes", probes, 1)
    check_whole("workers", workers, 1)
    if hidden is not None and hidden not in net.populations:
        raise NetworkError(f"hidden={hidden!r} is no population; there are {', '.join(net.populations)}")


def the_hidden(net):
    """The first population that spikes."""
    spiking = [name for name, p in net.populations.items() if p.model.spiking]
    if not spiking:
        raise NetworkError(f"nothing spikes in this network: say hidden=, one of {', '.join(net.populations)}")
    return spiking[0]


def sketch(net):
    """A network in a few words: its populations but readouts, and how long spikes travel at most."""
    longest = max((float(np.max(net.delay_steps(p))) for p in net.projections.values()), default=0.0) * float(net.dt)
    parts = [f"{p.size} {p.model.name}" for name, p in net.populations.items() if name not in net.readouts]
    parts += ["recurrent"] if any("recurrent" in edges for edges in projection_edges(net).values()) else []
    return ", ".join(parts + ([f"delays to {1e3 * longest:.3g} ms"] if longest else []))


def compare(
    net: Network,
    task: Task,
    rules: Mapping[str, Rule | Contender],
    *,
    optimiser: Optimiser,
    loss: Loss | None = None,
    seeds: Sequence[int] = (0,),
    batch: int = 32,
    updates: int = 100,
    test: int = 200,
    watch: Watch | Sequence[Watch] = (),
    probes: int = 5,
    hidden: str | None = None,
    path: str | PathLike | None = None,
    resume: bool = False,
    target: Target | None = None,
    workers: int = 1,
    show: bool | None = None,
) -> xr.DataTree:
    """Train ``net`` on ``task`` under every rule and seed, and measure each against BPTT along the way.

    Parameters
    ----------
    rules : dict of str to Rule or Contender
        By the name they get in the result. A :class:`Contender` may bring a network of its own for the same trials.

    Other arguments
    ---------------
    optimiser : Optimiser
        The same for all but contenders that bring their own: the same kind at rates tuned for each, else optimisers
        would be compared.
    watch : Plateau, Stop or Best, or a sequence of such
        What every run does when validation says so; see :func:`localplast.run`.
    probes : int
        At how many moments, evenly spread over training, the gradient is compared with BPTT's at the same weights;
        not more than there are updates.
    hidden : str, optional
        The population whose incoming weights are also compared as one vector; default: the first spiking one.
    path : path, optional
        A folder for one record per run.
    resume : bool
        Go on with the runs in this folder.
    workers : int
        Runs that go on side by side (and slow each other down: times say so in their attributes).

    Returns
    -------
    xarray.DataTree
        ``/curves`` (rule, seed, update): test accuracy, loss and spikes per neuron and trial.
        ``/training`` (rule, seed, update): accuracy, loss and rate (Hz) of every training batch, before its update.
        ``/alignment`` (rule, seed, update, projection): relative error, cosine, angle (degrees), norm ratio and sign
        agreement of the gradient with BPTT's on the same network, NaN where there is none;
        :mod:`localplast.analysis.distance` defines them. ``projection`` names everything that learns: weights, delays
        as ``'rec_rec.delay'``, parameters as ``'rec.tau_mem'``.
        ``/hidden`` (rule, seed, update): the same of all weights onto ``hidden`` as one vector.
        ``/feedback`` (rule, seed, update, projection): cosine and angle (degrees) between feedback and the forward
        weights it stands for; NaN where feedback is those weights.
        ``update`` holds every moment at which a rule was tested: where updates differ, NaN stands for those that were
        not. ``/cost``: ``seconds_per_trial`` (rule, seed, backend), ``peak_memory`` (rule, backend; bytes),
        ``bytes_per_synapse`` (rule, projection), ``bytes_per_neuron`` (rule, node). NaN where a rule did not run;
        compilation is not counted. The attributes of each say what it includes. ``trained_on``, ``network`` and
        ``optimiser`` (rule) say in words where, what and how fast; ``updates`` and ``batch`` (rule) how often, and
        from how many trials; ``made`` (rule, seed) after how many updates a run ended.
    """
    need_torch("a comparison")
    check_comparison(net, task, rules, optimiser, loss, seeds, probes=probes, workers=workers, hidden=hidden)
    check_schedule(batch=batch, updates=updates, test=test)
    check_whole("test", test, 1, " of trials that rules are compared by")
    check_path(path, resume)
    check_backend("brian2", target)
    hidden, probes = hidden or the_hidden(net), min(probes, updates)
    whole = (net, optimiser, loss, updates, batch, check_watch(watch))
    contenders = {name: as_contender(rule).completed(*whole) for name, rule in rules.items()}
    for name, contender in contenders.items():
        check_contender(name, contender.network, net, hidden)
    course = {name: evenly(contender.updates, probes) for name, contender in contenders.items()}
    schedules = {
        n: Schedule.checked(batch=c.batch, test=test, watch=c.watch, **course[n]) for n, c in contenders.items()
    }
    options = Options(target=target, path=path, resume=resume, show=show)
    runs = Runs(task, contenders, schedules, list(seeds), hidden, options)
    with ExitStack() as release:
        measured = runs.all(workers, release)
        peaks = {name: memory(fit, fit.net.draw(seeds[0]), seeds[0]) for name, fit in runs.fits.items()}
    made = evenly(updates, probes)["updates"]
    attrs = dict(hidden=hidden, batch=batch, updates=made, workers=workers, optimiser=optimiser.name, task=task.name)
    attrs |= task.attrs
    spent = costs(runs.fits, measured, peaks, runs.seeds)
    spent.attrs["workers"] = workers
    every = {name: own["test_every"] for name, own in course.items()}
    return assemble([own.network for own in contenders.values()], measured, runs.seeds, spent, every, attrs)


class Runs:
    """The runs of a comparison: contenders side by side, the seeds of each one after the other, on what was compiled
    once.
    """

    def __init__(self, task, contenders, schedules, seeds, hidden, options):
        self.task, self.contenders, self.schedules = task, contenders, schedules
        self.seeds, self.hidden, self.options = seeds, hidden, options
        self.lock, self.stop, self.made = threading.Lock(), threading.Event(), {}

    @property
    def fits(self):
        """What was trained, by contender, in their order."""
        return {name: self.made[name] for name in self.contenders}

    def all(self, workers, release):
        """Train all; ``{contender: [what one seed measured]}``. What was compiled is freed when ``release`` closes."""
        with undisguised(), ThreadPoolExecutor(workers) as pool:
            futures = {name: pool.submit(self.train, name, release) for name in self.contenders}
            try:
                return {name: future.result() for name, future in futures.items()}
            except BaseException as error:  # one run failed, or Ctrl-C: the others save what they have and stop
                self.stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                for fit in list(self.made.values()):
                    fit.interrupt()
                if isinstance(error, KeyboardInterrupt):
                    raise Interrupted(f"stopped; {saved_in(self.options.path)}") from None
                raise

    def train(self, name, release):
        """All seeds of one contender."""
        with self.lock:  # Brian2 generates code for one network at a time
            fit = self.made[name] = self.fit(name)
            release.callback(fit.close)
        return [self.one(fit, name, seed) for seed in self.seeds]

    def fit(self, name):
        own, first = self.contenders[name], self.seeds[0]
        options = replace(self.options, backend=own.backend, seed=first)
        stores = [store_of(options.path, name, seed) for seed in self.seeds if options.resume]
        started = math.gcd(*(reached(store).done for store in stores))
        described = (own.network, self.task, own.network.draw(first), own.rule, own.optimiser, own.loss)
        return Fit(*described, self.schedules[name], options, started=started)

    def one(self, fit, name, seed):
        """Train once; returns what it measured along training, ``metrics``, and its ``speed`` by backend."""
        net = fit.net
        fit.restart(net.draw(seed), seed)
        trials = fit.task.testing(min(PROBE_TRIALS, fit.test), seed)

        def probe(fit):
            values = fit.values.replace_weights(fit.learner.numbers(), fit.learner.parameters())
            rule = as_it_is(fit.rule, fit.learner.feedback)
            found = gradient_measures(net, values, trials, rule, fit.loss, self.hidden, seed)
            return {**found, **feedback_cosines(net, values, rule, seed)}

        store, title = store_of(self.options.path, name, seed), f"{name}, {fit.backend}, seed {seed}"
        kept = dict(path=store, resume=self.options.resume, show=self.options.show, title=title, stop=self.stop)
        tree = fit.run(Request(), probe=probe, probed={"hidden": self.hidden}, **kept)
        return {"metrics": tree["metrics"].to_dataset().load(), "speed": seconds_per_trial(fit, seed)}


def store_of(path, name, seed):
    """Where in the folder ``path`` the record of one run stands: every name has its own; None where there is none."""
    word = quote(name, safe=" ,()+=").replace("_", "%5F").replace(" ", "_")
    return None if path is None else Path(path) / f"{word}-seed{seed}.zarr"


def costs(fits, runs, peaks, seeds):
    """Time, memory and state of every rule as one Dataset."""
    names = list(fits)
    speed = [[[run["speed"].get(b, np.nan) for b in BACKENDS] for run in runs[n]] for n in names]
    timed = {
        "units": "s",
        "comment": "wall clock of training over its trials, without tests and compilation; brian2 includes the "
        "exchange of files with the compiled program; workers other than 1 ran side by side",
    }
    peak = [[peaks[n].get(b, np.nan) for b in BACKENDS] for n in names]
    states = [state_bytes(fit.net, {name: fit.rule}, fit.loss, fit.optimiser) for name, fit in fits.items()]
    shared = {dim: strings(union(list(state[dim].values) for state in states)) for dim in ("projection", "node")}
    spent = xr.concat([state.reindex(shared) for state in states], "rule", combine_attrs="override")
    return spent.assign(
        seconds_per_trial=(("rule", "seed", "backend"), np.array(speed), timed),
        peak_memory=(("rule", "backend"), np.array(peak), {"units": "byte", "comment": HOW_MEMORY}),
    ).assign_coords(
        seed=seeds,
        backend=strings(BACKENDS),
        trained_on=("rule", strings([fit.backend for fit in fits.values()])),
        network=("rule", strings([sketch(fit.net) for fit in fits.values()])),
        optimiser=("rule", strings(["; ".join(told(fit)) for fit in fits.values()])),
        updates=("rule", [fit.updates for fit in fits.values()]),
        batch=("rule", [fit.batch for fit in fits.values()]),
        made=(("rule", "seed"), [[int(run["metrics"]["update"][-1]) for run in runs[n]] for n in names]),
    )


def told(fit):
    """How fast a contender learns, and what it does when validation says so, in words."""
    return [fit.optimiser.label, *(how.label for how in fit.schedule.watch)]


def union(lists):
    """Every name of some lists once, in order of appearance."""
    return list(dict.fromkeys(name for names in lists for name in names))


def assemble(nets, runs, seeds, spent, every, attrs):
    """The plain results of all runs as one tree."""
    update = [(name, run["metrics"]["update"].values) for name, found in runs.items() for run in found]
    probed = np.unique(np.concatenate([at[(at % every[name] == 0) | (at == at[-1])] for name, at in update]))
    trained = np.arange(1, probed[-1] + 1)
    learning = union([*(p.name for p in net.plastic), *net.trainable] for net in nets)
    backwards = union([name for name, p in net.projections.items() if p.pre in net.populations] for net in nets)

    def coords(at):
        trials = (("rule", "update"), np.outer(spent["batch"], at), {"long_name": "trials learned from"})
        return {"rule": strings(list(runs)), "seed": seeds, "update": at, "trials": trials}

    def single(units, at):
        dims = ("rule", "seed", "update")
        data = {key: (dims, gather(runs, key, at), {"units": unit}) for key, unit in units.items()}
        return xr.Dataset(data, coords(at))

    def by_projection(keys, projections):
        dims = ("rule", "seed", "update", "projection")
        data = {
            short: (dims, np.stack([gather(runs, f"{key}.{p}", probed) for p in projections], -1), {"units": "1"})
            for key, short in keys.items()
        }
        return with_angle(xr.Dataset(data, {**coords(probed), "projection": strings(projections)}))

    return xr.DataTree.from_dict(
        {
            "/": xr.Dataset(attrs={**attrs, "dt": float(nets[0].dt), "seeds": seeds, **where()}),
            "/curves": single(CURVES, probed),
            "/training": single(TRAINING, trained),
            "/alignment": by_projection({k: k for k in MEASURES}, learning),
            "/hidden": with_angle(single(dict.fromkeys(MEASURES, "1"), probed)),
            "/feedback": by_projection({"feedback_cosine": "cosine"}, backwards),
            "/cost": spent,
        }
    )


def gather(runs, key, at):
    """One metric of all runs ``(rule, seed, update)`` at some updates; NaN where a run has none."""

    def of(metrics):
        return metrics[key].reindex(update=at).values if key in metrics else np.full(len(at), np.nan)

    return np.array([[of(run["metrics"]) for run in found] for found in runs.values()])


def where():
    """What a comparison was measured with and on."""
    return {**{package: version(package) for package in ("localplast", "brian2", "torch")}, "machine": machine()}


def strings(values):
    """Text of variable length, which Zarr can store in a way that others read."""
    return np.array(values, object)
