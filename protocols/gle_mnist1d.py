"""MNIST-1D in continuous time: digits drawn as one noisy signal, named while it passes, with nothing stored.

Ellenberger, Haider, Jordan, Max, Jaras, Kriener, Benitez & Petrovici 2024, arXiv:2403.16933 (Nat Commun 2025); data
of Greydanus & Kobak 2024, ICML, arXiv:2011.14439. What a neuron sees at a time is one number: whatever it knows of
the digit is in the slow membranes of the layers before it. The authors give notice that these procedures are
registered for patent protection: see ``docs/prospective.md``.
"""

from functools import partial

import numpy as np
from brian2 import ms

from localplast.learning.optimise import adam
from localplast.models.gle import gle, gle_output
from localplast.models.layers import layered
from localplast.network import uniform
from localplast.rules import bptt, dendritic
from localplast.runs.run import run
from localplast.show.plot import COLOURS, style
from localplast.study.contenders import Contender
from localplast.study.protocol import Preset, Protocol
from localplast.task import Task, Trials
from localplast.task.datasets import mnist1d
from localplast.task.loss import cross_entropy

__all__ = ["figure", "network", "protocol", "signals", "time_constants"]

#: How long a digit lasts, in units of time (here ms), and its classes.
DURATION, CLASSES = 72.0, 10


def signals(samples, labels, rng=None, *, steps=360):
    """Digits as currents: the 40 points of each joined by straight lines, all steps judged, the teacher naming it
    throughout.

    Parameters
    ----------
    samples : array ``(trial, 40)``
    labels : int array ``(trial,)``
    rng : ignored
        Nothing is drawn.

    Other arguments
    ---------------
    steps : int

    Returns
    -------
    Trials
        Inputs ``sense`` and ``teach`` ``(trial, time, 1)``, ``target`` ``(trial, time, 10)``: 1 for the class, else 0.
    """
    at = np.linspace(0, samples.shape[1] - 1, steps)
    sense = np.stack([np.interp(at, np.arange(samples.shape[1]), x) for x in samples])[:, :, None]
    target = np.repeat(np.eye(CLASSES)[labels][:, None], steps, axis=1)
    return Trials({"sense": sense, "teach": np.ones_like(sense), "target": target}, labels, np.full(steps, 1 / steps))


