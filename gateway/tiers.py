"""Which service tier a request may have: requested -> effective."""

from collections.abc import Mapping
from typing import Any

from .call import Principal
from .errors import InvalidRequest

RANK: Mapping[str, int] = {"flex": 0, "default": 1, "scale": 2, "priority": 3, "ultrafast": 4}
"""From the cheapest to the dearest."""
ALIASES: Mapping[str, str] = {"fast": "priority"}
"""``fast`` is the newer name of priority (checklist C-469)."""

NOT_ALLOWED = "Invalid service_tier argument: The requested service tier is not allowed for this project."


def effective(request: Mapping[str, Any], principal: Principal) -> str:
    """The tier a request runs at: one of RANK; raises InvalidRequest for a tier that the policy refuses.

    ``auto`` and an absent tier take the narrowest default and are clipped to what is allowed, never refused.
    """
    asked = request.get("service_tier")
    explicit = asked is not None and asked != "auto"
    tier = str(asked) if explicit else _default(principal)
    tier = ALIASES.get(tier, tier)
    refused = False
    for owner in principal.owners:
        policy = owner.tiers
        clipped = _clip(tier, policy.allowed, policy.max)
        if clipped != tier:
            refused = refused or (explicit and (policy.on_denied or "reject") == "reject")
            tier = clipped
    if refused:
        raise InvalidRequest(NOT_ALLOWED, param="service_tier")
    return tier


def _default(principal: Principal) -> str:
    for owner in principal.owners:
        if owner.tiers.default not in (None, "auto"):
            return str(owner.tiers.default)
    return "default"


def _clip(tier: str, allowed: tuple[str, ...] | None, ceiling: str | None) -> str:
    """The dearest allowed tier that is not dearer than ``tier``; the cheapest allowed one if there is none."""
    top = min(RANK[tier], RANK[ceiling]) if ceiling is not None else RANK[tier]
    candidates = [t for t in (allowed if allowed is not None else RANK) if RANK[t] <= top]
    if tier in candidates:
        return tier
    if candidates:
        return max(candidates, key=RANK.__getitem__)
    return min(allowed, key=RANK.__getitem__) if allowed else "default"
