"""redis-py as it is used here. Nobody else imports it, and only a configuration with Redis imports this."""

import contextlib
import sys
from collections.abc import Iterator
from typing import TypeAlias

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
]

Client: TypeAlias = "Redis | RedisCluster"
_CLUSTER = ("redis+cluster://", "rediss+cluster://")


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
    )
    return client
