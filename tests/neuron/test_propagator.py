"""Exact integration where time constants meet: against the matrix exponential, Brian2's own text, and difference
quotients.
"""

import mpmath
import numpy as np
import pytest
import sympy
import torch
from brian2 import ms, mV
from brian2.stateupdaters.base import StateUpdateMethod
from scipy.linalg import expm

import localplast as lp
from localplast import NeuronModel
from localplast.backends.c.function import NetworkFunction
from localplast.backends.torch.step import leaves
from localplast.equations.divided_exp import divided_exp, value
from localplast.equations.expressions import to_sympy
from localplast.equations.language import symbol
from localplast.equations.tape import Tape
from localplast.models import cuba_lif, leaky_readout, van_rossum_readout
from localplast.neuron.integration import known_to_integrator
from localplast.neuron.namespace import namespace
from localplast.neuron.step import lower
from localplast.rules import bptt, eprop

POINTS = [
    (0.0, 0.0), (0.0, 1e-9), (-1.0, -1.0 + 1e-7), (-3.0, 0.5), (0.3, -0.2, 0.3), (-0.1, -0.1, -0.1), (-9.0, -0.1, -0.1 + 1e-10),
    (0.0, -40.0, -40.0), (2.0, 0.0, 0.0, 1e-6), (-1.0, -1.0, -3.0, -3.0), (-1.0,) * 5, (5.0, -5.0, 0.0, 1.0, 1.0, 1.0),
]  # fmt: skip


def in_high_precision(points):
    """The quotients as they are defined, of points a hair apart, in two hundred digits."""
    with mpmath.workdps(200):
        points = [mpmath.mpf(p) + i * mpmath.mpf(10) ** -22 for i, p in enumerate(points)]
        others = [[p - q for q in points if q is not p] for p in points]
        return float(mpmath.fsum(mpmath.exp(p) / mpmath.fprod(apart) for p, apart in zip(points, others, strict=True)))


@pytest.mark.parametrize("points", POINTS)
def test_divided_differences_are_their_definition(points):
    expected = in_high_precision(points)
    np.testing.assert_allclose(value(np, *points), expected, rtol=5e-15)
    tensors = [torch.tensor(p, dtype=torch.float64) for p in points]
    np.testing.assert_allclose(value(torch, *tensors), expected, rtol=5e-15)
    single = [torch.tensor(p, dtype=torch.float32) for p in points]
    np.testing.assert_allclose(value(torch, *single), in_high_precision([float(p) for p in single]), rtol=1e-5)


def test_their_derivative_is_that_with_a_point_twice():
    x, y = symbol("x"), symbol("y")
    assert sympy.diff(divided_exp(x, y), x) == divided_exp(x, x, y)
    assert to_sympy("divided_exp2(x, y)") == divided_exp(y, x)
    tape = Tape([("out", divided_exp(x, y, 0))])
    tensors = {n: torch.tensor([0.0, -0.4, 3.0], dtype=torch.float64, requires_grad=True) for n in "xy"}
    found = torch.autograd.grad(tape(tensors)["out"].sum(), tensors["x"])[0]
    expected = [in_high_precision((p, p, p, 0.0)) for p in (0.0, -0.4, 3.0)]
    np.testing.assert_allclose(found, expected, rtol=1e-14)


CHAIN = "dv/dt = (-v + k*u + bias)/ta : 1\n du/dt = (-u + y)/tb : 1\n dy/dt = -y/tc : 1"
CLAMPED = CHAIN.replace("/ta : 1", "/ta : 1 (unless refractory)")


def chain(equations=CHAIN, **taus):
    taus = {"ta": 10 * ms, "tb": 10 * ms, "tc": 10 * ms, **taus}
    spiking = {"threshold": "v > 9", "reset": "v = 0", "refractory": "t_ref"} if "refractory" in equations else {}
    more = {"t_ref": 3 * ms} if spiking else {}
    parameters = {"k": 0.7, "bias": 0.3, **taus, **more}
    return NeuronModel(name="chain", equations=equations, parameters=parameters, output="v", **spiking)


MEETINGS = [(10, 10, 10), (10, 10 + 1e-9, 10), (10, 5, 10), (20, 5, 5), (20, 10, 5), (3, 3 - 1e-6, 7), (1e-2, 5, 5)]


@pytest.mark.parametrize("taus", MEETINGS)
def test_a_step_is_the_matrix_exponential(taus):
    ta, tb, tc = (t * 1e-3 for t in taus)
    drift = np.array([[-1 / ta, 0.7 / ta, 0, 0.3 / ta], [0, -1 / tb, 1 / tb, 0], [0, 0, -1 / tc, 0], [0, 0, 0, 0]])
    start = {"v": np.float64(0.4), "u": np.float64(-1.2), "y": np.float64(2.0)}
    constants = {"k": 0.7, "bias": 0.3, "ta": ta, "tb": tb, "tc": tc, "dt": 1e-3}
    found = Tape(lower(chain()).outputs, constants)(start)
    expected = expm(drift * 1e-3) @ [*start.values(), 1.0]
    np.testing.assert_allclose([found[f"new_{n}"] for n in start], expected[:3], rtol=1e-13)


