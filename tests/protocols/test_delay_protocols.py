"""Protocols of delays and long memory, the device that Torch runs on, and gradients of delays in comparisons."""

import numpy as np
import pytest
import torch
import xarray as xr
from brian2 import ms

import localplast as lp
from localplast import cli, protocols
from localplast.analysis.distance import measures
from localplast.backends.c.online_call import OnlineKernel
from localplast.backends.torch.learner import TorchLearner
from localplast.backends.torch.step import Twin, leaves, simulate
from localplast.learning.optimise import adam
from localplast.models import leaky_readout, lif
from localplast.protocols import psmnist, temporal_patterns
from localplast.rules import bptt, eprop
from localplast.runs import options as run_options
from localplast.study.alignment import gradient_measures
from localplast.study.protocol import Preset, Protocol
from localplast.task import datasets

needs_mnist = pytest.mark.needs_data("mnist/train-images-idx3-ubyte.gz")


# --- sequential MNIST -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 28, 28)).astype(np.uint8)


def test_the_published_permutation_is_torchs_with_seed_0():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        published = torch.randperm(784).numpy()
        another = torch.randperm(784).numpy()
    np.testing.assert_array_equal(psmnist.permutation(784), published)
    assert not np.array_equal(psmnist.permutation(784), another)


def test_a_pixel_a_step_in_either_order_then_silence(images):
    rows, mixed = (psmnist.pixel_trials(images, np.arange(3), permuted=p) for p in (False, True))
    order, normal = psmnist.permutation(784), (images / 255 - 0.1307) / 0.3081
    for step in (0, 1, 27, 28, 400, 783):
        for trials, pixel in ((rows, step), (mixed, int(order[step]))):
            row, column = divmod(pixel, 28)
            np.testing.assert_allclose(trials.inputs["pixels"][:, step, 0], normal[:, row, column], rtol=1e-12)
    for trials in (rows, mixed):
        assert trials.steps == 785 and not trials.inputs["pixels"][:, -1].any()
        np.testing.assert_array_equal(np.flatnonzero(trials.weight), [784])
    assert np.abs(rows.inputs["pixels"] - mixed.inputs["pixels"]).max() > 1


def test_a_coarser_picture_holds_means_of_squares(images):
    coarse = (
        psmnist.pixel_trials(images, np.arange(3), pool=2, permuted=False).inputs["pixels"][..., 0] * 0.3081 + 0.1307
    )
    assert coarse.shape == (3, 14 * 14 + 1)
    assert coarse[1, 14 + 3] * 255 == pytest.approx(images[1, 2:4, 6:8].mean(), rel=1e-12)
    assert coarse[1, 14 + 3] * 255 != pytest.approx(images[1, 2:4, 7:9].mean(), rel=1e-3)


@needs_mnist
def test_the_published_split_leaves_the_validation_images_out():
    task = psmnist.task(pool=14)
    labels = np.concatenate([task.training(k, 5500, 0).target for k in range(10)])
    (_, learned), (_, tested) = datasets.mnist()
    np.testing.assert_array_equal(np.bincount(labels), np.bincount(learned[:55_000]))
    assert not np.array_equal(np.bincount(labels), np.bincount(learned[5000:]))
    np.testing.assert_array_equal(task.testing(50, 0).target, tested[:50])


def test_the_published_network_has_its_number_of_parameters_delays_and_radius():
    net = psmnist.network()
    values = net.draw(0)
    count = sum(w.size for w in values.weights.values()) + sum(values.other(name).size for name in net.trainable)
    assert count == 49_476  # Balafrej et al. 2023; they count the diagonal, which stays zero
    steps, many = np.unique(values.delays["rec_rec"], return_counts=True)
    np.testing.assert_array_equal(steps + 1, [1, 61, 86])
    np.testing.assert_allclose(many / 216, [0.167, 0.417, 0.417], atol=5e-4)
    assert list(many) != [40, 83, 93]  # as on the lattice of the other task
    published = values.weights["rec_rec"] * np.exp(-1 / 20)
    assert np.abs(np.linalg.eigvals(np.abs(published))).max() == pytest.approx(1.25, rel=1e-9)
    assert values.parameters["rec"]["v_th"].shape == (216,) and values.parameters["rec"]["tau_mem"].shape == ()
    assert psmnist.network(times=None).projections["rec_rec"].delay is None


