"""What can be added to a compartment: synapses, dendritic spikes and plateaus, calcium, noise.

A :class:`Channel` is ordinary Brian2 text in short names. Placed in a compartment, each of them gets the channel's
and the compartment's name: the ``s`` of ``ampa`` in ``basal`` is ``s_ampa_basal``, its ``g`` is ``g_ampa_basal``.
"""

import re
from dataclasses import dataclass, field

import numpy as np
from brian2.equations import Equations
from brian2.equations.equations import EquationError
from brian2.units.allunits import amp, farad, second, siemens
from brian2.units.fundamentalunits import Quantity, get_dimensions
from brian2.units.stdunits import mV

from localplast.equations.bounded import check_written
from localplast.equations.units import unscaled
from localplast.errors import ModelError
from localplast.names import check_name

__all__ = [
    "HIPPOCAMPAL",
    "JAHR_STEVENS",
    "NMDA_GATE",
    "Channel",
    "adaptation",
    "ampa",
    "bap",
    "calcium",
    "gaba",
    "na_spike",
    "nmda",
    "noise",
    "plateau",
]

#: How far the magnesium has left the NMDA channel, 0 to 1, in the compartment's ``v``.
NMDA_GATE = "1/(1 + Mg/beta*exp(-alpha*(v + gamma)))"
#: The gate used where nothing else is said; it has a plateau. Pagkalos et al. 2023, Nat Commun 14:131 (CA1 cell).
HIPPOCAMPAL = {"alpha": 0.087 / mV, "beta": 3.57, "gamma": 10 * mV}
#: The gate of Jahr & Stevens 1990, J Neurosci 10:3178; too shallow for a plateau at a resting potential of -70 mV.
JAHR_STEVENS = {"alpha": 0.062 / mV, "beta": 3.57, "gamma": 0 * mV}


@dataclass(frozen=True, eq=False)
class Channel:
    """Brian2 text in short names, to be placed in a compartment.

    Parameters
    ----------
    name : str
        Joins the name of every variable and parameter.
    equations : str
        Brian2 equations. ``v`` is the compartment's membrane potential; ``I : amp``, if defined, flows into the
        compartment (positive: depolarising); ``xi`` is white noise of its own. A line such as ``g : siemens`` gives a
        parameter its unit.
    parameters : mapping of str to Quantity or float
        Each with its unit line in ``equations``.

    Other arguments
    ---------------
    update : str
        A discrete map, run once per step after the integration.
    adaptation : str
        Statements run where the neuron spikes.
    initial : mapping
        Values at the start of a trial; 0 where absent.
    """

    name: str
    equations: str
    parameters: dict = field(default_factory=dict)
    update: str = ""
    adaptation: str = ""
    initial: dict = field(default_factory=dict)

    def placed(self, compartment: str) -> "Piece":
        """What it is in ``compartment``: a :class:`Piece` in full names.

        Raises
        ------
        ModelError
            A wrong unit or sign, a parameter without a unit line, equations that do not parse.
        """
        check_name("a channel", self.name, ModelError, where=f"compartment {compartment!r}")
        where = f"compartment {compartment!r}, channel {self.name!r}"
        declared = check_piece(where, self.equations, self.parameters)
        full = {name: f"{name}_{self.name}_{compartment}" for name in {*declared, "xi"}}
        return Piece(
            where=where,
            equations=renamed(without(self.equations, self.parameters), full | {"v": f"v_{compartment}"}),
            parameters={full[k]: value for k, value in self.parameters.items()},
            update=renamed(self.update, full | {"v": f"v_{compartment}"}),
            adaptation=renamed(self.adaptation, full | {"v": f"v_{compartment}"}),
            initial={full[k]: value for k, value in self.initial.items()},
            current=full.get("I"),
        )


@dataclass(frozen=True)
class Piece:
    """A part of a cell in full names. ``where`` says in errors what it is, ``current`` names what flows into the
    compartment.
    """

    where: str
    equations: str = ""
    parameters: dict = field(default_factory=dict)
    update: str = ""
    adaptation: str = ""
    initial: dict = field(default_factory=dict)
    current: str | None = None


def renamed(text, names):
    """``text`` with each of ``names`` replaced by its value, also in ``d<name>/dt``."""
    words = "|".join(map(re.escape, names))
    return re.sub(rf"\b(d(?=\w+/dt\b))?({words})\b", lambda found: (found[1] or "") + names[found[2]], text)


