"""The units of a program, derived: what an array is measured in follows from the statements that set it."""

from localplast.equations.text import measured
from localplast.program.arrays import End
from localplast.program.instructions import names_in

__all__ = ["derived", "of_ends"]


def derived(assignments, known):
    """Dimensions of what ``assignments`` set, ``known`` ones among them.

    A name that reads its own past, or that of a later one, is a sum whose other terms have the same dimension.

    Parameters
    ----------
    assignments : iterable of (str, sympy expression)
        In any order.
    known : dict of str to Dimension
        By array, of those whose unit is given.

    Returns
    -------
    dict of str to Dimension
    """
    found, waiting = dict(known), [(name, e) for name, e in assignments if name not in known]
    while waiting:
        told = [(name, unit_from(e, found)) for name, e in waiting]
        found.update({name: unit for name, unit in reversed(told) if unit is not None})
        left = [(name, e) for name, e in waiting if name not in found]
        if len(left) == len(waiting):
            break
        waiting = left
    return found


def unit_from(expression, known):
    """The dimension of an expression, of a sum: of a term in which all is known; None where nothing tells."""
    if names_in(expression, True) <= known.keys():
        return measured(expression, of_ends(expression, known))[1]
    if expression.is_Add:
        terms = (unit_from(e, known) for e in expression.args if e.free_symbols)
        return next((unit for unit in terms if unit is not None), None)
    return None


def of_ends(expression, known):
    """``known`` dimensions, by symbol: what a synapse reads of its neurons has the unit that it has there."""
    return {s.name: known[s.array if isinstance(s, End) else s.name] for s in expression.free_symbols}
