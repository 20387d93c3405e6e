"""Generalised latent equilibrium: neurons that may look ahead of their inputs, and errors that look ahead of them in
turn.

Ellenberger, Haider, Jordan, Max, Jaras, Kriener, Benitez & Petrovici 2024, arXiv:2403.16933 (Nat Commun 2025). The
authors give notice that these procedures are registered for patent protection: see ``docs/prospective.md``. Written
from the equations.
"""

from typing import Literal

from brian2 import ms
from brian2.units.fundamentalunits import Quantity

from localplast.errors import ModelError
from localplast.models.prospective import Activation, rate_of, slope_of
from localplast.neuron import Mismatch, NeuronModel

__all__ = ["gle", "gle_output"]

#: The names of :data:`ERRORS`.
Errors = Literal["prospective", "instantaneous"]

REFERENCE = "Ellenberger et al. 2024, arXiv:2403.16933 (Nat Commun 2025)"

#: Where tau_m and tau_r are equal their difference vanishes, bit for bit, here and in the errors: latent equilibrium is
#: left.
EQUATIONS = """
    drive = I + b + gamma*delta : 1
    du/dt = (drive - u)/tau_m : 1
    u_breve = drive + (tau_m - tau_r)/tau_m*(u - drive) : 1
    past = u_breve : 1 (constant over dt)
    nudge = slope*feedback : 1
    slope : 1
    I : 1
"""

#: What a neuron makes of what nudges it: an error as early or as late as the exact one is, or the nudge itself.
ERRORS = {
    "prospective": "dv/dt = (nudge - v)/tau_r : 1 \n delta = nudge + (tau_r - tau_m)/tau_r*(v - nudge) : 1",
    "instantaneous": "delta = nudge : 1",
}

#: By name of a loss: minus its derivative with respect to the rate, and the ``answer`` in it, which is of a ``{rate}``.
PULLS = {"mse": ("target - answer", "{rate}"), "cross_entropy": ("target - answer/total", "exp({rate})")}


def gle(
    *,
    activation: Activation = "tanh",
    errors: Errors = "prospective",
    tau_m: Quantity = 10 * ms,
    tau_r: Quantity = 10 * ms,
    gamma: float = 1.0,
    b: float = 0.0,
) -> NeuronModel:
    """A hidden neuron with a membrane of ``tau_m`` that looks ``tau_r`` ahead, and an error neuron that does the
    reverse.

    .. math::
        tau_m du/dt = -u + I + b + gamma delta,   rate = phi(u + tau_r du/dt)

        tau_r dv/dt = -v + phi' feedback,   delta = v + tau_m dv/dt

    With ``tau_m = tau_r`` the neuron has no delay (latent equilibrium), with a small ``tau_r`` it is a leaky
    integrator, with ``tau_r > tau_m`` it is early. For an error of angular frequency ``w`` the phase of ``delta`` is
    that of the exact adjoint, ``atan(w tau_m) - atan(w tau_r)``, and its gain the reciprocal. Graded projections set
    ``I`` and, with ``output="delta"`` of the layer above, ``feedback``. Everything learns in every step, by
    :func:`~localplast.rules.dendritic`: weights onto ``I`` from ``delta``, ``b`` from ``delta``, ``tau_m`` from
    ``-delta du/dt``, and weights onto ``feedback`` as the weights that they answer do, from the rate times the
    ``delta`` of the layer above (Kolen & Pollack 1994).

    =========== ========================================== ========
    parameter   meaning                                    unit
    =========== ========================================== ========
    tau_m       membrane, at least dt                      second
    tau_r       how far the rate looks ahead, at least dt  second
    gamma       how much its error moves the neuron        1
    b           bias                                       1
    =========== ========================================== ========

    Other arguments
    ---------------
    activation : str
        ``phi``: one of :data:`~localplast.models.prospective.ACTIVATIONS`.
    errors : str
        ``'prospective'``; or, as a control, ``'instantaneous'``: ``delta = phi' feedback``, as if no neuron had a
        memory.

    Ellenberger et al. 2024, arXiv:2403.16933, in discrete time by forward Euler: what arrives, from below and from
    above, is of the step before.
    """
    parameters = {"tau_m": tau_m, "tau_r": tau_r, "gamma": gamma, "b": b}
    feedback = Mismatch(rate_of(activation, "past"), pre="delta")
    return model("gle", activation, errors, "feedback : 1", parameters, mismatch={"feedback": feedback})


def gle_output(
    *,
    activation: Activation = "linear",
    loss: Literal["mse", "cross_entropy"] = "mse",
    errors: Errors = "prospective",
    tau_m: Quantity = 10 * ms,
    tau_r: Quantity = 10 * ms,
    gamma: float = 1.0,
    beta: float = 0.1,
    b: float = 0.0,
) -> NeuronModel:
    """An output neuron: as :func:`gle`, with an error that a teacher gives where one speaks (``teach`` is 1).

    ``phi' beta teach (target - rate)`` takes the place of ``phi' feedback``; with the loss ``'cross_entropy'`` the
    softmax over the layer takes the place of the rate. Its denominator arrives at ``total``, by a fixed projection of
    all outputs to all, with weights of 1, ``autapses=True`` and ``output="exp(rate)"``.

    =========== ========================================== ========
    parameter   meaning                                    unit
    =========== ========================================== ========
    tau_m       membrane, at least dt                      second
    tau_r       how far the rate looks ahead, at least dt  second
    gamma       how much its error moves the neuron        1
    beta        how strongly the teacher pulls             1
    b           bias                                       1
    =========== ========================================== ========

    Other arguments
    ---------------
    activation, errors : str
        As :func:`gle`.
    loss : str
        ``'mse'`` or ``'cross_entropy'``.

    References: as :func:`gle`.
    """
    if loss not in PULLS:
        raise ModelError(f"gle_output: no loss {loss!r}; there are {', '.join(PULLS)}")
    pull, answer = PULLS[loss]
    softmax = loss == "cross_entropy"
    return model(
        "gle_output",
        activation,
        errors,
        f"feedback = beta*teach*({pull}) : 1 \n answer : 1 \n teach : 1 \n target : 1" + "\n total : 1" * softmax,
        {"tau_m": tau_m, "tau_r": tau_r, "gamma": gamma, "beta": beta, "b": b},
        update=f"answer = {answer.format(rate=rate_of(activation, 'past'))}",
        initial={"total": 1.0} if softmax else {},
    )


def model(name, activation, errors, lines, parameters, *, mismatch=None, update="", initial=None):
    """The equations that both have in common, with the ``lines`` that say what ``feedback`` is."""
    if errors not in ERRORS:
        raise ModelError(f"{name}: no errors {errors!r}; there are {', '.join(ERRORS)}")
    error = Mismatch("delta")
    return NeuronModel(
        name=name,
        equations=f"{EQUATIONS}{ERRORS[errors]} \n {lines} \n rate = {rate_of(activation, 'u_breve')} : 1",
        parameters=parameters,
        method="euler",
        update=f"slope = {slope_of(activation, 'past')}\n{update}",
        output="rate",
        receives="I",
        initial=initial or {},
        mismatch={"I": error, "b": error, "tau_m": Mismatch("-delta*(drive - u)/tau_m"), **(mismatch or {})},
        at_least_dt=("tau_m", "tau_r"),
        reference=REFERENCE,
    )
