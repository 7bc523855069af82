"""The records at full size, on SQLite and on PostgreSQL: keys looked up, completions paged through, usage summed.

make records
python -m benchmarks.records --only keys --databases sqlite
"""

import argparse
import asyncio
import contextlib
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
from pydantic import SecretStr
from sqlalchemy import text

from config.schema import Config
from config.schema import Database as Options
from gateway.records.cache import KeyCache
from gateway.records.database import Database
from gateway.records.digests import Peppers, generate
from gateway.records.keys import KeyStore
from gateway.records.stored import StoredCompletions
from gateway.records.stored_shapes import Page
from gateway.records.usage import Filter, UsageStore
from tests.servers import postgres

KEYS, LOOKED_UP = 1_000_000, 2_000
COMPLETIONS = 100_000
CHURN_SECONDS = 0.005
LEDGER_ROWS, LEDGER_DAYS, TEAMS = 10_000_000, 90, 50
OWNER = "k:default/bench"
CACHED_MS, UNCACHED_MS, PAGE_MS, REPORT_MS = 0.2, 5.0, 50.0, 1_000.0
PEPPERS = Peppers(["p" * 32])


def p99(seconds: list[float]) -> float:
    """Milliseconds."""
    return sorted(seconds)[int(len(seconds) * 0.99)] * 1000


