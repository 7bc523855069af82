"""POST /v1/chat/completions and /v1/embeddings: the same flow, read differently."""

from collections.abc import Awaitable

from .. import web
from ..intake import Read, read_call
from ..pipeline import Pipeline
from .exchange import Exchange
from .once import Once
from .routes import Handler


def creating(pipeline: Pipeline, read: Read = read_call, once: Once | None = None) -> Handler:
    """A handler that runs the pipeline, with ``once`` at most once per Idempotency-Key; the server renders what it raises."""

    def create(exchange: Exchange, _: str) -> Awaitable[web.StreamResponse | None]:
        reply, key = exchange.reply_here(), exchange.head.idempotency_key
        if once is not None and key is not None:
            return once.run(key, exchange, reply, lambda to: pipeline.run(exchange, to, read))
        return pipeline.run(exchange, reply, read)

    return create
