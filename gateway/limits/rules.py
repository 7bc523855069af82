"""Which limits apply to a request: resolved once per principal, model and tier, and then only looked up."""

import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgpack

from config.schema import LimitValues

from ..call import Owner, Principal
from .amounts import COST, INPUT, OUTPUT, REQUESTS, SLOTS, TOKENS
from .windows import DAY, MONTH, TOTAL, WEEK

BUCKET, WINDOW, CONCURRENCY = 1, 2, 3
"""The kinds of limit: a rate that refills continuously, an amount per calendar window, requests at once."""

MINUTE_MS = 60_000
_CACHED_PRINCIPALS = 100_000


class Limit(NamedTuple):
    """One limit of one scope."""

    scope: str
    """``k:``, ``u:``, ``t:`` or ``o:`` and a name, then perhaps ``|m:`` and a model or group, or ``|s:`` and a tier."""
    field: str
    """Names the counter within its scope."""
    kind: int
    cap: int
    """The most that may be taken: of a bucket at once, of a window in all, at once of slots."""
    rate: int
    """What a bucket regains per ``period``; of a window its overdraft; otherwise 0."""
    period: int
    """Of a bucket in milliseconds; of a window one of ``windows.DAY`` and so on; otherwise 0."""
    unit: int
    """Position in a Vector."""

    @property
    def most(self) -> int:
        """What can be reserved together with what is used: the cap, and of a window its overdraft."""
        return self.cap + self.rate if self.kind == WINDOW else self.cap


class Field(NamedTuple):
    """How one option of the configuration is counted."""

    field: str
    kind: int
    period: int
    unit: int


FIELDS: Mapping[str, Field] = {
    "rpm": Field("r", BUCKET, MINUTE_MS, REQUESTS),
    "tpm": Field("t", BUCKET, MINUTE_MS, TOKENS),
    "itpm": Field("i", BUCKET, MINUTE_MS, INPUT),
    "otpm": Field("o", BUCKET, MINUTE_MS, OUTPUT),
    "rpd": Field("R", WINDOW, DAY, REQUESTS),
    "tpd": Field("T", WINDOW, DAY, TOKENS),
    "concurrency": Field("c", CONCURRENCY, 0, SLOTS),
    "budget.day": Field("$d", WINDOW, DAY, COST),
    "budget.week": Field("$w", WINDOW, WEEK, COST),
    "budget.month": Field("$m", WINDOW, MONTH, COST),
    "budget.total": Field("$t", WINDOW, TOTAL, COST),
}
NAMES: Mapping[str, str] = {field.field: name for name, field in FIELDS.items()}
"""A counter's field -> the option of the configuration."""


FAMILIES: Mapping[str, str] = {
    "rpm": "requests",
    "rpd": "requests",
    "tpm": "tokens",
    "tpd": "tokens",
    "itpm": "input-tokens",
    "otpm": "output-tokens",
}
"""A limit's name -> what its headers end in."""
STEM = "x-ratelimit"


class Family(NamedTuple):
    """The limits of a set that share three headers: the one that has the least left, relative to its size, is told."""

    limit: str
    remaining: str
    reset: str
    first: "Member"
    others: tuple["Member", ...]


class Member(NamedTuple):
    """A limit of a family."""

    position: int
    """In the set."""
    cap: int
    text: str
    """Its cap as headers tell it."""


def families(limits: Sequence[Limit]) -> tuple[Family, ...]:
    """What ``x-ratelimit-*`` tells of a set of limits."""
    found: dict[str, list[Member]] = {}
    for position, limit in enumerate(limits):
        family = FAMILIES.get(NAMES[limit.field])
        if family is not None:
            found.setdefault(family, []).append(Member(position, limit.cap, str(limit.cap)))
    return tuple(
        Family(f"{STEM}-limit-{name}", f"{STEM}-remaining-{name}", f"{STEM}-reset-{name}", first, tuple(others))
        for name, (first, *others) in found.items()
    )


class LimitSet:
    """The limits of one request, to be taken all or none. Compared by identity: equal ones are the same object."""

    __slots__ = ("budgets", "checked", "families", "limits", "packed", "scales", "shard", "units", "windows")

    def __init__(self, shard: str, limits: tuple[Limit, ...]) -> None:
        self.shard = shard
        """Whose counters: the organization, or ``d:`` and a deployment. Names the hash slot."""
        self.limits = limits
        self.units = tuple({limit.unit for limit in limits})
        self.windows = tuple(i for i, limit in enumerate(limits) if limit.kind == WINDOW)
        self.budgets = tuple(i for i, limit in enumerate(limits) if limit.unit == COST)
        self.families = families(limits)
        self.scales = tuple(limit.period if limit.kind == BUCKET else 1 for limit in limits)
        """By how much each counter is larger than what it counts."""
        self.packed: bytes = msgpack.packb(limits, use_bin_type=False)
        """For the record of a reservation: what another worker needs to settle it."""
        self.checked = 0
        """The last change of owners that its windows have caught up with: see ``returned``."""


