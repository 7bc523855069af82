"""Stored completions over HTTP, by the official SDK: any provider, streamed or not."""

import asyncio
import json
from typing import Any
from urllib.parse import quote

import aiohttp
import httpx
import openai
import pytest
from openai import AsyncOpenAI
from sqlalchemy import select

from gateway.app import Gateway
from gateway.records.grants import Actor
from gateway.records.tables import stored_completions

from .contract import TOOL
from .running import KEY, deployment, running

ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "Say one two three"}]}
OTHER = "sk-sl-other-0123456789abcdef"
MATE = "sk-sl-mate-0123456789abcdef"
MUTE = "sk-sl-mute-0123456789abcdef"
MODELS = {name: [deployment("demo-echo", name)] for name in ("openai", "anthropic")}
TENANTS: dict[str, Any] = {
    "teams": {"red": {}, "blue": {}, "silent": {"store": False}},
    "keys": [
        {"name": "a", "key": KEY, "team": "red"},
        {"name": "mate", "key": MATE, "team": "red"},
        {"name": "b", "key": OTHER, "team": "blue"},
        {"name": "mute", "key": MUTE, "team": "silent"},
    ],
}


def client(gateway: Gateway, key: str = KEY) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0)


@pytest.mark.parametrize("model", ["openai", "anthropic"])
@pytest.mark.parametrize("stream", [False, True])
async def test_C_052_what_was_answered_is_read_back_at_once(model: str, stream: bool) -> None:
    async with running(MODELS) as (gateway, _), client(gateway) as sdk:
        if stream:
            chunks = [
                c async for c in await sdk.chat.completions.create(model=model, store=True, stream=True, seed=7, **ASK)
            ]
            identity, created = chunks[0].id, chunks[0].created
        else:
            answer = await sdk.chat.completions.create(model=model, store=True, seed=7, **ASK)
            identity, created = answer.id, answer.created
        stored = await sdk.chat.completions.retrieve(identity)
        messages = await sdk.chat.completions.messages.list(identity)
    assert (stored.id, stored.created) == (identity, created)
    assert stored.choices[0].message.content == "Say one two three"
    assert stored.choices[0].finish_reason == "stop"
    assert stored.usage is not None
    assert stored.usage.total_tokens > 0
    assert stored.model_dump()["seed"] == 7
    assert [(m.id, m.role, m.content) for m in messages.data] == [(f"{identity}-0", "user", "Say one two three")]


async def test_C_050_C_051_only_what_says_store_true_is_kept() -> None:
    async with running(MODELS) as (gateway, _), client(gateway) as sdk:
        for store in (False, None, openai.NOT_GIVEN):
            answer = await sdk.chat.completions.create(model="openai", store=store, **ASK)
            with pytest.raises(openai.NotFoundError) as caught:
                await sdk.chat.completions.retrieve(answer.id)
            assert caught.value.body == {
                "message": f"Completion {answer.id} not found",
                "type": "invalid_request_error",
                "param": "completion_id",
                "code": "not_found",
            }
        assert (await sdk.chat.completions.list()).data == []


async def test_C_053_failed_and_broken_answers_are_not_kept() -> None:
    models = {"refused": "demo-500", "broken": [deployment("demo-long+cut=3")]}
    async with running(models) as (gateway, _), client(gateway) as sdk:
        with pytest.raises(openai.APIError):
            await sdk.chat.completions.create(model="refused", store=True, **ASK)
        with pytest.raises((openai.APIError, httpx.HTTPError)):
            async for _chunk in await sdk.chat.completions.create(model="broken", store=True, stream=True, **ASK):
                pass
        assert (await sdk.chat.completions.list()).data == []


@pytest.mark.parametrize("model", ["openai", "anthropic"])
@pytest.mark.parametrize("stream", [False, True])
async def test_C_053_C_345_an_answer_whose_client_has_left_is_not_kept(model: str, stream: bool) -> None:
    script = "demo-endless" if stream else "demo-slow+delay=30"
    async with running({model: [deployment(script, model)], "next": "demo-ok"}) as (gateway, upstream):
        async with aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as http:
            body = {"model": model, "stream": stream, "store": True, **ASK}
            asked = asyncio.create_task(http.post(f"{gateway.url}/v1/chat/completions", json=body))
            if stream:
                response = await asked
                await response.content.readany()
                response.close()
            else:
                while not upstream.in_flight:
                    await asyncio.sleep(0.01)
                asked.cancel()
            async with asyncio.timeout(30):
                while upstream.in_flight or gateway.state.in_flight:
                    await asyncio.sleep(0.01)
        async with client(gateway) as sdk:
            kept = (await sdk.chat.completions.create(model="next", store=True, **ASK)).id
            assert [item.id for item in (await sdk.chat.completions.list()).data] == [kept]


