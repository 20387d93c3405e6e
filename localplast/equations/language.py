"""Brian2's language as sympy: its parser, and the functions that sympy would rewrite, or cannot differentiate.

Every function is a class with the name that it has in text. sympy's own forms of ``abs``, ``sign``, ``floor``, ``%``
and ``//`` are not used: their derivatives are those of complex functions, distributions, or none.
"""

import functools

import sympy
from brian2.core.functions import DEFAULT_FUNCTIONS
from brian2.parsing.rendering import SympyNodeRenderer
from sympy.core.function import ArgumentIndexError
from sympy.logic.boolalg import Boolean

from localplast.equations import divided_exp, matrix_exp
from localplast.equations.bounded import check_bounded
from localplast.equations.slopes import bounded_number, where_finite

__all__ = ["Draw", "Flat", "absolute", "clip", "floordiv", "int_", "mod", "read", "sign", "stop", "timestep"]


class Real(sympy.Function):
    """A function that is real, whatever sympy knows of its arguments."""

    def _eval_is_extended_real(self):
        return True


class Flat(Real):
    """A function that is piecewise constant: its derivative is zero."""

    def _eval_derivative(self, _):
        return sympy.Integer(0)  # not by fdiff: the chain rule would differentiate a condition


class int_(Flat):
    """``int(x)``: of a condition 1 or 0, of a number what is left of it without its fraction."""

    @classmethod
    def eval(cls, value):
        if value in (sympy.true, sympy.false):
            return sympy.Integer(value == sympy.true)
        if value.is_Number and value.is_finite:
            return sympy.Integer(int(value))


class sign(Flat):
    """``sign(x)``: -1, 0 or 1, without a unit."""

    nargs = 1


class floor(Flat):
    """``floor(x)``."""

    nargs = 1


class ceil(Flat):
    """``ceil(x)``."""

    nargs = 1


class floordiv(Flat):
    """``a // b``: rounded down, also where it is negative."""

    nargs = 2


class timestep(Flat):
    """``timestep(time, dt)``: how many steps a time holds; a rounding error below n steps is n steps."""

    nargs = 2


class mod(Real):
    """``a % b``: with the sign of ``b``."""

    nargs = 2

    def fdiff(self, argindex=1):
        a, b = self.args
        return sympy.Integer(1) if argindex == 1 else -floordiv(a, b)


class absolute(Real):
    """``abs(x)``; its derivative is the sign."""

    nargs = 1

    def fdiff(self, argindex=1):
        return sign(self.args[0])


class clip(Real):
    """``clip(a, low, high)``."""

    nargs = 3

    @classmethod
    def eval(cls, value, low, high):
        if value.is_Number and low.is_Number and high.is_Number:
            return min(max(value, low), high)

    def fdiff(self, argindex=1):
        value, low, high = self.args
        if argindex == 1:
            return int_(value > low) * int_(value < high)
        if argindex == 2:
            return int_(value < low)
        if argindex == 3:
            return int_(value > high)
        raise ArgumentIndexError(self, argindex)


class stop(Real):
    """``stop(x)``: x itself, through which no gradient passes."""

    nargs = 1

    @classmethod
    def eval(cls, value):
        if value.is_number:
            return value

    def fdiff(self, argindex=1):
        return sympy.Integer(0)


class Draw(Flat):
    """A random number. Its last argument is that of a call, 1: Brian2 draws once in an expression."""


class rand(Draw):
    """``rand()``: uniform between 0 and 1."""


class randn(Draw):
    """``randn()``: standard normal."""


class poisson(Draw):
    """``poisson(mean)``."""


OWN = {
    "abs": absolute,
    "ceil": ceil,
    "clip": clip,
    "exprel": divided_exp.exprel,
    "floor": floor,
    "int": int_,
    "poisson": poisson,
    "rand": rand,
    "randn": randn,
    "sign": sign,
    "sqrt": sympy.sqrt,
    "stop": stop,
    "timestep": timestep,
    "bounded_number": bounded_number,
    "where_finite": where_finite,
    **divided_exp.ENGINES.by_name,
    **matrix_exp.ENGINES.by_name,
}


