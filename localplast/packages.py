"""Where something needs Torch and does not find it, one sentence says so, before anything is compiled."""

from importlib.util import find_spec

from localplast.errors import UnsupportedError

__all__ = ["has_torch", "need_torch"]


def has_torch():
    """Whether Torch can be imported; it is not imported here."""
    return find_spec("torch") is not None


def need_torch(what):
    """Raise where Torch is missing and ``what`` cannot be had without it."""
    if not has_torch():
        raise UnsupportedError(
            f"{what} needs Torch, which is not installed: pip install torch (a CPU build is enough). Without it Brian2 "
            "runs networks, gives the gradients of local rules (backend='brian2'), and learns what is not tested "
            "(test=0)"
        )
