"""e-prop in the discrete time of the 2020 paper's code: published losses of NEST, and the recursions written out.

The losses are those of NEST's own tests, where they agree with the authors' TensorFlow program; weights, inputs and
losses lie in ``tests/data/eprop_reference``.
"""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from brian2 import ms

import localplast as lp
from localplast.backends.brian2 import learner as brian2_backend
from localplast.backends.brian2.session import session
from localplast.backends.torch import gradient as torch_backend
from localplast.backends.torch.learner import TorchLearner
from localplast.backends.torch.step import Twin, leaves, simulate
from localplast.equations.tape import Tape
from localplast.learning.filters import Immediate
from localplast.learning.optimise import adam, sgd
from localplast.models import alif, eprop_2020, eprop_readout_2020, leaky_readout, lif
from localplast.network import Input, Network, Population, Projection
from localplast.neuron.surrogate import exponential, triangle
from localplast.program.learn import plan
from localplast.rules import eprop
from localplast.task import Task, Trials
from localplast.task.loss import cross_entropy, mse, rate

FOLDER = Path(__file__).parents[1] / "data" / "eprop_reference"
TARGET_RATE = 10.0


def regulariser(c_reg, window=1):
    """NEST measures rates in spikes per step of 1 ms, and may divide the gradient by the steps of the learning
    window.
    """
    return rate(TARGET_RATE, c_reg * 1e-3**2 / window)


def shifted(spikes):
    """The reference's input acts in the step it is listed for, ours one step after it was sent."""
    assert not spikes[..., 0, :].any()
    return np.roll(spikes, -1, axis=-2)


class Case:
    """A published experiment as a localplast network; ``published`` are NEST's losses, one per update."""

    def __init__(self, data, neuron, readout, parameters=None):
        self.data = data = data if isinstance(data, dict) else dict(np.load(FOLDER / f"eprop_bsshslm2020_{data}.npz"))
        weight = {k: data[k].T.astype(float) for k in ("w_in_rec", "w_rec_rec", "w_rec_out")}
        (inputs, size), outputs = weight["w_in_rec"].shape, weight["w_rec_out"].shape[1]
        self.net = Network(
            dt=1 * ms, cues=Input(inputs), rec=Population(size, neuron, parameters=parameters or {}),
            out=Population(outputs, readout),
            projections=[
                Projection("cues", "rec", weight=weight["w_in_rec"]), Projection("rec", "rec", weight=weight["w_rec_rec"]),
                Projection("rec", "out", weight=weight["w_rec_out"]),
            ],
        )  # fmt: skip
        self.rule = eprop(feedback={"rec": data["w_out_rec"].astype(float)})
        self.published, self.values = data["loss_nest"], self.net.draw(0)


def regression():
    """Pattern generation with LIF neurons, plain gradient descent."""
    neuron = eprop_2020(tau_mem=30 * ms, v_th=0.03, scaled_input=True)
    case = Case("regression", neuron, eprop_readout_2020(tau_out=30 * ms))
    spikes, target = shifted(case.data["input_spikes"]), case.data["target"]
    case.trials = Trials({"cues": np.stack([spikes] * 5)}, np.stack([target] * 5)[:, :, None])
    case.loss, case.optimiser = mse() + regulariser(300.0), sgd(1e-4)
    return case


def classification(data="classification_batch1"):
    """Evidence accumulation with 50 LIF and 50 ALIF neurons, Adam, the error averaged over the last 150 steps."""
    beta = 1.7 * (1 - np.exp(-1 / 2000)) / (1 - np.exp(-1 / 20))
    neuron = eprop_2020(tau_mem=20 * ms, tau_adapt=2000 * ms, v_th=0.6, tau_ref=5 * ms)
    parameters = {"beta": np.repeat([0.0, beta], 50)}
    case = Case(data, neuron, eprop_readout_2020(tau_out=20 * ms), parameters)
    weight = np.zeros(2250)
    weight[-150:] = 1 / 150
    case.trials = Trials({"cues": shifted(case.data["input_spikes"])}, case.data["target_class"], weight)
    case.loss, case.optimiser = cross_entropy() + regulariser(300.0, 150), adam(5e-3, epsilon_hat=True)
    return case


