"""Malformed calls: each raises an error of this package that names the thing and says the cure, before anything is
compiled.
"""

import sys
from dataclasses import replace

import numpy as np
import pytest
from brian2 import Hz, ms, mV, nA, second

import localplast as lp
from localplast import delay, losses, rules, surrogate
from localplast.arguments import check_backend
from localplast.models import leaky_readout, lif
from localplast.network import Random
from localplast.rules import bptt, eprop

STEPS = 12
RASTER = np.random.default_rng(0).random((2, STEPS, 3)) < 0.3
CURRENT = np.random.default_rng(1).normal(size=(2, STEPS, 1))


def network(readouts=2, **rec):
    return lp.Network(
        dt=1 * ms, cues=lp.Input(3), rec=lp.Population(4, lif(), **rec), out=lp.Population(readouts, leaky_readout()),
        projections=[lp.Projection("cues", "rec"), lp.Projection("rec", "out")],
    )  # fmt: skip


def half_fixed():
    """The network with a readout that does not learn."""
    kept = [replace(p, plastic=p.name != "rec_out") for p in NET.projections.values()]
    return lp.Network(dt=NET.dt, **NET.nodes, projections=kept)


def driven():
    """A network that currents drive."""
    reader = neuron("dv/dt = (I - v)/tau : 1\nI : 1", receives="I")
    return lp.Network(
        dt=1 * ms,
        drive=lp.Input(1, "currents"),
        out=lp.Population(1, reader),
        projections=[lp.Projection("drive", "out")],
    )


def trials(target=(0, 1), weight=None, cues=RASTER):
    return lp.Trials({"cues": cues}, target, weight)


def changed(array, value, where=(0, 1, 0)):
    array = np.array(array, float)
    array[where] = value
    return array


NET, PATH = network(), np.zeros((2, STEPS, 2))
TASK = lp.Task.generated(
    "two", lambda rng, n: lp.Trials({"cues": rng.random((n, STEPS, 3)) < 0.3}, rng.integers(0, 2, n))
)
LEARNING = {"rule": bptt(), "optimiser": lp.adam(1e-3), "updates": 2, "backend": "torch"}


def learn(net=NET, task=TASK, **options):
    return lp.run(net, task, **{**LEARNING, **options})


def simulate(**options):
    return lp.run(NET, trials(), **options)


def slope(rule=None, loss=None, **options):
    return lp.gradient(NET, trials(**options), rule or bptt(), loss=loss)


def compare(rules_=None, net=NET, task=TASK, **options):
    settings = {"optimiser": lp.adam(1e-3), "updates": 2, "test": 2, "probes": 1, **options}
    return lp.compare(net, task, {"bptt": bptt()} if rules_ is None else rules_, **settings)


def neuron(equations="dv/dt = -v/tau : 1", **options):
    return lp.NeuronModel("cell", equations, **{"parameters": {"tau": 5 * ms}, "output": "v", **options})


def spikes(rates, segment=1):
    return slope(cues=lp.Poisson(rates, segment))


def other_size(number):
    return lp.Task("few", lambda update, batch, seed: trials(), lambda n, seed: trials()[:number])


