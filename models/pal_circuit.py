"""Dendritic microcircuits whose feedback aligns with the weights that it stands for, as networks.

Max et al. 2024, Nature Machine Intelligence, arXiv:2212.10249.
"""

from collections.abc import Callable

import numpy as np
from brian2 import ms

from localplast.models.circuit import CELLS, circuit
from localplast.models.pal import pal_output, pal_pyramidal
from localplast.neuron import NeuronModel

__all__ = ["aligning", "logistic"]

#: What makes the cells of a circuit whose feedback learns.
ALIGNING: dict[str, Callable[..., NeuronModel]] = {**CELLS, "hidden": pal_pyramidal, "out": pal_output}


def aligning(sizes, *, sigma=0.05, plastic=("up", "ip", "pi", "down"), dt=0.01 * ms, **options):
    """A microcircuit with noise of strength ``sigma`` in its apical dendrites, whose feedback weights learn.

    ``options`` are those of :func:`circuit`.
    """
    return circuit(sizes, cells=ALIGNING, parameters={"sigma": sigma}, plastic=plastic, dt=dt, **options)


def logistic(u):
    """The rates of potentials."""
    return 1 / (1 + np.exp(-u))
