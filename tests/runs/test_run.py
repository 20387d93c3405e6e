"""The verbs run and gradient: the same labelled arrays from both backends, learning that resumes, runs that fail
well.
"""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import numpy as np
import pytest
from brian2 import ms

import localplast as lp
from localplast.models import alif, leaky_readout
from localplast.rules import bptt, eprop

STEPS = 40


def network(tau_ref=2 * ms):
    return lp.Network(
        dt=1 * ms,
        cues=lp.Input(6),
        rec=lp.Population(8, alif(tau_ref=tau_ref, beta=0.3)),
        out=lp.Population(2, leaky_readout()),
        projections=[
            lp.Projection("cues", "rec", weight=lp.normal(2.0)),
            lp.Projection("rec", "rec", delay=lp.axonal(2 * ms)),
            lp.Projection("rec", "out"),
        ],
    )


def generate(rng, n):
    raster = rng.random((n, STEPS, 6)) < 0.2
    labels = (raster[:, :, :3].sum((1, 2)) > raster[:, :, 3:].sum((1, 2))).astype(int)
    return lp.Trials({"cues": raster}, labels, np.full(STEPS, 1 / STEPS))


TASK = lp.Task.generated("more on the left", generate)


def learn(backend, rule, **options):
    settings = {"optimiser": lp.adam(1e-2), "batch": 2, "updates": 6, "target": "numpy", **options}
    return lp.run(network(), TASK, backend=backend, rule=rule, **settings)


@pytest.fixture(scope="module")
def trials():
    return generate(np.random.default_rng(0), 3)


def test_both_backends_record_the_same_labelled_arrays(trials):
    wanted = ["rec.v", "rec.spikes", "out.v"]
    trees = [lp.run(network(), trials, backend=backend, record=wanted, seed=1) for backend in ("brian2", "torch")]
    for tree in trees:
        assert tree["rec"]["v"].dims == ("trial", "time", "neuron")
        assert tree["rec"]["v"].attrs["units"] == "1"
    first, second = (tree["rec"].to_dataset() for tree in trees)
    assert first.sizes["spike"] > 20
    np.testing.assert_allclose(first["v"], second["v"], rtol=0, atol=1e-12)
    for name in ("spike_trial", "spike_time", "spike_neuron"):
        np.testing.assert_array_equal(first[name], second[name])


def test_a_seed_fixes_the_result_and_another_seed_changes_it():
    weights = [learn("torch", eprop(), seed=seed)["cues_rec"]["weight"].values for seed in (3, 3, 4)]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert np.abs(weights[0] - weights[2]).max() > 1e-3


@pytest.mark.thorough
def test_online_learning_in_brian2_is_learning_in_torch():
    trees = [learn(backend, eprop(feedback="random"), test=4, test_every=3) for backend in ("brian2", "torch")]
    for part in ("cues_rec", "rec_rec", "rec_out"):
        start = network().draw(0).weights[part]
        learned = [tree[part]["weight"].values for tree in trees]
        assert np.abs(learned[0] - start).max() > 1e-2
        np.testing.assert_allclose(learned[0], learned[1], rtol=0, atol=1e-8)
    for name in ("loss", "accuracy", "rate", "test_loss"):
        np.testing.assert_allclose(trees[0]["metrics"][name], trees[1]["metrics"][name], rtol=1e-8)


def test_gradients_are_named_and_shaped_alike(trials):
    trees = {
        "brian2": lp.gradient(network(), trials, eprop(), backend="brian2"),
        "torch": lp.gradient(network(), trials, eprop()),
        "bptt": lp.gradient(network(), trials, bptt()),
    }
    for tree in trees.values():
        assert tree["cues_rec"]["gradient"].dims == ("pre", "post")
    found = {k: tree["rec_rec"]["gradient"].values for k, tree in trees.items()}
    scale = np.abs(found["bptt"]).max()
    assert scale > 0
    np.testing.assert_allclose(found["brian2"], found["torch"], rtol=0, atol=1e-8 * scale)
    assert np.abs(found["torch"] - found["bptt"]).max() > 0.01 * scale


def test_delays_marked_trainable_and_named_parameters_have_gradients(trials):
    net = network()
    between = lp.axonal(np.linspace(0.5, 2.5, 8) * ms, trainable=True)
    projections = [p for p in net.projections.values() if p.name != "rec_rec"]
    net = lp.Network(dt=1 * ms, **net.nodes, projections=[*projections, lp.Projection("rec", "rec", delay=between)])
    tree = lp.gradient(net, trials, bptt(), trainable=["rec.tau_mem"])
    assert tree["rec_rec"]["gradient_delay"].dims == ("pre",)
    assert float(np.abs(tree["rec_rec"]["gradient_delay"]).max()) > 0
    assert float(tree["rec"]["gradient_tau_mem"]) != 0


