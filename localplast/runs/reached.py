"""Where a run stands between two blocks, and where that is kept."""

from dataclasses import dataclass, field

from localplast.runs.identity import check_state
from localplast.runs.kept import Kept
from localplast.runs.lock import beside
from localplast.runs.store import load_checkpoint
from localplast.runs.watch import Watched

__all__ = ["Reached", "checkpoint_of", "reached", "read_checkpoint", "saved_in"]


@dataclass(frozen=True, eq=False)
class Reached:
    """Where a run stands between two blocks.

    Attributes
    ----------
    arrays : dict of str to array
        What the learner needs to go on.
    done : int
        Updates.
    seconds : float
        Of learning.
    rows : dict of str to int
        How much of each variable the record has.
    watched : Watched
    """

    arrays: dict = field(default_factory=dict)
    done: int = 0
    seconds: float = 0.0
    rows: dict = field(default_factory=dict)
    watched: Watched = Watched()


def reached(path):
    """Where the run at ``path`` stands by its checkpoint; at the beginning, where there is none."""
    return read_checkpoint(path)[0] if path and checkpoint_of(path).exists() else Reached()


def read_checkpoint(path):
    """The :class:`Reached` of the run at ``path``, and what else its checkpoint says."""
    arrays, state = load_checkpoint(checkpoint_of(path))
    check_state(checkpoint_of(path), state)
    kept, arrays = Kept.taken(arrays)
    watched = Watched.decoded(checkpoint_of(path), state.pop("watched", Watched().encoded), kept)
    return Reached(arrays, state.pop("done"), state.pop("seconds"), state.pop("position"), watched), state


def saved_in(path):
    """What to tell somebody who stopped a run."""
    if not path:
        return "without path= nothing is saved"
    return f"what was learned is saved in {path}: go on with --resume (resume=True)"


def checkpoint_of(path):
    """Where the checkpoint of the record at ``path`` stands."""
    return beside(path, ".checkpoint.npz")
