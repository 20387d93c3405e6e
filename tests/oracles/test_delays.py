"""Delays learn from traces: against autograd through linear interpolation, against a closed form, and in a task.

For a current-based neuron whose unit postsynaptic potential is p (tau_mem p' = s - p, tau_syn s' = -s), the potential
moves with a delay as ``dv/dd = -w p'(t) = -w (s - p)/tau_mem``: both traces are at the synapse. Learned delays:
Hammouamri et al. 2024, ICLR.
"""

import numpy as np
import pytest
import torch
from brian2 import Hz, ms

import localplast as lp
from localplast.errors import UnsupportedError
from localplast.models import alif, leaky_readout, lif
from localplast.network import Input, Network, Population, Projection, axonal, dendritic, normal, synaptic
from localplast.network.delays import triangle
from localplast.neuron import NeuronModel
from localplast.rules import bptt, eprop, ottt
from localplast.task import Task, Trials
from localplast.task.loss import cross_entropy, mse, rate

N_IN, N, N_OUT, STEPS, TAU_REF = 5, 7, 2, 40, 3
BETA = np.array([0.4, 0.0, 0.3, 0.8, 1.2, 0.6, 1.5])
ALPHA, RHO, KAPPA = np.exp(-1 / 20), np.exp(-1 / 60), np.exp(-1 / 15)
MAKE = {"axonal": axonal, "dendritic": dendritic, "synaptic": synaptic, "one for all": axonal}
LEARNED = ["cues_rec.delay", "rec_rec.delay"]


def delays(kind, pre, post, whole):
    """Different ones from 0 to 4 steps, in the shape of their kind."""
    shape = {"axonal": (pre,), "dendritic": (post,), "synaptic": (pre, post), "one for all": ()}[kind]
    drawn = np.random.default_rng(pre).uniform(0, 4, shape)
    return MAKE[kind]((np.floor(drawn) if whole else drawn) * ms, trainable=True)


def network(kind, *, whole):
    return Network(
        dt=1 * ms, cues=Input(N_IN), out=Population(N_OUT, leaky_readout(tau_out=15 * ms)),
        rec=Population(N, alif(tau_adapt=60 * ms, tau_ref=TAU_REF * ms), {"beta": BETA}),
        projections=[
            Projection("cues", "rec", weight=normal(1.6, mean=0.45), delay=delays(kind, N_IN, N, whole)),
            Projection("rec", "rec", weight=normal(1.5), delay=delays(kind, N, N, whole)),
            Projection("rec", "out", weight=normal(2.0)),
        ],
    )  # fmt: skip


def trials(steps=STEPS, count=3):
    rng = np.random.default_rng([7, steps])
    return Trials(
        {"cues": rng.random((count, steps, N_IN)) < 0.4},
        rng.standard_normal((count, steps, N_OUT)),
        np.linspace(0.2, 1, steps),
    )


