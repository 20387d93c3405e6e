"""Real-time recurrent learning, which never looks back, gives the gradient of BPTT, which only does."""

import dataclasses

import numpy as np
import pytest
from brian2 import ms, mV

import localplast as lp
from localplast.backends.torch import gradient as torch_backend
from localplast.errors import UnsupportedError
from localplast.models import alif, cuba_lif, leaky_readout, lif
from localplast.network import Input, Network, Population, Projection, axonal, dendritic, normal, synaptic
from localplast.neuron import NeuronModel
from localplast.rules import bptt, eprop
from localplast.rules.rtrl import rtrl
from localplast.task import Trials
from localplast.task.loss import cross_entropy, mse, rate

N_IN, N, N_OUT, TRIALS, STEPS = 4, 5, 2, 2, 40
FRACTIONS = np.random.default_rng(3).uniform(0.15, 0.85, (N, N))


def network(model, *, scale=1.5, mean=0.45, delay=None, input_delay=None, readout_delay=None, parameters=None):
    links = [
        Projection("cues", "rec", weight=normal(scale, mean=mean * scale), delay=input_delay),
        Projection("rec", "rec", weight=normal(scale), delay=delay),
        Projection("rec", "out", weight=normal(1.0), delay=readout_delay),
    ]  # fmt: skip
    rec = Population(N, model, parameters=parameters or {})
    return Network(dt=1 * ms, cues=Input(N_IN), rec=rec, out=Population(N_OUT, leaky_readout()), projections=links)


def two_populations():
    """Excitation and inhibition with delays between them, of unlike neurons; only one of them reaches the readout."""
    pairs = [("cues", "exc", 1.0), ("exc", "exc", 0.3), ("exc", "inh", 1.5), ("inh", "exc", -0.8), ("inh", "inh", -0.3),
             ("exc", "out", 0.0)]  # fmt: skip
    links = [
        Projection(pre, post, weight=normal(0.8, mean=mean), delay=axonal(2 * ms) if pre == "inh" else None)
        for pre, post, mean in pairs
    ]
    return Network(
        dt=1 * ms, cues=Input(N_IN), exc=Population(N, alif(tau_ref=2 * ms, beta=0.3)), inh=Population(3, lif(tau_ref=1 * ms)),
        out=Population(N_OUT, leaky_readout()), projections=links,
    )  # fmt: skip


def graded():
    """A rate neuron: what travels is no spike, and a delay line holds numbers."""
    model = NeuronModel(
        name="graded", equations="dv/dt = (-v + v_th*tanh(v) + I)/tau_mem : 1\n I : 1", output="tanh((v - v_th)/width)",
        receives="I", method="rk4", parameters={"tau_mem": 8 * ms, "v_th": 0.3, "width": 0.7},
    )  # fmt: skip
    readout = NeuronModel(name="leaky_graded", equations="dv/dt = (-v + I)/tau_out : 1\n I : 1", output="v", receives="I",
                          parameters={"tau_out": 10 * ms})  # fmt: skip
    pairs = [("cues", "rec", None), ("rec", "rec", axonal((np.arange(N) + FRACTIONS[0]) * ms)), ("rec", "out", None)]
    links = [Projection(pre, post, weight=normal(1.5), delay=delay) for pre, post, delay in pairs]
    return Network(
        dt=1 * ms,
        cues=Input(N_IN, "currents"),
        rec=Population(N, model),
        out=Population(N_OUT, readout),
        projections=links,
    )


