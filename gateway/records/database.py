"""One engine for SQLite and PostgreSQL: transactions that end in time, and the schema's migrations."""

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

from sqlalchemy import Connection as CoreConnection
from sqlalchemy import Engine, Insert, Select, Table, event, exc, inspect, text
from sqlalchemy.engine import URL, make_url

from config.schema import Database as Options

from ..errors import StoreUnavailable
from .direct import SQLiteThread, direct
from .engine import Connection, begun, closed, connected, made

T = TypeVar("T")
_MIGRATIONS = Path(__file__).with_name("migrations")
_MIGRATION_LOCK = 0x51_1C_E0
_WRITER_CACHE = 8_192
"""KiB of pages that the connection keeps which writes rows: each goes into six indexes, at places far apart."""
_READER_CACHE = 512
"""KiB of pages that each other connection keeps: what they read is read once, or the kernel has it."""
_SLOW_SECONDS = 60.0
"""For migrations, roll-ups and the like."""
_OF_LIBPQ = frozenset(
    {
        "sslmode",
        "sslrootcert",
        "sslcert",
        "sslkey",
        "sslcrl",
        "sslpassword",
        "sslnegotiation",
        "ssl_min_protocol_version",
    }
    | {"ssl_max_protocol_version", "target_session_attrs", "passfile", "application_name", "options", "search_path"}
)
"""Options that addresses of PostgreSQL have everywhere: asyncpg reads them in an address of its own form only."""
_OF_THE_DRIVER = frozenset({"host", "port", "ssl", "direct_tls", "prepared_statement_cache_size"})
_OUR_FAULT = (
    *(exc.IntegrityError, exc.ProgrammingError, exc.DataError),
    *(sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError),
)
"""What SQL says of the statement, not of the server: passed on as it is."""


class DatabaseError(Exception):
    """The database cannot be used as configured. The message is for the operator and holds no password."""


