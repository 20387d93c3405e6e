"""What the tests of the kernels share: networks, inputs, and the comparison of a kernel with the plain step in Torch.

Kernels that go backwards are compared with plain automatic differentiation (``agree``), those whose traces go forward
with the online learner (``same_gradients``, ``same_course``).
"""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from brian2 import ms, mV

from localplast.backends.c.function import NetworkFunction
from localplast.backends.c.online_call import OnlineKernel, why_not_online
from localplast.backends.torch import learner as torch_learn
from localplast.backends.torch.gradient import prepare as given_to
from localplast.backends.torch.learner import TorchLearner
from localplast.backends.torch.step import Twin, leaves, simulate
from localplast.backends.torch.traces import OnlineLearner
from localplast.models import alif, cuba_lif, leaky_readout, lif
from localplast.network import Input, Network, Population, Projection, normal, uniform
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


@functools.cache
def of(name, **options):
    """The network of one of ``MODELS``."""
    make, strength = MODELS[name]
    return recurrent(make(), strength, **options)


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
    """Of the loss of ``results``, with respect to those of ``tensors`` that learn."""
    wanted = {k: x for k, x in tensors.items() if x.requires_grad}
    options = {"allow_unused": True, "materialize_grads": True, "retain_graph": True}
    return dict(zip(wanted, torch.autograd.grad(loss_of(results), list(wanted.values()), **options), strict=True))


def by_twin(net, tensors, masks, inputs, **options):
    """Results by plain autograd; the network must be alive for them to mean anything."""
    outputs = [f"{name}.output" for name in net.readouts]
    dtype = next(iter(tensors.values())).dtype
    given = {k: x.to(dtype) for k, x in inputs.items()}
    run = simulate(
        Twin(net, tensors, masks, **options), given, [*outputs, *(f"{name}.spikes" for name in spiking(net))]
    )
    results = {name: run[name] for name in outputs}
    for name in spiking(net):
        spikes = run[f"{name}.spikes"]
        assert 0.005 < float(spikes.detach().mean()) < 0.6, f"{name} is silent or saturated"
        results |= {f"{name}.count": spikes.sum(0), f"{name}.sum": spikes.sum(-1)}
    return results


def by_kernel(net, tensors, masks, inputs, learned=(), **options):
    """Results of the kernel; without ``learned`` the one for which parameters are fixed numbers."""
    weights = {name: tensors[f"{name}.weight"] for name in net.projections}
    kernel = NetworkFunction(
        net,
        {k: x.detach() for k, x in tensors.items()},
        masks,
        record=[f"{k}.sum" for k in spiking(net) if learned],
        **options,
    )
    return kernel(weights, inputs, {k: tensors[k] for k in learned}) if learned else kernel(weights, inputs)


def spiking(net):
    """Names of the populations that spike."""
    return [name for name, p in net.populations.items() if p.model.spiking]


def distance(a, b):
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-300))


def same_results(fused, results):
    """Outputs to rounding, spikes to the last one."""
    for name, value in results.items():
        if name.endswith("output"):
            assert distance(fused[name], value) < 1e-12, name
        else:
            assert torch.equal(fused[name], value), name


def agree(net, learned=(), inputs=None, *, dead=(), threads=1, fixed=False, **options):
    """Assert that kernel and twin agree; returns the gradients.

    ``dead`` names what a cut leaves without gradient. ``fixed``: so must the kernel in which no parameter learns.
    """
    inputs = inputs or spikes_in(net)
    tensors, masks = prepare(net, learned)
    results = by_twin(net, tensors, masks, inputs, **options)
    for own in [(), learned] if fixed else [learned]:
        found = by_kernel(net, tensors, masks, inputs, own, threads=threads, **options)
        wanted = {k: x for k, x in results.items() if own or not k.endswith("sum")}
        assert found.keys() == wanted.keys()
        same_results(found, wanted)
        leaf = {k: tensors[k] for k in (*(f"{name}.weight" for name in net.projections), *own)}
        slopes = gradients(found, leaf)
        for name, gradient in gradients(wanted, leaf).items():
            alive = float(gradient.abs().max()) > 1e-9
            assert alive == (name not in dead), f"gradient of {name}"
            assert slopes[name].shape == gradient.shape, name
            assert distance(slopes[name], gradient) < 1e-10 if alive else not slopes[name].any(), name
    return slopes


# --- forwards ---------------------------------------------------------------------------------------------------------


