"""The order of deployments by each strategy, the capacity ladder, and stickiness."""

from collections import Counter
from typing import Any

import pytest

from gateway.call import Call, Route
from gateway.fleet import Fleet
from gateway.routing import Router
from gateway.strategies import STRATEGIES

from .test_routing import route


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def call(request: dict[str, Any] | None = None, size: int = 1000, *, stream: bool = True) -> Call:
    return Call(id="req_1", request=request or {}, size=size, created=0, stream=stream)  # type: ignore[arg-type]


def three(**model: Any) -> Route:
    return route("a", {"model": "x"}, {"model": "y"}, {"model": "z"}, **model)


def names(plan: Any) -> list[str]:
    return [d.config.model for d in plan]


def planned(made: Route, fleet: Fleet, asked: Call | None = None, **costs: int) -> list[str]:
    return names(Router({made.name: made}, {}, fleet, {f"p/{n}": c for n, c in costs.items()}).plan(made, asked))


def test_least_busy_takes_what_has_no_weight_last_however_idle() -> None:
    fleet = Fleet()
    made = route("a", {"model": "x"}, {"model": "y"}, {"model": "z", "weight": 0}, strategy="least_busy")
    for name in ("x", "y"):
        fleet[f"p/{name}"].load.in_flight = 3
    assert planned(made, fleet)[-1] == "z"


def test_least_busy_goes_by_requests_in_flight_for_each_unit_of_weight() -> None:
    fleet = Fleet()
    made = route("a", {"model": "x", "weight": 4}, {"model": "y"}, {"model": "z"}, strategy="least_busy")
    for name, busy in (("x", 6), ("y", 2), ("z", 1)):
        fleet[f"p/{name}"].load.in_flight = busy
    assert planned(made, fleet) == ["z", "x", "y"]


def test_lowest_latency_compares_requests_of_the_same_size() -> None:
    fleet = Fleet(clock=Clock())
    for name, small, large in (("x", 0.3, 1.0), ("y", 0.1, 9.0), ("z", 0.2, 2.0)):
        fleet[f"p/{name}"].load.observe(True, 1000, small)
        fleet[f"p/{name}"].load.observe(True, 500_000, large)
    made = three(strategy="lowest_latency")
    assert planned(made, fleet, call()) == ["y", "z", "x"]
    assert planned(made, fleet, call(size=400_000)) == ["x", "z", "y"]


def test_a_deployment_whose_latency_is_not_known_is_tried_by_one_call_at_a_time() -> None:
    clock = Clock()
    fleet = Fleet(clock=clock)
    for name in ("x", "y"):
        fleet[f"p/{name}"].load.observe(True, 1000, 0.1)
    made = three(strategy="lowest_latency")
    assert planned(made, fleet, call())[0] == "z"
    fleet["p/z"].load.in_flight = 1
    assert planned(made, fleet, call())[-1] == "z"
    clock.now += 100  # what was known of the others is too old: they are tried again
    assert planned(made, fleet, call())[0] in "xy"


def test_lowest_cost_puts_what_has_no_price_last() -> None:
    assert planned(three(strategy="lowest_cost"), Fleet(), x=30, z=10) == ["z", "x", "y"]


def test_the_ladder_orders_a_priority_group_and_the_strategy_a_rung() -> None:
    made = route(
        "a",
        {"model": "flex", "capacity": "flex"},
        {"model": "d1"},
        {"model": "bought", "capacity": "provisioned"},
        {"model": "d2"},
        {"model": "later", "order": 1, "capacity": "provisioned"},
        strategy="weighted",
    )
    plans = {tuple(planned(made, Fleet())) for _ in range(50)}
    assert plans == {("bought", "d1", "d2", "flex", "later"), ("bought", "d2", "d1", "flex", "later")}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_priority_groups_come_before_any_strategy(strategy: str) -> None:
    groups = [{"model": m, "order": order} for m, order in (("z", 1), ("y", 0), ("x", 0), ("w", 2))]
    made = route("a", *groups, strategy=strategy)
    fleet = Fleet()
    for name, busy in (("y", 9), ("z", 0), ("w", 0), ("x", 5)):
        fleet[f"p/{name}"].load.in_flight = busy
        fleet[f"p/{name}"].load.observe(True, 1000, busy + 1.0)
    for _ in range(20):
        plan = planned(made, fleet, call(), y=9, x=5, z=1, w=1)
        assert set(plan[:2]) == {"x", "y"}
        assert plan[2:] == ["z", "w"]
        if strategy not in ("ordered", "weighted"):
            assert plan[0] == "x"


def user(text: str, *more: str, **extra: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": text}, *({"role": "assistant", "content": m} for m in more)]
    return {"messages": [{"role": "system", "content": "s"}, *turns], **extra}


def test_a_conversation_stays_where_it_began() -> None:
    made = three(sticky=True)
    for i in range(20):
        first = planned(made, Fleet(), call(user(f"question {i}")))
        assert planned(made, Fleet(), call(user(f"question {i}", "answer", "more"))) == first
    keyed = [planned(made, Fleet(), call(user(str(i), prompt_cache_key="mine"))) for i in range(10)]
    assert all(k == keyed[0] for k in keyed)


def test_conversations_spread_by_weight_and_losing_a_deployment_moves_no_other() -> None:
    made = route("a", {"model": "x", "weight": 2}, {"model": "y"}, {"model": "z"}, sticky=True)
    without = Route(made.name, made.config, tuple(d for d in made.deployments if d.config.model != "y"))
    homes: Counter[str] = Counter()
    for i in range(2000):
        asked = call(user(f"question {i}"))
        home = planned(made, Fleet(), asked)[0]
        homes[home] += 1
        if home != "y":
            assert planned(without, Fleet(), asked)[0] == home
    assert 900 < homes["x"] < 1100
    assert 430 < homes["y"] < 570


def test_every_kind_of_content_has_a_conversation() -> None:
    parts = [{"type": "text", "text": "hi"}]
    made = three(sticky=True)
    asked = call({"messages": [{"role": "user", "content": parts}]})
    assert sorted(planned(made, Fleet(), asked)) == ["x", "y", "z"]
    assert sorted(planned(made, Fleet(), call({"input": "an embedding"}))) == ["x", "y", "z"]
