"""What prospective neurons need of the core: what is held, what travels, weights read backwards, parameters,
divergence.
"""

from dataclasses import replace

import numpy as np
import pytest
from brian2 import ms, mV, pA

import localplast as lp
from localplast.errors import ModelError, NetworkError, RunawayError, UnsupportedError
from localplast.learning.optimise import sgd
from localplast.models import graded_readout
from localplast.network import Input, Network, Population, Projection, axonal, normal, same_as, transposed
from localplast.network import dendritic as dendritic_delay
from localplast.neuron import Mismatch, NeuronModel
from localplast.program.learn import plan
from localplast.program.locality import audit
from localplast.rules import bptt, dendritic
from localplast.task import Task, Trials
from localplast.task.loss import mse

STEPS = 60
EQUATIONS = """
    du/dt = (I + b + delta - u)/tau_m : 1
    u_breve = u + tau_r*(I + b + delta - u)/tau_m : 1
    delta = slope*feedback : 1
    rate = tanh(u_breve) : 1
    past = u_breve : 1 (constant over dt)
    slope : 1
    I : 1
    feedback : 1
"""
CELL = NeuronModel(
    name="cell",
    equations=EQUATIONS,
    parameters={"tau_m": 10 * ms, "tau_r": 3 * ms, "b": 0.0},
    update="slope = 1 - tanh(past)**2",
    method="euler",
    output="rate",
    receives="I",
    mismatch={"I": Mismatch("delta"), "b": Mismatch("delta"), "tau_m": Mismatch("-delta*(I + b + delta - u)/tau_m")},
    at_least_dt=("tau_m", "tau_r"),
)


def network(*, down=None, delay=None, model=CELL, plastic=False, **options):
    """Two layers; the input ``nudge`` is heard by the upper one as its feedback."""
    one = {"plastic": False, "target": "feedback"}
    return Network(
        dt=1 * ms, sense=Input(3, "currents"), nudge=Input(2, "currents", teacher=True), said=Population(2, graded_readout()),
        low=Population(4, model, {"b": np.zeros(4), "tau_m": np.array([5.0, 10, 15, 20]) * ms}, **options), top=Population(2, model),
        projections=[
            Projection("sense", "low", name="up1"), Projection("low", "top", name="up2", delay=delay),
            Projection("top", "low", weight=transposed("up2") if down is None else down, output="delta", name="down", **{**one, "plastic": plastic}),
            Projection("nudge", "top", weight=np.eye(2), name="luring", **one),
            Projection("top", "said", weight=np.eye(2), plastic=False, name="saying"),
        ],
    )  # fmt: skip


