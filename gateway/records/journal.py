"""
A local append-only file per process: what is in it survives the process, and after a group's fdatasync the machine.

* write()   one copy into the mapped file: from then on a kill -9 loses nothing (the kernel holds it), and no system call
* ticket()  resolves after its group's fdatasync: from then on a power cut loses nothing
* sync_later()  the same for those who do not wait: within ``interval`` seconds
* take()    the rows SQL does not have yet: the newest are in memory, too, as many as are bounded; all others are read back
* done()    SQL has them: noted in the file, and a file that is done with is deleted

Each file (``segment``) is held with flock by its process: a file that can be locked belongs to a dead one. One thread
does the syncing, at most once per ``interval`` seconds while rows come in company; a ticket that comes alone waits for none.
"""

import asyncio
import contextlib
import fcntl
import mmap
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .segment import GROWTH, Scan, Segment, scan

_SUFFIX = ".journal"
_READ = 1 << 20
"""Bytes read back for SQL at once: some two thousand rows."""
_KEPT = 10_000
"""Rows in memory at most: a few megabytes, and more than SQL is behind while it is well."""
_MANY = 4_000
"""Rows with which SQL need not wait for its time."""
_CLOSE_SECONDS = 5.0
_NEW = ".new"
"""Ending of a file between its creation and its lock."""
_NEW_SECONDS = 60.0


