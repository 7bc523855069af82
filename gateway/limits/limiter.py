"""What the pipeline sees of limits: reserve, then settle."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from config.schema import Config, LimitValues, Outage

from ..call import Owner, Principal
from ..errors import StoreUnavailable
from .amounts import SLOTS, Amounts, vector
from .engine import Engine, Granted, Orphan, Refused, Spent, State, StoreDown
from .headers import ratelimit_headers, refusal
from .memory import MemoryEngine
from .outage import LocalShare
from .returned import Changes, catch_up
from .rules import LimitSet, Rules
from .thresholds import Threshold, Thresholds

log = logging.getLogger(__name__)
AGAIN = 1.0
"""Seconds after which a ledger that did not answer at the start is asked again."""


class Reservation:
    """What one request holds of its limits until it is settled, exactly once."""

    __slots__ = ("_grant", "amounts", "engine", "limits", "rid", "settled")

    def __init__(
        self, rid: str, amounts: Amounts, engine: Engine | None, limits: LimitSet | None, grant: Granted | None
    ) -> None:
        self.rid = rid
        self.amounts = amounts
        """What is reserved."""
        self.settled = False
        self.engine = engine
        self.limits = limits
        self._grant = grant

    def settle(self, actual: Amounts) -> None:
        """Replace what was reserved by what was used, which may be more.

        Plain and synchronous, so that it works while a task is being cancelled; only the first call counts.
        Never raises.
        """
        self.use(actual.requests, actual.input_tokens, actual.output_tokens, actual.cost, actual.cached_tokens)

    def use(self, requests: int, prompt: int, completion: int, cost: int, cached: int) -> None:
        """``settle`` by what Amounts are made of: nearly every request is settled so."""
        if self.settled:
            return
        self.settled = True
        if self.engine is None or self.limits is None:
            return
        try:
            self.engine.settle(self.rid, vector(requests, prompt, completion, cost, cached))
        except Exception:
            log.exception("settling %s failed", self.rid)

    def checkpoint(self, used: Amounts) -> None:
        """Tell what was used so far: what is charged should this worker die. Never raises; cheap."""
        if self.settled or self.engine is None:
            return
        try:
            self.engine.checkpoint(self.rid, used.vector())
        except Exception:
            log.exception("checkpoint of %s failed", self.rid)

    async def adjust(self, amounts: Amounts) -> None:
        """Reserve ``amounts`` instead, before moving to a dearer model. Raises like ``Limiter.reserve``."""
        if self.engine is not None and self.limits is not None and not self.settled:
            try:
                outcome = await self.engine.adjust(self.rid, self.limits, amounts.vector())
            except StoreDown as e:
                raise StoreUnavailable("Budgets cannot be enforced at the moment.") from e
            if isinstance(outcome, Refused):
                raise refusal(outcome)
            self._grant = outcome
        self.amounts = amounts

    @property
    def headers(self) -> Mapping[str, str]:
        """``x-ratelimit-*`` of the answer: where limits stood when this was reserved; empty when none applies."""
        grant = self._grant
        if grant is None or grant.limits is None:
            return {}
        if grant.told is None:  # a lease is the grant of many
            grant.told = ratelimit_headers(grant.limits, grant.remaining(), grant.reset)
        return grant.told

    @property
    def states(self) -> Sequence[State]:
        """Where each limit stood when this was reserved."""
        return () if self._grant is None else self._grant.states()

    @property
    def remaining(self) -> Mapping[tuple[str, str], int]:
        """(scope, counter) -> what is left."""
        return {(s.limit.scope, s.limit.field): s.remaining for s in self.states}


class Limiter:
    """Enforces the limits of a configuration. One per worker."""

    def __init__(
        self,
        engine: Engine,
        rules: Rules,
        *,
        outage: Outage | None = None,
        capacities: Mapping[str, LimitValues] | None = None,
        thresholds: Sequence[int] = (),
        spent: Spent | None = None,
    ) -> None:
        self.engine = engine
        self.on_threshold: list[Callable[[Threshold], None]] = []
        """Called once per worker when a budget's threshold is passed."""
        self._rules = rules
        self._spent = spent
        self.changes = Changes()
        self._local = LocalShare(engine, outage or Outage())
        self._capacities = {name: rules.capacity(name, values) for name, values in (capacities or {}).items()}
        self._thresholds = Thresholds(thresholds)

    @classmethod
    def from_config(
        cls, config: Config, *, spent: Spent | None = None, on_orphan: Callable[[Orphan], None] | None = None
    ) -> "Limiter":
        """The limiter of a configuration.

        ``spent`` asks the ledger for counters that are not known yet; ``on_orphan`` is told of every reservation of
        a dead worker, whose money stays charged.
        """
        engine: Engine = MemoryEngine(spent)
        if config.redis is not None:
            from .leases import LeasedEngine
            from .redis import RedisEngine  # a fifth of the start-up time of a gateway that has no Redis

            shared = RedisEngine(config.redis, lease=config.counters.lease, spent=spent)
            if on_orphan is not None:
                shared.on_orphan.append(on_orphan)
            engine = LeasedEngine(shared) if config.counters.hot_leases else shared
        return cls(
            engine,
            Rules(config.model_groups),
            outage=config.counters.on_outage,
            capacities=deployment_limits(config),
            thresholds=config.counters.thresholds,
            spent=spent,
        )

    def under(self, config: Config) -> "Limiter":
        """One that enforces another configuration on the same counters; what is counted and reserved stays."""
        rules, capacities = Rules(config.model_groups), deployment_limits(config)
        other = Limiter(self.engine, rules, capacities=capacities, spent=self._spent)
        other.changes = self.changes
        other.on_threshold, other._local, other._thresholds = self.on_threshold, self._local, self._thresholds
        other._local.policy = config.counters.on_outage
        other._thresholds.configure(config.counters.thresholds)
        return other

    def untouched(self) -> "Limiter":
        """One of the same limits that nothing was taken of yet, in memory: for what they could ever admit."""
        other = Limiter(MemoryEngine(), self._rules)
        other._capacities = self._capacities
        return other

    async def start(self) -> None:
        """Connect, load scripts, begin heartbeats. Raises StoreDown when the counters are unfit for use."""
        await self.engine.start()
        await self._local.start()

    async def catch_up(self, owners: Iterable[tuple[Owner, str]]) -> None:
        """Have the counters of owners, each in its organization, say no less than the ledger, which is asked until it answers."""
        spent = self._spent
        found = [self.limits_of(owner, organization) for owner, organization in owners]
        left = [limits for limits in found if limits is not None] if spent is not None else []
        while left:
            assert spent is not None, "else nothing is left"
            try:
                await catch_up(self.engine, left[-1], spent)
                left.pop()
                continue
            except StoreDown:
                pass
            await asyncio.sleep(AGAIN)

    async def close(self) -> None:
        """Settle what is queued; raises nothing."""
        await self.changes.close()
        await self._local.close()
        await self.engine.close()

    def reserve_now(self, rid: str, limits: LimitSet | None, amounts: Amounts) -> Reservation | None:
        """``reserve`` of limits that ``applies`` told, where nobody must be asked; None where somebody must."""
        if limits is None:
            return Reservation(rid, amounts, None, None, None)
        if limits.checked != self.changes.number:
            return None
        outcome = self.engine.reserve_now(rid, limits, amounts.vector())
        if outcome is None:
            return None
        return self._decided(rid, amounts, self.engine, limits, outcome)

    async def reserve(self, rid: str, principal: Principal, model: str, tier: str, amounts: Amounts) -> Reservation:
        """Take ``amounts`` from every limit that applies, or from none.

        ``rid`` names the request, and is the token that makes retries harmless. Raises LimitExceeded,
        BudgetExceeded or StoreUnavailable.
        """
        return await self.take(rid, self._rules.resolve(principal, model, tier), amounts)

    def settle_as(self, held: Reservation, principal: Principal, model: str, tier: str, actual: Amounts) -> None:
        """Settle against the limits of ``tier``, where another was reserved for or it is settled. Never raises."""
        limits = self._rules.resolve(principal, model, tier)
        if limits == held.limits and not held.settled:
            held.settle(actual)
            return
        held.settle(Amounts(0))
        used = actual.vector()
        if limits is not None and any(used[:SLOTS]):
            try:
                (held.engine or self.engine).debit(f"{held.rid}:{tier}", limits, used)
            except Exception:
                log.exception("settling %s failed", held.rid)

    def has_capacity(self, deployment: str) -> bool:
        """Whether a bought capacity bounds a deployment, so that ``reserve_capacity`` must be asked."""
        return self._capacities.get(deployment) is not None

    async def reserve_capacity(self, rid: str, deployment: str, amounts: Amounts) -> Reservation:
        """Take from the capacity bought for a deployment; ``rid`` must differ per attempt. Raises LimitExceeded."""
        return await self.take(rid, self._capacities.get(deployment), amounts)

    async def take(self, rid: str, limits: LimitSet | None, amounts: Amounts) -> Reservation:
        """``reserve`` of limits that ``applies`` told."""
        if limits is None:
            return Reservation(rid, amounts, None, None, None)
        engine, need = self.engine, amounts.vector()
        outcome: Granted | Refused | None = None
        with contextlib.suppress(StoreDown):
            if limits.checked != self.changes.number:
                await self.changes.catch_up(engine, limits, self._spent)
            outcome = await engine.reserve(rid, limits, need)
        if outcome is None:
            engine = self._local
            try:
                outcome = await engine.reserve(rid, limits, need)
            except StoreDown as e:
                raise StoreUnavailable("Budgets and limits cannot be enforced at the moment.") from e
        return self._decided(rid, amounts, engine, limits, outcome)

    def _decided(
        self, rid: str, amounts: Amounts, engine: Engine, limits: LimitSet, outcome: Granted | Refused
    ) -> Reservation:
        """The reservation as it was granted, or the refusal; tells of thresholds either way."""
        watched = limits.budgets and self.on_threshold
        if isinstance(outcome, Refused):
            if watched:
                self._watch(limits, outcome)
            raise refusal(outcome)
        if watched and self._thresholds.may_pass(outcome):
            self._watch(limits, outcome)
        return Reservation(rid, amounts, engine, limits, outcome)

    def _watch(self, limits: LimitSet, outcome: Granted | Refused) -> None:
        exhausted = outcome.limit if isinstance(outcome, Refused) and outcome.is_exhausted else None
        for passed in self._thresholds.passed(limits.shard, outcome.states(), exhausted):
            self._tell(passed)

    def _tell(self, passed: Threshold) -> None:
        for callback in self.on_threshold:
            try:
                callback(passed)
            except Exception:
                log.exception("a threshold callback failed")

    def applies(self, principal: Principal, model: str, tier: str) -> LimitSet | None:
        """The limits of a request, or None: for the decision whether a price or a bound is needed at all."""
        return self._rules.resolve(principal, model, tier)

    def limits_of(self, owner: Owner, organization: str) -> LimitSet | None:
        """Every limit of an owner, those per model and per tier included; None when there are none."""
        return self._rules.all_of(owner, organization)

    async def usage(self, owner: Owner, organization: str) -> Sequence[State]:
        """Where every limit of an owner stands, those per model and per tier included. Raises StoreUnavailable."""
        limits = self._rules.all_of(owner, organization)
        if limits is None:
            return ()
        try:
            await self.changes.catch_up(self.engine, limits, self._spent)
            return await self.engine.states(limits)
        except StoreDown as e:
            raise StoreUnavailable("The counters cannot be read at the moment.") from e


def deployment_limits(config: Config) -> dict[str, LimitValues]:
    """Deployment -> the capacity bought for it."""
    return {
        d.name or f"{d.provider}/{d.model}": d.limits for model in config.models.values() for d in model.deployments
    }
