"""Every function, operator and condition of Brian2's language, wherever text may stand: on all engines, as Brian2 has
it.
"""

import ctypes
import re
import shutil

import brian2 as b2
import numpy as np
import pytest
import torch
from brian2 import Quantity, ms, mV

import localplast as lp
from localplast.backends.brian2.session import codegen
from localplast.backends.c.compile import build
from localplast.backends.c.expression import Constants, Writer
from localplast.backends.c.runtime import HELPERS
from localplast.equations.expressions import differentiate, to_sympy
from localplast.equations.slopes import FUNCTIONS
from localplast.equations.tape import Tape
from localplast.equations.text import to_text
from localplast.errors import UnsupportedError
from localplast.neuron import NeuronModel
from localplast.neuron.surrogate import Surrogate, triangle
from localplast.rules import bptt, eprop

#: Brian2's language, in two numbers: ``x`` of both signs and with whole numbers among them, ``y`` positive.
SMOOTH = [
    "x + y", "x - y", "x*y", "x/y", "-x", "+x", "x**2", "x**3", "x**-1", "y**-2", "y**0.5", "y**-1.5", "y**x", "2**x", "x**2.0",
    "sqrt(y)", "exp(x)", "log(y)", "log10(y)", "expm1(x)", "log1p(y)", "exprel(x)", "sin(x)", "cos(x)", "tan(x/4)", "arcsin(x/4)",
    "arccos(x/4)", "arctan(x)", "sinh(x)", "cosh(x)", "tanh(x)", "x*pi", "y**e", "e**x",
]  # fmt: skip
PIECES = [
    "abs(x)", "abs(log(y))", "sign(x)", "floor(x)", "ceil(x)", "int(x)", "int(3*x)", "int(-y)", "x % y", "x % -y", "x % 0.7", "x // y",
    "-x // 0.7", "x // -y", "clip(x, -1, 1)", "clip(x, -inf, y)", "clip(0.5, x, y + 3)", "int(x > y)", "int(x >= 1)", "int(x < y)",
    "int(x <= 1)", "int(x == 1)", "int(x != 1)", "int(floor(x) == 1)", "int(x > 0 and y > 1)", "int(x > 0 or y > 1)", "int(not x > 0)",
    "int(not (x > 0 and y > 1) or x == -2)", "int(True)*x", "int(False) + y", "x*int(x > 1) + y*(1 - int(x > 1))",
    "timestep(y*second, 0.1*second)", "timestep(0.3*second, 0.1*second)", "abs(x)**2 + sqrt(x**2)", "2*x % 1 + x",
]  # fmt: skip
WORDS = SMOOTH + PIECES


def points():
    x = np.array([-2.5, -2.0, -1.0, -0.7, -0.3, 0.2, 0.7, 1.0, 1.4, 2.0, 2.7, 3.0])
    return {"x": x, "y": np.linspace(0.35, 2.9, len(x))}


@pytest.fixture(scope="module")
def by_brian2():
    """What Brian2 computes of many texts in ``x`` and ``y``, in one run."""

    def evaluate(texts, target="numpy"):
        values = points()
        names = "\n".join(f"r{n} : 1" for n in range(len(texts)))
        with codegen(target):
            group = b2.NeuronGroup(len(values["x"]), f"x : 1\ny : 1\n{names}", dt=1 * ms)
            group.x, group.y = values["x"], values["y"]
            group.run_regularly("\n".join(f"r{n} = {text}" for n, text in enumerate(texts)), dt=1 * ms)
            net = b2.Network(group)
            net.run(1 * ms, namespace=FUNCTIONS)
        return np.array([group.get_states([f"r{n}"], units=False)[f"r{n}"] for n in range(len(texts))])

    return evaluate


def in_c(expressions):
    """The same of generated C, whose names are arrays."""
    writer = Writer(Constants({"dt": np.float64(1e-3)}, False), lambda name: f"{name}[i]")
    stored = [f"out[{n}*count + i] = {writer(e)};" for n, e in enumerate(expressions)]
    library = build("\n".join([
        "#define DOUBLE", "enum { S = 8 };", HELPERS,
        "void table(const real *x, const real *y, const real *k, real *out, long count)",
        "{ for (long i = 0; i < count; i++) {", *writer.lines, *stored, "} }",
    ]))  # fmt: skip
    values, shared = points(), writer.constants.numbers(1)[0]
    out = np.zeros((len(expressions), len(values["x"])))
    arrays = [values["x"], values["y"], np.append(shared, 0.0), out]
    library.table(*(ctypes.c_void_p(a.ctypes.data) for a in arrays), ctypes.c_long(len(values["x"])))
    return out


