"""Feedback weights align with forward weights, always on: noise in apical dendrites tells them what lies above.

Max et al. 2024, Nature Machine Intelligence, arXiv:2212.10249, figure 3: a microcircuit of 5, 20, 10, 20 and 5
neurons, with random weights in both directions at first, is shown one pattern per millisecond.
"""

import numpy as np
from brian2 import ms

from localplast.learning.optimise import momentum
from localplast.models.layers import in_turn
from localplast.models.pal_circuit import aligning
from localplast.network import transposed
from localplast.protocols.microcircuit_teacher import teaching_task
from localplast.rules import bptt, dendritic
from localplast.show.plot import COLOURS, legend, style
from localplast.study.contenders import Contender
from localplast.study.protocol import Preset, Protocol
from localplast.task.loss import mse

__all__ = ["angles", "contenders", "course", "figure", "learning", "logistic", "network", "protocol", "told"]

SIZES = (5, 20, 10, 20, 5)


def logistic(u):
    """The rates of potentials."""
    return 1 / (1 + np.exp(-u))


def learning(net, *, up, ip, pi, down, alpha, tau=100 * ms):
    """The optimiser of phaseless alignment learning.

    Parameters
    ----------
    net : Network
        From :func:`aligning`.

    Other arguments
    ---------------
    up, ip, pi, down : float or sequence of float
        Rates per millisecond of the projections of these names: one for all, or one for each.
    alpha : float
        What feedback weights lose of themselves in a millisecond, over their rate.
    tau : Quantity
        Changes of ``up`` are low-pass filtered with it: the noise is averaged away.
    """
    step, share, rates = float(net.dt / ms), float(net.dt / tau), {}
    for kind, rate in {"up": up, "ip": ip, "pi": pi, "down": down}.items():
        names = of_kind(net, kind)
        rates |= dict(zip(names, in_turn(rate, len(names), kind), strict=True))
    rates |= {name: share * rates[name] for name in of_kind(net, "up")}
    at_once = dict.fromkeys((name for name in rates if name not in of_kind(net, "up")), 0.0)
    optimiser = momentum(step, 1 - share).with_constant("beta", **at_once).with_rates(**rates)
    return optimiser.decayed(step * alpha, only=of_kind(net, "down"))


def of_kind(net, kind):
    """Names of the projections ``up1``, ``up2`` and so on, for the kind ``'up'``."""
    return tuple(name for name in net.projections if name.rstrip("0123456789") == kind)


def contenders(made, *, backend, offline=None, strength=1.0):
    """The network ``made(**options)`` with feedback that aligns, stays random, or is the transpose; and BPTT, if
    ``offline``.

    ``offline`` is BPTT's optimiser; it changes ``up`` alone. ``strength`` is that of the transpose: with strong
    forward weights the loop through a layer and back would amplify what interneurons do not cancel.
    """
    net = made()
    fixed, lateral = of_kind(net, "down"), (*of_kind(net, "ip"), *of_kind(net, "pi"))
    quiet, forward = made(sigma=0.0), tuple(name for name in of_kind(net, "up") if net.projections[name].post != "out")
    upwards = [transposed(f"up{k}", times=strength) for k in range(2, len(fixed) + 2)]
    symmetric = made(sigma=0.0, down=upwards, plastic=("up", "ip", "pi"))
    return {
        **({"BPTT": Contender(bptt(), "torch", (*lateral, *fixed), quiet, offline)} if offline else {}),
        "PAL": Contender(dendritic(), backend),
        "feedback alignment": Contender(dendritic(), backend, fixed, quiet),
        "symmetric": Contender(dendritic(), backend, network=symmetric),
        "hidden frozen": Contender(dendritic(), backend, (*forward, *fixed), quiet),
    }


def angles(weights):
    """Between feedback and the transpose of the forward weights, degrees, by name of the feedback.

    ``weights`` maps ``'down1'`` and ``'up2'``, ``'down2'`` and ``'up3'``, and so on, to arrays ``(..., pre, post)``.
    """
    found = {}
    for name in (name for name in weights if name.startswith("down")):
        back, up = np.asarray(weights[name]), np.swapaxes(weights[f"up{int(name.removeprefix('down')) + 1}"], -1, -2)
        norms = [np.linalg.norm(w, axis=(-2, -1)) for w in (back, up)]
        found[name] = np.degrees(np.arccos(np.clip((back * up).sum((-2, -1)) / np.prod(norms, axis=0), -1, 1)))
    return found


