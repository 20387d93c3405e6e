"""What a loss reports is what its gradient is taken of, on every engine: odd but legal targets and weights of steps.

Only the weights onto the readout are compared, of which every rule here has the exact gradient.
"""

import numpy as np
import pytest
import torch

import localplast as lp
from localplast import ms, mV
from localplast.backends.brian2.learner import Brian2Learner
from localplast.backends.c.online_call import OnlineKernel
from localplast.backends.torch.learner import TorchLearner
from localplast.models import leaky_readout, lif
from localplast.neuron import NeuronModel
from localplast.rules import bptt, eprop, rtrl

STEPS, CLASSES = 24, 3
RNG = np.random.default_rng(5)
RASTER = RNG.random((2, STEPS, 8)) < 0.25
FRACTIONS = RNG.uniform(0, 2, STEPS) * (np.arange(STEPS) % 3 > 0)
STEP = 1e-5


def network():
    return lp.Network(
        dt=1 * ms, cues=lp.Input(8), rec=lp.Population(6, lif()), out=lp.Population(CLASSES, leaky_readout()),
        projections=[lp.Projection("cues", "rec", weight=lp.normal(2.0)), lp.Projection("rec", "out")],
    )  # fmt: skip


def shares(total):
    """Targets of cross entropy whose rows sum to anything; no label at all in the first half of a trial."""
    rows = RNG.random((2, STEPS, CLASSES)) * total
    rows[:, : STEPS // 2] = 0
    return rows


TARGETS = {
    "labels": np.array([2, 0]), "bools": RNG.random((2, STEPS, CLASSES)) < 0.3, "rows of three": shares(6.0),
    "zeros": np.zeros((2, STEPS, CLASSES)), "path": RNG.normal(size=(2, STEPS, CLASSES)) * 2,
}  # fmt: skip
LOSSES = {
    "cross_entropy": ("labels", "bools", "rows of three", "zeros"),
    "mse": ("labels", "path"),
    "smooth_l1": ("bools", "path"),
    "mixture": ("bools",),
}
#: A loss of one's own, with everything that text can say: brackets, powers, bounds, and shares of classes.
MIXTURE = lp.losses.Loss(
    "mixture",
    (
        ("gap", "output - target"),
        ("near", "clip(gap, -bound, bound)"),
        ("loss", "gap**4/(2 + gap**2) + exp(-output/2)*(near - 3)**2/(1 - near/4) - 0.7*target*log(softmax)"),
    ),
    {"bound": 0.3},
)
CASES = [(kind, name) for kind, targets in LOSSES.items() for name in targets]


def by_hand(kind, y, target, weight):
    """The loss of outputs ``(trial, time, readout)``, mean over trials."""
    if target.ndim == 1:
        target = np.repeat(np.eye(CLASSES)[target][:, None], STEPS, 1)
    target = target.astype(float)
    gap = y - target
    if kind == "cross_entropy":
        each = -target * (y - np.log(np.exp(y).sum(-1, keepdims=True)))
    elif kind == "mixture":
        near, shares = np.clip(gap, -0.3, 0.3), np.exp(y) / np.exp(y).sum(-1, keepdims=True)
        each = gap**4 / (2 + gap**2) + np.exp(-y / 2) * (near - 3) ** 2 / (1 - near / 4) - 0.7 * target * np.log(shares)
    elif kind == "mse":
        each = gap**2 / 2
    else:
        each = np.where(abs(gap) < 1, gap**2 / 2, abs(gap) - 0.5)
    return (each.sum(-1) * weight).sum(1).mean()


@pytest.fixture(scope="module")
def outputs():
    """What the readout does: as the network is, and with one weight after the other a little more and a little less."""
    net = network()
    values = net.draw(0)

    def of(weights):
        changed = values.replace_weights({"rec_out": weights})
        return lp.run(net, lp.Trials({"cues": RASTER}), backend="torch", record=["out.v"], values=changed)["out"][
            "v"
        ].values

    start = values.weights["rec_out"]
    moved = np.eye(start.size).reshape(-1, *start.shape) * STEP
    assert of(start).std() > 0.1
    return of(start), [(of(start + move), of(start - move)) for move in moved]


def update_of(make, trials, loss):
    """Loss and gradient that a learner goes by, told from its first update."""
    net = network()
    learner = make(net, net.draw(0), loss, trials)
    found = learner.train(trials)[0]
    return found["loss"], net.draw(0).weights["rec_out"] - learner.numbers()["rec_out"]


def on_torch(rule):
    return lambda net, values, loss, trials: TorchLearner(net, values, rule, loss, lp.sgd(1.0), batch=2)


def on_kernel(net, values, loss, trials):
    learner = TorchLearner(net, values, eprop(feedback="sign"), loss, lp.sgd(1.0), batch=2)
    assert isinstance(learner.online, OnlineKernel)
    return learner


def asked(rule, **options):
    def engine(trials, loss):
        tree = lp.gradient(network(), trials, rule, loss=loss, **options)
        return tree.attrs["loss"], tree["rec_out"]["gradient"].values

    return engine


ENGINES = {
    "automatic differentiation": asked(bptt()), "forward in time": asked(rtrl(), form="forward"),
    "traces": asked(eprop(), form="traces"), "generated adjoint": lambda *a: update_of(on_torch(bptt()), *a),
    "generated traces": lambda *a: update_of(on_kernel, *a),
}  # fmt: skip


@pytest.mark.sampled(3)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("kind", "target"), CASES)
def test_the_gradient_is_the_slope_of_the_reported_loss(kind, target, engine, outputs):
    check(kind, target, ENGINES[engine], outputs)


