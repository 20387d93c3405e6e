"""Models may call their variables what plans and backends call their own: a network that is renamed so is the same
network.

The oracle is the network under names that meet nothing. Sums are in the order of names, so that numbers may differ in
their last bits.
"""

import dataclasses
import functools
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from brian2 import ms

import localplast as lp
from localplast import rules
from localplast.backends.brian2.learner import block_for
from localplast.backends.brian2.learning import Learning
from localplast.models import alif, cuba_lif, latent_equilibrium, latent_equilibrium_output, leaky_readout
from localplast.models.layers import layered, stream
from localplast.names import BEGINNINGS, TAKEN, is_taken
from localplast.network import Input, Network, Population, Projection, depression, normal
from localplast.neuron import Mismatch, NeuronModel
from localplast.program.learn import plan
from localplast.program.locality import SLOTS
from localplast.program.online import online
from localplast.rules import bptt, dendritic, eprop
from localplast.task import Trials
from localplast.task.loss import mse, rate, reward

# --- gradients, for every rule and engine -----------------------------------------------------------------------------

LOCAL = {n: getattr(rules, n)() for n in rules.__all__ if n != "feedback_alignment" and getattr(rules, n)().local}
SUITED = {
    "dendritic": ("dendrites",), "decolle": ("local",), "superspike": ("spikes", "recurrent"),
    "s_tllr": ("deep",), "es_d_rtrl": ("deep",), "ottt": ("deep",), "ostl": ("deep", "recurrent"), "sltt": ("deep",),
}  # fmt: skip
CASES = [
    (name, kind, backend)
    for name in LOCAL
    for kind in SUITED.get(name, ("recurrent", "rich"))
    for backend in ("torch", "brian2")
    if not (kind == "rich" and name not in ("eprop", "ostl"))
]


@pytest.mark.sampled(7, 1)
@pytest.mark.parametrize(("name", "kind", "backend"), CASES)
def test_gradients_of_every_local_rule(name, kind, backend, spelled):
    pair, rule = spelled.both(spelled.network(kind), start=len(name) % 3), LOCAL[name]
    trials = spelled.trials_for(pair.plain, 1 if name == "dendritic" else 3)
    options = {"loss": mse(), "backend": backend} | ({"form": "traces"} if backend == "torch" else {})
    found = [lp.gradient(net, trials, rule, **options) for net in (pair.plain, pair.clashing)]
    spelled.same_trees(*found, pair)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", ["recurrent", "rich", "deep", "spikes"])
@pytest.mark.parametrize("rule", [bptt(), bptt(cut={"reset", "leak"})], ids=["BPTT", "cut"])
def test_gradients_of_automatic_differentiation(kind, rule, spelled):
    pair = spelled.both(spelled.network(kind), start=2)
    found = [
        lp.gradient(net, spelled.trials_for(net), rule, loss=mse(), form="adjoint")
        for net in (pair.plain, pair.clashing)
    ]
    spelled.same_trees(*found, pair)


def test_gradients_of_parameters_that_are_asked_for(spelled):
    pair, names = spelled.both(spelled.network("recurrent"), start=1), ["rec.tau_mem", "rec.beta", "rec.tau_adapt"]
    for options in ({"form": "forward"}, {"form": "traces"}, {"form": "adjoint"}, {"backend": "brian2"}):
        asked = [names, list(map(pair.name, names))]
        found = [
            lp.gradient(net, spelled.trials_for(net, 2), bptt() if "forward" in options.values() else eprop(), loss=mse(), trainable=ask, **options)
            for net, ask in zip((pair.plain, pair.clashing), asked, strict=True)
        ]  # fmt: skip
        spelled.same_trees(*found, pair)


