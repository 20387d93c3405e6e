"""From equations to one discrete step: Brian2's own state updater, held as sympy, with its Jacobians.

Brian2 writes the code that integrates a model (``StateUpdateMethod.apply_stateupdater``). Here that code is read back
as a straight-line program: the Torch step, the eligibility traces and the generated C are all derived from it.
"""

import functools
from dataclasses import dataclass

import numpy as np
import sympy

from localplast.equations.expressions import differentiate, to_sympy
from localplast.equations.language import Draw, int_, randn, symbol
from localplast.equations.rewriting import replaced, symbols_in
from localplast.equations.slopes import unless_overflown
from localplast.equations.statements import parse_statement, split_statements, split_threshold
from localplast.equations.tape import Tape
from localplast.errors import ModelError
from localplast.neuron.integration import EXACT

__all__ = ["Jacobian", "StepMap", "check_integration", "expanded", "jacobian", "lower", "prospective", "resolved"]


#: How names begin that stand for the random numbers of :attr:`StepMap.noise`.
NOISE = "_normal_"


@dataclass(frozen=True, eq=False)
class StepMap:
    """A neuron discretised: what one time step does to it.

    Attributes
    ----------
    model : NeuronModel
    code : str
        The update as Brian2 abstract code: what is held, state updater, then the discrete map.
    state : tuple of str
        Variables that carry over from step to step.
    inputs : tuple of str
        Variables that only graded projections set.
    program : tuple of (str, sympy expression)
        The update, each name assigned once, in terms of the old state, the inputs, the parameters, ``dt`` and
        ``not_refractory``.
    updated : dict of str to sympy expression
        The state after the update, in terms of the program's names.
    spike_argument : sympy expression or None
        What is compared with zero, in terms of the updated state.
    strict : bool
        Whether the neuron spikes where the argument is > 0 (else >= 0).
    psi : sympy expression or None
        Surrogate derivative, in terms of ``x`` and parameters.
    reset, adaptation : dict of str to sympy expression
        State after a spike, for the variables that the block assigns.
    output : sympy expression or None
        The graded output, in terms of the updated state.
    noise : tuple of str
        Names in the program that stand for standard normal numbers, new ones in every step.
    """

    model: object
    code: str
    state: tuple
    inputs: tuple
    program: tuple
    updated: dict
    spike_argument: object
    strict: bool
    psi: object
    reset: dict
    adaptation: dict
    output: object
    noise: tuple = ()

    @property
    def outputs(self):
        """The program followed by the updated state under the names ``new_<variable>``."""
        return self.program + renewed(self.updated)

    def draws(self, *expressions):
        """Where random numbers are drawn that only Brian2 draws: names of functions, in ``expressions`` too."""
        blocks = (*dict(self.outputs).values(), *self.reset.values(), *self.adaptation.values())
        own = (self.spike_argument, self.psi, self.output, *blocks, *expressions)
        return sorted({e.func.__name__ for text in own if text is not None for e in text.atoms(Draw)})


def renewed(values):
    """A map from variable to new value as a program: all of them are read before any changes."""
    return tuple((f"new_{name}", e) for name, e in values.items())


@functools.cache
def lower(model):
    """The :class:`StepMap` of a model.

    Raises
    ------
    ModelError
        The integration method cannot integrate these equations.
    """
    expand = functools.partial(expand_subexpressions, subexpressions=subexpressions_of(model))
    code = update_code(model)
    assigned = block_variables(model)
    state = tuple(n for n in model.parsed if n in assigned and n not in ("not_refractory", "lastspike"))
    program, updated = straight_line(code, state, expand)
    argument, strict = None, True
    if model.spiking:
        left, right, strict = split_threshold(model)
        argument = expand(to_sympy(f"({left}) - ({right})"))
    return StepMap(
        model=model,
        code=code,
        state=state,
        inputs=tuple(n for n in model.free_variables if n not in state),
        program=program,
        updated=updated,
        spike_argument=argument,
        strict=strict,
        psi=to_sympy(model.surrogate.expression) if model.surrogate else None,
        reset=block_map(model, "reset", expand),
        adaptation=block_map(model, "adaptation", expand),
        output=expand(to_sympy(model.output)) if model.output is not None else None,
        noise=drawn_in(e for _, e in (*program, *updated.items())),
    )


