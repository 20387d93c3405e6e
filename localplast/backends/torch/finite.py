"""Where a network that learns without a pause stops being finite: the step, and the population it begins in."""

import torch

from localplast.errors import not_finite

__all__ = ["Guard"]


#: Beyond these numbers squares, and so losses, are infinite.
LARGEST = {torch.float64: 2.0**511, torch.float32: 2.0**63}


class Guard:
    """Looks at the neurons of an :class:`~localplast.backends.torch.online.OnlineLearner` after every step; nothing is
    read until the end.
    """

    def __init__(self, learner):
        self.learner, self.seen = learner, []

    def look(self):
        """Note this step: one number per population, which is not finite where part of its state is not."""
        values, states = self.learner.engine.values, self.learner.states.values()
        self.seen.append(torch.stack([sum(values[n].sum() for n in names) for names in states]))

    def check(self):
        """Raise a :class:`~localplast.errors.RunawayError` if some step was not finite."""
        seen = torch.stack(self.seen).abs()
        wrong = (~(seen < LARGEST[seen.dtype])).nonzero()
        if len(wrong):
            step, place = wrong[0].tolist()
            raise not_finite(list(self.learner.states)[place], step)
