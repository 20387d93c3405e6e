"""The digits of MNIST-1D drawn anew, at any number of points: Greydanus & Kobak 2024, ICML, arXiv:2011.14439.

Written from the description. The authors draw noise on 72 points and then take 40 of the lines between these: with
fewer than 72 points what is fast in a digit is lost.
"""

import numpy as np
from scipy.ndimage import gaussian_filter1d

__all__ = ["drawn_digits"]

#: Points that noise is drawn on, samples of each class, and the seed of the frozen set.
POINTS, EACH, SEED = 72, 500, 42
#: Zeros behind a template, at least and fewer than; relative sizes; how far a digit is shifted at most.
PADDING, SCALE, SHIFT = (36, 61), 0.4, 48
#: Standard deviations of noise that is correlated, its width, of white noise; and how far lines are sheared.
CORRELATED, WIDTH, WHITE, SHEAR = 0.25, 2.0, 0.02, 0.75


def joined(row, points):
    """A row of numbers, evenly spaced and joined by straight lines, at so many points."""
    return np.interp(np.linspace(0, 1, points), np.linspace(0, 1, len(row)), row)


def drawn_digits(templates, points):
    """All digits in their order, with their labels; the stream of random numbers does not depend on ``points``.

    Parameters
    ----------
    templates : array ``(10, 12)``
    points : int

    Returns
    -------
    samples : array ``(5000, points)``
        Mean 0, standard deviation 1.
    labels : int array ``(5000,)``
    """
    rng, labels = np.random.RandomState(SEED), np.repeat(np.arange(len(templates)), EACH)
    clean, noises, slopes = [], [], []
    for label in labels:
        low, end = PADDING
        padding = low + int(rng.rand() * (end - low))
        digit = joined(np.concatenate([templates[label] + 1e-8, np.zeros(padding)]), POINTS)
        digit = digit * (1 + SCALE * (rng.rand() - 0.5))
        clean.append(np.roll(digit, rng.choice(SHIFT)))
        noises.append((rng.randn(POINTS), rng.randn(POINTS)))
        slopes.append(SHEAR * (rng.rand() - 0.5))
    clean, (around, white) = np.array(clean), np.array(noises).swapaxes(0, 1)
    background = gaussian_filter1d(CORRELATED * around, WIDTH, axis=1)
    signals = np.where(clean == 0, background, clean) + WHITE * white
    signals -= np.array(slopes)[:, None] * np.linspace(-0.5, 0.5, POINTS)
    order = rng.permutation(len(labels))
    samples = np.stack([joined(row, points) for row in signals[order]])
    return (samples - samples.mean()) / samples.std(), labels[order]
