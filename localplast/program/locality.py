"""Is a rule local? What every synapse reads and stores, and what none may read.

A synapse may read what it stores itself, the traces of its presynaptic neuron, the variables of its postsynaptic
neuron, constants, and one third factor: the learning signal ``L`` of its postsynaptic neuron (at a readout: its
``error``; where compartments learn from each other: the ``mismatch`` of the compartment). A neuron
may read its own state and ``L``. A learning signal may carry errors and signals of the populations that it names.
:func:`audit` walks the programs of a :class:`~localplast.program.learn.Plan` and lists what breaks this; the text
that Brian2 then runs is audited by :mod:`localplast.backends.brian2.audit`.
"""

from dataclasses import dataclass

from brian2.core.namespace import DEFAULT_UNITS

from localplast.errors import LocalplastError
from localplast.network.convolution import form_of
from localplast.network.nodes import Input
from localplast.neuron.step import lower
from localplast.task.loss import Reward

__all__ = ["Audit", "LocalityError", "Reads", "Storage", "audit", "neuron_scope", "reads", "storage"]

SLOTS = ("shift", "before", "after", "before_reset", "end")
GLOBAL = ("loss", "score", "normaliser", "teacher")


class LocalityError(LocalplastError):
    """A synapse or a neuron reads what it has no access to."""


@dataclass(frozen=True)
class Reads:
    """What the synapses of one projection read, by where it is.

    Attributes
    ----------
    own, pre, post, third : tuple of str
        The synapse's own state, traces of its presynaptic neuron, variables of its postsynaptic neuron, the third
        factor.
    constants : tuple of str
        Numbers that are the same for all synapses.
    foreign : tuple of str
        Everything else: each one breaks locality.
    """

    own: tuple
    pre: tuple
    post: tuple
    third: tuple
    constants: tuple
    foreign: tuple


@dataclass(frozen=True)
class Storage:
    """What a projection keeps from step to step beside its weights, names by place.

    Attributes
    ----------
    synapse : tuple of str
        Traces.
    sums : tuple of str
        Gradients, summed until they are used.
    optimiser, feedback : tuple of str
        The optimiser's numbers per synapse, and the feedback weight that learns.
    pre, post : tuple of str
        Traces per presynaptic and per postsynaptic neuron.
    working : tuple of str
        Values per neuron that are computed anew in every step; the Brian2 backend has a variable for each.
    """

    synapse: tuple
    sums: tuple
    optimiser: tuple
    feedback: tuple
    pre: tuple
    post: tuple
    working: tuple


@dataclass(frozen=True)
class Audit:
    """What :func:`audit` found.

    Attributes
    ----------
    violations : tuple of str
        Reads that no synapse or neuron could make.
    reasons : tuple of str
        Why a rule is not local in a strict sense: what its learning signal needs to know.
    notes : tuple of str
        What else to know about the third factor.
    """

    violations: tuple = ()
    reasons: tuple = ()
    notes: tuple = ()

    @property
    def local(self):
        """Whether synapses and neurons read only what is theirs, and the third factor."""
        return not self.violations

    @property
    def strict(self):
        """Whether it is local, and its third factor needs no weights of other synapses either."""
        return self.local and not self.reasons

    def check(self):
        """Itself; raises :class:`LocalityError` where there are violations."""
        if self.violations:
            raise LocalityError("not local: " + "; ".join(self.violations))
        return self


def symbols(expression):
    return {s.name for s in getattr(expression, "free_symbols", ())} - set(DEFAULT_UNITS)


def used_early(program, kept=()):
    """Names that a program reads before it assigns them: values of the past step, if they are ``kept``."""
    assigned, written, early = {name for name, _ in program}, set(), []
    for name, expression in program:
        early += sorted((symbols(expression) & assigned) - written - set(kept) - set(early))
        written.add(name)
    return tuple(early)


def constants_of(population):
    """Names of the numbers that all neurons of a population share, and of those that differ."""
    shared = {n for n, v in population.values.items() if not getattr(v, "shape", ())}
    return shared | {"dt"}, set(population.values) - shared


def neuron_scope(plan, net, name):
    """What a neuron of population ``name`` knows at each slot of a step, as ``{slot: names}``, and all of it as
    ``'all'``.
    """
    population, neuron = net.nodes[name], plan.neurons[name]
    step, (shared, differing) = lower(population.model), constants_of(population)
    base = {*step.state, *step.inputs, *shared, *differing, "not_refractory", *population.model.subexpressions}
    third = ({"L"} if name in plan.signals else set()) | ({"error"} if name in plan.readouts else set())
    names = {slot: {n for n, _ in getattr(neuron, slot)} for slot in SLOTS}
    third |= reward_signal(plan)
    past, scope, known = {*neuron.past, *neuron.sums}, {}, set(base)
    for slot in SLOTS:
        known |= {"before_reset": {"z", "spike_count"}, "end": third}.get(slot, set())
        scope[slot] = known | past if slot != "before" else set(known)
        known |= names[slot]
    return {**scope, "all": known - third}


