"""DelayNet: the published step, written by hand, has the same spikes as ours on both backends."""

from dataclasses import replace

import numpy as np
import pytest
from brian2 import ms, second

import localplast as lp
from localplast.network import Network, axonal, dendritic
from localplast.protocols import delaynet
from localplast.protocols.evidence_accumulation import evidence_trials

STEPS, N = 210, 64
TIMES = np.array([5, 60, 80]) * ms


def published(values, net, raster, delays, receiver):
    """Balafrej et al. 2023, the order of the authors' code; spikes ``(time, neuron)`` and output ``(time, 2)``.

    ``delays`` in steps ``(neuron,)``, of the receiver or else of the sender. Weights and biases of ours become theirs.
    """
    dt, (rec, out) = float(net.dt), (values.parameters[name] for name in ("rec", "out"))
    a, k = np.exp(-dt / rec["tau_mem"]), np.exp(-dt / out["tau_out"])
    w_in, w_rec, w_out = a * values.weights["cues_rec"], a * values.weights["rec_rec"], values.weights["rec_out"]
    b_rec, b_out = rec["tau_mem"] * (1 - a) * rec["bias"], out["tau_out"] * (1 - k) * out["bias"]
    u, o, z, outputs = np.zeros(N), np.zeros(2), np.zeros((STEPS, N)), []
    for t in range(STEPS):
        current = raster[t] @ w_in + b_rec
        for neuron in range(N):
            if t >= delays[neuron]:
                if receiver:
                    current[neuron] += z[t - delays[neuron]] @ w_rec[:, neuron]
                else:
                    current += z[t - delays[neuron], neuron] * w_rec[neuron]
        u = a * u + current
        z[t] = u > rec["v_th"]
        u = u - rec["v_th"] * z[t]
        o = k * o + z[t] @ w_out + b_out
        outputs.append(o)
    return z, np.array(outputs)


def biased(net):
    """The same network with biases that matter."""
    rng = np.random.default_rng(5)
    parameters = {"rec": rng.uniform(-2, 4, N), "out": rng.uniform(-3, 3, 2)}
    nodes = {n: replace(p, parameters={"bias": parameters[n] / second}) if n in parameters else p for n, p in net.nodes.items()}
    return Network(dt=net.dt, projections=net.projections.values(), **nodes)


@pytest.mark.parametrize("backend", ["torch", "brian2"])
@pytest.mark.parametrize("travel", [axonal, dendritic])
def test_the_published_step(travel, backend):
    """To 1e-12, spikes exactly; with delays one step longer, or the other reading of the delay, nothing agrees."""
    net = biased(delaynet.network(neurons=N, dt=5 * ms, times=TIMES, radius=2.5, travel=travel))
    values, trials = net.draw(1), evidence_trials(np.random.default_rng(2), 1, cues=3, duration=1050 * ms, dt=5 * ms)
    found = lp.run(net, trials, backend=backend, record=["rec.raster", "out.v"], values=values)
    spikes, output = found["rec"]["spikes"].values[0], found["out"]["v"].values[0]
    delays = np.round(np.asarray(delaynet.delays(N, TIMES)) / 5e-3).astype(int)
    assert set(delays) == {1, 12, 16}
    raster = np.roll(trials.inputs["cues"][0], 1, axis=0).astype(float)  # published inputs act in their own step, here in the next
    raster[0] = 0
    z, o = published(values, net, raster, delays, receiver=travel is dendritic)
    assert 200 < z.sum() < 0.5 * z.size
    assert np.array_equal(spikes, z.astype(bool)) and np.abs(output - o).max() < 1e-12 * np.abs(o).max()
    for wrong in (published(values, net, raster, delays + 1, travel is dendritic), published(values, net, raster, delays, travel is axonal)):
        assert not np.array_equal(spikes, wrong[0].astype(bool))
