"""Convolutional weights against dense ones that hold the same numbers, against Torch by hand and central
differences.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from brian2 import ms, mV

import localplast as lp
from localplast.errors import NetworkError, UnsupportedError
from localplast.models import graded_readout, leaky_readout, lif
from localplast.models.latent_equilibrium import latent_equilibrium, latent_equilibrium_output
from localplast.models.layers import layered
from localplast.network.convolution import form_of
from localplast.rules import bptt, dendritic, eprop, rtrl
from localplast.runs.mirror import mirror

FORMS = {
    "plain": lp.convolution((2, 6, 5), 3, 3),
    "stride and padding, a row left over": lp.convolution((2, 8, 7), 3, 3, stride=2, padding=1),
    "groups": lp.convolution((4, 5, 5), 6, 2, groups=2),
    "pooling": lp.pooling((3, 6, 4), 2),
    "one pixel": lp.convolution((3, 2, 2), 4, 1),
}


def synapses(form):
    """``(pre, post, entry)`` of every synapse from the image to what is made of it, by hand; ``entry`` is flat in the
    kernel.
    """
    image, made, shape = form.image, form.made, form.shape
    found = []
    for c, y, x in np.ndindex(made):
        for k, i, j in np.ndindex(shape[1:]):
            channel = c // (form.channels // form.groups) * shape[1] + k
            row, column = y * form.stride + i - form.padding, x * form.stride + j - form.padding
            if 0 <= row < image[1] and 0 <= column < image[2]:
                numbers = np.ravel_multi_index((channel, row, column), image), np.ravel_multi_index((c, y, x), made)
                found.append((*numbers, np.ravel_multi_index((c, k, i, j), shape)))
    return np.array(found).T


def dense(form, kernel):
    """The weights ``(pre, post)`` of a dense projection that does the same."""
    pre, post, entry = synapses(form)
    matrix = np.zeros((np.prod(form.image), np.prod(form.made)))
    matrix[pre, post] = kernel.flat[entry]
    return matrix.T if form.transposed else matrix


def shared(form, gradient):
    """A dense gradient ``(pre, post)`` summed over the synapses that share a weight."""
    pre, post, entry = synapses(form)
    gradient = gradient.T if form.transposed else gradient
    return np.bincount(entry, gradient[pre, post], np.prod(form.shape)).reshape(form.shape)


def single(form, **options):
    sizes = [int(np.prod(image)) for image in form.ends]
    return lp.Network(
        dt=1 * ms, sense=lp.Input(sizes[0], "currents"), out=lp.Population(sizes[1], graded_readout()),
        projections=[lp.Projection("sense", "out", weight=form, name="conv", **options)],
    )  # fmt: skip


def currents(net, trials=2, steps=3, seed=1):
    return np.random.default_rng(seed).normal(size=(trials, steps, net.size("sense")))


def shown(net, signal, **options):
    return lp.run(net, lp.Trials({"sense": signal}), backend="torch", record=["out.shown"], **options)["out"][
        "shown"
    ].values


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_product_is_that_of_torch_and_of_dense_weights(form):
    net = single(form)
    kernel, signal = net.draw(0).weights["conv"], currents(net)
    images = torch.tensor(signal).reshape(-1, *form.image)
    by_hand = torch.nn.functional.conv2d(
        images, torch.tensor(kernel), stride=form.stride, padding=form.padding, groups=form.groups
    )
    found = shown(net, signal)
    np.testing.assert_allclose(found, by_hand.reshape(found.shape), rtol=0, atol=1e-14)
    np.testing.assert_allclose(found, signal @ dense(form, kernel), rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_way_back_is_the_transpose(form):
    net = single(replace(form, transposed=True))
    kernel, signal = net.draw(0).weights["conv"], currents(net)
    np.testing.assert_allclose(shown(net, signal), signal @ dense(form, kernel).T, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("form", "other"), [
    (lp.convolution((2, 9, 9), 3, 3, stride=3), {"padding": 1}),
    (lp.convolution((2, 8, 8), 3, 3, stride=3), {"stride": 4}),
    (lp.convolution((4, 5, 5), 6, 2, groups=2), {"image": (4, 5, 5), "groups": 1}),
])  # fmt: skip
def test_another_geometry_gives_other_numbers(form, other):
    net, changed = single(form), replace(form, **other)
    assert changed.made == form.made
    kernel, signal = net.draw(0).weights["conv"], currents(net)
    wider = np.tile(kernel, (1, changed.shape[1] // kernel.shape[1], 1, 1))
    assert np.abs(shown(net, signal) - signal @ dense(changed, wider)).max() > 0.1


def test_what_is_drawn_knows_its_fan_in():
    form = lp.convolution((4, 20, 20), 200, 5, stride=2)
    for image, fan_in in ((form, 100), (replace(form, transposed=True), 200 * 25 / 4)):
        net = single(image)
        kernel = net.draw(3).weights["conv"]
        assert kernel.shape == (200, 4, 5, 5) and kernel.std() == pytest.approx(fan_in**-0.5, rel=0.02)
        np.testing.assert_array_equal(kernel, net.draw(3).weights["conv"])
        signal = currents(net, steps=1)
        middle = (
            shown(net, signal).reshape(-1, *image.ends[1])[..., 5:-5, 5:-5] if image.transposed else shown(net, signal)
        )
        assert middle.std() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_group_has_the_fan_in_of_its_part_of_the_image(groups):
    """Counted: as many synapses as meet at a neuron away from the edges."""
    form = lp.convolution((8, 9, 9), 400, 3, groups=groups, padding=1)
    for image in (form, replace(form, transposed=True)):
        small = replace(image, channels=8, weight=1.0)
        meet = np.count_nonzero(dense(small, np.ones(small.shape)), axis=0).reshape(small.ends[1])[:, 4, 4]
        assert set(meet) == {small.fan_in} == {8 / groups * 9}
        kernel = single(image).draw(0).weights["conv"]
        assert kernel.std() == pytest.approx((image.fan_in) ** -0.5, rel=0.03)
    assert form.fan_in == 8 / groups * 9 and replace(form, transposed=True).fan_in == 400 / groups * 9


def test_averages_of_pixels():
    form = lp.pooling((3, 6, 4), 2)
    net = single(form, plastic=False)
    signal = currents(net)
    means = signal.reshape(2, 3, 3, 3, 2, 2, 2).mean((4, 6))
    np.testing.assert_allclose(shown(net, signal), means.reshape(2, 3, -1), rtol=0, atol=1e-14)


# --- backpropagation through time ------------------------------------------------------------------------------------

FIRST, SECOND = lp.convolution((2, 6, 5), 3, 3, padding=1), lp.convolution((3, 6, 5), 4, 2, stride=2)


def leaky():
    """A rate neuron that remembers."""
    return lp.NeuronModel(
        "leaky",
        "dv/dt = (-v + I)/tau : 1\nI : 1",
        {"tau": 3 * ms},
        output="tanh(v)",
        method="exponential_euler",
        receives="I",
    )


def recurrent(weights=(FIRST, SECOND)):
    """Two convolutions, the second with a way back, and a dense readout."""
    return lp.Network(
        dt=1 * ms, sense=lp.Input(60, "currents"), a=lp.Population(90, leaky()), b=lp.Population(24, leaky()),
        out=lp.Population(2, graded_readout()),
        projections=[
            lp.Projection("sense", "a", weight=weights[0], name="first"), lp.Projection("a", "b", weight=weights[1], name="second"),
            lp.Projection("b", "a", weight=lp.transposed("second", times=-0.3), plastic=False, name="back"),
            lp.Projection("b", "out", name="last"),
        ],
    )  # fmt: skip


def to_dense(net, twin, values):
    """The numbers of ``net`` as those of its dense ``twin``."""
    forms = {"first": FIRST, "second": SECOND}
    weights = {name: dense(forms[name], w) if name in forms else w for name, w in values.weights.items()}
    return twin.draw(0).replace_weights(twin.tie(weights))


def wanted(net, steps=12, seed=2):
    rng = np.random.default_rng(seed)
    return lp.Trials({"sense": currents(net, steps=steps)}, rng.normal(size=(2, steps, 2)))


def test_gradients_through_time_are_central_differences_and_sums_of_dense_ones():
    net, twin = recurrent(), recurrent((lp.normal(), lp.normal()))
    trials, values = wanted(net), net.draw(0)
    found = lp.gradient(net, trials, bptt(), values=values)
    assert found["second"]["gradient"].dims == ("channel", "image_channel", "row", "column")
    for name, entries in {"first": [(0, 0, 0, 0), (2, 1, 1, 2)], "second": [(0, 0, 1, 1), (3, 2, 0, 1)]}.items():
        for entry in entries:
            assert found[name]["gradient"].values[entry] == pytest.approx(
                quotient(net, trials, values, name, entry), rel=1e-6
            )
    full = lp.gradient(twin, trials, bptt(), values=to_dense(net, twin, values))
    for name, form in (("first", FIRST), ("second", SECOND)):
        expected = shared(form, full[name]["gradient"].values)
        np.testing.assert_allclose(found[name]["gradient"], expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def quotient(net, trials, values, name, entry, h=1e-5):
    """The central difference of the loss."""

    def loss(step):
        weight = values.weights[name].copy()
        weight[entry] += step
        moved = values.replace_weights(net.tie({**values.weights, name: weight}))
        return lp.gradient(net, trials, bptt(), values=moved).attrs["loss"]

    return (loss(h) - loss(-h)) / (2 * h)


def test_spikes_go_through_kernels_too():
    form = FORMS["plain"]

    def network(weight):
        return lp.Network(
            dt=1 * ms, cues=lp.Input(60), cells=lp.Population(36, lif(v_th=0.5)), out=lp.Population(2, leaky_readout()),
            projections=[lp.Projection("cues", "cells", weight=weight, name="conv"), lp.Projection("cells", "out", name="last")],
        )  # fmt: skip

    net, twin = network(form), network(lp.normal())
    values = net.draw(0)
    full = twin.draw(0).replace_weights({"conv": dense(form, values.weights["conv"])})
    trials = lp.Trials({"cues": np.random.default_rng(0).random((3, 30, 60)) < 0.2}, np.array([0, 1, 1]))
    found, expected = lp.gradient(net, trials, bptt(), values=values), lp.gradient(twin, trials, bptt(), values=full)
    spikes = lp.run(net, trials, backend="torch", values=values, record=["cells.spikes"])["cells"].sizes["spike"]
    assert 100 < spikes < 2000 and found.attrs["loss"] == pytest.approx(expected.attrs["loss"], rel=1e-12)
    summed = shared(form, expected["conv"]["gradient"].values)
    np.testing.assert_allclose(found["conv"]["gradient"], summed, rtol=0, atol=1e-12 * np.abs(summed).max())


# --- latent equilibrium ----------------------------------------------------------------------------------------------

IMAGES = lp.convolution((2, 6, 6), 3, 3), lp.pooling((3, 4, 4), 2), lp.convolution((3, 2, 2), 4, 2, padding=1)
SIZES = (72, 48, 12, 36, 3)


def layers(weights=IMAGES, feedback="symmetric", down=None):
    """Convolution, pooling, convolution, dense."""
    hidden = [latent_equilibrium(activation=name) for name in ("tanh", "linear", "tanh")]
    return layered(
        SIZES, hidden, latent_equilibrium_output(beta=0.1), feedback=feedback, weight=[*weights, lp.normal()], down=down
    )


def taught(steps=15, trials=2, seed=4):
    """A stream of two patterns."""
    rng = np.random.default_rng(seed)
    inputs = {
        "sense": np.repeat(rng.normal(size=(trials, 2, 72)), steps, 1), "teach": np.ones((trials, 2 * steps, 1)),
        "target": np.repeat(rng.normal(size=(trials, 2, 3)), steps, 1),
    }  # fmt: skip
    return lp.Trials(inputs, inputs["target"], np.full(2 * steps, 1 / (2 * steps)))


def dense_twin(net, feedback="symmetric", drop=()):
    """The same network with dense weights, and its numbers; those of the projections in ``drop`` stay as they are
    drawn.
    """
    twin, found = layers([lp.normal()] * 3, feedback), {}
    for name, weight in net.draw(0).weights.items():
        form = form_of(net.projections, net.projections[name])
        if name not in drop:
            found[name] = dense(form, weight) if form else weight
    return twin, twin.draw(0).replace_weights(twin.tie({**twin.draw(0).weights, **found}))


def back():
    """Fixed random feedback through kernels of its own."""
    return [replace(form, weight=lp.normal(), transposed=True) for form in IMAGES[1:]] + [lp.normal()]


WAYS = {"symmetric": ("symmetric", None), "random": ("random", back()), "learned": ("learned", back())}


def apart(net, twin, values):
    """The largest relative error of the kernels' gradients, which should be those of dense weights, summed over what
    is shared.
    """
    ours, theirs = lp.gradient(net, taught(), dendritic()), lp.gradient(twin, taught(), dendritic(), values=values)
    errors = []
    for p in net.plastic:
        form, full = form_of(net.projections, p), theirs[p.name]["gradient"].values
        expected = shared(form, full) if form else full
        assert np.abs(expected).max() > 1e-5
        errors.append(np.abs(ours[p.name]["gradient"].values - expected).max() / np.abs(expected).max())
    return max(errors)


@pytest.mark.parametrize("way", WAYS)
def test_a_kernel_learns_the_sum_of_what_dense_synapses_learn(way):
    net = layers(feedback=WAYS[way][0], down=WAYS[way][1])
    assert apart(net, *dense_twin(net, way)) < 1e-12


def test_feedback_through_other_kernels_is_noticed():
    net = layers()
    twin, values = dense_twin(net, "random", drop=("down1", "down2"))
    assert apart(net, twin, values) > 0.1


def task():
    def testing(n, seed):
        return taught(trials=n, seed=99)

    return lp.Task("patterns", lambda update, batch, seed: taught(trials=batch, seed=update), testing)


def learned(net, rule=dendritic(), **options):
    course = {"optimiser": lp.adam(0.01), "loss": lp.losses.mse(), "backend": "torch", "batch": 2, "test": 2}
    return lp.run(net, task(), rule=rule, **course, **options)


@pytest.mark.parametrize("rule", [dendritic(update="trial"), dendritic()], ids=["trial", "step"])
def test_symmetric_feedback_stays_symmetric_while_kernels_learn(rule):
    net = layers()
    fit = learned(net, rule, updates=3)
    for name, up in (("down1", "up2"), ("down2", "up3")):
        np.testing.assert_array_equal(fit[name]["weight"], fit[up]["weight"])
        assert np.abs(fit[up]["weight"].values - net.draw(0).weights[up]).max() > 1e-3


def test_learned_feedback_that_begins_symmetric_stays_so():
    """Kolen and Pollack's product is the same on the way back."""
    net = layers(feedback="learned", down=[lp.same_as(f"up{k}", transposed=True) for k in (2, 3, 4)])
    found = lp.gradient(net, taught(), dendritic())
    np.testing.assert_allclose(found["down2"]["gradient"], found["up3"]["gradient"], rtol=0, atol=1e-14)
    np.testing.assert_allclose(found["down3"]["gradient"], found["up4"]["gradient"].values.T, rtol=0, atol=1e-14)


