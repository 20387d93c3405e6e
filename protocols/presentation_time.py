"""How long must a pattern be shown? Accuracy after learning against presentation time over ``tau``, prospective or not.

Haider et al. 2021, NeurIPS, arXiv:2110.14549, section 3 and figure 3: a network whose rates lag behind learns from
errors that are there only because an image has changed, unless every image is shown for many time constants; with
latent equilibrium it does not matter. Only the ratio of the two times counts, so that here it is the membranes that
change: every network sees the same stream.
"""

import numpy as np
from brian2 import ms

from localplast.learning.optimise import sgd
from localplast.models import latent_equilibrium, latent_equilibrium_output
from localplast.models.layers import layered
from localplast.network import normal
from localplast.rules import dendritic
from localplast.show.plot import COLOURS, legend, style
from localplast.study.contenders import Contender
from localplast.study.protocol import Preset, Protocol
from localplast.task.loss import mse
from localplast.task.streams import bars_task

__all__ = ["figure", "network", "protocol", "results"]

#: How long a bar is shown, the time step, and what tells the two forms apart.
SHOWN, STEP, FORMS = 20 * ms, 0.1 * ms, {"prospective": True, "lagging": False}


def network(ratio, *, prospective=True):
    """9 pixels, 30 tanh neurons, 3 linear outputs, with a ``tau`` that fits ``ratio`` times into a presentation."""
    form = {"prospective": prospective, "tau": SHOWN / ratio}
    hidden, output = latent_equilibrium(activation="tanh", **form), latent_equilibrium_output(**form)
    return layered((9, 30, 3), hidden, output, weight=normal(), dt=STEP)


def results(tree):
    """What a comparison found at its end, by form and ratio.

    Returns
    -------
    dict of str to (ratio, accuracy)
        Accuracies ``(ratio, seed)``.
    """
    last, found = tree["curves"]["test_accuracy"].isel(update=-1), {}
    for form in FORMS:
        rules = [str(rule) for rule in last["rule"].values if str(rule).startswith(form)]
        found[form] = np.array([float(rule.split()[-2]) for rule in rules]), last.sel(rule=rules).values
    return found


def figure(tree):
    """Accuracy at the end against presentation time over ``tau``, mean and sd over seeds."""
    import matplotlib.pyplot as plt

    drawn, ax = plt.subplots(figsize=(5.4, 3.4), constrained_layout=True)
    for (form, (ratio, accuracy)), colour in zip(results(tree).items(), COLOURS, strict=False):
        spread = 100 * accuracy.std(1, ddof=1) if accuracy.shape[1] > 1 else None
        ax.errorbar(ratio, 100 * accuracy.mean(1), spread, color=colour, marker="o", ms=4, label=form)
    ax.axhline(37.5, color="0.5", ls=":", lw=1, label="always the same answer")
    ax.set(xscale="log", ylim=(0, 103))
    legend(ax, loc="lower right")
    style(ax, "bars named rightly", "presentation time / tau", "test accuracy (%)")
    return drawn


def build(*, ratios, updates, rate=0.05, batch=8, test=8):
    steps, made = int(float(SHOWN / STEP) + 0.5), {}
    for form, prospective in FORMS.items():
        made |= {f"{form}, shown {r:g} tau": network(r, prospective=prospective) for r in ratios}
    first = next(iter(made.values()))
    return Preset(
        network=first,
        task=bars_task("presentation-time", steps=steps, shown=steps),
        loss=mse(),
        optimiser=sgd(rate),
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden1",
        rules={name: Contender(dendritic(), "torch", network=net) for name, net in made.items()},
    )


protocol = Protocol(
    name="presentation-time",
    summary="Short presentations do not hurt where rates are prospective: a sweep of presentation time over tau.",
    reference="Haider et al. 2021, NeurIPS, arXiv:2110.14549",
    build=build,
    presets={
        # Six ratios, 800 presentations of each bar.
        "quick": dict(ratios=(0.3, 1.0, 3.0, 10.0, 30.0, 100.0), updates=100),
        # Eleven ratios, ten times as many presentations.
        "paper": dict(ratios=(0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 20.0, 30.0, 50.0, 70.0, 100.0), updates=1000),
    },
    published={
        "fig. 3": "prospective cells learn at any presentation time, the original form only when it is long (no number)"
    },
    rule="dendritic",
    overview=figure,
)
