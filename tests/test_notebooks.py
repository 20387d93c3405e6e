"""Every notebook runs from top to bottom, and what it says about numbers holds."""

import json
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from localplast.backends.c import compile as kernel_build

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def tour(names, printed):
    difference = float(re.search(r"largest difference of any membrane (\S+)", printed)[1])
    cut, full = map(float, re.search(r"edges cut (\S+), against BPTT (\S+)", printed).groups())
    assert difference < 1e-9 and cut < 1e-8 < 0.01 < full
    assert float(names["tree"]["curves"]["test_accuracy"].isel(update=-1).mean()) > 0.7


def delays(names, printed):
    longest = {name: float(curve["accuracy"][-1]) for name, curve in names["longer"].items()}
    assert longest["with delays"] > 0.9 > longest["without delays"] + 0.05
    assert float(names["more"]["with delays"]["accuracy"].sel(cues=7)) > 0.85
    power = names["power"]  # a peak between 10 and 12.5 Hz: without a rhythm it would fall from lower frequencies on
    assert power.sel(frequency=slice(9, 13)).max() > 1.5 * power.sel(frequency=slice(4, 8)).min()
    assert float(names["fit"]["metrics"]["test_accuracy"][-1]) == 1.0 and np.abs(names["later"] - 6).max() < 1.5
    spikes, differ = map(int, re.search(r"(\d+) spikes, of which (\d+) differ", printed).groups())
    assert spikes > 100 and differ == 0


def dendrites(names, printed):
    assert "54.10, 66.45 | 54.10, 66.45" in printed and "Jahr & Stevens has one stable state" in printed
    before, after = map(float, re.search(r"before (\S+), after (\S+)", printed).groups())
    assert after > 0.85 > before + 0.3
    rest, taught = (float(found) for found in re.findall(r"apical potentials up to (\S+)", printed))
    assert rest < 1e-3 * taught
    cosines = names["apart"]["cosine"].sel(projection=["up1", "up2"])
    assert cosines.min() > 0.8 and float(names["test"][0]) < 0.7 and float(names["test"][-1]) == 1.0
    played = re.search(r"replay without the teacher: correlation (\S+),", printed)
    assert float(played[1]) > 0.9


def prospective(names, printed):
    silent = re.findall(
        r"(\w+): of its way the tenth layer has before it after 1 ms (\S+), learning, after 3 ms (\S+)", printed
    )
    (_, at_once, soon), (_, not_at_once, not_soon) = silent
    assert float(at_once) < 1e-12 < 0.8 < float(not_at_once) and float(soon) < 0.2 < 0.55 < float(not_soon)
    weak = re.search(r"beta 0.001: cosine with the gradient \[(.*)\]", printed)[1].split()
    strong = re.search(r"beta 1: cosine with the gradient \[(.*)\]", printed)[1].split()
    assert min(map(float, weak)) > 0.999 > 0.9 > max(map(float, strong))
    before, after = map(float, re.search(r"teacher silent: before (\S+), after (\S+)", printed).groups())
    assert after < 0.02 < 0.15 < before
    accuracy = {rule: float(names["tree"]["curves"]["test_accuracy"].sel(rule=rule)[0, -1]) for rule in names["few"]}
    heard = re.search(r"signals named rightly: (\d+) % before, (\d+) % after", printed)
    assert int(heard[2]) > 16 > 15 > int(heard[1])
    before, after = (
        re.findall(r"down\d (\S+)°", line) for line in re.findall(r"(?:before|after): (angle .*)", printed)
    )
    assert min(map(float, before)) > 75 > 65 > max(map(float, after))
    assert accuracy["LE, symmetric"] > 0.75 > 0.7 > accuracy["LE, hidden frozen"] > accuracy["not prospective"]


CLAIMS = {"tour": tour, "delays": delays, "dendrites": dendrites, "prospective": prospective}
#: Files that notebooks read, below LOCALPLAST_DATA.
FILES = {"prospective": ("mnist/train-images-idx3-ubyte.gz", "mnist1d/mnist1d.npz")}


@pytest.fixture(autouse=True)
def _as_shipped(monkeypatch):
    """Kernels that learn for long are worth the time to compile them well."""
    monkeypatch.setattr(kernel_build, "FLAGS", tuple(flag for flag in kernel_build.FLAGS if flag != "-Og"))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "path", [pytest.param(p, id=p.stem, marks=pytest.mark.needs_data(*FILES.get(p.stem, ()))) for p in NOTEBOOKS]
)
def test_it_runs(path, capsys):
    matplotlib.use("Agg")
    names = {}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), path.name, "exec"), names)  # our own text, in our own repository
    CLAIMS[path.stem](names, capsys.readouterr().out)
