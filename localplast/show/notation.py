"""Equations for a person: names and expressions as text and as LaTeX."""

import re

import sympy
from sympy.printing.latex import LatexPrinter

from localplast.equations.language import symbol
from localplast.equations.slopes import Tamed
from localplast.equations.text import to_text
from localplast.names import OWN, outer

__all__ = ["escape", "math_name", "math_text", "plain_text"]

GREEK = {
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "eta",
    "theta",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "rho",
    "sigma",
    "tau",
    "phi",
    "psi",
    "chi",
    "omega",
}
#: Names that learning adds; what follows the underscore is the state variable, or the parameter, that it belongs to.
WHOLE = {
    "elig": "e",
    "elig_sum": r"\Sigma_{e}",
    "gradient": "g",
    "error": "E",
    "lure": "E^{*}",
    "dt": r"\Delta t",
    "arrived": "z",
    "not_refractory": r"\mathrm{ready}",
    "past_arrived": r"\left[z\right]_{t-1}",
    "spike_count": "n",
    "learning_rate": r"\eta",
}
PREFIX = {
    "eps": r"\varepsilon",
    "last_eps": r"\hat{\varepsilon}",
    "primed": r"\tilde{\varepsilon}",
    "filtered": r"\bar{e}",
    "faded": r"\tilde{e}",
    "credit": "c",
    "delta": r"\delta",
    "d": "J",
    "gradient": "g",
    "elig": "e",
}
SPECIAL = {
    "\\": r"\textbackslash{}",
    "_": r"\_",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "^": r"\^{}",
    "~": r"\~{}",
}


def escape(text):
    """Plain text as LaTeX."""
    return "".join(SPECIAL.get(c, c) for c in text)


def math_name(name, index=""):
    r"""A variable as LaTeX: ``eps_v`` of synapse ``ij`` is ``\varepsilon^{\mathrm{v}}_{ij}``."""
    if name.startswith(OWN):  # a model's, called as something of learning is: upright, as it stands
        return rf"\mathrm{{{escape(outer(name))}}}" + (rf"_{{{index}}}" if index else "")
    name = name.replace(f"_{OWN}", "_")
    late = re.fullmatch(r"late(\d+)_(.*)", name)
    if late:
        return rf"\left[{math_name(late[2], index)}\right]_{{t-{late[1]}}}"
    if name.startswith("drift_"):
        return rf"\Delta {math_name(name[6:], index)}"
    below = f"_{{{index}}}" if index else ""
    if name in WHOLE:
        return WHOLE[name] + ("" if name == "dt" else below)
    prefix = next((p for p in sorted(PREFIX, key=len, reverse=True) if name.startswith(f"{p}_")), None)
    if prefix:
        above = ", ".join(plain(part) for part in name[len(prefix) + 1 :].split("_") if part)
        return f"{PREFIX[prefix]}^{{{above}}}{below}"
    head, *rest = [part for part in name.split("_") if part] or [escape(name)]
    head = rf"\{head}" if head in GREEK else head if len(head) == 1 else rf"\mathrm{{{head}}}"
    subscript = ",".join([*([rf"\mathrm{{{' '.join(rest)}}}"] if rest else []), *([index] if index else [])])
    return f"{head}_{{{subscript}}}" if subscript else head


def plain(part):
    return rf"\{part}" if part in GREEK else rf"\mathrm{{{part}}}"


class Printer(LatexPrinter):
    """sympy's LaTeX with conditions as Iverson brackets."""

    def _print_int_(self, expression, exp=None):
        text = rf"\left[{self._print(expression.args[0])}\right]"
        return f"{text}^{{{exp}}}" if exp else text

    def _print_clip(self, expression, exp=None):
        text = rf"\mathrm{{clip}}\left({', '.join(map(self._print, expression.args))}\right)"
        return rf"{text}^{{{exp}}}" if exp else text


def rounded(expression):
    """``expression`` with its numbers to six digits, and without the bounds that only an engine needs."""
    expression = sympy.sympify(expression, strict=True).replace(lambda e: isinstance(e, Tamed), lambda e: e.args[0])
    return expression.xreplace({f: sympy.Float(f"{float(f):.6g}") for f in expression.atoms(sympy.Float)})


def math_text(expression, indices=(), names=()):
    """An expression as LaTeX; ``indices`` maps names to ``i``, ``j`` or ``ij``, ``names`` to their own LaTeX."""
    indices, names, expression = dict(indices), dict(names), rounded(expression)
    found = {s.name: names.get(s.name) or math_name(s.name, indices.get(s.name, "")) for s in expression.free_symbols}
    return Printer({"symbol_names": {symbol(name): text for name, text in found.items()}}).doprint(expression)


def plain_text(expression):
    """An expression as Brian2 text, its numbers to six digits."""
    return to_text(rounded(expression))
