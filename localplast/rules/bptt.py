"""Backpropagation through time with surrogate gradients: the baseline, and the oracle of every local rule."""

from collections.abc import Iterable

from localplast.learning.rule import Rule
from localplast.learning.signal import FeedbackKind, Layered

__all__ = ["bptt"]


def bptt(*, cut: str | Iterable[str] = (), feedback: FeedbackKind = "symmetric", feedback_std: float = 1.0) -> Rule:
    """The gradient of the loss by automatic differentiation, with edges cut and feedback replaced on request.

    Parameters
    ----------
    cut : set of str
        Edges through which no gradient flows: ``leak``, ``readout``, ``reset``, ``adaptation``, ``spike``,
        ``recurrent``, ``feedforward`` or the name of a projection (:mod:`localplast.network.credit_graph`).
    feedback : str or dict
        What the backward pass uses in place of the weights, layer by layer: ``'symmetric'`` (the weights), ``'random'``
        (feedback alignment, Lillicrap et al. 2016, Nat Commun 7:13276), ``'uniform'``, or matrices by population or
        projection.
    feedback_std : float
        Size of the entries of random or uniform feedback.

    Torch only. Neftci, Mostafa & Zenke 2019, IEEE Signal Process Mag 36:51.
    """
    cut = frozenset([cut] if isinstance(cut, str) else cut)
    reference = "Neftci et al. 2019, IEEE Signal Process Mag 36:51"
    return Rule("bptt", False, cut, signal=Layered(feedback, feedback_std), reference=reference)
