"""POST /v1/chat/completions and /v1/embeddings: the same flow, read differently."""

import asyncio

from aiohttp import HttpVersion11, web

from ..errors import InvalidRequest, Overloaded
from ..intake import Read, read_call
from ..pipeline import Pipeline
from ..reply import HTTPReply
from .exchange import Exchange
from .once import Once


async def create(
    exchange: Exchange, pipeline: Pipeline, read: Read = read_call, once: Once | None = None
) -> web.StreamResponse:
    """Run the pipeline, with ``once`` at most once per Idempotency-Key; what it raises is rendered by the server."""
    request = exchange.request
    if request.version < HttpVersion11:
        raise InvalidRequest("HTTP/1.1 is needed.", code="http_version")
    reply = HTTPReply(request, exchange.headers, exchange.limits.write_timeout, exchange.limits.ping)
    given = exchange.request.headers.get("Idempotency-Key") if once is not None else None
    try:
        if once is not None and given is not None:
            return await once.run(given, exchange, reply, lambda to: pipeline.run(exchange, to, read))
        await pipeline.run(exchange, reply, read)
    except asyncio.CancelledError:
        # The client left, and this tells nobody; or we are shutting down, and it must not look like an end.
        reply.interrupt(Overloaded("The gateway is shutting down.", code="shutting_down"))
        raise
    finally:
        reply.stop()
    assert reply.response is not None, "the pipeline replies or raises"
    return reply.response
