"""MNIST-1D in continuous time: digits drawn as one noisy signal, named while it passes, with nothing stored.

Ellenberger, Haider, Jordan, Max, Jaras, Kriener, Benitez & Petrovici 2024, arXiv:2403.16933 (Nat Commun 2025); data
of Greydanus & Kobak 2024, ICML, arXiv:2011.14439. What a neuron sees at a time is one number: whatever it knows of
the digit is in the slow membranes of the layers before it. The authors give notice that these procedures are
registered for patent protection: see ``docs/prospective.md``.
"""

from dataclasses import replace
from functools import partial

import numpy as np
from brian2 import ms

from localplast.arguments import check_choice
from localplast.learning.optimise import adam
from localplast.models.gle import gle, gle_output
from localplast.models.layers import layered
from localplast.network import uniform
from localplast.rules import bptt, dendritic
from localplast.runs.run import run
from localplast.runs.watch import Plateau
from localplast.show.plot import COLOURS, style
from localplast.study.contenders import Contender
from localplast.study.protocol import Preset, Protocol, Published
from localplast.task import Task, Trials
from localplast.task.datasets import mnist1d
from localplast.task.loss import cross_entropy

__all__ = ["figure", "network", "protocol", "signals", "time_constants"]

#: How long a digit lasts, in units of time (here ms), its classes, and how many digits there are to learn from.
DURATION, CLASSES, EPOCH = 72.0, 10, 4000


def signals(samples, labels):
    """Digits as currents, one point per step, one digit after the other; the teacher names each while it lasts.

    Parameters
    ----------
    samples : array ``(trial, digit, points)``
    labels : int array ``(trial, digit)``

    Returns
    -------
    Trials
        Inputs ``sense``, ``one`` and ``teach`` ``(trial, time, 1)``, ``target`` ``(trial, time, 10)``: 1 for the class,
        else 0. All steps are judged.
    """
    sense, steps = samples.reshape(len(samples), -1, 1), samples.shape[1] * samples.shape[2]
    target = np.repeat(np.eye(CLASSES)[labels], samples.shape[2], axis=1)
    inputs = {"sense": sense, "one": np.ones_like(sense), "teach": np.ones_like(sense), "target": target}
    return Trials(inputs, labels[:, 0] if labels.shape[1] == 1 else target, np.full(steps, 1 / steps))


def last(trials, labels, points):
    """The same trials, judged by their last digit alone."""
    judged = np.arange(trials.steps) >= trials.steps - points
    return replace(trials, target=labels[:, -1], weight=judged / points)


