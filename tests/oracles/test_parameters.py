"""Time constants, thresholds and adaptation learn by the same derivation as weights, on both backends.

The expected gradients come from autograd through a network written out in this file, whose parameters are tensors and
whose edges are detached where the rule cuts them: R spike to other neurons, S spike to own reset, A spike to own
adaptation, M memory of the readout. Bellec et al. 2020, Nat Commun 11:3625 (eq. 1, with a parameter in place of a
weight); Yin et al. 2021, Nat Mach Intell 3:905 (learned time constants).
"""

import dataclasses

import numpy as np
import pytest
import torch
from brian2 import Hz, ms, mV

import localplast as lp
from localplast.errors import LocalplastError, NetworkError, UnsupportedError
from localplast.models import alif, cuba_lif, leaky_readout
from localplast.network import Input, Network, Population, Projection, normal
from localplast.rules import bptt, decolle, eprop, ottt, s_tllr
from localplast.task import Task, Trials
from localplast.task.loss import mse, rate

N_IN, N, N_OUT, TRIALS, STEPS, TAU_REF, DT = 6, 9, 2, 3, 50, 3, 1e-3
BETA = np.array([0.4, 0.1, 0.3, 0.2, 0.8, 1.2, 0.6, 1.5, 1.0])
START = np.linspace(0.3, 1.9, N)
OF_NEURONS = ("tau_mem", "tau_adapt", "beta", "v_th")
REGULARISER = rate(10 * Hz, 1e-4)


def network(*, spread=True, trainable=None, learned_out=None, spreading_out=False):
    """``spread``: one value per neuron; else one number for all of them."""
    more = np.linspace(0.8, 1.3, N) if spread else 1.0
    parameters = {
        "tau_mem": 20 * ms * more,
        "tau_adapt": 60 * ms * more,
        "beta": BETA if spread else 0.7,
        "v_th": 1.1 * more,
    }
    out = {"tau_out": np.array([15.0, 22.0]) * ms} if spreading_out else {}
    return Network(
        dt=1 * ms, cues=Input(N_IN),
        rec=Population(N, alif(tau_ref=TAU_REF * ms), parameters, {"v": START}, trainable or {}),
        out=Population(N_OUT, leaky_readout(tau_out=15 * ms), out, trainable=learned_out or {}),
        projections=[
            Projection("cues", "rec", weight=normal(1.6, mean=0.35)), Projection("rec", "rec", weight=normal(1.5)),
            Projection("rec", "out", weight=normal(2.0)),
        ],
    )  # fmt: skip


def trials(steps=STEPS, count=TRIALS, seed=7):
    rng = np.random.default_rng([seed, steps])
    target = rng.standard_normal((count, steps, N_OUT))
    return Trials({"cues": rng.random((count, steps, N_IN)) < 0.4}, target, weight=np.linspace(0.2, 1.0, steps))


class Written:
    """The network of this file in plain Torch; ``cut`` names detached edges by their letters."""

    def __init__(self, net, values, given, *, cut="", regulariser=None):
        self.w = {k: torch.tensor(w) for k, w in values.weights.items()}
        self.p = {
            f"{n}.{k}": torch.tensor(v, requires_grad=True)
            for n, found in values.parameters.items()
            for k, v in found.items()
        }
        self.cut = cut
        y = self.run(torch.tensor(given.inputs["cues"]).double())
        per_step = 0.5 * ((y - torch.tensor(given.target)) ** 2).sum(-1)
        self.loss = (torch.tensor(given.weight) * per_step).sum(1).mean()
        if regulariser:
            rates = sum(self.z) / (len(self.z) * DT)
            self.loss = self.loss + 0.5 * regulariser.strength * ((rates - regulariser.target) ** 2).sum(-1).mean()

    def seen(self, edge, z):
        return z.detach() if edge in self.cut else z

    def run(self, x):
        p, v, a, y = self.p, torch.tensor(START).expand(len(x), N), torch.zeros(len(x), N), torch.zeros(len(x), N_OUT)
        silent, outputs, self.z = torch.zeros(len(x), N), [], []
        width = p["rec.v_th"].detach()
        for t in range(x.shape[1]):
            v, a = torch.exp(-DT / p["rec.tau_mem"]) * v, torch.exp(-DT / p["rec.tau_adapt"]) * a
            argument = v - p["rec.v_th"] - p["rec.beta"] * a
            ready = (silent <= 0).double()
            psi = 0.3 / width * torch.clamp(1 - argument.detach().abs() / width, min=0) * ready
            hard = (argument.detach() > 0).double() * ready
            z = hard + psi * (argument - argument.detach())
            self.z.append(z)
            v = v + x[:, t] @ self.w["cues_rec"] + self.seen("R", z) @ self.w["rec_rec"]
            y = self.seen("M", torch.exp(-DT / p["out.tau_out"]) * y) + z @ self.w["rec_out"]
            v, a = v - hard * p["rec.v_th"] - (self.seen("S", z) - hard) * p["rec.v_th"].detach(), a + self.seen("A", z)
            silent = torch.where(hard > 0, float(TAU_REF), silent) - 1
            outputs.append(y)
        return torch.stack(outputs, 1)

    def gradient(self, name):
        return torch.autograd.grad(self.loss, self.p[name], retain_graph=True)[0].numpy()

    def alive(self):
        """Raise unless neurons spike, some as fast as they can."""
        spikes = torch.stack(self.z, 1).detach().numpy()
        assert 0.05 < spikes.mean() < 0.9 / TAU_REF
        assert min(np.diff(np.flatnonzero(row)).min(initial=99) for trial in spikes for row in trial.T) == TAU_REF
        return self


