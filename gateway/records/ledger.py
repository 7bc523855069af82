"""
The usage ledger: one row per upstream attempt, durable before the client has the last byte, exactly once.

    open()    -> journal: this request runs, so much is reserved for it
    append()  -> journal: these are its attempts; the ticket resolves when they are durable: at once, or with a sync
    (behind)  rows -> SQL in batches, from memory or read back: INSERT ... ON CONFLICT DO NOTHING by (request id, attempt)
    recover() journals of dead processes -> SQL; a request that was open there becomes a row with status ``unfinished``
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import select

from config.schema import Ledger as Options

from ..call import CallRecord, Principal
from ..errors import StoreUnavailable
from .bulk import BulkInsert, RowRefused
from .database import Database, DatabaseError
from .heirs import only_heir
from .journal import Batch, Journal, Orphan, Ticket, orphans
from .rejected import Rejected, rejected_in
from .rows import Row, Running, all_cleaned, encode, fitting, identity, rows_of, unfinished_row
from .tables import LEDGER_COLUMNS, ledger

log = logging.getLogger(__name__)

LEDGER_LOCK = 0x51_1C_E1
"""Held shared by who inserts rows, and alone by who must know that no lower row id is still to come."""
_SQL_SECONDS = 0.5
_RECOVER_SECONDS = 2.0
_MOST_SECONDS = 5.0
"""Between two attempts, while attempts fail: each waits twice as long as the one before."""
_SYNC_SECONDS = 5.0
_FLUSH_SECONDS = {"disk": 0.002, "kernel": 0.1}
"""Where answers wait for a sync it is soon; where none does, more rows share one."""
_AT_ONCE = 2000
"""Rows of one transaction: others write, too."""
_OPEN, _CLOSED, _IN_SQL = "o", "c", "s"
_CLOSED_BEGINS = b'["c",'
"""How the record of an ended call begins."""


SAFE = Ticket(durable=True)
"""Of a row that the kernel has, where that is enough."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What journals of dead processes held."""

    rows: int = 0
    unfinished: int = 0
    damaged: int = 0
    """Bytes that no record could be read from; such files are kept with the ending ``.damaged``."""


