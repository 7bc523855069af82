"""A worker that has too much to do turns flex away first, then default by whole parts of its keys, priority last."""

import asyncio
import time

import pytest

from config.schema import Server
from gateway.call import CallRecord
from gateway.errors import CapacityUnavailable, Overloaded
from gateway.pressure import COHORTS, Pressure, cohort
from gateway.protection import LASTING, Protection

from .running import KEY, running
from .test_tiers import FLEX, model, post


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_level_rises_at_once_and_comes_down_step_by_step() -> None:
    clock = Clock()
    pressure = Pressure((0.5, 0.8), clock, slack=0.1, calm=1.0)
    assert [pressure.note(load) for load in (0.4, 0.5, 0.9)] == [0, 1, 2]
    for clock.now, load, level in ((1.0, 0.75, 2), (2.5, 0.75, 2), (3.0, 0.65, 2), (3.9, 0.65, 2), (4.1, 0.0, 1), (4.2, 0.0, 1),
                                   (4.5, 0.45, 1), (5.4, 0.45, 1), (5.6, 0.0, 1), (6.5, 0.0, 1), (6.7, 0.0, 0)):  # fmt: skip
        assert pressure.note(load) == level, clock.now
    assert pressure.note(0.9) == 2
    clock.now = 60
    assert pressure.note(0.45) == 1  # of what there was nothing to note about, nothing is left
    clock.now = 120
    assert pressure.note(0.1) == 0


def test_cohorts_are_even_the_same_everywhere_and_others_every_hour() -> None:
    parts = [cohort(f"key{i}", 0.0) for i in range(20_000)]
    assert set(parts) == set(range(COHORTS))
    assert max(map(parts.count, range(COHORTS))) < 2 * min(map(parts.count, range(COHORTS)))
    assert cohort("k", 100.0) == cohort("k", 3599.0)
    assert sum(cohort(f"key{i}", 0.0) == cohort(f"key{i}", 3600.0) for i in range(1000)) < 50


def turned_away(protection: Protection, tier: str, keys: int = 400) -> set[str]:
    found = set()
    for i in range(keys):
        record = CallRecord("r", effective_tier=tier)
        protection.leave(record)
        try:
            protection.admit(record, f"key{i}")
        except CapacityUnavailable:
            assert tier == "flex"
            assert record.shed
            found.add(f"key{i}")
        except Overloaded:
            assert tier == "default"
            assert record.shed
            found.add(f"key{i}")
        protection.leave(record)
        protection.leave(record)
    return found


def test_flex_that_waits_leaves_room_for_the_others() -> None:
    running_now = [0]
    protection = Protection(Server(max_requests_in_flight=100), lambda: running_now[0], Clock())
    waiting = []
    for running_now[0] in range(50):
        waiting.append(CallRecord("r", effective_tier="flex"))
        protection.admit(waiting[-1], "k")
    with pytest.raises(CapacityUnavailable):
        protection.admit(CallRecord("r", effective_tier="flex"), "k")
    assert not turned_away(protection, "default")
    protection.leave(waiting[0])
    protection.admit(CallRecord("r", effective_tier="flex"), "k")


def test_flex_goes_first_then_more_and_more_of_default_and_priority_never() -> None:
    running_now = [0]
    clock = Clock()
    protection = Protection(Server(max_requests_in_flight=1000), lambda: running_now[0], clock)
    shares = []
    for running_now[0] in (799, 800, 899, 900, 950, 990, 1000):
        assert not turned_away(protection, "priority")
        shares.append((len(turned_away(protection, "flex")) / 400, len(turned_away(protection, "default")) / 400))
    flex, default = zip(*shares, strict=True)
    assert flex == (0, 1, 1, 1, 1, 1, 1)
    assert default[:3] == (0, 0, 0)
    assert list(default[3:]) == sorted(default[3:])
    assert 0 < default[3] < 0.05
    assert 0.4 < default[4] < 0.6
    assert default[6] == 1
    running_now[0] = 950
    for _ in range(3):
        clock.now += 1.1
        protection.note_lag(0)
    few, again = turned_away(protection, "default"), turned_away(protection, "default")
    assert few == again  # whole keys: the others go on undisturbed


def test_a_lag_counts_once_it_has_lasted() -> None:
    protection = Protection(Server(max_loop_lag=0.1), lambda: 0, Clock())
    for _ in range(LASTING - 1):
        protection.note_lag(5.0)
    assert not turned_away(protection, "flex")
    protection.note_lag(0.11)
    assert turned_away(protection, "flex")
    assert not turned_away(protection, "default")
    for _ in range(LASTING):
        protection.note_lag(0.3)
    assert 0.3 < len(turned_away(protection, "default")) / 400 < 0.9
    for _ in range(LASTING):
        protection.note_lag(0.4)
    assert len(turned_away(protection, "default")) == 400
    assert not turned_away(protection, "priority")


async def test_a_late_event_loop_is_noticed() -> None:
    protection = Protection(Server(max_loop_lag=0.05), lambda: 0)
    await protection.start()
    try:
        for _ in range(4 * LASTING):
            time.sleep(0.16)  # what is to be noticed
            await asyncio.sleep(0)
        assert turned_away(protection, "flex")
    finally:
        await protection.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_busy_worker_over_http(stream: bool) -> None:
    """Ten places: eight are taken by streams that go on, so flex is refused and costs nothing while default gets in."""
    models = {"m": model("demo-ok", **FLEX), "slow": model("demo-endless+gap=0.05", **FLEX)}
    server = {"max_requests_in_flight": 10, "max_loop_lag": None}
    keys = [{"name": "a", "key": KEY, "limits": {"rpm": 12}}]
    async with running(models, server=server, keys=keys) as (gateway, _):
        busy = [asyncio.ensure_future(post(gateway, model="slow", stream=True)) for _ in range(8)]
        while gateway.state.in_flight < 8:
            await asyncio.sleep(0.01)
        for _ in range(5):
            status, headers, (body,) = await post(gateway, service_tier="flex", stream=stream)
            assert (status, body["error"]["code"]) == (429, "resource_unavailable")
            assert float(headers["retry-after-ms"]) >= 5000
        assert (await post(gateway, stream=stream))[0] == 200
        assert (await post(gateway, service_tier="priority", stream=stream))[0] == 200
        assert gateway.registry.get_sample_value("sluice_worker_shed_total", {"tier": "flex"}) == 5
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
