"""Compile C text with the system's compiler, keep the result on disk, load it.

A kernel is found by the hash of its text, its flags, the compiler and the features of the processor. Files appear under
their name by an atomic rename, so that processes may build the same kernel at once.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import platformdirs

from localplast.errors import UnsupportedError

__all__ = ["build", "cache_folder", "compiler", "missing"]

#: No contraction: a fused multiply-add in the forward pass would round unlike Torch, and move spikes that tie.
#: -O2 with the vectoriser runs as fast as -O3 here, and compiles in half the time.
FLAGS = (
    "-std=gnu11", "-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic", "-march=native", "-fPIC", "-shared",
    "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-w", "-Werror=implicit-function-declaration",
)  # fmt: skip
NO_COMPILER = (
    "no C compiler found (looked for $CC, cc, gcc and clang); running the plain Torch step, slower. "
    "Install gcc or clang, or set CC, for the fused kernel"
)


@functools.cache
def compiler():
    """``(path, version)`` of the C compiler, or None."""
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        path = shutil.which(name) if name else None
        if path:
            version = subprocess.run([path, "--version"], capture_output=True, text=True)
            if version.returncode == 0:
                return path, version.stdout.splitlines()[0]
    return None


def missing():
    """Why nothing can be compiled here, or None."""
    return None if compiler() else NO_COMPILER


def cache_folder():
    """Where kernels are kept; a folder of this process where the user's cache cannot be written."""
    folder = Path(platformdirs.user_cache_dir("localplast")) / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return temporary_folder()


@functools.cache
def temporary_folder():
    return Path(tempfile.mkdtemp(prefix="localplast-"))


@functools.cache
def processor():
    """What ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        kept = [line for line in lines if line.split("\t")[0] in ("model name", "flags", "Features", "CPU part")]
        return "".join(sorted(set(kept)))
    except OSError:
        return platform.processor()


def key(source, flags):
    text = "\0".join([source, *flags, *compiler(), platform.machine(), processor()])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@functools.cache
def build(source):
    """The :class:`ctypes.CDLL` of C text.

    Raises
    ------
    UnsupportedError
        There is no compiler, or it refuses the text.
    """
    if missing():
        raise UnsupportedError(NO_COMPILER)
    path = cache_folder() / f"{key(source, FLAGS)}.so"
    try:
        return ctypes.CDLL(str(path))
    except OSError:  # not there yet, or damaged
        compile_to(path, source)
        return ctypes.CDLL(str(path))


def compile_to(path, source):
    """Compile under another name, then rename: no reader ever sees half a file."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        text, made = Path(folder, "kernel.c"), Path(folder, "kernel.so")
        text.write_text(source)
        for flags in (FLAGS, [f for f in FLAGS if f != "-march=native"]):  # some compilers do not know it
            done = subprocess.run([compiler()[0], *flags, "-o", made, text, "-lm"], capture_output=True, text=True)
            if done.returncode == 0:
                os.replace(made, path)
                return
    raise UnsupportedError(f"{compiler()[0]} could not compile the fused kernel:\n{done.stderr[:2000]}")
