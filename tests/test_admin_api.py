"""The admin API over HTTP: roles, tenants, keys that work at once, reports; each route of the catalogue is visited."""

import asyncio
import csv
import io
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import openai
import pytest
from jsonschema import Draft202012Validator
from openai import AsyncOpenAI

from gateway.app import Gateway
from gateway.records.resources import KINDS

from .running import deployment, running
from .servers import RedisServer

ADMIN = "admin-0123456789abcdef0123456789abcdef"
CONFIG: dict[str, Any] = {"admin": {"keys": {"ops": ADMIN}}, "auth": {"pepper": "p" * 32}}
MODELS = {"m": [deployment("demo-echo")]}
ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "one two three"}]}


class Caller:
    """A client of the admin API with one key."""

    def __init__(self, http: aiohttp.ClientSession, gateway: Gateway, key: str | None) -> None:
        self._http, self._base, self._key = http, f"{gateway.admin_url}/admin/v1", key

    async def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        if self._key is not None:
            headers["authorization"] = f"Bearer {self._key}"
        sent = {k.replace("_", "-"): v for k, v in headers.items()}
        async with self._http.request(method, self._base + path, json=body, headers=sent) as response:
            if not response.content_type.endswith("json"):
                return response.status, await response.text()
            return response.status, await response.json()

    async def ok(self, method: str, path: str, body: Any = None) -> Any:
        status, answer = await self(method, path, body)
        assert status in (200, 201), answer
        return answer


@asynccontextmanager
async def administered(**sections: Any) -> AsyncIterator[tuple[Gateway, aiohttp.ClientSession, Caller]]:
    async with running(MODELS, **{**CONFIG, **sections}) as (gateway, _), aiohttp.ClientSession() as http:
        yield gateway, http, Caller(http, gateway, ADMIN)


def sdk(gateway: Gateway, key: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0)


async def tenant(operator: Caller, name: str) -> dict[str, str]:
    """An organization with a team, a user and one key of each role; the ids and the keys."""
    await operator.ok("POST", "/organizations", {"id": name})
    team, user = f"{name}-team", f"{name}-user"
    await operator.ok("POST", "/teams", {"id": team, "organization": name})
    await operator.ok("POST", "/users", {"id": user, "team": team})
    made = {"organization": name, "team": team, "user": user}
    for role in (None, "viewer", "team_admin", "admin"):
        key = await operator.ok("POST", "/keys", {"name": f"{role}", "team": team, "role": role})
        made[f"{role}"], made[f"{role}.id"] = key["key"], key["id"]
    made["key"] = made["None.id"]
    return made


LEVELS = {"viewer": 0, "team_admin": 1, "admin": 2, "operator": 3}


async def test_S_07_every_route_refuses_every_role_below_its_own() -> None:
    async with administered() as (gateway, http, operator):
        mine = await tenant(operator, "a")
        listed = gateway.operations()
        served = gateway.admin.routes
        assert {(o.method, o.path) for o in listed} <= {(m, p) for m, p in served}
        assert {p for _, p in served} - {o.path for o in listed} == {"/healthz", "/readyz", "/metrics"}
        callers = {role: Caller(http, gateway, mine[role]) for role in ("viewer", "team_admin", "admin")}
        for operation in listed:
            path = operation.path.removeprefix("/admin/v1").replace("{id}", "nobody")
            for key, expected in ((None, 401), ("sk-sl-wrong", 401), (mine["None"], 403)):
                status, answer = await Caller(http, gateway, key)(operation.method, path, {})
                assert status == expected, (operation.path, key)
                assert set(answer["error"]) == {"message", "type", "param", "code"}
            for role, caller in callers.items():
                status, answer = await caller(operation.method, path, {})
                below = LEVELS[role] < LEVELS[operation.level]
                assert (status == 403) == below, (operation.method, operation.path, role, answer)
                assert status < 500
            status, answer = await operator(operation.method, path, {})
            assert status not in (401, 403), (operation.path, answer)
            assert status < 500


