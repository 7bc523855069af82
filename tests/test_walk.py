"""Which deployment is next: every one once, then again with a pause, within the retry budget; and when all are out."""

import random
from collections import Counter

import pytest

from adapters.errors import ErrorKind, ProviderError, UnsupportedParameter
from config.schema import Health, Retries
from gateway.fleet import Fleet
from gateway.upstream import DeploymentFull
from gateway.walk import Walk

from .test_routing import route
from .test_strategies import Clock

NONE = Retries(budget_floor=0, budget_percent=0)


def failure(kind: ErrorKind = ErrorKind.SERVER, retry_after: float | None = None) -> ProviderError:
    return ProviderError(kind, "x", retry_after=retry_after)


def walked(walk: Walk, *failures: Exception) -> list[str]:
    """The deployments of a walk whose attempts fail so."""
    first = walk.first()
    way = [first.config.model] if first else []
    for each in failures:
        if not walk.goes_on(each):
            break
        assert walk.following is not None
        way.append(walk.following.config.model)
    return way


def walk(fleet: Fleet, *models: str, repeat: bool = True, left: int | None = None, **retries: float) -> Walk:
    made = route("a", *({"model": m} for m in models))
    return Walk("a", made.deployments, fleet, Retries(**retries), repeat=repeat, left=left)  # type: ignore[arg-type]


def test_every_deployment_once_then_again() -> None:
    assert walked(walk(Fleet(), "x", "y", attempts=5), *[failure()] * 9) == ["x", "y", "x", "y"]
    assert walked(walk(Fleet(), "x", "y", "z"), *[failure()] * 9) == ["x", "y", "z"]
    assert walked(walk(Fleet(), "x", "y", repeat=False), *[failure()] * 9) == ["x", "y"]


@pytest.mark.parametrize("kind", [ErrorKind.INVALID_REQUEST, ErrorKind.CONTEXT_LENGTH, ErrorKind.CONTENT_POLICY])
def test_the_requests_own_fault_ends_it(kind: ErrorKind) -> None:
    assert walked(walk(Fleet(), "x", "y"), failure(kind)) == ["x"]


@pytest.mark.parametrize("unsent", [UnsupportedParameter("a", "b"), DeploymentFull(ErrorKind.OVERLOADED, "x")])
def test_what_one_provider_lacks_another_may_have_and_costs_no_retry(unsent: Exception) -> None:
    one = walk(Fleet(retries=NONE), "x", "y", "z", attempts=1)
    assert walked(one, unsent, unsent, unsent) == ["x", "y", "z"]
    assert walked(walk(Fleet(retries=NONE), "x", "y", "z", attempts=1), unsent, failure()) == ["x", "y"]


@pytest.mark.parametrize("kind", [ErrorKind.TIMEOUT, ErrorKind.AUTHENTICATION, ErrorKind.PROTOCOL])
def test_some_failures_would_only_happen_again(kind: ErrorKind) -> None:
    assert walked(walk(Fleet(), "x"), failure(kind)) == ["x"]


def test_a_pause_comes_before_a_second_turn_only_and_has_full_jitter() -> None:
    pauses = []
    for _ in range(300):
        one = walk(Fleet(), "x", "y", base_delay=1, max_delay=1.5)
        one.first()
        assert one.goes_on(failure())
        assert one.delay == 0
        assert one.goes_on(failure())
        pauses.append(one.delay)
    assert max(pauses) <= 1.5
    assert max(pauses) > 1.3
    assert min(pauses) < 0.2


def test_retry_after_is_waited_for_unless_it_is_too_long() -> None:
    for asked, way in ((20.0, ["x", "x"]), (31.0, ["x"])):
        fleet = Fleet()
        one = walk(fleet, "x", max_retry_after=30)
        error = failure(ErrorKind.RATE_LIMITED, asked)
        one.first()
        fleet["p/x"].health.failed(error)
        assert one.goes_on(error) is (len(way) == 2)
        assert len(way) == 1 or 19 < one.delay <= 20


