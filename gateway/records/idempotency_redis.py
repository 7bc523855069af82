"""
Answers kept for a repeated Idempotency-Key by many workers together, in Redis.

A claim lasts for seconds and is renewed while its request runs: when a worker dies, the client that tries again, which is
what the key is for, is told to wait no longer than that.
"""

import asyncio
import contextlib
import hmac
import secrets
from collections.abc import Awaitable
from typing import Any

import msgpack

from ..errors import StoreUnavailable
from ..redis_client import RedisError
from .idempotency import Fresh, Outcome, Replay, in_flight, mismatch

LEASE_SECONDS = 15.0
_RENEWALS = 3
"""In a lease: two may fail."""

_FINISH = """
local held = redis.call('GET', KEYS[1])
if held ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1
"""
"""Compare and set: an answer only replaces the claim it was made under."""

_RENEW = """
if redis.call('GET', KEYS[1]) == ARGV[2] then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
"""


class RedisIdempotency:
    """For many workers: a claim is SET NX with an expiry. Fails closed with StoreUnavailable while Redis is away.

    ``client`` must not decode replies; its time-outs bound every call.
    """

    def __init__(
        self,
        client: Any,
        *,
        ttl: float = 86_400,
        lease: float = LEASE_SECONDS,
        max_replay: int = 1024 * 1024,
        prefix: str = "sluice:idem:",
    ) -> None:
        self._client = client
        self._ttl, self._lease, self._max_replay = int(ttl * 1000), int(lease * 1000), max_replay
        self._prefix = prefix
        self._finish = client.register_script(_FINISH)
        self._renew = client.register_script(_RENEW)
        self._claims: dict[str, bytes] = {}
        self._renewing: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Renew no more, and close the client."""
        self._claims.clear()  # redis-py can swallow a cancellation that meets a reply
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        await self._client.aclose()

    async def begin(self, slot: str, fingerprint: bytes) -> Outcome:
        fresh = Fresh(slot, secrets.token_hex(8), fingerprint)
        # The holder's entry may expire between the two commands: then the claim is tried once more.
        for _ in range(2):
            if await _reached(self._client.set(self._prefix + slot, _claim(fresh), nx=True, px=self._lease)):
                self._hold(fresh)
                return fresh
            if (held := await _reached(self._client.get(self._prefix + slot))) is not None:
                return _read(held, fingerprint)
        raise in_flight()

    async def finish(self, fresh: Fresh, answer: Replay) -> bool:
        fits = len(answer.body) <= self._max_replay
        content = [b"d", fresh.fingerprint, answer.status, dict(answer.headers), answer.body]
        return await self._replace(fresh, msgpack.packb(content) if fits else b"") and fits

    async def abandon(self, fresh: Fresh) -> None:
        await self._replace(fresh, b"")

    def _hold(self, fresh: Fresh) -> None:
        self._claims[fresh.slot] = _claim(fresh)
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.get_running_loop().create_task(self._renew_claims())

    async def _renew_claims(self) -> None:
        """For as long as there are any. What is lost while Redis is away is found out at the end of its request."""
        while self._claims:
            await asyncio.sleep(self._lease / 1000 / _RENEWALS)
            for slot, claim in list(self._claims.items()):  # one by one: in a cluster they are on different nodes
                with contextlib.suppress(StoreUnavailable):
                    await _reached(self._renew(keys=[self._prefix + slot], args=[self._lease, claim]))

    async def _replace(self, fresh: Fresh, value: bytes) -> bool:
        if self._claims.get(fresh.slot) == _claim(fresh):  # else its place was lost, and is another's by now
            del self._claims[fresh.slot]
        call = self._finish(keys=[self._prefix + fresh.slot], args=[_claim(fresh), value, self._ttl])
        return bool(await _reached(call))


def _claim(fresh: Fresh) -> bytes:
    return bytes(msgpack.packb([b"f", fresh.fingerprint, fresh.token]))


def _read(held: bytes, fingerprint: bytes) -> Replay:
    state, theirs, *rest = msgpack.unpackb(held)
    if not hmac.compare_digest(theirs, fingerprint):
        raise mismatch()
    if state == b"f":
        raise in_flight()
    return Replay(*rest)


async def _reached(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreUnavailable("The idempotency store does not answer.", code="idempotency_unavailable") from error
