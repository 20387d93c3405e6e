"""Rhythms, branching and spectral radius, against rasters and matrices whose answer is known."""

import numpy as np
import pytest
import xarray as xr
from scipy.signal import find_peaks

import localplast as lp
from localplast import LocalplastError, NetworkError, ms
from localplast.analysis.dynamics import (
    branching,
    delay_lines,
    population_rate,
    rate_spectrum,
    spectral_radius,
    subsampled_branching,
)
from localplast.models import leaky_readout, lif

DT = 1e-3


def labelled(raster):
    """A bool array ``(trial, time, neuron)`` as it stands in a record."""
    return xr.DataArray(raster, dims=("trial", "time", "neuron"), coords={"time": np.arange(raster.shape[1]) * DT})


def poisson(rng, rate, *, trials=20, steps=2000, neurons=50):
    """Independent neurons; ``rate`` in hertz, a number or one per step."""
    rate = np.broadcast_to(rate, (steps,))
    return labelled(rng.random((trials, steps, neurons)) < rate[:, None] * DT)


def recurrent(delay, weight=0.0, **more):
    # fmt: skip
    return lp.Network(
        dt=1 * ms,
        cues=lp.Input(2),
        rec=lp.Population(4, lif()),
        out=lp.Population(2, leaky_readout()),
        projections=[
            lp.Projection("cues", "rec"),
            lp.Projection("rec", "rec", delay=delay, weight=weight, **more),
            lp.Projection("rec", "out"),
        ],
    )


# --- rate and spectrum ------------------------------------------------------------------------------------------------


def test_the_population_rate_is_in_hertz():
    raster = np.zeros((2, 10, 4), bool)
    raster[1, 3, :2] = True
    rate = population_rate(labelled(raster))
    assert rate.dims == ("trial", "time") and rate.attrs["units"] == "Hz"
    assert rate.values[1, 3] == pytest.approx(2 / (4 * DT)) and rate.values.sum() == pytest.approx(500)


def peaks(spectrum):
    """Frequencies at which the spectrum stands out tenfold above what independent neurons would have."""
    return spectrum["frequency"].values[find_peaks(spectrum.values, height=10 * spectrum.attrs["poisson"])[0]]


def test_a_rhythm_of_80_ms_has_its_harmonics():
    rng = np.random.default_rng(0)
    rate = np.where(np.arange(2000) % 80 < 8, 200.0, 5.0)
    spectrum = rate_spectrum(poisson(rng, rate))
    found, expected = peaks(spectrum), 12.5 * np.arange(1, 5)
    assert np.abs(found[:4] - expected).max() <= spectrum.attrs["resolution"] == pytest.approx(0.5)
    assert not len(peaks(rate_spectrum(poisson(rng, rate.mean()))))  # the same rate without the rhythm
    shifted = 10.0 * np.arange(1, 5)
    assert np.abs(found[:4] - shifted).max() > 2  # nor would 100 ms do


def test_independent_neurons_have_a_flat_spectrum():
    spectrum = rate_spectrum(poisson(np.random.default_rng(1), 40.0), segment=200)
    inside = spectrum[2:-1].values  # the mean is taken out, and the last frequency is counted once
    assert spectrum.attrs["units"] == "Hz" and spectrum.attrs["resolution"] == pytest.approx(5)
    assert inside.mean() == pytest.approx(spectrum.attrs["poisson"], rel=0.02)
    assert inside.std() / inside.mean() < 0.15  # 380 segments, of which those that overlap are not independent


def test_windows_are_chosen_in_seconds():
    raster = poisson(np.random.default_rng(2), np.where(np.arange(2000) < 1000, 20.0, 100.0), trials=5)
    late = raster.sel(time=slice(1.0, None))
    assert float(population_rate(late).mean()) == pytest.approx(100, rel=0.05)
    assert rate_spectrum(late).attrs["resolution"] == pytest.approx(1.0)


# --- delays -----------------------------------------------------------------------------------------------------------