def by_tape(expressions, values):
    found = Tape([(f"r{n}", e) for n, e in enumerate(expressions)])(values)
    return np.array([np.broadcast_to(np.asarray(v, float), len(values["x"])) for v in found.values()])


def assert_all_equal(found, expected, texts, rtol=1e-13):
    for row, other, text in zip(found, expected, texts, strict=True):
        np.testing.assert_allclose(row, other, rtol=rtol, atol=1e-15, err_msg=text)


class TestValues:
    """Every word × every engine: the numbers of Brian2."""

    def test_are_those_of_brian2(self, by_brian2):
        expected, expressions = by_brian2(WORDS), [to_sympy(text) for text in WORDS]
        tensors = {k: torch.as_tensor(v) for k, v in points().items()}
        for engine in (by_tape(expressions, points()), by_tape(expressions, tensors), in_c(expressions)):
            assert_all_equal(engine, expected, WORDS)

    def test_of_derivatives_are_the_same_in_brian2_as_text(self, by_brian2):
        """What is derived goes back to Brian2, and to C."""
        expressions = [differentiate(to_sympy(text), name) for text in WORDS for name in "xy"]
        texts = [to_text(e) for e in expressions]
        expected = by_tape(expressions, points())
        tensors = {k: torch.as_tensor(v) for k, v in points().items()}
        for engine in (by_brian2(texts), by_tape(expressions, tensors), in_c(expressions)):
            assert_all_equal(engine, expected, texts, rtol=1e-12)

    def test_derivatives_are_difference_quotients(self):
        """Away from jumps and kinks: there is none within the step of the quotient."""
        h, values = 1e-6, {k: v + 0.0123 for k, v in points().items()}
        for name in "xy":
            there, back = ({**values, name: values[name] + s} for s in (h, -h))
            expressions = [to_sympy(text) for text in WORDS]
            quotients = (by_tape(expressions, there) - by_tape(expressions, back)) / (2 * h)
            found = by_tape([differentiate(e, name) for e in expressions], values)
            for row, quotient, text in zip(found, quotients, WORDS, strict=True):
                np.testing.assert_allclose(row, quotient, rtol=1e-6, atol=1e-7, err_msg=text)

    def test_automatic_differentiation_finds_the_same(self):
        """Plain Torch, also on the bounds of clip, where each engine could halve the slope."""
        for text in WORDS:
            leaves = {k: torch.tensor(v, requires_grad=True) for k, v in points().items()}
            out = Tape([("r", to_sympy(text))])(leaves)["r"]
            if not torch.is_tensor(out) or not out.requires_grad:
                continue
            found = torch.autograd.grad(out.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True)
            expected = by_tape([differentiate(to_sympy(text), name) for name in leaves], points())
            assert_all_equal([g.numpy() for g in found], expected, [text, text], rtol=1e-12)


# ---------------------------------------------------------------------------------------------- where text may stand

