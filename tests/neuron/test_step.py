"""The step map: what Brian2 integrates, its Jacobian, and what cannot be integrated."""

from dataclasses import replace

import numpy as np
import pytest
import sympy
import torch
from brian2 import NeuronGroup, defaultclock, ms, mV, nS

import localplast.models
from localplast.backends.brian2.learner import block_for
from localplast.backends.brian2.session import session
from localplast.backends.torch.step import Twin, leaves
from localplast.equations.language import symbol
from localplast.equations.tape import Tape
from localplast.errors import ModelError
from localplast.models import alif, cuba_lif, lif
from localplast.network import Input, Network, Population, Projection
from localplast.neuron import NeuronModel
from localplast.neuron.step import check_integration, jacobian, lower
from localplast.task import Trials

METHODS = ["exact", "exponential_euler", "euler", "rk2", "rk4", "heun"]


def linear(method="exact", refractory="tau_ref"):
    """Three coupled linear variables, one of them clamped, and an input."""
    return NeuronModel(
        name="linear", method=method, refractory=refractory, threshold="v > 1", reset="v = 0",
        equations=f"""
            dv/dt = (-v + 0.5*u + I)/tau_v : 1 {'(unless refractory)' if refractory else ''}
            du/dt = (-u + 0.3*s)/tau_u : 1
            ds/dt = -s/tau_s : 1
            I : 1
        """,
        parameters={"tau_v": 10 * ms, "tau_u": 17 * ms, "tau_s": 5 * ms, "tau_ref": 3 * ms},
    )  # fmt: skip


def nonlinear(method="rk4"):
    """A model with every awkward function: subexpression, abs, clip, int, power, and a discrete map."""
    return NeuronModel(
        name="nonlinear", method=method,
        equations="""
            dv/dt = (-v + gate*u + 0.2*clip(u, -0.4, 0.4) + I)/tau_v : 1
            du/dt = (-u + tanh(2*v) + 0.1*v**2)/tau_u : 1
            gate = 1/(1 + exp(-u)) : 1
            I : 1
            m : 1
        """,
        update="m = 0.9*m + abs(v)*int(u > 0.1)",
        parameters={"tau_v": 10 * ms, "tau_u": 17 * ms}, output="v",
    )  # fmt: skip


def conditionally_linear():
    """``exponential_euler`` wants each equation linear in its own variable."""
    return NeuronModel(
        name="conductance", method="exponential_euler",
        equations="""
            dv/dt = (v_rest - v + g/g_leak*(v_e - v))/tau_v : volt
            dg/dt = (-g + g_leak*tanh(v/v_scale))/tau_g : siemens
        """,
        parameters={"tau_v": 10 * ms, "tau_g": 5 * ms, "v_rest": -60 * mV, "v_e": 0 * mV, "g_leak": 10 * nS, "v_scale": 10 * mV},
    )  # fmt: skip


CASES = [
    *(linear(m) for m in METHODS), *(nonlinear(m) for m in METHODS if m not in ("exact", "exponential_euler")),
    conditionally_linear(), *(getattr(localplast.models, name)() for name in localplast.models.__all__),
]  # fmt: skip
NAMES = [f"{m.name}-{m.method}" for m in CASES]
QUIET = [m for m in CASES if m.odes and not lower(m).noise]


def numbers(model, ready=1.0, seed=0):
    """Parameters and a random state of a model, in SI units, each in the size of a typical value."""
    step, rng = lower(model), np.random.default_rng(seed)
    typical = {mV.dim: 1e-2, nS.dim: 1e-8}
    size = {n: typical.get(model.dimensions[n], 1.0) for n in step.state + step.inputs}
    state = {n: size[n] * rng.uniform(0.15, 1.0, 5) * rng.choice([-1, 1], 5) for n in step.state + step.inputs}
    constants = {k: float(v) for k, v in model.parameters.items()} | {"dt": 1e-3, "not_refractory": ready}
    constants |= dict.fromkeys(step.noise, 0.3)
    return constants, state


def advance(model, constants, state):
    return Tape(lower(model).outputs, constants)(state)


