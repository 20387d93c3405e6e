"""What the tasks of SuperSpike share: the rules that are compared, and the published optimiser.

Zenke & Ganguli 2018, Neural Comput 30:1514.
"""

import numpy as np
from brian2 import second

from localplast.learning.optimise import rmaxprop
from localplast.rules import bptt, superspike

__all__ = ["hidden_rules", "published_optimiser"]


def hidden_rules():
    """What is compared where there are hidden neurons: SuperSpike with every feedback of the paper, beside BPTT."""
    return {
        "BPTT": bptt(),
        "BPTT, reset cut": bptt(cut={"reset"}),
        "SuperSpike, symmetric": superspike(),
        "SuperSpike, random": superspike(feedback="random"),
        "SuperSpike, uniform": superspike(feedback="uniform"),
    }


def published_optimiser(learning_rate, interval):
    """RMaxProp with the published memory of 30 s, for updates that are ``interval`` apart."""
    return rmaxprop(learning_rate, decay=float(np.exp(-interval / (30 * second))), epsilon=1e-12)