class Ticket:
    """Records that one sync makes durable, and who waits for it: await it to know them durable.

    Cancelling one waiter leaves the others waiting.
    """

    __slots__ = ("_loop", "_timer", "_waiters", "is_durable")

    def __init__(self, *, durable: bool = False) -> None:
        self.is_durable = durable
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None

    def __await__(self) -> Generator[Any, None, None]:
        while not self.is_durable:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            yield from waiter

    def waiter(self, seconds: float) -> "asyncio.Future[None] | None":
        """What is done once the records are durable, or after so many seconds; None: they are. The first sets the time."""
        if self.is_durable:
            return None
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        if self._timer is None:
            self._timer = loop.call_later(seconds, self._wake)
        self._waiters.append(waiter)
        return waiter

    async def within(self, seconds: float) -> bool:
        """Wait for at most so long; tells whether the records are durable."""
        waiter = self.waiter(seconds)
        if waiter is not None:
            await waiter
        return self.is_durable

    def done(self) -> None:
        self.is_durable = True
        self._wake()

    def _wake(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


@dataclass(frozen=True, slots=True)
class Batch:
    """Records on their way to SQL."""

    ends: list[tuple[Segment, int]]
    """How far SQL has each file once it has this."""
    rows: list[Any] | None
    """What the records say; None where they must be read."""
    is_last: bool
    """Whether it is everything that was written so far."""

    def read(self, decode: Callable[[list[bytes]], list[Any]]) -> "Batch":
        """The same with its rows, from the file; for any thread. Raises OSError."""
        ((segment, end),) = self.ends
        found = scan(os.pread(segment.fd, end - segment.done, segment.done))
        # Nothing readable to the end of a whole read: the medium is damaged, and what is behind it still counts.
        if found.end and not self.is_last:
            end = segment.done + found.end
        return Batch([(segment, end)], decode([payload for _, payload in found.records]), self.is_last)


class Journal:
    """The files of this process. All methods are for the event loop's thread."""

    def __init__(
        self,
        folder: Path,
        *,
        interval: float = 0.002,
        segment_size: int = 4 << 20,
        held: Callable[[], Iterable[bytes]] = tuple,
    ) -> None:
        """``held`` gives the records that every new file must begin with, because the old one may be deleted first."""
        self._folder = folder
        self._interval = interval
        self._segment_size = segment_size
        self._held = held
        self._group_name = f"{os.getpid()}-{time.time_ns():x}-{os.urandom(3).hex()}"
        self._count = 0
        self._segments: deque[Segment] = deque()
        self._spare: Segment | None = None
        self._syncer = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._group: Ticket | None = None
        self._syncing = False
        """Whether a sync is due or running."""
        self._due: asyncio.Handle | None = None
        self._since = 0.0
        """When the first record came that no sync has begun to cover."""
        self._last_sync = 0.0
        self._tickets = 0
        """Given out since the last sync began."""
        self._busy = False
        """Whether the last sync served more than one ticket."""
        self._waiting_for_sql: list[tuple[Segment, int, Ticket]] = []
        self.crowded = asyncio.Event()
        """Set when there are many rows for SQL to take."""
        self._rows: list[Any] = []
        self._has_all = True
        """Whether ``_rows`` are all that SQL lacks; else none are kept, and the files are read."""
        self._write_works = self._sync_works = True

    @property
    def healthy(self) -> bool:
        """Whether the last write and the last sync succeeded."""
        return self._write_works and self._sync_works

    def open(self) -> None:
        """Create the folder and the first file; raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._segments.append(self._create())

    @property
    def group_name(self) -> str:
        return self._group_name

    def _rotate(self, spare: Segment) -> None:
        """Go on in the spare file; the old one is deleted when SQL has all of it."""
        self._segments.append(spare)
        self._spare = None
        for payload in self._held():
            self.write(payload)

    def write(self, payload: bytes, rows: Sequence[Any] = ()) -> None:
        """Put a record where the kernel has it; raises OSError, and then nothing was written.

        ``rows`` are what it says to SQL.
        """
        spare, segment = self._spare, self._segments[-1]
        if spare is not None and segment.size >= self._segment_size:
            self._rotate(spare)
            segment = spare
        start = segment.size
        try:
            segment.put(payload)
        except OSError:
            self._write_works = False
            raise
        self._write_works = True
        if not rows:
            if segment.done == start:  # SQL has all before it, and nothing to do with it
                segment.done = segment.size
        elif self._has_all:
            self._rows += rows
            if len(self._rows) >= _MANY:
                self.crowded.set()
                if len(self._rows) > _KEPT:
                    self.keep_none()

    def ticket(self) -> Ticket:
        """A ticket for everything written so far."""
        self._tickets += 1
        self.sync_later()
        assert self._group is not None, "that made one"
        return self._group

    def sync_later(self) -> None:
        """Have everything written so far on the disk within the interval."""
        if self._group is None:
            self._group, self._since = Ticket(), asyncio.get_running_loop().time()
            if not self._syncing:
                self._schedule()

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        self._syncing = True
        # Syncs are spaced so that many share one; who waits alone need not wait for company.
        wait = self._last_sync + self._interval - loop.time()
        if not self._tickets:
            self._due = loop.call_at(self._since + self._interval, self._begin_sync)
        elif wait > 0 and self._busy:
            self._due = loop.call_later(wait, self._begin_sync)
        else:
            self._due = loop.call_soon(self._begin_sync)

    def _begin_sync(self) -> None:
        self._due = None
        group, self._group = self._group, None
        assert group is not None
        loop = asyncio.get_running_loop()
        self._last_sync = loop.time()
        self._busy, self._tickets = self._tickets > 1, 0
        targets = [(segment, segment.size) for segment in self._segments if segment.synced < segment.size]
        work = loop.run_in_executor(self._syncer, self._sync, targets)
        work.add_done_callback(lambda finished: self._synced(group, targets, finished))

    def _sync(self, targets: list[tuple[Segment, int]]) -> None:
        for segment, size in targets:
            os.fdatasync(segment.fd)
            segment.synced = size
        if self._spare is None and self._segments[-1].size >= self._segment_size // 2:
            with contextlib.suppress(OSError):  # without a spare the file just grows
                self._spare = self._create()

    def _synced(self, group: Ticket, targets: list[tuple[Segment, int]], work: "asyncio.Future[None]") -> None:
        error = None if work.cancelled() else work.exception()
        self._sync_works = error is None
        if error is None:
            group.done()
            for segment, _ in targets:
                segment.release()
        else:
            # After a failed fdatasync the kernel may have dropped the pages: only SQL can make these records durable.
            segment, size = targets[-1] if targets else (self._segments[-1], self._segments[-1].size)
            for target, reached in targets:
                target.synced = reached
            self._waiting_for_sql.append((segment, size, group))
        self._syncing = False
        if self._group is not None:
            self._schedule()

    def take(self) -> Batch | None:
        """The oldest records that are not in SQL yet; None when there are none. ``done`` or ``keep_none`` follows."""
        lacking = [(segment, segment.size) for segment in self._segments if segment.done < segment.size]
        if not lacking:
            return None
        if self._has_all:
            rows, self._rows = self._rows, []
            return Batch(lacking, rows, is_last=True)
        segment, size = lacking[0]
        end = min(size, segment.done + _READ)
        self._has_all = is_last = len(lacking) == 1 and end == size  # what is written from now on comes next
        return Batch([(segment, end)], None, is_last)

    def keep_none(self) -> None:
        """SQL did not take a batch, or there are too many rows: the files have them."""
        self._has_all = False
        self._rows = []

    def done(self, batch: Batch) -> None:
        """SQL has committed ``batch``."""
        for segment, end in batch.ends:
            segment.done = end
        reached = [w for w in self._waiting_for_sql if w[0].done >= w[1]]
        self._waiting_for_sql = [w for w in self._waiting_for_sql if w not in reached]
        for _, _, group in reached:
            group.done()
        while len(self._segments) > 1 and self._segments[0].is_finished():
            _discard(self._segments.popleft())

    async def close(self) -> None:
        """Sync what is left; files whose records are all in SQL are deleted."""
        if self._syncing:
            if self._due is not None:
                self._due.cancel()
                self._begin_sync()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self.ticket()
        self._syncer.shutdown()
        if self._spare is not None:
            _discard(self._spare)
        for segment in self._segments:
            if segment.done >= segment.size:
                _discard(segment)
            else:
                segment.close()
        self._segments.clear()

    def _create(self) -> Segment:
        """A new empty file, locked before it has the name under which others look for it."""
        path = self._folder / f"{self._group_name}-{self._count:06}{_SUFFIX}"
        self._count += 1
        new = path.with_suffix(_NEW)
        fd = os.open(new, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            os.posix_fallocate(fd, 0, self._segment_size + GROWTH)
            mapped = mmap.mmap(fd, self._segment_size + GROWTH)
        except OSError:
            new.unlink()
            os.close(fd)
            raise
        new.rename(path)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(folder)
        os.close(folder)
        return Segment(path, fd, map=mapped)


def _discard(segment: Segment) -> None:
    segment.path.unlink(missing_ok=True)
    segment.close()


@dataclass(frozen=True, slots=True)
class Orphan:
    """The files of one dead process, locked by us."""

    segments: list[Segment]
    scans: list[Scan]

    @property
    def damaged(self) -> int:
        return sum(s.damaged for s in self.scans)

    def payloads(self) -> Iterator[tuple[str, int, bytes]]:
        """(file name, offset, payload), oldest first."""
        for segment, found in zip(self.segments, self.scans, strict=True):
            for offset, payload in found.records:
                yield segment.path.name, offset, payload

    def release(self, *, recovered: bool) -> None:
        """Let go: recovered files are deleted, damaged ones kept under another name for a person to look at."""
        for segment, found in zip(self.segments, self.scans, strict=True):
            if recovered and found.damaged:
                segment.path.rename(segment.path.with_suffix(".damaged"))
            elif recovered:
                segment.path.unlink(missing_ok=True)
            segment.close()


def orphans(folder: Path, own: str) -> Iterator[Orphan]:
    """Journals of dead processes, one process at a time; those of living ones cannot be locked. Raises OSError."""
    for path in folder.glob(f"*{_NEW}"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _NEW_SECONDS:  # its process died before it could use it
                path.unlink()
    groups: dict[str, list[Path]] = {}
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        groups.setdefault(path.stem.rpartition("-")[0], []).append(path)
    groups.pop(own, None)
    for paths in groups.values():
        if (segments := _lock(paths)) is not None:
            yield Orphan(segments, [scan(os.pread(s.fd, s.size, 0)) for s in segments])


def _lock(paths: list[Path]) -> list[Segment] | None:
    segments: list[Segment] = []
    for path in paths:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            for segment in segments:
                os.close(segment.fd)
            return None
        if os.fstat(fd).st_nlink:  # else another process recovered it between our look and our lock
            segments.append(Segment(path, fd, os.fstat(fd).st_size))
        else:
            os.close(fd)
    return segments or None
