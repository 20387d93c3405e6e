"""Losses as text: what is derived from it, to the last bit what was once written by hand."""

import numpy as np
import pytest
import torch
from brian2 import ms

from localplast.backends.c.expression import in_one_line
from localplast.equations.expressions import to_sympy
from localplast.models import leaky_readout
from localplast.network import Input, Network, Population, Projection
from localplast.program.learn import plan
from localplast.program.online import online
from localplast.rules import eprop
from localplast.task import loss as losses
from localplast.task.error import Reduction, judgement

KINDS = ("mse", "smooth_l1", "cross_entropy")


def drawn(kind, dtype):
    rng = np.random.default_rng(3)
    y, target = 2 * rng.normal(size=(40, 6, 4)), rng.normal(size=(40, 6, 4))
    target[0], y[0] = 0.0, [-1.0, 0.0, 1.0, 2.0]  # where bounds are met
    if kind == "cross_entropy":
        target = np.eye(4)[rng.integers(0, 4, (40, 6))]
        y[1], y[2] = 1.0, 40 * y[2]  # all alike, and far apart
    return torch.tensor(y, dtype=dtype), torch.tensor(target, dtype=dtype)


def by_hand(kind, y, target):
    """``(loss, error)`` as each was written before losses were text."""
    if kind == "mse":
        return 0.5 * ((y - target) ** 2).sum(-1), y - target
    if kind == "smooth_l1":
        size, near = abs(y - target), (y - target).clip(-1, 1)
        return (abs(near) * (size - 0.5 * abs(near))).sum(-1), near
    shifted = y - y.amax(-1, keepdim=True)
    loss = target.sum(-1) * shifted.exp().sum(-1).log() - (shifted * target).sum(-1)
    return loss, y.softmax(-1) * target.sum(-1, keepdim=True) - target


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_those_written_by_hand_to_the_last_bit(kind, dtype):
    """Value, error, and the gradient that automatic differentiation finds."""
    y, target = drawn(kind, dtype)
    loss, slopes = getattr(losses, kind)(), []
    for of in (loss.per_step, lambda *a: by_hand(kind, *a)[0]):
        outputs = y.clone().requires_grad_()
        found = of(outputs, target)
        slopes.append(torch.autograd.grad((found * torch.linspace(0.1, 0.7, 6)).sum(), [outputs])[0])
        assert torch.equal(found.detach(), by_hand(kind, y, target)[0])
    assert torch.equal(*slopes)
    assert torch.equal(loss.error(y, target), by_hand(kind, y, target)[1])


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_is_the_slope_of_the_loss(kind):
    y, target = drawn(kind, torch.float64)
    loss, y = getattr(losses, kind)(), y.requires_grad_()
    (slope,) = torch.autograd.grad(loss.per_step(y, target).sum(), [y])
    assert (slope - loss.error(y.detach(), target)).abs().max() < 1e-14
    assert (slope - 1.001 * loss.error(y.detach(), target)).abs().max() > 1e-4
    numbers = y.detach().numpy(), target.numpy()
    np.testing.assert_allclose(loss.per_step(*numbers), loss.per_step(y.detach(), target), rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(loss.error(*numbers), slope, rtol=1e-13, atol=1e-14)


def test_smooth_l1_in_a_program_is_what_was_written_with_sizes():
    """``abs(near)*(abs(gap) - 0.5*abs(near))`` was the text: signs cancel, and halves are exact."""
    net = Network(dt=1 * ms, cues=Input(1), out=Population(2, leaky_readout()), projections=[Projection("cues", "out")])
    learned = plan(net, eprop(), losses.smooth_l1())
    program, _ = online(net, net.draw(0), learned, record=["out.loss", "out.score"])
    lines = str(program).splitlines()
    assert lines[-6:] == [
        "out:",
        "    let out.loss.gap = out.learn.output - out.learn.target",
        "    let out.loss.near = clip(out.loss.gap, -1.0, 1.0)",
        "    out.loss.seen += (loss).weight*out.loss.near*(out.loss.gap - out.loss.near/2)",
        "out:",
        "    out.score.seen += (loss).weight*out.learn.output",
    ]
    assert "    out.learn.error = (loss).weight*clip(out.learn.output - out.learn.target, -1.0, 1.0)" in lines
    weight, gap = np.random.default_rng(1).normal(size=(2, 10_000))
    near = np.clip(gap, -1, 1)
    assert np.array_equal(weight * near * (gap - near / 2), weight * abs(near) * (abs(gap) - 0.5 * abs(near)))


def test_what_outputs_have_in_common_is_declared():
    output, target = to_sympy("output"), to_sympy("target")
    assert losses.mse().derived.reductions == losses.smooth_l1().derived.reductions == ()
    assert losses.cross_entropy().derived.reductions == (
        Reduction("softmax", "softmax", output),
        Reduction("whole", "sum", target),
    )
    assert str(losses.cross_entropy().derived.error) == "softmax*whole - target"
    flat = judgement((("loss", "int(softmax > 0.5)*output"),))
    assert flat.coupled and len(flat.reductions) == 1 and flat.error == to_sympy("int(softmax > 0.5)")


def test_a_bound_is_lifted_only_where_it_lets_through():
    """A clip of something else keeps its slope as it is."""
    near = ("near", "clip(output, -1, 1)")
    assert judgement((near, ("loss", "near*(output - near/2)"))).error == to_sympy("near")
    other = judgement((near, ("loss", "near*(target - near/2)"))).error
    assert other == to_sympy("(target - output)*int(output > -1)*int(output < 1)")


@pytest.mark.parametrize(
    ("text", "c"),
    [
        ("a - b*c", "a - b * c"),
        ("a*(b - c)", "a * (b - c)"),
        ("a/(b + 1)", "a * (R(1.0) / (b + R(1.0)))"),
        ("-(a + b)**2", "R(-1.0) * ((a + b) * (a + b))"),
        ("clip(a - b, -1, 1)", "smaller(larger(a - b, R(-1.0)), R(1.0))"),
        ("int(a > b)*c", "c * ((a > b) ? R(1.0) : R(0.0))"),
        ("sign(a - b)*c", "c * (((a - b) > 0) - ((a - b) < 0))"),
        ("sqrt(2)*a", "a * R(1.4142135623730951)"),
    ],
)
def test_c_text_in_one_line_keeps_its_brackets(text, c):
    assert in_one_line(to_sympy(text), str) == c


def test_so_do_words_that_stand_for_longer_c_text():
    words = {"softmax": "exp(y) / sum", "b": "b"}
    assert in_one_line(to_sympy("softmax*b"), words.get) == "b * (exp(y) / sum)"
    assert in_one_line(to_sympy("b/softmax"), words.get) == "b * (R(1.0) / (exp(y) / sum))"
