"""Delay lines: against shifted trains written by hand, step against block, and kernels of delays that learn.

Triangle: Queant et al. 2025, arXiv:2509.24852. Gaussian: Hammouamri et al. 2024, ICLR, arXiv:2306.17670.
"""

from itertools import pairwise

import numpy as np
import pytest
import torch
from brian2 import ms

import localplast as lp
from localplast.backends.c.function import NetworkFunction
from localplast.backends.torch import delay_line as torch_delay
from localplast.backends.torch import transport
from localplast.backends.torch.delay_line import Line, taps_of
from localplast.backends.torch.step import Twin, leaves, simulate
from localplast.models import alif, leaky_readout, lif
from localplast.network import Input, Network, Population, Projection, axonal, dendritic, normal, synaptic
from localplast.network.delays import gaussian, triangle
from localplast.neuron import NeuronModel
from localplast.rules import bptt, eprop
from localplast.task import Task, Trials

MAKE = {"axonal": axonal, "dendritic": dendritic, "synaptic": synaptic}
N_IN, N, N_OUT, STEPS = 4, 9, 3, 60
KERNELS = {"linear": None, "triangle": triangle(1.3 * ms), "gaussian": gaussian(0.8 * ms)}


def shape_of(kind, pre, post):
    return {"axonal": (pre,), "dendritic": (post,), "synaptic": (pre, post)}[kind]


def trials(steps=STEPS, count=3, seed=0):
    rng = np.random.default_rng(seed)
    return Trials({"cues": rng.random((count, steps, N_IN)) < 0.3}, rng.standard_normal((count, steps, N_OUT)))


def tensors_of(given):
    return {"cues": torch.as_tensor(given.inputs["cues"]).transpose(0, 1).double()}


# --- arrival ----------------------------------------------------------------------------------------------------------


def relay(kind):
    """Inputs make neurons spike; both send to a readout, with delays from 0 to the last step of a trial."""
    rng, drawn = np.random.default_rng(5), {}
    for pre in (N_IN, N):
        drawn[pre] = rng.choice([0.0, 1, 2, 7, 31, STEPS - 1], shape_of(kind, pre, N_OUT))
        drawn[pre].flat[:3] = 0, 1, STEPS - 1
    return Network(
        dt=1 * ms, cues=Input(N_IN), rec=Population(N, lif(tau_mem=5 * ms)), out=Population(N_OUT, leaky_readout(tau_out=4 * ms)),
        projections=[
            Projection("cues", "rec", weight=normal(3.0)), Projection("cues", "out", delay=MAKE[kind](drawn[N_IN] * ms)),
            Projection("rec", "out", delay=MAKE[kind](drawn[N] * ms)),
        ],
    )  # fmt: skip


def arriving(raster, weight, delays, kind, late=0):
    """``(trial, time, post)``: every spike at its time, one by one."""
    steps = {"axonal": delays[:, None], "dendritic": delays[None, :], "synaptic": delays}[kind[:9]]
    steps, total = (
        np.broadcast_to(steps, weight.shape).astype(int) + late,
        np.zeros((*raster.shape[:2], weight.shape[1])),
    )
    for trial, t, i in np.argwhere(raster):
        for j in range(weight.shape[1]):
            if t + steps[i, j] < raster.shape[1]:
                total[trial, t + steps[i, j], j] += weight[i, j]
    return total


def readout(current, tau=4.0):
    v = np.zeros_like(current)
    for t in range(current.shape[1]):
        v[:, t] = current[:, t] + (np.exp(-1 / tau) * v[:, t - 1] if t else 0)
    return v


@pytest.mark.parametrize("backend", ["torch", "brian2"])
@pytest.mark.parametrize("kind", MAKE)
def test_a_spike_arrives_after_its_delay(kind, backend):
    net, given = relay(kind), trials()
    values = net.draw(0)
    found = lp.run(net, given, backend=backend, values=values, record=["out.v", "rec.raster"], show=False)
    rasters = {"cues_out": given.inputs["cues"], "rec_out": found["rec"]["spikes"].values}
    assert rasters["rec_out"].mean() > 0.05

    def expected(late):
        return readout(sum(arriving(r, values.weights[n], values.delays[n], kind, late) for n, r in rasters.items()))

    assert np.abs(found["out"]["v"].values - expected(0)).max() < 1e-12
    for wrong in (-1, 1):
        assert np.abs(found["out"]["v"].values - expected(wrong)).max() > 0.1


# --- kernels ----------------------------------------------------------------------------------------------------------


