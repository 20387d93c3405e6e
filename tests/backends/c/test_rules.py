"""Every local rule in generated C against the plain online learner: deep networks, local readouts, late signals,
reward.
"""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from brian2 import Hz, ms

from localplast import rules
from localplast.backends.c import compile as kernel_build
from localplast.backends.c.online_call import OnlineKernel, why_not_online
from localplast.backends.torch import learner as torch_learn
from localplast.backends.torch.gradient import prepare
from localplast.backends.torch.learner import TorchLearner
from localplast.backends.torch.step import leaves
from localplast.backends.torch.traces import OnlineLearner
from localplast.errors import LocalplastError
from localplast.learning.optimise import adam, sgd
from localplast.models import alif, cuba_lif, decolle_lif, instant_readout, leaky_readout, van_rossum_readout
from localplast.network import Input, Network, Population, Projection, axonal, normal, synaptic
from localplast.program.learn import plan
from localplast.task import Trials
from localplast.task.loss import cross_entropy, gumbel, mse, rate, reward, smooth_l1

pytestmark = pytest.mark.skipif(kernel_build.compiler() is None, reason="no C compiler here")

STEPS, CHANNELS, LOW, TOP, OUTPUTS, INTERVAL = 63, 6, 9, 5, 3, 5
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
        found |= {name: getattr(rules, name)} if rule.local and not rule.taught else {}
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


def trials_for(loss, count=2, steps=STEPS):
    """Spikes, and errors that count now and then: not at first, and not in the end."""
    rng = np.random.default_rng([3, steps])
    weight = rng.uniform(0.5, 1.5, steps) * (rng.random(steps) < 0.6)
    weight[:8] = weight[-12:] = 0
    labels = loss.kind == "cross_entropy"
    target = rng.integers(0, OUTPUTS, count) if labels else 1.5 * rng.standard_normal((count, steps, OUTPUTS))
    return Trials({"cues": rng.random((count, steps, CHANNELS)) < 0.3}, target, weight)


def distance(found, wanted):
    """Largest relative difference; most of what is wanted must be alive."""
    assert found.keys() == wanted.keys()
    scale = {name: float(w.abs().max()) for name, w in wanted.items()}
    assert all(s > 1e-12 for s in scale.values()), f"nothing to compare: {scale}"
    return max(float((found[name] - w).abs().max()) / scale[name] for name, w in wanted.items())


def alive(counts, steps):
    for name, count in counts.items():
        assert 0.01 < float(count.mean()) / steps < 0.6, f"{name} is silent or saturated: {float(count.mean()) / steps}"


def same_gradients(net, rule, loss, trials, *, spoil=lambda learned: learned, threads=1):
    values = net.draw(1)
    tensors, learned = leaves(net, values), plan(net, rule, loss)
    given = prepare(net, trials, loss, rng=np.random.default_rng(0), dtype=torch.float64)
    assert why_not_online(net, learned) is None
    oracle = OnlineLearner(net, learned, tensors, values.masks)
    outputs, counts = oracle.run(*given)
    alive(counts, trials.steps)
    kernel = OnlineKernel(net, spoil(learned), tensors, values.masks, threads=threads)
    found = kernel.gradients({n: tensors[f"{n}.weight"] for n in net.projections}, *given, oracle.learned)
    assert all(torch.equal(found[1][name], count) for name, count in counts.items())
    assert float((found[0] - outputs).abs().max()) < 1e-10 * float(outputs.abs().max())
    wanted = oracle.gradients() | oracle.other_gradients(tensors)
    assert distance(found[2], wanted) < 1e-10
    assert all(found[2][name].shape == w.shape for name, w in wanted.items())


