"""Who writes a record: one at a time, with a lock beside it; and what is said where the disk does not let them."""

import contextlib
import os
import warnings
from pathlib import Path

from localplast.errors import DiskError, LocalplastError, LocalplastWarning

try:
    import fcntl
except ImportError:  # not a Unix: records are written, but nothing keeps two writers apart
    fcntl = None

__all__ = ["beside", "only_writer", "writing"]


def beside(path, ending):
    """The file of the record at ``path``, whatever way leads there: its whole name, with ``ending`` appended."""
    return Path(f"{os.path.realpath(path)}{ending}")


@contextlib.contextmanager
def only_writer(path):
    """Be the only one, of all threads and processes, who writes the record at ``path``.

    The lock is the system's (``flock``), so that of a process that was killed is free.

    Raises
    ------
    LocalplastError
        Somebody else writes there.
    """
    if path is None or fcntl is None:
        yield
        return
    name = beside(path, ".lock")
    with writing(path):
        name.parent.mkdir(parents=True, exist_ok=True)
        handle = acquire(path, name)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # while it is held, so that nobody holds a file without a name
            os.unlink(name)
        os.close(handle)


def acquire(path, name):
    """An open, locked file called ``name``."""
    while True:
        handle = os.open(name, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(handle, 64).decode(errors="replace") or "unknown"
            os.close(handle)
            raise LocalplastError(
                f"{path} is being written by another run (process {owner}): wait for its end, or give another path"
            ) from None
        except OSError as error:  # a file system without locks
            text = f"{name} cannot be locked ({error.strerror}): make sure that no other run writes {path}"
            warnings.warn(text, LocalplastWarning, stacklevel=5)
        if same_file(handle, name):
            with contextlib.suppress(OSError):  # on a full disk the lock holds without a name in it
                os.ftruncate(handle, 0)
                os.pwrite(handle, str(os.getpid()).encode(), 0)
            return handle
        os.close(handle)  # its last owner removed it between our two calls


def same_file(handle, name):
    """Whether the open file still goes by this name."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(name))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def writing(path, further="go on with --resume (resume=True)"):
    """Whatever keeps the record at ``path`` from being written, a full disk, is told as such."""
    try:
        yield
    except OSError as error:
        if isinstance(error, LocalplastError):
            raise
        raise DiskError(
            f"{path} cannot be written ({error}); what is there is as it was at the last checkpoint: make room, and "
            f"{further}"
        ) from error
