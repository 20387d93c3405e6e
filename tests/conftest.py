"""What tests share: a network on both backends, a comparison of trajectories, and a check that a network is alive."""

import functools
import gc
import logging
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import brian2 as b2
import numpy as np
import pytest
import torch
from brian2.codegen import translation
from brian2.codegen.generators import base
from brian2.core.variables import Subexpression
from brian2.utils.stringtools import get_identifiers

from localplast import protocols
from localplast.backends.brian2.learner import block_for
from localplast.backends.brian2.session import session
from localplast.backends.c import compile as kernel_build
from localplast.backends.torch.step import Twin, leaves
from localplast.neuron.step import lower
from localplast.program.instructions import Fire, Jump

#: What protocols read, below LOCALPLAST_DATA.
FILES = {
    **dict.fromkeys(
        ("mnist", "latent-equilibrium", "latent-equilibrium-cnn", "psmnist", "decolle-mnist", "pal-autoencoder"),
        "mnist/train-images-idx3-ubyte.gz",
    ),
    "gle-mnist1d": "mnist1d/mnist1d.npz",
    "decolle-nmnist": "nmnist_small/nmnist_small.npz",
    "superspike-oxford": "superspike_oxford/oxford-target.ras",
}  # fmt: skip


def pytest_configure():
    # as in a job in the background of a script: tests press Ctrl-C
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)  # two threads are slower than one on matrices as small as these
    logging.getLogger("brian2").setLevel(logging.ERROR)  # it would write thousands of lines, to its file as well
    b2.prefs.codegen.target = "numpy"  # making synapses is code too, and Brian2's default compiles it, seconds for each
    if os.environ.get("LOCALPLAST_KERNELS") != "as_shipped":  # as in .ci/run and tests/machines.sh
        kernel_build.FLAGS = (*kernel_build.FLAGS, "-Og")  # hundreds of kernels, compiled in a third of the time
    base.make_statements = translation.make_statements = narrowed(translation.make_statements)


def narrowed(make_statements):
    """Brian2 remembers the statements of a code, by all that it knows of every variable of the group: a fifth of what a
    small network costs. Those that occur in the code give the same statements.
    """

    @functools.wraps(make_statements)
    def of_code(code, variables, *args, **options):
        scalars = {k for k, v in variables.items() if isinstance(v, Subexpression) and v.scalar}  # all are checked
        used, new = set(), get_identifiers(code) | scalars
        while new:
            used |= new
            texts = (v for v in map(variables.get, new) if isinstance(v, Subexpression))
            new = set().union(*(text.identifiers for text in texts)) - used
        return make_statements(code, {k: v for k, v in variables.items() if k in used}, *args, **options)

    return of_code


def need(file):
    """Skip where a file is not below LOCALPLAST_DATA; fail where CI is ``true``: nobody sees what is skipped there."""
    if not Path(os.environ.get("LOCALPLAST_DATA", ""), file).is_file():
        leave = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        leave(f"{file} is not in LOCALPLAST_DATA")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """``sampled(n, first)``: of the cases of a test every n-th is quick, the others are ``thorough``."""
    cases = {}
    for item in items:
        if mark := item.get_closest_marker("sampled"):
            n, first = (*mark.args, 0)[:2]
            number = cases[item.nodeid.split("[")[0]] = cases.get(item.nodeid.split("[")[0], -1) + 1
            if number % n != first:
                item.add_marker(pytest.mark.thorough)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    for mark in item.iter_markers("needs_data"):
        for file in mark.args:
            need(file)


@pytest.fixture(scope="session")
def built():
    """``built(name, size)``: a preset of a protocol, made once, if its files are there."""

    @functools.cache
    def make(name, size="quick"):
        if name in FILES:
            need(FILES[name])
        return protocols.load(name).presets[size]()

    return make


@pytest.fixture(autouse=True)
def _settled():
    """Brian2 collects garbage in every run, and would look at each object of every package: what is there by now
    stays.
    """
    gc.collect()
    gc.freeze()


