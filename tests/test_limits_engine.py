"""Limits in memory: what is admitted, refused and told."""

import asyncio
import re
from collections.abc import Iterator, Sequence

import pytest

from config.schema import Budget, Config, Limits, LimitValues
from gateway.call import Owner, Principal
from gateway.errors import BudgetExceeded, LimitExceeded, StoreUnavailable
from gateway.limits import Amounts, Limiter
from gateway.limits.amounts import NOTHING
from gateway.limits.engine import Granted, Refused
from gateway.limits.headers import duration
from gateway.limits.memory import MemoryEngine
from gateway.limits.rules import FIELDS, NAMES, Limit, LimitSet, Rules

DAY = 86_400_000
NOON = 20_000 * DAY + DAY // 2  # 2024-10-04


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def engine(clock: Clock, **options: object) -> MemoryEngine:
    return MemoryEngine(wall=clock, monotonic=clock, **options)  # type: ignore[arg-type]


def limit(name: str, cap: int, scope: str = "k:a") -> Limit:
    field, kind, period, unit = FIELDS[name]
    return Limit(scope, field, kind, cap, cap if kind == 1 else 0, period, unit)


def limits(*given: Limit) -> LimitSet:
    return LimitSet("o", given)


def principal(*owners: Owner, version: int = 1) -> Principal:
    return Principal("a", "acme", owners=owners, version=version)


def limiter(clock: Clock, groups: dict[str, tuple[str, ...]] | None = None, **options: object) -> Limiter:
    return Limiter(engine(clock), Rules(groups or {}), **options)  # type: ignore[arg-type]


async def test_a_bucket_admits_its_burst_and_then_exactly_its_rate(clock: Clock) -> None:
    e, rpm = engine(clock), limits(limit("rpm", 60))
    admitted = 0
    for i in range(200):
        admitted += not isinstance(await e.reserve(f"r{i}", rpm, (1, 0, 0, 0, 0, 1)), Refused)
    assert admitted == 60
    clock.now += 10_500
    for i in range(200):
        admitted += not isinstance(await e.reserve(f"s{i}", rpm, (1, 0, 0, 0, 0, 1)), Refused)
    assert admitted == 60 + 10


async def test_a_window_rolls_at_midnight_and_both_days_keep_their_limit(clock: Clock) -> None:
    e, rpd = engine(clock), limits(limit("rpd", 10))
    for i in range(10):
        assert not isinstance(await e.reserve(f"r{i}", rpd, (1, 0, 0, 0, 0, 1)), Refused)
    refused = await e.reserve("x", rpd, (1, 0, 0, 0, 0, 1))
    assert isinstance(refused, Refused)
    assert refused.wait == DAY // 2
    clock.now += DAY // 2
    e.settle("r0", (1, 0, 0, 0, 0, 1))  # of yesterday: nothing of it may show up today
    for i in range(10):
        assert not isinstance(await e.reserve(f"s{i}", rpd, (1, 0, 0, 0, 0, 1)), Refused)
    assert isinstance(await e.reserve("y", rpd, (1, 0, 0, 0, 0, 1)), Refused)
    clock.now -= DAY  # a clock set back never opens an older window
    assert isinstance(await e.reserve("z", rpd, (1, 0, 0, 0, 0, 1)), Refused)


@pytest.mark.parametrize("bad", range(8))
async def test_a_refusal_by_any_limit_changes_nothing_in_the_others(clock: Clock, bad: int) -> None:
    names = ["rpm", "tpm", "itpm", "otpm", "rpd", "concurrency", "budget.day", "budget.total"]
    e, full = engine(clock), limits(*(limit(n, 1000) for n in names))
    await e.reserve("first", full, (1, 2, 1, 1, 3, 1))
    before = await e.states(full)
    tight = limits(*(limit(n, 0 if i == bad else 1000) for i, n in enumerate(names)))
    refused = await e.reserve("second", tight, (1, 2, 1, 1, 3, 1))
    assert isinstance(refused, Refused)
    assert refused.position == bad
    assert refused.wait is None
    assert await e.states(full) == before or names[bad] in ("rpm", "tpm", "itpm", "otpm")
    after = await e.states(full)
    assert [s for i, s in enumerate(after) if i != bad] == [s for i, s in enumerate(before) if i != bad]


