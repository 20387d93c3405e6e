"""Comparing rules: the same network under each, measured against BPTT; the command line that does it."""

import numpy as np
import pytest
import xarray as xr
from brian2 import ms

import localplast as lp
from localplast import cli, protocols
from localplast.comparison import alignment, compare, markdown, spread
from localplast.models import leaky_readout, lif
from localplast.protocol import Preset, Protocol
from localplast.rules import bptt, eprop

STEPS = 30


def network(recurrent=True):
    projections = [lp.Projection("cues", "rec", weight=lp.normal(2.0)), lp.Projection("rec", "out")]
    if recurrent:
        projections.insert(1, lp.Projection("rec", "rec"))
    return lp.Network(
        dt=1 * ms, cues=lp.Input(6), rec=lp.Population(8, lif()), out=lp.Population(2, leaky_readout()),
        projections=projections,
    )


def generate(rng, n):
    raster = rng.random((n, STEPS, 6)) < 0.2
    labels = (raster[:, :, :3].sum((1, 2)) > raster[:, :, 3:].sum((1, 2))).astype(int)
    return lp.Trials({"cues": raster}, labels, np.full(STEPS, 1 / STEPS))


TASK = lp.Task.generated("more-on-the-left", generate)
LOSS = lp.losses.cross_entropy()


def small():
    return Preset(network(), TASK, LOSS, learning_rate=1e-2, batch=2, updates=4, test=6, hidden="rec")


@pytest.fixture(scope="module")
def comparison():
    rules = {"BPTT": bptt(), "e-prop": eprop(), "frozen": lp.Contender(bptt(), "torch", ("cues_rec", "rec_rec"))}
    return compare(
        network(), TASK, rules, optimiser=lp.adam(1e-2), seeds=(0, 1), batch=2, updates=4, test=6, probes=2, target="numpy"
    )


def test_the_result_is_labelled(comparison):
    assert comparison["curves"]["test_accuracy"].dims == ("rule", "seed", "update")
    assert list(comparison["curves"]["update"].values) == [0, 2, 4]
    assert set(comparison["alignment"].data_vars) == {"relative_error", "cosine", "norm_ratio", "sign_agreement"}


def test_bptt_is_itself_and_eprop_is_not(comparison):
    error = comparison["alignment"]["relative_error"]
    assert float(error.sel(rule="BPTT").max()) == 0
    assert float(error.sel(rule="e-prop").min()) > 0.01


def test_rules_that_agree_are_found_to_agree():
    """Without recurrence e-prop that follows the reset is BPTT; with it cut, it is not: the measure must see both."""
    net = network(recurrent=False)
    values, trials = net.draw(0), TASK.testing(8, 0)
    same = alignment(net, values, trials, eprop(reset=True), LOSS, "rec", 0)
    other = alignment(net, values, trials, eprop(), LOSS, "rec", 0)
    assert same["relative_error"] < 1e-10 and same["cosine"] > 1 - 1e-10
    assert other["relative_error"] > 1e-3


def test_local_rules_are_timed_on_both_backends_and_bptt_on_torch(comparison):
    speed = comparison["cost"]["seconds_per_1000_trials"]
    assert np.isfinite(speed.sel(rule="e-prop")).all()
    assert np.isnan(speed.sel(rule="BPTT", backend="brian2")).all()


def test_the_table_has_a_row_for_every_rule(comparison):
    table = markdown(comparison).splitlines()
    assert len(table) == 2 + 3
    assert "±" in table[2] and "cosine" in table[0]
    assert len({line.count("|") for line in table}) == 1


def test_one_seed_has_no_spread(comparison):
    assert spread([0.5], 2) == "0.50" and spread([0.4, 0.6], 1) == "0.5 ± 0.1" and spread([np.nan], 1) == "-"


@pytest.fixture
def toy(monkeypatch):
    """A protocol small enough to run, in place of the ones that ship."""
    protocol = Protocol("toy", "a test", "none", {"quick": small}, {"an agent that guesses": "50 %"})
    monkeypatch.setattr(protocols, "load", lambda name: protocol)
    return protocol