class Rules:
    """The limits of every request under one configuration."""

    def __init__(self, groups: Mapping[str, Sequence[str]] | None = None) -> None:
        self._groups: dict[str, tuple[str, ...]] = {}
        """Model -> the groups it is in."""
        for group, models in (groups or {}).items():
            for model in dict.fromkeys(models):
                self._groups[model] = (*self._groups.get(model, ()), group)
        self._resolved: dict[tuple[str, str | None, str, int, str, str], LimitSet | None] = {}
        self._sets: dict[tuple[str, tuple[Limit, ...]], LimitSet] = {}

    def resolve(self, principal: Principal, model: str, tier: str) -> LimitSet | None:
        """The limits of a request for public model ``model`` at service tier ``tier``; None when there are none."""
        # The key's id alone does not tell people apart whose token an identity provider issued.
        key = (principal.key_id, principal.user, principal.organization, principal.version, model, tier)
        try:
            return self._resolved[key]
        except KeyError:
            names = dict.fromkeys((model, *self._groups.get(model, ())))  # a group may be called as its model is
            limits = tuple(limit for owner in principal.owners for limit in of_owner(owner, names, (tier,)))
            found = self._keep(quote(principal.organization), limits)
            if len(self._resolved) >= _CACHED_PRINCIPALS:
                self._resolved.clear()
                self._sets.clear()
            self._resolved[key] = found
            return found

    def all_of(self, owner: Owner, organization: str) -> LimitSet | None:
        """Every limit of one owner, those per model and per tier included: for reports."""
        return self._keep(quote(organization), tuple(of_owner(owner, owner.limits.per_model, owner.limits.per_tier)))

    def capacity(self, deployment: str, values: LimitValues) -> LimitSet | None:
        """The capacity bought for a deployment: everybody shares it."""
        scope = f"d:{quote(deployment)}"
        return self._keep(scope, tuple(map(paced, of_values(scope, values))))

    def _keep(self, shard: str, limits: tuple[Limit, ...]) -> LimitSet | None:
        if not limits:
            return None
        found = self._sets.get((shard, limits))
        if found is None:
            found = self._sets[shard, limits] = LimitSet(shard, limits)
        return found


def of_owner(owner: Owner, models: Iterable[str], tiers: Iterable[str]) -> Iterator[Limit]:
    """An owner's plain limits, then those for ``models``, then those for ``tiers``."""
    kind, _, name = owner.id.partition(":")
    scope = f"{kind}:{quote(name)}"
    yield from of_values(scope, owner.limits)
    for model in models:
        if model in owner.limits.per_model:
            yield from of_values(f"{scope}|m:{quote(model)}", owner.limits.per_model[model])
    per_tier: Mapping[str, LimitValues] = dict(owner.limits.per_tier.items())
    for tier in tiers:
        if tier in per_tier:
            yield from of_values(f"{scope}|s:{tier}", per_tier[tier])


def of_values(scope: str, values: LimitValues) -> Iterator[Limit]:
    """The limits that ``values`` sets."""
    for name, (field, kind, period, unit) in FIELDS.items():
        plain, _, window = name.partition(".")
        value = getattr(values, plain)
        if window and value is not None:
            value = getattr(value, window)
        if value is None:
            continue
        if unit == COST and values.budget is not None:
            overdraft = values.budget.overdraft or 0
            cap, rate = int(value.scaleb(9)), int(overdraft * 10**9)  # dollars -> nano-dollars
        else:
            cap = int(value)
            rate = cap if kind == BUCKET else 0
        yield Limit(scope, field, kind, cap, rate, period, unit)


def paced(limit: Limit) -> Limit:
    """A rate that nobody can take more of than its limit in *any* minute, as providers count it.

    A bucket lets burst + rate pass in the minute after it was full, so both must add up to the limit. Requests
    are small: a sixth as burst. A request's tokens must fit the burst: half.
    """
    if limit.kind != BUCKET:
        return limit
    burst = max(min(limit.cap, 1), limit.cap // (6 if limit.unit == REQUESTS else 2))
    return limit._replace(cap=burst, rate=max(limit.cap - burst, burst and 1))


def quote(name: str) -> str:
    """A name that cannot be mistaken for another scope or hash tag, whoever chose it."""
    return urllib.parse.quote(name, safe="@/:+,;=!*'()~&$ ")