def error(found, expected):
    """The largest difference over the largest value."""
    assert np.shape(found) == np.shape(expected)
    scale = np.abs(expected).max()
    assert scale > 1e-9, "nothing to compare: the expected gradient is zero"
    return np.abs(found - expected).max() / scale


def estimates(net, values, given, rule, loss, names):
    """``(where, tolerance, gradients)`` as traces find them forward in time, on both backends."""
    for where, tolerance, options in (("torch", 1e-10, {"form": "traces"}), ("brian2", 1e-8, {})):
        tree = lp.gradient(net, given, rule, loss=loss, backend=where, values=values, trainable=names, **options)
        yield where, tolerance, {n: tree[n.split(".")[0]][f"gradient_{n.split('.')[1]}"].values for n in names}


#: rule, edges cut in the written network
EQUAL = {
    "e-prop": (eprop(), "RS"),
    "e-prop, reset followed": (eprop(reset=True), "R"),
    "e-prop, adaptation cut": (eprop(adaptation=False), "RSA"),
    "OTTT": (ottt(), "RSAM"),
}
NAMES = [f"rec.{k}" for k in OF_NEURONS]


@pytest.mark.sampled(9)
@pytest.mark.parametrize(
    "spread, regulariser", [(True, REGULARISER), (False, None)], ids=["per neuron, rates", "one for all"]
)
@pytest.mark.parametrize("row", EQUAL)
def test_equal(row, regulariser, spread):
    rule, cut = EQUAL[row]
    net, given = network(spread=spread), trials()
    values = net.draw(3)
    written = Written(net, values, given, cut=cut, regulariser=regulariser).alive()
    loss = mse() + regulariser if regulariser else mse()
    for where, tolerance, grads in estimates(net, values, given, rule, loss, NAMES):
        for name, grad in grads.items():
            assert error(grad, written.gradient(name)) < tolerance, (where, name)


@pytest.mark.parametrize("spread", [True, False], ids=["per neuron", "one for all"])
def test_full_bptt(spread):
    net, given = network(spread=spread), trials()
    values = net.draw(3)
    written, names = Written(net, values, given), [*NAMES, "out.tau_out"]
    tree = lp.gradient(net, given, bptt(), loss=mse(), values=values, trainable=names)
    for name in names:
        owner, key = name.split(".")
        assert error(tree[owner][f"gradient_{key}"].values, written.gradient(name)) < 1e-10, name


#: rule, edges cut in the written network, a parameter in which the difference shows
DIFFERENT = {
    "reset kept in autograd only": (eprop(), "R", "rec.tau_mem"),
    "reset followed by the rule only": (eprop(reset=True), "RS", "rec.v_th"),
    "adaptation cut in autograd only": (eprop(), "RSA", "rec.beta"),
    "adaptation cut in the rule only": (eprop(adaptation=False), "RS", "rec.tau_mem"),
    "memory of the readout kept": (ottt(), "RSA", "rec.v_th"),
    "full BPTT": (eprop(), "", "rec.tau_adapt"),
}


