"""Priority that grows too fast runs as default and says `ramp`: the rule, across workers, and what it is billed as."""

import asyncio
import time
from typing import Any

import pytest

from config.schema import PublicModel, Ramp, Redis, TierPolicy
from gateway.call import Owner, Principal, Route
from gateway.limits.store import Store
from gateway.ramps import RampExceeded, Ramps

from .running import KEY, running
from .servers import RedisServer
from .test_metering import rows
from .test_tiers import FLEX, model, post

RULE = Ramp(above_tpm=1000, percent=50, minutes=15)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def whose(rule: Ramp | None = RULE, name: str = "k") -> Principal:
    return Principal(name, "o", owners=(Owner(f"k:{name}", tiers=TierPolicy(ramp=rule)), Owner("o:o")))


def route(rule: Ramp | None = None, name: str = "m") -> Route:
    deployments: Any = [{"provider": "p", "model": "x"}]
    return Route(name, PublicModel(deployments=deployments, ramp=rule), ())


async def passes(ramps: Ramps, tokens: int, principal: Principal | None = None, to: Route | None = None) -> bool:
    try:
        await ramps.take(principal or whose(), to or route(), "priority", tokens)
    except RampExceeded as exc:
        return not 0 < (exc.retry_after or 0) <= 60
    return True


