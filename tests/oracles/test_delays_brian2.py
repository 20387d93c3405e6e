"""Delays between two steps, and delays that learn, in Brian2: the twin of what Torch interpolates.

Brian2 knows whole delays, fixed during a run. A delay between two steps is two pathways, a delay that learns changes
between two runs: membranes, gradients and what is learned must be those of Torch, where a delay is a real number.
"""

import shutil
from dataclasses import replace

import brian2 as b2
import numpy as np
import pytest
from brian2 import Hz, ms

import localplast as lp
from localplast.backends.brian2.audit import audit_text, example_trials, text_violations, texts_of
from localplast.backends.brian2.build import build
from localplast.backends.brian2.delays import settings
from localplast.backends.brian2.learner import Brian2Learner
from localplast.backends.brian2.lowered import Lowered
from localplast.backends.brian2.timing import Block, longest_delay
from localplast.backends.torch.learner import TorchLearner
from localplast.backends.torch.online import OnlineLearner
from localplast.equations.language import symbol
from localplast.errors import LocalplastError, NetworkError, UnsupportedError
from localplast.models import alif, leaky_readout, lif
from localplast.network import Input, Network, Population, Projection, axonal, dendritic, normal, synaptic
from localplast.network.delays import triangle
from localplast.program.learn import plan
from localplast.program.locality import audit
from localplast.rules import eprop
from localplast.task import Task, Trials
from localplast.task.loss import cross_entropy, mse, rate

N_IN, N, N_OUT, STEPS = 4, 5, 2, 30
SHAPES = {
    "axonal": lambda pre, post: (pre,),
    "dendritic": lambda pre, post: (post,),
    "synaptic": lambda pre, post: (pre, post),
}
MAKE = {"axonal": axonal, "dendritic": dendritic, "synaptic": synaptic}
BOUNDS = (0.5 * ms, 6 * ms)
PLASTIC, LEARNED = ["cues_rec", "rec_rec", "rec_out"], ["cues_rec.delay", "rec_rec.delay"]


def delays(kind, pre, post, trainable):
    """From 1 to 4 steps, some whole, all if they do not learn."""
    drawn = np.random.default_rng(pre).uniform(1, 4, SHAPES[kind](pre, post))
    drawn.flat[:: 3 if trainable else 1] = np.floor(drawn.flat[:: 3 if trainable else 1])
    return MAKE[kind](drawn * ms, trainable=trainable)


def network(kind, *, trainable=BOUNDS):
    return Network(
        dt=1 * ms, cues=Input(N_IN), out=Population(N_OUT, leaky_readout(tau_out=15 * ms)),
        rec=Population(N, alif(tau_adapt=60 * ms, tau_ref=3 * ms), {"beta": np.linspace(0, 1, N)}),
        projections=[
            Projection("cues", "rec", weight=normal(1.6, mean=0.5), delay=delays(kind, N_IN, N, trainable), mask=0.8),
            Projection("rec", "rec", weight=normal(1.5), delay=delays(kind, N, N, trainable)),
            Projection("rec", "out", weight=normal(2.0)),
        ],
    )  # fmt: skip


def trials(count=4, seed=7):
    rng = np.random.default_rng(seed)
    spikes = rng.random((count, STEPS, N_IN)) < 0.4
    return Trials({"cues": spikes}, rng.standard_normal((count, STEPS, N_OUT)), np.linspace(0.2, 1, STEPS))


def error(found, expected):
    assert np.shape(found) == np.shape(expected)
    scale = np.abs(expected).max()
    assert scale > 1e-9, "nothing to compare"
    return np.abs(found - expected).max() / scale


# --- the forward run --------------------------------------------------------------------------------------------------


def membranes(backend, net, values, given):
    return lp.run(net, given, backend=backend, values=values, record=["rec.v", "rec.spikes"], show=False)["rec"][
        "v"
    ].values


