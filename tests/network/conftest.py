"""What tests of networks share: networks whose models call their variables what plans and backends call their own."""

import dataclasses
import functools
import re
from types import SimpleNamespace

import numpy as np
import pytest
from brian2 import ms

import localplast as lp
from localplast.models import alif, leaky_readout
from localplast.network import Input, Network, Population, Projection, axonal, normal
from localplast.neuron.surrogate import Surrogate
from localplast.show.examples import sample
from localplast.task import Task, Trials

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


def everywhere(name):
    """A network with ``name`` as a variable, a parameter, a value within a reset, and a variable of the readout."""
    plain, local = alif(beta=0.3), dataclasses.replace(alif(beta=0.3), reset="u = v - v_th; v = u")
    models = [(plain, {"a": name}), (plain, {"beta": name}), (local, {"u": name}), (leaky_readout(), {"v": name})]
    found = [model_renamed(model, {k: v for k, v in new.items() if name}) for model, new in models]
    sizes = (3, 3, 3, 2)
    nodes = {n: Population(size, m) for n, size, m in zip("abco", sizes, found, strict=True)}
    links = [Projection("cues", n, weight=normal(3.0)) for n in "abc"] + [Projection("a", "b"), Projection("b", "c")]
    return Network(dt=1 * ms, cues=Input(4), **nodes, projections=[*links, *(Projection(n, "o") for n in "abc")])


def still(trials):
    return Task("still", lambda update, batch, seed: trials[:batch], lambda n, seed: trials[:n])


def learn(net, trials, rule, optimiser, **options):
    options = {"updates": 2, "target": "numpy", "show": False, "batch": len(trials), "test": 1, **options}
    return lp.run(net, still(trials), rule=rule, optimiser=optimiser, **options)


@pytest.fixture(scope="session")
def spelled():
    """The functions of this file."""
    return SimpleNamespace(
        model_renamed=model_renamed,
        own_names=own_names,
        renamed=renamed,
        key_renamed=key_renamed,
        both=both,
        same=same,
        same_trees=same_trees,
        network=network,
        everywhere=everywhere,
        trials_for=trials_for,
        learn=learn,
    )
