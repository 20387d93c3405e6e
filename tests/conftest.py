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
from brian2 import ms, volt
from brian2.codegen import translation
from brian2.codegen.generators import base
from brian2.core.variables import Subexpression
from brian2.units.fundamentalunits import DIMENSIONLESS, Quantity
from brian2.utils.stringtools import get_identifiers

import localplast.models
from localplast import protocols
from localplast.backends.brian2.learner import block_for
from localplast.backends.brian2.session import session
from localplast.backends.c import compile as kernel_build
from localplast.backends.torch.step import Twin, leaves
from localplast.models import leaky_readout
from localplast.network import Delay, Input, Network, Population, Projection, axonal, dendritic, normal, synaptic
from localplast.neuron import NeuronModel
from localplast.neuron.step import jacobian, lower
from localplast.program.instructions import Fire, Jump
from localplast.protocols import latent_equilibrium_cnn
from localplast.task import Trials

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


def pictures():
    """In place of CIFAR-10, 170 MB that no test downloads: noise of its size."""
    images = np.random.default_rng(0).integers(0, 256, (60_000, 3, 32, 32), np.uint8)
    labels = np.arange(60_000) % 10
    return (images[:50_000], labels[:50_000]), (images[50_000:], labels[50_000:])


def pytest_configure():
    latent_equilibrium_cnn.cifar10 = functools.cache(pictures)
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


# --- every model in a network with all kinds of projections, weights such that it spikes -----------------------------

STEPS, LONGEST = 250, 20  # of a run, and of a delay


def follower():
    """A LIF neuron driven by a graded variable: what graded projections need to land on."""
    return NeuronModel(
        name="follower", equations="dv/dt = (-v + I)/tau_mem : 1 (unless refractory)\n I : 1", threshold="v > v_th",
        reset="v -= v_th", refractory="tau_ref", output="v**2", receives="I",
        parameters={"tau_mem": 10 * ms, "v_th": 0.3, "tau_ref": 3 * ms},
    )  # fmt: skip


def rasters(rng, trials, steps, channels):
    return rng.random((trials, steps, channels)) < 0.1


def surrounded(model, scale, rng):
    """``model`` in a network with recurrence, the three kinds of delay, and event and graded projections.

    ``scale`` is the size of the weights onto ``model``, in the SI unit of the variable that it receives by.
    """
    unit = Quantity(scale, dim=model.dimensions[model.receives])
    graded = model.receives in lower(model).inputs

    def steps(*shape):
        return rng.integers(0, LONGEST + 1, shape) * ms

    def onto(pre, size, kind, shape, name=None):
        """A projection onto ``model``: mostly excitatory, so that it spikes for some ``scale``."""
        weight = (0.4 + rng.standard_normal((size, 6))) * unit
        return Projection(pre, "it", weight=weight, delay=None if graded else Delay(kind, steps(*shape)), name=name)

    quick = {"tau_ref": 3 * ms} if "tau_ref" in model.parameters else {}
    quick |= {key: 2 * ms for key in model.at_least_dt if model.parameters[key] < 1 * ms}
    projections = [
        onto("drive" if graded else "cues", 10, "dendritic", (6,)),
        Projection("cues", "out", delay=synaptic(steps(10, 3))),
        Projection("out", "follower", weight=normal(2.0), delay=synaptic(steps(3, 5))),
        Projection("drive", "follower", weight=normal(1.0, mean=0.1)),
        Projection("follower", "out", delay=axonal(steps(5))),
    ]
    for name in lower(model).inputs:
        if name != model.receives:  # faint, for some are conductances, which must not turn negative
            # dice: the scale is that of another quantity
            bare = model.dimensions[name] is DIMENSIONLESS is not model.dimensions[model.receives]
            weight = Quantity(
                (0.3 if bare else 0.01 * scale) * rng.standard_normal((10, 6)), dim=model.dimensions[name]
            )
            projections.append(Projection("drive", "it", weight=weight, target=name, name=f"drive_{name}"))
    for name in waiting(model):
        weight = Quantity(0.1 * scale * np.abs(rng.standard_normal((10, 6))), dim=model.dimensions[name])
        projections.append(Projection("cues", "it", weight=weight, target=name, name=f"cues_{name}"))
    if model.spiking:
        projections.append(Projection("it", "out", delay=axonal(steps(6))))
    if model.output:
        projections.append(Projection("it", "follower", weight=1.0, transmission="graded", delay=dendritic(steps(5))))
    if model.spiking and not graded:
        projections.append(onto("it", 6, "synaptic", (6, 6)))
        projections.append(onto("it", 6, "axonal", (6,), name="again"))
        projections.append(onto("follower", 5, "dendritic", (6,)))
    nodes = {
        "it": Population(6, model, quick),
        "out": Population(3, leaky_readout()),
        "follower": Population(5, follower()),
    }
    return Network(dt=1 * ms, cues=Input(10), drive=Input(10, "currents"), projections=projections, **nodes)


def waiting(model):
    """Variables besides ``receives`` that only spikes from outside can move: synaptic conductances."""
    step = lower(model)
    pushed = {row for row, column in jacobian(step).entries if row != column} | {
        *step.reset,
        *step.adaptation,
        *model.initial,
    }
    return [name for name in model.odes if name not in pushed and name != model.receives]


def some_trials(rng, trials, steps):
    """Spikes for ``cues`` and slow currents for ``drive``."""
    drive = np.cumsum(rng.standard_normal((trials, steps, 10)), axis=1) / 10
    return Trials({"cues": rasters(rng, trials, steps, 10), "drive": drive})


def lively(model, twins):
    """The network around ``model`` whose weights make it spike at 15 to 150 Hz, found by bisection."""
    low, high = 1e-14, 1e4
    for _ in range(30):
        scale = np.sqrt(low * high)
        net = surrounded(model, scale, np.random.default_rng(0))
        if not model.spiking:
            return silent(model, twins)
        kept = twins.torch(net, some_trials(np.random.default_rng(1), 1, 150))
        rate = kept["it.spikes"].mean() / 1e-3 if plausible(model, kept) else np.inf
        if 15 <= rate <= 150:
            return net
        low, high = (scale, high) if rate < 15 else (low, scale)
    raise AssertionError(f"{model.name} cannot be made to spike at 15 to 150 Hz")


def silent(model, twins):
    """The network around a ``model`` without spikes, with the largest weights that leave potentials plausible."""
    for scale in 10.0 ** -np.arange(0, 15, 3):
        net = surrounded(model, scale, np.random.default_rng(0))
        trials = some_trials(np.random.default_rng(1), 1, STEPS)
        if not potentials(model) or plausible(model, twins.torch(net, trials)):
            return net
    raise AssertionError(f"{model.name} has no plausible potentials with weights down to 1e-12")


def potentials(model):
    """The state variables of ``model`` that are measured in volts."""
    return [n for n in lower(model).state if model.dimensions[n] == volt.dim]


def plausible(model, kept):
    """Whether no potential of a neuron with units leaves the range of volts: escape noise makes spikes at any drive."""
    return all(np.abs(kept[f"it.{n}"]).max() < 1 for n in potentials(model))


@pytest.fixture(scope="session")
def alive(twins):
    """``alive(name)``: the network around the model of this name, or around a model itself."""

    @functools.cache
    def around(model):
        return lively(getattr(localplast.models, model)() if isinstance(model, str) else model, twins)

    return around


@pytest.fixture(scope="session")
def driven():
    """Spikes for ``cues`` and slow currents for ``drive``, of so many trials and steps."""
    return some_trials
