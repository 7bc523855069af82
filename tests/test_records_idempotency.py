"""Idempotency keys: one answer per key, in memory and in Redis alike."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.errors import IdempotencyInFlight, IdempotencyMismatch, InvalidRequest, StoreUnavailable
from gateway.records import idempotency as idem
from gateway.records.idempotency import Fresh, IdempotencyStore, MemoryIdempotency, Replay
from gateway.records.idempotency_redis import RedisIdempotency

from .servers import RedisServer

SECRET = b"s" * 32
SLOT, BODY = idem.slot_of(SECRET, "key_1", "/v1/chat/completions", "abc"), idem.fingerprint_of(SECRET, b"{}")
ANSWER = Replay(200, {"content-type": "application/json"}, b'{"id": "x\xc3\xbc"}\x00\xff')


def client(server: RedisServer, timeout: float = 5) -> Any:
    retry = Retry(NoBackoff(), 0)
    return Redis.from_url(server.url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=retry)


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[IdempotencyStore]:
    if request.param == "memory":
        yield MemoryIdempotency(ttl=0.2, lease=0.2, max_replay=1000)
        return
    redis = client(request.getfixturevalue("redis_server"))
    shared = RedisIdempotency(redis, ttl=0.2, lease=0.2, max_replay=1000)
    yield shared
    await shared.close()


async def fresh(store: IdempotencyStore, slot: str = SLOT) -> Fresh:
    outcome = await store.begin(slot, BODY)
    assert isinstance(outcome, Fresh)
    return outcome


async def test_the_second_request_gets_the_first_answer(store: IdempotencyStore) -> None:
    first = await fresh(store)
    with pytest.raises(IdempotencyInFlight) as caught:
        await store.begin(SLOT, BODY)
    assert caught.value.status == 409
    assert await store.finish(first, ANSWER)
    assert await store.begin(SLOT, BODY) == ANSWER
    assert await store.begin(SLOT, BODY) == ANSWER


async def test_another_body_under_the_same_key_is_refused(store: IdempotencyStore) -> None:
    first = await fresh(store)
    other = idem.fingerprint_of(SECRET, b"{ }")
    for _ in range(2):
        with pytest.raises(IdempotencyMismatch) as caught:
            await store.begin(SLOT, other)
        assert caught.value.status == 422
        await store.finish(first, ANSWER)


async def test_an_abandoned_key_can_be_used_again(store: IdempotencyStore) -> None:
    first = await fresh(store)
    await store.abandon(first)
    second = await fresh(store)
    await store.abandon(first)  # a late end of the first request does not touch the second
    assert not await store.finish(first, ANSWER)
    with pytest.raises(IdempotencyInFlight):
        await store.begin(SLOT, BODY)
    assert await store.finish(second, ANSWER)


async def test_a_large_answer_is_not_kept(store: IdempotencyStore) -> None:
    first = await fresh(store)
    assert not await store.finish(first, Replay(200, {}, b"x" * 1001))
    await fresh(store)


async def test_answers_expire(store: IdempotencyStore) -> None:
    await store.finish(await fresh(store), ANSWER)
    await asyncio.sleep(0.25)
    await fresh(store)


async def test_a_request_that_never_ends_loses_its_place_in_memory() -> None:
    store = MemoryIdempotency(lease=0.2)
    dead = await fresh(store, "dead")
    await asyncio.sleep(0.25)
    await fresh(store, "dead")
    assert not await store.finish(dead, ANSWER)


async def test_a_claim_in_redis_lasts_as_long_as_its_request_and_ends_with_its_worker(
    redis_server: RedisServer,
) -> None:
    one, other = (RedisIdempotency(client(redis_server), lease=0.3) for _ in range(2))
    await one._client.flushall()
    running = await fresh(one)
    began = time.monotonic()
    while time.monotonic() - began < 1:  # three leases
        with pytest.raises(IdempotencyInFlight):
            await other.begin(SLOT, BODY)
        await asyncio.sleep(0.05)
    await one.close()  # as when it dies: nobody renews
    await asyncio.sleep(0.35)
    taken = await fresh(other)
    again = RedisIdempotency(client(redis_server), lease=0.3)
    assert not await again.finish(running, ANSWER)
    assert await other.finish(taken, ANSWER)
    assert await again.begin(SLOT, BODY) == ANSWER
    for store in (other, again):
        await store.close()


async def test_one_of_many_at_once_is_first(store: IdempotencyStore) -> None:
    results = await asyncio.gather(*(store.begin(SLOT, BODY) for _ in range(30)), return_exceptions=True)
    assert sum(isinstance(r, Fresh) for r in results) == 1
    assert sum(isinstance(r, IdempotencyInFlight) for r in results) == 29


def test_S_45_slots_belong_to_a_caller_and_a_route() -> None:
    slots = {
        idem.slot_of(secret, *parts)
        for secret in (SECRET, b"t" * 32)
        for parts in (
            ("k", "r", "i"),
            ("k2", "r", "i"),
            ("k", "r2", "i"),
            ("k", "r", "i2"),
            ("kr", "", "i"),
            ("k", "ri", ""),
        )
    }
    assert len(slots) == 12
    assert idem.secret_of("p" * 32) == idem.secret_of("p" * 32) != idem.secret_of("q" * 32)
    assert idem.secret_of(None) != idem.secret_of(None)


async def test_S_45_redis_holds_no_body_and_no_key(redis_server: RedisServer) -> None:
    redis = client(redis_server)
    store = RedisIdempotency(redis)
    slot = idem.slot_of(SECRET, "key_canary", "/v1", "idem_canary")
    outcome = await store.begin(slot, idem.fingerprint_of(SECRET, b"prompt_canary"))
    assert isinstance(outcome, Fresh)
    dump = b"".join([key + await redis.get(key) async for key in redis.scan_iter()])
    assert dump
    assert b"canary" not in dump
    await redis.aclose()


async def test_memory_is_bounded() -> None:
    store = MemoryIdempotency(max_total=5000)
    for n in range(20):
        await store.finish(await fresh(store, f"s{n}"), Replay(200, {}, b"x" * 1000))
    assert isinstance(await store.begin("s19", BODY), Replay)
    assert isinstance(await store.begin("s0", BODY), Fresh)
    assert store._bytes <= 5000


async def test_redis_is_bounded_for_each_organization_across_workers(redis_server: RedisServer) -> None:
    stores = [RedisIdempotency(client(redis_server), max_total=20_000) for _ in range(2)]
    redis = stores[0]._client
    await redis.flushall()

    def slot(n: int, organization: str = "a") -> str:
        return idem.slot_of(SECRET, "key_1", "/v1", str(n), organization)

    await stores[0].finish(await fresh(stores[0], slot(0, "b")), ANSWER)
    of_b = [key async for key in redis.scan_iter()]
    for n in range(200):
        store = stores[n % 2]
        assert await store.finish(await fresh(store, slot(n)), Replay(200, {}, b"x" * 1000))
    of_a = [key async for key in redis.scan_iter() if key not in of_b]
    taken = sum([await redis.memory_usage(key, samples=0) for key in of_a])
    assert len(of_a) == 2
    assert taken < 24_000
    kept = [n for n in range(200) if isinstance(await stores[n % 2].begin(slot(n), BODY), Replay)]
    assert kept == list(range(200 - len(kept), 200)), "the oldest go first"
    assert 10 <= len(kept) <= 20
    assert await stores[1].begin(slot(0, "b"), BODY) == ANSWER
    for store in stores:
        await store.close()


async def test_answers_that_expired_make_room_and_leave_nothing_behind(redis_server: RedisServer) -> None:
    redis = client(redis_server)
    await redis.flushall()
    store = RedisIdempotency(redis, ttl=0.3, max_total=20_000)
    for _ in range(2):  # the same slot again, too
        for n in range(5):
            assert await store.finish(await fresh(store, f"o:{n}"), Replay(200, {}, b"x" * 1000))
        await asyncio.sleep(0.4)
    assert await redis.dbsize() == 0
    await store.close()


async def test_an_answer_kept_again_does_not_go_with_its_first_one(store: IdempotencyStore) -> None:
    options = {"client": store._client} if isinstance(store, RedisIdempotency) else {}
    short: Any = type(store)(**options, ttl=1.5)
    await short.finish(await fresh(short, "o:1"), ANSWER)
    await asyncio.sleep(0.8)
    await short.finish(await fresh(short, "o:2"), ANSWER)
    await asyncio.sleep(0.8)
    await short.finish(await fresh(short, "o:1"), ANSWER)
    assert await short.begin("o:1", BODY) == ANSWER


async def test_an_answer_larger_than_the_bound_drives_no_other_out(store: IdempotencyStore) -> None:
    small = type(store)
    bounded: Any = small(**({"client": store._client} if isinstance(store, RedisIdempotency) else {}), max_total=5000)
    await bounded.finish(await fresh(bounded, "o:1"), ANSWER)
    assert not await bounded.finish(await fresh(bounded, "o:2"), Replay(200, {}, b"x" * 6000))
    assert await bounded.begin("o:1", BODY) == ANSWER
    assert isinstance(await bounded.begin("o:2", BODY), Fresh)


async def test_a_full_redis_keeps_no_answer() -> None:
    server = RedisServer("--maxmemory", "4mb", "--maxmemory-policy", "noeviction")
    store = RedisIdempotency(client(server))
    try:
        begun = [await fresh(store, f"o:{n}") for n in range(8)]
        with pytest.raises(StoreUnavailable):
            for one in begun:
                await store.finish(one, Replay(200, {}, b"x" * 1_000_000))
        assert int((await store._client.info("memory"))["used_memory"]) < 5_500_000
    finally:
        await store.close()
        server.stop()


async def test_short_answers_count_with_what_is_around_them() -> None:
    store = MemoryIdempotency(max_total=100_000)
    for n in range(1000):
        await store.finish(await fresh(store, f"s{n}"), Replay(400, {}, b"x"))
    kept = [n for n in range(1000) if isinstance(await store.begin(f"s{n}", BODY), Replay)]
    assert 50 < len(kept) < 150


async def test_a_redis_that_hangs_is_a_503_in_time() -> None:
    server = RedisServer()
    redis = client(server, timeout=0.3)
    store = RedisIdempotency(redis)
    first = await fresh(store)
    with server.frozen():
        for call in (store.begin("x", BODY), store.finish(first, ANSWER)):
            async with asyncio.timeout(1):
                with pytest.raises(StoreUnavailable):
                    await call
    await redis.aclose()
    server.stop()


@pytest.mark.parametrize("key", ["", "x" * 256, "ü", "a\nb", "\x00"])
def test_bad_keys_are_refused(key: str) -> None:
    with pytest.raises(InvalidRequest):
        idem.checked_key(key)


def test_good_keys_are_taken() -> None:
    for key in ("a", "x" * 255, "6f0c-11"):
        assert idem.checked_key(key) == key


@pytest.mark.parametrize(
    ("status", "kept"), [(200, True), (201, True), (400, True), (422, True), (401, False), (403, False), (404, False),
                         (408, False), (409, False), (429, False), (499, False), (500, False), (503, False)],
)  # fmt: skip
def test_only_lasting_answers_are_kept(status: int, kept: bool) -> None:
    assert idem.is_kept(status) is kept
