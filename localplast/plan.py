"""A rule applied to a network: the traces, signals and updates that both backends then simply run.

Domains of variables: *pre* (one per presynaptic neuron of a projection), *post* (one per neuron of a population) and
*synapse*. Every step ends with: errors of the readouts, learning signals ``L`` population by population, the synapse
programs, the optimiser.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import sympy
from brian2.units.allunits import second
from brian2.units.fundamentalunits import Quantity

from localplast.calculus import symbol
from localplast.eligibility import Coefficients, Derived, Eligibility
from localplast.errors import NetworkError, UnsupportedError
from localplast.loss import Loss, Reward
from localplast.lower import jacobian, lower
from localplast.network import axonal
from localplast.optimise import Optimiser
from localplast.rule import Rule
from localplast.sensitivity import sensitivity

__all__ = ["NeuronPlan", "Plan", "SynapsePlan", "judged_readout", "of_trials", "plan", "the_readouts"]


@dataclass(frozen=True)
class NeuronPlan:
    """What the neurons of one population compute for the synapses that end on them.

    Attributes
    ----------
    shift : program
        First of all in a step: late copies of what the past step left behind.
    before, after, before_reset : program
        Before the integration, after it, and after transmission (:class:`~localplast.eligibility.Eligibility`).
    end : program
        Once the learning signal is known: what it passes on.
    """

    shift: tuple = ()
    before: tuple = ()
    after: tuple = ()
    before_reset: tuple = ()
    end: tuple = ()

    @property
    def past(self):
        """Names that outlive a step, zero at the start of a trial."""
        found = {s.name for _, e in self.shift for s in e.free_symbols} | {name for name, _ in self.shift}
        for program in (self.after, self.end):
            written, early = set(), set()
            for name, e in program:
                early |= {s.name for s in e.free_symbols} - written
                written.add(name)
            found |= early & written
        return sorted(found - set(self.sums))

    @property
    def sums(self):
        """Gradients of parameters, summed up until they are used."""
        return tuple(name for name, _ in self.end if name.startswith("gradient_"))


@dataclass(frozen=True)
class SynapsePlan:
    """What the synapses of one projection do while they learn.

    Attributes
    ----------
    eligibility : Eligibility
    program : tuple of (str, sympy expression)
        Per synapse and step; it ends by adding to ``gradient`` (and to ``elig_sum`` where rates are regularised).
    state : tuple of str
        What a synapse stores within a trial, zero at its start.
    sums : tuple of str
        Gradients that are summed up until they are used: of the weight, and of the delay where that learns.
    regularised : bool
        Whether ``elig_sum`` is kept for the rate regulariser.
    learned : bool
        Whether a feedback weight ``B`` learns beside the weight, from the same product.
    """

    eligibility: Eligibility
    program: tuple
    state: tuple
    sums: tuple = ("gradient",)
    regularised: bool = False
    learned: bool = False


@dataclass(frozen=True)
class Plan:
    """A network that learns.

    Attributes
    ----------
    readouts : tuple of str
        The populations whose output the loss judges.
    neurons : dict of str to NeuronPlan
    synapses : dict of str to SynapsePlan
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
            for name, signal in self.signals.items() for term in signal.terms if term.form == "fixed"
        }  # fmt: skip

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
        raise NetworkError(f"the readouts of a network share one target, so they need outputs of one number; here: {found}")
    return net.readouts


def judged_readout(net, loss):
    """The readout whose outputs are choices: of several the last, with reward the policy."""
    readouts = the_readouts(net, loss)
    return loss.policy if isinstance(loss, Reward) else readouts[-1]


def check_reward(net, loss):
    """Raise unless ``net`` has an actor, a critic and dice."""
    if set(net.readouts) != {loss.policy, loss.value}:
        raise NetworkError(
            f"learning from reward needs two readouts, {loss.policy!r} (the actor) and {loss.value!r} (the critic); this network "
            f"has {list(net.readouts) or 'none'}"
        )
    dice = net.inputs.get(loss.dice)
    if net.size(loss.value) != 1 or dice is None or dice.kind != "currents" or dice.size != net.size(loss.policy):
        raise NetworkError(
            f"learning from reward needs one neuron in {loss.value!r} and an Input({net.size(loss.policy)}, 'currents') called "
            f"{loss.dice!r}, whose Gumbel noise draws the choices"
        )


