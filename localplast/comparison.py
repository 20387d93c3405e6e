"""How far is a local rule from backpropagation? The same network, task, optimiser and seeds under several rules."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xarray as xr

from localplast.fit import Fit
from localplast.record import Request
from localplast.rule import Rule
from localplast.rules import bptt
from localplast.verbs import BACKENDS, make_learner

__all__ = ["Contender", "alignment", "compare", "hidden_gradient", "markdown"]

ALIGNMENT = ("relative_error", "cosine", "norm_ratio", "sign_agreement")
CURVES = ("test_accuracy", "test_loss", "test_spikes")
#: Trials that a gradient is compared on.
PROBE_TRIALS = 64


@dataclass(frozen=True)
class Contender:
    """A rule as it takes part in a comparison: where it runs, and which projections stay as they are."""

    rule: Rule
    backend: str
    frozen: tuple = field(default=())


def as_contender(rule):
    """Local rules run online in Brian2, BPTT in Torch, unless a :class:`Contender` says otherwise."""
    return rule if isinstance(rule, Contender) else Contender(rule, "brian2" if rule.local else "torch")


def compare(
    net, task, rules, *, optimiser, loss=None, seeds=(0,), batch=32, updates=100, test=200, probes=5, hidden=None,
    path=None, resume=False, target=None, workers=1, show=None,
):
    """Train ``net`` on ``task`` under every rule and seed, and measure each against BPTT along the way.

    Parameters
    ----------
    rules : dict of str to Rule or Contender
        By the name they get in the result.

    Other arguments
    ---------------
    optimiser : Optimiser
        The same for all: else optimisers would be compared.
    probes : int
        At how many moments, evenly spread over training, the gradient is compared with BPTT's at the same weights.
    hidden : str, optional
        The population whose incoming weights are compared; default: the first spiking one.
    path : path, optional
        A folder for one record per run.
    workers : int
        Runs that go on side by side.

    Returns
    -------
    xarray.DataTree
        ``/curves`` (rule, seed, update): test accuracy and loss; ``/alignment`` (rule, seed, probe): relative error,
        cosine, norm ratio and sign agreement of the hidden gradient with BPTT's; ``/cost`` (rule, seed,
        backend): seconds per 1000 trials on each backend (NaN where a rule cannot run; compilation not counted).
    """
    hidden = hidden or next(name for name, p in net.populations.items() if p.model.spiking)
    contenders = {name: as_contender(rule) for name, rule in rules.items()}
    every = max(updates // max(probes, 1), 1)
    updates = every * max(probes, 1)
    lock, stop = threading.Lock(), threading.Event()

    def train(name):
        contender = contenders[name]
        chosen = optimiser.with_rates(**{projection: 0.0 for projection in contender.frozen})
        with lock:  # Brian2 generates code for one network at a time
            fit = Fit(
                net, task, net.draw(seeds[0]), contender.rule, chosen, loss=loss, backend=contender.backend, batch=batch,
                updates=updates, test=test, test_every=every, seed=seeds[0], target=target,
            )
        try:
            return [
                one_run(fit, net, name, hidden, seed, path=path, resume=resume, show=show, stop=stop) for seed in seeds
            ]
        finally:
            fit.close()

    with ThreadPoolExecutor(workers) as pool:
        futures = {name: pool.submit(train, name) for name in contenders}
        try:
            runs = {name: future.result() for name, future in futures.items()}
        except BaseException:  # one run failed, or Ctrl-C: the others save what they have and stop
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return assemble(net, task, contenders, runs, list(seeds), hidden=hidden, batch=batch, optimiser=optimiser.name)


def one_run(fit, net, name, hidden, seed, *, path, resume, show, stop):
    """Train once; returns what it measured along training, ``metrics``, and its ``speed`` by backend."""
    fit.restart(net.draw(seed), seed)
    trials = fit.task.testing(min(PROBE_TRIALS, fit.test), seed)

    def probe(fit):
        values = fit.values.replace_weights(fit.learner.numbers())
        return alignment(net, values, trials, fit.rule, fit.loss, hidden, seed)

    store = None if path is None else Path(path) / f"{name.replace(' ', '-')}-seed{seed}.zarr"
    title = f"{name}, {fit.backend}, seed {seed}"
    tree = fit.run(Request(), path=store, resume=resume, show=show, title=title, probe=probe, stop=stop)
    metrics = tree["metrics"].to_dataset().load()
    speed = {fit.backend: 1e3 * fit.seconds / (fit.updates * fit.batch)}
    if fit.backend == "brian2":
        speed["torch"] = torch_speed(fit, seed)
    return {"metrics": metrics.isel(update=np.isfinite(metrics["cosine"].values)), "speed": speed}


def torch_speed(fit, seed, updates=5):
    """Seconds per 1000 trials of the same rule in Torch, after one update that is not counted."""
    example = fit.task.training(0, fit.batch, seed)
    learner = make_learner(
        fit.net, fit.values, fit.rule, fit.loss, fit.optimiser, example, backend="torch", batch=fit.batch, seed=seed,
        target=None, dtype="float64", threads=1, updates_per_block=1,
    )
    batches = [fit.task.training(k, fit.batch, seed) for k in range(updates + 1)]
    learner.train(batches[0])
    started = time.perf_counter()
    for trials in batches[1:]:
        learner.train(trials)
    return 1e3 * (time.perf_counter() - started) / (updates * fit.batch)


def hidden_gradient(net, values, trials, rule, loss, hidden, seed):
    """The gradient of all plastic weights onto ``hidden``, as one vector."""
    from localplast.backends.torch_backend import gradient

    grads, _ = gradient(net, values, trials, rule, loss, seed=seed)
    return np.concatenate([grads[f"{p.name}.weight"][values.masks[p.name]] for p in net.plastic if p.post == hidden])


def alignment(net, values, trials, rule, loss, hidden, seed):
    """The hidden gradient of ``rule`` against BPTT's: relative error, cosine, norm ratio, sign agreement."""
    estimate = hidden_gradient(net, values, trials, rule, loss, hidden, seed)
    exact = hidden_gradient(net, values, trials, bptt(), loss, hidden, seed)
    norms = np.linalg.norm(estimate), np.linalg.norm(exact)
    return {
        "relative_error": float(np.linalg.norm(estimate - exact) / norms[1]),
        "cosine": float(estimate @ exact / (norms[0] * norms[1])),
        "norm_ratio": float(norms[0] / norms[1]),
        "sign_agreement": float(np.mean(np.sign(estimate) == np.sign(exact))),
    }


