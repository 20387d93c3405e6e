import itertools
import json
import os
import random
import shutil
import subprocess
import sys
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
from localplast.network import Input, Network, Population, Projection, normal
from localplast.neuron import NeuronModel
from localplast.runs.record import Recorder, open_record
from localplast.runs.request import Request

STEPS = 6
WANTED = {"rec.v": dict(neurons=[0, 3], every=2), "rec.spikes": {}, "out.v": {}, "cues_rec.weight": {}}


def make_net(tau=20):
    spiking = NeuronModel("leaky", "dv/dt = -v/tau : volt", {"tau": tau * ms, "v_th": 20 * mV}, "v > v_th", "v -= v_th")
    readout = NeuronModel("readout", "dv/dt = -v/tau : 1", {"tau": tau * ms}, output="v")
    return Network(
        dt=0.5 * ms,
        cues=Input(3),
        drive=Input(1, "currents"),
        rec=Population(4, spiking),
        out=Population(2, readout),
        projections=[Projection("cues", "rec", weight=normal(1 * mV)), Projection("rec", "out")],
    )


@pytest.fixture(scope="module")
def net():
    return make_net()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.zarr"


def block(update, trials=2):
    """Made-up activity of one update: ``v`` ``(trial, time, neuron)`` in volts, and which neurons spiked."""
    v = np.random.default_rng(update).random((trials, STEPS, 4))
    return v, v > 0.7


def feed(recorder, updates, after=lambda: None):
    """Add made-up updates as a backend would; every number is a function of the update."""
    for update in updates:
        v, z = block(update)
        recorder.add("rec", "v", recorder.request.find("rec", "v").select(v))
        recorder.add_spikes("rec", *np.nonzero(z), shape=z.shape[:2])
        recorder.add("out", "v", v[..., :2])
        recorder.add_metrics(update=update, loss=0.5**update, **({"accuracy": 0.25} if update % 2 else {}))
        recorder.set_weights("cues_rec", v[0, :3], update=update)
        recorder.set_weights("rec_out", np.full((4, 2), float(update)))
        after()


def undated(tree):
    tree.attrs = {**tree.attrs, "date": "", "complete": ""}
    return tree


def check(tree, updates):
    """Assert that ``tree`` holds exactly the made-up ``updates``, all of its parts to the same one."""
    if not updates:
        assert all(0 in node.sizes.values() or not node.variables for node in tree.leaves if "time" not in node.dims)
        return
    v, z = (np.concatenate(each) for each in zip(*map(block, range(updates)), strict=True))
    np.testing.assert_array_equal(tree["rec"].v, v[:, ::2, [0, 3]])
    np.testing.assert_array_equal(tree["out"].v, v[..., :2])
    trial, step, neuron = np.nonzero(z)
    np.testing.assert_array_equal(tree["rec"].spike_trial, trial)
    np.testing.assert_array_equal(tree["rec"].spike_time, step * 0.5e-3)
    np.testing.assert_array_equal(tree["rec"].spike_neuron, neuron)
    np.testing.assert_array_equal(tree["rec"].spike_count, z.sum((1, 2)))
    np.testing.assert_array_equal(tree["metrics"]["update"], np.arange(updates))
    np.testing.assert_array_equal(tree["metrics"].loss, 0.5 ** np.arange(updates))
    np.testing.assert_array_equal(tree["cues_rec"].weight, np.stack([block(u)[0][0, :3] for u in range(updates)]))


# What is asked for


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("hid.v", r"cannot record 'hid.v': there is no 'hid' in the network; it has \['cues', 'cues_rec', 'drive'"),
        ("rec.u", r"cannot record 'rec.u': of 'rec' there are \['rec.v', 'rec.spikes', 'rec.raster'\]"),
        ("rec", "cannot record 'rec'"),
        ("out.spikes", r"of 'out' there are \['out.v'\]"),
        ("drive.raster", r"of 'drive' there are \['drive.currents'\]"),
        ("cues_rec.delay", r"of 'cues_rec' there are \['cues_rec.weight'\]"),
        ({"rec.v": {"stride": 3}}, "unknown option 'stride'; give every or neurons"),
        ({"rec.v": {"every": 0}}, "every=0 is not a positive whole number"),
        ({"rec.v": {"every": 2.0}}, "every=2.0 is not a positive whole number"),
        ({"rec.raster": {"every": 2}}, "every=2 would lose spikes"),
        ({"cues_rec.weight": {"neurons": [0]}}, "weights are kept whole"),
        ({"rec.v": {"neurons": [4]}}, r"neurons=\[4\]; give different indices from 0 to 3"),
        ({"rec.v": {"neurons": [-1]}}, "give different indices"),
        ({"rec.v": {"neurons": [1, 1]}}, "give different indices"),
        ({"rec.v": {"neurons": [0.5]}}, "give different indices"),
        ({"rec.v": {"neurons": [True, False]}}, "give different indices"),
        ({"rec.v": {"neurons": slice(4, None)}}, "give different indices"),
    ],
)
def test_requests_that_make_no_sense_say_what_there_is(net, wanted, message):
    with pytest.raises(NetworkError, match=message):
        Request.parse(net, wanted if isinstance(wanted, dict) else [wanted])


