"""Exact integration where variables drive each other: against the exponential in forty digits, and between engines."""

import itertools

import mpmath
import numpy as np
import pytest
import sympy
import torch
from brian2 import ms

import localplast as lp
from localplast import ModelError, NeuronModel
from localplast.backends.c.function import NetworkFunction
from localplast.backends.torch.step import Twin, leaves, simulate
from localplast.equations.expressions import to_sympy
from localplast.equations.language import read, symbol
from localplast.equations.matrix_exp import LARGEST_SIZE, matrix_exp, value
from localplast.equations.tape import Tape
from localplast.equations.text import to_text
from localplast.neuron.step import jacobian, lower
from localplast.rules import bptt, eprop

RTOL = 1e-13


def in_high_precision(matrix):
    with mpmath.workdps(max(60, mpmath.mp.dps + 20)):  # mpmath asks for more where it differentiates
        return mpmath.expm(mpmath.matrix(matrix), method="taylor")


# ------------------------------------------------------------------------------------------------------ the function

MATRICES = {
    "zero": [[0, 0], [0, 0]],
    "apart": [[-0.1, 0], [0, -0.2]],
    "equal roots": [[-0.1, 0.05], [-0.05, -0.2]],
    "weak": [[-0.1, 1e-12], [1e-8, -0.1]],
    "oscillates": [[-0.1, -3], [40, -0.2]],
    "pulled together": [[-1e4, 1e4], [1e4, -1e4]],
    "fast and slow": [[-1e4, 1e4], [0.1, -0.1]],
    "both fast": [[-25, 0.1], [0.1, -27]],
    "in volt and ampere": [[-0.1, -1e7], [1e-10, -0.2]],
    "grows": [[0.5, 6], [6, -0.5]],
    "one way among three": [[-0.1, 0.3, 0], [0.2, -0.1, 1e6], [0, 0, -0.1]],
    "circle of three": [[-0.1, 0, 2], [2, -0.1, 0], [0, 2, -0.1]],
}


@pytest.mark.parametrize("name", MATRICES)
def test_entries_are_those_of_the_exponential(name):
    matrix = np.array(MATRICES[name], float)
    size, expected = len(matrix), in_high_precision(MATRICES[name])
    tensors = [torch.tensor(e, dtype=torch.float64) for e in matrix.ravel()]
    single = [t.float() for t in tensors]
    scale = max(abs(e) for e in expected)
    # no number is known better than to a rounding of the fastest rate: how machines order a product decides about that
    # much
    rtol = max(RTOL, np.finfo(float).eps * np.abs(np.linalg.eigvals(matrix)).max())
    for i, j in itertools.product(range(size), repeat=2):
        # a neuron whose own decay leaves nothing of a step is known against what it hears of the slow one
        known = {"rtol": rtol, "atol": 1e-15 * float(scale) if name == "fast and slow" else 0}
        np.testing.assert_allclose(value(np, size, i, j, *matrix.ravel()), float(expected[i, j]), **known)
        np.testing.assert_allclose(value(torch, size, i, j, *tensors), float(expected[i, j]), **known)
        if np.abs(matrix).max() < 1e3:
            np.testing.assert_allclose(value(torch, size, i, j, *single), float(expected[i, j]), rtol=1e-4)


def test_neurons_side_by_side_do_not_disturb_each_other():
    names = ("weak", "equal roots", "oscillates", "pulled together")
    chosen = [np.array(MATRICES[name], float).ravel() for name in names]
    together = value(np, 2, 0, 1, *np.array(chosen).T)
    alone = [value(np, 2, 0, 1, *entries) for entries in chosen]
    np.testing.assert_allclose(together[:-1], alone[:-1], rtol=RTOL)
    assert together[-1] == pytest.approx(alone[-1], rel=1e-11)  # known to 4e-12, see above