NAN, RATES = float("nan"), np.full((2, STEPS, 3), 50.0)
CALLS = {
    # targets, weights of steps and inputs
    "one label for two trials": (lambda: slope(target=[1]), r"target has shape \(1,\); give one label per trial, \(trial,\) = \(2,\)"),
    "too many labels": (lambda: slope(target=[0, 1, 1]), r"target has shape \(3,\)"),
    "a label as a number alone": (lambda: slope(target=1), r"target has shape \(\)"),
    "label of no readout": (lambda: slope(target=[0, 2]), "label 2; with 2 readouts labels go from 0 to 1"),
    "label below zero": (lambda: slope(target=[0, -1]), "label -1"),
    "labels as floats": (lambda: slope(target=[0.0, 1.0]), r"whole numbers are needed: give target.astype\(int\)"),
    "label that is not a number": (lambda: slope(target=[0, NAN]), "target is nan at"),
    "labels as text": (lambda: slope(target=["a", "b"]), "target holds <U1; give an array of real numbers"),
    "labels as objects": (lambda: slope(target=[None, 1]), "target holds object"),
    "complex target": (lambda: slope(target=PATH + 1j), "target holds complex128"),
    "ragged target": (lambda: slope(target=[[0, 1], [1]]), "target is no array of numbers"),
    "one hot without time": (lambda: slope(target=np.eye(2)), r"\(trial, time, readout\) = \(2, 12, 2\)"),
    "trajectory of one trial": (lambda: slope(target=PATH[:1]), r"target has shape \(1, 12, 2\)"),
    "trajectory without trials": (lambda: slope(target=PATH[0]), r"target has shape \(12, 2\)"),
    "trajectory one step short": (lambda: slope(target=PATH[:, 1:]), r"target has shape \(2, 11, 2\)"),
    "trajectory of one step": (lambda: slope(target=PATH[:, :1]), r"target has shape \(2, 1, 2\)"),
    "trajectory of one readout": (lambda: slope(target=PATH[..., :1]), r"target has shape \(2, 12, 1\)"),
    "infinite target": (lambda: slope(target=changed(PATH, np.inf), loss=losses.mse()), r"target is inf at \(0, 1, 0\)"),
    "target with a unit": (lambda: slope(target=PATH * mV, loss=losses.mse()), "target is in .*, and the output of 'out' in 1"),
    "negative share": (lambda: slope(target=changed(PATH, -0.1), loss=losses.cross_entropy()), "shares of classes .* there is a -0.1"),
    "no target": (lambda: slope(target=None), "no target"),
    "reward without labels": (lambda: slope(target=PATH, loss=losses.reward(2 * ms)), "learning from reward needs"),
    "weights of other length": (lambda: slope(weight=np.ones(5)), r"weight of the steps has shape \(5,\); \(time,\) is \(12,\)"),
    "weight below zero": (lambda: slope(weight=-np.ones(STEPS)), "weight of a step is -1"),
    "weight not finite": (lambda: slope(weight=np.full(STEPS, NAN)), "weight of the steps is nan"),
    "complex weights": (lambda: slope(weight=np.ones(STEPS) * 1j), "weight holds complex128"),
    "inputs that are no dict": (lambda: lp.Trials(RASTER, [0, 1]), r"Trials\(inputs\) is a dict"),
    "no inputs": (lambda: lp.Trials({}, [0, 1]), r"Trials\(inputs\) is a dict"),
    "input without trials": (lambda: trials(cues=RASTER[0]), r"input 'cues' has shape \(12, 3\); it needs \(trial, time, neuron\)"),
    "no trial": (lambda: slope(target=np.zeros(0, int), cues=RASTER[:0]), "there are 0 trials of 12 steps"),
    "no step": (lambda: slope(cues=RASTER[:, :0]), "there are 2 trials of 0 steps"),
    "spikes as numbers": (lambda: slope(cues=RASTER.astype(int)), "give a bool raster, not int64"),
    "complex input": (lambda: trials(cues=RASTER * 1j), "input 'cues' holds complex128"),
    "current that is not a number": (
        lambda: lp.gradient(driven(), lp.Trials({"drive": changed(CURRENT, NAN)}, [0, 0]), bptt()), "input 'drive' is nan",
    ),
    "current with a unit": (
        lambda: lp.gradient(driven(), lp.Trials({"drive": CURRENT * nA}, [0, 0]), bptt()), "give the numbers alone",
    ),
    "other inputs": (lambda: lp.gradient(NET, lp.Trials({"drive": CURRENT}, [0, 0]), bptt()), r"network has \['cues'\]"),
    "rate above one per step": (lambda: spikes(RATES * 30), "rate of input 'cues' is 1500 Hz; .* between 0 and 1000 Hz"),
    "rate below zero": (lambda: spikes(-RATES), "rate of input 'cues' is -50"),
    "rate not finite": (lambda: spikes(RATES * NAN), "rate of input 'cues' is nan"),
    "rates in volts": (lambda: spikes(RATES * mV), r"Poisson\(rates\) .* in hertz"),
    "rates without trials": (lambda: spikes(RATES[0]), "needs .trial, segment, neuron."),
    "segment as a time": (lambda: spikes(RATES, 10 * ms), r"whole number of steps, such as round\(10\*ms/dt\)"),
    "segment of nothing": (lambda: spikes(RATES, 0), "segment=0"),
    "a task of something else": (lambda: learn(task=lp.Task("no", lambda *a: RASTER, None)), "training.* must give Trials"),
    "a task of too few": (lambda: learn(task=other_size(2), batch=3), "gave 2 trials where 3 were asked for"),
    "too few to test": (lambda: learn(task=other_size(1), batch=2, test=2), "testing.* gave 1 trials where 2 were asked for"),
    # the verbs
    "rule as text": (lambda: learn(rule="eprop"), "rule is a rule that is made.*text 'eprop'"),
    "rule as a function": (lambda: learn(rule=eprop), r"rule is .*the function eprop itself: call it, eprop\(...\)"),
    "optimiser as text": (lambda: learn(optimiser="adam"), "optimiser is .*text 'adam'"),
    "optimiser as a function": (lambda: learn(optimiser=lp.adam), r"call it, adam\(...\)"),
    "optimiser in the rule's "
    "place": (lambda: learn(rule=lp.adam(1e-3)), "rule is .*an optimiser that is made: is it in the place"),
    "rule in the optimiser's "
    "place": (lambda: learn(optimiser=bptt()), "optimiser is .*a rule that is made: is it in the place"),
    "loss as text": (lambda: learn(loss="mse"), "loss is .*text 'mse'"),
    "loss as a function": (lambda: learn(loss=losses.mse), r"call it, mse\(...\)"),
    "regulariser alone": (lambda: learn(loss=losses.rate(10 * Hz, 1.0)), "loss is a loss that is made"),
    "no optimiser": (lambda: learn(optimiser=None), "with rule=, optimiser= and updates="),
    "no updates": (lambda: learn(updates=None), "with updates="),
    "task and net swapped": (lambda: lp.run(TASK, NET, **LEARNING), "net is a Network.*given a Task: is it in the place"),
    "trials in the net's place": (lambda: lp.run(trials(), NET), "net is a Network.*given Trials"),
    "inputs alone": (lambda: lp.run(NET, {"cues": RASTER}), "what is Trials.* or a Task"),
    "task as a function": (lambda: lp.run(NET, lp.Task.generated, **LEARNING), "call it, generated"),
    "backend unknown": (lambda: simulate(backend="nest"), "backend is 'brian2' or 'torch', not 'nest'"),
    "backend as a number": (lambda: simulate(backend=2), "backend is"),
    "target unknown": (lambda: simulate(target="weave"), "target is 'numpy' or 'cython' or 'cpp', not 'weave'"),
    "target of another backend": (lambda: learn(target="cpp"), "target='cpp' is a program of Brian2's; leave it out"),
    "dtype unknown": (lambda: learn(dtype="float16"), "dtype is 'float64' or 'float32', not 'float16'"),
    "dtype as a type": (lambda: learn(dtype=float), "dtype is"),
    "dtype of another backend": (lambda: simulate(dtype="float32"), "Brian2 counts in float64"),
    "device as a number": (lambda: learn(device=0), "device is 'cpu', 'cuda'"),
    "device of another backend": (lambda: simulate(device="cuda"), "backend 'brian2' runs on the CPU"),
    "seed below zero": (lambda: simulate(seed=-1), "seed is a whole number, 0 or more; given -1"),
    "seed as a float": (lambda: learn(seed=1.0), "seed is a whole number"),
    "seed as a bool": (lambda: slope_seed(True), "seed is a whole number"),
    "seeds as one": (lambda: learn(seed=[0, 1]), "seed is a whole number"),
    "updates of nothing": (lambda: learn(updates=0), "updates is a whole number, 1 or more; given 0"),
    "updates below zero": (lambda: learn(updates=-3), "updates is a whole number"),
    "updates as a float": (lambda: learn(updates=10.0), "updates is a whole number"),
    "updates as a bool": (lambda: learn(updates=True), "updates is a whole number"),
    "batch of nothing": (lambda: learn(batch=0), "batch is a whole number of trials per update, 1 or more"),
    "test below zero": (lambda: learn(test=-1), "test is a whole number of trials, 0 or more"),
    "test every none": (lambda: learn(test=2, test_every=0), "test_every is a whole number of updates, 1 or more"),
    "no threads": (lambda: learn(threads=0), "threads is a whole number, 1 or more"),
    "threads of Brian2": (
        lambda: learn(rule=eprop(), backend="brian2", threads=2), "threads=2 .*'torch', and Brian2 runs on one thread",
    ),
    "threads of a simulation": (lambda: simulate(backend="torch", threads=4), "threads=4 .* a simulation runs on one"),
    "every of nothing": (lambda: simulate(record=["rec.v"], every=0), "every=0 is not a positive whole number of steps"),
    "every within a step": (lambda: simulate(record=["rec.v"], every=1.5 * ms), "every=.* is not a positive whole number of steps of"),
    "every as a float": (lambda: simulate(every=2.0), "every=2.0"),
    "weights every time": (lambda: learn(record={"cues_rec.weight": {"every": 5 * ms}}), "weights are kept each so many updates"),
    "record of a number": (lambda: simulate(record=5), "cannot record 5: give names such as 'rec.v'"),
    "options of a record": (lambda: simulate(record={"rec.v": 5}), "cannot record 'rec.v': give names"),
    "states while learning": (lambda: learn(record=["rec.v"]), r"cannot record 'rec.v' while a task is learned.*localplast.live\("),
    "spikes while learning": (lambda: learn(record=["rec.spikes"]), r"cannot record 'rec.spikes' while .*localplast.live\("),
    "rule of a simulation": (lambda: simulate(rule=eprop()), "Trials are simulated, and nothing learns: leave out rule="),
    "optimiser of a simulation": (lambda: simulate(optimiser=lp.sgd(1.0)), "leave out optimiser="),
    "loss of a simulation": (lambda: simulate(loss=losses.mse()), "leave out loss="),
    "updates of a simulation": (lambda: simulate(updates=3), "leave out updates="),
    "tests of a simulation": (lambda: simulate(test=3, test_every=1), "leave out test_every=, test="),
    "batch of a simulation": (lambda: simulate(batch=4), "leave out batch="),
    "resumed simulation": (lambda: simulate(resume=True, path="x"), "leave out resume="),
    "resume of no record": (lambda: learn(resume=True), "resume goes on with the record at path=: say which"),
    "path as a number": (lambda: learn(path=3), "path names a record"),
    "values as a dict": (lambda: simulate(values={"cues_rec": 1.0}), r"values is Values, such as net.draw\(seed\)"),
    "rate of nobody": (lambda: learn(optimiser=lp.sgd(0.1).with_rates(recc=0.0)), "optimiser names 'recc', which the network does not"),
    "gradient of a task": (lambda: lp.gradient(NET, TASK, bptt()), "trials is Trials.*given a Task"),
    "gradient by a name": (lambda: slope("bptt"), "rule is .*text 'bptt'"),
    "gradient of a loss by name": (lambda: slope(loss="mse"), "loss is .*text 'mse'"),
    "gradient with swapped arguments": (lambda: lp.gradient(trials(), NET, bptt()), "net is a Network.*given Trials"),
    "form unknown": (lambda: lp.gradient(NET, trials(), bptt(), form="dense"), "form is 'traces' or 'adjoint' or 'forward'"),
    "form of Brian2": (lambda: lp.gradient(NET, trials(), eprop(), form="adjoint", backend="brian2"), "form='adjoint' is for backend='torch'"),
    "trainable unknown": (lambda: lp.gradient(NET, trials(), bptt(), trainable=["rec.tau"]), "trainable='rec.tau' is nothing that could learn"),
    "live of a task": (lambda: lp.live(NET, TASK, eprop(update="step"), lp.sgd(0.1), record=[]), "trials is Trials"),
    "live by a name": (lambda: lp.live(NET, trials(), "eprop", lp.sgd(0.1), record=[]), "rule is .*text 'eprop'"),
    "comparison of a list": (lambda: compare([bptt()]), "rules is a dict by name"),
    "comparison of nothing": (lambda: compare({}), "rules is a dict by name"),
    "comparison of functions": (lambda: compare({"a": eprop}), r"each of rules= is .*call it, eprop\(...\)"),
    "comparison of one seed": (lambda: compare(seeds=3), "seeds is a list of different whole numbers"),
    "comparison of equal seeds": (lambda: compare(seeds=[1, 1]), "seeds is a list of different whole numbers"),
    "comparison of no seed": (lambda: compare(seeds=[]), "seeds is a list"),
    "comparison without probes": (lambda: compare(probes=0), "probes is a whole number, 1 or more"),
    "comparison without a "
    "test": (lambda: compare(test=0), "test is a whole number of trials that rules are compared by, 1 or more"),
    "comparison without workers": (lambda: compare(workers=0), "workers is a whole number"),
    "comparison at a layer": (lambda: compare(hidden="recc"), "hidden='recc' is no population; there are rec, out"),
    "comparison by a name": (lambda: compare(optimiser="adam"), "optimiser is .*text 'adam'"),
    "comparison, swapped": (lambda: compare(net=TASK, task=NET), "net is a Network"),
    "comparison resumed": (lambda: compare(resume=True), "resume goes on with the record at path="),
    "contender of a name": (lambda: lp.Contender("eprop", "brian2"), "rule of a contender is .*text 'eprop'"),
    "contender of a backend": (lambda: lp.Contender(eprop(), "nest"), "backend is 'brian2' or 'torch'"),
    "frozen unknown": (lambda: compare({"a": lp.Contender(bptt(), "torch", ("rec",))}), "frozen= names 'rec', which the network"),
    # networks and what they are made of
    "bounds of a weight": (lambda: weighted(bounds=(1.0, -1.0)), "low <= high"),
    "bounds of a parameter": (lambda: network(trainable={"tau_mem": (50 * ms, 5 * ms)}), "no value lies within the bounds .* lowest comes first"),
    "bounds of a delay": (
        lambda: weighted(delay=lp.axonal(2 * ms, trainable=(5 * ms, 1 * ms))), "no delay lies within the bounds",
    ),
    "time constant that may learn to be zero": (
        lambda: learnt(tau_mem=(0 * ms, 50 * ms)), "divides by tau_mem, which may learn",
    ),
    "time constant without a lowest value": (
        lambda: learnt(tau_mem=(None, 50 * ms)),
        r"'rec', trainable 'tau_mem': .* -inf and 0.05 .* such as \(5\*ms, None\)",
    ),
    "time constant that may learn to be negative": (
        lambda: learnt(tau_mem=(-9 * ms, -1 * ms)), "a lowest time above zero",
    ),
    "gain that may learn to be zero": (
        lambda: dividing("v/gain", -1.0, 1.0), r"'gain': .* by gain.* such as \(0.1, None\)",
    ),
    "gain below a power": (lambda: dividing("v*gain**-1"), "'gain': .* divides by gain"),
    "gain below a root": (lambda: dividing("v/(2*sqrt(gain))"), "'gain': .* divides by gain"),
    "gain in a subexpression": (
        lambda: dividing("v/twice", 0.0, None, "\ntwice = 2*gain : 1"), "'gain': .* divides by gain",
    ),
    "gain below a statement": (lambda: two("v", reset="v /= a", a=(-1, 1)), "'a': the model divides by a"),
    "gain below a remainder": (lambda: two("v % a", a=(0, 1)), "'a': the model divides by a"),
    "difference of what may meet": (
        lambda: two("v/(a - b)", a=(0.5, 3), b=(1, 4)),
        "'cell': cell divides by a - b, which may learn to be zero within the bounds of a and b; give bounds that rule",
    ),
    "difference of what may meet what stays": (
        lambda: two("v/(a - b)", a=(0.5, None)), "'cell': .* a - b, .* within the bounds of a;",
    ),
    "difference in a subexpression": (
        lambda: two("v/gap", more="gap = 2*(a - b) : 1", a=(0.5, 3), b=(1, 4)), "divides by gap, which may learn to be",
    ),
    "difference below a power": (lambda: two("v*(a - b)**-2", a=(0.5, 3)), "divides by a - b, which may"),
    "difference in a threshold": (
        lambda: two("v", threshold="v/(a - b) > 1", a=(None, None)), "divides by a - b, which may learn",
    ),
    "gain in a threshold": (lambda: two("v", threshold="v/a > 1", a=(-1, 2)), "divides by a, which may learn"),
    "difference in what is learned from": (
        lambda: two("v", mismatch={"I": lp.Mismatch("v/(a - b)")}, more="I : 1", a=(0, 5)), "divides by a - b, which",
    ),
    "root of what may be negative": (
        lambda: two("v*sqrt(a)", a=(-1, 5)), "takes the root of a, which may learn to be negative",
    ),
    "power of what may be negative": (
        lambda: two("v*(a - b)**1.5", a=(0.5, 5)), "takes the root of a - b, which may learn to be negative",
    ),
    "root of a difference": (lambda: two("v*sqrt(a - b)", a=(0, 5)), "takes the root of a - b, which may"),
    "logarithm of what may be nothing": (
        lambda: two("v*log(a)", a=(0, 5)), "the logarithm of a, which may learn to be zero or negative within .* a;",
    ),
    "output that divides by a gain": (
        lambda: two("v", sent="v/a", a=(-1, 5)), "'cell_out', output: cell divides by a, which may learn to be zero",
    ),
    "output that divides by a difference": (
        lambda: two("v", sent="v/(a - b)", a=(1, 5)), "'cell_out', output: .* a - b, which may",
    ),
    "output that divides by nothing": (
        lambda: two("v", sent="v/(a - 2*b)"), r"output: cell divides by a - 2 \* b, which is zero; change a or b",
    ),
    "model that divides by nothing": (
        lambda: neuron("dv/dt = -v/(tau*(a - b)) : 1", parameters={"tau": 5 * ms, "a": 1.0, "b": 1.0}), "is zero",
    ),
    "model with a root of a negative": (
        lambda: neuron("dv/dt = -v*sqrt(a)/tau : 1", parameters={"tau": 5 * ms, "a": -1.0}), "of a, which is negative",
    ),
    "values that divide by nothing": (lambda: met(1.0), "values of .* 'cell': cell divides by a - b, which is zero"),
    "one neuron that divides by nothing": (
        lambda: two("v/(a - b)", given={"a": [2.0, 1.0, 3.0]}), "'cell': .* a - b, which is zero",
    ),
    "time constant that starts below its bounds": (
        lambda: learnt(tau_mem=(30 * ms, None)), "'tau_mem': it starts from 0.02, not",
    ),
    "time constants that start above their bounds": (
        lambda: learnt({"tau_mem": [5, 5, 60, 5] * ms}, tau_mem=(1 * ms, 50 * ms)),
        "it starts from 0.06, not .* 0.001 and 0.05",
    ),
    "threshold beyond its bounds": (lambda: learnt(v_th=(0.1, 0.5)), "'v_th': it starts from 1, not within its bounds"),
    "values of parameters beyond bounds": (
        lambda: learn_from(tau_mem=0.06), "values of population 'rec', .*starts from 0.06",
    ),
    "values with a time constant of nothing": (
        lambda: learn_from(tau_mem=0.0), "trainable 'tau_mem': it starts from 0, not",
    ),
    "a simulation with a negative time constant": (
        lambda: simulate(values=valued(tau_mem=-0.01)), "values of .* 'rec': .* above zero",
    ),
    "a gradient with a negative refractory period": (
        lambda: lp.gradient(NET, trials(), bptt(), values=valued(tau_ref=-0.001)),
        "values of .*: the refractory .* is negative",
    ),
    "weight beyond its bounds": (
        lambda: weighted(weight=2.0, bounds=(0, 1)), r"'cues_rec': the weight 2 at \(0, 0\) .* 0 and 1",
    ),
    "one weight beyond its bounds": (
        lambda: weighted(weight=changed(np.ones((3, 4)), -0.5, (1, 2)), bounds=(0, None)),
        r"weight -0.5 at \(1, 2\) lies outside",
    ),
    "weights against the sign of their neuron": (
        lambda: weighted(weight=1.0, bounds=lp.dale([1, -1, 1])), r"weight 1 at \(1, 0\)",
    ),
    "kind of random weights": (lambda: Random("gauss", 0.0, 1.0, True), "kind of Random is 'normal' or 'uniform', not 'gauss'"),
    "negative spread": (lambda: lp.normal(-1.0), "weights cannot be spread by -1.0"),
    "complex weights of synapses": (lambda: weighted(weight=np.ones((3, 4)) * 1j), "weight .* is not made of finite numbers"),
    "weights that are not "
    "numbers": (lambda: weighted(weight="normal"), "weight 'normal' is not made of finite numbers"),
    "complex delay": (lambda: weighted(delay=lp.axonal(1j * ms)), "delay .* is not a time"),
    "mask of anything": (lambda: weighted(mask=np.full((3, 4), 0.5)), "mask .* is no bool array, nor a number from 0 to 1"),
    "complex mask": (lambda: weighted(mask=0.5j), "is no bool array"),
    "complex time step": (lambda: lp.Network(dt=1j * ms, cues=lp.Input(1)), "time step must be a positive time"),
    "true neurons": (lambda: lp.Network(dt=1 * ms, cues=lp.Input(True)), "positive whole number of neurons"),
    "a path without end": (lambda: learn(path="a\0b"), "path names a record, .*; given 'a"),
    "a network that is not there": (lambda: lp.Network.load("/nowhere/net.json"), "net.json holds no readable network"),
    "a network that is a folder": (lambda: lp.Network.load("/"), "holds no readable network or model: .*directory"),
    "a list of ends": (
        lambda: lp.Network(
            dt=1 * ms, a=lp.Input(1), b=lp.Population(1, lif()), projections=[lp.Projection(["a"], "b")]
        ),
        r"pre = \['a'\] should be of type str",
    ),
    "an output of a number": (lambda: weighted(output=3), "output = 3 should be of type str"),
    "plasticity as text": (lambda: weighted(plastic="no"), "'cues_rec': plastic = 'no' should be of type bool"),
    "autapses as a number": (lambda: weighted(autapses=2), "autapses = 2 should be of type bool"),
    "teacher as text": (lambda: lp.Network(dt=1 * ms, cues=lp.Input(3, teacher="no")), "'cues': teacher = 'no' should"),
    "parameters as a list": (lambda: network(parameters=["tau_mem"]), "'rec': parameters = .* should be of type dict"),
    "trainable as a list": (lambda: network(trainable=["tau_mem"]), "'rec': trainable = .* should be of type dict"),
    "surrogate as text": (lambda: neuron(surrogate="triangle"), "surrogate = 'triangle' should be of type"),
    "every so many steps of learning": (lambda: learn(every=2), "every=2 keeps each so many steps of states, and none"),
    "a rate of fixed weights": (
        lambda: learn(half_fixed(), optimiser=lp.adam(1e-3).with_rates(rec_out=2.0)), "gives 'rec_out' a rate",
    ),
    "infinite learning rate": (lambda: lp.adam(np.inf), r"learning_rate of adam\(\) is one number, from 0; given inf"),
    "infinite factor": (lambda: lp.sgd(1.0).with_rates(rec=np.inf), "rate of 'rec' is one number, from 0"),
    "infinite strength": (lambda: losses.rate(10 * Hz, np.inf), r"strength of rate\(\)"),
    "more neurons than memory": (
        lambda: lp.Network(dt=1 * ms, cues=lp.Input(10**13)),
        "'cues': 10000000000000 neurons, 8 bytes each: 80000 GB, more than all",
    ),
    "neurons without number": (
        lambda: lp.Network(dt=1 * ms, cues=lp.Input(10**400)), "'cues': 1000.* neurons, 8 bytes each",
    ),
    "more synapses than memory": (
        lambda: lp.Network(
            dt=1 * ms, a=lp.Input(10**7), b=lp.Population(10**6, lif()), projections=[lp.Projection("a", "b")]
        ),
        r"projection 'a_b': weights of shape \(10000000, 1000000\), 8 bytes each: 80000 GB, more than all the memory",
    ),
    "delays in values longer than any": (
        lambda: delayed(1e9), r"'cues_rec': 3 of its delays cannot be, such as 1e\+09 steps; .* between 0 and 100000",
    ),
    "time constant of nothing": (lambda: network(parameters={"tau_mem": 0 * ms}), "population 'rec': the equations divide by tau_mem = 0"),
    "time constant below zero": (lambda: network(parameters={"tau_mem": [5, 5, -5, 5] * ms}), "make it a time above zero"),
    "complex parameter": (lambda: network(parameters={"v_th": 1j}), "v_th = 1j is not a finite number"),
    "model with no time constant": (lambda: neuron(parameters={"tau": 0 * ms}), "cell: the equations divide by tau"),
    "model with a negative one": (lambda: neuron(parameters={"tau": -5 * ms}), "make it a time above zero"),
    "model with no resistance": (lambda: neuron("dv/dt = -v/(tau*R) : 1", parameters={"tau": 5 * ms, "R": 0.0}), "divide by R = 0.0; make it not zero"),
    "model with a complex parameter": (lambda: neuron(parameters={"tau": 5j * ms}), "tau = .* is not a number"),
    "model with NaN": (lambda: neuron(parameters={"tau": NAN * ms}), "tau = .* is not a number"),
    "complex start": (lambda: neuron(initial={"v": 1j}), "initial value 1j of 'v' is not a number"),
    "refractory below zero": (lambda: neuron(threshold="v > 1", reset="v = 0", refractory=-1 * ms), "refractory period 'tau_ref' is negative"),
    "refractory voltage": (lambda: neuron(threshold="v > 1", reset="v = 0", refractory=1 * mV), "refractory period 'tau_ref' is not a time"),
    "refractory number": (lambda: neuron(threshold="v > 1", reset="v = 0", refractory=5), "refractory"),
    "refractory twice": (
        lambda: neuron(threshold="v > 1", reset="v = 0", parameters={"tau": 5 * ms, "tau_ref": 1 * ms}, refractory=2 * ms),
        "write refractory='tau_ref'",
    ),
    "exact method on a square": (lambda: neuron("dv/dt = -v**2/tau : 1"), "method 'exact' cannot integrate these equations"),
    "linear steps of a square": (lambda: neuron("dv/dt = v*v/tau : 1", method="exponential_euler"), "method 'exponential_euler' cannot integrate"),
    "noise and rk4": (lambda: neuron("dv/dt = -v/tau + xi/tau**0.5 : 1", method="rk4"), "method 'rk4' cannot integrate"),
    "noise that multiplies": (lambda: neuron("dv/dt = -v/tau + v*xi/tau**0.5 : 1", method="euler"), "'heun' or 'milstein'"),
    "method unknown": (lambda: neuron(method="runge"), "unknown integration method 'runge'"),
    "method without text": (lambda: neuron(method="gsl"), "unknown integration method 'gsl'; Brian2 has euler"),
    "width of nothing": (lambda: surrogate.triangle(0.0), "width of a surrogate is .* a number above 0"),
    "complex width": (lambda: surrogate.fast_sigmoid(1j), "width of a surrogate"),
    "widths": (lambda: surrogate.arctan([1, 2] * mV), "width of a surrogate"),
    "gamma as text": (lambda: surrogate.boxcar(gamma="0.3"), "gamma of a surrogate is one number"),
    "gamma with a unit": (lambda: surrogate.triangle(gamma=1 * mV), "gamma of a surrogate is one number"),
    "time step of nothing": (lambda: surrogate.per_time(surrogate.triangle), "is no surrogate"),
    # rules, losses, optimisers
    "feedback unknown": (lambda: eprop(feedback="mirror"), "feedback is one of symmetric, random"),
    "feedback of no size": (lambda: eprop(feedback="random", feedback_std="1"), "standard deviation of feedback is one number"),
    "update unknown": (lambda: eprop(update=5), "update is 'trial', 'step' or a time"),
    "decay of two": (lambda: rules.es_d_rtrl(decay=2.0), "factor per step between 0 and 1, or a time"),
    "learning rate below zero": (lambda: lp.sgd(-0.1), r"learning_rate of sgd\(\) is one number, from 0; given -0.1"),
    "learning rate as text": (lambda: lp.adam("1e-3"), r"learning_rate of adam\(\) is one number"),
    "learning rate not a number": (lambda: lp.rmsprop(NAN), r"learning_rate of rmsprop\(\) is one number"),
    "learning rate with a unit": (lambda: lp.momentum(1 * ms), r"learning_rate of momentum\(\)"),
    "learning rate in another "
    "unit": (lambda: learn(optimiser=lp.adam(1 * ms)), r"of adam\(\) is in second, the weights of .* in 1"),
    "complex learning rate": (lambda: lp.madgrad(1j), r"learning_rate of madgrad\(\)"),
    "memory above one": (lambda: lp.adam(1e-3, beta1=1.5), r"beta1 of adam\(\) is one number, from 0 to 1"),
    "clipped to nothing": (lambda: lp.sgd(1.0).clipped("a"), "gradients cannot be clipped to 'a'"),
    "decay as text": (lambda: lp.sgd(1.0).decayed("a"), "decay rate 'a' is not a share"),
    "halving never": (lambda: lp.sgd(1.0).halved(0), "cannot halve every 0 updates"),
    "negative factor": (lambda: lp.sgd(1.0).with_rates(rec=-1.0), "rate of 'rec' is one number, from 0"),
    "loss of strangers": (lambda: losses.Loss("hinge", (("loss", "clip(margin - output, 0, 1)"),)), "'loss' reads 'margin'"),
    "loss without text": (lambda: losses.Loss("hinge", ()), "'hinge' has no text"),
    "loss that ends early": (lambda: losses.Loss("hinge", (("loss", "output**("),)), "'hinge' does not parse"),
    "loss by chance": (lambda: losses.Loss("hinge", (("loss", "output*rand()"),)), "'hinge' draws a random number"),
    "loss named twice": (lambda: losses.Loss("hinge", (("a", "output"), ("a", "a**2"))), "'a' has a meaning already"),
    "loss that sets the target": (lambda: losses.Loss("hinge", (("target", "output"),)), "'target' has a meaning already"),
    "squared shares": (lambda: losses.Loss("brier", (("loss", "(softmax - target)**2"),)), "softmax elsewhere than in"),
    "loss with a complex constant": (lambda: losses.Loss("hinge", (("loss", "a*output"),), {"a": 1j}), r"a of hinge\(\) is one"),
    "rate in volts": (lambda: losses.rate(10 * mV, 1.0), r"target of rate\(\) is one number in hertz, from 0"),
    "rate target below zero": (lambda: losses.rate(-10 * Hz, 1.0), r"target of rate\(\)"),
    "strength as text": (lambda: losses.rate(10 * Hz, "a"), r"strength of rate\(\)"),
    "window of nothing": (lambda: losses.rate(10 * Hz, 1.0, window=0 * ms), r"window of rate\(\) is one number in .*, above 0"),
    "branching of nothing": (lambda: losses.branching(0.0), "strength of the branching regulariser is one number, above 0"),
    "reward in volts": (lambda: losses.reward(3 * mV), "delay of a reward is one number in"),
    "discount above one": (lambda: losses.reward(3 * ms, discount=1.1), "discount is one number, from 0 to 1"),
    "kernel of a delay": (
        lambda: weighted(delay=lp.axonal(2 * ms, trainable=True, kernel=delay.triangle(5 * mV))), "width .* is not a time from 0",
    ),
    "halving as text": (
        lambda: weighted(delay=lp.axonal(2 * ms, trainable=True, kernel=delay.triangle(5 * ms, halving="a"))), "give a positive number",
    ),
}  # fmt: skip


