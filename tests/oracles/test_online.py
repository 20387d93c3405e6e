"""Learning online: weights that change in every step, or every few, take the same course on both backends, for every
local rule.

A step's update changes the spikes of the next, so that an error of order or of timing anywhere would grow over the
steps.
"""

import brian2 as b2
import numpy as np
import pytest
from brian2 import ms

from localplast import rules
from localplast.backends.brian2.learner import Brian2Learner
from localplast.backends.torch import learner as torch_learn
from localplast.backends.torch.learner import TorchLearner
from localplast.errors import LocalplastError
from localplast.learning.optimise import rmsprop
from localplast.program.learn import plan
from localplast.task.loss import mse

RATE = 2e-3
MOMENTS = (1, 2, 5, 10, 30, 100, 300, 1000)


def local_rules():
    """The names of all rules that need no argument and run forward in time."""
    found = []
    for name in rules.__all__:
        try:
            rule = getattr(rules, name)(update="step")
        except TypeError:  # modifiers need a rule, rules that are not local have no update
            continue
        found += [name] if rule.local and rule.signal.hears_errors else []  # dendrites: test_dendritic.py
    return found


def network(rule, layered):
    """Two layers, a loop, adaptation and delays; where the rule allows, the lower layer projects to the readout as
    well.
    """
    options = {"loop": True, "delay": 1}
    try:
        net = layered.stack(skip=True, **options)
        plan(net, rule, mse())
    except LocalplastError:
        net = layered.stack(**options)
    return net


def optimiser(rate):
    """Steps of like size for rules whose gradients differ in scale; epsilon is far above the rounding of a gradient."""
    return rmsprop(rate, epsilon=0.01)


class Watched(TorchLearner):
    """Keeps the weights after every update."""

    def online_learner(self, learned):
        made = super().online_learner(learned)
        present, steps = made.present, self.rule.interval(self.net.dt)

        def keep(running, t):
            if (t + 1) % steps == 0 or t + 1 == running.engine.steps:
                for name in learned.synapses:
                    self.history.setdefault(name, []).append(running.weights[name].numpy().copy())

        made.present = lambda given, seed, _: present(given, seed, keep)
        return made


def in_torch(net, rule, trials, rate, monkeypatch):
    """Weights ``(update, pre, post)`` by projection, from plain Torch."""
    with monkeypatch.context() as patch:
        patch.setattr(torch_learn, "why_not_online", lambda *args, **options: "the weights are watched")
        learner = Watched(net, net.draw(3), rule, mse(), optimiser(rate), seed=1)
        learner.history = {}
        learner.train(trials)
    return {name: np.array(series) for name, series in learner.history.items()}


def in_brian2(net, rule, trials, rate):
    """Weights after every step, ``(time, pre, post)``."""
    learner = Brian2Learner(net, net.draw(3), rule, mse(), optimiser(rate), trials, seed=1, target="numpy")
    monitors = {}
    for name in learner.plan.synapses:
        synapses = learner.session.built.objects[name]
        monitors[name] = b2.StateMonitor(synapses, "w", record=True, when="end", order=10**6, clock=synapses.clock)
        learner.session.network.add(monitors[name])
    learner.train(trials)
    found = {}
    for name, monitor in monitors.items():
        found[name] = np.zeros((trials.steps, *learner.masks[name].shape))
        found[name][:, learner.masks[name]] = np.asarray(monitor.w_).T[
            : trials.steps
        ]  # behind it lies the gap for delays
        assert np.array_equal(found[name][-1], learner.numbers()[name])
    learner.close()
    return found


def error(one, other, start):
    """The largest difference over the largest change so far."""
    return np.abs(one - other).max() / np.abs(other - start).max()


@pytest.mark.sampled(12)
@pytest.mark.parametrize("name", local_rules())
@pytest.mark.parametrize("update", ["step", 5 * ms], ids=["step", "5 ms"])
@pytest.mark.parametrize("steps", [300, pytest.param(1000, marks=pytest.mark.slow)])
def test_the_backends_take_the_same_course(name, update, steps, layered, monkeypatch):
    rule, trials = getattr(rules, name)(update=update), layered.trials(steps, 1)
    net = network(rule, layered)
    every = rule.interval(net.dt)
    online, plain = in_brian2(net, rule, trials, RATE), in_torch(net, rule, trials, RATE, monkeypatch)
    start = net.draw(3).weights
    compiled = TorchLearner(net, net.draw(3), rule, mse(), optimiser(RATE), seed=1)
    compiled.train(trials)
    for projection, series in plain.items():
        assert len(series) == steps // every and online.keys() == plain.keys()
        assert np.abs(series[-1] - start[projection]).max() > 0.02, f"{projection} has hardly moved"
        for moment in (m for m in MOMENTS if m % every == 0 and m <= steps):
            found, expected = online[projection][moment - 1], series[moment // every - 1]
            tolerance = 1e-12 if moment <= 300 else 1e-8  # spikes near threshold make rounding grow
            assert np.abs(found - expected).max() < tolerance, (projection, moment)
        assert np.abs(compiled.numbers()[projection] - series[-1]).max() < 1e-8, projection
        if every > 1:  # and nothing happens in between
            assert np.array_equal(online[projection][every - 1], online[projection][2 * every - 2])
            assert np.array_equal(online[projection][every - 2], start[projection])


def test_another_learning_rate_is_another_course(layered, monkeypatch):
    """One percent shows from the first steps on."""
    rule, trials = rules.ottt(update="step"), layered.trials(100, 1)
    net = layered.stack()
    one, other = (in_torch(net, rule, trials, rate, monkeypatch) for rate in (RATE, 1.01 * RATE))
    start = net.draw(3).weights
    for name in one:
        for moment in (10, 100):
            assert error(one[name][moment - 1], other[name][moment - 1], start[name]) > 1e-3, (name, moment)


def test_local_rules_are_found():
    assert {"eprop", "superspike", "decolle", "ottt", "ostl", "sltt", "dfa", "drtp", "erbp"} <= set(local_rules())
    assert not {"bptt", "rtrl", "feedback_alignment"} & set(local_rules())