def lively(counts):
    assert 5 < counts.mean() < 200 and (counts > 0).mean() > 0.5


def learn_on_torch(case, form, updates):
    """The readout's loss before each of the first ``updates``, gradients from ``form``."""
    values, losses = case.values, []
    update = Tape(case.optimiser.program(), {"learning_rate": case.optimiser.rate("any")})
    state = {n: {k: np.zeros_like(w) for k in case.optimiser.state} for n, w in values.weights.items()}
    for number in range(updates):
        grads, info = torch_backend.gradient(case.net, values, case.trials[number], case.rule, case.loss, form=form)
        counts = info["counts"]["rec"]
        lively(counts)
        excess = counts / (case.trials.steps * 1e-3) - TARGET_RATE
        losses.append(info["loss"] - 0.5 * case.loss.regulariser.strength * (excess**2).sum(-1).mean())
        weights = {}
        for name, w in values.weights.items():
            new = update({"w": w, "g": grads[f"{name}.weight"], "k": number + 1, **state[name]})
            weights[name], state[name] = new["w"], {k: new[k] for k in case.optimiser.state}
        values = values.replace_weights(weights)
    return np.array(losses)


#: Two losses depend on one update; the learner below goes through all.
UPDATES = pytest.mark.parametrize("updates", [2, pytest.param(5, marks=pytest.mark.slow)])


@pytest.mark.sampled(4, 2)
@UPDATES
@pytest.mark.parametrize("form", ["traces", "adjoint"])
def test_regression_on_torch(form, updates):
    case = regression()
    np.testing.assert_allclose(learn_on_torch(case, form, updates), case.published[:updates], rtol=1e-8)
    np.testing.assert_allclose(case.data["loss_tensorflow"], case.published, rtol=1e-7)


@pytest.mark.thorough
@UPDATES
def test_classification_on_torch(updates):
    case = classification()
    np.testing.assert_allclose(learn_on_torch(case, "traces", updates), case.published[:updates], rtol=1e-8)


@pytest.mark.parametrize("make", [regression, classification])
def test_learner(make):
    """The learner behind ``run`` (the generated kernel where there is a compiler): losses seen without the
    regulariser.
    """
    case, losses = make(), []
    learner = TorchLearner(case.net, case.values, case.rule, case.loss, case.optimiser)
    judge = TorchLearner(case.net, case.values, case.rule, replace(case.loss, regulariser=None), case.optimiser)
    for number in range(len(case.published)):
        judge.restart(case.values.replace_weights(learner.numbers()), 0)
        losses.append(judge.evaluate(case.trials[number])["loss"])
        learner.train(case.trials[number])
    np.testing.assert_allclose(losses, case.published, rtol=1e-8)


@pytest.mark.thorough
@UPDATES
@pytest.mark.parametrize("make", [regression, classification])
def test_online_on_brian2(make, updates):
    """Trials and updates in one run of Brian2."""
    case = make()
    learned, trials = plan(case.net, case.rule, case.loss, case.optimiser), case.trials[:updates]
    running = session("numpy", case.net, case.values, brian2_backend.block_for(case.net, trials), trials, plan=learned)
    results = running.run(trials)
    lively(results.ledger("rec", "spike_count"))
    np.testing.assert_allclose(results.ledger("out", "loss").sum(-1), case.published[:updates], rtol=1e-8)


# --- classification with two trials per update: drawn again, no data needed -------------------------------------------