def reward_signal(plan):
    """The temporal difference error, one number for all, where the loss is a reward."""
    return {"td"} if isinstance(plan.loss, Reward) else set()


def domains(plan, net, p):
    """Names that a synapse of ``p`` may read, as ``{domain: names}``."""
    synapse = plan.synapses[p.name]
    shared, _ = constants_of(net.nodes[p.post])
    arrived = {"arrived", "past_arrived"}
    pre = {n for n, _ in synapse.eligibility.pre} | (arrived if synapse.eligibility.arrives == "pre" else set())
    own = {n for n, _ in synapse.program} | set(synapse.state) | set(synapse.sums) | {"w"}
    own |= {"B"} if synapse.learned else set()
    own |= set(plan.optimiser.state) if plan.optimiser else set()
    own |= arrived - pre if synapse.eligibility.arrives == "synapse" else set()
    third = ({synapse.third} if synapse.third != "L" or p.post in plan.signals else set()) | reward_signal(plan)
    constants = shared | {"learning_rate", "updates"}
    post = neuron_scope(plan, net, p.post)["all"] - constants - third
    return {"own": own, "pre": pre, "third": third, "post": post, "constants": constants}


def synapse_statements(plan, p):
    """Everything that a synapse computes: its program, the rate regulariser, the optimiser; as
    ``(name, names read)``.
    """
    synapse = plan.synapses[p.name]
    found = [(name, symbols(e)) for name, e in synapse.program]
    if synapse.regularised:
        found.append(("gradient", {"gradient", "spike_count", "elig_sum"}))
    if plan.optimiser:
        renamed = {"g": "gradient", "k": "updates"}
        found += [
            (name, {renamed.get(n, n) for n in symbols(e)}) for name, e in plan.optimiser.program(projection=p.name)
        ]
    return found


def reads(plan, net, projection):
    """The :class:`Reads` of one projection."""
    p = net.projections[projection]
    where, found = domains(plan, net, p), {name: set() for name in Reads.__dataclass_fields__}
    for _, names in synapse_statements(plan, p):
        for name in names:
            found[next((d for d, known in where.items() if name in known), "foreign")].add(name)
    return Reads(**{domain: tuple(sorted(names)) for domain, names in found.items()})


def storage(plan, net, projection):
    """The :class:`Storage` of one projection."""
    p = net.projections[projection]
    synapse, neuron = plan.synapses[projection], plan.neurons[p.post]
    kept = used_early([line for slot in SLOTS for line in getattr(neuron, slot)])
    pre, post = used_early(synapse.eligibility.pre), tuple(n for n in kept if n not in neuron.personal)
    neurons = [n for n, _ in synapse.eligibility.pre] + [n for slot in SLOTS for n, _ in getattr(neuron, slot)]
    return Storage(
        synapse=synapse.state,
        sums=synapse.sums,
        optimiser=tuple(plan.optimiser.state) if plan.optimiser else (),
        feedback=("B",) if synapse.learned else (),
        pre=pre,
        post=post,
        working=tuple(dict.fromkeys(n for n in (*neurons, synapse.third) if n not in {*pre, *kept})),
    )


# --- the audit --------------------------------------------------------------------------------------------------------


def audit(plan, net):
    """Walk every statement of ``plan`` and every term of its signals; returns an :class:`Audit`, ``.check()``
    raises.
    """
    violations = [v for name in plan.synapses for v in synapse_violations(plan, net, net.projections[name])]
    violations += [v for name in plan.neurons for v in neuron_violations(plan, net, name)]
    violations += signal_violations(plan, net)
    return Audit(tuple(dict.fromkeys(violations)), tuple(reasons(plan, net)), tuple(notes(plan, net)))


def synapse_violations(plan, net, p):
    synapse, where = plan.synapses[p.name], domains(plan, net, p)
    known, title = set().union(*where.values()), f"synapses of {p.name!r}"
    for name, names in synapse_statements(plan, p):
        yield from (f"{title}: {name} reads {n!r}, {blame(net, plan, n)}" for n in sorted(names - known))
    for name in used_early(synapse.program, {*synapse.state, *synapse.sums}):
        yield f"{title}: {name!r} is read before it is computed and is not stored, so it would be a value of the future"
    allowed = where["pre"] | constants_of(net.nodes[p.post])[0]
    for name, expression in synapse.eligibility.pre:
        for n in sorted(symbols(expression) - allowed):
            yield f"traces of {p.pre!r} for {p.name!r}: {name} reads {n!r}, which a presynaptic neuron does not have"


