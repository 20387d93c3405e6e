"""Datasets against their published digests and counts, and what happens where they are missing."""

import hashlib
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pooch
import pytest
from brian2 import ms

from localplast.errors import DatasetError, LocalplastError
from localplast.task import datasets, stored

DATA = os.environ.get("LOCALPLAST_DATA")
REFERENCE = Path(__file__).parents[1] / "data" / "yin_yang_reference" / "yin_yang_reference.npz"


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """An empty data folder, an empty cache, and no connection."""

    def refuse(url, **_):
        raise ConnectionError("no connection")

    monkeypatch.setenv("LOCALPLAST_DATA", str(tmp_path))
    monkeypatch.setattr(pooch, "retrieve", refuse)
    datasets.mnist.cache_clear()
    yield tmp_path
    datasets.mnist.cache_clear()


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


@pytest.mark.parametrize(
    "seed, n, classes, samples, labels",
    [
        (
            42,
            5000,
            [1681, 1702, 1617],
            "f5a4054d56f2a058f8250fba7ff9720458e1625db7af78a295e45701745b2228",
            "534d12acda4f9dbc7208a99d3646115a4aa7d74ca31d6d23f822079a568559b7",
        ),
        (
            41,
            1000,
            [316, 336, 348],
            "5eac358bdf2122763dce3703a79f3005e56e46a4db25ec329a07333d0f7b8093",
            "5a4c2f605814a620f514c1091f10441ce562cd81e902ce701b3cf94ae7576f7d",
        ),
        (
            40,
            1000,
            [350, 316, 334],
            "7bab3ed668ed4992679cff6339fe21bfe7d0c921ddc6187eaa3bc6ef34b888d7",
            "daa0f8f4e3b37b1ddec2afee22f09afb768f0e575f3f568e7469f1ebc6af73c1",
        ),
    ],
)
def test_yin_yang_is_the_published_set_bit_for_bit(seed, n, classes, samples, labels):
    x, y = datasets.yin_yang(n, seed)
    assert x.shape == (n, 4) and x.dtype == np.float64 and y.dtype == np.int64
    assert np.bincount(y).tolist() == classes
    assert digest(x) == samples
    assert digest(y) == labels


@pytest.mark.parametrize("seed", [40, 41, 42])
def test_yin_yang_equals_the_output_of_the_authors_generator(seed):
    reference = np.load(REFERENCE, allow_pickle=False)
    x, y = datasets.yin_yang(200, seed)
    assert np.array_equal(x, reference[f"x_seed{seed}"])
    assert np.array_equal(y, reference[f"y_seed{seed}"])


def test_yin_yang_cannot_be_changed_by_a_caller():
    x, _ = datasets.yin_yang(10, 0)
    with pytest.raises(ValueError, match="read-only"):
        x[0] = 0


class TestMackeyGlass:
    times = np.arange(86) * 0.2

    def first(self, t, past=1.2):
        """The solution up to ``tau``, where the delayed value is constant."""
        rest = 2.0 * past / (1 + past**10)
        return rest + (past - rest) * np.exp(-0.1 * t)

    def test_the_first_delay_has_a_closed_form(self):
        assert np.abs(datasets.mackey_glass(1.2, 17.0) - self.first(self.times)).max() < 1e-9

    def test_the_second_delay_is_an_integral_over_the_first(self):
        nodes, weights = np.polynomial.legendre.leggauss(40)
        found = datasets.mackey_glass(1.2, 34.0)[85:]
        for t in self.times[5::20]:
            s = t * (nodes + 1) / 2
            produced = 0.2 * self.first(s) / (1 + self.first(s) ** 10) * np.exp(-0.1 * (t - s))
            expected = self.first(17.0) * np.exp(-0.1 * t) + t / 2 * weights @ produced
            assert found[round(5 * t)] == pytest.approx(expected, abs=1e-8)

    def test_it_converges_with_the_fourth_power_of_the_step(self):
        fine = datasets.mackey_glass(0.5, 204.0, per_delay=17 * 32)[:: 17 * 32]
        errors = [np.abs(datasets.mackey_glass(0.5, 204.0, per_delay=m)[::m] - fine).max() for m in (17, 34, 68)]
        assert np.divide(errors[:-1], errors[1:]) == pytest.approx(16.0, rel=0.05) and errors[-1] < 1e-7

    def rate(self, tau):
        """How fast neighbours part, per unit of time: mean over 16 pairs, of their distances over 100 units."""
        past = np.linspace(0.5, 1.2, 16)
        x = datasets.mackey_glass([past, past + 1e-9], 2200.0, tau=tau, per_delay=round(2 * tau))
        apart = (x[1:, 0] - x[1:, 1]).reshape(22, 200, 16)
        logs = 0.5 * np.log((apart**2).mean(1)).mean(1)
        return (logs[-1] - logs[3]) / 1800

    def test_neighbours_part_as_fast_as_published(self):
        """A Lyapunov time of 197 at tau = 17 (NeuroBench); a limit cycle at tau = 10."""
        assert self.rate(17.0) == pytest.approx(1 / 197, rel=0.1)
        assert abs(self.rate(10.0)) < 1e-4

    def test_many_series_are_those_of_each(self):
        both = datasets.mackey_glass([0.6, 1.1], 50.0)
        assert both.shape == (251, 2) and np.abs(both[:, 1] - datasets.mackey_glass(1.1, 50.0)).max() < 1e-12


