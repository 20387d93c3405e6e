"""sympy to C: statements in the operation order of :class:`~localplast.equations.expressions.Tape`, and their
constants.

Whatever depends on parameters and ``dt`` alone is computed once, in Torch, by the same Tape that the interpreted step
uses, and handed to the kernel as a number: C and Torch then start from the same bits.
"""

import numpy as np
import sympy

from localplast.equations.language import absolute, ceil, clip, floor, floordiv, int_, mod, sign, stop, symbol, timestep
from localplast.equations.rewriting import symbols_in
from localplast.equations.slopes import Tamed
from localplast.equations.tape import Tape, operation
from localplast.equations.variadic import Variadic
from localplast.errors import UnsupportedError

__all__ = ["READY", "Constants", "Writer", "check_c_form", "in_one_line", "is_condition"]

READY = symbol("not_refractory")
FUNCTIONS = {
    sympy.exp: "exp",
    sympy.log: "log",
    sympy.sin: "sin",
    sympy.cos: "cos",
    sympy.tan: "tan",
    sympy.sinh: "sinh",
    sympy.cosh: "cosh",
    sympy.tanh: "tanh",
    sympy.asin: "asin",
    sympy.acos: "acos",
    sympy.atan: "atan",
    sympy.Abs: "fabs",
    absolute: "fabs",
    floor: "floor",
    ceil: "ceil",
}
BY_NAME = {"expm1": "expm1", "log1p": "log1p", "log10": "log10"}
#: What more than one operation computes; functions that are not of libm are in :mod:`~localplast.backends.c.runtime`.
FORMS = {
    clip: "smaller(larger({0}, {1}), {2})",
    stop: "{0}",
    sign: "({0} > 0) - ({0} < 0)",
    mod: "modulo({0}, {1})",
    floordiv: "floor_divide({0}, {1})",
    timestep: "M(trunc)(({0} + R(1e-3) * {1}) / {1})",
}
RELATIONS = {
    sympy.StrictGreaterThan: ">",
    sympy.GreaterThan: ">=",
    sympy.StrictLessThan: "<",
    sympy.LessThan: "<=",
    sympy.Equality: "==",
    sympy.Unequality: "!=",
}
LOGIC = {sympy.And: " & ", sympy.Or: " | "}
SMALL_POWERS = {-1: "R(1.0) / {0}", 2: "{0} * {0}", 3: "{0} * {0} * {0}", -2: "R(1.0) / ({0} * {0})"}


class Constants:
    """The numbers of one population that no step changes, in the order in which the C text asks for them.

    Parameters
    ----------
    values : dict of str to tensor
        Parameters, each of shape ``()`` or ``(neuron,)``, and ``dt``.
    refractory : bool
        Whether ``not_refractory`` varies; else it is 1. Where it is all that varies in an expression, both values
        are computed beforehand and C selects one.
    """

    def __init__(self, values, refractory):
        self.values, self.refractory = dict(values), refractory
        self.asked = {True: [], False: []}  # (node, ready) by whether one number serves all neurons
        self.tapes = {}  # by how much was asked for: the numbers change from call to call, what is computed does not

    def holds(self, node):
        """Whether ``node`` is known before the trial, up to the two values of ``not_refractory``."""
        return all(s.name in self.values or s == READY for s in symbols_in(node))

    def text(self, node, ready="ready"):
        """C text of a node that :meth:`holds`."""
        if READY in symbols_in(node) and self.refractory:
            return f"({ready} != 0 ? {self.place(node, 1.0)} : {self.place(node, 0.0)})"
        return self.place(node, 1.0)

    def place(self, node, ready):
        """C text of a node at one value of ``not_refractory``."""
        shared = all(np.ndim(self.values[s.name]) == 0 for s in symbols_in(node) - {READY})
        asked = self.asked[shared]
        if (node, ready) not in asked:
            asked.append((node, ready))
        number = asked.index((node, ready))
        return f"k[{number}]" if shared else f"c[{number}*N + i]"

    def numbers(self, size):
        """``(shared, per_neuron)``: arrays ``(constant,)`` and ``(constant, size)``, padded with the last neuron's."""
        found = {**self._values(1.0), **self._values(0.0)}
        shared = [float(found[asked]) for asked in self.asked[True]]
        each = [np.asarray(found[asked], float) for asked in self.asked[False]]
        padded = [np.pad(row, (0, size - len(row)), mode="edge") for row in each]
        return np.array(shared), np.array(padded).reshape(-1, size)

    def _values(self, ready):
        """What was asked for at one value of ``not_refractory``, as one program."""
        asked = [pair for pairs in self.asked.values() for pair in pairs if pair[1] == ready]
        one = next(iter(self.values.values()))
        known = {**self.values, "not_refractory": one.new_tensor(ready) if hasattr(one, "new_tensor") else ready}
        if (ready, len(asked)) not in self.tapes:
            self.tapes[ready, len(asked)] = Tape([(str(number), node) for number, (node, _) in enumerate(asked)])
        return dict(zip(asked, self.tapes[ready, len(asked)](known).values(), strict=True))


