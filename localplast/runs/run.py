"""``localplast.run``: simulate a network, or let it learn."""

from collections.abc import Mapping, Sequence
from os import PathLike

import numpy as np
import xarray as xr
from brian2.units.fundamentalunits import Quantity

from localplast.arguments import Backend, Dtype, Target, check_kind, check_named, check_simulating
from localplast.errors import LocalplastError, NetworkError
from localplast.interrupt import still_deaf
from localplast.learning.optimise import Optimiser
from localplast.learning.rule import Rule
from localplast.network.network import Network
from localplast.network.values import Values
from localplast.runs.fit import fit
from localplast.runs.options import Options, Schedule, checked_values
from localplast.runs.request import Request
from localplast.runs.simulate import simulate
from localplast.runs.watch import Watch
from localplast.task.loss import Loss
from localplast.task.trials import Task, Trials

still_deaf()

__all__ = ["run"]


def run(
    net: Network,
    what: Trials | Task,
    *,
    backend: Backend = "brian2",
    rule: Rule | None = None,
    optimiser: Optimiser | None = None,
    loss: Loss | None = None,
    record: Sequence[str] | Mapping[str, Mapping] = (),
    every: int | Quantity = 1,
    seed: int = 0,
    values: Values | None = None,
    batch: int = 1,
    updates: int | None = None,
    test: int = 0,
    test_every: int | None = None,
    watch: Watch | Sequence[Watch] = (),
    path: str | PathLike | None = None,
    resume: bool = False,
    target: Target | None = None,
    dtype: Dtype = "float64",
    threads: int | None = None,
    device: str = "cpu",
    show: bool | None = None,
) -> xr.DataTree:
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
        ``'rec.v'``, ``'rec.spikes'`` (events), ``'rec.raster'`` (dense). While a task is learned weights alone can be
        kept: ``'cues_rec.weight'`` after every update, ``{'cues_rec.weight': {'every': 5}}`` after each so many and
        the last. See
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
        Number of test trials, and after how many updates they are presented (default: at the end). What is tested is
        the network with its learned delays rounded to whole steps (``values.rounded(net)``), and without its teachers.
    watch : Plateau, Stop or Best, or a sequence of such
        Learning rates that fall where the validation loss has stopped falling, a run that ends where its error is small
        enough, and one that keeps what was best: ``[Plateau(patience=2), Stop(error=0.07), Best()]``. A run that
        watches validation trials learns from ``task.validation``, which holds them back, and is tested on the test
        trials of ``task``.
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
        A progress bar, or lines where there is no terminal. Default: a bar on a terminal, else lines in the log
        (level INFO).

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
    simulated = isinstance(what, Trials)
    lengths = dict(updates=updates, test_every=test_every, test=test, batch=batch, watch=watch)
    if simulated:
        several = {**lengths, "batch": None if batch == 1 else batch, "test": test or None, "watch": watch or None}
        check_simulating(dict(rule=rule, optimiser=optimiser, loss=loss, resume=resume, **several))
    else:
        check_learner(net, rule, optimiser, loss)
        check_learning(net, optimiser, every)
    schedule = None if simulated else Schedule.checked(**lengths)
    where = dict(backend=backend, target=target, dtype=dtype, threads=threads, device=device, seed=seed)
    options = Options.checked(simulated=simulated, **where, path=path, resume=resume, show=show)
    values, request = checked_values(net, values, seed), Request.parse(net, record, every=every)
    if simulated:
        return simulate(net, what, values, request, options)
    return fit(net, what, values, request.along_learning(), rule, optimiser, loss, schedule, options)


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