async def test_S_39_a_change_that_a_role_is_not_for_is_in_the_audit_log() -> None:
    async with administered() as (gateway, http, operator):
        mine = await tenant(operator, "a")
        before = (await operator.ok("GET", "/audit?limit=1000"))["data"][-1]["seq"]
        viewer, lead = Caller(http, gateway, mine["viewer"]), Caller(http, gateway, mine["team_admin"])
        for caller, method, path in (
            (viewer, "POST", "/keys"),
            (viewer, "POST", f"/keys/{mine['key']}/rotate"),
            (lead, "GET", "/config/effective"),
            (lead, "POST", "/config/reload"),
        ):
            assert (await caller(method, path, {}))[0] == 403
        rows = (await operator.ok("GET", f"/audit?after={before}"))["data"]
        assert [(r["actor"], r["action"], r["target"], r["result"]) for r in rows] == [
            (f"key:{mine['viewer.id']}", "POST /admin/v1/keys", "", "permission_denied"),
            (f"key:{mine['viewer.id']}", "POST /admin/v1/keys/{id}/rotate", mine["key"], "permission_denied"),
            (f"key:{mine['team_admin.id']}", "POST /admin/v1/config/reload", "", "permission_denied"),
        ]
        assert all(row["request_id"].startswith("req_") for row in rows)


async def test_S_07_another_tenants_ids_answer_like_unknown_ones() -> None:
    async with administered() as (gateway, http, operator):
        mine, theirs = await tenant(operator, "a"), await tenant(operator, "b")
        async with sdk(gateway, theirs["None"]) as client:
            raw = await client.chat.completions.with_raw_response.create(**ASK)
        theirs["ledger"] = raw.headers["x-request-id"]
        listed = [o for o in gateway.operations() if "{id}" in o.path]
        for role in ("viewer", "team_admin", "admin"):
            caller = Caller(http, gateway, mine[role])
            for operation in listed:
                kind = operation.path.split("/")[3].removesuffix("s")
                seen = []
                for identity in (theirs[kind], "nobody"):
                    path = operation.path.removeprefix("/admin/v1").replace("{id}", identity)
                    body = {"blocked": False} if operation.method == "PATCH" else None
                    status, answer = await caller(operation.method, path, body)
                    seen.append((status, str(answer).replace(identity, "ID")))
                assert seen[0] == seen[1], (role, operation.method, operation.path)
                assert seen[0][0] in (403, 404)
            for kind in ("organizations", "teams", "users", "keys"):
                page = await caller.ok("GET", f"/{kind}")
                assert {item.get("organization", item["id"]) for item in page["data"]} == {"a"}
                if kind != "organizations":
                    assert (await caller.ok("GET", f"/{kind}?organization=b"))["data"] == []
            for path in ("/usage?organization=b", "/usage?team=b-team", "/ledger?organization=b", "/ledger", "/usage"):
                answer = await caller.ok("GET", path)
                assert [row for row in answer["data"] if row.get("requests", 1)] == []
            assert await caller.ok("GET", "/usage/export?organization=b&format=json") == []
        assert (await operator.ok("GET", f"/ledger/{theirs['ledger']}"))["data"][0]["team"] == "b-team"


async def test_a_key_works_from_creation_to_deletion_and_not_a_moment_longer() -> None:
    async with administered() as (gateway, _, operator):
        key = await operator.ok("POST", "/keys", {"name": "k", "limits": {"rpm": 1000, "budget": {"month": 50}}})
        assert key["key"].startswith("sk-sl-")
        identity, secret = key["id"], key["key"]
        shown = await operator.ok("GET", f"/keys/{identity}")
        assert "key" not in shown
        assert secret not in str(shown)

        async def works(secret: str) -> bool:
            async with sdk(gateway, secret) as client:
                try:
                    await client.chat.completions.create(**ASK)
                except openai.AuthenticationError:
                    return False
                return True

        assert await works(secret)
        await operator.ok("POST", f"/keys/{identity}/block")
        assert not await works(secret)
        await operator.ok("POST", f"/keys/{identity}/unblock")
        assert await works(secret)
        rotated = (await operator.ok("POST", f"/keys/{identity}/rotate?overlap=60"))["key"]
        assert await works(rotated)
        assert await works(secret)
        again = (await operator.ok("POST", f"/keys/{identity}/rotate"))["key"]
        assert [await works(k) for k in (secret, rotated, again)] == [False, False, True]
        await operator.ok("PATCH", f"/keys/{identity}", {"expires": "2020-01-01"})
        assert not await works(again)
        await operator.ok("PATCH", f"/keys/{identity}", {"expires": None})
        assert await works(again)
        standing = await operator.ok("GET", f"/keys/{identity}/limits")
        month = next(s for s in standing["data"] if s["limit"] == "budget.month")
        assert month["cap"] == 50_000_000_000
        assert month["used"] > 0
        await operator.ok("DELETE", f"/keys/{identity}")
        assert not await works(again)
        assert (await operator("GET", f"/keys/{identity}"))[0] == 404
        audit = await operator.ok("GET", f"/audit?target=key:{identity}")
        actions = [row["action"] for row in audit["data"]]
        assert actions[0] == "key.create"
        assert actions[-1] == "key.delete"
        assert secret not in str(audit)
        verdict = await operator.ok("GET", "/audit/verify")
        assert verdict["intact"]
        assert verdict["head"]["seq"] >= len(actions)


