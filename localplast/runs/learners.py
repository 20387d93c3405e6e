"""What learns: one learner per backend, made from the same description."""

import logging
import math
import shutil

import numpy as np

from localplast.packages import need_torch

__all__ = ["default_target", "make_learner", "updates_per_block"]

logger = logging.getLogger(__name__)

#: Numbers of input that one block of Brian2 trials may hold (8 bytes each).
BLOCK_NUMBERS = 8_000_000


def make_learner(net, values, rule, loss, optimiser, example, options, *, batch, updates_per_block=1):
    """The learner of one backend; see ``TorchLearner`` and ``Brian2Learner``."""
    spelling = net.spelling
    inside = (spelling.net, spelling.values(values), rule, loss, spelling.optimiser(optimiser))
    with spelling.errors():
        made = inner_learner(*inside, example, options, batch=batch, updates_per_block=updates_per_block)
    return Spelled(made, spelling) if spelling.differs else made


def inner_learner(net, values, rule, loss, optimiser, example, options, *, batch, updates_per_block):
    """As :func:`make_learner`, of what is spelled as backends do."""
    described, common = (net, values, rule, loss, optimiser), {"batch": batch, "seed": options.seed}
    if options.backend == "torch":
        need_torch("learning with backend='torch'")
        import torch

        from localplast.backends.torch.learner import TorchLearner  # a backend loads when it is chosen

        numbers = {"dtype": getattr(torch, options.dtype), "threads": options.threads, "device": options.device}
        return TorchLearner(*described, **common | numbers)
    from localplast.backends.brian2.learner import Brian2Learner  # a backend loads when it is chosen

    block = {"target": options.target, "updates_per_block": updates_per_block}
    return Brian2Learner(*described, example, **common | block)


class Spelled:
    """A learner to be spoken to in the names of people, which backends spell otherwise."""

    def __init__(self, learner, spelling):
        self.learner, self.spelling = learner, spelling

    def __getattr__(self, name):
        return getattr(self.learner, name)

    def restart(self, values, seed):
        """Begin again from other numbers."""
        with self.spelling.errors():
            self.learner.restart(self.spelling.values(values), seed)

    def train(self, trials):
        """Learn; returns one dict of metrics per update."""
        with self.spelling.errors():
            return self.learner.train(trials)

    def evaluate(self, *trials):
        """Metrics of trials from which nothing is learned."""
        with self.spelling.errors():
            return self.learner.evaluate(*trials)

    def adopt(self, numbers, parameters=None):
        """Take over weights, by projection, and what else learns, by name."""
        self.learner.adopt(numbers, self.spelling.names(parameters or {}))

    def parameters(self):
        """The present values of what else learns, by name."""
        return self.spelling.named_back(self.learner.parameters())

    def arrays(self):
        """Everything that a checkpoint must hold: what it is, and the name of what it is of."""
        return keyed(self.learner.arrays(), self.spelling.back)

    def load(self, arrays):
        """Go on from what :meth:`arrays` gave."""
        self.learner.load(keyed(arrays, self.spelling.name))


def keyed(arrays, spell):
    """``arrays`` of a checkpoint, such as ``'value.rec.tau_mem'``, the names in their keys spelled otherwise."""
    parts = {key: key.partition(".") for key in arrays}
    return {f"{what}{dot}{spell(name)}": arrays[key] for key, (what, dot, name) in parts.items()}


def default_target(backend):
    """C++ where it can be compiled; else numpy, and a word about it."""
    if shutil.which("g++") and shutil.which("make"):
        return "cpp"
    if backend == "brian2":
        logger.warning("no g++ and make on the path: Brian2 runs with target 'numpy', which is slower")
    return "numpy"


def updates_per_block(example, counts, backend, alone=False):
    """How many updates run at a stretch: a divisor of all ``counts``, and few enough for the inputs to fit.

    One where each must run ``alone``.
    """
    if backend == "torch" or alone:
        return 1
    per_update = sum(int(np.prod(v.shape)) for v in example.inputs.values())
    common = math.gcd(*counts)
    fitting = [n for n in range(1, common + 1) if common % n == 0 and n * per_update <= BLOCK_NUMBERS]
    return max(fitting, default=1)
