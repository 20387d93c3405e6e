"""A rule applied to a network: the traces, signals and updates that both backends then simply run.

Domains of variables: *pre* (one per presynaptic neuron of a projection), *post* (one per neuron of a population) and
*synapse*. Every step ends with: errors of the readouts, learning signals ``L`` population by population, the synapse
programs, the optimiser.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from brian2.units.allunits import second
from brian2.units.fundamentalunits import DIMENSIONLESS, Quantity, get_dimensions

from localplast.arguments import check_kind
from localplast.equations.units import unit_text
from localplast.errors import LocalplastError, NetworkError, UnsupportedError
from localplast.learning.eligibility import Derived, check_certain
from localplast.learning.optimise import Optimiser
from localplast.learning.rule import Rule
from localplast.network.delays import axonal
from localplast.network.short_term import check_learnable
from localplast.program.statements import (
    hidden_plan,
    mismatch_plan,
    neuron_plan,
    of_rates,
    postponed,
    readout_plan,
    with_delay,
)
from localplast.task.loss import Loss, Reward
from localplast.task.trials import Trials

__all__ = ["Plan", "check_branching", "check_trials", "judged_readout", "plan", "the_readouts"]


@dataclass(frozen=True)
class Plan:
    """A network that learns.

    Attributes
    ----------
    readouts : tuple of str
        The populations whose output the loss judges.
    neurons : dict of str to :class:`~localplast.program.statements.NeuronPlan`
    synapses : dict of str to :class:`~localplast.program.statements.SynapsePlan`
        By projection.
    signals : dict of str to Signal
        By population, in the order in which they can be computed.
    parameters : dict of str to tuple of str
        Parameters that learn, by population: each neuron sums up ``gradient_<parameter>``.
    optimiser : Optimiser or None
        None: gradients are summed and weights stay.
    batch : int
        Trials per update.
    """

    rule: Rule
    loss: Loss
    optimiser: Optimiser | None
    readouts: tuple
    neurons: dict = field(default_factory=dict)
    synapses: dict = field(default_factory=dict)
    signals: dict = field(default_factory=dict)
    parameters: dict = field(default_factory=dict)
    batch: int = 1

    @property
    def fixed(self):
        """Fixed feedback ``(population, source)``, by (population, source)."""
        return {
            (name, term.source): term.matrix
            for name, signal in self.signals.items()
            for term in signal.terms
            if term.form == "fixed"
        }

    @property
    def learned(self):
        """Where learned feedback ``(pre, post)`` starts, by projection."""
        return {t.path: t.matrix for s in self.signals.values() for t in s.terms if t.form == "learned"}


def the_readouts(net, loss=None):
    """The names of the network's readouts, which have the same number of outputs unless ``loss`` is a reward."""
    if isinstance(loss, Reward):
        check_reward(net, loss)
        return net.readouts
    sizes = {net.size(name) for name in net.readouts}
    if not sizes:
        raise NetworkError(
            "a loss needs a readout (a population without threshold, with an output, that projects to nobody); "
            "this network has none"
        )
    if len(sizes) > 1:
        found = ", ".join(f"{n} ({net.size(n)})" for n in net.readouts)
        raise NetworkError(
            f"the readouts of a network share one target, so they need outputs of one number; here: {found}"
        )
    return net.readouts


def judged_readout(net, loss):
    """The readout whose outputs are choices: of several the last, with reward the policy."""
    readouts = the_readouts(net, loss)
    return loss.policy if isinstance(loss, Reward) else readouts[-1]


def check_trials(net, trials, loss=None):
    """Raise where a batch does not fit the network, or ``loss`` cannot be told from it: asked of every batch, on
    every backend.
    """
    check_kind("trials", trials, Trials)
    trials.check(net)
    if loss is None:
        return
    readout = judged_readout(net, loss)
    loss.check(trials, net.size(readout), float(net.dt))
    unit, expected = get_dimensions(trials.target), net.nodes[readout].model.output_dimension
    if unit not in (DIMENSIONLESS, expected):
        raise NetworkError(
            f"the target is in {unit_text(unit)}, and the output of {readout!r} in {unit_text(expected)}: give the same"
        )


def check_reward(net, loss):
    """Raise unless ``net`` has an actor, a critic and dice."""
    if set(net.readouts) != {loss.policy, loss.value}:
        raise NetworkError(
            f"learning from reward needs two readouts, {loss.policy!r} (the actor) and {loss.value!r} (the critic); "
            f"this network has {list(net.readouts) or 'none'}"
        )
    dice = net.inputs.get(loss.dice)
    if net.size(loss.value) != 1 or dice is None or dice.kind != "currents" or dice.size != net.size(loss.policy):
        raise NetworkError(
            f"learning from reward needs one neuron in {loss.value!r} and an Input({net.size(loss.policy)}, "
            f"'currents') called {loss.dice!r}, whose Gumbel noise draws the choices"
        )


