"""What is changed in a request for one deployment: its defaults, its tier, a bound on its answer."""

from collections.abc import Mapping
from typing import Any

from . import tiers
from .call import Call, Deployment, Route
from .tiers import AttemptTier

OURS = frozenset({"store", "metadata", "service_tier"})
"""The gateway does these itself (stored completions) or decides them (tiers): never passed on as they came."""


def outgoing(
    call: Call, route: Route, deployment: Deployment, tier: str, max_output: int | None
) -> tuple[Mapping[str, Any], AttemptTier]:
    """The request to translate, and the tier it runs at.

    ``max_output`` bounds the completion tokens of one choice, where a budget needs the bound to be real.
    """
    changed = {k: v for k, v in call.request.items() if k not in OURS and v is not None}
    for name, value in route.config.params.default.items():
        changed.setdefault(name, value)
    chosen = tiers.attempt(deployment, tier)
    if chosen.sent is not None or deployment.takes_priority:
        changed["service_tier"] = tier
    if max_output is not None:
        changed.pop("max_tokens", None)
        changed["max_completion_tokens"] = max_output
    return changed, chosen
