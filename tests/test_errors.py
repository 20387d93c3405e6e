"""Bad input is refused when it is made, by a message that names the object, the value, what is legal and the way
out.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from brian2 import ms, mV, nA

from localplast.backends.brian2 import learner as brian2_backend
from localplast.backends.brian2.learner import block_for, gradient
from localplast.backends.brian2.session import session
from localplast.backends.torch import gradient as torch_backend
from localplast.backends.torch.step import Twin, leaves
from localplast.errors import DatasetError, LocalplastError, ModelError, NetworkError, RunawayError, UnsupportedError
from localplast.models import cuba_lif, eprop_2020, leaky_readout, lif, van_rossum_readout
from localplast.network import Delay, Input, Network, Population, Projection, axonal, dendritic, normal, synaptic
from localplast.neuron import NeuronModel
from localplast.neuron.step import lower
from localplast.neuron.surrogate import Surrogate, triangle
from localplast.rules import bptt, decolle, dfa, drtp, eprop, feedback_alignment, ottt, rtrl, sltt, superspike
from localplast.task import Poisson, Trials
from localplast.task.loss import mse

# ---------------------------------------------------------------------------------------------- models


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
}  # fmt: skip


@pytest.mark.parametrize("case", MODELS)
def test_a_model_that_means_nothing_is_refused(case):
    make, message = MODELS[case]
    with pytest.raises(ModelError, match=f"(?s)^cell: .*(?:{message})"):
        make()


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


# ---------------------------------------------------------------------------------------------- networks


def follower():
    return NeuronModel(
        name="follower",
        equations="dv/dt = (-v + I)/tau : 1\n I : 1",
        parameters={"tau": 5 * ms},
        receives="I",
        output="v",
    )


def network(*projections, dt=1 * ms, **nodes):
    nodes = {
        "cues": Input(3), "drive": Input(2, "currents"), "rec": Population(4, lif()), "volts": Population(2, cuba_lif()),
        "out": Population(2, leaky_readout()), "echo": Population(2, follower()), **nodes,
    }  # fmt: skip
    return Network(dt=dt, projections=projections, **nodes)


def cues_rec(**options):
    return network(Projection("cues", "rec", **options))


NETWORKS = {
    "step without unit": (lambda: network(dt=1), r"^the time step must be a positive time such as 1\*ms, not 1$"),
    "negative step": (lambda: network(dt=-1 * ms), r"must be a positive time such as 1\*ms, not -1"),
    "two steps": (lambda: network(dt=[1, 2] * ms), r"must be a positive time such as 1\*ms, not array"),
    "name of a population": (lambda: network(_p=Input(2)), r"^'_p' cannot name a population: such names are Brian2's own; take another$"),
    "name with a space": (lambda: network(**{"a b": Input(2)}), r"^'a b' cannot name a population; use letters, digits and under"),
    "reserved name": (lambda: network(t=Input(2)), r"^'t' cannot name a population: such names are Brian2's own; take another$"),
    "name of an end": (lambda: network(pre=Input(2)), r"^'pre' ends as Brian2 calls what belongs to the two ends of a synapse"),
    "something else": (lambda: network(p=3), r"^'p' is a int; a network holds Population and Input$"),
    "no neurons": (lambda: network(p=Input(0)), r"^'p' needs a positive whole number of neurons, not 0$"),
    "half a neuron": (lambda: network(p=Input(2.5)), r"^'p' needs a positive whole number of neurons, not 2.5$"),
    "kind of input": (lambda: network(p=Input(2, "rates")), r"^input 'p': kind is 'spikes' or 'currents', not 'rates'$"),
    "model not called": (
        lambda: network(p=Population(2, lif)), r"^population 'p': the model is a function, not a NeuronModel; write lif\(\)$",
    ),
    "unknown parameter": (
        lambda: network(p=Population(2, lif(), {"tau": 5 * ms})),
        r"^population 'p': lif has no 'tau'; it has \['tau_mem', 'tau_ref', 'v_th'\]$",
    ),
    "unit of a parameter": (
        lambda: network(p=Population(2, lif(), {"tau_mem": 5 * mV})),
        r"^population 'p': tau_mem = 5. mV has the wrong unit; it is measured in second$",
    ),
    "shape of a parameter": (
        lambda: network(p=Population(2, lif(), {"tau_mem": [1, 2, 3] * ms})),
        r"^population 'p': tau_mem has shape \(3,\); give one value or 2$",
    ),
    "parameter that is no number": (
        lambda: network(p=Population(2, lif(), {"v_th": "high"})), r"^population 'p': v_th = 'high' is not a finite number",
    ),
    "parameter that is nan": (
        lambda: network(p=Population(2, lif(), {"tau_mem": np.nan * ms})), r"^population 'p': tau_mem = nan .* is not a finite",
    ),
    "negative refractory period": (
        lambda: network(p=Population(2, lif(), {"tau_ref": -1 * ms})),
        r"^population 'p': the refractory period 'tau_ref' is negative$",
    ),
    "unit of an initial value": (
        lambda: network(p=Population(2, lif(), {}, {"v": 1 * mV})),
        r"^population 'p': v = 1. mV has the wrong unit; it is measured in 1 \(no unit\)$",
    ),
    "initial value of nothing": (
        lambda: network(p=Population(2, lif(), {}, {"q": 1})), r"^population 'p': lif has no 'q'; it has \['v'\]$",
    ),
    "missing source": (
        lambda: network(Projection("nobody", "rec")),
        r"^projection 'nobody_rec': there is no 'nobody' in the network; it has \['cues', 'drive', 'echo', 'out'",
    ),
    "missing target": (lambda: network(Projection("cues", "nobody")), r"^projection 'cues_nobody': there is no 'nobody'"),
    "target that is an input": (
        lambda: network(Projection("rec", "cues")), r"^projection 'rec_cues': 'cues' is an input and cannot receive$",
    ),
    "two of one name": (
        lambda: network(Projection("cues", "rec"), Projection("cues", "rec")),
        r"^two parts are called 'cues_rec'; give the projection another name=$",
    ),
    "name of a projection": (lambda: cues_rec(name="a b"), r"^projection 'a b': 'a b' cannot name a projection"),
    "role": (
        lambda: cues_rec(role="back"), r"^projection 'cues_rec': role is 'forward' or 'feedback', not 'back'$",
    ),
    "transmission": (
        lambda: cues_rec(transmission="spikes"), r"^projection 'cues_rec': transmission is 'event' or 'graded', not 'spikes'$",
    ),
    "events of a readout": (
        lambda: network(Projection("out", "rec", transmission="event")),
        r"^projection 'out_rec': 'out' does not spike; use transmission='graded'$",
    ),
    "graded values of a spiking neuron": (
        lambda: network(Projection("rec", "echo", transmission="graded")),
        r"^projection 'rec_echo': lif has no graded output; give the model output='...', or say which of its variables "
        r"travels: .*$",
    ),
    "graded values of spikes": (
        lambda: network(Projection("cues", "echo", transmission="graded")),
        r"^projection 'cues_echo': 'cues' gives spikes; use Input\(3, 'currents'\) for graded values$",
    ),
    "graded target with an equation": (
        lambda: network(Projection("drive", "rec")),
        r"^projection 'drive_rec': a graded projection sets its target, so 'v' must be declared without an equation "
        r"\('v : unit'\); lif has none$",
    ),
    "graded target that the update map changes": (
        lambda: network(Projection("drive", "p"), p=Population(2, eprop_2020())),
        r"^projection 'drive_p': .* eprop_2020 changes 'I' itself; let it receive by another variable$",
    ),
    "unknown target": (
        lambda: cues_rec(target="I"), r"^projection 'cues_rec': lif has no variable 'I'; it has \['v'\]$",
    ),
    "target that is Brian2's "
    "own": (lambda: cues_rec(target="lastspike"), r"lif has no variable 'lastspike'; it has \['v'\]$"),
    "unit of a weight": (
        lambda: network(Projection("cues", "volts", weight=3 * nA)),
        r"^projection 'cues_volts': the weight 3. \* namp has the wrong unit; 'I' of cuba_lif needs volt$",
    ),
    "unit of a weight without unit": (
        lambda: cues_rec(weight=3 * mV), r"the weight 3. \* mvolt has the wrong unit; 'v' of lif needs 1 \(no unit\)$",
    ),
    "unit of drawn weights": (
        lambda: cues_rec(weight=normal(3 * mV)), r"the weight 3. \* mvolt has the wrong unit; 'v' of lif needs 1 \(no unit\)$",
    ),
    "unit of the mean of drawn weights": (
        lambda: cues_rec(weight=normal(3, mean=1 * mV)), r"the mean weight 1. \* mvolt has the wrong unit",
    ),
    "unit of a graded weight": (
        lambda: network(Projection("out", "echo", weight=1 * mV)),
        r"^projection 'out_echo': the weight 1. \* mvolt has the wrong unit; 'I' of follower needs 1 \(no unit\)$",
    ),
    "shape of weights": (
        lambda: cues_rec(weight=np.ones((4, 3))),
        r"^projection 'cues_rec': the weight has shape \(4, 3\); \(pre, post\) is \(3, 4\)$",
    ),
    "weights in a row": (lambda: cues_rec(weight=np.ones(3)), r"the weight has shape \(3,\); \(pre, post\) is \(3, 4\)$"),
    "weights that are nan": (
        lambda: cues_rec(weight=np.full((3, 4), np.nan)), r"^projection 'cues_rec': the weight .* is not made of finite numbers$",
    ),
    "weights that are no numbers": (lambda: cues_rec(weight="big"), r"the weight 'big' is not made of finite numbers$"),
    "shape of a mask": (lambda: cues_rec(mask=np.ones((4, 3))), r"the mask has shape \(4, 3\); \(pre, post\) is \(3, 4\)$"),
    "probability of a mask": (
        lambda: cues_rec(mask=1.5), r"the mask 1.5 is not a probability; give a number from 0 to 1 or a bool array$",
    ),
    "delay without kind": (
        lambda: cues_rec(delay=3 * ms), r"the delay 3. \* msecond has no kind; write axonal\(...\), dendritic\(...\) or syn",
    ),
    "kind of delay": (
        lambda: cues_rec(delay=Delay("somatic", 1 * ms)), r"a delay is axonal, dendritic or synaptic, not 'somatic'$",
    ),
    "delay without unit": (lambda: cues_rec(delay=axonal(3)), r"the delay 3 is not a time; write for example 3\*ms$"),
    "delay that is no time": (lambda: cues_rec(delay=axonal(3 * mV)), r"the delay 3. \* mvolt is not a time; write for"),
    "negative delay": (
        lambda: cues_rec(delay=dendritic([1, -1, 2, 0] * ms)),
        r"^projection 'cues_rec': impossible delay; all must lie between 0 and 100000 steps of 1. ms, "
        r"these range from -1 to 2 steps$",
    ),
    "huge delay": (lambda: cues_rec(delay=axonal(1e6 * ms)), r"impossible delay; .* these range from 1e\+06 to 1e\+06 steps$"),
    "delay that is nan": (lambda: cues_rec(delay=axonal(np.nan * ms)), r"impossible delay; "),
    "shape of an axonal delay": (
        lambda: cues_rec(delay=axonal(np.ones(4) * ms)), r"the axonal delay has shape \(4,\); give one value or \(3,\)$",
    ),
    "shape of a dendritic delay": (
        lambda: cues_rec(delay=dendritic(np.ones(3) * ms)), r"the dendritic delay has shape \(3,\); give one value or \(4,\)$",
    ),
    "shape of synaptic delays": (
        lambda: cues_rec(delay=synaptic(np.ones((4, 3)) * ms)),
        r"the synaptic delay has shape \(4, 3\); give one value or \(3, 4\)$",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NETWORKS)
def test_a_network_that_does_not_fit_together_is_refused(case):
    make, message = NETWORKS[case]
    with pytest.raises(NetworkError, match=f"(?s){message}"):
        make()


# ---------------------------------------------------------------------------------------------- trials

RASTER, CURRENT = np.zeros((2, 10, 3), bool), np.zeros((2, 10, 2))

TRIALS = {
    "missing input": ({"cues": RASTER}, {}, r"^the trials give inputs \['cues'\]; the network has \['cues', 'drive'\]$"),
    "unknown input": ({"cues": RASTER, "drives": CURRENT}, {}, r"^the trials give inputs \['cues', 'drives'\]; the network has"),
    "channels": (
        {"cues": RASTER[..., :2], "drive": CURRENT}, {},
        r"^input 'cues' has shape \(2, 10, 2\); \(trial, time, neuron\) is \(2, 10, 3\)$",
    ),
    "steps": ({"cues": RASTER, "drive": CURRENT[:, :9]}, {}, r"^input 'drive' has shape \(2, 9, 2\); .* is \(2, 10, 2\)$"),
    "number of trials": ({"cues": RASTER, "drive": CURRENT[:1]}, {}, r"^input 'drive' has shape \(1, 10, 2\)"),
    "spikes as numbers": (
        {"cues": RASTER * 1.0, "drive": CURRENT}, {}, r"^input 'cues' carries spikes: give a bool raster, not float64$",
    ),
    "currents as spikes": (
        {"cues": RASTER, "drive": CURRENT > 0}, {}, r"^input 'drive' carries currents: give a float array, not bool$",
    ),
    "currents as rates": (
        {"cues": RASTER, "drive": Poisson(np.zeros((2, 1, 2)), 10)}, {},
        r"^input 'drive' carries currents: give a float array, not Poisson$",
    ),
    "weight of the steps": (
        {"cues": RASTER, "drive": CURRENT}, {"weight": np.ones(9)}, r"weight of the steps has shape \(9,\); \(time,\) is \(10,\)$",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TRIALS)
def test_trials_that_do_not_fit_the_network_are_refused(case):
    inputs, options, message = TRIALS[case]
    with pytest.raises(NetworkError, match=message):
        Trials(inputs, **options).check(network())
    Trials({"cues": RASTER, "drive": CURRENT}, weight=np.ones(10)).check(network())


# ---------------------------------------------------------------------------------------------- backends


def noisy():
    return NeuronModel(
        name="noisy",
        equations="dv/dt = -v/tau + tau**-0.5*xi : 1",
        parameters={"tau": 5 * ms},
        method="euler",
        output="v",
    )


def test_torch_refuses_uniform_noise():
    model = replace(noisy(), update="v = v + rand()")
    net = network(p=Population(2, model))
    values = net.draw(0)
    with pytest.raises(UnsupportedError, match="^population 'p': noisy draws rand.., .* use backend='brian2'$"):
        Twin(net, leaves(net, values), values.masks)


def test_an_unknown_trainable_name_is_refused():
    net = cues_rec()
    with pytest.raises(
        NetworkError, match=r"^cannot train \['rec.tau'\]; the network has cues_rec.weight, cues_rec.delay, "
    ):
        leaves(net, net.draw(0), trainable=["rec.tau", "rec.tau_mem"])
    assert leaves(net, net.draw(0), trainable=["rec.tau_mem"])["rec.tau_mem"].requires_grad


def start_brian2(net, target="numpy"):
    trials = Trials({"cues": np.zeros((1, 5, 3), bool), "drive": np.zeros((1, 5, 2))})
    return session(target, net, net.draw(0), block_for(net, trials), trials)


def test_brian2_refuses_graded_delays_between_two_steps():
    net = network(Projection("drive", "echo", delay=axonal(2.5 * ms, trainable=True)))
    with pytest.raises(
        UnsupportedError,
        match="^projection 'drive_echo': graded transmission with a delay between two steps needs backend='torch'$",
    ):
        start_brian2(net)


def test_brian2_refuses_spikes_onto_what_graded_projections_set():
    net = network(Projection("drive", "echo"), Projection("cues", "echo"))
    with pytest.raises(
        UnsupportedError,
        match="^projection 'cues_echo': in Brian2 spikes cannot add to 'I' of 'echo', which graded .* or use backend='torch'$",
    ):
        start_brian2(net)
    values = net.draw(0)
    Twin(net, leaves(net, values), values.masks).start(
        {"cues": torch.zeros(5, 1, 3, dtype=torch.float64), "drive": torch.zeros(5, 1, 2, dtype=torch.float64)}
    )


def test_brian2_refuses_an_unknown_target():
    with pytest.raises(LocalplastError, match="^target is 'numpy' or 'cython' or 'cpp', not 'weave'$"):
        start_brian2(cues_rec(), "weave")


def test_brian2_refuses_rules_that_are_not_local():
    net = cues_rec()
    trials = Trials({"cues": np.zeros((1, 5, 3), bool), "drive": np.zeros((1, 5, 2))})
    with pytest.raises(UnsupportedError, match="differentiates through the whole trial; use backend='torch'$"):
        gradient(net, net.draw(0), trials, bptt(), mse())


# ---------------------------------------------------------------------------------------------- rules


def layers(*more, low=None, readout=None, delay=None, plastic=True, **nodes):
    """cues -> low -> top -> out."""
    links = [
        Projection("cues", "low"), Projection("low", "top", delay=delay, plastic=plastic), Projection("top", "out"), *more,
    ]  # fmt: skip
    made = {
        "low": Population(4, low or lif()),
        "top": Population(5, lif()),
        "out": Population(2, readout or leaky_readout()),
    }
    return Network(dt=1 * ms, cues=Input(3), **{**made, **nodes}, projections=links)


def silent_type():
    """A neuron that spikes, without a surrogate."""
    return NeuronModel(
        name="mute",
        equations="dv/dt = -v/tau : 1",
        threshold="v > 1",
        reset="v = 0",
        parameters={"tau": 5 * ms},
        receives="v",
    )


def slow_type():
    """A neuron whose spikes follow its input two steps late."""
    return NeuronModel(
        name="slow", equations="v : 1\n I : 1\n J : 1", update="v = I\n I = J\n J = 0", threshold="v > 1", receives="J",
        surrogate=triangle("1"),
    )  # fmt: skip


NO_SURROGATE = r"^population 'low': mute spikes but has no surrogate, so projection 'cues_low' cannot learn; give the model surrogate=triangle\(\)"
RULES = {
    "e-prop without surrogate": (lambda: layers(low=silent_type()), lambda: eprop(feedback="random"), NO_SURROGATE),
    "a layered rule without surrogate": (lambda: layers(low=silent_type()), ottt, NO_SURROGATE),
    "BPTT without surrogate": (lambda: layers(low=silent_type()), bptt, NO_SURROGATE),
    "no readout": (
        lambda: Network(dt=1 * ms, cues=Input(3), low=Population(4, lif()), projections=[Projection("cues", "low")]), dfa,
        r"^a loss needs a readout \(a population without threshold, with an output, .*\); this network has none$",
    ),
    "readouts of different size": (
        lambda: layers(Projection("low", "aside"), aside=Population(3, leaky_readout())), decolle,
        r"^the readouts of a network share one target, so they need outputs of one number; here: out \(2\), aside "
        r"\(3\)$",
    ),
    "shape of feedback": (
        layers, lambda: dfa(feedback={"low": np.ones((2, 4)), "top": np.ones((5, 2))}),
        r"^feedback to 'low' has shape \(2, 4\); \(neuron, source\) is \(4, 2\)$",
    ),
    "shape of feedback to a layer": (
        layers, lambda: ottt(feedback={"low": np.ones((4, 2)), "top": np.ones((5, 2))}),
        r"^feedback to 'low' has shape \(4, 2\); \(neuron, source\) is \(4, 5\)$",
    ),
    "shape of feedback of BPTT": (
        layers, lambda: bptt(feedback={"low_top": np.ones((5, 4))}), r"^feedback to 'low_top' has shape \(5, 4\); .* is \(4, 5\)$",
    ),
    "feedback to somebody else": (
        layers, lambda: dfa(feedback={"rec": np.ones((4, 2))}), r"^feedback has no matrix for 'low'; it has \['rec'\]$",
    ),
    "feedback of BPTT to somebody else": (
        layers, lambda: bptt(feedback={"rec": np.ones((4, 2))}),
        r"^feedback names \['rec'\]; errors come back along low_top, top_out$",
    ),
    "signs in automatic differentiation": (
        layers, lambda: bptt(feedback="sign"), r"fixed matrices, not 'sign' feedback; use a layered local rule such as ottt\(\)",
    ),
    "learned feedback in automatic "
    "differentiation": (layers, lambda: bptt(feedback="learned"), r"not 'learned' feedback; use a"),
    "symmetric feedback without a path": (
        layers, eprop,
        r"^symmetric feedback needs a projection from 'low' to 'out', whose weights would .*; use feedback='random'$",
    ),
    "signs without a path": (layers, lambda: eprop(feedback="sign"), r"^sign feedback needs a projection from 'low' to 'out'"),
    "learned feedback without a "
    "path": (layers, lambda: eprop(feedback="learned"), r"^learned feedback needs a projection from 'low'"),
    "several paths to one readout": (
        lambda: layers(Projection("top", "out", name="again")), lambda: eprop(feedback="random"),
        r"^projections top_out, again: errors come back from 'out' to 'top' along one projection only; put the weights "
        r"into one",
    ),
    "several paths to one layer": (
        lambda: layers(Projection("low", "top", name="again")), ottt, r"^projections low_top, again: errors come back from 'top' to 'low'",
    ),
    "a layered signal on a cycle": (
        lambda: layers(Projection("top", "low")), sltt,
        r"population 'low' projects to nobody|populations \['low', 'top'\] lie on a cycle",
    ),
    "a layered signal on paths of different length": (
        lambda: layers(Projection("low", "out")), ottt,
        r"^population 'low': errors come back to it after \[0, 1\] steps by its several paths; a layered signal needs "
        r"paths of one",
    ),
    "a layered signal through unequal delays": (
        lambda: layers(delay=axonal([0, 1, 2, 3] * ms)), ottt,
        r"^projection 'low_top': a layered signal needs one delay for all of its synapses$",
    ),
    "a layered signal to a dead end": (
        lambda: layers(Projection("cues", "end"), end=Population(3, lif())), ottt,
        r"^population 'end' projects to nobody, so no layered error reaches it$",
    ),
    "a layered signal through a neuron with too long a memory": (
        lambda: layers(top=Population(5, slow_type())), ottt,
        r"^population 'top': what lands on 'J' of slow moves its spikes later than one step after, or never, and a "
        r"layered signal",
    ),
    "no filter before a readout that is late": (
        lambda: layers(readout=van_rossum_readout()), dfa,
        r"^population 'out': a spike shows in the output of van_rossum_readout later than in its own step, so a rule "
        r"without a filter",
    ),
    "learned feedback beside fixed weights": (
        lambda: layers(plastic=False), lambda: ottt(feedback="learned"),
        r"^projection 'low_top': feedback learns beside forward weights that do; make them plastic$",
    ),
    "a delay before the readout": (
        lambda: layers(Projection("low", "out", delay=axonal(2 * ms))), dfa,
        r"^projection 'low_out': a delayed path to the readout would need a delayed eligibility; remove the delay$",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RULES)
def test_a_rule_that_does_not_fit_the_network_is_refused(case, monkeypatch):
    """By both backends, before Brian2 builds or a kernel is compiled."""

    def built(*args, **options):
        raise AssertionError("something was built")

    monkeypatch.setattr(brian2_backend, "session", built)
    monkeypatch.setattr(torch_backend, "simulate", built)
    make, rule, message = RULES[case]
    net, rule = make(), rule()
    trials = Trials({"cues": np.zeros((1, 5, 3), bool)}, np.zeros((1, 5, 2)))
    backends = [torch_backend, brian2_backend] if rule.local else [torch_backend]
    for backend in backends:
        with pytest.raises((NetworkError, UnsupportedError), match=f"(?s){message}"):
            backend.gradient(net, net.draw(0), trials, rule, mse())


@pytest.mark.parametrize("kind", ["transposed", 3, None, np.ones((4, 2)), ["random"]], ids=str)
@pytest.mark.parametrize(
    "make", [bptt, eprop, ottt, superspike, decolle, lambda feedback: feedback_alignment(eprop(), feedback)]
)
def test_unknown_feedback_is_refused(make, kind):
    with pytest.raises(
        NetworkError, match=r"^feedback is one of symmetric, random, .*, or a dict of matrices by population.*; not "
    ):
        make(feedback=kind)


@pytest.mark.parametrize("update", ["epoch", 5, 0 * ms, -5 * ms, 5 * mV, None, [1, 2] * ms], ids=str)
@pytest.mark.parametrize("make", [eprop, superspike, decolle, ottt, dfa, drtp])
def test_an_update_that_is_no_time_is_refused(make, update):
    with pytest.raises(LocalplastError, match=r"^update is 'trial', 'step' or a time such as 500\*ms, not "):
        make(update=update)


@pytest.mark.parametrize(
    "rule, reason", [(bptt(), "bptt differentiates through"), (rtrl(), "rtrl carries the derivatives of")]
)
def test_brian2_refuses_each_rule_that_is_not_local(rule, reason):
    net = layers()
    trials = Trials({"cues": np.zeros((1, 5, 3), bool)}, np.zeros((1, 5, 2)))
    with pytest.raises(UnsupportedError, match=f"^{reason} .*; use backend='torch'$"):
        gradient(net, net.draw(0), trials, rule, mse())


def test_errors_can_be_caught_by_the_kind_of_trouble():
    for error, kind in ((ModelError, ValueError), (NetworkError, ValueError), (UnsupportedError, NotImplementedError),
                        (DatasetError, FileNotFoundError), (RunawayError, ArithmeticError)):  # fmt: skip
        assert issubclass(error, LocalplastError) and issubclass(error, kind)
    assert RunawayError("it ran away", record="kept").record == "kept"
