"""What is known at run time of every deployment: its health, its load, its retry budget. Outlives a configuration."""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Protocol

from config.schema import Health as HealthConfig
from config.schema import Retries

from .health import Health, Known
from .recent import Recent

WEIGHT = 0.2
"""Of one observation in the moving average of latencies."""
STALE = 60.0
"""Seconds after which a latency is no longer believed, so that a deployment that was slow once is tried again."""
SAMPLES = 5
"""Observations below which a latency is not compared."""
PROBE_INTERVAL = 1.0
"""Seconds between two probes of a model none of whose deployments can serve."""

CLASSES = tuple([min(max((bits - 11) // 2, 0), 5) for bits in range(64)])
"""The class of a request by the bits of its size: each holds sizes within a factor of four, from 4 KiB to 1 MiB."""


class RetryBudget:
    """Retries that the failures of one deployment may cause: a share of its requests, or a floor where they are few.

    Both are counted over the same seconds, and the floor is no gift on top of the share: where a share of the requests
    is more than the floor, retries stay within that share.
    """

    def __init__(self, config: Retries, clock: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self._clock = clock
        self._counts = Recent()

    def request(self, now: float | None = None) -> None:
        """A first attempt goes there."""
        self._counts.add(self._clock() if now is None else now, 1, 0)

    def note(self) -> None:
        """A further attempt is made because this deployment failed."""
        self._counts.add(self._clock(), 0, 1)

    def counts(self) -> tuple[int, int, float]:
        """Requests, retries, and the retries that the floor allows, over the same seconds."""
        now = self._clock()
        return *self._counts.totals(now), self.config.budget_floor * self._counts.span(now)

    def spend(self, others: Iterable["RetryBudget"] = ()) -> bool:
        """Take one retry; False when there is none left, here or at this and ``others`` together."""
        mine = self.counts()
        together = [sum(count) for count in zip(mine, *(o.counts() for o in others if o is not self), strict=True)]
        for requests, retries, floor in (mine, together):
            if retries + 1 > max(self.config.budget_percent * requests / 100, floor):
                return False
        self.note()
        return True


class Latency:
    """A moving average, in seconds."""

    __slots__ = ("at", "samples", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self.samples = 0
        self.at = 0.0


class Load:
    """How busy and how fast a deployment is. Latencies are kept by size of the request, streams and others apart."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.in_flight = 0
        """Answers being waited for or relayed."""
        self._clock = clock
        self._latencies: dict[tuple[bool, int], Latency] = {}

    def observe(self, stream: bool, size: int, seconds: float, now: float | None = None) -> None:
        """``seconds`` to the first content of a stream, or to a whole answer."""
        key = (stream, CLASSES[size.bit_length()])
        latency = self._latencies.get(key)
        if latency is None:
            latency = self._latencies[key] = Latency()
        if now is None:
            now = self._clock()
        if now - latency.at > STALE:
            latency.samples = 0
        latency.value = seconds if not latency.samples else latency.value + WEIGHT * (seconds - latency.value)
        latency.samples += 1
        latency.at = now

    def latency(self, stream: bool, size: int, samples: int = 1) -> float | None:
        """The moving average for such requests; None when too little or nothing recent is known."""
        latency = self._latencies.get((stream, CLASSES[size.bit_length()]))
        if latency is None or latency.samples < samples or self._clock() - latency.at > STALE:
            return None
        return latency.value

    def forget(self) -> None:
        self._latencies.clear()


class Member:
    """One deployment."""

    __slots__ = ("health", "load", "retries")

    def __init__(self, health: Health, retries: RetryBudget, load: Load) -> None:
        self.health = health
        self.retries = retries
        self.load = load

    def begin(self, now: float) -> bool:
        """Count a first attempt, if nothing speaks against making one here."""
        if not self.health.ready(now):
            return False
        self.retries.request(now)
        return True

    def answered(self, stream: bool, size: int, seconds: float, now: float) -> None:
        """An attempt was successful: see ``Load.observe``."""
        self.health.succeeded(now)
        self.load.observe(stream, size, seconds, now)


class Others(Protocol):
    """Further workers that know these deployments too: ``gateway.sharing``."""

    def changed(self, deployment: str, *, breaker: bool) -> None: ...
    def may_probe(self, name: str, since: float) -> bool: ...


class Fleet:
    """Members by deployment id."""

    def __init__(
        self,
        health: HealthConfig | None = None,
        retries: Retries | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._health = health or HealthConfig()
        self._retries = retries or Retries()
        self._clock = clock
        self._members: dict[str, Member] = {}
        self._runs: frozenset[str] = frozenset()
        self._probed: dict[str, float] = {}
        self._others: Others | None = None
        self._learnt: dict[str, tuple[Known, bool]] = {}

    def __getitem__(self, deployment: str) -> Member:
        member = self._members.get(deployment)
        if member is None:
            health = Health(
                self._health, self._clock, partial(self._changed, deployment), partial(self._may_probe, deployment)
            )
            if deployment in self._learnt:
                health.learn(self._learnt[deployment][0], breaker=True)
            member = Member(health, RetryBudget(self._retries, self._clock), Load(self._clock))
            self._members[deployment] = member
        return member

    def expect(self, deployments: Iterable[str], leaving: Iterable[str] = ()) -> None:
        """Have members for these, so that what others know of them shows before the first request.

        Of all others those ``leaving`` are kept, as they are: requests may still run there, and what was removed by
        mistake comes back.
        """
        self._runs = frozenset(deployments)
        kept = self._runs.union(leaving)
        self._members = {name: member for name, member in self._members.items() if name in kept}
        now = self._clock()
        self._probed = {model: at for model, at in self._probed.items() if now - at < PROBE_INTERVAL}
        for deployment in self._runs:
            _ = self[deployment]

    def breakers(self) -> dict[str, Health]:
        """The health of every deployment of the configuration that runs."""
        return {name: member.health for name, member in self._members.items() if name in self._runs}

    def healths(self) -> dict[str, Health]:
        """The health of every deployment, of those that leave too."""
        return {name: member.health for name, member in self._members.items()}

    def configure(self, health: HealthConfig, retries: Retries) -> None:
        """Other thresholds from now on; what is known stays."""
        self._health, self._retries = health, retries
        for member in self._members.values():
            member.health.config = health
            member.retries.config = retries

    def share(self, others: Others | None) -> None:
        """Tell others from now on what is learnt, and ask them before a probe."""
        self._others = others

    def learn(self, learnt: Mapping[str, tuple[Known, bool]]) -> None:
        """What other workers know, by deployment, and whether it is news of its breaker."""
        self._learnt = dict(learnt)
        for name, (known, breaker) in learnt.items():
            if name in self._members:
                self._members[name].health.learn(known, breaker=breaker)

    def may_probe(self, model: str, plan: Iterable[str]) -> bool:
        """Whether a model none of whose deployments (``plan``) can serve may be probed: once a second, by all workers."""
        now = self._clock()
        if now - self._probed.get(model, float("-inf")) < PROBE_INTERVAL:
            return False
        if self._others is not None:
            since = max(self[deployment].health.opened_at for deployment in plan)
            if not self._others.may_probe(f"model {model}", since):
                return False
        self._probed[model] = now
        return True

    def _changed(self, deployment: str, breaker: bool) -> None:
        if self._others is not None:
            self._others.changed(deployment, breaker=breaker)

    def _may_probe(self, deployment: str, since: float) -> bool:
        return self._others is None or self._others.may_probe(deployment, since)
