"""What the spikes of a network do together: rhythms of its delays, how activity breeds activity, spectral radius."""

import itertools
from collections.abc import Sequence

import numpy as np
import xarray as xr
from scipy.optimize import curve_fit
from scipy.signal import welch

from localplast.equations.units import unit_name
from localplast.errors import LocalplastError, NetworkError, UnsupportedError
from localplast.network.check import weight_dimension
from localplast.network.convolution import form_of
from localplast.network.credit_graph import projection_edges
from localplast.network.network import Network
from localplast.network.values import Values
from localplast.network.weights import largest_eigenvalue

__all__ = ["branching", "delay_lines", "population_rate", "rate_spectrum", "spectral_radius", "subsampled_branching"]

STATE = ("trial", "time", "neuron")


def counts(raster: xr.DataArray) -> tuple[np.ndarray, float]:
    """Spikes of the whole population in every step, float array ``(trial, time)``, and the step in seconds."""
    if set(getattr(raster, "dims", ())) != set(STATE) or "time" not in raster.coords:
        raise LocalplastError(
            f"a raster has the dims {STATE} and times in seconds, not "
            f"{getattr(raster, 'dims', type(raster).__name__)}; "
            'record "rec.raster" and give record["rec"]["spikes"]'
        )
    if raster.sizes["time"] < 3:
        raise LocalplastError(
            f"the raster has {raster.sizes['time']} steps, too few; windows are in seconds: raster.sel(time=slice(0.5, "
            "1.5))"
        )
    time = raster["time"].values
    return raster.transpose(*STATE).sum("neuron").values.astype(float), (time[-1] - time[0]) / (len(time) - 1)


def population_rate(raster: xr.DataArray) -> xr.DataArray:
    """Spikes per neuron and second, in every step.

    Parameters
    ----------
    raster : xarray.DataArray
        Bool, dims (trial, time, neuron), ``time`` in seconds: ``record["rec"]["spikes"]`` where ``"rec.raster"`` was
        recorded, or a window of it, ``.sel(time=slice(0.5, 1.5))``.

    Returns
    -------
    xarray.DataArray
        Dims (trial, time), in Hz.
    """
    spikes, dt = counts(raster)
    rate = spikes / (raster.sizes["neuron"] * dt)
    return xr.DataArray(
        rate, dims=STATE[:2], coords={"time": raster["time"].values}, name="rate", attrs={"units": "Hz"}
    )


def rate_spectrum(raster: xr.DataArray, *, segment: int | None = None) -> xr.DataArray:
    """Power spectral density of the population rate, by Welch's method (Hann windows that overlap by half).

    Parameters
    ----------
    raster : xarray.DataArray
        As in :func:`population_rate`; choose the window there.

    Other arguments
    ---------------
    segment : int, optional
        Steps of one segment: fewer give a smoother and coarser spectrum. Default: the whole window, a periodogram.

    Returns
    -------
    xarray.DataArray
        Dim ``frequency`` (Hz), mean over trials and segments, one-sided, in Hz²/Hz = Hz. ``attrs["poisson"]`` is the
        flat spectrum of as many independent neurons of the same mean rate r that have at most one spike per step,
        ``2*r*(1 - r*dt)/N``.
    """
    rate = population_rate(raster)
    (_, steps), (_, dt) = rate.shape, counts(raster)
    if segment is not None and not 3 <= segment <= steps:
        raise LocalplastError(f"segment={segment}: give 3 to {steps} steps, the length of the window")
    frequency, power = welch(rate.values, fs=1 / dt, nperseg=segment or steps, axis=1)
    mean = float(rate.mean())
    poisson = 2 * mean * (1 - mean * dt) / raster.sizes["neuron"]
    attrs = {"units": "Hz", "resolution": 1 / ((segment or steps) * dt), "poisson": poisson}
    axis = ("frequency", frequency, {"units": "Hz"})
    return xr.DataArray(power.mean(0), dims="frequency", coords={"frequency": axis}, name="power", attrs=attrs)


