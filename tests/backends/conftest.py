"""What the tests of engines share: networks, inputs, and the comparison of an engine with the plain step in Torch.

Kernels that go backwards are compared with plain automatic differentiation (``agree``), those whose traces go forward
with the online learner (``same_gradients``); whatever learns is compared with a learner that has no kernel
(``same_learning``).
"""

import contextlib
import functools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from brian2 import ms, mV

from localplast.backends.brian2.learner import Brian2Learner
from localplast.backends.c.function import NetworkFunction
from localplast.backends.c.online_call import OnlineKernel, why_not_online
from localplast.backends.torch import learner as torch_learn
from localplast.backends.torch.gradient import prepare as given_to
from localplast.backends.torch.learner import TorchLearner
from localplast.backends.torch.online import OnlineLearner
from localplast.backends.torch.step import Twin, leaves, simulate
from localplast.models import (
    alif,
    cuba_lif,
    gle,
    gle_output,
    latent_equilibrium,
    latent_equilibrium_output,
    leaky_readout,
    lif,
)
from localplast.models.layers import layered
from localplast.network import Input, Network, Population, Projection, axonal, dendritic, normal, synaptic, uniform
from localplast.neuron import NeuronModel
from localplast.neuron.surrogate import arctan, triangle
from localplast.program.learn import plan
from localplast.task import Trials

STEPS, TRIALS, CHANNELS, SIZE, OUTPUTS = 50, 5, 5, 7, 3


def quadratic():
    """A quadratic neuron in volts, by rk4: the Jacobian depends on the state, and on refractoriness; so does the
    reset.
    """
    return NeuronModel(
        name="quadratic",
        equations="dv/dt = (v*(v - v_th)/v_scale + I)/tau_mem : volt (unless refractory)\n dI/dt = -I/tau_syn : volt",
        threshold="v > 2*v_th",
        reset="v = v_drop*(tanh(v/v_th) - 2)",
        refractory="tau_ref",
        method="rk4",
        receives="I",
        parameters={
            "tau_mem": 10 * ms,
            "tau_syn": 5 * ms,
            "v_th": 5 * mV,
            "v_scale": 5 * mV,
            "v_drop": 2 * mV,
            "tau_ref": 3 * ms,
        },
        surrogate=arctan("v_th"),
    )


#: A neuron, and a size of weights with which a population of it spikes.
MODELS = {
    "lif": (lambda: lif(surrogate=triangle(gamma=0.8)), 4.0),
    "lif, refractory": (lambda: lif(tau_ref=4 * ms), 5.0),
    "alif, refractory": (lambda: alif(tau_ref=2 * ms, beta=0.3, tau_adapt=30 * ms), 8.0),
    "cuba_lif": (lambda: cuba_lif(width=5 * mV), 0.08),
    "quadratic": (quadratic, 0.05),
}


def recurrent(model, strength, size=SIZE, *, late=None, late_out=True, mask=None, readout=leaky_readout, **population):
    """One recurrent population between five channels and a readout.

    ``late`` makes a delay from the shape of a projection, of that to the readout unless ``late_out`` is false.
    """
    drive = uniform(strength, mean=0.4 * strength / np.sqrt(CHANNELS))
    loop = normal(0.6 * strength)
    return Network(
        dt=1 * ms,
        cues=Input(CHANNELS),
        rec=Population(size, model, **population),
        out=Population(OUTPUTS, readout()),
        projections=[
            Projection("cues", "rec", weight=drive, delay=late and late(CHANNELS, size), mask=mask),
            Projection("rec", "rec", weight=loop, delay=late and late(size, size), mask=mask),
            Projection("rec", "out", delay=late and late_out and late(size, OUTPUTS) or None),
        ],
    )


def jitter(pre, post):
    return np.random.default_rng([pre, post]).integers(0, 7, (pre, post)) * ms


#: Of every kind, from the shape of a projection.
DELAYS = {
    "shared": lambda pre, post: axonal(3 * ms),
    "axonal": lambda pre, post: axonal(jitter(pre, 1)[:, 0]),
    "dendritic": lambda pre, post: dendritic(jitter(1, post)[0]),
    "synaptic": lambda pre, post: synaptic(jitter(pre, post)),
}


@functools.cache
def of(name, **options):
    """The network of one of ``MODELS``."""
    make, strength = MODELS[name]
    return recurrent(make(), strength, **options)


# --- networks of rates ------------------------------------------------------------------------------------------------

