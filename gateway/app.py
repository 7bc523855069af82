"""The composition root: builds every object of a worker. Nobody imports it but the command line and tests."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry

from adapters.usage import Usage
from config import ConfigError
from config.schema import Config

from .auth import Authenticator, configured_keys, principal_of
from .call import Principal, Route
from .credentials import Credentials, HTTPFetch
from .deployments import routes
from .dispatch import Dispatcher
from .endpoints import chat, health, models
from .endpoints.admin import AdminEndpoints
from .endpoints.exchange import Exchange
from .endpoints.once import Once
from .endpoints.routes import Routes
from .endpoints.stored import StoredEndpoints
from .explain import Explainer
from .fleet import Fleet
from .intake import read_embeddings
from .keeping import Keeper
from .limits import Limiter, StoreDown
from .limits.estimate import Estimator
from .management.catalogue import catalogue, record_operations
from .management.operation import Operation
from .management.reports import Standing
from .management.roles import Gate
from .metering import Meter
from .observers.access_log import AccessLog
from .observers.budgets import BudgetObserver
from .observers.metrics import PrometheusObserver
from .pipeline import Pipeline
from .pools import Pools
from .pricing import PriceBook
from .records.admin import Admin
from .records.audit import AuditLog
from .records.cache import KeyCache
from .records.database import Database, DatabaseError
from .records.housekeeping import Housekeeper
from .records.idempotency import IdempotencyStore, MemoryIdempotency, secret_of
from .records.keys import KeyStore, Peppers
from .records.ledger import Ledger
from .records.spent import spent_in
from .records.stored import StoredCompletions
from .records.usage import UsageStore
from .routing import Router
from .server import Site, State
from .throttle import Failures
from .upstream import SystemResolver, Upstream

Closer = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class Records:
    """The SQL side of a worker."""

    database: Database
    keys: KeyCache
    ledger: Ledger | None
    usage: UsageStore
    admin: Admin
    audit: AuditLog
    stored: StoredCompletions | None


@dataclass(slots=True)
class Gateway:
    """A worker: its two listeners, and what must be closed, in order."""

    config: Config
    state: State
    pipeline: Pipeline
    registry: CollectorRegistry
    records: Records
    data: Site
    admin: Site
    closers: list[Closer] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{self.config.server.host}:{self.data.port}"

    @property
    def admin_url(self) -> str:
        return f"http://{self.config.admin.host}:{self.admin.port}"

    async def start(self, *, reuse_port: bool = False) -> None:
        await self.admin.start(self.config.admin.host, self.config.admin.port, reuse_port=reuse_port)
        await self.data.start(self.config.server.host, self.config.server.port, reuse_port=reuse_port)
        self.state.ready = True

    async def close(self) -> None:
        """Stop listening, then close what was opened, last first: settlements before the stores they go to."""
        self.state.ready = False
        await self.data.close()
        await self.admin.close()
        await close_all(self.closers)


async def build(config: Config) -> Gateway:
    """Everything of one worker, started but not yet listening; raises ConfigError where the config cannot work."""
    closers: list[Closer] = []
    try:
        registry = CollectorRegistry()
        records = await _records(config, closers)
        pipeline = await _pipeline(config, records, registry, closers)
        once = _once(config, pipeline, closers)
    except BaseException as exc:
        await close_all(closers)
        if isinstance(exc, DatabaseError):
            raise ConfigError([str(exc)]) from exc
        raise
    state, failures = State(), Failures(config.auth.failures_per_minute)
    return Gateway(
        config=config,
        state=state,
        pipeline=pipeline,
        registry=registry,
        records=records,
        data=Site(data_routes(pipeline, once), config.server, state, failures, cors=config.server.cors_origins),
        admin=Site(
            admin_routes(
                state, registry, admin_endpoints(config, records, failures), operations(config, records, pipeline)
            ),
            config.server,
            state,
            failures,
        ),
        closers=closers,
    )


async def close_all(closers: list[Closer]) -> None:
    for closer in reversed(closers):
        await closer()


async def _records(config: Config, closers: list[Closer]) -> Records:
    database = Database(config.database)
    closers.append(database.close)
    if config.database.migrate:
        await database.upgrade()
    peppers = Peppers.of(config)
    keys = KeyCache(
        database, KeyStore(database, config), peppers, ttl=config.auth.cache_ttl, size=config.auth.cache_size
    )
    await keys.start()
    closers.append(keys.close)
    ledger = None
    if config.ledger.enabled:
        ledger = Ledger(database, config.ledger)
        await ledger.start()
        closers.append(ledger.close)
    usage = UsageStore(database)
    stored = StoredCompletions(database, config.stored_completions) if config.stored_completions.enabled else None
    housekeeper = Housekeeper(database, usage, stored, retention_days=config.ledger.retention_days)
    await housekeeper.start()
    closers.append(housekeeper.close)
    audit = AuditLog(database)
    admin = Admin(database, peppers, config, audit=audit, on_change=keys.poll)
    return Records(database, keys, ledger, usage, admin, audit, stored)


async def _pipeline(config: Config, records: Records, registry: CollectorRegistry, closers: list[Closer]) -> Pipeline:
    session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)
    closers.append(session.close)
    credentials = Credentials(HTTPFetch(session))
    closers.append(credentials.close)
    table = routes(config, credentials.check)
    limiter = await _limiter(config, records)
    closers.append(limiter.close)
    pools = Pools(config)
    closers.append(pools.close)
    await _start(pools)
    webhook = config.counters.webhook
    budgets = BudgetObserver(registry, session, webhook.get_secret_value() if webhook else None)
    closers.append(budgets.close)
    limiter.on_threshold.append(budgets.passed)
    prices = PriceBook(config)
    fleet = Fleet(config.health, config.retries)
    router = Router(table, config.aliases, fleet, _costs(table, prices))
    return Pipeline(
        auth=Authenticator(configured_keys(config), records.keys),
        router=router,
        meter=Meter(limiter, prices, Estimator(config, prices), records.ledger, pools),
        dispatch=Dispatcher(
            _upstreams(config, closers), credentials, config.retries, fleet, router, config.health.latency_ejection
        ),
        observers=(PrometheusObserver(registry), AccessLog()),
        allow=frozenset(name for model in config.models.values() for name in model.params.allow),
        keeper=Keeper(records.stored) if records.stored is not None else None,
    )


def _once(config: Config, pipeline: Pipeline, closers: list[Closer]) -> Once | None:
    """What answers a repeated Idempotency-Key; shared by all workers where there is Redis."""
    options = config.idempotency
    if not options.enabled:
        return None
    # A claim must outlive the longest answer; after that its worker is dead.
    lease = max(config.timeouts.total, config.timeouts.response) + 60
    store: IdempotencyStore = MemoryIdempotency(ttl=options.ttl, lease=lease, max_replay=options.max_replay)
    if config.redis is not None:
        from .records.idempotency_redis import RedisIdempotency, connect

        client = connect(config.redis)
        closers.append(client.aclose)
        store = RedisIdempotency(client, ttl=options.ttl, lease=lease, max_replay=options.max_replay)
    pepper = config.auth.pepper or (config.redis and config.redis.url)
    return Once(pipeline.auth, store, secret_of(pepper.get_secret_value() if pepper else None), options.max_replay)


async def _limiter(config: Config, records: Records) -> Limiter:
    """The limiter, whose counters begin with what the ledger knows; raises ConfigError where it cannot work."""
    spent = None
    if records.ledger is not None:
        spent = spent_in(UsageStore(records.database), records.ledger, lambda: config.model_groups)
    limiter = Limiter.from_config(config, spent=spent)
    await _start(limiter)
    return limiter


async def _start(part: Limiter | Pools) -> None:
    try:
        await part.start()
    except StoreDown as exc:
        raise ConfigError([f"redis: {exc}"]) from exc


def _upstreams(config: Config, closers: list[Closer]) -> dict[str, Upstream]:
    resolve = SystemResolver()
    upstreams = {
        name: Upstream(
            limit=provider.max_concurrency,
            allow_private=provider.allow_private,
            allow_plain_http=provider.allow_plain_http,
            resolve=resolve,
        )
        for name, provider in config.providers.items()
    }
    closers.extend(upstream.close for upstream in upstreams.values())
    return upstreams


def _costs(table: dict[str, Route], prices: PriceBook) -> dict[str, int]:
    """What a typical request costs at each deployment: three prompt tokens for one of the answer."""
    typical = Usage(input=3000, output=1000)
    deployments = [d for route in table.values() for d in route.deployments]
    return {d.id: prices.cost(d, typical) for d in deployments if prices.price(d) is not None}


def data_routes(pipeline: Pipeline, once: Once | None) -> Routes:
    """Everything clients call, under /v1."""
    routes = Routes()
    auth, router = pipeline.auth, pipeline.router

    async def create(exchange: Exchange, _: str) -> web.StreamResponse:
        return await chat.create(exchange, pipeline, once=once)

    async def embed(exchange: Exchange, _: str) -> web.StreamResponse:
        return await chat.create(exchange, pipeline, read_embeddings, once)

    async def index(exchange: Exchange, _: str) -> web.StreamResponse:
        return await models.index(exchange, auth, router)

    async def show(exchange: Exchange, name: str) -> web.StreamResponse:
        return await models.show(exchange, name, auth, router)

    routes.add("POST", "/v1/chat/completions", create)
    routes.add("POST", "/v1/embeddings", embed)
    routes.add("GET", "/v1/models", index)
    routes.add("GET", "/v1/models/{id}", show)
    routes.add("GET", "/healthz", health.healthz)
    if pipeline.keeper is not None:
        StoredEndpoints(auth, pipeline.keeper.store).add_to(routes)
    return routes


def operations(config: Config, records: Records, pipeline: Pipeline) -> tuple[Operation, ...]:
    """Everything under /admin/v1, whether over HTTP or from the command line."""
    flush = records.ledger.flush if records.ledger is not None else None
    named = {key.name: key for key in config.keys}

    async def principal(name: str) -> Principal | None:
        return principal_of(named[name], config) if name in named else await records.keys.named(name)

    return catalogue(
        (
            *Explainer(pipeline.router, pipeline.meter, pipeline.allow, principal).operations(),
            *record_operations(records.admin, records.usage, records.audit, flush),
            *Standing(records.admin, pipeline.meter.limiter, config).operations(),
        )
    )


def admin_endpoints(config: Config, records: Records, failures: Failures) -> AdminEndpoints:
    gate = Gate({name: key.get_secret_value() for name, key in config.admin.keys.items()}, records.keys)
    return AdminEndpoints(gate, failures, MemoryIdempotency(ttl=600), secret_of(None))


def admin_routes(
    state: State, registry: CollectorRegistry, admin: AdminEndpoints, listed: Iterable[Operation]
) -> Routes:
    """Everything operators call."""
    routes = Routes()
    admin.add_to(routes, listed)

    async def readyz(exchange: Exchange, _: str) -> web.StreamResponse:
        return await health.readyz(exchange, state.ready, "draining" if state.draining else "")

    async def metrics(exchange: Exchange, _: str) -> web.StreamResponse:
        return await health.metrics(exchange, registry)

    routes.add("GET", "/healthz", health.healthz)
    routes.add("GET", "/readyz", readyz)
    routes.add("GET", "/metrics", metrics)
    return routes
