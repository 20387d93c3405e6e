"""Eligibility traces, derived: how a weight has moved the state of the neuron it ends on, with local terms only.

With ``s' = F(s)`` the update, ``x(s')`` the spike argument, ``arrived`` what the synapse delivers and ``R`` the jump
after a spike, the state of a synapse obeys, step by step,

.. math::  eps' = F_s eps,\\quad elig = psi\\, x_s eps',\\quad eps = R_s (eps' + arrived) + R_z\\, elig

which is the derivative of the neuron's own step (Bellec et al. 2020, Nat Commun 11:3625, eqs. 13-15, for any neuron).
``R_z`` is kept for the edges in ``keep`` only. A component of eps whose coefficients contain no postsynaptic variable
is the same for all targets of a presynaptic neuron: it is *hoisted*, and stored once per presynaptic neuron.
"""

from dataclasses import dataclass

import numpy as np
import sympy

from localplast.equations.expressions import differentiate
from localplast.equations.language import Draw, int_, symbol
from localplast.equations.slopes import jump
from localplast.errors import UnsupportedError
from localplast.neuron.step import NOISE, jacobian, lower, prospective

__all__ = ["Coefficients", "Derived", "Eligibility", "check_certain", "check_clamped", "closure", "credit", "derive"]

ARRIVED, PSI, Z = symbol("arrived"), symbol("psi"), symbol("z")


@dataclass(frozen=True)
class Eligibility:
    """The traces of one projection, as programs. Every program is a tuple of ``(name, sympy expression)``.

    Attributes
    ----------
    before : program
        Per postsynaptic neuron, on the state before the update: coefficients that change.
    after : program
        Per postsynaptic neuron, on the state after the update and before the reset.
    before_reset : program
        Per postsynaptic neuron, after transmission: jumps that depend on the state, slopes of an output that depends on
        what has arrived.
    pre : program
        Hoisted traces, per presynaptic neuron: run between two steps, it takes ``arrived`` in and propagates.
        ``eps_k`` is then eps' of the coming step and ``last_eps_k`` is eps of the past one.
    synapse : program
        Per synapse: the remaining traces, in the order of computation.
    state : tuple of str
        The traces that each synapse stores.
    value : sympy expression
        The eligibility, in terms of ``eps_*``, psi and the programs' names.
    arrives : str
        ``'pre'`` if ``arrived`` is one number per presynaptic neuron, else ``'synapse'``.
    end : program
        Per postsynaptic neuron, at the end of the step: what it predicts, and its mismatch.
    source : str, optional
        The variable of the presynaptic neuron that ``arrived`` is, where it is not what the projection carries.
    """

    before: tuple
    after: tuple
    before_reset: tuple
    pre: tuple
    synapse: tuple
    state: tuple
    value: object
    arrives: str
    end: tuple = ()
    source: str | None = None


@dataclass(frozen=True)
class Derived:
    """The eligibility that follows from the neuron's equations.

    Parameters
    ----------
    reset, adaptation : bool
        Whether the neuron's own spike moves its traces through its reset and its adaptation.
    wiped : bool
        Whether a reset to a value (``v = v_reset``) ends the traces of what it overwrites, as the derivative of the
        step says. False: they go on through it, as through one that subtracts (NEST, ``eprop_iaf_psc_delta``).
    memory : bool
        Whether the neuron's leak is followed over time. False: only what has arrived in the past step counts
        (Meng et al. 2023, ICCV, SLTT).
    free : bool
        Follow the neuron as if it never spiked: what its spikes do to itself, refractoriness included, is left out,
        and psi is read off the membrane at all times. The trace of a linear neuron is then the postsynaptic potential
        of a unit weight, the same for all targets (Zenke & Ganguli 2018, Neural Comput 30:1514, SuperSpike).
    """

    reset: bool = False
    adaptation: bool = True
    memory: bool = True
    free: bool = False
    wiped: bool = True

    @property
    def keep(self):
        """Edges of a neuron's own spike that the eligibility follows."""
        return frozenset(name for name in ("reset", "adaptation") if getattr(self, name))

    def of(self, net, projection):
        """The :class:`Eligibility` of one projection."""
        return derive(net, projection, keep=self.keep, memory=self.memory, free=self.free, wiped=self.wiped)


