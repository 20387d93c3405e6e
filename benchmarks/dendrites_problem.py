"""What the dendrite benchmarks simulate: pyramidal cells in steady currents, with spikes on their basal branches."""

from dataclasses import dataclass

import numpy as np

__all__ = ["CHANNELS", "DT", "Drive", "drive"]

#: Length of a step in ms; channels of the input, and how many of them reach a cell; their rate in hertz.
DT, CHANNELS, CONTACTS, RATE = 0.05, 200, 20, 5.0


@dataclass(frozen=True)
class Drive:
    """Currents in pA ``(cell,)``; input spikes ``(time, channel)`` and contacts ``(channel, cell)``, or None."""

    soma: np.ndarray
    apical: np.ndarray
    spikes: np.ndarray | None
    contacts: np.ndarray | None


def drive(cells, steps, *, inputs=True, seed=0):
    """The same numbers for every simulator: cells that fire at some 15 Hz, with calcium spikes now and then."""
    rng = np.random.default_rng(seed)
    soma, apical = rng.uniform(300, 700, cells), rng.uniform(0, 400, cells)
    if not inputs:
        return Drive(soma, apical, None, None)
    contacts = rng.random((CHANNELS, cells)).argsort(0) < CONTACTS
    return Drive(soma, apical, rng.random((steps, CHANNELS)) < RATE * DT * 1e-3, contacts)
