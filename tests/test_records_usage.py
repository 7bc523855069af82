"""Sums of the ledger: whatever is rolled up, retired or late, every row counts once."""

import asyncio
import csv
import io
import random
import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import event, text

from adapters.usage import Usage
from config.schema import Ledger as LedgerOptions
from gateway.call import Attempt, CallRecord, Principal
from gateway.errors import InvalidRequest
from gateway.records.database import Database
from gateway.records.ledger import Ledger
from gateway.records.rows import rows_of
from gateway.records.usage import Filter, UsageStore

DAY = 86_400
NOW = 20_000 * DAY + 43_200.0
PEOPLE = [
    Principal("key_1", "acme", "blue", "ann", tags=("batch", "eu")),
    Principal("key_2", "acme", "red", None, tags=("eu",)),
    Principal("key_3", "other", None, None),
]


def call(number: int, principal: Principal, started: float, cost: int, **attempt: Any) -> CallRecord:
    made = Attempt(1, "p/m", "p", "m", "default", "default", Usage(input=10, output=3), cost=cost, **attempt)
    return CallRecord(f"req_{number}", "fast", principal, 200, attempts=[made], started=started)


class Book:
    """A database, and beside it the plain list that its answers are compared with."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.ledger = Ledger(database, LedgerOptions(journal=str(folder)))
        self.usage = UsageStore(database, clock=lambda: NOW)
        self.calls: list[CallRecord] = []

    async def add(self, *calls: CallRecord) -> None:
        self.calls += calls
        await self.ledger._insert([row for c in calls for row in rows_of(c)])

    def spent(self, attribute: str, value: str, since: float = 0, until: float = 1e12) -> int:
        return sum(
            c.attempts[0].cost
            for c in self.calls
            if getattr(c.principal, attribute) == value and since <= c.started < until
        )

    async def check(self) -> None:
        for kind, attribute, value in (
            *(("key", "key_id", f"key_{n}") for n in (1, 2, 3)),
            *(("team", "team", "blue"), ("user", "user", "ann"), ("organization", "organization", "acme")),
        ):
            for since in (0, 19_990 * DAY, 20_000 * DAY, NOW + DAY):
                assert await self.usage.spent(kind, value, since) == self.spent(attribute, value, since)  # type: ignore[arg-type]
            assert await self.usage.spent(kind, value) == self.spent(attribute, value)  # type: ignore[arg-type]


@pytest.fixture
def book(database: Database, tmp_path: Path) -> Book:
    return Book(database, tmp_path / "journal")


def some(numbers: range, seed: int = 1) -> list[CallRecord]:
    dice = random.Random(seed)
    return [
        call(n, dice.choice(PEOPLE), NOW - dice.randrange(30 * DAY), dice.randrange(1_000_000_000)) for n in numbers
    ]


async def test_sums_do_not_depend_on_the_roll_up(book: Book) -> None:
    await book.add(*some(range(300)))
    await book.check()
    assert await book.usage.roll_up(limit=100) == 100
    await book.check()
    while await book.usage.roll_up():
        pass
    await book.check()
    await book.add(*some(range(300, 400), seed=2))  # behind the roll-up, into days long rolled up
    await book.check()
    await book.usage.roll_up()
    await book.check()
    assert await book.usage.roll_up() == 0


async def test_what_an_owner_spent_is_told_by_its_organization_and_with_what_was_imported_of_it_alone(
    book: Book,
) -> None:
    for number, organization in enumerate(("acme", "acme", "evil", "")):
        await book.add(call(number, Principal("", organization, "blue", "ann"), NOW, 10**number))
        if number == 1:
            await book.usage.roll_up()  # the others stay rows
    assert await book.usage.spent("user", "ann") == await book.usage.spent("team", "blue") == 1111
    assert await book.usage.spent("user", "ann", home="acme") == 1011
    assert await book.usage.spent("team", "blue", NOW - DAY, home="evil") == 1100
    assert await book.usage.spent("team", "blue", home="other") == 1000


async def test_retention_changes_no_sum_of_whole_days(book: Book, database: Database) -> None:
    await book.add(*some(range(300)))
    assert await book.usage.retire(10) == 0  # nothing is deleted that is not rolled up
    await book.usage.roll_up()
    deleted = 0
    while more := await book.usage.retire(10, limit=50):
        deleted += more
    assert deleted == sum(c.started < (20_000 - 10) * DAY for c in book.calls)
    async with database.read() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM ledger")) == 300 - deleted
    await book.check()


async def test_roll_ups_and_inserts_at_once_count_everything_once(book: Book) -> None:
    calls = some(range(600))

    async def insert(part: list[CallRecord]) -> None:
        for start in range(0, len(part), 20):
            await book.add(*part[start : start + 20])

    async def roll() -> None:
        for _ in range(15):
            await book.usage.roll_up(limit=37)
            await book.usage.spent("organization", "acme")

    await asyncio.gather(*(insert(calls[n::3]) for n in range(3)), roll(), roll())
    await book.check()
    while await book.usage.roll_up():
        pass
    await book.check()


async def test_what_a_model_bears_is_what_it_served_for_others_too(book: Book) -> None:
    """Reports by model have it under the one asked for; both hold before and after the roll-up."""
    me = PEOPLE[0]
    await book.add(
        call(1, me, NOW, 5), call(2, me, NOW, 7, fallback="cheap"), call(3, me, NOW - DAY, 11, fallback="cheap")
    )
    await book.add(call(4, me, NOW, 13, fallback="dear"))
    for _ in range(2):
        for model, cost, requests in (("fast", 5, 1), ("cheap", 18, 2), ("dear", 13, 1), ("none", 0, 0)):
            for since, until in ((None, None), (NOW - 2 * DAY, NOW + 3600)):
                (borne,) = await book.usage.report((), Filter(since, until, key="key_1", borne_by=model))
                assert (borne["cost"], borne["requests"]) == (cost, requests)
        assert [(row["model"], row["cost"]) for row in await book.usage.report(["model"])] == [("fast", 36)]
        (asked,) = await book.usage.report((), Filter(model="fast"))
        assert asked["cost"] == 36
        await book.usage.roll_up()
    await book.add(call(5, me, NOW, 17, fallback="cheap"))
    await book.usage.roll_up()
    (borne,) = await book.usage.report((), Filter(borne_by="cheap"))
    assert borne["cost"] == 35


@pytest.mark.parametrize("rolled", [False, True])
async def test_parts_of_days(book: Book, rolled: bool) -> None:
    await book.add(*some(range(200)))
    if rolled:
        await book.usage.roll_up()
    hour = 3600.0
    for since, until in (
        (NOW - 5 * DAY + hour, NOW - hour),
        (NOW - hour * 5, NOW - hour),
        (NOW - 5 * DAY, NOW - 5 * DAY + hour),
        (19_990 * DAY, 19_995 * DAY),
        (19_990 * DAY, 19_995 * DAY + 0.5),
    ):
        (total,) = await book.usage.report((), Filter(since, until, organization="acme"))
        assert total["cost"] == book.spent("organization", "acme", since, until)


@pytest.mark.parametrize("rolled", [False, True])
async def test_requests_that_are_not_to_be_counted(book: Book, rolled: bool) -> None:
    await book.add(*some(range(200)))
    if rolled:
        await book.usage.roll_up()
    without = [f"req_{n}" for n in range(0, 200, 3)] + ["req_'%(x)s:1$", *(f"none_{n}" for n in range(40_000))]
    book.calls = [c for n, c in enumerate(book.calls) if n % 3]
    for since, until in ((0, NOW), (NOW - 5 * DAY + 3600, NOW - 3600), (NOW - 7200, NOW)):
        wanted = Filter(since, until, organization="acme")
        (total,) = await book.usage.report((), wanted, without=without)
        counted = [c for c in book.calls if c.principal.organization == "acme" and since <= c.started < until]
        assert total["cost"] == sum(c.cost or c.attempts[0].cost for c in counted)
        assert (total["requests"], total["input"]) == (len(counted), 10 * len(counted))


async def test_reports_by_anything(book: Book) -> None:
    await book.add(
        call(1, PEOPLE[0], NOW, 5),
        call(2, PEOPLE[1], NOW, 7, estimated=True),
        call(3, PEOPLE[0], NOW - DAY, 11, status="timeout"),
        call(4, PEOPLE[2], NOW, 13),
    )
    for _ in range(2):
        by_tag = await book.usage.report(["tag"])
        assert [(r["tag"], r["cost"], r["requests"]) for r in by_tag] == [
            ("", 13, 1), ("batch", 16, 2), ("eu", 23, 3),
        ]  # fmt: skip
        by_day = await book.usage.report(["day", "team"], Filter(organization="acme"))
        assert [(r["day"], r["team"], r["cost"]) for r in by_day] == [
            ("2024-10-03", "blue", 11), ("2024-10-04", "blue", 5), ("2024-10-04", "red", 7),
        ]  # fmt: skip
        (total,) = await book.usage.report()
        assert (total["requests"], total["attempts"], total["errors"], total["estimates"]) == (4, 4, 1, 1)
        assert (total["input"], total["output"], total["tokens"]) == (40, 12, 52)
        (tagged,) = await book.usage.report([], Filter(tag="batch", tier="default", model="fast"))
        assert tagged["cost"] == 16
        assert await book.usage.report(["key"], Filter(tag="%")) == []
        assert await book.usage.report(["key"], Filter(user="nobody")) == []
        for hostile in ("\x00", "\ud800"):
            for name in ("organization", "team", "user", "key", "model", "tier", "tag"):
                assert await book.usage.report(["key"], Filter(**{name: hostile})) == []  # type: ignore[arg-type]
            assert await book.usage.rows(Filter(), request_id=hostile) == []
        await book.usage.roll_up()
    with pytest.raises(InvalidRequest, match="request_id"):
        await book.usage.report(["request_id"])


async def test_exports_hold_every_row(book: Book) -> None:
    calls = some(range(2300))
    await book.add(*calls)
    exported = orjson.loads(b"".join([part async for part in book.usage.export("json")]))
    calls.sort(key=lambda call: int(call.started * 1e6))  # those of one moment stay in the order they came in
    assert [row["request_id"] for row in exported] == [c.id for c in calls]
    assert exported[0]["cost"] == calls[0].attempts[0].cost
    parts = [part async for part in book.usage.export("csv", Filter(team="blue"))]
    lines = list(csv.DictReader(io.StringIO(b"".join(parts).decode())))
    assert [line["request_id"] for line in lines] == [c.id for c in calls if c.principal and c.principal.team == "blue"]
    nothing = b"".join([part async for part in book.usage.export("json", Filter(key="none"))])
    assert orjson.loads(nothing) == []


async def test_no_question_reads_the_whole_ledger(database: Database) -> None:
    """As the planners really see it, with figures of a ledger that is large beside its roll-up."""
    from benchmarks.records import analyse, fill_ledger

    now = int(NOW)
    usage = UsageStore(database, clock=lambda: NOW)
    await fill_ledger(database, 60_000, now)
    while await usage.roll_up():
        pass
    await fill_ledger(database, 500, now, first=60_000)
    await analyse(database)
    statements: list[tuple[str, Any]] = []

    def heard(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "FROM ledger" in statement:
            statements.append((statement, parameters))

    event.listen(database._engine, "before_cursor_execute", heard)
    month, midnight = now - 30 * DAY + 5_000, (now // DAY - 30) * DAY
    owners: list[dict[str, str]] = [{"key": "k7"}, {"team": "t7"}, {"user": "u7"}, {"organization": "acme"}, {}]
    owners += [{"team": "t7", "home": "acme"}, {"user": "u7", "home": "acme"}]
    for owner in owners:
        await usage.report(("team", "day"), Filter(midnight, **owner))  # type: ignore[arg-type] # names of owners
        await usage.report((), Filter(month, now - 3_600, **owner))  # type: ignore[arg-type] # as above
    await usage.report(("model",), Filter(month, model="m1", tag="a", tier="flex"))
    await usage.spent("key", "k7")
    await usage.rows(Filter(), request_id="r77")
    await usage.rows(Filter(now - 3_600, team="t7"))
    async for _ in usage.export("csv", Filter(now - 2 * DAY, team="t7")):
        pass
    event.remove(database._engine, "before_cursor_execute", heard)
    assert len(statements) > 14
    prefix = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
    for statement, parameters in statements:
        async with database.read() as connection:
            rows = (await connection.exec_driver_sql(prefix + statement, parameters)).all()
        plan = "\n".join(str(row[-1]) for row in rows)
        assert not re.search(r"SCAN ledger\b(?! USING)|Seq Scan on ledger\b", plan), f"{statement}\n{plan}"
        if "through" in statement:
            behind = r"SEARCH ledger USING INTEGER PRIMARY KEY|(Bitmap )?Index Scan (using|on) pk_ledger"
            assert re.search(behind, plan), f"{statement}\n{plan}"


async def test_an_export_has_nothing_that_a_spreadsheet_runs(book: Book) -> None:
    begins = ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"]
    calls = some(range(len(begins)))
    for made, begin in zip(calls, begins, strict=True):
        made.model = f"{begin}cmd()"
    await book.add(*calls)
    parts = [part async for part in book.usage.export("csv")]
    models = {line["model"] for line in csv.DictReader(io.StringIO(b"".join(parts).decode(), newline=""))}
    assert models == {f"'{begin}cmd()" for begin in begins}


async def test_tags_are_found_as_they_are_written(book: Book) -> None:
    """No wildcards, no other case, no part of another tag; quotes and other alphabets too."""
    tags = ("night", "Night", "nightly", "50%", "50x", 'a"b', "\u00fc", "a_b", "axb")
    await book.add(*(call(n, Principal(f"key_{n}", "acme", tags=(tag,)), NOW, 2**n) for n, tag in enumerate(tags)))
    for _ in range(2):
        for n, tag in enumerate(tags):
            (found,) = await book.usage.report((), Filter(tag=tag))
            assert found["cost"] == 2**n, tag
        await book.usage.roll_up()


async def test_a_report_is_whole_or_refused(book: Book) -> None:
    await book.add(*some(range(50)))
    assert len(await book.usage.report(("key",), limit=3)) == 3
    with pytest.raises(InvalidRequest) as refused:
        await book.usage.report(("key",), limit=2)
    assert refused.value.code == "too_many_groups"