# --- files and records -----------------------------------------------------------------------------------------------


def test_a_network_with_kernels_is_written_and_read(tmp_path):
    net = layers(feedback="random", down=back())
    net.save(tmp_path / "net.json")
    again = lp.Network.load(tmp_path / "net.json")
    assert again == net and again != layers()
    for name, weight in net.draw(1).weights.items():
        np.testing.assert_array_equal(again.draw(1).weights[name], weight)


@pytest.mark.thorough
def test_kernels_are_recorded_and_resumed(tmp_path):
    net, options = layers(), {"record": {"up1.weight": {"every": 2}}, "test_every": 2}
    whole = learned(net, updates=4, **options)
    learned(net, updates=2, **options, path=tmp_path / "fit")
    fit = learned(net, updates=4, **options, path=tmp_path / "fit", resume=True)
    assert fit["up1"]["weight"].dims == ("update", "channel", "image_channel", "row", "column")
    np.testing.assert_array_equal(fit["up1"]["weight"], whole["up1"]["weight"])
    np.testing.assert_array_equal(net.values_from(fit).weights["up3"], whole["up3"]["weight"])


@pytest.mark.thorough
def test_rules_are_compared_on_kernels():
    """Gradients, feedback and costs are those of kernels; what is tied has no angle to what it is tied to."""
    rules = {
        "LE": lp.Contender(dendritic(), "torch"), "BPTT": bptt(),
        "random": lp.Contender(dendritic(), "torch", network=layers(feedback="random", down=back())),
    }  # fmt: skip
    course = {"optimiser": lp.adam(0.01), "loss": lp.losses.mse(), "batch": 2, "updates": 2, "test": 2, "probes": 1}
    tree = lp.compare(layers(), task(), rules, hidden="hidden1", show=False, **course)
    aligned, feedback = tree["alignment"]["cosine"].isel(seed=0), tree["feedback"]["cosine"].isel(seed=0)
    assert (
        float(aligned.sel(rule="LE", projection="up3").min())
        > 0.5
        > float(aligned.sel(rule="random", projection="up1").max())
    )
    np.testing.assert_allclose(feedback.sel(rule="LE", projection=["up2", "up3", "up4"]), 1.0, rtol=0, atol=1e-12)
    assert np.abs(feedback.sel(rule="random", projection=["up3", "up4"])).max() < 0.9
    assert np.isfinite(tree["cost"]["bytes_per_synapse"].sel(projection="up1")).all()


