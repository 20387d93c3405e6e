"""MNIST-1D in continuous time: digits drawn as one noisy signal, named while it passes, with nothing stored.

Ellenberger, Haider, Jordan, Max, Jaras, Kriener, Benitez & Petrovici 2024, arXiv:2403.16933 (Nat Commun 2025); data of Greydanus &
Kobak 2024, ICML, arXiv:2011.14439. What a neuron sees at a time is one number: whatever it knows of the digit is in the slow
membranes of the layers before it. The authors give notice that these procedures are registered for patent protection: see
``docs/prospective.md``.
"""

from functools import partial

import numpy as np
from brian2 import ms

from localplast.comparison import Contender
from localplast.datasets import mnist1d
from localplast.loss import cross_entropy
from localplast.models.gle import gle, gle_output
from localplast.models.layers import layered
from localplast.network import uniform
from localplast.optimise import adam
from localplast.protocol import Preset, Protocol
from localplast.rules import bptt, dendritic
from localplast.task import Task, Trials

__all__ = ["network", "protocol", "signals", "time_constants"]

#: How long a digit lasts, in units of time (here ms), and its classes.
DURATION, CLASSES = 72.0, 10


def signals(samples, labels, rng=None, *, steps=360):
    """Digits as currents: the 40 points of each joined by straight lines, all steps judged, the teacher naming it throughout.

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
    """``tau_m`` and ``tau_r`` ``(neuron,)`` of a layer: slow neurons do not look ahead, one half of them has ``tau/2``; fast ones do."""
    tau_m = np.repeat([tau / 2 / ms, tau / ms], [slow // 2, slow - slow // 2 + fast]) * ms
    return {"tau_m": tau_m, "tau_r": np.repeat([dt / ms, tau / ms], [slow, fast]) * ms}


def network(*, layers=6, slow=36, fast=17, tau=1.2 * ms, steps=360, feedback="symmetric", errors="prospective"):
    """One channel, hidden layers of ``slow + fast`` tanh neurons, ten outputs with a softmax; weights and biases learn.

    Other arguments
    ---------------
    tau : Quantity
        Membrane of fast neurons and of half the slow ones.
    steps : int
        Of a digit.
    feedback, errors : str
        Of :func:`~localplast.models.layers.layered` and :func:`~localplast.models.gle.gle`.

    Errors do not move the neurons (``gamma`` is 0), and their size is that of the mean over steps, as that of the loss.
    """
    dt, size = DURATION / steps * ms, slow + fast
    names = [f"hidden{k}" for k in range(1, layers + 1)]
    hidden = {"b": np.zeros(size), **time_constants(slow, fast, tau=tau, dt=dt)}
    output = gle_output(loss="cross_entropy", tau_m=tau, tau_r=tau, gamma=0.0, beta=1 / steps)
    return layered(
        (1, *[size] * layers, CLASSES), gle(errors=errors, gamma=0.0), output, feedback=feedback, weight=uniform(1.0), dt=dt,
        down=uniform(1.0), parameters={**dict.fromkeys(names, hidden), "out": {"b": np.zeros(CLASSES)}},
        trainable=dict.fromkeys([*names, "out"], {"b": (None, None)}),
    )


def task(*, learned=None, steps=360):
    """All training digits, or the first so many."""
    (samples, labels), test = mnist1d()
    return Task.dataset("gle-mnist1d", (samples[:learned], labels[:learned]), test, partial(signals, steps=steps))


def contenders(made):
    """The network ``made(**options)`` under GLE, with what it consists of taken away, and under BPTT, its exact adjoint."""
    net = made()
    hidden = [name for name in net.populations if name.startswith("hidden")]
    frozen = tuple(p.name for p in net.plastic if p.post in hidden) + tuple(f"{name}.b" for name in hidden)
    rule = dendritic(update="trial")
    return {
        "GLE": Contender(rule, "torch"),
        "GLE, random feedback": Contender(rule, "torch", network=made(feedback="random")),
        "instantaneous errors": Contender(rule, "torch", network=made(errors="instantaneous")),
        "BPTT": Contender(bptt(), "torch"),
        "GLE, hidden frozen": Contender(rule, "torch", frozen),
    }


def quick():
    """Three hidden layers of 36, the first 1000 digits at half the resolution in time."""
    return preset(layers=3, slow=24, fast=12, steps=180, learned=1000, learning_rate=5e-3, batch=50, updates=200, test=500)


def paper():
    """15,000 parameters, all 4000 digits in 360 steps, 150 epochs."""
    return preset(layers=6, slow=36, fast=17, steps=360, learned=None, learning_rate=1e-3, batch=100, updates=6000, test=1000)


def preset(*, layers, slow, fast, steps, learned, learning_rate, batch, updates, test):
    made = partial(network, layers=layers, slow=slow, fast=fast, steps=steps)
    net = made()
    biases = {name: 1.0 for name in net.trainable}
    return Preset(
        network=net,
        task=task(learned=learned, steps=steps),
        loss=cross_entropy(),
        optimiser=adam(learning_rate).with_rates(**biases),
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden2",
        rules=contenders(made),
    )


protocol = Protocol(
    name="gle-mnist1d",
    summary="Noisy digits as one signal in time, named while they pass: generalised latent equilibrium, online.",
    reference="Ellenberger et al. 2024, arXiv:2403.16933 (Nat Commun 2025); Greydanus & Kobak 2024, arXiv:2011.14439",
    presets={"quick": quick, "paper": paper},
    published={
        "GLE, 15,000 parameters, 10 seeds": "91.7 ± 0.8 % after 150 epochs; 45.8 % after 10, 87.7 % after 50 (computed from the authors' records)",
    },
    rule="dendritic",
)
