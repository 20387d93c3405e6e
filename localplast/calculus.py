"""Text to sympy and back, and straight-line programs over it.

Text becomes sympy through Brian2's own parser (an AST walk: nothing is evaluated). A *program* is a sequence of
``(name, expression)`` assignments, each name assigned once; :class:`Tape` runs it on numpy arrays or torch tensors.
"""

import functools
import operator

import numpy as np
import sympy
from brian2.core.functions import exprel as brian2_exprel
from brian2.core.namespace import DEFAULT_UNITS
from brian2.parsing.sympytools import str_to_sympy, sympy_to_str
from sympy.core.function import AppliedUndef, ArgumentIndexError

from localplast import divided_exp as divided
from localplast.bounded import check_bounded
from localplast.slopes import LARGEST, bounded_number, finite_slope, where_finite

__all__ = ["Tape", "differentiate", "in_si", "symbol", "to_sympy", "to_text"]


class int_(sympy.Function):
    """Brian2's ``int(condition)``: piecewise constant, so its derivative is zero."""

    def _eval_derivative(self, _):
        return sympy.Integer(0)  # not by fdiff: the chain rule would differentiate the condition

    def _eval_is_real(self):
        return True


class clip(sympy.Function):
    """Brian2's ``clip(a, low, high)``."""

    @classmethod
    def eval(cls, value, low, high):
        if value.is_Number and low.is_Number and high.is_Number:
            return min(max(value, low), high)

    def fdiff(self, argindex=1):
        if argindex != 1:
            raise ArgumentIndexError(self, argindex)
        value, low, high = self.args
        return int_(value > low) * int_(value < high)

    def _eval_is_real(self):
        return True


OWN_FUNCTIONS = {"int_": int_, "int": int_, "clip": clip, "sqrt": sympy.sqrt, **divided.BY_NAME}
OWN_FUNCTIONS |= {"bounded_number": bounded_number, "where_finite": where_finite}


def symbol(name):
    """The real symbol that Brian2's parser makes of ``name``."""
    return sympy.Symbol(name, real=True)


@functools.lru_cache(maxsize=4096)
def to_sympy(text, units=True):
    """Brian2 expression text as sympy; units become their SI value, or stay symbols where ``units`` is False."""
    check_bounded(text)
    expression = str_to_sympy(text)
    if isinstance(expression, (bool, sympy.logic.boolalg.BooleanAtom)):
        return sympy.Integer(int(bool(expression)))
    expression = expression.replace(
        lambda e: isinstance(e, AppliedUndef) and e.func.__name__ in OWN_FUNCTIONS,
        lambda e: OWN_FUNCTIONS[e.func.__name__](*e.args),
    )
    expression = expression.replace(brian2_exprel, divided.exprel)
    expression = in_si(expression) if units else expression
    return expression.subs({s: symbol(s.name) for s in expression.free_symbols})


def in_si(expression):
    """``expression`` with its units replaced by their SI value."""
    units = {s: sympy.Float(float(DEFAULT_UNITS[s.name]), 17) for s in expression.free_symbols if s.name in DEFAULT_UNITS}
    return expression.subs(units)


def to_text(expression):
    """sympy as Brian2 expression text."""
    return sympy_to_str(divided.named(sympy.sympify(expression, strict=True)))


def differentiate(expression, name):
    """d expression / d name; abs has the derivative sign, int() and comparisons have none."""
    derivative = sympy.diff(expression, symbol(name))
    if derivative.has(sympy.Derivative, sympy.DiracDelta, sympy.Subs):
        raise ValueError(f"cannot differentiate {to_text(expression)} with respect to {name}")
    return finite_slope(derivative)


def exprel(x):
    """``(exp(x) - 1)/x``, 1 at 0 (for numpy and torch alike, without importing torch)."""
    return _sloped("exprel", _exprel, x)


def _exprel(x):
    small = abs(x) < 1e-9
    safe = x + small * 1.0
    module = _module(x)
    return module.where(small, 1.0 + 0.5 * x, module.expm1(safe) / safe)


def _module(value):
    if type(value).__module__.startswith("torch"):
        import torch

        return torch
    return np


def _call(name, torch_name=None):
    def apply(*args):
        module = _module(args[0])
        if module is np:
            return getattr(np, name)(*args)
        return _sloped(name, getattr(module, torch_name or name), *args)

    apply.__name__ = name
    return apply


def _sloped(name, function, *args):
    """``function(*args)``; of tensors that carry gradients with a derivative that is a number where its text is not."""
    if all(_module(a) is np for a in args):
        return function(*args)
    from localplast.backends.torch_slopes import SLOPES, sloped

    return sloped(function, SLOPES[name], *args) if name in SLOPES else function(*args)


def _divided(*points):
    if all(_module(p) is np for p in points):
        return divided.value(np, *points)
    from localplast.backends.torch_slopes import divided as in_torch

    like = next(p for p in points if _module(p) is not np)
    return in_torch(*(like.new_tensor(p) if _module(p) is np else p for p in points))


def _bounded(value):
    if _module(value) is np:
        return np.clip(value, -LARGEST[8], LARGEST[8])
    return value.clamp(-LARGEST[value.element_size()], LARGEST[value.element_size()])


def _where_finite(value, other):
    if _module(value) is np and _module(other) is np:
        return np.where(np.isfinite(other), value, 0.0)
    import torch

    like = value if _module(value) is torch else other
    value, other = (torch.as_tensor(v, dtype=like.dtype, device=like.device) for v in (value, other))
    return torch.where(torch.isfinite(other), value, torch.zeros_like(value))


