"""A rule applied to a network: the traces, signals and updates that both backends then simply run.

Domains of variables: *pre* (one per presynaptic neuron of a projection), *post* (one per neuron of a population) and
*synapse*. Every step ends with: errors of the readout, learning signals ``L``, the synapse programs, the optimiser.
"""

import zlib
from dataclasses import dataclass

import numpy as np
import sympy

from localplast.calculus import differentiate, symbol
from localplast.eligibility import Eligibility, closure, derive
from localplast.errors import NetworkError, UnsupportedError
from localplast.loss import Loss
from localplast.lower import jacobian, lower
from localplast.optimise import Optimiser
from localplast.rule import Rule

__all__ = ["Plan", "SynapsePlan", "feedback_matrices", "plan", "the_readout"]


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
    """

    eligibility: Eligibility
    program: tuple
    state: tuple
    regularised: bool


@dataclass(frozen=True)
class Plan:
    """A network that learns.

    Attributes
    ----------
    readout : str
        The population whose output the loss judges.
    synapses : dict of str to SynapsePlan
        By projection.
    broadcast : dict of str to str or array
        For every learning population: the projection whose weights carry the error back, or a fixed matrix
        ``(population, readout)``.
    optimiser : Optimiser or None
        None: gradients are summed and weights stay.
    batch : int
        Trials per update.
    """

    rule: Rule
    loss: Loss
    optimiser: Optimiser | None
    readout: str
    synapses: dict
    broadcast: dict
    batch: int = 1


def the_readout(net):
    """The name of the network's only readout."""
    if len(net.readouts) != 1:
        raise NetworkError(
            f"a loss needs one readout (a population without threshold, with an output); this network has "
            f"{list(net.readouts) or 'none'}"
        )
    return net.readouts[0]


def feedback_matrices(net, rule, seed):
    """Fixed feedback ``(population, readout)`` by population; empty where feedback is symmetric."""
    if isinstance(rule.feedback, dict):
        return {k: np.asarray(v, float) for k, v in rule.feedback.items()}
    if rule.feedback == "symmetric":
        return {}
    if rule.feedback != "random":
        raise NetworkError(f"feedback is 'symmetric', 'random' or matrices by population, not {rule.feedback!r}")
    readout = the_readout(net)
    result = {}
    for name, population in net.populations.items():
        if population.model.spiking:
            rng = np.random.default_rng([seed, zlib.crc32(f"feedback to {name}".encode())])
            result[name] = rule.feedback_std * rng.standard_normal((population.size, net.size(readout)))
    return result


def plan(net, rule, loss, optimiser=None, *, batch=1, seed=0):
    """Apply a local ``rule`` to ``net``; returns a :class:`Plan`.

    Raises
    ------
    UnsupportedError
        A network that the rule has no equations for; the message says which does.
    """
    readout = the_readout(net)
    if rule.update == "step":
        check_steps(rule, loss, batch)
    fixed = feedback_matrices(net, rule, seed)
    synapses, broadcast = {}, {}
    for p in net.plastic:
        if p.transmission != "event":
            raise UnsupportedError(
                f"projection {p.name!r}: {rule.name} learns weights of event projections; set plastic=False "
                "for graded ones, or use bptt()"
            )
        eligibility = derive(net, p, keep=rule.keep)
        if p.post == readout:
            synapses[p.name] = readout_plan(eligibility)
            continue
        path = direct_path(net, p.post, readout)
        broadcast[p.post] = fixed[p.post] if p.post in fixed else symmetric(net, rule, p.post, path)
        synapses[p.name] = hidden_plan(net, eligibility, readout, path, loss)
    return Plan(rule, loss, optimiser, readout, synapses, broadcast, batch)


def check_steps(rule, loss, batch):
    """Raise where weights cannot change in every step."""
    if loss.regulariser:
        raise UnsupportedError(
            f"{rule.name} with update='step' cannot regularise rates: the rate of a trial is known at its end; "
            "use update='trial', or drop the regulariser"
        )
    if batch > 1:
        raise UnsupportedError(
            f"{rule.name} with update='step' changes weights within a trial, so trials one after the other cannot share an "
            f"update; use batch=1, not {batch}, or backend='torch', where a batch is presented side by side"
        )


def direct_path(net, population, readout):
    """The projection from ``population`` to the readout, None if there is none."""
    paths = [p for p in net.projections.values() if (p.pre, p.post) == (population, readout)]
    return paths[0] if paths else None


def symmetric(net, rule, population, path):
    if path is None:
        raise UnsupportedError(
            f"{rule.name} with symmetric feedback needs a projection from {population!r} to the readout, whose weights "
            "would carry the error back; use feedback='random'"
        )
    return path.name


def readout_plan(eligibility):
    gradient = symbol("gradient") + symbol("error") * symbol("elig")
    return SynapsePlan(eligibility, (*eligibility.synapse, ("gradient", gradient)), eligibility.state, False)


def hidden_plan(net, eligibility, readout, path, loss):
    program, state, trace = readout_filter(net, readout, path)
    program = [*eligibility.synapse, *program, ("gradient", symbol("gradient") + symbol("L") * trace)]
    state = [*eligibility.state, *state]
    if loss.regulariser:
        program.append(("elig_sum", symbol("elig_sum") + symbol("elig")))
        state.append("elig_sum")
    return SynapsePlan(eligibility, tuple(program), tuple(state), loss.regulariser is not None)


def readout_filter(net, readout, path):
    """How the readout remembers a spike, as a filter of the eligibility: derived from the readout's own step.

    Returns the program, the names it stores and the filtered trace.
    """
    population = net.nodes[readout]
    step = lower(population.model)
    if path is not None and np.any(net.delay_steps(path) > 0):
        raise UnsupportedError(
            f"projection {path.name!r}: a delayed path to the readout would need a delayed eligibility; remove the delay"
        )
    target = path.target if path is not None else population.model.receives
    numbers = {symbol(n): float(v) for n, v in population.values.items() if not np.ndim(v)} | {symbol("dt"): float(net.dt)}
    entries = {pair: e.subs(numbers) for pair, e in jacobian(step).entries.items()}
    output = {k: differentiate(step.output, k).subs(numbers) for k in step.state}
    varying = {symbol(n) for n in step.state + step.inputs} | {symbol(n) for n, v in population.parameters.items() if np.ndim(v)}
    units = {population.model.dimensions[k] for k in step.state}
    if any(e.free_symbols & varying for e in [*entries.values(), *output.values()]) or jacobian(step).program or len(units) > 1:
        raise UnsupportedError(
            f"population {readout!r}: its response to a spike differs between its neurons, with time or in unit "
            f"({population.model.name}); local rules filter eligibilities with a linear readout, the same for all outputs"
        )
    names = {k: symbol(f"filtered_{k}") for k in step.state}
    reached = closure({target}, {(m, k) for k, m in entries})
    alive = [k for k in step.state if k in reached]
    primed = [
        (f"faded_{k}", sympy.Add(*[entries[k, m] * names[m] for m in alive if (k, m) in entries])) for k in alive
    ]
    injected = [
        (str(names[k]), symbol(f"faded_{k}") + (symbol("elig") if k == target else 0)) for k in alive
    ]
    trace = sympy.Add(*[output[k] * names[k] for k in alive])
    return [*primed, *injected], [str(names[k]) for k in alive], trace