def learnt(parameters=None, **trainable):
    return network(parameters=parameters or {}, trainable=trainable)


def dividing(term, low=None, high=None, more=""):
    """A network with a neuron that has a ``term`` with a gain, which learns between ``low`` and ``high``."""
    model = neuron(f"dv/dt = -{term}/tau : 1{more}", parameters={"tau": 5 * ms, "gain": 1.0})
    return lp.Network(dt=1 * ms, out=lp.Population(2, model, trainable={"gain": (low, high)}))


def two(term, *, more="", sent=None, given=None, **learning):
    """A network with a neuron that has a ``term`` with the gains ``a = 2`` and ``b = 1``, learned between bounds."""
    blocks = {name: learning.pop(name) for name in ("reset", "threshold", "mismatch") if name in learning}
    if "reset" in blocks:
        blocks["threshold"] = "v > 1"
    if "threshold" in blocks:
        blocks |= {"surrogate": surrogate.triangle(1.0), "reset": blocks.get("reset", "v = 0")}
    model = neuron(
        f"dv/dt = -{term}/tau : 1\n{more}", parameters={"tau": 5 * ms, "a": 2.0, "b": 1.0}, method="euler", **blocks
    )
    projections = [lp.Projection("cell", "out", output=sent, target="I")] if sent else []
    out = neuron("dv/dt = (I - v)/tau : 1\nI : 1")
    cell = lp.Population(3, model, trainable=learning, parameters=given or {})
    return lp.Network(dt=1 * ms, cell=cell, out=lp.Population(2, out), projections=projections)


