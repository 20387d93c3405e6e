"""What a name in a model's text can mean."""

from brian2.core.functions import DEFAULT_CONSTANTS, DEFAULT_FUNCTIONS
from brian2.core.namespace import DEFAULT_UNITS
from brian2.core.variables import Constant, Variable
from brian2.units.allunits import second

from localplast.equations.slopes import FUNCTIONS

__all__ = []


#: Every unit, as Brian2's parser looks it up: hundreds, made once.
UNITS = {name: Constant(name, float(unit), dimensions=unit.dim) for name, unit in DEFAULT_UNITS.items()}


def namespace(model):
    """Brian2 variables for every name that the model's text may use (for unit checks, nothing is evaluated)."""
    names = {name: Variable(name, dimensions=dim) for name, dim in model.dimensions.items()}
    own = {"dt": Variable("dt", dimensions=second.dim), **FUNCTIONS}
    return {**UNITS, **names, **own, **DEFAULT_FUNCTIONS, **DEFAULT_CONSTANTS}