def without(equations, parameters):
    """The lines of ``equations`` that are not the unit line of a parameter."""
    lines = [line.strip() for line in equations.splitlines()]
    return "\n".join(line for line in lines if line and line.split(":")[0].strip() not in parameters)


def check_piece(where, equations, parameters):
    """Raise a :class:`ModelError` where ``parameters`` do not fit ``equations``; return what the latter define."""
    try:
        check_written(equations)
        parsed = Equations(equations)
    except (EquationError, SyntaxError, ValueError, TypeError) as error:
        raise ModelError(f"{where}: the equations do not parse: {error}") from None
    for name, value in parameters.items():
        if name not in parsed:
            raise ModelError(
                f"{where}: the parameter {name!r} has no unit; add a line to the equations: '{name} : siemens'"
            )
        check_value(where, name, value, parsed[name].dim)
    return parsed.names


def check_value(where, name, value, dimensions):
    """Raise a :class:`ModelError` unless ``value`` has these dimensions, and a sign that its unit allows."""
    if get_dimensions(value) != dimensions:
        needed = KINDS.get(dimensions, f"the unit {unscaled(dimensions)!r}")
        raise ModelError(f"{where}: {name} = {value} has the wrong unit; it needs {needed}")
    if dimensions == siemens.dim and name.startswith("g") and np.any(np.asarray(value) < 0):
        raise ModelError(
            f"{where}: the conductance {name} = {value} is negative; the reversal potential gives a current its sign"
        )
    if (dimensions == farad.dim or name.startswith("tau")) and not np.all(np.asarray(value) > 0):
        raise ModelError(f"{where}: {name} = {value} is not positive")


KINDS = {
    siemens.dim: "a conductance, such as 2*nS",
    farad.dim: "a capacitance, such as 50*pF",
    second.dim: "a time, such as 5*ms",
    amp.dim: "a current, such as 100*pA",
}


# ---------------------------------------------------------------------------------------------- synapses


def ampa(
    *, g: Quantity, tau: Quantity, rise: Quantity | None = None, E: Quantity = 0 * mV, name: str = "ampa"
) -> Channel:
    """``I = g*s*(E - v)``: a spike adds its weight (a number of synapses) to ``s``, which decays with ``tau``.

    With ``rise``, ``I = g*open*(E - v)``, where ``open`` follows ``s`` and peaks at 1 after a spike of weight 1, so
    that ``g`` is the peak conductance: ``open(t) = peak*tau/(tau - rise)*(exp(-t/tau) - exp(-t/rise))`` with
    ``peak = (tau/rise)**(rise/(tau - rise))``; where both are equal the alpha function ``e*t/tau*exp(-t/tau)``.

    =========== ============================================ =========
    parameter   meaning                                      unit
    =========== ============================================ =========
    g           conductance of one synapse                   siemens
    tau         decay                                        second
    rise        rise; None: instantaneous                    second
    E           reversal potential                           volt
    =========== ============================================ =========

    Projections land on ``s_ampa_<compartment>``.
    """
    return synapse(name, "", {"g": g, "E": E}, tau, rise)


def gaba(
    *, g: Quantity, tau: Quantity, rise: Quantity | None = None, E: Quantity = -80 * mV, name: str = "gaba"
) -> Channel:
    """As :func:`ampa`, with the reversal potential of inhibition. Projections land on ``s_gaba_<compartment>``."""
    return synapse(name, "", {"g": g, "E": E}, tau, rise)


def nmda(
    *,
    g: Quantity,
    tau: Quantity,
    rise: Quantity | None = None,
    E: Quantity = 0 * mV,
    Mg: float = 1.0,
    alpha: Quantity = HIPPOCAMPAL["alpha"],
    beta: float = HIPPOCAMPAL["beta"],
    gamma: Quantity = HIPPOCAMPAL["gamma"],
    name: str = "nmda",
) -> Channel:
    """As :func:`ampa`, with a magnesium block: ``I = g*s*B*(E - v)``, ``B = 1/(1 + Mg/beta*exp(-alpha*(v + gamma)))``.

    =========== ======================================= =========
    parameter   meaning                                 unit
    =========== ======================================= =========
    Mg          magnesium, over 1 mM                    1
    alpha       steepness of the gate                   1/volt
    beta        block at ``v = -gamma``, over Mg        1
    gamma       shift of the gate                       volt
    =========== ======================================= =========

    The default gate (:data:`HIPPOCAMPAL`) has a plateau: above a number of synapses the branch stays depolarised for
    as long as they are open. ``nmda(..., **JAHR_STEVENS)`` has none. Projections land on ``s_nmda_<compartment>``.
    """
    gate = f"B = {NMDA_GATE} : 1\nMg : 1\nalpha : 1/volt\nbeta : 1\ngamma : volt\n"
    return synapse(name, gate, {"g": g, "E": E, "Mg": Mg, "alpha": alpha, "beta": beta, "gamma": gamma}, tau, rise)


