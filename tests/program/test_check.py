"""The checker of step programs finds what would give wrong numbers without a sign: one planted error for each rule."""

import dataclasses

import pytest
import sympy
from brian2 import ms

from localplast.models import alif, leaky_readout, lif
from localplast.network import Input, Network, Population, Projection, axonal, normal
from localplast.program.adjoint import adjoint
from localplast.program.arrays import Array, Life, at
from localplast.program.check import ProgramError
from localplast.program.forward import forward
from localplast.program.instructions import Every, Fire, Map, Outer, Send
from localplast.program.program import Program


@pytest.fixture(scope="module")
def programs():
    """A network's program, and the two of its adjoint."""
    net = Network(
        dt=1 * ms, cues=Input(9), a=Population(7, alif(beta=0.3)), b=Population(7, lif()),
        out=Population(2, leaky_readout()),
        projections=[
            Projection("cues", "a", weight=normal(2.0)), Projection("a", "a", delay=axonal(3 * ms)),
            Projection("a", "b"), Projection("b", "out"),
        ],
    )  # fmt: skip
    program = forward(net, net.draw(0), record=["out.output"])
    return {"plain": program, **dict(zip(("forward", "backward"), adjoint(program, ["a_a.weight"]), strict=True))}


def place(program, kind, which=lambda s: True):
    """The number of the first statement of a kind."""
    return next(k for k, s in enumerate(program.step) if isinstance(s, kind) and which(s))


def changed(program, number, **changes):
    s = dataclasses.replace(program.step[number], **changes)
    return [*program.step[:number], s, *program.step[number + 1 :]]


def added(program, *statements, arrays=()):
    return program.with_step([*program.step, *statements], arrays)


def update(program):
    """The number of the update of population ``a``."""
    return place(program, Map, lambda s: s.space == "a" and s.lets)


def a_let_called_as_an_array_is(p):
    k = update(p)
    (old, e), *rest = p.step[k].lets
    lines = tuple((n, x.xreplace({at(old): at("a.a")})) for n, x in p.step[k].lines)
    return p.with_step(changed(p, k, lets=(("a.a", e), *rest), lines=lines))


def a_let_used_before_it_is_given(p):
    k = update(p)
    lets = p.step[k].lets
    return p.with_step(changed(p, k, lets=(("a.early", at(lets[0][0])), *lets)))


def a_name_that_nobody_declared(p):
    return added(p, Map("a", (), (("a.v", at("a.w")),)))


def a_map_that_reads_another_population(p):
    return added(p, Map("a", (), (("a.v", at("b.v")),)))


def a_map_that_sets_another_population(p):
    return added(p, Map("a", (), (("b.v", at("a.v")),)))


def a_send_to_the_wrong_end(p):
    return p.with_step(changed(p, place(p, Send, lambda s: s.link == "b_out"), target="a.v.arrived"))


def the_weights_of_another_link(p):
    return p.with_step(changed(p, place(p, Send, lambda s: s.link == "b_out"), weight="a_b.weight"))


def a_line_between_populations(p):
    return p.with_step(changed(p, place(p, Send, lambda s: s.link == "a_b"), weight=None))


def a_state_declared_as_a_value_of_the_step(p):
    of_step = dataclasses.replace(p.arrays["a.v"], life=Life.STEP)
    return Program(p.spaces, {**p.arrays, "a.v": of_step}, p.step)


def a_threshold_before_its_refractoriness(p):
    k = place(p, Fire)
    return p.with_step([p.step[k], *p.step[:k], *p.step[k + 1 :]])


def a_box_that_nobody_has_read(p):
    k = place(p, Send, lambda s: s.link == "a_a")
    return p.with_step(changed(p, k, add=False))


def a_number_of_all_trials_from_one_of_them(p):
    return added(p, Map("a", (), (("mean", at("a.v")),)), arrays=[Array("mean", "a", Life.STATE, trial=False)])


def a_sum_that_is_set(p):
    return added(p, Map("a", (), (("total", sympy.Integer(0)),)), arrays=[Array("total", "a", Life.SUM, trial=False)])


def a_parameter_that_is_set(p):
    return added(p, Map("a", (), (("a.tau_mem", at("a.v")),)))


def an_input_that_is_set(p):
    return added(p, Map("cues", (), (("cues.given", sympy.Integer(1)),)))