def plan(net, rule, loss, optimiser=None, *, batch=1, seed=0, trainable=(), values=None):
    """Apply a local ``rule`` to ``net``; returns a :class:`Plan`.

    ``trainable`` names more parameters to learn than the network marks, such as ``'rec.tau_mem'``. With ``values`` what a
    filter needs to know of a readout, and a layered signal of delays, is taken from these, not from the network.

    Raises
    ------
    UnsupportedError
        A network that the rule has no equations for; the message says which does.
    """
    readouts, net = the_readouts(net, loss), net if values is None else with_numbers(net, values)
    if rule.update != "trial":
        check_steps(rule, loss, batch)
    for p in net.plastic:
        if p.transmission != "event":
            raise UnsupportedError(
                f"projection {p.name!r}: {rule.name} learns weights of event projections; set plastic=False "
                "for graded ones, or use bptt()"
            )
    names = [name.split(".") for name in dict.fromkeys([*net.trainable, *trainable]) if not name.endswith(".weight")]
    if names and rule.update != "trial":
        raise UnsupportedError(f"{rule.name} changes {'.'.join(names[0])} at the end of trials only; use update='trial'")
    parameters = {n: tuple(k for owner, k in names if owner == n) for n in net.populations}
    delays = {owner for owner, k in names if k == "delay" and owner in net.projections}
    check_trainable(net, rule, parameters, delays)
    signals = rule.signal.of(net, readouts, seed)
    made = Plan(rule, loss, optimiser, readouts, signals=signals, parameters=parameters, batch=batch)
    learned = set(made.learned)
    for path in learned - {p.name for p in net.plastic}:
        raise UnsupportedError(f"projection {path!r}: feedback learns beside forward weights that do; make them plastic")
    synapses, late = {}, {}
    for p in net.plastic:
        eligibility = rule.eligibility.of(net, p)
        if p.post in readouts:
            synapse = readout_plan(eligibility, loss, p.name in learned)
        else:
            synapse = hidden_plan(net, rule, eligibility, signals[p.post], loss, p.name in learned)
            late.setdefault(p.post, {}).update(postponed(eligibility, signals[p.post].lag))
        synapses[p.name] = with_delay(synapse) if p.name in delays else synapse
    neurons = {name: neuron_plan(net, made, name, synapses, late.get(name, {})) for name in net.populations}
    return replace(made, synapses=synapses, neurons=neurons)


def with_numbers(net, values):
    """``net`` with the parameters and delays of ``values``, where they are others."""
    nodes, projections = dict(net.nodes), []
    for name, population in net.populations.items():
        found = {
            k: Quantity(v, dim=population.model.dimensions[k]) for k, v in values.parameters[name].items()
            if not np.array_equal(v, population.values[k])
        }  # fmt: skip
        nodes[name] = replace(population, parameters={**population.parameters, **found}) if found else population
    for p in net.projections.values():
        steps = values.delays[p.name]
        if not np.array_equal(steps, net.delay_steps(p)):
            delay = replace(p.delay or axonal(0 * second), value=Quantity(steps * float(net.dt), dim=second.dim))
            p = replace(p, delay=delay)
        projections.append(p)
    return type(net)(dt=net.dt, projections=projections, **nodes)


def check_trainable(net, rule, parameters, delays):
    """Raise where parameters or delays cannot learn by this rule."""
    fixed = delays - {p.name for p in net.plastic}
    if fixed:
        raise UnsupportedError(f"projection {min(fixed)!r}: its delay learns beside its weights; make it plastic, or use bptt()")
    derived = isinstance(rule.eligibility, Derived) and rule.eligibility.memory
    for name, learned in parameters.items():
        if learned and not derived:
            raise UnsupportedError(f"{rule.name} has no trace of {name}.{learned[0]}; use eprop(), ottt() or bptt()")
        incoming = any(p.post == name for p in net.plastic)
        if learned and not incoming and not net.nodes[name].trainable:
            raise UnsupportedError(f"nothing that {name!r} receives learns; mark {learned[0]!r} as trainable in its Population")


def check_steps(rule, loss, batch):
    """Raise where weights cannot change within a trial."""
    if loss.regulariser and not loss.regulariser.window:
        raise UnsupportedError(
            f"{rule.name} with update={rule.update!r} cannot regularise the rate of a trial, which is known at its end; use "
            "rate(..., window=500*ms), a running average, or update='trial'"
        )
    if batch > 1:
        raise UnsupportedError(
            f"{rule.name} with update={rule.update!r} changes weights within a trial, so trials one after the other cannot share an "
            f"update; use batch=1, not {batch}, or backend='torch', where a batch is presented side by side"
        )


def of_trials(loss):
    """Whether rates are regularised at the end of each trial."""
    return loss.regulariser is not None and not loss.regulariser.window


def running(net, loss, end=""):
    """``(program, state, term)`` of the regulariser of running rates: the gradient's ``term`` in every step."""
    if loss.regulariser is None or not loss.regulariser.window:
        return [], [], 0
    keep, slow = fading_of(net, loss.regulariser.window), symbol(f"elig_slow{end}")
    program = [(f"elig_slow{end}", keep * slow + (1 - keep) * symbol(f"elig{end}"))]
    return program, [f"elig_slow{end}"], loss.regulariser.strength * (symbol("activity") - loss.regulariser.target) * slow