@pytest.mark.parametrize("row", DIFFERENT)
def test_different(row):
    rule, cut, name = DIFFERENT[row]
    net, given = network(), trials()
    values = net.draw(3)
    expected = Written(net, values, given, cut=cut).alive().gradient(name)
    where, _, grads = next(estimates(net, values, given, rule, mse(), [name]))
    assert error(grads[name], expected) > 0.01, where


@pytest.mark.sampled(2, 1)
@pytest.mark.parametrize("rule", [eprop(), ottt()], ids=["e-prop", "OTTT"])
def test_readout(rule):
    """Nothing lies behind a readout's own time constant: every rule gives the whole gradient, and so do differences."""
    net, given = network(), trials()
    values, name, h = net.draw(3), "out.tau_out", 1e-8
    expected = Written(net, values, given).alive().gradient(name)
    for where, tolerance, grads in estimates(net, values, given, rule, mse(), [name]):
        assert error(grads[name], expected) < tolerance, where
    up, down = (
        lp.gradient(net, given, bptt(), loss=mse(), values=values.replace_weights({}, {name: 15e-3 + d})).attrs["loss"]
        for d in (h, -h)
    )
    assert (up - down) / (2 * h) == pytest.approx(float(expected), rel=1e-5)


def test_readout_per_neuron():
    """Readouts that remember differently: without a hidden population whose traces they smooth, each learns its own."""
    base = network(spreading_out=True)
    net = Network(
        dt=1 * ms, cues=Input(N_IN), out=base.nodes["out"], projections=[Projection("cues", "out", weight=normal(1.0))]
    )
    values, given, name, h = net.draw(1), trials(), "out.tau_out", 1e-8
    start = values.parameters["out"]["tau_out"]

    def loss(tau):
        return lp.gradient(net, given, bptt(), loss=mse(), values=values.replace_weights({}, {name: tau})).attrs["loss"]

    expected = np.array([(loss(start + d) - loss(start - d)) / (2 * h) for d in h * np.eye(2)])
    for where, _, grads in estimates(net, values, given, eprop(), mse(), [name]):
        assert error(grads[name], expected) < 1e-5, where
    whole = network(spreading_out=True)
    with pytest.raises(UnsupportedError, match="differs between its neurons"):
        lp.gradient(whole, given, eprop(), loss=mse(), trainable=[name], form="traces")


class Currents:
    """``cuba_lif`` in plain Torch: hard reset, membrane clamped while refractory, spikes land on the current."""

    def __init__(self, net, values, given, *, reset):
        self.p = {k: torch.tensor(v, requires_grad=True) for k, v in values.parameters["hid"].items()}
        w_in, w_out = (torch.tensor(values.weights[n]) for n in ("cues_hid", "hid_out"))
        p, x = self.p, torch.tensor(given.inputs["cues"]).double()
        v, i, y = p["v_rest"].detach().expand(len(x), N), torch.zeros(len(x), N), torch.zeros(len(x), N_OUT)
        mem, syn, silent, outputs = p["tau_mem"], p["tau_syn"], torch.zeros(len(x), N), []
        self.spikes = 0
        for t in range(x.shape[1]):
            decay, fall = torch.exp(-DT / mem), torch.exp(-DT / syn)
            ready = silent <= 0
            free = p["v_rest"] + (v - p["v_rest"]) * decay + i * syn / (syn - mem) * (fall - decay)
            v, i = torch.where(ready, free, v), fall * i
            argument = v - p["v_th"]
            width = p["width"].detach()
            psi = 1 / width / (1 + argument.detach().abs() / width) ** 2 * ready
            hard = ((argument.detach() > 0) & ready).double()
            z = hard + psi * (argument - argument.detach())
            y = np.exp(-1 / 15) * y + z @ w_out
            i = i + x[:, t] @ w_in
            seen = z if reset else z.detach()
            v = torch.where(hard > 0, p["v_rest"], v) + (seen - hard) * (p["v_rest"] - v).detach()
            silent = torch.where(hard > 0, 3.0, silent) - 1
            self.spikes += hard.sum()
            outputs.append(y)
        per_step = 0.5 * ((torch.stack(outputs, 1) - torch.tensor(given.target)) ** 2).sum(-1)
        self.loss = (torch.tensor(given.weight) * per_step).sum(1).mean()

    def gradient(self, name):
        return torch.autograd.grad(self.loss, self.p[name], retain_graph=True)[0].numpy()


