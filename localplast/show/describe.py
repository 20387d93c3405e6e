"""What a rule does to a network, for a person: derived equations, where each value is stored, what it costs, what it
reads.
"""

import ast
import re
from dataclasses import replace

import numpy as np

from localplast.equations.language import symbol
from localplast.equations.text import to_text
from localplast.neuron.spelling import spelled, told, words_of
from localplast.neuron.step import jacobian, lower
from localplast.program.learn import plan
from localplast.program.locality import SLOTS, TRANSPORT, audit, reads, storage
from localplast.show.notation import math_name, math_text, plain_text
from localplast.show.page import Description, Equation, Section, assignments
from localplast.task.loss import Reward, mse

__all__ = ["describe", "describe_model"]

#: What the words of a loss are called where there are several outputs, as text and LaTeX.
WORDS = {
    "output": ("y_k", "y_k"),
    "target": ("target_k", "y^{*}_k"),
    "softmax": ("softmax_k", r"\mathrm{softmax}_k"),
    "whole": ("whole", "Y^{*}"),
}
#: What all outputs have in common.
REDUCTIONS = {
    "softmax": ("exp(y_k)/sum_l exp(y_l)", r"\frac{e^{y_k}}{\sum_l e^{y_l}}"),
    "whole": ("sum_l target_l", r"\sum_l y^{*}_l"),
}
MOMENTS = {
    "shift": "first of all in a step",
    "before": "before the update",
    "after": "after the update, before the reset",
    "before_reset": "at the reset",
    "end": "once the learning signal is known",
}
MATRICES = {
    "weight": ("w_{}", "the forward weights of {}, transposed (weight transport)"),
    "sign": ("sign(w_{})", "the signs of the forward weights of {}, transposed (weight transport)"),
    "learned": ("B_{}", "random at first, then learned beside the weights of {}"),
    "fixed": ("B_{}", "fixed"),
}
ROLES = {
    "elig": "the eligibility of past steps, for the error is late",
    "eps": "how the weight has moved {}: it differs from target to target",
    "filtered": "the eligibility as {} of the readout remembers it",
    "elig_sum": "the eligibility of the whole trial, for the rate regulariser",
    "drift": "the same for the delay",
    "past": "what arrived a step ago: what a longer delay would let arrive now",
}


def describe_model(model):
    """A model as a :class:`~localplast.show.page.Description`: its step as Brian2 integrates it, and the step's
    derivatives.
    """
    (first, *rest), words, model = repr(model).splitlines(), words_of(model), spelled(model)
    step, found = lower(model), jacobian(lower(model))
    body = list(assignments(found.program, {}))
    for (row, column), e in found.entries.items():
        shown = next(assignments([(row, e)], {}))
        left = rf"\partial {shown.left} / \partial {math_name(column)}"
        body.append(Equation(f"d {row} / d {column} = {to_text(e)}", left, shown.right))
    code = Section(f"one step ({model.method})", tuple(f"  {line}" for line in step.code.splitlines()))
    sections = (code, Section("derivatives of the step", tuple(body)))
    return Description(first, tuple(rest), told(sections, words))


def describe(rule, net, loss=None, *, optimiser=None):
    """What ``rule`` does on ``net``; ``rule.describe(net)`` calls it.

    Parameters
    ----------
    rule : Rule
    net : Network
    loss : Loss
        Default: half the squared error.

    Other arguments
    ---------------
    optimiser : Optimiser, optional
        Its statements and its numbers per synapse, too.

    Returns
    -------
    Description
    """
    spelling = net.spelling
    with spelling.errors():
        inside = described(rule, spelling.net, loss or mse(), spelling.optimiser(optimiser))
    return replace(spelling.told(inside), sections=spelling.told(inside.sections, "neuron."))


def described(rule, net, loss, optimiser):
    """As :func:`describe`, of a network as plans are made of it."""
    title = f"{rule.name} ({rule.reference})" if rule.reference else rule.name
    cut = (
        f"edges of the credit graph that it ignores: {', '.join(sorted(rule.cut)) or 'none'}",
        *(f"no gradient passes through {', '.join(found)} in {name!r}" for name, found in stopped(net)),
    )
    if not rule.local:
        return Description(title, (*cut, f"feedback: {kind(rule)}"), (needs(rule, net),))
    made = plan(net, rule, loss, optimiser)
    found = audit(made, net)
    sections = [error_section(made), *(signal_section(made, net, name) for name in made.signals)]
    sections += [s for name in net.populations if (s := neuron_section(made, net, name)).body]
    sections += [projection_section(made, net, name) for name in made.synapses]
    if optimiser:
        names = {n: "ij" for n in ("w", "gradient", "g", *optimiser.state)}
        program = [(n, e) for n, e in optimiser.program()]
        sections.append(Section(f"update ({optimiser.name}), per synapse", tuple(assignments(program, names))))
    sections.append(locality_section(found))
    return Description(
        title,
        (composition(rule), *cut),
        tuple(sections),
        {n: storage(made, net, n) for n in made.synapses},
        {n: reads(made, net, n) for n in made.synapses},
        found,
    )


