"""Ledger rows that SQL does not take: a store that takes none makes them wait, and a row that it refuses is kept and tried again."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import asyncpg
import pytest
from pydantic import SecretStr
from sqlalchemy import func, select, text

from config.schema import Database as DatabaseOptions
from config.schema import Ledger as LedgerOptions
from gateway.errors import StoreUnavailable
from gateway.records.database import Database
from gateway.records.engine import closed
from gateway.records.ledger import Ledger
from gateway.records.rejected import Rejected, rejected_in
from gateway.records.rows import rows_of
from gateway.records.tables import ledger as table

from .ledger_writer import record

Trouble = Callable[[Database], AbstractAsyncContextManager[None]]
SEVERAL_ATTEMPTS = 0.5
"""Seconds in which a ledger with this interval tries five times."""
INTERVAL = 0.02


@pytest.fixture
async def hasty(database: Database, database_url: str) -> AsyncIterator[Database]:
    """The empty database, by transactions that wait for little."""
    hasty = Database(DatabaseOptions(url=SecretStr(database_url)), timeout=0.3)
    yield hasty
    await hasty.close()


@contextlib.asynccontextmanager
async def pragma(database: Database, name: str, value: object, usual: object) -> AsyncIterator[None]:
    """The connection of SQLite that writes rows, told something else for a while."""
    await database._writer.run(lambda c: c.execute(f"PRAGMA {name} = {value}").fetchall())
    try:
        yield
    finally:
        await database._writer.run(lambda c: c.execute(f"PRAGMA {name} = {usual}").fetchall())


@contextlib.asynccontextmanager
async def full(database: Database) -> AsyncIterator[None]:
    """A disk that is full; PostgreSQL's is not, and a trigger says what it says then."""
    if database.is_sqlite:
        async with pragma(database, "max_page_count", 1, 1_000_000):
            yield
        return
    raising = "BEGIN RAISE EXCEPTION USING ERRCODE = 'disk_full'; END"
    async with database.write() as connection:
        await connection.execute(text(f"CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS $${raising}$$"))
        await connection.execute(text("CREATE TRIGGER disk_full BEFORE INSERT ON ledger EXECUTE FUNCTION disk_full()"))
    try:
        yield
    finally:
        async with database.write() as connection:
            await connection.execute(text("DROP FUNCTION disk_full CASCADE"))


@contextlib.asynccontextmanager
async def read_only(database: Database) -> AsyncIterator[None]:
    """What a standby is, and what managed servers turn to when their disk is nearly full."""
    if database.is_sqlite:
        async with pragma(database, "query_only", "ON", "OFF"):
            yield
        return
    server = await asyncpg.connect(_address(database))
    name = await server.fetchval("SELECT current_database()")

    async def turn(value: str) -> None:
        await server.execute("SET default_transaction_read_only = off")
        await server.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = {value}')
        await closed(database._engine)

    await turn("on")
    try:
        yield
    finally:
        await turn("off")
        await server.close()


