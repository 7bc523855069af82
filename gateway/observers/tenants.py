"""Requests, tokens and money by team and key, for those who ask for it: a bounded number of series."""

from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter

from ..call import CallRecord
from .bounded import OTHER
from .bulk import BulkCounter, Refreshed

NANO = 1e-9


class Sums(NamedTuple):
    """What a tenant used."""

    requests: BulkCounter
    tokens: BulkCounter
    cost: BulkCounter


class TenantObserver(Refreshed):
    """``cap`` pairs of team and key get series of their own, the first that call; the rest share one."""

    def __init__(self, registry: CollectorRegistry, cap: int) -> None:
        registry.register(self)  # before the counters, so that it is asked before them
        labels = ["team", "key"]
        self._cap = cap
        self._requests = Counter("sluice_tenant_requests", "Requests by tenant.", labels, registry=registry)
        self._tokens = Counter("sluice_tenant_tokens", "Tokens by tenant.", labels, registry=registry)
        self._cost = Counter("sluice_tenant_cost_usd", "Money by tenant, in US dollars.", labels, registry=registry)
        self._known: dict[tuple[str, str], Sums] = {}
        self._others = self._sums((OTHER, OTHER))

    def call_finished(self, record: CallRecord) -> None:
        principal = record.principal
        if principal is None:
            return
        tenant = (principal.team or "", principal.key_id)
        sums = self._known.get(tenant)
        if sums is None:
            sums = self._others
            if len(self._known) < self._cap:
                sums = self._known[tenant] = self._sums(tenant)
        sums.requests.number += 1
        sums.tokens.number += record.usage.total_tokens
        sums.cost.number += record.cost

    def _sums(self, labels: tuple[str, str]) -> Sums:
        return Sums(
            BulkCounter(self._requests, labels),
            BulkCounter(self._tokens, labels),
            BulkCounter(self._cost, labels, NANO),
        )

    def refresh(self) -> None:
        for sums in (*self._known.values(), self._others):
            for counter in sums:
                counter.flush()