@pytest.mark.needs_data("mnist/train-images-idx3-ubyte.gz")
def test_mnist():
    (images, labels), (test_images, test_labels) = datasets.mnist()
    assert images.shape == (60000, 28, 28) and test_images.shape == (10000, 28, 28)
    assert images.dtype == np.uint8 and labels.dtype == np.int64
    assert np.bincount(labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(test_labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert images.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert images.std() / 255 == pytest.approx(0.3081, abs=5e-5)


@pytest.mark.needs_data("mnist/t10k-images-idx3-ubyte.gz")
def test_mnist_pixels_are_the_original_bytes():
    """The id that git gives to the uncompressed test images."""
    (_, _), (images, _) = datasets.mnist()
    header = bytes([0, 0, 8, 3]) + np.array(images.shape, ">u4").tobytes()
    content = header + images.tobytes()
    assert hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == "1170b2cae98de7a524b163fcc379ac8f00925b12"


@pytest.mark.needs_data("fashion_mnist/train-images-idx3-ubyte.gz")
def test_fashion_mnist():
    (images, labels), (_, test_labels) = datasets.fashion_mnist()
    assert np.bincount(labels).tolist() == [6000] * 10
    assert np.bincount(test_labels).tolist() == [1000] * 10
    assert images.mean() / 255 == pytest.approx(0.2860, abs=5e-5)


def packed(path, files, records=2, length=3073):
    """An archive of CIFAR-10's form; the first byte of each record is its number, the others count up."""
    with tarfile.open(path, "w:gz") as archive:
        for number, file in enumerate(files):
            content = np.tile(np.arange(length, dtype=np.uint8), (records, 1))
            content[:, 0] = 10 * number + np.arange(records)
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{file}")
            info.size = content.size
            archive.addfile(info, io.BytesIO(content.tobytes()))


def test_cifar10_is_read_in_order_with_channels_first(tmp_path):
    packed(tmp_path / "c.tar.gz", datasets.CIFAR_FILES)
    (images, labels), (tested, test_labels) = datasets.read_cifar(tmp_path / "c.tar.gz")
    assert images.shape == (10, 3, 32, 32) and tested.shape == (2, 3, 32, 32)
    assert labels.tolist() == [0, 1, 10, 11, 20, 21, 30, 31, 40, 41] and test_labels.tolist() == [50, 51]
    assert images[3, 1, 2, 5] == (1 + 1024 + 2 * 32 + 5) % 256  # channel, row, column
    assert not images.flags.writeable and not test_labels.flags.writeable


@pytest.mark.parametrize("change", [{"length": 3072}, {"files": datasets.CIFAR_FILES[1:]}])
def test_an_archive_of_another_form_is_refused(tmp_path, change):
    packed(tmp_path / "c.tar.gz", **{"files": datasets.CIFAR_FILES, **change})
    with pytest.raises((ValueError, KeyError)):
        datasets.read_cifar(tmp_path / "c.tar.gz")


def test_pixels_are_means_over_squares_in_every_channel():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 6), np.uint8)
    found = datasets.pooled(images, 2)
    assert found.shape == (2, 18)
    assert found[1, 6 + 3 + 2] == pytest.approx(images[1, 1, 2:4, 4:6].mean() / 255)
    assert np.array_equal(datasets.pooled(images[:, 2], 2), found[:, 12:])


