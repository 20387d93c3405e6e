"""The locality of the text that Brian2 runs: every name in it must belong to the synapse, to its two neurons, or to
none.

:func:`localplast.program.locality.audit` judges the plan; this judges what was made of it. Brian2 says of every
variable whose it is and by which index it is read: a synapse reads its own at its own index, its neurons' at theirs,
and nothing else.
"""

import brian2 as b2
import numpy as np
from brian2.codegen.translation import analyse_identifiers
from brian2.core.functions import DEFAULT_FUNCTIONS, Function
from brian2.core.namespace import DEFAULT_UNITS
from brian2.groups.group import CodeRunner
from brian2.groups.neurongroup import Resetter, StateUpdater, Thresholder
from brian2.synapses.synapses import Synapses
from brian2.utils.stringtools import get_identifiers, strip_empty_lines

from localplast.backends.brian2.build import build
from localplast.backends.brian2.learning import feedback_name
from localplast.backends.brian2.session import codegen
from localplast.backends.brian2.tables import Table
from localplast.backends.brian2.timing import CLOCK, Block, longest_delay
from localplast.equations.slopes import FUNCTIONS
from localplast.network.sent import sent_text, sent_texts
from localplast.program.locality import neuron_scope, reward_signal
from localplast.task.trials import Trials

__all__ = ["audit_text", "example_trials", "text_violations"]

WORDS = {"and", "or", "not", "True", "False"}
INDICES = ("_synaptic_pre", "_synaptic_post", "_presynaptic_idx", "_postsynaptic_idx")


def example_trials(net, steps=5):
    """Silence, in the shape of one trial."""
    return Trials(
        {
            n: np.zeros((1, steps, node.size), bool if node.kind == "spikes" else float)
            for n, node in net.inputs.items()
        },
        np.zeros((1, steps, net.size(net.readouts[0]))),
        weight=np.ones(steps),
    )


def audit_text(net, plan, values=None):
    """Build ``plan`` in Brian2 without running it; returns what its text reads and may not, as a tuple of str."""
    trials, values = example_trials(net), values or net.draw(0)
    with codegen("numpy"):  # making synapses is code too, and Brian2's default compiles it
        built = build(net, values, Block.of(trials, longest_delay(values.delays)), trials, plan=plan)
    b2.Network(*built.objects.values())  # Brian2 warns of objects that belong to none
    return text_violations(built, plan)


def text_violations(built, plan):
    """As :func:`audit_text`, for objects that exist."""
    net, found = built.net, []
    for name, thing in built.objects.items():
        if isinstance(thing, Synapses):
            found += synapses_violations(net, plan, name, thing)
        elif name in net.nodes:
            found += group_violations(name, thing)
    return tuple(dict.fromkeys(found))


# --- synapses ---------------------------------------------------------------------------------------------------------


def synapses_violations(net, plan, name, synapses):
    if name.startswith("arrivals_"):
        if not np.array_equal(synapses.i[:], synapses.j[:]):
            yield f"{name}: spikes arrive at the traces of another neuron"
        return
    allowed = synapse_names(net, plan, name, synapses)
    if allowed is None:
        if name not in net.projections and name not in declared(net, plan):
            yield f"{name}: an object that the plan does not declare"
        return
    for title, text, may_write in texts_of(net, synapses, name):
        yield from statement_violations(f"{name}, {title}", text, synapses, allowed, may_write)
    for target, updater in synapses.summed_updaters.items():
        if name in net.projections and net.projections[name].transmission == "graded":
            continue  # what the network does, whatever learns
        names = signal_names(plan, name)
        for n in sorted(identifiers(updater.expression.code) - names):
            yield f"{name}, sum into {target}: reads {n!r}; it is declared to carry {sorted(names)}"


def declared(net, plan):
    """Objects that make the third factor out of several neurons; the audit of the plan says so in its notes."""
    if reward_signal(plan):
        return {"choice", "income_sum", *(f"surprise_{name}" for name in net.populations)}
    return {f"softmax_{name}" for name in plan.readouts} if plan.loss.derived.coupled else set()


def synapse_names(net, plan, name, synapses):
    """What the text of one Synapses may read of its neurons, with Brian2's endings; None where nothing learns."""
    if name not in plan.synapses:
        return set() if any(name == feedback_name(*key) for key in plan.fixed) else None
    p = net.projections[name]
    eligibility = plan.synapses[name].eligibility
    pre = {f"{key}_{name}_pre" for key, _ in eligibility.pre}
    if f"arrived_{name}_pre" in synapses.variables:
        pre |= {f"{key}_{name}_pre" for key in ("arrived", "past_arrived")}
    else:
        pre |= {"signal_pre", f"{carried(net, p, eligibility.source)}_pre"}
    post = (
        neuron_scope(plan, net, p.post)["all"] | ({"error"} if p.post in plan.readouts else {"L"}) | reward_signal(plan)
    )
    return pre | {f"{n}_post" for n in post}


