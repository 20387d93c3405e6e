"""Statements of a program as Brian2 text: what they mean, when they are run, and what cannot be put in order."""

import numpy as np
import pytest
import sympy
from brian2 import ms

from localplast.backends.brian2.learner import block_for
from localplast.backends.brian2.learning import Learning
from localplast.backends.brian2.printed import in_order
from localplast.backends.brian2.slots import AFTER, END, FIRED, LEARN, NEXT, places
from localplast.backends.brian2.travel import Gather
from localplast.errors import UnsupportedError
from localplast.learning.optimise import adam
from localplast.models import alif, leaky_readout
from localplast.network import Input, Network, Population, Projection
from localplast.program.arrays import End, at
from localplast.program.instructions import Map
from localplast.program.learn import plan
from localplast.program.units import derived
from localplast.rules import eprop
from localplast.task import Trials
from localplast.task.loss import cross_entropy

X, Y, Z, U, V = (at(f"a.{n}") for n in "xyzuv")

MAPS = {
    "shift": Map("a", (("a.u", Y), ("a.v", Z)), (("a.x", U), ("a.y", V))),
    "swap": Map("a", (), (("a.x", Y), ("a.y", X))),
    "swapped lets": Map("a", (("a.u", Y), ("a.v", X)), (("a.x", U), ("a.y", V))),
    "in turn": Map("a", (("a.u", X + Y), ("a.v", U * Z)), (("a.x", U), ("a.z", V))),
    "read again": Map("a", (("a.u", X + Y), ("a.v", X * Z)), (("a.x", U), ("a.z", V))),
    "added": Map("a", (("a.u", X * Y),), (("a.z", U), ("a.x", U + Z)), frozenset({"a.x"})),
    "twice the same": Map("a", (("a.u", X * Y), ("a.v", X * Y)), (("a.x", V), ("a.z", U + V))),
    "itself": Map("a", (), (("a.x", X), ("a.y", 2 * X))),
}


def by_definition(s, numbers):
    """Lets in order, then all lines at once, of the old values."""
    known = dict(numbers)
    for name, e in s.lets:
        known[name] = value(e, known)
    new = {n: value(e, known) + (numbers[n] if n in s.adds else 0) for n, e in s.lines}
    return numbers | new


def one_by_one(s, numbers):
    known = dict(numbers)
    for name, e, _ in in_order(s):
        known[name] = value(e, known) + (known[name] if name in s.adds else 0)
    return {n: known[n] for n in numbers}


def value(e, known):
    return float(sympy.sympify(e).subs({at(n): x for n, x in known.items()}))


@pytest.mark.parametrize("name", MAPS)
def test_one_after_the_other_means_the_same(name):
    numbers = {"a.x": 2.0, "a.y": 3.0, "a.z": 5.0}
    expected = by_definition(MAPS[name], numbers)
    assert one_by_one(MAPS[name], numbers) == expected != numbers or name == "itself"


def test_a_let_that_becomes_an_array_has_its_name():
    assert [n for n, _, _ in in_order(MAPS["in turn"])] == ["a.x", "a.z"]
    assert [n for n, _, _ in in_order(MAPS["read again"])] == ["a.u", "a.z", "a.x"], "x is read once more"
    assert [n for n, _, _ in in_order(MAPS["swap"])] == ["a.x:next", "a.y", "a.x"]


@pytest.fixture
def learning():
    net = Network(
        dt=1 * ms, cues=Input(3), rec=Population(4, alif()), out=Population(2, leaky_readout()),
        projections=[Projection("cues", "rec"), Projection("rec", "rec"), Projection("rec", "out")],
    )  # fmt: skip
    made = plan(net, eprop(feedback="random"), cross_entropy(), adam(1e-3))
    trials = Trials({"cues": np.zeros((1, 5, 3), bool)}, np.zeros(1, int))
    return Learning(net, net.draw(0), block_for(net, trials), made, 0)


def test_statements_are_run_in_their_slots(learning):
    placed = [(w, k, s) for w, k, s in places(learning.lowered) if learning.lowered.learns(s)]
    where = {n: (w, k) for w, k, s in placed for n in (dict(s.sums) if isinstance(s, Gather) else dict(s.lines))}
    assert where["rec.learn.psi"][0] == AFTER and where["rec.count.seen"][0] == FIRED
    assert where["cues_rec.pre.eps_v"][0] == NEXT, "it waits for nobody, and needs no object of its own"
    names = ["out.learn.normaliser", "out.learn.error", "rec.learn.L", "rec_rec.gradient"]
    assert [where[n] for n in names] == [(END, 0), (END, 1), (END, 2), (LEARN, 0)]
    assert where["out.score.seen"] == where["out.loss.seen"] == where["out.learn.error"]


def test_two_statements_in_the_wrong_order_are_named(learning):
    """What synapses have read is set once more in this step, by neurons, which come before them."""
    lowered = learning.lowered
    again = Map("rec", (), (("rec.learn.L", 2 * at("rec.learn.L")),))
    lowered.statements.append((len(lowered.program.step), again))
    with pytest.raises(
        UnsupportedError, match="wrong order: that of 'cues_rec' .*, and that of 'rec' which sets rec.learn.L"
    ):
        places(lowered)


def test_units_follow_from_what_sets_an_array():
    from brian2.units.allunits import second, volt

    known = {"a.x": volt.dim, "a.t": second.dim}
    pairs = [
        ("a.z", Z * 0.5 + Y),
        ("a.y", X / at("a.t")),
        ("s.w", End("a.y", "pre") * X),
        ("a.n", sympy.exp(at("a.n")) + 1),
    ]
    found = derived(pairs, known)
    assert found["a.y"] == found["a.z"] == (volt / second).dim and found["s.w"] == (volt**2 / second).dim
    assert "a.n" not in found, "nothing tells"
