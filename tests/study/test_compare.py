"""Comparing rules: the same network under each, measured against BPTT; the command line that does it."""

import re
import signal
import sys
import time

import numpy as np
import pytest
import xarray as xr
from brian2 import ms
from matplotlib.layout_engine import ConstrainedLayoutEngine

import localplast as lp
from localplast import cli, protocols
from localplast.models import leaky_readout, lif
from localplast.rules import bptt, eprop, feedback_alignment
from localplast.runs.fit import Fit
from localplast.runs.progress import progress
from localplast.runs.store import replacement
from localplast.study.alignment import as_it_is, feedback, feedback_cosines, gradient_measures
from localplast.study.compare import compare, store_of
from localplast.study.protocol import Preset, Protocol

STEPS = 30


def network(recurrent=True):
    projections = [lp.Projection("cues", "rec", weight=lp.normal(2.0)), lp.Projection("rec", "out")]
    if recurrent:
        projections.insert(1, lp.Projection("rec", "rec"))
    return lp.Network(
        dt=1 * ms,
        cues=lp.Input(6),
        rec=lp.Population(8, lif()),
        out=lp.Population(2, leaky_readout()),
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
    rules = {
        "BPTT": bptt(), "e-prop": eprop(), "frozen": lp.Contender(bptt(), "torch", ("cues_rec", "rec_rec")),
        "random": lp.Contender(eprop(feedback="random"), "torch"),
    }  # fmt: skip
    return compare(
        network(),
        TASK,
        rules,
        optimiser=lp.adam(1e-2),
        seeds=(0, 1),
        batch=2,
        updates=4,
        test=6,
        probes=2,
        target="numpy",
    )


@pytest.mark.parametrize("group, dims, variables", [
    ("curves", ("rule", "seed", "update"), ["test_accuracy", "test_loss", "test_spikes"]),
    ("training", ("rule", "seed", "update"), ["accuracy", "loss", "rate"]),
    ("hidden", ("rule", "seed", "update"), ["relative_error", "cosine", "angle", "norm_ratio", "sign_agreement"]),
    ("alignment", ("rule", "seed", "update", "projection"), ["relative_error", "cosine", "angle", "norm_ratio", "sign_agreement"]),
    ("feedback", ("rule", "seed", "update", "projection"), ["cosine", "angle"]),
])  # fmt: skip
def test_the_result_is_labelled(comparison, group, dims, variables):
    found = comparison[group].to_dataset()
    assert set(found.data_vars) == set(variables)
    for variable in found.data_vars.values():
        assert variable.dims == dims and variable.attrs["units"]
    assert list(found["update"].values) == ([1, 2, 3, 4] if group == "training" else [0, 2, 4])
    assert found["trials"].dims == ("rule", "update") and bool((found["trials"] == 2 * found["update"]).all())


def test_costs_are_labelled(comparison):
    cost = comparison["cost"].to_dataset()
    dims = {"seconds_per_trial": ("rule", "seed", "backend"), "peak_memory": ("rule", "backend"),
            "bytes_per_synapse": ("rule", "projection"), "bytes_per_neuron": ("rule", "node")}  # fmt: skip
    assert {name: variable.dims for name, variable in cost.items()} == dims
    assert {variable.attrs["units"] for variable in cost.data_vars.values()} == {"s", "byte"}
    assert "compiled program" in cost["peak_memory"].attrs["comment"]


def test_every_projection_is_compared(comparison):
    found = comparison["alignment"].to_dataset()
    assert list(found["projection"].values) == ["cues_rec", "rec_rec", "rec_out"]
    assert np.isfinite(found["relative_error"]).all()
    onto_readout = found.sel(projection="rec_out")
    assert float(onto_readout["relative_error"].max()) < 1e-9  # e-prop stops at the readout: nothing is cut there


def test_bptt_is_itself_and_eprop_is_not(comparison):
    for group in ("hidden", "alignment"):
        assert float(comparison[group]["relative_error"].sel(rule="BPTT").max()) == 0
    assert float(comparison["hidden"]["relative_error"].sel(rule="e-prop").min()) > 0.01
    assert float(comparison["alignment"]["relative_error"].sel(rule="e-prop", projection="rec_rec").min()) > 0.01


def test_rules_that_agree_are_found_to_agree():
    """Without recurrence e-prop that follows the reset is BPTT; with it cut, it is not: the measure must see both."""
    net = network(recurrent=False)
    values, trials = net.draw(0), TASK.testing(8, 0)
    same = gradient_measures(net, values, trials, eprop(reset=True), LOSS, "rec", 0)
    other = gradient_measures(net, values, trials, eprop(), LOSS, "rec", 0)
    assert same["relative_error"] < 1e-10 and same["cosine"] > 1 - 1e-10 and same["relative_error.cues_rec"] < 1e-10
    assert other["relative_error"] > 1e-3 and other["relative_error.cues_rec"] > 1e-3


def test_the_hidden_gradient_is_all_of_it(comparison):
    """One projection alone would be nearer or farther; together they lie between."""
    apart = comparison["alignment"]["relative_error"].sel(rule="e-prop", projection=["cues_rec", "rec_rec"])
    whole = comparison["hidden"]["relative_error"].sel(rule="e-prop")
    assert ((apart.min("projection") <= whole) & (whole <= apart.max("projection"))).all()


def test_only_feedback_of_its_own_has_an_angle(comparison):
    angles = comparison["feedback"]["angle"].sel(projection="rec_out")
    assert np.isnan(angles.sel(rule=["BPTT", "e-prop", "frozen"])).all()
    random = angles.sel(rule="random")
    # forward weights learn
    assert np.isfinite(random).all() and (random.isel(update=0) != random.isel(update=-1)).all()


def test_the_angle_of_feedback_to_its_forward_weights():
    """The forward weights themselves: 0 degrees. Their negative: 180. Symmetric feedback has none."""
    net = network()
    values = net.draw(0)
    for sign in (1, -1):
        rule = eprop(feedback={"rec": sign * 2 * values.weights["rec_out"]})
        assert feedback(net, values, rule, 0)["rec_out"].shape == (8, 2)
        assert feedback_cosines(net, values, rule, 0) == {"feedback_cosine.rec_out": pytest.approx(sign)}
    assert feedback_cosines(net, values, eprop(), 0) == {}


def test_signs_and_learned_feedback_have_an_angle_too():
    """Signs of the forward weights lie near them; what learns is looked at as it is now, not as it began."""
    net = network()
    values = net.draw(0)
    signs, learns = feedback_alignment(eprop(), "sign"), feedback_alignment(eprop(), "learned")
    assert 0.5 < feedback_cosines(net, values, signs, 0)["feedback_cosine.rec_out"] < 1
    now = as_it_is(learns, {"rec_out": values.weights["rec_out"]})
    assert feedback_cosines(net, values, now, 0) == {"feedback_cosine.rec_out": pytest.approx(1)}
    trials = TASK.testing(4, 0)
    grads = [lp.gradient(net, trials, rule, loss=LOSS) for rule in (now, eprop(), learns)]
    assert float(lp.distance(grads[0], grads[1])["relative_error"].max()) < 1e-12
    assert float(lp.distance(grads[2], grads[1])["relative_error"].max()) > 0.1
    assert as_it_is(eprop(), {}) == eprop()
    assert feedback_cosines(net, values, learns, 0)["feedback_cosine.rec_out"] < 0.9


def test_local_rules_are_timed_on_both_backends_and_bptt_on_torch(comparison):
    """Where a rule did not run there is no number; a trial takes less than a second, and some update takes memory."""
    seconds, memory = comparison["cost"]["seconds_per_trial"], comparison["cost"]["peak_memory"]
    for rule in seconds["rule"].values:
        where = ("brian2", "torch") if rule == "e-prop" else ("torch",)
        for backend in ("brian2", "torch"):
            took, needed = (found.sel(rule=rule, backend=backend).values for found in (seconds, memory))
            assert np.all((took > 0) & (took < 1)) if backend in where else np.isnan(took).all(), (rule, backend)
            assert 0 <= needed < 1e9 if backend in where else np.isnan(needed), (rule, backend)
    assert float(memory.max()) > 0


#: A protocol small enough to run, in place of the ones that ship.
TOY = Protocol("toy", "a test", "none", small, {"quick": {}}, {"an agent that guesses": "50 %"})


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(protocols, "load", lambda name: TOY)


def invoke(*arguments):
    from typer.testing import CliRunner

    return CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The folder to which ``localplast compare`` wrote, and what it said."""
    folder = tmp_path_factory.mktemp("compared")
    wanted = [word for n in ("tex", "csv") for word in ("--table", str(folder / f"table.{n}"))]
    wanted += ["--figure", str(folder / "figure.pdf"), "--out", str(folder)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocols, "load", lambda name: TOY)
        patch.setattr(ConstrainedLayoutEngine, "execute", lambda *arguments: None)  # takes seconds
        result = invoke("compare", "toy", "--seeds", "1", "--target", "numpy", *wanted)
    assert result.exit_code == 0, result.output
    return folder, result.output


def test_compare_writes_table_figure_and_record(compared):
    paper, output = compared
    folder = paper / "toy-quick"
    assert "e-prop, random" in (folder / "table.md").read_text() and "50 %" in output
    for figure in ("comparison.png", "details.png"):
        assert (folder / figure).read_bytes()[:4] == b"\x89PNG"
    assert (paper / "figure.pdf").read_bytes()[:4] == b"%PDF" and r"\toprule" in (paper / "table.tex").read_text()
    command = "localplast compare toy --preset quick --seeds 1 --target numpy"
    assert all(command in path.read_text() for path in (paper / "table.csv", folder / "table.md"))
    assert "by projection" in output and str(paper / "table.tex") in output
    tree = xr.open_datatree(folder / "comparison.zarr", engine="zarr", consolidated=False)
    assert list(tree["curves"]["rule"].values) == ["BPTT", "e-prop, symmetric", "e-prop, random", "BPTT, hidden frozen"]


@pytest.mark.thorough
def test_local_rules_can_be_compared_on_torch(toy, tmp_path):
    result = invoke(
        "compare", "toy", "--seeds", "2", "--backend", "torch", "--batch", "3", "--updates", "2", "--out", str(tmp_path)
    )
    assert "--batch 3 --backend torch" in result.output and "of 3 trials" in result.output
    assert len(list((tmp_path / "toy-quick" / "runs").glob("*.zarr"))) == 8
    tree = xr.open_datatree(tmp_path / "toy-quick" / "comparison.zarr", engine="zarr", consolidated=False)
    assert set(tree["cost"]["trained_on"].values) == {"torch"}


def test_a_modifier_is_no_rule_to_run(toy, tmp_path):
    with pytest.raises(lp.LocalplastError, match="no rule 'feedback_alignment'"):
        invoke("run", "toy", "--rule", "feedback_alignment", "--out", str(tmp_path))


@pytest.mark.parametrize("option, path", [("--table", "table.xls"), ("--figure", "figure")])
def test_a_suffix_that_cannot_be_written_is_refused_before_training(toy, tmp_path, option, path):
    with pytest.raises(lp.LocalplastError, match=r"\.(csv|png)"):
        invoke("compare", "toy", "--out", str(tmp_path), option, str(tmp_path / path))
    assert not list(tmp_path.iterdir())


def test_the_frozen_control_keeps_its_hidden_weights(compared):
    runs = compared[0] / "toy-quick" / "runs"
    start = network().draw(0).weights
    for name, moves in (("BPTT,_hidden_frozen", False), ("BPTT", True)):
        record = lp.open(runs / f"{name}-seed0.zarr")
        for projection in ("cues_rec", "rec_rec"):
            moved = np.abs(record[projection]["weight"].values - start[projection]).max()
            assert (moved > 0) == moves, projection
        assert np.abs(record["rec_out"]["weight"].values - start["rec_out"]).max() > 0


def test_run_show_and_resume(toy, tmp_path):
    arguments = ["run", "toy", "--rule", "eprop", "--backend", "torch", "--out", str(tmp_path)]
    assert "test_accuracy" in invoke(*arguments).output
    assert "record:" in invoke(*arguments, "--resume").output
    store = next(tmp_path.glob("*.zarr"))
    assert "metrics" in invoke("show", str(store)).output


@pytest.mark.thorough
def test_an_interrupted_comparison_resumes_to_the_same_table(tmp_path, monkeypatch):
    from localplast.runs import fit

    rules = {"e-prop": lp.Contender(eprop(feedback="random"), "torch"), "BPTT": bptt()}
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
    for group in ("curves", "training", "alignment", "hidden", "feedback"):
        xr.testing.assert_identical(whole[group].to_dataset(), resumed[group].to_dataset())


def test_two_runs_side_by_side_share_one_display(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    rules = {"BPTT": bptt(), "cut": bptt(cut="reset")}
    compare(
        network(),
        TASK,
        rules,
        optimiser=lp.adam(1e-2),
        seeds=(0,),
        batch=2,
        updates=4,
        test=6,
        probes=2,
        workers=2,
        show=True,
    )
    assert "BPTT, torch, seed 0" in capsys.readouterr().err


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("command, said", [
    (["run", "toy", "--backend", "torch"], "stopped after 1 of 4 updates; what was learned is saved in .*toy-quick-eprop.*--resume"),
    (["compare", "toy", "--backend", "torch", "--seeds", "1"], "stopped; what was learned is saved in .*toy-quick/runs: .*--resume"),
])  # fmt: skip
@pytest.mark.sampled(2)
def test_a_request_to_stop_is_answered(command, said, number, code, toy, tmp_path, monkeypatch, capsys):
    """With what is saved, how to go on, and the code of the signal; then it goes on."""
    arguments, original, calls = ["localplast", *command, "--out", str(tmp_path)], Fit.block, []

    def interrupted(self, recorder, probe=None):
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(number)
            time.sleep(0.1)
        return original(self, recorder, probe)

    monkeypatch.setattr(Fit, "block", interrupted)
    monkeypatch.setattr(cli, "say_once", lambda: None)
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code and re.search(said, capsys.readouterr().err)
    if command[0] == "run":  # a comparison goes on below
        monkeypatch.setattr(sys, "argv", [*arguments, "--resume"])
        cli.main()


def test_a_line_now_and_then_where_there_is_no_terminal(monkeypatch, caplog, capsys):
    """For all runs of the process: how long, how far, how well, and how much longer."""
    monkeypatch.setattr("localplast.runs.progress.EVERY", 0.05)
    caplog.set_level("INFO", "localplast.runs.progress")
    for show in (None, True, False):
        with progress("one", 10, show=show) as one, progress("other", 4, done=2, show=show):
            one(5, loss=0.25, accuracy=np.nan)
            time.sleep(0.12)
    line = r"one: 0:00:00  5/10  loss 0.25  0:00:00 left \| other: 0:00:00  2/4  starting"
    assert re.fullmatch(line, caplog.messages[0]) and len(caplog.messages) in (1, 2)
    assert re.match(line, capsys.readouterr().err)


def test_names_of_runs_do_not_collide(tmp_path):
    names = ["e-prop", "e prop", "e_prop", "e/prop", "e%2Fprop", "../e"]
    found = {store_of(tmp_path, name, 0) for name in names}
    assert len(found) == len(names) and {path.parent for path in found} == {tmp_path}


def test_results_are_replaced_whole(tmp_path):
    """What was there stays until what is new is whole; what a kill left beside it goes."""
    place = tmp_path / "comparison.zarr"
    for text in ("old", "new"):
        (tmp_path / ".comparison.zarr.new").mkdir()
        with replacement(place) as folder:
            folder.mkdir()
            (folder / "text").write_text(text)
            assert not place.exists() or (place / "text").read_text() == "old"
    with pytest.raises(OSError, match="full"), replacement(place) as folder:
        folder.mkdir()
        raise OSError("full")
    assert (place / "text").read_text() == "new" and list(tmp_path.iterdir()) == [place]


def test_list_and_describe():
    listed = invoke("list").output
    assert all(name in listed for name in ("alif", "eprop", "yin-yang", "mnist"))
    rule, model = invoke("describe", "e-prop").output, invoke("describe", "alif").output
    assert "elig = psi*" in rule and "2 (eps_a, filtered_v) per synapse" in rule
    assert "dv/dt = -v/tau_mem" in model and "d v / d v = exp(-dt/tau_mem)" in model


def test_misuse_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["localplast", "compare", "maze"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    message = capsys.readouterr().err
    assert "maze" in message and "yin-yang" in message and "Traceback" not in message
