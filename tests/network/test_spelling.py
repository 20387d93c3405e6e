"""Models may call their variables what plans and backends call their own: a network that is renamed so is the same
network.

The oracle is the network under names that meet nothing. Sums are in the order of names, so that numbers may differ in
their last bits.
"""

import dataclasses
import functools
import itertools
import re
from types import SimpleNamespace

import numpy as np
import pytest
from brian2 import ms

import localplast as lp
from localplast import rules
from localplast.backends.brian2.learner import block_for
from localplast.backends.brian2.learning import Learning
from localplast.errors import LocalplastError, ModelError, NetworkError, UnsupportedError
from localplast.models import alif, cuba_lif, latent_equilibrium, latent_equilibrium_output, leaky_readout, lif
from localplast.models.layers import layered, stream
from localplast.names import BEGINNINGS, TAKEN, inner, is_taken, outer
from localplast.network import Input, Network, Population, Projection, axonal, depression, normal
from localplast.neuron.surrogate import Surrogate, triangle
from localplast.program.learn import plan
from localplast.program.locality import SLOTS
from localplast.program.online import online
from localplast.rules import bptt, dendritic, eprop
from localplast.show.describe import describe_model
from localplast.show.examples import SAMPLES, sample
from localplast.task import Task, Trials
from localplast.task.loss import cross_entropy, mse, rate, reward

#: Names that all mean something to plans and backends, the worst ones first.
CLASHING = [
    *"L w x psi z B elig error gradient eps_v d_v output spikes weight mismatch_v credit_v primed_v filtered_v".split(),
    *"loss score teacher td activity learning_rate updates arrived own_v delta_v fraction initial_v sent_v".split(),
    *"drift_v new_v reset jump raster gradient_v elig_v last_eps_v faded_v spike_count normaliser lure back_v".split(),
    *"opt_w past_arrived late1_elig L_from_out resources_v utilisation_v optimiser_v filtered fading kept_v".split(),
]
STEPS = 25


def words(text, new):
    """``text`` with other names; also those that are derived in it, ``dv/dt``."""
    if not text:
        return text
    derived = re.sub(r"\bd(\w+)(?=/dt)", lambda m: f"d{new.get(m[1], m[1])}", text)
    return re.sub(r"\b\w+\b", lambda m: new.get(m[0], m[0]), derived)


def model_renamed(model, new):
    texts = ("equations", "threshold", "reset", "adaptation", "update", "output", "refractory", "receives")
    keyed = ("parameters", "initial")
    mismatch = {
        new.get(k, k): dataclasses.replace(m, error=words(m.error, new), of=words(m.of, new), pre=new.get(m.pre, m.pre))
        for k, m in model.mismatch.items()
    }
    own = {k: v for k, v in new.items() if k != "x"}
    surrogate = model.surrogate and Surrogate(
        words(model.surrogate.expression, own), {new.get(k, k): v for k, v in model.surrogate.parameters.items()}
    )
    return dataclasses.replace(
        model, **{t: words(getattr(model, t), new) for t in texts}, mismatch=mismatch, surrogate=surrogate,
        **{d: {new.get(k, k): v for k, v in getattr(model, d).items()} for d in keyed},
        at_least_dt=tuple(new.get(k, k) for k in model.at_least_dt),
    )  # fmt: skip


def own_names(net):
    """All names of variables and parameters, in an order of their own."""
    found = {n: None for p in net.populations.values() for n in (*p.model.written, *p.model.parameters)}
    return list(found)


def names_for(net, start=0):
    """Another name for each, all of them taken; ``x`` is the spike argument in the text of a surrogate."""
    surrogates = " ".join(p.model.surrogate.expression for p in net.populations.values() if p.model.surrogate)
    read, given = set(re.findall(r"\w+", surrogates)), [*CLASHING[start:], *CLASHING[:start]]
    return {name: given.pop(1 if given[0] == "x" and name in read else 0) for name in own_names(net)}


