"""Direct feedback: errors, or targets, straight from the readout to every layer, through fixed random weights."""

from localplast.learning.eligibility import Derived
from localplast.learning.filters import Immediate
from localplast.learning.rule import Rule, Update
from localplast.learning.signal import Broadcast, FeedbackKind

__all__ = ["dfa", "drtp", "erbp"]

CUT = frozenset({"recurrent", "feedforward", "reset", "adaptation", "readout"})


def dfa(*, feedback: FeedbackKind = "random", feedback_std: float = 1.0, update: Update = "trial") -> Rule:
    """Direct feedback alignment: ``delta_j = psi_j sum_k B_jk error_k``, the error reaches every layer in one step.

    Nokland 2016, NeurIPS 29, eq. 7.

    Other arguments
    ---------------
    feedback, feedback_std : as for :func:`~localplast.learning.rule.feedback_alignment`
    update : str or Quantity
    """
    return Rule(
        "DFA",
        True,
        CUT,
        Derived(adaptation=False),
        Immediate(),
        Broadcast(feedback, feedback_std),
        update,
        "Nokland 2016, NeurIPS 29",
    )


def drtp(*, feedback_std: float = 1.0, update: Update = "trial") -> Rule:
    """Direct random target projection: as :func:`dfa`, with the target in place of the error.

    ``delta_j = -psi_j sum_k B_jk y*_k``: layers need not wait for the output. Frenkel, Lefebvre & Bol 2021, Front
    Neurosci 15:629892. The readout itself learns from its error.

    Other arguments
    ---------------
    feedback_std : float
        Standard deviation of the projection.
    update : str or Quantity
    """
    signal = Broadcast("random", feedback_std, variable="lure")
    reference = "Frenkel et al. 2021, Front Neurosci 15:629892"
    return Rule("DRTP", True, CUT, Derived(adaptation=False), Immediate(), signal, update, reference)


def erbp(*, feedback_std: float = 1.0, update: Update = "trial") -> Rule:
    """Event-driven random backpropagation: a presynaptic spike moves the weight by the error its target has heard.

    ``dw_ij = -rate * psi_j(t) sum_k B_jk error_k(t)`` in the step in which a spike of i moves j, and no other: no
    trace. Give the neurons ``surrogate=boxcar(...)``, the window of the published rule, and the network a leaky
    readout, whose error is then the low-passed difference of prediction and label that the error neurons hold. Neftci
    et al. 2017, Front Neurosci 11:324.

    Other arguments
    ---------------
    feedback_std : float
        Standard deviation of the feedback.
    update : str or Quantity
    """
    signal = Broadcast("random", feedback_std)
    reference = "Neftci et al. 2017, Front Neurosci 11:324"
    return Rule(
        "eRBP", True, CUT | {"leak"}, Derived(adaptation=False, memory=False), Immediate(), signal, update, reference
    )
