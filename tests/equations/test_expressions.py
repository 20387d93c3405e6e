"""Text to sympy and back, derivatives, and tapes that compute the same on numpy and torch."""

import mpmath
import numpy as np
import pytest
import sympy
import torch

from localplast.equations.expressions import differentiate, to_sympy
from localplast.equations.language import symbol
from localplast.equations.tape import OPERATIONS, Tape, exprel
from localplast.equations.text import to_text
from localplast.errors import LocalplastError

EXPRESSIONS = [
    "x + 2*y - z/3", "x**2*y", "x**3 - y**-1", "sqrt(y)", "exp(-x/y)", "log(y)", "sin(x)*cos(z)", "tan(x)", "sinh(x)",
    "cosh(x)", "tanh(x*z)", "arcsin(x/2)", "arccos(x/2)", "arctan(x)", "abs(x - z)", "sign(x)", "clip(x, -0.5, 0.5)",
    "clip(x*y, z - 1, 1)", "int(x > 0.3)", "int(x >= z)*y", "x*int(x < z) + int(x <= 0)", "int(x > 0 and z > 0)",
    "int(x > 0 or z > 0)", "int(not (x > 0))", "exprel(x)", "expm1(x)", "log10(y)", "floor(3*x)", "ceil(3*x)", "y**1.5",
    "2*int(x > 0) - 1", "(1 - int(x > 0))*z",
]  # fmt: skip


def points(seed=0, size=50):
    rng = np.random.default_rng(seed)
    return {"x": rng.uniform(-1, 1, size), "y": rng.uniform(0.5, 2, size), "z": rng.uniform(-1, 1, size)}


