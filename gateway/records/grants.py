"""
Nobody gives away what they do not have: models, tiers, limits, budgets, freedoms and time.

What can be used up must not be had twice by being given away. A key that is made by somebody who has limits of their own
counts toward these limits, whatever limits it has itself: ten keys for ten dollars each, made with a budget of ten
dollars, spend ten dollars together. Who has such limits may therefore raise and rotate only what counts toward them.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from config.schema import Budget, Limits, LimitValues, Ramp, TierPolicy
from config.schema import Owner as Settings

from ..call import Owner, Principal
from ..errors import PermissionDenied, ResourceNotFound
from .keys import ROLE_RANK, KeySettings, Place, Role

_TIER_RANK = {"flex": 0, "default": 1, "scale": 2, "priority": 3, "ultrafast": 4}
"""From the cheapest to the dearest."""
_RATES = ("rpm", "tpm", "itpm", "otpm", "rpd", "tpd", "concurrency")
_WINDOWS = ("day", "week", "month", "total")
_FREEDOMS = ("allow_pinning", "allow_cheaper")


@dataclass(frozen=True, slots=True)
class Actor:
    """Who changes something. Without an organization: an operator of the whole gateway, who may do everything.

    With one, only what belongs to it (and to ``team``, when given); ``principal`` and ``expires`` are what the actor has
    and therefore may pass on.
    """

    id: str
    """Goes to the audit log: a name or an id, never a secret."""
    organization: str | None = None
    team: str | None = None
    principal: Principal | None = None
    expires: float | None = None
    request_id: str | None = None
    role: Role = "admin"

    @property
    def is_operator(self) -> bool:
        return self.organization is None


def check_reach(actor: Actor, kind: str, place: Place, *, change: bool) -> None:
    """Raise ResourceNotFound for what the actor must not know of, PermissionDenied for what it may see, not change."""
    if actor.is_operator:
        return
    if place.organization != actor.organization or (
        actor.team is not None and place.team != actor.team and kind != "organization"
    ):
        raise ResourceNotFound(f"No such {kind}.")
    above = kind == "organization" or (kind == "team" and actor.team is not None)
    if change and above:
        raise PermissionDenied(f"This needs more than the role has: changing a {kind}.")


def check_grant(actor: Actor, settings: Settings, expires: float | None, applying: Collection[str] = ()) -> None:
    """Raise PermissionDenied, naming the option, when ``settings`` go beyond what the actor has.

    ``applying`` are ids of owners (``t:blue``) that bound the new one as well: what they say need not be repeated.
    """
    if actor.is_operator:
        return
    if actor.expires is not None and (expires is None or expires > actor.expires):
        raise _beyond("expires")
    principal = actor.principal
    if principal is None:
        return
    for owner in principal.owners:
        if owner.id not in applying:
            for option in _excess(settings, owner):
                raise _beyond(option)
    if isinstance(settings, KeySettings):
        _check_key(actor, settings, principal)


def counted_toward(actor: Actor, applying: Collection[str] = ()) -> tuple[str, ...]:
    """Ids of the owners (``k:...``, ``u:...``) whose limits a key made by ``actor`` takes part in.

    ``applying`` bound the key anyway. Those above the actor's key that are passed on by none are among them too.
    """
    owners = actor.principal.owners if actor.principal is not None else ()
    return tuple(o.id for o in owners if o.limits != Limits() and o.id[0] in "ku" and o.id not in applying)


def check_extension(
    actor: Actor, settings: Settings, before: Settings | None, applying: Collection[str], counted: Collection[str]
) -> None:
    """Raise PermissionDenied for more than there was ``before`` of what does not count toward the actor's own limits.

    None: all of it would be the actor's, who is about to get its secret.
    """
    if set(counted_toward(actor, applying)) <= set(counted):
        return
    for option in _excess_limits(settings.limits, before.limits) if before is not None else ("limits",):
        raise PermissionDenied(
            f"'{option}': this does not count toward the limits of the acting role, which may stop it, not extend it.",
            param=option,
        )


def _check_key(actor: Actor, settings: KeySettings, principal: Principal) -> None:
    if ROLE_RANK[settings.role] > ROLE_RANK[actor.role]:
        raise _beyond("role")
    for freedom in _FREEDOMS:
        if getattr(settings, freedom) and not getattr(principal, freedom):
            raise _beyond(freedom)
    if not principal.restricted_params <= set(settings.restricted_params):
        raise _beyond("restricted_params")


def _beyond(option: str) -> PermissionDenied:
    return PermissionDenied(f"'{option}' goes beyond what the acting role has itself.", param=option)


def _excess(settings: Settings, owner: Owner) -> Iterator[str]:
    """The options of ``settings`` that allow more than ``owner`` does."""
    if owner.models is not None and (
        settings.models is None or not all(_is_covered(model, owner.models) for model in settings.models)
    ):
        yield "models"
    if settings.store and not owner.store:
        yield "store"
    yield from _excess_tiers(settings.tiers, owner.tiers)
    yield from _excess_limits(settings.limits, owner.limits)


def _is_covered(model: str, allowed: tuple[str, ...]) -> bool:
    return any(
        model == pattern or (pattern.endswith("*") and model.startswith(pattern.removesuffix("*")))
        for pattern in allowed
    )


def _excess_tiers(given: TierPolicy, own: TierPolicy) -> Iterator[str]:
    if own.allowed is not None and (given.allowed is None or not set(given.allowed) <= set(own.allowed)):
        yield "tiers.allowed"
    if own.max is not None and (given.max is None or _TIER_RANK[given.max] > _TIER_RANK[own.max]):
        yield "tiers.max"
    if own.ramp is not None:
        yield from ("tiers.ramp",) if given.ramp is None else _excess_ramp(given.ramp, own.ramp)


def _excess_ramp(given: Ramp, own: Ramp) -> Iterator[str]:
    if given.above_tpm > own.above_tpm:
        yield "tiers.ramp.above_tpm"
    if given.percent > own.percent:
        yield "tiers.ramp.percent"
    if given.minutes < own.minutes:
        yield "tiers.ramp.minutes"


def _excess_limits(given: Limits, own: Limits) -> Iterator[str]:
    yield from (f"limits.{option}" for option in _excess_values(given, own))
    for name, mine, theirs in (
        *(("per_model", own.per_model[m], given.per_model.get(m)) for m in own.per_model),
        *(("per_tier", own.per_tier[t], given.per_tier.get(t)) for t in own.per_tier),
    ):
        # A general limit that is low enough bounds each model and tier as well.
        for option in _excess_values(theirs or LimitValues(), mine):
            if option in set(_excess_values(given, mine)):
                yield f"limits.{name}.{option}"


def _excess_values(given: LimitValues, own: LimitValues) -> Iterator[str]:
    for name in _RATES:
        if _is_above(getattr(given, name), getattr(own, name)):
            yield name
    theirs, mine = given.budget or Budget(), own.budget or Budget()
    for name in _WINDOWS:
        if _is_above(getattr(theirs, name), getattr(mine, name)):
            yield f"budget.{name}"
    if mine != Budget() and (theirs.overdraft or 0) > (mine.overdraft or 0):
        yield "budget.overdraft"


def _is_above(given: object, own: object) -> bool:
    return own is not None and (given is None or given > own)  # type: ignore[operator] # both are numbers of one kind
