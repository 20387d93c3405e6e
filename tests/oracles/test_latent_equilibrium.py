"""Latent equilibrium against the recursion written by hand, backpropagation by autograd, and its own energy.

Haider et al. 2021, NeurIPS, arXiv:2110.14549. The dendritic microcircuit with the same prospective cells, whose
apical potentials are the errors here, has its oracles in test_microcircuit.py.
"""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from brian2 import ms

import localplast as lp
from localplast.errors import RunawayError
from localplast.learning.optimise import sgd
from localplast.models import latent_equilibrium, latent_equilibrium_output
from localplast.models.layers import layered, stream
from localplast.models.prospective import ACTIVATIONS
from localplast.network import Network, axonal, normal
from localplast.program.learn import plan
from localplast.program.locality import audit
from localplast.rules import bptt, dendritic

SIZES = (4, 6, 5, 3)
LAYERS = ("hidden1", "hidden2", "out")
UPS = ("up1", "up2", "up3")


def network(
    sizes=SIZES, *, activation="tanh", prospective=True, answer="linear", target="rate", parameters=None, **options
):
    hidden = latent_equilibrium(activation=activation, prospective=prospective)
    output = latent_equilibrium_output(activation=answer, prospective=prospective, target=target)
    return layered(sizes, hidden, output, parameters=parameters, **options)


def patterns(count=5, steps=8, *, seed=0, sizes=SIZES):
    """A stream of random patterns that follow each other without warning, with a teacher."""
    rng = np.random.default_rng(seed)
    return stream(rng.uniform(-1, 1, (1, count, sizes[0])), rng.uniform(-1, 1, (1, count, sizes[-1])), steps=steps)


def seen(net, given, values, backend="torch", what=("u_breve", "delta"), layers=LAYERS):
    """``{variable: [(time, neuron) of every layer]}`` of the first trial."""
    target = {"target": "numpy"} if backend == "brian2" else {}
    found = lp.run(
        net, given, values=values, backend=backend, record=[f"{n}.{v}" for n in layers for v in what], **target
    )
    return {v: [found[n][v].values[0] for n in layers] for v in what}


def learned(net, given, backend, optimiser, values=None):
    """The numbers that learning through ``given`` once, in every step, ends with."""
    task = lp.Task("stream", lambda *_: given, None)
    fit = lp.run(
        net,
        task,
        rule=dendritic(),
        backend=backend,
        target="numpy",
        updates=1,
        batch=len(given),
        loss=lp.losses.mse(),
        seed=1,
        optimiser=optimiser,
        values=values,
    )
    return net.values_from(fit)


def largest(one, other):
    return max(np.abs(a - b).max() for a, b in zip(one, other, strict=True))


BIASES = [np.linspace(-0.3, 0.4, n) for n in SIZES[1:]]