@pytest.mark.sampled(4)
@pytest.mark.parametrize("reset", [False, True], ids=["reset cut", "reset followed"])
@pytest.mark.parametrize("spread", [True, False], ids=["per neuron", "one for all"])
def test_synaptic_currents(spread, reset):
    """With units: time constants of membrane and synapse, threshold and rest of a neuron with a hard reset."""
    more = np.linspace(0.9, 1.3, N) if spread else 1.0
    names = ["tau_mem", "tau_syn", "v_th", "v_rest"]
    parameters = {
        "tau_mem": 10 * ms * more,
        "tau_syn": 5 * ms * more,
        "v_th": -60 * mV + 10 * mV * more,
        "v_rest": -60 * mV + 0 * mV * more,
    }
    net = Network(
        dt=1 * ms, cues=Input(N_IN), hid=Population(N, cuba_lif(tau_ref=3 * ms), parameters), out=Population(N_OUT, leaky_readout(tau_out=15 * ms)),
        projections=[Projection("cues", "hid", weight=normal(30 * mV, mean=12 * mV)), Projection("hid", "out", weight=normal(2.0))],
    )  # fmt: skip
    values, given = net.draw(3), trials()
    written = Currents(net, values, given, reset=reset)
    assert 0.02 < written.spikes / (TRIALS * STEPS * N) < 0.3
    for where, tolerance, grads in estimates(
        net, values, given, eprop(reset=reset), mse(), [f"hid.{k}" for k in names]
    ):
        for name, grad in grads.items():
            assert error(grad, written.gradient(name[4:])) < tolerance, (where, name)


# --- learning ---------------------------------------------------------------------------------------------------------

LIMITS = {"tau_mem": (16 * ms, 26 * ms), "beta": (0, None), "v_th": (0.1, None)}
RATES = {"rec.tau_mem": 0.05, "rec.beta": 1.0, "rec.v_th": 0.5}
TASK = Task.generated("noise", lambda rng, n: trials(30, n, int(rng.integers(1 << 30))))


def learn(net, backend, *, rule=None, rates=RATES, updates=4, **options):
    target = {"target": "numpy"} if backend == "brian2" else {}
    optimiser = lp.adam(0.02).with_rates(**rates)
    return lp.run(
        net,
        TASK,
        rule=rule or eprop(),
        optimiser=optimiser,
        loss=mse() + REGULARISER,
        backend=backend,
        batch=2,
        updates=updates,
        seed=1,
        show=False,
        **target,
        **options,
    )


def learned(record):
    return {name: record["learned"][name].values for name in RATES}


@pytest.mark.sampled(2, 1)
@pytest.mark.parametrize("rule", [eprop(), ottt()], ids=["e-prop", "OTTT"])
def test_learning_is_the_same_on_both_backends(rule):
    net = network(trainable=LIMITS)
    one, other = (learn(net, backend, rule=rule) for backend in ("torch", "brian2"))
    for name, value in learned(one).items():
        assert error(learned(other)[name], value) < 1e-10, name
        assert not np.allclose(value, net.draw(1).other(name), rtol=1e-3), name
    for p in net.plastic:
        assert error(other[p.name]["weight"].values, one[p.name]["weight"].values) < 1e-10, p.name
    tau, (low, high) = learned(one)["rec.tau_mem"], map(float, LIMITS["tau_mem"])
    assert tau.min() >= low and tau.max() <= high and np.isin((low, high), tau).any()  # both are where some began
    assert (learned(one)["rec.beta"] >= 0).all()


