"""What the tests of runs share: records of made-up activity, and small runs of every kind that are stopped and go on."""

import contextlib
import functools
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from brian2 import ms, mV

import localplast as lp
from localplast.models import alif, leaky_readout, lif
from localplast.network import Input, Network, Population, Projection, normal
from localplast.neuron import NeuronModel
from localplast.rules import bptt, dendritic, eprop, feedback_alignment
from localplast.runs import fit
from localplast.show.examples import sample
from localplast.study.compare import compare
from localplast.task.loss import gumbel, mse, reward

# --- records ----------------------------------------------------------------------------------------------------------

#: Steps of a trial, and what is kept of it.
RECORDED = 6
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
    v = np.random.default_rng(update).random((trials, RECORDED, 4))
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


@pytest.fixture(scope="session")
def made_up():
    """A network, and what it did in each update: nobody has simulated it."""
    return SimpleNamespace(
        net=make_net, steps=RECORDED, wanted=WANTED, block=block, feed=feed, undated=undated, check=check
    )


# --- runs -------------------------------------------------------------------------------------------------------------

STEPS, UPDATES = 15, 4


def network(rec=None, delay=2 * ms, readouts=("out",), **inputs):
    onward = [lp.Projection("rec", name) for name in readouts]
    return lp.Network(
        dt=1 * ms, cues=lp.Input(4), **inputs, rec=lp.Population(5, rec or alif(beta=0.3)),
        **{name: lp.Population(1 if name == "value" else 2, leaky_readout()) for name in readouts},
        projections=[
            lp.Projection("cues", "rec", weight=lp.normal(2.0, mean=1.0)),
            lp.Projection("rec", "rec", delay=delay if delay is None else lp.axonal(delay)), *onward,
        ],
    )  # fmt: skip


def drawn(rng, n):
    raster = rng.random((n, STEPS, 4)) < 0.3
    return lp.Trials({"cues": raster}, rng.integers(0, 2, n), np.full(STEPS, 1 / STEPS))


def rewarded(rng, n):
    given = drawn(rng, n)
    weight = np.where(np.arange(STEPS) == 8, 1.0, 0.0)
    return lp.Trials({**given.inputs, "dice": gumbel(rng, (n, STEPS, 2))}, given.target, weight)


def currents(rng, n):
    shapes = {"cues": 4, "target": 2, "teaching": 1}
    inputs = {name: rng.normal(size=(n, STEPS, size)) for name, size in shapes.items()}
    return lp.Trials(inputs, rng.normal(size=(n, STEPS, 2)))


TASK, NOISY = lp.Task.generated("drawn", drawn), "dv/dt = -v/tau_mem + 0.5*tau_mem**-0.5*xi : 1"
STOCHASTIC = lp.NeuronModel(
    name="noisy", equations=NOISY, parameters={"tau_mem": 20 * ms, "v_th": 1}, threshold="v > v_th", reset="v -= v_th",
    method="euler", surrogate=lif().surrogate,
)  # fmt: skip
MOVING = lp.axonal(np.linspace(0.5, 2.5, 5) * ms, trainable=(0 * ms, 4 * ms))


def moving():
    net = network()
    kept = [p for p in net.projections.values() if p.name != "rec_rec"]
    return lp.Network(dt=net.dt, **net.nodes, projections=[*kept, lp.Projection("rec", "rec", delay=MOVING)])


