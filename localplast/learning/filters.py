"""Filters of the eligibility: what is smoothed at the synapse, so that it meets the learning signal at the right
time.
"""

from dataclasses import dataclass

import numpy as np
import sympy

from localplast.equations.expressions import differentiate
from localplast.equations.language import symbol
from localplast.errors import UnsupportedError
from localplast.learning.arrival import acts_late
from localplast.learning.eligibility import closure
from localplast.neuron.decay import check_decays, per_step
from localplast.neuron.step import jacobian, lower

__all__ = ["AsReadout", "Immediate", "LowPass", "Smoothing"]

ELIG = symbol("elig")


@dataclass(frozen=True)
class Smoothing:
    """A filter of ``elig`` as a program.

    Attributes
    ----------
    program : tuple of (str, sympy expression)
        Per synapse and step, after ``elig`` is known.
    state : tuple of str
        What a synapse stores.
    trace : sympy expression
        What the learning signal is multiplied with.
    """

    program: tuple
    state: tuple
    trace: object


@dataclass(frozen=True)
class AsReadout:
    """The synapse remembers a spike as the readout does: ``trace = dy(t)/dspike * elig``, filtered through the readout.

    Derived from the readout's own step, whatever its equations: for a leaky readout ``trace <- kappa*trace + elig``
    (Bellec et al. 2020, Nat Commun 11:3625, eq. 4); for one that follows the van Rossum distance the double exponential
    of SuperSpike (Zenke & Ganguli 2018, Neural Comput 30:1514).
    """

    def of(self, net, readout, path=None):
        """The :class:`Smoothing` of spikes that reach ``readout`` by the projection ``path`` (None: as if by its
        inlet).
        """
        entries, output, landing = response(net, readout, path)
        reached = closure(set(landing), {(m, k) for k, m in entries})
        alive = [k for k in output if k in reached]
        stored = [k for k in alive if any((m, k) in entries for m in alive)]
        old = {k: symbol(f"filtered_{k}") if k in stored else sympy.Integer(0) for k in alive}
        faded = {k: sympy.Add(*[entries[k, m] * old[m] for m in alive if (k, m) in entries]) for k in alive}
        faded = {k: e for k, e in faded.items() if e != 0}
        new = {k: (symbol(f"faded_{k}") if k in faded else 0) + landing.get(k, 0) * ELIG for k in alive}
        program = [*((f"faded_{k}", e) for k, e in faded.items()), *((f"filtered_{k}", new[k]) for k in stored)]
        trace = sympy.Add(*[output[k] * (old[k] if k in stored else new[k]) for k in alive])
        return Smoothing(tuple(program), tuple(f"filtered_{k}" for k in stored), trace)


@dataclass(frozen=True)
class Immediate:
    """No filter: ``trace = dy/dspike * elig``; what the readout remembers of earlier spikes is left out."""

    def of(self, net, readout, path=None):
        """The :class:`Smoothing`; arguments as for :class:`AsReadout`."""
        return Smoothing((), (), slope(net, readout, path) * ELIG)


@dataclass(frozen=True)
class LowPass:
    """The synapse smooths as it likes: ``filtered <- kappa*filtered + elig``, ``trace = dy/dspike * filtered``.

    With the factor of a leaky readout it is :class:`AsReadout`, with 0 :class:`Immediate`. NEST's ``eprop_synapse``
    has a ``kappa`` of its own, whatever its readout remembers.

    Parameters
    ----------
    kappa : float or Quantity
        A factor per step, or a time constant.
    """

    kappa: object

    def __post_init__(self):
        check_decays(kappa=self.kappa)

    def of(self, net, readout, path=None):
        """The :class:`Smoothing`; arguments as for :class:`AsReadout`."""
        filtered, kappa = symbol("filtered"), per_step(self.kappa, net.dt)
        return Smoothing((("filtered", kappa * filtered + ELIG),), ("filtered",), slope(net, readout, path) * filtered)


def slope(net, readout, path):
    """How a spike moves the output of ``readout`` in its own step.

    Raises
    ------
    UnsupportedError
        It moves it later.
    """
    _, output, landing = response(net, readout, path)
    found = sympy.Add(*[output[k] * share for k, share in landing.items()])
    if found == 0:
        raise UnsupportedError(
            f"population {readout!r}: a spike shows in the output of {net.nodes[readout].model.name} later than in its "
            "own step, so a rule without a filter like it would learn nothing; use leaky_readout(), or a rule that "
            "filters so, such as eprop()"
        )
    return found


def response(net, readout, path):
    """How the readout's output follows a spike: Jacobian entries of its step, slopes of its output, and what of the
    spike its variables hold when it shows (:func:`~localplast.learning.arrival.steps_to_show`).

    Raises
    ------
    UnsupportedError
        A response that is not linear and the same for all outputs.
    """
    population = net.nodes[readout]
    step = lower(population.model)
    if path is not None and (np.any(net.delay_steps(path) > 0) or path.delay is not None and path.delay.trainable):
        raise UnsupportedError(
            f"projection {path.name!r}: a delayed path to the readout would need a delayed eligibility; remove the "
            "delay"
        )
    target = path.target if path is not None else population.model.receives
    numbers = {symbol(n): float(v) for n, v in population.values.items() if not np.ndim(v)} | {
        symbol("dt"): float(net.dt)
    }
    entries = {pair: e.subs(numbers) for pair, e in jacobian(step).entries.items()}
    output = {k: differentiate(step.output, k).subs(numbers) for k in (*step.state, *step.inputs)}
    varying = {symbol(n) for n in step.state + step.inputs} | {
        symbol(n) for n, v in population.values.items() if np.ndim(v)
    }
    units = {population.model.dimensions[k] for k in step.state}
    if (
        any(e.free_symbols & varying for e in [*entries.values(), *output.values()])
        or jacobian(step).program
        or len(units) > 1
    ):
        raise UnsupportedError(
            f"population {readout!r}: its response to a spike differs between its neurons, with time or in unit "
            f"({population.model.name}); local rules filter eligibilities with a linear readout, the same for all "
            "outputs"
        )
    if not acts_late(population.model, target):
        return entries, output, {target: sympy.Integer(1)}
    return entries, output, {k: e for (k, source), e in entries.items() if source == target}
