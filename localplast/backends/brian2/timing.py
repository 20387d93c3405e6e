"""When what happens in a run: numbers that a program reads, so that one serves every length and number of trials."""

import math
from dataclasses import dataclass

import brian2 as b2
import numpy as np

from localplast.task.trials import Poisson

__all__ = ["CLOCK", "Block", "add_number", "longest_delay", "make_clock", "read_clock"]

#: The name of the clock of all Brian2 objects, which holds these numbers.
CLOCK = "localplast_clock"


@dataclass(frozen=True)
class Block:
    """The timing of a run: ``trials`` of ``steps`` steps with a gap after each, as long as the ``longest`` delay.

    ``segments`` are those of inputs given as rates: a gap holds whole ones. Text calls numbers by name.
    """

    trials: int
    steps: int
    longest: int = 0
    segments: tuple = ()

    @classmethod
    def of(cls, trials, longest):
        """The block that holds ``trials``."""
        segments = tuple(a.segment for a in trials.inputs.values() if isinstance(a, Poisson))
        return cls(len(trials), trials.steps, longest, segments)

    @property
    def gap(self):
        whole = math.lcm(*self.segments)
        return -(-self.longest // whole) * whole

    period = property(lambda self: self.steps + self.gap)
    length = property(lambda self: self.trials * self.period)

    def numbers(self, dt):
        """What the clock holds of this block, by name; ``dt`` in seconds."""
        return {"_steps": self.steps, "_period": self.period, "_length": self.length, "_duration": self.steps * dt}

    #: Text that is 1 in the first step of a trial.
    fresh = "int(t_in_timesteps % _period == 0)"

    #: Text that is 1 where the state is at rest: in the first step of a trial, and all through a gap. Nothing spikes in
    #: a gap; a neuron that only its reset keeps from diverging would leave NaN to the next trial.
    held = "int((t_in_timesteps % _period == 0) or (t_in_timesteps % _period >= _steps))"

    @property
    def active(self):
        """Text that is true inside a trial, empty where there is no gap."""
        return "(t_in_timesteps % _period < _steps)" if self.gap else ""


def longest_delay(delays):
    """Steps that the slowest spike is in flight; ``delays`` are those of
    :class:`~localplast.network.network.Values`.
    """
    return max([0, *(int(np.ceil(np.max(steps))) for steps in delays.values())])


def make_clock(dt):
    """The clock of a program: its time, and numbers that are set before each run, called so in all text."""
    clock = b2.Clock(dt, name=CLOCK)
    for name in ("_steps", "_period", "_length", "_batch"):
        add_number(clock, name)
    for name in ("_duration", "_updates"):
        add_number(clock, name, float)
    return clock


def add_number(clock, name, dtype=np.int64):
    """Let the clock hold one more number."""
    clock.variables.add_array(name, size=1, dtype=dtype, constant=True, scalar=True)


def read_clock(group, clock):
    """Let the text of a Brian2 object read the numbers of the clock."""
    group.variables.add_references(clock, [name for name in clock.variables if name.startswith("_")])