def delay_lines(net: Network, values: Values, *, hops: int = 1, harmonics: int = 5) -> xr.DataArray:
    """The frequencies at which activity returns through the recurrent delays of a network: ``k/(sum of delays)``.

    A spike at step n with a delay of d steps arrives in step n + d, after the threshold of that step, and makes its
    target spike in step n + d + 1 at the earliest. A hop therefore takes the delay and one step.

    Parameters
    ----------
    net : Network
    values : Values

    Other arguments
    ---------------
    hops : int
        Loops of up to so many hops, in every combination of the distinct delays (rounded to steps).
    harmonics : int

    Returns
    -------
    xarray.DataArray
        Frequencies in Hz, dims (period, harmonic), NaN above the Nyquist frequency; ``period`` in seconds, with the
        coordinate ``hops``, the fewest that take this time.

    Notes
    -----
    Peaks in the population rate of a trained network: Balafrej et al. 2023, arXiv:2310.19067, fig. 8.
    """
    recurrent = [name for name, edges in projection_edges(net).items() if "recurrent" in edges]
    if not recurrent:
        raise NetworkError(
            f"no projection is recurrent among {', '.join(net.projections)}: nothing comes back at a delay"
        )
    dt, once = float(net.dt), {int(d) + 1 for name in recurrent for d in np.unique(np.floor(values.delays[name] + 0.5))}
    fewest = {}
    for n in range(1, hops + 1):
        for path in itertools.combinations_with_replacement(sorted(once), n):
            fewest.setdefault(sum(path), n)
    steps, harmonic = np.array(sorted(fewest)), np.arange(1, harmonics + 1)
    lines = harmonic / (steps[:, None] * dt)
    return xr.DataArray(
        np.where(lines <= 0.5 / dt, lines, np.nan),
        dims=("period", "harmonic"),
        coords={
            "period": ("period", steps * dt, {"units": "s"}),
            "harmonic": harmonic,
            "hops": ("period", [fewest[n] for n in steps]),
        },
        name="frequency",
        attrs={"units": "Hz"},
    )


def branching(raster: xr.DataArray, lags: Sequence[int] = (1,)) -> xr.Dataset:
    """How many spikes in a later step follow one spike: near 1 where activity neither dies out nor grows.

    Parameters
    ----------
    raster : xarray.DataArray
        As in :func:`population_rate`.
    lags : sequence of int
        How many steps later; with delays also theirs.

    Returns
    -------
    xarray.Dataset
        Dim ``lag`` (steps). ``ratio``: the mean of ``A[t + lag]/A[t]`` over steps in which A, the spikes of all
        neurons, is not zero (Beggs & Plenz 2003, J Neurosci 23:11167); too large where input adds spikes. ``slope``:
        of the regression of ``A[t + lag]`` on ``A[t]`` with an intercept, which takes constant input away; m for a
        branching process at lag 1. ``ratio_error`` and ``slope_error``: standard errors, by leaving out one trial at
        a time; NaN for a single trial.
    """
    sums, data = moments(raster, lags), {}
    for name, estimator in (("ratio", ratio_of), ("slope", slope_of)):
        data[name], data[f"{name}_error"] = jackknife(sums, estimator)
    return xr.Dataset(
        {k: ("lag", v, {"units": "1"}) for k, v in data.items()}, {"lag": ("lag", list(lags), {"units": "steps"})}
    )


def subsampled_branching(raster: xr.DataArray, lags: Sequence[int]) -> xr.Dataset:
    """The branching parameter m where only some of the neurons are seen: ``slope(lag) = b*m**lag``, fitted.

    What is not seen makes the regression at one lag too flat by a factor that is the same for all lags, b.
    Wilting & Priesemann 2018, Nat Commun 9:2325 (multistep regression, constant drive).

    Parameters
    ----------
    raster : xarray.DataArray
        As in :func:`population_rate`; many steps, and activity that is stationary.
    lags : sequence of int
        Several, up to a few times the time in which activity fades.

    Returns
    -------
    xarray.Dataset
        ``m`` per step and ``b``, with ``m_error`` and ``b_error`` as in :func:`branching`.
    """
    if len(lags) < 3:
        raise LocalplastError(f"lags={list(lags)}: two numbers are fitted; give at least three lags")
    (b, m), (b_error, m_error) = jackknife(moments(raster, lags), lambda total: fade(np.asarray(lags), slope_of(total)))
    data = {"m": m, "b": b, "m_error": m_error, "b_error": b_error}
    return xr.Dataset({k: ((), v, {"units": "1"}) for k, v in data.items()})