@pytest.fixture(scope="module")
def gradients_with(spelled):
    """``gradients_with(name)``: of the network that has this name everywhere; None is the oracle."""

    @functools.cache
    def found(name):
        loss, asked = mse() + rate(10.0, 1e-3), ["a.tau_adapt", f"b.{name or 'beta'}", "c.v_th"]
        net = spelled.everywhere(name)
        return lp.gradient(net, spelled.trials_for(net, 1), eprop(), loss=loss, form="traces", trainable=asked)

    return found


@pytest.mark.sampled(12)
@pytest.mark.parametrize(
    "name", sorted([*TAKEN, *(f"{b}v" for b in BEGINNINGS), "late3_v", "v_from_in", "own_w", "target", "jump", "reset"])
)
def test_every_name_that_is_taken_can_be_used(name, gradients_with, spelled):
    plain, found = gradients_with(None), gradients_with(name)
    for node in plain.children:
        for key, array in plain[node].data_vars.items():
            spelled.same(array, found[node][key.replace("_beta", f"_{name}")])


# --- runs, records, learning ------------------------------------------------------------------------------------------


def record_of(net, new=None):
    """All variables, of spiking populations their spikes; what is called as those are stays out."""
    new = new or {}
    return [
        f"{n}.{new.get(k, k)}"
        for n, p in net.populations.items()
        for k in p.model.written
        if new.get(k, k) not in ("spikes", "raster", "spike_count")
    ] + [f"{n}.spikes" for n, p in net.populations.items() if p.model.spiking]


@pytest.mark.sampled(2, 1)
@pytest.mark.parametrize("backend", ["torch", "brian2"])
@pytest.mark.parametrize("kind", ["rich", "dendrites", "spikes"])
def test_records(kind, backend, tmp_path, spelled):
    pair = spelled.both(spelled.network(kind), start=3)
    trials, names = spelled.trials_for(pair.plain), record_of(pair.clashing)
    kept = [spelled.key_renamed(n, pair.back) for n in names]
    values = pair.plain.draw(0), pair.clashing.draw(0)
    rounded = [v.rounded(net) for v, net in zip(values, (pair.plain, pair.clashing), strict=True)]
    plain = lp.run(pair.plain, trials, record=kept, backend=backend, values=rounded[0])
    found = lp.run(pair.clashing, trials, record=names, backend=backend, values=rounded[1], path=tmp_path / "r.zarr")
    spelled.same_trees(plain, found, pair)
    assert found.attrs["nodes"] and "own_L" not in found.attrs["nodes"]


RICH = {"rec.tau_adapt": 1e-2, "rec.v_th": 1e-1, "out.tau_out": 1e-2, "rec_rec.delay": 1.0}
LEARNERS = {
    "BPTT": ("rich", bptt(), "torch", {}), "e-prop": ("rich", eprop(), "torch", {}),
    "kernel, parameters": ("fixed delays", bptt(), "torch", {}), "kernel, online": ("recurrent", eprop(update="step"), "torch", {"batch": 1}),
    "kernel, traces": ("recurrent", eprop(feedback="learned"), "torch", {"loss": mse() + rate(10.0, 1e-3)}),
    "running rate": ("recurrent", eprop(update=5 * ms), "brian2", {"batch": 1, "loss": mse() + rate(10.0, 1e-3, window=50 * ms)}),
    "dendritic": ("dendrites", dendritic(), "torch", {}), "dendritic in Brian2": ("dendrites", dendritic(), "brian2", {"batch": 1}),
    "Brian2": ("rich each", eprop(), "brian2", {"loss": mse() + rate(10.0, 1e-3)}),
    "Brian2, every step": ("recurrent", eprop(update="step"), "brian2", {"batch": 1}),
}  # fmt: skip


