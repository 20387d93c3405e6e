"""Compiled programs on disk are trusted where they are whole, and where nobody else can write; without them all still
runs.
"""

import ctypes
import os
import stat
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest

import localplast as lp
from localplast import ms
from localplast.backends.brian2 import session as brian2_run
from localplast.backends.c import cache as program_cache
from localplast.backends.c import compile as kernel_build
from localplast.backends.c.compile import missing
from localplast.errors import LocalplastWarning
from localplast.models import leaky_readout, lif
from localplast.rules import bptt

needs_compiler = pytest.mark.skipif(kernel_build.compiler() is None, reason="no C compiler here")
SEVEN = "int seven(void) { return 7; }"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A user's cache of its own, and nothing remembered from before."""
    forget = (
        program_cache.warn_once,
        program_cache.own_folder,
        program_cache.sweep,
        kernel_build.compiler,
        kernel_build.broken,
    )
    monkeypatch.setattr(program_cache.platformdirs, "user_cache_dir", lambda name: str(tmp_path / name))
    for cached in forget:
        cached.cache_clear()
    kernel_build.build.cache_clear()
    yield tmp_path / "localplast"
    for cached in (*forget, kernel_build.build):
        cached.cache_clear()


def built():
    """The library and its seal, loaded as a new process would."""
    kernel_build.build.cache_clear()
    library = kernel_build.build(SEVEN)
    assert library.seven() == 7
    return library._name


@needs_compiler
@pytest.mark.parametrize(
    "harm", ["truncated", "longer", "one bit", "no seal", "an empty seal", "seal of another", "empty", "a folder"]
)
def test_what_is_not_whole_is_made_anew(cache, harm):
    path = program_cache.Path(built())
    whole, seal = path.read_bytes(), program_cache.beside(path)
    path.unlink()  # what is loaded is not to change in place
    if harm == "a folder":
        path.mkdir()
        with pytest.raises(OSError):
            program_cache.keep(path, whole)
        return
    changed = {
        "truncated": whole[: len(whole) // 2],
        "longer": whole + b"\0",
        "one bit": whole[:-1] + bytes([whole[-1] ^ 1]),
        "empty": b"",
    }
    path.write_bytes(changed.get(harm, whole))
    if harm == "no seal":
        seal.unlink()
    elif "seal" in harm:
        seal.write_bytes(b"" if harm == "an empty seal" else program_cache.seal(b"else"))
    assert program_cache.intact(path) is None
    built()
    assert program_cache.intact(path) is not None


@needs_compiler
def test_what_is_whole_is_not_made_again(cache, monkeypatch):
    built()
    monkeypatch.setattr(kernel_build, "compile_to", lambda *args: pytest.fail("compiled twice"))
    built()


@needs_compiler
def test_flags_compiler_and_processor_are_part_of_the_key(monkeypatch):
    keys = {kernel_build.key(SEVEN)}
    monkeypatch.setenv("LOCALPLAST_CFLAGS", "-march=x86-64-v2")
    keys.add(kernel_build.key(SEVEN))
    monkeypatch.setattr(kernel_build, "processor", lambda: "another")
    keys.add(kernel_build.key(SEVEN))
    monkeypatch.setattr(kernel_build, "compiler", lambda: (("cc",), "version 0"))
    keys.add(kernel_build.key(SEVEN))
    assert len(keys) == 4


@needs_compiler
@pytest.mark.parametrize("how", ["open to others", "a file", "a file above it", "of another", "full"])
def test_a_cache_that_cannot_be_used_is_told_once_and_replaced(cache, monkeypatch, how):
    if how == "a file above it":
        cache.write_text("")
    else:
        cache.mkdir()
    kernels = cache / "kernels"
    if how == "a file":
        kernels.write_text("")
    elif how == "open to others":
        kernels.mkdir()
        kernels.chmod(0o777)
    elif how == "of another":
        monkeypatch.setattr(program_cache.os, "getuid", lambda: 12345)
    elif how == "full":

        def full(**options):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(program_cache.tempfile, "TemporaryFile", full)
    with pytest.warns(LocalplastWarning, match="cannot be kept in .* made anew in every process"):
        found = program_cache.folder("kernels")
    assert found != kernels and stat.S_IMODE(found.stat().st_mode) == 0o700
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert program_cache.folder("kernels") == found
        built()


def test_a_new_cache_is_closed_to_others(cache):
    assert stat.S_IMODE(program_cache.folder("kernels").stat().st_mode) & 0o022 == 0


COMPILERS = {
    "fails": ('#!/bin/sh\n[ "$1" = --version ] && echo odd 1 && exit 0\nexit 1\n', "could not compile"),
    "makes nothing": ("#!/bin/sh\necho odd 2\n", "could not compile"),
    "makes what does not load": (
        '#!/bin/sh\necho odd 3\nwhile [ $# -gt 0 ]; do [ "$1" = -o ] && echo nonsense > "$2"; shift; done\n',
        "cannot be loaded",
    ),
    "hangs": ('#!/bin/sh\n[ "$1" = --version ] && echo odd 4 && exit 0\nexec sleep 60\n', "took longer"),
    "speaks no known letters": ("#!/bin/sh\nprintf '\\377\\376'\nexit 0\n", "could not compile"),
}


@pytest.mark.parametrize("what", COMPILERS)
def test_an_odd_compiler_means_plain_torch_and_one_warning(cache, monkeypatch, tmp_path, what):
    text, message = COMPILERS[what]
    odd = tmp_path / "odd-cc"
    odd.write_text(text)
    odd.chmod(0o700)
    monkeypatch.setenv("CC", str(odd))
    monkeypatch.setattr(kernel_build, "LONGEST", 0.2)
    # fmt: skip
    net = lp.Network(
        dt=1 * ms,
        cues=lp.Input(2),
        rec=lp.Population(3, lif()),
        out=lp.Population(2, leaky_readout()),
        projections=[lp.Projection("cues", "rec"), lp.Projection("rec", "out")],
    )
    with pytest.warns(LocalplastWarning, match="is of no use here") as told:
        assert message in missing() and message in missing()
    assert len(told) == 1
    task = lp.Task.generated("t", lambda rng, n: lp.Trials({"cues": rng.random((n, 4, 2)) < 0.5}, np.zeros(n, int)))
    fit = lp.run(net, task, rule=bptt(), optimiser=lp.sgd(0.1), updates=1, batch=2, test=2, backend="torch", show=False)
    assert np.isfinite(fit["metrics"]["loss"]).any()


@needs_compiler
@pytest.mark.parametrize("name", ["nonsense", "/bin/false", "'", "/nowhere/cc -m64"])
def test_a_compiler_that_is_none_is_passed_over_and_told(cache, monkeypatch, name):
    monkeypatch.setenv("CC", name)
    with pytest.warns(LocalplastWarning, match="is no C compiler; .* is used instead"):
        assert kernel_build.compiler()
    assert kernel_build.missing() is None


@needs_compiler
def test_words_after_the_compiler_are_its_flags(cache, monkeypatch):
    path = kernel_build.compiler()[0][0]
    kernel_build.compiler.cache_clear()
    monkeypatch.setenv("CC", f"{path} -DSEVEN=7")
    assert kernel_build.build("int seven(void) { return SEVEN; }").seven() == 7


@pytest.mark.thorough
@needs_compiler
def test_processes_may_build_the_same_kernel_at_once(tmp_path):
    code = f"from localplast.backends.c.compile import build; assert build({SEVEN!r}).seven() == 7"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    running = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE) for _ in range(2)
    ]
    assert [process.communicate()[1] and process.returncode for process in running] in ([b"", b""], [0, 0])
    libraries = list((tmp_path / "localplast" / "kernels").glob("*.so"))
    assert len(libraries) == 1 and program_cache.intact(libraries[0])
    assert ctypes.CDLL(str(libraries[0])).seven() == 7


