"""Which messages have been told, by all workers and replicas together: each is told once, as long as Redis answers.

Whoever tells one has it for a while, again for each attempt. The others wait until it is told, or until whoever had it is
dead: a message may be told twice, and is never lost between two of them.
"""

import asyncio
import secrets
from collections.abc import Awaitable
from typing import Any

from config.schema import Redis

from ..redis_client import RedisError, connect

HELD = 90.0
"""Seconds: longer than an attempt and the pause before it."""
REMEMBERED = 40 * 86_400
"""Seconds: longer than a month, of which a budget's threshold is told once."""
LOOK_SECONDS = 0.5

_TAKE = """
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return held end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
"""
_TOLD = b"told"


class Told:
    """One per worker. ``held`` is in seconds. While Redis is away, everybody tells."""

    def __init__(self, config: Redis, *, held: float = HELD, prefix: str = "sluice:told:") -> None:
        self._client = connect(config)
        self._take = self._client.register_script(_TAKE)
        self._me = secrets.token_hex(8).encode()
        self._held = int(held * 1000)
        self._prefix = prefix

    async def take(self, name: str) -> bool:
        """Whether it is ours to tell. Waits while another one is telling it; False once it is told."""
        while True:
            holder = await _reached(self._take(keys=[self._prefix + name], args=[self._me, self._held]))
            if holder is None or holder == self._me:
                return True
            if holder == _TOLD:
                return False
            await asyncio.sleep(LOOK_SECONDS)

    async def note(self, name: str) -> None:
        """It is told, or nobody takes it: the others need not try."""
        await _reached(self._client.set(self._prefix + name, _TOLD, ex=REMEMBERED))

    async def close(self) -> None:
        await self._client.aclose()


async def _reached(call: Awaitable[Any]) -> Any:
    """What Redis says; None where it is away."""
    try:
        return await call
    except (RedisError, OSError, TimeoutError):
        return None
