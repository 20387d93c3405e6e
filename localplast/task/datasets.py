"""Datasets: generators of Yin-Yang and Mackey-Glass; MNIST, Fashion-MNIST, CIFAR-10, SuperSpike's patterns, MNIST-1D
and N-MNIST from files (:mod:`~localplast.task.stored`).
"""

import functools
import gzip
import math
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from brian2.units.fundamentalunits import Quantity
from numpy.typing import ArrayLike

from localplast.arguments import check_whole
from localplast.task.digits import drawn_digits
from localplast.task.stored import locate

__all__ = [
    "Events",
    "cifar10",
    "fashion_mnist",
    "mackey_glass",
    "mnist",
    "mnist1d",
    "nmnist_small",
    "oxford",
    "pooled",
    "yin_yang",
]

#: Samples and their labels.
Labelled = tuple[np.ndarray, np.ndarray]

IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


#: The last one is for tests.
CIFAR_FILES = (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin")


@functools.lru_cache(maxsize=8)
def yin_yang(n: int = 5000, seed: int = 42) -> tuple[np.ndarray, np.ndarray]:
    """Points in the Yin-Yang figure: Kriener, Göltz & Petrovici 2022, NICE, arXiv:2102.08211.

    The published sets are seed 42 for training (5000 samples), 41 for validation and 40 for testing (1000 each); these
    are reproduced bit for bit. The stream depends on the seed only: fewer samples are a prefix of more.

    Parameters
    ----------
    n : int
        Number of samples.
    seed : int

    Returns
    -------
    samples : float64 array ``(n, 4)``
        ``x, y, 1 - x, 1 - y``, all between 0 and 1, without unit.
    labels : int64 array ``(n,)``
        0 yin, 1 yang, 2 dot. Both arrays are shared between calls, and read-only.
    """
    rng = np.random.RandomState(seed)
    points, labels = np.empty((n, 2)), np.empty(n, np.int64)
    for i in range(n):
        wanted = rng.randint(3)
        while True:  # a rejected point is drawn again, its class never: the classes stay balanced
            x, y = rng.rand(2).tolist()
            if yin_yang_class(x, y) == wanted:
                break
        points[i], labels[i] = (x, y), wanted
    return frozen(np.hstack([points, 1.0 - points])), frozen(labels)


def yin_yang_class(x: float, y: float, r_small: float = 0.1, r_big: float = 0.5) -> int | None:
    """The class of a point, or None outside the big circle."""
    if distance(x, y, r_big, r_big) > r_big:
        return None
    right, left = distance(x, y, 1.5 * r_big, r_big), distance(x, y, 0.5 * r_big, r_big)
    if right < r_small or left < r_small:
        return 2
    return int(right <= r_small or r_small < left <= 0.5 * r_big or (y > r_big and right > 0.5 * r_big))


def distance(x: float, y: float, x0: float, y0: float) -> float:
    return math.sqrt((x - x0) * (x - x0) + (y - y0) * (y - y0))


def mackey_glass(
    past: ArrayLike,
    duration: float,
    *,
    tau: float = 17.0,
    per_delay: int = 85,
    beta: float = 0.2,
    gamma: float = 0.1,
    n: float = 10,
) -> np.ndarray:
    """Solutions of ``dx/dt = beta x(t - tau)/(1 + x(t - tau)**n) - gamma x(t)``: Mackey & Glass 1977, Science 197:287.

    Chaotic with the usual numbers, where neighbours part by a factor e in about 197 (NeuroBench); at ``tau = 10`` a
    limit cycle. Runge-Kutta of order 4 in ``per_delay`` steps per delay; delayed values between two steps by cubic
    Hermite interpolation.

    Parameters
    ----------
    past : array ``(...)``
        Constant value of each series until time 0.
    duration : float
        In the unit of ``tau``, which is a number here.

    Other arguments
    ---------------
    tau, beta, gamma, n : float
    per_delay : int

    Returns
    -------
    float array ``(time, ...)``
        From time 0 on, in steps of ``tau/per_delay``; the first entry is ``past``.
    """
    h, steps = tau / per_delay, round(duration * per_delay / tau)
    x = np.empty((per_delay + steps + 1, *np.shape(past)))
    x[: per_delay + 1] = past
    between = x.copy()  # halfway from each step to the next

    def slope(now, then):
        return beta * then / (1 + then**n) - gamma * now

    for k in range(per_delay, per_delay + steps):
        start, half, end = x[k - per_delay], between[k - per_delay], x[k - per_delay + 1]
        k1 = slope(x[k], start)
        k2 = slope(x[k] + h / 2 * k1, half)
        k3 = slope(x[k] + h / 2 * k2, half)
        x[k + 1] = x[k] + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(x[k] + h * k3, end))
        between[k] = (x[k] + x[k + 1]) / 2 + h / 8 * (k1 - slope(x[k + 1], end))
    return x[per_delay:]


