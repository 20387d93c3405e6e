"""What an optimiser does to weights, parameters and delays, as statements: within trials, or between them.

Within a trial they are the end of its step program, every so many steps; between trials a program of their own, which
is given the gradients. Delays learn between trials only.
"""

from dataclasses import dataclass, field

import numpy as np
import sympy

from localplast.equations.language import clip, symbol
from localplast.equations.rewriting import renamed
from localplast.learning.optimise import Optimiser
from localplast.network.check import weight_dimension
from localplast.network.convolution import form_of
from localplast.program.arrays import ONE, Dense, Kernel, Life, Neurons, Sparse, Synapses, at
from localplast.program.forward import Draft, few
from localplast.program.instructions import Every, Map, Reduce
from localplast.program.program import Program

__all__ = ["SHARE", "K", "Updates", "between"]

#: The number of the update, from 1, and the share of a trial in it.
K, SHARE = "(update).k", "(update).share"
ENDS, NONE = ("low", "high"), (None, None)


def between(net, values, optimiser, feedback=()):
    """What an optimiser does to a network between trials, as a program of one step.

    It is given gradients, ``rec_rec.gradient`` and ``rec.tau_mem.gradient``, of the shape of what learns.

    Parameters
    ----------
    net : Network
    values : Values
        Which synapses there are, and of what shape parameters and delays.
    optimiser : Optimiser
    feedback : iterable of str
        Projections beside which feedback learns.

    Returns
    -------
    program : Program
    numbers : dict of str to array
        Of masks, bounds and learning rates.
    """
    made = Draft(net, values, frozenset(), frozenset(), {})
    made.spaces |= {name: Neurons(name, node.size) for name, node in net.nodes.items()}
    for p in net.plastic:
        learning_weights(made, p, ("weight", "feedback") if p.name in feedback else ("weight",))
    for name in net.trainable:
        space, role = home(made, name), "parameter" if name.split(".")[0] in net.populations else "delay"
        made.array(name, space, Life.LEARNED, trial=False, role=role)
        made.array(f"{name}.gradient", space, Life.GIVEN, trial=False, role="gradient")
    updates = Updates(made, optimiser, values.masks)
    return Program(made.spaces, made.arrays, (updates.once(),)), updates.numbers


def learning_weights(draft, p, keys):
    """Declare the synapses of a projection, which of their numbers learn, and the gradient of these."""
    net, kernel = draft.net, form_of(draft.net.projections, p)
    form = Kernel(kernel) if kernel else few(net, p.name, draft.values.masks[p.name]) or Dense()
    draft.spaces[p.name] = Synapses(p.name, p.pre, p.post, form)
    for key in keys:
        draft.array(f"{p.name}.{key}", p.name, Life.LEARNED, weight_dimension(net, p), trial=False, role=key)
    draft.array(f"{p.name}.gradient", p.name, Life.GIVEN, trial=False, role="gradient")


def home(draft, name):
    """The space of a parameter or of delays: whose own they are, or that of what all share."""
    owner, _ = name.split(".")
    if not np.ndim(draft.values.other(name)):
        return ONE
    if owner in draft.net.populations:
        return owner
    p = draft.net.projections[owner]
    if p.delay.kind == "synaptic":  # of all pairs, also where weights are those of few synapses
        draft.spaces[name] = Synapses(name, p.pre, p.post)
        return name
    return p.pre if p.delay.kind == "axonal" else p.post


