"""redis-py as it is used here. Nobody else imports it, and only a configuration with Redis imports this."""

import contextlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from config.schema import Redis as Options


@contextlib.contextmanager
def _absent(*modules: str) -> Iterator[None]:
    """Whoever tries to import one of them for the first time in the block finds that it is not installed."""
    hidden = [module for module in modules if module not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: the import system's word for "cannot be had"
    try:
        yield
    finally:
        for module in hidden:
            del sys.modules[module]


# Wherever OpenTelemetry's metrics are installed, redis-py loads them, for figures of its own that are never switched on
# here: 3 MB in every worker.
with _absent("opentelemetry.metrics", "opentelemetry.sdk.metrics"):
    from redis.asyncio import Redis, RedisCluster
    from redis.backoff import NoBackoff
    from redis.exceptions import (
        ClusterDownError,
        MasterDownError,
        NoScriptError,
        ReadOnlyError,
        RedisClusterException,
        RedisError,
        TryAgainError,
    )
    from redis.exceptions import ConnectionError as RedisConnectionError
    from redis.exceptions import TimeoutError as RedisTimeout
    from redis.retry import Retry

__all__ = [
    "Client",
    "ClusterDownError",
    "MasterDownError",
    "NoScriptError",
    "ReadOnlyError",
    "RedisClusterException",
    "RedisConnectionError",
    "RedisError",
    "RedisTimeout",
    "TryAgainError",
    "connect",
    "is_cluster",
    "watch_servers",
]

Client: TypeAlias = "Redis | RedisCluster"
_CLUSTER = ("redis+cluster://", "rediss+cluster://")
_RUN_ID = re.compile(rb"run_id:(\w+)")


def is_cluster(options: Options) -> bool:
    """Whether the URL names a node of a cluster."""
    return options.url.get_secret_value().startswith(_CLUSTER)


def connect(options: Options) -> Client:
    """A client that decodes no reply and waits no longer than the configured time-out. It connects when first used.

    redis-py retries ten times by itself, each time-out 5 s: here a lost reply must not be repeated unasked.
    """
    url = options.url.get_secret_value()
    kind: type[Redis] | type[RedisCluster] = Redis
    if is_cluster(options):
        url, kind = url.replace("+cluster", "", 1), RedisCluster
    client: Client = kind.from_url(
        url,
        socket_timeout=options.timeout,
        socket_connect_timeout=options.timeout,
        retry=Retry(NoBackoff(), 0),
        **_silent(kind),
    )
    return client


def _silent(kind: type[Redis] | type[RedisCluster]) -> dict[str, Any]:
    """Options without which redis-py tells each server its own name, and since 8 asks it to announce its maintenance.

    Servers that know nothing of that refuse: each time a round trip, and a cycle with whoever needed the connection. Where
    one does announce, calls would wait for 10 s; here whoever moves is found out as whoever fails.
    """
    known = inspect.signature(kind.__init__).parameters
    names = (
        ("driver_info",) if "driver_info" in known else ("lib_name", "lib_version")
    )  # deprecated since there is the first
    silent: dict[str, Any] = {name: None for name in names if name in known}
    if "maint_notifications_config" in known:
        from redis.maint_notifications import MaintNotificationsConfig

        silent["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)
    return silent


def _address(connection: Any) -> str:
    return f"{getattr(connection, 'host', '')}:{getattr(connection, 'port', '')}"  # a socket of the file system has neither


def watch_servers(client: Client, met: Callable[[str, str], bool]) -> None:
    """Before the first command on each new connection, tell ``met`` its address and the server process that answers there.

    Where that says no, the connection fails instead. To be called before the client is used.
    """

    async def connected(connection: Any) -> None:
        try:
            await connection.on_connect()
            await connection.send_command("INFO", "server")
            found = _RUN_ID.search(bytes(await connection.read_response()))
            if found and not met(_address(connection), found[1].decode()):
                raise RedisConnectionError("another server answers than before")
        except BaseException:
            await connection.disconnect(nowait=True)  # redis-py does so for errors of its own, not where a time is up
            raise

    if isinstance(client, RedisCluster):
        for kwargs in (client.connection_kwargs, *(node.connection_kwargs for node in client.startup_nodes)):
            kwargs["redis_connect_func"] = connected
    else:
        client.connection_pool.connection_kwargs["redis_connect_func"] = connected
