"""GET /v1/models and /v1/models/{id}: what the key may use, without any limit or cost."""

import time
from typing import Any

from .. import web
from ..auth import Authenticator
from ..call import Route
from ..errors import ModelNotFound
from ..reply import json_response
from ..routing import Router
from .exchange import Exchange

STARTED = int(time.time())
"""``created`` of every model: a provider's own dates are not known."""


async def index(exchange: Exchange, auth: Authenticator, router: Router) -> web.StreamResponse:
    principal = await auth.authenticate(exchange.credential, time.time())
    data = [describe(route) for route in router.visible(principal)]
    return json_response({"object": "list", "data": data}, exchange.all_headers)


async def show(exchange: Exchange, name: str, auth: Authenticator, router: Router) -> web.StreamResponse:
    principal = await auth.authenticate(exchange.credential, time.time())
    try:
        route = router.resolve(name, principal)
    except ModelNotFound:
        raise ModelNotFound(f"The model '{name[:200]}' does not exist", param="model") from None
    return json_response({**describe(route), "id": name}, exchange.all_headers)


def describe(route: Route) -> dict[str, Any]:
    return {"id": route.name, "object": "model", "created": STARTED, "owned_by": route.config.owned_by}
