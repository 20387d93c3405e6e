"""Evidence accumulation: a mouse runs past cues on its left and right, waits, and turns to the side that had more.

Bellec et al. 2020, Nat Commun 11:3625, fig. 3 and methods "Evidence accumulation"; after Morcos & Harvey 2016, Nat
Neurosci 19:1672. Numbers as in the authors' published code, which waits for a fixed time.
"""

import numpy as np
from brian2 import ms

from localplast.models import leaky_readout, lif
from localplast.models.evidence import network
from localplast.network import Input, Network, Population, Projection, normal
from localplast.rules import bptt
from localplast.runs.watch import Stop
from localplast.study.contenders import Contender, tuned, usual
from localplast.study.delaynet import contender
from localplast.study.protocol import Preset, Protocol
from localplast.task import Task
from localplast.task.evidence import GROUP, evidence_trials, last_k_accuracy
from localplast.task.loss import cross_entropy, rate

__all__ = ["network", "protocol"]


def memoryless(*, neurons=100, tau_mem=2000 * ms, recurrent=True, v_th=0.6, dt=1 * ms):
    """LIF neurons that adapt to nothing: their membranes have to remember, or their recurrent weights.

    With ``tau_mem`` of two seconds they solve the task even without recurrent weights; with 20 ms they do not
    (Balafrej et al. 2023, arXiv:2310.19067, fig. 5). Weights at first as in the code they took this from (Frenkel &
    Indiveri 2022, ISSCC, ReckOn): He's, by 0.5 for inputs and the readout, 0.1 for recurrence.
    """
    he, tau_out = np.sqrt(2), 20 * ms
    within = [Projection("rec", "rec", weight=normal(0.1 * he))] if recurrent else []
    return Network(
        dt=dt,
        cues=Input(4 * GROUP),
        rec=Population(neurons, lif(tau_mem=tau_mem, v_th=v_th)),
        out=Population(2, leaky_readout(tau_out=tau_out)),
        projections=[
            Projection("cues", "rec", weight=normal(0.5 * he)),
            *within,
            Projection("rec", "out", weight=normal(0.5 * he)),
        ],
    )


def families(neurons, delays):
    """Other networks on the same trials, by BPTT: delay lines, slow membranes with and without recurrence, and
    neither.
    """
    return {
        "DelayNet": delays,
        "slow LIF": Contender(bptt(), "torch", network=memoryless(neurons=neurons)),
        "slow LIF, feedforward": Contender(bptt(), "torch", network=memoryless(neurons=neurons, recurrent=False)),
        "fast LIF": Contender(bptt(), "torch", network=memoryless(neurons=neurons, tau_mem=20 * ms)),
    }


def task(**options):
    return Task.generated("evidence-accumulation", lambda rng, n: evidence_trials(rng, n, **options))


#: Adam's rate, and how often it halves until the end: tuned in ``quick`` on validation trials (``benchmarks/tune.py``).
RATES = {
    "BPTT": (1e-2, 0),
    "BPTT, converged": (1e-2, 4),
    "e-prop, symmetric": (5e-3, 0),
    "e-prop, random": (5e-3, 0),
    "BPTT, hidden frozen": (1e-2, 0),
}


def build(
    *, cues, duration, neurons, tau_adapt, delays, updates, batch, test, converged=None, learning_rate=None, stop=None
):
    """``delays`` names the preset of DelayNet that is compared, too; ``converged``: how many updates BPTT needs.

    Runs end once the validation error is below ``stop``.

    ``learning_rate`` is that of all contenders; where it is not given, those of the first network are the tuned ones.
    """
    net = network(neurons=neurons, tau_adapt=tau_adapt)
    rules = usual(net, converged=converged)
    if learning_rate is None:
        rules = tuned(rules, RATES, updates)
    return Preset(
        network=net,
        rules=rules | families(neurons, contender(delays)),
        task=task(cues=cues, duration=duration),
        # published: the sum over neurons of (f - 0.01)**2 with f in spikes per ms, of the mean over a batch
        loss=cross_entropy() + rate(10, 2e-6),
        learning_rate=learning_rate or 5e-3,
        batch=batch,
        updates=updates,
        test=test,
        hidden="rec",
        watch=() if stop is None else Stop(error=stop),
        references={"remembers only the last cue": last_k_accuracy(cues, 1)},
    )


protocol = Protocol(
    name="evidence-accumulation",
    summary="Cues on two sides, a silent wait, then: which side had more? Needs memory over seconds.",
    reference="Bellec et al. 2020, Nat Commun 11:3625, fig. 3",
    build=build,
    presets={
        # Three cues and a short wait: learned in minutes on two cores. See ``paper`` for the published task.
        "quick": dict(
            cues=3,
            duration=1050 * ms,
            neurons=60,
            tau_adapt=600 * ms,
            delays="quick",
            updates=120,
            converged=360,
            batch=32,
            test=200,
        ),
        # The published network and task, and the published end of a run.
        "paper": dict(
            cues=7,
            duration=2250 * ms,
            neurons=100,
            tau_adapt=2000 * ms,
            delays="paper",
            updates=500,
            batch=64,
            test=512,
            learning_rate=5e-3,
            stop=0.07,
        ),
    },
    published={
        "e-prop, random feedback": "validation error below 7 % after 200 to 500 updates of 32 trials (authors' code)"
    },
)
