"""A record that was cut off at any moment is readable, and goes on as if nothing had happened."""

import json
import os
import random
import subprocess
import sys

import pytest
import xarray as xr
import zarr

from localplast.errors import LocalplastError
from localplast.runs.record import Recorder, open_record
from localplast.runs.request import Request


@pytest.mark.sampled(2)
@pytest.mark.parametrize("finished", [False, True])
def test_a_resumed_record_equals_an_uninterrupted_one(net, path, tmp_path, finished, made_up):
    request = Request.parse(net, made_up.wanted)
    with Recorder(net, request, path=tmp_path / "whole.zarr") as whole:
        made_up.feed(whole, range(5), after=whole.flush)
    first = Recorder(net, request, path=path)
    made_up.feed(first, [0])
    position = json.loads(json.dumps(first.flush()))
    made_up.feed(first, range(1, 5), after=first.flush)
    if finished:
        first.close()
    second = Recorder.resume(path, net, request, position=position)
    made_up.check(open_record(path), 1)
    assert open_record(path).attrs["complete"] is False
    with second:
        made_up.feed(second, range(1, 5))
    xr.testing.assert_identical(
        made_up.undated(open_record(path)), made_up.undated(open_record(tmp_path / "whole.zarr"))
    )


def test_what_lay_behind_the_position_is_gone_from_the_files(net, path, made_up):
    request = Request.parse(net, made_up.wanted)
    recorder = Recorder(net, request, path=path)
    made_up.feed(recorder, [0])
    position = recorder.flush()
    made_up.feed(recorder, range(1, 5), after=recorder.flush)
    with Recorder.resume(path, net, request, position=position) as recorder:
        made_up.feed(recorder, [1])
    with xr.open_datatree(path, engine="zarr", consolidated=False) as tree:
        made_up.check(tree, 2)


def test_resuming_needs_the_same_network_request_and_record(net, path, made_up):
    request = Request.parse(net, made_up.wanted)
    recorder = Recorder(net, request, path=path)
    made_up.feed(recorder, [0])
    position = recorder.flush()
    with pytest.raises(LocalplastError, match="recorded with other nodes"):
        Recorder.resume(path, made_up.net(tau=21), request)
    with pytest.raises(LocalplastError, match="recorded with other request"):
        Recorder.resume(path, net, Request.parse(net, ["rec.v"]))
    with pytest.raises(LocalplastError, match="ends before the position asked for"):
        Recorder.resume(path, net, request, position={**position, "rec/v": 99})
    with pytest.raises(LocalplastError, match="holds no readable record"):
        Recorder.resume(path.parent / "none", net, request)
    made_up.check(open_record(path), 1)


class Killed(BaseException):
    """What a kill looks like from inside: nothing after it is written."""


@pytest.mark.thorough
def test_a_kill_before_any_write_leaves_a_readable_record_that_goes_on(net, tmp_path, monkeypatch, made_up):
    """Stop at each of the writes of a run in turn. Writes are atomic, so there are no moments in between."""
    request, original, left = Request.parse(net, made_up.wanted), zarr.storage.LocalStore.set, [0]

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
            made_up.feed(recorder, range(2), after=recorder.flush)
            recorder.close()
        except Killed:
            pass
        left[0] = 10_000
        tree = open_record(path)
        done = tree["metrics"].sizes["update"] if "metrics" in tree.children else 0
        made_up.check(tree, done)
        outcomes.append((done, tree.attrs["complete"]))
        with Recorder.resume(path, net, request) as recorder:
            made_up.feed(recorder, range(done, 3))
        made_up.check(open_record(path), 3)
    assert outcomes == sorted(outcomes)
    assert {(0, False), (1, False), (2, True)} <= set(outcomes)


def test_a_flush_that_fails_can_be_tried_again(net, path, monkeypatch, made_up):
    recorder, original = Recorder(net, Request.parse(net, made_up.wanted), path=path), zarr.storage.LocalStore.set
    made_up.feed(recorder, [0], after=recorder.flush)
    made_up.feed(recorder, [1])
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
        made_up.check(open_record(path), 1)
    recorder.close()
    made_up.check(open_record(path), 2)


WRITER = """
import os, signal, sys, time
sys.path.insert(0, os.path.dirname({test!r}))
from conftest import WANTED, feed, make_net
from localplast.runs.record import Recorder
from localplast.runs.request import Request
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
def test_a_record_survives_sigkill_at_any_moment(tmp_path, made_up):
    draw = random.Random(0)
    waits = [draw.uniform(0, 1) for _ in range(4)]
    script = WRITER.format(test=__file__, waits=waits, folder=str(tmp_path))
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    done = []
    for number in range(len(waits)):
        tree = open_record(tmp_path / f"{number}.zarr")
        done.append(tree["metrics"].sizes["update"] if "metrics" in tree.children else 0)
        made_up.check(tree, done[-1])
        assert tree.attrs["complete"] is False
    assert any(done), "the writers must have got somewhere"
