"""A request body becomes a Call: parsed once, checked once."""

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from .answer import Chat, Embeddings
from .call import Call, Principal
from .errors import InvalidRequest
from .validation import parse_json, validate_chat, validate_embeddings

Read: TypeAlias = Callable[[str, bytes, Principal, frozenset[str]], Call]
CHAT, EMBEDDINGS = Chat(), Embeddings()
NOTHING: Mapping[str, Any] = {}


def read_call(call_id: str, body: bytes, principal: Principal, allow: frozenset[str]) -> Call:
    """Parse and validate; raises InvalidRequest in OpenAI's words."""
    request = parse_json(body)
    validate_chat(request, allow=allow)
    if principal.restricted_params:
        _check_restrictions(request, principal)
    given = request.get
    stream = given("stream") is True
    options: Mapping[str, Any] = (given("stream_options") if stream else None) or NOTHING
    return Call(
        id=call_id,
        request=request,
        size=len(body),
        created=int(time.time()),
        model=request["model"],
        stream=stream,
        include_usage=options.get("include_usage") is True,
        obfuscation=options.get("include_obfuscation") is not False,
        store=given("store") is True,
        n=given("n") or 1,
        operation=CHAT,
    )


def read_embeddings(call_id: str, body: bytes, principal: Principal, allow: frozenset[str]) -> Call:
    """Parse and validate a request for embeddings; raises InvalidRequest in OpenAI's words."""
    request = parse_json(body)
    validate_embeddings(request, allow=allow)
    _check_restrictions(request, principal)
    return Call(
        id=call_id,
        request=request,
        size=len(body),
        created=int(time.time()),
        model=request["model"],
        operation=EMBEDDINGS,
    )


def _check_restrictions(request: Mapping[str, Any], principal: Principal) -> None:
    for name in principal.restricted_params:
        if request.get(name) is not None:
            raise InvalidRequest(
                f"Unsupported parameter: '{name}' is not allowed for this API key.",
                param=name,
                code="unsupported_parameter",
            )
