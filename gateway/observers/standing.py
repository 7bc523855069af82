"""What is left of limits and budgets, of everybody who called of late: looked up now and then, never for a request."""

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, Gauge

from .. import series
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
        """By their keys; what was learned last is last."""
        self._configured: set[str] = set()
        """The keys among them that are in the configuration file."""
        self._told: set[tuple[Gauge, tuple[str, ...]]] = set()
        """The series there are."""
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
        """Look after these from the start, without a call of theirs, and no more after those that were configured before."""
        known = self._principals
        for key_id in self._configured:
            known.pop(key_id, None)
        self._configured.clear()
        for principal in principals:
            if len(known) < self._cap:
                self._configured.add(principal.key_id)
                known[principal.key_id] = principal

    def forget(self, changed: Collection[tuple[str, str]]) -> None:
        """Look no more after keys that were changed or deleted, themselves or an owner: their next call tells what holds.

        ``changed``: kinds and ids of owners, as the table of changes has them.
        """
        stale = {f"{kind[0]}:{name}" for kind, name in changed}
        for key_id, principal in list(self._principals.items()):
            if key_id not in self._configured and not stale.isdisjoint(owner.id for owner in principal.owners):
                del self._principals[key_id]

    async def start(self) -> None:
        self._task = asyncio.create_task(self._watch())

    async def close(self) -> None:
        self._closing = True  # redis-py can swallow a cancellation that meets a reply
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=PATIENCE)

    async def look(self) -> None:
        """Set every gauge to what holds now; counters that cannot be read leave theirs as they were."""
        found: list[State] = []
        everything = True
        for owner, organization in self._owners():
            try:
                async with asyncio.timeout(PATIENCE):
                    found += await self._counters().usage(owner, organization)
            except (StoreUnavailable, TimeoutError):
                everything = False
        if everything:
            self._end(found)
        least: dict[tuple[str, str], float] = {}
        for state in found:
            kind, limit = OWNERS[state.limit.scope[0]], NAMES[state.limit.field]
            left = state.remaining / state.limit.cap if state.limit.cap else 0.0
            least[kind, limit] = min(least.get((kind, limit), 1.0), left)
            if self._labelled:
                self._tell(kind, limit, state)
        for labels, left in least.items():
            self._set(self._least, labels, left)

    def _tell(self, kind: str, limit: str, state: State) -> None:
        money = state.limit.unit == COST
        scope = state.limit.scope[2:]
        if self._scopes(f"{kind} {scope}") == OTHER:
            return
        labels = (kind, scope, limit)
        scale = NANO if money else 1
        self._set(self._money if money else self._remaining, labels, state.remaining * scale)
        self._set(self._money_cap if money else self._cap_of, labels, state.limit.cap * scale)

    def _set(self, gauge: Gauge, labels: tuple[str, ...], value: float) -> None:
        gauge.labels(*labels).set(value)
        self._told.add((gauge, labels))

    def _end(self, found: Sequence[State]) -> None:
        """Tell no more of limits that nobody known has any more."""
        held = {(OWNERS[s.limit.scope[0]], s.limit.scope[2:], NAMES[s.limit.field]) for s in found}
        kinds = {(kind, limit) for kind, _, limit in held}
        for gauge, labels in [*self._told]:
            if labels in (kinds if gauge is self._least else held):
                continue
            self._told.discard((gauge, labels))
            if series.stay():  # the least of all workers is told, and this one has nothing less to say
                gauge.labels(*labels).set(1 if gauge is self._least else math.inf)
            else:
                gauge.remove(*labels)
        if not series.stay():
            self._scopes.keep({f"{kind} {scope}" for kind, scope, _ in held})

    def _owners(self) -> Iterator[tuple[Owner, str]]:
        """Everybody above the known keys, each once: teams and organizations are shared.

        Keys that called last come first: those that were silent since may know limits that an owner had before.
        """
        told: set[tuple[str, str]] = set()
        for principal in reversed(list(self._principals.values())):
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
