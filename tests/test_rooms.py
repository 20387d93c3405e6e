"""The house: imports point one way, no circle, and the map of the rooms in CONTRIBUTING.md is true."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: From the ground up; rooms of one floor do not import each other.
FLOORS = (
    ("errors", "interrupt", "packages"),
    ("names", "files", "memory", "arguments", "equations"),
    ("neuron", "task"),
    ("network", "surrogate"),
    ("learning", "models"),
    ("rules", "program"),
    ("backends",),
    ("show", "runs"),
    ("analysis",),
    ("study",),
    ("protocols", "cli"),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
#: What lies on the ground is for everybody, and uses what it needs of itself.
GROUND = {*FLOORS[0], *FLOORS[1]}
#: The one door upstairs: a rule shows itself.
DOORS = {("learning.rule", "show.describe")}
#: Packages that may load late: they are heavy, or not everywhere.
LATE = {"torch", "matplotlib", "rich", "fcntl"}


def modules():
    """``{dotted name below localplast: file}``."""
    homes = {"": ROOT / "localplast", "models.": ROOT / "models", "protocols.": ROOT / "protocols"}
    return {
        prefix + ".".join(file.relative_to(home).with_suffix("").parts).removesuffix(".__init__"): file
        for prefix, home in homes.items()
        for file in home.rglob("*.py")
    }


MODULES = modules()


def read_by_checkers(tree):
    """What only a checker of types reads: names in signatures, which may point anywhere."""
    blocks = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    return {n for block in blocks for n in ast.walk(block)}


def imports(file):
    """``(module of ours, line, whether on loading)`` of every import in ``file``."""
    tree = ast.parse(file.read_text())
    inner = {n for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    for node in set(ast.walk(tree)) - read_by_checkers(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "localplast":
            base = node.module.removeprefix("localplast").removeprefix(".")
            for alias in node.names:
                full = f"{base}.{alias.name}".removeprefix(".")
                yield full if full in MODULES else base, node.lineno, node not in inner


def room(module):
    return module.split(".")[0]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_one_way(module):
    if module in ("__init__", ""):
        return
    for other, line, _ in imports(MODULES[module]):
        here, there = room(module), room(other)
        if here == there or not there or (module, other) in DOORS:
            continue
        where = f"{MODULES[module].name}:{line} imports {other}"
        assert FLOOR[there] < FLOOR[here] or {here, there} <= GROUND, where


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m.startswith("protocols.")))
def test_no_protocol_imports_another(module):
    """What several share lies in a room below: tasks, networks, figures, what is compared."""
    found = {other for other, _, _ in imports(MODULES[module])}
    assert not {other for other in found if room(other) == "protocols"}


def test_no_circles():
    graph = {m: {other for other, _, loading in imports(file) if loading and other} for m, file in MODULES.items()}
    faces = {m for m, file in MODULES.items() if file.name == "__init__.py"}
    try:
        TopologicalSorter({m: needs - faces for m, needs in graph.items() if m not in faces}).prepare()
    except CycleError as circle:
        pytest.fail(" -> ".join(circle.args[1]))


def late_imports(file):
    """``(packages, line)`` of the imports within functions."""
    for function in ast.walk(ast.parse(file.read_text())):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Import):
                    yield {alias.name.split(".")[0] for alias in node.names}, node.lineno
                elif isinstance(node, ast.ImportFrom):
                    yield {node.module.split(".")[0]}, node.lineno


def explained(lines, number):
    """Whether a comment stands in line ``number``, or above the imports that it belongs to."""
    while not (said := "#" in lines[number - 1]) and "import" in lines[number - 2] + lines[number - 1]:
        number -= 1
    return said


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"cli"}))
def test_what_is_imported_late_says_why(module):
    """All of ``cli`` loads late: ``localplast --help`` must not wait for Brian2 and Torch."""
    lines = MODULES[module].read_text().splitlines()
    for packages, line in late_imports(MODULES[module]):
        assert packages <= LATE or explained(lines, line), f"line {line}"


def folders():
    """Those of the house, as ``CONTRIBUTING.md`` shows them."""
    inside = {file.parent for file in (ROOT / "localplast").rglob("*.py")} - {ROOT / "localplast"}
    top = {
        ROOT / name
        for name in ("localplast", "models", "protocols", "tests", "notebooks", "data", "benchmarks", "docs", ".ci")
    }
    return sorted(str(folder.relative_to(ROOT)) for folder in inside | top)


@pytest.mark.parametrize("folder", folders())
def test_the_map_shows_every_folder(folder):
    tree = re.search(r"```text\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)[1]
    path, found = [], {}
    for line in tree.splitlines():
        if entry := re.match(r"( *)(\S+)/ +(\S.*)", line):
            path = [*path[: len(entry[1]) // 2], entry[2]]
            found["/".join(path)] = entry[3]
    assert found.get(folder), f"{folder} is not in the map"


def long_functions(tree, most=50):
    """Names of functions whose bodies, without the docstring, have more lines; signatures are tables of arguments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            if body and body[-1].end_lineno - body[0].lineno >= most:
                yield node.name


def length(file):
    return sum(bool(line.strip()) for line in file.read_text().splitlines())


@pytest.mark.parametrize("module", sorted(MODULES))
def test_files_and_functions_are_short(module):
    assert length(MODULES[module]) <= 400
    assert not list(long_functions(ast.parse(MODULES[module].read_text())))


def test_files_of_tests_are_short():
    assert [file.name for file in (ROOT / "tests").rglob("*.py") if length(file) > 400] == []


def test_long_functions_are_seen():
    text = "def short():\n    pass\n\n\ndef long():\n" + 51 * "    pass\n"
    assert list(long_functions(ast.parse(text))) == ["long"]