async def test_S_07_nobody_grants_what_they_do_not_have() -> None:
    async with administered() as (gateway, http, operator):
        await operator.ok("POST", "/teams", {"id": "t", "limits": {"budget": {"month": 100}}})
        limits = {"budget": {"month": 10}}
        made = await operator.ok(
            "POST", "/keys", {"name": "lead", "team": "t", "role": "team_admin", "limits": limits, "models": ["m"]}
        )
        lead = Caller(http, gateway, made["key"])
        good = {"name": "ok", "limits": {"budget": {"month": 5}}, "models": ["m"]}
        member = await lead.ok("POST", "/keys", good)
        assert member["team"] == "t"
        for beyond in (
            {"limits": {"budget": {"month": 11}}},
            {"limits": {}},
            {"models": None},
            {"role": "admin"},
            {"allow_pinning": True},
        ):
            body = {k: v for k, v in {**good, "name": "no", **beyond}.items() if v is not None}
            status, answer = await lead("POST", "/keys", body)
            assert (status, answer["error"]["code"]) == (403, "permission_denied"), beyond
        status, _ = await lead("PATCH", f"/keys/{member['id']}", {"limits": {"budget": {"month": 99}}})
        assert status == 403
        boss = await operator.ok("POST", "/keys", {"name": "boss", "team": "t", "role": "admin"})
        assert (await lead("POST", f"/keys/{boss['id']}/rotate"))[0] == 403  # its new secret would be an admin's
        assert (await lead("POST", "/keys", {**good, "name": "x", "team": "other"}))[0] in (400, 404)
        status, answer = await operator("POST", "/keys", {"name": "y", "role": "team_admin"})
        assert (status, answer["error"]["param"]) == (400, "team")


async def test_reports_add_up_to_what_was_asked_for() -> None:
    async with administered() as (gateway, _, operator):
        mine = await tenant(operator, "a")
        async with sdk(gateway, mine["None"]) as client:
            answers = [await client.chat.completions.create(**ASK) for _ in range(3)]
        tokens = sum(a.usage.total_tokens for a in answers if a.usage)
        cost = sum(2000 * a.usage.prompt_tokens + 8000 * a.usage.completion_tokens for a in answers if a.usage)
        report = await operator.ok("GET", "/usage?group_by=team,model&since=1h")
        row = {k: report["data"][0][k] for k in ("team", "model", "requests", "tokens", "cost", "errors")}
        assert row == {"team": "a-team", "model": "m", "requests": 3, "tokens": tokens, "cost": cost, "errors": 0}
        lines = list(csv.DictReader(io.StringIO((await operator("GET", "/usage/export?format=csv"))[1])))
        assert sum(int(line["cost"]) for line in lines) == cost
        page = await operator.ok("GET", "/ledger?limit=2&team=a-team")
        assert (len(page["data"]), page["has_more"]) == (2, True)
        rest = await operator.ok("GET", f"/ledger?limit=2&team=a-team&after={page['last_id']}")
        assert (len(rest["data"]), rest["has_more"]) == (1, False)
        assert (await operator.ok("GET", "/usage?until=2020-01-01"))["data"][0]["requests"] == 0
        for query in ("since=yesterday", "group_by=colour", "colour=red", "since=1h&since=2h", "since=99999999999999"):
            status, answer = await operator("GET", f"/usage?{query}")
            assert status == 400, query
            assert answer["error"]["type"] == "invalid_request_error"