def fading_of(net, window):
    """What is left after one step of something that fades with the time constant ``window``."""
    return float(np.exp(-float(net.dt) / window))


def summed(loss, product, end="", extra=0):
    """``(program, state)`` that adds a product of trace and signal, and what is ``extra``, to the gradient.

    Where reward comes late the product fades until the temporal difference error ``td``, of the step before, meets it.
    """
    gradient = symbol(f"gradient{end}")
    if not isinstance(loss, Reward):
        return [(f"gradient{end}", gradient + product + extra)], []
    fading = symbol(f"fading{end}")
    return [(f"gradient{end}", gradient + symbol("td") * fading + extra), (f"fading{end}", loss.discount * fading + product)], [f"fading{end}"]


def readout_plan(eligibility, loss, learned):
    sums, state = summed(loss, symbol("error") * symbol("elig"))
    return SynapsePlan(eligibility, (*eligibility.synapse, *sums), (*eligibility.state, *state), learned=learned)


def hidden_plan(net, rule, eligibility, signal, loss, learned):
    """Eligibility, its delay where the signal is late, its filter, and the product with the learning signal."""
    smoothing = shared_smoothing(net, rule, signal)
    program, state = [*eligibility.synapse], [*eligibility.state]
    trace, delayed = smoothing.trace, smoothing.program
    if signal.lag:
        eligibility, chain, now = delay_elig(eligibility, signal.lag)
        program = [*chain, *program]  # before this step's elig takes the place of the last one's
        state += [earlier.name for _, earlier in chain]
        delayed = [(name, e.subs(symbol("elig"), now)) for name, e in delayed]
        trace = trace.subs(symbol("elig"), now)
    slow, slow_state, extra = running(net, loss)
    sums, fading = summed(loss, symbol("L") * trace, extra=extra)
    program += [*delayed, *slow, *sums]
    state += [*smoothing.state, *slow_state, *fading]
    if of_trials(loss):
        program.append(("elig_sum", symbol("elig_sum") + symbol("elig")))
        state.append("elig_sum")
    return SynapsePlan(eligibility, tuple(program), tuple(state), ("gradient",), of_trials(loss), learned)


def with_delay(plan):
    """``plan`` with the gradient of the delay beside that of the weight.

    A delay that grows by one step replaces what arrives now by what arrived a step ago: the traces are those of the
    weight, driven by the difference of the two, times the weight (forward in time; for a current-based neuron it is minus
    the slope of the postsynaptic potential).
    """
    eligibility, arrived = plan.eligibility, symbol("arrived")
    own = {name for name, _ in (*eligibility.pre, *plan.program)}
    change = {symbol(name): symbol(f"drift_{name}") for name in own} | {arrived: symbol("past_arrived") - arrived}

    def drifting(program):
        return [drift(name, e) for name, e in program]

    def drift(name, e):
        if name != "gradient":
            return f"drift_{name}", e.subs(change, simultaneous=True)
        product = e - symbol("gradient")
        return "gradient_delay", symbol("gradient_delay") + symbol("w") * product.subs(change, simultaneous=True)

    pre, program = drifting(eligibility.pre), drifting(plan.program)
    (pre if eligibility.arrives == "pre" else program).append(("past_arrived", arrived))
    state = [f"drift_{name}" for name in plan.state] + ([] if eligibility.arrives == "pre" else ["past_arrived"])
    return replace(
        plan, eligibility=replace(eligibility, pre=(*eligibility.pre, *pre)), program=(*plan.program, *program),
        state=(*plan.state, *state), sums=("gradient", "gradient_delay"),
    )  # fmt: skip


def shared_smoothing(net, rule, signal):
    """The filter of the eligibility, which must be the same for all readouts that a population hears.

    Raises
    ------
    UnsupportedError
        Readouts that remember spikes differently.
    """
    path = net.projections[signal.path] if signal.path else None
    found = rule.filter.of(net, signal.readout, path)
    for other in (t.source for t in signal.terms if t.variable in ("error", "lure") and t.source != signal.readout):
        path = next((net.projections[t.path] for t in signal.terms if t.source == other and t.path), None)
        if rule.filter.of(net, other, path) != found:
            raise UnsupportedError(
                f"readouts {signal.readout!r} and {other!r} remember spikes differently, so that {rule.name} would need a trace for "
                "each; give them the same time constants"
            )
    return found


def copies(name, lag):
    """Late copies of ``name``, the latest first, as a program to be run before ``name`` itself is renewed."""
    chain = [name, *(f"late{n}_{name}" for n in range(1, lag + 1))]
    return [(later, symbol(earlier)) for earlier, later in zip(chain, chain[1:], strict=False)][::-1]


