"""The README's and the documents' examples run as printed."""

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent


def blocks(path):
    return re.findall(r"```python\n(.*?)```", (ROOT / path).read_text(), flags=re.S)


def test_the_example_of_the_readme_runs():
    names = {}
    exec(compile(blocks("README.md")[0], "README.md", "exec"), names)  # our own text, in our own repository
    assert names["record"]["rec"]["v"].dims == ("trial", "time", "neuron")
    assert names["record"]["rec"].sizes["spike"] > 100
    assert names["error"].dims == ("pre", "post")
    assert float(np.abs(names["error"]).max()) > 0


def test_its_first_code_stands_within_forty_lines():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert lines.index("```python") < 40


@pytest.mark.thorough
def test_the_examples_of_the_documents_run():
    names = {}
    for block in blocks("docs/extending.md"):
        exec(compile(block, "docs/extending.md", "exec"), names)
    assert names["quadratic"]().spiking
    assert names["seen"]["out"]["v"].dims == ("trial", "time", "neuron")


def test_the_example_of_the_dendrites_runs():
    names = {}
    for block in blocks("docs/dendrites.md"):
        exec(compile(block, "docs/dendrites.md", "exec"), names)
    line = re.search(r"print\(neuron\)  # (.*) \.\.\.", blocks("docs/dendrites.md")[0])[1]
    assert line in names["neuron"].equations
    assert 5 < names["record"]["cells"].sizes["spike"] < 200
    assert float(names["record"]["cells"]["v_basal"].max()) > -45e-3


def test_the_printed_programs_are_those_of_the_example():
    names = {}
    for block in blocks("docs/program.md"):
        exec(compile(block, "docs/program.md", "exec"), names)
    printed = re.findall(r"```text\n(.*?)\n```", (ROOT / "docs/program.md").read_text(), re.DOTALL)
    assert printed == [str(names["program"]), str(names["backward"])]


@pytest.mark.thorough
def test_the_example_of_prospective_neurons_runs_and_says_what_is_true():
    names = {}
    for block in blocks("docs/prospective.md"):
        exec(compile(block, "docs/prospective.md", "exec"), names)
    lag = names["seen"]["out"]["u_breve"] - names["seen"]["out"]["u"]
    assert float(np.abs(lag).isel(time=slice(100, 110)).max()) > 0.1, "the membrane is late"
    assert names["live"]["up1"]["weight"].dims == ("update", "pre", "post")
    assert float(names["apart"].min()) > 0.999


def test_each_procedure_under_patents_can_be_removed_by_itself():
    text = (ROOT / "docs/prospective.md").read_text()
    rows = re.findall(
        r"^\| (?:latent equilibrium|its generalisation|phaseless alignment)[^|]*\| (.*) \|$", text, flags=re.M
    )
    listed = [re.findall(r"`((?:models|protocols)/[a-z0-9_*]+\.py)`", row.partition(";")[0]) for row in rows]
    files = [{path for each in paths for path in ROOT.glob(each)} for paths in listed]
    assert len(rows) == 3 and all(files) and all(any(ROOT.glob(each)) for paths in listed for each in paths)
    others = {path for folder in ("models", "protocols") for path in (ROOT / folder).glob("[!_]*.py")}
    for own in files:
        names = "|".join(path.stem for path in own)
        uses = re.compile(rf"^from localplast\.(models|protocols)(\.({names}) |(\.\w+)? import .*\b({names}))", re.M)
        assert any(uses.search(path.read_text()) for path in own), "the pattern finds nothing"
        assert not [path.name for path in others - own if uses.search(path.read_text())]