class TestRecursion:
    """Facts 12.5, step by step."""

    @pytest.mark.sampled(2)
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    @pytest.mark.parametrize("backend", ["torch", "brian2"])
    def test_every_step(self, activation, backend, by_hand):
        net = network(activation=activation, parameters={n: {"b": b} for n, b in zip(LAYERS, BIASES, strict=True)})
        values, given = net.draw(1), patterns()
        found = seen(net, given, values, backend)
        _, expected = by_hand(values.weights, given, activation=activation, biases=dict(enumerate(BIASES)))
        for name in expected:
            assert largest(found[name], expected[name]) < 1e-14, name
            assert min(np.ptp(x, axis=0).max() for x in expected[name]) > 1e-3, name

    def test_other_recursions_are_noticed(self, by_hand):
        net, given = network(), patterns()
        found = seen(net, given, net.draw(1))
        for other in ({"beta": 0.101}, {"late": 1}, {"mixed": True}, {"activation": "logistic"}):
            _, expected = by_hand(net.draw(1).weights, given, **other)
            assert largest(found["u_breve"], expected["u_breve"]) > 1e-3, other

    @pytest.mark.sampled(2)
    @pytest.mark.parametrize("feedback", ["symmetric", "random", "direct"])
    @pytest.mark.parametrize("backend", ["torch", "brian2"])
    def test_learning_in_every_step(self, feedback, backend, by_hand):
        """The weights of all layers change while errors pass through them; symmetric feedback changes with them."""
        net, given = network(feedback=feedback, down=[normal(), normal()]), patterns()
        rates = {"up1": 0.1, "up2": 0.2, "up3": 0.05}
        end = learned(net, given, backend, sgd(0.1).with_rates(up2=2.0, up3=0.5)).weights
        start = net.draw(1).weights
        expected, _ = by_hand(start, given, rates=rates, feedback=feedback)
        for name in UPS:
            assert np.abs(expected[name] - start[name]).max() > 1e-2, name
            np.testing.assert_allclose(end[name], expected[name], rtol=0, atol=1e-12, err_msg=name)
        if feedback == "symmetric":
            np.testing.assert_array_equal(end["down2"], end["up3"].T)
            frozen, _ = by_hand(start, given, rates=rates, feedback="layered")
            assert np.abs(frozen["up1"] - expected["up1"]).max() > 1e-4  # feedback that stays behind would be noticed

    @pytest.mark.sampled(2)
    @pytest.mark.parametrize("steps", [1, 10, 100, 1001])
    def test_a_thousand_steps_with_weights_and_biases(self, steps, by_hand):
        """Brian2, Torch and the recursion, through inputs that change every 7 steps, learning all the time."""
        free, start = (
            {n: {"b": (None, None)} for n in LAYERS},
            {n: {"b": 0 * b} for n, b in zip(LAYERS, BIASES, strict=True)},
        )
        net, given = network(trainable=free, parameters=start), cut(patterns(143, 7), steps)
        optimiser = sgd(0.05).with_rates(**{f"{n}.b": 1.0 for n in LAYERS})
        ends = {backend: learned(net, given, backend, optimiser) for backend in ("torch", "brian2")}
        expected, _ = by_hand(net.draw(1).weights, given, rates=dict.fromkeys((*UPS, "b1", "b2", "b3"), 0.05))
        for k, (name, up) in enumerate(zip(LAYERS, UPS, strict=True), 1):
            assert (
                steps < 1001
                or min(np.abs(expected[up] - net.draw(1).weights[up]).max(), np.abs(expected[f"b{k}"]).max()) > 0.01
            )
            assert np.abs(ends["brian2"].weights[up] - ends["torch"].weights[up]).max() < 1e-8, name
            for backend, end in ends.items():
                found = {up: end.weights[up], f"b{k}": end.parameters[name]["b"]}
                for key, value in found.items():
                    np.testing.assert_allclose(value, expected[key], rtol=0, atol=1e-10, err_msg=f"{backend} {key}")

    @pytest.mark.sampled(2)
    @pytest.mark.parametrize(("late", "feedback"), [(1, "random"), (3, "symmetric")])
    def test_rates_that_travel_for_some_steps(self, late, feedback, by_hand):
        """Axonal delays between layers, on both backends: states, and what is learned from the rate that arrives."""
        net = delayed(network(feedback=feedback), ("up2", "up3"), late)
        given, values = patterns(6, 12), net.draw(1)
        _, expected = by_hand(values.weights, given, late=late, feedback=feedback)
        states = [seen(net, given, values, backend) for backend in ("torch", "brian2")]
        for found in states:
            assert largest(found["u_breve"], expected["u_breve"]) < 1e-9
        assert (
            largest(
                states[0]["u_breve"], by_hand(values.weights, given, late=late - 1, feedback=feedback)[1]["u_breve"]
            )
            > 0.1
        )
        expected, _ = by_hand(values.weights, given, late=late, feedback=feedback, rates=dict.fromkeys(UPS, 0.1))
        for backend in ("torch", "brian2"):
            end = learned(net, given, backend, sgd(0.1)).weights
            assert largest([end[n] for n in UPS], [expected[n] for n in UPS]) < 1e-9, backend


def delayed(net, names, steps):
    """``net`` with axonal delays on some projections."""
    projections = [replace(p, delay=axonal(steps * net.dt)) if n in names else p for n, p in net.projections.items()]
    return Network(dt=net.dt, projections=projections, **net.nodes)


