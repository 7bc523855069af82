"""
A repeated Idempotency-Key gets the answer the first request got; the first one in flight makes the second wait its turn.

    begin()   -> Fresh: do the work, then finish() or abandon()
              -> Replay: send this
              raises IdempotencyInFlight (409) or IdempotencyMismatch (422: same key, another body)

A key belongs to one caller and one route. What is kept of the request is an HMAC under a secret of the process's owner, so
that a dump of the store tells neither prompts nor keys.
"""

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from ..errors import IdempotencyInFlight, IdempotencyMismatch, InvalidRequest

MAX_KEY = 255
MAX_TOTAL = 64 * 1024 * 1024
"""Bytes of answers kept, in memory or of each organization in Redis; the oldest go first."""
_AROUND = 1024
"""Bytes of one besides its body: its slot, fingerprint, headers and their objects (measured: 0.7 KB without headers)."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """Nobody has sent this before: the right to answer it."""

    slot: str
    token: str
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Replay:
    """The answer the first request got."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


Outcome: TypeAlias = Fresh | Replay


class IdempotencyStore(Protocol):
    """``slot`` and ``fingerprint`` are made by ``slot_of`` and ``fingerprint_of``."""

    async def begin(self, slot: str, fingerprint: bytes) -> Outcome: ...

    async def finish(self, fresh: Fresh, answer: Replay) -> bool:
        """Keep the answer; False when it is too large or its place was lost, and then the slot is free again."""
        ...

    async def abandon(self, fresh: Fresh) -> None:
        """Free the slot: the next request with this key is a first one again."""
        ...


def checked_key(value: str) -> str:
    """The header's value; raises InvalidRequest for one that is empty, too long or not printable ASCII."""
    if not 1 <= len(value) <= MAX_KEY or not value.isascii() or not value.isprintable():
        raise InvalidRequest(
            f"Invalid 'Idempotency-Key': 1 to {MAX_KEY} printable ASCII characters.", param="Idempotency-Key"
        )
    return value


def slot_of(secret: bytes, key_id: str, route: str, idempotency_key: str, organization: str = "") -> str:
    """Where the answer is kept: of this caller and this route alone (S-45), counted with those of its organization.

    It is two words with a colon between them; the first is the same for all of the organization.
    """
    parts = b"".join(len(p).to_bytes(4, "big") + p for p in (s.encode() for s in (key_id, route, idempotency_key)))
    scope = hmac.digest(secret, b"organization " + organization.encode(), "sha256").hex()[:16]
    return f"{scope}:{hmac.digest(secret, parts, 'sha256').hex()}"


def fingerprint_of(secret: bytes, body: bytes) -> bytes:
    return hmac.digest(secret, body, "sha256")


def is_kept(status: int) -> bool:
    """Successes, and refusals that would be the same again; everything else may be tried once more."""
    return 200 <= status < 300 or (400 <= status < 500 and status not in (401, 403, 404, 408, 409, 425, 429, 499))


def mismatch() -> IdempotencyMismatch:
    return IdempotencyMismatch("This Idempotency-Key was used with another request body.", param="Idempotency-Key")


def in_flight() -> IdempotencyInFlight:
    return IdempotencyInFlight(
        "A request with this Idempotency-Key is still running.", param="Idempotency-Key", retry_after=1.0
    )


@dataclass(slots=True)
class _Held:
    token: str
    fingerprint: bytes
    until: float
    answer: Replay | None = None


class MemoryIdempotency:
    """For one worker. ``ttl`` and ``lease`` are in seconds: of an answer, and of a request that never ends."""

    def __init__(
        self,
        *,
        ttl: float = 86_400,
        lease: float = 1_900,
        max_replay: int = 1024 * 1024,
        max_total: int = MAX_TOTAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ttl, self._lease, self._max_replay, self._max_total = ttl, lease, max_replay, max_total
        self._clock = clock
        self._running: dict[str, _Held] = {}
        self._answered: OrderedDict[str, _Held] = OrderedDict()
        self._bytes = 0

    async def begin(self, slot: str, fingerprint: bytes) -> Outcome:
        now = self._clock()
        self._expire(now)
        held = self._answered.get(slot) or self._running.get(slot)
        if held is None or now >= held.until:
            fresh = Fresh(slot, secrets.token_hex(8), fingerprint)
            self._running[slot] = _Held(fresh.token, fingerprint, now + self._lease)
            return fresh
        if not hmac.compare_digest(held.fingerprint, fingerprint):
            raise mismatch()
        if held.answer is None:
            raise in_flight()
        return held.answer

    async def finish(self, fresh: Fresh, answer: Replay) -> bool:
        held = self._running.get(fresh.slot)
        if held is None or held.token != fresh.token:
            return False
        del self._running[fresh.slot]
        if len(answer.body) > self._max_replay or _size(answer) > self._max_total:
            return False
        held.answer, held.until = answer, self._clock() + self._ttl
        self._answered[fresh.slot] = held
        self._bytes += _size(answer)
        while self._bytes > self._max_total:
            self._drop_oldest()
        return True

    async def abandon(self, fresh: Fresh) -> None:
        held = self._running.get(fresh.slot)
        if held is not None and held.token == fresh.token:
            del self._running[fresh.slot]

    def _expire(self, now: float) -> None:
        while self._answered and next(iter(self._answered.values())).until <= now:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, held = self._answered.popitem(last=False)
        self._bytes -= _size(held.answer) if held.answer is not None else 0


def _size(answer: Replay) -> int:
    """Bytes that a kept answer takes, with what is around it: most are short."""
    return len(answer.body) + _AROUND


def secret_of(pepper: str | None) -> bytes:
    """The secret of slots and fingerprints: made from the pepper, so that workers agree; else of this process alone."""
    return hashlib.sha256(b"sluice idempotency " + pepper.encode()).digest() if pepper else secrets.token_bytes(32)
