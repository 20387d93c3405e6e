import copy
import io
import json
import os
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from localplast.errors import LocalplastError
from localplast.runs.store import digest, load_checkpoint, restore_rng, rng_state, save_checkpoint

ARRAYS = {"weight": np.arange(12.0).reshape(3, 4), "in_flight": np.eye(3, dtype=bool), "step": np.array(7)}
DTYPES = hnp.boolean_dtypes() | hnp.integer_dtypes() | hnp.unsigned_integer_dtypes() | hnp.floating_dtypes()
PLAIN = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
IN_TMP = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.checkpoint"


@IN_TMP
@given(arrays=st.dictionaries(NAMES, PLAIN, max_size=4), state=st.dictionaries(st.text(), JSON, max_size=4))
def test_round_trip_keeps_every_bit(path, arrays, state):
    save_checkpoint(path, arrays, state)
    loaded, back = load_checkpoint(path)
    assert back == state
    assert set(loaded) == set(arrays)
    for name, array in arrays.items():
        assert (loaded[name].dtype, loaded[name].shape) == (array.dtype, array.shape)
        assert loaded[name].tobytes() == array.tobytes()


def test_names_may_be_those_of_parameters_and_hold_points(path):
    arrays = {"file": np.zeros(1), "state": np.ones(2), "rec.v": np.zeros(3), "cues_rec/eps": np.ones(4)}
    save_checkpoint(path, arrays, {})
    assert set(load_checkpoint(path)[0]) == set(arrays)


def test_order_in_memory_does_not_matter(path):
    fortran = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    save_checkpoint(path, {"a": fortran, "b": fortran[::-1, ::2]}, {})
    loaded, _ = load_checkpoint(path)
    np.testing.assert_array_equal(loaded["a"], fortran)
    np.testing.assert_array_equal(loaded["b"], fortran[::-1, ::2])


def test_a_failed_write_leaves_the_old_checkpoint_and_nothing_else(path, monkeypatch):
    save_checkpoint(path, ARRAYS, {"update": 1})

    def fail(*_):
        raise OSError("disk gone")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk gone"):
        save_checkpoint(path, ARRAYS, {"update": 2})
    assert load_checkpoint(path)[1] == {"update": 1}
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_truncated_file_is_refused_wherever_it_ends(path):
    save_checkpoint(path, ARRAYS, {"update": 1})
    content = path.read_bytes()
    for end in range(0, len(content) - 1, 13):
        path.write_bytes(content[:end])
        with pytest.raises(LocalplastError, match="truncated or not a localplast checkpoint"):
            load_checkpoint(path)


@IN_TMP
@given(data=st.data())
def test_an_altered_byte_never_gives_other_content(path, data):
    save_checkpoint(path, ARRAYS, {"update": 1})
    content = bytearray(path.read_bytes())
    where = data.draw(st.integers(0, len(content) - 1))
    content[where] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        loaded, state = load_checkpoint(path)
    except LocalplastError:
        return
    assert state == {"update": 1}  # the byte meant nothing: a date in the archive
    assert all(np.array_equal(loaded[name], ARRAYS[name]) for name in ARRAYS)


def test_content_that_does_not_match_its_checksum_is_named_damaged(path):
    members = {"array.a": np.zeros(2), "state": np.frombuffer(b'{"format": 1, "state": {}}', np.uint8)}
    np.savez(open(path, "wb"), **members, sha256=np.zeros(32, np.uint8))
    with pytest.raises(LocalplastError, match="does not match its checksum"):
        load_checkpoint(path)


def test_another_format_version_is_refused(path):
    members = {"state": np.frombuffer(b'{"format": 99, "state": {}}', np.uint8)}
    np.savez(open(path, "wb"), **members, sha256=np.frombuffer(digest(members), np.uint8))
    with pytest.raises(LocalplastError, match="format 99, not 2"):
        load_checkpoint(path)


class Bomb:
    def __reduce__(self):
        return os.mkdir, (os.environ["BOMB"],)


@pytest.mark.parametrize("how", ["pickle", "npy", "npz"])
def test_pickled_objects_are_refused_and_not_executed(path, tmp_path, monkeypatch, how):
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    stream = io.BytesIO()
    bombs = np.array([Bomb()], dtype=object)
    if how == "pickle":
        pickle.dump(Bomb(), stream)
    elif how == "npy":
        np.save(stream, bombs, allow_pickle=True)
    else:
        np.savez(stream, **{"array.a": bombs, "state": np.zeros(1, np.uint8), "sha256": np.zeros(32, np.uint8)})
    path.write_bytes(stream.getvalue())
    with pytest.raises(LocalplastError, match="not a localplast checkpoint"):
        load_checkpoint(path)
    assert not (tmp_path / "exploded").exists()