def assemble(net, task, contenders, runs, seeds, **attrs):
    """The plain results of all runs as one tree."""
    names = list(contenders)
    coords = {"rule": strings(names), "seed": seeds}
    probes = runs[names[0]][0]["metrics"]["update"].values

    def gather(keys):
        dims = ("rule", "seed", "update")
        return {k: (dims, np.array([[run["metrics"][k].values for run in runs[n]] for n in names])) for k in keys}

    speed = [[[run["speed"].get(b, np.nan) for b in BACKENDS] for run in runs[n]] for n in names]
    cost = {"seconds_per_1000_trials": (("rule", "seed", "backend"), np.array(speed), {"units": "s"})}
    trained = ("rule", strings([contenders[n].backend for n in names]))
    return xr.DataTree.from_dict({
        "/": xr.Dataset(attrs={**attrs, "task": task.name, "dt": float(net.dt)}),
        "/curves": xr.Dataset(gather(CURVES), {**coords, "update": probes}),
        "/alignment": xr.Dataset(gather(ALIGNMENT), {**coords, "update": probes}),
        "/cost": xr.Dataset(cost, {**coords, "backend": strings(BACKENDS), "trained_on": trained}),
    })


def strings(values):
    """Text of variable length, which Zarr can store in a way that others read."""
    return np.array(values, object)


def markdown(tree):
    """The comparison as a Markdown table: mean ± standard deviation over seeds."""
    curves, aligned, cost = (tree[name].to_dataset() for name in ("curves", "alignment", "cost"))
    header = ["rule", "trained on", "test accuracy (%)", "relative error", "cosine", "spikes per neuron"]
    header += [f"{b}: s per 1000 trials" for b in BACKENDS]
    lines = [" | ".join(header), " | ".join(["---"] * len(header))]
    along = aligned.isel(update=slice(1, None))
    for rule in curves["rule"].values:
        final = curves.sel(rule=rule).isel(update=-1)
        row = [
            str(rule), str(cost["trained_on"].sel(rule=rule).values),
            spread(100 * final["test_accuracy"].values, 1),
            spread(along["relative_error"].sel(rule=rule).mean("update").values, 3),
            spread(along["cosine"].sel(rule=rule).mean("update").values, 3),
            spread(final["test_spikes"].values, 1),
            *(spread(cost["seconds_per_1000_trials"].sel(rule=rule, backend=b).values, 2) for b in BACKENDS),
        ]
        lines.append(" | ".join(row))
    return "\n".join(f"| {line} |" for line in lines)


def spread(values, digits):
    """Mean ± sample standard deviation; of a single seed its value alone."""
    values = np.asarray(values, float)
    if np.isnan(values).all():
        return "-"
    mean = f"{values.mean():.{digits}f}"
    return f"{mean} ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else mean