def test_every_part_of_a_network_can_be_asked_for(net):
    names = ["cues.spikes", "cues.raster", "drive.currents", "rec.v", "out.v", "cues_rec.weight", "rec_out.weight"]
    assert [entry.name for entry in Request.parse(net, names).entries] == names
    assert Request.parse(net, "rec.v").find("rec", "v").neurons.tolist() == [0, 1, 2, 3]
    assert Request.parse(net, "rec.v").find("out", "v") is None


def test_stride_and_subset_apply_to_states_and_options_override_them(net):
    names = {"rec.v": None, "out.v": {"every": 1, "neurons": slice(None)}, "rec.spikes": None, "cues_rec.weight": None}
    v, out, spikes, weight = Request.parse(net, names, every=3, neurons=[3, 1]).entries
    assert (v.every, v.neurons.tolist()) == (3, [3, 1])
    assert (out.every, out.neurons.tolist()) == (1, [0, 1])
    assert (spikes.every, spikes.neurons.tolist()) == (1, [3, 1])
    assert (weight.every, weight.neurons) == (1, None)


def test_series_with_other_axes_get_a_node_of_their_own(net):
    wanted = {"rec.v": {"every": 2}, "rec.raster": {}, "rec.spikes": {}}
    assert [entry.group for entry in Request.parse(net, wanted).entries] == ["rec", "rec.raster", "rec"]
    assert [entry.group for entry in Request.parse(net, ["rec.v", "rec.raster"]).entries] == ["rec", "rec"]


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
def test_disk_and_memory_give_the_same_record(net, tmp_path_factory, flushes):
    path = tmp_path_factory.mktemp("record") / "run.zarr"
    request = Request.parse(net, WANTED)
    with Recorder(net, request) as kept, Recorder(net, request, path=path) as written:
        for update, flush in enumerate(flushes):
            feed(kept, [update])
            feed(written, [update], after=written.flush if flush else lambda: None)
    xr.testing.assert_identical(undated(kept.tree()), undated(open_record(path)))
    check(open_record(path), len(flushes))


def test_large_trials_are_split_into_chunks_and_come_back(net, path):
    v = np.random.default_rng(0).random((3, 70_000, 4))
    with Recorder(net, Request.parse(net, ["rec.v"]), path=path) as recorder:
        for trial in v:
            recorder.add("rec", "v", trial[None])
            recorder.flush()
    chunks = zarr.open_group(str(path), mode="r")["rec/v"].chunks
    assert chunks[0] == 1 and chunks[1] < 70_000
    np.testing.assert_array_equal(open_record(path)["rec"].v, v)


def test_units_axes_and_origin_are_said(net):
    given = {"backend": "brian2", "codegen": "numpy", "seed": 3}
    recorder = Recorder(net, Request.parse(net, WANTED), provenance=given)
    feed(recorder, range(2))
    tree = recorder.tree()
    units = {"v": "V", "spike_time": "s", "time": "s", "spike_count": "1"}
    assert {name: tree["rec"][name].attrs["units"] for name in units} == units
    assert tree["out"].v.attrs["units"] == "1"
    assert tree["cues_rec"].weight.attrs["units"] == "V"
    assert tree["rec"].spike_time.attrs["duration"] == STEPS * 0.5e-3
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


def test_no_quantity_reaches_a_record(net, path):
    recorder = Recorder(net, Request.parse(net, WANTED), path=path, provenance={"seed": 1})
    v, z = block(0)
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


def test_raster_and_events_tell_the_same(net):
    recorder = Recorder(net, Request.parse(net, ["rec.raster", "rec.spikes"], neurons=[3, 1]))
    _, z = block(0)
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


