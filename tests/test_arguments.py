"""Malformed calls: each raises an error of this package that names the thing and says the cure, before anything is
compiled.
"""

from dataclasses import replace

import numpy as np
import pytest
from brian2 import Hz, ms, mV, nA, second

import localplast as lp
from localplast import losses, rules
from localplast.arguments import check_backend
from localplast.models import leaky_readout, lif
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
    "contender of a batch": (lambda: lp.Contender(eprop(), "torch", batch=0), "the batch of a contender is a whole number, 1 or more; given 0"),
    "contender of a backend": (lambda: lp.Contender(eprop(), "nest"), "backend is 'brian2' or 'torch'"),
    "frozen unknown": (lambda: compare({"a": lp.Contender(bptt(), "torch", ("rec",))}), "frozen= names 'rec', which the network"),
    "a path without end": (lambda: learn(path="a\0b"), "path names a record, .*; given 'a"),
    "every so many steps of learning": (lambda: learn(every=2), "every=2 keeps each so many steps of states, and none"),
    "a rate of fixed weights": (
        lambda: learn(half_fixed(), optimiser=lp.adam(1e-3).with_rates(rec_out=2.0)), "gives 'rec_out' a rate",
    ),
    # rules, losses, optimisers
    "infinite learning rate": (lambda: lp.adam(np.inf), r"learning_rate of adam\(\) is one number, from 0; given inf"),
    "infinite factor": (lambda: lp.sgd(1.0).with_rates(rec=np.inf), "rate of 'rec' is one number, from 0"),
    "infinite strength": (lambda: losses.rate(10 * Hz, np.inf), r"strength of rate\(\)"),
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
}  # fmt: skip


def slope_seed(seed):
    return lp.gradient(NET, trials(), bptt(), seed=seed)


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