def stream(trials=1, seed=0):
    """Inputs that change every ten steps, without warning."""
    rng = np.random.default_rng(seed)
    sense, lure = (np.repeat(rng.normal(size=(trials, STEPS // 10, n)), 10, axis=1) for n in (3, 2))
    return Trials({"sense": sense, "nudge": 0.3 * lure}, np.tanh(lure))


def by_hand(net, values, trials, *, early=True):
    """``u_breve`` of the lower layer: all that leaves in a step is of the end of the step before; ``early=False``:
    half updated.
    """
    weights, cells = values.weights, {}
    for name in ("low", "top"):
        tau = np.broadcast_to(values.parameters[name]["tau_m"], net.size(name)) * 1e3
        cells[name] = {k: np.zeros(net.size(name)) for k in ("u", "I", "feedback", "slope")} | {"tau": tau}

    def delta(c):
        return c["slope"] * c["feedback"]

    def breve(c):
        return c["u"] + 3.0 * (c["I"] + delta(c) - c["u"]) / c["tau"]

    found = []
    for sense, lure in zip(trials.inputs["sense"][0], trials.inputs["nudge"][0], strict=True):
        past = {name: breve(c) for name, c in cells.items()}
        sent = {"low": np.tanh(past["low"]), "top": delta(cells["top"])}
        for name, c in cells.items():
            c["u"] = c["u"] + (c["I"] + delta(c) - c["u"]) / c["tau"]
            c["slope"] = 1 - np.tanh(past[name]) ** 2
        if not early:
            sent = {"low": np.tanh(breve(cells["low"])), "top": delta(cells["top"])}
        cells["low"] |= {"I": sense @ weights["up1"], "feedback": sent["top"] @ weights["up2"].T}
        cells["top"] |= {"I": sent["low"] @ weights["up2"], "feedback": lure}
        found.append(breve(cells["low"]))
    return np.array(found)


@pytest.mark.parametrize("backend", ["torch", "brian2"])
def test_all_that_leaves_in_a_step_is_of_the_end_of_the_step_before(backend):
    net, trials = network(), stream()
    values = net.draw(0)
    record = lp.run(net, trials, record=["low.u_breve", "low.past", "low.slope"], values=values, backend=backend)
    found = {k: v.values[0] for k, v in record["low"].data_vars.items()}
    np.testing.assert_allclose(found["u_breve"], by_hand(net, values, trials), rtol=0, atol=1e-14)
    np.testing.assert_array_equal(found["past"][1:], found["u_breve"][:-1])
    np.testing.assert_allclose(found["slope"], 1 - np.tanh(found["past"]) ** 2, rtol=0, atol=1e-14)
    assert np.abs(found["u_breve"] - by_hand(net, values, trials, early=False)).max() > 1e-3


def test_several_held_expressions_are_of_one_moment():
    equations = "dv/dt = (I - v)/tau : 1\nI : 1\nnow = v : 1 (constant over dt)\nbefore = now : 1 (constant over dt)"
    model = NeuronModel("held", equations, {"tau": 5 * ms}, output="v", receives="I")
    net = Network(
        dt=1 * ms,
        sense=Input(1, "currents"),
        cell=Population(1, model),
        projections=[Projection("sense", "cell", weight=1.0)],
    )
    trials = Trials({"sense": np.ones((2, 6, 1))})
    for backend in ("torch", "brian2"):
        found = lp.run(net, trials, record=["cell.v", "cell.now", "cell.before"], backend=backend)["cell"]
        np.testing.assert_array_equal(found["now"].values[:, 1:], found["v"].values[:, :-1])
        np.testing.assert_array_equal(found["before"].values[:, 2:], found["v"].values[:, :-2])
        assert found["v"].values[1, -1, 0] > 0.5


def test_bptt_goes_through_what_is_held():
    net, trials = network(), stream()
    trials = replace(trials, target=trials.target[..., :2])
    values, found = net.draw(0), lp.gradient(network(), trials, bptt(), loss=mse())["up1"]["gradient"].values

    def loss(step):
        moved = values.weights["up1"].copy()
        moved[1, 2] += step
        return lp.gradient(net, trials, bptt(), loss=mse(), values=values.replace_weights({"up1": moved})).attrs["loss"]

    assert found[1, 2] == pytest.approx((loss(1e-5) - loss(-1e-5)) / 2e-5, rel=1e-7)
    assert abs(found[1, 2]) > 1e-3


def test_weights_read_backwards_follow_those_that_learn():
    net, trials = network(), stream()
    task, results = Task("stream", lambda *_: trials, lambda *_: trials), {}
    for backend in ("torch", "brian2"):
        results[backend] = lp.run(
            net, task, rule=dendritic(), optimiser=sgd(0.05), updates=2, backend=backend, loss=mse(),
            target="numpy" if backend == "brian2" else None,
        )  # fmt: skip
        up, down = (results[backend][p]["weight"].values for p in ("up2", "down"))
        np.testing.assert_array_equal(np.squeeze(down), np.squeeze(up).T)
    for name in ("up1", "up2"):
        found, other = (np.squeeze(r[name]["weight"].values) for r in results.values())
        np.testing.assert_allclose(found, other, rtol=0, atol=1e-13)
        assert np.abs(found - net.draw(0).weights[name]).max() > 0.05
    begun = network(down=same_as("up2", transposed=True))
    fixed = lp.run(begun, task, rule=dendritic(), optimiser=sgd(0.05), updates=2, backend="torch", loss=mse())
    assert (
        np.abs(np.squeeze(fixed["up1"]["weight"].values) - np.squeeze(results["torch"]["up1"]["weight"].values)).max()
        > 1e-4
    )


def test_weight_transport_is_declared():
    for net, said in ((network(), True), (network(down=normal()), False)):
        reasons = audit(plan(net, dendritic(), mse(), sgd(0.1)), net).reasons
        assert any("read backwards (weight transport)" in reason for reason in reasons) == said


def test_a_mask_goes_with_the_weights_and_a_network_comes_back_from_its_file(tmp_path):
    net = network()
    parts = [replace(p, mask=0.5) if p.name == "up2" else p for p in net.projections.values()]
    sparse = Network(dt=net.dt, projections=parts, **net.nodes)
    values = sparse.draw(1)
    np.testing.assert_array_equal(values.masks["down"], values.masks["up2"].T)
    assert 0 < values.masks["up2"].sum() < 8
    sparse.save(tmp_path / "net.json")
    assert Network.load(tmp_path / "net.json") == sparse


@pytest.mark.parametrize(
    "options, message",
    [
        ({"plastic": True}, "plastic=True of its own"),
        ({"mask": np.ones((2, 4), bool)}, "a mask of its own"),
        ({"bounds": (-1, 1)}, "bounds of its own"),
        ({"weight": transposed("luring")}, r"is \(2, 4\) \(pre, post\) and cannot"),
        ({"weight": transposed("nothing")}, "no weights to begin as at 'nothing'"),
    ],
)
def test_weights_of_another_projection_are_all_they_have(options, message):
    net = network()
    parts = [replace(p, **options) if p.name == "down" else p for p in net.projections.values()]
    with pytest.raises(NetworkError, match=message):
        Network(dt=net.dt, projections=parts, **net.nodes)


def test_units_must_fit_both_ways():
    cell = NeuronModel(
        "c", "dv/dt = -v/tau + I/pF : volt\nI : amp\nback : volt", {"tau": 5 * ms}, output="v/mV", receives="I"
    )
    both = [
        Projection("a", "b", name="up"),
        Projection("b", "a", target="back", weight=transposed("up"), plastic=False, name="down"),
    ]
    with pytest.raises(NetworkError, match="'down' needs weights in .*volt.*, and those of 'up' are in .*amp"):
        Network(dt=1 * ms, a=Population(2, cell), b=Population(3, cell), projections=both)
    assert mV and pA


@pytest.mark.sampled(3, 2)
@pytest.mark.parametrize(
    "there, back", [(2 * ms, None), (None, 3 * ms), (np.array([0, 1, 2, 5]) * ms, np.array([4, 1]) * ms)]
)
def test_both_ways_through_the_same_synapses_take_time(there, back):
    made = network(delay=None if there is None else axonal(there))
    parts = [
        replace(p, delay=axonal(back)) if p.name == "down" and back is not None else p
        for p in made.projections.values()
    ]
    net, trials = Network(dt=made.dt, projections=parts, **made.nodes), stream()
    one, other = (
        lp.run(net, trials, backend=backend, record=["low.u"])["low"]["u"].values for backend in ("torch", "brian2")
    )
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-14)
    assert np.abs(one - lp.run(network(), trials, record=["low.u"])["low"]["u"].values).max() > 1e-4
    task = Task("stream", lambda *_: trials, lambda *_: trials)
    one, other = (
        lp.run(net, task, rule=dendritic(), optimiser=sgd(0.05), updates=2, backend=backend, loss=mse(), target=code)
        for backend, code in (("torch", None), ("brian2", "numpy"))
    )
    for name in ("up1", "up2", "down"):
        np.testing.assert_allclose(
            np.squeeze(one[name]["weight"].values), np.squeeze(other[name]["weight"].values), rtol=0, atol=1e-13
        )


def test_synapses_that_are_read_both_ways_have_axonal_delays_in_brian2():
    net = network(delay=dendritic_delay(2 * ms))
    with pytest.raises(
        UnsupportedError,
        match="'up2': synapses that are read both ways, here and in 'down', have axonal delays in Brian2",
    ):
        lp.run(net, stream())
    assert lp.run(net, stream(), backend="torch", record=["low.u"])["low"]["u"].shape[1] == STEPS


@pytest.mark.sampled(2)
@pytest.mark.parametrize("update", ["step", "trial", 5 * ms])
def test_parameters_learn_from_the_neurons_own_error(update):
    net, trials = network(trainable={"b": (None, None), "tau_m": (2 * ms, None)}), stream()
    rates = {"low.b": 0.02, "low.tau_m": 1e-4}
    task = Task("stream", lambda *_: trials, lambda *_: trials)
    found = {
        backend: lp.run(
            net, task, rule=dendritic(update=update), optimiser=sgd(0.02).with_rates(**rates), updates=2, backend=backend, loss=mse(),
            target="numpy" if backend == "brian2" else None,
        )
        for backend in ("torch", "brian2")
    }  # fmt: skip
    values = net.draw(0)
    for name in rates:
        one, other = (np.squeeze(r["learned"][name].values) for r in found.values())
        np.testing.assert_allclose(one, other, rtol=1e-12)
        assert np.all(one != np.broadcast_to(values.other(name), one.shape))


@pytest.mark.parametrize("backend", ["torch", "brian2"])
def test_their_gradient_is_the_sum_of_the_error(backend):
    net, trials = network(trainable={"b": (None, None), "tau_m": (2 * ms, None)}), stream(2)
    found = lp.gradient(net, trials, dendritic(update="trial"), loss=mse(), backend=backend)["low"]
    state = lp.run(net, trials, record=["low.delta", "low.u", "low.I"], backend=backend)["low"]
    delta, u, current = (state[k].values for k in ("delta", "u", "I"))
    np.testing.assert_allclose(found["gradient_b"], -delta.sum(1).mean(0), rtol=1e-12)
    tau = np.array([5.0, 10, 15, 20]) / 1e3
    np.testing.assert_allclose(
        found["gradient_tau_m"], (delta * (current + delta - u)).sum(1).mean(0) / tau, rtol=1e-12
    )


def test_a_parameter_without_an_error_is_refused():
    net = network(trainable={"tau_r": (2 * ms, None)})
    with pytest.raises(UnsupportedError, match="low.tau_r: cell does not say what its parameter learns from"):
        lp.gradient(net, stream(), dendritic(update="trial"), loss=mse())
    with pytest.raises(ModelError, match="'tau_m' learns from its error alone"):
        replace(CELL, mismatch={"tau_m": Mismatch("delta", pre="rate")})


@pytest.mark.parametrize(
    "values, trainable, message",
    [
        ({"tau_r": 0.5 * ms}, {}, r"population 'a': tau_r is 0.5 ms, shorter than the time step, 1. ms"),
        ({"tau_m": np.array([5, 0.1]) * ms}, {}, r"population 'a': tau_m is 100. us, shorter"),
        ({}, {"tau_m": (0.5 * ms, None)}, r"population 'a': tau_m may learn to be 0.5 ms, shorter"),
        ({}, {"tau_m": (None, None)}, r"population 'a': tau_m may learn to be anything, shorter"),
    ],
)
def test_no_time_constant_is_shorter_than_the_step(values, trainable, message):
    with pytest.raises(NetworkError, match=message):
        Network(dt=1 * ms, a=Population(2, CELL, values, trainable=trainable))


@pytest.mark.parametrize("backend", ["torch", "brian2"])
def test_a_loop_that_diverges_says_where_and_loses_nothing(backend):
    linear = replace(CELL, equations=EQUATIONS.replace("tanh(u_breve)", "u_breve"), update="slope = 1")
    net, trials = network(model=linear), stream()
    task = Task("stream", lambda *_: trials, lambda *_: trials)
    options = {"target": "numpy"} if backend == "brian2" else {}
    with (
        np.errstate(all="ignore"),
        pytest.raises(RunawayError, match=r"population '\w+' is not finite from step \d+ on.* at update 1") as caught,
    ):
        lp.run(net, task, rule=dendritic(), optimiser=sgd(1e3), updates=2, backend=backend, loss=mse(), **options)
    np.testing.assert_array_equal(caught.value.record["up2"]["weight"], net.draw(0).weights["up2"])


@pytest.mark.parametrize("backend", ["torch", "brian2"])
def test_a_gradient_that_diverges_says_where(backend):
    steep = replace(CELL, equations=EQUATIONS.replace("tanh(u_breve)", "u_breve"), update="slope = 1e9*past")
    with (
        np.errstate(all="ignore"),
        pytest.raises(RunawayError, match=r"population '\w+' is not finite from step \d+ on"),
    ):
        lp.gradient(network(model=steep), stream(), dendritic(update="trial"), loss=mse(), backend=backend)


def test_brian2_never_answers_with_the_numbers_of_torch(monkeypatch):
    """Noise may diverge on one backend only: what Torch finds is then no answer."""
    from localplast.backends.torch import gradient as torch_backend

    monkeypatch.setattr(torch_backend, "gradient", lambda *_, **__: ({"up1.weight": np.zeros((3, 4))}, {}))
    steep = replace(CELL, equations=EQUATIONS.replace("tanh(u_breve)", "u_breve"), update="slope = 1e9*past")
    with (
        np.errstate(all="ignore"),
        pytest.raises(RunawayError, match="the gradient of dendritic is not finite in Brian2"),
    ):
        lp.gradient(network(model=steep), stream(), dendritic(update="trial"), loss=mse(), backend="brian2")


def test_what_may_be_held():
    with pytest.raises(
        ModelError, match=r"differential equations may be \(unless refractory\), subexpressions \(constant over dt\)"
    ):
        NeuronModel("odd", "dv/dt = -v/tau : 1\nI : 1 (constant)", {"tau": 5 * ms})
    with pytest.raises(ModelError, match="unknown variable 'nothing'"):
        NeuronModel("odd", "dv/dt = -v/tau : 1\npast = nothing : 1 (constant over dt)", {"tau": 5 * ms})


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cython", "cpp"])
def test_compiled_brian2_learns_the_same(target):
    net, trials = network(trainable={"b": (None, None), "tau_m": (2 * ms, None)}), stream()
    task = Task("stream", lambda *_: trials, lambda *_: trials)
    optimiser = sgd(0.05).with_rates(**{"low.b": 0.02, "low.tau_m": 1e-4})
    found, other = (
        lp.run(net, task, rule=dendritic(), optimiser=optimiser, updates=3, backend=backend, loss=mse(), target=code)
        for backend, code in (("torch", None), ("brian2", target))
    )
    for part, name in (("up1", "weight"), ("down", "weight"), ("learned", "low.b"), ("learned", "low.tau_m")):
        np.testing.assert_allclose(
            np.squeeze(found[part][name].values), np.squeeze(other[part][name].values), rtol=0, atol=1e-14
        )
