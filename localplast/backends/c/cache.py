"""Compiled programs on disk: kept by key, each with its length and digest beside it, trusted only where these match.

Files are written under temporary names, synced and renamed; processes may make the same program at once. The folder
must be the user's own and closed to the writing of others. Temporary folders carry the number of their process: those
of killed runs are swept.
"""

import atexit
import functools
import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
import warnings
from pathlib import Path

import platformdirs

from localplast.errors import LocalplastWarning
from localplast.files import atomic_write

__all__ = ["folder", "intact", "keep", "scratch", "warn_once"]

#: Seconds after which what a process left behind is swept, if it is dead.
AGED = 3600


def folder(kind):
    """Where programs of a kind are kept; where the user's cache cannot be used a folder of this process, said once."""
    wanted = Path(platformdirs.user_cache_dir("localplast")) / kind
    try:
        wanted.mkdir(mode=0o700, parents=True, exist_ok=True)
        reason = why_not_ours(wanted)
        if reason is None:
            sweep(wanted)
            return wanted
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        reason = str(error)
    warn_once(f"compiled programs cannot be kept in {wanted} ({reason}); they are made anew in every process")
    return own_folder(kind)


def why_not_ours(path):
    """Why a folder cannot be trusted or written to, or None."""
    found = path.stat()
    if not stat.S_ISDIR(found.st_mode):
        return "it is no folder"
    if hasattr(os, "getuid") and found.st_uid != os.getuid():
        return "it belongs to another user"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "others can write to it; chmod go-w it"
    with tempfile.TemporaryFile(dir=path) as stream:  # the rights alone do not tell whether there is room
        stream.write(b"\0" * 4096)
    return None


@functools.cache
def warn_once(text):
    """Warn of the same thing once in a process."""
    warnings.warn(text, LocalplastWarning, stacklevel=3)


@functools.cache
def own_folder(kind):
    """A folder of this process, removed at its end."""
    path = scratch()
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def scratch(parent=None):
    """A new temporary folder, named after this process."""
    parent = Path(parent or tempfile.gettempdir())
    sweep(parent)
    return Path(tempfile.mkdtemp(prefix=f"localplast-{os.getpid()}-", dir=parent))


@functools.cache
def sweep(parent):
    """Remove temporary folders and half-written files of dead processes: ours, and aged."""
    for path in parent.glob("*localplast-*-*"):
        named = re.fullmatch(r"\.?localplast-(\d+)-\w+", path.name)
        try:
            found = path.lstat()
            old = time.time() - found.st_mtime > AGED and found.st_uid == os.getuid()
        except (OSError, AttributeError):
            continue
        if named and old and stat.S_ISDIR(found.st_mode) and not alive(int(named[1])):
            shutil.rmtree(path, ignore_errors=True)


def alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def keep(path, content):
    """Write a program, then its length and digest beside it; a reader between the two makes it anew."""
    atomic_write(path, content)
    os.chmod(path, 0o700)
    atomic_write(beside(path), seal(content))


def intact(path):
    """The bytes of a program that is whole, or None."""
    try:
        content = path.read_bytes()
        return content if beside(path).read_bytes() == seal(content) else None
    except OSError:
        return None


def beside(path):
    return path.with_name(f"{path.name}.sha256")


def seal(content):
    return f"{len(content)} {hashlib.sha256(content).hexdigest()}\n".encode()
