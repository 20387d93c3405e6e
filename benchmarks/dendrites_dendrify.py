"""Dendrify's two-compartment cell with the numbers of its tutorials: a soma, and a dendrite with AMPA, NMDA and a
sodium spike.

Pagkalos, Chavlis & Poirazi 2023, Nat Commun 14:131. It has one compartment less than the reduced pyramidal cell, no
calcium zone, and a dendritic sodium spike instead: a peer for the cost per cell, not for what a cell does.
"""

import brian2 as b2
from brian2 import ms, mV, nS, pA, pF
from dendrites_handwritten import onto_basal
from dendrites_problem import DT

__all__ = ["network"]


def network(given):
    """The network of the benchmark in the currents and spikes ``given``; returns it with its spike monitor."""
    b2.defaultclock.dt = DT * ms  # before the spikes of the dendrite are defined: their lengths are counted in steps
    group, reset = cells(len(given.soma))
    group.I_ext_soma, group.I_ext_dend = 0.35 * given.soma * pA, 0.35 * given.apical * pA
    spikes = b2.SpikeMonitor(group)
    onto = "s_AMPA_basal_dend_post += 1; s_NMDA_basal_dend_post += 1"
    inputs = onto_basal(group, given.spikes, given.contacts, onto) if given.spikes is not None else ()
    return b2.Network(group, reset, *inputs, spikes), spikes


def cells(size):
    """The group, and the object that ends its somatic spikes."""
    from dendrify import Dendrite, NeuronModel, Soma

    soma = Soma("soma", model="leakyIF", cm_abs=200 * pF, gl_abs=10 * nS)
    dendrite = Dendrite("dend", cm_abs=50 * pF, gl_abs=2.5 * nS)
    dendrite.synapse("AMPA", tag="basal", g=0.8 * nS, t_decay=2 * ms)
    dendrite.synapse("NMDA", tag="basal", g=0.8 * nS, t_decay=60 * ms)
    dendrite.dspikes("Na", g_rise=30 * nS, g_fall=14 * nS)
    model = NeuronModel([(soma, dendrite, 15 * nS)], v_rest=-65 * mV)
    model.config_dspikes(
        "Na",
        threshold=-35 * mV,
        duration_rise=1.2 * ms,
        duration_fall=2.4 * ms,
        offset_fall=0.2 * ms,
        refractory=5 * ms,
        reversal_rise="E_Na",
        reversal_fall="E_K",
    )
    return model.make_neurongroup(
        size,
        method="euler",
        threshold="V_soma > -40*mV",
        reset="V_soma = 40*mV",
        second_reset="V_soma = -55*mV",
        spike_width=0.8 * ms,
        refractory=4 * ms,
    )