@dataclass
class Updates:
    """The updates of a program while it is written.

    Parameters
    ----------
    draft : Draft
        The program, whose gradients are there.
    optimiser : Optimiser
    masks : dict of str to bool array ``(pre, post)``
        Which synapses there are, by plastic projection.

    Attributes
    ----------
    numbers : dict of str to array
        Of the masks and bounds, by array.
    """

    draft: object
    optimiser: Optimiser
    masks: dict
    numbers: dict = field(default_factory=dict)

    def every(self, steps):
        """All updates, every so many ``steps``, of what a rule has summed up."""
        self.counted()
        plan, body = self.draft.plan, [self.weights(name) for name in self.draft.plan.synapses]
        for name, parameters in plan.parameters.items():
            for parameter in parameters:
                body += self.parameter(name, parameter)
        return Every(steps, tuple(body))

    def once(self):
        """All updates, of gradients that are given."""
        self.counted()
        net = self.draft.net
        body = [self.weights(p.name) for p in net.plastic]
        body += [self.number(name, at(f"{name}.gradient")) for name in net.trainable]
        return Every(1, tuple(body))

    def counted(self):
        """Declare which update it is, and what gradients are multiplied by."""
        self.draft.array(K, ONE, Life.GIVEN, trial=False, role="update")
        self.draft.array(SHARE, ONE, Life.GIVEN, trial=False, role="share")

    # --- what learns --------------------------------------------------------------------------------------------------

    def weights(self, name):
        """The weights of a projection, and feedback that learns beside them."""
        exists = self.mask(name)
        gradient = at(f"{name}.gradient") * at(SHARE) * exists
        bounds = None if self.optimiser.frozen(name) else self.draft.net.bounds(name)
        low, high = (self.bound(f"{name}.{key}", name, bound) for key, bound in zip(ENDS, bounds or NONE, strict=True))
        targets = {f"{name}.weight": lambda w: bounded(w, low, high) * exists}
        feedback = self.draft.arrays.get(f"{name}.feedback")
        if feedback and feedback.life is Life.LEARNED:
            targets[feedback.name] = lambda w: w * exists
        return self.update(name, name, gradient, targets)

    def parameter(self, name, parameter):
        """A parameter of the neurons of a population, from what each of them has summed up: its own, or all share
        it.
        """
        whole, each = f"{name}.{parameter}", f"{name}.learn.gradient_{parameter}"
        gradient = at(each)
        if self.draft.arrays[whole].space == ONE:
            gradient = self.draft.array(f"{whole}.gradient", ONE, Life.STEP, trial=False, role="gradient")
            yield Reduce(name, at(each), gradient.name)
        yield self.number(whole, gradient)

    def number(self, name, gradient):
        """What is no weight: a parameter or a delay."""
        space = self.draft.arrays[name].space
        return self.update(name, space, gradient * at(SHARE), {name: self.within_limits(name)})

    def within_limits(self, name):
        """What keeps a number that is no weight within its limits; one that is frozen stays as it is."""
        if self.optimiser.frozen(name):
            return lambda x: x
        low, high = (None if np.isinf(x) else sympy.Float(x) for x in self.draft.net.limits(name))
        return lambda x: bounded(x, low, high)

    # --- one update ---------------------------------------------------------------------------------------------------

    def update(self, name, space, gradient, targets):
        """The optimiser's statements as one Map; ``targets``: what moves, and what becomes of its new value."""
        rate = self.draft.array(f"{name}.learning_rate", ONE, Life.FIXED, trial=False, role="rate")
        self.numbers[rate.name] = self.optimiser.rate(name)
        state = {
            key: self.draft.array(f"{name}.optimiser.{key}", space, Life.LEARNED, trial=False, role="optimiser")
            for key in self.optimiser.state
        }
        common = {"g": at(f"{name}.optimiser.g"), "k": at(K), "learning_rate": rate} | state
        lets, lines = [(f"{name}.optimiser.g", gradient)], []
        for target, finish in targets.items():
            known = common | {"w": at(target)}
            for number, (key, e) in enumerate(self.optimiser.program(projection=name)):
                new = at(f"{target}.{key}:{number}")
                lets.append((new.name, renamed(e, {symbol(n): x for n, x in known.items()})))
                known[key] = new
            lines.append((target, finish(known["w"])))
        lines += [(x.name, known[key]) for key, x in state.items()]
        return Map(space, tuple(lets), tuple(lines))

    # --- what keeps weights in their places ---------------------------------------------------------------------------

    def mask(self, name):
        """1 where there is a synapse, else 0: a number where all are there."""
        if bool(np.all(self.masks[name])) or isinstance(self.draft.spaces[name].form, Sparse):
            return sympy.Integer(1)
        self.numbers[f"{name}.exists"] = np.asarray(self.masks[name], float)
        return self.draft.array(f"{name}.exists", name, Life.FIXED, trial=False, role="mask")

    def bound(self, name, link, bound):
        """The bound of each weight: a number where all have the same, an array of one end where that says it."""
        if bound is None or np.isinf(bound).all():
            return None
        if (bound == bound.flat[0]).all():
            return sympy.Float(float(bound.flat[0]))
        by_source = bound.ndim == 2 and (bound == bound[:, :1]).all()
        space = self.draft.spaces[link].pre if by_source else link
        self.numbers[name] = np.array(bound[:, 0] if by_source else bound)
        found = self.draft.array(name, space, Life.FIXED, trial=False, role="bound")
        return at(name, "pre") if by_source else found


def bounded(x, low, high):
    """An expression within bounds, where there are any."""
    if low is None and high is None:
        return x
    return clip(x, -sympy.oo if low is None else low, sympy.oo if high is None else high)
