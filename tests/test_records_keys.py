"""Virtual keys: form, digests, look-up, cache."""

import asyncio
import time
import zlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, text, update

from config.loader import parse
from config.schema import Config, Limits, Owner
from gateway.errors import InvalidRequest, StoreUnavailable
from gateway.records import digests as d
from gateway.records import keys as k
from gateway.records.cache import KeyCache
from gateway.records.database import Database
from gateway.records.digests import Peppers
from gateway.records.direct import Rows
from gateway.records.keys import KeySettings, KeyStore
from gateway.records.tables import changes, key_digests, keys, organizations, teams

PEPPER, OLD_PEPPER = "p" * 32, "o" * 32
PEPPERS = Peppers([PEPPER, OLD_PEPPER])


async def add_key(database: Database, digest: str, key_id: str = "key_1", **columns: Any) -> None:
    settings = columns.pop("settings", KeySettings())
    digest_expires = columns.pop("digest_expires", None)
    values = {"name": key_id, "organization": "default", "preview": "x", "blocked": False, "created": 0, "updated": 0}
    async with database.write() as connection:
        await connection.execute(
            insert(keys).values(id=key_id, settings=settings.model_dump_json(), **(values | columns))
        )
        await connection.execute(
            insert(key_digests).values(digest=digest, key_id=key_id, expires=digest_expires, created=0)
        )


@pytest.fixture
async def cache(database: Database) -> AsyncIterator[KeyCache]:
    cache = KeyCache(database, KeyStore(database), PEPPERS)
    await cache.start()
    yield cache
    await cache.close()


class Queries:
    """Counts the SELECTs on keys that really reach a database."""

    def __init__(self, database: Database) -> None:
        self.texts: list[str] = []
        self._database = database.direct
        database.direct = self

    async def rows(self, sql: str, values: Sequence[Any]) -> Rows:
        self.texts.append(sql)
        return await self._database.rows(sql, values)

    async def close(self) -> None:
        await self._database.close()


def test_S_01_keys_have_256_bits_and_a_checksum() -> None:
    made = {d.generate() for _ in range(2000)}
    assert len(made) == 2000
    assert all(d.is_well_formed(key) and d.PATTERN.fullmatch(key) and len(key) == 55 for key in made)
    bodies = "".join(key[6:49] for key in made)
    assert set(bodies) == set(d._ALPHABET)
    assert 62**d._BODY > 2**256 > 62 ** (d._BODY - 1)


@given(position=st.integers(6, 54), letter=st.sampled_from(d._ALPHABET))
def test_S_01_every_single_typing_error_is_found_offline(position: int, letter: str) -> None:
    key = d.generate()
    typed = key[:position] + letter + key[position + 1 :]
    assert d.is_well_formed(typed) == (typed == key)


@given(st.text(max_size=80) | st.from_regex(d.PATTERN, fullmatch=True))
def test_S_01_nothing_but_a_generated_key_is_well_formed(text: str) -> None:
    assert not d.is_well_formed(text) or text[-6:] == d._base62(zlib.crc32(text[:-6].encode()), 6)
    assert isinstance(PEPPERS.digests(text), tuple)


def test_S_02_digests_depend_on_key_and_pepper() -> None:
    key = d.generate()
    current = PEPPERS.digest(key)
    assert current.startswith("hmac:")
    assert current != Peppers([OLD_PEPPER]).digest(key) != Peppers([OLD_PEPPER]).digest(d.generate())
    assert PEPPERS.digests(key) == (current, Peppers([OLD_PEPPER]).digest(key), d.sha256_digest(key))
    with pytest.raises(InvalidRequest, match="pepper"):
        Peppers([]).digest(key)


async def test_S_03_one_parameterised_query_finds_a_key(database: Database) -> None:
    queries = Queries(database)
    key = d.generate()
    await add_key(database, PEPPERS.digest(key))
    queries.texts.clear()
    record = await KeyStore(database).lookup(*PEPPERS.digests(key))
    assert record is not None
    assert record.principal.key_id == "key_1"
    assert len(queries.texts) == 1
    assert "hmac" not in queries.texts[0]
    for hostile in ("' OR 1=1 --", "%", "x'; DROP TABLE keys; --", "\x00", "\udcff"):
        assert await KeyStore(database).lookup(*PEPPERS.digests(hostile)) is None


async def test_S_03_the_look_up_uses_indexes_only(database: Database) -> None:
    prefix = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
    query = k._lookup(["a", "b"]).compile(dialect=database.dialect, compile_kwargs={"literal_binds": True})
    async with database.read() as connection:
        if not database.is_sqlite:
            await connection.execute(text("SET LOCAL enable_seqscan = off"))
        plan = "\n".join(str(row) for row in (await connection.exec_driver_sql(prefix + str(query))).all())
    assert "SCAN key_digests" not in plan
    assert "Seq Scan" not in plan