#: One word of each kind, smooth and not, around a variable ``{}`` that stays between -2 and 3.
CHORUS = (
    "0.1*(exp(-{0}**2) + tanh({0}) + sqrt({0}**2 + 1) + log1p({0}**2) + abs({0}) + clip({0}, -0.5, 0.5)*{0} + int({0} "
    "> 0.2)*{0}"
    " + int(not ({0} > 0.3 and {0} < 2) or {0} == 7)*sin({0}) + sign({0})*{0} + ({0} % 0.7) + ({0}*3 // 1)*{0} + "
    "int(2.3*{0})*{0}"
    " + floor({0}) + ceil({0})*{0} + exprel({0} + 3) + arctan({0}) + (2 + {0}**2)**(0.3*{0}) + e**{0}/10 + pi*{0}**3/50"
    " + timestep(0.3*ms, dt)*{0})"
)
PLACES = {
    "equation": {"equations": f"dv/dt = (-v + 0.1*{CHORUS.format('v')})/tau : 1\nu : 1\nq = v : 1"},
    "subexpression": {"equations": f"dv/dt = (-v + 0.1*q)/tau : 1\nu : 1\nq = {CHORUS.format('v')} : 1"},
    "threshold": {"threshold": f"v + 0.2*{CHORUS.format('v')} > 1"},
    "reset": {"reset": f"v = 0.3*v + 0.05*{CHORUS.format('v')}; u += 0.1*v  # the new one; really"},
    "adaptation": {"reset": "", "adaptation": f"u = 0.3*u + 0.2 + 0.05*{CHORUS.format('u')}\nv -= 0.5 + 0.1*u"},
    "update": {"update": f"u = 0.5*u + 0.05*{CHORUS.format('v')}\nold = u\nv += 0.05*old"},
    "output": {},
    "surrogate": {"surrogate": Surrogate(f"0.2*clip(1 - abs(x), 0, 1)*(2 + 0.1*{CHORUS.format('x')})")},
    "literals": {  # numbers with units, as Brian2 is mostly written
        "equations": "dv/dt = (-v + 3*mV*tanh(v/(7*mV)) + 0*mV)/(12*ms) : volt\nu : volt\nq = clip(v, 0*mV, 9*mV) + 1*mV : volt",
        "threshold": "v - 0.1*u > 10*mV + 0.2*q", "reset": "v = 0*mV; v = v + 0.1*u*(1*second)/(2*second); u += 0.1*(clip(v, 0*mV, 1*mV) + 1*mV)", "parameters": {},
        "update": "u = 0.9*u + 0.05*clip(q, 1*mV, 6*mV) + int(v > 0*mV)*0.1*mV + (v % (3*mV))*0.1 + (v/mV // 2)*0.01*mV",
        "surrogate": triangle("15*mV + 0.1*abs(x)"), "initial": {"v": 1 * mV},
    },
}  # fmt: skip


def neuron(place):
    """A neuron whose weights, and whose parameter ``tau``, act through all of the language at one place."""
    common = {
        "equations": "dv/dt = (-v + 0.1*q)/tau : 1\nu : 1\nq = 0.5*u : 1", "threshold": "v > 1", "reset": "v -= 1",
        "update": "u = 0.9*u + 0.1*v", "parameters": {"tau": 10 * ms}, "method": "euler", "surrogate": triangle(1.0),
    }  # fmt: skip
    return NeuronModel(name=place, **{**common, **PLACES[place]})


def around(model):
    unit = Quantity(1.0 if model.parameters else 0.01, dim=model.dimensions["v"])
    said = CHORUS.format("y") if model.name == "output" else "y/(1*mV)" if model.name == "literals" else "y"
    out = NeuronModel(
        name="says", equations=f"dy/dt = -y/(20*ms) : {'volt' if model.name == 'literals' else '1'}", output=said, receives="y",
    )  # fmt: skip
    rng = np.random.default_rng(3)
    return lp.Network(
        dt=1 * ms, cues=lp.Input(3), it=lp.Population(2, model), out=lp.Population(1, out),
        projections=[
            lp.Projection("cues", "it", weight=unit * rng.uniform(0.3, 0.6, (3, 2))),
            lp.Projection("it", "it", weight=unit * rng.normal(0.1, 0.2, (2, 2))),
            lp.Projection("it", "out", weight=Quantity([[0.7], [-0.4]], dim=out.dimensions["y"]) * (1e-3 if model.name == "literals" else 1)),
        ],
    )  # fmt: skip


def some_trials():
    rng = np.random.default_rng(4)
    return lp.Trials({"cues": rng.random((2, 40, 3)) < 0.4}, rng.normal(size=(2, 40, 1)))


def numbers(found):
    return {f"{name}.{key}": value.values for name in found for key, value in found[name].data_vars.items()}


def assert_same(found, expected, rtol=1e-9):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=rtol, atol=rtol * np.abs(value).max(), err_msg=name)


