"""
Sums, reports and exports of the ledger, its daily roll-up and its retention.

A row counts in exactly one place: in ``ledger_daily`` when its id is up to ``ledger_rollup.through``, else in ``ledger``.
Whole days are read as roll-up plus the rows behind it, parts of days from the rows; each answer is one statement, so that
a roll-up running at the same moment cannot count anything twice. The roll-up is additive: rows that come late, from the
journal of a process long dead, have new ids and are added to the day they belong to.
"""

import csv
import io
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

import orjson
from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Select,
    and_,
    bindparam,
    case,
    delete,
    func,
    select,
    true,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.sql import FromClause

from adapters.usage import TOKEN_BUCKETS

from ..errors import InvalidRequest
from .database import Database, sql_text
from .ledger import LEDGER_LOCK
from .tables import DIMENSIONS, LEDGER_COLUMNS, SUMS, counted_keys, ledger, ledger_daily, ledger_rollup

_ROLLUP_LOCK = 0x51_1C_E2
_DAY = 86_400
_EPOCH = date(1970, 1, 1)
_NAMES = {"tier": "tier_served", "tag": "tags"}
"""Names of the interface that differ from the columns."""
GROUPS = ("day", "organization", "team", "user", "key", "model", "deployment", "provider", "tier", "tag")

MAX_GROUPS = 100_000

