"""Backpropagation through time with surrogate gradients: the baseline, and the oracle of every local rule."""

from localplast.rule import Rule

__all__ = ["bptt"]


def bptt(*, cut=(), feedback="symmetric", feedback_std=1.0):
    """The gradient of the loss by automatic differentiation, with edges cut and feedback replaced on request.

    Parameters
    ----------
    cut : set of str
        Edges through which no gradient flows: ``leak``, ``readout``, ``reset``, ``adaptation``, ``spike``,
        ``recurrent``, ``feedforward`` or the name of a projection (:mod:`localplast.graph`).
    feedback : str or dict
        ``'symmetric'``, ``'random'`` or matrices by population: what the backward pass from the readout uses.

    Torch only. Neftci, Mostafa & Zenke 2019, IEEE Signal Process Mag 36:51.
    """
    cut = frozenset([cut] if isinstance(cut, str) else cut)
    return Rule("bptt", False, cut, feedback, feedback_std, reference="Neftci et al. 2019, IEEE Signal Process Mag 36:51")
