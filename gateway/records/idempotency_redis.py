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
from .idempotency import MAX_TOTAL, Fresh, Outcome, Replay, in_flight, mismatch

LEASE_SECONDS = 15.0
_RENEWALS = 3
"""In a lease: two may fail."""

_AROUND = 512
"""Bytes of one besides its value: its slot in the hash and in the list (measured: 0.3 KB)."""
_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""
_STAMP = 15
"""Digits of a time in ms, in front of an answer."""

_BEGIN = (
    _NOW
    + f"""
local held = redis.call('HGET', KEYS[2], ARGV[1])
if held and tonumber(string.sub(held, 1, {_STAMP})) > now then return string.sub(held, {_STAMP + 1}) end
if redis.call('SET', KEYS[1], ARGV[2], 'NX', 'PX', ARGV[3]) then return '' end
return redis.call('GET', KEYS[1])
"""
)

_FREE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""
"""Compare and delete: a claim is given up only by who made it."""

_FINISH = (
    _NOW
    + f"""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local slot, most, ttl = ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])
local function taken(of)
  local length = redis.call('HSTRLEN', KEYS[2], of)
  return length > 0 and length + {_AROUND} or 0
end
local stamp = string.format('%0{_STAMP}.0f', now + ttl)
redis.call('RPUSH', KEYS[3], stamp .. slot)
local before = redis.call('HGET', KEYS[2], slot)
if before then redis.call('LREM', KEYS[3], 1, string.sub(before, 1, {_STAMP}) .. slot) end -- its turn to go is over
local total = (tonumber(redis.call('HGET', KEYS[2], '') or '0') or 0) - taken(slot)
redis.call('HSET', KEYS[2], slot, stamp .. ARGV[3])
total = total + taken(slot)
while true do
  local first = redis.call('LINDEX', KEYS[3], 0)
  if not first then redis.call('DEL', KEYS[2]) total = 0 break end
  if total <= most and tonumber(string.sub(first, 1, {_STAMP})) > now then break end
  redis.call('LPOP', KEYS[3])
  local old = string.sub(first, {_STAMP + 1})
  total = total - taken(old)
  redis.call('HDEL', KEYS[2], old)
end
redis.call('HSET', KEYS[2], '', string.format('%.0f', total))
redis.call('PEXPIRE', KEYS[2], ttl)
redis.call('PEXPIRE', KEYS[3], ttl)
redis.call('DEL', KEYS[1])
return 1
"""
)
"""Compare and set: an answer only replaces the claim it was made under. The oldest give way to it.

A full Redis refuses the first write of a script and no later one: that is the one which needs room.
"""

_RENEW = """
if redis.call('GET', KEYS[1]) == ARGV[2] then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
"""


class RedisIdempotency:
    """For many workers: a claim is SET NX with an expiry. Fails closed with StoreUnavailable while Redis is away.

    ``max_total`` bounds the bytes that are kept for each organization.
    ``client`` must not decode replies; its time-outs bound every call.
    """

    def __init__(
        self,
        client: Any,
        *,
        ttl: float = 86_400,
        lease: float = LEASE_SECONDS,
        max_replay: int = 1024 * 1024,
        max_total: int = MAX_TOTAL,
        prefix: str = "sluice:idem:",
    ) -> None:
        self._client = client
        self._ttl, self._lease, self._max_replay = int(ttl * 1000), int(lease * 1000), max_replay
        self._max_total = max_total
        self._prefix = prefix
        self._begin = client.register_script(_BEGIN)
        self._free = client.register_script(_FREE)
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
        keys = self._keys(slot)[:2]
        held = await _reached(self._begin(keys=keys, args=[slot, _claim(fresh), self._lease]))
        if held:
            return _read(held, fingerprint)
        self._hold(fresh)
        return fresh

    async def finish(self, fresh: Fresh, answer: Replay) -> bool:
        value = bytes(msgpack.packb([b"d", fresh.fingerprint, answer.status, dict(answer.headers), answer.body]))
        if len(answer.body) > self._max_replay or len(value) + _STAMP + _AROUND > self._max_total:
            await self.abandon(fresh)
            return False
        self._let_go(fresh)
        args = [_claim(fresh), fresh.slot, value, self._max_total, self._ttl]
        return bool(await _reached(self._finish(keys=self._keys(fresh.slot), args=args)))

    async def abandon(self, fresh: Fresh) -> None:
        self._let_go(fresh)
        await _reached(self._free(keys=self._keys(fresh.slot)[:1], args=[_claim(fresh)]))

    def _keys(self, slot: str) -> list[str]:
        """Of the claim, of the answers of its organization, and of their order."""
        scope, _, _ = slot.partition(":")
        return [f"{self._prefix}{{{scope}}}:{name}" for name in (slot, "answers", "order")]

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
                    await _reached(self._renew(keys=self._keys(slot)[:1], args=[self._lease, claim]))

    def _let_go(self, fresh: Fresh) -> None:
        if self._claims.get(fresh.slot) == _claim(fresh):  # else its place was lost, and is another's by now
            del self._claims[fresh.slot]


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