def archived(path, members, **options):
    """A zip file of these texts of members, as somebody else could write it."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def one(path, start, name="a.npy"):
    """A file of one member that begins so, and holds one number."""
    archived(path, {name: start + bytes(8)})


def header(shape, dtype="<f8"):
    """The beginning of an ``.npy`` file, which is all of it."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def twice(path):
    """One member under two names."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", header((1000,)) + bytes(8000))
        other = copy.copy(archive.filelist[0])
        other.filename = "b.npy"
        archive.filelist.append(other)


#: Files that say more than they hold, or something else, and what is told of each.
BOMBS = {
    "compressed": (
        lambda path: archived(path, {"a.npy": bytes(10**8)}, compression=zipfile.ZIP_DEFLATED), "'a.npy' is compressed",
    ),
    "compressed by numpy": (
        lambda path: np.savez_compressed(open(path, "wb"), a=np.zeros(10**7)), "'a.npy' is compressed",
    ),
    "a long axis": (
        lambda path: one(path, header((10**12,))), r"has shape \(1000000000000,\) \(float64\), in 8 bytes",
    ),
    "a negative axis": (lambda path: one(path, header((-1,))), r"shape \(-1,\)"),
    "objects": (lambda path: one(path, header((1,), "|O")), r"'a.npy' holds no plain numbers \(object\)"),
    "records": (lambda path: one(path, header((1,), [("x", "<f8")])), "holds no plain numbers"),
    "long texts": (lambda path: one(path, header((1,), "<U1000000")), "holds no plain numbers"),
    "a way up": (lambda path: one(path, header((1,)), "../../a.npy"), "'../../a.npy' has a name that leads elsewhere"),
    "a way from the root": (lambda path: one(path, header((1,)), "/a.npy"), "'/a.npy' has a name that leads"),
    "one over another": (twice, "say that they hold 16256 bytes, in a file of"),
    "holes": (lambda path: (path.touch(), os.truncate(path, 2**40)), "File is not a zip file"),
}  # fmt: skip


@pytest.mark.parametrize("what", BOMBS)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_what_says_more_than_it_holds_is_refused_before_memory_is_taken(what, path):
    write, message = BOMBS[what]
    write(path)
    tracemalloc.start()
    try:
        with pytest.raises(LocalplastError, match=f"not a localplast checkpoint: .*{message}"):
            load_checkpoint(path)
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


def test_more_than_all_memory_is_refused(path, monkeypatch):
    save_checkpoint(path, {"a": np.zeros(1000)}, {})
    monkeypatch.setattr("localplast.memory.installed", lambda: 5000)
    with pytest.raises(LocalplastError, match="its content: 0 GB, more than all the memory of this machine"):
        load_checkpoint(path)


def test_foreign_and_missing_files_are_refused(path, tmp_path):
    with pytest.raises(LocalplastError, match="cannot read the checkpoint"):
        load_checkpoint(path)
    with pytest.raises(LocalplastError, match="cannot read the checkpoint"):
        load_checkpoint(tmp_path)
    np.save(open(path, "wb"), np.zeros(3))
    with pytest.raises(LocalplastError, match="not a localplast checkpoint"):
        load_checkpoint(path)


def test_objects_are_not_saved(path):
    with pytest.raises(LocalplastError, match="'a' has dtype object"):
        save_checkpoint(path, {"a": np.array([None])}, {})
    with pytest.raises(LocalplastError, match="must be JSON data"):
        save_checkpoint(path, {}, {"rng": np.random.default_rng()})
    assert not path.exists()


def draws(generator):
    """Numbers of several kinds: an odd count of 32-bit integers leaves half a word in the generator."""
    integers = generator.integers if isinstance(generator, np.random.Generator) else generator.randint
    return np.concatenate([generator.random(3), generator.standard_normal(3), integers(0, 99, 3)])


def through_json(state):
    return json.loads(json.dumps(state))


@pytest.mark.parametrize("kind", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
@pytest.mark.parametrize("make", [np.random.Generator, np.random.RandomState])
def test_a_generator_goes_on_where_it_was(make, kind):
    generator = make(getattr(np.random, kind)(3))
    draws(generator)
    generator.standard_normal()  # legacy generators keep the second number of a pair
    state = through_json(rng_state(generator))
    expected = draws(generator)
    np.testing.assert_array_equal(draws(restore_rng(state)), expected)
    np.testing.assert_array_equal(draws(restore_rng(state, into=generator)), expected)


def test_the_global_generator_is_restored_in_place():
    before = np.random.get_state()
    try:
        np.random.seed(5)
        state = through_json(rng_state(np.random))
        expected = np.random.rand(4)
        assert restore_rng(state, into=np.random) is np.random
        np.testing.assert_array_equal(np.random.rand(4), expected)
    finally:
        np.random.set_state(before)


def test_a_state_of_another_generator_is_refused():
    state = rng_state(np.random.default_rng(1))
    with pytest.raises(LocalplastError, match="PCG64 Generator does not fit"):
        restore_rng(state, into=np.random.Generator(np.random.Philox(1)))
    with pytest.raises(LocalplastError, match="does not fit"):
        restore_rng(state, into=np.random.RandomState(1))
    state["state"]["map"]["bit_generator"] = "seterr"
    with pytest.raises(LocalplastError, match="unknown random generator 'seterr'"):
        restore_rng(state)


def test_a_checkpoint_holds_generators(path):
    generator = np.random.default_rng(2)
    save_checkpoint(path, ARRAYS, {"rng": rng_state(generator)})
    expected = generator.random(5)
    np.testing.assert_array_equal(restore_rng(load_checkpoint(path)[1]["rng"]).random(5), expected)
