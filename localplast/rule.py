"""What a learning rule is: a composition of eligibility, filter, learning signal and time of update.

``gradient estimate = sum_t learning_signal_j(t) * filter(eligibility_ij)(t)``. A rule knows no backend.
"""

from dataclasses import dataclass, field

__all__ = ["Rule"]


@dataclass(frozen=True)
class Rule:
    """A named gradient estimate.

    Parameters
    ----------
    name : str
    local : bool
        Whether synapses can compute it forward in time. False: automatic differentiation does (Torch only).
    cut : frozenset of str
        Edges of the credit graph that the estimate ignores (:mod:`localplast.graph`).
    feedback : str or dict
        How the readout's error reaches other populations. ``'symmetric'``: through the transposed forward weights.
        ``'random'``: through fixed Gaussian weights. A dict maps a population to its matrix ``(population, readout)``.
    feedback_std : float
        Standard deviation of random feedback.
    update : str
        ``'trial'``: weights change between trials. ``'step'``: in every time step.
    reference : str
    """

    name: str
    local: bool
    cut: frozenset = field(default_factory=frozenset)
    feedback: object = "symmetric"
    feedback_std: float = 1.0
    update: str = "trial"
    reference: str = ""

    @property
    def keep(self):
        """Edges of a neuron's own spike that its eligibility follows."""
        return frozenset({"reset", "adaptation"}) - self.cut