def shares(delay, kernel, width, longest=400):
    """The shares of all steps, by hand."""
    n = np.arange(longest)
    height = (
        np.maximum(0, 1 + width - abs(n - delay))
        if kernel == "triangle"
        else np.exp(-((n - delay) ** 2) / (2 * width**2))
    )
    return height / height.sum()


@pytest.mark.parametrize("kernel", ["triangle", "gaussian"])
def test_kernels_sum_to_one(kernel):
    delays = np.concatenate([np.random.default_rng(0).uniform(0, 60, 40), [0.0, 0.3, 1.0, 17.0]])
    for width in (0.23, 0.5, 1.0, 2.5, 10.0):
        steps, found = (x.numpy() for x in taps_of(torch.tensor(delays), kernel, width))
        assert np.abs(found.sum(0) - 1).max() < 1e-12
        for k, delay in enumerate(delays):
            total = np.zeros(400)
            np.add.at(total, steps[:, k], found[:, k])
            assert np.abs(total - shares(delay, kernel, width)).max() < 1e-12
            assert np.abs(total - shares(delay + 0.1, kernel, width)).max() > 1e-4


@pytest.mark.parametrize(
    "kernel, width", [("triangle", 0.0), ("triangle", 1e-13), ("gaussian", 0.0), ("gaussian", 1e-3)]
)
def test_no_width_and_whole_delays_are_a_shifted_train(kernel, width):
    delays, train = torch.tensor([0.0, 1, 3, 19]), torch.rand(20, 2, 4, dtype=torch.float64)
    expected = torch.zeros_like(train)
    for k, d in enumerate([0, 1, 3, 19]):
        expected[d:, :, k] = train[: 20 - d, :, k]
    for learns in (False, True):
        line = Line(4, *taps_of(delays.double().requires_grad_(learns), kernel, width))
        line.start(20)
        stepwise = torch.stack([line.read(x) for x in train])
        exact = torch.equal if width != 1e-13 else lambda a, b: torch.allclose(a, b, rtol=0, atol=1e-12)
        assert exact(stepwise, expected) and exact(line.whole(train), expected)


def test_widths_halve():
    kernel = triangle(10 * ms, halving=50, final=0.4 * ms)
    assert [kernel.steps(0.5 * ms, k) for k in (0, 50, 100, 1000)] == pytest.approx([20, 10, 5, 0.8])
    assert gaussian(3 * ms).steps(1 * ms, 10_000) == 0.23


def test_a_kernel_is_saved(tmp_path):
    net = smooth("synaptic", gaussian(2 * ms, final=1 * ms))
    net.save(tmp_path / "net.json")
    assert Network.load(tmp_path / "net.json") == net != smooth("synaptic", gaussian(2 * ms, final=0.5 * ms))


# --- gradients of delays ----------------------------------------------------------------------------------------------

CURRENT = NeuronModel(
    name="current", equations="dv/dt = (I - v)/tau_mem : 1\ndI/dt = -I/tau_syn : 1\nJ : 1", receives="I", output="v",
    update="v = v + J", parameters={"tau_mem": 9 * ms, "tau_syn": 4 * ms},
)  # fmt: skip


