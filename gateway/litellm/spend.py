"""What LiteLLM's keys and owners have spent, as rows of our ledger: of each exactly that much, and of none twice.

There a sum is kept for each key, user, team and organization, and each begins anew in a window of its own: a key without
a budget has all that it ever spent, its team what it spent this month. So a row names the owners above it only for as
much as their own sums have room for.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias

from sqlalchemy import select

from adapters.usage import NO_USAGE

from ..call import Attempt, CallRecord, Principal
from ..records.audit import AuditLog
from ..records.database import Database
from ..records.keys import DEFAULT_ORGANIZATION
from ..records.ledger import LEDGER_LOCK
from ..records.rows import cleaned, rows_of
from ..records.tables import LEDGER_COLUMNS, key_digests, keys, ledger, teams
from .settings import JSON, name

PREFIX = "import-litellm-"
"""Of the ids of rows: who has one was counted by an earlier run."""
PROXY = "litellm-proxy-budget"
"""The user that stands for the whole proxy there: under it is what everybody spent of ``litellm_settings.max_budget``."""
_IDS: Mapping[str, str] = {"organization": "organization_id", "team": "team_id", "user": "user_id"}
Whose: TypeAlias = tuple[str, str]
"""Kind and id."""


async def bring(database: Database, tables: Mapping[str, list[dict[str, Any]]], actor: str) -> int:
    """Write what nobody has counted yet, all of it or nothing; the nano-dollars written."""
    async with database.read() as connection:
        found = await connection.scalars(select(ledger.c.request_id).where(ledger.c.request_id.startswith(PREFIX)))
        counted = frozenset(found.all())
        made = select(key_digests.c.digest, keys.c.id, keys.c.organization, keys.c.team, keys.c.user)
        placed = {row.digest: row for row in await connection.execute(made.join_from(key_digests, keys))}
        homes = {row.id: row.organization for row in await connection.execute(select(teams.c.id, teams.c.organization))}
    rows = [*_rows(Shares(tables, placed, homes, counted).all())]
    if rows:
        async with database.write(timeout=60) as connection:
            await database.lock(connection, LEDGER_LOCK, shared=True)
            insert = database.insert(ledger).on_conflict_do_nothing(index_elements=["request_id", "attempt"])
            await connection.execute(insert, rows)
    total: int = sum(row["cost"] for row in rows)
    if total:
        what = {"actor": actor, "action": "spend.import", "target": "ledger"}
        await AuditLog(database).record(**what, after={"nano_dollars": total})
    return total


class Shares:
    """Divides sums that overlap. ``placed``: our keys by their digests; ``homes``: our teams' organizations."""

    def __init__(
        self,
        tables: Mapping[str, list[dict[str, Any]]],
        placed: Mapping[str, Any],
        homes: Mapping[str, str],
        counted: Iterable[str],
    ) -> None:
        now = datetime.now(UTC)
        self._placed, self._homes = placed, homes
        self._counted = frozenset(counted)
        self._keys = [(str(row.get("token") or ""), spent(row, now)) for row in tables["keys"]]
        self._sums = {
            (kind, name(row.get(column))): spent(row, now)
            for kind, column in _IDS.items()
            for row in tables[f"{kind}s"]
        }
        proxy = self._sums.pop(("user", PROXY), None)
        if proxy is not None and not tables["organizations"]:
            self._sums["organization", DEFAULT_ORGANIZATION] = proxy
        self._left = dict(self._sums)
        """How much of a sum no row has told yet."""

    def all(self) -> Iterator[tuple[str, Principal, int]]:
        """(id, whose it is, nano-dollars)."""
        for token, cost in self._keys:
            key = self._placed.get(f"sha256:{token}")
            if key is not None and cost > 0:
                above = (("organization", key.organization), ("team", key.team), ("user", key.user))
                yield from self._divided(f"key-{token[:32]}", ("key", key.id), above, cost)
        for kind in ("team", "user", "organization"):
            for whose in [owner for owner, cost in self._sums.items() if owner[0] == kind and cost > 0]:
                home = self._homes.get(whose[1]) if kind == "team" else None
                yield from self._divided(f"{kind}-{whose[1]}", whose, (("organization", home),), self._left[whose])

    def _divided(
        self, origin: str, own: Whose, above: Iterable[tuple[str, str | None]], cost: int
    ) -> Iterator[tuple[str, Principal, int]]:
        """Rows, each with those above whose sums have room for it and whom no earlier run has counted.

        There is one for nothing, too: it says that its owner is counted.
        """
        number, left = 0, self._left
        owners = [(k, i) for k, i in above if i is not None and f"{PREFIX}{k}-{i}" not in self._counted]
        while cost > 0 or not number:
            if cost:
                owners = [owner for owner in owners if left.get(owner) != 0]
            part = min([cost, *(left[owner] for owner in owners if owner in left)])
            for owner in owners:
                if owner in left:
                    left[owner] -= part
            if f"{PREFIX}{origin}" not in self._counted:
                yield f"{PREFIX}{origin}" + (f"-{number}" if number else ""), _principal(own, *owners), part
            cost -= part
            number += 1


def spent(row: Mapping[str, Any], now: datetime) -> int:
    """Nano-dollars in the window that runs; LiteLLM begins one anew when it comes to it, which may be later than now."""
    anew = row.get("budget_reset_at")
    if isinstance(anew, str):
        try:
            anew = datetime.fromisoformat(anew)
        except ValueError:
            anew = None
    began_anew = isinstance(anew, datetime) and (anew if anew.tzinfo else anew.replace(tzinfo=UTC)) <= now
    if began_anew and row.get("budget_duration"):
        return 0
    try:
        return max(int((Decimal(str(row.get("spend") or 0)) * 10**9).to_integral_value()), 0)
    except (InvalidOperation, ValueError, OverflowError):
        return 0


def _principal(*whose: Whose) -> Principal:
    named = dict(whose)
    return Principal(named.get("key", ""), named.get("organization", ""), named.get("team"), named.get("user"))


def _rows(shares: Iterable[tuple[str, Principal, int]]) -> Iterator[JSON]:
    now = time.time()
    for origin, whose, cost in shares:
        record = CallRecord(origin, principal=whose, started=now, code="imported")
        record.attempts.append(Attempt(0, "", "", "", usage=NO_USAGE, cost=cost, status="ok"))
        (row,) = rows_of(record)
        yield {**dict(zip(LEDGER_COLUMNS, cleaned(row), strict=True)), "final": False}
