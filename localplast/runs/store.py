"""What a run leaves on disk to go on from: the store that grows behind a record, and checkpoints.

A store is readable at every moment, after a kill too. Each of its files is written under a temporary name and renamed
(zarr's ``LocalStore`` does so). A flush first writes rows behind the visible ones and then, by renaming one file,
``position``: how many rows of each variable are visible. A reader takes ``position`` first and looks no further.

A checkpoint is one file, renamed into place when it is complete. Reading either never executes anything.
"""

import contextlib
import hashlib
import io
import json
import math
import shutil
import warnings
from pathlib import Path

import numpy as np
import zarr
from zarr.errors import ZarrUserWarning

from localplast.errors import LocalplastError, NetworkError
from localplast.files import atomic_write, decode, encode
from localplast.memory import check_memory
from localplast.runs.archive import pack, unpack
from localplast.runs.zstd import content_size

__all__ = ["begun", "check_free", "load_checkpoint", "replacement", "restore_rng", "rng_state", "save_checkpoint"]

#: Versions of the layouts on disk. Stores of format 1 left out chunks that were all zero.
STORE_FORMAT, CHECKPOINT_FORMAT = 2, 2
READABLE = (1, STORE_FORMAT)
#: Zarr's default, to leave out chunks that hold the fill value, would hide the loss of one.
WHOLE = {"write_empty_chunks": True}
#: Numbers only (bool, integers, floats): anything else could need code to be read.
PLAIN_KINDS = "biuf"
#: What stores are written with: Zstandard says in its headers how large a file is when it is unpacked.
PLAIN_CODECS, COMPRESSED = ("BytesCodec", "ZstdCodec"), zarr.codecs.ZstdCodec(level=0)
#: More chunks of a megabyte than anybody keeps.
MOST_CHUNKS = 10**6
#: Chunks of at most this size: few files, and cheap to rewrite when rows are appended to one.
CHUNK_BYTES, CHUNK_ROWS = 2**20, 2**16
GROWING = ("trial", "update", "spike")
BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


