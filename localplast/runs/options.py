"""Where a network runs, and with what numbers."""

from localplast.arguments import check_backend, check_device, check_dtype, check_kind, check_seed
from localplast.network.values import Values

__all__ = ["check_options"]


def check_options(net, backend, target, device, dtype, seed, values):
    """Check where and with what numbers to run; returns the name of the ``dtype``, and :class:`Values` to start
    from.
    """
    check_backend(backend, target)
    check_device(device, backend)
    check_seed(seed)
    if values is not None:
        check_kind("values", values, Values)
    return check_dtype(dtype, backend), values or net.draw(seed)
