"""Whatever takes an id: somebody else's answers exactly like one that nobody has.

The probes are made from the routers themselves. A new route, query parameter or field of a body fails here until it is
said what it takes.
"""

import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from openai import AsyncOpenAI

from gateway.app import Gateway
from gateway.management.operation import Operation

from .running import deployment, running
from .test_admin_api import ADMIN, ASK, Caller

MODELS = {"m": [deployment("demo-echo")]}
CONFIG: dict[str, Any] = {"admin": {"keys": {"ops": ADMIN}, "litellm_compat": True}, "auth": {"pepper": "p" * 32}}
OWNERS = ("organization", "team", "user", "key")

TAKE_NO_ID = {
    *("since", "until", "model", "deployment", "provider", "tier", "tag", "group_by", "format", "limit", "overlap"),
    *("page", "size", "return_full_object", "start_date", "end_date", "summarize"),
}
"""Query parameters that name nothing of a tenant's."""
PLAIN_FIELDS = {
    *("id", "name", "limits", "tiers", "models", "tags", "metadata", "store", "blocked", "expires", "aliases"),
    *("allow_pinning", "allow_cheaper", "restricted_params", "role", "digest", "request"),
}
"""Fields of bodies that refer to nothing of a tenant's; an `id` is what is made."""
OPERATORS_ONLY = {"/admin/v1/explain", "/admin/v1/audit", "/admin/v1/reconcile", "/admin/v1/config/"}
DATA: dict[tuple[str, str], list[str]] = {
    ("POST", "/v1/chat/completions"): [],
    ("POST", "/v1/embeddings"): [],
    ("GET", "/v1/models"): [],
    ("GET", "/v1/models/{id}"): [],  # models are the gateway's; which ones a key may use: tests/test_routing.py
    ("GET", "/healthz"): [],
    ("GET", "/v1/chat/completions"): ["?after={}", "?limit=5&order=desc&after={}", "?metadata[a]=b&after={}"],
    ("GET", "/v1/chat/completions/{id}"): ["/{}"],
    ("POST", "/v1/chat/completions/{id}"): ["/{}"],
    ("DELETE", "/v1/chat/completions/{id}"): ["/{}"],
    ("GET", "/v1/chat/completions/{id}/messages"): ["/{}/messages", "/{}/messages?after={}-0"],
}
"""What each route of the clients' listener takes; an empty list takes no id of a tenant's."""
COMPATIBLE: dict[str, list[tuple[str, Any]]] = {
    "/key/generate": [("team_id", "team"), ("user_id", "user")],
    "/key/update": [("key", "key"), ("key", "secret"), ("key", "hash")],
    "/key/delete": [("keys", ["key"]), ("keys", ["secret"]), ("keys", ["hash"]), ("key_aliases", ["alias"])],
    "/key/block": [("key", "key"), ("key", "secret"), ("key", "hash")],
    "/key/unblock": [("key", "key"), ("key", "secret"), ("key", "hash")],
    "/key/{id}/regenerate": [("{id}", "key"), ("{id}", "secret"), ("{id}", "hash")],
    "/key/info": [("key", "key"), ("key", "secret"), ("key", "hash")],
    "/key/list": [("team_id", "team"), ("user_id", "user")],
    "/team/new": [("organization_id", "organization")],
    "/team/info": [("team_id", "team")],
    "/user/new": [("teams", ["team"])],
    "/user/info": [("user_id", "user")],
    "/spend/logs": [
        *(("api_key", "key"), ("api_key", "secret"), ("api_key", "hash"), ("user_id", "user"), ("request_id", "ledger"))
    ],
    "/model/info": [],
    "/v1/model/info": [],
}
"""LiteLLM's endpoints: fields of the query or the body, and which id belongs there."""


@dataclass(frozen=True)
class Tenant:
    """Ids of everything that belongs to a team, and keys to call with."""

    ids: dict[str, str]
    keys: dict[str, str]

    def unknown(self, kind: str) -> str:
        """An id that nobody has, of the same form and sorted right behind."""
        known = self.ids[kind]
        if kind == "row":
            return str(int(known) + 10**6)
        if kind == "hash":
            return hashlib.sha256(known.encode()).hexdigest()
        return known[:-1] + ("0" if known[-1] != "0" else "1") if kind == "secret" else f"{known}0"


