"""How large the numbers in text may be, known before anybody computes with them: ``9**9**9**9`` is ten characters long.

Exact arithmetic (sympy's, Python's) never overflows, it takes all memory and all time. So powers are estimated first,
in logarithms: a name counts as one, for sympy may cancel it.
"""

import ast
import functools
import math
import re

__all__ = ["check_bounded", "check_length", "check_written"]

#: Most characters of a text, and most levels of an expression.
LONGEST, DEEPEST = 20_000, 150
#: Largest number that may be written, or be a power, and largest exponent.
LARGEST, EXPONENT = 1e300, 1000.0
#: Functions that grow exponentially: those of one another are bounded, those of such again are not.
GROWING = frozenset(("exp", "expm1", "exprel", "sinh", "cosh"))
#: What one of them counts as, in logarithms, where it may stand in another one, and where it may not.
ONCE, TWICE = 60.0, 400.0
#: Logarithm of the largest argument of one within another: where names may cancel, and where they do not, as in what is
#: derived from text. There numbers are in SI units, such as 1e12 of ``exp(I/pA)``.
CANCELLED, DERIVED = 12.0, 50.0
#: Most terms of an expression that is multiplied out, as linear integration does.
TERMS = 20_000


def pieces(text):
    """The expressions and units in equations and statements, to be checked one by one."""
    plain = "\n".join(line.split("#")[0] for line in text.splitlines())
    if ":" not in plain:
        found = re.split(r"(?<![=<>!])=(?!=)|[;\n]", plain)
    else:
        found = re.findall(r"(?<![=<>!])=(?!=)([^:]*)", plain) + re.findall(r":([^\n(]*)", plain)
    return [piece.strip() for piece in found if piece.strip()]


def check_written(text):
    """:func:`check_bounded` for equations, and for statements."""
    check_length(text)
    for piece in pieces(text):
        check_bounded(piece)


def check_length(text):
    """Raise a :class:`ValueError` where a text is longer than anybody writes."""
    if len(text) > LONGEST:
        raise ValueError(f"has {len(text)} characters; at most {LONGEST} are read")


@functools.lru_cache(maxsize=4096)
def check_bounded(text, derived=False):
    """Raise a :class:`ValueError` where an expression (or a unit) is too long, too deep, or its numbers are beyond
    bounds.

    What does not parse passes: whoever reads it says so better. In text that is ``derived`` nothing is left to cancel.
    """
    check_length(text)
    wrong = next((c for c in text if not c.isascii() or c == "\0"), None)
    if wrong:
        raise ValueError(
            f"holds {wrong!r}, which is no character of ASCII; letters that only look like others are other letters"
        )
    try:
        tree = ast.parse(" ".join(text.split()), mode="eval").body
    except SyntaxError:
        return
    except (MemoryError, RecursionError):
        raise ValueError(f"is nested too deeply, {text[:40]!r}...") from None
    check_depth(tree, text)
    size(tree, derived)
    terms(tree)


def check_depth(tree, text):
    nodes = [tree]
    for _ in range(DEEPEST):
        nodes = [child for node in nodes for child in ast.iter_child_nodes(node)]
        if not nodes:
            return
    raise ValueError(f"has more than {DEEPEST} levels, {text[:40]!r}...; split it by subexpressions")


def size(node, derived=False):
    """An upper bound of ``log(max(|value|, 1/|value|))``, in which every name stands for one."""
    if isinstance(node, ast.Constant):
        return size_of_number(node.value)
    if isinstance(node, ast.BinOp):
        return size_of_operation(node, size(node.left, derived), size(node.right, derived))
    largest = max((size(child, derived) for child in ast.iter_child_nodes(node)), default=0.0)
    if not (isinstance(node, ast.Call) and getattr(node.func, "id", None) in GROWING):
        return largest
    if largest >= TWICE:
        raise ValueError(f"holds {shown(node)}, which is beyond all numbers")
    named = any(isinstance(part, ast.Name) for argument in node.args for part in ast.walk(argument))
    return min(math.exp(largest), ONCE) if largest <= (DERIVED if derived and named else CANCELLED) else TWICE


def size_of_number(value):
    if isinstance(value, (int, float)) and not abs(value) <= LARGEST:
        raise ValueError(f"holds a number larger than {LARGEST:g}, or none")
    return abs(math.log(abs(value))) if isinstance(value, (int, float)) and value else 0.0


def size_of_operation(node, left, right):
    if isinstance(node.op, (ast.Add, ast.Sub)):
        return max(left, right) + math.log1p(math.exp(-abs(left - right)))
    if not isinstance(node.op, ast.Pow):
        return checked(node, left + right)
    if right > math.log(EXPONENT) * (1 + 1e-9):
        raise ValueError(f"holds {shown(node)}, which has an exponent beyond {EXPONENT:g}; write exp(...*log(...))")
    return checked(node, left * math.exp(right))


def checked(node, logarithm):
    if logarithm > math.log(LARGEST):
        raise ValueError(f"holds {shown(node)}, which is beyond all numbers")
    return logarithm


def terms(node):
    """How many terms ``node`` has when it is multiplied out."""
    if not isinstance(node, ast.BinOp):
        return max([1, *(terms(child) for child in ast.iter_child_nodes(node) if not isinstance(node, ast.Call))])
    left, right = terms(node.left), terms(node.right)
    if isinstance(node.op, (ast.Add, ast.Sub)):
        found = left + right
    elif (
        isinstance(node.op, ast.Pow)
        and isinstance(node.right, ast.Constant)
        and isinstance(node.right.value, (int, float))
    ):
        found = math.comb(left - 1 + int(abs(node.right.value)), left - 1)
    else:
        found = left * right if isinstance(node.op, ast.Mult) else max(left, right)
    if found > TERMS:
        raise ValueError(f"holds {shown(node)}, which has {found} terms when it is multiplied out; use a subexpression")
    return found


def shown(node):
    """The text of a node, cut short: a number of thousands of digits cannot be written at all."""
    return ast.unparse(node)[:60]