def check(kind, name, engine, outputs):
    target = TARGETS[name]
    chosen = MIXTURE if kind == "mixture" else getattr(lp.losses, kind)()
    loss, found = engine(lp.Trials({"cues": RASTER}, target, FRACTIONS), chosen)
    assert loss == pytest.approx(by_hand(kind, outputs[0], target, FRACTIONS), rel=1e-12)
    slope = [
        by_hand(kind, more, target, FRACTIONS) - by_hand(kind, less, target, FRACTIONS) for more, less in outputs[1]
    ]
    slope = np.reshape(slope, found.shape) / (2 * STEP)
    assert np.any(slope) == (name != "zeros")
    assert np.abs(found - slope).max() <= 1e-7 * max(np.abs(slope).max(), 1e-9)


@pytest.mark.parametrize("kind", LOSSES)
def test_so_it_is_in_brian2(kind, outputs):
    """One learner for all targets of a form."""
    net, made = network(), {}

    def engine(trials, loss):
        form = trials.target.ndim
        if form not in made:
            made[form] = Brian2Learner(net, net.draw(0), eprop(), loss, lp.sgd(1.0), trials, batch=2)
        made[form].restart(net.draw(0), 0)
        found = made[form].train(trials)[0]
        return found["loss"], net.draw(0).weights["rec_out"] - made[form].numbers()["rec_out"]

    for name in LOSSES[kind]:
        check(kind, name, engine, outputs)


def test_the_rates_of_those_that_do_not_learn_are_part_of_the_loss_on_both_backends():
    net = lp.Network(
        dt=1 * ms, cues=lp.Input(8), rec=lp.Population(6, lif()), still=lp.Population(5, lif()),
        out=lp.Population(CLASSES, leaky_readout()),
        projections=[
            lp.Projection("cues", "rec", weight=lp.normal(2.0)),
            lp.Projection("cues", "still", weight=lp.normal(4.0), plastic=False),
            lp.Projection("rec", "out"),
        ],
    )  # fmt: skip
    trials, loss = lp.Trials({"cues": RASTER}, TARGETS["labels"], FRACTIONS), lp.losses.mse() + lp.losses.rate(10, 1e-3)
    found = [lp.gradient(net, trials, eprop(), loss=loss, backend=b).attrs["loss"] for b in ("torch", "brian2")]
    counts = lp.run(net, lp.Trials({"cues": RASTER}), backend="torch", record=["rec.raster", "still.raster"])
    rates = [counts[n]["spikes"].values.sum(1) / (STEPS * 1e-3) for n in ("rec", "still")]
    plain = lp.gradient(net, trials, eprop(), loss=lp.losses.mse()).attrs["loss"]
    paid = sum(0.5e-3 * ((r - 10) ** 2).sum(1).mean() for r in rates)
    assert rates[1].any() and found == pytest.approx([plain + paid] * 2, rel=1e-12)


