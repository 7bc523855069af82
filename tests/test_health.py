"""The breaker and the cool-down of one deployment, on a clock of the test's own."""

import random

from adapters.errors import ErrorKind, ProviderError
from adapters.ratelimits import RateLimits
from config.schema import Health as HealthConfig
from gateway.fleet import Fleet
from gateway.health import Health


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def broken(kind: ErrorKind = ErrorKind.SERVER, retry_after: float | None = None) -> ProviderError:
    return ProviderError(kind, "x", retry_after=retry_after)


def test_five_failures_in_a_row_open_the_breaker_and_one_probe_closes_it() -> None:
    clock = Clock()
    health = Health(HealthConfig(), clock)
    for _ in range(4):
        health.failed(broken())
    health.succeeded()
    for _ in range(5):
        assert health.available()
        health.failed(broken())
    assert not health.available()
    assert 2.5 <= health.retry_in <= 7.5
    clock.now = 8
    assert health.available()
    assert not health.available()  # one probe at a time
    health.succeeded()
    assert health.available()


def test_a_failed_probe_doubles_the_open_time_up_to_its_end() -> None:
    clock = Clock()
    health = Health(HealthConfig(consecutive_failures=1, max_open_seconds=20), clock)
    health.failed(broken())
    for expected in (10, 20, 20):
        clock.now += 1000
        assert health.available()
        health.failed(broken())
        assert expected * 0.5 <= health.retry_in <= expected * 1.5


def test_a_probe_that_tells_nothing_leaves_the_next_one_a_try() -> None:
    clock = Clock()
    health = Health(HealthConfig(consecutive_failures=1), clock)
    health.failed(broken())
    clock.now = 100
    assert health.available()
    health.release()
    assert health.available()


def test_a_rate_limit_cools_down_as_long_as_it_says_and_opens_no_breaker() -> None:
    clock = Clock()
    health = Health(HealthConfig(consecutive_failures=1), clock)
    health.failed(broken(ErrorKind.RATE_LIMITED, 7.0))
    assert not health.available()
    clock.now = 7.0
    assert health.available()


def test_a_bad_request_says_nothing_about_the_deployment() -> None:
    health = Health(HealthConfig(consecutive_failures=1), Clock())
    health.failed(broken(ErrorKind.INVALID_REQUEST))
    assert health.available()


def test_a_success_rate_below_the_threshold_opens_the_breaker_unless_it_is_the_last() -> None:
    for last in (False, True):
        health = Health(HealthConfig(), Clock())
        for i in range(21):
            if i % 3:
                health.succeeded()
            else:
                health.failed(broken(), last=last)
            assert health.closed or i >= 19
        health.failed(broken(), last=last)
        assert health.closed is last


def test_the_last_one_needs_twice_the_failures() -> None:
    health = Health(HealthConfig(), Clock())
    for _ in range(9):
        health.failed(broken(), last=True)
    assert health.closed
    health.failed(broken(), last=True)
    assert not health.closed


def test_what_happened_eleven_seconds_ago_is_forgotten() -> None:
    clock = Clock()
    health = Health(HealthConfig(consecutive_failures=1000), clock)
    for _ in range(19):
        health.failed(broken())
    clock.now = 11
    health.succeeded()
    health.failed(broken())
    assert health.closed


def test_failures_under_way_when_it_opens_do_not_open_it_for_longer() -> None:
    health = Health(HealthConfig(), Clock())
    for _ in range(40):
        health.failed(broken())
    assert health.retry_in <= 7.5


def test_slow_start_gives_more_and_more_turns() -> None:
    clock = Clock()
    health = Health(HealthConfig(consecutive_failures=1, slow_start=30), clock)
    health.failed(broken())
    clock.now = 100
    assert health.available()
    health.succeeded()
    turns = []
    for since in (0, 15, 30):
        clock.now = 100 + since
        turns.append(sum(not health.reluctant() for _ in range(1000)))
    assert 50 < turns[0] < 160
    assert 420 < turns[1] < 580
    assert turns[2] == 1000


def test_rate_limit_headers_make_reluctant_and_never_unavailable() -> None:
    clock = Clock()
    health = Health(HealthConfig(), clock)
    health.hinted(RateLimits(requests=5, tokens=100, reset=60))
    assert not health.reluctant()
    health.hinted(RateLimits(requests=0, tokens=100, reset=60))
    assert health.reluctant()
    assert health.available()
    clock.now = 10
    assert not health.reluctant()


def test_a_slow_deployment_is_left_alone_for_longer_each_time() -> None:
    clock = Clock()
    health = Health(HealthConfig(open_seconds=5), clock)
    for seconds in (5, 10, 20):
        health.slow()
        clock.now += seconds - 0.1
        assert health.reluctant()
        clock.now += 0.2
        assert not health.reluctant()


def test_only_the_probe_decides_over_a_breaker_that_is_open() -> None:
    """Requests that were under way when it opened neither prolong it nor let another probe in."""
    clock = Clock()
    health = Health(HealthConfig(consecutive_failures=1), clock)
    health.failed(broken())
    clock.now = 100
    assert health.available()
    assert health.take()
    assert not health.take()  # whoever begins after it is no probe
    for _ in range(10):
        health.failed(broken(), probe=False)
    assert health.known.open_seconds == 5
    assert not health.available()  # the probe is still under way
    health.failed(broken(), probe=True)
    assert health.known.open_seconds == 10


def test_a_probe_that_was_never_made_does_not_keep_the_breaker_open_for_ever() -> None:
    clock = Clock()
    health = Health(HealthConfig(consecutive_failures=1), clock)
    health.failed(broken())
    clock.now = 100
    assert health.available()
    clock.now = 159
    assert not health.available()
    clock.now = 161
    assert health.available()


def test_one_that_is_ready_would_have_been_chosen_first_with_more_thought() -> None:
    rng, ready, others = random.Random(3), 0, 0
    for _ in range(2000):
        clock = Clock()
        health = Health(HealthConfig(consecutive_failures=2), clock)
        for _ in range(rng.randint(0, 5)):
            clock.now += rng.choice([0, 1, 20])
            rng.choice(
                [
                    health.succeeded,
                    health.slow,
                    health.available,
                    lambda h=health: h.failed(broken()),
                    lambda h=health: h.failed(broken(ErrorKind.RATE_LIMITED)),
                    lambda h=health: h.hinted(RateLimits(requests=0, reset=5)),
                ]
            )()
        chosen = health.serves and not health.reluctant()
        if health.ready(clock.now):
            ready += 1
            assert chosen
            assert health.available()
            assert not health.take()
        elif chosen:
            others += 1  # the dice of a slow start said so
    assert ready > 200
    assert others < 100


def test_a_first_attempt_counts_where_it_is_made_and_an_answer_where_it_came_from() -> None:
    clock = Clock()
    one = Fleet(HealthConfig(consecutive_failures=1), clock=clock)["p/x"]
    assert one.begin(clock())
    one.answered(stream=False, size=10, seconds=0.5, now=clock())
    assert one.retries.counts()[0] == 1
    assert one.load.latency(False, 10) == 0.5
    one.health.failed(broken())
    assert not one.begin(clock())
    assert one.retries.counts()[0] == 1
    one.answered(stream=False, size=10, seconds=0.5, now=clock())  # as a probe's
    assert one.health.closed