class Written:
    """The network of this file in plain Torch. Edges in ``cut``: R recurrent, S reset, A adaptation, M memory of the
    readout.
    """

    def __init__(self, net, values, given, *, cut="RS", regulariser=None, side=0):
        self.d = {n: torch.tensor(values.delays[n], requires_grad=True) for n in ("cues_rec", "rec_rec")}
        self.w = {n: torch.tensor(w) for n, w in values.weights.items()}
        self.kind, self.side = {n: net.projections[n].delay.kind for n in self.d}, side
        x = torch.tensor(given.inputs["cues"]).double()
        v, a, y = torch.zeros(len(x), N), torch.zeros(len(x), N), torch.zeros(len(x), N_OUT)
        silent, self.z, total = torch.zeros(len(x), N), [], 0
        for t in range(x.shape[1]):
            v, a = ALPHA * v, RHO * a
            argument = v - 1 - torch.tensor(BETA) * a
            psi = 0.3 * torch.clamp(1 - argument.detach().abs(), min=0) * (silent <= 0)
            hard = ((argument.detach() > 0) & (silent <= 0)).double()
            z = hard + psi * (argument - argument.detach())
            self.z.append(z)
            seen = [s.detach() if "R" in cut else s for s in self.z]
            v = v + self.arriving("cues_rec", list(x.unbind(1))[: t + 1]) + self.arriving("rec_rec", seen)
            y = KAPPA * (y.detach() if "M" in cut else y) + z @ self.w["rec_out"]
            v, a = v - (z.detach() if "S" in cut else z), a + (z.detach() if "A" in cut else z)
            silent = torch.where(hard > 0, float(TAU_REF), silent) - 1
            total = total + given.weight[t] * 0.5 * ((y - torch.tensor(given.target[:, t])) ** 2).sum(-1)
        self.loss = total.mean()
        if regulariser:
            rates = sum(self.z) / (len(self.z) * 1e-3)
            self.loss = self.loss + 0.5 * regulariser.strength * ((rates - regulariser.target) ** 2).sum(-1).mean()

    def arriving(self, name, past):
        """What all synapses of a projection deliver: spikes of d steps ago, between two steps a share of each."""
        d = self.d[name]
        d = d[:, None] if self.kind[name] == "axonal" and d.ndim else d
        d = d.expand(self.w[name].shape)
        whole = (d.detach() - 0.5 * self.side).floor()  # side: from which of two steps a whole delay is seen
        total = 0
        for k in range(6):
            share = (whole == k) * (1 - d + whole) + (whole + 1 == k) * (d - whole)
            if k < len(past):
                total = total + past[-1 - k] @ (share * self.w[name])
        return total

    def gradients(self):
        found = torch.autograd.grad(self.loss, [self.d[n.split(".")[0]] for n in LEARNED], retain_graph=True)
        return {n: g.numpy() for n, g in zip(LEARNED, found, strict=True)}


def error(found, expected):
    assert np.shape(found) == np.shape(expected)
    scale = np.abs(expected).max()
    assert scale > 1e-9, "nothing to compare: the expected gradient is zero"
    return np.abs(found - expected).max() / scale


def estimates(net, values, given, rule, loss, *, brian2):
    """``(where, tolerance, gradients)`` as traces find them."""
    for where, tolerance, options in (("torch", 1e-10, {"form": "traces"}), ("brian2", 1e-8, {}))[: 1 + brian2]:
        tree = lp.gradient(net, given, rule, loss=loss, backend=where, values=values, **options)
        yield where, tolerance, {n: tree[n.split(".")[0]]["gradient_delay"].values for n in LEARNED}


#: rule, edges cut in the written network
EQUAL = {"e-prop": (eprop(), "RS"), "e-prop, reset followed": (eprop(reset=True), "R"), "OTTT": (ottt(), "RSAM")}


@pytest.mark.sampled(9)
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "between steps"])
@pytest.mark.parametrize("kind", MAKE)
def test_every_kind(kind, whole):
    net, given, regulariser = network(kind, whole=whole), trials(), rate(10 * Hz, 1e-4)
    values = net.draw(3)
    written = Written(net, values, given, regulariser=regulariser)
    assert 0.03 < torch.stack(written.z).detach().mean() < 0.3
    for where, tolerance, grads in estimates(net, values, given, eprop(), mse() + regulariser, brian2=True):
        for name, expected in written.gradients().items():
            assert error(grads[name], expected) < tolerance, (where, name)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("row", EQUAL)
def test_every_rule(row):
    rule, cut = EQUAL[row]
    net, given = network("synaptic", whole=True), trials()
    values = net.draw(3)
    expected = Written(net, values, given, cut=cut).gradients()
    for where, tolerance, grads in estimates(net, values, given, rule, mse(), brian2=True):
        for name in LEARNED:
            assert error(grads[name], expected[name]) < tolerance, (where, name)
    full = lp.gradient(net, given, bptt(), loss=mse(), values=values)
    for name, expected in Written(net, values, given, cut="").gradients().items():
        assert error(full[name.split(".")[0]]["gradient_delay"].values, expected) < 1e-10
        assert error(grads[name], expected) > 0.01  # what is cut shows


def test_a_step_too_early_shows():
    """A whole delay lies between two pieces of the interpolation; the slope is that of the later one."""
    net, given = network("synaptic", whole=True), trials()
    values = net.draw(3)
    expected = Written(net, values, given, side=1).gradients()["cues_rec.delay"]
    _, _, grads = next(estimates(net, values, given, eprop(), mse(), brian2=False))
    assert error(grads["cues_rec.delay"], expected) > 0.1


