"""/healthz, /readyz and /metrics."""

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from ..reply import json_response
from .exchange import Exchange


async def healthz(exchange: Exchange, _: str) -> web.StreamResponse:
    """The process runs and its loop turns."""
    return json_response({"status": "ok"}, exchange.headers)


async def readyz(exchange: Exchange, ready: bool, reason: str) -> web.StreamResponse:
    """Whether to send traffic here; says why not, without naming a tenant, a provider or an address."""
    body = {"status": "ready" if ready else "not ready", "reason": reason}
    return json_response(body, exchange.headers, 200 if ready else 503)


async def metrics(exchange: Exchange, registry: CollectorRegistry) -> web.StreamResponse:
    headers = {**exchange.headers, "content-type": CONTENT_TYPE_LATEST}
    return web.Response(body=generate_latest(registry), headers=headers)