def derive(net, projection, *, keep=("adaptation",), memory=True, free=False, wiped=True):
    """The :class:`Eligibility` of ``projection`` in ``net``.

    Parameters
    ----------
    keep : set of str
        Of ``'reset'`` and ``'adaptation'``: through which the neuron's own spike moves its traces.
    memory : bool
        Whether eps lasts longer than one step.
    free : bool
        Whether what the neuron's spikes do to itself is left out altogether.
    wiped : bool
        Whether a reset ends the traces of what it overwrites.

    Raises
    ------
    UnsupportedError
        An equation that has no derivative.
    """
    model = net.nodes[projection.post].model
    if not free:
        check_clamped(model, projection)
    if model.spiking and lower(model).psi is None:
        raise UnsupportedError(
            f"population {projection.post!r}: {model.name} spikes but has no surrogate, so projection "
            f"{projection.name!r} cannot learn; give the model surrogate=triangle() or another one of "
            "localplast.surrogate, or the projection plastic=False"
        )
    return Derivation(net, projection, frozenset(keep), memory, free, wiped).result()


def check_clamped(model, projection):
    """Raise where a weight does not always do the same to its target."""
    if projection.target in model.clamped:
        raise UnsupportedError(
            f"projection {projection.name!r}: {projection.target!r} of {model.name} is clamped while the neuron is "
            "refractory, and so is what a weight does to it; let spikes land on a synaptic current, or drop '(unless "
            "refractory)'"
        )


def check_additive(model, expressions):
    """Raise where derivatives depend on random numbers, which no synapse sees."""
    if any(e.has(Draw) or any(s.name.startswith(NOISE) for s in e.free_symbols) for e in expressions):
        raise UnsupportedError(
            f"{model.name}: its noise multiplies its state, and local rules follow additive noise only; use bptt()"
        )


def check_certain(name, model):
    """Raise where a rule reads what would be another random number each time that it is read."""
    step = lower(model)
    for where, e in (("threshold", step.spike_argument), ("surrogate", step.psi), ("output", step.output)):
        if e is not None and e.has(Draw):
            raise UnsupportedError(
                f"population {name!r}: the {where} of {model.name} draws random numbers, others whenever it is read, "
                "and cannot be learned through; let the update draw them into a variable, or add noise (xi) to an "
                "equation"
            )


