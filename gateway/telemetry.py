"""Everything that watches a worker: the observers of its calls, and what is looked up in the background."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from config import ConfigError
from config.schema import Config

from .auth import configured_keys
from .call import CallRecord
from .observers.access_log import AccessLog
from .observers.calls import CallMetrics
from .observers.conventions import provider_names
from .observers.genai import GenAIMetrics
from .observers.metrics import PrometheusObserver
from .observers.overhead import OverheadMetrics
from .observers.refusals import Ledger, RefusalObserver
from .observers.standing import Counters, StandingObserver
from .observers.stores import Ask, StoreHealth
from .observers.tenants import TenantObserver
from .observers.tiers import TierMetrics
from .pipeline import Observer
from .pools import Pools


@dataclass(slots=True)
class Telemetry:
    """Outlives a configuration, and is told of the next one."""

    observers: tuple[Observer, ...]
    calls: CallMetrics
    standing: StandingObserver
    stores: StoreHealth
    providers: dict[str, str]
    """An account of the configuration that runs -> its name in the conventions."""
    trace: Callable[[CallRecord], str | None] | None
    """The trace context that providers get of a call; None: the client's."""

    @property
    def refreshes(self) -> list[Callable[[], None]]:
        """What brings gauges and counters up to date, to be called at least as often as they are read."""
        return [*self.calls.refreshes, *(o.refresh for o in self.observers if isinstance(o, TenantObserver))]

    def configure(self, config: Config) -> None:
        self.providers.clear()
        self.providers.update(provider_names(config))
        self.calls.forget()
        self.standing.know(principal for principal, _ in configured_keys(config).values())

    async def start(self) -> None:
        await self.stores.start()
        await self.standing.start()

    async def close(self) -> None:
        await self.standing.close()
        await self.stores.close()


def telemetry(
    config: Config,
    registry: CollectorRegistry,
    *,
    pools: Pools,
    ledger: Ledger | None,
    counters: Callable[[], Counters],
    asks: Mapping[str, Ask],
    closers: list[Callable[[], Awaitable[None]]],
) -> Telemetry:
    """``counters``: the limiter that runs; ``asks``: a question to each store. Raises ConfigError."""
    cap, labelled = config.metrics.max_label_values, config.metrics.tenant_labels
    providers = provider_names(config)
    calls = CallMetrics(
        PrometheusObserver(registry, cap),
        GenAIMetrics(registry, providers, cap),
        OverheadMetrics(registry),
        TierMetrics(registry, pools.all, cap),
        others=() if ledger is None else (RefusalObserver(ledger),),
    )
    standing = StandingObserver(registry, counters, cap=cap, labelled=labelled)
    observers: list[Observer] = [calls, standing]
    if labelled:
        observers.append(TenantObserver(registry, cap))
    trace: Callable[[CallRecord], str | None] | None = None
    if config.tracing.enabled:
        try:
            from .observers.tracing import TracingObserver
        except ImportError:
            raise ConfigError(["tracing: needs the extra `otel`: pip install 'sluice-gateway[otel]'"]) from None
        tracing = TracingObserver(config.tracing, providers)
        closers.append(tracing.closer())
        observers.append(tracing)
        trace = tracing.announce
    observers.append(AccessLog(trace))
    if not config.tracing.propagate:
        trace = _nobody_s
    made = Telemetry(tuple(observers), calls, standing, StoreHealth(registry, asks), providers, trace)
    made.configure(config)
    return made


def _nobody_s(_: CallRecord) -> None:
    return None
