"""Layers of prospective neurons: their activations, the streams that they are shown, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from brian2 import ms

import localplast as lp
from localplast.equations.expressions import to_sympy
from localplast.equations.tape import Tape
from localplast.errors import LocalplastError, ModelError, NetworkError
from localplast.models import latent_equilibrium, latent_equilibrium_output
from localplast.models.layers import classes, layered, stream
from localplast.models.prospective import ACTIVATIONS, rate_of, slope_of
from localplast.network import Network, normal
from localplast.rules import dendritic


def network(sizes=(4, 6, 5, 3), **options):
    return layered(sizes, latent_equilibrium(), latent_equilibrium_output(), **options)


def patterns(outputs=3):
    rng = np.random.default_rng(0)
    return stream(rng.uniform(-1, 1, (1, 5, 4)), rng.uniform(-1, 1, (1, 5, outputs)), steps=8)


def text_at(text, u):
    """The value of the text of an expression of ``u``, on Brian2's terms."""
    return np.broadcast_to(Tape([("x", to_sympy(text))], {})({"u": u})["x"], u.shape)


class TestActivations:
    @pytest.mark.parametrize("name", ACTIVATIONS)
    def test_slopes_are_derivatives(self, name):
        u = np.linspace(-2.95, 3.05, 31)  # beside the kinks
        rate, slope = (text_at(f(name, "u"), u) for f in (rate_of, slope_of))
        up, down = (text_at(rate_of(name, "u"), u + h) for h in (1e-6, -1e-6))
        np.testing.assert_allclose(slope, (up - down) / 2e-6, rtol=0, atol=1e-9)
        assert np.ptp(rate) > 0.9

    @pytest.mark.parametrize("name", ["logistic", "tanh", "softplus"])
    def test_slopes_far_away_are_numbers(self, name):
        with np.errstate(over="ignore"):
            found = text_at(slope_of(name, "u"), np.array([-800.0, 800.0]))
        np.testing.assert_array_equal(found, [0.0, 1.0 if name == "softplus" else 0.0])


class TestStreams:
    def test_classes_are_streams_of_ones_and_zeros(self):
        rng = np.random.default_rng(0)
        samples, labels = rng.random((2, 3, 4)), rng.integers(0, 3, (2, 3))
        given = classes(samples, labels, steps=4, outputs=3, targets=(0.1, 1.0))
        np.testing.assert_array_equal(given.inputs["sense"][:, 4:8], np.repeat(samples[:, 1:2], 4, axis=1))
        np.testing.assert_array_equal(given.target[:, ::4], np.eye(3)[labels])
        np.testing.assert_allclose(given.inputs["target"], 0.1 + 0.9 * given.target, rtol=1e-12)
        assert given.inputs["teach"].all() and given.weight.sum() == pytest.approx(1)


class TestErrorsOfUse:
    def test_a_time_constant_below_the_step(self):
        with pytest.raises(NetworkError, match="'hidden1': tau is .*, shorter than the time step"):
            network(parameters={"hidden1": {"tau": 0.05 * ms}})
        with pytest.raises(NetworkError, match="'out'.*tau_noise|'hidden1'.*tau_noise"):
            layered((2, 2, 2), latent_equilibrium(feedback="weight_mirror"), latent_equilibrium_output(), dt=2 * ms)

    def test_a_target_of_the_wrong_width(self):
        net = network()
        with pytest.raises(NetworkError, match=r"'target' has shape \(1, 40, 2\).*\(1, 40, 3\)"):
            lp.gradient(net, patterns(2), dendritic(), loss=lp.losses.mse())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"sizes": (4,)}, r"sizes=\(4,\) needs two"),
            ({"feedback": "back"}, "no feedback 'back'; there is symmetric, random"),
            (
                {"parameters": {"hidden3": {"b": 1.0}}},
                r"parameters of \['hidden3'\]: the layers are hidden1, hidden2, out",
            ),
            ({"weight": [normal(), normal()]}, "weight has 2 entries for 3 layers"),
        ],
    )
    def test_layers(self, options, message):
        with pytest.raises(NetworkError, match=message):
            network(**options)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: latent_equilibrium(activation="sine"), "no activation 'sine'; there are logistic"),
            (lambda: latent_equilibrium(feedback="magic"), "feedback='magic'.*kolen_pollack, weight_mirror"),
            (lambda: latent_equilibrium_output(target="spike"), "no target 'spike'; there are rate, voltage"),
        ],
    )
    def test_models(self, make, message):
        with pytest.raises(ModelError, match=message):
            make()

    def test_weights_onto_the_teacher_do_not_learn(self):
        net = network()
        projections = [replace(p, plastic=True) if n == "wanted" else p for n, p in net.projections.items()]
        with pytest.raises(LocalplastError, match="wanted.*target.*no mismatch"):
            lp.gradient(
                Network(dt=net.dt, projections=projections, **net.nodes), patterns(), dendritic(), loss=lp.losses.mse()
            )