@pytest.mark.parametrize("model", ["openai", "anthropic"])
@pytest.mark.parametrize(
    ("script", "more"),
    [
        ("parallel", {"tools": [TOOL]}),
        ("tools", {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "weather"}}}),
        ("refusal", {}),
        ("reasoning", {}),
        ("long", {"max_completion_tokens": 3}),
    ],
)
async def test_C_052_C_070_a_stream_is_kept_as_its_answer_would_be(
    model: str, script: str, more: dict[str, Any]
) -> None:
    async with running({"m": [deployment(f"demo-{script}", model)]}) as (gateway, _), client(gateway) as sdk:
        found = []
        for stream in (False, True):
            answer: Any = await sdk.chat.completions.create(
                model="m", store=True, stream=stream, seed=7, metadata={"a": "b"}, **ASK, **more
            )
            identity = {chunk.id async for chunk in answer}.pop() if stream else answer.id
            stored = (await sdk.chat.completions.retrieve(identity)).model_dump()
            for name in ("id", "created", "request_id"):
                assert stored.pop(name), name
            for call in stored["choices"][0]["message"]["tool_calls"] or ():
                assert call.pop("id")
                call["function"]["arguments"] = json.loads(call["function"]["arguments"])
            found.append(stored)
    assert found[0] == found[1]
    assert found[0]["tools"] == more.get("tools")
    assert found[0]["metadata"] == {"a": "b"}


async def test_C_057_C_061_C_065_the_pager_sees_every_item_once_both_ways_with_filters() -> None:
    async with running(MODELS) as (gateway, _), client(gateway) as sdk:
        ids = []
        for number in range(7):
            metadata = {"a b": "c&d" if number % 2 else "x", "n": str(number)}
            answer = await sdk.chat.completions.create(model="openai", store=True, metadata=metadata, **ASK)
            ids.append(answer.id)
        assert [c.id async for c in sdk.chat.completions.list(limit=3)] == ids  # C-058: the documented default, asc
        assert [c.id async for c in sdk.chat.completions.list(limit=3, order="desc")] == ids[::-1]
        assert [c.id async for c in sdk.chat.completions.list(limit=7)] == ids
        odd = sdk.chat.completions.list(limit=2, metadata={"a b": "c&d"}, order="asc")
        assert [c.id async for c in odd] == ids[1::2]
        both = sdk.chat.completions.list(metadata={"a b": "c&d", "n": "3"})
        assert [c.id async for c in both] == [ids[3]]
        assert [c.id async for c in sdk.chat.completions.list(model="demo-echo")] == ids  # C-062
        assert [c.id async for c in sdk.chat.completions.list(model="openai")] == []
        page = await sdk.chat.completions.list(limit=3)
        await sdk.chat.completions.delete(page.data[-1].id)  # C-066
        assert [c.id for c in (await page.get_next_page()).data] == ids[3:6]


async def test_C_073_C_078_update_and_delete_by_the_sdk() -> None:
    async with running(MODELS) as (gateway, _), client(gateway) as sdk:
        answer = await sdk.chat.completions.create(model="openai", store=True, metadata={"a": "1"}, **ASK)
        updated = await sdk.chat.completions.update(answer.id, metadata={"b": "2"})
        assert updated.model_dump()["metadata"] == {"b": "2"}
        assert [c.id async for c in sdk.chat.completions.list(metadata={"b": "2"})] == [answer.id]
        with pytest.raises(openai.BadRequestError) as caught:
            await sdk.chat.completions.update(answer.id, metadata={"b": "2"}, extra_body={"model": "x"})
        assert caught.value.param == "model"
        gone = await sdk.chat.completions.delete(answer.id)
        assert gone.model_dump() == {"id": answer.id, "object": "chat.completion.deleted", "deleted": True}
        for call in (sdk.chat.completions.retrieve, sdk.chat.completions.delete, sdk.chat.completions.messages.list):
            with pytest.raises(openai.NotFoundError):
                await call(answer.id)


