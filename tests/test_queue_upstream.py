"""The gateway's own queue over HTTP: what its providers tell, and what its clients get when it is full."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from .running import KEY, running
from .test_pools import until
from .test_tiers import TIERED, model, pool_of, pooled, post

RETRIES = {"attempts": 5, "per_deployment": 5, "budget_floor": 100}


class Limited:
    """An upstream that takes so many requests in each second and refuses the others; it tells what is left."""

    def __init__(self, per_second: int, *, tells: bool = True) -> None:
        self.url = ""
        self.taken = 0
        self.refused = 0
        self._per_second = per_second
        self._tells = tells
        self._second = 0
        self._left = per_second

    async def answer(self, request: web.Request) -> web.Response:
        await request.read()
        now = time.monotonic()
        if int(now) != self._second:
            self._second, self._left = int(now), self._per_second
        if not self._left:
            self.refused += 1
            return web.json_response(
                {"error": {"message": "Rate limit reached", "type": "requests", "code": "rate_limit_exceeded"}},
                status=429,
                headers={"retry-after-ms": str(int((int(now) + 1 - now) * 1000) + 1)},
            )
        self._left -= 1
        self.taken += 1
        left = self._left
        await asyncio.sleep(0.02)
        message = {"role": "assistant", "content": "one", "refusal": None, "annotations": []}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        usage = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
        body = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        told = {"x-ratelimit-remaining-requests": str(left), "x-ratelimit-reset-requests": "1s"} if self._tells else {}
        return web.json_response({**body, "usage": usage}, headers=told)


@asynccontextmanager
async def started(upstream: Limited) -> AsyncIterator[Limited]:
    app = web.Application()
    app.router.add_post("/{tail:.*}", upstream.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    upstream.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield upstream
    finally:
        await runner.cleanup()


def queued(capacity: int) -> dict[str, Any]:
    deployments = [{"provider": "own", "model": "m", "price": TIERED}]
    return {"m": {"deployments": deployments, "queue": {"capacity": capacity, "wait_default": 20}}}


async def test_requests_wait_for_a_provider_that_limits_our_rate_instead_of_failing() -> None:
    """Thirty at once at eight a second: the provider's Retry-After is waited for in the queue, and nobody is told 503."""
    async with started(Limited(8, tells=False)) as upstream:
        providers = {"own": {"adapter": "openai-compatible", "base_url": upstream.url}}
        async with running(queued(40), providers=providers, retries=RETRIES) as (gateway, _):
            answers = await asyncio.gather(*(post(gateway) for _ in range(30)))
            assert [status for status, _, _ in answers] == [200] * 30
            assert pool_of(gateway).capacity.limit < 40  # and it has learned
    assert upstream.refused < 30 * 3


async def test_rate_limit_headers_hold_requests_back_before_they_are_refused() -> None:
    """The same, of a provider that tells what is left: once its first answers are here hardly one is refused."""
    async with started(Limited(8)) as upstream:
        providers = {"own": {"adapter": "openai-compatible", "base_url": upstream.url}}
        async with running(queued(4), providers=providers, retries=RETRIES) as (gateway, _):
            answers = await asyncio.gather(*(post(gateway) for _ in range(40)))
            assert [status for status, _, _ in answers] == [200] * 40
            assert pool_of(gateway).capacity.limit > 2
    assert upstream.refused <= 6


async def test_a_full_queue_sends_to_the_models_fallback() -> None:
    models = {
        "m": {**pooled("demo-ok+delay=1", wait_default=0.1), "fallbacks": {"overloaded": ["other"]}},
        "other": model("demo-ok"),
    }
    async with running(models) as (gateway, _):
        first = asyncio.ensure_future(post(gateway))
        await until(lambda: pool_of(gateway).in_flight == 1)
        status, headers, _ = await post(gateway)
        assert (status, headers["x-sluice-fallback"]) == (200, "other")
        status, headers, (body,) = await post(gateway, service_tier="flex")
        assert (status, body["error"]["code"]) == (429, "resource_unavailable")  # the fallback has no flex
        assert (await first)[0] == 200


async def test_flex_waits_no_longer_than_its_owner_lets_it_in_all() -> None:
    keys = [{"name": "a", "key": KEY, "tiers": {"flex_wait": 1.0}}]
    async with running({"m": pooled("demo-ok+delay=4")}, keys=keys) as (gateway, _):
        first = asyncio.ensure_future(post(gateway))
        await until(lambda: pool_of(gateway).in_flight == 1)
        begun = time.monotonic()
        status, _, (body,) = await post(gateway, service_tier="flex")
        assert (status, body["error"]["code"]) == (429, "resource_unavailable")
        assert time.monotonic() - begun < 2
        first.cancel()
