"""Seeded trials: the same arrays for every backend."""

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from brian2.units.fundamentalunits import DIMENSIONLESS, Quantity, get_dimensions
from brian2.units.stdunits import Hz

from localplast.errors import LocalplastError, NetworkError

if TYPE_CHECKING:
    from localplast.network.network import Network

__all__ = ["Poisson", "Task", "Trials", "alike", "concatenate", "split"]

#: Stored samples, an array or what is indexed like one, and their labels.
Samples = tuple[Any, np.ndarray]


def as_array(what, value):
    """``value`` as an array, with its unit where it has one; raises where there are no real numbers in it."""
    try:
        array = value if isinstance(value, np.ndarray) else np.asarray(value)
    except (TypeError, ValueError) as error:
        raise NetworkError(f"{what} is no array of numbers ({error}); give each trial the same shape") from None
    if array.dtype.kind not in "biuf":
        raise NetworkError(f"{what} holds {array.dtype}; give an array of real numbers")
    return array


def check_finite_numbers(what, array):
    """Raise where an entry of ``array`` is not finite, and say which."""
    if array.dtype.kind == "f" and not np.all(fine := np.isfinite(array)):
        where = tuple(map(int, np.argwhere(~fine)[0]))
        raise NetworkError(f"{what} is {array[where]} at {where}; give finite numbers")