def course(net, rule, loss, optimiser, trials, *, plain):
    """What has changed after ``trials``: weights, feedback, the optimiser's memory; and the metrics of each."""
    with pytest.MonkeyPatch.context() as patch:
        if plain:
            patch.setattr(torch_learn, "why_not_online", lambda *args, **options: "the plain step is asked for")
        learner = TorchLearner(net, net.draw(1), rule, loss, optimiser)
    assert type(learner.online) is (OnlineLearner if plain else OnlineKernel)
    before = learner.arrays()
    metrics, after = learner.train(trials), learner.arrays()
    frozen = {f"weight.{n}" for n, p in net.projections.items() if not p.plastic} | {"updates"}
    return {n: torch.as_tensor(after[n] - before[n]) for n in after if n not in frozen}, metrics, learner.updates


def same_course(net, rule, loss, optimiser, trials):
    moved, metrics, updates = course(net, rule, loss, optimiser, trials, plain=False)
    others = course(net, rule, loss, optimiser, trials, plain=True)
    assert distance(moved, others[0]) < 1e-10
    assert metrics == [pytest.approx(m, rel=1e-9, nan_ok=True) for m in others[1]]
    assert updates == others[2]
    return updates


@pytest.mark.sampled(2, 1)
@pytest.mark.parametrize("name", RULES)
def test_gradients(name):
    for where, net in networks(name).items():
        loss = {"layers": smooth_l1(), "currents": cross_entropy()}.get(where, mse())
        same_gradients(net, RULES[name](), loss, trials_for(loss))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", RULES)
