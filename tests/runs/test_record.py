"""A record holds what was added to it, with units and axes, in memory and on disk, while the run goes on."""

import itertools
import json
import threading
import tracemalloc

import numpy as np
import pytest
import xarray as xr
import zarr
from brian2 import Quantity, amp, ms, mV, volt
from hypothesis import given, settings
from hypothesis import strategies as st

from localplast.errors import LocalplastError, LocalplastWarning, NetworkError
from localplast.files import decode
from localplast.network import Input, Network, Population
from localplast.neuron import NeuronModel
from localplast.runs.record import Recorder, open_record
from localplast.runs.request import Request

# What comes back


@settings(max_examples=40, deadline=None)
@given(data=st.data(), trials=st.lists(st.integers(0, 3), min_size=1, max_size=4), steps=st.integers(1, 9))
def test_states_come_back_for_any_shape_stride_and_subset(net, data, trials, steps):
    every = data.draw(st.integers(1, 12))
    neurons = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True))
    request = Request.parse(net, ["rec.v"], every=every, neurons=neurons)
    recorder, whole = Recorder(net, request), np.random.default_rng(0).random((sum(trials), steps, 4))
    for part in np.split(whole, np.cumsum(trials)[:-1]):
        recorder.add("rec", "v", request.entries[0].select(part))
    v = recorder.tree()["rec"].v
    assert v.dims == ("trial", "time", "neuron")
    np.testing.assert_array_equal(v, whole[:, ::every][:, :, neurons])
    np.testing.assert_array_equal(v.time, np.arange(0, steps, every) * 0.5e-3)
    np.testing.assert_array_equal(v.neuron, neurons)


@settings(max_examples=6, deadline=None)
@given(flushes=st.lists(st.booleans(), min_size=1, max_size=5))
def test_disk_and_memory_give_the_same_record(net, tmp_path_factory, flushes, made_up):
    path = tmp_path_factory.mktemp("record") / "run.zarr"
    request = Request.parse(net, made_up.wanted)
    with Recorder(net, request) as kept, Recorder(net, request, path=path) as written:
        for update, flush in enumerate(flushes):
            made_up.feed(kept, [update])
            made_up.feed(written, [update], after=written.flush if flush else lambda: None)
    xr.testing.assert_identical(made_up.undated(kept.tree()), made_up.undated(open_record(path)))
    made_up.check(open_record(path), len(flushes))


def test_large_trials_are_split_into_chunks_and_come_back(net, path):
    v = np.random.default_rng(0).random((3, 70_000, 4))
    with Recorder(net, Request.parse(net, ["rec.v"]), path=path) as recorder:
        for trial in v:
            recorder.add("rec", "v", trial[None])
            recorder.flush()
    chunks = zarr.open_group(str(path), mode="r")["rec/v"].chunks
    assert chunks[0] == 1 and chunks[1] < 70_000
    np.testing.assert_array_equal(open_record(path)["rec"].v, v)


def test_units_axes_and_origin_are_said(net, made_up):
    given = {"backend": "brian2", "codegen": "numpy", "seed": 3}
    recorder = Recorder(net, Request.parse(net, made_up.wanted), provenance=given)
    made_up.feed(recorder, range(2))
    tree = recorder.tree()
    units = {"v": "V", "spike_time": "s", "time": "s", "spike_count": "1"}
    assert {name: tree["rec"][name].attrs["units"] for name in units} == units
    assert tree["out"].v.attrs["units"] == "1"
    assert tree["cues_rec"].weight.attrs["units"] == "V"
    assert tree["rec"].spike_time.attrs["duration"] == made_up.steps * 0.5e-3
    assert all("units" in variable.attrs for node in tree.leaves for variable in node.variables.values())
    assert tree["cues_rec"].weight.dims == ("update", "pre", "post")
    assert tree["rec_out"].weight.dims == ("pre", "post")
    assert (tree["rec"].attrs["kind"], tree["rec"].attrs["model"]) == ("population", "leaky")
    assert (tree["cues_rec"].attrs["kind"], tree["cues_rec"].attrs["pre"]) == ("projection", "cues")
    assert {"localplast", "brian2", "torch", "numpy", "date"} <= set(tree.attrs)
    assert {**given, "dt": 5e-4}.items() <= tree.attrs.items()
    assert json.loads(tree.attrs["method"]) == {"rec": "exact", "out": "exact"}


def test_the_nodes_of_the_network_can_be_rebuilt_from_the_record(net):
    types = {cls.__name__: cls for cls in (Population, Input, NeuronModel)}
    nodes = decode(json.loads(Recorder(net, Request.parse(net)).tree().attrs["nodes"]), types)
    assert nodes["rec"] == net.nodes["rec"]