def invoke(*arguments):
    from typer.testing import CliRunner

    return CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False)


def test_compare_writes_table_figure_and_record(toy, tmp_path):
    result = invoke("compare", "toy", "--seeds", "2", "--target", "numpy", "--out", str(tmp_path))
    assert result.exit_code == 0
    folder = tmp_path / "toy-quick"
    assert "e-prop, random" in (folder / "table.md").read_text() and "50 %" in result.output
    assert (folder / "comparison.png").read_bytes()[:4] == b"\x89PNG"
    tree = xr.open_datatree(folder / "comparison.zarr", engine="zarr", consolidated=False)
    assert list(tree["curves"]["rule"].values) == ["BPTT", "e-prop, symmetric", "e-prop, random", "BPTT, hidden frozen"]
    assert len(list((folder / "runs").glob("*.zarr"))) == 8


def test_the_frozen_control_keeps_its_hidden_weights(toy, tmp_path):
    invoke("compare", "toy", "--seeds", "1", "--target", "numpy", "--out", str(tmp_path))
    runs = tmp_path / "toy-quick" / "runs"
    start = network().draw(0).weights
    for name, moves in (("BPTT,-hidden-frozen", False), ("BPTT", True)):
        record = lp.open(runs / f"{name}-seed0.zarr")
        moved = np.abs(record["cues_rec"]["weight"].values - start["cues_rec"]).max()
        assert (moved > 0) == moves
        assert np.abs(record["rec_out"]["weight"].values - start["rec_out"]).max() > 0


def test_run_show_and_resume(toy, tmp_path):
    arguments = ["run", "toy", "--rule", "eprop", "--backend", "torch", "--out", str(tmp_path)]
    assert "test_accuracy" in invoke(*arguments).output
    assert "record:" in invoke(*arguments, "--resume").output
    store = next(tmp_path.glob("*.zarr"))
    assert "metrics" in invoke("show", str(store)).output


def test_an_interrupted_comparison_resumes_to_the_same_table(tmp_path, monkeypatch):
    from localplast import fit

    rules = {"e-prop": lp.Contender(eprop(), "torch"), "BPTT": bptt()}
    settings = dict(optimiser=lp.adam(1e-2), seeds=(0, 1), batch=2, updates=4, test=6, probes=2)
    monkeypatch.setattr(fit, "CHECKPOINT_SECONDS", 0.0)
    whole = compare(network(), TASK, rules, path=tmp_path / "whole", **settings)
    original, calls = fit.Fit.block, []

    def interrupted(self, recorder, probe=None):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return original(self, recorder, probe)

    monkeypatch.setattr(fit.Fit, "block", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare(network(), TASK, rules, path=tmp_path / "part", **settings)
    monkeypatch.setattr(fit.Fit, "block", original)
    resumed = compare(network(), TASK, rules, path=tmp_path / "part", resume=True, **settings)
    for group in ("curves", "alignment"):
        xr.testing.assert_identical(whole[group].to_dataset(), resumed[group].to_dataset())


def test_two_runs_side_by_side_share_one_display(capsys):
    rules = {"BPTT": bptt(), "cut": bptt(cut="reset")}
    compare(
        network(), TASK, rules, optimiser=lp.adam(1e-2), seeds=(0,), batch=2, updates=4, test=6, probes=2, workers=2, show=True
    )
    assert "BPTT, torch, seed 0" in capsys.readouterr().err


def test_list_and_describe():
    listed = invoke("list").output
    assert all(name in listed for name in ("alif", "eprop", "yin-yang", "mnist"))
    rule, model = invoke("describe", "e-prop").output, invoke("describe", "alif").output
    assert "elig = psi*" in rule and "stored: 2 per synapse" in rule
    assert "dv/dt = -v/tau_mem" in model and "d v / d v = exp(-dt/tau_mem)" in model


def test_misuse_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["localplast", "compare", "maze"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    message = capsys.readouterr().err
    assert "maze" in message and "yin-yang" in message and "Traceback" not in message