def drawn(batch, iterations=5):
    """The weights, input spikes ``(trial, time, channel)`` and labels of NEST's classification test: numpy's old
    generator.
    """
    rng, limit = np.random.RandomState(1), np.sqrt(3 / ((100 + 2) / 2))
    weights = {"w_in_rec": rng.randn(40, 100).T / np.sqrt(40), "w_rec_rec": rng.randn(100, 100).T / np.sqrt(100),
               "w_rec_out": rng.uniform(-limit, limit, (100, 2)).T, "w_out_rec": rng.randn(100, 2)}  # fmt: skip
    np.fill_diagonal(weights["w_rec_rec"], 0)
    spikes, labels = [], []
    for _ in range(iterations):
        left = np.float32([0.3, 0.7])[rng.choice([0, 1], batch)]
        cues = np.array([rng.choice([0, 1], 7, p=[p, 1 - p]) for p in left])
        probability = np.zeros((batch, 2250, 40))
        for trial, number in np.ndindex(batch, 7):
            start, channel = 50 + 150 * number, 10 * cues[trial, number]
            probability[trial, start : start + 100, channel : channel + 10] = 0.04
        probability[:, -150:, 20:30], probability[:, :, 30:] = 0.04, 0.01
        spikes.append(probability > rng.rand(probability.size).reshape(probability.shape))
        spikes[-1][:, 0] = False
        labels.append((cues.sum(1) > 3).astype(int))
    weights = {name: w.astype(np.float32) for name, w in weights.items()}
    return {**weights, "input_spikes": np.concatenate(spikes), "target_class": np.concatenate(labels)}


def test_drawn_again():
    """With one trial per update the draw is the stored one, bit by bit."""
    stored = np.load(FOLDER / "eprop_bsshslm2020_classification_batch1.npz")
    for name, array in drawn(1).items():
        np.testing.assert_array_equal(array, stored[name])


#: losses of NEST's test with two trials per update (nest-simulator 84b06d8).
BATCH_2 = [0.702163370672, 0.735555303152, 0.740354864111, 0.683882815282, 0.707841122268]


def test_two_trials_per_update():
    """Adam on the mean over two trials; one update for each of them is another path."""
    case = classification({**drawn(2), "loss_nest": np.array(BATCH_2)})
    for batch in (2, 1):
        losses = []
        learner = TorchLearner(case.net, case.values, case.rule, case.loss, case.optimiser, batch=batch)
        judge = TorchLearner(
            case.net, case.values, case.rule, replace(case.loss, regulariser=None), case.optimiser, batch=2
        )
        for start in range(0, 10, 2):
            judge.restart(case.values.replace_weights(learner.numbers()), 0)
            losses.append(judge.evaluate(case.trials[start : start + 2])["loss"])
            learner.train(case.trials[start : start + 2])
        if batch == 2:
            np.testing.assert_allclose(losses, case.published, rtol=1e-8)
        else:
            assert losses[0] == pytest.approx(BATCH_2[0], rel=1e-8)
            assert np.abs(np.array(losses[1:]) / BATCH_2[1:] - 1).min() > 1e-4


# --- the recursions written out: no data needed -----------------------------------------------------------------------

N_IN, N, N_OUT, STEPS = 8, 7, 2, 120
ALPHA, RHO, KAPPA = np.exp(-1 / 20), np.exp(-1 / 100), np.exp(-1 / 30)
BETA, V_TH = np.array([0, 0, 0, 0.05, 0.1, 0.2, 0.3]), 0.6


