"""Requests, tokens and money by team and key, for those who ask for it: a bounded number of series."""

from prometheus_client import CollectorRegistry, Counter

from ..call import CallRecord
from .bounded import OTHER

NANO = 1e-9


class TenantObserver:
    """``cap`` pairs of team and key get series of their own, the first that call; the rest share one."""

    def __init__(self, registry: CollectorRegistry, cap: int) -> None:
        labels = ["team", "key"]
        self._cap = cap
        self._requests = Counter("sluice_tenant_requests", "Requests by tenant.", labels, registry=registry)
        self._tokens = Counter("sluice_tenant_tokens", "Tokens by tenant.", labels, registry=registry)
        self._cost = Counter("sluice_tenant_cost_usd", "Money by tenant, in US dollars.", labels, registry=registry)
        self._known: dict[tuple[str, str], tuple[str, str]] = {}

    def call_finished(self, record: CallRecord) -> None:
        if record.principal is None:
            return
        tenant = self._labels(record.principal.team or "", record.principal.key_id)
        self._requests.labels(*tenant).inc()
        self._tokens.labels(*tenant).inc(record.usage.total_tokens)
        self._cost.labels(*tenant).inc(record.cost * NANO)

    def _labels(self, team: str, key: str) -> tuple[str, str]:
        tenant = (team, key)
        if (known := self._known.get(tenant)) is not None:
            return known
        if len(self._known) >= self._cap:
            return (OTHER, OTHER)
        self._known[tenant] = tenant
        return tenant
