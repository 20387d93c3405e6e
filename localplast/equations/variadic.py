"""Functions of any number of numbers, for every engine: text and C know each number of arguments by a name of its
own.
"""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import sympy
from brian2.core.functions import Function

__all__ = ["Engines", "Variadic"]


class Variadic(sympy.Function):
    """A real function of any number of numbers."""

    @property
    def called(self):
        """What text and C call it with so many arguments."""
        return name_of(type(self), len(self.args))

    def _eval_is_real(self):
        return True


def name_of(function, count):
    return f"{function.__name__}{count}"


@dataclass(frozen=True)
class Engines:
    """What engines other than sympy know of a function: Brian2's three targets, and C.

    Parameters
    ----------
    function : type
        The :class:`Variadic`.
    counts : sequence of int
        How many arguments it takes.
    value : callable
        Of a module (numpy) and the arguments.
    body : str
        C and C++ for ``static real name(int count, real *x)``; ``real`` is a number, ``R`` and ``M`` give constants and
        functions its precision.
    """

    function: type
    counts: tuple
    value: Callable
    body: str

    @property
    def by_name(self):
        """The function by each of its names."""
        return {name_of(self.function, count): self.function for count in self.counts}

    @property
    def c_text(self):
        """C text of the function by all its names: with it an expression may call it, in C and C++ alike."""
        return "\n".join([self.body, *(self._with(count) for count in self.counts)])

    def _with(self, count):
        letters = [f"x{i}" for i in range(count)]
        given = ", ".join(f"real {x}" for x in letters)
        body = f"real x[] = {{{', '.join(letters)}}}; return {self.function.__name__}({count}, x);"
        return f"static real {name_of(self.function, count)}({given}) {{ {body} }}"

    @property
    def functions(self):
        """What Brian2 must be given to know the names, as part of a namespace."""
        guard = f"LOCALPLAST_{self.function.__name__.upper()}"
        plain = f"#define real double\n#define R(x) x\n#define M(f) f\n{self.c_text}\n#undef real\n#undef R\n#undef M"
        once = f"#ifndef {guard}\n#define {guard}\n#include <cmath>\n{plain}\n#endif"
        return {name_of(self.function, count): self._brian2(count, once) for count in self.counts}

    def _brian2(self, count, text):
        name = name_of(self.function, count)
        function = Function(lambda *x: self.value(np, *x), arg_units=[1] * count, return_unit=1)
        # of numbers: with units Brian2 would print every result, in case that it had to complain
        function.implementations.add_numpy_implementation(function.pyfunc, discard_units=True)
        declared = f"double {name}({', '.join(['double'] * count)})"
        cython = f'cdef extern from *:\n    """\n{textwrap.indent(text, "    ")}\n    """\n    {declared}'
        function.implementations.add_implementation("cpp", text, name=name)
        function.implementations.add_implementation("cython", cython, name=name)
        return function
