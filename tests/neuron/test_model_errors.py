"""A model that means nothing is refused when it is made, by a message that names it, the value and the way out."""

import pytest
from brian2 import ms, mV, nA

from localplast import surrogate
from localplast.errors import LocalplastError, ModelError
from localplast.neuron import NeuronModel
from localplast.neuron.step import lower
from localplast.neuron.surrogate import Surrogate, triangle


def model(equations="dv/dt = -v/tau : volt", *, parameters=None, **options):
    return NeuronModel(
        name="cell", equations=equations, parameters=parameters or {"tau": 5 * ms, "v_th": 1 * mV}, **options
    )


def spiking(**options):
    return model(**{"threshold": "v > v_th", **options})


MODELS = {
    "unit of an ODE": (
        lambda: model("dv/dt = -v : volt"),
        r"unit mismatch in the equation 'dv/dt = -v': Expression '-v' does not have the expected unit",
    ),
    "unit of a subexpression": (
        lambda: model("dv/dt = -v/tau : volt\n g = v/tau : volt"),
        r"unit mismatch in the equation 'g = v/tau'.*expected unit volt",
    ),
    "unit of a threshold": (
        lambda: model(threshold="v > 1"),
        r"unit mismatch in the threshold: Expression 'v - 1' uses inconsistent units \('v' has unit V; '1' has unit "
        r"1\)",
    ),
    "unit of a reset": (
        lambda: spiking(reset="v = 0"),
        r"unit mismatch in the reset 'v = 0': .* \(unit is 1\)",
    ),
    "unit of an adaptation": (lambda: spiking(adaptation="v += 1"), r"unit mismatch in the adaptation 'v \+= 1'"),
    "unit of an update": (lambda: model(update="v = 1"), r"unit mismatch in the update 'v = 1'"),
    "unit of an output": (lambda: model(output="v + 1"), r"unit mismatch in the output: Expression 'v \+ 1'"),
    "unit of a surrogate": (lambda: spiking(surrogate=triangle("1")), r"unit mismatch in the surrogate: .*'1' has unit 1"),
    "surrogate with the unit of the spike": (
        lambda: spiking(surrogate=Surrogate("x/v_th")), r"unit mismatch in the surrogate: Expression 'x/v_th'",
    ),
    "unit of an initial value": (
        lambda: model(initial={"v": 1}), r"the initial value 1 of 'v' has the wrong unit; it needs volt",
    ),
    "unit of a declared parameter": (
        lambda: model("dv/dt = -v/tau + I/tau : volt\n I : volt", parameters={"tau": 5 * ms, "I": 1 * nA}),
        r"the parameter I = 1. nA has the wrong unit; the equations say volt",
    ),
    "unit that does not exist": (
        lambda: model("dv/dt = -v/tau : bananas"), r"the equations do not parse: .*'bananas'.*allowed: amp",
    ),
    "unknown variable": (
        lambda: model("dv/dt = -v/tau + q/tau : volt"),
        r"unknown variable 'q' in the equation 'dv/dt = -v/tau \+ q/tau'; give it a value in parameters=\{'q': ...\} "
        r"or declare",
    ),
    "unknown variable in a threshold": (
        lambda: model(threshold="v > v_thresh"), r"unknown variable 'v_thresh' in the threshold; give it a value",
    ),
    "unknown variable in a reset": (lambda: spiking(reset="v = v_0"), r"unknown variable 'v_0' in the reset 'v = v_0'"),
    "unknown variable in a surrogate": (
        lambda: spiking(surrogate=triangle("width")), r"unknown variable 'width' in the surrogate; give it a value",
    ),
    "reset of an unknown variable": (lambda: spiking(reset="q = 0*mV"), r"unknown variable 'q' in the reset 'q = 0\*mV': .* no later statement of the reset reads it"),
    "reset of a parameter": (
        lambda: spiking(reset="tau = 3*ms"), r"the reset assigns the parameter 'tau'; only variables may change",
    ),
    "reset without threshold": (
        lambda: model(reset="v = 0*mV"), r"a reset but no threshold; add threshold='v > v_th' or drop the reset",
    ),
    "reset that does not parse": (lambda: spiking(reset="v = = 3*mV"), r"the reset 'v = = 3\*mV' does not parse"),
    "equations that do not "
    "parse": (lambda: model("dv/dt = -v/tau + : volt"), r"the equations do not parse: invalid syntax"),
    "equations that are none": (lambda: model("nonsense"), r"the equations do not parse: .*\nnonsense\n\^"),
    "threshold that does not "
    "parse": (lambda: model(threshold="v > > 1*mV"), r"the threshold 'v > > 1\*mV' does not parse"),
    "unknown method": (
        lambda: model(method="eular"), r"unknown integration method 'eular'; Brian2 has euler, exact, exponential_euler",
    ),
    "time in the equations": (
        lambda: model("dv/dt = -v/tau*sin(t/tau) : volt"), r"the equations use 't'; .* use|drive the neuron with an Input",
    ),
    "two values of one variable": (
        lambda: model(parameters={"tau": 5 * ms, "v": 1 * mV}), r"'v' has an equation and a value in parameters",
    ),
    "parameter that is no number": (
        lambda: model(parameters={"tau": "5 ms"}), r"the parameter tau = '5 ms' is not a number; write for example 5\*ms",
    ),
    "nothing to receive by": (
        lambda: model(receives="I"), r"receives='I' is not a variable of the equations; they define \['v'\]",
    ),
    "initial value of nothing": (lambda: model(initial={"q": 1}), r"initial='q' is not a variable of the equations"),
    "refractory period as text": (
        lambda: spiking(refractory="5*ms"), r"refractory='5\*ms' must name a parameter, such as 'tau_ref'",
    ),
    "refractory period that is no time": (
        lambda: spiking(refractory="v_th"), r"the refractory period 'v_th' is not a time",
    ),
    "negative refractory period": (
        lambda: spiking(refractory="tau_ref", parameters={"tau": 5 * ms, "v_th": 1 * mV, "tau_ref": -1 * ms}),
        r"the refractory period 'tau_ref' is negative",
    ),
    "flag that is not supported": (
        lambda: model("dv/dt = -v/tau : volt (shared)"), r"the flag \(shared\) of 'v' is not supported",
    ),
    "clamp without refractoriness": (
        lambda: spiking(equations="dv/dt = -v/tau : volt (unless refractory)"),
        r"'v' is \(unless refractory\), but the model has no refractory='tau_ref'",
    ),
    "model that divides by nothing": (
        lambda: model("dv/dt = -v/(tau*(a - b)) : 1", parameters={"tau": 5 * ms, "a": 1.0, "b": 1.0}), "is zero",
    ),
    "model with a root of a negative": (
        lambda: model("dv/dt = -v*sqrt(a)/tau : 1", parameters={"tau": 5 * ms, "a": -1.0}), "of a, which is negative",
    ),
    "model with no time constant": (lambda: model(parameters={"tau": 0 * ms}), "the equations divide by tau"),
    "model with a negative one": (lambda: model(parameters={"tau": -5 * ms}), "make it a time above zero"),
    "model with no resistance": (lambda: model("dv/dt = -v/(tau*R) : 1", parameters={"tau": 5 * ms, "R": 0.0}), "divide by R = 0.0; make it not zero"),
    "model with a complex parameter": (lambda: model(parameters={"tau": 5j * ms}), "tau = .* is not a number"),
    "model with NaN": (lambda: model(parameters={"tau": float("nan") * ms}), "tau = .* is not a number"),
    "complex start": (lambda: model(initial={"v": 1j}), "initial value 1j of 'v' is not a number"),
    "refractory below zero": (lambda: spiking(refractory=-1 * ms), "refractory period 'tau_ref' is negative"),
    "refractory voltage": (lambda: spiking(refractory=1 * mV), "refractory period 'tau_ref' is not a time"),
    "refractory twice": (
        lambda: spiking(parameters={"tau": 5 * ms, "v_th": 1 * mV, "tau_ref": 1 * ms}, refractory=2 * ms),
        "write refractory='tau_ref'",
    ),
    "exact method on a square": (lambda: model("dv/dt = -v**2/tau : 1"), "method 'exact' cannot integrate these equations"),
    "linear steps of a square": (lambda: model("dv/dt = v*v/tau : 1", method="exponential_euler"), "method 'exponential_euler' cannot integrate"),
    "noise and rk4": (lambda: model("dv/dt = -v/tau + xi/tau**0.5 : 1", method="rk4"), "method 'rk4' cannot integrate"),
    "noise that multiplies": (lambda: model("dv/dt = -v/tau + v*xi/tau**0.5 : 1", method="euler"), "'heun' or 'milstein'"),
    "method without text": (lambda: model(method="gsl"), "unknown integration method 'gsl'; Brian2 has euler"),
}  # fmt: skip


