"""What a linear classifier can tell, where it is known."""

import numpy as np
import pytest

from localplast.analysis.separability import separability


def blobs(centres, each, seed):
    """Points around ``centres`` ``(class, neuron)``, with standard deviations of 0.1, and their classes."""
    labels = np.repeat(np.arange(len(centres)), each)
    return np.asarray(centres)[labels] + np.random.default_rng(seed).normal(0, 0.1, (len(labels), 2)), labels


def test_classes_apart_are_told_also_one_between_two_others():
    """Least squares never names the one in the middle."""
    row = [(0, 5), (1, 5), (2, 5)]
    assert separability(blobs(row, 200, 0), blobs(row, 200, 1), classes=3) > 0.99


def test_what_is_in_one_place_is_told_by_chance():
    same = [(1, 2)] * 4
    assert separability(blobs(same, 500, 0), blobs(same, 500, 1), classes=4) == pytest.approx(0.25, abs=0.05)


def test_it_is_judged_by_what_it_was_not_fitted_to():
    one, other = blobs([(0, 0), (1, 0)], 100, 0), blobs([(1, 0), (0, 0)], 100, 1)
    assert separability(one, one, classes=2) == 1.0 and separability(one, other, classes=2) == 0.0
