"""Real-time recurrent learning: the gradient of BPTT, carried forward in time; the reference for small networks."""

from collections.abc import Iterable

from localplast.learning.rule import Rule

__all__ = ["rtrl"]


def rtrl(*, cut: str | Iterable[str] = ()) -> Rule:
    """``dE/dp = sum_t dE/dy(t) dy(t)/dp``, where ``P = ds/dp`` obeys ``P' = F_s P + F_p`` from step to step.

    Equal to ``bptt(cut=...)``. P holds every state of the network (spikes in flight included) times every parameter:
    memory does not grow with the length of a trial, but with the third power of the number of neurons.

    Parameters
    ----------
    cut : set of str
        Edges that the derivative of a step ignores (:mod:`localplast.network.credit_graph`).

    Torch only, not local. Williams & Zipser 1989, Neural Comput 1:270.
    """
    cut = frozenset([cut] if isinstance(cut, str) else cut)
    return Rule("rtrl", False, cut, reference="Williams & Zipser 1989, Neural Comput 1:270", form="forward")