def neuron_violations(plan, net, name):
    scope = neuron_scope(plan, net, name)
    for slot in SLOTS:
        program = getattr(plan.neurons[name], slot)
        known, written = set(scope[slot]), set()
        later = {n for n, _ in program}
        for target, expression in program:
            for n in sorted(symbols(expression) - known - written):
                if (
                    n in later
                    or n in {"z", "L", "error"}
                    or any(n in dict(getattr(plan.neurons[name], s)) for s in SLOTS)
                ):
                    why = "which is not known yet at that moment of the step: a value of the future"
                else:
                    why = blame(net, plan, n)
                yield f"neurons of {name!r}: {target} reads {n!r} {slot.replace('_', ' ')}, {why}"
            written.add(target)


def blame(net, plan, name):
    """Whose a foreign name is, in words."""
    if name in GLOBAL:
        return "which belongs to the whole readout: a loss is not a third factor of one neuron"
    if name in ("L", "error", "lure"):
        return "a third factor that this population does not receive"
    for other in net.projections:
        if other in name:
            return f"which belongs to the projection {other!r}"
    for other in net.nodes:
        if name.endswith(f"_{other}") or name.startswith(f"{other}_"):
            return f"which belongs to {other!r}"
    return "which is neither its own, nor of the neurons on its two ends, nor its third factor"


def signal_violations(plan, net):
    """Terms that carry something else than an error or a signal of the population that they name."""
    ready = set()
    for name, signal in plan.signals.items():
        for term in signal.terms:
            title = f"learning signal of {name!r}"
            if term.source not in net.nodes or isinstance(net.nodes[term.source], Input):
                yield f"{title}: {term.source!r} is no population of the network"
            elif term.variable in ("error", "lure"):
                if term.source not in plan.readouts:
                    yield f"{title}: {term.source!r} is no readout and has no {term.variable!r}"
            elif term.variable != "L" and term.variable not in dict(plan.neurons[term.source].end):
                yield f"{title}: it carries {term.variable!r} of {term.source!r}, which that population does not send"
            elif term.source not in ready:
                yield f"{title}: it needs the signal of {term.source!r}, which is not known yet: a value of the future"
            if term.path is not None and (net.projections[term.path].pre, net.projections[term.path].post) != (
                name,
                term.source,
            ):
                yield f"{title}: {term.path!r} does not lead from {name!r} to {term.source!r}"
        if signal.lag < 0:
            yield f"learning signal of {name!r}: it is {-signal.lag} steps early, a value of the future"
        ready.add(name)


#: Feedback that reads weights of other synapses.
TRANSPORT = {"weight": "the forward weights", "sign": "the signs of the forward weights"}


def reasons(plan, net):
    for name in plan.synapses:
        if form := form_of(net.projections, net.projections[name]):
            places = f"{form.made[1]} x {form.made[2]}"
            yield f"the kernel of {name} learns from a sum over all places that share it, {places} (weight sharing)"
    for name, p in net.projections.items():
        if (form := form_of(net.projections, p)) and form.largest and not form.transposed:
            square = f"{form.size} x {form.size} neurons of {p.pre}"
            yield f"{name} carries the largest of each {square}: they know of each other"
    for name, same in net.tied.items():
        if net.projections[same.projection].plastic:
            yield (
                f"what {name} carries back goes through the weights of {same.projection}, read backwards "
                "(weight transport)"
            )
    for name, signal in plan.signals.items():
        for term in signal.terms:
            if term.form in TRANSPORT and net.projections[term.path].plastic:
                carrier = f"{TRANSPORT[term.form]} of {term.path}, read backwards (weight transport)"
                yield f"the learning signal of {name} is carried by {carrier}"


def notes(plan, net):
    if plan.loss.derived.coupled and not reward_signal(plan):
        yield f"the error of {', '.join(plan.readouts)} is a softmax: each output neuron hears the sum over all of them"
    for name, signal in plan.signals.items():
        for term in signal.terms:
            if term.form in TRANSPORT and not net.projections[term.path].plastic:
                yield (
                    f"the signal of {name} is carried by the weights of {term.path}, which never learn: a fixed copy "
                    "serves"
                )
            if term.form == "learned":
                yield (
                    f"the feedback to {name} learns by the same product of its two neurons as the weights of "
                    f"{term.path} do"
                )
            if term.form == "fixed" and term.variable == "lure":
                yield f"{name} hears the targets of {term.source}, not its error"
    if plan.loss.regulariser:
        running = getattr(plan.loss.regulariser, "window", None)
        what = (
            "running rate of the postsynaptic neuron"
            if running
            else "spike count of the postsynaptic neuron, at the end of a trial"
        )
        yield f"the rate regulariser reads the {what}"
    if reward_signal(plan):
        yield "all synapses hear one temporal difference error, td, as they would a neuromodulator"
    if any(s.eligibility.arrives == "pre" and s.eligibility.pre for s in plan.synapses.values()):
        yield "traces per presynaptic neuron use constants of its targets (time constants), which all of these share"