class Reader(SympyNodeRenderer):
    """Brian2's parser (an AST walk: nothing is evaluated), with the functions above, and conditions that count as 1
    or 0.
    """

    def __init__(self):
        super().__init__()
        self.drawn = 0

    def render_func(self, node):
        if node.id in OWN:
            return OWN[node.id]
        if node.id not in DEFAULT_FUNCTIONS:
            raise SyntaxError(f"uses the function {node.id!r}; there are {', '.join(sorted(DEFAULT_FUNCTIONS))}")
        return super().render_func(node)

    def render_Call(self, node):
        if node.keywords:
            raise SyntaxError("gives an argument of a function by name; give it by position")
        function, arguments = self.render_func(node.func), [self.render_node(a) for a in node.args]
        if function is not int_:
            arguments = [as_number(a) for a in arguments]
        if isinstance(function, type) and issubclass(function, Draw):
            self.drawn += 1
            arguments.append(sympy.Integer(self.drawn))
            if self.drawn > 1:
                raise SyntaxError("draws two random numbers in one expression; draw each in a statement of its own")
        return function(*arguments)

    def render_Name(self, node):
        found = super().render_Name(node)
        return symbol(found.name) if found.is_Symbol else found

    def render_Constant(self, node):
        if not isinstance(node.value, (bool, int, float)):
            raise SyntaxError(f"holds {node.value!r}, which is not a number")
        return sympy.sympify(node.value)

    def render_BinOp(self, node):
        left, right = (as_number(self.render_node(n)) for n in (node.left, node.right))
        operation = {
            "Add": sympy.Add,
            "Mult": sympy.Mul,
            "Pow": sympy.Pow,
            "Mod": mod,
            "FloorDiv": floordiv,
            "Sub": lambda a, b: a - b,
            "Div": lambda a, b: a / b,
        }.get(type(node.op).__name__)
        if operation is None:
            raise SyntaxError("uses an operator on bits; write 'and' for '&', 'or' for '|', '**' for '^'")
        return operation(left, right)

    def render_UnaryOp(self, node):
        found, operator = self.render_node(node.operand), type(node.op).__name__
        if operator == "Not":
            return sympy.Not(as_condition(found))
        if operator == "Invert":
            raise SyntaxError("uses an operator on bits; write 'not' for '~'")
        return -as_number(found) if operator == "USub" else as_number(found)

    def render_BoolOp(self, node):
        return self.expression_ops[type(node.op).__name__](*(as_condition(self.render_node(n)) for n in node.values))

    def render_Compare(self, node):
        if len(node.ops) > 1:
            raise SyntaxError("compares three values at once; write 'a < b and b < c'")
        operation = self.expression_ops.get(type(node.ops[0]).__name__)
        if operation is None:
            raise SyntaxError("compares with a word; write ==, !=, <, <=, > or >=")
        return operation(*(as_number(self.render_node(n)) for n in (node.left, node.comparators[0])))


@functools.lru_cache(maxsize=2**14)
def symbol(name):
    """The symbol of a name: all are real."""
    return sympy.Symbol(name, real=True)


def as_number(value):
    """A condition as 1 or 0."""
    return int_(value) if isinstance(value, Boolean) and not value.is_Symbol else value


def as_condition(value):
    """``value``, which has to be a condition."""
    if not isinstance(value, Boolean) or value.is_Symbol:
        raise SyntaxError(
            "joins numbers by 'and', 'or' or 'not', which are for conditions; write for example 'b > 0.5'"
        )
    return value


@functools.lru_cache(maxsize=4096)
def read(text):
    """Brian2 expression text as sympy, units as symbols.

    Raises
    ------
    ValueError
        What the language does not have, or what has no value; the message goes on from "the threshold 'v > 1'".
    """
    check_bounded(text, derived=True)
    try:
        found = as_number(Reader().render_expr(text))
    except SyntaxError as error:
        raise ValueError(
            error.msg if error.lineno is None else f"does not parse: {error.msg}"
        ) from None  # Python's own have a line
    except (TypeError, NameError, AttributeError, KeyError, ZeroDivisionError) as error:
        raise ValueError(f"has no meaning in Brian2's language ({error})") from None
    if found.has(sympy.zoo, sympy.nan, sympy.I):
        raise ValueError("is not a real number: it divides by zero, or takes the root of a negative number")
    return found
