"""One file of the journal: what a record looks like in it, and how records are read back, damage and all.

A record is magic, length, CRC-32 of both, payload; the magic's first byte is in no UTF-8 text, so that a reader finds the
next record after a damaged one. A file is made at its full size, so that a full disk is met when it is made and not by
a copy; behind the last record it holds zeros.
"""

import mmap
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

_HEADER = struct.Struct("<4sII")
_HEADER_SIZE = _HEADER.size
_pack = _HEADER.pack
_MAGIC = b"\xffSL\x01"
GROWTH = 1 << 20
"""Bytes by which a file grows that has no successor yet."""


@dataclass(slots=True, eq=False)
class Segment:
    """One file of a journal."""

    path: Path
    fd: int
    size: int = 0
    map: mmap.mmap | None = None
    """Of a file of this process: where records are copied to."""
    done: int = 0
    """Everything before this offset is in SQL."""
    synced: int = 0
    let_go: int = 0
    """Everything before this offset is out of the process's memory: the kernel has it."""

    def is_finished(self) -> bool:
        """Whether nobody needs the file any more, the syncing thread included."""
        return self.done >= self.size and self.synced >= self.size

    def put(self, payload: bytes) -> None:
        """Copy a record behind the last one; raises OSError when the file has no room and cannot get more."""
        room, start, length = self.map, self.size, len(payload)
        assert room is not None, "only a process's own files are written"
        end = start + _HEADER_SIZE + length
        if end > len(room):
            self._grow(end)
        room[start:end] = _pack(_MAGIC, length, crc32(payload, length)) + payload
        self.size = end

    def release(self) -> None:
        """Unmap the whole pages that are synced, which nobody touches again: else memory would grow with every file."""
        end = self.synced - self.synced % mmap.PAGESIZE
        if self.map is not None and end > self.let_go:
            self.map.madvise(mmap.MADV_DONTNEED, self.let_go, end - self.let_go)
            self.let_go = end

    def _grow(self, end: int) -> None:
        assert self.map is not None, "see put"
        room = len(self.map)
        more = max(end - room, GROWTH)
        os.posix_fallocate(self.fd, room, more)  # a hole that the disk cannot fill would kill the process
        self.map.resize(room + more)

    def close(self) -> None:
        """Let go of the file, and of its lock."""
        if self.map is not None:
            self.map.close()
            self.map = None
        os.close(self.fd)


@dataclass(slots=True)
class Scan:
    """What a file holds: its records, the bytes lost in its middle and the bytes of a record cut off at its end."""

    records: list[tuple[int, bytes]] = field(default_factory=list)
    end: int = 0
    damaged: int = 0
    torn: int = 0


def scan(data: bytes) -> Scan:
    """Read records, stepping over damage to the next whole one."""
    used = len(data.rstrip(b"\0"))
    if len(data) - used > _HEADER.size:  # no record ends in so many zeros: this is room that was never used
        data = data[:used]
    found = Scan()
    position = 0
    while 0 <= position < len(data):
        payload = _record_at(data, position)
        if payload is None:
            position = data.find(_MAGIC, position + 1)
            continue
        found.damaged += position - found.end
        found.records.append((position, payload))
        position = found.end = position + _HEADER.size + len(payload)
    rest = len(data) - found.end
    if rest and _is_cut_off(data, found.end):
        found.torn = rest
    else:
        found.damaged += rest
    return found


def _record_at(data: bytes, position: int) -> bytes | None:
    if len(data) - position < _HEADER.size:
        return None
    magic, length, checksum = _HEADER.unpack_from(data, position)
    start = position + _HEADER.size
    payload = data[start : start + length]
    whole = magic == _MAGIC and len(payload) == length and crc32(payload, length) == checksum
    return payload if whole else None


def _is_cut_off(data: bytes, position: int) -> bool:
    """Whether the bytes from ``position`` on can be the beginning of a record."""
    if len(data) - position < _HEADER.size:
        return True
    magic, length, _ = _HEADER.unpack_from(data, position)
    return bool(magic == _MAGIC and position + _HEADER.size + length > len(data))
