"""One configuration at work: the routes, prices and pools made of it. A reload makes the next one beside it."""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson
from pydantic import SecretStr

from adapters.usage import Usage
from config.schema import AUTO, AsManyAsCpus, Config, Provider, Queue

from .attempts import Attempts
from .auth import Authenticator, KeySource, configured_keys
from .call import CallRecord, Route
from .credentials import Credentials
from .deployments import routes
from .dispatch import Dispatcher
from .fleet import Fleet
from .keeping import Keeper
from .limits import Limiter
from .limits.estimate import Estimator
from .limits.returned import changed_owners
from .metering import Meter
from .pipeline import Observer, Pipeline
from .pools import Pools
from .price_book import PriceBook
from .protection import Protection
from .ramps import Ramps
from .routing import Router
from .settlement import Ledger
from .sharing import Sharing
from .upstream import SystemResolver, Upstream

LOGGER = logging.getLogger("sluice.config")
VERSION_DIGITS = 12
RESTART = (
    "server", "admin.host", "admin.port", "redis", "counters.lease", "counters.hot_leases", "counters.webhook",
    "counters.webhook_secret", "database", "ledger", "stored_completions", "auth", "idempotency", "logging", "tracing", "metrics",
)  # fmt: skip
"""Options that are read once, at start: sockets, stores and what is in front of them."""

Pool: TypeAlias = tuple[tuple[int, bool, bool], Upstream]
"""A provider's client and what it was made with."""


@dataclass(slots=True)
class Lasting:
    """What outlives a configuration: counters, what is known of deployments, credentials, stores."""

    credentials: Credentials
    limiter: Limiter
    fleet: Fleet
    keys: KeySource
    ledger: Ledger | None
    pools: Pools
    ramps: Ramps
    protection: Protection
    observers: Sequence[Observer]
    keeper: Keeper | None
    resolve: SystemResolver
    sharing: Sharing | None
    """Keeps ``fleet`` and those of other workers alike, where there is Redis."""
    trace: Callable[[CallRecord], str | None] | None
    capture: bool
    groups: dict[str, tuple[str, ...]]
    """The model groups that run: what counters are restored by."""


@dataclass(frozen=True, slots=True)
class Generation:
    """Whatever a request uses of a configuration, it uses of one generation."""

    config: Config
    version: str
    """Names the configuration in ``x-sluice-config``: equal files have equal versions on every replica."""
    pipeline: Pipeline
    limiter: Limiter
    estimator: Estimator
    prices: PriceBook
    pools: Mapping[str, Pool]
    routes: Mapping[str, Route]

    def deployments(self) -> set[str]:
        """The ids of all."""
        return {d.id for route in self.routes.values() for d in route.deployments}


def generation(config: Config, lasting: Lasting, before: Generation | None = None) -> Generation:
    """Make what ``config`` says, keeping the pools that did not change; raises ConfigError where it cannot work."""
    table = routes(config, lasting.credentials.check)
    prices = PriceBook(config)
    estimator = Estimator(config, prices, before.estimator if before is not None else None)
    limiter = lasting.limiter
    if before is not None:
        limiter = limiter.under(config)
        limiter.changes.note(changed_owners(before.config, config))
    pools = {
        name: _pool(p, lasting, before.pools.get(name) if before else None) for name, p in config.providers.items()
    }
    fleet = lasting.fleet
    router = Router(table, config.aliases, fleet, _costs(table, prices))
    upstreams = {name: upstream for name, (_, upstream) in pools.items()}
    pipeline = Pipeline(
        auth=Authenticator(configured_keys(config), lasting.keys),
        router=router,
        meter=Meter(limiter, prices, estimator, lasting.ledger, lasting.pools, lasting.ramps),
        dispatch=Dispatcher(
            Attempts(upstreams, lasting.credentials, fleet, config.health.latency_ejection),
            config.retries,
            fleet,
            router,
        ),
        observers=lasting.observers,
        allow=frozenset(name for model in config.models.values() for name in model.params.allow),
        keeper=lasting.keeper,
        protection=lasting.protection,
        trace=lasting.trace,
        capture=lasting.capture,
        litellm_headers=config.admin.litellm_compat,
    )
    return Generation(config, version(config), pipeline, limiter, estimator, prices, pools, table)


def _pool(provider: Provider, lasting: Lasting, before: Pool | None) -> Pool:
    made_with = (provider.max_concurrency, provider.allow_private, provider.allow_plain_http)
    if before is not None and before[0] == made_with:
        return before
    limit, private, plain = made_with
    return made_with, Upstream(limit=limit, allow_private=private, allow_plain_http=plain, resolve=lasting.resolve)


def _costs(table: Mapping[str, Route], prices: PriceBook) -> dict[str, int]:
    """What a typical request costs at each deployment: three prompt tokens for one of the answer."""
    typical = Usage(input=3000, output=1000)
    deployments = [d for route in table.values() for d in route.deployments]
    unpriced = sorted(d.id for d in deployments if prices.price(d) is None)
    if unpriced:
        LOGGER.warning(
            "%s", orjson.dumps({"event": "no price: refused under budgets, else recorded at $0", "deployments": unpriced}).decode()
        )  # fmt: skip
    return {d.id: prices.cost(d, typical) for d in deployments if prices.price(d) is not None}


def needs_restart(running: Config, wanted: Config) -> list[str]:
    """The options that differ and are read at start only, one line each."""
    paths = [path for path in RESTART if _option(running, path) != _option(wanted, path)]
    before, after = _queues(running), _queues(wanted)
    paths += [f"models.{name}.queue" for name in {**before, **after} if before.get(name) != after.get(name)]
    return [f"{path}: cannot change while the gateway runs; restart it for this" for path in paths]


def _queues(config: Config) -> dict[str, Queue]:
    return {name: model.queue for name, model in config.models.items() if model.queue is not None}


def _option(config: Config, path: str) -> Any:
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def version(config: Config) -> str:
    """A digest of everything the configuration says, secrets too, so that rotating one is another version."""
    said = config.model_dump()
    if isinstance(config.server.workers, AsManyAsCpus):
        said["server"]["workers"] = AUTO  # the number is this machine's
    text = orjson.dumps(said, default=_plain, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(text).hexdigest()[:VERSION_DIGITS]


def _plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