@pytest.mark.sampled(2)
@pytest.mark.parametrize("backend", ["torch", "brian2"])
def test_closed_form(backend):
    """``dv/dd = -w (s - p)/tau_mem``, to the second order in dt away from the arrival, halved at the arrival."""
    tau_mem, tau_syn, dt, arrival, w = 10e-3, 5e-3, 0.05e-3, 40, 1.7
    current = NeuronModel(
        name="current", equations="dv/dt = (I - v)/tau_mem : 1\ndI/dt = -I/tau_syn : 1", receives="I", output="v",
        parameters={"tau_mem": tau_mem * 1e3 * ms, "tau_syn": tau_syn * 1e3 * ms},
    )  # fmt: skip
    spikes = np.zeros((1, 400, 1), bool)
    spikes[0, 10] = True

    def slope(at, delay):
        """The derivative of v in step ``at``: that of a loss that is v itself, up to a constant."""
        net = Network(
            dt=dt * 1e3 * ms, cues=Input(1), out=Population(1, current),
            projections=[Projection("cues", "out", weight=np.array([[w]]), delay=axonal(delay * dt * 1e3 * ms, trainable=True))],
        )  # fmt: skip
        weight = np.zeros(400)
        weight[at] = 1.0
        v = lp.run(net, Trials({"cues": spikes}), backend="torch", record=["out.v"], show=False)["out"]["v"].values[
            0, at, 0
        ]
        given = Trials({"cues": spikes}, np.full((1, 400, 1), v - 1.0), weight)  # error 1 where it counts
        return lp.gradient(net, given, eprop(), loss=mse(), backend=backend)["cues_out"]["gradient_delay"].item() / dt

    delay = arrival - 10
    for at in (70, 150, 390):
        age = (at - arrival) * dt
        s = np.exp(-age / tau_syn)
        p = tau_syn / (tau_syn - tau_mem) * (np.exp(-age / tau_syn) - np.exp(-age / tau_mem))
        central = (slope(at, delay) + slope(at, delay - 1)) / 2
        assert central == pytest.approx(-w * (s - p) / tau_mem, rel=2e-4)
    central = (slope(arrival, delay) + slope(arrival, delay - 1)) / 2
    assert central == pytest.approx(-w / tau_mem / 2, rel=2e-2)  # there p has a kink


# --- learning ---------------------------------------------------------------------------------------------------------

APART, SOONER = 6, 10


def coincidences(rng, n):
    """One spike on each of two channels, ``APART`` steps apart; the label says which comes second."""
    label = rng.integers(0, 2, n)
    spikes, weight = np.zeros((n, 50, 2), bool), np.zeros(50)
    spikes[np.arange(n), SOONER, label] = True
    spikes[np.arange(n), SOONER + APART, 1 - label] = True
    weight[-1] = 1.0
    return Trials({"cues": spikes}, label, weight)


TASK = Task.generated("coincidence", coincidences)


def detectors(trainable=True, kernel=None):
    """Two neurons that spike only if both spikes arrive within a step; they start one step apart from indifference."""
    start = np.array([[8.5, 7.5], [7.5, 8.5]])
    return Network(
        dt=1 * ms, cues=Input(2), det=Population(2, lif(tau_mem=5 * ms)), out=Population(2, leaky_readout(tau_out=50 * ms)),
        projections=[
            Projection("cues", "det", weight=np.full((2, 2), 0.72), delay=synaptic(start * ms, trainable=trainable, kernel=kernel)),
            Projection("det", "out", weight=2.0 * np.eye(2)),
        ],
    )  # fmt: skip


def learn(net, *, learning=1.0, updates=40, optimiser=lp.adam(0.1), **options):
    optimiser = optimiser.with_rates(**{"cues_det": 0, "det_out": 0, "cues_det.delay": learning})
    options = {
        "rule": eprop(),
        "backend": "torch",
        "loss": cross_entropy(),
        "batch": 8,
        "test": 40,
        "seed": 1,
        "show": False,
        **options,
    }
    return lp.run(net, TASK, optimiser=optimiser, updates=updates, **options)