def met(b):
    net = two("v/(a - b)")
    return net.check_values(net.draw(0).replace_weights({}, {"cell.a": np.ones(3), "cell.b": np.array(b)}))


LIMITED = learnt(tau_mem=(5 * ms, 50 * ms))


def valued(**parameters):
    """Values of the network with other parameters of its neurons."""
    return LIMITED.draw(0).replace_weights({}, {f"rec.{name}": np.array(value) for name, value in parameters.items()})


def learn_from(rate=1e-3, **parameters):
    optimiser = lp.adam(1e-3).with_rates(**{"rec.tau_mem": rate})
    return learn(LIMITED, values=valued(**parameters), optimiser=optimiser)["learned"]["rec.tau_mem"].item()


def test_what_begins_at_a_bound_or_keeps_its_place_learns():
    """And what is drawn is put within the bounds."""
    assert learn_from(tau_mem=0.05) <= 0.05 and learn_from(rate=0, tau_mem=0.06) == 0.06
    assert dividing("v/gain", 0.5).limits("out.gain") == (0.5, np.inf)
    assert dividing("v*gain").trainable == dividing("v/exp(gain)").trainable == ("out.gain",)
    there = changed(np.ones((3, 4)), 0, (1, 2))
    assert weighted(weight=1.0 * there, mask=there, bounds=(0.5, 1)).draw(0).weights["cues_rec"].sum() == 11
    loop = lp.Projection("rec", "rec", weight=1 - np.eye(4), bounds=(0.5, 1))
    assert lp.Network(dt=1 * ms, rec=lp.Population(4, lif()), projections=[loop]).draw(0).weights["rec_rec"].sum() == 12
    assert weighted(weight=lp.normal(5.0), bounds=(0, 1)).draw(0).weights["cues_rec"].max() == 1


