"""A soma and a passive dendrite with AMPA and NMDA synapses."""

from collections.abc import Mapping, Sequence
from typing import Any

from brian2 import ms, mV, nS, pF
from brian2.units.fundamentalunits import Quantity

from localplast.neuron import Compartment, NeuronModel, cell, coupling
from localplast.neuron.channels import Channel, ampa, nmda
from localplast.neuron.surrogate import per_time, triangle

__all__ = ["two_compartment"]


def two_compartment(
    *,
    v_rest: Quantity = -70 * mV,
    v_th: Quantity = -50 * mV,
    v_reset: Quantity = -60 * mV,
    tau_ref: Quantity = 4 * ms,
    C_soma: Quantity = 200 * pF,
    g_leak_soma: Quantity = 10 * nS,
    C_dendrite: Quantity = 50 * pF,
    g_leak_dendrite: Quantity = 2.5 * nS,
    g_dendrite: Quantity = 15 * nS,
    g_ampa: Quantity = 3 * nS,
    tau_ampa: Quantity = 2 * ms,
    g_nmda: Quantity = 3 * nS,
    tau_nmda: Quantity = 60 * ms,
    gate: Mapping[str, Any] | None = None,
    channels: Mapping[str, Sequence[Channel]] | None = None,
    width: Quantity = 20 * mV,
    method: str = "euler",
) -> NeuronModel:
    """Two leaky membranes joined by the conductance ``g_dendrite``; only the soma spikes::

        C_soma*dv_soma/dt         = g_leak_soma*(v_rest - v_soma) + g_dendrite*(v_dendrite - v_soma) + I_soma
        C_dendrite*dv_dendrite/dt = g_leak_dendrite*(v_rest - v_dendrite) + g_dendrite*(v_soma - v_dendrite) + AMPA +
        NMDA
                                    + I_dendrite

    Projections land on ``s_ampa_dendrite`` unless they name another variable (``s_nmda_dendrite``); a weight is a
    number of synapses.

    ================================ ====================================== =========
    parameter                        meaning                                unit
    ================================ ====================================== =========
    v_rest, v_th, v_reset            resting potential, threshold, reset    volt
    tau_ref                          refractory period (soma is clamped)    second
    C_soma, C_dendrite               capacitances                           farad
    g_leak_soma, g_leak_dendrite     leaks                                  siemens
    g_dendrite                       coupling                               siemens
    g_ampa, g_nmda                   conductance of one synapse             siemens
    tau_ampa, tau_nmda               decay of synapses                      second
    width                            half width of the surrogate            volt
    ================================ ====================================== =========

    Other arguments
    ---------------
    gate : mapping, optional
        Of the NMDA channel, such as ``localplast.neuron.channels.JAHR_STEVENS``.
    channels : mapping of str to sequence of Channel, optional
        More channels, by compartment.

    The surrogate is that of Bellec et al. 2020 made a rate (:func:`~localplast.surrogate.per_time`): gradients do not
    hang on dt.

    Capacitances, leaks, coupling and synapses of the example cell of Pagkalos, Chavlis & Poirazi 2023, Nat Commun
    14:131.
    """
    soma = Compartment("soma", C=C_soma, g_leak=g_leak_soma, E_leak=v_rest, clamped=True)
    dendrite = Compartment(
        "dendrite",
        C=C_dendrite,
        g_leak=g_leak_dendrite,
        E_leak=v_rest,
        channels=[ampa(g=g_ampa, tau=tau_ampa), nmda(g=g_nmda, tau=tau_nmda, **(gate or {}))],
    )
    return cell(
        "two_compartment",
        soma,
        dendrite,
        couplings=[coupling("soma", "dendrite", g_dendrite)],
        channels=channels,
        threshold="v_soma > v_th",
        reset="v_soma = v_reset",
        refractory="tau_ref",
        receives="s_ampa_dendrite",
        parameters={"v_th": v_th, "v_reset": v_reset, "tau_ref": tau_ref, "width": width},
        surrogate=per_time(triangle("width")),
        method=method,
        reference="Pagkalos, Chavlis & Poirazi 2023, Nat Commun 14:131",
    )
