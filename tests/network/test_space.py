"""Delays from places: the published shares, distances by hand, and what is refused."""

import numpy as np
import pytest
from brian2 import meter, mm, ms, second

from localplast.errors import NetworkError
from localplast.models import lif
from localplast.models.delaynet import delays
from localplast.network import Input, Network, Population, Projection, synaptic
from localplast.network.space import from_centre, lattice, pairwise, shells


def shares(neurons, **options):
    found = np.asarray(delays(neurons, **options))
    return {round(1e3 * value): float(np.mean(np.isclose(found, value))) for value in np.unique(found)}


def test_published_shares():
    """17.6 / 42.4 / 40.0 % of 125 neurons (Balafrej et al. 2023, section 5.1); another seed has others."""
    assert shares(125) == {1: 0.176, 80: 0.424, 100: 0.4}
    assert shares(125, seed=0) != shares(125)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_a_lattice(dimensions):
    places = lattice(9, dimensions=dimensions, jitter=0.5, seed=3)
    assert places.shape == (9**dimensions, dimensions)
    moved = places - np.floor(places)
    assert moved.max() < 0.5 and moved.std() == pytest.approx(0.5 / np.sqrt(12), rel=0.3)
    assert len(np.unique(np.floor(places), axis=0)) == 9**dimensions
    assert np.array_equal(lattice(9, dimensions=dimensions, jitter=0), np.floor(places))


def test_distances():
    sheet = lattice(2, dimensions=2, jitter=0)  # the corners of a unit square; its side is 2, its centre (1, 1)
    assert from_centre(sheet) == pytest.approx([np.sqrt(2), 1, 1, 0])
    assert from_centre(sheet, (0.5, 0.5)) == pytest.approx(np.full(4, np.sqrt(0.5)))
    assert pairwise(sheet) == pytest.approx(np.array([[0, 1, 1, 2], [1, 0, 2, 1], [1, 2, 0, 1], [2, 1, 1, 0]]) ** 0.5)
    assert pairwise(sheet, sheet[:1]).shape == (4, 1)


def test_a_shell_begins_at_its_edge():
    found = shells(np.array([0.0, 0.19, 0.2, 0.29, 0.3, 9.0]), (0.2, 0.3), np.array([1, 80, 100]) * ms)
    assert np.asarray(found / ms).round().tolist() == [1, 1, 80, 80, 100, 100]


@pytest.mark.filterwarnings("ignore:.*rounds different delays:localplast.LocalplastWarning")
def test_travel_times_make_a_network():
    """Synaptic delays from distance over velocity, rounded to steps."""
    places = lattice(3, dimensions=2, seed=1)
    net = Network(
        dt=1 * ms, cues=Input(9), rec=Population(9, lif()),
        projections=[Projection("cues", "rec", delay=synaptic(pairwise(places) * mm / (0.3 * meter / second)))],
    )  # fmt: skip
    expected = np.floor(1e3 * 1e-3 * pairwise(places) / 0.3 + 0.5)
    assert np.array_equal(net.draw(0).delays["cues_rec"], expected) and expected.max() > 5


def test_a_shell_without_neurons_is_named():
    with pytest.raises(
        NetworkError, match=r"lies in shell 1, from 0.2 to 0.21, whose delay is 80. ms; .* from 0.1 to 0.5"
    ):
        shells(np.array([0.1, 0.5]), (0.2, 0.21), np.array([1, 80, 100]) * ms)


@pytest.mark.parametrize("edges, times, complaint", [
    ((0.3, 0.2), np.array([1, 2, 3]) * ms, "must rise, not .0.3, 0.2."),
    ((0.2, 0.3), np.array([1, 2]) * ms, "2 edges make 3 shells"),
    ((0.2,), np.array([1, 2]), "give as many times"),
])  # fmt: skip
def test_shells_that_make_no_sense(edges, times, complaint):
    with pytest.raises(NetworkError, match=complaint):
        shells(np.array([0.1, 0.25, 0.5]), edges, times)