def test_a_second_turn_is_about_what_that_deployment_said_not_the_one_asked_last() -> None:
    fleet = Fleet()
    one = walk(fleet, "x", "y", max_retry_after=30)
    soon, late = failure(ErrorKind.RATE_LIMITED, 1.0), failure(ErrorKind.RATE_LIMITED, 60.0)
    one.first()
    fleet["p/x"].health.failed(soon)
    assert one.goes_on(soon)
    fleet["p/y"].health.failed(late)
    assert one.goes_on(late)
    assert one.following is not None
    assert one.following.config.model == "x"
    assert 0.5 < one.delay <= 1
    for last in (ErrorKind.AUTHENTICATION, ErrorKind.TIMEOUT):
        assert walked(walk(Fleet(), "x", "y"), failure(), failure(last)) == ["x", "y", "x"]
        assert walked(walk(Fleet(), "x", "y"), failure(last), failure()) == ["x", "y", "y"]


def test_a_second_turn_in_place_of_one_that_is_full_is_on_the_retry_budget() -> None:
    full = DeploymentFull(ErrorKind.OVERLOADED, "x")
    assert walked(walk(Fleet(), "x", "y"), failure(), full) == ["x", "y", "x"]
    fleet = Fleet(retries=NONE)
    fleet["p/y"].health.succeeded()
    for _ in range(4):
        fleet["p/x"].health.failed(failure())
    assert walked(walk(fleet, "x", "y"), failure(), full) == ["x", "y"]


def test_failures_may_cause_a_fifth_more_requests_or_the_floor() -> None:
    for requests, retries in ((10, 3), (1000, 200)):
        fleet = Fleet(clock=Clock())
        made = Counter(len(walked(walk(fleet, "x"), failure())) for _ in range(requests))
        assert made[2] == min(retries, requests)
        denied = walk(fleet, "x")
        denied.first()
        if requests > retries:
            walked(walk(fleet, "x"), failure())
            assert not denied.goes_on(failure())
            assert denied.denied


def test_the_floor_grows_with_the_seconds_and_is_part_of_the_share() -> None:
    clock = Clock()
    fleet = Fleet(clock=clock)
    made = 0
    for second in range(30):
        clock.now = second + 0.5
        made += sum(len(walked(walk(fleet, "x"), failure())) - 1 for _ in range(5))
    at_the_floor = made
    assert 75 <= at_the_floor <= 90  # about three a second, where a fifth would be one
    for second in range(30, 60):
        clock.now = second + 0.5
        made += sum(len(walked(walk(fleet, "x"), failure())) - 1 for _ in range(50))
    assert 270 <= made - at_the_floor <= 300  # a fifth, where the floor would be 90


def test_retries_of_all_deployments_together_are_a_fifth_of_all_requests() -> None:
    """Each has the floor of its own, but one that gets few requests may not use it where others get many."""
    fleet = Fleet(clock=Clock())
    for model in ("x", "y"):
        for _ in range(3):
            fleet[f"p/{model}"].health.failed(failure(ErrorKind.SERVER))  # neither is well
    made = sum(len(walked(walk(fleet, "x", "y", attempts=2), failure())) - 1 for _ in range(1000))
    made += sum(len(walked(walk(fleet, "y", "x", attempts=2), failure())) - 1 for _ in range(3))
    assert made == 200


def test_a_deployment_that_is_well_takes_over_without_a_budget() -> None:
    fleet = Fleet(retries=NONE, clock=Clock())
    for _ in range(20):
        fleet["p/y"].health.succeeded()
    assert walked(walk(fleet, "x", "y"), failure()) == ["x", "y"]
    for _ in range(3):
        fleet["p/x"].health.failed(failure())
    assert walked(walk(fleet, "y", "x"), failure()) == ["y"]


def test_what_takes_over_for_free_is_counted() -> None:
    fleet = Fleet(clock=Clock())
    for _ in range(20):
        fleet["p/y"].health.succeeded()
    assert [walked(walk(fleet, "x", "y"), failure()) for _ in range(20)] == [["x", "y"]] * 20
    for _ in range(3):
        fleet["p/y"].health.failed(failure())
    assert walked(walk(fleet, "x", "y"), failure()) == ["x"]


