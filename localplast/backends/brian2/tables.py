"""What is presented, as tables that a program reads: how many rows they have is no part of its text."""

import numpy as np
from brian2.core.functions import Function

from localplast.backends.brian2.text import replace_words
from localplast.errors import LocalplastError
from localplast.task.trials import Poisson

__all__ = ["Table", "contents", "held_for"]

CYTHON = """
cdef double NAME(ARGUMENTS):
    global _namespaceNAME_values
    return _namespaceNAME_values[INDEX]
"""
#: A program reads all of the file that its folder has for the table.
CPP = """
static std::vector<double> _read_NAME()
{
    std::ifstream file("NAME.table", std::ios::binary | std::ios::ate);
    std::vector<double> values(file.tellg()/sizeof(double));
    file.seekg(0);
    file.read(reinterpret_cast<char*>(values.data()), values.size()*sizeof(double));
    return values;
}
static const std::vector<double> _NAME_values = _read_NAME();
static inline double NAME(ARGUMENTS)
{
    return _NAME_values[INDEX];
}
"""


def held_for(name):
    """The number of the clock that says for how many steps each row of a table holds."""
    return f"_hold_{name}"


class Table(Function):
    """A function for Brian2's text: ``name(row)``, or ``name(row, column)`` where there are ``columns``.

    Brian2's own ``TimedArray`` has its length and time step in the text. ``now`` is the text of the present row.
    """

    def __init__(self, name, columns, now):
        self.name, self.shape, self.now = name, (columns,) if columns else (), now
        self.values = np.zeros((1, *self.shape))
        arguments = 1 + len(self.shape)
        super().__init__(self.read, arg_units=[1] * arguments, arg_types=["integer"] * arguments, return_unit=1)
        self.implementations.add_dynamic_implementation("numpy", lambda owner: lambda *index: self.values[index])
        given = ", ".join(["const int64_t row", "const int64_t column"][:arguments])
        words = {"ARGUMENTS": given, "INDEX": f"row*{columns} + column" if columns else "row"}
        for target, text, namespace in (("cython", CYTHON, self.namespace), ("cpp", CPP, lambda owner: {})):
            text = replace_words(text.replace("NAME", name), words)
            self.implementations.add_dynamic_implementation(target, lambda owner, t=text: t, namespace, name=name)

    def read(self, *index):
        return self.values[index]

    def namespace(self, owner):
        return {f"{self.name}_values": self.values.ravel()}

    def check(self, values):
        """Raise unless rows of ``values`` are those that the text was made for."""
        if values.shape[1:] != self.shape:
            raise LocalplastError(
                f"{self.name}: rows of shape {values.shape[1:]} do not fit a program that was made for {self.shape}"
            )

    def text(self, called=None):
        """Brian2 text of each neuron's number, or of the only one, in this step; it may be ``called`` otherwise."""
        return f"{called or self.name}({', '.join([self.now, *'i' * len(self.shape)])})"


def contents(built, block, trials):
    """What the tables hold for these trials, by name: numbers, and for how many steps each row of them holds."""
    filled = {}
    for name, array in trials.inputs.items():
        if name in built.objects:
            filled |= contents_of_input(built, block, name, array)
    if "target" in built.tables:
        filled |= contents_of_target(built, block, trials)
    return filled


def contents_of_input(built, block, name, array):
    """As :func:`contents`, of one input."""
    rates = isinstance(array, Poisson)
    table = f"rates_{name}" if rates else f"signal_{name}"
    if table not in built.tables:
        given = ("rates", "an array") if rates else ("an array", "rates")
        raise LocalplastError(
            f"input {name!r} is {given[0]}, and was {given[1]} when the program was made; give it in one form, or "
            "build a new learner"
        )
    hold = array.segment if rates else 1
    return {table: (with_gap(block, array.rates if rates else array, hold), hold)}


def contents_of_target(built, block, trials):
    """As :func:`contents`, of what the readout should do, and when it counts."""
    labels = np.ndim(trials.target) == 1
    target = np.eye(*built.tables["target"].shape)[trials.target] if labels else with_gap(block, trials.target)
    weight, hold = np.zeros(block.period), block.period if labels else 1
    weight[: block.steps] = 1.0 if trials.weight is None else trials.weight
    filled = {"target": (target, hold), "step_weight": (weight, None)}
    if "target_sum" in built.tables:
        filled["target_sum"] = target.sum(-1), hold
    if "pay" in built.tables:
        pay = np.arange(block.period) == np.flatnonzero(weight)[-1] + built.pay_delay
        filled["pay"] = pay.astype(float), None
    return filled


def with_gap(block, array, hold=1):
    """``(trial, row, channel)`` as one long table whose rows hold for so many steps, zeros in the gaps."""
    padded = np.zeros((block.trials, block.period // hold, array.shape[-1]))
    padded[:, : array.shape[1]] = array
    return padded.reshape(-1, array.shape[-1])