def renamed(net, new):
    """``net`` with other names for what its models have."""
    nodes = {}
    for name, node in net.nodes.items():
        if isinstance(node, Population):
            keyed = {
                d: {new.get(k, k): v for k, v in getattr(node, d).items()}
                for d in ("parameters", "initial", "trainable")
            }
            node = dataclasses.replace(node, model=model_renamed(node.model, new), **keyed)
        nodes[name] = node
    links = [
        dataclasses.replace(p, target=new.get(p.target, p.target), output=words(p.output, new))
        for p in net.projections.values()
    ]
    return Network(dt=net.dt, projections=links, **nodes)


def key_renamed(name, new):
    owner, _, key = name.partition(".")
    return f"{owner}.{new.get(key, key)}"


def both(net, start=0):
    new = names_for(net, start)
    return SimpleNamespace(
        plain=net,
        clashing=renamed(net, new),
        new=new,
        name=lambda name: key_renamed(name, new),
        back={v: k for k, v in new.items()},
    )


def same(one, other, rtol=1e-11):
    """Raise unless two arrays are the same up to rounding, and say something."""
    one, other = np.asarray(one, float), np.asarray(other, float)
    assert one.shape == other.shape
    np.testing.assert_allclose(other, one, rtol=rtol, atol=rtol * max(np.nanmax(np.abs(one), initial=0), 1e-300))


def same_trees(plain, clashing, pair):
    """Compare what two records, or gradients, hold, names translated."""
    assert {n for n in plain.children} == {n for n in clashing.children}
    seen = 0
    for name, node in plain.children.items():
        for key, array in node.data_vars.items():
            kind, _, rest = key.partition("_") if key.startswith("gradient_") else ("", "", key)
            there = (
                f"gradient_{pair.new.get(rest, rest)}"
                if kind and name in pair.plain.populations
                else pair.new.get(key, key)
            )
            if name == "metrics":
                there = key
            if name == "learned":
                there = pair.name(key) if key.split(".")[0] in pair.plain.populations else key
            assert there in clashing[name].data_vars, (name, key, there, list(clashing[name].data_vars))
            if array.dtype.kind == "f":
                same(array, clashing[name][there])
                seen += bool((np.abs(array) > 0).any())
            else:
                assert np.array_equal(array, clashing[name][there])
            assert array.attrs == clashing[name][there].attrs
    assert seen


@functools.cache
def network(kind):
    """A network that spikes, and has something of everything."""
    if kind == "dendrites":
        return sample(kind)
    if kind == "rich":
        return Network(
            dt=1 * ms, cues=Input(5),
            rec=Population(6, alif(tau_ref=3 * ms, beta=0.3), {"tau_adapt": np.full(6, 100) * ms}, {"v": 0.3}, trainable={"tau_adapt": (50 * ms, None), "v_th": (0.5, 2)}),
            out=Population(2, leaky_readout(), trainable={"tau_out": (5 * ms, None)}),
            projections=[
                Projection("cues", "rec", weight=normal(3.0)), Projection("rec", "out"),
                Projection("rec", "rec", delay=axonal(np.arange(6) * ms, trainable=(0 * ms, 9 * ms))),
            ],
        )  # fmt: skip
    net = sample(kind)
    links = [dataclasses.replace(p, weight=normal(3.0)) if p.plastic else p for p in net.projections.values()]
    return Network(dt=net.dt, projections=links, **net.nodes)


def trials_for(net, n=3):
    rng = np.random.default_rng(0)
    inputs = {
        k: rng.random((n, STEPS, i.size)) < 0.3 if i.kind == "spikes" else rng.random((n, STEPS, i.size))
        for k, i in net.inputs.items()
    }
    return Trials(inputs, rng.normal(size=(n, STEPS, net.size(net.readouts[-1]))), np.full(STEPS, 1 / STEPS))


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


