"""Gemini's token counts and service tiers in our words."""

from collections.abc import Mapping
from typing import Any

from ..usage import Usage, count

TIERS: Mapping[str, str] = {"default": "standard", "flex": "flex", "priority": "priority"}
_SERVED: Mapping[str, str] = {
    "standard": "default",
    "flex": "flex",
    "priority": "priority",
    "on_demand": "default",
    "on_demand_flex": "flex",
    "on_demand_priority": "priority",
    "provisioned_throughput": "scale",
}
"""``serviceTier`` of AI Studio and ``trafficType`` of Vertex AI -> OpenAI's word; others stay untold."""


def served_tier(metadata: Mapping[str, Any]) -> str | None:
    """The tier that the counts name."""
    word = metadata.get("serviceTier") or metadata.get("trafficType")
    return _SERVED.get(word.lower().removeprefix("service_tier_")) if isinstance(word, str) else None


def usage(metadata: Mapping[str, Any], searches: int = 0) -> Usage | None:
    """The buckets of a ``usageMetadata``; None while it counts nothing yet.

    The prompt includes what was cached, but not what server-side tools read; the candidates exclude thoughts.
    """
    if not any(key.endswith("TokenCount") for key in metadata):
        return None
    prompt = count(metadata, "promptTokenCount") + count(metadata, "toolUsePromptTokenCount")
    cached = min(count(metadata, "cachedContentTokenCount"), prompt)
    heard = _audio(metadata, "promptTokensDetails") + _audio(metadata, "toolUsePromptTokensDetails")
    audio_in = min(max(heard - _audio(metadata, "cacheTokensDetails"), 0), prompt - cached)
    generated = count(metadata, "candidatesTokenCount")
    audio_out = min(_audio(metadata, "candidatesTokensDetails"), generated)
    return Usage(
        input=prompt - cached - audio_in,
        cache_read=cached,
        audio_input=audio_in,
        output=generated - audio_out,
        reasoning=count(metadata, "thoughtsTokenCount"),
        audio_output=audio_out,
        calls={"web_search": searches} if searches else None,
    )


def _audio(metadata: Mapping[str, Any], key: str) -> int:
    details = metadata.get(key)
    if not isinstance(details, list):
        return 0
    return sum(count(d, "tokenCount") for d in details if isinstance(d, dict) and d.get("modality") == "AUDIO")