def learning_network(spelled, kind):
    net = spelled.network(kind if kind in ("dendrites", "recurrent") else "rich")
    if kind == "fixed delays":
        links = [dataclasses.replace(p, delay=None) for p in net.projections.values()]
        return Network(dt=net.dt, projections=links, **net.nodes)
    if kind == "rich each":  # in Brian2 every neuron has its own; a readout that smooths traces stays
        rec = dataclasses.replace(
            net.nodes["rec"], parameters={"tau_adapt": np.full(6, 100) * ms, "v_th": np.full(6, 1.0)}
        )
        nodes = {**net.nodes, "rec": rec, "out": dataclasses.replace(net.nodes["out"], trainable={})}
        return Network(dt=net.dt, projections=list(net.projections.values()), **nodes)
    return net


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", LEARNERS)
def test_learning(case, spelled):
    kind, rule, backend, options = LEARNERS[case]
    pair = spelled.both(learning_network(spelled, kind), start=4)
    trials = spelled.trials_for(pair.plain, options.get("batch", 2))
    rates = {k: v for k, v in RICH.items() if k in pair.plain.trainable}
    if case == "e-prop":
        rates["out.tau_out"] = 0.0
    found = [
        spelled.learn(net, trials, rule, lp.adam(1e-2).with_rates(**{name(k): v for k, v in rates.items()}), backend=backend, **options)
        for net, name in ((pair.plain, str), (pair.clashing, pair.name))
    ]  # fmt: skip
    spelled.same_trees(*found, pair)
    spelled.same(found[0]["metrics"]["loss"], found[1]["metrics"]["loss"])
    start, moved = pair.clashing.draw(0), pair.clashing.values_from(found[1])
    for name in rates:
        changed = np.abs(np.asarray(moved.other(pair.name(name))) - start.other(pair.name(name))).max()
        assert (changed > 0) == (rates[name] > 0), name


def test_numbers_of_an_optimiser_meet_no_variable(spelled):
    """Adam keeps ``m_tau_adapt`` of a parameter that learns."""
    plain, new = learning_network(spelled, "rich each"), {"a": "m_tau_adapt", "tau_mem": "s_v_th"}
    rates = {k: v for k, v in RICH.items() if k in plain.trainable}
    options = {"optimiser": lp.adam(1e-2).with_rates(**rates), "backend": "brian2", "test": 0}
    found = [
        spelled.learn(net, spelled.trials_for(net, 2), eprop(), **options)
        for net in (plain, spelled.renamed(plain, new))
    ]
    spelled.same_trees(*found, SimpleNamespace(plain=plain, new=new, name=lambda name: name))


def test_learning_from_reward(spelled):
    readout, rng = leaky_readout(tau_out=15 * ms), np.random.default_rng(5)
    plain = Network(
        dt=1 * ms, cues=Input(5), dice=Input(2, "currents"), policy=Population(2, readout), value=Population(1, readout), rec=Population(6, alif()),
        projections=[Projection("cues", "rec", weight=normal(3.0)), Projection("rec", "policy"), Projection("rec", "value")],
    )  # fmt: skip
    pair, weight = spelled.both(plain), np.linspace(0, 1, 25) * (np.arange(25) < 15)
    trials = Trials(
        {"cues": rng.random((2, 25, 5)) < 0.4, "dice": rng.gumbel(size=(2, 25, 2))}, np.array([0, 1]), weight
    )
    for backend in ("torch", "brian2"):
        found = [
            lp.gradient(net, trials, eprop(), loss=reward(5 * ms), backend=backend) for net in (plain, pair.clashing)
        ]
        spelled.same_trees(*found, pair)


def test_short_term_plasticity_and_delays_between_steps(spelled):
    plain = Network(
        dt=1 * ms, cues=Input(5), rec=Population(6, cuba_lif()), out=Population(2, leaky_readout()),
        projections=[Projection("cues", "rec", weight=normal(5e-3), short_term=depression(0.5, 50 * ms)), Projection("rec", "out")],
    )  # fmt: skip
    for start in (0, 44):
        pair = spelled.both(plain, start)
        for backend in ("torch", "brian2"):
            names = record_of(pair.clashing)
            kept = [spelled.key_renamed(n, pair.back) for n in names]
            runs = zip((plain, pair.clashing), (kept, names), strict=True)
            spelled.same_trees(
                *(lp.run(net, spelled.trials_for(net), record=ask, backend=backend) for net, ask in runs), pair
            )