@pytest.mark.thorough
class TestTimeConstants:
    """L1: what is sent is the same for every time constant; L6: without prospective coding, layers lag by theirs."""

    def rates(self, tau, dt, prospective=True, what="rate"):
        parameters = {n: {"tau": tau} for n in LAYERS}
        net = network(prospective=prospective, parameters=parameters, dt=dt * ms)
        return seen(net, patterns(), net.draw(1), what=(what,))[what]

    @pytest.mark.parametrize(
        "slow", [(200 * ms, 0.01), (np.array([11.0, 500.0, 0.1]) * ms, 0.1)], ids=["other", "per neuron"]
    )
    def test_rates_do_not_depend_on_them(self, slow):
        tau, dt = slow
        per_layer = {n: {"tau": np.resize(np.asarray(tau), SIZES[k + 1]) * 1000 * ms} for k, n in enumerate(LAYERS)}
        net = network(parameters=per_layer, dt=dt * ms)
        found = seen(net, patterns(), net.draw(1), what=("rate", "u"))
        assert largest(found["rate"], self.rates(10 * ms, 0.1)) < 4e-16
        assert largest(found["u"], self.rates(10 * ms, 0.1, what="u")) > 0.01  # the potential itself is another

    @pytest.mark.parametrize("prospective", [True, False])
    def test_the_prospective_potential_is_where_the_potential_goes(self, prospective):
        """``u_breve = u + tau du/dt``, though nobody takes the difference of two times."""
        net = network(prospective=prospective, parameters={n: {"tau": 7 * ms} for n in LAYERS})
        found = seen(net, patterns(), net.draw(1), what=("u", "u_breve"))
        for u, u_breve in zip(found["u"], found["u_breve"], strict=True):
            goal = u[:-1] + 70 * np.diff(u, axis=0)
            assert (np.abs(goal - u_breve[:-1]).max() < 1e-13) == prospective

    def test_lagging_rates_do(self):
        assert largest(self.rates(200 * ms, 0.01, False), self.rates(10 * ms, 0.1, False)) > 0.1

    def lag(self, depth, prospective, taus, activation="linear", height=1.0):
        """Steps by which the output of a chain follows a step of its input: the area between the two."""
        names = [*(f"hidden{k}" for k in range(1, depth)), "out"]
        net = network(
            (1,) * (depth + 1),
            activation=activation,
            prospective=prospective,
            feedback="random",
            weight=1.0,
            down=0.0,
            parameters={n: {"tau": tau * ms} for n, tau in zip(names, taus, strict=True)},
            dt=1 * ms,
        )
        ones = np.full((1, 1, 1), height)
        given = stream(ones, ones, steps=700).without(net.teachers)
        rate = seen(net, given, net.draw(0), what=("rate",), layers=("out",))["rate"][0][:, 0]
        return (1 - rate / rate[-1]).sum()

    @pytest.mark.parametrize("depth", [1, 3, 6])
    def test_lagging_layers_add_up_their_time_constants(self, depth):
        taus = np.linspace(5.0, 15.0, depth)
        assert self.lag(depth, False, taus) == pytest.approx(taus.sum(), rel=1e-9)
        assert self.lag(depth, True, taus) == depth - 1

    def test_so_do_saturating_ones_nearly(self):
        assert self.lag(6, False, [10.0] * 6, "tanh", 0.3) == pytest.approx(60, rel=0.05)
        assert self.lag(6, True, [10.0] * 6, "tanh", 0.3) == pytest.approx(5, abs=0.3)


class TestForwardPass:
    """L3: with a silent teacher there are no errors, and the network is the feed-forward one."""

    def test_errors_are_zero_and_potentials_those_of_the_forward_pass(self):
        net = network(parameters={n: {"b": b} for n, b in zip(LAYERS, BIASES, strict=True)})
        values, given = net.draw(2), patterns(4, 6).without(net.teachers)
        found = seen(net, given, values)
        rate = given.inputs["sense"][0]
        for k, name in enumerate(UPS):
            potential = rate @ values.weights[name] + BIASES[k]
            settled = np.arange(given.steps) % 6 >= k  # a step per layer
            np.testing.assert_allclose(found["u_breve"][k][settled], potential[settled], rtol=0, atol=1e-12)
            assert not found["delta"][k].any()
            rate = np.tanh(potential)
        late = np.arange(given.steps) % 6 == 1
        assert np.abs(found["u_breve"][2][late] - potential[late]).max() > 0.1  # before that it is the pattern before

    def test_a_teacher_makes_errors(self):
        net = network()
        assert min(np.abs(x).max() for x in seen(net, patterns(), net.draw(2))["delta"]) > 1e-3