def test_bounds_hold_for_kernels():
    net = single(FORMS["plain"], bounds=(-0.1, np.full((3, 1, 1, 1), 0.2)))
    kernel = net.draw(0).weights["conv"]
    assert kernel.min() == -0.1 and kernel.max() == 0.2


def test_a_network_shows_its_kernels():
    text = repr(layers())
    assert "up1: sense -> hidden1.I, graded, kernel 3 x 2 x 3 x 3" in text
    assert "down2: hidden3.delta -> hidden2.feedback, graded, kernel 4 x 3 x 2 x 2, fixed" in text


def test_describe_says_that_sharing_is_not_local():
    text = str(dendritic().describe(layers(), lp.losses.mse()))
    assert "the kernel of up1 learns from a sum over all places that share it, 4 x 4 (weight sharing)" in text
    assert "what down1 carries back goes through the weights of up2, read backwards (weight transport)" in text
    assert "not local in a strict sense" in text


# --- what there is not -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "message"), [
    ((28, 3, 3), "three whole numbers from 1, not (28,)"),
    (((1, 4, 4), 3, 5), "5 x 5 does not fit in an image of 4 x 4 with padding 0"),
    (((1, 4, 4), 0, 3), "channels is a whole number from 1, not 0"), (((3, 4, 4), 4, 3), "2 groups must divide"),
    (((2, 4, 4), 4, 3), "make that the weight itself"),
])  # fmt: skip
def test_impossible_kernels(given, message):
    with pytest.raises(NetworkError) as raised:
        lp.convolution(
            *given, groups=1 + (given[0] == (3, 4, 4)), weight=lp.same_as("x") if given[0] == (2, 4, 4) else None
        )
    assert message in str(raised.value)


