"""Figures: every panel says what its axes are, in which unit, and shows every rule."""

import matplotlib
import numpy as np
import pytest
import xarray as xr

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from localplast import plot

RULES = [f"rule {n}" for n in range(8)]  # more than there are colours
MEASURES = ("relative_error", "cosine", "angle", "norm_ratio", "sign_agreement")


@pytest.fixture
def tree():
    """Something like a comparison: rule 0 has nothing to compare with, rule 7 has feedback of its own."""
    rng, updates = np.random.default_rng(0), [0, 50, 100]
    shape, coords = (8, 3, 3), {"rule": RULES, "seed": [0, 1, 2], "update": updates}
    dims = ("rule", "seed", "update")
    measured = {k: rng.random(shape) for k in MEASURES}
    measured["cosine"][0] = np.nan
    angle = np.full((*shape, 1), np.nan)
    angle[7] = 80
    cost = {
        "seconds_per_trial": (("rule", "seed", "backend"), rng.random((8, 3, 2))),
        "peak_memory": (("rule", "backend"), 1e6 * rng.random((8, 2))),
        "bytes_per_synapse": (("rule", "projection"), 8.0 * rng.integers(1, 5, (8, 2))),
    }
    return xr.DataTree.from_dict({
        "/curves": xr.Dataset({k: (dims, rng.random(shape)) for k in ("test_accuracy", "test_loss", "test_spikes")}, coords),
        "/training": xr.Dataset({k: (dims, rng.random((8, 3, 100))) for k in ("accuracy", "loss")},
                                {**coords, "update": np.arange(1, 101)}),
        "/hidden": xr.Dataset({k: (dims, v) for k, v in measured.items()}, coords),
        "/alignment": xr.Dataset({k: ((*dims, "projection"), np.stack([v, v], -1)) for k, v in measured.items()},
                                 {**coords, "projection": ["cues_rec", "rec_out"]}),
        "/feedback": xr.Dataset({"angle": ((*dims, "projection"), angle)}, {**coords, "projection": ["rec_out"]}),
        "/cost": xr.Dataset(cost, {"rule": RULES, "backend": ["brian2", "torch"], "projection": ["cues_rec", "rec_out"]}),
    })  # fmt: skip


@pytest.fixture
def ax():
    figure, made = plt.subplots()
    yield made
    plt.close(figure)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("draw, xlabel, ylabel", [
    (plot.learning_curves, "update", "accuracy (%)"),
    (lambda tree, ax: plot.learning_curves(tree, ax, metric="loss"), "update", "loss"),
    (plot.alignment, "update", "cosine"),
    (lambda tree, ax: plot.alignment(tree, ax, metric="angle", projection="rec_out"), "update", "angle (degrees)"),
    (plot.feedback_angle, "update", "angle (degrees)"),
    (plot.time_cost, "time per trial (ms)", "rule"),
    (plot.memory_cost, "memory (bytes)", "rule"),
])  # fmt: skip
def test_axes_have_labels_and_a_legend(tree, ax, draw, xlabel, ylabel):
    assert draw(tree, ax) is ax
    assert (ax.get_xlabel(), ax.get_ylabel()) == (xlabel, ylabel) and ax.get_title() and ax.get_legend()


def test_no_rule_goes_missing_and_none_looks_like_another(tree, ax):
    plot.alignment(tree, ax)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == RULES
    assert len({(line.get_color(), line.get_linestyle()) for line in ax.get_lines()}) == len(RULES)


def test_the_line_is_the_mean_and_the_band_its_deviation(ax):
    values = np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan]])
    plot.band(ax, [0, 1, 2], values, "a", "k")
    np.testing.assert_array_equal(ax.get_lines()[0].get_ydata(), [2, 5, np.nan])
    corners = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert corners.min() == pytest.approx(2 - np.sqrt(2)) and len(ax.get_legend_handles_labels()[0]) == 1


def test_only_feedback_of_its_own_is_drawn(tree, ax):
    plot.feedback_angle(tree, ax)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["rule 7: rec_out", "at random"]


