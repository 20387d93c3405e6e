"""Trials that do not fit the network are refused before anything runs."""

import numpy as np
import pytest
from brian2 import ms

from localplast.errors import NetworkError
from localplast.network import Input, Network
from localplast.task import Poisson, Trials

NETWORK = Network(dt=1 * ms, cues=Input(3), drive=Input(2, "currents"))
RASTER, CURRENT = np.zeros((2, 10, 3), bool), np.zeros((2, 10, 2))

TRIALS = {
    "missing input": ({"cues": RASTER}, {}, r"^the trials give inputs \['cues'\]; the network has \['cues', 'drive'\]$"),
    "unknown input": ({"cues": RASTER, "drives": CURRENT}, {}, r"^the trials give inputs \['cues', 'drives'\]; the network has"),
    "channels": (
        {"cues": RASTER[..., :2], "drive": CURRENT}, {},
        r"^input 'cues' has shape \(2, 10, 2\); \(trial, time, neuron\) is \(2, 10, 3\)$",
    ),
    "steps": ({"cues": RASTER, "drive": CURRENT[:, :9]}, {}, r"^input 'drive' has shape \(2, 9, 2\); .* is \(2, 10, 2\)$"),
    "number of trials": ({"cues": RASTER, "drive": CURRENT[:1]}, {}, r"^input 'drive' has shape \(1, 10, 2\)"),
    "spikes as numbers": (
        {"cues": RASTER * 1.0, "drive": CURRENT}, {}, r"^input 'cues' carries spikes: give a bool raster, not float64$",
    ),
    "currents as spikes": (
        {"cues": RASTER, "drive": CURRENT > 0}, {}, r"^input 'drive' carries currents: give a float array, not bool$",
    ),
    "currents as rates": (
        {"cues": RASTER, "drive": Poisson(np.zeros((2, 1, 2)), 10)}, {},
        r"^input 'drive' carries currents: give a float array, not Poisson$",
    ),
    "weight of the steps": (
        {"cues": RASTER, "drive": CURRENT}, {"weight": np.ones(9)}, r"weight of the steps has shape \(9,\); \(time,\) is \(10,\)$",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TRIALS)
def test_trials_that_do_not_fit_the_network_are_refused(case):
    inputs, options, message = TRIALS[case]
    with pytest.raises(NetworkError, match=message):
        Trials(inputs, **options).check(NETWORK)
    Trials({"cues": RASTER, "drive": CURRENT}, weight=np.ones(10)).check(NETWORK)
