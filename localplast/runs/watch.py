"""What a run watches while it learns, and what it does then: rates that fall on a plateau, an end where it is good, the
best that is kept.

What is watched are validation trials unless told otherwise. A run that watches these learns from what
:attr:`localplast.task.Task.validation` learns from, which holds them back; its tests are the task's own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from localplast.arguments import as_number, check_choice, check_whole, presented
from localplast.errors import LocalplastError
from localplast.runs.kept import Kept
from localplast.task.trials import Trials

if TYPE_CHECKING:
    from localplast.runs.fit import Fit

__all__ = ["Best", "Plateau", "Stop", "Watch", "Watched", "check_watch", "source"]

#: Whose test trials are watched.
OF = ("validation", "test")


@dataclass(frozen=True)
class Watched:
    """What a run has seen so far, and what came of it.

    Attributes
    ----------
    best : float, optional
        The smallest loss so far of which a :class:`Plateau` knows.
    worse : int
        Looks since then, or since rates fell.
    factor : float
        On the learning rates.
    stopped : bool
    kept : Kept, optional
        The numbers of the best look so far, by a :class:`Best`.
    """

    best: float | None = None
    worse: int = 0
    factor: float = 1.0
    stopped: bool = False
    kept: Kept | None = None

    @property
    def encoded(self) -> dict:
        """As data of a checkpoint; what is kept goes among its arrays."""
        return {name: value for name, value in vars(self).items() if name != "kept"}

    @classmethod
    def decoded(cls, path: object, data: Any, kept: Kept | None = None) -> "Watched":
        """From the checkpoint at ``path``; raises where that says something else."""
        kinds = {"best": (float, type(None)), "worse": (int,), "factor": (float,), "stopped": (bool,)}
        whole = isinstance(data, dict) and data.keys() == kinds.keys()
        if not whole or any(type(data[n]) not in kind for n, kind in kinds.items()) or not 0 < data["factor"] <= 1:
            raise LocalplastError(f"{path} does not say what its run has watched; it is damaged: start anew")
        return cls(**data, kept=kept)


class OnSchedule:
    """What looks as often as a run is tested, and at as many trials, where it does not say otherwise."""

    every: int | None
    trials: int | None
    of: str

    def scheduled(self, test: int, test_every: int | None) -> Self:
        """With what it does not say taken from the tests of a run."""
        name = type(self).__name__
        if not (self.every or test_every):
            raise LocalplastError(
                f"a {name} looks after every so many updates: give test_every=, or every=, as in {name}(every=10)"
            )
        if not (self.trials or test):
            raise LocalplastError(f"a {name} looks at trials: give test=, or trials=, as in {name}(trials=200)")
        return replace(self, every=self.every or test_every)  # type: ignore[type-var]

    def shown(self, fit: "Fit") -> Trials:
        """The trials that are looked at."""
        task = of_whom(fit.task, self.of)
        if self.trials is None:  # stored validation trials may be fewer than are tested
            return task.testing(fit.test, fit.seed)
        return presented(task, "testing", self.trials, self.trials, fit.seed)


@dataclass(frozen=True, kw_only=True)
class Plateau(OnSchedule):
    """Learning rates that fall where a loss has stopped falling, as ``torch.optim.lr_scheduler.ReduceLROnPlateau``.

    After more than ``patience`` looks in turn at which the loss was not below its best by a relative ``threshold``
    all learning rates are multiplied by ``factor``. Untrained weights are not looked at. The record has
    ``plateau_loss`` and ``plateau_factor`` among its metrics.

    Parameters
    ----------
    patience : int
    factor, threshold : float
    every : int, optional
        Updates from look to look; default: as ``test_every``.
    trials : int, optional
        That are looked at; default: as many as are tested, or all there are.
    of : str
        ``'validation'``, or ``'test'``: what a run is judged by afterwards, which some authors watch. It is not clean.
    """

    patience: int = 2
    factor: float = 0.5
    threshold: float = 1e-4
    every: int | None = None
    trials: int | None = None
    of: str = "validation"

    def __post_init__(self):
        check_whole("patience of a Plateau", self.patience)
        for name, above in {"factor": True, "threshold": False}.items():
            if not as_number(f"{name} of a Plateau", getattr(self, name), 0, above=above) < 1:
                raise LocalplastError(f"{name} of a Plateau is a share below 1; given {getattr(self, name)!r}")
        check_look(self)

    @property
    def label(self) -> str:
        """What it does, in words."""
        return f"times {self.factor:g} on plateaus of the {self.of} loss"

    def check(self, fit: "Fit") -> None:
        """Raise where the optimiser of ``fit`` cannot follow, or there are not as many trials."""
        fit.optimiser.scaled(self.factor)
        self.shown(fit)

    def look(self, fit: "Fit", update: int, tested: dict) -> tuple[dict, Watched]:
        """What ``fit`` sees after an update, at whose test it has ``tested`` this, as metrics, and what comes of it."""
        known = self.of == "test" and self.trials in (None, fit.test)
        loss = tested["test_loss"] if known and tested else fit.judged(self.shown(fit))["loss"]
        after = self.after(fit.watched, loss)
        return {"plateau_loss": loss, "plateau_factor": after.factor}, after

    def after(self, watched: Watched, loss: float) -> Watched:
        """What comes of one more loss."""
        best = math.inf if watched.best is None else watched.best
        if loss < best * (1 - self.threshold):
            return replace(watched, best=loss, worse=0)
        if watched.worse < self.patience:
            return replace(watched, worse=watched.worse + 1)
        return replace(watched, worse=0, factor=watched.factor * self.factor)


@dataclass(frozen=True, kw_only=True)
class Stop:
    """A run that ends where it is good enough.

    After ``every`` so many updates it looks at one batch of trials, and where its error, or loss, is below the limit at
    ``more`` such batches: where their mean is below it, too, the run ends, and is tested. Trials are new ones at every
    look where the task draws them; of stored samples they are always the same. The record has ``stop_error`` (or
    ``stop_loss``) and ``stop_mean`` among its metrics.

    Parameters
    ----------
    error : float, optional
        Share of trials that are named wrongly.
    loss : float, optional
        Give one of the two.
    every, more : int
    trials : int, optional
        Of a batch; default: as in an update.
    of : str
        ``'validation'`` or ``'test'``.

    The defaults are those of Bellec et al. 2020, Nat Commun 11:3625 (authors' code), with ``error=0.07``.
    """

    error: float | None = None
    loss: float | None = None
    every: int = 10
    more: int = 8
    trials: int | None = None
    of: str = "validation"

    def __post_init__(self):
        if (self.error is None) == (self.loss is None):
            raise LocalplastError("a Stop needs one of error= and loss=, as in Stop(error=0.07)")
        if self.error is not None:
            as_number("error of a Stop", self.error, 0, 1, above=True)
        else:
            as_number("loss of a Stop", self.loss)
        check_whole("more of a Stop", self.more)
        check_look(self)

    @property
    def what(self) -> str:
        """What is watched."""
        return "loss" if self.error is None else "error"

    @property
    def label(self) -> str:
        """What it does, in words."""
        return f"until the {self.of} {self.what} is below {getattr(self, self.what):g}"

    def scheduled(self, test: int, test_every: int | None) -> "Stop":
        """Itself: it says all."""
        return self

    def check(self, fit: "Fit") -> None:
        """Raise where ``fit`` has no error to watch, or not as many trials."""
        n, stored = self.trials or fit.batch, not of_whom(fit.task, self.of).anew
        found = self.shown(fit, 1, 0, n * (1 + self.more) if stored else 1)
        if self.error is not None:
            check_labels(fit.task, found, "Stop(loss=...)")

    def look(self, fit: "Fit", update: int, tested: dict) -> tuple[dict, Watched]:
        """What ``fit`` sees after an update, as metrics, and what comes of it."""
        n = self.trials or fit.batch
        found = {f"stop_{self.what}": self.value(fit.judged(self.shown(fit, update, 0, n)))}
        good = found[f"stop_{self.what}"] < getattr(self, self.what)
        if good and self.more:
            found["stop_mean"] = self.value(fit.judged(self.shown(fit, update, n, self.more * n)))
            good = found["stop_mean"] < getattr(self, self.what)
        return found, replace(fit.watched, stopped=good)

    def value(self, metrics: dict) -> float:
        """What is watched of some metrics."""
        return metrics["loss"] if self.error is None else 1 - metrics["accuracy"]

    def shown(self, fit: "Fit", update: int, first: int, n: int) -> Trials:
        """Trials ``first`` to ``first + n`` of those looked at after an update."""
        task = of_whom(fit.task, self.of)
        if task.anew:
            return presented(task, "anew", n, n, fit.seed, (update, first))
        return presented(task, "testing", first + n, first + n, fit.seed)[first:]


@dataclass(frozen=True, kw_only=True)
class Best(OnSchedule):
    """A run that keeps the numbers with which its validation was best, and goes on learning from its last ones.

    After ``every`` so many updates it looks; where the accuracy is above, or the loss below, that of all looks before,
    weights and all else that learns are kept. From the first look on tests are of what is kept, and so are the numbers
    in the record, whatever ends the run; without this they are the last ones. Untrained weights are not looked at. The
    record has what is seen (``best_look``) and the update of the numbers that are kept (``best_update``) among its
    metrics.

    Parameters
    ----------
    by : str
        ``'accuracy'`` or ``'loss'``. Of two looks that are alike the first one stays.
    every : int, optional
        Updates from look to look; default: as ``test_every``.
    trials : int, optional
        That are looked at; default: as many as are tested, or all there are.
    of : str
        ``'validation'``, or ``'test'``: then the best is chosen by what it is judged by, and is not clean.
    """

    by: str = "accuracy"
    every: int | None = None
    trials: int | None = None
    of: str = "validation"

    def __post_init__(self):
        check_choice("by= of a Best", self.by, ("accuracy", "loss"))
        check_look(self)

    @property
    def label(self) -> str:
        """What it does, in words."""
        return f"keeps the best {self.of} {self.by}"

    def check(self, fit: "Fit") -> None:
        """Raise where ``fit`` has no accuracy to watch, or not as many trials."""
        found = self.shown(fit)
        if self.by == "accuracy":
            check_labels(fit.task, found, "Best(by='loss')")

    def look(self, fit: "Fit", update: int, tested: dict) -> tuple[dict, Watched]:
        """What ``fit`` sees after an update, as metrics, and what comes of it."""
        seen, kept = fit.judged(self.shown(fit))[self.by], fit.watched.kept
        score = seen if self.by == "accuracy" else -seen
        if not math.isnan(score) and (kept is None or score > kept.score):
            kept = Kept(score, update, fit.learner.numbers(), fit.learner.parameters())
        at = {"best_update": kept.update} if kept else {}
        return {"best_look": seen, **at}, replace(fit.watched, kept=kept)


#: One of each kind at most can be watched.
KINDS = (Plateau, Stop, Best)
Watch = Plateau | Stop | Best


def check_look(how):
    """Raise unless these say how often is looked, and at what."""
    for name in ("every", "trials"):
        if getattr(how, name) is not None:
            check_whole(f"{name} of a {type(how).__name__}", getattr(how, name), 1)
    check_choice(f"of= of a {type(how).__name__}", how.of, OF)


def check_watch(watch: Watch | Sequence[Watch]) -> tuple[Watch, ...]:
    """What shall be watched as a tuple; raises unless it is one of each kind at most."""
    every = (watch,) if isinstance(watch, KINDS) else watch
    if not isinstance(every, (tuple, list)) or not all(isinstance(each, KINDS) for each in every):
        raise LocalplastError(
            "watch= is Plateau(...), Stop(...), Best(...), or a list of these, such as "
            f"[Plateau(patience=2), Stop(error=0.07)]; given {watch!r:.80}"
        )
    if len({type(each) for each in every}) < len(every):
        raise LocalplastError("watch= holds the same twice; give one Plateau, one Stop and one Best at most")
    return tuple(every)


def check_labels(task, trials, instead):
    """Raise unless ``trials`` of a task can be named rightly or wrongly."""
    if np.ndim(trials.target) != 1 or not judged(trials):
        raise LocalplastError(
            f"task {task.name!r} has no labels by which its trials are right or wrong; watch their loss: {instead}"
        )


def of_whom(task, of):
    """The task whose test trials are watched; raises where there is none."""
    if of == "validation" and task.validation is None:
        raise LocalplastError(
            f"task {task.name!r} has no validation trials to watch: give Task(..., validation=...), or watch its test "
            "trials: of='test'"
        )
    return task if of == "test" else task.validation


def source(task, watch):
    """The task that is learned from: where validation trials are watched, that which holds them back."""
    held = [each for each in watch if each.of == "validation"]
    return of_whom(task, held[0].of) if held else task


def judged(trials):
    """Whether some step of these trials counts."""
    return trials.weight is None or bool(np.any(trials.weight))