async def tenant(gateway: Gateway, operator: Caller, organization: str, team: str) -> Tenant:
    await operator("POST", "/organizations", {"id": organization})
    await operator.ok("POST", "/teams", {"id": team, "organization": organization})
    user = (await operator.ok("POST", "/users", {"id": f"{team}-user", "team": team}))["id"]
    keys, ids = {}, {"organization": organization, "team": team, "user": user}
    for role in (None, "viewer", "team_admin", "admin"):
        made = await operator.ok("POST", "/keys", {"name": f"{team}-{role}", "team": team, "user": user, "role": role})
        keys[str(role)] = made["key"]
        if role is None:
            ids |= {"key": made["id"], "secret": made["key"], "alias": made["name"]}
            ids["hash"] = hashlib.sha256(made["key"].encode()).hexdigest()
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=keys["None"], max_retries=0) as sdk:
        answer = await sdk.chat.completions.with_raw_response.create(**ASK, store=True, metadata={"a": "b"})
        ids |= {"completion": answer.parse().id, "ledger": answer.headers["x-request-id"]}
    (row,) = (await operator.ok("GET", f"/ledger/{ids['ledger']}"))["data"]
    return Tenant({**ids, "row": str(row["id"])}, keys)


@asynccontextmanager
async def tenants() -> AsyncIterator[tuple[Gateway, aiohttp.ClientSession, Tenant, dict[str, Tenant]]]:
    """A gateway; a tenant, another team of its organization and one of another organization."""
    async with running(MODELS, **CONFIG) as (gateway, _), aiohttp.ClientSession() as http:
        operator = Caller(http, gateway, ADMIN)
        mine = await tenant(gateway, operator, "alpha", "alpha-one")
        others = {
            "team": await tenant(gateway, operator, "alpha", "alpha-two"),
            "all": await tenant(gateway, operator, "beta", "beta-one"),
        }
        yield gateway, http, mine, others


def others_of(role: str, others: dict[str, Tenant]) -> list[Tenant]:
    """An admin may know all of its organization; the rest know their team."""
    return [others["all"]] if role == "admin" else list(others.values())


Probe = tuple[str, dict[str, str], Any, str]
"""Path, query and body with ``ID`` where the id goes, and the kind of id."""


def probes(operation: Operation) -> Iterator[Probe]:
    """Everything of an operation that an id can be given for."""
    path = operation.path
    if "{id}" in path:
        kind = path.split("/")[3].removesuffix("s")
        body = {"tags": ["x"]} if operation.method == "PATCH" else None
        yield path.replace("{id}", "ID"), {}, body, kind
        return
    for name in operation.query:
        kind = name
        if name == "after":
            kind = {"ledger": "row"}.get(path.rpartition("/")[2], path.rpartition("/")[2].removesuffix("s"))
        elif name not in OWNERS:
            assert name in TAKE_NO_ID, f"{operation.method} {path}: which ids does the query's '{name}' take?"
            continue
        yield path, {name: "ID"}, None, kind
    fields = operation.body.model_fields if operation.body is not None else ()
    for name in fields:
        if name not in OWNERS:
            assert name in PLAIN_FIELDS, f"{operation.method} {path}: which ids does the body's '{name}' take?"
            continue
        named = {"name": "probe"} if "name" in fields else {"id": "probe"}
        yield path, {}, {**named, name: "ID"}, name


def filled(value: Any, identity: str) -> Any:
    if isinstance(value, dict):
        return {name: filled(item, identity) for name, item in value.items()}
    if isinstance(value, list):
        return [filled(item, identity) for item in value]
    return value.replace("ID", identity) if isinstance(value, str) else value


class Asker:
    """Asks with a key, and tells what came, without the id itself."""

    def __init__(self, http: aiohttp.ClientSession, base: str, key: str) -> None:
        self._http, self._base, self._headers = http, base, {"authorization": f"Bearer {key}"}

    async def __call__(
        self, method: str, path: str, query: dict[str, str], body: Any, identity: str
    ) -> tuple[int, str]:
        url = self._base + filled(path, identity)
        sent = {"params": filled(query, identity), "json": filled(body, identity), "headers": self._headers}
        async with self._http.request(method, url, **sent) as response:
            return response.status, (await response.text()).replace(identity, "ID")


