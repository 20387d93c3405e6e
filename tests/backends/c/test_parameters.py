"""The fused kernel's gradients of parameters, delays and population sums, against plain autograd through the twin."""

import numpy as np
import pytest
import torch
from brian2 import ms

from localplast.backends.c import compile as kernel_build
from localplast.backends.c.function import NetworkFunction
from localplast.errors import NetworkError, UnsupportedError
from localplast.models import lif
from localplast.network import Delay
from localplast.neuron.surrogate import triangle

pytestmark = pytest.mark.skipif(kernel_build.compiler() is None, reason="no C compiler here")

STEPS, SIZE = 50, 7
LEARNED = ("rec.tau_mem", "rec.v_th", "out.tau_out")


def test_values_change_without_compiling(monkeypatch, bench):
    """Constants follow the values of each call, and a backward pass uses those of its own forward pass."""
    net, learned = bench.of("lif"), LEARNED
    tensors, masks = bench.prepare(net, learned)
    weights, inputs = {name: tensors[f"{name}.weight"] for name in net.projections}, bench.spikes_in(net)
    kernel = NetworkFunction(net, {k: x.detach() for k, x in tensors.items()}, masks, record=["rec.sum"])
    first = kernel(weights, inputs, {k: tensors[k] for k in learned})
    monkeypatch.setattr(kernel_build, "compile_to", lambda *args: pytest.fail("compiled twice"))
    moved = {k: x.detach() * (0.9 if k in learned else 1.0) for k, x in tensors.items()}
    moved = {k: x.requires_grad_(tensors[k].requires_grad) for k, x in moved.items()}
    second = kernel({name: moved[f"{name}.weight"] for name in weights}, inputs, {k: moved[k] for k in learned})
    for results, own in ((first, tensors), (second, moved)):
        exact, found = bench.gradients(bench.by_twin(net, own, masks, inputs), own), bench.gradients(results, own)
        assert all(bench.distance(found[k], exact[k]) < 1e-10 for k in exact)
    assert bench.distance(first["out.output"], second["out.output"]) > 0.01


def test_only_wanted_gradients_are_made(bench):
    net, learned = bench.of("lif"), LEARNED
    tensors, masks = bench.prepare(net, ["rec.v_th"])
    weights = {name: tensors[f"{name}.weight"] for name in net.projections}
    kernel = NetworkFunction(net, {k: x.detach() for k, x in tensors.items()}, masks)
    results = kernel(weights, bench.spikes_in(net), {k: tensors[k] for k in learned})
    assert set(results) == {"out.output", "rec.count"}
    results["out.output"].sum().backward()
    assert abs(tensors["rec.v_th"].grad) > 0 and tensors["rec.tau_mem"].grad is None


def between(seed, low=0.0, high=6.0):
    """Real delays, some of them whole."""

    def draw(*shape):
        steps = np.random.default_rng([seed, *shape]).uniform(low, high, shape)
        steps.flat[::3] = np.floor(steps.flat[::3])
        return steps * ms

    return draw


REAL = between(7)
DELAYS = {
    "shared": lambda pre, post: Delay("axonal", 2.3 * ms, trainable=True),
    "shared, whole": lambda pre, post: Delay("axonal", 3 * ms, trainable=True),
    "shared by targets": lambda pre, post: Delay("dendritic", 1.6 * ms, trainable=True),
    "axonal": lambda pre, post: Delay("axonal", REAL(pre), trainable=True),
    "dendritic": lambda pre, post: Delay("dendritic", REAL(post), trainable=True),
    "synaptic": lambda pre, post: Delay("synaptic", REAL(pre, post), trainable=True),
}


@pytest.mark.sampled(6)
@pytest.mark.parametrize("kind", DELAYS)
def test_delays(kind, bench):
    net = bench.of("lif", late=DELAYS[kind])
    learned = (*net.trainable, "rec.v_th")
    whole, inputs = (
        bench.agree(net, learned),
        {"cues": bench.spikes_in(net)["cues"] * torch.linspace(0.5, 2, 5, dtype=torch.float64)},
    )
    bench.agree(net, learned, inputs)
    cut = bench.agree(net, learned, cut={"rec_rec"})
    assert (
        bench.distance(cut["cues_rec.delay"], whole["cues_rec.delay"]) > 0.01
        and float(cut["rec_rec.delay"].abs().max()) > 0
    )


