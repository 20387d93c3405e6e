"""What one neuron or dendrite does, as text: Brian2 equations, threshold, reset, and how it learns through its spike.

A :class:`NeuronModel` is data. It is checked when it is made: units, names, threshold and integration method raise a
:class:`~localplast.errors.ModelError` that names the model and the equation, long before anything is compiled.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from brian2.equations import Equations
from brian2.equations.equations import PARAMETER, SingleEquation, parse_string_equations
from brian2.equations.refractory import add_refractoriness
from brian2.parsing.expressions import parse_expression_dimensions
from brian2.units.fundamentalunits import Dimension, Quantity, get_dimensions

from localplast.equations.statements import split_statements
from localplast.errors import ModelError
from localplast.files import encode
from localplast.neuron.check import HELD, check_model
from localplast.neuron.integration import Integrand, integrated, with_refractory
from localplast.neuron.mismatch import Mismatch
from localplast.neuron.namespace import namespace
from localplast.neuron.surrogate import Surrogate

__all__ = ["Mismatch", "NeuronModel"]


@dataclass(frozen=True, eq=False)
class NeuronModel:
    """One neuron (or dendrite) as equations.

    Parameters
    ----------
    name : str
        Shown in every error message.
    equations : str
        Brian2 equations: ODEs, subexpressions, and ``I : amp`` lines for what graded projections set. A subexpression
        marked ``(constant over dt)`` is evaluated before the integration and holds its value through the step.
    parameters : mapping of str to Quantity or float
        Values of all other names; a :class:`~localplast.network.network.Population` may override them, per neuron.

    Other arguments
    ---------------
    threshold : str, optional
        An inequality ``left > right``; its *spike argument* is ``left - right``. None: the neuron does not spike.
    reset, adaptation : str
        Statements run where the neuron spiked. Two blocks, because they are two edges of the credit graph:
        ``reset`` (the membrane) and ``adaptation`` (what a spike leaves behind in slower variables).
    refractory : str or Quantity, optional
        Name of the parameter that holds the refractory period; ODEs marked ``(unless refractory)`` are clamped. A
        time, such as ``5*ms``, becomes the parameter ``tau_ref``.
    method : str
        Integration method, any of Brian2's: ``exact``, ``exponential_euler``, ``euler``, ``rk2``, ``rk4``, ``heun``.
    update : str
        A discrete map, run once per step after the integration.
    output : str, optional
        The graded output. Readouts are judged by it.
    receives : str
        The variable that projections write to unless they say otherwise.
    initial : mapping
        Values at the start of a trial; 0 where absent.
    surrogate : Surrogate, optional
        Stands in for dz/d(spike argument); parameters that it brings along join the neuron's.
    mismatch : mapping of str to Mismatch
        How weights that land on a variable, or a parameter, learn from the neuron itself
        (:mod:`localplast.neuron.mismatch`).
    at_least_dt : sequence of str
        Time constants for which a shorter one than the network's time step has no meaning.
    reference : str
        Where the equations come from.

    Raises
    ------
    ModelError
        Unit mismatch, an unknown name or one of Brian2's own, a threshold that is not an inequality, unknown method.
    """

    name: str
    equations: str
    parameters: dict = field(default_factory=dict)
    threshold: str | None = None
    reset: str = ""
    adaptation: str = ""
    refractory: str | Quantity | None = None
    method: str = "exact"
    update: str = ""
    output: str | None = None
    receives: str = "v"
    initial: dict = field(default_factory=dict)
    surrogate: Surrogate | None = None
    mismatch: dict = field(default_factory=dict)
    at_least_dt: tuple = ()
    reference: str = ""

    def __post_init__(self):
        if getattr(self.surrogate, "parameters", None):
            object.__setattr__(self, "parameters", {**self.parameters, **self.surrogate.parameters})
        if isinstance(self.refractory, Quantity):
            object.__setattr__(self, "parameters", with_refractory(self))
            object.__setattr__(self, "refractory", "tau_ref")
        check_model(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NeuronModel) and (self is other or self.content == other.content)

    def __hash__(self) -> int:
        return hash((self.name, self.equations))

    def __repr__(self) -> str:
        lines = [f"{self.name}: {self.reference}" if self.reference else self.name]
        lines += [f"    {line.strip()}" for line in self.equations.strip().splitlines()]
        if self.update:
            lines.append(f"    update     {'; '.join(split_statements(self.update))}")
        if self.threshold:
            lines.append(f"    threshold  {self.threshold}")
        for block in ("reset", "adaptation"):
            if getattr(self, block):
                lines.append(f"    {block:10s} {'; '.join(split_statements(getattr(self, block)))}")
        if self.output:
            lines.append(f"    output     {self.output}")
        if self.surrogate:
            lines.append(f"    psi(x)     {self.surrogate.expression}")
        lines += [f"    mismatch   {target}: {found.error}" for target, found in self.mismatch.items()]
        lines += [f"    {name} = {value}" for name, value in self.parameters.items()]
        return "\n".join(lines)

    def with_parameters(self, **parameters: Quantity | float) -> "NeuronModel":
        """The same model with some parameters changed."""
        unknown = set(parameters) - set(self.parameters)
        if unknown:
            raise ModelError(f"{self.name}: no parameter {sorted(unknown)}; it has {sorted(self.parameters)}")
        surrogate = self.surrogate
        if surrogate is not None:
            own = {name: value for name, value in parameters.items() if name in surrogate.parameters}
            surrogate = replace(surrogate, parameters={**surrogate.parameters, **own})
        return replace(self, parameters={**self.parameters, **parameters}, surrogate=surrogate)

    @property
    def spiking(self) -> bool:
        """Whether the neuron has a threshold."""
        return self.threshold is not None

    @functools.cached_property
    def content(self) -> dict:
        """All that it is, as plain data."""
        return encode(self)

    @functools.cached_property
    def held(self) -> dict[str, str]:
        """The text of the subexpressions that are constant over a step, by name."""
        return {name: eq.expr.code for name, eq in self.written.items() if HELD in eq.flags}

    @functools.cached_property
    def written(self) -> Mapping[str, SingleEquation]:
        """The equations as they stand, by name; what is held may stand for what depends on it, a step later."""
        return parse_string_equations(self.equations) if self.equations.strip() else {}

    @functools.cached_property
    def lines(self) -> Equations:
        """The equations with what is held as variables, which the update sets."""
        return Equations(
            [SingleEquation(PARAMETER, n, eq.dim) if n in self.held else eq for n, eq in self.written.items()]
        )

    @functools.cached_property
    def parsed(self) -> Equations:
        """The :attr:`lines`, refractoriness included."""
        return add_refractoriness(self.lines) if self.refractory else self.lines

    @functools.cached_property
    def dimensions(self) -> dict[str, Dimension]:
        """The dimensions of every variable and parameter, by name."""
        result = dict(self.parsed.dimensions)
        result.update({name: get_dimensions(value) for name, value in self.parameters.items()})
        return result

    @property
    def integrated(self) -> str:
        """Brian2's abstract code of one step of the equations; empty without differential equations."""
        return integrated(Integrand.of(self, namespace(self)))

    @functools.cached_property
    def texts(self) -> tuple[str, ...]:
        """Every expression of the model: those of equations, the statements of its blocks, output and surrogate."""
        blocks = [split_statements(block) for block in (self.update, self.reset, self.adaptation)]
        equations = [eq.expr.code for eq in self.written.values() if eq.expr is not None]
        others = [self.output, self.surrogate.expression if self.surrogate else None]
        return (*equations, *(line for block in blocks for line in block), *(text for text in others if text))

    @property
    def output_dimension(self) -> Dimension:
        """The dimensions of what a readout of this kind is judged by."""
        return parse_expression_dimensions(self.output, namespace(self))

    @property
    def odes(self) -> tuple[str, ...]:
        """Names of the variables with a differential equation."""
        return tuple(name for name, line in self.parsed.items() if line.type == "differential equation")

    @property
    def subexpressions(self) -> tuple[str, ...]:
        """Names that stand for an expression in the others."""
        return tuple(name for name, line in self.parsed.items() if line.type == "subexpression")

    @property
    def clamped(self) -> frozenset[str]:
        """Names of the variables marked ``(unless refractory)``: nothing but the reset moves them while refractory."""
        return frozenset(name for name, eq in self.parsed.items() if "unless refractory" in eq.flags)

    @property
    def free_variables(self) -> tuple[str, ...]:
        """Names declared without an equation or a value: what projections and the update map write to."""
        declared = set(self.parsed.parameter_names) - {"not_refractory", "lastspike", *self.held}
        return tuple(name for name in self.parsed if name in declared and name not in self.parameters)