@pytest.mark.thorough
@pytest.mark.parametrize("kernel", [None, triangle(3 * ms, halving=10)], ids=["linear", "triangle"])
@pytest.mark.parametrize("rule", [eprop(), bptt()], ids=["local", "bptt"])
def test_coincidence(rule, kernel):
    """The difference of a detector's delays becomes the difference of the spikes' times; with fixed delays it is
    guessing.
    """
    net = detectors(kernel=kernel)
    fit, fixed = learn(net, rule=rule), learn(net, rule=rule, learning=0.0)
    found = fit["learned"]["cues_det.delay"].values
    assert fit["metrics"]["test_accuracy"].values[-1] == 1.0
    assert np.abs(np.diff(found, axis=0)[0] - [-APART, APART]).max() < 1, found
    assert 0.3 < fixed["metrics"]["test_accuracy"].values[-1] < 0.7
    assert np.array_equal(fixed["learned"]["cues_det.delay"].values, net.draw(1).delays["cues_det"])


def test_what_is_learned_goes_on_from_its_record(tmp_path):
    net = detectors()
    whole = learn(net, updates=4, path=tmp_path / "a.zarr")
    values, start = net.values_from(whole), net.draw(1)
    assert np.array_equal(values.delays["cues_det"], whole["learned"]["cues_det.delay"].values)
    assert np.abs(values.delays["cues_det"] - start.delays["cues_det"]).max() > 0.2
    given = TASK.testing(20, 0)
    grads = {
        form: lp.gradient(net, given, eprop(), values=values, form=form)["cues_det"]["gradient_delay"].values
        for form in ("traces", "adjoint")
    }
    assert error(grads["traces"], grads["adjoint"]) < 1e-10


def test_delays_stay_above_zero():
    short = detectors()
    values = short.draw(1).replace_weights({}, {"cues_det.delay": np.full((2, 2), 0.05)})
    found = learn(short, updates=3, values=values)["learned"]["cues_det.delay"].values
    assert found.min() == 0.0 and found.max() > 0


@pytest.mark.thorough
def test_coincidence_online():
    """The same in Brian2, where delays change between two runs."""
    net = detectors((0 * ms, 12 * ms))
    fit = learn(net, backend="brian2", target="numpy", updates=12, batch=4, optimiser=lp.adam(0.5, beta1=0.5))
    found = fit["learned"]["cues_det.delay"].values
    assert fit["metrics"]["test_accuracy"].values[-1] == 1.0
    assert np.abs(np.diff(found, axis=0)[0] - [-APART, APART]).max() < 1, found


def test_brian2():
    """Delays run as they are, longer than those the network was written with too; those that learn need an upper
    bound.
    """
    net = detectors()
    with pytest.raises(UnsupportedError, match="needs an upper bound, such as trainable="):
        learn(net, backend="brian2", target="numpy", updates=1)
    values, given = (
        net.draw(1).replace_weights({}, {"cues_det.delay": np.array([[41.0, 3], [35, 40]])}),
        TASK.testing(6, 0),
    )
    one, other = (
        lp.run(net, given, backend=b, values=values, record=["det.v"], show=False)["det"]["v"].values
        for b in ("torch", "brian2")
    )
    assert error(other, one) < 1e-12  # and what is still in flight at the end of a trial is not seen by the next


def test_layers_that_hear_late():
    """A layered signal must know how late it is, and a filter how a spike reaches the readout: these delays cannot
    learn.
    """
    late = axonal(2 * ms, trainable=True)
    net = Network(
        dt=1 * ms, cues=Input(2), low=Population(3, lif()), top=Population(3, lif()), out=Population(2, leaky_readout()),
        projections=[Projection("cues", "low"), Projection("low", "top", delay=late), Projection("top", "out")],
    )  # fmt: skip
    given = Trials({"cues": np.ones((1, 5, 2), bool)}, np.array([0]))
    with pytest.raises(UnsupportedError, match="its delay cannot learn"):
        lp.gradient(net, given, ottt())
    net = Network(
        dt=1 * ms, cues=Input(2), low=Population(3, lif()), out=Population(2, leaky_readout()),
        projections=[Projection("cues", "low"), Projection("low", "out", delay=axonal(0 * ms, trainable=True))],
    )  # fmt: skip
    with pytest.raises(UnsupportedError, match="a delayed path to the readout"):
        lp.gradient(net, given, eprop(), form="traces")