@pytest.mark.parametrize("kind", MAKE)
def test_membranes(kind):
    net, given = network(kind), trials()
    values = net.draw(3)
    one, other = (membranes(backend, net, values, given) for backend in ("torch", "brian2"))
    assert np.abs(one).max() > 0.5
    assert error(other, one) < 1e-12


def swapped(*given):
    return {k: 1 - v if k[1].startswith("fraction") else v for k, v in settings(*given).items()}


PLANTED = {
    "shares the wrong way round": ("localplast.backends.brian2.build.settings", swapped),
    "the late one too late": ("localplast.backends.brian2.delays.LATER", {"deliver": 0, "late": 2}),
    "the late one in time": ("localplast.backends.brian2.delays.LATER", {"deliver": 0, "late": 0}),
}


@pytest.mark.parametrize("wrong", PLANTED)
def test_planted_errors_show(wrong, monkeypatch):
    net, given = network("synaptic"), trials()
    values = net.draw(3)
    monkeypatch.setattr(*PLANTED[wrong])
    assert error(membranes("brian2", net, values, given), membranes("torch", net, values, given)) > 0.01


@pytest.mark.parametrize("steps", [0, 1, 9, 41])
def test_arrival(steps):
    """A spike at t arrives at t + d; between two steps its share arrives at each, also in the trial after it was late
    for.
    """
    weight, delay = 0.3, synaptic(np.full((1, 1), steps) * ms, trainable=True)
    link = Projection("cues", "rec", weight=np.full((1, 1), weight), delay=delay)
    net = Network(dt=1 * ms, cues=Input(1), rec=Population(1, lif()), projections=[link])
    spikes = np.zeros((2, 50, 1), bool)
    spikes[:, 5] = True
    for delay in (steps, steps + 0.25):
        values = net.draw(0).replace_weights({}, {"cues_rec.delay": np.full((1, 1), float(delay))})
        v, shares = membranes("brian2", net, values, Trials({"cues": spikes}))[..., 0], np.zeros(50)
        shares[5 + steps] = 1 - (delay - steps)
        if 6 + steps < 50:
            shares[6 + steps] = delay - steps
        expected = weight * np.convolve(shares, np.exp(-np.arange(50) / 20))[:50]
        assert np.abs(v - expected).max() < 1e-12


@pytest.mark.parametrize("kind", ["axonal", "synaptic"])
def test_traces_that_miss_the_late_share_show(kind, monkeypatch):
    """The right gradients are in test_delays."""
    net, given = network(kind), trials()
    values = net.draw(3)
    arrive = Lowered.arrive

    def deaf(self, s):
        arrive(self, s)
        self.words = {
            k: e.xreplace({x: x / 1e9 for x in e.free_symbols if "fraction" in x.name}) for k, e in self.words.items()
        }

    monkeypatch.setattr(Lowered, "arrive", deaf)
    one, other = (
        lp.gradient(net, given, eprop(), loss=mse(), backend=b, values=values)["rec_rec"] for b in ("torch", "brian2")
    )
    assert error(other["gradient"].values, one["gradient"].values) > 0.01


# --- learning ---------------------------------------------------------------------------------------------------------

OPTIMISER = lp.adam(5e-3).with_rates(**{"cues_rec.delay": 50.0, "rec_rec.delay": 50.0})


def learners(kind, batch, target="numpy", rates=()):
    """The same learner in Torch, where traces are carried forward, and in Brian2."""
    net, loss, optimiser = network(kind), mse() + rate(10 * Hz, 1e-4), OPTIMISER.with_rates(**dict(rates))
    values = net.draw(3)
    one = TorchLearner(net, values, eprop(), loss, optimiser, batch=batch)
    one.online = one.online_learner(plan(net, eprop(), loss, values=values))
    return one, Brian2Learner(net, values, eprop(), loss, optimiser, trials(1), batch=batch, target=target)


