"""The log of what operators did: append-only, each row carrying the SHA-256 of the one before.

An edit, a removal or a reordering breaks the chain; cutting off the end contradicts the head that is kept beside it. Who
can rewrite the whole log and its head is found out by an ``anchor``: a head that was noted elsewhere earlier.
"""

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Row, func, insert, select, update

from .database import Database, sql_text
from .engine import Connection
from .tables import audit, audit_head

GENESIS = "0" * 64
ROLE_ACTOR = "key:"
"""What the name of an actor begins with who is a key with a role; those of operators begin otherwise."""
_CHUNK = 1000


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the log: note it somewhere else, and ``verify`` against it later."""

    seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What verifying found. ``broken_at`` is the first row number that does not fit; None for a whole log."""

    head: Head
    broken_at: int | None = None
    reason: str = ""

    @property
    def is_intact(self) -> bool:
        return self.broken_at is None


class AuditLog:
    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def append(
        self,
        connection: Connection,
        *,
        actor: str,
        action: str,
        target: str,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        result: str = "ok",
    ) -> None:
        """Add a row in the transaction of the change itself: neither is there without the other."""
        head = (await connection.execute(select(audit_head).with_for_update())).one()
        content = {
            "seq": head.seq + 1,
            "at": int(self._clock() * 1e6),
            "actor": _fitting(actor, 128),
            "action": action,
            "target": _fitting(target, 200),
            "before": _json(before),
            "after": _json(after),
            "request_id": None if request_id is None else _fitting(request_id, 128),
            "result": result,
        }
        digest = chained(head.hash, content)
        await connection.execute(insert(audit).values(**content, previous=head.hash, hash=digest))
        await connection.execute(update(audit_head).values(seq=head.seq + 1, hash=digest))

    async def record(self, **content: Any) -> None:
        """Add a row in a transaction of its own, say for a call that was refused; arguments as for ``append``."""
        async with self._database.write() as connection:
            await self.append(connection, **content)

    async def record_once(self, since: float, **content: Any) -> bool:
        """``record``, unless another call did the same to the same target at ``since`` or later; whether it was recorded."""
        async with self._database.write() as connection:
            await connection.execute(select(audit_head).with_for_update())  # one at a time, from here on
            same = (audit.c.target == _fitting(content["target"], 200), audit.c.action == content["action"])
            others = audit.c.request_id.is_distinct_from(content["request_id"])
            query = select(audit.c.seq).where(*same, others, audit.c.at >= int(since * 1e6)).limit(1)
            if await connection.scalar(query) is not None:
                return False
            await self.append(connection, **content)
        return True

    async def verify(self, anchor: Head | None = None) -> Verdict:
        """Recompute the whole chain; other processes may go on writing."""
        async with self._database.read() as connection:
            head = await _head(connection)
        previous, seq = GENESIS, 0
        while seq < head.seq:
            query = select(audit).where(audit.c.seq > seq, audit.c.seq <= head.seq).order_by(audit.c.seq).limit(_CHUNK)
            async with self._database.read() as connection:
                rows = (await connection.execute(query)).all()
            if not rows:
                return Verdict(head, seq + 1, "rows are missing at the end")
            for row in rows:
                if reason := _mismatch(row, seq + 1, previous):
                    return Verdict(head, seq + 1, reason)
                previous, seq = row.hash, row.seq
                if anchor is not None and seq == anchor.seq and previous != anchor.hash:
                    return Verdict(head, seq, "the row is not the one that was noted")
        return await self._ending(head, previous, anchor)

    async def _ending(self, head: Head, previous: str, anchor: Head | None) -> Verdict:
        async with self._database.read() as connection:
            last = await connection.scalar(select(func.max(audit.c.seq))) or 0
            now = await _head(connection)
        if previous != head.hash:
            return Verdict(head, head.seq, "the head does not fit the last row")
        if last > now.seq:
            return Verdict(head, now.seq + 1, "rows were added behind the head")
        if anchor is not None and anchor.seq > head.seq:
            return Verdict(head, head.seq + 1, "the log is shorter than it was")
        return Verdict(head)

    async def list(self, *, after: int = 0, limit: int = 100, target: str | None = None) -> "list[dict[str, Any]]":
        """Rows in order, from behind row number ``after``."""
        query = select(audit).where(audit.c.seq > after).order_by(audit.c.seq).limit(limit)
        if target is not None:
            query = query.where(audit.c.target == sql_text(target))
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        return [_described(row) for row in rows]


def chained(previous: str, content: Mapping[str, Any]) -> str:
    """The hash of a row: of the row before and of everything the row says, in the order of the columns."""
    values = [content[name] for name in _CONTENT]
    return hashlib.sha256(previous.encode() + orjson.dumps(values)).hexdigest()


async def maker_of(connection: Connection, target: str) -> str | None:
    """Who made what now has the name ``target`` (``user:ann``), as ``actor`` names them; None where no row tells."""
    kind = target.partition(":")[0]
    made = (audit.c.target == _fitting(target, 200), audit.c.action == f"{kind}.create", audit.c.result == "ok")
    actor: str | None = await connection.scalar(
        select(audit.c.actor).where(*made).order_by(audit.c.seq.desc()).limit(1)
    )
    return actor


_CONTENT = ("seq", "at", "actor", "action", "target", "before", "after", "request_id", "result")


async def _head(connection: Connection) -> Head:
    row = (await connection.execute(select(audit_head))).first()
    return Head(row.seq, row.hash) if row is not None else Head(0, GENESIS)


def _mismatch(row: Row[Any], seq: int, previous: str) -> str:
    if row.seq != seq:
        return "a row is missing"
    if row.previous != previous:
        return "the row does not follow the one before"
    return "" if row.hash == chained(previous, row._asdict()) else "the row was changed"


def _described(row: Row[Any]) -> dict[str, Any]:
    item: dict[str, Any] = {str(name): value for name, value in row._asdict().items()}  # plain: orjson is strict
    item["at"] = row.at / 1e6
    for name in ("before", "after"):
        item[name] = orjson.loads(item[name]) if item[name] is not None else None
    return item


def _json(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else orjson.dumps(dict(value), option=orjson.OPT_SORT_KEYS).decode()


def _fitting(text: str, length: int) -> str:
    return sql_text(text)[:length]
