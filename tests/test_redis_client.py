"""How redis-py is imported, and what clients are made of it."""

import subprocess
import sys

import pytest

from config.schema import Redis as Options
from gateway.redis_client import Redis, RedisCluster, connect

USERS = "gateway.limits.store, gateway.records.idempotency_redis"


def test_redis_brings_no_metrics_of_opentelemetry_along() -> None:
    """They would cost every worker 3 MB; whoever wants them later gets them."""
    pytest.importorskip("opentelemetry.sdk.metrics")
    program = (
        f"import sys; before = set(sys.modules); import {USERS}; "
        "new = {name for name in sys.modules.keys() - before if name.startswith('opentelemetry')}; "
        "assert not new, new; "
        "import redis.observability.metrics as own; assert not own.OTEL_AVAILABLE; "
        "import opentelemetry.metrics, opentelemetry.sdk.metrics"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize(
    ("url", "kind", "port"),
    [
        ("redis://127.0.0.1:1234/3", Redis, 1234),
        ("rediss://127.0.0.1:1234", Redis, 1234),
        ("redis+cluster://127.0.0.1:1234", RedisCluster, 1234),
        ("rediss+cluster://127.0.0.1:1234", RedisCluster, 1234),
        ("redis://user:a+cluster@127.0.0.1:1234", Redis, 1234),
    ],
)
async def test_the_url_says_whether_it_is_a_cluster(url: str, kind: type, port: int) -> None:
    client = connect(Options.model_validate({"url": url, "timeout": 0.25}))
    assert type(client) is kind
    settings = (
        client.connection_kwargs if isinstance(client, RedisCluster) else client.connection_pool.connection_kwargs
    )
    assert settings["socket_timeout"] == 0.25
    if isinstance(client, Redis):
        assert settings["port"] == port
        assert settings.get("password") == ("a+cluster" if "@" in url else None)
    await client.aclose()