async def test_a_repeated_idempotency_key_makes_one_key() -> None:
    async with administered() as (gateway, _, operator):
        first = await operator("POST", "/keys", {"name": "k"}, idempotency_key="one")
        gateway.apply(gateway.config)  # as a reload does
        again = await operator("POST", "/keys", {"name": "k"}, idempotency_key="one")
        assert first == again
        assert first[0] == 201
        assert (await operator("POST", "/keys", {"name": "other"}, idempotency_key="one"))[0] == 422
        assert (await operator("POST", "/keys", {"name": "k"}, idempotency_key="two"))[0] == 409
        assert len((await operator.ok("GET", "/keys"))["data"]) == 1


async def test_pages_of_keys_meet() -> None:
    async with administered() as (_, _, operator):
        await operator.ok("POST", "/teams", {"id": "t"})
        made = [(await operator.ok("POST", "/keys", {"name": f"k{i}", "team": "t"}))["id"] for i in range(5)]
        await operator.ok("POST", "/keys", {"name": "apart"})
        seen: list[str] = []
        page: dict[str, Any] = {"has_more": True, "last_id": ""}
        while page["has_more"]:
            page = await operator.ok("GET", f"/keys?team=t&limit=2&after={page['last_id']}")
            seen += [item["id"] for item in page["data"]]
        assert sorted(made) == seen
        assert (await operator("GET", "/keys?limit=0"))[0] == 400
        assert (await operator("GET", "/keys?limit=x"))[0] == 400


async def test_S_41_no_browser_and_bad_bodies_are_refused_in_openais_words() -> None:
    async with administered() as (gateway, http, operator):
        assert (await operator("GET", "/keys", origin="http://127.0.0.1"))[0] == 403
        for body in (
            {"name": 5},
            {"name": "x", "colour": 1},
            {"name": "a b"},
            {"name": "x", "limits": {"rpm": -1}},
            {},
        ):
            status, answer = await operator("POST", "/keys", body)
            assert (status, answer["error"]["type"]) == (400, "invalid_request_error"), body
        url, headers = f"{gateway.admin_url}/admin/v1/keys", {"authorization": f"Bearer {ADMIN}"}
        for data in (b"", b"[]", b"{", b"\xff", b'{"name": NaN}'):
            async with http.post(url, data=data, headers={**headers, "content-type": "application/json"}) as response:
                assert response.status == 400
        for identity in ("x" * 3000, "%00", "%ff%fe", "a%2Fb", ".."):
            async with http.get(f"{url}/{identity}", headers=headers) as response:
                assert response.status == 404, identity


async def test_S_15_failed_authentications_are_limited_by_address_and_valid_keys_are_not() -> None:
    sections = {**CONFIG, "auth": {"pepper": "p" * 32, "failures_per_minute": 5}}
    async with administered(**sections) as (gateway, http, operator):
        good = (await operator.ok("POST", "/keys", {"name": "k"}))["key"]
        statuses = []
        for _ in range(8):
            async with http.get(f"{gateway.url}/v1/models", headers={"authorization": "Bearer nope"}) as response:
                statuses.append(response.status)
        if 401 in statuses[5:]:  # the minute turned over meanwhile
            pytest.skip("a minute ended in the middle of the test")
        assert statuses == [401] * 5 + [429] * 3
        async with http.get(f"{gateway.url}/v1/models", headers={"authorization": f"Bearer {good}"}) as response:
            assert response.status == 200
        assert (await operator("GET", "/me"))[
            0
        ] == 200  # whoever guesses clients' keys locks no operator of the address out
        statuses = []
        for _ in range(8):
            async with http.get(
                f"{gateway.admin_url}/admin/v1/me", headers={"authorization": "Bearer nope"}
            ) as response:
                statuses.append(response.status)
        if 401 in statuses[5:]:
            pytest.skip("a minute ended in the middle of the test")
        assert statuses == [401] * 5 + [429] * 3
        assert (await operator("GET", "/me"))[0] == 429  # operators' keys are not even compared


