"""What a run keeps of the numbers that it had on its way."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

__all__ = ["Kept"]

#: What its arrays are called in a checkpoint, beside those of the learner.
PREFIX = "kept."


@dataclass(frozen=True, eq=False)
class Kept:
    """The numbers after the update at which a look was best.

    Attributes
    ----------
    score : float
        Of that look: the higher the better.
    update : int
    weights : dict of str to array
        By projection.
    parameters : dict of str to array
        What else learns, by name.
    """

    score: float
    update: int
    weights: dict
    parameters: dict

    @property
    def arrays(self) -> dict:
        """As arrays of a checkpoint."""
        found = {f"weight.{name}": weight for name, weight in self.weights.items()}
        found |= {f"value.{name}": value for name, value in self.parameters.items()}
        found |= {"score": np.array(float(self.score)), "update": np.array(self.update)}
        return {PREFIX + name: np.asarray(array) for name, array in found.items()}

    @classmethod
    def taken(cls, arrays: Mapping) -> tuple["Kept | None", dict]:
        """Those among the ``arrays`` of a checkpoint, and all others; None where nothing was kept."""
        others = {name: array for name, array in arrays.items() if not name.startswith(PREFIX)}
        own = {name.removeprefix(PREFIX): array for name, array in arrays.items() if name not in others}
        if not {"score", "update"} <= own.keys():
            return None, {**others, **{PREFIX + name: array for name, array in own.items()}}
        score, update = float(own.pop("score")), int(own.pop("update"))
        parts = [{n.removeprefix(p): x for n, x in own.items() if n.startswith(p)} for p in ("weight.", "value.")]
        return cls(score, update, *parts), others
