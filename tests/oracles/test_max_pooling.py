"""The largest of each square against Torch: its value, and where gradients and errors go back to."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from brian2 import ms

import localplast as lp
from localplast.errors import NetworkError, UnsupportedError
from localplast.models import graded_readout, latent_equilibrium, latent_equilibrium_output
from localplast.models.layers import layered
from localplast.program.forward import forward
from localplast.program.instructions import Reduce
from localplast.program.learn import plan
from localplast.program.locality import audit
from localplast.rules import bptt, dendritic

FORMS = {
    "even": lp.max_pooling((3, 6, 4), 2),
    "rows and columns left over": lp.max_pooling((2, 7, 8), 3),
    "all of an image": lp.max_pooling((4, 2, 2), 2),
    "every pixel": lp.max_pooling((2, 2, 3), 1),
}
#: Images below zero, and such in which many pixels of a square are the largest.
PIXELS = {
    "negative": lambda rng, shape: rng.normal(size=shape) - 2.0,
    "as large": lambda rng, shape: rng.integers(-3, 0, shape).astype(float),
}


def rates():
    """A neuron that says what it hears."""
    return lp.NeuronModel("rates", "v = I + b : 1\nI : 1\nback : 1", {"b": 0.0}, output="v", receives="I")


def network(form=FORMS["even"], *more, **options):
    """An image, the neurons that show it, and those that hear the largest of each square."""
    before, behind = (int(np.prod(image)) for image in form.ends)
    pool = lp.Projection("a", "b", **{"weight": form, "plastic": False, "name": "pool", **options})
    return lp.Network(
        dt=1 * ms, sense=lp.Input(before, "currents"), a=lp.Population(before, rates()),
        b=lp.Population(behind, rates()), out=lp.Population(behind, graded_readout()),
        projections=[
            lp.Projection("sense", "a", weight=np.eye(before), name="first"), pool,
            lp.Projection("b", "out", weight=np.eye(behind), plastic=False, name="said"), *more,
        ],
    )  # fmt: skip


def back(**options):
    return lp.Projection(
        "b", "a", **{"weight": lp.transposed("pool"), "target": "back", "plastic": False, "name": "down", **options}
    )


def shown(form, kind, steps=5):
    """Two images that stay, one that changes in every step."""
    given = PIXELS[kind](np.random.default_rng(1), (3, steps, int(np.prod(form.image))))
    given[:2] = given[:2, :1]
    return given


def pooled(signal, form):
    """By hand, in Torch."""
    images = torch.as_tensor(signal).reshape(-1, *form.image)
    return torch.nn.functional.max_pool2d(images, form.size).reshape(*signal.shape[:-1], -1)


def seen(net, given, *what):
    found = lp.run(net, lp.Trials({"sense": given}), backend="torch", record=what)
    return [found[name.split(".")[0]][name.split(".")[1]].values for name in what]


@pytest.mark.parametrize("kind", PIXELS)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_it_is_what_torch_takes(form, kind):
    given = shown(form, kind)
    (found,) = seen(network(form), given, "b.v")
    np.testing.assert_array_equal(found[:2, -1], pooled(given[:2, -1], form))
    assert np.abs(found[:2, -1] - pooled(-given[:2, -1], form).numpy()).max() > 0.5


@pytest.mark.parametrize("kind", PIXELS)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_gradient_goes_to_what_was_taken(form, kind):
    """Of the weights before it, against automatic differentiation; the first of several that are as large."""
    given = shown(form, kind)[:2]
    net, wanted = network(form), np.random.default_rng(2).normal(size=(2, 5, int(np.prod(form.made))))
    trials = lp.Trials({"sense": given}, wanted, np.array([0, 0, 0, 0, 1.0]))
    found = lp.gradient(net, trials, bptt(), loss=lp.losses.mse())["first"]["gradient"].values
    weight = torch.eye(given.shape[-1], dtype=float, requires_grad=True)
    gap = pooled(torch.as_tensor(given[:, -1]) @ weight, form) - torch.as_tensor(wanted[:, -1])
    (expected,) = torch.autograd.grad((gap**2).sum(-1).mean() / 2, weight)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)
    averages = lp.gradient(network(replace(form, largest=False)), trials, bptt(), loss=lp.losses.mse())
    assert form.size == 1 or np.abs(averages["first"]["gradient"].values - found).max() > 0.1


@pytest.mark.parametrize("first", [True, False], ids=["listed behind", "listed before"])
@pytest.mark.parametrize("times", [1.0, -0.5])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_what_comes_back_goes_to_what_was_taken(form, times, first):
    """Of images that change in every step, too: to the neuron that is the largest when it is sent."""
    down, given = back(weight=lp.transposed("pool", times=times)), shown(form, "as large", 8)
    net = network(form, down)
    if not first:
        order = [down, *(p for p in net.projections.values() if p.name != "down")]
        net = lp.Network(dt=net.dt, projections=order, **net.nodes)
    a, b, heard = (torch.as_tensor(x) for x in seen(net, given, "a.v", "b.v", "a.back"))
    images, sent = (x[:, :-1].reshape(-1, *image) for x, image in zip((a, b), form.ends, strict=True))
    _, where = torch.nn.functional.max_pool2d(images, form.size, return_indices=True)
    expected = torch.nn.functional.max_unpool2d(sent, where, form.size, output_size=images.shape[-2:])
    np.testing.assert_array_equal(heard[:, 1:].reshape(expected.shape), times * expected)
    assert expected.abs().max() >= 1


def test_which_were_taken_is_known_once():
    net = network(FORMS["even"], back())
    program = forward(net, net.draw(0))
    assert sum(isinstance(s, Reduce) for s in program.step) == 1
    assert "argmax(a.sent.0) of each 2 x 2" in str(program)


def test_neurons_of_a_square_know_of_each_other():
    """All else that this network does is local."""
    cells = latent_equilibrium(activation="tanh"), latent_equilibrium(activation="linear")
    weights, own = [lp.normal(), FORMS["even"], lp.normal()], [lp.normal(), lp.normal()]
    for pool, local in ((FORMS["even"], False), (lp.normal(), True)):
        weights[1], learns = pool, [True, not pool == FORMS["even"], True]
        options = {"weight": weights, "down": own, "plastic": learns, "feedback": "random"}
        net = layered((5, 72, 18, 2), cells, latent_equilibrium_output(), **options)
        found = audit(plan(net, dendritic(), lp.losses.mse()), net).check()
        assert found.strict == local
        assert local or "up2 carries the largest of each 2 x 2 neurons of hidden1" in found.reasons[0]


@pytest.mark.parametrize(("made", "kind", "says"), [
    (lambda: network(plastic=True), UnsupportedError, "'pool': the largest of a square .* plastic=True would be of no"),
    (lambda: network(mask=0.5), UnsupportedError, "a mask would be of no use; give plastic=False"),
    (lambda: network(bounds=(0, 1)), UnsupportedError, "bounds would be of no use"),
    (lambda: network(FORMS["even"], back(weight=replace(FORMS["even"], transposed=True))), UnsupportedError,
     "'down': what comes back .*from 'a' alone; give weight=transposed"),
    (lambda: network(FORMS["even"], back(weight=lp.same_as("pool", transposed=True))), UnsupportedError, "transposed"),
    (lambda: network(FORMS["even"], lp.Projection("b", "sink", weight=lp.transposed("pool"), plastic=False)),
     NetworkError, "sink"),
    (lambda: network(replace(FORMS["even"], stride=1)), NetworkError, "squares which do not overlap.*max_pooling"),
    (lambda: network(replace(FORMS["even"], groups=1)), NetworkError, "channel by channel"),
    (lambda: lp.max_pooling((3, 4, 4), 5), NetworkError, "5 x 5 does not fit"),
    (lambda: lp.max_pooling((3, 4), 2), NetworkError, "an image is .channels, rows, columns."),
    (lambda: network(delay=lp.axonal(1 * ms)), UnsupportedError, "convolutional weights with a delay"),
])  # fmt: skip
def test_what_cannot_be_is_refused(made, kind, says):
    with pytest.raises(kind, match=says):
        made()
