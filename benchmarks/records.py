"""The records at full size: a million keys looked up, a hundred thousand stored completions paged through under writes.

make records
"""

import asyncio
import random
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson
from pydantic import SecretStr

from config.schema import Config
from config.schema import Database as Options
from gateway.records.cache import KeyCache
from gateway.records.database import Database
from gateway.records.keys import KeyStore, Peppers, generate
from gateway.records.stored import StoredCompletions
from gateway.records.stored_shapes import Page

KEYS, LOOKED_UP = 1_000_000, 2_000
COMPLETIONS = 100_000
OWNER = "k:default/bench"
CACHED_MS, UNCACHED_MS, PAGE_MS = 0.2, 5.0, 50.0


def p99(seconds: list[float]) -> float:
    """Milliseconds."""
    return sorted(seconds)[int(len(seconds) * 0.99)] * 1000


def fill_keys(file: Path, peppers: Peppers) -> list[str]:
    """A million rows; only some of them are of keys that anybody knows."""
    known = {n: generate() for n in random.sample(range(KEYS), LOOKED_UP)}
    with sqlite3.connect(file) as connection:
        connection.executemany(
            "INSERT INTO keys (id, name, organization, preview, settings, blocked, created, updated) VALUES (?, ?, ?, ?, ?, 0, 0, 0)",
            ((f"key_{n:012}", f"k{n}", "default", "sk-sl-...", "{}") for n in range(KEYS)),
        )
        connection.executemany(
            "INSERT INTO key_digests (digest, key_id, created) VALUES (?, ?, 0)",
            (
                (peppers.digest(known[n]) if n in known else f"hmac:{random.randbytes(36).hex()}", f"key_{n:012}")
                for n in range(KEYS)
            ),
        )
    return list(known.values())


def fill_completions(file: Path) -> None:
    """Forty of them share each second, as under load."""
    now = time.time()
    body = {"object": "chat.completion", "model": "m", "metadata": {}, "choices": [], "usage": {}, "text": "x" * 1500}
    with sqlite3.connect(file) as connection:
        connection.executemany(
            "INSERT INTO stored_completions (owner, id, created, model, expires, removed, body, messages) VALUES (?, ?, ?, 'm', ?, 0, ?, ?)",
            (
                (
                    OWNER,
                    f"c{n}",
                    int(now) - (COMPLETIONS - n) // 40,
                    now + 86_400,
                    b"\x00" + orjson.dumps({**body, "id": f"c{n}"}),
                    b"\x00[]",
                )
                for n in range(COMPLETIONS)
            ),
        )


async def look_up(database: Database, peppers: Peppers, known: list[str]) -> bool:
    cache = KeyCache(database, KeyStore(database, Config()), peppers)
    await cache.start()
    await cache.principal(known[0])  # the connection
    times: dict[str, list[float]] = {"not cached": [], "cached": []}
    for state, found in times.items():
        for key in known[1:]:
            began = time.perf_counter()
            assert await cache.principal(key) is not None
            found.append(time.perf_counter() - began)
        print(f"{KEYS:,} keys, {state}: median {sorted(found)[len(found) // 2] * 1000:.3f} ms, p99 {p99(found):.3f} ms")
    await cache.close()
    return p99(times["not cached"]) < UNCACHED_MS and p99(times["cached"]) < CACHED_MS


async def page_through(database: Database) -> bool:
    store = StoredCompletions(database)
    deleted: set[str] = set()
    stop = asyncio.Event()

    async def churn() -> None:
        dice, number = random.Random(7), 0
        while not stop.is_set():
            number += 1
            completion: dict[str, Any] = {
                "id": f"new{number}",
                "model": "m",
                "created": int(time.time()),
                "choices": [],
            }
            await store.create(OWNER, {"messages": []}, completion)
            victim = f"c{dice.randrange(COMPLETIONS)}"
            if victim not in deleted:
                deleted.add(victim)
                await store.delete(OWNER, victim)
            await asyncio.sleep(0.005)

    task = asyncio.create_task(churn())
    seen: list[str] = []
    times: list[float] = []
    after, more = None, True
    while more:
        began = time.perf_counter()
        page = await store.list(OWNER, Page(after=after, limit=100))
        times.append(time.perf_counter() - began)
        seen += [item["id"] for item in page["data"]]
        after, more = page["last_id"], page["has_more"] and len(seen) < 2 * COMPLETIONS
    stop.set()
    await task
    twice = len(seen) - len(set(seen))
    skipped = {f"c{n}" for n in range(COMPLETIONS)} - deleted - set(seen)
    print(
        f"{COMPLETIONS:,} completions in {len(times):,} pages: p99 {p99(times):.1f} ms, {twice} twice, {len(skipped)} skipped, {len(deleted)} deleted meanwhile"
    )
    return p99(times) < PAGE_MS and not twice and not skipped


async def main() -> int:
    with tempfile.TemporaryDirectory(prefix="sluice-records-") as folder:
        file = Path(folder) / "records.db"
        database, peppers = Database(Options(url=SecretStr(f"sqlite:///{file}"))), Peppers(["p" * 32])
        await database.upgrade()
        known = fill_keys(file, peppers)
        fill_completions(file)
        good = [await look_up(database, peppers, known), await page_through(database)]
        await database.close()
    return 0 if all(good) else 1


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
