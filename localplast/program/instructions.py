"""What a step can do: a small, closed language. A tenth instruction needs an adjoint, a form on every engine, and a
paper that needs it.

Expressions are sympy. Their symbols are arrays (:func:`~localplast.program.arrays.at`), or *lets*: names of
intermediate results, seen by one statement only. All instructions are frozen.
"""

import functools
from dataclasses import dataclass

import sympy

from localplast.equations.language import stop
from localplast.equations.rewriting import symbols_in
from localplast.network.convolution import Convolution
from localplast.program.arrays import End

__all__ = [
    "Draw",
    "Every",
    "Fire",
    "Jump",
    "Map",
    "Outer",
    "Reduce",
    "Send",
    "Taps",
    "arrays_in",
    "expressions",
    "reads",
    "writes",
]

NONE = frozenset()
STOPPED = sympy.Dummy("stopped", real=True)


@dataclass(frozen=True)
class Taps:
    """From which of the past steps signals come, and in which shares.

    Attributes
    ----------
    delay : str
        The array of delays, in steps: of one number, per neuron of either end, or per synapse.
    kind : str
        ``'axonal'``, ``'dendritic'`` or ``'synaptic'``: which neurons, or pairs, have a delay of their own.
    spread : str or None
        None: whole steps. ``'triangle'`` or ``'gaussian'``: shared by the steps around
        (:class:`localplast.network.delays.Kernel`), so that the delay has a gradient.
    width : float
        Of the spread, in steps.
    """

    delay: str
    kind: str
    spread: str | None = None
    width: float = 0.0


@dataclass(frozen=True)
class Map:
    """For every member of a space: ``lets`` in order, then all ``lines`` at once, of the old values.

    Targets in ``adds`` are added to.
    """

    space: str
    lets: tuple
    lines: tuple
    adds: frozenset = NONE
    edges: frozenset = NONE


@dataclass(frozen=True)
class Fire:
    """``spikes = argument > 0`` (``>=`` unless ``strict``) where ``ready``, and its surrogate derivative ``slope``.

    ``psi`` is an expression in which the argument is called ``x``; without one no gradient passes.
    """

    space: str
    x: str
    argument: sympy.Expr
    strict: bool
    ready: sympy.Expr
    psi: sympy.Expr | None
    spikes: str
    slope: str
    edges: frozenset = NONE


@dataclass(frozen=True)
class Jump:
    """A Map, where there is a spike; the derivative by the spike is the size of the jump, unless ``cut``."""

    space: str
    spikes: str
    lines: tuple
    cut: bool = False
    edges: frozenset = NONE


@dataclass(frozen=True)
class Send:
    """``target += source @ weight``, or ``=`` where it does not ``add``; ``back``: from post to pre, ``@ weight.T``.

    Without a weight, on a diagonal link, it is a delay line; to the link itself it is what arrives at each synapse.
    With ``taps`` the source is that of earlier steps, with ``slopes`` the derivatives of their shares stand in place of
    the shares. ``feedback`` is what stands in place of the weight on the way back.
    """

    link: str
    source: str
    target: str
    weight: str | None = None
    taps: Taps | None = None
    add: bool = True
    back: bool = False
    cut: bool = False
    feedback: str | None = None
    edges: frozenset = NONE
    slopes: bool = False


@dataclass(frozen=True)
class Outer:
    """``into += pre post^T``, summed over trials, in the form of the link.

    With ``taps`` the signal of ``post`` is that of earlier steps; with ``slopes`` the derivatives of their shares stand
    in place of the shares.
    """

    link: str
    pre: str
    post: str
    into: str
    taps: Taps | None = None
    slopes: bool = False


@dataclass(frozen=True)
class Reduce:
    """``into`` is the ``'sum'`` of an expression over the neurons of a space, one number per trial; or the
    ``'softmax'``, or 1 at the ``'argmax'`` and else 0, one number per neuron: of all of them, or of each square
    ``within`` an image (a Convolution), where the first is taken of several that are as large.
    """

    space: str
    expression: sympy.Expr
    into: str
    op: str = "sum"
    within: Convolution | None = None


@dataclass(frozen=True)
class Draw:
    """New standard normal numbers."""

    space: str
    into: str


@dataclass(frozen=True)
class Every:
    """What happens at the end of each ``'trial'``: statements that read what steps have left behind; or every so many
    steps, and at the end of a trial, or at the end of each ``'batch'``: numbers that learn are set, and the sums that
    they are set from begin anew.
    """

    when: str | int
    body: tuple


def arrays_in(expression, lets=(), *, stopped=True):
    """Names of the arrays in an expression, but for ``lets``; without ``stopped``: of those that a gradient reaches."""
    return set(names_in(expression, stopped).difference(lets))


@functools.lru_cache(maxsize=2**16)
def names_in(expression, stopped):
    """Kept: a program is asked for the same expressions again and again, by every check and every pass."""
    expression = sympy.sympify(expression, strict=True)
    if not stopped:
        expression = expression.replace(stop, lambda _: STOPPED)  # a number would take factors with it
    return frozenset(s.array if isinstance(s, End) else s.name for s in symbols_in(expression) - {STOPPED})


def expressions(s):
    """All expressions of a statement."""
    if isinstance(s, (Map, Jump)):
        return [e for _, e in (*getattr(s, "lets", ()), *s.lines)]
    if isinstance(s, Fire):
        return [s.argument, s.ready, *([] if s.psi is None else [s.psi])]
    return [s.expression] if isinstance(s, Reduce) else []


@functools.lru_cache(maxsize=2**12)
def reads(s):
    """Names of the arrays that a statement reads; what is added to is read."""
    return frozenset(found_read(s))


def found_read(s):
    if isinstance(s, Every):
        return set().union(*map(reads, s.body)) - set().union(*map(writes, s.body))
    if isinstance(s, Map):
        lets = [n for n, _ in s.lets]
        return set().union(s.adds, *(arrays_in(e, lets) for _, e in (*s.lets, *s.lines)))
    if isinstance(s, Fire):
        psi = set() if s.psi is None else arrays_in(s.psi, [s.x])
        return arrays_in(s.argument) | arrays_in(s.ready) | psi
    if isinstance(s, Jump):
        return set().union({s.spikes}, writes(s), *(arrays_in(e) for _, e in s.lines))
    if isinstance(s, Send):
        named = {s.source, s.weight, s.taps and s.taps.delay} | ({s.target} if s.add else set())
        return named - {None}
    if isinstance(s, Outer):
        return {s.pre, s.post, s.into, s.taps and s.taps.delay} - {None}
    return arrays_in(s.expression) if isinstance(s, Reduce) else set()


@functools.lru_cache(maxsize=2**12)
def writes(s):
    """Names of the arrays that a statement sets or adds to."""
    return frozenset(written(s))


def written(s):
    if isinstance(s, Every):
        return set().union(*map(writes, s.body))
    if isinstance(s, (Map, Jump)):
        return {n for n, _ in s.lines}
    if isinstance(s, Fire):
        return {s.spikes} | ({s.slope} if s.psi is not None else set())
    return {s.target} if isinstance(s, Send) else {s.into}
