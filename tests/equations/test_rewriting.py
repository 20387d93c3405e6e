"""Rewriting without evaluation gives what sympy gives, on every expression of every model."""

import pytest
import sympy

import localplast.models
from localplast.equations.expressions import to_sympy
from localplast.equations.language import symbol
from localplast.equations.rewriting import derivative, rebuilt, renamed, replaced, symbols_in
from localplast.neuron.step import lower

TEXTS = [
    "x + 2*y - z/3", "x**2*y", "x**3 - y**-1", "x**y", "2**(x*y)", "sqrt(y)", "exp(-x/y)", "log(x*y)", "tanh(x*z - y)",
    "tanh(x - y)**2/(1 + z)", "clip(x*y, z - 1, 1)", "int(x >= z)*y", "int(x > 0 and z > y)", "exprel(x)", "sin(x)*cos(z)",
    "floor(3*x)", "(x - y)**-1", "0.5*x*(1.5*y + 1.5*z)**-2",
]  # fmt: skip


def expressions(name):
    step = lower(getattr(localplast.models, name)())
    many = (*step.program, *step.updated.items(), *step.reset.items(), *step.adaptation.items())
    return [e for e in (*(e for _, e in many), step.spike_argument, step.psi, step.output) if e is not None]


def same(found, expected):
    """Whether two expressions are one, node by node; sympy may turn signs where names have another order."""
    return found == expected or sympy.simplify(found - expected) == 0


@pytest.mark.parametrize("text", TEXTS)
def test_derivatives_are_those_of_sympy(text):
    expression = to_sympy(text)
    for x in sorted(expression.free_symbols, key=str):
        assert derivative(expression, x) == sympy.diff(expression, x)
    assert derivative(expression, symbol("other")) == 0


@pytest.mark.parametrize("name", localplast.models.__all__)
def test_of_every_model(name):
    for e in expressions(name):
        assert symbols_in(e) == e.free_symbols
        names = {x: symbol(f"rec.{x.name}") for x in e.free_symbols}
        assert renamed(e, names) == e.xreplace(names)
        assert all(derivative(e, x) == sympy.diff(e, x) for x in e.free_symbols)


@pytest.mark.parametrize("text", TEXTS)
def test_names_in_another_order(text):
    """Terms and factors stand as sympy would have put them, so that equal expressions stay equal."""
    expression = to_sympy(text)
    turned = {symbol(a): symbol(b) for a, b in zip("xyz", "cba", strict=True)}
    found, expected = renamed(expression, turned), expression.xreplace(turned)
    assert same(found, expected)
    if not any(node.func is sympy.tanh or node.is_Pow for node in sympy.preorder_traversal(expression)):
        assert found == expected
    assert renamed(expression, {}) is expression


def test_terms_are_in_order():
    """Planted: without it, a sum whose names change is not the sum of the same terms."""
    x, y, a, b = map(symbol, "xyab")
    assert renamed(x + y, {x: b, y: a}) == a + b
    assert renamed(2 * x * y, {x: b, y: a}).args == (2, a, b)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("value", [0, 2, sympy.Float(0.5), symbol("w") + 1])
def test_values_in_the_places_of_names(text, value):
    expression, x = to_sympy(text), symbol("x")
    assert same(replaced(expression, {x: sympy.sympify(value)}), expression.xreplace({x: sympy.sympify(value)}))


def test_zero_times_what_is_no_number_is_none():
    x = symbol("x")
    assert rebuilt(sympy.Mul, [sympy.S.Zero, sympy.tanh(x)]) == 0
    assert rebuilt(sympy.Mul, [sympy.S.Zero, sympy.zoo]) is sympy.nan
    assert replaced(x / symbol("y"), {x: sympy.S.Zero, symbol("y"): sympy.S.Zero}) is sympy.nan