@pytest.mark.thorough
@pytest.mark.sampled(2)
@pytest.mark.parametrize("backend", ["torch", "brian2"])
def test_resume_and_values_from(backend, tmp_path):
    net = network(trainable=LIMITS)
    whole = learn(net, backend, updates=4, path=tmp_path / "whole.zarr")
    seen = []

    def stopped(update, batch, seed):
        if update >= 2 and len(seen) < 1:
            seen.append(update)
            raise KeyboardInterrupt
        return TASK.training(update, batch, seed)

    half = dataclasses.replace(TASK, training=stopped)
    path, options = (
        tmp_path / "half.zarr",
        dict(rule=eprop(), loss=mse() + REGULARISER, backend=backend, batch=2, seed=1, show=False),
    )
    options |= dict(optimiser=lp.adam(0.02).with_rates(**RATES), path=path, updates=4, test=1, test_every=1)
    options |= {"target": "numpy"} if backend == "brian2" else {}
    with pytest.raises(KeyboardInterrupt):
        lp.run(net, half, **options)
    resumed = lp.run(net, half, resume=True, **options)
    assert seen == [2]
    for name, value in learned(whole).items():
        assert np.array_equal(learned(resumed)[name], value), name
    values = net.values_from(resumed)
    assert np.array_equal(values.parameters["rec"]["tau_mem"], learned(whole)["rec.tau_mem"])
    assert np.array_equal(values.weights["rec_rec"], whole["rec_rec"]["weight"].values)
    again = lp.run(net, trials(), backend=backend, values=values, record=["rec.raster"], show=False)
    before = lp.run(net, trials(), backend=backend, values=net.draw(1), record=["rec.raster"], show=False)
    assert not np.array_equal(again["rec"]["spikes"], before["rec"]["spikes"])


def test_one_number_for_all_learns_on_torch_only():
    net = network(spread=False, trainable={"tau_mem": (5 * ms, 50 * ms)})
    rates = {"rec.tau_mem": 0.05}
    record = learn(net, "torch", rates=rates)
    assert record["learned"]["rec.tau_mem"].size == 1 and abs(record["learned"]["rec.tau_mem"].item() - 20e-3) > 1e-4
    assert net.values_from(record).parameters["rec"]["tau_mem"].shape == ()
    with pytest.raises(UnsupportedError, match="one number for the whole population"):
        learn(net, "brian2", rates=rates)


def test_filters_follow_the_memory_of_the_readout():
    """Traces are smoothed with the readout's time constant as it is, not as the network was written with."""
    net, given = network(learned_out={"tau_out": (5 * ms, 50 * ms)}), trials()
    rates = {"out.tau_out": 0.2}
    values = net.values_from(learn(net, "torch", rates=rates))
    assert abs(values.parameters["out"]["tau_out"] - 15e-3) > 3e-3
    expected = lp.gradient(net, given, eprop(), loss=mse(), values=values, form="adjoint")
    for where, tolerance, options in (("torch", 1e-10, {"form": "traces"}), ("brian2", 1e-8, {})):
        found = lp.gradient(net, given, eprop(), loss=mse(), values=values, backend=where, **options)
        for name in ("cues_rec", "rec_out"):
            assert error(found[name]["gradient"].values, expected[name]["gradient"].values) < tolerance, (where, name)
    learn(net, "torch", rule=ottt(), rates=rates, updates=1)  # which does not smooth
    with pytest.raises(UnsupportedError, match="out.tau_out must stay"):
        learn(net, "torch", rule=eprop(feedback="sign"), rates=rates)


@pytest.mark.parametrize("backend", ["torch", "brian2"])
def test_refused(backend):
    net = network(trainable=LIMITS)
    with pytest.raises(LocalplastError, match="say how fast rec.beta learns"):
        learn(net, backend, rates={"rec.tau_mem": 1.0, "rec.v_th": 1.0})
    with pytest.raises(UnsupportedError, match="changes rec.tau_mem at the end of trials only; use update='trial'"):
        lp.run(
            net,
            TASK,
            rule=eprop(update="step"),
            optimiser=lp.adam(0.02).with_rates(**RATES),
            loss=mse(),
            backend=backend,
            updates=1,
            target="numpy",
        )
    for rule in (
        s_tllr(),
        dataclasses.replace(decolle(), eligibility=dataclasses.replace(decolle().eligibility, memory=False)),
    ):
        with pytest.raises(UnsupportedError, match="has no trace of rec.tau_mem"):
            learn(net, backend, rule=rule)


def test_what_cannot_learn():
    for trainable, message in (
        ({"tau_ref": (1 * ms, 5 * ms)}, "no such parameter that can be learned"), ({"tau": (None, None)}, "no such parameter"),
        ({"tau_mem": (1, 5)}, "wrong unit"), ({"tau_mem": 5 * ms}, "lowest and the highest"),
    ):  # fmt: skip
        with pytest.raises(NetworkError, match=message):
            network(trainable=trainable)
