"""The verbs ``run`` and ``gradient``: simulate a network, let it learn, ask a rule for its gradient."""

import numpy as np
import xarray as xr

from localplast.arguments import (
    BACKENDS, check_backend, check_device, check_dtype, check_form, check_kind, check_named, check_path, check_schedule,
    check_seed, check_simulating, check_threads, check_trainable,
)  # fmt: skip
from localplast.delay import check_delays, unspread
from localplast.errors import LocalplastError, NetworkError
from localplast.finite import check_states, explained
from localplast.images import weight_dims
from localplast.interrupt import still_deaf
from localplast.lock import only_writer, writing
from localplast.loss import Loss, cross_entropy, mse
from localplast.network import Network
from localplast.optimise import Optimiser
from localplast.packages import need_torch
from localplast.parts import Values
from localplast.plan import check_trials
from localplast.progress import progress
from localplast.record import Recorder, Request
from localplast.rule import Rule
from localplast.task import Task, Trials

still_deaf()

__all__ = ["BACKENDS", "check_device", "default_loss", "gradient", "make_learner", "run"]

#: Numbers of input that one block of Brian2 trials may hold (8 bytes each).
BLOCK_NUMBERS = 8_000_000
#: Seconds between two checkpoints, at least.
CHECKPOINT_SECONDS = 20.0


def run(
    net, what, *, backend="brian2", rule=None, optimiser=None, loss=None, record=(), every=1, seed=0, values=None,
    batch=1, updates=None, test=0, test_every=None, path=None, resume=False, target=None, dtype="float64", threads=None,
    device="cpu", show=None,
):
    """Simulate a network, or let it learn.

    Parameters
    ----------
    net : Network
    what : Trials or Task
        Trials are simulated; a task is learned by ``rule``.

    Other arguments
    ---------------
    backend : str
        ``'brian2'`` (forward and online) or ``'torch'`` (batched and differentiable).
    rule, optimiser, loss
        What learns, how weights change, what is minimised (default: cross entropy of labels, half squared error of
        trajectories).
    record : sequence of str, or mapping of str to options
        ``'rec.v'``, ``'rec.spikes'`` (events), ``'rec.raster'`` (dense). While a task is learned weights alone can be kept:
        ``'cues_rec.weight'`` after every update, ``{'cues_rec.weight': {'every': 5}}`` after each so many and the last. See
        :func:`localplast.live` for what else happens then.
    every : int or Quantity
        Keep each so many steps of state variables, or one value in such a time.
    seed : int
        Of weights, feedback, trials and noise: same seed, same result on each backend, to the bit on one machine.
    values : Values, optional
        Weights to start from; default ``net.draw(seed)``.
    batch, updates : int
        Trials per update, and how many updates.
    test, test_every : int
        Number of test trials, and after how many updates they are presented (default: at the end). What is tested is the
        network with its learned delays rounded to whole steps (``values.rounded(net)``), and without its teachers.
    path : path, optional
        Write the record to a Zarr store while the run goes on, and checkpoints beside it.
    resume : bool
        Go on with the run at ``path``, for longer too; the result is that of a run never interrupted, to the bit on one
        machine. ``test_every`` may change: what was tested before stays in the record.
    target : str, optional
        Of Brian2: ``'numpy'``, ``'cython'`` or ``'cpp'``. Default: numpy to simulate; ``'cpp'`` to learn, where a
        compiler is found. ``'numpy'`` may be given with either backend.
    dtype : str
        Of Torch: ``'float64'`` or ``'float32'``.
    threads : int, optional
        Of Torch while it learns: how many may share a batch; default 1.
    device : str
        Of Torch: ``'cpu'``, where generated kernels run, or ``'cuda'`` (``'cuda:1'``), where the plain step does.
    show : bool, optional
        A progress bar, or lines where there is no terminal. Default: a bar on a terminal, else lines in the log (level INFO).

    Returns
    -------
    xarray.DataTree

    Raises
    ------
    RunawayError
        Not a number, or runaway activity; it carries the record so far.
    """
    check_kind("net", net, Network)
    check_kind("what", what, Trials, Task)
    simulated, schedule = isinstance(what, Trials), dict(updates=updates, test_every=test_every, test=test, batch=batch)
    if simulated:
        several = {**schedule, "batch": None if batch == 1 else batch, "test": test or None}
        check_simulating(dict(rule=rule, optimiser=optimiser, loss=loss, resume=resume, **several))
    else:
        check_learner(net, rule, optimiser, loss)
        check_schedule(**schedule)
        check_learning(net, optimiser, every)
    check_path(path, resume)
    dtype, values = check_options(net, backend, target, device, dtype, seed, values)
    threads = check_threads(threads, backend, simulated)
    request = Request.parse(net, record, every=every)
    options = dict(seed=seed, path=path, show=show, target=target, dtype=dtype, threads=threads, device=device)
    if simulated:
        return simulate(net, what, values, request, backend, **options)
    from localplast.fit import fit

    return fit(
        net, what, values, request.along_learning(), backend, rule=rule, optimiser=optimiser, loss=loss, batch=batch, updates=updates,
        test=test, test_every=test_every, resume=resume, **options,
    )