async def test_the_same_request_twice_is_charged_once_and_settled_once(clock: Clock) -> None:
    e, money = engine(clock), limits(limit("budget.month", 100), limit("concurrency", 5))
    for _ in range(3):
        await e.reserve("r", money, (1, 0, 0, 0, 40, 1))
    assert [s.remaining for s in await e.states(money)] == [60, 4]
    for _ in range(3):
        e.settle("r", (1, 0, 0, 0, 25, 1))
    assert [(s.used, s.reserved, s.remaining) for s in await e.states(money)] == [(25, 0, 75), (0, 0, 5)]


async def test_what_costs_more_than_reserved_is_debt_that_blocks_the_next(clock: Clock) -> None:
    e, money = engine(clock), limits(limit("budget.day", 100), limit("tpm", 100))
    await e.reserve("r", money, (1, 10, 5, 5, 10, 1))
    e.settle("r", (1, 250, 5, 5, 130, 1))
    day, tpm = await e.states(money)
    assert (day.used, day.remaining, tpm.remaining) == (130, 0, 0)
    assert isinstance(await e.reserve("s", money, NOTHING), Refused)
    assert tpm.reset == 150_000  # 250 tokens at 100 a minute


async def test_adjust_takes_the_difference_or_leaves_all_as_it_was(clock: Clock) -> None:
    e, money = engine(clock), limits(limit("budget.day", 100), limit("concurrency", 1))
    await e.reserve("r", money, (1, 0, 0, 0, 40, 1))
    assert not isinstance(await e.adjust("r", money, (1, 0, 0, 0, 90, 1)), Refused)
    before = await e.states(money)
    assert isinstance(await e.adjust("r", money, (1, 0, 0, 0, 101, 1)), Refused)
    assert await e.states(money) == before
    e.settle("r", (1, 0, 0, 0, 7, 1))
    assert [(s.used, s.reserved) for s in await e.states(money)] == [(7, 0), (0, 0)]


async def test_a_limit_lowered_below_its_use_blocks_and_does_not_crash(clock: Clock) -> None:
    e = engine(clock)
    wide, tight = limits(limit("rpm", 100), limit("rpd", 100)), limits(limit("rpm", 10), limit("rpd", 3))
    for i in range(5):
        await e.reserve(f"r{i}", wide, (1, 0, 0, 0, 0, 1))
    refused = await e.reserve("x", tight, (1, 0, 0, 0, 0, 1))
    assert isinstance(refused, Refused)
    assert refused.limit.cap == 3
    assert [s.remaining for s in await e.states(tight)] == [10, 0]


async def test_a_window_seen_first_begins_with_what_the_ledger_knows(clock: Clock) -> None:
    asked = []

    async def spent(shard: str, scope: str, start: int, end: int, without: Sequence[str] = ()) -> Amounts:
        asked.append((shard, scope, start, end))
        return Amounts(7, 10, 10, 90)

    e, money = engine(clock, spent=spent), limits(limit("budget.day", 100), limit("rpd", 10), limit("rpm", 5))
    assert isinstance(await e.reserve("r", money, (1, 0, 0, 0, 11, 1)), Refused)
    assert not isinstance(await e.reserve("s", money, (1, 0, 0, 0, 10, 1)), Refused)
    assert asked == [("o", "k:a", 20_000 * DAY, 20_001 * DAY)] * 2


