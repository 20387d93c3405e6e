"""Phaseless alignment learning: noise in apical dendrites tells synapses from above what the weights from below are.

Max et al. 2024, Nature Machine Intelligence, arXiv:2212.10249. The cells are those of the dendritic microcircuit
(:mod:`localplast.models.microcircuit`), with noise where errors arrive and a high-pass filter behind the rate.
"""

from dataclasses import replace
from typing import Any

from brian2 import ms
from brian2.units.fundamentalunits import Quantity

from localplast.equations.expressions import to_sympy
from localplast.models.microcircuit import sacramento_output, sacramento_pyramidal
from localplast.models.prospective import Activation, rate_of
from localplast.neuron import Mismatch, NeuronModel

__all__ = ["FEEDBACK", "NOISE", "REFERENCE", "filtered", "pal_output", "pal_pyramidal"]

REFERENCE = "Max et al. 2024, Nature Machine Intelligence, arXiv:2212.10249"

#: An Ornstein-Uhlenbeck process of variance ``sigma**2/2``.
NOISE = "dnoise/dt = -noise/tau_noise + sigma*xi/sqrt(tau_noise) : 1"
#: What the apical dendrite holds: its two kinds of input, which learn from different things, and noise of its own.
APICAL = f"""v_api = lateral + feedback + noise : 1
            lateral : 1
            feedback : 1
            {NOISE}"""
#: How feedback learns.
FEEDBACK = Mismatch("noise", pre="rate_hp")

#: A discrete map, as published: synapses learn from the filtered rate of the step before, then the filter moves on.
HIGH_PASS = """
    rate_hp = rate_hp + last - before - dt/tau_hp*rate_hp
    before = last
    last = {rate}
"""


def pal_pyramidal(
    *, sigma: float = 0.05, tau_noise: Quantity = 0.1 * ms, tau_hp: Quantity = 0.1 * ms, **form: Any
) -> NeuronModel:
    """A hidden pyramidal cell whose feedback weights align with the forward weights of the layer above.

    The apical potential ``v_api = lateral + feedback + noise`` has an Ornstein-Uhlenbeck process in it,
    ``d noise = -noise/tau_noise dt + sigma/sqrt(tau_noise) dW``, of variance ``sigma**2/2``. It moves the rate of the
    cell, the cells above, and what comes down from them: weights onto ``feedback`` learn from ``noise`` times
    ``rate_hp`` of the cells above, their rate without what is slow,

    .. math::  dB ~ noise \\, r_{hp} - \\alpha B, \\qquad  dr_{hp} = dr - r_{hp} \\, dt/\\tau_{hp}

    and so come to the transpose of the forward weights, up to a factor per neuron. ``alpha`` is the decay of the
    optimiser (:meth:`~localplast.learning.optimise.Optimiser.decayed`). Weights onto ``lateral`` learn from
    ``-(lateral + feedback)``, those onto ``v_bas`` as in :func:`~localplast.models.sacramento_pyramidal`.

    =========== ================================== ==========
    parameter   meaning                            unit
    =========== ================================== ==========
    sigma       strength of the noise              1
    tau_noise   its time constant                  second
    tau_hp      of the high-pass filter            second
    =========== ================================== ==========

    Other arguments
    ---------------
    **form : of :func:`~localplast.models.sacramento_pyramidal`

    Max et al. 2024, arXiv:2212.10249, section 2 and the values of their code.
    """
    cell = sacramento_pyramidal(**form)
    noisy = replace(
        cell,
        name="pal_pyramidal",
        equations=cell.equations.replace("v_api : 1", APICAL),
        parameters={**cell.parameters, "sigma": sigma, "tau_noise": tau_noise},
        method="euler",  # the simplest that knows noise
        mismatch={"v_bas": cell.mismatch["v_bas"], "lateral": Mismatch("-(lateral + feedback)"), "feedback": FEEDBACK},
        at_least_dt=(*cell.at_least_dt, "tau_noise"),
        reference=REFERENCE,
    )
    return high_passed(noisy, tau_hp, **form)


def pal_output(*, tau_hp: Quantity = 0.1 * ms, **form: Any) -> NeuronModel:
    """An output neuron of the microcircuit with the high-passed rate ``rate_hp``, from which feedback weights below
    learn.

    Parameter ``tau_hp`` (second): of the filter; all others, references: as
    :func:`~localplast.models.sacramento_output` and
    :func:`pal_pyramidal`.
    """
    return high_passed(replace(sacramento_output(**form), name="pal_output", reference=REFERENCE), tau_hp, **form)


def high_passed(cell: NeuronModel, tau_hp: Quantity, activation: Activation = "logistic", **form: Any) -> NeuronModel:
    """``cell``, of a microcircuit, with ``rate_hp``."""
    cell = replace(cell, equations=f"{cell.equations}\n past = rate : 1 (constant over dt)")
    return filtered(cell, tau_hp, "past", rate_of(activation, "0"))


def filtered(cell: NeuronModel, tau_hp: Quantity, rate: str, resting: str) -> NeuronModel:
    """``cell`` with ``rate_hp``: what is new in its ``rate``, a text of the step before. Before a trial the cell was at
    rest: its first rate is nothing new.
    """
    at_rest = float(to_sympy(resting))
    return replace(
        cell,
        equations=f"""{cell.equations}
            rate_hp : 1
            last : 1
            before : 1
        """,
        parameters={**cell.parameters, "tau_hp": tau_hp},
        initial={**cell.initial, "last": at_rest, "before": at_rest},
        update=f"{cell.update or ''}{HIGH_PASS.format(rate=rate)}",
        at_least_dt=(*cell.at_least_dt, "tau_hp"),
    )
