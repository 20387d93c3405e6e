"""What is not finite is named, by every backend and rule; what overflows and is cut off is no error, on any engine."""

import numpy as np
import pytest
import torch

import localplast as lp
from localplast import NeuronModel, ms, mV
from localplast.backends.torch import gradient as torch_backend
from localplast.backends.torch.step import Twin, leaves
from localplast.equations.expressions import differentiate, to_sympy
from localplast.equations.tape import Tape
from localplast.errors import RunawayError
from localplast.models import leaky_readout, lif, pyramidal, urbanczik_senn
from localplast.neuron.surrogate import Surrogate, arctan, boxcar, exponential, fast_sigmoid, logistic, ramp, triangle
from localplast.program.instructions import Fire
from localplast.rules import bptt, eprop, rtrl
from localplast.runs.guard import first_not_finite

TRIALS = lp.Trials({"cues": np.random.default_rng(0).random((4, 40, 6)) < 0.2}, target=np.array([0, 1, 0, 1]))
WAYS = {
    "plain": (bptt(), {}), "kernel": (bptt(), {"fused": True}), "adjoint": (eprop(), {}),
    "traces": (eprop(), {"form": "traces"}), "forward": (rtrl(), {}), "brian2": (eprop(), {"backend": "brian2"}),
}  # fmt: skip


def network(model, weight=30.0, recurrent=False, dt=1 * ms):
    more = [lp.Projection("rec", "rec", weight=lp.normal(weight))] if recurrent else []
    return lp.Network(
        dt=dt, cues=lp.Input(6), rec=lp.Population(5, model), out=lp.Population(2, leaky_readout()),
        projections=[lp.Projection("cues", "rec", weight=lp.normal(weight)), *more, lp.Projection("rec", "out")],
    )  # fmt: skip


@pytest.fixture
def gradient(monkeypatch):
    def found(net, way, trials=TRIALS, **options):
        rule, chosen = WAYS[way]
        chosen = {**chosen, **options}
        monkeypatch.setattr(torch_backend, "WORTH_COMPILING", 0 if chosen.pop("fused", False) else 10**9)
        return lp.gradient(net, trials, rule, **chosen)

    return found


def one(equations, **options):
    spikes = {"threshold": "v > 1", "reset": "v -= 1", "surrogate": triangle(1.0)}
    options = {"parameters": {"tau": 10 * ms}, "method": "euler", **spikes, **options}
    return NeuronModel(name="one", equations=equations, **options)


OVERFLOWING = Surrogate("25*exp(-25*x)/(1 + exp(-25*x))**2")
REMOVABLE = one("dv/dt = (-v + 0.1*v/(exp(v) - 1) + y)/tau : 1\n dy/dt = -y/tau : 1", receives="y")
CUBIC = one("dv/dt = 400*v**3/tau : 1", threshold="v < -1e30", reset="v = 0")
BROKEN = {
    "psi": (
        network(lif(surrogate=OVERFLOWING)),
        r"population 'rec': psi, the surrogate 25\*exp\(-25\*x\).* of neuron \d is nan at step \d+ .* of trial \d, "
        r"where the spike argument is -\d+.*; write it so that nothing overflows, as logistic\(\) does",
    ),
    "0/0": (
        network(REMOVABLE, 3.0),
        r"population 'rec': v of neuron 0 is nan at step 0 .* of trial 0; the equation of v divides by exp\(v\) - 1, "
        r"which is 0 there: where x/\(exp\(x\) - 1\) is meant, write 1/exprel\(x\)",
    ),
    "membrane": (network(CUBIC, 3.0), r"population 'rec': v of neuron \d is (inf|nan|-inf) at step \d+ .* of trial 0"),
}  # fmt: skip


@pytest.mark.sampled(3)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("way", WAYS)
def test_a_gradient_names_what_is_not_finite(gradient, case, way):
    net, message = BROKEN[case]
    with pytest.raises(RunawayError, match=message):
        gradient(net, way)


@pytest.mark.sampled(3)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize(
    "rule, backend", [(bptt(), "torch"), (eprop(), "torch"), (eprop(update="step"), "torch"), (eprop(), "brian2")]
)
def test_learning_names_it_and_not_the_learning_rate(case, rule, backend):
    net, message = BROKEN[case]
    task = lp.Task("given", lambda update, batch, seed: TRIALS[:batch], lambda n, seed: TRIALS)
    options = {"batch": 1 if rule.update == "step" else 4, "target": "numpy" if backend == "brian2" else None}
    with pytest.raises(RunawayError, match=message) as caught:
        lp.run(net, task, backend=backend, rule=rule, optimiser=lp.sgd(1e-9), updates=2, **options)
    assert "learning rate" not in str(caught.value) and f"while {rule.name} learned" in str(caught.value)
    assert "cues_rec" in caught.value.record