@pytest.mark.sampled(4, 1)
@pytest.mark.parametrize(("name", "kind", "backend"), CASES)
def test_gradients_of_every_local_rule(name, kind, backend):
    pair, rule = both(network(kind), start=len(name) % 3), LOCAL[name]
    trials = trials_for(pair.plain, 1 if name == "dendritic" else 3)
    options = {"loss": mse(), "backend": backend} | ({"form": "traces"} if backend == "torch" else {})
    found = [lp.gradient(net, trials, rule, **options) for net in (pair.plain, pair.clashing)]
    same_trees(*found, pair)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", ["recurrent", "rich", "deep", "spikes"])
@pytest.mark.parametrize("rule", [bptt(), bptt(cut={"reset", "leak"})], ids=["BPTT", "cut"])
def test_gradients_of_automatic_differentiation(kind, rule):
    pair = both(network(kind), start=2)
    found = [lp.gradient(net, trials_for(net), rule, loss=mse(), form="adjoint") for net in (pair.plain, pair.clashing)]
    same_trees(*found, pair)


def test_gradients_of_parameters_that_are_asked_for():
    pair, names = both(network("recurrent"), start=1), ["rec.tau_mem", "rec.beta", "rec.tau_adapt"]
    for options in ({"form": "forward"}, {"form": "traces"}, {"form": "adjoint"}, {"backend": "brian2"}):
        asked = [names, list(map(pair.name, names))]
        found = [
            lp.gradient(net, trials_for(net, 2), bptt() if "forward" in options.values() else eprop(), loss=mse(), trainable=ask, **options)
            for net, ask in zip((pair.plain, pair.clashing), asked, strict=True)
        ]  # fmt: skip
        same_trees(*found, pair)


def everywhere(name):
    """A network with ``name`` as a variable, a parameter, a value within a reset, and a variable of the readout."""
    plain, local = alif(beta=0.3), dataclasses.replace(alif(beta=0.3), reset="u = v - v_th; v = u")
    models = [(plain, {"a": name}), (plain, {"beta": name}), (local, {"u": name}), (leaky_readout(), {"v": name})]
    found = [model_renamed(model, {k: v for k, v in new.items() if name}) for model, new in models]
    sizes = (3, 3, 3, 2)
    nodes = {n: Population(size, m) for n, size, m in zip("abco", sizes, found, strict=True)}
    links = [Projection("cues", n, weight=normal(3.0)) for n in "abc"] + [Projection("a", "b"), Projection("b", "c")]
    return Network(dt=1 * ms, cues=Input(4), **nodes, projections=[*links, *(Projection(n, "o") for n in "abc")])


@functools.cache
def gradients_with(name):
    loss, asked = mse() + rate(10.0, 1e-3), ["a.tau_adapt", f"b.{name or 'beta'}", "c.v_th"]
    net = everywhere(name)
    return lp.gradient(net, trials_for(net, 1), eprop(), loss=loss, form="traces", trainable=asked)


@pytest.mark.sampled(8)
@pytest.mark.parametrize(
    "name", sorted([*TAKEN, *(f"{b}v" for b in BEGINNINGS), "late3_v", "v_from_in", "own_w", "target", "sent0"])
)
def test_every_name_that_is_taken_can_be_used(name):
    plain, found = gradients_with(None), gradients_with(name)
    for node in plain.children:
        for key, array in plain[node].data_vars.items():
            same(array, found[node][key.replace("_beta", f"_{name}")])


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
def test_records(kind, backend, tmp_path):
    pair = both(network(kind), start=3)
    trials, names = trials_for(pair.plain), record_of(pair.clashing)
    kept = [key_renamed(n, pair.back) for n in names]
    values = pair.plain.draw(0), pair.clashing.draw(0)
    rounded = [v.rounded(net) for v, net in zip(values, (pair.plain, pair.clashing), strict=True)]
    plain = lp.run(pair.plain, trials, record=kept, backend=backend, values=rounded[0])
    found = lp.run(pair.clashing, trials, record=names, backend=backend, values=rounded[1], path=tmp_path / "r.zarr")
    same_trees(plain, found, pair)
    assert found.attrs["nodes"] and "own_L" not in found.attrs["nodes"]