def as_published(net, values, x, late=0):
    """The published step by hand: ``u = a u + W x[t] + sum W n[t-d]``, ``u -= u_th n``, ``o = k o + W n``; spikes and
    o.
    """
    a = k = float(np.exp(-net.dt / (20 * ms)))
    delay = values.delays["rec_rec"].astype(int) + 1 + late
    w_in, w_rec = values.weights["pixels_rec"] * 0.02 * (1 - a), values.weights["rec_rec"] * a
    u, o, spikes = np.zeros(len(delay)), np.zeros(10), np.zeros((len(x), len(delay)))
    for t in range(len(x)):
        heard = np.array([spikes[t - d, i] if t >= d else 0.0 for i, d in enumerate(delay)])
        u = a * u + x[t] @ w_in + heard @ w_rec
        spikes[t] = u > 0.5
        u = u - 0.5 * spikes[t]
        o = k * o + spikes[t] @ values.weights["rec_out"]
    return spikes, o


def test_the_network_makes_the_spikes_of_the_published_step():
    net = psmnist.network(neurons=64, times=np.array([1, 6, 9]) * ms, radius=2.5)
    values, x = net.draw(3), np.random.default_rng(3).standard_normal((60, 1)) + 0.5
    x[-1] = 0.0  # never heard
    twin = Twin(net, leaves(net, values), values.masks)
    found = simulate(twin, {"pixels": torch.as_tensor(x)[:, None]}, ["rec.spikes", "out.v"])
    spikes, output = as_published(net, values, x)
    assert 100 < spikes.sum() < 0.5 * spikes.size
    np.testing.assert_array_equal(found["rec.spikes"][1:, 0].numpy(), spikes[:-1])  # an input is heard one step later
    _, output = as_published(net, values, x[:-1])
    np.testing.assert_allclose(found["out.v"][-1, 0].numpy(), output, atol=1e-10)
    assert not np.array_equal(as_published(net, values, x, late=1)[0], spikes)


@needs_mnist
def test_a_run_of_psmnist_goes_on_where_it_stopped(tmp_path):
    built = psmnist.protocol.presets["quick"]()
    short = dict(
        batch=8, test=8, test_every=1, optimiser=built.optimiser, loss=built.loss, rule=bptt(), backend="torch"
    )
    whole = lp.run(built.network, built.task, updates=2, **short)
    lp.run(built.network, built.task, updates=1, path=tmp_path / "part.zarr", **short)
    resumed = lp.run(built.network, built.task, updates=2, path=tmp_path / "part.zarr", resume=True, **short)
    xr.testing.assert_identical(whole["metrics"].to_dataset(), resumed["metrics"].to_dataset().load())


# --- patterns of relative spike times ---------------------------------------------------------------------------------


def test_every_channel_spikes_once_at_the_times_of_its_class():
    times = temporal_patterns.patterns(3, classes=5, channels=4)
    trials = temporal_patterns.pattern_trials(np.random.default_rng(0), 200, times, jitter=0 * ms, dt=0.1 * ms)
    raster = trials.inputs["cues"]
    assert (raster.sum(1) == 1).all() and set(trials.target) == set(range(5))
    when = raster.argmax(1) * 1e-4
    apart, wanted = when - when[:, :1], times[trials.target] - times[trials.target][:, :1]
    assert np.abs(apart - wanted).max() < 1.01e-4
    assert np.abs(apart - np.roll(wanted, 1, 0)).max() > 5e-3
    begin = (when - times[trials.target]).mean(1)
    assert begin.min() > 2.9e-3 and begin.max() < 23.1e-3 and np.ptp(begin) > 15e-3
    np.testing.assert_array_equal(np.flatnonzero(trials.weight), [trials.steps - 1])


