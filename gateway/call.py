"""What is known of one call, stage by stage. Values only; imports no sibling."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final, TypeAlias

from adapters.errors import ErrorKind
from adapters.interface import Adapter, ChatRequest, CredentialSpec, Target
from adapters.usage import NO_USAGE, Usage
from config.schema import Deployment as DeploymentConfig
from config.schema import Limits, PublicModel, TierPolicy, Timeouts


@dataclass(frozen=True, slots=True)
class Owner:
    """A key, user, team or organization, and what it may do."""

    id: str
    limits: Limits = Limits()
    tiers: TierPolicy = TierPolicy()
    models: tuple[str, ...] | None = None
    store: bool = True


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls. ``owners`` runs from the narrowest (the key) to the widest (the organization)."""

    key_id: str
    organization: str
    team: str | None = None
    user: str | None = None
    owners: tuple[Owner, ...] = ()
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    allow_pinning: bool = False
    allow_cheaper: bool = False
    restricted_params: frozenset[str] = frozenset()
    may_store: bool = True
    version: int = 0
    """Changes when anything above does: what is cached per principal is keyed by it."""
    memo: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What follows from all this alone, worked out once."""


@dataclass(init=False, slots=True)
class Call:
    """A validated request."""

    id: Final[str]
    """``req_`` and 32 hex digits, 24 of them random: unguessable, the idempotency token of every settlement."""
    request: Final[ChatRequest]
    size: Final[int]
    """Bytes of the body as received: the true upper bound of its prompt tokens."""
    created: Final[int]
    """Seconds since the epoch: what ``created`` of the answer says where the provider says nothing."""
    model: Final[str]
    """The model as the client named it."""
    stream: Final[bool]
    include_usage: Final[bool]
    obfuscation: Final[bool]
    store: Final[bool]
    traced: Final[bool]
    """Whether the answer is put together again for a trace."""
    n: Final[int]
    operation: Final[Any]
    """How it is prepared and its answer read: an ``answer.Operation``."""

    # Written out, here and below: see ``adapters.values``.
    def __init__(
        self, id: str, request: ChatRequest, size: int, created: int, model: str = "", stream: bool = False,  # noqa: A002
        include_usage: bool = False, obfuscation: bool = True, store: bool = False, traced: bool = False, n: int = 1,
        operation: Any = None,
    ) -> None:  # fmt: skip
        self.id, self.request, self.size, self.created, self.model = id, request, size, created, model
        self.stream, self.include_usage, self.obfuscation = stream, include_usage, obfuscation
        self.store, self.traced, self.n, self.operation = store, traced, n, operation


@dataclass(frozen=True, slots=True)
class Deployment:
    """One way to serve a public model, ready to use. ``id`` is unique in a configuration."""

    id: str
    provider: str
    adapter: Adapter
    target: Target
    config: DeploymentConfig
    timeouts: Timeouts = Timeouts()
    credential: CredentialSpec | None = None
    trusted_tiers: bool = True
    """Whether a service tier may be sent: never to a custom base URL that did not declare it, which would drop it."""
    pool: str | None = None
    """The public model whose queue it is behind, where the gateway makes service tiers for it."""
    takes_priority: bool = False
    """Whether the server schedules by a numeric priority, which the adapter makes of the tier."""
    resumable: bool = False
    """Whether a deployment of its model goes on with plain text that broke off."""
    tier_timeouts: Mapping[str, Timeouts] = field(default_factory=dict)
    """By the tier of an attempt, where they differ from ``timeouts``."""
    memo: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What is worked out from all this once, for every request."""


@dataclass(frozen=True, slots=True)
class Route:
    """A public model as routing sees it."""

    name: str
    config: PublicModel
    deployments: tuple[Deployment, ...]


Plan: TypeAlias = Sequence[Deployment]
"""The deployments to try, best first."""


@dataclass(init=False, slots=True)
class Attempt:
    """One upstream attempt, filled in as it goes: a row of the ledger."""

    number: int
    deployment: str
    provider: str
    model: str
    sent_tier: str | None
    served_tier: str | None
    usage: Usage
    estimated: bool
    """Whether the usage was estimated because the provider reported none."""
    cost: int
    """In nano-dollars."""
    status: str
    """``ok``, an ErrorKind's value, ``client_closed``, ``hedge_lost`` or ``continued``."""
    error: ErrorKind | None
    ttft: float | None
    seconds: float
    fallback: str | None
    """The public model whose limits bear it, where that is not the one the call asked for."""

    def __init__(
        self, number: int, deployment: str, provider: str, model: str, sent_tier: str | None = None,
        served_tier: str | None = None, usage: Usage = NO_USAGE, estimated: bool = False, cost: int = 0,
        status: str = "ok", error: ErrorKind | None = None, ttft: float | None = None, seconds: float = 0.0,
        fallback: str | None = None,
    ) -> None:  # fmt: skip
        self.number, self.deployment, self.provider, self.model = number, deployment, provider, model
        self.sent_tier, self.served_tier, self.usage, self.estimated = sent_tier, served_tier, usage, estimated
        self.cost, self.status, self.error, self.ttft, self.seconds = cost, status, error, ttft, seconds
        self.fallback = fallback


OWN_PHASES = ("auth", "limits", "translate", "upstream", "stream")
"""The gateway's own: what it adds to the provider's time."""


