"""
Stored completions: kept when a request says so, listed by keyset, gone when deleted or expired.

They belong to the team of the key that made them, so that its keys see the same ones; a key without a team sees its own.
Somebody else's answers exactly like one that does not exist. A page continues behind (created, seq) of the last item
seen, so that it neither repeats nor skips an item while others are written and deleted; a deleted item leaves a tombstone
without content for a day, by which a cursor that names it still finds its place.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import orjson
from sqlalchemy import ColumnElement, Row, and_, delete, exists, insert, select, tuple_, update
from sqlalchemy.sql import FromClause

from config.schema import StoredCompletions as Options

from ..call import Principal
from .database import Database, sql_text
from .engine import Connection
from .sealing import sealer
from .stored_shapes import (
    JSON,
    Page,
    checked_metadata,
    deleted,
    input_messages,
    listing,
    not_found,
    stored_object,
    unknown_after,
)
from .tables import stored_completions as table
from .tables import stored_metadata

Conditions: TypeAlias = list[ColumnElement[bool]]
_ID = re.compile(r"[A-Za-z0-9_.:\-]{1,128}")
_TOMBSTONE_SECONDS = 86_400.0
_DAY = 86_400.0


def owner_of(principal: Principal) -> str:
    """Whose completions a caller makes and sees: the team's, or the key's own."""
    if principal.team is not None:
        return owner("team", principal.organization, principal.team)
    return owner("key", principal.organization, principal.key_id)


def owner(kind: Literal["team", "key"], organization: str, name: str) -> str:
    """Names may hold slashes: those of an organization are escaped, or team `b/c` of `a` would be team `c` of `a/b`."""
    escaped = organization.replace("%", "%25").replace("/", "%2F")
    return f"{kind[0]}:{escaped}/{name}"


async def end(connection: Connection, owner: str, now: float) -> None:
    """All completions of an owner are gone from now on; the next sweep erases them."""
    own = (table.c.owner == owner, table.c.removed.is_(False), table.c.expires > now)
    await connection.execute(update(table).where(*own).values(expires=now))


class StoredCompletions:
    """Objects in and out are those of the API. All methods raise StoreUnavailable while the database is down."""

    def __init__(
        self, database: Database, options: Options | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        options = options or Options()
        self._database = database
        self._sealer = sealer(options)
        self._lifetime = options.ttl_days * _DAY
        self._clock = clock
        self._erased = False

    async def create(
        self,
        owner: str,
        request: Mapping[str, Any],
        completion: Mapping[str, Any],
        *,
        request_id: str | None = None,
    ) -> None:
        """Keep a finished completion and the messages it answers; one already kept under its id stays as it is."""
        body = stored_object(request, completion, request_id)
        messages = input_messages(body["id"], request["messages"])
        context = f"{owner} {body['id']}"
        values = {
            "owner": owner,
            "id": body["id"],
            "created": body["created"],
            "model": sql_text(body["model"]),
            "expires": self._clock() + self._lifetime,
            "removed": False,
            "body": self._sealer.seal(orjson.dumps(body), context),
            "messages": self._sealer.seal(orjson.dumps(messages), context),
        }
        new = self._database.insert(table).values(values).on_conflict_do_nothing(index_elements=["owner", "id"])
        async with self._database.write() as connection:
            seq = await connection.scalar(new.returning(table.c.seq))
            if seq is not None:
                await self._index(connection, owner, (body["created"], seq), body["metadata"])

    async def get(self, owner: str, completion_id: str) -> JSON:
        """One completion; raises ResourceNotFound (C-071), as do ``update``, ``delete`` and ``messages``."""
        async with self._database.read() as connection:
            row = await self._row(connection, owner, completion_id)
        return self._opened(owner, row)

    async def update(self, owner: str, completion_id: str, metadata: Any) -> JSON:
        """Replace the metadata; the whole object as it is then."""
        values = checked_metadata(metadata)
        async with self._database.write() as connection:
            row = await self._row(connection, owner, completion_id, lock=True)
            body = {**self._opened(owner, row), "metadata": values}
            sealed = self._sealer.seal(orjson.dumps(body), f"{owner} {completion_id}")
            await connection.execute(update(table).where(table.c.seq == row.seq).values(body=sealed))
            await connection.execute(delete(stored_metadata).where(stored_metadata.c.seq == row.seq))
            await self._index(connection, owner, (row.created, row.seq), values)
        return body

    async def delete(self, owner: str, completion_id: str) -> JSON:
        """Erase the content at once; the tombstone goes a day later."""
        async with self._database.write() as connection:
            row = await self._row(connection, owner, completion_id, lock=True)
            await self._erase(connection, table.c.seq == row.seq)
        return deleted(completion_id)

    async def list(self, owner: str, page: Page) -> JSON:
        """A page of completions; ``has_more`` is exact. Raises InvalidRequest for an ``after`` that never was there."""
        found: dict[int, Row[Any]] = {}
        async with self._database.read() as connection:
            for source, place, wanted in self._sources(owner, page):
                if page.after is not None:
                    wanted.append(await self._behind(connection, owner, page, place))
                order = [column.asc() if page.order == "asc" else column.desc() for column in place]
                query = select(table.c.seq, table.c.created, table.c.id, table.c.body).select_from(source)
                query = query.where(*wanted).order_by(*order).limit(page.limit + 1)
                found.update({row.seq: row for row in (await connection.execute(query)).all()})
        rows = sorted(found.values(), key=lambda row: (row.created, row.seq), reverse=page.order == "desc")
        return listing([self._opened(owner, row) for row in rows[: page.limit]], len(rows) > page.limit)

    async def messages(self, owner: str, completion_id: str, page: Page) -> JSON:
        """A page of the messages that were sent."""
        async with self._database.read() as connection:
            row = await self._row(connection, owner, completion_id)
        items: Sequence[JSON] = orjson.loads(self._sealer.unseal(row.messages, f"{owner} {completion_id}"))
        items = items if page.order == "asc" else items[::-1]
        if page.after is not None:
            position = next((i for i, item in enumerate(items) if item["id"] == page.after), None)
            if position is None:
                raise unknown_after()
            items = items[position + 1 :]
        return listing(items[: page.limit], len(items) > page.limit)

    async def sweep(self, *, limit: int = 1000) -> int:
        """Erase up to ``limit`` expired completions and drop old tombstones; how many were touched.

        In SQLite what was deleted is then gone from the write-ahead log too; in PostgreSQL autovacuum does that.
        """
        now = self._clock()
        expired = select(table.c.seq).where(table.c.expires <= now, table.c.removed.is_(False)).limit(limit)
        old = (
            select(table.c.seq)
            .where(table.c.expires <= now - _TOMBSTONE_SECONDS, table.c.removed.is_(True))
            .limit(limit)
        )
        async with self._database.write(timeout=60) as connection:
            erased = await self._erase(connection, table.c.seq.in_(expired.scalar_subquery()), expires=False)
            dropped = await connection.execute(delete(table).where(table.c.seq.in_(old.scalar_subquery())))
        if self._erased:
            self._erased = False
            await self._database.compact()
        return erased + int(dropped.rowcount)

    async def _row(self, connection: Connection, owner: str, completion_id: str, *, lock: bool = False) -> Row[Any]:
        if not _ID.fullmatch(completion_id):
            raise not_found(completion_id)
        query = select(table).where(self._visible(owner), table.c.id == completion_id)
        row = (await connection.execute(query.with_for_update() if lock else query)).first()
        if row is None:
            raise not_found(completion_id)
        return row

    def _opened(self, owner: str, row: Any) -> JSON:
        body: JSON = orjson.loads(self._sealer.unseal(row.body, f"{owner} {row.id}"))
        return body

    def _visible(self, owner: str) -> ColumnElement[bool]:
        return and_(table.c.owner == owner, table.c.removed.is_(False), table.c.expires > self._clock())

    def _sources(self, owner: str, page: Page) -> Iterator[tuple[FromClause, Sequence[ColumnElement[Any]], Conditions]]:
        """Where a page is read from, its order, and its conditions; several are merged.

        The first pair of metadata leads, in the order of its own index: however few completions have it, a page reads
        no others. With encryption those from before it are one source and those since are the next: an update moves a
        completion from the one to the other, and never back.
        """
        wanted = [self._visible(owner)]
        if page.model is not None:
            wanted.append(table.c.model == sql_text(page.model))
        digests = [self._sealer.digests(_pair(owner, name, value)) for name, value in page.metadata.items()]
        if not digests:
            yield table, (table.c.created, table.c.seq), wanted
            return
        wanted += (
            exists().where(stored_metadata.c.seq == table.c.seq, stored_metadata.c.digest.in_(more))
            for more in digests[1:]
        )
        lead = stored_metadata.alias("lead")
        for digest in reversed(digests[0]):
            source = lead.join(table, lead.c.seq == table.c.seq)
            yield source, (lead.c.created, lead.c.seq), [*wanted, lead.c.digest == digest]

    async def _behind(
        self, connection: Connection, owner: str, page: Page, place: Sequence[ColumnElement[Any]]
    ) -> ColumnElement[bool]:
        if page.after is None or not _ID.fullmatch(page.after):
            raise unknown_after()
        query = select(table.c.created, table.c.seq).where(table.c.owner == owner, table.c.id == page.after)
        seen = (await connection.execute(query)).first()
        if seen is None:
            raise unknown_after()
        here, there = tuple_(*place), tuple_(*seen)
        return here > there if page.order == "asc" else here < there

    async def _index(
        self, connection: Connection, owner: str, place: tuple[int, int], metadata: Mapping[str, str]
    ) -> None:
        created, seq = place
        if metadata:
            digests = [self._sealer.digests(_pair(owner, name, value))[0] for name, value in metadata.items()]
            await connection.execute(
                insert(stored_metadata), [{"seq": seq, "created": created, "digest": digest} for digest in digests]
            )

    async def _erase(self, connection: Connection, which: ColumnElement[bool], *, expires: bool = True) -> int:
        rows = (await connection.scalars(select(table.c.seq).where(which))).all()
        if not rows:
            return 0
        values: dict[str, Any] = {"removed": True, "body": None, "messages": None, "model": ""}
        if expires:
            values["expires"] = self._clock()
        await connection.execute(delete(stored_metadata).where(stored_metadata.c.seq.in_(rows)))
        await connection.execute(update(table).where(table.c.seq.in_(rows)).values(values))
        self._erased = True
        return len(rows)


def _pair(owner: str, name: str, value: str) -> str:
    return orjson.dumps([part.encode("utf-8", "replace").decode() for part in (owner, name, value)]).decode()