def synapse(name: str, gate: str, parameters: dict, tau: Quantity, rise: Quantity | None) -> Channel:
    """A conductance that spikes open, through ``gate`` (text that defines ``B``) if there is one."""
    parameters = {**parameters, "tau": tau}
    # (tau/tau_rise)**(tau_rise/(tau - tau_rise)) and its limit; of a plain exprel(log(x)) Brian2 makes (x - 1)/log(x)
    peak = "exp(1/exprel(clip(log(tau/tau_rise), -100, 100)))"
    kinetics, opened = "ds/dt = -s/tau : 1", "s"
    if rise is not None:
        parameters["tau_rise"], opened = rise, "open"
        kinetics = f"""
            ds/dt = -s/tau_rise : 1
            dopen/dt = peak*s/tau_rise - open/tau : 1
            peak = {peak} : 1
            tau_rise : second
        """
    current = f"I = g*{opened}{'*B' if gate else ''}*(E - v) : amp"
    return Channel(name, f"{current}\n{kinetics}\n{gate}g : siemens\nE : volt\ntau : second", parameters)


# ---------------------------------------------------------------------------------------------- events with a timer

#: Time since the last event. It starts anew where the membrane is above theta and the last event long enough ago. Half
#: a step of margin: rounding must not move an edge.
TIMER = "age = (age + dt)*int(not (v > theta and age + dt >= tau_ref - 0.5*dt))"


def na_spike(
    *,
    g_rise: Quantity,
    g_fall: Quantity,
    E_rise: Quantity = 50 * mV,
    E_fall: Quantity = -90 * mV,
    theta: Quantity,
    rise: Quantity,
    fall: Quantity,
    pause: Quantity,
    tau_ref: Quantity,
    name: str = "na",
) -> Channel:
    """A dendritic sodium spike: where ``v > theta``, a square pulse of ``g_rise``, a pause, a square pulse of
    ``g_fall``.

    =============== ==================================== =========
    parameter       meaning                              unit
    =============== ==================================== =========
    g_rise, g_fall  conductances of the pulses           siemens
    E_rise, E_fall  what they pull to                    volt
    theta           threshold of the event               volt
    rise, fall      lengths of the pulses                second
    pause           from the first pulse to the second   second
    tau_ref         shortest time between two events     second
    =============== ==================================== =========

    The event acts from the step after. ``int(condition)`` has no derivative: what a spike of this kind does to the
    membrane is seen by BPTT, what makes it happen is not. After Pagkalos et al. 2023, Nat Commun 14:131 (Dendrify).
    """
    return Channel(
        name,
        """
            I = g_rise*rising*(E_rise - v) + g_fall*falling*(E_fall - v) : amp
            rising = int(age < rise - 0.5*dt) : 1
            falling = int(age >= rise + pause - 0.5*dt)*int(age < rise + pause + fall - 0.5*dt) : 1
            age : second
            g_rise : siemens
            g_fall : siemens
            E_rise : volt
            E_fall : volt
            theta : volt
            rise : second
            fall : second
            pause : second
            tau_ref : second
        """,
        {
            "g_rise": g_rise,
            "g_fall": g_fall,
            "E_rise": E_rise,
            "E_fall": E_fall,
            "theta": theta,
            "rise": rise,
            "fall": fall,
            "pause": pause,
            "tau_ref": tau_ref,
        },
        update=TIMER,
        initial={"age": 1 * second},
    )


