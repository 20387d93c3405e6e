"""What is zero, and what is made of zeros: not computed."""

from dataclasses import replace

import sympy

from localplast.equations.rewriting import replaced, symbols_in
from localplast.program.arrays import End, Life, at
from localplast.program.instructions import Draw, Fire, Jump, Map, Outer, Reduce, Send, expressions
from localplast.program.passes import live

__all__ = ["where_zero", "with_zeros"]


def where_zero(program, names):
    """The program of a network whose numbers ``names`` are zero, in every step of all calls.

    What they are factors of is gone, and so is whatever neither results nor what is seen depends on any more. Of
    noise everything is drawn as before: no other numbers come out of the dice. A number whose zero makes an
    expression infinite somewhere stays as it is: who computes that finds out.
    """
    step = with_zeros(program.step, names, program.arrays, always=True)
    if any(infinite(e) for s in step for e in expressions(s)):
        found = [e for s in program.step for e in expressions(s)]
        names = {n for n in names if not any(infinite(at_zero(e, {n})) for e in found)}
        step = with_zeros(program.step, names, program.arrays, always=True)
    if step == program.step or any(infinite(e) for s in step for e in expressions(s)):
        return program
    wanted = {a.name for a in program.of(Life.SEEN)} | {s.into for s in step if isinstance(s, Draw)}
    for _ in range(2):  # neurons that fire keep what their gradients pass through
        found = live(step, wanted)
        wanted |= {s.slope for s in found if isinstance(s, Fire)}
    return program.with_step(live(step, wanted))


def infinite(e):
    """Whether an expression has become no number, or no real one."""
    return e.has(sympy.zoo, sympy.nan, sympy.I)


def with_zeros(step, zero, arrays, *, always=False):
    """The statements that are left in a step in which the arrays ``zero`` are zero, of a program with these ``arrays``.

    What is made of them alone is zero, too, and set by nobody: who reads it gets the number. If they are ``always``
    zero nothing of them is under way either.
    """
    zero, found = set(zero), []
    for s in step:
        kept, nothing = reduced(s, zero, arrays, always)
        zero |= nothing
        found += [kept] if kept else []
    return tuple(found)


def reduced(s, zero, arrays, always):
    """``(statement or None, what of its results is zero)``."""
    if isinstance(s, Send):
        return sent(s, zero, arrays, always)
    if isinstance(s, Outer):
        return (None if {s.pre, s.post} & zero and (always or not s.taps) else s), set()
    if isinstance(s, Reduce):
        e = at_zero(s.expression, zero)
        return (None, {s.into}) if e == 0 and s.op == "sum" else (replace(s, expression=e), set())
    if isinstance(s, Fire):
        psi = None if s.psi is None else at_zero(s.psi, zero)
        return replace(s, argument=at_zero(s.argument, zero), ready=at_zero(s.ready, zero), psi=psi), set()
    if isinstance(s, Jump):
        return replace(s, lines=tuple((n, at_zero(e, zero)) for n, e in s.lines)), set()
    return computed(s, zero, arrays) if isinstance(s, Map) else (s, set())


def sent(s, zero, arrays, always):
    """As :func:`reduced`, of a Send."""
    if s.source in zero and (always or not s.taps):
        if s.add:
            return None, set()
        if arrays[s.target].life is Life.STEP:
            return None, {s.target}
        return Map(arrays[s.target].space, (), ((s.target, sympy.Integer(0)),)), set()
    if s.add and s.target in zero:
        zero.discard(s.target)
        return replace(s, add=False), set()
    return s, set()


def computed(s, zero, arrays):
    """As :func:`reduced`, of a Map."""
    lets, lines, nothing, known = [], [], set(), {}
    for name, e in s.lets:
        e = replaced(at_zero(e, zero), known)
        if e.is_Number or e.is_Symbol:
            known[at(name)] = e
        else:
            lets.append((name, e))
    for name, e in s.lines:
        e = replaced(at_zero(e, zero), known)
        if e == 0 and name not in s.adds and arrays[name].life is Life.STEP:
            nothing.add(name)
        elif unmasked(e, arrays) != (0 if name in s.adds else at(name)):
            lines.append((name, e))
    kept = replace(s, lets=tuple(lets), lines=tuple(lines), adds=s.adds & {n for n, _ in lines})
    return (kept if lines else None), nothing


def unmasked(e, arrays):
    """An expression without masks: what they have left out stays so."""
    masks = {x: 1 for x in e.free_symbols if x.name in arrays and arrays[x.name].role == "mask"}
    return e.subs(masks) if masks else e


def at_zero(e, zero):
    """An expression where the arrays ``zero`` are zero."""
    e = sympy.sympify(e, strict=True)
    gone = {x: sympy.Integer(0) for x in symbols_in(e) if (x.array if isinstance(x, End) else x.name) in zero}
    return replaced(e, gone) if gone else e
