"""Admission by class: the rules one by one, then all of them under three times too much, on a virtual clock."""

import random

import pytest

from benchmarks.tiers import Simulation, VirtualTime, overload
from gateway.capacity import ENOUGH, Capacity
from gateway.fairness import FairQueue
from gateway.scheduler import DEFAULT, FLEX, PRIORITY, Outcome, Scheduler, State, Ticket


class Desk:
    """A scheduler of a pool of ``capacity`` on a virtual clock, and everybody who was told something."""

    def __init__(self, capacity: int, max_queue: int = 1000) -> None:
        self.time = VirtualTime()
        self.scheduler = Scheduler(Capacity(capacity, 1), max_queue, self.time.clock, self.time.call_later)
        self.told: list[Ticket] = []

    def ask(self, level: int, key: str = "k", wait: float = 10, cost: int = 1) -> Ticket:
        return self.scheduler.enter(level, key, cost, wait, self.told.append)

    def fill(self, level: int, number: int, **more: float) -> list[Ticket]:
        return [self.ask(level, **more) for _ in range(number)]  # type: ignore[arg-type]


def states(tickets: list[Ticket]) -> list[State]:
    return [t.state for t in tickets]


def test_default_leaves_head_room_which_priority_takes() -> None:
    desk = Desk(10)
    assert states(desk.fill(DEFAULT, 10)) == [State.ADMITTED] * 9 + [State.WAITING]
    assert states(desk.fill(PRIORITY, 2)) == [State.ADMITTED, State.WAITING]


def test_a_pool_of_one_serves_everybody() -> None:
    for level in (PRIORITY, DEFAULT, FLEX):
        assert Desk(1).ask(level).state is State.ADMITTED


def test_flex_gets_in_only_while_the_pool_is_far_from_full_and_nobody_else_waits() -> None:
    desk = Desk(10)
    assert states(desk.fill(FLEX, 8, wait=0)) == [State.ADMITTED] * 7 + [State.SHED]
    desk = Desk(10)
    desk.scheduler.elsewhere = (0, 1, 0)  # at another worker
    assert desk.ask(FLEX, wait=0).state is State.SHED


def test_priority_keeps_to_four_fifths_while_default_waits() -> None:
    desk = Desk(10)
    busy = desk.fill(PRIORITY, 10)
    waiting = desk.ask(DEFAULT)
    desk.ask(PRIORITY)
    desk.scheduler.leave(busy[0])
    assert waiting.state is State.ADMITTED  # 9 of priority would be more than 8


@pytest.mark.parametrize("capacity", [1, 2, 3, 4, 5, 10, 40])
def test_default_gets_its_fifth_of_pools_of_every_size(capacity: int) -> None:
    desk = Desk(capacity)
    running = desk.fill(PRIORITY, capacity)
    default = desk.fill(DEFAULT, 200, wait=900)
    desk.fill(PRIORITY, 5, wait=900)
    served = [0, 0]
    for _ in range(500):
        ticket = running.pop(0)
        served[ticket.level] += 1
        desk.scheduler.leave(ticket)
        desk.ask(PRIORITY, wait=900)
        running += [t for t in desk.told if t.state is State.ADMITTED and t not in running]
        desk.told.clear()
        desk.time.run(desk.time.now + 0.001)
    assert 0.17 <= served[DEFAULT] / 500 <= 0.25, served
    assert states(default).count(State.WAITING) > 50


def test_flex_that_waits_gets_a_slot_every_ten_seconds_whoever_else_waits() -> None:
    desk = Desk(4)
    busy = desk.fill(PRIORITY, 4)
    queued = desk.ask(FLEX, wait=900)
    for _ in range(20):
        desk.time.run(desk.time.now + 1)
        desk.scheduler.leave(busy.pop(0))
        busy += desk.fill(PRIORITY, 2)
    assert queued.state is State.ADMITTED
    assert queued.admitted == pytest.approx(10, abs=1.5)


def test_one_of_eighty_admissions_is_flex_that_waits_in_a_small_pool_too() -> None:
    desk = Desk(10)
    busy = desk.fill(PRIORITY, 10)
    flex = desk.fill(FLEX, 20, wait=900)
    for _ in range(1000):  # within a second: no slot is due by time
        desk.time.run(desk.time.now + 0.001)
        desk.scheduler.leave(busy.pop(0))
        busy += desk.fill(PRIORITY, 1)
        for ticket in flex:
            if ticket.state is State.ADMITTED:
                desk.scheduler.leave(ticket)
    assert 11 <= states(flex).count(State.GONE) <= 13


