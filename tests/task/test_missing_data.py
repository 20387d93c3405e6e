"""Files that are not there: a test that needs them is skipped, and fails in continuous integration."""

from types import SimpleNamespace

import pytest

FILE = "mnist/train-images-idx3-ubyte.gz"


@pytest.fixture
def hook(request):
    """What runs before every test, of tests/conftest.py."""
    plugins = request.config.pluginmanager.get_plugins()
    return next(p for p in plugins if hasattr(p, "need") and hasattr(p, "FILES")).pytest_runtest_setup


def marked(*files):
    return SimpleNamespace(iter_markers=lambda name: [SimpleNamespace(args=files)] if name == "needs_data" else [])


LEAVES = {"": pytest.skip.Exception, "false": pytest.skip.Exception, "true": pytest.fail.Exception}


@pytest.mark.parametrize("ci, leaves", LEAVES.items())
def test_what_is_missing(hook, ci, leaves, monkeypatch, tmp_path):
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("LOCALPLAST_DATA", str(tmp_path))
    with pytest.raises(leaves, match=f"{FILE} is not in LOCALPLAST_DATA"):
        hook(marked(FILE))
    (tmp_path / "mnist").mkdir()
    (tmp_path / FILE).touch()
    hook(marked(FILE))
    hook(marked())
    with pytest.raises(leaves, match="other.npz"):
        hook(marked(FILE, "other.npz"))
