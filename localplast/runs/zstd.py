"""How large what Zstandard has compressed is, told by its headers (RFC 8878, section 3.1.1) and not by unpacking it."""

__all__ = ["content_size"]

MAGIC = b"\x28\xb5\x2f\xfd"
#: Kind of a block that is one byte, repeated.
REPEATED = 1


def content_size(stream):
    """Bytes that the one frame in an open file holds; None where there is another number of frames, or it does not say.

    A decoder stops where a frame holds more than it says.
    """
    head = stream.read(5)
    if head[:4] != MAGIC or len(head) < 5:
        return None
    single, checksum, width = head[4] >> 5 & 1, head[4] >> 2 & 1, head[4] >> 6
    width = (single, 2, 4, 8)[width]
    stream.seek(int(not single), 1)  # past the size of a window
    found = int.from_bytes(stream.read(width), "little") + 256 * (width == 2)
    if not width or head[4] & 3 or not skip_blocks(stream):
        return None
    end = stream.seek(4 * checksum, 1)
    return found if stream.seek(0, 2) == end else None


def skip_blocks(stream):
    """Go behind the last block of a frame; False where the file ends before."""
    while len(head := stream.read(3)) == 3:
        number = int.from_bytes(head, "little")
        last, kind, size = number & 1, number >> 1 & 3, number >> 3
        stream.seek(1 if kind == REPEATED else size, 1)
        if last:
            return True
    return False