def everything(net, spikes=True):
    """Every state variable and every raster of ``net``, as names to record."""
    states = [f"{n}.{v}" for n, p in net.populations.items() for v in lower(p.model).state + lower(p.model).inputs]
    return states + [f"{n}.spikes" for n, p in net.populations.items() if p.model.spiking and spikes]


def on_brian2(net, trials, record=None, *, values=None, target="numpy", seed=0):
    """Dict of name to array ``(trial, time, neuron)``, from a Brian2 run of one block of trials."""
    record, values = record or everything(net), values or net.draw(0)
    request = [tuple(name.split(".")) for name in record]
    running = session(target, net, values, block_for(net, trials), trials, request=request, seed=seed)
    try:
        return collect(running.run(trials), net, record)
    finally:
        running.close()


def collect(results, net, record):
    """What a block left behind, as a dict of name to array ``(trial, time, neuron)``."""
    kept = {}
    for name in record:
        node, variable = name.split(".")
        kept[name] = results.raster(node, net.size(node)) if variable == "spikes" else results.state(node, variable)
    return kept


@torch.no_grad()
def on_torch(net, trials, record=None, *, values=None, before_reset=False, margin=None):
    """As :func:`on_brian2`, from the Torch twin.

    ``before_reset`` reads the state too early, on purpose. ``margin`` is a list to which the smallest distance of any
    neuron from its threshold is appended, over the largest distance.
    """
    record, values = record or everything(net), values or net.draw(0)
    twin = Twin(net, leaves(net, values), values.masks)
    rasters = trials.rasters(np.random.default_rng(0), float(net.dt))
    inputs = {k: torch.as_tensor(v).double().transpose(0, 1) for k, v in rasters.items()}
    twin.start(inputs)
    kept, distances = {name: [] for name in record}, []
    for t in range(trials.steps):
        twin.interpreter.begin_step(t)
        found, early = [], None
        for runs in twin.interpreter.step:
            if isinstance(runs.s, Fire):
                found.append(runs.tapes["argument"](twin.interpreter.values)["x"].abs())
            if isinstance(runs.s, Jump) and runs.s.edges and early is None and before_reset:
                early = {name: twin.read(name) for name in record}
            runs()
        distances.append([(x.min(), x.max()) for x in found])
        for name in record:
            kept[name].append(early[name] if before_reset else twin.read(name))
    if margin is not None:
        low, high = np.moveaxis(np.array(distances), -1, 0)  # (time, population) each
        margin.append((low.min(0) / high.max(0)).min())
    return {name: torch.stack(series).transpose(0, 1).numpy() for name, series in kept.items()}


def compare(one, other, tolerance=1e-9):
    """Raise unless spikes are identical and states within ``tolerance`` of the largest value of each variable."""
    assert one.keys() == other.keys()
    for name, a in one.items():
        b = other[name]
        assert a.shape == b.shape, name
        if name.endswith(".spikes"):
            wrong = np.argwhere(a.astype(bool) != b.astype(bool))
            assert not len(wrong), f"{name}: {len(wrong)} spikes differ, first at (trial, time, neuron) {wrong[0]}"
        else:
            assert np.all(np.isfinite(a)) and np.all(np.isfinite(b)), f"{name} is not finite"
            error = np.abs(a - b).max() / max(np.abs(a).max(), 1e-300)
            assert error < tolerance, f"{name}: relative difference {error:.1e}"


def live(net, arrays, low=0.5, high=400.0):
    """Raise unless every population that ``arrays`` tells of spikes at ``low`` to ``high`` Hz and every state moves.

    A comparison of silent networks would pass whatever the backends do.
    """
    for name, array in arrays.items():
        if name.endswith(".spikes"):
            rate = array.mean() / float(net.dt)
            assert low <= rate <= high, f"{name}: {rate:.3g} Hz is outside {low} to {high} Hz"
        else:
            assert np.ptp(array, axis=1).max() > 0, f"{name} never moves"


@pytest.fixture(scope="session")
def twins():
    """The functions of this file, for every test file."""

    def both(net, trials, record=None, **options):
        return on_brian2(net, trials, record, **options), on_torch(net, trials, record, values=options.get("values"))

    return SimpleNamespace(both=both, brian2=on_brian2, torch=on_torch, compare=compare, collect=collect, live=live)