def test_accuracy_is_judged_within_the_window_on_both_backends():
    """The readout that is right in the window is wrong over the whole trial."""
    net, inputs = network(), {"cues": RASTER[:1]}
    y = lp.run(net, lp.Trials(inputs), backend="torch", record=["out.v"])["out"]["v"].values
    whole = y.sum(1).argmax(-1)
    window = np.eye(STEPS)[np.argmax(y[0].argmax(-1) != whole)]
    labels = (y * window[:, None]).sum(1).argmax(-1)
    assert labels != whole
    for weight, right in ((window, 1.0), (None, 0.0)):
        trials = lp.Trials(inputs, labels, weight)
        task = lp.Task("fixed", lambda *a, t=trials: t, lambda *a, t=trials: t)
        options = dict(optimiser=lp.sgd(0.0), updates=1, test=1, target="numpy")
        assert lp.gradient(net, trials, eprop()).attrs["accuracy"] == right
        for backend in ("torch", "brian2"):
            metrics = lp.run(net, task, rule=eprop(), backend=backend, **options)["metrics"]
            assert metrics["accuracy"].values[-1] == right and metrics["test_accuracy"].values[-1] == right


def test_bool_labels_are_zero_and_one():
    found = [
        lp.gradient(network(), lp.Trials({"cues": RASTER}, target), bptt())
        for target in ([False, True], [0, 1], [1, 1])
    ]
    assert found[0].attrs["loss"] == found[1].attrs["loss"] != found[2].attrs["loss"]
    np.testing.assert_array_equal(found[0]["rec_out"]["gradient"], found[1]["rec_out"]["gradient"])


def test_float32_takes_the_same_slope(outputs):
    trials = lp.Trials({"cues": RASTER}, TARGETS["rows of three"], FRACTIONS)
    single, double = (
        asked(eprop(), form="traces", dtype=t)(trials, lp.losses.cross_entropy()) for t in ("float32", torch.float64)
    )
    assert single[0] == pytest.approx(double[0], rel=1e-5)
    np.testing.assert_allclose(single[1], double[1], rtol=1e-3, atol=1e-4)


def test_a_loss_of_outputs_in_volts_is_the_same_on_both_backends():
    """Its own numbers are measured as the output is, and the error in what is left of the unit."""
    readout = NeuronModel("reader", "dv/dt = -v/(20*ms) : volt", receives="v", output="2*v - 1*mV")
    net = lp.Network(
        dt=1 * ms, cues=lp.Input(8), rec=lp.Population(6, lif()), out=lp.Population(CLASSES, readout),
        projections=[
            lp.Projection("cues", "rec", weight=lp.normal(2.0)),
            lp.Projection("rec", "out", weight=lp.normal(2 * mV)),
        ],
    )  # fmt: skip
    trials = lp.Trials({"cues": RASTER}, 1e-3 * TARGETS["path"], FRACTIONS)
    text = (("gap", "output - target"), ("loss", "gap**2*clip(gap, -bound, bound)**2 + output**2*gap**2"))
    for loss in (lp.losses.smooth_l1(), lp.losses.Loss("quartic", text, {"bound": 1e-3})):
        torch_, brian2 = (lp.gradient(net, trials, eprop(), loss=loss, backend=b) for b in ("torch", "brian2"))
        assert torch_.attrs["loss"] == pytest.approx(brian2.attrs["loss"], rel=1e-12)
        for name in ("cues_rec", "rec_out"):
            one, other = (tree[name]["gradient"].values for tree in (torch_, brian2))
            assert np.abs(one).max() > 0 and np.abs(one - other).max() <= 1e-12 * np.abs(one).max()