def test_numbers_that_are_given_are_named_first():
    net = network(lif())
    values = net.draw(0)
    weight = values.weights["cues_rec"].copy()
    weight[2, 3] = np.nan
    broken = values.replace_weights({"cues_rec": weight})
    assert first_not_finite(net, broken, TRIALS) == "the weight of 'cues_rec' is nan at (2, 3)"
    assert first_not_finite(net, values, TRIALS) is None


def test_single_precision_is_looked_at_in_single_precision(gradient):
    """At 60 widths below threshold float64 is finite and float32 is not."""
    net = network(lif(surrogate=Surrogate("exp(-2*x)/(1 + exp(-2*x))**2")))
    assert np.isfinite(gradient(net, "plain")["cues_rec"]["gradient"]).all()
    with pytest.raises(RunawayError, match="psi, the surrogate"):
        gradient(net, "plain", dtype="float32")


# ------------------------------------------------------------------------------------ overflow that is cut off

SURROGATES = (triangle, fast_sigmoid, exponential, arctan, logistic, boxcar, ramp)


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_surrogate_is_a_number_far_from_threshold(surrogate, dtype):
    far = torch.tensor([-np.inf, -1e30, -1e4, -800.0, -90.0, 0.0, 90.0, 800.0, 1e4, 1e30, np.inf], dtype=dtype)
    psi = Tape([("psi", to_sympy(surrogate(1.0).expression))])({"x": far})["psi"]
    assert torch.isfinite(psi).all() and (psi >= 0).all() and (psi <= 1).all()
    assert psi[5] > 0 and torch.allclose(psi[0], torch.zeros(1, dtype=dtype))


def test_the_logistic_surrogate_is_the_slope_of_the_logistic_function():
    x = np.linspace(-30, 30, 61)
    found = Tape([("psi", to_sympy(logistic(2.0, gamma=0.7).expression))])({"x": x})["psi"]
    np.testing.assert_allclose(found, 0.7 / 2 / (2 * np.cosh(x / 4)) ** 2, rtol=1e-14)


def test_a_network_far_below_threshold_learns_with_the_logistic_surrogate_alike_everywhere(gradient):
    net = network(lif(surrogate=logistic(0.5)))
    found = [gradient(net, way)["cues_rec"]["gradient"].values for way in ("adjoint", "traces", "brian2")]
    assert np.abs(found[0]).max() > 0
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-10, atol=1e-13 * np.abs(found[0]).max())


def exponential_neuron(surrogate=None):
    """It overflows within the step of its spike, which the reset ends."""
    return NeuronModel(
        name="eif", equations="dv/dt = (EL - v + DT*exp((v - VT)/DT))/tau : volt", method="rk4",
        threshold="v > VP", reset="v = VR",
        parameters={"EL": -65 * mV, "DT": 2 * mV, "VT": -50 * mV, "tau": 10 * ms, "VP": -35 * mV, "VR": -60 * mV},
        initial={"v": -65 * mV}, surrogate=surrogate,
    )  # fmt: skip


def spike_train():
    raster = np.zeros((1, 40, 1), bool)
    raster[0, [3, 20]] = True
    return lp.Trials({"cues": raster}, target=np.array([1]))


