"""What is changed in a request for one deployment: nothing is what most requests need."""

from itertools import product
from typing import Any

from gateway.call import Call
from gateway.outgoing import outgoing
from gateway.tiers import AttemptTier

from .test_routing import route

BASE: dict[str, Any] = {"model": "a", "messages": [{"role": "user", "content": "hi"}], "temperature": 0}
MORE: tuple[dict[str, Any], ...] = (
    {},
    {"stop": None},
    {"store": True, "metadata": {"a": "b"}},
    {"service_tier": "flex"},
    {"max_tokens": 5},
)


def test_a_request_that_needs_no_change_is_the_clients_own_and_any_other_a_copy() -> None:
    made = route("a", {"model": "x"})
    for more, sent, bound in product(MORE, (None, "flex"), (None, 9)):
        request = {**BASE, **more}
        before = dict(request)
        call = Call(id="req_1", request=request, size=100, created=0)
        found, tier = outgoing(call, made, made.deployments[0], "flex", bound, AttemptTier(sent))
        expected = {k: v for k, v in request.items() if k not in ("store", "metadata", "service_tier", "stop")}
        if sent:
            expected["service_tier"] = "flex"
        if bound:
            expected.pop("max_tokens", None)
            expected["max_completion_tokens"] = bound
        assert found == expected
        assert (found is request) is (found == request and not sent and not bound)
        assert request == before
        assert tier.sent == sent