def still(trials):
    return Task("still", lambda update, batch, seed: trials[:batch], lambda n, seed: trials[:n])


def learn(net, trials, rule, optimiser, **options):
    options = {"updates": 2, "target": "numpy", "show": False, "batch": len(trials), "test": 1, **options}
    return lp.run(net, still(trials), rule=rule, optimiser=optimiser, **options)


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


def learning_network(kind):
    net = network(kind if kind in ("dendrites", "recurrent") else "rich")
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
def test_learning(case):
    kind, rule, backend, options = LEARNERS[case]
    pair = both(learning_network(kind), start=4)
    trials = trials_for(pair.plain, options.get("batch", 2))
    rates = {k: v for k, v in RICH.items() if k in pair.plain.trainable}
    if case == "e-prop":
        rates["out.tau_out"] = 0.0
    found = [
        learn(net, trials, rule, lp.adam(1e-2).with_rates(**{name(k): v for k, v in rates.items()}), backend=backend, **options)
        for net, name in ((pair.plain, str), (pair.clashing, pair.name))
    ]  # fmt: skip
    same_trees(*found, pair)
    same(found[0]["metrics"]["loss"], found[1]["metrics"]["loss"])
    start, moved = pair.clashing.draw(0), pair.clashing.values_from(found[1])
    for name in rates:
        changed = np.abs(np.asarray(moved.other(pair.name(name))) - start.other(pair.name(name))).max()
        assert (changed > 0) == (rates[name] > 0), name


def test_numbers_of_an_optimiser_meet_no_variable():
    """Adam keeps ``m_tau_adapt`` of a parameter that learns."""
    plain, new = learning_network("rich each"), {"a": "m_tau_adapt", "tau_mem": "s_v_th"}
    rates = {k: v for k, v in RICH.items() if k in plain.trainable}
    options = {"optimiser": lp.adam(1e-2).with_rates(**rates), "backend": "brian2", "test": 0}
    found = [learn(net, trials_for(net, 2), eprop(), **options) for net in (plain, renamed(plain, new))]
    same_trees(*found, SimpleNamespace(plain=plain, new=new, name=lambda name: name))


def test_learning_from_reward():
    readout, rng = leaky_readout(tau_out=15 * ms), np.random.default_rng(5)
    plain = Network(
        dt=1 * ms, cues=Input(5), dice=Input(2, "currents"), policy=Population(2, readout), value=Population(1, readout), rec=Population(6, alif()),
        projections=[Projection("cues", "rec", weight=normal(3.0)), Projection("rec", "policy"), Projection("rec", "value")],
    )  # fmt: skip
    pair, weight = both(plain), np.linspace(0, 1, STEPS) * (np.arange(STEPS) < 15)
    trials = Trials(
        {"cues": rng.random((2, STEPS, 5)) < 0.4, "dice": rng.gumbel(size=(2, STEPS, 2))}, np.array([0, 1]), weight
    )
    for backend in ("torch", "brian2"):
        found = [
            lp.gradient(net, trials, eprop(), loss=reward(5 * ms), backend=backend) for net in (plain, pair.clashing)
        ]
        same_trees(*found, pair)


def test_short_term_plasticity_and_delays_between_steps():
    plain = Network(
        dt=1 * ms, cues=Input(5), rec=Population(6, cuba_lif()), out=Population(2, leaky_readout()),
        projections=[Projection("cues", "rec", weight=normal(5e-3), short_term=depression(0.5, 50 * ms)), Projection("rec", "out")],
    )  # fmt: skip
    for start in (0, 44):
        pair = both(plain, start)
        for backend in ("torch", "brian2"):
            names = record_of(pair.clashing)
            kept = [key_renamed(n, pair.back) for n in names]
            runs = zip((plain, pair.clashing), (kept, names), strict=True)
            same_trees(*(lp.run(net, trials_for(net), record=ask, backend=backend) for net, ask in runs), pair)


