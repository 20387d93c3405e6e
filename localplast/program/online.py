"""A plan of learning as a step program: the traces, errors, signals and sums of a rule, behind what the network does.

Names of a plan become arrays of its neurons and synapses. Every synapse reads its own arrays, and those of its two
neurons by their end: whether a rule is local is seen from the types.
"""

from dataclasses import dataclass, field

import sympy

from localplast.equations.language import sign, symbol
from localplast.equations.rewriting import replaced, symbols_in
from localplast.learning.eligibility import ARRIVED
from localplast.network.check import weight_dimension
from localplast.network.delays import kernel_widths
from localplast.network.nodes import Input
from localplast.neuron.step import expanded, lower, resolved
from localplast.program.arrays import ONE, Dense, Diagonal, Life, Synapses, at
from localplast.program.forward import Draft, owned
from localplast.program.instructions import Every, Map, Outer, Reduce, Send
from localplast.program.update import Updates
from localplast.task.loss import Reward
from localplast.task.regulariser import of_trials

__all__ = ["is_product", "matrices", "online"]


def online(net, values, plan, *, record=(), learned=(), widths=None, optimiser=None, masks=None, batches=False):
    """The step program of a network that learns by ``plan``; gradients are sums over trials.

    Parameters
    ----------
    net, values, record, learned, widths
        As of :func:`~localplast.program.forward.forward`; to be recorded, too: ``'out.loss'`` and ``'out.score'``, the
        loss of each output, and the outputs, weighted and summed over the trial.
    plan : Plan
        From :func:`localplast.program.learn.plan`.
    optimiser : Optimiser, optional
        What changes numbers within a trial, where the rule does so; else gradients are summed.
    batches : bool
        Whether it changes them at the end of each batch where the rule does not do so before.
    masks : dict of str to bool array ``(pre, post)``
        Which synapses there are; an optimiser asks for them.

    Returns
    -------
    program : Program
        Its sums are ``rec_rec.gradient``, ``rec_rec.gradient_delay``, ``rec.learn.gradient_tau_mem``.
    numbers : dict of str to array
        Of arrays that neither the network nor who runs it knows: feedback, masks, bounds, learning rates.
    """
    widths = {**kernel_widths(net), **(widths or {})}
    fixed = plan.rule.update == "trial"
    made = Learning(net, values, frozenset(learned), frozenset(), widths, fixed, plan=plan)
    made.updates = None if optimiser is None or fixed and not batches else Updates(made, optimiser, masks)
    program, found = made.program(record), {f"{n}.feedback": x for n, x in matrices(plan).items()}
    return program, found | (made.updates.numbers if made.updates else {})


def matrices(plan):
    """Numbers of the matrices that errors come back through, by the link that has them."""
    found = dict(plan.learned)
    for name, signal in plan.signals.items():
        for term in signal.terms:
            if term.form in ("fixed", "sign"):
                found[term.path if term.form == "sign" else f"{name}.from.{term.source}"] = term.matrix
    return found


def is_product(synapses):
    """Whether the gradient is a product of what arrives and a mismatch: synapses remember nothing."""
    found = synapses.eligibility
    return bool(found.end) and found.arrives == "pre" and not (found.pre or synapses.state) and found.value == ARRIVED


