"""Key look-ups kept in memory: authentication is a dict look-up, and a revocation is seen within a second."""

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import orjson
from sqlalchemy import bindparam, func, select

from ..call import Principal
from ..errors import StoreUnavailable
from .database import Database
from .digests import Peppers, sha256_digest
from .keys import KeyRecord, KeyStore
from .tables import changes

log = logging.getLogger(__name__)

LookUp: TypeAlias = Callable[[], Awaitable[KeyRecord | None]]

_NEGATIVE_SIZE = 10_000
"""Random keys must not fill memory."""
_POLL_SECONDS = 0.5
_FORGET_AFTER = 600.0
"""Seconds without a successful poll after which changes may have been pruned unseen; they are kept for an hour."""
_LATER = (
    select(changes.c.seq, changes.c.kind, changes.c.target)
    .where(changes.c.seq > bindparam("seen", type_=changes.c.seq.type))
    .order_by(changes.c.seq)
)
"""What was changed since; asked by every worker twice a second, however little there is to do."""


@dataclass(slots=True)
class _Entry:
    record: KeyRecord | None
    until: float


class KeyCache:
    """A bounded cache in front of ``KeyStore``: unknown keys are remembered too, and each key is fetched once at a time.

    An entry is found by the full digest of the presented key, lives at most ``ttl`` seconds and is dropped as soon as
    the table of changes names it or one of its owners. Expiry is checked at every use. ``static`` are keys that need no
    database, by sha256 digest. While the database is down, entries serve until they run out, then StoreUnavailable.
    """

    def __init__(
        self,
        database: Database,
        store: KeyStore,
        peppers: Peppers,
        *,
        static: Mapping[str, KeyRecord] | None = None,
        ttl: float = 60.0,
        size: int = 100_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._later = str(_LATER.compile(dialect=database.dialect))
        self._store = store
        self._peppers = peppers
        self._static = dict(static or {})
        self._ttl = ttl
        self._size = size
        self._clock = clock
        self._known: OrderedDict[str, _Entry] = OrderedDict()
        self._unknown: OrderedDict[str, _Entry] = OrderedDict()
        self._loading: dict[str, asyncio.Task[KeyRecord | None]] = {}
        self._generation = 0
        self._seen: int | None = None
        self._polled = 0.0
        self._poller: asyncio.Task[None] | None = None
        self._polling = asyncio.Lock()
        self.on_change: list[Callable[[Collection[tuple[str, str]]], None]] = []
        """Told the kinds and ids of owners that were changed."""

    def cached(self, key: str) -> Principal | None:
        """Who holds ``key``, by an entry that serves still; None says nothing."""
        record = self._static.get(sha256_digest(key)) if self._static else None
        if record is None and (entry := self._cached(self._peppers.first(key))) is not None:
            record = entry.record
        return record.principal if record is not None and record.is_usable(self._clock()) else None

    async def principal(self, key: str) -> Principal | None:
        """Who holds ``key``; None for a key that is unknown, malformed, expired or blocked."""
        record = await self.record(key)
        return record.principal if record is not None and record.is_usable(self._clock()) else None

    async def record(self, key: str) -> KeyRecord | None:
        """The record of ``key``, usable or not; None for one that nobody has."""
        digests = self._peppers.digests(key)
        if not digests:
            return None
        if (fixed := self._static.get(digests[-1])) is not None:
            return fixed
        if (entry := self._cached(digests[0])) is not None:
            return entry.record
        return await self._load(digests[0], lambda: self._store.lookup(*digests))

    async def member(self, user: str, team: str | None) -> Principal | None:
        """A user whom somebody else vouches for, say an identity provider; None where they or their team may not call."""
        name = "member:" + orjson.dumps([user, team]).decode()
        entry = self._cached(name)
        record = entry.record if entry else await self._load(name, lambda: self._store.member(user, team))
        return record.principal if record is not None and record.is_usable(self._clock()) else None

    async def named(self, key_id: str) -> Principal | None:
        """The principal of a key of the database by its id, usable or not; asked anew each time."""
        record = await self._store.find(key_id)
        return record.principal if record is not None else None

    def clear(self, static: Mapping[str, KeyRecord] | None = None) -> None:
        """Forget everything, say because the configuration changed; ``static`` replaces the keys of the config file."""
        self._generation += 1
        self._known.clear()
        self._unknown.clear()
        if static is not None:
            self._static = dict(static)

    def _cached(self, digest: str) -> _Entry | None:
        now = self._clock()
        for side in (self._known, self._unknown):
            if (entry := side.get(digest)) is not None:
                if now < entry.until:
                    side.move_to_end(digest)
                    return entry
                del side[digest]
        return None

    async def _load(self, digest: str, look_up: LookUp) -> KeyRecord | None:
        """Fetch once, however many requests wait; one of them going away does not stop it for the others."""
        task = self._loading.get(digest)
        if task is None:
            task = self._loading[digest] = asyncio.create_task(self._fetch(digest, look_up, self._generation))
            task.add_done_callback(lambda done: self._loaded(digest, done))
        return await asyncio.shield(task)

    def _loaded(self, digest: str, task: asyncio.Task[KeyRecord | None]) -> None:
        if self._loading.get(digest) is task:
            del self._loading[digest]
        if not task.cancelled():
            task.exception()  # every waiter may have left: nobody else would fetch it

    async def _fetch(self, digest: str, look_up: LookUp, generation: int) -> KeyRecord | None:
        record = await look_up()
        # What was read before a change may arrive after it: such an answer serves its request and is not kept.
        if generation == self._generation:
            side, size = (self._unknown, _NEGATIVE_SIZE) if record is None else (self._known, self._size)
            side[digest] = _Entry(record, self._clock() + self._ttl)
            while len(side) > size:
                side.popitem(last=False)
        return record

    async def start(self) -> None:
        """Begin to follow the table of changes."""
        await self.poll()
        self._poller = asyncio.create_task(self._follow())

    async def close(self) -> None:
        for task in (self._poller, *self._loading.values()):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, StoreUnavailable):
                    await task

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            try:
                await self.poll()
            except StoreUnavailable as error:
                log.warning("changes of keys cannot be read: %s", error.message)
            except Exception:
                log.exception("changes of keys cannot be read")

    async def poll(self) -> None:
        """Apply the changes made since the last poll, by whichever process; a Redis message may call this early."""
        async with self._polling:
            began = self._clock()
            fresh = self._seen is None or began - self._polled > _FORGET_AFTER
            if fresh:
                async with self._database.read() as connection:
                    self._seen = await connection.scalar(select(func.max(changes.c.seq))) or 0
                self.clear()
            else:
                rows = await self._database.direct.rows(self._later, (self._seen,))
                self._apply({(kind, target) for _, kind, target in rows})
                self._seen = rows[-1][0] if rows else self._seen
            self._polled = began

    def _apply(self, changed: set[tuple[str, str]]) -> None:
        if not changed:
            return
        self._generation += 1
        self._loading.clear()  # requests from now on must not join a look-up that began before the change
        self._unknown.clear()
        stale = [d for d, e in self._known.items() if e.record is not None and not changed.isdisjoint(e.record.owners)]
        for digest in stale:
            del self._known[digest]
        for told in self.on_change:
            told(changed)