def test_watching_it_learn(spelled):
    plain = layered((4, 5, 3), latent_equilibrium(), latent_equilibrium_output(), parameters={"hidden1": {"b": np.zeros(5)}}, trainable={"hidden1": {"b": (None, None)}})  # fmt: skip
    pair, rng = spelled.both(plain, start=1), np.random.default_rng(0)
    trials = stream(rng.random((2, 6, 4)), rng.random((2, 6, 3)), steps=4)
    names = [n for n in record_of(pair.clashing) if "hidden1" in n or "out." in n]
    asked = [[*(spelled.key_renamed(n, pair.back) for n in names), "up2.weight"], [*names, "up2.weight"]]
    found = [
        lp.live(net, trials, dendritic(), lp.sgd(0.2).with_rates(**{name("hidden1.b"): 0.5}), record=record)
        for net, name, record in zip((plain, pair.clashing), (str, pair.name), asked, strict=True)
    ]
    spelled.same_trees(*found, pair)
    pairs = [
        lp.gradient(net, trials[:1], dendritic(update="trial"), backend=b)
        for net in (plain, pair.clashing)
        for b in ("torch", "brian2")
    ]
    spelled.same_trees(pairs[0], pairs[2], pair)
    spelled.same_trees(pairs[1], pairs[3], pair)


@pytest.mark.parametrize("backend", ["torch", "brian2"])
def test_a_run_goes_on_from_its_checkpoint(backend, tmp_path, spelled):
    pair = spelled.both(learning_network(spelled, "rich each"), start=4)
    rates = {pair.name(k): v for k, v in RICH.items() if k in pair.plain.trainable}
    options = {"rule": eprop(), "optimiser": lp.adam(1e-2).with_rates(**rates), "backend": backend, "test": 0}
    trials = spelled.trials_for(pair.plain, 2)
    whole = spelled.learn(pair.clashing, trials, updates=4, **options)
    spelled.learn(pair.clashing, trials, updates=2, **options, path=tmp_path / "run.zarr")
    again = spelled.learn(pair.clashing, trials, updates=4, **options, path=tmp_path / "run.zarr", resume=True)
    for node in ("cues_rec", "learned"):
        for key, array in whole[node].data_vars.items():
            assert np.array_equal(array, again[node][key]), (node, key)
    assert set(again["learned"].data_vars) == set(rates)


# --- plans ------------------------------------------------------------------------------------------------------------


def plans(spelled):
    """Plans of all rules that are local on networks of all kinds."""
    for (name, kind, _), loss in itertools.product(CASES[::2], (mse() + rate(10.0, 1e-3), mse())):
        net = spelled.network(kind)
        loss = loss if LOCAL[name].update == "trial" else mse() + rate(10.0, 1e-3, window=50 * ms)
        yield net, plan(net, LOCAL[name], loss, lp.adam(0.1).with_rates(**dict.fromkeys(net.trainable, 1.0)))


def made_by(plan):
    """Every name that a plan makes, in neurons and in synapses."""
    for neuron in plan.neurons.values():
        yield from (name for slot in SLOTS for name, _ in getattr(neuron, slot))
    for synapse in plan.synapses.values():
        e = synapse.eligibility
        yield from (n for program in (synapse.program, e.pre, e.after, e.end) for n, _ in program)
    for signal in plan.signals.values():
        yield from (term.variable for term in signal.terms)


def test_every_name_that_plans_make_is_known_to_be_taken(spelled):
    seen = set()
    for net, made in plans(spelled):
        own = set(spelled.own_names(net))
        names = {n for n in made_by(made) if n not in own and not n.startswith("_")}
        assert not [n for n in names if not is_taken(n)]
        seen |= names
    assert len(seen) > 60


