"""DelayNet: delay lines between spiking neurons keep what no membrane of theirs could, for seconds.

Balafrej, Alibart & Rouat 2023, arXiv:2310.19067; extended in Balafrej et al. 2025, Neuromorph Comput Eng, doi
10.1088/2634-4386/add293. The task is evidence accumulation, judged in its last step.

A published step reads ``v[t] = a v[t-1] + W_in x[t] + W_rec z[t-d] + B``, and ``v -= v_th`` after a spike. How it
becomes ours: :func:`~localplast.models.biased_lif`. The text of the paper gives delays to the sender (``axonal``),
the authors' code to the receiver (``dendritic``): with one delay per neuron both are the same loop, but for a shift
in time of what each neuron receives and sends.
"""

from functools import partial

import numpy as np
from brian2 import ms, second

from localplast.learning.optimise import adam
from localplast.models import biased_lif, biased_readout
from localplast.network import Input, Network, Population, Projection, axonal, uniform
from localplast.network.space import from_centre, lattice, shells
from localplast.rules import bptt, eprop
from localplast.study.contenders import Contender
from localplast.study.numbers import chosen
from localplast.study.protocol import Preset, Protocol
from localplast.task import Task
from localplast.task.evidence import CUE, GAP, GROUP, RECALL, evidence_trials, last_k_accuracy
from localplast.task.loss import branching, cross_entropy

__all__ = ["delays", "network", "optimiser", "protocol"]

#: Where shells of neurons begin, as shares of the lattice's diagonal, and how long their spikes travel.
EDGES, TIMES = (0.2, 0.3), np.array([1, 80, 100]) * ms
#: What time constants and the threshold, each shared by a population, are held between.
TAU_LIMITS, THRESHOLD_LIMITS = (0.1 * ms, 50 * ms), (0.1, 100)
#: How it learns at the two sizes.
QUICK = dict(learning_rate=2e-3, halving=100)
PAPER = dict(learning_rate=5e-4, halving=300, limit=0.1)
#: Spectral radius of the absolute recurrent weights from which activity outlives a second of silence, untrained.
LASTING = 5.0
#: Least silence between the last cue and the recall signal.
SHORTEST = 100 * ms
#: Rates are left alone: neurons that are held to one cannot tell by firing, or not, what they have seen.
LOSS = cross_entropy() + branching(1e-3)


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


def optimiser(net, learning_rate, made=adam, limit=1.0, halving=np.inf):
    """``made(learning_rate)`` for weights; biases learn as fast per step, time constants 10 ms for what a weight
    learns 1.

    Published: ``optimiser(net, 1e-3, madgrad, 0.01)``, with 100 ms. The norm of the whole gradient is held to
    ``limit``; the learning rate halves every ``halving`` updates.
    """
    shares = {"tau_mem": 0.01, "tau_out": 0.01, "v_th": 1.0, "bias": 1 / float(net.dt)}
    rates = {name: shares[name.partition(".")[2]] for name in net.trainable}
    return made(learning_rate).with_rates(**rates).norm_clipped(limit).halved(halving)


def contender(preset):
    """DelayNet as in one of its presets, but in steps of 1 ms, beside other networks: by BPTT, with its own optimiser
    and loss.
    """
    numbers = chosen("delaynet", protocol.presets, preset)
    net = network(neurons=numbers["neurons"], radius=numbers["radius"])
    made = optimiser(net, numbers["learning_rate"], limit=numbers.get("limit", 1.0), halving=numbers["halving"])
    return Contender(bptt(), "torch", network=net, optimiser=made, loss=LOSS)


def build(*, neurons, dt, radius, cues, longest, updates, test, learning_rate, halving, limit=1.0, batch=64):
    made = partial(network, neurons=neurons, radius=radius, dt=dt)
    net, plain = made(), made(times=None)
    return Preset(
        network=net,
        task=task(cues=cues, silence=(SHORTEST, longest), dt=net.dt),
        loss=LOSS,
        optimiser=optimiser(net, learning_rate, limit=limit, halving=halving),
        batch=batch,
        updates=updates,
        test=test,
        hidden="rec",
        references={"remembers only the last cue": last_k_accuracy(cues, 1)},
        rules={
            "DelayNet": Contender(bptt(), "torch"),
            "without delays": Contender(bptt(), "torch", network=plain),
            "without branching term": Contender(bptt(), "torch", loss=cross_entropy()),
            "e-prop": Contender(eprop(), "torch", loss=cross_entropy()),
        },
    )


def task(*, cues, silence, dt):
    """Evidence accumulation with ``silence`` (shortest, longest) drawn for every trial, judged in its last step.

    Published: 1050 ms always. What is learned then is often right at that moment only (see docs/results.md).
    """
    duration = cues * (GAP + CUE) + silence[1] + RECALL
    options = dict(cues=cues, duration=duration, silence=silence, judged=dt, dt=dt)
    return Task.generated("delaynet", lambda rng, n: evidence_trials(rng, n, **options))


protocol = Protocol(
    name="delaynet",
    summary="Cues on two sides and a long silence, kept by delay lines between neurons of short memory.",
    reference="Balafrej et al. 2023, arXiv:2310.19067",
    build=build,
    presets={
        # Three cues at a coarse time step: learned in CPU minutes.
        "quick": dict(neurons=64, dt=5 * ms, radius=2.0, cues=3, longest=1500 * ms, updates=300, test=256, **QUICK),
        # The published size: seven cues. Activity must outlive the silence from the start: recurrence is stronger than
        # in ``quick``.
        "paper": dict(
            neurons=125, dt=1 * ms, radius=LASTING, cues=7, longest=2000 * ms, updates=800, test=2048, **PAPER
        ),
    },
    published={
        "DelayNet, 7 cues": "98 % of 2048 test trials after 109 epochs of 1024 trials",
        "without delays, or without the branching "
        "term": "chance; the authors' later table finds delays necessary, the term not",
    },
    rule="bptt",
)
