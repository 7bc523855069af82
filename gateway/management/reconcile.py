"""Counters against the ledger: what a budget's counter lost, say with a Redis, or has too much is shown and mended.

A settlement reaches the counter and the ledger by ways of their own, each in a moment. So whatever differs is looked at
twice: what the ledger held at first must be in the counter later, and what the counter held at first must be in the
ledger later. What is reserved at the time may explain a difference as well, say a failed attempt of a request that still
runs, or usage under a worker's lease: that much of a difference is left until it has ended.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from secrets import token_hex

from config.schema import Config
from config.schema import Owner as Settings

from ..call import Owner
from ..errors import StoreUnavailable
from ..limits import Limiter
from ..limits.engine import Spent, State, StoreDown
from ..limits.rules import NAMES, WINDOW, Limit, LimitSet
from ..limits.windows import start, window
from ..records.admin import MAX_PAGE, Admin
from ..records.audit import AuditLog
from ..records.grants import Actor
from ..records.keys import DEFAULT_ORGANIZATION
from ..records.resources import KindName
from .operation import JSON, Asked, Operation
from .owners import BASE

_KINDS: tuple[KindName, ...] = ("organization", "team", "user", "key")
SETTLED_WITHIN = 3.0
"""Seconds: rows go to SQL every second, and those of a worker that died are taken over every two."""


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """``spent`` is the ledger's word: what was used by a scope of a shard between two times."""

    admin: Admin
    limiter: Limiter
    config: Config
    spent: Spent
    audit: AuditLog
    clock: Callable[[], float] = time.time

    def operations(self) -> Iterator[Operation]:
        path = f"{BASE}/reconcile"
        yield Operation("GET", path, "operator", "Counters that differ from the ledger", self.show)
        yield Operation("POST", path, "operator", "Set such counters right", self.mend)

    async def show(self, _: Asked) -> JSON:
        return {"object": "list", "data": [_described(drift, mended=False) for drift in await self._drifts()]}

    async def mend(self, asked: Asked) -> JSON:
        began = self.clock()
        return {
            "object": "list",
            "data": [
                _described(drift, mended=await self._mend(drift, asked.actor, began)) for drift in await self._drifts()
            ],
        }

    async def _mend(self, drift: "_Drift", actor: Actor, began: float) -> bool:
        """Set a counter right; False where somebody else did so since, from whose point of view it was as wrong."""
        mine = await self.audit.record_once(
            began,
            actor=actor.id,
            action="counter.mend",
            target=f"counter:{drift.limit.scope}",
            before={NAMES[drift.limit.field]: drift.counter},
            after={NAMES[drift.limit.field]: drift.ledger},
            request_id=actor.request_id,
        )
        if mine:
            vector = [0] * 6
            vector[drift.limit.unit] = drift.ledger - drift.counter
            alone = LimitSet(drift.limits.shard, (drift.limit,))
            self.limiter.engine.correct(f"reconcile-{token_hex(12)}", alone, tuple(vector), drift.at)  # type: ignore[arg-type] # of six
        return mine

    async def _drifts(self) -> "list[_Drift]":
        first = [look async for look in self._looks() if look.differs]
        if not first:
            return []
        await asyncio.sleep(SETTLED_WITHIN)
        found = []
        for before in first:
            after = await self._look(before.limits, before.limit)
            if after is not None and after.number == before.number and (drift := _lasting(before, after)) is not None:
                found.append(drift)
        return found

    async def _looks(self) -> "AsyncIterator[_Look]":
        async for owner, organization in self._owners():
            limits = self.limiter.limits_of(owner, organization)
            for position in limits.windows if limits is not None else ():
                assert limits is not None, "the loop above is over none"
                look = await self._look(limits, limits.limits[position])
                if look is not None:
                    yield look

    async def _look(self, limits: LimitSet, limit: Limit) -> "_Look | None":
        """One counter beside the ledger; None where its window has just ended."""
        now = int(self.clock() * 1000)
        number = window(limit.period, now)
        spent = await self.spent(limits.shard, limit.scope, start(limit.period, number), now + 1000)
        known = spent.vector()[limit.unit]
        state = await self._state(limits, limit)
        later = window(limit.period, int(self.clock() * 1000))
        return _Look(limits, limit, number, now, state.used, state.reserved, known) if later == number else None

    async def _state(self, limits: LimitSet, limit: Limit) -> State:
        try:
            states = await self.limiter.engine.states(limits)
        except StoreDown as exc:
            raise StoreUnavailable("The counters cannot be read at the moment.") from exc
        return next(state for state in states if state.limit == limit)

    async def _owners(self) -> AsyncIterator[tuple[Owner, str]]:
        """Whoever has limits, of the config file first; those win over the database's of the same name."""
        seen: set[str] = set()
        for found, organization in configured_owners(self.config):
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
class _Look:
    """What a counter and the ledger say at one time."""

    limits: LimitSet
    limit: Limit
    number: int
    """Of the window."""
    at: int
    counter: int
    reserved: int
    ledger: int

    @property
    def differs(self) -> bool:
        return self.limit.kind == WINDOW and self.counter != self.ledger


@dataclass(frozen=True, slots=True)
class _Drift:
    limits: LimitSet
    limit: Limit
    at: int
    counter: int
    ledger: int
    """What the counter should say."""


def _lasting(before: _Look, after: _Look) -> _Drift | None:
    """The part of a difference that nothing under way can explain."""
    open_ = max(before.reserved, after.reserved)
    lost = before.ledger - after.counter - open_
    excess = min(before.counter, after.counter) - after.ledger - open_  # less where it was mended in between
    if lost > 0:
        return _Drift(after.limits, after.limit, after.at, after.counter, after.counter + lost)
    if excess > 0:
        return _Drift(after.limits, after.limit, after.at, after.counter, after.counter - excess)
    return None


def _described(drift: _Drift, *, mended: bool) -> JSON:
    return {
        "scope": drift.limit.scope,
        "limit": NAMES[drift.limit.field],
        "counter": drift.counter,
        "ledger": drift.ledger,
        "mended": mended,
    }


def configured_owners(config: Config) -> Iterator[tuple[Owner, str]]:
    """Owners that a configuration names, with the organizations whose they are."""

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
