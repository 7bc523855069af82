"""Which deployment of a plan is next, after which pause, and when it is enough."""

import math
import random
from collections.abc import Iterator

from adapters.errors import ErrorKind, ProviderError, UnsupportedParameter
from config.schema import Retries

from .call import Deployment, Plan
from .errors import LIMIT_SCOPE, BudgetExceeded, LimitExceeded
from .fleet import Fleet
from .upstream import DeploymentFull, NotSent

FINAL = frozenset({ErrorKind.INVALID_REQUEST, ErrorKind.CONTEXT_LENGTH, ErrorKind.CONTENT_POLICY, ErrorKind.TOO_LARGE})
"""The request's own fault: another deployment of the same model would say the same."""
SAME_AGAIN = frozenset(
    {ErrorKind.RATE_LIMITED, ErrorKind.OVERLOADED, ErrorKind.SERVER, ErrorKind.CONNECTION, ErrorKind.INCOMPLETE}
)
"""Worth a second attempt on the same deployment when there is no other."""

NO_MONEY = "The gateway's own budget for the deployment of this model has too little left."
"""Not how much: everybody's requests are paid from it."""


class CapacityUsedUp(DeploymentFull):
    """A limit of a deployment's own is used up.

    ``alone``: no other deployment may have room for what the limit could never admit.
    """

    def __init__(self, refusal: LimitExceeded, *, alone: bool) -> None:
        of_money = isinstance(refusal, BudgetExceeded)
        super().__init__(
            ErrorKind.QUOTA if of_money else ErrorKind.RATE_LIMITED,
            NO_MONEY if of_money else refusal.message,
            retry_after=refusal.retry_after,
        )
        self.type = None if of_money else refusal.type
        self.should_retry = refusal.should_retry if alone else None
        self.scope = refusal.extra_headers[LIMIT_SCOPE]
        """Whose limit it was, as clients are told."""


