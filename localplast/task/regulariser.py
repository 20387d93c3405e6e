"""What a loss adds for how much neurons spike, whatever the readouts say: their rates, and how spikes beget spikes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from brian2.units.allunits import second
from brian2.units.fundamentalunits import Quantity
from brian2.units.stdunits import Hz

from localplast.arguments import as_number

if TYPE_CHECKING:
    import torch

    from localplast.task.loss import Loss

__all__ = ["Branching", "RateRegulariser", "branching", "of_trials", "rate"]


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
    circular: bool = False

    def penalty(self, spikes: "torch.Tensor") -> "torch.Tensor":
        """Of ``spikes`` ``(time, trial)``, a tensor: all those of a population; ``(trial,)``, or one number for the
        batch.
        """
        spikes = spikes.sum(1) if self.batch else spikes
        change = spikes - spikes.roll(1, 0) if self.circular else spikes[1:] - spikes[:-1]
        return self.strength * (change**2).sum(0) / max(len(change), 1)


def branching(strength: float, *, batch: bool = False, circular: bool = False) -> Branching:
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
    circular : bool
        The first step follows the last one, as in the authors' code for cues: a trial ends as it began.
    """
    strength = as_number("the strength of the branching regulariser", strength, 0, above=True)
    return Branching(strength, bool(batch), bool(circular))