def test_what_a_provider_says_is_left_holds_requests_back_until_it_says_more_or_the_moment_is_over() -> None:
    desk = Desk(10)
    desk.scheduler.capacity.told("a", 2, 5.0)
    tickets = desk.fill(DEFAULT, 4)
    assert states(tickets) == [State.ADMITTED] * 2 + [State.WAITING] * 2
    desk.scheduler.leave(tickets[0])
    assert tickets[2].state is State.WAITING  # a place, but the provider would refuse it
    desk.scheduler.capacity.told("a", 1, 5.0)
    desk.scheduler.admit()
    assert states(tickets[2:]) == [State.ADMITTED, State.WAITING]
    desk.time.run(5.1)  # woken by a timer: nothing else happens
    assert tickets[3].state is State.ADMITTED
    desk = Desk(10)
    desk.scheduler.capacity.told("a", 100, 5.0)  # more than there are places: it says nothing
    assert states(desk.fill(DEFAULT, 9)) == [State.ADMITTED] * 9


def test_one_of_two_providers_that_has_room_is_enough() -> None:
    capacity = Capacity(10, 1)
    capacity.told("a", 0, 5.0)
    assert capacity.held_until(2, 1.0) is None
    capacity.told("b", 1, 3.0)
    assert capacity.held_until(2, 1.0) is None
    capacity.begun()
    assert capacity.held_until(2, 1.0) == 3.0
    assert capacity.held_until(2, 3.5) is None


def test_nobody_waits_longer_than_the_tier_may() -> None:
    desk = Desk(1)
    desk.ask(PRIORITY)
    late = desk.ask(DEFAULT, wait=10)
    desk.time.run(9.9)
    assert late.state is State.WAITING
    desk.time.run(10.1)
    assert late.state is State.SHED
    assert desk.told.count(late) == 1
    assert desk.scheduler.waiting == (0, 0, 0)


def test_full_queues_turn_flex_away_step_by_step_and_then_the_key_that_has_most_waiting() -> None:
    desk = Desk(1, max_queue=20)
    desk.ask(PRIORITY)
    flex = desk.fill(FLEX, 12, wait=900)
    assert states(flex) == [State.WAITING] * 9 + [State.SHED] * 3  # half full: no new flex
    modest = desk.fill(DEFAULT, 5, key="modest")  # type: ignore[arg-type]
    assert states(flex).count(State.WAITING) == 9
    modest += desk.fill(DEFAULT, 1, key="modest")  # type: ignore[arg-type]
    assert states(flex).count(State.WAITING) == 1  # three quarters: flex that waits, but for its guaranteed share
    greedy = desk.fill(DEFAULT, 20, key="greedy")  # type: ignore[arg-type]
    assert states(greedy) == [State.WAITING] * 10 + [State.SHED] * 10  # nearly full: no more than its part of the queue
    assert states(desk.fill(DEFAULT, 2, key="new")) == [State.WAITING] * 2  # type: ignore[arg-type]
    assert desk.scheduler.waiting == (0, 18, 1)
    assert states(desk.fill(PRIORITY, 3)) == [State.WAITING] * 3
    assert desk.scheduler.waiting == (3, 16, 1)  # full: of default, whoever has most waiting
    assert states(greedy).count(State.WAITING) == 8
    assert states(modest) == [State.WAITING] * 6
    assert desk.ask(FLEX, wait=900).state is State.SHED
    assert states(desk.fill(PRIORITY, 20)) == [State.WAITING] * 17 + [State.SHED] * 3
    assert desk.scheduler.waiting == (20, 0, 0)  # priority alone: now flex loses even its guaranteed share


def test_the_steps_of_full_queues_are_not_taken_back_at_once() -> None:
    desk = Desk(1, max_queue=20)
    desk.ask(PRIORITY)
    waiting = desk.fill(DEFAULT, 10)
    assert desk.ask(FLEX, wait=900).state is State.WAITING  # its guaranteed share
    assert desk.ask(FLEX, wait=900).state is State.SHED
    for ticket in waiting[:5]:
        desk.scheduler.leave(ticket)
    assert desk.ask(FLEX, wait=900).state is State.SHED  # calm, but for a moment only
    desk.time.run(desk.time.now + 1.5)
    assert states(desk.fill(FLEX, 2, wait=900)) == [State.WAITING] * 2


def test_who_leaves_while_waiting_takes_no_slot() -> None:
    desk = Desk(1)
    busy = desk.ask(DEFAULT)
    gone, stays = desk.ask(DEFAULT), desk.ask(DEFAULT)
    desk.scheduler.leave(gone)
    desk.scheduler.leave(gone)
    desk.scheduler.leave(busy)
    assert states([gone, stays]) == [State.GONE, State.ADMITTED]
    assert desk.scheduler.running == [0, 1, 0]