async def minute(ramps: Ramps, wanted: int, clock: Clock) -> int:
    """What of so many tokens, a hundred at a time, passes in a minute."""
    passed = sum([await passes(ramps, 100) for _ in range(wanted // 100)])
    clock.now += 60
    return 100 * passed


async def test_a_minute_may_have_half_as_much_again_as_a_quarter_of_an_hour_ago_and_the_floor_in_any_case() -> None:
    clock = Clock()
    ramps = Ramps(clock=clock)
    assert await minute(ramps, 5000, clock) == 1000  # nothing came before: the floor
    for _ in range(25):
        await minute(ramps, 1000, clock)
    got = [await minute(ramps, 100_000, clock) for _ in range(60)]
    assert got == sorted(got)
    assert got[:10] == [1500] * 10
    for before, after in zip(got, got[15:], strict=False):
        assert after <= before * 1.65  # what came before is an average of eleven minutes
    assert got[-1] > 4500
    clock.now += 3600
    assert await minute(ramps, 5000, clock) == 1000  # forgotten over an hour of silence


async def test_models_and_keys_are_counted_by_themselves_and_other_tiers_not_at_all() -> None:
    ramps = Ramps(clock=Clock())
    assert await passes(ramps, 1000)
    assert not await passes(ramps, 1)
    assert await passes(ramps, 1000, to=route(name="n"))
    assert await passes(ramps, 1000, whose(name="other"))
    assert await passes(ramps, 10**9, whose(None))
    for tier in ("default", "flex"):
        await ramps.take(whose(), route(), tier, 10**9)


async def test_the_rule_of_the_model_holds_for_everybody_together_and_all_or_nothing() -> None:
    ramps, shared = Ramps(clock=Clock()), route(Ramp(above_tpm=1500))
    assert await passes(ramps, 900, whose(name="a"), shared)
    assert not await passes(ramps, 900, whose(name="b"), shared)
    assert await passes(ramps, 600, whose(name="b"), shared)  # the refused one counted for nothing
    assert await passes(ramps, 400, whose(name="b"), route())


async def test_what_was_not_used_is_given_back() -> None:
    ramps = Ramps(clock=Clock())
    growth = await ramps.take(whose(), route(), "priority", 1000)
    assert not await passes(ramps, 400)
    growth.settle(600)
    growth.settle(600)
    assert await passes(ramps, 400)
    assert not await passes(ramps, 1)


def store(server: RedisServer) -> Store:
    return Store(Redis.model_validate({"url": server.url}))


async def test_workers_count_together_to_the_token(redis_server: RedisServer) -> None:
    if time.time() % 60 > 50:
        await asyncio.sleep(60 - time.time() % 60)  # all within one minute
    workers = [Ramps(store(redis_server)) for _ in range(3)]
    principal, to = whose(name=f"k{time.time_ns()}"), route()
    took = await asyncio.gather(*(passes(workers[i % 3], 7, principal, to) for i in range(600)))
    assert sum(took) == 1000 // 7
    growth = await workers[0].take(whose(name="other"), to, "priority", 1000)
    growth.settle(400)
    assert not await passes(workers[1], 600, whose(name="other"), to)
    await asyncio.sleep(0.6)
    assert await passes(workers[1], 600, whose(name="other"), to)
    growth.settle(500)
    await asyncio.sleep(0.6)
    assert workers[0]._store is not None
    assert 0 < int(await workers[0]._store.command("TTL", "g:{o}k:other|m:m")) <= 7_500
    for worker in workers:
        await worker.close()


async def test_redis_decides_as_memory_does(redis_server: RedisServer) -> None:
    """A history of minutes, the same in both: the most that passes is the same."""
    client = store(redis_server)
    for number, history in enumerate(([], [1000] * 15, [0] * 14 + [30_000], [5000] * 20, [1, 2, 3])):
        if time.time() % 60 > 50:
            await asyncio.sleep(60 - time.time() % 60)
        now = int(time.time() // 60)
        name = f"h{number}"
        memory, shared = Ramps(clock=time.time), Ramps(store(redis_server))
        memory._counts["o", f"k:{name}|m:m"] = {now - len(history) + i: n for i, n in enumerate(history)}
        for i, tokens in enumerate(history):
            await client.command("HINCRBY", f"g:{{o}}k:{name}|m:m", now - len(history) + i, tokens)
        most = [0, 0]
        for position, ramps in enumerate((memory, shared)):
            low, high = 0, 100_000
            while low < high:
                middle = (low + high + 1) // 2
                try:
                    growth = await ramps.take(whose(name=name), route(), "priority", middle)
                except RampExceeded:
                    high = middle - 1
                else:
                    growth.settle(0)
                    if ramps is shared:
                        await client.command("HSET", f"g:{{o}}k:{name}|m:m", now, 0)
                        ramps._back.clear()
                    low = middle
            most[position] = low
        assert most[0] == most[1] >= 1000, history
        await shared.close()
    await client.close()


async def test_while_redis_is_silent_each_worker_counts_alone() -> None:
    server = RedisServer()
    ramps = Ramps(store(server))
    try:
        assert await passes(ramps, 900)
        server.kill()
        assert await passes(ramps, 900)
        assert not await passes(ramps, 900)
    finally:
        await ramps.close()
        server.stop()


async def test_what_was_counted_while_redis_was_silent_is_corrected_here_and_never_in_redis() -> None:
    if time.time() % 60 > 45:
        await asyncio.sleep(60 - time.time() % 60)  # all within one minute
    server = RedisServer()
    ramps, client = Ramps(store(server)), store(server)
    try:
        shared = await ramps.take(whose(), route(), "priority", 100)
        ramps._silent_until = time.monotonic() + 60
        alone = await ramps.take(whose(), route(), "priority", 900)
        assert not await passes(ramps, 900)
        alone.settle(100)
        assert await passes(ramps, 900), "given back to what this worker counts"
        ramps._silent_until = 0.0
        alone.settle(50)
        shared.settle(90)
        await asyncio.sleep(0.6)
        assert list(await client.command("HVALS", "g:{o}k:k|m:m")) == [b"90"]
        assert not await passes(ramps, 911)
        assert await passes(ramps, 910)
    finally:
        await ramps.close()
        await client.close()
        server.stop()


async def test_a_minute_that_redis_has_lost_does_not_go_below_nothing() -> None:
    server = RedisServer()
    ramps, client = Ramps(store(server)), store(server)
    try:
        growth = await ramps.take(whose(), route(), "priority", 900)
        await client.command("FLUSHALL")
        growth.settle(100)
        await asyncio.sleep(0.6)
        assert list(await client.command("HVALS", "g:{o}k:k|m:m")) == [b"0"]
    finally:
        await ramps.close()
        await client.close()
        server.stop()


USAGE: dict[bool, dict[str, Any]] = {True: {"stream_options": {"include_usage": True}}, False: {}}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("of_model", [False, True])
async def test_C_468_475_priority_over_its_ramp_runs_and_bills_as_default_and_says_so(
    stream: bool, of_model: bool
) -> None:
    """The answer, each chunk, the header, the ledger, the metrics and the limits of the tier say the same."""
    rule = {"above_tpm": 170, "minutes": 15}
    keys = [
        {
            "name": "a",
            "key": KEY,
            "tiers": {} if of_model else {"ramp": rule},
            "limits": {"per_tier": {"default": {"rpd": 100}}},
        }
    ]
    models = {"m": {"deployments": model("demo-ok+chunks=60", **FLEX), **({"ramp": rule} if of_model else {})}}
    async with running(models, keys=keys) as (gateway, _):
        seen = [
            await post(gateway, service_tier=tier, stream=stream, max_tokens=100, **USAGE[stream])
            for tier in ("priority", "fast", "priority", "priority", "priority", "default")
        ]
        found = sorted(await rows(gateway), key=lambda row: row["time"])
        value = gateway.registry.get_sample_value
        downgraded = value("sluice_tier_downgrades_total", {"model": "m", "effective": "priority", "reason": "ramp"})
        left = [
            headers["x-ratelimit-remaining-requests"]
            for _, headers, _ in seen
            if "x-ratelimit-remaining-requests" in headers
        ]
    assert [status for status, _, _ in seen] == [200] * 6
    told = [bodies[0]["service_tier"] for _, _, bodies in seen]
    assert told[0] == "priority"
    assert told[-2:] == ["default"] * 2
    assert told == sorted(told, reverse=True)
    for tier, (_, headers, bodies) in zip(told, seen, strict=True):
        assert {body["service_tier"] for body in bodies} == {tier}
        expected = "ramp" if tier == "default" and headers is not seen[-1][1] else None
        assert headers.get("x-sluice-tier-downgrade") == expected
    assert [row["tier_served"] for row in found] == told
    prices = [body["usage"] for body in (bodies[-1] for _, _, bodies in seen) if body.get("usage")]
    assert len(prices) == 6
    for usage, row in zip(prices, found, strict=True):
        paid = usage["prompt_tokens"] * 2000 + usage["completion_tokens"] * 8000
        assert row["cost"] == paid * {"priority": 2, "default": 1}[row["tier_served"]]
    assert downgraded == told.count("default") - 1
    assert len(left) == told.count("default")


async def test_where_default_is_not_allowed_the_ramp_refuses() -> None:
    keys = [{"name": "a", "key": KEY, "tiers": {"ramp": {"above_tpm": 10}, "allowed": ["priority"]}}]
    async with running({"m": model("demo-ok", **FLEX)}, keys=keys) as (gateway, _):
        status, headers, (body,) = await post(gateway, service_tier="priority")
        assert (status, body["error"]["code"]) == (429, "rate_limit_exceeded")
        assert "grows too fast" in body["error"]["message"]
        assert 0 < float(headers["retry-after"]) <= 60