def test_what_is_not_a_number_stays_none():
    for entry in (np.nan, np.inf):
        with np.errstate(invalid="ignore"):
            assert not np.isfinite(value(np, 2, 0, 0, entry, 1.0, 1.0, 0.0))


A, B = symbol("a"), symbol("b")
MOVING = matrix_exp(2, 0, 1, -A, B, -A * B, A**2 - 1)


def moving(a, b):
    return in_high_precision([[-a, b], [-a * b, a**2 - 1]])[0, 1]


@pytest.mark.parametrize("a, b", [(0.5, 0.25), (0.5, 0.0), (1.0, 1.0), (0.25, 9.0), (1e-9, 1e-9)])
def test_derivatives_are_of_the_same_kind_and_right(a, b):
    at = {"a": np.float64(a), "b": np.float64(b)}
    tensors = {n: torch.tensor(float(v), dtype=torch.float64, requires_grad=True) for n, v in at.items()}
    slopes = torch.autograd.grad(Tape([("out", MOVING)])(tensors)["out"], list(tensors.values()))
    automatic = dict(zip("ab", slopes, strict=True))
    with mpmath.workdps(30):
        for orders, names in {(1, 0): "a", (0, 1): "b", (2, 0): "aa", (1, 1): "ab"}.items():
            expected = float(mpmath.diff(moving, (mpmath.mpf(a), mpmath.mpf(b)), orders))
            found = Tape([("out", sympy.diff(MOVING, *(symbol(n) for n in names)))])(at)["out"]
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
            if len(names) == 1:
                np.testing.assert_allclose(automatic[names].item(), expected, rtol=1e-12, atol=1e-15)


def test_text_and_back():
    assert read(to_text(MOVING)) == MOVING
    assert to_sympy("matrix_exp7(2, 0, 1, a, b, b, a)") == matrix_exp(2, 0, 1, A, B, B, A)
    assert sympy.diff(matrix_exp(2, 0, 1, A, 1, 1, A), B) == 0


# ---------------------------------------------------------------------------------------------------------- one step

#: A synapse drives a loop, a readout listens to it; a bias is constant.
LOOP = """
    dv/dt = (-v + k*u + bias)/ta : 1
    du/dt = (-u + b*v + y)/tb : 1
    dy/dt = -y/tc : 1
    dh/dt = (v - h)/ta : 1
"""
GIVEN = {"k": 0.7, "b": 0.5, "bias": 0.3, "ta": 10e-3, "tb": 5e-3, "tc": 5e-3}
START = {"v": 0.4, "u": 1.2, "y": 2.0, "h": 0.1}
MEETING = -0.25  # k*b = -ta*tb*((1/ta - 1/tb)/2)**2: both roots are equal
COUPLINGS = [0.0, 1e-12, -1e-12, 1e-8, -1e-8, 1e-3, -1e-3, 0.7, MEETING, MEETING + 1e-9, -3.0, 200.0, -200.0]


def loop_matrix(k, b, bias, ta, tb, tc, ready=1):
    """Of v, u, y, h and the constant."""
    v = [-ready / ta, ready * k / ta, 0, 0, ready * bias / ta]
    return [v, [b / tb, -1 / tb, 1 / tb, 0, 0], [0, 0, -1 / tc, 0, 0], [1 / ta, 0, 0, -1 / ta, 0], [0] * 5]


def stepped(matrix, start, dt=1e-3):
    """The state after a step; 1 stands for the constant at the end of ``start``."""
    matrix = mpmath.matrix(matrix) * mpmath.mpf(dt)
    return in_high_precision(matrix) * mpmath.matrix([*start.values(), 1])


def loop(equations=LOOP, parameters=GIVEN, **options):
    given = {n: p * 1e3 * ms if n.startswith("t") else p for n, p in parameters.items()}
    return NeuronModel(name="loop", equations=equations, parameters=given, output="v", **{"receives": "v", **options})


def exact_values(names=START, **changed):
    found = stepped(loop_matrix(**{n: mpmath.mpf(v) for n, v in {**GIVEN, **changed}.items()}), START)
    return dict(zip(names, found, strict=False))