APART = [chain(tb=7 * ms, tc=3 * ms), chain(CLAMPED, tb=7 * ms, tc=3 * ms), cuba_lif(), van_rossum_readout()]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("model", APART)
@pytest.mark.parametrize("ready", [0.0, 1.0])
def test_away_from_there_a_step_is_that_of_brian2(model, ready):
    code = StateUpdateMethod.apply_stateupdater(
        model.parsed, known_to_integrator(model, namespace(model)), "exact", group_name="g"
    )
    constants = {n: float(v) for n, v in model.parameters.items()}
    names, rng = {**constants, "dt": 1e-3, "not_refractory": np.float64(ready)}, np.random.default_rng(0)
    start = {n: rng.normal() for n in lower(model).state}
    written = [line.split(" = ", 1) for line in code.splitlines()]
    expected = Tape([(n, to_sympy(text)) for n, text in written if n.startswith("_")], {**names, **start})({})
    found = Tape(lower(model).outputs, {**names, **start})({})
    for n in start:
        np.testing.assert_allclose(found[f"new_{n}"], expected[f"_{n}"], rtol=1e-12, atol=1e-15)


# ----------------------------------------------------------------------------------------------------------- learning


def network(taus, *, size=6, readout=None, trainable=True):
    """Neurons whose membranes decay in ``taus`` (ms, one or several), and synapses in 5 ms."""
    given = {"tau_mem": np.broadcast_to(np.asarray(taus, float), size) * ms}
    learned = {"tau_mem": (2 * ms, 50 * ms)} if trainable else {}
    return lp.Network(
        dt=1 * ms, cues=lp.Input(20), out=lp.Population(2, readout or leaky_readout()),
        rec=lp.Population(size, cuba_lif(tau_syn=5 * ms, width=10 * mV), given, trainable=learned),
        projections=[lp.Projection("cues", "rec", weight=lp.normal(40 * mV)), lp.Projection("rec", "out")],
    )  # fmt: skip


def trials():
    return lp.Trials({"cues": np.random.default_rng(0).random((4, 60, 20)) < 0.05}, target=np.array([0, 1, 0, 1]))


def both(net, rule, **options):
    found = lp.gradient(net, trials(), rule, **options)
    return found["rec"]["gradient_tau_mem"].values, found["cues_rec"]["gradient"].values


SEVERAL = [5.0, 5.0 + 1e-9, 5.0, 7.0, 9.0, 5.0]


@pytest.mark.parametrize(
    "rule, options", [(bptt(), {}), (eprop(), {}), (eprop(), {"form": "traces"}), (eprop(), {"backend": "brian2"})]
)
def test_gradients_where_time_constants_meet_are_the_limit(rule, options):
    """Neurons of one population, some at the meeting point: half way between its sides, up to the second order."""
    meeting = np.abs(np.array(SEVERAL) - 5) < 1e-3
    found = both(network(SEVERAL), rule, **options)
    sides = [both(network(np.where(meeting, 5 + apart, SEVERAL)), rule) for apart in (-1e-3, 1e-3)]
    for here, left, right in zip(found, *sides, strict=True):
        assert np.abs(here).max() > 1
        np.testing.assert_allclose(here, (left + right) / 2, rtol=1e-6, atol=1e-6 * np.abs(here).max())


