"""Tables: what a cell says, and that every format holds it whatever characters names have."""

import csv

import numpy as np
import pytest
import xarray as xr

from localplast.errors import LocalplastError
from localplast.show.table import Column, Table, latex, spread
from localplast.study.report import alignment_table, header, table

NASTY = r"50 % & $x_1^2$ #1 {a|b} \n ~, \"q\""


@pytest.fixture
def made():
    columns = (Column("rule", [NASTY, "e-prop"]), Column("error (%)", [[0.25, 0.75], [np.nan, np.nan]], 1))
    return Table(("what_is 100 %", "mean ± sd"), columns)


def test_cells():
    assert spread([0.5], 2) == "0.50" and spread([0.4, 0.6], 1) == "0.5 ± 0.1"
    assert spread([np.nan], 1) == "-" and spread([], 1) == "-" and spread(np.float64(2), 0) == "2"


def test_a_seed_without_a_value_is_told():
    assert spread([0.4, 0.6, np.nan], 1) == "0.5 ± 0.1 (2 of 3)" and spread([0.4, np.nan], 1) == "0.4 (1 of 2)"


def test_markdown(made):
    text = made.to_markdown()
    lines = text.splitlines()
    assert lines[0].startswith("what_is 100 %") and lines[2] == ""
    assert lines[3:5] == ["| rule | error (%) |", "| --- | --- |"]
    assert lines[6] == "| e-prop | - |" and r"{a\|b}" in lines[5] and "0.5 ± 0.4" in lines[5]


def test_csv_comes_back(made, tmp_path):
    path = tmp_path / "table.csv"
    made.write(path)
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert comments == ["# what_is 100 %", "# mean ± sd"]
    rows = list(csv.reader(line for line in path.open() if not line.startswith("#")))
    assert rows[0] == ["rule", "error (%), mean", "error (%), sd", "error (%), n"]
    assert rows[1][0] == NASTY and float(rows[1][1]) == 0.5 and float(rows[1][2]) == np.std([0.25, 0.75], ddof=1)
    assert rows[2] == ["e-prop", "", "", "0"]


def test_a_name_that_looks_like_a_comment_survives_csv():
    text = Table(("header",), (Column("rule", ["#1"]),)).to_csv()
    assert list(csv.reader(line for line in text.splitlines() if not line.startswith("#")))[1] == ["#1"]


def test_latex_escapes_everything():
    assert latex("50 % & $x_1^2$") == r"50 \% \& \$x\_1\textasciicircum{}2\$"
    assert latex("a\\b{c}~#|±") == r"a\textbackslash{}b\{c\}\textasciitilde{}\#\textbar{}$\pm$"
    assert latex("1 < 2 > 0") == r"1 \textless{} 2 \textgreater{} 0"


