"""Idempotency-Key over HTTP: one upstream call however often a request is sent (checklist C-018)."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from gateway.app import Gateway

from .running import KEY, deployment, running
from .servers import RedisServer

OTHER = "sk-sl-other-0123456789abcdef"
KEYS = [{"name": "a", "key": KEY}, {"name": "b", "key": OTHER}]
ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "one two three"}]}
MODELS = {
    "m": [deployment("demo-echo", "openai"), deployment("demo-echo", "anthropic")],
    "slow": [deployment("demo-slow+delay=0.5")],
    "long": [deployment("demo-long+gap=0.02")],
    "down": [deployment("demo-500")],
}


async def post(
    http: aiohttp.ClientSession, gateway: Gateway, key: str | None, body: dict[str, Any], bearer: str = KEY
) -> tuple[int, dict[str, str], bytes]:
    headers = {"authorization": f"Bearer {bearer}"} | ({"Idempotency-Key": key} if key is not None else {})
    async with http.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers) as response:
        return response.status, {k.lower(): v for k, v in response.headers.items()}, await response.read()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("shared", [False, True])
async def test_C_018_a_repetition_gets_the_same_answer_without_a_second_call(
    stream: bool, shared: bool, redis_server: RedisServer
) -> None:
    sections: dict[str, Any] = {"redis": {"url": redis_server.url, "timeout": 2}} if shared else {}
    async with running(MODELS, keys=KEYS, **sections) as (gateway, demo), aiohttp.ClientSession() as http:
        name = f"one-{stream}-{shared}"
        first = await post(http, gateway, name, {**ASK, "stream": stream})
        again = await post(http, gateway, name, {**ASK, "stream": stream})
        assert (first[0], again[0]) == (200, 200)
        assert first[2] == again[2]
        assert len(demo.journal) == 1
        assert first[1]["content-type"] == again[1]["content-type"]
        assert again[1]["idempotent-replayed"] == "true"
        assert "idempotent-replayed" not in first[1]
        assert again[1]["x-sluice-deployment"] == first[1]["x-sluice-deployment"]
        assert again[1]["x-request-id"] != first[1]["x-request-id"]
        assert (await post(http, gateway, name, {**ASK, "stream": not stream}))[0] == 422
        other = await post(http, gateway, name, {**ASK, "stream": stream}, OTHER)  # scoped to the key
        assert "idempotent-replayed" not in other[1]
        assert len(demo.journal) == 2


async def test_while_it_runs_a_repetition_is_409_and_may_be_retried() -> None:
    async with running(MODELS) as (gateway, demo), aiohttp.ClientSession() as http:
        body = {**ASK, "model": "slow"}
        running_one = asyncio.create_task(post(http, gateway, "k", body))
        await asyncio.sleep(0.2)
        status, headers, answer = await post(http, gateway, "k", body)
        assert (status, json.loads(answer)["error"]["code"]) == (409, "idempotency_in_flight")
        assert headers["retry-after"] == "1"
        first = await running_one
        assert (await post(http, gateway, "k", body))[2] == first[2]
        assert len(demo.journal) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_many_at_once_on_two_gateways_are_one_upstream_call(stream: bool, redis_server: RedisServer) -> None:
    """The first answers, the others wait their turn; all get the same bytes in the end."""
    sections: dict[str, Any] = {
        "redis": {"url": redis_server.url, "timeout": 2}, "auth": {"pepper": "p" * 32},
    }  # fmt: skip
    body = {**ASK, "model": "slow", "stream": stream}
    async with running(MODELS, **sections) as (one, demo), running(MODELS, upstream=demo, **sections) as (two, _):
        async with aiohttp.ClientSession() as http:

            async def patient(gateway: Gateway) -> bytes:
                while True:
                    status, _, answer = await post(http, gateway, f"many-{stream}", body)
                    if status == 200:
                        return answer
                    assert status == 409
                    await asyncio.sleep(0.1)

            answers = await asyncio.gather(*(patient(gateway) for gateway in (one, two) * 10))
            assert len(set(answers)) == 1
            assert len(demo.journal) == 1


async def test_failures_may_be_tried_again_and_refusals_are_repeated() -> None:
    async with running(MODELS, retries={"attempts": 1}) as (gateway, demo), aiohttp.ClientSession() as http:
        for _ in range(2):
            assert (await post(http, gateway, "down", {**ASK, "model": "down"}))[0] >= 500
        assert len(demo.journal) == 2
        bad = {**ASK, "temperature": 9}
        first, again = await post(http, gateway, "bad", bad), await post(http, gateway, "bad", bad)
        assert first[0] == again[0] == 400
        assert first[2] == again[2]
        assert again[1]["idempotent-replayed"] == "true"


async def test_a_stream_that_its_client_left_is_not_replayed() -> None:
    async with running(MODELS) as (gateway, demo), aiohttp.ClientSession() as http:
        body = {**ASK, "model": "long", "stream": True}
        headers = {"authorization": f"Bearer {KEY}", "Idempotency-Key": "left"}
        response = await http.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers)
        await response.content.readany()
        response.close()
        for _ in range(100):
            status, headers_again, answer = await post(http, gateway, "left", body)
            if status != 409:
                break
            await asyncio.sleep(0.05)
        assert status == 200
        assert answer.endswith(b"data: [DONE]\n\n")
        assert "idempotent-replayed" not in headers_again
        assert len(demo.journal) == 2


async def test_too_long_an_answer_is_sent_and_not_kept() -> None:
    async with running(MODELS, idempotency={"max_replay": 50}) as (gateway, demo), aiohttp.ClientSession() as http:
        for stream in (False, True):
            for _ in range(2):
                status, headers, _ = await post(http, gateway, f"big{stream}", {**ASK, "stream": stream})
                assert status == 200
                assert "idempotent-replayed" not in headers
        assert len(demo.journal) == 4


async def test_C_025_bad_keys_are_400_and_a_wrong_credential_is_401_before_that() -> None:
    async with running(MODELS) as (gateway, _), aiohttp.ClientSession() as http:
        for name in ("", "x" * 256, "ü"):
            assert (await post(http, gateway, name, ASK))[0] == 400, name
        assert (await post(http, gateway, "x" * 256, ASK, "wrong"))[0] == 401


async def test_switched_off_the_header_means_nothing() -> None:
    async with running(MODELS, idempotency={"enabled": False}) as (gateway, demo), aiohttp.ClientSession() as http:
        for _ in range(2):
            assert (await post(http, gateway, "k", ASK))[0] == 200
        assert len(demo.journal) == 2
