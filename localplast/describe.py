"""Derived equations for a person: every trace of a rule, with what it costs."""

from localplast.calculus import to_text
from localplast.lower import jacobian, lower
from localplast.network import Input, Network, Population, Projection
from localplast.plan import plan
from localplast.loss import cross_entropy

__all__ = ["describe_model", "describe_plan", "describe_rule"]


def describe_model(model):
    """A model's equations, its step as Brian2 integrates it, and the derivatives of that step."""
    step = lower(model)
    lines = [repr(model), "", f"one step ({model.method}):", *(f"    {line}" for line in step.code.splitlines())]
    lines.append("derivatives of the step:")
    found = jacobian(step)
    lines += [f"    {name} = {to_text(e)}" for name, e in found.program]
    lines += [f"    d {row} / d {column} = {to_text(e)}" for (row, column), e in found.entries.items()]
    return "\n".join(lines)


def describe_plan(net, learned):
    """Every equation that ``learned`` adds to ``net``, and the numbers stored per synapse and per neuron."""
    lines = []
    for name, synapse in learned.synapses.items():
        p, eligibility = net.projections[name], synapse.eligibility
        lines.append(f"{name} ({p.pre} -> {p.post}.{p.target})")
        for where, title in (("before", "per target neuron, before the update"), ("after", "per target neuron, before the reset"),
                             ("before_reset", "per target neuron, at the reset"), ("pre", "per source neuron")):
            lines += section(title, getattr(eligibility, where))
        lines += section("per synapse", synapse.program)
        stored = [n for n, _ in eligibility.pre if not n.startswith("last_")]
        lines.append(f"  stored: {len(synapse.state)} per synapse ({', '.join(synapse.state) or 'none'}), "
                     f"{len(stored)} per source neuron ({', '.join(stored) or 'none'})")
    words = {"weight": "weights of {}", "sign": "signs of {}", "learned": "learned beside {}", "fixed": "fixed matrix B"}
    for name, signal in learned.signals.items():
        terms = [f"sum_k {t.source}.{t.variable}_k * ({words[t.form].format(t.path)})" for t in signal.terms]
        late = f", {signal.lag} steps late" if signal.lag else ""
        lines.append(f"learning signal of {name}: L = {' + '.join(terms)}{late}")
    return "\n".join(lines)


def section(title, program):
    return [f"  {title}:", *(f"    {name} = {to_text(e)}" for name, e in program)] if program else []


def describe_rule(rule):
    """A rule on a small recurrent network of adaptive neurons."""
    from localplast.models import alif, leaky_readout
    from brian2 import ms

    head = f"{rule.name} ({rule.reference}), cuts: {', '.join(sorted(rule.cut)) or 'nothing'}, feedback: {rule.feedback}"
    if not rule.local:
        forward = getattr(rule, "form", None) == "forward"
        how = "P = ds/dp carried forward: P' = F_s P + F_p" if forward else "automatic differentiation through the whole trial"
        return f"{head}\n{how}"
    net = Network(
        dt=1 * ms, cues=Input(4), rec=Population(5, alif()), out=Population(2, leaky_readout()),
        projections=[Projection("cues", "rec"), Projection("rec", "rec"), Projection("rec", "out")],
    )
    return f"{head}\n{describe_plan(net, plan(net, rule, cross_entropy()))}"
