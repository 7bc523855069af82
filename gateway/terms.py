"""What a caller, a model and a tier decide together, whatever a request says: found once, then only looked up."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from adapters.usage import Usage

from . import tiers
from .call import Deployment, Plan, Principal, Route
from .limits import Limiter
from .limits.estimate import Bound, Estimator
from .limits.rules import LimitSet
from .pools import Pools
from .price_book import PriceBook
from .pricing import Bounds, Price, Rates, cost, cost_at, most
from .ramps import Ramps
from .settlement import Ledger
from .tiers import AttemptTier

NO_PRICE = "This model has no price in the gateway's configuration, so no budget can bound it."
MOST = 20_000
"""Combinations that are remembered; all are forgotten at once, and found again as they come."""

Key: TypeAlias = tuple[str, str | None, str, int, str, str, int | tuple[int, ...]]


class Way(NamedTuple):
    """One deployment of a plan, at a tier."""

    deployment: Deployment
    """Kept, because only a living object's identity is its own: two models may have deployments of one name."""
    price: Price | None
    reach: tuple[str, ...]
    """Every tier that may serve besides default."""
    tier: AttemptTier
    rates: Rates | None
    """What each kind of token costs, where one price is all there is."""


class Terms:
    """What holds for every request of one caller for one plan at one tier."""

    __slots__ = (
        "_priced",
        "_prices",
        "defaults",
        "facts",
        "grows",
        "hard",
        "is_quick",
        "is_simple",
        "limits",
        "unpriced",
        "ways",
    )

    def __init__(self, means: "Means", principal: Principal, route: Route, plan: Plan, tier: str) -> None:
        self.limits: LimitSet | None = means.limiter.applies(principal, route.name, tier)
        self.hard = self.limits is not None and bool(self.limits.budgets)
        """Whether a budget applies."""
        self.grows = tier in tiers.DEAR and means.ramps.apply(principal, route)
        """Whether the traffic at this tier may grow only so fast."""
        self.is_quick = not self.grows and (self.limits is None or means.limiter.engine.decides_now)
        """Whether nobody need be asked, as a rule."""
        self.defaults: Mapping[str, Any] = route.config.params.default
        self._prices = means.prices
        self.facts = means.estimator.facts(plan)
        self.ways = means.ways(plan, tier)
        """By the deployment's identity."""
        self._priced = tuple([(way.price, way.reach) for way in self.ways.values() if way.price is not None])
        self.unpriced = self.hard and any(way.price is None for way in self.ways.values())
        """Whether a budget applies to something that has no price."""
        self.is_simple = not any(d.pool is not None or means.limiter.has_capacity(d.id) for d in plan)
        """Whether no deployment has a queue or a bought capacity of its own."""

    def worst_case(self, bounds: Bounds) -> int:
        """The most nano-dollars that a request may cost at the dearest deployment; 0 without a price."""
        worst = 0
        for price, reach in self._priced:
            worst = max(worst, most(bounds, price, reach))
        return worst

    def cost(self, deployment: Deployment, usage: Usage, tier: str) -> int:
        """The nano-dollars of what a deployment used at the tier that served it; 0 without a price."""
        way = self.ways.get(id(deployment))
        if way is None:
            price = self._prices.price(deployment)
        elif way.rates is not None and not usage.calls:  # nearly always
            return cost_at(usage, way.rates)
        else:
            price = way.price
        return 0 if price is None else cost(usage, price, tier)


class Means:
    """What calls are metered with, and the terms of every caller. One per configuration."""

    def __init__(
        self,
        limiter: Limiter,
        prices: PriceBook,
        estimator: Estimator,
        ledger: Ledger | None,
        pools: Pools,
        ramps: Ramps,
    ) -> None:
        self.limiter = limiter
        self.pools = pools
        self.ramps = ramps
        self.prices = prices
        self.estimator = estimator
        self.ledger = ledger
        self._terms: dict[Key, Terms] = {}
        self._ways: dict[tuple[str, int | tuple[int, ...]], Mapping[int, Way]] = {}

    def worst_case(self, deployment: Deployment, bound: Bound, tier: str) -> int:
        """The most nano-dollars that a deployment may cost at any tier it may be served at; 0 without a price."""
        return self.prices.worst_case(deployment, bound.most, *tiers.reachable(deployment, tier)) or 0

    def terms(self, principal: Principal, route: Route, plan: Plan, tier: str) -> Terms:
        """What holds for requests of ``principal`` for a plan of ``route`` at ``tier``; a pinned plan has its own."""
        which = id(plan[0]) if len(plan) == 1 else _identity(plan)
        key = (principal.key_id, principal.user, principal.organization, principal.version, route.name, tier, which)
        found = self._terms.get(key)
        if found is None:
            if len(self._terms) >= MOST:
                self._terms.clear()
                self._ways.clear()
            found = self._terms[key] = Terms(self, principal, route, plan, tier)
        return found

    def ways(self, plan: Plan, tier: str) -> Mapping[int, Way]:
        """The deployments of a plan in its order, the same for everybody."""
        key = (tier, _identity(plan))
        found = self._ways.get(key)
        if found is None:
            found = self._ways[key] = {id(d): self._way(d, tier) for d in plan}
        return found

    def _way(self, deployment: Deployment, tier: str) -> Way:
        reach, attempt = tiers.reachable(deployment, tier), tiers.attempt(deployment, tier)
        price = self.prices.price(deployment)
        rates = price.default.rates if price is not None and price.plain is not None else None
        return Way(deployment, price, reach, attempt, rates)


def _identity(plan: Plan) -> int | tuple[int, ...]:
    return id(plan[0]) if len(plan) == 1 else tuple(map(id, plan))
