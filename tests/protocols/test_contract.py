"""The contract of every protocol, and the statistics of the generated tasks."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from brian2 import ms

import localplast as lp
from localplast import protocols
from localplast.errors import DatasetError, LocalplastError
from localplast.learning.optimise import Optimiser, adam
from localplast.models.feedforward import judged, locally_read
from localplast.network import Network
from localplast.protocols import superspike_oxford, t_maze, temporal_xor
from localplast.protocols import superspike_single as single
from localplast.protocols.mnist import latency_trials
from localplast.protocols.pattern_generation import frozen_pattern
from localplast.rules import bptt, decolle, superspike
from localplast.study.phenomenon import Phenomenon
from localplast.study.protocol import Preset, Protocol
from localplast.task import Task, Trials
from localplast.task.evidence import evidence_trials
from localplast.task.loss import Loss
from localplast.task.points import latency_trials as yin_yang_trials

LEARNED = [name for name in protocols.names() if isinstance(protocols.load(name), Protocol)]
#: Presets whose trials take seconds to draw; the quick ones of the same protocols draw fewer in the same way.
LONG = {("gle-lag-line", "paper"), ("gle-lag-net", "paper")}
PRESETS = [
    pytest.param((name, size), marks=pytest.mark.thorough if (name, size) in LONG else (), id=f"{name}-{size}")
    for name in LEARNED
    for size in protocols.load(name).presets
]


@pytest.fixture(params=PRESETS, scope="module")
def preset(request, built):
    """Every preset of every protocol."""
    return built(*request.param)


def same(a, b):
    """Whether two Trials hold the same inputs and targets."""
    pairs = [
        (np.asarray(getattr(a.inputs[k], "rates", a.inputs[k])), np.asarray(getattr(b.inputs[k], "rates", b.inputs[k])))
        for k in a.inputs
    ]
    return all(np.array_equal(x, y) for x, y in [*pairs, (a.target, b.target)])


@pytest.mark.parametrize("name", protocols.names())
def test_every_protocol_module_defines_a_protocol_of_its_name(name):
    protocol = protocols.load(name)
    assert isinstance(protocol, (Protocol, Phenomenon))
    assert protocol.name == name and protocol.summary and protocol.reference
    assert {"quick", "paper"} <= set(protocol.presets)


@pytest.mark.parametrize("name", protocols.names())
def test_presets_differ_in_data_alone(name):
    """One builder, numbers for it; what every protocol lets one set."""
    protocol = protocols.load(name)
    assert all(numbers.build is protocol.build for numbers in protocol.presets.values())
    every = [value for numbers in protocol.presets.values() for value in numbers.data.values()]
    assert all(isinstance(v, (bool, int, float, str, tuple, np.ndarray, type(None))) for v in every)  # quantities too
    if name in LEARNED:
        assert {"updates", "batch", "test"} <= set(protocol.presets["quick"].examples)


def test_presets_fit_together(preset):
    assert isinstance(preset.network, Network) and isinstance(preset.loss, Loss)
    assert preset.hidden in preset.network.populations
    assert preset.network.readouts
    assert isinstance(preset.optimiser, Optimiser) and preset.updates > 0 and preset.test > 0
    assert preset.network.plastic


def test_trials_fit_the_network(preset):
    training = preset.task.training(0, preset.batch, seed=0)
    testing = preset.task.testing(5, seed=0)
    outputs = preset.network.size(preset.network.readouts[0])
    assert (len(training), len(testing)) == (preset.batch, 5)
    for trials in (training, testing):
        trials.check(preset.network)
        assert len(trials.weight) == trials.steps and np.all(trials.weight >= 0) and trials.weight.any()
        if trials.target.ndim == 1:
            assert trials.target.dtype == np.int64 and set(trials.target) <= set(range(outputs))
        else:
            assert trials.target.shape == (len(trials), trials.steps, outputs)


#: Nothing of these is drawn: a pattern from files, pieces of one stream. Of others one pattern is all there is.
GIVEN, FROZEN = {"superspike-oxford", "fourier-synthesis", "gle-lag-net"}, {
    "superspike-oxford", "superspike-single", "temporal-xor", "pattern-generation",
}  # fmt: skip


@pytest.mark.parametrize("name", LEARNED)
def test_trials_depend_on_seed_and_update_only(name, built):
    """Asked again, a task gives the same; what is trained and what is tested: see test_trials_apart.py."""
    task, batch = built(name).task, min(built(name).batch, 8)
    first, tested = task.training(0, batch, seed=0), task.testing(batch, seed=0)
    assert same(first, task.training(0, batch, seed=0)) and same(tested, task.testing(batch, seed=0))
    assert same(first, task.training(0, batch, seed=1)) == (name in GIVEN)
    assert same(first, task.training(1, batch, seed=0)) == (name in FROZEN)
    assert same(first, tested) == (name in FROZEN)
    assert {what for what in ("given", "frozen") if task.meta.get(what)} == {
        what for what, names in {"given": GIVEN, "frozen": FROZEN}.items() if name in names
    }  # fmt: skip


#: Tasks that test the very patterns they learn: no trial can be held back, rates are tuned with other seeds.
ALL_IS_LEARNED = {
    "burst-xor", "elise", "microcircuit", "pattern-generation", "presentation-time", "superspike-oxford", "superspike-single",
    "temporal-xor",
}  # fmt: skip


def test_rates_are_tuned_on_trials_that_no_table_tests(preset):
    task, tuned = preset.task, preset.task.validation
    if task.name in ALL_IS_LEARNED:
        assert tuned is None
        return
    shown = tuned.testing(8, seed=0)
    shown.check(preset.network)
    assert same(shown, tuned.testing(8, seed=0)) and tuned.name == task.name and tuned.validation is None
    assert not same(shown, task.testing(8, seed=0)) and not same(shown, tuned.training(0, 8, seed=0))
    assert shown.steps == task.testing(8, seed=0).steps and np.array_equal(shown.weight, task.testing(8, seed=0).weight)


@pytest.mark.parametrize("learned, held, taught, judged", [
    (None, None, range(90), range(90, 100)), (None, 30, range(70), range(70, 100)), (50, 30, range(50), range(70, 100)),
    (80, 30, range(70), range(70, 100)), (50, (np.arange(300, 320), np.zeros(20, int)), range(50), range(300, 320)),
])  # fmt: skip
def test_samples_that_are_held_back(learned, held, taught, judged):
    """They are tested by the validation alone, which does not learn them; the task itself learns all it is given."""
    sets = (np.arange(100), np.zeros(100, int)), (np.arange(200, 220), np.zeros(20, int))

    def present(x, labels, rng):
        return Trials({"x": x[:, None, None].astype(float)}, labels)

    def seen(trials):
        return set(trials.inputs["x"].ravel())

    task = Task.dataset("numbers", *sets, present, learned=learned, held=held)

    assert seen(task.training(0, 100, 0)) == set(range(learned or 100)) and seen(task.testing(20, 0)) == set(
        range(200, 220)
    )
    assert seen(task.validation.training(0, 100, 0)) == set(taught) and seen(task.validation.testing(100, 0)) == set(
        judged
    )


@pytest.mark.parametrize("name", ["fourier-synthesis", "gle-lag-net"])
def test_a_stream_that_is_learned_again_does_not_reach_what_is_tested(name, built):
    preset = built(name)
    task, batch = preset.task, preset.batch
    assert same(task.training(preset.updates, batch, 0), task.training(0, batch, 0))
    assert same(task.validation.testing(1, 0), task.training(preset.updates - preset.test // batch, batch, 0)[0])


def test_networks_are_reproducible_data(preset, tmp_path):
    preset.network.save(tmp_path / "network.json")
    assert Network.load(tmp_path / "network.json") == preset.network


def test_an_unknown_protocol_names_the_known_ones():
    with pytest.raises(LocalplastError, match="no protocol 'yin_yang'; there are .*yin-yang"):
        protocols.load("yin_yang")


def test_listing_protocols_imports_none():
    code = (
        "import sys, localplast.protocols as p; assert 'yin-yang' in p.names();"
        "assert not {'torch', 'brian2', 'localplast.protocols.yin_yang'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_protocols_refuse_a_second_copy():
    code = "import runpy, sys; runpy.run_path(sys.argv[1])"
    result = subprocess.run([sys.executable, "-c", code, protocols.__file__], capture_output=True, text=True)
    assert "import localplast.protocols, not protocols" in result.stderr


class TestEvidenceAccumulation:
    trials = evidence_trials(np.random.default_rng(1), 400)

    def sides(self):
        """Counts of spikes per trial, cue and side, from the raster alone: ``(trial, cue, side)``."""
        raster = self.trials.inputs["cues"]
        windows = [raster[:, 50 + 150 * k : 150 + 150 * k] for k in range(7)]
        return np.stack([w[:, :, :20].reshape(len(w), -1, 2, 10).sum((1, 3)) for w in windows], 1)

    def test_spikes_appear_in_their_windows_only_to_the_step(self):
        raster = self.trials.inputs["cues"]
        ever = raster.reshape(400, 2250, 4, 10).any((0, 3))
        cues = np.zeros(2250, bool)
        for k in range(7):
            cues[50 + 150 * k : 150 + 150 * k] = True
        assert np.array_equal(ever[:, 0], cues) and np.array_equal(ever[:, 1], cues)
        assert np.array_equal(ever[:, 2], np.arange(2250) >= 2100)
        assert ever[:, 3].all()

    def test_one_side_at_a_time(self):
        assert np.all((self.sides() > 0).sum(2) == 1)

    def test_rates(self):
        raster = self.trials.inputs["cues"].reshape(400, 2250, 4, 10)
        cue = raster[:, :, :2].sum() / (400 * 7 * 100 * 10)
        recall, noise = raster[:, 2100:, 2].mean(), raster[:, :, 3].mean()
        assert cue == pytest.approx(0.04, abs=5 * np.sqrt(0.04 * 0.96 / 2.8e6))
        assert recall == pytest.approx(0.04, abs=5 * np.sqrt(0.04 * 0.96 / 6e5))
        assert noise == pytest.approx(0.01, abs=5 * np.sqrt(0.01 * 0.99 / 9e6))

    def test_the_label_is_the_side_with_more_cues(self):
        right = self.sides().argmax(2)
        assert np.array_equal(self.trials.target, right.sum(1) > 3)

    def test_labels_are_balanced(self):
        """And whoever remembers only the last k cues scores what the arithmetic of the task says."""
        right, label = many_labels()
        assert label.mean() == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(len(label)))
        for k, accuracy in {1: 0.727, 3: 0.830, 5: 0.907, 7: 1.0}.items():
            guess = right[:, -k:].sum(1) > k / 2
            assert np.mean(guess == label) == pytest.approx(accuracy, abs=0.01)

    def test_the_loss_looks_at_the_recall_window(self):
        assert np.array_equal(np.flatnonzero(self.trials.weight), np.arange(2100, 2250))
        assert self.trials.weight.sum() == pytest.approx(1)

    def test_another_time_step_keeps_times_and_rates(self):
        coarse = evidence_trials(np.random.default_rng(2), 200, cues=3, duration=750 * ms, dt=5 * ms)
        raster = coarse.inputs["cues"].reshape(200, 150, 4, 10)
        assert np.array_equal(np.flatnonzero(raster[:, :, :2].any((0, 2, 3))), np.r_[10:30, 40:60, 70:90])
        assert raster[:, :, 3].mean() == pytest.approx(0.05, abs=0.003)

    def test_bad_arguments(self):
        with pytest.raises(ValueError, match="an even number of cues"):
            evidence_trials(np.random.default_rng(0), 1, cues=4)
        with pytest.raises(ValueError, match="7 cues and the recall window need 1.2"):
            evidence_trials(np.random.default_rng(0), 1, duration=1000 * ms)


def many_labels():
    """Sides of the cues ``(trial, cue)`` and labels of many trials, from coarse rasters (10 ms steps are enough)."""
    rng = np.random.default_rng(3)
    right, label = [], []
    for _ in range(20):
        trials = evidence_trials(rng, 1000, duration=1200 * ms, dt=10 * ms)
        raster = trials.inputs["cues"]
        windows = [raster[:, 5 + 15 * k : 15 + 15 * k, 10:20].any((1, 2)) for k in range(7)]
        right.append(np.stack(windows, 1))
        label.append(trials.target)
    return np.concatenate(right), np.concatenate(label)


def test_yin_yang_sends_each_coordinate_once_in_time():
    points = np.array([[0.0, 0.5, 1.0, 0.25]])
    raster = yin_yang_trials(points, np.array([2])).inputs["points"][0]
    assert [np.flatnonzero(channel).tolist() for channel in raster.T] == [[0], [15], [30], [8], [0]]


def test_mnist_latency_code_sends_bright_pixels_early_and_dark_ones_never():
    images = np.zeros((1, 28, 28), np.uint8)
    images[0, 0, :3] = [255, 128, 40]
    raster = latency_trials(images, np.array([7])).inputs["pixels"][0]
    assert np.flatnonzero(raster[:, 0]).tolist() == [0]
    assert np.flatnonzero(raster[:, 1]).tolist() == [10]
    assert raster.sum() == 2


def test_the_frozen_pattern():
    trials = frozen_pattern(0)
    target = trials.target[0, :, 0]
    assert target[0] == 0 and np.abs(target).max() == 1
    spectrum = np.abs(np.fft.rfft(target[:-1]))  # the last step repeats the phase of the first
    assert set(np.argsort(spectrum[1:])[-4:] + 1) == {1, 2, 3, 5}
    assert trials.inputs["pattern"].mean() == pytest.approx(0.05, abs=0.004)


def test_a_preset_has_one_optimiser():
    quick = protocols.load("deep").presets["quick"]()
    assert quick.optimiser == adam(quick.learning_rate)
    assert replace(quick, updates=3).optimiser == quick.optimiser
    for options in ({}, {"learning_rate": 1e-3, "optimiser": adam(1e-2)}):
        with pytest.raises(LocalplastError, match="one of learning_rate= .* and optimiser="):
            Preset(quick.network, quick.task, quick.loss, batch=1, updates=1, test=1, hidden="hidden", **options)


class TestSuperSpike:
    def test_five_target_spikes_in_equal_distance(self):
        trials = single.frozen_trial(0)
        assert np.flatnonzero(trials.inputs["target"][0, :, 0]).tolist() == [500, 1500, 2500, 3500, 4500]
        assert trials.inputs["pattern"].mean() / 1e-4 == pytest.approx(10, rel=0.1)

    def test_a_silent_network_loses_half_of_the_kernels_square_per_target_spike(self):
        """In milliseconds; the last spike leaves 50 ms of its kernel in the trial, which is all but 1e-4 of it."""
        net, trials = single.network(dt=0.5 * ms), single.frozen_trial(0, dt=0.5 * ms)
        silent = {"pattern_out": np.zeros((100, 1))}
        found = lp.gradient(
            net,
            trials,
            bptt(),
            loss=lp.losses.mse(),
            values=net.draw(0).replace_weights({**net.draw(0).weights, **silent}),
        )
        assert found.attrs["loss"] == pytest.approx(5 * 0.5 * 0.83333333, rel=1e-3)

    def test_judges_hear_their_own_neuron_only(self):
        values = judged((4, 3, 5), dt=1 * ms).draw(0)
        assert np.array_equal(values.weights["out_judge"], np.eye(5)) and np.array_equal(
            values.weights["target_judge"], -np.eye(5)
        )
        assert set(values.weights) == {"pattern_hidden1", "hidden1_out", "out_judge", "target_judge"}

    def test_xor(self):
        trials = temporal_xor.xor_trials(3)
        pattern, target = trials.inputs["pattern"], trials.inputs["target"]
        assert np.all(pattern.sum(1) == 1)
        first, last = pattern.argmax(1)[:, :50], pattern.argmax(1)[:, 50:]
        late = np.stack([first.min(1) >= 40, last.min(1) >= 40], 1)  # 20 ms in steps of 0.5 ms
        assert late.tolist() == [[False, False], [False, True], [True, False], [True, True]]
        assert target[:, :, 0].sum(1).tolist() == [0, 1, 1, 0] and target[1, 80, 0]
        with pytest.raises(ValueError, match="even number"):
            temporal_xor.xor_trials(0, inputs=5)

    @pytest.mark.needs_data("superspike_oxford/oxford-target.ras")
    def test_the_oxford_pattern_repeats(self):
        once, twice = (superspike_oxford.pattern_trial(1 * ms, every=4, periods=k) for k in (1, 2))
        assert once.inputs["target"].shape == (1, 1890, 50) and twice.steps == 2 * 1890
        assert np.array_equal(twice.inputs["target"][:, 1890:], once.inputs["target"])
        assert np.array_equal(once.inputs["pattern"], twice.inputs["pattern"][:, :1890])


def test_decolle_trials_are_judged_after_the_burn_in(built):
    quick = built("decolle-nmnist")
    trials = quick.task.training(0, 3, seed=0)
    assert trials.inputs["events"].shape == (3, 100, 578) and trials.inputs["events"].any((1, 2)).all()
    assert np.flatnonzero(trials.weight)[0] == 20 and trials.weight.sum() == pytest.approx(1)


@pytest.mark.parametrize("hidden", [(7,), (7, 5, 3)])
def test_every_layer_of_decolle_has_a_fixed_readout_of_its_own(hidden):
    net = locally_read(20, hidden)
    assert net.readouts == tuple(f"hidden{k}_out" for k in range(1, len(hidden) + 1))
    for number, size in enumerate(hidden, 1):
        weight = net.draw(0).weights[f"hidden{number}_hidden{number}_out"]
        assert (
            np.abs(weight).max() <= 0.5 / np.sqrt(size)
            and not net.projections[f"hidden{number}_hidden{number}_out"].plastic
        )
    assert [p.post for p in net.plastic] == [f"hidden{k}" for k in range(1, len(hidden) + 1)]


def test_deep_layers_are_not_silent(built):
    quick = built("deep")
    names = [f"hidden{k}" for k in range(1, 6)]
    record = lp.run(quick.network, quick.task.testing(20, 0), backend="torch", record=[f"{n}.raster" for n in names])
    assert all(0.5 < record[n]["spikes"].values.sum(1).mean() < 10 for n in names)
    assert built("deep", "local").network.readouts == tuple(f"{n}_out" for n in names)


class TestTMaze:
    def test_nothing_but_noise_between_turn_and_reward(self, built):
        quick = built("t-maze")
        trials, (start, end), reward = quick.task.testing(50, 0), quick.task.meta["decision"], quick.task.meta["reward"]
        assert (start, end, reward, trials.steps) == (200, 350, 399, 401)
        raster = trials.inputs["cues"].reshape(50, 401, 4, 10)
        assert np.array_equal(np.flatnonzero(raster[:, :, 2].any((0, 2))), np.arange(start, end))
        assert not raster[:, end:, :3].any() and raster[:, end:, 3].mean() == pytest.approx(0.01, rel=0.1)
        assert np.array_equal(np.flatnonzero(trials.weight), np.arange(start, end))

    def test_up_to_the_turn_it_is_evidence_accumulation(self):
        one = t_maze.maze_trials(np.random.default_rng(0), 4, cues=3, duration=700 * ms)
        other = evidence_trials(np.random.default_rng(0), 4, cues=3, duration=700 * ms)
        assert np.array_equal(one.inputs["cues"][:, :700], other.inputs["cues"]) and np.array_equal(
            one.target, other.target
        )

    def test_actor_and_critic(self, built):
        net = built("t-maze").network
        assert {name: net.size(name) for name in net.readouts} == {"policy": 2, "value": 1}


@pytest.mark.parametrize(
    "name, rule, fraction",
    [
        ("superspike-single", superspike(), 0.7),
        ("superspike-single", bptt(cut={"reset"}), 0.7),
        ("decolle-nmnist", decolle(), 0.97),
        ("decolle-nmnist", bptt(), 0.97),
        ("deep", bptt(), 0.95),
    ],
)
@pytest.mark.sampled(5)
def test_quick_presets_begin_to_learn(name, rule, fraction, built):
    quick = built(name)
    found = lp.run(
        quick.network,
        quick.task,
        backend="torch",
        rule=rule,
        optimiser=quick.optimiser,
        loss=quick.loss,
        batch=quick.batch,
        updates=30,
        test=20,
        test_every=30,
    )
    loss = found["metrics"]["test_loss"].dropna("update").values
    assert loss[-1] < fraction * loss[0]


def test_mnist_without_its_files_says_so(monkeypatch, tmp_path):
    from localplast.task import datasets, stored

    def refuse(*_, **__):
        raise ConnectionError("no connection")

    monkeypatch.setenv("LOCALPLAST_DATA", str(tmp_path))
    monkeypatch.setattr(stored.pooch, "retrieve", refuse)
    datasets.mnist.cache_clear()
    with pytest.raises(DatasetError, match="train-images"):
        protocols.load("mnist").presets["quick"]()
    datasets.mnist.cache_clear()


REFERENCE = Path(__file__).parents[1] / "data" / "eprop_reference"


def forward(network, weights, raster):
    """The readout of a network input -> rec -> out, step by step, from the contract in the design, in plain numpy.

    ``raster`` ``(time, neuron)``; the result, ``(time, readout)``, contains the spikes of its own step.
    """
    to_rec, recurrent, to_out = weights
    dt = float(network.dt)
    rec, out = (network.draw().parameters[name] for name in ("rec", "out"))
    beta, tau_adapt = rec.get("beta", 0.0), rec.get("tau_adapt", 1.0)
    last, silent = np.full(len(recurrent), -np.inf), np.floor(rec["tau_ref"] / dt + 0.5)
    v, a, y, result = np.zeros(len(recurrent)), np.zeros(len(recurrent)), np.zeros(to_out.shape[1]), []
    for step, spikes in enumerate(raster):
        v, a, y = v * np.exp(-dt / rec["tau_mem"]), a * np.exp(-dt / tau_adapt), y * np.exp(-dt / out["tau_out"])
        z = (v > rec["v_th"] + beta * a) & (step - last >= silent)
        last[z] = step
        v, y = v + spikes @ to_rec + z @ recurrent - rec["v_reset"] * z, y + z @ to_out
        a = a + z
        result.append(y)
    return np.array(result)


@pytest.mark.parametrize(
    "name, file, spread_of_readout",
    [("evidence-accumulation", "classification_batch1", np.sqrt(6 / 102)), ("pattern-generation", "regression", 1.0)],
)
def test_the_paper_network_has_the_loss_that_nest_publishes(name, file, spread_of_readout):
    """How weights, threshold and reset are scaled: NEST's first loss, from its weights and its input spikes."""
    network = protocols.load(name).presets["paper"]().network
    reference = np.load(REFERENCE / f"eprop_bsshslm2020_{file}.npz", allow_pickle=False)
    spreads = [p.weight.spread for p in network.projections.values()]
    published = zip(("w_in_rec", "w_rec_rec", "w_rec_out"), (1.0, 1.0, spread_of_readout), strict=True)
    weights = [
        reference[key].T.astype(float) * (spread / unit) for (key, unit), spread in zip(published, spreads, strict=True)
    ]
    raster = reference["input_spikes"].reshape(-1, *reference["input_spikes"].shape[-2:])[0]
    # published inputs act in their own step, here in the next
    y = forward(network, weights, np.roll(raster, -1, axis=0))
    if name == "pattern-generation":
        loss = 0.5 * ((y[:, 0] - reference["target"]) ** 2).sum()
    else:
        y = y[-150:]
        loss = (np.log(np.exp(y).sum(1)) - y[:, reference["target_class"][0]]).mean()
    assert loss == pytest.approx(reference["loss_nest"][0], rel=1e-9)
