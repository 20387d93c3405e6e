"""A learning protocol: a task with the network, loss, optimiser and schedule that go with it, and published numbers."""

from collections.abc import Callable
from dataclasses import dataclass, field

from localplast.loss import Loss
from localplast.network import Network
from localplast.task import Task

__all__ = ["Preset", "Protocol"]


@dataclass(frozen=True)
class Preset:
    """One size of a protocol.

    Parameters
    ----------
    network : Network
    task : Task
    loss : Loss
    learning_rate : float
        Of Adam, the same for every rule that is compared.
    batch : int
        Trials per update.
    updates : int
    test : int
        Number of test trials.
    hidden : str
        Name of the population whose incoming weights the alignment is reported for.
    feedback_std : float
        Standard deviation of random feedback, near that of the readout's weights.
    """

    network: Network
    task: Task
    loss: Loss
    learning_rate: float
    batch: int
    updates: int
    test: int
    hidden: str
    feedback_std: float = 1.0


@dataclass(frozen=True)
class Protocol:
    """A named protocol; ``presets`` maps ``'quick'`` and ``'paper'`` to functions that build a :class:`Preset`."""

    name: str
    summary: str
    reference: str
    presets: dict[str, Callable[[], Preset]]
    published: dict[str, str] = field(default_factory=dict)
