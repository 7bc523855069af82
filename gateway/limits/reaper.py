"""Settles what dead workers held: slots are freed, money stays charged (at the last checkpoint) and is reported.

Any number of reapers may race: the script settles each reservation once, and none of a worker that is alive.
"""

import random
from collections.abc import Iterator

from .amounts import NOTHING
from .batch import ALIVE, CHARGE, REBORN, Batch, Reply, Settle, read_record
from .dispatcher import MAX_ENTRIES, Dispatcher
from .engine import Broken, Orphan, Slow, StoreDown
from .rules import LimitSet
from .store import Store


async def reap(counters: Dispatcher, store: Store) -> list[Orphan]:
    """Settle what workers held whose lease is over. Raises StoreDown."""
    if not counters.generations.now:
        return []
    expired = await store.command("ZRANGEBYSCORE", counters.keys[1], "-inf", counters.redis_now())
    dead = [name.decode() for name in expired if name.decode() != counters.process]
    random.shuffle(dead)  # several reapers begin at different ends
    orphans: list[Orphan] = []
    for name in dead:
        orphans += await _reap(counters, store, name)
    return orphans


async def _reap(counters: Dispatcher, store: Store, process: str) -> list[Orphan]:
    key = f"{counters.prefix}rsv:{process}"
    found: list[Orphan] = []
    cursor = 0
    while True:
        cursor, records = await store.command("HSCAN", key, cursor, "COUNT", 100)
        orphans = [orphan(rid.decode(), record, counters.shard) for rid, record in records.items() if rid != b"#"]
        for part in in_parts(orphans):
            settled = await _settle(counters, store, process, key, part)
            if settled is None:
                return found
            found += settled
        if not cursor:
            if not orphans:  # nothing was left of it, but its name
                await _settle(counters, store, process, key, [])
            return found


async def _settle(
    counters: Dispatcher, store: Store, process: str, key: str, orphans: list[Orphan]
) -> list[Orphan] | None:
    """Settle some; gives those that nobody else settled first, or None when the worker turned out to be alive."""
    batch = Batch(counters.prefix, [*counters.keys[:3], key])
    batch.settles = [Settle(o.rid, o.limits, NOTHING, o.at, CHARGE) for o in orphans]
    try:
        raw = await store.reserve(batch.keys, [counters.generations.now, "", 0, 0, 0, *batch.tables(), process])
    except (Slow, Broken) as e:
        raise StoreDown("the counters do not answer") from e
    if raw[0] == ALIVE:
        return None
    if raw[0] == REBORN:
        raise StoreDown("the counters are of another generation")
    settled = Reply(batch, raw).settled
    return [orphan for orphan, done in zip(orphans, settled, strict=True) if done]


def in_parts(orphans: list[Orphan]) -> Iterator[list[Orphan]]:
    for first in range(0, len(orphans), MAX_ENTRIES):
        yield orphans[first : first + MAX_ENTRIES]


def orphan(rid: str, record: bytes, shard: str) -> Orphan:
    """Read a reservation as its worker left it."""
    at, charged, limits = read_record(record)
    return Orphan(rid, LimitSet(shard, limits), charged, at)
