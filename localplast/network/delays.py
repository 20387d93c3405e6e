"""How a delay that learns is spread over the steps around it while it learns: the wider, the further it can see.

A spike reaches its target in several steps, with shares that sum to one. They narrow as learning goes on::

    axonal(delays, trainable=(0*ms, 25*ms), kernel=lp.delay.triangle(10*ms, halving=200))
"""

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from brian2.units.allunits import second
from brian2.units.fundamentalunits import Quantity, get_dimensions
from brian2.units.stdunits import ms

from localplast.arguments import is_real
from localplast.errors import LocalplastWarning, NetworkError
from localplast.files import Data
from localplast.network.weights import Random

if TYPE_CHECKING:
    import torch

    from localplast.learning.optimise import Optimiser
    from localplast.network.network import Network
    from localplast.network.nodes import Projection
    from localplast.network.values import Values

__all__ = [
    "Delay",
    "Kernel",
    "MAX_DELAY_STEPS",
    "axonal",
    "check_delays",
    "delay_shapes",
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
    "warn",
    "warn_late",
    "warn_merged",
]

#: Lowest and highest time of a delay that learns; None where there is none.
Limits = tuple[Quantity | None, Quantity | None]

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

    def steps(self, dt: Quantity, updates: int = 0) -> float:
        """The width in steps of ``dt`` after so many updates."""
        final = NARROWEST_GAUSSIAN if self.final is None else float(self.final) / float(dt)
        return max(float(self.width) / float(dt) * 0.5 ** (updates / float(self.halving)), final)


def triangle(width: Quantity, *, halving: float = 100, final: Quantity = 0 * ms) -> Kernel:
    """``h(n) ~ max(0, 1 + s - |n - d|)``, n >= 0: with no width linear interpolation (Queant et al. 2025,
    arXiv:2509.24852).
    """
    return Kernel("triangle", width, halving, final)


def gaussian(width: Quantity, *, halving: float = 100, final: Quantity | None = None) -> Kernel:
    """``h(n) ~ exp(-(n - d)^2 / (2 s^2))``, n >= 0 (Hammouamri et al. 2024, ICLR, arXiv:2306.17670)."""
    return Kernel("gaussian", width, halving, final)


def kernel_widths(net: "Network", updates: int = 0) -> dict[str, float]:
    """Widths of the kernels of all delays, in steps, after so many updates, by projection; zero where there is none."""
    kernels = {name: p.delay.kernel if p.delay else None for name, p in net.projections.items()}
    return {name: kernel.steps(net.dt, updates) if kernel else 0.0 for name, kernel in kernels.items()}


def unspread(net: "Network") -> dict[str, float]:
    """Widths where nothing learns: every delay is read as it is, between two steps by linear interpolation."""
    return dict.fromkeys(net.projections, 0.0)


def kernel_kind(delay: "Delay | None") -> str:
    """How a delay is spread; without a kernel it is a triangle without width, the linear interpolation."""
    return delay.kernel.kind if delay is not None and delay.kernel is not None else "triangle"


def moving(net: "Network", optimiser: "Optimiser") -> list[str]:
    """Names of the delays that ``optimiser`` changes, such as ``'rec_rec.delay'``."""
    return [f"{name}.delay" for name in net.learned_delays if not optimiser.frozen(f"{name}.delay")]