def sized(pre, post, form=FORMS["plain"], **options):
    return lp.Network(
        dt=1 * ms, sense=lp.Input(pre, "currents"), out=lp.Population(post, graded_readout()),
        projections=[lp.Projection("sense", "out", weight=form, name="conv", **options)],
    )  # fmt: skip


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: sized(50, 36), NetworkError, "reads an image of 2 x 6 x 5 = 60 numbers, but 'sense' has 50; give 'sense' 60"),
    (lambda: sized(60, 30), NetworkError, "makes an image of 3 x 4 x 3 = 36 numbers, but 'out' has 30; give 'out' 36"),
    (lambda: sized(60, 36, lp.convolution((2, 6, 5), 3, 3, weight=np.ones((2, 3)))), NetworkError,
     "the weight has shape (2, 3); (channel, image_channel, row, column) is (3, 2, 3, 3)"),
    (lambda: sized(60, 36, lp.convolution((2, 6, 5), 3, 3, weight=1 * mV)), NetworkError, "has the wrong unit"),
    (lambda: sized(60, 36, mask=np.ones((60, 36))), NetworkError, "the mask has shape (60, 36)"),
    (lambda: sized(60, 36, bounds=(np.zeros(60), None)), NetworkError, "for one per channel give (3, 1, 1, 1)"),
    (lambda: sized(60, 36, delay=lp.axonal(2 * ms)), UnsupportedError, "with a delay are not supported"),
])  # fmt: skip
def test_wrong_projections_are_refused(make, error, message):
    with pytest.raises(error) as raised:
        make()
    assert message in str(raised.value) and "'conv'" in str(raised.value)