def test_a_projection_without_a_delay_has_a_gradient_of_it(trials):
    """That of the first step of delay, on both backends and in both forms."""
    net, options = network(), {"trainable": ["cues_rec.delay"]}
    found = [
        lp.gradient(net, trials, eprop(), **options, **more)["cues_rec"]["gradient_delay"].item()
        for more in ({"form": "adjoint"}, {"form": "traces"}, {"backend": "brian2"})
    ]
    assert found == pytest.approx(3 * [found[0]], rel=1e-9) and found[0] != 0


@pytest.mark.parametrize("backend", [pytest.param("brian2", marks=pytest.mark.thorough), "torch"])
def test_an_interrupted_run_resumes_to_the_same_weights(backend, tmp_path, monkeypatch):
    from localplast.runs import fit

    monkeypatch.setattr(fit, "CHECKPOINT_SECONDS", 0.0)
    whole = learn(backend, eprop(), path=tmp_path / "whole.zarr", test=4, test_every=2)
    original, calls = fit.Fit.block, []

    def interrupted(self, recorder, probe=None):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, recorder, probe)

    monkeypatch.setattr(fit.Fit, "block", interrupted)
    with pytest.raises(KeyboardInterrupt):
        learn(backend, eprop(), path=tmp_path / "part.zarr", test=4, test_every=2)
    left = lp.open(tmp_path / "part.zarr")  # Ctrl-C leaves a readable record
    assert 1 < left["metrics"].sizes["update"] < 7
    monkeypatch.setattr(fit.Fit, "block", original)
    resumed = learn(backend, eprop(), path=tmp_path / "part.zarr", resume=True, test=4, test_every=2)
    for part in ("cues_rec", "rec_rec", "rec_out"):
        np.testing.assert_array_equal(whole[part]["weight"], resumed[part]["weight"])
    np.testing.assert_array_equal(whole["metrics"]["loss"], resumed["metrics"]["loss"])


