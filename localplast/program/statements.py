"""The programs of a rule on one network: from eligibility, filter and signal to the statements of neurons and
synapses.
"""

from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from localplast.equations.expressions import to_sympy
from localplast.equations.language import symbol
from localplast.errors import UnsupportedError
from localplast.learning.eligibility import ARRIVED, Eligibility, credit
from localplast.learning.sensitivity import sensitivity
from localplast.task.loss import Reward
from localplast.task.regulariser import of_trials

__all__ = [
    "NeuronPlan",
    "SynapsePlan",
    "hidden_plan",
    "mismatch_plan",
    "neuron_plan",
    "of_rates",
    "postponed",
    "readout_plan",
    "with_delay",
]


@dataclass(frozen=True)
class NeuronPlan:
    """What the neurons of one population compute for the synapses that end on them.

    Attributes
    ----------
    shift : program
        First of all in a step: late copies of what the past step left behind.
    before, after, before_reset : program
        Before the integration, after it, and after transmission
        (:class:`~localplast.learning.eligibility.Eligibility`).
    end : program
        Once the learning signal is known: what it passes on.
    sums : tuple of str
        Gradients of parameters, summed up until they are used.
    mismatches : frozenset of str
        What the neurons get wrong themselves: nothing between two trials.
    personal : frozenset of str
        What is computed for the parameters that learn, and for no weight.
    """

    shift: tuple = ()
    before: tuple = ()
    after: tuple = ()
    before_reset: tuple = ()
    end: tuple = ()
    sums: tuple = ()
    mismatches: frozenset = frozenset()
    personal: frozenset = frozenset()

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
    third : str
        What the eligibility is multiplied with, a variable of the postsynaptic neuron.
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
    third: str
    sums: tuple = ("gradient",)
    regularised: bool = False
    learned: bool = False


def of_rates(loss, model):
    """``loss`` without its regulariser of rates where a neuron has none."""
    return loss if model.spiking or loss.regulariser is None else replace(loss, regulariser=None)


def running(net, loss, end=""):
    """``(program, state, term)`` of the regulariser of running rates: the gradient's ``term`` in every step."""
    if loss.regulariser is None or not loss.regulariser.window:
        return [], [], 0
    keep, slow = fading_of(net, loss.regulariser.window), symbol(f"elig_slow{end}")
    program = [(f"elig_slow{end}", keep * slow + (1 - keep) * symbol(f"elig{end}"))]
    return (
        program,
        [f"elig_slow{end}"],
        loss.regulariser.strength * (symbol("activity") - loss.regulariser.target) * slow,
    )


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
    return [
        (f"gradient{end}", gradient + symbol("td") * fading + extra),
        (f"fading{end}", loss.discount * fading + product),
    ], [f"fading{end}"]


def readout_plan(eligibility, loss, learned):
    sums, state = summed(loss, symbol("error") * symbol("elig"))
    return SynapsePlan(
        eligibility, (*eligibility.synapse, *sums), (*eligibility.state, *state), "error", learned=learned
    )


def mismatch_plan(eligibility, mismatch):
    """The product of eligibility and mismatch, which is minus the gradient of what the compartment gets wrong."""
    program = (*eligibility.synapse, ("gradient", symbol("gradient") - symbol(mismatch) * symbol("elig")))
    return SynapsePlan(eligibility, program, eligibility.state, mismatch)


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
    return SynapsePlan(eligibility, tuple(program), tuple(state), "L", ("gradient",), of_trials(loss), learned)


