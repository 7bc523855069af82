"""The composition root: builds every object of a worker. Nobody imports it but the command line and tests."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

import aiohttp
from prometheus_client import CollectorRegistry

from config import ConfigError
from config.schema import Config

from .active import ActiveHealth, Checked
from .auth import Authenticator, KeySource
from .credentials import Credentials, HTTPFetch
from .credentials.issue import Fetch
from .endpoints.once import Once
from .endpoints.routes import Routes
from .errors import StoreUnavailable
from .fleet import Fleet
from .generation import Generation, Lasting, generation, needs_restart
from .keeping import Keeper
from .limits import Limiter, StoreDown
from .management.configuration import Configuration
from .management.operation import Operation
from .observers.budgets import BudgetObserver
from .observers.stores import Ask
from .observers.vitals import Vitals
from .paths import Records, admin_endpoints, admin_routes, data_routes, operations
from .pipeline import Pipeline
from .pools import Pools
from .protection import Protection
from .ramps import Ramps
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
from .reload import Reloader
from .remote_images import RemoteImages
from .server import Serving, Site, State
from .sharing import Sharing
from .telemetry import Telemetry, telemetry
from .throttle import Failures
from .upstream import SystemResolver, Upstream

IDLE_POLL = 0.2
"""Seconds between two looks whether pools that a reload left over are still used."""
Closer = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class Gateway:
    """A worker: its two listeners, and what must be closed, in order."""

    generation: Generation
    state: State
    failures: Failures
    registry: CollectorRegistry
    records: Records
    lasting: Lasting
    vitals: Vitals
    telemetry: Telemetry
    once: Callable[[Authenticator], Once] | None
    reloader: Reloader
    data: Site
    admin: Site
    closers: list[Closer]
    leaving: list[Serving] = field(default_factory=list)
    """Earlier configurations that requests still run on."""
    retiring: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def config(self) -> Config:
        return self.generation.config

    @property
    def pipeline(self) -> Pipeline:
        return self.generation.pipeline

    @property
    def url(self) -> str:
        return f"http://{self.config.server.host}:{self.data.port}"

    @property
    def admin_url(self) -> str:
        return f"http://{self.config.admin.host}:{self.admin.port}"

    async def start(self, sockets: tuple[socket.socket, socket.socket] | None = None) -> None:
        """Listen, on ``sockets`` (data, administration) where they are given."""
        data, admin = sockets or (None, None)
        await self.admin.start(self.config.admin.host, self.config.admin.port, admin)
        await self.data.start(self.config.server.host, self.config.server.port, data)
        self.state.ready = True

    def serve(self, made: Generation) -> None:
        """New requests run on ``made`` from now on; those that run finish on what they began with."""
        self.generation = made
        self.admin.serve(Serving(self._admin_routes(), made.version))
        once = self.once(made.pipeline.auth) if self.once is not None else None
        before = self.data.serve(Serving(data_routes(made.pipeline, once), made.version))
        self.leaving = [s for s in (*self.leaving, before) if s.in_flight]

    def apply(self, config: Config) -> str:
        """Run another configuration, all of it or nothing (ConfigError); no request sees two."""
        if problems := needs_restart(self.config, config):
            raise ConfigError(problems)
        before, made = self.generation, generation(config, self.lasting, self.generation)
        self.lasting.groups.clear()
        self.lasting.groups.update(config.model_groups)
        self.lasting.fleet.configure(config.health, config.retries)
        self.lasting.pools.configure(config)
        self.records.configure(config)
        self.telemetry.configure(config)
        self.serve(made)
        kept = {id(pool) for _, pool in made.pools.values()}
        if unused := [pool for _, pool in before.pools.values() if id(pool) not in kept]:
            task = asyncio.get_running_loop().create_task(_close_when_idle(self.leaving, unused))
            self.retiring.add(task)
            task.add_done_callback(self.retiring.discard)
        return made.version

    def unready(self) -> str:
        """Why no traffic should come, by the policy of ``admin.ready_requires``; nothing where it may."""
        if self.state.draining:
            return "draining"
        if not self.state.ready:
            return "starting"
        wanted = self.config.admin.ready_requires
        if "config" in wanted and self.reloader.refused:
            return "the configuration file has mistakes"
        away = [name for name, well in self.telemetry.stores.healthy.items() if name in wanted and not well]
        return f"{away[0]} does not answer" if away else ""

    def operations(self) -> tuple[Operation, ...]:
        """Everything under /admin/v1."""
        described = Configuration(
            lambda: (self.config, self.generation.version), self.reloader.everywhere, self.records.audit
        )
        return operations(self.config, self.records, self.pipeline, described)

    def _admin_routes(self) -> Routes:
        admin = admin_endpoints(self.config, self.records, self.failures)
        listed = (*self.operations(), *self.compatible())
        return admin_routes(self.unready, self.registry, self.vitals.refresh, admin, listed)

    def compatible(self) -> tuple[Operation, ...]:
        """LiteLLM's endpoints on the admin listener, where they are switched on."""
        if not self.config.admin.litellm_compat:
            return ()
        from .litellm.operations import Compatible

        records = self.records
        compatible = Compatible(records.admin, records.usage, records.database, records.keys, self.config.models)
        return tuple(compatible.operations())

    async def close(self) -> None:
        """Stop listening, then close what was opened, last first: settlements before the stores they go to."""
        self.state.ready = False
        await self.data.close()
        await self.admin.close()
        await asyncio.gather(*self.retiring)
        await _close_pools(upstream for _, upstream in self.generation.pools.values())
        await close_all(self.closers)


