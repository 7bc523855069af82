"""The tables of LiteLLM's database: what is taken of them, and what is told of those that nothing is taken of."""

from collections.abc import Mapping
from typing import Any, TypeAlias
from urllib.parse import urlencode

from sqlalchemy import inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from ..records.database import Database, DatabaseError

Table: TypeAlias = list[dict[str, Any]]
TAKEN: Mapping[str, str] = {
    "budgets": "LiteLLM_BudgetTable",
    "organizations": "LiteLLM_OrganizationTable",
    "teams": "LiteLLM_TeamTable",
    "users": "LiteLLM_UserTable",
    "keys": "LiteLLM_VerificationToken",
}
LEFT: Mapping[str, str] = {
    "LiteLLM_EndUserTable": "end users (customers) and their budgets",
    "LiteLLM_ProxyModelTable": "models kept in the database; name them in the configuration",
    "LiteLLM_Config": "settings kept in the database; write them into the configuration",
    "LiteLLM_TagTable": "budgets of tags",
    "LiteLLM_TeamMembership": "budgets of a user within a team",
    "LiteLLM_OrganizationMembership": "budgets of a user within an organization",
    "LiteLLM_ProjectTable": "projects and their budgets",
    "LiteLLM_ModelTable": "model aliases of teams; give them to keys as `aliases`",
    "LiteLLM_DeprecatedVerificationToken": "old secrets of rotated keys; clients need the new ones",
    "LiteLLM_JWTKeyMapping": "keys chosen by a claim of a token",
    "LiteLLM_MCPServerTable": "MCP servers",
    "LiteLLM_CredentialsTable": "credentials kept in the database",
    "LiteLLM_GuardrailsTable": "guardrails",
    "LiteLLM_PolicyTable": "policies",
    "LiteLLM_SSOConfig": "single sign-on; see `auth.jwt`",
}
_UNKNOWN = "not known here"
_HISTORY = (
    "Daily",
    "SpendLog",
    "ErrorLog",
    "AuditLog",
    "Deleted",
    "HealthCheck",
    "CronJob",
    "Invitation",
    "UserNotif",
    "UISettings",
)
"""How the names of tables go on that only tell what was, or what its own pages show."""
_OF_PRISMA = frozenset(
    {"connection_limit", "pool_timeout", "connect_timeout", "socket_timeout", "sslaccept", "statement_cache_size"}
)
"""Options in an address that mean something to LiteLLM's driver only."""


def plain(address: str) -> str:
    """The address of LiteLLM's database as its configuration has it, in words that are ours; raises DatabaseError."""
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        raise DatabaseError("--database-url: not an address; write postgresql://...") from None
    query = {key: value for key, value in url.query.items() if key not in _OF_PRISMA}
    if schema := query.pop("schema", None):
        query["search_path"] = schema
    if query.pop("pgbouncer", None) == "true":
        query["prepared_statement_cache_size"] = "0"
    address, _, _ = address.partition("?")
    return f"{address}?{urlencode(query, doseq=True)}" if query else address


async def read(source: Database) -> dict[str, Table]:
    """The tables that are there, as rows, and under ``left`` those that nothing is taken of; raises DatabaseError."""
    found: dict[str, Table] = {"left": []}
    async with source.read() as connection:
        there = set(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))
        if not there & set(TAKEN.values()):
            raise DatabaseError("--database-url: no table of LiteLLM's is there; another database, or another ?schema=")
        for kind, table in TAKEN.items():
            rows = await connection.execute(text(f'SELECT * FROM "{table}"')) if table in there else ()  # noqa: S608 - a name of ours
            found[kind] = [{str(k): v for k, v in row._mapping.items()} for row in rows]
        for table in sorted(there - set(TAKEN.values())):
            prefix, _, rest = table.partition("_")
            if prefix != "LiteLLM" or (rest.startswith(_HISTORY) and table not in LEFT):
                continue
            quoted = source.dialect.identifier_preparer.quote_identifier(table)
            count = await connection.scalar(text(f"SELECT count(*) FROM {quoted}"))  # noqa: S608 - quoted
            if count:
                found["left"].append({"table": table, "rows": count, "what": LEFT.get(table, _UNKNOWN)})
    return found
