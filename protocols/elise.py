"""ELiSe: a network that is always plastic is nudged through a sequence, and then plays it by itself.

Kriener et al. 2024, arXiv:2402.16763. Visible cells are nudged by a teacher, latent cells only by the fixed scaffold that has
grown out of the visible ones; every dendrite learns to predict its soma. Latent activity tells apart the places of a
sequence at which the same tone sounds.
"""

from dataclasses import replace

import numpy as np
from brian2 import mV, ms, nS, pA

from localplast.loss import mse
from localplast.models import elise, graded_readout
from localplast.network import Input, Network, Population, Projection, axonal, uniform
from localplast.optimise import sgd
from localplast.protocol import Preset, Protocol
from localplast.rules import dendritic
from localplast.scaffold import grow
from localplast.task import Task, Trials

__all__ = ["FUER_ELISE", "TWO_TOKENS", "network", "nudged", "one_hot", "protocol", "stream", "target_rates"]

TWO_TOKENS = (0, 1)
#: The first twelve tones of Für Elise, as numbers of seven visible cells.
FUER_ELISE = (6, 0, 1, 0, 1, 0, 4, 2, 3, 5, 5, 5)
#: How strongly the teacher nudges, and to which potentials (mV) silent and sounding cells.
LAM, SILENT, SOUNDING = 0.7, -70.0, -50.0


def network(*, visible, latent, dt, seed=0, p=0.2, q=0.15, p0=0.04):
    """One population ``cells``, its ``visible`` ones first.

    Dendritic weights go from all to all: the projections ``among_visible`` and ``others``, two because they learn at rates of
    their own. The scaffold excites and, 25 ms later, inhibits somata. Delays are drawn per presynaptic cell, 5 to 14 ms.
    The inputs ``tones`` (mV) and ``nudging`` say what the teacher wants and how strongly, to every visible cell; silence of
    both is no teacher. They are ordinary inputs, because a teacher also gives the cue for replay. ``out`` shows what the visible
    dendrites predict, as rates.

    Other arguments
    ---------------
    seed : int
        Of the scaffold and the delays.
    p, q, p0 : float
        See :func:`~localplast.scaffold.grow`.
    """
    rng, size = np.random.default_rng([seed, 5]), visible + latent
    scaffold = grow(rng, visible, latent, p=p, q=q, p0=p0)
    dendrites, somata = rng.integers(5, 15, (2, size)) * ms
    one_to_one = np.eye(visible, size)
    among_visible = np.outer(np.arange(size) < visible, np.arange(size) < visible)

    def nudge(pre, target, weight):
        return Projection(pre, "cells", target=target, weight=one_to_one * weight, mask=one_to_one, plastic=False)

    def dendrite(name, mask):
        weight = uniform(0.05 * pA, mean=0.05 * pA, fan_in=False)
        return Projection("cells", "cells", name=name, target="I_den", weight=weight, mask=mask, delay=axonal(dendrites))

    def soma(target, conductance, delay):
        return Projection(
            "cells", "cells", name=target, target=target, output="floored_rate", weight=scaffold * conductance,
            mask=scaffold, delay=axonal(delay), plastic=False,
        )

    return Network(
        dt=dt,
        tones=Input(visible, "currents"),
        nudging=Input(visible, "currents"),
        cells=Population(size, elise()),
        out=Population(visible, graded_readout()),
        projections=[
            nudge("tones", "u_target", 1 * mV),
            nudge("nudging", "lam", 1.0),
            dendrite("among_visible", among_visible),
            dendrite("others", ~among_visible),
            soma("g_exc", 0.3 * nS, somata),
            soma("g_inh", 6 * nS, somata + 25 * ms),
            Projection("cells", "out", output="predicted_rate", weight=one_to_one.T, mask=one_to_one.T, plastic=False),
        ],
    )


