"""What is trained and what is tested in every protocol: other samples, other dice; and the window of the loss."""

import importlib

import numpy as np
import pytest

from localplast import protocols
from localplast.study.protocol import Protocol
from localplast.task import Poisson, Task, Trials, datasets
from localplast.task.datasets import Events

LEARNED = [name for name in protocols.names() if isinstance(protocols.load(name), Protocol)]
CASES = [(name, size) for name in LEARNED for size in protocols.load(name).presets]

# --- stored samples ---------------------------------------------------------------------------------------------------


def images(seed, count, shape=(28, 28)):
    return np.random.default_rng(seed).integers(60, 256, (count, *shape)).astype(np.uint8)


def recordings(seed, count, each=80):
    rng = np.random.default_rng(seed)
    x, y, p = (rng.integers(0, most, count * each).astype(np.uint8) for most in (34, 34, 2))
    t = rng.integers(0, 90_000, count * each).astype(np.uint32)
    return Events(x, y, p, t, np.arange(count + 1) * each, size=34)


TRAIN, TEST = 24, 11
FAKE = {
    "cifar10": lambda: tuple(
        (np.random.default_rng(n).integers(0, 256, (n, 3, 32, 32), np.uint8), np.arange(n) % 10) for n in (TRAIN, TEST)
    ),
    "mnist": lambda: tuple((images(n, n), np.arange(n) % 10) for n in (TRAIN, TEST)),
    "mnist1d": lambda points: tuple(
        (np.random.default_rng(n).normal(size=(n, points)), np.arange(n) % 10) for n in (TRAIN, TEST)
    ),
    "nmnist_small": lambda: tuple((recordings(n, n), np.arange(n) % 10) for n in (TRAIN, TEST)),
}
STORED = {
    "decolle-mnist": "mnist", "decolle-nmnist": "nmnist_small", "gle-mnist1d": "mnist1d", "latent-equilibrium": "mnist",
    "latent-equilibrium-cnn": "mnist", "mnist": "mnist", "pal-autoencoder": "mnist", "psmnist": "mnist",
}  # fmt: skip
#: Sizes of the Yin-Yang sets that are learned and tested.
YIN_YANG = {
    **dict.fromkeys(("deep", "yin-yang"), (5000, 1000)), "microcircuit-yin-yang": (6000, 1000), "pal-yin-yang": (6000, 900),
}  # fmt: skip


@pytest.fixture
def few(monkeypatch):
    """Datasets of a few samples that can all be told apart, in place of those in files."""
    for protocol in STORED:
        module = importlib.import_module(f"localplast.protocols.{protocol.replace('-', '_')}")
        for name, fake in FAKE.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, fake)


def seen(trials):
    """Every pattern that some trials show, as bytes: rows of a stream of currents, else whole trials."""
    shown = [array for name, array in trials.inputs.items() if name not in ("teach", "target")]
    arrays = [a.rates if isinstance(a, Poisson) else a for a in shown]
    if "teach" in trials.inputs and arrays[0].shape[2] > 1:
        return {row.tobytes() for trial in arrays[0] for row in trial}
    return {b"".join(a[k].tobytes() for a in arrays) for k in range(len(trials))}


def labels(trials):
    return trials.target if trials.target.ndim == 1 else trials.inputs["target"].reshape(-1, trials.target.shape[-1])


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", [c for c in CASES if c[0] in STORED], ids="-".join)
def test_stored_samples_are_learned_or_tested(case, few):
    """All of the one set are learned, and none of the other; all of the other are tested in their order."""
    name, size = case
    task = protocols.load(name).presets[size]().task
    assert task.testing(TEST, 0).target is not None and len(task.testing(4, 0)) == 4
    batch = 2 if name == "pal-autoencoder" else TRAIN  # whose streams are long
    learned = set().union(*(seen(task.training(update, batch, 0)) for update in range(6)))
    tested = seen(task.testing(TEST, 0))
    assert not learned & tested and len(learned) >= TRAIN and len(tested) >= TEST
    if name != "pal-autoencoder":  # which knows no labels
        np.testing.assert_array_equal(task.testing(TEST, 0).target, np.arange(TEST) % 10)
    assert seen(task.testing(5, 0)) == seen(task.testing(TEST, 0)[:5])