def test_the_kernel_and_plain_torch_agree_there():
    net = network(SEVERAL)
    values, shown = net.draw(0), trials()
    tensors = leaves(net, values, trainable=["rec.tau_mem", "cues_rec.weight"])
    fused = NetworkFunction(net, {k: v.detach() for k, v in tensors.items()}, values.masks)
    weights = {n: tensors[f"{n}.weight"] for n in net.projections}
    inputs = {"cues": torch.as_tensor(shown.inputs["cues"]).transpose(0, 1)}
    output = fused(weights, inputs, {"rec.tau_mem": tensors["rec.tau_mem"]})["out.output"]
    loss = torch.nn.functional.cross_entropy(output.flatten(0, 1), torch.tensor([0, 1, 0, 1]).repeat(60)) * 60
    found = torch.autograd.grad(loss, [tensors["rec.tau_mem"], tensors["cues_rec.weight"]])
    for here, expected in zip(found, both(net, bptt()), strict=True):
        np.testing.assert_allclose(here, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


@pytest.mark.sampled(2)
@pytest.mark.parametrize("backend", ["torch", "brian2"])
def test_learning_goes_through_the_meeting_point(backend):
    task = lp.Task("meet", lambda update, batch, seed: trials(), lambda n, seed: trials())
    optimiser = lp.adam(1e-3).with_rates(**{"rec.tau_mem": 0.3})
    options = {"updates": 3, "batch": 4, "target": "numpy" if backend == "brian2" else None}
    record = lp.run(network(5.3), task, backend=backend, rule=eprop(), optimiser=optimiser, **options)
    learned = record["learned"]["rec.tau_mem"].values
    assert np.isfinite(learned).all() and np.abs(learned - 5.3e-3).max() > 1e-4


def test_a_readout_with_equal_times_is_that_of_brian2_nearly_equal():
    readouts = [van_rossum_readout(tau_rise=5 * ms, tau_decay=(5 + apart) * ms) for apart in (1e-6, 0.0)]
    nets = [network(9.0, readout=readout, trainable=False) for readout in readouts]
    ways = [(net, backend) for net in nets for backend in ("brian2", "torch")]
    outputs = [lp.run(net, trials(), record=["out.y"], backend=b)["out"]["y"].values for net, b in ways]
    assert np.abs(outputs[0]).max() > 0.01
    for found in outputs[1:]:
        np.testing.assert_allclose(found, outputs[0], rtol=1e-5, atol=1e-9)


# ---------------------------------------------------------------------------------------------- where nothing leaks

LEAKS = {  # by the rate of decay ``g``: a number, or a conductance that is zero until a spike arrives
    "a number": ("dv/dt = (0.2 + u - g*v)/tau : 1\ndu/dt = -u/tau : 1\ng : 1", "exponential_euler", "u"),
    "a conductance": ("dv/dt = (0.6 - u*(v - 2) - g*v)/tau : 1\ndu/dt = -u/tau : 1\ng : 1", "exponential_euler", "u"),
    "a number, exact": ("dv/dt = (0.2 - g*v)/tau : 1\ng : 1", "exact", "v"),
}  # fmt: skip


def leaking(kind, g):
    equations, method, inlet = LEAKS[kind]
    model = NeuronModel(
        "leaking", equations, {"tau": 10 * ms, "g": g}, threshold="v > 1", reset="v -= 1", method=method,
        receives=inlet, surrogate=lp.surrogate.triangle(1.0),
    )  # fmt: skip
    weights = np.full((3, 2), 0.3717)  # no sum of which is a threshold
    return lp.Network(
        dt=1 * ms, cues=lp.Input(3), rec=lp.Population(2, model), out=lp.Population(1, leaky_readout()),
        projections=[lp.Projection("cues", "rec", weight=weights), lp.Projection("rec", "out", weight=1.0)],
    )  # fmt: skip


def all_gradients(kind, g, rule=None, **options):
    rng = np.random.default_rng(0)
    trials = lp.Trials({"cues": rng.random((2, 40, 3)) < 0.3}, rng.normal(size=(2, 40, 1)))
    found = lp.gradient(leaking(kind, g), trials, rule or eprop(reset=True), trainable=["rec.g", "rec.tau"], **options)
    return np.concatenate([found[n][k].values.ravel() for n in ("cues_rec", "rec") for k in sorted(found[n].data_vars)])


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", LEAKS)
def test_neurons_that_do_not_leak_are_the_limit_of_those_that_do(kind, monkeypatch):
    """Values and gradients, on every way to them; Brian2's own text has 0/0 there, and noise near it."""
    expected = all_gradients(kind, 0.0)
    assert np.abs(expected).min() > 0
    for options in ({"form": "traces"}, {"form": "forward"}, {"backend": "brian2"}):
        np.testing.assert_allclose(all_gradients(kind, 0.0, **options), expected, rtol=1e-10)
    np.testing.assert_allclose(all_gradients(kind, 1e-9), expected, rtol=1e-6)
    np.testing.assert_allclose(all_gradients(kind, 1e-9), all_gradients(kind, 1e-9, backend="brian2"), rtol=1e-10)
    plain = all_gradients(kind, 0.0, bptt())
    monkeypatch.setattr("localplast.backends.torch.gradient.WORTH_COMPILING", 0)
    np.testing.assert_allclose(all_gradients(kind, 0.0, bptt()), plain, rtol=1e-10)


@pytest.mark.parametrize("kind", LEAKS)
def test_they_move_as_their_equations_say(kind):
    """A step by hand: nothing arrives, so that the slope stays."""
    trials = lp.Trials({"cues": np.zeros((1, 9, 3), bool)})
    for backend in ("torch", "brian2"):
        v = lp.run(leaking(kind, 0.0), trials, backend=backend, record=["rec.v"])["rec"]["v"].values[0, :, 0]
        slope = 0.6 if kind == "a conductance" else 0.2
        np.testing.assert_allclose(v, slope * 0.1 * np.arange(1, 10), rtol=1e-13)