SPREAD = {"tau_mem": np.linspace(10, 30, N) * ms}
OF_ALIF = ["rec.tau_mem", "rec.tau_adapt", "rec.beta", "rec.v_th", "rec.v", "rec.a", "out.tau_out"]
OF_CUBA = ["rec.tau_mem", "rec.tau_syn", "rec.v_th", "rec.v_rest", "rec.I"]
#: name: (network, further parameters)
NETWORKS = {
    "LIF": (network(lif(tau_ref=3 * ms)), ["rec.tau_mem", "rec.v_th"]),
    "ALIF": (network(alif(tau_ref=2 * ms, beta=0.3), parameters=SPREAD), OF_ALIF),
    "CUBA": (network(cuba_lif(tau_ref=3 * ms, width=5 * mV), scale=40 * mV), OF_CUBA),
    "axonal": (network(alif(tau_ref=2 * ms, beta=0.3), delay=axonal((np.arange(N) + FRACTIONS[0]) * ms, trainable=True),
                       readout_delay=axonal(1 * ms)), []),
    "dendritic": (network(lif(), delay=dendritic((np.arange(N)[::-1] + FRACTIONS[1]) * ms, trainable=True),
                          input_delay=dendritic(np.arange(N) * ms)), ["rec.tau_mem"]),
    "synaptic": (network(lif(), delay=synaptic((np.arange(N * N).reshape(N, N) % 4 + FRACTIONS) * ms, trainable=True),
                         input_delay=axonal(np.arange(N_IN) * ms)), ["cues_rec.delay"]),
    "two populations": (two_populations(), ["exc.beta", "inh.tau_mem"]),
    "graded": (graded(), ["rec.tau_mem", "rec.width", "rec_rec.delay"]),
}  # fmt: skip


def trials(net, *, labels=False, trials=TRIALS, steps=STEPS):
    rng = np.random.default_rng(4)
    shape = (trials, steps, N_IN)
    inputs = rng.standard_normal(shape) if net.nodes["cues"].kind == "currents" else rng.random(shape) < 0.25
    target = rng.integers(0, N_OUT, trials) if labels else rng.standard_normal((trials, steps, N_OUT))
    return Trials({"cues": inputs}, target, weight=rng.uniform(0.2, 1.0, steps) * 0.1)


def gradients(net, rule, loss=None, trainable=(), given=None):
    given = given or trials(net)
    grads, info = torch_backend.gradient(net, net.draw(1), given, rule, loss or mse(), trainable=trainable)
    for name, counts in info["counts"].items():
        assert 0.5 < counts.mean() < given.steps / 2.5, f"{name}: {counts.mean()} spikes"
    return grads


def error(found, expected):
    """The largest difference over the largest value; silence compared with silence is an error of the test."""
    assert found.shape == expected.shape
    scale = np.abs(expected).max()
    if not scale > 1e-9:
        raise ValueError("nothing to compare: the expected gradient is zero")
    return np.abs(found - expected).max() / scale


def compare(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert error(found[name], value) < 1e-10, name


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", NETWORKS)
def test_rtrl_is_bptt(name):
    """Weights, time constants, thresholds, initial states and delays, the regulariser of rates included."""
    net, trainable = NETWORKS[name]
    loss = mse() + rate(10, 1e-4)
    found, expected = (gradients(net, rule, loss, trainable) for rule in (rtrl(), bptt()))
    assert set(trainable) <= set(found)
    compare(found, expected)
    local = gradients(net, bptt(cut="recurrent"), loss, trainable)
    first = next(n for n in expected if n.startswith("cues"))
    assert error(local[first], expected[first]) > 0.01


def test_labels():
    net, trainable = NETWORKS["ALIF"]
    given = trials(net, labels=True)
    compare(*(gradients(net, rule, cross_entropy(), trainable, given) for rule in (rtrl(), bptt())))


@pytest.mark.parametrize("cut", ["readout", "reset", "recurrent", "adaptation"])
def test_cuts(cut):
    """The same edges, cut in both; leaving one in is another gradient."""
    net, _ = NETWORKS["ALIF"]
    found = gradients(net, rtrl(cut=cut))
    compare(found, gradients(net, bptt(cut=cut)))
    whole = gradients(net, bptt())
    assert error(found["cues_rec.weight"], whole["cues_rec.weight"]) > 1e-3


def test_rtrl_with_the_edges_of_eprop_is_eprop():
    net, _ = NETWORKS["ALIF"]
    rule = eprop()
    compare(gradients(net, rtrl(cut=rule.cut)), gradients(net, rule))
    assert error(gradients(net, rtrl())["cues_rec.weight"], gradients(net, rule)["cues_rec.weight"]) > 0.01


def test_the_verb():
    net, _ = NETWORKS["LIF"]
    found = lp.gradient(net, trials(net), rtrl(), backend="torch")
    expected = lp.gradient(net, trials(net), bptt(), backend="torch")
    assert found.attrs["loss"] == pytest.approx(expected.attrs["loss"], rel=1e-12)
    assert found["rec_rec"]["gradient"].dims == ("pre", "post")
    assert error(found["rec_rec"]["gradient"].values, expected["rec_rec"]["gradient"].values) < 1e-10


def test_the_form_of_any_rule():
    """``form='forward'`` computes a rule that a cut defines in the same way."""
    net, _ = NETWORKS["LIF"]
    given, values = trials(net), net.draw(1)
    found, _ = torch_backend.gradient(net, values, given, bptt(cut="reset"), mse(), form="forward")
    compare(found, torch_backend.gradient(net, values, given, bptt(cut="reset"), mse())[0])


def test_a_planted_error_is_caught():
    """An influence that forgets 1 % from step to step is found out."""
    from localplast.backends.torch.rtrl import Influence

    net, _ = NETWORKS["ALIF"]
    expected, jacobian = gradients(net, bptt()), Influence.jacobian
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Influence, "jacobian", lambda self, values, before: 0.99 * jacobian(self, values, before))
        wrong = gradients(net, rtrl())
    assert error(wrong["rec_rec.weight"], expected["rec_rec.weight"]) > 1e-3


