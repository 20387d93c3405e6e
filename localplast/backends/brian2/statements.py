"""Statements that Brian2 has beside those of a step program: sums over synapses, and what spikes deliver."""

from dataclasses import dataclass

import sympy

from localplast.program.instructions import arrays_in, reads, writes

__all__ = ["Deliver", "Gather", "read_by", "written_by"]


@dataclass(frozen=True)
class Gather:
    """Summed variables: ``sums`` over the synapses of one Brian2 object, ``(array, expression of its two ends)``.

    ``pre`` and ``post`` are the groups of an object that exists for this alone, None: the synapses are a projection's,
    and sum for the neurons at its end ``onto``.
    """

    link: str
    sums: tuple
    pre: str | None = None
    post: str | None = None
    onto: str = "post"


@dataclass(frozen=True)
class Deliver:
    """What each synapse of a projection adds to its postsynaptic neuron where a spike arrives."""

    link: str
    target: str
    expression: sympy.Expr


def read_by(s):
    """Names of the arrays that a statement reads."""
    if isinstance(s, Deliver):
        return arrays_in(s.expression) | {s.target}
    return set().union(*(arrays_in(e) for _, e in s.sums)) if isinstance(s, Gather) else reads(s)


def written_by(s):
    """Names of the arrays that a statement sets."""
    if isinstance(s, Deliver):
        return {s.target}
    return {name for name, _ in s.sums} if isinstance(s, Gather) else writes(s)
