"""A neuron model is checked when it is made: an error names the model, the equation and the cure."""

from brian2.core.functions import DEFAULT_CONSTANTS, DEFAULT_FUNCTIONS
from brian2.core.namespace import DEFAULT_UNITS
from brian2.core.variables import Variable
from brian2.equations.equations import EquationError
from brian2.equations.unitcheck import check_dimensions
from brian2.parsing.expressions import parse_expression_dimensions
from brian2.units.allunits import second
from brian2.units.fundamentalunits import DIMENSIONLESS, DimensionMismatchError, get_dimensions
from brian2.utils.stringtools import get_identifiers

from localplast.arguments import is_real
from localplast.equations.bounded import check_written
from localplast.equations.language import read
from localplast.equations.statements import parse_statement, split_statements, split_threshold
from localplast.equations.units import unscaled
from localplast.errors import ModelError
from localplast.files import check_fields
from localplast.names import BRIAN2, check_name
from localplast.neuron.integration import check_method, check_numbers, check_refractory
from localplast.neuron.mismatch import Mismatch
from localplast.neuron.namespace import namespace

__all__ = []


#: What to do about names that Brian2 has, and models have not.
CURES = {
    "t": "trials start at any time of a run, so drive the neuron with an Input of kind 'currents'",
    **dict.fromkeys(
        "ijN", "neurons do not know their number; give each its own value of a parameter in the Population"
    ),
    "lastspike": "models have no time; use refractory=, or a variable that the reset sets and the equations let decay",
    "not_refractory": "the model has no refractory='tau_ref'",
}


#: What Brian2 adds to a neuron that may be refractory.
CLOCKED = frozenset({"not_refractory", "lastspike"})


#: Brian2's flag of a subexpression that is evaluated once per step, at its beginning.
HELD = "constant over dt"


def check_model(model):
    """Raise a :class:`ModelError` if ``model`` cannot mean anything. See :class:`NeuronModel`."""
    check_fields_of(model)
    try:
        equations = model.parsed
    except (EquationError, SyntaxError, ValueError, TypeError) as error:
        raise ModelError(f"{model.name}: the equations do not parse: {error}") from None
    check_parameters(model, equations)
    check_names(model, equations)
    variables = namespace(model)
    check_equations(model, equations, variables)
    if model.spiking:
        left, right, _ = split_threshold(model)
        check_text(model, "threshold", f"({left}) - ({right})", variables)
        check_surrogate(model, f"({left}) - ({right})", variables)
    for block in ("update", "reset", "adaptation"):
        check_block(model, block, variables)
    if not model.spiking and (model.reset or model.adaptation):
        raise ModelError(f"{model.name}: it has a reset but no threshold; add threshold='v > v_th' or drop the reset")
    if model.output is not None:
        check_text(model, "output", model.output, variables)
    check_refractory(model, variables)
    check_mismatch(model, variables)
    check_clock(model)
    known = set(equations.names)
    for where, name in [("receives", model.receives), *(("initial", key) for key in model.initial)]:
        if name not in known:
            raise ModelError(
                f"{model.name}: {where}={name!r} is not a variable of the equations; they define {sorted(known)}"
            )
    if unknown := [name for name in model.at_least_dt if name not in model.parameters]:
        known = sorted(model.parameters)
        raise ModelError(f"{model.name}: at_least_dt={unknown[0]!r} is none of its parameters; they are {known}")
    for name, value in model.initial.items():
        if not is_real(value):
            raise ModelError(f"{model.name}: the initial value {value!r} of {name!r} is not a number")
        if get_dimensions(value) != model.dimensions[name]:
            unit = unscaled(model.dimensions[name])
            raise ModelError(
                f"{model.name}: the initial value {value} of {name!r} has the wrong unit; it needs {unit!r}"
            )
    check_numbers(model, model.parameters, model.name)
    check_method(model, variables)


def check_fields_of(model):
    """Types, names and the size of what is written, before anybody reads it."""
    check_name("a model", model.name, ModelError)
    check_fields(f"model {model.name!r}", type(model), vars(model), ModelError)
    for what in ("parameters", "initial", "mismatch"):
        for name in getattr(model, what):
            check_name(f"one of its {what}", name, ModelError, where=model.name)
    written = ("equations", "threshold", "reset", "adaptation", "update", "output")
    texts = {what: getattr(model, what) or "" for what in written}
    for what, text in {**texts, "surrogate": getattr(model.surrogate, "expression", "")}.items():
        try:
            check_written(text)
        except ValueError as error:
            raise ModelError(f"{model.name}: the text of its {what} {error}") from None


