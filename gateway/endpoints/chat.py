"""POST /v1/chat/completions and /v1/embeddings: the same flow, read differently."""

from collections.abc import Awaitable

from .. import web
from ..errors import InvalidRequest
from ..intake import Read, read_call
from ..pipeline import Pipeline
from .exchange import Exchange
from .once import Once
from .routes import Handler


def creating(pipeline: Pipeline, read: Read = read_call, once: Once | None = None) -> Handler:
    """A handler that runs the pipeline, with ``once`` at most once per Idempotency-Key; the server renders what it raises."""

    def create(exchange: Exchange, _: str) -> Awaitable[web.StreamResponse | None]:
        head = exchange.head
        if not head.is_1_1:
            raise InvalidRequest("HTTP/1.1 is needed.", code="http_version")
        reply = exchange.reply_here()
        if once is not None and head.idempotency_key is not None:
            return once.run(head.idempotency_key, exchange, reply, lambda to: pipeline.run(exchange, to, read))
        return pipeline.run(exchange, reply, read)

    return create
