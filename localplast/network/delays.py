"""How a delay that learns is spread over the steps around it while it learns: the wider, the further it can see.

A spike reaches its target in several steps, with shares that sum to one. They narrow as learning goes on::

    axonal(delays, trainable=(0*ms, 25*ms), kernel=lp.delay.triangle(10*ms, halving=200))
"""

import warnings
from dataclasses import dataclass

import numpy as np
from brian2.units.fundamentalunits import Quantity
from brian2.units.stdunits import ms

from localplast.errors import LocalplastWarning, NetworkError
from localplast.files import Data
from localplast.network.weights import Random

__all__ = [
    "Delay",
    "Kernel",
    "axonal",
    "check_delays",
    "dendritic",
    "gaussian",
    "kernel_kind",
    "kernel_widths",
    "moving",
    "per_synapse",
    "summed_over_shared",
    "synaptic",
    "triangle",
    "unspread",
    "warn_merged",
]

#: Width in steps at which a Gaussian stops to narrow, where no other is given (Hammouamri et al. 2024, code).
NARROWEST_GAUSSIAN = 0.23
#: Different delays above which they are taken for drawn numbers, if most of them differ.
MANY = 10


@dataclass(frozen=True)
class Kernel:
    """The shares of the steps ``n`` around a delay of ``d`` steps, from ``width`` s; see :func:`triangle`,
    :func:`gaussian`.

    The width halves with every ``halving`` updates and stays at ``final`` (None: 0.23 steps).
    """

    kind: str
    width: Quantity
    halving: float
    final: Quantity | None

    def steps(self, dt, updates=0):
        """The width in steps of ``dt`` after so many updates."""
        final = NARROWEST_GAUSSIAN if self.final is None else float(self.final) / float(dt)
        return max(float(self.width) / float(dt) * 0.5 ** (updates / float(self.halving)), final)


def triangle(width, *, halving=100, final=0 * ms):
    """``h(n) ~ max(0, 1 + s - |n - d|)``, n >= 0: with no width linear interpolation (Queant et al. 2025,
    arXiv:2509.24852).
    """
    return Kernel("triangle", width, halving, final)


def gaussian(width, *, halving=100, final=None):
    """``h(n) ~ exp(-(n - d)^2 / (2 s^2))``, n >= 0 (Hammouamri et al. 2024, ICLR, arXiv:2306.17670)."""
    return Kernel("gaussian", width, halving, final)


def kernel_widths(net, updates=0):
    """Widths of the kernels of all delays, in steps, after so many updates, by projection; zero where there is none."""
    kernels = {name: p.delay.kernel if p.delay else None for name, p in net.projections.items()}
    return {name: kernel.steps(net.dt, updates) if kernel else 0.0 for name, kernel in kernels.items()}


def unspread(net):
    """Widths where nothing learns: every delay is read as it is, between two steps by linear interpolation."""
    return dict.fromkeys(net.projections, 0.0)


def kernel_kind(delay):
    """How a delay is spread; without a kernel it is a triangle without width, the linear interpolation."""
    return delay.kernel.kind if delay is not None and delay.kernel is not None else "triangle"


def moving(net, optimiser):
    """Names of the delays that ``optimiser`` changes, such as ``'rec_rec.delay'``."""
    return [f"{name}.delay" for name in net.learned_delays if not optimiser.frozen(f"{name}.delay")]


def per_synapse(p, numbers, mask):
    """``numbers`` in the shape of the delays of ``p``, one for every synapse that exists."""
    axonal = np.ndim(numbers) == 1 and p.delay.kind == "axonal"
    return np.broadcast_to(numbers[:, None] if axonal else numbers, mask.shape)[mask]


def summed_over_shared(gradient, kind, ndim):
    """The gradient of delays of ``ndim`` dimensions from that of every synapse ``(pre, post)``; arrays or tensors."""
    if ndim == 0:  # one for all, whatever its kind
        return gradient.sum()
    return gradient if kind == "synaptic" else gradient.sum(1 if kind == "axonal" else 0)


def check_delays(net, values, steps):
    """Raise where ``values`` hold delays that cannot be; warn of those longer than a trial of so many steps.

    A delay that learns may lie outside its bounds by what rounding to whole steps changes.
    """
    for name, p in net.projections.items():
        delays, learns = np.asarray(values.delays[name], float), name in net.learned_delays
        low, high = net.limits(f"{name}.delay") if learns else (0.0, np.inf)
        wrong = delays[~((delays >= np.floor(low)) & (delays <= np.ceil(high)) & np.isfinite(delays))]
        if wrong.size:
            raise NetworkError(
                f"projection {name!r}: {wrong.size} of its delays cannot be, such as {wrong[0]:g} steps; they lie "
                f"between {low:g} and {high:g} steps of {net.dt}"
            )
        warn_late(net, p, values, steps)


def warn_late(net, p, values, steps):
    """Warn of synapses from which nothing arrives within a trial."""
    travel = per_synapse(p, np.asarray(values.delays[p.name], float), values.masks[p.name])
    late = travel >= steps
    if late.any():
        warn(
            f"projection {p.name!r}: what {late.sum()} of its {late.size} synapses carry never arrives; delays reach "
            f"{travel.max():g} steps, a trial has {steps} steps of {net.dt}: shorten the delays or give longer trials"
        )


def warn_merged(label, delay, dt):
    """Warn where the time step makes different delays equal, unless they are drawn: of many numbers some must be
    alike.
    """
    times = np.unique(np.asarray(delay.value, float) / float(dt))
    drawn = len(times) > max(MANY, np.size(delay.value) / 2)
    if delay.trainable or drawn:
        return
    times = times[np.append(True, np.diff(times) > 1e-6)]
    same = np.flatnonzero(np.diff(np.floor(times + 0.5)) == 0)
    if same.size:
        one, other = times[same[0]] * dt, times[same[0] + 1] * dt
        warn(
            f"{label}: dt = {dt} rounds different delays to the same step, {one} and {other}; use a finer "
            "dt, or give whole steps"
        )


def warn(text):
    warnings.warn(text, LocalplastWarning, stacklevel=2)


@dataclass(frozen=True, eq=False)
class Delay(Data):
    """How long a signal travels: ``kind`` is ``'axonal'``, ``'dendritic'`` or ``'synaptic'``.

    ``value`` is a time, one for all or an array: ``(pre,)``, ``(post,)`` or ``(pre, post)``; or times to be drawn for
    every seed, such as ``uniform(10*ms, mean=10*ms, fan_in=False)``, cut off at the bounds of the delay. A
    ``trainable`` delay is a real number of steps, shared by the two steps around it (linear interpolation) or by
    those in its ``kernel`` (:mod:`localplast.network.delays`); rules may change it, from the lowest to the highest
    time where ``trainable`` is such a pair (either may be None).
    """

    kind: str
    value: Quantity | Random
    trainable: bool | tuple = False
    kernel: Kernel | None = None


def axonal(value, *, trainable=False, kernel=None):
    """One delay per presynaptic neuron, ``value`` a time or an array ``(pre,)``; see :class:`Delay`."""
    return Delay("axonal", value, trainable, kernel)


def dendritic(value, *, trainable=False, kernel=None):
    """One delay per postsynaptic neuron, ``value`` a time or an array ``(post,)``; see :class:`Delay`."""
    return Delay("dendritic", value, trainable, kernel)


def synaptic(value, *, trainable=False, kernel=None):
    """One delay per synapse, ``value`` an array ``(pre, post)``; see :class:`Delay`."""
    return Delay("synaptic", value, trainable, kernel)