def drawn_in(expressions):
    """Names of the normal numbers that are read."""
    return tuple(sorted({s.name for e in expressions for s in e.free_symbols if s.name.startswith(NOISE)}))


def subexpressions_of(model):
    return {symbol(name): to_sympy(eq.expr.code) for name, eq in model.parsed.items() if eq.type == "subexpression"}


@functools.cache
def expanded(model, text):
    """An expression in a model's variables as sympy, its subexpressions put in."""
    return expand_subexpressions(to_sympy(text), subexpressions_of(model))


@functools.cache
def prospective(model, text):
    """Whether what is sent depends on graded inputs: it then travels as it was at the end of the step before."""
    used = {s.name for s in expanded(model, text).free_symbols}
    return bool(used & set(lower(model).inputs)) and "z" not in used


def resolved(model, expression):
    """A sympy expression with its subexpressions put in."""
    return expand_subexpressions(expression, subexpressions_of(model))


def expand_subexpressions(expression, subexpressions):
    while symbols_in(expression) & subexpressions.keys():
        expression = replaced(expression, subexpressions)
    return expression


def update_code(model):
    """Abstract code of one update: what holds through the step, what Brian2's state updater writes, the model's
    discrete map.
    """
    discrete = [unless_refractory(model, line) for line in split_statements(model.update)]
    return "\n".join([*held_code(model), model.integrated, *discrete]).strip()


def held_code(model):
    """What is constant over a step: all of it on the state at the end of the last one."""
    return [
        *(f"_held_{name} = {text}" for name, text in model.held.items()),
        *(f"{name} = _held_{name}" for name in model.held),
    ]


def unless_refractory(model, line):
    """A statement of the discrete map; clamped variables keep their value where the neuron is refractory, as in
    Brian2.
    """
    name, text = parse_statement(line)
    if name not in model.clamped:
        return line
    return f"{name} = int(not_refractory)*({text}) + (1 - int(not_refractory))*{name}"


def block_variables(model):
    """Variables that hold through a step, or that an ODE, the discrete map or a spike assigns."""
    code = split_statements(f"{model.update}\n{model.reset}\n{model.adaptation}")
    return {*model.held, *model.odes} | {parse_statement(line)[0] for line in code}


def straight_line(code, state, expand):
    """Brian2 abstract code as a program that assigns each name once, and the state after it."""
    current, program = {}, []
    for number, line in enumerate(split_statements(code)):
        name, text = parse_statement(line)
        expression = expand(drawn(to_sympy(text), number))
        expression = guarded(replaced(expression, {symbol(k): v for k, v in current.items()}))
        if expression.is_Symbol or expression.is_number:
            current[name] = expression
            continue
        program.append((f"_{name.strip('_')}_{number}", expression))
        current[name] = symbol(program[-1][0])
    return tuple(program), {name: current.get(name, symbol(name)) for name in state}


def drawn(expression, number):
    """``expression`` with its normal numbers as numbers from outside, those of line ``number``."""
    return expression.replace(randn, lambda call: symbol(f"{NOISE}{number}_{call}"))


def guarded(expression):
    """``expression`` without division by ``int(not_refractory)``.

    Exponential Euler divides the rate of a clamped variable by its leak: 0/0. Brian2 computes NaN and does not write
    it; the quotient without the common factor is what the clamp then multiplies by zero.
    """
    ready = int_(symbol("not_refractory"))

    def vanishes(e):
        return e.is_Pow and e.exp.is_negative and e.base.has(ready) and e.base.subs(ready, 0) == 0

    return expression.replace(vanishes, lambda e: e.subs(ready, 1)) if expression.has(ready) else expression