async def test_a_key_brings_its_owners_narrowest_first(database: Database) -> None:
    settings = KeySettings(limits=Limits(rpm=5), tags=("a", "b"), metadata={"x": "key"}, aliases={"m": "fast"})
    async with database.write() as connection:
        await connection.execute(
            insert(teams).values(
                id="blue", organization="acme", blocked=False, created=0, updated=0,
                settings=Owner(tags=("b", "c"), metadata={"x": "team", "y": "1"}, store=False).model_dump_json(),
            )
        )  # fmt: skip
    await add_key(database, "sha256:1", organization="acme", team="blue", user="ann", settings=settings)
    config = Config.model_validate({"organizations": {"acme": {"models": ["fast"]}}})
    record = await KeyStore(database, config).lookup("sha256:1")
    assert record is not None
    principal = record.principal
    assert [owner.id for owner in principal.owners] == ["k:key_1", "t:blue", "o:acme"]
    assert principal.owners[0].limits.rpm == 5
    assert principal.owners[2].models == ("fast",)
    assert (principal.organization, principal.team, principal.user) == ("acme", "blue", "ann")
    assert principal.tags == ("a", "b", "c")
    assert principal.metadata == {"x": "key", "y": "1"}
    assert principal.aliases == {"m": "fast"}
    assert not principal.may_store
    again = await KeyStore(database, config).lookup("sha256:1")
    assert again == record
    other = await KeyStore(database, Config()).lookup("sha256:1")
    assert other is not None
    assert other.principal.version != principal.version