@pytest.mark.parametrize("ready", [1.0, 0.0])
@pytest.mark.parametrize("model", CASES, ids=NAMES)
def test_the_jacobian_is_the_difference_quotient(model, ready):
    step = lower(model)
    constants, state = numbers(model, ready)
    found = jacobian(step)
    tape = Tape(found.program + tuple((f"{r}/{c}", e) for (r, c), e in found.entries.items()), constants)
    entries = tape(state)
    for column in step.state + step.inputs:
        h = 1e-6 * np.abs(state[column])
        up = advance(model, constants, {**state, column: state[column] + h})
        down = advance(model, constants, {**state, column: state[column] - h})
        for row in step.state:
            quotient = np.broadcast_to((up[f"new_{row}"] - down[f"new_{row}"]) / (2 * h), 5)
            entry = np.broadcast_to(entries.get(f"{row}/{column}", 0.0), 5)
            scale = np.abs(np.asarray(up[f"new_{row}"])).max() / np.abs(state[column]).max()
            np.testing.assert_allclose(entry, quotient, rtol=1e-6, atol=1e-8 * scale, err_msg=f"d{row}/d{column}")


@pytest.mark.parametrize("ready", [1.0, 0.0])
@pytest.mark.parametrize("model", CASES, ids=NAMES)
def test_the_jacobian_is_what_autograd_finds(model, ready):
    as_autograd(model, jacobian(lower(model)), ready)


def as_autograd(model, found, ready=1.0):
    """Raise unless the Jacobian ``found`` has the entries that automatic differentiation finds."""
    step = lower(model)
    constants, state = numbers(model, ready)
    state = {n: torch.tensor(v, requires_grad=True) for n, v in state.items()}
    new = advance(model, {k: torch.tensor(v, dtype=torch.float64) for k, v in constants.items()}, state)
    entries = Tape(found.program + tuple((f"{r}/{c}", e) for (r, c), e in found.entries.items()), constants)(
        {n: v.detach().numpy() for n, v in state.items()}
    )
    for row in step.state:
        value = new[f"new_{row}"]
        grads = [None] * len(state)
        if isinstance(value, torch.Tensor) and value.requires_grad:
            grads = torch.autograd.grad(value.sum(), list(state.values()), allow_unused=True, retain_graph=True)
        for column, grad in zip(state, grads, strict=True):
            expected = np.zeros(5) if grad is None else grad.numpy()
            entry = np.broadcast_to(entries.get(f"{row}/{column}", 0.0), 5)
            atol = 1e-14 * max(1, np.abs(expected).max())
            np.testing.assert_allclose(entry, expected, rtol=1e-9, atol=atol, err_msg=f"d{row}/d{column}")


@pytest.mark.parametrize("make", [linear, nonlinear, conditionally_linear])
def test_a_wrong_jacobian_is_noticed(make):
    """The comparison above fails for every entry that is a millionth off, missing, or in the place of another."""
    model = make()
    right = jacobian(lower(model))
    as_autograd(model, right)
    for place, entry in right.entries.items():
        for wrong in ({place: entry * (1 + sympy.Float(1e-6))}, {place: sympy.Integer(0)}, {place: entry + 1}):
            with pytest.raises(AssertionError, match=f"d{place[0]}/d{place[1]}"):
                as_autograd(model, replace(right, entries={**right.entries, **wrong}))
    turned = {(column, row): entry for (row, column), entry in right.entries.items()}
    with pytest.raises(AssertionError):
        as_autograd(model, replace(right, entries=turned))


def test_a_linear_model_has_a_constant_jacobian():
    found = jacobian(lower(linear(refractory=None)))
    varying = {symbol(n) for n in ("v", "u", "s", "I")}
    assert found.program == ()
    assert not any(e.free_symbols & varying for e in found.entries.values())
    assert ("s", "v") not in found.entries and ("v", "s") in found.entries
    assert jacobian(lower(lif())).entries == {("v", "v"): sympy.exp(-symbol("dt") / symbol("tau_mem"))}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("model", QUIET, ids=[f"{m.name}-{m.method}" for m in QUIET])
def test_the_step_is_the_one_that_brian2_takes(model):
    """One step of a native NeuronGroup, with Brian2's own state updater, from the same state."""
    import brian2 as b2

    constants, state = numbers(model)
    b2.start_scope()
    defaultclock.dt = 1 * ms
    before, b2.prefs.codegen.target = b2.prefs.codegen.target, "numpy"
    try:
        group = NeuronGroup(5, model.equations, method=model.method, refractory=False, namespace=model.parameters)
        for name, value in state.items():
            setattr(group, f"{name}_", value)
        b2.Network(group).run(1 * ms)
    finally:
        b2.prefs.codegen.target = before
    ours = advance(model, constants, state)
    for name in model.odes:
        np.testing.assert_allclose(ours[f"new_{name}"], getattr(group, f"{name}_")[:], rtol=1e-12, atol=1e-18)


