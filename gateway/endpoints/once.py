"""A POST with an Idempotency-Key: one upstream call, and the same answer again for whoever repeats it."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping

import orjson

from .. import web
from ..auth import Authenticator
from ..errors import GatewayError, StoreUnavailable
from ..records.idempotency import Fresh, IdempotencyStore, Replay, checked_key, fingerprint_of, is_kept, slot_of
from ..reply import JSON_HEADERS, SSE_HEADERS, Reply
from .exchange import Exchange

log = logging.getLogger(__name__)

_KEPT_HEADERS = "x-sluice-"
"""What a header begins with that holds for the repetition too; limits do not."""
_STREAM = "stream"
"""Marks, among the headers of what is kept, an answer that was streamed."""


class Once:
    """One per worker. ``max_replay`` is in bytes: a longer answer is not kept, and its repetition is a new call."""

    def __init__(self, auth: Authenticator, store: IdempotencyStore, secret: bytes, max_replay: int) -> None:
        self._auth = auth
        self._store = store
        self._secret = secret
        self._max_replay = max_replay
        self._abandoning: set[asyncio.Task[None]] = set()

    async def run(
        self, given: str, exchange: Exchange, reply: Reply, work: Callable[[Reply], Awaitable[None]]
    ) -> web.StreamResponse | None:
        """Do ``work``, or give what it sent before; raises IdempotencyInFlight (409), IdempotencyMismatch (422)."""
        principal = await self._auth.authenticate(exchange.credential, time.time())
        body = await exchange.body()
        caller = orjson.dumps([principal.organization, principal.key_id, principal.user]).decode()
        route = exchange.message.path.partition("?")[0]
        slot = slot_of(self._secret, caller, route, checked_key(given), principal.organization)
        held = await self._store.begin(slot, fingerprint_of(self._secret, body))
        if not isinstance(held, Fresh):
            return _replayed(held, exchange)
        recorder = Recorder(reply, self._store, held, self._max_replay)
        try:
            await work(recorder)
        except GatewayError as error:
            if is_kept(error.status):
                await keep(self._store, held, Replay(error.status, {}, orjson.dumps(error.to_openai())))
            else:
                self._abandon(held)
            raise
        except BaseException:
            if not recorder.kept:
                self._abandon(held)
            raise
        return None

    def _abandon(self, fresh: Fresh) -> None:
        """Free the slot, also while this task is being cancelled."""
        task = asyncio.create_task(_quietly(self._store.abandon(fresh)))
        self._abandoning.add(task)
        task.add_done_callback(self._abandoning.discard)


class Recorder:
    """A reply that keeps what it sends, before the client has the last byte of it."""

    def __init__(self, reply: Reply, store: IdempotencyStore, fresh: Fresh, most: int) -> None:
        self.kept = False
        self._reply = reply
        self._store = store
        self._fresh = fresh
        self._most = most
        self._headers: dict[str, str] = {}
        self._pieces: list[bytes] = []
        self._size = 0

    async def whole(self, body: bytes, headers: Mapping[str, str]) -> None:
        await self._keep(Replay(200, _lasting(headers), body))
        await self._reply.whole(body, headers)

    async def start(self, headers: Mapping[str, str]) -> None:
        self._headers = {**_lasting(headers), _STREAM: "true"}
        await self._reply.start(headers)

    def push(self, data: bytes) -> bool:
        self._note(data)
        return self._reply.push(data)

    async def drained(self) -> None:
        await self._reply.drained()

    async def send(self, data: bytes) -> None:
        self._note(data)
        await self._reply.send(data)

    async def finish(self, data: bytes) -> None:
        self._note(data)
        await self._keep(Replay(200, self._headers, b"".join(self._pieces)))
        await self._reply.finish(data)

    async def fail(self, error: GatewayError) -> None:
        await self._reply.fail(error)

    def _note(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= self._most:
            self._pieces.append(data)
        else:
            self._pieces.clear()

    async def _keep(self, answer: Replay) -> None:
        if self._size <= self._most:
            await keep(self._store, self._fresh, answer)
        else:
            await _quietly(self._store.abandon(self._fresh))
        self.kept = True


async def keep(store: IdempotencyStore, fresh: Fresh, answer: Replay) -> None:
    """Keep an answer. A store that is down costs the replay, never the answer itself."""
    await _quietly(store.finish(fresh, answer))


async def _quietly(call: Awaitable[object]) -> None:
    try:
        await call
    except StoreUnavailable:
        log.warning("an answer could not be kept for its Idempotency-Key")


def _lasting(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.startswith(_KEPT_HEADERS)}


def _replayed(answer: Replay, exchange: Exchange) -> web.Response:
    kept = dict(answer.headers)
    kind = SSE_HEADERS if kept.pop(_STREAM, None) else JSON_HEADERS
    headers = {**exchange.all_headers, **kind, **kept, "idempotent-replayed": "true"}
    return web.Response(status=answer.status, body=answer.body, headers=headers)
