"""Correlation at the best phase against direct computation."""

import numpy as np
import pytest

from localplast.analysis.replay import best_phase
from localplast.errors import LocalplastError

RNG = np.random.default_rng(3)
PATTERN = RNG.standard_normal((40, 3)).cumsum(0)


def directly(window, pattern):
    """Highest mean correlation, its phase and the mean squared error, by trying every phase."""
    tried = [np.roll(pattern, -phase, axis=0) for phase in range(len(pattern))]
    means = [np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(window.T, one.T, strict=True)]) for one in tried]
    best = int(np.argmax(means))
    return means[best], best, np.mean((window - tried[best]) ** 2)


def test_every_window_is_that_of_all_phases_tried():
    played = np.tile(PATTERN, (3, 1)) + 2 * RNG.standard_normal((120, 3))
    found = best_phase(played, PATTERN, every=7)
    for start, correlation, mse, phase in zip(
        *(found[n].values for n in ("start", "correlation", "mse", "phase")), strict=True
    ):
        expected = directly(played[start : start + 40], PATTERN)
        assert (correlation, mse) == pytest.approx((expected[0], expected[2]), abs=1e-12)
        assert (phase + start) % 40 == expected[1]


def test_a_shifted_copy_correlates_fully_and_keeps_its_phase():
    found = best_phase(3 * np.tile(np.roll(PATTERN, -11, axis=0), (4, 1)) - 5, PATTERN)
    np.testing.assert_allclose(found["correlation"], 1, atol=1e-12)
    np.testing.assert_array_equal(found["phase"], 11)
    assert best_phase(np.tile(PATTERN, (2, 1)), PATTERN)["mse"].max() < 1e-20


def test_order_matters():
    tokens = np.eye(4)[np.repeat([0, 1, 2, 3], 10)]
    swapped = np.eye(4)[np.repeat([0, 2, 1, 3], 10)]
    assert best_phase(np.tile(swapped, (3, 1)), tokens)["correlation"].max() < 0.7


def test_a_silent_unit_counts_as_zero():
    silenced = np.tile(PATTERN, (2, 1)) * [1, 0, 1]
    np.testing.assert_allclose(best_phase(silenced, PATTERN)["correlation"], 2 / 3, atol=1e-12)


def test_shapes_that_do_not_fit():
    with pytest.raises(LocalplastError, match=r"played \(30, 3\) must be .* pattern \(40, 3\)"):
        best_phase(PATTERN[:30], PATTERN)
