"""The breaker and the cool-down of one deployment, on a clock of the test's own."""

from adapters.errors import ErrorKind, ProviderError
from config.schema import Health as HealthConfig
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
