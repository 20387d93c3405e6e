"""Latent equilibrium: prospective rate neurons that hold their own error, in a network that answers and learns
without phases.

Haider et al. 2021, NeurIPS, arXiv:2110.14549. Potentials and rates are numbers without unit. The authors state that
procedures described there are registered for patent protection: see docs/prospective.md.
"""

from typing import Literal

from brian2 import ms
from brian2.units.fundamentalunits import Quantity

from localplast.errors import ModelError
from localplast.models.prospective import Activation, rate_of, slope_of
from localplast.neuron import Mismatch, NeuronModel

__all__ = ["latent_equilibrium", "latent_equilibrium_output"]

REFERENCE = "Haider et al. 2021, NeurIPS, arXiv:2110.14549"

#: Prospective or not: the potential that counts, and by how much it is not what the layer below makes of it.
FORMS = {True: ("drive", "slope*feedback"), False: ("u", "u - I - b")}

#: What a teacher sets: the slope that its error passes, and what it compares with its target, of the ``past``
#: potential.
TARGETS = {"rate": (slope_of, rate_of), "voltage": (lambda *_: "1", lambda _, past: past)}


def latent_equilibrium(
    *,
    prospective: bool = True,
    activation: Activation = "logistic",
    feedback: Literal["kolen_pollack", "weight_mirror"] = "kolen_pollack",
    tau: Quantity = 10 * ms,
    b: float = 0.0,
) -> NeuronModel:
    """A hidden neuron: ``tau du/dt = -u + I + b + slope*feedback``, with the rate ``phi(u_breve)`` of what it is on
    the way to.

    ``u_breve = u + tau du/dt = I + b + slope*feedback``, for any ``tau``: a network of such neurons settles in a step
    per layer. Graded projections set ``I``, from the rates of the layer below, and ``feedback``, from ``delta`` of
    the layer above, through its weights transposed. ``delta = u_breve - I - b`` is the neuron's own error; weights
    onto ``I`` and the bias learn from it. ``slope = phi'(u_breve)`` is of the moment that the feedback came from.

    =========== ================================== ==========
    parameter   meaning                            unit
    =========== ================================== ==========
    tau         membrane time constant, ≥ dt       second
    b           bias, may learn                    1
    =========== ================================== ==========

    Other arguments
    ---------------
    prospective : bool
        Else ``u`` is in the place of ``u_breve`` everywhere: rates and errors lag by ``tau`` in every layer.
    activation : str
        ``phi``, one of :data:`~localplast.models.prospective.ACTIVATIONS`.
    feedback : str
        How weights onto ``feedback`` learn, if they do. ``'kolen_pollack'``: from the product that moves the weights
        of the layer above (Kolen & Pollack 1994; let both decay). ``'weight_mirror'``: the neuron emits
        ``phi(u_breve + noise)``, and they find the noise again in the rates above (Akrout et al. 2019, NeurIPS 32).
        It is white, with the standard deviation ``sigma``, where its time constant ``tau_noise`` is the time step.

    Haider et al. 2021, eqs. 2-7.
    """
    learning = {
        "kolen_pollack": Mismatch(rate_of(activation, "past" if prospective else "u"), pre="delta"),
        "weight_mirror": Mismatch("emitted", pre="rate"),
    }
    if feedback not in learning:
        raise ModelError(
            f"latent_equilibrium: feedback={feedback!r} does not say how to learn; there are {', '.join(learning)}"
        )
    noise, sent, noise_parameters = emission() if feedback == "weight_mirror" else ("", "u_breve", {})
    return prospective_neuron(
        "latent_equilibrium",
        prospective,
        f"""
            rate = {rate_of(activation, sent)} : 1
            feedback : 1
            {noise}
        """,
        update=f"slope = {slope_of(activation, 'past')}",
        parameters={"tau": tau, "b": b, **noise_parameters},
        mismatch={"feedback": learning[feedback]},
    )


def latent_equilibrium_output(
    *,
    prospective: bool = True,
    activation: Activation = "linear",
    target: Literal["rate", "voltage"] = "rate",
    tau: Quantity = 10 * ms,
    b: float = 0.0,
    beta: float = 0.1,
) -> NeuronModel:
    """An output neuron: as a hidden one, with the error of a teacher in the place of feedback.

    ``feedback = beta*teach*(target - phi(u_breve))``; graded projections from inputs set ``teach``, 1 where the
    teacher speaks and 0 where it is silent, and ``target``.

    =========== ================================== ==========
    parameter   meaning                            unit
    =========== ================================== ==========
    tau         membrane time constant, ≥ dt       second
    b           bias, may learn                    1
    beta        how strongly the teacher nudges    1
    =========== ================================== ==========

    Other arguments
    ---------------
    target : str
        ``'rate'``: the target of the rate, with the error ``slope*feedback``. ``'voltage'``: of the potential;
        ``feedback = beta*teach*(target - u_breve)`` is the error.

    All others, references: as :func:`latent_equilibrium`.
    """
    if target not in TARGETS:
        raise ModelError(f"latent_equilibrium_output: no target {target!r}; there are {', '.join(TARGETS)}")
    slope, answer = (text(activation, "past") for text in TARGETS[target])
    return prospective_neuron(
        "latent_equilibrium_output",
        prospective,
        f"""
            rate = {rate_of(activation, "u_breve")} : 1
            feedback = beta*teach*(target - answer) : 1
            answer : 1
            teach : 1
            target : 1
        """,
        update=f"slope = {slope}; answer = {answer}",
        parameters={"tau": tau, "b": b, "beta": beta},
        mismatch={},
    )


def prospective_neuron(name, prospective, equations, *, update, parameters, mismatch):
    """What hidden and output neurons have in common, and ``equations`` that they have not."""
    potential, error = FORMS[bool(prospective)]
    return NeuronModel(
        name=name,
        equations=f"""
            du/dt = (drive - u)/tau : 1
            drive = I + b + slope*feedback : 1
            u_breve = {potential} : 1
            past = u_breve : 1 (constant over dt)
            delta = {error} : 1
            slope : 1
            I : 1
            {equations.strip()}
        """,
        parameters=parameters,
        method="euler",
        update=update,
        output="rate",
        receives="I",
        mismatch={"I": Mismatch("delta"), "b": Mismatch("delta"), **mismatch},
        at_least_dt=tuple(name for name in parameters if name.startswith("tau")),
        reference=REFERENCE,
    )


def emission():
    """Equations of noise, which is ``emitted`` a step later; the potential that is sent with it; its parameters."""
    equations = """dnoise/dt = -noise/tau_noise + sigma*xi/sqrt(tau_noise) : 1
            emitted = noise : 1 (constant over dt)"""
    return equations, "u_breve + noise", {"sigma": 0.1, "tau_noise": 1 * ms}
