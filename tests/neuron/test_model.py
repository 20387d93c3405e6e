"""A neuron model is data: compared by content, printed, written to a file and read back."""

import json

import numpy as np
import pytest
from brian2 import ms, mV, nA

import localplast as lp
import localplast.models
from localplast.equations.statements import split_statements, split_threshold
from localplast.errors import ModelError
from localplast.files import decode, encode
from localplast.models import alif, cuba_lif, leaky_readout, lif
from localplast.neuron import Mismatch, NeuronModel
from localplast.neuron.surrogate import Surrogate, arctan, boxcar, exponential, fast_sigmoid, logistic, ramp, triangle
from localplast.rules import eprop

TYPES = {c.__name__: c for c in (Mismatch, NeuronModel, Surrogate)}


@pytest.mark.parametrize("name", localplast.models.__all__)
def test_every_model_survives_a_file(name):
    model = getattr(localplast.models, name)()
    again = decode(json.loads(json.dumps(encode(model))), TYPES)
    assert again == model and hash(again) == hash(model) and repr(again) == repr(model)
    assert again.dimensions == model.dimensions


@pytest.mark.parametrize("name", localplast.models.__all__)
def test_every_model_says_what_it_is(name):
    model = getattr(localplast.models, name)()
    assert model.reference, "where do the equations come from?"
    printed = repr(model)
    for part in (model.name, model.reference, *model.parameters):
        assert part in printed
    assert not model.spiking or f"threshold  {model.threshold}" in printed
    assert model.receives in model.parsed


def test_printing_shows_the_whole_model():
    assert repr(alif()) == (
        "alif: Bellec et al. 2020, Nat Commun 11:3625\n"
        "    dv/dt = -v/tau_mem : 1\n"
        "    da/dt = -a/tau_adapt : 1\n"
        "    threshold  v > v_th + beta*a\n"
        "    reset      v -= v_th\n"
        "    adaptation a += 1\n"
        "    psi(x)     0.3/(v_th)*clip(1 - abs(x)/(v_th), 0, 1)\n"
        "    tau_mem = 20. ms\n    tau_adapt = 200. ms\n    beta = 0.1\n    v_th = 1.0\n    tau_ref = 0. s"
    )


def test_equality_is_by_content():
    assert lif() == lif() and hash(lif()) == hash(lif())
    assert lif() != lif(tau_mem=21 * ms) and lif() != lif(surrogate=triangle(gamma=0.5)) and lif() != alif()
    assert lif(tau_mem=20 * ms) == lif(tau_mem=0.02 * ms * 1000)
    assert lif() != "lif"


def test_a_model_is_frozen():
    with pytest.raises(AttributeError):
        lif().name = "other"


def test_parameters_are_changed_in_a_copy():
    model = lif()
    other = model.with_parameters(tau_mem=5 * ms)
    assert other.parameters["tau_mem"] == 5 * ms and model.parameters["tau_mem"] == 20 * ms
    assert other == lif(tau_mem=5 * ms)
    with pytest.raises(ModelError, match=r"lif: no parameter \['tau'\]; it has \['tau_mem', 'tau_ref', 'v_th'\]"):
        model.with_parameters(tau=5 * ms)
    with pytest.raises(ModelError, match="lif: unit mismatch"):
        model.with_parameters(tau_mem=5 * mV)


def test_what_a_model_knows_of_itself():
    assert alif().spiking and not leaky_readout().spiking
    assert alif().odes == ("v", "a") and alif().free_variables == ()
    model = NeuronModel(
        name="graded", equations="dv/dt = (-v + R*I)/tau : volt\n I : amp\n rate = 1/tau : Hz",
        parameters={"tau": 10 * ms, "R": 5 * mV / nA}, output="v",
    )  # fmt: skip
    assert model.free_variables == ("I",)
    assert model.dimensions["R"] == (mV / nA).dim and model.dimensions["rate"] == (1 / ms).dim
    assert cuba_lif().parsed["v"].flags == ["unless refractory"]


