"""Several networks in one comparison, on the same trials: each against its own BPTT, absent where it has no such
part.
"""

import numpy as np
import pytest
import xarray as xr
from brian2 import ms

import localplast as lp
from localplast import cli, plot, protocols
from localplast.models import alif, leaky_readout, lif
from localplast.rules import bptt, eprop
from localplast.study.compare import compare
from localplast.study.contenders import tuned
from localplast.study.protocol import Preset, Protocol
from localplast.study.report import table

STEPS = 30


def network(model=lif, *, size=8, recurrent=True, dt=1 * ms, inputs=6, readouts=2, name="rec", **options):
    within = [lp.Projection(name, name, delay=lp.axonal(3 * dt))] if recurrent else []
    return lp.Network(
        dt=dt, cues=lp.Input(inputs), **{name: lp.Population(size, model(), **options)},
        out=lp.Population(readouts, leaky_readout()),
        projections=[lp.Projection("cues", name, weight=lp.normal(2.0)), *within, lp.Projection(name, "out")],
    )  # fmt: skip


def generate(rng, n):
    raster = rng.random((n, STEPS, 6)) < 0.2
    labels = (raster[:, :, :3].sum((1, 2)) > raster[:, :, 3:].sum((1, 2))).astype(int)
    return lp.Trials({"cues": raster}, labels, np.full(STEPS, 1 / STEPS))