@functools.cache
def mnist() -> tuple[Labelled, Labelled]:
    """Handwritten digits: LeCun, Bottou, Bengio & Haffner 1998, Proc IEEE 86:2278.

    Returns
    -------
    train, test : pairs ``(images, labels)``
        ``images`` uint8 ``(60000, 28, 28)`` and ``(10000, 28, 28)``, 0 background to 255 ink; ``labels`` int64
        ``(60000,)`` and ``(10000,)``. The arrays are shared between calls, and read-only.

    Raises
    ------
    DatasetError
        A file is neither in ``LOCALPLAST_DATA`` nor can it be downloaded, or it is not the original.
    """
    return idx_dataset("mnist")


def pooled(images: np.ndarray, width: int = 1) -> np.ndarray:
    """Brightness, from 0 to 1, as means over squares of ``width`` pixels: ``(image, [channel,] row, column)`` to
    ``(image, pixel)``.
    """
    *many, rows, columns = images.shape
    squares = images.reshape(*many, rows // width, width, columns // width, width)
    return squares.mean((-3, -1)).reshape(len(images), -1) / 255


@functools.cache
def fashion_mnist() -> tuple[Labelled, Labelled]:
    """Pictures of ten kinds of clothes: Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747.

    Returns and raises what :func:`mnist` does; the classes are listed in ``data/README.md``.
    """
    return idx_dataset("fashion_mnist")


def idx_dataset(name: str) -> tuple[Labelled, Labelled]:
    arrays = [frozen(read_idx(locate(name, file))) for file in IDX_FILES]
    train_images, train_labels, test_images, test_labels = arrays
    return (train_images, frozen(train_labels.astype(np.int64))), (test_images, frozen(test_labels.astype(np.int64)))


def read_idx(path: str | Path) -> np.ndarray:
    """A gzipped IDX file of bytes: two zeros, type 8, number of axes, their lengths (big endian), the data."""
    data = gzip.decompress(Path(path).read_bytes())
    axes = data[3]
    shape = np.frombuffer(data, ">u4", axes, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)


@functools.cache
def cifar10() -> tuple[Labelled, Labelled]:
    """Small pictures of ten kinds of things, in colour: Krizhevsky 2009, Learning multiple layers of features from tiny
    images.

    Returns
    -------
    train, test : pairs ``(images, labels)``
        ``images`` uint8 ``(50000, 3, 32, 32)`` and ``(10000, 3, 32, 32)``, red, green and blue; ``labels`` int64
        ``(50000,)`` and ``(10000,)``. The arrays are shared between calls, and read-only.

    Raises
    ------
    DatasetError
        As of :func:`mnist`.
    """
    return read_cifar(locate("cifar10", "cifar-10-binary.tar.gz"))


def read_cifar(path: str | Path) -> tuple[Labelled, Labelled]:
    """Five files to learn from and one to test, packed: of every picture a byte for its label, then its pixels."""
    with tarfile.open(path) as packed:
        parts = [
            np.frombuffer(packed.extractfile(f"cifar-10-batches-bin/{file}").read(), np.uint8) for file in CIFAR_FILES
        ]
    records = [part.reshape(-1, 1 + 3 * 32 * 32) for part in parts]
    train, test = (
        (frozen(rows[:, 1:].reshape(-1, 3, 32, 32)), frozen(rows[:, 0].astype(np.int64)))
        for rows in (np.concatenate(records[:-1]), records[-1])
    )
    return train, test


#: Length of SuperSpike's patterns, after which they begin again, in seconds; channels of each.
OXFORD_PERIOD, OXFORD_CHANNELS = 1.89, 200


def oxford(dt: Quantity) -> tuple[np.ndarray, np.ndarray]:
    """The frozen input and the target of SuperSpike's published example: Zenke & Ganguli 2018, Neural Comput 30:1514.

    Parameters
    ----------
    dt : Quantity
        Time step, which must divide the period of 1.89 s; the published one is 0.1 ms. Spikes of one neuron that fall
        into one step are one spike.

    Returns
    -------
    inputs, target : bool arrays ``(time, 200)``
        One period: Poisson spikes near 5 Hz, and the picture, row k of it being neuron k. Shared and read-only.

    Raises
    ------
    DatasetError
        A file is neither in ``LOCALPLAST_DATA`` nor can it be downloaded, or it is not the original.
    ValueError
        The period is not a whole number of steps.
    """
    steps = round(OXFORD_PERIOD / float(dt))
    if not math.isclose(steps * float(dt), OXFORD_PERIOD, rel_tol=1e-9):
        raise ValueError(f"dt = {dt} does not divide the period of 1.89 s; use for example 0.1*ms or 1*ms")
    return read_oxford(steps)


@functools.lru_cache(maxsize=4)
def read_oxford(steps: int) -> tuple[np.ndarray, np.ndarray]:
    first = {"oxford-input.ras": 0, "oxford-target.ras": 1}  # one file counts neurons from 0, the other from 1
    files = [(locate("superspike_oxford", file), base) for file, base in first.items()]
    inputs, target = (frozen(read_ras(path, OXFORD_PERIOD / steps, steps, base)) for path, base in files)
    return inputs, target


def read_ras(path: str | Path, dt: float, steps: int, base: int) -> np.ndarray:
    """A text file of spikes, one per line as ``seconds neuron``, as a raster ``(time, neuron)``."""
    times, neurons = np.loadtxt(path, ndmin=2).T
    raster = np.zeros((steps, OXFORD_CHANNELS), bool)
    raster[np.floor(times / dt + 1e-6).astype(int), neurons.astype(int) - base] = True  # a spike at k*dt is in step k
    return raster


@dataclass(frozen=True, eq=False)
class Events:
    """Recordings of an event camera; ``events[index]`` are those of some recordings.

    Parameters
    ----------
    x, y, polarity : uint8 arrays ``(event,)``
        Pixel, from 0, and 1 where it became brighter, 0 where it became darker.
    t : uint32 array ``(event,)``
        In microseconds from the start of a recording.
    offsets : int array ``(recording + 1,)``
        Recording i holds the events from ``offsets[i]`` to ``offsets[i + 1]``.
    size : int
        Width and height, in pixels.
    """

    x: np.ndarray
    y: np.ndarray
    polarity: np.ndarray
    t: np.ndarray
    offsets: np.ndarray
    size: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> "Events":
        chosen = np.atleast_1d(np.arange(len(self))[index])
        lengths = np.diff(self.offsets)[chosen]
        events = np.concatenate([np.arange(self.offsets[i], self.offsets[i + 1]) for i in chosen] or [np.zeros(0, int)])
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return Events(self.x[events], self.y[events], self.polarity[events], self.t[events], offsets, self.size)

    def raster(self, dt: Quantity, steps: int, *, pool: int = 1) -> np.ndarray:
        """The events as spikes, bool ``(recording, time, 2*(size/pool)**2)``.

        Parameters
        ----------
        dt : Quantity
        steps : int
            Length; later events are left out.

        Other arguments
        ---------------
        pool : int
            Pixels in squares of ``pool`` by ``pool`` share a channel. Events of one channel in one step are one spike.

        Channel ``polarity*n**2 + (y//pool)*n + x//pool``, with ``n = size/pool``.
        """
        if self.size % pool:
            raise ValueError(
                f"squares of {pool} by {pool} pixels do not tile the picture; pool must divide {self.size}"
            )
        side = self.size // pool
        recording = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        step = np.floor(self.t * (1e-6 / float(dt)) + 1e-6).astype(int)  # an event at k*dt is in step k
        channel = (self.polarity.astype(int) * side + self.y // pool) * side + self.x // pool
        seen = step < steps
        raster = np.zeros((len(self), steps, 2 * side**2), bool)
        raster[recording[seen], step[seen], channel[seen]] = True
        return raster


@functools.cache
def nmnist_small() -> tuple[tuple[Events, np.ndarray], tuple[Events, np.ndarray]]:
    """A subset of N-MNIST, digits seen by a moving event camera: Orchard et al. 2015, Front Neurosci 9:437.

    1000 recordings of 60000 and 100 of 10000, those of the first images of MNIST: accuracies on it are not comparable
    with published ones. A recording lasts about 0.3 s.

    Returns
    -------
    train, test : pairs ``(events, labels)``
        :class:`Events` of 34 by 34 pixels, and int64 ``(1000,)`` and ``(100,)``.

    Raises
    ------
    DatasetError
        The file is not in ``LOCALPLAST_DATA`` (it cannot be downloaded), or it is not the original.
    """
    file = np.load(locate("nmnist_small", "nmnist_small.npz"), allow_pickle=False)

    def part(name):
        x, y, polarity, t, offsets = (frozen(file[f"{name}_{key}"]) for key in ("x", "y", "p", "t", "offsets"))
        return Events(x, y, polarity, t, offsets, size=34), frozen(file[f"{name}_labels"])

    return part("train"), part("test")


@functools.cache
def mnist1d(points: int | None = None) -> tuple[Labelled, Labelled]:
    """MNIST-1D, digits drawn as short noisy sequences: Greydanus & Kobak 2024, ICML, arXiv:2011.14439.

    Every sample is one of ten templates of 12 points, padded, stretched, shifted, sheared, and sampled. Mean 0 and
    standard deviation 1 over all 5000.

    Parameters
    ----------
    points : int, optional
        Default: the authors' frozen set, of 40 points. Else the same digits in the same order are drawn anew, with so
        many points: noise is drawn on 72, of which 40 keep but every other one or so.

    Returns
    -------
    train, test : pairs ``(samples, labels)``
        ``samples`` float64 ``(4000, points)`` and ``(1000, points)``; ``labels`` int64 ``(4000,)`` and ``(1000,)``. The
        arrays are shared between calls, and read-only.

    Raises
    ------
    DatasetError
        The file is not in ``LOCALPLAST_DATA`` (it cannot be downloaded), or it is not the original.
    """
    file = np.load(locate("mnist1d", "mnist1d.npz"), allow_pickle=False)
    if points is None:
        train, test = ((frozen(file[f"x{part}"]), frozen(file[f"y{part}"])) for part in ("", "_test"))
        return train, test
    check_whole("points", points, 2)
    samples, labels = map(frozen, drawn_digits(file["templates_x"], points))
    return (samples[:4000], labels[:4000]), (samples[4000:], labels[4000:])


def frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
