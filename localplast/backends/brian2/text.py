"""Small pieces of Brian2 text, sums over all pairs of two groups, and the order of what happens at the end of a
step.
"""

import re

import brian2 as b2
import numpy as np
from brian2.equations.codestrings import Expression
from brian2.equations.equations import Equations, SingleEquation

__all__ = [
    "END_OF_TRIAL",
    "ERROR",
    "LEARN",
    "MONITOR",
    "PAID",
    "PURSE",
    "SIGNAL",
    "SOFTMAX",
    "SURPRISE",
    "UPDATE",
    "averaged",
    "gated",
    "gather",
    "replace_word",
    "replace_words",
    "suffixed",
    "tables",
    "updates_so_far",
]

#: Softmax, errors of the readouts, (reward: what is earned, paid, and heard of,) learning signals population by
#: population.
SOFTMAX, ERROR, PURSE, PAID, SURPRISE, SIGNAL = range(6)
#: After the last signal: every population takes two places, one to gather its signal and one to pass it on.
LEARN = 1000
END_OF_TRIAL, UPDATE, MONITOR = range(LEARN + 1, LEARN + 4)


def replace_word(text, word, replacement):
    return replace_words(text, {word: replacement})


def replace_words(text, words):
    """``text`` with each of ``words`` replaced by its value, all at once: one may stand in the value of another."""
    return re.sub(rf"\b({'|'.join(map(re.escape, words))})\b", lambda found: words[found[1]], text)


def suffixed(model, text, end):
    """``text`` with the variables of ``model`` as Brian2's Synapses call them."""
    return replace_words(text, {name: name + end for name in model.dimensions})


def tables(model, **given):
    """Tables by name for the text of neurons of this ``model``, others where it has a variable called so; and the text
    of what each holds.
    """
    names = {name: name + "_table" * (name in model.dimensions) for name in given}
    return {names[n]: table for n, table in given.items()}, {n: t.text(names[n]) for n, t in given.items()}


def gather(built, key, source, target, sums, order, namespace=None):
    """Synapses between all pairs that sum expressions into variables of ``target``:
    ``{variable: (dimension, text)}``.
    """
    groups = built.objects[source], built.objects[target]
    lines = [SingleEquation("subexpression", n, d, expr=Expression(e), flags=["summed"]) for n, (d, e) in sums.items()]
    synapses = b2.Synapses(*groups, Equations(lines), name=key, clock=groups[1].clock, namespace=namespace or {})
    pairs = np.indices((groups[0].N, groups[1].N))
    synapses.connect(i=pairs[0].ravel(), j=pairs[1].ravel())
    for updater in synapses.summed_updaters.values():
        updater.when, updater.order = "end", order
    return synapses


def updates_so_far(plan, dt):
    """Text of the number of updates since the block began."""
    within = plan.rule.interval(dt)
    if not within:
        return "t_in_timesteps//(_period*_batch)"
    before = f"(t_in_timesteps//_period)*((_steps + {within - 1})//{within})"
    return f"{before} + (t_in_timesteps % _period)//{within}"


def averaged(gradient, plan, dt):
    """Text of a gradient, over the trials of an update: within a trial there is no other."""
    return gradient if plan.rule.interval(dt) else f"({gradient}/_batch)"


def gated(lines, block, interval):
    """Assignments of the optimiser within a trial, run where it is time for an update, and never in the gaps."""
    step = "(t_in_timesteps % _period)"
    due = f"({step} % {interval} == {interval - 1}) or ({step} == _steps - 1)" if interval > 1 else ""
    condition = " and ".join(f"({c})" for c in (due, block.active) if c)
    if not condition or not lines:
        return lines
    pairs = [line.split(" = ", 1) for line in lines]
    new = ("" if re.fullmatch(r"0(\*.*)?", text) else f"_on*({text}) + " for _, text in pairs)
    return [
        f"_on = int({condition})",
        *(f"{name} = {part}(1 - _on)*{name}" for (name, _), part in zip(pairs, new, strict=True)),
    ]