class Coefficients:
    """Derivatives of one population's own step, each taken at its moment of the step.

    What is the same for all neurons stays an expression, the rest becomes a variable per neuron.
    """

    free = False

    def __init__(self, population, keep=frozenset(), wiped=True):
        self.population, self.keep, self.wiped = population, keep, wiped
        self.model, self.step = population.model, lower(population.model)
        self.postsynaptic = (
            {symbol(n) for n in self.step.state + self.step.inputs}
            | {symbol(n) for n, v in self.population.values.items() if np.ndim(v)}
            | {symbol("not_refractory"), PSI, Z}
        )
        self.named = {"before": {}, "after": {}, "before_reset": {}}

    def coefficient(self, expression, where, name):
        """``expression`` itself where it is the same for all neurons, else the name of a per-neuron variable."""
        check_additive(self.model, [expression])
        if not expression.free_symbols & self.postsynaptic:
            return expression
        others = {n for slot, named in self.named.items() if slot != where for n in named}
        while name in others or self.named[where].get(name, expression) != expression:
            name += "_"  # d_a_b_c: of a_b by c, or of a by b_c; d_jump_v: of a variable called jump, or of a jump
        self.named[where][name] = expression
        self.postsynaptic.add(symbol(name))
        return symbol(name)

    def update_coefficients(self):
        """``d updated[k] / d old[m]``."""
        result = jacobian(self.step)
        check_additive(self.model, [e for _, e in result.program])
        entries, self.jacobian_program = dict(result.entries), result.program
        if self.free:
            entries, self.jacobian_program = self.never_refractory(result)
        self.postsynaptic |= {symbol(name) for name, _ in self.jacobian_program}
        return {(k, m): self.coefficient(e, "before", f"d_{k}_{m}") for (k, m), e in entries.items()}

    def never_refractory(self, result):
        """Entries and program of a Jacobian where the neuron is never refractory; what is then constant is put in."""
        constants, program = {int_(symbol("not_refractory")): sympy.Integer(1)}, []
        varying = {symbol(n) for n in self.step.state + self.step.inputs}
        for name, expression in result.program:
            expression = expression.subs(constants)
            if expression.free_symbols & varying:
                varying.add(symbol(name))
                program.append((name, expression))
            else:
                constants[symbol(name)] = expression
        return {pair: e.subs(constants) for pair, e in result.entries.items()}, tuple(program)

    def spike_coefficients(self):
        """``d x / d state[k]``, and psi."""
        if not self.model.spiking:
            return {}
        argument = self.step.spike_argument
        if self.step.psi is None:
            raise UnsupportedError(
                f"{self.model.name} spikes but has no surrogate, so nothing can be learned through its spikes; "
                "give the model surrogate=triangle() or another one of localplast.surrogate"
            )
        partial = {k: differentiate(argument, k) for k in self.step.state}
        return {k: self.coefficient(e, "after", f"d_x_{k}") for k, e in partial.items() if e != 0}

    @property
    def sends(self):
        """When the slope of what is sent is known: after the update, or only after transmission where an output depends
        on what graded projections bring.
        """
        return "after" if self.model.spiking or not prospective(self.model, self.model.output) else "before_reset"

    def sent_coefficients(self):
        """``d x / d state[k]`` of what spikes, of other neurons ``d output / d state[k]``."""
        if self.model.spiking:
            return self.spike_coefficients()
        partial = {k: differentiate(self.step.output, k) for k in (*self.step.state, *self.step.inputs)}
        return {k: self.coefficient(e, self.sends, f"d_output_{k}") for k, e in partial.items() if e != 0}

    def jump_coefficients(self):
        """``R_s`` as ``{(k, l): expression}`` (entries that differ from the identity) and ``R_z`` as ``{k: ...}``."""
        moved, kicked = {}, {}
        for block in ("reset", "adaptation"):
            for k, expression in getattr(self.step, block).items():
                for m in self.step.state if self.wiped or block == "adaptation" else ():
                    difference = sympy.expand(differentiate(expression, m) - (1 if k == m else 0))
                    if difference != 0:
                        moved[k, m] = Z * self.coefficient(difference, "before_reset", f"d_reset_{k}_{m}")
                if block in self.keep:
                    kicked[k] = self.coefficient(
                        sympy.expand(jump(self.step, k, expression)), "before_reset", f"d_jump_{k}"
                    )
        return moved, kicked

    def surrogate(self):
        """psi at the spike argument ``x``; zero while the neuron is refractory, for then it cannot spike."""
        if not self.model.spiking:
            return ()
        ready = int_(symbol("not_refractory")) if self.model.refractory and not self.free else sympy.Integer(1)
        return (("x", self.step.spike_argument), ("psi", self.step.psi * ready))

    def program(self, where, first=()):
        return tuple(first if self.named[where] else ()) + tuple(self.named[where].items())