def apart(one, other):
    """The largest relative difference of all that two learners have learned."""
    found = {**one.numbers(), **one.parameters()}, {**other.numbers(), **other.parameters()}
    assert list(one.parameters()) == list(other.parameters()) == LEARNED
    return max(error(found[1][n], x) for n, x in found[0].items())


def teach(learner, updates, first=0):
    return [learner.train(trials(learner.batch, seed=k))[0] for k in range(first, updates)]


QUICK = [("axonal", 1, 3), ("dendritic", 4, 2), ("synaptic", 1, 3)]
LONG = [(kind, batch, 12) for kind in MAKE for batch in (1, 4)]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("kind", "batch", "updates"), [*QUICK, *(pytest.param(*row, marks=pytest.mark.slow) for row in LONG)]
)
def test_learning(kind, batch, updates):
    one, other = learners(kind, batch)
    start = one.parameters()
    found = [teach(learner, updates) for learner in (one, other)]
    assert apart(one, other) < 1e-8
    assert [m["loss"] for m in found[1]] == pytest.approx([m["loss"] for m in found[0]], rel=1e-9)
    for name, steps in one.parameters().items():
        assert np.any(np.floor(steps) != np.floor(start[name]))


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") and shutil.which("make")), reason="no C++ compiler here")
@pytest.mark.parametrize("kind", ["axonal", "synaptic"])
def test_learning_in_cpp(kind):
    """The program is compiled once; every run of it reads its delays."""
    one, other = learners(kind, 2, target="cpp")
    try:
        teach(one, 10), teach(other, 10)
        assert apart(one, other) < 1e-8
    finally:
        other.close()


def test_bounds_and_frozen_delays():
    """At its bounds a delay stops, and what is frozen stays, between two steps too; both as in Torch."""
    rates = {"cues_rec.delay": 900.0, "rec_rec.delay": 0}
    one, other = learners("dendritic", 1, rates=rates)
    teach(one, 3), teach(other, 3)
    moved, kept = (one.parameters()[name] for name in LEARNED)
    assert apart(one, other) < 1e-8
    assert moved.min() == 0.5 and moved.max() == 6
    assert np.array_equal(kept, one.net.draw(3).delays["rec_rec"]) and np.any(kept != np.floor(kept))


def test_weights_that_change_within_a_trial():
    """They act when a share of the spike arrives."""
    net, loss, rule = network("dendritic", trainable=False), mse(), eprop(update="step")
    values = net.draw(3)
    values = values.replace_weights({}, {f"{name}.delay": d + 0.3 for name, d in values.delays.items() if d.ndim})
    one = TorchLearner(net, values, rule, loss, lp.sgd(1e-3))
    one.online = OnlineLearner(net, one.online.plan, one.tensors, values.masks, one.optimiser)  # the plain step
    other = Brian2Learner(net, values, rule, loss, lp.sgd(1e-3), trials(1))
    teach(one, 2), teach(other, 2)
    assert max(error(other.numbers()[n], w) for n, w in one.numbers().items()) < 1e-9
    assert error(one.numbers()["rec_rec"], values.weights["rec_rec"]) > 0.01


@pytest.mark.parametrize(("kind", "optimiser"), [("axonal", OPTIMISER), ("synaptic", None)])
def test_text_is_local(kind, optimiser):
    net = network(kind)
    values = net.draw(3)
    assert audit_text(net, plan(net, eprop(), mse(), optimiser, values=values), values) == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gradient_delay += v_pre", "v_pre"), ("fraction += fraction_rec_rec_pre", "fraction_rec_rec_pre"),
        ("flight += j*second", "index 'j'"), ("v_post += gradient_delay", "writes 'v_post'"),
        ("gradient_delay += fraction_cues_rec_post", "fraction_cues_rec_post"),
    ],
)  # fmt: skip
def test_cheats_with_delays_are_caught(text, words):
    """In the text that Brian2 runs; the share that comes late is among what is looked at."""
    net = network("axonal")
    values, silence = net.draw(3), example_trials(net)
    made = plan(net, eprop(feedback="random"), mse(), OPTIMISER, values=values)
    built = build(net, values, Block(1, silence.steps, longest_delay(values.delays)), silence, plan=made)
    b2.Network(*built.objects.values())
    assert text_violations(built, made) == ()
    assert "rec_rec_late" in [title for title, _, _ in texts_of(net, built.objects["rec_rec"], "rec_rec")]
    built.objects["rec_rec"].run_regularly(text, when="end", name="rec_rec_spy")
    assert any(words in found for found in text_violations(built, made))