def test_silent_trials_count(net):
    recorder = Recorder(net, Request.parse(net, ["rec.spikes"]))
    recorder.add_spikes("rec", [], [], [], shape=(2, STEPS))
    recorder.add_spikes("rec", [1], [0], [2], shape=(3, STEPS))
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
        (lambda r: r.add("out", "v", np.zeros((1, STEPS, 2))), "out.v changes during the run"),
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
def test_what_does_not_fit_is_refused_and_leaves_the_record_as_it_was(net, add, message):
    recorder = Recorder(net, Request.parse(net, WANTED))
    feed(recorder, [0])
    if "out.v" in message:
        recorder.series["out/v"].dtype = np.dtype("f4")  # as if single precision had come first
    with pytest.raises(NetworkError, match=message):
        add(recorder)
    check(recorder.tree(), 1)
    feed(recorder, [1]) if "out.v" not in message else None
    check(recorder.tree(), 1 if "out.v" in message else 2)


def test_a_part_called_metrics_is_refused(net):
    clash = Network(dt=1 * ms, metrics=Input(1))
    with pytest.raises(NetworkError, match="'metrics' is a part of records"):
        Recorder(clash, Request.parse(clash))


# On disk, while the run goes on


def test_only_whole_trials_are_visible(net, path):
    recorder = Recorder(net, Request.parse(net, ["rec.v", "rec.spikes"]), path=path)
    recorder.add("rec", "v", np.zeros((2, STEPS, 4)))
    recorder.flush()
    assert open_record(path)["rec"].sizes["trial"] == 0
    recorder.add_spikes("rec", [0], [1], [2], shape=(1, STEPS))
    recorder.flush()
    assert open_record(path)["rec"].sizes == {"trial": 1, "time": STEPS, "neuron": 4, "spike": 1}
    with pytest.raises(LocalplastError, match="cannot be closed: the numbers of trials differ"):
        recorder.close()
    assert open_record(path).attrs["complete"] is False


def test_a_record_can_be_opened_while_it_is_written_and_says_so(net, path):
    recorder = Recorder(net, Request.parse(net, WANTED), path=path)
    assert not open_record(path).children
    feed(recorder, [0, 1], after=recorder.flush)
    early = open_record(path)
    feed(recorder, [2])
    check(open_record(path), 2)
    check(recorder.tree(), 3)
    check(early, 2)
    assert early.attrs["complete"] is False
    recorder.close()
    assert open_record(path).attrs["complete"] is True


def test_a_reader_beside_a_writer_always_sees_whole_updates(net, path):
    recorder = Recorder(net, Request.parse(net, WANTED), path=path)
    enough, seen = threading.Event(), []
    updates = itertools.takewhile(lambda _: not enough.is_set(), itertools.count())
    writer = threading.Thread(target=feed, args=(recorder, updates, recorder.flush))
    writer.start()
    try:
        while len(set(seen)) < 5:
            assert writer.is_alive()
            tree = open_record(path)
            seen.append(tree["metrics"].sizes["update"] if "metrics" in tree.children else 0)
            check(tree, seen[-1])
    finally:
        enough.set()
        writer.join()
    assert seen == sorted(seen)


@pytest.mark.parametrize("on_disk", [False, True])
def test_nothing_changes_a_closed_record(net, path, on_disk):
    recorder = Recorder(net, Request.parse(net, WANTED), path=path if on_disk else None)
    feed(recorder, [0])
    recorder.close()
    for change in (lambda: feed(recorder, [1]), lambda: recorder.set_weights("rec_out", np.ones((4, 2)))):
        with pytest.raises(LocalplastError, match="this record is closed"):
            change()
    recorder.flush()
    recorder.close()
    assert recorder.tree().attrs["complete"] is True
    assert not recorder.tree()["rec_out"].weight.any()


def test_an_error_leaves_the_record_so_far_incomplete(net, path):
    with pytest.raises(ZeroDivisionError), Recorder(net, Request.parse(net, WANTED), path=path) as recorder:
        feed(recorder, [0])
        raise ZeroDivisionError
    check(open_record(path), 1)
    assert open_record(path).attrs["complete"] is False


def test_plain_xarray_opens_a_finished_record(net, path):
    with Recorder(net, Request.parse(net, WANTED), path=path) as recorder:
        feed(recorder, range(3))
    with xr.open_datatree(path, engine="zarr", consolidated=False) as tree:
        check(tree, 3)
        assert tree["rec"].v.attrs["units"] == "V"