@pytest.mark.parametrize("case", [c for c in CASES if c[0] in YIN_YANG], ids="-".join)
def test_points_are_learned_or_tested(case, built):
    """The published sets: seed 42 is learned, seed 40 is tested; seed 41, which rates may be tuned on, is neither."""
    name, _ = case
    task, dt, (train, test) = built(*case).task, float(built(*case).network.dt), YIN_YANG[name]
    assert len(task.testing(2 * test, 0)) == test
    np.testing.assert_array_equal(task.testing(test, 0).target, datasets.yin_yang(test, 40)[1])
    points, _ = datasets.yin_yang(train, 42)
    if name in ("deep", "yin-yang"):  # as spike times of all of an epoch
        epoch = np.concatenate([task.training(k, 50, 3).inputs["points"].argmax(1) for k in range(train // 50)])
        wanted = np.floor(points * (0.03 / dt) + 0.5)
        assert sorted(map(tuple, epoch[:, :4])) == sorted(map(tuple, wanted))
        return
    stream = task.training(0, 8, 0)
    assert not seen(stream) & seen(task.testing(test, 0))
    shown = stream.inputs["sense"][..., :2].reshape(-1, 2)
    distance, which = min_distance(shown[:: stream.steps // 4], points[:, :2])
    assert distance.max() < 1e-12 and which.max() > train // 3


def min_distance(shown, points):
    """How far each of ``shown`` is from the nearest of ``points``, and which that is."""
    apart = np.abs(shown[:, None] - points).max(-1)
    return apart.min(1), apart.argmin(1)


class TestDataset:
    """Samples that are numbers: which of them a task presents."""

    task = Task.dataset(
        "numbers", (np.arange(10), np.arange(10) % 3), (100 + np.arange(5), np.arange(5)),
        lambda x, labels, rng: Trials({"x": x[:, None, None].astype(float)}, labels * 1000 + rng.integers(0, 900)),
    )  # fmt: skip

    def shown(self, updates, batch, seed=0):
        """The samples of some updates, one after the other."""
        given = [self.task.training(k, batch, seed).inputs["x"].ravel() for k in range(updates)]
        return np.concatenate(given).astype(int)

    @pytest.mark.parametrize("batch", [3, 10, 4])
    def test_every_epoch_shows_all_of_them_once_in_an_order_of_its_own(self, batch):
        shown = self.shown(40 // batch + 1, batch)[:40].reshape(4, 10)
        assert all(sorted(epoch) == list(range(10)) for epoch in shown)
        assert len({tuple(epoch) for epoch in shown}) == 4, "every epoch has its order"
        np.testing.assert_array_equal(shown.ravel(), self.shown(20, 2))  # whatever the batch
        assert not np.array_equal(shown, self.shown(40 // batch + 1, batch, seed=1)[:40].reshape(4, 10))

    def test_labels_belong_to_their_samples(self):
        given = self.task.training(2, 7, 5)
        np.testing.assert_array_equal(given.target // 1000, given.inputs["x"].ravel().astype(int) % 3)

    def test_dice_are_those_of_the_update(self):
        dice = [self.task.training(update, 3, seed).target[0] % 1000 for seed in (0, 1) for update in range(4)]
        assert len(set(dice)) == 8 and dice[5] == self.task.training(1, 3, 1).target[0] % 1000
        assert self.task.testing(3, 0).target[0] % 1000 not in dice

    def test_tested_are_the_first_of_the_others(self):
        np.testing.assert_array_equal(self.task.testing(3, 0).inputs["x"].ravel(), [100, 101, 102])
        np.testing.assert_array_equal(self.task.testing(3, 0).target // 1000, [0, 1, 2])
        assert len(self.task.testing(9, 0)) == 5


# --- what is drawn ----------------------------------------------------------------------------------------------------

#: One pattern is learned, and tested; or all that differ are few, and there are no others.
ONE_PATTERN = {"pattern-generation", "superspike-oxford", "superspike-single", "temporal-xor"}
FEW = {"microcircuit": 8, "presentation-time": 8}
#: Pieces of one stream; and what is drawn anew in every update.
STREAMS = {"fourier-synthesis", "gle-lag-net"}
DRAWN = sorted(set(LEARNED) - ONE_PATTERN - STREAMS - set(FEW) - set(STORED) - set(YIN_YANG))


#: What is drawn is where a trial begins, in a melody or a wave of a hundred steps: some begin alike.
BEGINNINGS = {"elise", "gle-lag-line"}


def dice(trials, name):
    """What was drawn of every trial, as bytes."""
    arrays = trials.inputs if name not in ("burst-xor", "urbanczik-senn") else {
        k: a for k, a in trials.inputs.items() if k.startswith("di")
    }  # fmt: skip
    return [b"".join(a[k].tobytes() for a in arrays.values()) for k in range(len(trials))]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", DRAWN)
def test_no_trial_is_drawn_twice(name, built):
    """Not in one batch, not in another update, not in the test, not with another seed."""
    task = built(name).task
    given = [task.training(update, 3, seed) for seed in (0, 1) for update in (0, 1, 2)]
    given += [task.testing(3, seed) for seed in (0, 1)]
    drawn = [dice(trials, name) for trials in given]
    if name in BEGINNINGS:
        assert len({tuple(each) for each in drawn}) == 8
    else:
        assert len({each for trials in drawn for each in trials}) == 24


@pytest.mark.parametrize("name", sorted(FEW))
def test_where_there_are_no_others_all_are_learned_and_tested(name, built):
    task = built(name).task
    learned, tested = seen(task.training(0, 2, 0)), seen(task.testing(FEW[name], 0))
    assert learned == tested and len(tested) == FEW[name]
    order = [task.training(update, 1, seed).inputs["sense"].tobytes() for seed in (0, 1) for update in range(3)]
    assert len(set(order)) == 6, "every trial has an order of its own"


@pytest.mark.parametrize("name", sorted(ONE_PATTERN - {"superspike-oxford"}))
def test_one_pattern_belongs_to_its_seed(name, built):
    task = built(name).task
    batch = built(name).batch
    patterns = [b"".join(dice(trials, name)) for trials in (
        task.training(0, batch, 0), task.training(5, batch, 0), task.testing(batch, 0), task.training(0, batch, 1),
    )]  # fmt: skip
    assert patterns[0] == patterns[1] == patterns[2] != patterns[3]


def test_the_stream_of_sines_goes_on(built):
    """What is tested comes after what is learned; it is the same again, for all sines repeat in 100 ms."""
    preset = built("fourier-synthesis")
    time = np.arange(30 * 400) * 0.05e-3
    sines = np.sin(2 * np.pi * 10 * time).reshape(30, 400)
    for update in (0, 7, 19):
        given = preset.task.training(update, 1, 0).inputs["sense"][0, :, 0]
        np.testing.assert_allclose(given, sines[update], atol=1e-9)
    np.testing.assert_allclose(preset.task.testing(5, 0).inputs["sense"][:, :, 0], sines[20:25], atol=1e-9)
    assert preset.updates == 20 and preset.test == 5


def test_the_lag_network_is_tested_after_all_that_it_learns(built):
    """One stream of three sines in pieces: an update has the next ones, the test those that come after all of them."""
    preset = built("gle-lag-net")
    given = [preset.task.training(update, preset.batch, 0) for update in range(preset.updates)]
    tested = preset.task.testing(preset.test, 0)
    sense = np.concatenate([trials.inputs["sense"][:, :, 0] for trials in (*given, tested)])
    judged = given[0].weight > 0
    stream = sense[:, judged].ravel()
    begin = np.argmax(judged)
    wanted = np.sin(np.outer((np.arange(len(stream)) + begin) * 0.04, [0.49, 1.07, 1.98])).sum(1)
    assert len(sense) == preset.batch * preset.updates + preset.test
    np.testing.assert_allclose(stream, wanted, atol=1e-9)


# --- the window -------------------------------------------------------------------------------------------------------


def last(steps, of, total=1.0):
    weight = np.zeros(of)
    weight[-steps:] = total / steps
    return weight


def between(begin, end, of, total=1.0):
    weight = np.zeros(of)
    weight[begin:end] = total / (end - begin)
    return weight


def second_halves(shown, patterns):
    """Of streams: the second half of every pattern."""
    late = np.tile(np.arange(shown) >= shown // 2, patterns)
    return late / late.sum()


YIN, YIN_FINE, SHOWN = last(20, 50), last(40, 100), second_halves(100, 1)
#: Whose teachers run for minutes of their time before there is a trial.
SLOW = {("gle-lag-line", "paper"), ("gle-lag-net", "paper")}
#: By protocol and size, the weight of every step while learning; then that of tests, where it is another.
WINDOWS = {
    "burst-xor": [between(2800, 3200, 4000)],
    "decolle-mnist": {"quick": [last(80, 100)], "paper": [last(240, 300)]},
    "decolle-nmnist": {"quick": [last(80, 100)], "paper": [last(240, 300)]},
    "deep": {**dict.fromkeys(("quick", "local", "nine", "nine-local"), [YIN]), "paper": [YIN_FINE]},
    "delaynet": {"quick": [last(1, 420)], "paper": [last(1, 2250)], "waits": [last(1, 3200)], "counts": [last(1, 2850)]},
    "elise": {
        "quick": [last(1000, 1000), last(120, 200)], "sequence": [last(10_000, 10_000), last(1500, 2500)],
        "paper": [last(25_000, 25_000), last(7500, 12_500)],
    },
    "evidence-accumulation": {"quick": [last(150, 1050)], "paper": [last(150, 2250)]},
    "fourier-synthesis": {"quick": [last(400, 400)], "paper": [last(4000, 4000)]},
    "gle-lag-line": {"quick": [between(250, 600, 625)]},
    "gle-lag-net": {"quick": [between(125, 350, 375)]},
    "gle-mackey-glass": {"quick": [last(400, 500)], "paper": [last(1900, 2000)]},
    "gle-mnist1d": {"quick": [last(360, 360)], "paper": [np.full(14_400, 1 / 14_400), last(360, 720)]},
    "latent-equilibrium": {
        "quick": [second_halves(10, 8), second_halves(12, 1)], "paper": [second_halves(20, 8), second_halves(12, 1)],
    },
    "latent-equilibrium-cnn": {
        "quick": [second_halves(32, 8), second_halves(24, 1)], "paper": [second_halves(100, 8), second_halves(24, 1)],
        "cifar10": [second_halves(50, 8), second_halves(24, 1)],
    },
    "microcircuit": {
        "quick": [second_halves(10, 8), second_halves(100, 1)], "paper": [second_halves(100, 8), second_halves(100, 1)],
    },
    "microcircuit-teacher": {
        "quick": [second_halves(20, 50), SHOWN], "paper": [second_halves(1000, 50), SHOWN],
    },
    "microcircuit-yin-yang": [second_halves(20, 500), SHOWN],
    "mnist": {"quick": [last(20, 40)], "paper": [last(1, 200)]},
    "pal-alignment": {
        "quick": [second_halves(1000, 10), SHOWN], "paper": [second_halves(100, 100), SHOWN],
    },
    "pal-autoencoder": {
        "quick": [second_halves(32, 20), second_halves(40, 1)], "paper": [second_halves(100, 10), second_halves(40, 1)],
    },
    "pal-teacher": [second_halves(100, 100), second_halves(100, 1)],
    "pal-yin-yang": {
        "quick": [second_halves(20, 500), SHOWN], "paper": [second_halves(100, 300), SHOWN],
    },
    "pattern-generation": {"quick": [np.ones(500)], "paper": [np.ones(1000)]},
    "presentation-time": [second_halves(200, 8), second_halves(200, 1)],
    "psmnist": {
        **dict.fromkeys(("quick", "sequential-quick"), [last(1, 197)]),
        **dict.fromkeys(("paper", "sequential-paper"), [last(1, 785)]),
    },
    "superspike-oxford": {"quick": [np.ones(1890)], "paper": [np.full(18_900, 0.1)]},
    "superspike-single": {"quick": [np.full(1000, 0.5)], "paper": [np.full(5000, 0.1)]},
    "t-maze": {"quick": [between(200, 350, 401)], "paper": [between(2100, 2250, 2551)]},
    "temporal-patterns": [last(1, 90)],
    "temporal-xor": {"quick": [np.full(160, 0.5)], "paper": [np.full(800, 0.1)]},
    "urbanczik-senn": {"quick": [last(400, 500)], "paper": [last(2000, 2500)]},
    "yin-yang": {"quick": [YIN], "paper": [YIN_FINE]},
}  # fmt: skip


@pytest.mark.parametrize("case", [c for c in CASES if c not in SLOW], ids="-".join)
def test_the_window_is_where_the_protocol_says(case, built):
    name, size = case
    wanted = WINDOWS[name] if isinstance(WINDOWS[name], list) else WINDOWS[name][size]
    task = built(name, size).task
    for given, weight in zip((task.training(1, 1, 0), task.testing(1, 0)), [wanted[0], wanted[-1]], strict=True):
        np.testing.assert_allclose(given.weight, weight, rtol=1e-12, atol=1e-15)
