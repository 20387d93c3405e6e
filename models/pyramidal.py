"""A layer 5 pyramidal cell reduced to three compartments: soma, apical calcium zone, basal NMDA branch."""

from collections.abc import Mapping, Sequence
from typing import Any

from brian2 import ms, mV, nS, pA, pF
from brian2.units.fundamentalunits import Quantity

from localplast.neuron import Compartment, NeuronModel, active_coupling, cell, coupling
from localplast.neuron.channels import Channel, adaptation, ampa, bap, calcium, nmda
from localplast.neuron.surrogate import per_time, triangle

__all__ = ["pyramidal"]


def pyramidal(
    *,
    v_rest: Quantity = -70 * mV,
    v_th: Quantity = -50 * mV,
    tau_ref: Quantity = 3 * ms,
    C_soma: Quantity = 370 * pF,
    tau_soma: Quantity = 16 * ms,
    b: Quantity = -200 * pA,
    tau_adapt: Quantity = 100 * ms,
    C_apical: Quantity = 170 * pF,
    tau_apical: Quantity = 7 * ms,
    I_ca: Quantity = 1200 * pA,
    I_ca_soma: Quantity = 1300 * pA,
    v_ca: Quantity = -38 * mV,
    slope_ca: Quantity = 6 * mV,
    a_ca: Quantity = -13 * nS,
    tau_ca: Quantity = 30 * ms,
    I_bap: Quantity = 2600 * pA,
    C_basal: Quantity = 50 * pF,
    g_leak_basal: Quantity = 2.5 * nS,
    g_basal: Quantity = 4 * nS,
    g_ampa: Quantity = 0.8 * nS,
    tau_ampa: Quantity = 2 * ms,
    g_nmda: Quantity = 0.8 * nS,
    tau_nmda: Quantity = 60 * ms,
    gate: Mapping[str, Any] | None = None,
    channels: Mapping[str, Sequence[Channel]] | None = None,
    width: Quantity = 20 * mV,
    method: str = "euler",
) -> NeuronModel:
    """Soma and apical dendrite, joined by active currents, and a basal branch, joined by a conductance::

        dv_soma/dt   = (C_soma/tau_soma*(v_rest - v_soma) + I_ca_soma*f + w + I_soma
                        + g_basal*(v_basal - v_soma))/C_soma
        dv_apical/dt = (C_apical/tau_apical*(v_rest - v_apical) + I_ca*f + w_ca + I_bap*K + I_apical)/C_apical
        dv_basal/dt  = (g_leak_basal*(v_rest - v_basal) + g_basal*(v_soma - v_basal) + AMPA + NMDA + I_basal)/C_basal
        f            = 1/(1 + exp((v_ca - v_apical)/slope_ca))        tau_ca dw_ca/dt = a_ca*(v_apical - v_rest) - w_ca

    ``w`` moves by ``b`` with every spike and decays with ``tau_adapt``; ``K`` is 1 from 0.5 ms to 2.5 ms after a
    somatic spike. Spikes of one presynaptic neuron land on ``s_ampa_basal`` and on ``s_nmda_basal``; a weight is a
    number of synapses.

    ======================= ================================================= =========
    parameter               meaning                                           unit
    ======================= ================================================= =========
    v_rest                  resting and reset potential                       volt
    v_th, tau_ref           threshold, refractory period (soma is clamped)    volt, second
    b, tau_adapt            spike-triggered current                           amp, second
    C_*, tau_*              capacitances, membrane time constants             farad, second
    I_ca, I_ca_soma         regenerative current, in the dendrite and soma    amp
    v_ca, slope_ca          half activation and its width                     volt
    a_ca, tau_ca            adaptation of the dendrite                        siemens, second
    I_bap                   back-propagating action potential                 amp
    g_leak_basal, g_basal   leak of the branch, coupling to the soma          siemens
    g_ampa, g_nmda          conductance of one synapse                        siemens
    tau_ampa, tau_nmda      decay of synapses                                 second
    width                   half width of the surrogate                       volt
    ======================= ================================================= =========

    Other arguments
    ---------------
    gate : mapping, optional
        Of the NMDA channel, such as ``localplast.neuron.channels.JAHR_STEVENS``.
    channels : mapping of str to sequence of Channel, optional
        More channels, by compartment.

    The surrogate is that of Bellec et al. 2020 made a rate (:func:`~localplast.surrogate.per_time`): gradients do not
    hang on dt.

    Soma and apical dendrite: Naud & Sprekeler 2018, PNAS 115:E6329, with the parameters of Payeur et al. 2021, Nat
    Neurosci 24:1010, and a refractory period in place of their moving threshold.
    """
    rest: dict[str, Any] = {"E_leak": v_rest}
    current = adaptation(b=b, tau=tau_adapt)
    zone = [
        calcium(I=I_ca, half=v_ca, slope=slope_ca, a=a_ca, tau=tau_ca, E=v_rest),
        bap(I=I_bap, delay=0.5 * ms, duration=2 * ms),
    ]
    synapses = [ampa(g=g_ampa, tau=tau_ampa), nmda(g=g_nmda, tau=tau_nmda, **(gate or {}))]
    joined = [coupling("soma", "basal", g_basal), active_coupling("apical", "soma", I_ca_soma, by="f_ca")]
    firing: dict[str, Any] = {
        "threshold": "v_soma > v_th",
        "reset": "v_soma = E_leak_soma",
        "refractory": "tau_ref",
        "method": method,
    }
    return cell(
        "pyramidal",
        Compartment("soma", C=C_soma, g_leak=Quantity(C_soma / tau_soma), clamped=True, channels=[current], **rest),
        Compartment("apical", C=C_apical, g_leak=Quantity(C_apical / tau_apical), channels=zone, **rest),
        Compartment("basal", C=C_basal, g_leak=g_leak_basal, channels=synapses, **rest),
        couplings=joined,
        channels=channels,
        parameters={"v_th": v_th, "tau_ref": tau_ref, "width": width},
        surrogate=per_time(triangle("width")),
        reference="Naud & Sprekeler 2018, PNAS 115:E6329; Payeur et al. 2021, Nat Neurosci 24:1010",
        **firing,
    )
