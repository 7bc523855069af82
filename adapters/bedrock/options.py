"""The ``options`` of a Bedrock provider, and the credential they ask for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..interface import CredentialSpec

TEMPLATE = "https://bedrock-runtime.{region}.amazonaws.com"
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")
_AWS = (
    "access_key_id", "secret_access_key", "session_token", "role_arn", "external_id", "session_name",
    "web_identity_token_file", "sts_endpoint", "container_credentials_uri",
)  # fmt: skip
"""Options that say how to sign; any of them turns signing on."""
_SHAPES: Mapping[str, type] = {
    "region": str, "auth": str, "guardrail": dict, "latency": str, "additional_fields": dict, "profiles": dict,
    **dict.fromkeys(_AWS, str),
}  # fmt: skip
_GUARDRAIL = {
    "identifier": "guardrailIdentifier", "version": "guardrailVersion", "trace": "trace",
    "stream_processing": "streamProcessingMode",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Options:
    region: str = "us-east-1"
    credential: CredentialSpec | None = field(default=None, repr=False)
    """None: the provider's ``api_key`` is a Bedrock API key."""
    guardrail: Mapping[str, Any] | None = None
    """A guardrailConfig for every request."""
    latency: str | None = None
    additional_fields: Mapping[str, Any] = field(default_factory=dict)
    """additionalModelRequestFields for every request."""
    profiles: Mapping[str, str] = field(default_factory=dict)
    """What stands behind an opaque ARN: ARN -> model id, for what the family decides."""


def read(raw: Mapping[str, Any]) -> Options:
    """Check and decode; raises ValueError naming the bad key."""
    for key in raw:
        if key not in _SHAPES:
            raise ValueError(f"unknown option '{key}'; known: {', '.join(sorted(_SHAPES))}")
    wrong = [key for key, value in raw.items() if not isinstance(value, _SHAPES[key])]
    if wrong:
        raise ValueError(f"option '{wrong[0]}' must be a {_SHAPES[wrong[0]].__name__}")
    region = raw.get("region", "us-east-1")
    if not _REGION.fullmatch(region):
        raise ValueError(f"option 'region': '{region}' is no AWS region")
    if raw.get("latency") not in (None, "standard", "optimized"):
        raise ValueError("option 'latency' must be standard or optimized")
    return Options(
        region=region,
        credential=_credential(raw, region),
        guardrail=_guardrail(raw.get("guardrail")),
        latency=raw.get("latency"),
        additional_fields=raw.get("additional_fields", {}),
        profiles=raw.get("profiles", {}),
    )


def _credential(raw: Mapping[str, Any], region: str) -> CredentialSpec | None:
    auth = raw.get("auth", "aws" if any(key in raw for key in _AWS) else "api_key")
    if auth not in ("aws", "api_key"):
        raise ValueError("option 'auth' must be aws or api_key")
    if auth == "api_key":
        return None
    if ("access_key_id" in raw) != ("secret_access_key" in raw):
        raise ValueError("options 'access_key_id' and 'secret_access_key' go together")
    settings = {key: raw[key] for key in _AWS if key in raw}
    return CredentialSpec("aws", {"service": "bedrock", "region": region, **settings})


def _guardrail(raw: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if raw is None:
        return None
    if unknown := set(raw) - set(_GUARDRAIL):
        raise ValueError(f"option 'guardrail' has no '{min(unknown)}'; known: {', '.join(_GUARDRAIL)}")
    if "identifier" not in raw:
        raise ValueError("option 'guardrail' needs an 'identifier'")
    return {_GUARDRAIL[key]: str(value) for key, value in {"version": "DRAFT", **raw}.items()}


def endpoint(base_url: str, region: str) -> str:
    """The config's address, or the region's own."""
    if base_url and base_url != TEMPLATE:
        return base_url
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"https://bedrock-runtime.{region}.{domain}"
