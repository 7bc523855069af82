"""The few fixtures that most tests share."""

from collections.abc import Iterator

import pytest

from .servers import RedisServer


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One Redis for the session; a test that needs it empty calls FLUSHALL first."""
    server = RedisServer()
    yield server
    server.stop()