def test_delay_lines_of_hops_and_harmonics():
    net = recurrent(lp.axonal(np.array([0, 79, 79, 99]) * ms))
    one = delay_lines(net, net.draw(0), harmonics=3)
    assert np.allclose(one["period"], [1e-3, 80e-3, 100e-3]) and one.attrs["units"] == "Hz"
    assert np.isnan(one[0]).all()  # above the Nyquist frequency
    assert np.allclose(one[1:], [[12.5, 25, 37.5], [10, 20, 30]])
    two = delay_lines(net, net.draw(0), hops=2, harmonics=1)
    assert np.allclose(1e3 * two["period"], [1, 2, 80, 81, 100, 101, 160, 180, 200])
    assert list(two["hops"].values) == [1, 2, 1, 2, 1, 2, 2, 2, 2]


@pytest.mark.parametrize("backend", ["torch", "brian2"])
def test_a_hop_takes_the_delay_and_one_step(backend):
    """One neuron that a single spike keeps alive through its own delay: the line is where the network is."""
    # fmt: skip
    net = lp.Network(
        dt=1 * ms,
        cues=lp.Input(1),
        rec=lp.Population(1, lif()),
        out=lp.Population(1, leaky_readout()),
        projections=[
            lp.Projection("cues", "rec", weight=1.5),
            lp.Projection("rec", "rec", delay=lp.axonal(19 * ms), weight=1.5, autapses=True),
            lp.Projection("rec", "out"),
        ],
    )
    spikes = np.zeros((1, 1000, 1), bool)
    spikes[0, 5] = True
    record = lp.run(net, lp.Trials({"cues": spikes}), backend=backend, record=["rec.raster"], show=False)
    raster = record["rec"]["spikes"]
    assert set(np.diff(np.flatnonzero(raster.values[0, :, 0]))) == {20}
    spectrum = rate_spectrum(raster)
    lines = delay_lines(net, net.draw(0), harmonics=4).values[0]
    found = spectrum["frequency"].values[find_peaks(spectrum.values, height=10 * spectrum.attrs["poisson"])[0]]
    assert np.allclose(found[:4], lines, atol=spectrum.attrs["resolution"]) and lines[0] == pytest.approx(50)


# --- branching --------------------------------------------------------------------------------------------------------


def branching_process(rng, m, *, drive=0.0, start=0, trials=40, steps=500):
    """Spike counts ``(trial, time)``: every spike has Poisson(m) offspring, and Poisson(drive) come from outside."""
    active = np.zeros((trials, steps))
    active[:, 0] = start
    for t in range(1, steps):
        active[:, t] = rng.poisson(m * active[:, t - 1] + drive)
    return active


def as_raster(active):
    """The first so many neurons spike in a step."""
    return labelled(np.arange(int(active.max()) + 1) < active[..., None])


@pytest.mark.parametrize("m", [0.8, 0.95, 1.0])
def test_a_branching_process_is_recovered(m):
    found = branching(as_raster(branching_process(np.random.default_rng(3), m, start=50, steps=60)))
    for name in ("ratio", "slope"):
        value, error = float(found[name][0]), float(found[f"{name}_error"][0])
        assert 0 < error < 0.03 and abs(value - m) < 3 * error, (name, value, error)


def test_input_hides_in_the_ratio_and_not_in_the_slope():
    found = branching(
        as_raster(branching_process(np.random.default_rng(4), 0.9, drive=5.0, start=50)), lags=(1, 3)
    ).isel(lag=0)
    assert abs(found["slope"] - 0.9) < 3 * found["slope_error"] and found["slope_error"] < 0.02
    assert found["ratio"] - 0.9 > 10 * found["ratio_error"]


def test_a_branching_process_with_a_delay_shows_at_its_lag():
    rng, delay = np.random.default_rng(5), 20
    active = np.stack([branching_process(rng, 0.9, drive=2.0, start=20, steps=50) for _ in range(delay)], -1)
    found = branching(as_raster(active.reshape(len(active), -1)), lags=(1, delay))
    assert abs(found["slope"][1] - 0.9) < 3 * found["slope_error"][1]
    assert found["slope"][0] < 0.5


