"""What is answered where: the paths of the two listeners, and the operations behind the admin API."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from config.schema import Config

from . import web
from .auth import principal_of
from .call import Principal
from .endpoints import chat, health, models
from .endpoints.admin import AdminEndpoints
from .endpoints.exchange import Exchange
from .endpoints.once import Once
from .endpoints.routes import Routes
from .endpoints.stored import StoredEndpoints
from .explain import Explainer
from .intake import read_call, read_embeddings
from .management.catalogue import catalogue, record_operations
from .management.configuration import Configuration
from .management.operation import Operation
from .management.reconcile import Reconciliation
from .management.reports import Standing
from .management.roles import Gate
from .pipeline import Pipeline
from .records.admin import Admin
from .records.audit import AuditLog
from .records.cache import KeyCache
from .records.database import Database
from .records.idempotency import IdempotencyStore, MemoryIdempotency, secret_of
from .records.ledger import Ledger
from .records.spent import spent_in
from .records.stored import StoredCompletions
from .records.usage import UsageStore
from .throttle import Failures


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
    configure: Callable[[Config], None]
    """Take the owners and keys of another configuration."""


@dataclass(frozen=True, slots=True)
class Replays:
    """Answers to POSTs of operators, for a repeated Idempotency-Key, whatever configuration runs meanwhile."""

    store: IdempotencyStore = field(default_factory=lambda: MemoryIdempotency(ttl=600))
    secret: bytes = field(default_factory=lambda: secret_of(None))


def data_routes(pipeline: Pipeline, once: Once | None) -> Routes:
    """Everything clients call, under /v1."""
    routes = Routes()
    auth, router = pipeline.auth, pipeline.router

    async def index(exchange: Exchange, _: str) -> web.StreamResponse:
        return await models.index(exchange, auth, router)

    async def show(exchange: Exchange, name: str) -> web.StreamResponse:
        return await models.show(exchange, name, auth, router)

    routes.add("POST", "/v1/chat/completions", chat.creating(pipeline, read_call, once))
    routes.add("POST", "/v1/embeddings", chat.creating(pipeline, read_embeddings, once))
    routes.add("GET", "/v1/models", index)
    routes.add("GET", "/v1/models/{id}", show)
    routes.add("GET", "/healthz", health.healthz)
    if pipeline.keeper is not None:
        StoredEndpoints(auth, pipeline.keeper.store).add_to(routes)
    return routes


def operations(config: Config, records: Records, pipeline: Pipeline, described: Configuration) -> tuple[Operation, ...]:
    """Everything under /admin/v1, whether over HTTP or from the command line."""
    flush = records.ledger.flush if records.ledger is not None else None
    named = {key.name: key for key in config.keys}

    async def principal(name: str) -> Principal | None:
        return principal_of(named[name], config) if name in named else await records.keys.named(name)

    reconciling: Iterable[Operation] = ()
    if records.ledger is not None:
        spent = spent_in(records.usage, records.ledger, lambda: config.model_groups)
        reconciling = Reconciliation(records.admin, pipeline.meter.limiter, config, spent, records.audit).operations()
    return catalogue(
        (
            *Explainer(pipeline.router, pipeline.meter, pipeline.allow, principal).operations(),
            *record_operations(records.admin, records.usage, records.audit, flush),
            *Standing(records.admin, pipeline.meter.limiter, config).operations(),
            *described.operations(),
            *reconciling,
        )
    )


def admin_endpoints(config: Config, records: Records, failures: Failures, replays: Replays) -> AdminEndpoints:
    gate = Gate({name: key.get_secret_value() for name, key in config.admin.keys.items()}, records.keys)
    return AdminEndpoints(gate, failures, replays.store, replays.secret, records.audit)


def admin_routes(
    unready: Callable[[], str],
    registry: CollectorRegistry,
    refresh: Callable[[], None],
    admin: AdminEndpoints,
    listed: Iterable[Operation],
) -> Routes:
    """Everything operators call. ``unready`` says why no traffic should come; nothing where it may."""
    routes = Routes()
    admin.add_to(routes, listed)

    async def readyz(exchange: Exchange, _: str) -> web.StreamResponse:
        return await health.readyz(exchange, unready())

    async def metrics(exchange: Exchange, _: str) -> web.StreamResponse:
        return await health.metrics(exchange, registry, refresh)

    routes.add("GET", "/healthz", health.healthz)
    routes.add("GET", "/readyz", readyz)
    routes.add("GET", "/metrics", metrics)
    return routes
