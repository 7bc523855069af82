"""LiteLLM's database: keys by their digests, so that clients keep them, teams, users, and what they spent."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select

from ..errors import Conflict, GatewayError
from ..records.admin import Admin
from ..records.database import Database
from ..records.grants import Actor
from ..records.keys import DEFAULT_ORGANIZATION
from ..records.resources import KindName
from ..records.tables import key_digests
from . import spend
from .settings import JSON, listing, mapping, name, owner, surprises
from .tables import Table

ACTOR = Actor("import-litellm")
_UNKNOWN = {
    "allowed_routes": "it may call everything here",
    "permissions": "not known here",
    "budget_limits": "only max_budget is taken",
    "soft_budget": "warns nobody here; counters.thresholds does",
    "budget_fallbacks": "not known here",
    "router_settings": "not known here",
    "object_permission_id": "not known here",
    "project_id": "projects are not known here, nor are their budgets",
    "agent_id": "not known here",
    "policies": "not known here",
    "access_group_ids": "name the models in `models`",
    "auto_rotate": "rotate it by `sluice keys rotate`",
    "model_aliases": "aliases belong to keys here",
    "team_member_budget": "not known here",
    "default_team_member_models": "not known here",
    "members_with_roles": "team admins get a key with that role",
    "user_role": "roles belong to keys here",
}
"""Columns that limit or free somebody in a way that is not known here: never dropped in silence."""
_BUDGET = (
    "max_budget",
    "soft_budget",
    "budget_duration",
    "tpm_limit",
    "rpm_limit",
    "tpd_limit",
    "max_parallel_requests",
    "model_max_budget",
)
"""What a row may leave to the budget that it refers to."""


@dataclass(slots=True)
class Imported:
    """How many of each kind were made, and what could not be."""

    made: dict[str, int] = field(default_factory=dict)
    spent: int = 0
    """Nano-dollars brought along."""
    notes: list[str] = field(default_factory=list)


class Importer:
    """Makes owners and keys through the same door as the admin API: a second run makes nothing twice."""

    def __init__(self, admin: Admin, database: Database, advance: Callable[[int], None] = lambda _: None) -> None:
        self._admin = admin
        self._advance = advance
        """Told of every row that was dealt with."""
        self._database = database
        self._done = Imported()
        self._known: dict[KindName, set[str]] = {"organization": {DEFAULT_ORGANIZATION}, "team": set(), "user": set()}
        """Owners that are there."""
        self._budgets: Mapping[Any, Mapping[str, Any]] = {}

    async def run(self, tables: Mapping[str, Table]) -> Imported:
        self._budgets = {row.get("budget_id"): row for row in tables["budgets"]}
        for row in tables["organizations"]:
            await self._owner("organization", row, "organization_id", {})
        for row in tables["teams"]:
            await self._owner("team", row, "team_id", self._home("team", row, "team_id"))
        for row in tables["users"]:
            if row.get("user_id") != spend.PROXY:
                await self._user(row)
        for row in tables["keys"]:
            await self._key(row)
        self._done.spent = await spend.bring(self._database, tables, ACTOR.id)
        for left in tables.get("left", ()):
            self._done.notes.append(f"{left['table']}: {left['rows']} rows not taken: {left['what']}")
        return self._done

    async def _user(self, row: Mapping[str, Any]) -> None:
        listed = [name(team) for team in listing(row.get("teams"))]
        teams = [team for team in listed if team in self._known["team"]]
        home = self._home("user", row, "user_id")
        if len(teams) == 1:
            home = {"team": teams[0]}
        elif teams:
            self._done.notes.append(f"user {name(row.get('user_id'))}: is in {len(teams)} teams; its keys name theirs")
        await self._owner("user", row, "user_id", home)

    def _home(self, kind: KindName, row: Mapping[str, Any], column: str) -> JSON:
        """The organization that a row names, if it is there."""
        given = row.get("organization_id")
        if not given:
            return {}
        if name(given) in self._known["organization"]:
            return {"organization": name(given)}
        self._done.notes.append(f"{kind} {name(row.get(column))}: its organization {name(given)} does not exist")
        return {}

    async def _owner(self, kind: KindName, row: Mapping[str, Any], column: str, home: JSON) -> None:
        identity = name(row.get(column))
        body = self._body(f"{kind} {identity}", row)
        if body is None:
            return
        told = {f"litellm_{w}": str(row[f"{kind}_{w}"]) for w in ("alias", "email") if row.get(f"{kind}_{w}")}
        body["metadata"] = {**body.get("metadata", {}), **told}
        if await self._make(kind, {"id": identity, **body, **home}) is not False:
            self._known[kind].add(identity)

    def _body(self, what: str, row: Mapping[str, Any]) -> JSON | None:
        """A row's options; those of the budget it refers to fill in what it does not say itself. None where it makes no sense."""
        budget = self._budgets.get(row.get("budget_id")) or {}
        whole = {**row, **{k: row.get(k) if row.get(k) is not None else budget.get(k) for k in _BUDGET}}
        for column, why in _UNKNOWN.items():
            if whole.get(column) not in (None, "", False, [], {}, "[]", "{}"):
                self._done.notes.append(f"{what}: {column} is left out: {why}")
        self._done.notes += [f"{what}: {surprise}" for surprise in surprises(whole)]
        try:
            return owner(whole)
        except (ValueError, TypeError, OverflowError):
            self._done.notes.append(f"{what}: not made: one of its limits is not a number")
            return None

    async def _key(self, row: Mapping[str, Any]) -> None:
        digest = f"sha256:{row.get('token') or ''}"
        label = name(row.get("key_alias") or f"litellm-{digest[7:19]}")
        if await self._has(digest):
            self._advance(1)
            self._done.notes.append(f"key {label}: exists already, left as it is")
            return
        body = self._body(f"key {label}", row)
        if body is None:
            return
        body |= {"name": label, "digest": digest}
        body["aliases"] = {str(k): str(v) for k, v in mapping(row.get("aliases")).items()}
        if (expires := _moment(row.get("expires"))) is not None:
            body["expires"] = expires
        kinds: tuple[KindName, KindName] = ("team", "user")
        for kind in kinds:
            identity = name(row[f"{kind}_id"]) if row.get(f"{kind}_id") else None
            if identity is not None and identity in self._known[kind]:
                body[kind] = identity
            elif identity is not None:
                self._done.notes.append(f"key {label}: its {kind} {identity} does not exist")
        if "team" not in body:
            body |= self._home("key", {**row, "label": label}, "label")
        await self._make_key(label, body)

    async def _make_key(self, label: str, body: JSON) -> None:
        """Whatever its name and its user are: a key that is not made locks its clients out."""
        made = await self._make("key", body)
        if made is None:  # there two keys may have one name, or names that are one here
            body = {**body, "name": f"{label[:119]}-{body['digest'][7:15]}"}
            self._done.notes.append(f"key {label}: there is another of this name; it is called {body['name']}")
            made = await self._make("key", body)
        if made is False and "user" in body and ("team" in body or "organization" in body):
            # There a user may have keys in any organization; here both must be of one.
            self._done.notes.append(f"key {label}: made without its user")
            await self._make("key", {k: v for k, v in body.items() if k != "user"})

    async def _has(self, digest: str) -> bool:
        async with self._database.read() as connection:
            found = select(key_digests.c.key_id).where(key_digests.c.digest == digest)
            return await connection.scalar(found) is not None

    async def _make(self, kind: KindName, body: JSON) -> bool | None:
        """True where it was made, None where one of this name is there, False where it cannot be."""
        self._advance(1)
        identity = body.get("id") or body["name"]
        try:
            await self._admin.create(ACTOR, kind, body)
        except Conflict:
            if kind != "key":
                self._done.notes.append(f"{kind} {identity}: exists already, left as it is")
            return None
        except GatewayError as error:
            self._done.notes.append(f"{kind} {identity}: {error.message}")
            return False
        self._done.made[kind] = self._done.made.get(kind, 0) + 1
        return True


def _moment(value: Any) -> str | None:
    """Their times are UTC without saying so."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    return str(value) if value else None
