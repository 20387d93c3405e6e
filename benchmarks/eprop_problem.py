"""The task and the network of the e-prop benchmarks: evidence accumulation as published (Bellec et al. 2020).

40 inputs (cues on two sides, recall signal, noise), 50 LIF and 50 ALIF neurons, refractory for 5 ms, 2 readouts, 14,100
plastic synapses; squared error in the last 150 of 2250 steps of 1 ms, Adam, no regulariser. Errors come back through
fixed weights, the readout's first ones, because NEST's do.
"""

from dataclasses import dataclass

import numpy as np

__all__ = [
    "ALPHA",
    "CHANNELS",
    "KAPPA",
    "LEARNING_RATE",
    "NEURONS",
    "RHO",
    "SHORTEST",
    "TAU_REF",
    "V_TH",
    "WINDOW",
    "Numbers",
    "adaptation",
    "problem",
    "rule",
    "rule_of",
    "torch_learner",
]

CHANNELS, NEURONS, WINDOW, LEARNING_RATE = 40, 100, 150, 1e-3
#: What is left after a step of membrane (20 ms), adaptation (2 s) and readout (20 ms).
ALPHA, RHO, KAPPA = (float(np.exp(-1 / tau)) for tau in (20, 2000, 20))
V_TH, TAU_REF = 0.6, 5
#: Steps of a trial with one cue.
SHORTEST = 300


def adaptation():
    """By how much a spike raises the threshold of each neuron."""
    return np.repeat([0.0, 1.7 * (1 - RHO) / (1 - ALPHA) / RHO], NEURONS // 2)


@dataclass
class Numbers:
    """What a program needs that knows nothing of localplast: weights ``(pre, post)``, ``B`` ``(neuron, readout)``,
    trials.

    ``spikes`` is bool ``(trial, time, channel)`` and acts in the step after; membrane and readout decay after they have
    received.
    """

    weights: dict
    feedback: np.ndarray
    spikes: np.ndarray
    labels: np.ndarray

    @property
    def steps(self):
        return self.spikes.shape[1]


def problem(trials, steps):
    """The network, its numbers, and trials, for localplast; and the same for others."""
    from brian2 import ms

    from localplast.protocols.evidence_accumulation import network
    from localplast.task.evidence import evidence_trials

    net = network(neurons=NEURONS)
    values = net.draw(0)
    cues = min(7, ((steps - WINDOW) // 150 - 1) | 1)
    drawn = evidence_trials(np.random.default_rng(1), trials, cues=cues, duration=steps * ms)
    numbers = Numbers(values.weights, values.weights["rec_out"], drawn.inputs["cues"], drawn.target)
    return net, values, drawn, numbers


def rule(numbers, **options):
    """e-prop with the fixed feedback."""
    from localplast.rules import eprop

    return eprop(feedback={"rec": numbers.feedback}, **options)


def rule_of(form, numbers):
    """``'adjoint'``, ``'carried'``, ``'online'``: e-prop that updates per trial, or in every step; ``'bptt'``."""
    from localplast.rules import bptt

    return bptt() if form == "bptt" else rule(numbers, update="step" if form == "online" else "trial")


def torch_learner(given, form, *, batch=1, threads=1):
    """A learner in single precision; Adam per trial, or plain gradient descent in every step."""
    import torch

    from localplast import adam, sgd
    from localplast.backends.torch.learner import TorchLearner
    from localplast.program.learn import plan
    from localplast.task.loss import mse

    net, values, _, numbers = given
    learned = rule_of(form, numbers)
    optimiser = sgd(LEARNING_RATE) if form == "online" else adam(LEARNING_RATE)
    learner = TorchLearner(net, values, learned, mse(), optimiser, batch=batch, dtype=torch.float32, threads=threads)
    if form == "carried":  # what a learner does by itself where no adjoint equals the rule
        learner.online = learner.online_learner(plan(net, learned, mse()))
    return learner
