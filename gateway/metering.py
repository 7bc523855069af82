"""Reserve for a call before it begins, at the worst case: every limit, or none."""

from . import tiers
from .call import Call, CallRecord, Plan, Principal, Route
from .errors import BudgetExceeded, InvalidRequest, LimitExceeded
from .limits import Amounts, Reservation
from .limits.estimate import Bound
from .metered import Metered
from .ramps import RampExceeded
from .terms import NO_PRICE, Means, Terms

__all__ = ["NO_PRICE", "Meter", "Metered"]

CLAMPINGS = 4
"""Of one request: each budget that refuses it may lower its answer once."""


class Meter(Means):
    """Makes a Metered for each call. One per configuration."""

    def reserve_now(
        self, call: Call, principal: Principal, route: Route, plan: Plan, record: CallRecord
    ) -> Metered | None:
        """``reserve`` where nobody must be asked and nothing else be tried: nearly always. None: nothing was done."""
        tier = record.effective_tier or "default"
        terms = self.terms(principal, route, plan, tier)
        if not terms.is_quick:
            return None
        bound = self._bound(call, terms)
        try:
            reservation = self.limiter.reserve_now(call.id, terms.limits, _amounts(terms, bound))
        except LimitExceeded as exc:
            if tier in tiers.DEAR or isinstance(exc, BudgetExceeded):
                return None  # a lower tier or a shorter answer may do
            raise
        if reservation is None:
            return None
        return _noted(Metered(self, call, principal, route, plan, tier, terms, reservation, bound), record)

    async def reserve(self, call: Call, principal: Principal, route: Route, plan: Plan, record: CallRecord) -> Metered:
        """Hold what the call may cost at worst, on every limit or none; raises LimitExceeded and its kin."""
        tier = record.effective_tier or "default"
        try:
            terms = self.terms(principal, route, plan, tier)
            if terms.grows:
                return await self._growing(call, principal, route, plan, record, tier, terms)
            return await self._reserve(call, principal, route, plan, record, tier)
        except LimitExceeded as exc:
            lower = tiers.instead(tier, principal)
            if lower is None:
                raise
            why = "ramp" if isinstance(exc, RampExceeded) else "limit"
        metered = await self._reserve(call, principal, route, plan, record, lower)
        metered.downgraded = why
        return metered

    async def _growing(
        self, call: Call, principal: Principal, route: Route, plan: Plan, record: CallRecord, tier: str, terms: Terms
    ) -> Metered:
        """``_reserve`` at a tier whose traffic may grow only so fast; raises RampExceeded where it is too much."""
        bound = self.estimator.bound_by(terms.facts, call, terms.defaults, terms.hard)
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
        terms = self.terms(principal, route, plan, tier)
        bound = self._bound(call, terms)
        reservation, refused = None, None
        try:
            reservation = await self._hold(call, terms, bound)
        except BudgetExceeded as exc:
            refused = exc
        if reservation is None:
            assert refused is not None, "or it would be there"
            try:
                reservation, bound = await self._shorter(call, plan, tier, terms, bound, refused)
            finally:
                refused = None
        return _noted(Metered(self, call, principal, route, plan, tier, terms, reservation, bound), record)

    def _bound(self, call: Call, terms: Terms) -> Bound:
        if terms.unpriced:
            raise InvalidRequest(NO_PRICE, param="model", code="model_not_priced")
        return self.estimator.bound_by(terms.facts, call, terms.defaults, terms.hard)

    async def _hold(self, call: Call, terms: Terms, bound: Bound) -> Reservation:
        return await self.limiter.take(call.id, terms.limits, _amounts(terms, bound))

    async def _shorter(
        self, call: Call, plan: Plan, tier: str, terms: Terms, bound: Bound, refusal: BudgetExceeded
    ) -> tuple[Reservation, Bound]:
        """Where a budget has too little left and the configuration says so: reserve for a shorter answer."""
        served = {t for d in plan for t in tiers.reachable(d, tier)}
        for _ in range(CLAMPINGS):
            clamped = self.estimator.clamp(bound, refusal.remaining, plan, *served)
            if clamped is None:
                break
            bound = clamped
            try:
                return await self._hold(call, terms, bound), bound
            except BudgetExceeded as exc:
                refusal = exc
        raise refusal


def _amounts(terms: Terms, bound: Bound) -> Amounts:
    """What to reserve: the dearest deployment's worst case."""
    return Amounts(1, bound.input_tokens, bound.output_tokens, terms.worst_case(bound.most))


def _noted(metered: Metered, record: CallRecord) -> Metered:
    """The call, once the ledger knows that it runs; what it holds is given back where that fails."""
    try:
        metered.note(record)
    except BaseException:
        metered.give_back()
        raise
    return metered