def test_records_are_read_lazily(net, path):
    with Recorder(net, Request.parse(net, WANTED), path=path) as recorder:
        feed(recorder, range(2))
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


def test_an_existing_path_is_not_overwritten(net, path):
    Recorder(net, Request.parse(net, WANTED), path=path)
    with pytest.raises(LocalplastError, match="exists; remove it, give another path, or go on"):
        Recorder(net, Request.parse(net, WANTED), path=path)


@pytest.mark.parametrize("rows", [np.zeros, np.ones])
def test_what_is_lost_is_told_and_no_number(net, path, rows):
    """A file that is gone takes its numbers with it, floats, counts and bits; zeros are written and stay zeros."""
    request = Request.parse(net, ["rec.v", "rec.raster", "out.v"])
    with Recorder(net, request, path=path) as recorder:
        for key, size, dtype in (("rec.v", 4, float), ("rec.raster", 4, bool), ("out.v", 2, float)):
            recorder.add(*key.split("."), rows((3, STEPS, size), dtype))
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


# Going on


@pytest.mark.sampled(2)
@pytest.mark.parametrize("finished", [False, True])
def test_a_resumed_record_equals_an_uninterrupted_one(net, path, tmp_path, finished):
    request = Request.parse(net, WANTED)
    with Recorder(net, request, path=tmp_path / "whole.zarr") as whole:
        feed(whole, range(5), after=whole.flush)
    first = Recorder(net, request, path=path)
    feed(first, [0])
    position = json.loads(json.dumps(first.flush()))
    feed(first, range(1, 5), after=first.flush)
    if finished:
        first.close()
    second = Recorder.resume(path, net, request, position=position)
    check(open_record(path), 1)
    assert open_record(path).attrs["complete"] is False
    with second:
        feed(second, range(1, 5))
    xr.testing.assert_identical(undated(open_record(path)), undated(open_record(tmp_path / "whole.zarr")))


def test_what_lay_behind_the_position_is_gone_from_the_files(net, path):
    request = Request.parse(net, WANTED)
    recorder = Recorder(net, request, path=path)
    feed(recorder, [0])
    position = recorder.flush()
    feed(recorder, range(1, 5), after=recorder.flush)
    with Recorder.resume(path, net, request, position=position) as recorder:
        feed(recorder, [1])
    with xr.open_datatree(path, engine="zarr", consolidated=False) as tree:
        check(tree, 2)


def test_resuming_needs_the_same_network_request_and_record(net, path):
    request = Request.parse(net, WANTED)
    recorder = Recorder(net, request, path=path)
    feed(recorder, [0])
    position = recorder.flush()
    with pytest.raises(LocalplastError, match="recorded with other nodes"):
        Recorder.resume(path, make_net(tau=21), request)
    with pytest.raises(LocalplastError, match="recorded with other request"):
        Recorder.resume(path, net, Request.parse(net, ["rec.v"]))
    with pytest.raises(LocalplastError, match="ends before the position asked for"):
        Recorder.resume(path, net, request, position={**position, "rec/v": 99})
    with pytest.raises(LocalplastError, match="holds no readable record"):
        Recorder.resume(path.parent / "none", net, request)
    check(open_record(path), 1)


class Killed(BaseException):
    """What a kill looks like from inside: nothing after it is written."""


@pytest.mark.thorough
def test_a_kill_before_any_write_leaves_a_readable_record_that_goes_on(net, tmp_path, monkeypatch):
    """Stop at each of the writes of a run in turn. Writes are atomic, so there are no moments in between."""
    request, original, left = Request.parse(net, WANTED), zarr.storage.LocalStore.set, [0]

    async def limited(self, key, value):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        await original(self, key, value)

    monkeypatch.setattr(zarr.storage.LocalStore, "set", limited)
    outcomes = []
    for writes in range(1, 130, 5):
        path, left[0] = tmp_path / f"{writes}.zarr", writes
        try:
            recorder = Recorder(net, request, path=path)
            feed(recorder, range(2), after=recorder.flush)
            recorder.close()
        except Killed:
            pass
        left[0] = 10_000
        tree = open_record(path)
        done = tree["metrics"].sizes["update"] if "metrics" in tree.children else 0
        check(tree, done)
        outcomes.append((done, tree.attrs["complete"]))
        with Recorder.resume(path, net, request) as recorder:
            feed(recorder, range(done, 3))
        check(open_record(path), 3)
    assert outcomes == sorted(outcomes)
    assert {(0, False), (1, False), (2, True)} <= set(outcomes)