TASK, LOSS = lp.Task.generated("more-on-the-left", generate), lp.losses.cross_entropy()
SETTINGS = dict(optimiser=lp.adam(1e-2), seeds=(0, 1), batch=2, updates=2, test=6, probes=1)
FAMILIES = {
    "e-prop": lp.Contender(eprop(feedback="random"), "torch"),
    "feedforward": lp.Contender(bptt(), "torch", network=network(size=5, recurrent=False)),
    "learns its leak": lp.Contender(
        eprop(), "torch", network=network(alif, trainable={"tau_mem": (5 * ms, 50 * ms)}),
        optimiser=lp.adam(2e-2).with_rates(**{"rec.tau_mem": 0.1}), loss=LOSS + lp.losses.rate(10, 1e-4),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def comparison():
    return compare(network(), TASK, FAMILIES, loss=LOSS, **SETTINGS)


@pytest.mark.thorough
def test_each_against_its_own_bptt(comparison):
    found = comparison["alignment"]["relative_error"]
    assert list(found["projection"].values) == ["cues_rec", "rec_rec", "rec_out", "rec.tau_mem"]
    there = np.isfinite(found).all(("seed", "update"))
    absent = {
        rule: [p for p in found["projection"].values if not there.sel(rule=rule, projection=p)] for rule in FAMILIES
    }
    assert absent == {"e-prop": ["rec.tau_mem"], "feedforward": ["rec_rec", "rec.tau_mem"], "learns its leak": []}
    assert (
        float(found.sel(rule="feedforward").max()) == 0
        and float(found.sel(rule="e-prop", projection="cues_rec").min()) > 0.01
    )
    assert np.isfinite(comparison["hidden"]["cosine"]).all()


def test_networks_are_named(comparison):
    words = ["8 lif, recurrent, delays to 3 ms", "5 lif", "8 alif, recurrent, delays to 3 ms"]
    assert list(comparison["cost"]["network"].values) == words
    state = comparison["cost"]["bytes_per_synapse"]
    assert np.isnan(state.sel(rule="feedforward", projection="rec_rec"))
    onto = state.sel(projection="cues_rec")
    assert onto.sel(rule="feedforward") == 24 and onto.sel(rule="learns its leak") > onto.sel(rule="e-prop")  # as alif


def test_the_same_run_alone(comparison):
    """A contender's own network, optimiser and loss are what trains, from the same seed on the same trials."""
    own = FAMILIES["learns its leak"]
    options = dict(rule=own.rule, optimiser=own.optimiser, loss=own.loss, batch=2, updates=2, seed=1)
    alone = lp.run(own.network, TASK, backend="torch", **options)
    seen = comparison["training"].sel(rule="learns its leak", seed=1)
    np.testing.assert_allclose(seen["loss"], alone["metrics"]["loss"].dropna("update"), rtol=1e-12)
    assert np.abs(seen["loss"] / comparison["training"]["loss"].sel(rule="e-prop", seed=1) - 1).max() > 1e-6


def test_rates_that_were_found_for_each():
    """Halvings are spread over a contender's own updates; everything else of it stays."""
    rules = {"online": eprop(), "BPTT": bptt(), "longer": lp.Contender(bptt(), "torch", ("rec_rec",), updates=60)}
    rates = {"online": (1e-3, 0), "BPTT": (2e-3, 4), "longer": (5e-3, 4)}
    made = tuned(rules, rates, 20, made=lp.sgd)
    assert [own.optimiser for own in made.values()] == [lp.sgd(1e-3), lp.sgd(2e-3).halved(5), lp.sgd(5e-3).halved(15)]
    assert [own.backend for own in made.values()] == ["brian2", "torch", "torch"]
    assert made["longer"].frozen == ("rec_rec",) and made["longer"].updates == 60 and made["BPTT"].updates is None
    assert tuned({"BPTT": bptt()}, rates, 20)["BPTT"].optimiser == lp.adam(2e-3).halved(5)


@pytest.mark.thorough
def test_one_may_need_more_updates():
    """Its own course, tested as often; the others have no value where they were not trained."""
    rules = {"BPTT": bptt(), "longer": lp.Contender(bptt(), "torch", optimiser=lp.adam(2e-2).halved(3), updates=7)}
    tree = compare(network(), TASK, rules, loss=LOSS, **{**SETTINGS, "updates": 4, "probes": 2})
    assert list(tree["curves"]["update"].values) == [0, 2, 3, 4, 6] and list(tree["training"]["update"].values) == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]
    tested = {rule: np.isfinite(tree["curves"]["test_loss"].sel(rule=rule)).values for rule in rules}
    for rule, where in {"BPTT": [1, 1, 0, 1, 0], "longer": [1, 0, 1, 0, 1]}.items():
        assert (tested[rule] == np.array(where, bool)).all()
        assert (np.isfinite(tree["hidden"]["cosine"].sel(rule=rule)) == np.array(where, bool)).all()
    assert (
        np.isnan(tree["training"]["loss"].sel(rule="BPTT")).sum() == 4
        and np.isfinite(tree["training"]["loss"].sel(rule="longer")).all()
    )
    own, alone = (
        rules["longer"],
        lp.run(
            network(),
            TASK,
            backend="torch",
            rule=bptt(),
            optimiser=rules["longer"].optimiser,
            loss=LOSS,
            batch=2,
            updates=6,
            seed=1,
        ),
    )
    assert np.array_equal(
        tree["training"]["loss"].sel(rule="longer", seed=1), alone["metrics"]["loss"].dropna("update")
    )
    assert (
        list(tree["cost"]["updates"].values) == [4, 6]
        and list(tree["cost"]["optimiser"].values)[1] == own.optimiser.label
    )
    found = table(tree)
    assert found.titles[1:4] == ["trained on", "updates", "optimiser"] and "nan" not in str(found.rows)
    figures = [plot.comparison(tree), plot.details(tree)]
    lines = [
        line for figure in figures for ax in figure.axes for line in ax.get_lines() if line.get_label() == "longer"
    ]
    assert lines and all(np.isfinite(line.get_ydata()).sum() == 3 for line in lines if len(line.get_xdata()))


def test_one_may_update_from_fewer_trials_more_often():
    """Two updates of one trial each where the others make one of two: the same trials, counted."""
    often = lp.Contender(bptt(), "torch", batch=1, updates=4)
    tree = compare(network(), TASK, {"BPTT": bptt(), "often": often}, loss=LOSS, **{**SETTINGS, "seeds": (0,)})
    assert list(tree["cost"]["batch"].values) == [2, 1]
    counted = tree["training"]["trials"]
    assert counted.sel(rule="BPTT", update=2) == counted.sel(rule="often", update=4) == 4
    alone = lp.run(
        network(), TASK, backend="torch", rule=bptt(), optimiser=SETTINGS["optimiser"], loss=LOSS, batch=1, updates=4
    )
    np.testing.assert_array_equal(
        tree["training"]["loss"].sel(rule="often", seed=0), alone["metrics"]["loss"].dropna("update")
    )
    assert table(tree).titles[2:4] == ["updates", "batch"]


@pytest.mark.parametrize("other, complaint", [
    (network(dt=2 * ms), "'odd': its network has other dt .0.002. than the one compared .0.001."),
    (network(inputs=7), "other inputs"),
    (network(readouts=3), "other readouts .*'out': 3.*'out': 2"),
    (network(name="hidden"), "no population 'rec'.*it has .'hidden', 'out'."),
])  # fmt: skip
def test_networks_that_cannot_see_the_same_trials(other, complaint):
    with pytest.raises(lp.LocalplastError, match=complaint):
        compare(network(), TASK, {"odd": lp.Contender(bptt(), "torch", network=other)}, loss=LOSS, **SETTINGS)


@pytest.mark.thorough
def test_the_report_shows_networks_and_references(monkeypatch, tmp_path):
    from typer.testing import CliRunner

    def quick():
        more = dict(rules=FAMILIES, references={"tosses a coin": 0.5})
        return Preset(network(), TASK, LOSS, learning_rate=1e-2, batch=2, updates=2, test=6, hidden="rec", **more)

    monkeypatch.setattr(protocols, "load", lambda name: Protocol("toy", "a test", "none", quick, {"quick": {}}))
    result = CliRunner().invoke(
        cli.app, ["compare", "toy", "--seeds", "1", "--out", str(tmp_path)], catch_exceptions=False
    )
    assert "| feedforward | 5 lif | torch |" in result.output and "tosses a coin: 50.0 %" in result.output
    assert "| feedforward | rec_out |" in result.output and "| feedforward | rec_rec |" not in result.output
    tree = xr.open_datatree(tmp_path / "toy-quick" / "comparison.zarr", engine="zarr", consolidated=False)
    assert float(tree["references"]["accuracy"].sel(agent="tosses a coin")) == 0.5