def evaluate(text, values):
    """Brian2's text as Python computes it: an independent reading of the expression."""
    names = {
        "clip": np.clip, "int": lambda c: np.asarray(c) * 1.0, "abs": np.abs, "sign": np.sign, "ceil": np.ceil,
        "exprel": lambda x: np.expm1(x) / x, **{n: getattr(np, n) for n in (
            "sqrt exp log sin cos tan sinh cosh tanh arcsin arccos arctan expm1 log10 floor").split()}, **values,
    }  # fmt: skip
    text = text.replace("x > 0 and z > 0", "(x > 0) & (z > 0)").replace("x > 0 or z > 0", "(x > 0) | (z > 0)")
    return eval(text.replace("not (x > 0)", "~(x > 0)"), names)


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_a_tape_computes_what_is_written(text):
    values = points()
    result = Tape([("out", to_sympy(text))])(values)["out"]
    np.testing.assert_allclose(result, evaluate(text, values), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("text", EXPRESSIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_torch_computes_as_numpy_and_keeps_the_type(text, dtype):
    """With ``y`` a scalar tensor: where an operation lost the type, the scalar would not restore it."""
    values = points()
    values["y"] = np.float64(1.2345678901234567)
    tensors = {k: torch.as_tensor(v, dtype=dtype) for k, v in values.items()}
    result = Tape([("out", to_sympy(text) * symbol("y"))], {"y": tensors.pop("y")})(tensors)["out"]
    expected = evaluate(text, {k: v.astype(np.float32 if dtype == torch.float32 else float) for k, v in values.items()})
    assert result.dtype == dtype
    tolerance = 1e-13 if dtype == torch.float64 else 1e-5
    np.testing.assert_allclose(result.numpy(), expected * values["y"], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_text_survives_the_round_trip(text):
    expression = to_sympy(text)
    assert to_sympy(to_text(expression)) == expression


@pytest.mark.parametrize("text", [e for e in EXPRESSIONS if "exprel" not in e])
@pytest.mark.parametrize("name", ["x", "y", "z"])
def test_derivatives_are_difference_quotients(text, name):
    expression, values, h = to_sympy(text), points(), 1e-6
    derivative = Tape([("out", differentiate(expression, name))])(values)["out"]

    def at(step):
        return Tape([("out", expression)])({**values, name: values[name] + step})["out"]

    quotient = (at(h) - at(-h)) / (2 * h)
    np.testing.assert_allclose(np.broadcast_to(derivative, 50), np.broadcast_to(quotient, 50), rtol=1e-6, atol=1e-7)


def test_derivatives_of_functions_with_kinks():
    x = symbol("x")
    assert to_text(differentiate(to_sympy("abs(x)"), "x")) == "sign(x)"
    assert to_text(differentiate(to_sympy("sqrt(x**2)"), "x")) == "sign(x)"  # which sympy reads as abs(x)
    assert differentiate(differentiate(to_sympy("abs(x)"), "x"), "x") == differentiate(x, "y") == 0
    assert differentiate(to_sympy("int(x > 1)"), "x") == 0
    inside = Tape([("out", differentiate(to_sympy("clip(x, -1, 2)"), "x"))])
    np.testing.assert_array_equal(inside({"x": np.array([-2.0, -1.0, 0.0, 1.9, 2.0, 3.0])})["out"], [0, 0, 1, 1, 0, 0])


@pytest.mark.parametrize("text, why", [
    ("mystery(x)", "uses the function 'mystery'; there are abs, "), ("0 < x < 1", "write 'a < b and b < c'"),
    ("1/(2 - 2)", "divides by zero"), ("x + 'a'", "holds 'a', which is not a number"), ("x + 2j", "holds 2j"), ("clip(a=x)", "by position"), ("x[0]", "indexing"),
])  # fmt: skip
def test_what_the_language_does_not_have_is_refused(text, why):
    with pytest.raises(ValueError, match=why):
        to_sympy(text)


def test_random_numbers_have_no_numerical_form():
    with pytest.raises(ValueError, match=r"no numerical form for rand\(\) outside of Brian2"):
        Tape([("out", to_sympy("x*rand()"))])
    with pytest.raises(ValueError, match="draws two random numbers"):
        to_sympy("rand() - rand()")  # which sympy would take for 0


NEAR_ZERO = np.array([0.0, 1e-12, -1e-12, 1e-9, -1e-8, 1e-6, 1e-3, -0.4, 1.0, -3.0, 30.0, -700.0])


def moment(order, x):
    """The derivative of exprel of this order, ``int_0^1 s**order exp(x s) ds``, by parts, in two hundred digits."""
    with mpmath.workdps(200):
        x = mpmath.mpf(float(x))
        if x == 0:
            return 1 / (order + 1)
        found = (mpmath.exp(x) - 1) / x
        for k in range(1, order + 1):
            found = (mpmath.exp(x) - k * found) / x
        return float(found)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_exprel_and_its_derivatives_are_numbers_at_and_near_zero(order):
    expression = to_sympy("exprel(x)")
    for _ in range(order):
        expression = differentiate(expression, "x")
    expected = [moment(order, x) for x in NEAR_ZERO]
    found = Tape([("out", expression)])({"x": NEAR_ZERO})["out"]
    np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_torch_differentiates_exprel_at_and_near_zero():
    x = torch.tensor(NEAR_ZERO, requires_grad=True)
    first = torch.autograd.grad(exprel(x).sum(), x)[0]
    np.testing.assert_allclose(first, [moment(1, v) for v in NEAR_ZERO], rtol=1e-13)


def test_units_become_their_si_value():
    assert float(to_sympy("3*ms")) == 3e-3 and float(to_sympy("-60*mV")) == -0.06


def test_nothing_in_a_text_is_executed(tmp_path):
    path = tmp_path / "executed"
    with pytest.raises((SyntaxError, ValueError, LocalplastError)):
        to_sympy(f"__import__('pathlib').Path('{path}').touch()")
    assert not path.exists()


def test_a_tape_computes_common_parts_once_and_constants_never():
    text = "exp(-a)*x + exp(-a)*y + tanh(x*y) + tanh(x*y)**2"
    tape = Tape([("out", to_sympy(text)), ("twice", to_sympy("2*out"))], {"a": 0.3})
    functions = [function for function, _, _ in tape.instructions]
    assert functions.count(OPERATIONS[sympy.tanh]) == 1 and OPERATIONS[sympy.exp] not in functions
    result = tape({"x": 0.5, "y": 0.25})
    assert result["twice"] == 2 * result["out"]
    assert result["out"] == pytest.approx(np.exp(-0.3) * 0.75 + np.tanh(0.125) + np.tanh(0.125) ** 2)
    assert Tape([("out", to_sympy("exp(-a)*2"))], {"a": 0.0})({}) == {"out": 2.0}