@pytest.mark.parametrize("name", ["v_other", "loss", "w_rec_out"])
@pytest.mark.parametrize("kind", ["axonal", "synaptic"])
def test_cheats_in_the_equations_of_delays(kind, name):
    net = network(kind)
    made = plan(net, eprop(feedback="random"), mse(), OPTIMISER, values=net.draw(3))
    assert audit(made, net).local
    old = made.synapses["rec_rec"]
    spied = [(n, e * symbol(name) if n == "gradient_delay" else e) for n, e in old.program]
    found = audit(replace(made, synapses={**made.synapses, "rec_rec": replace(old, program=tuple(spied))}), net)
    assert len(found.violations) == 1 and f"gradient_delay reads {name!r}" in found.violations[0]


# --- runs, and what cannot be -----------------------------------------------------------------------------------------

PAIRS = Task.generated(
    "pairs", lambda rng, n: Trials({"cues": rng.random((n, 20, 2)) < 0.3}, np.zeros((n, 20, 2)), np.ones(20))
)
TASK = Task.generated("noise", lambda rng, n: trials(n, seed=int(rng.integers(1000))))


def fitted(net, updates, **options):
    options = {"rule": eprop(), "backend": "brian2", "target": "numpy", "batch": 2, "seed": 3, "show": False, **options}
    return lp.run(net, TASK, updates=updates, loss=mse(), **{"optimiser": OPTIMISER, **options})


@pytest.mark.thorough
def test_a_run_goes_on_where_it_stopped(tmp_path):
    """Delays and what the optimiser knows of them are in the checkpoint; the test trials see the delays of the
    moment.
    """
    net = network("axonal")
    whole = fitted(net, 2, test=3, test_every=1)
    fitted(net, 1, path=tmp_path / "a.zarr", test=3, test_every=1)
    half = fitted(net, 2, path=tmp_path / "a.zarr", test=3, test_every=1, resume=True)
    for name in LEARNED:
        assert np.array_equal(half["learned"][name].values, whole["learned"][name].values)
        assert np.abs(half["learned"][name].values - net.draw(3).delays[name.split(".")[0]]).max() > 0.2
    assert np.array_equal(half["metrics"]["test_loss"].values, whole["metrics"]["test_loss"].values, equal_nan=True)
    values = net.values_from(whole)
    tested = TorchLearner(net, values, eprop(), mse(), OPTIMISER).evaluate(TASK.testing(3, 3))["loss"]
    assert whole["metrics"]["test_loss"].values[-1] == pytest.approx(tested, rel=1e-12)
    assert error(membranes("brian2", net, values, trials()), membranes("torch", net, values, trials())) < 1e-12


def test_a_frozen_delay_is_not_spread():
    """A kernel serves learning: what is frozen lies between two steps, on both backends, here without a spiking
    population.
    """
    net = detector(trainable=BOUNDS, value=[1.3, 4] * ms, kernel=triangle(3 * ms))
    found = [run_frozen(net, backend) for backend in ("torch", "brian2")]
    assert np.abs(found[0] - found[1]).max() < 1e-12 and np.abs(found[0] - net.draw(3).weights["cues_out"]).max() > 1e-3


def run_frozen(net, backend):
    options = dict(
        rule=eprop(), optimiser=lp.sgd(1e-2).with_rates(**{"cues_out.delay": 0}), loss=mse(), batch=2, updates=2, seed=3
    )
    return net.values_from(lp.run(net, PAIRS, backend=backend, target="numpy", show=False, **options)).weights[
        "cues_out"
    ]


