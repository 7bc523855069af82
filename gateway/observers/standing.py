"""What is left of limits and budgets, of everybody who called of late: looked up now and then, never for a request."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, Gauge

from ..call import CallRecord, Owner, Principal
from ..errors import StoreUnavailable
from ..limits import State
from ..limits.amounts import COST
from ..limits.headers import OWNERS
from ..limits.rules import NAMES
from .bounded import OTHER, Bounded

log = logging.getLogger("sluice.metrics")

SECONDS = 10.0
"""Between two looks."""
PATIENCE = 5.0
"""For the counters of one owner."""
NANO = 1e-9


class Counters(Protocol):
    """What is asked of the limiter."""

    async def usage(self, owner: Owner, organization: str) -> Sequence[State]: ...


class StandingObserver:
    """``counters`` gives the limiter of the configuration that runs. Looked after are the ``cap`` keys that called last.

    The least of each kind of owner is always told; an owner's own only where tenants are ``labelled``, of ``cap`` owners.
    """

    def __init__(
        self, registry: CollectorRegistry, counters: Callable[[], Counters], *, cap: int, labelled: bool
    ) -> None:
        self._counters = counters
        self._cap = cap
        self._labelled = labelled
        self._scopes = Bounded(cap)
        self._principals: dict[str, Principal] = {}
        self._task: asyncio.Task[None] | None = None
        self._closing = False

        def gauge(name: str, text: str, labels: list[str]) -> Gauge:
            return Gauge(name, text, labels, registry=registry, multiprocess_mode="livemin")

        self._least = gauge(
            "sluice_limit_remaining_ratio",
            "What is left of a limit, as a share of it, where the least is left of all owners of that kind.",
            ["owner", "limit"],
        )
        scope = ["owner", "scope", "limit"]
        self._remaining = gauge("sluice_limit_remaining", "Requests, tokens or slots left, by owner.", scope)
        self._cap_of = gauge("sluice_limit_cap", "The limit itself: requests, tokens or slots at once.", scope)
        self._money = gauge("sluice_budget_remaining_usd", "Money left of a budget, by owner.", scope)
        self._money_cap = gauge("sluice_budget_cap_usd", "The budget itself.", scope)

    def call_finished(self, record: CallRecord) -> None:
        principal = record.principal
        if principal is None or self._principals.get(principal.key_id) is principal:
            return  # its place in the queue is not worth the time
        known = self._principals
        known.pop(principal.key_id, None)
        known[principal.key_id] = principal
        if len(known) > self._cap:
            del known[next(iter(known))]

    def know(self, principals: Iterable[Principal]) -> None:
        """Look after these from the start, without a call of theirs."""
        for principal in principals:
            if len(self._principals) < self._cap:
                self._principals.setdefault(principal.key_id, principal)

    async def start(self) -> None:
        self._task = asyncio.create_task(self._watch())

    async def close(self) -> None:
        self._closing = True  # redis-py can swallow a cancellation that meets a reply
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=PATIENCE)

    async def look(self) -> None:
        """Set every gauge to what holds now; counters that cannot be read leave theirs as they were."""
        least: dict[tuple[str, str], float] = {}
        for owner, organization in self._owners():
            try:
                async with asyncio.timeout(PATIENCE):
                    states = await self._counters().usage(owner, organization)
            except (StoreUnavailable, TimeoutError):
                continue
            for state in states:
                kind, limit = OWNERS[state.limit.scope[0]], NAMES[state.limit.field]
                left = state.remaining / state.limit.cap if state.limit.cap else 0.0
                least[kind, limit] = min(least.get((kind, limit), 1.0), left)
                if self._labelled:
                    self._tell(kind, limit, state)
        for labels, left in least.items():
            self._least.labels(*labels).set(left)

    def _tell(self, kind: str, limit: str, state: State) -> None:
        money = state.limit.unit == COST
        scope = state.limit.scope[2:]
        if self._scopes(f"{kind} {scope}") == OTHER:
            return
        labels = (kind, scope, limit)
        scale = NANO if money else 1
        (self._money if money else self._remaining).labels(*labels).set(state.remaining * scale)
        (self._money_cap if money else self._cap_of).labels(*labels).set(state.limit.cap * scale)

    def _owners(self) -> Iterator[tuple[Owner, str]]:
        """Everybody above the known keys, each once: teams and organizations are shared."""
        told: set[tuple[str, str]] = set()
        for principal in list(self._principals.values()):
            for owner in principal.owners:
                if (owner.id, principal.organization) not in told:
                    told.add((owner.id, principal.organization))
                    yield owner, principal.organization

    async def _watch(self) -> None:
        while not self._closing:
            try:
                await self.look()
            except Exception:
                log.exception("limits could not be looked up")
            if not self._closing:
                await asyncio.sleep(SECONDS)
