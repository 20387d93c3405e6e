"""SuperSpike: voltage-based three-factor learning of spike times."""

from localplast.learning.eligibility import Derived
from localplast.learning.rule import Rule, Update
from localplast.learning.signal import Broadcast, FeedbackKind, Layered

__all__ = ["superspike"]


def superspike(*, feedback: FeedbackKind = "symmetric", feedback_std: float = 1.0, update: Update = "trial") -> Rule:
    """``dw_ij/dt = rate * (a*e)_j * a*[psi_j P_i]``, with ``a`` the double exponential of the van Rossum distance.

    For networks whose spiking outputs are compared with target spikes by a
    :func:`~localplast.models.van_rossum_readout`: its equations are ``a``, and the filter of the eligibility is derived
    from them. ``P_i`` is the postsynaptic potential of a unit weight: reset and refractoriness are ignored. Output
    neurons hear their own errors, hidden ones those of the output neurons, without their psi.

    Other arguments
    ---------------
    feedback : str or dict
        ``'symmetric'`` (the weights to the output neurons), ``'random'``, ``'uniform'`` or matrices by population.
    feedback_std : float
        Standard deviation of random feedback, value of uniform feedback.
    update : str or Quantity
        ``'trial'``, ``'step'`` or a time (published: 500 ms).

    Zenke & Ganguli 2018, Neural Comput 30:1514, eqs. 5-10.
    """
    if isinstance(feedback, str) and feedback in ("symmetric", "sign", "learned"):
        signal = Layered(feedback, feedback_std, gated=False, judged=True)
    else:
        signal = Broadcast(feedback, feedback_std, judged=True)
    return Rule(
        "SuperSpike",
        True,
        frozenset({"recurrent", "feedforward", "reset", "adaptation"}),
        eligibility=Derived(adaptation=False, free=True),
        signal=signal,
        update=update,
        reference="Zenke & Ganguli 2018, Neural Comput 30:1514",
    )