@dataclass(frozen=True, eq=False)
class Poisson:
    """Input spikes to be drawn while the network runs, one Bernoulli draw per step and channel.

    Parameters
    ----------
    rates : array ``(trial, segment, neuron)``
        In hertz, as numbers or with their unit; at most one spike per time step.
    segment : int
        Length of a segment, in steps.

    Brian2 draws inside its own code and Torch with numpy, so the spikes (not their statistics) differ.
    """

    rates: np.ndarray
    segment: int

    def __post_init__(self):
        rates = as_array("Poisson(rates)", self.rates)
        if get_dimensions(rates) not in (DIMENSIONLESS, Hz.dim) or rates.ndim != 3:
            raise NetworkError(
                f"Poisson(rates) of shape {rates.shape} needs (trial, segment, neuron), in hertz; given {rates!r:.100}"
            )
        if isinstance(self.segment, bool) or not isinstance(self.segment, (int, np.integer)) or self.segment < 1:
            raise NetworkError(
                f"Poisson(..., segment={self.segment!r}): give a positive whole number of steps, such as "
                "round(10*ms/dt)"
            )
        object.__setattr__(self, "rates", np.asarray(rates, float))

    def __len__(self) -> int:
        return len(self.rates)

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> "Poisson":
        return Poisson(self.rates[index], self.segment)

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(trial, time, neuron)``."""
        trials, segments, neurons = self.rates.shape
        return trials, segments * self.segment, neurons

    def draw(self, rng: np.random.Generator, dt: float) -> np.ndarray:
        """A bool raster ``(trial, time, neuron)``; ``dt`` in seconds."""
        probability = np.repeat(self.rates * dt, self.segment, axis=1)
        return rng.random(probability.shape) < probability

    def check(self, what: str, dt: float) -> None:
        """Raise where rates cannot be: not finite, negative, or above one spike per step of ``dt``, in seconds."""
        check_finite_numbers(f"the rate of {what}", self.rates)
        low, high = self.rates.min(initial=0.0), self.rates.max(initial=0.0)
        if low < 0 or high * dt > 1 + 1e-9:
            raise NetworkError(
                f"the rate of {what} is {low if low < 0 else high:g} Hz; in time steps of {dt * 1e3:g} ms rates lie "
                f"between 0 and {1 / dt:g} Hz: lower them, or shorten the time step"
            )


@dataclass(frozen=True, eq=False)
class Trials:
    """Some trials of a task.

    Parameters
    ----------
    inputs : dict of str to array ``(trial, time, neuron)`` or :class:`Poisson`
        For every :class:`~localplast.network.network.Input`: bool for spikes, float (SI) for currents.
    target : array, optional
        What the readout should do: class labels, int or bool ``(trial,)``, or a trajectory, float
        ``(trial, time, readout)``, with the unit of the readout's output or without. For cross entropy a trajectory
        holds the share of every class, and need not sum to one: a step of zeros has no label.
    weight : array ``(time,)``, optional
        How much each step counts in the loss, and in the choice that accuracy judges: 0 outside the window in which the
        readout is judged.
    """

    inputs: dict
    target: np.ndarray | None = None
    weight: np.ndarray | None = None

    def __post_init__(self):
        if not isinstance(self.inputs, dict) or not self.inputs:
            raise NetworkError(
                f"Trials(inputs) is a dict with an array for every Input of the network, not {self.inputs!r:.100}"
            )
        made = {k: v if isinstance(v, Poisson) else as_array(f"input {k!r}", v) for k, v in self.inputs.items()}
        for name, array in made.items():
            if len(array.shape) != 3:
                raise NetworkError(f"input {name!r} has shape {array.shape}; it needs (trial, time, neuron)")
        object.__setattr__(self, "inputs", made)
        for name in ("target", "weight"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, as_array(f"the {name}", getattr(self, name)))
        if self.target is not None and self.target.ndim == 1 and self.target.dtype == bool:
            object.__setattr__(self, "target", self.target.astype(int))  # as an index, bools would choose rows

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> "Trials":
        if isinstance(index, (int, np.integer)):
            index = slice(index, index + 1)
        target = None if self.target is None else self.target[index]
        return Trials({k: v[index] for k, v in self.inputs.items()}, target, self.weight)

    @property
    def steps(self) -> int:
        """Number of time steps of a trial."""
        return next(iter(self.inputs.values())).shape[1]

    def rasters(self, rng: np.random.Generator, dt: float) -> dict[str, np.ndarray]:
        """The inputs as arrays, drawing those given as rates; ``dt`` in seconds."""
        return {k: v.draw(rng, dt) if isinstance(v, Poisson) else v for k, v in self.inputs.items()}

    def without(self, names: Collection[str]) -> "Trials":
        """The same trials with some inputs silent: those of a teacher, where nobody listens to it."""
        return (
            replace(self, inputs={k: silent(v) if k in names else v for k, v in self.inputs.items()}) if names else self
        )

    def check(self, net: "Network") -> None:
        """Raise a :class:`NetworkError` where these trials do not fit the inputs of ``net``, or hold impossible
        numbers.
        """
        if set(self.inputs) != set(net.inputs):
            raise NetworkError(f"the trials give inputs {sorted(self.inputs)}; the network has {sorted(net.inputs)}")
        if not len(self) or not self.steps:
            raise NetworkError(f"there are {len(self)} trials of {self.steps} steps: at least one of each is needed")
        shape = (len(self), self.steps)
        for name, array in self.inputs.items():
            if tuple(array.shape) != (*shape, net.size(name)):
                raise NetworkError(
                    f"input {name!r} has shape {tuple(array.shape)}; (trial, time, neuron) is "
                    f"{(*shape, net.size(name))}"
                )
            check_input(name, net.inputs[name].kind, array, float(net.dt))
        self.check_weight()

    def check_weight(self) -> None:
        """Raise unless the weights of the steps are numbers that a step can count for."""
        if self.weight is None:
            return
        if self.weight.shape != (self.steps,):
            raise NetworkError(f"the weight of the steps has shape {self.weight.shape}; (time,) is {(self.steps,)}")
        check_finite_numbers("the weight of the steps", self.weight)
        if np.any(np.asarray(self.weight) < 0):
            raise NetworkError(
                f"the weight of a step is {np.min(self.weight)}; a step counts nothing (0) or more, never less"
            )

    def check_target(self, outputs: int) -> None:
        """Raise unless the target is one label per trial, below ``outputs``, or a trajectory of each output."""
        target = self.target
        if target is None:
            raise NetworkError(
                "these trials have no target, so nothing can be learned from them: give Trials(..., target=...)"
            )
        labels, trajectory = (len(self),), (len(self), self.steps, outputs)
        if target.shape not in (labels, trajectory):
            raise NetworkError(
                f"the target has shape {target.shape}; give one label per trial, (trial,) = {labels}, or a trajectory, "
                f"(trial, time, readout) = {trajectory}"
            )
        check_finite_numbers("the target", target)
        if target.ndim > 1:
            return
        if target.dtype.kind not in "iu":
            raise NetworkError(
                f"the labels of a target are {target.dtype}; whole numbers are needed: give target.astype(int)"
            )
        if target.min() < 0 or target.max() >= outputs:
            wrong = target.min() if target.min() < 0 else target.max()
            raise NetworkError(
                f"the target holds the label {wrong}; with {outputs} readouts labels go from 0 to {outputs - 1}"
            )


def silent(array):
    """The same input without anything in it."""
    return Poisson(np.zeros_like(array.rates), array.segment) if isinstance(array, Poisson) else np.zeros_like(array)


def check_input(name, kind, array, dt):
    """Raise unless this is what an input of that kind carries: spikes as bools or rates, currents as finite floats."""
    drawn = isinstance(array, Poisson)
    if kind == "spikes" and not drawn and array.dtype != bool:
        raise NetworkError(f"input {name!r} carries spikes: give a bool raster, not {array.dtype}")
    if kind == "currents" and (drawn or array.dtype.kind != "f"):
        raise NetworkError(
            f"input {name!r} carries currents: give a float array, not {'Poisson' if drawn else array.dtype}"
        )
    if drawn:
        array.check(f"input {name!r}", dt)
        return
    if isinstance(array, Quantity) and get_dimensions(array) is not DIMENSIONLESS:
        raise NetworkError(f"input {name!r} has a unit; the weights of its projections have it: give the numbers alone")
    check_finite_numbers(f"input {name!r}", array)


@dataclass(frozen=True)
class Task:
    """An endless seeded stream of training trials, and test trials.

    Parameters
    ----------
    name : str
    training : callable ``(update, batch, seed) -> Trials``
        The trials of update number ``update``; a pure function, so that a run resumes where it stopped.
    testing : callable ``(n, seed) -> Trials``
        ``n`` trials never used in training.
    validation : Task, optional
        The task to tune learning rates on: its test trials are none of ``testing``, and it does not train on them. None
        where what is tested is what was learned, a frozen pattern.
    meta : dict
        What else there is to say of it: ``settings``, text that its records repeat, and what a protocol needs.
    anew : callable ``(n, seed, number) -> Trials``, optional
        As ``testing``, other trials for every ``number``, a pair of whole numbers of which the first is not 0; None
        where there are no others.
    """

    name: str
    training: Callable
    testing: Callable
    meta: dict = field(default_factory=dict)
    validation: "Task | None" = None
    anew: Callable | None = None

    @property
    def attrs(self) -> dict[str, str]:
        """What records repeat of it: its ``settings``, where it has any."""
        return {key: self.meta[key] for key in ("settings",) if key in self.meta}

    @classmethod
    def generated(cls, name: str, generate: Callable[[np.random.Generator, int], Trials]) -> "Task":
        """A task whose trials are drawn by ``generate(rng, n) -> Trials``; test and validation trials come from other
        streams.
        """
        return cls.drawn(name, lambda rng, n, seed: generate(rng, n))

    @classmethod
    def drawn(
        cls,
        name: str,
        draw: Callable[[np.random.Generator, int, int], Trials],
        test: Callable[[np.random.Generator, int, int], Trials] | None = None,
    ) -> "Task":
        """As :meth:`generated`, by ``draw(rng, n, seed)``; what is tested by ``test`` of the same arguments where it
        differs.
        """

        def training(update, batch, seed):
            return draw(np.random.default_rng([seed, 0, update]), batch, seed)

        def stream(number):
            def testing(n, seed, more=()):
                return (test or draw)(np.random.default_rng([seed, number, *more]), n, seed)

            return {"testing": testing, "anew": testing}

        return cls(name, training, **stream(1), validation=cls(name, training, **stream(11)))

    @classmethod
    def dataset(
        cls,
        name: str,
        train: Samples,
        test: Samples,
        present: Callable[..., Trials],
        *,
        learned: int | None = None,
        held: int | Samples | None = None,
    ) -> "Task":
        """A task over stored samples.

        ``train`` and ``test`` are pairs ``(samples, labels)``; ``present(samples, labels, rng) -> Trials``.
        Every epoch goes through all training samples in a new order; a batch may straddle two epochs.

        Other arguments
        ---------------
        learned : int, optional
            Of the training samples the first so many are learned from; default all.
        held : int or pair, optional
            What ``validation`` tests: so many of the last training samples, which it does not learn from (default a
            tenth of all), or samples of their own.
        """
        samples, labels = train
        held = len(labels) // 10 if held is None else held
        end = len(labels)
        if isinstance(held, int):
            end, held = end - held, (samples[-held:], labels[-held:])
        validation = cls.stored(name, (samples[:end][:learned], labels[:end][:learned]), held, present)
        return replace(cls.stored(name, (samples[:learned], labels[:learned]), test, present), validation=validation)

    @classmethod
    def stored(cls, name: str, train: Samples, test: Samples, present: Callable[..., Trials]) -> "Task":
        """A task over stored samples, without a validation."""
        samples, labels = train

        def training(update, batch, seed):
            position = np.arange(update * batch, (update + 1) * batch)
            epochs = {
                e: np.random.default_rng([seed, 2, e]).permutation(len(labels)) for e in set(position // len(labels))
            }
            chosen = np.array([epochs[p // len(labels)][p % len(labels)] for p in position])
            return present(samples[chosen], labels[chosen], np.random.default_rng([seed, 0, update]))

        def testing(n, seed):
            return present(test[0][:n], test[1][:n], np.random.default_rng([seed, 1]))

        return cls(name, training, testing)


def split(trials: Trials, size: int) -> list[Trials]:
    return [trials[start : start + size] for start in range(0, len(trials), size)]


def concatenate(parts: Sequence[Trials]) -> Trials:
    """Several batches of trials as one."""
    if len(parts) == 1:
        return parts[0]
    if any(not np.array_equal(part.weight, parts[0].weight) for part in parts):
        raise LocalplastError(
            "the weight of the steps differs between updates of this task; it must be the same for all trials"
        )
    inputs = {}
    for name, first in parts[0].inputs.items():
        arrays = [part.inputs[name] for part in parts]
        if isinstance(first, Poisson):
            inputs[name] = Poisson(np.concatenate([a.rates for a in arrays]), first.segment)
        else:
            inputs[name] = np.concatenate(arrays)
    return Trials(inputs, np.concatenate([part.target for part in parts]), parts[0].weight)


def alike(parts: Sequence[Trials]) -> list[Trials]:
    """Batches of trials in their order, those in a row joined that have one form: length, weights of steps, target."""
    return [concatenate(list(row)) for _, row in itertools.groupby(parts, form)]


def form(trials: Trials) -> tuple:
    """What trials have in common that can be presented in one go."""
    segments = {name: a.segment for name, a in trials.inputs.items() if isinstance(a, Poisson)}
    weight = None if trials.weight is None else trials.weight.tobytes()
    return trials.steps, segments, weight, np.ndim(trials.target)
