"""Arrays in one zip file, laid out as ``numpy.savez`` does, and read without trust.

What a file says of its size is compared with the bytes that are there before memory is taken: nothing in it is
compressed, for a compressed member of some kilobytes can hold more than any machine.
"""

import io
import math
import zipfile

import numpy as np

from localplast.memory import check_memory

__all__ = ["pack", "unpack"]

#: Numbers only: anything else could need code to be read.
PLAIN_KINDS = "biufc"
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def pack(members):
    """Arrays by name as the bytes of one file; names may be anything, also those of parameters of ``numpy.savez``."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:  # np.savez takes allow_pickle only in the latest numpy
        for name, value in members.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, value, allow_pickle=False)
    return stream.getvalue()


def unpack(stream):
    """Arrays by name from an open file.

    Raises
    ------
    ValueError
        Members that are compressed or lie over one another, odd names, anything but plain numbers, a shape that is not
        that of the bytes there. Other errors where it is no zip file, or a damaged one.
    """
    with zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        check_members(members, stream.seek(0, io.SEEK_END))
        return {each.filename.removesuffix(".npy"): read_array(each.filename, archive.read(each)) for each in members}


def check_members(members, size):
    """Raise unless these members lie one behind the other in a file of ``size`` bytes, as they are."""
    for each in members:
        if each.compress_type != zipfile.ZIP_STORED or each.file_size != each.compress_size:
            raise ValueError(f"its member {each.filename[:80]!r} is compressed, and nothing in a file of localplast is")
        if each.filename.startswith("/") or ".." in each.filename.split("/"):
            raise ValueError(f"its member {each.filename[:80]!r} has a name that leads elsewhere")
    if len({each.filename for each in members}) < len(members):
        raise ValueError("two of its members have one name")
    total = sum(each.file_size for each in members)
    if total > size:
        raise ValueError(f"its members say that they hold {total} bytes, in a file of {size}")
    check_memory("its content", total)


def read_array(name, data):
    """The array in these bytes of an ``.npy`` file."""
    stream = io.BytesIO(data)
    shape, _, dtype = HEADERS[np.lib.format.read_magic(stream)](stream)
    if dtype.kind not in PLAIN_KINDS:
        raise ValueError(f"its member {name[:80]!r} holds no plain numbers ({str(dtype)[:80]})")
    held = len(data) - stream.tell()
    if math.prod(shape) * dtype.itemsize != held:
        form = f"shape {str(shape)[:80]} ({dtype})"
        raise ValueError(f"its member {name[:80]!r} says that it has {form}, in {held} bytes")
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)