def test_latex_is_a_booktabs_table(made):
    text = made.to_latex()
    lines = text.splitlines()
    order = [
        r"\begin{table}",
        r"\caption{",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    places = [next(i for i, line in enumerate(lines) if line.startswith(start)) for start in order]
    assert places == sorted(places) and lines[-1] == r"\end{table}"
    body = lines[places[4] + 1 : places[5]]
    assert len(body) == 2 and all(line.endswith(r" \\") and line.replace(r"\&", "").count("&") == 1 for line in body)
    bare = text.replace(r"\{", "").replace(r"\}", "")
    assert bare.count("{") == bare.count("}") and "%" not in text.replace(r"\%", "") and "±" not in text


def test_writing_is_by_suffix_and_whole(made, tmp_path):
    for suffix in (".csv", ".md", ".tex"):
        made.write(tmp_path / f"table{suffix}")
    assert {p.name for p in tmp_path.iterdir()} == {"table.csv", "table.md", "table.tex"}
    with pytest.raises(LocalplastError, match=r"\.csv, \.md, \.tex.*table\.xls"):
        made.write(tmp_path / "table.xls")


ATTRS = dict(
    seeds=[0, 1], workers=1, task="toy", updates=4, batch=2, optimiser="adam", machine="a machine", localplast="0", brian2="2",
    torch="3",
)  # fmt: skip


def result(accuracy, networks=("8 lif", "8 lif"), updates=(4, 4), rates=(0.1, 0.1)):
    """A comparison of two rules, two seeds and three probes with numbers that can be told apart; only B has a
    projection out.
    """
    coords = {"rule": ["A", "B"], "seed": [0, 1], "update": [0, 2, 4]}
    start = np.zeros((2, 2, 3))
    along = start + np.array([100.0, 1.0, 3.0]) + np.array([[0.0, 2.0]])[..., None]  # seed 0: 1, 3; seed 1: 3, 5
    measures = {
        k: (("rule", "seed", "update"), along)
        for k in ("relative_error", "cosine", "angle", "norm_ratio", "sign_agreement")
    }
    course = np.array([-0.3, 0.2, 0.0])  # best in between: what is shown is the last
    curves = {"test_accuracy": accuracy + course, "test_loss": 1 - course, "test_spikes": 2 + course}
    curves = {name: start + values for name, values in curves.items()}
    only_b = np.array([np.nan, 1.0])[:, None, None]
    by_projection = {
        k: ((*dims, "projection"), np.stack([v, only_b * (v + 1)], -1)) for k, (dims, v) in measures.items()
    }
    cost = {
        "seconds_per_trial": (("rule", "seed", "backend"), np.array([[[np.nan, 1e-3]] * 2, [[2e-3, 1e-3]] * 2])),
        "peak_memory": (("rule", "backend"), np.array([[np.nan, 1e6], [np.nan, 2e6]])),
        "bytes_per_synapse": (("rule", "projection"), np.array([[24.0, 24.0], [24.0, 40.0]])),
    }
    about = {"trained_on": ("rule", ["torch", "brian2"]), "network": ("rule", list(networks))}
    about |= {"batch": ("rule", [2] * len(updates))}
    about |= {"updates": ("rule", list(updates)), "optimiser": ("rule", [f"adam {rate}" for rate in rates])}
    return xr.DataTree.from_dict(
        {
            "/": xr.Dataset(attrs=ATTRS),
            "/curves": xr.Dataset({k: (("rule", "seed", "update"), v) for k, v in curves.items()}, coords),
            "/hidden": xr.Dataset(measures, coords),
            "/alignment": xr.Dataset(by_projection, {**coords, "projection": ["in", "out"]}),
            "/cost": xr.Dataset(
                cost, {"rule": ["A", "B"], "backend": ["brian2", "torch"], "projection": ["in", "out"], **about}
            ),
        }
    )


def test_the_table_of_a_comparison():
    found = table(result(0.5))
    rows = [dict(zip(found.titles, row, strict=True)) for row in found.rows]
    assert [row["rule"] for row in rows] == ["A", "B"] and rows[0]["test accuracy (%)"] == "50.0 ± 0.0"
    assert (rows[0]["test loss"], rows[0]["spikes per neuron"]) == ("1.000 ± 0.000", "2.0 ± 0.0")  # of the last test
    assert rows[0]["relative error"] == "3.000 ± 1.414"  # the start, 100, is left out
    assert [row["brian2: s per 1000 trials"] for row in rows] == ["-", "2.00 ± 0.00"]
    assert [row["torch: peak memory (MB)"] for row in rows] == ["1.0", "2.0"]
    assert [row["bytes per synapse"] for row in rows] == ["24", "40"]
    # no rule has the one, all have the same others
    assert not {"brian2: peak memory (MB)", "network", "updates", "optimiser"} & set(found.titles)
    assert found.header[1] == "mean ± sd over seeds 0, 1" and "a machine" in found.header[2]


def test_what_trajectories_lack_is_left_out():
    titles = table(result(np.nan)).titles
    assert "test accuracy (%)" not in titles and "test loss" in titles


def test_networks_are_told_apart_where_they_differ():
    found = table(result(0.5, ["8 lif", "5 alif"]))
    assert found.titles[:3] == ["rule", "network", "trained on"] and [row[1] for row in found.rows] == [
        "8 lif",
        "5 alif",
    ]


def test_rates_and_updates_are_shown_where_they_differ():
    tree = result(0.5, updates=(4, 2), rates=(0.1, 0.2))
    for variable in tree["curves"].data_vars.values():
        variable.loc[{"update": 4}] += 0.25
        variable.loc[{"rule": "B", "update": 4}] = np.nan  # it was not trained so long
    found = table(tree)
    assert found.titles[1:4] == ["trained on", "updates", "optimiser"]
    assert [row[2:5] for row in found.rows] == [["4", "adam 0.1", "75.0 ± 0.0"], ["2", "adam 0.2", "70.0 ± 0.0"]]


def test_the_table_by_projection():
    found = alignment_table(result(0.5))
    assert [row[:2] for row in found.rows] == [
        ["A", "in"],
        ["B", "in"],
        ["B", "out"],
    ]  # A's network has no projection out
    assert [row[2] for row in found.rows] == ["3.000 ± 1.414"] * 2 + [
        "4.000 ± 1.414"
    ] and "angle (degrees)" in found.titles


def test_a_seed_without_a_value_keeps_the_row():
    tree = result(0.5)
    for measure in tree["alignment"].data_vars.values():
        measure.loc[{"rule": "B", "projection": "out", "seed": 1}] = np.nan
    assert alignment_table(tree).rows[-1][:3] == ["B", "out", "3.000 (1 of 2)"]


def test_the_header_says_preset_and_command_where_they_are_known():
    assert "preset" not in "".join(header(ATTRS))
    lines = header({**ATTRS, "preset": "quick", "command": "localplast compare toy", "workers": 2})
    assert "preset quick" in lines[0] and lines[-1] == "localplast compare toy" and "2 runs side by side" in lines[2]
