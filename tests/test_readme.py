"""The README's and the documents' examples run as printed."""

import re
from pathlib import Path

import numpy as np

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
