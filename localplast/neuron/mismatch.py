"""What a dendrite can learn from: the gap between what a compartment predicts and what the rest of its neuron does."""

from dataclasses import dataclass

__all__ = ["Mismatch"]


@dataclass(frozen=True)
class Mismatch:
    """How the weights that land on one variable of a neuron learn from the neuron itself; see
    :func:`~localplast.rules.dendritic`.

    Or one of its parameters, whose gradient is minus the sum of the error.

    .. math::  dw_{ij}/dt ~ error_j(t) \\, e_{ij}(t)

    Parameters
    ----------
    error : str
        The learning signal, in the variables of the neuron at the end of the step; ``z`` is 1 where it spikes in this
        step, unless it has a variable of this name. Positive potentiates.
    of : str, optional
        The expression whose derivative with respect to the weight is the eligibility ``e``, followed through the
        neuron's equations; default: the variable that the weights land on.
    pre : str, optional
        Instead of a derivative, a variable of the *presynaptic* neuron is the eligibility, such as a trace of its
        events, or its error, where it is feedback that learns.
    """

    error: str
    of: str | None = None
    pre: str | None = None