async def test_a_blocked_owner_blocks_its_keys(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(
            insert(organizations).values(id="default", blocked=True, settings="{}", created=0, updated=0)
        )
    await add_key(database, "sha256:1")
    record = await KeyStore(database).lookup("sha256:1")
    assert record is not None
    assert not record.is_usable(0)


def test_keys_of_the_config_file_need_no_database() -> None:
    config = parse("""
        teams: {blue: {limits: {rpm: 3}}}
        keys:
          - {name: one, key: "a-key-of-the-config-file", team: blue, expires: "2030-01-01T00:00:00Z"}
          - {name: two, digest: "sha256:%s", blocked: true}
    """ % ("0" * 64))  # fmt: skip
    records = k.configured(config)
    one, two = records[d.sha256_digest("a-key-of-the-config-file")], records["sha256:" + "0" * 64]
    assert [owner.id for owner in one.principal.owners] == ["k:one", "t:blue"]
    assert one.is_usable(1.8e9)
    assert not one.is_usable(1.9e9)
    assert not two.is_usable(0)


async def test_S_04_a_cached_key_needs_no_query(database: Database, cache: KeyCache) -> None:
    key = d.generate()
    await add_key(database, PEPPERS.digest(key))
    queries = Queries(database)
    for _ in range(5):
        principal = await cache.principal(key)
        assert principal is not None
    for _ in range(5):
        assert await cache.principal(d.generate()[:-1] + "?") is None
    assert len(queries.texts) == 1


async def test_S_04_what_is_told_at_once_is_what_a_look_up_tells(database: Database, cache: KeyCache) -> None:
    now = time.time()
    cache._clock = lambda: now
    good, ending = d.generate(), d.generate()
    await add_key(database, PEPPERS.digests(good)[0])
    await add_key(database, PEPPERS.digests(ending)[0], "key_2", expires=now + 5)
    await cache.poll()
    for key in (good, ending, d.generate(), "sk-of-nobody", "sk-sl-malformed", "sk-\udcff", "sk-sl-\udcff"):
        assert cache.cached(key) is None, "nobody has asked for it yet"
        found = await cache.principal(key)
        assert cache.cached(key) is found
    assert cache.cached(ending) is not None
    now += 6
    assert cache.cached(ending) is None
    now += 60
    assert cache.cached(good) is None, "entries run out"


async def test_S_04_keys_that_share_a_prefix_are_different_keys(database: Database, cache: KeyCache) -> None:
    ours = "prefix" * 8 + "1"
    await add_key(database, d.sha256_digest(ours))
    assert await cache.principal(ours) is not None
    assert await cache.principal("prefix" * 8 + "2") is None


async def test_S_04_unknown_keys_are_remembered_within_bounds(database: Database, cache: KeyCache) -> None:
    queries = Queries(database)
    unknown = d.generate()
    for _ in range(3):
        assert await cache.principal(unknown) is None
    assert len(queries.texts) == 1
    small = KeyCache(database, KeyStore(database), PEPPERS, size=10)
    for number in range(30):
        await add_key(database, d.sha256_digest(f"many-{number}"), f"key_{number}")
        assert await small.principal(f"many-{number}") is not None
    assert len(small._known) == 10


async def test_requests_for_one_key_share_one_look_up(database: Database, cache: KeyCache) -> None:
    """Also when the request that began it is cancelled."""
    key = d.generate()
    await add_key(database, PEPPERS.digest(key))
    queries = Queries(database)
    requests = [asyncio.create_task(cache.principal(key)) for _ in range(50)]
    await asyncio.sleep(0)
    requests[0].cancel()
    results = await asyncio.gather(*requests, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert all(result is not None and not isinstance(result, BaseException) for result in results[1:])
    assert len(queries.texts) == 1


async def test_many_keys_at_once_are_looked_up_at_once(database: Database, cache: KeyCache) -> None:
    """Also the very first ones, which find no connection yet."""
    made = [d.generate() for _ in range(100)]
    for number, key in enumerate(made):
        await add_key(database, PEPPERS.digest(key), f"key_{number}")
    found = await asyncio.gather(*(cache.principal(key) for key in made))
    assert [principal and principal.key_id for principal in found] == [f"key_{n}" for n in range(100)]


async def test_connections_that_the_server_closed_cost_no_look_up(database: Database, cache: KeyCache) -> None:
    keys_made = [d.generate() for _ in range(4)]
    for number, key in enumerate(keys_made):
        await add_key(database, PEPPERS.digest(key), f"key_{number}")
    assert await cache.principal(keys_made[0]) is not None
    if database.is_sqlite:
        await database.direct.close()
    else:
        async with database.read() as connection:
            gone = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sluice'"
            await connection.execute(text(f"{gone} AND pid <> pg_backend_pid()"))
    for key in keys_made[1:]:
        assert await cache.principal(key) is not None


async def test_S_05_expiry_is_checked_at_every_use(database: Database) -> None:
    now = [1000.0]
    cache = KeyCache(database, KeyStore(database), PEPPERS, clock=lambda: now[0])
    await add_key(database, d.sha256_digest("key"), expires=1010.0)
    await add_key(database, d.sha256_digest("rotated"), "key_2", digest_expires=1005.0)
    assert await cache.principal("key") is not None
    assert await cache.principal("rotated") is not None
    now[0] = 1005.0
    assert await cache.principal("rotated") is None
    now[0] = 1009.9
    assert await cache.principal("key") is not None
    now[0] = 1010.0
    assert await cache.principal("key") is None


@pytest.mark.parametrize("kind", ["key", "team"])
async def test_S_05_another_replica_sees_a_change_within_a_second(
    database: Database, database_url: str, cache: KeyCache, kind: str
) -> None:
    async with database.write() as connection:
        row = {"organization": "default", "settings": "{}", "blocked": False, "created": 0, "updated": 0}
        await connection.execute(insert(teams).values(id="blue", **row))
    await add_key(database, d.sha256_digest("key"), team="blue")
    assert await cache.principal("key") is not None
    async with database.write() as connection:
        await connection.execute(update(keys).values(blocked=True))
        target = {"key": "key_1", "team": "blue"}[kind]
        await connection.execute(insert(changes).values(kind=kind, target=target, at=time.time()))
    began = time.monotonic()
    while await cache.principal("key") is not None:
        await asyncio.sleep(0.02)
    assert time.monotonic() - began < 1.0


async def test_S_05_a_new_key_is_seen_within_a_second_though_it_was_unknown(
    database: Database, cache: KeyCache
) -> None:
    assert await cache.principal("key") is None
    await add_key(database, d.sha256_digest("key"))
    async with database.write() as connection:
        await connection.execute(insert(changes).values(kind="key", target="key_1", at=time.time()))
    began = time.monotonic()
    while await cache.principal("key") is None:
        await asyncio.sleep(0.02)
    assert time.monotonic() - began < 1.0


async def test_a_look_up_older_than_a_change_is_not_kept(database: Database, cache: KeyCache) -> None:
    await add_key(database, d.sha256_digest("key"))
    looking = asyncio.create_task(cache.principal("key"))
    await asyncio.sleep(0)
    cache._apply({("team", "whatever")})
    assert await looking is not None
    assert not cache._known


async def test_cached_keys_outlive_the_database_for_a_while(tmp_path: Path, database: Database) -> None:
    now = [1000.0]
    await add_key(database, d.sha256_digest("key"))
    cache = KeyCache(database, KeyStore(database), PEPPERS, clock=lambda: now[0], ttl=60)
    assert await cache.principal("key") is not None
    async with database.write() as connection:
        await connection.execute(text("ALTER TABLE key_digests RENAME TO elsewhere"))
    try:
        now[0] += 59
        assert await cache.principal("key") is not None
        now[0] += 2
        with pytest.raises(Exception, match=r"key_digests|not answer"):
            await cache.principal("key")
    finally:
        async with database.write() as connection:
            await connection.execute(text("ALTER TABLE elsewhere RENAME TO key_digests"))
    assert await cache.principal("key") is not None


async def test_an_unreachable_database_is_a_503(tmp_path: Path) -> None:
    from config.schema import Database as Options

    database = Database(Options.model_validate({"url": "postgresql://x@127.0.0.1:1/x"}), timeout=1)
    cache = KeyCache(database, KeyStore(database), PEPPERS)
    with pytest.raises(StoreUnavailable):
        await cache.principal("unknown")
    await cache.close()
    await database.close()
