"""Datasets against their published digests and counts, and what happens where they are missing."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pooch
import pytest

from localplast import datasets
from localplast.errors import DatasetError

DATA = os.environ.get("LOCALPLAST_DATA")


def needs(path):
    """Skip unless a file is in the folder of test data."""
    present = bool(DATA) and Path(DATA, path).is_file()
    return pytest.mark.skipif(not present, reason=f"{path} is not in LOCALPLAST_DATA ({DATA or 'not set'})")


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


@pytest.mark.parametrize("seed, n, classes, samples, labels", [
    (42, 5000, [1681, 1702, 1617],
     "f5a4054d56f2a058f8250fba7ff9720458e1625db7af78a295e45701745b2228",
     "534d12acda4f9dbc7208a99d3646115a4aa7d74ca31d6d23f822079a568559b7"),
    (41, 1000, [316, 336, 348],
     "5eac358bdf2122763dce3703a79f3005e56e46a4db25ec329a07333d0f7b8093",
     "5a4c2f605814a620f514c1091f10441ce562cd81e902ce701b3cf94ae7576f7d"),
    (40, 1000, [350, 316, 334],
     "7bab3ed668ed4992679cff6339fe21bfe7d0c921ddc6187eaa3bc6ef34b888d7",
     "daa0f8f4e3b37b1ddec2afee22f09afb768f0e575f3f568e7469f1ebc6af73c1"),
])
def test_yin_yang_is_the_published_set_bit_for_bit(seed, n, classes, samples, labels):
    x, y = datasets.yin_yang(n, seed)
    assert x.shape == (n, 4) and x.dtype == np.float64 and y.dtype == np.int64
    assert np.bincount(y).tolist() == classes
    assert digest(x) == samples
    assert digest(y) == labels


@needs("yin_yang_reference/yin_yang_reference.npz")
@pytest.mark.parametrize("seed", [40, 41, 42])
def test_yin_yang_equals_the_output_of_the_authors_generator(seed):
    reference = np.load(Path(DATA, "yin_yang_reference/yin_yang_reference.npz"), allow_pickle=False)
    x, y = datasets.yin_yang(200, seed)
    assert np.array_equal(x, reference[f"x_seed{seed}"])
    assert np.array_equal(y, reference[f"y_seed{seed}"])


def test_yin_yang_cannot_be_changed_by_a_caller():
    x, _ = datasets.yin_yang(10, 0)
    with pytest.raises(ValueError, match="read-only"):
        x[0] = 0


@needs("mnist/train-images-idx3-ubyte.gz")
def test_mnist():
    (images, labels), (test_images, test_labels) = datasets.mnist()
    assert images.shape == (60000, 28, 28) and test_images.shape == (10000, 28, 28)
    assert images.dtype == np.uint8 and labels.dtype == np.int64
    assert np.bincount(labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(test_labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert images.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert images.std() / 255 == pytest.approx(0.3081, abs=5e-5)


@needs("mnist/t10k-images-idx3-ubyte.gz")
def test_mnist_pixels_are_the_original_bytes():
    """The id that git gives to the uncompressed test images."""
    (_, _), (images, _) = datasets.mnist()
    header = bytes([0, 0, 8, 3]) + np.array(images.shape, ">u4").tobytes()
    content = header + images.tobytes()
    assert hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == "1170b2cae98de7a524b163fcc379ac8f00925b12"


@needs("fashion_mnist/train-images-idx3-ubyte.gz")
def test_fashion_mnist():
    (images, labels), (_, test_labels) = datasets.fashion_mnist()
    assert np.bincount(labels).tolist() == [6000] * 10
    assert np.bincount(test_labels).tolist() == [1000] * 10
    assert images.mean() / 255 == pytest.approx(0.2860, abs=5e-5)


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
    for entry in datasets.registry().values():
        assert entry["licence"] and entry["source"]
        for name, file in entry["files"].items():
            assert len(file["sha256"]) == 64 and file["url"].endswith(name)
