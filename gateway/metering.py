"""Reserve for a call before it begins, at the worst case: every limit, or none."""

from . import tiers
from .call import Call, CallRecord, Plan, Principal, Route
from .errors import BudgetExceeded, InvalidRequest, LimitExceeded
from .limits import Amounts, Reservation
from .limits.estimate import Bound
from .metered import NO_PRICE, Means, Metered
from .ramps import RampExceeded
from .settlement import NOTHING_USED

__all__ = ["NO_PRICE", "Meter", "Metered"]

CLAMPINGS = 4
"""Of one request: each budget that refuses it may lower its answer once."""


class Meter(Means):
    """Makes a Metered for each call. One per configuration."""

    async def reserve(self, call: Call, principal: Principal, route: Route, plan: Plan, record: CallRecord) -> Metered:
        """Hold what the call may cost at worst, on every limit or none; raises LimitExceeded and its kin."""
        tier = record.effective_tier or "default"
        try:
            if tier in tiers.DEAR and self.ramps.apply(principal, route):
                return await self._growing(call, principal, route, plan, record, tier)
            return await self._reserve(call, principal, route, plan, record, tier)
        except LimitExceeded as exc:
            lower = tiers.instead(tier, principal)
            if lower is None:
                raise
            metered = await self._reserve(call, principal, route, plan, record, lower)
            metered.downgraded = "ramp" if isinstance(exc, RampExceeded) else "limit"
            return metered

    async def _growing(
        self, call: Call, principal: Principal, route: Route, plan: Plan, record: CallRecord, tier: str
    ) -> Metered:
        """``_reserve`` at a tier whose traffic may grow only so fast; raises RampExceeded where it is too much."""
        bound = self.estimator.bound(call, plan, route.config.params.default)
        growth = await self.ramps.take(principal, route, tier, bound.input_tokens + bound.output_tokens)
        try:
            metered = await self._reserve(call, principal, route, plan, record, tier)
        except BaseException:
            growth.settle(0)
            raise
        metered.growth = growth
        return metered

    async def _reserve(
        self, call: Call, principal: Principal, route: Route, plan: Plan, record: CallRecord, tier: str
    ) -> Metered:
        limits = self.limiter.applies(principal, route.name, tier)
        hard = limits is not None and bool(limits.budgets)
        bound = self.estimator.bound(call, plan, route.config.params.default, hard=hard)
        if hard and any(self.prices.price(d) is None for d in plan):
            raise InvalidRequest(NO_PRICE, param="model", code="model_not_priced")
        try:
            reservation = self.limiter.reserve_now(call.id, limits, self._amounts(plan, bound, tier))
        except BudgetExceeded:
            reservation = None  # ``_hold`` may make the answer shorter
        if reservation is None:
            reservation, bound = await self._hold(call, principal, route, plan, tier, bound)
        metered = Metered(self, call, principal, route, plan, tier, reservation, bound, hard=hard)
        try:
            metered.note(principal, record)
        except BaseException:
            reservation.settle(NOTHING_USED)
            raise
        return metered

    async def _hold(
        self, call: Call, principal: Principal, route: Route, plan: Plan, tier: str, bound: Bound
    ) -> tuple[Reservation, Bound]:
        """Reserve; where a budget has too little left and the configuration says so, for a shorter answer."""
        for _ in range(CLAMPINGS):
            try:
                return await self._try(call, principal, route, plan, tier, bound), bound
            except BudgetExceeded as exc:
                served = {t for d in plan for t in tiers.reachable(d, tier)}
                clamped = self.estimator.clamp(bound, exc.remaining, plan, *served)
                if clamped is None:
                    raise
                bound = clamped
        return await self._try(call, principal, route, plan, tier, bound), bound

    async def _try(
        self, call: Call, principal: Principal, route: Route, plan: Plan, tier: str, bound: Bound
    ) -> Reservation:
        return await self.limiter.reserve(call.id, principal, route.name, tier, self._amounts(plan, bound, tier))

    def _amounts(self, plan: Plan, bound: Bound, tier: str) -> Amounts:
        """What to reserve: the dearest deployment's worst case."""
        cost = 0
        for deployment in plan:
            cost = max(cost, self.worst_case(deployment, bound, tier))
        return Amounts(1, bound.input_tokens, bound.output_tokens, cost)
