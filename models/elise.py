"""The cell of ELiSe: a dendrite that learns to predict its soma, which a teacher or a fixed scaffold of synapses
moves.
"""

from brian2 import mV, nS, pF
from brian2.units.fundamentalunits import Quantity

from localplast.neuron import Mismatch, NeuronModel

__all__ = ["elise"]


def elise(
    *,
    C: Quantity = 1 * pF,
    g_l: Quantity = 0.1 * nS,
    g_den: Quantity = 2 * nS,
    E_l: Quantity = -70 * mV,
    E_exc: Quantity = 0 * mV,
    E_inh: Quantity = -75 * mV,
    slope: Quantity = 0.3 / mV,
    u_half: Quantity = -58 * mV,
) -> NeuronModel:
    """A rate neuron of two compartments: the dendrite ``v`` sums currents, the soma ``u`` conductances::

        C dv/dt = g_l*(E_l - v) + I_den
        C du/dt = g_l*(E_l - u) + g_den*(v - u) + g_exc*(E_exc - u) + g_inh*(E_inh - u) + g_nudge*(u_target - u)
        v_star  = (g_l*E_l + g_den*v)/(g_l + g_den)

    ``v_star`` is where a soma rests that nothing but its dendrite moves: what the dendrite predicts.

    =============== ============================================== =========
    parameter       meaning                                        unit
    =============== ============================================== =========
    C               capacitance of each compartment                farad
    g_l             leak of each compartment                       siemens
    g_den           coupling from dendrite to soma                 siemens
    E_l             leak reversal                                  volt
    E_exc, E_inh    synaptic reversals                             volt
    slope, u_half   of the rate ``1/(1 + exp(slope*(u_half - u)))`` 1/volt, volt
    =============== ============================================== =========

    Projections land on the current ``I_den`` (learned) or on the conductances ``g_exc`` and ``g_inh`` (the scaffold,
    which sends ``floored_rate``, never below the rate at rest). A teacher sets the potential ``u_target`` and the
    conductance ``g_nudge`` that pulls to it (0: no teacher), the sum of the published excitatory and inhibitory ones.
    Where it is ``lam/(1 - lam)*(g_l + g_den)`` the soma rests at ``u = (1 - lam)*v_star + lam*u_target``, exactly.

    Dendritic weights learn by ``(rate(u) - rate(v_star)) * g_l * dv_star/dw``.

    Kriener et al. 2024, arXiv:2402.16763, eqs. 1-11; numbers as in the authors' code, whose capacitance of 1 per ms
    is 1 pF here.
    """
    return NeuronModel(
        name="elise",
        equations="""
            dv/dt = (g_l*(E_l - v) + I_den)/C : volt
            du/dt = (g_l*(E_l - u) + g_den*(v - u) + g_exc*(E_exc - u) + g_inh*(E_inh - u) \
                     + g_nudge*(u_target - u))/C : volt
            v_star = (g_l*E_l + g_den*v)/(g_l + g_den) : volt
            rate = 1/(1 + exp(slope*(u_half - u))) : 1
            predicted_rate = 1/(1 + exp(slope*(u_half - v_star))) : 1
            floored_rate = clip(rate, 1/(1 + exp(slope*(u_half - E_l))), 1) : 1
            I_den : amp
            g_exc : siemens
            g_inh : siemens
            u_target : volt
            g_nudge : siemens
        """,
        parameters={
            "C": C,
            "g_l": g_l,
            "g_den": g_den,
            "E_l": E_l,
            "E_exc": E_exc,
            "E_inh": E_inh,
            "slope": slope,
            "u_half": u_half,
        },
        method="exponential_euler",
        receives="I_den",
        output="rate",
        mismatch={"I_den": Mismatch("rate - predicted_rate", of="g_l*v_star")},
        initial={"u": E_l, "v": E_l},
        reference="Kriener et al. 2024, arXiv:2402.16763",
    )