def overflowing(surrogate=None, weight=20.14007003501751 * mV):
    return lp.Network(
        dt=0.1 * ms, cues=lp.Input(1), rec=lp.Population(1, exponential_neuron(surrogate)),
        out=lp.Population(2, leaky_readout()),
        projections=[lp.Projection("cues", "rec", weight=weight), lp.Projection("rec", "out", weight=lp.normal(1.0))],
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("backend", ["brian2", "torch"])
def test_a_spike_whose_reset_ends_an_overflow_is_no_error(backend):
    """The last membrane is that of a plain Brian2 script of this neuron."""
    raster = np.arange(40).reshape(1, 40, 1) == 3
    record = lp.run(overflowing(), lp.Trials({"cues": raster}), backend=backend, record=["rec.v", "rec.raster"])["rec"]
    assert record["spikes"].values.sum() == 1
    np.testing.assert_allclose(record["v"].values[0, -1, 0], -60.9044104225e-3, rtol=1e-10)


def test_that_spike_overflows():
    net = overflowing()
    twin = Twin(net, leaves(net, net.draw(0)), net.draw(0).masks)
    twin.start({"cues": torch.as_tensor(spike_train().inputs["cues"]).transpose(0, 1)})
    seen = []
    for t in range(40):
        twin.interpreter.begin_step(t)
        for runs in twin.interpreter.step:
            if isinstance(runs.s, Fire):
                seen.append(float(twin.read("rec.v")))
            runs()
    assert max(seen) == np.inf


@pytest.mark.sampled(3)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("surrogate", [triangle, fast_sigmoid, ramp])
def test_its_gradient_is_finite_and_the_same_on_every_engine(gradient, surrogate):
    net, shown = overflowing(surrogate("10*DT")), spike_train()
    cut = [gradient(net, way, shown)["cues_rec"]["gradient"].values for way in ("adjoint", "traces", "brian2")]
    whole = [gradient(net, way, shown)["cues_rec"]["gradient"].values for way in ("plain", "kernel", "forward")]
    for found in (cut, whole):
        assert np.isfinite(found[0]).all() and found[0] != 0
        for other in found[1:]:
            np.testing.assert_allclose(other, found[0], rtol=1e-9)
    trainable = ["rec.tau", "rec.DT"]
    of_parameters = [gradient(net, way, shown, trainable=trainable)["rec"].to_dataset() for way in ("plain", "kernel")]
    for name, found in of_parameters[0].items():
        assert np.isfinite(found).all()
        np.testing.assert_allclose(of_parameters[1][name], found, rtol=1e-9)


@pytest.mark.parametrize("model", [pyramidal(), urbanczik_senn()], ids=["pyramidal", "urbanczik_senn"])
def test_terms_that_saturate_pass_no_infinity_on(gradient, model):
    """Currents of amperes take membranes to volts, where the logistic terms of their channels and rates overflow."""
    net = network(model, 1.0, recurrent=model.receives is not None, dt=0.1 * ms)
    found = [gradient(net, way)["cues_rec"]["gradient"].values for way in ("plain", "adjoint")]
    assert all(np.isfinite(f).all() for f in found)


@pytest.mark.parametrize("text, at, slope", [
    ("1/(1 + exp(-x))", [-800.0, -1e4, 0.0, 800.0], [0.0, 0.0, 0.25, 0.0]),
    ("1/(1 + exp(x/0.001))", [1.0, -1.0, 1e4], [0.0, 0.0, 0.0]),
    ("log(1 + exp(x))", [0.0, 700.0, -800.0], [0.5, 1.0, 0.0]),
    ("sqrt(clip(x, 0, 4))", [-1.0, 0.0, 1.0, 9.0], [0.0, 0.0, 0.5, 0.0]),
    ("clip(x, 0, 1)**1.5", [-1.0, 0.0, 0.25], [0.0, 0.0, 0.75]),
    ("x**k", [0.0, 2.0], [0.0, 4.0]),
    ("log(clip(x, 0, 9))", [-1.0, 0.0, 0.5], [0.0, 0.0, 2.0]),
])  # fmt: skip
def test_slopes_at_the_ends_are_numbers(text, at, slope):
    """Symbolic, as kernels and traces use them, and by automatic differentiation."""
    expression, k = to_sympy(text), 2.0
    with np.errstate(all="ignore"):
        found = Tape([("out", differentiate(expression, "x"))], {"k": k})({"x": np.array(at)})["out"]
    np.testing.assert_allclose(found, slope, rtol=1e-13, atol=1e-150)
    x = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    out = Tape([("out", expression)], {"k": torch.tensor(k, dtype=torch.float64)})({"x": x})["out"]
    np.testing.assert_allclose(torch.autograd.grad(out.sum(), x)[0], slope, rtol=1e-13, atol=1e-150)


def test_an_infinite_slope_that_nothing_cuts_off_is_named(gradient):
    model = one("dv/dt = (-v + sqrt(y))/tau : 1\n dy/dt = -y/tau : 1", receives="y", surrogate=triangle(3.0))
    message = "population 'rec': the derivative of v with respect to y of neuron 0 is inf at step 0"
    for way in ("plain", "traces"):
        with pytest.raises(RunawayError, match=message):
            gradient(network(model, 0.0), way)