def test_subsampling_flattens_one_slope_and_not_the_fit():
    rng = np.random.default_rng(6)
    active = branching_process(rng, 0.95, drive=5.0, start=100, steps=2000)
    seen, lags = as_raster(rng.binomial(active.astype(int), 0.1)), range(1, 21)
    one, many = branching(seen).isel(lag=0), subsampled_branching(seen, lags)
    assert one["slope"] < 0.75 and one["slope_error"] < 0.02
    assert abs(many["m"] - 0.95) < 3 * many["m_error"] and many["m_error"] < 0.01
    assert many["b"] < 0.8


def test_the_standard_error_is_the_spread_of_repetitions():
    rng = np.random.default_rng(7)
    found = [
        branching(as_raster(branching_process(rng, 0.9, drive=3.0, start=30, trials=10, steps=200))) for _ in range(40)
    ]
    spread = np.std([f["slope"][0] for f in found])
    assert np.mean([f["slope_error"][0] for f in found]) == pytest.approx(spread, rel=0.35)


def test_one_trial_has_no_error_and_silence_no_estimate():
    alone = branching(as_raster(branching_process(np.random.default_rng(8), 0.9, drive=5.0, trials=1)))
    assert np.isfinite(alone["slope"]).all() and np.isnan(alone["slope_error"]).all()
    silent = labelled(np.zeros((3, 50, 4), bool))
    assert np.isnan(branching(silent)["ratio"]).all() and np.isnan(subsampled_branching(silent, [1, 2, 3])["m"])


# --- spectral radius --------------------------------------------------------------------------------------------------


def test_spectral_radius_of_known_matrices():
    turning = np.array([[0.0, -2, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0.5], [0, 0, -0.5, 0]])  # eigenvalues ±2i, ±i/2
    net = recurrent(lp.axonal(3 * ms), turning)
    found = spectral_radius(net, net.draw(0), "rec_rec")
    assert found.sel(matrix="signed") == pytest.approx(2) and found.sel(matrix="absolute") == pytest.approx(2)
    cancelling = np.tile([1.0, -1, 1, -1], (4, 1))  # rank one, trace zero
    net = recurrent(lp.axonal(3 * ms), cancelling, autapses=True)
    found = spectral_radius(net, net.draw(0), "rec_rec")
    assert found.sel(matrix="signed") < 1e-3 and found.sel(matrix="absolute") == pytest.approx(4)


def test_synapses_that_do_not_exist_do_not_count():
    net = recurrent(lp.axonal(3 * ms), np.ones((4, 4)))
    values = net.draw(0).replace_weights({"rec_rec": np.ones((4, 4))})  # the diagonal is masked
    assert spectral_radius(net, values, "rec_rec").sel(matrix="signed") == pytest.approx(3)


# --- bad input --------------------------------------------------------------------------------------------------------


# fmt: skip
FEEDFORWARD = lp.Network(
    dt=1 * ms, cues=lp.Input(1), out=lp.Population(1, leaky_readout()), projections=[lp.Projection("cues", "out")]
)


@pytest.mark.parametrize("call, words", [
    (lambda r, n: rate_spectrum(r.values), r"dims .*trial.*record \"rec.raster\""),
    (lambda r, n: rate_spectrum(r.sel(time=slice(5, 6))), r"0 steps.*seconds"),
    (lambda r, n: rate_spectrum(r, segment=2001), r"segment=2001: give 3 to 2000 steps"),
    (lambda r, n: branching(r, [0]), r"lag=0: give whole steps from 1 to 1998"),
    (lambda r, n: subsampled_branching(r, [1, 2]), r"at least three lags"),
    (lambda r, n: spectral_radius(n, n.draw(0), "cues_rec"), r"'cues_rec' is not .*\['rec_rec'\]"),
    (lambda r, n: delay_lines(FEEDFORWARD, FEEDFORWARD.draw(0)), r"no projection is recurrent among cues_out"),
])  # fmt: skip
def test_errors(call, words):
    with pytest.raises((LocalplastError, NetworkError), match=words):
        call(poisson(np.random.default_rng(0), 10.0, trials=1), recurrent(lp.axonal(3 * ms)))
