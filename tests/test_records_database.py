"""The database: migrations, time limits, what a missing server looks like."""

import asyncio
import sqlite3
import stat
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic import SecretStr
from sqlalchemy import Column, Connection, MetaData, String, Table, create_engine, select, text

from config.schema import Database as DatabaseOptions
from gateway.errors import StoreUnavailable
from gateway.records.database import Database, DatabaseError, _config, _migrate, explained, head
from gateway.records.digests import sha256_digest
from gateway.records.keys import KeyStore
from gateway.records.tables import (
    DIMENSIONS,
    FIRST_ROWS,
    LEDGER_FLAGS,
    LEDGER_NUMBERS,
    LEDGER_TEXTS,
    SUMS,
    ledger_daily,
    metadata,
)
from gateway.records.usage import Filter, UsageStore

VERSION = Table("alembic_version", MetaData(), Column("version_num", String))
MIGRATIONS = Path(__file__).parents[1] / "gateway" / "records" / "migrations"
OLD_ROW = {
    **dict.fromkeys(LEDGER_TEXTS, ""), **dict.fromkeys((*LEDGER_NUMBERS, *LEDGER_FLAGS), 0), "model": "m", "cost": 3,
}  # fmt: skip
"""Of the first schema, and the daily sums of a row like it."""
OLD_SUMS = {"day": 0, **dict.fromkeys(DIMENSIONS[:9], ""), **dict.fromkeys(SUMS, 0), "model": "m", "cost": 4}
UPGRADE = """
import asyncio, sys
from pydantic import SecretStr
from config.schema import Database as Options
from gateway.records.database import Database
async def main():
    database = Database(Options(url=SecretStr(sys.argv[1])))
    await database.upgrade()
    assert await database.current()
    await database.close()
asyncio.run(main())
"""


def options(url: str) -> DatabaseOptions:
    return DatabaseOptions(url=SecretStr(url))


def ours(name: str | None, kind: str, _: object) -> bool:
    """Other tests put tables of another product into the same PostgreSQL."""
    return kind != "table" or not (name or "").startswith("LiteLLM_")


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True, "include_name": ours})
    return list(compare_metadata(context, metadata))


def first_rows(connection: Connection) -> list[object]:
    return [connection.execute(select(table)).all() for table in (*(t for t, _ in FIRST_ROWS), VERSION)]


async def test_migrations_and_tables_agree(database_url: str) -> None:
    """A new database is made without them: it must be what they make."""
    database = Database(options(database_url))

    def migrated(connection: Connection) -> list[object]:
        _empty(connection)
        command.upgrade(_config(connection), "head")
        assert differences(connection) == []
        return first_rows(connection)

    def made(connection: Connection) -> list[object]:
        _empty(connection)
        _migrate(connection)
        assert differences(connection) == []
        return first_rows(connection)

    async with database.write(timeout=60) as connection:
        by_migrations = await connection.run_sync(migrated)
        assert await connection.run_sync(made) == by_migrations
    await database.close()


async def test_daily_sums_by_fallback_are_folded_by_going_back(database_url: str) -> None:
    database = Database(options(database_url))

    def back_and_forth(connection: Connection) -> None:
        connection.execute(ledger_daily.delete())
        for fallback in ("", "cheap"):
            connection.execute(ledger_daily.insert().values(**OLD_SUMS, fallback=fallback))
        command.downgrade(_config(connection), "0002")
        assert connection.scalars(text("SELECT cost FROM ledger_daily")).all() == [8]
        command.upgrade(_config(connection), "head")
        assert differences(connection) == []
        assert connection.scalars(select(ledger_daily.c.cost)).all() == [8]

    await database.upgrade()
    async with database.write(timeout=60) as connection:
        await connection.run_sync(back_and_forth)
    await database.close()


def _empty(connection: Connection) -> None:
    found = MetaData()
    found.reflect(connection, only=lambda name, _: ours(name, "table", None))
    found.drop_all(connection)


async def test_several_workers_may_migrate_at_once(database_url: str) -> None:
    """Each in its own process, on an empty database."""
    first = Database(options(database_url))
    if not first.is_sqlite:
        async with first.write() as connection:
            await connection.execute(text("DROP SCHEMA public CASCADE"))
            await connection.execute(text("CREATE SCHEMA public"))
    await first.close()
    workers = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", UPGRADE, database_url),
            cwd=Path(__file__).parents[1],
            stderr=asyncio.subprocess.PIPE,
        )
        for _ in range(4)
    ]
    for worker in workers:
        _, errors = await worker.communicate()
        assert worker.returncode == 0, errors.decode()


def test_the_head_told_without_alembic_is_alembics() -> None:
    config = AlembicConfig()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [head()]


async def test_an_old_schema_is_noticed(tmp_path: Path) -> None:
    database = Database(options(f"sqlite:///{tmp_path}/empty.db"))
    assert not await database.current()
    await database.upgrade()
    assert await database.current()
    await database.close()


