"""Rewriting that costs little: sympy evaluates whatever is made, and asks what is known of it again and again.

Names can be changed without that, and a derivative needs every node once.
"""

import functools

import sympy

__all__ = ["derivative", "rebuilt", "renamed", "replaced", "symbols_in"]

#: What is made from its parts as it stands, without evaluating.
PLAIN = (sympy.Add, sympy.Mul, sympy.Pow, sympy.Function)
#: What zero times is no number either.
NO_NUMBERS = {sympy.zoo, sympy.nan, sympy.oo, -sympy.oo}
#: The order of terms and factors.
ORDER = functools.cmp_to_key(sympy.Basic.compare)


@functools.lru_cache(maxsize=2**16)
def symbols_in(node):
    """The symbols of an expression, which sympy would gather anew from every part."""
    if not node.args:
        return frozenset([node] if node.is_Symbol else [])
    return frozenset().union(*map(symbols_in, node.args))


def renamed(expression, names):
    """An expression with other symbols: as ``xreplace``, where no two of its symbols become one.

    Parameters
    ----------
    names : dict of symbol to symbol
    """
    return walked(expression, names, made)


def replaced(expression, values):
    """An expression with others in the places of its symbols: as ``xreplace``, but that a function of what is no number
    is left as it is.

    Parameters
    ----------
    values : dict of symbol to expression
    """
    return walked(expression, values, rebuilt)


def walked(expression, leaves, make):
    """An expression with other leaves, every node above them made anew, once."""
    known = {}

    def new(node):
        if not node.args:
            return leaves.get(node, node)
        if node not in known:
            parts = [new(part) for part in node.args]
            changed = any(one is not other for one, other in zip(parts, node.args, strict=True))
            known[node] = make(node.func, parts) if changed else node
        return known[node]

    return new(expression)


def made(function, parts):
    """A node of parts that stand where others of their kind have stood."""
    if function in (sympy.Add, sympy.Mul):
        number = parts[0].is_Number
        parts = [*parts[:number], *sorted(parts[number:], key=ORDER)]
    return function(*parts, evaluate=False) if issubclass(function, PLAIN) else function(*parts)


def rebuilt(function, parts):
    """A node of other parts: a product with zero is zero, and a function of what is no number stays as it is."""
    if function is sympy.Mul and sympy.S.Zero in parts and not any(part in NO_NUMBERS for part in parts):
        return sympy.S.Zero  # sympy would ask whether all others are finite
    plain = issubclass(function, sympy.Function) and not any(part.is_Number for part in parts)
    return function(*parts, evaluate=False) if plain else function(*parts)


@functools.lru_cache(maxsize=2**14)
def derivative(node, by):
    """d ``node`` / d ``by``, a symbol: sympy's own, term by term."""
    if not node.args:
        return sympy.Integer(node == by)
    if node.is_Add:
        return sympy.Add(*[derivative(term, by) for term in node.args])
    if node.is_Mul:
        slopes = [derivative(factor, by) for factor in node.args]
        return sympy.Add(*[sympy.Mul(*node.args[:n], x, *node.args[n + 1 :]) for n, x in enumerate(slopes) if x != 0])
    if node.is_Pow and derivative(node.exp, by) == 0:
        slope = derivative(node.base, by)
        return slope if slope == 0 else node * (slope * node.exp / node.base)
    if node.func is sympy.tanh:
        return (1 - node**2) * derivative(node.args[0], by)  # sympy would make the node again
    if isinstance(node, sympy.Function) and type(node)._eval_derivative is sympy.Function._eval_derivative:
        slopes = [derivative(part, by) for part in node.args]
        return sympy.Add(*[node.fdiff(n) * x for n, x in enumerate(slopes, 1) if x != 0])
    return sympy.diff(node, by)