class CallRecord:
    """Everything that happened to one call: what observers read and the ledger keeps."""

    id: str
    model: str
    """The public model that was routed to; empty before that."""
    principal: Principal | None
    status: int
    """The HTTP status the client got; 499 when it left before it got one."""
    attempts: list[Attempt]
    usage: Usage
    began: float
    """By ``time.perf_counter``, as all moments until ``settled``; 0 for what never came."""
    code: str = "ok"
    """``ok`` or the code of the error."""
    operation: str = "chat"
    """``chat`` or ``embeddings``, as OpenTelemetry names them."""
    stream: bool = False
    requested_tier: str | None = None
    effective_tier: str | None = None
    served_tier: str | None = None
    downgrade: str | None = None
    """Why a dearer tier ran as default: ``limit``, ``ramp``, ``capacity`` or ``unsupported``."""
    queued: float | None = None
    """Seconds in the gateway's own queue; None where there is none."""
    dispatched: float = 0.0
    """When its first attempt began, on the dispatcher's clock."""
    until: float = 0.0
    """The moment, on that clock, by which a model that it has left had to answer."""
    shed: bool = False
    """Whether this worker turned it away because it had too much to do."""
    counted: bool = False
    """Whether it counts among the flex requests that this worker has in flight."""
    begun: int = 0
    """Attempts that were begun: the number of the last one."""
    cost: int = 0
    """In nano-dollars: the sum over the attempts."""
    started: float = 0.0
    """Wall clock, seconds since the epoch."""
    seconds: float = 0.0
    ttft: float | None = None
    known: float = 0.0
    """When it was known who calls."""
    read: float = 0.0
    """When the request had been read and checked."""
    reserved: float = 0.0
    """When its limits had been reserved."""
    poured: float = 0.0
    """When the last chunk of a stream but its end had been sent."""
    settled: float = 0.0
    """When its ledger row was durable."""
    waited: float = 0.0
    """Seconds that providers took: up to the first content of a stream, or to the whole answer."""
    reached: float = 0.0
    """Seconds to get to the provider that answered: a place among its connections, connecting, writing the request."""
    dropped: tuple[str, ...] = ()
    full: tuple[str, ...] = ()
    """Deployments that the gateway itself had no room for: nothing was sent there."""
    client_request_id: str | None = None
    """The client's own ``X-Client-Request-Id``: for its support cases, not ours."""
    traceparent: str | None = None
    """The W3C trace context that the client sent."""
    passed_on: str | None = None
    """The W3C trace context that providers are given."""
    content: tuple[Any, Any] | None = None
    """The messages and the completion, where the operator wants them in traces; observers alone see them."""
    client_retries: str | None = None
    """The ``X-Stainless-Retry-Count`` that OpenAI's SDKs send."""
    fallback: str | None = None
    """The public model that served instead, if another one did."""
    retry_denied: bool = False
    """Whether the retry budget forbade a further attempt."""
    spillover: tuple[str, str] | None = None
    """The rung of the capacity ladder that should have served and the one that did, where they differ."""

    def __init__(
        self,
        id: str,  # noqa: A002
        model: str = "",
        principal: Principal | None = None,
        status: int = 0,
        **known: Any,
    ) -> None:
        """``known``: of the other fields; what they are else is the class's until it changes."""
        self.id, self.model, self.principal, self.status = id, model, principal, status
        self.attempts, self.usage, self.began = [], NO_USAGE, perf_counter()
        if known:
            for name, what in known.items():
                if not hasattr(self, name):
                    raise TypeError(f"a CallRecord has no {name!r}")
                setattr(self, name, what)

    def answered(self, waited: float, reached: float) -> None:
        """There is an answer, or the first content of one."""
        self.ttft = perf_counter() - self.began
        attempts = self.attempts
        self.waited = waited if len(attempts) < 2 else waited + sum([a.seconds for a in attempts[:-1]])
        self.reached = reached

    def over(self) -> None:
        self.seconds = perf_counter() - self.began

    @property
    def ran(self) -> bool:
        """Whether it counts as a request, once it is over: not where nothing was sent, or nobody had capacity for it."""
        if self.status < 429:
            return bool(self.attempts)
        return any(attempt.error is not ErrorKind.CAPACITY for attempt in self.attempts)

    def own_phases(self) -> tuple[float, float, float, float, float]:
        """Seconds of each of OWN_PHASES in a call that has an answer."""
        answered = self.began + (self.ttft or 0.0)
        limits = self.reserved - self.read
        stream = 0.0
        if self.settled:
            limits += self.settled - (self.poured or answered)
            if self.code == "ok":
                stream = self.began + self.seconds - self.settled
        waited = self.waited + (self.queued or 0.0) + self.reached
        translate = self.read - self.known + answered - self.reserved - waited
        return self.known - self.began, limits, translate if translate > 0 else 0.0, self.reached, stream

    @property
    def phases(self) -> dict[str, float]:
        """Seconds by phase; empty for a call that has no answer.

        ``auth``, ``limits`` (settling and the ledger included), ``translate`` (checking and routing too), ``upstream``
        (connecting and sending) and ``stream`` (the last bytes) are the gateway's own and add up to what it adds to an
        answer; ``queue`` is its queue; ``provider`` is the provider's time.
        """
        if self.ttft is None:
            return {}
        poured = self.poured - self.began - self.ttft if self.poured else 0.0
        own = dict(zip(OWN_PHASES, self.own_phases(), strict=True))
        return {"provider": self.waited + poured, "queue": self.queued or 0.0, **own}
