"""Single queries that a request waits for: prepared once, past SQLAlchemy, outside of transactions.

An authentication that no cache answers is one of them. Through the pool of the records it took five turns of a thread in
SQLite and as many round trips in PostgreSQL; here it is one of either.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeAlias, TypeVar

from sqlalchemy.engine import URL, Dialect

from ..errors import StoreUnavailable

Rows: TypeAlias = Sequence[Sequence[Any]]
T = TypeVar("T")

_CONNECTIONS = 4
"""Of PostgreSQL, at most; each look-up takes well below a millisecond."""
_IDLE_SECONDS = 300.0
_NOT_FOR_THE_DRIVER = ("prepared_statement_cache_size", "prepared_statement_name_func", "async_fallback")
"""Options in an address that are SQLAlchemy's own."""


class Direct(Protocol):
    """Runs queries of one SELECT; ``values`` in the order and form of the driver. Raises StoreUnavailable."""

    async def rows(self, sql: str, values: Sequence[Any]) -> Rows: ...

    async def close(self) -> None: ...


class SQLiteThread:
    """One connection in a thread of its own: whatever is done with it costs one turn of that thread."""

    def __init__(self, file: str, timeout: float, pragmas: Iterable[str], name: str) -> None:
        self._file = file
        self._timeout = timeout
        self._pragmas = tuple(pragmas)
        self._name = name
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What ``work`` gives for the connection, outside of transactions; raises what it raises."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix=self._name)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._do, work)

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._connection is None:
            self._connection = sqlite3.connect(self._file, timeout=self._timeout, isolation_level=None)
            for pragma in self._pragmas:
                self._connection.execute(f"PRAGMA {pragma}")
        return work(self._connection)

    def _let_go(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self._let_go)
            thread.shutdown()


class SQLiteDirect:
    """A connection that only reads: there is nothing that could hold it up."""

    def __init__(self, file: str, timeout: float) -> None:
        self._timeout = timeout
        self._thread = SQLiteThread(file, timeout, ("query_only = ON",), "records-direct")

    async def rows(self, sql: str, values: Sequence[Any]) -> Rows:
        try:
            async with asyncio.timeout(self._timeout):
                return await self._thread.run(lambda connection: connection.execute(sql, values).fetchall())
        except (sqlite3.Error, TimeoutError) as error:
            raise _unavailable() from error

    async def close(self) -> None:
        await self._thread.close()


class PostgresDirect:
    """A small pool of asyncpg's, which keeps statements prepared and tells closed connections without asking."""

    def __init__(self, arguments: Mapping[str, Any], timeout: float) -> None:
        self._arguments = arguments
        self._timeout = timeout
        self._pool: Any = None

    async def rows(self, sql: str, values: Sequence[Any]) -> Rows:
        import asyncpg

        broken: tuple[type[Exception], ...] = (
            *(asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError, asyncpg.CrashShutdownError),
            *(asyncpg.InterfaceError, asyncpg.InternalClientError, OSError),
        )
        try:
            async with asyncio.timeout(self._timeout):
                # After a restart of the server all connections may be dead: that is not worth a refusal.
                for _ in range(_CONNECTIONS):
                    with contextlib.suppress(*broken):
                        return await self._fetch(sql, values)
                return await self._fetch(sql, values)
        except (*broken, asyncpg.PostgresError, TimeoutError) as error:
            raise _unavailable() from error

    async def _fetch(self, sql: str, values: Sequence[Any]) -> Rows:
        if self._pool is None:
            self._pool = self._made()
        await self._pool  # opens nothing the second time
        async with self._pool.acquire() as connection:
            try:
                found: Rows = await connection.fetch(sql, *values)
            except BaseException:
                connection.terminate()  # nothing that failed or was cut off is used again
                raise
        return found

    def _made(self) -> Any:
        import asyncpg

        class Plain(asyncpg.Connection):  # type: ignore[misc] # asyncpg has no types
            """Queries outside of transactions leave nothing to reset."""

            def get_reset_query(self) -> str:
                return ""

        return asyncpg.create_pool(
            **self._arguments,
            connection_class=Plain,
            min_size=0,
            max_size=_CONNECTIONS,
            max_inactive_connection_lifetime=_IDLE_SECONDS,
        )

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.terminate()


def direct(url: URL, dialect: Dialect, connect: Mapping[str, Any], timeout: float) -> Direct:
    """For the database at ``url``; ``connect`` are the driver's arguments beyond the address. Opens nothing yet."""
    if url.get_backend_name() == "sqlite":
        return SQLiteDirect(url.database or "", timeout)
    _, arguments = dialect.create_connect_args(url)
    address = {name: value for name, value in arguments.items() if name not in _NOT_FOR_THE_DRIVER}
    if arguments.get("prepared_statement_cache_size") == 0:  # said for a pooler that hands each query to another server
        address["statement_cache_size"] = 0
    return PostgresDirect({**address, **connect}, timeout)


def _unavailable() -> StoreUnavailable:
    return StoreUnavailable("The records database does not answer.", code="records_unavailable")
