"""Stored completions under /v1/chat/completions: list, retrieve, update, delete, messages (checklist C-050 to C-086)."""

import time
from dataclasses import dataclass
from urllib.parse import parse_qsl

from .. import web
from ..auth import Authenticator
from ..records.stored import StoredCompletions, owner_of
from ..records.stored_shapes import Page, parse_page, parse_update
from ..reply import json_response
from ..validation import parse_json
from .exchange import Exchange
from .routes import Routes

COLLECTION = "/v1/chat/completions"
ONE = f"{COLLECTION}/{{id}}"


@dataclass(frozen=True, slots=True)
class StoredEndpoints:
    """What a caller may do with completions of its team, or of its key alone where it has no team."""

    auth: Authenticator
    store: StoredCompletions

    def add_to(self, routes: Routes) -> None:
        routes.add("GET", COLLECTION, self.index)
        routes.add("GET", ONE, self.show)
        routes.add("POST", ONE, self.update)
        routes.add("DELETE", ONE, self.delete)
        routes.add("GET", f"{ONE}/messages", self.messages)

    async def index(self, exchange: Exchange, _: str) -> web.StreamResponse:
        owner = await self._owner(exchange)
        return json_response(await self.store.list(owner, page_of(exchange)), exchange.all_headers)

    async def show(self, exchange: Exchange, completion_id: str) -> web.StreamResponse:
        owner = await self._owner(exchange)
        return json_response(await self.store.get(owner, completion_id), exchange.all_headers)

    async def update(self, exchange: Exchange, completion_id: str) -> web.StreamResponse:
        owner = await self._owner(exchange)
        metadata = parse_update(parse_json(await exchange.body()))
        return json_response(await self.store.update(owner, completion_id, metadata), exchange.all_headers)

    async def delete(self, exchange: Exchange, completion_id: str) -> web.StreamResponse:
        owner = await self._owner(exchange)
        return json_response(await self.store.delete(owner, completion_id), exchange.all_headers)

    async def messages(self, exchange: Exchange, completion_id: str) -> web.StreamResponse:
        owner = await self._owner(exchange)
        return json_response(await self.store.messages(owner, completion_id, page_of(exchange)), exchange.all_headers)

    async def _owner(self, exchange: Exchange) -> str:
        return owner_of(await self.auth.authenticate(exchange.credential, time.time()))


def page_of(exchange: Exchange) -> Page:
    return parse_page(parse_qsl(exchange.message.path.partition("?")[2], keep_blank_values=True))