def test_a_flush_that_fails_can_be_tried_again(net, path, monkeypatch):
    recorder, original = Recorder(net, Request.parse(net, WANTED), path=path), zarr.storage.LocalStore.set
    feed(recorder, [0], after=recorder.flush)
    feed(recorder, [1])
    for allowed in (1, 4, 8):
        left = [allowed]

        async def full(self, key, value, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise OSError("disk full")
            await original(self, key, value)

        monkeypatch.setattr(zarr.storage.LocalStore, "set", full)
        with pytest.raises(OSError, match="disk full"):
            recorder.flush()
        monkeypatch.setattr(zarr.storage.LocalStore, "set", original)
        check(open_record(path), 1)
    recorder.close()
    check(open_record(path), 2)


WRITER = """
import os, signal, sys, time
sys.path.insert(0, os.path.dirname({test!r}))
from test_record import WANTED, Recorder, Request, feed, make_net
net = make_net()
for number, wait in enumerate({waits}):
    path = os.path.join({folder!r}, f"{{number}}.zarr")
    writer = os.fork()  # zarr has started no thread yet in this process
    if writer == 0:
        recorder = Recorder(net, Request.parse(net, WANTED), path=path)
        feed(recorder, range(10**6), after=recorder.flush)
    while not os.path.exists(os.path.join(path, "metrics")):
        time.sleep(0.001)
    time.sleep(wait)
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
"""


@pytest.mark.thorough
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_record_survives_sigkill_at_any_moment(tmp_path):
    draw = random.Random(0)
    waits = [draw.uniform(0, 1) for _ in range(4)]
    script = WRITER.format(test=__file__, waits=waits, folder=str(tmp_path))
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    done = []
    for number in range(len(waits)):
        tree = open_record(tmp_path / f"{number}.zarr")
        done.append(tree["metrics"].sizes["update"] if "metrics" in tree.children else 0)
        check(tree, done[-1])
        assert tree.attrs["complete"] is False
    assert any(done), "the writers must have got somewhere"


# What is not a record


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
def test_anything_but_plain_numbers_is_not_opened(net, path, array):
    with Recorder(net, Request.parse(net, WANTED), path=path) as recorder:
        feed(recorder, [0])
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
def template(tmp_path_factory):
    """A record, to be copied and changed."""
    path, net = tmp_path_factory.mktemp("template") / "run.zarr", make_net()
    with Recorder(net, Request.parse(net, WANTED), path=path) as recorder:
        feed(recorder, [0])
    return path


@pytest.mark.sampled(2)
@pytest.mark.parametrize("what", CHUNKS)
def test_a_chunk_that_is_something_else_is_not_read(net, template, path, what):
    """A file of some kilobytes may fill all memory when it is unpacked, whatever the record says of its size."""
    shutil.copytree(template, path)
    plant(path, data=np.ones(1))
    chunk = path / "out/planted/c/0"
    chunk.unlink()
    if isinstance(CHUNKS[what], str):
        chunk.symlink_to(CHUNKS[what])
    else:
        chunk.write_bytes(CHUNKS[what])
    for read in (open_record, lambda p: Recorder.resume(p, net, Request.parse(net, WANTED))):
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


def test_missing_foreign_and_damaged_stores_are_refused(net, path, tmp_path):
    with pytest.raises(LocalplastError, match="holds no readable record"):
        open_record(path)
    zarr.create_group(str(tmp_path / "foreign"), zarr_format=3)
    with pytest.raises(LocalplastError, match="is not a record of format 2"):
        open_record(tmp_path / "foreign")
    zarr.create_group(str(tmp_path / "old"), zarr_format=2, attributes={"localplast_record": 1, "position": {}})
    with pytest.raises(LocalplastError, match="holds no readable record"):
        open_record(tmp_path / "old")
    with Recorder(net, Request.parse(net, WANTED), path=path) as recorder:
        feed(recorder, [0])
    zarr.open_group(str(path), mode="r+")["out/v"].resize((1, STEPS, 2))
    with pytest.raises(LocalplastError, match="'out/v' has 1 of 2 rows; the record is damaged"):
        open_record(path)
    (path / "out" / "v" / "zarr.json").write_text("{")
    with pytest.raises(LocalplastError, match="holds no readable record"):
        open_record(path)