@contextlib.asynccontextmanager
async def locked(database: Database) -> AsyncIterator[None]:
    if database.is_sqlite:
        other = sqlite3.connect(str(database._url.database), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")
        other.close()
        return
    server = await asyncpg.connect(_address(database))
    try:
        async with server.transaction():
            await server.execute("LOCK TABLE ledger IN EXCLUSIVE MODE")
            yield
    finally:
        await server.close()


@contextlib.asynccontextmanager
async def without_table(database: Database) -> AsyncIterator[None]:
    """What the two databases say of the statement, not of the server."""
    async with database.write() as connection:
        await connection.execute(text("ALTER TABLE ledger RENAME TO elsewhere"))
    yield
    async with database.write() as connection:
        await connection.execute(text("ALTER TABLE elsewhere RENAME TO ledger"))


def _address(database: Database) -> str:
    return database._url.set(drivername="postgresql").render_as_string(hide_password=False)


@contextlib.asynccontextmanager
async def refusing(database: Database, call_id: str, how: str = "constraint") -> AsyncIterator[None]:
    """A table with a constraint that the rows of one call break, or with a trigger that raises for them."""
    if database.is_sqlite:
        condition = f"BEFORE INSERT ON ledger WHEN NEW.request_id = '{call_id}'"
        action = "ROLLBACK" if how == "trigger" else "ABORT"
        make = [f"CREATE TRIGGER odd {condition} BEGIN SELECT RAISE({action}, 'no'); END"]
        mend = "DROP TRIGGER odd"
    elif how == "trigger":
        raising = "BEGIN RAISE EXCEPTION 'no'; END"
        condition = f"BEFORE INSERT ON ledger FOR EACH ROW WHEN (NEW.request_id = '{call_id}')"
        make = [
            f"CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS $${raising}$$",
            f"CREATE TRIGGER odd {condition} EXECUTE FUNCTION odd()",
        ]
        mend = "DROP FUNCTION odd CASCADE"
    else:
        make = [f"ALTER TABLE ledger ADD CONSTRAINT odd CHECK (request_id <> '{call_id}')"]
        mend = "ALTER TABLE ledger DROP CONSTRAINT odd"
    async with database.write() as connection:
        for statement in make:
            await connection.execute(text(statement))
    try:
        yield
    finally:
        async with database.write() as connection:
            await connection.execute(text(mend))


async def count(database: Database) -> int:
    async with database.read() as connection:
        return int(await connection.scalar(select(func.count()).select_from(table)) or 0)


def rejected(folder: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in folder.glob("rejected-*"))


def ledger_in(folder: Path, database: Database, interval: float = 60) -> Ledger:
    return Ledger(database, LedgerOptions(journal=str(folder)), sql_interval=interval)


async def until(state: Callable[[], bool | Awaitable[bool]], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not (now if isinstance(now := state(), bool) else await now):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("trouble", [full, read_only, locked, without_table])
async def test_all_rows_wait_while_the_database_takes_none(tmp_path: Path, hasty: Database, trouble: Trouble) -> None:
    ledger = ledger_in(tmp_path / "journal", hasty, INTERVAL)
    await ledger.start()
    ledger.append(record("req_first", 1))
    await ledger.flush()
    assert ledger.is_healthy
    async with trouble(hasty):
        for number in range(300):
            ledger.append(record(f"req_{number}", 1))
        await until(lambda: not ledger.is_healthy)
        await asyncio.sleep(SEVERAL_ATTEMPTS)
        assert not ledger.is_healthy
    await until(lambda: ledger.is_healthy)  # by itself
    await ledger.flush()
    assert (await count(hasty), rejected(tmp_path / "journal"), ledger.rejected) == (301, 0, 0)
    await ledger.close()


async def test_attempts_become_fewer_while_they_fail(tmp_path: Path, hasty: Database) -> None:
    attempts = 0
    ledger = ledger_in(tmp_path / "journal", hasty)

    async def work() -> None:
        nonlocal attempts
        attempts += 1
        raise StoreUnavailable

    task = asyncio.create_task(ledger._repeat(work, INTERVAL, asyncio.Event()))
    await asyncio.sleep(SEVERAL_ATTEMPTS)
    task.cancel()
    assert 3 <= attempts <= 6


@pytest.mark.parametrize("how", ["constraint", "trigger"])
async def test_a_row_that_the_database_refuses_holds_up_no_other(
    tmp_path: Path, database: Database, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = ledger_in(tmp_path / "journal", database)
    await ledger.start()
    async with refusing(database, "req_7", how):
        for number in range(100):
            ledger.append(record(f"req_{number}", 1))
        await ledger.flush()
    assert (await count(database), rejected(tmp_path / "journal"), ledger.rejected) == (99, 1, 1)
    assert "refuses the ledger row of req_7" in caplog.text
    assert ledger.is_healthy
    await ledger.close()


async def test_a_value_that_a_column_cannot_hold_is_its_row_s_own_fault(tmp_path: Path, database: Database) -> None:
    """Said by the driver, before the database sees anything."""
    ledger = ledger_in(tmp_path / "journal", database)
    await ledger.start()
    odd = rows_of(record("req_odd", 1))[0]
    await ledger._insert([rows_of(record("req_1", 1))[0], (*odd[:-2], 2**70, None), rows_of(record("req_2", 1))[0]])
    assert (await count(database), ledger.rejected) == (2, 1)
    await ledger.close()


async def test_the_next_start_tries_refused_rows_again(tmp_path: Path, database: Database) -> None:
    """Once more in vain, then with success; a line that is none is kept for a person."""
    folder = tmp_path / "journal"
    async with refusing(database, "req_7"):
        for number in range(2):
            ledger = ledger_in(folder, database)
            await ledger.start()
            if number == 0:
                ledger.append(record("req_7", 5, attempts=2))
            await ledger.flush()
            assert ledger.rejected == 2
            await ledger.close()
            assert rejected(folder) == 2
    (path,) = folder.glob("rejected-*.jsonl")
    path.write_bytes(path.read_bytes() + b'["torn')
    after = ledger_in(folder, database)
    await after.start()
    await after.flush()
    async with database.read() as connection:
        costs = (await connection.execute(select(table.c.cost).order_by(table.c.attempt))).scalars().all()
    assert costs == [1, 5]
    await after.close()
    assert [path.name for path in folder.iterdir()] == [path.with_suffix(".damaged").name]


async def test_refused_rows_are_read_by_one_process_and_written_whole(tmp_path: Path) -> None:
    kept = Rejected(tmp_path, "1-a")
    await kept.add([1])
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes() + b"[2")  # as a full disk leaves it
    await kept.add([2])
    found = rejected_in(tmp_path)
    assert next(found) == [[1], [2]]
    assert [*rejected_in(tmp_path)] == []
    adding = asyncio.create_task(kept.add([3]))  # waits for the reader, then begins a new file
    await asyncio.sleep(0.05)
    assert not adding.done()
    assert [*found] == []
    await adding
    assert [*rejected_in(tmp_path)] == [[[3]]]