class Derivation(Coefficients):
    """The steps of :func:`derive`, sharing the neuron's step map."""

    def __init__(self, net, projection, keep, memory, free=False, wiped=True):
        self.free = free
        super().__init__(net.nodes[projection.post], keep, wiped)
        self.memory, self.target = memory, projection.target
        delays = net.delay_steps(projection)
        shared = projection.delay is None or projection.delay.kind == "axonal" or delays.ndim == 0
        if projection.transmission == "graded" and delays.any():
            shared = False  # the synapse reads a delay line
        self.arrives = "pre" if shared else "synapse"

    def components(self, update, spike, moved, kicked):
        """The parts of eps that are not zero and can reach the eligibility."""
        alive = {self.target}
        used = self.watched(spike)
        links = {(m, k) for k, m in update} | {(m, k) for k, m in moved}
        links |= {(m, k) for k in kicked for m in spike}
        alive = closure(alive, links)
        return [
            k for k in (*self.step.state, *self.step.inputs) if k in alive & closure(used, {(b, a) for a, b in links})
        ]

    def watched(self, spike):
        """Variables that the eligibility is read from."""
        return set(spike) if self.model.spiking else {s.name for s in self.step.output.free_symbols}

    def value(self, parts, spike, primed, ended):
        """The eligibility: psi times the slope of the spike argument; without a threshold the slope of the output."""
        if self.model.spiking:
            return PSI * sympy.Add(*[spike[k] * primed[k] for k in parts if k in spike])
        return sympy.Add(*[e * ended[k] for k, e in self.sent_coefficients().items() if k in parts])

    def ending(self):
        """What the neuron computes at the end of the step."""
        return ()

    def result(self):
        update, spike = self.update_coefficients(), self.spike_coefficients()
        moved, kicked = self.jump_coefficients() if self.model.spiking and not self.free else ({}, {})
        parts = self.components(update, spike, moved, kicked)
        hoisted = self.hoisted(parts, update, moved, kicked)
        # what the update empties (an input that acts one step later) leaves nothing to store between two steps
        emptied = {k for k in hoisted if not any((k, m) in update for m in parts)}
        if not self.memory:  # nor does what nothing lands on, where memory is cut
            jumping = {self.target, *hoisted, *kicked, *(k for k, _ in moved)}
            emptied |= {k for k in parts if k not in jumping}
        eps = {k: sympy.Integer(0) if k in emptied else symbol(f"eps_{k}") for k in parts}
        arrived = {k: ARRIVED if k == self.target else sympy.Integer(0) for k in parts}

        def propagate(k, source):
            return sympy.Add(*[update[k, m] * source[m] for m in parts if (k, m) in update])

        last = {k: symbol(f"last_eps_{k}") if k in hoisted else eps[k] for k in parts}
        past = eps if self.memory else dict.fromkeys(parts, sympy.Integer(0))
        read = {m for k, m in (*update, *moved) if k in parts}  # what nothing reads one step later is not kept
        pre = [(f"last_eps_{k}", past[k] + arrived[k]) for k in hoisted if k in read]
        pre += [(f"eps_{k}", propagate(k, last)) for k in hoisted if k not in emptied]
        program, primed = [], dict(eps)
        for k in (k for k in parts if k not in hoisted):
            coming = propagate(k, last)
            primed[k] = symbol(f"primed_{k}") if coming != 0 else coming
            program += [(f"primed_{k}", coming)] if coming != 0 else []
        # the derivative of the state after transmission: all of it, or what has just arrived, in the last step where it
        # lands on an input
        kept = self.memory or self.target in self.step.inputs
        landed = {k: primed[k] + arrived[k] for k in parts} if kept else arrived
        ended = {k: landed[k] + sympy.Add(*[moved[k, m] * landed[m] for m in parts if (k, m) in moved]) for k in parts}
        value = self.value(parts, spike, primed, ended)
        program.append(("elig", value))
        stored = [k for k in parts if k not in hoisted and k not in emptied and k in read]
        for k in stored:
            program.append((f"eps_{k}", ended[k] + kicked.get(k, 0) * symbol("elig")))
        return Eligibility(
            before=self.program("before", self.jacobian_program),
            after=self.surrogate() + self.program("after"),
            before_reset=self.program("before_reset"),
            pre=tuple(pre),
            synapse=tuple(program),
            state=tuple(f"eps_{k}" for k in stored),
            value=value,
            arrives=self.arrives,
            end=self.ending(),
        )

    def hoisted(self, parts, update, moved, kicked):
        """Components that are the same for all targets, so that one trace per presynaptic neuron is enough."""
        if self.arrives == "synapse":
            return []
        kept = set(parts)
        while True:
            drop = set()
            for k in kept:
                coefficients = [update[k, m] for m in parts if (k, m) in update]
                sources = {m for m in parts if (k, m) in update}
                local = any(c.free_symbols & self.postsynaptic for c in coefficients)
                if local or k in kicked or any(a == k for a, _ in moved) or not sources <= kept:
                    drop.add(k)
            if not drop:
                return [k for k in parts if k in kept]
            kept -= drop


def closure(start, links):
    """Everything reachable from ``start`` along ``links``, pairs (from, to)."""
    found = set(start)
    while True:
        new = {b for a, b in links if a in found} - found
        if not new:
            return found
        found |= new


def credit(net, name, target):
    """``credit_target = psi dx/d(target one step ago)``: how what lands on ``target`` moves the next spike, or the next
    output of a neuron without threshold.

    Returns the programs before and after the integration.
    """
    found = Coefficients(net.nodes[name])
    update, sent = found.update_coefficients(), found.sent_coefficients()
    slope = sympy.Add(*[sent[k] * update[k, target] for k in sent if (k, target) in update])
    if slope == 0:
        raise UnsupportedError(
            f"population {name!r}: what lands on {target!r} of {net.nodes[name].model.name} moves what it sends later "
            "than one step after, or never, and a layered signal has no memory of it; use eprop() or bptt()"
        )
    if found.sends != "after":
        raise UnsupportedError(
            f"population {name!r}: the output of {found.model.name} depends on what graded projections bring, and a "
            "layered signal would pass before it is known; use eprop() or bptt()"
        )
    gate = PSI if found.model.spiking else sympy.Integer(1)
    after = [*found.surrogate(), *found.program("after"), (f"credit_{target}", gate * slope)]
    return found.program("before", jacobian(lower(net.nodes[name].model)).program), after