@pytest.mark.parametrize("kind", ["axonal", "dendritic"])
def test_feedback_matrices_meet_delays_where_the_signal_passes_them(kind, bench):
    """An axonal delay sees its error through the feedback, a dendritic one through the weights, as in the twin."""
    net = bench.of("lif", late=DELAYS[kind])
    generator = torch.Generator().manual_seed(5)
    feedback = {"rec_rec": 0.3 * torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)}
    bench.agree(net, (*net.trainable, "rec.v_th"), feedback=feedback, cut={"rec_out"}, dead=())


def test_dense_inputs_may_be_late(bench):
    net = bench.recurrent(lif(surrogate=triangle(gamma=0.8)), 1.0, late=DELAYS["shared"])
    bench.agree(net, net.trainable, bench.spikes_in(net, trials=11, share=0.7), threads=2)


def test_rings_follow_the_delays_of_each_call(bench):
    """Delays may grow past the trial, and shrink again: nothing is compiled for a longest one."""
    net = bench.of("lif", late=DELAYS["axonal"])
    tensors, masks = bench.prepare(net, net.trainable)
    weights, inputs = {name: tensors[f"{name}.weight"] for name in net.projections}, bench.spikes_in(net)
    kernel = NetworkFunction(net, {k: x.detach() for k, x in tensors.items()}, masks, record=["rec.sum"])
    for factor in (1.0, STEPS / 3, 0.5):
        own = {k: x.detach() * (factor if k == "rec_rec.delay" else 1.0) for k, x in tensors.items()}
        own = {k: x.requires_grad_(tensors[k].requires_grad) for k, x in own.items()}
        results = kernel({name: own[f"{name}.weight"] for name in weights}, inputs, {k: own[k] for k in net.trainable})
        exact, found = bench.gradients(bench.by_twin(net, own, masks, inputs), own), bench.gradients(results, own)
        assert all(bench.distance(found[k], exact[k]) < 1e-10 for k in exact)


def test_refractory_periods_may_grow(bench):
    """A neuron whose period is a step at first is compiled as one that can be silent for longer."""
    net = bench.recurrent(lif(tau_ref=1 * ms, surrogate=triangle(gamma=0.8)), 4.0)
    tensors, masks = bench.prepare(net, ["rec.v_th"])
    weights, inputs = {name: tensors[f"{name}.weight"] for name in net.projections}, bench.spikes_in(net)
    kernel = NetworkFunction(net, {k: x.detach() for k, x in tensors.items()}, masks)
    for steps in (1, 4):
        tensors["rec.tau_ref"] = torch.tensor(steps * 1e-3, dtype=torch.float64)
        found = kernel(weights, inputs, {"rec.tau_ref": tensors["rec.tau_ref"]})
        assert torch.equal(found["rec.count"], bench.by_twin(net, tensors, masks, inputs)["rec.count"])


def test_what_cannot_be_given_is_refused(bench):
    net = bench.recurrent(lif(), 4.0, late=DELAYS["axonal"])
    tensors, masks = bench.prepare(net, ())
    weights, kernel = (
        {name: tensors[f"{name}.weight"] for name in net.projections},
        NetworkFunction(net, tensors, masks),
    )
    for others, message in (
        (
            {"rec.tau_mem": torch.full((SIZE,), 0.02)},
            r"rec.tau_mem of shape \(7,\) is given; the network has shape \(\)",
        ),
        ({"rec.tau_man": torch.tensor(0.02)}, "rec.tau_man"),
        ({"rec_rec.delay": torch.full((SIZE,), -1.0)}, "'rec_rec': impossible delay, -1.0"),
        ({"rec_rec.delay": torch.full((SIZE,), torch.nan)}, "'rec_rec': impossible delay"),
    ):
        with pytest.raises(NetworkError, match=message):
            kernel(weights, bench.spikes_in(net), others)
    with pytest.raises(UnsupportedError, match="rec.v: the kernel has those of weights, parameters and delays"):
        kernel(weights, bench.spikes_in(net), {"rec.v": tensors["rec.v"]})
