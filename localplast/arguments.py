"""The arguments of the public verbs, checked in one place, at their top: what is wrong gets one sentence that says the cure."""

import os

import numpy as np
from brian2.units.fundamentalunits import DIMENSIONLESS, Quantity, get_dimensions

from localplast.check import unit_text
from localplast.errors import LocalplastError, NetworkError, UnsupportedError
from localplast.loss import Branching, Loss, RateRegulariser
from localplast.network import Network
from localplast.optimise import Optimiser
from localplast.parts import Values
from localplast.packages import need_torch
from localplast.plan import judged_readout
from localplast.rule import Rule
from localplast.task import Task, Trials

__all__ = [
    "BACKENDS", "TARGETS", "check_backend", "check_device", "check_dtype", "check_form", "check_kind", "check_learning", "check_path",
    "check_seed", "check_simulating", "check_trainable", "check_trials", "check_whole", "presented",
]  # fmt: skip

BACKENDS = ("brian2", "torch")
#: What Brian2 turns its equations into.
TARGETS = ("numpy", "cython", "cpp")
DTYPES = ("float64", "float32")
#: What each argument is, what makes one, and what else is known by that name.
KINDS = {
    Network: "a Network, such as Network(dt=1*ms, ...)",
    Trials: "Trials, such as Trials({'cues': raster}, target)",
    Task: "a Task, such as Task.generated('xor', generate)",
    Rule: "a rule that is made, such as localplast.rules.eprop()",
    Optimiser: "an optimiser that is made, such as localplast.adam(1e-3)",
    Loss: "a loss that is made, such as localplast.losses.mse()",
    Values: "Values, such as net.draw(seed)",
}


def check_kind(name, given, *kinds):
    """Raise unless the argument ``name`` is one of ``kinds``; says what it is instead."""
    if isinstance(given, kinds):
        return
    wanted = " or ".join(KINDS[kind] for kind in kinds)
    raise LocalplastError(f"{name} is {wanted}; given {shown(given)}")


def shown(given):
    """What was given, in words, and how to mend it where that can be told."""
    if isinstance(given, type) or callable(given) and not isinstance(given, (*KINDS, Task)):
        made = getattr(given, "__name__", "it")
        return f"the function {made} itself: call it, {made}(...)"
    if isinstance(given, str):
        return f"the text {given!r}: a name is not looked up, make the object"
    if isinstance(given, (RateRegulariser, Branching)):
        return "a regulariser alone: add it to a loss, such as mse() + it"
    known = next((text.split(",")[0] for kind, text in KINDS.items() if isinstance(given, kind)), None)
    return f"{known}: is it in another's place?" if known else f"{given!r:.80}, a {type(given).__name__}"


def check_whole(name, given, low=0, unit=""):
    """Raise unless ``given`` is a whole number, not below ``low``."""
    whole = isinstance(given, (int, np.integer)) and not isinstance(given, (bool, np.bool_))
    if not whole or given < low:
        raise LocalplastError(f"{name} is a whole number{unit}, {low} or more; given {given!r:.80}")


def check_seed(seed):
    """Raise unless ``seed`` is a whole number from 0."""
    check_whole("seed", seed)


def check_choice(name, given, choices):
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
    """The name of the type of number; raises unless Torch learns with it, or Brian2 counts with it."""
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
            f"device {device!r}: this Torch ({torch.__version__}) finds {found} CUDA devices; use device='cpu', or install a "
            "CUDA build of Torch where there is such a device"
        )


def check_simulating(options):
    """Raise where ``run`` is given Trials, which are simulated, with ``options`` of learning."""
    given = [f"{name}=" for name, value in options.items() if value not in (None, False)]
    if given:
        raise LocalplastError(
            f"Trials are simulated, and nothing learns: leave out {', '.join(given)}, or give a Task to be learned"
        )


def check_learning(*, rule, optimiser, loss=None, batch, updates, test=0, test_every=None, path=None, resume=False):
    """Raise where these arguments of learning are not what they have to be."""
    for name, given, kind in (("rule", rule, Rule), ("optimiser", optimiser, Optimiser)):
        if given is None:
            raise LocalplastError(f"give Trials to simulate, or a Task with {name}=, {KINDS[kind]}, to learn it")
        check_kind(name, given, kind)
    if loss is not None:
        check_kind("loss", loss, Loss)
    if updates is None:
        raise LocalplastError("give Trials to simulate, or a Task with updates=, such as 100, to learn it")
    check_whole("updates", updates, 1)
    check_whole("batch", batch, 1, " of trials per update")
    check_whole("test", test, 0, " of trials")
    if test_every is not None:
        check_whole("test_every", test_every, 1, " of updates")
    if resume and path is None:
        raise LocalplastError("resume goes on with the record at path=: say which")


def check_form(form, rule, backend):
    """Raise unless a gradient can be found in this way."""
    if form is None:
        return
    check_choice("form", form, ("traces", "adjoint", "forward"))
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


def check_path(path):
    """Raise unless ``path`` is the name of a file or folder, or None."""
    if path is not None and not isinstance(path, (str, os.PathLike)):
        raise LocalplastError(f"path names a record, such as 'results/xor.zarr', or is None; given {path!r:.80}")


def check_trials(net, trials, loss=None):
    """Raise where a batch does not fit the network, or where ``loss`` cannot be told from it: for every batch, on every backend."""
    check_kind("trials", trials, Trials)
    trials.check(net)
    if loss is None:
        return
    readout = judged_readout(net, loss)
    loss.check(trials, net.size(readout), float(net.dt))
    if isinstance(trials.target, Quantity):
        check_target_unit(net, readout, get_dimensions(trials.target))


def check_target_unit(net, readout, dimension):
    """Raise where a target has another unit than the output that is to reach it."""
    expected = net.nodes[readout].model.output_dimension
    if dimension not in (DIMENSIONLESS, expected):
        raise NetworkError(
            f"the target is in {unit_text(dimension)}, and the output of {readout!r} in {unit_text(expected)}: give the same"
        )


def presented(task, what, number, *arguments):
    """The trials that ``task.training`` or ``task.testing`` gives, as many as were asked for; raises where it does not."""
    trials = getattr(task, what)(*arguments)
    if not isinstance(trials, Trials):
        raise LocalplastError(f"task {task.name!r}: {what}(...) must give Trials, not a {type(trials).__name__}")
    if len(trials) != number:
        raise LocalplastError(
            f"task {task.name!r}: {what}(...) gave {len(trials)} trials where {number} were asked for; give as many, or ask for less"
        )
    return trials
