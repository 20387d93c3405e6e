"""How long a trained network remembers: its accuracy where a task asks more than it was trained for, and what a leak
can hold.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from brian2.units.fundamentalunits import Quantity
from numpy.typing import ArrayLike

from localplast.arguments import Dtype, check_dtype, check_kind, check_seed, check_whole
from localplast.backends.torch.gradient import denormals_flushed, prepare, score
from localplast.backends.torch.learner import Forward, single_thread
from localplast.backends.torch.step import leaves
from localplast.errors import NetworkError
from localplast.network.delays import unspread
from localplast.network.network import Network
from localplast.network.values import Values
from localplast.program.learn import check_trials
from localplast.runs.record import plain
from localplast.task.loss import Loss, default_loss
from localplast.task.trials import Trials

__all__ = ["accuracy_against", "leak_limit"]


def accuracy_against(
    net: Network,
    values: Values,
    make_trials: Callable[..., Trials],
    over: Mapping[str, Sequence | np.ndarray],
    *,
    trials: int = 200,
    seed: int = 0,
    loss: Loss | None = None,
    at_once: int = 32,
    dtype: Dtype = "float64",
    threads: int = 1,
) -> xr.Dataset:
    """Accuracy of a network that learns no more, where something about the task varies: the wait, the number of cues.

    ::

        make = functools.partial(evidence_trials, cues=7)
        accuracy_against(net, net.values_from(fit), make, {"duration": [2.25, 5, 30] * second})

    Parameters
    ----------
    net : Network
    values : Values
        Of a record of learning: ``net.values_from(record)``. Delays that learned are rounded to whole steps, as in
        its tests.
    make_trials : callable ``(rng, n, **variables) -> Trials``
        Draws ``n`` trials with one label each.
    over : dict of str to sequence
        The values of every argument of ``make_trials`` that varies; with several, all combinations.

    Other arguments
    ---------------
    trials : int
        Of every combination. All of them draw from the same stream, so that one more value changes no other.
    seed : int
    loss : Loss, optional
        Says which readout decides; default as in :func:`localplast.run`.
    at_once : int
        Trials held in memory at once: 30 s of 40 channels are 1.2 MB each as spikes, several times that while they
        are drawn.
    dtype, threads : of Torch

    Returns
    -------
    xarray.Dataset
        ``accuracy`` and its binomial ``standard_error`` ``sqrt(p*(1 - p)/trials)``, dims those of ``over``, whose
        coordinates are in SI units.

    Raises
    ------
    NetworkError
        Nothing to vary, less than one trial, trials that have no labels.
    """
    if not over or any(np.ndim(v) != 1 or len(v) == 0 for v in over.values()):
        raise NetworkError(
            f"over={over!r} gives nothing to vary; name arguments of make_trials, each with a list of values"
        )
    check_kind("net", net, Network)
    check_kind("values", values, Values)
    check_seed(seed)
    for name, number in (("trials", trials), ("at_once", at_once), ("threads", threads)):
        check_whole(name, number, 1)
    dtype = check_dtype(dtype, "torch")
    judge, right = Judge(net, values, loss, getattr(torch, dtype), threads), []
    parts = [min(at_once, trials - done) for done in range(0, trials, at_once)]
    for chosen in itertools.product(*over.values()):
        rng, variables = np.random.default_rng([seed, 1]), dict(zip(over, chosen, strict=True))
        right.append(sum(n * judge(make_trials(rng, n, **variables), rng) for n in parts))
    accuracy = np.reshape(right, [len(v) for v in over.values()]) / trials
    error = np.sqrt(accuracy * (1 - accuracy) / trials)
    return xr.Dataset(
        {k: (tuple(over), array, {"units": "1"}) for k, array in (("accuracy", accuracy), ("standard_error", error))},
        {name: axis(name, given) for name, given in over.items()},
        {"trials": trials, "seed": seed},
    )


def axis(name: str, given: Sequence | np.ndarray) -> tuple:
    """A variable that was swept, as a labelled coordinate in SI units."""
    array, units = plain(given, name)
    return name, array, {"units": units}


class Judge:
    """Presents trials to a network in which nothing learns, as learning tests it: delays that learned are rounded."""

    def __init__(self, net: Network, values: Values, loss: Loss | None, dtype: torch.dtype, threads: int) -> None:
        self.net, self.loss, self.dtype, spelling = net, loss, dtype, net.spelling
        with spelling.errors():
            tensors = leaves(spelling.net, spelling.values(values.rounded(net)), dtype=dtype)
            self.weights = {name: tensors[f"{name}.weight"] for name in net.projections}
            self.forward = Forward(spelling.net, tensors, values.masks, threads=threads, wanted=False)

    def __call__(self, trials: Trials, rng: np.random.Generator) -> float:
        """Share of ``trials`` in which the readout decides for the label."""
        check_trials(self.net, trials)
        if np.ndim(trials.target) != 1:
            raise NetworkError(
                "these trials have no labels, so no answer is right: give Trials(..., target=...) of ints (trial,)"
            )
        loss = self.loss or default_loss(trials)
        inputs, _, weight = prepare(self.net, trials, loss, rng=rng, dtype=self.dtype)
        with self.net.spelling.errors(), torch.no_grad(), denormals_flushed(), single_thread:
            outputs, _, _ = self.forward(self.weights, inputs, widths=unspread(self.net))
            return score(self.net, loss, outputs, weight, trials.target)


def leak_limit(tau: Quantity | float, bits: ArrayLike) -> Quantity | np.ndarray | np.floating:
    """The longest time that a leaking membrane bridges if its value is known to so many bits: ``tau*ln(2**bits - 1)``.

    A register of n bits tells ``2**n`` levels apart, 0 to ``2**n - 1`` in units of the smallest. No two states differ
    more than empty and full, and a leak alone shrinks every difference by ``exp(-t/tau)``. What happened a time t ago
    is lost when even this largest one, ``(2**n - 1)*exp(-t/tau)``, falls below one level; solved for t that is the
    limit. So one bit holds nothing, and every further bit adds about ``tau*ln(2)``: a memory of seconds in a membrane
    of 20 ms takes more bits than a double has, which is why delays are needed. It bounds leaks whose state is rounded
    down only when it is read; rounding in every step forgets sooner.

    Parameters
    ----------
    tau : Quantity or float
        Time constant of the leak.
    bits : float or array
        Of the state, not of the message.

    Returns
    -------
    Of the unit of ``tau``, one per entry of ``bits``.

    Notes
    -----
    Balafrej et al. 2023, arXiv:2310.19067, fig. 3 (printed with a minus sign, that of the exponent).
    """
    bits = np.asarray(bits, float)
    if np.any(~(bits >= 1)):
        raise NetworkError(f"bits={bits} of a state: at least one is needed to tell two levels apart")
    if not float(tau) > 0:
        raise NetworkError(f"tau={tau} is not a time constant; give one above zero")
    return tau * (bits * np.log(2) + np.log1p(-(2.0**-bits)))