def separable(eligibility):
    """Whether the eligibility is a product of what neurons hold, so that nothing needs to be kept per synapse."""
    return not eligibility.state and all(name == "elig" for name, _ in eligibility.synapse)


def postponed(eligibility, lag):
    """Late copies that the postsynaptic neuron keeps."""
    if not lag or not separable(eligibility):
        return {}
    factors = {s.name for s in eligibility.value.free_symbols} & {name for name, _ in eligibility.after}
    return {name: e for factor in sorted(factors) for name, e in copies(factor, lag)}


def delay_elig(eligibility, lag):
    """``(eligibility, program, value)``: the eligibility of ``lag`` steps ago.

    Where it is a product of a presynaptic and a postsynaptic factor, the neurons delay their factors; else every synapse
    keeps as many past values.
    """
    if not separable(eligibility):
        return eligibility, copies("elig", lag), symbol(f"late{lag}_elig")
    own = {s.name for s in eligibility.value.free_symbols}
    traces = [name for name, _ in eligibility.pre if name in own]
    chain = [pair for trace in traces for pair in copies(trace, lag)]
    late = {symbol(name): symbol(f"late{lag}_{name}") for name in own & {*traces, *(n for n, _ in eligibility.after)}}
    return replace(eligibility, pre=(*chain, *eligibility.pre)), [], eligibility.value.subs(late, simultaneous=True)


def neuron_plan(net, made, name, synapses, shift):
    """Programs of all plastic projections onto ``name``, each variable once, what its signal passes on, its parameters."""
    signals, merged = made.signals, {where: {} for where in ("before", "after", "before_reset")}
    for p in net.plastic:
        if p.post == name:
            for where, program in merged.items():
                program.update(getattr(synapses[p.name].eligibility, where))
    shift, end = dict(shift), []
    lag = signals[name].lag if name in signals else 0
    for target in sorted({t.variable[6:] for s in signals.values() for t in s.terms
                          if t.source == name and t.variable.startswith("delta_")}):  # fmt: skip
        before, after = credit(net, name, target)
        merged["before"].update(before)
        merged["after"].update(after)
        factor = f"credit_{target}"
        shift.update(copies(factor, lag))
        end.append((f"delta_{target}", symbol("L") * symbol(f"late{lag}_{factor}" if lag else factor)))
    if made.loss.regulariser and made.loss.regulariser.window and name in signals:
        keep = fading_of(net, made.loss.regulariser.window)
        end.append(("activity", keep * symbol("activity") + (1 - keep) / float(net.dt) * symbol("z")))
    for parameter in made.parameters[name]:
        found = sensitivity(net, name, parameter, keep=made.rule.eligibility.keep)
        for where, program in merged.items():
            program.update(getattr(found, where))
        end += parameter_program(net, made, name, parameter, found)
    return NeuronPlan(tuple(shift.items()), *(tuple(program.items()) for program in merged.values()), tuple(end))


def parameter_program(net, made, name, parameter, found):
    """Traces of one parameter, smoothed and multiplied as those of a weight are, per neuron."""
    elig, end = symbol(f"elig_{parameter}"), f"_{parameter}"
    if name in made.readouts:
        return [*found.program, *summed(made.loss, symbol("error") * elig, end)[0]]
    signal = made.signals[name]
    smoothing = shared_smoothing(net, made.rule, signal)
    late = copies(f"elig_{parameter}", signal.lag)
    now = symbol(late[0][0]) if late else elig
    own = {symbol(n): symbol(f"{n}_{parameter}") for n, _ in smoothing.program} | {symbol("elig"): now}
    smoothed = [(f"{n}_{parameter}", e.subs(own, simultaneous=True)) for n, e in smoothing.program]
    product = symbol("L") * smoothing.trace.subs(own, simultaneous=True)
    slow, _, extra = running(net, made.loss, end)
    program = [*late, *found.program, *smoothed, *slow, *summed(made.loss, product, end, extra)[0]]
    if of_trials(made.loss):
        program.append((f"elig_sum_{parameter}", symbol(f"elig_sum_{parameter}") + elig))
    return program


def credit(net, name, target):
    """``credit_target = psi dx/d(target one step ago)``: how what lands on ``target`` moves the next spike.

    Returns the programs before and after the integration.
    """
    found = Coefficients(net.nodes[name])
    update, spike = found.update_coefficients(), found.spike_coefficients()
    slope = sympy.Add(*[spike[k] * update[k, target] for k in spike if (k, target) in update])
    if slope == 0:
        raise UnsupportedError(
            f"population {name!r}: what lands on {target!r} of {net.nodes[name].model.name} moves its spikes later than one step after, "
            "and a layered signal has no memory of it; use eprop() or bptt()"
        )
    after = [*found.surrogate(), *found.program("after"), (f"credit_{target}", symbol("psi") * slope)]
    return found.program("before", jacobian(lower(net.nodes[name].model)).program), after
