"""Ledger rows that the database itself refuses: kept in a file beside the journal, and tried again by the next start."""

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import orjson

from .rows import Row, encode

log = logging.getLogger(__name__)


class Rejected:
    """The file of this process, made with its first row. ``group_name`` is that of its journal."""

    def __init__(self, folder: Path, group_name: str) -> None:
        self._path = folder / f"rejected-{group_name}.jsonl"
        self.count = 0
        """Rows refused since the start."""

    async def add(self, row: Row) -> None:
        """Keep a row, on the disk; raises OSError."""
        await asyncio.to_thread(_add_line, self._path, encode(row))
        self.count += 1
        log.error("the database refuses the ledger row of %s; it was put into %s", row[0], self._path.name)


def rejected_in(folder: Path) -> Iterator[Sequence[Row]]:
    """The rows of each file. It is deleted when the next one is asked for: by then its rows must be safe elsewhere."""
    for path in sorted(folder.glob("rejected-*.jsonl")):
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # another process is at it
            if not _is_at(path, file):
                continue
            rows, damaged = _read(file.read().splitlines())
            yield rows
            if damaged:
                path.rename(path.with_suffix(".damaged"))
            else:
                path.unlink()


def _read(lines: Sequence[bytes]) -> tuple[list[Row], int]:
    """Rows, and how many lines are none."""
    rows, damaged = list[Row](), 0
    for line in filter(None, lines):
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            damaged += 1
        else:
            rows.append(row)
    return rows, damaged


def _add_line(path: Path, line: bytes) -> None:
    while True:
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(path, file):
                continue  # another process has read it and put it away since it was opened
            if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
                line = b"\n" + line  # the disk was full in the middle of a line
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())
            return


def _is_at(path: Path, file: BinaryIO) -> bool:
    """Whether the file is still what has this name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
