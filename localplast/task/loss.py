"""Losses on a readout: what both backends minimise, defined once.

The loss of a trial is ``sum_t weight[t] * l(y[t], target[t])``, summed over the network's readouts; the loss of a
batch is the mean over its trials, plus the regularisers. ``error = dl/dy`` is also given as Brian2 text, so that the
same loss runs online.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from brian2.units.allunits import second
from brian2.units.fundamentalunits import Quantity
from brian2.units.stdunits import Hz

from localplast.arguments import as_number, check_choice
from localplast.errors import NetworkError
from localplast.task.trials import Trials

if TYPE_CHECKING:
    import torch

__all__ = [
    "Branching",
    "Loss",
    "RateRegulariser",
    "Reward",
    "branching",
    "cross_entropy",
    "default_loss",
    "gumbel",
    "mse",
    "of_trials",
    "rate",
    "reward",
    "smooth_l1",
]

#: Losses are the same in numpy and in Torch.
Array = TypeVar("Array", np.ndarray, "torch.Tensor")


@dataclass(frozen=True)
class RateRegulariser:
    """``strength/2 * sum_j (f_j - target)**2``, with ``f_j`` the rate of neuron j in hertz: see :func:`rate`."""

    target: float
    strength: float
    window: float = 0.0


def of_trials(loss: "Loss") -> bool:
    """Whether rates are regularised at the end of each trial."""
    return loss.regulariser is not None and not loss.regulariser.window


def rate(target: Quantity | float, strength: float, *, window: Quantity | None = None) -> RateRegulariser:
    """Keep every spiking neuron near ``target`` (a frequency, or hertz as a number); add it to a loss.

    Without ``window`` the rate is that of a whole trial, and the penalty is paid once, at its end (Bellec et al.
    2020, Nat Commun 11:3625, methods, "firing rate regularization"). With a time as ``window`` it is a running
    average that fades with this time constant, and the penalty is ``strength/2 * integral (f_j(t) - target)**2 dt``:
    known in every step, so that it goes with weights that change within a trial. It then acts through local rules
    only, and is not part of the reported loss.
    """
    fading = 0.0 if window is None else as_number("the window of rate()", window, 0, dimension=second.dim, above=True)
    return RateRegulariser(
        as_number("the target of rate()", target, 0, dimension=Hz.dim),
        as_number("the strength of rate()", strength, 0),
        fading,
    )


@dataclass(frozen=True)
class Branching:
    """``strength`` times the mean over steps of ``(s[t] - s[t-1])**2``: see :func:`branching`."""

    strength: float
    batch: bool = False

    def penalty(self, spikes: "torch.Tensor") -> "torch.Tensor":
        """Of ``spikes`` ``(time, trial)``, a tensor: all those of a population; ``(trial,)``, or one number for the
        batch.
        """
        spikes = spikes.sum(1) if self.batch else spikes
        return self.strength * ((spikes[1:] - spikes[:-1]) ** 2).sum(0) / max(len(spikes) - 1, 1)


def branching(strength: float, *, batch: bool = False) -> Branching:
    """Let every step have as many spikes as the one before it; add it to a loss.

    The penalty is ``strength * mean_t (s[t] - s[t-1])**2``, with ``s`` the number of spikes of a whole population: a
    branching factor near one, neither dying out nor exploding (Balafrej et al. 2025, Neuromorph Comput Eng, doi
    10.1088/2634-4386/add293, "branching factor"). Every spiking population is penalised, each by its own number.

    No synapse knows the spikes of a whole population, let alone those of the coming step: only automatic
    differentiation (``bptt()``) follows it.

    Other arguments
    ---------------
    batch : bool
        Count the spikes of all trials of a batch together, as the authors' code does: the penalty then grows with the
        batch, and trials compensate each other. Default: every trial by itself.
    """
    return Branching(as_number("the strength of the branching regulariser", strength, 0, above=True), bool(batch))


@dataclass(frozen=True)
class Loss:
    """A per-step loss on the readout's output ``y``.

    Parameters
    ----------
    kind : str
        ``'mse'``: ``1/2 sum_k (y_k - y*_k)**2``. ``'cross_entropy'``: ``-sum_k y*_k log softmax(y)_k``, of a label
        ``-log softmax(y)[label]``.
        ``'smooth_l1'``: ``sum_k d_k**2/2`` where ``|d_k| < 1``, else ``|d_k| - 1/2``, with ``d = y - y*``.
    regulariser : RateRegulariser, optional
    branching : Branching, optional
    """

    kind: str
    regulariser: RateRegulariser | None = None
    branching: Branching | None = None

    def __post_init__(self):
        check_choice("the kind of a loss", self.kind, ("mse", "smooth_l1", "cross_entropy", "reward"))

    def __add__(self, other: RateRegulariser | Branching) -> "Loss":
        if isinstance(other, Branching):
            return replace(self, branching=other)
        return replace(self, regulariser=other) if isinstance(other, RateRegulariser) else NotImplemented

    def per_step(self, y: Array, target: Array) -> Array:
        """``l(y, target)``, shape ``(trial, time)``; numpy arrays or torch tensors of shape ``(trial, time, k)``."""
        if self.kind == "mse":
            return 0.5 * ((y - target) ** 2).sum(-1)
        if self.kind == "smooth_l1":
            size, clipped = abs(y - target), (y - target).clip(-1, 1)
            return (abs(clipped) * (size - 0.5 * abs(clipped))).sum(-1)
        shifted = y - y.max(-1, keepdims=True) if isinstance(y, np.ndarray) else y - y.amax(-1, keepdim=True)
        exponentials = np.exp(shifted) if isinstance(y, np.ndarray) else shifted.exp()
        total = exponentials.sum(-1)
        logarithm = np.log(total) if isinstance(y, np.ndarray) else total.log()
        return target.sum(-1) * logarithm - (shifted * target).sum(-1)

    def check(self, trials: Trials, outputs: int, dt: float) -> None:
        """Raise where these trials do not say what the loss needs to know; ``dt`` in seconds."""
        trials.check_target(outputs)
        if self.kind == "cross_entropy" and np.min(trials.target) < 0:
            raise NetworkError(
                f"cross entropy needs shares of classes as target, 0 or more; there is a {np.min(trials.target)}"
            )

    def error(self, y: Array, target: Array) -> Array:
        """``dl/dy``, shape as ``y``."""
        if self.kind == "mse":
            return y - target
        if self.kind == "smooth_l1":
            return (y - target).clip(-1, 1)
        if isinstance(y, np.ndarray):
            exponentials = np.exp(y - y.max(-1, keepdims=True))
            return exponentials / exponentials.sum(-1, keepdims=True) * target.sum(-1, keepdims=True) - target
        return y.softmax(-1) * target.sum(-1, keepdim=True) - target

    def dense_target(self, target: np.ndarray, steps: int, outputs: int) -> np.ndarray:
        """The target as a float array ``(trial, time, readout)`` or, for labels, ``(trial, 1, readout)``."""
        if np.ndim(target) == 1:
            return np.eye(outputs)[np.asarray(target)][:, None, :]
        return np.asarray(target).astype(float)


def cross_entropy() -> Loss:
    """Softmax cross entropy at every step that counts."""
    return Loss("cross_entropy")


def mse() -> Loss:
    """Half the squared error at every step that counts."""
    return Loss("mse")


def smooth_l1() -> Loss:
    """Half the squared error where it is below one, its size less a half beyond (Huber), at every step that counts."""
    return Loss("smooth_l1")


@dataclass(frozen=True)
class Reward(Loss):
    """Actor and critic: see :func:`reward`."""

    policy: str = "policy"
    value: str = "value"
    dice: str = "dice"
    discount: float = 1.0
    value_cost: float = 0.5
    delay: float = 0.0

    def steps(self, dt: float) -> int:
        """Steps from the last decision to the reward; ``dt`` in seconds."""
        return int(self.delay / dt + 0.5)

    def check(self, trials: Trials, outputs: int, dt: float) -> None:
        weight = np.ones(trials.steps) if trials.weight is None else np.asarray(trials.weight)
        if np.ndim(trials.target) != 1:
            raise NetworkError(
                f"a reward needs the right choice of every trial: int labels (trial,) from 0 to {outputs - 1} as target"
            )
        trials.check_target(outputs)
        counted, wait = np.flatnonzero(weight), self.steps(dt)
        if not len(counted):
            raise NetworkError("a reward needs steps in which choices are made; the weight of every step is zero")
        if counted[-1] + wait > trials.steps - 2:
            raise NetworkError(
                f"the reward comes {wait} steps after the last choice, in step {counted[-1] + wait}; a trial has "
                f"{trials.steps} steps, and the critic must see one after the reward: make trials at least "
                f"{counted[-1] + wait + 2} steps long"
            )


def reward(
    delay: Quantity,
    *,
    discount: float = 0.99,
    value_cost: float = 0.5,
    policy: str = "policy",
    value: str = "value",
    dice: str = "dice",
) -> Reward:
    """Learn from reward: in every step that counts a choice is drawn from the softmax of the policy readout.

    A right choice (the label) earns the weight of its step, a wrong one costs as much; all of it is paid at once,
    ``delay`` after the last choice, and before the trial's last step. With
    ``delta(t) = r(t) + discount*V(t+1) - V(t)`` the gradient is ``sum_t delta(t) F(L trace)(t)``, ``F`` a filter that
    fades by ``discount`` per step, with the errors ``pi - chosen`` of the policy and ``-value_cost`` of the value
    readout. The reported loss is minus the reward.

    Parameters
    ----------
    delay : Quantity

    Other arguments
    ---------------
    discount : float
        Per time step.
    policy, value, dice : str
        Two readouts, and an input of currents as wide as the policy: Gumbel noise, which makes choices random and the
        same on both backends (:func:`gumbel`). It projects nowhere.

    Bellec et al. 2020, Nat Commun 11:3625, eqs. 5 and 35-45 (reward-based e-prop).
    """
    numbers = dict(
        discount=as_number("discount", discount, 0, 1),
        value_cost=as_number("value_cost", value_cost, 0),
        delay=as_number("the delay of a reward", delay, 0, dimension=second.dim),
    )
    return Reward("reward", policy=policy, value=value, dice=dice, **numbers)


def gumbel(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """Noise whose largest entry, added to logits, is a draw from their softmax: for the input ``dice``."""
    return -np.log(-np.log(rng.uniform(1e-12, 1.0, shape)))


def default_loss(trials: Trials) -> Loss:
    """Cross entropy of labels, half the squared error of trajectories."""
    return cross_entropy() if np.ndim(trials.target) == 1 else mse()
