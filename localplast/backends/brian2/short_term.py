"""Short-term plasticity in Brian2: two variables of the source's group for each projection, and lines in its reset.

Brian2 sends before it resets: synapses read what there was just before the spike.
"""

from brian2.equations.equations import PARAMETER, SingleEquation
from brian2.units.fundamentalunits import DIMENSIONLESS

from localplast.equations.language import symbol
from localplast.equations.text import to_text

__all__ = ["after_spikes", "between_spikes", "released", "short_term_lines"]

#: What the state of a projection is called in the group of its source.
CALLED = {"u": "utilisation", "x": "resources"}


def out_of(net, name):
    """The projections from ``name`` with short-term plasticity."""
    return [p for p in net.projections.values() if p.pre == name and p.short_term is not None]


def text(p, expression, end=""):
    """A sympy expression in the state of ``p`` as Brian2 text."""
    return to_text(expression.subs({symbol(k): symbol(f"{word}_{p.name}{end}") for k, word in CALLED.items()}))


def short_term_lines(net, name):
    """The equations of what neurons of ``name`` remember of their spikes."""
    names = [f"{CALLED[k]}_{p.name}" for p in out_of(net, name) for k in p.short_term.state]
    return [SingleEquation(PARAMETER, name, DIMENSIONLESS) for name in names]


def between_spikes(net, name, block):
    """Statements for every step: recovery, and all that there is in the first step of a trial."""
    return [
        f"{CALLED[k]}_{p.name} = ({text(p, later)})*(1 - {block.held}) + {p.short_term.state[k]!r}*{block.held}"
        for p in out_of(net, name)
        for k, later in p.short_term.between(float(net.dt)).items()
    ]


def after_spikes(net, name):
    """Statements of a reset."""
    return [
        f"{CALLED[k]}_{p.name} = {text(p, value)}" for p in out_of(net, name) for k, value in p.short_term.after.items()
    ]


def released(p):
    """What a spike adds to the target of ``p``, as Brian2 text of its Synapses."""
    return "w" if p.short_term is None else f"w*({text(p, p.short_term.release, '_pre')})"