def test_a_step_is_the_matrix_exponential_at_every_coupling():
    names = {**GIVEN, "k": np.array(COUPLINGS), "dt": 1e-3}
    found = Tape(lower(loop()).outputs, names)(START)
    for place, k in enumerate(COUPLINGS):
        for name, expected in exact_values(k=k).items():
            here = np.broadcast_to(found[f"new_{name}"], len(COUPLINGS))[place]
            np.testing.assert_allclose(here, float(expected), rtol=RTOL)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("parameter", ["k", "ta"])
def test_its_slope_in_a_parameter_is_right_at_every_coupling(parameter):
    step = lower(loop())
    slopes = jacobian(step, parameter)
    program = [*slopes.program, *((row, e) for (row, _), e in slopes.entries.items())]
    names = {**GIVEN, "k": np.array(COUPLINGS), "dt": 1e-3, **{n: np.float64(s) for n, s in START.items()}}
    found = Tape(program)(names)
    assert {row for row, _ in slopes.entries} == {"v", "u", "h"}
    for place, k in enumerate(COUPLINGS):
        at = {**GIVEN, "k": k}
        with mpmath.workdps(30):
            for row in ("v", "u", "h"):
                expected = mpmath.diff(lambda p: exact_values(**{**at, parameter: p})[row], mpmath.mpf(at[parameter]))
                here = np.broadcast_to(found[row], len(COUPLINGS))[place]
                np.testing.assert_allclose(here, float(expected), rtol=1e-11)


@pytest.mark.parametrize("ready", [0, 1])
def test_a_clamped_variable_breaks_the_loop(ready):
    clamped = LOOP.replace("/ta : 1\n    du", "/ta : 1 (unless refractory)\n    du")
    model = loop(clamped, threshold="v > 9", reset="v = 0", refractory=3 * ms)
    constants = {**GIVEN, "tau_ref": 3e-3, "dt": 1e-3, "not_refractory": np.float64(ready)}
    found = Tape(lower(model).outputs, constants)({n: np.float64(s) for n, s in START.items()})
    with mpmath.workdps(60):
        expected = stepped(loop_matrix(*map(mpmath.mpf, GIVEN.values()), ready=ready), START)
    for name, number in zip(START, expected, strict=False):
        np.testing.assert_allclose(found[f"new_{name}"], float(number), rtol=RTOL)


