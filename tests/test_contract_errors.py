"""What a client is told when something is refused or fails: checklist C-360 to C-405, through the gateway."""

import json
import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest
import pytest_asyncio
from aiohttp import web

from config.schema import Server
from gateway.endpoints.exchange import Exchange
from gateway.endpoints.routes import Routes
from gateway.server import Serving, Site, State
from gateway.throttle import Failures

from .contract import DIALECTS, TOOL, USER, Contract, contract
from .running import KEY, deployment

pytestmark = pytest.mark.asyncio(loop_scope="module")
DENSE = "sk-sl-dense-0123456789abcdef"
POOR = "sk-sl-poor-0123456789abcdef"
NARROW = "sk-sl-narrow-0123456789abcdef"
WIDE = "sk-sl-wide-0123456789abcdef"
KEYS = [
    {"name": "test", "key": KEY},
    {"name": "dense", "key": DENSE, "limits": {"rpm": 2, "tpm": 20_000}},
    {"name": "wide", "key": WIDE, "limits": {"tpm": 20_000}},
    {"name": "poor", "key": POOR, "limits": {"budget": {"total": "0.000001"}}},
    {"name": "narrow", "key": NARROW, "models": ["openai-*"], "tiers": {"allowed": ["default"]}},
]
MODELS = {
    "late": [deployment("demo-slow+delay=5", timeouts={"first_byte": 0.1, "response": 0.1})],
    "flex": [deployment("demo-flex-refused", tiers=["default", "flex"])],
    "strict": {"deployments": [deployment("demo-echo", "anthropic")], "params": {"unsupported": "reject"}},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sluice() -> AsyncIterator[Contract]:
    async with contract(MODELS, keys=KEYS) as found:
        yield found


def bearing(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def sdk(sluice: Contract, key: str = KEY, retries: int = 2) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{sluice.gateway.url}/v1", api_key=key, max_retries=retries)


# upstream script: status, type, code that the client sees
FAILURES: dict[str, tuple[int, str, str | None]] = {
    "400": (400, "invalid_request_error", "context_length_exceeded"),
    "context": (400, "invalid_request_error", "context_length_exceeded"),
    "content-filter": (400, "invalid_request_error", "content_filter"),
    "401": (502, "server_error", "upstream_error"),
    "403": (502, "server_error", "upstream_error"),
    "404": (502, "server_error", "upstream_error"),
    "413": (413, "invalid_request_error", None),
    "429": (429, "requests", "rate_limit_exceeded"),
    "quota": (503, "service_unavailable_error", "no_healthy_upstream"),
    "500": (502, "server_error", "upstream_error"),
    "502": (502, "server_error", "upstream_error"),
    "503": (503, "service_unavailable_error", "server_is_overloaded"),
    "529": (503, "service_unavailable_error", "server_is_overloaded"),
    "refused": (502, "server_error", "upstream_error"),
}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("stream", [False, True])
async def test_C_360_361_362_374_395_396_399_400_each_failure_has_its_error(dialect: str, stream: bool) -> None:
    async with contract() as fresh:  # a refused credential puts a deployment aside at once
        replies = {script: await fresh.ask(f"{dialect}-{script}", stream=stream) for script in FAILURES}
    for script, reply in replies.items():
        error = reply.error  # checks the four keys, their types and the content type
        assert (reply.status, error["type"], error["code"]) == FAILURES[script], script
        # The rest is about the gateway's request, not about the client's.
        assert reply.status == 400 or error["param"] is None, script
        assert reply.headers["x-request-id"].startswith("req_"), script


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_C_175_374_too_long_a_context(sluice: Contract, dialect: str) -> None:
    async with sdk(sluice) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model=f"{dialect}-context", messages=[USER])  # type: ignore[list-item]
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")


async def test_C_383_395_a_slow_provider_is_504(sluice: Contract) -> None:
    for stream in (False, True):
        reply = await sluice.ask("late", stream=stream)
        assert (reply.status, reply.error["code"]) == (504, "upstream_timeout")


SECRETS = ("api.openai", "sk-", "127.0.0.1", "Traceback", "demo-organization", "org-", "http://", "https://")


async def test_C_363_errors_tell_nothing_of_the_inside(sluice: Contract) -> None:
    for dialect in DIALECTS:
        for script in FAILURES:
            raw = (await sluice.ask(f"{dialect}-{script}")).raw.decode()
            assert not [s for s in SECRETS if s in raw], (script, raw)
    account = "You exceeded your current quota for org-secret at https://billing.example/sk-abc"
    told = {"error": {"message": account, "type": "insufficient_quota", "code": "insufficient_quota", "param": None}}
    for status in (401, 403, 429, 500, 503):
        sluice.says("verbatim-0", told, status=status)
        raw = (await sluice.ask("verbatim-0")).raw.decode()
        assert not [s for s in SECRETS if s in raw], (status, raw)


SHAPES: list[tuple[int, bytes, int]] = [
    (400, b'{"error":"text"}', 400),
    (400, b'{"message":"bare"}', 400),
    (400, b'{"detail":[{"loc":["body"],"msg":"m"}]}', 400),
    (400, b'{"error":{"message":"m","type":"t","code":7}}', 400),
    (422, b'{"detail":"m"}', 400),
    (500, b"<html>oops</html>", 502),
    (500, b"", 502),
    (500, b"\xff\xfe", 502),
    (529, b"[]", 503),
    (429, b"null", 429),
]


async def test_C_361_386_402_foreign_error_shapes_are_normalized(sluice: Contract) -> None:
    for status, body, expected in SHAPES:
        sluice.says("verbatim-1", body, status=status)
        reply = await sluice.ask("verbatim-1")
        assert reply.status == expected, body
        assert reply.error["message"], body


async def test_C_401_an_error_inside_a_200(sluice: Contract) -> None:
    inside = {"error": {"message": "overloaded", "type": "server_error", "code": 503, "param": None}}
    sluice.says("verbatim-2", inside)
    for model in ("verbatim-2", "mended-2"):
        for stream in (False, True):
            reply = await sluice.ask(model, stream=stream)
            assert reply.status in (502, 503), (model, stream)
            assert reply.error["message"]


async def test_C_371_what_a_model_does_not_support(sluice: Contract) -> None:
    for parameter in ({"logprobs": True}, {"n": 2}, {"logit_bias": {"1": 1}}):
        reply = await sluice.ask("anthropic-echo", **parameter)
        (name,) = parameter
        assert (reply.status, reply.error["param"], reply.error["code"]) == (400, name, "unsupported_parameter")
        assert reply.error["message"] == f"Unsupported parameter: '{name}' is not supported with this model."


async def test_C_376_377_no_key_and_a_wrong_key(sluice: Contract) -> None:
    async with aiohttp.ClientSession() as http:
        url = f"{sluice.gateway.url}/v1/chat/completions"
        async with http.post(url, json={"model": "x"}) as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"]) == (401, None)
            assert error["message"].startswith("You didn't provide an API key.")
    async with sdk(sluice, "sk-wrong-0123456789abcdef-tail") as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.chat.completions.create(model="x", messages=[USER])  # type: ignore[list-item]
    assert (caught.value.code, caught.value.type) == ("invalid_api_key", "invalid_request_error")


async def test_C_378_keys_are_not_bound_to_addresses(sluice: Contract) -> None:
    for address in ("203.0.113.7", "::1", "unknown"):
        assert (await sluice.ask("openai-ok", headers={"x-forwarded-for": address})).status == 200


async def test_C_024_380_a_key_without_a_right(sluice: Contract) -> None:
    reply = await sluice.ask("openai-ok@openai", headers=bearing(NARROW))
    assert (reply.status, reply.error["code"]) == (403, "permission_denied")
    reply = await sluice.ask("anthropic-ok", headers=bearing(NARROW))
    assert (reply.status, reply.error["code"]) == (404, "model_not_found")
    unknown = await sluice.ask("no-such-model", headers=bearing(NARROW))
    assert reply.error["message"].replace("anthropic-ok", "no-such-model") == unknown.error["message"]


async def test_C_381_no_such_model(sluice: Contract) -> None:
    async with sdk(sluice) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(model="no-such", messages=[USER])  # type: ignore[list-item]
    assert (caught.value.code, caught.value.param) == ("model_not_found", None)
    assert "`no-such` does not exist or you do not have access to it" in caught.value.message


async def test_C_382_no_such_object(sluice: Contract) -> None:
    reply = await sluice.send("GET", "/v1/models/no-such")
    assert (reply.status, reply.error["code"], reply.error["param"]) == (404, "model_not_found", "model")
    reply = await sluice.send("GET", "/v1/chat/completions/chatcmpl-none")
    assert (reply.status, reply.error["code"], reply.error["param"]) == (404, "not_found", "completion_id")


async def test_C_384_386_bad_input_is_neither_409_nor_422(sluice: Contract) -> None:
    for body in ({}, {"model": 1}, {"model": "openai-ok", "messages": "x"}, {"model": "openai-ok", "messages": [{}]}):
        reply = await sluice.send("POST", "/v1/chat/completions", json=body)
        assert reply.status == 400, body
        assert reply.error["type"] == "invalid_request_error"


async def test_C_007_385_wrong_type_and_wrong_method(sluice: Contract) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        reply = await sluice.send("POST", "/v1/chat/completions", data=b"{}", headers={"content-type": kind})
        assert (reply.status, reply.error["type"]) == (415, "invalid_request_error")
    good = json.dumps({"model": "openai-ok", "messages": [USER]}).encode()
    for kind in ("application/json", "application/json; charset=utf-8", "Application/JSON"):
        reply = await sluice.send("POST", "/v1/chat/completions", data=good, headers={"content-type": kind})
        assert reply.status == 200, kind
    reply = await sluice.send("PATCH", "/v1/chat/completions")
    assert reply.status == 405
    assert "POST" in reply.headers["allow"]
    assert reply.error["type"] == "invalid_request_error"


async def test_C_388_389_390_425_430_431_432_433_435_rate_limits(sluice: Contract) -> None:
    dense = bearing(DENSE)
    large = await sluice.ask("openai-ok", headers=dense, max_completion_tokens=30_000)
    assert (large.status, large.error["type"], large.error["code"]) == (429, "tokens", "rate_limit_exceeded")
    assert large.headers["x-should-retry"] == "false"  # it can never pass
    assert "retry-after" not in large.headers
    first = await sluice.ask("openai-500", headers=dense, max_completion_tokens=10)
    assert first.status == 502  # failed requests count
    assert (first.headers["x-ratelimit-limit-requests"], first.headers["x-ratelimit-remaining-requests"]) == ("2", "1")
    second = await sluice.ask("openai-ok", headers=dense, max_completion_tokens=10)
    assert second.headers["x-ratelimit-remaining-requests"] == "0"
    refused = await sluice.ask("openai-ok", headers=dense, max_completion_tokens=10)
    assert (refused.status, refused.error["type"], refused.error["code"]) == (429, "requests", "rate_limit_exceeded")
    assert "requests per min (RPM): Limit 2, Used 2, Requested 1. Please try again in " in refused.error["message"]
    seconds, milliseconds = refused.headers["retry-after"], refused.headers["retry-after-ms"]
    assert 1 <= int(seconds) <= 30
    assert int(seconds) - 1 <= int(milliseconds) / 1000 <= int(seconds)
    assert "x-should-retry" not in refused.headers  # a short wait: the SDK may


async def test_C_389_431_tokens_that_others_hold_are_told_with_a_time(sluice: Contract) -> None:
    url, body = f"{sluice.gateway.url}/v1/chat/completions", {"messages": [USER], "max_completion_tokens": 19_000}
    async with sluice.http.post(
        url, json={"model": "openai-endless", "stream": True, **body}, headers=bearing(WIDE)
    ) as held:
        await held.content.readany()
        refusals = [
            await sluice.ask("openai-ok", headers=bearing(WIDE), max_completion_tokens=19_000, stream=stream)
            for stream in (False, True)
        ]
        held.close()
    for refused in refusals:
        assert (refused.status, refused.error["type"], refused.error["code"]) == (429, "tokens", "rate_limit_exceeded")
        counts = r"\(TPM\): Limit (\d+), Used (\d+), Requested (\d+)\. Please try again in "
        found = re.search(counts, refused.error["message"])
        assert found is not None
        limit, used, requested = map(int, found.groups())
        assert limit == 20_000
        assert requested >= 19_000
        assert used + requested > limit
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert "x-should-retry" not in refused.headers


async def test_C_391_405_436_a_spent_budget_is_told_once_and_costs_nothing(sluice: Contract) -> None:
    before = len(sluice.upstream.journal)
    async with sdk(sluice, POOR, retries=2) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(model="openai-ok", messages=[USER])  # type: ignore[list-item]
    assert (caught.value.code, caught.value.type) == ("insufficient_quota", "insufficient_quota")
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"  # the SDK did not try again
    assert len(sluice.upstream.journal) == before


async def test_C_405_a_refused_request_never_reaches_a_provider(sluice: Contract) -> None:
    before = len(sluice.upstream.journal)
    refusals = [
        await sluice.ask("openai-ok", headers=bearing("nope")),
        await sluice.ask("openai-ok", temperature=3),
        await sluice.ask("no-such"),
        await sluice.ask("anthropic-ok", headers=bearing(NARROW)),
        await sluice.ask("openai-ok", headers=bearing(NARROW), service_tier="priority"),
        await sluice.ask("strict", seed=1),
    ]
    assert [r.status for r in refusals] == [401, 400, 404, 404, 400, 400]
    assert len(sluice.upstream.journal) == before


async def test_C_392_growth_that_a_provider_finds_too_fast_is_429(sluice: Contract) -> None:
    body = {"error": {"message": "Slow down.", "type": "rate_limit_error", "code": "slow_down", "param": None}}
    sluice.says("verbatim-3", body, status=429, headers={"retry-after": "7"})
    reply = await sluice.ask("verbatim-3")
    assert (reply.status, reply.headers["retry-after"]) == (429, "7")


async def test_C_393_464_no_capacity_for_flex(sluice: Contract) -> None:
    reply = await sluice.ask("flex", service_tier="flex")
    assert (reply.status, reply.error["code"]) == (429, "resource_unavailable")
    assert sluice.upstream.journal[-1].usage.total_tokens == 0
    assert sluice.gateway.registry.get_sample_value(
        "sluice_tokens_total",
        {"model": "flex", "deployment": "openai/demo-flex-refused", "tier": "flex", "kind": "input"},
    ) in (None, 0)


async def test_C_394_an_inner_failure_is_500_in_json_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(exchange: Exchange, _: str) -> web.StreamResponse:
        raise RuntimeError("sk-canary-in-a-message")

    routes = Routes()
    routes.add("GET", "/broken", broken)
    site = Site(Server(port=0), State(), Failures(600))
    site.serve(Serving(routes, "1"))
    await site.start("127.0.0.1", 0)
    try:
        with caplog.at_level(logging.DEBUG):
            async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{site.port}/broken") as response:
                body = await response.json()
        assert response.status == 500
    finally:
        await site.close()
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["type"] == "server_error"
    assert "canary" not in json.dumps(body) + caplog.text


async def test_C_397_nobody_healthy_is_503_with_a_time() -> None:
    async with contract(health={"consecutive_failures": 1}) as own:
        statuses = [(await own.ask("openai-500")).status for _ in range(4)]
        assert statuses[0] == 502  # a few probes may follow, then nobody is asked any more
        reply = await own.ask("openai-500")
        assert (reply.status, reply.error["code"]) == (503, "no_healthy_upstream")
        assert int(reply.headers["retry-after"]) >= 1
        assert (await own.ask("openai-ok")).status == 200


async def test_C_398_a_tier_that_is_not_allowed(sluice: Contract) -> None:
    reply = await sluice.ask("openai-ok", headers=bearing(NARROW), service_tier="priority")
    assert (reply.status, reply.error["param"], reply.error["code"]) == (400, "service_tier", None)
    expected = "Invalid service_tier argument: The requested service tier is not allowed for this project."
    assert reply.error["message"] == expected


async def test_C_404_tools_of_every_kind_of_nonsense_are_4xx(sluice: Contract) -> None:
    nonsense: list[Any] = [None, 0, "", [], {}, True, "x" * 10_000, {"a": {}}, [[]], 1e400 * 0 or -1]
    for name in ("messages", "tools", "tool_choice", "response_format", "stop", "metadata", "stream_options", "audio"):
        for value in nonsense:
            reply = await sluice.ask("openai-ok", **{name: value, "extra": 1} if name == "messages" else {name: value})
            assert reply.status in (200, 400), (name, value)
            if reply.status == 400:
                assert reply.error["message"]
    assert (await sluice.ask("openai-tools", tools=[TOOL])).status == 200