@pytest.mark.parametrize("case", MODELS)
def test_a_model_that_means_nothing_is_refused(case):
    make, message = MODELS[case]
    with pytest.raises(ModelError, match=f"(?s)^cell: .*(?:{message})"):
        make()


@pytest.mark.parametrize("name, value", [("surrogate", "triangle"), ("refractory", 5)])
def test_what_is_of_another_type_is_refused(name, value):
    with pytest.raises(ModelError, match=f"^model 'cell': {name} = {value!r} should be of type"):
        spiking(**{name: value})


@pytest.mark.parametrize(
    "threshold", ["v", "v == 1*mV", "v != v_th", "v > 1*mV > 0*mV", "v > v_th and v < 2*v_th", "not (v > v_th)"]
)
def test_a_threshold_is_one_inequality(threshold):
    with pytest.raises(ModelError) as caught:
        model(threshold=threshold)
    assert str(caught.value) == (
        f"cell: the threshold {threshold!r} is not an inequality; write 'left > right', for example 'v > v_th', "
        "so that left - right can be the argument of the surrogate"
    )


@pytest.mark.parametrize(
    "name", ["i", "j", "N", "t", "dt", "xi", "xi_0", "lastspike", "t_in_timesteps", "not_refractory"]
)
def test_what_brian2_calls_its_own_is_refused(name):
    reserved = rf"^cell: the name {name!r} is Brian2's own, as are N, dt.* and names starting with _ or xi_; rename it$"
    by_brian2 = f"^cell: the equations do not parse: {name!r} has a special meaning in equations"
    with pytest.raises(ModelError, match=f"{reserved}|{by_brian2}"):
        model(f"d{name}/dt = -{name}/tau : volt", receives=name)
    with pytest.raises(ModelError, match=reserved):
        model(parameters={"tau": 5 * ms, name: 1.0})


