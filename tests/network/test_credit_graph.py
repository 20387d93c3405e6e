"""The credit graph: which populations lie on common cycles, and which names cut which projections."""

import itertools

import numpy as np
import pytest
from brian2 import ms

from localplast.errors import NetworkError
from localplast.models import leaky_readout, lif
from localplast.network import Input, Network, Population, Projection
from localplast.network.credit_graph import EDGES, check_cut, components, projection_edges


def spiking(links, readouts=(), order=None):
    """A network of populations named by single letters; ``links`` such as ``'ab bc ca'``, ``x`` is the input."""
    names = order or sorted({*"".join(links.split())} - {"q"})
    nodes = {n: Population(2, leaky_readout() if n in readouts else lif()) for n in names}
    return Network(dt=1 * ms, q=Input(3), projections=[Projection(*link) for link in links.split()], **nodes)


def found(links, **options):
    return ["".join(sorted(group)) for group in components(spiking(links, **options))]


@pytest.mark.parametrize(
    "links, expected",
    [
        ("qa", ["a"]), ("qa aa", ["a"]), ("qa ab bc", ["a", "b", "c"]), ("qc cb ba", ["c", "b", "a"]),
        ("qa ab ba bc", ["ab", "c"]), ("ab bc ca", ["abc"]), ("qb bc cb ca ad da", ["bc", "ad"]),
        ("ab ba cd dc bc", ["ab", "cd"]), ("dc cd cb ba ab", ["cd", "ab"]), ("qa qb ac bc", ["a", "b", "c"]),
    ],
)  # fmt: skip
def test_components_follow_the_signals(links, expected):
    assert found(links) == expected


def test_components_do_not_depend_on_the_order_of_the_populations():
    for order in ("abcd", "dcba", "cadb", "bdac"):
        assert found("qb bc cb ca ad da", order=order) == ["bc", "ad"]


def by_matrix(net):
    """Components once more, by powers of the adjacency matrix: an independent implementation."""
    names = list(net.populations)
    links = np.eye(len(names), dtype=int)
    for p in net.projections.values():
        if p.pre in names:
            links[names.index(p.pre), names.index(p.post)] = 1
    reach = np.linalg.matrix_power(links, len(names)) > 0
    mutual = reach & reach.T
    return {frozenset(n for n, together in zip(names, row, strict=True) if together) for row in mutual}, reach, names


@pytest.mark.parametrize("seed", range(20))
def test_components_of_random_networks(seed):
    rng = np.random.default_rng(seed)
    letters = list("abcdefg")
    links = {"".join(rng.choice(letters, 2)) for _ in range(rng.integers(3, 14))} | {"ab"}
    net = spiking(" ".join(sorted(links)))
    groups = components(net)
    expected, reach, names = by_matrix(net)
    assert set(groups) == expected and len(groups) == len(expected)
    for early, late in itertools.combinations(groups, 2):
        for one, other in itertools.product(early, late):
            assert not reach[names.index(other), names.index(one)], "a signal flows back to an earlier component"


def test_edges_of_projections():
    net = spiking("qa aa ab ba bc cd", readouts="d")
    assert projection_edges(net) == {
        "q_a": {"q_a"}, "a_a": {"a_a", "recurrent"}, "a_b": {"a_b", "recurrent"}, "b_a": {"b_a", "recurrent"},
        "b_c": {"b_c", "feedforward"}, "c_d": {"c_d"},
    }  # fmt: skip


def test_two_projections_between_the_same_populations_have_names_of_their_own():
    net = Network(
        dt=1 * ms, a=Population(2, lif()), projections=[Projection("a", "a"), Projection("a", "a", name="slow")]
    )
    assert projection_edges(net) == {"a_a": {"a_a", "recurrent"}, "slow": {"slow", "recurrent"}}


def test_cuts_are_checked():
    net = spiking("qa aa ab", readouts="b")
    assert check_cut(net, ()) == frozenset()
    assert check_cut(net, "reset") == {"reset"}
    assert check_cut(net, ["recurrent", "a_b"]) == {"recurrent", "a_b"}
    assert check_cut(net, EDGES) == set(EDGES)
    with pytest.raises(
        NetworkError, match=r"cannot cut \['resets'\]: the edges are leak, .* and the projections q_a, a_a, a_b"
    ):
        check_cut(net, {"resets", "leak"})
