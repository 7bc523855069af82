"""The few fixtures that most tests share."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import cast

import pytest
import redis
from pydantic import SecretStr
from sqlalchemy import text

from config.schema import Database as DatabaseOptions
from gateway.records.database import Database
from gateway.records.tables import metadata

from .running import empty_database
from .servers import RedisServer, postgres

# Their assertions tell their values, too.
pytest.register_assert_rewrite("tests.acceptance_limits", "tests.contract", "tests.replay", "tests.replicas")

FIRST = ("audit_head", "ledger_rollup")
"""Tables that are never empty."""
RESET = f"""DO $$ DECLARE name text; BEGIN
{" ".join(f'DELETE FROM "{table.name}";' for table in reversed(metadata.sorted_tables) if table.name not in FIRST)}
FOR name IN SELECT quote_ident(sequencename) FROM pg_sequences WHERE last_value IS NOT NULL
LOOP EXECUTE 'ALTER SEQUENCE ' || name || ' RESTART'; END LOOP;
UPDATE audit_head SET seq = 0, hash = repeat('0', 64); UPDATE ledger_rollup SET through = 0;
END $$"""
"""PostgreSQL's TRUNCATE makes each file anew, which takes five times as long."""
Loops = Mapping[str, Callable[[], asyncio.AbstractEventLoop]]


def pytest_asyncio_loop_factories(item: pytest.Function) -> Loops:
    """A module that names ``LOOPS`` has its tests run on each of them."""
    loops: Loops = getattr(cast("ModuleType", item.module), "LOOPS", {"asyncio": asyncio.new_event_loop})
    return loops


@pytest.fixture(scope="session")
def session_redis() -> Iterator[RedisServer]:
    """One Redis for the session."""
    server = RedisServer()
    yield server
    server.stop()


@pytest.fixture
def redis_server(session_redis: RedisServer) -> RedisServer:
    """The session's Redis, empty, also when a test runs again."""
    redis.Redis(port=session_redis.port).flushall()
    return session_redis


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """One PostgreSQL for the session."""
    with postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of either database; PostgreSQL's may hold tables already."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/records.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """An empty, migrated database: each test that takes it runs on SQLite and on PostgreSQL."""
    if database_url.startswith("sqlite"):
        Path(database_url.removeprefix("sqlite:///")).write_bytes(await empty_database())
    database = Database(DatabaseOptions(url=SecretStr(database_url)))
    await database.upgrade()
    if not database.is_sqlite:
        async with database.write() as connection:
            await connection.execute(text(RESET))
    yield database
    await database.close()
