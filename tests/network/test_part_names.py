"""Populations, inputs and projections are called as people like, on every backend: the network is the same."""

import dataclasses
import functools

import numpy as np
import pytest
from brian2 import ms

import localplast as lp
from localplast.errors import UnsupportedError
from localplast.models import alif, leaky_readout
from localplast.network import Input, Network, Population, Projection, axonal, normal
from localplast.rules import eprop
from localplast.task import Trials
from localplast.task.loss import cross_entropy


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
    spikes = np.random.default_rng(0).random((2, 40, 4)) < 0.3
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
        np.testing.assert_allclose(other, one, rtol=1e-11, atol=1e-15)


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
