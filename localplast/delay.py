"""How a delay that learns is spread over the steps around it while it learns: the wider, the further it can see.

A spike reaches its target in several steps, with shares that sum to one. They narrow as learning goes on::

    axonal(delays, trainable=(0*ms, 25*ms), kernel=localplast.delay.triangle(10*ms, halving=200))
"""

from dataclasses import dataclass

from brian2.units.fundamentalunits import Quantity
from brian2.units.stdunits import ms

__all__ = ["Kernel", "gaussian", "kernel_widths", "triangle"]

#: Width in steps at which a Gaussian stops to narrow, where no other is given (Hammouamri et al. 2024, code).
NARROWEST_GAUSSIAN = 0.23


@dataclass(frozen=True)
class Kernel:
    """The shares of the steps ``n`` around a delay of ``d`` steps, from ``width`` s; see :func:`triangle`, :func:`gaussian`.

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
    """``h(n) ~ max(0, 1 + s - |n - d|)``, n >= 0: with no width linear interpolation (Queant et al. 2025, arXiv:2509.24852)."""
    return Kernel("triangle", width, halving, final)


def gaussian(width, *, halving=100, final=None):
    """``h(n) ~ exp(-(n - d)^2 / (2 s^2))``, n >= 0 (Hammouamri et al. 2024, ICLR, arXiv:2306.17670)."""
    return Kernel("gaussian", width, halving, final)


def kernel_widths(net, updates=0):
    """Widths of the kernels of all delays, in steps, after so many updates, by projection; zero where there is none."""
    kernels = {name: p.delay.kernel if p.delay else None for name, p in net.projections.items()}
    return {name: kernel.steps(net.dt, updates) if kernel else 0.0 for name, kernel in kernels.items()}