def stopped(net):
    """Edges that text cuts: each population, and each projection with an output of its own, with its ``stop(...)``."""
    owners = {
        name: (*population.model.texts, population.model.threshold) for name, population in net.populations.items()
    }
    for name, texts in (owners | {name: (p.output,) for name, p in net.projections.items()}).items():
        nodes = [node for text in texts if text for node in ast.walk(ast.parse(text))]
        calls = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "stop"]
        if calls:
            yield name, sorted({ast.unparse(node) for node in calls})


def kind(rule):
    """Feedback in a word."""
    return "given matrices" if isinstance(rule.feedback, dict) else rule.feedback


def composition(rule):
    """The four parts of a rule in one sentence."""
    when = {"trial": "at the end of a trial", "step": "in every step"}.get(
        rule.update if isinstance(rule.update, str) else ""
    )
    return (
        f"eligibility {rule.eligibility!r}, filter {rule.filter!r}, signal {type(rule.signal).__name__} "
        f"({kind(rule)}); weights change {when or f'every {rule.update}'}"
    )


# --- local rules ------------------------------------------------------------------------------------------------------


def error_equations(loss):
    """The error of output ``k``, after what all outputs have in common."""
    if isinstance(loss, Reward):
        yield Equation("error_k = d loss / d y_k", "E_k", r"\partial \ell / \partial y_k")
        return
    for reduction in loss.derived.reductions:
        (name, left), (text, right) = WORDS[reduction.name], REDUCTIONS[reduction.name]
        yield Equation(f"{name} = {text}", left, right)
    numbers = {symbol(name): value if value % 1 else int(value) for name, value in loss.constants.items()}
    error = loss.derived.expanded(loss.derived.error).subs(numbers)
    text = re.sub(r"[A-Za-z_]\w*", lambda word: WORDS.get(word[0], (word[0],))[0], plain_text(error))
    yield Equation(f"error_k = {text}", "E_k", math_text(error, names={name: tex for name, (_, tex) in WORDS.items()}))


def error_section(made):
    body = [*error_equations(made.loss), "times the weight of the step in the loss; y is the readout's output"]
    if made.loss.regulariser and not getattr(made.loss.regulariser, "window", None):
        body.append(
            "rates are regularised: at the end of a trial the gradient takes in elig_sum times the error of the rate"
        )
    return Section(f"error of {', '.join(made.readouts)} ({made.loss.name}), per output neuron k", tuple(body))


def signal_section(made, net, name):
    signal, texts, formulas = made.signals[name], [], []
    body: list[Equation | str] = []
    for term in signal.terms:
        matrix, words = MATRICES[term.form]
        if term.form in TRANSPORT and not net.projections[term.path].plastic:
            words = "the weights of {}, transposed; they never learn"
        texts.append(f"sum_k {matrix.format('jk')}*{term.variable}_k")
        letter = "B" if matrix.startswith("B") else "w"
        factor = rf"\mathrm{{sign}}\left({letter}_{{jk}}\right)" if term.form == "sign" else f"{letter}_{{jk}}"
        formulas.append(rf"\sum_k {factor}\, {math_name(term.variable, 'k')}")
        size = (
            ""
            if term.matrix is None or term.form == "sign"
            else f" (standard deviation {float(np.std(term.matrix)):.3g})"
        )
        body.append(f"{matrix.format('jk')}: {words.format(term.path)}{size}; {term.variable}: of {term.source}")
    body.insert(0, Equation(f"L_j = {' + '.join(texts)}", "L_j", " + ".join(formulas)))
    body.append(
        f"lag: {signal.lag} steps; it meets the eligibility of that many steps ago" if signal.lag else "lag: 0 steps"
    )
    return Section(f"learning signal of {name}, per neuron j", tuple(body))


def indices_of(made, net, p):
    """The index of every name that the synapses of ``p`` use: ``i`` of the source, ``j`` of the target, ``ij``."""
    synapse, found = made.synapses[p.name], neuron_indices(made, net, p.post)
    found |= {"error": "j", "L": "j", **dict.fromkeys([n for n, _ in synapse.eligibility.pre], "i")}
    found["arrived"] = "i" if synapse.eligibility.arrives == "pre" else "ij"
    return found | dict.fromkeys([n for n, _ in synapse.program], "ij") | {"w": "ij"}


def neuron_indices(made, net, name):
    """Of what a neuron ``j`` has: its state, and what its programs compute."""
    population, step = net.nodes[name], lower(net.nodes[name].model)
    own = [n for slot in SLOTS for n, _ in getattr(made.neurons[name], slot)]
    differing = [n for n, v in population.values.items() if np.ndim(v)]
    return dict.fromkeys([*own, *step.state, *step.inputs, *differing, "z", "L", "not_refractory", "spike_count"], "j")


