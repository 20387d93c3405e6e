"""Straight-line programs over sympy expressions, run on numpy arrays or torch tensors."""

import functools
import operator

import numpy as np
import sympy

from localplast.equations import divided_exp as divided
from localplast.equations import matrix_exp as matrix
from localplast.equations.language import absolute, ceil, clip, floor, floordiv, int_, mod, sign, stop, symbol, timestep
from localplast.equations.slopes import LARGEST, bounded_number, where_finite

__all__ = ["Tape"]


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
    from localplast.equations.torch_slopes import SLOPES, sloped  # needs Torch

    return sloped(function, SLOPES[name], *args) if name in SLOPES else function(*args)


def _divided(*points):
    if all(_module(p) is np for p in points):
        return divided.value(np, *points)
    from localplast.equations.torch_slopes import divided as in_torch  # needs Torch

    return in_torch(*_tensors(*points))


def _matrix_exp(size, row, column, *entries):
    if all(_module(e) is np for e in entries):
        return matrix.value(np, size, row, column, *entries)
    import torch

    return matrix.value(torch, size, row, column, *_tensors(*entries))


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
    bounds = low, high
    value, low, high = _tensors(value, low, high)
    if not (value.requires_grad or low.requires_grad or high.requires_grad):
        return value.clamp(*(bounds if all(_module(bound) is np for bound in bounds) else (low, high)))
    module, inside = _module(value), (value > low) & (value < high)
    # on a bound the derivative is zero, as that of :class:`localplast.equations.language.clip`; minimum alone would
    # halve it
    return module.where(inside, value, module.minimum(module.maximum(value.detach(), low), high))


def _int(value):
    return _call("trunc")(value * 1.0)


def _floordiv(value, divisor):
    """As numpy: also where a rounding error lies between the quotient and a whole number."""
    if _module(value) is np and _module(divisor) is np:
        return np.floor_divide(value, divisor)
    value, divisor = _tensors(value, divisor)
    return _module(value).div(value, divisor, rounding_mode="floor")


def _mod(value, divisor):
    """With the sign of the divisor, as numpy."""
    if _module(value) is np and _module(divisor) is np:
        return np.mod(value, divisor)
    value, divisor = _tensors(value, divisor)
    return _module(value).remainder(value, divisor)


def _timestep(time, dt):
    return _int((time + 1e-3 * dt) / dt)


def _tensors(*values):
    """``values``, some of them tensors, as tensors of one type: a float alone would be single precision."""
    import torch

    like = next(v for v in values if isinstance(v, torch.Tensor))
    return [torch.as_tensor(v, dtype=like.dtype, device=like.device) for v in values]


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
    sympy.exp: _call("exp"),
    sympy.log: _call("log"),
    sympy.sin: _call("sin"),
    sympy.cos: _call("cos"),
    sympy.tan: _call("tan"),
    sympy.sinh: _call("sinh"),
    sympy.cosh: _call("cosh"),
    sympy.tanh: _call("tanh"),
    sympy.asin: _call("arcsin"),
    sympy.acos: _call("arccos"),
    sympy.atan: _call("arctan"),
    sympy.Abs: _call("abs"),
    absolute: _call("abs"),
    sign: _call("sign"),
    floor: _call("floor"),
    ceil: _call("ceil"),
    sympy.StrictGreaterThan: _compare(operator.gt),
    sympy.GreaterThan: _compare(operator.ge),
    sympy.StrictLessThan: _compare(operator.lt),
    sympy.LessThan: _compare(operator.le),
    sympy.Equality: _compare(operator.eq),
    sympy.Unequality: _compare(operator.ne),
    sympy.And: _and,
    sympy.Or: _or,
    sympy.Not: _not,
    int_: _int,
    clip: _clip,
    mod: _mod,
    floordiv: _floordiv,
    timestep: _timestep,
    divided.exprel: exprel,
    divided.divided_exp: _divided,
    matrix.matrix_exp: _matrix_exp,
    bounded_number: _bounded,
    where_finite: _where_finite,
    stop: lambda value: value if _module(value) is np else value.detach(),
}


BY_NAME = {"expm1": _call("expm1"), "log1p": _call("log1p"), "log10": _call("log10")}


def operation(node):
    """The function that computes one sympy node."""
    found = OPERATIONS.get(node.func) or BY_NAME.get(node.func.__name__)
    if found is None:
        raise ValueError(f"no numerical form for {node.func.__name__}() outside of Brian2")
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
        if node is sympy.true or node is sympy.false:
            return self._new(bool(node))
        if node.is_number and not node.args or node.is_Number:
            return self._new(float(node))
        function, arguments = operation(node), [self._visit(a) for a in node.args]
        values = [self.registers[a] for a in arguments]
        if all(v is not None for v in values):
            found = function(*values)
            single = isinstance(found, (np.generic, np.ndarray)) and not found.ndim  # it would turn tensors into arrays
            return self._new(found.item() if single else found)
        target = self._new()
        self.instructions.append((function, target, arguments))
        return target

    def __call__(self, values):
        """Run on ``values``, a dict of the remaining names; returns a dict of every assigned name."""
        registers = self.registers.copy()
        for name, slot in self.slots.items():
            registers[slot] = values[name]
        for function, target, arguments in self.instructions:
            registers[target] = function(*[registers[a] for a in arguments])
        return {name: registers[slot] for name, slot in self.outputs.items()}