def block_map(model, block, expand):
    """The reset or adaptation statements as a map from variable to its value after a spike, in terms of the state
    before.
    """
    current = {}
    for line in split_statements(getattr(model, block)):
        name, text = parse_statement(line)
        current[name] = expand(to_sympy(text)).xreplace({symbol(k): v for k, v in current.items()})
    result = {name: value for name, value in current.items() if name in model.parsed}  # others live within the block
    if block == "adaptation":
        read = {s.name for e in result.values() for s in e.free_symbols}
        shared = (read | set(result)) & {parse_statement(s)[0] for s in split_statements(model.reset)}
        if shared:
            raise ModelError(
                f"{model.name}: the adaptation uses {sorted(shared)}, which the reset assigns; "
                "put these statements into one block"
            )
    return result


@dataclass(frozen=True)
class Jacobian:
    """How the updated state depends on the old one.

    Attributes
    ----------
    program : tuple of (str, sympy expression)
        What must be computed first, on the state *before* the update; empty for linear models.
    entries : dict of (str, str) to sympy expression
        ``d updated[row] / d old[column]``, zeros left out; columns are states and inputs, or parameters.
    """

    program: tuple
    entries: dict


@functools.cache
def jacobian(step, *parameters):
    """The :class:`Jacobian` of a :class:`StepMap`, by forward differentiation of its program.

    With names of ``parameters`` the columns are those instead of states and inputs.
    """
    columns = parameters or step.state + step.inputs
    varying = {symbol(n) for n in step.state + step.inputs} | {symbol("not_refractory")}
    derivative = {(symbol(n), n): sympy.Integer(1) for n in columns}
    program = list(step.program)
    for name, expression in step.program:
        varying.add(symbol(name))
        for column in columns:
            total = chain_rule(expression, column, derivative)
            if total.free_symbols & varying and not total.is_Symbol:
                program.append((f"_d{name}_d{column}", total))
                total = symbol(program[-1][0])
                varying.add(total)
            if total != 0:
                derivative[symbol(name), column] = total
    entries = {}
    for row, expression in step.updated.items():
        for column in columns:
            total = chain_rule(expression, column, derivative)
            if total != 0:
                entries[row, column] = unless_overflown(step, total) if total.free_symbols & varying else total
    return Jacobian(needed(program, entries.values()), entries)


def chain_rule(expression, column, derivative):
    return sympy.Add(
        *[
            differentiate(expression, argument.name) * derivative[argument, column]
            for argument in sorted(symbols_in(expression), key=lambda x: x.name)
            if (argument, column) in derivative
        ]
    )


def needed(program, expressions):
    """The part of ``program`` that ``expressions`` depend on."""
    wanted = {s for e in expressions for s in e.free_symbols}
    kept = []
    for name, expression in reversed(program):
        if symbol(name) in wanted:
            kept.append((name, expression))
            wanted |= expression.free_symbols
    return tuple(reversed(kept))


def check_integration(name, step, parameters, dt):
    """Raise a :class:`ModelError` where the integrated step is not a number for these ``parameters``.

    Time constants may meet, leaks and couplings vanish (:mod:`localplast.neuron.propagator`); coefficients have to be
    numbers, and what grows must not outgrow them within a step.
    """
    if str(step.model.method).lower() not in EXACT or not step.program:
        return
    constants = {**parameters, **dict.fromkeys(step.noise, 0.0), "dt": float(dt), "not_refractory": np.float64(1.0)}
    probes = {n: np.float64(0.7) for n in step.state + step.inputs}
    with np.errstate(all="ignore"):
        try:
            drawn = [(name, e.replace(Draw, lambda *_: sympy.Integer(0))) for name, e in step.outputs]
            values = Tape(drawn, {**constants, **probes})({})
        except ZeroDivisionError:
            values = dict.fromkeys((f"new_{n}" for n in step.state), np.nan)
    broken = [n for n in step.state if not np.all(np.isfinite(values[f"new_{n}"]))]
    if broken:
        raise ModelError(
            f"population {name!r}: the exact integration of {step.model.name} gives no number for {', '.join(broken)} "
            "with these parameters: a coefficient of the equations is none, or what grows overflows within one step; "
            "change them, or dt"
        )