def carried(net, p, source):
    """The variable of the presynaptic neuron whose value in this step is what arrives."""
    if source:
        return source
    if p.pre in net.inputs:
        return "r"
    return f"sent_{sent_texts(net, p.pre)[sent_text(p, net.nodes[p.pre].model)]}" if p.transmission == "graded" else "z"


def signal_names(plan, name):
    """What a sum over the synapses of ``name`` may read: its own weight, and the one variable that its term
    declares.
    """
    for target, signal in plan.signals.items():
        for term in signal.terms:
            if term.form == "fixed" and name == feedback_name(target, term.source):
                return {"B", f"{term.variable}_pre"}
            if term.form != "fixed" and name == term.path:
                return {"w", "B", "gain", f"{term.variable}_post"}
    return set()


def texts_of(net, synapses, name):
    """``(title, text, variables of neurons that it may add to)`` of everything that synapses run."""
    for runner in synapses.contained_objects:
        if isinstance(runner, CodeRunner) and hasattr(runner, "code") and runner in synapses._pathways:
            delivers = runner.name in (f"{name}_deliver", f"{name}_late")
            yield runner.name, runner.code, {f"{net.projections[name].target}_post"} if delivers else set()
        elif isinstance(runner, CodeRunner) and runner not in synapses.summed_updaters.values():
            if runner.abstract_code.strip():
                yield runner.name, runner.abstract_code, set()


def statement_violations(title, text, synapses, allowed, may_write):
    new, _, _ = analyse_identifiers(strip_empty_lines(text), synapses.variables, recursive=True)
    for n in sorted(identifiers(text) - set(new)):
        variable, index = synapses.variables.get(n), synapses.variables.indices[n] if n in synapses.variables else None
        if variable is None:
            if n in synapses.namespace and isinstance(synapses.namespace[n], Table):
                yield f"{title}: reads the table {n!r}"
            else:
                yield f"{title}: {n!r} is no variable of the synapse or of its neurons"
        elif isinstance(variable, Function) or owner_of(variable) == CLOCK:
            continue
        elif n in INDICES or n in ("i", "j"):
            yield f"{title}: reads the index {n!r}"
        elif owner_of(variable) == synapses.name and index in ("_idx", "0"):
            continue
        elif n not in allowed | may_write:
            yield f"{title}: reads {n!r} of {owner_of(variable)!r}, which the plan does not give it"
    for n in sorted(written(text) - set(new) - may_write):
        if not (n in synapses.variables and synapses.variables[n].owner.name == synapses.name):
            yield f"{title}: writes {n!r}, which is not its own"


def owner_of(variable):
    """The name of the Brian2 object whose variable this is; the clock's are known to everybody."""
    return getattr(variable.owner, "name", "?")


def identifiers(text):
    return get_identifiers(text) - WORDS - set(DEFAULT_UNITS) - set(DEFAULT_FUNCTIONS) - set(FUNCTIONS)


def written(text):
    """Names that statements assign."""
    lines = [line.split("=")[0].rstrip(" +-*/") for line in text.splitlines() if "=" in line]
    return {line.strip() for line in lines}


# --- neurons ----------------------------------------------------------------------------------------------------------


def group_violations(name, group):
    """Neurons read what is theirs, at their own index; tables of input and targets at their own column."""
    for title, text in texts_of_group(group):
        for n in sorted(identifiers(text)):
            variable = group.variables.get(n)
            if variable is None or isinstance(variable, Function) or owner_of(variable) == CLOCK or n == "i":
                continue
            if owner_of(variable) != group.name or group.variables.indices[n] not in ("_idx", "0"):
                yield f"{name}, {title}: reads {n!r} of another neuron ({owner_of(variable)})"


def texts_of_group(group):
    for thing in group.contained_objects:
        if isinstance(thing, StateUpdater):
            if callable(group.method_choice):
                yield "update", group.method_choice()
        elif isinstance(thing, Resetter):
            yield "reset", group.event_codes.get("spike", "")
        elif isinstance(thing, Thresholder):
            yield f"event {thing.event}", group.events[thing.event]
        elif isinstance(thing, CodeRunner):
            yield thing.name, thing.abstract_code
