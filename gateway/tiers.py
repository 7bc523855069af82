"""Service tiers: requested -> effective (the policy) -> sent -> served (the truth)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from adapters.errors import ErrorKind, ProviderError

from .call import CallRecord, Deployment, Plan, Principal
from .errors import InvalidRequest

RANK: Mapping[str, int] = {"flex": 0, "default": 1, "scale": 2, "priority": 3, "ultrafast": 4}
"""From the cheapest to the dearest."""
ALL = tuple(RANK)
ALIASES: Mapping[str, str] = {"fast": "priority"}
"""``fast`` is the newer name of priority (checklist C-469)."""

NOT_ALLOWED = "Invalid service_tier argument: The requested service tier is not allowed for this project."


def effective(request: Mapping[str, Any], principal: Principal) -> str:
    """The tier a request runs at: one of RANK; raises InvalidRequest for a tier that the policy refuses.

    ``auto`` and an absent tier take the narrowest default and are clipped to what is allowed, never refused.
    """
    if "messages" not in request:
        return "default"  # no provider has tiers of embeddings (checklist C-475)
    asked = request.get("service_tier")
    if asked is not None and asked != "auto":
        return _within_policies(ALIASES.get(asked, asked), principal, explicit=True)
    tier = principal.memo.get("tier")
    if tier is None:
        tier = principal.memo["tier"] = _within_policies(_default(principal), principal, explicit=False)
    return tier


def _within_policies(tier: str, principal: Principal, *, explicit: bool) -> str:
    denied = False
    for owner in principal.owners:
        policy = owner.tiers
        if policy.allowed is None and policy.max is None:
            continue  # nearly everybody
        clipped = _clip(tier, policy.allowed, policy.max)
        denied, tier = denied or clipped != tier, clipped
    if denied and explicit and not _downgrades(principal):
        raise InvalidRequest(NOT_ALLOWED, param="service_tier")
    return tier


def _downgrades(principal: Principal) -> bool:
    """What the narrowest owner wants that says anything: nobody gets a tier by it that another one's policy denies."""
    told = next((o.tiers.on_denied for o in principal.owners if o.tiers.on_denied is not None), None)
    return told == "downgrade"


def _default(principal: Principal) -> str:
    for owner in principal.owners:
        if owner.tiers.default not in (None, "auto"):
            default = str(owner.tiers.default)
            return ALIASES.get(default, default)
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


DEAR = frozenset({"priority", "scale", "ultrafast"})
"""Tiers that run and are billed as default where they cannot be had, and say so; flex is refused instead."""


@dataclass(init=False, slots=True, unsafe_hash=True)
class AttemptTier:
    """The tier of one attempt: what was asked of the provider, or what the gateway's own queue gave."""

    sent: Final[str | None]
    """None: nothing was said of tiers."""
    applied: Final[str | None]
    """The class that the gateway's queue admitted it as, where the provider was told nothing."""
    reports: Final[bool]
    """Whether the provider's answers name the tier that served."""

    def __init__(self, sent: str | None = None, applied: str | None = None, reports: bool = True) -> None:
        self.sent, self.applied, self.reports = sent, applied, reports

    def served(self, told: str | None) -> str:
        """The tier that served: the gateway's own class, the provider's word, or default; never ``auto``."""
        return self.applied or told or (None if self.reports else self.sent) or "default"

    @property
    def expected(self) -> str:
        """What is said while the provider has not told yet."""
        return self.applied or self.sent or "default"


def fitting(plan: Plan, record: CallRecord, principal: Principal) -> Plan:
    """The deployments that may serve the effective tier; raises InvalidRequest for flex where there is none.

    Flex is cheaper: to run it at another tier is dearer than what was asked for, so only ``flex_fallback`` does.
    An ``auto`` that became flex runs at default instead, where the policy allows that.
    """
    if record.effective_tier != "flex":
        return plan
    if fit := able(plan, "flex"):
        return fit
    stays = record.requested_tier == "flex" and flex_fallback(principal) is None
    if stays or not permitted("default", principal):
        raise InvalidRequest("The service tier `flex` is not available for this model.", param="service_tier")
    record.effective_tier = "default"
    return plan


def able(plan: Plan, tier: str) -> Plan:
    """The deployments that have the tier, or get it from the gateway's own queue."""
    return [d for d in plan if d.pool is not None or sendable(d, tier)]


def attempt(deployment: Deployment, tier: str) -> AttemptTier:
    """How a tier is asked of a deployment, or made in front of it by the gateway's own queue."""
    known: AttemptTier | None = deployment.memo.get(tier)
    if known is None:
        sent = tier if sendable(deployment, tier) else None
        made = deployment.pool is not None and sent is None
        known = AttemptTier(sent, tier if made else None, deployment.adapter.reports_tier)
        deployment.memo[tier] = known
    return known


def sendable(deployment: Deployment, tier: str) -> bool:
    """Whether a tier may be sent: the provider has it, the model too, and the address would not drop it."""
    if not deployment.trusted_tiers or tier not in deployment.adapter.tiers:
        return False
    if deployment.config.tiers is None:
        return not getattr(deployment.adapter, "tiers_declared", False)
    return tier in deployment.config.tiers


def reachable(deployment: Deployment, tier: str) -> tuple[str, ...]:
    """Every tier that may serve a request of this tier besides default: what its reservation must pay for."""
    if not deployment.trusted_tiers and deployment.adapter.tiers:
        return ALL  # an address that was told nothing may do as it likes
    return (tier,)


def refused(deployment: Deployment, tier: AttemptTier, error: ProviderError) -> ProviderError:
    """The failure, as want of flex capacity where it is that and does not say so."""
    if tier.sent == "flex" and error.status in deployment.adapter.flex_refusals:
        return ProviderError(ErrorKind.CAPACITY, error.message, status=error.status, retry_after=error.retry_after)
    return error


def downgrade(effective_tier: str, attempt_tier: AttemptTier, served: str) -> str | None:
    """Why a dear tier was not the one that served, where the gateway itself did not decide so."""
    if effective_tier not in DEAR or RANK[served] >= RANK[effective_tier]:
        return None
    return "unsupported" if attempt_tier.sent is None and attempt_tier.applied is None else "capacity"


def permitted(tier: str, principal: Principal) -> bool:
    """Whether every owner's policy allows the tier."""
    return all(_clip(tier, o.tiers.allowed, o.tiers.max) == tier for o in principal.owners)


def instead(tier: str, principal: Principal) -> str | None:
    """The tier that a dear one runs as where it cannot be had; None where the policy has no other."""
    return "default" if tier in DEAR and permitted("default", principal) else None


def flex_fallback(principal: Principal) -> str | None:
    """The tier that a refused flex request runs at, if its owner wants that."""
    chosen = next((o.tiers.flex_fallback for o in principal.owners if o.tiers.flex_fallback is not None), None)
    return chosen if chosen is not None and permitted(chosen, principal) else None


def flex_wait(principal: Principal) -> float:
    """Seconds that a flex request may wait for capacity."""
    return next((o.tiers.flex_wait for o in principal.owners if o.tiers.flex_wait is not None), 0.0)
