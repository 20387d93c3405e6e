"""Whether text has a value wherever its parameters are, and may learn to be: no divisor of zero, no root below it.

What depends on a variable is not judged here: where it gives no number, the run says so
(:mod:`localplast.program.finite`).
"""

import ast
import functools
from dataclasses import dataclass

import numpy as np

from localplast.equations.tape import Tape

__all__ = ["check_domain", "divisor", "factors"]

#: In how many places a text is tried, about, and in how many along one parameter at most.
PLACES, ALONG = 2000, 9
#: Relative error below which what is negative is zero.
ROUNDING = 1e-9
#: How a text asks for what must not be so.
ASKS = {"zero": "divides by", "negative": "takes the root of", "zero or negative": "takes the logarithm of"}


@dataclass(frozen=True, eq=False)
class Demand:
    """What a ``text`` must not be, and what it is as sympy: of parameters alone."""

    wrong: str
    text: str
    expression: object
    names: frozenset

    def broken(self, numbers):
        """Whether it is so with these numbers ``(place, neuron)``, or must be somewhere between two places."""
        with np.errstate(all="ignore"):
            found = np.asarray(Tape([("x", self.expression)], numbers)({})["x"], float)
            found = np.where(np.isfinite(found), found, 1.0).reshape(-1, max(found.shape[1:], default=1))
        low, high = found.min(0), found.max(0)
        if self.wrong == "negative":
            return bool((low < -ROUNDING * np.maximum(-low, high)).any())
        return bool(((low <= 0) & ((high >= 0) | (self.wrong != "zero"))).any())


def check_domain(label, model, values, error, *, bounds=(), texts=None):
    """Raise an ``error`` where the text of a model, or other ``texts`` in its names, has no value.

    ``values`` are those of its parameters; those with ``bounds`` ``(low, high)`` may learn to be anything between them.
    What a model divides by alone is checked elsewhere (:func:`~localplast.neuron.integration.divided_by`).
    """
    bounds = dict(bounds)
    own = (*demands(model, model.texts, alone=False), *demands(model, others(model)))
    for demand in own if texts is None else demands(model, texts):
        learning = sorted(demand.names & bounds.keys())
        if not demand.broken(places(demand.names, values, {name: bounds[name] for name in learning})):
            continue
        what = f"{label}: {model.name} {ASKS[demand.wrong]} {demand.text}, which"
        if learning:
            where = f"within the bounds of {' and '.join(learning)}; give bounds that rule it out"
            raise error(f"{what} may learn to be {demand.wrong} {where}")
        raise error(f"{what} is {demand.wrong}; change {' or '.join(sorted(demand.names))}")


def others(model):
    """The texts of a model that are none of its equations, statements and outputs."""
    learned = [text for each in model.mismatch.values() for text in (each.error, each.of)]
    return tuple(text for text in (model.threshold, *learned) if text)


@functools.cache
def demands(model, texts, alone=True):
    """Every :class:`Demand` of ``texts``, in the names of a model; also of names that they divide by ``alone``."""
    from localplast.neuron.step import expanded  # whose models are checked before it can take them

    found = []
    for wrong, node in (each for text in texts for part in ast.walk(ast.parse(text)) for each in asked(part)):
        expression = expanded(model, ast.unparse(node))
        names = frozenset(symbol.name for symbol in expression.free_symbols)
        single = isinstance(node, ast.Name) and node.id in names and wrong == "zero"
        if names and names <= model.parameters.keys() and (alone or not single):
            found.append(Demand(wrong, ast.unparse(node), expression, names))
    return tuple(found)


def asked(node):
    """What a node of a text asks for, as ``(wrong, node)``; of products that are divided by, each factor by itself."""
    yield from (("zero", factor) for factor in factors(divisor(node)))
    if isinstance(node, ast.Call) and getattr(node.func, "id", None) in ("log", "log10"):
        yield "zero or negative", node.args[0]
    elif isinstance(node, ast.Call) and getattr(node.func, "id", None) == "sqrt":
        yield "negative", node.args[0]
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        exponent = node.right.operand if isinstance(node.right, ast.UnaryOp) else node.right
        if isinstance(exponent, ast.Constant) and isinstance(exponent.value, (int, float)) and exponent.value % 1:
            yield "negative", node.left


def divisor(node):
    """What a node of a text divides by, or None."""
    if isinstance(node, (ast.BinOp, ast.AugAssign)) and isinstance(node.op, (ast.Div, ast.FloorDiv, ast.Mod)):
        return node.right if isinstance(node, ast.BinOp) else node.value
    negative = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and isinstance(node.right, ast.UnaryOp)
    return node.left if negative and isinstance(node.right.op, ast.USub) else None


def factors(node):
    """The parts whose zero makes this zero: names, sums and whatever else is no product."""
    if isinstance(node, ast.UnaryOp):
        yield from factors(node.operand)
    elif isinstance(node, ast.Call) and getattr(node.func, "id", None) in ("abs", "sqrt"):
        yield from factors(node.args[0])
    elif isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mult, ast.Div, ast.Pow)):
        yield from factors(node.left)
        if isinstance(node.op, ast.Mult):
            yield from factors(node.right)
    elif node is not None:
        yield node


def places(names, values, bounds):
    """Numbers of ``names``, ``(place, neuron)``: a grid between ``bounds``; what does not learn as it is."""
    numbers = {name: np.asarray(values[name], float) for name in names}
    known = np.concatenate([each.ravel() for each in (*numbers.values(), *map(np.asarray, bounds.values()))])
    reach = 10 * abs(known[np.isfinite(known)]).max()
    along = int(min(ALONG, PLACES ** (1 / max(1, len(bounds)))))
    axes = [between(numbers[name], low, high, reach, along) for name, (low, high) in bounds.items()]
    grid = [axis.reshape(-1, 1) for axis in np.meshgrid(*axes, indexing="ij")]
    return {name: each.reshape(1, -1) for name, each in numbers.items()} | dict(zip(bounds, grid, strict=True))


def between(values, low, high, reach, number):
    """Numbers from ``low`` to ``high`` as far as they ``reach``: both ends, ``values``, zero where it lies between."""
    first, last = max(low, -reach), min(high, reach)
    return np.unique([*np.linspace(first, last, number), *values.flat, *([0.0] if first <= 0 <= last else [])])