def weighted(**options):
    return lp.Network(
        dt=1 * ms, cues=lp.Input(3), rec=lp.Population(4, lif()), projections=[lp.Projection("cues", "rec", **options)]
    )


def delayed(steps):
    """A simulation whose values hold delays of so many steps."""
    net = weighted(delay=lp.axonal(2 * ms))
    return lp.run(net, trials(), values=replace(net.draw(0), delays={"cues_rec": np.full(3, steps)}))


def slope_seed(seed):
    return lp.gradient(NET, trials(), bptt(), seed=seed)


@pytest.mark.parametrize("term, options", [
    ("v/(a - b)", {"a": (1.5, 3), "b": (0, 1.4)}), ("v/(a + b)", {"a": (0, None), "b": (0.1, None)}),
    ("v/(a*a + b)", {"a": (None, None)}), ("v/(a*a - a + b)", {"a": (-5, 5)}), ("v/exp(a)", {"a": (None, None)}),
    ("v*sqrt(a)", {"a": (0, 5)}), ("v*log(a + b)", {"a": (-0.9, 5)}), ("v*a**2", {"a": (-5, 5)}),
    ("v/(1 + abs(a))", {"a": (None, None)}), ("v/(v + a)", {"a": (None, None)}), ("v*sqrt(a*v)", {"a": (-1, 2)}),
    ("v/(a - b)", {"given": {"a": [2.0, 3.0, 4.0]}}), ("v % a", {"a": (0.1, None)}), ("v*a**-0.5", {"a": (0.1, None)}),
])  # fmt: skip
def test_bounds_under_which_every_text_has_a_value_are_taken(term, options):
    """And what depends on a variable, of which nobody knows before it runs."""
    assert two(term, **options).nodes["cell"].size == 3


