"""A network that is watched while it learns: its states and its weights, step by step, within one presentation of
some trials.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
import xarray as xr
from brian2.units.fundamentalunits import Quantity

from localplast.arguments import check_kind
from localplast.backends.torch.learner import TorchLearner
from localplast.backends.torch.online import OnlineLearner
from localplast.errors import UnsupportedError
from localplast.learning.optimise import Optimiser
from localplast.learning.rule import Rule
from localplast.network.bounds import check_start
from localplast.network.delays import check_delays
from localplast.network.network import Network
from localplast.network.values import Values
from localplast.program.learn import check_trials
from localplast.runs.learners import Spelled
from localplast.runs.options import Options, checked_values
from localplast.runs.record import Recorder
from localplast.runs.request import Request
from localplast.runs.run import check_learner
from localplast.runs.simulate import keep, seen, traced
from localplast.task.loss import Loss, default_loss
from localplast.task.trials import Trials

__all__ = ["live"]


def live(
    net: Network,
    trials: Trials,
    rule: Rule,
    optimiser: Optimiser,
    *,
    record: Sequence[str] | Mapping[str, Mapping],
    every: int | Quantity = 1,
    loss: Loss | None = None,
    values: Values | None = None,
    seed: int = 0,
) -> xr.DataTree:
    """Let a network learn from some trials, presented once, side by side, and keep what it does meanwhile (Torch,
    plain step).

    Parameters
    ----------
    net : Network
    trials : Trials
    rule : Rule
        One that learns while a trial goes on: ``dendritic()``, ``eprop(update="step")``.
    optimiser : Optimiser

    Other arguments
    ---------------
    record : sequence of str, or mapping of str to options
        As for :func:`localplast.run`: states and spikes, and ``'up1.weight'``.
    every : int
        Keep each so many steps of states; of weights ``{"up1.weight": {"every": 10}}``.
    loss, values, seed
        As for :func:`localplast.run`.

    Returns
    -------
    xarray.DataTree
        States at the end of a step, before the weights change: dims (trial, time, neuron). Weights after the change:
        dims (update, pre, post), ``update`` the number of the step from 1, the last one included.

    Raises
    ------
    UnsupportedError
        The rule changes weights between trials only.
    """
    check_kind("net", net, Network)
    check_kind("trials", trials, Trials)
    check_learner(net, rule, optimiser, loss)
    options = Options.checked(backend="torch", simulated=False, seed=seed)
    values = checked_values(net, values, seed)
    if not rule.local or rule.update == "trial":
        raise UnsupportedError(
            f"{rule.name} changes weights at the end of a trial: there is nothing to watch; use run(net, task, ...)"
        )
    check_trials(net, trials)
    check_start(net, values, optimiser)
    check_delays(net, values, trials.steps)
    request = Request.parse(net, record, every=every)
    states = Request(tuple(e for e in request.entries if e.variable != "weight"))
    trials = rule.shown(net, trials)
    trials = replace(trials, inputs=trials.rasters(np.random.default_rng([seed, 4, 0]), float(net.dt)))
    watch, loss = Watch(traced(net, states), request.weights, trials.steps), loss or default_loss(trials)
    recorder, spelling = Recorder(net, request, provenance=options.provenance), net.spelling
    inside = (spelling.net, spelling.values(values), rule, loss, spelling.optimiser(optimiser))
    with recorder, spelling.errors():
        learner = Spelled(WatchedLearner(*inside, batch=len(trials), seed=seed, watch=watch), spelling)
        learner.train(trials)
        traces = {name: torch.stack(values) for name, values in watch.states.items()}
        arrays, spikes = seen(trials.inputs, traces)
        keep(recorder, states, arrays, spikes, (len(trials), trials.steps))
        keep_learned(recorder, learner, watch)
    return recorder.tree()


def keep_learned(recorder, learner, watch):
    """Weights along the way of those projections that were watched, the latest of all others and of parameters."""
    for name, weight in learner.numbers().items():
        for step, along in watch.weights.get(name, [(None, weight)]):
            recorder.set_weights(name, along, update=step)
    for name, value in learner.parameters().items():
        recorder.set_learned(name, value)


class Watch:
    """What is kept of every step: states by name, and weights of some projections each so many steps."""

    def __init__(self, states, every, steps):
        self.every, self.steps = every, steps
        self.states, self.weights = {name: [] for name in states}, {name: [] for name in every}

    def see(self, learner):
        """Keep the states of this moment."""
        for name, values in self.states.items():
            values.append(learner.read(name).clone())

    def weigh(self, learner, number):
        """Keep weights at the end of step ``number``, from 1."""
        for name, every in self.every.items():
            if number % every == 0 or number == self.steps:
                self.weights[name].append((number, learner.weights[name].cpu().numpy().copy()))


class WatchedLearner(TorchLearner):
    """A :class:`TorchLearner` that runs the plain step, and lets a :class:`Watch` see each."""

    def __init__(self, *args, watch, **options):
        self.watch = watch
        super().__init__(*args, **options)

    def online_learner(self, learned):
        arguments = self.net, learned, self.tensors, self.values.masks, self.optimiser
        return WatchedSteps(self.watch, *arguments, widths=self.widths(), record=self.watch.states)


class WatchedSteps(OnlineLearner):
    """An :class:`OnlineLearner` of whose every step the states are seen, then the weights that it leaves."""

    def __init__(self, watch, *args, **options):
        super().__init__(*args, **options)
        self.watch = watch

    def present(self, given, seed, _):
        return super().present(given, seed, self.see)

    def see(self, _, step):
        """Look at the end of a step."""
        self.watch.see(self)
        self.watch.weigh(self, step + 1)
