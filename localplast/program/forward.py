"""A network as a step program: docs/step.md as data.

Order: what leaves early, update, threshold, what leaves late; what travels; what arrives; resets and adaptation; what
is recorded.
"""

from dataclasses import dataclass, field

import numpy as np
import sympy
from brian2.units.allunits import second
from brian2.units.fundamentalunits import DIMENSIONLESS

from localplast.equations.language import int_, stop, timestep
from localplast.equations.rewriting import renamed, symbols_in
from localplast.network.check import sent_dimension, weight_dimension
from localplast.network.convolution import form_of
from localplast.network.credit_graph import projection_edges
from localplast.network.delays import kernel_kind, kernel_widths
from localplast.network.nodes import Input
from localplast.network.sent import sent_text, sent_texts
from localplast.neuron.step import expanded, lower, prospective
from localplast.program.arrays import ONE, Array, Dense, Diagonal, Kernel, Life, Neurons, One, Synapses, at, sparse
from localplast.program.instructions import Draw, Fire, Jump, Map, Reduce, Send, Taps
from localplast.program.program import Program

__all__ = ["Draft", "few", "forward", "owned"]

#: Steps since a spike that never was.
LONG_AGO = 1e9


def forward(net, values, *, record=(), learned=(), feedback=(), widths=None, fixed=True):
    """The step program of ``net``.

    Parameters
    ----------
    net : Network
    values : Values
        Which delays and synapses there are; all other numbers are given to who runs the program.
    record : iterable of str
        Such as ``'rec.v'``, ``'rec.spikes'``, ``'rec.psi'``, ``'out.output'``: seen in every step; ``'rec.count'``,
        spikes summed over the trial; ``'rec.sum'``, those of all neurons in a step.
    learned : iterable of str
        What changes: ``'rec_rec.weight'``, ``'rec.tau_mem'``, ``'rec_rec.delay'``; delays are then shared by steps.
    feedback : iterable of str
        Projections on whose way back another matrix stands, ``'rec_rec.feedback'``.
    widths : dict of str to float
        Of the kernels of delays that learn, in steps, by projection; default: those with which learning begins.
    fixed : bool
        Whether weights stay as they are while trials go on. Those that change act when a spike arrives, not when it
        leaves: a dendritic delay is then one of signals.

    Returns
    -------
    Program
    """
    widths = {**kernel_widths(net), **(widths or {})}
    made = Draft(net, values, frozenset(learned), frozenset(feedback), widths, fixed)
    return made.program(record)


def few(net, name, mask):
    """The synapses of a projection one by one where these are few, and no other one's too; else None."""
    shared = name in net.tied or name in {same.projection for same in net.tied.values()}
    return None if shared else sparse(mask)


def owned(name, expression):
    """An expression of a model with the names of the arrays of population ``name``, and of its lets."""
    return renamed(expression, {s: at(f"{name}.{s.name}") for s in symbols_in(expression)})