def with_delay(plan):
    """``plan`` with the gradient of the delay beside that of the weight.

    A delay that grows by one step replaces what arrives now by what arrived a step ago: the traces are those of the
    weight, driven by the difference of the two, times the weight (forward in time; for a current-based neuron it is
    minus the slope of the postsynaptic potential).
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
        plan,
        eligibility=replace(eligibility, pre=(*eligibility.pre, *pre)),
        program=(*plan.program, *program),
        state=(*plan.state, *state),
        sums=("gradient", "gradient_delay"),
    )


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
                f"readouts {signal.readout!r} and {other!r} remember spikes differently, so that {rule.name} would "
                "need a trace for each; give them the same time constants"
            )
    return found


def copies(name, lag):
    """Late copies of ``name``, the latest first, as a program to be run before ``name`` itself is renewed."""
    chain = [name, *(f"late{n}_{name}" for n in range(1, lag + 1))]
    return [(later, symbol(earlier)) for earlier, later in pairwise(chain)][::-1]


def separable(eligibility):
    """Whether the eligibility is a product of what neurons hold, so that nothing needs to be kept per synapse."""
    apart = eligibility.arrives == "synapse" and ARRIVED in eligibility.value.free_symbols
    return not eligibility.state and not apart and all(name == "elig" for name, _ in eligibility.synapse)


def factors_of(eligibility):
    """Names of what the postsynaptic neuron computes for an eligibility once its state is updated."""
    return [name for name, _ in (*eligibility.after, *eligibility.before_reset)]


def postponed(eligibility, lag):
    """Late copies that the postsynaptic neuron keeps."""
    if not lag or not separable(eligibility):
        return {}
    factors = {s.name for s in eligibility.value.free_symbols} & set(factors_of(eligibility))
    return {name: e for factor in sorted(factors) for name, e in copies(factor, lag)}


def delay_elig(eligibility, lag):
    """``(eligibility, program, value)``: the eligibility of ``lag`` steps ago.

    Where it is a product of a presynaptic and a postsynaptic factor, the neurons delay their factors; else every
    synapse keeps as many past values.
    """
    if not separable(eligibility):
        return eligibility, copies("elig", lag), symbol(f"late{lag}_elig")
    own = {s.name for s in eligibility.value.free_symbols}
    traces = [name for name, _ in (*eligibility.pre, (ARRIVED.name, None)) if name in own]
    chain = [pair for trace in traces for pair in copies(trace, lag)]
    late = {symbol(name): symbol(f"late{lag}_{name}") for name in own & {*traces, *factors_of(eligibility)}}
    return replace(eligibility, pre=(*chain, *eligibility.pre)), [], eligibility.value.subs(late, simultaneous=True)


def neuron_plan(net, made, name, synapses, shift):
    """Programs of all plastic projections onto ``name``, each variable once, what its signal passes on, its
    parameters.
    """
    signals, merged = made.signals, {where: {} for where in ("before", "after", "before_reset")}
    for p in net.plastic:
        if p.post == name:
            for where, program in merged.items():
                merge(name, program, getattr(synapses[p.name].eligibility, where))
    own = {n: e for p in net.plastic if p.post == name for n, e in synapses[p.name].eligibility.end}
    shift, end = dict(shift), list(own.items())
    lag = signals[name].lag if name in signals else 0
    sent = [t for s in signals.values() for t in s.terms if t.source == name and t.target is not None]
    for target in sorted({t.target for t in sent}):
        before, after = credit(net, name, target)
        merge(name, merged["before"], before)
        merge(name, merged["after"], after)
        factor = f"credit_{target}"
        shift.update(copies(factor, lag))
        end.append((f"delta_{target}", symbol("L") * symbol(f"late{lag}_{factor}" if lag else factor)))
    regulariser = of_rates(made.loss, net.nodes[name].model).regulariser
    if regulariser and regulariser.window and name in signals:
        keep = fading_of(net, regulariser.window)
        end.append(("activity", keep * symbol("activity") + (1 - keep) / float(net.dt) * symbol("z")))
    personal = []
    for parameter in made.parameters[name]:
        if not made.rule.signal.hears_errors:
            personal += own_error(net.nodes[name].model, parameter)
            continue
        eligibility = made.rule.eligibility
        found = sensitivity(net, name, parameter, keep=eligibility.keep, wiped=eligibility.wiped)
        for where, program in merged.items():
            merge(name, program, getattr(found, where))
        personal += parameter_program(net, made, name, parameter, found)
    slots = (shift.items(), *(program.items() for program in merged.values()), end, personal)
    check_apart(name, [n for slot in slots for n, _ in slot])
    plans = {where: tuple(program.items()) for where, program in merged.items()}
    taught = () if made.rule.signal.hears_errors else made.parameters[name]
    errors = {synapses[p.name].third for p in net.plastic if p.post == name} - {"error", "L"}
    return NeuronPlan(
        shift=tuple(shift.items()),
        **plans,
        end=(*end, *personal),
        sums=tuple(f"gradient_{parameter}" for parameter in made.parameters[name]),
        mismatches=frozenset({*errors, *(f"mismatch_{parameter}" for parameter in taught)}),
        personal=frozenset(n for n, _ in personal),
    )


def merge(name, into, program):
    """Add a program to what a population computes; raise where both mean different things by one name."""
    for n, e in dict(program).items():
        if into.setdefault(n, e) != e:
            check_apart(name, [n, n])


def check_apart(name, made):
    """Raise where two things have one name, as the traces of two parameters: of ``a`` in ``b_v``, of ``a_b`` in
    ``v``.
    """
    if twice := [n for n, count in Counter(made).items() if count > 1]:
        raise UnsupportedError(
            f"population {name!r}: two things that learning needs would be called {twice[0]!r}; give one of its "
            "parameters, or of its variables, another name"
        )


def own_error(model, parameter):
    """What a neuron gets wrong by one of its parameters, summed up as minus the gradient."""
    error, gradient = f"mismatch_{parameter}", f"gradient_{parameter}"
    return [(error, to_sympy(model.mismatch[parameter].error)), (gradient, symbol(gradient) - symbol(error))]


def parameter_program(net, made, name, parameter, found):
    """Traces of one parameter, smoothed and multiplied as those of a weight are, per neuron."""
    elig, end, loss = symbol(f"elig_{parameter}"), f"_{parameter}", of_rates(made.loss, net.nodes[name].model)
    if name in made.readouts:
        return [*found.program, *summed(loss, symbol("error") * elig, end)[0]]
    signal = made.signals[name]
    smoothing = shared_smoothing(net, made.rule, signal)
    late = copies(f"elig_{parameter}", signal.lag)
    now = symbol(late[0][0]) if late else elig
    own = {symbol(n): symbol(f"{n}_{parameter}") for n, _ in smoothing.program} | {symbol("elig"): now}
    smoothed = [(f"{n}_{parameter}", e.subs(own, simultaneous=True)) for n, e in smoothing.program]
    product = symbol("L") * smoothing.trace.subs(own, simultaneous=True)
    slow, _, extra = running(net, loss, end)
    program = [*late, *found.program, *smoothed, *slow, *summed(loss, product, end, extra)[0]]
    if of_trials(loss):
        program.append((f"elig_sum_{parameter}", symbol(f"elig_sum_{parameter}") + elig))
    return program
