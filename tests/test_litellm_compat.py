"""LiteLLM's endpoints on the admin listener: scripts for keys, teams and users go on working."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI

from gateway.app import Gateway

from .running import deployment, running

ADMIN = "admin-0123456789abcdef0123456789abcdef"
CONFIG: dict[str, Any] = {"admin": {"keys": {"ops": ADMIN}, "litellm_compat": True}, "auth": {"pepper": "p" * 32}}
MODELS = {"m": [deployment("demo-echo", max_output=4096)]}


class Caller:
    def __init__(self, http: aiohttp.ClientSession, gateway: Gateway, key: str | None = ADMIN) -> None:
        self._http, self._gateway = http, gateway
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    async def __call__(self, method: str, path: str, body: Any = None, **query: str) -> tuple[int, Any]:
        url = self._gateway.admin_url + path
        async with self._http.request(method, url, json=body, params=query, headers=self._headers) as response:
            return response.status, await response.json()

    async def ok(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        status, answer = await self(method, path, body, **query)
        assert status == 200, answer
        return answer


@asynccontextmanager
async def compatible() -> AsyncIterator[tuple[Gateway, aiohttp.ClientSession, Caller]]:
    async with running(MODELS, **CONFIG) as (gateway, _), aiohttp.ClientSession() as http:
        yield gateway, http, Caller(http, gateway)


async def ask(gateway: Gateway, key: str) -> None:
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0) as sdk:
        await sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "one two"}])


async def test_the_life_of_a_key_as_scripts_for_litellm_have_it() -> None:
    async with compatible() as (gateway, _, call):
        team = await call.ok("POST", "/team/new", {"team_alias": "Search", "max_budget": 100, "budget_duration": "1mo"})
        body = {
            "key_alias": "ci",
            "team_id": team["team_id"],
            "user_id": "ann",
            "max_budget": 5.5,
            "budget_duration": "30d",
            "rpm_limit": 10,
            "models": ["m"],
            "metadata": {"a": "b"},
            "tags": ["x"],
            "duration": "30d",
        }
        made = await call.ok("POST", "/key/generate", body)
        assert made["key"].startswith("sk-")
        for field in ("key_alias", "team_id", "user_id", "rpm_limit", "models", "metadata", "tags"):
            assert made[field] == body[field], field
        assert (made["max_budget"], made["budget_duration"]) == (5.5, "1mo")
        assert made["expires"] is not None
        await ask(gateway, made["key"])
        await gateway.records.ledger.flush()  # type: ignore[union-attr]
        info = await call.ok("GET", "/key/info", key=made["key"])
        assert info["info"]["spend"] > 0
        assert info["key"] == made["key"]
        rows = await call.ok("GET", "/spend/logs", api_key=made["key"])
        assert [(r["model_group"], r["team_id"], r["status"]) for r in rows] == [("m", team["team_id"], "success")]
        assert rows[0]["spend"] == info["info"]["spend"]
        changed = await call.ok("POST", "/key/update", {"key": made["key"], "max_budget": 7, "rpm_limit": 20})
        assert (changed["max_budget"], changed["rpm_limit"], changed["models"]) == (7.0, 20, ["m"])
        await call.ok("POST", "/key/block", {"key": made["token"]})
        with pytest.raises(openai.AuthenticationError):
            await ask(gateway, made["key"])
        await call.ok("POST", "/key/unblock", {"key": made["key"]})
        again = await call.ok("POST", f"/key/{made['token']}/regenerate")
        await ask(gateway, again["key"])
        listed = await call.ok("GET", "/key/list", team_id=team["team_id"], return_full_object="true")
        assert [k["key_alias"] for k in listed["keys"]] == ["ci"]
        assert (listed["total_count"], listed["total_pages"]) == (1, 1)
        assert [k["token"] for k in (await call.ok("GET", "/team/info", team_id=team["team_id"]))["keys"]] == [
            made["token"]
        ]
        assert (await call.ok("GET", "/user/info", user_id="ann"))["user_info"]["user_id"] == "ann"
        assert (await call.ok("POST", "/key/delete", {"key_aliases": ["ci"]}))["deleted_keys"] == [made["token"]]
        assert (await call("GET", "/key/info", key=again["key"]))[0] == 404


async def test_a_key_of_the_callers_own_choice_and_one_named_by_its_hash() -> None:
    async with compatible() as (gateway, _, call):
        own = "sk-my-own-key-0123456789"
        assert (await call.ok("POST", "/key/generate", {"key": own}))["key"] == own
        await ask(gateway, own)
        digest = hashlib.sha256(own.encode()).hexdigest()
        assert (await call.ok("GET", "/key/info", key=digest))["info"]["key_name"] == "imported"
        user = await call.ok("POST", "/user/new", {"user_id": "bob", "max_budget": 1})
        await ask(gateway, user["key"])
        models = (await call.ok("GET", "/model/info"))["data"]
        assert [(m["model_name"], m["litellm_params"]["model"]) for m in models] == [("m", "openai/demo-echo")]


async def test_what_is_not_understood_is_refused_and_never_a_crash() -> None:
    async with compatible() as (_, _, call):
        for body in (
            {"guardrails": ["g"]}, {"budget_id": "b"}, {"rpm_limit": "many"}, {"max_budget": -1}, {"duration": "soon"},
            {"max_bugdet": 5}, {"max_bugdet": 0}, {"soft_budget": 0}, {"members_with_roles": [{"role": "user"}]}, {"model_max_budget": {"m": {"budget_limit": "x"}}},
            {"model_max_budget": {"m": {"limit": 5}}}, {"model_max_budget": {"m": -1}}, {"model_max_budget": {"m": {"rpm_limit": 5}}},
            {"model_max_budget": {"m": {"max_budget": 5, "time_period": "x"}}}, {"model_max_budget": {"m": {}}},
            {"key": "short"}, {"team_id": "nobody"}, {"models": "m"}, {"metadata": 5}, {"aliases": []}, {"max_budget": "x"}, {"budget_duration": "x"}, {"blocked": "no"}, {"rpm_limit": 1e400},
        ):  # fmt: skip
            status, answer = await call("POST", "/key/generate", body)
            assert status == 400, (body, answer)
        unset = {
            "config": {},
            "permissions": {},
            "guardrails": [],
            "spend": 0,
            "soft_budget": None,
            "send_invite_email": False,
        }
        assert (await call("POST", "/key/generate", unset))[0] == 200  # as LiteLLM's own clients send it
        for path in ("/key/update", "/key/delete", "/key/block"):
            assert (await call("POST", path, {"key": 5, "keys": 5}))[0] == 400
        assert (await call("GET", "/key/info"))[0] == 400
        assert (await call("GET", "/spend/logs", start_date="long ago"))[0] == 400


async def test_what_would_change_a_limit_or_a_freedom_is_refused_or_holds() -> None:
    async with compatible() as (gateway, http, call):
        await gateway.records.admin.create(_operator(), "organization", {"id": "acme"})
        made = await call.ok(
            "POST", "/key/generate", {"organization_id": "acme", "user_id": "ann", "key_type": "llm_api"}
        )
        assert made["organization_id"] == "acme"
        assert (await call.ok("GET", "/user/info", user_id="ann"))["user_info"]["organization_id"] == "acme"
        status, answer = await call("POST", "/key/update", {"key": made["key"], "spend": 0})
        assert (status, answer["error"]["param"]) == (400, "spend"), "it would begin the budget anew"
        for path, body in (
            ("/key/generate", {"key_type": "read_only"}),
            ("/key/generate", {"enforced_params": ["user"]}),
            ("/team/new", {"team_member_rpm_limit": 5}),
            ("/team/new", {"model_aliases": {"a": "m"}}),
        ):
            status, answer = await call("POST", path, body)
            assert (status, answer["error"]["param"]) == (400, next(iter(body))), body
        told = {"name": "boss", "role": "admin", "organization": "default"}
        boss = Caller(http, gateway, (await gateway.records.admin.create(_operator(), "key", told))["key"])
        assert (await boss("POST", "/key/generate", {"organization_id": "acme"}))[0] == 400


async def test_a_change_leaves_every_limit_that_it_does_not_name() -> None:
    """Also those that LiteLLM has no word for: a second window, what may be overdrawn, other limits of one model."""
    async with compatible() as (gateway, _, call):
        limits = {
            "rpm": 9,
            "otpm": 7,
            "budget": {"month": 20, "day": 2, "overdraft": 1},
            "per_model": {"m": {"rpm": 3, "budget": {"day": 1}}, "n": {"tpm": 8}},
        }
        made = await gateway.records.admin.create(_operator(), "key", {"name": "a", "limits": limits})

        async def changed(**body: Any) -> dict[str, Any]:
            await call.ok("POST", "/key/update", {"key": made["id"], **body})
            shown = (await gateway.records.admin.get(_operator(), "key", made["id"]))["limits"]
            found: dict[str, Any] = _said(shown)
            return found

        budget = {"month": "20", "day": "2", "overdraft": "1"}
        of_models: dict[str, Any] = {"m": {"rpm": 3, "budget": {"day": "1"}}, "n": {"tpm": 8}}
        assert await changed(rpm_limit=5) == {"rpm": 5, "otpm": 7, "budget": budget, "per_model": of_models}
        of_models["m"]["rpm"] = 4
        assert (await changed(model_rpm_limit={"m": 4}))["per_model"] == of_models
        of_models["m"]["budget"] = {"week": "6"}
        assert (await changed(model_max_budget={"m": {"budget_limit": 6, "time_period": "7d"}}))[
            "per_model"
        ] == of_models
        del of_models["m"]["budget"]
        assert (await changed(model_max_budget={}))["per_model"] == of_models
        assert (await changed(max_budget=30))["budget"] == {**budget, "month": "30"}
        assert (await changed(max_budget=None))["budget"] == {"day": "2", "overdraft": "1"}
        told = await changed(max_budget=None)
        assert told == {"rpm": 5, "otpm": 7, "per_model": of_models}


async def test_what_a_key_belongs_to_is_not_changed_in_silence() -> None:
    async with compatible() as (gateway, _, call):
        await gateway.records.admin.create(_operator(), "team", {"id": "t"})
        made = await call.ok("POST", "/key/generate", {"team_id": "t"})
        assert await call.ok(
            "POST", "/key/update", {"key": made["key"], "team_id": "t", "user_id": None, "rpm_limit": 1}
        )
        for option in ("team_id", "user_id", "organization_id"):
            status, answer = await call("POST", "/key/update", {"key": made["key"], option: "other"})
            assert (status, answer["error"]["param"]) == (400, option)


async def test_an_option_in_the_body_of_what_takes_none_is_refused_and_changes_nothing() -> None:
    """Else the old secret of a key that is rotated with `overlap` there would end at once."""
    async with compatible() as (gateway, _, call):
        made = await call.ok("POST", "/key/generate", {})
        for path, body in (
            (f"/admin/v1/keys/{made['token']}/rotate", {"overlap": 3600}),
            (f"/key/{made['token']}/regenerate", {"max_budget": 1}),
        ):
            status, answer = await call("POST", path, body)
            assert (status, "takes no body" in answer["error"]["message"]) == (400, True), answer
        assert (await call("POST", f"/admin/v1/keys/{made['token']}/rotate", {"overlap": 5}))[1]["error"][
            "message"
        ].endswith("query parameters: overlap.")
        await ask(gateway, made["key"])
        assert (await call("POST", f"/key/{made['token']}/regenerate", {}))[0] == 200


def _said(value: Any) -> Any:
    """Without what is null or empty."""
    if not isinstance(value, dict):
        return value
    return {k: said for k, v in value.items() if (said := _said(v)) not in (None, {})}


async def test_S_07_roles_hold_here_too_and_another_tenants_keys_are_unknown() -> None:
    async with compatible() as (gateway, http, _):
        made: dict[str, str] = {}
        for tenant in ("a", "b"):
            await gateway.records.admin.create(_operator(), "organization", {"id": tenant})
            await gateway.records.admin.create(_operator(), "team", {"id": f"{tenant}-t", "organization": tenant})
            for role in (None, "viewer", "admin"):
                body = {"name": f"{role}", "team": f"{tenant}-t", "role": role}
                made[f"{tenant}.{role}"] = (await gateway.records.admin.create(_operator(), "key", body))["key"]
        await ask(gateway, made["b.None"])
        await gateway.records.ledger.flush()  # type: ignore[union-attr]
        served = [(m, p) for m, p in gateway.admin.routes if not p.startswith("/admin/v1")]
        for operation in gateway.compatible():
            assert (operation.method, operation.path) in served
            path = operation.path.replace("{id}", "key_x")
            assert (await Caller(http, gateway, None)(operation.method, path, {}))[0] == 401
            assert (await Caller(http, gateway, made["a.None"])(operation.method, path, {}))[0] == 403
            status, _ = await Caller(http, gateway, made["a.viewer"])(operation.method, path, {})
            assert (status == 403) == (operation.level != "viewer"), path
        boss = Caller(http, gateway, made["a.admin"])
        for name in (made["b.None"], "sk-unknown-0123456789"):
            assert (await boss("GET", "/key/info", key=name))[0] == 404
            assert (await boss("POST", "/key/update", {"key": name, "rpm_limit": 1}))[0] == 404
            assert (await boss("POST", "/key/delete", {"keys": [name]}))[0] == 404
        assert await boss.ok("GET", "/spend/logs") == []
        assert (await boss.ok("GET", "/key/list"))["total_count"] == 3
        for path, query in (("/team/info", {"team_id": "b-t"}), ("/user/info", {"user_id": "nobody"})):
            assert (await boss("GET", path, **query))[0] == 404
        await ask(gateway, (await boss.ok("POST", "/key/generate", {"team_id": "a-t"}))["key"])


async def test_S_07_who_takes_a_name_that_somebody_else_had_does_not_see_what_they_spent() -> None:
    async with compatible() as (gateway, http, call):
        bosses = {}
        for tenant in ("a", "b"):
            await gateway.records.admin.create(_operator(), "organization", {"id": tenant})
            told = {"name": "boss", "organization": tenant, "role": "admin"}
            bosses[tenant] = Caller(
                http, gateway, (await gateway.records.admin.create(_operator(), "key", told))["key"]
            )
        await bosses["a"].ok("POST", "/team/new", {"team_id": "blue"})
        key = (await bosses["a"].ok("POST", "/key/generate", {"team_id": "blue", "user_id": "ann"}))["key"]
        await ask(gateway, key)
        await gateway.records.ledger.flush()  # type: ignore[union-attr]
        assert await _spend(bosses["a"]) > 0
        await bosses["a"].ok("POST", "/key/delete", {"keys": [key]})
        for kind, name in (("user", "ann"), ("team", "blue")):
            await gateway.records.admin.delete(_operator(), kind, name)  # type: ignore[arg-type] # names of kinds
        await bosses["b"].ok("POST", "/team/new", {"team_id": "blue"})
        await bosses["b"].ok("POST", "/user/new", {"user_id": "ann", "teams": ["blue"], "auto_create_key": False})
        assert await _spend(bosses["b"]) == await _spend(call) == 0
        key = (await bosses["b"].ok("POST", "/key/generate", {"team_id": "blue", "user_id": "ann"}))["key"]
        await ask(gateway, key)
        await gateway.records.ledger.flush()  # type: ignore[union-attr]
        assert await _spend(bosses["b"]) > 0


async def _spend(call: Caller) -> float:
    """What team ``blue`` and user ``ann`` spent, which is the same."""
    team = (await call.ok("GET", "/team/info", team_id="blue"))["team_info"]["spend"]
    user = (await call.ok("GET", "/user/info", user_id="ann"))["user_info"]["spend"]
    assert team == user
    return float(team)


async def test_switched_off_there_are_none() -> None:
    async with running(MODELS, admin={"keys": {"ops": ADMIN}}) as (gateway, _), aiohttp.ClientSession() as http:
        assert (await Caller(http, gateway)("GET", "/key/list"))[0] == 404


def _operator() -> Any:
    from gateway.records.grants import Actor

    return Actor("test")
