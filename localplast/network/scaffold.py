"""Growth of a sparse scaffold of fixed synapses, which gives neurons that no teacher reaches something to predict.

Kriener et al. 2024, arXiv:2402.16763 (ELiSe), methods.
"""

from collections import deque
from itertools import count

import numpy as np

from localplast.errors import NetworkError

__all__ = ["grow"]


def grow(
    rng: np.random.Generator, visible: int, latent: int, *, p: float = 0.2, q: float = 0.15, p0: float = 0.04
) -> np.ndarray:
    """Let ``visible`` neurons connect to ``latent`` ones, and those that they reach to others, until nobody connects
    any more.

    A neuron makes its first connection with probability ``1 - p0`` and, having made n, another one with probability
    ``p**n``. It goes to another latent neuron, drawn in proportion to ``q**(connections it has received)``. A latent
    neuron looks for targets once it has been reached, in the order in which they were.

    Parameters
    ----------
    rng : numpy.random.Generator
    visible, latent : int

    Other arguments
    ---------------
    p, q, p0 : float
        From 0 to 1: many targets per neuron, many sources per neuron, neurons that connect to nobody.

    Returns
    -------
    bool array ``(pre, post)``
        Visible neurons first. Nothing reaches them; no autapses.

    Raises
    ------
    NetworkError
        Sizes or probabilities that mean nothing.
    """
    check(visible, latent, p=p, q=q, p0=p0)
    size = visible + latent
    scaffold, received = np.zeros((size, size), bool), np.zeros(size)
    looking = deque(range(visible))
    while looking:
        pre = looking.popleft()
        for made in count():
            chances = q**received * ~scaffold[pre] * (np.arange(size) >= visible) * (np.arange(size) != pre)
            if rng.random() >= (p**made if made else 1 - p0) or not chances.any():
                break
            post = rng.choice(size, p=chances / chances.sum())
            if not received[post]:
                looking.append(int(post))
            scaffold[pre, post] = True
            received[post] += 1
    return scaffold


def check(visible: int, latent: int, **probabilities: float) -> None:
    for name, number in {"visible": visible, "latent": latent}.items():
        if not isinstance(number, (int, np.integer)) or number < 1:
            raise NetworkError(
                f"a scaffold between {name}={number!r} neurons cannot grow; give a positive whole number"
            )
    for name, value in probabilities.items():
        if not 0 <= value <= 1:
            raise NetworkError(f"scaffold: {name}={value!r} is not a probability; give a number from 0 to 1")