def one_hot(tokens, visible, duration, dt):
    """One cycle of a sequence, float ``(period, visible)``: 1 for the cell that sounds; ``duration`` is that of the cycle."""
    steps = round(float(duration / dt))
    return np.eye(visible)[np.asarray(tokens)[np.arange(steps) * len(tokens) // steps]]


def target_rates(pattern):
    """The rates of cells at the potentials that the teacher asks for, shape as ``pattern``."""
    cell = elise().parameters
    return 1 / (1 + np.exp(float(cell["slope"] * mV) * (float(cell["u_half"] / mV) - potentials(pattern))))


def potentials(pattern):
    return SILENT + (SOUNDING - SILENT) * pattern


def stream(pattern, cycles, *, silent=0, phases=(0,)):
    """Trials that go through the pattern for ``cycles`` cycles with the teacher, and for ``silent`` ones without.

    Parameters
    ----------
    pattern : float array ``(period, visible)``
    cycles, silent : int
    phases : sequence of int
        The step of the pattern that each trial begins with.

    Every step counts in the loss, of those after a cue only the silent ones; the target is what the teacher says or would say.
    """
    time = np.arange((cycles + silent) * len(pattern))
    score = pattern[(time + np.asarray(phases)[:, None]) % len(pattern)]
    heard = (time < cycles * len(pattern)).astype(float)
    counted = 1 - heard if silent else heard
    inputs = {"tones": potentials(score) * heard[:, None], "nudging": LAM * heard[:, None] * np.ones_like(score)}
    return Trials(inputs, target_rates(score), counted / counted.sum())


def nudged(trials, when, wanted, *, cells=slice(None), lam=LAM):
    """The same trials with a disturbance: in the steps ``when`` (a slice) some cells are nudged to other potentials.

    Parameters
    ----------
    wanted : float, or array ``(time, cell)``
        In mV.

    Other arguments
    ---------------
    cells : index
        Of visible cells.
    lam : float
        Strength: near 1 silences a cell, whatever its dendrite says.
    """
    inputs = {name: array.copy() for name, array in trials.inputs.items()}
    inputs["tones"][:, when, cells] = wanted
    inputs["nudging"][:, when, cells] = lam
    return replace(trials, inputs=inputs)


def task(tokens, *, visible, duration, dt, cycles, cue=2, silent=3):
    """Streams of ``cycles`` cycles that begin anywhere in the sequence; tested is replay after a cue of two cycles."""
    pattern = one_hot(tokens, visible, duration, dt)

    def training(update, batch, seed):
        return stream(pattern, cycles, phases=np.random.default_rng([seed, 0, update]).integers(len(pattern), size=batch))

    def testing(n, seed):
        return stream(pattern, cue, silent=silent, phases=np.random.default_rng([seed, 1]).integers(len(pattern), size=n))

    return Task("elise", training, testing, meta={"pattern": pattern})


def quick():
    """Two tones in turn, 20 ms each, and 16 latent cells, in steps of 1 ms."""
    return preset(TWO_TOKENS, visible=2, latent=16, duration=40 * ms, dt=1 * ms, cycles=25, updates=8)


def sequence(seed=0):
    """Twelve tones in 240 ms, in steps of 0.5 ms; the visible synapses learn ten times faster than published."""
    return preset(
        FUER_ELISE, visible=7, latent=30, duration=240 * ms, dt=0.5 * ms, cycles=20, updates=20, visible_rate=1e-2, seed=seed
    )


def paper():
    """Twelve tones in 250 ms, 1000 cycles: step and rates as in the authors' configuration."""
    return preset(FUER_ELISE, visible=7, latent=30, duration=250 * ms, dt=0.1 * ms, cycles=10, updates=100, visible_rate=1e-3)


def preset(tokens, *, visible, latent, duration, dt, cycles, updates, visible_rate=1e-2, rate=1e-1, seed=0):
    """``visible_rate`` among visible cells, ``rate`` of all other weights, in pA/ms."""
    learning_rate = float(rate * pA / ms * dt)
    return Preset(
        network=network(visible=visible, latent=latent, dt=dt, seed=seed),
        task=task(tokens, visible=visible, duration=duration, dt=dt, cycles=cycles),
        loss=mse(),
        optimiser=sgd(learning_rate).with_rates(among_visible=visible_rate / rate),
        batch=1,
        updates=updates,
        test=2,
        hidden="cells",
        rules={"ELiSe": dendritic()},
    )


protocol = Protocol(
    name="elise",
    summary="A network that is always plastic is nudged through a sequence and then plays it by itself.",
    reference="Kriener et al. 2024, arXiv:2402.16763",
    presets={"quick": quick, "sequence": sequence, "paper": paper},
    rule="dendritic",
)