SQUARE = lp.convolution((1, 3, 3), 1, 3, padding=1)


def test_what_needs_a_matrix_says_so():
    round_about = lp.Network(
        dt=1 * ms, sense=lp.Input(9, "currents"), a=lp.Population(9, leaky()), cues=lp.Input(60), b=lp.Population(36, lif()),
        projections=[
            lp.Projection("sense", "a"), lp.Projection("a", "a", weight=SQUARE, name="loop", autapses=True),
            lp.Projection("cues", "b", weight=FORMS["plain"], name="conv"),
        ],
    )  # fmt: skip
    with pytest.raises(UnsupportedError, match="'loop' is a convolution, whose kernel is no square matrix"):
        lp.dynamics.spectral_radius(round_about, round_about.draw(0), "loop")
    with pytest.raises(UnsupportedError, match="'conv' is a convolution: a mirror learns every synapse by itself"):
        mirror(round_about, paths=["conv"])
    with pytest.raises(UnsupportedError, match="cannot leave out autapses; write autapses=True"):
        lp.Network(dt=1 * ms, a=lp.Population(9, leaky()), projections=[lp.Projection("a", "a", weight=SQUARE)])


@pytest.mark.parametrize("use", [
    lambda net: lp.run(net, taught(), backend="brian2", record=["said.shown"]),
    lambda net: lp.gradient(net, taught(trials=1), dendritic(), backend="brian2"),
    lambda net: lp.gradient(net, taught(), eprop()),
    lambda net: lp.gradient(net, taught(), rtrl()),
    lambda net: lp.gradient(net, taught(), bptt(feedback="random")),
], ids=["brian2", "brian2 learns", "eprop", "rtrl", "random feedback"])  # fmt: skip
def test_what_knows_no_kernels_says_so(use):
    with pytest.raises(UnsupportedError, match="projection 'up1' is a convolution.*; use"):
        use(layers())


def test_a_kernel_onto_a_neuron_that_remembers_does_not_learn_by_traces():
    slow = replace(leaky(), mismatch={"I": lp.Mismatch("1 - v", of="v")})
    net = lp.Network(
        dt=1 * ms, sense=lp.Input(60, "currents"), a=lp.Population(36, slow), out=lp.Population(2, graded_readout()),
        projections=[lp.Projection("sense", "a", weight=FORMS["plain"], name="conv"), lp.Projection("a", "out", plastic=False)],
    )  # fmt: skip
    with pytest.raises(
        UnsupportedError, match="'conv': places that share a kernel .* times a mismatch of 'a'.*use bptt"
    ):
        lp.gradient(net, wanted(net), dendritic())
    assert np.abs(lp.gradient(net, wanted(net), bptt())["conv"]["gradient"]).max() > 0