def plateau(
    *, g: Quantity, E: Quantity, theta: Quantity, duration: Quantity, tau_ref: Quantity, name: str = "plateau"
) -> Channel:
    """A plateau of fixed length: where ``v > theta``, ``g`` pulls to ``E`` for ``duration``, whatever started it.

    =========== ========================================================= =========
    parameter   meaning                                                   unit
    =========== ========================================================= =========
    g           conductance of the plateau                                siemens
    E           what it pulls to                                          volt
    theta       threshold of the event                                    volt
    duration    length                                                    second
    tau_ref     shortest time between two events, more than ``duration``  second
    =========== ========================================================= =========

    The threshold crossing starts a timer, as in the multi-compartment neurons of BrainScaleS: Schemmel, Kriener,
    Mueller & Meier 2017, IJCNN, arXiv:1703.07286. As with :func:`na_spike`, the event itself has no derivative.
    """
    if not float(tau_ref) > float(duration):
        raise ModelError(
            f"channel {name!r}: tau_ref = {tau_ref} is not longer than the plateau of {duration}, which would renew "
            "itself"
        )
    return Channel(
        name,
        """
            I = g*int(age < duration - 0.5*dt)*(E - v) : amp
            age : second
            g : siemens
            E : volt
            theta : volt
            duration : second
            tau_ref : second
        """,
        {"g": g, "E": E, "theta": theta, "duration": duration, "tau_ref": tau_ref},
        update=TIMER,
        initial={"age": 1 * second},
    )


def bap(*, I: Quantity, delay: Quantity, duration: Quantity, name: str = "bap") -> Channel:
    """The back-propagating action potential: a box of current ``I``, ``delay`` after a somatic spike, ``duration``
    long.

    The box covers the steps at ``delay <= t - t_spike < delay + duration``, both edges rounded to steps. Naud &
    Sprekeler 2018, PNAS 115:E6329.
    """
    return Channel(
        name,
        """
            I = size*int(age >= delay - 0.5*dt)*int(age < delay + duration - 0.5*dt) : amp
            age : second
            size : amp
            delay : second
            duration : second
        """,
        {"size": I, "delay": delay, "duration": duration},
        update="age = age + dt",
        adaptation="age = dt",  # what the next step reads: it is one step after the spike
        initial={"age": 1 * second},
    )


# ---------------------------------------------------------------------------------------------- slow currents and noise


def calcium(
    *, I: Quantity, half: Quantity, slope: Quantity, a: Quantity, tau: Quantity, E: Quantity, name: str = "ca"
) -> Channel:
    """Regenerative activation ``f = 1/(1 + exp((half - v)/slope))`` with adaptation: the current is ``I*f + w``.

    =========== ========================================= =========
    parameter   meaning                                   unit
    =========== ========================================= =========
    I           current at full activation                amp
    half        membrane of half activation               volt
    slope       width of the activation                   volt
    a           adaptation per depolarisation, negative   siemens
    tau         time constant of the adaptation           second
    E           membrane without adaptation               volt
    =========== ========================================= =========

    ``tau dw/dt = a*(v - E) - w``. Other compartments may be driven by ``f``
    (:func:`~localplast.neuron.compartments.active_coupling`). Naud & Sprekeler 2018, PNAS 115:E6329.
    """
    return Channel(
        name,
        """
            I = size*f + w : amp
            f = 1/(1 + exp((half - v)/slope)) : 1
            dw/dt = (a*(v - E) - w)/tau : amp
            size : amp
            half : volt
            slope : volt
            a : siemens
            tau : second
            E : volt
        """,
        {"size": I, "half": half, "slope": slope, "a": a, "tau": tau, "E": E},
    )


def adaptation(*, b: Quantity, tau: Quantity, name: str = "adaptation") -> Channel:
    """A current that every somatic spike moves by ``b`` (negative: hyperpolarising), and that decays with ``tau``."""
    return Channel(name, "dI/dt = -I/tau : amp\nb : amp\ntau : second", {"b": b, "tau": tau}, adaptation="I += b")


def noise(*, sigma: Quantity, tau: Quantity, mean: Quantity = 0 * amp, name: str = "noise") -> Channel:
    """An Ornstein-Uhlenbeck current of standard deviation ``sigma`` and correlation time ``tau``; each backend draws
    its own.
    """
    return Channel(
        name,
        "dI/dt = (mean - I)/tau + sigma*sqrt(2/tau)*xi : amp\nmean : amp\nsigma : amp\ntau : second",
        {"mean": mean, "sigma": sigma, "tau": tau},
    )