def time_constants(slow, fast, *, tau=1.2 * ms, dt=0.2 * ms):
    """``tau_m`` and ``tau_r`` ``(neuron,)`` of a layer: slow neurons look one step ahead, and half of them have
    ``tau/2``.
    """
    tau_m = np.repeat([tau / 2 / ms, tau / ms], [slow // 2, slow - slow // 2 + fast]) * ms
    return {"tau_m": tau_m, "tau_r": np.repeat([dt / ms, tau / ms], [slow, fast]) * ms}


def network(
    *, layers=6, slow=36, fast=17, tau=1.2 * ms, steps=360, limit=1.0, feedback="symmetric", errors="prospective"
):
    """One channel, hidden layers of ``slow + fast`` tanh neurons, ten outputs with a softmax; weights and biases learn.

    Other arguments
    ---------------
    tau : Quantity
        Membrane of fast neurons and of half the slow ones.
    steps : int
        Of a digit.
    limit : float
        Weights are drawn within ``limit/sqrt(pre)``.
    feedback, errors : str
        Of :func:`~localplast.models.layers.layered` and :func:`~localplast.models.gle.gle`.

    Errors do not move the neurons (``gamma`` is 0), and their size is that of the mean over steps, as that of the loss.
    """
    dt, size = DURATION / steps * ms, slow + fast
    names = [f"hidden{k}" for k in range(1, layers + 1)]
    hidden = {"b": np.zeros(size), **time_constants(slow, fast, tau=tau, dt=dt)}
    output = gle_output(loss="cross_entropy", tau_m=tau, tau_r=tau, gamma=0.0, beta=1 / steps)
    return layered(
        (1, *[size] * layers, CLASSES),
        gle(errors=errors, gamma=0.0),
        output,
        feedback=feedback,
        weight=uniform(limit),
        dt=dt,
        down=uniform(limit),
        parameters={**dict.fromkeys(names, hidden), "out": {"b": np.zeros(CLASSES)}},
        trainable=dict.fromkeys([*names, "out"], {"b": (None, None)}),
    )


def task(*, steps=360):
    """All digits, in a new order every epoch."""
    return Task.dataset("gle-mnist1d", *mnist1d(), partial(signals, steps=steps))


def figure(net, trials, before, after):
    """One digit as a signal, and the summed logits that decide on it, before and after learning.

    ``before`` and ``after`` are :class:`~localplast.network.network.Values`.
    """
    import matplotlib.pyplot as plt

    drawn, axes = plt.subplots(2, 2, figsize=(9, 4.2), sharex=True, sharey="row", constrained_layout=True)
    silent, time = trials[0].without(net.teachers), np.arange(1, trials.steps + 1) * float(net.dt / ms)
    for (title, values), (upper, lower) in zip(
        {"before learning": before, "after learning": after}.items(), axes.T, strict=True
    ):
        said = run(net, silent, values=values, backend="torch", record=["said.shown"])["said"]["shown"].values[0]
        upper.plot(time, silent.inputs["sense"][0, :, 0], color="0.3", lw=1)
        for digit, line in enumerate(np.cumsum(said - said.mean(1, keepdims=True), axis=0).T):
            right = digit == trials.target[0]
            lower.plot(
                time, line, color=COLOURS[0] if right else "0.75", lw=1 + right, label=str(digit) if right else None
            )
        style(upper, title, "", "signal" if values is before else "")
        style(lower, "", "time (ms)", "summed logits" if values is before else "")
    axes[1, 1].legend(frameon=False, fontsize=8, title="digit")
    return drawn


def contenders(made, offline):
    """The network ``made(**options)`` under GLE, without one thing or another, and under BPTT with the optimiser
    ``offline``.
    """
    net = made()
    hidden = [name for name in net.populations if name.startswith("hidden")]
    frozen = tuple(p.name for p in net.plastic if p.post in hidden) + tuple(f"{name}.b" for name in hidden)
    return {
        "GLE": Contender(dendritic(), "torch"),
        "GLE, random feedback": Contender(dendritic(), "torch", network=made(feedback="random")),
        "instantaneous errors": Contender(dendritic(), "torch", network=made(errors="instantaneous")),
        "BPTT": Contender(bptt(), "torch", optimiser=offline),
        "GLE, hidden frozen": Contender(dendritic(), "torch", frozen),
    }


def build(*, layers, slow, fast, tau, steps, limit, online, offline, halving, batch, updates, test):
    """``online`` and ``offline`` are rates of Adam, per step and, for BPTT, per batch; both halve after so many
    batches.

    While the labels of a batch are there, outputs follow them: only with a falling rate does what all batches share
    remain.
    """
    made = partial(network, layers=layers, slow=slow, fast=fast, tau=tau, steps=steps, limit=limit)
    net = made()
    biases = dict.fromkeys(net.trainable, 1.0)
    return Preset(
        network=net,
        task=task(steps=steps),
        loss=cross_entropy(),
        optimiser=adam(online).halved(halving * steps).with_rates(**biases),
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden2",
        rules=contenders(made, adam(offline).halved(halving).with_rates(**biases)),
    )


protocol = Protocol(
    name="gle-mnist1d",
    summary="Noisy digits as one signal in time, named while they pass: generalised latent equilibrium, online.",
    reference="Ellenberger et al. 2024, arXiv:2403.16933 (Nat Commun 2025); Greydanus & Kobak 2024, arXiv:2011.14439",
    build=build,
    presets={
        # Three hidden layers of 36 with membranes of up to 4 ms and steps of 1 ms, 5 times through all digits.
        "quick": dict(
            layers=3,
            slow=24,
            fast=12,
            tau=4 * ms,
            steps=72,
            limit=1.7,
            online=2e-3,
            offline=5e-3,
            halving=28,
            batch=100,
            updates=200,
            test=1000,
        ),
        # The published network of 15,000 parameters, all digits 150 times, each in 360 steps; rates halve every 20
        # epochs. The published ones halve where the network has stopped improving.
        "paper": dict(
            layers=6,
            slow=36,
            fast=17,
            tau=1.2 * ms,
            steps=360,
            limit=1.0,
            online=3e-4,
            offline=1e-3,
            halving=800,
            batch=100,
            updates=6000,
            test=1000,
        ),
    },
    published={
        "GLE, 15,000 parameters, 10 seeds": "91.7 ± 0.8 % after 150 epochs; 45.8 % after 10, 87.7 % after 50 (authors)"
    },
    rule="dendritic",
    drawn=figure,
)