async def test_an_older_schema_is_brought_up_with_what_is_in_it(tmp_path: Path) -> None:
    """From the first one on; and one of a newer version is left alone, in words for the operator."""
    file = tmp_path / "old.db"
    with sqlite3.connect(file) as connection:
        engine = create_engine(f"sqlite:///{file}")
        with engine.begin() as migrating:
            config = AlembicConfig()
            config.set_main_option("script_location", str(MIGRATIONS))
            config.attributes["connection"] = migrating
            command.upgrade(config, "0001")
        engine.dispose()
        connection.execute(
            "INSERT INTO keys (id, name, organization, preview, settings, blocked, created, updated) VALUES ('key_1', 'k', 'default', '', '{}', 0, 0, 0)"
        )
        connection.execute(
            "INSERT INTO key_digests (digest, key_id, created) VALUES (?, 'key_1', 0)", (sha256_digest("old"),)
        )
        connection.execute(
            "INSERT INTO stored_completions (seq, owner, id, created, model, expires, removed) VALUES (5, 'k', 'c', 77, 'm', 0, 0)"
        )
        connection.execute("INSERT INTO stored_metadata (seq, digest) VALUES (5, 'd')")
        for table, row in (("ledger", OLD_ROW), ("ledger_daily", OLD_SUMS)):
            names = ", ".join(f'"{name}"' for name in row)
            connection.execute(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(row))})", [*row.values()])
        connection.execute("INSERT OR REPLACE INTO ledger_rollup (id, through) VALUES (1, 0)")
    connection.close()
    database = Database(options(f"sqlite:///{file}"))
    assert not await database.current()
    await database.upgrade()
    async with database.read() as reading:
        assert await reading.scalar(text("SELECT created FROM stored_metadata")) == 77
    for _ in range(2):
        (borne,) = await UsageStore(database).report((), Filter(borne_by="m"))
        assert borne["cost"] == 7
        await UsageStore(database).roll_up()
    async with database.read() as reading:
        assert await reading.scalar(text("SELECT count(*) FROM ledger_daily")) == 1
    record = await KeyStore(database).lookup(sha256_digest("old"))
    assert record is not None
    assert record.id == "key_1"
    async with database.write() as writing:
        await writing.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseError, match="newer than this version"):
        await database.upgrade()
    await database.close()


async def test_the_sqlite_file_is_private_and_in_wal_mode(tmp_path: Path) -> None:
    database = Database(options(f"sqlite:///{tmp_path}/private.db"))
    await database.upgrade()
    async with database.read() as connection:
        assert await connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert await connection.scalar(text("PRAGMA synchronous")) == 1
        assert await connection.scalar(text("PRAGMA foreign_keys")) == 1
    levels: list[int] = []
    await database.write_at_once(lambda raw: levels.extend(raw.execute("PRAGMA synchronous").fetchone()))
    assert levels == [2]  # what the journal forgets a power cut must not take
    assert stat.S_IMODE((tmp_path / "private.db").stat().st_mode) == 0o600
    await database.close()


async def test_a_locked_database_answers_in_time(database_url: str) -> None:
    """A writer that holds its lock too long makes others fail with 503, not wait for ever."""
    holder, waiter = Database(options(database_url)), Database(options(database_url), timeout=0.3)
    await holder.upgrade()
    async with holder.write() as connection:
        await holder.lock(connection, 1)
        if not holder.is_sqlite:
            await connection.execute(text("LOCK TABLE audit_head"))
        with pytest.raises(StoreUnavailable) as caught:
            async with waiter.write() as other:
                await other.execute(text("UPDATE audit_head SET seq = seq"))
    assert caught.value.code == "records_unavailable"
    async with waiter.write() as other:
        await other.execute(text("UPDATE audit_head SET seq = seq"))
    await holder.close()
    await waiter.close()


async def test_slow_work_may_ask_for_more_time(postgres_url: str) -> None:
    database = Database(options(postgres_url), timeout=0.2)
    async with database.write(timeout=5) as connection:
        await connection.execute(text("SELECT pg_sleep(0.4)"))
    with pytest.raises(StoreUnavailable):
        async with database.write() as connection:
            await connection.execute(text("SELECT pg_sleep(5)"))
    await database.close()


async def test_neither_alembic_nor_an_orm_is_imported_to_start(tmp_path: Path) -> None:
    """Each would cost every worker 6 MB and more."""
    unwanted = 'assert not {"alembic", "sqlalchemy.orm"} & sys.modules.keys(), "imported"'
    for _ in range(2):  # a new database, and one that is there
        program = f"{UPGRADE}\n{unwanted}"
        started = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, f"sqlite:///{tmp_path}/lean.db"), cwd=MIGRATIONS.parents[2]
        )
        assert await started.wait() == 0