def test_watching_it_learn():
    plain = layered((4, 5, 3), latent_equilibrium(), latent_equilibrium_output(), parameters={"hidden1": {"b": np.zeros(5)}}, trainable={"hidden1": {"b": (None, None)}})  # fmt: skip
    pair, rng = both(plain, start=1), np.random.default_rng(0)
    trials = stream(rng.random((2, 6, 4)), rng.random((2, 6, 3)), steps=4)
    names = [n for n in record_of(pair.clashing) if "hidden1" in n or "out." in n]
    asked = [[*(key_renamed(n, pair.back) for n in names), "up2.weight"], [*names, "up2.weight"]]
    found = [
        lp.live(net, trials, dendritic(), lp.sgd(0.2).with_rates(**{name("hidden1.b"): 0.5}), record=record)
        for net, name, record in zip((plain, pair.clashing), (str, pair.name), asked, strict=True)
    ]
    same_trees(*found, pair)
    pairs = [
        lp.gradient(net, trials[:1], dendritic(update="trial"), backend=b)
        for net in (plain, pair.clashing)
        for b in ("torch", "brian2")
    ]
    same_trees(pairs[0], pairs[2], pair)
    same_trees(pairs[1], pairs[3], pair)


@pytest.mark.parametrize("backend", ["torch", "brian2"])
def test_a_run_goes_on_from_its_checkpoint(backend, tmp_path):
    pair = both(learning_network("rich each"), start=4)
    rates = {pair.name(k): v for k, v in RICH.items() if k in pair.plain.trainable}
    options = {"rule": eprop(), "optimiser": lp.adam(1e-2).with_rates(**rates), "backend": backend, "test": 0}
    trials = trials_for(pair.plain, 2)
    whole = learn(pair.clashing, trials, updates=4, **options)
    learn(pair.clashing, trials, updates=2, **options, path=tmp_path / "run.zarr")
    again = learn(pair.clashing, trials, updates=4, **options, path=tmp_path / "run.zarr", resume=True)
    for node in ("cues_rec", "learned"):
        for key, array in whole[node].data_vars.items():
            assert np.array_equal(array, again[node][key]), (node, key)
    assert set(again["learned"].data_vars) == set(rates)


# --- names of populations and projections -----------------------------------------------------------------------------


def joined(**names):
    """Three parts and three projections under these names, the values that the others would have, and trials."""
    base = {n: n for n in ("cues", "rec", "out", "cues_rec", "rec_rec", "rec_out")}
    given = {**base, **names}
    cues, rec, out = (given[n] for n in ("cues", "rec", "out"))
    links = [
        Projection(cues, rec, weight=normal(3.0), name=given["cues_rec"]), Projection(rec, out, name=given["rec_out"]),
        Projection(rec, rec, delay=axonal(np.arange(3) * ms), name=given["rec_rec"]),
    ]  # fmt: skip
    nodes = {cues: Input(4), rec: Population(3, alif()), out: Population(2, leaky_readout())}
    net = Network(dt=1 * ms, projections=links, **nodes)
    drawn = joined()[0].draw(0) if names else net.draw(0)
    fields = {f.name: {given[k]: x for k, x in getattr(drawn, f.name).items()} for f in dataclasses.fields(drawn)}
    spikes = np.random.default_rng(0).random((2, STEPS, 4)) < 0.3
    return net, dataclasses.replace(drawn, **fields), Trials({cues: spikes}, np.array([0, 1])), given


@functools.cache
def learned_by(**names):
    net, values, trials, given = joined(**names)
    found = [
        lp.gradient(net, trials, eprop(), loss=cross_entropy(), values=values, **o)
        for o in ({"form": "traces"}, {"backend": "brian2"})
    ]
    return [tree[given[n]]["gradient"].values for tree in found for n in ("cues_rec", "rec_rec", "rec_out")]


