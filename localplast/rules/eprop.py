"""e-prop: eligibility traces derived from the neuron, times a broadcast learning signal."""

from localplast.errors import LocalplastError
from localplast.rule import Rule

__all__ = ["eprop"]


def eprop(*, feedback="symmetric", feedback_std=1.0, reset=False, update="trial"):
    """``dE/dw_ij ~ sum_t L_j(t) filter(elig_ij)(t)``, ``L_j = sum_k B_jk dE/dy_k``.

    Equal to BPTT with the edges ``recurrent``, ``feedforward`` and ``reset`` cut: what a neuron's spikes do to other
    neurons is ignored, what they do to its own adaptation is kept.

    Other arguments
    ---------------
    feedback : str or dict
        ``'symmetric'`` (the readout's own weights), ``'random'`` or matrices ``(population, readout)`` by population.
    feedback_std : float
        Standard deviation of random feedback.
    reset : bool
        Follow the neuron's own reset in the eligibility, at the price of one more trace per synapse.
    update : str
        ``'trial'`` or ``'step'``.

    Bellec et al. 2020, Nat Commun 11:3625, eqs. 1, 4, 13 and 24-25.
    """
    if update not in ("trial", "step"):
        raise LocalplastError(f"update is 'trial' or 'step', not {update!r}")
    cut = frozenset({"recurrent", "feedforward"} | (set() if reset else {"reset"}))
    return Rule(
        "e-prop", True, cut, feedback, feedback_std, update, reference="Bellec et al. 2020, Nat Commun 11:3625"
    )
