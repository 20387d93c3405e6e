"""T-maze with delayed reward: cues on two sides, a wait, a turn, and only later the reward.

The cues of evidence accumulation (Morcos & Harvey 2016, Nat Neurosci 19:1672; Bellec et al. 2020, Nat Commun 11:3625,
fig. 3), as a task for actor and critic: nobody tells the network which turn was right, it is told after a while that
a turn paid. In every step of the recall window the network turns one way or the other; Gumbel noise from the input
``dice`` draws which.
"""

from dataclasses import replace

import numpy as np
from brian2 import ms

from localplast.models.evidence import network as evidence_network
from localplast.network import Input, Network, Population, Projection, uniform
from localplast.study.protocol import Preset, Protocol
from localplast.task import Task, Trials, evidence
from localplast.task.loss import gumbel, rate, reward

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
        From the last step of the recall window to the reward, which comes in the last step but one.
    dt : Quantity

    Returns
    -------
    Trials
        Inputs ``cues``: bool ``(trial, time, 40)``; ``dice``: float ``(trial, time, 2)``, Gumbel noise in the recall
        window. Target: int64 ``(trial,)``, the turn that is rewarded, 1 for right.
        Weight: ``1/steps`` in the recall window, else 0.
    """
    trials = evidence.evidence_trials(rng, n, cues=cues, duration=duration, dt=dt)
    steps = evidence.steps(wait, dt) + 1  # the critic sees in the step after it that the reward came
    after = np.zeros((n, steps, 4 * evidence.GROUP), bool)
    after[:, :, 3 * evidence.GROUP :] = rng.random((n, steps, evidence.GROUP)) < evidence.NOISE_RATE * float(dt)
    spikes = np.concatenate([trials.inputs["cues"], after], axis=1)
    weight = np.concatenate([trials.weight, np.zeros(steps)])
    dice = np.zeros((*spikes.shape[:2], 2))
    dice[:, weight > 0] = gumbel(rng, (n, int((weight > 0).sum()), 2))
    return Trials({"cues": spikes, "dice": dice}, trials.target, weight)


def network(**options):
    """The recurrent network of evidence accumulation, with a policy of two turns and a value in place of its readout.

    The readouts are ``policy`` and ``value``; ``dice`` projects nowhere, it makes the turns random.
    """
    base = evidence_network(**options)
    nodes = {name: node for name, node in base.nodes.items() if name != "out"}
    leaky = base.nodes["out"].model
    kept = [p for p in base.projections.values() if p.post != "out"]
    spread = base.projections["rec_out"].weight.spread
    return Network(
        dt=base.dt,
        **nodes,
        dice=Input(2, "currents"),
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


def build(*, cues, duration, wait, neurons, tau_adapt, updates, batch, test, learning_rate=1e-3):
    """Reward fades by a factor of 0.78 in 50 ms; without the small cost of the critic, which errs in every step, the
    hidden neurons would learn to predict reward and not how to get it."""
    return Preset(
        network=network(neurons=neurons, tau_adapt=tau_adapt),
        task=task(cues=cues, duration=duration, wait=wait),
        loss=reward(wait, discount=0.995, value_cost=3e-4) + rate(10, 1e-6),
        learning_rate=learning_rate,
        batch=batch,
        updates=updates,
        test=test,
        hidden="rec",
        feedback_std=0.05,
    )


protocol = Protocol(
    name="t-maze",
    summary="Cues on two sides, a wait, a turn; whether it was the right one shows later, as a reward.",
    reference="after Morcos & Harvey 2016, Nat Neurosci 19:1672; Bellec et al. 2020, Nat Commun 11:3625",
    build=build,
    presets={
        # One cue, a short way to the turn and 50 ms from the turn to the reward.
        "quick": dict(
            cues=1, duration=350 * ms, wait=50 * ms, neurons=60, tau_adapt=600 * ms, updates=400, batch=64, test=200
        ),
        # The cues, network and times of evidence accumulation.
        "paper": dict(
            cues=7,
            duration=2250 * ms,
            wait=300 * ms,
            neurons=100,
            tau_adapt=2000 * ms,
            updates=4000,
            batch=64,
            test=512,
        ),
    },
)
