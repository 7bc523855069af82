"""POST /v1/chat/completions and /v1/embeddings: the same flow, read differently."""

from collections.abc import Awaitable

from aiohttp import web

from ..errors import InvalidRequest
from ..intake import Read, read_call
from ..pipeline import Pipeline
from .exchange import Exchange
from .once import Once


def create(
    exchange: Exchange, pipeline: Pipeline, read: Read = read_call, once: Once | None = None
) -> Awaitable[web.StreamResponse | None]:
    """Run the pipeline, with ``once`` at most once per Idempotency-Key; what it raises is rendered by the server."""
    if not exchange.head.is_1_1:
        raise InvalidRequest("HTTP/1.1 is needed.", code="http_version")
    reply = exchange.reply_here()
    if once is not None and (given := exchange.head.idempotency_key) is not None:
        return once.run(given, exchange, reply, lambda to: pipeline.run(exchange, to, read))
    return pipeline.run(exchange, reply, read)
