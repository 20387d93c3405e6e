"""DelayNet: delay lines between spiking neurons on a lattice, as a network.

Balafrej, Alibart & Rouat 2023, arXiv:2310.19067.
"""

import numpy as np
from brian2 import ms, second

from localplast.models.biased_lif import biased_lif, biased_readout
from localplast.network import Input, Network, Population, Projection, Values, axonal, dendritic, uniform
from localplast.network.space import from_centre, lattice, shells
from localplast.packages import need_torch
from localplast.task.datasets import locate
from localplast.task.evidence import GROUP

__all__ = ["TAU_LIMITS", "THRESHOLD_LIMITS", "delays", "network", "released"]

#: Where shells of neurons begin, as shares of the lattice's diagonal, and how long their spikes travel.
EDGES, TIMES = (0.2, 0.3), np.array([1, 80, 100]) * ms
#: What time constants and the threshold, each shared by a population, are held between.
TAU_LIMITS, THRESHOLD_LIMITS = (0.1 * ms, 50 * ms), (0.1, 100)


def delays(neurons, times=TIMES, *, edges=EDGES, seed=0x1B):
    """Published delay of every neuron ``(neuron,)``, by its distance from the centre of a cubic lattice.

    Of 125 neurons 17.6, 42.4 and 40 % get the three ``times``, as published.
    """
    side = round(neurons ** (1 / 3))
    return shells(from_centre(lattice(side, seed=seed)) / (np.sqrt(3) * side), edges, times)


def network(*, neurons=125, times=TIMES, travel=axonal, radius=2.0, tau=45 * ms, v_th=0.5, shared=True, dt=1 * ms):
    """``neurons`` recurrent cells without autapses, and two readouts; weights, biases, time constants and threshold
    learn.

    Other arguments
    ---------------
    times : Quantity, optional
        Delays of the three shells; None for the same network without delay lines: every spike arrives in the next step.
    travel : callable
        ``axonal`` (a delay belongs to its sender) or ``dendritic``.
    radius : float, optional
        Spectral radius of the absolute recurrent weights at first. None: as published (for this task), uniform between
        ``±sqrt(6/neurons)``, from which activity explodes: the authors restart until it does not.
    tau, v_th : both time constants and the threshold at first, as published
    shared : bool
        One time constant and one threshold for the whole population, as published. False: every neuron learns its
        own, and the readout keeps its time constant, so that local rules can follow in Brian2 too.
    """
    decay = float(np.exp(-dt / tau))
    recurrent = uniform(np.sqrt(6) / decay)
    # arrival counts as one step
    delay = None if times is None else travel(np.maximum(delays(neurons, times) - dt, 0 * ms))
    own = {} if shared else {"tau_mem": tau * np.ones(neurons), "v_th": v_th * np.ones(neurons)}
    cell, readout = biased_lif(tau_mem=tau, v_th=v_th), biased_readout(tau_out=tau)
    return Network(
        dt=dt,
        cues=Input(4 * GROUP),
        rec=Population(
            neurons,
            cell,
            {"bias": np.zeros(neurons) / second, **own},
            trainable={"tau_mem": TAU_LIMITS, "v_th": THRESHOLD_LIMITS, "bias": (None, None)},
        ),
        out=Population(
            2,
            readout,
            {"bias": np.zeros(2) / second},
            trainable={"bias": (None, None), **({"tau_out": TAU_LIMITS} if shared else {})},
        ),
        projections=[
            Projection("cues", "rec", weight=uniform(np.sqrt(6) / decay)),
            Projection(
                "rec", "rec", weight=recurrent if radius is None else recurrent.scaled(radius / decay), delay=delay
            ),
            Projection("rec", "out", weight=uniform(np.sqrt(3), fan_in=False)),
        ],
    )


def released() -> tuple[Network, Values]:
    """The network that the authors trained on seven cues and one silence, and its numbers, as ours.

    Balafrej et al. 2025, Neuromorph Comput Eng, doi 10.1088/2634-4386/add293, authors' repository. How a published step
    becomes ours: :func:`~localplast.models.biased_lif`. Input spikes act one step later here.

    Raises
    ------
    DatasetError
        The file is neither in ``LOCALPLAST_DATA`` nor can it be downloaded, or it is not the original.
    """
    need_torch("reading the weights that the authors of DelayNet released")
    import torch

    stored = torch.load(locate("delaynet", "trained_125.pt"), weights_only=True, map_location="cpu")
    found = {name: array.double().numpy() for name, array in stored.items()}
    net = network(radius=None, travel=dendritic)
    # times are in units of 100 ms
    tau_mem, tau_out = (float(0.1 * found[name][0]) for name in ("tau_rec", "tau_out"))
    decay, fade = (np.exp(-float(net.dt) / tau) for tau in (tau_mem, tau_out))
    weights = {"cues_rec": found["W_i"] / decay, "rec_rec": found["W_r"] / decay, "rec_out": found["W_o"]}
    others = {
        "rec.tau_mem": tau_mem,
        "rec.v_th": float(found["thr_rec"][0]),
        "rec.bias": found["B_r"] / (tau_mem * (1 - decay)),
        "out.tau_out": tau_out,
        "out.bias": found["B_o"] / (tau_out * (1 - fade)),
    }
    return net, net.draw(0).replace_weights(weights, others)