#: Equations, their matrix with the constant last, from parameters c and g in 1/ms.
OTHERS = {
    "oscillator without decay": ("dv/dt = c*u/ms : 1\n du/dt = -c*v/ms : 1", lambda c, g: [[0, c, 0], [-c, 0, 0]]),
    "leak that may vanish": (
        "dv/dt = (0.3 - g*v)/ms : 1\n du/dt = -c*u/ms : 1", lambda c, g: [[-g, 0, 0.3], [0, -c, 0]],
    ),
    "no leak": ("dv/dt = c/ms : 1\n du/dt = 0/ms : 1", lambda c, g: [[0, 0, c], [0, 0, 0]]),
    "ladder": (
        "dv/dt = (g*(u - v) - c*v)/ms : 1\n du/dt = (g*(v - u) + g*(y - u) + 0.3)/ms : 1\n dy/dt = g*(u - y)/ms : 1",
        lambda c, g: [[-g - c, g, 0, 0], [g, -2 * g, g, 0.3], [0, g, -g, 0]],
    ),
    "circle": (
        "dv/dt = (c*y - v)/ms : 1\n du/dt = (g*v - u)/ms : 1\n dy/dt = (-c*u - y)/ms : 1",
        lambda c, g: [[-1, 0, c, 0], [g, -1, 0, 0], [0, -c, -1, 0]],
    ),
    "two loops in a row": (
        "dv/dt = (g*u - v)/ms : 1\n du/dt = (-g*v - u)/ms : 1\n"
        "dy/dt = (c*h - y + u)/ms : 1\n dh/dt = (-c*y - h)/ms : 1",
        lambda c, g: [[-1, g, 0, 0, 0], [-g, -1, 0, 0, 0], [0, 1, -1, c, 0], [0, 0, -c, -1, 0]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_other_linear_systems(kind):
    equations, matrix = OTHERS[kind]
    grid = [(c, g) for c in (0.0, 1e-9, 0.5, 3.0) for g in (0.0, 1e-9, 0.5, 20.0)]
    step = lower(loop(equations, {"c": 1.0, "g": 1.0}))
    start = {n: s for n, s in START.items() if n in step.model.odes}
    c, g = np.array(grid).T
    found = Tape(step.outputs, {"c": c, "g": g, "dt": 1e-3})(start)
    for place, (c, g) in enumerate(grid):
        rows = matrix(mpmath.mpf(c), mpmath.mpf(g))
        expected = stepped([[e * 1000 for e in row] for row in [*rows, [0] * len(rows[0])]], start)
        for name, number in zip(start, expected, strict=False):
            here = np.broadcast_to(found[f"new_{name}"], len(grid))[place]
            np.testing.assert_allclose(here, float(number), rtol=RTOL, atol=1e-15)


# ----------------------------------------------------------------------------------------------------------- refusals


def ring(size):
    variables = [f"x{k}" for k in range(size)]
    lines = [f"d{x}/dt = ({variables[k - 1]} - {x})/tau : 1" for k, x in enumerate(variables)]
    return NeuronModel(name="ring", equations="\n".join(lines), parameters={"tau": 5 * ms}, output="x0", receives="x0")


def test_a_longer_loop_is_refused():
    assert "matrix_exp" in lower(ring(LARGEST_SIZE)).code
    message = (
        f"ring: method .exact. cannot integrate these equations \\({LARGEST_SIZE + 1} of its variables and constants "
        f".* at most {LARGEST_SIZE} may\\); try .exponential_euler."
    )
    with pytest.raises(ModelError, match=message):
        ring(LARGEST_SIZE + 1)


NOISES = [("xi*ta**-0.5", "stochastic"), ("rand()/ta", "not guaranteed to be constant")]


@pytest.mark.parametrize("drive, reason", NOISES)
def test_noise_is_refused_where_variables_drive_each_other_too(drive, reason):
    """Also in a chain, where it would be taken for a constant."""
    with pytest.raises(ModelError, match=f"loop: method 'exact' cannot integrate these equations .*{reason}"):
        loop(f"dv/dt = (u - v)/ta : 1\n du/dt = -u/tb + {drive} : 1")


# ----------------------------------------------------------------------------------------------------------- networks

PER_NEURON = [0.0, 1e-12, -1e-8, 1e-3, -3.0, 3.0, MEETING]


def network(k=PER_NEURON, learning=("k", "tb"), equations=LOOP, **options):
    learned = {"k": (-9.0, 9.0), "tb": (1 * ms, 50 * ms)}
    model = loop(equations, **{"receives": "y", **options})
    return lp.Network(
        dt=1 * ms, cues=lp.Input(12, "currents" if model.receives == "g" else "spikes"),
        out=lp.Population(len(k), model, {"k": np.array(k)}, trainable={n: learned[n] for n in learning}),
        projections=[lp.Projection("cues", "out", weight=lp.normal(1.0))],
    )  # fmt: skip


def trials(size=len(PER_NEURON), steps=40):
    rng = np.random.default_rng(0)
    return lp.Trials({"cues": rng.random((3, steps, 12)) < 0.1}, target=rng.normal(size=(3, steps, size)))


def gradients(rule, net=None, **options):
    found = lp.gradient(net or network(), trials(), rule, loss=lp.losses.mse(), **options)
    own = found["out"]
    learned = own["gradient_k"], own["gradient_tb"], found["cues_out"]["gradient"]
    return found.attrs["loss"], *(gradient.values for gradient in learned)


def test_backends_agree_on_states():
    net = network()
    ours, twin = (lp.run(net, trials(), record=["out.v", "out.h"], backend=b)["out"] for b in ("brian2", "torch"))
    for name in ("v", "h"):
        assert np.abs(twin[name].values).max(axis=(0, 1)).min() > 0.1
        np.testing.assert_allclose(ours[name].values, twin[name].values, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    "options", [{}, {"form": "traces"}, pytest.param({"backend": "brian2"}, marks=pytest.mark.thorough)]
)
def test_gradients_agree_with_those_through_time(options):
    for found, expected in zip(gradients(eprop(), **options), gradients(bptt()), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11 * np.abs(expected).max())


def test_gradients_are_difference_quotients_of_the_loss():
    def loss(k):
        return gradients(bptt(), network(k))[0]

    _, found, _, _ = gradients(bptt())
    for neuron in range(len(PER_NEURON)):
        moved = [loss(np.array(PER_NEURON) + h * np.eye(len(PER_NEURON))[neuron]) for h in (-2e-3, -1e-3, 1e-3, 2e-3)]
        quotient = (moved[0] - 8 * moved[1] + 8 * moved[2] - moved[3]) / 12e-3
        np.testing.assert_allclose(found[neuron], quotient, rtol=1e-9, atol=1e-9)


#: A conductance in the loop, as a graded input: the matrix changes from step to step.
OPEN = LOOP.replace("+ bias", "+ bias + g*(2 - v)").replace(" + y", "").replace("dy/dt = -y/tc : 1", "g : 1")


def test_brian2_plain_torch_and_the_kernel_agree_where_the_matrix_changes_in_every_step():
    net, rng = network(equations=OPEN, receives="g"), np.random.default_rng(1)
    values, names = net.draw(0), ["out.k", "out.tb", "cues_out.weight"]
    tensors = leaves(net, values, trainable=names)
    learned = [tensors[n] for n in names]
    inputs = {"cues": torch.as_tensor(rng.random((15, 3, 12)))}
    fused = NetworkFunction(net, {k: t.detach() for k, t in tensors.items()}, values.masks)
    outputs = {
        "plain": simulate(Twin(net, tensors, values.masks), inputs, ["out.v"])["out.v"],
        "kernel": fused({"cues_out": learned[2]}, inputs, dict(zip(names[:2], learned, strict=False)))["out.output"],
    }
    plain, kernel = ([o.detach(), *torch.autograd.grad((o**2).sum(), learned)] for o in outputs.values())
    for found, expected in zip(kernel, plain, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11 * float(expected.abs().max()))
    shown = lp.Trials({"cues": inputs["cues"].transpose(0, 1).numpy()}, target=np.zeros((3, 15, len(PER_NEURON))))
    ours = lp.run(net, shown, record=["out.v"], backend="brian2")["out"]["v"].values
    np.testing.assert_allclose(ours, plain[0].transpose(0, 1), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("backend", ["torch", "brian2"])
def test_learning_goes_through_equal_roots(backend):
    """The coupling learns from one side of the point at which both roots are equal to the other."""
    task = lp.Task("pass", lambda update, batch, seed: trials(1, 20), lambda n, seed: trials(1, 20))
    start = MEETING + 0.005
    net = network([start], ("k",), "dv/dt = (-v + k*u)/ta : 1\n du/dt = (-u + b*v)/tb : 1", receives="u")
    optimiser = lp.adam(5e-3).with_rates(**{"out.k": 1.0})
    options = {"target": "numpy"} if backend == "brian2" else {}
    options |= {"rule": eprop(), "loss": lp.losses.mse(), "optimiser": optimiser, "updates": 3, "batch": 3}
    record = lp.run(net, task, backend=backend, **options)
    assert abs(float(np.ravel(record["learned"]["out.k"].values)[-1]) - start) > 0.01