def small(tau_ref, scaled_input):
    rng = np.random.default_rng(5)
    scale = 8.0 if scaled_input else 0.6
    weights = [scale * rng.standard_normal((N_IN, N)) + scale / 4, 0.5 * scale * rng.standard_normal((N, N)),
               rng.standard_normal((N, N_OUT))]  # fmt: skip
    neuron = eprop_2020(tau_adapt=100 * ms, v_th=V_TH, tau_ref=tau_ref * ms, scaled_input=scaled_input)
    links = [("cues", "rec"), ("rec", "rec"), ("rec", "out")]
    net = Network(
        dt=1 * ms, cues=Input(N_IN), rec=Population(N, neuron, parameters={"beta": BETA}),
        out=Population(N_OUT, eprop_readout_2020(tau_out=30 * ms)),
        projections=[Projection(*ends, weight=w) for ends, w in zip(links, weights, strict=True)],
    )  # fmt: skip
    spikes = rng.random((1, STEPS, N_IN)) < 0.3
    spikes[:, 0] = False
    feedback = rng.standard_normal((N, N_OUT))
    return net, net.draw(0), spikes, rng.standard_normal((1, STEPS, N_OUT)), feedback


def written_out(values, x, target, feedback, n_ref, zeta, c_reg):
    """One sequence of the reference, line by line: spikes, v, a, y and the gradients ``(pre, post)``."""
    w_in, w_rec, w_out = (values.weights[k] for k in ("cues_rec", "rec_rec", "rec_out"))
    r, v, a, z, y = np.zeros(N), np.zeros(N), np.zeros(N), np.zeros(N), np.zeros(N_OUT)
    zb_in, zb_rec, zb_out = np.zeros(N_IN), np.zeros(N), np.zeros(N)
    traces = {k: [np.zeros((n, N)) for _ in range(4)] for k, n in (("cues_rec", N_IN), ("rec_rec", N))}
    g_out, count, kept = np.zeros((N, N_OUT)), np.zeros(N), []
    for t in range(len(x)):
        r = np.maximum(r - 1, 0)
        v = ALPHA * v + zeta * (x[t] @ w_in + z @ w_rec) - V_TH * z
        a = RHO * a + z
        threshold = V_TH + BETA * a
        psi = np.where(r > 0, 0, 0.3 / V_TH * np.maximum(0, 1 - np.abs(v - threshold) / V_TH))
        z_old, z = z, ((v >= threshold) & (r == 0)).astype(float)
        r = np.where(z > 0, n_ref, r)
        y = KAPPA * y + (1 - KAPPA) * z @ w_out
        zb_in, zb_rec = ALPHA * zb_in + zeta * x[t], ALPHA * zb_rec + zeta * z_old
        zb_out = KAPPA * zb_out + (1 - KAPPA) * z
        for name, zb in (("cues_rec", zb_in), ("rec_rec", zb_rec)):
            eps, filtered, gradient, total = traces[name]
            e = psi * (zb[:, None] - BETA * eps)
            filtered = KAPPA * filtered + (1 - KAPPA) * e
            traces[name] = [RHO * eps + e, filtered, gradient + (y - target[t]) @ feedback.T * filtered, total + e]
        g_out, count = g_out + np.outer(zb_out, y - target[t]), count + z
        kept.append((z, v, a, y))
    push = c_reg * (count / len(x) - TARGET_RATE * 1e-3) / len(x)
    grads = {k: (gradient + push * total) * values.masks[k] for k, (_, _, gradient, total) in traces.items()}
    return [np.array(series) for series in zip(*kept, strict=True)], {**grads, "rec_out": g_out}


