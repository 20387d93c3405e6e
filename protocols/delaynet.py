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
from brian2 import ms

from localplast.arguments import check_choice
from localplast.learning.optimise import adam, madgrad
from localplast.models.delaynet import network
from localplast.rules import bptt, eprop
from localplast.runs.watch import Best
from localplast.study.contenders import Contender
from localplast.study.delaynet import LOSS, SIZES, optimiser
from localplast.study.protocol import Preset, Protocol, Published
from localplast.task import Task
from localplast.task.evidence import CUE, GAP, RECALL, evidence_trials, last_k_accuracy
from localplast.task.loss import branching, cross_entropy

__all__ = ["protocol"]

#: Its optimisers, and how fast time constants learn with them: how long a time is for what a weight learns 1.
OPTIMISERS = {"adam": (adam, 10 * ms), "madgrad": (madgrad, 100 * ms)}


def build(
    *,
    neurons,
    dt,
    cues,
    shortest,
    longest,
    updates,
    test,
    learning_rate,
    radius=None,
    fewest=None,
    method="adam",
    halving=np.inf,
    limit=1.0,
    over_batch=False,
    validated=0,
    batch=64,
):
    """Silences between ``shortest`` and ``longest``, odd numbers of cues between ``fewest`` and ``cues`` are drawn for
    every trial. ``method`` names the optimiser; ``over_batch`` takes the branching term of a batch together, in which
    the first step follows the last one. The best of every 16 updates by ``validated`` trials is kept; 0: the last.
    """
    check_choice("method", method, OPTIMISERS)
    made = partial(network, neurons=neurons, radius=radius, dt=dt)
    net, plain = made(), made(times=None)
    method, unit = OPTIMISERS[method]
    counts = range(fewest or cues, cues + 1, 2)
    return Preset(
        network=net,
        task=task(cues=cues, fewest=fewest, silence=(shortest, longest), dt=net.dt),
        loss=cross_entropy() + branching(1e-3, batch=True, circular=True) if over_batch else LOSS,
        optimiser=optimiser(net, learning_rate, method, limit=limit, halving=halving, unit=unit),
        batch=batch,
        updates=updates,
        test=test,
        hidden="rec",
        references={"remembers only the last cue": float(np.mean([last_k_accuracy(n, 1) for n in counts]))},
        rules={
            "DelayNet": Contender(bptt(), "torch"),
            "without delays": Contender(bptt(), "torch", network=plain),
            "without branching term": Contender(bptt(), "torch", loss=cross_entropy()),
            "e-prop": Contender(eprop(), "torch", loss=cross_entropy()),
        },
        watch=Best(every=16, trials=validated) if validated else (),
    )


def task(*, cues, silence, dt, fewest=None):
    """Evidence accumulation with ``silence`` (shortest, longest) drawn for every trial, judged in its last step.

    What is learned from one silence is often right at that moment only (see docs/results.md).
    """
    duration = cues * (GAP + CUE) + silence[1] + RECALL
    options = dict(cues=cues, fewest=fewest, duration=duration, silence=silence, judged=dt, dt=dt)
    return Task.generated("delaynet", lambda rng, n: evidence_trials(rng, n, **options))


#: As published, but for the spectral radius of the absolute recurrent weights at first, which is 13.7 there
#: (``radius=None``): gradients then grow to 1e10 and more on their way through a trial, and held to a norm they are
#: noise. Nothing is learned from that; the authors start many times.
PAPER = dict(
    neurons=125,
    dt=1 * ms,
    radius=7.0,
    cues=7,
    shortest=1050 * ms,
    longest=1050 * ms,
    updates=1744,
    test=2048,
    method="madgrad",
    learning_rate=1e-3,
    limit=0.01,
    over_batch=True,
    validated=500,
)
#: Published size; silences are drawn, and recurrence is weaker: what is learned lasts longer than any of them.
WAITS = dict(dt=1 * ms, cues=7, shortest=100 * ms, longest=2000 * ms, updates=800, test=2048, **SIZES["paper"])

protocol = Protocol(
    name="delaynet",
    summary="Cues on two sides and a long silence, kept by delay lines between neurons of short memory.",
    reference="Balafrej et al. 2023, arXiv:2310.19067",
    build=build,
    presets={
        # Three cues at a coarse time step: learned in CPU minutes.
        "quick": dict(dt=5 * ms, cues=3, shortest=100 * ms, longest=1500 * ms, updates=300, test=256, **SIZES["quick"]),
        "paper": PAPER,
        "waits": WAITS,
        # Not published: numbers of cues are drawn, too, so that it counts whatever there is.
        "counts": PAPER | dict(cues=11, fewest=3),
    },
    published={
        "DelayNet, 7 cues": Published(
            "98 % of 2048 test trials after 109 epochs of 1024 trials: one chosen network", 98.0, certainty="code"
        ),
        "without delays, or without the branching "
        "term": "chance; the authors' later table finds delays necessary, the term not",
    },
    rule="bptt",
)