KINDS = {
    "BPTT in C": lambda: dict(net=network(), backend="torch", rule=bptt()),
    "plain Torch, noise": lambda: dict(net=network(STOCHASTIC), backend="torch", rule=bptt()),
    "an adjoint": lambda: dict(net=network(), backend="torch", rule=eprop(), record={"cues_rec.weight": {"every": 3}}),
    "online in C": lambda: dict(net=network(), backend="torch", rule=eprop(update=3 * ms), batch=1),
    "graded": lambda: dict(
        net=sample("dendrites"), task=lp.Task.generated("currents", currents), backend="torch", rule=dendritic(), loss=mse()
    ),
    "reward": lambda: dict(
        net=network(readouts=("policy", "value"), dice=lp.Input(2, "currents")), task=lp.Task.generated("rewarded", rewarded),
        backend="torch", rule=eprop(), loss=reward(3 * ms),
    ),
    "delays": lambda: dict(
        net=moving(), backend="torch", rule=bptt(), optimiser=lp.adam(1e-2).with_rates(**{"rec_rec.delay": 1.0}),
    ),
    "learned feedback": lambda: dict(net=network(), backend="torch", rule=feedback_alignment(eprop(), "learned")),
    "Brian2": lambda: dict(net=network(delay=None), backend="brian2", rule=eprop(), target="numpy", test_every=2),
    "watching": lambda: dict(
        net=network(), backend="torch", rule=eprop(),
        watch=[lp.Plateau(patience=0, threshold=0.3), lp.Stop(loss=-1.0, every=1), lp.Best(by="loss", every=2)],
    ),
}  # fmt: skip


def learn(kind, path=None, resume=False, **options):
    """A small run of one kind."""
    given = {"optimiser": lp.adam(1e-2), "batch": 2, "updates": UPDATES, "test": 3, "test_every": 1, "task": TASK}
    given |= KINDS[kind]() | options
    return lp.run(given.pop("net"), given.pop("task"), path=path, resume=resume, show=False, **given)


def contrast(path=None, resume=False):
    """A small comparison: the folder of its runs is ``path``."""
    rules = {"e-prop": lp.Contender(eprop(feedback="random"), "torch"), "e prop": lp.Contender(eprop(), "torch")}
    options = dict(optimiser=lp.adam(1e-2), batch=2, updates=2, test=3, probes=1, show=False)
    return compare(network(), TASK, rules, path=path, resume=resume, **options)


@functools.cache
def whole(kind):
    """What comes of a run that nothing interrupts."""
    return facts(contrast() if kind == "comparison" else learn(kind))


def facts(tree):
    """All numbers of a record; of a comparison those that are no times."""
    return {node.path: node.to_dataset().load() for node in tree.subtree if node.path not in ("/", "/cost")}


def goes_on(kind, path):
    """Go on with what was interrupted, and compare every number with those of a run that was not."""
    found = facts((contrast if kind == "comparison" else functools.partial(learn, kind))(path, resume=True))
    assert found.keys() == whole(kind).keys()
    for name, expected in whole(kind).items():
        xr.testing.assert_equal(found[name], expected)
    if kind != "comparison":
        assert lp.open(path).attrs["complete"]


def begin(kind, path):
    contrast(path) if kind == "comparison" else learn(kind, path)


@contextlib.contextmanager
def child(work):
    """A copy of this process that does ``work()``: gives its number."""
    number = os.fork()
    if number == 0:
        try:
            fit.CHECKPOINT_SECONDS = 0.0
            work()
        finally:
            os._exit(0)
    try:
        yield number
    finally:
        os.waitpid(number, 0)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def often(monkeypatch):
    """A checkpoint after every block."""
    monkeypatch.setattr(fit, "CHECKPOINT_SECONDS", 0.0)


@pytest.fixture(params=KINDS)
def kind(request):
    """Each kind of run by its name."""
    return request.param


@pytest.fixture(params=[*KINDS, "comparison"])
def work(request):
    """Each kind of run, and a comparison of several."""
    return request.param


@pytest.fixture(scope="session")
def runs():
    """The functions of this part."""
    return SimpleNamespace(
        network=network,
        drawn=drawn,
        task=TASK,
        kinds=KINDS,
        updates=UPDATES,
        learn=learn,
        begin=begin,
        whole=whole,
        facts=facts,
        goes_on=goes_on,
        child=child,
        kill=kill,
    )