#: Of layers: some with more than one block of eight rows, some with fewer.
LAYERS = (5, 11, 14, 3)


def le(feedback="symmetric", hidden=None, **options):
    return layered(LAYERS, hidden or latent_equilibrium(), latent_equilibrium_output(), feedback=feedback, **options)


def gle_net(feedback):
    """Time constants that differ within a layer, and learn; a softmax of the output; one shared bias."""
    taus = {"hidden1": {"tau_m": np.linspace(1, 12, LAYERS[1]) * ms, "tau_r": 3 * ms}}
    learned = {"hidden1": {"tau_m": (0.5 * ms, 20 * ms), "b": (None, None)}}
    output = gle_output(loss="cross_entropy")
    return layered(LAYERS, gle(), output, feedback=feedback, parameters=taus, trainable=learned)


def mirror():
    """Noise in every hidden neuron, which feedback learns from."""
    return le("learned", latent_equilibrium(feedback="weight_mirror", activation="tanh"))


def changed(net, **projections):
    """``net`` with other options for some of its projections."""
    kept = [replace(p, **projections.get(p.name, {})) for p in net.projections.values()]
    return Network(dt=net.dt, **net.nodes, projections=kept)


def shown(net, trials=5, steps=200):
    """Inputs that change now and then, and a teacher who speaks."""
    rng = np.random.default_rng(0)
    inputs = {
        name: np.repeat(rng.normal(size=(trials, steps // 10, node.size)), 10, axis=1)
        for name, node in net.inputs.items()
    }
    inputs["teach"][:] = 1.0
    return Trials(inputs, rng.normal(size=(trials, steps, LAYERS[-1])), np.full(steps, 1 / steps))


def rates(net, optimiser, rate=0.3):
    """``optimiser`` for what learns beside weights too; time constants are a hundredth."""
    return optimiser.with_rates(**{name: 0.01 * rate if "tau" in name else rate for name in net.trainable})


# --- comparison -------------------------------------------------------------------------------------------------------


def numbers(x):
    return torch.as_tensor(x).detach().double()


def size(x):
    return float(numbers(x).abs().max())


def distance(a, b, least=1e-300):
    """The largest difference, as a share of the largest number of ``b``, or of ``least`` if that is larger."""
    assert a.shape == b.shape
    return size(numbers(a) - numbers(b)) / max(size(b), least)


def apart(found, wanted, alive=1e-12, least=1e-300):
    """The largest distance of two sets of arrays, each of which must hold something larger than ``alive``."""
    assert found.keys() == wanted.keys()
    sizes = {name: size(w) for name, w in wanted.items()}
    assert alive is None or all(s > alive for s in sizes.values()), f"nothing to compare: {sizes}"
    return max(distance(found[name], w, least) for name, w in wanted.items())


# --- backwards --------------------------------------------------------------------------------------------------------


def spikes_in(net, trials=TRIALS, steps=STEPS, share=0.25):
    generator = torch.Generator().manual_seed(3)
    return {
        name: torch.rand(steps, trials, node.size, generator=generator) < share for name, node in net.inputs.items()
    }


def prepare(net, learned=(), dtype=torch.float64):
    """The numbers of ``net``, of which weights and those in ``learned`` learn, and its masks."""
    values = net.draw(1)
    tensors = leaves(net, values, dtype=dtype, trainable=[*(f"{name}.weight" for name in net.projections), *learned])
    return tensors, values.masks


def loss_of(results):
    """Some function that is nonlinear in every output, in every spike count, and in how many spike together."""
    total = 0.0
    for name in sorted(results):
        value = results[name]
        pull = torch.linspace(-1, 1, value.numel(), dtype=value.dtype).reshape(value.shape).cos()
        total = total + ((value + 0.1 * value**2) * pull).sum() / (10 if name.endswith("sum") else 1)
    return total


def gradients(results, tensors):
    """Of the loss of ``results``, with respect to those of ``tensors`` that learn; zero where nothing arrives in time."""
    wanted, loss = {k: x for k, x in tensors.items() if x.requires_grad}, loss_of(results)
    if not loss.requires_grad:
        return {k: torch.zeros_like(x) for k, x in wanted.items()}
    options = {"allow_unused": True, "materialize_grads": True, "retain_graph": True}
    return dict(zip(wanted, torch.autograd.grad(loss, list(wanted.values()), **options), strict=True))


def by_twin(net, tensors, masks, inputs, alive=True, **options):
    """Results by plain autograd; unless the network is ``alive`` they mean little."""
    spiking = [name for name, p in net.populations.items() if p.model.spiking]
    outputs = [f"{name}.output" for name in net.readouts]
    dtype = next(iter(tensors.values())).dtype
    given = {k: x.to(dtype) for k, x in inputs.items()}
    run = simulate(Twin(net, tensors, masks, **options), given, [*outputs, *(f"{name}.spikes" for name in spiking)])
    results = {name: run[name] for name in outputs}
    for name in spiking:
        spikes = run[f"{name}.spikes"]
        assert not alive or 0.005 < float(spikes.detach().mean()) < 0.6, f"{name} is silent or saturated"
        results |= {f"{name}.count": spikes.sum(0), f"{name}.sum": spikes.sum(-1)}
    return results


def by_kernel(net, tensors, masks, inputs, learned=(), **options):
    """Results of the kernel; without ``learned`` the one for which parameters are fixed numbers."""
    weights = {name: tensors[f"{name}.weight"] for name in net.projections}
    record = [f"{k}.sum" for k, p in net.populations.items() if p.model.spiking and learned]
    kernel = NetworkFunction(net, {k: x.detach() for k, x in tensors.items()}, masks, record=record, **options)
    return kernel(weights, inputs, {k: tensors[k] for k in learned}) if learned else kernel(weights, inputs)


def same_results(fused, results, least):
    """Outputs to rounding, spikes to the last one."""
    for name, value in results.items():
        if name.endswith("output"):
            assert distance(fused[name], value, least) < 1e-12, name
        else:
            assert torch.equal(fused[name], value), name


def agree(net, learned=(), inputs=None, *, dead=(), threads=1, fixed=False, exact=1e-10, least=1e-300, **options):
    """Assert that kernel and twin agree; returns the gradients.

    ``dead`` names what a cut leaves without gradient, None: nobody need be alive. ``fixed``: so must the kernel in
    which no parameter learns.
    """
    inputs = inputs or spikes_in(net)
    tensors, masks = prepare(net, learned)
    results = by_twin(net, tensors, masks, inputs, dead is not None, **options)
    for own in [(), learned] if fixed else [learned]:
        found = by_kernel(net, tensors, masks, inputs, own, threads=threads, **options)
        wanted = {k: x for k, x in results.items() if own or not k.endswith("sum")}
        assert found.keys() == wanted.keys()
        same_results(found, wanted, least)
        leaf = {k: tensors[k] for k in (*(f"{name}.weight" for name in net.projections), *own)}
        slopes = gradients(found, leaf)
        for name, gradient in gradients(wanted, leaf).items():
            alive = dead is None or size(gradient) > 1e-9
            assert alive == (name not in (dead or ())), f"gradient of {name}"
            assert distance(slopes[name], gradient, least) < exact if alive else not slopes[name].any(), name
    return slopes


# --- forwards ---------------------------------------------------------------------------------------------------------


def trials_for(loss, count=2, steps=45, channels=CHANNELS, size=1.0):
    """Spikes, and errors of ``size`` that count now and then: not at first, and not in the end."""
    rng = np.random.default_rng([3, steps])
    weight = size * rng.uniform(0.5, 1.5, steps) * (rng.random(steps) < 0.6)
    weight[:8] = weight[-12:] = 0
    labels = loss.derived.coupled
    target = rng.integers(0, OUTPUTS, count) if labels else 1.5 * rng.standard_normal((count, steps, OUTPUTS))
    return Trials({"cues": rng.random((count, steps, channels)) < 0.3}, target, weight)


def case(net, rule, loss, trials, dtype=torch.float64):
    """What both learners take: values, their tensors, the trials as they are given, and what the rule makes of it."""
    values = net.draw(1)
    given = given_to(net, trials, loss, rng=np.random.default_rng(0), dtype=dtype)
    return values, leaves(net, values, dtype=dtype), given, plan(net, rule, loss)


def same_gradients(
    net, rule, loss, trials, *, spoil=lambda learned: learned, threads=1, exact=1e-10, alive=1e-12, least=1e-300
):
    """Assert that gradients, outputs and spikes are those of the plain learner; ``spoil`` plants an error."""
    values, tensors, given, learned = case(net, rule, loss, trials)
    oracle = OnlineLearner(net, learned, tensors, values.masks)
    outputs, counts = oracle.run(*given)
    kernel = OnlineKernel(net, spoil(learned), tensors, values.masks, threads=threads)
    assert why_not_online(kernel) is None
    found = kernel.run(*given)
    for name, count in counts.items():
        assert alive is None or 0.005 < float(count.mean()) / trials.steps < 0.6, f"{name} is silent or saturated"
        assert torch.equal(found[1][name], count), f"spikes of {name}"
    assert distance(found[0], outputs, least) < exact
    wanted = oracle.gradients() | oracle.other_gradients(tensors)
    assert apart(kernel.gradients() | kernel.other_gradients(tensors), wanted, alive, least) < exact


# --- learning ---------------------------------------------------------------------------------------------------------

#: What chooses an engine in Torch, and what stands in for it: no kernel, and no adjoint where traces can go forward.
PLAIN = dict.fromkeys(("why_not", "why_not_online"), lambda *args, **options: "to see the plain step")
FORWARD = {"adjoint_form": lambda *args, **options: None}
#: What stands in for what, or the target of Brian2; and what it has to be that learns there.
ENGINES = {
    "plain step": (PLAIN | FORWARD, OnlineLearner),
    "plain adjoint": (PLAIN, type(None)),
    "adjoint in C": ({}, NetworkFunction),
    "traces in C": (FORWARD, OnlineKernel),
    "rates in C": ({}, OnlineKernel),
    "Brian2": ("numpy", Brian2Learner),
    "Brian2 in C++": ("cpp", Brian2Learner),
}


def course(engine, net, rule, loss, optimiser, trials, *, batch=1, **options):
    """What an engine learns, by :func:`followed`."""
    chosen, kind = ENGINES[engine]
    described = (net, net.draw(1), rule, loss, optimiser)
    if kind is Brian2Learner:
        with contextlib.closing(Brian2Learner(*described, trials, batch=batch, target=chosen)) as learner:
            return followed(learner, trials)
    with pytest.MonkeyPatch.context() as patch:
        for name, function in chosen.items():
            patch.setattr(torch_learn, name, function)
        learner = TorchLearner(*described, batch=batch, **options)
        assert type(learner.online or learner.forward.kernel) is kind
        return followed(learner, trials)


def followed(learner, trials):
    """How far a learner is from where it began after its first batch and after all, and what it says then.

    ``moved`` holds weights, feedback, what else learns and the optimiser's memory; ``arrays`` what they end with.
    """
    fixed = {f"weight.{n}" for n, p in learner.net.projections.items() if not p.plastic} | {"updates"}
    begun, moved, metrics = {n: x.copy() for n, x in learner.arrays().items()}, [], []
    for start in range(0, len(trials), learner.batch):
        metrics += learner.train(trials[start : start + learner.batch])
        arrays = learner.arrays()
        moved.append({n: arrays[n] - begun[n] for n in arrays if n not in fixed})
    return SimpleNamespace(learner=learner, moved=moved, metrics=metrics, arrays=arrays, updates=learner.updates)


def same_learning(
    engine, *described, oracle="plain step", first=1e-10, last=1e-10, said=1e-9, alive=1e-12, batch=1, threads=1
):
    """Assert that an engine learns what the plain step learns, and says the same; returns both courses."""
    found, expected = (
        course(engine, *described, batch=batch, threads=threads),
        course(oracle, *described, batch=batch),
    )
    assert apart(found.moved[0], expected.moved[0], alive) < first
    assert apart(found.moved[-1], expected.moved[-1], alive) < last
    assert apart(found.arrays, expected.arrays, None) < last
    assert found.metrics == [pytest.approx(m, rel=said, nan_ok=True) for m in expected.metrics]
    rates, others = ([m["rate"] for m in one.metrics] for one in (found, expected))
    assert rates == pytest.approx(others, rel=1e-12, nan_ok=True), "there are as many spikes"
    assert found.updates == expected.updates
    return found, expected


@pytest.fixture(scope="session")
def bench():
    """The functions of this file, for the tests of every kernel."""
    return SimpleNamespace(
        models=MODELS,
        recurrent=recurrent,
        of=of,
        delays=DELAYS,
        layers=LAYERS,
        le=le,
        gle=gle_net,
        mirror=mirror,
        changed=changed,
        shown=shown,
        rates=rates,
        spikes_in=spikes_in,
        prepare=prepare,
        gradients=gradients,
        by_twin=by_twin,
        by_kernel=by_kernel,
        size=size,
        distance=distance,
        agree=agree,
        trials_for=trials_for,
        apart=apart,
        case=case,
        same_gradients=same_gradients,
        course=course,
        same_learning=same_learning,
    )
