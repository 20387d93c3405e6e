"""Rules whose eligibility is a product of what two neurons hold: nothing is stored per synapse, whatever the neuron."""

from dataclasses import dataclass

import sympy
from brian2.units.fundamentalunits import Quantity

from localplast.equations.language import int_, sign, symbol
from localplast.errors import UnsupportedError
from localplast.learning.eligibility import ARRIVED, PSI, Derivation, Derived, Eligibility, Z, credit
from localplast.learning.filters import Immediate
from localplast.learning.rule import Rule, Update
from localplast.learning.signal import Broadcast, FeedbackKind, Layered
from localplast.neuron.decay import check_decays, per_step

__all__ = ["Factorised", "TwoTraces", "es_d_rtrl", "s_tllr"]


@dataclass(frozen=True)
class TwoTraces:
    """``elig_ij = a_pre*psi_j*pre_i + a_post*post_j*arrived_i``: what came before a response, and what comes after it.

    ``pre_i`` is a trace of presynaptic spikes, ``post_j`` one of the psi of strictly earlier steps. A spike counts at
    the step in which it first moves the spike argument x: one step after it has arrived. psi stands for
    ``psi dx/ds``, the effect of what arrived one step ago, as in :class:`~localplast.learning.signal.Layered`.

    Parameters
    ----------
    lam_pre, lam_post : float or Quantity
        Decay of the traces: a factor per step, or a time constant.
    a_pre, a_post : float
        Weights of the causal and the non-causal term.
    """

    lam_pre: object
    lam_post: object
    a_pre: float = 1.0
    a_post: float = -1.0

    def __post_init__(self):
        check_decays(lam_pre=self.lam_pre, lam_post=self.lam_post)

    def of(self, net, projection):
        """The :class:`~localplast.learning.eligibility.Eligibility` of one projection; onto a readout, that of its
        equations.
        """
        derived = Derived(adaptation=False).of(net, projection)
        target = projection.target
        if not net.nodes[projection.post].model.spiking:
            return derived
        if derived.arrives == "synapse":
            raise_shared(projection, "a trace per presynaptic neuron")
        before, after = credit(net, projection.post, target)  # refuses neurons that feel a spike later still
        now, past, trace, fresh = f"credit_{target}", f"past_credit_{target}", f"eps_{target}", f"last_eps_{target}"
        lam_pre, lam_post = (per_step(lam, net.dt) for lam in (self.lam_pre, self.lam_post))
        value = self.a_pre * symbol(now) * symbol(trace) + self.a_post * symbol(past) * symbol(fresh)
        return Eligibility(
            before=before,
            after=((past, lam_post * symbol(past) + symbol(now)), *after),  # takes in the credit of the step before
            before_reset=(),
            pre=((trace, lam_pre * symbol(trace) + ARRIVED), (fresh, ARRIVED)),
            synapse=(("elig", value),),
            state=(),
            value=value,
            arrives="pre",
        )


@dataclass(frozen=True)
class Factorised:
    """The derived eligibility ``eps_ij`` as a product ``eps_f_j * eps_x_i`` of two traces.

    Parameters
    ----------
    decay : float or Quantity
        Of both: a factor per step, or a time constant.
    reset : bool
        Whether the neuron's own spike moves its trace through its reset.
    """

    decay: object
    reset: bool = True

    def __post_init__(self):
        check_decays(decay=self.decay)

    def of(self, net, projection):
        """The :class:`~localplast.learning.eligibility.Eligibility` of one projection; onto a readout, that of its
        equations.
        """
        keep = Derived(reset=self.reset)
        derived = keep.of(net, projection)
        if not net.nodes[projection.post].model.spiking:
            return derived
        if derived.arrives == "synapse":
            raise_shared(projection, "one factor per presynaptic neuron")
        return self.product(net, projection, Derivation(net, projection, keep.keep, True))

    def product(self, net, projection, found):
        update, spike = found.update_coefficients(), found.spike_coefficients()
        moved, kicked = found.jump_coefficients()
        if found.named["before_reset"]:
            raise UnsupportedError(
                f"population {projection.post!r}: the jump of {found.model.name} after a spike depends on its state, "
                "which a factor per neuron cannot follow; use reset=False, or ostl()"
            )
        parts, target, a = (
            found.components(update, spike, moved, kicked),
            projection.target,
            per_step(self.decay, net.dt),
        )
        old = {k: symbol(f"kept_{k}_{target}") for k in parts}
        new = {k: symbol(f"eps_f_{k}_{target}") for k in parts}
        effect = PSI * sympy.Add(*[spike[k] * new[k] for k in parts if k in spike])
        passed = {k: sympy.Add(*[update[k, m] * old[m] for m in parts if (k, m) in update]) for k in parts}
        left = {k: new[k] + sympy.Add(*[moved[k, m] * new[m] for m in parts if (k, m) in moved]) for k in parts}
        spiked = {Z: self.spiked(found)}
        value = effect * symbol(f"eps_{target}")
        return Eligibility(
            before=found.program("before", found.jacobian_program),
            after=(
                *((new[k].name, a * passed[k] + (1 - a) * update.get((k, target), 0)) for k in parts),
                *found.surrogate(),
                *found.program("after"),
                *((old[k].name, (left[k] + kicked.get(k, 0) * effect).subs(spiked)) for k in parts),
            ),
            before_reset=(),
            pre=((f"eps_{target}", a * symbol(f"eps_{target}") + ARRIVED),),
            synapse=(("elig", value),),
            state=(),
            value=value,
            arrives="pre",
        )

    def spiked(self, found):
        """Whether the neuron spikes in this step, from its spike argument."""
        side = sign(symbol("x"))  # x has a unit, its sign has none
        above = side > 0 if found.step.strict else side >= 0
        return int_(above) * (int_(symbol("not_refractory")) if found.model.refractory else 1)


