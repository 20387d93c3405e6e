"""The measures of two gradients: known answers, what is not defined, and what a wrong pair is told."""

import warnings

import numpy as np
import pytest
import xarray as xr
from brian2 import ms

import localplast as lp
from localplast.analysis.distance import MEASURES, cosine_of, measures
from localplast.models import leaky_readout, lif
from localplast.rules import bptt, eprop


def tree(**nodes):
    """What ``lp.gradient`` gives, by hand."""
    parts = {f"/{name}": xr.Dataset({"gradient": (("pre", "post"), np.array(a, float))}) for name, a in nodes.items()}
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs={"rule": "made up", "loss": 1.0}), **parts})


@pytest.mark.parametrize("estimate, exact, expected", [
    ([3, 4], [3, 4], (0, 1, 1, 1)),
    ([6, 8], [3, 4], (1, 1, 2, 1)),
    ([-3, -4], [3, 4], (2, -1, 1, 0)),
    ([4, -3], [3, 4], (np.sqrt(2), 0, 1, 0.5)),
    ([0, 4, 0], [3, 4, 0], (0.6, 0.8, 0.8, 0.5)),  # the last synapse has no say: neither moves it
    ([1e-200, 0], [1e-200, 1e-200], (np.sqrt(0.5), np.sqrt(0.5), np.sqrt(0.5), 0.5)),
    ([1e200, 0], [1e200, 1e200], (np.sqrt(0.5), np.sqrt(0.5), np.sqrt(0.5), 0.5)),
])  # fmt: skip
def test_known_answers(estimate, exact, expected):
    found = measures(estimate, exact)
    assert list(found) == list(MEASURES)
    np.testing.assert_allclose(list(found.values()), expected, atol=1e-12)


def test_the_angle_is_in_degrees():
    exact = tree(same=[[1.0, 0]], right=[[1.0, 0]], opposite=[[1.0, 0]], sixty=[[1.0, 0]])
    estimate = tree(same=[[2.0, 0]], right=[[0, 5.0]], opposite=[[-1.0, 0]], sixty=[[0.5, np.sqrt(0.75)]])
    found = lp.distance(estimate, exact)
    np.testing.assert_allclose(found["angle"], [0, 90, 180, 60], atol=1e-5)
    assert found["angle"].attrs["units"] == "degree" and found["cosine"].attrs["units"] == "1"


def test_a_wrong_length_hides_from_the_cosine_but_not_from_the_error():
    found = measures([1.01, 2.02], [1.0, 2.0])
    assert found["cosine"] > 1 - 1e-12 and found["relative_error"] == pytest.approx(0.01)


@pytest.mark.parametrize("estimate, exact", [
    ([1, 2], [0, 0]), ([0, 0], [0, 0]), ([], []), ([np.nan, 1], [1, 1]), ([np.inf, 1], [1, 1]), ([1, 1], [1, np.inf]),
    ([np.inf, 1], [np.inf, 1]),
])  # fmt: skip
def test_what_is_not_defined_is_nan_without_a_word(estimate, exact):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(list(measures(estimate, exact).values())).all()
        lp.distance(tree(a=[estimate]), tree(a=[exact]))


def test_an_estimate_of_zero_has_an_error_and_no_direction():
    found = measures([0, 0], [3, 4])
    assert found["relative_error"] == 1 and found["norm_ratio"] == 0 and found["sign_agreement"] == 0
    assert np.isnan(found["cosine"]) and np.isnan(cosine_of([0, 0], [3, 4]))


def test_every_projection_of_either_tree_has_a_place():
    found = lp.distance(tree(a=[[1.0]], b=[[2.0]]), tree(b=[[2.0]], c=[[3.0]]))
    assert found["cosine"].dims == ("projection",) and list(found["projection"].values) == ["a", "b", "c"]
    np.testing.assert_array_equal(np.isfinite(found["cosine"]), [False, True, False])
    assert found.attrs["estimate_rule"] == found.attrs["exact_rule"] == "made up"


def test_other_shapes_and_other_trees_are_refused():
    with pytest.raises(lp.LocalplastError, match=r"'a'.*\(1, 2\) and \(1, 1\)"):
        lp.distance(tree(a=[[1.0, 2.0]]), tree(a=[[1.0]]))
    with pytest.raises(lp.LocalplastError, match="gradient_delay.*localplast.gradient"):
        lp.distance(tree(a=[[1.0]]), tree(a=[[1.0]]), variable="gradient_delay")


def network(**recurrent):
    # fmt: skip
    return lp.Network(
        dt=1 * ms,
        cues=lp.Input(6),
        rec=lp.Population(8, lif()),
        out=lp.Population(2, leaky_readout()),
        projections=[
            lp.Projection("cues", "rec", weight=lp.normal(2.0), mask=0.7),
            lp.Projection("rec", "rec", **recurrent),
            lp.Projection("rec", "out"),
        ],
    )


def test_two_gradients_of_one_network():
    """Onto the readout e-prop is BPTT; onto the recurrent neurons it is BPTT with edges cut, and not BPTT."""
    raster = np.random.default_rng(0).random((4, 40, 6)) < 0.3
    trials = lp.Trials({"cues": raster}, np.array([0, 1, 0, 1]), np.full(40, 1 / 40))
    net = network()
    local, exact = lp.gradient(net, trials, eprop()), lp.gradient(net, trials, bptt())
    cut = lp.gradient(net, trials, bptt(cut={"recurrent", "reset"}))
    error = lp.distance(local, exact)["relative_error"]
    assert error.sel(projection="rec_out") < 1e-10 and float(error.sel(projection=["cues_rec", "rec_rec"]).min()) > 0.01
    assert float(lp.distance(local, cut)["relative_error"].max()) < 1e-10
    masked = ~net.draw(0).masks["cues_rec"]
    assert masked.any() and not exact["cues_rec"]["gradient"].values[masked].any()
