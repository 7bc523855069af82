"""What a caller, a model and a tier decide once, and the short way through a reservation that rests on it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from adapters.usage import Usage
from config import Config
from gateway.auth import configured_keys
from gateway.call import Call, CallRecord, Principal, Route
from gateway.deployments import routes
from gateway.errors import BudgetExceeded, InvalidRequest, LimitExceeded
from gateway.limits import Limiter
from gateway.limits.estimate import Estimator
from gateway.metering import Meter, Metered
from gateway.pools import Pools
from gateway.price_book import PriceBook
from gateway.pricing import cost
from gateway.ramps import Ramps
from gateway.routing import Router

from .running import KEY, configuration

CHEAP = {"input": 1, "output": 2}
DEAR = {"input": 10, "output": 40}
TWO = [
    {"provider": "openai", "model": "a", "max_output": 500, "price": CHEAP},
    {"provider": "openai", "model": "b", "price": DEAR},
]


class Desk:
    """A meter, without anything to send to."""

    def __init__(self, config: Config) -> None:
        prices = PriceBook(config)
        self.router = Router(routes(config, lambda *_: None), config.aliases)
        self.limiter = Limiter.from_config(config)
        self.meter = Meter(self.limiter, prices, Estimator(config, prices), None, Pools(config), Ramps())
        ((self.principal, _),) = configured_keys(config).values()

    def asked(self, number: int, model: str = "m", **more: Any) -> tuple[Call, Principal, Route, Any, CallRecord]:
        body = {"model": model, "messages": [{"role": "user", "content": "x" * 100}], **more}
        call = Call(f"req_{number}", body, len(orjson.dumps(body)), 0, model)
        route = self.router.resolve(model, self.principal)
        return call, self.principal, route, self.router.plan(route, call), CallRecord(call.id, effective_tier="default")


@asynccontextmanager
async def desk(tmp: Any, limits: dict[str, Any], models: dict[str, Any] | None = None) -> AsyncIterator[Desk]:
    keys = [{"name": "test", "key": KEY, "limits": limits}]
    made = Desk(configuration("http://127.0.0.1:1", str(tmp), models or {"m": TWO}, keys=keys))
    await made.limiter.start()
    yield made
    await made.limiter.close()


async def standing(made: Desk) -> list[tuple[int, int]]:
    owner, organization = made.principal.owners[0], made.principal.organization
    return [(s.used, s.reserved) for s in await made.limiter.usage(owner, organization)]


EVERYTHING = {"rpd": 100, "tpd": 10**9, "concurrency": 9, "budget": {"day": 5}}


@pytest.mark.parametrize("limits", [{}, {"tpd": 10**6}, EVERYTHING])
@pytest.mark.parametrize("more", [{}, {"max_tokens": 50, "n": 3}, {"tools": [{"type": "function"}]}])
async def test_the_short_way_reserves_what_the_long_one_does(tmp_path: Any, limits: Any, more: dict[str, Any]) -> None:
    held = []
    for short in (False, True):
        async with desk(tmp_path, limits) as made:
            await made.meter.reserve(*made.asked(0))  # counters that are seen for the first time have to be asked for
            before = await standing(made)
            asked = made.asked(1, **more)
            metered = made.meter.reserve_now(*asked) if short else await made.meter.reserve(*asked)
            assert metered is not None
            held.append((metered.bound, metered._reservation.amounts, before, await standing(made)))
            metered.close(CallRecord("req_1"))
            assert [reserved for _, reserved in await standing(made)] == [reserved for _, reserved in before]
    assert held[0] == held[1]


async def running(made: Desk, number: int, order: tuple[int, int], *, short: bool) -> Metered:
    """Both deployments at once, as a hedge has them."""
    asked = made.asked(number)
    metered = await made.meter.reserve(*asked)
    first, second = (asked[3][i] for i in order)
    if not (short and metered.admit_now(first, 1)):
        await metered.admit(first, 1)
    assert not metered.admit_now(second, 2)
    await metered.admit(second, 2)
    return metered


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_an_attempt_that_was_admitted_the_short_way_is_paid_for_beside_another(
    tmp_path: Any, order: tuple[int, int]
) -> None:
    reserved = []
    for short in (False, True):
        async with desk(tmp_path, EVERYTHING) as made:
            metered = await running(made, 1, order, short=short)
            reserved.append((metered._reservation.amounts.cost, await standing(made)))
    assert reserved[0] == reserved[1]
    dearest = made.meter.worst_case(made.asked(1)[3][1], metered.bound, "default")
    assert reserved[0][0] > dearest


async def test_only_a_first_attempt_of_what_was_reserved_for_takes_the_short_way(tmp_path: Any) -> None:
    queued = {"deployments": [{**TWO[0], "provider": "compatible"}], "queue": {"capacity": 4}}
    models = {
        "m": TWO,
        "queued": queued,
        "bought": [{**TWO[0], "model": "d", "limits": {"rpm": 60}}],
        "other": [{**TWO[1], "model": "c"}],
    }
    async with desk(tmp_path, EVERYTHING, models) as made:
        plan = made.asked(0)[3]
        for number, model in enumerate(("queued", "bought")):
            metered = await made.meter.reserve(*made.asked(number, model))
            assert not metered.admit_now(metered.plan[0], 1)
        metered = await made.meter.reserve(*made.asked(3))
        assert not metered.admit_now(made.asked(4, "other")[3][0], 1)
        assert not metered.admit_now(plan[0], 2)
        assert metered.admit_now(plan[0], 1)
        await metered.move("flex")
        assert not metered.admit_now(plan[0], 1)


async def test_what_the_short_way_cannot_decide_it_leaves_alone(tmp_path: Any) -> None:
    async with desk(tmp_path, EVERYTHING) as made:
        assert made.meter.reserve_now(*made.asked(0)) is None  # counters that nobody knows yet
        await made.meter.reserve(*made.asked(1))
        before = await standing(made)
        assert made.meter.reserve_now(*made.asked(2, max_tokens=10**6)) is None  # a shorter answer might do
        with pytest.raises(BudgetExceeded):
            await made.meter.reserve(*made.asked(2, max_tokens=10**6))
        assert await standing(made) == before


async def test_a_refusal_by_a_limit_is_the_same_either_way(tmp_path: Any) -> None:
    async with desk(tmp_path, {"concurrency": 1}) as made:
        await made.meter.reserve(*made.asked(0))
        with pytest.raises(LimitExceeded) as short:
            made.meter.reserve_now(*made.asked(1))
        with pytest.raises(LimitExceeded) as long:
            await made.meter.reserve(*made.asked(1))
        assert short.value.to_openai() == long.value.to_openai()


async def test_no_budget_bounds_what_has_no_price(tmp_path: Any) -> None:
    async with desk(tmp_path, EVERYTHING, {"m": [{"provider": "compatible", "model": "unheard of"}]}) as made:
        with pytest.raises(InvalidRequest):
            made.meter.reserve_now(*made.asked(0))
        with pytest.raises(InvalidRequest):
            await made.meter.reserve(*made.asked(0))


async def test_a_plan_in_another_order_and_a_part_of_it_have_terms_of_their_own(tmp_path: Any) -> None:
    async with desk(tmp_path, EVERYTHING) as made:
        _, who, route, plan, _ = made.asked(0)
        first, second = plan
        terms = [made.meter.terms(who, route, p, "default") for p in ([first, second], [second, first], [first])]
        assert len(set(map(id, terms))) == 3
        assert [[way.deployment for way in t.ways.values()] for t in terms] == [
            [first, second],
            [second, first],
            [first],
        ]
        assert made.meter.terms(who, route, (first,), "default") is terms[2]
        assert made.meter.terms(who, route, (first,), "flex") is not terms[2]


async def test_deployments_of_one_name_in_two_models_keep_their_own_prices_and_lengths(tmp_path: Any) -> None:
    cheap, dear = {**TWO[0], "max_output": 10}, {**TWO[0], "max_output": 400, "price": DEAR}
    async with desk(tmp_path, EVERYTHING, {"m": [cheap], "other": [dear]}) as made:
        held = [await made.meter.reserve(*made.asked(i, m)) for i, m in enumerate(("m", "other"))]
        assert [m.bound.output_tokens for m in held] == [10, 400]
        first, second = (made.meter.worst_case(m.plan[0], m.bound, "default") for m in held)
        assert [m._reservation.amounts.cost for m in held] == [first, second]
        assert first < second / 5


@pytest.mark.parametrize("dear", [DEAR, {**DEAR, "tiers": {"priority": 2}}, {**DEAR, "per_call": {"web_search": 0.01}}])
@pytest.mark.parametrize("calls", [None, {"web_search": 2}])
async def test_terms_price_usage_as_the_price_does(
    tmp_path: Any, dear: dict[str, Any], calls: dict[str, int] | None
) -> None:
    usage = Usage(101, 7, 5, 3, 2, 53, 11, 1, calls=calls)
    async with desk(tmp_path, EVERYTHING, {"m": [{**TWO[0], "price": dear}]}) as made:
        _, principal, route, plan, _ = made.asked(0)
        terms = made.meter.terms(principal, route, plan, "default")
        price = made.meter.prices.price(plan[0])
        assert price is not None
        for tier in ("default", "priority"):
            assert terms.cost(plan[0], usage, tier) == cost(usage, price, tier) > 0