def test_what_a_step_map_holds():
    step = lower(cuba_lif())
    assert step.state == ("v", "I") and step.inputs == ()
    assert step.spike_argument == symbol("v") - symbol("v_th") and step.strict
    assert step.reset == {"v": symbol("v_rest")} and step.adaptation == {}
    step = lower(nonlinear())
    assert step.state == ("v", "u", "m") and step.inputs == ("I",)
    assert step.spike_argument is None and step.output == symbol("v")
    assert symbol("gate") not in set().union(*(e.free_symbols for _, e in step.outputs)), "subexpressions are expanded"
    assert lower(alif()) is lower(alif()), "a model is lowered once"


def test_variables_are_kept_in_the_order_in_which_they_are_written():
    """Generated programs and records must not depend on the hashes of names, which change from process to process."""
    equations = "\n".join(f"d{name}/dt = -{name}/tau : 1" for name in ("v", "zeta", "a", "q", "b"))
    model = NeuronModel(name="ordered", equations=equations, parameters={"tau": 5 * ms}, method="euler")
    assert model.odes == lower(model).state == ("v", "zeta", "a", "q", "b")


def test_each_name_is_assigned_once():
    for model in CASES:
        names = [name for name, _ in lower(model).outputs]
        assert len(names) == len(set(names))


def test_resets_run_in_order():
    model = NeuronModel(
        name="m", equations="dv/dt = -v/tau : 1\n du/dt = -u/tau : 1", threshold="v > 1", reset="v = 2*u; u = v + 1",
        parameters={"tau": 5 * ms},
    )  # fmt: skip
    assert lower(model).reset == {"v": 2 * symbol("u"), "u": 2 * symbol("u") + 1}


def test_a_reset_and_an_adaptation_that_share_a_variable_are_refused():
    model = NeuronModel(
        name="shared", equations="dv/dt = -v/tau : 1", threshold="v > 1", reset="v = 0", adaptation="v += 1",
        parameters={"tau": 5 * ms},
    )  # fmt: skip
    with pytest.raises(
        ModelError, match=r"shared: the adaptation uses \['v'\], which the reset assigns; put these statements"
    ):
        lower(model)


# ---------------------------------------------------------------------------------------------- exact integration


def pair(forth, back):
    """Two variables with one leak that drive each other."""
    return NeuronModel(
        name="pair", equations="dv/dt = (forth*u - v)/tau : 1\n du/dt = (back*v - u)/tau : 1", output="v",
        parameters={"tau": 10 * ms, "forth": forth, "back": back},
    )  # fmt: skip


@pytest.mark.parametrize("forth, back", [(1e9, 1e9), (1e9, 1.0)])
def test_an_exact_integration_without_a_number_is_refused_by_both_backends(forth, back):
    model = pair(forth, back)
    net = Network(
        dt=1 * ms, cues=Input(1), two=Population(3, model), projections=[Projection("cues", "two", weight=1.0)]
    )
    values, trials = net.draw(0), Trials({"cues": np.zeros((1, 5, 1), bool)})
    message = r"population 'two': the exact integration of pair gives no number for v.* parameters: a coefficient .* change them, or dt"
    with pytest.raises(ModelError, match=message):
        Twin(net, leaves(net, values), values.masks)
    with pytest.raises(ModelError, match=message):
        session("numpy", net, values, block_for(net, trials, values), trials)
    check_integration("two", lower(model), {"tau": 0.01, "forth": 1.0, "back": 1.0}, 1 * ms)


def test_a_method_that_cannot_integrate_is_refused():
    with pytest.raises(
        ModelError, match="curved: method 'exact' cannot integrate these equations .* try .*'exponential_euler'"
    ):
        lower(NeuronModel(name="curved", equations="dv/dt = -v**2/tau : 1", parameters={"tau": 5 * ms}))


@pytest.mark.parametrize("function", ["floor", "sign", "int", "ceil"])
def test_what_is_constant_in_pieces_has_no_slope(function):
    step = lower(NeuronModel(
        name="stairs", equations=f"dv/dt = (-v + {function}(v))/tau : 1", parameters={"tau": 5 * ms}, method="euler"
    ))  # fmt: skip
    tau, dt = symbol("tau"), symbol("dt")
    assert sympy.expand(jacobian(step).entries["v", "v"] - (1 - dt / tau)) == 0