def neuron_section(made, net, name):
    body, indices = [], neuron_indices(made, net, name)
    for slot in SLOTS:
        program = getattr(made.neurons[name], slot)
        if program:
            body += [f"{MOMENTS[slot]}:", *assignments(program, indices)]
    if made.parameters.get(name):
        neuron = made.neurons[name]
        kept = [n for n in (*neuron.past, *neuron.sums) if n in neuron.personal]
        body.append(
            f"parameters that learn: {', '.join(made.parameters[name])}; stored for them: {listed(kept)} per neuron"
        )
    return Section(f"per postsynaptic neuron j of {name}", tuple(body))


def projection_section(made, net, name):
    p, synapse = net.projections[name], made.synapses[name]
    indices, body = indices_of(made, net, p), []
    if synapse.eligibility.pre:
        body += [f"stored per presynaptic neuron i of {p.pre}, the same for all its targets; between two steps:"]
        body += assignments(synapse.eligibility.pre, indices)
    if synapse.eligibility.source:
        body.append(f"arrived: {synapse.eligibility.source} of the presynaptic neuron")
    body += ["per synapse ij, at the end of a step:", *assignments(synapse.program, indices)]
    body += [*cost_lines(storage(made, net, name), p), *reads_lines(reads(made, net, name), p)]
    return Section(f"weights of {name} ({p.pre} -> {p.post}.{p.target})", tuple(body))


def listed(names):
    return f"{len(names)} ({', '.join(names)})" if names else "0"


def cost_lines(kept, p):
    yield (
        f"stored beyond the weight: {listed(kept.synapse)} per synapse; besides it: gradient sum {listed(kept.sums)}"
        + (f", optimiser {listed(kept.optimiser)}" if kept.optimiser else "")
        + (f", learned feedback {listed(kept.feedback)}" if kept.feedback else "")
    )
    for name in kept.synapse:
        yield f"  {name}: {role(name)}"
    yield f"  per presynaptic neuron {listed(kept.pre)}, per postsynaptic neuron {listed(kept.post)}"
    yield f"  anew in every step, per neuron: {', '.join(kept.working) or 'nothing'}"


def role(name):
    """What a stored value is for."""
    if name in ("elig", "elig_sum"):
        return ROLES[name]
    if re.match(r"late\d+_", name):
        return ROLES["elig"]
    prefix, _, rest = name.partition("_")
    return ROLES.get(prefix, "a filter of the eligibility").format(rest)


def reads_lines(found, p):
    yield "every synapse reads"
    third = "error of its output neuron" if "error" in found.third else "learning signal"
    for title, names in (
        ("its own state", found.own),
        (f"its presynaptic neuron ({p.pre})", found.pre),
        (f"its postsynaptic neuron ({p.post})", found.post),
        (f"third factor ({third})", found.third),
        ("constants", found.constants),
        ("NOT LOCAL", found.foreign),
    ):
        if names or title != "NOT LOCAL":
            yield f"  {title}: {', '.join(names) or 'nothing'}"


def locality_section(found):
    if not found.local:
        title, body = "NOT LOCAL", found.violations
    elif not found.strict:
        title, body = "local but for its learning signal: not local in a strict sense", found.reasons
    else:
        title, body = "local", ("every synapse reads what it and its two neurons hold, and one third factor",)
    return Section(title, (*body, *found.notes))


# --- rules that are not local -----------------------------------------------------------------------------------------


def needs(rule, net):
    """What automatic differentiation, or its forward form, keeps and reads in place of traces."""
    steps = [(p.size, lower(p.model)) for p in net.populations.values()]
    states = sum(size * (len(step.state) + len(step.inputs) + step.model.spiking) for size, step in steps)
    pairs = sum(int(mask.sum()) for n, mask in net.draw(0).masks.items() if net.projections[n].plastic)
    if rule.form == "forward":
        body = (
            Equation("P = F_s*P + F_w", "P", r"\frac{\partial F}{\partial s} P + \frac{\partial F}{\partial w}"),
            Equation("gradient += error*dy/ds*P", "g", r"g + E\, \frac{\partial y}{\partial s} P"),
            f"stored: P, how every state moves with every weight: {states} x {pairs} = {states * pairs} numbers",
            "  more where spikes are in flight",
            f"  per synapse: {states}, one for every state of the network; independent of the length of a trial",
            "every synapse reads: the derivatives of all neurons and all weights; not local, but causal",
        )
        return Section("P = ds/dw carried forward with the whole network (real-time recurrent learning)", body)
    body = (
        Equation(
            "delta = delta_next*F_s + error*dy/ds",
            r"\delta_{t}",
            r"\delta_{t+1} \frac{\partial F}{\partial s} + E_t \frac{\partial y}{\partial s}",
        ),
        Equation("gradient = sum_t delta*F_w", "g", r"\sum_t \delta_t \frac{\partial F}{\partial w}"),
        f"stored: the history of every neuron, {states} numbers per step and trial, until the trial has ended",
        "  nothing per synapse but the gradient",
        "every synapse reads: the errors of all later steps, through all weights between it and the readout; neither "
        "local nor causal",
    )
    return Section("backwards through the whole trial (automatic differentiation)", body)