class Series:
    """One variable of a record: the rows that are not on disk yet, and how many are.

    Rows are added along the first of ``dims``; ``tail`` is the shape of one row.
    """

    def __init__(self, dims, dtype, tail, attrs, *, array=None, stored=0):
        self.dims, self.dtype, self.tail, self.attrs = tuple(dims), np.dtype(dtype), tuple(tail), attrs
        self.array, self.stored, self.blocks = array, stored, []
        self.length = stored  # number of rows, on disk and in memory

    def append(self, what, rows, attrs, *, replace=False):
        """Add rows, which must look like the earlier ones; or ``replace`` those, at the next flush on disk too."""
        if rows.shape[1:] != self.tail or not np.can_cast(rows.dtype, self.dtype) or attrs != self.attrs:
            raise NetworkError(
                f"{what} changes during the run: a row had shape {self.tail}, dtype {self.dtype} and {self.attrs}, "
                f"now {rows.shape[1:]}, {rows.dtype} and {attrs}"
            )
        if replace:
            self.blocks, self.stored, self.length = [], 0, 0
        self.blocks.append(rows.astype(self.dtype, copy=False))
        self.length += len(rows)

    def pending(self, n):
        """The rows in memory, up to row number ``n`` of all."""
        if len(self.blocks) != 1:
            self.blocks = [np.concatenate([np.empty((0, *self.tail), self.dtype), *self.blocks])]
        return self.blocks[0][: n - self.stored]

    def write(self, root, key, n):
        """Write the rows up to number ``n`` to disk, behind the visible ones; :meth:`drop` them later."""
        rows = self.pending(n)
        if self.array is None:
            self.array = root.create_array(
                key,
                shape=(0, *self.tail),
                dtype=self.dtype,
                chunks=self.chunks(),
                dimension_names=self.dims,
                attributes=self.attrs,
                overwrite=True,
                config=WHOLE,
                compressors=COMPRESSED,
                fill_value=np.nan if self.dtype.kind == "f" else 0,
            )
        if len(rows):
            if self.array.shape[0] < n:
                self.array.resize((n, *self.tail))
            self.array[self.stored : n] = rows

    def drop(self, n):
        """Forget the rows up to number ``n``, which are on disk."""
        rest = self.blocks[0][n - self.stored :]
        self.blocks, self.stored = [rest.copy()] if len(rest) else [], n

    def cut(self, n):
        """Forget the rows behind number ``n``, none of which is on disk."""
        self.blocks, self.length = [self.pending(n).copy()], n

    def trim(self, n):
        """Remove the rows on disk behind number ``n``, left by a run that was rewound."""
        if self.array.shape[0] > n:
            self.array.resize((n, *self.tail))

    def chunks(self):
        """Shape of a chunk. A variable that is replaced as a whole is one chunk, so that replacing is one rename."""
        row = self.dtype.itemsize * math.prod(self.tail)
        tail = tuple(max(1, n) for n in self.tail)
        if self.dims[0] not in GROWING:
            return (max(1, self.length), *tail)
        if row <= CHUNK_BYTES:
            return (min(CHUNK_ROWS, CHUNK_BYTES // max(1, row)), *tail)
        return (1, max(1, CHUNK_BYTES * tail[0] // row), *tail[1:])


def create_store(path, attrs):
    """A new Zarr group at ``path``, with nothing visible in it."""
    check_free(path)
    attrs = {**attrs, "localplast_record": STORE_FORMAT, "position": {}}
    return zarr.create_group(str(path), zarr_format=3, attributes=attrs)


def begun(path):
    """Whether a record was begun at ``path``: its first file is there."""
    return Path(path, "zarr.json").exists()


def check_free(path):
    """Raise unless a record can begin at ``path``: there is nothing, or what a kill left before the first file was
    whole.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(each.suffix != ".partial" for each in path.iterdir())):
        text = f"{path} exists; remove it, give another path, or go on with it by resume=True (--resume)"
        raise LocalplastError(text)


def open_store(path, mode="r"):
    """The Zarr group of the record at ``path``, checked to hold plain numbers only.

    Raises
    ------
    LocalplastError
        There is none, it is not a record of this format, or it is damaged.
    """
    try:
        root = zarr.open_group(str(path), mode=mode, zarr_format=3)
        found, position = root.attrs.get("localplast_record"), root.attrs.get("position")
        if found not in READABLE or not isinstance(position, dict):
            raise LocalplastError(f"{path} is not a record of format {STORE_FORMAT} (it says {found!r})")
        for key, n in position.items():
            check_plain(path, key, root[key], n)
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise LocalplastError(f"{path} holds no readable record: {error}") from error
    return root


def check_plain(path, key, array, n):
    """Raise unless an array is what localplast writes: plain numbers in chunks that fit in memory, ``n`` rows."""
    codecs, grid = tuple(type(codec).__name__ for codec in array.metadata.codecs), chunk_grid(array, n)
    if array.dtype.kind not in PLAIN_KINDS or codecs != PLAIN_CODECS:
        raise LocalplastError(f"{path}: {key!r} is not an array of plain numbers ({array.dtype}) and is not opened")
    if type(n) is not int or not 0 <= n <= array.shape[0]:
        raise LocalplastError(f"{path}: {key!r} has {array.shape[0]} of {n} rows; the record is damaged")
    if math.prod(grid) > MOST_CHUNKS:
        text = f"{path}: {key!r} says that it has {math.prod(grid)} chunks, more than {MOST_CHUNKS}; it is not opened"
        raise LocalplastError(text)
    check_memory(f"{path}: a chunk of {key!r}", chunk_bytes(array))


def chunk_grid(array, n):
    """How many chunks the first ``n`` rows have along each axis."""
    return tuple(-(-size // chunk) for size, chunk in zip((n, *array.shape[1:]), array.chunks, strict=True))


def chunk_bytes(array):
    """The size of one chunk in memory."""
    return array.dtype.itemsize * math.prod(array.chunks)


def missing_chunks(path, root, key, n):
    """Where the first ``n`` rows of an array are not on disk, as a list of tuples of slices.

    Raises
    ------
    LocalplastError
        What is on disk is no chunk of this array.
    """
    array, size, lost = root[key], chunk_bytes(root[key]), []
    for at in np.ndindex(*chunk_grid(array, n)):
        there = is_there(Path(path, key, array.metadata.encode_chunk_key(at)), size)
        if not there and root.attrs["localplast_record"] != 1:
            lost.append(tuple(slice(i * chunk, (i + 1) * chunk) for i, chunk in zip(at, array.chunks, strict=True)))
    return lost


def is_there(file, size):
    """Whether there is such a file; raises unless it unpacks to ``size`` bytes: kilobytes may hold gigabytes."""
    if not file.exists():
        return False
    try:
        with open(file, "rb") if file.is_file() else io.BytesIO() as stream:  # no device, whose bytes never end
            found = content_size(stream)
    except FileNotFoundError:  # somebody writes this record
        return False
    if found != size:
        text = f"{file} does not hold the {size} bytes of its chunk: it is damaged, and the record is not opened"
        raise LocalplastError(text)
    return True


def rewind(root, path, position):
    """Make only ``position`` visible (None: what is), and remove what an interrupted flush left."""
    visible = root.attrs["position"]
    position = visible if position is None else position
    if any(n > visible.get(key, -1) for key, n in position.items()):
        raise LocalplastError(f"{path} ends before the position asked for: the checkpoint belongs to another record")
    root.update_attributes({"position": dict(position), "complete": False})
    for stray in Path(path).rglob("*.partial"):
        stray.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)  # of what a kill left half made
        for group in list(root.group_keys()):
            for name in [name for name in root[group].array_keys() if f"{group}/{name}" not in position]:
                del root[f"{group}/{name}"]


@contextlib.contextmanager
def replacement(path):
    """Gives a folder to fill, beside ``path``, whose place it takes once it is whole; what was there goes."""
    path = Path(path)
    new, old = (path.with_name(f".{path.name}.{age}") for age in ("new", "old"))
    for left in (new, old):  # by a kill
        shutil.rmtree(left, ignore_errors=True)
    try:
        yield new
        if path.exists():
            path.rename(old)
        new.rename(path)
    finally:
        for done in (new, old):
            shutil.rmtree(done, ignore_errors=True)


def save_checkpoint(path, arrays, state):
    """Write a checkpoint to one ``.npz`` file, atomically: a kill leaves the old file or the new one.

    Parameters
    ----------
    path : path
    arrays : dict of str to array
        Plain numbers in SI units, any shape.
    state : dict
        JSON data: counters, :func:`rng_state`, the position of the record.

    Raises
    ------
    LocalplastError
        An array of objects, or a state that is not JSON data.
    """
    members = {f"array.{name}": np.asarray(value) for name, value in arrays.items()}
    for name, value in members.items():
        if value.dtype.kind not in PLAIN_KINDS + "c":
            raise LocalplastError(f"a checkpoint holds plain numbers; {name[6:]!r} has dtype {value.dtype}")
    try:
        text = json.dumps({"format": CHECKPOINT_FORMAT, "state": state})
    except (TypeError, ValueError) as error:
        raise LocalplastError(f"the state of a checkpoint must be JSON data: {error}") from None
    members["state"] = np.frombuffer(text.encode(), np.uint8)
    members["sha256"] = np.frombuffer(digest(members), np.uint8)
    atomic_write(path, pack(members))


def load_checkpoint(path):
    """Read ``(arrays, state)``, what :func:`save_checkpoint` wrote.

    Raises
    ------
    LocalplastError
        No such file, not a checkpoint, another format, truncated or altered content, pickled objects.
    """
    try:
        stream = open(path, "rb")
    except OSError as error:
        raise LocalplastError(f"cannot read the checkpoint {path} ({error}); start anew or give another path") from None
    try:
        with stream:
            members = unpack(stream)
        stated = members.pop("sha256").tobytes()
        said = json.loads(members["state"].tobytes())
        version, state, intact = said["format"], said["state"], digest(members) == stated
    except Exception as error:  # in a damaged archive there is no telling what the parsers trip over
        raise LocalplastError(f"{path} is truncated or not a localplast checkpoint: {error}") from error
    if not intact:
        raise LocalplastError(f"the checkpoint {path} is damaged: its content does not match its checksum")
    del members["state"]
    if version != CHECKPOINT_FORMAT:
        raise LocalplastError(f"{path} is a checkpoint of format {version!r}, not {CHECKPOINT_FORMAT}")
    return {name.removeprefix("array."): value for name, value in members.items()}, state


def digest(members):
    """SHA-256 over names, types, shapes and bytes."""
    content = hashlib.sha256()
    for name, value in sorted(members.items()):
        content.update(f"{name}\0{value.dtype.str}\0{value.shape}\0".encode())
        content.update(value.tobytes())
    return content.digest()


def rng_state(generator):
    """The state of a numpy ``Generator``, a legacy ``RandomState`` or the module ``numpy.random``, as JSON data.

    How often a Generator has been spawned from is not part of it.
    """
    if isinstance(generator, np.random.Generator):
        return {"kind": "Generator", "state": encode(generator.bit_generator.state)}
    return {"kind": "RandomState", "state": encode(generator.get_state(legacy=False))}


def restore_rng(state, into=None):
    """The generator that :func:`rng_state` was taken from: a new one, or ``into``, changed in place.

    Raises
    ------
    LocalplastError
        A bit generator that numpy does not have, or ``into`` of the other kind.
    """
    inner = decode(state["state"], {})
    name, legacy = inner["bit_generator"], state["kind"] == "RandomState"
    if name not in BIT_GENERATORS:
        raise LocalplastError(f"unknown random generator {name!r}; known are {', '.join(BIT_GENERATORS)}")
    if into is None:
        source = getattr(np.random, name)()
        into = np.random.RandomState(source) if legacy else np.random.Generator(source)
    try:
        if legacy:
            into.set_state(inner)
        else:
            into.bit_generator.state = inner
    except (AttributeError, ValueError) as error:
        raise LocalplastError(f"the state of a {name} {state['kind']} does not fit {into!r}: {error}") from None
    return into


#: Seconds between two checkpoints, at least.
CHECKPOINT_SECONDS = 20.0
