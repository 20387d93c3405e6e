"""How well a network plays a sequence by itself: correlation with it at the best phase, along a recording."""

import numpy as np
import xarray as xr
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike

from localplast.errors import LocalplastError

__all__ = ["best_phase"]


def best_phase(played: ArrayLike, pattern: ArrayLike, *, every: int | None = None) -> xr.Dataset:
    """Compare windows as long as one cycle with the pattern at every phase, and say what the best one gives.

    Parameters
    ----------
    played : float array ``(time, unit)``
        At least one cycle long.
    pattern : float array ``(period, unit)``
        One cycle.

    Other arguments
    ---------------
    every : int, optional
        Steps from one window to the next; default an eighth of a cycle.

    Returns
    -------
    xarray.Dataset
        With dim ``window``: ``start``, its first step; ``correlation``, Pearson's, the mean over units (0 for a unit
        that is constant), the highest of all phases; ``phase``, the step of the pattern with which a recording that
        fits so well would have begun; ``mse`` there.

    Kriener et al. 2024, arXiv:2402.16763 (mean correlation over units, and mean squared error).
    """
    played, pattern = np.asarray(played, float), np.asarray(pattern, float)
    if pattern.ndim != 2 or played.ndim != 2 or played.shape[1] != pattern.shape[1] or len(played) < len(pattern):
        raise LocalplastError(
            f"played {played.shape} must be (time, unit), at least as long as the pattern {pattern.shape}, (period, "
            "unit)"
        )
    period = len(pattern)
    start = np.arange(0, len(played) - period + 1, every or max(period // 8, 1))
    windows = sliding_window_view(played, period, axis=0)[start].swapaxes(1, 2)
    # correlations with the pattern moved to all phases at once, by the convolution theorem: (window, phase)
    spectra = np.conj(np.fft.rfft(standard(windows), axis=1)) * np.fft.rfft(standard(pattern[None]), axis=1)
    found = np.fft.irfft(spectra, period, axis=1).mean(-1) / period
    phase = found.argmax(1)
    fitting = pattern[(phase[:, None] + np.arange(period)) % period]
    return xr.Dataset(
        {
            "start": ("window", start),
            "correlation": ("window", found.max(1)),
            "phase": ("window", (phase - start) % period),
            "mse": ("window", ((windows - fitting) ** 2).mean((1, 2))),
        }
    )


def standard(windows: np.ndarray) -> np.ndarray:
    """Every unit of every window ``(window, time, unit)`` with mean 0 and standard deviation 1; zeros where it is
    constant.
    """
    centred = windows - windows.mean(1, keepdims=True)
    spread = centred.std(1, keepdims=True)
    constant = spread <= 1e-12 * np.abs(windows).max(initial=1.0)
    return np.where(constant, 0.0, centred / np.where(constant, 1.0, spread))