async def test_nothing_that_is_not_used_is_imported_to_serve() -> None:
    unwanted = {
        "aiohttp.web",
        "aiohttp.web_urldispatcher",
        "redis",
        "alembic",
        "sqlalchemy.orm",
        "asyncpg",
        "gateway.demo",
    }
    program = f"import sys, gateway.worker; assert not {unwanted!r} & sys.modules.keys()"
    started = await asyncio.create_subprocess_exec(sys.executable, "-c", program, cwd=MIGRATIONS.parents[2])
    assert await started.wait() == 0


async def test_a_failed_block_is_rolled_back(database: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        async with database.write() as connection:
            await connection.execute(text("UPDATE audit_head SET seq = 7"))
            raise ZeroDivisionError
    async with database.read() as connection:
        assert await connection.scalar(text("SELECT seq FROM audit_head")) == 0


@pytest.mark.parametrize(
    ("options_given", "path"),
    [("sslmode=prefer", '"$user", public'), ("sslmode=disable&search_path=other", "other"), ("prepared_statement_cache_size=0", '"$user", public')],
)  # fmt: skip
async def test_an_address_may_have_the_options_that_addresses_have(
    postgres_url: str, options_given: str, path: str
) -> None:
    database = Database(options(f"{postgres_url}{'&' if '?' in postgres_url else '?'}{options_given}"))
    async with database.read() as connection:
        assert await connection.scalar(text("SHOW search_path")) == path
    assert (await database.direct.rows("SHOW search_path", ()))[0][0] == path
    await database.close()


async def test_what_the_server_says_of_an_address_is_told(postgres_url: str) -> None:
    database = Database(options(postgres_url.replace("//postgres", "//nobody", 1)))
    with pytest.raises(StoreUnavailable) as caught:
        await database.upgrade()
    assert explained(caught.value) == 'The records database does not answer. It says: role "nobody" does not exist'
    await database.close()


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    database = Database(options("postgresql://sluice:SECRET@127.0.0.1:1/x"), timeout=1)
    with pytest.raises(StoreUnavailable) as caught:
        await database.upgrade()
    assert "SECRET" not in str(caught.value.to_openai())
    await database.close()


@pytest.mark.parametrize(
    "url",
    ["mysql://x/y", "nonsense", "postgresql://h/d?chanel_binding=require", "sqlite://", "sqlite:////proc/none/x.db"],
)
def test_an_unusable_address_is_named(url: str) -> None:
    with pytest.raises(DatabaseError, match=r"database\.url"):
        Database(options(url))


async def test_cancelled_transactions_leave_nothing_behind(database: Database) -> None:
    """Clients go away at any moment: no lock stays held, no connection is lost, nothing half-done is committed."""

    async def work(n: int) -> None:
        async with database.write() as connection:
            await connection.execute(text("UPDATE audit_head SET seq = seq + 1"))
            await connection.execute(text("UPDATE ledger_rollup SET through = through + 1"))
        async with database.read() as connection:
            await connection.execute(text("SELECT count(*) FROM ledger"))

    for n in range(30):
        tasks = [asyncio.create_task(work(n)) for _ in range(4)]
        await asyncio.sleep(n * 0.0004)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.gather(*(work(0) for _ in range(10)))
    async with database.read() as connection:
        head = await connection.scalar(text("SELECT seq FROM audit_head"))
        assert head == await connection.scalar(text("SELECT through FROM ledger_rollup"))
        assert head >= 10


async def test_a_gateway_that_may_not_migrate_says_that_it_is_needed(tmp_path: Path) -> None:
    from config import ConfigError

    from .running import running

    with pytest.raises(ConfigError, match="sluice db upgrade"):
        async with running({"m": "demo-echo"}, database={"migrate": False}):
            pass


async def test_a_gateway_without_its_database_says_so_in_a_sentence() -> None:
    from config import ConfigError

    from .running import running

    told = r"database\.url: The records database does not answer\. \(.*127\.0\.0\.1', 1\).*\)$"
    with pytest.raises(ConfigError, match=told) as caught:
        async with running({"m": "demo-echo"}, database={"url": "postgresql://x:hidden@127.0.0.1:1/x"}):
            pass
    assert "hidden" not in str(caught.value)


async def test_behind_a_pooler_nothing_is_kept_prepared(postgres_url: str) -> None:
    """As the documents say for pgbouncer; look-ups go on without."""
    joint = "&" if "?" in postgres_url else "?"
    database = Database(options(f"{postgres_url}{joint}prepared_statement_cache_size=0"))
    await database.upgrade()
    assert await KeyStore(database).lookup(sha256_digest("nobody")) is None
    prepared = "SELECT count(*) FROM pg_prepared_statements"
    assert [tuple(row) for row in await database.direct.rows(prepared, [])] == [(0,)]
    await database.close()
    usual = Database(options(postgres_url))
    await KeyStore(usual).lookup(sha256_digest("nobody"))
    ((kept,),) = [tuple(row) for row in await usual.direct.rows(prepared, [])]
    assert kept > 0
    await usual.close()
