"""Bars in a dendritic microcircuit: errors live in apical dendrites, and learning goes on while patterns follow each
other.

Haider et al. 2021, NeurIPS, arXiv:2110.14549, section 4 and figure 3 (after Sacramento et al. 2018, NeurIPS,
arXiv:1810.11393): a square of 3 x 3 pixels shows a horizontal, a vertical or a diagonal bar. With prospective cells
(latent equilibrium) the circuit learns however short a pattern is shown; the original one needs several of its time
constants per pattern.
"""

from functools import partial

import numpy as np
from brian2 import ms

from localplast.learning.optimise import adam, sgd
from localplast.models.circuit import STEP, TARGETS, circuit
from localplast.models.layers import classes as layered_classes
from localplast.network import same_as
from localplast.rules import bptt, dendritic
from localplast.runs.run import run
from localplast.show.plot import COLOURS, style
from localplast.study.contenders import Contender
from localplast.study.protocol import Preset, Protocol
from localplast.task import Task
from localplast.task.loss import mse

__all__ = ["bars", "classes", "contenders", "figure", "protocol"]


def bars():
    """The eight bars in a square of 3 x 3 pixels, ``(8, 9)``, and whether they lie, stand or slant: 0, 1, 2,
    ``(8,)``.
    """
    row, slant = np.eye(3), np.eye(3).ravel()
    lying, standing = np.repeat(row, 3, axis=1), np.tile(row, (1, 3))
    return np.concatenate([lying, standing, [slant, np.eye(3)[::-1].ravel()]]), np.repeat([0, 1, 2], [3, 3, 2])


#: Streams of bars; see :func:`localplast.models.layers.classes`.
classes = partial(layered_classes, outputs=3, targets=TARGETS)


def bars_task(*, steps, shown=100, targets=TARGETS):
    """Streams of all eight bars, in an order of its own for every trial, each for so many ``steps``; tests show one
    for ``shown``.

    ``targets`` are those of :func:`~localplast.models.layers.stream`. The bars that are tested are those that are
    learned: there are no others.
    """
    samples, labels = bars()

    def shuffled(order, steps):
        return classes(samples[order], labels[order], steps=steps, targets=targets)

    def training(update, batch, seed):
        rng = np.random.default_rng([seed, 0, update])
        return shuffled(rng.permuted(np.tile(np.arange(8), (batch, 1)), axis=1), steps)

    def testing(n, seed):
        order = np.random.default_rng([seed, 1]).permutation(8)
        return shuffled(np.resize(order, (n, 1)), shown)

    return Task("microcircuit", training, testing)


def contenders(made, *, backend, offline=None):
    """The circuit ``made(**options)``, what comes of it if one thing is another, and BPTT.

    ``offline``: how BPTT learns, by the name of a contender, as arguments of
    :class:`~localplast.study.compare.Contender`. Feedback is random, and in one contender begins as the transpose of
    the weights onto the output. BPTT changes ``up``; lateral weights, which are there to let dendrites rest and not
    to lower the loss, stay as they are.
    """
    net, symmetric = made(), same_as("up2", transposed=True)
    lateral = tuple(p.name for p in net.plastic if not p.name.startswith("up"))
    hidden = tuple(p.name for p in net.plastic if p.name.startswith("up") and p.post != "out")
    return {
        **{name: Contender(bptt(), "torch", lateral, **course) for name, course in (offline or {}).items()},
        "dendritic": Contender(dendritic(), backend),
        "dendritic, symmetric": Contender(dendritic(), backend, network=made(down=symmetric)),
        "dendritic, original": Contender(dendritic(), backend, network=made(prospective=False)),
        "dendritic, hidden frozen": Contender(dendritic(), backend, hidden),
    }


def figure(net, trials, before, after):
    """What the readout says of the first trial without a teacher, and apical potentials with one, before and after
    learning.

    ``before`` and ``after`` are :class:`~localplast.network.network.Values`.
    """
    import matplotlib.pyplot as plt

    drawn, axes = plt.subplots(2, 2, figsize=(8, 4.6), sharex=True, sharey="row", constrained_layout=True)
    time = np.arange(1, trials.steps + 1) * float(net.dt / ms)
    for (title, values), (upper, lower) in zip(
        {"before learning": before, "after learning": after}.items(), axes.T, strict=True
    ):
        silent, taught = (
            run(net, shown, values=values, backend="torch", record=["said.shown", "hidden1.v_api"])
            for shown in (trials.without(net.teachers), trials)
        )
        upper.plot(time, silent["said"]["shown"].values[0], lw=1.4)
        lower.plot(time, taught["hidden1"]["v_api"].values[0], color=COLOURS[0], lw=0.8, alpha=0.7)
        style(upper, title, "", "output, teacher silent" if values is before else "")
        style(lower, "", "time (ms)", "apical potential, taught" if values is before else "")
    return drawn


def by_bptt(offline, converged, updates):
    """How BPTT learns at these rates, None where it does not; see :func:`contenders`."""
    longer = {"optimiser": adam(converged).halved(updates), "updates": 4 * updates} if converged else None
    found = {"BPTT": {"optimiser": adam(offline)} if offline else None, "BPTT, converged": longer}
    return {name: course for name, course in found.items() if course}


def build(*, steps, pace, batch, updates, backend, offline=None, converged=None, hidden=30, test=8):
    """``pace`` times the published rates of 0.05, 0.01 (onto the output) and 0.02 (interneurons) per ms.

    ``offline``: rate of BPTT, where it is compared; ``converged``: where it makes four times the updates.
    """
    made = partial(circuit, (9, hidden, 3), plastic=("up", "ip"))
    return Preset(
        network=made(),
        task=bars_task(steps=steps),
        loss=mse(),
        optimiser=sgd(pace * STEP).with_rates(up1=0.05, up2=0.01, ip1=0.02),
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden1",
        rules=contenders(made, backend=backend, offline=by_bptt(offline, converged, updates)),
    )


protocol = Protocol(
    name="microcircuit",
    summary="Bars in a dendritic microcircuit: apical dendrites hold the error, with and without latent equilibrium.",
    reference="Haider et al. 2021, NeurIPS, arXiv:2110.14549; Sacramento et al. 2018, NeurIPS, arXiv:1810.11393",
    build=build,
    presets={
        # Bars of 1 ms, a fifth of a membrane's time constant; a presentation changes 6.75 times what it is published
        # to. BPTT's rates are tuned (``benchmarks/tune.py``).
        "quick": dict(steps=10, pace=67.5, batch=8, updates=60, backend="torch", offline=0.08, converged=0.06),
        # The published course: bars of 10 ms, one after the other, 1000 times all eight.
        "paper": dict(steps=100, pace=1.0, batch=1, updates=1000, backend="brian2"),
    },
    published={
        "fig. 3": "prospective cells learn at any presentation time, the original form only when it is long (no number)"
    },
    rule="dendritic",
    drawn=figure,
)