@pytest.mark.sampled(5)
@pytest.mark.parametrize("part", ["rec", "out", "cues", "rec_rec"])
@pytest.mark.parametrize(
    "name", ["w", "L", "psi", "error", "output", "target", "choice", "step_weight", "signal", "r", "dice"]
)
def test_parts_are_called_as_people_like(name, part):
    for one, other in zip(learned_by(), learned_by(**{part: name}), strict=True):
        same(one, other)


@pytest.mark.parametrize(
    ("part", "name"), [("cues", "arrivals_rec_rec"), ("rec", "softmax_out"), ("rec_out", "rec_ledger")]
)
def test_a_part_that_brian2_would_have_twice_runs_in_torch(part, name):
    net, values, trials, _ = joined(**{part: name})
    assert lp.gradient(net, trials, eprop(), values=values).attrs["loss"] > 0
    with pytest.raises(
        UnsupportedError, match=f"^'{name}': in Brian2 a part of the network is called so, and what is made"
    ):
        lp.gradient(net, trials, eprop(), values=values, backend="brian2")


# --- what people read -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SAMPLES)
def test_descriptions(kind):
    pair = both(sample(kind), start=1)
    rule = {"dendrites": dendritic(), "local": rules.decolle()}.get(kind, eprop(feedback="random"))
    plain, found = (str(rule.describe(net, optimiser=lp.adam(0.1))) for net in (pair.plain, pair.clashing))
    assert "own_" not in found.replace("own_v", "") or "own_v" in pair.new.values()
    assert "neuron." in found and "neuron." not in plain
    assert len(found.splitlines()) == len(plain.splitlines())
    tex = rule.describe(pair.clashing).latex()
    assert "own psi" not in tex and "own\\_L" not in tex


def test_a_model_is_described_in_its_own_names():
    model = model_renamed(alif(), {"v": "w", "a": "error", "tau_mem": "gradient"})
    found = describe_model(model)
    assert "d error / d error = exp(-dt/tau_adapt)" in str(found) and "d w / d w = exp(-dt/gradient)" in str(found)
    assert "own_" not in str(found) + found.latex() and r"\mathrm{error}" in found.latex()


def test_errors_speak_of_the_names_of_the_model():
    model = model_renamed(alif(), {"v": "w", "a": "L", "beta": "elig"})
    unstable = dataclasses.replace(model, equations=model.equations.replace("dw/dt = -w", "dw/dt = 3000*w"))
    net = Network(
        dt=1 * ms, cues=Input(4), rec=Population(3, unstable), out=Population(2, leaky_readout()),
        projections=[Projection("cues", "rec", weight=normal(3.0)), Projection("rec", "out")],
    )  # fmt: skip
    for run in (
        lambda: lp.run(net, trials_for(net)),
        lambda: lp.run(net, trials_for(net), backend="torch"),
        lambda: lp.gradient(net, trials_for(net), eprop()),
        lambda: learn(net, trials_for(net), eprop(), lp.sgd(0.1), backend="torch", test=0),
        lambda: learn(net, trials_for(net), eprop(), lp.sgd(0.1), backend="brian2", test=0),
    ):
        with pytest.raises(LocalplastError, match=r"\bw\b|population 'rec'") as caught:
            run()
        assert "own_" not in str(caught.value)


def test_what_a_rule_cannot_do_is_said_in_the_names_of_the_model():
    model = dataclasses.replace(
        model_renamed(lif(), {"v": "psi"}), equations="dpsi/dt = -psi/tau_mem : 1 (unless refractory)"
    )
    net = Network(
        dt=1 * ms, cues=Input(4), rec=Population(3, model), out=Population(2, leaky_readout()),
        projections=[Projection("cues", "rec"), Projection("rec", "out")],
    )  # fmt: skip
    for backend in ("torch", "brian2"):
        with pytest.raises(LocalplastError, match="'psi' of lif is clamped"):
            lp.gradient(
                net,
                trials_for(net),
                eprop(feedback="random"),
                backend=backend,
                loss=mse() + rate(5.0, 1.0, window=50 * ms),
            )
    with pytest.raises(LocalplastError, match="'psi' of lif is clamped"):
        eprop().describe(net)


