"""Embeddings of OpenAI-shaped providers."""

from collections.abc import Mapping
from typing import Any

from ..classify import embedded_error
from ..errors import ErrorKind, ProviderError
from ..interface import JSON, Answer, Target, UpstreamRequest
from ..jsonio import dumps, loads
from ..usage import Usage, count
from .request import headers

_SENT = ("input", "dimensions", "user")


def prepare_embeddings(request: Mapping[str, Any], target: Target, *, packs: bool) -> UpstreamRequest:
    """Translate. Where the provider ``packs`` embeddings the client's format is asked for, else floats.

    As text they take five times as much, at OpenAI 96 MB for a thousand of its longest: more than any answer may have.
    """
    packed = packs and request.get("encoding_format") == "base64"
    body: JSON = {name: request[name] for name in _SENT if request.get(name) is not None}
    body |= {"model": target.model, "encoding_format": "base64" if packed else "float"}
    body |= {name: request[name] for name in target.allow if request.get(name) is not None}
    return UpstreamRequest(f"{target.base_url}/embeddings", headers(target, target.options), dumps(body))


def parse_embeddings(body: bytes) -> Answer:
    """Read; raises ProviderError for what is no list of embeddings."""
    loose = loads(body)
    if isinstance(loose, dict) and loose.get("error"):
        raise embedded_error(loose["error"])
    data = loose.get("data") if isinstance(loose, dict) else None
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        raise ProviderError(ErrorKind.PROTOCOL, "The upstream's answer is not a list of embeddings.")
    rows = [
        {"object": "embedding", "index": at, "embedding": _told(item.get("embedding"))}
        for at, item in enumerate(sorted(data, key=lambda item: item.get("index") or 0))
    ]
    given = loose.get("usage") or {}
    tokens = count(given, "prompt_tokens") or count(given, "total_tokens")
    completion = {
        "object": "list",
        "data": rows,
        "model": loose.get("model") or "",
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return Answer(completion, Usage(input=tokens) if tokens else None)


def _told(value: Any) -> list[float] | str:
    if not isinstance(value, list | str):
        raise ProviderError(ErrorKind.PROTOCOL, "The upstream sent an embedding that is not a list of numbers.")
    return value
