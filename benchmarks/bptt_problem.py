"""The networks and inputs that all libraries share, and the training step that all Torch libraries share."""

from dataclasses import dataclass

import numpy as np

__all__ = ["ALPHA", "PROBLEMS", "RATE", "WINDOW", "Problem", "torch_threads", "trainer"]

#: Decay of membranes and readout in one step: 20 ms at 1 ms. The loss looks at the last WINDOW steps.
ALPHA, WINDOW, RATE = float(np.exp(-1 / 20)), 150, 1e-4


@dataclass(frozen=True)
class Problem:
    """``sizes`` of input, hidden layers and readout; ``spread``: std of weights times sqrt(pre), by layer."""

    sizes: tuple
    spread: tuple
    recurrent: bool
    batch: int
    rate: float
    steps: int

    def weights(self):
        """Feed-forward weights ``(pre, post)`` by layer, and the recurrent ones ``(pre, post)`` or None."""
        rng = np.random.default_rng(0)
        pairs = zip(self.sizes, self.sizes[1:], self.spread, strict=False)
        layers = [(s / np.sqrt(n) * rng.standard_normal((n, m))).astype(np.float32) for n, m, s in pairs]
        n = self.sizes[1]
        square = (rng.standard_normal((n, n)) / np.sqrt(n)).astype(np.float32)
        np.fill_diagonal(square, 0)
        return layers, square if self.recurrent else None

    def data(self):
        """Input bool ``(time, trial, channel)`` and labels ``(trial,)``."""
        rng = np.random.default_rng(1)
        spikes = rng.random((self.steps, self.batch, self.sizes[0]), np.float32) < self.rate
        return spikes, rng.integers(0, self.sizes[-1], self.batch)


PROBLEMS = {
    "W1": Problem((40, 100, 2), (1.0, 1.0), recurrent=True, batch=64, rate=0.04, steps=2250),
    "W2": Problem((784, 512, 512, 10), (1.5, 2.0, 1.0), recurrent=False, batch=128, rate=0.1, steps=100),
}


def trainer(problem, parameters, forward, *, dtype=None):
    """A training step in Torch; ``forward(x)`` gives the readout, ``(time, trial, readout)`` or a list over time."""
    import torch

    torch.set_flush_denormal(True)
    spikes, labels = problem.data()
    x, labels = torch.as_tensor(spikes).to(dtype or torch.float32), torch.as_tensor(labels)
    optimiser = torch.optim.Adam(list(parameters), RATE)

    def step():
        optimiser.zero_grad()
        window = forward(x)[-WINDOW:]
        window = window if torch.is_tensor(window) else torch.stack(window)
        loss = torch.nn.functional.cross_entropy(window.flatten(0, 1), labels.repeat(len(window)))
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


def torch_threads(threads):
    import torch

    torch.set_num_threads(threads)
    return torch
