"""Short-term plasticity in Torch, differentiable: spikes through what they use up, weights through what they
deliver.
"""

import torch

from localplast.equations.tape import Tape

__all__ = ["Release"]


class Release:
    """What the source neurons of one projection have left to release.

    Parameters
    ----------
    short_term : ShortTerm
    dt : float
        Seconds.
    """

    def __init__(self, short_term, dt):
        self.rest = short_term.state
        self.between = Tape(list(short_term.between(dt).items()))
        jumped = [(f"new_{name}", value) for name, value in short_term.after.items()]
        self.spike = Tape([("release", short_term.release), *jumped])
        self.state = None

    def start(self):
        """Begin a trial: all resources are there from the first step on."""
        self.state = None

    def __call__(self, z):
        """What spikes ``z`` ``(trial, pre)`` of this step release; the state moves on by one step."""
        fresh = {name: z.new_full(z.shape, value) for name, value in self.rest.items()}
        state = fresh if self.state is None else self.between(self.state)
        spiked = self.spike(state)
        self.state = {name: value + z * (spiked[f"new_{name}"] - value) for name, value in state.items()}
        return z * spiked["release"]

    def whole_trial(self, z):
        """As calling it on every step of ``z`` ``(time, trial, pre)``."""
        self.start()
        return torch.stack([self(step) for step in z])