@pytest.mark.parametrize("case", CALLS)
def test_a_malformed_call_says_what_is_wrong(case):
    call, message = CALLS[case]
    with pytest.raises(lp.LocalplastError, match=f"(?s){message}"):
        call()


def test_the_right_call_beside_each_wrong_one_runs():
    """Quantities where a number with a unit makes sense, and what is odd but legal."""
    assert (
        learn(batch=1, test=1, test_every=1, seed=np.int64(3), threads=1, dtype="float32")["metrics"].sizes["update"]
        == 3
    )
    assert simulate(record=["rec.v"], every=3 * ms, threads=1)["rec"]["v"].sizes["time"] == 4
    assert learn(batch=2, threads=2, updates=1)["metrics"].sizes["update"] == 1
    assert spikes(RATES * Hz).attrs["loss"] > 0 and slope(weight=np.zeros(STEPS)).attrs["loss"] == 0
    assert np.isnan(slope(weight=np.zeros(STEPS)).attrs["accuracy"])
    assert (
        learn(task=lp.Task("bools", lambda *a: trials(np.array([True, False])), None), batch=2)["metrics"].sizes[
            "update"
        ]
        == 2
    )
    assert losses.rate(10 * Hz, 1.0, window=0.5 * second) == losses.rate(10, 1, window=0.5)
    check_backend("torch", "numpy")