@pytest.mark.sampled(6)
@pytest.mark.parametrize(("tau_ref", "scaled_input"), [(0, False), (1, True), (2, False), (5, True), (5, False)])
def test_recursions(tau_ref, scaled_input):
    """A refractory period of n steps means that n - 1 steps stay silent, as the reference's counter does."""
    net, values, x, target, feedback = small(tau_ref, scaled_input)
    zeta = 1 - ALPHA if scaled_input else 1.0
    (z, v, a, y), grads = written_out(values, x[0], target[0], feedback, tau_ref, zeta, 300.0)
    intervals = np.concatenate([np.diff(np.flatnonzero(column)) for column in z.T])
    assert 0.02 < z.mean() < 0.6 and intervals.min() == max(tau_ref, 1)
    trials = Trials({"cues": shifted(x)}, target)
    rule, loss = eprop(feedback={"rec": feedback}), mse() + regulariser(300.0)
    for backend in ("torch", "brian2"):
        record = lp.run(net, trials, backend=backend, values=values, record=["rec.v", "rec.a", "rec.raster", "out.v"])
        found = {name: record["rec"][name].values[0] for name in ("spikes", "v", "a")}
        np.testing.assert_array_equal(found["spikes"], z.astype(bool))
        np.testing.assert_allclose(found["v"], v, rtol=0, atol=1e-12 * np.abs(v).max())
        np.testing.assert_allclose(found["a"], a, rtol=0, atol=1e-12 * a.max())
        np.testing.assert_allclose((1 - KAPPA) * record["out"]["v"].values[0], y, rtol=0, atol=1e-12 * np.abs(y).max())
    estimates = {
        form: torch_backend.gradient(net, values, trials, rule, loss, form=form)[0] for form in ("traces", "adjoint")
    }
    estimates["brian2"] = brian2_backend.gradient(net, values, trials, rule, loss)[0]
    for where, estimate in estimates.items():
        for name, expected in grads.items():
            assert np.abs(expected).max() > 0.01
            error = np.abs(estimate[f"{name}.weight"] - expected).max() / np.abs(expected).max()
            assert error < 1e-10, (where, name, error)


# --- what NEST's online family does otherwise: a filter of its own, a trace that a hard reset does not end ------------

TAU, V_RESET, OWN = 20 * ms, -0.3, 0.8


def online(tau_out=30 * ms):
    """Adaptive neurons that a spike sets to ``V_RESET``, small enough to follow line by line."""
    rng = np.random.default_rng(8)
    neuron = replace(alif(tau_mem=TAU, tau_adapt=100 * ms, v_th=V_TH), reset=f"v = {V_RESET}")
    net = Network(
        dt=1 * ms, cues=Input(N_IN),
        rec=Population(N, neuron, {"beta": BETA, "tau_mem": np.full(N, 20.0) * ms}, trainable={"tau_mem": (5 * ms, 50 * ms)}),
        out=Population(N_OUT, leaky_readout(tau_out=tau_out)),
        projections=[
            Projection("cues", "rec", weight=rng.uniform(0.0, 0.8, (N_IN, N))),
            Projection("rec", "rec", weight=0.3 * rng.standard_normal((N, N))),
            Projection("rec", "out", weight=rng.standard_normal((N, N_OUT))),
        ],
    )  # fmt: skip
    trials = Trials({"cues": rng.random((1, STEPS, N_IN)) < 0.2}, rng.standard_normal((1, STEPS, N_OUT)))
    return net, trials, rng.standard_normal((N, N_OUT))


def followed(net, trials, feedback, *, wiped=False, kappa=OWN):
    """One trial by hand, in the order of our step: gradients ``(pre, post)``, that of tau_mem, and how often neurons
    spike.
    """
    w_in, w_rec, w_out = (net.draw(0).weights[k] for k in ("cues_rec", "rec_rec", "rec_out"))
    slope = ALPHA * 1e-3 / float(TAU) ** 2  # of alpha in tau_mem
    v, a, y, zb_out, count = np.zeros(N), np.zeros(N), np.zeros(N_OUT), np.zeros(N), 0
    traces = {"cues_rec": np.zeros((3, N_IN, N)), "rec_rec": np.zeros((3, N, N)), "tau_mem": np.zeros((3, 1, N))}
    found = {**{k: np.zeros(x.shape[1:]) for k, x in traces.items()}, "rec_out": np.zeros((N, N_OUT))}
    for x, target in zip(trials.inputs["cues"][0], trials.target[0], strict=True):
        v_old, v, a, y, zb_out = v, ALPHA * v, RHO * a, KAPPA * y, KAPPA * zb_out
        over = v - V_TH - BETA * a
        z, psi = (over > 0).astype(float), 0.3 / V_TH * np.maximum(0, 1 - np.abs(over) / V_TH)
        y, zb_out, count = y + z @ w_out, zb_out + z, count + z.sum()
        error = y - target
        arrived = {"cues_rec": x[:, None], "rec_rec": z[:, None], "tau_mem": 0.0}
        for name, (eps_v, eps_a, smooth) in traces.items():
            eps_v, eps_a = ALPHA * eps_v + (slope * v_old if name == "tau_mem" else 0), RHO * eps_a
            elig = psi * (eps_v - BETA * eps_a)
            smooth = kappa * smooth + elig
            eps_v = (eps_v + arrived[name]) * (1 - z if wiped else 1)
            traces[name] = np.stack(np.broadcast_arrays(eps_v, eps_a + elig, smooth))
            found[name] = found[name] + feedback @ error * smooth
        found["rec_out"] += np.outer(zb_out, error)
        v, a = np.where(z, V_RESET, v + x @ w_in + z @ w_rec), a + z
    return found, count / N


