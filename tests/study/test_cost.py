"""What rules cost: the numbers they store, counted by hand; memory that is known."""

import subprocess
import sys

import numpy as np
import pytest
from brian2 import ms

import localplast as lp
from localplast.models import alif, leaky_readout, lif
from localplast.rules import bptt, eprop
from localplast.study import cost
from localplast.study.cost import machine, peak_memory, state_bytes

MB = 2**20
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")


def network(model):
    return lp.Network(
        dt=1 * ms, cues=lp.Input(4), rec=lp.Population(5, model), out=lp.Population(2, leaky_readout()),
        projections=[lp.Projection("cues", "rec"), lp.Projection("rec", "out")],
    )  # fmt: skip


def test_state_is_counted_in_bytes():
    """A LIF neuron's trace is hoisted; the adaptation of an adaptive one stays per synapse, as `describe` prints."""
    rules, loss = {"BPTT": bptt(), "e-prop": eprop()}, lp.losses.cross_entropy()
    plain, adaptive = (state_bytes(network(model), rules, loss, lp.adam(1e-3)) for model in (lif(), alif()))
    found = {name: [int(x) for x in d["bytes_per_synapse"].sel(projection="cues_rec")] for name, d in
             (("lif", plain), ("alif", adaptive))}  # fmt: skip
    # gradient and Adam's two; then the trace filtered by the readout; then the adaptation
    assert found == {"lif": [8 * 3, 8 * 4], "alif": [8 * 3, 8 * 5]}
    neuron = plain["bytes_per_neuron"]
    assert np.isnan(neuron.sel(rule="BPTT")).all() and float(neuron.sel(rule="e-prop", node="cues")) > 0
    assert float(neuron.sel(rule="e-prop", node="out")) == 0
    assert plain["bytes_per_synapse"].attrs["units"] == "byte"


def test_sgd_and_single_precision_take_less():
    rules, loss = {"e-prop": eprop()}, lp.losses.cross_entropy()
    double = state_bytes(network(lif()), rules, loss, lp.sgd(1e-3))["bytes_per_synapse"]
    single = state_bytes(network(lif()), rules, loss, lp.sgd(1e-3), number=4)["bytes_per_synapse"]
    assert list(double.values[0]) == [16, 8] and (double == 2 * single).all()


KINDS = {
    "axonal": (
        lp.axonal(np.full(4, 2) * ms, trainable=True),
        [8 * 6, 8 * 3],
        {"cues": 8 * (5 + 2), "rec": 8 * 2, "out": 0},
    ),
    "synaptic": (
        lp.synaptic(np.full((4, 5), 2) * ms, trainable=True),
        [8 * 11, 8 * 6],
        {"cues": 0, "rec": 8 * 2, "out": 0},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_learned_delays_are_counted(kind):
    """Beside the weight's: a second gradient sum and filtered trace; the traces and Adam's numbers lie where the
    delay belongs.
    """
    delay, per_synapse, per_neuron = KINDS[kind]
    net = lp.Network(
        dt=1 * ms, cues=lp.Input(4), rec=lp.Population(5, lif()), out=lp.Population(2, leaky_readout()),
        projections=[lp.Projection("cues", "rec", delay=delay), lp.Projection("rec", "out")],
    )  # fmt: skip
    found = state_bytes(net, {"e-prop": eprop(), "BPTT": bptt()}, lp.losses.cross_entropy(), lp.adam(1e-3))
    assert list(found["bytes_per_synapse"].sel(projection="cues_rec").values) == per_synapse
    assert {k: float(found["bytes_per_neuron"].sel(rule="e-prop", node=k)) for k in per_neuron} == per_neuron
    assert "past_arrived" in str(eprop().describe(net)) and "past_arrived: a filter" not in str(eprop().describe(net))


def test_parameters_are_counted():
    """Of a time constant per neuron: Adam's two numbers and the gradient sum, beside its traces."""

    def counted(**options):
        net = lp.Network(
            dt=1 * ms, cues=lp.Input(4), rec=lp.Population(5, lif(), {"tau_mem": np.full(5, 20) * ms}, **options),
            out=lp.Population(2, leaky_readout()), projections=[lp.Projection("cues", "rec"), lp.Projection("rec", "out")],
        )  # fmt: skip
        found = state_bytes(net, {"e-prop": eprop()}, lp.losses.cross_entropy(), lp.adam(1e-3))
        return float(found["bytes_per_neuron"].sel(rule="e-prop", node="rec")) / 8

    # its eps, filtered by the readout
    assert counted(trainable={"tau_mem": (5 * ms, 50 * ms)}) - counted() == 2 + 1 + 2


@linux
def test_memory_that_is_known():
    """Twice: memory that was freed before must not hide what is needed now."""
    for _ in range(2):
        assert peak_memory(lambda: np.ones(8 * MB).sum()) == pytest.approx(64 * MB, rel=0.1)
    assert peak_memory(lambda: None) < MB


@linux
def test_memory_of_a_program_that_is_started():
    code = "import time; x = bytearray(100 * 2**20); time.sleep(0.1)"
    found = peak_memory(lambda: subprocess.run(["/bin/sh", "-c", f"exec '{sys.executable}' -c '{code}' & wait"]))
    assert found < 20 * MB  # the child of a child is not ours to see
    other = peak_memory(
        lambda: subprocess.run(
            ["/usr/bin/env", "dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=40"], stderr=subprocess.DEVNULL
        )
    )
    assert 60 * MB < other < 90 * MB


def test_where_the_system_does_not_tell_memory_is_nan(monkeypatch):
    def forbidden(*arguments):
        raise PermissionError

    monkeypatch.setattr(cost, "status", forbidden)
    done = []
    assert np.isnan(peak_memory(lambda: done.append(1))) and done == [1]


def test_the_machine_is_named():
    assert "cores" in machine()


@linux
def test_the_memory_of_bptt_grows_with_the_trial_and_that_of_traces_does_not():
    from localplast.backends.torch.gradient import gradient

    def needed(steps, **options):
        net, raster = network(lif()), np.random.default_rng(0).random((200, steps, 4)) < 0.3
        trials, values = lp.Trials({"cues": raster}, np.zeros(200, int)), net.draw(0)
        options = {"seed": 0, **options}
        return peak_memory(lambda: gradient(net, values, trials, loss=lp.losses.cross_entropy(), **options))

    needed(20, rule=bptt())
    history = needed(400, rule=bptt()) - needed(100, rule=bptt())
    traces = needed(400, rule=eprop(), form="traces") - needed(100, rule=eprop(), form="traces")
    assert history > 20 * MB and traces < history / 2  # inputs and outputs, which the caller holds
