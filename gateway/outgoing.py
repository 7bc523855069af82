"""What is changed in a request for one deployment: its defaults, its tier, a bound on its answer."""

from collections.abc import Mapping
from typing import Any

from .call import Call, Deployment, Route

OURS = frozenset({"store", "metadata", "service_tier"})
"""The gateway does these itself (stored completions) or decides them (tiers): never passed on as they came."""


def outgoing(
    call: Call, route: Route, deployment: Deployment, tier: str, max_output: int | None
) -> tuple[Mapping[str, Any], str | None]:
    """The request to translate, and the tier that is sent with it (None: nothing is said of tiers).

    ``max_output`` bounds the completion tokens of one choice, where a budget needs the bound to be real.
    """
    changed = {k: v for k, v in call.request.items() if k not in OURS and v is not None}
    for name, value in route.config.params.default.items():
        changed.setdefault(name, value)
    sent = tier if sendable(deployment, tier) else None
    if sent is not None:
        changed["service_tier"] = sent
    if max_output is not None:
        changed.pop("max_tokens", None)
        changed["max_completion_tokens"] = max_output
    return changed, sent


def sendable(deployment: Deployment, tier: str) -> bool:
    """Whether a tier may be sent: the provider has it, the model too, and the address would not drop it."""
    if not deployment.trusted_tiers or tier not in deployment.adapter.tiers:
        return False
    return deployment.config.tiers is None or tier in deployment.config.tiers