@pytest.mark.parametrize(
    "threshold, parts",
    [
        ("v > v_th", ("v", "v_th", True)), ("v >= v_th", ("v", "v_th", False)),
        ("v_th < v", ("v", "v_th", True)), ("v_th <= v", ("v", "v_th", False)), ("v*2 > v_th + 1", ("v * 2", "v_th + 1", True)),
    ],
)  # fmt: skip
def test_a_threshold_is_turned_so_that_the_argument_grows_towards_the_spike(threshold, parts):
    model = NeuronModel(
        name="m",
        equations="dv/dt = -v/tau : 1",
        threshold=threshold,
        reset="v = 0",
        parameters={"tau": 5 * ms, "v_th": 1.0},
    )
    assert split_threshold(model) == parts


def test_statements_are_split_without_comments():
    assert split_statements("v = 0; a += 1  # more\n\n # nothing\n b = 2") == ["v = 0", "a += 1", "b = 2"]


def test_numbers_survive_a_file_bit_by_bit():
    rng = np.random.default_rng(0)
    value = {
        "a": rng.standard_normal((3, 2)) * mV,
        "b": 0.1 * ms,
        "c": rng.random(3) < 0.5,
        "d": (1, 2.5, "x", None, True),
    }
    again = decode(json.loads(json.dumps(encode(value))), {})
    np.testing.assert_array_equal(np.asarray(again["a"]), np.asarray(value["a"]))
    assert again["a"].dim == value["a"].dim and again["b"] == value["b"] and again["d"] == value["d"]
    np.testing.assert_array_equal(again["c"], value["c"])
    assert again["c"].dtype == bool


def test_loading_refuses_what_is_not_plain_data():
    with pytest.raises(
        ValueError, match="unknown type 'Popen' in the file; known are Mismatch, NeuronModel, Surrogate"
    ):
        decode({"type": "Popen", "args": ["true"]}, TYPES)
    for dtype in ("|O", "|V8", "<U4", "<M8[s]", "<c16"):
        with pytest.raises(ValueError, match="is not plain numbers and is not loaded"):
            decode({"array": "AAAAAAAAAAA=", "dtype": dtype, "shape": [1]}, TYPES)


def test_writing_refuses_what_a_file_cannot_hold():
    with pytest.raises(TypeError, match="cannot write a function to a plain file"):
        encode({"f": test_writing_refuses_what_a_file_cannot_hold})


def test_a_refractory_period_and_a_width_may_be_given_with_their_units():
    options = {"threshold": "v > v_th", "reset": "v = 0*mV", "method": "exact"}
    equations, numbers = "dv/dt = -v/tau : volt", {"tau": 20 * ms, "v_th": 10 * mV}
    named = NeuronModel(
        "cell", equations, {**numbers, "tau_ref": 5 * ms}, refractory="tau_ref", surrogate=triangle("v_th"), **options
    )
    given = NeuronModel("cell", equations, numbers, refractory=5 * ms, surrogate=triangle(10 * mV), **options)
    assert given.refractory == "tau_ref" and given.parameters["tau_ref"] == 5 * ms

    trials = lp.Trials({"cues": np.random.default_rng(0).random((2, 12, 3)) < 0.3}, [0, 1])

    def found(model, backend):
        net = lp.Network(
            dt=1 * ms, cues=lp.Input(3), rec=lp.Population(4, model), out=lp.Population(2, leaky_readout()),
            projections=[lp.Projection("cues", "rec", weight=lp.uniform(12 * mV, mean=12 * mV)), lp.Projection("rec", "out")],
        )  # fmt: skip
        return lp.gradient(net, trials, eprop(), backend=backend)["cues_rec"]["gradient"].values

    assert np.any(found(named, "torch"))
    for backend in ("torch", "brian2"):
        np.testing.assert_allclose(found(given, backend), found(named, "torch"), rtol=1e-12)


@pytest.mark.parametrize("make", [triangle, fast_sigmoid, exponential, arctan, logistic, boxcar, ramp])
def test_a_width_with_a_unit_is_a_parameter_of_the_neuron(make):
    """The surrogate is the one whose width is given as text."""
    given, named = make(10 * mV, gamma=0.7), make("surrogate_width", gamma=0.7)
    assert given.expression == named.expression and given.parameters == {"surrogate_width": 10 * mV}
    for wrong in (0 * mV, -1.0, [1, 2] * mV):
        with pytest.raises(ModelError, match="width of a surrogate"):
            make(wrong)