def test_folders_of_dead_processes_are_swept(tmp_path, monkeypatch):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    old = time.time() - 2 * program_cache.AGED
    names = {
        "old": f"localplast-{dead.pid}-a",
        "young": f"localplast-{dead.pid}-b",
        "alive": f"localplast-{os.getpid()}-c",
        "other": "else-1-d",
    }
    for what, name in names.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "main").write_text("")
        if what != "young":
            os.utime(tmp_path / name, (old, old))
    (tmp_path / f"localplast-{dead.pid}-link").symlink_to(tmp_path / names["other"])
    program_cache.sweep.cache_clear()
    made = program_cache.scratch(tmp_path)
    assert not (tmp_path / names["old"]).exists()
    assert all((tmp_path / names[what]).exists() for what in ("young", "alive", "other"))
    assert made.name.startswith(f"localplast-{os.getpid()}-")


@needs_compiler
def test_a_program_of_brian2_is_checked_as_kernels_are(cache, monkeypatch, tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    (project / "main.cpp").write_text("int main() { return 7; }\n")
    (project / "makefile").write_text("main: main.cpp\n\t$(CXX) -o main main.cpp\n")
    monkeypatch.setattr(brian2_run, "share_headers", lambda directory: None)
    for harm in (None, b"", b"nonsense"):
        (kept,) = [*(cache / "brian2").glob("[!.]*[!6]"), None][:1]
        if harm is not None:
            kept.write_bytes(harm)
        (project / "main").unlink(missing_ok=True)
        brian2_run.compile_cached(project)
        assert subprocess.run([project / "main"]).returncode == 7
