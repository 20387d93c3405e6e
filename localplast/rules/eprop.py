"""e-prop: eligibility traces derived from the neuron, smoothed as the readout does, times a broadcast learning
signal.
"""

from brian2.units.fundamentalunits import Quantity

from localplast.learning.eligibility import Derived
from localplast.learning.filters import AsReadout, LowPass
from localplast.learning.rule import Rule, Update
from localplast.learning.signal import Broadcast, FeedbackKind

__all__ = ["eprop"]


def eprop(
    *,
    feedback: FeedbackKind = "symmetric",
    feedback_std: float = 1.0,
    reset: bool = False,
    adaptation: bool = True,
    wiped: bool = True,
    kappa: float | Quantity | None = None,
    update: Update = "trial",
) -> Rule:
    """``dE/dw_ij ~ sum_t L_j(t) filter(elig_ij)(t)``, ``L_j = sum_k B_jk dE/dy_k``.

    Equal to BPTT with the edges ``recurrent``, ``feedforward`` and ``reset`` cut: what a neuron's spikes do to other
    neurons is ignored, what they do to its own adaptation is kept. With ``kappa``, or with ``wiped=False`` where a
    reset overwrites, no cut of BPTT gives the same.

    Other arguments
    ---------------
    feedback : str or dict
        ``'symmetric'`` (the readout's own weights), ``'random'``, ``'uniform'``, ``'sign'``, ``'learned'`` (adaptive
        e-prop: the feedback changes as the readout's weights do) or matrices ``(population, readout)`` by population.
    feedback_std : float
        Standard deviation of random feedback.
    reset : bool
        Follow the neuron's own reset in the eligibility, at the price of one more trace per synapse.
    adaptation : bool
        Follow the neuron's own adaptation; without it nothing but filters is kept per synapse.
    wiped : bool
        A reset to a value (``v = v_reset``) ends the trace of the membrane. False: the trace goes on through it.
    kappa : float or Quantity, optional
        Smooth the eligibility by this factor per step, or with this time constant; default: as the readout remembers
        a spike.
    update : str or Quantity
        ``'trial'``, ``'step'`` or a time.

    Bellec et al. 2020, Nat Commun 11:3625, eqs. 1, 4, 13 and 24-25.
    """
    eligibility = Derived(reset=reset, adaptation=adaptation, wiped=wiped)
    return Rule(
        "e-prop",
        True,
        frozenset({"recurrent", "feedforward"} | ({"reset", "adaptation"} - eligibility.keep)),
        eligibility=eligibility,
        filter=AsReadout() if kappa is None else LowPass(kappa),
        signal=Broadcast(feedback, feedback_std),
        update=update,
        reference="Bellec et al. 2020, Nat Commun 11:3625",
    )