def check_learner(net, rule, optimiser, loss):
    """Raise unless these can let the network learn a task."""
    if rule is None or optimiser is None:
        raise LocalplastError("give Trials to simulate, or a Task with rule=, optimiser= and updates= to learn it")
    check_kind("rule", rule, Rule)
    check_kind("optimiser", optimiser, Optimiser)
    check_named("the optimiser", {*optimiser.rates, *optimiser.own, *optimiser.decaying}, net)
    if loss is not None:
        check_kind("loss", loss, Loss)


def check_learning(net, optimiser, every):
    """Raise where something is asked for that does nothing while a network learns."""
    if not np.array_equal(every, 1):
        raise LocalplastError(
            f"every={every!r} keeps each so many steps of states, and none is kept while a task is learned; for "
            "weights give record={'cues_rec.weight': {'every': 10}}, after each so many updates"
        )
    learns = {p.name for p in net.plastic}
    fixed = [name for name, rate in optimiser.rates.items() if rate and name in net.projections.keys() - learns]
    if fixed:
        raise NetworkError(
            f"the optimiser gives {fixed[0]!r} a rate, whose weights are fixed (plastic=False); leave it out of "
            "with_rates(), or let it learn"
        )


def check_options(net, backend, target, device, dtype, seed, values):
    """Check where and with what numbers to run; returns the name of the ``dtype``, and :class:`Values` to start from."""
    check_backend(backend, target)
    check_device(device, backend)
    check_seed(seed)
    if values is not None:
        check_kind("values", values, Values)
    return check_dtype(dtype, backend), values or net.draw(seed)


def default_loss(trials):
    """Cross entropy of labels, half the squared error of trajectories."""
    return cross_entropy() if np.ndim(trials.target) == 1 else mse()


def provenance(backend, seed, target):
    return {"backend": backend, "codegen": target if backend == "brian2" else "torch", "seed": seed}


