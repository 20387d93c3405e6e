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
    np.testing.assert_allclose(states(net, "brian2")["v"].values[1:2], alone, rtol=0, atol=1e-12)


@pytest.mark.thorough
def test_the_compiled_line_moves_the_same_way():
    """Cells are updated in place, in order: a compiler must not be able to move one twice."""
    net = network(*KINDS[3])
    np.testing.assert_allclose(states(net, "brian2", target="cpp")["v"], states(net, "torch")["v"], rtol=0, atol=1e-12)


# --- what travels -----------------------------------------------------------------------------------------------------


def chain(output, method="euler", size=3):
    """A cell that spikes, sending something of itself to a cell that adds it up."""
    cell = lp.NeuronModel(
        "sender", "dv/dt = (I - v)/tau : 1\ndpool/dt = (1 - pool)/rest : 1\nahead = v + lead*(I - v)/tau : 1\nI : 1",
        {"tau": 5 * ms, "rest": 30 * ms, "lead": 5 * ms}, threshold="v > 0.6", reset="v = 0", adaptation="pool -= 0.4*pool", method=method,
        receives="I",
    )  # fmt: skip
    sink = lp.NeuronModel(
        "sink", "dg/dt = -g/tau : 1\nJ : 1", {"tau": 9 * ms}, update="g += J", receives="J", output="g"
    )
    return lp.Network(
        dt=1 * ms, drive=lp.Input(3, "currents"), cells=lp.Population(size, cell), sink=lp.Population(2, sink),
        projections=[lp.Projection("drive", "cells", weight=lp.normal(2.0)), lp.Projection("cells", "sink", output=output)],
    )  # fmt: skip


@pytest.mark.parametrize("output", ["v", "ahead", "z*pool", "2*pool - ahead"])
def test_any_variable_may_travel(output):
    net = chain(output)
    ours, twin = (
        lp.run(net, TRIALS, backend=b, record=["sink.J", "sink.g", "cells.v", "cells.pool", "cells.raster"])
        for b in ("brian2", "torch")
    )
    for name in ("J", "g"):
        assert float(ours["sink"][name].std()) > 0.01
        np.testing.assert_allclose(ours["sink"][name], twin["sink"][name], rtol=0, atol=1e-12)
    assert int(ours["cells"]["spikes"].sum()) > 5


def test_what_leaves_is_read_before_spikes_change_it():
    """Release by a spike: the resource as the spike found it; a prospective potential: with the input of the step
    before.
    """
    net, weight = chain("z*pool"), chain("z*pool").draw(0).weights["cells_sink"]
    found = lp.run(net, TRIALS, record=["sink.J", "cells.raster", "cells.pool"])
    z, x = found["cells"]["spikes"].values, found["cells"]["pool"].values
    before = np.where(z, x / 0.6, x)  # recorded at the end of the step: after the spike took its share
    np.testing.assert_allclose(found["sink"]["J"], (z * before) @ weight, atol=1e-12)
    assert np.abs(found["sink"]["J"].values - (z * x) @ weight).max() > 0.1
    found = lp.run(chain("ahead"), TRIALS, record=["sink.J", "cells.v", "cells.I", "cells.raster"])
    v, z = found["cells"]["v"].values, found["cells"]["spikes"].values
    earlier = np.concatenate([np.zeros_like(v[:, :1]), found["cells"]["I"].values[:, :-1]], 1)
    quiet = ~z.any(2)
    np.testing.assert_allclose(found["sink"]["J"].values[quiet], (v + 1.0 * (earlier - v))[quiet] @ weight, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(output="nothing"), "unknown variable 'nothing' in the output of projection 'cells_sink'"),
        (dict(output="v", transmission="event"), "is a graded value of a population"),
        (dict(output="v + lead"), "unit mismatch in the output"),
        (dict(pre="drive", output="r"), "is a graded value of a population"),
        (dict(output=None, transmission="graded"), "say which of its variables travels"),
    ],
)  # fmt: skip
def test_what_cannot_travel_is_named(change, message):
    net = chain("v")
    wrong = lp.Projection(**{"pre": "cells", "post": "sink", "name": "cells_sink", **change})
    with pytest.raises(lp.LocalplastError, match=message):
        lp.Network(dt=net.dt, projections=[wrong], **net.nodes)


def test_subexpressions_are_recorded_alike():
    ours, twin = (
        lp.run(chain("v"), TRIALS, backend=b, record=["cells.ahead"])["cells"]["ahead"].values
        for b in ("brian2", "torch")
    )
    assert ours.std() > 0.1
    np.testing.assert_allclose(ours, twin, rtol=0, atol=1e-12)


def test_what_travels_may_be_written_with_units():
    relay = lp.NeuronModel("relay", "I : volt", receives="I")
    sink = lp.NeuronModel("sink", "J : 1", receives="J", output="J")
    net = lp.Network(
        dt=1 * ms, drive=lp.Input(3, "currents"), relay=lp.Population(3, relay), sink=lp.Population(3, sink),
        projections=[lp.Projection("drive", "relay", weight=1e-3), lp.Projection("relay", "sink", weight=np.eye(3), output="(I - 5*mV)/mV")],
    )  # fmt: skip
    expected = TRIALS.inputs["drive"] @ net.draw(0).weights["drive_relay"] * 1e3 - 5
    for backend in ("brian2", "torch"):
        found = lp.run(net, TRIALS, backend=backend, record=["sink.J"])["sink"]["J"].values
        np.testing.assert_allclose(found[:, 1:], expected[:, :-1], atol=1e-9)


@pytest.mark.slow
def test_trials_begin_anew_in_cpp():
    """The restart of a trial runs on a clock of its own there."""
    ours, twin = (
        lp.run(chain("v"), TRIALS, target=target, record=["cells.v", "sink.g"]) for target in ("cpp", "numpy")
    )
    for node, name in (("cells", "v"), ("sink", "g")):
        np.testing.assert_allclose(ours[node][name], twin[node][name], rtol=0, atol=1e-12)
