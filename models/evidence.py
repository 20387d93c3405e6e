"""The recurrent network of evidence accumulation: half of its neurons adapt, and remember.

Bellec et al. 2020, Nat Commun 11:3625, fig. 3.
"""

from dataclasses import replace

import numpy as np
from brian2 import ms

from localplast.models.alif import alif
from localplast.models.readout import leaky_readout
from localplast.network import Input, Network, Population, Projection, normal, uniform
from localplast.task.evidence import GROUP

__all__ = ["network"]


def network(*, neurons=100, tau_adapt=2000 * ms, dt=1 * ms):
    """``neurons`` recurrent cells, half LIF and half ALIF in one population (beta is 0 for the first half), two
    readouts.

    The published step is ``v[t] = alpha*v[t-1] + W z[t-1] - v_th z[t-1]`` with ``alpha = exp(-dt/tau_mem)``. Here
    spikes and reset act before the decay, so whatever a spike adds is divided by the decay of one step. Input spikes
    act one step later than there. Otherwise the published forward pass is reproduced to rounding.
    """
    tau_mem, tau_out, v_th = 20 * ms, 20 * ms, 0.6
    alpha, rho, kappa = (float(np.exp(-dt / tau)) for tau in (tau_mem, tau_adapt, tau_out))
    beta = np.where(np.arange(neurons) < neurons // 2, 0.0, 1.7 * (1 - rho) / (1 - alpha) / rho)
    cell = alif(tau_mem=tau_mem, tau_adapt=tau_adapt, v_th=v_th, tau_ref=5 * ms)
    cell = replace(cell, reset="v -= v_reset", parameters={**cell.parameters, "v_reset": v_th / alpha})
    glorot = np.sqrt(6 / (neurons + 2))
    return Network(
        dt=dt,
        cues=Input(4 * GROUP),
        rec=Population(neurons, cell, {"beta": beta}),
        out=Population(2, leaky_readout(tau_out=tau_out)),
        projections=[
            Projection("cues", "rec", weight=normal(1 / alpha)),
            Projection("rec", "rec", weight=normal(1 / alpha)),
            Projection("rec", "out", weight=uniform((1 - kappa) * glorot, fan_in=False)),
        ],
    )
