"""The configuration as it may be shown: every default filled in, every secret masked."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel

from adapters import registry
from config.schema import Config

MASK = "**********"


def effective(config: Config) -> dict[str, Any]:
    """Plain values, ready for JSON or YAML."""
    shown: dict[str, Any] = json.loads(config.model_dump_json())  # SecretStr dumps as asterisks
    for name, provider in config.providers.items():
        shown["providers"][name]["options"] = _options(provider.adapter, provider.options)
    tracing, jwt = shown["tracing"], shown["auth"]["jwt"]
    for owner, option in ((tracing, "endpoint"), (tracing["langfuse"], "host"), (jwt, "jwks_url")):
        if owner is not None and owner[option] is not None:
            owner[option] = _address(owner[option])
    return shown


def _address(url: str) -> str:
    """Without what may be a credential in it: user and password, and the query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return MASK
    user, at, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user and MASK}{at}{host}", query=parts.query and MASK).geturl()


def _options(adapter: str, raw: Mapping[str, Any]) -> Any:
    """What an adapter calls a secret is one; of options that say nothing of secrets every text may be."""
    try:
        decoded = registry.load(adapter).options(raw)
    except (LookupError, ImportError, ValueError):
        decoded = None
    if isinstance(decoded, BaseModel):
        return json.loads(decoded.model_dump_json(exclude_unset=True))
    return _masked(dict(raw))


def _masked(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _masked(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(inner) for inner in value]
    return MASK if isinstance(value, str) else value