def test_no_quantity_reaches_a_record(net, path, made_up):
    recorder = Recorder(net, Request.parse(net, made_up.wanted), path=path, provenance={"seed": 1})
    v, z = made_up.block(0)
    recorder.add("rec", "v", recorder.request.find("rec", "v").select(v) * volt)
    recorder.add("out", "v", v[..., :2])
    recorder.add_spikes("rec", *np.nonzero(z), shape=z.shape[:2])
    recorder.add_metrics(update=0, loss=0.5, simulated=3 * ms)
    recorder.set_weights("cues_rec", np.ones((3, 4)) * mV)
    buffered = [rows for series in recorder.series.values() for rows in series.blocks]
    assert not any(isinstance(rows, Quantity) for rows in buffered)
    recorder.close()
    tree = open_record(path)
    variables = [variable for node in tree.subtree for variable in node.variables.values()]
    assert all(type(variable.values) is np.ndarray for variable in variables)
    attrs = [value for each in [*tree.subtree, *variables] for value in each.attrs.values()]
    assert attrs and all(type(value) in (str, int, float, bool) for value in attrs)
    assert (tree["metrics"].simulated.item(), tree["metrics"].simulated.attrs["units"]) == (0.003, "s")
    np.testing.assert_array_equal(tree["rec"].v, v[:, ::2, [0, 3]])
    np.testing.assert_array_equal(tree["cues_rec"].weight, np.full((3, 4), 1e-3))


def test_what_is_added_is_copied(net):
    recorder, buffer = Recorder(net, Request.parse(net, ["out.v"])), np.ones((1, 2, 2))
    recorder.add("out", "v", buffer)
    buffer[:] = 0
    assert recorder.tree()["out"].v.values.all()


def test_raster_and_events_tell_the_same(net, made_up):
    recorder = Recorder(net, Request.parse(net, ["rec.raster", "rec.spikes"], neurons=[3, 1]))
    _, z = made_up.block(0)
    recorder.add("rec", "raster", z[..., [3, 1]])
    shuffled = np.random.default_rng(0).permutation(np.argwhere(z)).T
    recorder.add_spikes("rec", *shuffled, shape=z.shape[:2])
    rec = recorder.tree()["rec"]
    assert rec.spikes.dtype == bool and rec.spikes.dims == ("trial", "time", "neuron")
    rebuilt = xr.zeros_like(rec.spikes)
    rebuilt.loc[{"trial": rec.spike_trial, "time": rec.spike_time, "neuron": rec.spike_neuron}] = True
    assert rebuilt.equals(rec.spikes)
    order = list(zip(rec.spike_trial.values, rec.spike_time.values, rec.spike_neuron.values, strict=True))
    assert order == sorted(order)


def test_silent_trials_count(net, made_up):
    recorder = Recorder(net, Request.parse(net, ["rec.spikes"]))
    recorder.add_spikes("rec", [], [], [], shape=(2, made_up.steps))
    recorder.add_spikes("rec", [1], [0], [2], shape=(3, made_up.steps))
    rec = recorder.tree()["rec"]
    assert rec.spike_count.values.tolist() == [0, 0, 0, 1, 0]
    assert rec.spike_trial.values.tolist() == [3]


