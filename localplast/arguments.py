"""Checks of what people give: what is wrong gets one sentence that says the cure, before anything is compiled.

The verbs call them at their top, and so does the command line; specifications call those of numbers when they are made.
"""

import os
from typing import Literal, get_args

import numpy as np
from brian2.units.fundamentalunits import DIMENSIONLESS, get_dimensions

from localplast.equations.units import unscaled
from localplast.errors import LocalplastError, NetworkError, UnsupportedError
from localplast.packages import need_torch

__all__ = [
    "BACKENDS",
    "TARGETS",
    "as_number",
    "check_backend",
    "check_choice",
    "check_device",
    "check_dtype",
    "check_form",
    "check_kind",
    "check_named",
    "check_path",
    "check_schedule",
    "check_seed",
    "check_simulating",
    "check_threads",
    "check_trainable",
    "check_whole",
    "is_real",
    "presented",
]

Backend = Literal["brian2", "torch"]
#: What Brian2 turns its equations into.
Target = Literal["numpy", "cython", "cpp"]
Dtype = Literal["float64", "float32"]
#: How a gradient is found in Torch, where there is a choice.
Form = Literal["traces", "adjoint", "forward"]
BACKENDS, TARGETS, DTYPES, FORMS = map(get_args, (Backend, Target, Dtype, Form))
#: What an argument of a type is, and what makes one.
MADE = {
    "Network": "a Network, such as Network(dt=1*ms, ...)",
    "Trials": "Trials, such as Trials({'cues': raster}, target)",
    "Task": "a Task, such as Task.generated('xor', generate)",
    "Rule": "a rule that is made, such as localplast.rules.eprop()",
    "Contender": "a Contender, such as Contender(eprop(), 'brian2')",
    "Optimiser": "an optimiser that is made, such as localplast.adam(1e-3)",
    "Loss": "a loss that is made, such as localplast.losses.mse()",
    "Values": "Values, such as net.draw(seed)",
}


def check_kind(name, given, *kinds):
    """Raise unless the argument ``name`` is of one of these types; says what it is instead."""
    if not isinstance(given, kinds):
        raise LocalplastError(
            f"{name} is {' or '.join(MADE[kind.__name__] for kind in kinds)}; given {described(given)}"
        )


def described(given):
    """What was given, in words, and how to mend it where that can be told."""
    kind = type(given).__name__
    if kind in MADE:
        return f"{MADE[kind].split(',')[0]}: is it in the place of another argument?"
    if isinstance(given, type) or callable(given):
        made = getattr(given, "__name__", "it")
        return f"the function {made} itself: call it, {made}(...)"
    if isinstance(given, str):
        return f"the text {given!r}: no name is looked up, make the object"
    return f"{given!r:.80}, a {kind}"


def check_whole(name, given, low=0, unit=""):
    """Raise unless ``given`` is a whole number, not below ``low``."""
    whole = isinstance(given, (int, np.integer)) and not isinstance(given, bool)
    if not whole or given < low:
        raise LocalplastError(f"{name} is a whole number{unit}, {low} or more; given {given!r:.80}")