ScopeKind = Literal["key", "user", "team", "organization"]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rows. ``since`` is inclusive, ``until`` is not; both in seconds since the epoch."""

    since: float | None = None
    until: float | None = None
    organization: str | None = None
    team: str | None = None
    user: str | None = None
    key: str | None = None
    model: str | None = None
    deployment: str | None = None
    provider: str | None = None
    tier: str | None = None
    """The tier that served."""
    tag: str | None = None
    borne_by: str | None = None
    """The model whose limits bear it: the one asked for, or the one that was to serve instead."""
    counted_toward: str | None = None
    """An owner (``k:...``, ``u:...``): of keys that count toward its limits though they are not its own."""
    home: str | None = None
    """An organization: what was used in it, or in none, as what an import knows of a user alone."""

    def matches(self, table: FromClause) -> ColumnElement[bool]:
        """All but the time."""
        wanted = []
        for dimension in DIMENSIONS:
            name = "tier" if dimension == "tier_served" else dimension
            if dimension not in ("tags", "fallback") and (value := getattr(self, name)) is not None:
                wanted.append(table.c[dimension] == sql_text(value))
        if self.home is not None:
            wanted.append(table.c.organization.in_((self.home, "")))
        if self.borne_by is not None:
            wanted.append(func.coalesce(func.nullif(table.c.fallback, ""), table.c.model) == self.borne_by)
        if self.counted_toward is not None:
            counted = select(counted_keys.c.key_id).where(counted_keys.c.owner == self.counted_toward)
            wanted.append(table.c.key.in_(counted))
        if self.tag is not None:
            # LIKE would take wildcards and, in SQLite, capital letters for the same: this holds in both databases.
            quoted = orjson.dumps(self.tag.encode("utf-8", "replace").decode()).decode()
            wanted.append(func.replace(table.c.tags, quoted, "") != table.c.tags)
        return and_(true(), *wanted)


class UsageStore:
    """Questions about what was used. Rows still in a journal are not seen: ``Ledger.flush`` first where that matters."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def spent(
        self, kind: ScopeKind, identity: str, since: float | None = None, *, home: str | None = None
    ) -> int:
        """Nano-dollars an owner has spent from ``since`` on (a window's start), in its organization ``home`` if given.

        Names of teams and users become free again, and users need not be known: who has one now may not be who spent.
        """
        owner = {"home": home, kind: identity}
        parts = _parts(Filter(since, **owner), ("cost",), ())  # type: ignore[arg-type] # all names of ScopeKind are texts
        async with self._database.read() as connection:
            return int(await connection.scalar(select(func.sum(parts.c.cost))) or 0)

    async def counts(self, owner: str) -> bool:
        """Whether there are, or were, keys that count toward the limits of ``owner``."""
        async with self._database.read() as connection:
            query = select(counted_keys.c.key_id).where(counted_keys.c.owner == owner).limit(1)
            return await connection.scalar(query) is not None

    async def report(
        self,
        group_by: Sequence[str] = (),
        wanted: Filter | None = None,
        *,
        limit: int = MAX_GROUPS,
        without: Sequence[str] = (),
    ) -> list[dict[str, Any]]:
        """Sums by any of GROUPS, in their order. A row with several tags counts under each when grouped by tag, one without under "".

        ``cost`` is in nano-dollars, ``duration`` in microseconds. Parts of days older than the retention are not known.
        Requests ``without`` are not counted; their rows must be younger than that.
        Raises InvalidRequest for an unknown group, and for more than ``limit`` groups: a part of them would look whole.
        """
        for name in group_by:
            if name not in GROUPS:
                raise InvalidRequest(f"Cannot group by '{name}'; use {', '.join(GROUPS)}.", param="group_by")
        columns = [_NAMES.get(name, name) for name in dict.fromkeys(group_by)]
        parts = _parts(wanted or Filter(), SUMS, columns, without)
        keys = [parts.c[name] for name in columns]
        query = select(*keys, *(func.coalesce(func.sum(parts.c[name]), 0).label(name) for name in SUMS))
        if keys:
            query = query.group_by(*keys).order_by(*keys)
        async with self._database.read() as connection:
            rows = (await connection.execute(query.limit(limit + 1))).all()
        if len(rows) > limit:
            raise InvalidRequest(
                f"These are more than {limit} groups: ask for a shorter time, for less of it or in fewer groups.",
                param="group_by", code="too_many_groups",
            )  # fmt: skip
        found = [_described(row._mapping) for row in rows]
        return _by_tag(found, group_by) if "tag" in group_by else found

    async def export(self, form: Literal["csv", "json"], wanted: Filter | None = None) -> AsyncIterator[bytes]:
        """Every row, oldest first, a thousand at a time; ``json`` is one array."""
        writer = _csv_lines if form == "csv" else _json_items
        yield _CSV_HEADER if form == "csv" else b"["
        wanted, behind, first = wanted or Filter(), None, True
        while rows := await self._next(wanted, behind):
            behind = (rows[-1].started, rows[-1].id)
            yield writer(rows, first)
            first = False
        if form == "json":
            yield b"]\n"

    async def _next(
        self, wanted: Filter, behind: tuple[int, int] | None, limit: int = 1000, request_id: str | None = None
    ) -> Sequence[Any]:
        """Rows in the order of an index that begins with the owner: no page reads the ones before again."""
        place = [ledger.c.started, ledger.c.id]
        query = select(ledger.c.id, *(ledger.c[name] for name in LEDGER_COLUMNS)).where(
            wanted.matches(ledger), _between(wanted.since, wanted.until)
        )
        if behind is not None:
            query = query.where(tuple_(*place) > tuple_(*behind))
        if request_id is not None:
            query = query.where(ledger.c.request_id == sql_text(request_id))
        async with self._database.read() as connection:
            return (await connection.execute(query.order_by(*place).limit(limit))).all()

    async def rows(
        self, wanted: Filter | None = None, *, after: int = 0, limit: int = 100, request_id: str | None = None
    ) -> list[dict[str, Any]]:
        """A page of rows, oldest first, from behind the row of id ``after``; all attempts of ``request_id``, if given.

        Raises InvalidRequest for an ``after`` that is no row (any more).
        """
        wanted, behind = wanted or Filter(), None
        if after:
            async with self._database.read() as connection:
                own = wanted.matches(ledger)  # a row of somebody else is none
                started = await connection.scalar(select(ledger.c.started).where(ledger.c.id == after, own))
            if started is None:
                raise InvalidRequest("Invalid 'after': no such row.", param="after", code="invalid_value")
            behind = (started, after)
        rows = await self._next(wanted, behind, limit, request_id)
        return [{"id": row.id, **_described_row(row)} for row in rows]

    async def roll_up(self, *, limit: int = 50_000) -> int:
        """Add up to ``limit`` new rows to the daily sums; how many rows there were. Any process may, at any time."""
        async with self._database.write() as connection:
            # Alone for a moment: every row id given out so far is committed, and those to come are higher.
            await self._database.lock(connection, LEDGER_LOCK)
            end = await connection.scalar(select(func.max(ledger.c.id))) or 0
        async with self._database.write(timeout=60) as connection:
            await self._database.lock(connection, _ROLLUP_LOCK)
            through = await connection.scalar(select(ledger_rollup.c.through)) or 0
            end = min(end, through + limit)
            if end <= through:
                return 0
            dimensions = [
                func.coalesce(ledger.c[n], "") if n == "fallback" else ledger.c[n] for n in ("day", *DIMENSIONS)
            ]
            new = (
                select(*dimensions, *(func.sum(_sum(name)).label(name) for name in SUMS))
                .where(ledger.c.id > through, ledger.c.id <= end)
                .group_by(*dimensions)
            )
            insert = self._database.insert(ledger_daily).from_select(["day", *DIMENSIONS, *SUMS], new)
            await connection.execute(
                insert.on_conflict_do_update(
                    index_elements=["day", *DIMENSIONS],
                    set_={name: ledger_daily.c[name] + insert.excluded[name] for name in SUMS},
                )
            )
            await connection.execute(update(ledger_rollup).values(through=end))
        return end - through

    async def retire(self, days: int, *, limit: int = 10_000) -> int:
        """Delete up to ``limit`` rows older than ``days`` whole days that the roll-up has; how many were deleted."""
        before = (int(self._clock()) // _DAY - days) * _DAY * 1_000_000
        rolled = select(ledger_rollup.c.through).scalar_subquery()
        old = select(ledger.c.id).where(ledger.c.started < before, ledger.c.id <= rolled).limit(limit)
        async with self._database.write(timeout=60) as connection:
            result = await connection.execute(delete(ledger).where(ledger.c.id.in_(old.scalar_subquery())))
        return int(result.rowcount)


def _sum(name: str, rows: FromClause = ledger) -> ColumnElement[int]:
    """What one row of the ledger adds to the sum ``name``."""
    conditions: dict[str, ColumnElement[bool]] = {
        "requests": rows.c.final,
        "attempts": rows.c.attempt > 0,
        "errors": rows.c.status != "ok",
        "estimates": rows.c.estimated,
    }
    return case((conditions[name], 1), else_=0) if name in conditions else rows.c[name]


def _parts(wanted: Filter, sums: Sequence[str], columns: Sequence[str], without: Sequence[str] = ()) -> Any:
    """Everything ``wanted``, each row once, as rows of ``columns`` and ``sums``; rows of ``without`` once more, negative."""
    first = None if wanted.since is None else -int(-wanted.since // _DAY)
    end = None if wanted.until is None else int(wanted.until // _DAY)
    less = [_negative(wanted, sums, columns, without)] if without else []
    if first is not None and end is not None and first >= end:
        return union_all(_raw(ledger, wanted, sums, columns, _between(wanted.since, wanted.until)), *less).subquery()
    through = select(ledger_rollup.c.through).scalar_subquery()
    # OFFSET keeps planners from looking into the subquery: knowing nothing of `through`, they would rather read all
    # rows that an owner ever had than the few that are behind the roll-up.
    behind = select(ledger).where(ledger.c.id > through).offset(0).subquery("behind")
    parts: list[Select[Any]] = [
        *less,
        select(*(ledger_daily.c[name] for name in (*columns, *sums))).where(
            wanted.matches(ledger_daily), _days(ledger_daily, first, end)
        ),
        _raw(behind, wanted, sums, columns, _days(behind, first, end)),
    ]
    if first is not None and wanted.since != first * _DAY:
        parts.append(_raw(ledger, wanted, sums, columns, _between(wanted.since, first * _DAY)))
    if end is not None and wanted.until != end * _DAY:
        parts.append(_raw(ledger, wanted, sums, columns, _between(end * _DAY, wanted.until)))
    return union_all(*parts).subquery()


def _raw(
    rows: FromClause, wanted: Filter, sums: Sequence[str], columns: Sequence[str], when: ColumnElement[bool]
) -> Select[Any]:
    """Rows of the ledger in the form of the roll-up's."""
    found = [*(rows.c[name] for name in columns), *(_sum(name, rows).label(name) for name in sums)]
    return select(*found).where(wanted.matches(rows), when)


def _negative(wanted: Filter, sums: Sequence[str], columns: Sequence[str], requests: Sequence[str]) -> Select[Any]:
    """What rows of some requests take off, in whatever form they are counted."""
    # Written out: there may be more than a statement can have parameters.
    ids: BindParameter[str] = bindparam("requests", value=list(requests), expanding=True, literal_execute=True)
    found = [*(ledger.c[name] for name in columns), *((-_sum(name)).label(name) for name in sums)]
    own = ledger.c.request_id.in_(ids)
    return select(*found).where(own, wanted.matches(ledger), _between(wanted.since, wanted.until))


def _days(table: FromClause, first: int | None, end: int | None) -> ColumnElement[bool]:
    bounds = [] if first is None else [table.c.day >= first]
    return and_(true(), *bounds, *([] if end is None else [table.c.day < end]))


def _between(since: float | None, until: float | None) -> ColumnElement[bool]:
    bounds = [] if since is None else [ledger.c.started >= int(since * 1e6)]
    return and_(true(), *bounds, *([] if until is None else [ledger.c.started < int(until * 1e6)]))


def _described(row: Any) -> dict[str, Any]:
    """A row of a report in the interface's names."""
    item: dict[str, Any] = {}
    for name, value in row.items():
        if name == "day":
            item["day"] = (_EPOCH + timedelta(days=value)).isoformat()
        elif name in SUMS:
            item[str(name)] = int(value)  # plain texts: orjson takes no others for names
        else:
            item[{"tier_served": "tier", "tags": "tag"}.get(name, str(name))] = value
    item["tokens"] = sum(item[bucket] for bucket in TOKEN_BUCKETS)
    return item


def _by_tag(rows: list[dict[str, Any]], group_by: Sequence[str]) -> list[dict[str, Any]]:
    """Rows by set of tags become rows by tag; what has none is under the empty one, as what has no team is."""
    sums: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        for tag in orjson.loads(row["tag"]) or ("",):
            single = {**row, "tag": tag}
            group = tuple(single[name] for name in group_by)
            if group in sums:
                for name in (*SUMS, "tokens"):
                    sums[group][name] += single[name]
            else:
                sums[group] = single
    return [sums[group] for group in sorted(sums)]


_EXPORTED = ("time", *(name for name in LEDGER_COLUMNS if name not in ("day", "started")))


def _exported(row: Any) -> dict[str, Any]:
    values = row._asdict()
    moment = datetime.fromtimestamp(values["started"] / 1e6, UTC)
    values["time"] = moment.isoformat(timespec="microseconds")
    return {name: values[name] for name in _EXPORTED}


def _json_items(rows: Sequence[Any], first: bool) -> bytes:
    items = [orjson.dumps(_described_row(row)) for row in rows]
    return (b"\n" if first else b",\n") + b",\n".join(items)


def _described_row(row: Any) -> dict[str, Any]:
    item = _exported(row)
    item["tags"] = orjson.loads(item["tags"])
    item["calls"] = orjson.loads(item["calls"]) if item["calls"] else {}
    return item


def _csv_lines(rows: Sequence[Any], _first: bool) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    for row in rows:
        writer.writerow([_cell(value) for value in _exported(row).values()])
    return text.getvalue().encode()


_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
"""What begins a formula; the last four are the wide ones of East Asian keyboards."""


def _cell(value: Any) -> Any:
    """Spreadsheets run what begins like a formula; a leading apostrophe keeps it text."""
    return "'" + value if isinstance(value, str) and value.startswith(_FORMULA) else value


_CSV_HEADER = (",".join(_EXPORTED) + "\r\n").encode()
