"""How much memory there is: what cannot fit is refused before any is taken."""

import os

from localplast.errors import LocalplastError

__all__ = ["check_memory", "installed"]


def installed():
    """Bytes of memory of this machine; infinite where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not a Unix
        return float("inf")


def check_memory(what, size, error=LocalplastError):
    """Raise an ``error`` where ``what`` needs ``size`` bytes, more than there are."""
    if size > installed():
        here = f"all the memory of this machine ({installed() / 1e9:.3g} GB)"
        raise error(f"{what}: {size // 10**9} GB, more than {here}")
