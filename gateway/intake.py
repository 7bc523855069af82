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


def read_call(call_id: str, body: bytes, principal: Principal, allow: frozenset[str]) -> Call:
    """Parse and validate; raises InvalidRequest in OpenAI's words."""
    request = _read(body, principal, validate_chat, allow)
    options: Mapping[str, Any] = request.get("stream_options") or {}
    stream = request.get("stream") is True
    return Call(
        id=call_id,
        request=request,
        size=len(body),
        created=int(time.time()),
        model=request["model"],
        stream=stream,
        include_usage=stream and options.get("include_usage") is True,
        obfuscation=options.get("include_obfuscation") is not False,
        store=request.get("store") is True,
        n=request.get("n") or 1,
        operation=CHAT,
    )


def read_embeddings(call_id: str, body: bytes, principal: Principal, allow: frozenset[str]) -> Call:
    """Parse and validate a request for embeddings; raises InvalidRequest in OpenAI's words."""
    request = _read(body, principal, validate_embeddings, allow)
    return Call(
        id=call_id,
        request=request,
        size=len(body),
        created=int(time.time()),
        model=request["model"],
        operation=EMBEDDINGS,
    )


def _read(body: bytes, principal: Principal, validate: Callable[..., None], allow: frozenset[str]) -> dict[str, Any]:
    request = parse_json(body)
    validate(request, allow=allow)
    _check_restrictions(request, principal)
    return request


def _check_restrictions(request: Mapping[str, Any], principal: Principal) -> None:
    for name in principal.restricted_params:
        if request.get(name) is not None:
            raise InvalidRequest(
                f"Unsupported parameter: '{name}' is not allowed for this API key.",
                param=name,
                code="unsupported_parameter",
            )
