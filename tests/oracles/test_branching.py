"""The branching regulariser against numpy, its gradient against automatic differentiation written out; the norm of
the gradient.
"""

import numpy as np
import pytest
import torch
from brian2 import ms

import localplast as lp
from localplast.backends.torch import gradient
from localplast.errors import LocalplastError, RunawayError, UnsupportedError
from localplast.learning.optimise import adam, sgd
from localplast.models import leaky_readout, lif
from localplast.network import Input, Network, Population, Projection, normal
from localplast.rules import bptt, eprop, rtrl
from localplast.task import Task, Trials
from localplast.task.loss import branching, mse

N_IN, N, STEPS, STRENGTH = 5, 6, 30, 0.03
NET = Network(
    dt=1 * ms, cues=Input(N_IN), rec=Population(N, lif(tau_mem=15 * ms)), out=Population(2, leaky_readout(tau_out=10 * ms)),
    projections=[
        Projection("cues", "rec", weight=normal(1.2, mean=0.4)), Projection("rec", "rec", weight=normal(1.2)),
        Projection("rec", "out"),
    ],
)  # fmt: skip
VALUES = NET.draw(2)
RNG = np.random.default_rng(5)
#: the readout's error counts for nothing: what is left is the regulariser
TRIALS = Trials({"cues": RNG.random((4, STEPS, N_IN)) < 0.3}, np.zeros((4, STEPS, 2)), np.zeros(STEPS))


def written(batch, circular=False):
    """The penalty and its gradient: the network by hand, spikes of the whole population counted."""
    w = {n: torch.tensor(x, requires_grad=n != "rec_out") for n, x in VALUES.weights.items()}
    x, alpha = torch.tensor(TRIALS.inputs["cues"]).double(), np.exp(-1 / 15)
    v, sums = torch.zeros(len(x), N), []
    for t in range(STEPS):
        v = alpha * v
        psi = 0.3 * torch.clamp(1 - (v.detach() - 1).abs(), min=0)
        hard = (v.detach() > 1).double()
        z = hard + psi * (v - v.detach())
        sums.append(z.sum(1))
        v = v + x[:, t] @ w["cues_rec"] + (z @ w["rec_rec"]) - z
    s = torch.stack(sums)
    s = s.sum(1, keepdim=True) if batch else s
    before = torch.cat([s[-1:], s[:-1]])
    penalty = STRENGTH * ((s - before)[0 if circular else 1 :] ** 2).mean()
    return float(penalty.detach()), torch.autograd.grad(penalty, [w["cues_rec"], w["rec_rec"]]), s.detach().numpy()


def found(batch, rule=None, circular=False):
    loss = mse() + branching(STRENGTH, batch=batch, circular=circular)
    return lp.gradient(NET, TRIALS, rule or bptt(), loss=loss, values=VALUES)


@pytest.fixture(params=[False, True], ids=["plain step", "kernel"])
def engine(request, monkeypatch):
    """What runs the network; what the plain step needs is gone where the kernel must."""
    monkeypatch.setattr(gradient, "worth_compiling", lambda *given: request.param)
    if request.param:
        monkeypatch.setattr(gradient, "run_forward", None)


@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize("batch", [False, True])
def test_value_and_gradient(batch, circular, engine):
    penalty, expected, s = written(batch, circular)
    tree = found(batch, circular=circular)
    steps = range(0 if circular else 1, STEPS)  # s[-1] is the last step
    by_hand = STRENGTH * np.mean([np.mean([(s[t, b] - s[t - 1, b]) ** 2 for t in steps]) for b in range(s.shape[1])])
    assert penalty == pytest.approx(by_hand, rel=1e-12) and penalty > 0.01
    assert tree.attrs["loss"] == pytest.approx(penalty, rel=1e-12)
    for name, grad in zip(("cues_rec", "rec_rec"), expected, strict=True):
        g = grad.numpy() * VALUES.masks[name]
        assert np.abs(tree[name]["gradient"].values - g).max() < 1e-10 * np.abs(g).max()


@pytest.mark.parametrize("batch, circular", [(True, False), (False, True)])
def test_every_form_is_another_one(batch, circular):
    """Trials whose counts differ are not their sum; a trial that ends otherwise than it began is no ring."""
    one, other = (tree["rec_rec"]["gradient"].values for tree in (found(False), found(batch, circular=circular)))
    assert np.abs(one - other).max() > 0.02 * np.abs(one).max()


@pytest.mark.parametrize("threads", [1, 2])
def test_trials_that_are_split_between_threads_count_together(threads):
    """Two updates of a batch that threads share are those of one thread: counts are summed before errors go back."""
    task = Task("alike", training=lambda update, batch, seed: TRIALS, testing=lambda n, seed: TRIALS)
    loss = mse() + branching(STRENGTH, batch=True, circular=True)
    options = dict(rule=bptt(), optimiser=sgd(1e-3), loss=loss, backend="torch", batch=4, show=False, values=VALUES)
    tree = lp.run(NET, task, updates=1, threads=threads, **options)
    _, expected, _ = written(True, True)
    for name, grad in zip(("cues_rec", "rec_rec"), expected, strict=True):
        step = -1e-3 * grad.numpy() * VALUES.masks[name]
        assert np.abs(tree[name]["weight"].values - VALUES.weights[name] - step).max() < 1e-9 * np.abs(step).max()


@pytest.mark.parametrize("rule", [eprop(), rtrl()])
def test_no_synapse_knows_it(rule):
    with pytest.raises(UnsupportedError, match="cannot regularise the branching factor"):
        found(False, rule)


