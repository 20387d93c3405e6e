"""Two compartments: a dendrite that predicts the soma, and a soma that a teacher may nudge."""

from typing import Any, Literal

from brian2 import Hz, ms, mV, nS, pF
from brian2.units.fundamentalunits import Quantity

from localplast.errors import ModelError
from localplast.neuron import Mismatch, NeuronModel
from localplast.neuron.surrogate import boxcar

__all__ = ["urbanczik_senn"]

EQUATIONS = """
    du/dt = (g_l*(e_l - u) + g_d*(v_den - u) + g_exc*(e_exc - u) + g_inh*(e_inh - u))/c_m : volt
    dv_den/dt = (g_l*(e_l - v_den) + I_den)/c_m : volt
    dI_den/dt = -I_den/tau_syn : amp
    v_star = (g_l*e_l + g_d*v_den)/(g_l + g_d) : volt
    phi = phi_max/(1 + slope*exp(beta*(theta - u))) : Hz
    phi_star = phi_max/(1 + slope*exp(beta*(theta - v_star))) : Hz
    h = beta/(1 + exp(beta*(v_star - theta))/slope) : 1/volt
    g_exc : siemens
    g_inh : siemens
"""


def urbanczik_senn(
    *,
    form: Literal["spikes", "rates"] = "spikes",
    c_m: Quantity = 300 * pF,
    g_l: Quantity = 30 * nS,
    g_d: Quantity = 600 * nS,
    e_l: Quantity = -70 * mV,
    e_exc: Quantity = 0 * mV,
    e_inh: Quantity = -75 * mV,
    tau_syn: Quantity = 3 * ms,
    phi_max: Quantity = 150 * Hz,
    slope: float = 0.5,
    beta: Quantity = 1 / 3 / mV,
    theta: Quantity = -55 * mV,
    tau_ref: Quantity = 3 * ms,
) -> NeuronModel:
    """A soma ``u`` that follows its dendrite ``v_den`` and, where a teacher opens ``g_exc`` and ``g_inh``, something
    else too.

    What the dendrite alone would make of the soma is ``v_star = (g_l e_l + g_d v_den)/(g_l + g_d)``. The soma spikes
    at the rate ``phi(u) = phi_max/(1 + slope exp(beta (theta - u)))``, with no reset. With ``h = phi'/phi``, weights
    onto ``I_den`` learn from

    .. math::  dw_j ~ [z - phi(v*) dt] \\, h(v*) \\, dv*/dw_j

    the gradient of the log-likelihood that the prediction gives to the spikes ``z`` (of a point process,
    ``z log phi - phi dt``). Nothing is learned, on average, where ``v_star = u``.

    =========== ============================================ =========
    parameter   meaning                                      unit
    =========== ============================================ =========
    c_m         capacitance of each compartment              farad
    g_l         leak of each compartment                     siemens
    g_d         coupling of the dendrite to the soma         siemens
    e_l         resting potential                            volt
    e_exc       reversal of the teacher's ``g_exc``          volt
    e_inh       reversal of the teacher's ``g_inh``          volt
    tau_syn     synaptic time constant of the dendrite       second
    phi_max     highest rate                                 hertz
    slope       ``k`` of the paper                           1
    beta        steepness of the rate                        1/volt
    theta       potential of the rate's middle, at k = 1     volt
    tau_ref     dead time after a spike (``'spikes'``)       second
    =========== ============================================ =========

    Other arguments
    ---------------
    form : str
        ``'spikes'``: escape noise from outside. A spike occurs where ``dice > 1 - phi(u) dt``, with ``dice`` set by a
        graded projection from an input of numbers drawn uniformly between 0 and 1: the same spikes on every backend
        (one step after the number is drawn; without dice, none). ``'rates'``: no spikes, ``phi(u) dt`` stands for
        ``z``.

    While the neuron is refractory nothing is expected of it, so ``phi(v_star)`` does not count then: this is the
    likelihood of a process with dead time. NEST's ``urbanczik_synapse`` lets it count, and settles at rates that are
    too low.

    Urbanczik & Senn 2014, Neuron 81:521; parameters of NEST's ``pp_cond_exp_mc_urbanczik`` (the paper's in mV and ms).
    """
    if form not in ("spikes", "rates"):
        raise ModelError(f"urbanczik_senn: form is 'spikes' or 'rates', not {form!r}")
    parameters: dict[str, Any] = dict(c_m=c_m, g_l=g_l, g_d=g_d, e_l=e_l, e_exc=e_exc, e_inh=e_inh, tau_syn=tau_syn)
    parameters |= dict(phi_max=phi_max, slope=slope, beta=beta, theta=theta)
    shared: dict[str, Any] = dict(
        name="urbanczik_senn",
        method="exponential_euler",
        receives="I_den",
        initial={"u": e_l, "v_den": e_l},
        reference="Urbanczik & Senn 2014, Neuron 81:521",
    )
    if form == "rates":
        learned = Mismatch("(phi - phi_star)*dt*h", of="v_star")
        return NeuronModel(equations=EQUATIONS, parameters=parameters, mismatch={"I_den": learned}, **shared)
    return NeuronModel(
        equations=f"""{EQUATIONS}
            dice : 1
            ready : 1
        """,
        update="ready = int(not_refractory)",
        threshold="dice > 1 - phi*dt",
        refractory="tau_ref",
        parameters={**parameters, "tau_ref": tau_ref},
        # 1: the expected number of spikes in a step, phi*dt, rises as the spike argument does
        surrogate=boxcar(4.0, gamma=4.0),
        mismatch={"I_den": Mismatch("(z - ready*phi_star*dt)*h", of="v_star")},
        **shared,
    )