def test_the_latest_spike_arrives_within_the_trial():
    latest = temporal_patterns.LATEST + temporal_patterns.SPAN + temporal_patterns.LONGEST
    assert latest + 5 * ms < temporal_patterns.DURATION


def test_patterns_belong_to_a_seed_and_jitter_to_a_trial():
    task = temporal_patterns.task(classes=3, channels=4)
    times = 1e3 * temporal_patterns.patterns(0, classes=3, channels=4)

    def displaced(trials):
        """How far spikes are from where the pattern of seed 0 has them beside the first, in milliseconds."""
        when = trials.inputs["cues"].argmax(1)
        return (when - when[:, :1] - (times - times[:, :1])[trials.target])[:, 1:]

    given = [task.training(0, 400, 0), task.training(1, 400, 0), task.testing(400, 0)]
    for trials in given:
        assert displaced(trials).std() == pytest.approx(np.sqrt(2 + 2 / 12), rel=0.1)  # two spikes, and steps of 1 ms
        assert abs(displaced(trials).mean()) < 0.2
    rows = np.array([displaced(trials).ravel() for trials in given])
    assert np.abs(np.triu(np.corrcoef(rows), 1)).max() < 0.2, "every update has a jitter of its own, and so have tests"
    assert displaced(task.training(0, 400, 1)).std() > 5
    np.testing.assert_array_equal(given[0].inputs["cues"], task.training(0, 400, 0).inputs["cues"])


def test_two_spikes_at_the_strongest_synapses_are_not_enough_and_three_are():
    net = temporal_patterns.network(hidden=2, longest=0 * ms)
    values = net.draw(0)
    values = values.replace_weights({"cues_det": np.full((4, 2), 0.45)})
    raster = np.zeros((2, 10, 4), bool)
    raster[0, 3, :2] = raster[1, 3, :3] = True
    counts = lp.run(net, lp.Trials({"cues": raster}), backend="torch", values=values, record=["det.raster"])["det"][
        "spikes"
    ]
    np.testing.assert_array_equal(counts.sum(("time", "neuron")), [0, 2])


def accuracy(**frozen):
    """Test accuracy after 100 updates of the quick preset by e-prop."""
    built = temporal_patterns.protocol.presets["quick"]()
    fit = lp.run(
        built.network, built.task, rule=eprop(), optimiser=built.optimiser.with_rates(**frozen), loss=built.loss,
        backend="torch", batch=built.batch, updates=100, test=built.test, show=False,
    )  # fmt: skip
    return float(fit["metrics"]["test_accuracy"][-1])


@pytest.mark.thorough
def test_learned_delays_begin_to_tell_patterns_apart_where_weights_cannot():
    assert accuracy() > accuracy(**{"cues_det.delay": 0.0}) + 0.2


