"""Operations that read: usage, the ledger's rows, the audit log, and where limits stand."""

import re
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from config.schema import Config
from config.schema import Owner as Settings

from ..call import Owner
from ..errors import InvalidRequest, ResourceNotFound
from ..limits import Limiter
from ..limits.rules import NAMES
from ..records.admin import Admin
from ..records.audit import AuditLog, Head
from ..records.grants import Actor
from ..records.keys import DEFAULT_ORGANIZATION, instant
from ..records.resources import KindName
from ..records.usage import GROUPS, Filter, UsageStore
from .operation import JSON, Asked, Download, Operation
from .owners import BASE

Flush: TypeAlias = Callable[[], Awaitable[None]]
_HEAD = re.compile(r"([0-9]{1,18}):([0-9a-f]{64})")
_AGO = re.compile(r"([0-9]{1,6})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_FILTER = {
    "since": "From this time on: ISO 8601, or so long ago (`30d`, `12h`, `15m`).",
    "until": "Before this time.",
    **{
        name: f"Only of this {name}."
        for name in ("organization", "team", "user", "key", "model", "deployment", "provider", "tier", "tag")
    },
}
_MAX_ROWS = 1000
_NOTHING = Filter(organization="", since=0.0, until=0.0)
"""No row is of no time: what it selects has the form of what it would be."""


