"""Chunks of a chunked body as nearly all servers write them, read without a parser."""

SIZES = {b"%x" % size: size for size in range(1, 2048)}
"""How the size of a chunk is written: all that a token's event needs."""
LONGEST = 5
"""A size and where its line must have ended by."""


def unframed(data: bytes) -> bytes | None:
    """The body in whole chunks; None where anything at all is unusual: then a parser must say what it means.

    ``data`` begins where the size of a chunk is due.
    """
    at = data.find(b"\r\n", 0, LONGEST)
    size = SIZES.get(data[:at])
    if size is None:
        return None
    start = at + 2
    end = start + size
    if data[end:] == b"\r\n":
        return data[start:end]  # one event, one chunk, one read
    return _several(data)


def _several(data: bytes) -> bytes | None:
    parts: list[bytes] = []
    at, length = 0, len(data)
    while at < length:
        start = data.find(b"\r\n", at, at + LONGEST) + 2
        size = SIZES.get(data[at : start - 2]) if start > 1 else None
        if size is None or data[start + size : start + size + 2] != b"\r\n":
            return None
        parts.append(data[start : start + size])
        at = start + size + 2
    return b"".join(parts)