@pytest.mark.parametrize("role", ["viewer", "team_admin", "admin"])
async def test_C_029_S_07_every_id_of_the_admin_api(role: str) -> None:
    async with tenants() as (gateway, http, mine, others):
        asker = Asker(http, gateway.admin_url, mine.keys[role])
        tried = 0
        for operation in gateway.operations():
            if operation.level == "operator":
                assert any(operation.path.startswith(p) for p in (*OPERATORS_ONLY, "/admin/v1/organizations"))
                continue
            for path, query, body, kind in probes(operation):
                for other in others_of(role, others):
                    if kind == "organization" and other.ids["organization"] == mine.ids["organization"]:
                        continue
                    seen = [
                        await asker(operation.method, path, query, body, identity)
                        for identity in (other.ids[kind], other.unknown(kind))
                    ]
                    assert seen[0] == seen[1], (operation.method, path, query, body)
                    assert seen[0][0] in (200, 400, 403, 404)
                    tried += 1
        assert tried > 40


async def test_C_029_every_id_of_the_clients_listener() -> None:
    async with tenants() as (gateway, http, mine, others):
        assert set(gateway.data.routes) == set(DATA), "which ids does the new route take?"
        for (method, _), paths in DATA.items():
            for path in paths:
                for other in others.values():
                    asker = Asker(http, f"{gateway.url}/v1/chat/completions", mine.keys["None"])
                    body = {"metadata": {"c": "d"}} if method == "POST" else None
                    seen = [
                        await asker(method, path.replace("{}", "ID"), {}, body, identity)
                        for identity in (other.ids["completion"], other.unknown("completion"))
                    ]
                    assert seen[0] == seen[1], (method, path)
                    assert seen[0][0] in (400, 404)
        for other in others.values():  # and nothing was changed
            async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=other.keys["None"]) as sdk:
                assert (await sdk.chat.completions.retrieve(other.ids["completion"])).metadata == {"a": "b"}


@pytest.mark.parametrize("role", ["viewer", "team_admin", "admin"])
async def test_C_029_S_07_every_id_of_litellms_endpoints(role: str) -> None:
    async with tenants() as (gateway, http, mine, others):
        listed = gateway.compatible()
        assert {o.path for o in listed} == set(COMPATIBLE), "which ids does the new endpoint take?"
        asker = Asker(http, gateway.admin_url, mine.keys[role])
        for operation in listed:
            for field, wanted in COMPATIBLE[operation.path]:
                listing = isinstance(wanted, list)
                kind = wanted[0] if listing else wanted
                for other in others_of(role, others):
                    if kind == "organization" and other.ids["organization"] == mine.ids["organization"]:
                        continue
                    given: Any = ["ID"] if listing else "ID"
                    path = operation.path.replace("{id}", "ID")
                    query = {field: "ID"} if operation.method == "GET" else {}
                    body = None if operation.method == "GET" else {} if field == "{id}" else {field: given}
                    if operation.path == "/key/update":
                        body["tags"] = ["x"]
                    if field == "user_id" and operation.method == "POST":
                        continue  # names a user that is made where nobody has it: a taken name is refused to all alike
                    seen = [
                        await asker(operation.method, path, query, body, identity)
                        for identity in (other.ids[kind], other.unknown(kind))
                    ]
                    assert seen[0] == seen[1], (operation.path, field, kind)
        for other in others.values():
            async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=other.keys["None"]) as sdk:
                await sdk.models.list()


async def test_a_name_that_somebody_else_uses_too_names_ones_own() -> None:
    """Aliases of LiteLLM's keys are names here, and names are an organization's own."""
    async with tenants() as (gateway, http, mine, _):
        operator = Caller(http, gateway, ADMIN)
        for organization in ("alpha", "beta"):
            await operator.ok("POST", "/keys", {"name": "same", "organization": organization})
        boss = Asker(http, gateway.admin_url, mine.keys["admin"])
        status, _ = await boss("POST", "/key/delete", {}, {"key_aliases": ["same"]}, "none")
        assert status == 200
        left = await operator.ok("GET", "/keys")
        assert [k["organization"] for k in left["data"] if k["name"] == "same"] == ["beta"]
