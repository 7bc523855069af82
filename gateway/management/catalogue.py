"""Every operation of a gateway, those that describe it among them."""

from collections.abc import Iterable, Iterator

from ..records.admin import Admin
from ..records.audit import AuditLog
from ..records.usage import UsageStore
from . import owners
from .openapi import document
from .operation import JSON, Asked, Operation
from .owners import BASE
from .reports import Flush, Reports


def record_operations(
    admin: Admin, usage: UsageStore, audit: AuditLog, flush: Flush | None = None
) -> Iterator[Operation]:
    """Those that need nothing but the database."""
    yield from owners.operations(admin)
    yield from Reports(usage, audit, flush).operations()


def catalogue(operations: Iterable[Operation]) -> tuple[Operation, ...]:
    """The operations, with who-am-I and the OpenAPI document of all of them."""

    async def describe(_: Asked) -> JSON:
        return document(whole)  # made when asked for: a gateway must start quickly

    whole = (
        *operations,
        Operation("GET", f"{BASE}/me", "viewer", "Who calls, and in what role", me),
        Operation("GET", f"{BASE}/openapi.json", "viewer", "This API, described", describe),
    )
    return whole


async def me(asked: Asked) -> JSON:
    actor = asked.actor
    return {
        "object": "actor",
        "id": actor.id,
        "role": "operator" if actor.is_operator else actor.role,
        "organization": actor.organization,
        "team": actor.team,
    }