def test_one_that_was_out_must_show_that_it_is_well() -> None:
    clock = Clock()
    fleet = Fleet(Health(consecutive_failures=1), NONE, clock)
    fleet["p/y"].health.failed(failure())
    clock.now += 10
    assert fleet["p/y"].health.available()
    for _ in range(49):
        fleet["p/y"].health.succeeded()
        assert not fleet["p/y"].health.well()
    fleet["p/y"].health.succeeded()
    assert fleet["p/y"].health.well()


def test_a_fallback_model_has_one_attempt_where_the_first_used_them_up() -> None:
    assert walked(walk(Fleet(), "x", "y", left=1), failure()) == ["x"]


def test_when_all_are_out_one_call_a_second_may_probe() -> None:
    clock = Clock()
    fleet = Fleet(Health(consecutive_failures=1, open_seconds=300), clock=clock)
    for name in ("x", "y"):
        fleet[f"p/{name}"].health.failed(failure())
    assert [walked(walk(fleet, "x", "y")) for _ in range(3)][1:] == [[], []]
    clock.now += 1
    fleet["p/x"].health.failed(failure())
    fleet["p/y"].health.failed(failure())
    probed = walk(fleet, "x", "y").first()
    assert probed is not None
    fleet[probed.id].health.succeeded()
    assert walked(walk(fleet, "x", "y"))  # the model is back at once, whatever the open time was


def test_one_that_cools_down_is_no_reason_not_to_probe_the_other() -> None:
    clock = Clock()
    fleet = Fleet(Health(consecutive_failures=1, open_seconds=300), clock=clock)
    fleet["p/x"].health.failed(failure(ErrorKind.RATE_LIMITED, 60))
    fleet["p/y"].health.failed(failure())
    assert walked(walk(fleet, "x", "y")) == ["y"]
    assert walked(walk(fleet, "x", "y")) == []
    clock.now += 1
    fleet["p/y"].health.release()
    assert walked(walk(fleet, "x", "y")) == ["y"]
    clock.now += 60
    assert walked(walk(fleet, "x", "y")) == ["x"]


def test_a_probe_whose_budget_is_denied_can_be_made_by_the_next() -> None:
    clock = Clock()
    fleet = Fleet(Health(consecutive_failures=1), NONE, clock)
    fleet["p/y"].health.failed(failure())
    clock.now += 10  # half open
    assert walked(walk(fleet, "x", "y"), failure()) == ["x"]
    assert fleet["p/y"].health.available()


def test_the_reluctant_come_last() -> None:
    fleet = Fleet(clock=Clock())
    fleet["p/x"].health.slow()
    assert walked(walk(fleet, "x", "y"), failure()) == ["y", "x"]


FAILURES = (*ErrorKind, UnsupportedParameter("a", "b"))


def test_a_walk_begun_without_it_goes_on_like_any_other() -> None:
    """Its first turn is the same as that of the fast path: the same order, pauses, attempts and budgets."""
    rng = random.Random(5)
    for case in range(400):
        models = "xyz"[: rng.randint(1, 3)]
        failures = [f if isinstance(f, Exception) else failure(f) for f in rng.choices(FAILURES, k=5)]
        left, repeat = rng.choice([None, 1, 2, 5]), rng.random() < 0.5
        budget = rng.choice([{}, {"budget_floor": 0, "budget_percent": 0}])
        reluctant = rng.sample(models[1:], rng.randint(0, len(models) - 1))
        seen = []
        for straight in (False, True):
            clock = Clock()
            fleet = Fleet(retries=Retries(**budget), clock=clock)
            for model in reluctant:
                fleet[f"p/{model}"].health.slow()
            made = route("a", *({"model": m} for m in models)).deployments
            begun = made[0] if straight and fleet["p/x"].begin(clock()) else None
            one = Walk("a", made, fleet, Retries(attempts=5), repeat=repeat, left=left, begun=begun)
            assert straight is (begun is not None)
            if begun is None:
                assert one.first() is made[0]
            way = []
            random.seed(case)
            for each in failures:
                if not one.goes_on(each):
                    break
                assert one.following is not None
                way.append((one.following.id, one.delay))
            seen.append((way, one.denied, [fleet[d.id].retries.counts() for d in made]))
        assert seen[0] == seen[1]
