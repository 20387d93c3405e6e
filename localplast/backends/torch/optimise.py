"""What an optimiser does between trials, in Torch: its step program, run once for every update."""

import torch

from localplast.backends.torch.interpreter import Interpreter, numbers
from localplast.program.arrays import Life
from localplast.program.update import SHARE, K, between

__all__ = ["Optimise"]


class Optimise:
    """The optimiser of a network that learns between trials.

    Parameters
    ----------
    net : Network
    values : Values
        Which synapses there are.
    optimiser : Optimiser
    tensors : dict of str to tensor
        From :func:`localplast.backends.torch.step.leaves`.
    feedback : dict of str to tensor
        What learns beside weights, by projection.
    """

    def __init__(self, net, values, optimiser, tensors, feedback):
        self.program, more = between(net, values, optimiser, feedback)
        found = numbers(net, self.program, tensors, values.masks, feedback, more)
        self.engine, fixed = Interpreter(self.program, found), {a.name for a in self.program.of(Life.FIXED)}
        self.engine.numbers = {n: x for n, x in found.items() if n in fixed}  # what learns comes with every update

    @torch.no_grad()
    def __call__(self, learning, gradients, *, share, update):
        """What has changed, by array.

        Parameters
        ----------
        learning : dict of str to tensor
            By array: ``'rec_rec.weight'``, ``'rec_rec.optimiser.m'``, ``'rec.tau_mem'``.
        gradients : dict of str to tensor
            By projection, and by name of what else learns.
        share : float
            What is left of every gradient.
        update : int
            Its number, from 1.
        """
        given = {n: x for n, x in learning.items() if n in self.program.arrays}
        given |= {f"{n}.gradient": g for n, g in gradients.items()} | {K: update, SHARE: share}
        return self.engine.update(given)