def smooth(kind, kernel):
    """No threshold anywhere: delays of spikes that are given, and of graded signals."""

    def delay(pre, post):
        drawn = np.random.default_rng(pre).uniform(0.1, 8, shape_of(kind, pre, post))
        return MAKE[kind](drawn * ms, trainable=True, kernel=kernel)

    return Network(
        dt=1 * ms, cues=Input(N_IN), hid=Population(N, CURRENT), out=Population(N_OUT, CURRENT),
        projections=[
            Projection("cues", "hid", delay=delay(N_IN, N)),
            Projection("hid", "hid", target="J", weight=normal(0.05), delay=delay(N, N)),
            Projection("hid", "out", target="J", delay=delay(N, N_OUT)),
        ],
    )  # fmt: skip


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", MAKE)
def test_gradients_of_delays(kind, kernel):
    net, inputs = smooth(kind, KERNELS[kernel]), tensors_of(trials(40, 2))
    values, aim = net.draw(1), torch.linspace(-1, 1, N_OUT, dtype=torch.float64)
    names = [f"{p}.{what}" for p in net.projections for what in ("delay", "weight")]

    def loss(tensors):
        out = simulate(Twin(net, tensors, values.masks), inputs, ["out.output"])["out.output"]
        return ((out - aim) ** 2).mean()

    tensors = leaves(net, values, trainable=names)
    for name, grad in zip(names, torch.autograd.grad(loss(tensors), [tensors[n] for n in names]), strict=True):
        way = torch.randn(grad.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).sign()
        if ".weight" in name:
            way = way * torch.as_tensor(values.masks[name.split(".")[0]])
        step, plain = 1e-6, {k: x.detach() for k, x in tensors.items()}
        up, down = (loss({**plain, name: plain[name] + side * step * way}) for side in (1, -1))
        expected, found = (up - down).item() / (2 * step), (grad * way).sum().item()
        assert abs(expected) > 1e-7, name
        assert abs(found - expected) < 1e-6 * grad.abs().sum().item(), name


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kernel", ["triangle", "gaussian"])
@pytest.mark.parametrize("kind", MAKE)
def test_traces_know_the_kernel(kind, kernel):
    """e-prop's traces of delays equal automatic differentiation with its cuts; another width is seen."""
    rng = np.random.default_rng(2)

    def net(width):
        made = {"triangle": triangle, "gaussian": gaussian}[kernel](width * ms)
        return recurrent(kind, np.random.default_rng(0).uniform(0, 6, 40), trainable=True, kernel=made)

    given = Trials({"cues": rng.random((2, 40, N_IN)) < 0.4}, rng.standard_normal((2, 40, N_OUT)))
    traces, adjoint, other = (
        lp.gradient(net(width), given, eprop(), form=form)
        for width, form in ((1.5, "traces"), (1.5, "adjoint"), (0.6, "adjoint"))
    )
    for name in ("cues_rec", "rec_rec"):
        for what in ("gradient", "gradient_delay"):
            a, b, c = (tree[name][what].values for tree in (traces, adjoint, other))
            assert np.abs(a - b).max() < 1e-10 * np.abs(b).max() and np.abs(a - c).max() > 1e-3 * np.abs(b).max()


# --- blocks -----------------------------------------------------------------------------------------------------------


def recurrent(kind, values=(1.0, 2, 9, 30, 31, 45), **options):
    delays = [np.random.default_rng(n).choice(values, shape_of(kind, n, N)) for n in (N_IN, N)]
    return Network(
        dt=1 * ms, cues=Input(N_IN), rec=Population(N, alif(tau_adapt=60 * ms)),
        out=Population(N_OUT, leaky_readout(tau_out=15 * ms)),
        projections=[
            Projection("cues", "rec", weight=normal(1.6, mean=0.8), delay=MAKE[kind](delays[0] * ms, **options)),
            Projection("rec", "rec", weight=normal(1.5), delay=MAKE[kind](delays[1] * ms, **options)),
            Projection("rec", "out", weight=normal(2.0)),
        ],
    )  # fmt: skip


def outcome(net, *, step_by_step=False, **options):
    """Outputs, and the gradients of all weights, of trials longer than any delay."""
    values, names = net.draw(0), [f"{n}.weight" for n in net.projections] + list(net.trainable)
    tensors = leaves(net, values, trainable=names)
    twin = Twin(net, tensors, values.masks, **options)
    with pytest.MonkeyPatch.context() as patch:
        if step_by_step:
            patch.setattr(torch_delay, "LARGEST_BLOCK", 1)
        found = simulate(twin, tensors_of(trials(100, 2)), ["out.output", "rec.spikes"])
    assert 0.02 < found["rec.spikes"].detach().mean() < 0.5
    aim = torch.linspace(-1, 1, 100, dtype=torch.float64)[:, None, None]
    return [
        found["out.output"],
        *torch.autograd.grad(((found["out.output"] - aim) ** 2).mean(), [tensors[n] for n in names]),
    ]


def apart(one, other):
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(one, other, strict=True))


FORMS = {
    "plain": {}, "cut": {"cut": {"recurrent"}}, "reset cut": {"cut": {"reset", "cues_rec"}},
    "feedback": {"feedback": {"rec_rec": torch.randn(N, N, dtype=torch.float64, generator=torch.Generator().manual_seed(1))}},
}  # fmt: skip


@pytest.mark.sampled(5)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", MAKE)
def test_blocks_are_steps(kind, form):
    """The same numbers and gradients in blocks, step by step, and with products at arrival; shorter delays are
    others.
    """
    net, options = recurrent(kind), FORMS[form]
    whole = outcome(net, **options)
    assert apart(whole, outcome(net, step_by_step=True, **options)) < 1e-12
    assert apart(whole, outcome(net, fixed=False, **options)) < 1e-12
    assert apart(whole, outcome(recurrent(kind, (1.0, 2, 9, 30, 31, 44)), **options)) > 1e-3


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", MAKE)
def test_blocks_of_kernels_are_steps(kind, kernel):
    net = recurrent(kind, (0.2, 2.6, 9.0, 30.7, 31, 45), trainable=True, kernel=KERNELS[kernel])
    whole = outcome(net)
    assert apart(whole, outcome(net, step_by_step=True)) < 1e-12
    assert apart(whole, outcome(net, fixed=False)) < 1e-12


