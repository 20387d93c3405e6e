"""What an optimiser does to weights and parameters, as statements: every so many steps, and at the end of a trial.

Delays learn at the end of trials only.
"""

from dataclasses import dataclass, field

import numpy as np
import sympy

from localplast.equations.language import clip, symbol
from localplast.learning.optimise import Optimiser
from localplast.program.arrays import ONE, Life, Sparse, at
from localplast.program.instructions import Every, Map, Reduce

__all__ = ["Updates"]

#: The number of the update, from 1, and the share of a trial in it.
K, SHARE = "(update).k", "(update).share"
ENDS, NONE = ("low", "high"), (None, None)


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
        """All updates, every so many ``steps``."""
        self.draft.array(K, ONE, Life.GIVEN, trial=False, role="update")
        self.draft.array(SHARE, ONE, Life.GIVEN, trial=False, role="share")
        plan, body = self.draft.plan, []
        for name in plan.synapses:
            body += self.weights(name)
        for name, parameters in plan.parameters.items():
            for parameter in parameters:
                body += self.parameter(name, parameter)
        return Every(steps, tuple(body))

    # --- what learns --------------------------------------------------------------------------------------------------

    def weights(self, name):
        """The weights of a projection, and feedback that learns beside them."""
        exists = self.mask(name)
        gradient = at(f"{name}.gradient") * at(SHARE) * exists
        bounds = None if self.optimiser.frozen(name) else self.draft.net.bounds(name)
        low, high = (self.bound(f"{name}.{key}", name, bound) for key, bound in zip(ENDS, bounds or NONE, strict=True))
        targets = {f"{name}.weight": lambda w: bounded(w, low, high) * exists}
        if name in self.draft.plan.learned:
            targets[f"{name}.feedback"] = lambda w: w * exists
        yield self.update(name, name, gradient, targets)

    def parameter(self, name, parameter):
        """A parameter of the neurons of a population: each has its own, or all share it."""
        whole, each = f"{name}.{parameter}", f"{name}.learn.gradient_{parameter}"
        space = self.draft.arrays[whole].space
        gradient = at(each)
        if space == ONE:
            gradient = self.draft.array(f"{whole}.gradient", ONE, Life.STEP, trial=False, role="gradient")
            yield Reduce(name, at(each), gradient.name)
        yield self.update(whole, space, gradient * at(SHARE), {whole: self.within_limits(whole)})

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
                lets.append((new.name, e.xreplace({symbol(n): x for n, x in known.items()})))
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
        self.numbers[name] = bound[:, 0] if by_source else bound
        found = self.draft.array(name, space, Life.FIXED, trial=False, role="bound")
        return at(name, "pre") if by_source else found


def bounded(x, low, high):
    """An expression within bounds, where there are any."""
    if low is None and high is None:
        return x
    return clip(x, -sympy.oo if low is None else low, sympy.oo if high is None else high)