def chunks(trials, numbers):
    """``trials`` in parts whose inputs hold at most ``numbers`` numbers."""
    per_trial = sum(int(np.prod(v.shape[1:])) for v in trials.inputs.values())
    size = max(1, numbers // max(per_trial, 1))
    return [trials[start : start + size] for start in range(0, len(trials), size)]


def simulate(net, trials, values, request, backend, *, seed, path, show, target, dtype, threads, device):
    """Present trials, record what was asked for."""
    check_trials(net, trials)
    check_delays(net, values, trials.steps)
    player = (brian2_player if backend == "brian2" else torch_player)(
        net, values, request, seed=seed, target=target or "numpy", dtype=dtype, device=device
    )
    origin = provenance(backend, seed, target or "numpy")
    with only_writer(path), writing(path, "start anew at another path"):
        recorder = Recorder(net, request, path=path, provenance=origin)
        with progress(backend, len(trials), show=show) as advance, recorder:
            for number, part in enumerate(chunks(trials, BLOCK_NUMBERS)):
                player(part, recorder, number)
                recorder.flush()
                advance(len(part))
            for name in request.weights:
                recorder.set_weights(name, values.weights[name])
    return recorder.tree()


def keep(recorder, request, arrays, spikes, shape):
    """Hand the arrays of some trials to the recorder: ``arrays(node, variable)`` and ``spikes(node)`` give them."""
    for entry in request.entries:
        if entry.variable == "spikes":
            recorder.add_spikes(entry.node, *spikes(entry.node), shape=shape)
        elif entry.variable != "weight":
            recorder.add(entry.node, entry.variable, entry.select(arrays(entry.node, entry.variable)))


def brian2_player(net, values, request, *, seed, target, dtype, device):
    from localplast.backends.brian2_backend import block_for, last_states
    from localplast.backends.brian2_run import session

    wanted = [(e.node, e.variable) for e in request.entries if e.variable != "weight"]

    def play(trials, recorder, number):
        running = session(target, net, values, block_for(net, trials, values), trials, request=wanted, seed=seed)
        try:
            results = running.run(trials, seed=[seed, number])

            def arrays(node, variable):
                return results.raster(node, net.size(node)) if variable == "raster" else results.state(node, variable)

            keep(recorder, request, arrays, results.spikes, (len(trials), trials.steps))
            with explained(net, values, trials, seed=seed, recorder=recorder):
                check_states(last_states(net, results))
        finally:
            running.close()

    return play


def torch_player(net, values, request, *, seed, target, dtype, device):
    need_torch("backend='torch'")
    import torch

    from localplast.backends.torch_backend import denormals_flushed
    from localplast.backends.torch_learn import single_thread
    from localplast.backends.torch_step import Twin, leaves
    from localplast.backends.torch_step import simulate as simulate_twin

    tensors = leaves(net, values, dtype=getattr(torch, dtype), device=device)
    twin = Twin(net, tensors, values.masks, widths=unspread(net))
    names = traced(net, request)

    def play(trials, recorder, number):
        rasters = trials.rasters(np.random.default_rng([seed, 4, number]), float(net.dt))
        inputs = {k: torch.as_tensor(v).transpose(0, 1).to(twin.like) for k, v in rasters.items()}
        with torch.no_grad(), denormals_flushed(), single_thread:
            traces = simulate_twin(twin, inputs, names, seed=[seed, number])
        keep(recorder, request, *seen(rasters, traces), (len(trials), trials.steps))
        with explained(net, values, trials, seed=seed, dtype=dtype, recorder=recorder):
            check_states(twin.last_states())

    return play


def traced(net, request):
    """What a Torch twin must be asked for in every step, of the states and spikes that are to be recorded: names."""
    wanted = {(e.node, "spikes" if e.variable == "raster" else e.variable) for e in request.entries if e.variable != "weight"}
    return [f"{node}.{variable}" for node, variable in sorted(wanted) if node in net.populations]


def seen(rasters, traces):
    """The ``arrays`` and ``spikes`` of :func:`keep`, from inputs ``(trial, time, neuron)`` and tensors ``(time, trial, neuron)``."""
    traces = {name: trace.transpose(0, 1).cpu().numpy() for name, trace in traces.items()}

    def arrays(node, variable):
        if node in rasters:
            return rasters[node]
        return traces[f"{node}.spikes"] > 0 if variable == "raster" else traces[f"{node}.{variable}"]

    def spikes(node):
        return np.nonzero(rasters[node] if node in rasters else traces[f"{node}.spikes"])

    return arrays, spikes


def gradient(
    net, trials, rule, *, loss=None, backend="torch", seed=0, values=None, target=None, trainable=(), form=None, dtype="float64",
    device="cpu",
):
    """dloss/dparameter before any optimiser, for BPTT and for every local rule, named and shaped alike.

    Parameters
    ----------
    net : Network
    trials : Trials
        The loss is the mean over them.
    rule : Rule
        A teacher (``Input(teacher=True)``) is heard by rules that are taught, and silent for others.

    Other arguments
    ---------------
    backend : str
        ``'torch'``, or ``'brian2'``: local rules only, accumulated step by step while Brian2 runs.
    values : Values, optional
        Default ``net.draw(seed)``.
    target : str, optional
        Of Brian2: ``'numpy'`` (the default), ``'cython'`` or ``'cpp'``.
    trainable, form, dtype, device
        See :func:`localplast.backends.torch_backend.gradient`; Brian2 knows ``trainable`` only.

    Returns
    -------
    xarray.DataTree
        One node per projection with ``gradient`` ``(pre, post)`` (or the shape of a kernel, or of a delay), one per population for its
        trainable parameters; ``attrs`` hold the rule, the loss and the accuracy.
    """
    check_kind("net", net, Network)
    check_kind("trials", trials, Trials)
    check_kind("rule", rule, Rule)
    if loss is not None:
        check_kind("loss", loss, Loss)
    dtype, values = check_options(net, backend, target, device, dtype, seed, values)
    check_form(form, backend)
    trainable = check_trainable(net, trainable)
    trials = trials if rule.taught else trials.without(net.teachers)
    loss = loss or default_loss(trials)
    check_trials(net, trials, loss)
    check_delays(net, values, trials.steps)
    options = dict(seed=seed, trainable=trainable)
    if backend == "brian2":
        from localplast.backends.brian2_backend import gradient as found

        with explained(net, values, trials, seed=seed):
            grads, info = found(net, values, trials, rule, loss, target=target or "numpy", **options)
    else:
        need_torch("a gradient with backend='torch'")
        import torch

        from localplast.backends.torch_backend import gradient as found
        from localplast.backends.torch_learn import single_thread

        with explained(net, values, trials, seed=seed, dtype=dtype), single_thread:
            grads, info = found(net, values, trials, rule, loss, form=form, dtype=getattr(torch, dtype), device=device, **options)
    nodes = {}
    for name, array in grads.items():
        part, variable = name.split(".")
        nodes.setdefault(f"/{part}", {})["gradient" if variable == "weight" else f"gradient_{variable}"] = labelled(
            net, part, array
        )
    attrs = {"rule": rule.name, "backend": backend, "loss": info["loss"], "accuracy": info["accuracy"], "seed": seed}
    datasets = {path: xr.Dataset(variables) for path, variables in nodes.items()}
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=attrs), **datasets})


def labelled(net, part, array):
    """An array with the dims that its shape means."""
    if part in net.projections and array.ndim >= 2:
        return (weight_dims(net, net.projections[part]), array)
    if part in net.projections and array.ndim == 1:
        return (("pre",) if net.projections[part].delay.kind == "axonal" else ("post",), array)
    return (("neuron",) * array.ndim, array)


def make_learner(
    net, values, rule, loss, optimiser, example, *, backend, batch, seed, target, dtype, threads, updates_per_block, device="cpu"
):
    """The learner of one backend; see ``TorchLearner`` and ``Brian2Learner``."""
    if backend == "torch":
        need_torch("learning with backend='torch'")
        import torch

        from localplast.backends.torch_learn import TorchLearner

        return TorchLearner(
            net, values, rule, loss, optimiser, batch=batch, seed=seed, dtype=getattr(torch, dtype), threads=threads,
            device=device,
        )
    from localplast.backends.brian2_backend import Brian2Learner

    return Brian2Learner(
        net, values, rule, loss, optimiser, example, batch=batch, seed=seed, target=target,
        updates_per_block=updates_per_block,
    )