def check_parameters(model, equations):
    for name, value in model.parameters.items():
        if not is_real(value):
            raise ModelError(f"{model.name}: the parameter {name} = {value!r} is not a number; write for example 5*ms")
        if name not in equations:
            continue
        if equations[name].expr is not None:
            raise ModelError(
                f"{model.name}: {name!r} has an equation and a value in parameters; a variable has one of them"
            )
        if get_dimensions(value) != equations[name].dim:
            raise ModelError(
                f"{model.name}: the parameter {name} = {value} has the wrong unit; the equations say "
                f"{equations[name].unit!r}"
            )


def check_names(model, equations):
    for name in sorted({*model.written, *model.parameters}):
        check_name("a variable or parameter", name, ModelError, where=model.name)
        check_free(model, name)
    if "t" in equations.identifiers:
        raise ModelError(
            f"{model.name}: the equations use 't'; trials start at any time of a run, so drive the neuron "
            "with an Input of kind 'currents' instead"
        )


def check_free(model, name):
    """Raise where Brian2 uses a name itself."""
    if name in BRIAN2 or name.startswith(("_", "xi_")):
        raise ModelError(
            f"{model.name}: the name {name!r} is Brian2's own, as are {', '.join(sorted(BRIAN2))} and names starting "
            "with _ or xi_; rename it"
        )
    if name.endswith(("_pre", "_post")):
        raise ModelError(
            f"{model.name}: {name!r} ends as Brian2 calls what belongs to the two ends of a synapse; rename it"
        )
    if name == "stop":
        raise ModelError(f"{model.name}: stop(x) is a function, x without its gradient; rename the name 'stop'")
    if name in DEFAULT_FUNCTIONS or name in DEFAULT_CONSTANTS or name in DEFAULT_UNITS:
        raise ModelError(f"{model.name}: the name {name!r} is a function, constant or unit of Brian2; rename it")


def check_equations(model, equations, variables):
    for name, equation in model.written.items():
        check_flags(model, name, equation)
        if equation.expr is None:
            continue
        differential = equation.type == "differential equation"
        expected = equation.dim / second.dim if differential else equation.dim
        where = f"d{name}/dt" if differential else name
        check_text(model, f"equation '{where} = {equation.expr.code}'", equation.expr.code, variables, expected)


def check_flags(model, name, equation):
    if equation.var_type != "float":
        raise ModelError(
            f"{model.name}: {name!r} is declared as {equation.var_type}, and variables are real numbers on all "
            f"backends; declare '{name} : 1', and write '{name} > 0.5' where a condition is asked for"
        )
    for flag in equation.flags:
        if flag == HELD:
            continue
        if flag != "unless refractory" or equation.type != "differential equation":
            raise ModelError(
                f"{model.name}: the flag ({flag}) of {name!r} is not supported; differential equations may be "
                f"(unless refractory), subexpressions ({HELD})"
            )
        if model.refractory is None:
            raise ModelError(
                f"{model.name}: {name!r} is (unless refractory), but the model has no refractory='tau_ref'"
            )


