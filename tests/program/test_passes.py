"""Passes from program to program: the same numbers, from fewer statements."""

import sympy
from brian2 import ms

from localplast.learning.optimise import adam, sgd
from localplast.models import alif, latent_equilibrium, latent_equilibrium_output, leaky_readout, lif
from localplast.models.layers import layered
from localplast.network import Input, Network, Population, Projection, axonal, normal
from localplast.program.adjoint import adjoint
from localplast.program.arrays import Array, Life, Neurons, Synapses, at
from localplast.program.forward import forward
from localplast.program.instructions import Every, Fire, Jump, Map, Outer, Send, reads, writes
from localplast.program.learn import plan
from localplast.program.online import online
from localplast.program.passes import as_numbers, at_once, fuse, live, merged, never_refractory, resolved, with_parts
from localplast.program.program import Program
from localplast.program.zeros import with_zeros
from localplast.protocols.gle_mnist1d import network as digits
from localplast.rules import dendritic, eprop
from localplast.task.loss import mse


def network():
    return Network(
        dt=1 * ms, cues=Input(4), a=Population(3, lif(tau_ref=3 * ms)), b=Population(3, alif()),
        out=Population(2, leaky_readout()),
        projections=[Projection("cues", "a", delay=axonal(2 * ms)), Projection("a", "b", weight=normal(3.0)),
                     Projection("b", "a"), Projection("b", "out")],
    )  # fmt: skip


def program(*record):
    net = network()
    return forward(net, net.draw(0), record=record or ["out.output"])


def test_neurons_that_are_always_ready_keep_no_clock():
    found = never_refractory(program(), ["b"])
    asked = {n for s in found.step for n in reads(s) | writes(s)}
    assert not asked & {"b.since.spike", "b.not_refractory"} and {"a.since.spike", "a.not_refractory"} <= asked
    assert [s.ready for s in found.step if isinstance(s, Fire)] == [at("a.not_refractory"), 1]
    assert len(found.step) == len(program().step) - 2, "the clock, and its start at a spike"


def test_dense_spikes_stay_numbers_through_their_delay_line():
    found = as_numbers(program(), ["cues.given"]).arrays
    assert not found["cues.given"].events and not found["cues_a.late"].events and found["a.z"].events


def test_what_nobody_needs_is_not_computed():
    whole = program("out.output", "a.psi", "b.count")
    kept = live(whole.step, ["out.output.seen"])
    assert {n for s in kept for n in writes(s)} >= {"out.v", "a.v", "b.a"}, "states live on to the next step"
    assert not {n for s in kept for n in writes(s)} & {"a.psi.seen", "b.count.seen", "a.psi"}
    assert live(whole.step, ["b.count.seen"]) and not live(whole.step, ["no such thing"])
    keep = adjoint(whole, ["a_b.weight"])[0]
    assert set(resolved(keep)) == {a.name for a in keep.of(Life.HISTORY)} and set(resolved(keep).values()) <= set(
        whole.arrays
    )


def test_lets_that_are_needed_stay_and_others_go():
    x, lets = at("a.x"), (("a.u", at("a.x") + 1), ("a.w", at("a.u") * 2), ("a.unused", at("a.x") * 3))
    s = Map("a", lets, (("a.y", at("a.w")), ("a.q", x)))
    (found,) = live([s], ["a.y"])
    assert [n for n, _ in found.lets] == ["a.u", "a.w"] and [n for n, _ in found.lines] == ["a.y"]


def of_neurons(*steps):
    """A program of two populations of states u and v; each step is ``(population, target, what is read)``."""
    arrays = {f"{n}.{k}": Array(f"{n}.{k}", n, Life.STATE) for n in "ab" for k in "uvw"}
    made = [Map(n, (), ((f"{n}.{to}", sympy.Add(*(at(f"{n}.{k}") for k in read))),)) for n, to, read in steps]
    return Program({n: Neurons(n, 2) for n in "ab"}, arrays, tuple(made))


def test_loops_of_one_space_are_one():
    groups = fuse(of_neurons("auv", "bvu", "avw", "bwv").step)
    assert [g.key for g in groups] == [("neurons", "a"), ("neurons", "b")] and [len(g.body) for g in groups] == [2, 2]


def test_a_statement_stays_behind_what_it_depends_on():
    """It joins an earlier loop only if nothing in between writes what it reads, or uses what it writes."""
    steps = program().step
    groups = fuse(steps)
    place = [next(k for k, g in enumerate(groups) if any(s is other for other in g.body)) for s in steps]
    assert sum(len(g.body) for g in groups) == len(steps) > len(groups)
    for first, s in enumerate(steps):
        for second, other in enumerate(steps[first + 1 :], first + 1):
            if writes(s) & (reads(other) | writes(other)) or reads(s) & writes(other):
                assert place[first] <= place[second]
    assert any(isinstance(s, Jump) for s in steps) and any(isinstance(s, Send) for s in steps)


def test_maps_side_by_side_are_one_unless_the_second_reads_what_the_first_sets():
    x, y, z = (at(f"a.{n}") for n in "xyz")
    first, second, third = (Map("a", (), ((f"a.{k}", e),)) for k, e in (("x", y + 1), ("y", z), ("z", 2 * y)))
    (both,) = merged([first, second])
    assert both.lines == first.lines + second.lines, "both of the old values: y + 1 is of the y before"
    assert len(merged([second, third])) == 2 and len(merged([first, Map("b", (), (("b.x", x),))])) == 2