def is_real(value):
    """Whether ``value`` is made of real numbers, none of them NaN; with a unit or without."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        return False
    return array.dtype.kind in "biuf" and not np.any(np.isnan(array))


def as_number(name, given, low=-np.inf, high=np.inf, *, dimension=DIMENSIONLESS, above=False):
    """``given`` as a float in SI units; raises unless it is one number between ``low`` and ``high``, of this
    dimension or none.

    With ``above`` it must lie above ``low``.
    """
    fits = is_real(given) and np.ndim(given) == 0 and get_dimensions(given) in (DIMENSIONLESS, dimension)
    if fits and np.isfinite(float(given)) and low <= float(given) <= high and not (above and float(given) == low):
        return float(given)
    unit = "" if dimension is DIMENSIONLESS else f" in {unscaled(dimension)!r}"
    first = f"above {low:g}" if above else f"from {low:g}"
    bounds = "" if (low, high) == (-np.inf, np.inf) else f", {first}" + (f" to {high:g}" if high < np.inf else "")
    raise LocalplastError(f"{name} is one number{unit}{bounds}; given {given!r:.80}")


def check_seed(seed):
    """Raise unless ``seed`` is a whole number from 0."""
    check_whole("seed", seed)


def check_choice(name, given, choices):
    """Raise unless ``given`` is one of ``choices``, texts."""
    if not isinstance(given, str) or given not in choices:
        raise LocalplastError(f"{name} is {' or '.join(map(repr, choices))}, not {given!r:.80}")


def check_backend(backend, target=None):
    """Raise unless there is such a backend, with this code generation target where one is given.

    ``'numpy'`` asks for nothing to be compiled, and may stand in a call that serves both backends.
    """
    check_choice("backend", backend, BACKENDS)
    if target is None:
        return
    check_choice("target", target, TARGETS)
    if backend != "brian2" and target != "numpy":
        raise LocalplastError(f"target={target!r} is a program of Brian2's; leave it out with backend={backend!r}")


def check_dtype(dtype, backend):
    """The name of the type of number; raises unless the backend counts in it."""
    name = dtype if isinstance(dtype, str) else str(dtype).removeprefix("torch.")
    check_choice("dtype", name, DTYPES)
    if backend == "brian2" and name != "float64":
        raise UnsupportedError(f"Brian2 counts in float64; for dtype={name!r} use backend='torch'")
    return name


def check_device(device, backend):
    """Raise where nothing can run on ``device``."""
    kind, _, number = device.partition(":") if isinstance(device, str) else ("", "", "")
    if kind not in ("cpu", "cuda") or (number and not (kind == "cuda" and number.isdigit())):
        raise LocalplastError(f"device is 'cpu', 'cuda' or one of several, such as 'cuda:1', not {device!r}")
    if device == "cpu":
        return
    if backend != "torch":
        raise LocalplastError(f"backend {backend!r} runs on the CPU; for device {device!r} use backend='torch'")
    need_torch(f"device {device!r}")
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(number or 0) >= found:
        raise LocalplastError(
            f"device {device!r}: this Torch ({torch.__version__}) finds {found} CUDA devices; use device='cpu', or "
            "install a CUDA build of Torch where there is such a device"
        )


def check_simulating(options):
    """Raise where Trials, which are simulated, come with ``options`` of learning."""
    given = [f"{name}=" for name, value in options.items() if value not in (None, False)]
    if given:
        raise LocalplastError(
            f"Trials are simulated, and nothing learns: leave out {', '.join(given)}, or give a Task to be learned"
        )


def check_threads(threads, backend, simulated=False):
    """How many threads share a batch, one where nobody says; raises where there is nothing that they could share."""
    if threads is None:
        return 1
    check_whole("threads", threads, 1)
    if threads > 1 and (simulated or backend != "torch"):
        one = "a simulation" if simulated else "Brian2"
        raise LocalplastError(
            f"threads={threads} would share a batch that is learned with backend='torch', and {one} runs on one "
            "thread: leave threads= out"
        )
    return threads


def check_schedule(*, batch, updates, test=0, test_every=None):
    """Raise unless these say for how long a task is learned, and when it is tested."""
    if updates is None:
        raise LocalplastError("give Trials to simulate, or a Task with updates=, such as 100, to learn it")
    check_whole("updates", updates, 1)
    check_whole("batch", batch, 1, " of trials per update")
    check_whole("test", test, 0, " of trials")
    if test_every is not None:
        check_whole("test_every", test_every, 1, " of updates")


def check_named(what, names, net):
    """Raise unless each of ``names`` is a projection of ``net``, or a parameter or a delay that may learn."""
    known = [*net.projections, *net.trainable]
    if unknown := [name for name in names if name not in known]:
        raise NetworkError(
            f"{what} names {unknown[0]!r}, which the network does not have; there are {', '.join(known)}"
        )


def check_path(path, resume=False):
    """Raise unless ``path`` is the name of a file or folder, or None where there is nothing to go on with."""
    if path is not None and (not isinstance(path, (str, os.PathLike)) or "\0" in os.fspath(path)):
        raise LocalplastError(f"path names a record, such as 'results/xor.zarr', or is None; given {path!r:.80}")
    if not isinstance(resume, bool):
        raise LocalplastError(f"resume is True or False; given {resume!r:.80}")
    if resume and path is None:
        raise LocalplastError("resume goes on with the record at path=: say which")


def check_form(form, backend):
    """Raise unless a gradient can be found in this way."""
    if form is None:
        return
    check_choice("form", form, FORMS)
    if backend != "torch":
        raise UnsupportedError(f"Brian2 carries traces forward; form={form!r} is for backend='torch'")


def check_trainable(net, names):
    """``names`` as a tuple; raises unless each is a parameter, a delay or a weight of the network."""
    names = (names,) if isinstance(names, str) else tuple(names)
    known = [f"{n}.{k}" for n, p in net.populations.items() for k in p.values]
    known += [f"{n}.{k}" for n in net.projections for k in ("weight", "delay")]
    if unknown := [name for name in names if name not in known]:
        raise NetworkError(f"trainable={unknown[0]!r} is nothing that could learn; there are {', '.join(known)}")
    return names


def presented(task, what, number, *arguments):
    """The trials that ``task.training`` or ``task.testing`` gives; raises where they are none, or not as many as
    asked for.
    """
    trials = getattr(task, what)(*arguments)
    if type(trials).__name__ != "Trials":
        raise LocalplastError(f"task {task.name!r}: {what}(...) must give Trials, not {described(trials)}")
    if len(trials) != number:
        raise LocalplastError(
            f"task {task.name!r}: {what}(...) gave {len(trials)} trials where {number} were asked for; give as many, "
            "or ask for less"
        )
    return trials
