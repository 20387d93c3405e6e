"""What is measured along training: a rule's gradient against BPTT's, its feedback against the weights it stands for."""

from dataclasses import replace

import numpy as np

from localplast.analysis.distance import cosine_of, distance, joined, measures
from localplast.rules import bptt
from localplast.runs.gradient import gradient

__all__ = ["as_it_is", "feedback", "feedback_cosines", "gradient_measures"]


def gradient_measures(net, values, trials, rule, loss, hidden, seed):
    """The gradient of ``rule`` against BPTT's at the same weights, as one number per name.

    Returns
    -------
    dict of str to float
        ``cosine.rec_rec``, ``cosine.rec_rec.delay``, ``cosine.rec.tau_mem`` and so on for everything that learns;
        ``cosine`` and so on for all weights onto ``hidden``, those of feedback left out, taken as one vector. See
        :func:`localplast.analysis.distance.measures`.
    """
    estimate, exact = (gradient(net, trials, r, loss=loss, seed=seed, values=values) for r in (rule, bptt()))
    apart = distance(estimate, exact).drop_vars("angle")
    single = {
        f"{k}.{name}": float(v.sel(projection=name)) for k, v in apart.items() for name in apart["projection"].values
    }
    onto = [p.name for p in net.plastic if p.post == hidden and p.role != "feedback"]
    return {**single, **measures(joined(estimate, onto), joined(exact, onto))}


def as_it_is(rule, learned):
    """``rule`` with the feedback that it has ``learned`` so far, by projection; itself where nothing learns."""
    if not learned:
        return rule
    matrices = {name: np.array(matrix, float) for name, matrix in learned.items()}
    return replace(rule, signal=replace(rule.signal, feedback=matrices))


def feedback_cosines(net, values, rule, seed):
    """``feedback_cosine.rec_out`` and so on: between feedback and the forward weights that it stands for."""
    return {
        f"feedback_cosine.{name}": cosine_of(matrix * values.masks[name], values.weights[name] * values.masks[name])
        for name, matrix in {**feedback(net, values, rule, seed), **returning(net, values)}.items()
    }


def returning(net, values):
    """Feedback that is a projection of its own, by the forward projection it answers."""
    pairs = {(p.pre, p.post): p.name for p in net.projections.values() if p.role == "forward"}
    down = [p for p in net.projections.values() if p.role == "feedback" and (p.post, p.pre) in pairs]
    found = {pairs[p.post, p.pre]: values.weights[p.name] for p in down}
    return {name: w.T if w.ndim == 2 else w for name, w in found.items()}  # kernels run backwards as they are


def feedback(net, values, rule, seed):
    """Feedback that differs from the forward weights, ``(pre, post)`` by the projection it stands for.

    The only function here that knows how a rule keeps it.
    """
    from localplast.backends.torch.gradient import backward_matrices  # needs Torch

    readouts = net.readouts
    if not rule.local:
        return backward_matrices(net, rule.signal, readouts, seed)
    terms = [
        t
        for signal in rule.signal.of(net, readouts, seed).values()
        for t in signal.terms
        if t.path and t.form != "weight"
    ]
    return {t.path: t.matrix * np.sign(values.weights[t.path]) if t.form == "sign" else t.matrix for t in terms}
