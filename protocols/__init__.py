"""Learning protocols, one file each: a task with its network, loss, optimiser, schedule and published numbers. And
phenomena.

Every module in this folder defines ``protocol``, a :class:`~localplast.study.protocol.Protocol`, or a
:class:`~localplast.study.phenomenon.Phenomenon`, which is measured in one cell and not learned. Adding a file is
enough; ``yin_yang.py`` is the protocol ``'yin-yang'``.
"""

if __name__ != "localplast.protocols":  # a second copy of every class would compare unequal to the first
    raise ImportError("import localplast.protocols, not protocols")

import importlib
import pkgutil
from typing import TYPE_CHECKING

from localplast.errors import LocalplastError

if TYPE_CHECKING:
    from localplast.study.phenomenon import Phenomenon
    from localplast.study.protocol import Protocol

__all__ = ["load", "names"]


def names() -> tuple[str, ...]:
    """Names of all protocols, sorted; none of them is imported."""
    return tuple(sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def load(name: str) -> "Protocol | Phenomenon":
    """The :class:`~localplast.study.protocol.Protocol` or :class:`~localplast.study.phenomenon.Phenomenon` called
    ``name``.

    Raises
    ------
    LocalplastError
        There is no protocol of that name.
    """
    if name not in names():
        raise LocalplastError(f"there is no protocol {name!r}; there are {', '.join(names())}")
    return importlib.import_module(f"localplast.protocols.{name.replace('-', '_')}").protocol
