"""LiteLLM's most scripted endpoints, as operations of ours: the same roles, the same records, its words."""

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select

from config.schema import Deployment, PublicModel

from ..errors import InvalidRequest, ResourceNotFound
from ..management.operation import JSON, Asked, Handler, Level, Operation
from ..management.reports import moment
from ..records.admin import Admin
from ..records.cache import KeyCache
from ..records.database import Database, sql_text
from ..records.grants import Actor
from ..records.resources import KindName
from ..records.tables import key_digests, keys
from ..records.usage import Filter, UsageStore
from .rows import check, key_body, log_row, row, update_body
from .settings import name, owner

_MAX_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Compatible:
    """``served`` are the models by their public names; ``clock`` is in seconds since the epoch."""

    admin: Admin
    usage: UsageStore
    database: Database
    cache: KeyCache
    served: Mapping[str, PublicModel]
    clock: Callable[[], float] = time.time

    def operations(self) -> Iterator[Operation]:
        one = {"key": "The key, its hash or its id."}
        page = {"page": "From 1.", "size": "1 to 100.", "team_id": "", "user_id": "", "return_full_object": ""}
        logs = dict.fromkeys(("api_key", "user_id", "request_id", "start_date", "end_date", "summarize"), "")
        yield _post("/key/generate", self.generate)
        yield _post("/key/update", self.update)
        yield _post("/key/delete", self.delete)
        yield _post("/key/block", self.block)
        yield _post("/key/unblock", self.unblock)
        yield Operation("POST", "/key/{id}/regenerate", "team_admin", "A new secret", self.regenerate)
        yield Operation("GET", "/key/info", "viewer", "A key", self.key_info, one)
        yield Operation("GET", "/key/list", "viewer", "Keys", self.key_list, page)
        yield _post("/team/new", self.team_new)
        yield Operation("GET", "/team/info", "viewer", "A team", self.team_info, {"team_id": ""})
        yield _post("/user/new", self.user_new)
        yield Operation("GET", "/user/info", "viewer", "A user", self.user_info, {"user_id": ""})
        yield Operation("GET", "/spend/logs", "viewer", "Rows of the ledger", self.logs, logs)
        for path in ("/model/info", "/v1/model/info"):
            yield Operation("GET", path, "viewer", "Models", self.models)

    async def generate(self, asked: Asked) -> JSON:
        body = _body(asked, "/key/generate")
        told = key_body(body, f"key-{secrets.token_hex(6)}", self._now())
        if asked.actor.team is not None:
            told.setdefault("team", asked.actor.team)
        if asked.actor.organization is not None and "team" not in told:
            told.setdefault("organization", asked.actor.organization)
        if "user" in told:
            await self._user(asked.actor, told["user"], told.get("team"), told.get("organization"))
        made = await self.admin.create(asked.actor, "key", told)
        return {**row(made, 0), "key": made.get("key", body.get("key"))}

    async def update(self, asked: Asked) -> JSON:
        body = _body(asked, "/key/update")
        identity = await self._key(body.get("key"))
        shown = await self.admin.get(asked.actor, "key", identity)
        told = update_body(body, shown, self._now())
        return await self._row("key", await self.admin.update(asked.actor, "key", identity, told))

    async def delete(self, asked: Asked) -> JSON:
        body = _body(asked, "/key/delete")
        given = [*_texts(body, "keys"), *[await self._named(asked.actor, a) for a in _texts(body, "key_aliases")]]
        found = [await self._key(key) for key in given]
        for identity in found:
            await self.admin.delete(asked.actor, "key", identity)
        return {"deleted_keys": given}

    async def block(self, asked: Asked) -> JSON:
        identity = await self._key(_body(asked, "/key/block").get("key"))
        return await self._row("key", await self.admin.block(asked.actor, "key", identity))

    async def unblock(self, asked: Asked) -> JSON:
        identity = await self._key(_body(asked, "/key/unblock").get("key"))
        return await self._row("key", await self.admin.unblock(asked.actor, "key", identity))

    async def regenerate(self, asked: Asked) -> JSON:
        made = await self.admin.rotate(asked.actor, await self._key(asked.id))
        return {**await self._row("key", made), "key": made["key"]}

    async def key_info(self, asked: Asked) -> JSON:
        given = asked.query.get("key")
        shown = await self.admin.get(asked.actor, "key", await self._key(given))
        return {"key": given, "info": await self._row("key", shown)}

    async def key_list(self, asked: Asked) -> JSON:
        number, size = max(asked.number("page", 1, 10**6), 1), min(max(asked.number("size", 10, 10**6), 1), 100)
        found = await self._keys(asked.actor, asked.query.get("team_id"), asked.query.get("user_id"))
        part = found[(number - 1) * size : number * size]
        whole = asked.query.get("return_full_object", "").lower() == "true"
        return {
            "keys": [row(key) if whole else key["id"] for key in part],
            "total_count": len(found),
            "current_page": number,
            "total_pages": -(-len(found) // size),
        }

    async def team_new(self, asked: Asked) -> JSON:
        body = _body(asked, "/team/new")
        identity = name(body.get("team_id") or f"team-{secrets.token_hex(8)}")
        told: JSON = {"id": identity, **owner(body)}
        if body.get("team_alias"):
            told["metadata"] = {**told.get("metadata", {}), "litellm_alias": str(body["team_alias"])}
        organization = body.get("organization_id") or asked.actor.organization
        if organization:
            told["organization"] = name(organization)
        return row(await self.admin.create(asked.actor, "team", told), 0)

    async def team_info(self, asked: Asked) -> JSON:
        identity = asked.query.get("team_id", "")
        shown = await self.admin.get(asked.actor, "team", identity)
        found = await self._keys(asked.actor, identity, None)
        return {"team_id": identity, "team_info": await self._row("team", shown), "keys": [row(key) for key in found]}

    async def user_new(self, asked: Asked) -> JSON:
        body = _body(asked, "/user/new")
        identity = name(body.get("user_id") or f"user-{secrets.token_hex(8)}")
        teams = [name(team) for team in _texts(body, "teams")]
        if len(teams) > 1:
            raise InvalidRequest("A user belongs to one team here.", param="teams", code="unsupported_parameter")
        told: JSON = {"id": identity, **owner(body)}
        if body.get("user_email"):
            told["metadata"] = {**told.get("metadata", {}), "litellm_email": str(body["user_email"])}
        home = teams[0] if teams else asked.actor.team
        told |= {"team": home} if home else {"organization": asked.actor.organization}
        made = row(await self.admin.create(asked.actor, "user", told), 0)
        if body.get("auto_create_key") is False:
            return made
        key = await self.admin.create(
            asked.actor, "key", {"name": f"{identity}-{secrets.token_hex(4)}", "user": identity}
        )
        return {**made, "key": key["key"], "token": key["id"]}

    async def user_info(self, asked: Asked) -> JSON:
        identity = asked.query.get("user_id", "")
        shown = await self.admin.get(asked.actor, "user", identity)
        found = await self._keys(asked.actor, None, identity)
        return {"user_id": identity, "user_info": await self._row("user", shown), "keys": [row(key) for key in found]}

    async def logs(self, asked: Asked) -> list[JSON]:
        """The first thousand rows; a longer time is for ``/admin/v1/usage/export``."""
        actor, query, now = asked.actor, asked.query, self.clock()
        since, until = (
            moment(query[field], field, now) if field in query else None for field in ("start_date", "end_date")
        )
        key = await self._key(query["api_key"]) if "api_key" in query else None
        if key is not None and key != query["api_key"]:
            await self.admin.get(actor, "key", key)  # a key of somebody else is as unknown as one that nobody has
        wanted = Filter(since, until, actor.organization, actor.team, query.get("user_id"), key)
        request = query.get("request_id")
        rows = await self.usage.rows(wanted, limit=_MAX_ROWS, request_id=request)
        return [log_row(item) for item in rows]

    async def models(self, _: Asked) -> JSON:
        return {"data": [_model(public, d) for public, model in self.served.items() for d in model.deployments]}

    async def _row(self, kind: KindName, shown: JSON) -> JSON:
        scope: Any = kind
        return row(shown, await self.usage.spent(scope, shown["id"], home=shown["organization"]))

    async def _keys(self, actor: Actor, team: str | None, user: str | None) -> list[JSON]:
        found: list[JSON] = []
        page: JSON = {"has_more": True, "last_id": None}
        while page["has_more"]:
            page = await self.admin.list(actor, "key", after=page["last_id"], limit=1000, team=team, user=user)
            found += page["data"]
        return found

    async def _user(self, actor: Actor, user: str, team: str | None, organization: str | None) -> None:
        """There a key may name a user that nobody has made: it is made then."""
        try:
            await self.admin.get(actor, "user", user)
        except ResourceNotFound:
            told = {"id": user, "team": team} if team else {"id": user, "organization": organization}
            await self.admin.create(actor, "user", told)

    async def _key(self, given: Any) -> str:
        """The id of a key that is named by itself, by its hash or by its id; raises ResourceNotFound."""
        if not isinstance(given, str) or not given:
            raise InvalidRequest("Missing required parameter: 'key'.", param="key", code="missing_required_parameter")
        if given.startswith("key_"):
            return given
        record = await self.cache.record(given)
        if record is not None:
            return record.id
        return await self._id(select(key_digests.c.key_id).where(key_digests.c.digest == f"sha256:{sql_text(given)}"))

    async def _named(self, actor: Actor, alias: str) -> str:
        """Names are an organization's own: somebody else's key of the same name does not matter."""
        own = [] if actor.organization is None else [keys.c.organization == actor.organization]
        return await self._id(select(keys.c.id).where(keys.c.name == sql_text(alias), *own))

    async def _id(self, query: Any) -> str:
        async with self.database.read() as connection:
            found = (await connection.scalars(query.limit(2))).all()
        if len(found) != 1:
            raise ResourceNotFound("No such key.")
        return str(found[0])

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.clock(), UTC)


def _post(path: str, handler: Handler) -> Operation:
    level: Level = "admin" if path == "/team/new" else "team_admin"
    return Operation("POST", path, level, "As LiteLLM has it", handler, body=dict)


def _model(public: str, deployment: Deployment) -> JSON:
    upstream = f"{deployment.provider}/{deployment.model}"
    info = {"id": deployment.name or upstream, "db_model": False, "litellm_provider": deployment.provider}
    limits = {"max_output_tokens": deployment.max_output, "max_input_tokens": deployment.max_input}
    return {"model_name": public, "litellm_params": {"model": upstream}, "model_info": {**info, **limits}}


def _body(asked: Asked, path: str) -> JSON:
    if not isinstance(asked.body, dict):
        raise InvalidRequest("The body must be a JSON object.")
    check(asked.body, path)
    return asked.body


def _texts(body: Mapping[str, Any], option: str) -> list[str]:
    value = body.get(option) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidRequest(f"Invalid '{option}': a list of texts.", param=option, code="invalid_type")
    return value
