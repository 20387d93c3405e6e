"""What holds of every run of learning: who hears the teacher, what stays, what is judged and what is counted."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from brian2 import ms

import localplast as lp
from localplast import rules
from localplast.learning.filters import Immediate
from localplast.models import (
    instant_readout,
    latent_equilibrium,
    latent_equilibrium_output,
    leaky_readout,
    lif,
    van_rossum_readout,
)  # fmt: skip
from localplast.models.layers import layered, stream
from localplast.network import Input, Network, Population, Projection, axonal, normal, synaptic, uniform
from localplast.neuron.surrogate import triangle
from localplast.rules import bptt, dendritic, eprop
from localplast.runs import fit
from localplast.runs.options import Options, Schedule
from localplast.runs.request import Request
from localplast.study import cost
from localplast.task import Task, Trials
from localplast.task.loss import cross_entropy, mse

STEPS = 30


def still(trials):
    """A task that presents the same trials again and again, and tests them."""
    return Task("still", lambda update, batch, seed: trials[:batch], lambda n, seed: trials[:n])


def learn(net, trials, rule, *, batch=None, **options):
    options = {"optimiser": lp.sgd(0.0), "updates": 1, "target": "numpy", "show": False, "backend": "torch", **options}
    return lp.run(net, still(trials), rule=rule, batch=batch or len(trials), **options)


def told(fit, metric, update=-1):
    return float(fit["metrics"][metric][update])


class TestTeacher:
    """A network whose teacher nudges the output that the loss looks at."""

    net = layered((3, 4, 2), latent_equilibrium(), latent_equilibrium_output(beta=0.5))
    rng = np.random.default_rng(0)
    trials = stream(rng.random((1, 2, 3)), rng.random((1, 2, 2)), steps=20)

    def loss(self, trials):
        """Of what the readout says while nothing learns."""
        said = lp.run(self.net, trials, record=["said.shown"], backend="torch")["said"]["shown"].values
        return float((trials.weight[:, None] * 0.5 * (said - trials.target) ** 2).sum((1, 2)).mean())

    def test_both_can_be_told_apart(self):
        assert abs(self.loss(self.trials) / self.loss(self.trials.without(self.net.teachers)) - 1) > 0.01

    @pytest.mark.parametrize("rule", [bptt(), bptt(cut={"reset"})], ids=["BPTT", "an edge cut"])
    def test_backpropagation_never_hears_it(self, rule):
        silent = self.trials.without(self.net.teachers)
        assert told(learn(self.net, self.trials, rule), "loss") == pytest.approx(self.loss(silent), rel=1e-12)
        heard, unheard = (lp.gradient(self.net, t, rule, loss=mse()) for t in (self.trials, silent))
        assert heard.identical(unheard)
        moved = [learn(self.net, t, rule, optimiser=lp.sgd(1.0))["up1"]["weight"].values for t in (self.trials, silent)]
        np.testing.assert_array_equal(*moved)
        assert np.abs(moved[0] - self.net.draw(0).weights["up1"]).max() > 1e-6

    @pytest.mark.parametrize("backend", ["torch", "brian2"])
    def test_dendrites_hear_it_while_they_learn_and_not_in_tests(self, backend):
        found = learn(self.net, self.trials, dendritic(), backend=backend, test=1)
        assert told(found, "loss") == pytest.approx(self.loss(self.trials), rel=1e-9)
        for update in (0, 1):
            silent = self.trials.without(self.net.teachers)
            assert told(found, "test_loss", update) == pytest.approx(self.loss(silent), rel=1e-9)


# --- what stays -------------------------------------------------------------------------------------------------------


def recurrent(delay=None, model=None, **within):
    return Network(
        dt=1 * ms, cues=Input(6), rec=Population(8, model or lif()), out=Population(2, leaky_readout()),
        projections=[
            Projection("cues", "rec", weight=normal(2.0), delay=delay), Projection("rec", "rec", **within),
            Projection("rec", "out"),
        ],
    )  # fmt: skip


def spikes(n=4, seed=0):
    rng = np.random.default_rng(seed)
    return Trials({"cues": rng.random((n, STEPS, 6)) < 0.3}, rng.integers(0, 2, n), np.full(STEPS, 1 / STEPS))


THREE = {"BPTT": (bptt(), "torch"), "e-prop": (eprop(), "torch"), "Brian2": (eprop(), "brian2")}
LEARNERS = {
    "BPTT": (bptt(), "torch", 4), "e-prop": (eprop(), "torch", 4), "every step": (eprop(update="step"), "torch", 4),
    "Brian2": (eprop(), "brian2", 4), "every step in Brian2": (eprop(update="step"), "brian2", 1),
}  # fmt: skip


@pytest.mark.sampled(3)
@pytest.mark.parametrize("optimiser", [lp.adam(0.1), lp.sgd(0.1).decayed(0.01)], ids=["adam", "decay"])
@pytest.mark.parametrize("learner", LEARNERS)
def test_recurrent_weights_that_are_frozen_stay_and_no_others(learner, optimiser):
    (rule, backend, batch), net = LEARNERS[learner], recurrent()
    frozen = optimiser.with_rates(rec_rec=0.0)
    found = learn(net, spikes(), rule, backend=backend, batch=batch, updates=2, optimiser=frozen)
    for name, start in net.draw(0).weights.items():
        moved = np.abs(found[name]["weight"].values - start).max()
        assert moved == 0 if name == "rec_rec" else moved > 1e-4, name


@pytest.mark.parametrize("trainable", [False, (0 * ms, 20 * ms)], ids=["fixed", "learned"])
def test_delays_that_are_drawn_come_back_with_their_record(trainable):
    """Those of its seed, or what became of them."""
    net = recurrent(synaptic(uniform(6 * ms, mean=7 * ms, fan_in=False), trainable=trainable))
    rates = {"cues_rec.delay": 5.0} if trainable else {}
    values = net.values_from(learn(net, spikes(), bptt(), seed=4, optimiser=lp.adam(0.1).with_rates(**rates)))
    drawn, other = net.draw(4), net.draw(0)
    moved = np.abs(values.delays["cues_rec"] - drawn.delays["cues_rec"]).max()
    assert 0.1 < moved <= 1.5 if trainable else moved == 0
    assert np.abs(values.delays["cues_rec"] - other.delays["cues_rec"]).max() > 2
    assert values.delays["rec_rec"] == 0 and np.abs(values.weights["cues_rec"] - drawn.weights["cues_rec"]).max() > 1e-3


@pytest.mark.parametrize("rule, backend", THREE.values(), ids=THREE)
def test_learned_delays_are_tested_rounded_half_up(rule, backend):
    """0.5, 1.5 and 2.5 steps are 1, 2 and 3; not the even ones, and not what lies below."""
    delays = np.array([0.5, 1.5, 2.5, 3.4, 4.6, 6.5])
    net, given = recurrent(axonal(delays * ms, trainable=(0 * ms, 20 * ms))), spikes()
    slow = lp.sgd(0.0).with_rates(**{"cues_rec.delay": 1.0})
    found = told(learn(net, given, rule, backend=backend, test=4, optimiser=slow), "test_loss")

    def whole(steps):
        fixed = recurrent(axonal(np.array(steps) * ms))
        return lp.gradient(fixed, given, bptt(), loss=cross_entropy(), values=fixed.draw(0)).attrs["loss"]

    assert found == pytest.approx(whole([1, 2, 3, 3, 5, 7]), rel=1e-9)
    wrong = ([0, 2, 2, 3, 5, 6], [0, 1, 2, 3, 4, 6], [1, 2, 3, 4, 5, 7])
    assert all(abs(found / whole(other) - 1) > 1e-4 for other in wrong)
    np.testing.assert_array_equal(net.draw(0).rounded(net).delays["cues_rec"], [1, 2, 3, 3, 5, 7])


def test_what_was_learned_is_found_whatever_was_kept():
    """The latest weights, not the first, where they are kept along training."""
    net = recurrent()
    options = dict(updates=4, optimiser=lp.adam(0.1))
    plain = learn(net, spikes(), bptt(), **options)
    along = learn(net, spikes(), bptt(), record={"rec_rec.weight": {"every": 2}}, **options)
    assert list(along["rec_rec"]["update"].values) == [2, 4]
    np.testing.assert_array_equal(net.values_from(along).weights["rec_rec"], plain["rec_rec"]["weight"])
    half = learn(net, spikes(), bptt(), **{**options, "updates": 2})
    np.testing.assert_array_equal(along["rec_rec"]["weight"][0], half["rec_rec"]["weight"])


# --- what is judged ---------------------------------------------------------------------------------------------------


def judged():
    """Two channels, a readout each, and a window: within it the right one speaks, outside it the wrong one does."""
    net = Network(
        dt=1 * ms, cues=Input(2), out=Population(2, leaky_readout(tau_out=2 * ms)),
        projections=[Projection("cues", "out", weight=np.eye(2), delay=axonal(0 * ms))],
    )  # fmt: skip
    raster, weight, label = np.zeros((4, 40, 2), bool), np.zeros(40), np.array([0, 1, 0, 1])
    weight[15:25] = np.linspace(0.5, 1.5, 10)
    raster[np.arange(4), 20, label] = True
    for step in (2, 5, 8, 27, 30, 33, 39):
        raster[np.arange(4), step, 1 - label] = True
    raster[3, [17, 20], 0] = True  # here the wrong one has more within the window too
    return net, Trials({"cues": raster}, label, weight)


@pytest.mark.parametrize("rule, backend", THREE.values(), ids=THREE)
def test_accuracy_is_that_of_the_window(rule, backend):
    net, given = judged()
    found = learn(net, given, rule, backend=backend, test=4)
    assert [told(found, "accuracy"), told(found, "test_accuracy", 0), told(found, "test_accuracy")] == [0.75] * 3
    for one in (lp.gradient(net, given, rule, backend=b, values=net.draw(0)) for b in {backend, "torch"}):
        assert one.attrs["accuracy"] == 0.75
    everywhere = Trials(given.inputs, given.target, np.ones(40))
    assert told(learn(net, everywhere, rule, backend=backend), "accuracy") == 0.0


@pytest.mark.parametrize("backend", ["torch", "brian2"])
def test_every_test_trial_counts_the_same(backend):
    """However many they are: they are presented in parts."""
    net, rule = recurrent(), eprop()
    given = spikes(257, seed=1)
    given = Trials(given.inputs, np.arange(257) % 2 * (np.arange(257) < 250), given.weight)
    found = learn(net, given, rule, backend=backend, batch=2, test=257)
    exact = lp.gradient(net, given, bptt(), values=net.draw(0)).attrs
    assert told(found, "test_loss", 0) == pytest.approx(exact["loss"], rel=1e-12)
    assert told(found, "test_accuracy", 0) == pytest.approx(exact["accuracy"], rel=1e-12)
    counts = lp.run(net, given, backend="torch", record=["rec.raster"])["rec"]["spikes"].values.sum(1)
    assert told(found, "test_spikes", 0) == pytest.approx(counts.mean(), rel=1e-12)


def test_a_record_begins_before_the_first_update_and_tests_when_it_is_told_to():
    found = learn(recurrent(), spikes(), bptt(), updates=6, test=4, test_every=3, optimiser=lp.adam(0.05))["metrics"]
    tested = np.isfinite(found["test_loss"].values)
    assert list(found["update"].values[tested]) == [0, 3, 6] and np.isnan(found["loss"].values[0])
    net = recurrent()
    fresh = lp.gradient(net, spikes(), bptt(), values=net.draw(0)).attrs["loss"]
    tests, training = found["test_loss"].values, found["loss"].values
    assert tests[0] == pytest.approx(fresh, rel=1e-12) and training[1] == pytest.approx(fresh, rel=1e-12)
    assert tests[3] == pytest.approx(training[4], rel=1e-12), "a test comes after its update"


# --- what is counted --------------------------------------------------------------------------------------------------


class Clock:
    """Seconds that pass when somebody says so."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    monotonic = perf_counter