class Ledger:
    """One per process. ``open`` and ``append`` never wait: both are one write to a local file."""

    def __init__(
        self,
        database: Database,
        options: Options | None = None,
        *,
        clock: Callable[[], float] = time.time,
        sql_interval: float = _SQL_SECONDS,
        segment_size: int = 4 << 20,
    ) -> None:
        options = options or Options()
        self._database = database
        self._rows = BulkInsert(database, ledger, LEDGER_COLUMNS, ("request_id", "attempt"), LEDGER_LOCK, all_cleaned)
        self._clock = clock
        self._folder = Path(options.journal)
        self._open: dict[str, bytes] = {}
        interval = options.flush_interval or _FLUSH_SECONDS[options.wait_for]
        self._journal = Journal(self._folder, interval=interval, segment_size=segment_size, held=self._open.values)
        self._sql_interval = sql_interval
        self._waits_for_disk = options.wait_for == "disk"
        self._direct: list[tuple[list[Row], Ticket]] = []
        self._flushing = asyncio.Lock()
        self._recovering = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._rejected = Rejected(self._folder, self._journal.group_name)
        self._sql_works = True
        self._lacks_journals = False
        """Whether a dead process has left rows that did not reach SQL when they were last tried."""

    @property
    def is_healthy(self) -> bool:
        """Whether rows can be made durable locally, and SQL took those that it was given last."""
        return self._journal.healthy and self._sql_works and not self._lacks_journals

    @property
    def rejected(self) -> int:
        """Rows that the database has refused, for what is in them, since the start."""
        return self._rejected.count

    @property
    def unfinished(self) -> int:
        """Requests opened and not appended yet."""
        return len(self._open)

    async def start(self) -> None:
        """Take over what dead processes left, then write behind. A database that is down delays, and stops nothing."""
        try:
            self._journal.open()
        except OSError as error:
            raise DatabaseError(f"ledger.journal: {self._folder} cannot be written: {error.strerror}") from None
        await self._try_rejected_again()
        with contextlib.suppress(StoreUnavailable):
            await self.recover()
        self._tasks = [
            asyncio.create_task(self._repeat(self.flush, self._sql_interval, self._journal.crowded)),
            asyncio.create_task(self._repeat(self.recover, _RECOVER_SECONDS, asyncio.Event())),
        ]

    async def _try_rejected_again(self) -> None:
        """Put rows that were refused once into the journal: another version, or a mended database, may have them."""
        found = iter(rejected_in(self._folder))
        try:
            while (rows := await asyncio.to_thread(next, found, None)) is not None:
                for row in rows:
                    self._journal.write(encode((_CLOSED, row[0], [row])), [row])
                if not await self._journal.ticket().within(_SYNC_SECONDS):
                    return
                log.warning("%d ledger rows that the database had refused are tried again", len(rows))
        except OSError as error:
            log.warning("ledger rows that the database had refused stay in their files: %s", error.strerror)

    async def close(self) -> None:
        """Write what is left. What SQL does not take now, the next process finds in the journal."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(StoreUnavailable):
            await self.flush()
        await self._journal.close()

    def open(
        self,
        call_id: str,
        principal: Principal,
        model: str,
        *,
        reserved: int = 0,
        started: float | None = None,
        stream: bool = False,
        requested_tier: str | None = None,
        effective_tier: str | None = None,
        fallback: str | None = None,
    ) -> None:
        """Note that a request runs, with ``reserved`` nano-dollars: charged to it should this process die.

        ``fallback`` is the model whose limits hold them, where that is not ``model``, which was asked for.
        Raises StoreUnavailable when the journal cannot be written: a request that costs money must not start then.
        """
        began = self._clock() if started is None else started
        noted: Running = (
            call_id, principal.organization, principal.team, principal.user, principal.key_id, principal.tags, model,
            requested_tier, effective_tier, began, stream, reserved, fallback,
        )  # fmt: skip
        try:
            payload = orjson.dumps((_OPEN, call_id, noted))
        except orjson.JSONEncodeError:
            payload = encode((_OPEN, call_id, noted))
        try:
            self._journal.write(payload)
        except OSError as error:
            raise StoreUnavailable("The usage ledger cannot be written.", code="ledger_unavailable") from error
        self._open[call_id] = payload

    def append(self, record: CallRecord) -> Ticket:
        """Keep the attempts of a call, which also closes what ``open`` noted; a second time changes nothing.

        The ticket resolves when the rows are as durable as ``wait_for`` says. When the journal fails, they go straight to SQL.
        """
        rows = rows_of(record)
        try:
            payload = orjson.dumps((_CLOSED, record.id, rows))
        except orjson.JSONEncodeError:
            rows = fitting(rows)
            payload = orjson.dumps((_CLOSED, fitting(record.id), rows))
        try:
            self._journal.write(payload, rows)
        except OSError as error:
            log.warning("the journal cannot be written: %s", error.strerror)
            ticket = Ticket()
            self._direct.append((rows, ticket))
            return ticket
        finally:
            self._open.pop(record.id, None)
        if self._waits_for_disk:
            return self._journal.ticket()
        self._journal.sync_later()
        return SAFE

    async def flush(self) -> None:
        """Bring everything appended so far into SQL; raises StoreUnavailable."""
        async with self._flushing:
            await self._flush_direct()
            while (batch := self._journal.take()) is not None:
                try:
                    if batch.rows is None:
                        batch = await asyncio.to_thread(batch.read, _rows_in)
                    for some in _chunks(batch.rows or (), _AT_ONCE):
                        await self._insert(some)
                except BaseException:
                    self._journal.keep_none()
                    raise
                self._done(batch)
                if batch.is_last:
                    return

    async def complete(self) -> None:
        """Bring everything into SQL that is known to be used; raises StoreUnavailable.

        As it does at once while a dead process's journal waits for its next turn: a sum without it is too low.
        """
        await self.flush()
        if self._lacks_journals:
            raise StoreUnavailable("The usage of a dead process is not counted yet.", code="ledger_unavailable")

    def _done(self, batch: Batch) -> None:
        self._journal.done(batch)
        if batch.rows:
            with contextlib.suppress(OSError):  # without the note a recovery inserts the rows again, to no effect
                for segment, end in batch.ends:
                    self._journal.write(encode([_IN_SQL, segment.path.name, end]))

    async def _flush_direct(self) -> None:
        waiting = list(self._direct)
        if waiting:
            await self._insert([row for rows, _ in waiting for row in rows])
            del self._direct[: len(waiting)]
            for _, ticket in waiting:
                ticket.done()

    async def _insert(self, rows: Sequence[Row]) -> None:
        """Only rows that the database refuses for what is in them are put aside; all others wait until it takes them."""
        refused = False
        try:
            await self._rows.insert(rows)
        except RowRefused:
            refused = True
        except Exception:
            self._sql_works = False
            raise
        if refused:
            await self._insert_halves(rows)
        self._sql_works = True

    async def _insert_halves(self, rows: Sequence[Row]) -> None:
        """Sort out the row that the database will not have: one bad row must not hold up all that follow."""
        middle = len(rows) // 2
        if middle:
            await self._insert(rows[:middle])
            await self._insert(rows[middle:])
        else:
            await self._rejected.add(rows[0])

    async def recover(self) -> Recovered:
        """Bring journals of dead processes into SQL; any number of processes may try at once. Raises StoreUnavailable."""
        async with self._recovering:
            try:
                async with only_heir(self._folder):
                    total = await self._recover_all()
            except Exception:
                self._lacks_journals = True
                raise
            self._lacks_journals = False
        return total

    async def _recover_all(self) -> Recovered:
        total = Recovered()
        found = iter(orphans(self._folder, self._journal.group_name))
        while (orphan := await asyncio.to_thread(next, found, None)) is not None:
            recovered = False
            try:
                part = await self._recover(orphan)
                recovered = True
            finally:
                orphan.release(recovered=recovered)
            total = Recovered(total.rows + part.rows, total.unfinished + part.unfinished, total.damaged + part.damaged)
            log.warning(
                "took over the journal of a dead process: %d rows, %d requests unfinished, %d bytes damaged",
                *(part.rows, part.unfinished, part.damaged),
            )
        return total

    async def _recover(self, orphan: Orphan) -> Recovered:
        rows, unfinished = await asyncio.to_thread(_left_by, orphan)
        for some in _chunks(rows, _AT_ONCE):
            await self._insert(some)
        # A request whose end went straight to SQL, because the journal failed, is not unfinished.
        missing = [row for some in _chunks(unfinished, 500) for row in await self._without_rows(some)]
        for some in _chunks(missing, _AT_ONCE):
            await self._insert(some)
        return Recovered(len(rows), len(missing), orphan.damaged)

    async def _without_rows(self, rows: Sequence[Row]) -> list[Row]:
        ids = [identity(row)[0] for row in rows]
        present = set(await self._database.scalars(select(ledger.c.request_id).where(ledger.c.request_id.in_(ids))))
        return [row for row in rows if identity(row)[0] not in present]

    async def _repeat(self, work: Callable[[], Any], seconds: float, sooner: asyncio.Event) -> None:
        """Do it after so many seconds, or ``sooner`` where the last time was no failure; after failures less and less often."""
        pause, failed = seconds, False
        while True:
            if failed:
                await asyncio.sleep(pause)
                pause = max(min(pause * 2, _MOST_SECONDS), seconds)
            else:
                pause = seconds
                # Not wait_for: that of Python 3.11 may swallow the cancellation of ``close``.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await sooner.wait()
            sooner.clear()
            failed = True
            try:
                await work()
                failed = False
            except StoreUnavailable as error:
                log.warning("the ledger's rows wait in the journal: %s", error.message)
            except Exception:
                log.exception("the ledger's rows wait in the journal")


def _left_by(orphan: Orphan) -> tuple[list[Row], list[Row]]:
    """The rows of a dead process that SQL may lack, and those of the requests it left open."""
    done: dict[str, int] = {}
    closed: list[tuple[str, int, list[Row]]] = []
    opened: dict[str, Running] = {}
    for name, offset, payload in orphan.payloads():
        kind, key, value = orjson.loads(payload)
        if kind == _IN_SQL:
            done[key] = value
        elif kind == _OPEN:
            opened[key] = value
        else:
            opened.pop(key, None)
            closed.append((name, offset, value))
    rows = [row for name, offset, some in closed if offset >= done.get(name, 0) for row in some]
    return rows, [unfinished_row(noted) for noted in opened.values()]


def _rows_in(payloads: list[bytes]) -> list[Row]:
    """The rows of ended calls; other records need not be decoded on the way to SQL."""
    closed = b",".join([payload for payload in payloads if payload.startswith(_CLOSED_BEGINS)])
    return [row for _, _, rows in orjson.loads(b"[%b]" % closed) for row in rows]


def _chunks(rows: Sequence[Row], size: int) -> Iterable[Sequence[Row]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))
