"""Every notebook runs from top to bottom, and what it says about numbers holds."""

import json
import re
from pathlib import Path

import matplotlib
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_it_runs(path, capsys):
    matplotlib.use("Agg")
    names = {}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), path.name, "exec"), names)  # our own text, in our own repository
    printed = capsys.readouterr().out
    difference = float(re.search(r"largest difference of any membrane (\S+)", printed)[1])
    cut, full = map(float, re.search(r"edges cut (\S+), against BPTT (\S+)", printed).groups())
    assert difference < 1e-9 and cut < 1e-8 < 0.01 < full
    assert float(names["tree"]["curves"]["test_accuracy"].isel(update=-1).mean()) > 0.7