def test_a_metric_that_comes_and_goes_is_nan_where_it_lacks(net):
    recorder = Recorder(net, Request.parse(net))
    recorder.add_metrics(update=0, loss=1.0)
    recorder.add_metrics(update=5, accuracy=0.5)
    metrics = recorder.tree()["metrics"]
    assert metrics["update"].values.tolist() == [0, 5]
    np.testing.assert_array_equal(metrics.loss, [1.0, np.nan])
    np.testing.assert_array_equal(metrics.accuracy, [np.nan, 0.5])
    assert metrics.loss.sel(update=0) == 1.0


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (
            lambda r: r.add("rec", "raster", np.zeros((1, 3, 2), bool)),
            "'rec.raster' was not asked for; the request has",
        ),
        (
            lambda r: r.add("rec", "v", np.zeros((1, 3, 4))),
            r"rec.v has shape \(1, 3, 4\); give \(trial, time, neuron\)",
        ),
        (lambda r: r.add("rec", "v", np.zeros((1, 4, 2))), "rec.v has 4 steps, and 3 before"),
        (lambda r: r.add("rec", "v", np.zeros((1, 3, 2)) * amp), "rec.v is measured in V, not in A"),
        (lambda r: r.add("rec", "v", np.full((1, 3, 2), None)), "rec.v is not made of plain numbers"),
        (lambda r: r.add("rec", "v", np.zeros((1, 3, 2), complex)), "rec.v is not made of plain numbers"),
        (lambda r: r.add("out", "v", np.zeros((1, 6, 2))), "out.v changes during the run"),
        (lambda r: r.add_spikes("rec", [0], [0], [4], shape=(1, 6)), "neuron of rec.spikes must be whole numbers"),
        (lambda r: r.add_spikes("rec", [0], [6], [0], shape=(1, 6)), "time_step of rec.spikes must be whole numbers"),
        (lambda r: r.add_spikes("rec", [-1], [0], [0], shape=(1, 6)), "trial of rec.spikes must be whole numbers"),
        (lambda r: r.add_spikes("rec", [0, 0], [0], [0], shape=(1, 6)), "different lengths"),
        (lambda r: r.add_spikes("rec", [0], [0], [0], shape=(1, 7)), "changes during the run"),
        (lambda r: r.add_metrics(update=0, loss=1.0), "metrics: update 0 comes after update 0; updates must grow"),
        (lambda r: r.add_metrics(update=1, loss=np.zeros(2)), r"metrics/loss has shape \(2,\)"),
        (lambda r: r.add_metrics(update=1, loss=1 * volt), "metrics/loss has shape .* unit V"),
        (lambda r: r.set_weights("rec_rec", np.zeros((4, 4))), "there is no projection 'rec_rec'"),
        (lambda r: r.set_weights("cues_rec", np.zeros((4, 3)), update=1), "which is not its"),
        (lambda r: r.set_weights("cues_rec", np.zeros((3, 4)) * amp, update=1), "is measured in V, not in A"),
        (lambda r: r.set_weights("cues_rec", np.zeros((3, 4))), "along training or as the latest, not both"),
        (lambda r: r.set_weights("rec_out", np.zeros((4, 2), "m8[s]")), "is not made of plain numbers"),
        (lambda r: r.set_weights("rec_out", np.zeros((4, 2), np.longdouble)), "rec_out.weight changes during the run"),
        (lambda r: r.set_weights("cues_rec", np.zeros((3, 4)), update=0), "cues_rec: update 0 comes after update 0"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_the_record_as_it_was(net, add, message, made_up):
    recorder = Recorder(net, Request.parse(net, made_up.wanted))
    made_up.feed(recorder, [0])
    if "out.v" in message:
        recorder.series["out/v"].dtype = np.dtype("f4")  # as if single precision had come first
    with pytest.raises(NetworkError, match=message):
        add(recorder)
    made_up.check(recorder.tree(), 1)
    made_up.feed(recorder, [1]) if "out.v" not in message else None
    made_up.check(recorder.tree(), 1 if "out.v" in message else 2)


def test_a_part_called_metrics_is_refused(net):
    clash = Network(dt=1 * ms, metrics=Input(1))
    with pytest.raises(NetworkError, match="'metrics' is a part of records"):
        Recorder(clash, Request.parse(clash))


# On disk, while the run goes on


def test_only_whole_trials_are_visible(net, path, made_up):
    recorder = Recorder(net, Request.parse(net, ["rec.v", "rec.spikes"]), path=path)
    recorder.add("rec", "v", np.zeros((2, made_up.steps, 4)))
    recorder.flush()
    assert open_record(path)["rec"].sizes["trial"] == 0
    recorder.add_spikes("rec", [0], [1], [2], shape=(1, made_up.steps))
    recorder.flush()
    assert open_record(path)["rec"].sizes == {"trial": 1, "time": made_up.steps, "neuron": 4, "spike": 1}
    with pytest.raises(LocalplastError, match="cannot be closed: the numbers of trials differ"):
        recorder.close()
    assert open_record(path).attrs["complete"] is False


def test_a_record_can_be_opened_while_it_is_written_and_says_so(net, path, made_up):
    recorder = Recorder(net, Request.parse(net, made_up.wanted), path=path)
    assert not open_record(path).children
    made_up.feed(recorder, [0, 1], after=recorder.flush)
    early = open_record(path)
    made_up.feed(recorder, [2])
    made_up.check(open_record(path), 2)
    made_up.check(recorder.tree(), 3)
    made_up.check(early, 2)
    assert early.attrs["complete"] is False
    recorder.close()
    assert open_record(path).attrs["complete"] is True


def test_a_reader_beside_a_writer_always_sees_whole_updates(net, path, made_up):
    recorder = Recorder(net, Request.parse(net, made_up.wanted), path=path)
    enough, seen = threading.Event(), []
    updates = itertools.takewhile(lambda _: not enough.is_set(), itertools.count())
    writer = threading.Thread(target=made_up.feed, args=(recorder, updates, recorder.flush))
    writer.start()
    try:
        while len(set(seen)) < 5:
            assert writer.is_alive()
            tree = open_record(path)
            seen.append(tree["metrics"].sizes["update"] if "metrics" in tree.children else 0)
            made_up.check(tree, seen[-1])
    finally:
        enough.set()
        writer.join()
    assert seen == sorted(seen)


@pytest.mark.parametrize("on_disk", [False, True])
def test_nothing_changes_a_closed_record(net, path, on_disk, made_up):
    recorder = Recorder(net, Request.parse(net, made_up.wanted), path=path if on_disk else None)
    made_up.feed(recorder, [0])
    recorder.close()
    for change in (lambda: made_up.feed(recorder, [1]), lambda: recorder.set_weights("rec_out", np.ones((4, 2)))):
        with pytest.raises(LocalplastError, match="this record is closed"):
            change()
    recorder.flush()
    recorder.close()
    assert recorder.tree().attrs["complete"] is True
    assert not recorder.tree()["rec_out"].weight.any()


def test_an_error_leaves_the_record_so_far_incomplete(net, path, made_up):
    with pytest.raises(ZeroDivisionError), Recorder(net, Request.parse(net, made_up.wanted), path=path) as recorder:
        made_up.feed(recorder, [0])
        raise ZeroDivisionError
    made_up.check(open_record(path), 1)
    assert open_record(path).attrs["complete"] is False


def test_plain_xarray_opens_a_finished_record(net, path, made_up):
    with Recorder(net, Request.parse(net, made_up.wanted), path=path) as recorder:
        made_up.feed(recorder, range(3))
    with xr.open_datatree(path, engine="zarr", consolidated=False) as tree:
        made_up.check(tree, 3)
        assert tree["rec"].v.attrs["units"] == "V"


def test_records_are_read_lazily(net, path, made_up):
    with Recorder(net, Request.parse(net, made_up.wanted), path=path) as recorder:
        made_up.feed(recorder, range(2))
    assert not open_record(path)["rec"].v._in_memory
    assert open_record(path)["rec"].v[0, 1].values.shape == (2,)


def test_memory_does_not_grow_with_the_run(net, path):
    recorder = Recorder(net, Request.parse(net, ["rec.v", "rec.spikes"]), path=path)
    trial, everywhere = np.zeros((1, 10_000, 4)), np.argwhere(np.ones((1, 2_000, 4))).T

    def go_on(n):
        for _ in range(n):
            recorder.add("rec", "v", trial)
            recorder.add_spikes("rec", *everywhere, shape=(1, 10_000))
            recorder.flush()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before, after = go_on(3), go_on(12)
    finally:
        tracemalloc.stop()
    assert after - before < trial.nbytes
    assert not any(series.blocks for series in recorder.series.values())


def test_an_existing_path_is_not_overwritten(net, path, made_up):
    Recorder(net, Request.parse(net, made_up.wanted), path=path)
    with pytest.raises(LocalplastError, match="exists; remove it, give another path, or go on"):
        Recorder(net, Request.parse(net, made_up.wanted), path=path)


@pytest.mark.parametrize("rows", [np.zeros, np.ones])
def test_what_is_lost_is_told_and_no_number(net, path, rows, made_up):
    """A file that is gone takes its numbers with it, floats, counts and bits; zeros are written and stay zeros."""
    request = Request.parse(net, ["rec.v", "rec.raster", "out.v"])
    with Recorder(net, request, path=path) as recorder:
        for key, size, dtype in (("rec.v", 4, float), ("rec.raster", 4, bool), ("out.v", 2, float)):
            recorder.add(*key.split("."), rows((3, made_up.steps, size), dtype))
        recorder.add_metrics(update=1, loss=0.0)
    whole = open_record(path)
    assert (whole["rec"]["v"] == rows(1)).all() and (whole["out"]["v"] == rows(1)).all()
    for key in ("rec/v", "rec/spikes", "metrics/update"):
        for chunk in (path / key / "c").rglob("*"):
            chunk.is_file() and chunk.unlink()
    with pytest.warns(LocalplastWarning, match="damaged: files of metrics/update, rec/spikes, rec/v are missing"):
        left = open_record(path)
    assert (
        left["rec"]["v"].isnull().all()
        and left["rec"]["spikes"].isnull().all()
        and left["metrics"]["update"].isnull().all()
    )
    assert (left["out"]["v"] == rows(1)).all() and float(left["metrics"]["loss"][0]) == 0
    assert (left["rec"]["v"].dims, left["rec"]["v"].attrs) == (whole["rec"]["v"].dims, whole["rec"]["v"].attrs)
    assert np.isnan(zarr.open_group(str(path), mode="r")["rec/v"][:]).all()  # whoever reads it


def test_one_chunk_of_many(net, path, monkeypatch):
    monkeypatch.setattr("localplast.runs.store.CHUNK_ROWS", 2)
    with Recorder(net, Request.parse(net, []), path=path) as recorder:
        for update in range(5):
            recorder.add_metrics(update=update, loss=float(update))
    (path / "metrics/loss/c/1").unlink()
    with pytest.warns(LocalplastWarning, match="metrics/loss"):
        np.testing.assert_array_equal(open_record(path)["metrics"]["loss"], [0, 1, np.nan, np.nan, 4])