def test_a_refractory_period_and_a_width_may_be_given_with_their_units():
    options = {"threshold": "v > v_th", "reset": "v = 0*mV", "method": "exact"}
    equations, numbers = "dv/dt = -v/tau : volt", {"tau": 20 * ms, "v_th": 10 * mV}
    named = lp.NeuronModel(
        "cell",
        equations,
        {**numbers, "tau_ref": 5 * ms},
        refractory="tau_ref",
        surrogate=surrogate.triangle("v_th"),
        **options,
    )
    given = lp.NeuronModel(
        "cell", equations, numbers, refractory=5 * ms, surrogate=surrogate.triangle(10 * mV), **options
    )
    assert given.refractory == "tau_ref" and given.parameters["tau_ref"] == 5 * ms

    def found(model, backend):
        net = lp.Network(
            dt=1 * ms, cues=lp.Input(3), rec=lp.Population(4, model), out=lp.Population(2, leaky_readout()),
            projections=[lp.Projection("cues", "rec", weight=lp.uniform(12 * mV, mean=12 * mV)), lp.Projection("rec", "out")],
        )  # fmt: skip
        return lp.gradient(net, trials(), eprop(), backend=backend)["cues_rec"]["gradient"].values

    assert np.any(found(named, "torch"))
    for backend in ("torch", "brian2"):
        np.testing.assert_allclose(found(given, backend), found(named, "torch"), rtol=1e-12)


