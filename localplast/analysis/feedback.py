"""How feedback weights lie to the forward weights that they stand for: angles, in words and along training."""

import numpy as np

from localplast.models.circuit import of_kind
from localplast.show.plot import COLOURS, legend, style

__all__ = ["angles", "angles_along", "angles_said", "pairs_of_weights"]


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


def angles_said(net, trials, after):
    """The angles of :func:`angles` after learning, in words."""
    found = angles({name: after.weights[name] for name in (*of_kind(net, "up"), *of_kind(net, "down"))})
    return "angle between feedback and forward weights: " + ", ".join(
        f"{name} {angle:.1f}°" for name, angle in found.items()
    )


def angles_along(net, record):
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


def pairs_of_weights(net, trials, before, after):
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
