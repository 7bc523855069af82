"""Counters against the ledger: what a budget's counter lost, say with a Redis, is shown and put back.

A counter that says less than the ledger lets a budget be spent twice: that is mended. One that says more is shown only: rows
of other workers may still be on their way to the ledger, and what was reserved by a dead worker stays charged.
"""

import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from secrets import token_hex

from config.schema import Config
from config.schema import Owner as Settings

from ..call import Owner
from ..errors import StoreUnavailable
from ..limits import Limiter
from ..limits.engine import Spent, StoreDown
from ..limits.rules import NAMES, WINDOW, Limit, LimitSet
from ..limits.windows import start, window
from ..records.admin import MAX_PAGE, Admin
from ..records.grants import Actor
from ..records.keys import DEFAULT_ORGANIZATION
from ..records.resources import KindName
from .operation import JSON, Asked, Operation
from .owners import BASE

_KINDS: tuple[KindName, ...] = ("organization", "team", "user", "key")


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """``spent`` is the ledger's word: what was used by a scope between two times."""

    admin: Admin
    limiter: Limiter
    config: Config
    spent: Spent
    clock: Callable[[], float] = time.time

    def operations(self) -> Iterator[Operation]:
        path = f"{BASE}/reconcile"
        yield Operation("GET", path, "operator", "Counters that differ from the ledger", self.show)
        yield Operation("POST", path, "operator", "Put back what counters lost", self.mend)

    async def show(self, _: Asked) -> JSON:
        return {"object": "list", "data": [_described(d, mended=False) async for d in self._drifts()]}

    async def mend(self, _: Asked) -> JSON:
        data = []
        async for drift in self._drifts():
            lost = drift.ledger - drift.counter
            if lost > 0:
                vector = [0] * 6
                vector[drift.limit.unit] = lost
                alone = LimitSet(drift.limits.shard, (drift.limit,))
                self.limiter.engine.debit(f"reconcile-{token_hex(12)}", alone, tuple(vector))  # type: ignore[arg-type] # of six
            data.append(_described(drift, mended=lost > 0))
        return {"object": "list", "data": data}

    async def _drifts(self) -> AsyncIterator["_Drift"]:
        async for owner, organization in self._owners():
            limits = self.limiter.limits_of(owner, organization)
            if limits is None or not limits.windows:
                continue
            now = int(self.clock() * 1000)
            try:
                states = await self.limiter.engine.states(limits)
            except StoreDown as exc:
                raise StoreUnavailable("The counters cannot be read at the moment.") from exc
            for state in states:
                limit = state.limit
                if limit.kind != WINDOW:
                    continue
                since = start(limit.period, window(limit.period, now))
                known = (await self.spent(limit.scope, since, now + 1000)).vector()[limit.unit]
                if known != state.used:
                    yield _Drift(limits, limit, state.used, known)

    async def _owners(self) -> AsyncIterator[tuple[Owner, str]]:
        """Whoever has limits, of the config file first; those win over the database's of the same name."""
        seen: set[str] = set()
        for found, organization in _configured(self.config):
            seen.add(found.id)
            yield found, organization
        for kind in _KINDS:
            page: JSON = {"has_more": True, "last_id": None}
            while page["has_more"]:
                page = await self.admin.list(Actor("reconcile"), kind, after=page["last_id"], limit=MAX_PAGE)
                for shown in page["data"]:
                    identity = f"{kind[0]}:{shown['id']}"
                    settings = Settings.model_validate({"limits": shown["limits"]})
                    if identity not in seen:
                        yield Owner(identity, settings.limits), shown.get("organization", shown["id"])


@dataclass(frozen=True, slots=True)
class _Drift:
    limits: LimitSet
    limit: Limit
    counter: int
    ledger: int


def _described(drift: _Drift, *, mended: bool) -> JSON:
    return {
        "scope": drift.limit.scope,
        "limit": NAMES[drift.limit.field],
        "counter": drift.counter,
        "ledger": drift.ledger,
        "mended": mended,
    }


def _configured(config: Config) -> Iterator[tuple[Owner, str]]:
    def home(team: str | None) -> str:
        found = config.teams.get(team) if team is not None else None
        return found.organization if found is not None else DEFAULT_ORGANIZATION

    for name, organization in config.organizations.items():
        yield Owner(f"o:{name}", organization.limits), name
    for name, team in config.teams.items():
        yield Owner(f"t:{name}", team.limits), team.organization
    for name, user in config.users.items():
        yield Owner(f"u:{name}", user.limits), home(user.team)
    for key in config.keys:
        of_user = config.users.get(key.user) if key.user is not None else None
        yield Owner(f"k:{key.name}", key.limits), home(key.team or (of_user.team if of_user is not None else None))
