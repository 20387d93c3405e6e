"""What is zero, and what is made of it, falls away: the rest is as it was."""

import sympy

from localplast.program.arrays import ONE, Array, Dense, Diagonal, Life, Neurons, One, Synapses, at
from localplast.program.instructions import Draw, Fire, Jump, Map, Reduce, Send, Taps
from localplast.program.program import Program
from localplast.program.zeros import where_zero

SPACES = [
    One(),
    Neurons("a", 2),
    Neurons("b", 2),
    Synapses("ab", "a", "b", Dense()),
    Synapses("line", "a", "a", Diagonal()),
]
NUMBERS = {n: Array(n, ONE, Life.FIXED, trial=False, role="parameter") for n in ("p", "q", "delay")}


def program(*step, **arrays):
    """Of step arrays ``a.x``, and ``b.x``; others as said, by place and life."""
    known = {f"{n}.{k}": Array(f"{n}.{k}", n, life) for n in "ab"
             for k, life in {"x": Life.STEP, "y": Life.STEP, "u": Life.STATE, "seen": Life.SEEN, **arrays}.items()}  # fmt: skip
    weight = Array("ab.weight", "ab", Life.FIXED, trial=False, role="weight")
    of_all = {**NUMBERS, "ab.weight": weight, "a.total": Array("a.total", ONE, Life.SEEN)}
    return Program({s.name: s for s in SPACES}, known | of_all, step)


def line(space, to, e):
    return Map(space, (), ((f"{space}.{to}", sympy.sympify(e)),))


def test_other_numbers_change_nothing():
    made = program(line("a", "x", at("p") * at("a.u")), line("a", "seen", at("a.x") + at("q")))
    assert where_zero(made, []) is made and where_zero(made, ["delay"]) is made
    assert where_zero(made, ["p"]).step == (line("a", "seen", at("q")),)


def test_what_travels_is_zero_too():
    """Into a value of the step, added to it, late; a state is set to zero: it may have begun as something else."""
    taps = Taps("delay", "axonal")
    made = program(
        line("a", "x", at("p") * at("a.u")),
        Send("line", "a.x", "a.y", None, taps, add=False),
        Send("ab", "a.x", "b.x", "ab.weight", add=False),
        Send("ab", "a.y", "b.x", "ab.weight"),
        Send("ab", "a.y", "b.u", "ab.weight", add=False),
        line("b", "seen", at("b.x") + 2 * at("b.u")),
    )
    assert where_zero(made, ["p"]).step == (line("b", "u", 0), line("b", "seen", 2 * at("b.u")))


def test_who_reads_what_nobody_sets_reads_zero():
    """Thresholds, their surrogates and resets; sums over neurons."""
    fire = Fire("a", "a.arg", at("a.u") - at("a.y"), True, sympy.Integer(1), at("a.y") + at("q"), "a.x", "a.psi")
    shown = Reduce("a", at("a.y") + at("a.x"), "a.total")
    jump = Jump("a", "a.x", (("a.u", at("a.y") + at("q")),))
    made = program(line("a", "y", at("p") * at("a.u")), fire, jump, shown, psi=Life.STEP)
    found, jump, total = where_zero(made, ["p"]).step
    assert (found.argument, found.psi) == (at("a.u"), at("q")), "the surrogate stays, though nothing forward reads it"
    assert jump.lines == (("a.u", at("q")),) and total.expression == at("a.x")


def test_what_would_be_infinite_stays():
    """Alone, by the logarithm of a negative number, and only together with another."""
    for e in (at("a.u") / at("p"), sympy.log(at("p") - 1) * at("a.u"), at("a.u") / (at("p") + at("q"))):
        made = program(line("a", "seen", e))
        assert where_zero(made, ["p", "q"]) == made


def test_noise_is_drawn_all_the_same():
    made = program(Draw("a", "a.x"), line("a", "u", at("p") * at("a.x")), line("a", "seen", at("a.u") * at("p") + 1))
    assert where_zero(made, ["p"]).step == (made.step[0], line("a", "seen", 1))