class Database:
    """Transactions on the records. ``timeout``, in seconds, bounds each of them whole, waiting for locks included.

    A server that is down, slow or full is StoreUnavailable (503); broken constraints are SQLAlchemy's own errors.
    """

    def __init__(self, options: Options | None = None, *, timeout: float = 10.0) -> None:
        options = options or Options()
        self._timeout = timeout
        self._url = _async_url(options.url.get_secret_value())
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        arguments: dict[str, Any] = {}
        if self.is_sqlite:
            self._engine = _sqlite_engine(self._url, options.pool_size, timeout)
        else:
            self._url, arguments = _postgres_arguments(self._url, timeout)
            self._engine = _postgres_engine(self._url, options.pool_size, timeout, arguments)
        self.direct = direct(self._url, self._engine.dialect, arguments, timeout)
        """For the few queries that a request waits for."""
        pragmas = (*_pragmas(timeout), "synchronous = FULL", f"cache_size = -{_WRITER_CACHE}")
        self._writer = SQLiteThread(self._url.database or "", timeout, pragmas, "records-writer")
        self._writers = self._engine.execution_options(sluice_write=True)
        # SQLite has one writer: queueing here is fair, its own busy handler is a lottery.
        self._turn: contextlib.AbstractAsyncContextManager[Any] = (
            asyncio.Lock() if self.is_sqlite else contextlib.nullcontext()
        )

    @property
    def dialect(self) -> Any:
        return self._engine.dialect

    async def ping(self) -> None:
        """Whether it answers; raises StoreUnavailable where it does not."""
        async with self.read() as connection:
            await connection.execute(text("SELECT 1"))

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[Connection]:
        """A connection for queries; nothing is committed."""
        with _translated():
            async with asyncio.timeout(self._timeout), connected(self._engine) as connection:
                yield connection

    async def scalars(self, statement: Select[tuple[T]]) -> Sequence[T]:
        """The one column that a query is for, of all its rows."""
        async with self.read() as connection:
            return (await connection.scalars(statement)).all()

    @contextlib.asynccontextmanager
    async def write(self, *, timeout: float | None = None) -> AsyncIterator[Connection]:
        """A transaction: committed at the end of the block, rolled back by an exception. ``timeout`` is for slow work."""
        with _translated():
            async with asyncio.timeout(timeout or self._timeout), self._turn, begun(self._writers) as connection:
                if timeout is not None and not self.is_sqlite:
                    await connection.execute(text(f"SET LOCAL statement_timeout = {int(timeout * 1000)}"))
                yield connection

    async def write_at_once(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """A transaction of SQLite, whole in one turn of a thread: a step of ``write`` takes one each.

        ``work`` must come to the same done twice: a timeout does not stop it. Broken constraints are sqlite3's own errors.
        """
        with _translated():
            async with asyncio.timeout(self._timeout), self._turn:
                await self._writer.run(partial(_transaction, work))

    async def lock(self, connection: Connection, number: int, *, shared: bool = False) -> None:
        """Hold an advisory lock to the end of the transaction; in SQLite every write transaction excludes the others."""
        if not self.is_sqlite:
            name = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
            await connection.execute(text(f"SELECT {name}(:number)"), {"number": number})

    def insert(self, table: Table) -> Any:
        """An INSERT that knows ``on_conflict_do_nothing`` and ``on_conflict_do_update`` in either dialect."""
        statement: Insert
        if self.is_sqlite:
            from sqlalchemy.dialects.sqlite import insert

            statement = insert(table)
        else:
            from sqlalchemy.dialects.postgresql import insert as pg_insert  # not for those who run on SQLite

            statement = pg_insert(table)
        return statement

    async def upgrade(self) -> None:
        """Bring the schema up to date. Any number of workers may call it at once: the first does it, the others wait."""
        async with self.write(timeout=max(_SLOW_SECONDS, self._timeout)) as connection:
            await self.lock(connection, _MIGRATION_LOCK)
            await connection.run_sync(_migrate)

    async def compact(self) -> None:
        """Empty SQLite's write-ahead log, which keeps deleted content until its pages are reused."""
        if self.is_sqlite:
            with _translated():
                async with asyncio.timeout(self._timeout), self._turn, connected(self._engine) as connection:
                    # SQLAlchemy would begin a transaction, which blocks it.
                    driver = await connection.driver_connection()
                    await (await driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")).close()

    async def current(self) -> bool:
        """Whether the schema is the one this version expects."""
        async with self.read() as connection:
            return await connection.run_sync(_is_current)

    async def close(self) -> None:
        await self.direct.close()
        await self._writer.close()
        await closed(self._engine)


def _async_url(address: str) -> URL:
    try:
        url = make_url(address)
    except exc.ArgumentError:
        raise DatabaseError("database.url: not an address; write sqlite:///FILE or postgresql://...") from None
    backend = url.get_backend_name()
    if backend in {"postgres", "postgresql"}:
        return url.set(drivername="postgresql+asyncpg")
    if backend == "sqlite" and url.database and url.database != ":memory:":
        return url.set(drivername="sqlite+aiosqlite")
    raise DatabaseError("database.url: only sqlite:///FILE and postgresql://... are supported")


def _sqlite_engine(url: URL, pool_size: int, timeout: float) -> Engine:
    path = Path(url.database or "")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # digests and prompts are nobody else's to read
    except OSError as error:
        raise DatabaseError(f"database.url: {path} cannot be opened: {error.strerror}") from None
    engine = made(
        url, pool_size=pool_size, pool_timeout=timeout, hide_parameters=True, connect_args={"timeout": timeout}
    )

    @event.listens_for(engine, "connect")
    def _(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # transactions begin where SQLAlchemy says, not at the first INSERT
        cursor = connection.cursor()
        for pragma in (*_pragmas(timeout), f"cache_size = -{_READER_CACHE}"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _(connection: CoreConnection) -> None:
        # A transaction that reads first and writes later fails when another wrote between: writers lock at once.
        writes = connection.get_execution_options().get("sluice_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _pragmas(timeout: float) -> tuple[str, ...]:
    """What every connection to SQLite that writes is told first."""
    return (
        f"busy_timeout = {int(timeout * 1000)}",
        "journal_mode = WAL",
        "synchronous = NORMAL",  # a power cut may take the last of it; ledger rows, which it may not, are synced
        "foreign_keys = ON",
        "secure_delete = ON",  # a deleted completion is overwritten, not only unlinked
        "journal_size_limit = 67108864",
    )


def _transaction(work: Callable[[sqlite3.Connection], None], connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        work(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite itself ends it where the disk is full
            connection.execute("ROLLBACK")
        raise


def _postgres_engine(url: URL, pool_size: int, timeout: float, arguments: Mapping[str, Any]) -> Engine:
    try:
        import asyncpg  # noqa: F401 - only to say clearly that it is missing
    except ImportError:
        raise DatabaseError(
            "database.url: PostgreSQL needs the extra: pip install 'sluice-gateway[postgres]'"
        ) from None
    return made(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=timeout,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args=dict(arguments),
    )


def _postgres_arguments(url: URL, timeout: float) -> tuple[URL, dict[str, Any]]:
    """How asyncpg connects: the address, and what is beyond it. Raises DatabaseError for an option that nobody knows."""
    for name in url.query:
        if name not in _OF_LIBPQ | _OF_THE_DRIVER:
            known = ", ".join(sorted(_OF_LIBPQ | _OF_THE_DRIVER))
            raise DatabaseError(f"database.url: there is no option '{name}'; known: {known}")
    told = {name: value for name, value in url.query.items() if name in _OF_LIBPQ}
    return url.difference_update_query(told), {
        **({"dsn": f"postgresql://?{urlencode(told, doseq=True)}"} if told else {}),
        "timeout": min(5.0, timeout),
        "command_timeout": max(_SLOW_SECONDS, timeout),  # the server's own time limit below comes first
        "server_settings": {"statement_timeout": str(int(timeout * 1000)), "application_name": "sluice"},
    }


def explained(error: StoreUnavailable) -> str:
    """What an operator is told at the start: the server's own word too, or why it was not reached. It names no password."""
    cause = error.__cause__
    if (said := getattr(cause, "orig", None)) is not None:
        return f"{error.message} It says: {said}"
    return f"{error.message} ({cause})" if isinstance(cause, OSError) and str(cause) else error.message


def sql_text(value: str) -> str:
    """A text from outside, as both databases take it: PostgreSQL has neither NUL nor lone surrogates."""
    return value.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """The border at which what drivers raise becomes ours."""
    try:
        yield
    except _OUR_FAULT:
        raise
    except (exc.DBAPIError, exc.TimeoutError, sqlite3.Error, TimeoutError, OSError) as error:
        raise StoreUnavailable("The records database does not answer.", code="records_unavailable") from error


def _config(connection: CoreConnection) -> Any:
    from alembic.config import Config as AlembicConfig  # slow to import, and needed at start only

    config = AlembicConfig()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _migrate(connection: CoreConnection) -> None:
    if not _is_current(connection):
        if (found := _revision(connection)) is not None and found > head():
            raise DatabaseError(
                f"database.url: its schema ({found}) is newer than this version's ({head()}): use a newer Sluice"
            )
        if found is None and not inspect(connection).get_table_names():
            _create(connection)
            return
        from alembic import command

        command.upgrade(_config(connection), "head")


def _create(connection: CoreConnection) -> None:
    """The newest schema in an empty database, as its migrations would make it: without importing Alembic for it."""
    from .tables import FIRST_ROWS, metadata

    metadata.create_all(connection)
    for table, row in FIRST_ROWS:
        connection.execute(table.insert().values(row))
    connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
    connection.execute(text("INSERT INTO alembic_version (version_num) VALUES (:head)"), {"head": head()})


def head() -> str:
    """The newest revision. Files are named after their revisions, in their order, which is a line without branches."""
    return max(path.name for path in (_MIGRATIONS / "versions").glob("[0-9]*.py")).partition("_")[0]


def _is_current(connection: CoreConnection) -> bool:
    """Asked at every start, so without Alembic: importing it costs 10 MB and a tenth of a second."""
    return _revision(connection) == head()


def _revision(connection: CoreConnection) -> str | None:
    """What the schema is at; None before the first migration."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
