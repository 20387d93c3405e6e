"""Compile C text with the system's compiler, keep the result on disk, load it.

A kernel is found by the hash of its text, its flags, the compiler and the features of the processor, and loaded where
it is whole (:mod:`localplast.backends.c.cache`). ``LOCALPLAST_CFLAGS`` adds flags, such as ``-march=x86-64-v2`` or
those of sanitizers.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path

from localplast.backends.c.cache import folder, intact, keep, scratch, warn_once
from localplast.errors import UnsupportedError

__all__ = ["build", "cache_folder", "compiler", "missing", "processor"]

#: No contraction: a fused multiply-add in the forward pass would round unlike Torch, and move spikes that tie.
#: -O2 with the vectoriser runs as fast as -O3 here, and compiles in half the time. A row of five numbers is copied by a
#: loop: a call of memmove would take ten times as long.
FLAGS = (
    "-std=gnu11",
    "-O2",
    "-ftree-vectorize",
    "-fvect-cost-model=dynamic",
    "-fno-tree-loop-distribute-patterns",
    "-march=native",
    "-fPIC",
    "-shared",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-w",
    "-Werror=implicit-function-declaration",
)
NO_COMPILER = (
    "no C compiler found (looked for $CC, cc, gcc and clang); running the plain Torch step, slower. "
    "Install gcc or clang, or set CC, for the fused kernel"
)
#: Seconds that a compiler may take to say its version, and to compile.
PATIENCE, LONGEST = 20, 600
PROBE = "int localplast_probe(void) { return 42; }"


@functools.cache
def compiler():
    """``(command, version)`` of the C compiler, the command a tuple of words, or None."""
    chosen = os.environ.get("CC")
    for text in (chosen, "cc", "gcc", "clang"):
        found = found_compiler(text) if text else None
        if found and chosen and text != chosen:
            warn_once(f"CC={chosen!r} is no C compiler; {text} is used instead")
        if found:
            return found
    return None


def found_compiler(text):
    """``(command, version)``, or None where there is no such program, or none that says its version."""
    try:
        command = shlex.split(text)
        path = shutil.which(command[0])
        said = run([path, *command[1:], "--version"], PATIENCE) if path else None
    except (ValueError, IndexError):
        return None
    return ((path, *command[1:]), (said.stdout.splitlines() or [""])[0]) if said and said.returncode == 0 else None


def run(command, patience):
    """The finished process, or None where it cannot be started or takes too long."""
    options = {"capture_output": True, "text": True, "errors": "replace", "stdin": subprocess.DEVNULL}
    try:
        return subprocess.run(command, timeout=patience, **options)
    except (OSError, subprocess.TimeoutExpired):
        return None


def missing():
    """Why nothing can be compiled here, or None."""
    if compiler() is None:
        return NO_COMPILER
    return broken(compiler())


@functools.cache
def broken(command):
    """Why a compiler is of no use, or None: whether what it makes can be loaded."""
    try:
        if build(PROBE).localplast_probe() == 42:
            return None
        reason = "what it makes is wrong"
    except (UnsupportedError, OSError, AttributeError) as error:
        reason = str(error)[:300]
    reason = (
        f"the C compiler {' '.join(command[0])} is of no use here ({reason}); running the plain Torch step, slower. "
        "Set CC to another"
    )
    warn_once(reason)
    return reason


def cache_folder():
    """Where kernels are kept."""
    return folder("kernels")


@functools.cache
def processor():
    """What ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        kept = [line for line in lines if line.split("\t")[0] in ("model name", "flags", "Features", "CPU part")]
        return "".join(sorted(set(kept)))
    except OSError:
        return platform.processor()


def flags():
    """Those of every kernel, and what the environment adds."""
    return (*FLAGS, *shlex.split(os.environ.get("LOCALPLAST_CFLAGS", "")))


def key(source):
    command, version = compiler()
    text = "\0".join([source, *flags(), *command, version, platform.machine(), processor()])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@functools.cache
def build(source):
    """The :class:`ctypes.CDLL` of C text.

    Raises
    ------
    UnsupportedError
        There is no compiler, it refuses the text, or what it makes cannot be loaded.
    """
    if compiler() is None:
        raise UnsupportedError(NO_COMPILER)
    path = cache_folder() / f"{key(source)}.so"
    if intact(path):
        try:
            return ctypes.CDLL(str(path))
        except OSError:  # whole, and of another system
            pass
    compile_to(path, source)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise UnsupportedError(f"{compiler()[0][0]} made a kernel that cannot be loaded: {error}") from None


def compile_to(path, source):
    """Compile elsewhere, then put in place: no reader ever sees half a file."""
    work = scratch()
    try:
        text, made = work / "kernel.c", work / "kernel.so"
        text.write_text(source)
        for chosen in (flags(), [f for f in flags() if f != "-march=native"]):  # some compilers do not know it
            done = run([*compiler()[0], *chosen, "-o", made, text, "-lm"], LONGEST)
            if done and done.returncode == 0 and made.exists():
                return keep(path, made.read_bytes())
    except OSError as error:
        raise UnsupportedError(f"no room to compile the fused kernel: {error}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    said = done.stderr[:2000] if done else f"it took longer than {LONGEST} s, or cannot be started"
    raise UnsupportedError(f"{compiler()[0][0]} could not compile the fused kernel:\n{said}")
