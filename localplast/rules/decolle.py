"""DECOLLE: every layer learns from an error of its own, through a fixed random readout of its own."""

from localplast.learning.eligibility import Derived
from localplast.learning.rule import Rule, Update
from localplast.learning.signal import Broadcast, FeedbackKind

__all__ = ["decolle"]


def decolle(*, feedback: FeedbackKind = "symmetric", feedback_std: float = 1.0, update: Update = "trial") -> Rule:
    """``dw_ij = -rate * (G^T dE/dY)_j psi_j P_i``: nothing is stored per synapse.

    For networks in which every hidden population projects to a readout of its own, without memory
    (:func:`~localplast.models.instant_readout`), by a fixed random projection. The loss is the sum over readouts. Equal
    to BPTT with the edges ``feedforward``, ``recurrent``, ``reset`` and ``adaptation`` cut.

    Other arguments
    ---------------
    feedback : str or dict
        ``'symmetric'`` (through the local readout's own weights), ``'random'``, ``'sign'`` or matrices by population.
    feedback_std : float
    update : str or Quantity
        ``'step'`` (published), ``'trial'`` or a time.

    Kaiser, Mostafa & Neftci 2020, Front Neurosci 14:424, eqs. 5-9.
    """
    return Rule(
        "DECOLLE",
        True,
        frozenset({"recurrent", "feedforward", "reset", "adaptation"}),
        eligibility=Derived(adaptation=False),
        signal=Broadcast(feedback, feedback_std),
        update=update,
        reference="Kaiser et al. 2020, Front Neurosci 14:424",
    )
