"""A network that does not fit together is refused when it is made: the part, the value and the way out are named."""

import numpy as np
import pytest
from brian2 import ms, mV, nA

from localplast.errors import LocalplastError, NetworkError
from localplast.models import cuba_lif, eprop_2020, leaky_readout, lif
from localplast.network import (
    Delay,
    Input,
    Network,
    Population,
    Projection,
    Random,
    axonal,
    dendritic,
    normal,
    synaptic,
)
from localplast.neuron import NeuronModel


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


def rec(**options):
    return network(rec=Population(4, lif(), **options))


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
    "negative spread": (lambda: normal(-1.0), "weights cannot be spread by -1.0"),
    "complex weights of synapses": (lambda: cues_rec(weight=np.ones((3, 4)) * 1j), "weight .* is not made of finite numbers"),
    "complex delay": (lambda: cues_rec(delay=axonal(1j * ms)), "delay .* is not a time"),
    "mask of anything": (lambda: cues_rec(mask=np.full((3, 4), 0.5)), "mask .* is no bool array, nor a number from 0 to 1"),
    "complex mask": (lambda: cues_rec(mask=0.5j), "is no bool array"),
    "complex time step": (lambda: Network(dt=1j * ms, cues=Input(1)), "time step must be a positive time"),
    "true neurons": (lambda: Network(dt=1 * ms, cues=Input(True)), "positive whole number of neurons"),
    "a network that is not there": (lambda: Network.load("/nowhere/net.json"), "net.json holds no readable network"),
    "a network that is a folder": (lambda: Network.load("/"), "holds no readable network or model: .*directory"),
    "a list of ends": (
        lambda: Network(
            dt=1 * ms, a=Input(1), b=Population(1, lif()), projections=[Projection(["a"], "b")]
        ),
        r"pre = \['a'\] should be of type str",
    ),
    "an output of a number": (lambda: cues_rec(output=3), "output = 3 should be of type str"),
    "plasticity as text": (lambda: cues_rec(plastic="no"), "'cues_rec': plastic = 'no' should be of type bool"),
    "autapses as a number": (lambda: cues_rec(autapses=2), "autapses = 2 should be of type bool"),
    "teacher as text": (lambda: Network(dt=1 * ms, cues=Input(3, teacher="no")), "'cues': teacher = 'no' should"),
    "parameters as a list": (lambda: rec(parameters=["tau_mem"]), "'rec': parameters = .* should be of type dict"),
    "trainable as a list": (lambda: rec(trainable=["tau_mem"]), "'rec': trainable = .* should be of type dict"),
    "more neurons than memory": (
        lambda: Network(dt=1 * ms, cues=Input(10**13)),
        "'cues': 10000000000000 neurons, 8 bytes each: 80000 GB, more than all",
    ),
    "neurons without number": (
        lambda: Network(dt=1 * ms, cues=Input(10**400)), "'cues': 1000.* neurons, 8 bytes each",
    ),
    "more synapses than memory": (
        lambda: Network(
            dt=1 * ms, a=Input(10**7), b=Population(10**6, lif()), projections=[Projection("a", "b")]
        ),
        r"projection 'a_b': weights of shape \(10000000, 1000000\), 8 bytes each: 80000 GB, more than all the memory",
    ),
    "time constant of nothing": (lambda: rec(parameters={"tau_mem": 0 * ms}), "population 'rec': the equations divide by tau_mem = 0"),
    "time constant below zero": (lambda: rec(parameters={"tau_mem": [5, 5, -5, 5] * ms}), "make it a time above zero"),
    "complex parameter": (lambda: rec(parameters={"v_th": 1j}), "v_th = 1j is not a finite number"),
}  # fmt: skip


@pytest.mark.parametrize("case", NETWORKS)
def test_a_network_that_does_not_fit_together_is_refused(case):
    make, message = NETWORKS[case]
    with pytest.raises(NetworkError, match=f"(?s){message}"):
        make()


def test_random_weights_of_no_kind_are_refused():
    with pytest.raises(LocalplastError, match="kind of Random is 'normal' or 'uniform', not 'gauss'"):
        Random("gauss", 0.0, 1.0, True)