def apart(grads, found, net):
    """The largest relative difference of any gradient; autapses do not exist."""
    found = {**found, "rec_rec": found["rec_rec"] * net.draw(0).masks["rec_rec"], "tau_mem": found["tau_mem"][0]}
    names = {"tau_mem": "rec.tau_mem"}
    pairs = [(grads[names.get(k, f"{k}.weight")], wanted) for k, wanted in found.items()]
    return max(np.abs(one - wanted).max() / np.abs(wanted).max() for one, wanted in pairs)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("backend", [torch_backend, brian2_backend], ids=["torch", "brian2"])
def test_a_filter_of_its_own_and_a_trace_that_outlives_a_hard_reset(backend):
    """Beside adaptation, which goes on being followed; each part by itself makes another gradient."""
    net, trials, feedback = online()
    found, count = followed(net, trials, feedback)
    assert 3 < count < STEPS / 4
    made = partial(eprop, feedback={"rec": feedback})
    grads = backend.gradient(net, net.draw(0), trials, made(wiped=False, kappa=OWN), mse())[0]
    assert apart(grads, found, net) < 1e-8
    assert apart(grads, followed(net, trials, feedback, wiped=True)[0], net) > 0.05
    assert apart(grads, followed(net, trials, feedback, kappa=KAPPA)[0], net) > 0.05
    for other in (made(kappa=OWN), made(wiped=False), made(wiped=False, kappa=OWN, adaptation=False)):
        assert apart(backend.gradient(net, net.draw(0), trials, other, mse())[0], found, net) > 0.05
    wiped = backend.gradient(net, net.draw(0), trials, made(kappa=OWN), mse())[0]
    assert apart(wiped, followed(net, trials, feedback, wiped=True)[0], net) < 1e-8


def test_the_filters_meet_where_their_factors_do():
    """With the readout's factor, or its time constant, the readout's own; with 0 none. A reset that subtracts ends no
    trace.
    """
    net, trials, _ = online()
    given = net.draw(0), trials

    def gradient(rule, net=net):
        return torch_backend.gradient(net, *given, rule, mse(), form="traces")[0]

    def differ(one, other):
        return max(np.abs(one[k] - other[k]).max() / np.abs(other[k]).max() for k in one)

    own, none = gradient(eprop()), gradient(replace(eprop(), filter=Immediate()))
    assert differ(gradient(eprop(kappa=KAPPA)), own) < 1e-12 > differ(gradient(eprop(kappa=30 * ms)), own)
    assert differ(gradient(eprop(kappa=0.0)), none) < 1e-12 and differ(none, own) > 0.1
    subtracting = replace(net.nodes["rec"], model=alif(tau_adapt=100 * ms, v_th=V_TH))
    soft = Network(
        dt=net.dt, cues=net.nodes["cues"], rec=subtracting, out=net.nodes["out"], projections=net.projections.values()
    )
    assert differ(gradient(eprop(wiped=False), soft), gradient(eprop(), soft)) == 0
    assert differ(gradient(eprop(wiped=False)), own) > 0.1


