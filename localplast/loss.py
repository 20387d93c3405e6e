"""Losses on a readout: what both backends minimise, defined once.

The loss of a trial is ``sum_t weight[t] * l(y[t], target[t])``, summed over the network's readouts; the loss of a batch is
the mean over its trials, plus the regularisers. ``error = dl/dy`` is also given as Brian2 text, so that the same loss runs
online.
"""

from dataclasses import dataclass

import numpy as np

__all__ = ["Loss", "RateRegulariser", "cross_entropy", "mse", "rate", "smooth_l1"]


@dataclass(frozen=True)
class RateRegulariser:
    """``strength/2 * sum_j (f_j - target)**2``, with ``f_j`` the rate of neuron j in a trial, in hertz."""

    target: float
    strength: float


def rate(target, strength):
    """Keep every spiking neuron near ``target`` (a frequency, or hertz as a number); add it to a loss.

    Bellec et al. 2020, Nat Commun 11:3625, methods, "firing rate regularization" (per trial).
    """
    return RateRegulariser(float(target), float(strength))


@dataclass(frozen=True)
class Loss:
    """A per-step loss on the readout's output ``y``.

    Parameters
    ----------
    kind : str
        ``'mse'``: ``1/2 sum_k (y_k - y*_k)**2``. ``'cross_entropy'``: ``-log softmax(y)[label]``.
        ``'smooth_l1'``: ``sum_k d_k**2/2`` where ``|d_k| < 1``, else ``|d_k| - 1/2``, with ``d = y - y*``.
    regulariser : RateRegulariser, optional
    """

    kind: str
    regulariser: RateRegulariser | None = None

    def __add__(self, regulariser):
        if not isinstance(regulariser, RateRegulariser):
            return NotImplemented
        return Loss(self.kind, regulariser)

    def per_step(self, y, target):
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
        return logarithm - (shifted * target).sum(-1)

    def error(self, y, target):
        """``dl/dy``, shape as ``y``."""
        if self.kind == "mse":
            return y - target
        if self.kind == "smooth_l1":
            return (y - target).clip(-1, 1)
        if isinstance(y, np.ndarray):
            exponentials = np.exp(y - y.max(-1, keepdims=True))
            return exponentials / exponentials.sum(-1, keepdims=True) - target
        return y.softmax(-1) - target

    def dense_target(self, target, steps, outputs):
        """The target as a float array ``(trial, time, readout)`` or, for labels and for zero, ``(trial, 1, readout)``."""
        if np.ndim(target) == 1:
            return np.eye(outputs)[np.asarray(target)][:, None, :]
        return np.asarray(target).astype(float)


def cross_entropy():
    """Softmax cross entropy at every step that counts."""
    return Loss("cross_entropy")


def mse():
    """Half the squared error at every step that counts."""
    return Loss("mse")


def smooth_l1():
    """Half the squared error where it is below one, its size less a half beyond (Huber), at every step that counts."""
    return Loss("smooth_l1")
