"""Phaseless alignment learning among prospective neurons that have errors of their own.

Max et al. 2024, Nature Machine Intelligence, arXiv:2212.10249. The neurons are those of generalised latent equilibrium
(:mod:`localplast.models.gle`), with noise that reaches the rate and a high-pass filter behind it, as in
:mod:`localplast.models.pal`.
"""

from dataclasses import replace
from typing import Any

from brian2 import ms
from brian2.units.fundamentalunits import Quantity

from localplast.models.gle import gle, gle_output
from localplast.models.pal import FEEDBACK, NOISE, REFERENCE, filtered
from localplast.models.prospective import Activation, rate_of
from localplast.neuron import NeuronModel

__all__ = ["pal_gle", "pal_gle_output"]


def pal_gle(
    *,
    activation: Activation = "tanh",
    sigma: float = 0.01,
    tau_noise: Quantity = 10 * ms,
    tau_hp: Quantity = 10 * ms,
    **form: Any,
) -> NeuronModel:
    """A hidden neuron of generalised latent equilibrium whose feedback weights align with the forward weights above.

    The rate is ``phi(u_breve + noise)``, with the noise and the filter of :func:`~localplast.models.pal_pyramidal`:
    weights onto ``feedback`` learn from ``noise`` times ``rate_hp`` of the layer above, and may decay. Neither weights
    nor biases from below feel the noise but by the rates that they hear.

    =========== ================================== ==========
    parameter   meaning                            unit
    =========== ================================== ==========
    sigma       strength of the noise              1
    tau_noise   its time constant                  second
    tau_hp      of the high-pass filter            second
    =========== ================================== ==========

    Other arguments
    ---------------
    activation : str
        ``phi``: one of :data:`~localplast.models.prospective.ACTIVATIONS`.
    **form : of :func:`~localplast.models.gle`

    Max et al. 2024, arXiv:2212.10249, as in their autoencoder; Ellenberger et al. 2024, arXiv:2403.16933.
    """
    cell = gle(activation=activation, **form)
    silent, noisy = (f"rate = {rate_of(activation, text)} : 1" for text in ("u_breve", "u_breve + noise"))
    cell = replace(
        cell,
        name="pal_gle",
        equations=f"{cell.equations.replace(silent, noisy)} \n {NOISE} \n emitted = noise : 1 (constant over dt)",
        parameters={**cell.parameters, "sigma": sigma, "tau_noise": tau_noise},
        mismatch={**cell.mismatch, "feedback": FEEDBACK},
        at_least_dt=(*cell.at_least_dt, "tau_noise"),
        reference=REFERENCE,
    )
    return filtered(cell, tau_hp, rate_of(activation, "past + emitted"), rate_of(activation, "0"))


def pal_gle_output(*, activation: Activation = "linear", tau_hp: Quantity = 10 * ms, **form: Any) -> NeuronModel:
    """An output neuron of generalised latent equilibrium with the high-passed rate ``rate_hp``, from which feedback
    weights below learn.

    Parameter ``tau_hp`` (second): of the filter; all others, references: as :func:`~localplast.models.gle_output` and
    :func:`pal_gle`.
    """
    cell = replace(gle_output(activation=activation, **form), name="pal_gle_output", reference=REFERENCE)
    return filtered(cell, tau_hp, rate_of(activation, "past"), rate_of(activation, "0"))
