"""Streams of patterns, one following the other, for networks that learn all along: a teacher says what is wanted.

Inputs are ``sense``, what is shown; ``teach``, whether the teacher speaks; and ``target``, what it says.
"""

from dataclasses import replace
from functools import partial

import numpy as np

from localplast.task.datasets import pooled, yin_yang
from localplast.task.trials import Task, Trials

__all__ = ["bars", "bars_task", "classes", "digit_streams", "in_streams", "point_streams", "stream", "taught_streams"]


def stream(samples: np.ndarray, wanted: np.ndarray, *, steps: int, targets: tuple[float, float] = (0.0, 1.0)) -> Trials:
    """Streams of patterns, one following the other, with a teacher who says of each what is wanted while it is shown.

    Parameters
    ----------
    samples : array ``(trial, pattern, channel)``
    wanted : array ``(trial, pattern, output)``
        What the readout should say.

    Other arguments
    ---------------
    steps : int
        How long each pattern is shown; the readout is judged in the second half.
    targets : (float, float)
        What the teacher gives an output that should say 0, and 1.

    Returns
    -------
    Trials
        With the target ``(trial, time, output)``; the weight of the steps adds up to 1.
    """
    low, high = targets
    sense, target = (np.repeat(np.asarray(values, float), steps, axis=1) for values in (samples, wanted))
    late = np.tile(np.arange(steps) >= steps // 2, samples.shape[1])
    inputs = {"sense": sense, "teach": np.ones((*sense.shape[:2], 1)), "target": low + (high - low) * target}
    return Trials(inputs, target, late / late.sum())


def classes(
    samples: np.ndarray, labels: np.ndarray, *, steps: int, outputs: int, targets: tuple[float, float] = (0.0, 1.0)
) -> Trials:
    """As :func:`stream`, of classes: 1 is wanted of the right output, 0 of others; ``labels`` int ``(trial, pattern)``.

    The target of single patterns is their label ``(trial,)``.
    """
    trials = stream(samples, np.eye(outputs)[labels], steps=steps, targets=targets)
    return replace(trials, target=labels[:, 0]) if labels.shape[1] == 1 else trials


def bars():
    """The eight bars in a square of 3 x 3 pixels, ``(8, 9)``, and whether they lie, stand or slant: 0, 1, 2,
    ``(8,)``.
    """
    row, slant = np.eye(3), np.eye(3).ravel()
    lying, standing = np.repeat(row, 3, axis=1), np.tile(row, (1, 3))
    return np.concatenate([lying, standing, [slant, np.eye(3)[::-1].ravel()]]), np.repeat([0, 1, 2], [3, 3, 2])


def bars_task(name, *, steps, shown=100, targets=(0.0, 1.0)):
    """Streams of all eight bars, in an order of its own for every trial, each for so many ``steps``; tests show one
    for ``shown``.

    ``targets`` are those of :func:`stream`. The bars that are tested are those that are learned: there are no others.
    """
    samples, labels = bars()

    def shuffled(order, steps):
        return classes(samples[order], labels[order], steps=steps, outputs=3, targets=targets)

    def training(update, batch, seed):
        rng = np.random.default_rng([seed, 0, update])
        return shuffled(rng.permuted(np.tile(np.arange(8), (batch, 1)), axis=1), steps)

    def testing(n, seed):
        order = np.random.default_rng([seed, 1]).permutation(8)
        return shuffled(np.resize(order, (n, 1)), shown)

    return Task(name, training, testing)


def in_streams(single, present, *, steps, patterns, shown):
    """Streams of so many ``patterns``, each for so many ``steps``; tests show single ones, for ``shown`` steps.

    Parameters
    ----------
    single : Task
        Of patterns that are no trials yet: pairs ``(samples, labels)``, with a validation.
    present : callable
        Makes trials of samples ``(trial, pattern, channel)`` and labels ``(trial, pattern)``, given ``steps``.
    """

    def presented(found, patterns, steps):
        return present(*(part.reshape(-1, patterns, *part.shape[1:]) for part in found), steps=steps)

    def streams(single, validation=None):
        return Task(
            single.name,
            training=lambda update, batch, seed: presented(
                single.training(update, batch * patterns, seed), patterns, steps
            ),
            testing=lambda n, seed: presented(single.testing(n, seed), 1, shown),
            validation=validation,
        )

    return streams(single, streams(single.validation))


def digit_streams(name, samples, *, steps, images, shown, train=None, held=5000, averaged=1):
    """Streams of so many ``images``, each for so many ``steps``; tests show single images, for ``shown`` steps.

    ``samples`` are those of :func:`~localplast.task.datasets.mnist`. Every epoch goes through the (first ``train``)
    training images in a new order; the last ``held`` are for validation. Squares of ``averaged`` x ``averaged`` pixels
    are shown as one.
    """

    def flat(pixels, labels, rng=None):
        return pooled(pixels, averaged), labels

    single = Task.dataset(name, samples[0], samples[1], flat, learned=train, held=held)
    return in_streams(single, partial(classes, outputs=10), steps=steps, patterns=images, shown=shown)


def point_streams(name, sizes, *, steps, points, shown, targets, channels=np.asarray):
    """Streams of so many ``points`` of the Yin-Yang figure, each for so many ``steps``; tests show single points, for
    ``shown`` steps.

    Other arguments
    ---------------
    sizes : (int, int)
        Of the set that is learned, in a new order every epoch, and of those for tests and validation.
    targets : (float, float)
        Those of :func:`stream`.
    channels : callable
        What is shown of points ``(point, 4)``: by default ``x, y, 1 - x, 1 - y``.
    """

    def seen(samples, labels, rng=None):
        return channels(samples), labels

    train, test, held = (yin_yang(n, seed) for n, seed in zip((*sizes, sizes[1]), (42, 40, 41), strict=True))
    single = Task.dataset(name, train, test, seen, held=held)
    return in_streams(single, partial(classes, outputs=3, targets=targets), steps=steps, patterns=points, shown=shown)


def taught_streams(name, channels, teacher, *, steps, patterns, shown=100):
    """Streams of so many ``patterns`` within ±1, each for so many ``steps``, and what a teacher makes of them; tests
    show one for ``shown``.

    ``teacher(sense, seed)`` says what is wanted of patterns ``(trial, pattern, channel)``.
    """

    def presented(rng, trials, seed, patterns, steps):
        sense = rng.uniform(-1.0, 1.0, (trials, patterns, channels))
        return stream(sense, teacher(sense, seed), steps=steps)

    return Task.drawn(
        name, partial(presented, patterns=patterns, steps=steps), partial(presented, patterns=1, steps=shown)
    )
