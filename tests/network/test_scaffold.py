"""Growth of the scaffold against its probabilities."""

import numpy as np
import pytest

from localplast.errors import NetworkError
from localplast.network.scaffold import grow


def grown(times, *sizes, **probabilities):
    return np.array([grow(np.random.default_rng(seed), *sizes, **probabilities) for seed in range(times)])


def assert_share(found, expected):
    """Of booleans: within four standard errors."""
    error = np.sqrt(expected * (1 - expected) / np.size(found))
    assert abs(np.mean(found) - expected) <= 4 * error, (np.mean(found), expected, error)


def test_same_seed_same_scaffold():
    one, other, third = (grow(np.random.default_rng(seed), 7, 30) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, other)
    assert one.dtype == bool and one.shape == (37, 37) and (one != third).any()


def test_nothing_reaches_visible_neurons_and_nobody_itself():
    scaffolds = grown(100, 7, 30, p=0.5, q=0.3)
    assert not scaffolds[:, :, :7].any() and not np.diagonal(scaffolds, axis1=1, axis2=2).any()
    assert scaffolds[:, 7:, 7:].any()


def test_latent_neurons_connect_only_where_they_were_reached():
    scaffolds = grown(100, 7, 30, p0=0.3)
    reached = scaffolds.any(1)[:, 7:]
    assert not reached.all() and not scaffolds.any(2)[:, 7:][~reached].any()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("p, p0", [(0.2, 0.04), (0.5, 0.1)])
def test_how_many_targets(p, p0):
    """Of visible and of reached latent neurons: none with p0; at least n with (1 - p0) p p**2 ... p**(n-1)."""
    scaffolds = grown(200, 3, 40, p=p, p0=p0)
    out = scaffolds.sum(2)
    looking = np.concatenate([out[:, :3].ravel(), out[:, 3:][scaffolds.any(1)[:, 3:]]])
    for least, chance in enumerate([1 - p0, (1 - p0) * p, (1 - p0) * p**3], start=1):
        assert_share(looking >= least, chance)


def test_other_chances_are_noticed():
    out = grown(100, 3, 40, p=0.5).sum(2)[:, :3]
    with pytest.raises(AssertionError):
        assert_share(out >= 2, (1 - 0.04) * 0.2)


@pytest.mark.parametrize("q", [0.0, 0.15, 1.0])
def test_neurons_that_were_reached_are_chosen_less_often(q):
    """Two visible neurons with one connection each, four latent ones that make none: the second one meets the first's
    target.
    """
    met = [grow_pair(np.random.default_rng(seed), q) for seed in range(1500)]
    assert_share(met, q / (q + 3))


class Reluctant:
    """A generator after whose first two chances to connect every other one is missed."""

    def __init__(self, rng):
        self.rng, self.chances = rng, iter([0.0, 1.0, 0.0, 1.0])
        self.choice = rng.choice

    def random(self):
        return next(self.chances, 1.0)


def grow_pair(rng, q):
    scaffold = grow(Reluctant(rng), 2, 4, q=q)
    assert scaffold.sum() == 2
    return (scaffold[0] & scaffold[1]).any()


def test_growth_ends_where_nobody_is_left():
    np.testing.assert_array_equal(grow(np.random.default_rng(0), 1, 1, p=1.0, p0=0.0), [[False, True], [False, False]])
    assert grow(np.random.default_rng(0), 3, 5, p=1.0, q=0.0, p0=0.0).sum() == 5


@pytest.mark.parametrize(
    "sizes, options, message",
    [
        ((7, 0), {}, "latent=0"),
        ((1.5, 3), {}, "visible=1.5"),
        ((7, 30), {"p": 1.2}, "p=1.2 is not a probability"),
        ((7, 30), {"q": -0.1}, "q=-0.1"),
    ],
)
def test_what_cannot_grow(sizes, options, message):
    with pytest.raises(NetworkError, match=message):
        grow(np.random.default_rng(0), *sizes, **options)