class TestWeightsWhileLearning:
    def test_they_are_kept_after_every_update(self):
        tree = learn(updates=3, record=["cues_rec.weight"])
        assert tree["cues_rec"]["weight"].dims == ("update", "pre", "post") and tree["cues_rec"][
            "update"
        ].values.tolist() == [1, 2, 3]
        assert np.all(np.any(np.diff(tree["cues_rec"]["weight"].values, axis=0), axis=(1, 2)))
        assert tree["rec_out"]["weight"].dims == ("pre", "post")

    def test_the_last_one_is_among_them(self):
        tree = learn(updates=5, record={"cues_rec.weight": {"every": 2}})
        assert tree["cues_rec"]["update"].values.tolist() == [2, 4, 5]
        np.testing.assert_array_equal(NET.values_from(tree).weights["cues_rec"], learn(updates=5)["cues_rec"]["weight"])

    def test_those_of_a_simulation_are_those_it_ran_with(self):
        np.testing.assert_array_equal(
            simulate(record=["cues_rec.weight"], seed=2)["cues_rec"]["weight"], NET.draw(2).weights["cues_rec"]
        )


def test_other_errors_are_left_to_brian2(monkeypatch):
    told = []

    def hook(*error):
        told.append(error[0])

    hook.__module__ = "brian2.utils.logger"
    monkeypatch.setattr(sys, "excepthook", hook)
    monkeypatch.setattr(sys, "__excepthook__", lambda *error: told.append("Python"))
    for error in (lp.NetworkError("wrong"), lp.RunawayError("wild"), ZeroDivisionError()):
        sys.excepthook(type(error), error, None)
    assert told == ["Python", "Python", ZeroDivisionError]
