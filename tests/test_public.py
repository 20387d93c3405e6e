"""The public face: what can be imported, what importing costs, and what is packaged."""

import inspect
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import localplast as lp

ROOT = Path(__file__).parent.parent


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")


def test_every_public_name_is_there():
    for name in lp.__all__:
        assert getattr(lp, name) is not None


def test_the_public_names_are_these():
    assert lp.__all__ == sorted([
        "Best", "Compartment", "Contender", "DatasetError", "Hz", "Input", "LocalplastError", "LocalplastWarning", "Mismatch", "ModelError",
        "Network", "NetworkError", "NeuronModel", "Plateau", "Poisson", "Population", "Projection", "RunawayError", "Stop", "Task", "Trials",
        "UnsupportedError", "active_coupling", "adam", "axonal", "cell", "channels", "compare", "convolution", "coupling", "dale", "delay",
        "dendritic", "depression", "distance", "dynamics", "facilitation", "gradient", "live", "losses", "mV", "madgrad", "models",
        "max_pooling", "momentum", "ms", "normal", "one_way_coupling", "open", "plot", "pooling", "protocols", "replay", "retention", "rmaxprop", "rmsprop", "rules",
        "run", "same_as", "scaffold", "second", "sgd", "space", "surrogate", "synaptic", "transposed", "uniform",
    ])  # fmt: skip


def methods(kind):
    """The public functions that a class has from localplast, by name: constructor, methods and properties."""
    for name, member in inspect.getmembers_static(kind):
        wrapped = [getattr(member, inner, None) for inner in ("fget", "func", "__func__")]
        function = next(filter(None, wrapped), member)
        if inspect.isfunction(function) and function.__module__.startswith("localplast"):
            if name == "__init__" or not name.startswith("_"):
                yield name, function


def public_functions():
    """Every function of the public face, and every public method of its types, by name."""
    named = {name: getattr(lp, name) for name in lp.__all__}
    for name, module in [(name, found) for name, found in named.items() if inspect.ismodule(found)]:
        named |= {f"{name}.{each}": getattr(module, each) for each in module.__all__}
    functions = {name: found for name, found in named.items() if callable(found) and inspect.isroutine(found)}
    kinds = {name: found for name, found in named.items() if inspect.isclass(found)}
    return functions | {f"{name}.{each}": found for name, kind in kinds.items() for each, found in methods(kind)}


def silent(function):
    """What of a function's arguments and result has no type."""
    signature = inspect.signature(function)
    named = {name: each.annotation for name, each in signature.parameters.items() if name not in ("self", "cls")}
    named["return"] = signature.return_annotation
    return [name for name, annotation in named.items() if annotation is inspect.Signature.empty]


def test_every_public_function_says_what_it_takes_and_returns():
    found = public_functions()
    assert len(found) > 200 and {"run", "Network.draw", "models.lif", "channels.nmda", "losses.Loss.error"} <= {*found}
    assert not {name: untold for name, function in found.items() if (untold := silent(function))}


def test_the_types_are_packaged():
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "py.typed" in packaged["localplast"] and (ROOT / "localplast" / "py.typed").is_file()


def test_a_misspelt_name_lists_what_there_is():
    with pytest.raises(AttributeError, match="Population"):
        lp.Populaton  # noqa: B018


@pytest.fixture(scope="module")
def script():
    """A process that imports what describes and what records, says whether that took Torch, and ends with an error."""
    return run_python("""
import sys, localplast as lp
lp.Network, lp.run, lp.compare
print("describing", "torch" in sys.modules)
import localplast.runs.record
print("recording", "torch" in sys.modules)
lp.Poisson([1.0], 1)
""")


def test_describing_and_recording_need_no_torch(script):
    assert script.stdout.splitlines() == ["describing False", "recording False"], script.stderr


def test_no_report_of_a_bug_is_asked_for(script):
    """Brian2 does so for every exception that ends a script."""
    assert script.returncode == 1 and "localplast.errors.NetworkError: Poisson(rates)" in script.stderr
    assert "report" not in script.stderr


WITHOUT_TORCH = """
import subprocess, sys
sys.modules["torch"] = None  # an import of it fails
sys.path.insert(0, {tests!r})
import versions
subprocess.run = None  # nothing can be compiled
versions.check_refusals()
"""


@pytest.mark.thorough
def test_what_needs_torch_says_so_where_it_is_missing():
    """And what does not runs: tests/versions.py does the rest where Torch is not installed."""
    done = run_python(WITHOUT_TORCH.format(tests=str(ROOT / "tests")))
    assert done.returncode == 0, done.stderr


def test_help_imports_neither_brian2_nor_torch():
    code = """
import sys
from localplast.cli import app
try:
    app(["--help"])
except SystemExit:
    pass
assert not {"torch", "brian2"} & set(sys.modules)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_every_folder_with_python_is_packaged():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {".".join(file.parent.relative_to(ROOT).parts) for file in (ROOT / "localplast").rglob("*.py")}
    assert listed == {"localplast.models", "localplast.protocols", *found}


def test_every_folder_is_in_the_source_distribution():
    grafted = re.findall(r"^graft (.+)$", (ROOT / "MANIFEST.in").read_text(), flags=re.M)
    assert {*grafted, "localplast"} >= {"benchmarks", "data", "docs", "models", "notebooks", "protocols", "tests"}
    assert all((ROOT / folder).is_dir() for folder in grafted)


def test_an_index_shows_no_link_to_what_it_does_not_have():
    described = runpy.run_path(str(ROOT / "setup.py"))["for_an_index"]
    assert described("![a](docs/a.png)\n\n[b](docs/b.md), [c](https://c.org)") == "b, [c](https://c.org)"
    text = described((ROOT / "README.md").read_text())
    assert "docs/results.md" in text and all(link.startswith("http") for link in re.findall(r"\]\(([^)]*)\)", text))


def test_models_and_protocols_have_one_name():
    for name in ("models", "protocols"):
        done = subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, text=True, cwd=ROOT)
        assert f"import localplast.{name}, not {name}" in done.stderr


def test_the_command_line_says_a_warning_once():
    code = """
import logging
from localplast.cli import say_once
say_once()
for text in ("slower", "slower", "other", "slower"):
    logging.getLogger("localplast.backends").warning(text)
"""
    assert run_python(code).stderr.split() == ["slower", "other"]
