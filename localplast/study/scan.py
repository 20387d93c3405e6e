"""Many conditions in one simulation: every neuron of one population is one condition of a scan.

::

    onset = pulses([50*ms], 5*ms, duration=150*ms, dt=dt)                # the waveform, peak 1
    drive = Drive({"I_soma": amplitudes}, onset)                         # one amplitude per condition
    net, trials = scan(pyramidal(), len(amplitudes), [drive], dt=dt)
    record = localplast.run(net, trials, record=["cells.spikes", "cells.v_apical"])

A graded input that is set in step n moves its targets in step n+1: waveforms are given one step early, so that what
is to flow from t on does flow from t on.
"""

from dataclasses import dataclass

import numpy as np
from brian2 import Quantity

from localplast.errors import LocalplastError
from localplast.network.network import Network
from localplast.network.nodes import Input, Population, Projection
from localplast.neuron.channels import HIPPOCAMPAL
from localplast.task.trials import Trials

__all__ = [
    "blocks",
    "Drive",
    "double_exponential",
    "events",
    "pulses",
    "scan",
    "spike_counts",
    "spike_trains",
    "threshold",
    "traces",
]

CELLS = "cells"


def clock(duration, dt):
    """The time in seconds at which what is given in each step begins to act, ``(time,)``."""
    return (np.arange(round(float(duration / dt))) + 1) * float(dt)


def pulses(onsets, width, *, duration, dt):
    """A rectangular waveform of height 1, ``(time,)``: on for ``width`` from each of ``onsets``; all are times."""
    start = np.floor(np.asarray(onsets / dt, float) + 0.5) * float(dt)  # on the grid, as spikes and delays are
    since = clock(duration, dt)[:, None] - np.atleast_1d(start)
    half = 0.5 * float(dt)  # a comparison on the grid itself would hang on rounding errors
    return ((since > -half) & (since < float(width) - half)).any(1).astype(float)


def double_exponential(onset, *, rise, decay, duration, dt):
    """The waveform of an EPSC, ``exp(-t/decay) - exp(-t/rise)`` from ``onset`` on with a peak of 1, ``(time,)``."""
    if not 0 * rise < rise < decay:
        raise LocalplastError(f"double exponential: rise = {rise} is not between 0 and decay = {decay}")
    since, fast, slow = np.maximum(clock(duration, dt) - float(onset), 0.0), float(rise), float(decay)
    top = fast * slow / (slow - fast) * np.log(slow / fast)
    return (np.exp(-since / slow) - np.exp(-since / fast)) / (np.exp(-top / slow) - np.exp(-top / fast))


def events(times, *, duration, dt):
    """Spikes at ``times``, a bool raster ``(time,)``; a spike acts in its own step."""
    raster = np.zeros(round(float(duration / dt)), bool)
    raster[np.floor(np.atleast_1d(np.asarray(times / dt, float)) + 0.5).astype(int)] = True
    return raster


@dataclass(frozen=True, eq=False)
class Drive:
    """What one kind of input does to all conditions.

    Parameters
    ----------
    weights : dict of str to Quantity or array ``(condition,)``
        By variable of the model: what one unit of the waveform, or one spike, adds up to; a single number is the same
        for all.
    waves : array ``(time,)`` or ``(time, wave)``
        Waveforms (float, graded), or spikes (bool).
    wave : int array ``(condition,)``
        Which of the waves drives each condition.
    """

    weights: dict
    waves: np.ndarray
    wave: np.ndarray = 0

    @property
    def columns(self):
        """The waves as ``(time, wave)``."""
        return self.waves.reshape(len(self.waves), -1)

    def matrix(self, target, size):
        """Weights ``(wave, condition)`` onto ``target``, SI, and where there is a synapse."""
        count = self.columns.shape[1]
        chosen = np.broadcast_to(self.wave, size)
        if chosen.min() < 0 or chosen.max() >= count:
            raise LocalplastError(
                f"drive of {target!r}: wave {chosen.max()} was asked for; there are {count}, from 0 on"
            )
        there = np.arange(count)[:, None] == chosen
        return there * np.broadcast_to(np.asarray(self.weights[target], float), size), there


def scan(model, size, drives, *, dt, parameters=None, initial=None):
    """One population ``cells`` of ``size`` neurons, one per condition, and the one trial that drives them.

    Parameters
    ----------
    model : NeuronModel
    size : int
    drives : sequence of Drive

    Other arguments
    ---------------
    dt : Quantity
    parameters, initial : dict
        As those of :class:`~localplast.network.network.Population`: arrays ``(condition,)`` where conditions differ.

    Returns
    -------
    Network, Trials
    """
    nodes, links, inputs = {}, [], {}
    for number, drive in enumerate(drives):
        name, spikes = f"drive_{number}", drive.waves.dtype == bool
        nodes[name] = Input(drive.columns.shape[1], "spikes" if spikes else "currents")
        inputs[name] = drive.columns[None]
        for target in drive.weights:
            weight, there = drive.matrix(target, size)
            links.append(
                Projection(
                    name,
                    CELLS,
                    weight=weight,
                    mask=there,
                    target=target,
                    transmission="event" if spikes else "graded",
                    plastic=False,
                    name=f"{name}_{target}",
                )
            )
    cells = Population(size, model, parameters or {}, initial or {})
    return Network(dt=dt, **nodes, **{CELLS: cells}, projections=links), Trials(inputs)


def spike_trains(record, size):
    """Spike times in seconds of every condition, a list of arrays, from a record that kept ``cells.spikes``."""
    node = record[CELLS]
    times, neurons = node["spike_time"].values, node["spike_neuron"].values
    return [times[neurons == number] for number in range(size)]


def spike_counts(record, size):
    """How often every condition spiked, ``(condition,)``; ``size`` conditions."""
    return np.bincount(record[CELLS]["spike_neuron"].values, minlength=size)


def traces(record, variable):
    """A state variable of the scan, ``(condition, time)``, SI, of a record that kept ``cells.<variable>``."""
    return record[CELLS][variable].values[0].T


def threshold(values, reached):
    """The lowest of the ascending ``values`` at which ``reached`` ``(..., value)`` holds; NaN where it never does."""
    reached = np.asarray(reached, bool)
    return np.where(reached.any(-1), np.asarray(values)[reached.argmax(-1)], np.nan)


def blocks(gates, chosen, where):
    """The parameters of the magnesium block for every condition, of which ``chosen`` ``(condition,)`` counts through
    ``gates``.
    """
    return {f"{key}_nmda_{where}": Quantity([gate[key] for gate in gates.values()])[chosen] for key in HIPPOCAMPAL}
