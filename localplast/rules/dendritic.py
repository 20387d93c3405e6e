"""Learning with dendrites: the gap between what a compartment predicts and what its own neuron does."""

from dataclasses import dataclass

import sympy

from localplast.equations.expressions import differentiate, to_sympy
from localplast.equations.language import symbol
from localplast.errors import UnsupportedError
from localplast.learning.eligibility import ARRIVED, Derivation, Eligibility, check_additive, check_clamped, closure
from localplast.learning.filters import Immediate
from localplast.learning.rule import Rule, Update
from localplast.learning.signal import Own
from localplast.neuron.step import expanded, jacobian, needed

__all__ = ["Predicted", "dendritic"]


@dataclass(frozen=True)
class Predicted:
    """The eligibility that the :class:`~localplast.neuron.mismatch.Mismatch` of the target names: how a weight moves
    the prediction.
    """

    def of(self, net, projection):
        """The :class:`~localplast.learning.eligibility.Eligibility` of one projection, whose ``end`` computes the
        mismatch.
        """
        model = net.nodes[projection.post].model
        if projection.target not in model.mismatch:
            raise UnsupportedError(
                f"projection {projection.name!r} lands on {projection.target!r} of {model.name}, which has no mismatch "
                f"to learn from (it has {sorted(model.mismatch) or 'none'}); mark the projection plastic=False, or "
                f"give the model mismatch={{{projection.target!r}: Mismatch(...)}}"
            )
        found = model.mismatch[projection.target]
        error = ((f"mismatch_{projection.target}", to_sympy(found.error)),)
        if found.pre is not None:
            return of_source(net, projection, found, error)
        check_clamped(model, projection)
        return Prediction(net, projection, found.of or projection.target, error).result()


def of_source(net, p, found, error):
    """The eligibility is a variable of the presynaptic neuron."""
    pre = net.nodes[p.pre]
    known = () if p.pre in net.inputs else pre.model.parsed.names
    if found.pre not in known:
        raise UnsupportedError(
            f"projection {p.name!r} learns from {found.pre!r} of {p.pre!r}, which has no such variable; "
            f"it has {sorted(known) or 'none'}"
        )
    if net.delay_steps(p).any() or p.delay is not None and p.delay.trainable:
        raise UnsupportedError(
            f"projection {p.name!r}: what a synapse learns from its presynaptic neuron has no delay; remove the delay"
        )
    trace = (("elig", ARRIVED),)
    return Eligibility((), (), (), (), trace, (), ARRIVED, "pre", end=error, source=found.pre)


class Prediction(Derivation):
    """How a weight moves an expression of the neuron at the end of the step, whatever its spikes are good for."""

    def __init__(self, net, projection, of, error):
        super().__init__(net, projection, frozenset(), True)
        self.predicted, self.error = expanded(self.model, of), error
        self.named["end"] = {}

    def update_coefficients(self):
        """Of the compartments between the synapse and the prediction; the rest of the neuron may be as it likes."""
        found, jumps = jacobian(self.step), {**self.step.reset, **self.step.adaptation}
        links = {(m, k) for k, m in found.entries} | {(s.name, k) for k, e in jumps.items() for s in e.free_symbols}
        between = closure({self.target}, links) & closure(self.watched({}), {(b, a) for a, b in links})
        entries = {pair: e for pair, e in found.entries.items() if set(pair) <= between}
        self.jacobian_program = needed(found.program, entries.values())
        check_additive(self.model, self.jacobian_program)
        self.postsynaptic |= {symbol(name) for name, _ in self.jacobian_program}
        return {(k, m): self.coefficient(e, "before", f"d_{k}_{m}") for (k, m), e in entries.items()}

    def spike_coefficients(self):
        return {}

    def surrogate(self):
        return ()

    def watched(self, spike):
        return {s.name for s in self.predicted.free_symbols}

    def value(self, parts, spike, primed, ended):
        slopes = {k: differentiate(self.predicted, k) for k in parts}
        found = {k: self.coefficient(e, "end", f"d_{self.target}_{k}") for k, e in slopes.items() if e != 0}
        return sympy.Add(*[e * ended[k] for k, e in found.items()])

    def ending(self):
        return (*self.named["end"].items(), *self.error)


def dendritic(*, update: Update = "step") -> Rule:
    """``dw_ij/dt = rate * error_j * e_ij``: every compartment learns to predict, from its own neuron alone, always on.

    What the error of a compartment is, and what the synapse remembers, says the model
    (``NeuronModel(mismatch=...)``): the gap between the rate of the soma and what the dendrite alone would make of it
    (Urbanczik & Senn 2014, Neuron 81:521, eq. 2), an apical potential away from rest (Sacramento et al. 2018,
    NeurIPS, eqs. 7-9), bursts beyond their expected number (Payeur et al. 2021, Nat Neurosci 24:1010, eq. 1), the
    error of a prospective neuron (Haider et al. 2021, NeurIPS, eq. 7). Parameters learn from errors of their own. The
    loss is reported and not used. Inputs of a teacher are heard.

    Other arguments
    ---------------
    update : str or Quantity
        ``'step'``, ``'trial'`` or a time.
    """
    return Rule(
        "dendritic",
        True,
        eligibility=Predicted(),
        filter=Immediate(),
        signal=Own(),
        update=update,
        reference="Urbanczik & Senn 2014, Neuron 81:521; Sacramento et al. 2018, NeurIPS",
    )