class TestPlaces:
    """The language at one place at a time × forward and learning × Brian2, plain Torch and C."""

    @pytest.mark.sampled(2)
    @pytest.mark.parametrize("place", PLACES)
    def test_brian2_and_torch_run_the_same(self, place):
        net, asked = around(neuron(place)), ["it.v", "it.u", "it.q", "it.raster", "out.y"]
        found = [lp.run(net, some_trials(), backend=b, record=asked) for b in ("brian2", "torch")]
        assert found[1]["it"]["spikes"].sum() > 3
        for name in ("v", "u", "q", "spikes"):
            np.testing.assert_allclose(found[1]["it"][name], found[0]["it"][name], rtol=1e-11, atol=1e-13, err_msg=name)

    @pytest.mark.sampled(5)
    @pytest.mark.parametrize("place", PLACES)
    def test_learning_is_the_same_everywhere(self, place):
        """e-prop that follows the reset: as text in Brian2, carried forward in Torch, and as the adjoint of the cut
        network.
        """
        net, rule = around(neuron(place)), eprop(reset=True)
        learned = [f"it.{key}" for key in net.nodes["it"].values]
        adjoint = numbers(lp.gradient(net, some_trials(), rule, trainable=learned))
        assert np.abs(adjoint["cues_it.gradient"]).min() > 0
        for options in ({"form": "traces"}, {"backend": "brian2"}):
            if place == "output":
                with pytest.raises(UnsupportedError, match="its response to a spike differs .* linear readout"):
                    lp.gradient(net, some_trials(), rule, **options)
            else:
                assert_same(numbers(lp.gradient(net, some_trials(), rule, trainable=learned, **options)), adjoint)

    @pytest.mark.sampled(4, 1)
    @pytest.mark.parametrize("place", PLACES)
    def test_generated_c_backpropagates_as_automatic_differentiation_does(self, place, monkeypatch):
        net = around(neuron(place))
        learned = [f"it.{key}" for key in net.nodes["it"].values]
        plain = lp.gradient(net, some_trials(), bptt(), trainable=learned)
        monkeypatch.setattr("localplast.backends.torch.gradient.WORTH_COMPILING", 0)
        fused = lp.gradient(net, some_trials(), bptt(), trainable=learned)
        assert fused.attrs["loss"] == pytest.approx(plain.attrs["loss"], rel=1e-12)
        assert_same(numbers(fused), numbers(plain))


COMPILER = pytest.mark.skipif(not (shutil.which("g++") and shutil.which("make")), reason="no C++ compiler here")


@pytest.mark.sampled(2, 1)
@pytest.mark.parametrize("rule", [bptt(), eprop(reset=True)], ids=["BPTT", "e-prop"])
def test_kernels_learn_through_exprel_at_zero(rule, monkeypatch):
    """Neurons rest where it is 0/0 as it is written: values and gradients of generated C are those of plain Torch."""
    model = NeuronModel(
        "resting", "dv/dt = (-v + 0.3*(exprel(v) - 1) + 0.1*(1/exprel(v) - 1))/tau : 1", {"tau": 10 * ms},
        threshold="v > 1", reset="v -= 1", method="euler", surrogate=triangle(1.0),
    )  # fmt: skip
    net, options = around(model), {"trainable": ["it.tau"]}
    assert lp.run(net, some_trials(), record=["it.v"])["it"]["v"].values[0, 0].min() == 0  # nothing has arrived
    expected = lp.gradient(net, some_trials(), rule, **options)
    assert np.abs(expected["cues_it"]["gradient"]).min() > 0
    monkeypatch.setattr("localplast.backends.torch.gradient.WORTH_COMPILING", 0)
    found = lp.gradient(net, some_trials(), rule, **options)
    assert found.attrs["loss"] == pytest.approx(expected.attrs["loss"], rel=1e-12)
    assert_same(numbers(found), numbers(expected))