@pytest.mark.parametrize(("backend", "kernel"), [("brian2", None), ("torch", triangle(4 * ms, halving=1))])
def test_what_falls_goes_on_falling(backend, kernel, tmp_path):
    """The width of a kernel and a learning rate that halves, after a run was taken up again; and they do make a
    difference.
    """
    net = detector(trainable=BOUNDS, value=[1.3, 4] * ms, kernel=kernel)
    falling = lp.sgd(1e-2).with_rates(**{"cues_out.delay": 30.0})

    def learned(updates, optimiser=falling.halved(1), **options):
        options = dict(
            backend=backend, rule=eprop(), loss=mse(), batch=2, target="numpy", test_every=1, show=False, **options
        )
        return lp.run(net, PAIRS, optimiser=optimiser, updates=updates, **options)["learned"]["cues_out.delay"].values

    whole = learned(3)
    learned(2, path=tmp_path / "a.zarr")
    assert np.array_equal(learned(3, path=tmp_path / "a.zarr", resume=True), whole)
    assert np.abs(learned(3, falling) - whole).max() > 1e-3


def detector(**options):
    return Network(
        dt=1 * ms, cues=Input(2), out=Population(2, leaky_readout()),
        projections=[Projection("cues", "out", delay=axonal(options.pop("value", [1, 2] * ms), **options))],
    )  # fmt: skip


REFUSED = {
    "for ever longer": (
        {"trainable": True},
        "needs an upper bound, such as trainable=.0.*ms, 50.*ms.; or use backend='torch'",
    ),
    "from below only": ({"trainable": (1 * ms, None)}, "needs an upper bound"),
    "one for all": ({"trainable": BOUNDS, "value": 2 * ms}, "one number for all synapses, so learning it is not local"),
    "spread": (
        {"trainable": BOUNDS, "kernel": triangle(3 * ms)},
        "not spread by a triangle; use kernel=None, or backend='torch'",
    ),
}


@pytest.mark.parametrize("row", REFUSED)
def test_what_brian2_refuses_to_learn(row):
    options, words = REFUSED[row]
    net, optimiser = detector(**options), lp.sgd(0.1).with_rates(**{"cues_out.delay": 1})
    given = Trials({"cues": np.ones((1, 5, 2), bool)}, np.array([0]))
    with pytest.raises(UnsupportedError, match=f"^projection 'cues_out': .*{words}"):
        Brian2Learner(net, net.draw(0), eprop(), cross_entropy(), optimiser, given)


def test_what_a_learner_was_not_built_for():
    net, optimiser = detector(trainable=BOUNDS), lp.sgd(0.1).with_rates(**{"cues_out.delay": 1})
    given, values = Trials({"cues": np.ones((1, 5, 2), bool)}, np.array([0])), net.draw(0)
    with pytest.raises(
        LocalplastError, match="cues_out.delay changes between two runs of Brian2; use updates_per_block=1, not 2"
    ):
        Brian2Learner(net, values, eprop(), cross_entropy(), optimiser, given, updates_per_block=2)
    far = values.replace_weights({}, {"cues_out.delay": np.array([2.0, 7])})
    with pytest.raises(NetworkError, match="not within their bounds"):
        Brian2Learner(net, far, eprop(), cross_entropy(), optimiser, given)
    with pytest.raises(UnsupportedError, match="start from 2 to 7 steps, not within their bounds, 0.5 to 6 steps"):
        Brian2Learner(net, values, eprop(), cross_entropy(), optimiser, given).restart(far, 0)
    frozen = Brian2Learner(net, values, eprop(), cross_entropy(), optimiser.with_rates(**{"cues_out.delay": 0}), given)
    with pytest.raises(UnsupportedError, match="delays that do not learn differ"):
        frozen.restart(far, 0)
