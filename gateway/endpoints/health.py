"""/healthz, /readyz and /metrics."""

import os
from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from .. import web
from ..reply import json_response
from .exchange import Exchange


async def healthz(exchange: Exchange, _: str) -> web.StreamResponse:
    """The process runs and its loop turns."""
    return json_response({"status": "ok"}, exchange.all_headers)


async def readyz(exchange: Exchange, reason: str) -> web.StreamResponse:
    """Whether to send traffic here; says why not, without naming a tenant, a provider or an address."""
    body = {"status": "not ready" if reason else "ready", "reason": reason}
    return json_response(body, exchange.all_headers, 503 if reason else 200)


async def metrics(exchange: Exchange, registry: CollectorRegistry, refresh: Callable[[], None]) -> web.StreamResponse:
    """Of this worker; of all of them together where there are several, whichever is asked."""
    refresh()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # prometheus_client has no types here
    headers = {**exchange.all_headers, "content-type": CONTENT_TYPE_LATEST}
    return web.Response(body=generate_latest(registry), headers=headers)
