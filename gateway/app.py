"""The composition root: builds every object of a worker. Nobody imports it but the command line and tests."""

import asyncio
import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from config import ConfigError
from config.schema import Config

from .active import ActiveHealth
from .assembly import Closer, checked, close_all, healthy, lasting_of, once_of, records_of
from .auth import Authenticator
from .endpoints.once import Once
from .endpoints.routes import Routes
from .errors import StoreUnavailable
from .generation import Generation, Lasting, generation, needs_restart
from .management.configuration import Configuration
from .management.operation import Operation
from .observers.vitals import Vitals
from .paths import Records, Replays, admin_endpoints, admin_routes, data_routes, operations
from .pipeline import Pipeline
from .records.database import DatabaseError, explained
from .reload import Reloader
from .server import Serving, Site, State
from .telemetry import Telemetry
from .throttle import Failures
from .upstream import Upstream

IDLE_POLL = 0.2
"""Seconds between two looks whether pools that a reload left over are still used."""


@dataclass(slots=True)
class Gateway:
    """A worker: its two listeners, and what must be closed, in order."""

    generation: Generation
    state: State
    admin_failures: Failures
    """Apart from those on the clients' listener: whoever shares an address with operators does not lock them out."""
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
    leaving: list[tuple[Serving, Generation]] = field(default_factory=list)
    """Earlier configurations that requests still run on."""
    retiring: set[asyncio.Task[None]] = field(default_factory=set)
    replays: Replays = field(default_factory=Replays)

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

    async def start(
        self, sockets: tuple[socket.socket, socket.socket] | None = None, *, stands_by: bool = False
    ) -> None:
        """Listen, on ``sockets`` (data, administration) where they are given; raises ConfigError where that is impossible.

        ``stands_by``: requests that come to the given sockets are the other workers' first.
        """
        data, admin = sockets or (None, None)
        for name, site, where, given in (
            ("admin", self.admin, self.config.admin, admin),
            ("server", self.data, self.config.server, data),
        ):
            try:
                await site.start(where.host, where.port, given, stands_by=stands_by and site is self.data)
            except OSError as exc:
                raise ConfigError([f"{name}.port: {where.host}:{where.port}: {_why(exc)}"]) from exc
        self.state.ready = True

    def serve(self, made: Generation) -> None:
        """New requests run on ``made`` from now on; those that run finish on what they began with."""
        left, self.generation = self.generation, made
        self.admin.serve(Serving(self._admin_routes(), made.version))
        once = self.once(made.pipeline.auth) if self.once is not None else None
        before = self.data.serve(Serving(data_routes(made.pipeline, once), made.version))
        self.leaving = [(serving, of) for serving, of in (*self.leaving, (before, left)) if serving.in_flight]
        leaving = left.deployments().union(*(of.deployments() for _, of in self.leaving))
        self.lasting.fleet.expect(made.deployments(), leaving)

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
            task = asyncio.get_running_loop().create_task(_close_when_idle([s for s, _ in self.leaving], unused))
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
        admin = admin_endpoints(self.config, self.records, self.admin_failures, self.replays)
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
        records = await records_of(config, closers)
        state = State()
        lasting, watching = await lasting_of(
            config, records, registry, state, closers, lambda: gateway.generation.limiter
        )
        made = generation(config, lasting)
        once = once_of(config, closers)
    except BaseException as exc:
        await close_all(closers)
        if isinstance(exc, DatabaseError):
            raise ConfigError([str(exc)]) from exc
        if isinstance(exc, StoreUnavailable):
            raise ConfigError([f"database.url: {explained(exc)}"]) from exc
        raise
    failures, admin_failures = (Failures(config.auth.failures_per_minute) for _ in range(2))

    vitals = Vitals(
        registry,
        in_flight=lambda: state.in_flight,
        breakers=lasting.fleet.breakers,
        healthy=lambda: healthy(records, watching, lasting.sharing),
        rejected=lambda: 0 if records.ledger is None else records.ledger.rejected,
        version=lambda: gateway.generation.version,
        also=watching.refreshes,
    )
    gateway = Gateway(
        generation=made,
        state=state,
        admin_failures=admin_failures,
        registry=registry,
        records=records,
        lasting=lasting,
        vitals=vitals,
        telemetry=watching,
        once=once,
        reloader=Reloader(read, lambda new: gateway.apply(new), registry),  # noqa: PLW0108 - there is no gateway yet
        data=Site(config.server, state, failures, cors=config.server.cors_origins),
        admin=Site(config.server, state, admin_failures, bounded=False),
        closers=closers,
    )
    gateway.serve(made)
    await _watch(gateway)
    return gateway


async def _watch(gateway: Gateway) -> None:
    """Begin what looks at the worker and its providers in the background."""
    lasting = gateway.lasting
    checks = ActiveHealth(gateway.registry, lasting.fleet, lasting.credentials, lambda: checked(gateway.generation))
    for watcher in (gateway.telemetry, checks, gateway.vitals):
        await watcher.start()
        gateway.closers.append(watcher.close)


async def _close_when_idle(leaving: list[Serving], pools: list[Upstream]) -> None:
    while any(serving.in_flight for serving in leaving):  # noqa: ASYNC110 - a count on the hot path has no event
        await asyncio.sleep(IDLE_POLL)
    await _close_pools(pools)


async def _close_pools(pools: Iterable[Upstream]) -> None:
    for pool in pools:
        await pool.close()


def _why(error: OSError) -> str:
    # uvloop says it in a sentence of its own, with the address once more; failed look-ups have numbers below zero.
    number = error.errno or 0
    return os.strerror(number) if number > 0 else str(error.strerror)