def test_weights_that_change_within_a_trial(name):
    """In every step and every few, by two optimisers; networks take turns, where a rule has more than one."""
    known = networks(name)
    for number, (where, net) in enumerate(known.items()):
        scale = 1e-3 if where == "currents" else 1.0
        optimisers = [sgd(0.02 * scale**2), adam(0.02 * scale)][:: 1 - 2 * (number // 2 % 2)]
        for turn, (update, count) in enumerate([("step", 2 * STEPS), (INTERVAL * ms, 2 * -(-STEPS // INTERVAL))]):
            if turn == number % 2 or len(known) == 1:
                assert same_course(net, RULES[name](update=update), mse(), optimisers[turn], trials_for(mse())) == count


def test_an_interval_of_one_step_and_of_a_whole_trial():
    net, trials, loss = layers(False), trials_for(mse()), mse()
    stepwise, *_ = course(net, rules.ottt(update="step"), loss, adam(0.02), trials, plain=False)
    short, *_ = course(net, rules.ottt(update=1 * ms), loss, adam(0.02), trials, plain=False)
    assert distance(short, stepwise) < 1e-12
    same_course(net, rules.ottt(update=1000 * ms), loss, sgd(0.02), trials)


def spoiled(factor):
    """What passes the error on, wrong by ``factor``."""

    def spoil(learned):
        top = learned.neurons["top"]
        wrong = replace(top, end=tuple((name, factor * e) for name, e in top.end))
        return replace(learned, neurons={**learned.neurons, "top": wrong})

    return spoil


def punctual(learned):
    """The plan with a signal that reaches the lower layer too early."""
    low = learned.neurons["low"]
    shift = tuple((name, e) for name, e in low.shift if not name.startswith("late1"))
    return replace(learned, neurons={**learned.neurons, "low": replace(low, shift=shift)})


@pytest.mark.parametrize("spoil", [spoiled(1 + 1e-6), punctual], ids=["size", "time"])
def test_a_planted_error_is_caught(spoil):
    same_gradients(layers(False), rules.ottt(), mse(), trials_for(mse()), spoil=spoiled(1))
    with pytest.raises(AssertionError):
        same_gradients(layers(False), rules.ottt(), mse(), trials_for(mse()), spoil=spoil)


def test_threads_share_the_trials():
    for threads in (2, 7):
        same_gradients(layers(False), rules.ostl(), mse(), trials_for(mse(), 5), threads=threads)


def test_batches_learn_in_the_kernel(caplog):
    learner = TorchLearner(layers(False), layers(False).draw(1), rules.ottt(), mse(), adam(0.01), batch=4, threads=2)
    assert isinstance(learner.online, OnlineKernel) and len(learner.online.memories) == 2
    losses = [m["loss"] for _ in range(15) for m in learner.train(trials_for(mse(), 4))]
    assert losses[-1] < losses[0] and "slower" not in caplog.text


def maze():
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


@pytest.mark.parametrize("make", [functools.partial(rules.eprop, feedback="random"), rules.ottt], ids=["eprop", "ottt"])
def test_running_rates(make):
    """Weights change in every step, whether it counts or not."""
    loss, trials = mse() + rate(20 * Hz, 1e-2, window=20 * ms), trials_for(mse())
    same_gradients(layers(False), make(), loss, trials)
    with pytest.raises(AssertionError):
        same_gradients(layers(False), make(), loss, trials, spoil=lambda _: plan(layers(False), make(), mse()))
    same_course(layers(False), make(update="step"), loss, sgd(0.02), trials)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("make", [rules.eprop, rules.ottt])
def test_reward(make):
    net, trials = maze()
    loss = reward(6 * ms, discount=0.9)
    same_gradients(net, make(), loss, trials)
    with pytest.raises(AssertionError):  # discount and delay weigh in
        same_gradients(
            net, make(), loss, trials, spoil=lambda learned: replace(learned, loss=replace(loss, delay=0.005))
        )
    for update in ("step", INTERVAL * ms):
        same_course(net, make(update=update), loss, adam(0.01), trials)


def learns(net, *parameters):
    """``net`` with parameters of its lower layer that learn."""
    bounds = dict.fromkeys(parameters, (None, None)) | {"tau_mem": (0.1 * ms, None)}
    low = replace(net.nodes["low"], trainable=bounds)
    nodes = {**net.nodes, "low": low}
    return Network(dt=1 * ms, **nodes, projections=list(net.projections.values()))


@pytest.mark.parametrize("make", [functools.partial(rules.eprop, feedback="random"), rules.ottt], ids=["eprop", "ottt"])
@pytest.mark.parametrize("loss", [mse(), mse() + rate(20 * Hz, 1e-3)], ids=["plain", "regularised"])
def test_parameters(make, loss):
    net = learns(layers(False), "tau_mem", "beta")
    same_gradients(net, make(), loss, trials_for(loss))


def test_parameters_change_from_batch_to_batch(monkeypatch):
    net, trials = learns(layers(False), "tau_mem", "beta"), trials_for(mse(), 4)
    optimiser = adam(0.02).with_rates(**{"low.tau_mem": 1e-2, "low.beta": 1.0})
    moved = []
    for kind in (OnlineKernel, OnlineLearner):
        learner = TorchLearner(net, net.draw(1), rules.ottt(), mse(), optimiser, batch=2)
        for _ in range(3):
            learner.train(trials)
        assert isinstance(learner.online, kind)
        moved.append({n: torch.as_tensor(x) for n, x in learner.arrays().items() if n != "updates"})
        monkeypatch.setattr(torch_learn, "why_not_online", lambda *args, **options: "this is the oracle")
    assert distance(*moved) < 1e-10


def test_what_cannot_be_is_refused():
    net, rule = layers(False), rules.ottt(update="step")
    assert "one trial after the other" in why_not_online(net, plan(net, rule, mse()), sgd(0.1), batch=2)
    # fmt: skip
    late = Network(
        dt=1 * ms,
        **net.nodes,
        projections=[
            replace(p, delay=axonal(1 * ms, trainable=True)) if p.name == "cues_low" else p
            for p in net.projections.values()
        ],
    )
    assert "delays learn" in why_not_online(late, plan(late, rules.ottt(), mse()))
    learned = plan(net, rules.ottt(), mse())
    assert "between two steps" in why_not_online(net, learned, delays={"cues_low": np.array([0.0, 1.5])})
    assert why_not_online(net, learned, delays={"cues_low": np.array([0.0, 2.0])}) is None