@pytest.mark.parametrize(("variable", "match"), [("spikes", "'rec.spikes'.*itself"), ("time", "'rec.time'.*itself")])
def test_what_a_record_has_itself_is_not_recorded_under_its_name(variable, match):
    net = everywhere(variable)
    with pytest.raises(NetworkError, match=match.replace("rec", "a")):
        lp.run(net, trials_for(net), record=[f"a.{variable}"])
    assert lp.run(net, trials_for(net), record=["a.v", "a.raster"])["a"]["spikes"].any()
    if variable == "spikes":  # no spikes there
        assert lp.run(net, trials_for(net), record=["o.spikes"])["o"]["spikes"].dtype.kind == "f"


def test_the_width_of_a_surrogate_is_not_the_spike_argument():
    with pytest.raises(ModelError, match="the width of a surrogate is 'x', in which x is the spike argument"):
        triangle("x")


# --- the data behind it -----------------------------------------------------------------------------------------------


def test_spelling_is_one_to_one():
    names = [*TAKEN, "v", "own_v", "own_own_v", "my_own_v", "down_v", "eps_v", "_from_"]
    assert len(set(map(inner, names))) == len(names)
    assert [outer(inner(n)) for n in names] == names
    assert not is_taken("v") and not is_taken("down_v") and is_taken("my_own_v")


def test_shipped_models_are_spelled_as_they_are():
    for kind in SAMPLES:
        assert sample(kind).spelling.net is not None and not sample(kind).spelling.differs


def test_inside_nothing_is_spelled_again():
    inside = both(network("rich")).clashing.spelling.net
    assert inside.spelling.net is inside and not inside.spelling.differs


def plans():
    """Plans of all rules that are local on networks of all kinds."""
    for (name, kind, _), loss in itertools.product(CASES[::2], (mse() + rate(10.0, 1e-3), mse())):
        net = network(kind)
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


def test_every_name_that_plans_make_is_known_to_be_taken():
    seen = set()
    for net, made in plans():
        own = set(own_names(net))
        names = {n for n in made_by(made) if n not in own and not n.startswith("_")}
        assert not [n for n in names if not is_taken(n)]
        seen |= names
    assert len(seen) > 60


def test_every_array_of_a_step_program_is_known_to_be_taken():
    """Where its name is that of a neuron and one more: ``rec.z``; all others are told apart by a second point."""
    found = set()
    for net, made in plans():
        program = online(
            net, net.draw(0), made, record=[f"{n}.count" for n, p in net.populations.items() if p.model.spiking]
        )
        own = {f"{n}.{k}" for n, p in net.populations.items() for k in (*p.model.dimensions, "dt", "not_refractory")}
        found |= {a for a in program.arrays if a.count(".") == 1 and a.split(".")[0] in net.populations} - own
    assert len(found) > 4 and not [a for a in found if not is_taken(a.split(".")[1])]


def test_every_name_that_brian2_gets_is_known_to_be_taken():
    found = set()
    for net, made in plans():
        learning = Learning(net, net.draw(0), block_for(net, trials_for(net)), made, 0)
        for name in net.populations:
            kept, shared = learning.parameters.variables(name)
            assert not {*kept} & {*learning.variables(name)}  # by the names of the optimiser: see number_of
            found |= {n for n in {*learning.variables(name), *shared} if n not in net.nodes[name].model.dimensions}
    assert len(found) > 40 and not [n for n in found if not is_taken(n)]


def test_a_plan_is_made_of_a_network_as_plans_spell_it():
    with pytest.raises(LocalplastError, match="a plan is made of net.spelling.net: own_"):
        plan(both(network("recurrent")).clashing, eprop(), mse())
