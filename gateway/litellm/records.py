"""LiteLLM's database: keys by their digests, so that clients keep them, teams, users, and what they spent."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import inspect, text

from adapters.usage import NO_USAGE

from ..call import Attempt, CallRecord, Principal
from ..errors import Conflict, GatewayError
from ..records.admin import Admin
from ..records.audit import AuditLog
from ..records.database import Database
from ..records.grants import Actor
from ..records.keys import DEFAULT_ORGANIZATION
from ..records.resources import KindName
from ..records.rows import cleaned, rows_of
from ..records.tables import LEDGER_COLUMNS, ledger
from .settings import JSON, listing, mapping, name, owner

ACTOR = Actor("import-litellm")
_TABLES = {
    "budgets": "LiteLLM_BudgetTable",
    "organizations": "LiteLLM_OrganizationTable",
    "teams": "LiteLLM_TeamTable",
    "users": "LiteLLM_UserTable",
    "keys": "LiteLLM_VerificationToken",
}
_LEFT = {
    "LiteLLM_EndUserTable": "end users (customers) and their budgets",
    "LiteLLM_ProxyModelTable": "models kept in the database; name them in the configuration",
    "LiteLLM_TagTable": "budgets of tags",
    "LiteLLM_TeamMembership": "budgets of a user within a team",
    "LiteLLM_OrganizationMembership": "budgets of a user within an organization",
    "LiteLLM_MCPServerTable": "MCP servers",
    "LiteLLM_CredentialsTable": "credentials kept in the database",
}
"""Tables that nothing is taken from: told where they hold rows."""
_UNKNOWN = {
    "allowed_routes": "it may call everything here",
    "permissions": "not known here",
    "budget_limits": "only max_budget is taken",
    "soft_budget": "warns nobody here; counters.thresholds does",
    "budget_fallbacks": "not known here",
    "router_settings": "not known here",
    "object_permission_id": "not known here",
    "policies": "not known here",
    "access_group_ids": "name the models in `models`",
    "auto_rotate": "rotate it by `sluice keys rotate`",
    "model_aliases": "aliases belong to keys here",
    "team_member_budget": "not known here",
    "members_with_roles": "team admins get a key with that role",
    "user_role": "roles belong to keys here",
}
"""Columns that limit or free somebody in a way that is not known here: never dropped in silence."""
_BUDGET = (
    "max_budget",
    "budget_duration",
    "tpm_limit",
    "rpm_limit",
    "tpd_limit",
    "max_parallel_requests",
    "model_max_budget",
)
Table = list[dict[str, Any]]


@dataclass(slots=True)
class Imported:
    """How many of each kind were made, and what could not be."""

    made: dict[str, int] = field(default_factory=dict)
    spent: int = 0
    """Nano-dollars brought along."""
    notes: list[str] = field(default_factory=list)


async def read(source: Database) -> dict[str, Table]:
    """The tables that are there, as rows."""
    found: dict[str, Table] = {}
    async with source.read() as connection:
        there = set(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))
        for kind, table in _TABLES.items():
            rows = await connection.execute(text(f'SELECT * FROM "{table}"')) if table in there else ()  # noqa: S608 - a name of ours
            found[kind] = [{str(k): v for k, v in row._mapping.items()} for row in rows]
        for table in _LEFT.keys() & there:
            count = await connection.scalar(text(f'SELECT count(*) FROM "{table}"'))  # noqa: S608 - a name of ours
            found.setdefault("left", []).extend([{"table": table, "rows": count}] if count else ())
    return found


class Importer:
    """Makes owners and keys through the same door as the admin API: a second run makes nothing twice."""

    def __init__(self, admin: Admin, database: Database, advance: Callable[[int], None] = lambda _: None) -> None:
        self._admin = admin
        self._advance = advance
        """Told of every row that was dealt with."""
        self._database = database
        self._done = Imported()
        self._teams: dict[str, str] = {}
        """Team -> its organization."""
        self._users: set[str] = set()
        self._spends: list[tuple[str, Principal, float]] = []
        """(what it belongs to, whose it is, US dollars)."""

    async def run(self, tables: Mapping[str, Table]) -> Imported:
        budgets = {row.get("budget_id"): row for row in tables["budgets"]}
        for row in tables["organizations"]:
            identity = name(row.get("organization_id"))
            await self._make("organization", {"id": identity, **_owner(row, budgets)})
        await self._import_teams(tables["teams"], budgets)
        await self._import_users(tables["users"], budgets)
        await self._import_keys(tables["keys"], budgets)
        await self._bring_spend(tables)
        for left in sorted(tables.get("left", ()), key=lambda row: str(row["table"])):
            self._done.notes.append(f"{left['table']}: {left['rows']} rows not taken: {_LEFT[left['table']]}")
        return self._done

    def _note_unknown(self, what: str, row: Mapping[str, Any]) -> None:
        for column, why in _UNKNOWN.items():
            value = row.get(column)
            if value not in (None, "", False, [], {}, "[]", "{}"):
                self._done.notes.append(f"{what}: {column} is left out: {why}")

    async def _import_teams(self, rows: Table, budgets: Mapping[Any, Any]) -> None:
        for row in rows:
            identity, organization = name(row.get("team_id")), row.get("organization_id")
            home = name(organization) if organization else DEFAULT_ORGANIZATION
            self._note_unknown(f"team {identity}", row)
            metadata = {"litellm_alias": str(row["team_alias"])} if row.get("team_alias") else {}
            body = {"id": identity, "organization": home, **_owner(row, budgets)}
            body["metadata"] = {**body.get("metadata", {}), **metadata}
            if await self._make("team", body):
                self._teams[identity] = home

    async def _import_users(self, rows: Table, budgets: Mapping[Any, Any]) -> None:
        for row in rows:
            identity = name(row.get("user_id"))
            self._note_unknown(f"user {identity}", row)
            teams = [t for t in (name(t) for t in _listed(row.get("teams"))) if t in self._teams]
            body: JSON = {"id": identity, **_owner(row, budgets)}
            if len(teams) == 1:
                body["team"] = teams[0]
            elif teams:
                self._done.notes.append(f"user {identity}: is in {len(teams)} teams; its keys name theirs")
            if await self._make("user", body):
                self._users.add(identity)

    async def _import_keys(self, rows: Table, budgets: Mapping[Any, Any]) -> None:
        for row in rows:
            digest = str(row.get("token") or "")
            label = name(row.get("key_alias") or f"litellm-{digest[:12]}")
            self._note_unknown(f"key {label}", row)
            team = name(row["team_id"]) if row.get("team_id") else None
            user = name(row["user_id"]) if row.get("user_id") else None
            body: JSON = {"name": label, "digest": f"sha256:{digest}", **_owner(row, budgets)}
            body["aliases"] = {str(k): str(v) for k, v in mapping(row.get("aliases")).items()}
            if (expires := _moment(row.get("expires"))) is not None:
                body["expires"] = expires
            for kind, identity, known in (("team", team, self._teams), ("user", user, self._users)):
                if identity is not None and identity in known:
                    body[kind] = identity
                elif identity is not None:
                    self._done.notes.append(f"key {label}: its {kind} {identity} does not exist")
            made = await self._make("key", body)
            if made is None and "user" in body and "team" in body:
                # There a user may have keys in any organization; here both must be of one.
                self._done.notes.append(f"key {label}: made without its user")
                made = await self._make("key", {k: v for k, v in body.items() if k != "user"})
            if made is not None and (spend := row.get("spend")):
                whose = Principal(made["id"], made["organization"], made["team"], made["user"])
                self._spends.append((f"key-{digest[:32]}", whose, float(spend)))

    async def _make(self, kind: KindName, body: JSON) -> JSON | None:
        self._advance(1)
        try:
            made = await self._admin.create(ACTOR, kind, body)
        except Conflict:
            identity = body.get("id") or body["name"]
            self._done.notes.append(f"{kind} {identity}: exists already, left as it is")
            return {"id": identity} if kind != "key" else None
        except GatewayError as error:
            self._done.notes.append(f"{kind} {body.get('id') or body['name']}: {error.message}")
            return None
        self._done.made[kind] = self._done.made.get(kind, 0) + 1
        return made

    async def _bring_spend(self, tables: Mapping[str, Table]) -> None:
        """One row of the ledger for each key that has spent in its window, and for what only a team or user knows of.

        The request id comes from LiteLLM's own id, so that a second import counts nothing twice.
        """
        known: dict[tuple[str, str], float] = {}
        for _, whose, dollars in self._spends:
            for kind, identity in (("team", whose.team), ("user", whose.user)):
                if identity is not None:
                    known[kind, identity] = known.get((kind, identity), 0.0) + dollars
        for row in tables["teams"]:
            identity = name(row.get("team_id"))
            rest = float(row.get("spend") or 0) - known.get(("team", identity), 0.0)
            whose = Principal("", self._teams.get(identity, DEFAULT_ORGANIZATION), identity)
            self._spends.append((f"team-{identity}", whose, rest))
        for row in tables["users"]:
            identity = name(row.get("user_id"))
            rest = float(row.get("spend") or 0) - known.get(("user", identity), 0.0)
            self._spends.append((f"user-{identity}", Principal("", "", None, identity), rest))
        rows = list(self._rows())
        if rows:
            async with self._database.write(timeout=60) as connection:
                insert = self._database.insert(ledger).on_conflict_do_nothing(index_elements=["request_id", "attempt"])
                await connection.execute(insert, rows)
            what = {"actor": ACTOR.id, "action": "spend.import", "target": "ledger"}
            await AuditLog(self._database).record(**what, after={"nano_dollars": self._done.spent})

    def _rows(self) -> Iterator[JSON]:
        now = time.time()
        for origin, whose, dollars in self._spends:
            cost = round(dollars * 1e9)
            if cost <= 0:
                continue
            self._done.spent += cost
            record = CallRecord(f"import-litellm-{origin}", principal=whose, started=now, code="imported")
            record.attempts.append(Attempt(0, "", "", "", usage=NO_USAGE, cost=cost, status="imported"))
            (row,) = rows_of(record)
            values = dict(zip(LEDGER_COLUMNS, cleaned(row), strict=True))
            yield {**values, "final": False}


def _owner(row: Mapping[str, Any], budgets: Mapping[Any, Mapping[str, Any]]) -> JSON:
    """A row's options; those of the budget it refers to fill in what it does not say itself."""
    budget = budgets.get(row.get("budget_id")) or {}
    own = {key: row.get(key) if row.get(key) is not None else budget.get(key) for key in _BUDGET}
    return owner({**row, **own})


def _listed(value: Any) -> list[str]:
    return [str(item) for item in listing(value)]


def _moment(value: Any) -> str | None:
    """Their times are UTC without saying so."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    return str(value) if value else None
