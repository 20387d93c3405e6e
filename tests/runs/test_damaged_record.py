"""What is no record, or no longer one, is refused by a sentence, and never unpacked."""

import json
import shutil
import tracemalloc

import numpy as np
import pytest
import zarr

from localplast.errors import LocalplastError
from localplast.runs.record import Recorder, open_record
from localplast.runs.request import Request


def plant(path, n=1, **array):
    """Add an array to the record at ``path`` as if a flush had written it, ``n`` rows of it."""
    root = zarr.open_group(str(path), mode="r+")
    root.create_array("out/planted", **array)
    root.update_attributes({"position": {**root.attrs["position"], "out/planted": n}})


@pytest.mark.parametrize(
    "array",
    [
        {"shape": (1,), "dtype": str},
        {"shape": (1,), "dtype": "datetime64[s]"},
        {"data": np.zeros(3), "filters": [zarr.codecs.numcodecs.Delta(dtype="f8")]},
        {"data": np.zeros(3), "compressors": zarr.codecs.GzipCodec()},
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_anything_but_plain_numbers_is_not_opened(net, path, array, made_up):
    with Recorder(net, Request.parse(net, made_up.wanted), path=path) as recorder:
        made_up.feed(recorder, [0])
    plant(path, **array)
    with pytest.raises(LocalplastError, match="'out/planted' is not an array of plain numbers"):
        open_record(path)


def frame(n, size=None):
    """``n`` zeros as Zstandard has them, in one frame that says so, or says nothing."""
    whole = zarr.codecs.ZstdCodec()._zstd_codec.encode(bytes(n))
    if size != "unsaid":
        return whole
    block = (n << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"\0"
    return whole[:4] + b"\0\x58" + block  # no size, a window of 2 MB, one repeated byte


#: Chunks of 8 bytes that are something else.
CHUNKS = {
    "larger": frame(10**8), "smaller": frame(4), "two frames": frame(8) * 2, "of unsaid size": frame(8, "unsaid"),
    "cut": frame(8)[:-1], "cut in its head": frame(8)[:6], "empty": b"", "not packed": bytes(8),
    "a device": "/dev/zero",
}  # fmt: skip


@pytest.fixture(scope="module")
def template(tmp_path_factory, made_up):
    """A record, to be copied and changed."""
    path, net = tmp_path_factory.mktemp("template") / "run.zarr", made_up.net()
    with Recorder(net, Request.parse(net, made_up.wanted), path=path) as recorder:
        made_up.feed(recorder, [0])
    return path


@pytest.mark.sampled(2)
@pytest.mark.parametrize("what", CHUNKS)
def test_a_chunk_that_is_something_else_is_not_read(net, template, path, what, made_up):
    """A file of some kilobytes may fill all memory when it is unpacked, whatever the record says of its size."""
    shutil.copytree(template, path)
    plant(path, data=np.ones(1))
    chunk = path / "out/planted/c/0"
    chunk.unlink()
    if isinstance(CHUNKS[what], str):
        chunk.symlink_to(CHUNKS[what])
    else:
        chunk.write_bytes(CHUNKS[what])
    for read in (open_record, lambda p: Recorder.resume(p, net, Request.parse(net, made_up.wanted))):
        tracemalloc.start()
        with pytest.raises(LocalplastError, match="out/planted/c/0 does not hold the 8 bytes of its chunk"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 10**7
        tracemalloc.stop()


@pytest.mark.parametrize("sizes, message", [
    ({"shape": (10**12,), "chunks": (1000,)}, "'out/planted' says that it has 1000000000 chunks"),
    ({"shape": (10**12,), "chunks": (10**12,)}, "a chunk of 'out/planted': 8000 GB, more than all the memory"),
    ({"shape": (1, 10**6, 10**6), "chunks": (1, 10**6, 10**6)}, "a chunk of 'out/planted': 8000 GB"),
    ({"shape": (1, 10**7), "chunks": (1, 1)}, "says that it has 10000000 chunks"),
])  # fmt: skip
def test_absurd_sizes_are_refused(template, path, sizes, message):
    shutil.copytree(template, path)
    plant(path, dtype=float, n=sizes["shape"][0], **sizes)
    with pytest.raises(LocalplastError, match=message):
        open_record(path)


@pytest.mark.parametrize("dims", [None, ["time"], ["trial"], ["a", "b"]])
def test_axes_that_do_not_fit_are_refused(template, path, dims):
    shutil.copytree(template, path)
    plant(path, data=np.ones(9), dimension_names=dims and dims[:1], n=9)
    if dims and len(dims) > 1:
        file = path / "out/planted/zarr.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "dimension_names": dims}))
    with pytest.raises(LocalplastError, match="holds no readable record"):
        open_record(path)


@pytest.mark.parametrize("rows", [-1, 1.5, True, "1", 10**30])
def test_numbers_of_rows_that_cannot_be_are_refused(template, path, rows):
    shutil.copytree(template, path)
    root = zarr.open_group(str(path), mode="r+")
    root.update_attributes({"position": {**root.attrs["position"], "metrics/loss": rows}})
    with pytest.raises(LocalplastError, match="the record is damaged|holds no readable record"):
        open_record(path)


@pytest.mark.parametrize("key", ["../rec/v", "out", "/etc/passwd", "", "out/../../rec/v"])
def test_odd_names_are_refused(template, path, key):
    shutil.copytree(template, path)
    root = zarr.open_group(str(path), mode="r+")
    root.update_attributes({"position": {**root.attrs["position"], key: 1}})
    with pytest.raises(LocalplastError, match="holds no readable record"):
        open_record(path)


def test_missing_foreign_and_damaged_stores_are_refused(net, path, tmp_path, made_up):
    with pytest.raises(LocalplastError, match="holds no readable record"):
        open_record(path)
    zarr.create_group(str(tmp_path / "foreign"), zarr_format=3)
    with pytest.raises(LocalplastError, match="is not a record of format 2"):
        open_record(tmp_path / "foreign")
    zarr.create_group(str(tmp_path / "old"), zarr_format=2, attributes={"localplast_record": 1, "position": {}})
    with pytest.raises(LocalplastError, match="holds no readable record"):
        open_record(tmp_path / "old")
    with Recorder(net, Request.parse(net, made_up.wanted), path=path) as recorder:
        made_up.feed(recorder, [0])
    zarr.open_group(str(path), mode="r+")["out/v"].resize((1, made_up.steps, 2))
    with pytest.raises(LocalplastError, match="'out/v' has 1 of 2 rows; the record is damaged"):
        open_record(path)
    (path / "out" / "v" / "zarr.json").write_text("{")
    with pytest.raises(LocalplastError, match="holds no readable record"):
        open_record(path)
