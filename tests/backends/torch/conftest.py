"""What tests of engines share: every model in a network with all kinds of projections, weights such that it spikes."""

import functools

import numpy as np
import pytest
from brian2 import ms, volt
from brian2.units.fundamentalunits import DIMENSIONLESS, Quantity

import localplast.models
from localplast.models import leaky_readout
from localplast.network import Delay, Input, Network, Population, Projection, axonal, dendritic, normal, synaptic
from localplast.neuron import NeuronModel
from localplast.neuron.step import jacobian, lower
from localplast.task import Trials

STEPS, LONGEST = 250, 20  # of a run, and of a delay


def follower():
    """A LIF neuron driven by a graded variable: what graded projections need to land on."""
    return NeuronModel(
        name="follower", equations="dv/dt = (-v + I)/tau_mem : 1 (unless refractory)\n I : 1", threshold="v > v_th",
        reset="v -= v_th", refractory="tau_ref", output="v**2", receives="I",
        parameters={"tau_mem": 10 * ms, "v_th": 0.3, "tau_ref": 3 * ms},
    )  # fmt: skip


def spikes(rng, trials, steps, channels):
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
    return Trials({"cues": spikes(rng, trials, steps, 10), "drive": drive})


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
