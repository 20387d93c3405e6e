"""Losses on a readout: what both backends minimise, defined once.

The loss of a trial is ``sum_t weight[t] * l(y[t], target[t])``, summed over the network's readouts; the loss of a
batch is the mean over its trials, plus the regularisers. A loss is text, and its error ``dl/dy`` is derived from it
(:mod:`localplast.task.error`): Brian2, Torch and C print the same two expressions.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import scipy.special
from brian2.units.allunits import second
from brian2.units.fundamentalunits import DIMENSIONLESS, Dimension, Quantity

from localplast.arguments import as_number
from localplast.equations.tape import Tape
from localplast.equations.text import measured
from localplast.errors import LocalplastError, NetworkError
from localplast.names import check_name
from localplast.task.error import Judgement, judgement
from localplast.task.regulariser import Branching, RateRegulariser, branching, of_trials, rate
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
#: What a text about one output neuron may read.
WORDS = ("output", "target", "softmax")
#: How unlikely the softmax of a readout finds the target.
SURPRISE = (("loss", "-target*log(softmax)"),)


@dataclass(frozen=True)
class Loss:
    """A per-step loss on the outputs of a readout, summed over them.

    Parameters
    ----------
    name : str
    statements : tuple of (str, str)
        Assignments, in order; the last one gives the loss of one output neuron. They read ``output`` and ``target``
        of that neuron, and ``softmax``, the share of its output among all outputs of the readout.
    constants : dict of str to float
        Measured as the output is.
    regulariser : RateRegulariser, optional
    branching : Branching, optional

    Raises
    ------
    LocalplastError
        The text has no meaning, or reads what it may not.
    """

    name: str
    statements: tuple
    constants: dict = field(default_factory=dict)
    regulariser: RateRegulariser | None = None
    branching: Branching | None = None

    def __post_init__(self):
        check_name("a loss", self.name, LocalplastError)
        if not self.statements:
            raise LocalplastError(f"the loss {self.name!r} has no text; write for example (('loss', 'output**2'),)")
        numbers = {name: as_number(f"{name} of {self.name}()", value) for name, value in self.constants.items()}
        object.__setattr__(self, "constants", numbers)
        try:
            check_text(self.name, self.derived.program, {*WORDS, *numbers})
            tapes(self.derived, tuple(numbers.items()))
        except ValueError as error:
            raise LocalplastError(f"the loss {self.name!r} {error}") from None

    def __add__(self, other: RateRegulariser | Branching) -> "Loss":
        if isinstance(other, Branching):
            return replace(self, branching=other)
        return replace(self, regulariser=other) if isinstance(other, RateRegulariser) else NotImplemented

    @property
    def derived(self) -> Judgement:
        """The text as expressions, and its error: what engines print."""
        return judgement(self.statements)

    def dimension(self, output: Dimension) -> Dimension:
        """Of the loss of outputs of a dimension, which targets and the constants of a loss have, too."""
        known = dict.fromkeys(("output", "target", *self.constants), output)
        known |= {"softmax": DIMENSIONLESS, "log_softmax": DIMENSIONLESS}
        for name, value in self.derived.program:
            known[name] = measured(value, known)[1]
        return known[self.statements[-1][0]]

    def per_step(self, y: Array, target: Array) -> Array:
        """``l(y, target)``, shape ``(trial, time)``; numpy arrays or torch tensors of shape ``(trial, time, k)``."""
        value, _ = tapes(self.derived, tuple(self.constants.items()))
        return value({"target": target} | words(value, y))[self.statements[-1][0]].sum(-1)

    def error(self, y: Array, target: Array) -> Array:
        """``dl/dy``, shape as ``y``."""
        _, error = tapes(self.derived, tuple(self.constants.items()))
        return error({"target": target} | words(error, y) | {"whole": target.sum(-1)[..., None]})["error"]

    def check(self, trials: Trials, outputs: int, dt: float) -> None:
        """Raise where these trials do not say what the loss needs to know; ``dt`` in seconds."""
        trials.check_target(outputs)
        if self.derived.coupled and np.min(trials.target) < 0:
            raise NetworkError(
                f"{self.name.replace('_', ' ')} needs shares of classes as target, 0 or more; there is a "
                f"{np.min(trials.target)}"
            )

    def dense_target(self, target: np.ndarray, steps: int, outputs: int) -> np.ndarray:
        """The target as a float array ``(trial, time, readout)`` or, for labels, ``(trial, 1, readout)``."""
        if np.ndim(target) == 1:
            return np.eye(outputs)[np.asarray(target)][:, None, :]
        return np.asarray(target).astype(float)


def check_text(loss, program, known):
    """Raise unless every statement of a loss reads what is ``known`` when it is met, and names something new."""
    for name, value in program:
        check_name("a number of a loss", name, LocalplastError, where=loss)
        if name in known | {"whole", "log_softmax"}:
            raise LocalplastError(f"{loss}: {name!r} has a meaning already; give what is computed another name")
        if strangers := {s.name for s in value.free_symbols} - known - {"log_softmax"}:
            raise LocalplastError(
                f"{loss}: {name!r} reads {min(strangers)!r}; a loss may read {', '.join(sorted(known))}"
            )
        known = known | {name}


@functools.lru_cache(maxsize=64)
def tapes(derived, constants):
    """What computes the loss of an output neuron, and what its error."""
    error = [("error", derived.expanded(derived.error))]
    return Tape(derived.program, constants), Tape(error, constants)


def words(tape, y):
    """The words that ``tape`` reads, of outputs ``y``."""
    found = {"output": y}
    if "log_softmax" in tape.slots:
        found["log_softmax"] = scipy.special.log_softmax(y, -1) if isinstance(y, np.ndarray) else log_softmax(y)
    if "softmax" in tape.slots:
        found["softmax"] = scipy.special.softmax(y, -1) if isinstance(y, np.ndarray) else y.softmax(-1)
    return found


def log_softmax(y):
    """Of a tensor, with the gradient ``exp(y - max)/sum``: that of Torch's own is rounded elsewhere."""
    shifted = y - y.amax(-1, keepdim=True)
    return shifted - shifted.exp().sum(-1, keepdim=True).log()


def cross_entropy() -> Loss:
    """Softmax cross entropy at every step that counts."""
    return Loss("cross_entropy", SURPRISE)


def mse() -> Loss:
    """Half the squared error at every step that counts."""
    return Loss("mse", (("gap", "output - target"), ("loss", "gap**2/2")))


def smooth_l1() -> Loss:
    """Half the squared error where it is below one, its size less a half beyond (Huber), at every step that counts."""
    text = (("gap", "output - target"), ("near", "clip(gap, -limit, limit)"), ("loss", "near*(gap - near/2)"))
    return Loss("smooth_l1", text, {"limit": 1.0})


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
    return Reward("reward", SURPRISE, policy=policy, value=value, dice=dice, **numbers)


def gumbel(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """Noise whose largest entry, added to logits, is a draw from their softmax: for the input ``dice``."""
    return -np.log(-np.log(rng.uniform(1e-12, 1.0, shape)))


def default_loss(trials: Trials) -> Loss:
    """Cross entropy of labels, half the squared error of trajectories."""
    return cross_entropy() if np.ndim(trials.target) == 1 else mse()
