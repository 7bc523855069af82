"""Many rows into one table in one transaction: past SQLAlchemy, whose price per row is that of SQLite's own work."""

import re
import sqlite3
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from itertools import chain
from typing import Any, TypeAlias

from sqlalchemy import Table, exc

from .database import Database

Row: TypeAlias = Sequence[Any]

REFUSED = (exc.DBAPIError, sqlite3.Error)
"""What a database says of a row that it will not have."""
_AT_ONCE = (400, 50)
"""Rows of one INSERT, as many as there are: SQLite's driver hands the interpreter over at every statement. Their values
stay below the 32,766 that SQLite takes."""


class BulkInsert:
    """Rows that are there already, by ``identity``, stay as they are.

    ``lock`` is held, shared, while rows go in. ``form`` makes of rows what the columns hold; in a thread, for SQLite.
    """

    def __init__(
        self,
        database: Database,
        table: Table,
        columns: Sequence[str],
        identity: Sequence[str],
        lock: int,
        form: Callable[[Sequence[Row]], Sequence[Row]],
    ) -> None:
        self._database = database
        self._table = table
        self._columns = columns
        self._identity = identity
        self._lock = lock
        self._form = form

    async def insert(self, rows: Sequence[Row]) -> None:
        """Insert all or none; raises StoreUnavailable, or one of REFUSED where a row is at fault."""
        if self._database.is_sqlite:
            await self._database.write_at_once(partial(self._into_sqlite, rows))
            return
        async with self._database.write() as connection:
            await self._database.lock(connection, self._lock, shared=True)
            await connection.exec_driver_sql(self._statements[1], [*map(tuple, self._form(rows))])

    def _into_sqlite(self, rows: Sequence[Row], connection: sqlite3.Connection) -> None:
        start = 0
        for size in (*_AT_ONCE, 1):
            statement = self._statements[size]
            while len(rows) - start >= size:
                values = chain.from_iterable(self._form(rows[start : start + size]))
                connection.execute(statement, tuple(values))
                start += size

    @cached_property
    def _statements(self) -> dict[int, str]:
        """INSERTs as the driver takes them, by their number of rows; of several rows for SQLite alone."""
        statement = self._database.insert(self._table).on_conflict_do_nothing(index_elements=self._identity)
        single = str(statement.compile(dialect=self._database.dialect, column_keys=list(self._columns)))
        head, values, rest = re.split(r"VALUES (\(.*?\))", single, maxsplit=1)
        return {1: single, **{size: f"{head}VALUES {', '.join([values] * size)}{rest}" for size in _AT_ONCE}}
