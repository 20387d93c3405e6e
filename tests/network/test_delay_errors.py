"""Delays that cannot be, or are hardly meant: errors and warnings name the projection and the values, before anything
runs.
"""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from brian2 import ms, mV

import localplast as lp
from localplast.errors import LocalplastWarning, NetworkError
from localplast.models import leaky_readout, lif
from localplast.network import Input, Network, Population, Projection, axonal, dendritic, synaptic
from localplast.network.delays import gaussian, triangle
from localplast.neuron.surrogate import triangle as surrogate
from localplast.rules import bptt
from localplast.task import Task, Trials


def network(delay, dt=1 * ms):
    return Network(
        dt=dt, cues=Input(3), rec=Population(4, lif()), out=Population(2, leaky_readout()),
        projections=[Projection("cues", "rec", delay=delay), Projection("rec", "out")],
    )  # fmt: skip


def trials(steps=20):
    return Trials({"cues": np.ones((2, steps, 3), bool)}, np.zeros(2, int))


def learned(kernel):
    return axonal(2 * ms, trainable=True, kernel=kernel)


KERNELS = {
    "of a fixed delay": (
        lambda: axonal(2 * ms, kernel=triangle(3 * ms)),
        "its delay does not learn, so it has no triangle kernel",
    ),
    "a surrogate": (
        lambda: learned(surrogate()),
        r"is no kernel of a delay; write lp.delay.triangle\(...\) or gaussian",
    ),
    "width without unit": (lambda: learned(gaussian(3)), "the width 3 of its kernel is not a time from 0"),
    "negative width": (lambda: learned(gaussian(-3 * ms)), "the width .* is not a time from 0; write"),
    "final width in volts": (lambda: learned(triangle(3 * ms, final=1 * mV)), "the final width 1. . mvolt of"),
    "width in volts": (lambda: learned(triangle(5 * mV)), "the width .* is not a time from 0"),
    "no halving": (lambda: learned(triangle(3 * ms, halving=0)), "halves every 0 updates; give a positive"),
    "halving as text": (lambda: learned(triangle(5 * ms, halving="a")), "give a positive number"),
}


@pytest.mark.parametrize("case", KERNELS)
def test_kernels(case):
    make, message = KERNELS[case]
    with pytest.raises(NetworkError, match=f"^projection 'cues_rec': .*{message}"):
        network(make())


def test_bounds_and_fixed_delays():
    with pytest.raises(NetworkError, match="^projection 'cues_rec': no delay lies within the bounds"):
        network(axonal(2 * ms, trainable=(5 * ms, 1 * ms)))
    net = network(axonal(2 * ms))
    message = r"'cues_rec': 3 of its delays cannot be, such as 1e\+09 steps; .* between 0 and 100000"
    with pytest.raises(NetworkError, match=message):
        lp.run(net, trials(), values=replace(net.draw(0), delays={"cues_rec": np.full(3, 1e9)}))


LEARNED = {
    "negative": (
        [1.0, -0.5, 2],
        r"1 of its delays cannot be, such as -0.5 steps; they lie between 0 and 10 steps of 1. ms",
    ),
    "nan": ([np.nan, np.nan, 2], "2 of its delays cannot be, such as nan steps"),
    "too long": ([1.0, 3, 12.5], "1 of its delays cannot be, such as 12.5 steps"),
}


@pytest.mark.parametrize("case", LEARNED)
def test_learned_delays(case):
    """Where values are handed over: to simulate, to learn from, for a gradient, on both backends."""
    delays, message = LEARNED[case]
    net = network(axonal([1, 2, 3] * ms, trainable=(0 * ms, 10 * ms)))
    values, expected = (
        net.draw(0).replace_weights({}, {"cues_rec.delay": np.array(delays)}),
        f"^projection 'cues_rec': {message}",
    )
    for backend in ("torch", "brian2"):
        with pytest.raises(NetworkError, match=expected):
            lp.run(net, trials(), backend=backend, values=values, show=False)
    with pytest.raises(NetworkError, match=expected):
        lp.gradient(net, trials(), bptt(), values=values)
    task = Task.generated("any", lambda rng, n: trials())
    with pytest.raises(NetworkError, match=expected):
        lp.run(
            net,
            task,
            rule=bptt(),
            optimiser=lp.adam(1e-3),
            batch=2,
            updates=1,
            values=values,
            backend="torch",
            show=False,
        )


def test_rounding_may_leave_the_bounds():
    net = network(axonal([1.6, 2, 3] * ms, trainable=(1.6 * ms, 9.4 * ms)))
    values = net.draw(0).replace_weights({}, {"cues_rec.delay": np.array([1.6, 2.5, 9.4])}).rounded(net)
    assert values.delays["cues_rec"].tolist() == [2, 3, 9]
    lp.run(net, trials(), backend="torch", values=values, show=False)


@pytest.mark.parametrize(
    "make, count", [(lambda: axonal([1, 30, 19] * ms), 4), (lambda: dendritic([1, 2, 20, 30] * ms), 6)]
)
def test_what_never_arrives(make, count):
    message = f"^projection 'cues_rec': what {count} of its 12 synapses carry never arrives; delays reach 30 steps, a trial has 20 "
    with pytest.warns(LocalplastWarning, match=message):
        lp.run(network(make()), trials(), backend="torch", show=False)
    with pytest.warns(LocalplastWarning, match=message):
        lp.gradient(network(make()), trials(), bptt())
    with warnings.catch_warnings():
        warnings.simplefilter("error", LocalplastWarning)
        lp.run(network(make()), trials(31), backend="torch", show=False)


@pytest.mark.parametrize(
    "lengths, test, told",
    [((31, 20, 25, 20), 31, [20]), ((31, 31, 31, 31), 25, [25]), ((20, 31, 25, 15), 31, [20, 15])],
)
def test_what_never_arrives_in_some_trials(lengths, test, told):
    """Trials of a task may be shorter than its first; of each shortest it is said once."""
    task = lp.Task("lengths", lambda update, *_: trials(lengths[update]), lambda *_: trials(test))
    options = dict(rule=bptt(), optimiser=lp.adam(1e-3), batch=2, updates=4, test=2, backend="torch", show=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LocalplastWarning)
        lp.run(network(axonal([1, 30, 19] * ms)), task, **options)
    texts = [str(w.message) for w in caught if "never arrives" in str(w.message)]
    assert [f"a trial has {n} steps" in text for n, text in zip(told, texts, strict=True)] == [True] * len(told)


MERGED = {
    "axonal": (lambda: axonal([1.6, 2.3, 5] * ms), "1.6 ms and 2.3 ms"),
    "synaptic": (lambda: synaptic(np.tile(np.linspace(0, 1.5, 4), (3, 1)) * ms), "0.5 ms and 1. ms"),
}


@pytest.mark.parametrize("case", MERGED)
def test_a_coarse_time_step(case):
    make, pair = MERGED[case]
    message = f"^projection 'cues_rec': dt = 1. ms rounds different delays to the same step, {pair}; use a finer"
    with pytest.warns(LocalplastWarning, match=message):
        network(make())
    with warnings.catch_warnings():
        warnings.simplefilter("error", LocalplastWarning)
        network(make(), dt=0.1 * ms)
        network(axonal([1.6, 2.3, 5] * ms, trainable=True))
        network(axonal(np.array([0.1 + 0.2, 0.3, 5]) * ms))  # the same number but for its last bit
        network(axonal(2.3 * ms))
        network(synaptic(np.random.default_rng(0).uniform(0, 5, (3, 4)) * ms))  # drawn: some must be alike