@dataclass(frozen=True, slots=True)
class Reports:
    """``flush`` brings this process's own rows to SQL, so that a report sees what was just used."""

    usage: UsageStore
    audit: AuditLog
    flush: Flush | None = None
    clock: Callable[[], float] = time.time

    def operations(self) -> Iterator[Operation]:
        grouped = {"group_by": f"Comma-separated: {', '.join(GROUPS)}.", **_FILTER}
        yield Operation("GET", f"{BASE}/usage", "viewer", "Sums of usage and cost", self.report, grouped)
        form = {"format": "`csv` or `json`, the default.", **_FILTER}
        yield Operation("GET", f"{BASE}/usage/export", "viewer", "Every row of the ledger", self.export, form)
        rows = {"after": "The id of the last row seen.", "limit": f"1 to {_MAX_ROWS}; 100 if absent.", **_FILTER}
        yield Operation("GET", f"{BASE}/ledger", "viewer", "Rows of the ledger, one per attempt", self.rows, rows)
        yield Operation("GET", f"{BASE}/ledger/{{id}}", "viewer", "The attempts of one request", self.request)
        seen = {"after": "The number of the last row seen.", "limit": "1 to 1000.", "target": "Say `key:key_...`."}
        yield Operation("GET", f"{BASE}/audit", "operator", "What operators did", self.actions, seen)
        anchor = {"anchor": "A head that was noted earlier, `SEQ:HASH`: finds out who rewrote the whole log."}
        yield Operation(
            "GET", f"{BASE}/audit/verify", "operator", "Recompute the audit log's chain", self.verify, anchor
        )

    async def report(self, asked: Asked) -> JSON:
        """Money is in nano-dollars, ``duration`` in microseconds. ``total`` counts every row once, however it is grouped."""
        groups = [name for name in asked.query.get("group_by", "").split(",") if name]
        wanted = self._wanted(asked)
        await self._flush()
        wanted = wanted or _NOTHING
        rows = await self.usage.report(groups, wanted)
        (total,) = await self.usage.report((), wanted) if groups else rows
        return {"object": "list", "group_by": groups, "data": rows, "total": total}

    async def export(self, asked: Asked) -> Download:
        form = asked.query.get("format", "json")
        if form not in ("csv", "json"):
            raise InvalidRequest("Invalid 'format': csv or json.", param="format", code="invalid_value")
        wanted = self._wanted(asked)
        await self._flush()
        kind: Literal["csv", "json"] = "csv" if form == "csv" else "json"
        pieces = self.usage.export(kind, wanted or _NOTHING)
        return Download("text/csv; charset=utf-8" if kind == "csv" else "application/json", pieces)

    async def rows(self, asked: Asked) -> JSON:
        limit = max(asked.number("limit", 100, _MAX_ROWS), 1)
        after = asked.number("after", 0, 2**62)
        wanted = self._wanted(asked)
        await self._flush()
        found = await self.usage.rows(wanted, after=after, limit=limit + 1) if wanted is not None else []
        return _page(found, limit, "id")

    async def request(self, asked: Asked) -> JSON:
        wanted = _narrowed(Filter(), asked.actor)
        await self._flush()
        rows = await self.usage.rows(wanted, request_id=asked.id) if wanted else []
        if not rows:
            raise ResourceNotFound("No such request.")
        return {"object": "list", "data": rows}

    async def actions(self, asked: Asked) -> JSON:
        limit = max(asked.number("limit", 100, _MAX_ROWS), 1)
        after = asked.number("after", 0, 2**62)
        found = await self.audit.list(after=after, limit=limit + 1, target=asked.query.get("target"))
        return _page(found, limit, "seq")

    async def verify(self, asked: Asked) -> JSON:
        verdict = await self.audit.verify(_anchor(asked.query.get("anchor")))
        return {
            "object": "audit.verdict",
            "intact": verdict.is_intact,
            "broken_at": verdict.broken_at,
            "reason": verdict.reason,
            "head": {"seq": verdict.head.seq, "hash": verdict.head.hash},
        }

    def _wanted(self, asked: Asked) -> Filter | None:
        """The filter of a query, narrowed to what the actor may see; None when nothing can be both."""
        values: dict[str, Any] = {f.name: asked.query.get(f.name) for f in fields(Filter)}
        for name in ("since", "until"):
            if values[name] is not None:
                values[name] = moment(values[name], name, self.clock())
        return _narrowed(Filter(**values), asked.actor)

    async def _flush(self) -> None:
        if self.flush is not None:
            await self.flush()


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the limits of an owner stand."""

    admin: Admin
    limiter: Limiter
    config: Config

    def operations(self) -> Iterator[Operation]:
        kinds: tuple[KindName, ...] = ("organization", "team", "user", "key")
        for kind in kinds:
            path = f"{BASE}/{kind}s/{{id}}/limits"
            yield Operation("GET", path, "viewer", f"Where the limits of a {kind} stand", self._of(kind))

    def _of(self, kind: KindName) -> Callable[[Asked], Awaitable[JSON]]:
        async def standing(asked: Asked) -> JSON:
            settings, organization = await self._owner(asked.actor, kind, asked.id)
            owner = Owner(f"{kind[0]}:{asked.id}", settings.limits)
            states = await self.limiter.usage(owner, organization)
            return {
                "object": "list",
                "data": [
                    {
                        "scope": s.limit.scope,
                        "limit": NAMES[s.limit.field],
                        "cap": s.limit.cap,
                        "used": s.used,
                        "reserved": s.reserved,
                        "remaining": s.remaining,
                        "reset_ms": s.reset,
                    }
                    for s in states
                ],
            }

        return standing

    async def _owner(self, actor: Actor, kind: KindName, identity: str) -> tuple[Settings, str]:
        """An owner of the config file, which operators alone may ask for, or of the database."""
        if actor.is_operator:
            configured: dict[str, Any] = {
                "organization": self.config.organizations,
                "team": self.config.teams,
                "user": self.config.users,
                "key": {key.name: key for key in self.config.keys},
            }
            found = configured[kind].get(identity)
            if found is not None:
                return found, self._organization(kind, identity, found)
        shown = await self.admin.get(actor, kind, identity)
        settings = Settings.model_validate({k: v for k, v in shown.items() if k in Settings.model_fields})
        return settings, shown["id"] if kind == "organization" else shown["organization"]

    def _organization(self, kind: KindName, identity: str, found: Any) -> str:
        if kind == "organization":
            return identity
        team = found if kind == "team" else self.config.teams.get(found.team or "")
        if team is None and kind == "key" and (user := self.config.users.get(found.user or "")) is not None:
            team = self.config.teams.get(user.team or "")
        return team.organization if team is not None else DEFAULT_ORGANIZATION


def _anchor(text: str | None) -> Head | None:
    if text is None:
        return None
    if (found := _HEAD.fullmatch(text)) is None:
        raise InvalidRequest("Invalid 'anchor': SEQ:HASH of a head.", param="anchor", code="invalid_value")
    return Head(int(found[1]), found[2])


def moment(text: str, name: str, now: float) -> float:
    """Seconds since the epoch of an ISO 8601 time or of ``30d`` ago; raises InvalidRequest."""
    if (ago := _AGO.fullmatch(text)) is not None:
        return now - int(ago[1]) * _SECONDS[ago[2]]
    try:
        found = instant(text)
        assert found is not None, "only None has no time"
        if not 0 <= found <= datetime(9999, 1, 1, tzinfo=UTC).timestamp():
            raise OverflowError
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"Invalid '{name}': an ISO 8601 time, or so long ago: 30d, 12h, 15m.", param=name, code="invalid_value"
        ) from None
    return found


def _narrowed(wanted: Filter, actor: Actor) -> Filter | None:
    """What an actor may see of what is wanted; None when that is nothing."""
    changes = {}
    for name in ("organization", "team"):
        own, asked = getattr(actor, name), getattr(wanted, name)
        if own is not None and asked not in (None, own):
            return None
        if own is not None:
            changes[name] = own
    values = {f.name: getattr(wanted, f.name) for f in fields(Filter)}
    return Filter(**{**values, **changes})


def _page(found: list[JSON], limit: int, identity: str) -> JSON:
    data = found[:limit]
    return {
        "object": "list",
        "data": data,
        "last_id": data[-1][identity] if data else None,
        "has_more": len(found) > limit,
    }