def test_delays_are_drawn_for_every_seed():
    net = temporal_patterns.network()
    one, again, other = (net.draw(seed).delays["cues_det"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert one.min() >= 0 and 25 < one.max() <= 30 and np.abs(one - other).max() > 5
    assert not temporal_patterns.network(longest=0 * ms).draw(0).delays["cues_det"].any()


def test_the_local_rule_of_delays_is_automatic_differentiation_with_edges_cut():
    """Of every learned thing, with weights from which detectors spike, so that the readout's are compared too."""
    built, net = temporal_patterns.protocol.presets["quick"](), temporal_patterns.network(strongest=None)
    trials, drawn = built.task.training(0, 6, 0), net.draw(0)
    options = dict(loss=built.loss, values=drawn.replace_weights({"cues_det": 2 * drawn.weights["cues_det"]}))
    local = lp.gradient(net, trials, eprop(), form="traces", **options)
    cut, whole = (lp.gradient(net, trials, rule, **options) for rule in (eprop(), bptt()))
    names, error = ["cues_det", "det_out", "cues_det.delay"], lp.distance(local, cut)["relative_error"]
    assert list(error["projection"].values) == names
    assert error.notnull().all() and (error < 1e-8).all()
    assert float(lp.distance(local, whole)["relative_error"].sel(projection="cues_det.delay")) > 1e-2


# --- gradients of delays and parameters, compared ---------------------------------------------------------------------


def gradients(**variables):
    nodes = {
        path: xr.Dataset({k: (("neuron",), np.array(v)) for k, v in found.items()}) for path, found in variables.items()
    }
    return xr.DataTree.from_dict({"/": xr.Dataset(), **nodes})


def test_delays_and_parameters_are_compared_by_their_own_names():
    one = gradients(a={"gradient": [1.0, 2.0], "gradient_delay": [0.5, 0.0]}, rec={"gradient_tau_mem": [1.0, 1.0]})
    two = gradients(a={"gradient": [1.0, 2.0], "gradient_delay": [1.0, 0.0]}, rec={"gradient_tau_mem": [1.0, -1.0]})
    found = lp.distance(one, two)
    assert list(found["projection"].values) == ["a", "a.delay", "rec.tau_mem"]
    for name, pair in {"a.delay": ([0.5, 0.0], [1.0, 0.0]), "rec.tau_mem": ([1.0, 1.0], [1.0, -1.0])}.items():
        for key, value in measures(*pair).items():
            assert float(found[key].sel(projection=name)) == value
    assert list(lp.distance(one, two, variable="gradient_delay")["projection"].values) == ["a.delay"]
    assert list(lp.distance(one, two, variable="gradient")["projection"].values) == ["a"]


def test_the_alignment_with_bptt_has_an_entry_for_delays():
    built = temporal_patterns.protocol.presets["quick"]()
    trials, values = built.task.testing(8, 0), built.network.draw(0)
    found = gradient_measures(built.network, values, trials, eprop(), built.loss, "det", 0)
    local, exact = (
        lp.gradient(built.network, trials, rule, loss=built.loss, values=values) for rule in (eprop(), bptt())
    )
    wanted = measures(local["cues_det"]["gradient_delay"].values, exact["cues_det"]["gradient_delay"].values)
    assert found["cosine.cues_det.delay"] == pytest.approx(wanted["cosine"], rel=1e-12)
    assert found["cosine.cues_det.delay"] != pytest.approx(found["cosine.cues_det"], rel=1e-3)
    assert found["cosine"] == pytest.approx(found["cosine.cues_det"], rel=1e-12)  # of weights only


# --- devices ----------------------------------------------------------------------------------------------------------


def recurrent(**options):
    return lp.Network(
        dt=1 * ms, cues=lp.Input(5), rec=lp.Population(6, lif(), **options), out=lp.Population(2, leaky_readout()),
        projections=[
            lp.Projection("cues", "rec", weight=lp.normal(2.0), bounds=(-3, 3)),
            lp.Projection("rec", "rec", delay=lp.axonal(2 * ms)),
            lp.Projection("rec", "out"),
        ],
    )  # fmt: skip


def labelled(seed, n=12, steps=25):
    rng = np.random.default_rng(seed)
    return lp.Trials({"cues": rng.random((n, steps, 5)) < 0.3}, rng.integers(2, size=n), np.full(steps, 1 / steps))


def learner(rule, *, device, net=None, rate=0.01, batch=4):
    net = net or recurrent(trainable={"tau_mem": (5 * ms, 40 * ms)})
    optimiser = adam(rate).with_rates(**{"rec.tau_mem": 0.01})
    return TorchLearner(net, net.draw(1), rule, lp.losses.cross_entropy(), optimiser, batch=batch, device=device)


def furthest(one, two):
    """The largest difference of two dicts of arrays."""
    assert one.keys() == two.keys()
    return max(float(np.abs(one[name] - two[name]).max()) for name in one)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("rule", [bptt(), eprop(feedback="random")], ids=lambda r: r.name)
def test_off_the_cpu_the_plain_step_learns_the_same(rule):
    """``'cpu:0'`` is the CPU by a name that is not ``'cpu'``: it goes the way of every other device."""
    kernel, plain = learner(rule, device="cpu"), learner(rule, device="cpu:0")
    assert kernel.forward.kernel is not None and plain.forward.kernel is None
    measured = [each.train(labelled(0)) for each in (kernel, plain)]
    assert all(one == pytest.approx(two, abs=1e-9) for one, two in zip(*measured, strict=True))
    for part in ("numbers", "parameters", "arrays"):
        assert furthest(getattr(kernel, part)(), getattr(plain, part)()) < 1e-9, part
    assert plain.evaluate(labelled(1)) == pytest.approx(kernel.evaluate(labelled(1)), abs=1e-9)
    other = learner(rule, device="cpu:0", rate=0.0101)
    other.train(labelled(0))
    assert furthest(kernel.numbers(), other.numbers()) > 1e-6


def test_off_the_cpu_traces_are_carried_by_the_plain_step():
    kernel, plain = (learner(eprop(update="step"), device=d, net=recurrent(), batch=1) for d in ("cpu", "cpu:0"))
    assert isinstance(kernel.online, OnlineKernel) and not isinstance(plain.online, OnlineKernel)
    for each in (kernel, plain):
        each.train(labelled(0, n=2))
    assert furthest(kernel.numbers(), plain.numbers()) < 1e-9
    assert furthest(plain.numbers(), {f"{k}": w for k, w in recurrent().draw(1).weights.items()}) > 1e-3


def test_a_checkpoint_goes_from_one_device_to_another():
    one, two = learner(bptt(), device="cpu:0"), learner(bptt(), device="cpu")
    one.train(labelled(0))
    two.load(one.arrays())
    assert furthest(one.arrays(), two.arrays()) == 0
    before = two.arrays()
    one.train(labelled(1))
    # a copy, not the same memory
    assert furthest(before, two.arrays()) == 0 and furthest(one.arrays(), two.arrays()) > 1e-4
    two.train(labelled(1))
    assert furthest(one.arrays(), two.arrays()) < 1e-9


def test_a_run_hands_its_device_on(monkeypatch):
    monkeypatch.setattr(run_options, "check_device", lambda *found: None)
    net, task = recurrent(), lp.Task.generated("noise", lambda rng, n: labelled(0, n))
    options = dict(rule=bptt(), optimiser=adam(0.01), batch=4, updates=2, test=4, backend="torch")
    seen = []
    original = TorchLearner.__init__
    monkeypatch.setattr(
        TorchLearner, "__init__", lambda self, *a, **k: (seen.append(k["device"]), original(self, *a, **k))[1]
    )
    lp.run(net, task, device="cpu:0", **options)
    assert seen == ["cpu:0"]
    one, two = (
        lp.run(net, labelled(0), backend="torch", device=d, record=["rec.v"])["rec"]["v"] for d in ("cpu", "cpu:0")
    )
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("device, backend, message", [
    ("cuda", "torch", r"'cuda'.*finds 0 CUDA devices; use device='cpu'"),
    ("cuda:1", "torch", r"'cuda:1'.*finds 0 CUDA devices"),
    ("cuda", "brian2", r"'brian2' runs on the CPU.*backend='torch'"),
    ("tpu", "torch", r"'cpu', 'cuda' or one of several.*not 'tpu'"),
    ("cpu:0", "torch", r"not 'cpu:0'"),
    ("cuda:x", "torch", r"not 'cuda:x'"),
])  # fmt: skip
def test_a_device_that_is_not_there_is_refused_before_anything_else(monkeypatch, device, backend, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(lp.LocalplastError, match=message):
        lp.run(recurrent(), labelled(0), backend=backend, device=device)
    with pytest.raises(lp.LocalplastError, match=message):
        lp.gradient(recurrent(), labelled(0), bptt(), backend=backend, device=device)


def test_a_device_that_is_there_is_accepted(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device in ("cpu", "cuda", "cuda:0", "cuda:1"):
        run_options.check_device(device, "torch")
    with pytest.raises(lp.LocalplastError, match="finds 2 CUDA devices"):
        run_options.check_device("cuda:2", "torch")


# --- the command line -------------------------------------------------------------------------------------------------


def invoke(*arguments):
    from typer.testing import CliRunner

    return CliRunner().invoke(cli.app, list(map(str, arguments)), catch_exceptions=False)


@pytest.fixture
def toy(monkeypatch):
    """A protocol whose own rule is BPTT."""
    task = lp.Task.generated("noise", lambda rng, n: labelled(rng.integers(1000), n))
    made = Preset(
        recurrent(), task, lp.losses.cross_entropy(), learning_rate=0.01, batch=2, updates=4, test=4, hidden="rec"
    )
    toy = Protocol("toy", "a toy", "none", lambda: made, {"quick": {}}, rule="bptt")
    monkeypatch.setattr(protocols, "load", lambda name: toy)


def test_a_protocol_is_run_with_its_own_rule_unless_told_otherwise(toy, tmp_path):
    invoke("run", "toy", "--out", tmp_path, "--threads", 1)
    invoke("run", "toy", "--rule", "eprop", "--backend", "torch", "--out", tmp_path)
    rules = {path.name.split("-")[2] for path in tmp_path.glob("*.zarr")}
    assert rules == {"bptt", "eprop"}


def test_a_protocol_is_run_in_single_precision_where_asked(toy, tmp_path):
    """Other numbers than in double precision, and nearly the same; a backend that cannot count so says so."""
    lost = {}
    for dtype in ("float64", "float32"):
        invoke(
            "run", "toy", "--out", tmp_path / dtype, "--threads", 1, *(["--dtype", dtype] if dtype == "float32" else [])
        )
        (record,) = (tmp_path / dtype).glob("*.zarr")
        lost[dtype] = lp.open(record)["metrics"]["loss"].values[1:]
    assert np.any(lost["float32"] != lost["float64"]) and np.allclose(lost["float32"], lost["float64"], rtol=1e-3)
    with pytest.raises(lp.LocalplastError, match="Brian2 counts in float64"):
        invoke("run", "toy", "--backend", "brian2", "--dtype", "float32", "--out", tmp_path)


@pytest.mark.parametrize(
    "updates, tested", [(1, [0, 1]), (3, [0, 1, 2, 3]), (7, [0, 7]), (8, [0, 2, 4, 6, 8]), (10, [0, 2, 4, 6, 8, 10])]
)
def test_the_last_update_is_tested(updates, tested, toy, tmp_path):
    """Five times, or less often where five do not divide the updates."""
    invoke("run", "toy", "--out", tmp_path, "--threads", 1, "--updates", updates)
    (record,) = tmp_path.glob("*.zarr")
    accuracy = lp.open(record)["metrics"]["test_accuracy"]
    assert accuracy["update"].values[np.isfinite(accuracy)].tolist() == tested


def test_long_memory_is_trained_by_bptt():
    assert protocols.load("psmnist").rule == "bptt" and protocols.load("temporal-patterns").rule == "eprop"


def test_the_command_refuses_a_missing_device_before_it_builds_anything(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(protocols, "load", lambda name: pytest.fail("built"))
    with pytest.raises(lp.LocalplastError, match="finds 0 CUDA devices"):
        invoke("run", "toy", "--device", "cuda", "--out", tmp_path)
    assert not list(tmp_path.iterdir())
