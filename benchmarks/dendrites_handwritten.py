"""The reduced pyramidal cell as Brian2 users write it by hand: what localplast's cell has to agree with, and to keep
up with.

Soma and apical calcium zone: Naud & Sprekeler 2018, PNAS 115:E6329, parameters of Payeur et al. 2021; basal NMDA
branch with the gate of Pagkalos et al. 2023. Run as a program, it prints the numbers that
``tests/oracles/test_pyramidal.py`` holds the library to.
"""

import brian2 as b2
import numpy as np
from brian2 import ms, mV, nS, pA, pF, second
from dendrites_problem import DT

__all__ = ["cells", "network"]

#: The box K of the back-propagating action potential is 40 steps long. Without the half step in its edges rounding
#: errors decide whether it has 40 or 41, after each spike anew, which in the triplet makes 4.7 mV of 4.2.
EQUATIONS = """
    dvs/dt = -(vs - EL)/taus + (gs*f + ws + Is + gc*(vb - vs))/Cs : volt (unless refractory)
    dvd/dt = -(vd - EL)/taud + (gd*f + wd + cbap*K + Id)/Cd : volt
    dvb/dt = (gLb*(EL - vb) + gc*(vs - vb) + (gA*sA + gN*sN*B)*(EE - vb))/Cb : volt
    dws/dt = -ws/tauws : amp
    dwd/dt = (-wd + a*(vd - EL))/tauwd : amp
    f = 1/(1 + exp(-(vd - Ed)/Dd)) : 1
    K = int(t - lastspike >= 0.5*ms - 0.5*dt)*int(t - lastspike < 2.5*ms - 0.5*dt) : 1
    B = 1/(1 + (Mg/3.57)*exp(-alpha*(vb/mV + gam))) : 1
    dsA/dt = -sA/tauA : 1
    dsN/dt = -sN/tauN : 1
    gc : siemens (constant)
"""
#: Currents: constant ones, or waveforms of the same name, one column per cell.
CONSTANT = "Is : amp (constant)\nId : amp (constant)\n"
WAVEFORMS = "Is = soma(t, i) : amp\nId = apical(t, i) : amp\n"
PARAMETERS = dict(
    EL=-70 * mV,
    taus=16 * ms,
    Cs=370 * pF,
    gs=1300 * pA,
    tauws=100 * ms,
    b=-200 * pA,
    taud=7 * ms,
    Cd=170 * pF,
    gd=1200 * pA,
    cbap=2600 * pA,
    a=-13 * nS,
    tauwd=30 * ms,
    Ed=-38 * mV,
    Dd=6 * mV,
    Cb=50 * pF,
    gLb=2.5 * nS,
    gA=0.8 * nS,
    gN=0.8 * nS,
    tauA=2 * ms,
    tauN=60 * ms,
    EE=0 * mV,
    Mg=1,
    alpha=0.087,
    gam=10,
)


def cells(size, equations=CONSTANT, **waveforms):
    """The group, at rest; ``waveforms`` are Brian2's ``TimedArray`` of WAVEFORMS."""
    group = b2.NeuronGroup(
        size,
        EQUATIONS + equations,
        threshold="vs > -50*mV",
        reset="vs = EL; ws += b",
        refractory=3 * ms,
        method="euler",
        namespace={**PARAMETERS, **waveforms},
    )
    group.vs = group.vd = group.vb = -70 * mV
    group.gc, group.lastspike = 4 * nS, -1 * second
    return group


def onto_basal(group, spikes, contacts, on_pre="sA_post += 1; sN_post += 1"):
    """Input spikes ``(time, channel)`` and the synapses that they reach ``(channel, cell)``."""
    step, channel = np.nonzero(spikes)
    source = b2.SpikeGeneratorGroup(spikes.shape[1], channel, step * DT * ms)
    synapses = b2.Synapses(source, group, on_pre=on_pre)
    synapses.connect(i=np.nonzero(contacts)[0], j=np.nonzero(contacts)[1])
    return source, synapses


def network(given):
    """The network of the benchmark in the currents and spikes ``given``; returns it with its spike monitor."""
    b2.defaultclock.dt = DT * ms
    group = cells(len(given.soma))
    group.Is, group.Id = given.soma * pA, given.apical * pA
    spikes = b2.SpikeMonitor(group)
    inputs = onto_basal(group, given.spikes, given.contacts) if given.spikes is not None else ()
    return b2.Network(group, *inputs, spikes), spikes


def scan(soma, apical, coupling=0.0):
    """Spike counts and the largest apical potential (mV) of cells in currents ``(time, cell)`` in pA."""
    waves = {name: b2.TimedArray(wave * pA, dt=DT * ms) for name, wave in (("soma", soma), ("apical", apical))}
    group = cells(soma.shape[1], WAVEFORMS, **waves)
    group.gc = coupling * nS
    spikes, v = b2.SpikeMonitor(group), b2.StateMonitor(group, "vd", record=True)
    b2.Network(group, spikes, v).run(len(soma) * DT * ms, namespace={})
    return spikes, (v.vd / mV).max(1)


def main():
    """Rheobase, coincidence window and triplet, with the basal branch cut off where nothing else is said."""
    b2.prefs.codegen.target, b2.defaultclock.dt = "numpy", DT * ms
    t = np.arange(3000) * DT
    pulse = ((t >= 50 - 1e-9) & (t < 55 - 1e-9))[:, None].astype(float)

    def epsc(onset):
        since, top = np.maximum(t - onset, 0), 0.5 * 5 / 4.5 * np.log(10)
        return ((np.exp(-since / 5) - np.exp(-since / 0.5)) / (np.exp(-top / 5) - np.exp(-top / 0.5)))[:, None]

    for coupling in (0, 4):
        amplitudes = np.arange(1000, 2501, 100)
        spikes, _ = scan(pulse * amplitudes, 0 * pulse * amplitudes, coupling)
        print(f"rheobase, coupling {coupling} nS: {amplitudes[np.asarray(spikes.count) > 0].min()} pA")
    amplitudes = np.arange(400, 1651, 50)
    for offset in (-5, -2, 0, 2, 4, 5, 7, 10, 15, None):
        spikes, _ = scan(
            pulse * (0 if offset is None else 2000) + 0 * amplitudes, epsc(50 + (offset or 0)) * amplitudes
        )
        name = "alone" if offset is None else f"{offset:+d} ms"
        print(f"calcium spike, {name}: {amplitudes[np.asarray(spikes.count) > 1].min()} pA")
    spikes, v = scan(pulse * np.array([2000, 0, 2000]), epsc(54) * np.array([0, 900, 900]))
    print(
        "triplet:", {cell: (np.asarray(train / ms), v[cell].round(1)) for cell, train in spikes.spike_trains().items()}
    )


if __name__ == "__main__":
    main()