def plan(net, rule, loss, optimiser=None, *, batch=1, seed=0, trainable=(), values=None):
    """Apply a local ``rule`` to ``net``; returns a :class:`Plan`.

    ``trainable`` names more parameters to learn than the network marks, such as ``'rec.tau_mem'``. With ``values``
    what a filter needs to know of a readout, and a layered signal of delays, is taken from these, not from the network.

    Raises
    ------
    UnsupportedError
        A network that the rule has no equations for; the message says which does.
    """
    check_spelled(net)
    readouts, net = the_readouts(net, loss), net if values is None else with_numbers(net, values)
    check_branching(loss, rule)
    for name, population in net.populations.items():
        check_certain(name, population.model)
    rule.signal.check(net, rule.name)
    if rule.update != "trial":
        check_steps(rule, loss, batch)
    asked = [name.split(".") for name in dict.fromkeys([*net.trainable, *trainable])]
    names = [(owner, k) for owner, k in asked if owner in net.populations or k == "delay"]
    if names and rule.update != "trial" and rule.signal.hears_errors:
        raise UnsupportedError(
            f"{rule.name} changes {'.'.join(names[0])} at the end of trials only; use update='trial'"
        )
    parameters = {n: tuple(k for owner, k in names if owner == n) for n in net.populations}
    delays = {owner for owner, k in names if k == "delay" and owner in net.projections}
    check_trainable(net, rule, parameters, delays)
    signals = rule.signal.of(net, readouts, seed)
    made = Plan(rule, loss, optimiser, readouts, signals=signals, parameters=parameters, batch=batch)
    learned = set(made.learned)
    for path in learned - {p.name for p in net.plastic}:
        raise UnsupportedError(
            f"projection {path!r}: feedback learns beside forward weights that do; make them plastic"
        )
    synapses, late = {}, {}
    for p in net.plastic:
        eligibility, third = rule.eligibility.of(net, p), rule.signal.third_factor(p, readouts)
        if third == "error":
            synapse = readout_plan(eligibility, loss, p.name in learned)
        elif third != "L":
            synapse = mismatch_plan(eligibility, third)
        else:
            judged = of_rates(loss, net.nodes[p.post].model)
            synapse = hidden_plan(net, rule, eligibility, signals[p.post], judged, p.name in learned)
            late.setdefault(p.post, {}).update(postponed(eligibility, signals[p.post].lag))
        synapses[p.name] = with_delay(synapse) if p.name in delays else synapse
    check_learnable(net, rule, {name for name, s in synapses.items() if s.eligibility.source is None})
    neurons = {name: neuron_plan(net, made, name, synapses, late.get(name, {})) for name in net.populations}
    return replace(made, synapses=synapses, neurons=neurons)


def check_spelled(net):
    """Raise where a network is not spelled as plans are: its names could mean what these keep themselves."""
    if net.spelling.differs:
        raise LocalplastError(f"a plan is made of net.spelling.net: {', '.join(sorted(net.spelling.words))}")


def with_numbers(net, values):
    """``net`` with the parameters and delays of ``values``, where they are others."""
    nodes, projections = dict(net.nodes), []
    for name, population in net.populations.items():
        found = {
            k: Quantity(v, dim=population.model.dimensions[k])
            for k, v in values.parameters[name].items()
            if not np.array_equal(v, population.values[k])
        }
        bounds = {k: widened(pair, found[k]) if k in found else pair for k, pair in population.trainable.items()}
        nodes[name] = replace(population, parameters={**population.parameters, **found}, trainable=bounds)
    for p in net.projections.values():
        steps = values.delays[p.name]
        if not np.array_equal(steps, net.delay_steps(p)):
            delay = replace(p.delay or axonal(0 * second), value=Quantity(steps * float(net.dt), dim=second.dim))
            p = replace(p, delay=delay)
        projections.append(p)
    return type(net)(dt=net.dt, projections=projections, **nodes)


def widened(bounds, numbers):
    """``bounds`` with ``numbers`` between them: a gradient is found beyond those of learning, too."""
    low, high = bounds
    return (None if low is None else min(low, numbers.min()), None if high is None else max(high, numbers.max()))


def check_trainable(net, rule, parameters, delays):
    """Raise where parameters or delays cannot learn by this rule."""
    if delays and not rule.signal.hears_errors:
        raise UnsupportedError(f"{rule.name} has no trace of the delay of {min(delays)!r}; use eprop() or bptt()")
    fixed = delays - {p.name for p in net.plastic}
    if fixed:
        raise UnsupportedError(
            f"projection {min(fixed)!r}: its delay learns beside its weights; make it plastic, or use bptt()"
        )
    derived = isinstance(rule.eligibility, Derived) and rule.eligibility.memory
    for name, learned in parameters.items():
        rule.signal.check_parameters(net.nodes[name].model, name, learned)
        if learned and not derived and rule.signal.hears_errors:
            raise UnsupportedError(f"{rule.name} has no trace of {name}.{learned[0]}; use eprop(), ottt() or bptt()")
        incoming = any(p.post == name for p in net.plastic)
        if learned and not incoming and not net.nodes[name].trainable:
            raise UnsupportedError(
                f"nothing that {name!r} receives learns; mark {learned[0]!r} as trainable in its Population"
            )


def check_branching(loss, rule, form="adjoint"):
    """Raise where a rule does not see the spikes of whole populations."""
    if loss.branching and (rule.local or form != "adjoint"):
        raise UnsupportedError(
            f"{rule.name} cannot regularise the branching factor: no synapse knows how many neurons spike, now and in "
            "the next step; use bptt(), or a loss without branching()"
        )


def check_steps(rule, loss, batch):
    """Raise where weights cannot change within a trial."""
    if loss.regulariser and not loss.regulariser.window:
        raise UnsupportedError(
            f"{rule.name} with update={rule.update!r} cannot regularise the rate of a trial, which is known at its "
            "end; use rate(..., window=500*ms), a running average, or update='trial'"
        )
    if batch > 1:
        raise UnsupportedError(
            f"{rule.name} with update={rule.update!r} changes weights within a trial, so trials one after the other "
            f"cannot share an update; use batch=1, not {batch}, or backend='torch', where a batch is presented side by "
            "side"
        )