def trials_for(loss, count=2, steps=45, channels=CHANNELS, size=1.0):
    """Spikes, and errors of ``size`` that count now and then: not at first, and not in the end."""
    rng = np.random.default_rng([3, steps])
    weight = size * rng.uniform(0.5, 1.5, steps) * (rng.random(steps) < 0.6)
    weight[:8] = weight[-12:] = 0
    labels = loss.kind == "cross_entropy"
    target = rng.integers(0, OUTPUTS, count) if labels else 1.5 * rng.standard_normal((count, steps, OUTPUTS))
    return Trials({"cues": rng.random((count, steps, channels)) < 0.3}, target, weight)


def apart(found, wanted, alive=True):
    """Largest difference between two sets of arrays, as a share of the largest number of each; all must be alive."""
    assert found.keys() == wanted.keys()
    scale = {name: float(abs(w).max()) for name, w in wanted.items()}
    assert not alive or all(s > 1e-12 for s in scale.values()), f"nothing to compare: {scale}"
    return max(float(abs(found[name] - w).max()) / max(scale[name], 1e-300) for name, w in wanted.items())


def case(net, rule, loss, trials, dtype=torch.float64):
    """What both learners take: values, their tensors, the trials as they are given, and what the rule makes of it."""
    values = net.draw(1)
    given = given_to(net, trials, loss, rng=np.random.default_rng(0), dtype=dtype)
    return values, leaves(net, values, dtype=dtype), given, plan(net, rule, loss)


def same_gradients(net, rule, loss, trials, *, spoil=lambda learned: learned, threads=1):
    """Assert that gradients, outputs and spikes are those of the plain learner; ``spoil`` plants an error."""
    values, tensors, given, learned = case(net, rule, loss, trials)
    assert why_not_online(net, learned) is None
    oracle = OnlineLearner(net, learned, tensors, values.masks)
    outputs, counts = oracle.run(*given)
    kernel = OnlineKernel(net, spoil(learned), tensors, values.masks, threads=threads)
    found = kernel.gradients({n: tensors[f"{n}.weight"] for n in net.projections}, *given, oracle.learned)
    for name, count in counts.items():
        assert 0.005 < float(count.mean()) / trials.steps < 0.6, f"{name} is silent or saturated"
        assert torch.equal(found[1][name], count), f"spikes of {name}"
    assert float((found[0] - outputs).abs().max()) < 1e-10 * float(outputs.abs().max())
    wanted = oracle.gradients() | oracle.other_gradients(tensors)
    assert apart(found[2], wanted) < 1e-10
    assert all(found[2][name].shape == w.shape for name, w in wanted.items())


def course(net, rule, loss, optimiser, trials, *, plain):
    """What has changed after ``trials``: weights, feedback, the optimiser's memory; and the metrics of each."""
    with pytest.MonkeyPatch.context() as patch:
        if plain:
            patch.setattr(torch_learn, "why_not_online", lambda *args, **options: "the plain step is asked for")
        learner = TorchLearner(net, net.draw(1), rule, loss, optimiser)
    assert type(learner.online) is (OnlineLearner if plain else OnlineKernel)
    before = learner.arrays()
    metrics, after = learner.train(trials), learner.arrays()
    frozen = {f"weight.{n}" for n, p in net.projections.items() if not p.plastic} | {"updates"}
    return {n: torch.as_tensor(after[n] - before[n]) for n in after if n not in frozen}, metrics, learner.updates


def same_course(net, rule, loss, optimiser, trials):
    """Assert that the kernel learns what the plain step learns; returns how many updates that took."""
    moved, metrics, updates = course(net, rule, loss, optimiser, trials, plain=False)
    others = course(net, rule, loss, optimiser, trials, plain=True)
    assert apart(moved, others[0]) < 1e-10
    assert metrics == [pytest.approx(m, rel=1e-9, nan_ok=True) for m in others[1]]
    assert updates == others[2]
    return updates


@pytest.fixture(scope="session")
def bench():
    """The functions of this file, for the tests of every kernel."""
    return SimpleNamespace(
        models=MODELS,
        recurrent=recurrent,
        of=of,
        spikes_in=spikes_in,
        prepare=prepare,
        gradients=gradients,
        by_twin=by_twin,
        by_kernel=by_kernel,
        distance=distance,
        agree=agree,
        trials_for=trials_for,
        apart=apart,
        case=case,
        same_gradients=same_gradients,
        course=course,
        same_course=same_course,
    )