def test_both_backends_learn_with_them_in_every_step():
    net, trials, feedback = online()
    still = replace(net.nodes["rec"], trainable={})
    net = Network(
        dt=net.dt, cues=net.nodes["cues"], rec=still, out=net.nodes["out"], projections=net.projections.values()
    )
    task = Task("same", lambda update, batch, seed: trials, lambda n, seed: trials)
    rule = eprop(feedback={"rec": feedback}, wiped=False, kappa=OWN, update="step")
    options = dict(optimiser=sgd(1e-3), loss=mse(), updates=2, target="numpy")
    one, two = (lp.run(net, task, backend=b, rule=rule, **options) for b in ("torch", "brian2"))
    other = lp.run(net, task, backend="torch", rule=eprop(feedback={"rec": feedback}, update="step"), **options)
    for name, start in net.draw(0).weights.items():
        weights = [run[name]["weight"].values for run in (one, two, other)]
        moved = np.abs(weights[0] - start).max()
        assert np.abs(weights[0] - weights[1]).max() < 1e-9 * moved
        assert name == "rec_out" or np.abs(weights[0] - weights[2]).max() > 0.05 * moved


# --- shapes of the surrogate ------------------------------------------------------------------------------------------

#: psi of NEST at steps 14 to 18: one neuron, one synapse, spikes that reach it in steps 2, 3, 4, 6, 10 and 12.
PSI = {
    "piecewise_linear": [0.21030100902759, 0.18933659619924, 0.170367211025, 0.15320300152221, 0.13767218251307],
    "exponential": [0.28011776848615, 0.26861558105999, 0.25861553046549, 0.24988832085299, 0.24224569105944],
}
SHAPE = {"piecewise_linear": triangle, "exponential": exponential}


@pytest.mark.parametrize("shape", PSI)
@pytest.mark.parametrize("backend", ["torch", "brian2"])
def test_surrogate(shape, backend):
    """``lif`` decays after a spike has arrived, NEST's neuron before: one step earlier, the weight is ``w/alpha``."""
    surrogate = SHAPE[shape](1 / 1.7, gamma=0.5 / 1.7)  # height gamma/width = 0.5
    neuron = lif(tau_mem=10 * ms, v_th=0.6, tau_ref=3 * ms, surrogate=surrogate)
    net = Network(
        dt=1 * ms, cues=Input(1), rec=Population(1, neuron), out=Population(1, leaky_readout()),
        projections=[Projection("cues", "rec", weight=0.3 * np.exp(0.1)), Projection("rec", "out", weight=1.0)],
    )  # fmt: skip
    spikes = np.zeros((1, 20, 1), bool)
    spikes[0, np.array([2, 3, 4, 6, 10, 12]) - 1] = True
    values, trials = net.draw(0), Trials({"cues": spikes}, np.zeros((1, 20, 1)))
    if backend == "torch":
        inputs = {"cues": torch.tensor(spikes).double().transpose(0, 1)}
        psi = simulate(Twin(net, leaves(net, values), values.masks), inputs, ["rec.psi"])["rec.psi"][:, 0, 0].numpy()
    else:
        block, learned = brian2_backend.block_for(net, trials), plan(net, eprop(), mse())
        running = session("numpy", net, values, block, trials, request=[("rec", "psi")], plan=learned)
        psi = running.run(trials).state("rec", "psi")[0, :, 0]
    np.testing.assert_allclose(psi[14:19], PSI[shape], rtol=1e-8)
    assert psi[5] == 0  # refractory after its spike


def test_surrogate_values_are_those_of_the_data():
    stored = json.loads((FOLDER / "parameters.json").read_text())["surrogate_gradient"]["values"]
    assert {k: stored[k] for k in PSI} == PSI
