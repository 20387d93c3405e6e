"""Accuracy without retraining, against hand counting; and what a leak can hold, against a search."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from brian2 import second

import localplast as lp
from localplast import NetworkError, ms
from localplast.analysis.retention import Judge, accuracy_against, leak_limit
from localplast.backends.torch import learner as torch_learn
from localplast.models import leaky_readout, lif
from localplast.network.delays import gaussian

TAU = 20e-3


def cue(rng, n, *, wait, noise=0.0, channels=2):
    """One spike on the channel of the label, then ``wait``; with probability ``noise`` on the other channel instead."""
    label = rng.integers(0, 2, n)
    steps = round(float(wait) * 1000) + 5
    spikes, weight = np.zeros((n, steps, channels), bool), np.zeros(steps)
    shown = np.where(rng.random(n) < noise, 1 - label, label)
    spikes[np.arange(n), 2, shown] = True
    weight[-1] = 1.0
    return lp.Trials({"cues": spikes}, label, weight)


def remembering(**delay):
    """A neuron and a readout per channel; what is kept of a cue fades with 20 ms, and which was larger does not."""
    # fmt: skip
    return lp.Network(
        dt=1 * ms,
        cues=lp.Input(2),
        rec=lp.Population(2, lif()),
        out=lp.Population(2, leaky_readout(tau_out=TAU * second)),
        projections=[
            lp.Projection("cues", "rec", weight=1.5 * np.eye(2)),
            lp.Projection("rec", "out", weight=np.eye(2), **delay),
        ],
    )


@pytest.mark.parametrize("delay", [{}, {"delay": lp.axonal(3 * ms)}, {"delay": lp.axonal(3 * ms, trainable=True)}])
def test_accuracy_and_its_error(delay):
    """A cue that lies in a fifth of all trials: right in four fifths, however long the wait; with real-valued delays
    too.
    """
    net = remembering(**delay)
    found = accuracy_against(net, net.draw(0), functools.partial(cue, noise=0.2), {"wait": [10, 30] * ms}, trials=500)
    share = found["accuracy"].values
    assert found["accuracy"].dims == ("wait",) and np.allclose(found["wait"], [0.01, 0.03])
    assert (found["wait"].attrs["units"], found["accuracy"].attrs["units"], found.attrs["trials"]) == ("s", "1", 500)
    assert np.abs(share - 0.8).max() < 3 * np.sqrt(0.16 / 500)
    np.testing.assert_allclose(found["standard_error"], np.sqrt(share * (1 - share) / 500))


def test_it_is_the_share_of_right_trials():
    net, rng = remembering(), np.random.default_rng([7, 1])
    make = functools.partial(cue, wait=20 * ms)
    found = accuracy_against(net, net.draw(0), make, {"noise": [0.3]}, trials=50, seed=7, at_once=50)
    trials = cue(rng, 50, noise=0.3, wait=20 * ms)
    seen = trials.inputs["cues"].any(1).argmax(1)
    assert found["accuracy"].item() == np.mean(seen == trials.target) < 1


def test_no_more_trials_than_asked_for_are_held_at_once():
    net, sizes = remembering(), []

    def make(rng, n, wait):
        sizes.append(n)
        return cue(rng, n, wait=wait)

    for options in ({}, {"threads": 2}, {"dtype": "float32"}):
        found = accuracy_against(net, net.draw(0), make, {"wait": [10 * ms]}, trials=10, at_once=3, **options)
        assert found["accuracy"].item() == 1.0 and found["standard_error"].item() == 0.0
    assert sizes == 3 * [3, 3, 3, 1]


def test_what_could_learn_does_not_make_it_slow(monkeypatch):
    """The kernel runs what could learn, and decides as plain Torch does."""
    net = remembering()
    slow = {**net.nodes, "rec": replace(net.nodes["rec"], trainable={"tau_mem": (5 * ms, 50 * ms)})}
    net = lp.Network(dt=net.dt, projections=net.projections.values(), **slow)
    assert Judge(net, net.draw(0), None, torch.float64, 1).forward.kernel is not None
    make, over = functools.partial(cue, noise=0.3), {"wait": [10, 40] * ms}
    fused = accuracy_against(net, net.draw(0), make, over, trials=60)
    monkeypatch.setattr(torch_learn, "why_not", lambda *_: "for a test")
    assert Judge(net, net.draw(0), None, torch.float64, 1).forward.kernel is None
    assert fused.identical(accuracy_against(net, net.draw(0), make, over, trials=60))


def test_learned_delays_are_those_that_are_tested():
    """Rounded, and not spread by their kernel: the readout decides between a cue in time and one that comes a step
    too late.
    """

    def judged(delay):
        # fmt: skip
        net = lp.Network(
            dt=1 * ms,
            cues=lp.Input(2),
            out=lp.Population(2, leaky_readout(tau_out=TAU * second)),
            projections=[lp.Projection("cues", "out", weight=np.eye(2), delay=delay)],
        )
        return accuracy_against(net, net.draw(0), late, {"step": np.arange(2, 9)}, trials=20)["accuracy"].values

    def late(rng, n, step):
        """A spike on the right channel at ``step``; it counts if it has arrived in the last one of twelve."""
        label, spikes, weight = rng.integers(0, 2, n), np.zeros((n, 12, 2), bool), np.zeros(12)
        spikes[np.arange(n), step, label], weight[-1] = True, 1.0
        return lp.Trials({"cues": spikes}, label, weight)

    learned = judged(lp.axonal([6.4, 5.6] * ms, trainable=(0 * ms, 20 * ms), kernel=gaussian(4 * ms)))
    assert np.array_equal(learned, judged(lp.axonal([6, 6] * ms)))
    assert list(learned[:4]) == 4 * [1.0] and np.all(learned[4:] < 0.9)


def test_one_more_value_changes_no_other():
    net = remembering()
    alone, among = (accuracy_against(net, net.draw(0), functools.partial(cue, noise=0.3), {"wait": w}, trials=40)
                    for w in ([20] * ms, [10, 20, 30] * ms))  # fmt: skip
    assert alone["accuracy"][0] == among["accuracy"][1]


def test_all_combinations():
    net = remembering()
    found = accuracy_against(net, net.draw(0), cue, {"wait": [10, 20, 30] * ms, "noise": [0.0, 1.0]}, trials=20)
    assert found["accuracy"].dims == ("wait", "noise")
    np.testing.assert_array_equal(found["accuracy"], [[1, 0]] * 3)


def test_weights_that_do_not_tell_are_at_chance():
    net = remembering()
    values = net.draw(0).replace_weights({"cues_rec": np.full((2, 2), 1.5)})
    found = accuracy_against(net, values, cue, {"wait": [10 * ms]}, trials=400)
    assert abs(found["accuracy"].item() - 0.5) < 3 * 0.025


@pytest.mark.parametrize("change, words", [
    ({"over": {}}, "gives nothing to vary"),
    ({"over": {"wait": []}}, "gives nothing to vary"),
    ({"trials": 0}, "trials is a whole number, 1 or more; given 0"),
    ({"make_trials": lambda rng, n, wait: lp.Trials({"cues": np.zeros((n, 9, 2), bool)})}, "have no labels"),
    ({"make_trials": functools.partial(cue, channels=4)}, r"input 'cues' has shape \(32, 15, 4\)"),
])  # fmt: skip
def test_errors(change, words):
    net = remembering()
    options = {"make_trials": cue, "over": {"wait": [10 * ms]}, **change}
    with pytest.raises(lp.LocalplastError, match=words):
        accuracy_against(net, net.draw(0), **options)


# --- what a leak can hold ---------------------------------------------------------------------------------------------

TIMES = np.arange(0, 12, 1e-4)  # in time constants


def longest(bits, register):
    """The last time at which some two of all starting levels are still told apart, by search."""
    levels = np.arange(2**bits, dtype=float)
    lowest, highest = (register(levels[k] * np.exp(-TIMES)) for k in (0, -1))
    apart = np.array([np.ptp(register(levels * np.exp(-t))) > 0 for t in TIMES[::1000]])
    assert np.array_equal(apart, (highest > lowest)[::1000])  # no pair outlives empty and full
    return TIMES[highest > lowest].max()


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 8, 12])
def test_the_limit_is_what_a_search_finds(bits):
    assert longest(bits, np.floor) == pytest.approx(leak_limit(1.0, bits), abs=2e-4)
    rounded = longest(bits, lambda v: np.floor(v + 0.5))  # half a level is then enough: another formula
    assert rounded - leak_limit(1.0, bits) > 0.6


def test_rounding_in_every_step_forgets_sooner():
    bits, decay = 8, np.exp(-0.01)
    level, steps = 2**bits - 1, 0
    while level:
        level, steps = np.floor(level * decay), steps + 1
    assert 0 < 0.01 * steps < leak_limit(1.0, bits)


def test_the_limit_has_the_unit_of_the_time_constant():
    assert leak_limit(20 * ms, 8) / ms == pytest.approx(20 * np.log(255))
    assert np.allclose(leak_limit(2.0, [1, 2]), [0, 2 * np.log(3)])
    assert np.isclose(leak_limit(1.0, 5000), 5000 * np.log(2))
    # the longest membrane of DelayNet in single precision, for waits of 1.2 s
    assert leak_limit(50 * ms, 24) < 1 * second


@pytest.mark.parametrize(
    "tau, bits, words", [(1.0, 0, "bits=0.0"), (1.0, [4, np.nan], "bits="), (0 * ms, 3, "tau=0. s")]
)
def test_impossible_leaks(tau, bits, words):
    with pytest.raises(NetworkError, match=words):
        leak_limit(tau, bits)
