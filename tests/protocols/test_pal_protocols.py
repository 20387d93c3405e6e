"""What the protocols of phaseless alignment learning claim.

Max et al. 2024, Nature Machine Intelligence, arXiv:2212.10249.
"""

import numpy as np
import pytest

import localplast as lp
from localplast import protocols
from localplast.analysis.separability import separability
from localplast.protocols import pal_yin_yang
from localplast.protocols.pal_autoencoder import bottleneck
from localplast.rules import dendritic
from localplast.study.compare import store_of
from localplast.task.datasets import mnist, pooled


def cut(trials, steps):
    """The first so many steps of trials."""
    inputs = {name: array[:, :steps] for name, array in trials.inputs.items()}
    return lp.Trials(inputs, trials.target[:, :steps], trials.weight[:steps])


def test_single_precision_loses_the_decay_of_feedback():
    """At the published constants a weight of 1 loses 5e-9 of itself per step: less than a number of 24 bits shows."""
    preset = protocols.load("pal-yin-yang").presets["paper"]()
    net, task = pal_yin_yang.network(sigma=0.0), preset.task
    short = lp.Task("short", lambda update, batch, seed: cut(task.training(update, batch, seed), 50), None)
    start, kept = net.draw(0).weights["down1"], {}
    for dtype in ("float64", "float32"):
        options = dict(rule=dendritic(), loss=lp.losses.mse(), updates=1, seed=0, dtype=dtype, backend="torch")
        fit = lp.run(net, short, optimiser=preset.optimiser, **options)
        kept[dtype] = net.values_from(fit).weights["down1"]
    np.testing.assert_allclose(kept["float64"] / start - 1, -50 * 5e-9, rtol=1e-6)
    np.testing.assert_array_equal(kept["float32"], start.astype(np.float32))


@pytest.mark.slow
def test_feedback_that_aligns_beats_fixed_feedback_beats_features_that_do_not_learn():
    """The preset ``quick``, seed by seed."""
    preset = protocols.load("pal-yin-yang").presets["quick"]()
    for seed in range(3):
        accuracy = {}
        for name in ("PAL", "feedback alignment", "hidden frozen"):
            own = preset.rules[name].completed(preset.network, preset.optimiser, preset.loss)
            fit = lp.run(
                own.network, preset.task, rule=own.rule, loss=own.loss, optimiser=own.optimiser, backend="torch",
                seed=seed, batch=preset.batch, updates=preset.updates, test=preset.test,
            )  # fmt: skip
            accuracy[name] = float(fit["metrics"]["test_accuracy"].dropna("update")[-1])
        assert accuracy["PAL"] > accuracy["feedback alignment"] + 0.02, seed
        assert accuracy["feedback alignment"] > accuracy["hidden frozen"] + 0.2, seed


@pytest.mark.slow
@pytest.mark.needs_data("mnist/train-images-idx3-ubyte.gz")
def test_digits_are_told_apart_in_the_order_of_the_paper(tmp_path):
    """The bottleneck of the autoencoder, preset ``quick``: backpropagation, PAL, feedback alignment; of ten seeds two."""
    preset, (learned, tested) = protocols.load("pal-autoencoder").presets["quick"](), mnist()
    course = dict(optimiser=preset.optimiser, loss=preset.loss, batch=preset.batch, updates=preset.updates, probes=1)
    lp.compare(preset.network, preset.task, preset.rules, seeds=(0, 1), hidden=preset.hidden, path=tmp_path, **course)
    for seed in (0, 1):
        found = []
        for name in ("symmetric", "PAL", "feedback alignment"):
            net = preset.rules[name].network or preset.network
            values = net.values_from(lp.open(store_of(tmp_path, name, seed)))
            parts = [(bottleneck(values, pooled(images, 2)), labels) for images, labels in (learned, tested)]
            found.append(separability(*parts))
        assert found[0] > found[1] + 0.02 and found[1] > found[2] + 0.02, (seed, found)