def median(seconds: list[float]) -> float:
    return sorted(seconds)[len(seconds) // 2] * 1000


async def fill_keys(database: Database) -> list[str]:
    """A million rows; some of them are of keys that somebody knows."""
    known = {n: generate() for n in random.sample(range(KEYS), LOOKED_UP)}
    number = _series(database, KEYS)
    await _run(
        database,
        f"INSERT INTO keys (id, name, organization, preview, settings, blocked, created, updated) "
        f"SELECT 'key_' || n, 'k' || n, 'default', 'sk-sl-...', '{{}}', {'0' if database.is_sqlite else 'false'}, 0, 0 FROM {number}",
        # Real digests are spread over the whole index, so these are as well.
        f"INSERT INTO key_digests (digest, key_id, created) SELECT 'hmac:' || {_hash(database)} || n, 'key_' || n, 0 FROM {number}",
    )
    async with database.write(timeout=60) as connection:
        change = text("UPDATE key_digests SET digest = :digest WHERE key_id = :id")
        await connection.execute(change, [{"digest": PEPPERS.digest(k), "id": f"key_{n}"} for n, k in known.items()])
    await analyse(database)
    return list(known.values())


async def look_up(database: Database) -> bool:
    """Quiet, and while another connection writes in bursts."""
    known = await fill_keys(database)
    good = True
    for busy in (False, True):
        cache = KeyCache(database, KeyStore(database, Config()), PEPPERS)
        await cache.start()
        await cache.principal(known[0])  # the connection
        times: dict[str, list[float]] = {"not cached": [], "cached": []}
        async with _churned(_note(database) if busy else _nothing):
            for found in times.values():
                for key in known[1:]:
                    began = time.perf_counter()
                    assert await cache.principal(key) is not None
                    found.append(time.perf_counter() - began)
        await cache.close()
        for state, found in times.items():
            where = f"{KEYS:,} keys, {state}{', under writes' if busy else ''}"
            print(f"  {where}: median {median(found):.3f} ms, p99 {p99(found):.3f} ms", flush=True)
        good = good and p99(times["not cached"]) < UNCACHED_MS and p99(times["cached"]) < CACHED_MS
    return good


async def page_through(database: Database) -> bool:
    """A hundred thousand completions, forty to a second as under load, while others are kept and deleted."""
    now = int(time.time())
    body = {"object": "chat.completion", "model": "m", "metadata": {}, "choices": [], "usage": {}, "text": "x" * 1500}
    for start in range(0, COMPLETIONS, 10_000):
        rows = [
            {
                "id": f"c{n}",
                "created": now - (COMPLETIONS - n) // 40,
                "body": b"\0" + orjson.dumps({**body, "id": f"c{n}"}),
            }
            for n in range(start, start + 10_000)
        ]
        fixed = {"owner": OWNER, "expires": now + 86_400.0, "messages": b"\0[]", "removed": False}
        async with database.write(timeout=60) as connection:
            insert = text(
                "INSERT INTO stored_completions (owner, id, created, model, expires, removed, body, messages) "
                "VALUES (:owner, :id, :created, 'm', :expires, :removed, :body, :messages)"
            )
            await connection.execute(insert, [{**row, **fixed} for row in rows])
    await analyse(database)
    store = StoredCompletions(database)
    deleted: set[str] = set()
    dice = random.Random(7)

    async def churn() -> None:
        completion: dict[str, Any] = {
            "id": f"new{dice.random()}",
            "model": "m",
            "created": int(time.time()),
            "choices": [],
        }
        await store.create(OWNER, {"messages": []}, completion)
        victim = f"c{dice.randrange(COMPLETIONS)}"
        if victim not in deleted:
            deleted.add(victim)
            await store.delete(OWNER, victim)

    seen: list[str] = []
    times: list[float] = []
    after, more = None, True
    async with _churned(churn):
        while more:
            began = time.perf_counter()
            page = await store.list(OWNER, Page(after=after, limit=100))
            times.append(time.perf_counter() - began)
            seen += [item["id"] for item in page["data"]]
            after, more = page["last_id"], page["has_more"] and len(seen) < 2 * COMPLETIONS
    twice = len(seen) - len(set(seen))
    skipped = {f"c{n}" for n in range(COMPLETIONS)} - deleted - set(seen)
    print(
        f"  {COMPLETIONS:,} completions in {len(times):,} pages: median {median(times):.1f} ms, p99 {p99(times):.1f} ms, "
        f"{twice} twice, {len(skipped)} skipped, {len(deleted)} deleted meanwhile",
        flush=True,
    )
    found: list[float] = []
    for n in range(0, COMPLETIONS, COMPLETIONS // 50):
        if f"c{n}" not in deleted:
            await store.update(OWNER, f"c{n}", {"run": f"r{n}"})
            began = time.perf_counter()
            assert len((await store.list(OWNER, Page(metadata={"run": f"r{n}"})))["data"]) == 1
            found.append(time.perf_counter() - began)
    print(
        f"  the one completion with some metadata: median {median(found):.1f} ms, p99 {p99(found):.1f} ms", flush=True
    )
    return max(p99(times), p99(found)) < PAGE_MS and not twice and not skipped


async def sum_up(database: Database, rows: int) -> bool:
    """What ``sluice usage`` and the counters ask of a ledger of that size: rolled up but for the last rows."""
    now = int(time.time())
    await fill_ledger(database, rows, now)
    usage = UsageStore(database)
    began = time.perf_counter()
    rolled = 0
    while some := await usage.roll_up(limit=500_000):
        rolled += some
    print(f"  roll-up: {rolled:,} rows in {time.perf_counter() - began:.0f} s", flush=True)
    await fill_ledger(database, 2_000, now, first=rows)
    await analyse(database)
    month = now - 30 * 86_400
    asked: dict[str, Callable[[], Awaitable[Any]]] = {
        "usage --by team --since 30d": lambda: usage.report(("team",), Filter(month)),
        "usage --by team, from midnight on": lambda: usage.report(("team",), Filter(month // 86_400 * 86_400)),
        "usage --by day,model --team t7 --since 30d": lambda: usage.report(("day", "model"), Filter(month, team="t7")),
        "spent by a key this month": lambda: usage.spent("key", "k77", month // 86_400 * 86_400),
        "a page of a team's rows": lambda: usage.rows(Filter(month, team="t7"), limit=100),
    }
    good = True
    for name, ask in asked.items():
        times = []
        for _ in range(3):
            began = time.perf_counter()
            await ask()
            times.append(time.perf_counter() - began)
        print(f"  {rows:,} rows, {name}: {median(times):,.1f} ms", flush=True)
        good = good and median(times) < REPORT_MS
    return good


async def fill_ledger(database: Database, rows: int, now: int, first: int = 0) -> None:
    """Keys, teams and models of every day alike; a thousand keys in fifty teams."""
    columns = "request_id organization team user key tags model deployment provider upstream_model tier_requested tier_effective tier_sent tier_served status error code"
    numbers = "attempt day started duration http_status cost input output reasoning cache_read cache_write cache_write_1h audio_input audio_output"
    false, true = ("0", "1") if database.is_sqlite else ("false", "true")
    started = f"({now} - (({rows} - n) % {rows}) * ({LEDGER_DAYS} * 86400.0 / {rows}))" if not first else f"{now - 5}.0"
    texts = (
        f"'r' || (n + {first}), 'acme', 't' || (n % {TEAMS}), 'u' || (n % 500), 'k' || (n % 1000), '[]', 'm' || (n % 5), 'd', 'p', "
        "'um', '', 'default', 'default', 'default', 'ok', '', ''"
    )
    day = f"CAST({started} / 86400 AS BIGINT)"
    values = f"1, {day}, CAST({started} * 1000000 AS BIGINT), 900000, 200, 1000 + n % 977, 100, 20, 0, 0, 0, 0, 0, 0"
    names = ", ".join(f'"{name}"' for name in f"{columns} {numbers}".split())
    step = 500_000
    for begin in range(0, rows, step):
        series = _series(database, min(step, rows - begin), begin)
        await _run(
            database,
            f"INSERT INTO ledger ({names}, estimated, stream, final) SELECT {texts}, {values}, {false}, {false}, {true} FROM {series}",
        )


def _series(database: Database, count: int, begin: int = 0) -> str:
    if database.is_sqlite:
        numbers = f"WITH RECURSIVE s(n) AS (SELECT {begin} UNION ALL SELECT n + 1 FROM s WHERE n < {begin + count - 1}) SELECT n FROM s"
        return f"({numbers}) AS series"
    return f"generate_series({begin}, {begin + count - 1}) AS series(n)"


def _hash(database: Database) -> str:
    return "hex(randomblob(32))" if database.is_sqlite else "md5(n::text) || md5((n + 1)::text)"


async def _run(database: Database, *statements: str) -> None:
    for statement in statements:
        async with database.write(timeout=240) as connection:
            await connection.execute(text(statement))


async def analyse(database: Database) -> None:
    """What autovacuum does sooner or later."""
    if not database.is_sqlite:
        async with database.write(timeout=240) as connection:
            await connection.execute(text("ANALYZE"))


def _note(database: Database) -> Callable[[], Awaitable[None]]:
    async def note() -> None:
        async with database.write() as connection:
            statement = text("INSERT INTO changes (kind, target, at) VALUES ('x', 'y', :at)")
            await connection.execute(statement, [{"at": time.time()}] * 50)

    return note


async def _nothing() -> None: ...


@contextlib.asynccontextmanager
async def _churned(work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """``work`` goes on meanwhile."""
    stop = asyncio.Event()

    async def churn() -> None:
        while not stop.is_set():
            await work()
            await asyncio.sleep(CHURN_SECONDS)

    task = asyncio.create_task(churn())
    try:
        yield
    finally:
        stop.set()
        await task


async def measured(url: str, parts: Sequence[str], rows: int) -> bool:
    database = Database(Options(url=SecretStr(url)))
    await database.upgrade()
    work = {"keys": look_up, "completions": page_through, "ledger": lambda d: sum_up(d, rows)}
    good = [await work[part](database) for part in parts]
    await database.close()
    return all(good)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--databases", default="sqlite,postgres")
    parser.add_argument("--only", default="keys,completions,ledger")
    parser.add_argument("--rows", type=int, default=LEDGER_ROWS, help="rows of the ledger")
    given = parser.parse_args()
    good = True
    for kind in given.databases.split(","):
        print(kind)
        with contextlib.ExitStack() as stack:
            if kind == "sqlite":
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-records-"))
                url = f"sqlite:///{Path(folder) / 'records.db'}"
            else:
                url = stack.enter_context(postgres())
            good = asyncio.run(measured(url, given.only.split(","), given.rows)) and good
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