async def test_the_openapi_document_describes_every_route_and_all_its_references_resolve() -> None:
    async with administered() as (gateway, _, operator):
        document = await operator.ok("GET", "/openapi.json")
        listed = gateway.operations()
    described = {(m.upper(), path) for path, methods in document["paths"].items() for m in methods}
    assert described == {(o.method, o.path) for o in listed}
    ids = [o["operationId"] for methods in document["paths"].values() for o in methods.values()]
    assert len(ids) == len(set(ids))

    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
            return own.union(*(references(v) for v in value.values()))
        return set().union(*(references(v) for v in value)) if isinstance(value, list) else set()

    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert references(document) <= known


async def test_a_change_that_the_openapi_document_allows_is_taken_and_no_other() -> None:
    """A client generated from it sends what it says: it asked for an id that the API refuses."""
    async with administered() as (_, _, operator):
        document = await operator.ok("GET", "/openapi.json")
        made = await tenant(operator, "acme")
        for kind in ("organization", "team", "user", "key"):
            sent = document["paths"][f"/admin/v1/{kind}s/{{id}}"]["patch"]["requestBody"]["content"]["application/json"]
            schema = Draft202012Validator({**sent["schema"], "components": document["components"]})
            names = KINDS[kind].body.model_fields
            bodies = [{name: value} for name in names for value in (None, "2030-01-01", True, {"rpm": 5}, ["a"])]
            for body in [{}, {"limits": {"rpm": 5}, "tags": ["a"], "blocked": False}, *bodies]:
                status, answer = await operator("PATCH", f"/{kind}s/{made[kind]}", body)
                # pydantic takes some texts for what they say, and the schema does not: never the other way round.
                assert status == 200 if schema.is_valid(body) else status in (200, 400), (kind, body, answer)
                if body.keys() & KINDS[kind].fixed:
                    assert (status, schema.is_valid(body)) == (400, False), (kind, body)


@pytest.mark.parametrize("shared_redis", [False, True])
async def test_a_revocation_reaches_all_replicas_within_a_second(
    shared_redis: bool, tmp_path: Any, database_url: str, redis_server: RedisServer
) -> None:
    """However it is revoked: every way in turn, on replicas that have the key in their caches."""
    shared: dict[str, Any] = {"database": {"url": database_url}}
    if shared_redis:
        shared["redis"] = {"url": redis_server.url, "timeout": 2}
    name = f"revoked-{tmp_path.name}-{'r' if database_url.startswith('postgres') else 's'}"
    async with administered(**shared) as (first, _, operator):
        async with (
            running(MODELS, **{**CONFIG, **shared}) as (second, _),
            running(MODELS, **{**CONFIG, **shared}) as (third, _),
        ):
            await operator.ok("POST", "/organizations", {"id": name})
            await operator.ok("POST", "/teams", {"id": name, "organization": name})
            await operator.ok("POST", "/users", {"id": name, "team": name})
            for way, (method, path, body) in {
                "block": ("POST", "/keys/{key}/block", None),
                "delete": ("DELETE", "/keys/{key}", None),
                "rotate": ("POST", "/keys/{key}/rotate", None),
                "expire": ("PATCH", "/keys/{key}", {"expires": "2020-01-01T00:00:00Z"}),
                "user": ("POST", f"/users/{name}/block", None),
                "team": ("POST", f"/teams/{name}/block", None),
                "organization": ("POST", f"/organizations/{name}/block", None),
            }.items():
                key = await operator.ok("POST", "/keys", {"name": f"{name}-{way}", "user": name})
                async with AsyncExitStack() as stack:
                    clients = [
                        await stack.enter_async_context(sdk(gateway, key["key"])) for gateway in (first, second, third)
                    ]
                    assert all([await answers(client) for client in clients])
                    began = time.monotonic()
                    await operator.ok(method, path.format(key=key["id"]), body)
                    for client in clients:
                        while await answers(client):
                            await asyncio.sleep(0.02)
                    assert time.monotonic() - began < 1.0, way
                if way in ("user", "team", "organization"):
                    await operator.ok("POST", f"/{way}s/{name}/unblock")
                    await asyncio.gather(*[until_answered(gateway, key["key"]) for gateway in (first, second, third)])


async def until_answered(gateway: Gateway, key: str) -> None:
    async with sdk(gateway, key) as client, asyncio.timeout(5):
        while not await answers(client):
            await asyncio.sleep(0.02)


async def answers(client: AsyncOpenAI) -> bool:
    try:
        await client.models.list()
    except openai.AuthenticationError:
        return False
    return True
