"""A credential of the admin API becomes an actor: an admin key of the config file, or a virtual key with a role."""

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from ..auth import NO_KEY, incorrect
from ..errors import NoCredential, PermissionDenied
from ..records.audit import ROLE_ACTOR
from ..records.grants import Actor
from ..records.keys import KeyRecord


class Records(Protocol):
    """Where virtual keys are looked up: ``gateway.records.cache.KeyCache``."""

    async def record(self, key: str) -> KeyRecord | None: ...


class Gate:
    """Look-up by digest, as everywhere: no secret is compared character by character."""

    def __init__(
        self, keys: Mapping[str, str], records: Records | None, clock: Callable[[], float] = time.time
    ) -> None:
        """``keys`` maps names to admin keys; an empty key is none."""
        self._operators = {_digest(key): Actor(f"admin:{name}") for name, key in keys.items() if key}
        self._records = records
        self._clock = clock

    async def actor(self, credential: str | None, request_id: str) -> Actor:
        """Who acts; raises Unauthenticated, or PermissionDenied for a valid key without a role."""
        if not credential:
            raise NoCredential(NO_KEY) if credential is None else incorrect(credential)
        operator = self._operators.get(_digest(credential))
        if operator is not None:
            return replace(operator, request_id=request_id)
        record = await self._records.record(credential) if self._records is not None else None
        if record is None or not record.is_usable(self._clock()):
            raise incorrect(credential)
        return replace(actor_of(record), request_id=request_id)


def actor_of(record: KeyRecord) -> Actor:
    """A key's role reaches its organization (admin), else its team; a viewer without a team sees its organization."""
    principal = record.principal
    if record.role is None or (record.role == "team_admin" and principal.team is None):
        raise PermissionDenied("This key has no role in the admin API.")
    team = None if record.role == "admin" else principal.team
    return Actor(f"{ROLE_ACTOR}{record.id}", principal.organization, team, principal, record.expires, role=record.role)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