class TestPrograms:
    """Brian2's C++, which is compiled with other options than our kernels, finds what its numpy does."""

    @COMPILER
    @pytest.mark.thorough
    @pytest.mark.parametrize("place", ["equation", pytest.param("literals", marks=pytest.mark.slow)])
    def test_the_gradient_of_a_program_is_that_of_numpy(self, place):
        net = around(neuron(place))
        one, other = (
            numbers(lp.gradient(net, some_trials(), eprop(reset=True), backend="brian2", target=target))
            for target in ("cpp", "numpy")
        )
        assert np.abs(other["cues_it.gradient"]).min() > 0
        assert_same(one, other, rtol=1e-12)

    @COMPILER
    @pytest.mark.slow
    def test_every_word_in_one_program(self):
        letters = {"x": "first", "y": "second_"}
        texts = [re.sub(r"\b[xy]\b", lambda found: letters[found[0]], text) for text in WORDS]
        names = [f"r{n}" for n in range(len(WORDS))]
        model = NeuronModel(
            "words", "\n".join(f"{name} : 1" for name in ("v", *names)), dict.fromkeys(letters.values(), 1.0),
            update="\n".join(f"{name} = {text}" for name, text in zip(names, texts, strict=True)),
        )  # fmt: skip
        values = {letters[name]: array for name, array in points().items()}
        cells = lp.Population(len(points()["x"]), model, values)
        net = lp.Network(dt=1 * ms, cues=lp.Input(1), it=cells, projections=[lp.Projection("cues", "it", weight=0.0)])
        silent, asked = lp.Trials({"cues": np.zeros((1, 1, 1), bool)}), [f"it.{name}" for name in names]
        found = lp.run(net, silent, target="cpp", record=asked)
        expected = by_tape([to_sympy(text) for text in WORDS], points())
        assert_all_equal([found["it"][name].values[0, 0] for name in names], expected, WORDS, rtol=1e-12)


# ---------------------------------------------------------------------------------------------- statements in sequence


def by_hand(reset, v=2.25, u=0.5):
    """What a spike makes of v and u, statement after statement, as Python runs them."""
    state = {"v": v, "u": u}
    for line in reset.replace(";", "\n").splitlines():
        name, operator, right = line.partition("=")
        last = name[-2:] if name[-2:] in ("**", "//") else name[-1] if name[-1] in "+-*/%" else ""
        name = name.removesuffix(last).strip()
        right = {"v - 1": lambda s: s["v"] - 1, "0.1*v": lambda s: 0.1 * s["v"], "0.1*q": lambda s: 0.1 * 2 * s["v"],
                 "v": lambda s: s["v"], "u": lambda s: s["u"], "u + v": lambda s: s["u"] + s["v"], "old": lambda s: s["old"]}.get(
            right.strip()) or (lambda s, number=right: float(number))  # fmt: skip
        value = right(state)
        operation = {"": lambda a, b: b, "+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide, "//": np.floor_divide,
                     "%": np.mod, "**": np.power}[last]  # fmt: skip
        state[name] = float(operation(state.get(name, 0.0), value))
    return state["v"], state["u"]


RESETS = [
    "v -= 1\nu += 0.1*v", "v = v - 1; u += 0.1*q", "v -= 1\nv *= 2\nu += 0.1*v", "u += 0.1*v\nv -= 1\nu += v\nv = u + v",
    "old = v\nv = u\nu = old", "v **= 2\nv //= 2\nu /= 4", "v %= 0.7\nu -= 3\nu = u + v",
]  # fmt: skip


class TestSequence:
    """A statement reads what those before it have written: in text, in a subexpression, in a name of its own."""

    @pytest.mark.sampled(3)
    @pytest.mark.parametrize("block", ["reset", "adaptation", "update"])
    def test_of_statements_is_that_of_python(self, block):
        for reset in RESETS:
            model = NeuronModel(
                name="m", equations="dv/dt = 0*v/second : 1\ndu/dt = 0*u/second : 1\nq = 2*v : 1", method="euler",
                initial={"v": 2.25, "u": 0.5}, threshold="v > 1", surrogate=triangle(1.0), **{block: reset},
            )  # fmt: skip
            net = lp.Network(
                dt=1 * ms,
                cues=lp.Input(1),
                it=lp.Population(1, model),
                projections=[lp.Projection("cues", "it", weight=0.0)],
            )
            trials = lp.Trials({"cues": np.zeros((1, 1, 1), bool)})
            for backend in ("brian2", "torch"):
                found = lp.run(net, trials, backend=backend, record=["it.v", "it.u"])["it"]
                state = [float(found[name].values[0, 0, 0]) for name in "vu"]
                np.testing.assert_allclose(state, by_hand(reset), rtol=1e-14, err_msg=f"{backend}: {reset}")