def test_parts_that_occur_twice_and_functions_are_named_once():
    x, y, p = (at(f"a.{n}") for n in "xyp")
    s = Map("a", (("a.u", x * y),), (("a.x", sympy.tanh(x * y + 1)), ("a.y", sympy.tanh(x * y + 1) ** 2 + x * y)))
    found = with_parts(s, frozenset({"a.x", "a.y"}))
    (_, u), (name, function) = found.lets
    assert u == x * y and function == sympy.tanh(at("a.u") + 1), "a product that has a name is called by it"
    assert found.lines == (("a.x", at(name)), ("a.y", at(name) ** 2 + at("a.u")))
    still = Map("a", (), (("a.x", p * sympy.tanh(y)), ("a.y", x * sympy.tanh(y))))
    assert with_parts(still, frozenset({"a.x"})) == still, "what does not vary has no derivative"
    cut = Map("a", (), (("a.x", sympy.log(x) + sympy.log(x) * y + sympy.tanh(sympy.log(x))), ("a.y", p * y)))
    assert with_parts(cut, frozenset({"a.x", "a.y"})) == cut, "what is singular stays beside what cuts it off"


def test_a_function_that_an_array_was_set_to_is_read_from_its_history():
    net = digits(layers=2, slow=2, fast=2)
    keeping, backward = adjoint(forward(net, net.draw(0), record=["said.output"]), ["up1.weight", "up2.weight"])
    hidden = [s for s in backward.step if isinstance(s, Map) and s.space == "hidden2"]
    assert hidden and "tanh" not in str(backward)
    kept = {a.name.split(".after")[0] for a in keeping.of(Life.HISTORY) if a.space == "hidden2"}
    assert kept == {"hidden2.sent.0", "hidden2.slope", "hidden2.feedback", "down1.now"}


# --- learning ---------------------------------------------------------------------------------------------------------


def learning(optimiser, update="step"):
    """The program of e-prop in a network some of whose synapses are missing."""
    net = Network(
        dt=1 * ms,
        cues=Input(4),
        rec=Population(3, lif()),
        out=Population(2, leaky_readout()),
        projections=[Projection("cues", "rec", mask=0.5), Projection("rec", "out")],
    )
    values = net.draw(0)
    return online(net, values, plan(net, eprop(update=update), mse()), record=["out.output"], learned=LEARNED,
                  optimiser=optimiser, masks=values.masks)[0]  # fmt: skip


LEARNED = ["cues_rec.weight", "rec_out.weight"]


def test_a_step_without_an_error_leaves_out_what_is_made_of_it():
    program = learning(sgd(0.1), "trial")
    found = with_zeros(program.step, ["(loss).weight"], program.arrays)
    gone = {n for s in program.step for n in writes(s)} - {n for s in found for n in writes(s)}
    assert gone == {"out.learn.error", "out.learn.lure", "rec.learn.L", "cues_rec.gradient", "rec_out.gradient"}
    assert with_zeros(program.step, [], program.arrays) == program.step


def test_weights_stay_where_the_optimiser_says_so():
    """Gradient descent changes nothing without a gradient, whatever is masked; Adam goes on with its memory."""
    for optimiser, changed in ((sgd(0.1), set()), (adam(0.1), {*LEARNED, *MEMORY})):
        program = at_once(learning(optimiser))
        found = with_zeros(program.step, ["(loss).weight"], program.arrays)
        assert {n for s in found for n in writes(s) if program.arrays[n].life is Life.LEARNED} == changed


MEMORY = {f"{name}.optimiser.{key}" for name in ("cues_rec", "rec_out") for key in "ms"}


def test_what_is_added_to_nothing_is_set():
    """The first of two that send to a target is silent: the second does not add to what an earlier step has left."""
    arrays = {n: Array(n, "a", life) for n, life in (("x", Life.GIVEN), ("y", Life.GIVEN), ("into", Life.STEP))}
    sends = [Send("ab", "x", "into", "w", add=False), Send("ab", "y", "into", "w")]
    assert with_zeros(sends, ["x"], arrays) == (Send("ab", "y", "into", "w", add=False),)
    assert with_zeros(sends, ["y"], arrays) == (sends[0],)


def test_one_trial_needs_no_sums():
    program = learning(adam(0.1))
    found = at_once(program)
    assert not found.of(Life.SUM) and not any(isinstance(s, Every) for s in found.step)
    adding = [n for s in found.step for n in getattr(s, "adds", ()) if found.arrays[n].life is not Life.SEEN]
    assert not adding and program.of(Life.SUM)
    spaces = {n for n, x in found.spaces.items() if isinstance(x, Synapses)}
    groups = [g for g in fuse(found.step) if isinstance(g.body[0], Map) and g.body[0].space in spaces]
    assert [len(g.body) for g in groups] == [2, 2], "traces and optimiser share a loop"


def test_products_of_rates_become_numbers_of_synapses():
    net = layered((4, 3, 2), latent_equilibrium(), latent_equilibrium_output())
    values = net.draw(0)
    options = {"learned": [f"{p.name}.weight" for p in net.plastic], "optimiser": sgd(0.1), "masks": values.masks}
    program, _ = online(net, values, plan(net, dendritic(), mse()), **options)
    assert any(isinstance(s, Outer) for s in program.step)
    assert not any(isinstance(s, Outer) for s in at_once(program).step)


def test_what_all_trials_share_is_a_loop_of_its_own():
    step = [Map("a", (), (("a.x", at("a.y")),)), Map("a", (), (("a.p", at("a.p") * 2),))]
    assert len(fuse(step)) == 1 and [g.key for g in fuse(step, {"a.p"})] == [("neurons", "a"), ("common", "a")]