@dataclass
class Draft:
    """A program while it is written, slot by slot."""

    net: object
    values: object
    learned: frozenset
    feedback: frozenset
    widths: dict
    fixed: bool = True
    spaces: dict = field(default_factory=lambda: {ONE: One()})
    arrays: dict = field(default_factory=dict)
    step: list = field(default_factory=list)
    #: What spikes land on, by (population, variable), and the graded variables that are set already.
    boxes: dict = field(default_factory=dict)

    def program(self, record):
        """The whole program, with what is to be seen."""
        for name in self.net.nodes:
            self.node(name)
        for name, p in self.net.projections.items():
            if p.short_term:
                self.release(p)
            self.projection(name, p)
        for box in self.boxes:
            self.arrive(*box)
        for name in self.net.populations:
            self.before_reset(name)
        for name in self.net.populations:
            self.jump(name)
        self.end()
        for name, p in self.net.projections.items():
            if self.ahead(p):
                self.weigh(name, p)
        self.change()
        for what in record:
            self.see(what)
        return Program(self.spaces, self.arrays, tuple(self.step))

    def before_update(self, name):
        """What neurons that learn note of the state before the update."""

    def after_update(self, name):
        """What they note after it."""

    def before_reset(self, name):
        """What they note when spikes have arrived."""

    def end(self):
        """Learning comes last."""

    def change(self):
        """Numbers that learn within a trial change when all have been read."""

    def array(self, name, space, life, unit=DIMENSIONLESS, **more):
        """Declare an array; returns its symbol."""
        self.arrays[name] = Array(name, space, life, unit, **more)
        return at(name)

    def number(self, name, space, numbers, unit=DIMENSIONLESS, role="parameter"):
        """Declare numbers of the network: of one space, or one for all."""
        life = Life.LEARNED if name in self.learned else Life.FIXED
        return self.array(name, space if np.ndim(numbers) else ONE, life, unit, trial=False, role=role)

    # --- neurons ------------------------------------------------------------------------------------------------------

    def node(self, name):
        """Declare an input or a population; a population's first statements."""
        node = self.net.nodes[name]
        self.spaces[name] = Neurons(name, node.size)
        if isinstance(node, Input):
            self.array(f"{name}.given", name, Life.GIVEN, events=node.kind == "spikes", role="input")
            return
        self.declare(name, node)
        if node.model.refractory:
            self.wait(name, node.model)
        self.before_update(name)
        self.update(name, node)
        self.after_update(name)
        if node.model.spiking:
            self.fire(name, node.model)
        self.leave(name, node.model, early=False)

    def declare(self, name, population):
        """Parameters, ``dt`` and the state of a population."""
        model, step = population.model, lower(population.model)
        for key, value in self.values.parameters[name].items():
            self.number(f"{name}.{key}", name, value, model.dimensions[key])
        self.array(f"{name}.dt", ONE, Life.FIXED, second.dim, trial=False, role="step")
        for key in (*step.state, *step.inputs):
            role, start = "state" if key in step.state else "inlet", f"{name}.{key}.start"
            self.array(start, name, Life.FIXED, model.dimensions[key], trial=False, role="start")
            self.array(f"{name}.{key}", name, Life.STATE, model.dimensions[key], start=start, role=role)

    def update(self, name, population):
        """Slot 1: what is sent of the state as it is, then the integration."""
        step = lower(population.model)
        self.leave(name, population.model, early=True)
        for key in step.noise:
            self.array(f"{name}.{key}", name, Life.STEP, role="noise")
            self.step.append(Draw(name, f"{name}.{key}"))
        lets = [(f"{name}.{key}", owned(name, e)) for key, e in step.program]
        lines = [(f"{name}.{key}", owned(name, e)) for key, e in step.updated.items()]
        edges = frozenset() if population.model.spiking else frozenset({"readout"})
        self.step.append(Map(name, tuple(lets), tuple(lines), edges=edges))

    def wait(self, name, model):
        """Another step since the last spike: whether the neuron may spike again."""
        since = self.array(f"{name}.since.spike", name, Life.STATE, start=LONG_AGO, role="clock")
        ready = self.array(f"{name}.not_refractory", name, Life.STEP, role="ready")
        silent = timestep(at(f"{name}.{model.refractory}"), at(f"{name}.dt"))
        self.step.append(Map(name, (), ((ready.name, int_(since + 1 >= silent)), (since.name, since + 1))))

    def fire(self, name, model):
        """Slot 2: threshold, and psi sampled before the reset."""
        step, refractory = lower(model), bool(model.refractory)
        spikes = self.array(f"{name}.z", name, Life.STEP, events=True, role="spikes")
        slope = self.array(f"{name}.psi", name, Life.STEP, role="slope")
        ready = at(f"{name}.not_refractory") if refractory else sympy.Integer(1)
        psi = None if step.psi is None else owned(name, step.psi) * ready
        argument = owned(name, step.spike_argument)
        x, edges = f"{name}.x", frozenset({"spike"})
        self.step.append(Fire(name, x, argument, step.strict, ready, psi, spikes.name, slope.name, edges))
        if refractory:
            self.step.append(Jump(name, spikes.name, ((f"{name}.since.spike", sympy.Integer(0)),), cut=True))

    def sent(self, p):
        """The array that projection ``p`` carries."""
        if p.pre in self.net.inputs:
            return f"{p.pre}.given"
        if p.transmission == "event":
            return f"{p.pre}.z"
        texts = list(sent_texts(self.net, p.pre))
        return f"{p.pre}.sent.{texts.index(sent_text(p, self.net.nodes[p.pre].model))}"

    def leave(self, name, model, *, early):
        """What leaves by graded projections: of the state before the update, or after the threshold."""
        for number, text in enumerate(sent_texts(self.net, name)):
            if prospective(model, text) is early:
                unit = sent_dimension(model, text)
                into = self.array(f"{name}.sent.{number}", name, Life.STEP, unit, role="sent")
                self.step.append(Map(name, (), ((into.name, owned(name, expanded(model, text))),)))

    # --- projections --------------------------------------------------------------------------------------------------

    def release(self, p):
        """Short-term plasticity: what the spikes of this step release, and what is left."""
        found, spikes, name = p.short_term, at(self.sent(p)), f"{p.name}.{{}}".format
        own = {at(key): self.array(name(key), p.pre, Life.STATE, start=rest, role="resource")
               for key, rest in found.state.items()}  # fmt: skip
        between = [(own[at(key)].name, e.xreplace(own)) for key, e in found.between(float(self.net.dt)).items()]
        self.step.append(Map(p.pre, (), tuple(between)))
        released = self.array(name("released"), p.pre, Life.STEP, events=True, role="released")
        edges = projection_edges(self.net)[p.name]
        jumped = [
            (own[at(k)].name, own[at(k)] + spikes * (e.xreplace(own) - own[at(k)])) for k, e in found.after.items()
        ]
        lines = ((released.name, spikes * found.release.xreplace(own)), *jumped)
        self.step.append(Map(p.pre, (), lines, edges=frozenset(edges)))

    def largest(self, p):
        """The form of a projection that carries the largest of each square, or back to it; else None."""
        form = form_of(self.net.projections, p)
        return form if form and form.largest else None

    def taken(self, name, p):
        """1 where a neuron is the largest of its square, else 0, for the projection ``p`` that carries it."""
        won = f"{name}.won"
        if won not in self.arrays:
            self.array(won, p.pre, Life.STEP, role="choice")
            self.step.append(Reduce(p.pre, at(self.sent(p)), won, "argmax", self.largest(p)))
        return at(won)

    def take(self, name, p):
        """The largest of each square: the sum of what is zero for all others."""
        value = at(self.sent(p)) * self.taken(name, p)
        weight, kept = self.link(name, p), self.array(f"{name}.taken", p.pre, Life.STEP, role="sent")
        target, add = self.target(p)
        edges = frozenset(projection_edges(self.net)[name])
        self.step.append(Map(p.pre, (), ((kept.name, value),)))
        self.step.append(Send(name, kept.name, target, weight, add=add, edges=edges))

    def give_back(self, name, p):
        """To the whole square, of which those listen that were taken when this was sent."""
        other = p.weight.projection
        won = self.taken(other, self.net.projections[other])
        weight, back = self.link(name, p), self.array(f"{name}.back", p.post, Life.STEP, role="sent")
        target, add = self.target(p)
        edges = frozenset(projection_edges(self.net)[name])
        self.step.append(Send(name, self.sent(p), back.name, weight, add=False, edges=edges))
        self.step.append(Map(p.post, (), ((target, back * won),), frozenset([target] if add else [])))

    def ahead(self, p):
        """Whether what a projection carries is weighted a step before it arrives, with the weights that sent it."""
        tied = self.net.tied.get(p.name)
        return (
            bool(tied)
            and not self.largest(p)
            and tied.when == "sent"
            and prospective(self.net.nodes[p.pre].model, self.text(p))
        )

    def text(self, p):
        """What a graded projection carries, in the variables of its source."""
        return sent_text(p, self.net.nodes[p.pre].model)

    def weigh(self, name, p):
        """What will arrive in the next step, weighted before this step's learning."""
        model, now = self.net.nodes[p.pre].model, self.array(f"{name}.now", p.pre, Life.STEP, role="ahead")
        self.step.append(Map(p.pre, (), ((now.name, owned(p.pre, expanded(model, self.text(p)))),)))
        edges = frozenset(projection_edges(self.net)[name])
        self.step.append(Send(name, now.name, f"{name}.coming", self.link(name, p), add=False, edges=edges))

    def projection(self, name, p):
        """What arrives by a projection in this step: delay line, product, or both."""
        if form := self.largest(p):
            (self.give_back if form.transposed else self.take)(name, p)
            return
        if self.ahead(p):
            target, add = self.target(p)
            coming = self.array(f"{name}.coming", p.post, Life.STATE, self.unit(p), role="coming")
            self.link(name, p)
            self.step.append(Map(p.post, (), ((target, coming),), frozenset([target] if add else [])))
            return
        source = f"{name}.released" if p.short_term else self.sent(p)
        weight = self.link(name, p)
        edges, taps = frozenset(projection_edges(self.net)[name]), self.taps(name, p)
        target, add = self.target(p)
        also = f"{name}.feedback" if name in self.feedback else None
        if also:
            self.array(also, name, Life.FIXED, trial=False, role="feedback")
        place = taps and self.place(taps.kind)
        if place == "before":
            source, edges = self.line(name, p.pre, source, taps, edges), frozenset()
        into, onto = (self.made(name, p), False) if place == "behind" else (target, add)
        within = taps if place == "within" else None
        self.step.append(Send(name, source, into, weight, within, onto, feedback=also, edges=edges))
        if place == "behind":
            self.spaces[f"{name}.line"] = Synapses(f"{name}.line", p.post, p.post, Diagonal())
            self.step.append(Send(f"{name}.line", into, target, None, taps, add))

    def place(self, kind):
        """Where a delay is: before the synapses, behind them, or in each of them."""
        found = {"axonal": "before", "dendritic": "behind", "synaptic": "within"}[kind]
        return found if self.fixed or found != "behind" else "within"

    def link(self, name, p):
        """Declare the synapses; returns the name of their weights."""
        tied, form = self.net.tied.get(name), self.form(name, p)
        own = (tied.projection, tied.transposed and not isinstance(form, Kernel), tied.times) if tied else ()
        self.spaces[name] = Synapses(name, p.pre, p.post, form, *own)
        shares = tied and tied.projection
        weight = f"{shares or name}.weight"
        if weight not in self.arrays:
            life = Life.LEARNED if weight in self.learned else Life.FIXED
            unit = weight_dimension(self.net, self.net.projections[shares or name])
            self.array(weight, shares or name, life, unit, trial=False, role="weight")
        return weight

    def form(self, name, p):
        """How weights lie: in a matrix, too, where those of few synapses are another projection's, too, are late
        within each, or errors come back through all numbers of another matrix.
        """
        if kernel := form_of(self.net.projections, p):
            return Kernel(kernel)
        within = p.delay and self.place(p.delay.kind) == "within" and self.late(name)
        whole = within or name in self.feedback
        return (None if whole else few(self.net, name, self.values.masks[name])) or Dense()

    def whole(self, name):
        """Whether delays are whole steps, and stay so."""
        steps, moving = np.asarray(self.values.delays[name]), f"{name}.delay" in self.learned
        return not moving and bool((steps == np.floor(steps)).all()) and self.widths[name] == 0

    def late(self, name):
        """Whether a projection takes time."""
        return not self.whole(name) or bool(np.any(self.values.delays[name]))

    def taps(self, name, p):
        """How late a projection is; None where it is not."""
        steps, whole = np.asarray(self.values.delays[name]), self.whole(name)
        if not self.late(name):
            return None
        kind = p.delay.kind if p.delay else "axonal"
        space = {"axonal": p.pre, "dendritic": p.post, "synaptic": name}[kind]
        self.number(f"{name}.delay", space, steps, role="delay")
        return Taps(f"{name}.delay", kind, None if whole else kernel_kind(p.delay), float(self.widths[name]))

    def line(self, name, space, source, taps, edges):
        """An axonal delay line: what comes out of it."""
        self.spaces[f"{name}.line"] = Synapses(f"{name}.line", space, space, Diagonal())
        sent = self.arrays[source]
        out = self.array(f"{name}.late", space, Life.STEP, sent.unit, events=sent.events, role="delayed")
        self.step.append(Send(f"{name}.line", source, out.name, None, taps, False, edges=edges))
        return out.name

    def made(self, name, p):
        """What a dendritic delay line takes in."""
        return self.array(f"{name}.made", p.post, Life.STEP, self.unit(p), role="made").name

    def unit(self, p):
        """Of what arrives by a projection."""
        return self.net.nodes[p.post].model.dimensions[p.target]

    def target(self, p):
        """Where a projection adds, and whether anything is there yet."""
        key = (p.post, p.target, p.transmission)
        if p.transmission == "graded":
            name = f"{p.post}.{p.target}"
        else:
            name = self.array(f"{p.post}.{p.target}.arrived", p.post, Life.STEP, self.unit(p), role="arrived").name
        known = key in self.boxes
        self.boxes[key] = name
        return name, known

    def arrive(self, post, target, transmission):
        """Slot 3: spikes add to their target, unless it is clamped while the neuron is refractory."""
        if transmission == "graded":
            return
        box, state = at(self.boxes[post, target, transmission]), at(f"{post}.{target}")
        if target in self.net.nodes[post].model.clamped:
            # as Brian2: refractoriness begins with the spike itself
            box = box * stop(at(f"{post}.not_refractory") * (1 - at(f"{post}.z")))
        self.step.append(Map(post, (), ((state.name, state + box),)))

    def jump(self, name):
        """Slot 4: reset and adaptation."""
        step = lower(self.net.nodes[name].model)
        for block in ("reset", "adaptation"):
            lines = tuple((f"{name}.{k}", owned(name, e)) for k, e in getattr(step, block).items())
            if lines:
                self.step.append(Jump(name, f"{name}.z", lines, edges=frozenset({block})))

    # --- what is shown ------------------------------------------------------------------------------------------------

    def see(self, what):
        """Record ``what``."""
        name, key = what.split(".")
        model = self.net.nodes[name].model
        spikes, seen = at(f"{name}.z"), f"{what}.seen"
        if key == "sum":
            self.array(seen, ONE, Life.SEEN, role="sum")
            self.step.append(Reduce(name, spikes, seen))
            return
        slope = at(f"{name}.psi") if model.surrogate else sympy.Integer(0)
        known = {"spikes": spikes, "count": spikes, "psi": slope}
        text = model.output if key == "output" else key
        value = known[key] if key in known else owned(name, expanded(model, text))
        self.array(seen, name, Life.SEEN, role=key)
        adds = frozenset([seen] if key == "count" else [])
        self.step.append(Map(name, (), ((seen, value),), adds))
