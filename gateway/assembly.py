"""Builds the parts of a worker, from its configuration up; ``app`` puts them together."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import aiohttp
from prometheus_client import CollectorRegistry

from config import ConfigError
from config.schema import Config

from .active import Checked
from .auth import Authenticator, KeySource
from .credentials import Credentials, HTTPFetch
from .credentials.issue import Fetch
from .endpoints.once import Once
from .fleet import Fleet
from .generation import Generation, Lasting
from .keeping import Keeper
from .limits import Limiter, StoreDown
from .management.reconcile import configured_owners
from .observers.budgets import BudgetObserver
from .observers.stores import Ask
from .paths import Records
from .pools import Pools
from .protection import Protection
from .ramps import Ramps
from .records.admin import Admin
from .records.audit import AuditLog
from .records.cache import KeyCache
from .records.database import Database, DatabaseError
from .records.digests import Peppers
from .records.housekeeping import Housekeeper
from .records.idempotency import IdempotencyStore, MemoryIdempotency, secret_of
from .records.keys import KeyStore
from .records.ledger import Ledger
from .records.spent import spent_in
from .records.stored import StoredCompletions
from .records.usage import UsageStore
from .remote_images import RemoteImages
from .server import State
from .sharing import Sharing
from .telemetry import Telemetry, telemetry
from .upstream import SystemResolver

Closer = Callable[[], Awaitable[None]]
CATCH_UP_SECONDS = 1.0
"""That a start waits for counters to catch up with the ledger; then they do so beside the first requests."""


async def close_all(closers: list[Closer]) -> None:
    for closer in reversed(closers):
        await closer()


async def records_of(config: Config, closers: list[Closer]) -> Records:
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
        from .redis_client import connect

        client = connect(config.redis)
        closers.append(client.aclose)
        asks["redis"] = client.ping
    return asks


async def lasting_of(
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
    limiter = await _limiter(config, records, groups, session, registry, closers)
    resolve = SystemResolver()
    pools = Pools(config)
    closers.append(pools.close)
    await _start(pools)
    fleet = Fleet(config.health, config.retries)
    sharing = await _sharing(config, fleet, closers)
    ramps = Ramps.of(config)
    closers.append(ramps.close)
    protection = Protection(config.server, state.running.__len__)
    await protection.start()
    closers.append(protection.close)
    asks = _asks(config, records, closers)
    watching = telemetry(
        config, registry, pools=pools, ledger=records.ledger, counters=counters, asks=asks, closers=closers
    )
    records.keys.on_change += [watching.standing.forget, limiter.changes.note]
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


async def _sharing(config: Config, fleet: Fleet, closers: list[Closer]) -> Sharing | None:
    if config.redis is None:
        return None
    sharing = Sharing(fleet, config.redis)
    closers.append(sharing.close)
    await sharing.start()
    return sharing


def _keeper(config: Config, records: Records, resolve: SystemResolver, closers: list[Closer]) -> Keeper | None:
    if records.stored is None:
        return None
    images = RemoteImages(resolve) if config.stored_completions.fetch_images else None
    if images is not None:
        closers.append(images.close)
    return Keeper(records.stored, images)


def once_of(config: Config, closers: list[Closer]) -> Callable[[Authenticator], Once] | None:
    """What answers a repeated Idempotency-Key; shared by all workers where there is Redis."""
    options = config.idempotency
    if not options.enabled:
        return None
    # A claim must outlive the longest answer; after that its worker is dead.
    lease = max(config.timeouts.total, config.timeouts.response) + 60
    ttl, replay, total = options.ttl, options.max_replay, options.max_total
    store: IdempotencyStore = MemoryIdempotency(ttl=ttl, lease=lease, max_replay=replay, max_total=total)
    if config.redis is not None:
        from .records.idempotency_redis import RedisIdempotency
        from .redis_client import connect

        shared = RedisIdempotency(connect(config.redis), ttl=ttl, max_replay=replay, max_total=total)
        closers.append(shared.close)
        store = shared
    pepper = config.auth.pepper or (config.redis and config.redis.url)
    secret = secret_of(pepper.get_secret_value() if pepper else None)
    return lambda auth: Once(auth, store, secret, options.max_replay)


async def _limiter(
    config: Config,
    records: Records,
    groups: Mapping[str, tuple[str, ...]],
    session: aiohttp.ClientSession,
    registry: CollectorRegistry,
    closers: list[Closer],
) -> Limiter:
    """The limiter, started, whose counters begin with what the ledger knows, and who is told of budgets."""
    webhook, secret = (
        option.get_secret_value() if option else None
        for option in (config.counters.webhook, config.counters.webhook_secret)
    )
    told = None
    if webhook is not None and config.redis is not None:
        from .observers.told import Told

        told = Told(config.redis)
    budgets = BudgetObserver(registry, session, webhook, told, secret.encode() if secret else None)
    closers.append(budgets.close)
    spent = None
    if records.ledger is not None:
        spent = spent_in(UsageStore(records.database), records.ledger, lambda: groups)
    limiter = Limiter.from_config(config, spent=spent, on_orphan=budgets.orphaned)
    limiter.on_threshold.append(budgets.passed)
    closers.append(limiter.close)
    await _start(limiter)
    if config.redis is not None:  # counters in memory are gone, and begin with what the ledger knows
        await _catch_up(limiter, config, closers)
    return limiter


async def _catch_up(limiter: Limiter, config: Config, closers: list[Closer]) -> None:
    """Have limits of the file count what was used while, until now, another file did not have them."""
    task = asyncio.get_running_loop().create_task(limiter.catch_up(configured_owners(config)))

    async def stop() -> None:
        task.cancel()
        await asyncio.wait({task}, timeout=CATCH_UP_SECONDS)

    closers.append(stop)
    await asyncio.wait({task}, timeout=CATCH_UP_SECONDS)


async def _start(part: Limiter | Pools) -> None:
    """Raises ConfigError where it cannot work."""
    try:
        await part.start()
    except StoreDown as exc:
        raise ConfigError([f"redis: {exc}"]) from exc
