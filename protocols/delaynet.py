"""DelayNet: delay lines between spiking neurons keep what no membrane of theirs could, for seconds.

Balafrej, Alibart & Rouat 2023, arXiv:2310.19067; extended in Balafrej et al. 2025, Neuromorph Comput Eng, doi
10.1088/2634-4386/add293. The task is evidence accumulation, judged in its last step.

A published step reads ``v[t] = a v[t-1] + W_in x[t] + W_rec z[t-d] + B``, and ``v -= v_th`` after a spike. How it
becomes ours: :func:`~localplast.models.biased_lif`. The text of the paper gives delays to the sender (``axonal``),
the authors' code to the receiver (``dendritic``): with one delay per neuron both are the same loop, but for a shift
in time of what each neuron receives and sends.
"""

from functools import partial

from brian2 import ms

from localplast.models.delaynet import network
from localplast.rules import bptt, eprop
from localplast.study.contenders import Contender
from localplast.study.delaynet import LOSS, SIZES, optimiser
from localplast.study.protocol import Preset, Protocol, Published
from localplast.task import Task
from localplast.task.evidence import CUE, GAP, RECALL, evidence_trials, last_k_accuracy
from localplast.task.loss import cross_entropy

__all__ = ["protocol"]

#: Least silence between the last cue and the recall signal.
SHORTEST = 100 * ms


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
        "quick": dict(dt=5 * ms, cues=3, longest=1500 * ms, updates=300, test=256, **SIZES["quick"]),
        # The published size: seven cues. Activity must outlive the silence from the start: recurrence is stronger than
        # in ``quick``.
        "paper": dict(dt=1 * ms, cues=7, longest=2000 * ms, updates=800, test=2048, **SIZES["paper"]),
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