def raise_shared(projection, what):
    raise UnsupportedError(
        f"projection {projection.name!r}: {what} needs spikes that reach all targets at once; use axonal delays, or "
        "none"
    )


def s_tllr(
    *,
    lam_pre: float | Quantity = 0.75,
    lam_post: float | Quantity = 0.2,
    a_pre: float = 1.0,
    a_post: float = -1.0,
    feedback: FeedbackKind = "symmetric",
    feedback_std: float = 1.0,
    direct: bool = False,
    update: Update = "trial",
) -> Rule:
    """S-TLLR, after spike-timing-dependent plasticity: causal and non-causal order both count.

    ``dw_ij = sum_t L_j [ a_pre*psi_j*pre_i + a_post*post_j*x_i ]`` with ``pre_i = lam_pre*pre_i + x_i`` and, of
    strictly earlier steps, ``post_j = lam_post*post_j + psi_j``. The learning signal comes from layer to layer within
    the moment, or straight from the readout. For a LIF neuron ``a_post = 0`` and ``lam_pre = exp(-dt/tau_mem)`` is
    :func:`ottt`. Learning in the last steps of a trial only, as published, is a matter of the loss:
    ``Trials(..., weight=...)``.

    Other arguments
    ---------------
    lam_pre, lam_post : float or Quantity
        Decay of the traces, a factor per step or a time constant. Published (lam_post, lam_pre, a_post, a_pre): DVS
        gesture (0.2, 0.75, -1, 1), CIFAR10-DVS (0.2, 0.5, -1, 1), SHD (0.5, 1, 1, 1), with the surrogate
        ``1/(100|x| + 1)^2``.
    a_pre, a_post : float
    feedback, feedback_std : as for :func:`~localplast.learning.rule.feedback_alignment`
    direct : bool
        Whether the error goes straight to every layer (direct feedback alignment, with ``feedback="random"``).
    update : str or Quantity

    Apolinario & Roy 2025, Transactions on Machine Learning Research, eqs. 10-11.
    """
    signal = (Broadcast if direct else Layered)(feedback, feedback_std)
    return Rule(
        "S-TLLR",
        True,
        frozenset({"recurrent", "reset", "adaptation", "leak", "readout"}),
        TwoTraces(lam_pre, lam_post, a_pre, a_post),
        Immediate(),
        signal,
        update,
        "Apolinario & Roy 2025, TMLR",
    )


def es_d_rtrl(
    *,
    decay: float | Quantity = 0.9,
    reset: bool = True,
    feedback: FeedbackKind = "symmetric",
    feedback_std: float = 1.0,
    update: Update = "trial",
) -> Rule:
    """ES-D-RTRL: the traces of D-RTRL (:func:`ostl`) as a product of two exponentially smoothed vectors.

    ``eps_ij ~ eps_f_j eps_x_i`` with ``eps_x = decay*eps_x + x`` and ``eps_f = decay*D eps_f + (1 - decay)*D_f``:
    ``D`` is how the neuron's state follows its state one step earlier, ``D_f`` how it follows what arrives. Where the
    neuron has several states, ``eps_f`` has as many components and ``D`` is their Jacobian. BrainTrace's code also
    divides ``eps_f`` by ``1 - decay**t``; that is left out, as in the paper.

    Other arguments
    ---------------
    decay : float or Quantity
        A factor per step, or a time constant. A rank r of the paper is ``decay = (r - 1)/(r + 1)``.
    reset : bool
        Follow the neuron's own reset in ``D``; it has to be a subtraction.
    feedback, feedback_std : as for :func:`~localplast.learning.rule.feedback_alignment`
    update : str or Quantity

    Wang et al. 2026, Nat Commun 17:1745.
    """
    return Rule(
        "ES-D-RTRL",
        True,
        frozenset({"recurrent", "readout"} | (set() if reset else {"reset"})),
        Factorised(decay, reset),
        Immediate(),
        Layered(feedback, feedback_std),
        update,
        "Wang et al. 2026, Nat Commun 17:1745",
    )
