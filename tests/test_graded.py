"""Graded transmission with delays: Brian2's delay lines against the Torch twin."""

import numpy as np
import pytest
from brian2 import ms

import localplast as lp
from localplast.network import Delay

RNG = np.random.default_rng(5)


def network(kind, shape, shift=0):
    rate = lp.NeuronModel(
        "rate",
        """
        dv/dt = (-v + I + 0.5*J)/tau : 1
        I : 1
        J : 1
        """,
        {"tau": 7 * ms}, output="tanh(v)", method="exponential_euler", receives="I",
    )  # fmt: skip
    rng = np.random.default_rng(1)
    delays = lp.axonal(rng.integers(0, 6, 3) * ms), Delay(kind, (rng.integers(0, 19, shape) + shift) * ms)
    return lp.Network(
        dt=1 * ms, drive=lp.Input(3, "currents"), cells=lp.Population(4, rate),
        projections=[
            lp.Projection("drive", "cells", delay=delays[0]),
            lp.Projection("cells", "cells", target="J", delay=delays[1]),
            lp.Projection("drive", "cells", name="drive_at_once"),
        ],
    )  # fmt: skip


TRIALS = lp.Trials({"drive": RNG.standard_normal((3, 60, 3))})
KINDS = [("axonal", (4,)), ("axonal", ()), ("dendritic", (4,)), ("synaptic", (4, 4))]


def states(net, backend, **options):
    return lp.run(net, TRIALS, backend=backend, record=["cells.v", "cells.J"], **options)["cells"].to_dataset()


@pytest.mark.parametrize(("kind", "shape"), KINDS)
def test_delayed_outputs_arrive_alike(kind, shape):
    ours, twin = (states(network(kind, shape), backend) for backend in ("brian2", "torch"))
    assert float(ours["v"].std()) > 0.1
    for name in ("v", "J"):
        np.testing.assert_allclose(ours[name], twin[name], rtol=0, atol=1e-12)


def test_one_step_more_is_noticed():
    ours, twin = states(network(*KINDS[0]), "brian2"), states(network(*KINDS[0], shift=1), "torch")
    assert np.abs(ours["v"].values - twin["v"].values).max() > 1e-3


def test_a_trial_does_not_hear_the_one_before():
    net = network(*KINDS[3])
    alone = lp.run(net, TRIALS[1:2], record=["cells.v"])["cells"]["v"].values
    np.testing.assert_array_equal(states(net, "brian2")["v"].values[1:2], alone)


def test_the_compiled_line_moves_the_same_way():
    """Cells are updated in place, in order: a compiler must not be able to move one twice."""
    net = network(*KINDS[3])
    np.testing.assert_allclose(states(net, "brian2", target="cpp")["v"], states(net, "torch")["v"], rtol=0, atol=1e-12)