class TestBackpropagation:
    """L2: for weak nudging, ``dW/beta`` is minus the gradient of the loss."""

    @staticmethod
    @functools.cache
    def exact(answer="linear", target="rate"):
        """Values, one pattern, and the gradient of half the squared error by autograd of the feed-forward network."""
        values, given = network().draw(3), patterns(1, 60, seed=4)  # any network's: of the same seed, the same weights
        w = [torch.tensor(values.weights[n], requires_grad=True) for n in UPS]
        x, wanted = (torch.tensor(given.inputs[k][:, -1]) for k in ("sense", "target"))
        u = torch.tanh(torch.tanh(x @ w[0]) @ w[1]) @ w[2]
        said = u if target == "voltage" or answer == "linear" else torch.sigmoid(u)
        return values, given, [g.numpy() for g in torch.autograd.grad(0.5 * ((wanted - said) ** 2).sum(), w)]

    def update(self, beta, net=None, backend="torch", answer="linear", target="rate"):
        """Minus what the weights learn in the last of 60 steps of one pattern, over beta."""
        given = self.exact(answer, target)[1]
        net = net or network(parameters={"out": {"beta": beta}}, answer=answer, target=target)
        values = net.draw(3)
        ends = [
            lp.gradient(net, cut(given, steps), dendritic(), values=values, backend=backend, loss=lp.losses.mse())
            for steps in (60, 59)
        ]
        return [(ends[0][n]["gradient"] - ends[1][n]["gradient"]).values / beta for n in UPS]

    def test_the_update_is_the_gradient(self):
        """Cosine 1.0000 for beta 1e-4, 0.9998 for 1e-2, 0.99 for 0.1; the ratio of lengths goes to 1."""
        _, _, exact = self.exact()
        for beta, cosine, digits, ratio in ((1e-4, 1.0, 4, 1e-3), (1e-2, 0.9998, 4, 0.1), (0.1, 0.99, 2, 1.0)):
            updates = self.update(beta)
            assert round(min(cosines(updates, exact)), digits) >= cosine, beta
            assert max(abs(lengths(updates, exact) - 1)) < ratio, beta
        assert min(cosines(self.update(0.1), exact)) < 0.99999  # only for weak nudging

    @pytest.mark.parametrize(("answer", "target"), [("logistic", "rate"), ("logistic", "voltage")])
    def test_for_targets_of_rates_and_of_potentials(self, answer, target):
        updates = self.update(1e-5, answer=answer, target=target)
        for found, expected in zip(updates, self.exact(answer, target)[2], strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
        other = self.exact(answer, {"rate": "voltage", "voltage": "rate"}[target])[2]
        assert max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(updates, other, strict=True)) > 0.1

    def test_on_both_backends(self):
        one, other = (self.update(1e-2, backend=backend) for backend in ("torch", "brian2"))
        assert largest(one, other) < 1e-11

    def test_bptt_through_the_silent_network_finds_the_same(self):
        values, given, exact = self.exact()
        last = replace(given, weight=(np.arange(60) == 59).astype(float))
        found = lp.gradient(network(), last, bptt(), values=values, loss=lp.losses.mse())
        for name, expected in zip(UPS, exact, strict=True):
            np.testing.assert_allclose(found[name]["gradient"].values, expected, rtol=0, atol=1e-14)

    def test_other_feedback_makes_another_gradient(self):
        """The output does not mind."""
        net = network(parameters={"out": {"beta": 1e-4}}, feedback="random")
        low, middle, top = cosines(self.update(1e-4, net), self.exact()[2])
        assert low < 0.8 and middle < 0.8 and top > 1 - 1e-6


def cut(given, steps):
    return replace(
        given, inputs={k: x[:, :steps] for k, x in given.inputs.items()}, target=given.target[:, :steps], weight=None
    )


