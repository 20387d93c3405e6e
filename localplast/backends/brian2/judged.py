"""A loss and its error as Brian2 text: what the neurons of a readout are judged by."""

import sympy
from brian2.units.fundamentalunits import DIMENSIONLESS

from localplast.backends.brian2.text import replace_words
from localplast.equations.language import symbol
from localplast.equations.text import measured, to_text
from localplast.equations.units import unit_of
from localplast.task.error import LOG_SOFTMAX, SOFTMAX, TARGET, WHOLE

__all__ = ["Judged"]

#: ``sum_j exp(y_j - y_k)`` of output ``k``: Brian2 adds up over neurons, and finds no largest one among them.
NORMALISER = symbol("normaliser")
NAMES = {
    SOFTMAX: 1 / NORMALISER,
    LOG_SOFTMAX: -sympy.log(NORMALISER),
    TARGET: symbol("teacher"),
    WHOLE: symbol("_whole"),
}


class Judged:
    """The text of ``loss`` for outputs of a ``dimension``; what the loss names itself has an underscore before it.

    The text of ``output``, and of ``_whole``, is given as ``words``.
    """

    def __init__(self, loss, dimension):
        self.derived, self.output = loss.derived, dimension
        unit, self.words = unit_of(dimension), {}
        for name, value in loss.constants.items():
            number = repr(value).removesuffix(".0")
            self.words[name] = f"({number}*{unit})" if unit else number if value >= 0 else f"({number})"
        self.dimensions = dict.fromkeys(("output", "teacher", "_whole", *self.words), dimension)
        self.dimensions["normaliser"] = DIMENSIONLESS
        self.names, self.program = dict(NAMES), []
        for name, value in self.derived.program:
            expression, self.dimensions[f"_{name}"] = measured(value.xreplace(self.names), self.dimensions)
            self.names[symbol(name)] = symbol(f"_{name}")
            self.program.append((f"_{name}", expression))

    @property
    def dimension(self):
        """Of the loss; that of the error is by output."""
        return self.dimensions[self.program[-1][0]]

    def error(self, words):
        """The derivative of the loss by the output."""
        expression = self.derived.error.xreplace(self.names)
        text = to_text(expression, self.dimensions, self.dimension / self.output)
        return replace_words(text, self.words | words)

    def statements(self, words):
        """What finds the error in a step, and adds to the loss, each times the weight of the step."""
        *named, (_, loss) = self.program
        lines = [f"{name} = {to_text(value)}" for name, value in named]
        factor, each = loss.as_coeff_Mul()
        first, text = "" if factor == 1 else f"{float(factor)!r}*", to_text(each)
        lines.append(f"loss += {first}_weight*" + (f"({text})" if each.is_Add else text))
        lines = [replace_words(line, self.words | words) for line in lines]
        error = self.error(words)
        return [*lines[:-1], f"error = _weight*{error if error.isidentifier() else f'({error})'}", lines[-1]]