def test_seconds_per_trial_are_of_training_alone(monkeypatch):
    """A fifth of a second per update of four trials: tests take their time, and do not count."""
    clock, given = Clock(), spikes()
    monkeypatch.setattr(fit, "time", clock)
    net = recurrent()

    def passing(seconds, function):
        def slow(*given, **options):
            clock.now += seconds
            return function(*given, **options)

        return slow

    task = Task("slow", lambda update, batch, seed: given, passing(100.0, lambda n, seed: given[:n]))
    training = fit.Fit(
        net,
        task,
        net.draw(0),
        bptt(),
        lp.sgd(0.0),
        None,
        Schedule(batch=4, updates=3, test=2),
        Options(backend="torch"),
    )
    monkeypatch.setattr(training.learner, "train", passing(0.2, training.learner.train))
    monkeypatch.setattr(training.learner, "evaluate", passing(50.0, training.learner.evaluate))
    training.run(Request(), show=False)
    assert cost.seconds_per_trial(training, 0) == {"torch": pytest.approx(0.2 / 4)}
    training.restart(net.draw(1), 1)
    assert training.seconds == 0


def test_seconds_per_trial_of_the_other_backend_leave_compiling_out(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(cost, "time", clock)
    durations = iter([60.0, 0.5, 0.7, 0.9])

    def train(trials):
        clock.now += next(durations)

    monkeypatch.setattr(cost, "twin", lambda fit, seed, updates: (SimpleNamespace(train=train), [None] * updates))
    done = SimpleNamespace(backend="brian2", seconds=12.0, updates=3, done=3, batch=2)
    assert cost.seconds_per_trial(done, 0, updates=3) == {"brian2": pytest.approx(2.0), "torch": pytest.approx(2.1 / 6)}


# --- weights that cannot matter ---------------------------------------------------------------------------------------

#: A neuron with a variable ``u`` that never reaches the threshold, a readout with one, ``q``, that is never read.
DEAF = lp.NeuronModel(
    name="deaf", equations="dv/dt = -v/tau : 1\ndu/dt = -u/tau : 1", parameters={"tau": 10 * ms}, threshold="v > 1",
    reset="v -= 1", method="euler", surrogate=triangle(1.0),
)  # fmt: skip
HEARD_IN_PART = lp.NeuronModel(
    name="reader", equations="dy/dt = -y/tau : 1\ndq/dt = -q/tau : 1", parameters={"tau": 20 * ms}, output="y",
    receives="y",
)  # fmt: skip
IDLE = ("idle", "loop", "unread")


def with_idle_weights(kind):
    """A network whose projections :data:`IDLE` change no loss, readouts as rules of this ``kind`` want them."""
    readout = {"local": instant_readout(), "spikes": van_rossum_readout()}.get(kind, HEARD_IN_PART)
    own = {} if readout is HEARD_IN_PART else {"mask": np.eye(5, dtype=bool), "plastic": False}
    idle = {
        "idle": Projection("cues", "rec", target="u", name="idle", delay=axonal(1 * ms)),
        "loop": Projection("rec", "rec", target="u", name="loop"),
        "unread": Projection("cues", "out", target="q", name="unread"),
    }
    return Network(
        dt=1 * ms, cues=Input(4), rec=Population(5, DEAF), out=Population(5, readout),
        projections=[
            Projection("cues", "rec", weight=normal(1.5, mean=0.3)), Projection("rec", "out", **own),
            *(idle[name] for name in IDLE if kind == "errors" or name == "idle"),
        ],
    )  # fmt: skip


def noise(trials=2):
    rng = np.random.default_rng(0)
    return Trials({"cues": rng.random((trials, STEPS, 4)) < 0.3}, rng.normal(size=(trials, STEPS, 5)))


def every_rule():
    """All that learn from errors, each with the kind of network it is for; S-TLLR wants neurons that hear at once."""
    kinds = {"decolle": "local", "superspike": "spikes"}
    changed = {"feedback_alignment": lambda: rules.feedback_alignment(eprop(), "random")}
    for name in sorted({*rules.__all__} - {"dendritic", "s_tllr"}):
        yield pytest.param(changed.get(name, getattr(rules, name))(), kinds.get(name, "errors"), id=name)
    yield pytest.param(eprop(reset=True), "errors", id="eprop, reset followed")


@pytest.mark.sampled(5)
@pytest.mark.parametrize("rule, kind", every_rule())
def test_the_gradient_of_weights_that_cannot_matter_is_zero(rule, kind):
    net, ways, found = with_idle_weights(kind), [{"form": form} for form in (None, "traces", "adjoint", "forward")], 0
    for options in (*ways, {"backend": "brian2"}):
        try:
            grads = lp.gradient(net, noise(), rule, loss=mse(), **options)
        except lp.UnsupportedError:
            continue
        found += 1
        assert np.abs(grads["cues_rec"]["gradient"]).max() > 1, options
        assert all((grads[name]["gradient"] == 0).all() for name in IDLE if name in net.projections), options
    assert found > 1


def test_a_layered_signal_refuses_what_is_not_heard_at_once():
    with pytest.raises(lp.UnsupportedError, match="what lands on 'u' of deaf moves what it sends .* or never"):
        lp.gradient(with_idle_weights("errors"), noise(), rules.s_tllr(), loss=mse())


@pytest.mark.parametrize("engine", ["kernel", "plain", "brian2"])
@pytest.mark.parametrize("update", ["step", "trial"])
def test_weights_that_cannot_matter_stay(engine, update, monkeypatch):
    """Bit for bit, with an optimiser that divides by the size of gradients."""
    if engine == "plain":
        monkeypatch.setattr("localplast.backends.torch.learner.why_not_online", lambda *args, **options: "asked for")
    net, backend = with_idle_weights("errors"), "brian2" if engine == "brian2" else "torch"
    options = {"optimiser": lp.adam(0.01), "updates": 2, "loss": mse(), "backend": backend}
    found, start = learn(net, noise(1), eprop(update=update, reset=True), **options), net.draw(0).weights
    assert np.abs(found["cues_rec"]["weight"] - start["cues_rec"]).max() > 1e-3
    for name in IDLE:
        np.testing.assert_array_equal(found[name]["weight"], start[name])


@pytest.mark.parametrize("rule", [
    eprop(kappa=0.0), eprop(kappa=7 * ms), replace(eprop(), filter=Immediate()),
], ids=["no filter", "another time", "immediate"])  # fmt: skip
def test_a_rule_with_another_filter_is_no_cut_of_the_graph(rule):
    """Its traces are carried forward, and not what automatic differentiation finds with the filter of the readout."""
    net, raster = recurrent(), np.random.default_rng(2).random((1, STEPS, 6)) < 0.4
    trials = Trials({"cues": raster}, np.ones((1, STEPS, 2)))
    with pytest.raises(lp.UnsupportedError, match="no cut of the credit graph equals .* use form='traces'"):
        lp.gradient(net, trials, rule, loss=mse(), form="adjoint")
    found, traces, usual = (
        lp.gradient(net, trials, each, loss=mse(), form=form)["cues_rec"]["gradient"].values
        for each, form in ((rule, None), (rule, "traces"), (eprop(), None))
    )
    np.testing.assert_allclose(found, traces, rtol=1e-12)
    assert np.abs(found - usual).max() > 0.01 * np.abs(usual).max()
