"""What happens once a minute."""

import asyncio
import gc
import sqlite3
import time
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy import ClauseElement, insert, text

from config.schema import Database as DatabaseOptions
from config.schema import Ledger as LedgerOptions
from gateway.records.database import Database
from gateway.records.housekeeping import Housekeeper
from gateway.records.ledger import Ledger
from gateway.records.stored import StoredCompletions
from gateway.records.tables import changes
from gateway.records.usage import UsageStore

from .ledger_writer import record


async def test_a_round_rolls_up_retires_sweeps_and_forgets(database: Database, tmp_path: Path) -> None:
    ledger = Ledger(database, LedgerOptions(journal=str(tmp_path / "journal")), sql_interval=60)
    await ledger.start()
    for n in range(20):
        await ledger.append(record(f"req_{n}", 5))  # of January 2027
    await ledger.flush()
    now = 1_800_000_000.0 + 40 * 86_400
    async with database.write() as connection:
        for at in (now - 7200, now - 60):
            await connection.execute(insert(changes).values(kind="key", target="k", at=at))
    usage = UsageStore(database, clock=lambda: now)
    keeper = Housekeeper(
        database, usage, StoredCompletions(database), retention_days=30, interval=0.05, clock=lambda: now
    )
    await keeper.start()
    began = time.monotonic()
    while time.monotonic() - began < 5:
        async with database.read() as connection:
            rows = await connection.scalar(text("SELECT count(*) FROM ledger"))
            kept = await connection.scalar(text("SELECT count(*) FROM changes"))
        if rows == 0 and kept == 1:
            break
        await asyncio.sleep(0.05)
    assert (rows, kept) == (0, 1)
    assert await usage.spent("organization", "acme") == 100
    await keeper.close()
    await ledger.close()


async def test_a_round_leaves_nothing_to_the_garbage_collector(database: Database, tmp_path: Path) -> None:
    """Though nothing else makes it look: that takes 50,000 new objects, an hour's worth of rounds."""
    ledger = Ledger(database, LedgerOptions(journal=str(tmp_path / "journal")), sql_interval=60)
    await ledger.start()
    rounds: list[str] = []
    over = asyncio.Event()

    class Three(Housekeeper):
        async def round(self) -> None:
            rounds.append(f"req_{len(rounds)}")
            await ledger.append(record(rounds[-1], 5))
            await ledger.flush()
            await super().round()
            if len(rounds) == 3:  # the first round's statements are kept, compiled
                over.set()

    keeper = Three(database, UsageStore(database), interval=0.05)
    gc.collect()
    gc.disable()
    try:
        await keeper.start()
        await asyncio.wait_for(over.wait(), 20)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [thing for thing in gc.garbage if isinstance(thing, ClauseElement)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not left
    await keeper.close()
    await ledger.close()


async def test_one_that_is_closed_in_the_middle_of_a_round_leaves_no_lock_behind(tmp_path: Path) -> None:
    """SQLite has one writer: a transaction that was cancelled half-way would keep the next one waiting for its time-out."""
    database = Database(DatabaseOptions(url=SecretStr(f"sqlite:///{tmp_path}/one.db")))
    await database.upgrade()

    def write(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO changes (kind, target, at) VALUES ('key', 'k', 0)")

    slowest = 0.0
    for turns in range(120):
        keeper = Housekeeper(database, UsageStore(database), StoredCompletions(database))
        await keeper.start()
        await asyncio.sleep(turns * 0.0001)
        began = time.monotonic()
        await keeper.close()
        await database.write_at_once(write)
        slowest = max(slowest, time.monotonic() - began)
        if slowest > 2:
            break
    await database.close()
    assert slowest < 2


async def test_one_that_waits_for_its_next_round_is_closed_at_once(database: Database) -> None:
    keeper = Housekeeper(database, UsageStore(database))
    await keeper.start()
    await asyncio.sleep(0.2)
    began = time.monotonic()
    await keeper.close()
    assert time.monotonic() - began < 1
