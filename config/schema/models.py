"""Options of what is asked: providers, public models and their deployments, with prices, time-outs and fallbacks."""

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr

from .owners import LimitValues, Ramp
from .values import Count, Model, Money, Name, Seconds, ServedTier


class Timeouts(Model):
    """Time-outs towards one upstream."""

    connect: Seconds = Field(5, description="TCP and TLS.")
    first_byte: Seconds = Field(60, description="From the request sent to the first event of a stream.")
    response: Seconds = Field(600, description="From the request sent to the whole answer, when not streamed.")
    request: Seconds = Field(
        600, description="All attempts of one request together, up to the whole answer or a stream's first content."
    )
    idle: Seconds = Field(120, description="Between two events of a stream.")
    progress: Seconds = Field(300, description="A stream that sends nothing but heartbeats for so long is dead.")
    total: Seconds = Field(1800, description="One stream from its first byte to its end.")


class TimeoutOverrides(Model):
    connect: Seconds | None = None
    first_byte: Seconds | None = None
    response: Seconds | None = None
    request: Seconds | None = None
    idle: Seconds | None = None
    progress: Seconds | None = None
    total: Seconds | None = None


class Provider(Model):
    """One upstream account: a dialect, an address and a credential."""

    adapter: Name = Field(description="The dialect: an adapter's name, say `openai`, `anthropic` or `groq`.")
    base_url: str | None = Field(
        None, pattern=r"^https?://[^\s?#]+$", description="Without the operation's path; absent: the provider's own."
    )
    api_key: SecretStr | None = None
    headers: dict[str, SecretStr] = Field({}, description="Extra request headers.")
    options: dict[str, Any] = Field({}, description="Options of the adapter, checked by it at load.")
    timeouts: TimeoutOverrides = TimeoutOverrides()
    max_concurrency: Count = Field(
        256,
        description="Requests in flight to this provider from one worker. Where they are that many, another deployment is "
        "asked, and without one a request waits for a place as long as `timeouts.connect`.",
    )
    allow_plain_http: bool = Field(False, description="Whether http:// may be used to an address other than loopback.")
    allow_private: bool = Field(
        True,
        description="Whether the address may be private or loopback (in-house servers). Metadata services never are.",
    )


class Price(Model):
    """A price of one's own, in US dollars per million tokens."""

    input: Money
    output: Money
    cache_read: Money | None = Field(None, description="Absent: the input price.")
    cache_write: Money | None = Field(None, description="Absent: the input price.")
    cache_write_1h: Money | None = None
    audio_input: Money | None = None
    audio_output: Money | None = None
    reasoning: Money | None = Field(None, description="Absent: the output price.")
    per_call: dict[str, Money] = Field({}, description="US dollars per call of a server-side tool.")
    tiers: dict[ServedTier, Annotated[Decimal, Field(ge=0, le=1000)]] = Field(
        {}, description="Multiplier per service tier."
    )


class Deployment(Model):
    """One way to serve a public model."""

    provider: Name
    model: str = Field(min_length=1, description="The provider's own name for the model.")
    name: Name | None = Field(None, description="Names the deployment in metrics and headers; absent: provider/model.")
    weight: Annotated[int, Field(ge=0, le=1_000_000)] = 1
    order: Annotated[int, Field(ge=0)] = Field(0, description="Priority group: lower ones are tried first.")
    price: Price | None = Field(None, description="Instead of the price list's.")
    priced_as: str | None = Field(None, description="`provider/model` of the price list whose price holds.")
    max_output: Count | None = Field(None, description="The most tokens it can generate; absent: the price list's.")
    max_input: Count | None = None
    tiers: tuple[ServedTier, ...] | None = Field(
        None, description="Service tiers the model has at this provider; absent: what the adapter knows."
    )
    capacity: Literal["provisioned", "priority", "default", "flex"] = Field(
        "default", description="The rung of the capacity ladder: provisioned is filled first."
    )
    continuation: bool = Field(
        False,
        description="Whether it goes on with a plain text stream that broke off, from where it broke off.",
    )
    limits: LimitValues = Field(
        LimitValues(),
        description="The capacity bought from the provider, shared by everybody and by all deployments of this name. "
        "Of a rate a part may come at once: a sixth of the requests, half of the tokens.",
    )
    timeouts: TimeoutOverrides = TimeoutOverrides()


class Params(Model):
    unsupported: Literal["translate", "drop", "reject"] = Field(
        "translate",
        description="translate: hints a provider lacks are dropped and named, what changes the answer is refused; "
        "drop: everything it lacks is dropped and named; reject: everything it lacks is refused.",
    )
    allow: tuple[str, ...] = Field((), description="Extensions passed on unchanged, say `top_k`.")
    default: dict[str, Any] = Field({}, description="Parameters set where the client sent none.")


class Fallbacks(Model):
    """Other public models to try, by what went wrong; `any` is the rest."""

    rate_limited: tuple[Name, ...] = ()
    overloaded: tuple[Name, ...] = ()
    timeout: tuple[Name, ...] = ()
    context_length: tuple[Name, ...] = ()
    content_policy: tuple[Name, ...] = ()
    quota: tuple[Name, ...] = ()
    any: tuple[Name, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is no other model at all."""
        own = self.rate_limited or self.overloaded or self.timeout or self.context_length or self.content_policy
        return not (own or self.quota or self.any)


class Hedging(Model):
    after: Seconds = Field(description="Send a second attempt when the first has not answered by then.")


class Queue(Model):
    """Admission in front of a deployment pool that has no service tiers of its own."""

    capacity: Count = Field(description="Requests in flight at most; adapts downwards on overload.")
    min_capacity: Count = 1
    wait_priority: Seconds = 2
    wait_default: Seconds = 10
    max_queue: Count = Field(1000, description="Requests waiting at most, all tiers together.")


class PublicModel(Model):
    """A model as clients name it."""

    deployments: tuple[Deployment, ...] = Field(min_length=1)
    strategy: Literal["ordered", "weighted", "least_busy", "lowest_latency", "lowest_cost"] = "ordered"
    sticky: bool = Field(False, description="Keep a conversation on one deployment so that provider prompt caches hit.")
    fallbacks: Fallbacks = Fallbacks()
    cheaper: Name | None = Field(None, description="The model that serves instead of a 429, for keys that allow it.")
    params: Params = Params()
    timeouts: TimeoutOverrides = TimeoutOverrides()
    timeouts_per_tier: dict[ServedTier, TimeoutOverrides] = {}
    hedging: Hedging | None = None
    queue: Queue | None = None
    ramp: Ramp | None = Field(
        None, description="How fast everybody's tokens at dear tiers may grow: the rule of the provider's account."
    )
    unpriced: Literal["refuse", "default"] | None = Field(None, description="Overrides `pricing.unpriced`.")
    owned_by: str = "sluice"
    hidden: bool = Field(False, description="Leave it out of GET /v1/models.")