@pytest.mark.thorough
def test_a_run_killed_at_a_random_moment_resumes_in_a_new_process(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        import localplast.runs.fit
        localplast.runs.fit.CHECKPOINT_SECONDS = 0.0
        from test_run import *
        learn("torch", eprop(), path=sys.argv[1], updates=60)
    """)
    )
    whole, part = learn("torch", eprop(), updates=60), tmp_path / "part.zarr"
    running = subprocess.Popen([sys.executable, script, part])
    checkpoint = tmp_path / "part.zarr.checkpoint.npz"
    while not checkpoint.exists():
        time.sleep(0.01)
    time.sleep(np.random.default_rng(0).uniform(0, 0.3))
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not lp.open(part).attrs["complete"]
    resumed = learn("torch", eprop(), path=part, updates=60, resume=True)
    for name in ("cues_rec", "rec_rec", "rec_out"):
        np.testing.assert_array_equal(whole[name]["weight"], resumed[name]["weight"])
    assert resumed["metrics"].sizes["update"] == 60


def test_resuming_another_run_is_refused(tmp_path):
    learn("torch", eprop(), path=tmp_path / "run.zarr")
    with pytest.raises(lp.LocalplastError, match="run.zarr is a run with other rule; give the same"):
        learn("torch", eprop(feedback="random"), path=tmp_path / "run.zarr", resume=True)


@pytest.mark.parametrize("backend", ["brian2", "torch"])
def test_nan_stops_the_run_where_it_appeared(backend):
    explosive = lp.NeuronModel(
        name="explosive", equations="dv/dt = v**3/tau : 1", parameters={"tau": 1 * ms}, method="euler", output="v"
    )
    net = lp.Network(
        dt=1 * ms,
        drive=lp.Input(1),
        cell=lp.Population(1, explosive),
        projections=[lp.Projection("drive", "cell", weight=2.0)],
    )
    raster = np.zeros((2, 30, 1), bool)
    raster[1, 5] = True
    with pytest.raises(lp.RunawayError, match=r"population 'cell': v of neuron 0 is .* of trial 1") as caught:
        lp.run(net, lp.Trials({"drive": raster}), backend=backend, record=["cell.v"])
    assert caught.value.record["cell"]["v"].sizes["trial"] == 2


def test_weights_that_explode_stop_learning():
    with pytest.raises(lp.RunawayError, match="weights of .* are not finite at update 1 of bptt"):
        learn("torch", bptt(), optimiser=replace(lp.sgd(0.0), decay=np.inf), updates=20)


def test_runaway_activity_stops_learning():
    net = network(tau_ref=0 * ms)
    loud = net.draw(0).replace_weights({"cues_rec": np.full((6, 8), 1e6), "rec_rec": np.full((8, 8), 1e6)})
    with pytest.raises(lp.RunawayError, match="runaway activity at update 1 of e-prop: .* spikes per second"):
        lp.run(net, TASK, backend="torch", rule=eprop(), optimiser=lp.sgd(0.0), updates=1, values=loud)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "nest"}, "backend is 'brian2' or 'torch'"),
        ({"rule": None}, "give Trials to simulate, or a Task"),
        ({"backend": "brian2", "rule": bptt()}, "differentiates through the whole trial; use backend='torch'"),
    ],
)
def test_misuse_says_what_is_legal(arguments, message):
    settings = {"backend": "torch", "rule": eprop(), "optimiser": lp.adam(1e-2), "updates": 1, "target": "numpy"}
    with pytest.raises(lp.LocalplastError, match=message):
        lp.run(network(), TASK, **{**settings, **arguments})


def test_what_is_missing_for_speed_is_said(monkeypatch, caplog):
    from localplast.backends.torch import learner as torch_learn

    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(torch_learn, "why_not", lambda *_, **__: "no compiler here")
    learn("brian2", eprop(), updates=1, test=2, target=None)
    assert "target 'numpy', which is slower" in caplog.text
    assert "plain Torch, which is slower: no compiler here" in caplog.text


def test_a_record_says_where_it_came_from(tmp_path):
    tree = learn("torch", eprop(), path=tmp_path / "run.zarr")
    assert tree.attrs["backend"] == "torch" and tree.attrs["seed"] == 0
    assert json.loads(tree.attrs["rule"])["name"] == "e-prop"
    often = learn("torch", eprop(update=3 * ms), batch=1, path=tmp_path / "often.zarr")
    assert json.loads(often.attrs["rule"])["update"] == "3. ms"


@pytest.mark.parametrize("learned", [False, True])
def test_a_projection_without_synapses(learned):
    """Torch runs it; Brian2 names it before anything is built."""
    delay = lp.axonal(2 * np.ones(6) * ms, trainable=(0 * ms, 5 * ms)) if learned else None
    net = lp.Network(
        dt=1 * ms, cues=lp.Input(6), rec=lp.Population(8, alif()), out=lp.Population(2, leaky_readout()),
        projections=[lp.Projection("cues", "rec", mask=np.zeros((6, 8), bool), delay=delay), lp.Projection("rec", "out")],
    )  # fmt: skip
    options = dict(
        rule=eprop(), optimiser=lp.sgd(1e-2).with_rates(**({"cues_rec.delay": 1.0} if learned else {})), updates=1
    )
    fit = lp.run(net, TASK, backend="torch", **options)
    assert not net.values_from(fit).weights["cues_rec"].any()
    with pytest.raises(lp.UnsupportedError, match="projection 'cues_rec': none of its 48 synapses exists"):
        lp.run(net, TASK, backend="brian2", target="numpy", **options)


def test_what_was_learned_is_simulated_at_rest(tmp_path, trials):
    """From memory, from disk, and from a record with weights along training; not from a simulation."""
    net = network()
    fits = [learn("torch", eprop(), seed=3, path=tmp_path / "run.zarr"), lp.open(tmp_path / "run.zarr")]
    fits.append(learn("torch", eprop(), seed=3, record={"cues_rec.weight": {"every": 2}}))
    start, ends = net.draw(3), [net.values_from(fit) for fit in fits]
    for end in ends:
        assert all((end.weights[n] == ends[0].weights[n]).all() for n in net.projections)
        assert np.abs(end.weights["cues_rec"] - start.weights["cues_rec"]).max() > 1e-3
    seen = [lp.run(net, trials, values=v, record=["out.v"])["out"]["v"].values for v in (start, ends[0], ends[0])]
    assert (seen[1] == seen[2]).all() and np.abs(seen[0] - seen[1]).max() > 1e-3
    with pytest.raises(lp.NetworkError, match="keeps no weights of projection 'cues_rec'"):
        net.values_from(lp.run(net, trials, record=["out.v"]))
    sparse = lp.Network(
        dt=net.dt, projections=[*net.projections.values()][:2] + [lp.Projection("rec", "out", mask=0.5)], **net.nodes
    )
    with pytest.raises(lp.NetworkError, match="other synapses in projection 'rec_out'.*replace_weights"):
        sparse.values_from(fits[0])