class Writer:
    """Turns expressions into C statements, common subexpressions once.

    Parameters
    ----------
    constants : Constants
    load : callable of str to str
        C text that reads a variable; called once for each variable that is needed.
    after : Writer, optional
        Go on with the statements of another writer, whose variables no longer mean the same.
    """

    def __init__(self, constants, load, after=None):
        self.constants, self.load = constants, load
        self.lines, self.seen = after.lines if after else [], {}

    def program(self, program):
        """Write assignments ``(name, expression)``; later expressions may use the names."""
        for name, expression in program:
            self.seen[symbol(name)] = self(expression)

    def __call__(self, expression):
        """C text (a name or a number) of the value of ``expression``."""
        node = sympy.sympify(expression, strict=True)  # text would be evaluated
        if node not in self.seen:
            self.seen[node] = self._make(node)
        return self.seen[node]

    def _new(self, text, kind="real"):
        name = f"r{len(self.lines)}"
        self.lines.append(f"const {kind} {name} = {text};")
        return name

    def _make(self, node):
        if node is sympy.true or node is sympy.false:
            return "1" if node is sympy.true else "0"
        if node.is_number and not node.args:
            return number(node)
        if self.constants.holds(node) and not is_condition(node):
            return self._new(self.constants.text(node))
        if node.is_Symbol:
            return self._new(self.load(node.name))
        return self._operate(node)

    def _operate(self, node):
        return self._joined(node, [self(a) for a in node.args])

    def _joined(self, node, arguments):
        if node.func in RELATIONS:
            return self._new(f" {RELATIONS[node.func]} ".join(arguments), "int")
        if node.func in LOGIC:
            return self._new(LOGIC[node.func].join(arguments), "int")
        if node.func is sympy.Not:
            return self._new(f"!{arguments[0]}", "int")
        return self._new(arithmetic(node, arguments))


class Line(Writer):
    """Puts parts where they are needed in place of names for them: for short texts, in which hardly one occurs twice."""

    def _new(self, text, kind="real"):
        return text

    def _make(self, node):
        return number(node) if node.is_number else super()._make(node)

    def _operate(self, node):
        if node.is_Add:
            first, *others = node.as_ordered_terms()
            signed = [("-", -e) if e.could_extract_minus_sign() else ("+", e) for e in others]
            return self(first) + "".join(f" {operator} {self(e)}" for operator, e in signed)
        texts, called = [self(a) for a in node.args], node.func in FUNCTIONS or node.func is clip
        first = node.is_Mul and node.args[0].is_Symbol  # from the left, which needs no brackets
        bare = [called or " " not in text or (first and not place) for place, text in enumerate(texts)]
        return self._joined(node, [text if b else f"({text})" for b, text in zip(bare, texts, strict=True)])


def in_one_line(expression, load):
    """C text of an expression; ``load`` gives that of its variables."""
    return Line(Constants({}, False), load)(expression)


def number(node):
    """A number as C text, exact in double precision."""
    return f"R({float(node)!r})" if np.isfinite(float(node)) else f"({'-' if node < 0 else ''}INFINITY)"


def is_condition(node):
    return node.func in RELATIONS or node.func in LOGIC or node.func is sympy.Not


def arithmetic(node, arguments):
    """C text of one node that yields a real number."""
    if node.func is sympy.Add:
        return " + ".join(arguments)  # C adds from the left, as the Tape does
    if node.func is sympy.Mul:
        return " * ".join(arguments)
    if node.func is sympy.Pow:
        return power(node, *arguments)
    if node.func is int_:
        return f"{arguments[0]} ? R(1.0) : R(0.0)" if is_condition(node.args[0]) else f"M(trunc)({arguments[0]})"
    if node.func in FORMS:
        return FORMS[node.func].format(*arguments)
    if isinstance(node, Tamed):
        return f"{node.func.__name__}({', '.join(arguments)})"
    found = FUNCTIONS.get(node.func) or BY_NAME.get(node.func.__name__)
    if found is None:
        return f"{c_name(node)}({', '.join(arguments)})"
    return f"M({found})({', '.join(arguments)})"


def c_name(node):
    if isinstance(node, Variadic):
        return node.called
    if node.func.__name__ != "exprel":
        raise UnsupportedError(f"{node.func.__name__}() has no C form")
    return "exprel"


def power(node, base, exponent):
    given = node.args[1]
    if given.is_number and float(given) in SMALL_POWERS:
        return SMALL_POWERS[float(given)].format(base)
    if given.is_number and float(given) == 0.5:
        return f"M(sqrt)({base})"
    return f"M(pow)({base}, {exponent})"


def check_c_form(expressions):
    """The first node without a C form (or without any numerical one) as text, or None."""
    for expression in expressions:
        for node in sympy.preorder_traversal(sympy.sympify(expression, strict=True)):
            if node.is_Atom or is_condition(node):
                continue
            try:
                operation(node)
                arithmetic(node, ["0"] * len(node.args))
            except (UnsupportedError, ValueError) as error:
                return str(error)
    return None
