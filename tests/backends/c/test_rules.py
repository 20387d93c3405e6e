"""Every local rule in generated C against the plain online learner: deep networks, local readouts, late signals,
reward.
"""

import functools
from dataclasses import replace

import numpy as np
import pytest
from brian2 import Hz, ms

from localplast import rules
from localplast.backends.c import compile as kernel_build
from localplast.backends.c.online_call import OnlineKernel
from localplast.backends.torch.learner import TorchLearner
from localplast.equations.language import symbol
from localplast.errors import LocalplastError
from localplast.learning.optimise import adam, sgd
from localplast.models import alif, cuba_lif, decolle_lif, instant_readout, leaky_readout, van_rossum_readout
from localplast.network import Input, Network, Population, Projection, axonal, dendritic, normal, synaptic
from localplast.network.delays import triangle
from localplast.program.learn import plan
from localplast.task import Trials
from localplast.task.loss import cross_entropy, gumbel, mse, rate, reward, smooth_l1

pytestmark = pytest.mark.skipif(kernel_build.compiler() is None, reason="no C compiler here")

STEPS, CHANNELS, LOW, TOP, OUTPUTS, INTERVAL = 45, 6, 9, 5, 3, 5
BETA = {"low": np.linspace(0, 0.4, LOW), "top": np.linspace(0.2, 0, TOP)}


def layers(skip=True):
    """Two refractory layers of LIF and ALIF, a loop, a path that takes three steps, missing synapses."""
    neuron = alif(tau_adapt=40 * ms, tau_ref=3 * ms)
    links = [
        Projection("cues", "low", weight=normal(0.9, mean=0.06), delay=axonal(np.arange(CHANNELS) * ms)),
        Projection("low", "low", weight=normal(0.8)),
        Projection("low", "top", weight=normal(2.0, mean=0.3), delay=axonal(2 * ms), mask=0.7),
        Projection("top", "out"),
    ]
    # fmt: skip
    return Network(
        dt=1 * ms,
        cues=Input(CHANNELS),
        low=Population(LOW, neuron, {"beta": BETA["low"]}),
        out=Population(OUTPUTS, leaky_readout()),
        top=Population(TOP, neuron, {"beta": BETA["top"]}),
        projections=links + [Projection("low", "out")] * skip,
    )


def currents():
    """Current-based neurons in volts, in two layers."""
    neuron = cuba_lif(tau_ref=2 * ms)
    # fmt: skip
    return Network(
        dt=1 * ms,
        cues=Input(CHANNELS),
        low=Population(LOW, neuron),
        top=Population(TOP, neuron),
        out=Population(OUTPUTS, leaky_readout()),
        projections=[
            Projection("cues", "low", weight=normal(0.02, mean=0.002)),
            Projection("low", "top", weight=normal(0.04, mean=0.02)),
            Projection("top", "out"),
        ],
    )


def local():
    """Every layer has a readout without memory of its own."""
    neuron = decolle_lif()
    # fmt: skip
    return Network(
        dt=1 * ms,
        cues=Input(CHANNELS),
        low=Population(LOW, neuron),
        top=Population(TOP, neuron),
        say_low=Population(OUTPUTS, instant_readout()),
        say_top=Population(OUTPUTS, instant_readout()),
        projections=[
            Projection("cues", "low", weight=normal(4.0)),
            Projection("low", "top", weight=normal(9.0, mean=0.5), mask=0.8),
            Projection("low", "say_low", plastic=False),
            Projection("top", "say_top", plastic=False),
        ],
    )


def every_delay():
    """One layer; every synapse onto it has its delay."""
    drawn = np.random.default_rng(1).integers(0, 7, (CHANNELS, LOW)) * ms
    # fmt: skip
    return Network(
        dt=1 * ms,
        cues=Input(CHANNELS),
        low=Population(LOW, alif(tau_ref=3 * ms), {"beta": BETA["low"]}),
        out=Population(OUTPUTS, van_rossum_readout()),
        projections=[
            Projection("cues", "low", weight=normal(0.9, mean=0.06), delay=synaptic(drawn)),
            Projection("low", "out"),
        ],
    )


NETWORKS = {
    "layers": layers,
    "a chain": lambda: layers(False),
    "currents": currents,
    "local": local,
    "delays": every_delay,
}


def named_rules():
    """Every rule that runs forward in time and needs no argument, and some with other feedback."""
    found = {}
    for name in rules.__all__:
        try:
            rule = getattr(rules, name)(update="step")
        except TypeError:  # modifiers need a rule, rules that are not local have no update
            continue
        found |= {name: getattr(rules, name)} if rule.local and rule.signal.hears_errors else {}
    for make, kind in (
        ("eprop", "learned"),
        ("ottt", "sign"),
        ("ottt", "learned"),
        ("decolle", "sign"),
        ("superspike", "random"),
    ):
        found[f"{make}, {kind}"] = functools.partial(found[make], feedback=kind)
    found["s_tllr, direct"] = functools.partial(rules.s_tllr, direct=True, feedback="random")
    found["es_d_rtrl, no reset"] = functools.partial(rules.es_d_rtrl, reset=False)
    return found