def test_a_missing_dataset_says_where_it_was_looked_for_and_how_to_get_it(offline):
    with pytest.raises(DatasetError) as caught:
        datasets.mnist()
    message = str(caught.value)
    assert str(offline / "mnist" / "train-images-idx3-ubyte.gz") in message
    assert "no connection" in message
    assert "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz" in message
    assert "set LOCALPLAST_DATA" in message and "try again" in message


def test_without_the_variable_the_message_says_so(offline, monkeypatch):
    monkeypatch.delenv("LOCALPLAST_DATA")
    with pytest.raises(DatasetError, match="LOCALPLAST_DATA is not set"):
        datasets.mnist()


def test_a_damaged_file_is_refused_and_never_replaced_silently(offline):
    folder = offline / "mnist"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"not the original")
    with pytest.raises(DatasetError, match="is not the original file: its SHA-256 is"):
        datasets.mnist()


def test_every_file_of_the_registry_has_a_checksum_an_address_and_a_licence():
    for entry in stored.registry().values():
        assert entry["licence"] and entry["source"]
        for name, file in entry["files"].items():
            assert len(file["sha256"]) == 64
            assert file["url"] is None or file["url"].endswith(name)


@pytest.mark.needs_data("superspike_oxford/oxford-target.ras")
class TestOxford:
    def test_every_spike_of_the_files_is_in_its_step(self):
        inputs, target = datasets.oxford(0.1 * ms)
        assert inputs.shape == target.shape == (18900, 200)
        assert inputs.sum() == 1889 and inputs.mean() / 1e-4 == pytest.approx(5.0, rel=0.01)
        for raster, name, base in ((inputs, "input", 0), (target, "target", 1)):
            lines = Path(DATA, f"superspike_oxford/oxford-{name}.ras").read_text().split()
            times, neurons = np.array(lines[::2], float), np.array(lines[1::2], int) - base
            again = np.zeros_like(raster)
            again[np.round(times / 1e-4 - 0.4999).astype(int), neurons] = True
            assert np.array_equal(raster, again)
        assert target.sum() == 10367

    def test_the_two_index_bases(self):
        """Both use all 200 neurons; taking one base for both would leave a neuron silent, or run over the edge."""
        for raster in datasets.oxford(1 * ms):
            assert raster[:, [0, -1]].any(0).all()

    def test_a_step_that_does_not_fit_the_period_is_refused(self):
        with pytest.raises(ValueError, match="does not divide the period"):
            datasets.oxford(0.8 * ms)


@pytest.mark.needs_data("mnist1d/mnist1d.npz")
def test_mnist1d():
    (samples, labels), (test, test_labels) = datasets.mnist1d()
    assert samples.shape == (4000, 40) and test.shape == (1000, 40) and samples.dtype == np.float64
    assert np.bincount(labels).tolist() == [398, 396, 411, 394, 394, 402, 401, 404, 402, 398]
    assert np.bincount(test_labels).tolist() == [102, 104, 89, 106, 106, 98, 99, 96, 98, 102]
    both = np.concatenate([samples, test])
    assert abs(both.mean()) < 1e-12 and both.std() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.needs_data("mnist1d/mnist1d.npz")