@pytest.mark.parametrize("name", ["exp", "pi", "clip", "mV", "second"])
def test_names_of_brian2_are_refused(name):
    with pytest.raises(
        ModelError, match=f"^cell: the name {name!r} is a function, constant or unit of Brian2; rename it$"
    ):
        model(parameters={"tau": 5 * ms, name: 1.0})


def test_a_method_that_cannot_integrate_names_the_population_model_and_the_way_out():
    with pytest.raises(
        ModelError, match=r"^cell: method 'exact' cannot integrate .*; try 'exponential_euler', 'rk4' or 'euler'$"
    ):
        lower(model("dv/dt = -v**2/tau/mV : volt"))


SURROGATES = {
    "width of nothing": (lambda: surrogate.triangle(0.0), "width of a surrogate is .* a number above 0"),
    "complex width": (lambda: surrogate.fast_sigmoid(1j), "width of a surrogate"),
    "widths": (lambda: surrogate.arctan([1, 2] * mV), "width of a surrogate"),
    "gamma as text": (lambda: surrogate.boxcar(gamma="0.3"), "gamma of a surrogate is one number"),
    "gamma with a unit": (lambda: surrogate.triangle(gamma=1 * mV), "gamma of a surrogate is one number"),
    "time step of nothing": (lambda: surrogate.per_time(surrogate.triangle), "is no surrogate"),
}  # fmt: skip


@pytest.mark.parametrize("case", SURROGATES)
def test_a_surrogate_of_no_size_is_refused(case):
    make, message = SURROGATES[case]
    with pytest.raises(LocalplastError, match=message):
        make()