def test_losses_shrink_the_capacity_once_per_round_trip_and_clean_ends_grow_it_back() -> None:
    desk = Desk(100)
    tickets = desk.fill(PRIORITY, 100)
    desk.time.run(1)
    for ticket in tickets[:20]:
        desk.scheduler.leave(ticket, Outcome.OVERLOADED)
    assert desk.scheduler.capacity.limit == pytest.approx(70)
    for ticket in tickets[20:60]:
        desk.scheduler.leave(ticket, Outcome.CLEAN)
    assert 70.4 < desk.scheduler.capacity.limit < 71


def test_a_loss_in_an_idle_pool_says_nothing_of_its_capacity() -> None:
    capacity = Capacity(100, 4)
    capacity.overloaded(0, 1, in_flight=3)
    assert capacity.limit == 100


def test_the_capacity_keeps_to_its_bounds_and_scales_with_the_share() -> None:
    capacity = Capacity(100, 10)
    for now in range(50):
        capacity.overloaded(now, now + 1, 100)
    assert capacity.limit == pytest.approx(10)
    capacity.share = 50
    assert capacity.limit == pytest.approx(5)
    for _ in range(10_000):
        capacity.clean(100)
    assert capacity.limit == 50


def test_slow_first_tokens_shrink_the_capacity_but_long_prompts_do_not() -> None:
    capacity = Capacity(100, 10)
    for size in (100, 100_000):
        for _ in range(2 * ENOUGH):
            capacity.first_token(size / 1000, size, 0, 0, 100)
    assert capacity.limit == 100
    for _ in range(10):
        capacity.first_token(0.5, 100, 1, 2, 100)
    assert capacity.limit == pytest.approx(90)


def test_a_queue_serves_keys_by_what_they_cost() -> None:
    queue: FairQueue[Ticket] = FairQueue()
    for key, cost, number in (("dear", 10, 5), ("cheap", 1, 50)):
        for _ in range(number):
            queue.push(Ticket(key, cost, DEFAULT, 0, lambda _: None))
    served = [queue.pop() for _ in range(22)]
    assert 2 <= sum(t.key == "dear" for t in served) <= 3
    assert len(queue) == 33


def test_random_comings_and_goings_leave_nothing_behind() -> None:
    rng = random.Random(7)
    desk = Desk(8, max_queue=20)
    alive: list[Ticket] = []
    for _ in range(5_000):
        alive.append(desk.ask(rng.randrange(3), f"k{rng.randrange(5)}", rng.choice((0, 1, 5)), rng.randrange(1, 900)))
        desk.time.run(desk.time.now + rng.expovariate(3))
        if rng.random() < 0.9:
            desk.scheduler.leave(alive.pop(rng.randrange(len(alive))), rng.choice(list(Outcome)))
        assert desk.scheduler.in_flight <= 8
        assert sum(desk.scheduler.waiting) <= 20
    assert len(desk.told) == len(set(map(id, desk.told)))
    for ticket in alive:
        desk.scheduler.leave(ticket)
    assert desk.scheduler.in_flight == 0
    assert desk.scheduler.waiting == (0, 0, 0)


@pytest.mark.parametrize("replicas", [1, 2])
def test_three_times_too_much_for_five_minutes(replicas: int) -> None:
    """Priority does not notice, default gets what is left, flex is shed first and yet goes on."""
    simulation = Simulation(overload, replicas=replicas)
    simulation.run(20)  # until the pool is full
    simulation.take()
    simulation.most_flex_at_shed_default = 0
    priority, default, flex = simulation.rush(300)
    assert priority.success >= 0.99
    assert priority.wait(0.99) < 2
    assert default.served / 300 >= 0.9 * 25 - 15  # of 25/s a tenth is head-room, priority takes 15/s
    assert simulation.most_flex_at_shed_default <= 10
    assert flex.success < default.success
    assert flex.served / 300 >= 0.01 * 25


def test_one_greedy_key_leaves_the_others_their_share() -> None:
    _, default, _ = Simulation(overload, keys=(10.0, *(1.0,) * 9)).rush(300)
    shares = default.by_key
    assert min(shares.values()) >= 0.9 * sum(shares.values()) / len(shares)


def test_a_pool_that_shrinks_is_found_out() -> None:
    simulation = Simulation(overload, capacity=40)
    simulation.run(60)
    simulation.take()
    simulation.run(240)
    seen = simulation.take()
    assert 25 < simulation.schedulers[0].capacity.limit < 60
    assert seen[PRIORITY].refused + seen[DEFAULT].refused < 0.05 * sum(s.served for s in seen)
