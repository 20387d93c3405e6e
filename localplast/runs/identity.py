"""What two runs must share for one to go on with the other: everything that changes a number, and nothing else.

How long a run learns, when it is tested and what is shown change no number that another schedule would give as well, so
they are not part of it. What was tested on an earlier schedule stays in the record.
"""

import hashlib
import json
import platform
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from localplast.errors import LocalplastError, LocalplastWarning
from localplast.files import encode
from localplast.runs.record import version
from localplast.task.trials import Poisson

__all__ = ["check_arrays", "check_same", "check_state", "identity", "processor", "surroundings", "warn_of_changes"]

#: Test trials that are looked at to tell one task from another.
LOOKED_AT = 16
#: What follows from the others: named only where those agree.
DERIVED = ("values to start from", "training trials", "test trials")
#: What the state in a checkpoint says, by type.
STATE: dict[str, Any] = {"done": int, "seconds": (int, float), "position": dict, "identity": dict, "surroundings": dict}


def identity(fit):
    """The identity of a :class:`~localplast.runs.fit.Fit`, by what a person would call each part: JSON data."""
    values, tests = fit.values, min(fit.test, LOOKED_AT)
    parts = {
        "network": short(fit.net.encoded()),
        "rule": short(encode(fit.rule)),
        "optimiser": short(encode(fit.optimiser)),
        "loss": short(encode(fit.loss)),
        "task": fit.task.name,
        "settings": fit.task.attrs.get("settings"),
        "seed": fit.seed,
        "batch": fit.batch,
        "test": fit.test,
        "backend": fit.backend,
        "watch": watched(fit),
        **fit.options.numerics,
    }
    found = (
        [values.weights, values.masks, values.delays, values.parameters],
        content(fit.source.training(0, fit.batch, fit.seed)),
        content(fit.task.testing(tests, fit.seed)) if tests else None,
    )
    return {**parts, **{name: short(encode(each)) for name, each in zip(DERIVED, found, strict=True)}}


def watched(fit):
    """What a run watches, how often included: it changes what is learned. None where it watches nothing."""
    return short(encode(fit.schedule.watch)) if fit.schedule.watch else None


def content(trials):
    """Everything in some trials."""
    inputs = {k: [v.rates, v.segment] if isinstance(v, Poisson) else v for k, v in trials.inputs.items()}
    return [inputs, *(None if x is None else np.asarray(x) for x in (trials.target, trials.weight))]


def short(data):
    """A digest of JSON data."""
    return "sha256:" + hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def check_same(path, then, now):
    """Raise where the run at ``path`` is not the one that shall go on, and say in what they differ."""
    differ = [name for name in now if then.get(name) != now[name]]
    told = [name for name in differ if name not in DERIVED] or differ
    if told:
        parts = " and ".join(f"other {name}{values(then.get(name), now[name])}" for name in told)
        raise LocalplastError(
            f"{path} is a run with {parts}; give the same to go on with it, or start anew at another path"
        )


def check_state(path, state):
    """Raise unless a checkpoint says where its run stands."""
    whole = isinstance(state, dict) and all(isinstance(state.get(name), kind) for name, kind in STATE.items())
    if not whole or any(type(n) is not int or n < 0 for n in (state["done"], *state["position"].values())):
        text = f"{path} does not say where a run stands; it is damaged, or none of localplast's: start anew"
        raise LocalplastError(text)


def check_arrays(path, then, now):
    """Raise unless the arrays of a checkpoint are by name, shape and type those of the run that shall go on."""
    forms = [{name: (np.shape(array), str(array.dtype)) for name, array in each.items()} for each in (then, now)]
    for name in sorted(forms[0].keys() | forms[1].keys()):
        found, wanted = (each.get(name, "nothing") for each in forms)
        if found != wanted:
            text = f"{path} holds {found} of {name[:80]!r} where this run has {wanted}; it cannot go on from there"
            raise LocalplastError(text)


def values(then, now):
    """Both values in brackets, where they mean something to a person."""
    return "" if str(now).startswith("sha256:") else f" ({then!r}, not {now!r})"


def surroundings():
    """What rounding depends on besides: the versions of what computes, and the processor."""

    packages = ("localplast", "brian2", "torch", "numpy")
    return {**{package: version(package) for package in packages}, "processor": processor()}


def warn_of_changes(path, then):
    """Say where a run goes on with other packages, or on another machine, than it began."""
    now = surroundings()
    changed = [f"{name} {then.get(name)}, now {now[name]}" for name in now if then.get(name) != now[name]]
    if changed:
        differ = "the last digits may differ from those of a run never interrupted"
        text = f"{path} began with {'; '.join(changed)}: {differ}"
        warnings.warn(text, LocalplastWarning, stacklevel=5)


def processor():
    """The name of the processor, as far as the system tells."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown processor"