def test_large_inputs_come_in_parts(monkeypatch):
    whole = outcome(recurrent("synaptic"))
    monkeypatch.setattr(torch_delay, "LARGEST_BLOCK", 500)
    assert apart(outcome(recurrent("synaptic")), whole) < 1e-12


@pytest.mark.parametrize("kind", ["axonal", "dendritic"])
def test_products_do_not_grow_with_distinct_delays(kind, monkeypatch):
    """At most two products per step, however many distinct delays."""
    made = []
    for module in (torch_delay, transport):
        monkeypatch.setattr(module, "product", lambda x, w, b=None: made.append(x.shape) or x @ w)
    counts = []
    for values in ([50.0], [1.0, 50], np.arange(1.0, 51), np.arange(51.0)):
        net, made[:] = recurrent_of(kind, values), []
        simulate(
            Twin(net, leaves(net, net.draw(0)), net.draw(0).masks),
            {"cues": torch.ones(100, 1, 1, dtype=torch.float64)},
            [],
        )
        counts.append(len(made) / 100)
    assert max(counts) < 2, counts


def recurrent_of(kind, values):
    delays = np.resize(values, 60)
    return Network(
        dt=1 * ms, cues=Input(1), rec=Population(60, lif()),
        projections=[Projection("cues", "rec"), Projection("rec", "rec", delay=MAKE[kind](delays * ms))],
    )  # fmt: skip


def test_memory_is_one_ring():
    """As many signals as the longest delay and this step: the tensors that came in, for all groups together."""
    line = Line(6, *taps_of(torch.tensor([0.0, 1, 3, 10, 40, 50]).double()))
    signals = [torch.rand(2, 6) for _ in range(90)]
    line.start(90)
    for signal in signals:
        line.read(signal)
    assert len(line.ring) == 51 and all(a is b for a, b in zip(line.ring, signals[-51:], strict=True))


# --- rounding ---------------------------------------------------------------------------------------------------------


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", MAKE)
def test_rounded_delays_run_on_brian2(kind):
    """What was learned, rounded, gives the same spikes on both backends; rounded up everywhere, others."""
    net, given = recurrent(kind, (0.2, 2.5, 9.0, 30.7), trainable=True, kernel=triangle(3 * ms)), trials()
    values = net.draw(0).rounded(net)
    assert set(np.unique(values.delays["rec_rec"])) <= {0.0, 3, 9, 31}

    def spikes(backend, values):
        return lp.run(net, given, backend=backend, values=values, record=["rec.raster"], show=False)["rec"][
            "spikes"
        ].values

    one = spikes("torch", values)
    assert one.mean() > 0.05 and np.array_equal(one, spikes("brian2", values))
    later = values.replace_weights({}, {"rec_rec.delay": values.delays["rec_rec"] + 1})
    assert not np.array_equal(one, spikes("brian2", later))


def test_learning_narrows_and_tests_round(monkeypatch):
    """Each update has its width; what is tested has whole delays and no width."""
    seen = []

    class Watched(NetworkFunction):
        def __call__(self, weights, inputs, others, widths, *given):
            seen.append((widths["rec_rec"], others["rec_rec.delay"].detach().numpy().copy()))
            return super().__call__(weights, inputs, others, widths, *given)

    monkeypatch.setattr("localplast.backends.torch.learner.NetworkFunction", Watched)
    net = recurrent("axonal", (0.2, 2.5, 9.0, 30.7), trainable=True, kernel=triangle(4 * ms, halving=1))
    task = Task.generated("any", lambda rng, n: trials(40, n, seed=1))
    optimiser = lp.adam(1e-3).with_rates(**{"cues_rec.delay": 0.01, "rec_rec.delay": 0.01})
    fit = lp.run(net, task, rule=bptt(), optimiser=optimiser, updates=3, test=2, backend="torch", show=False)
    assert [width for width, _ in seen] == [0.0, 4.0, 2.0, 1.0, 0.0]  # tested before and after three updates
    np.testing.assert_array_equal(seen[0][1], np.floor(net.draw(0).delays["rec_rec"] + 0.5))
    assert np.all(seen[1][1] == net.draw(0).delays["rec_rec"]) and len(np.unique(seen[1][1] % 1)) > 3
    learned = [delay for _, delay in seen[1:4]]
    assert all(np.abs(b - a).max() > 0 for a, b in pairwise(learned))
    np.testing.assert_array_equal(seen[4][1], np.floor(fit["learned"]["rec_rec.delay"].values + 0.5))