def test_large_networks_are_refused():
    net = Network(
        dt=1 * ms, cues=Input(100), rec=Population(200, lif()), out=Population(2, leaky_readout()),
        projections=[Projection("cues", "rec"), Projection("rec", "rec"), Projection("rec", "out")],
    )  # fmt: skip
    given = Trials({"cues": np.zeros((4, 10, 100), bool)}, np.zeros((4, 10, 2)))
    size = f"{4 * 202 * (100 * 200 + 200 * 200 + 200 * 2) * 8:,}"
    message = (
        f"rtrl carries the derivative of 202 states .* 60400 parameters for 4 trials: {size} bytes, more than .* bptt"
    )
    with pytest.raises(UnsupportedError, match=message):
        lp.gradient(net, given, rtrl(), backend="torch")


def test_brian2_refuses():
    net, _ = NETWORKS["LIF"]
    with pytest.raises(UnsupportedError, match="^rtrl .* the whole network; use backend='torch'$"):
        lp.gradient(net, trials(net), rtrl(), backend="brian2")


def test_no_graph_is_kept():
    """What is carried from step to step is numbers: nothing could be differentiated through time."""
    from localplast.backends.torch.rtrl import Influence
    from localplast.backends.torch.step import leaves

    net, _ = NETWORKS["axonal"]
    values, given = net.draw(1), trials(net)
    inputs, target, weight = torch_backend.prepare(net, given, mse(), rng=np.random.default_rng(0), dtype=None)
    tensors = leaves(net, values, trainable=["rec_rec.weight"])
    learner = Influence(net, tensors, values.masks, mse())
    learner.run({k: v.double() for k, v in inputs.items()}, target.double(), weight.double())
    assert not learner.influence.requires_grad and all(part.grad_fn is None for part in learner.state())


def test_silence_is_not_compared():
    net, _ = NETWORKS["LIF"]
    quiet = dataclasses.replace(trials(net), inputs={"cues": np.zeros((TRIALS, STEPS, N_IN), bool)})
    with pytest.raises(AssertionError, match="spikes"):
        gradients(net, rtrl(), given=quiet)
    with pytest.raises(ValueError, match="nothing to compare"):
        error(np.zeros(2), np.zeros(2))


def test_training_by_rtrl_is_refused():
    net = network(lif())
    given = trials(net)
    task = lp.Task("again", lambda update, batch, seed: given, lambda n, seed: given)
    with pytest.raises(lp.UnsupportedError, match="train with bptt"):
        lp.run(net, task, backend="torch", rule=rtrl(), optimiser=lp.sgd(1e-3), batch=2, updates=1)
