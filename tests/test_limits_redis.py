"""Limits in a real Redis, shared by real processes: exact whatever dies, stops, freezes or forgets.

The scenarios are those of ``acceptance_limits.py``, in sizes that fit seconds.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest
import redis
from pydantic import SecretStr

from config import schema
from gateway.call import Owner, Principal
from gateway.errors import BudgetExceeded, LimitExceeded, StoreUnavailable
from gateway.limits import Amounts, Limiter
from gateway.limits.engine import Refused, StoreDown
from gateway.redis_client import connect

from . import acceptance_limits as acceptance
from .limits_worker import limit_set
from .servers import RedisServer


async def test_C_439_of_ten_thousand_requests_in_eight_processes_the_limit_is_admitted(
    redis_server: RedisServer,
) -> None:
    await acceptance.admitted_exactly(redis_server, times=3)


async def test_a_bucket_under_demand_admits_what_flows_in(redis_server: RedisServer) -> None:
    await acceptance.rate_exactly(redis_server, workers=3, seconds=1)


async def test_processes_that_hammer_a_budget_never_pass_it(redis_server: RedisServer) -> None:
    await acceptance.money(redis_server, workers=3, loops=130, seconds=1.5)


async def test_a_refusal_changes_no_byte(redis_server: RedisServer) -> None:
    await acceptance.all_or_nothing(redis_server)


async def test_killed_processes_give_back_their_slots_and_keep_their_charges(redis_server: RedisServer) -> None:
    await acceptance.killed(redis_server, workers=3, dead=1, each=20, lease=1)


async def test_a_process_that_was_stopped_neither_charges_twice_nor_loses_a_charge(redis_server: RedisServer) -> None:
    await acceptance.stopped(redis_server, seconds=2.5, lease=1)


async def test_lost_replies_leave_no_drift(redis_server: RedisServer) -> None:
    await acceptance.lost_replies(redis_server, seconds=1.5, lose=0.08)


async def test_flushed_scripts_are_loaded_again(redis_server: RedisServer) -> None:
    await acceptance.script_flush(redis_server, seconds=0.5)


async def test_flushed_counters_are_restored_before_anything_is_admitted(redis_server: RedisServer) -> None:
    await acceptance.flushed(redis_server, lease=1)


async def test_a_restart_with_an_old_snapshot_forgets_nothing() -> None:
    await acceptance.old_snapshot(lease=1)


async def test_a_failover_to_a_lagging_replica_forgets_nothing() -> None:
    await acceptance.failover(lease=1)


async def test_a_frozen_redis_delays_nobody_for_long(redis_server: RedisServer) -> None:
    await acceptance.frozen(redis_server, seconds=2, rate=100)


async def test_in_an_outage_workers_share_a_rate_and_budgets_are_closed(redis_server: RedisServer) -> None:
    await acceptance.outage_share(redis_server, workers=3, limit=60)


async def test_cancelled_requests_leave_nothing_behind(redis_server: RedisServer) -> None:
    await acceptance.cancelled(redis_server, requests=1000)


async def test_a_cluster_whose_slots_move_stays_exact() -> None:
    await acceptance.cluster(seconds=2, moves=3, workers=2)


async def test_leases_spare_calls_and_are_never_over(redis_server: RedisServer) -> None:
    await acceptance.leased(redis_server, workers=3, limit=25_000, demand=45_000, lease=1, most=0.05)


# The engine through the facade, in this process.


def config(server: RedisServer, **more: object) -> schema.Config:
    return schema.Config.model_validate({"redis": {"url": server.url, "timeout": 5}, **more})


def principal(organization: str, **limits: object) -> Principal:
    owner = Owner("k:a", schema.Limits.model_validate(limits))
    return Principal("a", organization, owners=(owner,), version=hash(repr(limits)))


@pytest.fixture
async def gate(redis_server: RedisServer) -> AsyncIterator[Limiter]:
    limiter = Limiter.from_config(config(redis_server))
    await limiter.start()
    yield limiter
    await limiter.close()


async def test_headers_and_refusals_come_from_the_reply_of_the_reservation(gate: Limiter) -> None:
    who = principal("acme", rpm=2, tpm=1000, budget={"month": "0.000001"})
    held = await gate.reserve("r1", who, "m", "default", Amounts(1, 10, 10, 600))
    assert held.headers["x-ratelimit-remaining-requests"] == "1"
    assert held.headers["x-ratelimit-reset-requests"] == "30s"
    assert held.headers["x-ratelimit-remaining-tokens"] == "980"
    assert held.headers["x-sluice-budget-remaining-usd"] == "0.0000004"
    with pytest.raises(BudgetExceeded, match=r"left \$0\.0000004"):
        await gate.reserve("r2", who, "m", "default", Amounts(1, 10, 10, 600))
    held.settle(Amounts(1, 10, 10, 100))
    held.settle(Amounts(1, 10, 10, 999))
    (await gate.reserve("r3", who, "m", "default", Amounts(1, 10, 10, 600))).settle(Amounts())
    with pytest.raises(LimitExceeded, match="requests per min"):
        await gate.reserve("r4", who, "m", "default", Amounts(1, 0, 0, 0))
    rpm, tpm, month = await gate.usage(who.owners[0], "acme")
    assert (rpm.remaining, tpm.used, month.used, month.reserved) == (0, 20, 100, 0)


async def test_adjusting_takes_the_difference_or_nothing(gate: Limiter) -> None:
    who = principal("acme", budget={"day": "0.000001"})
    held = await gate.reserve("r1", who, "m", "default", Amounts(cost=600))
    await held.adjust(Amounts(cost=900))
    with pytest.raises(BudgetExceeded):
        await held.adjust(Amounts(cost=1001))
    (day,) = await gate.usage(who.owners[0], "acme")
    assert day.reserved == 900
    held.settle(Amounts(cost=1))
    (day,) = await gate.usage(who.owners[0], "acme")
    assert (day.used, day.reserved) == (1, 0)


async def test_a_settlement_during_an_adjustment_leaves_nothing_reserved(gate: Limiter) -> None:
    who = principal("acme", budget={"day": "1"}, concurrency=10)
    for i in range(50):
        held = await gate.reserve(f"r{i}", who, "m", "default", Amounts(cost=600))
        task = asyncio.create_task(held.adjust(Amounts(cost=900)))
        await asyncio.sleep(0 if i % 2 else 0.0003)
        held.settle(Amounts(cost=1))
        with contextlib.suppress(StoreUnavailable):
            await task
    slots, day = await gate.usage(who.owners[0], "acme")
    assert (slots.used, day.used, day.reserved) == (0, 50, 0)


async def test_a_budget_added_to_a_known_key_begins_with_what_the_ledger_knows(redis_server: RedisServer) -> None:
    ledger = acceptance.Ledger()
    ledger.cost["k:a"] = 900
    limiter = Limiter.from_config(config(redis_server), spent=ledger)
    await limiter.start()
    (await limiter.reserve("r1", principal("acme", rpd=100), "m", "default", Amounts())).settle(Amounts())
    who = principal("acme", rpd=100, budget={"month": "0.000001"})
    with pytest.raises(BudgetExceeded):
        await limiter.reserve("r2", who, "m", "default", Amounts(cost=101))
    (await limiter.reserve("r3", who, "m", "default", Amounts(cost=100))).settle(Amounts(cost=100))
    assert ledger.asked == 2
    await limiter.close()


async def test_a_ledger_that_does_not_answer_closes_what_it_must_seed(redis_server: RedisServer) -> None:
    async def broken(shard: str, scope: str, start: int, end: int, without: Sequence[str] = ()) -> Amounts:
        raise OSError("no database")

    limiter = Limiter.from_config(config(redis_server), spent=broken)
    await limiter.start()
    with pytest.raises(StoreUnavailable):
        await limiter.reserve("r", principal("acme", budget={"day": 1}), "m", "default", Amounts(cost=1))
    (await limiter.reserve("s", principal("acme", rpm=1), "m", "default", Amounts())).settle(Amounts())
    await limiter.close()


async def test_a_lost_counter_alone_is_seeded_again(gate: Limiter, redis_server: RedisServer) -> None:
    """What an eviction or a DEL takes away comes back from what this worker settled itself."""
    who = principal("acme", rpd=10)
    for i in range(7):
        (await gate.reserve(f"r{i}", who, "m", "default", Amounts())).settle(Amounts())
    await gate.usage(who.owners[0], "acme")
    redis.Redis(port=redis_server.port).delete("l:{acme}:k:a")
    for i in range(3):
        (await gate.reserve(f"s{i}", who, "m", "default", Amounts())).settle(Amounts())
    with pytest.raises(LimitExceeded):
        await gate.reserve("t", who, "m", "default", Amounts())


async def test_without_limits_redis_is_not_called(gate: Limiter, redis_server: RedisServer) -> None:
    client = redis.Redis(port=redis_server.port)
    before = client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)
    for i in range(20):
        (await gate.reserve(f"r{i}", principal("free"), "m", "default", Amounts())).settle(Amounts())
    assert client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0) == before
    assert client.keys("l:{free}:*") == []


async def test_leaving_leaves_nothing_behind(redis_server: RedisServer) -> None:
    client = redis.Redis(port=redis_server.port)
    limiter = Limiter.from_config(config(redis_server))
    await limiter.start()
    held = await limiter.reserve("r", principal("acme", rpm=5), "m", "default", Amounts())
    held.settle(Amounts())
    await limiter.close()
    assert sorted(client.keys()) == [b"l:{acme}:k:a", b"l:{acme}:meta"]
    assert 0 < client.pttl("l:{acme}:k:a") < 10 * 60_000
    assert client.hget("l:{acme}:k:a", "rl") is not None


async def test_counters_expire_after_their_window_and_total_budgets_never(
    gate: Limiter, redis_server: RedisServer
) -> None:
    client = redis.Redis(port=redis_server.port)
    (await gate.reserve("r", principal("a", rpd=5), "m", "default", Amounts())).settle(Amounts())
    (await gate.reserve("r", principal("b", budget={"month": 1}), "m", "default", Amounts())).settle(Amounts())
    (await gate.reserve("r", principal("c", rpm=1, budget={"total": 1}), "m", "default", Amounts())).settle(Amounts())
    day = 86_400_000
    assert day < client.pttl("l:{a}:k:a") <= 2 * day
    assert 31 * day < client.pttl("l:{b}:k:a") <= 62 * day
    assert client.pttl("l:{c}:k:a") == -1


async def test_a_reservation_repeated_or_settled_in_another_generation_is_booked_once(
    gate: Limiter, redis_server: RedisServer
) -> None:
    limits = limit_set("twice", ("k:a", "budget.day", 1000), ("k:a", "concurrency", 5))
    need = Amounts(cost=100).vector()
    for _ in range(3):
        assert not isinstance(await gate.engine.reserve("r", limits, need), Refused)
    states = await gate.engine.states(limits)
    assert [(s.used, s.reserved) for s in states] == [(0, 100), (1, 0)]
    redis.Redis(port=redis_server.port).delete("l:{twice}:rsv:" + gate.engine.engine.shard("twice").process)  # type: ignore[attr-defined]
    gate.engine.settle("r", Amounts(cost=40).vector())
    gate.engine.settle("r", Amounts(cost=40).vector())
    day, _ = await gate.engine.states(limits)
    assert day.used == 40


async def test_a_redis_that_may_evict_counters_is_refused() -> None:
    evicting = RedisServer("--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru")
    try:
        limiter = Limiter.from_config(config(evicting))
        with pytest.raises(StoreDown, match="allkeys-lru"):
            await limiter.start()
        await limiter.close()
        tolerated = config(evicting).model_copy(
            update={"redis": schema.Redis(url=SecretStr(evicting.url), require_noeviction=False)}
        )
        limiter = Limiter.from_config(tolerated)
        await limiter.start()
        await limiter.close()
    finally:
        evicting.stop()


async def test_no_redis_at_start_is_said_with_where_and_why_and_without_its_password() -> None:
    url = SecretStr("redis://user:secret@127.0.0.1:1/0")
    limiter = Limiter.from_config(schema.Config(redis=schema.Redis(url=url)))
    with pytest.raises(StoreDown) as caught:
        await limiter.start()
    assert "secret" not in str(caught.value)
    assert "127.0.0.1:1" in str(caught.value)
    await limiter.close()


async def test_a_hostile_usage_report_does_not_stop_the_counters(gate: Limiter) -> None:
    who = principal("acme", tpm=1000, budget={"day": 1})
    held = await gate.reserve("r", who, "m", "default", Amounts(1, 10, 10, 10))
    held.settle(Amounts(1, 10**40, -5, 10**40, 10**50))
    with pytest.raises(LimitExceeded):
        await gate.reserve("s", who, "m", "default", Amounts(1, 1, 1, 1))
    tpm, day = await gate.usage(who.owners[0], "acme")
    assert (tpm.remaining, day.remaining) == (0, 0)


async def test_limits_in_memory_take_microseconds(redis_server: RedisServer) -> None:
    await acceptance.embedded(redis_server, number=5_000)


async def test_a_connection_asks_nothing_that_servers_refuse(redis_server: RedisServer) -> None:
    plain = redis.Redis(port=redis_server.port)
    plain.config_resetstat()
    client = connect(schema.Redis(url=SecretStr(redis_server.url)))
    assert await client.ping()
    assert plain.info("errorstats") == {}
    await client.aclose()
    plain.close()
