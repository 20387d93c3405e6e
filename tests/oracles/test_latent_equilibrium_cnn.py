"""Convolutional latent equilibrium against backpropagation of the same network, written by hand in Torch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import localplast as lp
from localplast.analysis.distance import cosine_of
from localplast.models.layers import stream
from localplast.protocols import load
from localplast.protocols.latent_equilibrium_cnn import network
from localplast.rules import dendritic

IMAGE, LAYERS = (2, 12, 12), ("up1", "up3", "up5", "up6")
RNG = np.random.default_rng(7)
IMAGES, TARGETS = RNG.normal(size=(4, *IMAGE)), RNG.normal(size=(4, 3))


#: What becomes of squares, and the same in Torch.
POOLS = {lp.max_pooling: torch.nn.functional.max_pool2d, lp.pooling: torch.nn.functional.avg_pool2d}


def small(beta, **options):
    return network(IMAGE, (3, 4), (5,), 3, size=3, beta=beta, activation="tanh", **options)


def by_hand(weights, pool=torch.nn.functional.max_pool2d):
    """The loss ``1/2 |y - target|^2``, mean over images, differentiated by Torch."""
    leaves = {name: torch.tensor(weights[name]).requires_grad_() for name in LAYERS}
    conv = torch.nn.functional.conv2d
    x = pool(torch.tanh(conv(torch.tensor(IMAGES), leaves["up1"])), 2)
    x = pool(torch.tanh(conv(x, leaves["up3"])), 2).flatten(1)
    y = torch.tanh(x @ leaves["up5"]) @ leaves["up6"]
    loss = 0.5 * ((y - torch.tensor(TARGETS)) ** 2).sum(1).mean()
    found = torch.autograd.grad(loss, list(leaves.values()))
    return y.detach().numpy(), {name: g.numpy() for name, g in zip(LAYERS, found, strict=True)}


def shown(steps):
    return stream(IMAGES.reshape(4, 1, -1), TARGETS[:, None], steps=steps)


def update(net, values, settled=40):
    """What the kernels learn in the last of many steps, of which each is as the one before."""
    last, before = (lp.gradient(net, shown(steps), dendritic(), values=values) for steps in (settled, settled - 1))
    return {name: (last[name]["gradient"] - before[name]["gradient"]).values for name in LAYERS}


@pytest.mark.parametrize("pooled", POOLS)
def test_without_a_teacher_it_is_the_forward_pass(pooled):
    net = small(0.1, pooled=pooled)
    values = net.draw(0)
    record = lp.run(net, shown(12).without(net.teachers), values=values, backend="torch", record=["said.shown"])
    np.testing.assert_allclose(
        record["said"]["shown"][:, -1], by_hand(values.weights, POOLS[pooled])[0], rtol=0, atol=1e-13
    )


def compared(beta, net=None, pool=torch.nn.functional.max_pool2d):
    """Cosine and ratio of lengths of what is learned, over beta, and the gradient, by layer."""
    net = net or small(beta)
    values = net.draw(0)
    exact, found = by_hand(values.weights, pool)[1], update(net, values)
    cosines = [cosine_of(found[name], exact[name]) for name in LAYERS]
    return np.array(cosines), np.array([np.linalg.norm(found[n]) / np.linalg.norm(exact[n]) / beta for n in LAYERS])


@pytest.mark.parametrize("pooled", POOLS)
def test_the_update_over_beta_tends_to_the_gradient_of_backpropagation(pooled):
    coarse, fine = (compared(beta, small(beta, pooled=pooled), POOLS[pooled]) for beta in (1e-3, 1e-4))
    assert fine[0].min() > 0.9999 and np.abs(fine[1] - 1).max() < 3e-3
    np.testing.assert_allclose((fine[1] - 1) / (coarse[1] - 1), 0.1, rtol=0.1)  # what is left is of first order in beta
    np.testing.assert_allclose((1 - fine[0]) / (1 - coarse[0]), 0.01, rtol=0.1)


def test_errors_that_go_to_the_whole_square_are_another_gradient():
    """What pools with maxima, and sends back to all four of a square."""
    net = small(1e-4)
    whole = {name: lp.pooling(net.projections[name].weight.image, 2) for name in ("up2", "up4")}
    ways = {f"down{k - 1}": replace(whole[f"up{k}"], weight=1.0, transposed=True) for k in (2, 4)}
    projections = [replace(p, weight=ways.get(name, p.weight)) for name, p in net.projections.items()]
    cosine, _ = compared(1e-4, lp.Network(dt=net.dt, projections=projections, **net.nodes))
    assert cosine[-2:].min() > 0.9999 and cosine[0] < 0.3 and cosine[1] < 0.95


def test_random_feedback_is_another_gradient():
    cosine, _ = compared(1e-4, small(1e-4, feedback="random"))
    assert cosine[-1] > 0.9999  # the weights onto the output need no feedback
    assert cosine[:-1].max() < 0.9


@pytest.mark.slow
def test_kernels_learn_digits_and_errors_that_come_back_help():
    """A hundred updates, 25,600 images, each shown for a third of a membrane's time constant."""
    preset, found = load("latent-equilibrium-cnn").presets["quick"](), {}
    for name in ("LE, symmetric", "LE, hidden frozen"):
        own = preset.rules[name].completed(preset.network, preset.optimiser, preset.loss)
        course = {
            "batch": preset.batch,
            "updates": preset.updates,
            "test": preset.test,
            "dtype": "float32",
            "show": False,
        }
        fit = lp.run(
            own.network, preset.task, rule=own.rule, optimiser=own.optimiser, loss=own.loss, backend="torch", **course
        )
        found[name] = float(fit["metrics"]["test_accuracy"][-1])
    assert found["LE, symmetric"] > 0.9
    assert found["LE, symmetric"] > found["LE, hidden frozen"] + 0.1