class Walk:
    """One call's way through the deployments of one model.

    Every deployment once, those that are slow or nearly out of their limits last; then, where nothing else would
    serve, once more with a pause. ``left`` attempts at most, where earlier models of the call have used up some.
    ``begun`` is the plan's first deployment where that was well and was tried without a walk. ``denied`` tells that the
    retry budget ended it.
    """

    def __init__(
        self,
        model: str,
        plan: Plan,
        fleet: Fleet,
        retries: Retries,
        *,
        repeat: bool,
        left: int | None = None,
        begun: Deployment | None = None,
    ) -> None:
        self.following: Deployment | None = None
        self.delay = 0.0
        """Seconds to wait before ``following``."""
        self.denied = False
        self._model = model
        self._plan = plan
        self._fleet = fleet
        self._retries = retries
        self._left = retries.attempts if left is None else left
        self._begun = begun
        """Where the call was sent first: its retries are on that one's budget, so that they cannot add up."""
        self._last: Deployment | None = None
        self._asked: dict[str, float | None] = {}
        """Seconds that each deployment that failed has asked for; None: it is not to be tried again."""
        self._made = 0
        self._turns = self._order(retries.per_deployment if repeat else 1)
        if begun is not None:
            self._take(next(self._turns), 0.0)

    def _order(self, turns: int) -> Iterator[Deployment]:
        plan = self._plan
        if len(plan) > 1:
            reluctant = {d.id for d in plan if d is not self._begun and self._fleet[d.id].health.reluctant()}
            if reluctant:
                plan = sorted(plan, key=lambda d: d.id in reluctant)
        return (d for _ in range(turns) for d in plan)

    def first(self) -> Deployment | None:
        """Where to begin; None when nothing can serve now."""
        found = None
        if any(self._fleet[d.id].health.serves for d in self._plan):
            found = self._available()
        elif any(not self._fleet[d.id].health.closed for d in self._plan) and self._fleet.may_probe(
            self._model, (d.id for d in self._plan)
        ):
            found = self._probe()
        if found is not None:
            self._begun = found
            self._fleet[found.id].retries.request()
        return self._take(found, 0.0)

    def goes_on(self, failure: BaseException, patience: float = math.inf) -> bool:
        """Decide what follows a failure, within ``patience`` seconds: sets ``following`` and ``delay``."""
        failed, begun, self.following = self._last, self._begun, None
        if isinstance(failure, UnsupportedParameter | NotSent):
            self._left += 1  # nothing was sent
        if failed is None or begun is None or not self._left or patience <= 0 or not may_try_elsewhere(failure):
            return False
        asked = self._asked[failed.id] = _again_in(failure)
        for deployment in self._turns:
            again = deployment.id == failed.id or self._made >= len(self._plan)
            delay = self._pause(deployment, self._asked.get(deployment.id, asked)) if again else 0.0
            if delay is None or delay >= patience or (not delay and not self._fleet[deployment.id].health.available()):
                continue
            if not self._affordable(failed, begun, deployment, failure):
                self._fleet[deployment.id].health.release()
                self.denied = True
                return False
            self._take(deployment, delay)
            return True
        return False

    def beside(self) -> Deployment | None:
        """Another deployment to ask at the same time, within the retry budget of the one that keeps us waiting."""
        slow = self._begun
        if slow is None or not self._left:
            return None
        found = next((d for d in self._turns if d.id != slow.id and self._fleet[d.id].health.available()), None)
        if found is not None and not self._spend(slow):
            self._fleet[found.id].health.release()
            return None
        return self._take(found, 0.0)

    def _take(self, deployment: Deployment | None, delay: float) -> Deployment | None:
        if deployment is not None:
            self._last, self.following, self.delay = deployment, deployment, delay
            self._left -= 1
            self._made += 1
        return deployment

    def _affordable(self, failed: Deployment, begun: Deployment, following: Deployment, failure: BaseException) -> bool:
        """A deployment that is well may take over as much as it must; else failures may cause so many retries only."""
        if isinstance(failure, UnsupportedParameter | NotSent) and following.id not in self._asked:
            return True  # it takes the turn of one that was not asked
        if self._spend(begun):
            return True
        if following.id == failed.id or not self._fleet[following.id].health.well():
            return False
        self._fleet[begun.id].retries.note()  # counted all the same: others have that much less
        return True

    def _spend(self, begun: Deployment) -> bool:
        """A retry within the budgets of where the call began and of all deployments of the plan together."""
        return self._fleet[begun.id].retries.spend(self._fleet[d.id].retries for d in self._plan)

    def _pause(self, deployment: Deployment, asked: float | None) -> float | None:
        """Before a deployment has its second turn: full jitter, or what it ``asked`` for; None when that is too long."""
        health = self._fleet[deployment.id].health
        if asked is None or not health.closed:
            return None
        asked = max(asked, health.cooling)
        if asked > self._retries.max_retry_after:
            return None
        ceiling = min(self._retries.base_delay * 2.0 ** (self._made - 1), self._retries.max_delay)
        return max(asked, random.uniform(0, ceiling), 1e-4)  # noqa: S311

    def _available(self) -> Deployment | None:
        return next((d for d in self._turns if self._fleet[d.id].health.available()), None)

    def _probe(self) -> Deployment | None:
        by_time = sorted(self._plan, key=lambda d: self._fleet[d.id].health.retry_in)
        return next((d for d in by_time if self._fleet[d.id].health.probe()), None)


def _again_in(failure: BaseException) -> float | None:
    """Seconds after which the same deployment may be tried again; None: that would be in vain."""
    if not isinstance(failure, ProviderError) or isinstance(failure, NotSent) or failure.kind not in SAME_AGAIN:
        return None
    return failure.retry_after or 0.0


def may_try_elsewhere(failure: BaseException) -> bool:
    if isinstance(failure, UnsupportedParameter):
        return True
    return isinstance(failure, ProviderError) and failure.kind not in FINAL