async def test_requests_that_come_together_ask_the_ledger_once_and_the_first_may_leave(clock: Clock) -> None:
    asked, answer = 0, asyncio.Event()

    async def spent(shard: str, scope: str, start: int, end: int) -> Amounts:
        nonlocal asked
        asked += 1
        await answer.wait()
        return Amounts(0, cost=60)

    e, money = engine(clock, spent=spent), limits(limit("budget.day", 100))
    waiting = [asyncio.create_task(e.reserve(f"r{i}", money, (1, 0, 0, 0, 10, 1))) for i in range(30)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    answer.set()
    first, *others = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(first, asyncio.CancelledError)
    assert [isinstance(outcome, Granted) for outcome in others] == [True] * 4 + [False] * 25
    assert asked == 1


async def test_a_question_that_nobody_waits_for_ends_with_its_engine(clock: Clock) -> None:
    """The database that it asks is closed next."""
    ended = False

    async def spent(shard: str, scope: str, start: int, end: int) -> Amounts:
        nonlocal ended
        try:
            await asyncio.sleep(60)
        finally:
            ended = True
        raise AssertionError("nobody waits so long")

    e = engine(clock, spent=spent)
    waiting = asyncio.create_task(e.reserve("r", limits(limit("budget.day", 100)), (1, 0, 0, 0, 10, 1)))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert not ended
    await e.close()
    assert ended


class Book:
    """A ledger that has the row of a debit as soon as it is made, and a budget that begins with what it knows."""

    def __init__(self, clock: Clock, spent: int) -> None:
        self.engine, self.money = engine(clock, spent=self), limits(limit("budget.day", 100))
        self.spent, self.asked = spent, 0
        self.late: list[int] = []
        """Debits that come while it looks, too late for its answer."""

    def debit(self, amount: int) -> None:
        self.engine.debit(f"debit {self.spent}", self.money, (1, 0, 0, 0, amount, 0))
        self.spent += amount

    async def __call__(self, shard: str, scope: str, start: int, end: int) -> Amounts:
        self.asked += 1
        known = self.spent
        if self.late:
            self.debit(self.late.pop())
        return Amounts(0, cost=known)

    async def used(self) -> int:
        (state,) = await self.engine.states(self.money)
        return state.used


@pytest.mark.parametrize("debited", [(), (7,), (7, 11)])
async def test_a_debit_to_a_window_not_seen_yet_leaves_out_nothing_that_the_ledger_knows(
    clock: Clock, debited: tuple[int, ...]
) -> None:
    """Its own row is part of that, and counts once."""
    book = Book(clock, spent=40)
    for amount in debited:
        book.debit(amount)
    assert await book.used() == book.spent == 40 + sum(debited)
    book.debit(13)
    assert await book.used() == book.spent
    assert isinstance(await book.engine.reserve("r", book.money, (1, 0, 0, 0, 101 - book.spent, 1)), Refused)
    assert book.asked == 1


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_what_is_debited_while_the_ledger_is_asked_is_not_lost(clock: Clock, times: int) -> None:
    """It is asked again, to count it once; the third time what came meanwhile counts for certain."""
    book = Book(clock, spent=40)
    book.late = [3] * times
    assert await book.used() == book.spent
    assert book.asked == min(times + 1, 3)


async def test_a_day_that_begins_while_the_ledger_is_asked_has_what_was_debited_in_it(clock: Clock) -> None:
    async def spent(shard: str, scope: str, start: int, end: int) -> Amounts:
        clock.now += DAY
        e.debit("late", money, (1, 0, 0, 0, 9, 0))
        return Amounts(0, cost=40)  # of the day before

    e, money = engine(clock, spent=spent), limits(limit("budget.day", 100))
    e.debit("early", money, (1, 0, 0, 0, 5, 0))
    assert [s.used for s in await e.states(money)] == [9]


async def test_a_ledger_that_cannot_answer_closes_budgets(clock: Clock) -> None:
    async def spent(shard: str, scope: str, start: int, end: int, without: Sequence[str] = ()) -> Amounts:
        raise OSError("no database")

    guarded = Limiter(engine(clock, spent=spent), Rules())
    who = principal(Owner("k:a", Limits(budget=Budget(day="1"))))
    with pytest.raises(StoreUnavailable) as caught:
        await guarded.reserve("r", who, "fast", "default", Amounts(cost=1))
    assert caught.value.headers()["retry-after"] == "1"


async def test_forgotten_counters_are_those_that_look_unused(clock: Clock) -> None:
    e = engine(clock)
    await e.start()
    sets = [limits(limit("rpm", 10, f"k:{i}"), limit("rpd", 10, f"k:{i}")) for i in range(50)]
    for i, s in enumerate(sets):
        await e.reserve(f"r{i}", s, (1, 0, 0, 0, 0, 1))
        e.settle(f"r{i}", (1, 0, 0, 0, 0, 1))
    e._sweep()
    assert [s.remaining for s in await e.states(sets[7])] == [9, 9]
    clock.now += DAY
    e._sweep()
    assert not e._cells
    await e.close()


async def test_which_limits_apply() -> None:
    model = {"fast": LimitValues(rpm=1), "cheap": LimitValues(tpd=2), "other": LimitValues(rpm=3)}
    key = Owner("k:a", Limits(rpm=10, per_model=model, per_tier={"flex": LimitValues(concurrency=4)}))
    org = Owner("o:acme", Limits(budget=Budget(week="0.000000001", total="9000000")))
    rules = Rules({"cheap": ("fast", "slow")})
    found = rules.resolve(principal(key, org), "fast", "flex")
    assert found is not None
    assert [(x.scope, x.field, x.cap) for x in found.limits] == [
        ("k:a", "r", 10),
        ("k:a|m:fast", "r", 1),
        ("k:a|m:cheap", "T", 2),
        ("k:a|s:flex", "c", 4),
        ("o:acme", "$w", 1),
        ("o:acme", "$t", 9 * 10**15),
    ]
    assert found.shard == "acme"
    assert rules.resolve(principal(key, org), "fast", "flex") is found
    plain = rules.resolve(principal(key, org), "unheard", "default")
    assert rules.resolve(principal(key, org), "unheard of", "default") is plain  # equal limits are one set
    assert rules.resolve(principal(Owner("k:b")), "fast", "default") is None


@pytest.mark.parametrize("group", [{"fast": ("fast", "slow")}, {"best": ("fast", "slow", "fast")}])
async def test_a_group_charges_a_model_once_however_often_it_names_it(
    clock: Clock, group: dict[str, tuple[str, ...]]
) -> None:
    (name,) = group
    key = Owner("k:a", Limits(per_model={name: LimitValues(rpm=10, budget=Budget(day="0.0000001"))}))
    gate = limiter(clock, group)
    for model in ("fast", "slow"):
        (await gate.reserve(model, principal(key), model, "default", Amounts(cost=20))).settle(Amounts(cost=20))
    assert {NAMES[s.limit.field]: s.used for s in await gate.usage(key, "acme")} == {"rpm": 2, "budget.day": 40}


def test_a_name_cannot_pass_for_another_scope() -> None:
    rules = Rules()
    owner = Owner("u:bob|m:fast{x}%", Limits(rpm=1))
    found = rules.resolve(principal(owner), "fast", "default")
    assert found is not None
    assert found.limits[0].scope == "u:bob%7Cm:fast%7Bx%7D%25"


async def test_without_limits_no_counter_is_touched(clock: Clock) -> None:
    free = limiter(clock)
    reservation = await free.reserve("r", principal(Owner("k:a")), "fast", "default", Amounts())
    reservation.settle(Amounts())
    reservation.checkpoint(Amounts())
    await reservation.adjust(Amounts(cost=5))
    assert reservation.headers == {}
    assert not free.engine._cells  # type: ignore[attr-defined]


async def test_C_425_headers_tell_the_tightest_limit_of_each_family(clock: Clock) -> None:
    gate = limiter(clock)
    who = principal(Owner("k:a", Limits(rpm=5000, tpm=100_000)), Owner("o:acme", Limits(rpm=6, rpd=1000, otpm=100)))
    held = await gate.reserve("r", who, "fast", "default", Amounts(1, 1000, 20, 0))
    assert held.headers == {
        "x-ratelimit-limit-requests": "6",
        "x-ratelimit-remaining-requests": "5",
        "x-ratelimit-reset-requests": "10s",
        "x-ratelimit-limit-tokens": "100000",
        "x-ratelimit-remaining-tokens": "98980",
        "x-ratelimit-reset-tokens": "612ms",
        "x-ratelimit-limit-output-tokens": "100",
        "x-ratelimit-remaining-output-tokens": "80",
        "x-ratelimit-reset-output-tokens": "12s",
    }


def test_C_426_durations_are_those_of_go() -> None:
    pattern = re.compile(r"^(\d+h)?(\d+m(?!s))?(\d+(\.\d+)?(ms|s))?$")
    cases = {
        0: "0s",
        2: "2ms",
        60: "60ms",
        1000: "1s",
        8640: "8.64s",
        360_000: "6m0s",
        3_600_000: "1h0m0s",
        3_723_500: "1h2m3.5s",
    }
    for milliseconds, text in cases.items():
        assert duration(milliseconds) == text
        assert pattern.match(text)


async def test_C_427_reset_is_until_the_bucket_is_full(clock: Clock) -> None:
    gate = limiter(clock)
    who = principal(Owner("k:a", Limits(rpm=30_000)))
    held = await gate.reserve("r", who, "fast", "default", Amounts())
    assert held.headers["x-ratelimit-reset-requests"] == "2ms"


async def refusal(gate: Limiter, who: Principal, amounts: Amounts, times: int = 1) -> LimitExceeded:
    for i in range(times):
        await gate.reserve(f"admitted{i}", who, "fast", "default", amounts)
    with pytest.raises(LimitExceeded) as caught:
        await gate.reserve("refused", who, "fast", "default", amounts)
    return caught.value


async def test_a_rate_refusal_says_whose_limit_how_much_is_left_and_when(clock: Clock) -> None:
    error = await refusal(limiter(clock), principal(Owner("k:a"), Owner("t:red", Limits(rpm=60))), Amounts(), 60)
    assert error.to_openai()["error"] == {
        "message": "Rate limit reached for the gateway limit of team red on requests per min (RPM): "
        "Limit 60, Used 60, Requested 1. Please try again in 1s.",
        "type": "requests",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    headers = error.headers()
    assert headers["retry-after"] == "1"
    assert headers["retry-after-ms"] == "1000"
    assert headers["x-sluice-limit-scope"] == "t:red rpm"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert "x-should-retry" not in headers


async def test_C_390_a_request_larger_than_the_limit_must_not_be_retried(clock: Clock) -> None:
    error = await refusal(limiter(clock), principal(Owner("k:a", Limits(tpm=100))), Amounts(1, 90, 20), 0)
    assert error.type == "tokens"
    assert error.message.startswith("Request too large")
    assert error.headers()["x-should-retry"] == "false"
    assert "retry-after" not in error.headers()


async def test_C_391_an_exhausted_budget_must_not_be_retried(clock: Clock) -> None:
    who = principal(Owner("k:a", Limits(budget=Budget(month="1", total="5"))))
    error = await refusal(limiter(clock), who, Amounts(cost=600_000_000))
    assert isinstance(error, BudgetExceeded)
    assert error.type == error.code == "insufficient_quota"
    assert error.headers()["x-should-retry"] == "false"
    assert "retry-after" not in error.headers()
    assert "Limit $1, spent $0, reserved by requests in flight $0.6, left $0.4" in error.message


async def test_C_431_a_budget_that_resets_within_the_hour_says_when(clock: Clock) -> None:
    clock.now = 20_001 * DAY - 90_000
    who = principal(Owner("k:a", Limits(budget=Budget(day="1"))))
    error = await refusal(limiter(clock), who, Amounts(cost=600_000_000))
    assert error.headers()["retry-after"] == "90"
    assert "It resets in 1m30s." in error.message


async def test_C_434_a_long_wait_is_not_left_to_the_client_library(clock: Clock) -> None:
    error = await refusal(limiter(clock), principal(Owner("k:a", Limits(rpd=2))), Amounts(), 2)
    assert error.headers()["retry-after"] == str(DAY // 2000)
    assert error.headers()["x-should-retry"] == "false"


async def test_concurrency_is_given_back_by_settling_and_only_once(clock: Clock) -> None:
    gate, who = limiter(clock), principal(Owner("k:a", Limits(concurrency=2)))
    held = [await gate.reserve(f"r{i}", who, "fast", "default", Amounts()) for i in range(2)]
    error = await refusal(gate, who, Amounts(requests=0), 0)
    assert error.headers()["retry-after"] == "1"
    for _ in range(5):
        held[0].settle(Amounts())
    await gate.reserve("again", who, "fast", "default", Amounts())
    await refusal(gate, who, Amounts(requests=0), 0)


async def test_thresholds_are_told_once(clock: Clock) -> None:
    gate, told = limiter(clock, thresholds=(50, 80, 100)), []
    gate.on_threshold.append(lambda t: told.append((t.scope, t.budget, t.percent)))
    gate.on_threshold.append(lambda t: 1 / 0)
    who = principal(Owner("k:a", Limits(budget=Budget(day="0.000000100"))))

    async def spend(day: int) -> None:
        for i in range(10):
            held = await gate.reserve(f"{day}.{i}", who, "fast", "default", Amounts(cost=10))
            held.settle(Amounts(cost=10))

    await spend(1)
    with pytest.raises(BudgetExceeded):
        await gate.reserve("x", who, "fast", "default", Amounts(cost=1))
    assert told == [("k:a", "budget.day", percent) for percent in (50, 80, 100)]
    clock.now += DAY
    await spend(2)
    assert len(told) == 5


async def test_capacity_of_a_deployment_never_exceeds_its_limit_in_any_minute(clock: Clock) -> None:
    gate = limiter(clock, capacities={"openai/gpt": LimitValues(rpm=60)})
    admitted: list[int] = []
    for i in range(2000):
        clock.now += 137
        try:
            await gate.reserve_capacity(f"r{i}.1", "openai/gpt", Amounts())
        except LimitExceeded:
            continue
        admitted.append(clock.now)
    assert max(sum(t <= other < t + 60_000 for other in admitted) for t in admitted) <= 60
    assert len(admitted) > 200
    await gate.reserve_capacity("x", "unlimited", Amounts())


async def test_usage_lists_every_limit_of_an_owner(clock: Clock) -> None:
    gate = limiter(clock)
    owner = Owner("k:a", Limits(rpm=10, budget=Budget(day="1"), per_model={"fast": LimitValues(rpd=5)}))
    held = await gate.reserve("r", principal(owner), "fast", "default", Amounts(cost=300))
    held.settle(Amounts(cost=200))
    await gate.reserve("s", principal(owner), "fast", "default", Amounts(cost=50))
    told = [(s.limit.scope, s.limit.field, s.used, s.reserved, s.remaining) for s in await gate.usage(owner, "acme")]
    assert told == [
        ("k:a", "r", 2, 0, 8),
        ("k:a", "$d", 200, 50, 10**9 - 250),
        ("k:a|m:fast", "R", 1, 1, 3),
    ]


def configs() -> Iterator[Config]:
    yield Config()
    yield Config.model_validate(
        {
            "providers": {"p": {"adapter": "openai"}},
            "models": {"fast": {"deployments": [{"provider": "p", "model": "gpt", "limits": {"rpm": 6}}]}},
        }
    )


async def test_a_changed_configuration_keeps_what_was_counted(clock: Clock) -> None:
    first, second = configs()
    gate = Limiter.from_config(first)
    await gate.start()
    who = principal(Owner("k:a", Limits(rpm=3)))
    await gate.reserve("r", who, "fast", "default", Amounts())
    gate = gate.under(second)
    held = await gate.reserve("s", who, "fast", "default", Amounts())
    assert held.headers["x-ratelimit-remaining-requests"] == "1"
    await gate.reserve_capacity("s.1", "p/gpt", Amounts())
    with pytest.raises(LimitExceeded):
        await gate.reserve_capacity("s.2", "p/gpt", Amounts())
    await gate.close()
