"""Rules that send errors from layer to layer within the moment, and keep memory, if any, in forward traces."""

from localplast.learning.eligibility import Derived
from localplast.learning.filters import Immediate
from localplast.learning.rule import Rule, Update
from localplast.learning.signal import FeedbackKind, Layered

__all__ = ["ostl", "ottt", "sltt"]


def ottt(*, feedback: FeedbackKind = "symmetric", feedback_std: float = 1.0, update: Update = "trial") -> Rule:
    """Online training through time: ``dw_ij = sum_t delta_j(t) a_i(t)``, ``a`` the trace of presynaptic spikes.

    ``delta`` travels back from layer to layer without memory. For weights onto the last hidden layer it equals BPTT
    with ``reset``, ``recurrent`` and the readout's memory cut; below, the leak of all layers above is cut too.
    Xiao et al. 2022, NeurIPS 35, eqs. 5-8.

    Other arguments
    ---------------
    feedback, feedback_std : as for :func:`~localplast.learning.rule.feedback_alignment`
    update : str or Quantity
    """
    return spatial("OTTT", Derived(adaptation=False), feedback, feedback_std, update, "Xiao et al. 2022, NeurIPS 35")


def ostl(*, feedback: FeedbackKind = "symmetric", feedback_std: float = 1.0, update: Update = "trial") -> Rule:
    """Online spatio-temporal learning: a layer's own memory is followed exactly, that of all others is cut.

    The eligibility follows leak, reset and adaptation of the neuron itself, the error travels back without memory.
    This is also diagonal real-time recurrent learning (D-RTRL; Wang et al. 2026, Nat Commun 17:1745), whose diagonal
    is that of the neuron's own step: BrainTrace leaves recurrent weights out of it, autapses too. Bohnstingl et al.
    2022, IEEE Trans Neural Netw Learn Syst 34:8894.

    Other arguments
    ---------------
    As for :func:`ottt`.
    """
    reference = "Bohnstingl et al. 2022, IEEE Trans Neural Netw Learn Syst 34:8894"
    return spatial("OSTL", Derived(reset=True), feedback, feedback_std, update, reference)


def sltt(*, feedback: FeedbackKind = "symmetric", feedback_std: float = 1.0, update: Update = "trial") -> Rule:
    """Spatial learning through time: no memory at all, a step's error meets the spikes that arrived in that step.

    Equal to BPTT with every temporal edge cut, on any feed-forward network. Meng et al. 2023, ICCV, eqs. 9-12.

    Other arguments
    ---------------
    As for :func:`ottt`.
    """
    eligibility = Derived(adaptation=False, memory=False)
    return spatial("SLTT", eligibility, feedback, feedback_std, update, "Meng et al. 2023, ICCV")


def spatial(
    name: str, eligibility: Derived, feedback: FeedbackKind, feedback_std: float, update: Update, reference: str
) -> Rule:
    cut = {
        "recurrent",
        "readout",
        *({"reset", "adaptation"} - eligibility.keep),
        *(() if eligibility.memory else ("leak",)),
    }
    return Rule(
        name, True, frozenset(cut), eligibility, Immediate(), Layered(feedback, feedback_std), update, reference
    )
