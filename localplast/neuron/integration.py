"""What integration asks of a model: a method that can, no division by zero, and a refractory period that is a time."""

import ast
import builtins
import functools
import re
from dataclasses import dataclass, field

import numpy as np
import sympy
from brian2.core.variables import Constant, Variable
from brian2.stateupdaters.base import StateUpdateMethod, UnsupportedEquationsException
from brian2.units.allunits import second
from brian2.units.fundamentalunits import get_dimensions
from brian2.utils.stringtools import get_identifiers

from localplast.errors import ModelError
from localplast.neuron.domain import check_domain, divisor, factors
from localplast.neuron.propagator import conditional_code, exact_code

__all__ = [
    "EXACT",
    "Integrand",
    "check_method",
    "check_numbers",
    "check_refractory",
    "divided_by",
    "integrated",
    "known_to_integrator",
    "with_refractory",
]

#: What Brian2 calls the exact integration of linear equations.
EXACT = ("exact", "linear")
#: Methods whose text is written here, where Brian2's would divide zero by zero.
OWN_TEXT = {**dict.fromkeys(EXACT, exact_code), "exponential_euler": conditional_code}


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

    Those of exact steps and of exponential Euler are written so that they are right at all values of the parameters
    (:mod:`localplast.neuron.propagator`).

    Raises
    ------
    UnsupportedEquationsException
        The method cannot integrate them.
    """
    model = integrand.model
    if not model.odes:
        return ""
    variables = known_to_integrator(model, integrand.variables)
    method = str(model.method).lower()
    written = OWN_TEXT.get(method)
    if written and (code := written(model.parsed, variables)):
        return code
    return by_brian2(model, variables)


def by_brian2(model, variables):
    """What Brian2 writes, which takes names of variables for what they mean to sympy: ``fraction`` for a function."""
    inside = {name: f"{name}_ode" for name in model.odes if means_something(name)}
    variables = {**variables, **{new: variables[name] for name, new in inside.items()}}
    equations = model.parsed.substitute(**inside) if inside else model.parsed
    code = StateUpdateMethod.apply_stateupdater(equations, variables, model.method, group_name=model.name)
    return re.sub(rf"(?<![A-Za-z0-9])({'|'.join(inside)})_ode\b", r"\1", code) if inside else code


def means_something(name):
    """Whether sympy has a name for something; the numbers ``E`` and ``I`` do no harm."""
    return (hasattr(sympy, name) or hasattr(builtins, name)) and name not in ("E", "I")


def known_to_integrator(model, variables):
    """Brian2 variables for every name in the equations, as its state updaters want them.

    Without the units that no equation holds, hundreds: Brian2 looks at each in every line that it reads.
    """
    held = get_identifiers("; ".join(model.texts))
    known = {name: found for name, found in variables.items() if name in held or not isinstance(found, Constant)}
    known["t"] = Variable("t", dimensions=second.dim, scalar=True)
    del known["dt"]  # the integrator would ask for its value
    constant = {
        n: Variable(n, dimensions=known[n].dim, constant=True) for n in model.parameters
    }  # coefficients must be
    return {**known, **constant}


def check_method(model, variables):
    """Raise unless Brian2 knows the method, and it can integrate these equations."""
    # those write no text
    known = sorted(name for name in StateUpdateMethod.stateupdaters if not name.startswith("gsl"))
    if model.odes and str(model.method).lower() not in known:
        raise ModelError(f"{model.name}: unknown integration method {model.method!r}; Brian2 has {', '.join(known)}")
    try:
        integrated(Integrand.of(model, variables))
    except UnsupportedEquationsException as error:
        others = (
            "'euler', 'heun' or 'milstein'" if model.parsed.is_stochastic else "'exponential_euler', 'rk4' or 'euler'"
        )
        raise ModelError(
            f"{model.name}: method {model.method!r} cannot integrate these equations ({error}); try {others}"
        ) from None


def check_numbers(model, values, label, kind=ModelError):
    """Raise an error of this ``kind`` where a parameter cannot have its value, by name in ``values``.

    What the model divides by is not zero, and above it where it is a time; a refractory period is not negative.
    """
    if np.any(np.asarray(values.get(model.refractory, 0.0)) < 0):
        raise kind(f"{label}: the refractory period {model.refractory!r} is negative")
    for name in divided_by(model).intersection(values):
        array, is_time = np.asarray(values[name], float), model.dimensions[name] == second.dim
        if np.any(array <= 0 if is_time else array == 0):
            wrong = "a time above zero" if is_time else "not zero"
            raise kind(f"{label}: the equations divide by {name} = {values[name]}; make it {wrong}")
    check_domain(label, model, {**model.parameters, **values}, kind)


def divided_by(model):
    """Names of what the text of ``model`` divides by."""
    return divisors(model.texts, tuple((name, model.written[name].expr.code) for name in model.subexpressions))


@functools.cache
def divisors(texts, subexpressions=()):
    """Names that texts divide by: alone, as a factor of what they divide by, or in one of the ``subexpressions``."""
    nodes = [node for text in texts for node in ast.walk(ast.parse(text))]
    inner = {name: named(ast.parse(text, mode="eval").body) for name, text in subexpressions}
    found = set().union(*(named(divisor(node)) for node in nodes))
    while more := set().union(*(inner.get(name, ()) for name in found)) - found:
        found |= more
    return frozenset(found)


def named(node):
    """The names among the :func:`factors` of a node."""
    return {factor.id for factor in factors(node) if isinstance(factor, ast.Name)}


def with_refractory(model):
    """The parameters of a model whose refractory period is given as a time."""
    if "tau_ref" in model.parameters:
        raise ModelError(
            f"{model.name}: refractory={model.refractory!r} and a parameter 'tau_ref'; write refractory='tau_ref'"
        )
    return {**model.parameters, "tau_ref": model.refractory}


def check_refractory(model, variables):
    """Raise unless the refractory period is a time."""
    if model.refractory is None:
        return
    if model.refractory not in model.parameters:
        raise ModelError(f"{model.name}: refractory={model.refractory!r} must name a parameter, such as 'tau_ref'")
    if variables[model.refractory].dim != second.dim:
        raise ModelError(f"{model.name}: the refractory period {model.refractory!r} is not a time")