def cosines(updates, exact):
    return [float((u * e).sum() / np.linalg.norm(u) / np.linalg.norm(e)) for u, e in zip(updates, exact, strict=True)]


def lengths(updates, exact):
    return np.array([np.linalg.norm(u) / np.linalg.norm(e) for u, e in zip(updates, exact, strict=True)])


class TestEnergy:
    """L7: learning lowers ``E = 1/2 sum ||u_breve - I - b||**2 + beta/2 ||target - rate||**2``."""

    def energies(self, rate, presentations=10):
        """While one pattern stays, after every 25 steps of it."""
        net, given = network(), patterns(1, 25, seed=5)
        values, found = net.draw(1), []
        for _ in range(presentations):
            states = seen(net, given, values, what=("delta", "rate"))
            mismatch = sum((x[-1] ** 2).sum() for x in states["delta"])
            found.append(0.5 * mismatch + 0.05 * ((given.inputs["target"][0, -1] - states["rate"][-1][-1]) ** 2).sum())
            values = learned(net, given, "torch", sgd(rate), values)
        return np.array(found)

    @pytest.mark.thorough
    def test_it_falls_all_the_time(self):
        found = self.energies(0.01)
        assert np.all(np.diff(found) < 0) and found[-1] < 0.5 * found[0]

    def test_not_in_steps_that_are_too_large(self):
        assert np.any(np.diff(self.energies(6.0, 3)) > 0)


class TestDivergence:
    """Facts 0.6, 12: where errors and inputs are of different steps they feed each other."""

    def setting(self, model=None, beta=0.1):
        net = layered(
            (4, 10, 8, 3), model or latent_equilibrium(activation="linear"), latent_equilibrium_output(beta=beta)
        )
        return net, net.draw(0), patterns(20, 20, sizes=(4, 10, 8, 3))

    def test_mismatch_and_input_of_one_step_stay_bounded(self, by_hand):
        net, values, given = self.setting()
        found, (_, expected) = seen(net, given, values)["u_breve"], by_hand(values.weights, given, activation="linear")
        assert largest(found, expected["u_breve"]) < 1e-12
        assert max(np.abs(x).max() for x in found) < 5

    def test_of_different_steps_they_diverge(self, by_hand):
        """By hand, and a model that compares its potential of the step before with the input of this one."""
        hidden, output = latent_equilibrium(activation="linear"), latent_equilibrium_output()
        right, wrong = "delta = slope*feedback", "delta = past - I - b"
        assert right in hidden.equations and right in output.equations
        net = layered(
            (4, 10, 8, 3), *(replace(m, equations=m.equations.replace(right, wrong)) for m in (hidden, output))
        )
        _, values, given = self.setting()
        _, expected = by_hand(values.weights, given, activation="linear", mixed=True)
        found = seen(net, cut(given, 40), values)["u_breve"]
        for k in range(3):
            np.testing.assert_allclose(found[k], expected["u_breve"][k][:40], rtol=1e-9)
        assert np.abs(expected["u_breve"][0][200]).max() > 1e20
        with pytest.raises(RunawayError, match="population '(hidden1|hidden2|out)' is not finite from step"):
            learned(net, patterns(60, 20, sizes=(4, 10, 8, 3)), "torch", sgd(0.0), values)

    @pytest.mark.parametrize("backend", ["torch", "brian2"])
    def test_nudging_that_is_too_strong_diverges_too(self, backend):
        """And is stopped: the message names population and step."""
        net, values, _ = self.setting(beta=1.0)
        with (
            pytest.raises(RunawayError, match="population 'out' is not finite from step 55[0-9] on"),
            np.errstate(all="ignore"),
        ):
            learned(net, patterns(30, 20, sizes=(4, 10, 8, 3)), backend, sgd(0.0), values)


@pytest.mark.parametrize(
    ("feedback", "local"), [("random", True), ("learned", True), ("direct", True), ("symmetric", False)]
)
def test_every_synapse_reads_its_own_two_neurons_only(feedback, local):
    """But for symmetric feedback, which is another synapse's weight."""
    net = network(feedback=feedback)
    assert audit(plan(net, dendritic(), lp.losses.mse()), net).check().strict == local
