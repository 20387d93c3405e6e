"""T-maze with delayed reward: cues on two sides, a wait, a turn, and only later the reward.

The cues of evidence accumulation (Morcos & Harvey 2016, Nat Neurosci 19:1672; Bellec et al. 2020, Nat Commun 11:3625, fig. 3),
as a task for actor and critic: nobody tells the network which turn was right, it is told after a while that a turn paid.
"""

from dataclasses import replace

import numpy as np
from brian2 import ms

from localplast.loss import cross_entropy
from localplast.network import Network, Population, Projection, uniform
from localplast.protocol import Preset, Protocol
from localplast.protocols import evidence_accumulation as evidence
from localplast.task import Task, Trials

__all__ = ["maze_trials", "network", "protocol"]


def maze_trials(rng, n, *, cues=7, duration=2250 * ms, wait=300 * ms, dt=1 * ms):
    """Draw ``n`` trials: those of evidence accumulation, followed by a wait in which only the noise channels spike.

    Parameters
    ----------
    rng : numpy Generator
    n : int

    Other arguments
    ---------------
    cues : int
    duration : Quantity
        Up to the end of the recall window, in which the turn is made.
    wait : Quantity
        From the end of the recall window to the reward, which comes in the last step.
    dt : Quantity

    Returns
    -------
    Trials
        Input ``cues``: bool ``(trial, time, 40)``. Target: int64 ``(trial,)``, the turn that is rewarded, 1 for right.
        Weight: ``1/steps`` in the recall window, else 0.
    """
    trials = evidence.evidence_trials(rng, n, cues=cues, duration=duration, dt=dt)
    steps = evidence.steps(wait, dt)
    after = np.zeros((n, steps, 4 * evidence.GROUP), bool)
    after[:, :, 3 * evidence.GROUP:] = rng.random((n, steps, evidence.GROUP)) < evidence.NOISE_RATE * float(dt)
    spikes = np.concatenate([trials.inputs["cues"], after], axis=1)
    return Trials({"cues": spikes}, trials.target, np.concatenate([trials.weight, np.zeros(steps)]))


def network(**options):
    """The recurrent network of evidence accumulation, with a policy of two turns and a value in place of its readout.

    The readouts are ``policy`` and ``value``; they differ in size, so that no loss on one target judges both.
    """
    base = evidence.network(**options)
    nodes = {name: node for name, node in base.nodes.items() if name != "out"}
    neurons, leaky = base.size("rec"), base.nodes["out"].model
    kept = [p for p in base.projections.values() if p.post != "out"]
    spread = base.projections["rec_out"].weight.spread
    return Network(
        dt=base.dt,
        **nodes,
        policy=Population(2, leaky),
        value=Population(1, leaky),
        projections=[
            *kept,
            Projection("rec", "policy", weight=uniform(spread, fan_in=False)),
            Projection("rec", "value", weight=uniform(spread, fan_in=False)),
        ],
    )


def task(*, duration, wait, dt=1 * ms, **options):
    """The task; ``meta`` holds the steps of the decision ``(first, past the last)`` and the step of the reward."""
    generated = Task.generated(
        "t-maze", lambda rng, n: maze_trials(rng, n, duration=duration, wait=wait, dt=dt, **options)
    )
    end, last = evidence.steps(duration, dt), evidence.steps(duration, dt) + evidence.steps(wait, dt) - 1
    return replace(generated, meta={"decision": (end - evidence.steps(evidence.RECALL, dt), end), "reward": last})


def quick():
    """One cue and a short wait for the reward."""
    return preset(cues=1, duration=450 * ms, wait=100 * ms, neurons=60, tau_adapt=600 * ms, updates=300, batch=32, test=200)


def paper():
    """The cues, network and times of evidence accumulation."""
    return preset(
        cues=7, duration=2250 * ms, wait=300 * ms, neurons=100, tau_adapt=2000 * ms, updates=2000, batch=64, test=512
    )


def preset(*, cues, duration, wait, neurons, tau_adapt, updates, batch, test):
    return Preset(
        network=network(neurons=neurons, tau_adapt=tau_adapt),
        task=task(cues=cues, duration=duration, wait=wait),
        loss=cross_entropy(),  # what the turns would be judged by if somebody told which was right
        learning_rate=5e-3,
        batch=batch,
        updates=updates,
        test=test,
        hidden="rec",
    )


protocol = Protocol(
    name="t-maze",
    summary="Cues on two sides, a wait, a turn; whether it was the right one shows later, as a reward.",
    reference="after Morcos & Harvey 2016, Nat Neurosci 19:1672; Bellec et al. 2020, Nat Commun 11:3625",
    presets={"quick": quick, "paper": paper},
)