@dataclass
class Learning(Draft):
    """A program with what learning adds to every slot."""

    plan: object = None
    #: The array of what arrives at the synapses of each plastic projection, before it is weighted.
    arrived: dict = field(default_factory=dict)
    #: What changes numbers within a trial.
    updates: Updates | None = None

    # --- neurons ------------------------------------------------------------------------------------------------------

    def names(self, name):
        """What the neurons of a population compute for learning."""
        plan = self.plan.neurons[name]
        slots = (plan.shift, plan.before, plan.after, plan.before_reset, plan.end)
        return {key for slot in slots for key, _ in slot} | {"L", "error", "lure", "spike_count"}

    def neuronal(self, name, key):
        """The symbol of a name in the programs of a population's neurons."""
        if key == "td":
            return at("(reward).td")
        return at(f"{name}.learn.{key}" if key in self.names(name) else f"{name}.{key}")

    def slot(self, name, program):
        """One of the programs of a population's neurons."""
        if program:
            plan, model = self.plan.neurons[name], self.net.nodes[name].model
            for key, _ in program:
                life = Life.STATE if key in plan.past else Life.SUM if key in plan.sums else Life.STEP
                role = "slope" if key == "psi" else "mismatch" if key in plan.mismatches else "trace"
                self.array(f"{name}.learn.{key}", name, life, trial=life is not Life.SUM, role=role)
            program = [(key, resolved(model, e)) for key, e in program]
            self.step.append(self.sequence(name, program, lambda key: self.neuronal(name, key), plan.sums))

    def sequence(self, space, program, symbol_of, sums=()):
        """Assignments one after the other as one Map: later ones see the new values of earlier ones."""
        known, lets, lines = {}, [], []
        for number, (key, e) in enumerate(program):
            new = replaced(e, {s: known.get(s.name) or symbol_of(s.name) for s in symbols_in(e)})
            target = symbol_of(key)
            if key in sums:
                lines.append((target.name, new - target))
                continue
            known[key] = at(f"{target.name}:{number}")
            lets.append((known[key].name, new))
            lines.append((target.name, known[key]))
        adds = frozenset(symbol_of(key).name for key, _ in program if key in sums)
        return Map(space, tuple(lets), tuple(lines), adds)

    def before_update(self, name):
        self.slot(name, self.plan.neurons[name].shift)
        self.slot(name, self.plan.neurons[name].before)

    def after_update(self, name):
        self.slot(name, self.plan.neurons[name].after)

    def before_reset(self, name):
        self.slot(name, self.plan.neurons[name].before_reset)

    # --- the end of a step --------------------------------------------------------------------------------------------

    def end(self):
        """Errors of the readouts, signals and neurons, synapses; at the end of a trial what rates say."""
        for name in self.plan.synapses:
            self.arrive_at_synapses(self.net.projections[name])
        self.judge()
        for name in [*self.plan.signals, *(n for n in self.net.populations if n not in self.plan.signals)]:
            if name in self.plan.signals:
                self.signal(name)
            self.slot(name, self.plan.neurons[name].end)
        for name in self.plan.synapses:
            self.synapses(name)

    def change(self):
        if of_trials(self.plan.loss):
            self.regularise()
        if self.updates:
            self.step.append(self.updates.every(self.plan.rule.interval(self.net.dt) or "batch"))

    def judge(self):
        """The errors of the readouts, ``dl/dy`` times the weight of the step."""
        loss = self.plan.loss
        weight = self.array("(loss).weight", ONE, Life.GIVEN, trial=False, role="weight of a step")
        outputs = {name: self.output(name) for name in self.plan.readouts}
        if isinstance(loss, Reward):
            self.reward(loss, weight, outputs)
            return
        error = loss.derived.expanded(loss.derived.error)
        for name, output in outputs.items():
            unit = self.arrays[output.name].unit
            target = self.array(f"{name}.learn.target", name, Life.GIVEN, unit, role="target")
            words = {symbol("output"): output, symbol("target"): target}
            for word, op, what in (("softmax", "softmax", output), ("whole", "sum", target)):
                if error.has(symbol(word)):
                    words[symbol(word)] = self.reduced(name, word, op, what)
            words |= {symbol(k): sympy.Float(v) for k, v in loss.constants.items()}
            self.err(name, weight * error.xreplace(words), lure=-weight * target)

    def output(self, name):
        """What a readout says now."""
        model = self.net.nodes[name].model
        found = self.array(f"{name}.learn.output", name, Life.STEP, model.output_dimension, role="output")
        self.step.append(Map(name, (), ((found.name, owned(name, lower(model).output)),)))
        return found

    def err(self, name, error, **more):
        """The error of a readout."""
        lines = {f"{name}.learn.{key}": e for key, e in {"error": error, **more}.items()}
        for made in lines:
            unit = self.error_unit(name) if made.endswith("error") else self.arrays[f"{name}.learn.output"].unit
            self.array(made, name, Life.STEP, unit, role="error")
        self.step.append(Map(name, (), tuple(lines.items())))

    def error_unit(self, readout):
        """Of a loss per output."""
        output = self.net.nodes[readout].model.output_dimension
        return self.plan.loss.dimension(output) / output

    def reduced(self, name, word, op, what):
        """What all neurons of a readout make together: one number, or one for each of them."""
        found = self.array(f"{name}.learn.{word}", ONE if op == "sum" else name, Life.STEP, role=word)
        self.step.append(Reduce(name, what, found.name, op))
        return found

    def reward(self, loss, weight, outputs):
        """Choose, be paid, and let everybody know the temporal difference error of the step before."""
        policy, critic, choices = loss.policy, loss.value, outputs[loss.policy]
        self.spaces["(reward).dice"] = Synapses("(reward).dice", loss.dice, policy, Diagonal())
        dice = self.array(f"{policy}.learn.dice", policy, Life.STEP, role="dice")
        self.step.append(Send("(reward).dice", f"{loss.dice}.given", dice.name, add=False))
        right = self.array(f"{policy}.learn.target", policy, Life.GIVEN, role="target")
        chosen = self.reduced(policy, "chosen", "argmax", choices + dice)
        share = self.reduced(policy, "softmax", "softmax", choices)
        earned = self.reduced(policy, "earned", "sum", chosen * right)
        value = self.reduced(critic, "value", "sum", outputs[critic])
        due = self.array("(reward).due", ONE, Life.GIVEN, trial=False, role="due")
        purse, paid, before = (
            self.array(f"(reward).{key}", ONE, Life.STATE, role="reward") for key in ("purse", "paid", "value")
        )
        td, full = self.array("(reward).td", ONE, Life.STEP, role="mismatch"), at("(reward).purse:0")
        lines = ((td, paid + loss.discount * value - before), (purse, full), (paid, full * due), (before, value))
        lets = ((full.name, purse + weight * (2 * earned - 1)),)
        self.step.append(Map(ONE, lets, tuple((x.name, e) for x, e in lines)))
        self.err(policy, weight * (share - chosen))
        self.err(critic, sympy.Float(-loss.value_cost))

    def signal(self, name):
        """The learning signal of a population: what its terms carry back."""
        target = self.array(f"{name}.learn.L", name, Life.STEP, self.signal_unit, role="learning signal").name
        for number, term in enumerate(self.plan.signals[name].terms):
            source = f"{term.source}.learn.{term.variable}"
            link, matrix = self.carrier(name, term)
            self.step.append(Send(link, source, target, matrix, add=number > 0, back=True))

    @property
    def signal_unit(self):
        """Of all learning signals: loss per spike."""
        readout = self.plan.readouts[0]
        carrier = next(p for p in self.net.projections.values() if p.post == readout)
        return self.error_unit(readout) * weight_dimension(self.net, carrier)

    def source_unit(self, term):
        """Of what a term sends back."""
        if term.target is None:
            return self.arrays[f"{term.source}.learn.{term.variable}"].unit
        return self.signal_unit / self.net.nodes[term.source].model.dimensions[term.target]

    def carrier(self, name, term):
        """The link that a term comes back along, and the matrix ``(population, source)`` that it is weighted with."""
        if term.form == "weight":
            return term.path, self.net_weight(term.path)
        if term.form == "learned":
            unit = self.arrays[self.net_weight(term.path)].unit
            self.array(f"{term.path}.feedback", term.path, Life.LEARNED, unit, trial=False, role="feedback")
            return term.path, f"{term.path}.feedback"
        if term.form == "sign":
            return term.path, self.signs(term)
        link = f"{name}.from.{term.source}"
        self.spaces[link] = Synapses(link, name, term.source, Dense())
        unit = self.signal_unit / self.source_unit(term)
        self.array(f"{link}.feedback", link, Life.FIXED, unit, trial=False, role="feedback")
        return link, f"{link}.feedback"

    def net_weight(self, path):
        link = self.spaces[path]
        return f"{link.shares or path}.weight"

    def signs(self, term):
        """The signs of the forward weights, as large as the term says."""
        unit = self.arrays[self.net_weight(term.path)].unit
        size = self.array(f"{term.path}.feedback", term.path, Life.FIXED, unit, trial=False, role="feedback")
        found = self.array(f"{term.path}.sign", term.path, Life.STEP, trial=False, role="feedback")
        self.step.append(Map(term.path, (), ((found.name, size * sign(at(self.net_weight(term.path)))),)))
        return found.name

    # --- synapses -----------------------------------------------------------------------------------------------------

    def arrive_at_synapses(self, p):
        """What the synapses of ``p`` deliver: one number per presynaptic neuron where they are all as late, else each
        its own.
        """
        found = self.plan.synapses[p.name].eligibility
        if found.source:
            self.array(f"{p.name}.arrived", p.pre, Life.STEP, role="arrived")
            self.step.append(Map(p.pre, (), ((f"{p.name}.arrived", self.source(p, found.source)),)))
            self.arrived[p.name] = f"{p.name}.arrived"
            return
        taps = self.taps(p.name, p)
        if taps is None and found.arrives == "pre":
            self.arrived[p.name] = self.sent(p)
            return
        link = p.name if found.arrives == "synapse" else f"{p.name}.gathered"
        if link not in self.spaces:
            self.spaces[link] = Synapses(link, p.pre, p.pre, Diagonal())
        space = p.name if found.arrives == "synapse" else p.pre
        self.arrived[p.name] = self.array(f"{p.name}.arrived", space, Life.STEP, role="arrived").name
        self.step.append(Send(link, self.sent(p), f"{p.name}.arrived", None, taps, add=False))
        if "gradient_delay" in self.plan.synapses[p.name].sums:
            self.array(f"{p.name}.slope", space, Life.STEP, role="arrived")
            self.step.append(Send(link, self.sent(p), f"{p.name}.slope", None, taps, add=False, slopes=True))
            self.array(f"{p.name}.past_arrived", space, Life.STEP, role="arrived")
            later = at(f"{p.name}.arrived") + at(f"{p.name}.slope")
            self.step.append(Map(space, (), ((f"{p.name}.past_arrived", later),)))

    def source(self, p, text):
        """A variable of the presynaptic neuron that synapses learn from."""
        if isinstance(self.net.nodes[p.pre], Input):
            return at(f"{p.pre}.given")
        return owned(p.pre, expanded(self.net.nodes[p.pre].model, text))

    def synapses(self, name):
        """What the synapses of one projection compute, and the traces of their sources one step further."""
        plan, p = self.plan.synapses[name], self.net.projections[name]
        found = plan.eligibility
        for key in plan.sums:
            self.array(f"{name}.{key}", name, Life.SUM, trial=False, role="gradient")
        if is_product(plan):
            self.product(p)
            return
        for key, _ in found.pre:
            if not self.given_late(name, key):
                self.array(f"{name}.pre.{key}", p.pre, Life.STATE, role="trace")
        own = [(key, e) for key, e in plan.program if not self.given_late(name, key)]
        for key, _ in own:
            life = Life.STATE if key in plan.state else Life.STEP
            if key not in plan.sums:
                self.array(f"{name}.learn.{key}", name, life, role="trace")
        self.step.append(self.sequence(name, own, lambda key: self.synaptic(p, key), plan.sums))
        hoisted = [(key, e) for key, e in found.pre if not self.given_late(name, key)]
        if hoisted:
            self.step.append(self.sequence(p.pre, hoisted, lambda key: self.hoisted(p, key)))

    def given_late(self, name, key):
        """Whether what arrived a step ago is known from the delay line."""
        return key == "past_arrived" and f"{name}.past_arrived" in self.arrays

    def product(self, p):
        """Synapses that remember nothing: what arrives times what the neurons get wrong, minus the gradient."""
        error = self.array(f"{p.name}.error", p.post, Life.STEP, role="error")
        mismatch = self.neuronal(p.post, self.plan.synapses[p.name].third)
        self.step.append(Map(p.post, (), ((error.name, -mismatch),)))
        self.step.append(Outer(p.name, self.arrived[p.name], error.name, f"{p.name}.gradient"))

    def synaptic(self, p, key):
        """The symbol of a name in the program of the synapses of ``p``."""
        plan = self.plan.synapses[p.name]
        own = {k for k, _ in plan.program} | set(plan.state)
        if key in plan.sums:
            return at(f"{p.name}.{key}")
        if key == "arrived" or self.given_late(p.name, key):
            name = self.arrived[p.name] if key == "arrived" else f"{p.name}.{key}"
            return at(name, None if self.arrays[name].space == p.name else "pre")
        if key in own:
            return at(f"{p.name}.learn.{key}")
        if key == "w":
            return at(f"{p.name}.weight")
        if key in {k for k, _ in plan.eligibility.pre}:
            return at(f"{p.name}.pre.{key}", "pre")
        found = self.neuronal(p.post, key).name
        return at(found, None if self.arrays[found].space == ONE else "post")

    def hoisted(self, p, key):
        """The symbol of a name in the traces of presynaptic neurons."""
        if key in {k for k, _ in self.plan.synapses[p.name].eligibility.pre} and not self.given_late(p.name, key):
            return at(f"{p.name}.pre.{key}")
        if key in ("arrived", "past_arrived"):
            return at(self.arrived[p.name] if key == "arrived" else f"{p.name}.{key}")
        return self.neuronal(p.post, key)

    # --- what is shown ------------------------------------------------------------------------------------------------

    def see(self, what):
        """Record ``what``."""
        name, key = what.split(".")
        if key not in ("loss", "score"):
            super().see(what)
            return
        seen = self.array(f"{what}.seen", name, Life.SEEN, role=key)
        lets, value = self.judged(name) if key == "loss" else ((), at("(loss).weight") * at(f"{name}.learn.output"))
        self.step.append(Map(name, lets, ((seen.name, value),), frozenset([seen.name])))

    def judged(self, name):
        """The loss of each output of a readout in a step, and what is computed for it."""
        loss, lets = self.plan.loss, []
        if isinstance(loss, Reward):
            return (), -at("(reward).paid") if name == loss.value else sympy.Integer(0)
        known = {symbol(k): at(f"{name}.learn.{k}") for k in ("output", "target", "softmax")}
        known |= {symbol("log_softmax"): sympy.log(at(f"{name}.learn.softmax"))}
        known |= {symbol(k): sympy.Float(v) for k, v in loss.constants.items()}
        for key, e in loss.derived.program:
            lets.append((f"{name}.loss.{key}", e.xreplace(known)))
            known[symbol(key)] = at(lets[-1][0])
        *lets, (_, value) = lets
        return tuple(lets), at("(loss).weight") * value

    # --- the end of a trial -------------------------------------------------------------------------------------------

    def regularise(self):
        """What the rates of a trial, known at its end, add to every gradient."""
        regulariser, body = self.plan.loss.regulariser, []
        duration = self.array("(trial).duration", ONE, Life.GIVEN, trial=False, role="duration")
        for name in (n for n in self.plan.signals if self.net.nodes[n].model.spiking):
            count = self.array(f"{name}.learn.spike_count", name, Life.STATE, role="count")
            self.step.append(Map(name, (), ((count.name, count + at(f"{name}.z")),)))
            excess = self.array(f"{name}.learn.excess", name, Life.STEP, role="excess")
            rate = regulariser.strength / duration * (count / duration - regulariser.target)
            body.append(Map(name, (), ((excess.name, rate),)))
            for parameter in self.plan.parameters[name]:
                into, trace = (f"{name}.learn.{k}_{parameter}" for k in ("gradient", "elig_sum"))
                body.append(Map(name, (), ((into, excess * at(trace)),), frozenset([into])))
        for name, plan in self.plan.synapses.items():
            if plan.regularised:
                excess = at(f"{self.net.projections[name].post}.learn.excess", "post")
                lines = [(f"{name}.gradient", excess * at(f"{name}.learn.elig_sum"))]
                if "gradient_delay" in plan.sums:
                    drift = at(f"{name}.weight") * at(f"{name}.learn.drift_elig_sum")
                    lines.append((f"{name}.gradient_delay", excess * drift))
                body.append(Map(name, (), tuple(lines), frozenset(n for n, _ in lines)))
        self.step.append(Every("trial", tuple(body)))