def test_every_array_of_a_step_program_is_known_to_be_taken(spelled):
    """Where its name is that of a neuron and one more: ``rec.z``; all others are told apart by a second point."""
    found = set()
    for net, made in plans(spelled):
        values, learned = net.draw(0), [f"{name}.weight" for name in made.synapses]
        program, _ = online(net, values, made, learned=learned, optimiser=lp.adam(0.1), masks=values.masks)
        own = {f"{n}.{k}" for n, p in net.populations.items() for k in (*p.model.dimensions, "dt", "not_refractory")}
        found |= {a for a in program.arrays if a.count(".") == 1 and a.split(".")[0] in net.populations} - own
    assert found and not [a for a in found if not is_taken(a.split(".")[1])]


def test_every_name_that_brian2_gets_is_known_to_be_taken(spelled):
    found = set()
    for net, made in plans(spelled):
        values = net.draw(0)
        if any(not np.ndim(values.other(name)) for name in net.trainable):  # which Brian2 learns of no whole population
            made = dataclasses.replace(made, optimiser=None)
        learning = Learning(net, values, block_for(net, spelled.trials_for(net)), made, 0)
        for name in net.populations:
            lines = [line.varname for line in learning.lines_of(name)]
            assert len(lines) == len(set(lines))  # by the names of the optimiser: see number_of
            found |= {n for n in lines if n not in net.nodes[name].model.dimensions}
    assert len(found) > 40 and not [n for n in found if not is_taken(n)]


@pytest.mark.thorough
def test_the_cpp_program_of_brian2(spelled):
    pair = spelled.both(learning_network(spelled, "rich each"), start=4)
    trials, rule = spelled.trials_for(pair.plain, 2), eprop()
    found = [
        lp.gradient(pair.plain, trials, rule, loss=mse()),
        lp.gradient(pair.clashing, trials, rule, loss=mse(), backend="brian2", target="cpp"),
    ]
    spelled.same_trees(*found, pair)


def test_values_within_a_reset_are_no_variables_of_learning(spelled):
    """Brian2 runs the text of a reset where the variables of learning are."""
    found = []
    for name in ("u", "z"):
        model = dataclasses.replace(alif(beta=0.3), reset=f"{name} = v - v_th; v = {name}")
        links = [Projection("cues", "rec", weight=normal(3.0)), Projection("rec", "rec"), Projection("rec", "out")]
        nodes = {"cues": Input(4), "rec": Population(3, model), "out": Population(2, leaky_readout())}
        net = Network(dt=1 * ms, **nodes, projections=links)
        found.append(lp.gradient(net, spelled.trials_for(net, 1), eprop(), loss=mse(), backend="brian2"))
    spelled.same_trees(*found, SimpleNamespace(plain=net, new={}))


@pytest.mark.parametrize("backend", ["torch", "brian2"])
def test_a_synapse_learns_from_a_variable_of_its_source(backend, spelled):
    def joined(v):
        equations, times = f"d{v}/dt = (I - {v})/tau : 1\nI : 1", {"tau": 5 * ms}
        options = {"output": v, "receives": "I", "method": "euler"}
        pre = NeuronModel("pre", equations, times, **options)
        post = NeuronModel("post", equations, times, **options, mismatch={"I": Mismatch(f"1 - {v}", pre=v)})
        nodes = {"cues": Input(4, "currents"), "a": Population(3, pre), "out": Population(2, post)}
        return Network(dt=1 * ms, **nodes, projections=[Projection("cues", "a", plastic=False), Projection("a", "out")])

    nets, rule = [joined("v"), joined("error")], dendritic(update="trial")
    found = [lp.gradient(net, spelled.trials_for(net, 1), rule, loss=mse(), backend=backend) for net in nets]
    spelled.same_trees(*found, SimpleNamespace(plain=nets[0], new={"v": "error"}))
