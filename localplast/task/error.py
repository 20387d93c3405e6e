"""The error of a loss, derived from its text: how the loss of a step changes with each output of a readout.

The text is about one output neuron in one step. Its words are ``output`` and ``target``; ``softmax``, the share of its
output among all outputs of the readout; constants of the loss, measured as the output is; and what its own earlier
statements name. Engines print what is derived: no error is written by hand.
"""

import functools
from dataclasses import dataclass

import sympy

from localplast.equations.expressions import differentiate, to_sympy
from localplast.equations.language import Draw, clip, int_, symbol

__all__ = ["LOG_SOFTMAX", "OUTPUT", "SOFTMAX", "TARGET", "WHOLE", "Judgement", "Reduction", "judgement"]

OUTPUT, TARGET, SOFTMAX = map(symbol, ("output", "target", "softmax"))
#: How engines find ``log(softmax)``, which may be far below what ``softmax`` can hold.
LOG_SOFTMAX = symbol("log_softmax")
#: What is summed over all outputs, for their errors have it in common.
WHOLE = symbol("whole")


@dataclass(frozen=True)
class Reduction:
    """A number that all outputs of a readout give together.

    Attributes
    ----------
    name : str
        What an error calls it.
    op : str
        ``'softmax'`` (one for each output) or ``'sum'``.
    expression : sympy expression
        Of each output neuron.
    """

    name: str
    op: str
    expression: sympy.Expr


@dataclass(frozen=True)
class Judgement:
    """What a loss says of one output neuron in one step.

    Attributes
    ----------
    program : tuple of (str, sympy expression)
        Assignments, the last one is the loss.
    error : sympy expression
        Its derivative, summed over all outputs; of the words, of names in ``program``, and of ``reductions``.
    reductions : tuple of Reduction
        What is needed of all outputs for it.
    """

    program: tuple
    error: sympy.Expr
    reductions: tuple

    @property
    def coupled(self) -> bool:
        """Whether outputs compete: each error depends on all of them."""
        return any(r.op == "softmax" for r in self.reductions)

    @property
    def one_chosen(self) -> sympy.Expr:
        """The error where the targets are those of a choice, one of the outputs: they sum to one."""
        return self.expanded(self.error).xreplace({WHOLE: sympy.Integer(1)})

    def expanded(self, expression: sympy.Expr) -> sympy.Expr:
        """``expression`` without the names of the program."""
        for name, value in reversed(self.program):
            expression = expression.xreplace({symbol(name): value})
        return expression


@functools.lru_cache(maxsize=64)
def judgement(statements: tuple[tuple[str, str], ...]) -> Judgement:
    """The loss that ``statements`` are, with its error.

    A share moves with every output, ``d log(softmax_k)/d output_i = (i == k) - softmax_i``: the error takes in what
    each output pulls at its own share, less the part of all pulls that falls to it.

    Raises
    ------
    ValueError
        The text has no meaning, or its outputs have more in common than the sum of their targets.
    """
    program = tuple((name, to_sympy(text).xreplace({sympy.log(SOFTMAX): LOG_SOFTMAX})) for name, text in statements)
    if any(value.has(Draw) for _, value in program):
        raise ValueError("draws a random number, and has to be the same whenever it is asked")
    pull = slope(program, LOG_SOFTMAX) + SOFTMAX * slope(program, SOFTMAX)
    factor, each = pull.as_coeff_Mul()
    if pull != 0 and each != TARGET:
        raise ValueError("has the softmax elsewhere than in target*log(softmax), which is not supported")
    error = slope(program, OUTPUT) + pull - factor * SOFTMAX * WHOLE
    shared = any({SOFTMAX, LOG_SOFTMAX} & value.free_symbols for _, value in program)
    reductions = [Reduction("softmax", "softmax", OUTPUT)] * shared + [Reduction("whole", "sum", TARGET)] * (pull != 0)
    return Judgement(program, error, tuple(reductions))


def slope(program, word):
    """The derivative of what ``program`` gives by one of its words, in its own names."""
    found = {word: sympy.Integer(1)}
    for name, value in program:
        parts = [differentiate(value, s.name) * found[s] for s in found if s in value.free_symbols]
        found[symbol(name)] = let_through(sympy.Add(*parts), program)
    return found[symbol(program[-1][0])]


def let_through(expression, program):
    """``expression``, where a clip has a slope without the clip: there it is its argument."""
    for name, value in program:
        if value.func is clip:
            inside = {int_(value.args[0] > value.args[1]), int_(value.args[0] < value.args[2])}
            terms = [
                term.xreplace({symbol(name): value.args[0]}) if inside <= set(sympy.Mul.make_args(term)) else term
                for term in sympy.Add.make_args(expression)
            ]
            expression = sympy.Add(*terms)
    return expression