def per_synapse(p: "Projection", numbers: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``numbers`` in the shape of the delays of ``p``, one for every synapse that exists."""
    axonal = np.ndim(numbers) == 1 and p.delay.kind == "axonal"
    return np.broadcast_to(numbers[:, None] if axonal else numbers, mask.shape)[mask]


def summed_over_shared(gradient: "np.ndarray | torch.Tensor", kind: str, ndim: int) -> "np.ndarray | torch.Tensor":
    """The gradient of delays of ``ndim`` dimensions from that of every synapse ``(pre, post)``; arrays or tensors."""
    if ndim == 0:  # one for all, whatever its kind
        return gradient.sum()
    return gradient if kind == "synaptic" else gradient.sum(1 if kind == "axonal" else 0)


def check_delays(net: "Network", values: "Values", steps: int) -> None:
    """Raise where ``values`` hold delays that cannot be; warn of those longer than a trial of so many steps.

    A delay that learns may lie outside its bounds by what rounding to whole steps changes.
    """
    for name, p in net.projections.items():
        delays = np.asarray(values.delays[name], float)
        low, high = net.limits(f"{name}.delay") if p.delay else (0.0, np.inf)
        wrong = delays[~((delays >= np.floor(low)) & (delays <= np.ceil(high)) & np.isfinite(delays))]
        if wrong.size:
            raise NetworkError(
                f"projection {name!r}: {wrong.size} of its delays cannot be, such as {wrong[0]:g} steps; they lie "
                f"between {low:g} and {high:g} steps of {net.dt}"
            )
    warn_late(net, values, steps)


def warn_late(net: "Network", values: "Values", steps: int) -> None:
    """Warn of synapses from which nothing arrives within a trial."""
    for name, p in net.projections.items():
        travel = per_synapse(p, np.asarray(values.delays[name], float), values.masks[name])
        late = travel >= steps
        if late.any():
            warn(
                f"projection {name!r}: what {late.sum()} of its {late.size} synapses carry never arrives; delays reach "
                f"{travel.max():g} steps, a trial has {steps} steps of {net.dt}: shorten the delays or give longer "
                "trials"
            )


def warn_merged(label: str, delay: "Delay", dt: Quantity) -> None:
    """Warn where the time step makes different delays equal, unless they are drawn: of many numbers some must be
    alike.
    """
    given = np.asarray(delay.value, float)
    times = np.unique(given / float(dt))
    drawn = len(times) > max(MANY, given.size / 2)
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


def warn(text: str) -> None:
    """Say what is legal, and hardly meant."""
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


def axonal(value: Quantity | Random, *, trainable: bool | Limits = False, kernel: Kernel | None = None) -> Delay:
    """One delay per presynaptic neuron, ``value`` a time or an array ``(pre,)``; see :class:`Delay`."""
    return Delay("axonal", value, trainable, kernel)


def dendritic(value: Quantity | Random, *, trainable: bool | Limits = False, kernel: Kernel | None = None) -> Delay:
    """One delay per postsynaptic neuron, ``value`` a time or an array ``(post,)``; see :class:`Delay`."""
    return Delay("dendritic", value, trainable, kernel)


def synaptic(value: Quantity | Random, *, trainable: bool | Limits = False, kernel: Kernel | None = None) -> Delay:
    """One delay per synapse, ``value`` an array ``(pre, post)``; see :class:`Delay`."""
    return Delay("synaptic", value, trainable, kernel)


#: Longest delay, in steps: spikes in flight are kept in a ring buffer of this length at most.
MAX_DELAY_STEPS = 100_000


def check_delay(label, delay, shapes, dt):
    """A delay has a kind, and the times that go with it."""
    if not isinstance(delay, Delay):
        raise NetworkError(
            f"{label}: the delay {delay!r} has no kind; write axonal(...), dendritic(...) or synaptic(...)"
        )
    if delay.kind not in shapes:
        raise NetworkError(f"{label}: a delay is axonal, dendritic or synaptic, not {delay.kind!r}")
    check = check_drawn_delay if isinstance(delay.value, Random) else check_given_delay
    check(label, delay, shapes[delay.kind], dt)
    check_learned_delay(label, delay)
    check_kernel(label, delay)


def check_given_delay(label, delay, shape, dt):
    """Delays that are given are times of the right shape, not below zero."""
    if np.asarray(delay.value).dtype.kind not in "biuf" or get_dimensions(delay.value) != second.dim:
        raise NetworkError(f"{label}: the delay {delay.value!r} is not a time; write for example 3*ms")
    if np.shape(delay.value) not in ((), shape):
        raise NetworkError(
            f"{label}: the {delay.kind} delay has shape {np.shape(delay.value)}; give one value or {shape}"
        )
    steps = np.asarray(delay.value, float) / float(dt)
    if not np.all(np.isfinite(steps)) or np.any(steps < 0) or np.any(steps > MAX_DELAY_STEPS):
        raise NetworkError(
            f"{label}: impossible delay; all must lie between 0 and {MAX_DELAY_STEPS} steps of {dt}, "
            f"these range from {steps.min():g} to {steps.max():g} steps"
        )
    warn_merged(label, delay, dt)


def delay_shapes(n_pre: int, n_post: int) -> dict[str, tuple[int, ...]]:
    """Shapes of delays that differ, by kind."""
    return {"axonal": (n_pre,), "dendritic": (n_post,), "synaptic": (n_pre, n_post)}


def check_drawn_delay(label, delay, shape, dt):
    """Delays to be drawn are times around a time."""
    drawn = delay.value
    if (
        any(get_dimensions(part) != second.dim for part in (drawn.mean, drawn.spread))
        or drawn.fan_in
        or drawn.radius is not None
    ):
        raise NetworkError(
            f"{label}: draw delays as times, without fan-in, such as uniform(10*ms, mean=10*ms, fan_in=False), not "
            f"{drawn!r}"
        )


def check_learned_delay(label, delay):
    """Bounds of a delay that learns: two times, not below zero, with the delay itself between them."""
    if isinstance(delay.trainable, (bool, np.bool_)):
        return
    bounds = delay.trainable
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        raise NetworkError(
            f"{label}: a delay learns between the shortest and the longest, such as (0*ms, 25*ms), not {bounds!r}"
        )
    for bound in bounds:
        if bound is not None and (
            not is_real(bound) or np.ndim(bound) or get_dimensions(bound) != second.dim or float(bound) < 0
        ):
            raise NetworkError(
                f"{label}: the bound {bound!r} of its delay is not a time from 0; write for example 25*ms"
            )
    low, high = (x if b is None else float(b) for b, x in zip(bounds, (0.0, np.inf), strict=True))
    if low > high:
        raise NetworkError(f"{label}: no delay lies within the bounds {bounds!r}; the shortest comes first")
    if isinstance(delay.value, Random):
        return  # what is drawn is put within the bounds
    value = np.asarray(delay.value, float)
    if np.any(value < low - 1e-12) or np.any(value > high + 1e-12):
        raise NetworkError(
            f"{label}: its delays start from {value.min():g} to {value.max():g} s, not within their bounds {bounds!r}"
        )


def check_kernel(label, delay):
    """The kernel of a delay: only of one that learns, with widths that are times."""
    kernel = delay.kernel
    if kernel is None:
        return
    if not isinstance(kernel, Kernel) or kernel.kind not in ("triangle", "gaussian"):
        raise NetworkError(
            f"{label}: {kernel!r} is no kernel of a delay; write lp.delay.triangle(...) or gaussian(...)"
        )
    if not delay.trainable:
        raise NetworkError(
            f"{label}: its delay does not learn, so it has no {kernel.kind} kernel; write trainable=True"
        )
    for what, width in (("width", kernel.width), ("final width", kernel.final)):
        if width is not None and (
            not is_real(width)
            or np.ndim(width)
            or get_dimensions(width) != second.dim
            or not 0 <= float(width) < np.inf
        ):
            raise NetworkError(
                f"{label}: the {what} {width!r} of its kernel is not a time from 0; write for example 5*ms"
            )
    if not is_real(kernel.halving) or not float(kernel.halving) > 0:
        raise NetworkError(f"{label}: its kernel halves every {kernel.halving!r} updates; give a positive number")