async def test_C_029_another_tenants_completions_answer_like_unknown_ones() -> None:
    async with running(MODELS, **TENANTS) as (gateway, _):
        async with client(gateway) as sdk:
            kept = (await sdk.chat.completions.create(model="openai", store=True, **ASK)).id
        unknown = "chatcmpl-" + "0" * 32
        async with aiohttp.ClientSession() as http:
            for method, path, body in (
                ("GET", "{}", None),
                ("POST", "{}", {"metadata": {"a": "b"}}),
                ("DELETE", "{}", None),
                ("GET", "{}/messages", None),
                ("GET", "?after={}", None),
            ):
                seen = []
                for identity in (kept, unknown):
                    url = f"{gateway.url}/v1/chat/completions" + ("" if "?" in path else "/") + path.format(identity)
                    headers = {"authorization": f"Bearer {OTHER}"}
                    async with http.request(method, url, json=body, headers=headers) as response:
                        seen.append((response.status, (await response.text()).replace(identity, "ID")))
                assert seen[0] == seen[1]
                assert seen[0][0] in (400, 404)
        async with client(gateway, MATE) as mate:  # a key of the same team sees it
            assert (await mate.chat.completions.retrieve(kept)).id == kept


@pytest.mark.parametrize("team", [None, "blue"])
async def test_what_a_team_or_key_stored_is_gone_with_it(team: str | None) -> None:
    """Names become free again: a team called like one that was deleted read what that one had said."""
    operator = Actor("admin:test")
    async with running(MODELS, auth={"pepper": "p" * 32}) as (gateway, _):
        admin = gateway.records.admin

        async def made(name: str) -> Any:
            if team is not None:
                await admin.create(operator, "team", {"id": team})
            return await admin.create(operator, "key", {"name": name, "team": team})

        first, other = await made("first"), await admin.create(operator, "key", {"name": "other"})
        for key in (first, other):
            async with client(gateway, key["key"]) as sdk:
                kept = await sdk.chat.completions.create(model="openai", store=True, metadata={"a": "b"}, **ASK)
        await admin.delete(operator, "key", first["id"])
        if team is not None:
            await admin.delete(operator, "team", team)
        second = await made("second")
        async with client(gateway, second["key"]) as sdk:
            assert (await sdk.chat.completions.list()).data == []
        async with client(gateway, other["key"]) as sdk:
            assert [item.id for item in (await sdk.chat.completions.list()).data] == [kept.id]
        assert gateway.records.stored is not None
        await gateway.records.stored.sweep()
        async with gateway.records.database.read() as connection:
            bodies = (await connection.scalars(select(stored_completions.c.body))).all()
        assert sorted(body is None for body in bodies) == [False, True]


async def test_a_team_may_be_forbidden_to_store() -> None:
    async with running(MODELS, **TENANTS) as (gateway, _), client(gateway, MUTE) as sdk:
        answer = await sdk.chat.completions.create(model="openai", store=True, **ASK)
        assert answer.choices[0].message.content == "Say one two three"
        assert (await sdk.chat.completions.list()).data == []


async def test_C_059_C_072_C_086_bad_pages_hostile_ids_and_no_limit_headers() -> None:
    async with running(MODELS, keys=[{"name": "a", "key": KEY, "limits": {"rpm": 100}}]) as (gateway, _):
        async with aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as http:
            base = f"{gateway.url}/v1/chat/completions"
            for query, param in (
                ("limit=0", "limit"),
                ("limit=x", "limit"),
                ("order=up", "order"),
                ("after=n", "after"),
            ):
                async with http.get(f"{base}?{query}") as response:
                    assert response.status == 400
                    assert (await response.json())["error"]["param"] == param
            for identity in ("a%2Fb", "%2e%2e", "x" * 5000, quote("ü\x00"), "%ff"):
                async with http.get(f"{base}/{identity}") as response:
                    assert response.status == 404, identity
                    assert set(json.loads(await response.read())["error"]) == {"message", "type", "param", "code"}
            async with http.get(base) as response:
                assert response.status == 200
                assert not [h for h in response.headers if h.lower().startswith("x-ratelimit")]
                listed = await response.json()
                assert listed == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


async def test_without_a_credential_nothing_is_told() -> None:
    async with running(MODELS) as (gateway, _), aiohttp.ClientSession() as http:
        for method, path in (("GET", ""), ("GET", "/x"), ("POST", "/x"), ("DELETE", "/x"), ("GET", "/x/messages")):
            async with http.request(method, f"{gateway.url}/v1/chat/completions{path}") as response:
                assert response.status == 401


async def test_switched_off_there_are_no_such_endpoints() -> None:
    async with running(MODELS, stored_completions={"enabled": False}) as (gateway, _), client(gateway) as sdk:
        answer = await sdk.chat.completions.create(model="openai", store=True, **ASK)
        with pytest.raises(openai.NotFoundError):
            await sdk.chat.completions.retrieve(answer.id)