def told(net, trials, after):
    """The angles of :func:`angles` after learning, in words."""
    found = angles({name: after.weights[name] for name in (*of_kind(net, "up"), *of_kind(net, "down"))})
    return "angle between feedback and forward weights: " + ", ".join(
        f"{name} {angle:.1f}°" for name, angle in found.items()
    )


def course(net, record):
    """Angles along training; dotted: 30 degrees."""
    import matplotlib.pyplot as plt

    kept = {name: record[name]["weight"] for name in (*of_kind(net, "up")[1:], *of_kind(net, "down"))}
    drawn, ax = plt.subplots(figsize=(5, 3.4), constrained_layout=True)
    at, first = next(iter(kept.values()))["update"].values, net.draw(record.attrs["seed"]).weights
    for (name, found), colour in zip(
        angles({k: [first[k], *w.values] for k, w in kept.items()}).items(), COLOURS, strict=False
    ):
        ax.plot([0, *at], found, color=colour, lw=1.6, label=name)
    ax.axhline(30, color="0.6", lw=0.8, ls=":")
    ax.set_ylim(0, 100)
    legend(ax)
    style(ax, "feedback against forward weights", "update (a stream of patterns each)", "angle (degrees)")
    return drawn


def figure(net, trials, before, after):
    """Every feedback weight against the forward weight that it answers, before and after learning."""
    import matplotlib.pyplot as plt

    drawn, axes = plt.subplots(1, 2, figsize=(8, 3.4), sharex=True, sharey=True, constrained_layout=True)
    for ax, (title, values) in zip(axes, {"before learning": before, "after learning": after}.items(), strict=True):
        for k, (name, colour) in enumerate(zip(of_kind(net, "down"), COLOURS, strict=False), 2):
            ax.plot(
                values.weights[f"up{k}"].T.ravel(), values.weights[name].ravel(), ".", ms=3, color=colour, label=name
            )
        style(ax, title, "forward weight", "feedback weight" if values is before else "")
    legend(axes[0])
    return drawn


def network(**options):
    """The published sizes, logistic."""
    return aligning(SIZES, activation="logistic", targets=(0.0, 1.0), **options)


def build(*, steps, up, tau, stream=10_000, updates=100, batch=1, test=100):
    """``steps`` per pattern, ``stream`` per update; ``up`` and ``tau`` are those of :func:`learning`."""
    net = network()
    return Preset(
        network=net,
        task=teaching_task(net, steps=steps, patterns=stream // steps, phi=logistic, name="pal-alignment"),
        loss=mse(),
        optimiser=learning(net, up=up, ip=5.0, pi=5.0, down=50.0, alpha=1e-5, tau=tau),
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden1",
        rules=contenders(network, backend="brian2"),
    )


protocol = Protocol(
    name="pal-alignment",
    summary="Feedback weights of a deep microcircuit align with its forward weights, by noise that is always on.",
    reference="Max et al. 2024, Nature Machine Intelligence, arXiv:2212.10249, fig. 3",
    build=build,
    presets={
        # The published rates of feedback and number of steps, with patterns of 10 ms: jumps of the signal, which blur
        # it, are rarer. Forward weights learn slower, and low-pass filtered with 1 ms: with the published 100 ms they
        # overshoot here.
        "quick": dict(steps=1000, up=0.2, tau=1 * ms),
        # Patterns of 1 ms, 100 times 100 of them (there the same 100 patterns; here always new ones).
        "paper": dict(steps=100, up=1.0, tau=100 * ms),
    },
    published={
        "fig. 3": "feedback aligns with forward weights within 100 epochs of 100 patterns (10 seeds; no number)"
    },
    rule="dendritic",
    told=told,
    drawn=figure,
    course=course,
    recorded={f"{name}.weight": {"every": 2} for name in ("up2", "up3", "up4", "down1", "down2", "down3")},
)
