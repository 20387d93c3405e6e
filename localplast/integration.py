"""What integration asks of a model: a method that can, no division by zero, and a refractory period that is a time."""

import ast
import functools
from dataclasses import dataclass, field

import numpy as np
from brian2.core.variables import Constant, Variable
from brian2.stateupdaters.base import StateUpdateMethod, UnsupportedEquationsException
from brian2.units.allunits import second
from brian2.units.fundamentalunits import get_dimensions
from brian2.utils.stringtools import get_identifiers

from localplast.errors import ModelError
from localplast.propagator import exact_code

__all__ = [
    "EXACT", "Integrand", "check_divisors", "check_method", "check_refractory", "integrated", "known_to_integrator", "with_refractory",
]  # fmt: skip

#: What Brian2 calls the exact integration of linear equations.
EXACT = ("exact", "linear")


@dataclass(frozen=True)
class Integrand:
    """What the integrated step of a ``model`` depends on: all that two models must share to have the same.

    ``variables`` are the Brian2 variables of every name in its text.
    """

    equations: str
    refractory: bool
    method: str
    dimensions: tuple
    model: object = field(compare=False)
    variables: dict = field(compare=False)

    @classmethod
    def of(cls, model, variables):
        """That of ``model``."""
        dimensions = tuple((name, get_dimensions(value)) for name, value in model.parameters.items())
        return cls(model.equations, model.refractory is not None, model.method, dimensions, model, variables)


@functools.cache
def integrated(integrand):
    """Brian2's abstract code of one step of the equations of a model; empty without differential equations.

    That of an exact step is written so that it is right at all values of the parameters (:mod:`localplast.propagator`).

    Raises
    ------
    UnsupportedEquationsException
        The method cannot integrate them.
    """
    model = integrand.model
    if not model.odes:
        return ""
    variables = known_to_integrator(model, integrand.variables)
    if str(model.method).lower() in EXACT and (code := exact_code(model.parsed, variables)):
        return code
    return StateUpdateMethod.apply_stateupdater(model.parsed, variables, model.method, group_name=model.name)


def known_to_integrator(model, variables):
    """Brian2 variables for every name in the equations, as its state updaters want them.

    Without the units that no equation holds, of which there are hundreds: Brian2 looks at each in every line that it parses.
    """
    held = get_identifiers("; ".join(model.texts))
    known = {name: variable for name, variable in variables.items() if name in held or not isinstance(variable, Constant)}
    known["t"] = Variable("t", dimensions=second.dim, scalar=True)
    del known["dt"]  # the integrator would ask for its value
    constant = {n: Variable(n, dimensions=known[n].dim, constant=True) for n in model.parameters}  # coefficients must be
    return {**known, **constant}


def check_method(model, variables):
    """Raise unless Brian2 knows the method, and it can integrate these equations."""
    known = sorted(name for name in StateUpdateMethod.stateupdaters if not name.startswith("gsl"))  # those write no text
    if model.odes and str(model.method).lower() not in known:
        raise ModelError(f"{model.name}: unknown integration method {model.method!r}; Brian2 has {', '.join(known)}")
    try:
        integrated(Integrand.of(model, variables))
    except UnsupportedEquationsException as error:
        others = "'euler', 'heun' or 'milstein'" if model.parsed.is_stochastic else "'exponential_euler', 'rk4' or 'euler'"
        raise ModelError(f"{model.name}: method {model.method!r} cannot integrate these equations ({error}); try {others}") from None


def check_divisors(model, values, label):
    """Raise where the model divides by one of these ``values``, and it is zero, or a time that is not above zero."""
    for name in divisors(model.texts).intersection(values):
        array, is_time = np.asarray(values[name], float), model.dimensions[name] == second.dim
        if np.any(array <= 0 if is_time else array == 0):
            wrong = "a time above zero" if is_time else "not zero"
            raise ModelError(f"{label}: the equations divide by {name} = {values[name]}; make it {wrong}")


@functools.cache
def divisors(texts):
    """Names that texts divide by: alone, or as a factor of what they divide by."""
    nodes = [node for text in texts for node in ast.walk(ast.parse(text))]
    below = [node.right for node in nodes if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)]
    return frozenset(name for node in below for name in factors(node))


def factors(node):
    """Names whose zero makes this zero."""
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.UnaryOp):
        yield from factors(node.operand)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mult, ast.Div, ast.Pow)):
        yield from factors(node.left)
        if isinstance(node.op, ast.Mult):
            yield from factors(node.right)


def with_refractory(model):
    """The parameters of a model whose refractory period is given as a time."""
    if "tau_ref" in model.parameters:
        raise ModelError(f"{model.name}: refractory={model.refractory!r} and a parameter 'tau_ref'; write refractory='tau_ref'")
    return {**model.parameters, "tau_ref": model.refractory}


def check_refractory(model, variables):
    """Raise unless the refractory period is a time from zero."""
    if model.refractory is None:
        return
    if model.refractory not in model.parameters:
        raise ModelError(f"{model.name}: refractory={model.refractory!r} must name a parameter, such as 'tau_ref'")
    if variables[model.refractory].dim != second.dim:
        raise ModelError(f"{model.name}: the refractory period {model.refractory!r} is not a time")
    if np.any(np.asarray(model.parameters[model.refractory]) < 0):
        raise ModelError(f"{model.name}: the refractory period {model.refractory!r} is negative")