def test_equal_gradients_do_not_show_their_rounding(tree, ax):
    tree["alignment"]["angle"][:] = 1e-6
    plot.alignment(tree, ax, metric="angle", projection="rec_out")
    assert ax.get_ylim()[1] > 90


@pytest.mark.parametrize("draw, panels", [(plot.comparison, 3), (plot.details, 6)])
def test_whole_figures(tree, draw, panels):
    figure = draw(tree)
    assert len(figure.axes) == panels and all(ax.get_xlabel() and ax.get_ylabel() for ax in figure.axes)
    plt.close(figure)


def test_trajectories_are_judged_by_their_loss(tree):
    tree["curves"]["test_accuracy"][:] = np.nan
    figure = plot.comparison(tree)
    assert figure.axes[0].get_ylabel() == "loss"
    plt.close(figure)


# --- memory -----------------------------------------------------------------------------------------------------------


def curve(accuracy, name="wait", units="s"):
    data = {
        k: (name, np.array(v), {"units": "1"})
        for k, v in (("accuracy", accuracy), ("standard_error", [0.01, 0.02, 0.03]))
    }
    return xr.Dataset(data, {name: (name, [1.0, 5.0, 30.0], {"units": units})})


def test_retention_has_bars_and_a_reference(ax):
    curves = {"delays": curve([0.9, 0.8, 0.7]), "none": curve([0.5, 0.5, 0.5])}
    assert plot.retention(curves, ax, reference={"last 7": [0.9, 0.8, 0.8]}) is ax
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("wait (s)", "accuracy (%)") and ax.get_title()
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"delays", "none", "last 7"}
    bars = ax.containers[0][2][0].get_segments()
    np.testing.assert_allclose([segment[:, 1] for segment in bars], [[89, 91], [78, 82], [67, 73]])
    np.testing.assert_allclose(ax.get_lines()[-1].get_ydata(), [90, 80, 80])


def test_what_has_no_unit_shows_none(ax):
    plot.retention({"a": curve([0.9, 0.8, 0.7], "number_of_cues", "1")}, ax)
    assert ax.get_xlabel() == "number of cues"


def test_a_spectrum_has_its_lines(ax):
    power = xr.DataArray(np.ones(50), dims="frequency", coords={"frequency": np.arange(50.0)}, attrs={"poisson": 0.5})
    lines = xr.DataArray(
        [[12.5, 25.0], [10.0, np.nan], [np.nan, np.nan]], dims=("period", "harmonic"),
        coords={"period": [0.08, 0.1, 0.001], "harmonic": [1, 2]},
    )  # fmt: skip
    assert plot.spectrum(power, ax, lines=lines) is ax
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("frequency (Hz)", "power (Hz²/Hz)")
    assert [line.get_xdata()[0] for line in ax.get_lines()[2:]] == [12.5, 25, 10]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "independent neurons",
        "period 80 ms",
        "period 100 ms",
    ]
    plot.spectrum(power, plt.figure().add_subplot())  # without lines


def test_spikes_are_sorted_and_coloured_by_delay(ax):
    assert plot.delay_groups([0.1, 0.2, 0.3], [0, 1, 2], [99, 0, 79], ax, dt=1e-3) is ax
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["0 ms", "79 ms", "99 ms"]
    drawn = [(float(x), int(y)) for line in ax.get_lines() for x, y in zip(*line.get_data(), strict=True)]
    assert drawn == [(200.0, 0), (300.0, 1), (100.0, 2)] and len({line.get_color() for line in ax.get_lines()}) == 3
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time (ms)", "neuron, sorted by delay")


def test_delays_before_and_after_share_their_bins(ax):
    assert plot.delays([[1, 1], [2, 3]], [[1, 2], [5, 9]], ax, dt=1e-3, bins=8) is ax
    heights = [bar.get_height() for bar in ax.containers[0]]
    assert sum(heights) == 4 and heights[0] == 2 and (ax.get_xlabel(), ax.get_ylabel()) == ("delay (ms)", "synapses")
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"before learning", "after learning"}
