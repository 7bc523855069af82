"""Many rows into one table in one transaction: past SQLAlchemy, whose price per row is that of SQLite's own work."""

import re
import sqlite3
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from itertools import chain
from typing import Any, TypeAlias

from sqlalchemy import Table, exc

from ..errors import StoreUnavailable
from .database import Database

Row: TypeAlias = Sequence[Any]

_OF_A_ROW = (
    *(exc.IntegrityError, exc.DataError, sqlite3.IntegrityError, sqlite3.DataError),
    *(OverflowError, UnicodeError),  # of the drivers themselves, before the database sees anything
)
"""What is said of a row and its values. All else may hold for every row: a full disk, a lock, a standby, a missing table."""
_CLASSES_OF_A_ROW = ("22", "23", "44", "54", "P0")
"""PostgreSQL's classes of the same: data, constraints, check options, limits of a program (as of the size of an index
entry), what a trigger of the operator's own raises. https://www.postgresql.org/docs/16/errcodes-appendix.html"""
_AT_ONCE = (400, 50)
"""Rows of one INSERT, as many as there are: SQLite's driver hands the interpreter over at every statement. Their values
stay below the 32,766 that SQLite takes."""


class RowRefused(Exception):
    """The database refuses one of the rows for what is in it, and would again."""


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
        """Insert all or none; raises RowRefused where a row is at fault, StoreUnavailable where rows may be in time."""
        try:
            await self._insert(rows)
        except _OF_A_ROW as error:
            raise RowRefused from error
        except (exc.DBAPIError, sqlite3.Error) as error:
            raise StoreUnavailable("The records database takes no rows.", code="records_unavailable") from error
        except StoreUnavailable as error:
            if _is_of_a_row(error.__cause__):
                raise RowRefused from error
            raise

    async def _insert(self, rows: Sequence[Row]) -> None:
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


def _is_of_a_row(error: BaseException | None) -> bool:
    """Whether PostgreSQL or its driver says so: SQLAlchemy has no class of its own for most of what these say."""
    said = getattr(error, "orig", None)
    state = getattr(said, "sqlstate", None)
    if state is None:
        return isinstance(getattr(said, "__cause__", None), ValueError)  # asyncpg's, of a value that it cannot send
    return str(state)[:2] in _CLASSES_OF_A_ROW