def time_constants(slow, fast, *, tau=1.2 * ms, dt=0.2 * ms):
    """``tau_m`` and ``tau_r`` ``(neuron,)`` of a layer: slow neurons look one step ahead, and half of them have
    ``tau/2``.
    """
    tau_m = np.repeat([tau / 2 / ms, tau / ms], [slow // 2, slow - slow // 2 + fast]) * ms
    return {"tau_m": tau_m, "tau_r": np.repeat([dt / ms, tau / ms], [slow, fast]) * ms}


def network(
    *, layers=6, slow=36, fast=17, tau=1.2 * ms, steps=360, limit=1.0, feedback="symmetric", errors="prospective"
):
    """One channel, hidden layers of ``slow + fast`` neurons, ten outputs with a softmax; weights and biases learn.

    The first layer is linear, the others have a tanh.

    Other arguments
    ---------------
    tau : Quantity
        Membrane of fast neurons and of half the slow ones.
    steps : int
        Of a digit.
    limit : float
        Weights and biases are drawn within ``limit/sqrt(pre)``.
    feedback, errors : str
        Of :func:`~localplast.models.layers.layered` and :func:`~localplast.models.gle.gle`.

    Symmetric feedback is weighted before the step's learning, and biases act as weights do, as published: errors that
    look ahead multiply what they have changed themselves. Errors do not move the neurons (``gamma`` is 0), and their
    size is that of the mean over steps, as that of the loss.
    """
    dt, size = DURATION / steps * ms, slow + fast
    names, heard = [f"hidden{k}" for k in range(1, layers + 1)], [1, *[size] * layers]
    cells = [gle(activation="tanh" if k else "linear", errors=errors, gamma=0.0) for k in range(layers)]
    output = gle_output(loss="cross_entropy", tau_m=tau, tau_r=tau, gamma=0.0, beta=1 / steps)
    return layered(
        (1, *[size] * layers, CLASSES),
        cells,
        output,
        feedback=feedback,
        weight=uniform(limit),
        dt=dt,
        down=uniform(limit),
        when="sent" if feedback == "symmetric" else "arriving",
        bias=[uniform(limit / np.sqrt(pre), fan_in=False) for pre in heard],
        parameters=dict.fromkeys(names, time_constants(slow, fast, tau=tau, dt=dt)),
    )


def task(*, points=360, digits=1):
    """All digits, in a new order every epoch, so many of them one after the other in every stream.

    In tests one digit is judged, behind another one where there are streams: the network is never at rest.
    """

    def single(samples, labels, rng=None):
        return samples, labels

    def streams(stored, validation=None):
        def training(update, batch, seed):
            samples, labels = stored.training(update, batch * digits, seed)
            return signals(samples.reshape(-1, digits, points), labels.reshape(-1, digits))

        def testing(n, seed):
            samples, labels = stored.testing(n, seed)
            before = np.maximum(np.arange(len(labels)) - 1, 0)  # the first one follows itself
            order = np.stack([before, np.arange(len(labels))], axis=1)[:, -min(digits, 2) :]
            return last(signals(samples[order], labels[order]), labels[order], points)

        return Task("gle-mnist1d", training, testing, validation=validation)

    stored = Task.dataset("gle-mnist1d", *mnist1d(points), single)
    return streams(stored, streams(stored.validation))


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


def contenders(made, offline, updates):
    """The network ``made(**options)`` under GLE, without one thing or another, and under BPTT with the optimiser
    ``offline`` and so many ``updates``; with none of these without BPTT.
    """
    net = made()
    hidden = [name for name in net.populations if name.startswith("hidden")]
    frozen = tuple(p.name for p in net.plastic if p.post in hidden)
    found = {
        "GLE": Contender(dendritic(), "torch"),
        "GLE, random feedback": Contender(dendritic(), "torch", network=made(feedback="random")),
        "instantaneous errors": Contender(dendritic(), "torch", network=made(errors="instantaneous")),
        "BPTT": Contender(bptt(), "torch", optimiser=offline, updates=updates or None),
        "GLE, hidden frozen": Contender(dendritic(), "torch", frozen),
    }
    return {name: contender for name, contender in found.items() if updates or name != "BPTT"}


def build(
    *,
    layers,
    slow,
    fast,
    tau,
    steps,
    limit,
    digits,
    online,
    offline,
    held,
    halving,
    longer,
    batch,
    updates,
    test,
    schedule="fixed",
):
    """``online`` and ``offline`` are rates of Adam, per step and, for BPTT, per update. Rates are held for so many
    updates, and then halve after so many more; BPTT makes ``longer`` times as many updates.

    With another ``schedule`` than ``"fixed"`` rates halve where a loss has stopped falling: that of ``"validation"``,
    digits held back from learning, or of ``"test"``, as published.

    While the labels of a batch are there, outputs follow them: only with a falling rate does what all batches share
    remain.
    """
    made = partial(network, layers=layers, slow=slow, fast=fast, tau=tau, steps=steps, limit=limit)
    within = digits * steps
    published = adam(online, epsilon=1e-8 / steps)  # of errors that are not divided by the steps: some are that small
    check_choice("schedule", schedule, ("fixed", "validation", "test"))
    falling, watch = adam(offline), ()
    if schedule == "fixed":
        published = published.halved(halving * within, after=held * within)
        falling = falling.halved(halving * longer, after=held * longer) if longer else falling
    else:
        watch = Plateau(of=schedule, every=max(1, round(EPOCH / (batch * digits))))
    return Preset(
        network=made(),
        task=task(points=steps, digits=digits),
        loss=cross_entropy(),
        optimiser=published,
        watch=watch,
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden2",
        rules=contenders(made, falling, longer * updates),
    )


#: The published network, and how its weights begin.
SIZE = dict(layers=6, slow=36, fast=17, tau=1.2 * ms, steps=360, limit=1.0)

protocol = Protocol(
    name="gle-mnist1d",
    summary="Noisy digits as one signal in time, named while they pass: generalised latent equilibrium, online.",
    reference="Ellenberger et al. 2024, arXiv:2403.16933 (Nat Commun 2025); Greydanus & Kobak 2024, arXiv:2011.14439",
    build=build,
    presets={
        # The published network of 15,000 parameters, 19 times through all digits: rates are held for nine epochs, and
        # then halve with each of ten. BPTT makes more updates, of one batch each.
        "quick": dict(
            **SIZE,
            digits=1,
            online=1e-3,
            offline=1e-2,
            held=360,
            halving=40,
            longer=2,
            batch=100,
            updates=760,
            test=1000,
        ),
        # As published, in 100 streams that end with each epoch: rates are held for 21 epochs, and then halve with each
        # of 13. The published ones halve where the network has stopped improving. BPTT would update once a stream.
        "paper": dict(
            **SIZE, digits=40, online=1e-3, offline=5e-3, held=21, halving=1, longer=0, batch=100, updates=34, test=1000
        ),
    },
    published={
        "GLE, 15,000 parameters": Published(
            "91.7 ± 0.8 % after 150 epochs; 45.8 % after 10, 87.7 % after 50 (10 seeds)", 91.7, 0.8, "%", "result files"
        ),
        "GLE, 15,000 parameters, test loss": Published(
            "2.112 ± 0.012 after 150 epochs (10 seeds)", 2.112, 0.012, "", "result files"
        ),
        "GLE, 42,000 parameters": Published("93.5 ± 1.0 % after 150 epochs", 93.5, 1.0, "%", "result files"),
    },
    rule="dendritic",
    drawn=figure,
)