def check_text(model, where, expression, variables, expected=None):
    """Check the names and the units of one expression; return its dimensions."""
    try:
        read(expression)
    except ValueError as error:
        raise ModelError(f"{model.name}: the {where} {error}") from None
    unknown = sorted(get_identifiers(expression) - set(variables) - {"xi"} - {"int", "and", "or", "not"})
    unknown = [name for name in unknown if not name.startswith("xi_")]
    if unknown:
        cure = f"give it a value in parameters={{{unknown[0]!r}: ...}} or declare it in the equations"
        raise ModelError(f"{model.name}: unknown variable {unknown[0]!r} in the {where}; {CURES.get(unknown[0], cure)}")
    if any(name == "xi" or name.startswith("xi_") for name in get_identifiers(expression)):
        return None  # white noise: Brian2 checks its unit (second**-0.5) itself
    try:
        if expected is None:
            return parse_expression_dimensions(expression, variables)
        check_dimensions(expression, expected, variables)
    except DimensionMismatchError as error:
        raise ModelError(f"{model.name}: unit mismatch in the {where}: {error}") from None
    except (SyntaxError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{model.name}: the {where} does not parse: {error}") from None
    return expected


def check_block(model, block, variables):
    """Check the statements of a block one after the other; names that are no variables hold values within it."""
    known = dict(variables)
    for line in split_statements(getattr(model, block)):
        try:
            name, text = parse_statement(line)
        except ModelError as error:
            raise ModelError(f"{model.name}: in the {block} {error}") from None
        check_assigned(model, block, name)
        declared = model.parsed[name].dim if name in model.parsed else None
        found = check_text(model, f"{block} {line!r}", text, known, declared)
        known.setdefault(name, Variable(name, dimensions=found))
    check_own_names(model, block)


def check_own_names(model, block):
    """A name that is no variable holds a value for a later statement of its block; one that nobody reads is
    misspelt.
    """
    statements = [parse_statement(line) for line in split_statements(getattr(model, block))]
    for number, (name, text) in enumerate(statements):
        later = set().union(*(get_identifiers(read) for _, read in statements[number + 1 :]))
        if name not in model.parsed and name not in later:
            raise ModelError(
                f"{model.name}: unknown variable {name!r} in the {block} '{name} = {text}': the equations define "
                f"{', '.join(sorted(model.parsed.names))}, and no later statement of the {block} reads it"
            )


def check_assigned(model, block, name):
    """What stands before the = of a statement is a variable, or a name of its own."""
    if name in model.parameters:
        raise ModelError(f"{model.name}: the {block} assigns the parameter {name!r}; only variables may change")
    if name in model.subexpressions or name in model.held:
        raise ModelError(
            f"{model.name}: the {block} assigns {name!r}, which has an equation; change the variables that it depends "
            "on"
        )
    if name not in model.parsed or name in CLOCKED:
        check_free(model, name)


def check_surrogate(model, argument, variables):
    if model.surrogate is None:
        return
    dim = parse_expression_dimensions(argument, variables)
    with_x = {**variables, "x": Variable("x", dimensions=dim)}
    check_text(model, "surrogate", model.surrogate.expression, with_x, DIMENSIONLESS / dim)


def check_mismatch(model, variables):
    for target, found in model.mismatch.items():
        if target not in {*model.parsed.names, *model.parameters} or not isinstance(found, Mismatch):
            raise ModelError(
                f"{model.name}: mismatch={{{target!r}: {found!r}}} needs a variable that weights land on, or a "
                f"parameter, and a Mismatch; the equations define {sorted(model.parsed.names)}, parameters are "
                f"{sorted(model.parameters)}"
            )
        if target in model.parameters and (found.of, found.pre) != (None, None):
            raise ModelError(
                f"{model.name}: the parameter {target!r} learns from its error alone; leave out of= and pre="
            )
        check_text(model, f"mismatch of {target!r}", found.error, with_spike(variables))
        if found.of is not None:
            check_text(model, f"expression that the mismatch of {target!r} is about", found.of, variables)
        if found.pre is not None and (found.of is not None or not found.pre.isidentifier()):
            raise ModelError(
                f"{model.name}: the mismatch of {target!r} learns from pre={found.pre!r}; give the name of one "
                "variable of the presynaptic model, and no of="
            )


def with_spike(variables):
    """``variables``, and ``z``: 1 where the neuron spikes in this step; in a model with a ``z`` of its own that is
    meant.
    """
    return {"z": Variable("z", dimensions=DIMENSIONLESS), **variables}


def check_clock(model):
    """Raise where text reads what Brian2 knows of the last spike: models have no time, and are ready only while they
    integrate.
    """
    if not model.refractory:
        return
    late = {
        "threshold": model.threshold,
        "output": model.output,
        "surrogate": model.surrogate and model.surrogate.expression,
    }
    late |= {"reset": model.reset, "adaptation": model.adaptation}
    late |= {f"mismatch of {target!r}": f"{found.error}; {found.of or 0}" for target, found in model.mismatch.items()}
    places = {"equations": model.equations, "update": model.update, **late}
    for where, text in places.items():
        used = names_in(model, text or "")
        if "lastspike" in used:
            raise ModelError(f"{model.name}: the {where} read 'lastspike', a time; {CURES['lastspike']}")
        if "not_refractory" in used and where in late:
            raise ModelError(
                f"{model.name}: the {where} read 'not_refractory', which is known while the equations and the update "
                "run; assign int(not_refractory) to a variable in the update"
            )


def names_in(model, text):
    """Names that a text depends on, subexpressions followed."""
    found, new = set(), get_identifiers(text)
    while new:
        found |= new
        inside = [model.parsed[name].expr.code for name in new & set(model.subexpressions)]
        new = set().union(*map(get_identifiers, inside)) - found
    return found
