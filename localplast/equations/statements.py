"""Blocks of text as statements, and a threshold as two sides."""

import ast
import re

from localplast.errors import ModelError

__all__ = ["parse_statement", "split_statements", "split_threshold"]

#: A name, the operator of ``op=`` if there is one, an expression.
STATEMENT = re.compile(r"\s*(\w+)\s*(\*\*|//|[-+*/%])?=(?!=)\s*(.+)")


def split_statements(code):
    """The statements of a block, without comments and blank lines."""
    lines = [part for line in code.splitlines() for part in line.split("#")[0].split(";")]
    return [line.strip() for line in lines if line.strip()]


def parse_statement(line):
    """``(name, expression text)`` of ``name = text`` or ``name op= text``."""
    found = STATEMENT.fullmatch(line)
    if not found:
        raise ModelError(
            f"the statement {line!r} is not an assignment; write one per line, such as 'v = v_reset' or 'v -= v_th', "
            "with =, +=, -=, *=, /=, //=, %= or **="
        )
    name, op, text = found.groups()
    return name, f"{name} {op} ({text})" if op else text


def split_threshold(model):
    """``(left, right, strict)`` of the model's threshold ``left > right`` (``<`` is turned round)."""
    try:
        tree = ast.parse(model.threshold.strip(), mode="eval").body
    except SyntaxError as error:
        raise ModelError(f"{model.name}: the threshold {model.threshold!r} does not parse: {error.msg}") from None
    simple = isinstance(tree, ast.Compare) and len(tree.ops) == 1
    if not simple or not isinstance(tree.ops[0], (ast.Gt, ast.GtE, ast.Lt, ast.LtE)):
        raise ModelError(
            f"{model.name}: the threshold {model.threshold!r} is not an inequality; write 'left > right', "
            "for example 'v > v_th', so that left - right can be the argument of the surrogate"
        )
    left, right = ast.unparse(tree.left), ast.unparse(tree.comparators[0])
    if isinstance(tree.ops[0], (ast.Lt, ast.LtE)):
        left, right = right, left
    return left, right, isinstance(tree.ops[0], (ast.Gt, ast.Lt))
