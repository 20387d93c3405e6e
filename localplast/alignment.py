"""What is measured along training: a rule's gradient against BPTT's, its feedback against the weights it stands for."""

import numpy as np

from localplast.measure import cosine_of, distance, joined, measures
from localplast.plan import plan
from localplast.rules import bptt
from localplast.verbs import gradient

__all__ = ["feedback", "feedback_cosines", "gradient_measures"]


def gradient_measures(net, values, trials, rule, loss, hidden, seed):
    """The gradient of ``rule`` against BPTT's at the same weights, as one number per name.

    Returns
    -------
    dict of str to float
        ``cosine.rec_rec`` and so on for every plastic projection; ``cosine`` and so on for all weights onto ``hidden``
        taken as one vector. See :func:`localplast.measure.measures`.
    """
    estimate, exact = (gradient(net, trials, r, loss=loss, seed=seed, values=values) for r in (rule, bptt()))
    apart = distance(estimate, exact).drop_vars("angle")
    single = {f"{k}.{name}": float(v.sel(projection=name)) for k, v in apart.items() for name in apart["projection"].values}
    onto = [p.name for p in net.plastic if p.post == hidden]
    return {**single, **measures(joined(estimate, onto), joined(exact, onto))}


def feedback_cosines(net, values, rule, loss, seed):
    """``feedback_cosine.rec_out`` and so on: between feedback and the forward weights that it stands for."""
    return {
        f"feedback_cosine.{name}": cosine_of(matrix, values.weights[name] * values.masks[name])
        for name, matrix in feedback(net, rule, loss, seed).items()
    }


def feedback(net, rule, loss, seed):
    """Feedback that differs from the forward weights, ``(pre, post)`` by the projection it stands for.

    The only function here that knows how a plan keeps feedback.
    """
    if not rule.local:
        return {}
    found = {}
    for population, matrix in plan(net, rule, loss, seed=seed).broadcast.items():
        for p in net.projections.values():
            if not isinstance(matrix, str) and p.pre == population and p.post in net.readouts:
                found[p.name] = np.asarray(matrix)
    return found
