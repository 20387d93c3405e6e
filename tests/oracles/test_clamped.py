"""Variables that are clamped while a neuron is refractory: what lands on them in the step of the spike."""

import brian2 as b2
import numpy as np
import pytest
from brian2 import ms

from localplast.network import Input, Network, Population, Projection
from localplast.neuron import NeuronModel
from localplast.task import Trials


def clamped():
    """A membrane that inputs land on, clamped for 3 ms from its spike on, and lowered by it."""
    return NeuronModel(
        name="clamped", equations="dv/dt = -v/tau : 1 (unless refractory)", threshold="v > 1", reset="v -= 1",
        refractory="tau_ref", receives="v", parameters={"tau": 10 * ms, "tau_ref": 3 * ms},
    )  # fmt: skip


def by_plain_brian2(times):
    """Membranes at the end of every step, from Brian2 alone."""
    b2.start_scope()
    with_numpy, b2.prefs.codegen.target = b2.prefs.codegen.target, "numpy"
    try:
        clock = b2.Clock(1 * ms)
        cell = b2.NeuronGroup(
            1, "dv/dt = -v/(10*ms) : 1 (unless refractory)", threshold="v > 1", reset="v -= 1", refractory=3 * ms,
            method="exact", clock=clock,
        )  # fmt: skip
        source = b2.SpikeGeneratorGroup(1, np.zeros(len(times), int), np.array(times) * ms, clock=clock)
        synapse = b2.Synapses(source, cell, on_pre="v_post += 1.4", clock=clock)
        synapse.connect()
        seen = b2.StateMonitor(cell, "v", record=True, clock=clock, when="end")
        b2.Network(cell, source, synapse, seen).run(14 * ms)
        return seen.v[0]
    finally:
        b2.prefs.codegen.target = with_numpy


@pytest.mark.parametrize("times", [[2], [2, 3], [2, 4], [2, 5], [2, 6], [2, 3, 6, 7]], ids=str)
def test_what_arrives_in_the_step_of_the_spike_is_lost_where_it_is_clamped(times, twins):
    """An input in step 2 makes it spike in step 3; from then on until step 5 nothing that lands on it moves it."""
    raster = np.zeros((1, 14, 1), bool)
    raster[0, times] = True
    net = Network(
        dt=1 * ms, cues=Input(1), it=Population(1, clamped()), projections=[Projection("cues", "it", weight=1.4)]
    )
    decay = np.exp(-0.1)
    expected, v, since = [], 0.0, 99
    for step in range(14):
        since, ready = since + 1, since + 1 >= 3
        v = v * decay if ready else v
        spikes = ready and v > 1
        since = 0 if spikes else since
        v += 1.4 * (raster[0, step, 0] and ready and not spikes)
        v -= spikes
        expected.append(v)
    np.testing.assert_allclose(by_plain_brian2(times), expected, rtol=1e-12, atol=1e-15)
    for run in (twins.brian2, twins.torch):
        found = run(net, Trials({"cues": raster}), ["it.v"])["it.v"][0, :, 0]
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