def _clip(value, low, high):
    module = _module(value)
    if module is np and all(_module(bound) is np for bound in (low, high)):
        return np.clip(value, low, high)
    import torch

    dtype = next(v.dtype for v in (value, low, high) if isinstance(v, torch.Tensor))
    value, low, high = (torch.as_tensor(v, dtype=dtype) for v in (value, low, high))  # a float alone would be single precision
    inside = (value > low) & (value < high)
    # on a bound the derivative is zero, as that of :class:`clip`; minimum alone would halve it
    return torch.where(inside, value, torch.minimum(torch.maximum(value.detach(), low), high))


def _int(value):
    if _module(value) is np:
        return np.asarray(value) * 1.0
    return value * 1.0


def _compare(relation):
    """``relation`` as bool in numpy; in torch as 0.0 or 1.0 of the type compared, which plain bool would lose.

    (A bool tensor times 1.0 is single precision, and stays so when it meets a scalar of double precision.)
    """

    def apply(one, other):
        result = relation(one, other)
        module = _module(result)
        return result if module is np else result.to(module.result_type(one, other))

    return apply


def _and(*args):
    return functools.reduce(operator.mul, args)


def _not(value):
    return np.logical_not(value) if _module(value) is np else 1 - value


def _or(*args):
    return _not(_and(*map(_not, args)))


def _power(base, exponent):
    if isinstance(exponent, (int, float)):
        if exponent == -1:
            return 1.0 / base
        if exponent == 2:
            return base * base
        if exponent == 0.5:
            return _call("sqrt")(base)
    return _sloped("power", operator.pow, base, exponent)


#: How each sympy node is computed; entries work on floats, numpy arrays and torch tensors.
OPERATIONS = {
    sympy.Add: lambda *args: functools.reduce(operator.add, args),
    sympy.Mul: lambda *args: functools.reduce(operator.mul, args),
    sympy.Pow: _power,
    sympy.exp: _call("exp"), sympy.log: _call("log"), sympy.sin: _call("sin"), sympy.cos: _call("cos"),
    sympy.tan: _call("tan"), sympy.sinh: _call("sinh"), sympy.cosh: _call("cosh"), sympy.tanh: _call("tanh"),
    sympy.asin: _call("arcsin"), sympy.acos: _call("arccos"), sympy.atan: _call("arctan"),
    sympy.Abs: _call("abs"), sympy.sign: _call("sign"), sympy.floor: _call("floor"), sympy.ceiling: _call("ceil"),
    sympy.StrictGreaterThan: _compare(operator.gt), sympy.GreaterThan: _compare(operator.ge),
    sympy.StrictLessThan: _compare(operator.lt), sympy.LessThan: _compare(operator.le),
    sympy.And: _and, sympy.Or: _or, sympy.Not: _not,
    int_: _int, clip: _clip, divided.exprel: exprel, divided.divided_exp: _divided,
    bounded_number: _bounded, where_finite: _where_finite,
}  # fmt: skip
BY_NAME = {"expm1": _call("expm1"), "log1p": _call("log1p"), "log10": _call("log10")}


def operation(node):
    """The function that computes one sympy node."""
    found = OPERATIONS.get(node.func) or BY_NAME.get(node.func.__name__)
    if found is None:
        raise ValueError(f"no numerical form for {node.func.__name__} in {to_text(node)}")
    return found


class Tape:
    """A program flattened to one list of operations, common subexpressions computed once.

    Parameters
    ----------
    program : sequence of (str, sympy expression)
        Later expressions may use earlier names.
    constants : dict of str to number, array or tensor
        Names that do not change from call to call; everything that depends on nothing else is computed here, once.
    """

    def __init__(self, program, constants=()):
        constants = dict(constants)
        self.registers = []  # value where constant, else None
        self.instructions = []  # (function, target, arguments)
        self.folded = []  # the same, of what is constant
        self.slots = {}  # free name -> register
        self.seen = {}
        self.outputs = {}
        for name, value in constants.items():
            self.seen[symbol(name)] = self._new(value)
        for name, expression in program:
            self.outputs[name] = self.seen[symbol(name)] = self._visit(sympy.sympify(expression, strict=True))

    def _new(self, value=None):
        self.registers.append(value)
        return len(self.registers) - 1

    def _visit(self, node):
        if node not in self.seen:
            self.seen[node] = self._make(node)
        return self.seen[node]

    def _make(self, node):
        if node.is_Symbol:
            self.slots[node.name] = self._new()
            return self.slots[node.name]
        if node in (sympy.true, sympy.false):
            return self._new(bool(node))
        if node.is_number and not node.args or node.is_Number:
            return self._new(float(node))
        function, arguments = operation(node), [self._visit(a) for a in node.args]
        values = [self.registers[a] for a in arguments]
        if all(v is not None for v in values):
            self.folded.append((function, len(self.registers), arguments))
            return self._new(function(*values))
        target = self._new()
        self.instructions.append((function, target, arguments))
        return target

    def refresh(self):
        """Take note of constants, tensors, whose numbers have changed in place."""
        for function, target, arguments in self.folded:
            self.registers[target] = function(*[self.registers[a] for a in arguments])

    def __call__(self, values):
        """Run on ``values``, a dict of the remaining names; returns a dict of every assigned name."""
        registers = self.registers.copy()
        for name, slot in self.slots.items():
            registers[slot] = values[name]
        for function, target, arguments in self.instructions:
            registers[target] = function(*[registers[a] for a in arguments])
        return {name: registers[slot] for name, slot in self.outputs.items()}