RULES = named_rules()


@functools.cache
def networks(name):
    """``{where: network}`` of those that a rule has equations for."""
    found = {}
    for where, made in NETWORKS.items():
        net = made()
        try:
            learned = plan(net, RULES[name](), mse())
        except LocalplastError:
            continue
        # what does not last may never meet an error
        if all(s.eligibility.value != 0 for s in learned.synapses.values()):
            found[where] = net
    assert found, f"{name} fits no network"
    return found


@pytest.fixture(scope="module")
def trials_for(bench):
    return functools.partial(bench.trials_for, steps=STEPS, channels=CHANNELS)


@pytest.mark.sampled(4, 1)
@pytest.mark.parametrize("name", RULES)
def test_gradients(name, trials_for, bench):
    for where, net in networks(name).items():
        loss = {"layers": smooth_l1(), "currents": cross_entropy()}.get(where, mse())
        bench.same_gradients(net, RULES[name](), loss, trials_for(loss))


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", RULES)
def test_weights_that_change_within_a_trial(name, trials_for, bench):
    """In every step and every few, by two optimisers; networks take turns, where a rule has more than one."""
    known = networks(name)
    for number, (where, net) in enumerate(known.items()):
        scale = 1e-3 if where == "currents" else 1.0
        optimisers = [sgd(0.02 * scale**2), adam(0.02 * scale)][:: 1 - 2 * (number // 2 % 2)]
        for turn, (update, count) in enumerate([("step", 2 * STEPS), (INTERVAL * ms, 2 * -(-STEPS // INTERVAL))]):
            if turn == number % 2 or len(known) == 1:
                given = (net, RULES[name](update=update), mse(), optimisers[turn], trials_for(mse()))
                assert bench.same_learning("traces in C", *given)[0].updates == count


def test_an_interval_of_one_step_and_of_a_whole_trial(trials_for, bench):
    net, trials, loss = layers(False), trials_for(mse()), mse()
    stepwise, short = (
        bench.course("traces in C", net, rules.ottt(update=update), loss, adam(0.02), trials).moved[-1]
        for update in ("step", 1 * ms)
    )
    assert bench.apart(short, stepwise) < 1e-12
    bench.same_learning("traces in C", net, rules.ottt(update=1000 * ms), loss, sgd(0.02), trials)


def spoiled(factor):
    """What passes the error on, wrong by ``factor``."""

    def spoil(learned):
        top = learned.neurons["top"]
        wrong = replace(top, end=tuple((name, factor * e) for name, e in top.end))
        return replace(learned, neurons={**learned.neurons, "top": wrong})

    return spoil


def punctual(learned):
    """The plan with a slope that reaches the lower layer too early."""
    low = learned.neurons["low"]
    early = {"late3_psi": symbol("late1_psi")}
    shift = tuple((name, early.get(name, e)) for name, e in low.shift)
    return replace(learned, neurons={**learned.neurons, "low": replace(low, shift=shift)})


@pytest.mark.parametrize("spoil", [spoiled(1 + 1e-6), punctual], ids=["size", "time"])
def test_a_planted_error_is_caught(spoil, trials_for, bench):
    bench.same_gradients(layers(False), rules.ottt(), mse(), trials_for(mse()), spoil=spoiled(1))
    with pytest.raises(AssertionError):
        bench.same_gradients(layers(False), rules.ottt(), mse(), trials_for(mse()), spoil=spoil)


def test_threads_share_the_trials(trials_for, bench):
    for threads in (2, 7):
        bench.same_gradients(layers(False), rules.ostl(), mse(), trials_for(mse(), 5), threads=threads)


def test_batches_learn_in_the_kernel(caplog, trials_for):
    learner = TorchLearner(layers(False), layers(False).draw(1), rules.ottt(), mse(), adam(0.01), batch=4, threads=2)
    losses = [m["loss"] for _ in range(15) for m in learner.train(trials_for(mse(), 4))]
    (made,) = learner.online.compiled.values()
    assert isinstance(learner.online, OnlineKernel) and len(made.kept) == 2
    assert losses[-1] < losses[0] and "slower" not in caplog.text


def maze(trials_for):
    """An actor and a critic on one recurrent population, and trials whose reward comes late."""
    leaky = leaky_readout()
    # fmt: skip
    net = Network(
        dt=1 * ms,
        cues=Input(CHANNELS),
        dice=Input(OUTPUTS, "currents"),
        low=Population(LOW, alif(), {"beta": BETA["low"]}),
        policy=Population(OUTPUTS, leaky),
        value=Population(1, leaky),
        projections=[
            Projection("cues", "low", weight=normal(0.9, mean=0.06)),
            Projection("low", "low", weight=normal(0.8)),
            Projection("low", "policy"),
            Projection("low", "value"),
        ],
    )
    trials = trials_for(cross_entropy(), 3)
    dice = gumbel(np.random.default_rng(0), (3, STEPS, OUTPUTS))
    return net, Trials({**trials.inputs, "dice": dice}, trials.target, trials.weight)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("make", [functools.partial(rules.eprop, feedback="random"), rules.ottt], ids=["eprop", "ottt"])
def test_running_rates(make, trials_for, bench):
    """Weights change in every step, whether it counts or not."""
    loss, trials = mse() + rate(20 * Hz, 1e-2, window=20 * ms), trials_for(mse())
    bench.same_gradients(layers(False), make(), loss, trials)
    with pytest.raises(AssertionError):
        bench.same_gradients(layers(False), make(), loss, trials, spoil=lambda _: plan(layers(False), make(), mse()))
    bench.same_learning("traces in C", layers(False), make(update="step"), loss, sgd(0.02), trials)


@pytest.mark.thorough
@pytest.mark.sampled(2)
@pytest.mark.parametrize("make", [rules.eprop, rules.ottt])
def test_reward(make, trials_for, bench):
    net, trials = maze(trials_for)
    loss = reward(6 * ms, discount=0.9)
    bench.same_gradients(net, make(), loss, trials)
    with pytest.raises(AssertionError):  # discount and delay weigh in
        bench.same_gradients(
            net, make(), loss, trials, spoil=lambda learned: replace(learned, loss=replace(loss, delay=0.005))
        )
    for update in ("step", INTERVAL * ms):
        bench.same_learning("traces in C", net, make(update=update), loss, adam(0.01), trials)


def learns(net, *parameters):
    """``net`` with parameters of its lower layer that learn."""
    bounds = dict.fromkeys(parameters, (None, None)) | {"tau_mem": (0.1 * ms, None)}
    low = replace(net.nodes["low"], trainable=bounds)
    nodes = {**net.nodes, "low": low}
    return Network(dt=1 * ms, **nodes, projections=list(net.projections.values()))


@pytest.mark.parametrize("make", [functools.partial(rules.eprop, feedback="random"), rules.ottt], ids=["eprop", "ottt"])
@pytest.mark.parametrize("loss", [mse(), mse() + rate(20 * Hz, 1e-3)], ids=["plain", "regularised"])
def test_parameters(make, loss, trials_for, bench):
    net = learns(layers(False), "tau_mem", "beta")
    bench.same_gradients(net, make(), loss, trials_for(loss))


def test_parameters_change_from_batch_to_batch(trials_for, bench):
    net, trials = learns(layers(False), "tau_mem", "beta"), trials_for(mse(), 12)
    optimiser = adam(0.02).with_rates(**{"low.tau_mem": 1e-2, "low.beta": 1.0})
    bench.same_learning("traces in C", net, rules.ottt(), mse(), optimiser, trials, batch=2)


DELAYS = {
    "one for all": lambda sizes: axonal(1.5 * ms, trainable=True),
    "axonal": lambda sizes: axonal(np.linspace(0.2, 4, sizes[0]) * ms, trainable=True),
    "dendritic": lambda sizes: dendritic(np.linspace(0.2, 4, sizes[1]) * ms, trainable=True),
    "synaptic": lambda sizes: synaptic(np.linspace(0.2, 4, sizes[0] * sizes[1]).reshape(sizes) * ms, trainable=True),
    "triangle": lambda sizes: axonal(1.5 * ms, trainable=(0 * ms, 9 * ms), kernel=triangle(2 * ms)),
}


@pytest.mark.parametrize("kind", DELAYS)
def test_delays_learn(kind, trials_for, bench):
    net = layers(False)
    sizes = {p.name: (net.size(p.pre), net.size(p.post)) for p in net.projections.values()}
    projections = [
        replace(p, delay=DELAYS[kind](sizes[p.name])) if p.name == "cues_low" else p for p in net.projections.values()
    ]
    late = Network(dt=net.dt, **net.nodes, projections=projections)
    optimiser = adam(1e-3).with_rates(**{"cues_low.delay": 10.0})
    found, _ = bench.same_learning("traces in C", late, rules.ottt(), mse(), optimiser, trials_for(mse(), 4), batch=2)
    assert np.abs(found.moved[-1]["value.cues_low.delay"]).max() > 1e-3
