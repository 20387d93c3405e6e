"""A rule applied to a network: the traces, signals and updates that both backends then simply run.

Domains of variables: *pre* (one per presynaptic neuron of a projection), *post* (one per neuron of a population) and
*synapse*. Every step ends with: errors of the readouts, learning signals ``L`` population by population, the synapse
programs, the optimiser.
"""

from dataclasses import dataclass, field, replace

import sympy

from localplast.calculus import symbol
from localplast.eligibility import Eligibility
from localplast.errors import NetworkError, UnsupportedError
from localplast.loss import Loss
from localplast.lower import jacobian, lower
from localplast.optimise import Optimiser
from localplast.rule import Rule

__all__ = ["NeuronPlan", "Plan", "SynapsePlan", "plan", "the_readouts"]


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
        read = {s.name for _, e in self.shift for s in e.free_symbols} | {name for name, _ in self.shift}
        return sorted(read | {name for name, e in self.after if symbol(name) in e.free_symbols})


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
    regularised : bool
        Whether ``elig_sum`` is kept for the rate regulariser.
    learned : bool
        Whether a feedback weight ``B`` learns beside the weight, from the same product.
    """

    eligibility: Eligibility
    program: tuple
    state: tuple
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


def the_readouts(net):
    """The names of the network's readouts, which have the same number of outputs."""
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


def plan(net, rule, loss, optimiser=None, *, batch=1, seed=0):
    """Apply a local ``rule`` to ``net``; returns a :class:`Plan`.

    Raises
    ------
    UnsupportedError
        A network that the rule has no equations for; the message says which does.
    """
    readouts = the_readouts(net)
    if rule.update != "trial":
        check_steps(rule, loss, batch)
    for p in net.plastic:
        if p.transmission != "event":
            raise UnsupportedError(
                f"projection {p.name!r}: {rule.name} learns weights of event projections; set plastic=False "
                "for graded ones, or use bptt()"
            )
    signals = rule.signal.of(net, readouts, seed)
    made = Plan(rule, loss, optimiser, readouts, signals=signals, batch=batch)
    learned = set(made.learned)
    for path in learned - {p.name for p in net.plastic}:
        raise UnsupportedError(f"projection {path!r}: feedback learns beside forward weights that do; make them plastic")
    synapses, late = {}, {}
    for p in net.plastic:
        eligibility = rule.eligibility.of(net, p)
        if p.post in readouts:
            synapses[p.name] = readout_plan(eligibility, p.name in learned)
            continue
        made_here = hidden_plan(net, rule, eligibility, signals[p.post], loss, p.name in learned)
        synapses[p.name] = made_here
        late.setdefault(p.post, {}).update(postponed(eligibility, signals[p.post].lag))
    neurons = {name: neuron_plan(net, name, synapses, signals, late.get(name, {})) for name in net.populations}
    return replace(made, synapses=synapses, neurons=neurons)


def check_steps(rule, loss, batch):
    """Raise where weights cannot change within a trial."""
    if loss.regulariser:
        raise UnsupportedError(
            f"{rule.name} with update={rule.update!r} cannot regularise rates: the rate of a trial is known at its end; "
            "use update='trial', or drop the regulariser"
        )
    if batch > 1:
        raise UnsupportedError(
            f"{rule.name} with update={rule.update!r} changes weights within a trial, so trials one after the other cannot share an "
            f"update; use batch=1, not {batch}, or backend='torch', where a batch is presented side by side"
        )


def readout_plan(eligibility, learned):
    gradient = symbol("gradient") + symbol("error") * symbol("elig")
    return SynapsePlan(eligibility, (*eligibility.synapse, ("gradient", gradient)), eligibility.state, learned=learned)


def hidden_plan(net, rule, eligibility, signal, loss, learned):
    """Eligibility, its delay where the signal is late, its filter, and the product with the learning signal."""
    path = net.projections[signal.path] if signal.path else None
    smoothing = rule.filter.of(net, signal.readout, path)
    program, state = [*eligibility.synapse], [*eligibility.state]
    trace, delayed = smoothing.trace, smoothing.program
    if signal.lag:
        eligibility, chain, now = delay_elig(eligibility, signal.lag)
        program += chain
        state += [name for name, _ in chain]
        delayed = [(name, e.subs(symbol("elig"), now)) for name, e in delayed]
        trace = trace.subs(symbol("elig"), now)
    program += [*delayed, ("gradient", symbol("gradient") + symbol("L") * trace)]
    state += smoothing.state
    if loss.regulariser:
        program.append(("elig_sum", symbol("elig_sum") + symbol("elig")))
        state.append("elig_sum")
    return SynapsePlan(eligibility, tuple(program), tuple(state), loss.regulariser is not None, learned)


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


def neuron_plan(net, name, synapses, signals, shift):
    """Programs of all plastic projections onto ``name``, each variable once, and what its signal passes on."""
    merged = {where: {} for where in ("before", "after", "before_reset")}
    for p in net.plastic:
        if p.post == name:
            for where, program in merged.items():
                program.update(getattr(synapses[p.name].eligibility, where))
    shift, end = dict(shift), {}
    lag = signals[name].lag if name in signals else 0
    for target in sorted({t.variable[6:] for s in signals.values() for t in s.terms
                          if t.source == name and t.variable.startswith("delta_")}):  # fmt: skip
        before, after = credit(net, name, target)
        merged["before"].update(before)
        merged["after"].update(after)
        factor = f"credit_{target}"
        shift.update(copies(factor, lag))
        end[f"delta_{target}"] = symbol("L") * symbol(f"late{lag}_{factor}" if lag else factor)
    return NeuronPlan(tuple(shift.items()), *(tuple(program.items()) for program in merged.values()), tuple(end.items()))


def credit(net, name, target):
    """``credit_target = psi dx/d(target one step ago)``: how what lands on ``target`` moves the next spike.

    Returns the programs before and after the integration.
    """
    from localplast.eligibility import Derivation

    found = Derivation(net, next(p for p in net.projections.values() if (p.post, p.target) == (name, target)), frozenset(), True)
    update, spike = found.update_coefficients(), found.spike_coefficients()
    slope = sympy.Add(*[spike[k] * update[k, target] for k in spike if (k, target) in update])
    after = [*found.surrogate(), *found.program("after"), (f"credit_{target}", symbol("psi") * slope)]
    return found.program("before", jacobian(lower(net.nodes[name].model)).program), after
