"""What a neuron remembers of its own parameters: time constants, thresholds and adaptation learn as weights do.

With ``s' = F(s, p)``, ``x(s', p)`` and the jump ``R(s, p)`` of a spike, each neuron carries

.. math::  eps' = F_s eps + F_p,\\quad elig = psi (x_s eps' + x_p),\\quad eps = R_s eps' + z R_p + R_z\\, elig

forward in time: the derivation of :mod:`localplast.learning.eligibility`, with a parameter in place of a weight.
"""

from dataclasses import dataclass

import sympy

from localplast.equations.expressions import differentiate
from localplast.equations.language import symbol
from localplast.errors import NetworkError
from localplast.learning.eligibility import Coefficients, closure
from localplast.neuron.step import jacobian

__all__ = ["Sensitivity", "sensitivity"]

PSI, Z = symbol("psi"), symbol("z")


@dataclass(frozen=True)
class Sensitivity:
    """The traces of one parameter of a population, all per neuron.

    Attributes
    ----------
    before, after, before_reset : program
        As of :class:`~localplast.learning.eligibility.Eligibility`.
    program : program
        At the end of the step; it ends with ``elig_<parameter>``, and the traces of the coming step.
    """

    before: tuple
    after: tuple
    before_reset: tuple
    program: tuple


def sensitivity(net, name, parameter, *, keep=("adaptation",), wiped=True):
    """The :class:`Sensitivity` of population ``name`` to ``parameter``.

    Raises
    ------
    NetworkError
        A name that is no parameter of the population.
    """
    population = net.populations.get(name)
    if population is None or parameter not in population.values:
        have = sorted(f"{n}.{k}" for n, p in net.populations.items() for k in p.values)
        raise NetworkError(f"{name}.{parameter} is not a parameter of the network; it has {', '.join(have)}")
    return ParameterDerivation(population, parameter, frozenset(keep), wiped).result()


class ParameterDerivation(Coefficients):
    """The steps of :func:`sensitivity`."""

    def __init__(self, population, parameter, keep, wiped=True):
        super().__init__(population, keep, wiped)
        self.parameter = parameter

    def name(self, what, state=""):
        """``eps_tau_mem_v`` and so on: parameters of one population must not share traces."""
        return f"{what}_{self.parameter}{'_' * bool(state)}{state}"

    def partial(self, expression, where, of):
        """The derivative of ``expression`` by the parameter."""
        found = differentiate(expression, self.parameter)
        return self.coefficient(found, where, f"d_{of}_{self.parameter}") if found != 0 else sympy.Integer(0)

    def drives(self):
        """``F_p`` and ``R_p`` by state."""
        direct = jacobian(self.step, self.parameter)
        self.postsynaptic |= {symbol(name) for name, _ in direct.program}
        driven = {k: self.coefficient(e, "before", f"d_{k}_{self.parameter}") for (k, _), e in direct.entries.items()}
        jumps = {
            k: self.partial(e, "before_reset", f"reset_{k}")
            for block in ("reset", "adaptation")
            for k, e in getattr(self.step, block).items()
        }
        return direct.program, driven, {k: e for k, e in jumps.items() if e != 0}

    def result(self):
        update, spike = self.update_coefficients(), self.spike_coefficients()
        program, driven, jumped = self.drives()
        moved, kicked = self.jump_coefficients() if self.model.spiking else ({}, {})
        kicked = {k: e for k, e in kicked.items() if e != 0}
        links = {(m, k) for k, m in update} | {(m, k) for k, m in moved} | {(m, k) for k in kicked for m in spike}
        start = set(driven) | set(jumped) | (set(kicked) if self.direct() != 0 else set())
        alive = closure(start, links)
        parts = [k for k in self.step.state if k in alive]
        eps = {k: symbol(self.name("eps", k)) for k in parts}
        primed = {k: symbol(self.name("primed", k)) for k in parts}
        lines = [
            (
                self.name("primed", k),
                driven.get(k, 0) + sympy.Add(*[update[k, m] * eps[m] for m in parts if (k, m) in update]),
            )
            for k in parts
        ]
        lines.append((self.name("elig"), self.value(spike, primed)))
        for k in parts:
            after = primed[k] + sympy.Add(*[moved[k, m] * primed[m] for m in parts if (k, m) in moved])
            lines.append(
                (self.name("eps", k), after + Z * jumped.get(k, 0) + kicked.get(k, 0) * symbol(self.name("elig")))
            )
        return Sensitivity(
            before=self.program("before", needed_once(self.jacobian_program, program)),
            after=self.surrogate() + self.program("after"),
            before_reset=self.program("before_reset"),
            program=tuple(lines),
        )

    def direct(self):
        """``x_p``, or ``dy/dp`` of a readout: the parameter in the spike argument, or in the output, itself."""
        return differentiate(self.step.spike_argument if self.model.spiking else self.step.output, self.parameter)

    def value(self, spike, primed):
        """The eligibility."""
        if self.model.spiking:
            direct = self.partial(self.step.spike_argument, "after", "x")
            return PSI * (direct + sympy.Add(*[spike[k] * primed[k] for k in primed if k in spike]))
        direct = self.partial(self.step.output, self.sends, "output")
        return direct + sympy.Add(*[e * primed[k] for k, e in self.sent_coefficients().items() if k in primed])


def needed_once(*programs):
    """Several programs as one, each name once."""
    return tuple(dict(line for program in programs for line in program).items())