async def build(config: Config, read: Callable[[], Config] | None = None) -> Gateway:
    """Everything of one worker, started but not yet listening; raises ConfigError where the config cannot work.

    ``read`` gives the configuration anew for a reload.
    """
    closers: list[Closer] = []
    try:
        registry = CollectorRegistry()
        records = await _records(config, closers)
        state = State()
        lasting, watching = await _lasting(
            config, records, registry, state, closers, lambda: gateway.generation.limiter
        )
        made = generation(config, lasting)
        once = _once(config, closers)
    except BaseException as exc:
        await close_all(closers)
        if isinstance(exc, DatabaseError):
            raise ConfigError([str(exc)]) from exc
        if isinstance(exc, StoreUnavailable):
            raise ConfigError([f"database.url: {exc.message}"]) from exc
        raise
    failures = Failures(config.auth.failures_per_minute)

    def apply(config: Config) -> str:
        return gateway.apply(config)

    vitals = Vitals(
        registry,
        in_flight=lambda: state.in_flight,
        breakers=lasting.fleet.breakers,
        healthy=lambda: healthy(records, watching, lasting.sharing),
        version=lambda: gateway.generation.version,
        also=watching.refreshes,
    )
    gateway = Gateway(
        generation=made,
        state=state,
        failures=failures,
        registry=registry,
        records=records,
        lasting=lasting,
        vitals=vitals,
        telemetry=watching,
        once=once,
        reloader=Reloader(read, apply, registry),
        data=Site(config.server, state, failures, cors=config.server.cors_origins),
        admin=Site(config.server, state, failures, bounded=False),
        closers=closers,
    )
    gateway.serve(made)
    await watching.start()
    closers.append(watching.close)
    checks = ActiveHealth(registry, lasting.fleet, lasting.credentials, lambda: checked(gateway.generation))
    await checks.start()
    closers.append(checks.close)
    await vitals.start()
    closers.append(vitals.close)
    return gateway


async def _close_when_idle(leaving: list[Serving], pools: list[Upstream]) -> None:
    while any(serving.in_flight for serving in leaving):  # noqa: ASYNC110 - a count on the hot path has no event
        await asyncio.sleep(IDLE_POLL)
    await _close_pools(pools)


async def _close_pools(pools: Iterable[Upstream]) -> None:
    for pool in pools:
        await pool.close()


async def close_all(closers: list[Closer]) -> None:
    for closer in reversed(closers):
        await closer()


async def _records(config: Config, closers: list[Closer]) -> Records:
    database = Database(config.database)
    closers.append(database.close)
    if config.database.migrate:
        await database.upgrade()
    elif not await database.current():
        raise DatabaseError("database.migrate: the schema is not this version's; run `sluice db upgrade` first")
    peppers = Peppers.of(config)
    store = KeyStore(database, config)
    keys = KeyCache(database, store, peppers, ttl=config.auth.cache_ttl, size=config.auth.cache_size)
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

    def configure(config: Config) -> None:
        store.configure(config)
        keys.clear()
        records.admin = Admin(database, peppers, config, audit=audit, on_change=keys.poll)

    records = Records(database, keys, ledger, usage, admin, audit, stored, configure)
    return records


def _key_source(config: Config, records: Records, fetch: Fetch) -> KeySource:
    """Virtual keys and, where an identity provider is configured, its tokens."""
    if config.auth.jwt is None:
        return records.keys
    from .tokens import Tokens

    return Tokens(config.auth.jwt, records.keys, fetch)


def checked(runs: Generation) -> Checked:
    """What active checks look at."""
    return Checked(
        runs.config.health.active, runs.routes, {name: upstream for name, (_, upstream) in runs.pools.items()}
    )