class TestDigitsDrawnAnew:
    """At 40 points they are the authors' frozen set; at others the same digits, in the same order."""

    def both(self, points=None):
        (samples, labels), (test, test_labels) = datasets.mnist1d(points)
        assert not samples.flags.writeable and (len(samples), len(test)) == (4000, 1000)
        return np.concatenate([samples, test]), np.concatenate([labels, test_labels])

    def test_the_frozen_set(self):
        (samples, labels), (frozen, expected) = self.both(40), self.both()
        assert np.array_equal(labels, expected) and np.abs(samples - frozen).max() < 1e-15

    def test_more_points(self):
        """What 40 points joined by lines lose is the fast part (figures of the generator itself)."""
        (samples, labels), (frozen, expected) = self.both(360), self.both()
        assert np.array_equal(labels, expected) and samples.shape == (5000, 360)
        assert [round(samples.min(), 2), round(samples.max(), 2)] == [-5.50, 4.67]
        joined = np.stack([np.interp(np.linspace(0, 39, 360), np.arange(40), row) for row in frozen])
        assert np.sqrt(np.mean((samples - joined) ** 2)) == pytest.approx(0.117, abs=5e-4)

    def test_points(self):
        with pytest.raises(LocalplastError, match="points is a whole number, 2 or more; given 1"):
            datasets.mnist1d(1)


@pytest.mark.needs_data("nmnist_small/nmnist_small.npz")
class TestNMNIST:
    def test_counts_and_labels(self):
        (train, labels), (test, test_labels) = datasets.nmnist_small()
        assert (len(train), len(test)) == (1000, 100)
        assert np.bincount(labels).tolist() == [97, 116, 99, 93, 105, 92, 94, 117, 87, 100]
        assert len(test_labels) == 100 and train.offsets[-1] == 4133231

    def test_the_raster_holds_every_event_at_its_place_and_time(self):
        (train, _), _ = datasets.nmnist_small()
        some = train[[7, 3]]
        raster = some.raster(1 * ms, 350)
        assert raster.shape == (2, 350, 2 * 34 * 34)
        for recording, number in zip(raster, (7, 3), strict=True):
            events = slice(train.offsets[number], train.offsets[number + 1])
            x, y, p, t = (a[events].astype(int) for a in (train.x, train.y, train.polarity, train.t))
            expected = set(zip(t // 1000, p * 1156 + y * 34 + x, strict=True))
            assert set(zip(*np.nonzero(recording), strict=True)) == expected

    def test_pooling_joins_channels_and_steps_cut_the_end_off(self):
        (train, _), _ = datasets.nmnist_small()
        fine, coarse = train[:3].raster(1 * ms, 200), train[:3].raster(1 * ms, 200, pool=2)
        joined = fine.reshape(3, 200, 2, 17, 2, 17, 2).any((4, 6)).reshape(3, 200, -1)
        assert np.array_equal(coarse, joined)
        assert np.array_equal(train[:3].raster(2 * ms, 100), fine.reshape(3, 100, 2, -1).any(2))

    def test_selections(self):
        (train, _), _ = datasets.nmnist_small()
        assert len(train[:0]) == 0 and train[:0].raster(1 * ms, 5).shape == (0, 5, 2312)
        assert np.array_equal(train[5].raster(1 * ms, 50), train[4:6].raster(1 * ms, 50)[1:])
        with pytest.raises(ValueError, match="pool must divide 34"):
            train[:1].raster(1 * ms, 5, pool=3)


@pytest.mark.parametrize(
    "load, source", [(datasets.nmnist_small, "slayerPytorch"), (datasets.mnist1d, "greydanus/mnist1d")]
)
def test_what_cannot_be_downloaded_says_so(offline, load, source):
    load.cache_clear()
    with pytest.raises(DatasetError) as caught:
        load()
    name, message = load.__name__, str(caught.value)
    assert str(offline / name / f"{name}.npz") in message and "cannot be downloaded" in message
    assert source in message and "set LOCALPLAST_DATA" in message


def test_a_damaged_packed_file_is_refused(offline):
    datasets.mnist1d.cache_clear()
    (offline / "mnist1d").mkdir()
    np.savez(offline / "mnist1d" / "mnist1d.npz", x=np.zeros((4000, 40)))
    with pytest.raises(DatasetError, match="mnist1d.npz is not the original file"):
        datasets.mnist1d()


def test_missing_patterns_say_where_they_were_looked_for(offline):
    datasets.read_oxford.cache_clear()
    with pytest.raises(DatasetError, match="oxford-input.ras. Looked in .* could not download https://raw"):
        datasets.oxford(1 * ms)
