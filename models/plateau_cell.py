"""One cell with the dendritic events of BrainScaleS: NMDA plateau, calcium spike, sodium spike, and what coincides."""

from collections.abc import Mapping, Sequence
from typing import Any

from brian2 import ms, mV, nS, pA, pF
from brian2.units.fundamentalunits import Quantity

from localplast.neuron import Compartment, NeuronModel, cell, coupling
from localplast.neuron.channels import Channel, ampa, bap, na_spike, plateau
from localplast.neuron.surrogate import per_time, triangle

__all__ = ["plateau_cell"]


def plateau_cell(
    *,
    v_rest: Quantity = -70 * mV,
    v_th: Quantity = -50 * mV,
    v_reset: Quantity = -60 * mV,
    tau_ref: Quantity = 3 * ms,
    C_soma: Quantity = 200 * pF,
    g_leak_soma: Quantity = 10 * nS,
    C_dendrite: Quantity = 50 * pF,
    g_leak_dendrite: Quantity = 2.5 * nS,
    g_basal: Quantity = 7 * nS,
    g_oblique: Quantity = 20 * nS,
    g_apical: Quantity = 15 * nS,
    g_ampa: Quantity = 1 * nS,
    tau_ampa: Quantity = 2 * ms,
    theta_nmda: Quantity = -45 * mV,
    T_nmda: Quantity = 50 * ms,
    theta_ca: Quantity = -40 * mV,
    T_ca: Quantity = 30 * ms,
    E_plateau: Quantity = -10 * mV,
    g_plateau: Quantity = 50 * nS,
    theta_na: Quantity = -40 * mV,
    g_rise: Quantity = 30 * nS,
    g_fall: Quantity = 14 * nS,
    I_bap: Quantity = 500 * pA,
    channels: Mapping[str, Sequence[Channel]] | None = None,
    width: Quantity = 20 * mV,
    method: str = "euler",
) -> NeuronModel:
    """A leaky soma with three dendrites, each with AMPA synapses and an event of its own that starts a timer.

    ========== ==================================================================================================
    dendrite   where its membrane crosses a threshold
    ========== ==================================================================================================
    basal      NMDA plateau: pulled to ``E_plateau`` for ``T_nmda``
    apical     calcium spike: the same for ``T_ca``; out of reach for a back-propagating spike, or an EPSP, alone
    oblique    sodium spike: 1.2 ms of ``g_rise``, 0.2 ms later 2.4 ms of ``g_fall``
    ========== ==================================================================================================

    Projections land on ``s_ampa_basal`` unless they name another variable; a weight is a number of synapses.

    ================================ ============================================== =========
    parameter                        meaning                                        unit
    ================================ ============================================== =========
    v_rest, v_th, v_reset            resting potential, threshold, reset            volt
    tau_ref                          refractory period (soma is clamped)            second
    C_soma, C_dendrite               capacitances, of soma and of each dendrite     farad
    g_leak_soma, g_leak_dendrite     leaks                                          siemens
    g_basal, g_oblique, g_apical     couplings to the soma                          siemens
    g_ampa, tau_ampa                 conductance of one synapse, its decay          siemens, second
    theta_nmda, theta_ca, theta_na   thresholds of the events                       volt
    T_nmda, T_ca                     lengths of the plateaus                        second
    E_plateau, g_plateau             what plateaus pull to, and how strongly        volt, siemens
    g_rise, g_fall                   conductances of the sodium spike               siemens
    I_bap                            back-propagating action potential              amp
    width                            half width of the surrogate                    volt
    ================================ ============================================== =========

    The surrogate is that of Bellec et al. 2020 made a rate (:func:`~localplast.surrogate.per_time`): gradients do not
    hang on dt.

    Events as in Schemmel, Kriener, Mueller & Meier 2017, IJCNN, arXiv:1703.07286 (three types of dendritic spike in one
    cell), the sodium spike as in Pagkalos, Chavlis & Poirazi 2023, Nat Commun 14:131; lengths in biological time.
    """
    passive: dict[str, Any] = {"C": C_dendrite, "g_leak": g_leak_dendrite, "E_leak": v_rest}
    synapses, held = ampa(g=g_ampa, tau=tau_ampa), {"g": g_plateau, "E": E_plateau}
    nmda = plateau(**held, theta=theta_nmda, duration=T_nmda, tau_ref=T_nmda + 10 * ms, name="nmda")
    calcium = plateau(**held, theta=theta_ca, duration=T_ca, tau_ref=T_ca + 10 * ms, name="ca")
    times = {"rise": 1.2 * ms, "pause": 0.2 * ms, "fall": 2.4 * ms, "tau_ref": 5 * ms}
    sodium = na_spike(g_rise=g_rise, g_fall=g_fall, E_rise=70 * mV, E_fall=-89 * mV, theta=theta_na, **times)
    firing: dict[str, Any] = {
        "threshold": "v_soma > v_th",
        "reset": "v_soma = v_reset",
        "refractory": "tau_ref",
        "method": method,
    }
    return cell(
        "plateau_cell",
        Compartment("soma", C=C_soma, g_leak=g_leak_soma, E_leak=v_rest, clamped=True),
        Compartment("basal", **passive, channels=[synapses, nmda]),
        Compartment("apical", **passive, channels=[synapses, calcium, bap(I=I_bap, delay=0.5 * ms, duration=2 * ms)]),
        Compartment("oblique", **passive, channels=[synapses, sodium]),
        couplings=[
            coupling("soma", *onto) for onto in (("basal", g_basal), ("apical", g_apical), ("oblique", g_oblique))
        ],
        channels=channels,
        receives="s_ampa_basal",
        parameters={"v_th": v_th, "v_reset": v_reset, "tau_ref": tau_ref, "width": width},
        surrogate=per_time(triangle("width")),
        reference="Schemmel, Kriener, Mueller & Meier 2017, IJCNN, arXiv:1703.07286",
        **firing,
    )