def healthy(records: Records, watching: Telemetry, sharing: Sharing | None) -> dict[str, bool]:
    """Store -> whether it can be used now, as this worker sees it."""
    ledger = {"ledger": records.ledger.is_healthy} if records.ledger is not None else {}
    shared = {"health": sharing.active} if sharing is not None else {}
    return {**watching.stores.healthy, **ledger, **shared}


def _asks(config: Config, records: Records, closers: list[Closer]) -> dict[str, Ask]:
    """A question that each store must be able to answer."""
    asks: dict[str, Ask] = {"database": records.database.ping}
    if config.redis is not None:
        from .records.idempotency_redis import connect

        client = connect(config.redis)
        closers.append(client.aclose)
        asks["redis"] = client.ping
    return asks


async def _lasting(
    config: Config,
    records: Records,
    registry: CollectorRegistry,
    state: State,
    closers: list[Closer],
    counters: Callable[[], Limiter],
) -> tuple[Lasting, Telemetry]:
    """``counters`` gives the limiter of the configuration that runs, once one does."""
    session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)
    closers.append(session.close)
    credentials = Credentials(HTTPFetch(session))
    closers.append(credentials.close)
    groups = dict(config.model_groups)
    webhook = config.counters.webhook
    budgets = BudgetObserver(registry, session, webhook.get_secret_value() if webhook else None)
    closers.append(budgets.close)
    limiter = _limiter(config, records, groups, budgets)
    closers.append(limiter.close)
    await _start(limiter)
    resolve = SystemResolver()
    pools = Pools(config)
    closers.append(pools.close)
    await _start(pools)
    fleet = Fleet(config.health, config.retries)
    sharing = Sharing(fleet, config.redis) if config.redis is not None else None
    if sharing is not None:
        closers.append(sharing.close)
        await sharing.start()
    ramps = Ramps.of(config)
    closers.append(ramps.close)
    protection = Protection(config.server, lambda: state.in_flight)
    await protection.start()
    closers.append(protection.close)
    watching = telemetry(
        config,
        registry,
        pools=pools,
        ledger=records.ledger,
        counters=counters,
        asks=_asks(config, records, closers),
        closers=closers,
    )
    lasting = Lasting(
        credentials=credentials,
        limiter=limiter,
        fleet=fleet,
        sharing=sharing,
        keys=_key_source(config, records, HTTPFetch(session)),
        ledger=records.ledger,
        pools=pools,
        ramps=ramps,
        protection=protection,
        observers=watching.observers,
        trace=watching.trace,
        capture=config.tracing.enabled and config.tracing.content,
        keeper=_keeper(config, records, resolve, closers),
        resolve=resolve,
        groups=groups,
    )
    return lasting, watching


def _keeper(config: Config, records: Records, resolve: SystemResolver, closers: list[Closer]) -> Keeper | None:
    if records.stored is None:
        return None
    images = RemoteImages(resolve) if config.stored_completions.fetch_images else None
    if images is not None:
        closers.append(images.close)
    return Keeper(records.stored, images)


def _once(config: Config, closers: list[Closer]) -> Callable[[Authenticator], Once] | None:
    """What answers a repeated Idempotency-Key; shared by all workers where there is Redis."""
    options = config.idempotency
    if not options.enabled:
        return None
    # A claim must outlive the longest answer; after that its worker is dead.
    lease = max(config.timeouts.total, config.timeouts.response) + 60
    store: IdempotencyStore = MemoryIdempotency(ttl=options.ttl, lease=lease, max_replay=options.max_replay)
    if config.redis is not None:
        from .records.idempotency_redis import RedisIdempotency, connect

        shared = RedisIdempotency(connect(config.redis), ttl=options.ttl, max_replay=options.max_replay)
        closers.append(shared.close)
        store = shared
    pepper = config.auth.pepper or (config.redis and config.redis.url)
    secret = secret_of(pepper.get_secret_value() if pepper else None)
    return lambda auth: Once(auth, store, secret, options.max_replay)


def _limiter(
    config: Config, records: Records, groups: Mapping[str, tuple[str, ...]], budgets: BudgetObserver
) -> Limiter:
    """The limiter, whose counters begin with what the ledger knows."""
    spent = None
    if records.ledger is not None:
        spent = spent_in(UsageStore(records.database), records.ledger, lambda: groups)
    limiter = Limiter.from_config(config, spent=spent, on_orphan=budgets.orphaned)
    limiter.on_threshold.append(budgets.passed)
    return limiter


async def _start(part: Limiter | Pools) -> None:
    """Raises ConfigError where it cannot work."""
    try:
        await part.start()
    except StoreDown as exc:
        raise ConfigError([f"redis: {exc}"]) from exc
