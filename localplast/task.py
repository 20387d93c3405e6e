"""Seeded trials: the same arrays for every backend."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from localplast.errors import NetworkError

__all__ = ["Poisson", "Task", "Trials"]


@dataclass(frozen=True, eq=False)
class Poisson:
    """Input spikes to be drawn while the network runs, one Bernoulli draw per step and channel.

    Parameters
    ----------
    rates : array ``(trial, segment, neuron)``
        In hertz.
    segment : int
        Length of a segment, in steps.

    Brian2 draws inside its own code and Torch with numpy, so the spikes (not their statistics) differ.
    """

    rates: np.ndarray
    segment: int

    def __len__(self):
        return len(self.rates)

    def __getitem__(self, index):
        return Poisson(self.rates[index], self.segment)

    @property
    def shape(self):
        """``(trial, time, neuron)``."""
        trials, segments, neurons = self.rates.shape
        return trials, segments * self.segment, neurons

    def draw(self, rng, dt):
        """A bool raster ``(trial, time, neuron)``; ``dt`` in seconds."""
        probability = np.repeat(self.rates * dt, self.segment, axis=1)
        return rng.random(probability.shape) < probability


@dataclass(frozen=True, eq=False)
class Trials:
    """Some trials of a task.

    Parameters
    ----------
    inputs : dict of str to array ``(trial, time, neuron)`` or :class:`Poisson`
        For every :class:`~localplast.network.Input`: bool for spikes, float (SI) for currents.
    target : array, optional
        What the readout should do: class labels, int ``(trial,)``, or a trajectory, float ``(trial, time, readout)``.
    weight : array ``(time,)``, optional
        How much each step counts in the loss: 0 outside the window in which the readout is judged.
    """

    inputs: dict
    target: np.ndarray | None = None
    weight: np.ndarray | None = None

    def __len__(self):
        return len(next(iter(self.inputs.values())))

    def __getitem__(self, index):
        if isinstance(index, (int, np.integer)):
            index = slice(index, index + 1)
        target = None if self.target is None else self.target[index]
        return Trials({k: v[index] for k, v in self.inputs.items()}, target, self.weight)

    @property
    def steps(self):
        """Number of time steps of a trial."""
        return next(iter(self.inputs.values())).shape[1]

    def rasters(self, rng, dt):
        """The inputs as arrays, drawing those given as rates; ``dt`` in seconds."""
        return {k: v.draw(rng, dt) if isinstance(v, Poisson) else v for k, v in self.inputs.items()}

    def without(self, names):
        """The same trials with some inputs silent: those of a teacher, where nobody listens to it."""
        return replace(self, inputs={k: np.zeros_like(v) if k in names else v for k, v in self.inputs.items()}) if names else self

    def check(self, net):
        """Raise a :class:`NetworkError` where these trials do not fit the inputs of ``net``."""
        if set(self.inputs) != set(net.inputs):
            raise NetworkError(f"the trials give inputs {sorted(self.inputs)}; the network has {sorted(net.inputs)}")
        shape = (len(self), self.steps)
        for name, array in self.inputs.items():
            if tuple(array.shape) != (*shape, net.size(name)):
                raise NetworkError(
                    f"input {name!r} has shape {tuple(array.shape)}; (trial, time, neuron) is {(*shape, net.size(name))}"
                )
            drawn = isinstance(array, Poisson)
            if net.inputs[name].kind == "spikes" and not drawn and array.dtype != bool:
                raise NetworkError(f"input {name!r} carries spikes: give a bool raster, not {array.dtype}")
            if net.inputs[name].kind == "currents" and (drawn or array.dtype.kind != "f"):
                raise NetworkError(f"input {name!r} carries currents: give a float array")
        if self.weight is not None and np.shape(self.weight) != (self.steps,):
            raise NetworkError(f"the weight of the steps has shape {np.shape(self.weight)}; (time,) is {(self.steps,)}")


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
    """

    name: str
    training: Callable
    testing: Callable
    meta: dict = field(default_factory=dict)
    validation: "Task | None" = None

    @classmethod
    def generated(cls, name, generate):
        """A task whose trials are drawn by ``generate(rng, n) -> Trials``; test and validation trials come from other streams."""
        return cls.drawn(name, lambda rng, n, seed: generate(rng, n))

    @classmethod
    def drawn(cls, name, draw, test=None):
        """As :meth:`generated`, by ``draw(rng, n, seed)``; what is tested by ``test`` of the same arguments where it differs."""
        def training(update, batch, seed):
            return draw(np.random.default_rng([seed, 0, update]), batch, seed)

        def stream(number):
            return lambda n, seed: (test or draw)(np.random.default_rng([seed, number]), n, seed)

        return cls(name, training, stream(1), validation=cls(name, training, stream(11)))

    @classmethod
    def dataset(cls, name, train, test, present, *, learned=None, held=None):
        """A task over stored samples.

        ``train`` and ``test`` are pairs ``(samples, labels)``; ``present(samples, labels, rng) -> Trials``.
        Every epoch goes through all training samples in a new order; a batch may straddle two epochs.

        Other arguments
        ---------------
        learned : int, optional
            Of the training samples the first so many are learned from; default all.
        held : int or pair, optional
            What ``validation`` tests: so many of the last training samples, which it does not learn from (default a tenth
            of all), or samples of their own.
        """
        samples, labels = train
        held = len(labels) // 10 if held is None else held
        end = len(labels)
        if isinstance(held, int):
            end, held = end - held, (samples[-held:], labels[-held:])
        validation = cls.stored(name, (samples[:end][:learned], labels[:end][:learned]), held, present)
        return replace(cls.stored(name, (samples[:learned], labels[:learned]), test, present), validation=validation)

    @classmethod
    def stored(cls, name, train, test, present):
        """A task over stored samples, without a validation."""
        samples, labels = train

        def training(update, batch, seed):
            position = np.arange(update * batch, (update + 1) * batch)
            epochs = {e: np.random.default_rng([seed, 2, e]).permutation(len(labels)) for e in set(position // len(labels))}
            chosen = np.array([epochs[p // len(labels)][p % len(labels)] for p in position])
            return present(samples[chosen], labels[chosen], np.random.default_rng([seed, 0, update]))

        def testing(n, seed):
            return present(test[0][:n], test[1][:n], np.random.default_rng([seed, 1]))

        return cls(name, training, testing)