def a_weight_that_changes_at_any_time(p):
    arrays = [dataclasses.replace(p.arrays["a_a.weight"], life=Life.LEARNED)]
    return added(p, Map("a_a", (), (("a_a.weight", at("a_a.weight") / 2),)), arrays=arrays)


def a_weight_that_changes_at_the_end_of_a_trial(p):
    arrays = [dataclasses.replace(p.arrays["a_a.weight"], life=Life.LEARNED)]
    return added(p, Every("trial", (Map("a_a", (), (("a_a.weight", at("a_a.weight") / 2),)),)), arrays=arrays)


def a_parameter_that_an_update_sets(p):
    return added(p, Every(1, (Map("a", (), (("a.tau_mem", at("a.tau_mem") / 2),)),)))


def a_weight_set_from_one_trial(p):
    arrays = [dataclasses.replace(p.arrays["a_a.weight"], life=Life.LEARNED)]
    return added(p, Every(1, (Map("a_a", (), (("a_a.weight", at("a.v", "pre")),)),)), arrays=arrays)


def a_synapse_that_reads_the_wrong_neuron(p):
    trace = Array("a_b.trace", "a_b", Life.STATE)
    return added(p, Map("a_b", (), (("a_b.trace", at("a.psi", "post")),)), arrays=[trace])


PLANTED = {
    a_let_called_as_an_array_is: "a.a is an array, and a let",
    a_let_used_before_it_is_given: "is used before it is given",
    a_name_that_nobody_declared: "a.w is not declared",
    a_map_that_reads_another_population: "reads b.v, which lives on b",
    a_map_that_sets_another_population: "sets b.v, which lives on b",
    a_send_to_the_wrong_end: "a.v.arrived lives on a, not on out",
    the_weights_of_another_link: "a_b.weight lives on a_b, not on b_out",
    a_weight_that_changes_at_the_end_of_a_trial: "sets a_a.weight, which changes when an update is due only",
    a_parameter_that_an_update_sets: "sets a.tau_mem, which is fixed",
    a_weight_set_from_one_trial: "a_a.weight is common to all trials, and is set from a.v",
    a_line_between_populations: "a line without weights",
    a_state_declared_as_a_value_of_the_step: "reads a.v, of this step, before it is set",
    a_threshold_before_its_refractoriness: "reads a.not_refractory, of this step, before it is set",
    a_box_that_nobody_has_read: "sets a.v.arrived again, which nobody has read",
    a_number_of_all_trials_from_one_of_them: "mean is common to all trials, and is set from a.v",
    a_sum_that_is_set: "sets total, a sum, which is added to only",
    a_parameter_that_is_set: "sets a.tau_mem, which is fixed",
    an_input_that_is_set: "sets cues.given, which is given",
    a_weight_that_changes_at_any_time: "sets a_a.weight, which changes when an update is due only",
    a_synapse_that_reads_the_wrong_neuron: "reads a.psi@post, which lives on a",
}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda f: f.__name__)
def test_every_planted_error_is_found(plant, programs):
    with pytest.raises(ProgramError, match=PLANTED[plant].replace(".", r"\.")):
        plant(programs["plain"])


def test_a_history_is_not_read_by_who_keeps_it(programs):
    kept = next(a.name for a in programs["forward"].of(Life.HISTORY) if a.space == "a")
    with pytest.raises(ProgramError, match="reads the history"):
        added(programs["forward"], Map("a", (), (("a.v", at(kept)),)))


def test_the_ends_of_a_synapse_can_be_read(programs):
    trace = Array("a_b.trace", "a_b", Life.STATE)
    lines = (("a_b.trace", at("a.psi", "pre") * at("b.psi", "post") + at("a_b.trace")),)
    assert added(programs["plain"], Map("a_b", (), lines), arrays=[trace])


def test_an_outer_product_fits_its_link(programs):
    program = programs["backward"]
    with pytest.raises(ProgramError, match="d_b.z lives on b, not on a"):
        program.with_step(changed(program, place(program, Outer), pre="d_b.z"))


def test_an_update_that_is_due_sets_weights(programs):
    p = programs["plain"]
    learned = [dataclasses.replace(p.arrays["a_a.weight"], life=Life.LEARNED)]
    assert added(p, Every(3, (Map("a_a", (), (("a_a.weight", at("a_a.weight") / 2),)),)), arrays=learned)
