"""/admin/v1: the operations of operators over HTTP."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import orjson

from .. import web
from ..errors import ClientDisconnected, InvalidRequest, PermissionDenied, StoreUnavailable
from ..management.operation import Asked, Download, Operation
from ..management.roles import Gate
from ..records.audit import AuditLog
from ..records.grants import Actor
from ..records.idempotency import Fresh, IdempotencyStore, Replay, checked_key, fingerprint_of, slot_of
from ..reply import JSON_HEADERS
from ..throttle import Failures
from ..validation import parse_json
from .exchange import Exchange
from .routes import Handler, Routes

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AdminEndpoints:
    """Authenticates, checks the role, runs. Every route is an operation, and every operation declares its role.

    ``replays`` keep answers of POSTs for a repeated Idempotency-Key; they hold new secrets, so it must be memory.
    """

    gate: Gate
    failures: Failures
    replays: IdempotencyStore
    secret: bytes
    audit: AuditLog

    def add_to(self, routes: Routes, operations: Iterable[Operation]) -> None:
        for operation in operations:
            routes.add(operation.method, operation.path, self.handler(operation))

    def handler(self, operation: Operation) -> Handler:
        async def handle(exchange: Exchange, identity: str) -> web.StreamResponse:
            return await self._answer(operation, exchange, identity)

        return handle

    async def actor(self, exchange: Exchange) -> Actor:
        """Who acts; raises PermissionDenied for browsers, LimitExceeded, Unauthenticated."""
        if "Origin" in exchange.given:
            raise PermissionDenied("The admin API is not for browsers: requests with an Origin are refused.")
        self.failures.check(exchange.address)
        return await self.gate.actor(exchange.credential, exchange.id)

    async def _answer(self, operation: Operation, exchange: Exchange, identity: str) -> web.StreamResponse:
        actor = await self.actor(exchange)
        try:
            operation.allow(actor)
        except PermissionDenied as error:
            if operation.method != "GET":  # a dashboard may ask for what it must not see, again and again
                await self._note(operation, actor, identity, error)
            raise
        raw, body = b"", None
        if operation.body is None:
            await _refuse_body(operation, exchange)
        else:
            raw = await exchange.body()
            body = parse_json(raw)
        asked = Asked(actor, identity, _query(exchange), body)
        given = exchange.given.get("Idempotency-Key") if operation.method == "POST" else None
        if given is not None:
            return _response(await self._once(operation, asked, exchange, checked_key(given), raw), exchange)
        done = await operation.run(asked)
        if isinstance(done, Download):
            return await _download(done, exchange)
        return _response(Replay(operation.status, {}, orjson.dumps(done)), exchange)

    async def _note(self, operation: Operation, actor: Actor, identity: str, refusal: PermissionDenied) -> None:
        """A change that a role is not for is in the audit log, as one is that it may not make to somebody."""
        action = f"{operation.method} {operation.path}"
        try:
            await self.audit.record(
                actor=actor.id, action=action, target=identity, request_id=actor.request_id, result=refusal.label
            )
        except StoreUnavailable:
            log.warning("a refused operation could not be written to the audit log")

    async def _once(self, operation: Operation, asked: Asked, exchange: Exchange, key: str, raw: bytes) -> Replay:
        """Run a POST, or give the answer that it had before. What was refused may be tried again."""
        slot = slot_of(self.secret, asked.actor.id, exchange.message.path, key)
        held = await self.replays.begin(slot, fingerprint_of(self.secret, raw))
        if not isinstance(held, Fresh):
            return Replay(held.status, {"idempotent-replayed": "true"}, held.body)
        try:
            done = await operation.run(asked)
        except BaseException:
            await self.replays.abandon(held)
            raise
        answer = Replay(operation.status, {}, orjson.dumps(done))
        await self.replays.finish(held, answer)
        return answer


async def _refuse_body(operation: Operation, exchange: Exchange) -> None:
    """What would change something does not leave aside what it was told: an `overlap` in the body is no overlap."""
    given = exchange.given
    if operation.method == "GET" or (given.get("Content-Length", "0") == "0" and "Transfer-Encoding" not in given):
        return
    if (await exchange.body()).strip() not in (b"", b"{}", b"null"):
        known = f"query parameters: {', '.join(operation.query)}" if operation.query else "no options"
        raise InvalidRequest(f"{operation.method} {operation.path} takes no body; it has {known}.")


def _query(exchange: Exchange) -> dict[str, str]:
    pairs = parse_qsl(exchange.message.path.partition("?")[2], keep_blank_values=True)
    query = dict(pairs)
    if len(query) != len(pairs):
        raise InvalidRequest("A query parameter is given twice.")
    return query


def _response(answer: Replay, exchange: Exchange) -> web.Response:
    headers: dict[str, Any] = {**exchange.all_headers, **JSON_HEADERS, **answer.headers}
    return web.Response(status=answer.status, body=answer.body, headers=headers)


async def _download(done: Download, exchange: Exchange) -> web.StreamResponse:
    """Piece by piece. What fails on the way breaks the connection, so that half a file does not look whole."""
    headers = {**exchange.all_headers, **JSON_HEADERS, "content-type": done.content_type}
    response = web.StreamResponse(headers=headers)
    first = await anext(done.pieces, b"")
    try:
        await response.prepare(exchange.request)
        await response.write(first)
        async for piece in done.pieces:
            await response.write(piece)
        await response.write_eof()
    except ConnectionError as exc:
        raise ClientDisconnected from exc
    except BaseException:
        if exchange.client.out is not None:
            exchange.client.out.close()
        raise
    return response
