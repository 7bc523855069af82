"""
SQLAlchemy's Core for coroutines: connections and transactions whose every step is waited for.

``sqlalchemy.ext.asyncio`` does the same, in the same way, but imports the ORM, of which nothing is used here: 6 MB in every worker.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from sqlalchemy import Connection as CoreConnection
from sqlalchemy import CursorResult, Engine, Executable, ScalarResult, create_engine
from sqlalchemy.engine import URL
from sqlalchemy.util import greenlet_spawn

T = TypeVar("T")


class Connection:
    """A connection; each method is SQLAlchemy's of that name."""

    def __init__(self, core: CoreConnection) -> None:
        self._core = core

    async def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[Any]:
        return await greenlet_spawn(self._core.execute, statement, parameters)

    async def scalar(self, statement: Executable, parameters: Any = None) -> Any:
        return await greenlet_spawn(self._core.scalar, statement, parameters)

    async def scalars(self, statement: Executable, parameters: Any = None) -> ScalarResult[Any]:
        return await greenlet_spawn(self._core.scalars, statement, parameters)

    async def exec_driver_sql(self, statement: str, parameters: Any = None) -> CursorResult[Any]:
        return await greenlet_spawn(self._core.exec_driver_sql, statement, parameters)

    async def run_sync(self, work: Callable[[CoreConnection], T]) -> T:
        """What ``work`` gives for SQLAlchemy's own connection."""
        return await greenlet_spawn(work, self._core)

    async def driver_connection(self) -> Any:
        """The driver's own connection."""
        pooled = await greenlet_spawn(getattr, self._core, "connection")
        return pooled.driver_connection


def made(url: URL, **options: Any) -> Engine:
    """An engine whose driver, which the URL names, is one of asyncio's."""
    engine = create_engine(url, **options)
    assert engine.dialect.is_async, "its connections are waited for"
    return engine


@contextlib.asynccontextmanager
async def connected(engine: Engine) -> AsyncIterator[Connection]:
    """A connection for the block; what it did not commit is rolled back."""
    core = await greenlet_spawn(engine.connect)
    try:
        yield Connection(core)
    finally:
        await _whole(greenlet_spawn(core.close))


@contextlib.asynccontextmanager
async def begun(engine: Engine) -> AsyncIterator[Connection]:
    """A transaction: committed at the end of the block, rolled back by an exception."""
    async with connected(engine) as connection:
        transaction = await connection.run_sync(CoreConnection.begin)
        try:
            yield connection
        except BaseException as error:
            await greenlet_spawn(transaction.__exit__, type(error), error, error.__traceback__)
            raise
        await greenlet_spawn(transaction.__exit__, None, None, None)


async def _whole(work: Coroutine[Any, Any, None]) -> None:
    """Do it to its end, whoever is cancelled meanwhile: a connection half given back would be lost to the pool."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def closed(engine: Engine) -> None:
    """Close the connections that nobody uses."""
    await greenlet_spawn(engine.dispose)