def test_one_step_has_none_before_it():
    assert branching(1.0).penalty(torch.full((1, 3), 7.0)).tolist() == [0, 0, 0]
    assert branching(1.0, circular=True).penalty(torch.full((1, 3), 7.0)).tolist() == [0, 0, 0]
    assert branching(1.0).penalty(torch.tensor([[1.0], [3.0]])).tolist() == [4]


def test_no_strength():
    with pytest.raises(LocalplastError, match="one number, above 0; given 0"):
        branching(0)


def test_it_evens_out_the_population():
    """Learning from the regulariser alone lowers what it measures."""
    task = Task("alike", training=lambda update, batch, seed: TRIALS, testing=lambda n, seed: TRIALS)
    options = dict(
        rule=bptt(), optimiser=adam(0.02), loss=mse() + branching(STRENGTH), backend="torch", batch=4, show=False
    )
    losses = lp.run(NET, task, updates=30, values=VALUES, **options)["metrics"]["loss"].values
    assert losses[-1] < 0.7 * losses[0]


# --- the norm ---------------------------------------------------------------------------------------------------------


def test_norm_as_torch():
    rng = np.random.default_rng(0)
    grads = {"a": torch.tensor(rng.standard_normal((3, 4))), "b": torch.tensor(rng.standard_normal(5))}
    parameters = [torch.zeros_like(g, requires_grad=True) for g in grads.values()]
    for limit in (0.1, 1.0, 100.0):
        for p, g in zip(parameters, grads.values(), strict=True):
            p.grad = g.clone()
        torch.nn.utils.clip_grad_norm_(parameters, limit)
        share = sgd(1.0).norm_clipped(limit).share(grads)
        for p, g in zip(parameters, grads.values(), strict=True):
            assert np.allclose(p.grad, share * g, rtol=1e-5, atol=0)  # theirs adds 1e-6 to the norm
    assert share == 1.0


def test_norm_in_units_of_the_rate():
    """A time constant in seconds whose rate is 1e-3 counts as if it were given in milliseconds."""
    grads = {"w": np.array([3.0]), "rec.tau_mem": np.array([4000.0])}
    assert sgd(1.0).norm_clipped(1.0).with_rates(**{"rec.tau_mem": 1e-3}).share(grads) == pytest.approx(1 / 5)
    assert sgd(1.0).norm_clipped(1.0).share(grads) == pytest.approx(1 / 4000, rel=1e-4)
    # what is frozen does not count
    assert sgd(1.0).norm_clipped(1.0).with_rates(w=0, **{"rec.tau_mem": 0}).share(grads) == 1.0


def test_learning_with_a_norm():
    """One update of gradient descent moves all weights by the limit."""
    task = Task("alike", training=lambda update, batch, seed: TRIALS, testing=lambda n, seed: TRIALS)
    fit = lp.run(
        NET, task, rule=bptt(), optimiser=sgd(0.5).norm_clipped(1e-3), loss=mse() + branching(STRENGTH), backend="torch", batch=4,
        updates=1, values=VALUES, show=False,
    )  # fmt: skip
    moved = [fit[n]["weight"].values.reshape(w.shape) - w for n, w in VALUES.weights.items()]
    assert np.sqrt(sum((m**2).sum() for m in moved)) == pytest.approx(0.5e-3, rel=1e-9)


def test_gradients_whose_squares_overflow():
    """In single precision the square of 1e20 is infinite, the norm is not."""
    grads = {"w": torch.tensor([3e20, 4e20], dtype=torch.float32)}
    assert sgd(1.0).norm_clipped(1.0).share(grads) == pytest.approx(1 / 5e20)
    assert sgd(1.0).norm_clipped(1.0).share({"w": torch.zeros(2)}) == 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_gradients_that_are_not_finite_are_named(bad):
    """What is not finite would reach every weight by way of the norm: the run stops, before anything is changed."""
    grads = {"a": np.ones(2), "b": np.array([1.0, bad])}
    with pytest.raises(RunawayError, match="the gradient of 'b' is not finite"):
        sgd(1.0).norm_clipped(1.0).share(grads)
    assert sgd(1.0).norm_clipped(10.0).with_rates(b=0).share(grads) == 1.0


def test_a_run_whose_gradient_is_not_finite_stops():
    trials = Trials(TRIALS.inputs, TRIALS.target, np.ones(STEPS))
    task = Task("alike", training=lambda update, batch, seed: trials, testing=lambda n, seed: trials)
    broken = VALUES.replace_weights({"rec_out": VALUES.weights["rec_out"] * 1e200})
    with pytest.raises(
        RunawayError, match="gradient of 'cues_rec' is not finite at update 1 of bptt; lower the"
    ) as caught:
        lp.run(
            NET, task, rule=bptt(), optimiser=sgd(0.5).norm_clipped(1e-3), loss=mse(), backend="torch", batch=4, updates=1,
            values=broken, show=False,
        )  # fmt: skip
    assert caught.value.record is not None


def test_where_nobody_has_the_norm():
    task = Task("alike", training=lambda update, batch, seed: TRIALS, testing=lambda n, seed: TRIALS)
    options = dict(optimiser=sgd(0.5).norm_clipped(1e-3), updates=1, show=False)
    with pytest.raises(LocalplastError, match="every synapse has its own gradient"):
        lp.run(NET, task, rule=eprop(), backend="brian2", target="numpy", batch=4, **options)
    with pytest.raises(LocalplastError, match="weights change within a trial"):
        lp.run(NET, task, rule=eprop(update="step"), backend="torch", batch=4, **options)
    with pytest.raises(LocalplastError, match="positive limit"):
        sgd(1).norm_clipped(0)
