"""The numbers of a network: what every backend starts from."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from localplast.network.network import Network

__all__ = ["Values"]


@dataclass(frozen=True)
class Values:
    """The numbers of one network for one seed, in SI units: every backend starts from these.

    Attributes
    ----------
    weights : dict of str to array ``(pre, post)``, or the shape of a kernel (:mod:`localplast.network.convolution`)
    masks : dict of str to bool array of the same shape
    delays : dict of str to float array in steps, shape ``()``, ``(pre,)``, ``(post,)`` or ``(pre, post)``
    parameters : dict of population name to dict of parameter name to float array, shape ``()`` or ``(neuron,)``
    """

    weights: dict
    masks: dict
    delays: dict
    parameters: dict

    def other(self, name: str) -> np.ndarray:
        """The value of ``'rec.tau_mem'`` or ``'rec_rec.delay'``."""
        owner, key = name.split(".")
        return self.parameters[owner][key] if owner in self.parameters else self.delays[owner]

    def replace_weights(
        self, weights: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray] | None = None
    ) -> "Values":
        """The same numbers with other weights, and other values of what else learns (``'rec.tau_mem'``,
        ``'rec_rec.delay'``).
        """
        delays, parameters = dict(self.delays), {name: dict(values) for name, values in self.parameters.items()}
        for name, value in (others or {}).items():
            owner, key = name.split(".")
            if owner in parameters:
                parameters[owner][key] = value
            else:
                delays[owner] = value
        return replace(self, weights={**self.weights, **weights}, delays=delays, parameters=parameters)

    def rounded(self, net: "Network") -> "Values":
        """The same numbers with the delays that learn rounded to whole steps (half up): what is tested."""
        whole = {name: np.floor(np.asarray(self.delays[name]) + 0.5) for name in net.learned_delays}
        return replace(self, delays={**self.delays, **whole})