def fade(lags, slopes):
    """``b, m`` of ``b*m**lag``, by least squares; NaN where nothing spikes."""
    if not np.all(np.isfinite(slopes)):
        return np.full(2, np.nan)
    return curve_fit(lambda lag, b, m: b * np.abs(m) ** lag, lags, slopes, p0=(slopes[0], 0.9))[0]


def moments(raster, lags):
    """What the estimators need of every trial, ``(trial, lag, moment)``: sums, which trials share by adding up."""
    spikes, _ = counts(raster)
    most = spikes.shape[1] - 2
    if wrong := [lag for lag in lags if int(lag) != lag or not 1 <= lag <= most]:
        raise LocalplastError(f"lag={wrong[0]}: give whole steps from 1 to {most}, the window less two steps")
    return np.stack([moments_at(spikes[:, :-lag], spikes[:, lag:]) for lag in lags], 1)


def moments_at(now, later):
    """As :func:`moments`, of spike counts ``(trial, time)`` and those one lag later."""
    alive = now > 0
    ratio = np.divide(later, now, out=np.zeros_like(now), where=alive)
    x, y = now - now.mean(), later - later.mean()
    return np.stack([a.sum(1) for a in (ratio, alive, np.ones_like(x), x, y, x * x, x * y)], -1)


def ratio_of(total):
    ratio, alive = total[..., 0], total[..., 1]
    return np.divide(ratio, alive, out=np.full_like(ratio, np.nan), where=alive > 0)


def slope_of(total):
    n, x, y, xx, xy = np.moveaxis(total[..., 2:], -1, 0)
    spread = xx - x * x / n
    return np.divide(xy - x * y / n, spread, out=np.full_like(spread, np.nan), where=spread > 0)


def jackknife(sums, estimator):
    """An estimate from ``sums`` ``(trial, ...)`` added over trials, and its standard error (Quenouille 1956,
    Biometrika 43:353).
    """
    whole, n = sums.sum(0), len(sums)
    if n < 2:
        found = estimator(whole)
        return found, np.full_like(found, np.nan)
    without = np.array([estimator(whole - each) for each in sums])
    return estimator(whole), np.sqrt((n - 1) / n * ((without - without.mean(0)) ** 2).sum(0))


def spectral_radius(net: Network, values: Values, projection: str) -> xr.DataArray:
    """The largest magnitude of an eigenvalue of a recurrent projection's weights W, and of ``|W|``.

    Parameters
    ----------
    net : Network
    values : Values
    projection : str
        From a population to itself.

    Returns
    -------
    xarray.DataArray
        Dim ``matrix``: ``'signed'``, ``'absolute'``; in the unit of the weight. Synapses that do not exist are zero.
    """
    p = net.projections.get(projection)
    if p is None or p.pre != p.post:
        loops = [name for name, q in net.projections.items() if q.pre == q.post]
        raise NetworkError(f"{projection!r} is not a projection of a population to itself; those are {loops}")
    if form_of(net.projections, p):
        raise UnsupportedError(
            f"projection {projection!r} is a convolution, whose kernel is no square matrix; give dense weights"
        )
    weight = np.where(values.masks[projection], values.weights[projection], 0.0)
    radii = [largest_eigenvalue(matrix) for matrix in (weight, np.abs(weight))]
    attrs = {"units": unit_name(weight_dimension(net, p)), "projection": projection}
    return xr.DataArray(
        radii, dims="matrix", coords={"matrix": ["signed", "absolute"]}, name="spectral_radius", attrs=attrs
    )
